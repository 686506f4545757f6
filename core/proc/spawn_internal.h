// SPDX-License-Identifier: Apache-2.0
/* core/proc/spawn_internal.h: between spawn.c (our side of a start) and child.c (what runs in the new processes). */
#ifndef FCVM_PROC_SPAWN_INTERNAL_H
#define FCVM_PROC_SPAWN_INTERNAL_H

#include <stdint.h>
#include <sys/types.h>

#include "proc/spawn.h"

/* Where a start may fail. spawn.c has a name for each. */
enum fc_step {
	FC_STEP_WATCH,     /* PDEATHSIG */
	FC_STEP_FORK,      /* the init starting the program */
	FC_STEP_INTRODUCE, /* the init sending the program's PID */
	FC_STEP_SESSION,
	FC_STEP_NETNS_OPEN,
	FC_STEP_NETNS,
	FC_STEP_PROC,
	FC_STEP_BIND, /* detail: which */
	FC_STEP_ROOT,
	FC_STEP_CAPABILITIES,
	FC_STEP_CWD,
	FC_STEP_NULL,
	FC_STEP_CLOSE,
	FC_STEP_FD, /* detail: our descriptor */
	FC_STEP_EXEC,
};

/* What goes through the report pipe. */
struct fc_report {
	int step;
	int err;
	int detail;
};

/* What goes through the status socket: a CLD_ code of waitid(2) with its status, or INTRODUCTION with PID and pidfd. */
enum { FC_STATUS_INTRODUCTION = -1 };
struct fc_status {
	int code;
	int status;
};

/* All that the new processes need, made before they start, for they may not allocate. */
struct fc_setup {
	const struct fc_spawn_plan *plan;
	char *const *programs; /* the paths to try, in order; NULL-terminated */
	char *const *env;
	int *spare;   /* fd_count places for the mapping's own use */
	pid_t parent; /* our PID */
	int report;   /* the pipe's writing end */
	int status;   /* the init's end of the socket; -1 without */
	int ours;     /* our end of it, which the init has a duplicate of; -1 without */
};

/* Like fork(2), with a pidfd, and without the C library's hooks. `signal` is sent to the parent at its end. */
pid_t fc_clone(uint64_t flags, int signal, int *ret_pidfd);

/* Blocks every signal there is, the C library's own two as well; *ret_old is for fc_signals_restore. */
void fc_signals_block(uint64_t *ret_old);
void fc_signals_restore(uint64_t old);

/* The new process from here on, with every signal blocked: the program itself, or its init. */
_Noreturn void fc_child_main(const struct fc_setup *setup);
_Noreturn void fc_child_init(const struct fc_setup *setup);

#endif
