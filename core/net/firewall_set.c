// SPDX-License-Identifier: Apache-2.0
#include "net/firewall_set.h"

#include <arpa/inet.h>
#include <errno.h>
#include <libnftnl/set.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nfnetlink.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "net/firewall_internal.h"
#include "net/firewall_set_internal.h"

/* Of an element's key: an address alone, or behind it protocol and port in 4 bytes each, the rest of which is zero. */
enum { ADDRESS_SIZE = 4, PROTOCOL_AT = 4, PORT_AT = 8, WHOLE_SIZE = 12 };

/* Types as nft numbers them (src/datatype.c: ipv4_addr 7, inet_proto 12, inet_service 13), 6 bits each: for `nft list`
 * and for what else adds by text. */
enum { TYPE_ADDRESS = 7, TYPE_WHOLE = 7 << 12 | 12 << 6 | 13 };

enum { ELEMENTS_IN_MESSAGE = 64 }; /* of at most 40 bytes each */

static int check(const char *table, const char *set, const char *op, struct fc_error *error) {
	int r = fc_firewall_check_name(table, op, error);
	if (r == 0 && strlen(set) >= FC_FIREWALL_SET)
		r = fc_error_set(error, ENAMETOOLONG, op, table, NULL, "a set's name has at most %d bytes",
		                 FC_FIREWALL_SET - 1);
	return r;
}

/* Writing */

void fc_nft_put_set(struct fc_nft_batch *batch, const struct fc_nft_set *set) {
	struct fc_nft_message message;
	char label[FC_NFT_LABEL];
	struct nftnl_set *object = nftnl_set_alloc();
	if (!object || nftnl_set_set_str(object, NFTNL_SET_TABLE, batch->table) < 0 ||
	    nftnl_set_set_str(object, NFTNL_SET_NAME, set->name) < 0) {
		batch->err = ENOMEM;
	} else {
		/* An identifier that is this transaction's alone. */
		nftnl_set_set_u32(object, NFTNL_SET_ID, (uint32_t)batch->count);
		nftnl_set_set_u32(object, NFTNL_SET_KEY_TYPE, set->whole ? TYPE_WHOLE : TYPE_ADDRESS);
		nftnl_set_set_u32(object, NFTNL_SET_KEY_LEN, set->whole ? WHOLE_SIZE : ADDRESS_SIZE);
		nftnl_set_set_u32(object, NFTNL_SET_FLAGS, set->flags | (set->timeout ? NFT_SET_TIMEOUT : 0));
		if (set->size)
			nftnl_set_set_u32(object, NFTNL_SET_DESC_SIZE, set->size);
		if (set->timeout)
			nftnl_set_set_u64(object, NFTNL_SET_TIMEOUT, (uint64_t)set->timeout * 1000);
		struct nlmsghdr *header = nftnl_nlmsg_build_hdr(message.bytes, NFT_MSG_NEWSET, NFPROTO_IPV4,
		                                                NLM_F_CREATE | NLM_F_EXCL, fc_nft_seq(batch));
		nftnl_set_nlmsg_build_payload(header, object);
		snprintf(label, sizeof label, "set %s", set->name);
		fc_nft_append(batch, header, label);
	}
	if (object)
		nftnl_set_free(object);
}

/* One message about elements of a set: begun, filled, and appended to the batch. */
static struct nftnl_set *elements_begin(struct fc_nft_batch *batch, const char *set) {
	struct nftnl_set *object = batch->err ? NULL : nftnl_set_alloc();
	if (object && nftnl_set_set_str(object, NFTNL_SET_TABLE, batch->table) == 0 &&
	    nftnl_set_set_str(object, NFTNL_SET_NAME, set) == 0)
		return object;
	if (object)
		nftnl_set_free(object);
	if (!batch->err)
		batch->err = ENOMEM;
	return NULL;
}

static void elements_add(struct fc_nft_batch *batch, struct nftnl_set *object, const void *key, size_t size,
                         uint32_t flags) {
	struct nftnl_set_elem *element = nftnl_set_elem_alloc();
	if (!element || nftnl_set_elem_set(element, NFTNL_SET_ELEM_KEY, key, (uint32_t)size) < 0) {
		batch->err = ENOMEM;
		if (element)
			nftnl_set_elem_free(element);
		return;
	}
	if (flags)
		nftnl_set_elem_set_u32(element, NFTNL_SET_ELEM_FLAGS, flags);
	nftnl_set_elem_add(object, element);
}

static void elements_end(struct fc_nft_batch *batch, struct nftnl_set *object, uint16_t type, const char *set) {
	struct fc_nft_message message;
	char label[FC_NFT_LABEL];
	struct nlmsghdr *header = nftnl_nlmsg_build_hdr(
	        message.bytes, type, NFPROTO_IPV4, type == NFT_MSG_NEWSETELEM ? NLM_F_CREATE : 0, fc_nft_seq(batch));
	nftnl_set_elems_nlmsg_build_payload(header, object);
	snprintf(label, sizeof label, "elements of %s", set);
	fc_nft_append(batch, header, label);
	nftnl_set_free(object);
}

