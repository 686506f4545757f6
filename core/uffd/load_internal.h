// SPDX-License-Identifier: Apache-2.0
/* core/uffd/load_internal.h: whether this machine has a CPU to spare. */
#ifndef FCVM_UFFD_LOAD_INTERNAL_H
#define FCVM_UFFD_LOAD_INTERNAL_H

#include <stdbool.h>
#include <stdint.h>

/* Belongs to one thread, which opens it. Begins as {.fd = -1}. */
struct fcu_load {
	int fd; /* the thread's own /proc/thread-self/schedstat, or -1: the machine is taken to be busy */
	unsigned int cpus;
	uint64_t asked;  /* when it was read last */
	uint64_t waited; /* what it said then: how long the thread had waited for a CPU, ns */
	uint32_t share;  /* percent of the time that it waited, of late */
};

void fcu_load_open(struct fcu_load *load);
void fcu_load_close(struct fcu_load *load);

/*
 * Whether a thread that is woken now is likely to run at once, on another CPU, while this one goes on: `bursts` VMs
 * that fault just now are fewer than the CPUs, and this thread itself has hardly waited for one of late. (How many
 * threads of the whole machine want to run, as /proc/loadavg tells, was measured to be worse: it counts those that ours
 * would go before.) Looks once a millisecond.
 */
bool fcu_load_spare(struct fcu_load *load, unsigned int bursts, uint64_t now);

#endif
