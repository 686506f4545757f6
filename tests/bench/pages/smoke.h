// SPDX-License-Identifier: Apache-2.0
/* tests/bench/pages/smoke.h: the clients as a test of the page server, in seconds. */
#ifndef PAGES_SMOKE_H
#define PAGES_SMOKE_H

#include "bench.h"

/* Runs all cases, a line each ("ok", "failed", "skipped"). Returns how many failed. */
int smoke(const struct scale *scale);

#endif
