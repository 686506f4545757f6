// SPDX-License-Identifier: Apache-2.0
#include "identity.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/random.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "guest/protocol.h"
#include "text.h"

enum { HOSTS_MAX = 256 * 1024, NS_PER_S = 1000000000 };

/* ---- clock and random numbers */

int64_t fc_identity_clock(void) {
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	return (int64_t)now.tv_sec * NS_PER_S + now.tv_nsec;
}

int fc_identity_set_clock(int64_t time_ns, struct fc_error *error) {
	struct timespec now = {.tv_sec = time_ns / NS_PER_S, .tv_nsec = (long)(time_ns % NS_PER_S)};
	if (clock_settime(CLOCK_REALTIME, &now) < 0)
		return fc_error_set(error, errno, "set clock", NULL, NULL, NULL);
	return 0;
}

int fc_identity_add_entropy(const void *bytes, size_t size, struct fc_error *error) {
	union {
		struct rand_pool_info info;
		unsigned char room[sizeof(struct rand_pool_info) + FC_GUEST_ENTROPY_MAX];
	} pool = {.info = {.entropy_count = (int)size * 8, .buf_size = (int)size}};
	if (size > FC_GUEST_ENTROPY_MAX)
		return fc_error_set(error, EMSGSIZE, "add entropy", NULL, NULL, NULL);
	memcpy(pool.room + offsetof(struct rand_pool_info, buf), bytes, size);
	_cleanup_close_ int fd = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
	int r = fd < 0 || ioctl(fd, RNDADDENTROPY, &pool.info) < 0 || ioctl(fd, RNDRESEEDCRNG) < 0 ? -errno : 0;
	explicit_bzero(&pool, sizeof pool);
	return r < 0 ? fc_error_set(error, -r, "add entropy", "/dev/urandom", NULL, NULL) : 0;
}

int fc_identity_random(char ret_digits[33], struct fc_error *error) {
	unsigned char bytes[16];
	/* It does not wait for the pool, which has little in it early in a boot. */
	_cleanup_close_ int fd = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fc_io_read_full(fd, bytes, sizeof bytes) != (ssize_t)sizeof bytes)
		return fc_error_set(error, EIO, "read", "/dev/urandom", NULL, NULL);
	for (size_t i = 0; i < sizeof bytes; i++)
		snprintf(ret_digits + 2 * i, 3, "%02x", bytes[i]);
	return 0;
}

/* ---- names */

int fc_identity_set_hostname(const char *hostname, struct fc_error *error) {
	if (sethostname(hostname, strlen(hostname)) < 0)
		return fc_error_set(error, errno, "set host name", hostname, NULL, NULL);
	return 0;
}

int fc_identity_create(const char *path, const char *text, size_t size, struct fc_error *error) {
	/* What stands there may be a link to somewhere else, as systemd's resolv.conf is. */
	unlink(path);
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0644);
	if (fd < 0)
		return fc_error_set(error, errno, "create", path, NULL, NULL);
	int r = fc_io_write_full(fd, text, size);
	return r < 0 ? fc_error_set(error, -r, "write", path, NULL, NULL) : 0;
}

int fc_identity_rewrite(const char *path, const char *text, size_t size, struct fc_error *error) {
	struct stat status;
	/* A FIFO would block without O_NONBLOCK. */
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY, 0644);
	if (fd < 0 || fstat(fd, &status) < 0)
		return fc_error_set(error, errno, "open", path, NULL, NULL);
	if (!S_ISREG(status.st_mode))
		return fc_error_set(error, EINVAL, "write", path, NULL, "it is no file");
	/* Cut to size after it was written: a reader in between finds the new text, never none. */
	int r = fc_io_write_full(fd, text, size);
	if (r == 0 && ftruncate(fd, (off_t)size) < 0)
		r = -errno;
	return r < 0 ? fc_error_set(error, -r, "write", path, NULL, NULL) : 0;
}

