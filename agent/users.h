// SPDX-License-Identifier: Apache-2.0
/* agent/users.h: who a name or number is, by the passwd and group files of some root directory. */
#ifndef FCVM_AGENT_USERS_H
#define FCVM_AGENT_USERS_H

#include <stddef.h>
#include <sys/types.h>

#include "base/error.h"

enum { FC_USER_GROUPS_MAX = 64 };

struct fc_user {
	uid_t uid;
	gid_t gid;
	gid_t groups[FC_USER_GROUPS_MAX]; /* supplementary ones */
	size_t group_count;
	char home[256]; /* or empty */
	char name[64];  /* or empty, for a number that has no entry */
};

/*
 * Reads USER[:GROUP], each a name or a number; a number needs no entry. `root` is the directory that holds etc/passwd;
 * links in it cannot lead out of it. Returns 0, -ENOENT for an unknown name, -EINVAL, or the errors of reading.
 */
int fc_user_find(const char *root, const char *text, struct fc_user *ret_user, struct fc_error *error);

#endif
