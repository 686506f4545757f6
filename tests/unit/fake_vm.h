// SPDX-License-Identifier: Apache-2.0
/*
 * tests/unit/fake_vm.h: a process in Firecracker's place: anonymous memory, a real userfaultfd on it, Firecracker's
 * message on the socket, and then whatever a test wants it to touch. Its exit status is the test's: 0, or the line
 * that failed modulo 200.
 */
#ifndef FCVM_TESTS_FAKE_VM_H
#define FCVM_TESTS_FAKE_VM_H

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/io.h"

enum { VM_PAGE = 4096 };

struct vm {
	uint8_t *memory;
	size_t size;
	int uffd;
	int socket;
	int go;   /* a byte comes for each vm_await */
	int said; /* a byte goes for each vm_say */
};

#define VM_CHECK(condition)                                                                                            \
	do {                                                                                                           \
		if (!(condition))                                                                                      \
			_exit(1 + __LINE__ % 200);                                                                     \
	} while (0)

/* What byte `i` of the page with this number is in the tests' memory files; pages with a number of 3 modulo 8 are zero.
 */
static inline uint8_t vm_byte(uint64_t page, size_t i) {
	return page % 8 == 3 ? 0 : (uint8_t)(page * 7 + i / 8 + page / 256 + 1);
}

static inline void vm_fill_page(uint8_t *at, uint64_t page) {
	for (size_t i = 0; i < VM_PAGE; i++)
		at[i] = vm_byte(page, i);
}

/* Whether the page in memory is the file's. Reads its last byte first: a test that the whole page came. */
static inline int vm_page_right(const uint8_t *at, uint64_t page) {
	for (size_t i = VM_PAGE; i-- > 0;) {
		if (at[i] != vm_byte(page, i))
			return 0;
	}
	return 1;
}

static inline int vm_connect(const char *path) {
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
		return -1;
	return fd;
}

static inline int vm_userfaultfd(void) {
	struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_EVENT_REMOVE};
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (fd < 0 || ioctl(fd, UFFDIO_API, &api) < 0)
		return -1;
	return fd;
}

static inline int vm_register(int uffd, void *memory, size_t size) {
	struct uffdio_register range = {.range = {.start = (uint64_t)(uintptr_t)memory, .len = size},
	                                .mode = UFFDIO_REGISTER_MODE_MISSING};
	return ioctl(uffd, UFFDIO_REGISTER, &range);
}

/* Memory as Firecracker maps it, with a userfaultfd that was not sent yet. */
static inline void vm_make_memory(struct vm *vm, size_t size, int flags) {
	vm->size = size;
	vm->memory =
	        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | flags, -1, 0);
	VM_CHECK(vm->memory != MAP_FAILED);
	vm->uffd = vm_userfaultfd();
	VM_CHECK(vm->uffd >= 0);
	VM_CHECK(vm_register(vm->uffd, vm->memory, size) == 0);
}

/* Two regions, the second part of the memory in the file's first half, as a guest with a hole below 4 GiB has. */
static inline void vm_join(struct vm *vm, const char *path, size_t page_size) {
	char text[512];
	size_t half = vm->size / 2;
	int n = snprintf(
	        text, sizeof text,
	        "[{\"base_host_virt_addr\":%llu,\"size\":%zu,\"offset\":0,\"page_size\":%zu,\"page_size_kib\":%zu},"
	        "{\"base_host_virt_addr\":%llu,\"size\":%zu,\"offset\":%zu,\"page_size\":%zu,\"page_size_kib\":%zu}]",
	        (unsigned long long)(uintptr_t)vm->memory, half, page_size, page_size,
	        (unsigned long long)(uintptr_t)(vm->memory + half), vm->size - half, half, page_size, page_size);
	vm->socket = vm_connect(path);
	VM_CHECK(vm->socket >= 0);
	VM_CHECK(fc_io_send_fd(vm->socket, text, (size_t)n, vm->uffd) == 0);
}

static inline void vm_await(struct vm *vm) {
	char byte;
	VM_CHECK(read(vm->go, &byte, 1) == 1);
}

static inline void vm_say(struct vm *vm) {
	VM_CHECK(write(vm->said, "x", 1) == 1);
}

/* A child and the two pipes to it. */
struct vm_child {
	pid_t pid;
	int go;
	int said;
};

typedef void vm_body(struct vm *vm, const char *path, const void *argument);

static inline struct vm_child vm_start(vm_body *body, const char *path, const void *argument) {
	int go[2];
	int said[2];
	if (pipe2(go, O_CLOEXEC) < 0 || pipe2(said, O_CLOEXEC) < 0)
		abort();
	pid_t pid = fork();
	if (pid < 0)
		abort();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		/* What hangs ends by itself. */
		alarm(60);
		struct vm vm = {.uffd = -1, .socket = -1, .go = go[0], .said = said[1]};
		body(&vm, path, argument);
		_exit(0);
	}
	close(go[0]);
	close(said[1]);
	return (struct vm_child){.pid = pid, .go = go[1], .said = said[0]};
}

static inline void vm_go(const struct vm_child *child) {
	if (write(child->go, "x", 1) != 1)
		abort();
}

/* Waits for what the child says; 0 where it ended instead or nothing came for 20 s. */
static inline int vm_hear(const struct vm_child *child) {
	char byte;
	struct pollfd ready = {.fd = child->said, .events = POLLIN};
	return poll(&ready, 1, 20000) == 1 && read(child->said, &byte, 1) == 1;
}

/* Waits for its end: its exit status, or 1000 + the signal. */
static inline int vm_end(const struct vm_child *child) {
	int status = 0;
	close(child->go);
	close(child->said);
	while (waitpid(child->pid, &status, 0) < 0 && errno == EINTR)
		;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

#endif
