// SPDX-License-Identifier: Apache-2.0
/* The agent's server over socket pairs: the whole protocol but for snapshots, with false programs (agent_harness.h). */
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
#include "agent_harness.h"

/* ---- greeting and asking */

static void a_state_is_told(void **state) {
	(void)state;
	fc_server_stage(&server, "mounts");
	struct peer *peer = asking(FC_GUEST_STATUS, "{}");
	expect_text(peer, FC_GUEST_STATE, "\"container\":\"none\"");
	assert_non_null(strstr(peer->text, "\"stages\":[{\"name\":\"mounts\",\"monotonic_ns\":"));
	expect_closed(peer);
	free_peer(peer);
	wait_for(no_sessions);
}

static void an_empty_payload_is_an_empty_object(void **state) {
	(void)state;
	struct peer *peer = asking(FC_GUEST_STATUS, "");
	expect(peer, FC_GUEST_STATE);
	free_peer(peer);
}

static void refused(uint8_t type, const char *json, const char *why) {
	struct peer *peer = asking(type, json);
	expect_text(peer, FC_GUEST_ERROR, why);
	expect_closed(peer);
	free_peer(peer);
}

static void requests_that_make_no_sense(void **state) {
	(void)state;
	refused(FC_GUEST_STATUS, "{", "no key");
	refused(FC_GUEST_STATUS, "[]", "no JSON object");
	refused(FC_GUEST_STATUS, "{\"x\":1}", "unknown key 'x'");
	refused(FC_GUEST_ATTACH, "{\"from\":-1}", "'from' is -1");
	refused(FC_GUEST_ATTACH, "{\"from\":1}", "has 0 bytes, not 1");
	refused(FC_GUEST_EXEC, "{}", "'argv' is missing");
	refused(FC_GUEST_EXEC, "{\"argv\":[]}", "'argv' is missing");
	refused(FC_GUEST_EXEC, "{\"argv\":\"x\"}", "'argv' is no array");
	refused(FC_GUEST_EXEC, "{\"argv\":[\"x\"],\"vm\":1}", "'vm' is neither");
	refused(FC_GUEST_EXEC, "{\"argv\":[\"x\"],\"timeout\":0}", "'timeout' is 0");
	refused(FC_GUEST_EXEC, "{\"argv\":[\"x\"]}", "the container does not run (none)");
	refused(FC_GUEST_SIGNAL, "{}", "'signal' is missing");
	refused(FC_GUEST_SIGNAL, "{\"signal\":65}", "'signal' is 65");
	refused(FC_GUEST_SIGNAL, "{\"signal\":15}", "does not run (none)");
	refused(FC_GUEST_STOP, "{\"grace\":86401}", "'grace' is 86401");
	refused(FC_GUEST_OUTPUT + 0x50, "", "asks nothing");
	refused(FC_GUEST_EXITED, "", "asks nothing");
	refused(FC_GUEST_STDIN, "", "asks nothing");
	wait_for(no_sessions);
}

static void greetings_that_make_no_sense(void **state) {
	(void)state;
	struct peer *peer = new_peer();
	say(peer, FC_GUEST_STATUS, "{}", 2);
	expect_text(peer, FC_GUEST_ERROR, "no HELLO");
	free_peer(peer);
	peer = new_peer();
	say(peer, FC_GUEST_HELLO, "FCVM\x05\0\x05\0", 8);
	expect_text(peer, FC_GUEST_ERROR, "speaks versions 5 to 5");
	free_peer(peer);
	peer = new_peer();
	say_bytes(peer, "GET / HTTP/1.1\r\n\r\n", 18);
	expect_text(peer, FC_GUEST_ERROR, "over the limit");
	free_peer(peer);
	wait_for(no_sessions);
}

static void a_peer_that_leaves_is_forgotten(void **state) {
	(void)state;
	struct peer *peer = new_peer();
	say_hello(peer);
	turn();
	assert_int_equal(server.session_count, 1);
	free_peer(peer);
	wait_for(no_sessions);
}

