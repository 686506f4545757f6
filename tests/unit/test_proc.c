// SPDX-License-Identifier: Apache-2.0
// link: -Wl,--wrap=prctl -Wl,--wrap=flock
/*
 * core/proc with real processes: this program is also what they execute (see `roles`). What must have died is seen by a
 * pipe that it alone held: its end is the holder's end. Every wait has a limit.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/io.h"
#include "proc/descriptor.h"
#include "proc/identity.h"
#include "proc/lock.h"
#include "proc/spawn.h"

enum { LIMIT_MS = 20000, NOBODY = 65534, OUT = 3 };

static char self[PATH_MAX];

/* ---- what this program does as somebody's child ---- */

/* Says that it is there on descriptor 3, and stays. */
static _Noreturn void hold(void) {
	if (write(OUT, "+", 1) != 1)
		_exit(70);
	for (;;)
		pause();
}

/* Leaves everything by which a child may be found: a session of its own, another user, an orphan. Then holds. */
static _Noreturn void escape(void) {
	if (fork() != 0)
		_exit(0);
	if (setsid() < 0)
		_exit(71);
	if (fork() != 0)
		_exit(0);
	if (setgid(NOBODY) < 0 || setuid(NOBODY) < 0)
		_exit(72);
	prctl(PR_SET_PDEATHSIG, 0);
	hold();
}

/* A holder, and an escaped grandchild that holds as well. */
static _Noreturn void family(void) {
	pid_t child = fork();
	if (child == 0)
		escape();
	waitpid(child, NULL, 0);
	hold();
}

/* Writes "number:link" of each descriptor to descriptor 3; the directory that it reads them from left out. */
static _Noreturn void list_descriptors(void) {
	DIR *directory = opendir("/proc/self/fd");
	if (!directory)
		_exit(73);
	for (struct dirent *entry; (entry = readdir(directory));) {
		char target[256];
		if (entry->d_name[0] == '.' || atoi(entry->d_name) == dirfd(directory))
			continue;
		ssize_t n = readlinkat(dirfd(directory), entry->d_name, target, sizeof target - 1);
		if (n < 0)
			_exit(74);
		dprintf(OUT, "%s:%.*s\n", entry->d_name, (int)n, target);
	}
	_exit(0);
}

static _Noreturn void print_link(const char *path) {
	char target[PATH_MAX];
	ssize_t n = readlink(path, target, sizeof target);
	if (n < 0)
		_exit(76);
	fc_io_write_full(OUT, target, (size_t)n);
	_exit(0);
}

static _Noreturn void print_place(void) {
	char cwd[PATH_MAX];
	mode_t mask = umask(0);
	dprintf(OUT, "%s %03o %d %s", getcwd(cwd, sizeof cwd), (unsigned)mask, getsid(0) == getpid(),
	        getenv("FCVM_TEST") ? getenv("FCVM_TEST") : "-");
	_exit(getenv("HOME") ? 77 : 0);
}

static void on_term(int number) {
	_exit(number + 1);
}

static _Noreturn void handle_term(void) {
	signal(SIGTERM, on_term);
	hold();
}

static int play(int argc, char **argv) {
	const char *role = argv[1];
	const char *with = argc > 2 ? argv[2] : "";
	if (strcmp(role, "exit") == 0)
		return atoi(with);
	if (strcmp(role, "die") == 0)
		raise(atoi(with));
	if (strcmp(role, "hold") == 0)
		hold();
	if (strcmp(role, "family") == 0)
		family();
	if (strcmp(role, "fds") == 0)
		list_descriptors();
	if (strcmp(role, "link") == 0)
		print_link(with);
	if (strcmp(role, "place") == 0)
		print_place();
	if (strcmp(role, "term") == 0)
		handle_term();
	return 78;
}

/* ---- helpers ---- */

static bool is_root(void) {
	return geteuid() == 0;
}

#define NEEDS_ROOT()                                                                                                   \
	do {                                                                                                           \
		if (!is_root()) {                                                                                      \
			print_message("skipped: PID namespaces and other users take root\n");                          \
			skip();                                                                                        \
		}                                                                                                      \
	} while (0)

/* Waits for `events` on fd, with a limit that says what for. */
static void await(int fd, short events, const char *what) {
	struct pollfd on = {.fd = fd, .events = events};
	int n;
	do
		n = poll(&on, 1, LIMIT_MS);
	while (n < 0 && errno == EINTR);
	if (n != 1)
		fail_msg("waited %d ms for %s", LIMIT_MS, what);
}

/* Reads from fd to its end, which must come. Returns a string that the caller frees. */
static char *read_all(int fd, const char *what) {
	size_t size = 0;
	char *text = calloc(1, 65536);
	assert_non_null(text);
	for (;;) {
		await(fd, POLLIN, what);
		ssize_t n = read(fd, text + size, 65535 - size);
		assert_true(n >= 0);
		if (n == 0)
			return text;
		size += (size_t)n;
	}
}

static void read_marks(int fd, int count) {
	for (int i = 0; i < count; i++) {
		char mark;
		await(fd, POLLIN, "the programs to be up");
		assert_int_equal(read(fd, &mark, 1), 1);
	}
}

static void expect_end(int fd, const char *what) {
	char byte;
	await(fd, POLLIN, what);
	assert_int_equal(read(fd, &byte, 1), 0);
}

static struct fc_exit await_exit(struct fc_child *child) {
	struct fc_exit how = {.code = -1};
	struct fc_error error;
	await(fc_child_fileno(child), POLLIN, "a child's end");
	assert_int_equal(fc_child_wait(child, &how, &error), 1);
	return how;
}

static void expect_exit(struct fc_child *child, bool signalled, int code) {
	struct fc_exit how = await_exit(child);
	assert_int_equal(how.signalled, signalled);
	assert_int_equal(how.code, code);
}

