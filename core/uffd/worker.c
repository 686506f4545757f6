// SPDX-License-Identifier: Apache-2.0
/*
 * core/uffd/worker.c: one thread's loop over its VMs. See page_server.c for the whole.
 *
 * A round of the loop:
 *   1. wait for descriptors: not at all while a replay can go on or while spinning; a millisecond while faults are
 * parked;
 *   2. answer faults (userfaultfds first, all that are ready, then everything else);
 *   3. try parked faults again;
 *   4. one slice of one replay, the oldest VM's first, short while there are faults;
 *   5. deadlines, ended VMs.
 * So a fault waits for one slice at most, whatever is being replayed.
 */
#include "uffd/worker_internal.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <unistd.h>
#include <linux/userfaultfd.h>

#include "uffd/fault_internal.h"
#include "uffd/uffd_internal.h"

enum {
	EVENTS = 64,
	MESSAGES = 32,
	ROUNDS_MAX = 64,  /* reads of one userfaultfd before the others have their turn */
	SLICE_BURST = 32, /* pages of a replay while VMs fault: about 30 us */
	SLICE_CALM = 128, /* while none did of late: what the first fault of a burst may wait for */
	RETRY_MS = 1,
	IDLE_MS = 100, /* how often a deadline or a recording is looked at */
	CREDIT_MOST = 16,
	SKIP = 16, /* without credit, one chance of so many is taken, to see whether times have changed */
};
#define STARVED_NS ((uint64_t)2000000000)
#define COUNT_EVERY_NS ((uint64_t)500000)
#define BURST_NS ((uint64_t)2000000)
#define CALM_NS ((uint64_t)5000000)

static void watch(struct fcu_worker *worker, int fd, struct fcu_watch *what) {
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = what};
	epoll_ctl(worker->epoll, EPOLL_CTL_ADD, fd, &event);
}

static void unwatch(struct fcu_worker *worker, int fd) {
	if (fd >= 0)
		epoll_ctl(worker->epoll, EPOLL_CTL_DEL, fd, NULL);
}

static enum fc_page_client_state state_of(const struct fcu_client *client) {
	return (enum fc_page_client_state)atomic_load_explicit(&client->state, memory_order_relaxed);
}

static bool is_served(const struct fcu_client *client) {
	enum fc_page_client_state state = state_of(client);
	return state == FC_PAGE_PREFILL || state == FC_PAGE_SERVING;
}

static void set_state(struct fcu_worker *worker, struct fcu_client *client, enum fc_page_client_state state) {
	atomic_store(&client->state, state);
	fcu_server_tell(worker->server);
}

/*
 * A VM that cannot be served, or never could: killed where it depends on us, since it would hang for ever at its next
 * fault. Its userfaultfd stays open until it is dead: closed, it would give the VM zero pages.
 */
static void fail(struct fcu_worker *worker, struct fcu_client *client, const struct fc_error *error) {
	fcu_client_blame(client, error);
	bool depends = client->uffd >= 0 || client->handshake.depends;
	if (depends)
		fcu_client_kill(client);
	unwatch(worker, client->uffd);
	unwatch(worker, client->socket);
	client->parked_count = 0;
	set_state(worker, client, FC_PAGE_FAILED);
	if (!depends)
		client->ended = true;
}

static void fail_with(struct fcu_worker *worker, struct fcu_client *client, int err, const char *op,
                      const char *message) {
	struct fc_error error;
	fc_error_set(&error, err, op, NULL, NULL, message ? "%s" : NULL, message);
	fail(worker, client, &error);
}

static void fail_serving(struct fcu_worker *worker, struct fcu_client *client, int err) {
	const char *why = NULL;
	if (err == EFAULT)
		why = "the memory file or the working set was cut short";
	else if (err == ENOMEM)
		why = "no memory for its pages: its own limit, or the host's";
	fail_with(worker, client, err, "serve", why);
}

