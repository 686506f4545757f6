// SPDX-License-Identifier: Apache-2.0
/*
 * agent/container.c: the container, from Podman's start to its exit status.
 *
 *     none -> starting (podman run --detach works) -> running (it returned) -> exited
 *                 \-> exited (it failed: 125 to 127, its words are the error)
 *
 * With --log-driver=passthrough the container holds the agent's own pipes. Podman's stderr is one of them, so what
 * comes there until Podman returns is kept back: its words where it fails, else the container's. The exit status comes
 * from the file that conmon leaves in exits_dir (a status of 128 + n says signal n), seen by inotify: conmon itself,
 * which the agent reaps as its parent, lives on for the seconds that its clean-up takes. When that file is there, all
 * processes of the container are dead (the kernel ends a PID namespace before its first process), so what the pipes
 * then hold is all.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "server.h"

enum { TURN_MAX = 256 * 1024, SMALL_FILE = 4096, ARGUMENTS = 28 };
enum { STATUS_PODMAN_FAILED = 125, STATUS_LOST = 255 };

const char *fc_container_state_name(enum fc_container_state state) {
	static const char *const names[] = {"none", "starting", "running", "exited"};
	return names[state];
}

static struct fc_server *server_of(struct fc_container *container) {
	return fc_container_of(container, struct fc_server, container);
}

static void close_source(struct fc_server *server, struct fc_source *source) {
	if (source->fd < 0)
		return;
	fc_loop_watch(&server->loop, source, 0);
	close(source->fd);
	source->fd = -1;
}

/* ---- its output */

/* What was kept back is the container's, and goes before what comes now. Returns false while there is no room for all.
 */
static bool flush_start_text(struct fc_server *server) {
	struct fc_container *container = &server->container;
	struct fc_text *text = &container->start_text;
	size_t room = fc_output_room(&server->output, 2);
	size_t size = text->size < room ? text->size : room;
	if (size == 0)
		return text->size == 0;
	fc_output_append(&server->output, 2, text->data, size);
	memmove(text->data, text->data + size, text->size - size);
	text->size -= size;
	if (text->size == 0)
		fc_text_clear(text);
	return text->size == 0;
}

/* How much may be read from a stream now, and where it goes. */
static size_t room_for(struct fc_server *server, int i) {
	struct fc_container *container = &server->container;
	if (server->quiet != FC_QUIET_NO)
		return 0;
	if (i == 1 && container->state == FC_CONTAINER_STARTING)
		return container->start_text.size < FC_START_TEXT_MAX ? FC_START_TEXT_MAX - container->start_text.size
		                                                      : 0;
	if (i == 1 && !flush_start_text(server))
		return 0;
	return fc_output_room(&server->output, (uint8_t)(i + 1));
}

static void put(struct fc_server *server, int i, const void *data, size_t size) {
	if (i == 1 && server->container.state == FC_CONTAINER_STARTING)
		fc_text_put(&server->container.start_text, data, size);
	else if (!server->container.published)
		fc_output_append(&server->output, (uint8_t)(i + 1), data, size);
}

/* Reads a pipe while there is something and room for it. */
static void pump(struct fc_server *server, int i) {
	struct fc_container *container = &server->container;
	struct fc_source *source = &container->out[i];
	unsigned char buffer[32768];
	size_t room = room_for(server, i);
	for (size_t done = 0; source->fd >= 0 && room > 0 && done < TURN_MAX; room = room_for(server, i)) {
		ssize_t n = read(source->fd, buffer, room < sizeof buffer ? room : sizeof buffer);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN) {
			container->drained[i] = container->state == FC_CONTAINER_EXITED;
			break;
		}
		if (n <= 0) {
			close_source(server, source);
			break;
		}
		put(server, i, buffer, (size_t)n);
		done += (size_t)n;
	}
	if (source->fd >= 0)
		fc_loop_watch(&server->loop, source, room_for(server, i) ? EPOLLIN : 0);
	if (source->fd < 0)
		container->drained[i] = true;
}

