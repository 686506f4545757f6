// SPDX-License-Identifier: Apache-2.0
#include "net/firewall.h"

#include <stdio.h> /* first: libnftnl/expr.h needs it */

#include <arpa/inet.h>
#include <libnftnl/expr.h>
#include <libnftnl/table.h>
#include <libnftnl/udata.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_nat.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netinet/ip.h>
#include <netinet/ip_icmp.h>
#include <string.h>

#include "base/cleanup.h"
#include "net/address.h"
#include "net/firewall_internal.h"
#include "net/nft_internal.h"

static const char APPLY[] = "apply firewall";

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
static void put_table(struct fc_nft_batch *batch, uint16_t type, uint16_t flags, const char *comment) {
	struct fc_nft_message message;
	struct nftnl_table *table = nftnl_table_alloc();
	if (!table || nftnl_table_set_str(table, NFTNL_TABLE_NAME, batch->table) < 0 ||
	    (comment && set_comment(table, comment) < 0)) {
		batch->err = ENOMEM;
	} else {
		struct nlmsghdr *header =
		        nftnl_nlmsg_build_hdr(message.bytes, type, NFPROTO_IPV4, flags, fc_nft_seq(batch));
		nftnl_table_nlmsg_build_payload(header, table);
		fc_nft_append(batch, header, "table");
	}
	if (table)
		nftnl_table_free(table);
}

/* Chains */

static const struct fc_nft_chain RAW = {"raw", "filter", NF_INET_PRE_ROUTING, FC_NFT_PRIORITY_RAW};
static const struct fc_nft_chain PREROUTING = {"prerouting", "nat", NF_INET_PRE_ROUTING, FC_NFT_PRIORITY_DSTNAT};
static const struct fc_nft_chain OUTPUT = {"output", "nat", NF_INET_LOCAL_OUT, FC_NFT_PRIORITY_DSTNAT};
static const struct fc_nft_chain POSTROUTING = {"postrouting", "nat", NF_INET_POST_ROUTING, FC_NFT_PRIORITY_SRCNAT};
static const struct fc_nft_chain FORWARD = {"forward", "filter", NF_INET_FORWARD, FC_NFT_PRIORITY_FILTER};
static const struct fc_nft_chain INPUT = {"input", "filter", NF_INET_LOCAL_IN, FC_NFT_PRIORITY_FILTER};

/* Matching */

static void match_source(struct fc_nft_rule *rule, uint32_t operator, const struct fc_prefix * prefix) {
	struct in_addr mask = fc_prefix_mask(prefix->length);
	uint32_t network = prefix->address.s_addr & mask.s_addr;
	fc_nft_load_payload(rule, NFT_REG_1, NFT_PAYLOAD_NETWORK_HEADER, offsetof(struct iphdr, saddr), sizeof network);
	if (prefix->length < 32)
		fc_nft_mask(rule, mask.s_addr);
	fc_nft_compare(rule, operator, & network, sizeof network);
}

static void match_destination(struct fc_nft_rule *rule, const char *address) {
	struct in_addr value;
	if (address && fc_address_parse(address, &value) == 0) {
		fc_nft_load_payload(rule, NFT_REG_1, NFT_PAYLOAD_NETWORK_HEADER, offsetof(struct iphdr, daddr),
		                    sizeof value);
		fc_nft_compare(rule, NFT_CMP_EQ, &value, sizeof value);
		return;
	}
	/* No address: this namespace's own ones, but never what is on its way to somewhere else. */
	uint32_t local = RTN_LOCAL;
	struct nftnl_expr *expr = fc_nft_add(rule, "fib");
	fc_nft_number(expr, NFTNL_EXPR_FIB_FLAGS, NFTA_FIB_F_DADDR);
	fc_nft_number(expr, NFTNL_EXPR_FIB_RESULT, NFT_FIB_RESULT_ADDRTYPE);
	fc_nft_number(expr, NFTNL_EXPR_FIB_DREG, NFT_REG_1);
	fc_nft_compare(rule, NFT_CMP_EQ, &local, sizeof local);
}
static void match_answers(struct fc_nft_rule *rule) {
	fc_nft_match_state(rule, FC_NFT_ANSWERS);
}

static void match_echo_request(struct fc_nft_rule *rule) {
	uint8_t type = ICMP_ECHO;
	fc_nft_match_protocol(rule, IPPROTO_ICMP);
	fc_nft_load_payload(rule, NFT_REG_1, NFT_PAYLOAD_TRANSPORT_HEADER, 0, sizeof type);
	fc_nft_compare(rule, NFT_CMP_EQ, &type, sizeof type);
}

/* What a table is made of. All values have been checked. */

