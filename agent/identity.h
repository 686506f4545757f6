// SPDX-License-Identifier: Apache-2.0
/*
 * agent/identity.h: what makes a guest itself and no other: clock, random numbers, names, and the generation by which
 * programs see that they are a clone's now. At the boot and after a restore; each step may be done again. All return 0
 * or -errno with the error filled, and block no longer than a write to a file does.
 */
#ifndef FCVM_AGENT_IDENTITY_H
#define FCVM_AGENT_IDENTITY_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* The wall clock, ns since 1970. */
int64_t fc_identity_clock(void);
int fc_identity_set_clock(int64_t time_ns, struct fc_error *error);

/*
 * Puts `size` bytes into the kernel's pool, counts them as entropy, and has the kernel draw its generator's key anew at
 * once (random(4): RNDADDENTROPY, RNDRESEEDCRNG): what /dev/urandom gives from then on follows from these bytes.
 */
int fc_identity_add_entropy(const void *bytes, size_t size, struct fc_error *error);

/* 32 hexadecimal digits of the kernel's random numbers. */
int fc_identity_random(char ret_digits[33], struct fc_error *error);

int fc_identity_set_hostname(const char *hostname, struct fc_error *error);

/* Makes a new file of mode 0644 in place of whatever stands there. */
int fc_identity_create(const char *path, const char *text, size_t size, struct fc_error *error);

/*
 * Writes a file anew without making another of it, so that those who have it bind-mounted see it; makes it where it is
 * missing. -ELOOP for a link, -EINVAL for anything else that is no file.
 */
int fc_identity_rewrite(const char *path, const char *text, size_t size, struct fc_error *error);

/*
 * In a file like /etc/hosts: puts `after` wherever `before` stands as a word outside of comments, or a line of its own
 * at the end where that is nowhere (or is localhost). In place, as fc_identity_rewrite.
 */
int fc_identity_rename_host(const char *path, const char *before, const char *after, struct fc_error *error);

struct fc_published {
	const char *generation, *name;
	char *const *env; /* "KEY=VALUE", each KEY fit for a shell; NULL-terminated, or NULL */
};

/*
 * Writes the files name, env and, last, generation in `dir`, which is made where it is missing. Each is renamed over
 * the one before: whoever watches the directory sees it come whole, and whoever sees the new generation sees the rest.
 */
int fc_identity_publish(const char *dir, const struct fc_published *what, struct fc_error *error);

#endif
