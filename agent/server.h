// SPDX-License-Identifier: Apache-2.0
/*
 * agent/server.h: the agent once the guest is up: sessions on vsock, the container, and their ends.
 *
 * Theory of operation. One thread and one loop. A session is one connection: both say HELLO, the host asks one thing,
 * and the session ends with its answer (session.c; requests in request.c). What the container writes goes from its
 * pipes into one ring (output.h); each attached session copies from there to its socket as fast as that takes it.
 * Nothing is buffered without a bound and nothing is dropped: a slow peer stops the reading of the pipe, and so the
 * writer. Events (stages of the boot, the container's start and end) have a place in the output and are sent when a
 * session has reached it. Before a snapshot the agent falls silent, and in a clone it takes another identity (quiet.c,
 * restore.c). The guest goes down when the host says SHUTDOWN, or when the container has ended and nobody was attached
 * for ORPHAN seconds.
 */
#ifndef FCVM_AGENT_SERVER_H
#define FCVM_AGENT_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"
#include "guest/frames.h"
#include "json.h"
#include "loop.h"
#include "output.h"
#include "plan.h"
#include "spawn.h"
#include "text.h"

enum {
	FC_EVENTS_MAX = 64,
	FC_NAME_FILES = 3, /* of a container: hostname, hosts, machine-id */
	FC_STAGES_MAX = 24,
	FC_SESSION_HIGH = 128 * 1024, /* bytes that wait for a peer before nothing more is read for it */
	FC_START_TEXT_MAX = 64 * 1024,
};

/* Where things are; other places and programs in tests. */
struct fc_config {
	const char *podman, *crun;
	const char *run_dir;     /* the agent's own files */
	const char *exits_dir;   /* conmon leaves exit statuses here, a file a container */
	const char *bundles_dir; /* <container>/userdata/config.json */
	const char *etc_dir;     /* hostname, hosts, machine-id */
	char *const *env;        /* of podman, crun and commands in the guest */
	int (*spawn)(const struct fc_spawn *spawn, pid_t *ret_pid, struct fc_error *error);
	unsigned orphan_seconds; /* from the container's end without an attached peer to the guest's end */
	unsigned failed_seconds; /* the same after a boot that failed */
	unsigned quiet_seconds;  /* FC_GUEST_QUIET_SECONDS */
	unsigned resume_seconds; /* FC_GUEST_RESUME_SECONDS */
	unsigned reset_ms;       /* how long the end of a silence waits for the transport's reset */
};

struct fc_stage {
	char name[24];
	uint64_t ns;
};

struct fc_event {
	uint64_t offset; /* in the output */
	char *json;
};

enum fc_container_state { FC_CONTAINER_NONE, FC_CONTAINER_STARTING, FC_CONTAINER_RUNNING, FC_CONTAINER_EXITED };

struct fc_container {
	enum fc_container_state state;
	pid_t podman, conmon, pid; /* 0 where there is none */
	int pidfd;                 /* of pid, or -1 */
	char id[65];
	struct fc_source out[2]; /* the pipes of stdout and stderr; fd -1 once closed */
	bool drained[2];
	struct fc_text start_text; /* what came on stderr while podman ran: its own words where it fails */
	struct fc_source exits;    /* inotify on exits_dir */
	bool published;            /* its end is an event */
	bool early, monitor_gone;  /* seen while podman still ran: an exit status, and the monitor's end */
	int exit_status;           /* once exited (or early): 128 + n for signal n */
	char *error;               /* why it did not start, or NULL */
	bool stop_asked;
	unsigned grace;
	struct fc_timer kill_timer;
	bool files_known;
	char *files[FC_NAME_FILES]; /* see fc_restore_prepare; NULL where it has none */
};

struct fc_exec {
	struct fc_session *session;
	unsigned id;
	uint64_t taken;              /* bytes of its input that came */
	struct fc_source in, out[2]; /* our ends of its pipes; fd -1 once closed */
	pid_t pid;                   /* 0 once reaped */
	bool reaped;
	bool want_stdin, in_ended; /* in_ended: the peer said so */
	int wait_status;
	int left[2]; /* bytes that were in the pipes when it ended */
	unsigned char *pending;
	size_t pending_size; /* of its input, at most FC_GUEST_STDIN_WINDOW */
	uint32_t consumed;   /* of its input, not granted anew yet */
	struct fc_timer timer;
	bool timed_out;
	char file[128]; /* its process description for crun, or empty */
	char log[128];  /* what crun says where it fails */
};

enum fc_quiet { FC_QUIET_NO, FC_QUIET_DRAINING, FC_QUIET_YES };

