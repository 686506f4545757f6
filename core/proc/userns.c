// SPDX-License-Identifier: Apache-2.0
#include "proc/userns.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <unistd.h>

#include "base/io.h"

static const char OP[] = "make user namespace";

static const char *hint_of(int err) {
	switch (err) {
	case EPERM:
	case ENOSPC:
	case EUSERS:
		return "allow them: sysctl user.max_user_namespaces=10000, and where they are there "
		       "kernel.unprivileged_userns_clone=1 and kernel.apparmor_restrict_unprivileged_userns=0; or run "
		       "as root";
	case EINVAL:
		return "it is for a process that has not begun threads yet";
	default:
		return NULL;
	}
}

/* Maps one user or group to itself, the only mapping that takes no privilege. */
static int map_own(const char *path, unsigned int id, struct fc_error *error) {
	char text[48];
	snprintf(text, sizeof text, "%u %u 1\n", id, id);
	return fc_io_write_file(path, text, error);
}

int fc_userns_enter(struct fc_error *error) {
	/* In the new namespace they are nobody's until they are mapped. */
	uid_t uid = geteuid();
	gid_t gid = getegid();
	if (unshare(CLONE_NEWUSER | CLONE_NEWNS) < 0)
		return fc_error_set(error, errno, OP, NULL, hint_of(errno), NULL);
	/* A group may be mapped by who cannot drop groups any more: one may be there to deny something. */
	int r = fc_io_write_file("/proc/self/setgroups", "deny", error);
	if (r == 0)
		r = map_own("/proc/self/uid_map", uid, error);
	if (r == 0)
		r = map_own("/proc/self/gid_map", gid, error);
	if (r < 0)
		fc_error_wrap(error, OP, NULL);
	return r;
}
