// SPDX-License-Identifier: Apache-2.0
#include "json.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct reader {
	const char *start, *at, *end;
	size_t nodes;
	struct fc_error *error;
};

static int fail(struct reader *reader, const char *why) {
	return fc_error_set(reader->error, EINVAL, "read JSON", NULL, NULL, "%s at byte %zu", why,
	                    (size_t)(reader->at - reader->start));
}

static int no_memory(struct reader *reader) {
	return fc_error_set(reader->error, ENOMEM, "read JSON", NULL, NULL, NULL);
}

static void skip_space(struct reader *reader) {
	while (reader->at < reader->end && memchr(" \t\n\r", *reader->at, 4))
		reader->at++;
}

static bool take(struct reader *reader, char c) {
	if (reader->at == reader->end || *reader->at != c)
		return false;
	reader->at++;
	return true;
}

static int hex_digit(char c) {
	if (c >= '0' && c <= '9')
		return c - '0';
	c = (char)(c | 0x20);
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Four hexadecimal digits, or -1. */
static int read_hex4(struct reader *reader) {
	if (reader->end - reader->at < 4)
		return -1;
	int value = 0;
	for (int i = 0; i < 4; i++) {
		int digit = hex_digit(reader->at[i]);
		if (digit < 0)
			return -1;
		value = value << 4 | digit;
	}
	reader->at += 4;
	return value;
}

static void put_utf8(struct fc_text *text, unsigned code) {
	unsigned char bytes[4];
	size_t size;
	if (code < 0x80) {
		bytes[0] = (unsigned char)code;
		size = 1;
	} else if (code < 0x800) {
		bytes[0] = (unsigned char)(0xc0 | code >> 6);
		bytes[1] = (unsigned char)(0x80 | (code & 0x3f));
		size = 2;
	} else if (code < 0x10000) {
		bytes[0] = (unsigned char)(0xe0 | code >> 12);
		bytes[1] = (unsigned char)(0x80 | (code >> 6 & 0x3f));
		bytes[2] = (unsigned char)(0x80 | (code & 0x3f));
		size = 3;
	} else {
		bytes[0] = (unsigned char)(0xf0 | code >> 18);
		bytes[1] = (unsigned char)(0x80 | (code >> 12 & 0x3f));
		bytes[2] = (unsigned char)(0x80 | (code >> 6 & 0x3f));
		bytes[3] = (unsigned char)(0x80 | (code & 0x3f));
		size = 4;
	}
	fc_text_put(text, bytes, size);
}

static int read_unicode(struct reader *reader, struct fc_text *text) {
	int code = read_hex4(reader);
	if (code < 0)
		return fail(reader, "a \\u without four digits");
	if (code == 0)
		return fail(reader, "a NUL in a string");
	if (code >= 0xdc00 && code <= 0xdfff)
		return fail(reader, "half a surrogate pair");
	if (code >= 0xd800 && code <= 0xdbff) {
		int low = take(reader, '\\') && take(reader, 'u') ? read_hex4(reader) : -1;
		if (low < 0xdc00 || low > 0xdfff)
			return fail(reader, "half a surrogate pair");
		code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
	}
	put_utf8(text, (unsigned)code);
	return 0;
}

static int read_escape(struct reader *reader, struct fc_text *text) {
	static const char names[] = "\"\\/bfnrt";
	static const char values[] = "\"\\/\b\f\n\r\t";
	if (reader->at == reader->end)
		return fail(reader, "an unfinished string");
	char c = *reader->at++;
	if (c == 'u')
		return read_unicode(reader, text);
	const char *name = c ? strchr(names, c) : NULL;
	if (!name)
		return fail(reader, "an unknown escape");
	fc_text_put(text, &values[name - names], 1);
	return 0;
}

static int read_characters(struct reader *reader, struct fc_text *text) {
	for (;;) {
		if (reader->at == reader->end)
			return fail(reader, "an unfinished string");
		unsigned char c = (unsigned char)*reader->at;
		if (c == '"') {
			reader->at++;
			return 0;
		}
		if (c == '\\') {
			reader->at++;
			int r = read_escape(reader, text);
			if (r < 0)
				return r;
			continue;
		}
		if (c < 0x20)
			return fail(reader, "a control character in a string");
		size_t length = fc_utf8_length((const unsigned char *)reader->at, (size_t)(reader->end - reader->at));
		if (length == 0)
			return fail(reader, "a byte that is no UTF-8");
		fc_text_put(text, reader->at, length);
		reader->at += length;
	}
}

/* After the opening quote. *ret is the caller's to free. */
static int read_string(struct reader *reader, char **ret) {
	struct fc_text text = {0};
	fc_text_put(&text, "", 0);
	int r = read_characters(reader, &text);
	if (r == 0 && text.failed)
		r = no_memory(reader);
	if (r < 0) {
		fc_text_clear(&text);
		return r;
	}
	*ret = text.data;
	return 0;
}

static size_t skip_digits(struct reader *reader) {
	const char *from = reader->at;
	while (reader->at < reader->end && *reader->at >= '0' && *reader->at <= '9')
		reader->at++;
	return (size_t)(reader->at - from);
}

/* Moves over a number by the grammar; *ret_whole says that it has neither fraction nor exponent. */
static bool skip_number(struct reader *reader, bool *ret_whole) {
	*ret_whole = true;
	take(reader, '-');
	if (!take(reader, '0') && skip_digits(reader) == 0)
		return false;
	if (take(reader, '.')) {
		*ret_whole = false;
		if (skip_digits(reader) == 0)
			return false;
	}
	if (take(reader, 'e') || take(reader, 'E')) {
		*ret_whole = false;
		if (!take(reader, '+'))
			take(reader, '-');
		if (skip_digits(reader) == 0)
			return false;
	}
	return true;
}

static int read_number(struct reader *reader, struct fc_json *value) {
	const char *from = reader->at;
	bool whole;
	if (!skip_number(reader, &whole))
		return fail(reader, "no value");
	value->kind = FC_JSON_NUMBER;
	value->text = strndup(from, (size_t)(reader->at - from));
	if (!value->text)
		return no_memory(reader);
	errno = 0;
	long long number = whole ? strtoll(value->text, NULL, 10) : 0;
	value->is_integer = whole && errno == 0;
	value->integer = value->is_integer ? number : 0;
	return 0;
}

static bool take_word(struct reader *reader, const char *word) {
	size_t size = strlen(word);
	if ((size_t)(reader->end - reader->at) < size || memcmp(reader->at, word, size) != 0)
		return false;
	reader->at += size;
	return true;
}

static int read_value(struct reader *reader, struct fc_json *value, int depth);

static int read_key(struct reader *reader, struct fc_json *parent, struct fc_json *member) {
	if (!take(reader, '"'))
		return fail(reader, "no key");
	int r = read_string(reader, &member->key);
	if (r < 0)
		return r;
	for (const struct fc_json *other = parent->child; other; other = other->next)
		if (other != member && other->key && strcmp(other->key, member->key) == 0)
			return fail(reader, "a key that was there before");
	skip_space(reader);
	return take(reader, ':') ? 0 : fail(reader, "no ':' after a key");
}

/* After the opening bracket: members (with keys where the parent is an object) up to `close`. */
static int read_members(struct reader *reader, struct fc_json *parent, char close, int depth) {
	struct fc_json **tail = &parent->child;
	size_t members = 0;
	skip_space(reader);
	if (take(reader, close))
		return 0;
	for (;;) {
		/* Keys are compared with all before them, so an object's size has a bound of its own. */
		if (++reader->nodes > FC_JSON_NODES_MAX || (close == '}' && ++members > FC_JSON_MEMBERS_MAX))
			return fail(reader, "too many values");
		struct fc_json *member = calloc(1, sizeof *member);
		if (!member)
			return no_memory(reader);
		*tail = member;
		tail = &member->next;
		skip_space(reader);
		int r = close == '}' ? read_key(reader, parent, member) : 0;
		if (r == 0)
			r = read_value(reader, member, depth + 1);
		if (r < 0)
			return r;
		skip_space(reader);
		if (take(reader, close))
			return 0;
		if (!take(reader, ','))
			return fail(reader, "neither ',' nor an end");
	}
}

static int read_value(struct reader *reader, struct fc_json *value, int depth) {
	if (depth > FC_JSON_DEPTH_MAX)
		return fail(reader, "too deep a nesting");
	skip_space(reader);
	if (take(reader, '{')) {
		value->kind = FC_JSON_OBJECT;
		return read_members(reader, value, '}', depth);
	}
	if (take(reader, '[')) {
		value->kind = FC_JSON_ARRAY;
		return read_members(reader, value, ']', depth);
	}
	if (take(reader, '"')) {
		value->kind = FC_JSON_STRING;
		return read_string(reader, &value->text);
	}
	if (take_word(reader, "null"))
		return 0;
	value->boolean = take_word(reader, "true");
	if (value->boolean || take_word(reader, "false")) {
		value->kind = FC_JSON_BOOLEAN;
		return 0;
	}
	return read_number(reader, value);
}

int fc_json_parse(const char *text, size_t size, struct fc_json **ret_root, struct fc_error *error) {
	struct reader reader = {.start = text, .at = text, .end = text + size, .error = error};
	struct fc_json *root = calloc(1, sizeof *root);
	if (!root)
		return no_memory(&reader);
	int r = read_value(&reader, root, 0);
	skip_space(&reader);
	if (r == 0 && reader.at != reader.end)
		r = fail(&reader, "more after the value");
	if (r < 0) {
		fc_json_free(root);
		return r;
	}
	*ret_root = root;
	return 0;
}

void fc_json_free(struct fc_json *root) {
	while (root) {
		struct fc_json *next = root->next;
		fc_json_free(root->child); /* as deep as FC_JSON_DEPTH_MAX */
		free(root->key);
		free(root->text);
		free(root);
		root = next;
	}
}

const struct fc_json *fc_json_get(const struct fc_json *object, const char *key) {
	if (!object || object->kind != FC_JSON_OBJECT)
		return NULL;
	for (const struct fc_json *member = object->child; member; member = member->next)
		if (strcmp(member->key, key) == 0)
			return member->kind == FC_JSON_NULL ? NULL : member;
	return NULL;
}

void fc_json_write(struct fc_text *text, const struct fc_json *value) {
	switch (value->kind) {
	case FC_JSON_NULL:
		fc_text_puts(text, "null");
		return;
	case FC_JSON_BOOLEAN:
		fc_text_puts(text, value->boolean ? "true" : "false");
		return;
	case FC_JSON_NUMBER:
		fc_text_puts(text, value->text);
		return;
	case FC_JSON_STRING:
		fc_text_put_json(text, value->text, strlen(value->text));
		return;
	case FC_JSON_ARRAY:
	case FC_JSON_OBJECT:
		break;
	}
	bool object = value->kind == FC_JSON_OBJECT;
	fc_text_puts(text, object ? "{" : "[");
	for (const struct fc_json *member = value->child; member; member = member->next) {
		if (object) {
			fc_text_put_json(text, member->key, strlen(member->key));
			fc_text_puts(text, ":");
		}
		fc_json_write(text, member);
		if (member->next)
			fc_text_puts(text, ",");
	}
	fc_text_puts(text, object ? "}" : "]");
}
