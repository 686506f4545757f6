// SPDX-License-Identifier: Apache-2.0
#include "nic.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <net/route.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"

static void name_into(struct ifreq *request, const char *device) {
	memset(request, 0, sizeof *request);
	memcpy(request->ifr_name, device, strnlen(device, sizeof request->ifr_name - 1));
}

static void address_into(struct sockaddr *to, struct in_addr address) {
	struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr = address};
	memcpy(to, &from, sizeof from);
}

static int up(int fd, const char *device, struct fc_error *error) {
	struct ifreq request;
	name_into(&request, device);
	if (ioctl(fd, SIOCGIFFLAGS, &request) < 0)
		return fc_error_set(error, errno, "find interface", device, NULL, NULL);
	request.ifr_flags |= IFF_UP | IFF_RUNNING;
	if (ioctl(fd, SIOCSIFFLAGS, &request) < 0)
		return fc_error_set(error, errno, "bring up", device, NULL, NULL);
	return 0;
}

static int open_socket(struct fc_error *error) {
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	return fd < 0 ? fc_error_set(error, errno, "open socket", NULL, NULL, NULL) : fd;
}

int fc_nic_loopback(struct fc_error *error) {
	_cleanup_close_ int fd = open_socket(error);
	return fd < 0 ? fd : up(fd, "lo", error);
}

static int set_address(int fd, const struct fc_ip *ip, struct fc_error *error) {
	struct ifreq request;
	name_into(&request, ip->device);
	address_into(&request.ifr_addr, ip->client);
	if (ioctl(fd, SIOCSIFADDR, &request) < 0)
		return fc_error_set(error, errno, "set address", ip->device, NULL, NULL);
	address_into(&request.ifr_netmask, ip->netmask);
	if (ioctl(fd, SIOCSIFNETMASK, &request) < 0)
		return fc_error_set(error, errno, "set netmask", ip->device, NULL, NULL);
	return 0;
}

static int add_route(int fd, struct rtentry *route, const char *device, struct fc_error *error) {
	char name[IFNAMSIZ];
	memcpy(name, device, sizeof name);
	route->rt_dev = name;
	if (ioctl(fd, SIOCADDRT, route) < 0 && errno != EEXIST)
		return fc_error_set(error, errno, "add route", device, NULL, NULL);
	return 0;
}

/* The metadata service has no address in any network: it answers on the link itself. */
static int route_metadata(int fd, const struct fc_ip *ip, struct fc_error *error) {
	struct rtentry route = {.rt_flags = RTF_UP | RTF_HOST};
	struct in_addr address = {.s_addr = htonl(0xa9fea9fe)};
	struct in_addr mask = {.s_addr = 0xffffffff};
	address_into(&route.rt_dst, address);
	address_into(&route.rt_genmask, mask);
	return add_route(fd, &route, ip->device, error);
}

static int route_default(int fd, const struct fc_ip *ip, struct fc_error *error) {
	struct rtentry route = {.rt_flags = RTF_UP | RTF_GATEWAY};
	struct in_addr any = {.s_addr = 0};
	if (ip->gateway.s_addr == 0)
		return 0;
	address_into(&route.rt_dst, any);
	address_into(&route.rt_genmask, any);
	address_into(&route.rt_gateway, ip->gateway);
	return add_route(fd, &route, ip->device, error);
}

int fc_nic_configure(const struct fc_ip *ip, struct fc_error *error) {
	_cleanup_close_ int fd = open_socket(error);
	if (fd < 0)
		return fd;
	int r = set_address(fd, ip, error);
	if (r == 0)
		r = up(fd, ip->device, error);
	if (r == 0)
		r = route_metadata(fd, ip, error);
	if (r == 0)
		r = route_default(fd, ip, error);
	return r;
}
