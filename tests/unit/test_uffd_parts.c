// SPDX-License-Identifier: Apache-2.0
/*
 * tests/unit/test_uffd_parts.c: the page server's parts that need no VM: messages, regions, files, the memory budget.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/io.h"
#include "uffd/around_internal.h"
#include "uffd/client_internal.h"
#include "uffd/handshake_internal.h"
#include "uffd/page_map_internal.h"
#include "uffd/region_internal.h"
#include "uffd/uffd_internal.h"
#include "uffd/working_set_internal.h"

enum { PAGES = 1100 };

static char directory[] = "/tmp/fcvm-test-uffd-parts-XXXXXX";
static atomic_bool never;
static atomic_bool always = true;

static void put_page(int fd, size_t page, uint8_t byte) {
	uint8_t data[FCU_PAGE];
	memset(data, byte, sizeof data);
	assert_int_equal(pwrite(fd, data, sizeof data, (off_t)(page * FCU_PAGE)), sizeof data);
}

static int setup_directory(void **state) {
	(void)state;
	if (!mkdtemp(directory) || chdir(directory) < 0)
		return -1;
	int fd = open("memory", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	for (size_t i = 0; i < PAGES; i++)
		put_page(fd, i, (uint8_t)(i % 3));
	return close(fd);
}

static int remove_directory(void **state) {
	(void)state;
	static const char *const files[] = {"memory", "map", "set"};
	for (size_t i = 0; i < 3; i++)
		unlink(files[i]);
	/* Nothing was left beside. */
	return chdir("/") == 0 && rmdir(directory) == 0 ? 0 : -1;
}

static int parse(const char *text, struct fcu_regions *regions) {
	return fcu_handshake_parse(text, strlen(text), regions, NULL);
}

#define MIB (1 << 20)
#define ONE(fields) "[{\"base_host_virt_addr\":1048576,\"size\":2097152,\"offset\":0" fields "}]"

static void messages(void **state) {
	(void)state;
	struct fcu_regions regions = {0};
	assert_int_equal(parse(ONE(",\"page_size\":4096,\"page_size_kib\":4096"), &regions), 0);
	assert_int_equal(regions.count, 1);
	assert_int_equal(regions.at[0].base, MIB);
	assert_int_equal(regions.at[0].size, 2 * MIB);
	assert_int_equal(regions.page_size, 4096);
	assert_int_equal(parse(ONE(""), &regions), 0);
	assert_int_equal(regions.page_size, 4096);
	assert_int_equal(parse(ONE(",\"page_size\":2097152,\"page_size_kib\":4096"), &regions), 0);
	assert_int_equal(regions.page_size, FCU_HUGE_PAGE);
	assert_int_equal(parse(ONE(",\"page_size_kib\":2097152"), &regions), 0);
	assert_int_equal(regions.page_size, FCU_HUGE_PAGE);
	assert_int_equal(parse(ONE(",\"page_size_kib\":2048"), &regions), 0);
	assert_int_equal(regions.page_size, FCU_HUGE_PAGE);
	assert_int_equal(parse(ONE(",\"page_size_kib\":4"), &regions), 0);
	assert_int_equal(regions.page_size, 4096);
	assert_int_equal(parse("[{\"base_host_virt_addr\":140737488355328,\"size\":4096,\"offset\":9007199254740992}]",
	                       &regions),
	                 0);
	assert_true(regions.at[0].base == (uint64_t)1 << 47);
	assert_true(regions.at[0].offset == (uint64_t)1 << 53);
	static const char *const wrong[] = {
	        "",
	        "{}",
	        "[",
	        "[1]",
	        "[{}]",
	        "[{\"base_host_virt_addr\":1.5,\"size\":4096,\"offset\":0}]",
	        "[{\"base_host_virt_addr\":-1,\"size\":4096,\"offset\":0}]",
	        "[{\"base_host_virt_addr\":\"1\",\"size\":4096,\"offset\":0}]",
	        "[{\"base_host_virt_addr\":1e17,\"size\":4096,\"offset\":0}]",
	        "[{\"base_host_virt_addr\":null,\"size\":4096,\"offset\":0}]",
	        ONE(",\"page_size\":\"4096\""),
	        ("[{\"base_host_virt_addr\":0,\"size\":4096,\"offset\":0,\"page_size\":4096},"
	         "{\"base_host_virt_addr\":8192,\"size\":4096,\"offset\":4096,\"page_size\":2097152}]"),
	};
	for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
		assert_int_equal(parse(wrong[i], &regions), -EPROTO);
}