static void sessions_are_bounded(void **state) {
	(void)state;
	struct peer *peers[FC_GUEST_SESSIONS_MAX];
	for (int i = 0; i < FC_GUEST_SESSIONS_MAX; i++)
		peers[i] = new_peer();
	struct peer *more = new_peer();
	expect_text(more, FC_GUEST_ERROR, "there are 64 sessions already");
	free_peer(more);
	for (int i = 0; i < FC_GUEST_SESSIONS_MAX; i++)
		free_peer(peers[i]);
	wait_for(no_sessions);
}

/* ---- the container */

static void podman_gets_the_plan(void **state) {
	(void)state;
	struct fc_error error;
	plan_for("show", ",\"env\":{\"A\":\"b c\"},\"entrypoint\":[\"/e\",\"x\"],\"user\":\"u\",\"workdir\":\"/w\"");
	assert_int_equal(fc_container_start(&server, &error), 0);
	struct peer *peer = asking(FC_GUEST_ATTACH, "{}");
	expect_event(peer, "container-exited\",\"exit_status\":0}");
	static const char *const words[] = {"<run>",
	                                    "<--detach>",
	                                    "<--network=host>",
	                                    "<--uts=host>",
	                                    "/run/identity:/run/fcvm:ro>",
	                                    "/hostname:/etc/hostname:ro>",
	                                    "/machine-id:/etc/machine-id:ro>",
	                                    "<--cgroups=disabled>",
	                                    "<--pull=never>",
	                                    "<--log-driver=passthrough>",
	                                    "<--name=web>",
	                                    "<--env=A=b c>",
	                                    "<--entrypoint=[\"/e\",\"x\"]>",
	                                    "<--user=u>",
	                                    "<--workdir=/w>",
	                                    "<img>\n<show>\n"};
	for (size_t i = 0; i < sizeof words / sizeof *words; i++)
		if (!strstr(peer->out[0], words[i]))
			fail_msg("no %s in %s", words[i], peer->out[0]);
	free_peer(peer);
}

static void output_then_the_end(void **state) {
	(void)state;
	fc_server_stage(&server, "podman");
	start("echo one; echo two >&2; exit 7");
	struct peer *peer = asking(FC_GUEST_ATTACH, "{}");
	expect_event(peer, "container-exited");
	expect_closed(peer);
	assert_string_equal(peer->out[0], "one\n");
	assert_string_equal(peer->out[1], "two\n");
	/* The end comes last, and is the last frame. */
	assert_int_equal(peer->last, FC_GUEST_EVENT);
	assert_string_equal(peer->text, "{\"event\":\"container-exited\",\"exit_status\":7}");
	assert_non_null(
	        strstr(peer->events, "{\"event\":\"attached\",\"from\":0}\n{\"event\":\"stage\",\"name\":\"podman\""));
	assert_non_null(strstr(peer->events, "{\"event\":\"container-started\",\"pid\":"));
	free_peer(peer);
	/* Whoever comes later gets the same; from an offset, what is after it. */
	peer = asking(FC_GUEST_ATTACH, "{\"from\":4}");
	expect_event(peer, "container-exited\",\"exit_status\":7}");
	assert_int_equal(peer->total, 4);
	free_peer(peer);
	peer = asking(FC_GUEST_STATUS, "{}");
	expect_text(peer, FC_GUEST_STATE, "\"exit_status\":7");
	free_peer(peer);
}

static void a_signal_is_a_status(void **state) {
	(void)state;
	start("kill -9 $$");
	struct peer *peer = asking(FC_GUEST_ATTACH, "{}");
	expect_event(peer, "container-exited\",\"exit_status\":137}");
	free_peer(peer);
}

static void podmans_own_failure(void **state) {
	(void)state;
	start("fail:127:crun: no such file");
	struct peer *peer = asking(FC_GUEST_ATTACH, "{}");
	expect_event(peer, "container-exited\",\"exit_status\":127,\"error\":\"Error: crun: no such file\"}");
	assert_int_equal(peer->total, 0);
	free_peer(peer);
}

