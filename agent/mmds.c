// SPDX-License-Identifier: Apache-2.0
#include "mmds.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

#include "clock.h"
#include "guest/protocol.h"
#include "http.h"

enum { TOKEN_MAX = 256, TRY_MS = 2000, PAUSE_MS = 20 };

static const struct sockaddr_in *service(struct sockaddr_in *address) {
	*address = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(80)};
	inet_pton(AF_INET, "169.254.169.254", &address->sin_addr);
	return address;
}

static int refused(struct fc_error *error, const char *what, int status) {
	return fc_error_set(error, status == 404 ? ENOENT : EPROTO, what, "MMDS", NULL, "it answered %d", status);
}

static bool is_token(const struct fc_text *token) {
	if (token->size == 0 || token->size > TOKEN_MAX || token->failed)
		return false;
	for (size_t i = 0; i < token->size; i++)
		if (token->data[i] <= ' ' || token->data[i] == 0x7f)
			return false;
	return true;
}

static int get_token(uint64_t deadline_ms, struct fc_text *token, struct fc_error *error) {
	struct sockaddr_in address;
	int status = fc_http_exchange(service(&address),
	                              "PUT /latest/api/token HTTP/1.1\r\nHost: 169.254.169.254\r\n"
	                              "X-metadata-token-ttl-seconds: 60\r\nContent-Length: 0\r\n\r\n",
	                              TOKEN_MAX, deadline_ms, token, error);
	if (status < 0)
		return status;
	if (status != 200)
		return refused(error, "get token", status);
	if (!is_token(token))
		return fc_error_set(error, EPROTO, "get token", "MMDS", NULL, "its token makes no sense");
	return 0;
}

static int get_plan(uint64_t deadline_ms, struct fc_text *plan, struct fc_error *error) {
	struct fc_text token = {0};
	struct fc_text request = {0};
	struct sockaddr_in address;
	int r = get_token(deadline_ms, &token, error);
	if (r == 0) {
		fc_text_putf(&request,
		             "GET /plan HTTP/1.1\r\nHost: 169.254.169.254\r\nAccept: application/json\r\n"
		             "X-metadata-token: %s\r\n\r\n",
		             token.data);
		r = request.failed ? fc_error_set(error, ENOMEM, "get plan", "MMDS", NULL, NULL)
		                   : fc_http_exchange(service(&address), request.data, FC_GUEST_PLAN_MAX, deadline_ms,
		                                      plan, error);
		if (r >= 0)
			r = r == 200 ? 0 : refused(error, "get plan", r);
	}
	fc_text_clear(&token);
	fc_text_clear(&request);
	return r;
}

int fc_mmds_read_plan(unsigned seconds, struct fc_text *plan, struct fc_error *error) {
	uint64_t deadline = fc_clock_ms() + seconds * 1000u;
	for (;;) {
		uint64_t now = fc_clock_ms();
		fc_text_clear(plan);
		int r = get_plan(now + TRY_MS < deadline ? now + TRY_MS : deadline, plan, error);
		if (r == 0 && plan->failed)
			r = fc_error_set(error, ENOMEM, "get plan", "MMDS", NULL, NULL);
		if (r == 0 || fc_clock_ms() + PAUSE_MS >= deadline)
			return r;
		struct timespec pause = {.tv_nsec = PAUSE_MS * 1000000};
		nanosleep(&pause, NULL);
	}
}
