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
 *
 * A link's name that ends with "*" stands for all that begin so, as in nft. Accepting ends this table's own chain only:
 * other tables, a host's own firewall among them, still decide.
 */
#ifndef FCVM_NET_FIREWALL_H
#define FCVM_NET_FIREWALL_H

#include <stddef.h>
#include <stdint.h>

#include "net/netns.h"

#define FC_FIREWALL_PREFIX "fcvm-"

enum {
	FC_FIREWALL_NAME = 128,      /* a table's name with its NUL; what fcvm makes is far shorter */
	FC_FIREWALL_COMMENT = 128,   /* a comment with its NUL, as nft limits it */
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

/* Deletes a table. ENOENT: there is none. EINVAL: its name does not begin with FC_FIREWALL_PREFIX. */
int fc_firewall_delete(struct fc_netns *netns, const char *table, struct fc_error *error);

/* fcvm's tables. The caller frees *ret_tables, which is NULL where there are none. */
int fc_firewall_list(struct fc_netns *netns, struct fc_firewall_table **ret_tables, size_t *ret_count,
                     struct fc_error *error);

#endif
