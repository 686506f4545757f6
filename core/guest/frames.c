// SPDX-License-Identifier: Apache-2.0
#include "guest/frames.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void put16(unsigned char *to, unsigned value) {
	to[0] = (unsigned char)(value & 0xff);
	to[1] = (unsigned char)(value >> 8 & 0xff);
}

static unsigned get16(const unsigned char *from) {
	return (unsigned)from[0] | (unsigned)from[1] << 8;
}

static uint32_t get32(const unsigned char *from) {
	return (uint32_t)get16(from) | (uint32_t)get16(from + 2) << 16;
}

void fc_frame_header(unsigned char header[FC_GUEST_HEADER_SIZE], uint8_t type, uint8_t stream, uint32_t size) {
	put16(header, size & 0xffff);
	put16(header + 2, size >> 16);
	header[4] = type;
	header[5] = stream;
	put16(header + 6, 0);
}

const char *fc_frame_name(uint8_t type) {
	switch (type) {
#define FC_GUEST_CASE(name, number)                                                                                    \
	case (number):                                                                                                 \
		return #name;
		FC_GUEST_TYPES(FC_GUEST_CASE)
#undef FC_GUEST_CASE
	default:
		return NULL;
	}
}

void fc_decoder_clear(struct fc_decoder *decoder) {
	free(decoder->data);
	memset(decoder, 0, sizeof *decoder);
}

int fc_decoder_feed(struct fc_decoder *decoder, const void *data, size_t size, struct fc_error *error) {
	if (decoder->broken)
		return fc_error_set(error, EPROTO, "read frame", NULL, NULL,
		                    "the stream is broken since an earlier frame");
	if (size > FC_DECODER_FEED_MAX)
		return fc_error_set(error, ENOBUFS, "read frame", NULL, NULL, "%zu bytes at once are too many", size);
	size_t held = decoder->end - decoder->begin;
	if (held && decoder->begin)
		memmove(decoder->data, decoder->data + decoder->begin, held);
	decoder->begin = 0;
	decoder->end = held;
	if (held > FC_GUEST_HEADER_SIZE + FC_GUEST_PAYLOAD_MAX)
		return fc_error_set(error, ENOBUFS, "read frame", NULL, NULL, "%zu bytes wait to be taken", held);
	if (held + size > decoder->room) {
		unsigned char *grown = realloc(decoder->data, held + size);
		if (!grown)
			return fc_error_set(error, ENOMEM, "read frame", NULL, NULL, NULL);
		decoder->data = grown;
		decoder->room = held + size;
	}
	if (size)
		memcpy(decoder->data + held, data, size);
	decoder->end = held + size;
	return 0;
}

static int check_header(const unsigned char *header, struct fc_error *error) {
	uint32_t size = get32(header);
	if (size > FC_GUEST_PAYLOAD_MAX)
		return fc_error_set(error, EPROTO, "read frame", NULL, NULL,
		                    "a payload of %u bytes is over the limit of %d", size, FC_GUEST_PAYLOAD_MAX);
	if (get16(header + 6) != 0)
		return fc_error_set(error, EPROTO, "read frame", NULL, NULL,
		                    "the header's last two bytes are not zero");
	bool output = header[4] == FC_GUEST_OUTPUT;
	if (output ? header[5] != 1 && header[5] != 2 : header[5] != 0)
		return fc_error_set(error, EPROTO, "read frame", NULL, NULL, "type 0x%02x has no stream %u", header[4],
		                    header[5]);
	return 0;
}

int fc_decoder_next(struct fc_decoder *decoder, struct fc_frame *ret_frame, struct fc_error *error) {
	if (decoder->broken)
		return fc_error_set(error, EPROTO, "read frame", NULL, NULL,
		                    "the stream is broken since an earlier frame");
	size_t held = decoder->end - decoder->begin;
	if (held < FC_GUEST_HEADER_SIZE)
		return 0;
	const unsigned char *header = decoder->data + decoder->begin;
	int r = check_header(header, error);
	if (r < 0) {
		decoder->broken = true;
		return r;
	}
	uint32_t size = get32(header);
	if (held - FC_GUEST_HEADER_SIZE < size)
		return 0;
	*ret_frame = (struct fc_frame){
	        .type = header[4], .stream = header[5], .size = size, .payload = header + FC_GUEST_HEADER_SIZE};
	decoder->begin += FC_GUEST_HEADER_SIZE + size;
	return 1;
}

void fc_hello_write(unsigned char payload[FC_GUEST_HELLO_SIZE]) {
	memcpy(payload, FC_GUEST_MAGIC, 4);
	put16(payload + 4, FC_GUEST_VERSION);
	put16(payload + 6, FC_GUEST_VERSION_LEAST);
}

int fc_hello_check(const void *payload, size_t size, struct fc_error *error) {
	const unsigned char *bytes = payload;
	/* Later versions may say more after these bytes. */
	if (size < FC_GUEST_HELLO_SIZE || memcmp(bytes, FC_GUEST_MAGIC, 4) != 0)
		return fc_error_set(error, EPROTO, "greet", NULL, NULL, "the peer does not speak this protocol");
	unsigned newest = get16(bytes + 4);
	unsigned least = get16(bytes + 6);
	if (newest == 0 || least == 0 || least > newest)
		return fc_error_set(error, EPROTO, "greet", NULL, NULL, "the peer speaks versions %u to %u", least,
		                    newest);
	unsigned version = newest < FC_GUEST_VERSION ? newest : FC_GUEST_VERSION;
	if (version < FC_GUEST_VERSION_LEAST || version < least)
		return fc_error_set(error, EPROTONOSUPPORT, "greet", NULL, "fcvm setup makes an agent that matches",
		                    "the peer speaks versions %u to %u, this side %d to %d", least, newest,
		                    FC_GUEST_VERSION_LEAST, FC_GUEST_VERSION);
	return (int)version;
}
