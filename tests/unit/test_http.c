// SPDX-License-Identifier: Apache-2.0
/* tests/unit/test_http.c: core/http against a server thread that plays one prepared answer. */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
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
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "http/http.h"

enum { ASKED_MAX = 2 << 20, LIMIT_MS = 10000 };

/* What the server does with each connection, one after another: reads a request's head, sends `parts`, closes. */
struct server {
	int listener;
	pthread_t thread;
	const char *parts[8]; /* each sent by itself, with a pause of pause_ms before all but the first */
	int pause_ms;
	const char *fill; /* sent over and over after the parts, until the client goes */
	size_t body_size; /* of the request: read before answering */
	int silent;       /* says nothing and waits for the client to go */
	int connections;
	char *asked; /* the last request */
	size_t asked_size;
};

static void pause_for(int ms) {
	struct timespec time = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};
	nanosleep(&time, NULL);
}

static void read_request(struct server *server, int fd) {
	server->asked_size = 0;
	for (;;) {
		server->asked[server->asked_size] = '\0';
		const char *end = strstr(server->asked, "\r\n\r\n");
		if (end && server->asked_size >= (size_t)(end + 4 - server->asked) + server->body_size)
			return;
		ssize_t n = read(fd, server->asked + server->asked_size, ASKED_MAX - 1 - server->asked_size);
		if (n <= 0)
			return;
		server->asked_size += (size_t)n;
	}
}

static void wait_for_end(int fd) {
	char byte;
	while (recv(fd, &byte, 1, 0) > 0)
		;
}

static void answer(struct server *server, int fd) {
	for (int i = 0; i < 8 && server->parts[i]; i++) {
		if (i > 0)
			pause_for(server->pause_ms);
		send(fd, server->parts[i], strlen(server->parts[i]), MSG_NOSIGNAL);
	}
	while (server->fill && send(fd, server->fill, strlen(server->fill), MSG_NOSIGNAL) > 0)
		;
}

/* Ends when the listener is shut down. */
static void *serve(void *user) {
	struct server *server = user;
	for (;;) {
		int fd = accept(server->listener, NULL, NULL);
		if (fd < 0)
			return NULL;
		server->connections++;
		read_request(server, fd);
		if (server->silent)
			wait_for_end(fd);
		else
			answer(server, fd);
		close(fd);
	}
}

static void run_server(struct server *server) {
	assert_int_equal(listen(server->listener, 8), 0);
	server->asked = calloc(1, ASKED_MAX);
	assert_non_null(server->asked);
	assert_int_equal(pthread_create(&server->thread, NULL, serve, server), 0);
}

/* Starts it on a free port of 127.0.0.1; writes the URL of `path` there. */
static void start_server(struct server *server, const char *path, char url[128]) {
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {.s_addr = htonl(INADDR_LOOPBACK)}};
	socklen_t size = sizeof address;
	server->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(server->listener, (struct sockaddr *)&address, sizeof address), 0);
	assert_int_equal(getsockname(server->listener, (struct sockaddr *)&address, &size), 0);
	snprintf(url, 128, "http://127.0.0.1:%d%s", ntohs(address.sin_port), path);
	run_server(server);
}

static void stop_server(struct server *server) {
	shutdown(server->listener, SHUT_RDWR);
	pthread_join(server->thread, NULL);
	close(server->listener);
	free(server->asked);
}

/* Waits on the request's descriptor alone, as an event loop does, until it has ended. Returns what the last step said.
 */
static int finish(struct fc_http *http, struct fc_error *error) {
	struct pollfd wait = {.fd = fc_http_fileno(http), .events = POLLIN};
	for (;;) {
		int r = fc_http_step(http, error);
		if (r != 0)
			return r;
		if (poll(&wait, 1, LIMIT_MS) == 0)
			fail_msg("the request's descriptor was not readable for %d ms", LIMIT_MS);
	}
}