static void put_masquerade(struct fc_nft_batch *batch, const struct fc_firewall_masquerade *item, size_t number) {
	struct fc_nft_rule rule;
	struct fc_prefix source = {.length = 0};
	fc_prefix_parse(item->source, &source);
	fc_nft_rule_begin(&rule, batch->table, POSTROUTING.name);
	match_source(&rule, NFT_CMP_EQ, &source);
	fc_nft_match_link(&rule, NFT_META_OIFNAME, item->out, false);
	fc_nft_add(&rule, "masq");
	fc_nft_rule_end(&rule, batch, "masquerade", number);
}

static void put_destination(struct fc_nft_rule *rule, const struct fc_firewall_dnat *item) {
	struct in_addr address = {0};
	uint16_t port = htons(item->to_port);
	fc_address_parse(item->to_address, &address);
	fc_nft_load_immediate(rule, NFT_REG_1, &address, sizeof address);
	if (item->to_port)
		fc_nft_load_immediate(rule, NFT_REG_2, &port, sizeof port);
	struct nftnl_expr *expr = fc_nft_add(rule, "nat");
	fc_nft_number(expr, NFTNL_EXPR_NAT_TYPE, NFT_NAT_DNAT);
	fc_nft_number(expr, NFTNL_EXPR_NAT_FAMILY, NFPROTO_IPV4);
	fc_nft_number(expr, NFTNL_EXPR_NAT_REG_ADDR_MIN, NFT_REG_1);
	if (item->to_port) {
		fc_nft_number(expr, NFTNL_EXPR_NAT_REG_PROTO_MIN, NFT_REG_2);
		fc_nft_number(expr, NFTNL_EXPR_NAT_FLAGS, NF_NAT_RANGE_PROTO_SPECIFIED);
	}
}

static void put_dnat(struct fc_nft_batch *batch, const struct fc_nft_chain *chain, const struct fc_firewall_dnat *item,
                     size_t number) {
	struct fc_nft_rule rule;
	fc_nft_rule_begin(&rule, batch->table, chain->name);
	match_destination(&rule, item->address);
	if (item->protocol)
		fc_nft_match_protocol(&rule, strcmp(item->protocol, "udp") == 0 ? IPPROTO_UDP : IPPROTO_TCP);
	if (item->port)
		fc_nft_match_port(&rule, item->port);
	put_destination(&rule, item);
	fc_nft_rule_end(&rule, batch, "dnat", number);
}

static void put_forward(struct fc_nft_batch *batch, const char *from, const char *to, bool drop, size_t number) {
	struct fc_nft_rule rule;
	fc_nft_rule_begin(&rule, batch->table, FORWARD.name);
	fc_nft_match_link(&rule, NFT_META_IIFNAME, from, drop);
	fc_nft_match_link(&rule, NFT_META_OIFNAME, to, drop);
	fc_nft_verdict(&rule, drop ? NF_DROP : NF_ACCEPT);
	fc_nft_rule_end(&rule, batch, drop ? "drop_forward" : "forward", number);
}

static void put_drop_source(struct fc_nft_batch *batch, const struct fc_firewall_drop_source *item, size_t number) {
	struct fc_nft_rule rule;
	struct fc_prefix source = {.length = 0};
	fc_prefix_parse(item->source, &source);
	fc_nft_rule_begin(&rule, batch->table, RAW.name);
	fc_nft_match_link(&rule, NFT_META_IIFNAME, item->link, false);
	match_source(&rule, NFT_CMP_NEQ, &source);
	fc_nft_verdict(&rule, NF_DROP);
	fc_nft_rule_end(&rule, batch, "drop_source", number);
}

static void put_drop_input(struct fc_nft_batch *batch, const char *link, size_t number) {
	void (*const accepted[])(struct fc_nft_rule *) = {match_answers, match_echo_request, NULL};
	for (size_t i = 0; i < sizeof accepted / sizeof accepted[0]; i++) {
		struct fc_nft_rule rule;
		fc_nft_rule_begin(&rule, batch->table, INPUT.name);
		fc_nft_match_link(&rule, NFT_META_IIFNAME, link, false);
		if (accepted[i])
			accepted[i](&rule);
		fc_nft_verdict(&rule, accepted[i] ? NF_ACCEPT : NF_DROP);
		fc_nft_rule_end(&rule, batch, "drop_input", number);
	}
}

static void put_nat_chains(struct fc_nft_batch *batch, const struct fc_firewall *firewall) {
	const struct fc_nft_chain *const chains[] = {&PREROUTING, &OUTPUT};
	for (size_t c = 0; c < 2 && firewall->dnat_count > 0; c++) {
		fc_nft_put_chain(batch, chains[c]);
		for (size_t i = 0; i < firewall->dnat_count; i++)
			put_dnat(batch, chains[c], &firewall->dnat[i], i + 1);
	}
	if (firewall->masquerade_count > 0)
		fc_nft_put_chain(batch, &POSTROUTING);
	for (size_t i = 0; i < firewall->masquerade_count; i++)
		put_masquerade(batch, &firewall->masquerade[i], i + 1);
}

