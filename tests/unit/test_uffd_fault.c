// SPDX-License-Identifier: Apache-2.0
// link: -Wl,--wrap=ioctl
/*
 * tests/unit/test_uffd_fault.c: what core/uffd/fault.c makes of the kernel's answers. The kernel is a script here: each
 * call of ioctl takes the next answer, and what was asked for is kept.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/io.h"
#include "uffd/fault_internal.h"
#include "uffd/uffd_internal.h"
#include "uffd/working_set_internal.h"

enum { PAGES = 64, CALLS = 64, BASE = 1 << 20, ALL = -1 };

/* An answer: done pages (ALL: what was asked for), then the errno (0: none). */
struct reply {
	int64_t done;
	int err;
};

struct call {
	unsigned long request;
	uint64_t page;
	uint64_t count;
	uint64_t source; /* page of the memory file, for a copy */
	bool wakes;
};

static struct reply script[CALLS];
static size_t script_length;
static struct call calls[CALLS];
static size_t call_count;
static struct fcu_memory memory = {.fd = -1};
static struct fcu_page_map map;
static struct fcu_client client;
static char path[] = "/tmp/fcvm-test-uffd-fault-XXXXXX";

int __real_ioctl(int fd, unsigned long request, ...);
int __wrap_ioctl(int fd, unsigned long request, ...);

static int give(int64_t asked, __s64 *result) {
	struct reply reply = call_count < script_length ? script[call_count] : (struct reply){ALL, 0};
	call_count++;
	*result = reply.done == ALL ? asked : reply.done > 0 ? reply.done * (int64_t)FCU_PAGE : -reply.err;
	errno = reply.err;
	return reply.err ? -1 : 0;
}

int __wrap_ioctl(int fd, unsigned long request, ...) {
	va_list arguments;
	va_start(arguments, request);
	void *argument = va_arg(arguments, void *);
	va_end(arguments);
	struct uffdio_copy *copy = argument;
	struct uffdio_zeropage *zero = argument;
	struct uffdio_range *range = argument;
	__s64 ignored;
	assert_true(call_count < CALLS);
	struct call *call = &calls[call_count];
	*call = (struct call){.request = request};
	switch (request) {
	case UFFDIO_COPY:
		call->page = (copy->dst - BASE) / FCU_PAGE;
		call->count = copy->len / FCU_PAGE;
		call->source = (copy->src - (uint64_t)(uintptr_t)memory.map) / FCU_PAGE;
		call->wakes = !(copy->mode & UFFDIO_COPY_MODE_DONTWAKE);
		return give((int64_t)copy->len, &copy->copy);
	case UFFDIO_ZEROPAGE:
		call->page = (zero->range.start - BASE) / FCU_PAGE;
		call->count = zero->range.len / FCU_PAGE;
		call->wakes = !(zero->mode & UFFDIO_ZEROPAGE_MODE_DONTWAKE);
		return give((int64_t)zero->range.len, &zero->zeropage);
	case UFFDIO_WAKE:
		call->page = (range->start - BASE) / FCU_PAGE;
		call->count = range->len / FCU_PAGE;
		call->wakes = true;
		return give(0, &ignored);
	default:
		return __real_ioctl(fd, request, argument);
	}
}

static int setup(void **state) {
	(void)state;
	int fd = mkostemp(strcpy(path, "/tmp/fcvm-test-uffd-fault-XXXXXX"), O_CLOEXEC);
	uint8_t page[FCU_PAGE] = {1};
	for (size_t i = 0; i < PAGES; i++) {
		if (fc_io_write_full(fd, page, sizeof page) < 0)
			return -1;
	}
	if (fcu_memory_open(fd, &memory, NULL) < 0)
		return -1;
	close(fd);
	map = (struct fcu_page_map){.pages = PAGES, .bits = fcu_set_new(PAGES)};
	memset(&client, 0, sizeof client);
	client.memory = &memory;
	client.map = &map;
	client.uffd = 1000;
	client.regions = (struct fcu_regions){
	        .at = {{BASE, PAGES * FCU_PAGE, 0}}, .count = 1, .page_size = FCU_PAGE, .shift = FCU_PAGE_SHIFT};
	client.present = fcu_set_new(PAGES);
	client.removed = fcu_set_new(PAGES);
	fcu_around_init(&client.around, 16, 220);
	/* The first window is probed; not to have to know where, the tests begin after it. */
	client.around.windows = 1;
	script_length = call_count = 0;
	return 0;
}

