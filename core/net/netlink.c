// SPDX-License-Identifier: Apache-2.0
#include "net/netlink_internal.h"

#include <errno.h>
#include <linux/netlink.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum {
	ANSWER_SIZE = 65536, /* the kernel fills at most 32 KiB of a dump at once, one link with many VFs included */
	ANSWER_LIMIT = 5000, /* ms; an answer is there as soon as the request is sent, so this is for a broken kernel */
	DUMP_ATTEMPTS = 16,  /* a host that adds and removes links all the time interrupts dumps */
};

int fc_netlink_open(struct fc_netlink *netlink, int protocol) {
	int on = 1;
	memset(netlink, 0, sizeof *netlink);
	netlink->socket = mnl_socket_open2(protocol, SOCK_CLOEXEC);
	if (!netlink->socket || mnl_socket_bind(netlink->socket, 0, MNL_SOCKET_AUTOPID) < 0) {
		netlink->err = errno;
		fc_netlink_close(netlink);
		return -netlink->err;
	}
	/* Both are comforts that kernels before 4.12 lack: answers are read with them or without. */
	mnl_socket_setsockopt(netlink->socket, NETLINK_EXT_ACK, &on, sizeof on);
	mnl_socket_setsockopt(netlink->socket, NETLINK_CAP_ACK, &on, sizeof on);
	netlink->portid = mnl_socket_get_portid(netlink->socket);
	return 0;
}

void fc_netlink_close(struct fc_netlink *netlink) {
	if (netlink->socket)
		mnl_socket_close(netlink->socket);
	netlink->socket = NULL;
}

static size_t align4(size_t size) {
	return (size + 3) & ~(size_t)3;
}

struct fc_netlink_walk fc_netlink_attributes(const struct nlmsghdr *message, size_t offset) {
	size_t size = mnl_nlmsg_get_payload_len(message);
	if (offset > size)
		offset = size;
	return (struct fc_netlink_walk){.at = (const char *)mnl_nlmsg_get_payload(message) + offset,
	                                .left = size - offset};
}

struct fc_netlink_walk fc_netlink_nested(const struct nlattr *attribute) {
	return (struct fc_netlink_walk){.at = mnl_attr_get_payload(attribute),
	                                .left = mnl_attr_get_payload_len(attribute)};
}

const struct nlattr *fc_netlink_next(struct fc_netlink_walk *walk) {
	const struct nlattr *attribute = (const void *)walk->at;
	if (walk->left < sizeof *attribute || attribute->nla_len < sizeof *attribute || attribute->nla_len > walk->left)
		return NULL;
	size_t step = align4(attribute->nla_len);
	if (step > walk->left)
		step = walk->left;
	walk->at += step;
	walk->left -= step;
	return attribute;
}

const char *fc_netlink_string(const struct nlattr *attribute) {
	const char *text = mnl_attr_get_payload(attribute);
	return memchr(text, '\0', mnl_attr_get_payload_len(attribute)) ? text : NULL;
}

/* Keeps the kernel's words that stand behind an error, where there are any. */
static void keep_text(const struct nlmsghdr *message, const struct nlmsgerr *failure, char *text, size_t size) {
	size_t offset = sizeof *failure;
	if (!(message->nlmsg_flags & NLM_F_ACK_TLVS))
		return;
	/* Without CAPPED the whole request is repeated before them. */
	if (!(message->nlmsg_flags & NLM_F_CAPPED) && failure->msg.nlmsg_len > NLMSG_HDRLEN)
		offset += align4(failure->msg.nlmsg_len) - NLMSG_HDRLEN;
	struct fc_netlink_walk walk = fc_netlink_attributes(message, offset);
	for (const struct nlattr *attribute; (attribute = fc_netlink_next(&walk));) {
		const char *words = fc_netlink_string(attribute);
		if (mnl_attr_get_type(attribute) == NLMSGERR_ATTR_MSG && words)
			snprintf(text, size, "%s", words);
	}
}

static void fail(struct fc_netlink_answer *answer, int err, uint32_t seq) {
	answer->err = err > 0 ? err : EPROTO;
	answer->err_seq = seq;
}

/* An acknowledgement (error 0) or a failure. Of several failures the earliest request's is kept: the others follow it.
 */
static void read_outcome(const struct nlmsghdr *message, struct fc_netlink_answer *answer) {
	const struct nlmsgerr *outcome = mnl_nlmsg_get_payload(message);
	if (mnl_nlmsg_get_payload_len(message) < sizeof *outcome) {
		fail(answer, EPROTO, message->nlmsg_seq);
		return;
	}
	if (outcome->error == 0) {
		answer->done |= message->nlmsg_seq == answer->last;
	} else if (!answer->err || message->nlmsg_seq < answer->err_seq) {
		/* INT_MIN has no positive counterpart, and no errno is beyond 4095. */
		fail(answer, outcome->error < 0 && outcome->error > -4096 ? -outcome->error : EPROTO,
		     message->nlmsg_seq);
		answer->text[0] = '\0';
		keep_text(message, outcome, answer->text, sizeof answer->text);
	}
}

/* A dump's end carries an errno of its own: a dump can fail in the middle. */
static void read_end(const struct nlmsghdr *message, struct fc_netlink_answer *answer) {
	int status = 0;
	if (mnl_nlmsg_get_payload_len(message) >= sizeof status)
		memcpy(&status, mnl_nlmsg_get_payload(message), sizeof status);
	if (status < 0 && !answer->err)
		fail(answer, status > -4096 ? -status : EPROTO, message->nlmsg_seq);
	answer->done = true;
}

