// SPDX-License-Identifier: Apache-2.0
// link: -Wl,--wrap=clock_settime -Wl,--wrap=sethostname -Wl,--wrap=uname -Wl,--wrap=ioctl
/*
 * A clone becomes itself: RESTORE and CLOCK over socket pairs, and what they are made of. What would change the machine
 * that the tests run on (its clock, its name, its pool of random numbers) is caught and looked at instead.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/random.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "agent_harness.h"
#include "base/io.h"
#include "base64.h"
#include "clock.h"
#include "files.h"
#include "identity.h"

/* ---- the machine that is not to be changed */

static struct {
	char hostname[65];
	struct timespec time;
	unsigned char entropy[FC_GUEST_ENTROPY_MAX];
	int entropy_size, entropy_bits;
	unsigned clocks, names, pools, reseeds;
	int fail_ioctl, fail_clock; /* errno */
} machine;

int __wrap_clock_settime(clockid_t clock, const struct timespec *time);
int __wrap_sethostname(const char *name, size_t size);
int __wrap_uname(struct utsname *names);
int __real_ioctl(int fd, unsigned long request, void *argument);
int __wrap_ioctl(int fd, unsigned long request, void *argument);

int __wrap_clock_settime(clockid_t clock, const struct timespec *time) {
	assert_int_equal(clock, CLOCK_REALTIME);
	if (machine.fail_clock) {
		errno = machine.fail_clock;
		return -1;
	}
	machine.time = *time;
	machine.clocks++;
	return 0;
}

int __wrap_sethostname(const char *name, size_t size) {
	snprintf(machine.hostname, sizeof machine.hostname, "%.*s", (int)size, name);
	machine.names++;
	return 0;
}

int __wrap_uname(struct utsname *names) {
	snprintf(names->nodename, sizeof names->nodename, "%s", machine.hostname);
	return 0;
}

int __wrap_ioctl(int fd, unsigned long request, void *argument) {
	struct rand_pool_info *info = argument;
	if (request != RNDADDENTROPY && request != RNDRESEEDCRNG)
		return __real_ioctl(fd, request, argument);
	if (machine.fail_ioctl) {
		errno = machine.fail_ioctl;
		return -1;
	}
	if (request == RNDRESEEDCRNG) {
		/* Not before the new bytes are in the pool. */
		assert_int_equal(machine.pools, machine.reseeds + 1);
		machine.reseeds++;
		return 0;
	}
	machine.pools++;
	machine.entropy_size = info->buf_size;
	machine.entropy_bits = info->entropy_count;
	memcpy(machine.entropy, info->buf, (size_t)info->buf_size);
	return 0;
}

/* ---- files of the tests */

static char path_buffer[4][192];

static const char *in_dir(const char *name) {
	static unsigned next;
	char *path = path_buffer[next++ % 4];
	snprintf(path, sizeof path_buffer[0], "%s/%s", dir, name);
	return path;
}

static const char *text_of(const char *name) {
	static char text[8192];
	char *data;
	size_t size;
	assert_int_equal(fc_io_read_file(in_dir(name), sizeof text - 1, &data, &size, NULL), 0);
	memcpy(text, data, size + 1);
	free(data);
	return text;
}

static void expect_file(const char *name, const char *text) {
	assert_string_equal(text_of(name), text);
}

static ino_t inode_of(const char *name) {
	struct stat status;
	assert_int_equal(stat(in_dir(name), &status), 0);
	return status.st_ino;
}

/* ---- RESTORE */

#define GENERATION "0123456789abcdef0123456789abcdef"
#define MACHINE_ID "fedcba9876543210fedcba9876543210"
#define ENTROPY "QkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkI="
#define WHOLE                                                                                                          \
	"{\"generation\":\"" GENERATION "\",\"hostname\":\"web1\",\"machine_id\":\"" MACHINE_ID                        \
	"\",\"time_ns\":1700000000123456789,\"entropy\":\"" ENTROPY "\""

static void expect_restored(const char *more) {
	char request[4096];
	snprintf(request, sizeof request, WHOLE "%s}", more);
	struct peer *peer = asking(FC_GUEST_RESTORE, request);
	/* As hosts do to see whether the connection still is one. */
	say_hello(peer);
	expect_text(peer, FC_GUEST_RESTORED,
	            "{\"generation\":\"" GENERATION "\",\"hostname\":\"web1\",\"machine_id\":\"" MACHINE_ID
	            "\",\"output\":");
	expect_closed(peer);
	free_peer(peer);
}