static struct fc_http_options get(const char *url) {
	return (struct fc_http_options){.url = url, .timeout_ms = 5000};
}

/* Asks, expects the failure `err`, whose message has `words` in it. */
static void expect_failure(const struct fc_http_options *options, int err, const char *words) {
	struct fc_http *http = NULL;
	struct fc_error error = {0};
	int r = fc_http_start(options, &http, &error);
	if (r == 0)
		r = finish(http, &error);
	if (r != -err || !strstr(error.message, words))
		fail_msg("got %d %s: %s", r, error.op, error.message);
	assert_int_equal(error.err, err);
	if (http) {
		memset(&error, 0, sizeof error);
		assert_int_equal(fc_http_step(http, &error), -err);
		assert_int_equal(error.err, err);
	}
	fc_http_free(http);
}

static struct fc_http *ask(const struct fc_http_options *options) {
	struct fc_http *http = NULL;
	struct fc_error error = {0};
	int r = fc_http_start(options, &http, &error);
	if (r == 0)
		r = finish(http, &error);
	if (r != 1)
		fail_msg("got %d %s %s: %s", r, error.op, error.subject, error.message);
	return http;
}

static const char *header_of(const struct fc_http *http, const char *name) {
	struct fc_http_answer got = fc_http_answer(http);
	for (size_t i = 0; i < got.header_count; i++) {
		if (strcmp(got.headers[i].name, name) == 0)
			return got.headers[i].value;
	}
	return NULL;
}

static void whole_answer(void **state) {
	(void)state;
	struct server server = {.parts = {"HTTP/1.1 404 Not Found\r\nContent-Type:  text/plain \r\nX-A: 1\r\nx-a: 2\r\n"
	                                  "Content-Length: 5\r\n\r\nhello"}};
	char url[128];
	start_server(&server, "/a?b=c", url);
	struct fc_http_options options = get(url);
	struct fc_http *http = ask(&options);
	struct fc_http_answer got = fc_http_answer(http);
	assert_int_equal(got.status, 404);
	assert_int_equal(got.body_size, 5);
	assert_string_equal(got.body, "hello");
	assert_string_equal(header_of(http, "content-type"), "text/plain");
	assert_string_equal(header_of(http, "x-a"), "1");
	assert_int_equal(got.header_count, 4);
	assert_memory_equal(server.asked, "GET /a?b=c HTTP/1.1\r\n", 21);
	assert_null(strstr(server.asked, "Expect"));
	assert_int_equal(fc_http_step(http, NULL), 1);
	fc_http_free(http);
	stop_server(&server);
}

static void descriptor_stays_readable_after_the_end(void **state) {
	(void)state;
	struct server server = {.parts = {"HTTP/1.1 204 No Content\r\n\r\n"}};
	char url[128];
	start_server(&server, "/", url);
	struct fc_http_options options = get(url);
	struct fc_http *http = ask(&options);
	struct pollfd wait = {.fd = fc_http_fileno(http), .events = POLLIN};
	for (int i = 0; i < 3; i++) {
		assert_int_equal(poll(&wait, 1, 1000), 1);
		assert_int_equal(fc_http_step(http, NULL), 1);
	}
	assert_string_equal(fc_http_answer(http).body, "");
	fc_http_free(http);
	stop_server(&server);
}

static void split_answer(void **state) {
	(void)state;
	struct server server = {.pause_ms = 15,
	                        .parts = {"HTT", "P/1.1 200 O", "K\r\nTransfer-Encoding: chu", "nked\r\n\r\n3\r",
	                                  "\nabc\r\n2\r\n", "de\r\n0", "\r\n\r\n"}};
	char url[128];
	start_server(&server, "/", url);
	struct fc_http_options options = get(url);
	struct fc_http *http = ask(&options);
	assert_int_equal(fc_http_answer(http).status, 200);
	assert_string_equal(fc_http_answer(http).body, "abcde");
	fc_http_free(http);
	stop_server(&server);
}

