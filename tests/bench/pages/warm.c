// SPDX-License-Identifier: Apache-2.0
/* What fcvm does before it loads a local snapshot by the File backend. */
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#include "client_internal.h"
#include "uffd/job.h"

void client_warm(struct client *client) {
	struct fc_error error = {0};
	struct fc_job *job;
	uint64_t count, total;
	if (fc_job_warm(client->plan->memory->path, client->plan->warm, &job, &error) < 0)
		client_fail(client, "warm: %s", error.message);
	struct pollfd ready = {.fd = fc_job_fileno(job), .events = POLLIN};
	if (poll(&ready, 1, 60000) != 1 || fc_job_result(job, &count, &total, &error) != 1)
		client_fail(client, "warm: %s", error.message);
	fc_job_free(job);
}
