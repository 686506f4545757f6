// SPDX-License-Identifier: Apache-2.0
#include "net/link.h"

#include <fcntl.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/if_tun.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "net/link_internal.h"
#include "net/netns_internal.h"

enum { REQUEST_SIZE = 1024 }; /* the longest request holds two names, an MTU and two Ethernet addresses */

/* Requests */

struct request {
	_Alignas(struct nlmsghdr) char bytes[REQUEST_SIZE];
};

/* Begins a request with its zeroed family header of `size` bytes, which it returns. */
static void *begin(struct request *request, uint16_t type, uint16_t flags, size_t size) {
	struct nlmsghdr *header = mnl_nlmsg_put_header(request->bytes);
	header->nlmsg_type = type;
	header->nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags);
	return mnl_nlmsg_put_extra_header(header, size);
}

static struct nlmsghdr *header_of(struct request *request) {
	return (struct nlmsghdr *)(void *)request->bytes;
}

/* Sends a request that answers with no more than its acknowledgement. */
static int perform(struct fc_netns *netns, struct request *request, const char *op, const char *subject,
                   struct fc_error *error) {
	struct fc_netlink_answer answer = {.fn = NULL};
	header_of(request)->nlmsg_flags |= NLM_F_ACK;
	int r = fc_netlink_request(&netns->route, header_of(request), &answer);
	return r < 0 ? fc_netlink_error(error, r, op, subject, &answer) : 0;
}

static int check_name(const char *name, const char *op, struct fc_error *error) {
	int r = fc_link_name_check(name);
	if (r == 0)
		return 0;
	return fc_error_set(error, -r, op, name, NULL,
	                    r == -EINVAL ? "a link cannot have this name" : "a link's name has at most %d bytes",
	                    IF_NAMESIZE - 1);
}

/* Reading links */

/* The copy of a string attribute, cut to size; empty where it is malformed. */
static void copy_string(const struct nlattr *attribute, char *to, size_t size) {
	const char *text = fc_netlink_string(attribute);
	snprintf(to, size, "%s", text ? text : "");
}

static void parse_kind(const struct nlattr *info, struct fc_link *link) {
	struct fc_netlink_walk walk = fc_netlink_nested(info);
	for (const struct nlattr *attribute; (attribute = fc_netlink_next(&walk));) {
		if (mnl_attr_get_type(attribute) == IFLA_INFO_KIND)
			copy_string(attribute, link->kind, sizeof link->kind);
	}
}

static void parse_link_attribute(const struct nlattr *attribute, struct fc_link *link) {
	switch (mnl_attr_get_type(attribute)) {
	case IFLA_IFNAME:
		copy_string(attribute, link->name, sizeof link->name);
		break;
	case IFLA_MTU:
		if (mnl_attr_get_payload_len(attribute) >= sizeof(uint32_t))
			link->mtu = mnl_attr_get_u32(attribute);
		break;
	case IFLA_ADDRESS:
		if (mnl_attr_get_payload_len(attribute) == FC_MAC_SIZE)
			fc_mac_format(mnl_attr_get_payload(attribute), link->mac);
		break;
	case IFLA_MASTER:
		if (mnl_attr_get_payload_len(attribute) >= sizeof(uint32_t))
			link->master = (int)mnl_attr_get_u32(attribute);
		break;
	case IFLA_IFALIAS:
		copy_string(attribute, link->alias, sizeof link->alias);
		break;
	case IFLA_LINKINFO:
		parse_kind(attribute, link);
		break;
	default:
		break;
	}
}

int fc_link_parse(const struct nlmsghdr *message, struct fc_link *ret_link) {
	const struct ifinfomsg *info = mnl_nlmsg_get_payload(message);
	struct fc_link link = {.index = 0};
	if (message->nlmsg_type != RTM_NEWLINK || mnl_nlmsg_get_payload_len(message) < sizeof *info)
		return -EBADMSG;
	link.index = info->ifi_index;
	link.up = (info->ifi_flags & IFF_UP) != 0;
	struct fc_netlink_walk walk = fc_netlink_attributes(message, sizeof *info);
	for (const struct nlattr *attribute; (attribute = fc_netlink_next(&walk));)
		parse_link_attribute(attribute, &link);
	if (!link.name[0])
		return -EBADMSG;
	*ret_link = link;
	return 0;
}

