// SPDX-License-Identifier: Apache-2.0
#include "proc/descriptor.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"

int fc_pipe_open(int *ret_reader, int *ret_writer, struct fc_error *error) {
	int ends[2];
	if (pipe2(ends, O_CLOEXEC) < 0)
		return fc_error_set(error, errno, "make pipe", NULL, NULL, NULL);
	*ret_reader = ends[0];
	*ret_writer = ends[1];
	return 0;
}

int fc_memfd_open(const char *name, const void *data, size_t size, struct fc_error *error) {
	_cleanup_close_ int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return fc_error_set(error, errno, "make memory file", name, NULL, NULL);
	int r = fc_io_write_full(fd, data, size);
	if (r < 0)
		return fc_error_set(error, -r, "write memory file", name, NULL, NULL);
	if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) < 0 ||
	    lseek(fd, 0, SEEK_SET) < 0)
		return fc_error_set(error, errno, "seal memory file", name, NULL, NULL);
	return fc_steal_fd(&fd);
}