static void sends_method_headers_and_body(void **state) {
	(void)state;
	static char body[(1 << 20) + 4096]; /* long enough for libcurl to want to pause for a "100 Continue" */
	static const char *const headers[] = {"Content-Type: application/json", "X-Empty:", "X-Id: 7"};
	struct server server = {.body_size = sizeof body, .parts = {"HTTP/1.1 204 No Content\r\n\r\n"}};
	char url[128];
	memset(body, 'b', sizeof body);
	body[10] = '\0';
	start_server(&server, "/put", url);
	struct fc_http_options options = get(url);
	options.method = "PUT";
	options.headers = headers;
	options.header_count = 3;
	options.body = body;
	options.body_size = sizeof body;
	struct fc_http *http = ask(&options);
	assert_memory_equal(server.asked, "PUT /put HTTP/1.1\r\n", 19);
	assert_non_null(strstr(server.asked, "\r\nContent-Type: application/json\r\n"));
	assert_non_null(strstr(server.asked, "\r\nX-Empty:\r\n"));
	assert_non_null(strstr(server.asked, "\r\nX-Id: 7\r\n"));
	assert_null(strstr(server.asked, "\r\nExpect"));
	const char *sent = strstr(server.asked, "\r\n\r\n") + 4;
	assert_int_equal(server.asked_size - (size_t)(sent - server.asked), sizeof body);
	assert_memory_equal(sent, body, sizeof body);
	fc_http_free(http);
	stop_server(&server);
}

static void empty_body_has_its_length_said(void **state) {
	(void)state;
	struct server server = {.parts = {"HTTP/1.1 204 No Content\r\n\r\n"}};
	char url[128];
	start_server(&server, "/", url);
	struct fc_http_options options = get(url);
	options.method = "PATCH";
	struct fc_http *http = ask(&options);
	assert_memory_equal(server.asked, "PATCH / HTTP/1.1\r\n", 18);
	assert_non_null(strstr(server.asked, "\r\nContent-Length: 0\r\n"));
	assert_null(strstr(server.asked, "Content-Type"));
	fc_http_free(http);
	stop_server(&server);
}

static void head_has_no_body(void **state) {
	(void)state;
	struct server server = {.parts = {"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"}};
	char url[128];
	start_server(&server, "/", url);
	struct fc_http_options options = get(url);
	options.method = "HEAD";
	struct fc_http *http = ask(&options);
	assert_int_equal(fc_http_answer(http).body_size, 0);
	assert_memory_equal(server.asked, "HEAD / HTTP/1.1\r\n", 17);
	fc_http_free(http);
	stop_server(&server);
}

static void interim_answers_are_forgotten(void **state) {
	(void)state;
	struct server server = {.parts = {"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n",
	                                  "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"}};
	char url[128];
	start_server(&server, "/", url);
	struct fc_http_options options = get(url);
	struct fc_http *http = ask(&options);
	assert_int_equal(fc_http_answer(http).status, 200);
	assert_int_equal(fc_http_answer(http).header_count, 1);
	fc_http_free(http);
	stop_server(&server);
}

static void silent_server_times_out(void **state) {
	(void)state;
	struct server server = {.silent = 1};
	char url[128];
	start_server(&server, "/", url);
	struct fc_http_options options = get(url);
	options.timeout_ms = 120;
	expect_failure(&options, ETIMEDOUT, "no whole answer within 0.12 s");
	stop_server(&server);
}

static void slow_server_times_out(void **state) {
	(void)state;
	struct server server = {.pause_ms = 60, .parts = {"H", "T", "T", "P", "/", "1", ".", "1"}};
	char url[128];
	start_server(&server, "/", url);
	struct fc_http_options options = get(url);
	options.timeout_ms = 150;
	expect_failure(&options, ETIMEDOUT, "no whole answer");
	stop_server(&server);
}

