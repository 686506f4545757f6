// SPDX-License-Identifier: Apache-2.0
/* core/http/check.c: what may be put into a request, and what libcurl's results mean as errno. */
#include <errno.h>
#include <string.h>
#include <strings.h>

#include "http/http_internal.h"

/* The characters of a token (RFC 9110, 5.6.2), which methods and header names are. */
static int is_token_char(char c) {
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
	       (c != '\0' && strchr("!#$%&'*+-.^_`|~", c));
}

static size_t token_length(const char *text) {
	size_t n = 0;
	while (is_token_char(text[n]))
		n++;
	return n;
}

/* Whether the text has neither blanks nor control characters, so that it stays one word of the request line. */
static int is_one_word(const char *text) {
	for (; *text; text++) {
		if ((unsigned char)*text <= ' ' || *text == 0x7f)
			return 0;
	}
	return 1;
}

/* "Name: value" in one line: a line break in it would begin another header. */
static int is_header(const char *line) {
	size_t n = token_length(line);
	return n > 0 && line[n] == ':' && !strpbrk(line, "\r\n");
}

static int starts_with(const char *text, const char *start) {
	return strncasecmp(text, start, strlen(start)) == 0;
}

static int check_url(const struct fc_http_options *options, struct fc_error *error) {
	const char *url = options->url;
	int plain = starts_with(url, "http://");
	if (!is_one_word(url))
		return fc_error_set(error, EINVAL, "request", "URL", NULL, "it has blanks or control characters in it");
	if (!plain && !starts_with(url, "https://"))
		return fc_error_set(error, EPROTONOSUPPORT, "request", url, NULL,
		                    "a URL begins with http:// or https://");
	if (options->unix_path && !plain)
		return fc_error_set(error, EPROTONOSUPPORT, "request", url, NULL,
		                    "a Unix socket is spoken to by http://");
	return 0;
}

int fch_options_check(const struct fc_http_options *options, struct fc_error *error) {
	int r = check_url(options, error);
	if (r < 0)
		return r;
	if (options->method) {
		size_t n = token_length(options->method);
		if (n == 0 || n > 32 || options->method[n])
			return fc_error_set(error, EINVAL, "request", options->url, NULL, "the method is no word");
	}
	for (size_t i = 0; i < options->header_count; i++) {
		if (!is_header(options->headers[i]))
			return fc_error_set(error, EINVAL, "request", options->url, NULL,
			                    "header %zu is not one line of the form \"Name: value\"", i + 1);
	}
	if (options->timeout_ms < 1 || options->timeout_ms > FC_HTTP_TIMEOUT_MAX_MS)
		return fc_error_set(error, EINVAL, "request", options->url, NULL, "the timeout is not 1 ms to one day");
	return 0;
}

int fch_errno(CURLcode code, long os_errno) {
	switch (code) {
	case CURLE_COULDNT_CONNECT:
		return os_errno > 0 ? (int)os_errno : ECONNREFUSED;
	case CURLE_OPERATION_TIMEDOUT:
		return ETIMEDOUT;
	case CURLE_COULDNT_RESOLVE_HOST:
	case CURLE_COULDNT_RESOLVE_PROXY:
		return EHOSTUNREACH;
	case CURLE_GOT_NOTHING:
	case CURLE_PARTIAL_FILE:
	case CURLE_RECV_ERROR:
	case CURLE_SEND_ERROR:
		return os_errno > 0 ? (int)os_errno : ECONNRESET;
	case CURLE_FILESIZE_EXCEEDED:
		return EFBIG;
	case CURLE_UNSUPPORTED_PROTOCOL: /* our own schemes are checked: the answer is not HTTP, or a redirect to
	                                    another */
	case CURLE_WEIRD_SERVER_REPLY:
	case CURLE_SSL_CONNECT_ERROR:
		return EPROTO;
	case CURLE_PEER_FAILED_VERIFICATION:
		return EKEYREJECTED;
	case CURLE_TOO_MANY_REDIRECTS:
		return ELOOP;
	case CURLE_URL_MALFORMAT:
		return EINVAL;
	case CURLE_OUT_OF_MEMORY:
		return ENOMEM;
	default:
		return EIO;
	}
}
