// SPDX-License-Identifier: Apache-2.0
/*
 * core/http/http.c: a request as libcurl's multi_socket machine over one epoll descriptor.
 *
 * pending --(step: libcurl reports its end)--> done or failed. libcurl says which sockets and which timer it waits for
 * (on_socket, on_timer); both live in the epoll set, the timer as a timerfd, so the one descriptor tells all. At the
 * end libcurl's handles go at once and the timer is armed for good, which keeps the descriptor readable.
 */
#include "http/http.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "http/http_internal.h"

enum { EVENTS_PER_STEP = 8, REDIRECTS_MAX = 5 };

enum state { PENDING, DONE, FAILED };

struct fc_http {
	int epoll;
	int timer;
	int given;       /* a socket for libcurl to connect with, or -1 */
	int socket_path; /* O_PATH of a Unix socket whose path is too long for an address, or -1 */
	enum state state;
	int status;
	int64_t timeout_ms;
	CURLM *multi;
	CURL *easy;
	struct curl_slist *headers;
	struct fch_answer answer;
	struct fc_error error;
	char subject[256];
	char words[CURL_ERROR_SIZE]; /* libcurl's own account of a failure */
};

int fc_http_init(struct fc_error *error) {
	return fch_curl_load(error);
}

static int on_socket(CURL *easy, curl_socket_t socket, int what, void *user, void *socket_user) {
	const struct fc_http *http = user;
	struct epoll_event event = {.data = {.fd = socket}};
	(void)easy;
	(void)socket_user;
	if (what == CURL_POLL_REMOVE) {
		epoll_ctl(http->epoll, EPOLL_CTL_DEL, socket, NULL);
		return 0;
	}
	if (what & CURL_POLL_IN)
		event.events |= EPOLLIN;
	if (what & CURL_POLL_OUT)
		event.events |= EPOLLOUT;
	if (epoll_ctl(http->epoll, EPOLL_CTL_MOD, socket, &event) == 0)
		return 0;
	return epoll_ctl(http->epoll, EPOLL_CTL_ADD, socket, &event);
}

/* Arms the timer; 0 ms is a nanosecond, since a zero would disarm it, which -1 does. */
static int on_timer(CURLM *multi, long ms, void *user) {
	const struct fc_http *http = user;
	struct itimerspec when = {.it_value = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}};
	(void)multi;
	if (ms < 0)
		when = (struct itimerspec){0};
	else if (ms == 0)
		when.it_value.tv_nsec = 1;
	return timerfd_settime(http->timer, 0, &when, NULL);
}

/* The socket that was given, for the first connection; there is none for a second. */
static curl_socket_t open_given(void *user, curlsocktype purpose, struct curl_sockaddr *address) {
	struct fc_http *http = user;
	(void)purpose;
	if (http->given < 0 || address->family != AF_INET)
		return CURL_SOCKET_BAD;
	return fc_steal_fd(&http->given);
}

/* libcurl's handles, and with them the connection. */
static void drop_curl(struct fc_http *http) {
	if (http->multi && http->easy)
		fch_curl.multi_remove_handle(http->multi, http->easy);
	if (http->easy)
		fch_curl.easy_cleanup(http->easy);
	if (http->multi)
		fch_curl.multi_cleanup(http->multi);
	fch_curl.slist_free_all(http->headers);
	http->easy = NULL;
	http->multi = NULL;
	http->headers = NULL;
	if (http->socket_path >= 0)
		close(fc_steal_fd(&http->socket_path));
	if (http->given >= 0)
		close(fc_steal_fd(&http->given));
}

void fc_http_free(struct fc_http *http) {
	if (!http)
		return;
	drop_curl(http);
	fch_answer_free(&http->answer);
	if (http->timer >= 0)
		close(http->timer);
	if (http->epoll >= 0)
		close(http->epoll);
	free(http);
}

static void free_guard(struct fc_http **http) {
	fc_http_free(*http);
}

static int no_memory(const struct fc_http *http, struct fc_error *error) {
	return fc_error_set(error, ENOMEM, "request", http->subject, NULL, NULL);
}

/* What errors name: the socket, or the URL without a user's name and password. */
static void set_subject(struct fc_http *http, const struct fc_http_options *options) {
	const char *url = options->url;
	const char *host = strstr(url, "://") + 3;
	size_t authority = strcspn(host, "/?#");
	const char *at = memrchr(host, '@', authority);
	if (options->unix_path)
		snprintf(http->subject, sizeof http->subject, "%s", options->unix_path);
	else
		snprintf(http->subject, sizeof http->subject, "%.*s%s", (int)(host - url), url, at ? at + 1 : host);
}

