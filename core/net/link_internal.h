// SPDX-License-Identifier: Apache-2.0
/* core/net/link_internal.h: the parsers of what rtnetlink answers, for link.c and their fuzzer. */
#ifndef FCVM_NET_LINK_INTERNAL_H
#define FCVM_NET_LINK_INTERNAL_H

#include <linux/netlink.h>

#include "net/link.h"

/* Reads one RTM_NEWLINK. Returns 0, or -EBADMSG where the message is none. */
int fc_link_parse(const struct nlmsghdr *message, struct fc_link *ret_link);

/* Reads one RTM_NEWADDR: the link's index and the prefix. Returns 1, 0 for other families, or -EBADMSG. */
int fc_link_address_parse(const struct nlmsghdr *message, int *ret_index, struct fc_prefix *ret_prefix);

#endif
