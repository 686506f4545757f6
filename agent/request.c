// SPDX-License-Identifier: Apache-2.0
/* agent/request.c: the one thing that the host asks in a session. */
#include <errno.h>
#include <limits.h>
#include <string.h>

#include "base/cleanup.h"
#include "server.h"

/* The payload as a JSON object with no other keys than `known`; an empty payload is an empty object. */
static int read_object(const struct fc_frame *frame, const char *const *known, struct fc_json **ret,
                       struct fc_error *error) {
	const char *text = frame->size ? (const char *)frame->payload : "{}";
	struct fc_json *root;
	int r = fc_json_parse(text, frame->size ? frame->size : 2, &root, error);
	if (r < 0)
		return r;
	r = fc_members_known(root, known, error);
	if (r < 0)
		fc_json_free(root);
	else
		*ret = root;
	return r;
}

static void answer_ok(struct fc_session *session) {
	fc_session_send(session, FC_GUEST_OK, 0, NULL, 0);
	fc_session_end(session);
}

/* What lasts would be cut off by the snapshot that is being made. */
static int check_awake(const struct fc_session *session, const char *op, struct fc_error *error) {
	if (session->server->quiet == FC_QUIET_NO)
		return 0;
	return fc_error_set(error, EBUSY, op, NULL, NULL, "a snapshot is being made");
}

static int start_attach(struct fc_session *session, const struct fc_json *request, struct fc_error *error) {
	struct fc_server *server = session->server;
	const struct fc_json *where = fc_json_get(request, "from");
	bool end = where && where->kind == FC_JSON_STRING && strcmp(where->text, "end") == 0;
	int64_t from = (int64_t)(end ? server->output.end : server->output.begin);
	int r = end ? 0 : fc_member_integer(request, "from", 0, INT64_MAX, &from, error);
	if (r == 0)
		r = check_awake(session, "attach", error);
	if (r < 0)
		return r;
	if (server->failed) {
		*error = server->failure;
		return -error->err;
	}
	uint64_t offset = (uint64_t)from;
	if (offset < server->output.begin)
		offset = server->output.begin;
	if (offset > server->output.end)
		return fc_error_set(error, ERANGE, "attach", NULL, NULL, "the output has %llu bytes, not %llu",
		                    (unsigned long long)server->output.end, (unsigned long long)offset);
	struct fc_text text = {0};
	fc_text_putf(&text, "{\"event\":\"attached\",\"from\":%llu}", (unsigned long long)offset);
	session->cursor = offset;
	session->state = FC_SESSION_ATTACHED;
	session->attached = true;
	fc_session_send_text(session, FC_GUEST_EVENT, &text);
	fc_server_update_orphan(server);
	fc_session_pump(session);
	fc_server_update_hold(server);
	return 0;
}

static int start_exec(struct fc_session *session, const struct fc_json *request, struct fc_error *error) {
	if (session->server->leaving)
		return fc_error_set(error, ESHUTDOWN, "exec", NULL, NULL, "the guest is going down");
	int r = check_awake(session, "exec", error);
	if (r < 0)
		return r;
	session->state = FC_SESSION_EXEC;
	return fc_exec_start(session, request, error);
}

static int answer_status(struct fc_session *session, const struct fc_json *request, struct fc_error *error) {
	(void)request;
	(void)error;
	struct fc_text text = {0};
	fc_server_status(session->server, &text);
	fc_session_send_text(session, FC_GUEST_STATE, &text);
	fc_session_end(session);
	return 0;
}

static int stop(struct fc_session *session, const struct fc_json *request, struct fc_error *error) {
	int64_t grace = session->server->plan ? session->server->plan->stop_grace : 0;
	int r = fc_member_integer(request, "grace", 0, FC_GUEST_GRACE_MAX, &grace, error);
	if (r < 0)
		return r;
	fc_container_stop(session->server, (unsigned)grace);
	answer_ok(session);
	return 0;
}

