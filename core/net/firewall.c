// SPDX-License-Identifier: Apache-2.0
#include "net/firewall.h"

#include <arpa/inet.h>
#include <libnftnl/chain.h>
#include <libnftnl/common.h>
#include <libnftnl/expr.h>
#include <libnftnl/rule.h>
#include <libnftnl/table.h>
#include <libnftnl/udata.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/netfilter/nf_nat.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netinet/ip.h>
#include <netinet/ip_icmp.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "net/address.h"
#include "net/firewall_internal.h"
#include "net/netns_internal.h"

/* What linux/netfilter_ipv4.h calls these; that header does not go together with netinet/in.h. */
enum { PRIORITY_RAW = -300, PRIORITY_DSTNAT = -100, PRIORITY_FILTER = 0, PRIORITY_SRCNAT = 100 };

enum {
	MESSAGE_SIZE = 8192, /* libnftnl writes a message without looking for room; the longest here is below 2 KiB */
	LABEL_SIZE = 32,
};

static const char APPLY[] = "apply firewall";

/*
 * The batch: messages one after another, sent as one datagram, with sequence numbers from `first` on. Each has a label,
 * so that a failure can be said to be of an object. The first failure to build is kept, and all that follows is
 * nothing.
 */
struct batch {
	char *bytes;
	size_t size, room;
	char (*labels)[LABEL_SIZE];
	size_t count, label_room;
	uint32_t first;
	size_t last_offset; /* of the last message: the one that will ask for an acknowledgement */
	int err;            /* a positive errno */
	const char *table;
};

static void batch_free(struct batch *batch) {
	free(batch->bytes);
	free(batch->labels);
}

static uint32_t next_seq(const struct batch *batch) {
	return batch->first + (uint32_t)batch->count;
}

static int make_room(struct batch *batch, size_t more) {
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
		void *labels = reallocarray(batch->labels, room, LABEL_SIZE);
		if (!labels)
			return -ENOMEM;
		batch->labels = labels;
		batch->label_room = room;
	}
	return 0;
}

/* Appends a whole message, which must carry next_seq(). */
static void append(struct batch *batch, const struct nlmsghdr *message, const char *label) {
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
	snprintf(batch->labels[batch->count++], LABEL_SIZE, "%s", label);
}

struct message {
	_Alignas(struct nlmsghdr) char bytes[MESSAGE_SIZE];
};

static void batch_begin(struct batch *batch, struct fc_netns *netns) {
	struct message message;
	batch->first = netns->filter.seq + 1;
	append(batch, nftnl_batch_begin(message.bytes, next_seq(batch)), "transaction");
}

/* The label of a message's sequence number: what the kernel's answer is about. */
static const char *label_of(const struct batch *batch, uint32_t seq) {
	return seq >= batch->first && seq - batch->first < batch->count ? batch->labels[seq - batch->first]
	                                                                : "transaction";
}

static int report(struct fc_error *error, int r, const char *op, const struct batch *batch,
                  const struct fc_netlink_answer *answer) {
	char where[160];
	bool whole = strcmp(label_of(batch, answer->err_seq), "transaction") == 0;
	snprintf(where, sizeof where, whole ? "%s" : "%s: %s", op, label_of(batch, answer->err_seq));
	fc_netlink_error(error, r, where, batch->table, answer);
	if (error && r == -ENOENT && op == APPLY)
		snprintf(error->hint, sizeof error->hint,
		         "the kernel lacks one of the modules nft_chain_nat, nft_nat, nft_masq, nft_ct, nft_fib_ipv4");
	return r;
}

/* Ends the batch, sends it and says what came of it. */
static int commit(struct batch *batch, struct fc_netns *netns, const char *op, struct fc_error *error) {
	struct message message;
	struct nlmsghdr *last = (struct nlmsghdr *)(void *)(batch->bytes + batch->last_offset);
	struct fc_netlink_answer answer = {.first = batch->first};
	if (batch->err)
		return fc_error_set(error, batch->err, op, batch->table, NULL, NULL);
	/* Kernels before 6.10 acknowledge no batch end, but every object that asks for it. */
	last->nlmsg_flags |= NLM_F_ACK;
	answer.last = last->nlmsg_seq;
	append(batch, nftnl_batch_end(message.bytes, next_seq(batch)), "transaction");
	if (batch->err)
		return fc_error_set(error, batch->err, op, batch->table, NULL, NULL);
	netns->filter.seq = next_seq(batch);
	int r = fc_netlink_batch(&netns->filter, batch->bytes, batch->size, &answer);
	return r < 0 ? report(error, r, op, batch, &answer) : 0;
}