static void podman_that_is_not_there(void **state) {
	(void)state;
	struct fc_error error;
	config.podman = "/nonexistent/podman";
	plan_for("exit 0", "");
	assert_int_equal(fc_container_start(&server, &error), -ENOENT);
	fc_server_fail(&server, "podman", &error);
	struct peer *peer = asking(FC_GUEST_ATTACH, "{}");
	expect_text(peer, FC_GUEST_ERROR,
	            "\"op\":\"boot: podman: start\",\"message\":\"/nonexistent/podman: No such file");
	free_peer(peer);
	peer = asking(FC_GUEST_STATUS, "{}");
	expect_text(peer, FC_GUEST_STATE, "boot_error");
	free_peer(peer);
}

static void a_monitor_that_dies(void **state) {
	(void)state;
	start("exit 99"); /* the false conmon ends without an exit file */
	struct peer *peer = asking(FC_GUEST_ATTACH, "{}");
	expect_event(peer, "container-exited\",\"exit_status\":255,\"error\":\"the container's monitor");
	free_peer(peer);
}

/* Ended, cleaned up and its monitor gone, before podman has returned. */
static void a_container_that_ends_before_podman(void **state) {
	(void)state;
	((char **)(size_t)config.env)[2] = (char *)(size_t) "SLOW=0.3";
	start("echo short; exit 6");
	struct peer *peer = asking(FC_GUEST_ATTACH, "{}");
	uint64_t limit = fc_clock_ms() + LIMIT_MS;
	while (!server.container.early && fc_clock_ms() < limit)
		turn();
	assert_true(server.container.early);
	char path[160];
	snprintf(path, sizeof path, "%s/0123abc", path_exits);
	assert_int_equal(unlink(path), 0);
	expect_event(peer, "container-exited\",\"exit_status\":6}");
	assert_string_equal(peer->out[0], "short\n");
	free_peer(peer);
}

static void a_monitor_that_dies_before_podman(void **state) {
	(void)state;
	((char **)(size_t)config.env)[2] = (char *)(size_t) "SLOW=0.3";
	start("exit 99");
	struct peer *peer = asking(FC_GUEST_ATTACH, "{}");
	expect_event(peer, "container-exited\",\"exit_status\":255,\"error\":\"the container's monitor");
	free_peer(peer);
}

static bool is_full(void) {
	return server.output.end >= FC_OUTPUT_UNREAD;
}

static void unread_output_stops_the_container(void **state) {
	(void)state;
	enum { WRITTEN = 12000000 };
	start("head -c 12000000 /dev/zero; echo end >&2");
	wait_for(runs);
	wait_for(is_full);
	for (int i = 0; i < 10; i++)
		turn();
	assert_int_equal(server.output.end, FC_OUTPUT_UNREAD);
	assert_true(runs());
	struct peer *peer = asking(FC_GUEST_ATTACH, "{}");
	expect_event(peer, "container-exited");
	assert_int_equal(peer->total, WRITTEN + 4);
	assert_string_equal(peer->out[1], "end\n");
	free_peer(peer);
}

static void who_comes_back_loses_nothing(void **state) {
	(void)state;
	start("head -c 12000000 /dev/zero; echo end >&2");
	size_t total = 0;
	char request[64];
	/* Leaves again and again in the middle, each time with what it has read. */
	for (int i = 0; i < 8; i++) {
		snprintf(request, sizeof request, "{\"from\":%zu}", total);
		struct peer *peer = asking(FC_GUEST_ATTACH, request);
		uint64_t limit = fc_clock_ms() + LIMIT_MS;
		while (peer->total < 1000000 && fc_clock_ms() < limit) {
			turn();
			hear(peer);
		}
		total += peer->total;
		snprintf(request, sizeof request, "\"attached\",\"from\":%zu}", total - peer->total);
		assert_non_null(strstr(peer->events, request));
		free_peer(peer);
		turn();
	}
	snprintf(request, sizeof request, "{\"from\":%zu}", total);
	struct peer *peer = asking(FC_GUEST_ATTACH, request);
	expect_event(peer, "container-exited");
	assert_int_equal(total + peer->total, 12000004);
	free_peer(peer);
}

