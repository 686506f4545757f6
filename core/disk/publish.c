// SPDX-License-Identifier: Apache-2.0
/* core/disk/publish.c: files and directories that appear whole: written beside their name, synced, renamed, synced. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "disk/disk.h"
#include "disk/disk_internal.h"

static int sync_at(int dir, const char *name, const char *subject, struct fc_error *error) {
	_cleanup_close_ int fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
	if (fd < 0)
		return fc_error_set(error, errno, "open", subject, NULL, NULL);
	if (fsync(fd) < 0)
		return fc_error_set(error, errno, "sync", subject, fcd_space_hint(errno), NULL);
	return 0;
}

int fc_disk_sync(const char *path, struct fc_error *error) {
	return sync_at(AT_FDCWD, path, path, error);
}

static void close_dir(DIR **dir) {
	if (*dir)
		closedir(*dir);
}

/* Syncs the regular files directly in the directory `fd`, which is taken. */
static int sync_files(int fd, const char *path, struct fc_error *error) {
	__attribute__((cleanup(close_dir))) DIR *dir = fdopendir(fd);
	if (!dir) {
		int err = errno;
		close(fd);
		return fc_error_set(error, err, "read directory", path, NULL, NULL);
	}
	for (;;) {
		errno = 0;
		struct dirent *entry = readdir(dir);
		if (!entry)
			return errno ? fc_error_set(error, errno, "read directory", path, NULL, NULL) : 0;
		struct stat stat;
		if (fstatat(dirfd(dir), entry->d_name, &stat, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(stat.st_mode))
			continue;
		int r = sync_at(dirfd(dir), entry->d_name, entry->d_name, error);
		if (r < 0)
			return r;
	}
}

static int sync_whole(const char *path, struct fc_error *error) {
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
	if (fd < 0)
		return fc_error_set(error, errno, "open", path, NULL, NULL);
	struct stat stat;
	if (fstat(fd, &stat) < 0)
		return fc_error_set(error, errno, "stat", path, NULL, NULL);
	if (S_ISDIR(stat.st_mode)) {
		int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
		if (copy < 0)
			return fc_error_set(error, errno, "open", path, NULL, NULL);
		int r = sync_files(copy, path, error);
		if (r < 0)
			return r;
	}
	if (fsync(fd) < 0)
		return fc_error_set(error, errno, "sync", path, fcd_space_hint(errno), NULL);
	return 0;
}

static unsigned int rename_flags(enum fc_disk_publish how) {
	switch (how) {
	case FC_DISK_NEW:
		return RENAME_NOREPLACE;
	case FC_DISK_EXCHANGE:
		return RENAME_EXCHANGE;
	case FC_DISK_REPLACE:
	default:
		return 0;
	}
}

static int sync_dir(int fd, const char *path, struct fc_error *error) {
	if (fsync(fd) < 0)
		return fc_error_set(error, errno, "sync directory of", path, NULL, NULL);
	return 0;
}

int fc_disk_publish(const char *tmp, const char *final, enum fc_disk_publish how, struct fc_error *error) {
	const char *from_name;
	const char *to_name;
	_cleanup_close_ int from = fcd_open_parent(tmp, O_RDONLY, &from_name, error);
	if (from < 0)
		return from;
	_cleanup_close_ int to = fcd_open_parent(final, O_RDONLY, &to_name, error);
	if (to < 0)
		return to;
	int r = sync_whole(tmp, error);
	if (r < 0)
		return fc_error_wrap(error, "publish", final);
	if (renameat2(from, from_name, to, to_name, rename_flags(how)) < 0)
		return fc_error_set(error, errno, "publish", final, fcd_space_hint(errno), NULL);
	r = sync_dir(to, final, error);
	return r < 0 ? r : sync_dir(from, tmp, error);
}

static int fill(int fd, const void *data, size_t size, mode_t mode) {
	int r = fc_io_write_full(fd, data, size);
	if (r < 0)
		return r;
	return fchmod(fd, mode) < 0 ? -errno : 0;
}

int fc_disk_write(const char *path, const void *data, size_t size, mode_t mode, struct fc_error *error) {
	const char *name;
	_cleanup_close_ int dir = fcd_open_parent(path, O_PATH, &name, error);
	if (dir < 0)
		return fc_error_wrap(error, "write", path);
	_cleanup_free_ char *beside = NULL;
	if (asprintf(&beside, "%.*s.fcvm-XXXXXX", (int)(name - path), path) < 0) {
		beside = NULL;
		return fc_error_set(error, ENOMEM, "write", path, NULL, NULL);
	}
	_cleanup_close_ int fd = mkostemp(beside, O_CLOEXEC);
	if (fd < 0)
		return fc_error_set(error, errno, "write", path, fcd_space_hint(errno), NULL);
	int r = fill(fd, data, size, mode);
	if (r < 0)
		r = fc_error_set(error, -r, "write", path, fcd_space_hint(-r), NULL);
	else
		r = fc_disk_publish(beside, path, FC_DISK_REPLACE, error);
	if (r < 0)
		unlink(beside);
	return r;
}
