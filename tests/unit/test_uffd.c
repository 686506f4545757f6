// SPDX-License-Identifier: Apache-2.0
/*
 * tests/unit/test_uffd.c: the page server against real userfaultfds, with child processes in Firecracker's place
 * (fake_vm.h). Each child checks the content of every page that it touches.
 */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>
#include <time.h>

#include <cmocka.h>

#include "fake_vm.h"
#include "uffd/page_server.h"

enum { PAGES = 2048, SIZE = PAGES * VM_PAGE, CLIENTS = 256 };

static char directory[] = "/tmp/fcvm-test-uffd-XXXXXX";
static const char SOCKET[] = "uffd.sock";

static struct fc_page_server *server;
static int listener = -1;
static int memory_fd = -1;
static struct fc_page_client clients[CLIENTS];

static void make_memory(const char *path, size_t pages) {
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	uint8_t page[VM_PAGE];
	for (size_t i = 0; i < pages; i++) {
		vm_fill_page(page, i);
		assert_int_equal(write(fd, page, sizeof page), sizeof page);
	}
	close(fd);
}

static int setup_directory(void **state) {
	(void)state;
	if (!mkdtemp(directory) || chdir(directory) < 0)
		return -1;
	make_memory("memory.bin", PAGES);
	return 0;
}

static int remove_directory(void **state) {
	(void)state;
	char command[][16] = {"memory.bin", "page-map.bin", "set.bin", "short.bin", "huge.bin"};
	for (size_t i = 0; i < sizeof command / sizeof command[0]; i++)
		unlink(command[i]);
	return chdir("/") == 0 && rmdir(directory) == 0 ? 0 : -1;
}

/* Starts a server over the file; knobs other than those two are taken from `options`. */
static void start(const char *path, struct fc_page_server_options options) {
	struct fc_error error = {0};
	listener = fc_page_listen(SOCKET, 0600, &error);
	assert_true(listener >= 0);
	memory_fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(memory_fd >= 0);
	options.listener = listener;
	options.memory = memory_fd;
	if (options.workers == 0)
		options.workers = 2;
	if (fc_page_server_start(&options, &server, &error) < 0)
		fail_msg("%s: %s", error.op, error.message);
}

static int stop(void **state) {
	(void)state;
	fc_page_server_free(server);
	server = NULL;
	if (listener >= 0)
		close(listener);
	if (memory_fd >= 0)
		close(memory_fd);
	listener = memory_fd = -1;
	unlink(SOCKET);
	return 0;
}

static const struct fc_page_client *find(pid_t pid) {
	size_t count = fc_page_server_clients(server, clients, CLIENTS);
	for (size_t i = 0; i < count && i < CLIENTS; i++) {
		if (clients[i].pid == pid)
			return &clients[i];
	}
	return NULL;
}

/* Waits for the server to tell that a VM is in this state, by its eventfd; 20 s at most. */
static const struct fc_page_client *await(pid_t pid, enum fc_page_client_state state) {
	time_t limit = time(NULL) + 20;
	for (;;) {
		const struct fc_page_client *client = find(pid);
		if (client && client->state == state)
			return client;
		if (time(NULL) > limit)
			fail_msg("VM %d is not in state %d but in %d: %s", (int)pid, (int)state,
			         client ? (int)client->state : -1, client ? client->error.message : "");
		struct pollfd ready = {.fd = fc_page_server_fileno(server), .events = POLLIN};
		uint64_t count;
		if (poll(&ready, 1, 200) == 1)
			assert_int_equal(read(ready.fd, &count, sizeof count), sizeof count);
	}
}

/* A VM goes on before what woke it is counted, so that the last of it comes a little later: waits for that, 20 s at
 * most. */
