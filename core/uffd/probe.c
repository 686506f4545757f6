// SPDX-License-Identifier: Apache-2.0
/* core/uffd/probe.c: what this host lets us do, found out by doing it. */
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "uffd/job.h"

/* Since Linux 6.1; include/uapi/linux/userfaultfd.h */
#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

/* As Firecracker makes one: by the device where there is one, else by the system call; for the kernel's accesses too.
 */
static int open_userfaultfd(void) {
	_cleanup_close_ int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	int fd = device < 0 ? -1 : ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	return fd < 0 ? -errno : fd;
}

static void probe_userfaultfd(struct fc_uffd_probe *probe) {
	struct uffdio_api api = {.api = UFFD_API};
	_cleanup_close_ int fd = open_userfaultfd();
	int err = fd < 0 ? -fd : 0;
	if (err == 0 && ioctl(fd, UFFDIO_API, &api) < 0)
		err = errno;
	if (err == 0 && !(api.features & UFFD_FEATURE_EVENT_REMOVE))
		err = EOPNOTSUPP;
	probe->features = err ? 0 : api.features;
	probe->userfaultfd = err == 0;
	if (err == EPERM || err == EACCES)
		fc_error_set(&probe->userfaultfd_error, err, "make userfaultfd", NULL,
		             "sysctl -w vm.unprivileged_userfaultfd=1, or give this user /dev/userfaultfd",
		             "not allowed to this user");
	else if (err)
		fc_error_set(&probe->userfaultfd_error, err, "make userfaultfd", NULL,
		             "a kernel with CONFIG_USERFAULTFD is needed", NULL);
}

static int io_uring_disabled(void) {
	char *text;
	size_t size;
	if (fc_io_read_file("/proc/sys/kernel/io_uring_disabled", 64, &text, &size, NULL) < 0)
		return 0;
	int value = text[0] - '0';
	free(text);
	return value;
}

static void probe_io_uring(struct fc_uffd_probe *probe) {
	struct io_uring ring;
	int r = io_uring_queue_init(4, &ring, 0);
	probe->io_uring = r == 0;
	if (r == 0) {
		io_uring_queue_exit(&ring);
		return;
	}
	bool disabled = r == -EPERM && io_uring_disabled() > 0;
	fc_error_set(&probe->io_uring_error, -r, "make io_uring", NULL,
	             disabled       ? "sysctl -w kernel.io_uring_disabled=0"
	             : r == -ENOMEM ? "raise the limit of locked memory (ulimit -l)"
	                            : "pages are read one by one without it",
	             disabled ? "switched off on this host" : NULL);
}

static bool has_huge_pages(void) {
	char *text;
	size_t size;
	if (fc_io_read_file("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", 64, &text, &size, NULL) < 0)
		return false;
	bool some = strtoul(text, NULL, 10) > 0;
	free(text);
	return some;
}

void fc_uffd_probe(struct fc_uffd_probe *ret_probe) {
	memset(ret_probe, 0, sizeof *ret_probe);
	probe_userfaultfd(ret_probe);
	probe_io_uring(ret_probe);
	ret_probe->huge_pages = has_huge_pages();
}
