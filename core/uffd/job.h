// SPDX-License-Identifier: Apache-2.0
/*
 * core/uffd/job.h: work of a while on a snapshot's files, on a thread of its own, and what the host can do.
 *
 * A job's descriptor becomes readable when it has ended; until then nobody waits for it. Freeing a job that still works
 * cancels it: what it was writing is removed. One thread at a time may use a job.
 */
#ifndef FCVM_UFFD_JOB_H
#define FCVM_UFFD_JOB_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct fc_job;

/* An eventfd (borrowed) that is readable from the job's end on. */
int fc_job_fileno(const struct fc_job *job);

/*
 * 0 while the job works; 1 when it has ended well, with *ret_count and *ret_total as the job says; or the -errno that
 * it failed with, filling *error. The end repeats itself. Never blocks.
 */
int fc_job_result(struct fc_job *job, uint64_t *ret_count, uint64_t *ret_total, struct fc_error *error);

/* Cancels it where it still works, waits for the thread (one read or write long), frees. NULL is fine. */
void fc_job_free(struct fc_job *job);

/*
 * Reads the memory file at `memory` once, finds its zero pages, and writes the page map `out` (beside, synced,
 * renamed). Result: zero pages, of pages. The file's size must be a multiple of 4096 (EINVAL).
 */
int fc_job_index(const char *memory, const char *out, struct fc_job **ret_job, struct fc_error *error);

/*
 * Reads the ranges of `memory` that the recording `working_set` names into the page cache, for VMs that map the file
 * themselves. Result: bytes read, of bytes named. ESTALE: the recording belongs to another memory file.
 */
int fc_job_warm(const char *memory, const char *working_set, struct fc_job **ret_job, struct fc_error *error);

/* What serving needs of the host. An error's err is 0 where the thing works; its hint is the command that mends it. */
struct fc_uffd_probe {
	bool userfaultfd;     /* this process can make one that sees the kernel's own accesses, as a monitor's must */
	bool io_uring;        /* else reads are made one by one */
	bool huge_pages;      /* 2 MiB pages are reserved (not needed but by VMs that want them) */
	uint64_t features;    /* the kernel's UFFD_FEATURE_ bits */
	struct fc_error userfaultfd_error;
	struct fc_error io_uring_error;
};

/* Tries it all out. Never fails. */
void fc_uffd_probe(struct fc_uffd_probe *ret_probe);

#endif
