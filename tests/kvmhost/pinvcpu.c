// SPDX-License-Identifier: Apache-2.0
/*
 * pinvcpu: binds each thread that runs a Firecracker's virtual processor to one of the KVM host's processors, in turn,
 * but for the first.
 *
 * Where such a thread moves from one of QEMU's emulated processors to another, or runs on the first, which gets the
 * devices' interrupts, its guest (or the host itself) now and then has the wrong page tables right after a switch
 * between the two: a busy guest ends by a triple fault or takes page faults for ever within a minute or two, seen by
 * kvm_exit of the host's tracing.
 *
 * The kernel tells of each name that a thread takes (Documentation/driver-api/connector.rst, linux/cn_proc.h).
 */
#include <errno.h>
#include <linux/cn_proc.h>
#include <linux/connector.h>
#include <linux/netlink.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int listen_to_names(void) {
	struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_groups = CN_IDX_PROC};
	struct {
		struct nlmsghdr header;
		struct cn_msg message;
		enum proc_cn_mcast_op op;
	} __attribute__((packed, aligned(NLMSG_ALIGNTO)))
	request = {.header = {.nlmsg_len = sizeof request, .nlmsg_type = NLMSG_DONE},
	           .message = {.id = {CN_IDX_PROC, CN_VAL_PROC}, .len = sizeof request.op},
	           .op = PROC_CN_MCAST_LISTEN};
	int fd = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_CONNECTOR);
	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0 ||
	    send(fd, &request, sizeof request, 0) < 0)
		return -1;
	return fd;
}

static void pin(pid_t thread, unsigned cpu) {
	cpu_set_t cpus;
	CPU_ZERO(&cpus);
	CPU_SET(cpu, &cpus);
	if (sched_setaffinity(thread, sizeof cpus, &cpus) < 0 && errno != ESRCH)
		perror("pinvcpu");
}

int main(void) {
	char buffer[4096] __attribute__((aligned(NLMSG_ALIGNTO)));
	unsigned next = 0, cpus = (unsigned)sysconf(_SC_NPROCESSORS_ONLN);
	int fd = listen_to_names();
	if (fd < 0) {
		perror("pinvcpu");
		return 1;
	}
	for (;;) {
		/* ENOBUFS: some were missed. */
		ssize_t size = recv(fd, buffer, sizeof buffer, 0);
		const struct nlmsghdr *header = (const struct nlmsghdr *)buffer;
		const struct cn_msg *message = NLMSG_DATA(header);
		const struct proc_event *event = (const struct proc_event *)message->data;
		if (size < (ssize_t)(NLMSG_LENGTH(sizeof *message) + sizeof *event) || event->what != PROC_EVENT_COMM)
			continue;
		if (strncmp(event->event_data.comm.comm, "fc_vcpu", 7) == 0)
			pin(event->event_data.comm.process_pid, cpus > 1 ? 1 + next++ % (cpus - 1) : 0);
	}
}
