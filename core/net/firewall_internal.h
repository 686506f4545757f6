// SPDX-License-Identifier: Apache-2.0
/* core/net/firewall_internal.h: the parser of what nftables answers, for firewall.c and its fuzzer. */
#ifndef FCVM_NET_FIREWALL_INTERNAL_H
#define FCVM_NET_FIREWALL_INTERNAL_H

#include <linux/netlink.h>

#include "net/firewall.h"

/* Reads one NFT_MSG_NEWTABLE. Returns 1, 0 for a table that is not fcvm's, or -EBADMSG where the message is none. */
int fc_firewall_table_parse(const struct nlmsghdr *message, struct fc_firewall_table *ret_table);

#endif
