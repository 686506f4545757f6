// SPDX-License-Identifier: Apache-2.0
/*
 * core/net/nft_internal.h: transactions of nftables and the rules in them, for firewall.c and its neighbours.
 *
 * A batch is messages one after another, sent as one datagram. Each has a label, so that a failure can be said to be of
 * an object. The first failure to build is kept, and all that follows is nothing: what is built need not be checked
 * before fc_nft_commit.
 *
 * A rule is a row of expressions: each loads a register, compares it (a mismatch ends the rule), or acts.
 */
#ifndef FCVM_NET_NFT_INTERNAL_H
#define FCVM_NET_NFT_INTERNAL_H

#include <libmnl/libmnl.h>
#include <libnftnl/common.h>
#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/netfilter/nf_tables.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "net/netns_internal.h"

struct nftnl_expr;
struct nftnl_rule;

enum {
	FC_NFT_MESSAGE = 8192, /* libnftnl writes a message without looking for room; the longest here is below 4 KiB */
	FC_NFT_LABEL = 32,
};

/* What linux/netfilter_ipv4.h calls these; that header does not go together with netinet/in.h. */
enum {
	FC_NFT_PRIORITY_RAW = -300,
	FC_NFT_PRIORITY_DSTNAT = -100,
	FC_NFT_PRIORITY_FILTER = 0,
	FC_NFT_PRIORITY_SRCNAT = 100
};

/* States of connection tracking: what belongs to a connection that is known, and what belongs to none. */
#define FC_NFT_ANSWERS (NF_CT_STATE_BIT(IP_CT_ESTABLISHED) | NF_CT_STATE_BIT(IP_CT_RELATED))
#define FC_NFT_INVALID NF_CT_STATE_INVALID_BIT

struct fc_nft_message {
	_Alignas(struct nlmsghdr) char bytes[FC_NFT_MESSAGE];
};

/* Sequence numbers go from `first` on. Begin with `table` set and all else zero. */
struct fc_nft_batch {
	char *bytes;
	size_t size, room;
	char (*labels)[FC_NFT_LABEL];
	size_t count, label_room;
	uint32_t first;
	size_t last_offset; /* of the last message: the one that will ask for an acknowledgement */
	int err;            /* a positive errno */
	const char *table;
};

void fc_nft_begin(struct fc_nft_batch *batch, struct fc_netns *netns);

/* The number that the next message must carry. */
uint32_t fc_nft_seq(const struct fc_nft_batch *batch);

/* Appends a whole message, which must carry fc_nft_seq(). */
void fc_nft_append(struct fc_nft_batch *batch, const struct nlmsghdr *message, const char *label);

/* Ends the batch, sends it and says what came of it. Returns 0 or -errno. */
int fc_nft_commit(struct fc_nft_batch *batch, struct fc_netns *netns, const char *op, struct fc_error *error);

void fc_nft_free(struct fc_nft_batch *batch);

/* A chain; one without a type hangs on no hook, and rules lead to it. */
struct fc_nft_chain {
	const char *name, *type;
	uint32_t hook;
	int32_t priority;
};

void fc_nft_put_chain(struct fc_nft_batch *batch, const struct fc_nft_chain *chain);

/* Where memory is lacking, `failed` says so and the rest is nothing. */
struct fc_nft_rule {
	struct nftnl_rule *object;
	bool failed;
};

void fc_nft_rule_begin(struct fc_nft_rule *rule, const char *table, const char *chain);

/* Appends the rule to its chain and frees it. `number` counts from 1 within what the caller was given. */
void fc_nft_rule_end(struct fc_nft_rule *rule, struct fc_nft_batch *batch, const char *what, size_t number);

/* A new expression at the rule's end, which then owns it; or NULL, which the two below take. */
struct nftnl_expr *fc_nft_add(struct fc_nft_rule *rule, const char *kind);
void fc_nft_number(struct nftnl_expr *expr, uint16_t key, uint32_t value);
void fc_nft_data(struct fc_nft_rule *rule, struct nftnl_expr *expr, uint16_t key, const void *data, size_t size);

/* Into the register `to`. What is shorter than a register's 4 bytes is followed by zeros. */
void fc_nft_load_payload(struct fc_nft_rule *rule, uint32_t to, uint32_t base, size_t offset, size_t size);
void fc_nft_load_meta(struct fc_nft_rule *rule, uint32_t to, uint32_t key);
void fc_nft_load_immediate(struct fc_nft_rule *rule, uint32_t to, const void *data, size_t size);

/* Of register 1. */
void fc_nft_compare(struct fc_nft_rule *rule, uint32_t operator, const void * data, size_t size);
void fc_nft_mask(struct fc_nft_rule *rule, uint32_t mask);

/* NF_ACCEPT or NF_DROP; or on in the chain `to`, and back at its end. */
void fc_nft_verdict(struct fc_nft_rule *rule, uint32_t code);
void fc_nft_jump(struct fc_nft_rule *rule, const char *to);

/* The link's name: all of it with its padding, or what stands before a "*" alone. NULL and "*" match every link. */
void fc_nft_match_link(struct fc_nft_rule *rule, uint32_t key, const char *name, bool prefix);
void fc_nft_match_protocol(struct fc_nft_rule *rule, uint8_t protocol);

/* The port of the destination, which stands at the same place in TCP and UDP. */
void fc_nft_match_port(struct fc_nft_rule *rule, uint16_t port);

/* Any of the states. */
void fc_nft_match_state(struct fc_nft_rule *rule, uint32_t states);

#endif
