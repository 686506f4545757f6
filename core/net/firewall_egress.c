// SPDX-License-Identifier: Apache-2.0
/*
 * core/net/firewall_egress.c: where a VM may go. firewall.h says what becomes of which packet; here is by which rules.
 *
 *   forward --> egress_forward --\                        known connection: accept; none: drop
 *                                 > by the link: egress --> allow: a set each --> accept
 *   input   --> egress_input ----/                        "granted" --> accept
 *                                                         ask --> not in "refused": into "asked", drop
 *                                                         "denied_total", "denied", reject
 *
 * The chain `ask` is one of its own so that it can be emptied: a rule that cannot do its part (a set is full) ends, and
 * the packet goes on to be denied.
 */
#include <stdio.h> /* first: libnftnl/expr.h needs it */

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <libnftnl/expr.h>
#include <libnftnl/rule.h>
#include <linux/netfilter.h>
#include <netinet/ip.h>
#include <netinet/ip_icmp.h>
#include <stdlib.h>
#include <string.h>

#include "net/firewall_internal.h"
#include "net/firewall_set_internal.h"
#include "net/nft_internal.h"

static const struct fc_nft_chain EGRESS = {.name = "egress"}, ASK = {.name = "ask"};
static const struct fc_nft_chain HOOKS[] = {
        {"egress_forward", "filter", NF_INET_FORWARD, FC_NFT_PRIORITY_FILTER},
        {"egress_input", "filter", NF_INET_LOCAL_IN, FC_NFT_PRIORITY_FILTER},
};

static const struct fc_nft_set DENIED = {.name = "denied",
                                         .whole = true,
                                         .flags = NFT_SET_EVAL,
                                         .size = FC_EGRESS_DENIED_MAX,
                                         .timeout = FC_EGRESS_DENIED_SECONDS};
static const struct fc_nft_set TOTAL = {.name = "denied_total", .whole = true, .flags = NFT_SET_EVAL, .size = 256};
static const struct fc_nft_set ASKED = {.name = "asked",
                                        .whole = true,
                                        .flags = NFT_SET_EVAL,
                                        .size = FC_EGRESS_ASKED_MAX,
                                        .timeout = FC_EGRESS_ASKED_SECONDS};
static const struct fc_nft_set GRANTED = {.name = "granted", .whole = true, .size = FC_EGRESS_VERDICTS_MAX};
static const struct fc_nft_set REFUSED = {.name = "refused", .whole = true, .size = FC_EGRESS_VERDICTS_MAX};

static uint8_t protocol_of(const char *name) {
	return strcmp(name, "udp") == 0 ? IPPROTO_UDP : IPPROTO_TCP;
}

/* Expressions */

static void load_address(struct fc_nft_rule *rule, uint32_t to) {
	fc_nft_load_payload(rule, to, NFT_PAYLOAD_NETWORK_HEADER, offsetof(struct iphdr, daddr),
	                    sizeof(struct in_addr));
}

/*
 * The destination's three parts stand in registers one after another. Only TCP and UDP have a port there: a rule that
 * loads a destination is made for each of these, and once for all other protocols.
 */
enum port_of { OF_TCP, OF_UDP, OF_NONE, PORT_KINDS };

static void load_destination(struct fc_nft_rule *rule, enum port_of kind) {
	const uint8_t tcp = IPPROTO_TCP, udp = IPPROTO_UDP;
	const uint32_t none = 0;
	fc_nft_load_meta(rule, NFT_REG_1, NFT_META_L4PROTO);
	if (kind != OF_UDP)
		fc_nft_compare(rule, kind == OF_TCP ? NFT_CMP_EQ : NFT_CMP_NEQ, &tcp, sizeof tcp);
	if (kind != OF_TCP)
		fc_nft_compare(rule, kind == OF_UDP ? NFT_CMP_EQ : NFT_CMP_NEQ, &udp, sizeof udp);
	load_address(rule, NFT_REG32_00);
	fc_nft_load_meta(rule, NFT_REG32_01, NFT_META_L4PROTO);
	if (kind == OF_NONE)
		fc_nft_load_immediate(rule, NFT_REG32_02, &none, sizeof none);
	else
		fc_nft_load_payload(rule, NFT_REG32_02, NFT_PAYLOAD_TRANSPORT_HEADER, 2, sizeof(uint16_t));
}

