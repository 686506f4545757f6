// SPDX-License-Identifier: Apache-2.0
/*
 * agent/boot.h: from an initramfs to a root file system, as PID 1. Each step returns 0 or -errno with the error filled;
 * main.c gives them their order. They block, each for a bounded time.
 */
#ifndef FCVM_AGENT_BOOT_H
#define FCVM_AGENT_BOOT_H

#include "base/error.h"
#include "plan.h"

/* /dev, /proc and /sys. */
int fc_boot_mount_early(struct fc_error *error);

/*
 * Loads the modules that /modules/order names, one a line, in that order; a line that is empty or begins with '#' is
 * passed over, a module that is there already is fine. Each is given its own parameters of the kernel's command line.
 */
int fc_boot_load_modules(struct fc_error *error);

/* Waits at most `seconds` for a block device. */
int fc_boot_wait_device(const char *path, unsigned seconds, struct fc_error *error);

/* Mounts /dev/vda (ext4), moves /dev, /proc and /sys there, makes it the root and frees the initramfs. */
int fc_boot_switch_root(struct fc_error *error);

/* /tmp, /run, /dev/pts, /dev/shm and the unified cgroup hierarchy. */
int fc_boot_mount_late(struct fc_error *error);

/*
 * Has the kernel read Podman's programs while the guest goes on booting: read page by page as they run, tens of
 * megabytes would be most of the container's start. Only a hint; nothing can fail.
 */
void fc_boot_read_ahead(void);

/*
 * Mounts the image store (squashfs, read-only) at /run/fcvm/images, where the root file system's own
 * /etc/containers/storage.conf looks for it.
 */
int fc_boot_mount_images(const struct fc_plan *plan, struct fc_error *error);

/*
 * Wall clock, host name, /etc/hostname, /etc/hosts, /etc/machine-id, /etc/resolv.conf, and the first generation
 * (32 hexadecimal digits, at random) below /run/fcvm/identity. `address` is the guest's own.
 */
int fc_boot_identify(const struct fc_plan *plan, const char *address, char ret_generation[33], struct fc_error *error);

/* Ends every process, unmounts what can be, and resets the machine, by which Firecracker ends. Does not return. */
void fc_boot_power_off(void) __attribute__((noreturn));

enum { FC_CMDLINE_MAX = 16384 };

#endif