/* Grows the array `items` of `size` bytes each so that one more fits. */
static int grow(void **items, size_t count, size_t *room, size_t size) {
	if (count < *room)
		return 0;
	size_t wanted = *room ? *room * 2 : 16;
	void *more = reallocarray(*items, wanted, size);
	if (!more)
		return -ENOMEM;
	*items = more;
	*room = wanted;
	return 0;
}

struct links {
	void *items; /* struct fc_link */
	size_t count, room;
};

static int collect_link(const struct nlmsghdr *message, void *data) {
	struct links *links = data;
	if (!message) { /* the dump begins anew */
		links->count = 0;
		return 0;
	}
	int r = grow(&links->items, links->count, &links->room, sizeof(struct fc_link));
	if (r == 0)
		r = fc_link_parse(message, (struct fc_link *)links->items + links->count);
	if (r == 0)
		links->count++;
	return r;
}

int fc_link_list(struct fc_netns *netns, struct fc_link **ret_links, size_t *ret_count, struct fc_error *error) {
	struct request request;
	struct links links = {.items = NULL};
	struct fc_netlink_answer answer = {.fn = collect_link, .data = &links};
	begin(&request, RTM_GETLINK, NLM_F_DUMP, sizeof(struct ifinfomsg));
	int r = fc_netlink_request(&netns->route, header_of(&request), &answer);
	if (r < 0) {
		free(links.items);
		return fc_netlink_error(error, r, "list links", NULL, &answer);
	}
	*ret_links = links.items;
	*ret_count = links.count;
	return 0;
}

static int keep_index(const struct nlmsghdr *message, void *data) {
	struct fc_link link;
	int r = message ? fc_link_parse(message, &link) : 0;
	if (message && r == 0)
		*(int *)data = link.index;
	return r;
}

/* The index of the link `name`, or -errno with the error of `op`. */
static int index_of(struct fc_netns *netns, const char *name, const char *op, struct fc_error *error) {
	struct request request;
	int index = -ENODEV;
	struct fc_netlink_answer answer = {.fn = keep_index, .data = &index};
	int r = check_name(name, op, error);
	if (r < 0)
		return r;
	begin(&request, RTM_GETLINK, NLM_F_ACK, sizeof(struct ifinfomsg));
	mnl_attr_put_strz(header_of(&request), IFLA_IFNAME, name);
	r = fc_netlink_request(&netns->route, header_of(&request), &answer);
	if (r == 0 && index <= 0)
		r = -ENODEV;
	return r < 0 ? fc_netlink_error(error, r, op, name, &answer) : index;
}

/* TAPs */

struct tap {
	const char *name;
	uid_t uid;
	gid_t gid;
};

/* IFF_TUN_EXCL answers EBUSY where the name is another TAP's, and the driver EINVAL where it is any other link's. */
static int tap_failed(const struct tap *tap, struct fc_error *error) {
	int err = errno;
	if (err == EBUSY || (err == EINVAL && if_nametoindex(tap->name) != 0))
		err = EEXIST;
	return fc_error_set(error, err, "add tap", tap->name, err == EPERM ? "this needs root (CAP_NET_ADMIN)" : NULL,
	                    NULL);
}

static int add_tap(void *data, struct fc_error *error) {
	const struct tap *tap = data;
	struct ifreq request = {.ifr_flags = (short)(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_TUN_EXCL)};
	_cleanup_close_ int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return fc_error_set(error, errno, "open", "/dev/net/tun",
		                    errno == EACCES || errno == EPERM ? "this needs root" : "modprobe tun", NULL);
	memcpy(request.ifr_name, tap->name, strlen(tap->name) + 1);
	if (ioctl(fd, TUNSETIFF, &request) < 0)
		return tap_failed(tap, error);
	if ((tap->uid != (uid_t)-1 && ioctl(fd, TUNSETOWNER, (unsigned long)tap->uid) < 0) ||
	    (tap->gid != (gid_t)-1 && ioctl(fd, TUNSETGROUP, (unsigned long)tap->gid) < 0))
		return fc_error_set(error, errno, "give tap to its user", tap->name, NULL, NULL);
	/* Until here, closing the descriptor removes the link. */
	if (ioctl(fd, TUNSETPERSIST, 1UL) < 0)
		return fc_error_set(error, errno, "keep tap", tap->name, NULL, NULL);
	return 0;
}

int fc_link_add_tap(struct fc_netns *netns, const char *name, uid_t uid, gid_t gid, struct fc_error *error) {
	struct tap tap = {.name = name, .uid = uid, .gid = gid};
	int r = check_name(name, "add tap", error);
	return r < 0 ? r : fc_netns_run(netns, add_tap, &tap, error);
}

