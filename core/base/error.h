// SPDX-License-Identifier: Apache-2.0
/*
 * core/base/error.h: what a function of the core tells its caller when it fails.
 *
 * A fallible function returns 0 (or a non-negative result) or -errno and fills the caller's struct fc_error. The
 * buffers are fixed, so that reporting an error cannot itself fail; what does not fit is cut. `error` may be NULL where
 * the caller wants the number alone. Libraries never print: the error is printed once, at the top.
 */
#ifndef FCVM_BASE_ERROR_H
#define FCVM_BASE_ERROR_H

#include <stdarg.h>

struct fc_error {
	int err;           /* a positive errno */
	char op[128];      /* what was being done: "open", "add veth"; outer operations stand before inner ones */
	char subject[256]; /* what it was done to: a path, a link's name, an address */
	char message[512]; /* why, in words; empty where errno says it all */
	char hint[256];    /* what to do about it; empty where there is no advice */
};

/*
 * Fills *error and returns -err. `err` is a positive errno (0 is taken as EIO: a failure must never read as success);
 * `subject` and `hint` may be NULL; `message` is a printf format, or NULL where errno says it all.
 */
int fc_error_set(struct fc_error *error, int err, const char *op, const char *subject, const char *hint,
                 const char *message, ...) __attribute__((format(printf, 6, 7)));

/*
 * Puts what the caller was doing in front of an error from below: op "open" becomes "mount root: open". The subject is
 * replaced where the inner one is empty. Returns -err of the error, or -EIO where error is NULL (the number is then
 * lost; keep the callee's return value instead).
 */
int fc_error_wrap(struct fc_error *error, const char *op, const char *subject);

/* Writes the error as one sentence, cut to size: "op subject: message or errno text (hint)". Returns buffer. */
char *fc_error_format(const struct fc_error *error, char *buffer, unsigned long size);

#endif