/* The worker's last act on a client; whoever holds the server's lock may free it from then on. */
static void finish(struct fcu_worker *worker, struct fcu_client *client) {
	unwatch(worker, client->uffd);
	unwatch(worker, client->pidfd);
	unwatch(worker, client->socket);
	fcu_client_shut(client);
	if (state_of(client) != FC_PAGE_FAILED)
		atomic_store(&client->state, FC_PAGE_ENDED);
	if (atomic_load(&client->recording) && atomic_load(&client->recorded) > 0)
		atomic_store(&worker->server->recording, FC_PAGE_RECORDING_SETTLED);
	else if (atomic_load(&client->recording))
		atomic_store(&worker->server->recording, FC_PAGE_RECORDING_NONE);
	atomic_fetch_sub(&worker->load, 1);
	atomic_store(&client->finished, true);
	fcu_server_tell(worker->server);
}

static void finish_ended(struct fcu_worker *worker) {
	struct fcu_client **at = &worker->clients;
	while (*at) {
		struct fcu_client *client = *at;
		if (!client->ended) {
			at = &client->worker_next;
			continue;
		}
		*at = client->worker_next;
		finish(worker, client);
	}
}

/* Reading what is not in the page cache. */

static struct fcu_read *find_read(struct fcu_worker *worker, uint64_t offset, uint64_t size, bool *ret_flying) {
	struct fcu_read *idle = NULL;
	*ret_flying = false;
	for (size_t i = 0; i < FCU_READS; i++) {
		struct fcu_read *read = &worker->reads[i];
		if (!read->busy)
			idle = read;
		else if (offset >= read->offset && offset + size <= read->offset + read->size)
			*ret_flying = true;
	}
	return idle;
}

/* Begins to read a range, unless it is under way or there is no slot (then a later retry does it). False: it cannot. */
static bool begin_read(struct fcu_worker *worker, uint64_t offset, uint64_t size) {
	bool flying;
	struct fcu_read *read = find_read(worker, offset, size, &flying);
	if (flying || !read)
		return true;
	if (!worker->ring_made)
		return false;
	if (read->room < size) {
		free(read->buffer);
		read->buffer = malloc(size);
		read->room = read->buffer ? size : 0;
	}
	struct io_uring_sqe *sqe = read->buffer ? io_uring_get_sqe(&worker->ring) : NULL;
	if (!sqe)
		return false;
	if (size > worker->server->memory.size - offset)
		size = worker->server->memory.size - offset;
	*read = (struct fcu_read){true, offset, size, read->buffer, read->room};
	io_uring_prep_read(sqe, worker->server->memory.fd, read->buffer, (unsigned int)size, offset);
	io_uring_sqe_set_data(sqe, read);
	io_uring_submit(&worker->ring);
	return true;
}

/* Takes what was read. Of one that failed nothing more is asked: the copy itself finds out what is wrong. */
static void take_reads(struct fcu_worker *worker) {
	struct io_uring_cqe *cqe;
	eventfd_t ignored;
	eventfd_read(worker->ring_event, &ignored);
	while (io_uring_peek_cqe(&worker->ring, &cqe) == 0) {
		struct fcu_read *read = io_uring_cqe_get_data(cqe);
		fcu_memory_read(&worker->server->memory, read->offset, read->size);
		read->busy = false;
		io_uring_cqe_seen(&worker->ring, cqe);
	}
}

/* Faults. */

/* How many VMs have faulted just now or are being replayed, over all workers: each counts its own now and then. */
static unsigned int count_bursts(struct fcu_worker *worker, uint64_t now) {
	struct fc_page_server *server = worker->server;
	unsigned int all = 0;
	if (now - worker->counted_at >= COUNT_EVERY_NS) {
		unsigned int own = 0;
		for (const struct fcu_client *client = worker->clients; client; client = client->worker_next)
			own += state_of(client) == FC_PAGE_PREFILL ||
			       now - atomic_load_explicit(&client->last_fault, memory_order_relaxed) < BURST_NS;
		worker->counted_at = now;
		atomic_store_explicit(&worker->bursts, own, memory_order_relaxed);
	}
	for (unsigned int i = 0; i < server->worker_count; i++)
		all += atomic_load_explicit(&server->workers[i].bursts, memory_order_relaxed);
	return all;
}

