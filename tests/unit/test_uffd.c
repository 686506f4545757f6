// SPDX-License-Identifier: Apache-2.0
/*
 * tests/unit/test_uffd.c: the page server against real userfaultfds, with child processes in Firecracker's place
 * (fake_vm.h). Each child checks the content of every page that it touches.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/resource.h>
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

/* Tests. */

static void serves_on_demand(void **state) {
	(void)state;
	start("memory.bin", (struct fc_page_server_options){0});
	struct vm_child child = vm_start(touch_all, SOCKET, &one);
	assert_true(vm_hear(&child));
	await(child.pid, FC_PAGE_SERVING);
	vm_go(&child);
	assert_true(vm_hear(&child));
	const struct fc_page_client *client = find(child.pid);
	assert_non_null(client);
	assert_int_equal(client->uid, geteuid());
	/* Sixteen at a time, but for probes: far fewer faults than pages. */
	assert_true(client->counters.faults >= PAGES / 16);
	assert_true(client->counters.faults < PAGES / 4);
	assert_int_equal(client->counters.bytes, SIZE);
	assert_int_equal(client->counters.zero, 0);
	assert_true(client->p50_ns > 0 && client->p50_ns <= client->p99_ns);
	vm_go(&child);
	assert_int_equal(vm_end(&child), 0);
	await(child.pid, FC_PAGE_ENDED);
	struct fc_page_client taken[4];
	uint64_t bytes = fc_page_server_stats(server).counters.bytes;
	assert_int_equal(fc_page_server_reap(server, taken, 4), 1);
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
	const struct fc_page_client *client = find(child.pid);
	assert_int_equal(client->counters.zero, PAGES / 8);
	assert_int_equal(client->counters.bytes, SIZE - SIZE / 8);
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
	const struct fc_page_client *client = find(child.pid);
	size_t touched = (PAGES + 6) / 7;
	assert_true(client->recording);
	assert_int_equal(client->recorded, touched);
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

#define TEST(name) cmocka_unit_test_teardown(name, stop)

int main(void) {
	const struct CMUnitTest tests[] = {
	        TEST(serves_on_demand),
	        TEST(zero_pages_cost_no_memory),
	        TEST(records_and_replays),
	};
	return cmocka_run_group_tests(tests, setup_directory, remove_directory);
}
