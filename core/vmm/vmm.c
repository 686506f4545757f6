// SPDX-License-Identifier: Apache-2.0
#include "vmm/vmm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"

struct fc_vmm_call {
	struct fc_http *http;
	char what[128]; /* "PUT /machine-config", for errors */
};

static void free_guard(struct fc_vmm_call **call) {
	fc_vmm_call_free(*call);
}

void fc_vmm_call_free(struct fc_vmm_call *call) {
	if (!call)
		return;
	fc_http_free(call->http);
	free(call);
}

/* Puts the call in front of an error from below. */
static int wrap(const struct fc_vmm_call *call, struct fc_error *error) {
	char op[sizeof call->what + 16];
	snprintf(op, sizeof op, "Firecracker %s", call->what);
	return fc_error_wrap(error, op, NULL);
}

int fc_vmm_call_start(const char *socket, const char *method, const char *path, const void *json, size_t json_size,
                      int64_t timeout_ms, struct fc_vmm_call **ret_call, struct fc_error *error) {
	static const char *const headers[] = {"Accept: application/json", "Content-Type: application/json"};
	struct fc_error unused;
	error = error ? error : &unused;
	if (path[0] != '/')
		return fc_error_set(error, EINVAL, "call Firecracker", path, NULL, "a path of its API begins with /");
	__attribute__((cleanup(free_guard))) struct fc_vmm_call *call = calloc(1, sizeof *call);
	_cleanup_free_ char *url = NULL;
	if (!call || asprintf(&url, "http://localhost%s", path) < 0) {
		url = NULL;
		return fc_error_set(error, ENOMEM, "call Firecracker", path, NULL, NULL);
	}
	snprintf(call->what, sizeof call->what, "%s %s", method, path);
	struct fc_http_options options = {.url = url,
	                                  .unix_path = socket,
	                                  .method = method,
	                                  .headers = headers,
	                                  .header_count = json ? 2 : 1,
	                                  .body = json,
	                                  .body_size = json_size,
	                                  .timeout_ms = timeout_ms,
	                                  .max_body = FC_VMM_ANSWER_MAX};
	if (fc_http_start(&options, &call->http, error) < 0)
		return wrap(call, error);
	*ret_call = fc_steal_ptr(call);
	return 0;
}

int fc_vmm_call_fileno(const struct fc_vmm_call *call) {
	return fc_http_fileno(call->http);
}

static int status_errno(int status) {
	switch (status) {
	case 400:
		return EINVAL;
	case 404:
		return ENOENT;
	case 413:
		return EFBIG;
	default:
		return EIO;
	}
}

static int refuse(const struct fc_vmm_call *call, const struct fc_http_answer *answer, struct fc_error *error) {
	char text[sizeof error->message];
	int err = status_errno(answer->status);
	if (fc_vmm_fault_message(answer->body, answer->body_size, text, sizeof text) > 0)
		return fc_error_set(error, err, "Firecracker", call->what, NULL, "%s", text);
	return fc_error_set(error, err, "Firecracker", call->what, NULL, "it answered %d and did not say why",
	                    answer->status);
}

int fc_vmm_call_step(struct fc_vmm_call *call, struct fc_error *error) {
	struct fc_error unused;
	error = error ? error : &unused;
	int r = fc_http_step(call->http, error);
	if (r < 0)
		return wrap(call, error);
	if (r == 0)
		return 0;
	struct fc_http_answer answer = fc_http_answer(call->http);
	if (answer.status < 200 || answer.status > 299)
		return refuse(call, &answer, error);
	return 1;
}

struct fc_http_answer fc_vmm_call_answer(const struct fc_vmm_call *call) {
	return fc_http_answer(call->http);
}
