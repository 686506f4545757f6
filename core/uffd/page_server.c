// SPDX-License-Identifier: Apache-2.0
/*
 * core/uffd/page_server.c: starting and ending a server, its list of VMs, and what is told of them.
 *
 * Theory of operation
 *
 * A VM that is restored has empty memory with a userfaultfd on it. Its first touch of each page stops the thread that
 * touched it, until somebody puts the page there. One server does that for all VMs of a snapshot:
 *
 *   monitor ── connect ──> listener          page_server.c: identify the peer (pidfd), choose a worker
 *           ── JSON + userfaultfd ──>        handshake.c, region.c: read with limits, believe after checks
 *           <── the working set ──           fault.c, replay.c: before the VM runs, as fast as copies go
 *           ── fault ──>                     worker.c reads it; fault.c answers from memory.c or with zeros
 *           ── removal (balloon) ──>         fault.c: zero from then on
 *           ── its process ends ──>          worker.c: the pidfd says so; only now its userfaultfd is closed
 *
 * States of a client, changed by its worker alone:
 *   HANDSHAKE  connected. Nothing it says is believed; it ends by deadline, size, or a wrong word. A peer that has
 *              handed over no userfaultfd does not depend on us and is only disconnected.
 *   PREFILL    its recording is being replayed. Faults are answered between slices, before anything else.
 *   SERVING    faults are answered; neighbours come along as far as the memory budget goes (around.c).
 *   FAILED     it cannot be served. It was sent SIGKILL; its userfaultfd stays open until its pidfd is readable.
 *   ENDED      its process has ended.
 * A client must never be left waiting for a page that will not come, and never be given a page that is not its own:
 * each error that is not known to be harmless kills it.
 *
 * Threads. One worker a CPU, each with VMs of its own, so that a VM's sets of pages have one writer and a removal and a
 * copy for one VM never race in two threads. A worker goes on with one replay at a time, the oldest VM's, in slices of
 * about 30 us: first in, first out keeps the median VM quick and no fault waits for longer than a slice. What a thread
 * may wait for is a copy by the kernel and nothing else: reads of the memory file that is not cached go through
 * io_uring, the recording's through a thread of its own. No thread calls back: whoever owns the server polls an eventfd
 * and copies counters.
 *
 * A burst of faults is awaited without sleeping (a wake-up costs more than the answer), for at most spin_us, over all
 * VMs of the worker at once, only while the machine has a CPU to spare, and only as long as it pays (worker.c, spins).
 *
 * The end: fc_page_server_free kills what lives, waits for the deaths, and only then closes userfaultfds. Closed
 * before, they would give zero pages to a VM that still runs. Whoever waits in the listener's queue is treated the
 * same.
 */
#include "uffd/page_server.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "uffd/job_internal.h"
#include "uffd/uffd_internal.h"
#include "uffd/worker_internal.h"
#include "uffd/working_set_internal.h"

enum {
	AROUND_DEFAULT = 16,
	AROUND_MAX = 16, /* a block of 64 KiB; more was measured to lose */
	RATIO_DEFAULT = 220,
	SPIN_DEFAULT_US = 50,
	SPIN_MAX_US = 10000,
	HANDSHAKE_DEFAULT_MS = 5000,
	KILL_DEFAULT_MS = 10000,
	QUIET_DEFAULT_MS = 1000,
	ENDED_MAX = 1024,
	REFUSALS_MAX =
	        64, /* connections beyond the limit that are heard out, so that their VMs are killed and not hung */
	ACCEPTS_MAX = 64,
};

static const char OP[] = "start page server";

/* Options. */

static unsigned int usable_cpus(void) {
	cpu_set_t set;
	if (sched_getaffinity(0, sizeof set, &set) < 0)
		return 1;
	int count = CPU_COUNT(&set);
	return count < 1 ? 1 : count > FC_PAGE_WORKERS_MAX ? FC_PAGE_WORKERS_MAX : (unsigned int)count;
}

static unsigned int or_default(unsigned int value, unsigned int otherwise) {
	return value ? value : otherwise;
}

