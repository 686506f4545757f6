// SPDX-License-Identifier: Apache-2.0
/* core/vmm/fault.c: what Firecracker says about a failure. */
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "vmm/vmm.h"

static void delete_json(cJSON **json) {
	cJSON_Delete(*json);
}

static int is_blank(char c) {
	unsigned char byte = (unsigned char)c;
	return byte <= ' ' || byte == 0x7f;
}

/* Cuts the text of `length` bytes so that as many dots as fit into `size` follow it, between two UTF-8 characters. */
static size_t mark_cut(char *text, size_t length, size_t size) {
	size_t dots = size > 3 ? 3 : size - 1;
	size_t keep = size - 1 - dots;
	if (keep > length)
		keep = length;
	while (keep > 0 && keep < length && ((unsigned char)text[keep] & 0xc0) == 0x80)
		keep--;
	memset(text + keep, '.', dots);
	return keep + dots;
}

static size_t put_line(const char *from, char *text, size_t size) {
	size_t length = 0;
	int gap = 0;
	for (; *from; from++) {
		if (is_blank(*from)) {
			gap = length > 0;
			continue;
		}
		if (length + (size_t)gap + 1 >= size) {
			length = mark_cut(text, length, size);
			break;
		}
		if (gap)
			text[length++] = ' ';
		gap = 0;
		text[length++] = *from;
	}
	text[length] = '\0';
	return length;
}

size_t fc_vmm_fault_message(const char *body, size_t body_size, char *text, size_t size) {
	text[0] = '\0';
	__attribute__((cleanup(delete_json))) cJSON *json = cJSON_ParseWithLength(body, body_size);
	const cJSON *found = cJSON_GetObjectItemCaseSensitive(json, "fault_message");
	/* Its HTTP layer, which refuses what never reaches the API (a body too long), has a word of its own. */
	if (!found)
		found = cJSON_GetObjectItemCaseSensitive(json, "error");
	const char *message = cJSON_GetStringValue(found);
	return message ? put_line(message, text, size) : 0;
}