static int clear(void **state) {
	(void)state;
	free(client.present);
	free(client.removed);
	fcu_page_map_clear(&map);
	fcu_memory_close(&memory);
	return unlink(path);
}

static void expect_call(size_t i, unsigned long request, uint64_t page, uint64_t count, bool wakes) {
	assert_true(i < call_count);
	assert_int_equal(calls[i].request, request);
	assert_int_equal(calls[i].page, page);
	assert_int_equal(calls[i].count, count);
	assert_int_equal(calls[i].wakes, wakes);
	if (request == UFFDIO_COPY)
		assert_int_equal(calls[i].source, page);
}

static int serve(uint64_t page, enum fcu_manner manner) {
	uint64_t offset;
	uint64_t size;
	return fcu_fault_serve(&client, page, fcu_now(), manner, false, &offset, &size);
}

static void answers(const struct reply *replies, size_t count) {
	memcpy(script, replies, count * sizeof *replies);
	script_length = count;
	call_count = 0;
}

#define ANSWERS(...)                                                                                                   \
	answers((const struct reply[]){__VA_ARGS__}, sizeof((const struct reply[]){__VA_ARGS__}) / sizeof(struct reply))

static void page_first_then_neighbours(void **state) {
	(void)state;
	assert_int_equal(serve(21, FCU_WAKE_FIRST), FCU_DONE);
	assert_int_equal(call_count, 3);
	expect_call(0, UFFDIO_COPY, 21, 1, true);
	expect_call(1, UFFDIO_COPY, 16, 5, false);
	expect_call(2, UFFDIO_COPY, 22, 10, false);
	assert_int_equal(client.counters.faults, 1);
	assert_int_equal(client.counters.around, 15);
	assert_int_equal(client.counters.bytes, 16 * FCU_PAGE);
}

static void whole_window_with_one_wake(void **state) {
	(void)state;
	for (uint64_t page = 18; page < 21; page++)
		fcu_add(map.bits, page);
	fcu_add(client.present, 30);
	assert_int_equal(serve(22, FCU_WAKE_LAST), FCU_DONE);
	assert_int_equal(call_count, 4);
	expect_call(0, UFFDIO_COPY, 16, 2, false);
	expect_call(1, UFFDIO_ZEROPAGE, 18, 3, false);
	expect_call(2, UFFDIO_COPY, 31, 1, false);
	expect_call(3, UFFDIO_COPY, 21, 9, true);
	assert_int_equal(client.counters.zero, 3);
}

static void zero_page(void **state) {
	(void)state;
	client.around.most = 1;
	fcu_add(map.bits, 5);
	assert_int_equal(serve(5, FCU_WAKE_FIRST), FCU_DONE);
	assert_int_equal(call_count, 1);
	expect_call(0, UFFDIO_ZEROPAGE, 5, 1, true);
	assert_int_equal(client.counters.bytes, 0);
}

static void removed_page(void **state) {
	(void)state;
	struct uffd_msg event = {.event = UFFD_EVENT_REMOVE,
	                         .arg.remove = {.start = BASE + 16 * FCU_PAGE, .end = BASE + 20 * FCU_PAGE}};
	fcu_add(client.present, 17);
	assert_int_equal(fcu_fault_event(&client, &event, NULL), 0);
	assert_false(fcu_has(client.present, 17));
	assert_int_equal(serve(17, FCU_WAKE_LAST), FCU_DONE);
	assert_int_equal(call_count, 1);
	expect_call(0, UFFDIO_ZEROPAGE, 17, 1, true);
	/* Neighbours that were removed stay away from a window. */
	call_count = 0;
	assert_int_equal(serve(21, FCU_WAKE_LAST), FCU_DONE);
	expect_call(0, UFFDIO_COPY, 20, 12, true);
	assert_int_equal(call_count, 1);
}

static void queued_removal(void **state) {
	(void)state;
	client.around.most = 1;
	ANSWERS({0, EAGAIN});
	assert_int_equal(serve(3, FCU_WAKE_FIRST), FCU_LATER);
	assert_int_equal(client.counters.faults, 0);
	assert_false(fcu_has(client.present, 3));
	/* No progress is no error, however often. */
	ANSWERS({0, EAGAIN});
	assert_int_equal(serve(3, FCU_WAKE_FIRST), FCU_LATER);
	ANSWERS({ALL, 0});
	assert_int_equal(serve(3, FCU_WAKE_FIRST), FCU_DONE);
	assert_int_equal(client.counters.faults, 1);
}

