// SPDX-License-Identifier: Apache-2.0
#include "proc/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"

/* Whoever replaces the file that often at the right moments means it. */
enum { TRIES = 100 };

/* 1 where `fd` is (still) the file that `path` names, 0 where not, or -errno. */
static int is_current(int fd, const char *path) {
	struct stat held;
	struct stat named;
	if (fstat(fd, &held) < 0)
		return -errno;
	if (lstat(path, &named) < 0)
		return errno == ENOENT ? 0 : -errno;
	return held.st_dev == named.st_dev && held.st_ino == named.st_ino;
}

int fc_lock_acquire(const char *path, bool shared, mode_t mode, struct fc_error *error) {
	for (int i = 0; i < TRIES; i++) {
		_cleanup_close_ int fd =
		        open(path, (shared ? O_RDONLY : O_RDWR) | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, mode);
		if (fd < 0)
			return fc_error_set(error, errno, "lock", path, NULL, NULL);
		if (flock(fd, (shared ? LOCK_SH : LOCK_EX) | LOCK_NB) < 0)
			return fc_error_set(error, errno, "lock", path, NULL,
			                    errno == EWOULDBLOCK ? "it is held by another" : NULL);
		int r = is_current(fd, path);
		if (r < 0)
			return fc_error_set(error, -r, "lock", path, NULL, NULL);
		if (r)
			return fc_steal_fd(&fd);
	}
	return fc_error_set(error, EAGAIN, "lock", path, NULL, "the file is replaced again and again");
}

void fc_lock_release(int fd) {
	/* A child between clone and exec may have a duplicate, which would keep the lock for a moment. */
	flock(fd, LOCK_UN);
	close(fd);
}
