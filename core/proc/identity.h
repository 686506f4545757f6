// SPDX-License-Identifier: Apache-2.0
/*
 * core/proc/identity.h: a process by more than its number, which the kernel gives to another one day.
 *
 * A PID with its start time names one process of one boot; the boot's id makes it one for good. That is what a state
 * record holds. Whoever is to be watched or signalled is opened as a pidfd first, which stays with the process.
 * Any thread; /proc must show our own PID namespace.
 */
#ifndef FCVM_PROC_IDENTITY_H
#define FCVM_PROC_IDENTITY_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"

enum { FC_BOOT_ID_LENGTH = 36 };

struct fc_identity {
	pid_t pid;
	uint64_t start_time;                 /* in clock ticks since boot: field 22 of /proc/PID/stat, see proc(5) */
	char boot_id[FC_BOOT_ID_LENGTH + 1]; /* /proc/sys/kernel/random/boot_id */
};

/*
 * Reads pid, start time and state (a letter of proc(5)) out of the text of /proc/PID/stat, whose second field, the
 * process's name, may have blanks, brackets and line feeds in it. 0, or -EPROTO where it is no such text.
 */
int fc_identity_parse(const char *text, struct fc_identity *ret_identity, char *ret_state);

/* The identity of a living process; `pid` 0 is our own. ESRCH where there is none or it has ended (a zombie). */
int fc_identity_read(pid_t pid, struct fc_identity *ret_identity, struct fc_error *error);

/*
 * Whether that very process lives. False for a zombie, for another process with its number, for one of another boot,
 * and for anything that cannot be found out.
 */
bool fc_identity_alive(const struct fc_identity *identity);

/*
 * A pidfd of that very process: readable when it has ended. Returns the descriptor (close-on-exec, the caller closes
 * it); ESRCH where it has ended already; EMFILE and the like of pidfd_open(2).
 */
int fc_identity_open(const struct fc_identity *identity, struct fc_error *error);

/* Sends a signal by a pidfd (borrowed). ESRCH where the process has ended; EPERM; EINVAL. */
int fc_pidfd_kill(int pidfd, int signal, struct fc_error *error);

#endif
