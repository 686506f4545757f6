// SPDX-License-Identifier: Apache-2.0
#include "net/netns.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <linux/netlink.h>
#include <linux/nsfs.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "net/netns_internal.h"

static const char ROOT_HINT[] = "this needs root (CAP_SYS_ADMIN and CAP_NET_ADMIN)";

/* The thread that works inside a namespace */

struct job {
	int fd; /* the namespace to enter, or -1 to stay */
	int (*fn)(void *data, struct fc_error *error);
	void *data;
	struct fc_error *error;
	int result;
};

static void *work(void *argument) {
	struct job *job = argument;
	if (job->fd >= 0 && setns(job->fd, CLONE_NEWNET) < 0)
		job->result = fc_error_set(job->error, errno, "enter network namespace", NULL,
		                           errno == EPERM ? ROOT_HINT : NULL, NULL);
	else
		job->result = job->fn(job->data, job->error);
	return NULL;
}

/* Starts the thread with every signal blocked: the program's handlers must not run inside another namespace. */
static int start(pthread_t *thread, struct job *job) {
	sigset_t all, before;
	pthread_attr_t attributes;
	sigfillset(&all);
	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, 256 * 1024);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int err = pthread_create(thread, &attributes, work, job);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attributes);
	return err;
}

static int run_in(int fd, int (*fn)(void *data, struct fc_error *error), void *data, struct fc_error *error) {
	struct job job = {.fd = fd, .fn = fn, .data = data, .error = error};
	pthread_t thread;
	int err = start(&thread, &job);
	if (err)
		return fc_error_set(error, err, "start thread", NULL, NULL, NULL);
	pthread_join(thread, NULL);
	return job.result;
}

int fc_netns_run(const struct fc_netns *netns, int (*fn)(void *data, struct fc_error *error), void *data,
                 struct fc_error *error) {
	return run_in(netns->fd, fn, data, error);
}

/* Making and removing */

static int unshare_and_mount(void *data, struct fc_error *error) {
	const char *path = data;
	if (unshare(CLONE_NEWNET) < 0)
		return fc_error_set(error, errno, "create network namespace", path, errno == EPERM ? ROOT_HINT : NULL,
		                    NULL);
	if (mount("/proc/thread-self/ns/net", path, NULL, MS_BIND, NULL) < 0)
		return fc_error_set(error, errno, "mount network namespace", path, errno == EPERM ? ROOT_HINT : NULL,
		                    NULL);
	return 0;
}

int fc_netns_create(const char *path, struct fc_error *error) {
	int fd = open(path, O_RDONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0444);
	if (fd < 0)
		return fc_error_set(error, errno, "create network namespace", path, NULL, NULL);
	close(fd);
	int r = run_in(-1, unshare_and_mount, (void *)(uintptr_t)path, error);
	if (r < 0)
		unlink(path);
	return r;
}

/* What is at a path: 1 for a mounted network namespace, 0 for an empty plain file, -EINVAL for anything else. */
static int kind_of(const char *path) {
	struct statfs fs;
	struct stat st;
	_cleanup_close_ int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return errno == ELOOP ? -EINVAL : -errno;
	if (fstatfs(fd, &fs) < 0 || fstat(fd, &st) < 0)
		return -errno;
	if (fs.f_type == NSFS_MAGIC)
		return ioctl(fd, NS_GET_NSTYPE) == CLONE_NEWNET ? 1 : -EINVAL;
	return S_ISREG(st.st_mode) && st.st_size == 0 ? 0 : -EINVAL;
}

int fc_netns_remove(const char *path, struct fc_error *error) {
	int kind = kind_of(path);
	if (kind < 0)
		return fc_error_set(error, -kind, "remove network namespace", path, NULL,
		                    kind == -EINVAL ? "it is not a network namespace" : NULL);
	if (kind == 1 && umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) < 0)
		return fc_error_set(error, errno, "unmount network namespace", path, errno == EPERM ? ROOT_HINT : NULL,
		                    NULL);
	if (unlink(path) < 0)
		return fc_error_set(error, errno, "remove network namespace", path, NULL, NULL);
	return 0;
}

/* Handles */

