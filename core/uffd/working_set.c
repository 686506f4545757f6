// SPDX-License-Identifier: Apache-2.0
/* core/uffd/working_set.c: the file of a working set. All numbers in it are little-endian. */
#include "uffd/working_set_internal.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "uffd/beside_internal.h"
#include "uffd/uffd_internal.h"

static const char MAGIC[8] = "FCVMWS1\n";

struct header {
	char magic[8];
	uint64_t checksum; /* fcu_hash of the header with 0 here, then of the table */
	uint64_t memory_size;
	uint64_t fingerprint;
	uint64_t page_size;
	uint64_t data_size;
	uint64_t run_count;
	uint64_t reserved;
};
_Static_assert(sizeof(struct header) == 64, "the header is part of the format");
_Static_assert(sizeof(struct fcu_run) == 16, "a run is part of the format");

/* A page of its own for each run of the largest memory that is served (16 TiB) would be more than any recording. */
#define RUNS_MAX ((uint64_t)64 << 20)
#define MEMORY_MAX ((uint64_t)16 << 40)

void fcu_working_set_clear(struct fcu_working_set *set) {
	free(set->runs);
	*set = (struct fcu_working_set){0};
}

static uint64_t checksum_of(const struct header *header, const struct fcu_run *runs, size_t count) {
	struct header copy = *header;
	copy.checksum = 0;
	return fcu_hash(fcu_hash(FCU_HASH_SEED, &copy, sizeof copy), runs, count * sizeof *runs);
}

static bool header_sound(const struct header *header, const struct fcu_working_set *set, uint64_t file_size) {
	return memcmp(header->magic, MAGIC, sizeof MAGIC) == 0 && set->memory_size <= MEMORY_MAX &&
	       (set->page_size == FCU_PAGE || set->page_size == FCU_HUGE_PAGE) && set->run_count <= RUNS_MAX &&
	       set->data_size <= set->memory_size && set->data_size % set->page_size == 0 &&
	       file_size == FCU_PAGE + set->data_size + set->run_count * sizeof(struct fcu_run);
}

/* Whether the runs are inside the memory, no more than it has pages, and have as much data as the file. */
static bool runs_sound(struct fcu_working_set *set) {
	uint64_t pages = set->memory_size / set->page_size;
	uint64_t data = 0;
	for (size_t i = 0; i < set->run_count; i++) {
		struct fcu_run *run = &set->runs[i];
		run->page = le64toh(run->page);
		run->count = le32toh(run->count);
		run->zero = le32toh(run->zero);
		if (run->count == 0 || run->zero > 1 || run->page >= pages || run->count > pages - run->page)
			return false;
		set->pages += run->count;
		if (!run->zero)
			data += run->count * set->page_size;
		if (set->pages > pages)
			return false;
	}
	return data == set->data_size;
}

static int read_table(int fd, const struct header *header, struct fcu_working_set *set) {
	size_t bytes = set->run_count * sizeof(struct fcu_run);
	set->runs = malloc(bytes + 1);
	if (!set->runs)
		return -ENOMEM;
	int r = fcu_pread_full(fd, set->runs, bytes, set->data_offset + set->data_size);
	if (r < 0)
		return r;
	if (checksum_of(header, set->runs, set->run_count) != le64toh(header->checksum) || !runs_sound(set))
		return -EBADMSG;
	return 0;
}

static int read_all(int fd, struct fcu_working_set *set) {
	struct header header;
	struct stat stat;
	if (fstat(fd, &stat) < 0)
		return -errno;
	if (!S_ISREG(stat.st_mode) || (size_t)stat.st_size < sizeof header)
		return -EBADMSG;
	int r = fcu_pread_full(fd, &header, sizeof header, 0);
	if (r < 0)
		return r;
	set->memory_size = le64toh(header.memory_size);
	set->fingerprint = le64toh(header.fingerprint);
	set->page_size = le64toh(header.page_size);
	set->data_size = le64toh(header.data_size);
	set->data_offset = FCU_PAGE;
	uint64_t runs = le64toh(header.run_count);
	set->run_count = runs <= RUNS_MAX ? (size_t)runs : (size_t)RUNS_MAX + 1;
	return header_sound(&header, set, (uint64_t)stat.st_size) ? read_table(fd, &header, set) : -EBADMSG;
}

int fcu_working_set_read(int fd, const char *path, struct fcu_working_set *ret_set, struct fc_error *error) {
	struct fcu_working_set set = {0};
	int r = read_all(fd, &set);
	if (r == 0) {
		*ret_set = set;
		return 0;
	}
	fcu_working_set_clear(&set);
	return fc_error_set(error, -r, "read working set", path,
	                    r == -EBADMSG ? "remove it; it is recorded anew" : NULL,
	                    r == -EBADMSG ? "it is damaged or cut short" : NULL);
}

