// SPDX-License-Identifier: Apache-2.0
/* core/proc/descriptor.h: descriptors to be passed on. All are close-on-exec, and the caller's. Any thread. */
#ifndef FCVM_PROC_DESCRIPTOR_H
#define FCVM_PROC_DESCRIPTOR_H

#include <stddef.h>

#include "base/error.h"

/* A pipe. The errors of pipe2(2): EMFILE, ENFILE. */
int fc_pipe_open(int *ret_reader, int *ret_writer, struct fc_error *error);

/*
 * A file in memory with `size` bytes of `data`, sealed against every change, its offset 0: something that a child can
 * read and seek in, and which is gone with its last holder. `name` (at most 249 bytes) shows in /proc alone.
 */
int fc_memfd_open(const char *name, const void *data, size_t size, struct fc_error *error);

#endif