static int open_base(void **state) {
	char config_path[192];
	char text[2048];
	memset(&machine, 0, sizeof machine);
	int r = open_server(state);
	static const char *const published[] = {"run/identity/generation", "run/identity/name", "run/identity/env"};
	for (size_t i = 0; i < 3; i++)
		unlink(in_dir(published[i]));
	write_file(in_dir("hostname"), "web\n", 0644);
	write_file(in_dir("hosts"), "127.0.0.1\tlocalhost\n172.16.0.2\tweb\n", 0644);
	write_file(in_dir("machine-id"), "00000000000000000000000000000000\n", 0444);
	write_file(in_dir("c-hosts"), "127.0.0.1 localhost\n10.0.0.9 other.web web-db\n172.16.0.2 web webby # web\n",
	           0644);
	write_file(in_dir("c-hostname"), "web\n", 0644);
	snprintf(config_path, sizeof config_path, "%s/0123abc/userdata/config.json", path_bundles);
	snprintf(text, sizeof text,
	         "{\"process\":{\"args\":[\"x\"],\"env\":[\"A=1\",\"HOSTNAME=web\"],\"cwd\":\"/\"},\"mounts\":["
	         "{\"destination\":\"/proc\",\"type\":\"proc\",\"source\":\"proc\"},"
	         "{\"destination\":\"/etc/hosts\",\"source\":\"%s/c-hosts\"},"
	         "{\"destination\":\"/etc/hostname\",\"source\":\"%s/c-hostname\"}]}",
	         dir, dir);
	write_file(config_path, text, 0644);
	snprintf(server.generation, sizeof server.generation, "ffffffffffffffffffffffffffffffff");
	return r;
}

static void run(const char *command) {
	start(command);
	wait_for(runs);
	wait_for(has_output);
}

static struct peer *silence(void) {
	struct peer *asker = asking(FC_GUEST_QUIESCE, "{}");
	expect(asker, FC_GUEST_OK);
	return asker;
}

static void everything_is_the_clones_own(void **state) {
	(void)state;
	run("echo up; sleep 60");
	ino_t inode = inode_of("machine-id");
	int64_t before = fc_identity_clock();
	struct peer *peer = asking(FC_GUEST_RESTORE, WHOLE ",\"name\":\"web-1\",\"env\":{\"SHARD\":\"it's 3\"}}");
	expect_text(peer, FC_GUEST_RESTORED, "\"hostname\":\"web1\",\"machine_id\":\"" MACHINE_ID "\",\"output\":3,");
	long long told = atoll(strstr(peer->text, "\"time_ns\":") + 10);
	assert_true(told >= before && told <= fc_identity_clock());
	assert_non_null(strstr(peer->text, "\"boot_ns\":"));
	free_peer(peer);
	/* The kernel's. */
	assert_int_equal(machine.time.tv_sec, 1700000000);
	assert_int_equal(machine.time.tv_nsec, 123456789);
	assert_int_equal(machine.entropy_size, 32);
	assert_int_equal(machine.entropy_bits, 256);
	for (int i = 0; i < 32; i++)
		assert_int_equal(machine.entropy[i], 'B');
	assert_int_equal(machine.reseeds, 1);
	assert_string_equal(machine.hostname, "web1");
	/* The guest's and the container's files; those that are mounted stay the same files. */
	expect_file("hostname", "web1\n");
	expect_file("hosts", "127.0.0.1\tlocalhost\n172.16.0.2\tweb1\n");
	expect_file("machine-id", MACHINE_ID "\n");
	assert_int_equal(inode_of("machine-id"), inode);
	expect_file("c-hostname", "web1\n");
	expect_file("c-hosts", "127.0.0.1 localhost\n10.0.0.9 other.web web-db\n172.16.0.2 web1 webby # web\n");
	/* What programs watch. */
	expect_file("run/identity/generation", GENERATION "\n");
	expect_file("run/identity/name", "web-1\n");
	expect_file("run/identity/env", "SHARD='it'\\''s 3'\nHOSTNAME='web1'\n");
	/* And what the agent says of itself. */
	peer = asking(FC_GUEST_STATUS, "{}");
	expect_text(peer, FC_GUEST_STATE, "\"name\":\"web-1\",\"generation\":\"" GENERATION "\"");
	free_peer(peer);
}

