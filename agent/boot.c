// SPDX-License-Identifier: Apache-2.0
#include "boot.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/reboot.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "clock.h"
#include "identity.h"
#include "text.h"

enum { ORDER_MAX = 65536, DEVICE_POLL_MS = 2, KILL_MS = 500 };

static const char root_device[] = "/dev/vda";
static const char new_root[] = "/newroot";

struct fc_mount {
	const char *type, *target, *options;
	unsigned long flags;
};

static int mount_one(const struct fc_mount *what, struct fc_error *error) {
	mkdir(what->target, 0755);
	if (mount(what->type, what->target, what->type, what->flags, what->options) < 0 && errno != EBUSY)
		return fc_error_set(error, errno, "mount", what->target, NULL, NULL);
	return 0;
}

static int mount_all(const struct fc_mount *list, size_t count, struct fc_error *error) {
	for (size_t i = 0; i < count; i++) {
		int r = mount_one(&list[i], error);
		if (r < 0)
			return r;
	}
	return 0;
}

int fc_boot_mount_early(struct fc_error *error) {
	static const struct fc_mount list[] = {
	        {"devtmpfs", "/dev", "mode=0755", MS_NOSUID},
	        {"proc", "/proc", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC},
	        {"sysfs", "/sys", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC},
	};
	return mount_all(list, sizeof list / sizeof *list, error);
}

int fc_boot_mount_late(struct fc_error *error) {
	static const struct fc_mount list[] = {
	        {"tmpfs", "/tmp", "mode=1777", MS_NOSUID | MS_NODEV},
	        {"tmpfs", "/run", "mode=0755", MS_NOSUID | MS_NODEV},
	        {"devpts", "/dev/pts", "mode=0620,gid=5,ptmxmode=0666", MS_NOSUID | MS_NOEXEC},
	        {"tmpfs", "/dev/shm", "mode=1777", MS_NOSUID | MS_NODEV},
	        {"cgroup2", "/sys/fs/cgroup", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC},
	};
	return mount_all(list, sizeof list / sizeof *list, error);
}

/* ---- modules */

/* "virtio_mmio.ko" names the module virtio_mmio; '-' and '_' are one. */
static size_t module_name(const char *file, char *name, size_t room) {
	size_t size = strcspn(file, ".");
	if (size >= room)
		size = room - 1;
	for (size_t i = 0; i < size; i++)
		name[i] = file[i] == '-' ? '_' : file[i];
	name[size] = '\0';
	return size;
}

static bool is_parameter_of(const char *word, const char *name, size_t size) {
	for (size_t i = 0; i < size; i++)
		if ((word[i] == '-' ? '_' : word[i]) != name[i])
			return false;
	return word[size] == '.';
}

/* What the command line says for a module, as "KEY=VALUE KEY=VALUE". */
static void parameters_of(const char *cmdline, const char *file, struct fc_text *text) {
	char name[64];
	size_t size = module_name(file, name, sizeof name);
	fc_text_puts(text, "");
	for (const char *at = cmdline; *at;) {
		at += strspn(at, " \n");
		size_t length = strcspn(at, " \n");
		if (length > size + 1 && is_parameter_of(at, name, size)) {
			fc_text_put(text, at + size + 1, length - size - 1);
			fc_text_puts(text, " ");
		}
		at += length;
	}
}

static int load_module(const char *file, const char *cmdline, struct fc_error *error) {
	char path[512];
	if (snprintf(path, sizeof path, "/modules/%s", file) >= (int)sizeof path)
		return fc_error_set(error, ENAMETOOLONG, "load module", file, NULL, NULL);
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return fc_error_set(error, errno, "load module", file, NULL, NULL);
	struct fc_text parameters = {0};
	parameters_of(cmdline, file, &parameters);
	long r = parameters.failed ? -1 : syscall(SYS_finit_module, fd, parameters.data, 0);
	int problem = parameters.failed ? ENOMEM : errno;
	fc_text_clear(&parameters);
	if (r < 0 && problem != EEXIST)
		return fc_error_set(error, problem, "load module", file, NULL, NULL);
	return 0;
}

