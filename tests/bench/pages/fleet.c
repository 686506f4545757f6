// SPDX-License-Identifier: Apache-2.0
/* Many clients: forked, ready, started at once, checked when all are done, so that no check disturbs a measurement. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "client_internal.h"

static void make_pipe(int ends[2]) {
	if (pipe2(ends, O_CLOEXEC) < 0)
		die("pipe: %s", strerror(errno));
}

static void close_end(int *fd) {
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* In shared memory: the common start, then a result a client. */
static void share(struct fleet *fleet) {
	size_t size = 64;
	for (uint32_t i = 0; i < fleet->count; i++)
		size += (sizeof(struct client_result) + fleet->plans[i].touches * sizeof(uint32_t) + 63) & ~(size_t)63;
	fleet->shared_bytes = size;
	fleet->shared = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (fleet->shared == MAP_FAILED)
		die("shared memory: %s", strerror(errno));
	char *at = (char *)fleet->shared + 64;
	for (uint32_t i = 0; i < fleet->count; i++) {
		fleet->results[i] = (struct client_result *)at;
		at += (sizeof(struct client_result) + fleet->plans[i].touches * sizeof(uint32_t) + 63) & ~(size_t)63;
	}
}

/* Kills what is left of the fleet; the bench cannot go on. */
static void give_up(struct fleet *fleet, const char *why) __attribute__((noreturn));
static void give_up(struct fleet *fleet, const char *why) {
	const char *said = "";
	for (uint32_t i = 0; i < fleet->count; i++) {
		if (fleet->results[i]->failed)
			said = fleet->results[i]->why;
		if (fleet->pids[i] > 0)
			kill(fleet->pids[i], SIGKILL);
	}
	die("%s%s%s", why, *said ? ": a client says: " : "", said);
}

/* The next byte of any client, or 0 where on_event was called meanwhile. */
static char next_byte(struct fleet *fleet, int events, void (*on_event)(void *, struct fleet *), void *context,
                      int64_t until_ns, const char *what) {
	struct pollfd ready[2] = {{.fd = events, .events = POLLIN}, {.fd = fleet->done, .events = POLLIN}};
	int64_t left_ms = (until_ns - now_ns()) / 1000000;
	if (left_ms <= 0 || poll(ready, 2, (int)left_ms) <= 0)
		give_up(fleet, what);
	if (ready[0].revents)
		on_event(context, fleet);
	char byte = 0;
	if (ready[1].revents && read(fleet->done, &byte, 1) != 1)
		give_up(fleet, "the clients are gone");
	if (byte == 'f')
		give_up(fleet, what);
	return byte;
}

static void await_all(struct fleet *fleet, char expected, int limit, const char *what) {
	int64_t until = now_ns() + limit * 1000000000L;
	for (uint32_t count = 0; count < fleet->count;)
		count += next_byte(fleet, -1, NULL, NULL, until, what) == expected;
}

struct ends {
	int go[2], check[2], end[2], done[2];
};

static void become_client(struct fleet *fleet, uint32_t i, struct ends *ends, int resume[2]) {
	struct client client = {.plan = &fleet->plans[i],
	                        .result = fleet->results[i],
	                        .start_ns = fleet->shared,
	                        .go = ends->go[0],
	                        .check = ends->check[0],
	                        .end = ends->end[0],
	                        .done = ends->done[1],
	                        .resume = resume[0],
	                        .uffd = -1,
	                        .socket = -1};
	/* A client must not hold the ends whose closing it waits for. */
	close(ends->go[1]);
	close(ends->check[1]);
	close(ends->end[1]);
	close(ends->done[0]);
	close(resume[1]);
	for (uint32_t other = 0; other < i; other++)
		close(fleet->resume[other]);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	client_main(&client);
}

void fleet_start(struct fleet *fleet, const struct client_plan *plans, uint32_t count) {
	*fleet = (struct fleet){.count = count, .plans = plans};
	fleet->results = calloc(count, sizeof *fleet->results);
	fleet->pids = calloc(count, sizeof *fleet->pids);
	fleet->resume = calloc(count, sizeof *fleet->resume);
	if (!fleet->results || !fleet->pids || !fleet->resume)
		die("no memory");
	share(fleet);
	struct ends ends;
	make_pipe(ends.go);
	make_pipe(ends.check);
	make_pipe(ends.end);
	make_pipe(ends.done);
	for (uint32_t i = 0; i < count; i++) {
		int resume[2];
		make_pipe(resume);
		fflush(NULL);
		fleet->pids[i] = fork();
		if (fleet->pids[i] < 0)
			die("fork: %s", strerror(errno));
		if (fleet->pids[i] == 0)
			become_client(fleet, i, &ends, resume);
		close(resume[0]);
		fleet->resume[i] = resume[1];
	}
	close(ends.go[0]);
	close(ends.check[0]);
	close(ends.end[0]);
	close(ends.done[1]);
	fleet->go = ends.go[1];
	fleet->check = ends.check[1];
	fleet->end = ends.end[1];
	fleet->done = ends.done[0];
	await_all(fleet, 'r', 30, "a client did not become ready");
}

void fleet_run(struct fleet *fleet, int events, void (*on_event)(void *, struct fleet *), void *context, int limit) {
	int64_t *start = fleet->shared;
	*start = now_ns();
	int64_t until = *start + limit * 1000000000L;
	close_end(&fleet->go);
	for (uint32_t count = 0; count < fleet->count;)
		count += next_byte(fleet, events, on_event, context, until, "a client did not end its touches") == 'd';
}

void fleet_resume(struct fleet *fleet, pid_t pid) {
	for (uint32_t i = 0; i < fleet->count; i++)
		if (fleet->pids[i] == pid && fleet->resume[i] >= 0) {
			if (write(fleet->resume[i], "p", 1) != 1)
				give_up(fleet, "a client is gone before its resume");
			close_end(&fleet->resume[i]);
		}
}

uint64_t fleet_finish(struct fleet *fleet, const char *what) {
	uint64_t wrong = 0;
	close_end(&fleet->check);
	await_all(fleet, 'c', 120, "a client did not end its check");
	close_end(&fleet->end);
	for (uint32_t i = 0; i < fleet->count; i++) {
		int status;
		const struct client_result *result = fleet->results[i];
		if (waitpid(fleet->pids[i], &status, 0) < 0 || status != 0)
			die("%s: client %u ended with status %d", what, i, status);
		if (result->checked < fleet->plans[i].touches)
			die("%s: client %u checked %u pages only", what, i, result->checked);
		wrong += result->wrong;
	}
	return wrong;
}

void fleet_free(struct fleet *fleet) {
	for (uint32_t i = 0; i < fleet->count; i++)
		close_end(&fleet->resume[i]);
	close_end(&fleet->done);
	munmap(fleet->shared, fleet->shared_bytes);
	free(fleet->results);
	free(fleet->pids);
	free(fleet->resume);
}