/* Whether a VM's thread that is woken runs at once, and waiting awake takes nothing from anybody. */
static bool has_spare_cpu(struct fcu_worker *worker) {
	uint64_t now = fcu_now();
	return fcu_load_spare(&worker->cpus, count_bursts(worker, now), now);
}

/* Tries to answer one. True: it is settled, one way or the other. */
static bool answer(struct fcu_worker *worker, struct fcu_client *client, uint64_t page, uint64_t since) {
	uint64_t offset;
	uint64_t size;
	bool spare = !client->same_cpu && has_spare_cpu(worker);
	enum fcu_manner manner = spare ? FCU_WAKE_FIRST : FCU_WAKE_LAST;
	int r = fcu_fault_serve(client, page, since, manner, false, &offset, &size);
	if (r == FCU_WAIT && !begin_read(worker, offset, size))
		r = fcu_fault_serve(client, page, since, manner, true, &offset, &size);
	worker->served = worker->served || r == FCU_DONE;
	if (r == FCU_DONE)
		client->starved_since = 0;
	if (r == FCU_WAIT || r == FCU_LATER)
		return false;
	if (r == -ENOMEM) {
		/* The VM's memory limit may give way to reclaim; for a while. */
		uint64_t now = fcu_now();
		if (client->starved_since == 0)
			client->starved_since = now;
		if (now - client->starved_since < STARVED_NS)
			return false;
	}
	/* ESRCH: the address space is gone; the pidfd will say so. */
	if (r < 0 && r != -ESRCH)
		fail_serving(worker, client, -r);
	return true;
}

static void park(struct fcu_worker *worker, struct fcu_client *client, uint64_t page, uint64_t since) {
	if (client->parked_count < FCU_PARKED_MAX)
		client->parked[client->parked_count++] = (struct fcu_parked){page, since};
	else
		fail_with(worker, client, EOVERFLOW, "serve", "more threads wait for pages than a VM has");
}

static void take_fault(struct fcu_worker *worker, struct fcu_client *client, uint64_t address, uint64_t since) {
	const struct fcu_region *region = fcu_region_at(&client->regions, address);
	if (!region) {
		fail_with(worker, client, EFAULT, "serve", "it faulted outside the memory that it told of");
		return;
	}
	uint64_t page = (address - region->base + region->offset) >> client->regions.shift;
	if (!answer(worker, client, page, since) && is_served(client))
		park(worker, client, page, since);
}

/* Tries the parked faults of a client once more. */
static void retry_parked(struct fcu_worker *worker, struct fcu_client *client) {
	size_t kept = 0;
	size_t count = client->parked_count;
	for (size_t i = 0; i < count && is_served(client); i++) {
		struct fcu_parked fault = client->parked[i];
		if (!answer(worker, client, fault.page, fault.since))
			client->parked[kept++] = fault;
	}
	client->parked_count = is_served(client) ? kept : 0;
}

static void take_messages(struct fcu_worker *worker, struct fcu_client *client, const struct uffd_msg *messages,
                          size_t count, uint64_t since) {
	struct fc_error error;
	/* What was removed is known before a fault in it is answered. */
	for (size_t i = 0; i < count && is_served(client); i++) {
		if (messages[i].event != UFFD_EVENT_PAGEFAULT && fcu_fault_event(client, &messages[i], &error) < 0)
			fail(worker, client, &error);
	}
	for (size_t i = 0; i < count && is_served(client); i++) {
		if (messages[i].event == UFFD_EVENT_PAGEFAULT)
			take_fault(worker, client, messages[i].arg.pagefault.address, since);
	}
}

/* Whether the files still are what they were: a cut inside a page reads as zeros and not as an error. */
static void check_files(struct fcu_worker *worker, struct fcu_client *client) {
	if (is_served(client) &&
	    (!fcu_memory_whole(client->memory) || (client->replay && !fcu_replay_whole(client->replay))))
		fail_serving(worker, client, EFAULT);
}

