// SPDX-License-Identifier: Apache-2.0
/* core/uffd/replay.c: how a working set's contents come into memory: mapped where cached, else read directly. */
#include "uffd/replay_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "uffd/uffd_internal.h"

enum { IN_FLIGHT = 8, SAMPLES = 64 };
#define PIECE ((uint64_t)1 << 20)

struct fcu_replay {
	atomic_uint references;
	struct fcu_working_set set;
	struct fcu_place *places; /* of its runs, by page */
	int fd;
	uint64_t file_size;
	fcu_replay_more *more;
	void *context;
	pthread_mutex_t lock; /* of begun, thread_made, toucher_made */
	bool begun;
	bool thread_made;
	pthread_t thread;
	bool toucher_made;
	pthread_t toucher;
	atomic_bool stop;
	const uint8_t *map; /* the whole file, or NULL */
	bool map_used;      /* VMs are filled from it; set before `ready` says anything */
	uint8_t *buffer;    /* the contents, or NULL; set before `ready` says anything */
	uint64_t buffer_size;
	_Atomic uint64_t ready;
};

static int check_fit(const struct fcu_replay *replay, const struct fcu_memory *memory, const char *path,
                     struct fc_error *error) {
	if (replay->set.memory_size == memory->size && replay->set.fingerprint == memory->fingerprint)
		return 0;
	return fc_error_set(error, ESTALE, "open working set", path, "remove it; it is recorded anew",
	                    "it belongs to another memory file");
}

static int compare_places(const void *a, const void *b) {
	const struct fcu_place *one = a;
	const struct fcu_place *other = b;
	return one->page < other->page ? -1 : one->page > other->page;
}

static int make_places(struct fcu_replay *replay) {
	const struct fcu_working_set *set = &replay->set;
	uint64_t data_at = 0;
	replay->places = calloc(set->run_count + 1, sizeof *replay->places);
	if (!replay->places)
		return -ENOMEM;
	for (size_t i = 0; i < set->run_count; i++) {
		const struct fcu_run *run = &set->runs[i];
		replay->places[i] = (struct fcu_place){run->page, run->count, run->zero, data_at};
		if (!run->zero)
			data_at += run->count * set->page_size;
	}
	qsort(replay->places, set->run_count, sizeof *replay->places, compare_places);
	return 0;
}

const struct fcu_place *fcu_replay_find(const struct fcu_replay *replay, uint64_t page) {
	size_t low = 0;
	size_t high = replay->set.run_count;
	/* The last one that begins at the page or before it. */
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (replay->places[middle].page <= page)
			low = middle + 1;
		else
			high = middle;
	}
	if (low == 0)
		return NULL;
	const struct fcu_place *place = &replay->places[low - 1];
	return page - place->page < place->count ? place : NULL;
}

int fcu_replay_open(const char *path, const struct fcu_memory *memory, fcu_replay_more *more, void *context,
                    struct fcu_replay **ret_replay, struct fc_error *error) {
	struct stat stat;
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0 || fstat(fd, &stat) < 0)
		return fc_error_set(error, errno, "open working set", path, NULL, NULL);
	struct fcu_replay *replay = calloc(1, sizeof *replay);
	if (!replay)
		return fc_error_set(error, ENOMEM, "open working set", path, NULL, NULL);
	int r = fcu_working_set_read(fd, path, &replay->set, error);
	if (r == 0)
		r = check_fit(replay, memory, path, error);
	if (r == 0 && make_places(replay) < 0)
		r = fc_error_set(error, ENOMEM, "open working set", path, NULL, NULL);
	if (r < 0) {
		fcu_working_set_clear(&replay->set);
		free(replay);
		return r;
	}
	atomic_init(&replay->references, 1);
	pthread_mutex_init(&replay->lock, NULL);
	replay->fd = fc_steal_fd(&fd);
	replay->file_size = (uint64_t)stat.st_size;
	replay->more = more;
	replay->context = context;
	*ret_replay = replay;
	return 0;
}

struct fcu_replay *fcu_replay_ref(struct fcu_replay *replay) {
	atomic_fetch_add(&replay->references, 1);
	return replay;
}

void fcu_replay_unref(struct fcu_replay *replay) {
	if (!replay || atomic_fetch_sub(&replay->references, 1) != 1)
		return;
	atomic_store(&replay->stop, true);
	if (replay->thread_made)
		pthread_join(replay->thread, NULL);
	if (replay->toucher_made)
		pthread_join(replay->toucher, NULL);
	if (replay->map)
		munmap((void *)(size_t)replay->map, replay->file_size);
	if (replay->buffer)
		munmap(replay->buffer, replay->buffer_size);
	close(replay->fd);
	pthread_mutex_destroy(&replay->lock);
	fcu_working_set_clear(&replay->set);
	free(replay->places);
	free(replay);
}