static struct fc_child *must_spawn(const struct fc_spawn_plan *plan) {
	struct fc_child *child = NULL;
	struct fc_error error;
	char text[1200];
	if (fc_spawn(plan, &child, &error) < 0)
		fail_msg("%s", fc_error_format(&error, text, sizeof text));
	return child;
}

/* This program as `role`, its descriptor 3 being `out`. */
struct role {
	char *argv[4];
	struct fc_spawn_fd fd;
	struct fc_spawn_plan plan;
};

static struct fc_spawn_plan *as_role(struct role *role, char *name, char *with, int out) {
	*role = (struct role){.argv = {self, name, with, NULL}, .fd = {.child = OUT, .parent = out}};
	role->plan = (struct fc_spawn_plan){.argv = role->argv, .fds = &role->fd, .fd_count = out >= 0, .umask = -1};
	return &role->plan;
}

/* Runs this program as `role` to its end; what it wrote, for the caller to free. */
static char *output_of(struct role *role, int reader, int writer) {
	struct fc_child *child = must_spawn(&role->plan);
	close(writer);
	char *text = read_all(reader, "a program's output");
	expect_exit(child, false, 0);
	fc_child_free(child);
	return text;
}

struct pipe {
	int reader;
	int writer;
};

static struct pipe make_pipe(void) {
	struct pipe made;
	struct fc_error error;
	assert_int_equal(fc_pipe_open(&made.reader, &made.writer, &error), 0);
	return made;
}

static int count_descriptors(void) {
	int count = 0;
	DIR *directory = opendir("/proc/self/fd");
	assert_non_null(directory);
	while (readdir(directory))
		count++;
	closedir(directory);
	return count;
}

/* The number behind a pidfd. */
static pid_t pid_of(int pidfd) {
	char path[64];
	snprintf(path, sizeof path, "/proc/self/fdinfo/%d", pidfd);
	_cleanup_free_ char *text = NULL;
	size_t size;
	assert_int_equal(fc_io_read_file(path, 4096, &text, &size, NULL), 0);
	const char *line = strstr(text, "Pid:");
	assert_non_null(line);
	return (pid_t)atoi(line + 4);
}

static void each_way(void (*test)(bool contain)) {
	test(false);
	if (is_root())
		test(true);
	else
		print_message("the contained half is left out: it takes root\n");
}

/* ---- starting ---- */

static void check_failure(char *program, char *cwd, bool contain, int err, const char *op) {
	char *argv[] = {program, NULL};
	char *env[] = {"PATH=/usr/bin:/bin", NULL}; /* one that may have places that we may not enter gives EACCES */
	struct fc_spawn_plan plan = {.argv = argv, .env = env, .cwd = cwd, .contain = contain, .umask = -1};
	struct fc_child *child = NULL;
	struct fc_error error;
	int before = count_descriptors();
	assert_int_equal(fc_spawn(&plan, &child, &error), -err);
	assert_null(child);
	assert_int_equal(error.err, err);
	assert_string_equal(error.op, op);
	assert_int_equal(count_descriptors(), before);
	siginfo_t info;
	assert_int_equal(waitid(P_ALL, 0, &info, WEXITED | WNOHANG | __WALL), -1); /* no process is left */
	assert_int_equal(errno, ECHILD);
}

static void check_failures(bool contain) {
	check_failure("/nonexistent/program", NULL, contain, ENOENT, "execute");
	check_failure("fcvm-no-such-program", NULL, contain, ENOENT, "execute");
	check_failure("", NULL, contain, ENOENT, "execute");
	check_failure("/etc/passwd", NULL, contain, EACCES, "execute");
	check_failure("/etc/passwd/x", NULL, contain, ENOTDIR, "execute");
	check_failure("/bin/true", "/nonexistent", contain, ENOENT, "enter directory");
}

static void failures_come_from_the_start_itself(void **state) {
	(void)state;
	each_way(check_failures);
}

static void a_missing_interpreter_is_told_apart(void **state) {
	(void)state;
	char path[] = "/tmp/fcvm-test-XXXXXX";
	_cleanup_close_ int fd = mkstemp(path);
	assert_true(fd >= 0);
	assert_int_equal(fc_io_write_full(fd, "#!/nonexistent/sh\n", 18), 0);
	assert_int_equal(fchmod(fd, 0755), 0);
	close(fc_steal_fd(&fd));
	char *argv[] = {path, NULL};
	struct fc_spawn_plan plan = {.argv = argv, .umask = -1};
	struct fc_child *child = NULL;
	struct fc_error error;
	int r = fc_spawn(&plan, &child, &error);
	unlink(path);
	assert_int_equal(r, -ENOENT);
	assert_non_null(strstr(error.hint, "interpreter"));
}

static void plans_that_contradict_themselves_are_refused(void **state) {
	(void)state;
	char *none[] = {NULL};
	char *argv[] = {"/bin/true", NULL};
	struct fc_spawn_fd twice[] = {{.child = 3, .parent = 0}, {.child = 3, .parent = 1}};
	struct fc_spawn_fd closed[] = {{.child = 0, .parent = 999}};
	struct fc_spawn_fd negative[] = {{.child = -1, .parent = 0}};
	const struct {
		struct fc_spawn_plan plan;
		int err;
	} cases[] = {
	        {{.argv = none, .umask = -1}, EINVAL},
	        {{.argv = argv, .umask = -1, .proc_mount = true}, EINVAL},
	        {{.argv = argv, .umask = -1, .fds = twice, .fd_count = 2}, EINVAL},
	        {{.argv = argv, .umask = -1, .fds = closed, .fd_count = 1}, EBADF},
	        {{.argv = argv, .umask = -1, .fds = negative, .fd_count = 1}, EINVAL},
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct fc_child *child = NULL;
		struct fc_error error;
		assert_int_equal(fc_spawn(&cases[i].plan, &child, &error), -cases[i].err);
		assert_null(child);
	}
}

