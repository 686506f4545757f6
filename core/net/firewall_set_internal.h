// SPDX-License-Identifier: Apache-2.0
/* core/net/firewall_set_internal.h: sets inside a transaction, for firewall_egress.c; the parser, for its fuzzer. */
#ifndef FCVM_NET_FIREWALL_SET_INTERNAL_H
#define FCVM_NET_FIREWALL_SET_INTERNAL_H

#include "net/address.h"
#include "net/firewall_set.h"
#include "net/nft_internal.h"

/* A set to be made. Its elements are addresses or, where it is `whole`, destinations. */
struct fc_nft_set {
	const char *name;
	bool whole;
	uint32_t flags;   /* NFT_SET_... */
	uint32_t size;    /* elements at most; 0 for no limit */
	uint32_t timeout; /* s after which an element goes by itself; 0 for never */
};

void fc_nft_put_set(struct fc_nft_batch *batch, const struct fc_nft_set *set);

/* Puts networks into a set with NFT_SET_INTERVAL. They may overlap: the kernel is given what they cover. */
void fc_nft_put_networks(struct fc_nft_batch *batch, const char *set, const struct fc_prefix *networks, size_t count);

struct fc_destinations {
	struct fc_destination *items;
	size_t count, room;
};

/* Appends what one NFT_MSG_NEWSETELEM holds. Returns 0, -EBADMSG where the message is none, or -ENOMEM. */
int fc_firewall_set_parse(const struct nlmsghdr *message, struct fc_destinations *to);

#endif
