// SPDX-License-Identifier: Apache-2.0
/*
 * tests/bench/pages/pages.h: the memory that is served, and the pages of it that a restored guest touches.
 *
 * Content and working set come from fixed seeds alone, so that every page can be checked without the file, and two runs
 * touch the same pages. Sizes are in pages of 4 KiB unless a name says bytes.
 */
#ifndef PAGES_PAGES_H
#define PAGES_PAGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PAGE_BYTES 4096u
#define PAGE_WORDS (PAGE_BYTES / sizeof(uint64_t))

/* One bijective 64-bit mix (the finalizer of SplitMix64): every random choice here is made of it. */
static inline uint64_t pages_mix(uint64_t x) {
	x += 0x9e3779b97f4a7c15u;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
	return x ^ (x >> 31);
}

/*
 * The guest's memory. With `zero_percent`, runs of 8 pages are all zero, chosen by their number: in a real guest's
 * memory zero pages lie together, since the kernel clears whole blocks.
 */
struct memory {
	char path[512];
	uint32_t pages;
	uint32_t zero_percent;
};

bool memory_is_zero(const struct memory *memory, uint32_t page);

/* The word at `index` (below PAGE_WORDS) of a page as the snapshot has it. */
static inline uint64_t memory_word(const struct memory *memory, uint32_t page, uint32_t index) {
	return memory_is_zero(memory, page) ? 0 : pages_mix(((uint64_t)page << 9) | index);
}

/* Writes the file, synced (only then can its pages be dropped from the cache). Exits on failure. */
void memory_write(const struct memory *memory);

/* Drops the file's pages from the page cache and makes sure by mincore(2) that none is left. Exits where that fails. */
void cache_evict(const char *path);

/* Reads the file once, so that all of it is in the page cache. */
void cache_warm(const char *path);

/*
 * A clustered working set: clusters of consecutive pages, their lengths geometric with mean `mean` and at most 128, at
 * uniformly random places, not touching each other.
 *
 * With the mean of 13 that the bench uses, 7000 pages lie in about 900 aligned blocks of 16, so fetching whole blocks
 * fetches twice what is needed: clustered as a guest's memory is (kernel text, heaps, the page cache of a running
 * program), and far from the best case.
 */
struct workset {
	struct cluster {
		uint32_t first, length;
	} * clusters;
	uint32_t clustered; /* clusters */
	uint32_t pages;     /* in all clusters */
};

/* `pages` of `memory_pages`, at most a third of them. The caller frees with workset_free. */
struct workset workset_make(uint32_t memory_pages, uint32_t pages, uint32_t mean, uint64_t seed);
void workset_free(struct workset *set);

/*
 * The order in which one guest touches the set: clusters in random order, two of them under way at once (a guest's
 * kernel and its program take turns), pages ascending in each. `outside_percent` of the touches go to pages outside of
 * the set, each guest's own. The caller frees; the length is set->pages.
 */
uint32_t *workset_order(const struct workset *set, uint32_t memory_pages, uint32_t outside_percent, uint64_t seed);

/* Prints to stderr and exits 2: the bench cannot be run. With errno's text where errno_text. */
void die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

#endif