/* The lowest number that is free here is the one that a pipe of the start itself would get. */
static void a_source_that_is_not_open_is_never_one_of_our_own(void **state) {
	(void)state;
	int unused = dup(0);
	close(unused);
	for (int number = unused; number < unused + 4; number++) {
		char *argv[] = {"/bin/true", NULL};
		struct fc_spawn_fd fd = {.child = 3, .parent = number};
		struct fc_spawn_plan plan = {.argv = argv, .umask = -1, .fds = &fd, .fd_count = 1};
		struct fc_child *child = NULL;
		assert_int_equal(fc_spawn(&plan, &child, NULL), -EBADF);
	}
}

static void check_statuses(bool contain) {
	const struct {
		char *role;
		char *with;
		bool signalled;
		int code;
	} cases[] = {{"exit", "0", false, 0},      {"exit", "7", false, 7},     {"exit", "255", false, 255},
	             {"die", "15", true, SIGTERM}, {"die", "9", true, SIGKILL}, {"die", "6", true, SIGABRT},
	             {"die", "1", true, SIGHUP}};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct role role;
		as_role(&role, cases[i].role, cases[i].with, -1)->contain = contain;
		struct fc_child *child = must_spawn(&role.plan);
		expect_exit(child, cases[i].signalled, cases[i].code);
		expect_exit(child, cases[i].signalled, cases[i].code); /* again and again */
		struct fc_error error;
		assert_int_equal(fc_child_kill(child, SIGTERM, &error), -ESRCH);
		fc_child_free(child);
	}
}

static void statuses_and_signals_pass(void **state) {
	(void)state;
	each_way(check_statuses);
}

static void check_signalling(bool contain) {
	struct pipe out = make_pipe();
	struct role role;
	as_role(&role, "term", NULL, out.writer)->contain = contain;
	struct fc_child *child = must_spawn(&role.plan);
	close(out.writer);
	read_marks(out.reader, 1);
	struct fc_exit how;
	struct fc_error error;
	assert_int_equal(fc_child_wait(child, &how, &error), 0); /* still running, and not waited for */
	assert_int_equal(fc_child_kill(child, 0, &error), 0);
	assert_int_equal(fc_child_kill(child, 1000, &error), -EINVAL);
	assert_int_equal(fc_child_kill(child, SIGTERM, &error), 0);
	expect_exit(child, false, SIGTERM + 1); /* its handler ran: the signal reached the program itself */
	fc_child_free(child);
	close(out.reader);
}

static void signals_reach_the_program_itself(void **state) {
	(void)state;
	each_way(check_signalling);
}

/* ---- what the child has ---- */

/* What "number:..." says in a list of descriptors, up to the line's end. */
static bool shows(const char *list, int number, const char *target) {
	char line[300];
	snprintf(line, sizeof line, "%d:%s\n", number, target);
	const char *found = strstr(list, line);
	return found && (found == list || found[-1] == '\n');
}

static void link_of(int fd, char *target, size_t size) {
	char path[64];
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	ssize_t n = readlink(path, target, size - 1);
	assert_true(n > 0);
	target[n] = '\0';
}

static int count_lines(const char *text) {
	int count = 0;
	for (; *text; text++)
		count += *text == '\n';
	return count;
}

static void check_mapping(bool contain) {
	struct pipe out = make_pipe();
	/* Two files at numbers that trade places, one twice, one at itself, one far up; and strays that must not get
	 * through. */
	int a = memfd_create("a", 0);
	int b = memfd_create("b", 0);
	int stray = memfd_create("stray", 0);
	int place0 = dup(0);
	int place5 = 500;
	int place6 = 501;
	assert_int_equal(dup2(a, place5), place5);
	assert_int_equal(dup2(b, place6), place6);
	char a_name[256];
	char b_name[256];
	char out_name[256];
	link_of(a, a_name, sizeof a_name);
	link_of(b, b_name, sizeof b_name);
	link_of(out.writer, out_name, sizeof out_name);
	const struct fc_spawn_fd fds[] = {
	        {.child = place5, .parent = place6},  {.child = place6, .parent = place5},
	        {.child = 0, .parent = place5},       {.child = 2, .parent = place6},
	        {.child = OUT, .parent = out.writer},
	};
	struct role role;
	as_role(&role, "fds", NULL, -1);
	role.plan.fds = fds;
	role.plan.fd_count = sizeof fds / sizeof *fds;
	role.plan.contain = contain;
	char *list = output_of(&role, out.reader, out.writer);
	assert_true(shows(list, place5, b_name));
	assert_true(shows(list, place6, a_name));
	assert_true(shows(list, 0, a_name));
	assert_true(shows(list, 1, "/dev/null"));
	assert_true(shows(list, 2, b_name));
	assert_true(shows(list, OUT, out_name));
	assert_int_equal(count_lines(list), 6); /* and nothing else */
	free(list);
	const int all[] = {a, b, stray, place0, place5, place6, out.reader};
	for (size_t i = 0; i < sizeof all / sizeof *all; i++)
		close(all[i]);
}

static void descriptors_are_what_was_asked_for(void **state) {
	(void)state;
	each_way(check_mapping);
}

