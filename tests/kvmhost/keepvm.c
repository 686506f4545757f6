// SPDX-License-Identifier: Apache-2.0
/*
 * keepvm: holds one virtual machine that never runs, so that the KVM host's kernel has one from its start to its end.
 *
 * With its first machine and after its last, KVM switches a branch in the kernel's scheduler (preempt_notifier_key) by
 * rewriting code that both processors execute. QEMU's TCG now and then goes on executing the breakpoint that stood
 * there meanwhile: the handler finds it gone and returns to it, for ever, on both processors, with interrupts off. Seen
 * by `info registers -a` of QEMU's monitor. The machine has a processor too, for the like in KVM itself
 * (apic_sw_disabled).
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

int main(void) {
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	int vm = kvm < 0 ? -1 : ioctl(kvm, KVM_CREATE_VM, 0);
	if (vm < 0 || ioctl(vm, KVM_CREATE_IRQCHIP, 0) < 0 || ioctl(vm, KVM_CREATE_VCPU, 0) < 0) {
		perror("keepvm");
		return 1;
	}
	for (;;)
		pause();
}
