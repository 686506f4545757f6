// SPDX-License-Identifier: Apache-2.0
/* core/uffd/listen.c: the Unix socket that monitors connect to. */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "uffd/page_server.h"

enum { QUEUE = 1024 };

static const char OP[] = "listen";

/* Removes a socket that nobody listens at. EADDRINUSE where somebody does, or where it is no socket. */
static int remove_dead(const struct sockaddr_un *address) {
	struct stat stat;
	if (lstat(address->sun_path, &stat) < 0)
		return errno == ENOENT ? 0 : -errno;
	if (!S_ISSOCK(stat.st_mode))
		return -EADDRINUSE;
	_cleanup_close_ int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (probe < 0)
		return -errno;
	if (connect(probe, (const struct sockaddr *)address, sizeof *address) == 0 || errno != ECONNREFUSED)
		return -EADDRINUSE;
	return unlink(address->sun_path) < 0 && errno != ENOENT ? -errno : 0;
}

int fc_page_listen(const char *path, mode_t mode, struct fc_error *error) {
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	size_t length = strlen(path);
	if (length == 0 || length >= sizeof address.sun_path)
		return fc_error_set(error, length ? ENAMETOOLONG : EINVAL, OP, path, NULL,
		                    "a socket's path has 1 to %zu bytes", sizeof address.sun_path - 1);
	memcpy(address.sun_path, path, length);
	int r = remove_dead(&address);
	if (r < 0)
		return fc_error_set(error, -r, OP, path, NULL,
		                    r == -EADDRINUSE ? "something is there that is in use" : NULL);
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0)
		return fc_error_set(error, errno, OP, path, NULL, NULL);
	/* Nobody can connect before listen, so that the mode is right from the first connection on. */
	if (chmod(path, mode) < 0 || listen(fd, QUEUE) < 0) {
		int err = errno;
		unlink(path);
		return fc_error_set(error, err, OP, path, NULL, NULL);
	}
	return fc_steal_fd(&fd);
}