static void a_slow_peer_holds_the_others_up_but_loses_nothing(void **state) {
	(void)state;
	start("head -c 6000000 /dev/zero");
	struct peer *slow = asking(FC_GUEST_ATTACH, "{}");
	struct peer *fast = asking(FC_GUEST_ATTACH, "{}");
	/* The fast one gets all that the slow one lets come, which is what the ring may hold unread and what is on its
	 * way. */
	uint64_t limit = fc_clock_ms() + LIMIT_MS;
	while ((fc_output_room(&server.output, 1) || fast->total < server.output.end) && fc_clock_ms() < limit) {
		turn();
		hear(fast);
	}
	assert_int_equal(fast->total, server.output.end);
	assert_true(fast->total >= FC_OUTPUT_UNREAD && fast->total < 6000000);
	expect_event(slow, "container-exited");
	expect_event(fast, "container-exited");
	assert_int_equal(slow->total, 6000000);
	assert_int_equal(fast->total, 6000000);
	free_peer(slow);
	free_peer(fast);
}

static void stop_is_a_signal_then_a_kill(void **state) {
	(void)state;
	start("trap 'echo got it; exit 5' TERM; echo up; while :; do sleep 0.05; done");
	struct peer *peer = asking(FC_GUEST_ATTACH, "{}");
	expect_event(peer, "container-started");
	uint64_t limit = fc_clock_ms() + LIMIT_MS;
	while (!peer->total && fc_clock_ms() < limit) {
		turn();
		hear(peer);
	}
	struct peer *stopper = asking(FC_GUEST_STOP, "{\"grace\":60}");
	expect(stopper, FC_GUEST_OK);
	expect_event(peer, "container-exited\",\"exit_status\":5}");
	assert_string_equal(peer->out[0], "up\ngot it\n");
	free_peer(stopper);
	free_peer(peer);
}

static void a_container_that_does_not_heed_is_killed(void **state) {
	(void)state;
	start("trap '' TERM; echo up; while :; do sleep 0.05; done");
	struct peer *peer = asking(FC_GUEST_ATTACH, "{}");
	expect_event(peer, "container-started");
	struct peer *stopper = asking(FC_GUEST_STOP, "{\"grace\":1}");
	expect_event(peer, "container-exited\",\"exit_status\":137}");
	free_peer(stopper);
	free_peer(peer);
}

static void stopped_before_it_runs(void **state) {
	(void)state;
	start("hang");
	struct peer *peer = asking(FC_GUEST_ATTACH, "{}");
	struct peer *stopper = asking(FC_GUEST_STOP, "{\"grace\":0}");
	expect_event(peer, "container-exited\",\"exit_status\":137,\"error\":\"stopped before it ran\"}");
	free_peer(stopper);
	free_peer(peer);
}

static void a_signal_is_passed_on(void **state) {
	(void)state;
	start("trap 'exit 9' USR1; echo up; while :; do sleep 0.05; done");
	wait_for(runs);
	wait_for(has_output);
	struct peer *peer = asking(FC_GUEST_ATTACH, "{}");
	expect_event(peer, "container-started");
	struct peer *sender = asking(FC_GUEST_SIGNAL, "{\"signal\":10}");
	expect(sender, FC_GUEST_OK);
	wait_for(exited);
	assert_int_equal(server.container.exit_status, 9);
	free_peer(sender);
	free_peer(peer);
}

/* ---- commands */

static void a_command_in_the_guest(void **state) {
	(void)state;
	struct peer *peer = asking(
	        FC_GUEST_EXEC,
	        "{\"vm\":true,\"argv\":[\"sh\",\"-c\",\"echo $A; pwd; echo bad >&2; exit 4\"],\"env\":{\"A\":\"x y\"},"
	        "\"cwd\":\"/usr\"}");
	expect_text(peer, FC_GUEST_EXITED, "{\"status\":4}");
	assert_string_equal(peer->out[0], "x y\n/usr\n");
	assert_string_equal(peer->out[1], "bad\n");
	expect_closed(peer);
	free_peer(peer);
}

