// SPDX-License-Identifier: Apache-2.0
#include "ip.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

enum { FIELDS = 9, FIELD_MAX = 65 };

enum field { CLIENT, SERVER, GATEWAY, NETMASK, HOSTNAME, DEVICE, AUTOCONF, DNS0, DNS1 };

static const char *const names[FIELDS] = {"client", "server",   "gateway", "netmask", "hostname",
                                          "device", "autoconf", "DNS",     "DNS"};

static int bad(struct fc_error *error, enum field field, const char *why) {
	return fc_error_set(error, EINVAL, "read ip=", names[field], NULL, "its %s %s", names[field], why);
}

/* The last word that begins with "ip=", without that; NULL where there is none. */
static const char *find(const char *cmdline, size_t *ret_size) {
	const char *found = NULL;
	for (const char *at = cmdline; *at;) {
		at += strspn(at, " \t\n");
		size_t size = strcspn(at, " \t\n");
		if (size > 3 && memcmp(at, "ip=", 3) == 0) {
			found = at + 3;
			*ret_size = size - 3;
		}
		at += size;
	}
	return found;
}

static int split(const char *at, size_t size, char fields[FIELDS][FIELD_MAX], struct fc_error *error) {
	const char *end = at + size;
	for (int i = 0; i < FIELDS; i++) {
		const char *colon = memchr(at, ':', (size_t)(end - at));
		size_t length = (size_t)((colon ? colon : end) - at);
		if (length >= FIELD_MAX)
			return bad(error, (enum field)i, "is too long");
		memcpy(fields[i], at, length);
		if (!colon)
			return 0;
		at = colon + 1;
	}
	return fc_error_set(error, EINVAL, "read ip=", NULL, NULL, "it has more than %d fields", FIELDS);
}

static int address(char fields[FIELDS][FIELD_MAX], enum field field, struct in_addr *ret, struct fc_error *error) {
	if (!fields[field][0])
		return 0;
	if (inet_pton(AF_INET, fields[field], ret) != 1)
		return bad(error, field, "is no IPv4 address");
	return 1;
}

/* Ones, then zeroes. */
static bool is_netmask(struct in_addr mask) {
	uint32_t zeroes = ~ntohl(mask.s_addr);
	return mask.s_addr != 0 && (zeroes & (zeroes + 1)) == 0;
}

static int read_addresses(char fields[FIELDS][FIELD_MAX], struct fc_ip *ip, struct fc_error *error) {
	int r = address(fields, CLIENT, &ip->client, error);
	if (r == 0 || (r > 0 && ip->client.s_addr == 0))
		return bad(error, CLIENT, "is missing");
	if (r > 0)
		r = address(fields, GATEWAY, &ip->gateway, error);
	if (r >= 0)
		r = address(fields, NETMASK, &ip->netmask, error);
	if (r < 0)
		return r;
	if (!is_netmask(ip->netmask))
		return bad(error, NETMASK, "is missing or no netmask");
	for (int i = 0; i < FC_IP_DNS_MAX; i++) {
		r = address(fields, (enum field)(DNS0 + i), &ip->dns[ip->dns_count], error);
		if (r < 0)
			return r;
		ip->dns_count += (size_t)r;
	}
	return 0;
}

static int read_names(char fields[FIELDS][FIELD_MAX], struct fc_ip *ip, struct fc_error *error) {
	const char *device = fields[DEVICE][0] ? fields[DEVICE] : "eth0";
	if (strlen(device) >= sizeof ip->device || strchr(device, '/') || strcmp(device, ".") == 0 ||
	    strcmp(device, "..") == 0)
		return bad(error, DEVICE, "is no interface's name");
	memcpy(ip->device, device, strlen(device) + 1);
	memcpy(ip->hostname, fields[HOSTNAME], sizeof ip->hostname);
	const char *how = fields[AUTOCONF];
	if (how[0] && strcmp(how, "off") != 0 && strcmp(how, "none") != 0)
		return bad(error, AUTOCONF, "is not 'off'");
	return 0;
}

int fc_ip_parse(const char *cmdline, struct fc_ip *ret_ip, struct fc_error *error) {
	size_t size;
	const char *word = find(cmdline, &size);
	if (!word)
		return 0;
	char fields[FIELDS][FIELD_MAX] = {{0}};
	struct fc_ip ip = {.dns_count = 0};
	int r = split(word, size, fields, error);
	if (r == 0)
		r = read_addresses(fields, &ip, error);
	if (r == 0)
		r = read_names(fields, &ip, error);
	if (r < 0)
		return r;
	*ret_ip = ip;
	return 1;
}
