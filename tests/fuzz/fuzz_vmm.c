// SPDX-License-Identifier: Apache-2.0
/*
 * tests/fuzz/fuzz_vmm.c: the reader of Firecracker's error bodies, which come from a process that a guest may have
 * taken over. The first byte is the size of the buffer, the rest the body. Whatever comes in, one printable line goes
 * out.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/vmm.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
	if (size == 0)
		return 0;
	size_t room = (size_t)data[0] + 1;
	/* Buffers of exactly the size, so that the sanitizer sees a byte too many. */
	char *body = malloc(size > 1 ? size - 1 : 1);
	char *text = malloc(room);
	if (!body || !text)
		abort();
	memcpy(body, data + 1, size - 1);
	size_t length = fc_vmm_fault_message(body, size - 1, text, room);
	if (length >= room || strlen(text) != length)
		abort();
	for (size_t i = 0; i < length; i++) {
		if ((unsigned char)text[i] < ' ' || text[i] == 0x7f)
			abort();
	}
	free(text);
	free(body);
	return 0;
}