static void body_over_the_limit(void **state) {
	(void)state;
	char url[128];
	struct server said = {.parts = {"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n"}};
	start_server(&said, "/", url);
	struct fc_http_options options = get(url);
	options.max_body = 10;
	expect_failure(&options, EFBIG, "longer than 10 bytes");
	stop_server(&said);

	struct server unsaid = {.parts = {"HTTP/1.1 200 OK\r\n\r\n"}, .fill = "0123456789abcdef"};
	start_server(&unsaid, "/", url);
	options.url = url;
	options.max_body = 100000;
	expect_failure(&options, EFBIG, "longer than 100000 bytes");
	stop_server(&unsaid);

	struct server exact = {.parts = {"HTTP/1.1 200 OK\r\n\r\n", "0123456789"}};
	start_server(&exact, "/", url);
	options.max_body = 10;
	struct fc_http *http = ask(&options);
	assert_string_equal(fc_http_answer(http).body, "0123456789");
	fc_http_free(http);
	stop_server(&exact);
}

static void headers_over_the_limit(void **state) {
	(void)state;
	static char longer[FC_HTTP_HEADER_BYTES + 64];
	char url[128];
	/* Far below the limit of bytes: the lines' own limit ends it. */
	static char many[6 * FC_HTTP_HEADERS_MAX + 1];
	for (size_t i = 0; i < FC_HTTP_HEADERS_MAX; i++)
		memcpy(many + 6 * i, "a: b\r\n", 6);
	struct server endless = {.parts = {"HTTP/1.1 200 OK\r\n", many, "\r\n"}};
	start_server(&endless, "/", url);
	struct fc_http_options options = get(url);
	expect_failure(&options, EMSGSIZE, "more than 65536 bytes or 256 lines");
	stop_server(&endless);

	struct server interim = {.fill = "HTTP/1.1 100 Continue\r\n\r\n"};
	start_server(&interim, "/", url);
	options = get(url);
	expect_failure(&options, EMSGSIZE, "more than");
	stop_server(&interim);

	memset(longer, 'x', sizeof longer - 1);
	struct server wide = {.parts = {"HTTP/1.1 200 OK\r\nx: ", longer, "\r\n\r\n"}};
	start_server(&wide, "/", url);
	options = get(url);
	expect_failure(&options, EMSGSIZE, "more than");
	stop_server(&wide);

	/* A line without an end: libcurl's own limit ends it. */
	struct server boundless = {.parts = {"HTTP/1.1 200 OK\r\nx: "}, .fill = longer};
	start_server(&boundless, "/", url);
	options = get(url);
	expect_failure(&options, EMSGSIZE, "more than");
	stop_server(&boundless);
}

static void garbage_is_no_answer(void **state) {
	(void)state;
	static const char *const garbage[] = {"SSH-2.0-OpenSSH_9.2\r\n", "HTTP/1.1 abc OK\r\n\r\n",
	                                      "HTTP/9.9 200 OK\r\n\r\n", "\r\n\r\n", "\x16\x03\x01\x02"};
	for (size_t i = 0; i < sizeof garbage / sizeof garbage[0]; i++) {
		struct server server = {.parts = {garbage[i]}};
		char url[128];
		start_server(&server, "/", url);
		struct fc_http_options options = get(url);
		expect_failure(&options, EPROTO, "");
		stop_server(&server);
	}
}

static void answer_that_ends_early(void **state) {
	(void)state;
	static const char *const early[] = {"", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
	                                    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"};
	for (size_t i = 0; i < sizeof early / sizeof early[0]; i++) {
		struct server server = {.parts = {early[i]}};
		char url[128];
		start_server(&server, "/", url);
		struct fc_http_options options = get(url);
		expect_failure(&options, ECONNRESET, "");
		stop_server(&server);
	}
}

static void connection_refused(void **state) {
	(void)state;
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {.s_addr = htonl(INADDR_LOOPBACK)}};
	socklen_t size = sizeof address;
	char url[128];
	/* Bound and not listening: nobody else can answer at this port. */
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &size), 0);
	snprintf(url, sizeof url, "http://127.0.0.1:%d/", ntohs(address.sin_port));
	struct fc_http_options options = get(url);
	expect_failure(&options, ECONNREFUSED, "");
	close(fd);
}

