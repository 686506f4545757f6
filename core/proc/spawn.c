// SPDX-License-Identifier: Apache-2.0
#include "proc/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "proc/spawn_internal.h"

struct fc_child {
	pid_t pid;   /* the program's */
	int outer;   /* pidfd of our own child: the program, or its init */
	int program; /* pidfd of the contained program; -1 without an init */
	int status;  /* our end of the init's socket; -1 without */
	bool ended;
	struct fc_exit how;
};

static const char DEFAULT_PATH[] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
static const char CONTAIN_HINT[] = "a PID namespace takes root, or a user namespace of one's own";

static const char *path_of(char *const *env) {
	for (; *env; env++)
		if (strncmp(*env, "PATH=", 5) == 0)
			return *env + 5;
	return NULL;
}

/*
 * Where `name` may be: a NULL-terminated list in one allocation, its strings behind its pointers. Relative and empty
 * elements of PATH are passed over: they would run what lies in whatever directory we happen to be in.
 */
static char **list_programs(const char *name, const char *path) {
	size_t count = 1;
	for (const char *p = path; *p; p++)
		count += *p == ':';
	size_t name_size = strlen(name) + 1;
	char **list = malloc((count + 1) * sizeof *list + strlen(path) + 1 + count * (name_size + 1));
	if (!list)
		return NULL;
	char *text = (char *)(list + count + 1);
	size_t used = 0;
	if (strchr(name, '/')) {
		list[used++] = memcpy(text, name, name_size);
		path = "";
	}
	while (name_size > 1 && *path) {
		size_t length = strcspn(path, ":");
		if (*path == '/') {
			list[used++] = text;
			memcpy(text, path, length);
			text[length] = '/';
			memcpy(text + length + 1, name, name_size);
			text += length + 1 + name_size;
		}
		path += length + (path[length] == ':');
	}
	list[used] = NULL;
	return list;
}

static const struct {
	const char *op;
	const char *hint;
} steps[] = {
        [FC_STEP_WATCH] = {"watch parent of", NULL},
        [FC_STEP_FORK] = {"start process for", NULL},
        [FC_STEP_INTRODUCE] = {"learn PID of", CONTAIN_HINT},
        [FC_STEP_SESSION] = {"start session for", NULL},
        [FC_STEP_NETNS_OPEN] = {"open network namespace", NULL},
        [FC_STEP_NETNS] = {"enter network namespace", NULL},
        [FC_STEP_PROC] = {"mount /proc for", NULL},
        [FC_STEP_BIND] = {"show", NULL},
        [FC_STEP_ROOT] = {"close into", "it takes root, or a user namespace of one's own"},
        [FC_STEP_CAPABILITIES] = {"keep capabilities for", "they must be this process's own"},
        [FC_STEP_CWD] = {"enter directory", NULL},
        [FC_STEP_NULL] = {"open /dev/null for", NULL},
        [FC_STEP_CLOSE] = {"close descriptors for", "Linux 5.11 or newer is needed"},
        [FC_STEP_FD] = {"pass descriptor", NULL},
        [FC_STEP_EXEC] = {"execute", NULL},
};

static const char *subject_of(const struct fc_spawn_plan *plan, const struct fc_report *report, char *number,
                              size_t size) {
	switch (report->step) {
	case FC_STEP_NETNS_OPEN:
	case FC_STEP_NETNS:
		return plan->netns;
	case FC_STEP_CWD:
		return plan->cwd;
	case FC_STEP_BIND:
		return plan->binds[report->detail].from;
	case FC_STEP_ROOT:
		return plan->root;
	case FC_STEP_FD:
		snprintf(number, size, "%d", report->detail);
		return number;
	default:
		return plan->argv[0];
	}
}

/* The one ENOENT that nobody understands: the program is there, its interpreter is not. */
static const char *hint_of(const struct fc_spawn_plan *plan, const struct fc_report *report) {
	if (report->step == FC_STEP_EXEC && report->err == ENOENT && !plan->cwd && !plan->root &&
	    strchr(plan->argv[0], '/') && access(plan->argv[0], F_OK) == 0)
		return "the file is there, but not the interpreter that it names";
	if (report->step == FC_STEP_NETNS && report->err == EPERM)
		return "entering a network namespace takes root";
	return steps[report->step].hint;
}