/* A range of addresses, [first, end). */
struct range {
	uint64_t first, end;
};

static int by_first(const void *a, const void *b) {
	const struct range *x = a, *y = b;
	return (x->first > y->first) - (x->first < y->first);
}

/* The ranges that the networks cover, in order, none touching another. Returns their number. */
static size_t merge(struct range *ranges, const struct fc_prefix *networks, size_t count) {
	size_t merged = 0;
	for (size_t i = 0; i < count; i++) {
		uint32_t mask = ntohl(fc_prefix_mask(networks[i].length).s_addr);
		ranges[i].first = ntohl(networks[i].address.s_addr) & mask;
		ranges[i].end = ranges[i].first + ((uint64_t)1 << (32 - networks[i].length));
	}
	qsort(ranges, count, sizeof *ranges, by_first);
	for (size_t i = 0; i < count; i++) {
		if (merged == 0 || ranges[i].first > ranges[merged - 1].end)
			ranges[merged++] = ranges[i];
		else if (ranges[i].end > ranges[merged - 1].end)
			ranges[merged - 1].end = ranges[i].end;
	}
	return merged;
}

static void add_range(struct fc_nft_batch *batch, struct nftnl_set *object, const struct range *range) {
	uint32_t first = htonl((uint32_t)range->first), end = htonl((uint32_t)range->end);
	elements_add(batch, object, &first, sizeof first, 0);
	if (range->end <= UINT32_MAX) /* the last range of all has no end */
		elements_add(batch, object, &end, sizeof end, NFT_SET_ELEM_INTERVAL_END);
}

void fc_nft_put_networks(struct fc_nft_batch *batch, const char *set, const struct fc_prefix *networks, size_t count) {
	struct range *ranges = reallocarray(NULL, count + 1, sizeof *ranges);
	size_t merged = ranges ? merge(ranges, networks, count) : 0;
	if (!ranges)
		batch->err = ENOMEM;
	for (size_t i = 0; i < merged;) {
		struct nftnl_set *object = elements_begin(batch, set);
		if (!object)
			break;
		for (size_t n = 0; n < ELEMENTS_IN_MESSAGE / 2 && i < merged; n++, i++)
			add_range(batch, object, &ranges[i]);
		elements_end(batch, object, NFT_MSG_NEWSETELEM, set);
	}
	free(ranges);
}

static void add_destination(struct fc_nft_batch *batch, struct nftnl_set *object, const struct fc_destination *item) {
	uint8_t key[WHOLE_SIZE] = {0};
	uint16_t port = htons(item->port);
	memcpy(key, &item->address, sizeof item->address);
	key[PROTOCOL_AT] = item->protocol;
	memcpy(key + PORT_AT, &port, sizeof port);
	elements_add(batch, object, key, item->whole ? WHOLE_SIZE : ADDRESS_SIZE, 0);
}

int fc_firewall_set_add(struct fc_netns *netns, const char *table, const char *set, const struct fc_destination *items,
                        size_t count, bool replace, struct fc_error *error) {
	static const char op[] = "add to set";
	struct fc_nft_batch batch = {.table = table};
	int r = check(table, set, op, error);
	if (r < 0 || (count == 0 && !replace))
		return r;
	fc_nft_begin(&batch, netns);
	struct nftnl_set *object = replace ? elements_begin(&batch, set) : NULL;
	if (object)
		elements_end(&batch, object, NFT_MSG_DELSETELEM, set);
	for (size_t i = 0; i < count;) {
		object = elements_begin(&batch, set);
		if (!object)
			break;
		for (size_t n = 0; n < ELEMENTS_IN_MESSAGE && i < count; n++, i++)
			add_destination(&batch, object, &items[i]);
		elements_end(&batch, object, NFT_MSG_NEWSETELEM, set);
	}
	r = fc_nft_commit(&batch, netns, op, error);
	fc_nft_free(&batch);
	return r;
}

/* Reading */

static void parse_key(const struct nlattr *attribute, struct fc_destination *item, bool *ret_known) {
	struct fc_netlink_walk walk = fc_netlink_nested(attribute);
	for (const struct nlattr *value; (value = fc_netlink_next(&walk));) {
		const uint8_t *key = mnl_attr_get_payload(value);
		size_t size = mnl_attr_get_payload_len(value);
		uint16_t port;
		if (mnl_attr_get_type(value) != NFTA_DATA_VALUE || (size != ADDRESS_SIZE && size != WHOLE_SIZE))
			continue;
		/* A message with two keys is none of the kernel's; the last one counts, and nothing of the first. */
		*item = (struct fc_destination){.packets = item->packets, .bytes = item->bytes};
		memcpy(&item->address, key, sizeof item->address);
		item->whole = size == WHOLE_SIZE;
		if (item->whole) {
			item->protocol = key[PROTOCOL_AT];
			memcpy(&port, key + PORT_AT, sizeof port);
			item->port = ntohs(port);
		}
		*ret_known = true;
	}
}