/* The order of replay as numbers that sort: the stretch's turn above, the page below. */
struct order {
	uint64_t *keys;
	size_t count;
};

static int by_key(const void *one, const void *other) {
	uint64_t a = *(const uint64_t *)one;
	uint64_t b = *(const uint64_t *)other;
	return (a > b) - (a < b);
}

static int make_order(const struct fcu_recording *recording, struct order *order) {
	uint64_t pages = recording->memory_size / recording->page_size;
	uint64_t stretch = FCU_HUGE_PAGE / recording->page_size;
	_cleanup_free_ uint64_t *seen = fcu_set_new(pages);
	_cleanup_free_ uint32_t *turns = calloc((size_t)(pages / stretch) + 1, sizeof *turns);
	order->keys = malloc(recording->count * sizeof *order->keys + 1);
	if (!seen || !turns || !order->keys)
		return -ENOMEM;
	uint32_t turn = 0;
	for (size_t i = 0; i < recording->count; i++) {
		uint64_t page = recording->pages[i];
		if (page >= pages || fcu_has(seen, page))
			continue;
		fcu_add(seen, page);
		if (turns[page / stretch] == 0)
			turns[page / stretch] = ++turn;
		order->keys[order->count++] = (uint64_t)turns[page / stretch] << 32 | page;
	}
	qsort(order->keys, order->count, sizeof *order->keys, by_key);
	return 0;
}

/* The table as it grows. */
struct table {
	struct fcu_run *runs;
	size_t count;
	uint64_t data_size;
};

static void add_page(struct table *table, uint64_t page, bool zero) {
	struct fcu_run *last = table->count ? &table->runs[table->count - 1] : NULL;
	if (last && last->page + last->count == page && last->zero == zero) {
		last->count++;
		return;
	}
	table->runs[table->count++] = (struct fcu_run){.page = page, .count = 1, .zero = zero};
}

static int copy_pages(const struct fcu_recording *recording, const struct order *order, int fd,
                      const atomic_bool *cancelled, struct table *table) {
	_cleanup_free_ uint8_t *buffer = malloc(recording->page_size);
	table->runs = malloc(order->count * sizeof *table->runs + 1);
	if (!buffer || !table->runs)
		return -ENOMEM;
	for (size_t i = 0; i < order->count; i++) {
		uint64_t page = order->keys[i] & UINT32_MAX;
		if (atomic_load(cancelled))
			return -ECANCELED;
		int r = fcu_pread_full(recording->memory, buffer, recording->page_size, page * recording->page_size);
		if (r < 0)
			return r;
		bool zero = fcu_is_zero(buffer, recording->page_size);
		add_page(table, page, zero);
		if (zero)
			continue;
		r = fc_io_write_full(fd, buffer, recording->page_size);
		if (r < 0)
			return r;
		table->data_size += recording->page_size;
	}
	return 0;
}

static int write_table(const struct fcu_recording *recording, const struct table *table, int fd) {
	for (size_t i = 0; i < table->count; i++) {
		struct fcu_run *run = &table->runs[i];
		*run = (struct fcu_run){htole64(run->page), htole32(run->count), htole32(run->zero)};
	}
	struct header header = {.memory_size = htole64(recording->memory_size),
	                        .fingerprint = htole64(recording->fingerprint),
	                        .page_size = htole64(recording->page_size),
	                        .data_size = htole64(table->data_size),
	                        .run_count = htole64(table->count)};
	memcpy(header.magic, MAGIC, sizeof MAGIC);
	header.checksum = htole64(checksum_of(&header, table->runs, table->count));
	int r = fc_io_write_full(fd, table->runs, table->count * sizeof *table->runs);
	if (r < 0)
		return r;
	if (lseek(fd, 0, SEEK_SET) < 0)
		return -errno;
	return fc_io_write_full(fd, &header, sizeof header);
}

int fcu_working_set_write(const struct fcu_recording *recording, const char *path, const atomic_bool *cancelled,
                          uint64_t *ret_pages, struct fc_error *error) {
	__attribute__((cleanup(fcu_beside_close))) struct fcu_beside beside = {.fd = -1};
	struct order order = {0};
	struct table table = {0};
	int r = fcu_beside_open(&beside, path, error);
	if (r < 0)
		return r;
	r = make_order(recording, &order);
	if (r == 0 && lseek(beside.fd, (off_t)FCU_PAGE, SEEK_SET) < 0)
		r = -errno;
	if (r == 0)
		r = copy_pages(recording, &order, beside.fd, cancelled, &table);
	if (r == 0)
		r = write_table(recording, &table, beside.fd);
	free(order.keys);
	free(table.runs);
	if (r < 0)
		return fc_error_set(error, -r, "record working set", path, NULL,
		                    r == -EIO ? "the memory file could not be read to its end" : NULL);
	r = fcu_beside_publish(&beside, error);
	if (r == 0)
		*ret_pages = order.count;
	return r;
}