/* Tables */

/* nft's own form of a comment: type, length, text with its NUL. */
static int set_comment(struct nftnl_table *table, const char *comment) {
	struct nftnl_udata_buf *data = nftnl_udata_buf_alloc(256);
	int r = -ENOMEM;
	if (data && nftnl_udata_put_strz(data, NFTNL_UDATA_TABLE_COMMENT, comment))
		r = nftnl_table_set_data(table, NFTNL_TABLE_USERDATA, nftnl_udata_buf_data(data),
		                         nftnl_udata_buf_len(data));
	if (data)
		nftnl_udata_buf_free(data);
	return r;
}

/* Adds NFT_MSG_NEWTABLE, with flags such as NLM_F_EXCL, or NFT_MSG_DELTABLE. */
static void put_table(struct batch *batch, uint16_t type, uint16_t flags, const char *comment) {
	struct message message;
	struct nftnl_table *table = nftnl_table_alloc();
	if (!table || nftnl_table_set_str(table, NFTNL_TABLE_NAME, batch->table) < 0 ||
	    (comment && set_comment(table, comment) < 0)) {
		batch->err = ENOMEM;
	} else {
		struct nlmsghdr *header =
		        nftnl_nlmsg_build_hdr(message.bytes, type, NFPROTO_IPV4, flags, next_seq(batch));
		nftnl_table_nlmsg_build_payload(header, table);
		append(batch, header, "table");
	}
	if (table)
		nftnl_table_free(table);
}

/* Chains */

struct chain {
	const char *name, *type;
	uint32_t hook;
	int32_t priority;
};

static const struct chain RAW = {"raw", "filter", NF_INET_PRE_ROUTING, PRIORITY_RAW};
static const struct chain PREROUTING = {"prerouting", "nat", NF_INET_PRE_ROUTING, PRIORITY_DSTNAT};
static const struct chain OUTPUT = {"output", "nat", NF_INET_LOCAL_OUT, PRIORITY_DSTNAT};
static const struct chain POSTROUTING = {"postrouting", "nat", NF_INET_POST_ROUTING, PRIORITY_SRCNAT};
static const struct chain FORWARD = {"forward", "filter", NF_INET_FORWARD, PRIORITY_FILTER};
static const struct chain INPUT = {"input", "filter", NF_INET_LOCAL_IN, PRIORITY_FILTER};

static int fill_chain(struct nftnl_chain *object, const struct chain *chain, const char *table) {
	if (nftnl_chain_set_str(object, NFTNL_CHAIN_TABLE, table) < 0 ||
	    nftnl_chain_set_str(object, NFTNL_CHAIN_NAME, chain->name) < 0 ||
	    nftnl_chain_set_str(object, NFTNL_CHAIN_TYPE, chain->type) < 0)
		return -ENOMEM;
	nftnl_chain_set_u32(object, NFTNL_CHAIN_HOOKNUM, chain->hook);
	nftnl_chain_set_s32(object, NFTNL_CHAIN_PRIO, chain->priority);
	nftnl_chain_set_u32(object, NFTNL_CHAIN_POLICY, NF_ACCEPT);
	return 0;
}

static void put_chain(struct batch *batch, const struct chain *chain) {
	struct message message;
	char label[LABEL_SIZE];
	struct nftnl_chain *object = nftnl_chain_alloc();
	if (!object || fill_chain(object, chain, batch->table) < 0) {
		batch->err = ENOMEM;
	} else {
		struct nlmsghdr *header = nftnl_nlmsg_build_hdr(message.bytes, NFT_MSG_NEWCHAIN, NFPROTO_IPV4,
		                                                NLM_F_CREATE, next_seq(batch));
		nftnl_chain_nlmsg_build_payload(header, object);
		snprintf(label, sizeof label, "chain %s", chain->name);
		append(batch, header, label);
	}
	if (object)
		nftnl_chain_free(object);
}