static int fill_options(struct fc_page_server_options *options, struct fc_error *error) {
	options->workers = or_default(options->workers, usable_cpus());
	options->around = or_default(options->around, AROUND_DEFAULT);
	options->ratio_percent = or_default(options->ratio_percent, RATIO_DEFAULT);
	options->spin_us = or_default(options->spin_us, SPIN_DEFAULT_US);
	options->handshake_ms = or_default(options->handshake_ms, HANDSHAKE_DEFAULT_MS);
	options->clients_max = or_default(options->clients_max, FC_PAGE_CLIENTS_MAX);
	options->kill_ms = or_default(options->kill_ms, KILL_DEFAULT_MS);
	options->quiet_ms = or_default(options->quiet_ms, QUIET_DEFAULT_MS);
	const char *wrong = NULL;
	if (options->workers > FC_PAGE_WORKERS_MAX)
		wrong = "more workers than 64";
	else if (options->around > AROUND_MAX || (options->around & (options->around - 1)))
		wrong = "pages around a faulted one must be 1, 2, 4, 8 or 16";
	else if (options->ratio_percent < 100 || options->ratio_percent > 10000)
		wrong = "the ratio of private to touched memory must be 100 to 10000 percent";
	else if (options->spin_us > SPIN_MAX_US)
		wrong = "a spin of more than 10 ms";
	else if (options->clients_max > FC_PAGE_CLIENTS_MAX)
		wrong = "more than 4096 VMs";
	return wrong ? fc_error_set(error, EINVAL, OP, NULL, NULL, "%s", wrong) : 0;
}

/* The caller's listener, duplicated. Accepting must not block; the flag is the socket's, so the caller sees it too. */
static int take_listener(int fd, int *ret_listener, struct fc_error *error) {
	int type = 0;
	int domain = 0;
	int listens = 0;
	socklen_t size = sizeof type;
	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) < 0 ||
	    getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) < 0 ||
	    getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) < 0 || type != SOCK_STREAM ||
	    domain != AF_UNIX || !listens)
		return fc_error_set(error, EINVAL, OP, NULL, NULL, "descriptor %d is no listening Unix stream socket",
		                    fd);
	int flags = fcntl(fd, F_GETFL);
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (copy < 0 || flags < 0 || fcntl(copy, F_SETFL, flags | O_NONBLOCK) < 0) {
		int err = errno;
		if (copy >= 0)
			close(copy);
		return fc_error_set(error, err, OP, NULL, NULL, NULL);
	}
	*ret_listener = copy;
	return 0;
}

/* The list. */

/* Takes one that is finished off the list, at *at; what must outlive it is kept. The lock is held. */
static struct fcu_client *take_off(struct fc_page_server *server, struct fcu_client **at) {
	struct fcu_client *client = *at;
	*at = client->next;
	if (server->clients_end == &client->next)
		server->clients_end = at;
	fcu_client_sum(client, &server->gone);
	uint64_t recorded = atomic_load(&client->recorded);
	if (recorded > 0) {
		if (server->kept_record)
			munmap(server->kept_record, server->kept_room * sizeof *server->kept_record);
		server->kept_record = fc_steal_ptr(client->record);
		server->kept_count = recorded;
		server->kept_room = client->record_room;
		server->kept_page_size = client->regions.page_size;
		server->kept_pid = client->pid;
	}
	return client;
}

static size_t count_living(const struct fc_page_server *server) {
	size_t count = 0;
	for (struct fcu_client *client = server->clients; client; client = client->next)
		count += !atomic_load(&client->finished);
	return count;
}

/* Forgets the oldest ended ones beyond what is kept. The lock is held. */
static void forget_old(struct fc_page_server *server) {
	size_t ended = 0;
	for (struct fcu_client *client = server->clients; client; client = client->next)
		ended += atomic_load(&client->finished);
	for (struct fcu_client **at = &server->clients; *at && ended > ENDED_MAX;) {
		if (!atomic_load(&(*at)->finished)) {
			at = &(*at)->next;
			continue;
		}
		fcu_client_free(take_off(server, at));
		ended--;
	}
}

static struct fcu_worker *least_loaded(struct fc_page_server *server) {
	struct fcu_worker *best = &server->workers[0];
	for (unsigned int i = 1; i < server->worker_count; i++) {
		if (atomic_load(&server->workers[i].load) < atomic_load(&best->load))
			best = &server->workers[i];
	}
	return best;
}

static bool is_served_already(const struct fc_page_server *server, pid_t pid) {
	for (struct fcu_client *client = server->clients; client; client = client->next) {
		if (client->pid == pid && !atomic_load(&client->finished))
			return true;
	}
	return false;
}

