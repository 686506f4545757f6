// SPDX-License-Identifier: Apache-2.0
/* core/uffd/beside_internal.h: a file that is written beside its name and gets it when it is whole. */
#ifndef FCVM_UFFD_BESIDE_INTERNAL_H
#define FCVM_UFFD_BESIDE_INTERNAL_H

#include "base/error.h"

/* Begins as {.fd = -1}. */
struct fcu_beside {
	int fd;            /* open for writing, mode 0600 */
	char *path;        /* the interim name, ".fcvm-XXXXXX" in the same directory */
	const char *final; /* borrowed */
};

int fcu_beside_open(struct fcu_beside *beside, const char *final, struct fc_error *error);

/* Syncs it and gives it its name, replacing what has it. */
int fcu_beside_publish(struct fcu_beside *beside, struct fc_error *error);

/* Removes it unless it was published; closes. Fine on an empty one. */
void fcu_beside_close(struct fcu_beside *beside);

#endif
