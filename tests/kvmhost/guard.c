// SPDX-License-Identifier: Apache-2.0
/*
 * guard COMMAND [ARGUMENT...]: runs a command of `kvmhost exec` in the KVM host, for as long as its client lives.
 *
 * sshd starts the guard with pipes as standard input, output and error. A client that goes leaves two marks: the pipe
 * of the output has lost its reader, and that of the input its writer. Then the guard sends the command's process group
 * SIGTERM, gives it GRACE_MS, and kills what is left in the command's cgroup. (A command without input whose reader is
 * gone, as in `kvmhost exec CMD < /dev/null | head -1`, looks the same and ends the same: SIGPIPE is what it would have
 * died of.) A command that ends by itself leaves its background processes alone.
 *
 * The exit status is the command's: 128 + n for a signal, 127 when it is not found, 126 when it cannot be run.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { GRACE_MS = 10000, SETUP_FAILED = 125 };

static void write_file(const char *path, const char *text) {
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		fprintf(stderr, "guard: %s: %s\n", path, strerror(errno));
	if (fd >= 0)
		close(fd);
}

static _Noreturn void run(char *const argv[], const char *cgroup) {
	char procs[128];

	snprintf(procs, sizeof procs, "%s/cgroup.procs", cgroup);
	write_file(procs, "0");
	setsid();
	execvp(argv[0], argv);
	int status = errno == ENOENT || errno == ENOTDIR ? 127 : 126;
	fprintf(stderr, "guard: %s: %s\n", argv[0], strerror(errno));
	_exit(status);
}

/* Waits for the command's end or for FD's hang-up. Returns true for the latter. */
static bool hangs_up(int child_fd, int fd) {
	struct pollfd fds[] = {{.fd = child_fd, .events = POLLIN}, {.fd = fd}};

	while (poll(fds, 2, -1) < 0 && errno == EINTR)
		;
	return !(fds[0].revents & POLLIN);
}

static void end(pid_t child, int child_fd, const char *cgroup, int *status) {
	struct pollfd fds = {.fd = child_fd, .events = POLLIN};
	char kill_file[128];

	kill(-child, SIGTERM);
	kill(-child, SIGCONT);
	while (poll(&fds, 1, GRACE_MS) < 0 && errno == EINTR)
		;
	snprintf(kill_file, sizeof kill_file, "%s/cgroup.kill", cgroup);
	write_file(kill_file, "1");
	// What was killed leaves the cgroup a little later; only then can that be removed.
	waitpid(child, status, 0);
	for (int i = 0; i < 100 && rmdir(cgroup) < 0 && errno == EBUSY; i++)
		usleep(10000);
}

int main(int argc, char *argv[]) {
	char cgroup[64];
	int status = 0;

	if (argc < 2) {
		fputs("usage: guard COMMAND [ARGUMENT...]\n", stderr);
		return 2;
	}
	signal(SIGPIPE, SIG_IGN);
	snprintf(cgroup, sizeof cgroup, "/sys/fs/cgroup/exec/%d", (int)getpid());
	if (mkdir(cgroup, 0755) < 0 && errno != EEXIST) {
		fprintf(stderr, "guard: %s: %s\n", cgroup, strerror(errno));
		return SETUP_FAILED;
	}
	pid_t child = fork();
	if (child == 0) {
		signal(SIGPIPE, SIG_DFL);
		run(argv + 1, cgroup);
	}
	int child_fd = child < 0 ? -1 : (int)syscall(SYS_pidfd_open, child, 0);
	if (child_fd < 0) {
		fprintf(stderr, "guard: %s\n", strerror(errno));
		return SETUP_FAILED;
	}
	if (hangs_up(child_fd, STDOUT_FILENO) && hangs_up(child_fd, STDIN_FILENO)) {
		end(child, child_fd, cgroup, &status);
	} else {
		waitpid(child, &status, 0);
		rmdir(cgroup);
	}
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}
