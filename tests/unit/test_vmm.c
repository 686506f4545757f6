// SPDX-License-Identifier: Apache-2.0
/* tests/unit/test_vmm.c: core/vmm: what is taken out of Firecracker's errors, and calls of a server in its place. */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "vmm/vmm.h"

static void expect_message(const char *body, const char *expected) {
	char text[512] = "before";
	size_t length = fc_vmm_fault_message(body, strlen(body), text, sizeof text);
	assert_string_equal(text, expected);
	assert_int_equal(length, strlen(expected));
}

static void message_of_a_good_answer(void **state) {
	(void)state;
	expect_message("{\"fault_message\":\"The path is invalid.\"}", "The path is invalid.");
	expect_message("{\"other\":{\"fault_message\":\"no\"},\"fault_message\":\"yes\"}", "yes");
	expect_message("{ \"error\": \"too long.\nDropped.\" }", "too long. Dropped.");
	expect_message("{\"error\":\"no\",\"fault_message\":\"yes\"}", "yes");
	expect_message("{\"fault_message\":\"a \\u00e9 \\\"b\\\"\"}", "a \xc3\xa9 \"b\"");
}

static void message_is_one_line(void **state) {
	(void)state;
	expect_message("{\"fault_message\":\"  one\\n\\ttwo\\r\\n \\u001b[31mthree\\u007f \"}", "one two [31mthree");
	expect_message("{\"fault_message\":\" \\n\"}", "");
}

static void no_message_in_other_json(void **state) {
	(void)state;
	static const char *const bodies[] = {
	        "",
	        "null",
	        "7",
	        "\"fault_message\"",
	        "[\"fault_message\"]",
	        "{}",
	        "{\"fault_message\":7}",
	        "{\"fault_message\":null}",
	        "{\"fault_message\":{\"fault_message\":\"x\"}}",
	        "{\"Fault_Message\":\"x\"}",
	        "{\"fault_message\":\"\"}",
	};
	for (size_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++)
		expect_message(bodies[i], "");
}

static void no_message_in_garbage(void **state) {
	(void)state;
	static const char *const bodies[] = {
	        "{\"fault_message\":\"x",        "{\"fault_message\"", "<html>",
	        "{\"fault_message\":\"\\u00\"}", "\xff\xfe",           "{\"fault_message\":\"\\ud800\"}"};
	for (size_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++)
		expect_message(bodies[i], "");
	char *deep = malloc(100000);
	memset(deep, '[', 100000);
	char text[16];
	assert_int_equal(fc_vmm_fault_message(deep, 100000, text, sizeof text), 0);
	free(deep);
	/* Not even the byte after the body is read. */
	char *exact = strndup("{\"fault_message\":\"xy\"}", 20);
	char *tight = malloc(20);
	memcpy(tight, exact, 20);
	assert_int_equal(fc_vmm_fault_message(tight, 20, text, sizeof text), 0);
	free(tight);
	free(exact);
}

/* A body whose message is `count` times `unit`. */
static char *long_body(const char *unit, size_t count) {
	char *body = malloc(count * strlen(unit) + 32);
	assert_non_null(body);
	char *end = stpcpy(body, "{\"fault_message\":\"");
	while (count-- > 0)
		end = stpcpy(end, unit);
	stpcpy(end, "\"}");
	return body;
}

static void huge_message_is_cut(void **state) {
	(void)state;
	char text[16];
	char *body = long_body("x", 1 << 20);
	assert_int_equal(fc_vmm_fault_message(body, strlen(body), text, sizeof text), 15);
	assert_string_equal(text, "xxxxxxxxxxxx...");
	free(body);
	/* Between characters: five of two bytes and the dots would be 13, six would be 15 and fit as well. */
	body = long_body("\xc3\xa9", 100);
	assert_int_equal(fc_vmm_fault_message(body, strlen(body), text, sizeof text), 15);
	assert_string_equal(text, "\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9...");
	assert_int_equal(fc_vmm_fault_message(body, strlen(body), text, sizeof text - 1), 13);
	assert_string_equal(text, "\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9...");
	free(body);
}