/*
 * Rules. A rule is a row of expressions: each loads a register, compares it (a mismatch ends the rule), or acts. Where
 * memory is lacking, `failed` says so and the rest is nothing.
 */

struct rule {
	struct nftnl_rule *object;
	bool failed;
};

static void rule_begin(struct rule *rule, const char *table, const char *chain) {
	rule->object = nftnl_rule_alloc();
	rule->failed = !rule->object || nftnl_rule_set_str(rule->object, NFTNL_RULE_TABLE, table) < 0 ||
	               nftnl_rule_set_str(rule->object, NFTNL_RULE_CHAIN, chain) < 0;
	if (!rule->failed)
		nftnl_rule_set_u32(rule->object, NFTNL_RULE_FAMILY, NFPROTO_IPV4);
}

/* Appends the rule to its chain and frees it. `number` counts from 1 within what the caller was given. */
static void rule_end(struct rule *rule, struct batch *batch, const char *what, size_t number) {
	struct message message;
	char label[LABEL_SIZE];
	if (rule->failed) {
		batch->err = ENOMEM;
	} else {
		struct nlmsghdr *header = nftnl_nlmsg_build_hdr(message.bytes, NFT_MSG_NEWRULE, NFPROTO_IPV4,
		                                                NLM_F_CREATE | NLM_F_APPEND, next_seq(batch));
		nftnl_rule_nlmsg_build_payload(header, rule->object);
		snprintf(label, sizeof label, "rule %s %zu", what, number);
		append(batch, header, label);
	}
	if (rule->object)
		nftnl_rule_free(rule->object);
}

/* A new expression at the rule's end, which then owns it; or NULL. */
static struct nftnl_expr *add(struct rule *rule, const char *kind) {
	struct nftnl_expr *expr = rule->failed ? NULL : nftnl_expr_alloc(kind);
	if (expr)
		nftnl_rule_add_expr(rule->object, expr);
	else
		rule->failed = true;
	return expr;
}

static void set_number(struct nftnl_expr *expr, uint16_t key, uint32_t value) {
	if (expr)
		nftnl_expr_set_u32(expr, key, value);
}

static void set_data(struct rule *rule, struct nftnl_expr *expr, uint16_t key, const void *data, size_t size) {
	if (expr && nftnl_expr_set(expr, key, data, (uint32_t)size) < 0)
		rule->failed = true;
}

static void load_payload(struct rule *rule, uint32_t base, size_t offset, size_t size) {
	struct nftnl_expr *expr = add(rule, "payload");
	set_number(expr, NFTNL_EXPR_PAYLOAD_BASE, base);
	set_number(expr, NFTNL_EXPR_PAYLOAD_OFFSET, (uint32_t)offset);
	set_number(expr, NFTNL_EXPR_PAYLOAD_LEN, (uint32_t)size);
	set_number(expr, NFTNL_EXPR_PAYLOAD_DREG, NFT_REG_1);
}

static void load_meta(struct rule *rule, uint32_t key) {
	struct nftnl_expr *expr = add(rule, "meta");
	set_number(expr, NFTNL_EXPR_META_KEY, key);
	set_number(expr, NFTNL_EXPR_META_DREG, NFT_REG_1);
}

static void compare(struct rule *rule, uint32_t operator, const void * data, size_t size) {
	struct nftnl_expr *expr = add(rule, "cmp");
	set_number(expr, NFTNL_EXPR_CMP_SREG, NFT_REG_1);
	set_number(expr, NFTNL_EXPR_CMP_OP, operator);
	set_data(rule, expr, NFTNL_EXPR_CMP_DATA, data, size);
}

static void mask_register(struct rule *rule, uint32_t mask) {
	uint32_t zero = 0;
	struct nftnl_expr *expr = add(rule, "bitwise");
	set_number(expr, NFTNL_EXPR_BITWISE_SREG, NFT_REG_1);
	set_number(expr, NFTNL_EXPR_BITWISE_DREG, NFT_REG_1);
	set_number(expr, NFTNL_EXPR_BITWISE_LEN, sizeof mask);
	set_data(rule, expr, NFTNL_EXPR_BITWISE_MASK, &mask, sizeof mask);
	set_data(rule, expr, NFTNL_EXPR_BITWISE_XOR, &zero, sizeof zero);
}