static int tell_failure(const struct fc_spawn_plan *plan, const struct fc_report *report, struct fc_error *error) {
	char number[16];
	if (report->step < 0 || (size_t)report->step >= sizeof steps / sizeof *steps)
		return fc_error_set(error, EPROTO, "start", plan->argv[0], NULL, NULL);
	return fc_error_set(error, report->err, steps[report->step].op, subject_of(plan, report, number, sizeof number),
	                    hint_of(plan, report), NULL);
}

/* Where SIGCHLD is ignored the kernel throws a child's status away. The init's status comes by its socket instead. */
static int check_status_kept(const struct fc_spawn_plan *plan, struct fc_error *error) {
	struct sigaction action;
	if (plan->contain || sigaction(SIGCHLD, NULL, &action) < 0)
		return 0;
	if (action.sa_handler != SIG_IGN && !(action.sa_flags & SA_NOCLDWAIT))
		return 0;
	return fc_error_set(error, EINVAL, "start", plan->argv[0], "set SIGCHLD to its default first",
	                    "this process ignores SIGCHLD, which would lose the program's exit status");
}

/* Before we open any of our own: one of those could have the number of a source that is not open. */
static int check_fds(const struct fc_spawn_plan *plan, struct fc_error *error) {
	char number[16];
	for (size_t i = 0; i < plan->fd_count; i++) {
		const struct fc_spawn_fd *fd = &plan->fds[i];
		snprintf(number, sizeof number, "%d", fd->parent);
		if (fd->child < 0)
			return fc_error_set(error, EINVAL, "pass descriptor", number, NULL, "%d is no number for one",
			                    fd->child);
		if (fcntl(fd->parent, F_GETFD) < 0)
			return fc_error_set(error, errno, "pass descriptor", number, NULL, NULL);
		for (size_t j = 0; j < i; j++)
			if (fd->child == plan->fds[j].child)
				return fc_error_set(error, EINVAL, "pass descriptor", number, NULL, "%d is given twice",
				                    fd->child);
	}
	return 0;
}

static int check_plan(const struct fc_spawn_plan *plan, struct fc_error *error) {
	if (!plan->argv || !plan->argv[0])
		return fc_error_set(error, EINVAL, "start", NULL, NULL, "no program is named");
	if (plan->proc_mount && !plan->contain)
		return fc_error_set(error, EINVAL, "start", plan->argv[0], NULL,
		                    "a /proc of its own is for a contained program");
	int r = check_fds(plan, error);
	if (r < 0)
		return r;
	return check_status_kept(plan, error);
}

/* Waits until the process behind `pidfd` has ended, and reaps it. */
static void reap_blocking(int pidfd) {
	siginfo_t info;
	while (waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED | __WALL) < 0) {
		/* An event loop that polls a pidfd makes it non-blocking, and waitid then says EAGAIN. */
		struct pollfd ended = {.fd = pidfd, .events = POLLIN};
		if (errno == EAGAIN)
			poll(&ended, 1, -1);
		else if (errno != EINTR)
			return;
	}
}

/* The channels of one start; each end is closed with it where it was not given away. */
struct channels {
	int report[2];
	int status[2];
};

static void close_channels(const struct channels *channels) {
	for (int i = 0; i < 2; i++) {
		fc_cleanup_close(&channels->report[i]);
		fc_cleanup_close(&channels->status[i]);
	}
}

static int open_channels(const struct fc_spawn_plan *plan, struct channels *channels, struct fc_error *error) {
	if (pipe2(channels->report, O_CLOEXEC) < 0)
		return fc_error_set(error, errno, "make pipe for", plan->argv[0], NULL, NULL);
	if (!plan->contain)
		return 0;
	int yes = 1;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, channels->status) < 0 ||
	    setsockopt(channels->status[0], SOL_SOCKET, SO_PASSCRED, &yes, sizeof yes) < 0)
		return fc_error_set(error, errno, "make socket for", plan->argv[0], NULL, NULL);
	return 0;
}