static int open_descriptors(struct fc_http *http, struct fc_error *error) {
	http->epoll = epoll_create1(EPOLL_CLOEXEC);
	http->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (http->epoll < 0 || http->timer < 0)
		return fc_error_set(error, errno, "request", http->subject, NULL, NULL);
	struct epoll_event event = {.events = EPOLLIN, .data = {.fd = http->timer}};
	if (epoll_ctl(http->epoll, EPOLL_CTL_ADD, http->timer, &event) < 0)
		return fc_error_set(error, errno, "request", http->subject, NULL, NULL);
	return 0;
}

static int add_header(struct fc_http *http, const char *line) {
	struct curl_slist *longer = fch_curl.slist_append(http->headers, line);
	if (!longer)
		return -ENOMEM;
	http->headers = longer;
	return 0;
}

/* libcurl takes "Name:" for "send no such header" and "Name;" for an empty one. */
static int add_given_header(struct fc_http *http, const char *line) {
	const char *colon = strchr(line, ':');
	if (colon[1 + strspn(colon + 1, " \t")])
		return add_header(http, line);
	_cleanup_free_ char *empty = strndup(line, (size_t)(colon - line) + 1);
	if (!empty)
		return -ENOMEM;
	empty[colon - line] = ';';
	return add_header(http, empty);
}

static int has_header(const struct fc_http_options *options, const char *name) {
	size_t size = strlen(name);
	for (size_t i = 0; i < options->header_count; i++) {
		if (strncasecmp(options->headers[i], name, size) == 0 && options->headers[i][size] == ':')
			return 1;
	}
	return 0;
}

/* The given lines, and without those that libcurl would add by itself: a pause before long bodies, a form's type. */
static int set_headers(struct fc_http *http, const struct fc_http_options *options) {
	int r = 0;
	for (size_t i = 0; r == 0 && i < options->header_count; i++)
		r = add_given_header(http, options->headers[i]);
	if (r == 0 && !has_header(options, "Expect"))
		r = add_header(http, "Expect:");
	if (r == 0 && !has_header(options, "Content-Type"))
		r = add_header(http, "Content-Type:");
	if (r == 0 && fch_curl.easy_setopt(http->easy, CURLOPT_HTTPHEADER, http->headers) != CURLE_OK)
		r = -ENOMEM;
	return r;
}

static int takes_body(const char *method) {
	return strcmp(method, "POST") == 0 || strcmp(method, "PUT") == 0 || strcmp(method, "PATCH") == 0;
}

static CURLcode set_method(CURL *easy, const struct fc_http_options *options) {
	const char *method = options->method ? options->method : options->body ? "POST" : "GET";
	CURLcode code = CURLE_OK;
	if (options->body || takes_body(method)) {
		/* Set before the body, which it measures; an empty body is said to be empty. */
		code = fch_curl.easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)options->body_size);
		if (code == CURLE_OK)
			code = fch_curl.easy_setopt(easy, CURLOPT_COPYPOSTFIELDS, options->body ? options->body : "");
		if (code == CURLE_OK && strcmp(method, "POST") == 0)
			return CURLE_OK;
	} else if (strcmp(method, "HEAD") == 0) {
		return fch_curl.easy_setopt(easy, CURLOPT_NOBODY, 1L);
	} else if (strcmp(method, "GET") == 0) {
		return fch_curl.easy_setopt(easy, CURLOPT_HTTPGET, 1L);
	}
	return code == CURLE_OK ? fch_curl.easy_setopt(easy, CURLOPT_CUSTOMREQUEST, method) : code;
}

/* A path too long for an address is reached through the descriptor of the socket's own file. */
static int set_unix_path(struct fc_http *http, const char *path, struct fc_error *error) {
	char through[64];
	if (strlen(path) >= sizeof((struct sockaddr_un *)NULL)->sun_path) {
		http->socket_path = open(path, O_PATH | O_CLOEXEC);
		if (http->socket_path < 0)
			return fc_error_set(error, errno, "request", http->subject, NULL, NULL);
		snprintf(through, sizeof through, "/proc/self/fd/%d", http->socket_path);
		path = through;
	}
	if (fch_curl.easy_setopt(http->easy, CURLOPT_UNIX_SOCKET_PATH, path) != CURLE_OK)
		return no_memory(http, error);
	return 0;
}

static int set_socket(struct fc_http *http, int socket, struct fc_error *error) {
	http->given = fcntl(socket, F_DUPFD_CLOEXEC, 0);
	if (http->given < 0)
		return fc_error_set(error, errno, "request", http->subject, NULL, NULL);
	if (fch_curl.easy_setopt(http->easy, CURLOPT_OPENSOCKETFUNCTION, open_given) != CURLE_OK ||
	    fch_curl.easy_setopt(http->easy, CURLOPT_OPENSOCKETDATA, http) != CURLE_OK)
		return no_memory(http, error);
	return 0;
}

