// SPDX-License-Identifier: Apache-2.0
/*
 * tests/fuzz/fuzz_uffd_files.c: the files beside a memory file: page map (first byte even) and working set (odd). The
 * checksum is made right, since no fuzzer finds one, so that what lies behind it is reached. What is read is sound.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "uffd/page_map_internal.h"
#include "uffd/uffd_internal.h"
#include "uffd/working_set_internal.h"

enum { HEADER = 64, CHECKSUM_AT = 8, RUN_COUNT_AT = 48 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t word_at(const uint8_t *data, size_t at) {
	uint64_t word;
	memcpy(&word, data + at, sizeof word);
	return word;
}

static void seal(uint8_t *file, size_t from, size_t bytes) {
	uint64_t zero = 0;
	memcpy(file + CHECKSUM_AT, &zero, sizeof zero);
	uint64_t hash = fcu_hash(fcu_hash(FCU_HASH_SEED, file, HEADER), file + from, bytes);
	memcpy(file + CHECKSUM_AT, &hash, sizeof hash);
}

static void try_map(int fd) {
	char path[64];
	struct fcu_page_map map = {0};
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	if (fcu_page_map_read(path, &map, NULL) < 0)
		return;
	uint64_t zero = 0;
	for (uint64_t page = 0; page < map.pages; page++)
		zero += fcu_page_map_zero(&map, page, FCU_PAGE_SHIFT);
	for (uint64_t page = 0; page < map.pages / 512; page++)
		zero += fcu_page_map_zero(&map, page, FCU_HUGE_SHIFT) && !fcu_has(map.bits, page * 512);
	if (zero > map.zero)
		abort();
	fcu_page_map_clear(&map);
}

static void try_set(int fd) {
	struct fcu_working_set set = {0};
	if (fcu_working_set_read(fd, "set", &set, NULL) < 0)
		return;
	uint64_t pages = 0;
	for (size_t i = 0; i < set.run_count; i++) {
		if ((set.runs[i].page + set.runs[i].count) * set.page_size > set.memory_size)
			abort();
		pages += set.runs[i].count;
	}
	if (pages != set.pages || pages > set.memory_size / set.page_size)
		abort();
	fcu_working_set_clear(&set);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
	if (size < 1 + HEADER)
		return 0;
	int is_set = data[0] & 1;
	/* A working set's first page is header and nothing; not to make the fuzzer find 4032 bytes, they are put in. */
	size_t gap = is_set ? FCU_PAGE - HEADER : 0;
	size_t length = size - 1 + gap;
	uint8_t *file = calloc(1, length);
	if (!file)
		abort();
	memcpy(file, data + 1, HEADER);
	memcpy(file + HEADER + gap, data + 1 + HEADER, size - 1 - HEADER);
	uint64_t runs = word_at(file, RUN_COUNT_AT);
	if (!is_set)
		seal(file, HEADER, length - HEADER);
	else if (runs <= (length - FCU_PAGE) / sizeof(struct fcu_run))
		seal(file, length - (size_t)runs * sizeof(struct fcu_run), (size_t)runs * sizeof(struct fcu_run));
	int fd = memfd_create("fuzz", MFD_CLOEXEC);
	if (fd < 0 || write(fd, file, length) != (ssize_t)length)
		abort();
	if (is_set)
		try_set(fd);
	else
		try_map(fd);
	close(fd);
	free(file);
	return 0;
}