static void the_base_ends_and_its_output_is_not_repeated(void **state) {
	(void)state;
	char request[64];
	run("echo old; sleep 0.1; echo in the pipe; while [ ! -e $EXITS/../go ]; do sleep 0.02; done; echo new; sleep "
	    "60");
	struct peer *attached = asking(FC_GUEST_ATTACH, "{}");
	struct peer *command = asking(FC_GUEST_EXEC, "{\"vm\":true,\"argv\":[\"sh\",\"-c\",\"echo $$; sleep 700\"]}");
	expect(command, FC_GUEST_OUTPUT);
	pid_t pid = atoi(command->out[0]);
	assert_true(pid > 1 && kill(pid, 0) == 0);
	struct peer *asker = silence();
	for (int i = 0; i < 20; i++)
		turn();
	assert_int_equal(server.output.end, 4);
	expect_restored("");
	/* Nobody is left, and what ran for them is dead. */
	wait_for(no_sessions);
	uint64_t limit = fc_clock_ms() + LIMIT_MS;
	while (kill(pid, 0) == 0 && fc_clock_ms() < limit)
		turn();
	assert_int_equal(kill(pid, 0), -1);
	/* The container goes on; its own output begins behind what the base had written. */
	assert_int_equal(server.output_begin, 16);
	write_file(in_dir("go"), "", 0644);
	snprintf(request, sizeof request, "{\"from\":%llu}", (unsigned long long)server.output_begin);
	struct peer *clone = asking(FC_GUEST_ATTACH, request);
	limit = fc_clock_ms() + LIMIT_MS;
	while (!clone->total && fc_clock_ms() < limit) {
		turn();
		hear(clone);
	}
	assert_string_equal(clone->out[0], "new\n");
	assert_non_null(strstr(clone->events, "container-started"));
	unlink(in_dir("go"));
	free_peer(clone);
	free_peer(attached);
	free_peer(command);
	free_peer(asker);
}

static void once_applied_it_is_only_confirmed(void **state) {
	(void)state;
	run("echo up; sleep 60");
	struct peer *asker = silence();
	expect_restored("");
	struct peer *attached = asking(FC_GUEST_ATTACH, "{}");
	expect_event(attached, "container-started");
	expect_restored("");
	expect_restored("");
	assert_int_equal(machine.clocks, 1);
	assert_int_equal(machine.pools, 1);
	assert_int_equal(machine.names, 1);
	/* Who is attached by then stays. */
	assert_false(attached->closed);
	free_peer(attached);
	free_peer(asker);
	/* After another snapshot it is no clone's. */
	asker = silence();
	struct peer *peer = asking(FC_GUEST_RESTORE, WHOLE "}");
	expect_text(peer, FC_GUEST_ERROR, "since before the snapshot\",\"errno\":17}");
	assert_int_equal(server.quiet, FC_QUIET_YES);
	assert_int_equal(machine.clocks, 1);
	free_peer(peer);
	free_peer(asker);
}

/* What a clone's start would wait for is read before the snapshot. */
static void the_containers_files_are_found_before(void **state) {
	(void)state;
	char path[192];
	run("echo up; sleep 60");
	struct peer *asker = silence();
	snprintf(path, sizeof path, "%s/0123abc/userdata/config.json", path_bundles);
	unlink(path);
	free_peer(asker);
	struct peer *peer = asking(FC_GUEST_RESTORE, WHOLE "}");
	expect(peer, FC_GUEST_RESTORED);
	free_peer(peer);
	expect_file("c-hostname", "web1\n");
}

static void nothing_changes_before_the_reset(void **state) {
	(void)state;
	config.reset_ms = LIMIT_MS;
	run("echo up; sleep 60");
	struct peer *asker = silence();
	struct peer *peer = asking(FC_GUEST_RESTORE, WHOLE "}");
	expect_text(peer, FC_GUEST_ERROR, "\"errno\":11}");
	assert_int_equal(server.quiet, FC_QUIET_YES);
	assert_int_equal(machine.clocks, 0);
	free_peer(peer);
	free_peer(asker);
	expect_restored("");
}

static void a_step_that_fails_can_be_done_again(void **state) {
	(void)state;
	run("echo up; sleep 60");
	machine.fail_ioctl = EPERM;
	struct peer *peer = asking(FC_GUEST_RESTORE, WHOLE "}");
	expect_text(peer, FC_GUEST_ERROR, "\"op\":\"add entropy\"");
	free_peer(peer);
	machine.fail_ioctl = 0;
	machine.fail_clock = EINVAL;
	peer = asking(FC_GUEST_RESTORE, WHOLE "}");
	expect_text(peer, FC_GUEST_ERROR, "\"op\":\"set clock\"");
	free_peer(peer);
	machine.fail_clock = 0;
	machine.reseeds = machine.pools = 0;
	unlink(in_dir("c-hosts"));
	peer = asking(FC_GUEST_RESTORE, WHOLE "}");
	expect_text(peer, FC_GUEST_ERROR, "\"op\":\"open\"");
	free_peer(peer);
	assert_string_equal(server.generation, "ffffffffffffffffffffffffffffffff");
	assert_int_equal(access(in_dir("run/identity/generation"), F_OK), -1);
	write_file(in_dir("c-hosts"), "172.16.0.2 web\n", 0644);
	expect_restored("");
	expect_file("c-hosts", "172.16.0.2 web1\n");
	expect_file("hosts", "127.0.0.1\tlocalhost\n172.16.0.2\tweb1\n");
	expect_file("run/identity/generation", GENERATION "\n");
}

