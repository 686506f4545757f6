// SPDX-License-Identifier: Apache-2.0
/* tests/bench/pages/bench.h: what is run (variants), what is compared (rows), and how both are told. */
#ifndef PAGES_BENCH_H
#define PAGES_BENCH_H

#include "server.h"

enum { ROUNDS_MAX = 25 };

/* One way to restore one or many VMs. Names are unique; rows refer to them. */
struct variant {
	const char *name;
	enum { BASELINE, OURS, FILE_BACKEND } how;
	bool same_core; /* one client: it and the server share CPU 0; else the server has CPU 1 */
	bool fleet;     /* many clients, on any CPU */
	int every_ms;   /* fleet: one starts each so often; 0: all at once */
	uint32_t outside_percent;
	bool replay; /* OURS: the recording is replayed; FILE_BACKEND: its pages are read into the page cache first */
	bool hold;   /* OURS: the resume waits for the prefill, as with resume_vm false and a later resume */
	bool cold;   /* nothing of the snapshot is in the page cache when the server starts, and its start counts */
	bool zeros;  /* the memory with zero pages, known by a page map */
	bool write;
};

/* Of one run. Times of a fleet's clients are medians; touch latencies are over all clients' touches. */
struct figures {
	double total_ms;  /* from the first start (cold: the server's spawn) to the last touch of the last client */
	double client_ms; /* from a client's start to its last touch */
	double sent_ms;   /* of this: connection and handshake, or mapping the file */
	double wait_ms;   /* then the wait for the resume */
	double touch_ms;  /* then the touches */
	double p50_us, p99_us, p999_us;
	double private_mib;
};

enum { FIGURES = sizeof(struct figures) / sizeof(double) };

/* A claim: a figure of `ours` over the same of `base` (NULL: over the working set's MiB) is at most `limit`. */
struct row {
	const char *what;
	const char *ours, *base;
	size_t figure; /* offsetof(struct figures, ...) */
	double limit;  /* 0: told, not judged */
	double known;  /* what was reached before; 0: unknown */
};

extern const struct variant bench_variants[];
extern const struct row bench_rows[];
extern const size_t bench_variant_count, bench_row_count;

/* The sizes of a run. */
struct scale {
	struct memory dense, zeros;
	struct workset set;
	char dense_recording[600], zeros_recording[600], page_map[600];
	uint32_t fleet, rounds;
};

/* Runs it once and checks every page. Exits where a page is wrong or something stalls. */
struct figures bench_run(const struct scale *scale, const struct variant *variant, uint64_t round);

/* Records what one client touches of the memory, by our server. */
void bench_record(const struct scale *scale, const struct memory *memory, const char *recording);

/* The measured of each variant, rounds of it, or none. */
struct measured {
	struct figures rounds[ROUNDS_MAX];
	uint32_t count;
	struct figures median;
};

void report_medians(struct measured *measured);

/* Prints the tables. Returns how many rows miss their limit. */
int report_print(const struct scale *scale, const struct measured *measured);

/* Writes all of it as JSON. Exits on failure. */
void report_json(const char *path, const struct scale *scale, const struct measured *measured);

/* The row's ratio by the medians, or -1 where one side was not measured. */
double report_ratio(const struct scale *scale, const struct row *row, const struct measured *measured);

#endif
