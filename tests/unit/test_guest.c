// SPDX-License-Identifier: Apache-2.0
/* Frames and greetings: whole, in pieces, and such as no peer of the protocol sends. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "guest/frames.h"

static size_t frame_into(unsigned char *to, uint8_t type, uint8_t stream, const void *payload, uint32_t size) {
	fc_frame_header(to, type, stream, size);
	memcpy(to + FC_GUEST_HEADER_SIZE, payload, size);
	return FC_GUEST_HEADER_SIZE + size;
}

static void header_has_its_bytes(void **state) {
	(void)state;
	unsigned char header[FC_GUEST_HEADER_SIZE];
	static const unsigned char wanted[] = {0x34, 0x12, 0, 0, FC_GUEST_OUTPUT, 2, 0, 0};
	fc_frame_header(header, FC_GUEST_OUTPUT, 2, 0x1234);
	assert_memory_equal(header, wanted, sizeof wanted);
}

static void frames_come_out_as_they_went_in(void **state) {
	(void)state;
	unsigned char bytes[256];
	size_t size = frame_into(bytes, FC_GUEST_OUTPUT, 1, "one", 3);
	size += frame_into(bytes + size, FC_GUEST_STATUS, 0, "", 0);
	size += frame_into(bytes + size, FC_GUEST_OUTPUT, 2, "three", 5);
	/* Cut anywhere: the frames are the same. */
	for (size_t cut = 0; cut <= size; cut++) {
		struct fc_decoder decoder = {0};
		struct fc_frame frame;
		char seen[64] = "";
		for (int part = 0; part < 2; part++) {
			const unsigned char *at = part ? bytes + cut : bytes;
			assert_int_equal(fc_decoder_feed(&decoder, at, part ? size - cut : cut, NULL), 0);
			while (fc_decoder_next(&decoder, &frame, NULL) == 1) {
				strncat(seen, fc_frame_name(frame.type), 10);
				strncat(seen, (const char *)frame.payload, frame.size);
			}
		}
		assert_string_equal(seen, "OUTPUToneSTATUSOUTPUTthree");
		fc_decoder_clear(&decoder);
	}
}

static void a_byte_at_a_time(void **state) {
	(void)state;
	unsigned char bytes[64];
	size_t size = frame_into(bytes, FC_GUEST_STDIN, 0, "abc", 3);
	struct fc_decoder decoder = {0};
	struct fc_frame frame;
	for (size_t i = 0; i < size; i++) {
		assert_int_equal(fc_decoder_next(&decoder, &frame, NULL), 0);
		assert_int_equal(fc_decoder_feed(&decoder, bytes + i, 1, NULL), 0);
	}
	assert_int_equal(fc_decoder_next(&decoder, &frame, NULL), 1);
	assert_int_equal(frame.size, 3);
	assert_memory_equal(frame.payload, "abc", 3);
	fc_decoder_clear(&decoder);
}

static void largest_payload(void **state) {
	(void)state;
	unsigned char *bytes = malloc(FC_GUEST_HEADER_SIZE + FC_GUEST_PAYLOAD_MAX);
	assert_non_null(bytes);
	memset(bytes, 'x', FC_GUEST_HEADER_SIZE + FC_GUEST_PAYLOAD_MAX);
	fc_frame_header(bytes, FC_GUEST_OUTPUT, 1, FC_GUEST_PAYLOAD_MAX);
	struct fc_decoder decoder = {0};
	struct fc_frame frame;
	assert_int_equal(fc_decoder_feed(&decoder, bytes, FC_GUEST_HEADER_SIZE + FC_GUEST_PAYLOAD_MAX, NULL), 0);
	assert_int_equal(fc_decoder_next(&decoder, &frame, NULL), 1);
	assert_int_equal(frame.size, FC_GUEST_PAYLOAD_MAX);
	fc_decoder_clear(&decoder);
	free(bytes);
}

static void expect_broken(const unsigned char header[FC_GUEST_HEADER_SIZE], const char *why) {
	struct fc_decoder decoder = {0};
	struct fc_frame frame;
	struct fc_error error;
	assert_int_equal(fc_decoder_feed(&decoder, header, FC_GUEST_HEADER_SIZE, NULL), 0);
	assert_int_equal(fc_decoder_next(&decoder, &frame, &error), -EPROTO);
	assert_non_null(strstr(error.message, why));
	/* It stays broken, whatever comes. */
	assert_int_equal(fc_decoder_next(&decoder, &frame, &error), -EPROTO);
	assert_int_equal(fc_decoder_feed(&decoder, "x", 1, &error), -EPROTO);
	fc_decoder_clear(&decoder);
}

