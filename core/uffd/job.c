// SPDX-License-Identifier: Apache-2.0
/* core/uffd/job.c: work on a thread of its own that an event loop can wait for. */
#include "uffd/job.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "uffd/job_internal.h"

struct fc_job {
	pthread_t thread;
	int event;
	fcu_job_work *work;
	void (*release)(void *argument);
	void *argument;
	atomic_bool cancelled;
	atomic_bool ended;
	/* Written by the thread before `ended`, read after. */
	int result;
	uint64_t count;
	uint64_t total;
	struct fc_error error;
};

static void *run(void *argument) {
	struct fc_job *job = argument;
	job->result = job->work(job->argument, &job->cancelled, &job->count, &job->total, &job->error);
	atomic_store(&job->ended, true);
	eventfd_write(job->event, 1);
	return NULL;
}

static int start(struct fc_job *job) {
	sigset_t all;
	sigset_t before;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int r = pthread_create(&job->thread, NULL, run, job);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return -r;
}

int fcu_job_start(fcu_job_work *work, void *argument, void (*release)(void *argument), struct fc_job **ret_job,
                  struct fc_error *error) {
	int r = -ENOMEM;
	struct fc_job *job = calloc(1, sizeof *job);
	if (job) {
		*job = (struct fc_job){.work = work, .release = release, .argument = argument};
		job->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		r = job->event < 0 ? -errno : start(job);
	}
	if (r == 0) {
		*ret_job = job;
		return 0;
	}
	if (job && job->event >= 0)
		close(job->event);
	free(job);
	release(argument);
	return fc_error_set(error, -r, "start job", NULL, NULL, NULL);
}

int fc_job_fileno(const struct fc_job *job) {
	return job->event;
}

int fc_job_result(struct fc_job *job, uint64_t *ret_count, uint64_t *ret_total, struct fc_error *error) {
	if (!atomic_load(&job->ended))
		return 0;
	if (job->result < 0) {
		if (error)
			*error = job->error;
		return job->result;
	}
	*ret_count = job->count;
	*ret_total = job->total;
	return 1;
}

void fc_job_free(struct fc_job *job) {
	if (!job)
		return;
	atomic_store(&job->cancelled, true);
	pthread_join(job->thread, NULL);
	close(job->event);
	job->release(job->argument);
	free(job);
}
