// SPDX-License-Identifier: Apache-2.0
/* core/proc/fork_server: real processes, asked for as they should be and as they should not. Every wait has a limit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "proc/fork_server.h"

enum { LIMIT_MS = 20000, NOBODY = 65534, MORE = 7 };

static char directory[] = "/tmp/fcvm-fork.XXXXXX";
static char path[sizeof directory + 8];
static pid_t server;

/* What a new process does: it tells of itself on descriptor 1, then waits for the end of descriptor 0. */
static _Noreturn void tell(void) {
	int count = 0;
	DIR *open_ones = opendir("/proc/self/fd");
	while (open_ones && readdir(open_ones))
		count++;
	sigset_t blocked;
	sigprocmask(SIG_SETMASK, NULL, &blocked);
	struct sigaction child;
	sigaction(SIGCHLD, NULL, &child);
	const char *word = getenv("WORD");
	/* Less "." and ".." and the directory's own. */
	dprintf(1, "%s fds=%d leader=%d blocked=%d default=%d home=%s\n", word ? word : "none", count - 3,
	        getsid(0) == getpid(), sigismember(&blocked, SIGCHLD), child.sa_handler == SIG_DFL,
	        getenv("HOME") ? "set" : "unset");
	char byte;
	while (read(0, &byte, 1) > 0)
		;
	_exit(0);
}

static int set_up(void **state) {
	(void)state;
	strcpy(directory + strlen(directory) - 6, "XXXXXX");
	assert_non_null(mkdtemp(directory));
	snprintf(path, sizeof path, "%s/s", directory);
	setenv("HOME", "/root", 1);
	server = fork();
	if (server == 0) {
		struct fc_error error;
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		int listener = fc_fork_listen(path, &error);
		if (listener < 0 || fc_fork_serve(listener, &error) < 0)
			_exit(70);
		tell();
	}
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	strcpy(address.sun_path, path);
	/* The file is there a moment before the server listens. */
	for (int i = 0; i < LIMIT_MS && connect(fd, (struct sockaddr *)&address, sizeof address) < 0; i++)
		usleep(1000);
	struct stat stat;
	assert_int_equal(lstat(path, &stat), 0);
	assert_int_equal(stat.st_mode & 07777, 0600);
	return 0;
}

static int tear_down(void **state) {
	(void)state;
	if (server > 0) {
		kill(server, SIGKILL);
		waitpid(server, NULL, 0);
	}
	unlink(path);
	rmdir(directory);
	return 0;
}

static void await(int fd) {
	struct pollfd ready = {.fd = fd, .events = POLLIN};
	assert_int_equal(poll(&ready, 1, LIMIT_MS), 1);
}

/* What a process that was asked for is seen by. */
struct forked {
	int pidfd, in, out;
	int32_t pid;
};

/* Asks with this environment; returns 0 or the error. */
static int ask(const char *env, size_t size, struct forked *forked) {
	int in[2], out[2];
	struct fc_error error;
	assert_int_equal(pipe2(in, O_CLOEXEC) | pipe2(out, O_CLOEXEC), 0);
	/* The same one more than once is fine. */
	const int fds[FC_FORK_FDS] = {in[0], out[1], 2, out[1], in[0], 2};
	_cleanup_close_ int connection = fc_fork_ask(path, fds, env, size, &error);
	int r = connection;
	if (connection >= 0) {
		await(connection);
		r = fc_fork_answer_read(connection, &forked->pid, &error);
	}
	close(in[0]);
	close(out[1]);
	forked->pidfd = r;
	forked->in = in[1];
	forked->out = out[0];
	if (r >= 0)
		return 0;
	close(in[1]);
	close(out[0]);
	return r;
}

static void end(struct forked *forked) {
	close(forked->in);
	await(forked->pidfd);
	close(forked->pidfd);
	close(forked->out);
}

static void assert_works(void) {
	static const char env[] = "WORD=one\0OTHER=x";
	struct forked forked;
	char line[128] = "";
	assert_int_equal(ask(env, sizeof env, &forked), 0);
	assert_true(forked.pid > 0 && forked.pid != server);
	await(forked.out);
	assert_true(read(forked.out, line, sizeof line - 1) > 0);
	assert_string_equal(line, "one fds=6 leader=1 blocked=0 default=1 home=unset\n");
	end(&forked);
}

static void a_process_has_what_was_asked_for(void **state) {
	(void)state;
	assert_works();
	assert_works();
	struct forked none;
	assert_int_equal(ask("", 0, &none), 0);
	end(&none);
}

static void many_at_once_are_different_and_leave_nothing(void **state) {
	(void)state;
	enum { MANY = 40 };
	struct forked all[MANY];
	for (int i = 0; i < MANY; i++) {
		assert_int_equal(ask("A=b", 4, &all[i]), 0);
		for (int k = 0; k < i; k++)
			assert_int_not_equal(all[k].pid, all[i].pid);
	}
	for (int i = 0; i < MANY; i++)
		end(&all[i]);
	/* The server has waited for each, without being asked again. */
	char name[64];
	struct stat stat;
	for (int i = 0; i < MANY; i++) {
		snprintf(name, sizeof name, "/proc/%d", all[i].pid);
		for (int k = 0; k < LIMIT_MS && lstat(name, &stat) == 0; k++)
			usleep(1000);
		assert_int_equal(lstat(name, &stat), -1);
	}
}

