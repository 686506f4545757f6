// SPDX-License-Identifier: Apache-2.0
#include "server.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"

const char *server_baseline, *server_ours, *server_directory;

static void run_program(char *const argv[], int cpu, int out) __attribute__((noreturn));
static void run_program(char *const argv[], int cpu, int out) {
	cpu_set_t cpus;
	CPU_ZERO(&cpus);
	if (cpu >= 0)
		CPU_SET((size_t)cpu, &cpus);
	if ((cpu >= 0 && sched_setaffinity(0, sizeof cpus, &cpus) < 0) || (out >= 0 && dup2(out, 1) < 0))
		_exit(126);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	execv(argv[0], argv);
	_exit(127);
}

static pid_t spawn(char *const argv[], int cpu, int out) {
	fflush(NULL);
	pid_t pid = fork();
	if (pid < 0)
		die("fork: %s", strerror(errno));
	if (pid == 0)
		run_program(argv, cpu, out);
	return pid;
}

/* Whether the kernel lists the socket as listening: a try to connect would take the baseline's only accept. */
static bool is_listening(const char *path) {
	_cleanup_fclose_ FILE *file = fopen("/proc/net/unix", "re");
	char line[512], name[256];
	unsigned flags;
	while (file && fgets(line, sizeof line, file))
		if (sscanf(line, "%*s %*s %*s %x %*s %*s %*s %255s", &flags, name) == 2 && strcmp(name, path) == 0 &&
		    flags & 0x10000)
			return true;
	return false;
}

static void pause_ms(long ms) {
	nanosleep(&(struct timespec){.tv_sec = 0, .tv_nsec = ms * 1000000}, NULL);
}

static void start_baseline(struct server *server, const struct server_plan *plan) {
	for (uint32_t i = 0; i < plan->clients; i++) {
		unlink(server->sockets[i]);
		char *argv[] = {(char *)server_baseline, server->sockets[i], (char *)plan->memory, NULL};
		int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
		server->pids[server->count++] = spawn(argv, plan->cpu, null);
		close(null);
	}
	int64_t until = now_ns() + 10000000000L;
	for (uint32_t i = 0; i < plan->clients; i++)
		while (!is_listening(server->sockets[i])) {
			if (now_ns() > until)
				die("the baseline does not listen");
			pause_ms(1);
		}
}

/* One whole line into `line` (of this size), or false where none is there yet. */
static bool next_line(struct server *server, char *line, size_t size) {
	char *end = memchr(server->line, '\n', server->length);
	if (!end)
		return false;
	size_t length = (size_t)(end - server->line);
	snprintf(line, size, "%.*s", (int)length, server->line);
	server->length -= length + 1;
	memmove(server->line, end + 1, server->length);
	return true;
}

static bool read_lines(struct server *server) {
	ssize_t got = read(server->out, server->line + server->length, sizeof server->line - server->length);
	if (got > 0)
		server->length += (size_t)got;
	return got > 0;
}

static void await_ready(struct server *server) {
	char line[512];
	struct pollfd ready = {.fd = server->out, .events = POLLIN};
	for (;;) {
		while (next_line(server, line, sizeof line))
			if (strcmp(line, "ready") == 0)
				return;
		if (poll(&ready, 1, 10000) <= 0 || !read_lines(server))
			die("the page server does not become ready");
	}
}

static void start_ours(struct server *server, const struct server_plan *plan) {
	int ends[2];
	if (pipe2(ends, O_CLOEXEC) < 0)
		die("pipe: %s", strerror(errno));
	unlink(server->sockets[0]);
	char *argv[16] = {(char *)server_ours, "serve", server->sockets[0], (char *)plan->memory};
	int argc = 4;
	if (plan->working_set)
		argv[argc++] = "--working-set", argv[argc++] = (char *)plan->working_set;
	if (plan->page_map)
		argv[argc++] = "--page-map", argv[argc++] = (char *)plan->page_map;
	if (plan->record)
		argv[argc++] = "--record", argv[argc++] = (char *)plan->record;
	server->pids[server->count++] = spawn(argv, plan->cpu, ends[1]);
	close(ends[1]);
	server->out = ends[0];
	await_ready(server);
}

void server_prepare(struct server *server, const struct server_plan *plan) {
	*server = (struct server){.out = -1};
	server->pids = calloc(plan->clients, sizeof *server->pids);
	server->sockets = calloc(plan->clients, sizeof *server->sockets);
	if (!server->pids || !server->sockets)
		die("no memory");
	for (uint32_t i = 0; i < plan->clients; i++)
		snprintf(server->sockets[i], sizeof server->sockets[i], "%s/%u", server_directory, plan->ours ? 0 : i);
}

void server_start(struct server *server, const struct server_plan *plan) {
	server->spawned_ns = now_ns();
	if (plan->ours)
		start_ours(server, plan);
	else
		start_baseline(server, plan);
}

void server_event(void *context, struct fleet *fleet) {
	struct server *server = context;
	char line[512];
	int pid;
	if (!read_lines(server))
		die("the page server is gone");
	while (next_line(server, line, sizeof line)) {
		if (sscanf(line, "prefilled %d", &pid) == 1)
			fleet_resume(fleet, pid);
		else if (strncmp(line, "failed ", 7) == 0)
			die("the page server says: %s", line);
	}
}

/* The exit status within `limit` seconds, else -1 (and it is killed). */
static int reap(pid_t pid, int limit) {
	int status = 0;
	int64_t until = now_ns() + limit * 1000000000L;
	pid_t got;
	while ((got = waitpid(pid, &status, WNOHANG)) == 0 && now_ns() < until)
		pause_ms(1);
	if (got == pid)
		return status;
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	return -1;
}

void server_stop(struct server *server) {
	if (server->out >= 0)
		kill(server->pids[0], SIGTERM);
	for (uint32_t i = 0; i < server->count; i++) {
		int status = reap(server->pids[i], 20);
		if (status != 0)
			die("a server ended with status %d", status);
		unlink(server->sockets[i]);
	}
	if (server->out >= 0)
		close(server->out);
	free(server->pids);
	free(server->sockets);
}

void server_job(const char *job, const char *memory, const char *file) {
	char *argv[] = {(char *)server_ours, (char *)job, (char *)memory, (char *)file, NULL};
	if (reap(spawn(argv, -1, -1), 60) != 0)
		die("%s of %s failed", job, memory);
}
