// SPDX-License-Identifier: Apache-2.0
#include "net/nft_internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <libnftnl/chain.h>
#include <libnftnl/expr.h>
#include <libnftnl/rule.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char TRANSACTION[] = "transaction";

void fc_nft_free(struct fc_nft_batch *batch) {
	free(batch->bytes);
	free(batch->labels);
}

uint32_t fc_nft_seq(const struct fc_nft_batch *batch) {
	return batch->first + (uint32_t)batch->count;
}

static int make_room(struct fc_nft_batch *batch, size_t more) {
	if (batch->size + more > batch->room) {
		size_t room = 2 * batch->room + more;
		char *bytes = realloc(batch->bytes, room);
		if (!bytes)
			return -ENOMEM;
		batch->bytes = bytes;
		batch->room = room;
	}
	if (batch->count >= batch->label_room) {
		size_t room = 2 * batch->label_room + 16;
		void *labels = reallocarray(batch->labels, room, FC_NFT_LABEL);
		if (!labels)
			return -ENOMEM;
		batch->labels = labels;
		batch->label_room = room;
	}
	return 0;
}

void fc_nft_append(struct fc_nft_batch *batch, const struct nlmsghdr *message, const char *label) {
	size_t size = NLMSG_ALIGN(message->nlmsg_len);
	if (batch->err)
		return;
	if (make_room(batch, size) < 0) {
		batch->err = ENOMEM;
		return;
	}
	memcpy(batch->bytes + batch->size, message, message->nlmsg_len);
	memset(batch->bytes + batch->size + message->nlmsg_len, 0, size - message->nlmsg_len);
	batch->last_offset = batch->size;
	batch->size += size;
	snprintf(batch->labels[batch->count++], FC_NFT_LABEL, "%s", label);
}

void fc_nft_begin(struct fc_nft_batch *batch, struct fc_netns *netns) {
	struct fc_nft_message message;
	batch->first = netns->filter.seq + 1;
	fc_nft_append(batch, nftnl_batch_begin(message.bytes, fc_nft_seq(batch)), TRANSACTION);
}

/* The label of a message's sequence number: what the kernel's answer is about. */
static const char *label_of(const struct fc_nft_batch *batch, uint32_t seq) {
	return seq >= batch->first && seq - batch->first < batch->count ? batch->labels[seq - batch->first]
	                                                                : TRANSACTION;
}

static int report(struct fc_error *error, int r, const char *op, const struct fc_nft_batch *batch,
                  const struct fc_netlink_answer *answer) {
	char where[160];
	const char *label = label_of(batch, answer->err_seq);
	snprintf(where, sizeof where, strcmp(label, TRANSACTION) == 0 ? "%s" : "%s: %s", op, label);
	fc_netlink_error(error, r, where, batch->table, answer);
	if (error && r == -ENOENT && (strncmp(label, "chain", 5) == 0 || strncmp(label, "rule", 4) == 0))
		snprintf(error->hint, sizeof error->hint,
		         "the kernel lacks one of the modules nft_chain_nat, nft_nat, nft_masq, nft_ct, nft_fib_ipv4, "
		         "nft_reject_ipv4");
	return r;
}

int fc_nft_commit(struct fc_nft_batch *batch, struct fc_netns *netns, const char *op, struct fc_error *error) {
	struct fc_nft_message message;
	struct nlmsghdr *last = (struct nlmsghdr *)(void *)(batch->bytes + batch->last_offset);
	struct fc_netlink_answer answer = {.first = batch->first};
	if (batch->err)
		return fc_error_set(error, batch->err, op, batch->table, NULL, NULL);
	/* Kernels before 6.10 acknowledge no batch end, but every object that asks for it. */
	last->nlmsg_flags |= NLM_F_ACK;
	answer.last = last->nlmsg_seq;
	fc_nft_append(batch, nftnl_batch_end(message.bytes, fc_nft_seq(batch)), TRANSACTION);
	if (batch->err)
		return fc_error_set(error, batch->err, op, batch->table, NULL, NULL);
	netns->filter.seq = fc_nft_seq(batch);
	int r = fc_netlink_batch(&netns->filter, batch->bytes, batch->size, &answer);
	return r < 0 ? report(error, r, op, batch, &answer) : 0;
}

/* Chains */

