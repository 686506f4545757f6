// SPDX-License-Identifier: Apache-2.0
/*
 * core/vmm/vmm.h: calls of Firecracker's API: a method, a path and JSON over its Unix socket.
 *
 * Facts (Firecracker's swagger, src/firecracker/swagger/firecracker.yaml, and asked of 1.12.1): success is 200 with
 * JSON or 204 without a body; every failure is a JSON object whose "fault_message" says why, with status 400, also for
 * an unknown path. What its HTTP layer refuses, such as a body above --http-api-max-payload-size, has "error" in its
 * place. docs/core-vmm.md says more.
 */
#ifndef FCVM_VMM_VMM_H
#define FCVM_VMM_VMM_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "http/http.h"

/* Firecracker's answers are small; what is longer does not come from it. */
#define FC_VMM_ANSWER_MAX ((size_t)1 << 20)

/* A call under way. One thread at a time. */
struct fc_vmm_call;

/*
 * Begins a call of `method` on `path` ("/machine-config") over the API socket at `socket`, of any length. `json` is the
 * body of `json_size` bytes or NULL; timeout_ms as in core/http. Copies what it needs; the caller frees *ret_call.
 * EINVAL: the method or the path is malformed. Else as fc_http_start.
 */
int fc_vmm_call_start(const char *socket, const char *method, const char *path, const void *json, size_t json_size,
                      int64_t timeout_ms, struct fc_vmm_call **ret_call, struct fc_error *error);

/* The descriptor that is readable when fc_vmm_call_step has something to do. Borrowed. */
int fc_vmm_call_fileno(const struct fc_vmm_call *call);

/*
 * Goes on without waiting: 0 while under way, 1 when Firecracker has done it (2xx), or -errno. The end repeats itself.
 * A refusal is EINVAL (400), ENOENT (404), EFBIG (413), else EIO, and its message is
 * Firecracker's own; what else may fail is as of fc_http_step, with the call's method and path in front.
 */
int fc_vmm_call_step(struct fc_vmm_call *call, struct fc_error *error);

/* The answer, once fc_vmm_call_step has returned 1. It belongs to the call. */
struct fc_http_answer fc_vmm_call_answer(const struct fc_vmm_call *call);

/* Ends the call, wherever it is; Firecracker may carry it out nonetheless. NULL is fine. */
void fc_vmm_call_free(struct fc_vmm_call *call);

/*
 * Takes the fault_message (or, where there is none, the error) out of an error's body and writes it as one line of
 * printable text: blanks and control characters become single spaces, what does not fit is cut between characters and
 * ends in "...". Returns its length in bytes; 0 (and an empty text) where there is none. `size` is at least 1.
 */
size_t fc_vmm_fault_message(const char *body, size_t body_size, char *text, size_t size);

#endif
