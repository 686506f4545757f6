// SPDX-License-Identifier: Apache-2.0
/*
 * Frames: the input as a peer's bytes, cut by its own first byte, gives the same frames as in one piece; a broken
 * stream stays broken; no payload is over the limit.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "guest/frames.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Sums what came, so that two ways of feeding can be compared. */
static uint64_t drain(struct fc_decoder *decoder, uint64_t sum, int *ret_broken) {
	struct fc_frame frame;
	struct fc_error error;
	int r;
	while ((r = fc_decoder_next(decoder, &frame, &error)) > 0) {
		if (frame.size > FC_GUEST_PAYLOAD_MAX)
			abort();
		if (frame.type == FC_GUEST_HELLO)
			fc_hello_check(frame.payload, frame.size, &error);
		sum = sum * 31 + frame.type + frame.stream * 7u + frame.size;
		for (uint32_t i = 0; i < frame.size; i++)
			sum = sum * 31 + frame.payload[i];
	}
	*ret_broken = r < 0;
	return sum;
}

static uint64_t feed(const uint8_t *data, size_t size, size_t step) {
	struct fc_decoder decoder = {0};
	struct fc_error error;
	uint64_t sum = 0;
	int broken = 0;
	for (size_t at = 0; at < size && !broken; at += step) {
		size_t part = size - at < step ? size - at : step;
		if (fc_decoder_feed(&decoder, data + at, part, &error) < 0)
			abort();
		sum = drain(&decoder, sum, &broken);
	}
	struct fc_frame frame;
	if (broken && fc_decoder_next(&decoder, &frame, &error) >= 0)
		abort();
	fc_decoder_clear(&decoder);
	return sum * 2 + (uint64_t)broken;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
	if (size < 2 || size > FC_DECODER_FEED_MAX)
		return 0;
	size_t step = (size_t)data[0] + 1;
	if (feed(data + 1, size - 1, step) != feed(data + 1, size - 1, size))
		abort();
	return 0;
}
