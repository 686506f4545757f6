// SPDX-License-Identifier: Apache-2.0
/* core/http/http_internal.h: a request and the answer that is being gathered for it. */
#ifndef FCVM_HTTP_HTTP_INTERNAL_H
#define FCVM_HTTP_HTTP_INTERNAL_H

#include "http/curl.h"
#include "http/http.h"

/* What has come in so far. `refused` is the errno for which it was cut off, or 0. */
struct fch_answer {
	struct fc_http_header *headers;
	size_t header_count;
	size_t header_room;
	size_t seen_lines; /* over all answers of the request: interim ones, redirects, the last */
	size_t seen_bytes;
	char *body;
	size_t body_size;
	size_t body_room;
	size_t max_body;
	int refused;
};

/* libcurl's callbacks (CURLOPT_HEADERFUNCTION, CURLOPT_WRITEFUNCTION); `user` is the struct fch_answer. */
size_t fch_answer_header(char *data, size_t size, size_t count, void *user);
size_t fch_answer_body(char *data, size_t size, size_t count, void *user);
void fch_answer_free(struct fch_answer *answer);

/* Checks the options' texts. Returns 0 or -errno. */
int fch_options_check(const struct fc_http_options *options, struct fc_error *error);

/* The errno of how libcurl ended; `os_errno` is CURLINFO_OS_ERRNO. */
int fch_errno(CURLcode code, long os_errno);

#endif
