// SPDX-License-Identifier: Apache-2.0
/* core/net/firewall_internal.h: what firewall.c shares with its neighbours, and its parser with the fuzzer. */
#ifndef FCVM_NET_FIREWALL_INTERNAL_H
#define FCVM_NET_FIREWALL_INTERNAL_H

#include <linux/netlink.h>

#include "net/firewall.h"

/* Reads one NFT_MSG_NEWTABLE. Returns 1, 0 for a table that is not fcvm's, or -EBADMSG where the message is none. */
int fc_firewall_table_parse(const struct nlmsghdr *message, struct fc_firewall_table *ret_table);

/* Fills the error of entry `index` (from 0) of the list `what` and returns -EINVAL. */
int fc_firewall_refuse(struct fc_error *error, const struct fc_firewall *firewall, const char *what, size_t index,
                       const char *why, const char *value);

/* 0, or -EINVAL where a name is not that of one of fcvm's tables. */
int fc_firewall_check_name(const char *table, const char *op, struct fc_error *error);

/* Whether it is a link's name or, with a "*" at its end, a prefix of names. */
bool fc_firewall_good_link(const char *name);

struct fc_nft_batch;

/* The part of firewall_egress.c in fc_firewall_apply. `put` takes what has been checked. */
int fc_egress_check(const struct fc_firewall *firewall, struct fc_error *error);
void fc_egress_put(struct fc_nft_batch *batch, const struct fc_egress *egress);

#endif