#define EXPECT_SOON(pid, client, condition)                                                                            \
	do {                                                                                                           \
		time_t expect_limit = time(NULL) + 20;                                                                 \
		do {                                                                                                   \
			sched_yield();                                                                                 \
			(client) = find(pid);                                                                          \
			assert_non_null(client);                                                                       \
			if (time(NULL) > expect_limit)                                                                 \
				fail_msg("not within 20 s: %s", #condition);                                           \
		} while (!(condition));                                                                                \
	} while (0)

static void finish_job(struct fc_job *job, uint64_t *ret_count, uint64_t *ret_total) {
	struct fc_error error = {0};
	struct pollfd ready = {.fd = fc_job_fileno(job), .events = POLLIN};
	assert_int_equal(poll(&ready, 1, 20000), 1);
	if (fc_job_result(job, ret_count, ret_total, &error) != 1)
		fail_msg("%s %s: %s (%d)", error.op, error.subject, error.message, error.err);
	fc_job_free(job);
}

/* Bodies. */

static void touch_all(struct vm *vm, const char *path, const void *argument) {
	const size_t *step = argument;
	vm_make_memory(vm, SIZE, 0);
	vm_join(vm, path, VM_PAGE);
	vm_say(vm);
	vm_await(vm);
	for (size_t i = 0; i < PAGES; i += *step)
		VM_CHECK(vm_page_right(vm->memory + i * VM_PAGE, i));
	vm_say(vm);
	vm_await(vm);
}

static const size_t one = 1;
static const size_t seven = 7;

/* Takes `wanted` ended clients: that one has ended is told a moment before it can be taken. */
static size_t reap_soon(struct fc_page_client *ended, size_t room, size_t wanted) {
	size_t count = 0;
	for (int i = 0; i < 5000 && count < wanted; i++) {
		count += fc_page_server_reap(server, ended + count, room - count);
		if (count < wanted)
			usleep(1000);
	}
	return count;
}

/* Tests. */

static void serves_on_demand(void **state) {
	(void)state;
	start("memory.bin", (struct fc_page_server_options){0});
	struct vm_child child = vm_start(touch_all, SOCKET, &one);
	assert_true(vm_hear(&child));
	await(child.pid, FC_PAGE_SERVING);
	vm_go(&child);
	assert_true(vm_hear(&child));
	const struct fc_page_client *client;
	EXPECT_SOON(child.pid, client, client->counters.bytes == SIZE);
	assert_int_equal(client->uid, geteuid());
	/* Sixteen at a time, but for probes: far fewer faults than pages. */
	assert_true(client->counters.faults >= PAGES / 16);
	assert_true(client->counters.faults < PAGES / 4);
	assert_int_equal(client->counters.zero, 0);
	assert_true(client->p50_ns > 0 && client->p50_ns <= client->p99_ns);
	vm_go(&child);
	assert_int_equal(vm_end(&child), 0);
	await(child.pid, FC_PAGE_ENDED);
	struct fc_page_client taken[4];
	uint64_t bytes = fc_page_server_stats(server).counters.bytes;
	assert_int_equal(reap_soon(taken, 4, 1), 1);
	assert_int_equal(taken[0].pid, child.pid);
	assert_int_equal(fc_page_server_reap(server, taken, 4), 0);
	assert_int_equal(fc_page_server_stats(server).counters.bytes, bytes);
	assert_int_equal(fc_page_server_stats(server).clients, 0);
}

static void zero_pages_cost_no_memory(void **state) {
	(void)state;
	struct fc_job *job;
	uint64_t zero;
	uint64_t pages;
	assert_int_equal(fc_job_index("memory.bin", "page-map.bin", &job, NULL), 0);
	finish_job(job, &zero, &pages);
	assert_int_equal(pages, PAGES);
	assert_int_equal(zero, PAGES / 8);
	start("memory.bin", (struct fc_page_server_options){.page_map = "page-map.bin"});
	struct vm_child child = vm_start(touch_all, SOCKET, &one);
	assert_true(vm_hear(&child));
	vm_go(&child);
	assert_true(vm_hear(&child));
	const struct fc_page_client *client;
	EXPECT_SOON(child.pid, client, client->counters.bytes == SIZE - SIZE / 8);
	assert_int_equal(client->counters.zero, PAGES / 8);
	vm_go(&child);
	assert_int_equal(vm_end(&child), 0);
}

static void records_and_replays(void **state) {
	(void)state;
	struct fc_job *job;
	uint64_t pages;
	uint64_t total;
	start("memory.bin", (struct fc_page_server_options){.record = true, .quiet_ms = 50});
	assert_int_equal(fc_page_server_recording(server, "set.bin", 0, &job, NULL), -ENODATA);
	struct vm_child child = vm_start(touch_all, SOCKET, &seven);
	assert_true(vm_hear(&child));
	vm_go(&child);
	assert_true(vm_hear(&child));
	const struct fc_page_client *client;
	size_t touched = (PAGES + 6) / 7;
	EXPECT_SOON(child.pid, client, client->recorded == touched);
	assert_true(client->recording);
	assert_int_equal(client->counters.bytes, touched * VM_PAGE);
	for (int i = 0; fc_page_server_stats(server).recording != FC_PAGE_RECORDING_SETTLED; i++) {
		struct pollfd ready = {.fd = fc_page_server_fileno(server), .events = POLLIN};
		assert_true(i < 100);
		if (poll(&ready, 1, 200) == 1)
			assert_int_equal(read(ready.fd, &total, sizeof total), sizeof total);
	}
	assert_int_equal(fc_page_server_recording(server, "set.bin", child.pid, &job, NULL), 0);
	finish_job(job, &pages, &total);
	assert_int_equal(pages, touched);
	assert_int_equal(fc_page_server_replay(server, "set.bin", NULL), 0);
	struct vm_child second = vm_start(touch_all, SOCKET, &seven);
	assert_true(vm_hear(&second));
	client = await(second.pid, FC_PAGE_SERVING);
	assert_int_equal(client->counters.replayed, touched);
	assert_true(client->prefill_ns > 0);
	vm_go(&second);
	assert_true(vm_hear(&second));
	client = find(second.pid);
	assert_int_equal(client->counters.faults, 0);
	assert_false(client->recording);
	vm_go(&second);
	vm_go(&child);
	assert_int_equal(vm_end(&second), 0);
	assert_int_equal(vm_end(&child), 0);
}

/* Removed memory reads as zero from then on, and what was not removed is untouched by that. */
static void remove_some(struct vm *vm, const char *path, const void *argument) {
	(void)argument;
	static const uint8_t zero[VM_PAGE];
	vm_make_memory(vm, SIZE, 0);
	vm_join(vm, path, VM_PAGE);
	VM_CHECK(vm_page_right(vm->memory, 0));
	/* Touched and untouched pages, over both regions' border. */
	size_t first = PAGES / 2 - 8;
	VM_CHECK(madvise(vm->memory, 32 * VM_PAGE, MADV_DONTNEED) == 0);
	VM_CHECK(madvise(vm->memory + first * VM_PAGE, 16 * VM_PAGE, MADV_DONTNEED) == 0);
	for (size_t i = 0; i < 40; i++)
		VM_CHECK(i < 32 ? memcmp(vm->memory + i * VM_PAGE, zero, VM_PAGE) == 0
		                : vm_page_right(vm->memory + i * VM_PAGE, i));
	for (size_t i = first - 1; i < first + 18; i++)
		VM_CHECK(i >= first && i < first + 16 ? memcmp(vm->memory + i * VM_PAGE, zero, VM_PAGE) == 0
		                                      : vm_page_right(vm->memory + i * VM_PAGE, i));
	vm_say(vm);
	vm_await(vm);
}

static void removed_pages_are_zero(void **state) {
	(void)state;
	start("memory.bin", (struct fc_page_server_options){0});
	struct vm_child child = vm_start(remove_some, SOCKET, NULL);
	assert_true(vm_hear(&child));
	const struct fc_page_client *client;
	EXPECT_SOON(child.pid, client, client->counters.zero == 48);
	assert_int_equal(client->counters.removed, 48);
	vm_go(&child);
	assert_int_equal(vm_end(&child), 0);
}

/* One thread gives memory back and takes it again while another faults: copies then fail with EAGAIN now and then. */
static atomic_bool removing_ended;

static void *keep_removing(void *argument) {
	const struct vm *vm = argument;
	for (size_t round = 0; round < 400; round++) {
		uint8_t *at = vm->memory + (round % 64) * VM_PAGE;
		VM_CHECK(madvise(at, 64 * VM_PAGE, MADV_DONTNEED) == 0);
		VM_CHECK(at[17] == 0);
	}
	atomic_store(&removing_ended, true);
	return NULL;
}

static void remove_while_faulting(struct vm *vm, const char *path, const void *argument) {
	(void)argument;
	pthread_t thread;
	vm_make_memory(vm, SIZE, 0);
	vm_join(vm, path, VM_PAGE);
	VM_CHECK(pthread_create(&thread, NULL, keep_removing, vm) == 0);
	for (size_t i = 128; i < PAGES; i++)
		VM_CHECK(vm_page_right(vm->memory + i * VM_PAGE, i));
	VM_CHECK(pthread_join(thread, NULL) == 0);
	VM_CHECK(atomic_load(&removing_ended));
}

static void removals_and_copies_at_once(void **state) {
	(void)state;
	for (int replay = 0; replay < 2; replay++) {
		start("memory.bin",
		      (struct fc_page_server_options){.working_set = replay ? "set.bin" : NULL, .workers = 1});
		struct vm_child child = vm_start(remove_while_faulting, SOCKET, NULL);
		assert_int_equal(vm_end(&child), 0);
		await(child.pid, FC_PAGE_ENDED);
		stop(NULL);
	}
}

/* Eight threads fault on the same pages. */
static void *touch_in_order(void *argument) {
	const struct vm *vm = argument;
	for (size_t i = 0; i < PAGES; i += 5)
		VM_CHECK(vm_page_right(vm->memory + i * VM_PAGE, i));
	return NULL;
}

static void touch_by_threads(struct vm *vm, const char *path, const void *argument) {
	(void)argument;
	pthread_t threads[8];
	vm_make_memory(vm, SIZE, 0);
	vm_join(vm, path, VM_PAGE);
	for (size_t i = 0; i < 8; i++)
		VM_CHECK(pthread_create(&threads[i], NULL, touch_in_order, vm) == 0);
	for (size_t i = 0; i < 8; i++)
		VM_CHECK(pthread_join(threads[i], NULL) == 0);
}

static void threads_that_fault_together(void **state) {
	(void)state;
	start("memory.bin", (struct fc_page_server_options){.page_map = "page-map.bin"});
	struct vm_child child = vm_start(touch_by_threads, SOCKET, NULL);
	assert_int_equal(vm_end(&child), 0);
	await(child.pid, FC_PAGE_ENDED);
}

/* Bad handshakes. Each says something, and then waits for the server's answer: its death or the end of the connection.
 */
struct bad {
	const char *text; /* %llx stands for the memory's address; NULL: nothing is sent */
	int descriptors;  /* 0 to 2 */
	bool no_userfaultfd;
	bool no_api;
	bool leaves; /* closes the connection after what it said */
	int err;
	int ends; /* 0, or 1009: killed */
};

static void send_with(int socket, const char *text, const int *fds, size_t count) {
	union {
		char buffer[CMSG_SPACE(2 * sizeof(int))];
		struct cmsghdr align;
	} control = {.buffer = {0}};
	struct iovec part = {.iov_base = (void *)(uintptr_t)text, .iov_len = strlen(text)};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
	if (count > 0) {
		message.msg_control = control.buffer;
		message.msg_controllen = CMSG_SPACE(count * sizeof(int));
		struct cmsghdr *header = CMSG_FIRSTHDR(&message);
		header->cmsg_level = SOL_SOCKET;
		header->cmsg_type = SCM_RIGHTS;
		header->cmsg_len = CMSG_LEN(count * sizeof(int));
		memcpy(CMSG_DATA(header), fds, count * sizeof(int));
	}
	VM_CHECK(sendmsg(socket, &message, MSG_NOSIGNAL) == (ssize_t)strlen(text));
}

static void say_badly(struct vm *vm, const char *path, const void *argument) {
	const struct bad *bad = argument;
	static char text[70000];
	char byte;
	int fds[2];
	vm_make_memory(vm, SIZE, 0);
	fds[0] = bad->no_userfaultfd ? open("/dev/null", O_RDONLY | O_CLOEXEC)
	         : bad->no_api       ? (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK)
	                             : vm->uffd;
	fds[1] = fds[0];
	vm->socket = vm_connect(path);
	VM_CHECK(vm->socket >= 0);
	if (bad->text) {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
		snprintf(text, sizeof text, bad->text, (unsigned long long)(uintptr_t)vm->memory,
		         (unsigned long long)(uintptr_t)vm->memory);
#pragma GCC diagnostic pop
		send_with(vm->socket, text, fds, (size_t)bad->descriptors);
	}
	if (bad->leaves) {
		close(vm->socket);
		/* One that has ended before it is accepted leaves no trace. */
		vm_await(vm);
	} else {
		VM_CHECK(read(vm->socket, &byte, 1) <= 0);
	}
	/* Where it is to be killed, it is not to get further than this. */
	if (bad->ends)
		pause();
}

#define REGION(address, size, offset)                                                                                  \
	"{\"base_host_virt_addr\":" address ",\"size\":" size ",\"offset\":" offset ",\"page_size\":4096}"

static void bad_handshakes(void **state) {
	(void)state;
	static char many[70000] = "[";
	for (size_t i = 0; i < 65; i++)
		sprintf(many + strlen(many), "%s" REGION("%zu", "4096", "%zu"), i ? "," : "", i * 8192 + 4096,
		        i * 4096);
	strcat(many, "]");
	static char endless[66000] = "[1";
	memset(endless + 2, ' ', 65900);
	const struct bad list[] = {
	        {.text = "GET / HTTP/1.0\r\n\r\n", .err = EPROTO},
	        {.text = "{\"regions\":[]}", .err = EPROTO},
	        {.err = ETIMEDOUT},
	        {.text = "[{\"base_host", .err = ETIMEDOUT},
	        {.text = "[{\"base_host", .descriptors = 1, .err = ETIMEDOUT, .ends = 1009},
	        {.text = "[{\"base_host", .leaves = true, .err = ECONNRESET},
	        {.text = "[]", .descriptors = 1, .err = EPROTO, .ends = 1009},
	        {.text = "[1,2]", .descriptors = 1, .err = EPROTO, .ends = 1009},
	        {.text = "[" REGION("%llu", "4096", "0") "]", .err = EPROTO},
	        {.text = "[" REGION("%llu", "4096", "0") "]", .descriptors = 2, .err = EPROTO, .ends = 1009},
	        {.text = "[" REGION("%llu", "4096", "0") "]", .descriptors = 2, .no_userfaultfd = true, .err = EPROTO},
	        {.text = "[" REGION("%llu", "4096", "0") "]", .descriptors = 1, .no_userfaultfd = true, .err = EPROTO},
	        {.text = "[" REGION("%llu", "4096", "0") "]",
	         .descriptors = 1,
	         .no_api = true,
	         .err = EPROTO,
	         .ends = 1009},
	        {.text = "[" REGION("%llu", "4097", "0") "]", .descriptors = 1, .err = EPROTO, .ends = 1009},
	        {.text = "[" REGION("%llu", "8388608", "4096") "]", .descriptors = 1, .err = EPROTO, .ends = 1009},
	        {.text = "[" REGION("%llu", "-4096", "0") "]", .descriptors = 1, .err = EPROTO, .ends = 1009},
	        {.text = "[" REGION("%llu", "1e30", "0") "]", .descriptors = 1, .err = EPROTO, .ends = 1009},
	        {.text = "[" REGION("%llu", "8192", "0") "," REGION("%llu", "4096", "8192") "]",
	         .descriptors = 1,
	         .err = EPROTO,
	         .ends = 1009},
	        {.text = many, .descriptors = 1, .err = EPROTO, .ends = 1009},
	        {.text = endless, .descriptors = 1, .err = EMSGSIZE, .ends = 1009},
	};
	start("memory.bin", (struct fc_page_server_options){.handshake_ms = 150});
	for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
		struct vm_child child = vm_start(say_badly, SOCKET, &list[i]);
		const struct fc_page_client *client = await(child.pid, FC_PAGE_FAILED);
		if (list[i].leaves)
			vm_go(&child);
		int ended = vm_end(&child);
		if (client->error.err != list[i].err || ended != list[i].ends)
			fail_msg("handshake %zu: errno %d (%s), ended %d", i, client->error.err, client->error.message,
			         ended);
	}
	/* After all that it serves as before. */
	struct vm_child child = vm_start(touch_all, SOCKET, &seven);
	vm_go(&child);
	vm_go(&child);
	assert_int_equal(vm_end(&child), 0);
}