static void take_uffd(struct fcu_worker *worker, struct fcu_client *client) {
	struct uffd_msg messages[MESSAGES];
	for (int round = 0; round < ROUNDS_MAX && is_served(client); round++) {
		ssize_t n = read(client->uffd, messages, sizeof messages);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			break;
		if (n <= 0) {
			fail_with(worker, client, n < 0 ? errno : EPROTO, "read userfaultfd", NULL);
			break;
		}
		size_t count = (size_t)n / sizeof messages[0];
		take_messages(worker, client, messages, count, fcu_now());
		if (count < MESSAGES)
			break;
	}
	check_files(worker, client);
}

/* Joining. */

static void join(struct fcu_worker *worker, struct fcu_client *client) {
	struct fc_error error;
	struct fc_page_server *server = worker->server;
	int r = fcu_client_join(client, &server->memory, &server->map, &error);
	if (r == 0 && client->refused)
		r = fc_error_set(&error, EUSERS, "handshake", NULL,
		                 "raise the server's limit, or start a second server", "%u VMs are served already",
		                 server->options.clients_max);
	if (r < 0) {
		fail(worker, client, &error);
		return;
	}
	bool huge = client->regions.page_size != FCU_PAGE;
	fcu_around_init(&client->around, huge ? 1 : server->options.around, server->options.ratio_percent);
	atomic_store(&client->last_fault, client->joined);
	if (fcu_server_records(server) && fcu_client_record(client) < 0)
		atomic_store(&server->recording, FC_PAGE_RECORDING_NONE);
	client->replay = fcu_server_replay(server);
	if (client->replay && fcu_replay_set(client->replay)->page_size != client->regions.page_size) {
		fcu_replay_unref(client->replay);
		client->replay = NULL;
	}
	unwatch(worker, client->socket);
	set_state(worker, client, client->replay ? FC_PAGE_PREFILL : FC_PAGE_SERVING);
	if (client->replay) {
		fcu_around_replayed(&client->around);
		fcu_replay_begin(client->replay);
	}
	watch(worker, client->uffd, &client->watch_uffd);
}

static void take_socket(struct fcu_worker *worker, struct fcu_client *client) {
	struct fc_error error;
	if (state_of(client) != FC_PAGE_HANDSHAKE)
		return;
	int r = fcu_handshake_receive(&client->handshake, client->socket, &error);
	if (r < 0)
		fail(worker, client, &error);
	else if (r > 0)
		join(worker, client);
}

static void take_mail(struct fcu_worker *worker) {
	eventfd_t ignored;
	eventfd_read(worker->mail, &ignored);
	pthread_mutex_lock(&worker->mail_lock);
	struct fcu_client *client = worker->mail_clients;
	worker->mail_clients = NULL;
	pthread_mutex_unlock(&worker->mail_lock);
	struct fcu_client **end = &worker->clients;
	while (*end)
		end = &(*end)->worker_next;
	*end = client;
	for (; client; client = client->worker_next) {
		watch(worker, client->pidfd, &client->watch_pidfd);
		watch(worker, client->socket, &client->watch_socket);
	}
}

/* Replays. */

static void end_replay(struct fcu_worker *worker, struct fcu_client *client) {
	fcu_replay_unref(client->replay);
	client->replay = NULL;
	uint64_t now = fcu_now();
	atomic_store(&client->prefill_ns, now - client->joined);
	atomic_store(&client->last_fault, now);
	set_state(worker, client, FC_PAGE_SERVING);
}

/* One slice of one replay. True: there may be more to do at once. */
static bool replay_some(struct fcu_worker *worker) {
	uint32_t slice = fcu_now() - worker->served_at < CALM_NS ? SLICE_BURST : SLICE_CALM;
	for (struct fcu_client *client = worker->clients; client; client = client->worker_next) {
		if (state_of(client) != FC_PAGE_PREFILL)
			continue;
		int r = fcu_fault_replay(client, slice);
		check_files(worker, client);
		if (!is_served(client) || r == -ESRCH)
			continue;
		if (r == FCU_DONE)
			end_replay(worker, client);
		else if (r == -ENOMEM)
			/* Faults decide whether that is the end. */
			end_replay(worker, client);
		else if (r < 0)
			fail_serving(worker, client, -r);
		/* One that has to wait lets the next one go on. */
		if (r == FCU_WAIT || r == FCU_LATER)
			continue;
		return true;
	}
	return false;
}

