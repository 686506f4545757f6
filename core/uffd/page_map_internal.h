// SPDX-License-Identifier: Apache-2.0
/*
 * core/uffd/page_map_internal.h: which pages of a memory file are zero. Made once, when the snapshot is; Firecracker
 * writes full snapshots dense, so the file's holes do not tell.
 *
 * The file: a header of 64 bytes (see page_map.c), then a bit a page of 4 KiB, the lowest first; 1: zero.
 */
#ifndef FCVM_UFFD_PAGE_MAP_INTERNAL_H
#define FCVM_UFFD_PAGE_MAP_INTERNAL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

/* Begins as {0}, which knows no zero page. */
struct fcu_page_map {
	uint64_t *bits; /* by number of the 4 KiB page; NULL: none is known */
	uint64_t pages;
	uint64_t zero; /* how many bits are set */
	uint64_t memory_size;
	uint64_t fingerprint;
};

void fcu_page_map_clear(struct fcu_page_map *map);

/* Reads the file. EBADMSG: damaged. ENOENT and the like; ENOMEM. *ret_map is untouched on failure. */
int fcu_page_map_read(const char *path, struct fcu_page_map *ret_map, struct fc_error *error);

/* Finds the zero pages of `memory` by reading it. ECANCELED where *cancelled became true; EIO: it became shorter. */
int fcu_page_map_scan(int memory, uint64_t size, const atomic_bool *cancelled, struct fcu_page_map *ret_map,
                      struct fc_error *error);

int fcu_page_map_write(const struct fcu_page_map *map, const char *path, struct fc_error *error);

/* Whether the page of 2^shift bytes with the number `page` is known to be zero. */
bool fcu_page_map_zero(const struct fcu_page_map *map, uint64_t page, unsigned int shift);

#endif
