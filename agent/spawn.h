// SPDX-License-Identifier: Apache-2.0
/* agent/spawn.h: starting programs from the agent, and ending them with all that they started. */
#ifndef FCVM_AGENT_SPAWN_H
#define FCVM_AGENT_SPAWN_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/error.h"
#include "users.h"

struct fc_spawn {
	char *const *argv; /* argv[0] is looked up in PATH of `env` where it has no '/' */
	char *const *env;
	const char *cwd;            /* or NULL: "/" */
	int fds[3];                 /* borrowed; -1: /dev/null */
	const struct fc_user *user; /* or NULL: stay root */
};

/*
 * Starts a program in a session (and process group) of its own, with all signals as they are by default. Returns 0 with
 * *ret_pid, or -errno: that of the program's exec, where it could not be executed. Waits for no more than that exec.
 */
int fc_spawn(const struct fc_spawn *spawn, pid_t *ret_pid, struct fc_error *error);

/* Kills a child that fc_spawn started: its process group, and its descendants with theirs. */
void fc_spawn_kill(pid_t pid);

#endif