static void lookup(struct fc_nft_rule *rule, const char *set, uint32_t flags) {
	struct nftnl_expr *expr = fc_nft_add(rule, "lookup");
	fc_nft_number(expr, NFTNL_EXPR_LOOKUP_SREG, NFT_REG_1);
	fc_nft_number(expr, NFTNL_EXPR_LOOKUP_FLAGS, flags);
	if (expr && nftnl_expr_set_str(expr, NFTNL_EXPR_LOOKUP_SET, set) < 0)
		rule->failed = true;
}

/* Puts what is in the registers into a set; `update` makes its time begin anew where it is there already. */
static struct nftnl_expr *remember(struct fc_nft_rule *rule, const char *set, bool update) {
	struct nftnl_expr *expr = fc_nft_add(rule, "dynset");
	fc_nft_number(expr, NFTNL_EXPR_DYNSET_SREG_KEY, NFT_REG_1);
	fc_nft_number(expr, NFTNL_EXPR_DYNSET_OP, update ? NFT_DYNSET_OP_UPDATE : NFT_DYNSET_OP_ADD);
	if (expr && nftnl_expr_set_str(expr, NFTNL_EXPR_DYNSET_SET_NAME, set) < 0)
		rule->failed = true;
	return expr;
}

/* As above, with a count for each element. */
static void count(struct fc_nft_rule *rule, const char *set) {
	struct nftnl_expr *expr = remember(rule, set, true);
	struct nftnl_expr *counter = expr ? nftnl_expr_alloc("counter") : NULL;
	if (counter)
		nftnl_expr_add_expr(expr, NFTNL_EXPR_DYNSET_EXPR, counter);
	else
		rule->failed = true;
}

static void reject(struct fc_nft_rule *rule, uint32_t type, uint8_t code) {
	struct nftnl_expr *expr = fc_nft_add(rule, "reject");
	fc_nft_number(expr, NFTNL_EXPR_REJECT_TYPE, type);
	if (expr)
		nftnl_expr_set_u8(expr, NFTNL_EXPR_REJECT_CODE, code);
}

/* Rules */

static void put_known(struct fc_nft_batch *batch) {
	struct fc_nft_rule rule;
	fc_nft_rule_begin(&rule, batch->table, EGRESS.name);
	fc_nft_match_state(&rule, FC_NFT_ANSWERS);
	fc_nft_verdict(&rule, NF_ACCEPT);
	fc_nft_rule_end(&rule, batch, "egress known", 1);
	/* No address translation is done for these, and late ends of connections would be listed as attempts. */
	fc_nft_rule_begin(&rule, batch->table, EGRESS.name);
	fc_nft_match_state(&rule, FC_NFT_INVALID);
	fc_nft_verdict(&rule, NF_DROP);
	fc_nft_rule_end(&rule, batch, "egress invalid", 1);
}

static void put_allow(struct fc_nft_batch *batch, const struct fc_egress_allow *item, size_t number) {
	struct fc_nft_rule rule;
	fc_nft_rule_begin(&rule, batch->table, EGRESS.name);
	if (item->protocol)
		fc_nft_match_protocol(&rule, protocol_of(item->protocol));
	if (item->port)
		fc_nft_match_port(&rule, item->port);
	load_address(&rule, NFT_REG_1);
	lookup(&rule, item->set, 0);
	fc_nft_verdict(&rule, NF_ACCEPT);
	fc_nft_rule_end(&rule, batch, "egress allow", number);
}

static void put_ask(struct fc_nft_batch *batch) {
	struct fc_nft_rule rule;
	for (int kind = 0; kind < PORT_KINDS; kind++) {
		fc_nft_rule_begin(&rule, batch->table, EGRESS.name);
		load_destination(&rule, (enum port_of)kind);
		lookup(&rule, GRANTED.name, 0);
		fc_nft_verdict(&rule, NF_ACCEPT);
		fc_nft_rule_end(&rule, batch, "egress granted", (size_t)kind + 1);
		fc_nft_rule_begin(&rule, batch->table, ASK.name);
		load_destination(&rule, (enum port_of)kind);
		lookup(&rule, REFUSED.name, NFT_LOOKUP_F_INV);
		remember(&rule, ASKED.name, false);
		fc_nft_verdict(&rule, NF_DROP);
		fc_nft_rule_end(&rule, batch, "egress ask", (size_t)kind + 1);
	}
	fc_nft_rule_begin(&rule, batch->table, EGRESS.name);
	fc_nft_jump(&rule, ASK.name);
	fc_nft_rule_end(&rule, batch, "egress ask", PORT_KINDS + 1);
}