static uint64_t number_of(const struct nlattr *attribute) {
	uint64_t value = 0;
	if (mnl_attr_get_payload_len(attribute) == sizeof value)
		memcpy(&value, mnl_attr_get_payload(attribute), sizeof value);
	return be64toh(value);
}

/* An element's expression: name and content, of which a counter's is all that there is. */
static void parse_counter(const struct nlattr *attribute, struct fc_destination *item) {
	struct fc_netlink_walk outer = fc_netlink_nested(attribute);
	for (const struct nlattr *part; (part = fc_netlink_next(&outer));) {
		if (mnl_attr_get_type(part) != NFTA_EXPR_DATA)
			continue;
		struct fc_netlink_walk inner = fc_netlink_nested(part);
		for (const struct nlattr *value; (value = fc_netlink_next(&inner));) {
			if (mnl_attr_get_type(value) == NFTA_COUNTER_PACKETS)
				item->packets = number_of(value);
			else if (mnl_attr_get_type(value) == NFTA_COUNTER_BYTES)
				item->bytes = number_of(value);
		}
	}
}

static bool is_end(const struct nlattr *attribute) {
	uint32_t flags = 0;
	if (mnl_attr_get_payload_len(attribute) == sizeof flags)
		memcpy(&flags, mnl_attr_get_payload(attribute), sizeof flags);
	return (ntohl(flags) & NFT_SET_ELEM_INTERVAL_END) != 0;
}

static int parse_element(const struct nlattr *attribute, struct fc_destinations *to) {
	struct fc_destination item = {.port = 0};
	bool known = false, end = false;
	struct fc_netlink_walk walk = fc_netlink_nested(attribute);
	for (const struct nlattr *part; (part = fc_netlink_next(&walk));) {
		if (mnl_attr_get_type(part) == NFTA_SET_ELEM_KEY)
			parse_key(part, &item, &known);
		else if (mnl_attr_get_type(part) == NFTA_SET_ELEM_EXPR)
			parse_counter(part, &item);
		else if (mnl_attr_get_type(part) == NFTA_SET_ELEM_FLAGS)
			end = is_end(part);
	}
	if (!known || end)
		return 0;
	if (to->count == to->room) {
		size_t room = 2 * to->room + 16;
		struct fc_destination *more = reallocarray(to->items, room, sizeof *more);
		if (!more)
			return -ENOMEM;
		to->items = more;
		to->room = room;
	}
	to->items[to->count++] = item;
	return 0;
}

int fc_firewall_set_parse(const struct nlmsghdr *message, struct fc_destinations *to) {
	int r = 0;
	if (message->nlmsg_type != (NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWSETELEM) ||
	    mnl_nlmsg_get_payload_len(message) < sizeof(struct nfgenmsg))
		return -EBADMSG;
	struct fc_netlink_walk walk = fc_netlink_attributes(message, sizeof(struct nfgenmsg));
	for (const struct nlattr *attribute; r == 0 && (attribute = fc_netlink_next(&walk));) {
		if (mnl_attr_get_type(attribute) != NFTA_SET_ELEM_LIST_ELEMENTS)
			continue;
		struct fc_netlink_walk elements = fc_netlink_nested(attribute);
		for (const struct nlattr *element; r == 0 && (element = fc_netlink_next(&elements));)
			r = parse_element(element, to);
	}
	return r;
}

static int collect(const struct nlmsghdr *message, void *data) {
	struct fc_destinations *list = data;
	if (message)
		return fc_firewall_set_parse(message, list);
	list->count = 0; /* the dump begins anew */
	return 0;
}

int fc_firewall_set_list(struct fc_netns *netns, const char *table, const char *set, struct fc_destination **ret_items,
                         size_t *ret_count, struct fc_error *error) {
	static const char op[] = "list set";
	struct fc_nft_message message;
	struct fc_destinations list = {.items = NULL};
	struct fc_netlink_answer answer = {.fn = collect, .data = &list};
	int r = check(table, set, op, error);
	if (r < 0)
		return r;
	struct nlmsghdr *header = nftnl_nlmsg_build_hdr(message.bytes, NFT_MSG_GETSETELEM, NFPROTO_IPV4, NLM_F_DUMP, 0);
	mnl_attr_put_strz(header, NFTA_SET_ELEM_LIST_TABLE, table);
	mnl_attr_put_strz(header, NFTA_SET_ELEM_LIST_SET, set);
	r = fc_netlink_request(&netns->filter, header, &answer);
	if (r < 0) {
		free(list.items);
		return fc_netlink_error(error, r, op, set, &answer);
	}
	*ret_items = list.items;
	*ret_count = list.count;
	return 0;
}
