// SPDX-License-Identifier: Apache-2.0
/*
 * core/net/link.h: links, IPv4 addresses and routes of one namespace, by rtnetlink.
 *
 * All functions return 0 or -errno. For all of them: EPERM, needs CAP_NET_ADMIN; ENODEV, there is no link of that name;
 * EINVAL, a name, address or number that cannot be (said in words before the kernel is asked).
 */
#ifndef FCVM_NET_LINK_H
#define FCVM_NET_LINK_H

#include <net/if.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "net/address.h"
#include "net/netns.h"

struct fc_link {
	int index;
	char name[IF_NAMESIZE];
	char kind[16];         /* "veth", "tun" (TAPs too), "bridge"...; empty for hardware and the loopback */
	bool up;               /* set up; that it carries is another matter */
	unsigned mtu;          /* bytes */
	char mac[FC_MAC_TEXT]; /* empty where it has none */
	int master;            /* the index of the bridge that it is a port of, or 0 */
	char alias[64];        /* a note of whoever made it, cut to size; empty where it has none */
};

struct fc_link_address {
	char link[IF_NAMESIZE];
	struct fc_prefix prefix;
};

/* What to change; what is to stay as it is has -1, 0 or NULL. Start from FC_LINK_KEEP. */
struct fc_link_settings {
	int up;             /* 0 or 1 */
	unsigned mtu;       /* bytes */
	const char *mac;    /* "xx:xx:xx:xx:xx:xx" */
	int route_localnet; /* 0 or 1: whether 127.0.0.0/8 may be routed over it, as ports published on 127.0.0.1 need
	                     */
	int ipv6;           /* 0 or 1; a kernel without IPv6 satisfies 0 */
	const char *master; /* a bridge to be a port of, or "" for none */
	const char *alias;  /* a note, at most 63 bytes, by which its owner knows it again */
};
#define FC_LINK_KEEP ((struct fc_link_settings){.up = -1, .route_localnet = -1, .ipv6 = -1})

/*
 * Makes a TAP that stays when nobody holds it, with the flags that Firecracker opens it with (IFF_VNET_HDR, IFF_NO_PI).
 * uid and gid say who may open it; (uid_t)-1 and (gid_t)-1: only those with CAP_NET_ADMIN. EEXIST: the name is taken.
 */
int fc_link_add_tap(struct fc_netns *netns, const char *name, uid_t uid, gid_t gid, struct fc_error *error);

/* Makes a pair of links, `peer` in the namespace at `peer_path` (NULL: in the same one). EEXIST: a name is taken. */
int fc_link_add_veth(struct fc_netns *netns, const char *name, const char *peer, const char *peer_path,
                     struct fc_error *error);

/*
 * Makes a bridge without the spanning tree protocol; `mac` ("xx:xx:xx:xx:xx:xx", NULL: the kernel's choice) it has from
 * its birth on, unlike a note. EEXIST: the name is taken.
 */
int fc_link_add_bridge(struct fc_netns *netns, const char *name, const char *mac, struct fc_error *error);

/* Changes a link. The kernel's limits for the MTU are the link's own (EINVAL, with its words). */
int fc_link_set(struct fc_netns *netns, const char *name, const struct fc_link_settings *settings,
                struct fc_error *error);

/* Deletes a link, and with a veth its peer. */
int fc_link_delete(struct fc_netns *netns, const char *name, struct fc_error *error);

/* All links, by index. The caller frees *ret_links, which is NULL where there are none. */
int fc_link_list(struct fc_netns *netns, struct fc_link **ret_links, size_t *ret_count, struct fc_error *error);

/* Gives a link an address, "10.0.0.1/30". EEXIST: it has it already. */
int fc_link_address_add(struct fc_netns *netns, const char *name, const char *prefix, struct fc_error *error);

/* All IPv4 addresses. The caller frees *ret_addresses, which is NULL where there are none. */
int fc_link_address_list(struct fc_netns *netns, struct fc_link_address **ret_addresses, size_t *ret_count,
                         struct fc_error *error);

/*
 * Adds a route to `to` ("0.0.0.0/0" is the default route) by the gateway `via`, over `link`; one of the two may be
 * NULL. EEXIST: there is one. ENETUNREACH: the gateway is in no network of a link that is up.
 */
int fc_link_route_add(struct fc_netns *netns, const char *to, const char *via, const char *link,
                      struct fc_error *error);

#endif
