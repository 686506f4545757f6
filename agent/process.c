// SPDX-License-Identifier: Apache-2.0
/*
 * agent/process.c: the OCI process description of a command in the container.
 *
 * It is the container's own description, so that limits, capabilities and the like are the container's, with what was
 * asked for in place, as `podman exec` makes it: a user who is not root gets no capabilities, and root all of those
 * that the container may have.
 */
#include <errno.h>
#include <string.h>

#include "base/cleanup.h"
#include "server.h"

struct request {
	const char *root;
	char *const *argv;
	char *const *env;
	const char *cwd;
	const struct fc_user *user; /* or NULL: the container's */
};

static void put_word(struct fc_text *text, const char *word) {
	fc_text_put_json(text, word, strlen(word));
}

static void put_words(struct fc_text *text, char *const *words) {
	fc_text_puts(text, "[");
	for (size_t i = 0; words[i]; i++) {
		if (i)
			fc_text_puts(text, ",");
		put_word(text, words[i]);
	}
	fc_text_puts(text, "]");
}

static bool same_variable(const char *one, const char *other) {
	size_t size = strcspn(one, "=");
	return strncmp(one, other, size) == 0 && other[size] == '=';
}

/* Whether `variable` is given anew, or is what crun sets by the user. */
static bool is_replaced(const struct request *request, const char *variable) {
	if (request->user && strncmp(variable, "HOME=", 5) == 0)
		return true;
	for (size_t i = 0; request->env && request->env[i]; i++)
		if (same_variable(request->env[i], variable))
			return true;
	return false;
}

static void put_env(struct fc_text *text, const struct fc_json *own, const struct request *request) {
	const char *comma = "";
	fc_text_puts(text, "[");
	for (const struct fc_json *word = own ? own->child : NULL; word; word = word->next) {
		if (word->kind != FC_JSON_STRING || is_replaced(request, word->text))
			continue;
		fc_text_puts(text, comma);
		put_word(text, word->text);
		comma = ",";
	}
	for (size_t i = 0; request->env && request->env[i]; i++) {
		fc_text_puts(text, comma);
		put_word(text, request->env[i]);
		comma = ",";
	}
	fc_text_puts(text, "]");
}

static void put_user(struct fc_text *text, const struct fc_user *user) {
	fc_text_putf(text, "{\"uid\":%u,\"gid\":%u,\"umask\":18,\"additionalGids\":[", user->uid, user->gid);
	for (size_t i = 0; i < user->group_count; i++)
		fc_text_putf(text, "%s%u", i ? "," : "", user->groups[i]);
	fc_text_puts(text, "]}");
}

static void put_capabilities(struct fc_text *text, const struct fc_json *own, const struct fc_user *user) {
	static const char *const sets[] = {"effective", "permitted", "inheritable", "ambient"};
	const struct fc_json *bounding = fc_json_get(own, "bounding");
	fc_text_puts(text, "{");
	for (size_t i = 0; i < 4; i++) {
		fc_text_putf(text, "\"%s\":", sets[i]);
		if (bounding && user->uid == 0 && i < 2)
			fc_json_write(text, bounding);
		else
			fc_text_puts(text, "[]");
		fc_text_puts(text, ",");
	}
	fc_text_puts(text, "\"bounding\":");
	if (bounding)
		fc_json_write(text, bounding);
	else
		fc_text_puts(text, "[]");
	fc_text_puts(text, "}");
}

static bool is_ours(const char *key, const struct request *request) {
	static const char *const always[] = {"args", "env", "terminal", "consoleSize", "commandLine", NULL};
	for (const char *const *name = always; *name; name++)
		if (strcmp(key, *name) == 0)
			return true;
	if (request->cwd && strcmp(key, "cwd") == 0)
		return true;
	return request->user && (strcmp(key, "user") == 0 || strcmp(key, "capabilities") == 0);
}

static void put_process(struct fc_text *text, const struct fc_json *own, const struct request *request) {
	fc_text_puts(text, "{\"terminal\":false,\"args\":");
	put_words(text, request->argv);
	fc_text_puts(text, ",\"env\":");
	put_env(text, fc_json_get(own, "env"), request);
	if (request->cwd) {
		fc_text_puts(text, ",\"cwd\":");
		put_word(text, request->cwd);
	}
	if (request->user) {
		fc_text_puts(text, ",\"user\":");
		put_user(text, request->user);
		fc_text_puts(text, ",\"capabilities\":");
		put_capabilities(text, fc_json_get(own, "capabilities"), request->user);
	}
	for (const struct fc_json *member = own->child; member; member = member->next) {
		if (is_ours(member->key, request))
			continue;
		fc_text_puts(text, ",");
		put_word(text, member->key);
		fc_text_puts(text, ":");
		fc_json_write(text, member);
	}
	fc_text_puts(text, "}");
}

int fc_process_describe(const char *config, size_t size, const char *root, char *const *argv, char *const *env,
                        const char *cwd, const char *user, struct fc_text *ret, struct fc_error *error) {
	struct fc_user found;
	struct fc_json *tree;
	if (user) {
		int r = fc_user_find(root, user, &found, error);
		if (r < 0)
			return r;
	}
	int r = fc_json_parse(config, size, &tree, error);
	if (r < 0)
		return r;
	const struct fc_json *own = fc_json_get(tree, "process");
	struct request request = {.root = root, .argv = argv, .env = env, .cwd = cwd, .user = user ? &found : NULL};
	if (own && own->kind == FC_JSON_OBJECT)
		put_process(ret, own, &request);
	else
		r = fc_error_set(error, EINVAL, "read container's configuration", NULL, NULL, "it has no process");
	fc_json_free(tree);
	if (r == 0 && ret->failed)
		r = fc_error_set(error, ENOMEM, "describe process", NULL, NULL, NULL);
	return r;
}