static void load_immediate(struct rule *rule, uint32_t destination, const void *data, size_t size) {
	struct nftnl_expr *expr = add(rule, "immediate");
	set_number(expr, NFTNL_EXPR_IMM_DREG, destination);
	set_data(rule, expr, NFTNL_EXPR_IMM_DATA, data, size);
}

static void verdict(struct rule *rule, uint32_t code) {
	struct nftnl_expr *expr = add(rule, "immediate");
	set_number(expr, NFTNL_EXPR_IMM_DREG, NFT_REG_VERDICT);
	set_number(expr, NFTNL_EXPR_IMM_VERDICT, code);
}

/* The link's name: all of it with its padding, or what stands before a "*" alone. NULL and "*" match every link. */
static void match_link(struct rule *rule, uint32_t key, const char *name, bool prefix) {
	char padded[IF_NAMESIZE] = {0};
	size_t size = name ? strlen(name) : 0;
	if (size && name[size - 1] == '*') {
		prefix = true;
		size--;
	}
	if (size == 0)
		return;
	memcpy(padded, name, size < sizeof padded ? size : sizeof padded - 1);
	load_meta(rule, key);
	compare(rule, NFT_CMP_EQ, padded, prefix ? size : sizeof padded);
}

static void match_source(struct rule *rule, uint32_t operator, const struct fc_prefix * prefix) {
	struct in_addr mask = fc_prefix_mask(prefix->length);
	uint32_t network = prefix->address.s_addr & mask.s_addr;
	load_payload(rule, NFT_PAYLOAD_NETWORK_HEADER, offsetof(struct iphdr, saddr), sizeof network);
	if (prefix->length < 32)
		mask_register(rule, mask.s_addr);
	compare(rule, operator, & network, sizeof network);
}

static void match_destination(struct rule *rule, const char *address) {
	struct in_addr value;
	if (address && fc_address_parse(address, &value) == 0) {
		load_payload(rule, NFT_PAYLOAD_NETWORK_HEADER, offsetof(struct iphdr, daddr), sizeof value);
		compare(rule, NFT_CMP_EQ, &value, sizeof value);
		return;
	}
	/* No address: this namespace's own ones, but never what is on its way to somewhere else. */
	uint32_t local = RTN_LOCAL;
	struct nftnl_expr *expr = add(rule, "fib");
	set_number(expr, NFTNL_EXPR_FIB_FLAGS, NFTA_FIB_F_DADDR);
	set_number(expr, NFTNL_EXPR_FIB_RESULT, NFT_FIB_RESULT_ADDRTYPE);
	set_number(expr, NFTNL_EXPR_FIB_DREG, NFT_REG_1);
	compare(rule, NFT_CMP_EQ, &local, sizeof local);
}

static void match_protocol(struct rule *rule, uint8_t protocol) {
	load_meta(rule, NFT_META_L4PROTO);
	compare(rule, NFT_CMP_EQ, &protocol, sizeof protocol);
}

/* The port stands at the same place in TCP and UDP. */
static void match_port(struct rule *rule, uint16_t port) {
	uint16_t value = htons(port);
	load_payload(rule, NFT_PAYLOAD_TRANSPORT_HEADER, 2, sizeof value);
	compare(rule, NFT_CMP_EQ, &value, sizeof value);
}

static void match_answers(struct rule *rule) {
	uint32_t zero = 0;
	struct nftnl_expr *expr = add(rule, "ct");
	set_number(expr, NFTNL_EXPR_CT_KEY, NFT_CT_STATE);
	set_number(expr, NFTNL_EXPR_CT_DREG, NFT_REG_1);
	mask_register(rule, NF_CT_STATE_BIT(IP_CT_ESTABLISHED) | NF_CT_STATE_BIT(IP_CT_RELATED));
	compare(rule, NFT_CMP_NEQ, &zero, sizeof zero);
}

static void match_echo_request(struct rule *rule) {
	uint8_t type = ICMP_ECHO;
	match_protocol(rule, IPPROTO_ICMP);
	load_payload(rule, NFT_PAYLOAD_TRANSPORT_HEADER, 0, sizeof type);
	compare(rule, NFT_CMP_EQ, &type, sizeof type);
}

