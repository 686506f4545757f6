// SPDX-License-Identifier: Apache-2.0
/*
 * core/net/firewall_set.h: what the sets of a VM's table hold, read and changed while its rules are in force.
 *
 * A set has addresses, or destinations (address, protocol, port). Those that rules fill count what met each element.
 */
#ifndef FCVM_NET_FIREWALL_SET_H
#define FCVM_NET_FIREWALL_SET_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "net/netns.h"

struct fc_destination {
	struct in_addr address;
	bool whole;              /* has protocol and port; else it is an address alone */
	uint8_t protocol;        /* IPPROTO_... */
	uint16_t port;           /* 0 where the protocol has none */
	uint64_t packets, bytes; /* counted; 0 where the set does not count */
};

/*
 * What is in a set now, in no order; of a set of networks the address that each range of addresses begins with. The
 * caller frees *ret_items, which is NULL where there are none. ENOENT: there is no such table or set.
 */
int fc_firewall_set_list(struct fc_netns *netns, const char *table, const char *set, struct fc_destination **ret_items,
                         size_t *ret_count, struct fc_error *error);

/*
 * Puts elements into a set, all or none, with `replace` in the place of all that it has. One that is there already
 * stays. ENFILE: the set has no room. EINVAL: they are not what the set holds. ENOENT as above.
 */
int fc_firewall_set_add(struct fc_netns *netns, const char *table, const char *set, const struct fc_destination *items,
                        size_t count, bool replace, struct fc_error *error);

#endif
