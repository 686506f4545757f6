// SPDX-License-Identifier: Apache-2.0
/* One client. fleet.c starts many. Everything that is not the guest's own work happens before the start or after the
 * end. */
#include "client_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"

enum { HUGE_BYTES = 2 << 20 };

int64_t now_ns(void) {
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000L + now.tv_nsec;
}

void client_fail(struct client *client, const char *format, ...) {
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(client->result->why, sizeof client->result->why, format, arguments);
	va_end(arguments);
	client->result->failed = 1;
	fc_io_write_full(client->done, "f", 1);
	_exit(1);
}

/* Anonymous memory of this process in bytes: pages of the page cache are nobody's own, whatever else smaps calls them.
 */
static uint64_t anonymous_bytes(struct client *client) {
	_cleanup_fclose_ FILE *file = fopen("/proc/self/smaps_rollup", "re");
	char line[256];
	unsigned long kib = 0, huge = 0;
	bool found = false;
	while (file && fgets(line, sizeof line, file)) {
		found |= sscanf(line, "Anonymous: %lu", &kib) == 1;
		sscanf(line, "Private_Hugetlb: %lu", &huge);
	}
	if (!found)
		client_fail(client, "smaps_rollup has no line \"Anonymous\"");
	return (kib + huge) * 1024ul;
}

static void map_anonymous(struct client *client) {
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (client->plan->huge ? MAP_HUGETLB : 0);
	client->memory = mmap(NULL, client->bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
	if (client->memory == MAP_FAILED)
		client_fail(client, "memory: %s", strerror(errno));
}

static void register_memory(struct client *client) {
	client->uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_EVENT_REMOVE};
	struct uffdio_register range = {.range = {(uintptr_t)client->memory, client->bytes},
	                                .mode = UFFDIO_REGISTER_MODE_MISSING};
	if (client->uffd < 0 || ioctl(client->uffd, UFFDIO_API, &api) < 0 ||
	    ioctl(client->uffd, UFFDIO_REGISTER, &range) < 0)
		client_fail(client, "userfaultfd: %s", strerror(errno));
}

static void connect_server(struct client *client) {
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	if (strlen(client->plan->socket) >= sizeof address.sun_path)
		client_fail(client, "the socket's path is too long");
	strcpy(address.sun_path, client->plan->socket);
	client->socket = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (client->socket < 0 || connect(client->socket, (struct sockaddr *)&address, sizeof address) < 0)
		client_fail(client, "connect: %s", strerror(errno));
}

static void shake_hands(struct client *client) {
	char json[256];
	unsigned page = client->plan->huge ? HUGE_BYTES : PAGE_BYTES;
	int length = snprintf(
	        json, sizeof json,
	        "[{\"base_host_virt_addr\":%zu,\"size\":%zu,\"offset\":0,\"page_size\":%u,\"page_size_kib\":%u}]",
	        (size_t)client->memory, client->bytes, page, page);
	int sent = fc_io_send_fd(client->socket, json, (size_t)length, client->uffd);
	if (sent < 0)
		client_fail(client, "handshake: %s", strerror(-sent));
}

static void map_file(struct client *client) {
	_cleanup_close_ int fd = open(client->plan->memory->path, O_RDONLY | O_CLOEXEC);
	client->memory = mmap(NULL, client->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, fd, 0);
	if (fd < 0 || client->memory == MAP_FAILED)
		client_fail(client, "%s: %s", client->plan->memory->path, strerror(errno));
}

static volatile uint64_t *word_at(const struct client *client, uint32_t page, uint32_t index) {
	return (volatile uint64_t *)(client->memory + (size_t)page * PAGE_BYTES) + index;
}

/* Which word of a page the guest's touch reads or writes, and what it writes. */
static uint32_t touched_word(uint32_t page) {
	return (uint32_t)(pages_mix(page) % PAGE_WORDS);
}

static uint64_t written_word(uint32_t page) {
	return ~(uint64_t)page;
}