/* Sends one message with `fd_count` descriptors; returns the answer's error, or EPIPE where none came. */
static int send_raw(const void *data, size_t size, int fd_count) {
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	union {
		char bytes[CMSG_SPACE(MORE * sizeof(int))];
		struct cmsghdr aligned;
	} control = {0};
	struct iovec iov = {.iov_base = (void *)(uintptr_t)data, .iov_len = size};
	struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	strcpy(address.sun_path, path);
	assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
	if (fd_count > 0) {
		const int fds[MORE] = {2, 2, 2, 2, 2, 2, 2};
		message.msg_control = &control;
		message.msg_controllen = CMSG_SPACE((size_t)fd_count * sizeof(int));
		struct cmsghdr *part = CMSG_FIRSTHDR(&message);
		part->cmsg_level = SOL_SOCKET;
		part->cmsg_type = SCM_RIGHTS;
		part->cmsg_len = CMSG_LEN((size_t)fd_count * sizeof(int));
		memcpy(CMSG_DATA(part), fds, (size_t)fd_count * sizeof(int));
	}
	int buffer = 1 << 20;
	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &buffer, sizeof buffer);
	assert_true(sendmsg(fd, &message, MSG_NOSIGNAL) >= 0);
	struct fc_error error;
	int32_t pid;
	await(fd);
	int r = fc_fork_answer_read(fd, &pid, &error);
	if (r >= 0)
		close(r);
	return r < 0 ? -r : 0;
}

static void what_makes_no_sense_is_refused(void **state) {
	(void)state;
	static char much[FC_FORK_ENV_MAX + 1];
	assert_int_equal(send_raw("A=b", 4, 0), EPROTO);
	assert_int_equal(send_raw("A=b", 4, FC_FORK_FDS - 1), EPROTO);
	assert_int_equal(send_raw("A=b", 4, MORE), EPROTO);
	assert_int_equal(send_raw("A=b", 3, FC_FORK_FDS), EPROTO);
	memset(much, 'x', sizeof much);
	much[sizeof much - 1] = '\0';
	assert_int_equal(send_raw(much, sizeof much, FC_FORK_FDS), EPROTO);
	struct fc_error error;
	const int fds[FC_FORK_FDS] = {2, 2, 2, 2, 2, 2};
	assert_int_equal(fc_fork_ask(path, fds, much, sizeof much, &error), -E2BIG);
	assert_works();
}

static void silence_holds_up_nobody_for_long(void **state) {
	(void)state;
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	_cleanup_close_ int silent = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	strcpy(address.sun_path, path);
	assert_int_equal(connect(silent, (struct sockaddr *)&address, sizeof address), 0);
	assert_works();
}

static void others_are_refused(void **state) {
	(void)state;
	if (geteuid() != 0)
		skip();
	assert_int_equal(chmod(directory, 0755) | chmod(path, 0666), 0);
	pid_t other = fork();
	if (other == 0)
		_exit(setgid(NOBODY) == 0 && setuid(NOBODY) == 0 ? send_raw("A=b", 4, FC_FORK_FDS) : 99);
	int status;
	assert_int_equal(waitpid(other, &status, 0), other);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), EPERM);
	assert_works();
}

static void its_end_is_told(void **state) {
	(void)state;
	struct forked forked;
	struct fc_error error;
	const int fds[FC_FORK_FDS] = {2, 2, 2, 2, 2, 2};
	assert_int_equal(ask("A=b", 4, &forked), 0);
	assert_int_equal(kill(server, SIGSTOP), 0);
	_cleanup_close_ int waiting = fc_fork_ask(path, fds, "A=b", 4, &error);
	assert_true(waiting >= 0);
	int32_t pid;
	assert_int_equal(fc_fork_answer_read(waiting, &pid, &error), -EAGAIN);
	kill(server, SIGKILL);
	waitpid(server, NULL, 0);
	server = 0;
	await(waiting);
	int r = fc_fork_answer_read(waiting, &pid, &error);
	assert_true(r == -EPIPE || r == -ECONNRESET);
	assert_int_equal(ask("A=b", 4, &(struct forked){0}), -ECONNREFUSED);
	unlink(path);
	assert_int_equal(ask("A=b", 4, &(struct forked){0}), -ENOENT);
	/* What it made goes on. */
	struct pollfd ended = {.fd = forked.pidfd, .events = POLLIN};
	assert_int_equal(poll(&ended, 1, 0), 0);
	end(&forked);
}

static void a_path_that_is_too_long_is_an_error(void **state) {
	(void)state;
	char longest[200];
	struct fc_error error;
	memset(longest, 'x', sizeof longest);
	longest[0] = '/';
	longest[sizeof longest - 1] = '\0';
	assert_int_equal(fc_fork_listen(longest, &error), -ENAMETOOLONG);
	assert_int_equal(fc_fork_listen("/nowhere/s", &error), -ENOENT);
}

int main(void) {
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test_setup_teardown(a_process_has_what_was_asked_for, set_up, tear_down),
	        cmocka_unit_test_setup_teardown(many_at_once_are_different_and_leave_nothing, set_up, tear_down),
	        cmocka_unit_test_setup_teardown(what_makes_no_sense_is_refused, set_up, tear_down),
	        cmocka_unit_test_setup_teardown(silence_holds_up_nobody_for_long, set_up, tear_down),
	        cmocka_unit_test_setup_teardown(others_are_refused, set_up, tear_down),
	        cmocka_unit_test_setup_teardown(its_end_is_told, set_up, tear_down),
	        cmocka_unit_test(a_path_that_is_too_long_is_an_error),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
