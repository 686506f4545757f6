// SPDX-License-Identifier: Apache-2.0
/* core/uffd/job_internal.h: how a job is made. */
#ifndef FCVM_UFFD_JOB_INTERNAL_H
#define FCVM_UFFD_JOB_INTERNAL_H

#include <stdatomic.h>

#include "uffd/job.h"

/* The work: 0, or -errno with *error filled. It looks at *cancelled often and then returns -ECANCELED. */
typedef int fcu_job_work(void *argument, const atomic_bool *cancelled, uint64_t *ret_count, uint64_t *ret_total,
                         struct fc_error *error);

/* Takes `argument`, which `release` frees when the job is freed, or at once where this fails. */
int fcu_job_start(fcu_job_work *work, void *argument, void (*release)(void *argument), struct fc_job **ret_job,
                  struct fc_error *error);

#endif