const struct fcu_working_set *fcu_replay_set(const struct fcu_replay *replay) {
	return &replay->set;
}

/* Whether the file is in the page cache, by a sample: asking for each page would cost more than it tells. */
static bool is_cached(const uint8_t *map, uint64_t size) {
	uint64_t pages = size / FCU_PAGE;
	unsigned int missing = 0;
	for (uint64_t i = 0; i < SAMPLES; i++) {
		unsigned char resident = 1;
		uint64_t page = pages * i / SAMPLES;
		if (mincore((void *)(size_t)(map + page * FCU_PAGE), FCU_PAGE, &resident) == 0 && !(resident & 1))
			missing++;
	}
	return missing == 0;
}

static void publish(struct fcu_replay *replay, uint64_t ready) {
	atomic_store_explicit(&replay->ready, ready, memory_order_release);
	replay->more(replay->context);
}

/* One piece of the reading. */
struct piece {
	uint64_t at;
	uint64_t size;
	bool done;
};

static int submit_piece(struct fcu_replay *replay, struct io_uring *ring, int fd, struct piece *piece,
                        unsigned int slot) {
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
	if (!sqe)
		return -EBUSY;
	io_uring_prep_read(sqe, fd, replay->buffer + piece->at, (unsigned int)piece->size,
	                   replay->set.data_offset + piece->at);
	io_uring_sqe_set_data64(sqe, slot);
	return 0;
}

/* Takes one answer, if one comes soon; *flying then goes down. */
static int wait_piece(struct io_uring *ring, struct piece *pieces, unsigned int *flying) {
	struct io_uring_cqe *cqe;
	/* The limit is there to notice `stop`; a disk may take longer, and is then waited for again. */
	struct __kernel_timespec limit = {.tv_nsec = 200000000};
	int r = io_uring_wait_cqe_timeout(ring, &cqe, &limit);
	if (r == -ETIME || r == -EINTR || r == -EAGAIN)
		return 0;
	if (r < 0)
		return r;
	struct piece *piece = &pieces[cqe->user_data];
	r = cqe->res < 0 ? cqe->res : (uint64_t)cqe->res < piece->size ? -EIO : 0;
	piece->done = r == 0;
	io_uring_cqe_seen(ring, cqe);
	--*flying;
	return r;
}

/* Waits for what is in flight: it is written into a buffer that may be gone afterwards. */
static void drain(struct io_uring *ring, unsigned int flying) {
	struct io_uring_cqe *cqe;
	for (; flying > 0 && io_uring_wait_cqe(ring, &cqe) == 0; flying--)
		io_uring_cqe_seen(ring, cqe);
}

/* Reads all contents; pieces come in any order and are told in order. */
static int read_pieces(struct fcu_replay *replay, struct io_uring *ring, int fd) {
	struct piece pieces[IN_FLIGHT] = {0};
	uint64_t total = replay->set.data_size;
	uint64_t next = 0;
	uint64_t told = 0;
	unsigned int flying = 0;
	int r = 0;
	while (told < total && r >= 0 && !atomic_load(&replay->stop)) {
		while (next < total && next < told + IN_FLIGHT * PIECE) {
			unsigned int slot = (unsigned int)(next / PIECE % IN_FLIGHT);
			pieces[slot] = (struct piece){.at = next, .size = total - next < PIECE ? total - next : PIECE};
			if (submit_piece(replay, ring, fd, &pieces[slot], slot) < 0)
				break;
			next += pieces[slot].size;
			flying++;
		}
		io_uring_submit(ring);
		r = wait_piece(ring, pieces, &flying);
		struct piece *first = &pieces[told / PIECE % IN_FLIGHT];
		uint64_t before = told;
		while (told < next && first->done) {
			told += first->size;
			first->done = false;
			first = &pieces[told / PIECE % IN_FLIGHT];
		}
		if (told > before)
			publish(replay, told);
	}
	drain(ring, flying);
	return r < 0 ? r : told == total ? 0 : -ECANCELED;
}

static int read_plainly(struct fcu_replay *replay) {
	for (uint64_t at = 0; at < replay->set.data_size; at += PIECE) {
		uint64_t left = replay->set.data_size - at;
		uint64_t size = left < PIECE ? left : PIECE;
		if (atomic_load(&replay->stop))
			return -ECANCELED;
		int r = fcu_pread_full(replay->fd, replay->buffer + at, size, replay->set.data_offset + at);
		if (r < 0)
			return r;
		publish(replay, at + size);
	}
	return 0;
}

