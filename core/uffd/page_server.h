// SPDX-License-Identifier: Apache-2.0
/*
 * core/uffd/page_server.h: one server of guest memory for many VMs that were restored from one snapshot.
 *
 * Each VM's monitor (Firecracker with a "Uffd" memory backend, or anything that does as it does) connects to a Unix
 * socket, sends a JSON array of its memory regions with its userfaultfd beside it, and from then on the server answers
 * its page faults from the snapshot's memory file. How it works is told at the top of page_server.c; the knobs and what
 * was measured stand in docs/page-server.md.
 *
 * A server has threads of its own; none of them ever calls back. Every function here may be called from any thread,
 * by one thread at a time, and none waits for a client but fc_page_server_free. Sizes are bytes, times nanoseconds
 * where the name has no unit.
 */
#ifndef FCVM_UFFD_PAGE_SERVER_H
#define FCVM_UFFD_PAGE_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"
#include "uffd/job.h"

/* How to serve. All is borrowed until fc_page_server_start returns; zero is each knob's default. */
struct fc_page_server_options {
	int listener;            /* a listening Unix stream socket; duplicated */
	int memory;              /* the snapshot's memory file, open for reading; duplicated */
	const char *page_map;    /* the map of its zero pages (fc_job_index), or NULL: no page is known to be zero */
	const char *working_set; /* a recording to replay into every VM before it runs, or NULL */
	bool record;             /* record what the first VM touches; it is then served page by page, without fault-around */
	bool preload;            /* read the working set now and not with the first VM */
	unsigned int workers;    /* threads; by default one a CPU that this process may use, at most FC_PAGE_WORKERS_MAX */
	unsigned int around;     /* pages brought with a faulted one, a power of two; default 16; 1: none */
	unsigned int ratio_percent; /* private memory is at most this share of the (estimated) touched; default 220 */
	unsigned int spin_us;       /* longest wait without sleeping during a burst; default 50 */
	bool no_spin;               /* never */
	unsigned int handshake_ms;  /* limit of a handshake; default 5000 */
	unsigned int clients_max;   /* VMs at once; default FC_PAGE_CLIENTS_MAX, which is the most */
	unsigned int kill_ms;       /* how long fc_page_server_free waits for the death of those that it kills; default 10000 */
	unsigned int quiet_ms;      /* a recording has settled when its VM has not faulted for so long; default 1000 */
};

enum { FC_PAGE_WORKERS_MAX = 64, FC_PAGE_CLIENTS_MAX = 4096, FC_PAGE_REGIONS_MAX = 64 };

struct fc_page_server;

enum fc_page_client_state {
	FC_PAGE_HANDSHAKE, /* connected; nothing valid has been said yet */
	FC_PAGE_PREFILL,   /* the working set is being replayed; faults are answered */
	FC_PAGE_SERVING,   /* faults are answered */
	FC_PAGE_ENDED,     /* its process has ended */
	FC_PAGE_FAILED     /* it was refused, or could not be served and was killed: see error */
};

/* What is counted. Pages are the VM's own (4 KiB or 2 MiB). */
struct fc_page_counters {
	uint64_t faults;   /* fault events that were answered */
	uint64_t replayed; /* pages that came from the recording, zero ones included */
	uint64_t around;   /* neighbours that came with a faulted page */
	uint64_t zero;     /* pages given as zero, by whatever way */
	uint64_t bytes;    /* bytes copied: what is private to the VM by our doing */
	uint64_t removed;  /* pages that the VM gave back (balloon) */
};

/* A copy of what is known of one VM. */
struct fc_page_client {
	uint64_t id; /* counts up from 1 in the order of connection */
	pid_t pid;
	uid_t uid;
	enum fc_page_client_state state;
	bool recording;
	struct fc_page_counters counters;
	/* Time from reading a fault's event to its page being in place, without what the kernel needs before and after. */
	uint64_t p50_ns;
	uint64_t p99_ns;
	uint64_t prefill_ns; /* from the handshake's end to the replay's end; 0 until then or without a replay */
	uint64_t recorded;   /* pages in its recording so far */
	struct fc_error error; /* err is 0 where there was none */
};

enum fc_page_recording {
	FC_PAGE_RECORDING_NONE,    /* not asked for, or no VM has come yet */
	FC_PAGE_RECORDING_RUNNING, /* a VM is being recorded */
	FC_PAGE_RECORDING_SETTLED  /* it has been quiet, or has ended: a good moment for fc_page_server_recording */
};

struct fc_page_server_stats {
	struct fc_page_counters counters; /* of all VMs that ever were */
	size_t clients;                   /* that fc_page_server_clients would tell */
	size_t living;                    /* of these, not ended or failed */
	enum fc_page_recording recording;
	uint64_t refused; /* connections that were closed for want of room, before anything was known of them */
};

/*
 * Starts serving. The caller frees *ret_server.
 * EINVAL: a knob out of range, no listening Unix stream socket, no regular file, an empty one. EBADMSG: the page map or working set
 * is damaged. ESTALE: it belongs to another memory file. ENOENT and the like of open(2); ENOMEM, EMFILE, EAGAIN.
 * io_uring is used where it is there and done without where it is not.
 */
int fc_page_server_start(const struct fc_page_server_options *options, struct fc_page_server **ret_server,
                         struct fc_error *error);

/*
 * Kills what is still alive of the VMs (SIGKILL by pidfd), waits for their deaths (kill_ms at most), then closes their
 * userfaultfds and ends the threads: a userfaultfd that is closed first would feed a living VM zero pages. The memory
 * that was recorded is lost unless it was written. NULL is fine.
 */
void fc_page_server_free(struct fc_page_server *server);

/*
 * An eventfd (borrowed) that becomes readable with every change worth telling: a VM joined, its prefill finished, it ended or
 * failed, a recording settled. The caller reads its 8 bytes, then asks.
 */
int fc_page_server_fileno(const struct fc_page_server *server);

struct fc_page_server_stats fc_page_server_stats(struct fc_page_server *server);

/* Copies what is known of up to `room` VMs, the oldest first. Returns how many there are (maybe more than room). */
size_t fc_page_server_clients(struct fc_page_server *server, struct fc_page_client *clients, size_t room);

/*
 * Takes up to `room` VMs that ended or failed off the list and copies them. Returns how many. Those that nobody takes
 * are kept, the newest 1024.
 */
size_t fc_page_server_reap(struct fc_page_server *server, struct fc_page_client *clients, size_t room);

/*
 * Begins to write what was recorded so far to `path` (beside, synced, renamed): a working set to replay. `pid` 0: the one that was recorded
 * first. The job's result is the number of pages; it does not depend on the server any more.
 * ENODATA: nothing was recorded (of that process).
 */
int fc_page_server_recording(struct fc_page_server *server, const char *path, pid_t pid, struct fc_job **ret_job,
                             struct fc_error *error);

/* Replays the working set at `path` into every VM that comes from now on. Errors as of fc_page_server_start. */
int fc_page_server_replay(struct fc_page_server *server, const char *path, struct fc_error *error);

/*
 * Binds and listens at `path`, with exactly `mode` for the socket's file. One that a dead process left is replaced.
 * Returns the descriptor (close-on-exec, the caller closes it and removes the file) or -errno. EADDRINUSE: someone
 * listens there, or it is no socket. ENAMETOOLONG: over 107 bytes.
 */
int fc_page_listen(const char *path, mode_t mode, struct fc_error *error);

#endif
