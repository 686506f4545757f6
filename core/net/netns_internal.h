// SPDX-License-Identifier: Apache-2.0
/* core/net/netns_internal.h: what link.c and firewall.c need of a handle. */
#ifndef FCVM_NET_NETNS_INTERNAL_H
#define FCVM_NET_NETNS_INTERNAL_H

#include "base/error.h"
#include "net/netlink_internal.h"
#include "net/netns.h"

struct fc_netns {
	int fd;                   /* the namespace, or -1 for the caller's own */
	struct fc_netlink route;  /* links, addresses, routes */
	struct fc_netlink filter; /* nftables; may be unusable where the kernel has none, which is said on use */
};

/*
 * Runs fn(data, error) in a thread of its own inside the handle's namespace, and returns what it returned. The thread
 * takes no signals. Its failure to enter is an error of `fn`.
 */
int fc_netns_run(const struct fc_netns *netns, int (*fn)(void *data, struct fc_error *error), void *data,
                 struct fc_error *error);

/*
 * Reads a file of /proc/sys that holds 0 or 1 as the handle's namespace has it and, where `wanted` is 0 or 1, makes it
 * so. Returns what it was (0 or 1; other numbers are 1) or -errno.
 */
int fc_netns_sysctl(const struct fc_netns *netns, const char *path, int wanted, struct fc_error *error);

/* Fills *error after a netlink failure: the kernel's words where there are any, and the hint that goes with the errno.
 */
int fc_netlink_error(struct fc_error *error, int r, const char *op, const char *subject,
                     const struct fc_netlink_answer *answer);

#endif