static void how_commands_end(void **state) {
	(void)state;
	static const struct {
		const char *request, *answer;
	} cases[] = {
	        {"{\"vm\":true,\"argv\":[\"sh\",\"-c\",\"kill -15 $$\"]}", "{\"signal\":15}"},
	        {"{\"vm\":true,\"argv\":[\"/nonexistent\"]}",
	         "{\"status\":127,\"error\":\"start /nonexistent: No such file"},
	        {"{\"vm\":true,\"argv\":[\"/etc/passwd\"]}",
	         "{\"status\":126,\"error\":\"start /etc/passwd: Permission denied"},
	        {"{\"vm\":true,\"argv\":[\"true\"],\"cwd\":\"/nonexistent\"}", "{\"status\":127,"},
	        {"{\"vm\":true,\"argv\":[\"sleep\",\"60\"],\"timeout\":1}",
	         "{\"signal\":9,\"error\":\"its time was up\"}"},
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct peer *peer = asking(FC_GUEST_EXEC, cases[i].request);
		expect_text(peer, FC_GUEST_EXITED, cases[i].answer);
		free_peer(peer);
	}
	refused(FC_GUEST_EXEC, "{\"vm\":true,\"argv\":[\"true\"],\"user\":\"no-such-user\"}", "there is no user");
}

static void input_reaches_the_command(void **state) {
	(void)state;
	struct peer *peer = asking(FC_GUEST_EXEC, "{\"vm\":true,\"argv\":[\"cat\"],\"stdin\":true}");
	say_text(peer, FC_GUEST_STDIN, "hello ");
	say_text(peer, FC_GUEST_STDIN, "world");
	say_text(peer, FC_GUEST_STDIN, "");
	expect_text(peer, FC_GUEST_EXITED, "{\"status\":0}");
	assert_string_equal(peer->out[0], "hello world");
	free_peer(peer);
}

static void input_is_granted_as_it_is_taken(void **state) {
	(void)state;
	enum { ALL = 1000000, PIECE = 4000 };
	static char piece[PIECE];
	struct peer *peer = asking(FC_GUEST_EXEC, "{\"vm\":true,\"argv\":[\"wc\",\"-c\"],\"stdin\":true}");
	size_t sent = 0;
	uint64_t limit = fc_clock_ms() + LIMIT_MS;
	while (sent < ALL && fc_clock_ms() < limit) {
		if (sent + PIECE <= FC_GUEST_STDIN_WINDOW + peer->granted) {
			say(peer, FC_GUEST_STDIN, piece, PIECE);
			sent += PIECE;
		}
		turn();
		hear(peer);
	}
	say(peer, FC_GUEST_STDIN, "", 0);
	expect_text(peer, FC_GUEST_EXITED, "{\"status\":0}");
	assert_string_equal(peer->out[0], "1000000\n");
	free_peer(peer);
}

static void input_that_was_not_granted(void **state) {
	(void)state;
	static char piece[60000];
	struct peer *peer = asking(FC_GUEST_EXEC, "{\"vm\":true,\"argv\":[\"sleep\",\"60\"],\"stdin\":true}");
	/* The pipe takes 64 KiB, the agent holds as much. */
	for (int i = 0; i < 4 && peer->last != FC_GUEST_ERROR; i++) {
		say(peer, FC_GUEST_STDIN, piece, sizeof piece);
		turn();
		turn();
		hear(peer);
	}
	expect_text(peer, FC_GUEST_ERROR, "more than was granted");
	free_peer(peer);
	peer = asking(FC_GUEST_EXEC, "{\"vm\":true,\"argv\":[\"sleep\",\"60\"]}");
	say_text(peer, FC_GUEST_STDIN, "x");
	expect_text(peer, FC_GUEST_ERROR, "has no input");
	free_peer(peer);
	peer = asking(FC_GUEST_EXEC, "{\"vm\":true,\"argv\":[\"sleep\",\"60\"],\"stdin\":true}");
	say_text(peer, FC_GUEST_STDIN, "");
	say_text(peer, FC_GUEST_STDIN, "x");
	expect_text(peer, FC_GUEST_ERROR, "the input has ended");
	free_peer(peer);
}