/* setopt keeps the first failure in `code`. */
#define SET(option, value)                                                                                             \
	do {                                                                                                           \
		if (code == CURLE_OK)                                                                                  \
			code = fch_curl.easy_setopt(easy, option, value);                                              \
	} while (0)

static CURLcode set_limits(struct fc_http *http, const struct fc_http_options *options) {
	CURL *easy = http->easy;
	CURLcode code = CURLE_OK;
	SET(CURLOPT_PROTOCOLS_STR, options->unix_path ? "http" : "http,https");
	SET(CURLOPT_REDIR_PROTOCOLS_STR, options->unix_path ? "http" : "http,https");
	SET(CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
	SET(CURLOPT_TIMEOUT_MS, (long)options->timeout_ms);
	SET(CURLOPT_CONNECTTIMEOUT_MS, (long)options->timeout_ms);
	SET(CURLOPT_MAXFILESIZE_LARGE, (curl_off_t)http->answer.max_body);
	SET(CURLOPT_FOLLOWLOCATION, options->follow ? 1L : 0L);
	SET(CURLOPT_MAXREDIRS, (long)REDIRECTS_MAX);
	if (!options->proxy || options->unix_path)
		SET(CURLOPT_NOPROXY, "*");
	return code;
}

static CURLcode set_basics(struct fc_http *http, const struct fc_http_options *options) {
	CURL *easy = http->easy;
	CURLcode code = CURLE_OK;
	SET(CURLOPT_ERRORBUFFER, http->words);
	SET(CURLOPT_URL, options->url);
	SET(CURLOPT_USERAGENT, "fcvm");
	SET(CURLOPT_NOSIGNAL, 1L);
	/* Without it, ending a request whose host name is being resolved would wait for the resolver's thread. */
	SET(CURLOPT_QUICK_EXIT, 1L);
	SET(CURLOPT_HEADERFUNCTION, fch_answer_header);
	SET(CURLOPT_HEADERDATA, &http->answer);
	SET(CURLOPT_WRITEFUNCTION, fch_answer_body);
	SET(CURLOPT_WRITEDATA, &http->answer);
	return code;
}

#undef SET

static int set_multi(struct fc_http *http) {
	http->multi = fch_curl.multi_init();
	if (!http->multi || fch_curl.multi_setopt(http->multi, CURLMOPT_SOCKETFUNCTION, on_socket) != CURLM_OK ||
	    fch_curl.multi_setopt(http->multi, CURLMOPT_SOCKETDATA, http) != CURLM_OK ||
	    fch_curl.multi_setopt(http->multi, CURLMOPT_TIMERFUNCTION, on_timer) != CURLM_OK ||
	    fch_curl.multi_setopt(http->multi, CURLMOPT_TIMERDATA, http) != CURLM_OK)
		return -ENOMEM;
	return 0;
}

static int configure(struct fc_http *http, const struct fc_http_options *options, struct fc_error *error) {
	http->easy = fch_curl.easy_init();
	if (!http->easy || set_multi(http) < 0)
		return no_memory(http, error);
	CURLcode code = set_basics(http, options);
	if (code == CURLE_OK)
		code = set_limits(http, options);
	if (code == CURLE_OK)
		code = set_method(http->easy, options);
	if (code != CURLE_OK)
		return fc_error_set(error, fch_errno(code, 0), "request", http->subject, NULL, "%s",
		                    fch_curl.easy_strerror(code));
	if (set_headers(http, options) < 0)
		return no_memory(http, error);
	if (options->unix_path)
		return set_unix_path(http, options->unix_path, error);
	return options->socket > 0 ? set_socket(http, options->socket, error) : 0;
}

int fc_http_start(const struct fc_http_options *options, struct fc_http **ret_http, struct fc_error *error) {
	int r = fc_http_init(error);
	if (r == 0)
		r = fch_options_check(options, error);
	if (r < 0)
		return r;
	__attribute__((cleanup(free_guard))) struct fc_http *http = calloc(1, sizeof *http);
	if (!http)
		return fc_error_set(error, ENOMEM, "request", options->url, NULL, NULL);
	http->epoll = http->timer = http->socket_path = http->given = -1;
	http->timeout_ms = options->timeout_ms;
	http->answer.max_body = options->max_body ? options->max_body : FC_HTTP_BODY_DEFAULT;
	set_subject(http, options);
	r = open_descriptors(http, error);
	if (r == 0)
		r = configure(http, options, error);
	if (r < 0)
		return r;
	CURLMcode code = fch_curl.multi_add_handle(http->multi, http->easy);
	if (code != CURLM_OK)
		return fc_error_set(error, EIO, "request", http->subject, NULL, "%s", fch_curl.multi_strerror(code));
	*ret_http = fc_steal_ptr(http);
	return 0;
}

int fc_http_fileno(const struct fc_http *http) {
	return http->epoll;
}

static void end(struct fc_http *http, enum state state) {
	struct itimerspec soon = {.it_value = {.tv_nsec = 1}};
	drop_curl(http);
	timerfd_settime(http->timer, 0, &soon, NULL);
	http->state = state;
}

/* Says in our words what our limits did, else in libcurl's. */
static void fail(struct fc_http *http, CURLcode code, long os_errno) {
	int err = http->answer.refused ? http->answer.refused : fch_errno(code, os_errno);
	const char *words = http->words[0] ? http->words : fch_curl.easy_strerror(code);
	struct fc_error *error = &http->error;
	if (err == EFBIG)
		fc_error_set(error, err, "request", http->subject, NULL, "the answer is longer than %zu bytes",
		             http->answer.max_body);
	else if (err == EMSGSIZE)
		fc_error_set(error, err, "request", http->subject, NULL,
		             "the answer's headers are more than %zu bytes or %zu lines", FC_HTTP_HEADER_BYTES,
		             FC_HTTP_HEADERS_MAX);
	else if (err == ETIMEDOUT)
		fc_error_set(error, err, "request", http->subject, NULL, "no whole answer within %g s",
		             (double)http->timeout_ms / 1000);
	else if (code == CURLE_COULDNT_CONNECT && os_errno > 0)
		fc_error_set(error, err, "connect", http->subject, NULL, NULL);
	else
		fc_error_set(error, err, "request", http->subject, NULL, "%s", words);
	end(http, FAILED);
}

/* Looks whether libcurl has come to the end. */
static void collect(struct fc_http *http) {
	int left;
	const CURLMsg *message;
	do
		message = fch_curl.multi_info_read(http->multi, &left);
	while (message && message->msg != CURLMSG_DONE);
	if (!message)
		return;
	CURLcode code = message->data.result;
	long status = 0;
	long os_errno = 0;
	fch_curl.easy_getinfo(http->easy, CURLINFO_RESPONSE_CODE, &status);
	fch_curl.easy_getinfo(http->easy, CURLINFO_OS_ERRNO, &os_errno);
	/* So libcurl 7.88 calls a header line above its own limit of 100 KiB; memory itself hardly fails first. */
	if (code == CURLE_OUT_OF_MEMORY && !http->answer.refused)
		http->answer.refused = EMSGSIZE;
	if (code != CURLE_OK) {
		fail(http, code, os_errno);
		return;
	}
	http->status = (int)status;
	end(http, DONE);
}

static CURLMcode act(struct fc_http *http, const struct epoll_event *event) {
	int running;
	if (event->data.fd == http->timer) {
		uint64_t ticks;
		/* Where libcurl has armed it again since, there is nothing to read. */
		ssize_t n = read(http->timer, &ticks, sizeof ticks);
		(void)n;
		return fch_curl.multi_socket_action(http->multi, CURL_SOCKET_TIMEOUT, 0, &running);
	}
	int mask = 0;
	if (event->events & EPOLLIN)
		mask |= CURL_CSELECT_IN;
	if (event->events & EPOLLOUT)
		mask |= CURL_CSELECT_OUT;
	if (event->events & (EPOLLERR | EPOLLHUP))
		mask |= CURL_CSELECT_ERR;
	return fch_curl.multi_socket_action(http->multi, event->data.fd, mask, &running);
}

static void drive(struct fc_http *http) {
	struct epoll_event events[EVENTS_PER_STEP];
	int n = epoll_wait(http->epoll, events, EVENTS_PER_STEP, 0);
	for (int i = 0; i < n; i++) {
		CURLMcode code = act(http, &events[i]);
		if (code != CURLM_OK) {
			fc_error_set(&http->error, EIO, "request", http->subject, NULL, "%s",
			             fch_curl.multi_strerror(code));
			end(http, FAILED);
			return;
		}
	}
	collect(http);
}

int fc_http_step(struct fc_http *http, struct fc_error *error) {
	if (http->state == PENDING)
		drive(http);
	if (http->state == PENDING)
		return 0;
	if (http->state == DONE)
		return 1;
	if (error)
		*error = http->error;
	return -http->error.err;
}

struct fc_http_answer fc_http_answer(const struct fc_http *http) {
	const struct fch_answer *answer = &http->answer;
	return (struct fc_http_answer){.status = http->status,
	                               .headers = answer->headers,
	                               .header_count = answer->header_count,
	                               .body = answer->body_size ? answer->body : "",
	                               .body_size = answer->body_size};
}