static void pump_sessions(struct fc_server *server) {
	for (struct fc_session *session = server->sessions; session; session = session->next)
		fc_session_pump(session);
	fc_server_update_hold(server);
}

/* ---- its end */

static void publish_end(struct fc_server *server) {
	struct fc_container *container = &server->container;
	struct fc_text text = {0};
	fc_text_putf(&text, "{\"event\":\"container-exited\",\"exit_status\":%d", container->exit_status);
	if (container->error) {
		fc_text_puts(&text, ",\"error\":");
		fc_text_put_json(&text, container->error, strlen(container->error));
	}
	fc_text_puts(&text, "}");
	container->published = true;
	fc_server_event(server, &text);
	fc_server_update_orphan(server);
}

/* Once it has exited: reads what is left, and tells its end after it. */
static void drain(struct fc_server *server) {
	struct fc_container *container = &server->container;
	if (container->state != FC_CONTAINER_EXITED || container->published)
		return;
	for (int i = 0; i < 2; i++)
		if (!container->drained[i])
			pump(server, i);
	if (container->drained[0] && container->drained[1] && flush_start_text(server))
		publish_end(server);
	pump_sessions(server);
}

static void exited(struct fc_server *server, int status) {
	struct fc_container *container = &server->container;
	if (container->state == FC_CONTAINER_EXITED)
		return;
	container->state = FC_CONTAINER_EXITED;
	container->exit_status = status;
	container->drained[0] = container->drained[1] = false;
	fc_timer_stop(&server->loop, &container->kill_timer);
	close_source(server, &container->exits);
	if (container->pidfd >= 0)
		close(container->pidfd);
	container->pidfd = -1;
	container->pid = 0;
	drain(server);
}

/* A small file as a string, its white space at the end cut off. */
static int read_word(const char *dir, const char *name, char *word, size_t size) {
	char path[PATH_MAX];
	_cleanup_free_ char *data = NULL;
	size_t length;
	if (snprintf(path, sizeof path, "%s/%s", dir, name) >= (int)sizeof path)
		return -ENAMETOOLONG;
	int r = fc_io_read_file(path, SMALL_FILE, &data, &length, NULL);
	if (r < 0)
		return r;
	length = strcspn(data, " \r\n");
	if (length == 0 || length >= size)
		return -EPROTO;
	memcpy(word, data, length);
	word[length] = '\0';
	return 0;
}

static int read_number(const char *dir, const char *name, long most) {
	char word[16];
	int r = read_word(dir, name, word, sizeof word);
	if (r < 0)
		return r;
	char *end;
	long value = strtol(word, &end, 10);
	return *end || value < 0 || value > most ? -EPROTO : (int)value;
}

/* Its id, which podman writes before it starts the container. */
static bool read_id(struct fc_server *server) {
	struct fc_container *container = &server->container;
	char id[sizeof container->id];
	if (container->id[0])
		return true;
	if (read_word(server->config->run_dir, "container.id", id, sizeof id) < 0 || strchr(id, '/') || id[0] == '.')
		return false;
	memcpy(container->id, id, sizeof id);
	return true;
}

/*
 * Looks for the exit status. A short container's may be there, and cleaned away again, before podman has returned: it
 * is noted then.
 */
static void check_exit_file(struct fc_server *server) {
	struct fc_container *container = &server->container;
	if (container->state != FC_CONTAINER_RUNNING && container->state != FC_CONTAINER_STARTING)
		return;
	int status = !read_id(server)   ? -ENOENT
	             : container->early ? container->exit_status
	                                : read_number(server->config->exits_dir, container->id, 255);
	if (status < 0)
		return;
	container->early = true;
	container->exit_status = status;
	if (container->state == FC_CONTAINER_RUNNING)
		exited(server, status);
}