static void a_command_that_does_not_read(void **state) {
	(void)state;
	static char piece[30000];
	struct peer *peer = asking(
	        FC_GUEST_EXEC,
	        "{\"vm\":true,\"argv\":[\"sh\",\"-c\",\"exec <&-; echo closed; read x; sleep 0.2\"],\"stdin\":true}");
	expect(peer, FC_GUEST_OUTPUT);
	say(peer, FC_GUEST_STDIN, piece, sizeof piece);
	expect_text(peer, FC_GUEST_EXITED, "status");
	free_peer(peer);
}

static void output_of_a_command_waits_for_its_reader(void **state) {
	(void)state;
	struct peer *peer = asking(FC_GUEST_EXEC, "{\"vm\":true,\"argv\":[\"head\",\"-c\",\"5000000\",\"/dev/zero\"]}");
	for (int i = 0; i < 50; i++)
		turn();
	assert_true(fc_session_queued(server.sessions) <= FC_SESSION_HIGH + FC_GUEST_HEADER_SIZE);
	expect_text(peer, FC_GUEST_EXITED, "{\"status\":0}");
	assert_int_equal(peer->total, 5000000);
	free_peer(peer);
}

static bool is_alive(pid_t pid) {
	return kill(pid, 0) == 0;
}

/* A command that starts another and prints its PID; the peer leaves, and both are gone. */
static void leave_and_expect_dead(const char *request) {
	struct peer *peer = asking(FC_GUEST_EXEC, request);
	uint64_t limit = fc_clock_ms() + LIMIT_MS;
	while (!strchr(peer->out[0], '\n') && fc_clock_ms() < limit) {
		turn();
		hear(peer);
	}
	pid_t pid = atoi(peer->out[0]);
	assert_true(pid > 1);
	assert_true(is_alive(pid));
	free_peer(peer);
	while (is_alive(pid) && fc_clock_ms() < limit)
		turn();
	assert_false(is_alive(pid));
}

static void a_peer_that_leaves_ends_its_command(void **state) {
	(void)state;
	leave_and_expect_dead("{\"vm\":true,\"argv\":[\"sh\",\"-c\",\"sleep 700 & echo $!; wait\"]}");
	leave_and_expect_dead("{\"vm\":true,\"argv\":[\"sh\",\"-c\",\"setsid sleep 700 & echo $!; wait\"]}");
	start("sleep 60");
	wait_for(runs);
	leave_and_expect_dead("{\"argv\":[\"linger\"]}");
}

static void what_a_command_leaves_behind_goes_on(void **state) {
	(void)state;
	struct peer *peer = asking(FC_GUEST_EXEC, "{\"vm\":true,\"argv\":[\"sh\",\"-c\",\"sleep 60 & echo $!\"]}");
	expect_text(peer, FC_GUEST_EXITED, "{\"status\":0}");
	pid_t pid = atoi(peer->out[0]);
	assert_true(pid > 1 && is_alive(pid));
	kill(pid, SIGKILL);
	free_peer(peer);
}

/* Something is always in the pipe, and still the command's own end is told. */
static void a_chatty_leftover_does_not_hide_the_end(void **state) {
	(void)state;
	struct peer *peer = asking(FC_GUEST_EXEC, "{\"vm\":true,\"argv\":[\"sh\",\"-c\",\"yes & exit 2\"]}");
	expect_text(peer, FC_GUEST_EXITED, "{\"status\":2}");
	free_peer(peer);
}