/*
 * Clones us with every signal blocked, so that none of our handlers runs in the child. No signal is sent at the end of
 * the new process until it executes something (the kernel then makes it SIGCHLD): the init's end is nobody else's
 * business.
 */
static pid_t start(const struct fc_setup *setup, int *ret_pidfd) {
	uint64_t old;
	fc_signals_block(&old);
	pid_t pid = fc_clone(setup->plan->contain ? CLONE_NEWPID : 0, 0, ret_pidfd);
	if (pid == 0) {
		if (setup->plan->contain)
			fc_child_init(setup);
		fc_child_main(setup);
	}
	int saved = errno;
	fc_signals_restore(old);
	errno = saved;
	return pid;
}

static int tell_clone_failure(const struct fc_spawn_plan *plan, int err, struct fc_error *error) {
	const char *hint = NULL;
	if (err == EPERM && plan->contain)
		hint = CONTAIN_HINT;
	else if (err == ENOSYS)
		hint = "clone3 is missing: an old kernel, or a container's seccomp filter";
	return fc_error_set(error, err, "start process for", plan->argv[0], hint, NULL);
}

static void take_control(struct msghdr *message, pid_t *pid, int *pidfd) {
	for (struct cmsghdr *header = CMSG_FIRSTHDR(message); header; header = CMSG_NXTHDR(message, header)) {
		if (header->cmsg_level != SOL_SOCKET)
			continue;
		if (header->cmsg_type == SCM_RIGHTS && header->cmsg_len == CMSG_LEN(sizeof *pidfd)) {
			memcpy(pidfd, CMSG_DATA(header), sizeof *pidfd);
		} else if (header->cmsg_type == SCM_CREDENTIALS && header->cmsg_len == CMSG_LEN(sizeof(struct ucred))) {
			struct ucred who;
			memcpy(&who, CMSG_DATA(header), sizeof who);
			*pid = who.pid;
		}
	}
}