static void append(struct fc_page_server *server, struct fcu_client *client) {
	client->id = ++server->next_id;
	*server->clients_end = client;
	server->clients_end = &client->next;
}

/* A second connection of one process: told of, never served, and the process is left to its first one. */
static void append_second(struct fc_page_server *server, struct fcu_client *client) {
	fc_error_set(&client->error, EALREADY, "handshake", NULL, NULL, "its process has a connection already");
	fcu_client_shut(client);
	atomic_store(&client->state, FC_PAGE_FAILED);
	atomic_store(&client->finished, true);
	append(server, client);
}

static void admit(struct fc_page_server *server, int connection) {
	struct fcu_client *client;
	struct fcu_worker *worker = NULL;
	if (fcu_client_new(connection, &client, NULL) < 0)
		return;
	client->error_lock = &server->lock;
	client->deadline = fcu_now() + (uint64_t)server->options.handshake_ms * 1000000;
	pthread_mutex_lock(&server->lock);
	size_t living = count_living(server);
	client->refused = living >= server->options.clients_max;
	forget_old(server);
	if (living >= server->options.clients_max + REFUSALS_MAX) {
		server->refused++;
	} else if (is_served_already(server, client->pid)) {
		append_second(server, client);
		client = NULL;
	} else {
		append(server, client);
		worker = least_loaded(server);
		atomic_fetch_add(&worker->load, 1);
	}
	pthread_mutex_unlock(&server->lock);
	if (worker)
		fcu_worker_give(worker, client);
	else
		fcu_client_free(client);
	fcu_server_tell(server);
}