static int send_signal(struct fc_session *session, const struct fc_json *request, struct fc_error *error) {
	int64_t number = 0;
	int r = fc_member_integer(request, "signal", 1, FC_GUEST_SIGNAL_MAX, &number, error);
	if (r < 0)
		return r;
	if (number == 0)
		return fc_error_set(error, EINVAL, "read", "signal", NULL, "'signal' is missing");
	r = fc_container_signal(session->server, (int)number, error);
	if (r < 0)
		return r;
	answer_ok(session);
	return 0;
}

static int shut_down(struct fc_session *session, const struct fc_json *request, struct fc_error *error) {
	(void)request;
	(void)error;
	answer_ok(session);
	fc_server_leave(session->server);
	return 0;
}

static int quiesce(struct fc_session *session, const struct fc_json *request, struct fc_error *error) {
	(void)request;
	return fc_quiet_begin(session, error);
}

static int wake(struct fc_session *session, const struct fc_json *request, struct fc_error *error) {
	(void)request;
	int r = fc_quiet_check_reset(session, error);
	if (r < 0)
		return r;
	fc_quiet_end(session->server);
	answer_ok(session);
	return 0;
}

static int resume(struct fc_session *session, const struct fc_json *request, struct fc_error *error) {
	int64_t id = 0;
	int r = fc_member_integer(request, "exec", 1, UINT_MAX, &id, error);
	if (r < 0)
		return r;
	if (id == 0)
		return fc_error_set(error, EINVAL, "read", "exec", NULL, "'exec' is missing");
	r = check_awake(session, "resume", error);
	return r < 0 ? r : fc_quiet_resume(session, (unsigned)id, error);
}

struct handler {
	uint8_t type;
	const char *const *known;
	int (*handle)(struct fc_session *session, const struct fc_json *request, struct fc_error *error);
};

static const char *const no_keys[] = {NULL};
static const char *const attach_keys[] = {"from", NULL};
static const char *const exec_keys[] = {"argv", "env", "cwd", "user", "vm", "stdin", "timeout", NULL};
static const char *const stop_keys[] = {"grace", NULL};
static const char *const signal_keys[] = {"signal", NULL};
static const char *const restore_keys[] = {"generation", "hostname", "machine_id", "time_ns", "entropy",
                                           "name",       "env",      "files",      NULL};
static const char *const clock_keys[] = {"time_ns", NULL};
static const char *const resume_keys[] = {"exec", NULL};

static const struct handler handlers[] = {
        {FC_GUEST_ATTACH, attach_keys, start_attach}, {FC_GUEST_EXEC, exec_keys, start_exec},
        {FC_GUEST_STATUS, no_keys, answer_status},    {FC_GUEST_STOP, stop_keys, stop},
        {FC_GUEST_SIGNAL, signal_keys, send_signal},  {FC_GUEST_SHUTDOWN, no_keys, shut_down},
        {FC_GUEST_QUIESCE, no_keys, quiesce},         {FC_GUEST_WAKE, no_keys, wake},
        {FC_GUEST_RESTORE, restore_keys, fc_restore}, {FC_GUEST_CLOCK, clock_keys, fc_restore_clock},
        {FC_GUEST_RESUME, resume_keys, resume},
};

static const struct handler *find(uint8_t type) {
	for (size_t i = 0; i < sizeof handlers / sizeof *handlers; i++)
		if (handlers[i].type == type)
			return &handlers[i];
	return NULL;
}

void fc_request(struct fc_session *session, const struct fc_frame *frame) {
	struct fc_error error;
	const struct handler *handler = find(frame->type);
	const char *name = fc_frame_name(frame->type);
	struct fc_json *request = NULL;
	int r;
	/* In a silence these are answered, and be it by an error; all others wait. */
	session->loud =
	        frame->type == FC_GUEST_QUIESCE || frame->type == FC_GUEST_WAKE || frame->type == FC_GUEST_RESTORE;
	if (handler)
		r = read_object(frame, handler->known, &request, &error);
	else
		r = fc_error_set(&error, EPROTO, "take request", NULL, NULL, "type %s (0x%02x) asks nothing",
		                 name ? name : "unknown", frame->type);
	if (r == 0)
		r = handler->handle(session, request, &error);
	fc_json_free(request);
	if (r < 0)
		fc_session_fail(session, &error);
}
