// SPDX-License-Identifier: Apache-2.0
#include "proc/fork_server.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"

enum { BACKLOG = 128, SECONDS = 2 };

static int address_of(const char *path, struct sockaddr_un *address) {
	*address = (struct sockaddr_un){.sun_family = AF_UNIX};
	if (strlen(path) >= sizeof address->sun_path)
		return -ENAMETOOLONG;
	memcpy(address->sun_path, path, strlen(path) + 1);
	return 0;
}

int fc_fork_listen(const char *path, struct fc_error *error) {
	struct sockaddr_un address;
	int r = address_of(path, &address);
	if (r < 0)
		return fc_error_set(error, -r, "listen", path, NULL, NULL);
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	/* The mode is the file's from its birth: bind(2) applies the mask. */
	mode_t mask = umask(0177);
	r = fd < 0 || bind(fd, (const struct sockaddr *)&address, sizeof address) < 0 || listen(fd, BACKLOG) < 0 ? errno
	                                                                                                         : 0;
	umask(mask);
	if (r)
		return fc_error_set(error, r, "listen", path, NULL, NULL);
	return fc_steal_fd(&fd);
}

/* ---- the server ---- */

struct request {
	int fds[FC_FORK_FDS];
	size_t fd_count;
	char *env; /* the strings, one after the other; the new process keeps them */
	size_t env_size;
};

static void close_fds(struct request *request) {
	for (size_t i = 0; i < request->fd_count; i++)
		close(request->fds[i]);
	request->fd_count = 0;
}

static bool is_ours(int connection) {
	struct ucred peer;
	socklen_t size = sizeof peer;
	return getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 &&
	       (peer.uid == 0 || peer.uid == geteuid());
}

static int receive(int connection, struct request *request) {
	struct timeval limit = {.tv_sec = SECONDS};
	if (setsockopt(connection, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) < 0)
		return -errno;
	ssize_t n = fc_io_recv_fds(connection, request->env, FC_FORK_ENV_MAX, request->fds, FC_FORK_FDS,
	                           &request->fd_count);
	if (n < 0)
		return (int)n;
	if (request->fd_count != FC_FORK_FDS || (n > 0 && request->env[n - 1] != '\0'))
		return -EPROTO;
	request->env_size = (size_t)n;
	return 0;
}

/* In the new process: its descriptors. Each is first moved out of the way of the others' numbers. */
static int place_fds(struct request *request) {
	for (int i = 0; i < FC_FORK_FDS; i++) {
		int fd = fcntl(request->fds[i], F_DUPFD_CLOEXEC, FC_FORK_FDS);
		if (fd < 0)
			return -errno;
		request->fds[i] = fd;
	}
	for (int i = 0; i < FC_FORK_FDS; i++) {
		if (dup2(request->fds[i], i) < 0)
			return -errno;
	}
	return close_range(FC_FORK_FDS, ~0U, 0) < 0 ? -errno : 0;
}

static int place_env(const struct request *request) {
	clearenv();
	for (size_t at = 0; at < request->env_size; at += strlen(request->env + at) + 1) {
		char *variable = request->env + at;
		if (strchr(variable, '=') && putenv(variable) != 0)
			return -ENOMEM;
	}
	return 0;
}

/* In the new process. What fails here leaves nobody to tell but the one who asked, by the end of the process. */
static void become(struct request *request) {
	sigset_t none;
	sigemptyset(&none);
	signal(SIGCHLD, SIG_DFL);
	sigprocmask(SIG_SETMASK, &none, NULL);
	setsid();
	if (place_fds(request) < 0 || place_env(request) < 0)
		_exit(71);
}

/* Returns 1 in the new process, else 0. */
static int serve_one(int connection, struct request *request) {
	struct fc_fork_answer answer = {0};
	_cleanup_close_ int pidfd = -1;
	/* Read in any case: a connection that is closed over what it has not read loses the answer. */
	int r = receive(connection, request);
	if (!is_ours(connection))
		r = -EPERM;
	pid_t pid = r == 0 ? fork() : 0;
	if (r == 0 && pid == 0)
		return 1;
	if (pid < 0)
		r = -errno;
	/* Its number cannot be another's meanwhile: we have not waited for it. */
	if (r == 0)
		pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (r == 0 && pidfd < 0) {
		r = -errno;
		kill(pid, SIGKILL);
	}
	answer.pid = r == 0 ? pid : 0;
	answer.error = -r;
	/* Whoever does not wait for the answer does not own the process either: its end is by its descriptors. */
	fc_io_send_fds(connection, &answer, sizeof answer, &pidfd, pidfd >= 0 ? 1 : 0);
	return 0;
}

static void on_child(int number) {
	(void)number;
}

static void reap(void) {
	while (waitpid(-1, NULL, WNOHANG) > 0)
		;
}

int fc_fork_serve(int listener, struct fc_error *error) {
	struct sigaction action = {.sa_handler = on_child};
	sigset_t child;
	sigset_t open;
	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	if (sigaction(SIGCHLD, &action, NULL) < 0 || sigprocmask(SIG_BLOCK, &child, &open) < 0)
		return fc_error_set(error, errno, "serve forks", NULL, NULL, NULL);
	sigdelset(&open, SIGCHLD);
	struct request request = {.env = malloc(FC_FORK_ENV_MAX)};
	if (!request.env)
		return fc_error_set(error, ENOMEM, "serve forks", NULL, NULL, NULL);
	for (;;) {
		struct pollfd ready = {.fd = listener, .events = POLLIN};
		/* SIGCHLD comes in here alone, so that no end is missed. */
		int n = ppoll(&ready, 1, NULL, &open);
		int err = errno;
		reap();
		if (n < 0 && err != EINTR)
			return fc_error_set(error, err, "serve forks", NULL, NULL, NULL);
		int connection = n > 0 ? accept4(listener, NULL, NULL, SOCK_CLOEXEC) : -1;
		if (connection < 0)
			continue;
		if (serve_one(connection, &request) == 1) {
			become(&request);
			return 1;
		}
		close(connection);
		close_fds(&request);
	}
}

/* ---- who asks ---- */

int fc_fork_ask(const char *path, const int *fds, const char *env, size_t env_size, struct fc_error *error) {
	struct sockaddr_un address;
	int r = env_size > FC_FORK_ENV_MAX ? -E2BIG : address_of(path, &address);
	if (r < 0)
		return fc_error_set(error, -r, "ask for a fork", path, NULL, NULL);
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || connect(fd, (const struct sockaddr *)&address, sizeof address) < 0)
		r = -errno;
	if (r == 0)
		r = fc_io_send_fds(fd, env, env_size, fds, FC_FORK_FDS);
	if (r < 0)
		return fc_error_set(error, -r, "ask for a fork", path, NULL, NULL);
	return fc_steal_fd(&fd);
}

int fc_fork_answer_read(int connection, int32_t *ret_pid, struct fc_error *error) {
	struct fc_fork_answer answer;
	_cleanup_close_ int pidfd = -1;
	ssize_t n = fc_io_recv_fd(connection, &answer, sizeof answer, &pidfd);
	int r = n < 0 ? (int)-n : n == 0 ? EPIPE : n != sizeof answer || answer.error < 0 ? EPROTO : answer.error;
	if (r == 0 && (answer.pid <= 0 || pidfd < 0))
		r = EPROTO;
	if (r)
		return fc_error_set(error, r, "ask for a fork", NULL, NULL, NULL);
	*ret_pid = answer.pid;
	return fc_steal_fd(&pidfd);
}