/* The message may come in pieces. */
static void say_slowly(struct vm *vm, const char *path, const void *argument) {
	(void)argument;
	char text[256];
	vm_make_memory(vm, SIZE, 0);
	vm->socket = vm_connect(path);
	VM_CHECK(vm->socket >= 0);
	snprintf(text, sizeof text, "[{\"base_host_virt_addr\":%llu,\"size\":%d,\"offset\":0,\"page_size_kib\":4096}]",
	         (unsigned long long)(uintptr_t)vm->memory, SIZE);
	int uffd = vm->uffd;
	for (char *at = text; *at; at++) {
		char one_byte[2] = {*at, '\0'};
		send_with(vm->socket, one_byte, &uffd, at == text ? 1 : 0);
	}
	VM_CHECK(vm_page_right(vm->memory, 0));
}

static void handshake_in_pieces(void **state) {
	(void)state;
	start("memory.bin", (struct fc_page_server_options){0});
	struct vm_child child = vm_start(say_slowly, SOCKET, NULL);
	assert_int_equal(vm_end(&child), 0);
}

/* A process has one connection; a second one is refused, and the first goes on. */
static void connect_twice(struct vm *vm, const char *path, const void *argument) {
	(void)argument;
	char byte;
	vm_make_memory(vm, SIZE, 0);
	vm_join(vm, path, VM_PAGE);
	int second = vm_connect(path);
	VM_CHECK(second >= 0);
	VM_CHECK(read(second, &byte, 1) <= 0);
	for (size_t i = 0; i < PAGES; i += 100)
		VM_CHECK(vm_page_right(vm->memory + i * VM_PAGE, i));
}

