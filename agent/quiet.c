// SPDX-License-Identifier: Apache-2.0
/*
 * agent/quiet.c: silence on vsock while the host makes a snapshot.
 *
 *     no -> draining (nothing new is begun; what is queued for peers goes out and they leave, for DRAIN_MS at most)
 *        -> yes (the OK to QUIESCE is the last that was sent) -> no, by WAKE, by RESTORE, or when its time is up
 *
 * From the first moment on the pipes of container and commands are not read, so what they write waits there, and where
 * a pipe is full its writer does. In silence the sessions that were there are not looked at, neither read (which would
 * send credit) nor closed (which would say so), and timers of theirs are put off. New ones are served, since one of
 * them brings the word that ends the silence; but only that one is answered, and what the others are told waits.
 *
 * No connection outlives a snapshot, in the source neither: with each, Firecracker tells the guest that its transport
 * was reset, and the kernel ends them all, while Firecracker keeps its own ends open, and the host would wait for ever.
 * So who is attached, and whose command runs, is told "quiet" as the session's last word and comes back after the
 * silence: attached where it was, or with RESUME for the command, which is parked meanwhile. In a clone (RESTORE)
 * nobody comes back, and what was parked is ended.
 *
 * That they leave before the snapshot matters for the clone: its Firecracker counts the ports of its connections from
 * the start again, and where the guest's kernel still knows one of that number, it passes over the new one.
 */
#include <errno.h>
#include <poll.h>
#include <stddef.h>

#include "clock.h"
#include "server.h"

enum { DRAIN_MS = 1000 };

/* ---- before it */

/* The session's last word, where a new one is to go on. Its command waits in a place of its own. */
static void dismiss(struct fc_session *session) {
	struct fc_text text = {0};
	struct fc_exec *exec = session->exec;
	struct fc_session *place = exec ? fc_session_new_parked(session->server) : NULL;
	fc_text_puts(&text, "{\"event\":\"quiet\"");
	if (place)
		fc_text_putf(&text, ",\"exec\":%u", exec->id);
	fc_text_puts(&text, "}");
	if (place) {
		place->exec = exec;
		exec->session = place;
		session->exec = NULL;
	}
	fc_session_send_text(session, FC_GUEST_EVENT, &text);
	fc_session_end(session);
}

static void dismiss_all(struct fc_server *server) {
	/* Places come in front of those that are there. */
	for (struct fc_session *session = server->sessions; session; session = session->next)
		if (!session->dead && !session->parked &&
		    (session->state == FC_SESSION_ATTACHED || (session->state == FC_SESSION_EXEC && session->exec)))
			dismiss(session);
}

bool fc_quiet_mutes(const struct fc_session *session) {
	return session->server->quiet == FC_QUIET_YES && !session->loud;
}

static void put_off(struct fc_session *session) {
	session->frozen = true;
	fc_session_watch(session);
}

/* Answers QUIESCE, and is silent from then on. */
static void fall_silent(struct fc_server *server) {
	struct fc_session *asker = server->quiet_asker;
	server->quiet = FC_QUIET_YES;
	server->quiet_asker = NULL;
	server->awaken_ms = 0;
	fc_timer_start(&server->loop, &server->quiet_timer, server->config->quiet_seconds * 1000ull);
	for (struct fc_session *session = server->sessions; session; session = session->next)
		if (session != asker && !session->dead)
			put_off(session);
	asker->last = true;
	fc_session_send(asker, FC_GUEST_OK, 0, NULL, 0);
	fc_session_end(asker);
	fc_session_flush(asker);
	fc_session_watch(asker);
}

void fc_quiet_check(struct fc_server *server) {
	if (server->quiet != FC_QUIET_DRAINING)
		return;
	/* Who asked is gone, and nobody waits for the silence. */
	if (server->quiet_asker->dead) {
		fc_quiet_end(server);
		return;
	}
	for (struct fc_session *session = server->sessions; session; session = session->next)
		if (session != server->quiet_asker && !session->parked && !session->dead)
			return;
	fall_silent(server);
}

static void on_timer(struct fc_timer *timer) {
	struct fc_server *server = fc_container_of(timer, struct fc_server, quiet_timer);
	/* What a peer did not take in time stays queued: it is not on its way either, and nothing is lost by that. */
	if (server->quiet == FC_QUIET_DRAINING && !server->quiet_asker->dead)
		fall_silent(server);
	else
		fc_quiet_end(server);
}

static int check_state(const struct fc_server *server, struct fc_error *error) {
	enum fc_container_state state = server->container.state;
	if (server->failed || server->leaving)
		return fc_error_set(error, ESHUTDOWN, "quiesce", NULL, NULL, "the guest is going down");
	if (state == FC_CONTAINER_EXITED)
		return fc_error_set(error, ESRCH, "quiesce", NULL, NULL, "the container has ended");
	/* Half of a start is nothing that a clone could go on with under another name. */
	if (state != FC_CONTAINER_RUNNING)
		return fc_error_set(error, EAGAIN, "quiesce", NULL, NULL, "the container does not run yet (%s)",
		                    fc_container_state_name(state));
	return 0;
}