static int fill_chain(struct nftnl_chain *object, const struct fc_nft_chain *chain, const char *table) {
	if (nftnl_chain_set_str(object, NFTNL_CHAIN_TABLE, table) < 0 ||
	    nftnl_chain_set_str(object, NFTNL_CHAIN_NAME, chain->name) < 0 ||
	    (chain->type && nftnl_chain_set_str(object, NFTNL_CHAIN_TYPE, chain->type) < 0))
		return -ENOMEM;
	if (!chain->type)
		return 0;
	nftnl_chain_set_u32(object, NFTNL_CHAIN_HOOKNUM, chain->hook);
	nftnl_chain_set_s32(object, NFTNL_CHAIN_PRIO, chain->priority);
	nftnl_chain_set_u32(object, NFTNL_CHAIN_POLICY, NF_ACCEPT);
	return 0;
}

void fc_nft_put_chain(struct fc_nft_batch *batch, const struct fc_nft_chain *chain) {
	struct fc_nft_message message;
	char label[FC_NFT_LABEL];
	struct nftnl_chain *object = nftnl_chain_alloc();
	if (!object || fill_chain(object, chain, batch->table) < 0) {
		batch->err = ENOMEM;
	} else {
		struct nlmsghdr *header = nftnl_nlmsg_build_hdr(message.bytes, NFT_MSG_NEWCHAIN, NFPROTO_IPV4,
		                                                NLM_F_CREATE, fc_nft_seq(batch));
		nftnl_chain_nlmsg_build_payload(header, object);
		snprintf(label, sizeof label, "chain %s", chain->name);
		fc_nft_append(batch, header, label);
	}
	if (object)
		nftnl_chain_free(object);
}

/* Rules */

void fc_nft_rule_begin(struct fc_nft_rule *rule, const char *table, const char *chain) {
	rule->object = nftnl_rule_alloc();
	rule->failed = !rule->object || nftnl_rule_set_str(rule->object, NFTNL_RULE_TABLE, table) < 0 ||
	               nftnl_rule_set_str(rule->object, NFTNL_RULE_CHAIN, chain) < 0;
	if (!rule->failed)
		nftnl_rule_set_u32(rule->object, NFTNL_RULE_FAMILY, NFPROTO_IPV4);
}

void fc_nft_rule_end(struct fc_nft_rule *rule, struct fc_nft_batch *batch, const char *what, size_t number) {
	struct fc_nft_message message;
	char label[FC_NFT_LABEL];
	if (rule->failed) {
		batch->err = ENOMEM;
	} else {
		struct nlmsghdr *header = nftnl_nlmsg_build_hdr(message.bytes, NFT_MSG_NEWRULE, NFPROTO_IPV4,
		                                                NLM_F_CREATE | NLM_F_APPEND, fc_nft_seq(batch));
		nftnl_rule_nlmsg_build_payload(header, rule->object);
		snprintf(label, sizeof label, "rule %s %zu", what, number);
		fc_nft_append(batch, header, label);
	}
	if (rule->object)
		nftnl_rule_free(rule->object);
}

struct nftnl_expr *fc_nft_add(struct fc_nft_rule *rule, const char *kind) {
	struct nftnl_expr *expr = rule->failed ? NULL : nftnl_expr_alloc(kind);
	if (expr)
		nftnl_rule_add_expr(rule->object, expr);
	else
		rule->failed = true;
	return expr;
}

void fc_nft_number(struct nftnl_expr *expr, uint16_t key, uint32_t value) {
	if (expr)
		nftnl_expr_set_u32(expr, key, value);
}

void fc_nft_data(struct fc_nft_rule *rule, struct nftnl_expr *expr, uint16_t key, const void *data, size_t size) {
	if (expr && nftnl_expr_set(expr, key, data, (uint32_t)size) < 0)
		rule->failed = true;
}

void fc_nft_load_payload(struct fc_nft_rule *rule, uint32_t to, uint32_t base, size_t offset, size_t size) {
	struct nftnl_expr *expr = fc_nft_add(rule, "payload");
	fc_nft_number(expr, NFTNL_EXPR_PAYLOAD_BASE, base);
	fc_nft_number(expr, NFTNL_EXPR_PAYLOAD_OFFSET, (uint32_t)offset);
	fc_nft_number(expr, NFTNL_EXPR_PAYLOAD_LEN, (uint32_t)size);
	fc_nft_number(expr, NFTNL_EXPR_PAYLOAD_DREG, to);
}

void fc_nft_load_meta(struct fc_nft_rule *rule, uint32_t to, uint32_t key) {
	struct nftnl_expr *expr = fc_nft_add(rule, "meta");
	fc_nft_number(expr, NFTNL_EXPR_META_KEY, key);
	fc_nft_number(expr, NFTNL_EXPR_META_DREG, to);
}

