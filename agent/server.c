// SPDX-License-Identifier: Apache-2.0
#include "server.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
/* After sys/socket.h, whose types it needs. */
#include <linux/vm_sockets.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clock.h"

enum {
	LEAVE_MS = 5000,   /* that attached peers have for what is left when the guest ends */
	ANNOUNCE_MS = 100, /* between tries to reach the host's port */
	ANNOUNCE_TRIES = 50,
	ACCEPT_MAX = 16, /* a turn */
};

/* ---- signals and children */

static void reaped(struct fc_server *server, pid_t pid, int status) {
	fc_container_reaped(server, pid, status);
	for (struct fc_session *session = server->sessions; session; session = session->next) {
		if (session->exec && session->exec->pid == pid) {
			fc_exec_reaped(session->exec, status);
			return;
		}
	}
	/* All others were left behind by someone: to be reaped is all they need. */
}

static void reap(struct fc_server *server) {
	for (;;) {
		int status;
		pid_t pid = waitpid(-1, &status, WNOHANG);
		if (pid <= 0)
			return;
		reaped(server, pid, status);
	}
}

/* Firecracker's SendCtrlAltDel comes as SIGINT. */
static void asked_to_end(struct fc_server *server) {
	server->leave_after_exit = true;
	if (server->plan)
		fc_container_stop(server, server->plan->stop_grace);
	fc_server_update_orphan(server);
}

static void on_signal(struct fc_source *source, uint32_t events) {
	(void)events;
	struct fc_server *server = fc_container_of(source, struct fc_server, signals);
	struct signalfd_siginfo info;
	while (read(source->fd, &info, sizeof info) == (ssize_t)sizeof info)
		if (info.ssi_signo != SIGCHLD)
			asked_to_end(server);
	reap(server);
}

static int open_signals(struct fc_server *server, struct fc_error *error) {
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
		return fc_error_set(error, errno, "block signals", NULL, NULL, NULL);
	server->signals.fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
	if (server->signals.fd < 0 || fc_loop_watch(&server->loop, &server->signals, EPOLLIN) < 0)
		return fc_error_set(error, errno, "open signalfd", NULL, NULL, NULL);
	return 0;
}

/* ---- sessions */

void fc_server_adopt(struct fc_server *server, int fd) {
	struct fc_error error;
	struct fc_session *session = fc_session_new(server, fd, FC_SESSION_GREETING);
	if (!session) {
		close(fd);
		return;
	}
	if (server->session_count <= FC_GUEST_SESSIONS_MAX)
		return;
	fc_error_set(&error, EAGAIN, "open session", NULL, NULL, "there are %d sessions already",
	             FC_GUEST_SESSIONS_MAX);
	if (server->session_count <= 2 * FC_GUEST_SESSIONS_MAX)
		fc_session_fail(session, &error);
	else
		fc_session_drop(session);
}

