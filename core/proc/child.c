// SPDX-License-Identifier: Apache-2.0
/*
 * core/proc/child.c: what runs in the new processes of a start. Async-signal-safe calls alone: no allocation, no stdio,
 * no error objects. It returns to nobody: a step that fails is written into the report pipe.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "proc/spawn_internal.h"

enum {
	NOT_STARTED = 127, /* exit status of a process that reported a failure; nobody looks at it */
	SIGNALS = 64,
	/* Room for the kernel's struct sigaction of any architecture, whose layout the C library hides. */
	SIGACTION_ROOM = 64,
};

pid_t fc_clone(uint64_t flags, int signal, int *ret_pidfd) {
	struct clone_args arguments;
	memset(&arguments, 0, sizeof arguments);
	arguments.flags = flags | CLONE_PIDFD;
	arguments.pidfd = (uint64_t)(uintptr_t)ret_pidfd;
	arguments.exit_signal = (unsigned)signal;
	return (pid_t)syscall(SYS_clone3, &arguments, sizeof arguments);
}

/* The C library's functions leave out signals 32 and 33, which are its own; hence the raw calls. */
void fc_signals_block(uint64_t *ret_old) {
	uint64_t all = ~(uint64_t)0;
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, ret_old, sizeof all);
}

void fc_signals_restore(uint64_t old) {
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &old, NULL, sizeof old);
}

static void reset_handlers(void) {
	const uint64_t zero[SIGACTION_ROOM / sizeof(uint64_t)] = {0}; /* SIG_DFL, no flags, nothing blocked */
	for (int number = 1; number <= SIGNALS; number++)
		syscall(SYS_rt_sigaction, number, zero, NULL, sizeof(uint64_t)); /* fails for SIGKILL and SIGSTOP */
}

static _Noreturn void fail(int report, enum fc_step step, int err, int detail) {
	const struct fc_report text = {.step = (int)step, .err = err, .detail = detail};
	/* Less than PIPE_BUF, so whole or not at all; and where nobody reads any more nobody needs it. */
	ssize_t n = write(report, &text, sizeof text);
	(void)n;
	_exit(NOT_STARTED);
}

/* That the parent may have died before PDEATHSIG was set is looked for after it. */
static void die_with_parent(int report, pid_t parent) {
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
		fail(report, FC_STEP_WATCH, errno, 0);
	if (getppid() != parent)
		_exit(NOT_STARTED);
}

static void enter_netns(const struct fc_setup *setup, int report) {
	int fd = open(setup->plan->netns, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		fail(report, FC_STEP_NETNS_OPEN, errno, 0);
	if (setns(fd, CLONE_NEWNET) < 0)
		fail(report, FC_STEP_NETNS, errno, 0);
	close(fd);
}

/* As a slave, so that what the host unmounts later is not kept by us. */
static void mount_proc(int report) {
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0 ||
	    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
		fail(report, FC_STEP_PROC, errno, 0);
}

/* Mounts that nobody else sees, gone with the process; files stay free to be removed by others. */
static void enter_root(const struct fc_spawn_plan *plan, int report) {
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
		fail(report, FC_STEP_ROOT, errno, 0);
	for (size_t i = 0; i < plan->bind_count; i++)
		if (mount(plan->binds[i].from, plan->binds[i].to, NULL, MS_BIND, NULL) < 0)
			fail(report, FC_STEP_BIND, errno, (int)i);
	if (chroot(plan->root) < 0 || chdir("/") < 0)
		fail(report, FC_STEP_ROOT, errno, 0);
}

/* Ambient ones: the only kind that execve(2) leaves to a user other than root (capabilities(7)). */
static void keep_capabilities(uint64_t wanted, int report) {
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];
	if (syscall(SYS_capget, &header, data) < 0)
		fail(report, FC_STEP_CAPABILITIES, errno, 0);
	for (int i = 0; i < _LINUX_CAPABILITY_U32S_3; i++)
		data[i].inheritable |= (uint32_t)(wanted >> (32 * i));
	if (syscall(SYS_capset, &header, data) < 0)
		fail(report, FC_STEP_CAPABILITIES, errno, 0);
	for (int number = 0; number < 64; number++)
		if ((wanted >> number & 1) && prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number, 0, 0) < 0)
			fail(report, FC_STEP_CAPABILITIES, errno, 0);
}