void fc_nft_compare(struct fc_nft_rule *rule, uint32_t operator, const void * data, size_t size) {
	struct nftnl_expr *expr = fc_nft_add(rule, "cmp");
	fc_nft_number(expr, NFTNL_EXPR_CMP_SREG, NFT_REG_1);
	fc_nft_number(expr, NFTNL_EXPR_CMP_OP, operator);
	fc_nft_data(rule, expr, NFTNL_EXPR_CMP_DATA, data, size);
}

void fc_nft_mask(struct fc_nft_rule *rule, uint32_t mask) {
	uint32_t zero = 0;
	struct nftnl_expr *expr = fc_nft_add(rule, "bitwise");
	fc_nft_number(expr, NFTNL_EXPR_BITWISE_SREG, NFT_REG_1);
	fc_nft_number(expr, NFTNL_EXPR_BITWISE_DREG, NFT_REG_1);
	fc_nft_number(expr, NFTNL_EXPR_BITWISE_LEN, sizeof mask);
	fc_nft_data(rule, expr, NFTNL_EXPR_BITWISE_MASK, &mask, sizeof mask);
	fc_nft_data(rule, expr, NFTNL_EXPR_BITWISE_XOR, &zero, sizeof zero);
}

void fc_nft_load_immediate(struct fc_nft_rule *rule, uint32_t destination, const void *data, size_t size) {
	struct nftnl_expr *expr = fc_nft_add(rule, "immediate");
	fc_nft_number(expr, NFTNL_EXPR_IMM_DREG, destination);
	fc_nft_data(rule, expr, NFTNL_EXPR_IMM_DATA, data, size);
}

void fc_nft_verdict(struct fc_nft_rule *rule, uint32_t code) {
	struct nftnl_expr *expr = fc_nft_add(rule, "immediate");
	fc_nft_number(expr, NFTNL_EXPR_IMM_DREG, NFT_REG_VERDICT);
	fc_nft_number(expr, NFTNL_EXPR_IMM_VERDICT, code);
}

void fc_nft_jump(struct fc_nft_rule *rule, const char *to) {
	struct nftnl_expr *expr = fc_nft_add(rule, "immediate");
	fc_nft_number(expr, NFTNL_EXPR_IMM_DREG, NFT_REG_VERDICT);
	fc_nft_number(expr, NFTNL_EXPR_IMM_VERDICT, (uint32_t)NFT_JUMP);
	if (expr && nftnl_expr_set_str(expr, NFTNL_EXPR_IMM_CHAIN, to) < 0)
		rule->failed = true;
}

void fc_nft_match_link(struct fc_nft_rule *rule, uint32_t key, const char *name, bool prefix) {
	char padded[IF_NAMESIZE] = {0};
	size_t size = name ? strlen(name) : 0;
	if (size && name[size - 1] == '*') {
		prefix = true;
		size--;
	}
	if (size == 0)
		return;
	memcpy(padded, name, size < sizeof padded ? size : sizeof padded - 1);
	fc_nft_load_meta(rule, NFT_REG_1, key);
	fc_nft_compare(rule, NFT_CMP_EQ, padded, prefix ? size : sizeof padded);
}

void fc_nft_match_protocol(struct fc_nft_rule *rule, uint8_t protocol) {
	fc_nft_load_meta(rule, NFT_REG_1, NFT_META_L4PROTO);
	fc_nft_compare(rule, NFT_CMP_EQ, &protocol, sizeof protocol);
}

void fc_nft_match_port(struct fc_nft_rule *rule, uint16_t port) {
	uint16_t value = htons(port);
	fc_nft_load_payload(rule, NFT_REG_1, NFT_PAYLOAD_TRANSPORT_HEADER, 2, sizeof value);
	fc_nft_compare(rule, NFT_CMP_EQ, &value, sizeof value);
}

void fc_nft_match_state(struct fc_nft_rule *rule, uint32_t states) {
	uint32_t zero = 0;
	struct nftnl_expr *expr = fc_nft_add(rule, "ct");
	fc_nft_number(expr, NFTNL_EXPR_CT_KEY, NFT_CT_STATE);
	fc_nft_number(expr, NFTNL_EXPR_CT_DREG, NFT_REG_1);
	fc_nft_mask(rule, states);
	fc_nft_compare(rule, NFT_CMP_NEQ, &zero, sizeof zero);
}
