// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server.h"

enum {
	READ_SIZE = 65536,
	GREETING_MS = 10000, /* from the connection to a whole request */
	PUT_OFF_MS = 1000,   /* timers in a silence */
	LINGER_MS = 60000,   /* from the last byte sent to the peer's close: until then it may still be reading */
	QUEUE_MAX = 1 << 20, /* no well-meaning peer comes here: data stops at FC_SESSION_HIGH */
};

static void on_ready(struct fc_source *source, uint32_t events);
static void on_timer(struct fc_timer *timer);

struct fc_session *fc_session_new(struct fc_server *server, int fd, enum fc_session_state state) {
	struct fc_session *session = calloc(1, sizeof *session);
	if (!session)
		return NULL;
	session->server = server;
	session->state = state;
	session->source = (struct fc_source){.fd = fd, .ready = on_ready};
	session->timer.fire = on_timer;
	if (fc_loop_watch(&server->loop, &session->source, EPOLLIN | EPOLLRDHUP | EPOLLOUT) < 0) {
		free(session);
		return NULL;
	}
	fc_timer_start(&server->loop, &session->timer, GREETING_MS);
	session->next = server->sessions;
	server->sessions = session;
	server->session_count++;
	unsigned char hello[FC_GUEST_HELLO_SIZE];
	fc_hello_write(hello);
	fc_session_send(session, FC_GUEST_HELLO, 0, hello, sizeof hello);
	return session;
}

struct fc_session *fc_session_new_parked(struct fc_server *server) {
	struct fc_session *session = calloc(1, sizeof *session);
	if (!session)
		return NULL;
	session->server = server;
	session->state = FC_SESSION_EXEC;
	session->parked = true;
	session->source = (struct fc_source){.fd = -1};
	session->timer.fire = on_timer;
	fc_timer_start(&server->loop, &session->timer, server->config->resume_seconds * 1000ull);
	session->next = server->sessions;
	server->sessions = session;
	return session;
}

void fc_session_free(struct fc_session *session) {
	struct fc_server *server = session->server;
	if (session->exec)
		fc_exec_free(session->exec);
	fc_loop_watch(&server->loop, &session->source, 0);
	fc_timer_stop(&server->loop, &session->timer);
	if (session->source.fd >= 0)
		close(session->source.fd);
	fc_decoder_clear(&session->decoder);
	free(session->queue);
	free(session);
}

size_t fc_session_queued(const struct fc_session *session) {
	return session->queue_end - session->queue_begin;
}

size_t fc_session_room(const struct fc_session *session) {
	size_t queued = fc_session_queued(session);
	if (session->dead || session->state == FC_SESSION_ENDING || queued >= FC_SESSION_HIGH || session->parked ||
	    session->server->quiet != FC_QUIET_NO)
		return 0;
	size_t room = FC_SESSION_HIGH - queued;
	return room < FC_GUEST_PAYLOAD_MAX ? room : FC_GUEST_PAYLOAD_MAX;
}

void fc_session_watch(struct fc_session *session) {
	uint32_t events = EPOLLIN | EPOLLRDHUP;
	if ((fc_session_queued(session) && !fc_quiet_mutes(session)) || (session->announcer && !session->connected))
		events |= EPOLLOUT;
	if (session->frozen || session->parked || (session->last && !fc_session_queued(session)))
		events = 0;
	if (!session->dead && fc_loop_watch(&session->server->loop, &session->source, events) < 0)
		fc_session_drop(session);
}

static bool make_room(struct fc_session *session, size_t size) {
	size_t queued = fc_session_queued(session);
	if (session->queue_begin) {
		memmove(session->queue, session->queue + session->queue_begin, queued);
		session->queue_begin = 0;
		session->queue_end = queued;
	}
	if (queued + size <= session->queue_room)
		return true;
	size_t room = queued + size > 4096 ? (queued + size) * 2 : 4096;
	unsigned char *grown = queued + size <= QUEUE_MAX ? realloc(session->queue, room) : NULL;
	if (!grown)
		return false;
	session->queue = grown;
	session->queue_room = room;
	return true;
}

