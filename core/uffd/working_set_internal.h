// SPDX-License-Identifier: Apache-2.0
/*
 * core/uffd/working_set_internal.h: what a VM touches after it was restored, as a file that is quick to replay.
 *
 * The file: a header page, then the pages' contents one after the other in the order of replay, then the table of runs.
 * Contents begin and end at multiples of 4096, so that they can be read past the page cache in large pieces. Zero pages
 * are in the table alone. The order is that of the first touch by stretches of 2 MiB; inside one it is by address,
 * since long runs copy at half the cost a page and a stretch shares the tables that map it.
 */
#ifndef FCVM_UFFD_WORKING_SET_INTERNAL_H
#define FCVM_UFFD_WORKING_SET_INTERNAL_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "uffd/page_map_internal.h"

/* Pages that follow each other in memory, all with contents or all zero. As in the file, but for byte order. */
struct fcu_run {
	uint64_t page; /* the first one's number */
	uint32_t count;
	uint32_t zero; /* 0 or 1 */
};

/* Begins as {0}. */
struct fcu_working_set {
	uint64_t memory_size;
	uint64_t fingerprint;
	uint64_t page_size;
	uint64_t pages;       /* of all runs */
	uint64_t data_size;   /* bytes of contents */
	uint64_t data_offset; /* where they begin in the file */
	size_t run_count;
	struct fcu_run *runs;
};

void fcu_working_set_clear(struct fcu_working_set *set);

/*
 * Reads header and table. `path` is for errors. EBADMSG: damaged or cut short; ENOMEM. Every run is inside the memory
 * file and the contents inside `fd` as it was then.
 */
int fcu_working_set_read(int fd, const char *path, struct fcu_working_set *ret_set, struct fc_error *error);

/* What to write. All is borrowed. */
struct fcu_recording {
	int memory;
	uint64_t memory_size;
	uint64_t fingerprint;
	uint64_t page_size;
	const uint32_t *pages; /* numbers in the order of first touch; one that comes again is passed over */
	size_t count;
};

/*
 * Writes the working set (beside, synced, renamed); *ret_pages: how many are in it. ECANCELED; EIO: the memory file is
 * cut short; ENOSPC and the like.
 */
int fcu_working_set_write(const struct fcu_recording *recording, const char *path, const atomic_bool *cancelled,
                          uint64_t *ret_pages, struct fc_error *error);

#endif
