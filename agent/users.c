// SPDX-License-Identifier: Apache-2.0
#include "users.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"

enum { FIELDS_MAX = 8, LINE_MAX_BYTES = 16384, LINES_MAX = 100000 };

static bool is_number(const char *text) {
	return text[0] && strspn(text, "0123456789") == strlen(text);
}

/* An id of 0 to 2^32-2; false where the text is none. */
static bool read_id(const char *text, unsigned *ret) {
	if (!is_number(text) || strlen(text) > 10)
		return false;
	unsigned long long value = strtoull(text, NULL, 10);
	if (value >= UINT_MAX)
		return false;
	*ret = (unsigned)value;
	return true;
}

static size_t split(char *line, char *fields[FIELDS_MAX]) {
	size_t n = 0;
	line[strcspn(line, "\r\n")] = '\0';
	while (n < FIELDS_MAX) {
		fields[n++] = line;
		char *colon = strchr(line, ':');
		if (!colon)
			break;
		*colon = '\0';
		line = colon + 1;
	}
	return n;
}

/* Opens a file below `root` as a process with that root would; NULL where there is none. */
static FILE *open_below(const char *root, const char *path) {
	_cleanup_close_ int dir = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return NULL;
	struct open_how how = {.flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK, .resolve = RESOLVE_IN_ROOT};
	int fd = (int)syscall(SYS_openat2, dir, path, &how, sizeof how);
	if (fd < 0)
		return NULL;
	FILE *file = fdopen(fd, "r");
	if (!file)
		close(fd);
	return file;
}

/* Calls `take` for each line's fields until it says true. Returns whether it did. */
static bool each(const char *root, const char *path, bool (*take)(char *fields[], size_t count, void *context),
                 void *context) {
	_cleanup_fclose_ FILE *file = open_below(root, path);
	char line[LINE_MAX_BYTES];
	for (int i = 0; file && i < LINES_MAX && fgets(line, sizeof line, file); i++) {
		char *fields[FIELDS_MAX];
		size_t count = split(line, fields);
		if (take(fields, count, context))
			return true;
	}
	return false;
}

struct search {
	const char *text;
	struct fc_user *user;
};

static bool take_passwd(char *fields[], size_t count, void *context) {
	struct search *search = context;
	unsigned uid;
	unsigned gid;
	if (count < 6 || !read_id(fields[2], &uid) || !read_id(fields[3], &gid))
		return false;
	unsigned wanted = 0;
	bool number = read_id(search->text, &wanted);
	if (number ? uid != wanted : strcmp(fields[0], search->text) != 0)
		return false;
	search->user->uid = uid;
	search->user->gid = gid;
	snprintf(search->user->home, sizeof search->user->home, "%s", fields[5]);
	snprintf(search->user->name, sizeof search->user->name, "%s", fields[0]);
	return true;
}

static bool take_group(char *fields[], size_t count, void *context) {
	struct search *search = context;
	unsigned gid;
	if (count < 3 || strcmp(fields[0], search->text) != 0 || !read_id(fields[2], &gid))
		return false;
	search->user->gid = gid;
	return true;
}

/* Adds the group where the user is one of its members. */
static bool take_membership(char *fields[], size_t count, void *context) {
	struct fc_user *user = context;
	unsigned gid;
	if (count < 4 || !read_id(fields[2], &gid) || user->group_count == FC_USER_GROUPS_MAX)
		return false;
	char *rest = fields[3];
	for (char *name; (name = strsep(&rest, ",")) != NULL;)
		if (strcmp(name, user->name) == 0) {
			user->groups[user->group_count++] = gid;
			break;
		}
	return false;
}

static int find_user(const char *root, const char *name, struct fc_user *user, struct fc_error *error) {
	struct search search = {.text = name, .user = user};
	if (each(root, "etc/passwd", take_passwd, &search))
		return 0;
	unsigned uid;
	if (!read_id(name, &uid))
		return fc_error_set(error, ENOENT, "find user", name, NULL, "there is no user '%.64s'", name);
	user->uid = uid;
	return 0;
}

static int find_group(const char *root, const char *name, struct fc_user *user, struct fc_error *error) {
	unsigned gid;
	if (read_id(name, &gid)) {
		user->gid = gid;
		return 0;
	}
	struct search search = {.text = name, .user = user};
	if (each(root, "etc/group", take_group, &search))
		return 0;
	return fc_error_set(error, ENOENT, "find group", name, NULL, "there is no group '%.64s'", name);
}

int fc_user_find(const char *root, const char *text, struct fc_user *ret_user, struct fc_error *error) {
	char name[256];
	if (strlen(text) >= sizeof name || text[0] == ':' || !text[0])
		return fc_error_set(error, EINVAL, "find user", text, NULL, "that is no USER[:GROUP]");
	memcpy(name, text, strlen(text) + 1);
	char *group = strchr(name, ':');
	if (group)
		*group++ = '\0';
	struct fc_user user = {.uid = 0};
	int r = find_user(root, name, &user, error);
	if (r < 0)
		return r;
	if (user.name[0])
		each(root, "etc/group", take_membership, &user);
	r = group && *group ? find_group(root, group, &user, error) : 0;
	if (r < 0)
		return r;
	*ret_user = user;
	return 0;
}