static void a_command_in_the_container(void **state) {
	(void)state;
	start("sleep 60");
	wait_for(runs);
	struct peer *peer = asking(FC_GUEST_EXEC, "{\"argv\":[\"id\",\"-u\"],\"env\":{\"B\":\"2\"}}");
	expect_text(peer, FC_GUEST_EXITED, "{\"status\":3}");
	assert_string_equal(peer->out[0],
	                    "exec --process 0123abc\n"
	                    "{\"terminal\":false,\"args\":[\"id\",\"-u\"],\"env\":[\"A=1\",\"B=2\"],\"cwd\":\"/\"}");
	free_peer(peer);
	static const struct {
		const char *request, *answer;
	} cases[] = {{"{\"argv\":[\"nosuch\"]}", "{\"status\":127}"},
	             {"{\"argv\":[\"notexec\"]}", "{\"status\":126}"},
	             {"{\"argv\":[\"plain255\"]}", "{\"status\":255}"}};
	for (size_t i = 0; i < 3; i++) {
		peer = asking(FC_GUEST_EXEC, cases[i].request);
		expect_text(peer, FC_GUEST_EXITED, cases[i].answer);
		free_peer(peer);
	}
	/* The descriptions that crun got are gone. */
	turn();
	turn();
	char path[160];
	for (unsigned i = 1; i <= server.exec_serial; i++) {
		snprintf(path, sizeof path, "%s/exec-%u.json", path_run, i);
		assert_int_equal(access(path, F_OK), -1);
	}
}

/* ---- the end */

static void shutdown_after_the_end(void **state) {
	(void)state;
	start("echo last words");
	struct peer *peer = asking(FC_GUEST_ATTACH, "{}");
	expect_event(peer, "container-exited");
	for (int i = 0; i < 5; i++)
		turn();
	/* However long its end is ago, the guest stays until it is told. */
	assert_false(server.done);
	struct peer *last = asking(FC_GUEST_SHUTDOWN, "{}");
	expect(last, FC_GUEST_OK);
	free_peer(last);
	free_peer(peer);
	wait_for(is_done);
}

static void shutdown_ends_what_runs(void **state) {
	(void)state;
	start("sleep 60");
	wait_for(runs);
	struct peer *peer = asking(FC_GUEST_ATTACH, "{}");
	struct peer *command = asking(FC_GUEST_EXEC, "{\"vm\":true,\"argv\":[\"sleep\",\"60\"]}");
	expect_event(peer, "container-started");
	struct peer *last = asking(FC_GUEST_SHUTDOWN, "{}");
	expect(last, FC_GUEST_OK);
	expect_event(peer, "container-exited\",\"exit_status\":137}");
	free_peer(last);
	free_peer(peer);
	free_peer(command);
	wait_for(is_done);
}

static void an_attached_peer_may_finish_reading(void **state) {
	(void)state;
	start("head -c 1000000 /dev/zero");
	wait_for(exited);
	struct peer *peer = asking(FC_GUEST_ATTACH, "{}");
	struct peer *last = asking(FC_GUEST_SHUTDOWN, "{}");
	expect(last, FC_GUEST_OK);
	free_peer(last);
	assert_false(server.done);
	expect_event(peer, "container-exited");
	assert_int_equal(peer->total, 1000000);
	free_peer(peer);
	wait_for(is_done);
}

static void orphans_end_by_themselves(void **state) {
	(void)state;
	config.orphan_seconds = 1;
	start("exit 0");
	struct peer *peer = asking(FC_GUEST_ATTACH, "{\"from\":0}");
	wait_for(exited);
	uint64_t began = fc_clock_ms();
	/* One that is attached and has not read the end yet keeps the guest. */
	free_peer(peer);
	wait_for(is_done);
	assert_true(fc_clock_ms() - began >= 900);
}

static void ctrl_alt_del_stops_and_ends(void **state) {
	(void)state;
	start("trap 'exit 0' TERM; echo up; while :; do sleep 0.05; done");
	wait_for(runs);
	wait_for(has_output);
	kill(getpid(), SIGINT);
	wait_for(is_done);
	assert_true(exited());
	assert_int_equal(server.container.exit_status, 0);
}

static int listener = -1;

