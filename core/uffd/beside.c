// SPDX-License-Identifier: Apache-2.0
#include "uffd/beside_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "disk/disk.h"

int fcu_beside_open(struct fcu_beside *beside, const char *final, struct fc_error *error) {
	const char *slash = strrchr(final, '/');
	int directory = slash ? (int)(slash - final) + 1 : 0;
	*beside = (struct fcu_beside){.fd = -1, .final = final};
	if (asprintf(&beside->path, "%.*s.fcvm-XXXXXX", directory, final) < 0) {
		beside->path = NULL;
		return fc_error_set(error, ENOMEM, "write", final, NULL, NULL);
	}
	beside->fd = mkostemp(beside->path, O_CLOEXEC);
	if (beside->fd >= 0)
		return 0;
	int err = errno;
	free(beside->path);
	beside->path = NULL;
	return fc_error_set(error, err, "write", final, NULL, NULL);
}

int fcu_beside_publish(struct fcu_beside *beside, struct fc_error *error) {
	int r = fc_disk_publish(beside->path, beside->final, FC_DISK_REPLACE, error);
	if (r < 0)
		return r;
	free(beside->path);
	beside->path = NULL;
	return 0;
}

void fcu_beside_close(struct fcu_beside *beside) {
	if (beside->fd >= 0)
		close(beside->fd);
	if (beside->path)
		unlink(beside->path);
	free(beside->path);
	*beside = (struct fcu_beside){.fd = -1};
}