/* The monitor has ended, and there is or was its word, or there never will be. */
static void monitor_ended(struct fc_server *server) {
	struct fc_container *container = &server->container;
	container->monitor_gone = true;
	check_exit_file(server);
	if (container->state != FC_CONTAINER_RUNNING)
		return;
	container->error = strdup("the container's monitor ended without an exit status");
	exited(server, STATUS_LOST);
}

static void on_exits(struct fc_source *source, uint32_t events) {
	(void)events;
	struct fc_container *container = fc_container_of(source, struct fc_container, exits);
	char buffer[4096];
	while (read(source->fd, buffer, sizeof buffer) > 0)
		;
	check_exit_file(server_of(container));
}

/* ---- its start */

static void started(struct fc_server *server) {
	struct fc_container *container = &server->container;
	struct fc_text text = {0};
	container->state = FC_CONTAINER_RUNNING;
	container->pidfd = (int)syscall(SYS_pidfd_open, container->pid, 0);
	fc_text_putf(&text, "{\"event\":\"container-started\",\"pid\":%d}", container->pid);
	fc_server_event(server, &text);
	if (container->stop_asked)
		fc_container_stop(server, container->grace);
	check_exit_file(server);
	/* Reaped by someone else, it would never be heard of. */
	if (container->monitor_gone || kill(container->conmon, 0) < 0)
		monitor_ended(server);
	fc_container_resume(server);
}

static void cut_end(char *text) {
	size_t size = strlen(text);
	while (size && strchr(" \r\n", text[size - 1]))
		text[--size] = '\0';
}

/* Podman's own "Error: ..." where there is one: it repeats what conmon and crun said before it. */
static const char *last_error(const char *text) {
	const char *found = text;
	for (const char *line = text; line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (strncmp(line, "Error: ", 7) == 0)
			found = line;
	}
	return found;
}

static void not_started(struct fc_server *server, int status, const char *why) {
	struct fc_container *container = &server->container;
	pump(server, 1);
	if (container->start_text.size) {
		cut_end(container->start_text.data);
		container->error = strdup(last_error(container->start_text.data));
	} else {
		container->error = strdup(why);
	}
	fc_text_clear(&container->start_text);
	exited(server, status);
}

static void podman_ended(struct fc_server *server, int status) {
	struct fc_container *container = &server->container;
	const char *dir = server->config->run_dir;
	container->podman = 0;
	if (container->state != FC_CONTAINER_STARTING)
		return;
	if (WIFSIGNALED(status)) {
		not_started(server, container->stop_asked ? 128 + WTERMSIG(status) : STATUS_PODMAN_FAILED,
		            container->stop_asked ? "stopped before it ran" : "podman was killed");
		return;
	}
	if (WEXITSTATUS(status) != 0) {
		int code = WEXITSTATUS(status);
		not_started(server, code >= 125 && code <= 127 ? code : STATUS_PODMAN_FAILED,
		            "podman failed without a word");
		return;
	}
	container->pid = read_number(dir, "container.pid", INT_MAX);
	container->conmon = read_number(dir, "conmon.pid", INT_MAX);
	if (!read_id(server) || container->pid <= 1 || container->conmon <= 1)
		not_started(server, STATUS_PODMAN_FAILED, "podman does not say what it started");
	else
		started(server);
}

void fc_container_reaped(struct fc_server *server, pid_t pid, int status) {
	struct fc_container *container = &server->container;
	if (pid == container->podman) {
		podman_ended(server, status);
		return;
	}
	/* While podman runs, the monitor is known by what it says of itself. */
	pid_t monitor = container->state == FC_CONTAINER_STARTING
	                        ? read_number(server->config->run_dir, "conmon.pid", INT_MAX)
	                        : container->conmon;
	if (pid == monitor)
		monitor_ended(server);
}

static void on_output(struct fc_container *container, int i) {
	struct fc_server *server = server_of(container);
	pump(server, i);
	drain(server);
	pump_sessions(server);
}

static void on_stdout(struct fc_source *source, uint32_t events) {
	(void)events;
	on_output(fc_container_of(source, struct fc_container, out[0]), 0);
}