static void commands_get_the_clones_variables(void **state) {
	(void)state;
	run("echo up; sleep 60");
	expect_restored(",\"env\":{\"SHARD\":\"3\",\"KEPT\":\"1\"}");
	struct peer *peer = asking(FC_GUEST_EXEC, "{\"argv\":[\"env\"],\"env\":{\"B\":\"2\",\"KEPT\":\"mine\"}}");
	expect(peer, FC_GUEST_EXITED);
	assert_non_null(strstr(peer->out[0], "\"env\":[\"A=1\",\"B=2\",\"KEPT=mine\",\"SHARD=3\",\"HOSTNAME=web1\"]"));
	free_peer(peer);
	peer = asking(FC_GUEST_EXEC, "{\"vm\":true,\"argv\":[\"sh\",\"-c\",\"echo $SHARD $HOSTNAME\"]}");
	expect(peer, FC_GUEST_EXITED);
	assert_string_equal(peer->out[0], "3 web1\n");
	free_peer(peer);
	/* A clone of the clone: what it is given comes first, what its base was given stays. */
	peer = asking(FC_GUEST_RESTORE,
	              "{\"generation\":\"01234567-89ab-cdef-0123-456789abcdef\",\"hostname\":\"web2\",\"machine_id\":"
	              "\"" MACHINE_ID "\",\"time_ns\":1,\"entropy\":\"" ENTROPY "\",\"env\":{\"SHARD\":\"4\"}}");
	expect(peer, FC_GUEST_RESTORED);
	free_peer(peer);
	expect_file("run/identity/env", "SHARD='4'\nHOSTNAME='web2'\nKEPT='1'\n");
	expect_file("run/identity/name", "web\n");
	expect_file("hosts", "127.0.0.1\tlocalhost\n172.16.0.2\tweb2\n");
}

static void what_programs_watch_comes_whole_and_last(void **state) {
	(void)state;
	char buffer[4096] __attribute__((aligned(8)));
	char seen[256] = "";
	run("echo up; sleep 60");
	mkdir(in_dir("run/identity"), 0755);
	int watch = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	assert_true(watch >= 0 && inotify_add_watch(watch, in_dir("run/identity"), IN_MOVED_TO) >= 0);
	expect_restored("");
	ssize_t n = read(watch, buffer, sizeof buffer);
	for (ssize_t at = 0; at < n;) {
		const struct inotify_event *event = (const void *)(buffer + at);
		snprintf(seen + strlen(seen), sizeof seen - strlen(seen), "%s ", event->name);
		at += (ssize_t)(sizeof *event + event->len);
	}
	assert_string_equal(seen, "name env generation ");
	close(watch);
}

static void files_reach_the_container(void **state) {
	(void)state;
	char more[1024];
	struct stat status;
	run("echo up; sleep 60");
	snprintf(more, sizeof more,
	         ",\"files\":[{\"path\":\"%s/new/deep/er\",\"data\":\"aGVsbG8K\",\"mode\":384},"
	         "{\"path\":\"%s/new/empty\",\"data\":\"\"}]",
	         dir, dir);
	expect_restored(more);
	expect_file("new/deep/er", "hello\n");
	expect_file("new/empty", "");
	assert_int_equal(stat(in_dir("new/deep/er"), &status), 0);
	assert_int_equal(status.st_mode & 07777, 0600);
	assert_int_equal(stat(in_dir("new/empty"), &status), 0);
	assert_int_equal(status.st_mode & 07777, 0644);
}

/* ---- requests that make no sense */

static void refused(const char *json, const char *why) {
	struct peer *peer = asking(FC_GUEST_RESTORE, json);
	expect_text(peer, FC_GUEST_ERROR, why);
	free_peer(peer);
	assert_int_equal(machine.clocks + machine.pools + machine.names, 0);
	assert_string_equal(server.generation, "ffffffffffffffffffffffffffffffff");
}

/* A whole request with one member's text replaced. */
static void refused_with(const char *member, const char *by, const char *why) {
	char request[8192];
	const char *at = strstr(WHOLE, member);
	assert_non_null(at);
	snprintf(request, sizeof request, "%.*s%s%s}", (int)(at - WHOLE), WHOLE, by, at + strlen(member));
	refused(request, why);
}