/* What a table is made of. All values have been checked. */

static void put_masquerade(struct batch *batch, const struct fc_firewall_masquerade *item, size_t number) {
	struct rule rule;
	struct fc_prefix source = {.length = 0};
	fc_prefix_parse(item->source, &source);
	rule_begin(&rule, batch->table, POSTROUTING.name);
	match_source(&rule, NFT_CMP_EQ, &source);
	match_link(&rule, NFT_META_OIFNAME, item->out, false);
	add(&rule, "masq");
	rule_end(&rule, batch, "masquerade", number);
}

static void put_destination(struct rule *rule, const struct fc_firewall_dnat *item) {
	struct in_addr address = {0};
	uint16_t port = htons(item->to_port);
	fc_address_parse(item->to_address, &address);
	load_immediate(rule, NFT_REG_1, &address, sizeof address);
	if (item->to_port)
		load_immediate(rule, NFT_REG_2, &port, sizeof port);
	struct nftnl_expr *expr = add(rule, "nat");
	set_number(expr, NFTNL_EXPR_NAT_TYPE, NFT_NAT_DNAT);
	set_number(expr, NFTNL_EXPR_NAT_FAMILY, NFPROTO_IPV4);
	set_number(expr, NFTNL_EXPR_NAT_REG_ADDR_MIN, NFT_REG_1);
	if (item->to_port) {
		set_number(expr, NFTNL_EXPR_NAT_REG_PROTO_MIN, NFT_REG_2);
		set_number(expr, NFTNL_EXPR_NAT_FLAGS, NF_NAT_RANGE_PROTO_SPECIFIED);
	}
}

static void put_dnat(struct batch *batch, const struct chain *chain, const struct fc_firewall_dnat *item,
                     size_t number) {
	struct rule rule;
	rule_begin(&rule, batch->table, chain->name);
	match_destination(&rule, item->address);
	if (item->protocol)
		match_protocol(&rule, strcmp(item->protocol, "udp") == 0 ? IPPROTO_UDP : IPPROTO_TCP);
	if (item->port)
		match_port(&rule, item->port);
	put_destination(&rule, item);
	rule_end(&rule, batch, "dnat", number);
}

static void put_forward(struct batch *batch, const char *from, const char *to, bool drop, size_t number) {
	struct rule rule;
	rule_begin(&rule, batch->table, FORWARD.name);
	match_link(&rule, NFT_META_IIFNAME, from, drop);
	match_link(&rule, NFT_META_OIFNAME, to, drop);
	verdict(&rule, drop ? NF_DROP : NF_ACCEPT);
	rule_end(&rule, batch, drop ? "drop_forward" : "forward", number);
}

static void put_drop_source(struct batch *batch, const struct fc_firewall_drop_source *item, size_t number) {
	struct rule rule;
	struct fc_prefix source = {.length = 0};
	fc_prefix_parse(item->source, &source);
	rule_begin(&rule, batch->table, RAW.name);
	match_link(&rule, NFT_META_IIFNAME, item->link, false);
	match_source(&rule, NFT_CMP_NEQ, &source);
	verdict(&rule, NF_DROP);
	rule_end(&rule, batch, "drop_source", number);
}

static void put_drop_input(struct batch *batch, const char *link, size_t number) {
	void (*const accepted[])(struct rule *) = {match_answers, match_echo_request, NULL};
	for (size_t i = 0; i < sizeof accepted / sizeof accepted[0]; i++) {
		struct rule rule;
		rule_begin(&rule, batch->table, INPUT.name);
		match_link(&rule, NFT_META_IIFNAME, link, false);
		if (accepted[i])
			accepted[i](&rule);
		verdict(&rule, accepted[i] ? NF_ACCEPT : NF_DROP);
		rule_end(&rule, batch, "drop_input", number);
	}
}

static void put_nat_chains(struct batch *batch, const struct fc_firewall *firewall) {
	const struct chain *const chains[] = {&PREROUTING, &OUTPUT};
	for (size_t c = 0; c < 2 && firewall->dnat_count > 0; c++) {
		put_chain(batch, chains[c]);
		for (size_t i = 0; i < firewall->dnat_count; i++)
			put_dnat(batch, chains[c], &firewall->dnat[i], i + 1);
	}
	if (firewall->masquerade_count > 0)
		put_chain(batch, &POSTROUTING);
	for (size_t i = 0; i < firewall->masquerade_count; i++)
		put_masquerade(batch, &firewall->masquerade[i], i + 1);
}

