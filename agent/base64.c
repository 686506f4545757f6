// SPDX-License-Identifier: Apache-2.0
#include "base64.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>

static int digit(char c) {
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* Four characters to 1 to 3 bytes; 0 where they are none. `last` lets them be padded. */
static size_t read_group(const char *text, int last, unsigned char bytes[3]) {
	size_t padding = !last || text[3] != '=' ? 0 : text[2] == '=' ? 2 : 1;
	uint32_t value = 0;
	for (size_t i = 0; i < 4; i++) {
		int d = i >= 4 - padding ? 0 : digit(text[i]);
		if (d < 0)
			return 0;
		value = value << 6 | (uint32_t)d;
	}
	if (value & ((1u << 8 * padding) - 1))
		return 0;
	for (size_t i = 0; i < 3; i++)
		bytes[i] = (unsigned char)(value >> (16 - 8 * i) & 0xff);
	return 3 - padding;
}

ssize_t fc_base64_decode(const char *text, unsigned char *data, size_t max) {
	size_t size = strlen(text);
	size_t done = 0;
	if (size % 4)
		return -EINVAL;
	for (size_t at = 0; at < size; at += 4) {
		unsigned char bytes[3];
		size_t count = read_group(text + at, at + 4 == size, bytes);
		if (count == 0)
			return -EINVAL;
		if (count > max - done)
			return -EMSGSIZE;
		memcpy(data + done, bytes, count);
		done += count;
	}
	return (ssize_t)done;
}
