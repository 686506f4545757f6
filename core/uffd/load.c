// SPDX-License-Identifier: Apache-2.0
#include "uffd/load_internal.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ASK_EVERY_NS = 1000000, FRESH_NS = 20000000, CALM_PERCENT = 10, WEIGHT = 4 };

void fcu_load_open(struct fcu_load *load) {
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	*load = (struct fcu_load){.fd = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC),
	                          .cpus = cpus > 0 ? (unsigned int)cpus : 1};
}

void fcu_load_close(struct fcu_load *load) {
	if (load->fd >= 0)
		close(load->fd);
	load->fd = -1;
}

/* The second field is how long the thread waited for a CPU since it began, in ns
 * (Documentation/scheduler/sched-stats.rst). */
static bool read_waited(const struct fcu_load *load, uint64_t *ret_waited) {
	char text[96];
	ssize_t n = load->fd < 0 ? -1 : pread(load->fd, text, sizeof text - 1, 0);
	if (n <= 0)
		return false;
	text[n] = '\0';
	const char *at = strchr(text, ' ');
	*ret_waited = at ? strtoull(at, NULL, 10) : 0;
	return at != NULL;
}

static void look(struct fcu_load *load, uint64_t now) {
	uint64_t waited;
	uint64_t passed = now - load->asked;
	if (!read_waited(load, &waited)) {
		load->share = 100;
		return;
	}
	uint64_t share = passed ? (waited - load->waited) * 100 / passed : 0;
	/* After a pause the past says little: one look begins anew. */
	if (passed > FRESH_NS)
		load->share = (uint32_t)share;
	else
		load->share = (uint32_t)((load->share * (WEIGHT - 1) + share) / WEIGHT);
	load->waited = waited;
}

bool fcu_load_spare(struct fcu_load *load, unsigned int bursts, uint64_t now) {
	if (now - load->asked >= ASK_EVERY_NS) {
		look(load, now);
		load->asked = now;
	}
	return bursts < load->cpus && load->share < CALM_PERCENT;
}
