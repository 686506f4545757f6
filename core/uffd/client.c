// SPDX-License-Identifier: Apache-2.0
/* core/uffd/client.c: a VM's life at the server: who it is, what it has, what is told of it. */
#include "uffd/client_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <linux/userfaultfd.h>

#include "base/cleanup.h"
#include "uffd/uffd_internal.h"

/* Since Linux 6.5; the headers of Debian 12 are older. include/uapi/asm-generic/socket.h */
#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

/* A pidfd of the process that connected. */
static int open_peer(int socket, const struct ucred *peer) {
	int pidfd = -1;
	socklen_t size = sizeof pidfd;
	if (getsockopt(socket, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &size) == 0)
		return pidfd;
	if (errno != ENOPROTOOPT && errno != EINVAL)
		return -errno;
	/* Older kernels tell the number alone. Whoever holds the connection open now held it when the number was its.
	 */
	pidfd = (int)syscall(SYS_pidfd_open, peer->pid, 0);
	return pidfd < 0 ? -errno : pidfd;
}

int fcu_client_new(int socket, struct fcu_client **ret_client, struct fc_error *error) {
	_cleanup_close_ int connection = socket;
	struct ucred peer;
	socklen_t size = sizeof peer;
	if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0)
		return fc_error_set(error, errno, "identify peer", NULL, NULL, NULL);
	_cleanup_close_ int pidfd = open_peer(socket, &peer);
	if (pidfd < 0)
		return fc_error_set(error, -pidfd, "identify peer", NULL, NULL, NULL);
	struct fcu_client *client = calloc(1, sizeof *client);
	if (!client)
		return fc_error_set(error, ENOMEM, "accept", NULL, NULL, NULL);
	client->pid = peer.pid;
	client->uid = peer.uid;
	client->socket = fc_steal_fd(&connection);
	client->pidfd = fc_steal_fd(&pidfd);
	client->uffd = -1;
	client->handshake = (struct fcu_handshake){.uffd = -1};
	client->watch_socket = (struct fcu_watch){FCU_WATCH_SOCKET, client};
	client->watch_uffd = (struct fcu_watch){FCU_WATCH_UFFD, client};
	client->watch_pidfd = (struct fcu_watch){FCU_WATCH_PIDFD, client};
	*ret_client = client;
	return 0;
}

static void close_one(int *fd) {
	if (*fd >= 0)
		close(fc_steal_fd(fd));
}

void fcu_client_shut(struct fcu_client *client) {
	fcu_handshake_clear(&client->handshake);
	close_one(&client->uffd);
	close_one(&client->pidfd);
	close_one(&client->socket);
	free(client->present);
	free(client->removed);
	client->present = client->removed = NULL;
	fcu_replay_unref(client->replay);
	client->replay = NULL;
}

void fcu_client_free(struct fcu_client *client) {
	if (!client)
		return;
	fcu_client_shut(client);
	if (client->record)
		munmap(client->record, client->record_room * sizeof *client->record);
	free(client);
}

/* Whether the VM and this thread have one CPU between them: then it cannot run while we do. */
static bool one_cpu(pid_t pid) {
	cpu_set_t ours;
	cpu_set_t theirs;
	if (sched_getaffinity(0, sizeof ours, &ours) < 0 || sched_getaffinity(pid, sizeof theirs, &theirs) < 0)
		return false;
	CPU_OR(&ours, &ours, &theirs);
	return CPU_COUNT(&ours) == 1;
}

/* A wake-up of nobody: refused where nobody has agreed on the interface with the kernel (UFFDIO_API). */
static int check_ready(int uffd, const struct fcu_regions *regions, struct fc_error *error) {
	struct uffdio_range range = {.start = regions->at[0].base, .len = regions->page_size};
	if (ioctl(uffd, UFFDIO_WAKE, &range) < 0)
		return fc_error_set(error, EPROTO, "handshake", NULL, NULL, "its userfaultfd was never initialised");
	int flags = fcntl(uffd, F_GETFL);
	/* Without O_NONBLOCK poll reports an error at once and for ever. Firecracker has it. */
	if (flags < 0 || fcntl(uffd, F_SETFL, flags | O_NONBLOCK) < 0)
		return fc_error_set(error, errno, "handshake", NULL, NULL, NULL);
	return 0;
}

