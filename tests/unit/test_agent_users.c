// SPDX-License-Identifier: Apache-2.0
/* Users by the files of a root directory, and the description of a command that crun gets. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "server.h"
#include "users.h"

static char root[64];

static void write_file(const char *name, const char *text) {
	char path[128];
	snprintf(path, sizeof path, "%s/%s", root, name);
	FILE *file = fopen(path, "w");
	assert_non_null(file);
	fputs(text, file);
	fclose(file);
}

static int make_root(void **state) {
	(void)state;
	char path[128];
	snprintf(root, sizeof root, "/tmp/fcvm-users-XXXXXX");
	assert_non_null(mkdtemp(root));
	snprintf(path, sizeof path, "%s/etc", root);
	mkdir(path, 0755);
	write_file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nbroken\nbob:x:1000:1001:Bob:/home/bob:/bin/"
	                         "sh\nhuge:x:4294967295:0::/:\n");
	write_file("etc/group", "root:x:0:\nbob:x:1001:\nstaff:x:50:ann,bob\nwheel:x:10:bobby\n");
	return 0;
}

static int remove_root(void **state) {
	(void)state;
	static const char *const names[] = {"etc/passwd", "etc/group", "etc", ""};
	for (size_t i = 0; i < 4; i++) {
		char path[128];
		snprintf(path, sizeof path, "%s/%s", root, names[i]);
		remove(path);
	}
	return 0;
}

static struct fc_user find(const char *text) {
	struct fc_user user;
	struct fc_error error;
	if (fc_user_find(root, text, &user, &error) < 0)
		fail_msg("%s: %s", text, error.message);
	return user;
}

static void names_and_numbers(void **state) {
	(void)state;
	struct fc_user user = find("bob");
	assert_int_equal(user.uid, 1000);
	assert_int_equal(user.gid, 1001);
	assert_string_equal(user.home, "/home/bob");
	assert_int_equal(user.group_count, 1);
	assert_int_equal(user.groups[0], 50);
	user = find("1000");
	assert_string_equal(user.name, "bob");
	user = find("bob:staff");
	assert_int_equal(user.gid, 50);
	user = find("4711:4712");
	assert_int_equal(user.uid, 4711);
	assert_int_equal(user.gid, 4712);
	assert_string_equal(user.name, "");
	assert_int_equal(find("4711").gid, 0);
}

static void refused(const char *text, int problem) {
	struct fc_user user;
	struct fc_error error;
	assert_int_equal(fc_user_find(root, text, &user, &error), -problem);
}

static void users_that_are_none(void **state) {
	(void)state;
	refused("ann", ENOENT);
	refused("bob:nogroup", ENOENT);
	refused("", EINVAL);
	refused(":staff", EINVAL);
	refused("4294967295", ENOENT);
	refused("99999999999", ENOENT);
	refused("huge", ENOENT);
	char much[400];
	memset(much, 'a', sizeof much - 1);
	much[sizeof much - 1] = '\0';
	refused(much, EINVAL);
}

static void links_do_not_lead_out(void **state) {
	(void)state;
	char path[128];
	snprintf(path, sizeof path, "%s/etc/passwd", root);
	unlink(path);
	/* In that root there is no such file, though there is one in ours. */
	assert_int_equal(symlink("/etc/group", path), 0);
	refused("bob", ENOENT);
	unlink(path);
	assert_int_equal(symlink("../../../../../../etc/passwd", path), 0);
	refused("root", ENOENT);
	unlink(path);
	assert_int_equal(mkfifo(path, 0600), 0);
	refused("root", ENOENT);
	unlink(path);
	write_file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nbob:x:1000:1001:Bob:/home/bob:/bin/sh\n");
}

static const char config[] =
        "{\"ociVersion\":\"1.0\",\"process\":{\"terminal\":true,\"user\":{\"uid\":0,\"gid\":0},\"args\":[\"httpd\"],"
        "\"env\":[\"PATH=/bin\",\"HOME=/root\",\"A=1\"],\"cwd\":\"/srv\",\"noNewPrivileges\":true,"
        "\"capabilities\":{\"bounding\":[\"CAP_CHOWN\"],\"effective\":[\"CAP_CHOWN\"]},\"rlimits\":[]}}";