static void put_filter_chains(struct fc_nft_batch *batch, const struct fc_firewall *firewall) {
	if (firewall->drop_source_count > 0)
		fc_nft_put_chain(batch, &RAW);
	for (size_t i = 0; i < firewall->drop_source_count; i++)
		put_drop_source(batch, &firewall->drop_source[i], i + 1);
	if (firewall->forward_count + firewall->drop_forward_count > 0)
		fc_nft_put_chain(batch, &FORWARD);
	for (size_t i = 0; i < firewall->forward_count; i++)
		put_forward(batch, firewall->forward[i].from, firewall->forward[i].to, false, i + 1);
	for (size_t i = 0; i < firewall->drop_forward_count; i++)
		put_forward(batch, firewall->drop_forward[i].in_prefix, firewall->drop_forward[i].out_prefix, true,
		            i + 1);
	if (firewall->drop_input_count > 0)
		fc_nft_put_chain(batch, &INPUT);
	for (size_t i = 0; i < firewall->drop_input_count; i++)
		put_drop_input(batch, firewall->drop_input[i], i + 1);
}

/* Checks. Each fills the error in the words of the option that the value came by. */

bool fc_firewall_good_link(const char *name) {
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

int fc_firewall_refuse(struct fc_error *error, const struct fc_firewall *firewall, const char *what, size_t index,
                       const char *why, const char *value) {
	char op[64];
	snprintf(op, sizeof op, "%s: rule %s %zu", APPLY, what, index + 1);
	return fc_error_set(error, EINVAL, op, firewall->table, NULL, "%s: %s", value ? value : "nothing", why);
}

static int check_link(struct fc_error *error, const struct fc_firewall *firewall, const char *what, size_t index,
                      const char *name, bool needed) {
	if (!name ? !needed : fc_firewall_good_link(name))
		return 0;
	return fc_firewall_refuse(error, firewall, what, index, "not a link's name", name);
}

static int check_prefix(struct fc_error *error, const struct fc_firewall *firewall, const char *what, size_t index,
                        const char *text) {
	struct fc_prefix prefix;
	if (text && fc_prefix_parse(text, &prefix) == 0)
		return 0;
	return fc_firewall_refuse(error, firewall, what, index, "not an IPv4 network like 172.16.0.0/30", text);
}

static int check_dnat(struct fc_error *error, const struct fc_firewall *firewall, size_t index) {
	const struct fc_firewall_dnat *item = &firewall->dnat[index];
	struct in_addr address;
	if (item->protocol && strcmp(item->protocol, "tcp") != 0 && strcmp(item->protocol, "udp") != 0)
		return fc_firewall_refuse(error, firewall, "dnat", index, "the protocol is tcp or udp", item->protocol);
	if (item->address && fc_address_parse(item->address, &address) < 0)
		return fc_firewall_refuse(error, firewall, "dnat", index, "not an IPv4 address", item->address);
	if (!item->to_address || fc_address_parse(item->to_address, &address) < 0)
		return fc_firewall_refuse(error, firewall, "dnat", index, "not an IPv4 address", item->to_address);
	if ((item->port && !item->protocol) || (item->to_port && !item->port))
		return fc_firewall_refuse(error, firewall, "dnat", index,
		                          "a port needs a protocol, and one to go to a port to come from",
		                          item->to_address);
	return 0;
}

int fc_firewall_check_name(const char *table, const char *op, struct fc_error *error) {
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
	int r = fc_firewall_check_name(firewall->table, APPLY, error);
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
	if (r == 0)
		r = check_filters(firewall, error);
	return r < 0 ? r : fc_egress_check(firewall, error);
}

/* The calls */

/* One transaction: a new table, which must not exist, or one in the place of another. */
static int apply(struct fc_netns *netns, const struct fc_firewall *firewall, bool replace, struct fc_error *error) {
	struct fc_nft_batch batch = {.table = firewall->table};
	fc_nft_begin(&batch, netns);
	if (replace) {
		/* Deleting needs that it exists: so it is made first, which changes nothing where it is there already.
		 */
		put_table(&batch, NFT_MSG_NEWTABLE, NLM_F_CREATE, NULL);
		put_table(&batch, NFT_MSG_DELTABLE, 0, NULL);
	}
	put_table(&batch, NFT_MSG_NEWTABLE, replace ? NLM_F_CREATE : NLM_F_CREATE | NLM_F_EXCL, firewall->comment);
	put_nat_chains(&batch, firewall);
	put_filter_chains(&batch, firewall);
	if (firewall->egress)
		fc_egress_put(&batch, firewall->egress);
	int r = fc_nft_commit(&batch, netns, APPLY, error);
	fc_nft_free(&batch);
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
	struct fc_nft_batch batch = {.table = table};
	int r = fc_firewall_check_name(table, "delete table", error);
	if (r < 0)
		return r;
	fc_nft_begin(&batch, netns);
	put_table(&batch, NFT_MSG_DELTABLE, 0, NULL);
	r = fc_nft_commit(&batch, netns, "delete table", error);
	fc_nft_free(&batch);
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
	struct fc_nft_message message;
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
