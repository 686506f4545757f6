// SPDX-License-Identifier: Apache-2.0
/* The agent's silence for a snapshot: what is sent before it, nothing in it, and how everything goes on. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "agent_harness.h"
#include "clock.h"

enum { SILENCE_MS = 300 };

static const char counting[] = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done";

static bool is_silent(void) {
	return server.quiet == FC_QUIET_YES;
}

static bool is_awake(void) {
	return server.quiet == FC_QUIET_NO;
}

static bool is_draining(void) {
	return server.quiet == FC_QUIET_DRAINING;
}

static void run(const char *command) {
	start(command);
	wait_for(runs);
	wait_for(has_output);
}

static struct peer *silence(void) {
	struct peer *asker = asking(FC_GUEST_QUIESCE, "{}");
	expect(asker, FC_GUEST_OK);
	assert_true(is_silent());
	return asker;
}

static void wake(void) {
	struct peer *waker = asking(FC_GUEST_WAKE, "{}");
	expect(waker, FC_GUEST_OK);
	assert_true(is_awake());
	free_peer(waker);
}

static void hear_for(struct peer *peer, unsigned ms) {
	uint64_t limit = fc_clock_ms() + ms;
	while (fc_clock_ms() < limit) {
		turn();
		hear(peer);
	}
}

static void expect_some(struct peer *peer) {
	uint64_t limit = fc_clock_ms() + LIMIT_MS;
	while (!peer->total && fc_clock_ms() < limit) {
		turn();
		hear(peer);
	}
	assert_true(peer->total > 0);
}

/* Nothing comes, no end either. */
static void expect_silence(struct peer *peer) {
	char buffer[16];
	uint64_t limit = fc_clock_ms() + SILENCE_MS;
	while (fc_clock_ms() < limit) {
		turn();
		assert_int_equal(recv(peer->fd, buffer, sizeof buffer, MSG_DONTWAIT), -1);
		assert_int_equal(errno, EAGAIN);
	}
}

/* All numbers from 1 on stand in what two peers got, a line each, as far as it goes. */
static void expect_counted(struct peer *first, struct peer *second, long least) {
	static char all[2 << 16];
	memcpy(all, first->out[0], first->out_size[0]);
	memcpy(all + first->out_size[0], second->out[0], second->out_size[0]);
	all[first->out_size[0] + second->out_size[0]] = '\0';
	char *at = all;
	long i = 0;
	for (char *end; (end = strchr(at, '\n')); at = end + 1)
		assert_int_equal(strtol(at, NULL, 10), ++i);
	assert_true(i >= least);
}

/* Comes back to where another peer was sent away. */
static struct peer *again(struct peer *before) {
	char request[64];
	snprintf(request, sizeof request, "{\"from\":%zu}", before->total);
	return asking(FC_GUEST_ATTACH, request);
}

static struct peer *resumed(const struct peer *before, const char *answer) {
	char request[64];
	const char *id = strstr(before->events, "{\"event\":\"quiet\",\"exec\":");
	assert_non_null(id);
	snprintf(request, sizeof request, "{\"exec\":%d}", atoi(id + 24));
	struct peer *peer = asking(FC_GUEST_RESUME, request);
	expect_event(peer, answer);
	return peer;
}

static void the_answer_is_the_last(void **state) {
	(void)state;
	run(counting);
	struct peer *attached = asking(FC_GUEST_ATTACH, "{}");
	expect_some(attached);
	struct peer *asker = silence();
	hear(attached);
	/* Whole frames have come, and a last one that says why. */
	assert_int_equal(attached->decoder.end, attached->decoder.begin);
	assert_string_equal(attached->text, "{\"event\":\"quiet\"}");
	uint64_t end = server.output.end;
	expect_silence(attached);
	expect_silence(asker);
	/* The container went on, and what it wrote waits in its pipe. */
	assert_int_equal(server.output.end, end);
	wake();
	expect_closed(attached);
	expect_closed(asker);
	struct peer *back = again(attached);
	expect_some(back);
	expect_counted(attached, back, 2);
	assert_non_null(strstr(back->events, "container-started"));
	free_peer(asker);
	free_peer(attached);
	free_peer(back);
}

/* Of three million bytes, what a peer did not get before it was sent away. */
static void expect_rest(struct peer *before) {
	struct peer *back = again(before);
	uint64_t limit = fc_clock_ms() + LIMIT_MS;
	while (before->total + back->total < 3000000 && fc_clock_ms() < limit) {
		turn();
		hear(back);
	}
	assert_int_equal(before->total + back->total, 3000000);
	free_peer(back);
}

