// SPDX-License-Identifier: Apache-2.0
/*
 * agent/http.h: the little HTTP that MMDS needs: one request a connection, answers with a Content-Length, everything
 * bounded in bytes and time. The parser is apart from the socket, so that it can be fuzzed.
 */
#ifndef FCVM_AGENT_HTTP_H
#define FCVM_AGENT_HTTP_H

#include <netinet/in.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "text.h"

enum { FC_HTTP_HEAD_MAX = 8192 };

struct fc_http_answer {
	int status;
	size_t head; /* bytes before the body */
	size_t body; /* bytes of the body */
};

/*
 * Reads the head of an answer. Returns 1 with *ret_answer filled, 0 where more bytes are needed, or -EPROTO, and
 * -EMSGSIZE where head or body are over their limits.
 */
int fc_http_parse(const char *data, size_t size, size_t body_max, struct fc_http_answer *ret_answer,
                  struct fc_error *error);

/*
 * Sends `request` (a whole one) to the server and waits for the answer, until the time `deadline_ms` of fc_clock_ms().
 * Blocks until then at most. On success *body holds the body and the status is returned; else -errno (ETIMEDOUT, those
 * of connect(2), EPROTO, EMSGSIZE).
 */
int fc_http_exchange(const struct sockaddr_in *server, const char *request, size_t body_max, uint64_t deadline_ms,
                     struct fc_text *body, struct fc_error *error);

#endif