/* Veth pairs */

static void put_veth(struct nlmsghdr *header, const char *name, const char *peer, int peer_fd) {
	struct ifinfomsg zero = {.ifi_family = AF_UNSPEC};
	mnl_attr_put_strz(header, IFLA_IFNAME, name);
	struct nlattr *info = mnl_attr_nest_start(header, IFLA_LINKINFO);
	mnl_attr_put_strz(header, IFLA_INFO_KIND, "veth");
	struct nlattr *data = mnl_attr_nest_start(header, IFLA_INFO_DATA);
	struct nlattr *other = mnl_attr_nest_start(header, VETH_INFO_PEER);
	memcpy(mnl_nlmsg_put_extra_header(header, sizeof zero), &zero, sizeof zero);
	mnl_attr_put_strz(header, IFLA_IFNAME, peer);
	if (peer_fd >= 0)
		mnl_attr_put_u32(header, IFLA_NET_NS_FD, (uint32_t)peer_fd);
	mnl_attr_nest_end(header, other);
	mnl_attr_nest_end(header, data);
	mnl_attr_nest_end(header, info);
}

int fc_link_add_veth(struct fc_netns *netns, const char *name, const char *peer, const char *peer_path,
                     struct fc_error *error) {
	struct request request;
	char subject[2 * IF_NAMESIZE + 2];
	int r = check_name(name, "add veth", error);
	if (r == 0)
		r = check_name(peer, "add veth", error);
	if (r < 0)
		return r;
	_cleanup_close_ int fd = peer_path ? open(peer_path, O_RDONLY | O_NONBLOCK | O_CLOEXEC) : -1;
	if (peer_path && fd < 0)
		return fc_error_set(error, errno, "add veth: open network namespace", peer_path, NULL, NULL);
	snprintf(subject, sizeof subject, "%s-%s", name, peer);
	begin(&request, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, sizeof(struct ifinfomsg));
	put_veth(header_of(&request), name, peer, fd);
	return perform(netns, &request, "add veth", subject, error);
}

/* Bridges */

int fc_link_add_bridge(struct fc_netns *netns, const char *name, const char *mac, struct fc_error *error) {
	struct request request;
	uint8_t address[FC_MAC_SIZE];
	int r = check_name(name, "add bridge", error);
	if (r < 0)
		return r;
	if (mac && fc_mac_parse(mac, address) < 0)
		return fc_error_set(error, EINVAL, "add bridge", name, NULL,
		                    "%s is not the Ethernet address of one station", mac);
	begin(&request, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, sizeof(struct ifinfomsg));
	mnl_attr_put_strz(header_of(&request), IFLA_IFNAME, name);
	if (mac)
		mnl_attr_put(header_of(&request), IFLA_ADDRESS, sizeof address, address);
	struct nlattr *info = mnl_attr_nest_start(header_of(&request), IFLA_LINKINFO);
	mnl_attr_put_strz(header_of(&request), IFLA_INFO_KIND, "bridge");
	mnl_attr_nest_end(header_of(&request), info);
	return perform(netns, &request, "add bridge", name, error);
}

/* Changing and deleting */

static int change(struct fc_netns *netns, const char *name, const struct fc_link_settings *settings, const uint8_t *mac,
                  struct fc_error *error) {
	struct request request;
	int master = settings->master && settings->master[0] ? index_of(netns, settings->master, "set link", error) : 0;
	if (master < 0)
		return master;
	struct ifinfomsg *info = begin(&request, RTM_NEWLINK, 0, sizeof *info);
	if (settings->up >= 0) {
		info->ifi_change = IFF_UP;
		info->ifi_flags = settings->up ? IFF_UP : 0;
	}
	mnl_attr_put_strz(header_of(&request), IFLA_IFNAME, name);
	if (settings->mtu)
		mnl_attr_put_u32(header_of(&request), IFLA_MTU, settings->mtu);
	if (mac)
		mnl_attr_put(header_of(&request), IFLA_ADDRESS, FC_MAC_SIZE, mac);
	if (settings->master)
		mnl_attr_put_u32(header_of(&request), IFLA_MASTER, (uint32_t)master);
	if (settings->alias)
		mnl_attr_put_strz(header_of(&request), IFLA_IFALIAS, settings->alias);
	return perform(netns, &request, "set link", name, error);
}