static void removal_while_neighbours_come(void **state) {
	(void)state;
	ANSWERS({ALL, 0}, {2, EAGAIN}, {0, EAGAIN});
	assert_int_equal(serve(16, FCU_WAKE_FIRST), FCU_DONE);
	assert_int_equal(call_count, 3);
	assert_int_equal(client.counters.around, 2);
	assert_true(fcu_has(client.present, 18));
	assert_false(fcu_has(client.present, 19));
}

/* The window's copy stops before the faulted page, or behind it. */
static void removal_in_a_whole_window(void **state) {
	(void)state;
	ANSWERS({4, EAGAIN}, {0, EAGAIN});
	assert_int_equal(serve(22, FCU_WAKE_LAST), FCU_LATER);
	assert_true(fcu_has(client.present, 19));
	ANSWERS({3, EAGAIN}, {0, EAGAIN});
	assert_int_equal(serve(22, FCU_WAKE_LAST), FCU_DONE);
	expect_call(0, UFFDIO_COPY, 20, 12, true);
	assert_true(fcu_has(client.present, 22));
	assert_false(fcu_has(client.present, 23));
}

static void page_that_is_there(void **state) {
	(void)state;
	ANSWERS({0, EEXIST}, {0, 0});
	fcu_add(client.present, 9);
	assert_int_equal(serve(9, FCU_WAKE_LAST), FCU_DONE);
	/* It is asked for all the same, and who waits is woken; nothing else is brought. */
	assert_int_equal(call_count, 2);
	expect_call(0, UFFDIO_COPY, 9, 1, true);
	expect_call(1, UFFDIO_WAKE, 9, 1, true);
	assert_int_equal(client.counters.bytes, 0);
}

static void neighbour_that_is_there(void **state) {
	(void)state;
	ANSWERS({3, EAGAIN}, {0, EEXIST}, {ALL, 0}, {ALL, 0});
	assert_int_equal(serve(31, FCU_WAKE_LAST), FCU_DONE);
	expect_call(0, UFFDIO_COPY, 16, 16, true);
	expect_call(1, UFFDIO_COPY, 19, 13, true);
	expect_call(2, UFFDIO_WAKE, 19, 1, true);
	expect_call(3, UFFDIO_COPY, 20, 12, true);
	assert_int_equal(client.counters.bytes, 15 * FCU_PAGE);
	assert_true(fcu_has(client.present, 19));
}

static void mapping_that_is_gone(void **state) {
	(void)state;
	client.around.most = 1;
	ANSWERS({0, ENOENT}, {0, 0});
	assert_int_equal(serve(9, FCU_WAKE_FIRST), FCU_DONE);
	expect_call(1, UFFDIO_WAKE, 9, 1, true);
}

static void failures(void **state) {
	(void)state;
	static const int numbers[] = {ESRCH, EFAULT, ENOMEM, EINVAL};
	client.around.most = 1;
	for (size_t i = 0; i < 4; i++) {
		ANSWERS({0, numbers[i]});
		assert_int_equal(serve(9, FCU_WAKE_FIRST), -numbers[i]);
		assert_int_equal(call_count, 1);
	}
	assert_int_equal(client.counters.faults, 0);
}

static void cold_page(void **state) {
	(void)state;
	uint64_t offset = 0;
	uint64_t size = 0;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	fdatasync(fd);
	memset((void *)memory.warm, 0, PAGES / 16);
	posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	close(fd);
	if (fcu_memory_missing(&memory, 0, FCU_PAGE) != 0) {
		print_message("skipped: this file system keeps its files in memory\n");
		skip();
	}
	assert_int_equal(fcu_fault_serve(&client, 21, fcu_now(), FCU_WAKE_FIRST, false, &offset, &size), FCU_WAIT);
	assert_int_equal(offset, FCU_BLOCK);
	assert_int_equal(size, FCU_BLOCK);
	assert_int_equal(call_count, 0);
	/* A zero page needs no file. */
	fcu_add(map.bits, 1);
	assert_int_equal(serve(1, FCU_WAKE_FIRST), FCU_DONE);
	assert_int_equal(call_count, 1);
	fcu_memory_read(&memory, offset, size);
	assert_int_equal(serve(21, FCU_WAKE_FIRST), FCU_DONE);
}