/* {[0] = 5, [5] = 0}: in a process whose standard input is ours to move. */
static void standard_input_trades_places(void **state) {
	(void)state;
	struct pipe out = make_pipe();
	int kept = dup(0);
	int a = memfd_create("a", MFD_CLOEXEC);
	int b = memfd_create("b", MFD_CLOEXEC);
	char a_name[256];
	char b_name[256];
	link_of(a, a_name, sizeof a_name);
	link_of(b, b_name, sizeof b_name);
	int high = fcntl(b, F_DUPFD_CLOEXEC, 5);
	dup2(a, 0);
	const struct fc_spawn_fd fds[] = {{0, high}, {high, 0}, {OUT, out.writer}};
	struct role role;
	as_role(&role, "fds", NULL, -1);
	role.plan.fds = fds;
	role.plan.fd_count = 3;
	char *list = output_of(&role, out.reader, out.writer);
	dup2(kept, 0);
	assert_true(shows(list, 0, b_name));
	assert_true(shows(list, high, a_name));
	free(list);
	const int all[] = {a, b, high, kept, out.reader};
	for (size_t i = 0; i < sizeof all / sizeof *all; i++)
		close(all[i]);
}

/* The mask of `field` in /proc/PID/status. */
static unsigned long long mask_of(const char *text, const char *field) {
	const char *line = strstr(text, field);
	assert_non_null(line);
	return strtoull(line + strlen(field), NULL, 16);
}

/* Of signals 32 and 33 too, which the C library keeps from sigaction(2). */
static void ignore_raw(int number, bool ignore) {
	uint64_t action[8] = {ignore ? (uint64_t)(uintptr_t)SIG_IGN : 0};
	assert_int_equal(syscall(SYS_rt_sigaction, number, action, NULL, sizeof(uint64_t)), 0);
}

static void check_signals(bool contain) {
	const int ignored[] = {SIGPIPE, SIGHUP, SIGUSR1, 32, 33, 64};
	const size_t count = sizeof ignored / sizeof *ignored;
	for (size_t i = 0; i < count; i++)
		ignore_raw(ignored[i], true);
	uint64_t blocked = ~(uint64_t)0;
	uint64_t old;
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &blocked, &old, sizeof old);
	struct pipe out = make_pipe();
	/* Not this program: a sanitizer's runtime has handlers. */
	struct role role = {.argv = {"cat", "/proc/self/status", NULL}, .fd = {.child = 1, .parent = out.writer}};
	role.plan = (struct fc_spawn_plan){
	        .argv = role.argv, .fds = &role.fd, .fd_count = 1, .contain = contain, .umask = -1};
	char *text = output_of(&role, out.reader, out.writer);
	uint64_t now;
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &old, &now, sizeof old);
	for (size_t i = 0; i < count; i++)
		ignore_raw(ignored[i], false);
	assert_int_equal(mask_of(text, "SigBlk:"), 0);
	assert_int_equal(mask_of(text, "SigIgn:"), 0);
	assert_int_equal(mask_of(text, "SigCgt:"), 0);
	/* Our own mask is as it was (the kernel takes SIGKILL and SIGSTOP out). */
	assert_true(now == (blocked & ~((1ULL << (SIGKILL - 1)) | (1ULL << (SIGSTOP - 1)))));
	free(text);
	close(out.reader);
}

static void signals_are_reset(void **state) {
	(void)state;
	each_way(check_signals);
}

static void check_place(bool contain) {
	char *env[] = {"FCVM_TEST=yes", NULL};
	struct pipe out = make_pipe();
	struct role role;
	as_role(&role, "place", NULL, out.writer);
	role.plan.contain = contain;
	role.plan.cwd = "/usr/bin";
	role.plan.env = env;
	role.plan.session = true;
	role.plan.umask = 027;
	char *text = output_of(&role, out.reader, out.writer);
	assert_string_equal(text, "/usr/bin 027 1 yes");
	free(text);
	close(out.reader);
}

static void place_session_mask_and_environment_are_set(void **state) {
	(void)state;
	each_way(check_place);
}

static void programs_are_looked_for_in_absolute_places_alone(void **state) {
	(void)state;
	char *argv[] = {"fcvm-test-tool", NULL};
	char directory[] = "/tmp/fcvm-test-XXXXXX";
	assert_non_null(mkdtemp(directory));
	char tool[64];
	snprintf(tool, sizeof tool, "%s/fcvm-test-tool", directory);
	assert_int_equal(symlink("/bin/true", tool), 0);
	char absolute[128];
	snprintf(absolute, sizeof absolute, "PATH=/nonexistent:/etc/passwd:%s", directory);
	char *right[] = {absolute, NULL};
	char *relative[] = {"PATH=.::x:/nonexistent:", NULL};
	struct fc_spawn_plan plan = {.argv = argv, .env = right, .cwd = directory, .umask = -1};
	struct fc_child *child = must_spawn(&plan);
	expect_exit(child, false, 0);
	fc_child_free(child);
	plan.env = relative;
	child = NULL;
	int r = fc_spawn(&plan, &child, NULL);
	unlink(tool);
	rmdir(directory);
	assert_int_equal(r, -ENOENT);
}

