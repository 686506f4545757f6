// SPDX-License-Identifier: Apache-2.0
#include "base/error.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static void put(char *to, size_t size, const char *text) {
	snprintf(to, size, "%s", text ? text : "");
}

int fc_error_set(struct fc_error *error, int err, const char *op, const char *subject, const char *hint,
                 const char *message, ...) {
	if (err <= 0)
		err = EIO;
	if (!error)
		return -err;
	error->err = err;
	put(error->op, sizeof error->op, op);
	put(error->subject, sizeof error->subject, subject);
	put(error->hint, sizeof error->hint, hint);
	error->message[0] = '\0';
	if (message) {
		va_list arguments;
		va_start(arguments, message);
		vsnprintf(error->message, sizeof error->message, message, arguments);
		va_end(arguments);
	}
	return -err;
}

int fc_error_wrap(struct fc_error *error, const char *op, const char *subject) {
	if (!error)
		return -EIO;
	char inner[sizeof error->op];
	memcpy(inner, error->op, sizeof inner);
	/* What does not fit is cut: the outer operation matters more than the inner one. */
	int n = snprintf(error->op, sizeof error->op, "%s: ", op);
	if (n > 0 && (size_t)n < sizeof error->op)
		put(error->op + n, sizeof error->op - (size_t)n, inner);
	if (!error->subject[0])
		put(error->subject, sizeof error->subject, subject);
	if (error->err <= 0)
		error->err = EIO;
	return -error->err;
}

char *fc_error_format(const struct fc_error *error, char *buffer, unsigned long size) {
	snprintf(buffer, size, "%s%s%s: %s%s%s%s", error->op, error->subject[0] ? " " : "", error->subject,
	         error->message[0] ? error->message : strerror(error->err), error->hint[0] ? " (" : "", error->hint,
	         error->hint[0] ? ")" : "");
	return buffer;
}
