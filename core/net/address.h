// SPDX-License-Identifier: Apache-2.0
/* core/net/address.h: IPv4 addresses, prefixes, Ethernet addresses and link names as text. Pure; any thread. */
#ifndef FCVM_NET_ADDRESS_H
#define FCVM_NET_ADDRESS_H

#include <netinet/in.h>
#include <stdint.h>

/* An address with the length of its network: 10.0.0.1/30. The bits of the host are kept. */
struct fc_prefix {
	struct in_addr address; /* network order */
	uint8_t length;         /* bits, 0 to 32 */
};

enum { FC_PREFIX_TEXT = INET_ADDRSTRLEN + 3, FC_MAC_SIZE = 6, FC_MAC_TEXT = 18 };

/* Reads "a.b.c.d/n"; nothing may follow, and n has no sign and no leading zero. Returns 0 or -EINVAL. */
int fc_prefix_parse(const char *text, struct fc_prefix *ret_prefix);

/* Writes the prefix as "a.b.c.d/n" into a buffer of FC_PREFIX_TEXT bytes; returns the buffer. */
char *fc_prefix_format(const struct fc_prefix *prefix, char *buffer);

/* The network's mask, in network order: 255.255.255.252 for 30. `length` is 0 to 32. */
struct in_addr fc_prefix_mask(uint8_t length);

/* Reads "a.b.c.d". Returns 0 or -EINVAL. */
int fc_address_parse(const char *text, struct in_addr *ret_address);

/* Reads "xx:xx:xx:xx:xx:xx" of a single station (no multicast, not all zeros). Returns 0 or -EINVAL. */
int fc_mac_parse(const char *text, uint8_t ret_mac[FC_MAC_SIZE]);

/* Writes the Ethernet address in lower case into a buffer of FC_MAC_TEXT bytes; returns the buffer. */
char *fc_mac_format(const uint8_t mac[FC_MAC_SIZE], char *buffer);

/*
 * Says whether the kernel would take `name` for a link (dev_valid_name in net/core/dev.c): 1 to 15 bytes, no slash,
 * colon or white space, not "." or "..". A percent sign is refused too: the kernel makes a number of it. Returns 0,
 * -EINVAL, or -ENAMETOOLONG.
 */
int fc_link_name_check(const char *name);

#endif
