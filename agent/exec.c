// SPDX-License-Identifier: Apache-2.0
/*
 * agent/exec.c: one command for one session, in the container (crun exec) or in the guest itself.
 *
 * Its output is read while the session has room, so a peer that does not read stops it, and only it. Its end is told
 * when it has ended and what was in its pipes then has been queued; what processes that it left behind write later is
 * theirs to lose. A session that ends first kills it, with all that it started and that did not leave its family.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "server.h"

enum {
	TURN_MAX = 256 * 1024,
	CONFIG_MAX = 4 << 20,
	CWD_MAX = 4096,
	USER_MAX = 256,
	GRANT_LEAST = 16384,
	LOG_MAX = 65536,
	STATUS_CRUN_FAILED = 255
};

struct wanted {
	char **argv, **env;
	char *cwd, *user;
	bool vm, want_stdin;
	int64_t timeout;
	bool unexecutable; /* the program itself could not be executed */
};

static void wanted_clear(struct wanted *wanted) {
	fc_words_free(wanted->argv);
	fc_words_free(wanted->env);
	free(wanted->cwd);
	free(wanted->user);
}

static int read_wanted(const struct fc_json *request, struct wanted *wanted, struct fc_error *error) {
	int r = fc_member_words(request, "argv", &wanted->argv, error);
	if (r == 0)
		r = fc_member_env(request, "env", &wanted->env, error);
	if (r == 0)
		r = fc_member_string(request, "cwd", CWD_MAX, &wanted->cwd, error);
	if (r == 0)
		r = fc_member_string(request, "user", USER_MAX, &wanted->user, error);
	if (r == 0)
		r = fc_member_boolean(request, "vm", &wanted->vm, error);
	if (r == 0)
		r = fc_member_boolean(request, "stdin", &wanted->want_stdin, error);
	if (r == 0)
		r = fc_member_integer(request, "timeout", 1, FC_GUEST_GRACE_MAX, &wanted->timeout, error);
	if (r < 0)
		return r;
	if (!wanted->argv || !wanted->argv[0] || !wanted->argv[0][0])
		return fc_error_set(error, EINVAL, "read", "argv", NULL, "'argv' is missing or empty");
	return 0;
}

/* What clones were given comes behind what is asked for. */
static int add_clone_env(const struct fc_server *server, struct wanted *wanted, struct fc_error *error) {
	return server->env ? fc_env_merge(&wanted->env, server->env, error) : 0;
}

static void close_source(struct fc_exec *exec, struct fc_source *source) {
	if (source->fd < 0)
		return;
	fc_loop_watch(&exec->session->server->loop, source, 0);
	close(source->fd);
	source->fd = -1;
}

void fc_exec_free(struct fc_exec *exec) {
	struct fc_server *server = exec->session->server;
	if (exec->pid && !exec->reaped)
		fc_spawn_kill(exec->pid);
	close_source(exec, &exec->in);
	close_source(exec, &exec->out[0]);
	close_source(exec, &exec->out[1]);
	fc_timer_stop(&server->loop, &exec->timer);
	if (exec->file[0]) {
		unlink(exec->file);
		unlink(exec->log);
	}
	free(exec->pending);
	free(exec);
}

static void put_error(struct fc_text *text, const struct fc_error *error) {
	char sentence[1200];
	fc_error_format(error, sentence, sizeof sentence);
	fc_text_puts(text, ",\"error\":");
	fc_text_put_json(text, sentence, strlen(sentence));
}

/* The answer where nothing was started: as a shell has it, 127 for what is not there and 126 for what does not run. */
static void answer_unstarted(struct fc_session *session, const struct fc_error *error) {
	struct fc_text text = {0};
	fc_text_putf(&text, "{\"status\":%d", error->err == ENOENT || error->err == ENOTDIR ? 127 : 126);
	put_error(&text, error);
	fc_text_puts(&text, "}");
	fc_session_send_text(session, FC_GUEST_EXITED, &text);
	fc_session_end(session);
}

/*
 * Where crun itself fails it says 255 and why, to its log and to stderr; the command never ran then, and its status
 * becomes what a shell's would be. A command that ends with 255 leaves no log.
 */
static int status_of(const struct fc_exec *exec) {
	int status = WEXITSTATUS(exec->wait_status);
	_cleanup_free_ char *log = NULL;
	size_t size;
	if (!exec->file[0] || status != STATUS_CRUN_FAILED ||
	    fc_io_read_file(exec->log, LOG_MAX, &log, &size, NULL) < 0 || size == 0)
		return status;
	if (strstr(log, "ermission denied"))
		return 126;
	return strstr(log, "o such file or directory") || strstr(log, "not found") ? 127 : 126;
}

