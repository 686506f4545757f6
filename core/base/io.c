// SPDX-License-Identifier: Apache-2.0
#include "base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"

enum { GROW_FIRST = 4096, FDS_MAX = 16 };

ssize_t fc_io_read_full(int fd, void *buffer, size_t size) {
	size_t done = 0;
	while (done < size) {
		ssize_t n = read(fd, (char *)buffer + done, size - done);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		done += (size_t)n;
	}
	return (ssize_t)done;
}

int fc_io_write_full(int fd, const void *buffer, size_t size) {
	size_t done = 0;
	while (done < size) {
		ssize_t n = write(fd, (const char *)buffer + done, size - done);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		done += (size_t)n;
	}
	return 0;
}

/* Files of /proc have no size, so the buffer grows as they are read. */
static ssize_t read_growing(int fd, size_t max, char **ret_data) {
	_cleanup_free_ char *data = NULL;
	size_t room = 0;
	size_t used = 0;
	for (;;) {
		room = room ? room * 2 : GROW_FIRST;
		if (room > max + 1)
			room = max + 1;
		char *grown = realloc(data, room + 1);
		if (!grown)
			return -ENOMEM;
		data = grown;
		ssize_t n = fc_io_read_full(fd, data + used, room - used);
		if (n < 0)
			return n;
		used += (size_t)n;
		if (used > max)
			return -EFBIG;
		if (used < room)
			break;
	}
	data[used] = '\0';
	*ret_data = fc_steal_ptr(data);
	return (ssize_t)used;
}

int fc_io_read_file(const char *path, size_t max, char **ret_data, size_t *ret_size, struct fc_error *error) {
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return fc_error_set(error, errno, "open", path, NULL, NULL);
	ssize_t n = read_growing(fd, max, ret_data);
	if (n == -EFBIG)
		return fc_error_set(error, EFBIG, "read", path, NULL, "longer than %zu bytes", max);
	if (n < 0)
		return fc_error_set(error, (int)-n, "read", path, NULL, NULL);
	*ret_size = (size_t)n;
	return 0;
}

int fc_io_write_file(const char *path, const char *text, struct fc_error *error) {
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return fc_error_set(error, errno, "open", path, NULL, NULL);
	int r = fc_io_write_full(fd, text, strlen(text));
	if (r < 0)
		return fc_error_set(error, -r, "write", path, NULL, NULL);
	return 0;
}

int fc_io_send_fds(int socket, const void *data, size_t size, const int *fds, size_t count) {
	union {
		char buffer[CMSG_SPACE(FDS_MAX * sizeof(int))];
		struct cmsghdr align;
	} control = {.buffer = {0}};
	struct iovec part = {.iov_base = (void *)(size_t)data, .iov_len = size};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
	if (count > FDS_MAX)
		return -EINVAL;
	if (count > 0) {
		message.msg_control = control.buffer;
		message.msg_controllen = CMSG_SPACE(count * sizeof *fds);
		struct cmsghdr *header = CMSG_FIRSTHDR(&message);
		header->cmsg_level = SOL_SOCKET;
		header->cmsg_type = SCM_RIGHTS;
		header->cmsg_len = CMSG_LEN(count * sizeof *fds);
		memcpy(CMSG_DATA(header), fds, count * sizeof *fds);
	}
	ssize_t n;
	do
		n = sendmsg(socket, &message, MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	if ((size_t)n < size)
		return fc_io_write_full(socket, (const char *)data + n, size - (size_t)n);
	return 0;
}

int fc_io_send_fd(int socket, const void *data, size_t size, int fd) {
	return fc_io_send_fds(socket, data, size, &fd, 1);
}

/* Collects the descriptors of one message. Returns how many there were; those beyond `room` are closed. */
static size_t take_fds(struct msghdr *message, int *fds, size_t room) {
	size_t count = 0;
	for (struct cmsghdr *header = CMSG_FIRSTHDR(message); header; header = CMSG_NXTHDR(message, header)) {
		if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
			continue;
		size_t n = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < n; i++, count++) {
			int fd;
			memcpy(&fd, CMSG_DATA(header) + i * sizeof fd, sizeof fd);
			if (count < room)
				fds[count] = fd;
			else
				close(fd);
		}
	}
	return count;
}

ssize_t fc_io_recv_fds(int socket, void *data, size_t size, int *fds, size_t room, size_t *ret_count) {
	union {
		char buffer[CMSG_SPACE(FDS_MAX * sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec part = {.iov_base = data, .iov_len = size};
	struct msghdr message = {.msg_iov = &part,
	                         .msg_iovlen = 1,
	                         .msg_control = control.buffer,
	                         .msg_controllen = sizeof control.buffer};
	ssize_t n;
	do
		n = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	size_t count = take_fds(&message, fds, room);
	if (count > room || (message.msg_flags & (MSG_CTRUNC | MSG_TRUNC))) {
		for (size_t i = 0; i < count && i < room; i++)
			close(fds[i]);
		return -EPROTO;
	}
	*ret_count = count;
	return n;
}

ssize_t fc_io_recv_fd(int socket, void *data, size_t size, int *ret_fd) {
	int fd = -1;
	size_t count;
	ssize_t n = fc_io_recv_fds(socket, data, size, &fd, 1, &count);
	if (n >= 0)
		*ret_fd = count > 0 ? fd : -1;
	return n;
}
