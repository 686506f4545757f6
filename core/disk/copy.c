// SPDX-License-Identifier: Apache-2.0
/*
 * core/disk/copy.c: copies that keep holes.
 *
 * Plain reads and writes through one buffer: copy_file_range(2) would save the buffer, but copies a whole extent in one
 * uninterruptible call, fills holes on some file systems, and needs this way as its fallback anyway.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "disk/disk.h"
#include "disk/disk_internal.h"

enum { BUFFER_SIZE = 256 << 10 };

struct fc_disk_copier {
	int src;
	struct fcd_target dst;
	off_t at;       /* up to here the source is dealt with */
	off_t data_end; /* data without a hole reaches from `at` to here; at or before `at` where that is not known */
	off_t size;
	int whole;
	char *buffer;
	char *path; /* of the copy, for errors */
};

int fc_disk_copy_open(const char *src, const char *dst, struct fc_disk_copier **ret_copier, struct fc_error *error) {
	struct stat stat;
	_cleanup_close_ int source = fcd_open_source(src, &stat, error);
	if (source < 0)
		return source;
	_cleanup_free_ struct fc_disk_copier *copier = calloc(1, sizeof *copier);
	_cleanup_free_ char *buffer = malloc(BUFFER_SIZE);
	_cleanup_free_ char *path = strdup(dst);
	if (!copier || !buffer || !path)
		return fc_error_set(error, ENOMEM, "copy", src, NULL, NULL);
	int r = fcd_target_create(dst, &copier->dst, error);
	if (r < 0)
		return r;
	copier->src = fc_steal_fd(&source);
	copier->buffer = fc_steal_ptr(buffer);
	copier->path = fc_steal_ptr(path);
	copier->size = stat.st_size;
	*ret_copier = fc_steal_ptr(copier);
	return 0;
}

void fc_disk_copier_free(struct fc_disk_copier *copier) {
	if (!copier)
		return;
	fcd_target_close(&copier->dst, copier->whole);
	close(copier->src);
	free(copier->buffer);
	free(copier->path);
	free(copier);
}

/* Passes over a hole at `at` and finds where the data after it ends. Returns 0 or -errno. */
static int find_data(struct fc_disk_copier *copier) {
	off_t data = lseek(copier->src, copier->at, SEEK_DATA);
	if (data < 0 && errno == ENXIO)
		data = copier->size;
	else if (data < 0 && errno == EINVAL)
		data = copier->at; /* the file system knows no holes: all is data */
	else if (data < 0)
		return -errno;
	if (data >= copier->size) {
		copier->at = copier->size;
		return 0;
	}
	off_t hole = lseek(copier->src, data, SEEK_HOLE);
	copier->at = data;
	copier->data_end = hole > data && hole < copier->size ? hole : copier->size;
	return 0;
}

static int fail(int err, const char *op, const struct fc_disk_copier *copier, struct fc_error *error) {
	return fc_error_set(error, err, op, copier->path, fcd_space_hint(err), NULL);
}

/* Copies one buffer's worth of data, at most `bytes`. Returns how much it was, or -errno. */
static ssize_t copy_some(struct fc_disk_copier *copier, size_t bytes, struct fc_error *error) {
	size_t left = (size_t)(copier->data_end - copier->at);
	size_t want = bytes < left ? bytes : left;
	if (want > BUFFER_SIZE)
		want = BUFFER_SIZE;
	ssize_t n;
	do
		n = pread(copier->src, copier->buffer, want, copier->at);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return fail(errno, "read for copy", copier, error);
	if (n == 0)
		return fc_error_set(error, EIO, "copy", copier->path, NULL,
		                    "the source became shorter while it was copied");
	ssize_t written;
	do
		written = pwrite(copier->dst.fd, copier->buffer, (size_t)n, copier->at);
	while (written < 0 && errno == EINTR);
	if (written < 0)
		return fail(errno, "write copy", copier, error);
	/* A short write is taken as far as it came: the next one tells why. */
	copier->at += written;
	return written;
}

/* The last hole has no data behind it that would give the file its length. */
static int finish(struct fc_disk_copier *copier, struct fc_error *error) {
	if (ftruncate(copier->dst.fd, copier->size) < 0)
		return fail(errno, "size copy", copier, error);
	copier->whole = 1;
	return 0;
}

int fc_disk_copy_step(struct fc_disk_copier *copier, size_t bytes, struct fc_disk_progress *ret_progress,
                      struct fc_error *error) {
	while (bytes > 0 && copier->at < copier->size) {
		if (copier->data_end <= copier->at) {
			int r = find_data(copier);
			if (r < 0)
				return fail(-r, "find data for copy", copier, error);
			continue;
		}
		ssize_t n = copy_some(copier, bytes, error);
		if (n < 0)
			return (int)n;
		bytes -= (size_t)n;
	}
	if (copier->at == copier->size && !copier->whole) {
		int r = finish(copier, error);
		if (r < 0)
			return r;
	}
	*ret_progress = (struct fc_disk_progress){.done = (uint64_t)copier->at, .total = (uint64_t)copier->size};
	return 0;
}
