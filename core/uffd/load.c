// SPDX-License-Identifier: Apache-2.0
#include "uffd/load_internal.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ASK_EVERY_NS = 1000000 };

void fcu_load_open(struct fcu_load *load) {
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	*load = (struct fcu_load){.fd = open("/proc/loadavg", O_RDONLY | O_CLOEXEC),
	                          .cpus = cpus > 0 ? (unsigned int)cpus : 1};
}

void fcu_load_close(struct fcu_load *load) {
	if (load->fd >= 0)
		close(load->fd);
	load->fd = -1;
}

/* The file's fourth field is "running/all" (proc(5)). */
static bool read_spare(const struct fcu_load *load) {
	char text[128];
	ssize_t n = load->fd < 0 ? -1 : pread(load->fd, text, sizeof text - 1, 0);
	if (n <= 0)
		return false;
	text[n] = '\0';
	const char *at = text;
	for (int i = 0; i < 3 && at; i++) {
		at = strchr(at, ' ');
		at = at ? at + 1 : NULL;
	}
	return at && strtoul(at, NULL, 10) < load->cpus;
}

bool fcu_load_spare(struct fcu_load *load, uint64_t now) {
	if (now - load->asked >= ASK_EVERY_NS || load->asked == 0) {
		load->spare = read_spare(load);
		load->asked = now;
	}
	return load->spare;
}