int fc_quiet_begin(struct fc_session *session, struct fc_error *error) {
	struct fc_server *server = session->server;
	int r = check_state(server, error);
	if (r < 0)
		return r;
	if (server->quiet == FC_QUIET_DRAINING)
		return fc_error_set(error, EALREADY, "quiesce", NULL, NULL, "another host's word is being followed");
	server->quiet_asker = session;
	session->loud = true;
	/* One that asks a silent agent (its first answer may be lost) starts the time anew. */
	if (server->quiet == FC_QUIET_YES) {
		fall_silent(server);
		return 0;
	}
	fc_restore_prepare(server);
	server->quiet = FC_QUIET_DRAINING;
	server->quiet_timer.fire = on_timer;
	fc_timer_start(&server->loop, &server->quiet_timer, DRAIN_MS);
	fc_container_hush(server);
	dismiss_all(server);
	return 0;
}

/* ---- after it */

/* Whether this is the session that asked for the silence, and its connection has not ended. */
static bool is_open_asker(const struct fc_session *session) {
	struct pollfd connection = {.fd = session->source.fd};
	return session->last && !session->dead && poll(&connection, 1, 0) >= 0 &&
	       !(connection.revents & (POLLERR | POLLHUP | POLLNVAL));
}

/*
 * After a snapshot the kernel hears from Firecracker that the transport was reset, and ends all connections that it has
 * then: the asker's, which has been open all the while, and every new one. On a busy guest that may be long after the
 * first new connection, and what was begun on it would be ended for no reason that its user could know. So nothing goes
 * on until the asker's connection is seen to have ended.
 */
int fc_quiet_check_reset(const struct fc_session *session, struct fc_error *error) {
	struct fc_server *server = session->server;
	if (server->quiet != FC_QUIET_YES)
		return 0;
	const struct fc_session *asker = server->sessions;
	while (asker && (asker == session || !is_open_asker(asker)))
		asker = asker->next;
	if (!asker)
		return 0;
	uint64_t now = fc_clock_ms();
	if (server->awaken_ms == 0)
		server->awaken_ms = now;
	/* A Firecracker that resets nothing, or a snapshot that was given up before it did. */
	if (now - server->awaken_ms >= server->config->reset_ms)
		return 0;
	return fc_error_set(error, EAGAIN, "go on", NULL, NULL,
	                    "the connections of before the snapshot are not reset yet");
}

static void go_on(struct fc_session *session) {
	if (session->parked) {
		fc_timer_start(&session->server->loop, &session->timer,
		               session->server->config->resume_seconds * 1000ull);
		return;
	}
	session->frozen = session->loud = session->last = false;
	fc_session_watch(session);
	if (session->exec)
		fc_exec_resume(session->exec);
	fc_session_pump(session);
	fc_session_settle(session);
}

void fc_quiet_end(struct fc_server *server) {
	struct fc_session *asker = server->quiet_asker;
	struct fc_error error;
	if (server->quiet == FC_QUIET_NO)
		return;
	server->quiet = FC_QUIET_NO;
	server->quiet_asker = NULL;
	/* It was still on its way there. */
	if (asker) {
		fc_error_set(&error, ECANCELED, "quiesce", NULL, NULL, "the guest was woken meanwhile");
		fc_session_fail(asker, &error);
	}
	fc_timer_stop(&server->loop, &server->quiet_timer);
	for (struct fc_session *session = server->sessions; session; session = session->next)
		if (!session->dead)
			go_on(session);
	fc_container_resume(server);
	fc_server_update_hold(server);
}

int fc_quiet_resume(struct fc_session *session, unsigned id, struct fc_error *error) {
	struct fc_session *place = session->server->sessions;
	while (place && !(place->parked && !place->dead && place->exec->id == id))
		place = place->next;
	if (!place)
		return fc_error_set(error, ESRCH, "resume", NULL, NULL,
		                    "there is no command %u that waits to be resumed", id);
	struct fc_exec *exec = place->exec;
	struct fc_text text = {0};
	fc_text_putf(&text, "{\"event\":\"resumed\",\"stdin\":%llu,\"stdin_ended\":%s}",
	             (unsigned long long)exec->taken, exec->in_ended ? "true" : "false");
	session->exec = exec;
	exec->session = session;
	place->exec = NULL;
	fc_session_drop(place);
	session->state = FC_SESSION_EXEC;
	fc_session_send_text(session, FC_GUEST_EVENT, &text);
	fc_exec_resume(exec);
	return 0;
}