static void bad_headers_break_the_stream(void **state) {
	(void)state;
	unsigned char header[FC_GUEST_HEADER_SIZE];
	fc_frame_header(header, FC_GUEST_STATUS, 0, FC_GUEST_PAYLOAD_MAX + 1);
	expect_broken(header, "over the limit");
	fc_frame_header(header, FC_GUEST_STATUS, 0, 0xffffffff);
	expect_broken(header, "over the limit");
	fc_frame_header(header, FC_GUEST_STATUS, 0, 0);
	header[6] = 1;
	expect_broken(header, "not zero");
	fc_frame_header(header, FC_GUEST_STATUS, 1, 0);
	expect_broken(header, "has no stream");
	fc_frame_header(header, FC_GUEST_OUTPUT, 0, 0);
	expect_broken(header, "has no stream");
	fc_frame_header(header, FC_GUEST_OUTPUT, 3, 0);
	expect_broken(header, "has no stream");
}

static void feeding_is_bounded(void **state) {
	(void)state;
	struct fc_decoder decoder = {0};
	char *much = calloc(1, FC_DECODER_FEED_MAX + 1);
	assert_non_null(much);
	assert_int_equal(fc_decoder_feed(&decoder, much, FC_DECODER_FEED_MAX + 1, NULL), -ENOBUFS);
	assert_int_equal(fc_decoder_feed(&decoder, much, FC_DECODER_FEED_MAX, NULL), 0);
	assert_int_equal(fc_decoder_feed(&decoder, much, 1, NULL), -ENOBUFS);
	fc_decoder_clear(&decoder);
	free(much);
}

static void unknown_types_are_the_readers(void **state) {
	(void)state;
	unsigned char header[FC_GUEST_HEADER_SIZE];
	struct fc_decoder decoder = {0};
	struct fc_frame frame;
	fc_frame_header(header, 0x7f, 0, 0);
	assert_int_equal(fc_decoder_feed(&decoder, header, sizeof header, NULL), 0);
	assert_int_equal(fc_decoder_next(&decoder, &frame, NULL), 1);
	assert_int_equal(frame.type, 0x7f);
	assert_null(fc_frame_name(frame.type));
	fc_decoder_clear(&decoder);
}

static void hello_is_understood(void **state) {
	(void)state;
	unsigned char hello[FC_GUEST_HELLO_SIZE];
	fc_hello_write(hello);
	assert_int_equal(fc_hello_check(hello, sizeof hello, NULL), FC_GUEST_VERSION);
	/* A newer peer that still speaks this version. */
	assert_int_equal(fc_hello_check("FCVM\x09\0\x01\0 and more", 17, NULL), FC_GUEST_VERSION);
}

static void hello_that_does_not_fit(void **state) {
	(void)state;
	struct fc_error error;
	assert_int_equal(fc_hello_check("FCVM\x09\0\x02\0", 8, &error), -EPROTONOSUPPORT);
	assert_non_null(strstr(error.message, "2 to 9"));
	assert_int_equal(fc_hello_check("HTTP/1.1", 8, &error), -EPROTO);
	assert_int_equal(fc_hello_check("FCVM\x01\0\x01", 7, &error), -EPROTO);
	assert_int_equal(fc_hello_check("FCVM\x01\0\x02\0", 8, &error), -EPROTO);
	assert_int_equal(fc_hello_check("FCVM\0\0\0\0", 8, &error), -EPROTO);
	assert_int_equal(fc_hello_check("", 0, &error), -EPROTO);
}

int main(void) {
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(header_has_its_bytes),
	        cmocka_unit_test(frames_come_out_as_they_went_in),
	        cmocka_unit_test(a_byte_at_a_time),
	        cmocka_unit_test(largest_payload),
	        cmocka_unit_test(bad_headers_break_the_stream),
	        cmocka_unit_test(feeding_is_bounded),
	        cmocka_unit_test(unknown_types_are_the_readers),
	        cmocka_unit_test(hello_is_understood),
	        cmocka_unit_test(hello_that_does_not_fit),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
