// SPDX-License-Identifier: Apache-2.0
/*
 * core/proc/userns.h: a user namespace of one's own, for who is not root.
 *
 * In it this process has all capabilities over what it makes there (mounts, network and PID namespaces), and over
 * nothing of the host's. The user and group stay what they are, and are the only ones there: a program that is executed
 * has no capability (user_namespaces(7): execve(2) by a user other than 0 drops them) but for those that its start
 * names.
 */
#ifndef FCVM_PROC_USERNS_H
#define FCVM_PROC_USERNS_H

#include "base/error.h"

/*
 * Moves this process into new user and mount namespaces. It must have one thread and no children that it counts on
 * being of the same namespace. What is mounted from then on is seen in here alone, and goes with the process. EPERM,
 * ENOSPC (EUSERS before Linux 4.9): user namespaces are switched off, or used up. EINVAL: there are other threads.
 */
int fc_userns_enter(struct fc_error *error);

#endif
