// SPDX-License-Identifier: Apache-2.0
/*
 * core/uffd/region_internal.h: where a VM has its memory: from an address to a place in the memory file and back.
 */
#ifndef FCVM_UFFD_REGION_INTERNAL_H
#define FCVM_UFFD_REGION_INTERNAL_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "uffd/page_server.h"

/* One stretch, all in bytes: `size` bytes at address `base` are those at `offset` of the memory file. */
struct fcu_region {
	uint64_t base;
	uint64_t size;
	uint64_t offset;
};

struct fcu_regions {
	struct fcu_region at[FC_PAGE_REGIONS_MAX];
	size_t count;
	uint64_t page_size; /* 4 KiB or 2 MiB: the same for all */
	unsigned int shift; /* of page_size */
};

/*
 * Whether all that the peer said is possible: known page size, whole pages, inside the memory file of `memory_size`
 * bytes and inside the address space, no two over each other, neither by address nor by offset. Sorts them by address.
 * EPROTO.
 */
int fcu_regions_check(struct fcu_regions *regions, uint64_t memory_size, struct fc_error *error);

/* The region that an address is in, or NULL. */
const struct fcu_region *fcu_region_at(const struct fcu_regions *regions, uint64_t address);

/* The region that has the page with this number, or NULL. */
const struct fcu_region *fcu_region_of_page(const struct fcu_regions *regions, uint64_t page);

/*
 * The VM moved [from, from + size) to `to` (mremap). Regions inside move along. 0, or EPROTO where one would be torn or
 * would lie over another.
 */
int fcu_regions_move(struct fcu_regions *regions, uint64_t from, uint64_t to, uint64_t size, struct fc_error *error);

#endif
