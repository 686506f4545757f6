// SPDX-License-Identifier: Apache-2.0
/* core/disk/clone.c: clones that share blocks with their source (FICLONE, see ioctl_ficlone(2)). */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "disk/disk.h"
#include "disk/disk_internal.h"

/* The ways in which a kernel says that two files cannot share blocks, where both are known to be regular files. */
static int cannot_share(int err) {
	return err == EOPNOTSUPP || err == ENOTTY || err == EXDEV || err == EINVAL || err == ENOSYS;
}

static int copy_small(const char *src, const char *dst, struct fc_error *error) {
	struct fc_disk_copier *copier = NULL;
	struct fc_disk_progress at = {.done = 0, .total = 1};
	int r = fc_disk_copy_open(src, dst, &copier, error);
	/* A source that grew meanwhile is copied at the size that it has now; that is still a copy, only a slower one.
	 */
	while (r == 0 && at.done < at.total)
		r = fc_disk_copy_step(copier, (size_t)FC_DISK_SMALL, &at, error);
	fc_disk_copier_free(copier);
	return r < 0 ? r : FC_DISK_COPY;
}

int fc_disk_clone(const char *src, const char *dst, struct fc_error *error) {
	struct stat stat;
	struct fcd_target target;
	_cleanup_close_ int source = fcd_open_source(src, &stat, error);
	if (source < 0)
		return source;
	int r = fcd_target_create(dst, &target, error);
	if (r < 0)
		return r;
	int err = ioctl(target.fd, FICLONE, source) < 0 ? errno : 0;
	fcd_target_close(&target, err == 0);
	if (err == 0)
		return FC_DISK_REFLINK;
	if (!cannot_share(err))
		return fc_error_set(error, err, "clone", dst, fcd_space_hint(err), NULL);
	if (stat.st_size <= FC_DISK_SMALL)
		return copy_small(src, dst, error);
	return fc_error_set(error, EOPNOTSUPP, "clone", dst, "a data directory on btrfs or xfs makes clones instant",
	                    "the file system cannot share blocks with the source");
}

/* A file in `dir` that has no name any more, open for reading and writing. Returns the descriptor or -errno. */
static int open_nameless(const char *dir, struct fc_error *error) {
	_cleanup_free_ char *path = NULL;
	if (asprintf(&path, "%s/.fcvm-XXXXXX", dir) < 0) {
		path = NULL;
		return fc_error_set(error, ENOMEM, "try reflinks", dir, NULL, NULL);
	}
	int fd = mkostemp(path, O_CLOEXEC);
	if (fd < 0)
		return fc_error_set(error, errno, "try reflinks", dir, fcd_space_hint(errno), NULL);
	unlink(path);
	return fd;
}

int fc_disk_reflinks(const char *dir, struct fc_error *error) {
	char block[4096] = {1}; /* an empty file may be cloned where one with blocks cannot */
	_cleanup_close_ int from = open_nameless(dir, error);
	if (from < 0)
		return from;
	_cleanup_close_ int to = open_nameless(dir, error);
	if (to < 0)
		return to;
	int r = fc_io_write_full(from, block, sizeof block);
	if (r < 0)
		return fc_error_set(error, -r, "try reflinks", dir, fcd_space_hint(-r), NULL);
	if (ioctl(to, FICLONE, from) == 0)
		return 1;
	if (cannot_share(errno))
		return 0;
	return fc_error_set(error, errno, "try reflinks", dir, fcd_space_hint(errno), NULL);
}
