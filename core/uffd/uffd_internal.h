// SPDX-License-Identifier: Apache-2.0
/*
 * core/uffd/uffd_internal.h: small things that the files of core/uffd share: clock, sets of pages, hash.
 *
 * A page is known by its number in the memory file (offset / page size); all sets are bits by that number.
 */
#ifndef FCVM_UFFD_UFFD_INTERNAL_H
#define FCVM_UFFD_UFFD_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

#define FCU_PAGE ((uint64_t)4096)
#define FCU_HUGE_PAGE ((uint64_t)2 << 20)
/* The unit in which the memory file is known to be in the page cache, and read where it is not. */
#define FCU_BLOCK ((uint64_t)64 << 10)

enum { FCU_PAGE_SHIFT = 12, FCU_HUGE_SHIFT = 21, FCU_WORD = 64 };

/* Monotonic nanoseconds. */
static inline uint64_t fcu_now(void) {
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static inline size_t fcu_words(uint64_t pages) {
	return (size_t)((pages + FCU_WORD - 1) / FCU_WORD);
}

/* An empty set of `pages`; NULL where there is no memory. What is not touched of it costs none. */
static inline uint64_t *fcu_set_new(uint64_t pages) {
	return calloc(fcu_words(pages) + 1, sizeof(uint64_t));
}

static inline bool fcu_has(const uint64_t *set, uint64_t page) {
	return (set[page / FCU_WORD] >> (page % FCU_WORD)) & 1;
}

static inline void fcu_add(uint64_t *set, uint64_t page) {
	set[page / FCU_WORD] |= (uint64_t)1 << (page % FCU_WORD);
}

static inline void fcu_remove(uint64_t *set, uint64_t page) {
	set[page / FCU_WORD] &= ~((uint64_t)1 << (page % FCU_WORD));
}

#define FCU_HASH_SEED UINT64_C(0xcbf29ce484222325)

/* FNV-1a by words of 8 bytes (the rest byte by byte): finds damage and mix-ups, not forgery. */
uint64_t fcu_hash(uint64_t hash, const void *data, size_t size);

/*
 * What tells one memory file from another without reading it all: its size and 64 pages spread evenly over it.
 * Reads at most 256 KiB. 0 or -errno; EIO where the file is shorter than `size`.
 */
int fcu_fingerprint(int fd, uint64_t size, uint64_t *ret_fingerprint);

/* Whether all `size` (1 or more) bytes are zero. */
bool fcu_is_zero(const void *data, size_t size);

/* pread(2) of all `size` bytes; EINTR is retried. 0, or -errno; EIO where the file ends before. */
int fcu_pread_full(int fd, void *data, size_t size, uint64_t offset);

#endif
