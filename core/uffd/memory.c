// SPDX-License-Identifier: Apache-2.0
#include "uffd/memory_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "uffd/uffd_internal.h"

static const char OP[] = "open memory file";

int fcu_reopen(int fd, int flags) {
	char path[sizeof "/proc/self/fd/" + 3 * sizeof fd];
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	int again = open(path, O_RDONLY | O_CLOEXEC | flags);
	return again < 0 ? -errno : again;
}

/* Our own description, so that advice on it is ours; where its rights forbid that, the caller's will do. */
static int own_description(int fd) {
	int again = fcu_reopen(fd, 0);
	if (again < 0) {
		again = fcntl(fd, F_DUPFD_CLOEXEC, 0);
		return again < 0 ? -errno : again;
	}
	/* Demand reads are small and scattered: read what is asked for and nothing ahead. */
	posix_fadvise(again, 0, 0, POSIX_FADV_RANDOM);
	return again;
}

static int map_file(struct fcu_memory *memory) {
	void *map = mmap(NULL, memory->size, PROT_READ, MAP_SHARED, memory->fd, 0);
	if (map == MAP_FAILED)
		return -errno;
	memory->map = map;
	memory->warm = calloc((size_t)(memory->size / FCU_BLOCK) + 1, 1);
	return memory->warm ? fcu_fingerprint(memory->fd, memory->size, &memory->fingerprint) : -ENOMEM;
}

int fcu_memory_open(int fd, struct fcu_memory *memory, struct fc_error *error) {
	struct stat stat;
	if (fstat(fd, &stat) < 0)
		return fc_error_set(error, errno, OP, NULL, NULL, NULL);
	if (!S_ISREG(stat.st_mode))
		return fc_error_set(error, EINVAL, OP, NULL, NULL, "it is no regular file");
	if (stat.st_size <= 0 || (uint64_t)stat.st_size % FCU_PAGE != 0)
		return fc_error_set(error, EINVAL, OP, NULL, NULL, "its size of %lld bytes is not whole pages",
		                    (long long)stat.st_size);
	struct fcu_memory opened = {.fd = own_description(fd), .size = (uint64_t)stat.st_size};
	if (opened.fd < 0)
		return fc_error_set(error, -opened.fd, OP, NULL, NULL, NULL);
	int r = map_file(&opened);
	if (r < 0) {
		fcu_memory_close(&opened);
		return fc_error_set(error, -r, OP, NULL, NULL, NULL);
	}
	*memory = opened;
	return 0;
}

void fcu_memory_close(struct fcu_memory *memory) {
	if (memory->map)
		munmap((void *)(size_t)memory->map, memory->size);
	free((void *)memory->warm);
	if (memory->fd >= 0)
		close(memory->fd);
	*memory = (struct fcu_memory){.fd = -1};
}

static bool block_resident(const struct fcu_memory *memory, uint64_t block) {
	unsigned char vector[FCU_BLOCK / FCU_PAGE];
	uint64_t offset = block * FCU_BLOCK;
	uint64_t size = memory->size - offset < FCU_BLOCK ? memory->size - offset : FCU_BLOCK;
	if (mincore((void *)(size_t)(memory->map + offset), size, vector) < 0)
		return true;
	for (uint64_t i = 0; i < size / FCU_PAGE; i++) {
		if (!(vector[i] & 1))
			return false;
	}
	return true;
}

uint64_t fcu_memory_missing(const struct fcu_memory *memory, uint64_t offset, uint64_t size) {
	uint64_t end = offset + size;
	for (uint64_t block = offset / FCU_BLOCK; block * FCU_BLOCK < end; block++) {
		if (atomic_load_explicit(&memory->warm[block], memory_order_relaxed))
			continue;
		if (!block_resident(memory, block))
			return block * FCU_BLOCK;
		atomic_store_explicit(&memory->warm[block], 1, memory_order_relaxed);
	}
	return end;
}

void fcu_memory_read(const struct fcu_memory *memory, uint64_t offset, uint64_t size) {
	for (uint64_t block = offset / FCU_BLOCK; block * FCU_BLOCK < offset + size; block++)
		atomic_store_explicit(&memory->warm[block], 1, memory_order_relaxed);
}

bool fcu_memory_whole(const struct fcu_memory *memory) {
	struct stat stat;
	return fstat(memory->fd, &stat) == 0 && (uint64_t)stat.st_size == memory->size;
}