int fcu_client_join(struct fcu_client *client, const struct fcu_memory *memory, const struct fcu_page_map *map,
                    struct fc_error *error) {
	struct fcu_handshake *handshake = &client->handshake;
	int r = fcu_handshake_parse(handshake->text, handshake->used, &client->regions, error);
	if (r == 0)
		r = fcu_regions_check(&client->regions, memory->size, error);
	if (r == 0)
		r = check_ready(handshake->uffd, &client->regions, error);
	if (r < 0)
		return r;
	uint64_t pages = memory->size >> client->regions.shift;
	client->memory = memory;
	client->map = map;
	client->present = fcu_set_new(pages);
	client->removed = fcu_set_new(pages);
	if (!client->present || !client->removed)
		return fc_error_set(error, ENOMEM, "handshake", NULL, NULL, NULL);
	client->uffd = fc_steal_fd(&handshake->uffd);
	client->same_cpu = one_cpu(client->pid);
	client->joined = fcu_now();
	fcu_handshake_clear(handshake);
	return 0;
}

int fcu_client_record(struct fcu_client *client) {
	uint64_t pages = client->memory->size >> client->regions.shift;
	void *record = mmap(NULL, pages * sizeof *client->record, PROT_READ | PROT_WRITE,
	                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (record == MAP_FAILED)
		return -errno;
	client->record = record;
	client->record_room = pages;
	atomic_store(&client->recording, true);
	return 0;
}

void fcu_client_touched(struct fcu_client *client, uint64_t page) {
	if (!client->record)
		return;
	/* A page that was removed and touched again comes a second time; beyond the room only such can come. */
	uint64_t count = atomic_load_explicit(&client->recorded, memory_order_relaxed);
	if (count == client->record_room)
		return;
	client->record[count] = (uint32_t)page;
	atomic_store_explicit(&client->recorded, count + 1, memory_order_release);
}

void fcu_client_blame(struct fcu_client *client, const struct fc_error *error) {
	pthread_mutex_lock(client->error_lock);
	if (client->error.err == 0)
		client->error = *error;
	pthread_mutex_unlock(client->error_lock);
}

void fcu_client_kill(struct fcu_client *client) {
	if (client->pidfd >= 0)
		syscall(SYS_pidfd_send_signal, client->pidfd, SIGKILL, NULL, 0);
}

/* Buckets: the number's highest bit, and the two bits below it. */
static unsigned int bucket_of(uint64_t ns) {
	if (ns < 4)
		return (unsigned int)ns;
	unsigned int high = 63 - (unsigned int)__builtin_clzll(ns);
	return high * 4 + (unsigned int)(ns >> (high - 2) & 3);
}

static uint64_t bucket_end(unsigned int bucket) {
	if (bucket < 8)
		return bucket;
	unsigned int high = bucket / 4;
	return ((uint64_t)(bucket % 4 + 5) << (high - 2)) - 1;
}

void fcu_client_latency(struct fcu_client *client, uint64_t ns) {
	_Atomic uint32_t *bucket = &client->buckets[bucket_of(ns)];
	uint32_t value = atomic_load_explicit(bucket, memory_order_relaxed);
	atomic_store_explicit(bucket, value + 1, memory_order_relaxed);
}

static void quantiles(struct fcu_client *client, uint64_t *ret_p50, uint64_t *ret_p99) {
	uint64_t total = 0;
	uint64_t sum = 0;
	*ret_p50 = *ret_p99 = 0;
	for (unsigned int i = 0; i < FCU_BUCKETS; i++)
		total += atomic_load_explicit(&client->buckets[i], memory_order_relaxed);
	for (unsigned int i = 0; i < FCU_BUCKETS && total > 0; i++) {
		uint64_t before = sum;
		sum += atomic_load_explicit(&client->buckets[i], memory_order_relaxed);
		if (before * 2 < total && sum * 2 >= total)
			*ret_p50 = bucket_end(i);
		if (before * 100 < total * 99 && sum * 100 >= total * 99)
			*ret_p99 = bucket_end(i);
	}
}

static uint64_t get(_Atomic uint64_t *counter) {
	return atomic_load_explicit(counter, memory_order_relaxed);
}

void fcu_client_sum(struct fcu_client *client, struct fc_page_counters *sum) {
	sum->faults += get(&client->counters.faults);
	sum->replayed += get(&client->counters.replayed);
	sum->around += get(&client->counters.around);
	sum->zero += get(&client->counters.zero);
	sum->bytes += get(&client->counters.bytes);
	sum->removed += get(&client->counters.removed);
}

void fcu_client_describe(struct fcu_client *client, struct fc_page_client *ret_client) {
	*ret_client = (struct fc_page_client){
	        .id = client->id,
	        .pid = client->pid,
	        .uid = client->uid,
	        .state = (enum fc_page_client_state)atomic_load(&client->state),
	        .recording = atomic_load(&client->recording),
	        .prefill_ns = get(&client->prefill_ns),
	        .recorded = get(&client->recorded),
	        .error = client->error,
	};
	fcu_client_sum(client, &ret_client->counters);
	quantiles(client, &ret_client->p50_ns, &ret_client->p99_ns);
}