static void on_stderr(struct fc_source *source, uint32_t events) {
	(void)events;
	on_output(fc_container_of(source, struct fc_container, out[1]), 1);
}

void fc_container_resume(struct fc_server *server) {
	struct fc_container *container = &server->container;
	for (int i = 0; i < 2; i++)
		if (container->out[i].fd >= 0 && !container->out[i].events && room_for(server, i))
			fc_loop_watch(&server->loop, &container->out[i], EPOLLIN);
	/* At its end there may be nothing left that would wake the pipes. */
	if (container->state == FC_CONTAINER_EXITED && !container->published)
		drain(server);
}

void fc_container_hush(struct fc_server *server) {
	for (int i = 0; i < 2; i++)
		if (server->container.out[i].fd >= 0)
			fc_loop_watch(&server->loop, &server->container.out[i], 0);
}

/* At most `size` bytes of a pipe. */
static void take_some(struct fc_server *server, int i, size_t size) {
	unsigned char buffer[32768];
	if (i == 1 && !flush_start_text(server))
		return;
	while (size > 0) {
		size_t room = fc_output_room(&server->output, (uint8_t)(i + 1));
		size_t most = size < room ? size : room;
		ssize_t n = read(server->container.out[i].fd, buffer, most < sizeof buffer ? most : sizeof buffer);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return;
		fc_output_append(&server->output, (uint8_t)(i + 1), buffer, (size_t)n);
		size -= (size_t)n;
	}
}

void fc_container_take(struct fc_server *server) {
	for (int i = 0; i < 2; i++) {
		int size = 0;
		int fd = server->container.out[i].fd;
		if (fd >= 0 && ioctl(fd, FIONREAD, &size) == 0 && size > 0)
			take_some(server, i, (size_t)size);
	}
}

int fc_container_root(const struct fc_server *server, struct fc_error *error) {
	char path[64];
	if (server->container.state != FC_CONTAINER_RUNNING)
		return fc_error_set(error, ESRCH, "open container", NULL, NULL, "it does not run (%s)",
		                    fc_container_state_name(server->container.state));
	snprintf(path, sizeof path, "/proc/%d/root", server->container.pid);
	int fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? fc_error_set(error, errno, "open container", path, NULL, NULL) : fd;
}

/* ---- Podman's command line */

static void put_words_json(struct fc_text *text, char *const *words) {
	fc_text_puts(text, "[");
	for (size_t i = 0; words[i]; i++) {
		if (i)
			fc_text_puts(text, ",");
		fc_text_put_json(text, words[i], strlen(words[i]));
	}
	fc_text_puts(text, "]");
}

static size_t count_words(char *const *words) {
	size_t n = 0;
	while (words && words[n])
		n++;
	return n;
}

/* "OPTION=VALUE"; NULL where there is no value, or memory ran out, which *failed then says. */
static char *option(const char *name, const char *value, bool *failed) {
	char *word = NULL;
	if (value && asprintf(&word, "%s=%s", name, value) < 0) {
		word = NULL;
		*failed = true;
	}
	return word;
}

struct command {
	char **words;
	size_t count;
	bool failed;
};

static void add(struct command *command, char *word) {
	if (word)
		command->words[command->count++] = word;
}

static void add_copy(struct command *command, const char *word) {
	char *copy = strdup(word);
	command->failed |= !copy;
	add(command, copy);
}

static void add_file(struct command *command, const struct fc_server *server, const char *name, const char *file) {
	char path[PATH_MAX];
	snprintf(path, sizeof path, "%s/%s", server->config->run_dir, file);
	add(command, option(name, path, &command->failed));
}

