// SPDX-License-Identifier: Apache-2.0
/*
 * A peer of the agent that says anything, in pieces of any size, while a container has written something and commands
 * can be started. Nothing is executed: a false spawn gives a descriptor's other end to nobody, or fails.
 *
 * The first byte says how the server stands, the second how the bytes are cut. After the peer's HELLO, which is put in
 * front where the first byte asks for it, come the rest of the bytes.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
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

static void converse(struct fc_server *server, int fd, const uint8_t *data, size_t size, size_t step) {
	struct fc_error error;
	unsigned char hello[FC_GUEST_HEADER_SIZE + FC_GUEST_HELLO_SIZE];
	fc_frame_header(hello, FC_GUEST_HELLO, 0, FC_GUEST_HELLO_SIZE);
	fc_hello_write(hello + FC_GUEST_HEADER_SIZE);
	send(fd, hello, sizeof hello, MSG_NOSIGNAL | MSG_DONTWAIT);
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
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) == 0) {
		fc_server_adopt(&server, ends[1]);
		converse(&server, ends[0], data + 2, size - 2, (size_t)data[1] * 8 + 1);
		close(ends[0]);
		fc_server_turn(&server, 0, &error);
		fc_server_turn(&server, 0, &error);
		if (server.session_count > 1)
			abort();
	}
	/* Commands of sessions that are left are nobody's to kill. */
	end_commands(&server);
	fc_server_close(&server);
	return 0;
}