static void it_comes_at_once_where_peers_leave(void **state) {
	(void)state;
	run(counting);
	struct peer *attached = asking(FC_GUEST_ATTACH, "{}");
	expect_some(attached);
	uint64_t began = fc_clock_ms();
	struct peer *asker = asking(FC_GUEST_QUIESCE, "{}");
	expect_event(attached, "quiet");
	assert_true(is_draining());
	free_peer(attached);
	expect(asker, FC_GUEST_OK);
	assert_true(fc_clock_ms() - began < 900);
	assert_int_equal(server.session_count, 1);
	wake();
	free_peer(asker);
}

static void a_full_pipe_stops_its_writer_and_loses_nothing(void **state) {
	(void)state;
	run("head -c 3000000 /dev/zero; sleep 60");
	struct peer *attached = asking(FC_GUEST_ATTACH, "{}");
	expect_some(attached);
	struct peer *asker = silence();
	hear_for(attached, SILENCE_MS); /* what was sent before */
	expect_silence(attached);
	wake();
	expect_rest(attached);
	free_peer(asker);
	free_peer(attached);
}

static void a_peer_that_does_not_read_is_not_waited_for_long(void **state) {
	(void)state;
	run("head -c 3000000 /dev/zero; sleep 60");
	struct peer *slow = asking(FC_GUEST_ATTACH, "{}");
	for (int i = 0; i < 10; i++)
		turn();
	uint64_t began = fc_clock_ms();
	struct peer *asker = silence();
	assert_true(fc_clock_ms() - began >= 900);
	/* Half of a frame may be on its way to it; the other half follows after the silence. */
	wake();
	expect_event(slow, "quiet");
	expect_rest(slow);
	free_peer(asker);
	free_peer(slow);
}

static bool took_input(void) {
	return server.sessions->exec && server.sessions->exec->taken == 2;
}

static void commands_wait_and_are_resumed(void **state) {
	(void)state;
	run("echo up; sleep 60");
	struct peer *command = asking(
	        FC_GUEST_EXEC,
	        "{\"vm\":true,\"stdin\":true,\"argv\":[\"sh\",\"-c\",\"echo a; sleep 0.1; echo b; cat; exit 3\"]}");
	expect_some(command);
	say_text(command, FC_GUEST_STDIN, "c\n");
	wait_for(took_input);
	struct peer *asker = silence();
	hear(command);
	assert_string_equal(command->out[0], "a\n");
	/* What it says now is lost: the agent tells how much it took. */
	say_text(command, FC_GUEST_STDIN, "lost");
	expect_silence(command);
	wake();
	struct peer *back = resumed(command, "{\"event\":\"resumed\",\"stdin\":2,\"stdin_ended\":false}");
	say_text(back, FC_GUEST_STDIN, "d\n");
	say_text(back, FC_GUEST_STDIN, "");
	expect_text(back, FC_GUEST_EXITED, "{\"status\":3}");
	assert_string_equal(back->out[0], "b\nc\nd\n");
	free_peer(command);
	free_peer(back);
	free_peer(asker);
}

/* Twice, with its input's end before the second. */
static void commands_are_resumed_again(void **state) {
	(void)state;
	run("echo up; sleep 60");
	struct peer *command =
	        asking(FC_GUEST_EXEC,
	               "{\"vm\":true,\"stdin\":true,\"argv\":[\"sh\",\"-c\",\"echo a; cat; sleep 0.3; echo b\"]}");
	expect_some(command);
	struct peer *asker = silence();
	hear(command);
	wake();
	struct peer *back = resumed(command, "\"stdin\":0,\"stdin_ended\":false}");
	say_text(back, FC_GUEST_STDIN, "");
	free_peer(command);
	free_peer(asker);
	hear_for(back, 50);
	asker = silence();
	hear(back);
	wake();
	struct peer *last = resumed(back, "\"stdin\":0,\"stdin_ended\":true}");
	expect_text(last, FC_GUEST_EXITED, "{\"status\":0}");
	assert_string_equal(last->out[0], "b\n");
	free_peer(last);
	free_peer(back);
	free_peer(asker);
}

