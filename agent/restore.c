// SPDX-License-Identifier: Apache-2.0
/*
 * agent/restore.c: a clone becomes itself.
 *
 * Everything asked for is read and checked before anything is changed. Then, in this order: sessions of the base are
 * ended, what its container had written is taken off the pipes (the clone's own output begins behind it), random
 * numbers, clock, names, files, and last the generation, so that a program that sees it sees the rest. Each step can be
 * done again, so that a host which got an error, or no answer, asks once more.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "base64.h"
#include "clock.h"
#include "files.h"
#include "identity.h"
#include "server.h"

enum { CONFIG_MAX = 4 << 20, MACHINE_ID_MAX = 64, GENERATION_MAX = 36 };

struct wanted {
	char generation[GENERATION_MAX + 1];
	char name[64], hostname[65], machine_id[33];
	int64_t time_ns;
	unsigned char entropy[FC_GUEST_ENTROPY_MAX];
	size_t entropy_size;
	char **env;
	struct fc_file *files;
	size_t file_count;
};

static int bad(struct fc_error *error, const char *key, const char *why) {
	return fc_error_set(error, EINVAL, "read", key, NULL, "'%s' %s", key, why);
}

/* ---- what is asked for */

/* 32 hexadecimal digits, or a UUID. */
static bool is_generation(const char *text) {
	size_t size = strlen(text);
	if (size != 32 && size != GENERATION_MAX)
		return false;
	for (size_t i = 0; i < size; i++) {
		bool dash = size == GENERATION_MAX && (i == 8 || i == 13 || i == 18 || i == 23);
		if (dash ? text[i] != '-' : !strchr("0123456789abcdef", text[i]))
			return false;
	}
	return true;
}

static int read_generation(const struct fc_json *request, struct wanted *wanted, struct fc_error *error) {
	_cleanup_free_ char *text = NULL;
	int r = fc_member_string(request, "generation", GENERATION_MAX, &text, error);
	if (r < 0)
		return r;
	if (!text || !is_generation(text))
		return bad(error, "generation", "is missing or neither 32 hexadecimal digits nor a UUID");
	memcpy(wanted->generation, text, strlen(text) + 1);
	return 0;
}

static int read_entropy(const struct fc_json *request, struct wanted *wanted, struct fc_error *error) {
	const struct fc_json *text = fc_json_get(request, "entropy");
	if (!text || text->kind != FC_JSON_STRING)
		return bad(error, "entropy", "is missing or no string");
	ssize_t n = fc_base64_decode(text->text, wanted->entropy, sizeof wanted->entropy);
	if (n == -EINVAL)
		return bad(error, "entropy", "is no base64");
	if (n < FC_GUEST_ENTROPY_LEAST)
		return fc_error_set(error, EINVAL, "read", "entropy", NULL, "'entropy' is not %d to %d bytes",
		                    FC_GUEST_ENTROPY_LEAST, FC_GUEST_ENTROPY_MAX);
	wanted->entropy_size = (size_t)n;
	return 0;
}