static void a_child_starts_in_a_network_namespace(void **state) {
	(void)state;
	NEEDS_ROOT();
	struct pipe gate = make_pipe();
	struct pipe up = make_pipe();
	pid_t holder = fork();
	if (holder == 0) {
		close(gate.writer);
		char byte = unshare(CLONE_NEWNET) < 0 ? '-' : '+';
		if (write(up.writer, &byte, 1) != 1 || read(gate.reader, &byte, 1) != 0)
			_exit(1);
		_exit(0);
	}
	char byte;
	await(up.reader, POLLIN, "a namespace");
	assert_int_equal(read(up.reader, &byte, 1), 1);
	assert_int_equal(byte, '+');
	char path[64];
	char theirs[256];
	char ours[256];
	snprintf(path, sizeof path, "/proc/%d/ns/net", (int)holder);
	ssize_t n = readlink(path, theirs, sizeof theirs - 1);
	assert_true(n > 0);
	theirs[n] = '\0';
	for (int contain = 0; contain < 2; contain++) {
		struct pipe out = make_pipe();
		struct role role;
		as_role(&role, "link", "/proc/self/ns/net", out.writer);
		role.plan.netns = path;
		role.plan.contain = contain;
		char *text = output_of(&role, out.reader, out.writer);
		assert_string_equal(text, theirs);
		free(text);
		close(out.reader);
	}
	n = readlink("/proc/self/ns/net", ours, sizeof ours - 1);
	ours[n > 0 ? n : 0] = '\0';
	assert_string_not_equal(ours, theirs); /* we stay where we were */
	struct fc_child *child = NULL;
	struct fc_error error;
	struct role role;
	as_role(&role, "exit", "0", -1)->netns = "/nonexistent";
	assert_int_equal(fc_spawn(&role.plan, &child, &error), -ENOENT);
	assert_string_equal(error.op, "open network namespace");
	assert_string_equal(error.subject, "/nonexistent");
	role.plan.netns = "/proc/self/status";
	assert_int_equal(fc_spawn(&role.plan, &child, &error), -EINVAL);
	assert_string_equal(error.op, "enter network namespace");
	close(gate.writer);
	waitpid(holder, NULL, 0);
	const int all[] = {gate.reader, up.reader, up.writer};
	for (size_t i = 0; i < sizeof all / sizeof *all; i++)
		close(all[i]);
}

/* ---- containment ---- */

static void a_contained_pid_is_ours_to_see(void **state) {
	(void)state;
	NEEDS_ROOT();
	struct pipe out = make_pipe();
	struct role role;
	as_role(&role, "hold", NULL, out.writer)->contain = true;
	struct fc_child *child = must_spawn(&role.plan);
	close(out.writer);
	read_marks(out.reader, 1);
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/cmdline", (int)fc_child_pid(child));
	_cleanup_free_ char *text = NULL;
	size_t size;
	assert_int_equal(fc_io_read_file(path, 4096, &text, &size, NULL), 0);
	assert_string_equal(text, self);
	assert_string_equal(text + strlen(text) + 1, "hold");
	assert_int_not_equal(pid_of(fc_child_fileno(child)), fc_child_pid(child));
	fc_child_free(child);
	expect_end(out.reader, "the program's end");
	close(out.reader);
}

static int count_in(const char *path) {
	int count = 0;
	DIR *directory = opendir(path);
	if (!directory)
		return -1;
	while (readdir(directory))
		count++;
	closedir(directory);
	return count - 2;
}

static void the_init_has_its_name_and_two_descriptors(void **state) {
	(void)state;
	NEEDS_ROOT();
	struct pipe out = make_pipe();
	struct role role;
	as_role(&role, "hold", NULL, out.writer)->contain = true;
	struct fc_child *child = must_spawn(&role.plan);
	pid_t init = pid_of(fc_child_fileno(child));
	close(out.writer);
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/fd", (int)init);
	/* It lets go right after the start: give it the processor until it has. */
	time_t end = time(NULL) + LIMIT_MS / 1000;
	while (count_in(path) != 2 && time(NULL) < end)
		sched_yield();
	assert_int_equal(count_in(path), 2);
	snprintf(path, sizeof path, "/proc/%d/comm", (int)init);
	_cleanup_free_ char *name = NULL;
	size_t size;
	assert_int_equal(fc_io_read_file(path, 64, &name, &size, NULL), 0);
	assert_string_equal(name, "fcvm-init\n");
	/* No signal but SIGKILL ends it. */
	for (int number = 1; number < 32; number++)
		if (number != SIGKILL && number != SIGSTOP)
			assert_int_equal(kill(init, number), 0);
	struct fc_error error;
	struct fc_exit how;
	assert_int_equal(fc_child_kill(child, SIGTERM, &error), 0);
	expect_exit(child, true, SIGTERM);
	assert_int_equal(fc_child_wait(child, &how, &error), 1);
	fc_child_free(child);
	close(out.reader);
}

static struct fc_child *start_family(struct pipe *out) {
	*out = make_pipe();
	struct role role;
	as_role(&role, "family", NULL, out->writer)->contain = true;
	struct fc_child *child = must_spawn(&role.plan);
	close(out->writer);
	read_marks(out->reader, 2);
	return child;
}

static void all_descendants_end_with_the_program(void **state) {
	(void)state;
	NEEDS_ROOT();
	struct pipe out;
	struct fc_child *child = start_family(&out);
	struct fc_error error;
	assert_int_equal(fc_child_kill(child, SIGINT, &error), 0);
	expect_exit(child, true, SIGINT);
	expect_end(out.reader, "the escaped grandchild's end");
	fc_child_free(child);
	close(out.reader);
}

static void all_descendants_end_with_the_handle(void **state) {
	(void)state;
	NEEDS_ROOT();
	struct pipe out;
	struct fc_child *child = start_family(&out);
	fc_child_free(child);
	/* The end has been waited for: nothing may be left to hold the pipe. */
	char byte;
	assert_int_equal(fcntl(out.reader, F_SETFL, O_NONBLOCK), 0);
	assert_int_equal(read(out.reader, &byte, 1), 0);
	close(out.reader);
}

static void all_descendants_end_with_the_init(void **state) {
	(void)state;
	NEEDS_ROOT();
	struct pipe out;
	struct fc_child *child = start_family(&out);
	assert_int_equal(pidfd_send_signal(fc_child_fileno(child), SIGKILL, NULL, 0), 0);
	expect_exit(child, true, SIGKILL);
	expect_end(out.reader, "the family's end");
	fc_child_free(child);
	close(out.reader);
}