static bool is_listed(const struct fc_spawn_plan *plan, int number) {
	for (size_t i = 0; i < plan->fd_count; i++)
		if (plan->fds[i].child == number)
			return true;
	return false;
}

/* The first number above all that the child asks for: what lies there is in nobody's way. */
static int floor_of(const struct fc_spawn_plan *plan) {
	int floor = STDERR_FILENO + 1;
	for (size_t i = 0; i < plan->fd_count; i++)
		if (plan->fds[i].child >= floor)
			floor = plan->fds[i].child + 1;
	return floor;
}

static void fill_standard(const struct fc_spawn_plan *plan, int floor, int report) {
	int null = -1;
	for (int number = STDIN_FILENO; number <= STDERR_FILENO; number++) {
		if (is_listed(plan, number))
			continue;
		if (null < 0) {
			int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
			if (fd < 0 || (null = fcntl(fd, F_DUPFD_CLOEXEC, floor)) < 0)
				fail(report, FC_STEP_NULL, errno, 0);
		}
		if (dup2(null, number) < 0)
			fail(report, FC_STEP_NULL, errno, 0);
	}
}

/*
 * Gives the child its descriptors: all are first made close-on-exec, then each source is moved above all targets, then
 * to its place, so that no target overwrites a source. Returns the report's new number.
 */
static int map_descriptors(const struct fc_setup *setup) {
	const struct fc_spawn_plan *plan = setup->plan;
	int floor = floor_of(plan);
	int report = fcntl(setup->report, F_DUPFD_CLOEXEC, floor);
	if (report < 0)
		fail(setup->report, FC_STEP_CLOSE, errno, 0);
	if (close_range(0, ~0U, CLOSE_RANGE_CLOEXEC) < 0)
		fail(report, FC_STEP_CLOSE, errno, 0);
	for (size_t i = 0; i < plan->fd_count; i++) {
		setup->spare[i] = fcntl(plan->fds[i].parent, F_DUPFD_CLOEXEC, floor);
		if (setup->spare[i] < 0)
			fail(report, FC_STEP_FD, errno, plan->fds[i].parent);
	}
	fill_standard(plan, floor, report);
	for (size_t i = 0; i < plan->fd_count; i++)
		if (dup2(setup->spare[i], plan->fds[i].child) < 0)
			fail(report, FC_STEP_FD, errno, plan->fds[i].parent);
	return report;
}

static _Noreturn void execute(const struct fc_setup *setup, int report) {
	int err = ENOENT;
	for (char *const *program = setup->programs; *program; program++) {
		execve(*program, setup->plan->argv, setup->env);
		if (errno == EACCES || !setup->programs[1])
			err = errno;
		else if (errno != ENOENT && errno != ENOTDIR)
			fail(report, FC_STEP_EXEC, errno, 0);
	}
	fail(report, FC_STEP_EXEC, err, 0);
}

/* Everything that both kinds of child do, after they have seen to it that they die with their parent. */
static _Noreturn void become_program(const struct fc_setup *setup) {
	const struct fc_spawn_plan *plan = setup->plan;
	if (plan->session && setsid() < 0)
		fail(setup->report, FC_STEP_SESSION, errno, 0);
	/* Before /proc is another one: the path may lie in it. */
	if (plan->netns)
		enter_netns(setup, setup->report);
	if (plan->proc_mount)
		mount_proc(setup->report);
	int report = map_descriptors(setup);
	if (plan->root)
		enter_root(plan, report);
	if (plan->cwd && chdir(plan->cwd) < 0)
		fail(report, FC_STEP_CWD, errno, 0);
	if (plan->umask >= 0)
		umask((mode_t)plan->umask);
	if (plan->capabilities)
		keep_capabilities(plan->capabilities, report);
	fc_signals_restore(0);
	execute(setup, report);
}

_Noreturn void fc_child_main(const struct fc_setup *setup) {
	reset_handlers();
	die_with_parent(setup->report, setup->parent);
	become_program(setup);
}

static bool is_parent_gone(int status) {
	struct pollfd look = {.fd = status, .events = 0};
	return poll(&look, 1, 0) != 0;
}

/*
 * PDEATHSIG of the init, whose getppid() is always 0. A process closes its descriptors before it tells its children of
 * its end, so where PDEATHSIG came too late the socket has ended.
 */
