// SPDX-License-Identifier: Apache-2.0
/* core/uffd/region.c: the table of a VM's memory regions. Nothing in it is believed before it was checked. */
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>

#include "uffd/region_internal.h"
#include "uffd/uffd_internal.h"

/* User space ends below 2^57 on x86-64 with five levels, below 2^52 on aarch64; sums stay below 2^63. */
#define ADDRESS_END ((uint64_t)1 << 57)

static int by_base(const void *one, const void *other) {
	const struct fcu_region *a = one;
	const struct fcu_region *b = other;
	return (a->base > b->base) - (a->base < b->base);
}

static int check_one(const struct fcu_region *region, uint64_t page_size, uint64_t memory_size,
                     struct fc_error *error) {
	static const char op[] = "check memory region";
	if (region->size == 0 || (region->base | region->size | region->offset) % page_size != 0)
		return fc_error_set(error, EPROTO, op, NULL, NULL,
		                    "%" PRIu64 " bytes at %#" PRIx64 ", offset %" PRIu64
		                    ": not whole pages of %" PRIu64,
		                    region->size, region->base, region->offset, page_size);
	if (region->base >= ADDRESS_END || region->size > ADDRESS_END - region->base)
		return fc_error_set(error, EPROTO, op, NULL, NULL,
		                    "%" PRIu64 " bytes at %#" PRIx64 ": outside any address space", region->size,
		                    region->base);
	if (region->offset > memory_size || region->size > memory_size - region->offset)
		return fc_error_set(error, EPROTO, op, NULL,
		                    "the VM was restored from another snapshot, or its memory file is cut short",
		                    "%" PRIu64 " bytes at offset %" PRIu64 ": the memory file has %" PRIu64,
		                    region->size, region->offset, memory_size);
	return 0;
}

static bool overlap(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size) {
	return a < b + b_size && b < a + a_size;
}

static int check_overlap(const struct fcu_regions *regions, struct fc_error *error) {
	for (size_t i = 0; i < regions->count; i++) {
		for (size_t k = i + 1; k < regions->count; k++) {
			const struct fcu_region *a = &regions->at[i];
			const struct fcu_region *b = &regions->at[k];
			if (overlap(a->base, a->size, b->base, b->size) ||
			    overlap(a->offset, a->size, b->offset, b->size))
				return fc_error_set(error, EPROTO, "check memory region", NULL, NULL,
				                    "those at %#" PRIx64 " and %#" PRIx64 " overlap", a->base, b->base);
		}
	}
	return 0;
}

int fcu_regions_check(struct fcu_regions *regions, uint64_t memory_size, struct fc_error *error) {
	if (regions->count == 0)
		return fc_error_set(error, EPROTO, "check memory region", NULL, NULL, "there is none");
	if (regions->page_size != FCU_PAGE && regions->page_size != FCU_HUGE_PAGE)
		return fc_error_set(error, EPROTO, "check memory region", NULL, NULL,
		                    "pages of %" PRIu64 " bytes: neither 4096 nor 2097152", regions->page_size);
	regions->shift = regions->page_size == FCU_PAGE ? FCU_PAGE_SHIFT : FCU_HUGE_SHIFT;
	for (size_t i = 0; i < regions->count; i++) {
		int r = check_one(&regions->at[i], regions->page_size, memory_size, error);
		if (r < 0)
			return r;
	}
	qsort(regions->at, regions->count, sizeof regions->at[0], by_base);
	return check_overlap(regions, error);
}

const struct fcu_region *fcu_region_at(const struct fcu_regions *regions, uint64_t address) {
	for (size_t i = 0; i < regions->count; i++) {
		/* Below the base the difference wraps to more than any size. */
		if (address - regions->at[i].base < regions->at[i].size)
			return &regions->at[i];
	}
	return NULL;
}

const struct fcu_region *fcu_region_of_page(const struct fcu_regions *regions, uint64_t page) {
	uint64_t offset = page << regions->shift;
	for (size_t i = 0; i < regions->count; i++) {
		if (offset - regions->at[i].offset < regions->at[i].size)
			return &regions->at[i];
	}
	return NULL;
}

int fcu_regions_move(struct fcu_regions *regions, uint64_t from, uint64_t to, uint64_t size, struct fc_error *error) {
	struct fcu_regions moved = *regions;
	for (size_t i = 0; i < moved.count; i++) {
		struct fcu_region *region = &moved.at[i];
		if (!overlap(region->base, region->size, from, size))
			continue;
		if (region->base < from || region->base + region->size > from + size)
			return fc_error_set(error, EPROTO, "move memory region", NULL, NULL, "the VM tore it apart");
		region->base = to + (region->base - from);
	}
	qsort(moved.at, moved.count, sizeof moved.at[0], by_base);
	int r = check_overlap(&moved, error);
	if (r == 0)
		*regions = moved;
	return r;
}
