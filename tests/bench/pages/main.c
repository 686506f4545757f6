// SPDX-License-Identifier: Apache-2.0
/*
 * tests/bench/pages: the page server measured against the baseline and Firecracker's File backend, natively, no KVM.
 *
 *   pages-bench --directory DIR [--json FILE] [--rounds N] [--fleet N] [--memory-mib N] [--pages N] [--only TEXT]
 *               [--variant TEXT] [--strict] [--smoke] [--baseline PROGRAM] [--server PROGRAM]
 *
 * Variants take turns, so that what else the machine does meets all of them. Exit status: 0 all was measured; 1
 * --strict and a limit was missed; 2 it could not be measured, or a page was wrong.
 */
#include <errno.h>
#include <getopt.h>
#include <libgen.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/io.h"
#include "bench.h"
#include "smoke.h"

struct request {
	const char *directory, *json, *only, *variant;
	uint32_t rounds, fleet, memory_mib, pages;
	bool strict, smoke;
};

static bool has(const char *text, const char *part) {
	return !part || strstr(text, part);
}

/* Whether the variant is wanted: by its own name, or by a row that needs it (with --variant by its own name alone). */
static bool is_wanted(const struct variant *variant, const struct request *request) {
	const char *only = request->only;
	if (request->variant)
		return has(variant->name, request->variant);
	if (has(variant->name, only))
		return true;
	for (size_t i = 0; i < bench_row_count; i++) {
		const struct row *row = &bench_rows[i];
		bool needs =
		        strcmp(row->ours, variant->name) == 0 || (row->base && strcmp(row->base, variant->name) == 0);
		if (needs && has(row->what, only))
			return true;
	}
	return false;
}

static void prepare(struct scale *scale, const struct request *request) {
	snprintf(scale->dense.path, sizeof scale->dense.path, "%s/memory.bin", request->directory);
	snprintf(scale->zeros.path, sizeof scale->zeros.path, "%s/zeros.bin", request->directory);
	snprintf(scale->dense_recording, sizeof scale->dense_recording, "%s/working-set.bin", request->directory);
	snprintf(scale->zeros_recording, sizeof scale->zeros_recording, "%s/zeros-set.bin", request->directory);
	snprintf(scale->page_map, sizeof scale->page_map, "%s/zeros-map.bin", request->directory);
	scale->dense.pages = scale->zeros.pages = request->memory_mib << 8;
	scale->zeros.zero_percent = 30; /* 29 % of the touched pages, as describe() tells */
	scale->fleet = request->fleet;
	scale->rounds = request->rounds;
	scale->set = workset_make(scale->dense.pages, request->pages, 13, 1);
	memory_write(&scale->dense);
	memory_write(&scale->zeros);
	server_job("index", scale->zeros.path, scale->page_map);
	bench_record(scale, &scale->dense, scale->dense_recording);
	bench_record(scale, &scale->zeros, scale->zeros_recording);
}

static void clean_up(const struct scale *scale) {
	unlink(scale->dense.path);
	unlink(scale->zeros.path);
	unlink(scale->dense_recording);
	unlink(scale->zeros_recording);
	unlink(scale->page_map);
}

/* Facts of the working set that say what the figures mean. */
static void describe(const struct scale *scale) {
	uint32_t blocks = 0, zero = 0, last = UINT32_MAX;
	bool *seen = calloc(scale->dense.pages / 16 + 1, sizeof *seen);
	for (uint32_t i = 0; seen && i < scale->set.clustered; i++)
		for (uint32_t page = scale->set.clusters[i].first;
		     page < scale->set.clusters[i].first + scale->set.clusters[i].length; page++) {
			last = page / 16;
			blocks += !seen[last];
			seen[last] = true;
			zero += memory_is_zero(&scale->zeros, page);
		}
	free(seen);
	printf("%u MiB; %u pages in %u clusters, in %u aligned blocks of 16 (%.2f x); with zeros: %.1f %% of them; "
	       "fleet of %u; "
	       "%u rounds\n",
	       scale->dense.pages >> 8, scale->set.pages, scale->set.clustered, blocks,
	       blocks * 16.0 / scale->set.pages, zero * 100.0 / scale->set.pages, scale->fleet, scale->rounds);
}

static int measure(const struct scale *scale, const struct request *request) {
	struct measured *measured = calloc(bench_variant_count, sizeof *measured);
	if (!measured)
		die("no memory");
	describe(scale);
	for (uint32_t round = 0; round < scale->rounds; round++)
		for (size_t i = 0; i < bench_variant_count; i++)
			if (is_wanted(&bench_variants[i], request)) {
				if (isatty(2))
					fprintf(stderr, "\r\033[Kround %u: %s", round + 1, bench_variants[i].name);
				measured[i].rounds[measured[i].count++] = bench_run(scale, &bench_variants[i], round);
			}
	if (isatty(2))
		fprintf(stderr, "\r\033[K");
	for (size_t i = 0; i < bench_variant_count; i++)
		report_medians(&measured[i]);
	int missed = report_print(scale, measured);
	if (request->json)
		report_json(request->json, scale, measured);
	free(measured);
	return missed;
}