void fc_session_send(struct fc_session *session, uint8_t type, uint8_t stream, const void *payload, size_t size) {
	if (session->dead || session->shut)
		return;
	if (size > FC_GUEST_PAYLOAD_MAX || !make_room(session, FC_GUEST_HEADER_SIZE + size)) {
		fc_session_drop(session);
		return;
	}
	fc_frame_header(session->queue + session->queue_end, type, stream, (uint32_t)size);
	session->queue_end += FC_GUEST_HEADER_SIZE;
	if (size)
		memcpy(session->queue + session->queue_end, payload, size);
	session->queue_end += size;
	fc_session_watch(session);
}

void fc_session_send_text(struct fc_session *session, uint8_t type, struct fc_text *text) {
	if (text->failed || text->size > FC_GUEST_PAYLOAD_MAX)
		fc_session_drop(session);
	else
		fc_session_send(session, type, 0, text->data, text->size);
	fc_text_clear(text);
}

void fc_session_fail(struct fc_session *session, const struct fc_error *error) {
	struct fc_text text = {0};
	if (session->dead || session->state == FC_SESSION_ENDING)
		return;
	fc_text_puts(&text, "{\"op\":");
	fc_text_put_json(&text, error->op, strlen(error->op));
	const char *message = error->message[0] ? error->message : strerror(error->err);
	fc_text_puts(&text, ",\"message\":");
	fc_text_put_json(&text, message, strlen(message));
	fc_text_putf(&text, ",\"errno\":%d}", error->err);
	fc_session_send_text(session, FC_GUEST_ERROR, &text);
	fc_session_end(session);
}

/*
 * Everything was sent: says so, and waits for the peer to close, so that nothing is cut off. Firecracker does not pass
 * the end of one direction on, so peers go by the last frame; and it drops what is on its way when we close.
 */
static void shut(struct fc_session *session) {
	if (session->server->quiet != FC_QUIET_NO)
		return;
	session->shut = true;
	shutdown(session->source.fd, SHUT_WR);
	fc_timer_start(&session->server->loop, &session->timer, LINGER_MS);
	if (session->attached)
		fc_server_update_orphan(session->server);
}

void fc_session_end(struct fc_session *session) {
	if (session->dead || session->state == FC_SESSION_ENDING)
		return;
	if (session->exec) {
		fc_exec_free(session->exec);
		session->exec = NULL;
	}
	session->state = FC_SESSION_ENDING;
	/* However long the peer takes to read what is queued: its writer has waited for it too. */
	fc_timer_stop(&session->server->loop, &session->timer);
	if (!fc_session_queued(session))
		shut(session);
}

void fc_session_drop(struct fc_session *session) {
	if (session->dead)
		return;
	session->dead = true;
	fc_loop_watch(&session->server->loop, &session->source, 0);
	fc_timer_stop(&session->server->loop, &session->timer);
	/* Its command ends with it, at the end of the turn: who sends for it may be the one that fails here. */
	if (session->attached)
		fc_server_update_orphan(session->server);
}

void fc_session_settle(struct fc_session *session) {
	if (session->state == FC_SESSION_ENDING && !session->shut && !session->dead && !fc_session_queued(session))
		shut(session);
}

static void on_timer(struct fc_timer *timer) {
	struct fc_session *session = fc_container_of(timer, struct fc_session, timer);
	struct fc_error error;
	if (session->server->quiet != FC_QUIET_NO) {
		fc_timer_start(&session->server->loop, timer, PUT_OFF_MS);
	} else if (session->state == FC_SESSION_GREETING || session->state == FC_SESSION_ASKING) {
		fc_error_set(&error, ETIMEDOUT, "wait for request", NULL, NULL, "nothing was asked within %d s",
		             GREETING_MS / 1000);
		fc_session_fail(session, &error);
	} else {
		fc_session_drop(session);
	}
}

static void send_event(struct fc_session *session, const struct fc_event *event) {
	fc_session_send(session, FC_GUEST_EVENT, 0, event->json, strlen(event->json));
	session->next_event++;
}

void fc_session_pump(struct fc_session *session) {
	struct fc_server *server = session->server;
	while (session->state == FC_SESSION_ATTACHED && !session->dead) {
		size_t room = fc_session_room(session);
		const struct fc_event *event =
		        session->next_event < server->event_count ? &server->events[session->next_event] : NULL;
		if (room == 0)
			return;
		if (event && event->offset <= session->cursor) {
			send_event(session, event);
			continue;
		}
		if (event && event->offset - session->cursor < room)
			room = (size_t)(event->offset - session->cursor);
		uint8_t stream;
		const unsigned char *data;
		size_t size = fc_output_read(&server->output, session->cursor, room, &stream, &data);
		if (size) {
			fc_session_send(session, FC_GUEST_OUTPUT, stream, data, size);
			session->cursor += size;
			continue;
		}
		if (server->container.published || server->failed)
			fc_session_end(session);
		return;
	}
}

