// SPDX-License-Identifier: Apache-2.0
#include "files.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "base64.h"
#include "guest/protocol.h"
#include "plan.h"

static const char temporary[] = ".fcvm-new";

static int bad(struct fc_error *error, const char *key, const char *why) {
	return fc_error_set(error, EINVAL, "read", key, NULL, "'%s' %s", key, why);
}

/* Absolute, names something, and goes straight there. */
static bool is_straight(const char *path) {
	if (path[0] != '/')
		return false;
	for (const char *at = path; *at;) {
		size_t size = strcspn(at + 1, "/");
		if (size == 0 || (size == 1 && at[1] == '.') || (size == 2 && at[1] == '.' && at[2] == '.') ||
		    size > NAME_MAX)
			return false;
		at += 1 + size;
	}
	return true;
}

static int read_data(const struct fc_json *object, struct fc_file *file, struct fc_error *error) {
	const struct fc_json *data = fc_json_get(object, "data");
	if (!data || data->kind != FC_JSON_STRING)
		return bad(error, "data", "is missing or no string");
	size_t most = strlen(data->text) / 4 * 3;
	file->data = malloc(most + 1);
	if (!file->data)
		return fc_error_set(error, ENOMEM, "read", "data", NULL, NULL);
	ssize_t n = fc_base64_decode(data->text, file->data, most);
	if (n < 0)
		return bad(error, "data", "is no base64");
	file->size = (size_t)n;
	return 0;
}

static int read_file(const struct fc_json *object, struct fc_file *file, struct fc_error *error) {
	static const char *const known[] = {"path", "mode", "data", NULL};
	int64_t mode = 0644;
	int r = fc_members_known(object, known, error);
	if (r == 0)
		r = fc_member_string(object, "path", PATH_MAX - 1, &file->path, error);
	if (r == 0)
		r = fc_member_integer(object, "mode", 0, 07777, &mode, error);
	if (r < 0)
		return r;
	if (!file->path || !is_straight(file->path))
		return bad(error, "path", "is missing or no straight absolute path");
	file->mode = (mode_t)mode;
	return read_data(object, file, error);
}

void fc_files_free(struct fc_file *files, size_t count) {
	for (size_t i = 0; i < count; i++) {
		free(files[i].path);
		free(files[i].data);
	}
	free(files);
}

ssize_t fc_files_read(const struct fc_json *object, const char *key, struct fc_file **ret_files,
                      struct fc_error *error) {
	const struct fc_json *list = fc_json_get(object, key);
	if (!list)
		return 0;
	if (list->kind != FC_JSON_ARRAY)
		return bad(error, key, "is no array");
	struct fc_file *files = calloc(FC_GUEST_FILES_MAX, sizeof *files);
	if (!files)
		return fc_error_set(error, ENOMEM, "read", key, NULL, NULL);
	size_t count = 0;
	int r = 0;
	for (const struct fc_json *member = list->child; member && r == 0; member = member->next)
		r = count == FC_GUEST_FILES_MAX ? bad(error, key, "has more files than it may have")
		                                : read_file(member, &files[count++], error);
	if (r < 0 || count == 0) {
		fc_files_free(files, count);
		return r;
	}
	*ret_files = files;
	return (ssize_t)count;
}

/* Opens what is below `root`, where links are the container's own: absolute ones begin at its root too. */
static int open_below(int root, const char *path, uint64_t flags) {
	struct open_how how = {.flags = flags | O_CLOEXEC, .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS};
	long fd = syscall(SYS_openat2, root, path, &how, sizeof how);
	return fd < 0 ? -errno : (int)fd;
}

/* The directory `path` (of `size` bytes, without its first '/'), made where it is missing. */
static int open_directory(int root, const char *path, size_t size) {
	char part[PATH_MAX];
	_cleanup_close_ int dir = open_below(root, ".", O_PATH | O_DIRECTORY);
	for (size_t at = 0; dir >= 0 && at < size;) {
		size_t name = at;
		at += strcspn(path + at, "/");
		memcpy(part, path, at);
		part[at] = '\0';
		int next = open_below(root, part, O_PATH | O_DIRECTORY);
		if (next == -ENOENT && (mkdirat(dir, part + name, 0755) == 0 || errno == EEXIST))
			next = open_below(root, part, O_PATH | O_DIRECTORY);
		close(dir);
		dir = next;
		at++;
	}
	return fc_steal_fd(&dir);
}

static int write_to(int fd, const struct fc_file *file) {
	int r = fc_io_write_full(fd, file->data, file->size);
	if (r == 0 && (ftruncate(fd, (off_t)file->size) < 0 || fchmod(fd, file->mode) < 0))
		r = -errno;
	return r;
}

static int write_beside(int dir, const char *name, const struct fc_file *file) {
	unlinkat(dir, temporary, 0);
	_cleanup_close_ int fd = openat(dir, temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	int r = fd < 0 ? -errno : write_to(fd, file);
	if (r == 0 && renameat(dir, temporary, dir, name) < 0)
		r = -errno;
	if (r < 0 && fd >= 0)
		unlinkat(dir, temporary, 0);
	return r;
}

static int write_in_place(int dir, const char *name, const struct fc_file *file) {
	struct stat status;
	_cleanup_close_ int fd = openat(dir, name, O_WRONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &status) < 0)
		return -errno;
	return S_ISREG(status.st_mode) ? write_to(fd, file) : -EINVAL;
}

int fc_files_write(int root, const struct fc_file *file, struct fc_error *error) {
	const char *path = file->path + 1;
	const char *slash = strrchr(path, '/');
	const char *name = slash ? slash + 1 : path;
	_cleanup_close_ int dir = open_directory(root, path, slash ? (size_t)(slash - path) : 0);
	int r = dir < 0 ? dir : write_beside(dir, name, file);
	if (r == -EBUSY)
		r = write_in_place(dir, name, file);
	return r < 0 ? fc_error_set(error, -r, "write", file->path, NULL, NULL) : 0;
}