/* Forks a process that starts `role` and is then killed; what it started held `out`, which must end. */
static void check_parent_killed(char *name, int holders, bool contain) {
	struct pipe out = make_pipe();
	pid_t parent = fork();
	if (parent == 0) {
		struct role role;
		struct fc_child *child = NULL;
		as_role(&role, name, NULL, out.writer)->contain = contain;
		close(out.reader);
		if (fc_spawn(&role.plan, &child, NULL) < 0)
			_exit(1);
		close(out.writer);
		for (;;)
			pause();
	}
	close(out.writer);
	read_marks(out.reader, holders);
	assert_int_equal(kill(parent, SIGKILL), 0);
	int status;
	assert_int_equal(waitpid(parent, &status, 0), parent);
	assert_true(WIFSIGNALED(status));
	expect_end(out.reader, "the end of all that a killed parent started");
	close(out.reader);
}

static void a_killed_parent_takes_its_child_along(void **state) {
	(void)state;
	check_parent_killed("hold", 1, false);
}

static void a_killed_parent_takes_all_descendants_along(void **state) {
	(void)state;
	NEEDS_ROOT();
	check_parent_killed("family", 2, true);
}

/* The wrapped prctl(2): where `late` is armed, PDEATHSIG is set when the parent is dead already. */
static struct {
	bool armed;
	int reached; /* a byte is written here, */
	int go;      /* and one awaited here */
} late;

int __real_prctl(int option, unsigned long argument, ...);
int __wrap_prctl(int option, unsigned long argument, ...);
int __wrap_prctl(int option, unsigned long argument, ...) {
	if (option == PR_SET_PDEATHSIG && late.armed) {
		char byte = '+';
		if (write(late.reached, &byte, 1) != 1 || read(late.go, &byte, 1) != 1)
			_exit(1);
	}
	return __real_prctl(option, argument, 0UL, 0UL, 0UL);
}

static void check_late(bool contain) {
	struct pipe out = make_pipe();
	struct pipe reached = make_pipe();
	struct pipe go = make_pipe();
	pid_t parent = fork();
	if (parent == 0) {
		struct role role;
		struct fc_child *child = NULL;
		as_role(&role, "hold", NULL, out.writer)->contain = contain;
		late.armed = true;
		late.reached = reached.writer;
		late.go = go.reader;
		_exit(fc_spawn(&role.plan, &child, NULL) < 0);
	}
	close(out.writer);
	close(reached.writer);
	await(reached.reader, POLLIN, "a child before its PDEATHSIG");
	assert_int_equal(kill(parent, SIGKILL), 0);
	assert_int_equal(waitpid(parent, NULL, 0), parent);
	assert_int_equal(write(go.writer, "++", 2), 2);
	expect_end(out.reader,
	           "the end of a child whose parent died before its PDEATHSIG"); /* and no mark: it never ran */
	const int all[] = {out.reader, reached.reader, go.reader, go.writer};
	for (size_t i = 0; i < sizeof all / sizeof *all; i++)
		close(all[i]);
}

static void a_parent_that_died_too_early_is_noticed(void **state) {
	(void)state;
	each_way(check_late);
}

/* That an ignored SIGCHLD, which a shell may hand down, loses no status unnoticed. */
static void an_ignored_sigchld_loses_no_status(void **state) {
	(void)state;
	signal(SIGCHLD, SIG_IGN);
	struct role role;
	struct fc_child *child = NULL;
	struct fc_error error;
	as_role(&role, "exit", "9", -1);
	int r = fc_spawn(&role.plan, &child, &error);
	if (is_root()) {
		role.plan.contain = true;
		child = must_spawn(&role.plan);
		expect_exit(child, false, 9);
		fc_child_free(child);
	}
	signal(SIGCHLD, SIG_DFL);
	assert_int_equal(r, -EINVAL);
	assert_non_null(strstr(error.message, "SIGCHLD"));
}

static void a_status_taken_by_others_is_an_error(void **state) {
	(void)state;
	struct role role;
	as_role(&role, "exit", "0", -1);
	struct fc_child *child = must_spawn(&role.plan);
	assert_int_equal(waitpid(fc_child_pid(child), NULL, 0), fc_child_pid(child));
	struct fc_exit how;
	struct fc_error error;
	assert_int_equal(fc_child_wait(child, &how, &error), -ECHILD);
	fc_child_free(child); /* and does not wait for what never comes */
}

static void a_contained_program_sees_its_own_proc(void **state) {
	(void)state;
	NEEDS_ROOT();
	struct pipe out = make_pipe();
	struct role role;
	as_role(&role, "link", "/proc/self", out.writer);
	role.plan.contain = true;
	role.plan.proc_mount = true;
	char *text = output_of(&role, out.reader, out.writer);
	assert_string_equal(text, "2");
	free(text);
	close(out.reader);
}

static void a_user_without_rights_gets_a_hint(void **state) {
	(void)state;
	pid_t user = fork();
	if (user == 0) {
		if (is_root() && (setgid(NOBODY) < 0 || setuid(NOBODY) < 0))
			_exit(2);
		char *argv[] = {"/bin/true", NULL};
		struct fc_spawn_plan plan = {.argv = argv, .contain = true, .umask = -1};
		struct fc_child *child = NULL;
		struct fc_error error;
		int r = fc_spawn(&plan, &child, &error);
		_exit(!(r == -EPERM && strstr(error.hint, "root")));
	}
	int status;
	assert_int_equal(waitpid(user, &status, 0), user);
	assert_int_equal(status, 0);
}

/* ---- identity ---- */

