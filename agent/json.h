// SPDX-License-Identifier: Apache-2.0
/*
 * agent/json.h: a strict and bounded JSON reader (RFC 8259). Debian has no static cJSON, and the agent needs little:
 * the plan, the host's requests and the container's own configuration.
 *
 * Stricter than the standard where that keeps C honest: a key may stand once, strings hold no NUL, bytes must be UTF-8,
 * nesting ends at FC_JSON_DEPTH_MAX, an object has at most FC_JSON_MEMBERS_MAX members and
 * a text FC_JSON_NODES_MAX values.
 */
#ifndef FCVM_AGENT_JSON_H
#define FCVM_AGENT_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "text.h"

enum { FC_JSON_DEPTH_MAX = 32, FC_JSON_NODES_MAX = 65536, FC_JSON_MEMBERS_MAX = 4096 };

enum fc_json_kind { FC_JSON_NULL, FC_JSON_BOOLEAN, FC_JSON_NUMBER, FC_JSON_STRING, FC_JSON_ARRAY, FC_JSON_OBJECT };

struct fc_json {
	enum fc_json_kind kind;
	bool is_integer;       /* of a number that is written as one and fits */
	bool boolean;          /* of a boolean */
	int64_t integer;       /* of a number where is_integer */
	char *key;             /* of a member of an object; else NULL */
	char *text;            /* of a string; of a number as it was written */
	struct fc_json *child; /* the first of an array or object */
	struct fc_json *next;
};

/*
 * Reads the whole of `text`. *ret_root is the caller's, freed by fc_json_free. Returns 0, or -EINVAL with the place and
 * the reason in words, or -ENOMEM.
 */
int fc_json_parse(const char *text, size_t size, struct fc_json **ret_root, struct fc_error *error);
void fc_json_free(struct fc_json *root);

/* The member `key` of an object, or NULL; a null counts as missing. */
const struct fc_json *fc_json_get(const struct fc_json *object, const char *key);

/* Writes a value as JSON. */
void fc_json_write(struct fc_text *text, const struct fc_json *value);

#endif