static void every_size_of_buffer(void **state) {
	(void)state;
	static const char *const units[] = {
	        "a", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80", "a ", "\xc3\xa9 \xe2\x82\xac"};
	for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
		char *body = long_body(units[i], 20);
		for (size_t size = 1; size < 100; size++) {
			char *text = malloc(size); /* its end is watched by the sanitizer */
			size_t length = fc_vmm_fault_message(body, strlen(body), text, size);
			assert_int_equal(strlen(text), length);
			assert_true(length < size);
			free(text);
		}
		free(body);
	}
}

static void fitting_message_is_whole(void **state) {
	(void)state;
	char text[6];
	assert_int_equal(fc_vmm_fault_message("{\"fault_message\":\"12345\"}", 25, text, sizeof text), 5);
	assert_string_equal(text, "12345");
	assert_int_equal(fc_vmm_fault_message("{\"fault_message\":\"12345 \"}", 26, text, sizeof text), 5);
	assert_string_equal(text, "12345");
}

struct server {
	int listener;
	pthread_t thread;
	const char *reply;
	char asked[4096];
	char path[64];
	char directory[64];
};

/* Answers connection after connection until the listener is shut down. */
static void *serve(void *user) {
	struct server *server = user;
	int fd;
	while ((fd = accept(server->listener, NULL, NULL)) >= 0) {
		size_t have = 0;
		ssize_t n = 1;
		memset(server->asked, 0, sizeof server->asked);
		while (n > 0 && !strstr(server->asked, "\r\n\r\n")) {
			n = read(fd, server->asked + have, sizeof server->asked - 1 - have);
			have += n > 0 ? (size_t)n : 0;
		}
		send(fd, server->reply, strlen(server->reply), MSG_NOSIGNAL);
		close(fd);
	}
	return NULL;
}

static void start_server(struct server *server) {
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	strcpy(server->directory, "/tmp/fcvm-test-vmm-XXXXXX");
	assert_non_null(mkdtemp(server->directory));
	strcpy(stpcpy(server->path, server->directory), "/s");
	strcpy(address.sun_path, server->path);
	server->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(server->listener, (struct sockaddr *)&address, sizeof address), 0);
	assert_int_equal(listen(server->listener, 8), 0);
	assert_int_equal(pthread_create(&server->thread, NULL, serve, server), 0);
}

static void stop_server(struct server *server) {
	shutdown(server->listener, SHUT_RDWR);
	pthread_join(server->thread, NULL);
	close(server->listener);
	unlink(server->path);
	rmdir(server->directory);
}

static int finish(struct fc_vmm_call *call, struct fc_error *error) {
	struct pollfd wait = {.fd = fc_vmm_call_fileno(call), .events = POLLIN};
	int r;
	while ((r = fc_vmm_call_step(call, error)) == 0)
		assert_int_equal(poll(&wait, 1, 10000), 1);
	return r;
}

/* Calls and gives back what came of it; the caller frees the call. */
static int call(const char *socket, const char *method, const char *path, const char *json,
                struct fc_vmm_call **ret_call, struct fc_error *error) {
	*ret_call = NULL;
	int r = fc_vmm_call_start(socket, method, path, json, json ? strlen(json) : 0, 5000, ret_call, error);
	return r < 0 ? r : finish(*ret_call, error);
}