static void on_connection(struct fc_source *source, uint32_t events) {
	(void)events;
	struct fc_server *server = fc_container_of(source, struct fc_server, listener);
	for (int i = 0; i < ACCEPT_MAX; i++) {
		struct sockaddr_vm peer = {.svm_family = AF_UNSPEC};
		socklen_t size = sizeof peer;
		int fd = accept4(source->fd, (struct sockaddr *)&peer, &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (fd < 0)
			return;
		/* The host alone asks things of the agent: nothing in the guest does. */
		if (peer.svm_family == AF_VSOCK && peer.svm_cid != VMADDR_CID_HOST)
			close(fd);
		else
			fc_server_adopt(server, fd);
	}
}

int fc_server_listen(struct fc_server *server, int fd, struct fc_error *error) {
	server->listener.fd = fd;
	int r = fc_loop_watch(&server->loop, &server->listener, EPOLLIN);
	return r < 0 ? fc_error_set(error, -r, "listen", NULL, NULL, NULL) : 0;
}

static void queue_announcement(struct fc_server *server, struct fc_session *session) {
	struct fc_text text = {0};
	if (server->failed) {
		fc_session_fail(session, &server->failure);
		return;
	}
	const char *name = server->plan ? server->plan->name : "";
	fc_text_puts(&text, "{\"name\":");
	fc_text_put_json(&text, name, strlen(name));
	fc_text_putf(&text, ",\"boot_ns\":%llu}", (unsigned long long)fc_clock_ns());
	fc_session_send_text(session, FC_GUEST_READY, &text);
}

static void announce(struct fc_timer *timer) {
	struct fc_server *server = fc_container_of(timer, struct fc_server, announce_timer);
	int fd = server->dial();
	struct fc_session *session = fd >= 0 ? fc_session_new(server, fd, FC_SESSION_CONNECTING) : NULL;
	if (session) {
		session->announcer = true;
		queue_announcement(server, session);
		return;
	}
	if (fd >= 0)
		close(fd);
	if (++server->announce_tries < ANNOUNCE_TRIES)
		fc_timer_start(&server->loop, &server->announce_timer, ANNOUNCE_MS);
}

void fc_server_announce(struct fc_server *server, int (*dial)(void)) {
	server->dial = dial;
	server->announce_tries = 0;
	server->announce_timer.fire = announce;
	announce(&server->announce_timer);
}

/* Frees the sessions that died in this turn. */
static void sweep(struct fc_server *server) {
	struct fc_session **at = &server->sessions;
	bool changed = false;
	while (*at) {
		struct fc_session *session = *at;
		if (!session->dead) {
			at = &session->next;
			continue;
		}
		*at = session->next;
		server->session_count -= !session->parked;
		if (session->announcer && !session->connected && ++server->announce_tries < ANNOUNCE_TRIES)
			fc_timer_start(&server->loop, &server->announce_timer, ANNOUNCE_MS);
		fc_session_free(session);
		changed = true;
	}
	if (changed)
		fc_server_update_hold(server);
}

/* ---- output and events */

void fc_server_update_hold(struct fc_server *server) {
	uint64_t least = UINT64_MAX;
	for (struct fc_session *session = server->sessions; session; session = session->next) {
		if (!session->attached || session->dead)
			continue;
		/* What is queued counts headers too, so this is never beyond what was sent. */
		uint64_t queued = fc_session_queued(session);
		uint64_t sent = session->cursor > queued ? session->cursor - queued : 0;
		if (sent < least)
			least = sent;
	}
	uint64_t before = server->output.held;
	if (least != UINT64_MAX)
		fc_output_hold(&server->output, least);
	/* Only what moved is new to anyone; this also ends the recursion by way of the container. */
	if (server->output.held != before)
		fc_container_resume(server);
}

void fc_server_event(struct fc_server *server, struct fc_text *json) {
	if (json->failed || server->event_count == FC_EVENTS_MAX) {
		fc_text_clear(json);
		return;
	}
	server->events[server->event_count++] = (struct fc_event){.offset = server->output.end, .json = json->data};
	*json = (struct fc_text){0};
	for (struct fc_session *session = server->sessions; session; session = session->next)
		fc_session_pump(session);
}

void fc_server_stage(struct fc_server *server, const char *name) {
	struct fc_text text = {0};
	if (server->stage_count == FC_STAGES_MAX)
		return;
	struct fc_stage *stage = &server->stages[server->stage_count++];
	snprintf(stage->name, sizeof stage->name, "%s", name);
	stage->ns = fc_clock_ns();
	fc_text_puts(&text, "{\"event\":\"stage\",\"name\":");
	fc_text_put_json(&text, name, strlen(name));
	fc_text_putf(&text, ",\"monotonic_ns\":%llu}", (unsigned long long)stage->ns);
	fc_server_event(server, &text);
}

void fc_server_fail(struct fc_server *server, const char *stage, const struct fc_error *error) {
	char op[64];
	server->failed = true;
	server->failure = *error;
	snprintf(op, sizeof op, "boot: %s", stage);
	fc_error_wrap(&server->failure, op, "");
	/* Sessions say op, message and errno; what it was done to belongs to the message then. */
	if (error->subject[0] && !strstr(error->message, error->subject)) {
		snprintf(server->failure.message, sizeof server->failure.message, "%.200s: %.300s", error->subject,
		         error->message[0] ? error->message : strerror(error->err));
		server->failure.subject[0] = '\0';
	}
	for (struct fc_session *session = server->sessions; session; session = session->next)
		if (session->attached)
			fc_session_fail(session, &server->failure);
	fc_server_update_orphan(server);
}

static void put_stages(const struct fc_server *server, struct fc_text *text) {
	fc_text_puts(text, ",\"stages\":[");
	for (size_t i = 0; i < server->stage_count; i++) {
		fc_text_puts(text, i ? ",{\"name\":" : "{\"name\":");
		fc_text_put_json(text, server->stages[i].name, strlen(server->stages[i].name));
		fc_text_putf(text, ",\"monotonic_ns\":%llu}", (unsigned long long)server->stages[i].ns);
	}
	fc_text_puts(text, "]");
}

static void put_string(struct fc_text *text, const char *key, const char *value) {
	fc_text_putf(text, ",\"%s\":", key);
	fc_text_put_json(text, value, strlen(value));
}

void fc_server_status(const struct fc_server *server, struct fc_text *text) {
	const struct fc_container *container = &server->container;
	char sentence[1200];
	fc_text_putf(text, "{\"version\":%d,\"monotonic_ns\":%llu", FC_GUEST_VERSION,
	             (unsigned long long)fc_clock_ns());
	put_string(text, "container", fc_container_state_name(container->state));
	if (server->plan)
		put_string(text, "name", server->plan->name);
	if (server->generation[0])
		put_string(text, "generation", server->generation);
	if (container->id[0])
		put_string(text, "id", container->id);
	if (container->pid > 0)
		fc_text_putf(text, ",\"pid\":%d", container->pid);
	if (container->state == FC_CONTAINER_EXITED)
		fc_text_putf(text, ",\"exit_status\":%d", container->exit_status);
	if (container->error && strlen(container->error) < FC_GUEST_PAYLOAD_MAX / 8)
		put_string(text, "error", container->error);
	if (server->failed)
		put_string(text, "boot_error", fc_error_format(&server->failure, sentence, sizeof sentence));
	fc_text_putf(text, ",\"sessions\":%zu,\"output\":{\"begin\":%llu,\"held\":%llu,\"end\":%llu}",
	             server->session_count, (unsigned long long)server->output.begin,
	             (unsigned long long)server->output.held, (unsigned long long)server->output.end);
	put_stages(server, text);
	fc_text_puts(text, "}");
}

/* ---- the end */

static bool is_attached(const struct fc_server *server) {
	for (const struct fc_session *session = server->sessions; session; session = session->next)
		if (session->attached && !session->dead && !session->shut)
			return true;
	return false;
}

void fc_server_update_orphan(struct fc_server *server) {
	bool over = server->failed || server->container.published;
	if (server->leave_after_exit && (over || server->container.state == FC_CONTAINER_NONE)) {
		fc_server_leave(server);
		return;
	}
	if (!over || is_attached(server)) {
		fc_timer_stop(&server->loop, &server->orphan_timer);
		return;
	}
	unsigned seconds = server->failed ? server->config->failed_seconds : server->config->orphan_seconds;
	if (!server->orphan_timer.armed)
		fc_timer_start(&server->loop, &server->orphan_timer, seconds * 1000ull);
}

static void on_orphan(struct fc_timer *timer) {
	fc_server_leave(fc_container_of(timer, struct fc_server, orphan_timer));
}

static void on_leave(struct fc_timer *timer) {
	fc_container_of(timer, struct fc_server, leave_timer)->done = true;
}

void fc_server_leave(struct fc_server *server) {
	if (server->leaving)
		return;
	server->leaving = true;
	fc_quiet_end(server);
	fc_timer_start(&server->loop, &server->leave_timer, LEAVE_MS);
	fc_container_stop(server, 0);
	for (struct fc_session *session = server->sessions; session; session = session->next)
		if (!session->attached && session->state != FC_SESSION_ENDING)
			fc_session_drop(session);
}

static void check_done(struct fc_server *server) {
	enum fc_container_state state = server->container.state;
	bool quiet = state == FC_CONTAINER_NONE || server->container.published;
	if (!server->leaving || !quiet)
		return;
	bool waiting = false;
	for (struct fc_session *session = server->sessions; session; session = session->next) {
		if (session->attached && state == FC_CONTAINER_NONE)
			fc_session_end(session);
		waiting |= !session->dead;
	}
	if (!waiting)
		server->done = true;
}

int fc_server_turn(struct fc_server *server, int most_ms, struct fc_error *error) {
	int r = fc_loop_turn(&server->loop, most_ms, error);
	fc_quiet_check(server);
	sweep(server);
	check_done(server);
	return r;
}

/* ---- life */

int fc_server_open(struct fc_server *server, const struct fc_config *config, struct fc_error *error) {
	memset(server, 0, sizeof *server);
	server->config = config;
	server->listener = (struct fc_source){.fd = -1, .ready = on_connection};
	server->signals = (struct fc_source){.fd = -1, .ready = on_signal};
	server->orphan_timer.fire = on_orphan;
	server->leave_timer.fire = on_leave;
	server->announce_timer.fire = announce;
	fc_container_open(server);
	int r = fc_loop_open(&server->loop, error);
	if (r == 0 && (r = fc_output_open(&server->output)) < 0)
		fc_error_set(error, -r, "open output", NULL, NULL, NULL);
	if (r == 0)
		r = open_signals(server, error);
	if (r < 0)
		fc_server_close(server);
	return r;
}

static void close_source(struct fc_server *server, struct fc_source *source) {
	if (source->fd < 0)
		return;
	fc_loop_watch(&server->loop, source, 0);
	close(source->fd);
	source->fd = -1;
}

void fc_server_close(struct fc_server *server) {
	while (server->sessions) {
		struct fc_session *session = server->sessions;
		server->sessions = session->next;
		fc_session_free(session);
	}
	fc_container_close(server);
	close_source(server, &server->listener);
	close_source(server, &server->signals);
	for (size_t i = 0; i < server->event_count; i++)
		free(server->events[i].json);
	fc_output_close(&server->output);
	fc_plan_free(server->plan);
	fc_words_free(server->env);
	fc_loop_close(&server->loop);
	memset(server, 0, sizeof *server);
}
