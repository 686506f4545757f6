// SPDX-License-Identifier: Apache-2.0
/* core/disk/disk_internal.h: what the files of core/disk share. */
#ifndef FCVM_DISK_DISK_INTERNAL_H
#define FCVM_DISK_DISK_INTERNAL_H

#include <sys/stat.h>

#include "base/error.h"

/* A new file, which is removed again unless it is kept. */
struct fcd_target {
	int dir; /* O_PATH of the directory, so that neither chdir nor a renamed parent misleads the removal; or -1 */
	int fd;  /* the file, open for writing; or -1 */
	char *name; /* in `dir` */
};

/* Opens a regular file for reading. EINVAL where it is another kind of file. Returns the descriptor or -errno. */
int fcd_open_source(const char *path, struct stat *ret_stat, struct fc_error *error);

/* Creates `path`, mode 0600. EEXIST where there is something. On failure *target is empty. */
int fcd_target_create(const char *path, struct fcd_target *target, struct fc_error *error);

/* Closes; removes the file unless `keep` or another one has its name by now. Fine on an empty target. */
void fcd_target_close(struct fcd_target *target, int keep);

/* Opens the directory that `path` is in. Returns the descriptor (O_PATH | flags) or -errno; *ret_name points into path.
 */
int fcd_open_parent(const char *path, int flags, const char **ret_name, struct fc_error *error);

/* The advice for an error of writing, or NULL. */
const char *fcd_space_hint(int err);

#endif