static void redirects(void **state) {
	(void)state;
	char url[128];
	struct server server = {.parts = {"HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n"}};
	start_server(&server, "/", url);
	struct fc_http_options options = get(url);
	struct fc_http *http = ask(&options);
	assert_int_equal(fc_http_answer(http).status, 302);
	assert_string_equal(header_of(http, "location"), "/again");
	fc_http_free(http);
	options.follow = 1;
	expect_failure(&options, ELOOP, "");
	assert_int_equal(server.connections, 1 + 6);
	server.parts[0] = "HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n";
	expect_failure(&options, EPROTO, "");
	stop_server(&server);
}

static void malformed_requests(void **state) {
	(void)state;
	static const char *const split[] = {"X-A: 1\r\nX-B: 2"};
	static const char *const nameless[] = {": 1"};
	struct fc_http_options options = get("ftp://127.0.0.1/");
	expect_failure(&options, EPROTONOSUPPORT, "http://");
	options = get("file:///etc/passwd");
	expect_failure(&options, EPROTONOSUPPORT, "http://");
	options = get("http://127.0.0.1/a b");
	expect_failure(&options, EINVAL, "blanks");
	options = get("http://127.0.0.1/a\r\nX: y");
	expect_failure(&options, EINVAL, "blanks");
	options = get("http://[::1/");
	expect_failure(&options, EINVAL, "");
	options = get("http://127.0.0.1/");
	options.method = "GET /x";
	expect_failure(&options, EINVAL, "method");
	options = get("http://127.0.0.1/");
	options.headers = split;
	options.header_count = 1;
	expect_failure(&options, EINVAL, "header 1");
	options.headers = nameless;
	expect_failure(&options, EINVAL, "header 1");
	options = get("http://127.0.0.1/");
	options.timeout_ms = 0;
	expect_failure(&options, EINVAL, "timeout");
	options = get("https://localhost/");
	options.unix_path = "/nowhere";
	expect_failure(&options, EPROTONOSUPPORT, "Unix");
}

static int count_descriptors(void) {
	int count = 0;
	for (int fd = 0; fd < 256; fd++)
		count += fcntl(fd, F_GETFD) >= 0;
	return count;
}

/* A directory whose path alone is longer than a socket's address may be; enters it. */
static char *enter_deep_directory(char *base) {
	char name[101];
	memset(name, 'd', 100);
	name[100] = '\0';
	assert_non_null(mkdtemp(base));
	assert_int_equal(chdir(base), 0);
	assert_int_equal(mkdir(name, 0700), 0);
	assert_int_equal(chdir(name), 0);
	char *path = NULL;
	assert_true(asprintf(&path, "%s/%s/api.sock", base, name) > 108);
	return path;
}

static void leave_deep_directory(const char *base) {
	char name[101];
	memset(name, 'd', 100);
	name[100] = '\0';
	assert_int_equal(chdir(base), 0);
	assert_int_equal(rmdir(name), 0);
	assert_int_equal(chdir("/"), 0);
	assert_int_equal(rmdir(base), 0);
}