static void read_message(const struct nlmsghdr *message, struct fc_netlink_answer *answer) {
	answer->interrupted |= (message->nlmsg_flags & NLM_F_DUMP_INTR) != 0;
	switch (message->nlmsg_type) {
	case NLMSG_ERROR:
		read_outcome(message, answer);
		break;
	case NLMSG_DONE:
		read_end(message, answer);
		break;
	case NLMSG_OVERRUN:
		fail(answer, ENOBUFS, message->nlmsg_seq);
		break;
	case NLMSG_NOOP:
		break;
	default:
		if (answer->fn && !answer->err) {
			int r = answer->fn(message, answer->data);
			if (r < 0)
				fail(answer, -r, message->nlmsg_seq);
		}
	}
}

void fc_netlink_read(const void *datagram, size_t size, struct fc_netlink_answer *answer) {
	const char *at = datagram;
	/* Not by mnl_nlmsg_ok (libmnl 1.0.4), which takes a length beyond INT_MAX for a good one. */
	while (size >= sizeof(struct nlmsghdr)) {
		const struct nlmsghdr *message = (const void *)at;
		if (message->nlmsg_len < sizeof *message || message->nlmsg_len > size)
			return;
		if (message->nlmsg_pid == answer->portid && message->nlmsg_seq >= answer->first &&
		    message->nlmsg_seq <= answer->last)
			read_message(message, answer);
		size_t step = align4(message->nlmsg_len);
		if (step > size)
			return;
		at += step;
		size -= step;
	}
}

/* Reads what is there, waiting up to `limit` ms for it. Returns 1, 0 where nothing came, or -errno. */
static int receive(struct fc_netlink *netlink, void *buffer, int limit, struct fc_netlink_answer *answer) {
	struct pollfd ready = {.fd = mnl_socket_get_fd(netlink->socket), .events = POLLIN};
	int n;
	do
		n = poll(&ready, 1, limit);
	while (n < 0 && errno == EINTR);
	if (n <= 0)
		return n < 0 ? -errno : 0;
	ssize_t got = mnl_socket_recvfrom(netlink->socket, buffer, ANSWER_SIZE);
	if (got < 0)
		return errno == EINTR ? 1 : -errno;
	fc_netlink_read(buffer, (size_t)got, answer);
	return 1;
}

static int usable(const struct fc_netlink *netlink, struct fc_netlink_answer *answer) {
	if (netlink->socket)
		return 0;
	answer->err = netlink->err ? netlink->err : EBADF;
	return -answer->err;
}

/* One round of a request; the answer's state is new at its beginning. */
static int ask(struct fc_netlink *netlink, const struct nlmsghdr *request, void *buffer,
               struct fc_netlink_answer *answer) {
	answer->done = answer->interrupted = false;
	answer->err = 0;
	answer->text[0] = '\0';
	if (mnl_socket_sendto(netlink->socket, request, request->nlmsg_len) < 0)
		return -errno;
	while (!answer->done && !answer->err) {
		int r = receive(netlink, buffer, ANSWER_LIMIT, answer);
		if (r <= 0)
			return r < 0 ? r : -ETIMEDOUT;
	}
	return -answer->err;
}

int fc_netlink_request(struct fc_netlink *netlink, struct nlmsghdr *request, struct fc_netlink_answer *answer) {
	bool dump = (request->nlmsg_flags & NLM_F_DUMP) == NLM_F_DUMP;
	void *buffer = usable(netlink, answer) == 0 ? malloc(ANSWER_SIZE) : NULL;
	if (!buffer)
		return netlink->socket ? -(answer->err = ENOMEM) : -answer->err;
	int r = -EINTR;
	answer->portid = netlink->portid;
	for (int attempt = 0; r == -EINTR && attempt < DUMP_ATTEMPTS; attempt++) {
		request->nlmsg_seq = answer->first = answer->last = ++netlink->seq;
		if (answer->fn && attempt > 0)
			answer->fn(NULL, answer->data);
		r = ask(netlink, request, buffer, answer);
		if (dump && ((r == 0 && answer->interrupted) || r == -ENOBUFS))
			r = -EINTR;
	}
	free(buffer);
	answer->err = -r;
	return r;
}

/* A datagram must fit into the send buffer as a whole; root may go beyond the system's limit for it. */
static int make_room(struct fc_netlink *netlink, size_t size) {
	int fd = mnl_socket_get_fd(netlink->socket), room = 0, wanted = (int)size + 4096;
	socklen_t length = sizeof room;
	if (getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, &length) == 0 && room > wanted)
		return 0;
	if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &wanted, sizeof wanted) == 0)
		return 0;
	return setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &wanted, sizeof wanted) < 0 ? -errno : 0;
}

/* All that the kernel has to say is in the socket by now: it is read until there is nothing more. */
static int batch_outcome(struct fc_netlink *netlink, struct fc_netlink_answer *answer) {
	void *buffer = malloc(ANSWER_SIZE);
	int r = buffer ? 1 : -ENOMEM;
	while (r > 0)
		r = receive(netlink, buffer, 0, answer);
	free(buffer);
	/* A failure that was read explains more than the loss of those behind it (ENOBUFS). */
	if (answer->err)
		return -answer->err;
	if (r == 0 && !answer->done)
		r = -EPROTO;
	answer->err = -r;
	return r;
}

int fc_netlink_batch(struct fc_netlink *netlink, const void *batch, size_t size, struct fc_netlink_answer *answer) {
	int r = usable(netlink, answer);
	if (r < 0)
		return r;
	answer->portid = netlink->portid;
	answer->done = false;
	answer->err = 0;
	answer->text[0] = '\0';
	r = make_room(netlink, size);
	if (r == 0 && mnl_socket_sendto(netlink->socket, batch, size) < 0)
		r = -errno;
	if (r < 0) {
		answer->err = -r;
		return r;
	}
	return batch_outcome(netlink, answer);
}
