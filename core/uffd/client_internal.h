// SPDX-License-Identifier: Apache-2.0
/*
 * core/uffd/client_internal.h: one VM as the server sees it.
 *
 * A client belongs to one worker, whose thread alone changes it; others read its atomics (a copy of counters is what
 * they want) and, under the server's lock, its error. The worker has let go of it when `finished` is true; then it may
 * be freed by whoever takes it off the server's list.
 */
#ifndef FCVM_UFFD_CLIENT_INTERNAL_H
#define FCVM_UFFD_CLIENT_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"
#include "uffd/around_internal.h"
#include "uffd/handshake_internal.h"
#include "uffd/memory_internal.h"
#include "uffd/page_map_internal.h"
#include "uffd/page_server.h"
#include "uffd/region_internal.h"
#include "uffd/replay_internal.h"

enum { FCU_PARKED_MAX = 512, FCU_BUCKETS = 256 };

/* What an epoll event is about. */
enum fcu_watch_kind {
	FCU_WATCH_LISTENER,
	FCU_WATCH_MAIL,
	FCU_WATCH_RING,
	FCU_WATCH_SOCKET,
	FCU_WATCH_UFFD,
	FCU_WATCH_PIDFD
};

struct fcu_watch {
	enum fcu_watch_kind kind;
	struct fcu_client *client;
};

/* Counters with one writer; readers see each whole, not all of one moment. */
struct fcu_counters {
	_Atomic uint64_t faults;
	_Atomic uint64_t replayed;
	_Atomic uint64_t around;
	_Atomic uint64_t zero;
	_Atomic uint64_t bytes;
	_Atomic uint64_t removed;
};

/* A fault that could not be answered at once. */
struct fcu_parked {
	uint64_t page;
	uint64_t since; /* when it was read */
};

struct fcu_client {
	struct fcu_client *next;        /* in the server's list */
	struct fcu_client *worker_next; /* in its worker's list */
	uint64_t id;
	pid_t pid;
	uid_t uid;
	int socket; /* -1: closed */
	int pidfd;
	int uffd; /* -1 before the handshake's end */
	struct fcu_watch watch_socket;
	struct fcu_watch watch_uffd;
	struct fcu_watch watch_pidfd;
	struct fcu_handshake handshake;
	uint64_t deadline; /* of the handshake */
	bool refused;      /* there is no room for it: to be said, and the peer killed, once it has spoken */
	bool ended;        /* nothing more to do for it; its worker finishes it at the end of the round */

	const struct fcu_memory *memory;
	const struct fcu_page_map *map;
	struct fcu_regions regions;
	uint64_t *present; /* pages that we put in place, or that were there when we tried */
	uint64_t *removed; /* pages that the VM gave back: zero from then on */
	bool same_cpu;     /* it may run where we run and nowhere else */
	struct fcu_around around;
	struct fcu_parked parked[FCU_PARKED_MAX];
	size_t parked_count;
	uint64_t starved_since; /* when a copy first failed for want of memory; 0: it did not */

	struct fcu_replay *replay; /* held while it is being replayed */
	size_t run;                /* where the replay is: the run, */
	uint32_t run_done;         /* pages of it, */
	uint64_t data_done;        /* and bytes of contents before it */
	uint64_t joined;           /* when the handshake ended */

	uint32_t *record; /* page numbers in the order of first touch; written before `recorded` says so */
	uint64_t record_room;
	_Atomic uint64_t recorded;
	_Atomic bool recording;
	_Atomic uint64_t last_fault;
	bool told_settled;

	_Atomic int state; /* enum fc_page_client_state */
	atomic_bool finished;
	struct fcu_counters counters;
	_Atomic uint64_t prefill_ns;
	_Atomic uint32_t buckets[FCU_BUCKETS]; /* latencies, four to an octave of nanoseconds */
	pthread_mutex_t *error_lock;           /* borrowed: the server's */
	struct fc_error error;
};

/*
 * A new client for a connection (taken, also on failure). Finds out who the peer is and opens its pidfd. ESRCH: it is
 * gone already.
 */
int fcu_client_new(int socket, struct fcu_client **ret_client, struct fc_error *error);

/* What the worker's end with it does: descriptors and sets go, counters and recording stay. */
void fcu_client_shut(struct fcu_client *client);

/* Frees it all. NULL is fine. */
void fcu_client_free(struct fcu_client *client);

/* The handshake is whole: takes its userfaultfd, checks regions, makes the sets. EPROTO, ENOMEM. */
int fcu_client_join(struct fcu_client *client, const struct fcu_memory *memory, const struct fcu_page_map *map,
                    struct fc_error *error);

/* Begins to record what it touches. ENOMEM. */
int fcu_client_record(struct fcu_client *client);

/* A page came into the VM for the first time. */
void fcu_client_touched(struct fcu_client *client, uint64_t page);

/* Remembers why it failed; the first reason stays. */
void fcu_client_blame(struct fcu_client *client, const struct fc_error *error);

/* SIGKILL by pidfd. */
void fcu_client_kill(struct fcu_client *client);

/* A copy for the caller of the server. The server's lock is held. */
void fcu_client_describe(struct fcu_client *client, struct fc_page_client *ret_client);

/* Adds its counters to a sum. */
void fcu_client_sum(struct fcu_client *client, struct fc_page_counters *sum);

/* Notes a latency. */
void fcu_client_latency(struct fcu_client *client, uint64_t ns);

/* A counter's owner adds to it: no other thread writes it, so that no locked instruction is needed. */
static inline void fcu_count(_Atomic uint64_t *counter, uint64_t more) {
	uint64_t value = atomic_load_explicit(counter, memory_order_relaxed);
	atomic_store_explicit(counter, value + more, memory_order_relaxed);
}

#endif
