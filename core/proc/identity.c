// SPDX-License-Identifier: Apache-2.0
#include "proc/identity.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"

/* A stat line has some 50 numbers and a name of 15 bytes. */
enum { STAT_MAX = 4096, START_FIELD = 22, AFTER_NAME = 3 };

int fc_identity_parse(const char *text, struct fc_identity *ret_identity, char *ret_state) {
	char *end;
	errno = 0;
	long pid = strtol(text, &end, 10);
	const char *field = strrchr(text, ')'); /* the last: the fields after the name have none */
	if (errno || end == text || pid <= 0 || pid != (pid_t)pid || !field || field < end)
		return -EPROTO;
	if (field[1] != ' ' || !field[2] || field[3] != ' ')
		return -EPROTO;
	char state = field[2];
	field += 2;
	for (int number = AFTER_NAME; number < START_FIELD; number++) {
		field = strchr(field, ' ');
		if (!field)
			return -EPROTO;
		field++;
	}
	if (*field < '0' || *field > '9')
		return -EPROTO;
	unsigned long long start = strtoull(field, &end, 10);
	if (errno || (*end != ' ' && *end != '\n' && *end != '\0'))
		return -EPROTO;
	ret_identity->pid = (pid_t)pid;
	ret_identity->start_time = start;
	*ret_state = state;
	return 0;
}

static int read_boot_id(char *id, struct fc_error *error) {
	static const char path[] = "/proc/sys/kernel/random/boot_id";
	_cleanup_free_ char *text = NULL;
	size_t size;
	int r = fc_io_read_file(path, STAT_MAX, &text, &size, error);
	if (r < 0)
		return r;
	if (strcspn(text, "\n") != FC_BOOT_ID_LENGTH)
		return fc_error_set(error, EPROTO, "read", path, NULL, "that is no boot id");
	memcpy(id, text, FC_BOOT_ID_LENGTH);
	id[FC_BOOT_ID_LENGTH] = '\0';
	return 0;
}

static int tell_gone(pid_t pid, struct fc_error *error) {
	return fc_error_set(error, ESRCH, "find process", NULL, NULL, "process %d does not run (any more)", (int)pid);
}

int fc_identity_read(pid_t pid, struct fc_identity *ret_identity, struct fc_error *error) {
	char path[64];
	if (pid < 0)
		return tell_gone(pid, error);
	snprintf(path, sizeof path, pid ? "/proc/%d/stat" : "/proc/self/stat", (int)pid);
	_cleanup_free_ char *text = NULL;
	size_t size;
	int r = fc_io_read_file(path, STAT_MAX, &text, &size, error);
	if (r == -ENOENT || r == -ESRCH)
		return tell_gone(pid, error);
	if (r < 0)
		return r;
	struct fc_identity identity;
	char state;
	if (fc_identity_parse(text, &identity, &state) < 0)
		return fc_error_set(error, EPROTO, "read", path, NULL, "not as proc(5) describes it");
	if (state == 'Z' || state == 'X' || state == 'x')
		return tell_gone(pid, error);
	r = read_boot_id(identity.boot_id, error);
	if (r < 0)
		return r;
	*ret_identity = identity;
	return 0;
}

static bool is_same(const struct fc_identity *a, const struct fc_identity *b) {
	return a->pid == b->pid && a->start_time == b->start_time && strcmp(a->boot_id, b->boot_id) == 0;
}

bool fc_identity_alive(const struct fc_identity *identity) {
	struct fc_identity now;
	return identity->pid > 0 && fc_identity_read(identity->pid, &now, NULL) == 0 && is_same(identity, &now);
}

int fc_identity_open(const struct fc_identity *identity, struct fc_error *error) {
	if (identity->pid <= 0)
		return tell_gone(identity->pid, error);
	_cleanup_close_ int fd = pidfd_open(identity->pid, 0);
	if (fd < 0 && errno == ESRCH)
		return tell_gone(identity->pid, error);
	if (fd < 0)
		return fc_error_set(error, errno, "open process", NULL, NULL, "process %d: %s", (int)identity->pid,
		                    strerror(errno));
	/* Only now: what is still that process after the opening was it at the opening. */
	struct fc_identity now;
	int r = fc_identity_read(identity->pid, &now, error);
	if (r < 0)
		return r;
	if (!is_same(identity, &now))
		return tell_gone(identity->pid, error);
	return fc_steal_fd(&fd);
}

int fc_pidfd_kill(int pidfd, int signal, struct fc_error *error) {
	if (pidfd_send_signal(pidfd, signal, NULL, 0) < 0)
		return fc_error_set(error, errno, "signal process", NULL, NULL, NULL);
	return 0;
}