static int set_switch(struct fc_netns *netns, const char *family, const char *name, const char *key, int value,
                      struct fc_error *error) {
	char path[128];
	snprintf(path, sizeof path, "/proc/sys/net/%s/conf/%s/%s", family, name, key);
	int r = fc_netns_sysctl(netns, path, value, error);
	return r < 0 ? r : 0;
}

/* IPv6's switch stands the other way round, and is missing where the kernel has no IPv6. */
static int set_ipv6(struct fc_netns *netns, const char *name, int wanted, struct fc_error *error) {
	int r = set_switch(netns, "ipv6", name, "disable_ipv6", !wanted, error);
	return r == -ENOENT && !wanted ? 0 : r;
}

int fc_link_set(struct fc_netns *netns, const char *name, const struct fc_link_settings *settings,
                struct fc_error *error) {
	uint8_t mac[FC_MAC_SIZE];
	int r = check_name(name, "set link", error);
	if (r < 0)
		return r;
	if (settings->mac && fc_mac_parse(settings->mac, mac) < 0)
		return fc_error_set(error, EINVAL, "set link", name, NULL,
		                    "%s is not the Ethernet address of one station", settings->mac);
	if (settings->alias && strlen(settings->alias) >= sizeof((struct fc_link *)NULL)->alias)
		return fc_error_set(error, EINVAL, "set link", name, NULL, "its note is too long");
	/* The switches come first where a link goes up: it is never up without them. The lookup keeps "all" out. */
	r = settings->route_localnet >= 0 || settings->ipv6 >= 0 ? index_of(netns, name, "set link", error) : 0;
	if (r >= 0 && settings->route_localnet >= 0)
		r = set_switch(netns, "ipv4", name, "route_localnet", settings->route_localnet, error);
	if (r >= 0 && settings->ipv6 >= 0)
		r = set_ipv6(netns, name, settings->ipv6, error);
	return r < 0 ? r : change(netns, name, settings, settings->mac ? mac : NULL, error);
}

int fc_link_delete(struct fc_netns *netns, const char *name, struct fc_error *error) {
	struct request request;
	int r = check_name(name, "delete link", error);
	if (r < 0)
		return r;
	begin(&request, RTM_DELLINK, 0, sizeof(struct ifinfomsg));
	mnl_attr_put_strz(header_of(&request), IFLA_IFNAME, name);
	return perform(netns, &request, "delete link", name, error);
}

/* Addresses */

static int parse_prefix(const char *text, const char *op, struct fc_prefix *ret_prefix, struct fc_error *error) {
	if (fc_prefix_parse(text, ret_prefix) == 0)
		return 0;
	return fc_error_set(error, EINVAL, op, text, "write it like 10.0.0.1/30", "not an IPv4 address with a length");
}

int fc_link_address_add(struct fc_netns *netns, const char *name, const char *prefix, struct fc_error *error) {
	struct request request;
	struct fc_prefix value;
	int r = parse_prefix(prefix, "add address", &value, error);
	int index = r < 0 ? r : index_of(netns, name, "add address", error);
	if (index < 0)
		return index;
	struct ifaddrmsg *head = begin(&request, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, sizeof *head);
	head->ifa_family = AF_INET;
	head->ifa_prefixlen = value.length;
	head->ifa_index = (uint32_t)index;
	mnl_attr_put(header_of(&request), IFA_LOCAL, sizeof value.address, &value.address);
	mnl_attr_put(header_of(&request), IFA_ADDRESS, sizeof value.address, &value.address);
	if (value.length < 31) {
		struct in_addr broadcast = {value.address.s_addr | ~fc_prefix_mask(value.length).s_addr};
		mnl_attr_put(header_of(&request), IFA_BROADCAST, sizeof broadcast, &broadcast);
	}
	r = perform(netns, &request, "add address", prefix, error);
	if (r < 0)
		fc_error_wrap(error, name, NULL);
	return r;
}