static void one_connection_a_process(void **state) {
	(void)state;
	start("memory.bin", (struct fc_page_server_options){0});
	struct vm_child child = vm_start(connect_twice, SOCKET, NULL);
	assert_int_equal(vm_end(&child), 0);
	assert_int_equal(fc_page_server_clients(server, clients, CLIENTS), 2);
	assert_int_equal(clients[1].state, FC_PAGE_FAILED);
	assert_int_equal(clients[1].error.err, EALREADY);
}

/* A fault outside what was told can never be answered. */
static void touch_outside(struct vm *vm, const char *path, const void *argument) {
	(void)argument;
	vm_make_memory(vm, SIZE, 0);
	uint8_t *other = mmap(NULL, VM_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	VM_CHECK(vm_register(vm->uffd, other, VM_PAGE) == 0);
	vm_join(vm, path, VM_PAGE);
	VM_CHECK(vm_page_right(vm->memory, 0));
	VM_CHECK(other[0] == 0);
}

static void fault_outside_is_the_end(void **state) {
	(void)state;
	start("memory.bin", (struct fc_page_server_options){0});
	struct vm_child child = vm_start(touch_outside, SOCKET, NULL);
	assert_int_equal(vm_end(&child), 1009);
	assert_int_equal(await(child.pid, FC_PAGE_FAILED)->error.err, EFAULT);
}

static void too_many_at_once(void **state) {
	(void)state;
	start("memory.bin", (struct fc_page_server_options){.clients_max = 1});
	struct vm_child first = vm_start(touch_all, SOCKET, &seven);
	assert_true(vm_hear(&first));
	await(first.pid, FC_PAGE_SERVING);
	struct vm_child second = vm_start(touch_all, SOCKET, &seven);
	assert_int_equal(await(second.pid, FC_PAGE_FAILED)->error.err, EUSERS);
	assert_int_equal(vm_end(&second), 1009);
	vm_go(&first);
	vm_go(&first);
	assert_int_equal(vm_end(&first), 0);
}

static void copy_file(const char *from, const char *to) {
	char *data;
	size_t size;
	assert_int_equal(fc_io_read_file(from, (size_t)64 << 20, &data, &size, NULL), 0);
	int fd = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(fc_io_write_full(fd, data, size), 0);
	assert_int_equal(fsync(fd), 0);
	close(fd);
	free(data);
}

/* A memory file cut short under the server: at a page's border, and inside a page, where the rest would read as zeros.
 */
static void memory_cut_short(void **state) {
	(void)state;
	static const off_t sizes[] = {SIZE / 2, 0, SIZE / 2 + 100, SIZE - 1};
	for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
		copy_file("memory.bin", "short.bin");
		start("short.bin", (struct fc_page_server_options){.around = 1});
		struct vm_child child = vm_start(touch_all, SOCKET, &one);
		assert_true(vm_hear(&child));
		await(child.pid, FC_PAGE_SERVING);
		assert_int_equal(truncate("short.bin", sizes[i]), 0);
		vm_go(&child);
		assert_int_equal(vm_end(&child), 1009);
		const struct fc_page_client *client = await(child.pid, FC_PAGE_FAILED);
		assert_int_equal(client->error.err, EFAULT);
		assert_non_null(strstr(client->error.message, "cut short"));
		stop(NULL);
	}
}

