// SPDX-License-Identifier: Apache-2.0
/*
 * tests/bench/pages/serve.c: the page server as a program without Lua, so that the benches time it alone.
 *
 *   pages-serve serve SOCKET MEMORY [--working-set FILE] [--page-map FILE] [--record FILE] [--around N] [--workers N]
 *               [--spin-us N] [--no-spin] [--preload]
 *   pages-serve index MEMORY PAGE_MAP        finds the zero pages
 *   pages-serve warm MEMORY WORKING_SET      reads the working set into the page cache
 *
 * serve prints "ready", "prefilled PID" when a VM may be resumed, "failed PID WHY", and at SIGTERM its counters.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "uffd/page_server.h"

enum { CLIENTS = 1024 };

static int report(const struct fc_error *error) {
	char text[1400];
	fprintf(stderr, "pages-serve: %s\n", fc_error_format(error, text, sizeof text));
	return 1;
}

/* Waits for the job's end, frees it; the exit status. */
static int finish(struct fc_job *job, const char *what) {
	struct fc_error error = {0};
	uint64_t count = 0, total = 0;
	struct pollfd ready = {.fd = fc_job_fileno(job), .events = POLLIN};
	int result = 0;
	while (result == 0 && poll(&ready, 1, 60000) == 1)
		result = fc_job_result(job, &count, &total, &error);
	fc_job_free(job);
	if (result != 1)
		return result == 0 ? 1 : report(&error);
	fprintf(stderr, "%s: %llu of %llu\n", what, (unsigned long long)count, (unsigned long long)total);
	return 0;
}

/* Tells of each VM once that it may be resumed, and of each that failed. `told` is by the server's ids. */
static void tell(struct fc_page_server *server, bool *told) {
	static struct fc_page_client clients[CLIENTS];
	size_t count = fc_page_server_clients(server, clients, CLIENTS);
	for (size_t i = 0; i < count && i < CLIENTS; i++) {
		const struct fc_page_client *client = &clients[i];
		char text[1400];
		if (client->id >= CLIENTS || told[client->id])
			continue;
		if (client->state == FC_PAGE_FAILED)
			printf("failed %d %s\n", (int)client->pid, fc_error_format(&client->error, text, sizeof text));
		else if (client->state == FC_PAGE_SERVING)
			printf("prefilled %d\n", (int)client->pid);
		else
			continue;
		told[client->id] = true;
	}
	fflush(stdout);
}

static void tell_counters(struct fc_page_server *server) {
	struct fc_page_counters c = fc_page_server_stats(server).counters;
	printf("counters faults %llu replayed %llu around %llu zero %llu bytes %llu removed %llu\n",
	       (unsigned long long)c.faults, (unsigned long long)c.replayed, (unsigned long long)c.around,
	       (unsigned long long)c.zero, (unsigned long long)c.bytes, (unsigned long long)c.removed);
	fflush(stdout);
}

static int serve_until(struct fc_page_server *server, int signals, const char *record) {
	bool told[CLIENTS] = {false};
	struct fc_error error = {0};
	struct pollfd ready[2] = {{.fd = fc_page_server_fileno(server), .events = POLLIN},
	                          {.fd = signals, .events = POLLIN}};
	puts("ready");
	fflush(stdout);
	while (poll(ready, 2, -1) > 0 && !ready[1].revents) {
		uint64_t changes;
		if (read(ready[0].fd, &changes, sizeof changes) == sizeof changes)
			tell(server, told);
	}
	tell_counters(server);
	struct fc_job *job = NULL;
	if (record && fc_page_server_recording(server, record, 0, &job, &error) < 0)
		return report(&error);
	return job ? finish(job, "pages recorded") : 0;
}

static const char *parse(int argc, char **argv, struct fc_page_server_options *options) {
	static const struct option known[] = {
	        {"working-set", 1, NULL, 'w'}, {"page-map", 1, NULL, 'm'}, {"record", 1, NULL, 'r'},
	        {"around", 1, NULL, 'a'},      {"workers", 1, NULL, 'n'},  {"spin-us", 1, NULL, 's'},
	        {"no-spin", 0, NULL, 'S'},     {"preload", 0, NULL, 'p'},  {NULL, 0, NULL, 0}};
	const char *record = NULL;
	for (int option; (option = getopt_long(argc, argv, "", known, NULL)) != -1;)
		switch (option) {
		case 'w':
			options->working_set = optarg;
			break;
		case 'm':
			options->page_map = optarg;
			break;
		case 'r':
			record = optarg;
			options->record = true;
			break;
		case 'a':
			options->around = (unsigned)strtoul(optarg, NULL, 10);
			break;
		case 'n':
			options->workers = (unsigned)strtoul(optarg, NULL, 10);
			break;
		case 's':
			options->spin_us = (unsigned)strtoul(optarg, NULL, 10);
			break;
		case 'S':
			options->no_spin = true;
			break;
		case 'p':
			options->preload = true;
			break;
		default:
			exit(2);
		}
	return record;
}

static int serve(int argc, char **argv) {
	struct fc_error error = {0};
	sigset_t ends;
	sigemptyset(&ends);
	sigaddset(&ends, SIGTERM);
	sigprocmask(SIG_BLOCK, &ends, NULL);
	_cleanup_close_ int signals = signalfd(-1, &ends, SFD_CLOEXEC);
	_cleanup_close_ int listener = fc_page_listen(argv[2], 0600, &error);
	if (listener < 0)
		return report(&error);
	_cleanup_close_ int memory = open(argv[3], O_RDONLY | O_CLOEXEC);
	struct fc_page_server_options options = {.listener = listener, .memory = memory};
	const char *record = parse(argc - 3, argv + 3, &options);
	struct fc_page_server *server;
	if (fc_page_server_start(&options, &server, &error) < 0)
		return report(&error);
	int status = serve_until(server, signals, record);
	fc_page_server_free(server);
	return status;
}

int main(int argc, char **argv) {
	struct fc_error error = {0};
	struct fc_job *job;
	if (argc >= 4 && strcmp(argv[1], "serve") == 0)
		return serve(argc, argv);
	if (argc == 4 && strcmp(argv[1], "index") == 0)
		return fc_job_index(argv[2], argv[3], &job, &error) < 0 ? report(&error) : finish(job, "zero pages");
	if (argc == 4 && strcmp(argv[1], "warm") == 0)
		return fc_job_warm(argv[2], argv[3], &job, &error) < 0 ? report(&error) : finish(job, "bytes warmed");
	fputs("usage: pages-serve serve SOCKET MEMORY [OPTION...] | index MEMORY FILE | warm MEMORY FILE\n", stderr);
	return 2;
}
