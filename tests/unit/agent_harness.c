// SPDX-License-Identifier: Apache-2.0
#include "agent_harness.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "clock.h"

char dir[64], path_podman[96], path_crun[96], path_run[96], path_exits[96], path_bundles[96];
static char *const environment[] = {(char *)(size_t) "PATH=/usr/sbin:/usr/bin:/sbin:/bin", NULL, NULL};
struct fc_config config;
struct fc_server server;

/* ---- files */

void write_file(const char *path, const char *text, mode_t mode) {
	FILE *file = fopen(path, "w");
	assert_non_null(file);
	fputs(text, file);
	fclose(file);
	chmod(path, mode);
}

static const char false_podman[] =
        "#!/bin/sh\n"
        "for word; do case $word in\n"
        "--cidfile=*) id=${word#*=};; --pidfile=*) pid=${word#*=};; --conmon-pidfile=*) conmon=${word#*=};; esac\n"
        "last=$word; done\n"
        "case $last in fail:*) echo words before >&2; echo \"Error: ${last#fail:*:}\" >&2; code=${last#fail:}; exit "
        "${code%%:*};; esac\n"
        "case $last in hang) sleep 600;; esac\n"
        "case $last in show) for word; do echo \"<$word>\"; done; last='exit 0';; esac\n"
        "printf 0123abc > $id\n"
        "export last pid conmon\n"
        /* The false conmon. What it says of itself comes first, whatever becomes of it. */
        "( sh -c 'echo $$ > $conmon\n"
        "  sh -c \"$last\" & echo $! > $pid.new; mv $pid.new $pid; wait $!; status=$?\n"
        "  [ $status = 99 ] || { echo $status > $EXITS/.new; mv $EXITS/.new $EXITS/0123abc; }' & )\n"
        "while [ ! -s $pid ]; do sleep 0.01; done\n"
        "[ \"$SLOW\" ] && sleep $SLOW\n"
        "exit 0\n";

static const char false_crun[] = "#!/bin/sh\n"
                                 "log=${1#--log=}; file=$4\n"
                                 "grep -q nosuch $file && { echo 'no: not found in PATH' | tee $log >&2; exit 255; }\n"
                                 "grep -q notexec $file && { echo 'no: Permission denied' | tee $log >&2; exit 255; }\n"
                                 "grep -q plain255 $file && exit 255\n"
                                 "grep -q linger $file && { sleep 700 & echo $!; wait; }\n"
                                 "echo \"$2 $3 $5\"; cat $file; exit 3\n";

static int remove_one(const char *path, const struct stat *status, int type, struct FTW *place) {
	(void)status;
	(void)type;
	(void)place;
	return remove(path);
}

int make_files(void **state) {
	(void)state;
	char path[160];
	signal(SIGPIPE, SIG_IGN);
	/* What the false podman leaves behind comes to the server, as to PID 1. */
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	snprintf(dir, sizeof dir, "/tmp/fcvm-server-XXXXXX");
	assert_non_null(mkdtemp(dir));
	snprintf(path_podman, sizeof path_podman, "%s/podman", dir);
	snprintf(path_crun, sizeof path_crun, "%s/crun", dir);
	snprintf(path_run, sizeof path_run, "%s/run", dir);
	snprintf(path_exits, sizeof path_exits, "%s/exits", dir);
	snprintf(path_bundles, sizeof path_bundles, "%s/bundles", dir);
	write_file(path_podman, false_podman, 0755);
	write_file(path_crun, false_crun, 0755);
	mkdir(path_bundles, 0755);
	snprintf(path, sizeof path, "%s/0123abc", path_bundles);
	mkdir(path, 0755);
	snprintf(path, sizeof path, "%s/0123abc/userdata", path_bundles);
	mkdir(path, 0755);
	snprintf(path, sizeof path, "%s/0123abc/userdata/config.json", path_bundles);
	write_file(path, "{\"process\":{\"args\":[\"x\"],\"env\":[\"A=1\"],\"cwd\":\"/\"}}", 0644);
	return 0;
}

