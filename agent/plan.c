// SPDX-License-Identifier: Apache-2.0
#include "plan.h"

#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "guest/protocol.h"

enum { REFERENCE_MAX = 1024, USER_MAX = 256 };

static int bad(struct fc_error *error, const char *key, const char *why) {
	return fc_error_set(error, EINVAL, "read plan", key, NULL, "'%s' %s", key, why);
}

static bool is_alnum(char c) {
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool is_name(const char *name) {
	if (!is_alnum(name[0]))
		return false;
	for (; *name; name++)
		if (!is_alnum(*name) && !strchr("_.-", *name))
			return false;
	return true;
}

static bool is_hostname(const char *name) {
	char before = '.';
	for (; *name; name++) {
		if (!is_alnum(*name) && *name != '-' && *name != '.')
			return false;
		/* A label neither begins nor ends with '-', and is not empty. */
		if ((before == '.' && !is_alnum(*name)) || (before == '-' && *name == '.'))
			return false;
		before = *name;
	}
	return is_alnum(before);
}

static bool is_machine_id(const char *id) {
	return strlen(id) == 32 && strspn(id, "0123456789abcdef") == 32;
}

static bool is_printable(const char *text) {
	for (; *text; text++)
		if ((unsigned char)*text <= ' ' || *text == 0x7f)
			return false;
	return true;
}

/* A string into a fixed buffer of `size` bytes, checked by `valid`. */
static int copy_checked(const struct fc_json *root, const char *key, char *to, size_t size, bool (*valid)(const char *),
                        struct fc_error *error) {
	_cleanup_free_ char *text = NULL;
	int r = fc_member_string(root, key, size - 1, &text, error);
	if (r < 0 || !text)
		return r;
	if (!valid(text))
		return bad(error, key, "has characters that it may not have");
	memcpy(to, text, strlen(text) + 1);
	return 0;
}

int fc_plan_read_names(const struct fc_json *object, char name[64], char hostname[65], char machine_id[33],
                       struct fc_error *error) {
	int r = copy_checked(object, "name", name, 64, is_name, error);
	if (r == 0)
		r = copy_checked(object, "hostname", hostname, 65, is_hostname, error);
	return r < 0 ? r : copy_checked(object, "machine_id", machine_id, 33, is_machine_id, error);
}

static int read_identity(const struct fc_json *root, struct fc_plan *plan, struct fc_error *error) {
	int r = fc_plan_read_names(root, plan->name, plan->hostname, plan->machine_id, error);
	if (r < 0)
		return r;
	if (!plan->name[0])
		return bad(error, "name", "is missing");
	return plan->hostname[0] ? 0 : bad(error, "hostname", "is missing");
}

static int read_image(const struct fc_json *root, struct fc_plan *plan, struct fc_error *error) {
	static const char *const known[] = {"reference", "store", NULL};
	const struct fc_json *image = fc_json_get(root, "image");
	if (!image)
		return bad(error, "image", "is missing");
	int r = fc_members_known(image, known, error);
	if (r == 0)
		r = fc_member_string(image, "reference", REFERENCE_MAX, &plan->reference, error);
	if (r == 0)
		r = fc_member_string(image, "store", PATH_MAX, &plan->store, error);
	if (r < 0)
		return r;
	if (!plan->reference || !is_printable(plan->reference) || plan->reference[0] == '-')
		return bad(error, "image.reference", "is missing or no reference");
	if (!plan->store || strncmp(plan->store, "/dev/", 5) != 0 || strstr(plan->store, ".."))
		return bad(error, "image.store", "is missing or no device");
	return 0;
}

static int read_process(const struct fc_json *root, struct fc_plan *plan, struct fc_error *error) {
	int r = fc_member_words(root, "command", &plan->command, error);
	if (r == 0)
		r = fc_member_words(root, "entrypoint", &plan->entrypoint, error);
	if (r == 0)
		r = fc_member_env(root, "env", &plan->env, error);
	if (r == 0)
		r = fc_member_string(root, "workdir", PATH_MAX, &plan->workdir, error);
	if (r == 0)
		r = fc_member_string(root, "user", USER_MAX, &plan->user, error);
	if (r < 0)
		return r;
	if (plan->workdir && plan->workdir[0] != '/')
		return bad(error, "workdir", "is no absolute path");
	return 0;
}

static bool is_address(const char *text) {
	unsigned char address[16];
	return inet_pton(AF_INET, text, address) == 1 || inet_pton(AF_INET6, text, address) == 1;
}

static int take_dns(char **words, struct fc_plan *plan, struct fc_error *error) {
	for (size_t i = 0; words && words[i]; i++) {
		if (i == FC_PLAN_DNS_MAX)
			return bad(error, "dns", "has more addresses than it may have");
		if (!is_address(words[i]))
			return bad(error, "dns", "has an element that is no address");
		memcpy(plan->dns[i], words[i], strlen(words[i]) + 1);
		plan->dns_count = i + 1;
	}
	return 0;
}

/* What may stand in resolv.conf and hosts: letters, digits and "._-", not first. */
static bool is_domain(const char *text) {
	size_t size = strlen(text);
	return size > 0 && size <= 253 && text[0] != '-' && text[0] != '.' &&
	       size == strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-");
}

static int read_names(const struct fc_json *root, struct fc_plan *plan, struct fc_error *error) {
	int r = fc_member_words(root, "search", &plan->search, error);
	if (r == 0)
		r = fc_member_env(root, "hosts", &plan->hosts, error);
	for (size_t i = 0; r == 0 && plan->search && plan->search[i]; i++)
		if (i == FC_PLAN_SEARCH_MAX || !is_domain(plan->search[i]))
			r = bad(error, "search", "has too many domains, or an element that is none");
	for (size_t i = 0; r == 0 && plan->hosts && plan->hosts[i]; i++) {
		char *equals = strchr(plan->hosts[i], '=');
		*equals = '\0';
		if (!is_domain(plan->hosts[i]) || !is_address(equals + 1))
			r = bad(error, "hosts", "has a name or an address that is none");
		*equals = '=';
	}
	return r;
}

static int read_numbers(const struct fc_json *root, struct fc_plan *plan, struct fc_error *error) {
	int64_t version = 0;
	int64_t grace = 10;
	int64_t stop_signal = 15;
	int r = fc_member_integer(root, "version", FC_PLAN_VERSION, FC_PLAN_VERSION, &version, error);
	if (r == 0)
		r = fc_member_integer(root, "time_ns", 0, INT64_MAX, &plan->time_ns, error);
	if (r == 0)
		r = fc_member_integer(root, "stop_grace", 0, FC_GUEST_GRACE_MAX, &grace, error);
	if (r == 0)
		r = fc_member_integer(root, "stop_signal", 1, FC_GUEST_SIGNAL_MAX, &stop_signal, error);
	if (r < 0)
		return r;
	if (version == 0)
		return bad(error, "version", "is missing");
	plan->stop_grace = (unsigned)grace;
	plan->stop_signal = (int)stop_signal;
	return 0;
}

static int read_root(const struct fc_json *root, struct fc_plan *plan, struct fc_error *error) {
	static const char *const known[] = {"version",    "name",    "hostname",   "machine_id",  "image", "command",
	                                    "entrypoint", "env",     "workdir",    "user",        "dns",   "search",
	                                    "hosts",      "time_ns", "stop_grace", "stop_signal", NULL};
	int r = fc_members_known(root, known, error);
	if (r == 0)
		r = read_numbers(root, plan, error);
	if (r == 0)
		r = read_identity(root, plan, error);
	if (r == 0)
		r = read_image(root, plan, error);
	if (r == 0)
		r = read_process(root, plan, error);
	if (r == 0)
		r = read_names(root, plan, error);
	char **dns = NULL;
	if (r == 0)
		r = fc_member_words(root, "dns", &dns, error);
	if (r == 0)
		r = take_dns(dns, plan, error);
	fc_words_free(dns);
	return r;
}

void fc_plan_free(struct fc_plan *plan) {
	if (!plan)
		return;
	free(plan->reference);
	free(plan->store);
	free(plan->workdir);
	free(plan->user);
	fc_words_free(plan->command);
	fc_words_free(plan->entrypoint);
	fc_words_free(plan->env);
	fc_words_free(plan->search);
	fc_words_free(plan->hosts);
	free(plan);
}

int fc_plan_read(const char *text, size_t size, struct fc_plan **ret_plan, struct fc_error *error) {
	if (size > FC_GUEST_PLAN_MAX)
		return fc_error_set(error, EMSGSIZE, "read plan", NULL, NULL, "%zu bytes are over the limit of %d",
		                    size, FC_GUEST_PLAN_MAX);
	struct fc_json *root;
	int r = fc_json_parse(text, size, &root, error);
	if (r < 0) {
		fc_error_wrap(error, "read plan", "");
		return r;
	}
	struct fc_plan *plan = calloc(1, sizeof *plan);
	r = plan ? read_root(root, plan, error) : fc_error_set(error, ENOMEM, "read plan", NULL, NULL, NULL);
	fc_json_free(root);
	if (r < 0) {
		fc_plan_free(plan);
		return r;
	}
	*ret_plan = plan;
	return 0;
}