/* Copies one line with `before` replaced; returns whether `after` is in it then. */
static bool copy_line(struct fc_text *text, const char *line, size_t size, const char *before, const char *after) {
	static const char space[] = " \t\r";
	bool found = false;
	const char *end = line + size;
	const char *comment = memchr(line, '#', size);
	const char *stop = comment ? comment : end;
	for (const char *at = line; at < stop;) {
		size_t blank = strspn(at, space);
		size_t gap = blank < (size_t)(stop - at) ? blank : (size_t)(stop - at);
		fc_text_put(text, at, gap);
		at += gap;
		size_t word = 0;
		while (at + word < stop && !strchr(space, at[word]))
			word++;
		bool same = word == strlen(before) && word && memcmp(at, before, word) == 0;
		if (same)
			fc_text_puts(text, after);
		else
			fc_text_put(text, at, word);
		found |= same || (word == strlen(after) && memcmp(at, after, word) == 0);
		at += word;
	}
	fc_text_put(text, stop, (size_t)(end - stop));
	return found;
}

static void renamed(struct fc_text *text, const char *hosts, const char *before, const char *after) {
	bool found = false;
	for (const char *line = hosts; *line;) {
		size_t size = strcspn(line, "\n");
		found |= copy_line(text, line, size, before, after);
		fc_text_puts(text, "\n");
		line += size + (line[size] == '\n');
	}
	if (!found)
		fc_text_putf(text, "127.0.1.1\t%s\n", after);
}

int fc_identity_rename_host(const char *path, const char *before, const char *after, struct fc_error *error) {
	_cleanup_free_ char *hosts = NULL;
	size_t size;
	int r = fc_io_read_file(path, HOSTS_MAX, &hosts, &size, error);
	if (r < 0)
		return r;
	struct fc_text text = {0};
	renamed(&text, hosts, strcmp(before, "localhost") == 0 ? "" : before, after);
	r = text.failed ? fc_error_set(error, ENOMEM, "write", path, NULL, NULL)
	                : fc_identity_rewrite(path, text.data, text.size, error);
	fc_text_clear(&text);
	return r;
}

/* ---- what programs watch */

static int publish_file(const char *dir, const char *name, struct fc_text *text, struct fc_error *error) {
	char fresh[PATH_MAX];
	char path[PATH_MAX];
	if (snprintf(fresh, sizeof fresh, "%s/.%s", dir, name) >= (int)sizeof fresh ||
	    snprintf(path, sizeof path, "%s/%s", dir, name) >= (int)sizeof path)
		return fc_error_set(error, ENAMETOOLONG, "write", dir, NULL, NULL);
	int r = text->failed ? fc_error_set(error, ENOMEM, "write", path, NULL, NULL)
	                     : fc_identity_create(fresh, text->data, text->size, error);
	fc_text_clear(text);
	if (r == 0 && rename(fresh, path) < 0)
		r = fc_error_set(error, errno, "rename", path, NULL, NULL);
	return r;
}

/* KEY='VALUE', which a shell reads back whatever VALUE holds. */
static void put_variable(struct fc_text *text, const char *variable) {
	size_t key = strcspn(variable, "=");
	fc_text_put(text, variable, key);
	fc_text_puts(text, "='");
	for (const char *at = variable + key + (variable[key] == '='); *at; at++) {
		if (*at == '\'')
			fc_text_puts(text, "'\\''");
		else
			fc_text_put(text, at, 1);
	}
	fc_text_puts(text, "'\n");
}

int fc_identity_publish(const char *dir, const struct fc_published *what, struct fc_error *error) {
	struct fc_text text = {0};
	if (mkdir(dir, 0755) < 0 && errno != EEXIST)
		return fc_error_set(error, errno, "make directory", dir, NULL, NULL);
	fc_text_putf(&text, "%s\n", what->name);
	int r = publish_file(dir, "name", &text, error);
	if (r < 0)
		return r;
	fc_text_puts(&text, "");
	for (size_t i = 0; what->env && what->env[i]; i++)
		put_variable(&text, what->env[i]);
	r = publish_file(dir, "env", &text, error);
	if (r < 0)
		return r;
	fc_text_putf(&text, "%s\n", what->generation);
	return publish_file(dir, "generation", &text, error);
}