/* The loop. */

static void dispatch(struct fcu_worker *worker, const struct fcu_watch *what, bool faults) {
	struct fcu_client *client = what->client;
	if ((what->kind == FCU_WATCH_UFFD) != faults)
		return;
	switch (what->kind) {
	case FCU_WATCH_UFFD:
		if (is_served(client))
			take_uffd(worker, client);
		break;
	case FCU_WATCH_LISTENER:
		fcu_server_accept(worker->server);
		break;
	case FCU_WATCH_MAIL:
		take_mail(worker);
		break;
	case FCU_WATCH_RING:
		take_reads(worker);
		break;
	case FCU_WATCH_SOCKET:
		take_socket(worker, client);
		break;
	case FCU_WATCH_PIDFD:
		client->ended = true;
		break;
	}
}

static void check_recording(struct fcu_worker *worker, struct fcu_client *client, uint64_t now) {
	uint64_t quiet = (uint64_t)worker->server->options.quiet_ms * 1000000;
	if (client->told_settled || state_of(client) != FC_PAGE_SERVING || atomic_load(&client->recorded) == 0 ||
	    now - atomic_load(&client->last_fault) < quiet)
		return;
	client->told_settled = true;
	atomic_store(&worker->server->recording, FC_PAGE_RECORDING_SETTLED);
	fcu_server_tell(worker->server);
}

/* Deadlines and parked faults of all clients. Returns how long the next wait may be, in ms; -1: for ever. */
static int look_after(struct fcu_worker *worker) {
	int timeout = -1;
	uint64_t now = fcu_now();
	for (struct fcu_client *client = worker->clients; client; client = client->worker_next) {
		if (state_of(client) == FC_PAGE_HANDSHAKE && now >= client->deadline)
			fail_with(worker, client, ETIMEDOUT, "handshake", "nothing whole came in time");
		if (client->parked_count > 0)
			retry_parked(worker, client);
		if (atomic_load_explicit(&client->recording, memory_order_relaxed))
			check_recording(worker, client, now);
		bool waits = client->parked_count > 0 || state_of(client) == FC_PAGE_PREFILL;
		bool soon = state_of(client) == FC_PAGE_HANDSHAKE ||
		            (atomic_load_explicit(&client->recording, memory_order_relaxed) && !client->told_settled);
		if (waits)
			timeout = RETRY_MS;
		else if (soon && timeout < 0)
			timeout = IDLE_MS;
	}
	return timeout;
}

/* After a fault was answered: whether to wait awake for the next one. */
static bool begins_to_spin(struct fcu_worker *worker) {
	if (worker->spin_until && worker->spin_credit < CREDIT_MOST)
		worker->spin_credit++;
	worker->spin_until = 0;
	if (worker->clients && worker->clients->same_cpu)
		return false;
	if (worker->spin_credit <= 0 && ++worker->spin_skipped % SKIP != 0)
		return false;
	if (!has_spare_cpu(worker))
		return false;
	worker->spin_until = fcu_now() + (uint64_t)worker->server->options.spin_us * 1000;
	return true;
}

/* Whether the next wait is to be awake. */
static bool spins(struct fcu_worker *worker) {
	uint64_t now = fcu_now();
	bool served = worker->served;
	worker->served = false;
	if (served)
		worker->served_at = now;
	if (worker->server->options.no_spin)
		return false;
	if (served)
		return begins_to_spin(worker);
	if (worker->spin_until == 0)
		return false;
	if (now < worker->spin_until)
		return true;
	worker->spin_until = 0;
	if (worker->spin_credit > -CREDIT_MOST)
		worker->spin_credit--;
	return false;
}

static void *run(void *argument) {
	struct fcu_worker *worker = argument;
	struct epoll_event events[EVENTS];
	char name[16];
	snprintf(name, sizeof name, "fcvm-pages-%u", worker->index);
	prctl(PR_SET_NAME, name);
	fcu_load_open(&worker->cpus);
	int timeout = -1;
	while (!atomic_load(&worker->server->stopping)) {
		int n = epoll_wait(worker->epoll, events, EVENTS, timeout);
		for (int i = 0; i < n; i++)
			dispatch(worker, events[i].data.ptr, true);
		for (int i = 0; i < n; i++)
			dispatch(worker, events[i].data.ptr, false);
		timeout = look_after(worker);
		bool more = replay_some(worker);
		finish_ended(worker);
		if (spins(worker) || more)
			timeout = 0;
	}
	return NULL;
}