static void done_calls(void **state) {
	(void)state;
	struct server server = {.reply = "HTTP/1.1 204 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\r\n"};
	struct fc_error error = {0};
	struct fc_vmm_call *made;
	start_server(&server);
	assert_int_equal(call(server.path, "PUT", "/machine-config", "{\"vcpu_count\":2}", &made, &error), 1);
	assert_int_equal(fc_vmm_call_answer(made).status, 204);
	assert_int_equal(fc_vmm_call_answer(made).body_size, 0);
	assert_memory_equal(server.asked, "PUT /machine-config HTTP/1.1\r\n", 30);
	assert_non_null(strstr(server.asked, "\r\nContent-Type: application/json\r\n"));
	assert_non_null(strstr(server.asked, "\r\nContent-Length: 16\r\n"));
	fc_vmm_call_free(made);
	server.reply = "HTTP/1.1 200 \r\nContent-Length: 30\r\n\r\n{\"firecracker_version\":\"1.12.1\"}";
	assert_int_equal(call(server.path, "GET", "/version", NULL, &made, &error), 1);
	assert_int_equal(fc_vmm_call_answer(made).body_size, 30);
	fc_vmm_call_free(made);
	stop_server(&server);
}

static void expect_refusal(struct server *server, const char *reply, int err, const char *message) {
	struct fc_error error = {0};
	struct fc_vmm_call *made;
	server->reply = reply;
	assert_int_equal(call(server->path, "PUT", "/drives/rootfs", "{}", &made, &error), -err);
	assert_int_equal(error.err, err);
	assert_string_equal(error.op, "Firecracker");
	assert_string_equal(error.subject, "PUT /drives/rootfs");
	assert_string_equal(error.message, message);
	assert_int_equal(fc_vmm_call_step(made, &error), -err);
	assert_int_equal(fc_vmm_call_step(made, NULL), -err);
	fc_vmm_call_free(made);
}

static void refusals_in_firecrackers_words(void **state) {
	(void)state;
	struct server server = {0};
	server.reply = "";
	start_server(&server);
	expect_refusal(&server, "HTTP/1.1 400 \r\nContent-Length: 34\r\n\r\n{\"fault_message\":\"No such drive.\"} ",
	               EINVAL, "No such drive.");
	expect_refusal(&server, "HTTP/1.1 404 \r\nContent-Length: 25\r\n\r\n{\"fault_message\":\"100%s\"}", ENOENT,
	               "100%s");
	expect_refusal(&server, "HTTP/1.1 413 \r\nContent-Length: 0\r\n\r\n", EFBIG,
	               "it answered 413 and did not say why");
	expect_refusal(&server, "HTTP/1.1 500 \r\nContent-Length: 4\r\n\r\noops", EIO,
	               "it answered 500 and did not say why");
	expect_refusal(&server, "HTTP/1.1 302 \r\nLocation: /\r\nContent-Length: 0\r\n\r\n", EIO,
	               "it answered 302 and did not say why");
	stop_server(&server);
}

static void failures_below_are_wrapped(void **state) {
	(void)state;
	struct fc_error error = {0};
	struct fc_vmm_call *made;
	char sentence[1024];
	assert_int_equal(call("/nowhere/api.sock", "GET", "/version", NULL, &made, &error), -ENOENT);
	assert_string_equal(fc_error_format(&error, sentence, sizeof sentence),
	                    "Firecracker GET /version: connect /nowhere/api.sock: No such file or directory");
	fc_vmm_call_free(made);
	assert_int_equal(call("/nowhere/api.sock", "GET", "/version", NULL, &made, NULL), -ENOENT);
	fc_vmm_call_free(made);
	assert_int_equal(call("/nowhere", "GET", "version", NULL, &made, &error), -EINVAL);
	assert_int_equal(call("/nowhere", "GET", "/a b", NULL, &made, &error), -EINVAL);
	assert_int_equal(call("/nowhere", "GET\r\n", "/a", NULL, &made, &error), -EINVAL);
	fc_vmm_call_free(NULL);
}

int main(void) {
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(message_of_a_good_answer),
	        cmocka_unit_test(message_is_one_line),
	        cmocka_unit_test(no_message_in_other_json),
	        cmocka_unit_test(no_message_in_garbage),
	        cmocka_unit_test(huge_message_is_cut),
	        cmocka_unit_test(every_size_of_buffer),
	        cmocka_unit_test(fitting_message_is_whole),
	        cmocka_unit_test(done_calls),
	        cmocka_unit_test(refusals_in_firecrackers_words),
	        cmocka_unit_test(failures_below_are_wrapped),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
