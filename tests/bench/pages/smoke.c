// SPDX-License-Identifier: Apache-2.0
/* Every page of every client is checked; so is what the clients hold. The first case shows that a wrong page is found.
 */
#include "smoke.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"

struct smoke_case {
	const char *what;
	bool baseline, fleet, replay, hold, zeros, write, whole, removals, early_removals, huge;
	bool spoiled; /* one touched page of the file is wrong: the clients must find it */
	uint32_t outside_percent;
	double private_at_most; /* of the touched pages; 0: not bounded */
};

static const struct smoke_case cases[] = {
        {.what = "a spoiled page is found", .baseline = true, .spoiled = true},
        {.what = "the baseline's pages", .baseline = true, .private_at_most = 1.01},
        {.what = "on demand", .private_at_most = 2.2},
        {.what = "on demand, written, then all pages", .write = true, .whole = true},
        {.what = "on demand, zero pages", .zeros = true, .whole = true},
        {.what = "on demand, a spoiled page is found", .spoiled = true},
        {.what = "replay before the touches", .replay = true, .hold = true, .private_at_most = 1.05},
        {.what = "replay before the touches, written", .replay = true, .hold = true, .write = true, .whole = true},
        {.what = "replay during the touches", .replay = true, .private_at_most = 2.2, .whole = true},
        {.what = "replay, 29 % zero pages", .replay = true, .hold = true, .zeros = true, .private_at_most = 0.8},
        {.what = "replay, 10 % outside", .replay = true, .outside_percent = 10, .whole = true},
        {.what = "removals", .removals = true},
        {.what = "removals, replay, zero pages", .replay = true, .zeros = true, .removals = true, .write = true},
        {.what = "fleet on demand", .fleet = true, .whole = true},
        {.what = "fleet with replay", .fleet = true, .replay = true, .hold = true, .outside_percent = 3, .whole = true},
        {.what = "removals before the replay has come",
         .replay = true,
         .hold = true,
         .early_removals = true,
         .whole = true},
        {.what = "fleet, removals during its replay",
         .fleet = true,
         .replay = true,
         .early_removals = true,
         .whole = true},
        {.what = "fleet, removals after its replay", .fleet = true, .replay = true, .removals = true},
        {.what = "2 MiB pages", .huge = true, .whole = true},
        {.what = "2 MiB pages, replay", .huge = true, .replay = true, .whole = true},
};

static unsigned long free_huge_pages(void) {
	_cleanup_fclose_ FILE *file = fopen("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "re");
	unsigned long count = 0;
	return file && fscanf(file, "%lu", &count) == 1 ? count : 0;
}

/*
 * Inverts the last word of a page in the file. Twice leaves it as it was. Its times stay, so that recordings and page
 * maps still take the file for their own.
 */
static void spoil(const struct memory *memory, uint32_t page) {
	uint64_t word;
	off_t at = (off_t)page * PAGE_BYTES + PAGE_BYTES - (off_t)sizeof word;
	_cleanup_close_ int fd = open(memory->path, O_RDWR | O_CLOEXEC);
	struct stat st;
	if (fd < 0 || fstat(fd, &st) < 0 || pread(fd, &word, sizeof word, at) != sizeof word)
		die("%s cannot be read", memory->path);
	word = ~word;
	if (pwrite(fd, &word, sizeof word, at) != sizeof word ||
	    futimens(fd, (struct timespec[]){st.st_atim, st.st_mtim}) < 0)
		die("%s cannot be written", memory->path);
}

static void plan_case(const struct scale *scale, const struct smoke_case *one, const struct server *server,
                      struct client_plan *plans, uint32_t count) {
	for (uint32_t i = 0; i < count; i++)
		plans[i] = (struct client_plan){
		        .memory = one->zeros ? &scale->zeros : &scale->dense,
		        .backend = BACKEND_UFFD,
		        .socket = server->sockets[i],
		        .order = workset_order(&scale->set, scale->dense.pages, one->outside_percent, i + 1),
		        .touches = scale->set.pages,
		        .write = one->write,
		        .hold = one->hold,
		        .whole = one->whole,
		        .removals = one->removals,
		        .early_removals = one->early_removals,
		        .huge = one->huge,
		        .cpu = -1,
		};
}

/* NULL where it is as it should be. */
static const char *judge(const struct scale *scale, const struct smoke_case *one, const struct fleet *fleet,
                         uint64_t wrong) {
	static char why[128];
	uint64_t expected = one->spoiled ? fleet->count : 0;
	if (wrong != expected) {
		snprintf(why, sizeof why, "%lu wrong pages, expected %lu", wrong, expected);
		return why;
	}
	for (uint32_t i = 0; i < fleet->count; i++) {
		double share = (double)fleet->results[i]->private_bytes / (scale->set.pages * (double)PAGE_BYTES);
		if (one->private_at_most > 0 && share > one->private_at_most) {
			snprintf(why, sizeof why, "private memory is %.2f of what was touched, at most %.2f", share,
			         one->private_at_most);
			return why;
		}
	}
	return NULL;
}

static const char *run_case(const struct scale *scale, const struct smoke_case *one) {
	const struct memory *memory = one->zeros ? &scale->zeros : &scale->dense;
	uint32_t count = one->fleet ? scale->fleet : 1;
	struct server_plan plan = {.ours = !one->baseline,
	                           .memory = memory->path,
	                           .working_set = !one->replay ? NULL
	                                          : one->zeros ? scale->zeros_recording
	                                                       : scale->dense_recording,
	                           .page_map = one->zeros ? scale->page_map : NULL,
	                           .clients = count,
	                           .cpu = -1};
	_cleanup_free_ struct client_plan *plans = calloc(count, sizeof *plans);
	struct server server;
	struct fleet fleet;
	if (!plans)
		die("no memory");
	server_prepare(&server, &plan);
	plan_case(scale, one, &server, plans, count);
	if (one->spoiled)
		spoil(memory, scale->set.clusters[0].first);
	fleet_start(&fleet, plans, count);
	server_start(&server, &plan);
	fleet_run(&fleet, server.out, server_event, &server, 60);
	const char *why = judge(scale, one, &fleet, fleet_finish(&fleet, one->what));
	server_stop(&server);
	if (one->spoiled)
		spoil(memory, scale->set.clusters[0].first);
	for (uint32_t i = 0; i < count; i++)
		free((uint32_t *)plans[i].order);
	fleet_free(&fleet);
	return why;
}

int smoke(const struct scale *scale) {
	int failed = 0;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		if (cases[i].huge && free_huge_pages() < scale->dense.pages / 512) {
			printf("skipped: %s: no %u huge pages are free\n", cases[i].what, scale->dense.pages / 512);
			continue;
		}
		const char *why = run_case(scale, &cases[i]);
		printf("%s: %s%s%s\n", why ? "failed" : "ok", cases[i].what, why ? ": " : "", why ? why : "");
		failed += why != NULL;
	}
	return failed;
}
