// SPDX-License-Identifier: Apache-2.0
/*
 * core/uffd/replay_internal.h: the contents of a working set, once in memory for all VMs that are filled from it.
 *
 * Where the file is in the page cache, it is mapped, and the map is what VMs are filled from. Where it is not, a thread
 * reads it past the page cache (O_DIRECT, io_uring, pieces of 1 MiB, 8 in flight) into a buffer; VMs are filled as far
 * as it has come. Which it is, is found out when the first VM wants it. As with the memory file, the kernel alone reads
 * the map.
 */
#ifndef FCVM_UFFD_REPLAY_INTERNAL_H
#define FCVM_UFFD_REPLAY_INTERNAL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "uffd/memory_internal.h"
#include "uffd/working_set_internal.h"

struct fcu_replay;

/* Called from the loading thread when there is more, or when it failed. */
typedef void fcu_replay_more(void *context);

/*
 * Opens a working set of `memory`. EBADMSG, ENOENT and the like; ESTALE: of another memory file. The caller holds a
 * reference.
 */
int fcu_replay_open(const char *path, const struct fcu_memory *memory, fcu_replay_more *more, void *context,
                    struct fcu_replay **ret_replay, struct fc_error *error);

struct fcu_replay *fcu_replay_ref(struct fcu_replay *replay);

/* The last one ends the loading thread. NULL is fine. */
void fcu_replay_unref(struct fcu_replay *replay);

const struct fcu_working_set *fcu_replay_set(const struct fcu_replay *replay);

/*
 * Where the contents are in the page cache now, maps them and makes the map's page tables on a thread, so that the
 * first VM need not wait for that. Reads nothing. Returns at once. Any thread.
 */
void fcu_replay_prepare(struct fcu_replay *replay);

/* Sees to it that the contents come. Returns at once. Any thread. */
void fcu_replay_begin(struct fcu_replay *replay);

/* Bytes of contents that are there, from their beginning; UINT64_MAX: they will not come (any further). */
uint64_t fcu_replay_ready(const struct fcu_replay *replay);

/* Part of a recording: pages that follow each other, and where their contents are (for fcu_replay_data). */
struct fcu_place {
	uint64_t page;
	uint64_t count;
	bool zero;
	uint64_t data_at;
};

/* The run that has this page, or NULL. Belongs to the replay. Any thread. */
const struct fcu_place *fcu_replay_find(const struct fcu_replay *replay, uint64_t page);

/* The contents from byte `at` on; only for what is ready, and only for the kernel to read. */
const uint8_t *fcu_replay_data(const struct fcu_replay *replay, uint64_t at);

/* Whether what is mapped still has its size; true where it is a buffer. */
bool fcu_replay_whole(const struct fcu_replay *replay);

#endif