static void unix_sockets(void **state) {
	(void)state;
	char base[] = "/tmp/fcvm-test-http-XXXXXX";
	char *path = enter_deep_directory(base);
	int before = count_descriptors();
	const char *const paths[] = {"api.sock", path};
	for (size_t i = 0; i < 2; i++) {
		struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "api.sock"};
		struct server server = {.parts = {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"}};
		struct fc_http_options options = get("http://localhost/version");
		options.unix_path = paths[i];
		expect_failure(&options, ENOENT, "");
		server.listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		assert_int_equal(bind(server.listener, (struct sockaddr *)&address, sizeof address), 0);
		expect_failure(&options, ECONNREFUSED, "");
		run_server(&server);
		struct fc_http *http = ask(&options);
		assert_string_equal(fc_http_answer(http).body, "ok");
		assert_non_null(strstr(server.asked, "\r\nHost: localhost\r\n"));
		fc_http_free(http);
		stop_server(&server);
		unlink("api.sock");
	}
	assert_int_equal(count_descriptors(), before);
	free(path);
	leave_deep_directory(base);
}

/* A request with http_proxy set to a server that answers everything: only who asks for a proxy gets it. */
static void proxies_only_where_they_are_wanted(void **state) {
	(void)state;
	struct server proxy = {.parts = {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nproxy"}};
	struct server direct = {.parts = {"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\ndirect"}};
	char proxy_url[128];
	char url[128];
	start_server(&proxy, "", proxy_url);
	start_server(&direct, "/", url);
	setenv("http_proxy", proxy_url, 1);
	struct fc_http_options options = get(url);
	struct fc_http *http = ask(&options);
	assert_string_equal(fc_http_answer(http).body, "direct");
	fc_http_free(http);
	options.proxy = 1;
	http = ask(&options);
	assert_string_equal(fc_http_answer(http).body, "proxy");
	fc_http_free(http);
	unsetenv("http_proxy");
	stop_server(&direct);
	stop_server(&proxy);
}

static void freed_at_every_stage(void **state) {
	(void)state;
	struct server server = {.silent = 1};
	char url[128];
	start_server(&server, "/", url);
	int before = count_descriptors();
	for (int steps = 0; steps < 6; steps++) {
		struct fc_http *http = NULL;
		struct fc_http_options options = get(url);
		assert_int_equal(fc_http_start(&options, &http, NULL), 0);
		for (int i = 0; i < steps; i++) {
			struct pollfd wait = {.fd = fc_http_fileno(http), .events = POLLIN};
			poll(&wait, 1, 5);
			assert_int_equal(fc_http_step(http, NULL), 0);
		}
		fc_http_free(http);
	}
	fc_http_free(NULL);
	stop_server(&server);
	assert_int_equal(count_descriptors(), before - 1);
}

static void secrets_stay_out_of_errors(void **state) {
	(void)state;
	struct fc_http *http = NULL;
	struct fc_error error = {0};
	struct fc_http_options options = get("http://user:secret@127.0.0.1:1/x@y");
	assert_int_equal(fc_http_start(&options, &http, &error), 0);
	assert_int_equal(finish(http, &error), -ECONNREFUSED);
	assert_string_equal(error.subject, "http://127.0.0.1:1/x@y");
	fc_http_free(http);
}

int main(void) {
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(whole_answer),
	        cmocka_unit_test(descriptor_stays_readable_after_the_end),
	        cmocka_unit_test(split_answer),
	        cmocka_unit_test(sends_method_headers_and_body),
	        cmocka_unit_test(empty_body_has_its_length_said),
	        cmocka_unit_test(head_has_no_body),
	        cmocka_unit_test(interim_answers_are_forgotten),
	        cmocka_unit_test(silent_server_times_out),
	        cmocka_unit_test(slow_server_times_out),
	        cmocka_unit_test(body_over_the_limit),
	        cmocka_unit_test(headers_over_the_limit),
	        cmocka_unit_test(garbage_is_no_answer),
	        cmocka_unit_test(answer_that_ends_early),
	        cmocka_unit_test(connection_refused),
	        cmocka_unit_test(redirects),
	        cmocka_unit_test(malformed_requests),
	        cmocka_unit_test(unix_sockets),
	        cmocka_unit_test(proxies_only_where_they_are_wanted),
	        cmocka_unit_test(freed_at_every_stage),
	        cmocka_unit_test(secrets_stay_out_of_errors),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