/* What a clone changes, the container sees. */
static void add_volumes(struct command *command, const struct fc_server *server) {
	char volume[2 * PATH_MAX];
	snprintf(volume, sizeof volume, "%s/identity:/run/fcvm:ro", server->config->run_dir);
	add(command, option("--volume", volume, &command->failed));
	/* Podman would write the container's id into its /etc/hostname, whoever's name it has. */
	static const char *const shared[] = {"hostname", "machine-id"};
	for (size_t i = 0; i < sizeof shared / sizeof *shared; i++) {
		snprintf(volume, sizeof volume, "%s/%s:/etc/%s:ro", server->config->etc_dir, shared[i], shared[i]);
		add(command, option("--volume", volume, &command->failed));
	}
}

static void add_options(struct command *command, const struct fc_server *server) {
	static const char *const fixed[] = {
	        "--log-level=error",  "run",          "--detach",         "--network=host",           "--uts=host",
	        "--cgroups=disabled", "--pull=never", "--no-healthcheck", "--log-driver=passthrough", NULL};
	const struct fc_plan *plan = server->plan;
	add_copy(command, server->config->podman);
	for (const char *const *word = fixed; *word; word++)
		add_copy(command, *word);
	add(command, option("--name", plan->name, &command->failed));
	add_file(command, server, "--cidfile", "container.id");
	add_file(command, server, "--conmon-pidfile", "conmon.pid");
	add_file(command, server, "--pidfile", "container.pid");
	add_volumes(command, server);
	add(command, option("--user", plan->user, &command->failed));
	add(command, option("--workdir", plan->workdir, &command->failed));
	for (size_t i = 0; plan->env && plan->env[i]; i++)
		add(command, option("--env", plan->env[i], &command->failed));
	if (!plan->entrypoint)
		return;
	struct fc_text json = {0};
	put_words_json(&json, plan->entrypoint);
	command->failed |= json.failed;
	add(command, option("--entrypoint", plan->entrypoint[0] ? json.data : "", &command->failed));
	fc_text_clear(&json);
}

/* podman run ... IMAGE COMMAND...; NULL where memory ran out. Freed by fc_words_free. */
static char **make_command(const struct fc_server *server) {
	const struct fc_plan *plan = server->plan;
	size_t most = ARGUMENTS + count_words(plan->env) + count_words(plan->command) + 1;
	struct command command = {.words = calloc(most, sizeof(char *))};
	if (!command.words)
		return NULL;
	add_options(&command, server);
	add_copy(&command, plan->reference);
	for (size_t i = 0; plan->command && plan->command[i]; i++)
		add_copy(&command, plan->command[i]);
	if (!command.failed)
		return command.words;
	fc_words_free(command.words);
	return NULL;
}

static int make_directory(const char *path, struct fc_error *error) {
	char part[PATH_MAX];
	size_t size = strlen(path);
	if (size >= sizeof part)
		return fc_error_set(error, ENAMETOOLONG, "make directory", path, NULL, NULL);
	for (size_t i = 1; i <= size; i++) {
		if (path[i] != '/' && path[i] != '\0')
			continue;
		memcpy(part, path, i);
		part[i] = '\0';
		if (mkdir(part, 0755) < 0 && errno != EEXIST)
			return fc_error_set(error, errno, "make directory", part, NULL, NULL);
	}
	return 0;
}

static int watch_exits(struct fc_server *server, struct fc_error *error) {
	struct fc_source *exits = &server->container.exits;
	const char *dir = server->config->exits_dir;
	int r = make_directory(server->config->run_dir, error);
	if (r == 0)
		r = make_directory(dir, error);
	if (r < 0)
		return r;
	exits->fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	if (exits->fd < 0 || inotify_add_watch(exits->fd, dir, IN_MOVED_TO | IN_CLOSE_WRITE) < 0 ||
	    fc_loop_watch(&server->loop, exits, EPOLLIN) < 0)
		return fc_error_set(error, errno, "watch", dir, NULL, NULL);
	return 0;
}

static int spawn_podman(struct fc_server *server, int out, int err, struct fc_error *error) {
	char **argv = make_command(server);
	if (!argv)
		return fc_error_set(error, ENOMEM, "start container", server->plan->name, NULL, NULL);
	struct fc_spawn spawn = {.argv = argv, .env = server->config->env, .fds = {-1, out, err}};
	int r = server->config->spawn(&spawn, &server->container.podman, error);
	fc_words_free(argv);
	return r;
}

