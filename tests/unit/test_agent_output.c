// SPDX-License-Identifier: Apache-2.0
/* The ring of the container's output: order, offsets, what is kept, and that nothing unread is ever lost. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "output.h"

static int open_ring(void **state) {
	static struct fc_output output;
	*state = &output;
	return fc_output_open(&output);
}

static int close_ring(void **state) {
	fc_output_close(*state);
	return 0;
}

static void put(struct fc_output *output, uint8_t stream, const char *text) {
	assert_true(fc_output_room(output, stream) >= strlen(text));
	fc_output_append(output, stream, text, strlen(text));
}

static void expect(struct fc_output *output, uint64_t offset, uint8_t stream, const char *text) {
	uint8_t got;
	const unsigned char *data;
	size_t size = fc_output_read(output, offset, 1000, &got, &data);
	assert_int_equal(size, strlen(text));
	assert_int_equal(got, stream);
	assert_memory_equal(data, text, size);
}

static void streams_keep_their_order(void **state) {
	struct fc_output *output = *state;
	put(output, 1, "ab");
	put(output, 1, "cd");
	put(output, 2, "E");
	put(output, 1, "fg");
	expect(output, 0, 1, "abcd");
	expect(output, 3, 1, "d");
	expect(output, 4, 2, "E");
	expect(output, 5, 1, "fg");
	uint8_t stream;
	const unsigned char *data;
	assert_int_equal(fc_output_read(output, 7, 1, &stream, &data), 0);
}

/* A ring's worth of known bytes, as they are at each offset. */
static void fill(struct fc_output *output, size_t size) {
	unsigned char block[4096];
	while (size > 0) {
		size_t part = size < sizeof block ? size : sizeof block;
		for (size_t i = 0; i < part; i++)
			block[i] = (unsigned char)((output->end + i) * 7 >> 3);
		assert_true(fc_output_room(output, 1) >= part);
		fc_output_append(output, 1, block, part);
		size -= part;
	}
}

static void unread_bytes_stop_the_writer(void **state) {
	struct fc_output *output = *state;
	fill(output, FC_OUTPUT_UNREAD);
	assert_int_equal(fc_output_room(output, 1), 0);
	assert_int_equal(fc_output_room(output, 2), 0);
	assert_int_equal(output->begin, 0);
	fc_output_hold(output, 100);
	assert_int_equal(fc_output_room(output, 1), 100);
}

static void read_bytes_are_kept_while_there_is_space(void **state) {
	struct fc_output *output = *state;
	fill(output, FC_OUTPUT_UNREAD);
	fc_output_hold(output, output->end);
	fill(output, FC_OUTPUT_UNREAD);
	assert_int_equal(output->end - output->begin, FC_OUTPUT_SIZE);
	/* The unread ones and at least one MiB before them. */
	assert_true(output->held - output->begin >= (FC_OUTPUT_SIZE - FC_OUTPUT_UNREAD));
	for (uint64_t offset = output->begin; offset < output->end;) {
		uint8_t stream;
		const unsigned char *data;
		size_t size = fc_output_read(output, offset, 65536, &stream, &data);
		assert_true(size > 0);
		for (size_t i = 0; i < size; i++)
			assert_int_equal(data[i], (unsigned char)((offset + i) * 7 >> 3));
		offset += size;
	}
	uint8_t stream;
	const unsigned char *data;
	assert_int_equal(fc_output_read(output, output->begin - 1, 1, &stream, &data), 0);
}

static void a_reader_further_back_is_waited_for(void **state) {
	struct fc_output *output = *state;
	fill(output, 1 << 20);
	fc_output_hold(output, 1 << 20);
	fill(output, FC_OUTPUT_UNREAD);
	/* Comes back to what is still there: the writer waits until it has it. */
	fc_output_hold(output, 0);
	assert_int_equal(output->held, 0);
	assert_int_equal(fc_output_room(output, 1), 0);
	fc_output_hold(output, UINT64_MAX);
	assert_int_equal(output->held, output->end);
}

static void changes_between_streams_are_bounded(void **state) {
	struct fc_output *output = *state;
	size_t written = 0;
	while (fc_output_room(output, (uint8_t)(written % 2 + 1)) > 0) {
		fc_output_append(output, (uint8_t)(written % 2 + 1), "x", 1);
		written++;
	}
	assert_int_equal(written, FC_OUTPUT_SPANS);
	/* The stream that wrote last may go on, the other one waits. */
	assert_true(fc_output_room(output, (uint8_t)((written - 1) % 2 + 1)) > 0);
	fc_output_hold(output, 1);
	assert_true(fc_output_room(output, (uint8_t)(written % 2 + 1)) > 0);
	fc_output_append(output, (uint8_t)(written % 2 + 1), "y", 1);
	assert_int_equal(output->begin, 1);
	expect(output, output->end - 1, (uint8_t)(written % 2 + 1), "y");
	expect(output, 1, 2, "x");
}

int main(void) {
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test_setup_teardown(streams_keep_their_order, open_ring, close_ring),
	        cmocka_unit_test_setup_teardown(unread_bytes_stop_the_writer, open_ring, close_ring),
	        cmocka_unit_test_setup_teardown(read_bytes_are_kept_while_there_is_space, open_ring, close_ring),
	        cmocka_unit_test_setup_teardown(a_reader_further_back_is_waited_for, open_ring, close_ring),
	        cmocka_unit_test_setup_teardown(changes_between_streams_are_bounded, open_ring, close_ring),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