static void put_filter_chains(struct batch *batch, const struct fc_firewall *firewall) {
	if (firewall->drop_source_count > 0)
		put_chain(batch, &RAW);
	for (size_t i = 0; i < firewall->drop_source_count; i++)
		put_drop_source(batch, &firewall->drop_source[i], i + 1);
	if (firewall->forward_count + firewall->drop_forward_count > 0)
		put_chain(batch, &FORWARD);
	for (size_t i = 0; i < firewall->forward_count; i++)
		put_forward(batch, firewall->forward[i].from, firewall->forward[i].to, false, i + 1);
	for (size_t i = 0; i < firewall->drop_forward_count; i++)
		put_forward(batch, firewall->drop_forward[i].in_prefix, firewall->drop_forward[i].out_prefix, true,
		            i + 1);
	if (firewall->drop_input_count > 0)
		put_chain(batch, &INPUT);
	for (size_t i = 0; i < firewall->drop_input_count; i++)
		put_drop_input(batch, firewall->drop_input[i], i + 1);
}

/* Checks. Each fills the error in the words of the option that the value came by. */

/* The name of a link or, with a "*" at its end, a prefix of names. */
static bool good_link(const char *name) {
	char bare[IF_NAMESIZE];
	size_t size = strlen(name);
	if (size == 0 || size >= sizeof bare)
		return false;
	if (name[size - 1] != '*')
		return fc_link_name_check(name) == 0;
	memcpy(bare, name, size - 1);
	bare[size - 1] = '\0';
	return size == 1 || fc_link_name_check(bare) == 0;
}

static int refuse(struct fc_error *error, const struct fc_firewall *firewall, const char *what, size_t index,
                  const char *why, const char *value) {
	char op[64];
	snprintf(op, sizeof op, "%s: rule %s %zu", APPLY, what, index + 1);
	return fc_error_set(error, EINVAL, op, firewall->table, NULL, "%s: %s", value ? value : "nothing", why);
}

static int check_link(struct fc_error *error, const struct fc_firewall *firewall, const char *what, size_t index,
                      const char *name, bool needed) {
	if (!name ? !needed : good_link(name))
		return 0;
	return refuse(error, firewall, what, index, "not a link's name", name);
}

static int check_prefix(struct fc_error *error, const struct fc_firewall *firewall, const char *what, size_t index,
                        const char *text) {
	struct fc_prefix prefix;
	if (text && fc_prefix_parse(text, &prefix) == 0)
		return 0;
	return refuse(error, firewall, what, index, "not an IPv4 network like 172.16.0.0/30", text);
}

static int check_dnat(struct fc_error *error, const struct fc_firewall *firewall, size_t index) {
	const struct fc_firewall_dnat *item = &firewall->dnat[index];
	struct in_addr address;
	if (item->protocol && strcmp(item->protocol, "tcp") != 0 && strcmp(item->protocol, "udp") != 0)
		return refuse(error, firewall, "dnat", index, "the protocol is tcp or udp", item->protocol);
	if (item->address && fc_address_parse(item->address, &address) < 0)
		return refuse(error, firewall, "dnat", index, "not an IPv4 address", item->address);
	if (!item->to_address || fc_address_parse(item->to_address, &address) < 0)
		return refuse(error, firewall, "dnat", index, "not an IPv4 address", item->to_address);
	if ((item->port && !item->protocol) || (item->to_port && !item->port))
		return refuse(error, firewall, "dnat", index,
		              "a port needs a protocol, and one to go to a port to come from", item->to_address);
	return 0;
}

static int check_name(const char *table, const char *op, struct fc_error *error) {
	size_t size = strlen(table);
	if (strncmp(table, FC_FIREWALL_PREFIX, strlen(FC_FIREWALL_PREFIX)) == 0 && size > strlen(FC_FIREWALL_PREFIX) &&
	    size < FC_FIREWALL_NAME)
		return 0;
	return fc_error_set(error, EINVAL, op, table, NULL, "fcvm's tables are called %s..., with at most %d bytes",
	                    FC_FIREWALL_PREFIX, FC_FIREWALL_NAME - 1);
}