static void commands_that_are_not_resumed_are_killed(void **state) {
	(void)state;
	config.resume_seconds = 1;
	run("echo up; sleep 60");
	struct peer *command = asking(FC_GUEST_EXEC, "{\"vm\":true,\"argv\":[\"sh\",\"-c\",\"echo $$; sleep 700\"]}");
	expect_some(command);
	pid_t pid = atoi(command->out[0]);
	assert_true(pid > 1);
	struct peer *asker = silence();
	/* Its time does not begin before the silence's end. */
	for (uint64_t limit = fc_clock_ms() + 1200; fc_clock_ms() < limit;)
		turn();
	assert_int_equal(kill(pid, 0), 0);
	uint64_t began = fc_clock_ms();
	wake();
	while (kill(pid, 0) == 0 && fc_clock_ms() < began + LIMIT_MS)
		turn();
	assert_int_equal(kill(pid, 0), -1);
	assert_true(fc_clock_ms() - began >= 900);
	struct peer *late = asking(FC_GUEST_RESUME, "{\"exec\":1}");
	expect_text(late, FC_GUEST_ERROR, "no command 1 that waits to be resumed\",\"errno\":3}");
	free_peer(late);
	free_peer(command);
	free_peer(asker);
}

static void resuming_what_makes_no_sense(void **state) {
	(void)state;
	static const struct {
		const char *request, *why;
	} cases[] = {{"{}", "'exec' is missing"},
	             {"{\"exec\":0}", "'exec' is 0"},
	             {"{\"exec\":4294967296}", "'exec' is 4294967296"},
	             {"{\"exec\":\"1\"}", "'exec' is no integer"},
	             {"{\"exec\":1,\"x\":1}", "unknown key 'x'"},
	             {"{\"exec\":1}", "no command 1 that waits"}};
	run("echo up; sleep 60");
	/* One that runs and was not sent away is nobody else's. */
	struct peer *command = asking(FC_GUEST_EXEC, "{\"vm\":true,\"argv\":[\"sh\",\"-c\",\"echo a; sleep 0.2\"]}");
	expect_some(command);
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct peer *peer = asking(FC_GUEST_RESUME, cases[i].request);
		expect_text(peer, FC_GUEST_ERROR, cases[i].why);
		free_peer(peer);
	}
	expect_text(command, FC_GUEST_EXITED, "{\"status\":0}");
	free_peer(command);
}

/* Its end came in the silence: not a word of it before the silence's end. */
static void a_command_that_ends_in_it(void **state) {
	(void)state;
	run("echo up; sleep 60");
	struct peer *command = asking(FC_GUEST_EXEC, "{\"vm\":true,\"argv\":[\"sh\",\"-c\",\"echo a; sleep 0.1\"]}");
	expect_some(command);
	struct peer *asker = silence();
	hear(command);
	expect_silence(command);
	assert_true(server.sessions->parked && server.sessions->exec->reaped);
	wake();
	struct peer *back = resumed(command, "resumed");
	expect_text(back, FC_GUEST_EXITED, "{\"status\":0}");
	free_peer(command);
	free_peer(back);
	free_peer(asker);
}

static void a_container_that_ends_in_it(void **state) {
	(void)state;
	char go[96];
	snprintf(go, sizeof go, "%s/go", dir);
	run("echo up; while [ ! -e $EXITS/../go ]; do sleep 0.02; done; echo down; exit 4");
	struct peer *attached = asking(FC_GUEST_ATTACH, "{}");
	expect_some(attached);
	struct peer *asker = silence();
	hear(attached);
	write_file(go, "", 0644);
	wait_for(exited);
	unlink(go);
	expect_silence(attached);
	wake();
	struct peer *back = again(attached);
	expect_event(back, "container-exited\",\"exit_status\":4}");
	assert_string_equal(attached->out[0], "up\n");
	assert_string_equal(back->out[0], "down\n");
	free_peer(back);
	free_peer(attached);
	free_peer(asker);
}

static void it_ends_by_itself(void **state) {
	(void)state;
	config.quiet_seconds = 1;
	run(counting);
	struct peer *attached = asking(FC_GUEST_ATTACH, "{}");
	expect_some(attached);
	uint64_t began = fc_clock_ms();
	struct peer *asker = silence();
	/* Its host dies. */
	free_peer(asker);
	wait_for(is_awake);
	assert_true(fc_clock_ms() - began >= 900);
	expect_event(attached, "quiet");
	struct peer *back = again(attached);
	expect_some(back);
	expect_counted(attached, back, 2);
	free_peer(attached);
	free_peer(back);
}