/* The init's introduction of the program, which was sent before the report's end. */
static int meet_program(struct fc_child *child) {
	union {
		char buffer[CMSG_SPACE(sizeof(int)) + CMSG_SPACE(sizeof(struct ucred))];
		struct cmsghdr align;
	} control;
	struct fc_status text = {.code = 0};
	struct iovec part = {.iov_base = &text, .iov_len = sizeof text};
	struct msghdr message = {.msg_iov = &part,
	                         .msg_iovlen = 1,
	                         .msg_control = control.buffer,
	                         .msg_controllen = sizeof control.buffer};
	ssize_t n;
	do
		n = recvmsg(child->status, &message, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	pid_t pid = 0;
	take_control(&message, &pid, &child->program);
	if (n != (ssize_t)sizeof text || text.code != FC_STATUS_INTRODUCTION || pid <= 0 || child->program < 0)
		return -EPROTO;
	child->pid = pid;
	return 0;
}

/* Reads the report to its end: a failure, or the program runs. */
static int hear_report(const struct fc_spawn_plan *plan, int fd, struct fc_child *child, struct fc_error *error) {
	struct fc_report report;
	ssize_t n = fc_io_read_full(fd, &report, sizeof report);
	if (n == (ssize_t)sizeof report)
		return tell_failure(plan, &report, error);
	if (n != 0)
		return fc_error_set(error, n < 0 ? (int)-n : EPROTO, "start", plan->argv[0], NULL, NULL);
	if (!plan->contain)
		return 0;
	int r = meet_program(child);
	if (r < 0)
		return fc_error_set(error, -r, "start", plan->argv[0], NULL, "its init ended before it could start it");
	return 0;
}

static int spawn_with(struct fc_setup *setup, struct channels *channels, struct fc_child *child,
                      struct fc_error *error) {
	int r = open_channels(setup->plan, channels, error);
	if (r < 0)
		return r;
	setup->report = channels->report[1];
	setup->status = channels->status[1];
	setup->ours = channels->status[0];
	child->pid = start(setup, &child->outer);
	if (child->pid < 0) {
		child->outer = -1;
		return tell_clone_failure(setup->plan, errno, error);
	}
	close(fc_steal_fd(&channels->report[1]));
	if (channels->status[1] >= 0)
		close(fc_steal_fd(&channels->status[1]));
	child->status = fc_steal_fd(&channels->status[0]);
	return hear_report(setup->plan, channels->report[0], child, error);
}

static void cleanup_child(struct fc_child **child) {
	fc_child_free(*child);
}

int fc_spawn(const struct fc_spawn_plan *plan, struct fc_child **ret_child, struct fc_error *error) {
	int r = check_plan(plan, error);
	if (r < 0)
		return r;
	char *const *env = plan->env ? plan->env : environ;
	const char *path = path_of(env);
	if (!path)
		path = getenv("PATH");
	_cleanup_free_ char **programs = list_programs(plan->argv[0], path ? path : DEFAULT_PATH);
	_cleanup_free_ int *spare = calloc(plan->fd_count + 1, sizeof *spare);
	__attribute__((cleanup(cleanup_child))) struct fc_child *child = calloc(1, sizeof *child);
	if (child)
		child->outer = child->program = child->status = -1;
	if (!programs || !spare || !child)
		return fc_error_set(error, ENOMEM, "start", plan->argv[0], NULL, NULL);
	struct fc_setup setup = {.plan = plan, .programs = programs, .env = env, .spare = spare, .parent = getpid()};
	struct channels channels = {.report = {-1, -1}, .status = {-1, -1}};
	r = spawn_with(&setup, &channels, child, error);
	close_channels(&channels);
	if (r < 0)
		return r;
	*ret_child = fc_steal_ptr(child);
	return 0;
}

pid_t fc_child_pid(const struct fc_child *child) {
	return child->pid;
}

int fc_child_fileno(const struct fc_child *child) {
	return child->outer;
}

static struct fc_exit exit_of(int code, int status) {
	return (struct fc_exit){.signalled = code != CLD_EXITED, .code = status};
}

/* How the program below an ended init ended: what the init sent last; nothing where it was killed itself. */
static struct fc_exit last_status(const struct fc_child *child) {
	struct fc_status text;
	ssize_t n = recv(child->status, &text, sizeof text, MSG_DONTWAIT);
	if (n == (ssize_t)sizeof text && text.code != FC_STATUS_INTRODUCTION)
		return exit_of(text.code, text.status);
	return exit_of(CLD_KILLED, SIGKILL);
}

int fc_child_wait(struct fc_child *child, struct fc_exit *ret_exit, struct fc_error *error) {
	if (!child->ended) {
		siginfo_t info;
		info.si_pid = 0;
		if (waitid(P_PIDFD, (id_t)child->outer, &info, WEXITED | WNOHANG | __WALL) < 0)
			return fc_error_set(error, errno, "wait for", NULL, NULL,
			                    "the status of process %d was taken by someone else", (int)child->pid);
		if (info.si_pid == 0)
			return 0;
		child->how = child->status >= 0 ? last_status(child) : exit_of(info.si_code, info.si_status);
		child->ended = true;
	}
	*ret_exit = child->how;
	return 1;
}

int fc_child_kill(struct fc_child *child, int signal, struct fc_error *error) {
	int fd = child->program >= 0 ? child->program : child->outer;
	if (!child->ended && pidfd_send_signal(fd, signal, NULL, 0) == 0)
		return 0;
	int err = child->ended ? ESRCH : errno;
	return fc_error_set(error, err, "signal", NULL, NULL, "process %d: %s", (int)child->pid, strerror(err));
}

void fc_child_free(struct fc_child *child) {
	if (!child)
		return;
	if (child->outer >= 0 && !child->ended) {
		/* One that may not be killed (a setuid program, and we are not root) would be waited for without end.
		 */
		if (pidfd_send_signal(child->outer, SIGKILL, NULL, 0) == 0 || errno == ESRCH)
			reap_blocking(child->outer);
	}
	fc_cleanup_close(&child->outer);
	fc_cleanup_close(&child->program);
	fc_cleanup_close(&child->status);
	free(child);
}
