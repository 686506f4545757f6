// SPDX-License-Identifier: Apache-2.0
#include "net/address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>

/* The decimal number 0 to 32 that the whole of `text` is, or -1. */
static int prefix_length(const char *text) {
	int value = 0;
	if (!text[0] || strlen(text) > 2 || (text[0] == '0' && text[1]))
		return -1;
	for (; *text; text++) {
		if (*text < '0' || *text > '9')
			return -1;
		value = value * 10 + (*text - '0');
	}
	return value <= 32 ? value : -1;
}

int fc_address_parse(const char *text, struct in_addr *ret_address) {
	struct in_addr address;
	if (inet_pton(AF_INET, text, &address) != 1)
		return -EINVAL;
	*ret_address = address;
	return 0;
}

int fc_prefix_parse(const char *text, struct fc_prefix *ret_prefix) {
	char address[INET_ADDRSTRLEN];
	struct fc_prefix prefix;
	const char *slash = strchr(text, '/');
	if (!slash || (size_t)(slash - text) >= sizeof address)
		return -EINVAL;
	memcpy(address, text, (size_t)(slash - text));
	address[slash - text] = '\0';
	int length = prefix_length(slash + 1);
	if (length < 0 || fc_address_parse(address, &prefix.address) < 0)
		return -EINVAL;
	prefix.length = (uint8_t)length;
	*ret_prefix = prefix;
	return 0;
}

char *fc_prefix_format(const struct fc_prefix *prefix, char *buffer) {
	char address[INET_ADDRSTRLEN];
	inet_ntop(AF_INET, &prefix->address, address, sizeof address);
	snprintf(buffer, FC_PREFIX_TEXT, "%s/%u", address, (unsigned)(prefix->length % 100));
	return buffer;
}

struct in_addr fc_prefix_mask(uint8_t length) {
	struct in_addr mask = {length ? htonl(UINT32_MAX << (32 - length)) : 0};
	return mask;
}

static int hex_digit(char c) {
	if (c >= '0' && c <= '9')
		return c - '0';
	c = (char)(c | 0x20);
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int fc_mac_parse(const char *text, uint8_t ret_mac[FC_MAC_SIZE]) {
	uint8_t mac[FC_MAC_SIZE];
	int any = 0;
	if (strlen(text) != FC_MAC_TEXT - 1)
		return -EINVAL;
	for (int i = 0; i < FC_MAC_SIZE; i++, text += 3) {
		int high = hex_digit(text[0]), low = hex_digit(text[1]);
		if (high < 0 || low < 0 || text[2] != (i < FC_MAC_SIZE - 1 ? ':' : '\0'))
			return -EINVAL;
		mac[i] = (uint8_t)(high << 4 | low);
		any |= mac[i];
	}
	if (!any || (mac[0] & 1))
		return -EINVAL;
	memcpy(ret_mac, mac, sizeof mac);
	return 0;
}

char *fc_mac_format(const uint8_t mac[FC_MAC_SIZE], char *buffer) {
	snprintf(buffer, FC_MAC_TEXT, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
	return buffer;
}

int fc_link_name_check(const char *name) {
	if (!name[0] || !strcmp(name, ".") || !strcmp(name, ".."))
		return -EINVAL;
	/* As isspace() of the kernel, which knows Latin-1's no-break space too. */
	if (strpbrk(name, "%/: \t\n\v\f\r\xa0"))
		return -EINVAL;
	return strlen(name) < IF_NAMESIZE ? 0 : -ENAMETOOLONG;
}
