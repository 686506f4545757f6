// SPDX-License-Identifier: Apache-2.0
#include "http.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "clock.h"

static int malformed(struct fc_error *error, const char *why) {
	return fc_error_set(error, EPROTO, "read HTTP answer", NULL, NULL, "%s", why);
}

/* A decimal number up to `end`; -1 where it is none or beyond 9 digits. */
static long number(const char *at, const char *end) {
	long value = 0;
	if (at == end || end - at > 9)
		return -1;
	for (; at < end; at++) {
		if (*at < '0' || *at > '9')
			return -1;
		value = value * 10 + (*at - '0');
	}
	return value;
}

/* "HTTP/1.x NNN reason" */
static int read_status(const char *line, const char *end) {
	if (end - line < 12 || memcmp(line, "HTTP/1.", 7) != 0 || line[8] != ' ' ||
	    (end - line > 12 && line[12] != ' '))
		return -1;
	return (int)number(line + 9, line + 12);
}

static int read_header(const char *line, const char *end, size_t body_max, struct fc_http_answer *answer, bool *seen,
                       struct fc_error *error) {
	static const char length[] = "content-length:";
	static const char encoding[] = "transfer-encoding:";
	size_t size = (size_t)(end - line);
	if (size >= sizeof encoding - 1 && strncasecmp(line, encoding, sizeof encoding - 1) == 0)
		return malformed(error, "its body is encoded");
	if (size < sizeof length - 1 || strncasecmp(line, length, sizeof length - 1) != 0)
		return 0;
	line += sizeof length - 1;
	while (line < end && *line == ' ')
		line++;
	long value = number(line, end);
	if (value < 0 || *seen)
		return malformed(error, "its Content-Length makes no sense");
	if ((size_t)value > body_max)
		return fc_error_set(error, EMSGSIZE, "read HTTP answer", NULL, NULL,
		                    "its body of %ld bytes is over %zu", value, body_max);
	*seen = true;
	answer->body = (size_t)value;
	return 0;
}

int fc_http_parse(const char *data, size_t size, size_t body_max, struct fc_http_answer *ret_answer,
                  struct fc_error *error) {
	size_t look = size < FC_HTTP_HEAD_MAX ? size : FC_HTTP_HEAD_MAX;
	const char *end = memmem(data, look, "\r\n\r\n", 4);
	if (!end && size >= FC_HTTP_HEAD_MAX)
		return fc_error_set(error, EMSGSIZE, "read HTTP answer", NULL, NULL, "its head is over %d bytes",
		                    FC_HTTP_HEAD_MAX);
	if (!end)
		return 0;
	struct fc_http_answer answer = {.head = (size_t)(end - data) + 4};
	bool seen = false;
	for (const char *line = data; line < end + 2;) {
		const char *stop = memmem(line, (size_t)(end + 2 - line), "\r\n", 2);
		if (line == data)
			answer.status = read_status(line, stop);
		int r = line == data ? 0 : read_header(line, stop, body_max, &answer, &seen, error);
		if (r < 0)
			return r;
		line = stop + 2;
	}
	if (answer.status < 100)
		return malformed(error, "its first line is none of HTTP/1");
	*ret_answer = answer;
	return 1;
}

static int wait_for(int fd, short events, uint64_t deadline_ms) {
	for (;;) {
		uint64_t now = fc_clock_ms();
		if (now >= deadline_ms)
			return -ETIMEDOUT;
		struct pollfd poller = {.fd = fd, .events = events};
		int n = poll(&poller, 1, (int)(deadline_ms - now < 60000 ? deadline_ms - now : 60000));
		if (n > 0)
			return 0;
		if (n < 0 && errno != EINTR)
			return -errno;
	}
}

static int dial(const struct sockaddr_in *server, uint64_t deadline_ms) {
	_cleanup_close_ int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	if (connect(fd, (const struct sockaddr *)server, sizeof *server) < 0) {
		if (errno != EINPROGRESS)
			return -errno;
		int r = wait_for(fd, POLLOUT, deadline_ms);
		if (r < 0)
			return r;
		int problem = 0;
		socklen_t size = sizeof problem;
		if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &problem, &size) < 0)
			return -errno;
		if (problem)
			return -problem;
	}
	return fc_steal_fd(&fd);
}

static int send_all(int fd, const char *data, size_t size, uint64_t deadline_ms) {
	while (size > 0) {
		ssize_t n = send(fd, data, size, MSG_NOSIGNAL);
		if (n < 0 && errno == EAGAIN) {
			int r = wait_for(fd, POLLOUT, deadline_ms);
			if (r < 0)
				return r;
			continue;
		}
		if (n < 0 && errno != EINTR)
			return -errno;
		if (n > 0) {
			data += n;
			size -= (size_t)n;
		}
	}
	return 0;
}

static ssize_t receive(int fd, char *buffer, size_t size, uint64_t deadline_ms) {
	for (;;) {
		ssize_t n = recv(fd, buffer, size, 0);
		if (n >= 0)
			return n;
		if (errno == EINTR)
			continue;
		if (errno != EAGAIN)
			return -errno;
		int r = wait_for(fd, POLLIN, deadline_ms);
		if (r < 0)
			return r;
	}
}

static int read_answer(int fd, size_t body_max, uint64_t deadline_ms, struct fc_text *text,
                       struct fc_http_answer *answer, struct fc_error *error) {
	char buffer[4096];
	for (;;) {
		int r = fc_http_parse(text->data ? text->data : "", text->size, body_max, answer, error);
		if (r < 0)
			return r;
		if (r > 0 && text->size >= answer->head + answer->body)
			return 0;
		ssize_t n = receive(fd, buffer, sizeof buffer, deadline_ms);
		if (n < 0)
			return fc_error_set(error, (int)-n, "read HTTP answer", NULL, NULL, NULL);
		if (n == 0)
			return malformed(error, "it ended early");
		fc_text_put(text, buffer, (size_t)n);
		if (text->failed)
			return fc_error_set(error, ENOMEM, "read HTTP answer", NULL, NULL, NULL);
	}
}

int fc_http_exchange(const struct sockaddr_in *server, const char *request, size_t body_max, uint64_t deadline_ms,
                     struct fc_text *body, struct fc_error *error) {
	_cleanup_close_ int fd = dial(server, deadline_ms);
	if (fd < 0)
		return fc_error_set(error, -fd, "connect", NULL, NULL, NULL);
	int r = send_all(fd, request, strlen(request), deadline_ms);
	if (r < 0)
		return fc_error_set(error, -r, "send HTTP request", NULL, NULL, NULL);
	struct fc_text text = {0};
	struct fc_http_answer answer;
	r = read_answer(fd, body_max, deadline_ms, &text, &answer, error);
	if (r == 0)
		fc_text_put(body, text.data + answer.head, answer.body);
	fc_text_clear(&text);
	return r < 0 ? r : answer.status;
}