static void whole_messages(void **state) {
	(void)state;
	static const struct {
		const char *text;
		int whole;
	} list[] = {{"", 0},
	            {" \n", 0},
	            {"[", 0},
	            {"[]", 1},
	            {"[] \n", 1},
	            {"[][", -EPROTO},
	            {"x", -EPROTO},
	            {"{", -EPROTO},
	            {"[{\"a\":1}", 0},
	            {"[{\"]\":1}", 0},
	            {"[\"\\\"]", 0},
	            {"[\"\\\"\"]", 1},
	            {"[[[[[[[[[", -EPROTO},
	            {"[\"\\", 0}};
	for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
		if (fcu_handshake_whole(list[i].text, strlen(list[i].text)) != list[i].whole)
			fail_msg("'%s' is not %d", list[i].text, list[i].whole);
	}
	assert_int_equal(fcu_handshake_whole("[]\0\0", 4), 1);
}

static struct fcu_regions two(uint64_t base, uint64_t size, uint64_t offset) {
	return (struct fcu_regions){.at = {{base, size, offset}, {MIB, 2 * MIB, 0}}, .count = 2, .page_size = 4096};
}

static void regions_are_checked(void **state) {
	(void)state;
	const uint64_t memory = 4 * MIB;
	struct fcu_regions regions = two(8 * MIB, 2 * MIB, 2 * MIB);
	assert_int_equal(fcu_regions_check(&regions, memory, NULL), 0);
	assert_int_equal(regions.shift, 12);
	/* By address now, whatever the order was. */
	assert_int_equal(regions.at[0].base, MIB);
	assert_ptr_equal(fcu_region_at(&regions, MIB), &regions.at[0]);
	assert_ptr_equal(fcu_region_at(&regions, 3 * MIB - 1), &regions.at[0]);
	assert_null(fcu_region_at(&regions, 3 * MIB));
	assert_null(fcu_region_at(&regions, MIB - 1));
	assert_ptr_equal(fcu_region_at(&regions, 8 * MIB), &regions.at[1]);
	assert_ptr_equal(fcu_region_of_page(&regions, 511), &regions.at[0]);
	assert_ptr_equal(fcu_region_of_page(&regions, 512), &regions.at[1]);
	assert_null(fcu_region_of_page(&regions, 1024));
	const struct fcu_regions wrong[] = {
	        two(8 * MIB, 2 * MIB, 2 * MIB + 4096), /* beyond the file */
	        two(8 * MIB, 2 * MIB, MIB),            /* one offset twice */
	        two(2 * MIB, 2 * MIB, 2 * MIB),        /* one address twice */
	        two(8 * MIB, 0, 2 * MIB),
	        two(8 * MIB, 100, 2 * MIB),
	        two(8 * MIB + 8, MIB, 2 * MIB),
	        two(8 * MIB, MIB, 2 * MIB + 8),
	        two(UINT64_MAX - 4095, 4096, 2 * MIB),
	        two(UINT64_MAX - 2 * MIB + 1, 2 * MIB, 2 * MIB),
	        two(8 * MIB, UINT64_MAX - 4095, 2 * MIB),
	        two(8 * MIB, 4096, UINT64_MAX - 4095),
	};
	for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
		regions = wrong[i];
		if (fcu_regions_check(&regions, memory, NULL) != -EPROTO)
			fail_msg("regions %zu pass", i);
	}
	regions = (struct fcu_regions){.page_size = 4096};
	assert_int_equal(fcu_regions_check(&regions, memory, NULL), -EPROTO);
	regions = two(8 * MIB, 2 * MIB, 2 * MIB);
	regions.page_size = 8192;
	assert_int_equal(fcu_regions_check(&regions, memory, NULL), -EPROTO);
	regions = two(8 * MIB, 2 * MIB, 2 * MIB);
	regions.page_size = FCU_HUGE_PAGE;
	assert_int_equal(fcu_regions_check(&regions, memory, NULL), -EPROTO);
}

