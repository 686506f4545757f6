// SPDX-License-Identifier: Apache-2.0
#include "spawn.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/close_range.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"

enum { DESCENDANTS_MAX = 4096, FD_BASE = 10 };

static void reset_signals(void) {
	struct sigaction action = {.sa_handler = SIG_DFL};
	for (int number = 1; number < NSIG; number++)
		sigaction(number, &action, NULL);
	sigset_t none;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

/* Puts the descriptors at 0 to 2. First all go above those places, since they may overlap. */
static int place_fds(const int fds[3]) {
	int moved[3];
	for (int i = 0; i < 3; i++) {
		moved[i] = fds[i] >= 0 ? fcntl(fds[i], F_DUPFD, FD_BASE) : open("/dev/null", O_RDWR);
		if (moved[i] < 0)
			return -1;
	}
	for (int i = 0; i < 3; i++)
		if (dup2(moved[i], i) < 0)
			return -1;
	return 0;
}

static int become(const struct fc_user *user) {
	if (setgroups(user->group_count, user->groups) < 0 || setgid(user->gid) < 0 || setuid(user->uid) < 0)
		return -1;
	return 0;
}

/* In the child, which ends by exec or by telling its errno to `tell`. */
static void run_child(const struct fc_spawn *spawn, int tell) {
	reset_signals();
	setsid();
	umask(022);
	int out = fcntl(tell, F_DUPFD_CLOEXEC, FD_BASE + 3);
	if (out >= 0 && place_fds(spawn->fds) == 0 && syscall(SYS_close_range, 3, ~0u, CLOSE_RANGE_CLOEXEC) == 0 &&
	    chdir(spawn->cwd ? spawn->cwd : "/") == 0 && (!spawn->user || become(spawn->user) == 0)) {
		/* execvp looks into the PATH of this process, which is a copy: it may be the program's own. */
		environ = (char **)(size_t)spawn->env;
		execvp(spawn->argv[0], spawn->argv);
	}
	int problem = errno;
	ssize_t ignored = write(out >= 0 ? out : tell, &problem, sizeof problem);
	(void)ignored;
	_exit(127);
}

int fc_spawn(const struct fc_spawn *spawn, pid_t *ret_pid, struct fc_error *error) {
	int ends[2];
	if (pipe2(ends, O_CLOEXEC) < 0)
		return fc_error_set(error, errno, "start", spawn->argv[0], NULL, NULL);
	_cleanup_close_ int reader = ends[0];
	_cleanup_close_ int writer = ends[1];
	pid_t pid = fork();
	if (pid < 0)
		return fc_error_set(error, errno, "start", spawn->argv[0], NULL, NULL);
	if (pid == 0)
		run_child(spawn, writer);
	close(fc_steal_fd(&writer));
	int problem = 0;
	ssize_t n = fc_io_read_full(reader, &problem, sizeof problem);
	if (n == (ssize_t)sizeof problem) {
		while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
			;
		return fc_error_set(error, problem, "start", spawn->argv[0], NULL, NULL);
	}
	*ret_pid = pid;
	return 0;
}

/* Adds the children of one thread to `list`. */
static size_t add_children_of(const char *pid, const char *thread, pid_t *list, size_t count) {
	char path[64];
	snprintf(path, sizeof path, "/proc/%.12s/task/%.12s/children", pid, thread);
	_cleanup_fclose_ FILE *file = fopen(path, "re");
	int child;
	while (file && count < DESCENDANTS_MAX && fscanf(file, "%d", &child) == 1)
		list[count++] = child;
	return count;
}

static size_t add_children(pid_t pid, pid_t *list, size_t count) {
	char path[64];
	char name[16];
	snprintf(name, sizeof name, "%d", pid);
	snprintf(path, sizeof path, "/proc/%d/task", pid);
	DIR *threads = opendir(path);
	if (!threads)
		return count;
	for (struct dirent *entry; (entry = readdir(threads)) != NULL;)
		if (entry->d_name[0] != '.')
			count = add_children_of(name, entry->d_name, list, count);
	closedir(threads);
	return count;
}

void fc_spawn_kill(pid_t pid) {
	_cleanup_free_ pid_t *list = calloc(DESCENDANTS_MAX, sizeof *list);
	size_t count = 0;
	if (pid <= 1)
		return;
	/* What is stopped starts nothing new while its children are being listed. */
	kill(pid, SIGSTOP);
	if (list)
		list[count++] = pid;
	for (size_t i = 0; i < count; i++)
		count = add_children(list[i], list, count);
	for (size_t i = count; i-- > 0;) {
		if (getpgid(list[i]) == list[i])
			kill(-list[i], SIGKILL);
		kill(list[i], SIGKILL);
	}
	kill(-pid, SIGKILL);
	kill(pid, SIGKILL);
}