int fc_boot_load_modules(struct fc_error *error) {
	_cleanup_free_ char *order = NULL;
	_cleanup_free_ char *cmdline = NULL;
	size_t size;
	int r = fc_io_read_file("/modules/order", ORDER_MAX, &order, &size, error);
	if (r == 0)
		r = fc_io_read_file("/proc/cmdline", FC_CMDLINE_MAX, &cmdline, &size, error);
	char *rest = order;
	for (char *line; r == 0 && (line = strsep(&rest, "\n")) != NULL;)
		if (line[0] && line[0] != '#')
			r = load_module(line, cmdline, error);
	return r;
}

/* ---- the root */

int fc_boot_wait_device(const char *path, unsigned seconds, struct fc_error *error) {
	uint64_t deadline = fc_clock_ms() + seconds * 1000ull;
	struct stat status;
	while (stat(path, &status) < 0 || !S_ISBLK(status.st_mode)) {
		if (fc_clock_ms() >= deadline)
			return fc_error_set(error, ETIMEDOUT, "wait for device", path, NULL,
			                    "it did not appear within %u s", seconds);
		struct timespec pause = {.tv_nsec = DEVICE_POLL_MS * 1000000};
		nanosleep(&pause, NULL);
	}
	return 0;
}

/* Empties a directory of the initramfs and what is below it on the same file system: it is memory. */
static void free_tree(int dir, dev_t device) {
	DIR *list = fdopendir(dir);
	if (!list) {
		close(dir);
		return;
	}
	for (struct dirent *entry; (entry = readdir(list)) != NULL;) {
		struct stat status;
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0 ||
		    fstatat(dir, entry->d_name, &status, AT_SYMLINK_NOFOLLOW) < 0 || status.st_dev != device)
			continue;
		if (S_ISDIR(status.st_mode)) {
			int below = openat(dir, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
			if (below >= 0)
				free_tree(below, device);
			unlinkat(dir, entry->d_name, AT_REMOVEDIR);
		} else {
			unlinkat(dir, entry->d_name, 0);
		}
	}
	closedir(list);
}

static int move_mounts(struct fc_error *error) {
	static const char *const names[] = {"/dev", "/proc", "/sys"};
	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		char target[64];
		snprintf(target, sizeof target, "%s%s", new_root, names[i]);
		mkdir(target, 0755);
		if (mount(names[i], target, NULL, MS_MOVE, NULL) < 0)
			return fc_error_set(error, errno, "move mount", names[i], NULL, NULL);
	}
	return 0;
}

int fc_boot_switch_root(struct fc_error *error) {
	struct stat old;
	mkdir(new_root, 0755);
	if (mount(root_device, new_root, "ext4", MS_NOATIME, NULL) < 0)
		return fc_error_set(error, errno, "mount root", root_device, NULL, NULL);
	int r = move_mounts(error);
	if (r < 0)
		return r;
	int initramfs = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (initramfs < 0 || fstat(initramfs, &old) < 0 || chdir(new_root) < 0)
		return fc_error_set(error, errno, "enter", new_root, NULL, NULL);
	free_tree(initramfs, old.st_dev);
	if (mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 || chdir("/") < 0)
		return fc_error_set(error, errno, "switch root", new_root, NULL, NULL);
	return 0;
}

void fc_boot_read_ahead(void) {
	static const char *const programs[] = {"/usr/bin/podman", "/usr/bin/conmon", "/usr/bin/crun"};
	for (size_t i = 0; i < sizeof programs / sizeof *programs; i++) {
		_cleanup_close_ int fd = open(programs[i], O_RDONLY | O_CLOEXEC);
		if (fd >= 0)
			posix_fadvise(fd, 0, 0, POSIX_FADV_WILLNEED);
	}
}

/* ---- images */

int fc_boot_mount_images(const struct fc_plan *plan, struct fc_error *error) {
	static const char target[] = "/run/fcvm/images";
	mkdir("/run/fcvm", 0755);
	mkdir(target, 0755);
	if (mount(plan->store, target, "squashfs", MS_RDONLY | MS_NODEV, NULL) < 0)
		return fc_error_set(error, errno, "mount images", plan->store, NULL, NULL);
	return 0;
}