static void events(void **state) {
	(void)state;
	struct fc_error error;
	struct uffd_msg event = {.event = UFFD_EVENT_UNMAP, .arg.remove = {.start = 0, .end = UINT64_MAX}};
	assert_int_equal(fcu_fault_event(&client, &event, &error), 0);
	assert_int_equal(client.counters.removed, PAGES);
	event = (struct uffd_msg){.event = UFFD_EVENT_REMAP,
	                          .arg.remap = {.from = BASE, .to = 4 * BASE, .len = PAGES * FCU_PAGE}};
	assert_int_equal(fcu_fault_event(&client, &event, &error), 0);
	assert_int_equal(client.regions.at[0].base, 4 * BASE);
	event.arg.remap.from = 4 * BASE;
	event.arg.remap.len = FCU_PAGE;
	assert_int_equal(fcu_fault_event(&client, &event, &error), -EPROTO);
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	event = (struct uffd_msg){.event = UFFD_EVENT_FORK, .arg.fork = {.ufd = (__u32)fd}};
	assert_int_equal(fcu_fault_event(&client, &event, &error), -EPROTO);
	assert_int_equal(fcntl(fd, F_GETFD), -1);
	event.event = 0x77;
	assert_int_equal(fcu_fault_event(&client, &event, &error), -EPROTO);
}

/* A replay through a script: pages 0-3 zero, 10-29 and 40-49 with contents. */
static void more(void *context) {
	(void)context;
}

static void replay(void **state) {
	(void)state;
	static const char set[] = "/tmp/fcvm-test-uffd-fault-set";
	uint32_t pages[30];
	uint64_t written;
	atomic_bool never = false;
	for (uint32_t i = 0; i < 30; i++)
		pages[i] = i < 20 ? 10 + i : 20 + i;
	struct fcu_recording recording = {memory.fd, memory.size, memory.fingerprint, FCU_PAGE, pages, 30};
	assert_int_equal(fcu_working_set_write(&recording, set, &never, &written, NULL), 0);
	assert_int_equal(fcu_replay_open(set, &memory, more, NULL, &client.replay, NULL), 0);
	unlink(set);
	fcu_replay_begin(client.replay);
	while (fcu_replay_ready(client.replay) < 30 * FCU_PAGE)
		usleep(1000);
	fcu_add(client.present, 12);
	fcu_add(client.removed, 13);
	/* Two, past two, then more; a removal comes between. */
	ANSWERS({ALL, 0}, {0, EAGAIN});
	assert_int_equal(fcu_fault_replay(&client, 8), FCU_LATER);
	assert_int_equal(calls[0].page, 10);
	assert_int_equal(calls[0].count, 2);
	assert_int_equal(calls[1].page, 14);
	ANSWERS({ALL, 0});
	assert_int_equal(fcu_fault_replay(&client, 8), FCU_MORE);
	assert_int_equal(calls[0].page, 14);
	int r;
	for (int i = 0; (r = fcu_fault_replay(&client, 8)) == FCU_MORE; i++)
		assert_true(i < 10);
	assert_int_equal(r, FCU_DONE);
	assert_int_equal(client.counters.replayed, 28);
	assert_true(fcu_has(client.present, 49));
	assert_false(fcu_has(client.present, 13));
	ANSWERS({0, ESRCH});
	client.run = 0;
	client.run_done = 0;
	client.data_done = 0;
	fcu_remove(client.present, 10);
	assert_int_equal(fcu_fault_replay(&client, 8), -ESRCH);
	fcu_replay_unref(client.replay);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, clear)

int main(void) {
	const struct CMUnitTest tests[] = {
	        TEST(page_first_then_neighbours),
	        TEST(whole_window_with_one_wake),
	        TEST(zero_page),
	        TEST(removed_page),
	        TEST(queued_removal),
	        TEST(removal_while_neighbours_come),
	        TEST(removal_in_a_whole_window),
	        TEST(page_that_is_there),
	        TEST(neighbour_that_is_there),
	        TEST(mapping_that_is_gone),
	        TEST(failures),
	        TEST(cold_page),
	        TEST(events),
	        TEST(replay),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