int fc_link_address_parse(const struct nlmsghdr *message, int *ret_index, struct fc_prefix *ret_prefix) {
	const struct ifaddrmsg *head = mnl_nlmsg_get_payload(message);
	const struct nlattr *address = NULL, *local = NULL;
	if (message->nlmsg_type != RTM_NEWADDR || mnl_nlmsg_get_payload_len(message) < sizeof *head)
		return -EBADMSG;
	if (head->ifa_family != AF_INET)
		return 0;
	struct fc_netlink_walk walk = fc_netlink_attributes(message, sizeof *head);
	for (const struct nlattr *attribute; (attribute = fc_netlink_next(&walk));) {
		if (mnl_attr_get_payload_len(attribute) != sizeof(struct in_addr))
			continue;
		if (mnl_attr_get_type(attribute) == IFA_LOCAL)
			local = attribute;
		else if (mnl_attr_get_type(attribute) == IFA_ADDRESS)
			address = attribute;
	}
	/* On a point-to-point link IFA_ADDRESS is the other end. */
	if (local)
		address = local;
	if (!address || head->ifa_prefixlen > 32)
		return -EBADMSG;
	memcpy(&ret_prefix->address, mnl_attr_get_payload(address), sizeof ret_prefix->address);
	ret_prefix->length = head->ifa_prefixlen;
	*ret_index = (int)head->ifa_index;
	return 1;
}

struct addresses {
	void *items; /* struct fc_link_address */
	size_t count, room;
	const struct fc_link *links;
	size_t link_count;
};

static int collect_address(const struct nlmsghdr *message, void *data) {
	struct addresses *addresses = data;
	struct fc_prefix prefix;
	int index;
	if (!message) { /* the dump begins anew */
		addresses->count = 0;
		return 0;
	}
	int r = fc_link_address_parse(message, &index, &prefix);
	if (r > 0)
		r = grow(&addresses->items, addresses->count, &addresses->room, sizeof(struct fc_link_address)) < 0
		            ? -ENOMEM
		            : 1;
	for (size_t i = 0; r > 0 && i < addresses->link_count; i++) {
		/* An address whose link came after the list of links is left out, as if asked a moment earlier. */
		if (addresses->links[i].index != index)
			continue;
		struct fc_link_address *item = (struct fc_link_address *)addresses->items + addresses->count++;
		memcpy(item->link, addresses->links[i].name, sizeof item->link);
		item->prefix = prefix;
		break;
	}
	return r < 0 ? r : 0;
}

int fc_link_address_list(struct fc_netns *netns, struct fc_link_address **ret_addresses, size_t *ret_count,
                         struct fc_error *error) {
	struct request request;
	struct fc_link *links = NULL;
	struct addresses addresses = {.items = NULL};
	struct fc_netlink_answer answer = {.fn = collect_address, .data = &addresses};
	int r = fc_link_list(netns, &links, &addresses.link_count, error);
	if (r < 0)
		return r;
	addresses.links = links;
	struct ifaddrmsg *head = begin(&request, RTM_GETADDR, NLM_F_DUMP, sizeof *head);
	head->ifa_family = AF_INET;
	r = fc_netlink_request(&netns->route, header_of(&request), &answer);
	free(links);
	if (r < 0) {
		free(addresses.items);
		return fc_netlink_error(error, r, "list addresses", NULL, &answer);
	}
	*ret_addresses = addresses.items;
	*ret_count = addresses.count;
	return 0;
}

/* Routes */

static void put_route(struct request *request, const struct fc_prefix *to, const struct in_addr *via, int index) {
	struct rtmsg *head = begin(request, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, sizeof *head);
	head->rtm_family = AF_INET;
	head->rtm_dst_len = to->length;
	head->rtm_table = RT_TABLE_MAIN;
	head->rtm_protocol = RTPROT_STATIC;
	head->rtm_scope = via ? RT_SCOPE_UNIVERSE : RT_SCOPE_LINK;
	head->rtm_type = RTN_UNICAST;
	if (to->length)
		mnl_attr_put(header_of(request), RTA_DST, sizeof to->address, &to->address);
	if (via)
		mnl_attr_put(header_of(request), RTA_GATEWAY, sizeof *via, via);
	if (index > 0)
		mnl_attr_put_u32(header_of(request), RTA_OIF, (uint32_t)index);
}

int fc_link_route_add(struct fc_netns *netns, const char *to, const char *via, const char *link,
                      struct fc_error *error) {
	struct request request;
	struct fc_prefix prefix;
	struct in_addr gateway;
	int r = parse_prefix(to, "add route", &prefix, error);
	if (r < 0)
		return r;
	if (!via && !link)
		return fc_error_set(error, EINVAL, "add route", to, NULL, "a route needs a gateway or a link");
	if (via && fc_address_parse(via, &gateway) < 0)
		return fc_error_set(error, EINVAL, "add route", to, NULL, "gateway %s is not an IPv4 address", via);
	int index = link ? index_of(netns, link, "add route", error) : 0;
	if (index < 0)
		return index;
	put_route(&request, &prefix, via ? &gateway : NULL, index);
	return perform(netns, &request, "add route", to, error);
}