static void working_set_cut_short(void **state) {
	(void)state;
	copy_file("set.bin", "short.bin");
	start("memory.bin", (struct fc_page_server_options){.working_set = "short.bin", .workers = 1});
	assert_int_equal(truncate("short.bin", 4096 + 100), 0);
	struct vm_child child = vm_start(touch_all, SOCKET, &one);
	vm_go(&child);
	vm_go(&child);
	/* It is killed where it may have got wrong pages, and served on demand where the contents never came. */
	int ended = vm_end(&child);
	assert_true(ended == 1009 || ended == 0);
}

/* Drops a file from the page cache; what is dirty or mapped stays, so it is synced first. */
static void make_cold(const char *path) {
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(fdatasync(fd), 0);
	assert_int_equal(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
	close(fd);
}

static size_t count_cached(const char *path) {
	static unsigned char vector[4 * PAGES];
	size_t count = 0;
	struct stat stat_of;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0 && fstat(fd, &stat_of) == 0);
	size_t pages = (size_t)stat_of.st_size / VM_PAGE;
	assert_true(pages <= sizeof vector);
	void *map = mmap(NULL, (size_t)stat_of.st_size, PROT_READ, MAP_SHARED, fd, 0);
	assert_true(map != MAP_FAILED);
	assert_int_equal(mincore(map, (size_t)stat_of.st_size, vector), 0);
	for (size_t i = 0; i < pages; i++)
		count += vector[i] & 1;
	munmap(map, (size_t)stat_of.st_size);
	close(fd);
	return count;
}