static void refused_more(const char *more, const char *why) {
	char request[65536];
	snprintf(request, sizeof request, "%s%s}", WHOLE, more);
	refused(request, why);
}

/* `count` bytes of base64, 3 for each 4. */
static const char *base64_of(size_t groups) {
	static char text[2048];
	assert_true(groups * 4 < sizeof text);
	memset(text, 'A', groups * 4);
	text[groups * 4] = '\0';
	return text;
}

static void identities_that_make_no_sense(void **state) {
	(void)state;
	static const char id[] = "\"" MACHINE_ID "\"";
	static const char generation[] = "\"" GENERATION "\"";
	static const char entropy[] = "\"" ENTROPY "\"";
	char text[2200];
	run("echo up; sleep 60");
	refused("{}", "'generation' is missing");
	refused_with(generation, "5", "'generation' is no string");
	refused_with(generation, "\"0123456789abcdef0123456789abcde\"", "'generation' is missing or neither");
	refused_with(generation, "\"0123456789ABCDEF0123456789abcdef\"", "'generation' is missing or neither");
	refused_with(generation, "\"01234567-89ab-cdef-0123-456789abcdeff\"", "'generation' has 37 bytes");
	refused_with(generation, "\"0123456789ab-cdef-0123-4567-89abcdef\"", "'generation' is missing or neither");
	refused_with(",\"hostname\":\"web1\"", "", "'hostname' is missing");
	refused_with("\"web1\"", "\"web_1\"", "'hostname' has characters");
	refused_with("\"web1\"", "\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"",
	             "'hostname' has 65 bytes");
	refused_with(id, "\"fedcba9876543210\"", "'machine_id' has characters");
	refused_with(id, "\"FEDCBA9876543210fedcba9876543210\"", "'machine_id' has characters");
	refused_with(id, "null", "'machine_id' is missing");
	refused_with("1700000000123456789", "0", "'time_ns' is 0");
	refused_with("1700000000123456789", "1e18", "'time_ns' is no integer");
	refused_with("1700000000123456789", "9223372036854775808", "'time_ns' is no integer");
	refused_with("1700000000123456789", "null", "'time_ns' is missing");
	refused_with(entropy, "null", "'entropy' is missing");
	refused_with(entropy, "\"a\"", "'entropy' is no base64");
	refused_with(entropy, "\"QkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQg==\"", "'entropy' is not 32 to 256");
	snprintf(text, sizeof text, "\"%s\"", base64_of(86));
	refused_with(entropy, text, "'entropy' is not 32 to 256");
	refused_more(",\"name\":\"a/b\"", "'name' has characters");
	refused_more(",\"x\":1", "unknown key 'x'");
	refused_more(",\"env\":[]", "'env' is no object");
	refused_more(",\"env\":{\"A\":1}", "'env' has an element that is no string");
	refused_more(",\"env\":{\"a b\":\"\"}", "'env' has a name that is none for a shell");
	refused_more(",\"env\":{\"1A\":\"\"}", "'env' has a name that is none for a shell");
	refused_more(",\"env\":{\"A;rm\":\"\"}", "'env' has a name that is none for a shell");
}

static void files_that_make_no_sense(void **state) {
	(void)state;
	static const char *const paths[] = {"a", "/", "//a", "/a/", "/a/../b", "/./a", "/a/.", "/a//b"};
	char text[16384];
	run("echo up; sleep 60");
	refused_more(",\"files\":{}", "'files' is no array");
	refused_more(",\"files\":[1]", "no JSON object");
	refused_more(",\"files\":[{\"path\":\"/a\",\"data\":\"\",\"x\":1}]", "unknown key 'x'");
	refused_more(",\"files\":[{\"data\":\"\"}]", "'path' is missing");
	refused_more(",\"files\":[{\"path\":\"/a\"}]", "'data' is missing");
	refused_more(",\"files\":[{\"path\":\"/a\",\"data\":\"abc\"}]", "'data' is no base64");
	refused_more(",\"files\":[{\"path\":\"/a\",\"data\":\"\",\"mode\":4096}]", "'mode' is 4096");
	for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
		snprintf(text, sizeof text, ",\"files\":[{\"path\":\"%s\",\"data\":\"\"}]", paths[i]);
		refused_more(text, "'path' is missing or no straight absolute path");
	}
	size_t at = (size_t)snprintf(text, sizeof text, ",\"files\":[");
	for (int i = 0; i <= FC_GUEST_FILES_MAX; i++)
		at += (size_t)snprintf(text + at, sizeof text - at, "%s{\"path\":\"/nonexistent/%d\",\"data\":\"\"}",
		                       i ? "," : "", i);
	snprintf(text + at, sizeof text - at, "]");
	refused_more(text, "'files' has more files than it may have");
}

