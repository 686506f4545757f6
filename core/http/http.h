// SPDX-License-Identifier: Apache-2.0
/*
 * core/http/http.h: one HTTP request at a time, over TCP, TLS or a Unix socket, that never blocks.
 *
 * A request is a small machine of its own: libcurl's multi_socket interface over one epoll descriptor with a timer in
 * it. Its descriptor is readable whenever fc_http_step has something to do, so it fits any event loop. Nothing is
 * shared between requests: each has its own connection, which ends with it. A request belongs to one thread at a time.
 *
 * What a peer may cost is bounded: the answer's body by max_body, its header lines by FC_HTTP_HEADER_BYTES and
 * FC_HTTP_HEADERS_MAX (interim answers and redirects count), all of it by the timeout. Only http and https are spoken;
 * HTTP/1.1 only.
 */
#ifndef FCVM_HTTP_HTTP_H
#define FCVM_HTTP_HTTP_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define FC_HTTP_HEADER_BYTES ((size_t)64 << 10)
#define FC_HTTP_HEADERS_MAX ((size_t)256)
#define FC_HTTP_BODY_DEFAULT ((size_t)4 << 20)
#define FC_HTTP_TIMEOUT_MAX_MS ((int64_t)86400 * 1000)

struct fc_http_options {
	const char *url; /* http://... or https://...; with a Unix socket http:// only, and its host is only said */
	const char *unix_path;      /* the Unix socket to connect to, of any length; NULL: the URL's host */
	int socket;                 /* a TCP socket to connect with (borrowed: a duplicate is used), as one of another
	                               network namespace, and then of the URL's address alone; 0: a new one */
	const char *method;         /* a token such as "PUT"; NULL: GET, or POST where there is a body */
	const char *const *headers; /* header_count lines "Name: value" */
	size_t header_count;
	const void *body; /* NULL: none */
	size_t body_size;
	int64_t timeout_ms; /* for everything; 1 to FC_HTTP_TIMEOUT_MAX_MS */
	size_t max_body;    /* of the answer; 0: FC_HTTP_BODY_DEFAULT */
	int follow;         /* follow up to five redirects */
	int proxy;          /* heed http_proxy and its like in the environment; never with a Unix socket */
};

struct fc_http_header {
	char *name; /* lower case */
	char *value;
};

/* An answer. It and all in it belong to the request and live as long. A name that came twice is in it twice, in order.
 */
struct fc_http_answer {
	int status;
	const struct fc_http_header *headers;
	size_t header_count;
	const char *body; /* has a NUL after its last byte; may have others */
	size_t body_size;
};

struct fc_http;

/* Loads and prepares libcurl, once a process, however often it is called: what the first request does otherwise.
 * ENOENT: there is none; ENOMEM, or EIO where it refuses. Any thread. */
int fc_http_init(struct fc_error *error);

/*
 * Begins a request; copies what it needs of `options`. The caller frees *ret_http.
 * EINVAL: the URL, method or a header is malformed. EPROTONOSUPPORT: another scheme. ENOMEM, EMFILE, ENFILE. With a
 * Unix path that does not fit into an address (107 bytes), the errors of open(2) on it.
 */
int fc_http_start(const struct fc_http_options *options, struct fc_http **ret_http, struct fc_error *error);

/* The descriptor to wait for: readable means "call fc_http_step". Borrowed; the same all along; once the request has
 * ended it stays readable. */
int fc_http_fileno(const struct fc_http *http);

/*
 * Goes on as far as is possible without waiting. Returns 0 while the request is under way, 1 when the answer is there,
 * or -errno; the end repeats itself however often it is asked for.
 * ETIMEDOUT; ECONNREFUSED, ENOENT and whatever else connect(2) says; EHOSTUNREACH: the host has no address;
 * EFBIG: the body is longer than max_body; EMSGSIZE: the headers are too long or too many; EPROTO: the answer is not
 * HTTP, or TLS failed; EKEYREJECTED: the certificate; ECONNRESET: the answer ended early; ELOOP: too many redirects.
 */
int fc_http_step(struct fc_http *http, struct fc_error *error);

/* The answer, once fc_http_step has returned 1. */
struct fc_http_answer fc_http_answer(const struct fc_http *http);

/* Ends the request, wherever it is, without waiting for the peer. NULL is fine. */
void fc_http_free(struct fc_http *http);

#endif
