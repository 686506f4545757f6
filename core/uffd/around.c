// SPDX-License-Identifier: Apache-2.0
#include "uffd/around_internal.h"

enum {
	EVEN = 512,  /* the density that is assumed before there are probes: one page of two */
	RARE = 64,   /* and after a replay */
	WEIGHT = 16, /* the share of one probe in the density */
	EARLY = 32,  /* so many windows are probed often */
	EARLY_EVERY = 2,
	LATE_EVERY = 8,
	SLACK = 512, /* pages (2 MiB) beyond the ratio, so that the first faults are not the slowest */
	SLACK_AFTER_REPLAY = 64,
};

void fcu_around_init(struct fcu_around *around, uint32_t most, uint32_t ratio) {
	*around = (struct fcu_around){.most = most, .ratio = ratio, .density = EVEN, .random = 2463534242u};
}

static void learn(struct fcu_around *around, bool touched) {
	uint32_t outcome = touched ? 1024 : 0;
	around->density = (around->density * (WEIGHT - 1) + outcome) / WEIGHT;
}

void fcu_around_fault(struct fcu_around *around, uint64_t page) {
	around->touched++;
	for (unsigned int i = 0; i < FCU_AROUND_PROBES; i++) {
		if (around->probes[i] != page + 1)
			continue;
		around->probes[i] = 0;
		learn(around, true);
	}
}

void fcu_around_replayed(struct fcu_around *around) {
	around->after_replay = true;
	around->density = RARE;
}

uint32_t fcu_around_window(const struct fcu_around *around) {
	uint64_t touched = around->touched + around->neighbours * around->density / 1024;
	uint64_t allowed = touched * around->ratio / 100 + (around->after_replay ? SLACK_AFTER_REPLAY : SLACK);
	uint64_t used = around->touched + around->neighbours;
	uint32_t window = around->most;
	while (window > 1 && used + window - 1 > allowed)
		window /= 2;
	return window;
}

static uint32_t random_below(struct fcu_around *around, uint32_t limit) {
	/* xorshift32 (Marsaglia): cheap, and good enough to choose a page. */
	around->random ^= around->random << 13;
	around->random ^= around->random >> 17;
	around->random ^= around->random << 5;
	return around->random % limit;
}

uint64_t fcu_around_probe(struct fcu_around *around, uint64_t first, uint32_t count, uint64_t page) {
	uint32_t every = around->windows < EARLY ? EARLY_EVERY : LATE_EVERY;
	if (count < 2 || around->windows++ % every != 0)
		return UINT64_MAX;
	uint64_t probe = first + random_below(around, count);
	if (probe == page)
		return UINT64_MAX;
	/* The oldest probe that has not faulted by now counts as one that will not. */
	if (around->probes[around->next_probe])
		learn(around, false);
	around->probes[around->next_probe] = probe + 1;
	around->next_probe = (around->next_probe + 1) % FCU_AROUND_PROBES;
	return probe;
}

void fcu_around_brought(struct fcu_around *around, uint64_t pages) {
	around->neighbours += pages;
}
