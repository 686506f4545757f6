// SPDX-License-Identifier: Apache-2.0
/*
 * core/proc/spawn.h: a program started as a child that cannot be mistaken for another and does not outlive us.
 *
 * A child is addressed by pidfds from its birth on (clone3 with CLONE_PIDFD), never by its number, and is killed when
 * the thread that spawned it ends (PDEATHSIG). The kernel drops PDEATHSIG where a process changes its user or executes
 * a setuid program, and descendants never had it. So there is a second way:
 *
 * A contained child lives in a PID namespace of its own, below a tiny init:
 *
 *     we ── fcvm-init (PID 1 in there; watches us) ── the program ── whatever it starts
 *
 * The init ends when the program has ended, when we die (PDEATHSIG, which it keeps as it never changes its user nor
 * executes anything; and the end of the socket that it shares with us), or when it is killed; and with a namespace's
 * PID 1 the kernel kills everything in it. The init reaps orphans, blocks all signals and holds two descriptors.
 *
 * What goes between us and a new child:
 * - the report, a close-on-exec pipe: the step that failed and its errno; its end without a word is the program's
 * start;
 * - the status, a socket between us and the init. It must first send the program's PID (the kernel translates it to
 * ours) with its pidfd, and last the status that the program ended with, since PID 1 cannot die by most signals itself.
 *
 * Between clone3 and execve the child calls async-signal-safe functions alone: we may have other threads, whose locks
 * it would inherit locked. What it needs is made before.
 *
 * Needs Linux 5.11 (close_range with CLOSE_RANGE_CLOEXEC). Nothing here knows the architecture.
 */
#ifndef FCVM_PROC_SPAWN_H
#define FCVM_PROC_SPAWN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"

/* One descriptor of the child: its number there, and ours that it is a duplicate of (borrowed). */
struct fc_spawn_fd {
	int child;
	int parent;
};

/* What of ours the child sees in its root, and where there: a file over a file, a directory over a directory. */
struct fc_spawn_bind {
	const char *from;
	const char *to; /* in our own tree: below the root */
};

/* What to start, and how. Everything is borrowed until fc_spawn returns; zero is the usual value but for umask. */
struct fc_spawn_plan {
	char *const *argv; /* NULL-terminated, at least one; argv[0] is looked for in PATH where it has no slash: the
	                      child's PATH, else ours; its relative and empty elements are passed over */
	char *const *env;  /* NULL-terminated "K=V"; NULL: ours */
	const char *cwd;   /* where it starts; NULL: where we are. A relative argv[0] counts from here */
	const struct fc_spawn_fd
	        *fds; /* its descriptors; 0 to 2 are /dev/null where not listed, all others are closed */
	size_t fd_count;
	const char *netns; /* a network namespace to start in: a file of /proc/PID/ns, or one bound to it; NULL: ours */
	int umask;         /* its file mode mask, or -1: ours */
	const char *root;  /* a directory that it is closed into, in a mount namespace of its own; argv and cwd are in
	                      there,  programs and descriptors given by us are not looked for anew. NULL: ours. Needs
	                      CAP_SYS_ADMIN and CAP_SYS_CHROOT, which the program then should not have */
	const struct fc_spawn_bind *binds; /* with root; they must exist */
	size_t bind_count;
	uint64_t capabilities; /* those of ours, by their bits, that it keeps though its user is not root; else it has
	                          what execve(2) gives to its user and file */
	bool session;          /* in a session of its own, without a terminal */
	bool contain;          /* below an init in a PID namespace of its own (see above) */
	bool proc_mount; /* with a /proc that shows that namespace, in a mount namespace of its own; needs contain */
};

/* How a process ended. */
struct fc_exit {
	bool signalled;
	int code; /* the signal's number where signalled, else the exit status */
};

/* A started child. One thread at a time may use it. */
struct fc_child;

/*
 * Starts a program. Its signals are all unblocked, with default handlers; it is killed when the calling thread ends.
 * Returns as soon as the program runs: *ret_child is the caller's, who ends it with fc_child_free.
 *
 * Errors name the step in `op` and its object in `subject`: execve(2)'s ("execute"; ENOENT, EACCES, ENOEXEC, ...),
 * open(2)'s and setns(2)'s for the namespace, chdir(2)'s, dup2(2)'s (EBADF: not open here; EMFILE). EPERM where a PID
 * namespace or a network namespace is not allowed; EINVAL where the plan contradicts itself, or where this process
 * ignores SIGCHLD, which would lose the status of a child that is not contained; EAGAIN and ENOMEM from clone3(2). On
 * failure no process is left. Any thread.
 */
int fc_spawn(const struct fc_spawn_plan *plan, struct fc_child **ret_child, struct fc_error *error);

/* The program's PID as we see it; of a contained one too, never its init's. */
pid_t fc_child_pid(const struct fc_child *child);

/* A pidfd (the child's own, borrowed) that becomes readable when fc_child_wait has an answer. */
int fc_child_fileno(const struct fc_child *child);

/*
 * Asks whether the child has ended; never blocks. Returns 1 with *ret_exit when it has (again and again), 0 while it
 * runs, or -errno: ECHILD where somebody else took its status. A contained child has ended when everything in its
 * namespace has; where its init was killed from outside, that reads as an end by SIGKILL.
 */
int fc_child_wait(struct fc_child *child, struct fc_exit *ret_exit, struct fc_error *error);

/* Sends a signal to the program itself. ESRCH where it has ended, EPERM where it is not ours to signal, EINVAL. */
int fc_child_kill(struct fc_child *child, int signal, struct fc_error *error);

/*
 * Kills the child (a contained one with all that it started) where it still runs, waits for its end, frees. It blocks
 * for as long as the kernel needs to end it; a child that may not be killed is left to run. NULL is fine.
 */
void fc_child_free(struct fc_child *child);

#endif