static uint32_t number(const char *text, uint32_t max) {
	char *end;
	unsigned long value = strtoul(text, &end, 10);
	if (*end || end == text || value < 1 || value > max)
		die("not a number from 1 to %u: %s", max, text);
	return (uint32_t)value;
}

/* Programs that were built beside this one. */
static void find_programs(void) {
	static char baseline[PATH_MAX + 32], ours[PATH_MAX + 32];
	char self[PATH_MAX];
	ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
	if (length < 0)
		die("/proc/self/exe cannot be read");
	self[length] = 0;
	const char *directory = dirname(self);
	snprintf(baseline, sizeof baseline, "%s/pages-baseline", directory);
	snprintf(ours, sizeof ours, "%s/pages-serve", directory);
	server_baseline = baseline;
	server_ours = ours;
}

static void parse(int argc, char **argv, struct request *request) {
	static const struct option known[] = {
	        {"directory", 1, NULL, 'd'}, {"json", 1, NULL, 'j'},       {"rounds", 1, NULL, 'r'},
	        {"fleet", 1, NULL, 'f'},     {"memory-mib", 1, NULL, 'm'}, {"pages", 1, NULL, 'p'},
	        {"only", 1, NULL, 'o'},      {"variant", 1, NULL, 'v'},    {"strict", 0, NULL, 's'},
	        {"smoke", 0, NULL, 'k'},     {"baseline", 1, NULL, 'b'},   {"server", 1, NULL, 'S'},
	        {NULL, 0, NULL, 0}};
	for (int option; (option = getopt_long(argc, argv, "", known, NULL)) != -1;)
		switch (option) {
		case 'd':
			request->directory = optarg;
			break;
		case 'j':
			request->json = optarg;
			break;
		case 'r':
			request->rounds = number(optarg, ROUNDS_MAX);
			break;
		case 'f':
			request->fleet = number(optarg, 500);
			break;
		case 'm':
			request->memory_mib = number(optarg, 16384);
			break;
		case 'p':
			request->pages = number(optarg, 1000000);
			break;
		case 'o':
			request->only = optarg;
			break;
		case 'v':
			request->variant = optarg;
			break;
		case 's':
			request->strict = true;
			break;
		case 'k':
			request->smoke = true;
			break;
		case 'b':
			server_baseline = optarg;
			break;
		case 'S':
			server_ours = optarg;
			break;
		default:
			exit(2);
		}
}

/*
 * Clients and servers alike go before whatever else the machine does: a fault on another core is two wake-ups, and
 * where a compiler runs beside the bench each would wait for the scheduler's tick, in milliseconds. Where sessions are
 * scheduled as groups (sched_autogroup), a process's priority counts inside its own alone, so the bench becomes a
 * session whose group goes first.
 */
static void go_first(void) {
	fflush(NULL);
	pid_t pid = fork();
	if (pid > 0) {
		int status = 0;
		waitpid(pid, &status, 0);
		exit(WIFEXITED(status) ? WEXITSTATUS(status) : 2);
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (pid < 0 || setsid() < 0 || setpriority(PRIO_PROCESS, 0, -20) < 0)
		fprintf(stderr, "bench-pages: not at high priority (%s): what else runs is part of the figures\n",
		        strerror(errno));
	/* ENOENT where the kernel has no such groups. */
	fc_io_write_file("/proc/self/autogroup", "-20", NULL);
}

static char sockets[] = "/tmp/pages-bench.XXXXXX";

static void remove_sockets(void) {
	rmdir(sockets);
}

int main(int argc, char **argv) {
	struct request request = {.rounds = 5, .fleet = 50, .memory_mib = 256, .pages = 7000};
	struct scale scale = {0};
	find_programs();
	parse(argc, argv, &request);
	if (!request.directory || sysconf(_SC_NPROCESSORS_ONLN) < 2)
		die(request.directory ? "two CPUs are needed" : "--directory is missing");
	signal(SIGPIPE, SIG_IGN);
	go_first();
	/* A name of this run's own: relative ones would be those of other checkouts too, in the kernel's list of
	 * sockets. */
	server_directory = mkdtemp(sockets);
	if (!server_directory)
		die("%s: %s", sockets, strerror(errno));
	atexit(remove_sockets);
	setvbuf(stdout, NULL, _IOLBF, 0);
	prepare(&scale, &request);
	int missed = request.smoke ? smoke(&scale) : measure(&scale, &request);
	clean_up(&scale);
	workset_free(&scale.set);
	return request.strict && missed ? 1 : 0;
}