static int open_sockets(void *data, struct fc_error *error) {
	struct fc_netns *netns = data;
	int r = fc_netlink_open(&netns->route, NETLINK_ROUTE);
	if (r < 0)
		return fc_error_set(error, -r, "open netlink socket", NULL, NULL, NULL);
	fc_netlink_open(&netns->filter, NETLINK_NETFILTER);
	return 0;
}

static int open_namespace(const char *path, struct fc_error *error) {
	int kind = kind_of(path);
	if (kind != 1)
		return fc_error_set(error, kind < 0 ? -kind : EINVAL, "open network namespace", path, NULL,
		                    kind == 0 || kind == -EINVAL ? "it is not a network namespace" : NULL);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? fc_error_set(error, errno, "open network namespace", path, NULL, NULL) : fd;
}

int fc_netns_open(const char *path, struct fc_netns **ret_netns, struct fc_error *error) {
	struct fc_netns *netns = calloc(1, sizeof *netns);
	if (!netns)
		return fc_error_set(error, ENOMEM, "open network namespace", path, NULL, NULL);
	int r = netns->fd = path ? open_namespace(path, error) : -1;
	if (r >= 0 || !path) {
		r = run_in(netns->fd, open_sockets, netns, error);
		if (r < 0)
			fc_error_wrap(error, "open network namespace", path ? path : "of this process");
	}
	if (r < 0) {
		fc_netns_close(netns);
		return r;
	}
	*ret_netns = netns;
	return 0;
}

void fc_netns_close(struct fc_netns *netns) {
	if (!netns)
		return;
	fc_netlink_close(&netns->route);
	fc_netlink_close(&netns->filter);
	if (netns->fd >= 0)
		close(netns->fd);
	free(netns);
}

/* Switches of /proc/sys */

struct sysctl {
	const char *path;
	int wanted; /* 0, 1, or -1 to read alone */
};

static int read_and_set(void *data, struct fc_error *error) {
	const struct sysctl *sysctl = data;
	char former;
	_cleanup_close_ int fd = open(sysctl->path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return fc_error_set(error, errno, "open", sysctl->path, NULL, NULL);
	ssize_t n = read(fd, &former, 1);
	if (n != 1)
		return fc_error_set(error, n < 0 ? errno : EIO, "read", sysctl->path, NULL, NULL);
	int value = former != '0';
	if (sysctl->wanted >= 0 && sysctl->wanted != value) {
		int r = fc_io_write_file(sysctl->path, sysctl->wanted ? "1\n" : "0\n", error);
		if (r < 0)
			return r;
	}
	return value;
}

int fc_netns_sysctl(const struct fc_netns *netns, const char *path, int wanted, struct fc_error *error) {
	struct sysctl sysctl = {.path = path, .wanted = wanted};
	return run_in(netns->fd, read_and_set, &sysctl, error);
}

int fc_netns_forwarding(struct fc_netns *netns, int wanted, bool *ret_former, struct fc_error *error) {
	int r = fc_netns_sysctl(netns, "/proc/sys/net/ipv4/ip_forward", wanted, error);
	if (r < 0) {
		fc_error_wrap(error, "set forwarding", NULL);
		return r;
	}
	*ret_former = r == 1;
	return 0;
}

/* Errors */

static const char *hint_of(int err) {
	switch (err) {
	case EPERM:
	case EACCES:
		return ROOT_HINT;
	case EOPNOTSUPP:
	case EPROTONOSUPPORT:
		return "the kernel lacks it, or its module: modprobe nf_tables, veth or tun";
	case ENETUNREACH:
		return "the gateway must be in a network of one of the links, and that link up";
	case ENOBUFS:
		return "the kernel's answer was lost: look whether it was done";
	default:
		return NULL;
	}
}

int fc_netlink_error(struct fc_error *error, int r, const char *op, const char *subject,
                     const struct fc_netlink_answer *answer) {
	if (!answer->text[0])
		return fc_error_set(error, -r, op, subject, hint_of(-r), NULL);
	return fc_error_set(error, -r, op, subject, hint_of(-r), "%s: %s", strerror(-r), answer->text);
}