static void answer_ended(struct fc_exec *exec) {
	struct fc_text text = {0};
	if (WIFSIGNALED(exec->wait_status))
		fc_text_putf(&text, "{\"signal\":%d", WTERMSIG(exec->wait_status));
	else
		fc_text_putf(&text, "{\"status\":%d", status_of(exec));
	if (exec->timed_out)
		fc_text_puts(&text, ",\"error\":\"its time was up\"");
	fc_text_puts(&text, "}");
	fc_session_send_text(exec->session, FC_GUEST_EXITED, &text);
	fc_session_end(exec->session);
}

/* Reads one of its pipes while there is room. Returns false once nothing more is to come from it. */
static bool pump(struct fc_exec *exec, int i) {
	unsigned char buffer[FC_GUEST_PAYLOAD_MAX];
	for (size_t done = 0; done < TURN_MAX;) {
		size_t room = fc_session_room(exec->session);
		if (exec->reaped && (size_t)exec->left[i] < room)
			room = (size_t)exec->left[i];
		if (room == 0)
			return !exec->reaped || exec->left[i] > 0;
		ssize_t n = read(exec->out[i].fd, buffer, room);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return !exec->reaped;
		if (n <= 0)
			return false;
		if (exec->reaped)
			exec->left[i] -= (int)n;
		fc_session_send(exec->session, FC_GUEST_OUTPUT, (uint8_t)(i + 1), buffer, (size_t)n);
		done += (size_t)n;
	}
	return true;
}

/* Moves on what can move; the session may have ended when this returns. */
static void advance(struct fc_exec *exec) {
	struct fc_loop *loop = &exec->session->server->loop;
	/* In a silence, and until it is resumed, everything waits in its place, this command's end too. */
	bool silent = exec->session->server->quiet != FC_QUIET_NO || exec->session->parked;
	for (int i = 0; i < 2; i++) {
		if (exec->out[i].fd < 0)
			continue;
		if (!silent && !pump(exec, i))
			close_source(exec, &exec->out[i]);
		else
			fc_loop_watch(loop, &exec->out[i], fc_session_room(exec->session) ? EPOLLIN : 0);
		if (exec->session->dead)
			return;
	}
	if (!silent && exec->reaped && exec->out[0].fd < 0 && exec->out[1].fd < 0)
		answer_ended(exec);
}

static void on_stdout(struct fc_source *source, uint32_t events) {
	(void)events;
	advance(fc_container_of(source, struct fc_exec, out[0]));
}

static void on_stderr(struct fc_source *source, uint32_t events) {
	(void)events;
	advance(fc_container_of(source, struct fc_exec, out[1]));
}

/* Lets the peer send as much as was taken; not for each byte, and only while it reads. */
static void grant(struct fc_exec *exec) {
	if (exec->in_ended || exec->consumed == 0 || (exec->consumed < GRANT_LEAST && exec->pending_size) ||
	    fc_session_room(exec->session) == 0)
		return;
	unsigned char payload[4];
	for (int i = 0; i < 4; i++)
		payload[i] = (unsigned char)(exec->consumed >> 8 * i & 0xff);
	exec->consumed = 0;
	fc_session_send(exec->session, FC_GUEST_WINDOW, 0, payload, sizeof payload);
}

static void consume(struct fc_exec *exec, size_t size) {
	exec->pending_size -= size;
	exec->consumed += (uint32_t)size;
	if (exec->pending_size && size)
		memmove(exec->pending, exec->pending + size, exec->pending_size);
}

/* Gives the command its input as it takes it. What it no longer reads is dropped, as a pipe's reader does that closes.
 */
static void feed(struct fc_exec *exec) {
	while (exec->pending_size && exec->in.fd >= 0) {
		ssize_t n = write(exec->in.fd, exec->pending, exec->pending_size);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			break;
		if (n < 0)
			close_source(exec, &exec->in);
		else
			consume(exec, (size_t)n);
	}
	if (exec->in.fd < 0)
		consume(exec, exec->pending_size);
	if (exec->in_ended && !exec->pending_size)
		close_source(exec, &exec->in);
	if (exec->in.fd >= 0)
		fc_loop_watch(&exec->session->server->loop, &exec->in, exec->pending_size ? EPOLLOUT : 0);
	grant(exec);
}

static void on_stdin(struct fc_source *source, uint32_t events) {
	(void)events;
	feed(fc_container_of(source, struct fc_exec, in));
}

