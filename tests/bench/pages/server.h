// SPDX-License-Identifier: Apache-2.0
/* tests/bench/pages/server.h: the servers under test, as processes of their own: the baseline, and ours behind serve.c.
 */
#ifndef PAGES_SERVER_H
#define PAGES_SERVER_H

#include <sys/types.h>

#include "client.h"

struct server_plan {
	bool ours;               /* else the baseline, a process a client */
	const char *memory;      /* the snapshot's file */
	const char *working_set; /* ours: to replay, or NULL */
	const char *page_map;    /* ours: which pages are zero, or NULL */
	const char *record;      /* ours: where the working set is written at the end, or NULL */
	uint32_t clients;
	int cpu; /* to run on, or -1 */
};

struct server {
	pid_t *pids;
	uint32_t count;
	char (*sockets)[108]; /* one a client; ours has the same in each */
	int out;              /* ours: its lines, or -1 */
	int64_t spawned_ns;   /* CLOCK_MONOTONIC, before the first fork */
	char line[4096];      /* what was read of them so far */
	size_t length;
};

/* Programs and the directory of sockets, set once. */
extern const char *server_baseline, *server_ours, *server_directory;

/* Names the sockets, so that clients can be made ready before. */
void server_prepare(struct server *server, const struct server_plan *plan);

/* Starts and waits until connections are taken. Exits on failure. */
void server_start(struct server *server, const struct server_plan *plan);

/* For fleet_run: reads lines; "prefilled PID" resumes that client. */
void server_event(void *server, struct fleet *fleet);

/* Ends it after its clients and frees. Exits where it ended with another status than 0. */
void server_stop(struct server *server);

/* Runs one of serve.c's jobs ("index", "warm") to its end. Exits on failure. */
void server_job(const char *job, const char *memory, const char *file);

#endif