/* ---- identity */

static int write_text(const char *path, struct fc_text *text, struct fc_error *error) {
	int r = text->failed ? fc_error_set(error, ENOMEM, "write", path, NULL, NULL)
	                     : fc_identity_create(path, text->data, text->size, error);
	fc_text_clear(text);
	return r;
}

static int write_names(const struct fc_plan *plan, const char *address, struct fc_error *error) {
	struct fc_text text = {0};
	int r = fc_identity_set_hostname(plan->hostname, error);
	fc_text_putf(&text, "%s\n", plan->hostname);
	if (r == 0)
		r = write_text("/etc/hostname", &text, error);
	fc_text_clear(&text);
	if (r < 0)
		return r;
	fc_text_puts(&text, "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
	fc_text_putf(&text, "%s\t%s\n", address[0] ? address : "127.0.1.1", plan->hostname);
	for (size_t i = 0; plan->hosts && plan->hosts[i]; i++) {
		int name = (int)strcspn(plan->hosts[i], "=");
		fc_text_putf(&text, "%s\t%.*s\n", plan->hosts[i] + name + 1, name, plan->hosts[i]);
	}
	return write_text("/etc/hosts", &text, error);
}

static int write_machine_id(const struct fc_plan *plan, struct fc_error *error) {
	struct fc_text text = {0};
	char id[33];
	int r = plan->machine_id[0] ? 0 : fc_identity_random(id, error);
	if (r < 0)
		return r;
	fc_text_putf(&text, "%s\n", plan->machine_id[0] ? plan->machine_id : id);
	return write_text("/etc/machine-id", &text, error);
}

static int write_resolvers(const struct fc_plan *plan, struct fc_error *error) {
	struct fc_text text = {0};
	fc_text_puts(&text, "");
	for (size_t i = 0; i < plan->dns_count; i++)
		fc_text_putf(&text, "nameserver %s\n", plan->dns[i]);
	for (size_t i = 0; plan->search && plan->search[i]; i++)
		fc_text_putf(&text, "%s%s", i ? " " : "search ", plan->search[i]);
	if (plan->search && plan->search[0])
		fc_text_puts(&text, "\n");
	return write_text("/etc/resolv.conf", &text, error);
}

/* The first generation, for who compares later ones with it. */
static int write_generation(const struct fc_plan *plan, char generation[33], struct fc_error *error) {
	mkdir("/run/fcvm", 0755);
	int r = fc_identity_random(generation, error);
	struct fc_published published = {.generation = generation, .name = plan->name};
	return r < 0 ? r : fc_identity_publish("/run/fcvm/identity", &published, error);
}

int fc_boot_identify(const struct fc_plan *plan, const char *address, char generation[33], struct fc_error *error) {
	int r = plan->time_ns > 0 ? fc_identity_set_clock(plan->time_ns, error) : 0;
	if (r == 0)
		r = write_names(plan, address, error);
	if (r == 0)
		r = write_machine_id(plan, error);
	if (r == 0)
		r = write_resolvers(plan, error);
	return r < 0 ? r : write_generation(plan, generation, error);
}

/* ---- the end */

/* Ends all processes but this one and reaps them, for a bounded time. */
static void kill_all(void) {
	uint64_t deadline = fc_clock_ms() + KILL_MS;
	kill(-1, SIGKILL);
	while (fc_clock_ms() < deadline) {
		pid_t pid = waitpid(-1, NULL, WNOHANG);
		if (pid < 0)
			return;
		struct timespec pause = {.tv_nsec = 2000000};
		if (pid == 0)
			nanosleep(&pause, NULL);
	}
}

void fc_boot_power_off(void) {
	kill_all();
	sync();
	umount2("/run/fcvm/images", MNT_DETACH);
	mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY, NULL);
	reboot(RB_AUTOBOOT);
	/* A machine that cannot reset: the end of PID 1 is a panic, and panic=1 does it. */
	_exit(1);
}