int remove_files(void **state) {
	(void)state;
	return nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* ---- the server and its peers */

static char exits_variable[128];

int open_server(void **state) {
	(void)state;
	static char *env[4];
	struct fc_error error;
	char path[192];
	snprintf(exits_variable, sizeof exits_variable, "EXITS=%s", path_exits);
	env[0] = environment[0];
	env[1] = exits_variable;
	env[2] = NULL;
	config = (struct fc_config){.podman = path_podman,
	                            .crun = path_crun,
	                            .run_dir = path_run,
	                            .exits_dir = path_exits,
	                            .bundles_dir = path_bundles,
	                            .etc_dir = dir,
	                            .env = env,
	                            .spawn = fc_spawn,
	                            .orphan_seconds = 600,
	                            .failed_seconds = 600,
	                            .quiet_seconds = 30,
	                            .resume_seconds = 30};
	static const char *const leftovers[] = {"run/container.id", "run/container.pid", "run/conmon.pid",
	                                        "exits/0123abc"};
	for (size_t i = 0; i < 4; i++) {
		snprintf(path, sizeof path, "%s/%s", dir, leftovers[i]);
		unlink(path);
	}
	return fc_server_open(&server, &config, &error);
}

int close_server(void **state) {
	(void)state;
	fc_server_close(&server);
	/* Nothing that a test started outlives it. */
	char path[64];
	snprintf(path, sizeof path, "/proc/self/task/%d/children", getpid());
	for (int tries = 0; tries < 100; tries++) {
		FILE *file = fopen(path, "r");
		int pid;
		int count = 0;
		while (file && fscanf(file, "%d", &pid) == 1) {
			kill(pid, SIGKILL);
			count++;
		}
		if (file)
			fclose(file);
		if (count == 0)
			break;
		waitpid(-1, NULL, 0);
	}
	return 0;
}

void turn(void) {
	struct fc_error error;
	assert_int_equal(fc_server_turn(&server, 20, &error), 0);
}

struct peer *new_peer(void) {
	struct peer *peer = calloc(1, sizeof *peer);
	int ends[2];
	assert_non_null(peer);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends), 0);
	peer->fd = ends[0];
	fc_server_adopt(&server, ends[1]);
	return peer;
}

void free_peer(struct peer *peer) {
	close(peer->fd);
	fc_decoder_clear(&peer->decoder);
	free(peer);
}

void say_bytes(struct peer *peer, const void *data, size_t size) {
	assert_int_equal(send(peer->fd, data, size, MSG_NOSIGNAL), size);
}

void say(struct peer *peer, uint8_t type, const void *payload, size_t size) {
	unsigned char header[FC_GUEST_HEADER_SIZE];
	fc_frame_header(header, type, 0, (uint32_t)size);
	say_bytes(peer, header, sizeof header);
	if (size)
		say_bytes(peer, payload, size);
}

void say_text(struct peer *peer, uint8_t type, const char *text) {
	say(peer, type, text, strlen(text));
}

void say_hello(struct peer *peer) {
	unsigned char hello[FC_GUEST_HELLO_SIZE];
	fc_hello_write(hello);
	say(peer, FC_GUEST_HELLO, hello, sizeof hello);
}

struct peer *asking(uint8_t type, const char *json) {
	struct peer *peer = new_peer();
	say_hello(peer);
	say_text(peer, type, json);
	return peer;
}

static void take_output(struct peer *peer, const struct fc_frame *frame) {
	int i = frame->stream - 1;
	size_t room = sizeof peer->out[i] - 1 - peer->out_size[i];
	size_t size = frame->size < room ? frame->size : room;
	memcpy(peer->out[i] + peer->out_size[i], frame->payload, size);
	peer->out_size[i] += size;
	peer->total += frame->size;
}

