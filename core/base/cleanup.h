// SPDX-License-Identifier: Apache-2.0
/*
 * core/base/cleanup.h: resources that end with their scope, by the compiler's cleanup attribute.
 *
 * Not for core/lua: a Lua call may longjmp over the scope, and these do not run then.
 */
#ifndef FCVM_BASE_CLEANUP_H
#define FCVM_BASE_CLEANUP_H

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static inline void fc_cleanup_free(void *pointer) {
	free(*(void **)pointer);
}

/* Closes and keeps errno, so that a failing function may still return -errno after it. */
static inline void fc_cleanup_close(const int *fd) {
	if (*fd >= 0) {
		int saved = errno;
		close(*fd);
		errno = saved;
	}
}

static inline void fc_cleanup_fclose(FILE **file) {
	if (*file)
		fclose(*file);
}

#define _cleanup_free_ __attribute__((cleanup(fc_cleanup_free)))
#define _cleanup_close_ __attribute__((cleanup(fc_cleanup_close)))
#define _cleanup_fclose_ __attribute__((cleanup(fc_cleanup_fclose)))

/* Gives a guarded descriptor away: its value, and -1 is left in its place. */
static inline int fc_steal_fd(int *fd) {
	int value = *fd;
	*fd = -1;
	return value;
}

/* Gives a guarded pointer away: its value, and NULL is left in its place. */
#define fc_steal_ptr(pointer)                                                                                          \
	({                                                                                                             \
		__typeof__(pointer) *fc_from_ = &(pointer);                                                            \
		__typeof__(pointer) fc_value_ = *fc_from_;                                                             \
		*fc_from_ = NULL;                                                                                      \
		fc_value_;                                                                                             \
	})

#endif