static void cold_page_cache(void **state) {
	(void)state;
	copy_file("memory.bin", "short.bin");
	for (int replay = 0; replay < 2; replay++) {
		make_cold("short.bin");
		make_cold("set.bin");
		if (count_cached("short.bin") == PAGES) {
			print_message("skipped: this file system keeps its files in memory\n");
			skip();
		}
		start("short.bin", (struct fc_page_server_options){.working_set = replay ? "set.bin" : NULL});
		struct vm_child child = vm_start(touch_all, SOCKET, &seven);
		assert_true(vm_hear(&child));
		const struct fc_page_client *client = await(child.pid, FC_PAGE_SERVING);
		assert_int_equal(client->counters.replayed, replay ? (PAGES + 6) / 7 : 0);
		vm_go(&child);
		assert_true(vm_hear(&child));
		vm_go(&child);
		assert_int_equal(vm_end(&child), 0);
		stop(NULL);
	}
	/* What was replayed from cold was read past the page cache. */
	assert_true(count_cached("set.bin") < 32);
}

static void warms_the_page_cache(void **state) {
	(void)state;
	struct fc_job *job;
	uint64_t bytes;
	uint64_t total;
	copy_file("memory.bin", "short.bin");
	make_cold("short.bin");
	size_t before = count_cached("short.bin");
	assert_int_equal(fc_job_warm("short.bin", "set.bin", &job, NULL), 0);
	finish_job(job, &bytes, &total);
	assert_int_equal(bytes, total);
	/* Every seventh page: the gaps are small, so that all of it is one range. */
	assert_true(total >= SIZE / 7);
	assert_true(before == PAGES || count_cached("short.bin") > PAGES * 9 / 10);
}

static void swapped_and_damaged_files(void **state) {
	(void)state;
	struct fc_error error;
	struct fc_page_server *none = NULL;
	make_memory("short.bin", PAGES / 2);
	copy_file("set.bin", "huge.bin");
	assert_int_equal(truncate("huge.bin", 8192), 0);
	listener = fc_page_listen(SOCKET, 0600, NULL);
	memory_fd = open("memory.bin", O_RDONLY | O_CLOEXEC);
	int other = open("short.bin", O_RDONLY | O_CLOEXEC);
	struct fc_page_server_options options = {.listener = listener, .memory = memory_fd, .working_set = "huge.bin"};
	assert_int_equal(fc_page_server_start(&options, &none, &error), -EBADMSG);
	options.working_set = "memory.bin";
	assert_int_equal(fc_page_server_start(&options, &none, &error), -EBADMSG);
	options.working_set = "none.bin";
	assert_int_equal(fc_page_server_start(&options, &none, &error), -ENOENT);
	options.working_set = NULL;
	options.page_map = "set.bin";
	assert_int_equal(fc_page_server_start(&options, &none, &error), -EBADMSG);
	options.page_map = "page-map.bin";
	options.memory = other;
	assert_int_equal(fc_page_server_start(&options, &none, &error), -ESTALE);
	options.page_map = NULL;
	options.working_set = "set.bin";
	assert_int_equal(fc_page_server_start(&options, &none, &error), -ESTALE);
	options.working_set = NULL;
	options.listener = other;
	assert_int_equal(fc_page_server_start(&options, &none, &error), -EINVAL);
	options.listener = listener;
	options.memory = listener;
	assert_int_equal(fc_page_server_start(&options, &none, &error), -EINVAL);
	options.memory = memory_fd;
	options.around = 3;
	assert_int_equal(fc_page_server_start(&options, &none, &error), -EINVAL);
	assert_null(none);
	close(other);
}

/* Ends while VMs live, in every state: they are killed, and none has seen a zero page in a page's place. */
static void ends_while_clients_live(void **state) {
	(void)state;
	struct vm_child children[9];
	start("memory.bin", (struct fc_page_server_options){.working_set = "set.bin"});
	for (size_t i = 0; i < 8; i++)
		children[i] = vm_start(touch_all, SOCKET, &one);
	for (size_t i = 0; i < 8; i++) {
		assert_true(vm_hear(&children[i]));
		if (i > 1)
			vm_go(&children[i]);
	}
	static const struct bad half = {.text = "[{\"base", .descriptors = 1, .ends = 1009};
	children[8] = vm_start(say_badly, SOCKET, &half);
	await(children[8].pid, FC_PAGE_HANDSHAKE);
	fc_page_server_free(server);
	server = NULL;
	for (size_t i = 0; i < 9; i++)
		assert_int_equal(vm_end(&children[i]), 1009);
}