static int dial_listener(void) {
	int ends[2];
	if (listener >= 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) < 0)
		return -ECONNREFUSED;
	listener = ends[0];
	return ends[1];
}

static struct peer *announced(void) {
	struct peer *peer = calloc(1, sizeof *peer);
	assert_non_null(peer);
	listener = -1;
	fc_server_announce(&server, dial_listener);
	peer->fd = listener;
	return peer;
}

static void the_host_is_told_when_it_serves(void **state) {
	(void)state;
	plan_for("exit 0", "");
	struct peer *peer = announced();
	expect_text(peer, FC_GUEST_READY, "{\"name\":\"web\",\"boot_ns\":");
	expect_closed(peer);
	free_peer(peer);
	wait_for(no_sessions);
}

static void the_host_is_told_what_failed(void **state) {
	(void)state;
	struct fc_error error;
	fc_error_set(&error, ETIMEDOUT, "wait for device", "/dev/vda", NULL, "it did not appear");
	fc_server_fail(&server, "root", &error);
	struct peer *peer = announced();
	expect_text(
	        peer, FC_GUEST_ERROR,
	        "{\"op\":\"boot: root: wait for device\",\"message\":\"/dev/vda: it did not appear\",\"errno\":110}");
	free_peer(peer);
}

static unsigned refusals;

static int dial_nobody(void) {
	refusals++;
	return -ECONNREFUSED;
}

static bool tried_again(void) {
	return refusals >= 3;
}

static void a_host_that_does_not_listen_yet(void **state) {
	(void)state;
	refusals = 0;
	fc_server_announce(&server, dial_nobody);
	wait_for(tried_again);
	assert_int_equal(server.session_count, 0);
}

int main(void) {
	const struct CMUnitTest tests[] = {
	        SERVED(a_state_is_told),
	        SERVED(an_empty_payload_is_an_empty_object),
	        SERVED(requests_that_make_no_sense),
	        SERVED(greetings_that_make_no_sense),
	        SERVED(a_peer_that_leaves_is_forgotten),
	        SERVED(sessions_are_bounded),
	        SERVED(podman_gets_the_plan),
	        SERVED(output_then_the_end),
	        SERVED(a_signal_is_a_status),
	        SERVED(podmans_own_failure),
	        SERVED(podman_that_is_not_there),
	        SERVED(a_monitor_that_dies),
	        SERVED(a_container_that_ends_before_podman),
	        SERVED(a_monitor_that_dies_before_podman),
	        SERVED(unread_output_stops_the_container),
	        SERVED(who_comes_back_loses_nothing),
	        SERVED(a_slow_peer_holds_the_others_up_but_loses_nothing),
	        SERVED(stop_is_a_signal_then_a_kill),
	        SERVED(a_container_that_does_not_heed_is_killed),
	        SERVED(stopped_before_it_runs),
	        SERVED(a_signal_is_passed_on),
	        SERVED(a_command_in_the_guest),
	        SERVED(how_commands_end),
	        SERVED(input_reaches_the_command),
	        SERVED(input_is_granted_as_it_is_taken),
	        SERVED(input_that_was_not_granted),
	        SERVED(a_command_that_does_not_read),
	        SERVED(output_of_a_command_waits_for_its_reader),
	        SERVED(a_peer_that_leaves_ends_its_command),
	        SERVED(what_a_command_leaves_behind_goes_on),
	        SERVED(a_chatty_leftover_does_not_hide_the_end),
	        SERVED(a_command_in_the_container),
	        SERVED(shutdown_after_the_end),
	        SERVED(shutdown_ends_what_runs),
	        SERVED(an_attached_peer_may_finish_reading),
	        SERVED(orphans_end_by_themselves),
	        SERVED(ctrl_alt_del_stops_and_ends),
	        SERVED(the_host_is_told_when_it_serves),
	        SERVED(the_host_is_told_what_failed),
	        SERVED(a_host_that_does_not_listen_yet),
	};
	return cmocka_run_group_tests(tests, make_files, remove_files);
}