enum fc_session_state {
	FC_SESSION_CONNECTING, /* our own word to the host's port */
	FC_SESSION_GREETING,
	FC_SESSION_ASKING,
	FC_SESSION_ATTACHED,
	FC_SESSION_EXEC,
	FC_SESSION_ENDING, /* what is queued is sent, then the peer's close is awaited */
};

struct fc_session {
	struct fc_server *server;
	struct fc_session *next;
	enum fc_session_state state;
	bool dead; /* freed at the end of the turn */
	bool announcer, connected;
	bool attached; /* it is or was: its cursor counts until all is sent */
	bool shut;     /* our direction is shut down */
	bool frozen;   /* from before a silence, in which it is not looked at */
	bool loud;     /* is answered in a silence */
	bool last;     /* its answer is the last before a silence; frozen once that is sent */
	bool parked;   /* none at all: a place for a command whose session was ended for a silence */
	struct fc_source source;
	struct fc_decoder decoder;
	unsigned char *queue; /* out: queue_begin to queue_end */
	size_t queue_begin, queue_end, queue_room;
	uint64_t cursor; /* attached: the next byte of output to queue */
	size_t next_event;
	struct fc_exec *exec;
	struct fc_timer timer;
};

struct fc_server {
	const struct fc_config *config;
	struct fc_loop loop;
	struct fc_plan *plan;
	struct fc_output output;
	struct fc_container container;
	struct fc_event events[FC_EVENTS_MAX];
	size_t event_count;
	struct fc_stage stages[FC_STAGES_MAX];
	size_t stage_count;
	struct fc_session *sessions;
	size_t session_count;
	struct fc_source listener, signals;
	struct fc_timer orphan_timer, leave_timer, announce_timer;
	unsigned announce_tries;
	int (*dial)(void); /* connects to the host's port without blocking: a descriptor or -errno */
	bool failed;       /* the boot did */
	struct fc_error failure;
	bool leave_after_exit, leaving, done;
	unsigned exec_serial, exec_ids;
	enum fc_quiet quiet;
	struct fc_session *quiet_asker; /* while draining */
	struct fc_timer quiet_timer;
	uint64_t awaken_ms;    /* when its end was first asked for, or 0 */
	char generation[37];   /* what this guest is now: the boot's own, then that of the last RESTORE */
	char **env;            /* "KEY=VALUE" of all RESTOREs for later commands, or NULL */
	uint64_t output_begin; /* where the output of this generation begins */
};

/* ---- server.c */

/* Makes the loop and takes SIGCHLD, SIGTERM and SIGINT by signalfd; they must stay blocked in this process. */
int fc_server_open(struct fc_server *server, const struct fc_config *config, struct fc_error *error);
void fc_server_close(struct fc_server *server);

/* Keeps a listening, non-blocking socket (closed with the server). */
int fc_server_listen(struct fc_server *server, int fd, struct fc_error *error);

/* Takes a connected, non-blocking stream socket as a session; closes it where there is no room. */
void fc_server_adopt(struct fc_server *server, int fd);

/* Tells the host by `dial` that the guest serves, or that its boot failed; tried again a few times. */
void fc_server_announce(struct fc_server *server, int (*dial)(void));

/* Notes that a stage of the boot is done. */
void fc_server_stage(struct fc_server *server, const char *name);

/* Notes that the boot failed in a stage; the server then answers who asks, and the guest ends when nobody does. */
void fc_server_fail(struct fc_server *server, const char *stage, const struct fc_error *error);

/* Adds an event at the output's present end; takes `json`, whose data must not have failed. */
void fc_server_event(struct fc_server *server, struct fc_text *json);

/* One turn of the loop. */
int fc_server_turn(struct fc_server *server, int most_ms, struct fc_error *error);

/* The guest is to end: nothing new begins, attached peers get what is there, then `done` is set. */
void fc_server_leave(struct fc_server *server);

/* Keeps what no attached session has sent, and lets the container go on where there is room again. */
void fc_server_update_hold(struct fc_server *server);

/* (Re)starts or stops the orphan timer by what is attached now. */
void fc_server_update_orphan(struct fc_server *server);

/* Writes the answer to STATUS. */
void fc_server_status(const struct fc_server *server, struct fc_text *text);

/* ---- quiet.c */

