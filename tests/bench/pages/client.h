// SPDX-License-Identifier: Apache-2.0
/*
 * tests/bench/pages/client.h: processes in Firecracker's place.
 *
 * A client does to the page server what Firecracker 1.12 does when it loads a snapshot: anonymous private memory
 * without reserve, a userfaultfd (close-on-exec, non-blocking, EVENT_REMOVE), registered for missing pages, one
 * connection, one message of JSON with the descriptor beside it, and the connection kept. Then it touches the working
 * set as a guest would. With the File backend it maps the snapshot's memory privately instead, as Firecracker does.
 *
 * What it cannot show: KVM's own part of a fault (some microseconds more, on either side of a ratio the same).
 */
#ifndef PAGES_CLIENT_H
#define PAGES_CLIENT_H

#include <sys/types.h>

#include "pages.h"

enum backend { BACKEND_UFFD, BACKEND_FILE };

struct client_plan {
	const struct memory *memory;
	enum backend backend;
	const char *socket;    /* BACKEND_UFFD: connected at the start */
	const char *warm;      /* BACKEND_FILE: a working set to read into the page cache before mapping, or NULL */
	const uint32_t *order; /* pages to touch */
	uint32_t touches;      /* their number */
	bool write;            /* each touch writes one word instead of reading one */
	bool hold;             /* touches begin when the bench says "prefilled", as a resume after the load does */
	bool whole;            /* after the time is taken: touch all other pages too */
	bool early_removals;   /* gives pages back right after the handshake, while a replay is under way */
	bool removals;         /* after the time is taken: give pages back as a balloon does, touch them again */
	int cpu;               /* to run on, or -1 */
	int64_t delay_ns;      /* after the common start */
	bool huge;             /* 2 MiB pages, which must be reserved */
};

/* All in shared memory, written by the client, read by the bench when the client is done. */
struct client_result {
	int64_t start_ns;       /* CLOCK_MONOTONIC; before the connection (or the mapping) */
	int64_t sent_ns;        /* the handshake is sent, or the file mapped */
	int64_t resumed_ns;     /* the first touch begins */
	int64_t done_ns;        /* the last touch is done */
	uint64_t private_bytes; /* anonymous memory that it has on top of what it had before */
	uint32_t checked;       /* pages compared in whole: all that are present, touched or not */
	uint32_t wrong;         /* of these, with a wrong word */
	uint32_t zero;          /* touched pages that are zero in the snapshot */
	uint32_t failed;        /* set where it could not run; then */
	char why[200];
	uint32_t latency_ns[]; /* of each touch, in their order */
};

struct fleet {
	uint32_t count;
	const struct client_plan *plans;
	struct client_result **results;
	pid_t *pids;
	int *resume;        /* write ends, one a client: a byte is the resume */
	int done;           /* read end: a byte a client at the end of its touches, or at its failure */
	int go, check, end; /* write ends whose closing starts all, lets all check, lets all go */
	void *shared;
	size_t shared_bytes;
};

/* Starts `count` clients and waits until each has its memory and its userfaultfd ready. Exits on failure. */
void fleet_start(struct fleet *fleet, const struct client_plan *plans, uint32_t count);

/*
 * Lets them run. `events` is a descriptor that becomes readable when a server has something to tell, then on_event is
 * called (it may call fleet_resume); -1 for none. Returns when all have touched their pages. Exits after `limit`
 * seconds, since nothing that was measured after such a stall would mean anything.
 */
void fleet_run(struct fleet *fleet, int events, void (*on_event)(void *, struct fleet *), void *context, int limit);

/* Resumes a client that holds. */
void fleet_resume(struct fleet *fleet, pid_t pid);

/* Lets them check what they have, waits, and then for their end. Returns the wrong pages. Exits where one failed. */
uint64_t fleet_finish(struct fleet *fleet, const char *what);

void fleet_free(struct fleet *fleet);

int64_t now_ns(void);

#endif
