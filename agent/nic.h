// SPDX-License-Identifier: Apache-2.0
/* agent/nic.h: the guest's interfaces, set up by ioctl (netdevice(7)): there is no `ip` in an initramfs. */
#ifndef FCVM_AGENT_NIC_H
#define FCVM_AGENT_NIC_H

#include "base/error.h"
#include "ip.h"

/* Brings lo up. */
int fc_nic_loopback(struct fc_error *error);

/* Gives ip->device its address, brings it up, routes the default over the gateway and the metadata address to the link.
 */
int fc_nic_configure(const struct fc_ip *ip, struct fc_error *error);

#endif
