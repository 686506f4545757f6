// SPDX-License-Identifier: Apache-2.0
/*
 * tests/fuzz/fuzz_uffd_handshake.c: a monitor's first message, which comes from a process that a guest may have taken
 * over. Whatever it says, regions that pass the check lie inside the memory file and beside each other, and both ways
 * of looking them up agree.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "uffd/handshake_internal.h"
#include "uffd/region_internal.h"
#include "uffd/uffd_internal.h"

#define MEMORY ((uint64_t)8 << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct fcu_regions *regions) {
	for (size_t i = 0; i < regions->count; i++) {
		const struct fcu_region *region = &regions->at[i];
		if (region->size == 0 || region->offset + region->size > MEMORY ||
		    region->base + region->size < region->base)
			abort();
		if (fcu_region_at(regions, region->base + region->size - 1) != region)
			abort();
		if (fcu_region_of_page(regions, (region->offset + region->size - 1) >> regions->shift) != region)
			abort();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
	struct fcu_regions regions;
	struct fcu_regions moved;
	/* A buffer of exactly the size, so that the sanitizer sees a byte too many. */
	char *text = malloc(size ? size : 1);
	if (!text)
		abort();
	memcpy(text, data, size);
	if (fcu_handshake_whole(text, size) == 1 && fcu_handshake_parse(text, size, &regions, NULL) == 0 &&
	    fcu_regions_check(&regions, MEMORY, NULL) == 0) {
		check(&regions);
		moved = regions;
		if (fcu_regions_move(&moved, regions.at[0].base, (uint64_t)1 << 40, regions.at[0].size, NULL) == 0)
			check(&moved);
	}
	free(text);
	return 0;
}