static void take_frame(struct peer *peer, const struct fc_frame *frame) {
	peer->last = frame->type;
	memcpy(peer->text, frame->payload, frame->size);
	peer->text[frame->size] = '\0';
	if (frame->type == FC_GUEST_OUTPUT)
		take_output(peer, frame);
	if (frame->type == FC_GUEST_WINDOW)
		peer->granted += (uint32_t)frame->payload[0] | (uint32_t)frame->payload[1] << 8 |
		                 (uint32_t)frame->payload[2] << 16;
	if (frame->type == FC_GUEST_EVENT) {
		size_t have = strlen(peer->events);
		snprintf(peer->events + have, sizeof peer->events - have, "%.*s\n", (int)frame->size,
		         (const char *)frame->payload);
	}
}

void hear(struct peer *peer) {
	unsigned char buffer[65536];
	struct fc_frame frame;
	ssize_t n = recv(peer->fd, buffer, sizeof buffer, MSG_DONTWAIT);
	if (n == 0)
		peer->closed = true;
	if (n <= 0)
		return;
	assert_int_equal(fc_decoder_feed(&peer->decoder, buffer, (size_t)n, NULL), 0);
	while (fc_decoder_next(&peer->decoder, &frame, NULL) == 1)
		take_frame(peer, &frame);
}

/* Turns the server until the last frame is of this type. */
void expect(struct peer *peer, uint8_t type) {
	uint64_t limit = fc_clock_ms() + LIMIT_MS;
	while (peer->last != type && fc_clock_ms() < limit) {
		turn();
		hear(peer);
	}
	if (peer->last != type)
		fail_msg("waited for %s, the last was %s: %s", fc_frame_name(type), fc_frame_name(peer->last),
		         peer->text);
}

void expect_text(struct peer *peer, uint8_t type, const char *part) {
	expect(peer, type);
	if (!strstr(peer->text, part))
		fail_msg("'%s' has no '%s'", peer->text, part);
}

void expect_event(struct peer *peer, const char *part) {
	uint64_t limit = fc_clock_ms() + LIMIT_MS;
	while (!strstr(peer->events, part) && fc_clock_ms() < limit) {
		turn();
		hear(peer);
	}
	if (!strstr(peer->events, part))
		fail_msg("no event '%s' in '%s'", part, peer->events);
}

void expect_closed(struct peer *peer) {
	uint64_t limit = fc_clock_ms() + LIMIT_MS;
	while (!peer->closed && fc_clock_ms() < limit) {
		turn();
		hear(peer);
	}
	assert_true(peer->closed);
}

void wait_for(bool (*done)(void)) {
	uint64_t limit = fc_clock_ms() + LIMIT_MS;
	while (!done() && fc_clock_ms() < limit)
		turn();
	assert_true(done());
}

/* A plan whose container is this line of shell. */
void plan_for(const char *command, const char *more) {
	struct fc_text text = {0};
	struct fc_error error;
	fc_text_puts(&text, "{\"version\":1,\"name\":\"web\",\"hostname\":\"web\",\"image\":{\"reference\":\"img\","
	                    "\"store\":\"/dev/vdb\"},\"command\":[");
	fc_text_put_json(&text, command, strlen(command));
	fc_text_putf(&text, "]%s}", more);
	if (fc_plan_read(text.data, text.size, &server.plan, &error) < 0)
		fail_msg("%s", error.message);
	fc_text_clear(&text);
}

void start(const char *command) {
	struct fc_error error;
	plan_for(command, "");
	if (fc_container_start(&server, &error) < 0)
		fail_msg("%s: %s", error.op, error.message);
}

bool runs(void) {
	return server.container.state == FC_CONTAINER_RUNNING;
}

bool exited(void) {
	return server.container.state == FC_CONTAINER_EXITED;
}

bool has_output(void) {
	return server.output.end > 0;
}

bool is_done(void) {
	return server.done;
}

bool no_sessions(void) {
	return server.session_count == 0;
}