static int read_contents(struct fcu_replay *replay) {
	struct io_uring ring;
	/* A file system without O_DIRECT (tmpfs) is read through its cache. */
	int direct = fcu_reopen(replay->fd, O_DIRECT);
	_cleanup_close_ int fd = direct < 0 ? fcu_reopen(replay->fd, 0) : direct;
	if (fd < 0 || io_uring_queue_init(IN_FLIGHT, &ring, 0) < 0)
		return read_plainly(replay);
	int r = read_pieces(replay, &ring, fd);
	io_uring_queue_exit(&ring);
	/* Some file systems take O_DIRECT and refuse the reads. */
	return r == -EINVAL && atomic_load(&replay->ready) == 0 ? read_plainly(replay) : r;
}

static void *load(void *argument) {
	struct fcu_replay *replay = argument;
	prctl(PR_SET_NAME, "fcvm-replay");
	int r = read_contents(replay);
	if (r < 0 && r != -ECANCELED)
		publish(replay, UINT64_MAX);
	return NULL;
}

static int make_buffer(struct fcu_replay *replay) {
	uint64_t size = (replay->set.data_size + FCU_HUGE_PAGE - 1) / FCU_HUGE_PAGE * FCU_HUGE_PAGE;
	void *buffer = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (buffer == MAP_FAILED)
		return -errno;
	madvise(buffer, size, MADV_HUGEPAGE);
	replay->buffer = buffer;
	replay->buffer_size = size;
	return 0;
}

/* Threads take no signals: they are for the thread of the caller, who may wait for them. */
static bool start_thread(struct fcu_replay *replay, pthread_t *thread, void *(*run)(void *)) {
	sigset_t all;
	sigset_t before;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int r = pthread_create(thread, NULL, run, replay);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return r == 0;
}

/* Makes the map's page tables, in one go and not one fault after the other inside UFFDIO_COPY. */
static void *make_tables(void *argument) {
	struct fcu_replay *replay = argument;
	prctl(PR_SET_NAME, "fcvm-replay-map");
	for (uint64_t at = 0; at < replay->file_size && !atomic_load(&replay->stop); at += PIECE) {
		uint64_t left = replay->file_size - at;
		madvise((void *)(size_t)(replay->map + at), left < PIECE ? left : PIECE, MADV_POPULATE_READ);
	}
	return NULL;
}

static void map_cached(struct fcu_replay *replay) {
	void *map = mmap(NULL, replay->file_size, PROT_READ, MAP_SHARED, replay->fd, 0);
	if (map == MAP_FAILED)
		return;
	if (is_cached(map, replay->file_size))
		replay->map = map;
	else
		munmap(map, replay->file_size);
}

void fcu_replay_prepare(struct fcu_replay *replay) {
	pthread_mutex_lock(&replay->lock);
	if (!replay->begun && !replay->map) {
		map_cached(replay);
		if (replay->map)
			replay->toucher_made = start_thread(replay, &replay->toucher, make_tables);
	}
	pthread_mutex_unlock(&replay->lock);
}

void fcu_replay_begin(struct fcu_replay *replay) {
	pthread_mutex_lock(&replay->lock);
	if (!replay->begun) {
		replay->begun = true;
		if (!replay->map)
			map_cached(replay);
		/* What was cached when the server started may not be any more. */
		replay->map_used = replay->map && is_cached(replay->map, replay->file_size);
		if (!replay->map_used && replay->set.data_size > 0)
			replay->thread_made = make_buffer(replay) == 0 && start_thread(replay, &replay->thread, load);
		if (replay->map_used)
			publish(replay, replay->set.data_size);
		else if (replay->set.data_size > 0 && !replay->thread_made)
			publish(replay, UINT64_MAX);
	}
	pthread_mutex_unlock(&replay->lock);
}

uint64_t fcu_replay_ready(const struct fcu_replay *replay) {
	return atomic_load_explicit(&replay->ready, memory_order_acquire);
}

const uint8_t *fcu_replay_data(const struct fcu_replay *replay, uint64_t at) {
	return replay->map_used ? replay->map + replay->set.data_offset + at : replay->buffer + at;
}

bool fcu_replay_whole(const struct fcu_replay *replay) {
	struct stat stat;
	return !replay->map_used || (fstat(replay->fd, &stat) == 0 && (uint64_t)stat.st_size == replay->file_size);
}