int fc_exec_input(struct fc_exec *exec, const void *data, size_t size, struct fc_error *error) {
	if (!exec->want_stdin)
		return fc_error_set(error, EPROTO, "take input", NULL, NULL, "this command has no input");
	if (exec->in_ended)
		return fc_error_set(error, EPROTO, "take input", NULL, NULL, "the input has ended");
	if (size > FC_GUEST_STDIN_WINDOW - exec->pending_size - exec->consumed)
		return fc_error_set(error, EPROTO, "take input", NULL, NULL, "more than was granted");
	exec->in_ended = size == 0;
	if (size)
		memcpy(exec->pending + exec->pending_size, data, size);
	exec->pending_size += size;
	exec->taken += size;
	feed(exec);
	return 0;
}

void fc_exec_resume(struct fc_exec *exec) {
	grant(exec);
	advance(exec);
}

void fc_exec_reaped(struct fc_exec *exec, int status) {
	exec->reaped = true;
	exec->pid = 0;
	exec->wait_status = status;
	fc_timer_stop(&exec->session->server->loop, &exec->timer);
	for (int i = 0; i < 2; i++)
		if (exec->out[i].fd >= 0 && ioctl(exec->out[i].fd, FIONREAD, &exec->left[i]) < 0)
			exec->left[i] = 0;
	advance(exec);
}

static void on_timeout(struct fc_timer *timer) {
	struct fc_exec *exec = fc_container_of(timer, struct fc_exec, timer);
	exec->timed_out = true;
	fc_spawn_kill(exec->pid);
}