/* A name that a shell can have: the variables are written to a file for it. */
static bool is_shell_name(const char *variable) {
	size_t size = strcspn(variable, "=");
	if (variable[0] >= '0' && variable[0] <= '9')
		return false;
	return size > 0 && size == strspn(variable, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_");
}

/* The variables asked for, HOSTNAME (which Podman sets too), and those of earlier generations. */
static int read_env(const struct fc_server *server, const struct fc_json *request, struct wanted *wanted,
                    struct fc_error *error) {
	char hostname[sizeof wanted->hostname + 16];
	snprintf(hostname, sizeof hostname, "HOSTNAME=%s", wanted->hostname);
	char *const own[] = {hostname, NULL};
	int r = fc_member_env(request, "env", &wanted->env, error);
	if (r < 0)
		return r;
	for (size_t i = 0; wanted->env && wanted->env[i]; i++)
		if (!is_shell_name(wanted->env[i]))
			return bad(error, "env", "has a name that is none for a shell");
	r = fc_env_merge(&wanted->env, own, error);
	return r < 0 ? r : fc_env_merge(&wanted->env, server->env, error);
}

static int read_wanted(const struct fc_server *server, const struct fc_json *request, struct wanted *wanted,
                       struct fc_error *error) {
	int r = read_generation(request, wanted, error);
	if (r == 0)
		r = fc_plan_read_names(request, wanted->name, wanted->hostname, wanted->machine_id, error);
	if (r == 0 && (!wanted->hostname[0] || !wanted->machine_id[0]))
		r = bad(error, wanted->hostname[0] ? "machine_id" : "hostname", "is missing");
	if (r == 0)
		r = fc_member_integer(request, "time_ns", 1, INT64_MAX, &wanted->time_ns, error);
	if (r == 0 && !wanted->time_ns)
		r = bad(error, "time_ns", "is missing");
	if (r == 0)
		r = read_entropy(request, wanted, error);
	if (r == 0)
		r = read_env(server, request, wanted, error);
	ssize_t n = r == 0 ? fc_files_read(request, "files", &wanted->files, error) : r;
	wanted->file_count = n > 0 ? (size_t)n : 0;
	return n < 0 ? (int)n : 0;
}

static void wanted_clear(struct wanted *wanted) {
	explicit_bzero(wanted->entropy, sizeof wanted->entropy);
	fc_words_free(wanted->env);
	fc_files_free(wanted->files, wanted->file_count);
}

/* ---- what is done */

/* In a clone nobody is on the other ends, and what the base's commands did is the base's. */
static void leave_base(struct fc_server *server, struct fc_session *own) {
	bool silent = server->quiet == FC_QUIET_YES;
	for (struct fc_session *session = server->sessions; silent && session; session = session->next)
		if (session != own)
			fc_session_drop(session);
	if (silent)
		fc_output_hold(&server->output, server->output.end);
	fc_container_take(server);
	if (silent)
		fc_output_hold(&server->output, server->output.end);
	server->output_begin = server->output.end;
}

static int rewrite_line(const char *path, const char *line, struct fc_error *error) {
	char text[80];
	int size = snprintf(text, sizeof text, "%s\n", line);
	return fc_identity_rewrite(path, text, (size_t)size, error);
}

/* Writes one of the files that hold names. */
static int rewrite_names(const char *kind, const char *path, const char *before, const struct wanted *wanted,
                         struct fc_error *error) {
	if (strcmp(kind, "hostname") == 0)
		return rewrite_line(path, wanted->hostname, error);
	if (strcmp(kind, "hosts") == 0)
		return fc_identity_rename_host(path, before, wanted->hostname, error);
	return rewrite_line(path, wanted->machine_id, error);
}

static const char *const kinds[FC_NAME_FILES] = {"hostname", "hosts", "machine-id"};

/* The source of the container's mount at /etc/KIND, or NULL where it has none. */
static const char *source_of(const struct fc_json *config, const char *kind) {
	const struct fc_json *mounts = fc_json_get(config, "mounts");
	for (const struct fc_json *mount = mounts ? mounts->child : NULL; mount; mount = mount->next) {
		const struct fc_json *target = fc_json_get(mount, "destination");
		const struct fc_json *source = fc_json_get(mount, "source");
		if (target && target->kind == FC_JSON_STRING && strncmp(target->text, "/etc/", 5) == 0 &&
		    strcmp(target->text + 5, kind) == 0 && source && source->kind == FC_JSON_STRING)
			return source->text;
	}
	return NULL;
}

/* Finds the container's own files that hold names, which Podman made and mounted. */
static int find_files(struct fc_server *server, struct fc_error *error) {
	char path[PATH_MAX];
	_cleanup_free_ char *text = NULL;
	size_t size;
	struct fc_json *config;
	struct fc_container *container = &server->container;
	if (container->files_known)
		return 0;
	snprintf(path, sizeof path, "%s/%s/userdata/config.json", server->config->bundles_dir, container->id);
	int r = fc_io_read_file(path, CONFIG_MAX, &text, &size, error);
	if (r == 0)
		r = fc_json_parse(text, size, &config, error);
	if (r < 0)
		return r;
	for (size_t i = 0; r == 0 && i < FC_NAME_FILES; i++) {
		const char *source = source_of(config, kinds[i]);
		container->files[i] = source ? strdup(source) : NULL;
		if (source && !container->files[i])
			r = fc_error_set(error, ENOMEM, "read", path, NULL, NULL);
	}
	fc_json_free(config);
	container->files_known = r == 0;
	if (r < 0)
		fc_restore_forget(server);
	return r;
}

void fc_restore_prepare(struct fc_server *server) {
	struct fc_error ignored;
	find_files(server, &ignored);
}

void fc_restore_forget(struct fc_server *server) {
	for (size_t i = 0; i < FC_NAME_FILES; i++) {
		free(server->container.files[i]);
		server->container.files[i] = NULL;
	}
	server->container.files_known = false;
}

/* The container's own files of names: written outside, where no link of its is in the way. */
static int rename_container(struct fc_server *server, const char *before, const struct wanted *wanted,
                            struct fc_error *error) {
	if (server->container.state != FC_CONTAINER_RUNNING)
		return 0;
	int r = find_files(server, error);
	for (size_t i = 0; r == 0 && i < FC_NAME_FILES; i++)
		if (server->container.files[i])
			r = rewrite_names(kinds[i], server->container.files[i], before, wanted, error);
	return r;
}

static int rename_guest(const struct fc_server *server, const char *before, const struct wanted *wanted,
                        struct fc_error *error) {
	char path[PATH_MAX];
	int r = fc_identity_set_hostname(wanted->hostname, error);
	for (size_t i = 0; r == 0 && i < FC_NAME_FILES; i++) {
		snprintf(path, sizeof path, "%s/%s", server->config->etc_dir, kinds[i]);
		r = rewrite_names(kinds[i], path, before, wanted, error);
	}
	return r;
}

static int write_files(const struct fc_server *server, const struct wanted *wanted, struct fc_error *error) {
	_cleanup_close_ int root = wanted->file_count ? fc_container_root(server, error) : -1;
	if (wanted->file_count && root < 0)
		return root;
	for (size_t i = 0; i < wanted->file_count; i++) {
		int r = fc_files_write(root, &wanted->files[i], error);
		if (r < 0)
			return r;
	}
	return 0;
}

static int publish(const struct fc_server *server, const struct wanted *wanted, struct fc_error *error) {
	char dir[PATH_MAX];
	struct fc_published published = {.generation = wanted->generation, .name = wanted->name, .env = wanted->env};
	if (!wanted->name[0])
		published.name = server->plan ? server->plan->name : "";
	snprintf(dir, sizeof dir, "%s/identity", server->config->run_dir);
	return fc_identity_publish(dir, &published, error);
}

/* The server's own memory of what it is. */
static void adopt(struct fc_server *server, struct wanted *wanted) {
	memcpy(server->generation, wanted->generation, sizeof server->generation);
	fc_words_free(server->env);
	server->env = fc_steal_ptr(wanted->env);
	if (!server->plan)
		return;
	memcpy(server->plan->hostname, wanted->hostname, sizeof server->plan->hostname);
	memcpy(server->plan->machine_id, wanted->machine_id, sizeof server->plan->machine_id);
	if (wanted->name[0])
		memcpy(server->plan->name, wanted->name, sizeof server->plan->name);
}

static int become(struct fc_server *server, struct wanted *wanted, struct fc_error *error) {
	char before[sizeof wanted->hostname];
	snprintf(before, sizeof before, "%s", server->plan ? server->plan->hostname : "");
	int r = fc_identity_add_entropy(wanted->entropy, wanted->entropy_size, error);
	if (r == 0)
		r = fc_identity_set_clock(wanted->time_ns, error);
	if (r == 0)
		r = rename_guest(server, before, wanted, error);
	if (r == 0)
		r = rename_container(server, before, wanted, error);
	if (r == 0)
		r = write_files(server, wanted, error);
	if (r == 0)
		r = publish(server, wanted, error);
	if (r == 0)
		adopt(server, wanted);
	return r;
}

/* ---- what is answered */

/* What the guest now is, as the kernel and the files have it. */
static int answer_restored(struct fc_session *session, struct fc_error *error) {
	struct fc_server *server = session->server;
	struct fc_text text = {0};
	struct utsname names;
	char path[PATH_MAX];
	_cleanup_free_ char *id = NULL;
	size_t size;
	snprintf(path, sizeof path, "%s/machine-id", server->config->etc_dir);
	int r = fc_io_read_file(path, MACHINE_ID_MAX, &id, &size, error);
	if (r == 0 && uname(&names) < 0)
		r = fc_error_set(error, errno, "get host name", NULL, NULL, NULL);
	if (r < 0)
		return r;
	fc_text_putf(&text, "{\"generation\":\"%s\",\"hostname\":", server->generation);
	fc_text_put_json(&text, names.nodename, strlen(names.nodename));
	fc_text_puts(&text, ",\"machine_id\":");
	fc_text_put_json(&text, id, strcspn(id, "\n"));
	fc_text_putf(&text, ",\"output\":%llu,\"time_ns\":%lld,\"boot_ns\":%llu}",
	             (unsigned long long)server->output_begin, (long long)fc_identity_clock(),
	             (unsigned long long)fc_clock_ns());
	fc_session_send_text(session, FC_GUEST_RESTORED, &text);
	fc_session_end(session);
	return 0;
}

int fc_restore(struct fc_session *session, const struct fc_json *request, struct fc_error *error) {
	struct fc_server *server = session->server;
	struct wanted wanted = {0};
	int r = read_wanted(server, request, &wanted, error);
	bool same = r == 0 && strcmp(wanted.generation, server->generation) == 0;
	/* A silence says that a snapshot was made since: what is restored from it has a generation of its own. */
	if (same && server->quiet != FC_QUIET_NO)
		r = fc_error_set(error, EEXIST, "restore", NULL, NULL,
		                 "generation %s is this guest's since before the snapshot", wanted.generation);
	if (r == 0 && !same)
		r = fc_quiet_check_reset(session, error);
	if (r == 0 && !same) {
		leave_base(server, session);
		r = become(server, &wanted, error);
		fc_quiet_end(server);
	}
	if (r == 0)
		r = answer_restored(session, error);
	wanted_clear(&wanted);
	return r;
}

int fc_restore_clock(struct fc_session *session, const struct fc_json *request, struct fc_error *error) {
	struct fc_text text = {0};
	int64_t time_ns = 0;
	int r = fc_member_integer(request, "time_ns", 1, INT64_MAX, &time_ns, error);
	if (r == 0 && time_ns)
		r = fc_identity_set_clock(time_ns, error);
	if (r < 0)
		return r;
	fc_text_putf(&text, "{\"time_ns\":%lld,\"boot_ns\":%llu}", (long long)fc_identity_clock(),
	             (unsigned long long)fc_clock_ns());
	fc_session_send_text(session, FC_GUEST_TIME, &text);
	fc_session_end(session);
	return 0;
}
