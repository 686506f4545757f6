// SPDX-License-Identifier: Apache-2.0
/* agent/ip.h: the address that the host put on the kernel's command line, as the kernel itself would read ip= . */
#ifndef FCVM_AGENT_IP_H
#define FCVM_AGENT_IP_H

#include <net/if.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

enum { FC_IP_DNS_MAX = 2 };

struct fc_ip {
	struct in_addr client, gateway, netmask; /* gateway 0.0.0.0 where there is none */
	char hostname[65];                       /* or empty */
	char device[IFNAMSIZ];                   /* "eth0" where it is left out */
	struct in_addr dns[FC_IP_DNS_MAX];
	size_t dns_count;
};

/*
 * Finds ip=CLIENT:SERVER:GATEWAY:NETMASK:HOSTNAME:DEVICE:AUTOCONF:DNS0:DNS1 in a command line (the kernel's
 * Documentation/admin-guide/nfs/nfsroot.rst; SERVER is ignored, AUTOCONF is off, none or left out). Returns 1 with
 * *ret_ip filled, 0 where there is none, or -EINVAL naming the field. The last ip= counts.
 */
int fc_ip_parse(const char *cmdline, struct fc_ip *ret_ip, struct fc_error *error);

#endif
