// SPDX-License-Identifier: Apache-2.0
/*
 * agent/main.c: fc-agent, PID 1 of the guest. The order of the boot, and what happens where a step of it fails: before
 * vsock is there, a line on the console and a reset; after it the host is told, and the guest waits to be ended.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/vm_sockets.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "boot.h"
#include "console.h"
#include "ip.h"
#include "mmds.h"
#include "nic.h"
#include "server.h"

enum { DEVICE_SECONDS = 10, PLAN_SECONDS = 5, ORPHAN_SECONDS = 600, FAILED_SECONDS = 60 };

static char *const environment[] = {
        (char *)(size_t) "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        (char *)(size_t) "HOME=/root",
        NULL,
};

static const struct fc_config config = {
        .podman = "podman",
        .crun = "crun",
        .run_dir = "/run/fcvm",
        .exits_dir = "/run/libpod/exits",
        .bundles_dir = "/var/lib/containers/storage/overlay-containers",
        .etc_dir = "/etc",
        .env = environment,
        .spawn = fc_spawn,
        .orphan_seconds = ORPHAN_SECONDS,
        .failed_seconds = FAILED_SECONDS,
        .quiet_seconds = FC_GUEST_QUIET_SECONDS,
        .reset_ms = 5000,
        .resume_seconds = FC_GUEST_RESUME_SECONDS,
};

static struct fc_server server;
static struct fc_ip ip;

static int open_vsock(void) {
	return socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
}

/* Connects to the host's port; goes on in the background. */
static int dial_host(void) {
	struct sockaddr_vm host = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST, .svm_port = FC_GUEST_READY_PORT};
	int fd = open_vsock();
	if (fd < 0)
		return -errno;
	if (connect(fd, (struct sockaddr *)&host, sizeof host) < 0 && errno != EINPROGRESS) {
		int problem = errno;
		close(fd);
		return -problem;
	}
	return fd;
}

static int listen_vsock(struct fc_error *error) {
	struct sockaddr_vm own = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = FC_GUEST_PORT};
	_cleanup_close_ int fd = open_vsock();
	if (fd < 0 || bind(fd, (struct sockaddr *)&own, sizeof own) < 0 || listen(fd, FC_GUEST_SESSIONS_MAX) < 0)
		return fc_error_set(error, errno, "listen", "vsock", NULL, NULL);
	return fc_server_listen(&server, fc_steal_fd(&fd), error);
}

static int make_root(struct fc_error *error) {
	int r = fc_boot_wait_device("/dev/vda", DEVICE_SECONDS, error);
	if (r == 0)
		r = fc_boot_switch_root(error);
	if (r < 0)
		return r;
	fc_boot_read_ahead();
	return fc_boot_mount_late(error);
}

static int make_network(struct fc_error *error) {
	_cleanup_free_ char *cmdline = NULL;
	size_t size;
	int r = fc_io_read_file("/proc/cmdline", FC_CMDLINE_MAX, &cmdline, &size, error);
	if (r == 0)
		r = fc_nic_loopback(error);
	if (r == 0)
		r = fc_ip_parse(cmdline, &ip, error);
	if (r == 0)
		return fc_error_set(error, ENOENT, "find ip=", "/proc/cmdline", NULL,
		                    "the kernel's command line has no ip=");
	return r < 0 ? r : fc_nic_configure(&ip, error);
}

static int get_plan(struct fc_error *error) {
	struct fc_text text = {0};
	int r = fc_mmds_read_plan(PLAN_SECONDS, &text, error);
	if (r == 0)
		r = fc_plan_read(text.data ? text.data : "", text.size, &server.plan, error);
	fc_text_clear(&text);
	return r;
}

static int announce(struct fc_error *error) {
	(void)error;
	fc_server_announce(&server, dial_host);
	/* The host may go on with its part while this one goes on with its own. */
	return fc_server_turn(&server, 0, error);
}

static int identify(struct fc_error *error) {
	char address[INET_ADDRSTRLEN];
	inet_ntop(AF_INET, &ip.client, address, sizeof address);
	return fc_boot_identify(server.plan, address, server.generation, error);
}

static int mount_images(struct fc_error *error) {
	int r = fc_boot_wait_device(server.plan->store, DEVICE_SECONDS, error);
	return r < 0 ? r : fc_boot_mount_images(server.plan, error);
}

static int start_container(struct fc_error *error) {
	return fc_container_start(&server, error);
}

struct stage {
	const char *name;
	int (*run)(struct fc_error *error);
};

/* Before there is anyone to tell. */
static const struct stage early[] = {
        {"mounts", fc_boot_mount_early}, {"modules", fc_boot_load_modules}, {"listen", listen_vsock}};

static const struct stage late[] = {
        {"root", make_root},    {"network", make_network}, {"plan", get_plan},          {"ready", announce},
        {"identity", identify}, {"images", mount_images},  {"podman", start_container},
};

static int run_stages(const struct stage *stages, size_t count, const char **ret_failed, struct fc_error *error) {
	for (size_t i = 0; i < count; i++) {
		int r = stages[i].run(error);
		if (r < 0) {
			*ret_failed = stages[i].name;
			return r;
		}
		fc_server_stage(&server, stages[i].name);
	}
	return 0;
}

static void say_error(const char *stage, const struct fc_error *error) {
	char sentence[400];
	fc_console_say("%s failed: %s", stage, fc_error_format(error, sentence, sizeof sentence));
}

static void serve(void) {
	struct fc_error error;
	while (!server.done) {
		if (fc_server_turn(&server, -1, &error) < 0) {
			say_error("loop", &error);
			return;
		}
	}
}

static void boot(void) {
	struct fc_error error = {.err = 0};
	const char *failed = "loop";
	int r = fc_server_open(&server, &config, &error);
	if (r == 0)
		r = run_stages(early, sizeof early / sizeof *early, &failed, &error);
	/* The console is there only now; what went before was too early for it. */
	fc_console_open();
	if (r < 0) {
		say_error(failed, &error);
		return;
	}
	r = run_stages(late, sizeof late / sizeof *late, &failed, &error);
	if (r < 0) {
		say_error(failed, &error);
		fc_server_fail(&server, failed, &error);
		fc_server_announce(&server, dial_host);
	} else {
		fc_console_say("podman starts %s", server.plan->name);
	}
	serve();
}

int main(int argc, char **argv) {
	if (argc == 2 && strcmp(argv[1], "--version") == 0) {
		printf("fc-agent, protocol version %d\n", FC_GUEST_VERSION);
		return 0;
	}
	if (getpid() != 1) {
		fprintf(stderr, "fc-agent is a guest's first process (PID 1); it does nothing elsewhere\n");
		return 2;
	}
	signal(SIGPIPE, SIG_IGN);
	reboot(RB_DISABLE_CAD);
	setenv("PATH", environment[0] + strlen("PATH="), 1);
	boot();
	fc_console_say("the guest ends");
	fc_boot_power_off();
}