static void variables_without_end(void **state) {
	(void)state;
	char text[60000];
	run("echo up; sleep 60");
	size_t at = (size_t)snprintf(text, sizeof text, ",\"env\":{");
	for (int i = 0; i < FC_PLAN_WORDS_MAX; i++)
		at += (size_t)snprintf(text + at, sizeof text - at, "%s\"V%d\":\"\"", i ? "," : "", i);
	snprintf(text + at, sizeof text - at, "}");
	refused_more(text, "over 1024 variables");
}

static void a_container_that_does_not_run(void **state) {
	(void)state;
	plan_for("exit 0", "");
	struct peer *peer = asking(FC_GUEST_RESTORE, WHOLE ",\"files\":[{\"path\":\"/a\",\"data\":\"\"}]}");
	expect_text(peer, FC_GUEST_ERROR, "it does not run (none)\",\"errno\":3}");
	free_peer(peer);
	assert_string_equal(server.generation, "ffffffffffffffffffffffffffffffff");
}

/* ---- CLOCK */

static void the_clock_is_set_and_told(void **state) {
	(void)state;
	struct peer *peer = asking(FC_GUEST_CLOCK, "{\"time_ns\":1234567890987654321}");
	expect_text(peer, FC_GUEST_TIME, "{\"time_ns\":");
	assert_int_equal(machine.time.tv_sec, 1234567890);
	assert_int_equal(machine.time.tv_nsec, 987654321);
	expect_closed(peer);
	free_peer(peer);
	peer = asking(FC_GUEST_CLOCK, "");
	expect_text(peer, FC_GUEST_TIME, "\"boot_ns\":");
	assert_int_equal(machine.clocks, 1);
	free_peer(peer);
	static const struct {
		const char *request, *why;
	} cases[] = {{"{\"time_ns\":0}", "'time_ns' is 0"},
	             {"{\"time_ns\":-1}", "'time_ns' is -1"},
	             {"{\"time_ns\":\"1\"}", "'time_ns' is no integer"},
	             {"{\"time\":1}", "unknown key 'time'"}};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		peer = asking(FC_GUEST_CLOCK, cases[i].request);
		expect_text(peer, FC_GUEST_ERROR, cases[i].why);
		free_peer(peer);
	}
	machine.fail_clock = EPERM;
	peer = asking(FC_GUEST_CLOCK, "{\"time_ns\":5}");
	expect_text(peer, FC_GUEST_ERROR, "\"op\":\"set clock\"");
	free_peer(peer);
}

/* ---- what they are made of */

static void base64_is_strict(void **state) {
	(void)state;
	unsigned char data[64];
	static const struct {
		const char *text;
		ssize_t size;
		const char *data;
	} cases[] = {
	        {"", 0, ""},
	        {"Zg==", 1, "f"},
	        {"bm8=", 2, "no"},
	        {"Zm9v", 3, "foo"},
	        {"Zm9vYg==", 4, "foob"},
	        {"+/+/", 3, "\xfb\xff\xbf"},
	        {"Zg=", -EINVAL, ""},
	        {"Zg", -EINVAL, ""},
	        {"Z===", -EINVAL, ""},
	        {"====", -EINVAL, ""},
	        {"Zh==", -EINVAL, ""},
	        {"Zm9=", -EINVAL, ""},
	        {"Zg==Zg==", -EINVAL, ""},
	        {"Zm 9", -EINVAL, ""},
	        {"Zm9v\n", -EINVAL, ""},
	        {"Z-_v", -EINVAL, ""},
	        {"Zg=v", -EINVAL, ""},
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		assert_int_equal(fc_base64_decode(cases[i].text, data, sizeof data), cases[i].size);
		if (cases[i].size > 0)
			assert_memory_equal(data, cases[i].data, (size_t)cases[i].size);
	}
	assert_int_equal(fc_base64_decode("Zm9v", data, 3), 3);
	assert_int_equal(fc_base64_decode("Zm9v", data, 2), -EMSGSIZE);
}

static int put(int root, const char *path, const char *text) {
	struct fc_error error;
	struct fc_file file = {.path = (char *)(size_t)path,
	                       .data = (unsigned char *)(size_t)text,
	                       .size = strlen(text),
	                       .mode = 0640};
	return fc_files_write(root, &file, &error);
}

