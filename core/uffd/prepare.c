// SPDX-License-Identifier: Apache-2.0
/* core/uffd/prepare.c: the jobs on a snapshot before VMs come: the map of zero pages, the page cache filled. */
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "uffd/job_internal.h"
#include "uffd/memory_internal.h"
#include "uffd/page_map_internal.h"
#include "uffd/uffd_internal.h"
#include "uffd/working_set_internal.h"

enum { IN_FLIGHT = 32 };
#define PIECE ((uint64_t)256 << 10)
/* Runs that are nearer than this are read as one: a seek costs more than the bytes between. */
#define GAP ((uint64_t)64 << 10)

struct paths {
	char *memory;
	char *other;
};

static void release_paths(void *argument) {
	struct paths *paths = argument;
	free(paths->memory);
	free(paths->other);
	free(paths);
}

static int start(fcu_job_work *work, const char *memory, const char *other, struct fc_job **ret_job,
                 struct fc_error *error) {
	struct paths *paths = calloc(1, sizeof *paths);
	if (!paths)
		return fc_error_set(error, ENOMEM, "start job", NULL, NULL, NULL);
	paths->memory = strdup(memory);
	paths->other = strdup(other);
	if (paths->memory && paths->other)
		return fcu_job_start(work, paths, release_paths, ret_job, error);
	release_paths(paths);
	return fc_error_set(error, ENOMEM, "start job", NULL, NULL, NULL);
}

static int open_memory(const char *path, uint64_t *ret_size, struct fc_error *error) {
	struct stat stat;
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0 || fstat(fd, &stat) < 0)
		return fc_error_set(error, errno, "open memory file", path, NULL, NULL);
	if (!S_ISREG(stat.st_mode) || stat.st_size == 0 || (uint64_t)stat.st_size % FCU_PAGE != 0)
		return fc_error_set(error, EINVAL, "open memory file", path, NULL,
		                    "it is no regular file of whole pages");
	*ret_size = (uint64_t)stat.st_size;
	return fc_steal_fd(&fd);
}

static int index_work(void *argument, const atomic_bool *cancelled, uint64_t *ret_count, uint64_t *ret_total,
                      struct fc_error *error) {
	const struct paths *paths = argument;
	struct fcu_page_map map = {0};
	uint64_t size;
	_cleanup_close_ int memory = open_memory(paths->memory, &size, error);
	if (memory < 0)
		return memory;
	posix_fadvise(memory, 0, 0, POSIX_FADV_SEQUENTIAL);
	int r = fcu_page_map_scan(memory, size, cancelled, &map, error);
	if (r < 0)
		return r;
	r = fcu_page_map_write(&map, paths->other, error);
	*ret_count = map.zero;
	*ret_total = map.pages;
	fcu_page_map_clear(&map);
	return r;
}

int fc_job_index(const char *memory, const char *out, struct fc_job **ret_job, struct fc_error *error) {
	return start(index_work, memory, out, ret_job, error);
}

/* What is to be read, as ranges by address: near ones joined. */
struct range {
	uint64_t offset;
	uint64_t size;
};

static int by_offset(const void *one, const void *other) {
	const struct range *a = one;
	const struct range *b = other;
	return (a->offset > b->offset) - (a->offset < b->offset);
}

static struct range *make_ranges(const struct fcu_working_set *set, size_t *ret_count) {
	struct range *ranges = malloc(set->run_count * sizeof *ranges + 1);
	size_t count = 0;
	if (!ranges)
		return NULL;
	/* Zero pages too: a VM that maps the file reads them from it. */
	for (size_t i = 0; i < set->run_count; i++)
		ranges[i] = (struct range){set->runs[i].page * set->page_size, set->runs[i].count * set->page_size};
	qsort(ranges, set->run_count, sizeof *ranges, by_offset);
	for (size_t i = 0; i < set->run_count; i++) {
		struct range *last = count ? &ranges[count - 1] : NULL;
		uint64_t end = ranges[i].offset + ranges[i].size;
		if (!last || ranges[i].offset > last->offset + last->size + GAP)
			ranges[count++] = ranges[i];
		else if (end > last->offset + last->size)
			last->size = end - last->offset;
	}
	*ret_count = count;
	return ranges;
}

/* Where the reading is. */
struct warming {
	int fd;
	const struct range *ranges;
	size_t count;
	size_t index;
	uint64_t done_of_range;
	uint8_t *scratch; /* IN_FLIGHT pieces; what is read is of no interest */
	uint64_t bytes;
	unsigned int flying;
};

