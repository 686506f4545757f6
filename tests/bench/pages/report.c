// SPDX-License-Identifier: Apache-2.0
#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "bench.h"

static const char *const figure_names[FIGURES] = {"total_ms", "client_ms", "handshake_ms", "wait_ms",    "touch_ms",
                                                  "p50_us",   "p99_us",    "p999_us",      "private_mib"};

static int compare_double(const void *a, const void *b) {
	double left = *(const double *)a, right = *(const double *)b;
	return (left > right) - (left < right);
}

static double figure_at(const struct figures *figures, size_t offset) {
	double value;
	memcpy(&value, (const char *)figures + offset, sizeof value);
	return value;
}

void report_medians(struct measured *measured) {
	double all[ROUNDS_MAX], medians[FIGURES];
	for (size_t figure = 0; figure < FIGURES; figure++) {
		for (uint32_t i = 0; i < measured->count; i++)
			all[i] = figure_at(&measured->rounds[i], figure * sizeof(double));
		qsort(all, measured->count, sizeof *all, compare_double);
		medians[figure] = measured->count ? all[measured->count / 2] : 0;
	}
	memcpy(&measured->median, medians, sizeof medians);
}

static const struct measured *find(const struct measured *measured, const char *name) {
	for (size_t i = 0; i < bench_variant_count; i++)
		if (strcmp(bench_variants[i].name, name) == 0)
			return &measured[i];
	die("no variant is called \"%s\"", name);
}

double report_ratio(const struct scale *scale, const struct row *row, const struct measured *measured) {
	const struct measured *ours = find(measured, row->ours), *base = row->base ? find(measured, row->base) : NULL;
	if (!ours->count || (base && !base->count))
		return -1;
	double under = base ? figure_at(&base->median, row->figure) : scale->set.pages * (PAGE_BYTES / 1048576.0);
	return figure_at(&ours->median, row->figure) / under;
}

static void print_row(const struct scale *scale, const struct row *row, const struct measured *measured, int *missed) {
	double ratio = report_ratio(scale, row, measured);
	char limit[16] = "", known[16] = "", base[24] = "";
	if (ratio < 0)
		return;
	if (row->limit > 0)
		snprintf(limit, sizeof limit, "%.3f", row->limit);
	if (row->known > 0)
		snprintf(known, sizeof known, "%.3f", row->known);
	if (row->base)
		snprintf(base, sizeof base, "%.2f", figure_at(&find(measured, row->base)->median, row->figure));
	bool met = ratio <= row->limit;
	*missed += row->limit > 0 && !met;
	printf("%-44s %9s %9.2f %8.4f %7s %7s  %s\n", row->what, base,
	       figure_at(&find(measured, row->ours)->median, row->figure), ratio, limit, known,
	       row->limit > 0 ? met ? "met" : "MISSED" : "");
}

int report_print(const struct scale *scale, const struct measured *measured) {
	int missed = 0;
	printf("\n%-38s %9s %9s %8s %8s %8s %8s %8s %8s\n", "variant", "total ms", "client ms", "wait ms", "touch ms",
	       "p50 us", "p99 us", "p999 us", "MiB");
	for (size_t i = 0; i < bench_variant_count; i++) {
		const struct figures *m = &measured[i].median;
		if (measured[i].count)
			printf("%-38s %9.2f %9.2f %8.2f %8.2f %8.2f %8.1f %8.1f %8.2f\n", bench_variants[i].name,
			       m->total_ms, m->client_ms, m->wait_ms, m->touch_ms, m->p50_us, m->p99_us, m->p999_us,
			       m->private_mib);
	}
	printf("\n%-44s %9s %9s %8s %7s %7s\n", "case (medians of one run)", "base", "ours", "ratio", "limit", "known");
	for (size_t i = 0; i < bench_row_count; i++)
		print_row(scale, &bench_rows[i], measured, &missed);
	printf("\nEvery page that was there was checked in every run: none was wrong.\n");
	return missed;
}

static cJSON *json_figures(const struct figures *figures) {
	cJSON *object = cJSON_CreateObject();
	for (size_t i = 0; i < FIGURES; i++)
		cJSON_AddNumberToObject(object, figure_names[i], figure_at(figures, i * sizeof(double)));
	return object;
}

static void add_variants(cJSON *report, const struct measured *measured) {
	cJSON *variants = cJSON_AddArrayToObject(report, "variants");
	for (size_t i = 0; i < bench_variant_count; i++) {
		if (!measured[i].count)
			continue;
		cJSON *variant = cJSON_CreateObject();
		cJSON_AddItemToArray(variants, variant);
		cJSON_AddStringToObject(variant, "name", bench_variants[i].name);
		cJSON_AddItemToObject(variant, "median", json_figures(&measured[i].median));
		cJSON *rounds = cJSON_AddArrayToObject(variant, "rounds");
		for (uint32_t round = 0; round < measured[i].count; round++)
			cJSON_AddItemToArray(rounds, json_figures(&measured[i].rounds[round]));
	}
}

static void add_rows(cJSON *report, const struct scale *scale, const struct measured *measured) {
	cJSON *rows = cJSON_AddArrayToObject(report, "rows");
	for (size_t i = 0; i < bench_row_count; i++) {
		const struct row *row = &bench_rows[i];
		double ratio = report_ratio(scale, row, measured);
		if (ratio < 0)
			continue;
		cJSON *object = cJSON_CreateObject();
		cJSON_AddItemToArray(rows, object);
		cJSON_AddStringToObject(object, "case", row->what + strspn(row->what, " "));
		cJSON_AddStringToObject(object, "ours", row->ours);
		cJSON_AddStringToObject(object, "base", row->base ? row->base : "the working set");
		cJSON_AddStringToObject(object, "figure", figure_names[row->figure / sizeof(double)]);
		cJSON_AddNumberToObject(object, "ratio", ratio);
		if (row->limit > 0) {
			cJSON_AddNumberToObject(object, "limit", row->limit);
			cJSON_AddBoolToObject(object, "met", ratio <= row->limit);
		}
	}
}

void report_json(const char *path, const struct scale *scale, const struct measured *measured) {
	struct utsname host;
	uname(&host);
	cJSON *report = cJSON_CreateObject();
	cJSON_AddStringToObject(report, "kernel", host.release);
	cJSON_AddNumberToObject(report, "cpus", (double)sysconf(_SC_NPROCESSORS_ONLN));
	cJSON_AddNumberToObject(report, "memory_pages", scale->dense.pages);
	cJSON_AddNumberToObject(report, "working_set_pages", scale->set.pages);
	cJSON_AddNumberToObject(report, "fleet", scale->fleet);
	add_rows(report, scale, measured);
	add_variants(report, measured);
	_cleanup_free_ char *text = cJSON_Print(report);
	cJSON_Delete(report);
	_cleanup_fclose_ FILE *file = fopen(path, "we");
	if (!text || !file || fprintf(file, "%s\n", text) < 0 || fflush(file) != 0)
		die("%s cannot be written", path);
}
