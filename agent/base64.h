// SPDX-License-Identifier: Apache-2.0
/* agent/base64.h: bytes out of the host's JSON (RFC 4648, section 4, padded). */
#ifndef FCVM_AGENT_BASE64_H
#define FCVM_AGENT_BASE64_H

#include <stddef.h>
#include <sys/types.h>

/*
 * Reads `text` to its NUL, strictly: no white space, the padding whole, the bits that it leaves over zero. `data` has
 * room for `max` bytes. Returns the bytes written, -EINVAL, or -EMSGSIZE where they are more.
 */
ssize_t fc_base64_decode(const char *text, unsigned char *data, size_t max);

#endif