static void make_ring(struct fcu_worker *worker) {
	worker->ring_event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (worker->ring_event < 0 || io_uring_queue_init(FCU_READS, &worker->ring, 0) < 0)
		return;
	worker->ring_made = true;
	if (io_uring_register_eventfd(&worker->ring, worker->ring_event) < 0) {
		io_uring_queue_exit(&worker->ring);
		worker->ring_made = false;
	}
}

void fcu_worker_init(struct fcu_worker *worker, struct fc_page_server *server, unsigned int index) {
	*worker = (struct fcu_worker){.server = server, .index = index, .epoll = -1, .mail = -1, .ring_event = -1};
	worker->cpus.fd = -1;
	worker->spin_credit = CREDIT_MOST;
	pthread_mutex_init(&worker->mail_lock, NULL);
}

int fcu_worker_open(struct fcu_worker *worker) {
	worker->epoll = epoll_create1(EPOLL_CLOEXEC);
	worker->mail = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (worker->epoll < 0 || worker->mail < 0)
		return -errno;
	/* Without io_uring, what is not in the page cache is read by the copy itself: slower, and as right. */
	make_ring(worker);
	worker->watch_mail = (struct fcu_watch){.kind = FCU_WATCH_MAIL};
	watch(worker, worker->mail, &worker->watch_mail);
	worker->watch_ring = (struct fcu_watch){.kind = FCU_WATCH_RING};
	if (worker->ring_made)
		watch(worker, worker->ring_event, &worker->watch_ring);
	worker->watch_listener = (struct fcu_watch){.kind = FCU_WATCH_LISTENER};
	if (worker->index == 0)
		watch(worker, worker->server->listener, &worker->watch_listener);
	return 0;
}

int fcu_worker_start(struct fcu_worker *worker) {
	sigset_t all;
	sigset_t before;
	/* Signals are for the thread of the caller, who may wait for them. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int r = pthread_create(&worker->thread, NULL, run, worker);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	worker->started = r == 0;
	return -r;
}

static void free_ring(struct fcu_worker *worker) {
	struct io_uring_cqe *cqe;
	if (!worker->ring_made)
		return;
	/* What is in flight writes into our buffers: it is waited for. */
	for (size_t i = 0; i < FCU_READS; i++) {
		while (worker->reads[i].busy && io_uring_wait_cqe(&worker->ring, &cqe) == 0) {
			((struct fcu_read *)io_uring_cqe_get_data(cqe))->busy = false;
			io_uring_cqe_seen(&worker->ring, cqe);
		}
	}
	io_uring_queue_exit(&worker->ring);
}

void fcu_worker_stop(struct fcu_worker *worker) {
	if (worker->started) {
		fcu_worker_nudge(worker);
		pthread_join(worker->thread, NULL);
	}
	free_ring(worker);
	for (size_t i = 0; i < FCU_READS; i++)
		free(worker->reads[i].buffer);
	fcu_load_close(&worker->cpus);
	const int fds[] = {worker->ring_event, worker->mail, worker->epoll};
	for (size_t i = 0; i < sizeof fds / sizeof fds[0]; i++) {
		if (fds[i] >= 0)
			close(fds[i]);
	}
	pthread_mutex_destroy(&worker->mail_lock);
}

void fcu_worker_give(struct fcu_worker *worker, struct fcu_client *client) {
	pthread_mutex_lock(&worker->mail_lock);
	struct fcu_client **end = &worker->mail_clients;
	while (*end)
		end = &(*end)->worker_next;
	*end = client;
	pthread_mutex_unlock(&worker->mail_lock);
	fcu_worker_nudge(worker);
}

void fcu_worker_nudge(struct fcu_worker *worker) {
	eventfd_write(worker->mail, 1);
}
