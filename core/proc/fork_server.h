// SPDX-License-Identifier: Apache-2.0
/*
 * core/proc/fork_server.h: processes made by fork(2) of one that has everything loaded, for whoever asks over a socket.
 *
 * A program's start (execve, dynamic linking, reading its Lua) costs more than all that a supervisor does until its
 * Firecracker runs. A fork server pays it once. What asks is not the new process's parent; it gets a pidfd instead, and
 * learns of the end by it, but not of the status.
 *
 * Who asks connects to a SOCK_SEQPACKET socket and sends one message: the environment of the new process, "K=V" strings
 * each with its NUL, and FC_FORK_FDS descriptors by SCM_RIGHTS, its 0 to FC_FORK_FDS - 1. The answer is a struct
 * fc_fork_answer, with the pidfd by SCM_RIGHTS where a process was made. Only processes of the same user (or root) are
 * answered.
 */
#ifndef FCVM_PROC_FORK_SERVER_H
#define FCVM_PROC_FORK_SERVER_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

enum {
	FC_FORK_FDS = 6,
	FC_FORK_ENV_MAX = 65536, /* bytes of the environment, NULs included */
};

struct fc_fork_answer {
	int32_t pid;   /* as the server sees it, or 0 */
	int32_t error; /* an errno where there is no process, else 0 */
};

/* A listening socket, made at `path` (at most 107 bytes) with mode 0600. Returns the caller's descriptor, or -errno. */
int fc_fork_listen(const char *path, struct fc_error *error);

/*
 * Serves `listener` for as long as the process lives; it must have no other thread. Returns 1 in each new process,
 * which has the descriptors and the environment that were asked for and no others, is the first of a session of its
 * own, and has no signal blocked and SIGCHLD by default. Returns -errno in the server itself where the listener fails.
 */
int fc_fork_serve(int listener, struct fc_error *error);

/*
 * Asks the server at `path` for a process with these FC_FORK_FDS descriptors (borrowed) and this environment; never
 * blocks. Returns the connection, the caller's, which is readable when fc_fork_answer_read has an answer; or -errno:
 * ENOENT and ECONNREFUSED where no server is there, EAGAIN where too many ask, E2BIG.
 */
int fc_fork_ask(const char *path, const int *fds, const char *env, size_t env_size, struct fc_error *error);

/*
 * Reads the answer; never blocks. Returns a pidfd, the caller's, and the new process's PID as the server sees it; or
 * -errno: the server's own error, EAGAIN where nothing came yet, EPIPE where the server is gone, EPROTO.
 */
int fc_fork_answer_read(int connection, int32_t *ret_pid, struct fc_error *error);

#endif