/* nft prints a comment as it is, between quotes: what would break its output is refused. */
static int check_comment(const struct fc_firewall *firewall, struct fc_error *error) {
	const char *comment = firewall->comment;
	if (comment && strlen(comment) >= FC_FIREWALL_COMMENT)
		return fc_error_set(error, EINVAL, APPLY, firewall->table, NULL, "the comment is longer than %d bytes",
		                    FC_FIREWALL_COMMENT - 1);
	for (; comment && *comment; comment++) {
		if ((unsigned char)*comment < ' ' || *comment == '"' || *comment == 0x7f)
			return fc_error_set(error, EINVAL, APPLY, firewall->table, NULL,
			                    "the comment holds a quote or a control character");
	}
	return 0;
}

static int check_counts(const struct fc_firewall *firewall, struct fc_error *error) {
	const size_t counts[] = {firewall->masquerade_count,   firewall->forward_count,     firewall->dnat_count,
	                         firewall->drop_forward_count, firewall->drop_source_count, firewall->drop_input_count};
	for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
		if (counts[i] > FC_FIREWALL_RULES_MAX)
			return fc_error_set(error, E2BIG, APPLY, firewall->table, NULL,
			                    "more than %d rules of one sort", FC_FIREWALL_RULES_MAX);
	}
	return 0;
}

static int check_filters(const struct fc_firewall *firewall, struct fc_error *error) {
	int r = 0;
	for (size_t i = 0; r == 0 && i < firewall->forward_count; i++) {
		r = check_link(error, firewall, "forward", i, firewall->forward[i].from, false);
		if (r == 0)
			r = check_link(error, firewall, "forward", i, firewall->forward[i].to, false);
	}
	for (size_t i = 0; r == 0 && i < firewall->drop_forward_count; i++) {
		r = check_link(error, firewall, "drop_forward", i, firewall->drop_forward[i].in_prefix, false);
		if (r == 0)
			r = check_link(error, firewall, "drop_forward", i, firewall->drop_forward[i].out_prefix, false);
	}
	for (size_t i = 0; r == 0 && i < firewall->drop_source_count; i++) {
		r = check_link(error, firewall, "drop_source", i, firewall->drop_source[i].link, true);
		if (r == 0)
			r = check_prefix(error, firewall, "drop_source", i, firewall->drop_source[i].source);
	}
	for (size_t i = 0; r == 0 && i < firewall->drop_input_count; i++)
		r = check_link(error, firewall, "drop_input", i, firewall->drop_input[i], true);
	return r;
}

static int check(const struct fc_firewall *firewall, struct fc_error *error) {
	int r = check_name(firewall->table, APPLY, error);
	if (r == 0)
		r = check_comment(firewall, error);
	if (r == 0)
		r = check_counts(firewall, error);
	for (size_t i = 0; r == 0 && i < firewall->masquerade_count; i++) {
		r = check_prefix(error, firewall, "masquerade", i, firewall->masquerade[i].source);
		if (r == 0)
			r = check_link(error, firewall, "masquerade", i, firewall->masquerade[i].out, false);
	}
	for (size_t i = 0; r == 0 && i < firewall->dnat_count; i++)
		r = check_dnat(error, firewall, i);
	return r < 0 ? r : check_filters(firewall, error);
}

/* The calls */

/* One transaction: a new table, which must not exist, or one in the place of another. */
static int apply(struct fc_netns *netns, const struct fc_firewall *firewall, bool replace, struct fc_error *error) {
	struct batch batch = {.table = firewall->table};
	batch_begin(&batch, netns);
	if (replace) {
		/* Deleting needs that it exists: so it is made first, which changes nothing where it is there already.
		 */
		put_table(&batch, NFT_MSG_NEWTABLE, NLM_F_CREATE, NULL);
		put_table(&batch, NFT_MSG_DELTABLE, 0, NULL);
	}
	put_table(&batch, NFT_MSG_NEWTABLE, replace ? NLM_F_CREATE : NLM_F_CREATE | NLM_F_EXCL, firewall->comment);
	put_nat_chains(&batch, firewall);
	put_filter_chains(&batch, firewall);
	int r = commit(&batch, netns, APPLY, error);
	batch_free(&batch);
	return r;
}