static void put_deny(struct fc_nft_batch *batch) {
	struct fc_nft_rule rule;
	const uint32_t none = 0;
	fc_nft_rule_begin(&rule, batch->table, EGRESS.name);
	fc_nft_load_immediate(&rule, NFT_REG32_00, &none, sizeof none);
	fc_nft_load_meta(&rule, NFT_REG32_01, NFT_META_L4PROTO);
	fc_nft_load_immediate(&rule, NFT_REG32_02, &none, sizeof none);
	count(&rule, TOTAL.name);
	fc_nft_rule_end(&rule, batch, "egress total", 1);
	for (int kind = 0; kind < PORT_KINDS; kind++) {
		fc_nft_rule_begin(&rule, batch->table, EGRESS.name);
		load_destination(&rule, (enum port_of)kind);
		count(&rule, DENIED.name);
		fc_nft_rule_end(&rule, batch, "egress denied", (size_t)kind + 1);
	}
	fc_nft_rule_begin(&rule, batch->table, EGRESS.name);
	fc_nft_match_protocol(&rule, IPPROTO_TCP);
	reject(&rule, NFT_REJECT_TCP_RST, 0);
	fc_nft_rule_end(&rule, batch, "egress reject", 1);
	fc_nft_rule_begin(&rule, batch->table, EGRESS.name);
	reject(&rule, NFT_REJECT_ICMP_UNREACH, ICMP_PKT_FILTERED);
	fc_nft_rule_end(&rule, batch, "egress reject", 2);
}

static void put_hooks(struct fc_nft_batch *batch, const char *link) {
	for (size_t i = 0; i < sizeof HOOKS / sizeof HOOKS[0]; i++) {
		struct fc_nft_rule rule;
		fc_nft_put_chain(batch, &HOOKS[i]);
		fc_nft_rule_begin(&rule, batch->table, HOOKS[i].name);
		fc_nft_match_link(&rule, NFT_META_IIFNAME, link, false);
		fc_nft_jump(&rule, EGRESS.name);
		fc_nft_rule_end(&rule, batch, "egress link", i + 1);
	}
}

/* Sets */

static void put_networks(struct fc_nft_batch *batch, const struct fc_egress_set *set) {
	struct fc_prefix *networks = reallocarray(NULL, set->network_count, sizeof *networks);
	if (!networks) {
		batch->err = ENOMEM;
		return;
	}
	for (size_t i = 0; i < set->network_count; i++)
		fc_prefix_parse(set->networks[i], &networks[i]);
	fc_nft_put_networks(batch, set->name, networks, set->network_count);
	free(networks);
}

static void put_sets(struct fc_nft_batch *batch, const struct fc_egress *egress) {
	for (size_t i = 0; i < egress->set_count; i++) {
		const struct fc_egress_set *set = &egress->sets[i];
		const bool fixed = set->network_count > 0;
		const struct fc_nft_set made = {.name = set->name,
		                                .flags = fixed ? NFT_SET_INTERVAL : 0,
		                                .size = fixed ? 0 : set->size,
		                                .timeout = fixed ? 0 : set->timeout};
		fc_nft_put_set(batch, &made);
		if (fixed)
			put_networks(batch, set);
	}
	fc_nft_put_set(batch, &TOTAL);
	fc_nft_put_set(batch, &DENIED);
	if (!egress->ask)
		return;
	fc_nft_put_set(batch, &ASKED);
	fc_nft_put_set(batch, &GRANTED);
	fc_nft_put_set(batch, &REFUSED);
}

