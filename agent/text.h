// SPDX-License-Identifier: Apache-2.0
/*
 * agent/text.h: a growing piece of text, for JSON that the agent writes, command lines and small files.
 *
 * Starts as zeroes. A text that memory ran out for or that passed its limit is `failed` and stays so: what is put to it
 * is then dropped, so that a writer checks once, at the end.
 */
#ifndef FCVM_AGENT_TEXT_H
#define FCVM_AGENT_TEXT_H

#include <stdbool.h>
#include <stddef.h>

enum { FC_TEXT_MAX = 1 << 20 };

struct fc_text {
	char *data; /* NUL after the last byte; NULL while nothing was put */
	size_t size, room;
	bool failed;
};

void fc_text_clear(struct fc_text *text);
void fc_text_put(struct fc_text *text, const void *data, size_t size);
void fc_text_puts(struct fc_text *text, const char *string);
void fc_text_putf(struct fc_text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Puts `string` as a JSON string, quotes included. Bytes that are no UTF-8 become U+FFFD. */
void fc_text_put_json(struct fc_text *text, const char *string, size_t size);

/* The bytes of the UTF-8 character at `at` (of `left` bytes), or 0 where there is none. */
size_t fc_utf8_length(const unsigned char *at, size_t left);

#endif
