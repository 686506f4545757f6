// SPDX-License-Identifier: Apache-2.0
#include "text.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void fc_text_clear(struct fc_text *text) {
	free(text->data);
	memset(text, 0, sizeof *text);
}

static bool grow(struct fc_text *text, size_t more) {
	if (text->failed || more > FC_TEXT_MAX - text->size) {
		text->failed = true;
		return false;
	}
	size_t need = text->size + more + 1;
	if (need <= text->room)
		return true;
	size_t room = text->room ? text->room * 2 : 256;
	if (room < need)
		room = need;
	char *data = realloc(text->data, room);
	if (!data) {
		text->failed = true;
		return false;
	}
	text->data = data;
	text->room = room;
	return true;
}

void fc_text_put(struct fc_text *text, const void *data, size_t size) {
	if (!grow(text, size))
		return;
	if (size)
		memcpy(text->data + text->size, data, size);
	text->size += size;
	text->data[text->size] = '\0';
}

void fc_text_puts(struct fc_text *text, const char *string) {
	fc_text_put(text, string, strlen(string));
}

void fc_text_putf(struct fc_text *text, const char *format, ...) {
	va_list arguments;
	va_start(arguments, format);
	int size = vsnprintf(NULL, 0, format, arguments);
	va_end(arguments);
	if (size < 0 || !grow(text, (size_t)size)) {
		text->failed = true;
		return;
	}
	va_start(arguments, format);
	vsnprintf(text->data + text->size, (size_t)size + 1, format, arguments);
	va_end(arguments);
	text->size += (size_t)size;
}

static bool is_tail(const unsigned char *at, size_t count) {
	for (size_t i = 0; i < count; i++)
		if ((at[i] & 0xc0) != 0x80)
			return false;
	return true;
}

size_t fc_utf8_length(const unsigned char *at, size_t left) {
	if (left == 0)
		return 0;
	if (at[0] < 0x80)
		return 1;
	if (at[0] >= 0xc2 && at[0] <= 0xdf)
		return left >= 2 && is_tail(at + 1, 1) ? 2 : 0;
	if (at[0] >= 0xe0 && at[0] <= 0xef) {
		if (left < 3 || !is_tail(at + 1, 2))
			return 0;
		bool overlong = at[0] == 0xe0 && at[1] < 0xa0;
		bool surrogate = at[0] == 0xed && at[1] > 0x9f;
		return overlong || surrogate ? 0 : 3;
	}
	if (at[0] >= 0xf0 && at[0] <= 0xf4) {
		if (left < 4 || !is_tail(at + 1, 3))
			return 0;
		bool overlong = at[0] == 0xf0 && at[1] < 0x90;
		bool too_big = at[0] == 0xf4 && at[1] > 0x8f;
		return overlong || too_big ? 0 : 4;
	}
	return 0;
}

static void put_ascii(struct fc_text *text, unsigned char c) {
	static const char names[] = "\"\\\b\f\n\r\t";
	static const char escapes[] = "\"\\bfnrt";
	const char *name = c ? strchr(names, c) : NULL;
	if (name)
		fc_text_putf(text, "\\%c", escapes[name - names]);
	else if (c < 0x20 || c == 0x7f)
		fc_text_putf(text, "\\u%04x", c);
	else
		fc_text_put(text, &c, 1);
}

void fc_text_put_json(struct fc_text *text, const char *string, size_t size) {
	const unsigned char *at = (const unsigned char *)string;
	fc_text_puts(text, "\"");
	while (size > 0) {
		size_t length = fc_utf8_length(at, size);
		if (length == 1)
			put_ascii(text, at[0]);
		else if (length == 0)
			fc_text_puts(text, "\xef\xbf\xbd");
		else
			fc_text_put(text, at, length);
		length = length ? length : 1;
		at += length;
		size -= length;
	}
	fc_text_puts(text, "\"");
}