/* Whoever stands in the queue with its userfaultfd sent is killed too. */
static void ends_with_clients_in_the_queue(void **state) {
	(void)state;
	int pipe_fds[2];
	start("memory.bin", (struct fc_page_server_options){0});
	assert_int_equal(pipe2(pipe_fds, O_CLOEXEC), 0);
	fc_page_server_free(server);
	server = NULL;
	struct vm_child child = vm_start(touch_all, SOCKET, &one);
	assert_true(vm_hear(&child));
	/* The next server of this socket gets it from the queue and ends at once, whether it took it or not. */
	struct fc_page_server_options options = {.listener = listener, .memory = memory_fd, .workers = 1};
	assert_int_equal(fc_page_server_start(&options, &server, NULL), 0);
	fc_page_server_free(server);
	server = NULL;
	assert_int_equal(vm_end(&child), 1009);
	close(pipe_fds[0]);
	close(pipe_fds[1]);
}

static void clients_killed_at_any_moment(void **state) {
	(void)state;
	start("memory.bin", (struct fc_page_server_options){.working_set = "set.bin"});
	for (unsigned int i = 0; i < 30; i++) {
		struct vm_child child = vm_start(touch_all, SOCKET, &one);
		if (i % 3 > 0)
			vm_hear(&child);
		vm_go(&child);
		/* Somewhere in its replay or its touches; no moment is waited for, since any will do. */
		struct timespec while_it_runs = {.tv_nsec = i * 100000};
		nanosleep(&while_it_runs, NULL);
		kill(child.pid, SIGKILL);
		assert_int_equal(vm_end(&child), 1009);
		/* Before its handshake it counts as one that left in the middle of it, or was never seen. */
		for (int k = 0; fc_page_server_stats(server).living > 0 && k < 100; k++) {
			struct pollfd ready = {.fd = fc_page_server_fileno(server), .events = POLLIN};
			uint64_t count;
			if (poll(&ready, 1, 200) == 1)
				assert_int_equal(read(ready.fd, &count, sizeof count), sizeof count);
		}
		assert_int_equal(fc_page_server_stats(server).living, 0);
	}
	struct vm_child child = vm_start(touch_all, SOCKET, &one);
	vm_go(&child);
	vm_go(&child);
	assert_int_equal(vm_end(&child), 0);
}

static void two_hundred_clients(void **state) {
	(void)state;
	enum { MANY = 200 };
	static struct vm_child children[MANY];
	static const size_t step = 37;
	start("memory.bin", (struct fc_page_server_options){.working_set = "set.bin"});
	for (size_t i = 0; i < MANY; i++)
		children[i] = vm_start(touch_all, SOCKET, &step);
	for (size_t i = 0; i < MANY; i++) {
		assert_true(vm_hear(&children[i]));
		vm_go(&children[i]);
	}
	for (size_t i = 0; i < MANY; i++)
		assert_true(vm_hear(&children[i]));
	assert_int_equal(fc_page_server_stats(server).living, MANY);
	for (size_t i = 0; i < MANY; i++) {
		vm_go(&children[i]);
		assert_int_equal(vm_end(&children[i]), 0);
	}
	for (size_t i = 0; i < MANY; i++)
		await(children[i].pid, FC_PAGE_ENDED);
	assert_int_equal(reap_soon(clients, CLIENTS, MANY), MANY);
	assert_int_equal(fc_page_server_stats(server).clients, 0);
}

/* 2 MiB pages. */
enum { HUGE_PAGES = 3, HUGE_SIZE = HUGE_PAGES * (2 << 20) };

static void touch_huge(struct vm *vm, const char *path, const void *argument) {
	(void)argument;
	char text[256];
	vm_make_memory(vm, HUGE_SIZE, MAP_HUGETLB);
	snprintf(text, sizeof text, "[{\"base_host_virt_addr\":%llu,\"size\":%d,\"offset\":0,\"page_size\":2097152}]",
	         (unsigned long long)(uintptr_t)vm->memory, HUGE_SIZE);
	vm->socket = vm_connect(path);
	VM_CHECK(fc_io_send_fd(vm->socket, text, strlen(text), vm->uffd) == 0);
	vm_say(vm);
	vm_await(vm);
	for (size_t i = 0; i < 1024; i++)
		VM_CHECK(vm_page_right(vm->memory + i * VM_PAGE, i));
	for (size_t i = 2 << 20; i-- > 0;)
		VM_CHECK(vm->memory[(size_t)(4 << 20) + i] == 0);
	vm_say(vm);
	vm_await(vm);
	VM_CHECK(madvise(vm->memory, 2 << 20, MADV_DONTNEED) == 0);
	VM_CHECK(vm->memory[12345] == 0);
}

static char huge_before[32];

static int want_huge_pages(const char *count) {
	return fc_io_write_file("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", count, NULL);
}