/* Whatever links a container lays, none leads out of it. */
static void files_stay_below_their_root(void **state) {
	(void)state;
	char outside[200];
	mkdir(in_dir("root"), 0755);
	mkdir(in_dir("root/etc"), 0755);
	mkdir(in_dir("outside"), 0755);
	snprintf(outside, sizeof outside, "%s", in_dir("outside"));
	assert_int_equal(symlink("/etc", in_dir("root/absolute")), 0);
	assert_int_equal(symlink("../../../../../../../../etc", in_dir("root/up")), 0);
	assert_int_equal(symlink(outside, in_dir("root/out")), 0);
	assert_int_equal(symlink("/proc/self/root/etc", in_dir("root/magic")), 0);
	assert_int_equal(symlink("/etc/target", in_dir("root/etc/link")), 0);
	write_file(in_dir("root/etc/target"), "untouched", 0644);
	write_file(in_dir("root/etc/plain"), "longer than what comes", 0600);
	int root = open(in_dir("root"), O_PATH | O_DIRECTORY | O_CLOEXEC);
	assert_true(root >= 0);
	assert_int_equal(put(root, "/absolute/fcvm-test", "one"), 0);
	expect_file("root/etc/fcvm-test", "one");
	assert_int_equal(put(root, "/up/fcvm-test2", "two"), 0);
	expect_file("root/etc/fcvm-test2", "two");
	/* Its target is a path in the root, where nothing of the kind is; no more is made there than links name. */
	assert_int_equal(put(root, "/out/fcvm-test3", "three"), -ENOENT);
	assert_int_equal(access(in_dir("outside/fcvm-test3"), F_OK), -1);
	assert_int_equal(put(root, "/magic/fcvm-test4", "four"), -ENOENT);
	/* A link at the end is replaced, not followed. */
	assert_int_equal(put(root, "/etc/link", "five"), 0);
	expect_file("root/etc/link", "five");
	expect_file("root/etc/target", "untouched");
	assert_int_equal(put(root, "/etc/plain", "six"), 0);
	expect_file("root/etc/plain", "six");
	assert_int_equal(put(root, "/etc/plain/x", "seven"), -ENOTDIR);
	assert_int_equal(put(root, "/etc", "eight"), -EISDIR);
	assert_int_equal(access(in_dir("root/.fcvm-new"), F_OK), -1);
	assert_int_equal(access("/etc/fcvm-test", F_OK), -1);
	assert_int_equal(access("/etc/fcvm-test2", F_OK), -1);
	close(root);
}

/* Podman's own files are mounts in the container, which cannot be renamed over. */
static void files_that_are_mounts(void **state) {
	(void)state;
	if (geteuid() != 0)
		skip(); /* only root can mount */
	mkdir(in_dir("mounted"), 0755);
	write_file(in_dir("mounted/source"), "something long", 0644);
	write_file(in_dir("mounted/target"), "below", 0644);
	pid_t pid = fork();
	if (pid == 0) {
		if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
		    mount(in_dir("mounted/source"), in_dir("mounted/target"), NULL, MS_BIND, NULL) < 0)
			_exit(1);
		int root = open(in_dir("mounted"), O_PATH | O_DIRECTORY | O_CLOEXEC);
		_exit(put(root, "/target", "short") == 0 ? 0 : 2);
	}
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	expect_file("mounted/source", "short");
	expect_file("mounted/target", "below");
	assert_int_equal(access(in_dir("mounted/.fcvm-new"), F_OK), -1);
}

static void what_is_written_in_place(void **state) {
	(void)state;
	struct fc_error error;
	write_file(in_dir("place"), "something long", 0644);
	ino_t inode = inode_of("place");
	assert_int_equal(fc_identity_rewrite(in_dir("place"), "short", 5, &error), 0);
	expect_file("place", "short");
	assert_int_equal(inode_of("place"), inode);
	assert_int_equal(symlink("place", in_dir("place-link")), 0);
	assert_int_equal(fc_identity_rewrite(in_dir("place-link"), "x", 1, &error), -ELOOP);
	assert_int_equal(mkfifo(in_dir("fifo"), 0600), 0);
	assert_true(fc_identity_rewrite(in_dir("fifo"), "x", 1, &error) < 0);
	assert_int_equal(fc_identity_rewrite(in_dir("run"), "x", 1, &error), -EISDIR);
	expect_file("place", "short");
}

