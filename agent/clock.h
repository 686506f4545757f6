// SPDX-License-Identifier: Apache-2.0
/* agent/clock.h: the one clock that the agent's limits are measured by. */
#ifndef FCVM_AGENT_CLOCK_H
#define FCVM_AGENT_CLOCK_H

#include <stdint.h>
#include <time.h>

/* Since the guest's kernel started; goes on by the guest's own time. */
static inline uint64_t fc_clock_ns(void) {
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static inline uint64_t fc_clock_ms(void) {
	return fc_clock_ns() / 1000000u;
}

#endif
