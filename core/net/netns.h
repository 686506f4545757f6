// SPDX-License-Identifier: Apache-2.0
/*
 * core/net/netns.h: network namespaces kept by a bind mount (a path), and handles to work inside them.
 *
 * The calling thread never changes its namespace. What must happen inside one (making it, opening sockets, /dev/net/tun
 * and files of /proc/sys/net, which belong to the namespace of the thread that opens them) happens in a short-lived
 * thread that enters it by setns(2) and ends. Sockets keep the namespace that they were made in, so that everything
 * else works from the caller's thread.
 */
#ifndef FCVM_NET_NETNS_H
#define FCVM_NET_NETNS_H

#include <stdbool.h>

#include "base/error.h"

/* A handle to work in one namespace. It keeps the namespace alive. For one thread at a time. */
struct fc_netns;

/*
 * Makes a new network namespace and mounts it at `path`, which must not exist; its directory must. The namespace lives
 * until fc_netns_remove. EEXIST: the path is there already. EPERM: needs CAP_SYS_ADMIN. ENOENT: no such directory.
 */
int fc_netns_create(const char *path, struct fc_error *error);

/*
 * Unmounts and removes the path; the namespace and its links go when nothing else uses it, in the background. An empty
 * plain file, which a creation cut short leaves, is removed too. ENOENT: not there. EINVAL: something else is there.
 */
int fc_netns_remove(const char *path, struct fc_error *error);

/*
 * Opens the namespace at `path`, or the calling thread's own for NULL, which needs no privilege. ENOENT: no such path;
 * EINVAL: it is no network namespace; EPERM: needs CAP_SYS_ADMIN.
 */
int fc_netns_open(const char *path, struct fc_netns **ret_netns, struct fc_error *error);

/* Closes and frees; NULL is fine. */
void fc_netns_close(struct fc_netns *netns);

/*
 * A TCP socket made in the network namespace at `netns`, which is where it stays; the caller closes *ret_fd. With
 * `userns` a short-lived process joins that user namespace before: what its owner may do who is outside of it. Errors:
 * those of open(2), setns(2) (EPERM: not the owner) and socket(2).
 */
int fc_netns_socket(const char *userns, const char *netns, int type, int *ret_fd, struct fc_error *error);

/*
 * Whether IPv4 is forwarded between the namespace's links (net.ipv4.ip_forward): reads it, and sets it where `wanted`
 * is 0 or 1 (-1 leaves it). *ret_former is what it was. Nothing is written where it is so already, as on read-only
 * /proc/sys.
 */
int fc_netns_forwarding(struct fc_netns *netns, int wanted, bool *ret_former, struct fc_error *error);

#endif
