// SPDX-License-Identifier: Apache-2.0
/*
 * agent/output.h: what the container wrote, in the order in which it came, two streams in one ring.
 *
 * Offsets count the bytes of both streams since the start. Bytes from `held` on are unread and are never overwritten:
 * where they reach the limit, there is no room, the agent stops reading, and the container waits on its pipe. Bytes
 * before `held` are kept as long as there is space, for a reader that comes back.
 */
#ifndef FCVM_AGENT_OUTPUT_H
#define FCVM_AGENT_OUTPUT_H

#include <stddef.h>
#include <stdint.h>

enum {
	FC_OUTPUT_SIZE = 4 << 20,   /* bytes of the ring */
	FC_OUTPUT_UNREAD = 3 << 20, /* of them unread: at least 1 MiB is left for who comes back */
	FC_OUTPUT_SPANS = 1 << 15,  /* changes between the streams that the ring remembers */
};

struct fc_span {
	uint64_t start;
	uint8_t stream;
};

struct fc_output {
	unsigned char *data;
	struct fc_span *spans; /* a ring too: span_count of them from span_first on */
	size_t span_first, span_count;
	uint64_t begin, end; /* what is there */
	uint64_t held;       /* the first unread byte: begin <= held <= end */
};

int fc_output_open(struct fc_output *output);
void fc_output_close(struct fc_output *output);

/* How many bytes of `stream` can be appended now. */
size_t fc_output_room(const struct fc_output *output, uint8_t stream);

/* Appends at most fc_output_room() bytes. */
void fc_output_append(struct fc_output *output, uint8_t stream, const void *data, size_t size);

/*
 * Gives a piece of one stream that begins at `offset` (begin to end): at most `max` bytes at *ret_data, which lives
 * until the next append. Returns its size, 0 at the end.
 */
size_t fc_output_read(const struct fc_output *output, uint64_t offset, size_t max, uint8_t *ret_stream,
                      const unsigned char **ret_data);

/*
 * Says where the unread bytes begin from now on: `offset` is put into begin to end. A reader that starts anew further
 * back moves it back, and what it has not read is then kept for it.
 */
void fc_output_hold(struct fc_output *output, uint64_t offset);

#endif
