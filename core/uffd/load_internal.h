// SPDX-License-Identifier: Apache-2.0
/* core/uffd/load_internal.h: whether this machine has a CPU to spare. */
#ifndef FCVM_UFFD_LOAD_INTERNAL_H
#define FCVM_UFFD_LOAD_INTERNAL_H

#include <stdbool.h>
#include <stdint.h>

/* Belongs to one thread. Begins as {.fd = -1}; after fcu_load_open it is closed by fcu_load_close. */
struct fcu_load {
	int fd; /* /proc/loadavg, or -1: it is taken to be busy */
	unsigned int cpus;
	uint64_t asked; /* when it was read last */
	bool spare;
};

void fcu_load_open(struct fcu_load *load);
void fcu_load_close(struct fcu_load *load);

/*
 * Whether fewer threads want to run than there are CPUs, the asking one included: then one that is woken runs at once,
 * and waiting awake takes nothing from anybody. Looks once a millisecond.
 */
bool fcu_load_spare(struct fcu_load *load, uint64_t now);

#endif
