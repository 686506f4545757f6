// SPDX-License-Identifier: Apache-2.0
/* agent/files.h: the host's files, put below the container's root. */
#ifndef FCVM_AGENT_FILES_H
#define FCVM_AGENT_FILES_H

#include <stddef.h>
#include <sys/types.h>

#include "base/error.h"
#include "json.h"

struct fc_file {
	char *path; /* absolute, without "." and ".." */
	unsigned char *data;
	size_t size;
	mode_t mode;
};

/*
 * Reads the member `key` of the host's request, a list of {"path", "mode"?, "data"} with the data in base64. *ret_files
 * is the caller's, freed by fc_files_free. Returns their number (at most FC_GUEST_FILES_MAX) or -EINVAL, -ENOMEM.
 */
ssize_t fc_files_read(const struct fc_json *object, const char *key, struct fc_file **ret_files,
                      struct fc_error *error);
void fc_files_free(struct fc_file *files, size_t count);

/*
 * Writes one file below `root` (a directory's descriptor, borrowed), whatever links the container has laid: none leads
 * out of it. Missing directories are made (0755). The file is written beside and renamed; one that is a mount, as
 * Podman's /etc/resolv.conf, is written in place. Returns 0 or -errno.
 */
int fc_files_write(int root, const struct fc_file *file, struct fc_error *error);

#endif
