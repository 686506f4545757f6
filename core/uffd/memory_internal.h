// SPDX-License-Identifier: Apache-2.0
/*
 * core/uffd/memory_internal.h: the snapshot's memory file as the source of pages.
 *
 * It is mapped, and the map is given to UFFDIO_COPY alone: the kernel reads it, so that a file which was cut short
 * gives EFAULT where our own reading would be SIGBUS, and one page cache serves all VMs without a copy in between. What
 * is not in the page cache is read by io_uring first (see worker.c), since a copy would wait for the disk with all
 * other VMs' faults behind it. A cut inside the last page would still read as zeros: hence fcu_memory_whole after each
 * copy.
 */
#ifndef FCVM_UFFD_MEMORY_INTERNAL_H
#define FCVM_UFFD_MEMORY_INTERNAL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

/* Begins as {.fd = -1}. */
struct fcu_memory {
	int fd;
	uint64_t size;         /* whole pages of 4 KiB */
	const uint8_t *map;    /* never read by us */
	_Atomic uint8_t *warm; /* a byte a block of 64 KiB: it was in the page cache once; it may have been evicted
	                          since, which costs time alone */
	uint64_t fingerprint;
};

/* Opens the file behind `fd` (borrowed). EINVAL: no regular file, empty, or not whole pages. */
int fcu_memory_open(int fd, struct fcu_memory *memory, struct fc_error *error);

void fcu_memory_close(struct fcu_memory *memory);

/* The first block at or after `offset` and before offset + size (rounded out) that is not in the page cache; or offset
 * + size. */
uint64_t fcu_memory_missing(const struct fcu_memory *memory, uint64_t offset, uint64_t size);

/* Notes that a range was read. */
void fcu_memory_read(const struct fcu_memory *memory, uint64_t offset, uint64_t size);

/* Whether the file still has its size. */
bool fcu_memory_whole(const struct fcu_memory *memory);

/* A second description of the same file with flags of its own (O_RDONLY | flags), or -errno. */
int fcu_reopen(int fd, int flags);

#endif