static void its_end_waits_for_the_reset(void **state) {
	(void)state;
	config.reset_ms = LIMIT_MS;
	run("echo up; sleep 60");
	struct peer *asker = silence();
	for (int i = 0; i < 2; i++) {
		struct peer *waker = asking(FC_GUEST_WAKE, "{}");
		expect_text(waker, FC_GUEST_ERROR, "not reset yet");
		assert_true(is_silent());
		free_peer(waker);
	}
	/* As the kernel ends it. */
	free_peer(asker);
	wake();
}

static void its_end_does_not_wait_for_ever(void **state) {
	(void)state;
	config.reset_ms = 300;
	run("echo up; sleep 60");
	for (int i = 0; i < 2; i++) {
		struct peer *asker = silence();
		struct peer *waker = asking(FC_GUEST_WAKE, "{}");
		expect_text(waker, FC_GUEST_ERROR, "\"errno\":11}");
		free_peer(waker);
		hear_for(asker, 400);
		wake();
		free_peer(asker);
	}
}

static void asked_again_it_begins_anew(void **state) {
	(void)state;
	run("echo up; sleep 60");
	struct peer *asker = silence();
	uint64_t due = server.quiet_timer.due_ms;
	for (uint64_t began = fc_clock_ms(); fc_clock_ms() <= began + 1;)
		turn();
	struct peer *other = silence();
	assert_true(server.quiet_timer.armed && server.quiet_timer.due_ms > due);
	expect_silence(asker);
	expect_silence(other);
	wake();
	expect_closed(asker);
	expect_closed(other);
	free_peer(asker);
	free_peer(other);
}

static void newcomers_wait(void **state) {
	(void)state;
	run("echo up; sleep 60");
	struct peer *asker = silence();
	struct peer *status = asking(FC_GUEST_STATUS, "{}");
	struct peer *wrong = asking(FC_GUEST_STATUS, "{\"x\":1}");
	struct peer *attached = asking(FC_GUEST_ATTACH, "{}");
	expect_silence(status);
	expect_silence(wrong);
	expect_silence(attached);
	wake();
	expect_text(status, FC_GUEST_STATE, "\"container\":\"running\"");
	expect_text(wrong, FC_GUEST_ERROR, "unknown key 'x'");
	expect_text(attached, FC_GUEST_ERROR, "a snapshot is being made\",\"errno\":16}");
	expect_closed(status);
	free_peer(status);
	free_peer(wrong);
	free_peer(attached);
	free_peer(asker);
}

static void a_word_that_makes_no_sense_is_told_so(void **state) {
	(void)state;
	run("echo up; sleep 60");
	struct peer *asker = silence();
	struct peer *peer = asking(FC_GUEST_WAKE, "{\"x\":1}");
	expect_text(peer, FC_GUEST_ERROR, "unknown key 'x'");
	assert_true(is_silent());
	free_peer(peer);
	wake();
	free_peer(asker);
}

static void refused(const char *why) {
	struct peer *peer = asking(FC_GUEST_QUIESCE, "{}");
	expect_text(peer, FC_GUEST_ERROR, why);
	assert_true(is_awake());
	free_peer(peer);
}

static void only_a_container_that_runs(void **state) {
	(void)state;
	refused("the container does not run yet (none)\",\"errno\":11}");
	start("hang");
	refused("the container does not run yet (starting)");
	struct peer *stopper = asking(FC_GUEST_STOP, "{\"grace\":0}");
	wait_for(exited);
	refused("the container has ended\",\"errno\":3}");
	free_peer(stopper);
}

static void one_at_a_time(void **state) {
	(void)state;
	run("head -c 3000000 /dev/zero; sleep 60");
	struct peer *slow = asking(FC_GUEST_ATTACH, "{}");
	for (int i = 0; i < 10; i++)
		turn();
	struct peer *asker = asking(FC_GUEST_QUIESCE, "{}");
	wait_for(is_draining);
	struct peer *other = asking(FC_GUEST_QUIESCE, "{}");
	expect_text(other, FC_GUEST_ERROR, "\"errno\":114}");
	/* Nothing is begun any more that would last. */
	struct peer *late = asking(FC_GUEST_EXEC, "{\"vm\":true,\"argv\":[\"true\"]}");
	expect_text(late, FC_GUEST_ERROR, "a snapshot is being made");
	free_peer(late);
	late = asking(FC_GUEST_RESUME, "{\"exec\":1}");
	expect_text(late, FC_GUEST_ERROR, "a snapshot is being made");
	free_peer(late);
	/* A word that wakes comes before the silence: it is not to be any more. */
	struct peer *waker = asking(FC_GUEST_WAKE, "{}");
	expect(waker, FC_GUEST_OK);
	expect_text(asker, FC_GUEST_ERROR, "woken meanwhile");
	assert_true(is_awake());
	free_peer(waker);
	free_peer(other);
	free_peer(asker);
	free_peer(slow);
}