static void an_identity_is_that_process_alone(void **state) {
	(void)state;
	struct fc_identity identity;
	struct fc_error error;
	assert_int_equal(fc_identity_read(0, &identity, &error), 0);
	assert_int_equal(identity.pid, getpid());
	assert_int_equal(strlen(identity.boot_id), FC_BOOT_ID_LENGTH);
	assert_true(fc_identity_alive(&identity));
	/* A number that was given to another process: same PID, other start. */
	struct fc_identity reused = identity;
	reused.start_time--;
	assert_false(fc_identity_alive(&reused));
	assert_int_equal(fc_identity_open(&reused, &error), -ESRCH);
	struct fc_identity rebooted = identity;
	rebooted.boot_id[0] ^= 1;
	assert_false(fc_identity_alive(&rebooted));
	assert_int_equal(fc_identity_open(&rebooted, &error), -ESRCH);
	struct fc_identity none = {.pid = 0};
	assert_false(fc_identity_alive(&none));
	assert_int_equal(fc_identity_open(&none, &error), -ESRCH);
	assert_int_equal(fc_identity_read(-5, &identity, &error), -ESRCH);
	assert_int_equal(fc_identity_read(INT_MAX, &identity, &error), -ESRCH);
}

static void a_zombie_is_dead(void **state) {
	(void)state;
	struct pipe gate = make_pipe();
	pid_t child = fork();
	if (child == 0) {
		char byte;
		close(gate.writer);
		_exit(read(gate.reader, &byte, 1) != 0);
	}
	struct fc_identity identity;
	struct fc_error error;
	assert_int_equal(fc_identity_read(child, &identity, &error), 0);
	assert_int_equal(identity.pid, child);
	_cleanup_close_ int fd = fc_identity_open(&identity, &error);
	assert_true(fd >= 0);
	assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	struct pollfd on = {.fd = fd, .events = POLLIN};
	assert_int_equal(poll(&on, 1, 0), 0);
	assert_true(fc_identity_alive(&identity));
	assert_int_equal(fc_pidfd_kill(fd, 0, &error), 0);
	close(gate.writer);
	await(fd, POLLIN, "a process's end");
	assert_false(fc_identity_alive(&identity)); /* nobody has reaped it yet */
	assert_int_equal(fc_identity_open(&identity, &error), -ESRCH);
	assert_int_equal(waitpid(child, NULL, 0), child);
	assert_int_equal(fc_pidfd_kill(fd, SIGTERM, &error), -ESRCH);
	assert_false(fc_identity_alive(&identity));
	close(gate.reader);
}

#define STAT_TAIL " 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 987654321 20 21\n"

static void names_in_stat_may_be_nasty(void **state) {
	(void)state;
	const char *good[] = {"42 (plain) S" STAT_TAIL, "42 () S" STAT_TAIL, "42 (a) R 1 2 3 (b) S" STAT_TAIL,
	                      "42 (a\nb) Z) S" STAT_TAIL};
	const char *bad[] = {"",
	                     "42",
	                     "42 (x",
	                     "x (x) S" STAT_TAIL,
	                     "42 (x)",
	                     "42 (x) S",
	                     "42 (x) S ",
	                     "42 (x) S 1 2 3",
	                     "0 (x) S" STAT_TAIL,
	                     "-3 (x) S" STAT_TAIL,
	                     "42 (x)S" STAT_TAIL,
	                     "99999999999999999999 (x) S" STAT_TAIL,
	                     ") 42 S" STAT_TAIL,
	                     "42 (x) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 99999999999999999999999 20\n",
	                     "42 (x) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 x 20\n"};
	for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
		struct fc_identity identity;
		char letter;
		assert_int_equal(fc_identity_parse(good[i], &identity, &letter), 0);
		assert_int_equal(identity.pid, 42);
		assert_int_equal(identity.start_time, 987654321);
		assert_int_equal(letter, 'S');
	}
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		struct fc_identity identity = {.pid = 7};
		char letter = '-';
		assert_int_equal(fc_identity_parse(bad[i], &identity, &letter), -EPROTO);
		assert_int_equal(identity.pid, 7);
		assert_int_equal(letter, '-');
	}
}

/* ---- locks ---- */

/* The wrapped flock(2): where a path is armed, that file is replaced between its opening and its locking. */
static const char *replaced;

