// SPDX-License-Identifier: Apache-2.0
/* core/base/io.h: whole reads and writes, and descriptors passed over Unix sockets. Blocking; any thread. */
#ifndef FCVM_BASE_IO_H
#define FCVM_BASE_IO_H

#include <stddef.h>
#include <sys/types.h>

#include "base/error.h"

/* Reads until `size` bytes or the end of file; EINTR is retried. Returns the bytes read or -errno. */
ssize_t fc_io_read_full(int fd, void *buffer, size_t size);

/* Writes all `size` bytes; EINTR is retried. Returns 0 or -errno. */
int fc_io_write_full(int fd, const void *buffer, size_t size);

/*
 * Reads the whole file at `path`, at most `max` bytes. *ret_data gets a malloc'd buffer with a NUL after the last byte
 * (the caller frees it), *ret_size its length. EFBIG where the file is longer; the errors of open(2) and read(2).
 */
int fc_io_read_file(const char *path, size_t max, char **ret_data, size_t *ret_size, struct fc_error *error);

/* Writes `text` to an existing file in one write(2), as files of /proc, /sys and cgroups need it. */
int fc_io_write_file(const char *path, const char *text, struct fc_error *error);

/* Sends `size` (1 or more) bytes with one descriptor (borrowed) over a Unix socket. Returns 0 or -errno. */
int fc_io_send_fd(int socket, const void *data, size_t size, int fd);

/* The same with `count` (0 to 16) descriptors. EINVAL where there are more. */
int fc_io_send_fds(int socket, const void *data, size_t size, const int *fds, size_t count);

/*
 * Receives up to `size` bytes and at most one descriptor, close-on-exec. Returns the bytes received or -errno; *ret_fd
 * is the descriptor (the caller closes it) or -1. Where the peer sent several, all are closed and -EPROTO is returned.
 */
ssize_t fc_io_recv_fd(int socket, void *data, size_t size, int *ret_fd);

/*
 * The same with at most `room` (up to 16) descriptors: *ret_count of them are in `fds`, the caller's to close. Where
 * the peer sent more, or a message (of a socket that has such) of more than `size` bytes, all are closed and -EPROTO is
 * returned.
 */
ssize_t fc_io_recv_fds(int socket, void *data, size_t size, int *fds, size_t room, size_t *ret_count);

#endif