static void who_asked_and_left(void **state) {
	(void)state;
	run("head -c 3000000 /dev/zero; sleep 60");
	struct peer *slow = asking(FC_GUEST_ATTACH, "{}");
	for (int i = 0; i < 10; i++)
		turn();
	struct peer *asker = asking(FC_GUEST_QUIESCE, "{}");
	wait_for(is_draining);
	free_peer(asker);
	wait_for(is_awake);
	free_peer(slow);
}

static void waking_the_awake(void **state) {
	(void)state;
	struct peer *waker = asking(FC_GUEST_WAKE, "{}");
	expect(waker, FC_GUEST_OK);
	free_peer(waker);
}

/* As Firecracker has it at each snapshot: all connections are found closed afterwards. */
static void peers_that_are_gone_are_seen_after_it(void **state) {
	(void)state;
	run("echo up; sleep 60");
	struct peer *attached = asking(FC_GUEST_ATTACH, "{}");
	struct peer *command = asking(FC_GUEST_EXEC, "{\"vm\":true,\"argv\":[\"sh\",\"-c\",\"echo $$; sleep 700\"]}");
	expect_some(command);
	pid_t pid = atoi(command->out[0]);
	assert_true(pid > 1);
	struct peer *asker = silence();
	free_peer(attached);
	free_peer(command);
	free_peer(asker);
	for (int i = 0; i < 10; i++)
		turn();
	assert_int_equal(server.session_count, 3);
	assert_int_equal(kill(pid, 0), 0);
	wake();
	wait_for(no_sessions);
	/* The command waits for its own. */
	assert_int_equal(kill(pid, 0), 0);
	assert_true(runs());
}

static void shutdown_in_it(void **state) {
	(void)state;
	run("echo up; sleep 60");
	struct peer *asker = silence();
	struct peer *last = asking(FC_GUEST_SHUTDOWN, "{}");
	expect(last, FC_GUEST_OK);
	free_peer(asker);
	free_peer(last);
	wait_for(is_done);
}

static void attached_at_the_end(void **state) {
	(void)state;
	start("echo old");
	wait_for(exited);
	struct peer *peer = asking(FC_GUEST_ATTACH, "{\"from\":\"end\"}");
	expect_event(peer, "container-exited");
	assert_int_equal(peer->total, 0);
	assert_non_null(strstr(peer->events, "\"attached\",\"from\":4}"));
	free_peer(peer);
	peer = asking(FC_GUEST_ATTACH, "{\"from\":\"begin\"}");
	expect_text(peer, FC_GUEST_ERROR, "'from' is no integer");
	free_peer(peer);
}

int main(void) {
	const struct CMUnitTest tests[] = {
	        SERVED(the_answer_is_the_last),
	        SERVED(it_comes_at_once_where_peers_leave),
	        SERVED(a_full_pipe_stops_its_writer_and_loses_nothing),
	        SERVED(a_peer_that_does_not_read_is_not_waited_for_long),
	        SERVED(commands_wait_and_are_resumed),
	        SERVED(commands_are_resumed_again),
	        SERVED(commands_that_are_not_resumed_are_killed),
	        SERVED(resuming_what_makes_no_sense),
	        SERVED(a_command_that_ends_in_it),
	        SERVED(a_container_that_ends_in_it),
	        SERVED(it_ends_by_itself),
	        SERVED(its_end_waits_for_the_reset),
	        SERVED(its_end_does_not_wait_for_ever),
	        SERVED(asked_again_it_begins_anew),
	        SERVED(newcomers_wait),
	        SERVED(a_word_that_makes_no_sense_is_told_so),
	        SERVED(only_a_container_that_runs),
	        SERVED(one_at_a_time),
	        SERVED(who_asked_and_left),
	        SERVED(waking_the_awake),
	        SERVED(peers_that_are_gone_are_seen_after_it),
	        SERVED(shutdown_in_it),
	        SERVED(attached_at_the_end),
	};
	return cmocka_run_group_tests(tests, make_files, remove_files);
}
