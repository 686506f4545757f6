// SPDX-License-Identifier: Apache-2.0
/*
 * core/uffd/worker_internal.h: a thread of the page server, and what it shares with the others.
 */
#ifndef FCVM_UFFD_WORKER_INTERNAL_H
#define FCVM_UFFD_WORKER_INTERNAL_H

#include <liburing.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "uffd/client_internal.h"
#include "uffd/load_internal.h"
#include "uffd/page_server.h"

enum { FCU_READS = 16 };

/* A read of the memory file in flight. */
struct fcu_read {
	bool busy;
	uint64_t offset;
	uint64_t size;
	uint8_t *buffer; /* kept; what is read is of no interest, the page cache has it then */
	uint64_t room;
};

struct fcu_worker {
	struct fc_page_server *server;
	unsigned int index;
	pthread_t thread;
	bool started;
	int epoll;
	int mail; /* an eventfd: there are new clients, more of a replay, or the end */
	pthread_mutex_t mail_lock;
	struct fcu_client *mail_clients; /* by worker_next */
	atomic_uint load;                /* clients that it has or is about to have */
	atomic_uint bursts;              /* of these, that faulted just now or are being replayed */
	struct fcu_watch watch_listener;
	struct fcu_watch watch_mail;
	struct fcu_watch watch_ring;

	/* From here on its thread alone. */
	struct fcu_client *clients; /* the oldest first, by worker_next */
	struct fcu_load cpus;
	uint64_t counted_at;
	uint64_t served_at; /* when a fault was answered last */
	bool ring_made;
	int ring_event; /* an eventfd: something was read */
	struct io_uring ring;
	struct fcu_read reads[FCU_READS];
	uint64_t spin_until; /* 0: not spinning */
	int spin_credit;     /* how well spinning did of late */
	unsigned int spin_skipped;
	bool served; /* a fault was answered since the last look */
};

struct fc_page_server {
	struct fc_page_server_options options; /* with defaults filled in; its borrowed parts are NULL */
	int listener;
	int event;
	struct fcu_memory memory;
	struct fcu_page_map map;
	atomic_bool stopping;
	atomic_int recording; /* enum fc_page_recording */

	pthread_mutex_t lock; /* of all below, and of every client's error */
	struct fcu_replay *replay;
	struct fcu_client *clients; /* by next, the oldest first */
	struct fcu_client **clients_end;
	uint64_t next_id;
	uint64_t refused;
	struct fc_page_counters gone; /* counted by clients that are no more on the list */
	uint32_t *kept_record;        /* of a client that is no more on the list */
	uint64_t kept_count;
	uint64_t kept_room;
	uint64_t kept_page_size;
	pid_t kept_pid;

	unsigned int worker_count;
	struct fcu_worker workers[FC_PAGE_WORKERS_MAX];
};

/* Makes it ready for fcu_worker_open and fcu_worker_stop. The server outlives it. */
void fcu_worker_init(struct fcu_worker *worker, struct fc_page_server *server, unsigned int index);

/* Makes its descriptors. 0 or -errno. */
int fcu_worker_open(struct fcu_worker *worker);

/* Starts its thread. 0 or -errno. */
int fcu_worker_start(struct fcu_worker *worker);

/* Ends the thread where it was started (server->stopping is true) and frees what it has. */
void fcu_worker_stop(struct fcu_worker *worker);

/* Hands a new client over. */
void fcu_worker_give(struct fcu_worker *worker, struct fcu_client *client);

/* Makes the thread look around. */
void fcu_worker_nudge(struct fcu_worker *worker);

/* For workers: takes connections that are waiting. */
void fcu_server_accept(struct fc_page_server *server);

/* For workers: a reference to what is to be replayed, or NULL. */
struct fcu_replay *fcu_server_replay(struct fc_page_server *server);

/* For workers: whether this client is to be recorded. At most one is. */
bool fcu_server_records(struct fc_page_server *server);

/* For workers: something worth telling happened. */
void fcu_server_tell(struct fc_page_server *server);

#endif
