// SPDX-License-Identifier: Apache-2.0
/* tests/bench/pages/client_internal.h: one client, as fleet.c starts it and client.c runs it. */
#ifndef PAGES_CLIENT_INTERNAL_H
#define PAGES_CLIENT_INTERNAL_H

#include "client.h"

struct client {
	const struct client_plan *plan;
	struct client_result *result;
	const int64_t *start_ns;          /* the common start; read after `go` */
	int go, resume, check, end, done; /* the client's ends of the pipes of struct fleet */
	char *memory;
	size_t bytes;
	int uffd, socket;
};

/* Never returns. On `done` it writes 'r' when ready, 'd' when its touches are done, 'c' when checked, 'f' when it
 * failed. */
void client_main(struct client *client) __attribute__((noreturn));

/* Says why in the result and ends; the bench sees an 'f' on `done`. */
void client_fail(struct client *client, const char *format, ...) __attribute__((format(printf, 2, 3), noreturn));

/* Reads plan->warm's pages into the page cache, as fcvm does before it loads a local snapshot. Exits on failure. */
void client_warm(struct client *client);

#endif
