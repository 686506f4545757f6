// SPDX-License-Identifier: Apache-2.0
/* The variants and the rows, as issue and design name them; limits are ratios within one run. */
#include "bench.h"

#define TOTAL offsetof(struct figures, total_ms)
#define CLIENT offsetof(struct figures, client_ms)
#define P999 offsetof(struct figures, p999_us)
#define PRIVATE offsetof(struct figures, private_mib)

const struct variant bench_variants[] = {
        {.name = "baseline, other core", .how = BASELINE},
        {.name = "on demand, other core", .how = OURS},
        {.name = "replay, other core", .how = OURS, .replay = true, .hold = true},
        {.name = "replay during touches, other core", .how = OURS, .replay = true},
        {.name = "File backend", .how = FILE_BACKEND},
        {.name = "baseline, same core", .how = BASELINE, .same_core = true},
        {.name = "on demand, same core", .how = OURS, .same_core = true},
        {.name = "replay, same core", .how = OURS, .same_core = true, .replay = true, .hold = true},
        {.name = "replay during touches, same core", .how = OURS, .same_core = true, .replay = true},
        {.name = "baseline, fleet", .how = BASELINE, .fleet = true},
        {.name = "on demand, fleet", .how = OURS, .fleet = true},
        {.name = "replay, fleet", .how = OURS, .fleet = true, .replay = true, .hold = true},
        {.name = "replay during touches, fleet", .how = OURS, .fleet = true, .replay = true},
        {.name = "File backend, fleet", .how = FILE_BACKEND, .fleet = true},
        {.name = "baseline, in turn", .how = BASELINE, .fleet = true, .every_ms = 20, .outside_percent = 3},
        {.name = "replay, in turn",
         .how = OURS,
         .fleet = true,
         .every_ms = 20,
         .outside_percent = 3,
         .replay = true,
         .hold = true},
        {.name = "replay during touches, in turn",
         .how = OURS,
         .fleet = true,
         .every_ms = 20,
         .outside_percent = 3,
         .replay = true},
        {.name = "File backend, in turn", .how = FILE_BACKEND, .fleet = true, .every_ms = 20, .outside_percent = 3},
        {.name = "File backend, in turn, writes",
         .how = FILE_BACKEND,
         .fleet = true,
         .every_ms = 20,
         .outside_percent = 3,
         .write = true},
        {.name = "baseline, cold", .how = BASELINE, .cold = true},
        {.name = "replay, cold", .how = OURS, .cold = true, .replay = true, .hold = true},
        {.name = "replay during touches, cold", .how = OURS, .cold = true, .replay = true},
        {.name = "File backend, cold", .how = FILE_BACKEND, .cold = true},
        {.name = "auto, cold", .how = FILE_BACKEND, .cold = true, .replay = true},
        {.name = "auto", .how = FILE_BACKEND, .replay = true},
        {.name = "auto, writes", .how = FILE_BACKEND, .replay = true, .write = true},
        {.name = "File backend, writes", .how = FILE_BACKEND, .write = true},
        {.name = "replay, writes", .how = OURS, .replay = true, .hold = true, .write = true},
        {.name = "baseline, zeros", .how = BASELINE, .zeros = true},
        {.name = "on demand, zeros", .how = OURS, .zeros = true},
        {.name = "replay, zeros", .how = OURS, .zeros = true, .replay = true, .hold = true},
};
const size_t bench_variant_count = sizeof bench_variants / sizeof bench_variants[0];

const struct row bench_rows[] = {
        {"on demand, other core", "on demand, other core", "baseline, other core", TOTAL, 0.20, 0.14},
        {"on demand, same core", "on demand, same core", "baseline, same core", TOTAL, 0.65, 0.60},
        {"  private memory, of the working set", "on demand, other core", NULL, PRIVATE, 2.2, 0},
        {"replay, other core", "replay, other core", "baseline, other core", TOTAL, 0.06, 0.04},
        {"replay, same core", "replay, same core", "baseline, same core", TOTAL, 0.30, 0.21},
        {"  during the touches, other core", "replay during touches, other core", "baseline, other core", TOTAL, 0,
         0.06},
        {"  during the touches, same core", "replay during touches, same core", "baseline, same core", TOTAL, 0, 0.43},
        {"replay, fleet at once", "replay, fleet", "baseline, fleet", TOTAL, 0.15, 0.10},
        {"  p999 of a touch", "replay, fleet", "baseline, fleet", P999, 1, 0},
        {"  during the touches", "replay during touches, fleet", "baseline, fleet", TOTAL, 0, 0.175},
        {"  p999 during the touches", "replay during touches, fleet", "baseline, fleet", P999, 0, 0},
        {"replay, one each 20 ms, 3 % outside", "replay, in turn", "baseline, in turn", CLIENT, 0.02, 0.009},
        {"  during the touches", "replay during touches, in turn", "baseline, in turn", CLIENT, 0, 0},
        {"replay, cold, of the baseline cold", "replay, cold", "baseline, cold", TOTAL, 0.08, 0.056},
        {"replay, cold, of the File backend cold", "replay, cold", "File backend, cold", TOTAL, 0.16, 0.11},
        {"private memory, zero pages, replay", "replay, zeros", "baseline, zeros", PRIVATE, 0.75, 0.71},
        {"auto, private memory, of the File backend's", "auto, writes", "File backend, writes", PRIVATE, 1.2, 0},
        {"auto, cold, of the File backend cold", "auto, cold", "File backend, cold", TOTAL, 0.22, 0.19},
};
const size_t bench_row_count = sizeof bench_rows / sizeof bench_rows[0];
