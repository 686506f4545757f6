// SPDX-License-Identifier: Apache-2.0
/*
 * core/net/firewall.h: a VM's rules as one nftables table, put in place, replaced or deleted in one transaction.
 *
 * Tables are of the family ip: all that fcvm gives a VM is IPv4, the table is consulted for nothing else, and address
 * translation in ip is in every kernel with nftables (inet has it since 5.2). A chain that would be empty is not made.
 * Tables whose name does not begin with FC_FIREWALL_PREFIX are never touched.
 *
 * | chain       | hook, priority      | holds                                                                  |
 * |-------------|---------------------|------------------------------------------------------------------------|
 * | raw         | prerouting, -300    | drop_source: what a link may not have sent                             |
 * | prerouting  | prerouting, dstnat  | dnat, for what arrives                                                 |
 * | output      | output, dstnat      | dnat, for connections that begin here                                  |
 * | postrouting | postrouting, srcnat | masquerade                                                             |
 * | forward     | forward, 0          | forward (accept), then drop_forward                                    |
 * | input       | input, 0            | drop_input: accept answers and echo requests, drop the rest            |
 * | egress_forward, egress_input | forward and input, 0 | egress, for what passes and what comes to the namespace |
 *
 * A link's name that ends with "*" stands for all that begin so, as in nft. Accepting ends this table's own chain only:
 * other tables, a host's own firewall among them, still decide.
 */
#ifndef FCVM_NET_FIREWALL_H
#define FCVM_NET_FIREWALL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "net/netns.h"

#define FC_FIREWALL_PREFIX "fcvm-"

enum {
	FC_FIREWALL_NAME = 128,      /* a table's name with its NUL; what fcvm makes is far shorter */
	FC_FIREWALL_COMMENT = 128,   /* a comment with its NUL, as nft limits it */
	FC_FIREWALL_SET = 32,        /* a set's name with its NUL */
	FC_FIREWALL_RULES_MAX = 4096 /* entries in any one list */
};

/* Packets from `source` that leave by `out` (NULL: by any link) get the address of the link that they leave by. */
struct fc_firewall_masquerade {
	const char *source; /* "172.16.0.0/30" */
	const char *out;
};

/* Connections that come in by `from` and leave by `to` are accepted before any drop_forward. Either may be NULL. */
struct fc_firewall_forward {
	const char *from, *to;
};

/*
 * Connections to `address` (NULL: to any address of this namespace) go to `to_address` instead. `protocol` is "tcp",
 * "udp", or NULL for everything. `port` (0: every one) needs a protocol, and `to_port` (0: the same) a port.
 */
struct fc_firewall_dnat {
	const char *protocol, *address, *to_address;
	uint16_t port, to_port;
};

/* What comes in by a link whose name begins with in_prefix and leaves by one with out_prefix is dropped. NULL: any. */
struct fc_firewall_drop_forward {
	const char *in_prefix, *out_prefix;
};

/* What comes in by `link` from an address outside `source` is dropped before anything looks at it. */
struct fc_firewall_drop_source {
	const char *link, *source;
};

/*
 * Egress: what comes in by `link` may go where it is allowed to, be it through this namespace or to it. What belongs to
 * a connection that is known passes (so that whoever came to the VM is answered), what belongs to none is dropped.
 * All else is decided by its destination, which is what address, protocol and port (0 without one) say:
 *
 *   allowed by a rule of `allow`, or a verdict in the set "granted"    accepted
 *   with `ask`, unknown: no verdict in "granted" or "refused"          dropped, and kept in "asked" for a while
 *   the rest                                                           counted, then rejected: TCP by a reset, all
 *                                                                      else by ICMP "administratively prohibited"
 *
 * Rejected, so that a program in the VM fails at once instead of waiting. "denied" has the destinations that were
 * rejected, each with its count, as far as its size goes; "denied_total" counts all of them, by protocol.
 */
enum {
	FC_EGRESS_DENIED_MAX = 1024, /* destinations */
	FC_EGRESS_DENIED_SECONDS = 3600,
	FC_EGRESS_ASKED_MAX = 256,
	FC_EGRESS_ASKED_SECONDS = 2,
	FC_EGRESS_VERDICTS_MAX = 16384, /* in each of "granted" and "refused" */
};

/* A set of addresses for rules of `allow`: those of `networks` ("10.0.0.0/8"), or without any those added later. */
struct fc_egress_set {
	const char *name; /* a letter, then letters, digits and "_"; unlike those above */
	const char *const *networks;
	size_t network_count;
	uint32_t size;    /* without networks: elements at most */
	uint32_t timeout; /* without networks: s after which an address goes; 0 for never */
};

/* Where the destination's address is in `set`, `protocol` ("tcp", "udp", NULL: any) to `port` (0: any) is allowed. */
struct fc_egress_allow {
	const char *set, *protocol;
	uint16_t port; /* needs a protocol */
};

struct fc_egress {
	const char *link;
	const struct fc_egress_set *sets;
	size_t set_count;
	const struct fc_egress_allow *allow;
	size_t allow_count;
	bool ask;
};

struct fc_firewall {
	const char *table;   /* begins with FC_FIREWALL_PREFIX */
	const char *comment; /* shown by nft; may be NULL */
	const struct fc_firewall_masquerade *masquerade;
	size_t masquerade_count;
	const struct fc_firewall_forward *forward;
	size_t forward_count;
	const struct fc_firewall_dnat *dnat;
	size_t dnat_count;
	const struct fc_firewall_drop_forward *drop_forward;
	size_t drop_forward_count;
	const struct fc_firewall_drop_source *drop_source;
	size_t drop_source_count;
	/* Links whose packets to this namespace itself are dropped, but for answers and echo requests. */
	const char *const *drop_input;
	size_t drop_input_count;
	const struct fc_egress *egress; /* NULL: all is allowed */
};

struct fc_firewall_table {
	char name[FC_FIREWALL_NAME];
	char comment[FC_FIREWALL_COMMENT]; /* empty where it has none */
};

/*
 * Puts the table in place, instead of a former one of that name: all of it or, on failure, nothing. The error says
 * which object the kernel refused: "table", "chain output", "rule dnat 2". EINVAL: a value that cannot be. ENOENT: the
 * kernel lacks a module for that object. EPERM: needs CAP_NET_ADMIN. EOPNOTSUPP or EPROTONOSUPPORT: a kernel without
 * nftables.
 */
int fc_firewall_apply(struct fc_netns *netns, const struct fc_firewall *firewall, struct fc_error *error);

/* Ends asking: what is undecided, now and later, is denied. ENOENT: the table has no egress rules that ask. */
int fc_firewall_egress_settle(struct fc_netns *netns, const char *table, struct fc_error *error);

/* Deletes a table. ENOENT: there is none. EINVAL: its name does not begin with FC_FIREWALL_PREFIX. */
int fc_firewall_delete(struct fc_netns *netns, const char *table, struct fc_error *error);

/* fcvm's tables. The caller frees *ret_tables, which is NULL where there are none. */
int fc_firewall_list(struct fc_netns *netns, struct fc_firewall_table **ret_tables, size_t *ret_count,
                     struct fc_error *error);

#endif