static int open_pipes(struct fc_server *server, int theirs[2], struct fc_error *error) {
	for (int i = 0; i < 2; i++) {
		int ends[2];
		if (pipe2(ends, O_CLOEXEC) < 0)
			return fc_error_set(error, errno, "make pipe", NULL, NULL, NULL);
		server->container.out[i].fd = ends[0];
		theirs[i] = ends[1];
		/* Ours alone: the other end is another open file, which blocks its writers. */
		if (fcntl(ends[0], F_SETFL, O_NONBLOCK) < 0 ||
		    fc_loop_watch(&server->loop, &server->container.out[i], EPOLLIN) < 0)
			return fc_error_set(error, errno, "watch pipe", NULL, NULL, NULL);
	}
	return 0;
}

int fc_container_start(struct fc_server *server, struct fc_error *error) {
	int theirs[2] = {-1, -1};
	int r = watch_exits(server, error);
	if (r == 0)
		r = open_pipes(server, theirs, error);
	if (r == 0) {
		server->container.state = FC_CONTAINER_STARTING;
		r = spawn_podman(server, theirs[0], theirs[1], error);
	}
	for (int i = 0; i < 2; i++)
		if (theirs[i] >= 0)
			close(theirs[i]);
	if (r < 0)
		server->container.state = FC_CONTAINER_NONE;
	return r;
}

/* ---- what the host asks of it */

static int send_signal(struct fc_server *server, int number) {
	struct fc_container *container = &server->container;
	if (container->pidfd < 0)
		return -ESRCH;
	return syscall(SYS_pidfd_send_signal, container->pidfd, number, NULL, 0) < 0 ? -errno : 0;
}

static void on_kill_timer(struct fc_timer *timer) {
	struct fc_container *container = fc_container_of(timer, struct fc_container, kill_timer);
	struct fc_server *server = server_of(container);
	if (container->state == FC_CONTAINER_RUNNING)
		send_signal(server, SIGKILL);
	else if (container->podman)
		fc_spawn_kill(container->podman);
}

void fc_container_stop(struct fc_server *server, unsigned grace) {
	struct fc_container *container = &server->container;
	if (container->state != FC_CONTAINER_STARTING && container->state != FC_CONTAINER_RUNNING)
		return;
	container->stop_asked = true;
	container->grace = grace;
	if (container->state == FC_CONTAINER_RUNNING)
		send_signal(server, grace ? server->plan->stop_signal : SIGKILL);
	fc_timer_start(&server->loop, &container->kill_timer, (uint64_t)grace * 1000);
}

int fc_container_signal(struct fc_server *server, int number, struct fc_error *error) {
	int r = send_signal(server, number);
	if (r < 0)
		return fc_error_set(error, -r, "signal", "container", NULL,
		                    r == -ESRCH ? "the container does not run (%s)" : NULL,
		                    fc_container_state_name(server->container.state));
	return 0;
}

void fc_container_open(struct fc_server *server) {
	struct fc_container *container = &server->container;
	container->pidfd = -1;
	container->exits = (struct fc_source){.fd = -1, .ready = on_exits};
	container->out[0] = (struct fc_source){.fd = -1, .ready = on_stdout};
	container->out[1] = (struct fc_source){.fd = -1, .ready = on_stderr};
	container->kill_timer.fire = on_kill_timer;
}

void fc_container_close(struct fc_server *server) {
	struct fc_container *container = &server->container;
	if (container->podman)
		fc_spawn_kill(container->podman);
	close_source(server, &container->exits);
	close_source(server, &container->out[0]);
	close_source(server, &container->out[1]);
	fc_timer_stop(&server->loop, &container->kill_timer);
	if (container->pidfd >= 0)
		close(container->pidfd);
	fc_text_clear(&container->start_text);
	free(container->error);
	fc_restore_forget(server);
}