/*
 * What the balloon gives back: 16 pages of each 64, laid so that a block of 16 that a server fetches as a whole lies
 * across the edge: a page that was removed must then not come back with the snapshot's content.
 */
enum { REMOVED_STRIDE = 64, REMOVED_FIRST = 5, REMOVED_END = 21 };

static bool is_removed(uint32_t page) {
	return page % REMOVED_STRIDE >= REMOVED_FIRST && page % REMOVED_STRIDE < REMOVED_END;
}

static void *remove_ranges(void *argument) {
	struct client *client = argument;
	uint32_t pages = client->plan->memory->pages;
	for (uint32_t page = REMOVED_FIRST; page + REMOVED_END - REMOVED_FIRST <= pages; page += REMOVED_STRIDE)
		/* The call returns when the server has read the event. */
		if (madvise(client->memory + (size_t)page * PAGE_BYTES,
		            (size_t)(REMOVED_END - REMOVED_FIRST) * PAGE_BYTES, MADV_DONTNEED) < 0)
			client_fail(client, "madvise: %s", strerror(errno));
	return NULL;
}

/* What a word must be, but for what the guest wrote. */
static uint64_t expected_word(const struct client *client, uint32_t page, uint32_t index) {
	if (client->plan->early_removals && is_removed(page))
		return 0;
	return memory_word(client->plan->memory, page, index);
}

static void touch_all(struct client *client) {
	const struct client_plan *plan = client->plan;
	struct client_result *result = client->result;
	uint32_t wrong = 0;
	int64_t before = now_ns();
	result->resumed_ns = before;
	for (uint32_t i = 0; i < plan->touches; i++) {
		uint32_t page = plan->order[i], index = touched_word(page);
		volatile uint64_t *word = word_at(client, page, index);
		if (plan->write)
			*word = written_word(page);
		else
			wrong += *word != expected_word(client, page, index);
		int64_t after = now_ns();
		result->latency_ns[i] = after - before < UINT32_MAX ? (uint32_t)(after - before) : UINT32_MAX;
		before = after;
	}
	result->done_ns = before;
	result->wrong += wrong;
}

static void check_page(struct client *client, uint32_t page, bool written) {
	uint64_t differs = 0;
	uint32_t index = touched_word(page);
	for (uint32_t i = 0; i < PAGE_WORDS; i++) {
		uint64_t expected = expected_word(client, page, i);
		if (written && i == index)
			expected = written_word(page);
		differs |= *word_at(client, page, i) ^ expected;
	}
	client->result->wrong += differs != 0;
	client->result->checked++;
}

/*
 * Compares every page that is there, also those that nobody touched: a wrong page that waits beside the working set is
 * as wrong. Reading a page that is not there would bring it, hence the page map.
 */
static void check_present(struct client *client, const bool *touched) {
	enum { BATCH = 4096 };
	_cleanup_close_ int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	_cleanup_free_ uint64_t *entries = malloc(BATCH * sizeof *entries);
	uint32_t pages = client->plan->memory->pages, count;
	for (uint32_t first = 0; first < pages; first += count) {
		count = pages - first < BATCH ? pages - first : BATCH;
		off_t at = (off_t)(((uintptr_t)client->memory / PAGE_BYTES + first) * sizeof *entries);
		ssize_t size = (ssize_t)(count * sizeof *entries);
		if (fd < 0 || !entries || pread(fd, entries, (size_t)size, at) != size)
			client_fail(client, "pagemap: %s", strerror(errno));
		for (uint32_t page = first; page < first + count; page++)
			if (touched[page] || entries[page - first] >> 63)
				check_page(client, page, client->plan->write && touched[page]);
	}
}

static void check_whole(struct client *client, const bool *touched) {
	for (uint32_t page = 0; page < client->plan->memory->pages; page++)
		if (!touched[page])
			check_page(client, page, false);
}

static void check_zero(struct client *client, uint32_t page) {
	uint64_t differs = 0;
	for (uint32_t i = 0; i < PAGE_WORDS; i++)
		differs |= *word_at(client, page, i);
	client->result->wrong += differs != 0;
	client->result->checked++;
}

