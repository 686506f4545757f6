// SPDX-License-Identifier: Apache-2.0
/*
 * agent/plan.h: the plan, what the host wants this guest to be. It comes by MMDS as one JSON object; docs/agent.md
 * describes each key. An unknown key is an error that names it, so that a newer host is never half understood.
 */
#ifndef FCVM_AGENT_PLAN_H
#define FCVM_AGENT_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "json.h"

enum { FC_PLAN_VERSION = 1, FC_PLAN_DNS_MAX = 8, FC_PLAN_SEARCH_MAX = 16, FC_PLAN_WORDS_MAX = 1024 };

struct fc_plan {
	char name[64];                 /* of the container: letters, digits and _.- after a letter or digit */
	char hostname[65];             /* labels of letters, digits and -, by dots */
	char machine_id[33];           /* 32 lowercase hexadecimal digits, or empty: one is made */
	char *reference;               /* the image, as the store names it; never begins with '-' */
	char *store;                   /* the block device that holds the image store */
	char **command;                /* NULL-terminated; NULL where the image's own is used */
	char **entrypoint;             /* likewise; an empty list takes the image's entry point away */
	char **env;                    /* "KEY=VALUE", NULL-terminated; NULL where there is none */
	char *workdir, *user;          /* or NULL */
	char dns[FC_PLAN_DNS_MAX][46]; /* addresses of name servers */
	size_t dns_count;
	char **search;   /* domains that names without a dot are looked for in, at most 16; NULL-terminated, or NULL */
	char **hosts;    /* "NAME=ADDRESS" for /etc/hosts; NULL-terminated, or NULL */
	int64_t time_ns; /* since 1970: the wall clock when the plan was written */
	unsigned stop_grace; /* seconds from the stop signal to SIGKILL */
	int stop_signal;
};

/* Reads a plan. *ret_plan is the caller's, freed by fc_plan_free. Returns 0 or -EINVAL, -EMSGSIZE, -ENOMEM. */
int fc_plan_read(const char *text, size_t size, struct fc_plan **ret_plan, struct fc_error *error);
void fc_plan_free(struct fc_plan *plan);

/* The members "name", "hostname" and "machine_id" of an object, as a plan has them; a buffer stays where one is
 * missing.
 */
int fc_plan_read_names(const struct fc_json *object, char name[64], char hostname[65], char machine_id[33],
                       struct fc_error *error);

/*
 * Helpers for JSON from the host, which requests use too. Each leaves *ret as it was where the key is missing and
 * returns -EINVAL, naming the key, where the value is of another type or out of range.
 */
int fc_member_integer(const struct fc_json *object, const char *key, int64_t least, int64_t most, int64_t *ret,
                      struct fc_error *error);
int fc_member_boolean(const struct fc_json *object, const char *key, bool *ret, struct fc_error *error);
/* A string of 1 to `max` bytes; *ret is the caller's to free. */
int fc_member_string(const struct fc_json *object, const char *key, size_t max, char **ret, struct fc_error *error);
/* An array of at most FC_PLAN_WORDS_MAX strings; *ret is freed by fc_words_free. */
int fc_member_words(const struct fc_json *object, const char *key, char ***ret, struct fc_error *error);
/* An object of strings with names of variables as keys, to "KEY=VALUE". */
int fc_member_env(const struct fc_json *object, const char *key, char ***ret, struct fc_error *error);
/* -EINVAL where `object` is none or has a key that is not in `known` (NULL-terminated). */
int fc_members_known(const struct fc_json *object, const char *const *known, struct fc_error *error);
void fc_words_free(char **words);

/*
 * Appends copies of those variables of `more` (NULL-terminated, or NULL) whose names *env (of fc_member_env, or NULL)
 * has not. Returns 0, -ENOMEM, or -E2BIG where they would be over FC_PLAN_WORDS_MAX.
 */
int fc_env_merge(char ***env, char *const *more, struct fc_error *error);

#endif