/* The description of a command for crun, in a file of its own. */
static int write_description(struct fc_exec *exec, const struct wanted *wanted, struct fc_error *error) {
	struct fc_server *server = exec->session->server;
	char path[512];
	char root[64];
	_cleanup_free_ char *config = NULL;
	size_t size;
	snprintf(path, sizeof path, "%s/%s/userdata/config.json", server->config->bundles_dir, server->container.id);
	snprintf(root, sizeof root, "/proc/%d/root", server->container.pid);
	int r = fc_io_read_file(path, CONFIG_MAX, &config, &size, error);
	if (r < 0)
		return r;
	struct fc_text text = {0};
	r = fc_process_describe(config, size, root, wanted->argv, wanted->env, wanted->cwd, wanted->user, &text, error);
	if (r == 0) {
		snprintf(exec->file, sizeof exec->file, "%s/exec-%u.json", server->config->run_dir,
		         ++server->exec_serial);
		snprintf(exec->log, sizeof exec->log, "%s/exec-%u.log", server->config->run_dir, server->exec_serial);
		_cleanup_close_ int fd = open(exec->file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
		int problem = fd < 0 ? -errno : fc_io_write_full(fd, text.data, text.size);
		if (problem < 0)
			r = fc_error_set(error, -problem, "write", exec->file, NULL, NULL);
	}
	fc_text_clear(&text);
	return r;
}

static int start_in_container(struct fc_exec *exec, const struct wanted *wanted, struct fc_spawn *spawn,
                              struct fc_error *error) {
	struct fc_server *server = exec->session->server;
	if (server->container.state != FC_CONTAINER_RUNNING)
		return fc_error_set(error, ESRCH, "exec", NULL, NULL, "the container does not run (%s)",
		                    fc_container_state_name(server->container.state));
	int r = write_description(exec, wanted, error);
	if (r < 0)
		return r;
	char log[sizeof exec->log + 8];
	snprintf(log, sizeof log, "--log=%s", exec->log);
	char *argv[] = {(char *)(size_t)server->config->crun,
	                log,
	                (char *)(size_t) "exec",
	                (char *)(size_t) "--process",
	                exec->file,
	                server->container.id,
	                NULL};
	spawn->argv = argv;
	spawn->env = server->config->env;
	return server->config->spawn(spawn, &exec->pid, error);
}

/* Adds a variable unless there is one of that name; false where memory ran out. */
static bool add_variable(char **env, size_t *count, const char *variable) {
	size_t size = strcspn(variable, "=") + 1;
	for (size_t i = 0; i < *count; i++)
		if (strncmp(env[i], variable, size) == 0)
			return true;
	env[*count] = strdup(variable);
	return env[(*count)++] != NULL;
}

static size_t count_words(char *const *words) {
	size_t count = 0;
	while (words && words[count])
		count++;
	return count;
}

/* The variables of a command in the guest: those asked for, its user's, the agent's. */
static char **guest_env(const struct fc_server *server, const struct fc_user *user, char *const *asked) {
	size_t own = count_words(server->config->env);
	size_t wanted = count_words(asked);
	char **env = calloc(own + wanted + 3, sizeof *env);
	char home[sizeof user->home + 8];
	char name[sizeof user->name + 8];
	size_t n = 0;
	bool good = env != NULL;
	for (size_t i = 0; good && i < wanted; i++)
		good = add_variable(env, &n, asked[i]);
	snprintf(home, sizeof home, "HOME=%s", user ? user->home : "");
	snprintf(name, sizeof name, "USER=%s", user ? user->name : "");
	good = good && (!user || (add_variable(env, &n, home) && add_variable(env, &n, name)));
	for (size_t i = 0; good && i < own; i++)
		good = add_variable(env, &n, server->config->env[i]);
	if (good)
		return env;
	fc_words_free(env);
	return NULL;
}

static int start_in_guest(struct fc_exec *exec, struct wanted *wanted, struct fc_spawn *spawn, struct fc_error *error) {
	struct fc_server *server = exec->session->server;
	struct fc_user user;
	if (wanted->user) {
		int r = fc_user_find("/", wanted->user, &user, error);
		if (r < 0)
			return r;
		spawn->user = &user;
	}
	char **env = guest_env(server, spawn->user, wanted->env);
	if (!env)
		return fc_error_set(error, ENOMEM, "exec", NULL, NULL, NULL);
	spawn->argv = wanted->argv;
	spawn->env = env;
	spawn->cwd = wanted->cwd ? wanted->cwd : spawn->user && user.home[0] ? user.home : "/";
	int r = server->config->spawn(spawn, &exec->pid, error);
	wanted->unexecutable = r < 0;
	fc_words_free(env);
	return r;
}

static int make_pipe(int *ret_ours, int *ret_theirs, int our_end) {
	int ends[2];
	if (pipe2(ends, O_CLOEXEC) < 0)
		return -errno;
	*ret_ours = ends[our_end];
	*ret_theirs = ends[1 - our_end];
	return fcntl(*ret_ours, F_SETFL, O_NONBLOCK) < 0 ? -errno : 0;
}

/* Pipes, and the program on their other ends. */
static int start(struct fc_exec *exec, struct wanted *wanted, struct fc_error *error) {
	_cleanup_close_ int in = -1;
	_cleanup_close_ int out = -1;
	_cleanup_close_ int err = -1;
	int r = make_pipe(&exec->out[0].fd, &out, 0);
	if (r == 0)
		r = make_pipe(&exec->out[1].fd, &err, 0);
	if (r == 0 && exec->want_stdin)
		r = make_pipe(&exec->in.fd, &in, 1);
	if (r < 0)
		return fc_error_set(error, -r, "make pipe", NULL, NULL, NULL);
	struct fc_spawn spawn = {.fds = {in, out, err}};
	return wanted->vm ? start_in_guest(exec, wanted, &spawn, error)
	                  : start_in_container(exec, wanted, &spawn, error);
}

static int watch(struct fc_exec *exec, struct fc_error *error) {
	struct fc_loop *loop = &exec->session->server->loop;
	int r = fc_loop_watch(loop, &exec->out[0], EPOLLIN);
	if (r == 0)
		r = fc_loop_watch(loop, &exec->out[1], EPOLLIN);
	return r < 0 ? fc_error_set(error, -r, "watch", NULL, NULL, NULL) : 0;
}

static struct fc_exec *new_exec(struct fc_session *session, const struct wanted *wanted) {
	struct fc_exec *exec = calloc(1, sizeof *exec);
	unsigned char *pending = wanted->want_stdin ? malloc(FC_GUEST_STDIN_WINDOW) : NULL;
	if (!exec || (wanted->want_stdin && !pending)) {
		free(exec);
		free(pending);
		return NULL;
	}
	exec->session = session;
	exec->id = ++session->server->exec_ids;
	exec->pending = pending;
	exec->want_stdin = wanted->want_stdin;
	exec->in = (struct fc_source){.fd = -1, .ready = on_stdin};
	exec->out[0] = (struct fc_source){.fd = -1, .ready = on_stdout};
	exec->out[1] = (struct fc_source){.fd = -1, .ready = on_stderr};
	exec->timer.fire = on_timeout;
	return exec;
}

int fc_exec_start(struct fc_session *session, const struct fc_json *request, struct fc_error *error) {
	struct wanted wanted = {0};
	int r = read_wanted(request, &wanted, error);
	if (r == 0)
		r = add_clone_env(session->server, &wanted, error);
	if (r < 0) {
		wanted_clear(&wanted);
		return r;
	}
	struct fc_exec *exec = new_exec(session, &wanted);
	r = exec ? start(exec, &wanted, error) : fc_error_set(error, ENOMEM, "exec", NULL, NULL, NULL);
	if (r == 0)
		r = watch(exec, error);
	if (r < 0) {
		if (exec)
			fc_exec_free(exec);
		if (wanted.unexecutable) {
			answer_unstarted(session, error);
			r = 0;
		}
	} else {
		session->exec = exec;
		if (wanted.timeout)
			fc_timer_start(&session->server->loop, &exec->timer, (uint64_t)wanted.timeout * 1000);
	}
	wanted_clear(&wanted);
	return r;
}