int __real_flock(int fd, int operation);
int __wrap_flock(int fd, int operation);
int __wrap_flock(int fd, int operation) {
	if (replaced && (operation & LOCK_EX)) {
		const char *path = replaced;
		replaced = NULL;
		unlink(path);
		close(open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
	}
	return __real_flock(fd, operation);
}

static char lock_path[64];

static int set_up_lock(void **state) {
	(void)state;
	snprintf(lock_path, sizeof lock_path, "/tmp/fcvm-test-lock-%d", (int)getpid());
	unlink(lock_path);
	return 0;
}

static int tear_down_lock(void **state) {
	(void)state;
	replaced = NULL;
	unlink(lock_path);
	return 0;
}

static int take(bool shared) {
	struct fc_error error;
	return fc_lock_acquire(lock_path, shared, 0600, &error);
}

static void a_lock_excludes(void **state) {
	(void)state;
	int first = take(false);
	assert_true(first >= 0);
	assert_true(fcntl(first, F_GETFD) & FD_CLOEXEC);
	assert_int_equal(take(false), -EAGAIN);
	assert_int_equal(take(true), -EAGAIN);
	fc_lock_release(first);
	int one = take(true);
	int two = take(true);
	assert_true(one >= 0 && two >= 0);
	assert_int_equal(take(false), -EAGAIN);
	fc_lock_release(one);
	assert_int_equal(take(false), -EAGAIN);
	fc_lock_release(two);
	int again = take(false);
	assert_true(again >= 0);
	fc_lock_release(again);
	struct stat info;
	assert_int_equal(stat(lock_path, &info), 0);
	assert_int_equal(info.st_mode & 07777, 0600);
}

static void a_lock_is_of_the_file_that_the_path_names(void **state) {
	(void)state;
	int old = take(false);
	assert_true(old >= 0);
	assert_int_equal(unlink(lock_path), 0);
	int held = take(false); /* another file: not held */
	assert_true(held >= 0);
	assert_int_equal(take(false), -EAGAIN);
	fc_lock_release(old); /* which releases nothing of the new one */
	assert_int_equal(take(false), -EAGAIN);
	fc_lock_release(held);
}

static void a_file_replaced_before_it_is_locked_is_left(void **state) {
	(void)state;
	replaced = lock_path;
	int fd = take(false);
	assert_true(fd >= 0);
	assert_null(replaced); /* it happened */
	struct stat held;
	struct stat named;
	assert_int_equal(fstat(fd, &held), 0);
	assert_int_equal(stat(lock_path, &named), 0);
	assert_int_equal(held.st_ino, named.st_ino);
	assert_int_equal(held.st_nlink, 1);
	fc_lock_release(fd);
}

static void a_lock_ends_with_its_holder_and_not_with_a_duplicate(void **state) {
	(void)state;
	int fd = take(false);
	assert_true(fd >= 0);
	int duplicate = dup(fd); /* as a child between clone and exec has it */
	fc_lock_release(fd);
	int again = take(false);
	assert_true(again >= 0);
	fc_lock_release(again);
	close(duplicate);
	struct pipe out = make_pipe();
	pid_t holder = fork();
	if (holder == 0) {
		char mark = take(false) < 0 ? '-' : '+';
		if (write(out.writer, &mark, 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	read_marks(out.reader, 1);
	assert_int_equal(take(false), -EAGAIN);
	kill(holder, SIGKILL);
	assert_int_equal(waitpid(holder, NULL, 0), holder);
	again = take(false);
	assert_true(again >= 0);
	fc_lock_release(again);
	close(out.reader);
	close(out.writer);
}

static void a_lock_is_no_link_and_no_directory(void **state) {
	(void)state;
	struct fc_error error;
	assert_int_equal(symlink("/tmp", lock_path), 0);
	assert_int_equal(take(false), -ELOOP);
	assert_int_equal(fc_lock_acquire("/nonexistent/x", false, 0600, &error), -ENOENT);
	assert_string_equal(error.subject, "/nonexistent/x");
	assert_int_equal(fc_lock_acquire("/tmp", false, 0600, &error), -EISDIR);
}

/* ---- descriptors ---- */

static void a_memory_file_is_sealed(void **state) {
	(void)state;
	struct fc_error error;
	_cleanup_close_ int fd = fc_memfd_open("test", "a\0b", 3, &error);
	assert_true(fd >= 0);
	assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	char buffer[8];
	assert_int_equal(read(fd, buffer, sizeof buffer), 3);
	assert_memory_equal(buffer, "a\0b", 3);
	assert_int_equal(pwrite(fd, "x", 1, 0), -1);
	assert_int_equal(errno, EPERM);
	assert_int_equal(ftruncate(fd, 1), -1);
	char name[300];
	memset(name, 'n', sizeof name - 1);
	name[sizeof name - 1] = '\0';
	assert_int_equal(fc_memfd_open(name, "", 0, &error), -EINVAL);
}

int main(int argc, char **argv) {
	if (argc > 1)
		return play(argc, argv);
	ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
	if (n < 0)
		return 70;
	self[n] = '\0';
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(failures_come_from_the_start_itself),
	        cmocka_unit_test(a_missing_interpreter_is_told_apart),
	        cmocka_unit_test(plans_that_contradict_themselves_are_refused),
	        cmocka_unit_test(a_source_that_is_not_open_is_never_one_of_our_own),
	        cmocka_unit_test(statuses_and_signals_pass),
	        cmocka_unit_test(signals_reach_the_program_itself),
	        cmocka_unit_test(descriptors_are_what_was_asked_for),
	        cmocka_unit_test(standard_input_trades_places),
	        cmocka_unit_test(signals_are_reset),
	        cmocka_unit_test(place_session_mask_and_environment_are_set),
	        cmocka_unit_test(programs_are_looked_for_in_absolute_places_alone),
	        cmocka_unit_test(a_child_starts_in_a_network_namespace),
	        cmocka_unit_test(a_contained_pid_is_ours_to_see),
	        cmocka_unit_test(the_init_has_its_name_and_two_descriptors),
	        cmocka_unit_test(all_descendants_end_with_the_program),
	        cmocka_unit_test(all_descendants_end_with_the_handle),
	        cmocka_unit_test(all_descendants_end_with_the_init),
	        cmocka_unit_test(a_killed_parent_takes_its_child_along),
	        cmocka_unit_test(a_killed_parent_takes_all_descendants_along),
	        cmocka_unit_test(a_parent_that_died_too_early_is_noticed),
	        cmocka_unit_test(an_ignored_sigchld_loses_no_status),
	        cmocka_unit_test(a_status_taken_by_others_is_an_error),
	        cmocka_unit_test(a_contained_program_sees_its_own_proc),
	        cmocka_unit_test(a_user_without_rights_gets_a_hint),
	        cmocka_unit_test(an_identity_is_that_process_alone),
	        cmocka_unit_test(a_zombie_is_dead),
	        cmocka_unit_test(names_in_stat_may_be_nasty),
	        cmocka_unit_test_setup_teardown(a_lock_excludes, set_up_lock, tear_down_lock),
	        cmocka_unit_test_setup_teardown(a_lock_is_of_the_file_that_the_path_names, set_up_lock, tear_down_lock),
	        cmocka_unit_test_setup_teardown(a_file_replaced_before_it_is_locked_is_left, set_up_lock,
	                                        tear_down_lock),
	        cmocka_unit_test_setup_teardown(a_lock_ends_with_its_holder_and_not_with_a_duplicate, set_up_lock,
	                                        tear_down_lock),
	        cmocka_unit_test_setup_teardown(a_lock_is_no_link_and_no_directory, set_up_lock, tear_down_lock),
	        cmocka_unit_test(a_memory_file_is_sealed),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