int fc_firewall_apply(struct fc_netns *netns, const struct fc_firewall *firewall, struct fc_error *error) {
	int r = check(firewall, error);
	if (r < 0)
		return r;
	/*
	 * Nearly every table is new. Deleting is not done without need: the kernel then frees what was deleted after a
	 * grace period, and closing the socket waits for that (10 ms, against 0.1 for all the rest).
	 */
	r = apply(netns, firewall, false, error);
	return r == -EEXIST ? apply(netns, firewall, true, error) : r;
}

int fc_firewall_delete(struct fc_netns *netns, const char *table, struct fc_error *error) {
	struct batch batch = {.table = table};
	int r = check_name(table, "delete table", error);
	if (r < 0)
		return r;
	batch_begin(&batch, netns);
	put_table(&batch, NFT_MSG_DELTABLE, 0, NULL);
	r = commit(&batch, netns, "delete table", error);
	batch_free(&batch);
	return r;
}

/* Reading tables */

/* Finds nft's comment among the type-length-value entries of a table's user data. */
static void parse_comment(const struct nlattr *attribute, char *to, size_t size) {
	const uint8_t *data = mnl_attr_get_payload(attribute);
	size_t left = mnl_attr_get_payload_len(attribute);
	while (left >= 2 && left - 2 >= data[1]) {
		size_t length = data[1];
		if (data[0] == NFTNL_UDATA_TABLE_COMMENT && length > 0 && data[1 + length] == '\0')
			snprintf(to, size, "%s", (const char *)data + 2);
		data += 2 + length;
		left -= 2 + length;
	}
}

int fc_firewall_table_parse(const struct nlmsghdr *message, struct fc_firewall_table *ret_table) {
	struct fc_firewall_table table = {.name = ""};
	if (message->nlmsg_type != (NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWTABLE) ||
	    mnl_nlmsg_get_payload_len(message) < sizeof(struct nfgenmsg))
		return -EBADMSG;
	struct fc_netlink_walk walk = fc_netlink_attributes(message, sizeof(struct nfgenmsg));
	for (const struct nlattr *attribute; (attribute = fc_netlink_next(&walk));) {
		const char *name = fc_netlink_string(attribute);
		if (mnl_attr_get_type(attribute) == NFTA_TABLE_NAME && name && strlen(name) < sizeof table.name)
			memcpy(table.name, name, strlen(name) + 1);
		else if (mnl_attr_get_type(attribute) == NFTA_TABLE_USERDATA)
			parse_comment(attribute, table.comment, sizeof table.comment);
	}
	if (strncmp(table.name, FC_FIREWALL_PREFIX, strlen(FC_FIREWALL_PREFIX)) != 0)
		return 0;
	*ret_table = table;
	return 1;
}

struct tables {
	struct fc_firewall_table *items;
	size_t count;
};

static int collect_table(const struct nlmsghdr *message, void *data) {
	struct tables *tables = data;
	struct fc_firewall_table table;
	if (!message) { /* the dump begins anew */
		tables->count = 0;
		return 0;
	}
	int r = fc_firewall_table_parse(message, &table);
	if (r <= 0)
		return r;
	struct fc_firewall_table *more = reallocarray(tables->items, tables->count + 1, sizeof *more);
	if (!more)
		return -ENOMEM;
	tables->items = more;
	tables->items[tables->count++] = table;
	return 0;
}

int fc_firewall_list(struct fc_netns *netns, struct fc_firewall_table **ret_tables, size_t *ret_count,
                     struct fc_error *error) {
	struct message message;
	struct tables tables = {.items = NULL};
	struct fc_netlink_answer answer = {.fn = collect_table, .data = &tables};
	struct nlmsghdr *header = nftnl_nlmsg_build_hdr(message.bytes, NFT_MSG_GETTABLE, NFPROTO_IPV4, NLM_F_DUMP, 0);
	int r = fc_netlink_request(&netns->filter, header, &answer);
	if (r < 0) {
		free(tables.items);
		return fc_netlink_error(error, r, "list tables", NULL, &answer);
	}
	*ret_tables = tables.items;
	*ret_count = tables.count;
	return 0;
}
