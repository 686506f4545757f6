// SPDX-License-Identifier: Apache-2.0
/* One run of one variant: clients made ready, cache as wanted, server started, clients released, figures, checks. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "bench.h"

static int compare_double(const void *a, const void *b) {
	double left = *(const double *)a, right = *(const double *)b;
	return (left > right) - (left < right);
}

static int compare_latency(const void *a, const void *b) {
	uint32_t left = *(const uint32_t *)a, right = *(const uint32_t *)b;
	return (left > right) - (left < right);
}

static double between(int64_t from_ns, int64_t to_ns) {
	return (double)(to_ns - from_ns) / 1e6;
}

/* The median over clients of one figure. */
static double median_of(const struct fleet *fleet, double (*figure)(const struct client_result *)) {
	_cleanup_free_ double *all = malloc(fleet->count * sizeof *all);
	if (!all)
		die("no memory");
	for (uint32_t i = 0; i < fleet->count; i++)
		all[i] = figure(fleet->results[i]);
	qsort(all, fleet->count, sizeof *all, compare_double);
	return all[fleet->count / 2];
}

static double client_ms(const struct client_result *result) {
	return between(result->start_ns, result->done_ns);
}
static double sent_ms(const struct client_result *result) {
	return between(result->start_ns, result->sent_ns);
}
static double wait_ms(const struct client_result *result) {
	return between(result->sent_ns, result->resumed_ns);
}
static double touch_ms(const struct client_result *result) {
	return between(result->resumed_ns, result->done_ns);
}
static double private_mib(const struct client_result *result) {
	return (double)result->private_bytes / (1 << 20);
}

static void latencies(const struct fleet *fleet, struct figures *figures) {
	size_t count = 0;
	for (uint32_t i = 0; i < fleet->count; i++)
		count += fleet->plans[i].touches;
	_cleanup_free_ uint32_t *all = malloc(count * sizeof *all);
	if (!all)
		die("no memory");
	uint32_t *next = all;
	for (uint32_t i = 0; i < fleet->count; next += fleet->plans[i++].touches)
		memcpy(next, fleet->results[i]->latency_ns, fleet->plans[i].touches * sizeof *next);
	qsort(all, count, sizeof *all, compare_latency);
	figures->p50_us = all[count / 2] / 1e3;
	figures->p99_us = all[count - 1 - count / 100] / 1e3;
	figures->p999_us = all[count - 1 - count / 1000] / 1e3;
}

static struct figures collect(const struct fleet *fleet, int64_t began_ns) {
	struct figures figures = {0};
	int64_t first = began_ns ? began_ns : INT64_MAX, last = 0;
	for (uint32_t i = 0; i < fleet->count; i++) {
		const struct client_result *result = fleet->results[i];
		first = result->start_ns < first ? result->start_ns : first;
		last = result->done_ns > last ? result->done_ns : last;
	}
	figures.total_ms = between(first, last);
	figures.client_ms = median_of(fleet, client_ms);
	figures.sent_ms = median_of(fleet, sent_ms);
	figures.wait_ms = median_of(fleet, wait_ms);
	figures.touch_ms = median_of(fleet, touch_ms);
	figures.private_mib = median_of(fleet, private_mib);
	latencies(fleet, &figures);
	return figures;
}

static void evict(const struct scale *scale, const struct memory *memory, const char *recording) {
	cache_evict(memory->path);
	cache_evict(recording);
	cache_evict(scale->page_map);
}

/* What a cold run before this one has evicted comes back, the recording too. */
static void warm(const struct scale *scale, const struct memory *memory, const char *recording) {
	cache_warm(memory->path);
	cache_warm(recording);
	cache_warm(scale->page_map);
}

static struct client_plan *plan_clients(const struct scale *scale, const struct variant *variant, uint32_t count,
                                        const struct server *server, uint64_t round) {
	bool zeros = variant->zeros;
	struct client_plan *plans = calloc(count, sizeof *plans);
	if (!plans)
		die("no memory");
	for (uint32_t i = 0; i < count; i++)
		plans[i] = (struct client_plan){
		        .memory = zeros ? &scale->zeros : &scale->dense,
		        .backend = variant->how == FILE_BACKEND ? BACKEND_FILE : BACKEND_UFFD,
		        .socket = server->sockets ? server->sockets[i] : NULL,
		        .warm = variant->how == FILE_BACKEND && variant->replay ? scale->dense_recording : NULL,
		        /* Each guest and each round has an order of its own; the recording was made with another one.
		         */
		        .order = workset_order(&scale->set, scale->dense.pages, variant->outside_percent,
		                               round * 1000 + i + 1),
		        .touches = scale->set.pages,
		        .write = variant->write,
		        .hold = variant->hold,
		        .cpu = variant->fleet ? -1 : 0,
		        .delay_ns = variant->every_ms * 1000000L * i,
		};
	return plans;
}

static void free_plans(struct client_plan *plans, uint32_t count) {
	for (uint32_t i = 0; i < count; i++)
		free((uint32_t *)plans[i].order);
	free(plans);
}

struct figures bench_run(const struct scale *scale, const struct variant *variant, uint64_t round) {
	const struct memory *memory = variant->zeros ? &scale->zeros : &scale->dense;
	const char *recording = variant->zeros ? scale->zeros_recording : scale->dense_recording;
	uint32_t count = variant->fleet ? scale->fleet : 1;
	bool served = variant->how != FILE_BACKEND;
	struct server_plan plan = {.ours = variant->how == OURS,
	                           .memory = memory->path,
	                           .working_set = variant->replay ? recording : NULL,
	                           .page_map = variant->zeros ? scale->page_map : NULL,
	                           .clients = count,
	                           .cpu = variant->fleet       ? -1
	                                  : variant->same_core ? 0
	                                                       : 1};
	struct server server = {.out = -1};
	struct fleet fleet;
	if (served)
		server_prepare(&server, &plan);
	struct client_plan *plans = plan_clients(scale, variant, count, &server, round);
	fleet_start(&fleet, plans, count);
	if (variant->cold)
		evict(scale, memory, recording);
	else
		warm(scale, memory, recording);
	if (served)
		server_start(&server, &plan);
	fleet_run(&fleet, server.out, server_event, &server, 120);
	struct figures figures = collect(&fleet, served && variant->cold ? server.spawned_ns : 0);
	uint64_t wrong = fleet_finish(&fleet, variant->name);
	if (wrong)
		die("%s: %lu wrong pages", variant->name, wrong);
	figures.private_mib = median_of(&fleet, private_mib);
	if (served)
		server_stop(&server);
	fleet_free(&fleet);
	free_plans(plans, count);
	return figures;
}

void bench_record(const struct scale *scale, const struct memory *memory, const char *recording) {
	struct server_plan plan = {.ours = true, .memory = memory->path, .record = recording, .clients = 1, .cpu = -1};
	struct server server;
	struct fleet fleet;
	server_prepare(&server, &plan);
	struct client_plan client = {.memory = memory,
	                             .backend = BACKEND_UFFD,
	                             .socket = server.sockets[0],
	                             .order = workset_order(&scale->set, memory->pages, 0, 0),
	                             .touches = scale->set.pages,
	                             .cpu = -1};
	fleet_start(&fleet, &client, 1);
	server_start(&server, &plan);
	fleet_run(&fleet, server.out, server_event, &server, 60);
	if (fleet_finish(&fleet, "recording") != 0)
		die("wrong pages while recording");
	server_stop(&server);
	fleet_free(&fleet);
	free((uint32_t *)client.order);
}