/* Falls silent, and then answers the session with OK. -EAGAIN, -ESRCH by the container's state; -EALREADY. */
int fc_quiet_begin(struct fc_session *session, struct fc_error *error);
/* Whether the silence may end by what this session asks, or -EAGAIN: asked again, it may. */
int fc_quiet_check_reset(const struct fc_session *session, struct fc_error *error);
/* At the end of a turn: has everything gone out? */
void fc_quiet_check(struct fc_server *server);
/* Goes on; nothing where there is no silence. */
void fc_quiet_end(struct fc_server *server);
/* What is sent to the session now waits for the silence's end. */
bool fc_quiet_mutes(const struct fc_session *session);
/* Goes on with a command from before the silence, in another session; -ESRCH. */
int fc_quiet_resume(struct fc_session *session, unsigned id, struct fc_error *error);

/* ---- restore.c */
/* The answers to RESTORE and CLOCK. Where they return an error, the guest may be half of what was asked for. */
int fc_restore(struct fc_session *session, const struct fc_json *request, struct fc_error *error);

/* Finds the container's own files that hold names while there is time: before a snapshot. What a clone's start waits
 * for is then their writing alone. Where they cannot be found fc_restore looks again, and says why. */
void fc_restore_prepare(struct fc_server *server);
void fc_restore_forget(struct fc_server *server);
int fc_restore_clock(struct fc_session *session, const struct fc_json *request, struct fc_error *error);

/* ---- session.c */
struct fc_session *fc_session_new(struct fc_server *server, int fd, enum fc_session_state state);
/* A place in the list of sessions, without a connection; NULL where memory ran out. */
struct fc_session *fc_session_new_parked(struct fc_server *server);
void fc_session_free(struct fc_session *session);
size_t fc_session_queued(const struct fc_session *session);
/* Bytes of payload that one frame may carry now, 0 where the peer must read first. */
size_t fc_session_room(const struct fc_session *session);
void fc_session_send(struct fc_session *session, uint8_t type, uint8_t stream, const void *payload, size_t size);
void fc_session_send_text(struct fc_session *session, uint8_t type, struct fc_text *text);
/* Sends ERROR and ends the session. */
void fc_session_fail(struct fc_session *session, const struct fc_error *error);
/* Ends the session once all is sent. */
void fc_session_end(struct fc_session *session);
/* Sends what the socket takes now. */
void fc_session_flush(struct fc_session *session);
/* Where the session is to end and all is sent: says so. */
void fc_session_settle(struct fc_session *session);
/* Watches for what the session's state needs. */
void fc_session_watch(struct fc_session *session);
/* The session is gone at the end of this turn. */
void fc_session_drop(struct fc_session *session);
/* Queues output and events for an attached session as far as its room goes. */
void fc_session_pump(struct fc_session *session);

/* ---- request.c */
void fc_request(struct fc_session *session, const struct fc_frame *frame);

/* ---- container.c */
/* Before anything else of these: no descriptor is open yet. */
void fc_container_open(struct fc_server *server);
int fc_container_start(struct fc_server *server, struct fc_error *error);
void fc_container_close(struct fc_server *server);
/* Reads the pipes again where the output has room. */
void fc_container_resume(struct fc_server *server);
/* Stops reading the pipes until it is resumed. */
void fc_container_hush(struct fc_server *server);
/* Takes what the pipes hold now, as far as the output has room, also in a silence. */
void fc_container_take(struct fc_server *server);
/* The container's root directory, to be closed by the caller; -ESRCH where it does not run. */
int fc_container_root(const struct fc_server *server, struct fc_error *error);
/* A child ended. */
void fc_container_reaped(struct fc_server *server, pid_t pid, int status);
/* Sends the stop signal now, SIGKILL after `grace` seconds. */
void fc_container_stop(struct fc_server *server, unsigned grace);
/* -ESRCH where it does not run. */
int fc_container_signal(struct fc_server *server, int signal, struct fc_error *error);
const char *fc_container_state_name(enum fc_container_state state);

/* ---- exec.c */
int fc_exec_start(struct fc_session *session, const struct fc_json *request, struct fc_error *error);
void fc_exec_free(struct fc_exec *exec);
/* Takes input from the peer; -EPROTO where it is more than was granted, or was not asked for. */
int fc_exec_input(struct fc_exec *exec, const void *data, size_t size, struct fc_error *error);
/* The peer read: more may be queued. */
void fc_exec_resume(struct fc_exec *exec);
void fc_exec_reaped(struct fc_exec *exec, int status);

/* ---- process.c */
/*
 * Writes an OCI process description: the container's own, out of its config.json, with the request's argv, env, cwd and
 * user in place. `root` is the container's root directory, for names of users.
 */
int fc_process_describe(const char *config, size_t size, const char *root, char *const *argv, char *const *env,
                        const char *cwd, const char *user, struct fc_text *ret, struct fc_error *error);

#endif