static void hosts_are_renamed(void **state) {
	(void)state;
	static const struct {
		const char *hosts, *before, *after, *result;
	} cases[] = {
	        {"1.1.1.1 a\n", "a", "b", "1.1.1.1 b\n"},
	        {"1.1.1.1\ta aa a.a\ta # a\n#a\n", "a", "b", "1.1.1.1\tb aa a.a\tb # a\n#a\n"},
	        {"1.1.1.1 a", "a", "b", "1.1.1.1 b\n"},
	        {"", "a", "b", "127.0.1.1\tb\n"},
	        {"1.1.1.1 x\n", "a", "b", "1.1.1.1 x\n127.0.1.1\tb\n"},
	        {"1.1.1.1 b\n", "a", "b", "1.1.1.1 b\n"},
	        {"127.0.0.1 localhost\n", "localhost", "b", "127.0.0.1 localhost\n127.0.1.1\tb\n"},
	        {"127.0.0.1 localhost\n", "", "b", "127.0.0.1 localhost\n127.0.1.1\tb\n"},
	        {"\n\n  a\r\n", "a", "b", "\n\n  b\r\n"},
	};
	struct fc_error error;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		write_file(in_dir("some-hosts"), cases[i].hosts, 0644);
		assert_int_equal(fc_identity_rename_host(in_dir("some-hosts"), cases[i].before, cases[i].after, &error),
		                 0);
		expect_file("some-hosts", cases[i].result);
	}
	assert_int_equal(fc_identity_rename_host(in_dir("no-hosts"), "a", "b", &error), -ENOENT);
}

/* A shell reads back exactly what was given. */
static void variables_are_quoted(void **state) {
	(void)state;
	char *const env[] = {(char *)(size_t) "A=it's $(touch x) `y` \\ \"z\"\nnext", (char *)(size_t) "B=", NULL};
	struct fc_published published = {.generation = GENERATION, .name = "n", .env = env};
	struct fc_error error;
	char command[256];
	char word[128];
	assert_int_equal(fc_identity_publish(in_dir("shell"), &published, &error), 0);
	snprintf(command, sizeof command, ". %s; printf '%%s|%%s|' \"$A\" \"${B-unset}\"", in_dir("shell/env"));
	int ends[2];
	assert_int_equal(pipe(ends), 0);
	pid_t pid = fork();
	if (pid == 0) {
		dup2(ends[1], 1);
		execl("/bin/sh", "sh", "-c", command, (char *)NULL);
		_exit(127);
	}
	close(ends[1]);
	ssize_t n = fc_io_read_full(ends[0], word, sizeof word - 1);
	word[n > 0 ? n : 0] = '\0';
	close(ends[0]);
	waitpid(pid, NULL, 0);
	assert_string_equal(word, "it's $(touch x) `y` \\ \"z\"\nnext||");
	assert_int_equal(fc_identity_publish(in_dir("no/such/place"), &published, &error), -ENOENT);
}

static void entropy_is_bounded(void **state) {
	(void)state;
	static unsigned char bytes[FC_GUEST_ENTROPY_MAX + 1];
	struct fc_error error;
	memset(&machine, 0, sizeof machine);
	assert_int_equal(fc_identity_add_entropy(bytes, sizeof bytes, &error), -EMSGSIZE);
	assert_int_equal(machine.pools, 0);
	assert_int_equal(fc_identity_add_entropy(bytes, sizeof bytes - 1, &error), 0);
	assert_int_equal(machine.entropy_bits, 2048);
	char one[33];
	char other[33];
	assert_int_equal(fc_identity_random(one, &error), 0);
	assert_int_equal(fc_identity_random(other, &error), 0);
	assert_int_equal(strspn(one, "0123456789abcdef"), 32);
	assert_string_not_equal(one, other);
}

#define CLONED(name) cmocka_unit_test_setup_teardown(name, open_base, close_server)

int main(void) {
	const struct CMUnitTest tests[] = {
	        CLONED(everything_is_the_clones_own),
	        CLONED(the_base_ends_and_its_output_is_not_repeated),
	        CLONED(the_containers_files_are_found_before),
	        CLONED(nothing_changes_before_the_reset),
	        CLONED(once_applied_it_is_only_confirmed),
	        CLONED(a_step_that_fails_can_be_done_again),
	        CLONED(commands_get_the_clones_variables),
	        CLONED(what_programs_watch_comes_whole_and_last),
	        CLONED(files_reach_the_container),
	        CLONED(identities_that_make_no_sense),
	        CLONED(files_that_make_no_sense),
	        CLONED(variables_without_end),
	        CLONED(a_container_that_does_not_run),
	        CLONED(the_clock_is_set_and_told),
	        cmocka_unit_test(base64_is_strict),
	        cmocka_unit_test(files_stay_below_their_root),
	        cmocka_unit_test(files_that_are_mounts),
	        cmocka_unit_test(what_is_written_in_place),
	        cmocka_unit_test(hosts_are_renamed),
	        cmocka_unit_test(variables_are_quoted),
	        cmocka_unit_test(entropy_is_bounded),
	};
	return cmocka_run_group_tests(tests, make_files, remove_files);
}
