// SPDX-License-Identifier: Apache-2.0
/* core/uffd/handshake.c: what a monitor says first, read with limits and believed only after checks. */
#include <cjson/cJSON.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "uffd/handshake_internal.h"
#include "uffd/uffd_internal.h"

enum { DESCRIPTORS_MAX = 16, DEPTH_MAX = 8 };

static const char OP[] = "handshake";

void fcu_handshake_clear(struct fcu_handshake *handshake) {
	if (handshake->uffd >= 0)
		close(handshake->uffd);
	free(handshake->text);
	*handshake = (struct fcu_handshake){.uffd = -1};
}

bool fcu_is_userfaultfd(int fd) {
	/* The name is that of the kernel's anonymous inode (fs/userfaultfd.c); no other file can have it. */
	static const char name[] = "anon_inode:[userfaultfd]";
	char path[sizeof "/proc/self/fd/" + 3 * sizeof fd];
	char target[sizeof name];
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	ssize_t n = readlink(path, target, sizeof target);
	return n == (ssize_t)sizeof name - 1 && memcmp(target, name, sizeof name - 1) == 0;
}

/* Takes the descriptors of one message: the first is kept where none was yet. Returns how many there were. */
static size_t take_descriptors(struct fcu_handshake *handshake, struct msghdr *message) {
	size_t count = 0;
	for (struct cmsghdr *header = CMSG_FIRSTHDR(message); header; header = CMSG_NXTHDR(message, header)) {
		if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
			continue;
		size_t n = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < n; i++, count++) {
			int fd;
			memcpy(&fd, CMSG_DATA(header) + i * sizeof fd, sizeof fd);
			handshake->depends = handshake->depends || fcu_is_userfaultfd(fd);
			if (count == 0 && handshake->uffd < 0)
				handshake->uffd = fd;
			else
				close(fd);
		}
	}
	return count;
}

static int receive_some(struct fcu_handshake *handshake, int socket, struct fc_error *error) {
	union {
		char buffer[CMSG_SPACE(DESCRIPTORS_MAX * sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec part = {.iov_base = handshake->text + handshake->used,
	                     .iov_len = FCU_HANDSHAKE_BYTES - handshake->used};
	struct msghdr message = {.msg_iov = &part,
	                         .msg_iovlen = 1,
	                         .msg_control = control.buffer,
	                         .msg_controllen = sizeof control.buffer};
	bool had = handshake->uffd >= 0;
	ssize_t n;
	do
		n = recvmsg(socket, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
		return 0;
	if (n < 0)
		return fc_error_set(error, errno, OP, NULL, NULL, NULL);
	size_t count = take_descriptors(handshake, &message);
	if (count + had > 1 || (message.msg_flags & MSG_CTRUNC))
		return fc_error_set(error, EPROTO, OP, NULL, NULL, "more than one descriptor was sent");
	if (n == 0)
		return fc_error_set(error, ECONNRESET, OP, NULL, NULL, "the peer closed the connection after %zu bytes",
		                    handshake->used);
	handshake->used += (size_t)n;
	return 1;
}

int fcu_handshake_whole(const char *text, size_t size) {
	size_t depth = 0;
	bool quoted = false;
	bool ended = false;
	for (size_t i = 0; i < size; i++) {
		char c = text[i];
		bool blank = c == ' ' || c == '\t' || c == '\n' || c == '\r' || (ended && c == '\0');
		if (quoted) {
			if (c == '\\')
				i++;
			else if (c == '"')
				quoted = false;
		} else if (blank) {
			continue;
		} else if (ended || (depth == 0 && c != '[')) {
			return -EPROTO;
		} else if (c == '"') {
			quoted = true;
		} else if (c == '[' || c == '{') {
			if (++depth > DEPTH_MAX)
				return -EPROTO;
		} else if (c == ']' || c == '}') {
			ended = --depth == 0;
		}
	}
	return ended;
}

int fcu_handshake_receive(struct fcu_handshake *handshake, int socket, struct fc_error *error) {
	if (!handshake->text && !(handshake->text = malloc(FCU_HANDSHAKE_BYTES)))
		return fc_error_set(error, ENOMEM, OP, NULL, NULL, NULL);
	int r = receive_some(handshake, socket, error);
	if (r <= 0)
		return r;
	r = fcu_handshake_whole(handshake->text, handshake->used);
	if (r < 0)
		return fc_error_set(error, EPROTO, OP, NULL, NULL, "what came is no JSON array");
	if (r == 0 && handshake->used == FCU_HANDSHAKE_BYTES)
		return fc_error_set(error, EMSGSIZE, OP, NULL, NULL, "longer than %d bytes", FCU_HANDSHAKE_BYTES);
	if (r == 0)
		return 0;
	if (handshake->uffd < 0)
		return fc_error_set(error, EPROTO, OP, NULL, NULL, "no descriptor came with it");
	if (!handshake->depends)
		return fc_error_set(error, EPROTO, OP, NULL, NULL, "the descriptor that came is no userfaultfd");
	return 1;
}

/* Reads a whole number of 0 to 2^53, up to which a double is exact. */
static bool read_number(const cJSON *object, const char *key, uint64_t *ret_value) {
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
	if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0 && item->valuedouble <= 9007199254740992.0))
		return false;
	uint64_t value = (uint64_t)item->valuedouble;
	if ((double)value < item->valuedouble)
		return false;
	*ret_value = value;
	return true;
}

static bool read_page_size(const cJSON *object, uint64_t *ret_size) {
	if (cJSON_HasObjectItem(object, "page_size"))
		return read_number(object, "page_size", ret_size);
	if (!cJSON_HasObjectItem(object, "page_size_kib")) {
		*ret_size = FCU_PAGE;
		return true;
	}
	if (!read_number(object, "page_size_kib", ret_size))
		return false;
	/* Whoever believes the name sends 4 or 2048. */
	if (*ret_size == FCU_PAGE / 1024 || *ret_size == FCU_HUGE_PAGE / 1024)
		*ret_size *= 1024;
	return true;
}

static int read_regions(const cJSON *array, struct fcu_regions *regions, struct fc_error *error) {
	const cJSON *object;
	cJSON_ArrayForEach(object, array) {
		uint64_t page_size;
		if (regions->count == FC_PAGE_REGIONS_MAX)
			return fc_error_set(error, EPROTO, OP, NULL, NULL, "more than %d memory regions",
			                    FC_PAGE_REGIONS_MAX);
		struct fcu_region *region = &regions->at[regions->count];
		if (!cJSON_IsObject(object) || !read_number(object, "base_host_virt_addr", &region->base) ||
		    !read_number(object, "size", &region->size) || !read_number(object, "offset", &region->offset) ||
		    !read_page_size(object, &page_size))
			return fc_error_set(error, EPROTO, OP, NULL, NULL, "memory region %zu is malformed",
			                    regions->count + 1);
		if (regions->count++ > 0 && page_size != regions->page_size)
			return fc_error_set(error, EPROTO, OP, NULL, NULL, "memory regions differ in their page size");
		regions->page_size = page_size;
	}
	return 0;
}

int fcu_handshake_parse(const char *text, size_t size, struct fcu_regions *ret_regions, struct fc_error *error) {
	struct fcu_regions regions = {0};
	cJSON *array = cJSON_ParseWithLength(text, size);
	if (!array || !cJSON_IsArray(array)) {
		cJSON_Delete(array);
		return fc_error_set(error, EPROTO, OP, NULL, NULL, "what came is no JSON array");
	}
	int r = read_regions(array, &regions, error);
	cJSON_Delete(array);
	if (r == 0)
		*ret_regions = regions;
	return r;
}
