// SPDX-License-Identifier: Apache-2.0
/*
 * core/uffd/around_internal.h: how many neighbours to bring with a faulted page.
 *
 * A neighbour that is touched later saves a fault; one that is not wastes the VM's private memory. Whether a page that
 * we put in place was ever touched cannot be seen from outside, so it is estimated: of some windows one page is left
 * out, as a probe. If it faults later, its neighbours were worth bringing, else not. The share of probes that fault is
 * the density of touches in a window, and with it the memory that is private is held below a ratio of what is
 * (estimated to be) touched.
 */
#ifndef FCVM_UFFD_AROUND_INTERNAL_H
#define FCVM_UFFD_AROUND_INTERNAL_H

#include <stdbool.h>
#include <stdint.h>

enum { FCU_AROUND_PROBES = 16 };

/* Belongs to one VM and one thread. */
struct fcu_around {
	uint32_t most;       /* pages of the largest window, a power of two; 1: no fault-around */
	uint32_t ratio;      /* percent */
	bool after_replay;   /* what faults is what the recording did not have */
	uint64_t touched;    /* pages that faulted */
	uint64_t neighbours; /* pages that were brought without being asked for, zero ones apart */
	uint32_t density;    /* per 1024: probes that faulted, of late */
	uint32_t windows;
	uint32_t random;
	uint64_t probes[FCU_AROUND_PROBES]; /* page + 1; 0: none */
	uint32_t next_probe;
};

void fcu_around_init(struct fcu_around *around, uint32_t most, uint32_t ratio);

/* A page faulted: counts it, and takes note where it was a probe. */
void fcu_around_fault(struct fcu_around *around, uint64_t page);

/*
 * A recording is replayed. What faults beside it are strays: most of what lies around one was not touched by the
 * recorded VM either, else it would be there. They earn their neighbours among themselves: that much was touched by the
 * replay buys them none, and little is given in advance.
 */
void fcu_around_replayed(struct fcu_around *around);

/* How large a window to bring now: a power of two, 1 for the page alone. */
uint32_t fcu_around_window(const struct fcu_around *around);

/*
 * Says which page of the window [first, first + count) to leave out as a probe, or UINT64_MAX. `page`, the faulted one,
 * is never it.
 */
uint64_t fcu_around_probe(struct fcu_around *around, uint64_t first, uint32_t count, uint64_t page);

/* Neighbours were brought. */
void fcu_around_brought(struct fcu_around *around, uint64_t pages);

#endif
