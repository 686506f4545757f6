// SPDX-License-Identifier: Apache-2.0
/*
 * core/proc/lock.h: a lock on a file, held by a descriptor and gone with it, however its process ends.
 *
 * It is flock(2)'s: it belongs to the open file, not to the process, so that two holders in one process exclude each
 * other and closing some other descriptor of the file releases nothing. Advisory; the file's content does not matter.
 */
#ifndef FCVM_PROC_LOCK_H
#define FCVM_PROC_LOCK_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/error.h"

/*
 * Locks `path`, which is made with `mode` where it is missing; alone, or with others that share. Never waits. Returns
 * the descriptor that holds the lock (close-on-exec), which the caller gives to fc_lock_release.
 *
 * EAGAIN where it is held; ELOOP where it is a symbolic link; the errors of open(2). A file that was unlinked or
 * replaced between its opening and its locking is left and the new one taken: the lock is always that of the file that
 * `path` names.
 */
int fc_lock_acquire(const char *path, bool shared, mode_t mode, struct fc_error *error);

/* Releases the lock and closes the descriptor; of duplicates in children that have not executed yet, too. */
void fc_lock_release(int fd);

#endif