static void die_with_outer_parent(const struct fc_setup *setup) {
	close(setup->ours); /* with a duplicate of the other end the socket would never end */
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
		fail(setup->report, FC_STEP_WATCH, errno, 0);
	if (is_parent_gone(setup->status))
		_exit(NOT_STARTED);
}

/* Sends the program's PID, which the kernel makes ours on the way, and its pidfd. */
static int introduce(int status, pid_t pid, int pidfd) {
	union {
		char buffer[CMSG_SPACE(sizeof(int)) + CMSG_SPACE(sizeof(struct ucred))];
		struct cmsghdr align;
	} control;
	memset(&control, 0, sizeof control);
	struct fc_status text = {.code = FC_STATUS_INTRODUCTION};
	struct iovec part = {.iov_base = &text, .iov_len = sizeof text};
	struct msghdr message = {.msg_iov = &part,
	                         .msg_iovlen = 1,
	                         .msg_control = control.buffer,
	                         .msg_controllen = sizeof control.buffer};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof pidfd);
	memcpy(CMSG_DATA(header), &pidfd, sizeof pidfd);
	header = CMSG_NXTHDR(&message, header);
	const struct ucred who = {.pid = pid, .uid = geteuid(), .gid = getegid()};
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_CREDENTIALS;
	header->cmsg_len = CMSG_LEN(sizeof who);
	memcpy(CMSG_DATA(header), &who, sizeof who);
	return sendmsg(status, &message, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

/* Reaps whatever has ended. Where that was the program, its status is sent, and the init's end is everybody's. */
static void reap(int status, pid_t program) {
	for (;;) {
		siginfo_t info;
		info.si_pid = 0;
		if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | __WALL) < 0 || info.si_pid == 0)
			return;
		if (info.si_pid == program) {
			const struct fc_status text = {.code = info.si_code, .status = info.si_status};
			send(status, &text, sizeof text, MSG_NOSIGNAL);
			_exit(0);
		}
	}
}

/* Lets go of everything but the two descriptors that the init lives by, as 0 and 1; also of its directory's mount. */
static void keep_only(int status, int signals) {
	int high_status = fcntl(status, F_DUPFD_CLOEXEC, 2);
	int high_signals = fcntl(signals, F_DUPFD_CLOEXEC, 2);
	if (high_status < 0 || high_signals < 0 || dup2(high_status, 0) < 0 || dup2(high_signals, 1) < 0)
		_exit(NOT_STARTED);
	close_range(2, ~0U, 0);
	if (chdir("/") < 0)
		_exit(NOT_STARTED);
}

static _Noreturn void watch(pid_t program) {
	struct pollfd on[2] = {{.fd = 0}, {.fd = 1, .events = POLLIN}};
	for (;;) {
		reap(0, program);
		if (poll(on, 2, -1) < 0 && errno != EINTR)
			_exit(NOT_STARTED);
		if (on[0].revents) /* nobody sends anything: it is the end of our parent, or of its interest */
			_exit(NOT_STARTED);
		struct signalfd_siginfo info;
		if (on[1].revents && read(1, &info, sizeof info) < 0 && errno != EAGAIN && errno != EINTR)
			_exit(NOT_STARTED);
	}
}

_Noreturn void fc_child_init(const struct fc_setup *setup) {
	reset_handlers();
	die_with_outer_parent(setup);
	prctl(PR_SET_NAME, "fcvm-init");
	int pidfd = -1;
	pid_t program = fc_clone(0, SIGCHLD, &pidfd);
	if (program < 0)
		fail(setup->report, FC_STEP_FORK, errno, 0);
	if (program == 0) {
		/* The init's end ends us whatever we do; this is for the moment in which it does. */
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		become_program(setup);
	}
	int r = introduce(setup->status, program, pidfd);
	if (r < 0)
		fail(setup->report, FC_STEP_INTRODUCE, -r, 0);
	sigset_t ended;
	sigemptyset(&ended);
	sigaddset(&ended, SIGCHLD);
	int signals = signalfd(-1, &ended, SFD_CLOEXEC | SFD_NONBLOCK);
	if (signals < 0)
		fail(setup->report, FC_STEP_FORK, errno, 0);
	keep_only(setup->status, signals);
	watch(program);
}