void fc_session_flush(struct fc_session *session) {
	if (session->dead || fc_quiet_mutes(session))
		return;
	while (fc_session_queued(session)) {
		ssize_t n = send(session->source.fd, session->queue + session->queue_begin, fc_session_queued(session),
		                 MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			if (errno != EAGAIN)
				fc_session_drop(session);
			return;
		}
		session->queue_begin += (size_t)n;
	}
	session->queue_begin = session->queue_end = 0;
}

/* The peer took something: what waited for that goes on. */
static void on_writable(struct fc_session *session) {
	if (session->announcer && !session->connected) {
		int problem = 0;
		socklen_t size = sizeof problem;
		if (getsockopt(session->source.fd, SOL_SOCKET, SO_ERROR, &problem, &size) < 0 || problem) {
			fc_session_drop(session);
			return;
		}
		session->connected = true;
	}
	fc_session_flush(session);
	if (session->attached) {
		fc_session_pump(session);
		fc_server_update_hold(session->server);
	} else if (session->state == FC_SESSION_EXEC && session->exec) {
		fc_exec_resume(session->exec);
	}
	if (session->announcer && !fc_session_queued(session))
		fc_session_end(session);
	fc_session_settle(session);
	if (!session->dead)
		fc_session_watch(session);
}

static void greet(struct fc_session *session, const struct fc_frame *frame) {
	struct fc_error error;
	int r = frame->type == FC_GUEST_HELLO
	                ? fc_hello_check(frame->payload, frame->size, &error)
	                : fc_error_set(&error, EPROTO, "greet", NULL, NULL, "the first frame is no HELLO");
	if (r < 0)
		fc_session_fail(session, &error);
	else
		session->state = FC_SESSION_ASKING;
}

static void on_frame(struct fc_session *session, const struct fc_frame *frame) {
	struct fc_error error;
	switch (session->state) {
	case FC_SESSION_GREETING:
		greet(session, frame);
		return;
	case FC_SESSION_ASKING:
		fc_timer_stop(&session->server->loop, &session->timer);
		fc_request(session, frame);
		return;
	case FC_SESSION_EXEC:
		if (frame->type != FC_GUEST_STDIN)
			break;
		if (fc_exec_input(session->exec, frame->payload, frame->size, &error) < 0)
			fc_session_fail(session, &error);
		return;
	case FC_SESSION_CONNECTING:
	case FC_SESSION_ENDING:
		return; /* what crosses our last word is no error */
	case FC_SESSION_ATTACHED:
		break;
	}
	const char *name = fc_frame_name(frame->type);
	fc_error_set(&error, EPROTO, "take frame", NULL, NULL, "a frame of type %s (0x%02x) has no place here",
	             name ? name : "unknown", frame->type);
	fc_session_fail(session, &error);
}

static void take(struct fc_session *session, const unsigned char *data, size_t size) {
	struct fc_error error;
	struct fc_frame frame;
	/* Whoever is being left has nothing more to say. */
	if (session->state == FC_SESSION_ENDING || session->state == FC_SESSION_CONNECTING)
		return;
	int r = fc_decoder_feed(&session->decoder, data, size, &error);
	while (r >= 0 && !session->dead && (r = fc_decoder_next(&session->decoder, &frame, &error)) > 0)
		on_frame(session, &frame);
	if (r < 0)
		fc_session_fail(session, &error);
}

static void on_readable(struct fc_session *session) {
	unsigned char buffer[READ_SIZE];
	ssize_t n = recv(session->source.fd, buffer, sizeof buffer, MSG_DONTWAIT);
	if (n > 0)
		take(session, buffer, (size_t)n);
	else if (n == 0 || (errno != EAGAIN && errno != EINTR))
		fc_session_drop(session);
}

static void on_ready(struct fc_source *source, uint32_t events) {
	struct fc_session *session = fc_container_of(source, struct fc_session, source);
	if (events & EPOLLOUT)
		on_writable(session);
	if (!session->dead && (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)))
		on_readable(session);
}
