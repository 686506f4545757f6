// SPDX-License-Identifier: Apache-2.0
/* agent/members.c: members of the host's JSON objects, checked as they are taken; declared in plan.h. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "plan.h"

static int bad(struct fc_error *error, const char *key, const char *why) {
	return fc_error_set(error, EINVAL, "read", key, NULL, "'%s' %s", key, why);
}

static int no_memory(struct fc_error *error, const char *key) {
	return fc_error_set(error, ENOMEM, "read", key, NULL, NULL);
}

int fc_members_known(const struct fc_json *object, const char *const *known, struct fc_error *error) {
	if (object->kind != FC_JSON_OBJECT)
		return fc_error_set(error, EINVAL, "read", NULL, NULL, "it is no JSON object");
	for (const struct fc_json *member = object->child; member; member = member->next) {
		const char *const *name = known;
		while (*name && strcmp(*name, member->key) != 0)
			name++;
		if (!*name)
			return fc_error_set(error, EINVAL, "read", member->key,
			                    "host and guest may be of different versions", "unknown key '%.64s'",
			                    member->key);
	}
	return 0;
}

int fc_member_integer(const struct fc_json *object, const char *key, int64_t least, int64_t most, int64_t *ret,
                      struct fc_error *error) {
	const struct fc_json *member = fc_json_get(object, key);
	if (!member)
		return 0;
	if (member->kind != FC_JSON_NUMBER || !member->is_integer)
		return bad(error, key, "is no integer");
	if (member->integer < least || member->integer > most)
		return fc_error_set(error, EINVAL, "read", key, NULL, "'%s' is %lld, which is not in %lld to %lld", key,
		                    (long long)member->integer, (long long)least, (long long)most);
	*ret = member->integer;
	return 0;
}

int fc_member_boolean(const struct fc_json *object, const char *key, bool *ret, struct fc_error *error) {
	const struct fc_json *member = fc_json_get(object, key);
	if (!member)
		return 0;
	if (member->kind != FC_JSON_BOOLEAN)
		return bad(error, key, "is neither true nor false");
	*ret = member->boolean;
	return 0;
}

int fc_member_string(const struct fc_json *object, const char *key, size_t max, char **ret, struct fc_error *error) {
	const struct fc_json *member = fc_json_get(object, key);
	if (!member)
		return 0;
	if (member->kind != FC_JSON_STRING)
		return bad(error, key, "is no string");
	size_t size = strlen(member->text);
	if (size == 0 || size > max)
		return fc_error_set(error, EINVAL, "read", key, NULL, "'%s' has %zu bytes, which is not in 1 to %zu",
		                    key, size, max);
	char *copy = strdup(member->text);
	if (!copy)
		return no_memory(error, key);
	free(*ret);
	*ret = copy;
	return 0;
}

void fc_words_free(char **words) {
	for (size_t i = 0; words && words[i]; i++)
		free(words[i]);
	free(words);
}

static size_t count(const struct fc_json *list) {
	size_t n = 0;
	for (const struct fc_json *member = list->child; member; member = member->next)
		n++;
	return n;
}

static bool is_variable(const char *name) {
	return name[0] != '\0' && !strchr(name, '=');
}

/* "KEY=VALUE" of a member, or the word of an element; NULL where memory ran out. */
static char *word_of(const struct fc_json *member) {
	char *word;
	if (!member->key)
		return strdup(member->text);
	return asprintf(&word, "%s=%s", member->key, member->text) < 0 ? NULL : word;
}

static int read_words(const struct fc_json *list, const char *key, char ***ret, struct fc_error *error) {
	size_t n = count(list);
	if (n > FC_PLAN_WORDS_MAX)
		return fc_error_set(error, EINVAL, "read", key, NULL, "'%s' has %zu elements, over %d", key, n,
		                    FC_PLAN_WORDS_MAX);
	char **words = calloc(n + 1, sizeof *words);
	if (!words)
		return no_memory(error, key);
	size_t i = 0;
	int r = 0;
	for (const struct fc_json *member = list->child; member && r == 0; member = member->next) {
		if (member->kind != FC_JSON_STRING)
			r = bad(error, key, "has an element that is no string");
		else if (member->key && !is_variable(member->key))
			r = bad(error, key, "has a key that is no variable's name");
		else if (!(words[i++] = word_of(member)))
			r = no_memory(error, key);
	}
	if (r < 0) {
		fc_words_free(words);
		return r;
	}
	fc_words_free(*ret);
	*ret = words;
	return 0;
}

int fc_member_words(const struct fc_json *object, const char *key, char ***ret, struct fc_error *error) {
	const struct fc_json *member = fc_json_get(object, key);
	if (!member)
		return 0;
	if (member->kind != FC_JSON_ARRAY)
		return bad(error, key, "is no array");
	return read_words(member, key, ret, error);
}

int fc_member_env(const struct fc_json *object, const char *key, char ***ret, struct fc_error *error) {
	const struct fc_json *member = fc_json_get(object, key);
	if (!member)
		return 0;
	if (member->kind != FC_JSON_OBJECT)
		return bad(error, key, "is no object");
	return read_words(member, key, ret, error);
}

static bool has_variable(char *const *env, size_t n, const char *variable) {
	size_t size = strcspn(variable, "=") + 1;
	for (size_t i = 0; i < n; i++)
		if (strncmp(env[i], variable, size) == 0)
			return true;
	return false;
}

static size_t count_words(char *const *words) {
	size_t n = 0;
	while (words && words[n])
		n++;
	return n;
}

int fc_env_merge(char ***env, char *const *more, struct fc_error *error) {
	size_t n = count_words(*env);
	size_t most = n + count_words(more);
	char **grown = realloc(*env, (most + 1) * sizeof *grown);
	if (!grown)
		return no_memory(error, "env");
	*env = grown;
	grown[n] = NULL;
	for (size_t i = 0; more && more[i]; i++) {
		if (has_variable(grown, n, more[i]))
			continue;
		if (n == FC_PLAN_WORDS_MAX)
			return fc_error_set(error, E2BIG, "read", "env", NULL,
			                    "there are over %d variables with those before", FC_PLAN_WORDS_MAX);
		if (!(grown[n] = strdup(more[i])))
			return no_memory(error, "env");
		grown[++n] = NULL;
	}
	return 0;
}
