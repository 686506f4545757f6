// SPDX-License-Identifier: Apache-2.0
/*
 * Everything that core/net reads: a datagram of netlink messages with the parsers of links, addresses and tables behind
 * it, and text that users write. The first byte chooses; what was read must stand up to being written and read again.
 */
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "net/address.h"
#include "net/firewall_internal.h"
#include "net/firewall_set_internal.h"
#include "net/link_internal.h"
#include "net/netlink_internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void expect(int truth) {
	if (!truth)
		abort();
}

static int parse_all(const struct nlmsghdr *message, void *data) {
	struct fc_link link;
	struct fc_prefix prefix;
	struct fc_firewall_table table;
	char text[FC_PREFIX_TEXT];
	int index, *count = data;
	if (fc_link_parse(message, &link) == 0) {
		expect(link.name[0] && memchr(link.name, '\0', sizeof link.name) != NULL);
		expect(memchr(link.kind, '\0', sizeof link.kind) && memchr(link.mac, '\0', sizeof link.mac));
	}
	if (fc_link_address_parse(message, &index, &prefix) == 1)
		expect(prefix.length <= 32 && fc_prefix_format(&prefix, text)[0]);
	if (fc_firewall_table_parse(message, &table) == 1)
		expect(memchr(table.name, '\0', sizeof table.name) &&
		       memchr(table.comment, '\0', sizeof table.comment));
	struct fc_destinations list = {.items = NULL};
	if (fc_firewall_set_parse(message, &list) == 0 && list.count > 0)
		expect(list.items && list.count <= list.room && (list.items[0].whole || list.items[0].port == 0));
	free(list.items);
	return ++*count % 7 == 0 ? -EBADMSG : 0;
}

/* The copy is as long as the datagram, to the byte, and aligned as the receive buffer is. */
static void read_datagram(const uint8_t *data, size_t size) {
	int count = 0;
	struct fc_netlink_answer answer = {.last = UINT32_MAX, .fn = parse_all, .data = &count};
	uint8_t *copy = malloc(size ? size : 1);
	if (!copy)
		return;
	memcpy(copy, data, size);
	if (size >= sizeof(struct nlmsghdr))
		memcpy(&answer.portid, copy + offsetof(struct nlmsghdr, nlmsg_pid), sizeof answer.portid);
	fc_netlink_read(copy, size, &answer);
	expect(answer.err >= 0 && answer.err < 4096 && memchr(answer.text, '\0', sizeof answer.text) != NULL);
	free(copy);
}

static void read_text(const uint8_t *data, size_t size) {
	struct fc_prefix prefix, again;
	struct in_addr address;
	uint8_t mac[FC_MAC_SIZE], same[FC_MAC_SIZE];
	char text[FC_PREFIX_TEXT], mac_text[FC_MAC_TEXT];
	char *copy = malloc(size + 1);
	if (!copy)
		return;
	memcpy(copy, data, size);
	copy[size] = '\0';
	if (fc_prefix_parse(copy, &prefix) == 0) {
		expect(fc_prefix_parse(fc_prefix_format(&prefix, text), &again) == 0);
		expect(again.length == prefix.length && again.address.s_addr == prefix.address.s_addr);
	}
	if (fc_mac_parse(copy, mac) == 0) {
		expect(fc_mac_parse(fc_mac_format(mac, mac_text), same) == 0 && memcmp(mac, same, sizeof mac) == 0);
	}
	fc_address_parse(copy, &address);
	if (fc_link_name_check(copy) == 0)
		expect(strlen(copy) > 0 && strlen(copy) < 16 && !strchr(copy, '/'));
	free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
	if (size == 0)
		return 0;
	if (data[0] & 1)
		read_text(data + 1, size - 1);
	else
		read_datagram(data + 1, size - 1);
	return 0;
}