void fcu_server_accept(struct fc_page_server *server) {
	for (int i = 0; i < ACCEPTS_MAX && !atomic_load(&server->stopping); i++) {
		int connection = accept4(server->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (connection < 0)
			return;
		admit(server, connection);
	}
}

struct fcu_replay *fcu_server_replay(struct fc_page_server *server) {
	pthread_mutex_lock(&server->lock);
	struct fcu_replay *replay = server->replay ? fcu_replay_ref(server->replay) : NULL;
	pthread_mutex_unlock(&server->lock);
	return replay;
}

bool fcu_server_records(struct fc_page_server *server) {
	int none = FC_PAGE_RECORDING_NONE;
	return server->options.record &&
	       atomic_compare_exchange_strong(&server->recording, &none, FC_PAGE_RECORDING_RUNNING);
}

void fcu_server_tell(struct fc_page_server *server) {
	eventfd_write(server->event, 1);
}

/* Start and end. */

static void more_contents(void *context) {
	struct fc_page_server *server = context;
	for (unsigned int i = 0; i < server->worker_count; i++)
		fcu_worker_nudge(&server->workers[i]);
}

static int open_page_map(struct fc_page_server *server, const char *path, struct fc_error *error) {
	int r = fcu_page_map_read(path, &server->map, error);
	if (r < 0)
		return r;
	if (server->map.memory_size == server->memory.size && server->map.fingerprint == server->memory.fingerprint)
		return 0;
	return fc_error_set(error, ESTALE, "open page map", path, "remove it and take the snapshot again",
	                    "it belongs to another memory file");
}

/* All are there before the first one runs: it gives new clients to the others. */
static int start_workers(struct fc_page_server *server, struct fc_error *error) {
	int r = 0;
	server->worker_count = server->options.workers;
	for (unsigned int i = 0; i < server->worker_count; i++)
		fcu_worker_init(&server->workers[i], server, i);
	for (unsigned int i = 0; r == 0 && i < server->worker_count; i++)
		r = fcu_worker_open(&server->workers[i]);
	for (unsigned int i = 0; r == 0 && i < server->worker_count; i++)
		r = fcu_worker_start(&server->workers[i]);
	return r < 0 ? fc_error_set(error, -r, OP, NULL, NULL, "no thread, or no descriptors for it") : 0;
}

static int start(struct fc_page_server *server, const struct fc_page_server_options *given, struct fc_error *error) {
	server->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (server->event < 0)
		return fc_error_set(error, errno, OP, NULL, NULL, NULL);
	int r = fill_options(&server->options, error);
	if (r == 0)
		r = take_listener(given->listener, &server->listener, error);
	if (r == 0)
		r = fcu_memory_open(given->memory, &server->memory, error);
	if (r == 0 && given->page_map)
		r = open_page_map(server, given->page_map, error);
	if (r == 0 && given->working_set)
		r = fc_page_server_replay(server, given->working_set, error);
	if (r == 0)
		r = start_workers(server, error);
	if (r == 0 && given->preload && server->replay)
		fcu_replay_begin(server->replay);
	return r;
}

int fc_page_server_start(const struct fc_page_server_options *options, struct fc_page_server **ret_server,
                         struct fc_error *error) {
	struct fc_page_server *server = calloc(1, sizeof *server);
	if (!server)
		return fc_error_set(error, ENOMEM, OP, NULL, NULL, NULL);
	server->options = *options;
	server->options.page_map = server->options.working_set = NULL;
	server->listener = server->event = server->memory.fd = -1;
	server->clients_end = &server->clients;
	pthread_mutex_init(&server->lock, NULL);
	int r = start(server, options, error);
	if (r < 0)
		fc_page_server_free(server);
	else
		*ret_server = server;
	return r;
}

/* Kills who is waiting to be accepted with its userfaultfd already sent: nobody would ever serve it. */
static void refuse_queued(struct fc_page_server *server) {
	struct fcu_client *client;
	int connection;
	while (server->listener >= 0 &&
	       (connection = accept4(server->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0) {
		if (fcu_client_new(connection, &client, NULL) < 0)
			continue;
		fcu_handshake_receive(&client->handshake, client->socket, NULL);
		if (client->handshake.depends)
			fcu_client_kill(client);
		fcu_client_free(client);
	}
}

static bool depends_on_us(const struct fcu_client *client) {
	return client->uffd >= 0 || client->handshake.depends;
}

/* Waits until every VM that depends on us has died, or the limit has passed. Workers have ended by now. */
static void await_deaths(struct fc_page_server *server) {
	uint64_t limit = fcu_now() + (uint64_t)server->options.kill_ms * 1000000;
	for (struct fcu_client *client = server->clients; client; client = client->next) {
		/* What it said last may still be unread. */
		if (client->socket >= 0 && atomic_load(&client->state) == FC_PAGE_HANDSHAKE)
			fcu_handshake_receive(&client->handshake, client->socket, NULL);
		if (depends_on_us(client))
			fcu_client_kill(client);
	}
	for (struct fcu_client *client = server->clients; client; client = client->next) {
		struct pollfd death = {.fd = client->pidfd, .events = POLLIN};
		uint64_t now = fcu_now();
		if (depends_on_us(client) && now < limit)
			poll(&death, 1, (int)((limit - now) / 1000000) + 1);
	}
}

void fc_page_server_free(struct fc_page_server *server) {
	if (!server)
		return;
	atomic_store(&server->stopping, true);
	for (unsigned int i = 0; i < server->worker_count; i++)
		fcu_worker_stop(&server->workers[i]);
	await_deaths(server);
	refuse_queued(server);
	while (server->clients) {
		struct fcu_client *client = server->clients;
		server->clients = client->next;
		fcu_client_free(client);
	}
	fcu_replay_unref(server->replay);
	fcu_page_map_clear(&server->map);
	fcu_memory_close(&server->memory);
	if (server->kept_record)
		munmap(server->kept_record, server->kept_room * sizeof *server->kept_record);
	if (server->listener >= 0)
		close(server->listener);
	if (server->event >= 0)
		close(server->event);
	pthread_mutex_destroy(&server->lock);
	free(server);
}

/* What is told. */

int fc_page_server_fileno(const struct fc_page_server *server) {
	return server->event;
}

struct fc_page_server_stats fc_page_server_stats(struct fc_page_server *server) {
	pthread_mutex_lock(&server->lock);
	struct fc_page_server_stats stats = {.counters = server->gone,
	                                     .living = count_living(server),
	                                     .recording = (enum fc_page_recording)atomic_load(&server->recording),
	                                     .refused = server->refused};
	for (struct fcu_client *client = server->clients; client; client = client->next) {
		fcu_client_sum(client, &stats.counters);
		stats.clients++;
	}
	pthread_mutex_unlock(&server->lock);
	return stats;
}

size_t fc_page_server_clients(struct fc_page_server *server, struct fc_page_client *clients, size_t room) {
	size_t count = 0;
	pthread_mutex_lock(&server->lock);
	for (struct fcu_client *client = server->clients; client; client = client->next) {
		if (count < room)
			fcu_client_describe(client, &clients[count]);
		count++;
	}
	pthread_mutex_unlock(&server->lock);
	return count;
}

size_t fc_page_server_reap(struct fc_page_server *server, struct fc_page_client *clients, size_t room) {
	size_t count = 0;
	pthread_mutex_lock(&server->lock);
	for (struct fcu_client **at = &server->clients; *at && count < room;) {
		if (!atomic_load(&(*at)->finished)) {
			at = &(*at)->next;
			continue;
		}
		struct fcu_client *client = take_off(server, at);
		fcu_client_describe(client, &clients[count++]);
		fcu_client_free(client);
	}
	pthread_mutex_unlock(&server->lock);
	return count;
}

/* Recording. */

/* What a job of writing a recording has for itself. */
struct recording_job {
	struct fcu_recording recording;
	uint32_t *pages;
	char *path;
};

static void release_recording(void *argument) {
	struct recording_job *job = argument;
	if (job->recording.memory >= 0)
		close(job->recording.memory);
	free(job->pages);
	free(job->path);
	free(job);
}

static int recording_work(void *argument, const atomic_bool *cancelled, uint64_t *ret_count, uint64_t *ret_total,
                          struct fc_error *error) {
	const struct recording_job *job = argument;
	int r = fcu_working_set_write(&job->recording, job->path, cancelled, ret_count, error);
	*ret_total = *ret_count;
	return r;
}

/* Where a recording is, which grows but never moves. */
struct record {
	const uint32_t *pages;
	uint64_t count;
	uint64_t page_size;
};

/* The lock is held. */
static bool find_record(struct fc_page_server *server, pid_t pid, struct record *ret_record) {
	if (server->kept_record && (pid == 0 || server->kept_pid == pid)) {
		*ret_record = (struct record){server->kept_record, server->kept_count, server->kept_page_size};
		return true;
	}
	for (struct fcu_client *client = server->clients; client; client = client->next) {
		uint64_t count = atomic_load_explicit(&client->recorded, memory_order_acquire);
		if (count == 0 || (pid != 0 && client->pid != pid))
			continue;
		*ret_record = (struct record){client->record, count, client->regions.page_size};
		return true;
	}
	return false;
}

static int copy_record(struct fc_page_server *server, pid_t pid, struct recording_job *job) {
	struct record record;
	pthread_mutex_lock(&server->lock);
	bool found = find_record(server, pid, &record);
	if (found && (job->pages = malloc(record.count * sizeof *job->pages)))
		memcpy(job->pages, record.pages, record.count * sizeof *job->pages);
	pthread_mutex_unlock(&server->lock);
	if (!found)
		return -ENODATA;
	job->recording = (struct fcu_recording){.memory = fcu_reopen(server->memory.fd, 0),
	                                        .memory_size = server->memory.size,
	                                        .fingerprint = server->memory.fingerprint,
	                                        .page_size = record.page_size,
	                                        .pages = job->pages,
	                                        .count = record.count};
	if (job->recording.memory == -EACCES)
		job->recording.memory = fcntl(server->memory.fd, F_DUPFD_CLOEXEC, 0);
	return !job->pages ? -ENOMEM : job->recording.memory < 0 ? -EMFILE : 0;
}

int fc_page_server_recording(struct fc_page_server *server, const char *path, pid_t pid, struct fc_job **ret_job,
                             struct fc_error *error) {
	struct recording_job *job = calloc(1, sizeof *job);
	if (!job)
		return fc_error_set(error, ENOMEM, "record working set", path, NULL, NULL);
	job->recording.memory = -1;
	job->path = strdup(path);
	int r = job->path ? copy_record(server, pid, job) : -ENOMEM;
	if (r == 0)
		return fcu_job_start(recording_work, job, release_recording, ret_job, error);
	release_recording(job);
	return fc_error_set(error, -r, "record working set", path, NULL,
	                    r == -ENODATA ? "nothing was recorded yet" : NULL);
}

int fc_page_server_replay(struct fc_page_server *server, const char *path, struct fc_error *error) {
	struct fcu_replay *replay;
	int r = fcu_replay_open(path, &server->memory, more_contents, server, &replay, error);
	if (r < 0)
		return r;
	fcu_replay_prepare(replay);
	pthread_mutex_lock(&server->lock);
	struct fcu_replay *before = server->replay;
	server->replay = replay;
	pthread_mutex_unlock(&server->lock);
	fcu_replay_unref(before);
	return 0;
}
