// SPDX-License-Identifier: Apache-2.0
#include "pages.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"

void die(const char *format, ...) {
	char text[1024];
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(text, sizeof text, format, arguments);
	va_end(arguments);
	fprintf(stderr, "bench-pages: %s\n", text);
	exit(2);
}

bool memory_is_zero(const struct memory *memory, uint32_t page) {
	return memory->zero_percent && pages_mix(0x5a5a000000000000u | (page >> 3)) % 100 < memory->zero_percent;
}

void memory_write(const struct memory *memory) {
	enum { BATCH = 256 };
	_cleanup_close_ int fd = open(memory->path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	_cleanup_free_ uint64_t *words = malloc((size_t)BATCH * PAGE_BYTES);
	if (fd < 0 || !words)
		die("%s: %s", memory->path, strerror(errno));
	for (uint32_t page = 0; page < memory->pages;) {
		uint64_t *word = words;
		uint32_t end = memory->pages - page < BATCH ? memory->pages : page + BATCH;
		for (; page < end; page++)
			for (uint32_t i = 0; i < PAGE_WORDS; i++)
				*word++ = memory_word(memory, page, i);
		if (fc_io_write_full(fd, words, (size_t)(word - words) * sizeof *words) < 0)
			die("%s: cannot be written", memory->path);
	}
	if (fsync(fd) < 0)
		die("%s: %s", memory->path, strerror(errno));
}

/* The pages of the file that are in the page cache. */
static size_t resident(int fd, size_t bytes) {
	size_t pages = (bytes + PAGE_BYTES - 1) / PAGE_BYTES, count = 0;
	_cleanup_free_ unsigned char *present = malloc(pages ? pages : 1);
	void *map = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
	if (!present || map == MAP_FAILED || mincore(map, bytes, present) < 0)
		die("mincore: %s", strerror(errno));
	munmap(map, bytes);
	for (size_t i = 0; i < pages; i++)
		count += present[i] & 1;
	return count;
}

void cache_evict(const char *path) {
	struct stat st;
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0 || fsync(fd) < 0)
		die("%s: %s", path, strerror(errno));
	size_t left = 1;
	/* A process that has just ended may still be giving up its mapping: try again, not for ever. */
	for (int attempt = 0; left && attempt < 50; attempt++) {
		if (attempt)
			usleep(20000);
		posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
		left = resident(fd, (size_t)st.st_size);
	}
	if (left)
		die("%s: %zu pages stay in the page cache, so nothing here would be cold", path, left);
}

void cache_warm(const char *path) {
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	_cleanup_free_ char *buffer = malloc(1 << 20);
	ssize_t got = fd < 0 || !buffer ? -1 : 1;
	while (got > 0)
		got = read(fd, buffer, 1 << 20);
	if (got < 0)
		die("%s: %s", path, strerror(errno));
}

/* A sequence of random numbers: the seed's own, and the same on every machine. */
static uint64_t draw(uint64_t *seed) {
	return pages_mix((*seed)++);
}

static uint32_t cluster_length(uint64_t *seed, uint32_t mean) {
	uint32_t length = 1;
	while (length < 128 && draw(seed) % mean)
		length++;
	return length;
}

/* Whether the cluster would touch none that is there. */
static bool is_free(const bool *taken, uint32_t pages, uint32_t first, uint32_t length) {
	if (first == 0 || length + 1 > pages - first)
		return false;
	for (uint32_t page = first - 1; page <= first + length; page++)
		if (page < pages && taken[page])
			return false;
	return true;
}

struct workset workset_make(uint32_t memory_pages, uint32_t pages, uint32_t mean, uint64_t seed) {
	if (pages > memory_pages / 3 || mean == 0)
		die("a working set of %u of %u pages is too dense", pages, memory_pages);
	_cleanup_free_ bool *taken = calloc(memory_pages, sizeof *taken);
	struct workset set = {.clusters = calloc(pages, sizeof *set.clusters)};
	if (!taken || !set.clusters)
		die("no memory");
	seed = pages_mix(seed);
	while (set.pages < pages) {
		uint32_t length = cluster_length(&seed, mean);
		uint32_t first = (uint32_t)(draw(&seed) % memory_pages);
		if (length > pages - set.pages)
			length = pages - set.pages;
		if (!is_free(taken, memory_pages, first, length))
			continue;
		memset(taken + first, 1, length);
		set.clusters[set.clustered++] = (struct cluster){first, length};
		set.pages += length;
	}
	return set;
}

void workset_free(struct workset *set) {
	free(set->clusters);
	*set = (struct workset){0};
}

static void shuffle(struct cluster *clusters, uint32_t count, uint64_t *seed) {
	for (uint32_t i = count; i > 1; i--) {
		uint32_t other = (uint32_t)(draw(seed) % i);
		struct cluster moved = clusters[i - 1];
		clusters[i - 1] = clusters[other];
		clusters[other] = moved;
	}
}

/* Replaces some touches by pages that no cluster has. */
static void stray(const struct workset *set, uint32_t *order, uint32_t memory_pages, uint32_t percent, uint64_t *seed) {
	enum { FREE, IN_SET, OUTSIDE };
	_cleanup_free_ unsigned char *kind = calloc(memory_pages, 1);
	if (!kind)
		die("no memory");
	for (uint32_t i = 0; i < set->pages; i++)
		kind[order[i]] = IN_SET;
	for (uint32_t left = (uint32_t)((uint64_t)set->pages * percent / 100); left;) {
		uint32_t page = (uint32_t)(draw(seed) % memory_pages);
		uint32_t *touch = &order[draw(seed) % set->pages];
		if (kind[page] != FREE || kind[*touch] != IN_SET)
			continue;
		kind[page] = OUTSIDE;
		*touch = page;
		left--;
	}
}

uint32_t *workset_order(const struct workset *set, uint32_t memory_pages, uint32_t outside_percent, uint64_t seed) {
	uint32_t *order = malloc(set->pages * sizeof *order);
	_cleanup_free_ struct cluster *clusters = malloc(set->clustered * sizeof *clusters);
	if (!order || !clusters)
		die("no memory");
	memcpy(clusters, set->clusters, set->clustered * sizeof *clusters);
	seed = pages_mix(seed ^ 0x6f72646572u);
	shuffle(clusters, set->clustered, &seed);
	struct cluster under_way[2] = {{0}};
	uint32_t next = 0;
	for (uint32_t i = 0; i < set->pages;) {
		struct cluster *one = &under_way[draw(&seed) & 1];
		if (!one->length && next < set->clustered)
			*one = clusters[next++];
		if (!one->length)
			continue;
		order[i++] = one->first++;
		one->length--;
	}
	if (outside_percent)
		stray(set, order, memory_pages, outside_percent, &seed);
	return order;
}