static void regions_move(void **state) {
	(void)state;
	struct fcu_regions regions = two(8 * MIB, 2 * MIB, 2 * MIB);
	assert_int_equal(fcu_regions_check(&regions, 4 * MIB, NULL), 0);
	assert_int_equal(fcu_regions_move(&regions, MIB, 32 * MIB, 2 * MIB, NULL), 0);
	assert_null(fcu_region_at(&regions, MIB));
	assert_int_equal(fcu_region_at(&regions, 33 * MIB)->offset, 0);
	assert_int_equal(regions.at[0].base, 8 * MIB);
	/* Torn apart, or over another one: refused, and nothing changed. */
	assert_int_equal(fcu_regions_move(&regions, 8 * MIB, 64 * MIB, MIB, NULL), -EPROTO);
	assert_int_equal(fcu_regions_move(&regions, 8 * MIB, 33 * MIB, 2 * MIB, NULL), -EPROTO);
	assert_int_equal(fcu_region_at(&regions, 8 * MIB)->offset, 2 * MIB);
	assert_int_equal(fcu_regions_move(&regions, 0, 64 * MIB, MIB, NULL), 0);
}

static void scan_memory(struct fcu_page_map *map) {
	int fd = open("memory", O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(fcu_page_map_scan(fd, PAGES * FCU_PAGE, &never, map, NULL), 0);
	close(fd);
}

static void page_maps(void **state) {
	(void)state;
	struct fcu_page_map map = {0};
	struct fcu_page_map again = {0};
	struct fc_error error;
	assert_false(fcu_page_map_zero(&map, 0, FCU_PAGE_SHIFT));
	scan_memory(&map);
	assert_int_equal(map.zero, (PAGES + 2) / 3);
	for (size_t i = 0; i < PAGES; i++)
		assert_int_equal(fcu_page_map_zero(&map, i, FCU_PAGE_SHIFT), i % 3 == 0);
	assert_int_equal(fcu_page_map_write(&map, "map", NULL), 0);
	assert_int_equal(fcu_page_map_read("map", &again, NULL), 0);
	assert_int_equal(again.zero, map.zero);
	assert_int_equal(again.memory_size, PAGES * FCU_PAGE);
	assert_true(again.fingerprint == map.fingerprint);
	assert_memory_equal(again.bits, map.bits, fcu_words(PAGES) * 8);
	fcu_page_map_clear(&again);
	assert_int_equal(fcu_page_map_write(&map, "none/map", &error), -ENOENT);
	fcu_page_map_clear(&map);
	int fd = open("memory", O_RDONLY | O_CLOEXEC);
	assert_int_equal(fcu_page_map_scan(fd, PAGES * FCU_PAGE, &always, &map, &error), -ECANCELED);
	assert_int_equal(fcu_page_map_scan(fd, (PAGES + 1) * FCU_PAGE, &never, &map, &error), -EIO);
	close(fd);
	assert_null(map.bits);
	unlink("map");
}

static void huge_zero_pages(void **state) {
	(void)state;
	struct fcu_page_map map = {.pages = 1536, .bits = fcu_set_new(1536)};
	for (size_t i = 512; i < 1024; i++)
		fcu_add(map.bits, i);
	assert_true(fcu_page_map_zero(&map, 1, FCU_HUGE_SHIFT));
	assert_false(fcu_page_map_zero(&map, 0, FCU_HUGE_SHIFT));
	fcu_remove(map.bits, 1023);
	assert_false(fcu_page_map_zero(&map, 1, FCU_HUGE_SHIFT));
	fcu_page_map_clear(&map);
}

/* Each byte of a file changed, and each length of it: none of that is taken for the file. */
static void expect_damage_found(const char *path, size_t header, int (*read_it)(const char *path)) {
	char *data;
	size_t size;
	assert_int_equal(fc_io_read_file(path, MIB, &data, &size, NULL), 0);
	for (size_t i = 0; i < size; i += i < header ? 1 : 53) {
		int fd = open(path, O_WRONLY | O_CLOEXEC);
		char other = (char)(data[i] ^ 0x10);
		assert_int_equal(pwrite(fd, &other, 1, (off_t)i), 1);
		if (read_it(path) != -EBADMSG)
			fail_msg("%s: damage at byte %zu is not seen", path, i);
		assert_int_equal(pwrite(fd, &data[i], 1, (off_t)i), 1);
		close(fd);
	}
	assert_int_equal(read_it(path), 0);
	for (size_t i = size; i-- > 0; i -= i < 64 || i > size - 64 ? 0 : 41) {
		assert_int_equal(truncate(path, (off_t)i), 0);
		assert_int_equal(read_it(path), -EBADMSG);
		if (i == 0)
			break;
	}
	free(data);
}

static int read_map(const char *path) {
	struct fcu_page_map map = {0};
	int r = fcu_page_map_read(path, &map, NULL);
	fcu_page_map_clear(&map);
	return r;
}

static void damaged_page_maps(void **state) {
	(void)state;
	struct fcu_page_map map = {0};
	scan_memory(&map);
	assert_int_equal(fcu_page_map_write(&map, "map", NULL), 0);
	fcu_page_map_clear(&map);
	expect_damage_found("map", 4096, read_map);
}

static void write_set(const uint32_t *pages, size_t count, uint64_t expected) {
	uint64_t written = 0;
	struct fcu_recording recording = {.memory = open("memory", O_RDONLY | O_CLOEXEC),
	                                  .memory_size = PAGES * FCU_PAGE,
	                                  .fingerprint = 77,
	                                  .page_size = FCU_PAGE,
	                                  .pages = pages,
	                                  .count = count};
	assert_int_equal(fcu_working_set_write(&recording, "set", &never, &written, NULL), 0);
	assert_int_equal(written, expected);
	assert_int_equal(fcu_working_set_write(&recording, "set", &always, &written, NULL), count ? -ECANCELED : 0);
	close(recording.memory);
}

static void working_sets(void **state) {
	(void)state;
	/* 1000 is in another stretch and came first; 5 comes twice; 5000 is beyond the memory. 3 and 6 are zero. */
	static const uint32_t pages[] = {1000, 7, 5, 4, 3, 5, 5000, 6, 1001};
	static const struct fcu_run expected[] = {{1000, 2, 0}, {3, 1, 1}, {4, 2, 0}, {6, 1, 1}, {7, 1, 0}};
	static const uint8_t contents[] = {1000 % 3, 1001 % 3, 4 % 3, 5 % 3, 7 % 3};
	struct fcu_working_set set = {0};
	write_set(pages, sizeof pages / sizeof pages[0], 7);
	int fd = open("set", O_RDONLY | O_CLOEXEC);
	assert_int_equal(fcu_working_set_read(fd, "set", &set, NULL), 0);
	assert_int_equal(set.pages, 7);
	assert_int_equal(set.fingerprint, 77);
	assert_int_equal(set.run_count, 5);
	assert_memory_equal(set.runs, expected, sizeof expected);
	assert_int_equal(set.data_size, sizeof contents * FCU_PAGE);
	for (size_t i = 0; i < sizeof contents; i++) {
		uint8_t page[FCU_PAGE];
		uint8_t wanted[FCU_PAGE];
		memset(wanted, contents[i], sizeof wanted);
		assert_int_equal(fcu_pread_full(fd, page, sizeof page, set.data_offset + i * FCU_PAGE), 0);
		assert_memory_equal(page, wanted, sizeof page);
	}
	fcu_working_set_clear(&set);
	close(fd);
	write_set(pages, 0, 0);
}

static int read_set(const char *path) {
	struct fcu_working_set set = {0};
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	int r = fcu_working_set_read(fd, path, &set, NULL);
	fcu_working_set_clear(&set);
	close(fd);
	return r;
}

/* A set of zero pages has no contents, whose damage would not be seen. */
static void damaged_working_sets(void **state) {
	(void)state;
	static const uint32_t pages[] = {3, 6, 9};
	char *data;
	size_t size;
	write_set(pages, 3, 3);
	assert_int_equal(fc_io_read_file("set", MIB, &data, &size, NULL), 0);
	/* Between header and table is nothing but the header page's rest. */
	assert_int_equal(size, FCU_PAGE + 3 * sizeof(struct fcu_run));
	for (size_t i = 0; i < size; i += i == 63 ? FCU_PAGE - 63 : 1) {
		int fd = open("set", O_WRONLY | O_CLOEXEC);
		char other = (char)(data[i] ^ 1);
		assert_int_equal(pwrite(fd, &other, 1, (off_t)i), 1);
		if (read_set("set") != -EBADMSG)
			fail_msg("damage at byte %zu is not seen", i);
		assert_int_equal(pwrite(fd, &data[i], 1, (off_t)i), 1);
		close(fd);
	}
	assert_int_equal(read_set("set"), 0);
	assert_int_equal(truncate("set", (off_t)size - 1), 0);
	assert_int_equal(read_set("set"), -EBADMSG);
	assert_int_equal(truncate("set", 10), 0);
	assert_int_equal(read_set("set"), -EBADMSG);
	free(data);
}

static void fingerprints(void **state) {
	(void)state;
	uint64_t one;
	uint64_t other;
	int fd = open("memory", O_RDWR | O_CLOEXEC);
	assert_int_equal(fcu_fingerprint(fd, PAGES * FCU_PAGE, &one), 0);
	assert_int_equal(fcu_fingerprint(fd, (PAGES - 1) * FCU_PAGE, &other), 0);
	assert_true(one != other);
	assert_int_equal(fcu_fingerprint(fd, (PAGES + 400) * FCU_PAGE, &other), -EIO);
	close(fd);
}

/*
 * The memory budget, against a guest whose touches are known: blocks of 16 pages of which `density` are touched.
 * Returns private pages per touched page, in percent.
 */
static unsigned int simulate(uint32_t density, uint32_t blocks, unsigned int *ret_faults) {
	struct fcu_around around;
	static bool present[1 << 20];
	uint64_t brought = 0;
	uint64_t touched = 0;
	*ret_faults = 0;
	memset(present, 0, sizeof present);
	fcu_around_init(&around, 16, 220);
	for (uint32_t block = 0; block < blocks; block++) {
		for (uint32_t i = 0; i < density; i++) {
			uint64_t page = (uint64_t)block * 16 + (i * 7 + block) % 16;
			touched++;
			if (present[page])
				continue;
			++*ret_faults;
			uint32_t window = fcu_around_window(&around);
			uint64_t first = page & ~(uint64_t)(window - 1);
			uint64_t probe = window > 1 ? fcu_around_probe(&around, first, window, page) : UINT64_MAX;
			uint64_t before = brought;
			for (uint64_t k = first; k < first + window; k++) {
				brought += !present[k] && k != probe;
				present[k] = present[k] || k != probe;
			}
			fcu_around_brought(&around, brought - before - 1);
			fcu_around_fault(&around, page);
		}
	}
	return (unsigned int)(brought * 100 / touched);
}

static void memory_budget(void **state) {
	(void)state;
	unsigned int faults;
	/* Dense: the whole block at once but for the probes. */
	assert_true(simulate(16, 1000, &faults) <= 100);
	assert_true(faults < 1200);
	assert_true(simulate(9, 1000, &faults) <= 190);
	assert_true(faults < 1300);
	/* Sparse: held by the budget, and not by giving up on neighbours. */
	for (uint32_t density = 1; density <= 6; density++) {
		unsigned int percent = simulate(density, 16384, &faults);
		if (percent > 230)
			fail_msg("%u of 16 touched: private memory is %u %% of what is touched", density, percent);
		assert_true(percent > 130);
	}
}

static void latencies(void **state) {
	(void)state;
	static struct fcu_client client;
	struct fc_page_client told;
	for (uint64_t i = 1; i <= 1000; i++)
		fcu_client_latency(&client, i <= 980 ? 2000 + i : 1000000);
	fcu_client_describe(&client, &told);
	/* Upper ends of buckets of a quarter of an octave. */
	assert_true(told.p50_ns >= 2490 && told.p50_ns <= 3100);
	assert_true(told.p99_ns >= 1000000 && told.p99_ns <= 1250000);
	for (uint64_t ns = 1; ns < (uint64_t)1 << 62; ns = ns * 3 / 2 + 1) {
		struct fcu_client *one = calloc(1, sizeof *one);
		fcu_client_latency(one, ns);
		fcu_client_describe(one, &told);
		assert_true(told.p50_ns >= ns && told.p50_ns <= ns + ns / 4);
		assert_true(told.p50_ns == told.p99_ns);
		free(one);
	}
}

int main(void) {
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(messages),
	        cmocka_unit_test(whole_messages),
	        cmocka_unit_test(regions_are_checked),
	        cmocka_unit_test(regions_move),
	        cmocka_unit_test(page_maps),
	        cmocka_unit_test(huge_zero_pages),
	        cmocka_unit_test(damaged_page_maps),
	        cmocka_unit_test(working_sets),
	        cmocka_unit_test(damaged_working_sets),
	        cmocka_unit_test(fingerprints),
	        cmocka_unit_test(memory_budget),
	        cmocka_unit_test(latencies),
	};
	return cmocka_run_group_tests(tests, setup_directory, remove_directory);
}