/* Touches the rest while ranges are removed all around (copies that meet a queued removal fail with EAGAIN), then
 * these. */
static void balloon(struct client *client, const bool *touched) {
	pthread_t thread;
	uint32_t pages = client->plan->memory->pages / REMOVED_STRIDE * REMOVED_STRIDE;
	if (pthread_create(&thread, NULL, remove_ranges, client) != 0)
		client_fail(client, "no thread");
	for (uint32_t page = 0; page < pages; page++)
		if (!is_removed(page))
			check_page(client, page, client->plan->write && touched[page]);
	pthread_join(thread, NULL);
	for (uint32_t page = 0; page < pages; page++)
		if (is_removed(page))
			check_zero(client, page);
}

static void check(struct client *client) {
	const struct client_plan *plan = client->plan;
	_cleanup_free_ bool *touched = calloc(plan->memory->pages, sizeof *touched);
	if (!touched)
		client_fail(client, "no memory");
	for (uint32_t i = 0; i < plan->touches; i++) {
		touched[plan->order[i]] = true;
		client->result->zero += memory_is_zero(plan->memory, plan->order[i]);
	}
	check_present(client, touched);
	if (plan->removals)
		balloon(client, touched);
	else if (plan->whole)
		check_whole(client, touched);
}

/* Blocks until the bench closes the other end, or gives a byte. The bench's death is an end too. */
static void await(struct client *client, int fd, const char *what) {
	char byte;
	if (read(fd, &byte, 1) < 0)
		client_fail(client, "waiting for %s: %s", what, strerror(errno));
}

static void restore(struct client *client) {
	const struct client_plan *plan = client->plan;
	client->result->start_ns = now_ns();
	if (plan->backend == BACKEND_UFFD) {
		connect_server(client);
		shake_hands(client);
	} else {
		if (plan->warm)
			client_warm(client);
		map_file(client);
	}
	client->result->sent_ns = now_ns();
	if (plan->early_removals)
		remove_ranges(client);
}

static void pin(struct client *client) {
	if (client->plan->cpu < 0)
		return;
	cpu_set_t cpus;
	CPU_ZERO(&cpus);
	CPU_SET((size_t)client->plan->cpu, &cpus);
	if (sched_setaffinity(0, sizeof cpus, &cpus) < 0)
		client_fail(client, "CPU %d: %s", client->plan->cpu, strerror(errno));
}

static void delay(const struct client *client, int64_t start_ns) {
	int64_t at = start_ns + client->plan->delay_ns;
	struct timespec when = {.tv_sec = at / 1000000000, .tv_nsec = at % 1000000000};
	while (client->plan->delay_ns && clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &when, NULL) == EINTR)
		;
}

void client_main(struct client *client) {
	client->bytes = (size_t)client->plan->memory->pages * PAGE_BYTES;
	pin(client);
	/* The pages of the result and of the order are touched before the time is taken, not in it. */
	memset(client->result->latency_ns, 1, client->plan->touches * sizeof client->result->latency_ns[0]);
	for (volatile uint32_t i = 0; i < client->plan->touches; i += 256)
		(void)((const volatile uint32_t *)client->plan->order)[i];
	if (client->plan->backend == BACKEND_UFFD) {
		map_anonymous(client);
		register_memory(client);
	}
	uint64_t before = anonymous_bytes(client);
	fc_io_write_full(client->done, "r", 1);
	await(client, client->go, "the start");
	delay(client, *client->start_ns);
	restore(client);
	if (client->plan->hold)
		await(client, client->resume, "the resume");
	touch_all(client);
	fc_io_write_full(client->done, "d", 1);
	await(client, client->check, "the check");
	client->result->private_bytes = anonymous_bytes(client) - before;
	check(client);
	fc_io_write_full(client->done, "c", 1);
	await(client, client->end, "the end");
	_exit(0);
}