static char *const argv_words[] = {(char *)(size_t) "sh", (char *)(size_t) "a\"b", NULL};
static char *const env_words[] = {(char *)(size_t) "A=2", (char *)(size_t) "B=3", NULL};

static void expect_description(char *const *env, const char *cwd, const char *user, const char *wanted) {
	struct fc_text text = {0};
	struct fc_error error;
	if (fc_process_describe(config, sizeof config - 1, root, argv_words, env, cwd, user, &text, &error) < 0)
		fail_msg("%s", error.message);
	assert_string_equal(text.data, wanted);
	fc_text_clear(&text);
}

static void the_containers_own_with_another_command(void **state) {
	(void)state;
	expect_description(
	        NULL, NULL, NULL,
	        "{\"terminal\":false,\"args\":[\"sh\",\"a\\\"b\"],\"env\":[\"PATH=/bin\",\"HOME=/root\",\"A=1\"],"
	        "\"user\":{\"uid\":0,\"gid\":0},\"cwd\":\"/srv\",\"noNewPrivileges\":true,"
	        "\"capabilities\":{\"bounding\":[\"CAP_CHOWN\"],\"effective\":[\"CAP_CHOWN\"]},\"rlimits\":[]}");
	expect_description(
	        env_words, "/x", NULL,
	        "{\"terminal\":false,\"args\":[\"sh\",\"a\\\"b\"],\"env\":[\"PATH=/bin\",\"HOME=/"
	        "root\",\"A=2\",\"B=3\"],"
	        "\"cwd\":\"/x\",\"user\":{\"uid\":0,\"gid\":0},\"noNewPrivileges\":true,"
	        "\"capabilities\":{\"bounding\":[\"CAP_CHOWN\"],\"effective\":[\"CAP_CHOWN\"]},\"rlimits\":[]}");
}

static void another_user_gets_no_capabilities(void **state) {
	(void)state;
	expect_description(NULL, NULL, "bob",
	                   "{\"terminal\":false,\"args\":[\"sh\",\"a\\\"b\"],\"env\":[\"PATH=/bin\",\"A=1\"],"
	                   "\"user\":{\"uid\":1000,\"gid\":1001,\"umask\":18,\"additionalGids\":[50]},"
	                   "\"capabilities\":{\"effective\":[],\"permitted\":[],\"inheritable\":[],\"ambient\":[],"
	                   "\"bounding\":[\"CAP_CHOWN\"]},\"cwd\":\"/srv\",\"noNewPrivileges\":true,\"rlimits\":[]}");
	expect_description(
	        NULL, NULL, "root",
	        "{\"terminal\":false,\"args\":[\"sh\",\"a\\\"b\"],\"env\":[\"PATH=/bin\",\"A=1\"],"
	        "\"user\":{\"uid\":0,\"gid\":0,\"umask\":18,\"additionalGids\":[]},"
	        "\"capabilities\":{\"effective\":[\"CAP_CHOWN\"],\"permitted\":[\"CAP_CHOWN\"],\"inheritable\":[],"
	        "\"ambient\":[],\"bounding\":[\"CAP_CHOWN\"]},\"cwd\":\"/"
	        "srv\",\"noNewPrivileges\":true,\"rlimits\":[]}");
}

static void configurations_that_make_no_sense(void **state) {
	(void)state;
	struct fc_text text = {0};
	struct fc_error error;
	assert_int_equal(fc_process_describe("{", 1, root, argv_words, NULL, NULL, NULL, &text, &error), -EINVAL);
	assert_int_equal(fc_process_describe("{}", 2, root, argv_words, NULL, NULL, NULL, &text, &error), -EINVAL);
	assert_int_equal(fc_process_describe("{\"process\":1}", 13, root, argv_words, NULL, NULL, NULL, &text, &error),
	                 -EINVAL);
	assert_int_equal(fc_process_describe("{}", 2, root, argv_words, NULL, NULL, "ann", &text, &error), -ENOENT);
	fc_text_clear(&text);
}

int main(void) {
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(names_and_numbers),
	        cmocka_unit_test(users_that_are_none),
	        cmocka_unit_test(links_do_not_lead_out),
	        cmocka_unit_test(the_containers_own_with_another_command),
	        cmocka_unit_test(another_user_gets_no_capabilities),
	        cmocka_unit_test(configurations_that_make_no_sense),
	};
	return cmocka_run_group_tests(tests, make_root, remove_root);
}
