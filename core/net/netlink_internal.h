// SPDX-License-Identifier: Apache-2.0
/*
 * core/net/netlink_internal.h: requests to the kernel over one netlink socket, and the reading of what it answers.
 *
 * The kernel works a request off inside send(2), so that the answer (or a dump's first part) is in the socket when it
 * returns. Every request has a sequence number; answers to other ones are passed over. Extended acknowledgements are
 * asked for: where the kernel says in words what was wrong, those words reach the user.
 */
#ifndef FCVM_NET_NETLINK_INTERNAL_H
#define FCVM_NET_NETLINK_INTERNAL_H

#include <libmnl/libmnl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A socket in one network namespace: the one of the thread that opened it. For one thread at a time. */
struct fc_netlink {
	struct mnl_socket *socket; /* NULL where opening failed */
	int err;                   /* the positive errno of that */
	uint32_t portid;
	uint32_t seq; /* the last one used */
};

/* Takes one message of an answer: 0, or a negative errno, which becomes the answer's failure. */
typedef int (*fc_netlink_fn)(const struct nlmsghdr *message, void *data);

/* What is expected in answer to the requests `first` to `last`, and what has come of it so far. */
struct fc_netlink_answer {
	uint32_t portid, first, last;
	fc_netlink_fn fn; /* for messages with content; may be NULL */
	void *data;
	bool done;        /* the acknowledgement of `last`, or a dump's end, is here */
	bool interrupted; /* what was dumped changed meanwhile: the dump may be inconsistent */
	int err;          /* a positive errno: the failure of the earliest request that failed */
	uint32_t err_seq; /* which request that was */
	char text[160];   /* the kernel's own words about it, or empty */
};

/* Opens a socket in the calling thread's namespace. Returns 0 or -errno, which is also kept in *netlink. */
int fc_netlink_open(struct fc_netlink *netlink, int protocol);
void fc_netlink_close(struct fc_netlink *netlink);

/*
 * Sends one request and reads its whole answer. Sets its sequence number; a dump is asked again where it was
 * interrupted, and `fn` then begins anew after a call with NULL. Returns 0 or -errno, with the details in *answer (fn
 * and data are the caller's to set). ETIMEDOUT: no answer in 5 s. ENOBUFS: the answer was lost, the outcome is unknown.
 */
int fc_netlink_request(struct fc_netlink *netlink, struct nlmsghdr *request, struct fc_netlink_answer *answer);

/*
 * Sends a batch that uses the numbers answer->first to answer->last, the last of which asks for an acknowledgement.
 * Returns 0 where the whole batch was taken, else -errno with answer->err_seq. EPROTO: the kernel said nothing at all.
 */
int fc_netlink_batch(struct fc_netlink *netlink, const void *batch, size_t size, struct fc_netlink_answer *answer);

/* Reads one datagram of an answer into *answer. Trusts no length in it. The parser of everything received. */
void fc_netlink_read(const void *datagram, size_t size, struct fc_netlink_answer *answer);

/* A walk over attributes that lie one after another in received bytes; no length in them is trusted. */
struct fc_netlink_walk {
	const char *at;
	size_t left;
};

/* The attributes of a message behind its family header of `offset` bytes (a multiple of 4), or those inside one. */
struct fc_netlink_walk fc_netlink_attributes(const struct nlmsghdr *message, size_t offset);
struct fc_netlink_walk fc_netlink_nested(const struct nlattr *attribute);

/* The next whole attribute, or NULL. */
const struct nlattr *fc_netlink_next(struct fc_netlink_walk *walk);

/* The string that an attribute holds, NUL included, or NULL where it has no NUL inside its length. */
const char *fc_netlink_string(const struct nlattr *attribute);

#endif
