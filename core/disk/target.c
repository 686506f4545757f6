// SPDX-License-Identifier: Apache-2.0
/* core/disk/target.c: sources that are read and new files that are removed again unless they become whole. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "disk/disk_internal.h"

const char *fcd_space_hint(int err) {
	if (err == ENOSPC || err == EDQUOT)
		return "free space there, or choose another data directory";
	return NULL;
}

int fcd_open_source(const char *path, struct stat *ret_stat, struct fc_error *error) {
	/* O_NONBLOCK: opening a FIFO must be refused below, not wait for its writer. */
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return fc_error_set(error, errno, "open", path, NULL, NULL);
	if (fstat(fd, ret_stat) < 0)
		return fc_error_set(error, errno, "stat", path, NULL, NULL);
	if (!S_ISREG(ret_stat->st_mode))
		return fc_error_set(error, EINVAL, "open", path, NULL, "it is not a regular file");
	return fc_steal_fd(&fd);
}

int fcd_open_parent(const char *path, int flags, const char **ret_name, struct fc_error *error) {
	const char *slash = strrchr(path, '/');
	const char *name = slash ? slash + 1 : path;
	if (!name[0] || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
		return fc_error_set(error, EINVAL, "open", path, NULL, "its last part is no name");
	_cleanup_free_ char *parent = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
	if (!parent)
		return fc_error_set(error, ENOMEM, "open", path, NULL, NULL);
	int fd = open(parent, flags | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return fc_error_set(error, errno, "open", parent, NULL, NULL);
	*ret_name = name;
	return fd;
}

int fcd_target_create(const char *path, struct fcd_target *target, struct fc_error *error) {
	const char *last;
	*target = (struct fcd_target){.dir = -1, .fd = -1};
	_cleanup_close_ int dir = fcd_open_parent(path, O_PATH, &last, error);
	if (dir < 0)
		return dir;
	_cleanup_free_ char *name = strdup(last);
	if (!name)
		return fc_error_set(error, ENOMEM, "create", path, NULL, NULL);
	int fd = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return fc_error_set(error, errno, "create", path, fcd_space_hint(errno), NULL);
	*target = (struct fcd_target){.dir = fc_steal_fd(&dir), .fd = fd, .name = fc_steal_ptr(name)};
	return 0;
}

/* Whether the name still means the file that was created: it may have been replaced meanwhile. */
static int is_ours(const struct fcd_target *target) {
	struct stat mine;
	struct stat there;
	return fstat(target->fd, &mine) == 0 && fstatat(target->dir, target->name, &there, AT_SYMLINK_NOFOLLOW) == 0 &&
	       mine.st_dev == there.st_dev && mine.st_ino == there.st_ino;
}

void fcd_target_close(struct fcd_target *target, int keep) {
	if (target->fd >= 0) {
		if (!keep && is_ours(target))
			unlinkat(target->dir, target->name, 0);
		close(target->fd);
	}
	if (target->dir >= 0)
		close(target->dir);
	free(target->name);
	*target = (struct fcd_target){.dir = -1, .fd = -1};
}
