// SPDX-License-Identifier: Apache-2.0
/* core/http/answer.c: gathers an answer's headers and body within their limits. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/cleanup.h"
#include "http/http_internal.h"

enum { BODY_FIRST = 4096, HEADERS_FIRST = 8 };

static void drop_headers(struct fch_answer *answer) {
	for (size_t i = 0; i < answer->header_count; i++) {
		free(answer->headers[i].name);
		free(answer->headers[i].value);
	}
	answer->header_count = 0;
}

void fch_answer_free(struct fch_answer *answer) {
	drop_headers(answer);
	free(answer->headers);
	free(answer->body);
	*answer = (struct fch_answer){.max_body = answer->max_body};
}

static int is_blank(char c) {
	return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* A copy of text[0..size) without blanks around it; NULL where there is no memory. */
static char *trimmed(const char *text, size_t size) {
	while (size > 0 && is_blank(text[0])) {
		text++;
		size--;
	}
	while (size > 0 && is_blank(text[size - 1]))
		size--;
	return strndup(text, size);
}

static void lower(char *text) {
	for (; *text; text++) {
		if (*text >= 'A' && *text <= 'Z')
			*text = (char)(*text - 'A' + 'a');
	}
}

static int make_room(struct fch_answer *answer) {
	if (answer->header_count < answer->header_room)
		return 0;
	size_t room = answer->header_room ? answer->header_room * 2 : HEADERS_FIRST;
	struct fc_http_header *grown = reallocarray(answer->headers, room, sizeof *grown);
	if (!grown)
		return -ENOMEM;
	answer->headers = grown;
	answer->header_room = room;
	return 0;
}

/* Keeps the line "Name: value". Lines of another form (the empty one, folded ones) are passed over. */
static int keep_header(struct fch_answer *answer, const char *line, size_t size) {
	const char *colon = memchr(line, ':', size);
	if (!colon || colon == line || is_blank(line[0]))
		return 0;
	_cleanup_free_ char *name = trimmed(line, (size_t)(colon - line));
	_cleanup_free_ char *value = trimmed(colon + 1, size - (size_t)(colon + 1 - line));
	if (!name || !value || make_room(answer) < 0)
		return -ENOMEM;
	lower(name);
	answer->headers[answer->header_count++] =
	        (struct fc_http_header){.name = fc_steal_ptr(name), .value = fc_steal_ptr(value)};
	return 0;
}

size_t fch_answer_header(char *data, size_t size, size_t count, void *user) {
	struct fch_answer *answer = user;
	size_t total = size * count;
	answer->seen_bytes += total;
	answer->seen_lines++;
	if (answer->seen_bytes > FC_HTTP_HEADER_BYTES || answer->seen_lines > FC_HTTP_HEADERS_MAX) {
		answer->refused = EMSGSIZE;
		return 0;
	}
	if (total >= 5 && memcmp(data, "HTTP/", 5) == 0) {
		/* A status line: what came before it was an interim answer or a redirect. */
		drop_headers(answer);
		answer->body_size = 0;
		return total;
	}
	if (keep_header(answer, data, total) < 0) {
		answer->refused = ENOMEM;
		return 0;
	}
	return total;
}

/* Room for `more` bytes and a NUL. */
static int make_body_room(struct fch_answer *answer, size_t more) {
	size_t need = answer->body_size + more + 1;
	if (need <= answer->body_room)
		return 0;
	size_t room = answer->body_room ? answer->body_room : BODY_FIRST;
	while (room < need)
		room *= 2;
	char *grown = realloc(answer->body, room);
	if (!grown)
		return -ENOMEM;
	answer->body = grown;
	answer->body_room = room;
	return 0;
}

size_t fch_answer_body(char *data, size_t size, size_t count, void *user) {
	struct fch_answer *answer = user;
	size_t total = size * count;
	if (total > answer->max_body - answer->body_size) {
		answer->refused = EFBIG;
		return 0;
	}
	if (make_body_room(answer, total) < 0) {
		answer->refused = ENOMEM;
		return 0;
	}
	memcpy(answer->body + answer->body_size, data, total);
	answer->body_size += total;
	answer->body[answer->body_size] = '\0';
	return total;
}
