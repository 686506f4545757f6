// SPDX-License-Identifier: Apache-2.0
#include "output.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int fc_output_open(struct fc_output *output) {
	memset(output, 0, sizeof *output);
	/* Pages are the kernel's to give as they are first written: a quiet container costs nothing. */
	output->data = malloc(FC_OUTPUT_SIZE);
	output->spans = malloc(FC_OUTPUT_SPANS * sizeof *output->spans);
	if (output->data && output->spans)
		return 0;
	fc_output_close(output);
	return -ENOMEM;
}

void fc_output_close(struct fc_output *output) {
	free(output->data);
	free(output->spans);
	memset(output, 0, sizeof *output);
}

static struct fc_span *span(const struct fc_output *output, size_t i) {
	return &output->spans[(output->span_first + i) % FC_OUTPUT_SPANS];
}

/* The end of the i-th span. */
static uint64_t span_end(const struct fc_output *output, size_t i) {
	return i + 1 < output->span_count ? span(output, i + 1)->start : output->end;
}

static int needs_span(const struct fc_output *output, uint8_t stream) {
	return output->span_count == 0 || span(output, output->span_count - 1)->stream != stream;
}

size_t fc_output_room(const struct fc_output *output, uint8_t stream) {
	if (needs_span(output, stream) && output->span_count == FC_OUTPUT_SPANS && span_end(output, 0) > output->held)
		return 0;
	uint64_t unread = output->end - output->held;
	return unread < FC_OUTPUT_UNREAD ? (size_t)(FC_OUTPUT_UNREAD - unread) : 0;
}

static void drop_span(struct fc_output *output) {
	output->span_first = (output->span_first + 1) % FC_OUTPUT_SPANS;
	output->span_count--;
}

/* Forgets what lies before `offset`. */
static void drop_before(struct fc_output *output, uint64_t offset) {
	output->begin = offset;
	while (output->span_count > 1 && span_end(output, 0) <= offset)
		drop_span(output);
}

static void begin_span(struct fc_output *output, uint8_t stream) {
	if (output->span_count == FC_OUTPUT_SPANS) {
		if (output->begin < span_end(output, 0))
			output->begin = span_end(output, 0);
		drop_span(output);
	}
	*span(output, output->span_count) = (struct fc_span){.start = output->end, .stream = stream};
	output->span_count++;
}

void fc_output_append(struct fc_output *output, uint8_t stream, const void *data, size_t size) {
	if (size == 0)
		return;
	if (needs_span(output, stream))
		begin_span(output, stream);
	size_t at = (size_t)(output->end % FC_OUTPUT_SIZE);
	size_t first = size < FC_OUTPUT_SIZE - at ? size : FC_OUTPUT_SIZE - at;
	memcpy(output->data + at, data, first);
	memcpy(output->data, (const unsigned char *)data + first, size - first);
	output->end += size;
	if (output->end - output->begin > FC_OUTPUT_SIZE)
		drop_before(output, output->end - FC_OUTPUT_SIZE);
}

/* The span that holds `offset`, by halving. */
static size_t find(const struct fc_output *output, uint64_t offset) {
	size_t low = 0;
	size_t high = output->span_count;
	while (high - low > 1) {
		size_t middle = low + (high - low) / 2;
		if (span(output, middle)->start <= offset)
			low = middle;
		else
			high = middle;
	}
	return low;
}

size_t fc_output_read(const struct fc_output *output, uint64_t offset, size_t max, uint8_t *ret_stream,
                      const unsigned char **ret_data) {
	if (offset < output->begin || offset >= output->end)
		return 0;
	size_t i = find(output, offset);
	size_t at = (size_t)(offset % FC_OUTPUT_SIZE);
	uint64_t size = span_end(output, i) - offset;
	if (size > FC_OUTPUT_SIZE - at)
		size = FC_OUTPUT_SIZE - at;
	if (size > max)
		size = max;
	*ret_stream = span(output, i)->stream;
	*ret_data = output->data + at;
	return (size_t)size;
}

void fc_output_hold(struct fc_output *output, uint64_t offset) {
	if (offset < output->begin)
		offset = output->begin;
	output->held = offset < output->end ? offset : output->end;
}