static bool next_piece(struct warming *warming, uint64_t *ret_offset, uint64_t *ret_size) {
	if (warming->index == warming->count)
		return false;
	const struct range *range = &warming->ranges[warming->index];
	uint64_t left = range->size - warming->done_of_range;
	*ret_offset = range->offset + warming->done_of_range;
	*ret_size = left < PIECE ? left : PIECE;
	warming->done_of_range += *ret_size;
	if (warming->done_of_range == range->size) {
		warming->index++;
		warming->done_of_range = 0;
	}
	return true;
}

static int take_answer(struct warming *warming, struct io_uring *ring) {
	struct io_uring_cqe *cqe;
	int r = io_uring_wait_cqe(ring, &cqe);
	if (r == -EINTR)
		return 0;
	if (r < 0)
		return r;
	r = cqe->res < 0 ? cqe->res : cqe->res == 0 ? -EIO : 0;
	if (cqe->res > 0)
		warming->bytes += (uint64_t)cqe->res;
	warming->flying--;
	io_uring_cqe_seen(ring, cqe);
	return r;
}

static int warm_by_ring(struct warming *warming, struct io_uring *ring, const atomic_bool *cancelled) {
	uint64_t offset;
	uint64_t size;
	int r = 0;
	while (r == 0 && !atomic_load(cancelled)) {
		while (warming->flying < IN_FLIGHT && next_piece(warming, &offset, &size)) {
			/* All read into the same place: only that the page cache has it then matters. */
			io_uring_prep_read(io_uring_get_sqe(ring), warming->fd, warming->scratch, (unsigned int)size,
			                   offset);
			warming->flying++;
		}
		if (warming->flying == 0)
			return 0;
		r = io_uring_submit(ring);
		r = r < 0 && r != -EINTR ? r : take_answer(warming, ring);
	}
	while (warming->flying > 0 && take_answer(warming, ring) != -EBADF)
		;
	return r < 0 ? r : -ECANCELED;
}

static int warm_plainly(struct warming *warming, const atomic_bool *cancelled) {
	uint64_t offset;
	uint64_t size;
	while (next_piece(warming, &offset, &size)) {
		if (atomic_load(cancelled))
			return -ECANCELED;
		int r = fcu_pread_full(warming->fd, warming->scratch, size, offset);
		if (r < 0)
			return r;
		warming->bytes += size;
	}
	return 0;
}

static int warm_ranges(struct warming *warming, const atomic_bool *cancelled) {
	struct io_uring ring;
	_cleanup_free_ uint8_t *scratch = malloc(PIECE);
	if (!scratch)
		return -ENOMEM;
	warming->scratch = scratch;
	if (io_uring_queue_init(IN_FLIGHT, &ring, 0) < 0)
		return warm_plainly(warming, cancelled);
	int r = warm_by_ring(warming, &ring, cancelled);
	io_uring_queue_exit(&ring);
	return r;
}

static int warm_set(int memory, const struct fcu_working_set *set, const atomic_bool *cancelled, uint64_t *ret_count,
                    uint64_t *ret_total) {
	size_t count;
	_cleanup_free_ struct range *ranges = make_ranges(set, &count);
	if (!ranges)
		return -ENOMEM;
	struct warming warming = {.fd = memory, .ranges = ranges, .count = count};
	int r = warm_ranges(&warming, cancelled);
	*ret_count = warming.bytes;
	*ret_total = 0;
	for (size_t i = 0; i < count; i++)
		*ret_total += ranges[i].size;
	return r;
}

static int warm_work(void *argument, const atomic_bool *cancelled, uint64_t *ret_count, uint64_t *ret_total,
                     struct fc_error *error) {
	const struct paths *paths = argument;
	struct fcu_working_set set = {0};
	uint64_t size;
	uint64_t fingerprint = 0;
	_cleanup_close_ int memory = open_memory(paths->memory, &size, error);
	if (memory < 0)
		return memory;
	_cleanup_close_ int file = open(paths->other, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (file < 0)
		return fc_error_set(error, errno, "open working set", paths->other, NULL, NULL);
	int r = fcu_working_set_read(file, paths->other, &set, error);
	if (r < 0)
		return r;
	posix_fadvise(memory, 0, 0, POSIX_FADV_RANDOM);
	r = fcu_fingerprint(memory, size, &fingerprint);
	if (r == 0 && (set.memory_size != size || set.fingerprint != fingerprint))
		r = -ESTALE;
	if (r == 0)
		r = warm_set(memory, &set, cancelled, ret_count, ret_total);
	fcu_working_set_clear(&set);
	return r < 0 ? fc_error_set(error, -r, "warm page cache", paths->memory, NULL,
	                            r == -ESTALE ? "the working set belongs to another memory file" : NULL)
	             : 0;
}

int fc_job_warm(const char *memory, const char *working_set, struct fc_job **ret_job, struct fc_error *error) {
	return start(warm_work, memory, working_set, ret_job, error);
}
