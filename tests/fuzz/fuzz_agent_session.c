// SPDX-License-Identifier: Apache-2.0
// link: -Wl,--wrap=clock_settime -Wl,--wrap=sethostname -Wl,--wrap=ioctl
/*
 * A peer of the agent that says anything, in pieces of any size, while a container has written something and commands
 * can be started. Nothing is executed: a false spawn gives a descriptor's other end to nobody, or fails. Nothing is
 * done to the machine either: its clock, name and random numbers stay as they are. Another peer may be attached or have
 * a command already, for snapshots.
 *
 * The first byte says how the server stands, the second how the bytes are cut. After the peer's HELLO, which is put in
 * front where the first byte asks for it, come the rest of the bytes.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "server.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

/* As the agent's main does: a command that closes its input is no reason to die. */
int LLVMFuzzerInitialize(int *argc, char ***argv) {
	(void)argc;
	(void)argv;
	signal(SIGPIPE, SIG_IGN);
	return 0;
}

int __wrap_clock_settime(clockid_t clock, const struct timespec *time);
int __wrap_sethostname(const char *name, size_t size);
int __real_ioctl(int fd, unsigned long request, void *argument);
int __wrap_ioctl(int fd, unsigned long request, void *argument);

int __wrap_clock_settime(clockid_t clock, const struct timespec *time) {
	(void)clock;
	if (time->tv_sec < 0 || time->tv_nsec < 0 || time->tv_nsec >= 1000000000)
		abort();
	return 0;
}

int __wrap_sethostname(const char *name, size_t size) {
	if (size == 0 || size > 64 || strlen(name) != size)
		abort();
	return 0;
}

int __wrap_ioctl(int fd, unsigned long request, void *argument) {
	return request == RNDADDENTROPY || request == RNDRESEEDCRNG ? 0 : __real_ioctl(fd, request, argument);
}

static bool spawn_fails;

/* A child that is none: its pipes are closed at once, and its end is told by the harness. The number is no process's.
 */
enum { NOBODY = 1 << 29 };

static int false_spawn(const struct fc_spawn *spawn, pid_t *ret_pid, struct fc_error *error) {
	if (!spawn->argv[0] || spawn_fails)
		return fc_error_set(error, ENOENT, "start", NULL, NULL, NULL);
	*ret_pid = NOBODY;
	return 0;
}

static char *const environment[] = {(char *)(size_t) "PATH=/bin", NULL};
static const struct fc_config config = {.podman = "podman",
                                        .crun = "crun",
                                        .run_dir = "/nonexistent",
                                        .exits_dir = "/nonexistent",
                                        .bundles_dir = "/nonexistent",
                                        .etc_dir = "/nonexistent",
                                        .env = environment,
                                        .spawn = false_spawn,
                                        .orphan_seconds = 600,
                                        .failed_seconds = 60,
                                        .quiet_seconds = 30,
                                        .resume_seconds = 30};

static void prepare(struct fc_server *server, uint8_t how) {
	struct fc_error error;
	spawn_fails = how & 1;
	fc_server_stage(server, "mounts");
	fc_output_append(&server->output, 1, "some words", 10);
	fc_output_append(&server->output, 2, "and others", 10);
	if (how & 2) {
		fc_error_set(&error, EIO, "mount", "/dev/vda", NULL, NULL);
		fc_server_fail(server, "root", &error);
	}
	if (how & 4) {
		server->container.state = FC_CONTAINER_EXITED;
		server->container.published = true;
	} else if (how & 8) {
		/* Of no process: nothing is there to be signalled or entered. */
		server->container.state = FC_CONTAINER_RUNNING;
	}
}

/* The peer reads what there is, as a peer does; every other time it does not. */
static void read_all(int fd) {
	char buffer[65536];
	while (recv(fd, buffer, sizeof buffer, MSG_DONTWAIT) > 0)
		;
}

static void end_commands(struct fc_server *server) {
	for (struct fc_session *session = server->sessions; session; session = session->next)
		if (session->exec && session->exec->pid == NOBODY)
			fc_exec_reaped(session->exec, 0);
}

static void say(int fd, uint8_t type, const char *text) {
	unsigned char frame[256];
	size_t size = strlen(text);
	fc_frame_header(frame, type, 0, (uint32_t)size);
	memcpy(frame + FC_GUEST_HEADER_SIZE, text, size);
	send(fd, frame, FC_GUEST_HEADER_SIZE + size, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void say_hello(int fd) {
	unsigned char hello[FC_GUEST_HEADER_SIZE + FC_GUEST_HELLO_SIZE];
	fc_frame_header(hello, FC_GUEST_HELLO, 0, FC_GUEST_HELLO_SIZE);
	fc_hello_write(hello + FC_GUEST_HEADER_SIZE);
	send(fd, hello, sizeof hello, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* A peer that was there before; -1 where there is none. */
static int open_other(struct fc_server *server, uint8_t how) {
	struct fc_error error;
	int ends[2];
	if (!(how & 0x30) || socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) < 0)
		return -1;
	fc_server_adopt(server, ends[1]);
	say_hello(ends[0]);
	if (how & 0x10)
		say(ends[0], FC_GUEST_ATTACH, "{}");
	else
		say(ends[0], FC_GUEST_EXEC, "{\"vm\":true,\"argv\":[\"cat\"],\"stdin\":true}");
	fc_server_turn(server, 0, &error);
	fc_server_turn(server, 0, &error);
	return ends[0];
}

static void converse(struct fc_server *server, int fd, const uint8_t *data, size_t size, size_t step) {
	struct fc_error error;
	say_hello(fd);
	for (size_t at = 0; at < size; at += step) {
		size_t part = size - at < step ? size - at : step;
		if (send(fd, data + at, part, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
			break;
		fc_server_turn(server, 0, &error);
		if (at / step % 2)
			read_all(fd);
	}
	for (int i = 0; i < 3; i++) {
		fc_server_turn(server, 0, &error);
		read_all(fd);
	}
	end_commands(server);
	fc_server_turn(server, 0, &error);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
	static struct fc_server server;
	struct fc_error error;
	int ends[2];
	if (size < 3 || fc_server_open(&server, &config, &error) < 0)
		return 0;
	prepare(&server, data[0]);
	int other = open_other(&server, data[0]);
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) == 0) {
		fc_server_adopt(&server, ends[1]);
		converse(&server, ends[0], data + 2, size - 2, (size_t)data[1] * 8 + 1);
		close(ends[0]);
		fc_server_turn(&server, 0, &error);
		fc_server_turn(&server, 0, &error);
		/* This one is gone, or waits for a silence to end. */
		if (server.session_count > 1 + (size_t)(other >= 0))
			abort();
	}
	if (other >= 0)
		close(other);
	/* Commands of sessions that are left are nobody's to kill. */
	end_commands(&server);
	fc_server_close(&server);
	return 0;
}
