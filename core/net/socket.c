// SPDX-License-Identifier: Apache-2.0
/* core/net/socket.c: a socket of another network namespace, made there by a process that ends with that. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "net/netns.h"

/* What the process reports: where it failed, or nothing and the socket. */
enum step { DONE, USERNS, NETNS, SOCKET };
struct report {
	int step;
	int err;
};

static int enter(const char *path, int type) {
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd < 0 || setns(fd, type) < 0 ? -errno : 0;
}

/* Async-signal-safe calls alone: the threads of whoever forked may have held any lock. */
static _Noreturn void work(const char *userns, const char *netns, int type, int channel) {
	struct report report = {DONE, 0};
	int fd = -1;
	int r = userns ? enter(userns, CLONE_NEWUSER) : 0;
	if (r < 0)
		report = (struct report){USERNS, -r};
	else if ((r = enter(netns, CLONE_NEWNET)) < 0)
		report = (struct report){NETNS, -r};
	else if ((fd = socket(AF_INET, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)) < 0)
		report = (struct report){SOCKET, errno};
	_exit(fc_io_send_fds(channel, &report, sizeof report, &fd, fd >= 0) < 0);
}

static int tell(const struct report *report, const char *userns, const char *netns, struct fc_error *error) {
	if (report->step == SOCKET)
		return fc_error_set(error, report->err, "make socket", NULL, NULL, NULL);
	return fc_error_set(error, report->err,
	                    report->step == USERNS ? "enter user namespace" : "enter network namespace",
	                    report->step == USERNS ? userns : netns, NULL, NULL);
}

int fc_netns_socket(const char *userns, const char *netns, int type, int *ret_fd, struct fc_error *error) {
	struct report report;
	_cleanup_close_ int ours = -1;
	_cleanup_close_ int theirs = -1;
	int pair[2];
	int fds[1];
	size_t count = 0;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return fc_error_set(error, errno, "make socket", netns, NULL, NULL);
	ours = pair[0];
	theirs = pair[1];
	pid_t pid = fork();
	if (pid < 0)
		return fc_error_set(error, errno, "make process for", netns, NULL, NULL);
	if (pid == 0)
		work(userns, netns, type, theirs);
	close(fc_steal_fd(&theirs));
	ssize_t n = fc_io_recv_fds(ours, &report, sizeof report, fds, 1, &count);
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	if (n == (ssize_t)sizeof report && report.step == DONE && count == 1) {
		*ret_fd = fds[0];
		return 0;
	}
	if (count == 1)
		close(fds[0]);
	if (n != (ssize_t)sizeof report || report.step == DONE)
		return fc_error_set(error, EIO, "make socket", netns, NULL, "the process for it ended without a word");
	return tell(&report, userns, netns, error);
}