void fc_egress_put(struct fc_nft_batch *batch, const struct fc_egress *egress) {
	put_sets(batch, egress);
	fc_nft_put_chain(batch, &EGRESS);
	if (egress->ask)
		fc_nft_put_chain(batch, &ASK);
	put_known(batch);
	for (size_t i = 0; i < egress->allow_count; i++)
		put_allow(batch, &egress->allow[i], i + 1);
	if (egress->ask)
		put_ask(batch);
	put_deny(batch);
	put_hooks(batch, egress->link);
}

/* Checks */

static bool good_set_name(const char *name) {
	size_t size = strlen(name);
	if (size == 0 || size >= FC_FIREWALL_SET || !isalpha((unsigned char)name[0]))
		return false;
	for (; *name; name++) {
		if (!isalnum((unsigned char)*name) && *name != '_')
			return false;
	}
	return true;
}

static int check_set(const struct fc_firewall *firewall, size_t index, struct fc_error *error) {
	const struct fc_egress_set *set = &firewall->egress->sets[index];
	struct fc_prefix prefix;
	if (!set->name || !good_set_name(set->name))
		return fc_firewall_refuse(error, firewall, "egress set", index, "not a set's name", set->name);
	if (set->network_count > FC_FIREWALL_RULES_MAX)
		return fc_firewall_refuse(error, firewall, "egress set", index, "too many networks", set->name);
	for (size_t i = 0; i < set->network_count; i++) {
		if (!set->networks[i] || fc_prefix_parse(set->networks[i], &prefix) < 0)
			return fc_firewall_refuse(error, firewall, "egress set", index,
			                          "not an IPv4 network like 172.16.0.0/30", set->networks[i]);
	}
	return 0;
}

static int check_allow(const struct fc_firewall *firewall, size_t index, struct fc_error *error) {
	const struct fc_egress_allow *item = &firewall->egress->allow[index];
	bool found = false;
	for (size_t i = 0; item->set && i < firewall->egress->set_count; i++)
		found = found || strcmp(firewall->egress->sets[i].name, item->set) == 0;
	if (!found)
		return fc_firewall_refuse(error, firewall, "egress allow", index, "no such set", item->set);
	if (item->protocol && strcmp(item->protocol, "tcp") != 0 && strcmp(item->protocol, "udp") != 0)
		return fc_firewall_refuse(error, firewall, "egress allow", index, "the protocol is tcp or udp",
		                          item->protocol);
	if (item->port && !item->protocol)
		return fc_firewall_refuse(error, firewall, "egress allow", index, "a port needs a protocol", item->set);
	return 0;
}

int fc_egress_check(const struct fc_firewall *firewall, struct fc_error *error) {
	const struct fc_egress *egress = firewall->egress;
	int r = 0;
	if (!egress)
		return 0;
	if (!egress->link || !fc_firewall_good_link(egress->link))
		return fc_firewall_refuse(error, firewall, "egress link", 0, "not a link's name", egress->link);
	if (egress->set_count > FC_FIREWALL_RULES_MAX || egress->allow_count > FC_FIREWALL_RULES_MAX)
		return fc_firewall_refuse(error, firewall, "egress allow", FC_FIREWALL_RULES_MAX, "too many rules",
		                          egress->link);
	for (size_t i = 0; r == 0 && i < egress->set_count; i++)
		r = check_set(firewall, i, error);
	for (size_t i = 0; r == 0 && i < egress->allow_count; i++)
		r = check_allow(firewall, i, error);
	return r;
}

/* The end of asking */

int fc_firewall_egress_settle(struct fc_netns *netns, const char *table, struct fc_error *error) {
	static const char op[] = "end asking";
	struct fc_nft_message message;
	struct fc_nft_batch batch = {.table = table};
	int r = fc_firewall_check_name(table, op, error);
	if (r < 0)
		return r;
	fc_nft_begin(&batch, netns);
	/* Without a handle: every rule of the chain. */
	struct nlmsghdr *header =
	        nftnl_nlmsg_build_hdr(message.bytes, NFT_MSG_DELRULE, NFPROTO_IPV4, 0, fc_nft_seq(&batch));
	mnl_attr_put_strz(header, NFTA_RULE_TABLE, table);
	mnl_attr_put_strz(header, NFTA_RULE_CHAIN, ASK.name);
	fc_nft_append(&batch, header, "asking");
	r = fc_nft_commit(&batch, netns, op, error);
	fc_nft_free(&batch);
	return r;
}
