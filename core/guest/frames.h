// SPDX-License-Identifier: Apache-2.0
/*
 * core/guest/frames.h: frames of core/guest/protocol.h out of bytes and back. Neither allocates without a bound nor
 * trusts a length: a peer may send anything, in pieces of any size. No descriptor is touched here. Any thread.
 */
#ifndef FCVM_GUEST_FRAMES_H
#define FCVM_GUEST_FRAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "guest/protocol.h"

struct fc_frame {
	uint8_t type; /* any value: who reads decides what an unknown one means */
	uint8_t stream;
	uint32_t size;
	const unsigned char *payload; /* of `size` bytes; borrowed from the decoder until it is fed again */
};

/* Writes the header of a frame with `size` (at most FC_GUEST_PAYLOAD_MAX) bytes of payload to `header`. */
void fc_frame_header(unsigned char header[FC_GUEST_HEADER_SIZE], uint8_t type, uint8_t stream, uint32_t size);

/* The name of a type ("HELLO"), or NULL for a number that has none. */
const char *fc_frame_name(uint8_t type);

struct fc_decoder {
	unsigned char *data; /* grows to at most one frame and one feed */
	size_t room, begin, end;
	bool broken;
};

/* A decoder starts as zeroes; what it holds is freed by this, and it may be used anew. */
void fc_decoder_clear(struct fc_decoder *decoder);

/*
 * Takes `size` bytes as they came. At most FC_DECODER_FEED_MAX at once, and all frames must be taken out
 * (fc_decoder_next gives 0) before more is fed. Frames got before are invalid after it. Returns 0 or -ENOMEM, -EPROTO
 * (broken before) or -ENOBUFS (too much was fed).
 */
enum { FC_DECODER_FEED_MAX = 1 << 20 };
int fc_decoder_feed(struct fc_decoder *decoder, const void *data, size_t size, struct fc_error *error);

/*
 * Gives the next whole frame. Returns 1 with *ret_frame filled, 0 where more bytes are needed, or -EPROTO for a header
 * that no peer of this protocol sends: the decoder then stays broken, since the place of the next frame is unknown.
 */
int fc_decoder_next(struct fc_decoder *decoder, struct fc_frame *ret_frame, struct fc_error *error);

/* Writes the payload of this side's HELLO. */
void fc_hello_write(unsigned char payload[FC_GUEST_HELLO_SIZE]);

/*
 * Checks the peer's HELLO. Returns the version to speak, the newest that both know, or -EPROTO where it is no HELLO of
 * this protocol and -EPROTONOSUPPORT where the two have no version in common.
 */
int fc_hello_check(const void *payload, size_t size, struct fc_error *error);

#endif