static void huge_pages(void **state) {
	(void)state;
	struct fc_job *job;
	uint64_t zero;
	uint64_t pages;
	char *text;
	size_t size;
	if (fc_io_read_file("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", 30, &text, &size, NULL) < 0 ||
	    want_huge_pages("8") < 0) {
		print_message("skipped: only root can reserve huge pages\n");
		skip();
	}
	snprintf(huge_before, sizeof huge_before, "%s", text);
	free(text);
	make_memory("huge.bin", HUGE_SIZE / VM_PAGE);
	int fd = open("huge.bin", O_WRONLY | O_CLOEXEC);
	assert_int_equal(ftruncate(fd, 4 << 20), 0);
	assert_int_equal(ftruncate(fd, HUGE_SIZE), 0);
	close(fd);
	assert_int_equal(fc_job_index("huge.bin", "short.bin", &job, NULL), 0);
	finish_job(job, &zero, &pages);
	start("huge.bin", (struct fc_page_server_options){.page_map = "short.bin", .record = true});
	struct vm_child child = vm_start(touch_huge, SOCKET, NULL);
	if (!vm_hear(&child)) {
		vm_end(&child);
		want_huge_pages(huge_before);
		print_message("skipped: no huge page is free\n");
		skip();
	}
	vm_go(&child);
	assert_true(vm_hear(&child));
	const struct fc_page_client *client;
	EXPECT_SOON(child.pid, client, client->recorded == HUGE_PAGES);
	assert_int_equal(client->counters.faults, HUGE_PAGES);
	assert_int_equal(client->counters.bytes, HUGE_SIZE);
	assert_int_equal(client->counters.zero, 1);
	assert_int_equal(fc_page_server_recording(server, "short.bin", 0, &job, NULL), 0);
	finish_job(job, &zero, &pages);
	assert_int_equal(pages, HUGE_PAGES);
	vm_go(&child);
	assert_int_equal(vm_end(&child), 0);
	assert_int_equal(fc_page_server_replay(server, "short.bin", NULL), 0);
	struct vm_child second = vm_start(touch_huge, SOCKET, NULL);
	assert_true(vm_hear(&second));
	assert_int_equal(await(second.pid, FC_PAGE_SERVING)->counters.replayed, HUGE_PAGES);
	vm_go(&second);
	vm_go(&second);
	assert_int_equal(vm_end(&second), 0);
	assert_int_equal(want_huge_pages(huge_before), 0);
}

static void listens(void **state) {
	(void)state;
	struct fc_error error;
	struct stat stat_of;
	listener = fc_page_listen(SOCKET, 0620, &error);
	assert_true(listener >= 0);
	assert_int_equal(stat(SOCKET, &stat_of), 0);
	assert_int_equal(stat_of.st_mode & 07777, 0620);
	assert_int_equal(fc_page_listen(SOCKET, 0600, &error), -EADDRINUSE);
	close(listener);
	/* What a dead process left is replaced; what is no socket is not. */
	listener = fc_page_listen(SOCKET, 0600, &error);
	assert_true(listener >= 0);
	assert_int_equal(fc_page_listen("memory.bin", 0600, &error), -EADDRINUSE);
	assert_int_equal(fc_page_listen("none/socket", 0600, &error), -ENOENT);
	char path[200];
	memset(path, 'x', sizeof path - 1);
	path[sizeof path - 1] = '\0';
	assert_int_equal(fc_page_listen(path, 0600, &error), -ENAMETOOLONG);
}

static void jobs_fail_and_are_cancelled(void **state) {
	(void)state;
	struct fc_job *job;
	struct fc_error error;
	uint64_t count;
	uint64_t total;
	assert_int_equal(fc_job_index("none.bin", "short.bin", &job, NULL), 0);
	struct pollfd ready = {.fd = fc_job_fileno(job), .events = POLLIN};
	assert_int_equal(poll(&ready, 1, 20000), 1);
	assert_int_equal(fc_job_result(job, &count, &total, &error), -ENOENT);
	assert_int_equal(fc_job_result(job, &count, &total, &error), -ENOENT);
	assert_string_equal(error.subject, "none.bin");
	fc_job_free(job);
	unlink("short.bin");
	assert_int_equal(fc_job_index("memory.bin", "short.bin", &job, NULL), 0);
	fc_job_free(job);
	fc_job_free(NULL);
}

static void probes(void **state) {
	(void)state;
	struct fc_uffd_probe probe;
	fc_uffd_probe(&probe);
	assert_true(probe.userfaultfd);
	assert_int_equal(probe.userfaultfd_error.err, 0);
	assert_true(probe.io_uring || probe.io_uring_error.err > 0);
	assert_true(probe.features & UFFD_FEATURE_EVENT_REMOVE);
}

#define TEST(name) cmocka_unit_test_teardown(name, stop)

int main(void) {
	const struct CMUnitTest tests[] = {
	        TEST(serves_on_demand),
	        TEST(zero_pages_cost_no_memory),
	        TEST(records_and_replays),
	        TEST(removed_pages_are_zero),
	        TEST(removals_and_copies_at_once),
	        TEST(threads_that_fault_together),
	        TEST(bad_handshakes),
	        TEST(handshake_in_pieces),
	        TEST(one_connection_a_process),
	        TEST(fault_outside_is_the_end),
	        TEST(too_many_at_once),
	        TEST(memory_cut_short),
	        TEST(working_set_cut_short),
	        TEST(cold_page_cache),
	        TEST(warms_the_page_cache),
	        TEST(swapped_and_damaged_files),
	        TEST(ends_while_clients_live),
	        TEST(ends_with_clients_in_the_queue),
	        TEST(clients_killed_at_any_moment),
	        TEST(two_hundred_clients),
	        TEST(huge_pages),
	        TEST(listens),
	        TEST(jobs_fail_and_are_cancelled),
	        TEST(probes),
	};
	return cmocka_run_group_tests(tests, setup_directory, remove_directory);
}
