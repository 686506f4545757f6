// SPDX-License-Identifier: Apache-2.0
// The project's proof handler, built as it is: what the page server is measured against. Not to be improved.
// clang-format off
/* The smallest page-fault handler that serves one Firecracker restore: the reference for correctness, and the
 * baseline B that the project's page server is measured against. usage: handler SOCKET MEMORY_FILE */
#include <poll.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

struct region { unsigned long base, size, offset; };

static unsigned long number_after(const char *text, const char *key)
{
	const char *at = strstr(text, key);
	return at ? strtoul(at + strlen(key), NULL, 10) : 0;
}

int main(int argc, char **argv)
{
	if (argc != 3)
		return 2;
	int memory = open(argv[2], O_RDONLY | O_CLOEXEC);
	struct stat st;
	if (memory < 0 || fstat(memory, &st))
		return perror(argv[2]), 1;
	char *source = mmap(NULL, st.st_size, PROT_READ, MAP_PRIVATE, memory, 0);

	struct sockaddr_un address = { .sun_family = AF_UNIX };
	snprintf(address.sun_path, sizeof address.sun_path, "%s", argv[1]);
	int listener = socket(AF_UNIX, SOCK_STREAM, 0);
	unlink(argv[1]);
	if (bind(listener, (void *)&address, sizeof address) || listen(listener, 1))
		return perror(argv[1]), 1;
	int peer = accept(listener, NULL, NULL);

	/* One message: a JSON array of regions, with the userfaultfd beside it (SCM_RIGHTS). */
	char json[4096], control[CMSG_SPACE(sizeof(int))];
	struct iovec iov = { json, sizeof json - 1 };
	struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control };
	ssize_t length = recvmsg(peer, &message, 0);
	if (length <= 0 || !CMSG_FIRSTHDR(&message))
		return fprintf(stderr, "no userfaultfd received\n"), 1;
	json[length] = 0;
	int uffd = *(int *)CMSG_DATA(CMSG_FIRSTHDR(&message));

	struct region regions[8];
	int count = 0;
	for (char *at = json; count < 8 && (at = strchr(at, '{')); at++)
		regions[count++] = (struct region){ number_after(at, "\"base_host_virt_addr\":"),
			number_after(at, "\"size\":"), number_after(at, "\"offset\":") };

	unsigned long faults = 0;
	struct pollfd ready[2] = { { uffd, POLLIN, 0 }, { peer, POLLIN, 0 } };
	while (poll(ready, 2, -1) > 0 && !ready[1].revents) {
		struct uffd_msg event;
		if (read(uffd, &event, sizeof event) != sizeof event || event.event != UFFD_EVENT_PAGEFAULT)
			continue;
		unsigned long page = event.arg.pagefault.address & ~4095UL;
		for (int i = 0; i < count; i++) {
			if (page - regions[i].base >= regions[i].size)
				continue;
			struct uffdio_copy copy = { .dst = page, .len = 4096,
				.src = (unsigned long)source + regions[i].offset + page - regions[i].base };
			ioctl(uffd, UFFDIO_COPY, &copy);
			faults++;
		}
	}
	printf("handler: peer gone after %lu faults\n", faults);
	return 0;
}
