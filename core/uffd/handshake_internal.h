// SPDX-License-Identifier: Apache-2.0
/*
 * core/uffd/handshake_internal.h: the first message of a VM's monitor.
 *
 * Firecracker (since 1.0; page_size since 1.11) connects, sends one message with a JSON array of its memory regions and
 * its userfaultfd beside it by SCM_RIGHTS, keeps the connection open for as long as it lives, and never sends again:
 *   [{"base_host_virt_addr":140000000000,"size":268435456,"offset":0,"page_size":4096,"page_size_kib":4096}]
 * Older ones send page_size_kib alone; it is in bytes there too, in spite of its name.
 */
#ifndef FCVM_UFFD_HANDSHAKE_INTERNAL_H
#define FCVM_UFFD_HANDSHAKE_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "uffd/region_internal.h"

enum { FCU_HANDSHAKE_BYTES = 64 << 10 };

/* One in progress. Begins as {.uffd = -1}. */
struct fcu_handshake {
	char *text; /* FCU_HANDSHAKE_BYTES; NULL before the first receive */
	size_t used;
	int uffd;     /* the descriptor that came, or -1 */
	bool depends; /* among what came was a userfaultfd: the peer freezes if nobody serves it */
};

/* Closes and frees; leaves it as at its beginning. */
void fcu_handshake_clear(struct fcu_handshake *handshake);

/*
 * Takes what the socket (non-blocking) has. 1: the message is whole, and its one descriptor is a userfaultfd; 0: more
 * must come; -errno: EPROTO: not JSON, no descriptor, several, or one that is no userfaultfd; EMSGSIZE: too long;
 * ECONNRESET: it ended early; EMFILE, ENFILE, ENOMEM.
 */
int fcu_handshake_receive(struct fcu_handshake *handshake, int socket, struct fc_error *error);

/*
 * Whether `text` is a whole JSON array by its brackets: 1; 0: it may become one; -EPROTO: it will not (it does not
 * begin with '[', or something follows it).
 */
int fcu_handshake_whole(const char *text, size_t size);

/* Reads the regions out of a whole message. Whatever it is, the answer is regions (unchecked as a set) or EPROTO. */
int fcu_handshake_parse(const char *text, size_t size, struct fcu_regions *ret_regions, struct fc_error *error);

/* Whether the descriptor is a userfaultfd. */
bool fcu_is_userfaultfd(int fd);

#endif
