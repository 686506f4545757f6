// SPDX-License-Identifier: Apache-2.0
// link: -Wl,--wrap=mnl_socket_recvfrom
/*
 * core/net against the real kernel: every test has network namespaces of its own, in a directory of its own, and what
 * it claims of a rule it shows by traffic through it. Needs root; without it, what needs none is tested and the rest is
 * skipped.
 *
 *   client eth0 10.1.0.2/24 --- 10.1.0.1/24 left  router  right 10.2.0.1/24 --- 10.2.0.2/24 eth0 server
 *
 * The client's default route is the router; the server has none, so that it can answer its neighbour alone.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <libnftnl/common.h>
#include <libnftnl/table.h>
#include <linux/if_tun.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/rtnetlink.h>
#include <netinet/ip_icmp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "net/firewall.h"
#include "net/firewall_set.h"
#include "net/firewall_set_internal.h"
#include "net/link.h"
#include "net/link_internal.h"
#include "net/netns.h"
#include "net/netns_internal.h"

enum {
	SOON = 5000, /* ms within which what must come comes, on a slow machine too */
	NEVER = 300, /* ms after which what must not come is taken not to */
};

/* What the next receptions answer instead of the kernel's words */
static int injected_errno;
static int injected_count;

ssize_t __real_mnl_socket_recvfrom(const struct mnl_socket *socket, void *buffer, size_t size);
ssize_t __wrap_mnl_socket_recvfrom(const struct mnl_socket *socket, void *buffer, size_t size);
ssize_t __wrap_mnl_socket_recvfrom(const struct mnl_socket *socket, void *buffer, size_t size) {
	ssize_t n = __real_mnl_socket_recvfrom(socket, buffer, size);
	if (injected_count == 0)
		return n;
	injected_count--;
	errno = injected_errno;
	return -1;
}

/* The world of a test */

enum place { CLIENT, ROUTER, SERVER, PLACES };

struct world {
	char directory[64];
	char path[PLACES][96];
	struct fc_netns *at[PLACES];
	ino_t home; /* the namespace that the test runs in, and must still be in at its end */
};

static struct fc_error error;

/* Asserts that a call succeeded, and says its error where it did not. */
static void check_at(int r, const char *call, int line) {
	char text[1200];
	if (r < 0)
		fail_msg("line %d: %s: %s", line, call, fc_error_format(&error, text, sizeof text));
}
#define check(call) check_at((call), #call, __LINE__)

static ino_t own_namespace(void) {
	struct stat st;
	assert_int_equal(stat("/proc/thread-self/ns/net", &st), 0);
	return st.st_ino;
}

static bool is_root(void) {
	if (geteuid() == 0)
		return true;
	print_message("skipped: this test makes network namespaces, which needs root\n");
	return false;
}
#define need_root()                                                                                                    \
	do {                                                                                                           \
		if (!is_root())                                                                                        \
			skip();                                                                                        \
	} while (0)

static int set_up(void **state) {
	struct world *world = calloc(1, sizeof *world);
	*state = world;
	if (geteuid() != 0)
		return 0;
	world->home = own_namespace();
	strcpy(world->directory, "/tmp/fcvm-test-net-XXXXXX");
	if (!mkdtemp(world->directory))
		return -1;
	for (int i = 0; i < PLACES; i++) {
		snprintf(world->path[i], sizeof world->path[i], "%s/%d", world->directory, i);
		check(fc_netns_create(world->path[i], &error));
		check(fc_netns_open(world->path[i], &world->at[i], &error));
	}
	return 0;
}

static int tear_down(void **state) {
	struct world *world = *state;
	injected_count = 0;
	for (int i = 0; i < PLACES && world->directory[0]; i++) {
		fc_netns_close(world->at[i]);
		check(fc_netns_remove(world->path[i], &error));
	}
	if (world->directory[0]) {
		assert_int_equal(rmdir(world->directory), 0);
		assert_int_equal(own_namespace(), world->home);
	}
	free(world);
	return 0;
}

static void up(struct fc_netns *netns, const char *link, const char *address) {
	struct fc_link_settings settings = FC_LINK_KEEP;
	settings.up = 1;
	settings.ipv6 = 0; /* no discovery in between */
	if (address)
		check(fc_link_address_add(netns, link, address, &error));
	check(fc_link_set(netns, link, &settings, &error));
}

/* Connects the three, as in the picture. */
static void connect_world(struct world *world) {
	bool former;
	check(fc_link_add_veth(world->at[ROUTER], "left", "eth0", world->path[CLIENT], &error));
	check(fc_link_add_veth(world->at[ROUTER], "right", "eth0", world->path[SERVER], &error));
	for (int i = 0; i < PLACES; i++)
		up(world->at[i], "lo", NULL);
	up(world->at[CLIENT], "eth0", "10.1.0.2/24");
	up(world->at[ROUTER], "left", "10.1.0.1/24");
	up(world->at[ROUTER], "right", "10.2.0.1/24");
	up(world->at[SERVER], "eth0", "10.2.0.2/24");
	check(fc_link_route_add(world->at[CLIENT], "0.0.0.0/0", "10.1.0.1", NULL, &error));
	check(fc_netns_forwarding(world->at[ROUTER], 1, &former, &error));
}

/* Sockets inside namespaces */

struct socket_job {
	int domain, type, protocol;
};

static int make_socket(void *data, struct fc_error *ret_error) {
	const struct socket_job *job = data;
	int fd = socket(job->domain, job->type | SOCK_CLOEXEC | SOCK_NONBLOCK, job->protocol);
	return fd < 0 ? fc_error_set(ret_error, errno, "socket", NULL, NULL, NULL) : fd;
}

static int socket_in(struct fc_netns *netns, int type, int protocol) {
	struct socket_job job = {AF_INET, type, protocol};
	int fd = fc_netns_run(netns, make_socket, &job, &error);
	check(fd);
	return fd;
}

static struct sockaddr_in address_of(const char *text, uint16_t port) {
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
	assert_int_equal(inet_pton(AF_INET, text, &address.sin_addr), 1);
	return address;
}

/* A bound socket: TCP listens. */
static int serve(struct fc_netns *netns, int type, const char *text, uint16_t port) {
	struct sockaddr_in address = address_of(text, port);
	int fd = socket_in(netns, type, 0), on = 1;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
	if (type == SOCK_STREAM)
		assert_int_equal(listen(fd, 8), 0);
	return fd;
}

static bool wait_for(int fd, short events, int limit) {
	struct pollfd ready = {.fd = fd, .events = events};
	return poll(&ready, 1, limit) == 1;
}

/* Tries a TCP connection from `netns`: 0, or the errno of its failure; ETIMEDOUT after `limit` ms. */
static int try_tcp(struct fc_netns *netns, const char *text, uint16_t port, int limit) {
	struct sockaddr_in address = address_of(text, port);
	int fd = socket_in(netns, SOCK_STREAM, 0), err = 0;
	socklen_t size = sizeof err;
	if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0 && errno != EINPROGRESS)
		err = errno;
	else if (!wait_for(fd, POLLOUT, limit))
		err = ETIMEDOUT;
	else
		getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &size);
	close(fd);
	return err;
}

/*
 * A whole conversation over TCP: connects, sends, the listener echoes, the echo arrives. Returns 0 or an errno, and in
 * `peer` (INET_ADDRSTRLEN, or NULL) who the listener saw.
 */
static int talk_tcp(struct fc_netns *netns, const char *text, uint16_t port, int listener, char *peer) {
	struct sockaddr_in address = address_of(text, port), from;
	socklen_t size = sizeof from;
	char byte = 'x', echo = 0;
	int fd = socket_in(netns, SOCK_STREAM, 0), other = -1, r = ETIMEDOUT;
	if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0 && errno != EINPROGRESS)
		r = errno;
	else if (wait_for(listener, POLLIN, SOON) && wait_for(fd, POLLOUT, SOON) &&
	         send(fd, &byte, 1, MSG_NOSIGNAL) == 1)
		other = accept4(listener, (struct sockaddr *)&from, &size, SOCK_CLOEXEC);
	if (other >= 0 && wait_for(other, POLLIN, SOON) && recv(other, &echo, 1, 0) == 1 &&
	    send(other, &echo, 1, MSG_NOSIGNAL) == 1 && wait_for(fd, POLLIN, SOON) && recv(fd, &echo, 1, 0) == 1)
		r = echo == byte ? 0 : EIO;
	if (other >= 0 && peer)
		inet_ntop(AF_INET, &from.sin_addr, peer, INET_ADDRSTRLEN);
	if (other >= 0)
		close(other);
	close(fd);
	return r;
}

/* The same over UDP, with one datagram each way. `limit` is for the first to arrive. */
static int talk_udp(struct fc_netns *netns, const char *text, uint16_t port, int server, int limit, char *peer) {
	struct sockaddr_in address = address_of(text, port), from;
	socklen_t size = sizeof from;
	char byte = 'u', echo = 0;
	int fd = socket_in(netns, SOCK_DGRAM, 0), r = ETIMEDOUT;
	if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0 || send(fd, &byte, 1, 0) != 1)
		r = errno;
	else if (wait_for(server, POLLIN, limit) &&
	         recvfrom(server, &echo, 1, 0, (struct sockaddr *)&from, &size) == 1 &&
	         sendto(server, &echo, 1, 0, (struct sockaddr *)&from, size) == 1 && wait_for(fd, POLLIN, SOON) &&
	         recv(fd, &echo, 1, 0) == 1)
		r = echo == byte ? 0 : EIO;
	if (r == 0 && peer)
		inet_ntop(AF_INET, &from.sin_addr, peer, INET_ADDRSTRLEN);
	close(fd);
	return r;
}

static uint16_t checksum(const uint8_t *data, size_t size) {
	uint32_t sum = 0;
	for (size_t i = 0; i < size; i += 2)
		sum += (uint32_t)(data[i] << 8 | data[i + 1]);
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return htons((uint16_t)~sum);
}

/* One echo request, of a connection of its own; whether its reply came within `limit` ms. */
static bool ping(struct fc_netns *netns, const char *text, int limit) {
	static uint16_t id = 77;
	struct sockaddr_in address = address_of(text, 0);
	struct icmphdr request = {.type = ICMP_ECHO, .un.echo.id = htons(id++)};
	uint8_t reply[128];
	bool answered = false;
	int fd = socket_in(netns, SOCK_RAW, IPPROTO_ICMP);
	request.checksum = checksum((const uint8_t *)&request, sizeof request);
	sendto(fd, &request, sizeof request, 0, (struct sockaddr *)&address, sizeof address);
	while (!answered && wait_for(fd, POLLIN, limit)) {
		ssize_t n = recv(fd, reply, sizeof reply, 0);
		size_t header = (size_t)(reply[0] & 15) * 4;
		answered = n >= (ssize_t)(header + sizeof request) && reply[header] == ICMP_ECHOREPLY;
	}
	close(fd);
	return answered;
}

/* Text */

static void test_prefix(void **state) {
	(void)state;
	static const char *const wrong[] = {
	        "",        "10.0.0.1",     "10.0.0.1/",  "10.0.0.1/33",  "10.0.0.1/-1", "10.0.0.1/+1",
	        "10.0/8",  "10.0.0.1/08",  "/8",         "10.0.0.256/8", "10.0.0.1/8 ", " 10.0.0.1/8",
	        "::1/128", "10.0.0.1/8/8", "010.0.0.1/8"};
	struct fc_prefix prefix;
	char text[FC_PREFIX_TEXT];
	for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
		assert_int_equal(fc_prefix_parse(wrong[i], &prefix), -EINVAL);
	assert_int_equal(fc_prefix_parse("172.16.0.1/30", &prefix), 0);
	assert_int_equal(prefix.length, 30);
	assert_string_equal(fc_prefix_format(&prefix, text), "172.16.0.1/30");
	assert_int_equal(fc_prefix_parse("0.0.0.0/0", &prefix), 0);
	assert_int_equal(fc_prefix_mask(0).s_addr, 0);
	assert_int_equal(ntohl(fc_prefix_mask(30).s_addr), 0xfffffffc);
	assert_int_equal(ntohl(fc_prefix_mask(32).s_addr), 0xffffffff);
}

static void test_mac(void **state) {
	(void)state;
	static const char *const wrong[] = {"",
	                                    "02:fc:00:00:00",
	                                    "02:fc:00:00:00:0g",
	                                    "02-fc-00-00-00-01",
	                                    "02:fc:00:00:00:011",
	                                    "01:00:00:00:00:00",
	                                    "00:00:00:00:00:00",
	                                    "2:fc:00:00:00:001"};
	uint8_t mac[FC_MAC_SIZE];
	char text[FC_MAC_TEXT];
	for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
		assert_int_equal(fc_mac_parse(wrong[i], mac), -EINVAL);
	assert_int_equal(fc_mac_parse("02:FC:00:ab:cD:01", mac), 0);
	assert_string_equal(fc_mac_format(mac, text), "02:fc:00:ab:cd:01");
}

static void test_link_name(void **state) {
	(void)state;
	static const char *const wrong[] = {"", ".", "..", "a b", "a/b", "../x", "a:1", "tap%d", "a\n", "a\t"};
	for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
		assert_int_equal(fc_link_name_check(wrong[i]), -EINVAL);
	assert_int_equal(fc_link_name_check("0123456789abcdef"), -ENAMETOOLONG);
	assert_int_equal(fc_link_name_check("0123456789abcde"), 0);
	assert_int_equal(fc_link_name_check("fcv1.7"), 0);
}

/* Answers, without a kernel */

struct crafted {
	_Alignas(8) char bytes[1024];
	size_t size;
};

/* Appends a failure (or, with 0, an acknowledgement), with the kernel's words where there are any. */
static void craft_outcome(struct crafted *to, uint32_t seq, int err, const char *words) {
	struct nlmsghdr *header = mnl_nlmsg_put_header(to->bytes + to->size);
	header->nlmsg_type = NLMSG_ERROR;
	header->nlmsg_seq = seq;
	header->nlmsg_pid = 7;
	header->nlmsg_flags = words ? NLM_F_CAPPED | NLM_F_ACK_TLVS : NLM_F_CAPPED;
	struct nlmsgerr *outcome = mnl_nlmsg_put_extra_header(header, sizeof *outcome);
	outcome->error = -err;
	if (words)
		mnl_attr_put_strz(header, NLMSGERR_ATTR_MSG, words);
	to->size += NLMSG_ALIGN(header->nlmsg_len);
}

static void test_first_failure_counts(void **state) {
	(void)state;
	struct crafted crafted = {.size = 0};
	struct fc_netlink_answer answer = {.portid = 7, .first = 10, .last = 14};
	craft_outcome(&crafted, 9, EPERM, "an earlier batch's");
	craft_outcome(&crafted, 13, ENOENT, "follows");
	craft_outcome(&crafted, 12, EINVAL, "the cause");
	craft_outcome(&crafted, 14, 0, NULL);
	fc_netlink_read(crafted.bytes, crafted.size, &answer);
	assert_int_equal(answer.err, EINVAL);
	assert_int_equal(answer.err_seq, 12);
	assert_string_equal(answer.text, "the cause");
	assert_true(answer.done);
}

static void test_strange_answers(void **state) {
	(void)state;
	struct crafted crafted = {.size = 0};
	struct fc_netlink_answer answer = {.portid = 7, .first = 1, .last = 1};
	craft_outcome(&crafted, 1, 0, NULL);
	/* Cut short, everywhere: nothing is made of it, and a sanitizer finds nothing either. */
	for (size_t size = 0; size < crafted.size; size++) {
		char *copy = malloc(size + 1);
		memcpy(copy, crafted.bytes, size);
		fc_netlink_read(copy, size, &answer);
		free(copy);
		assert_false(answer.done);
	}
	/* A length beyond INT_MAX, which libmnl 1.0.4 takes for a good one. */
	mnl_nlmsg_put_header(crafted.bytes)->nlmsg_len = 0xedededed;
	fc_netlink_read(crafted.bytes, crafted.size, &answer);
	assert_int_equal(answer.err, 0);
	/* A positive number is no errno. */
	crafted.size = 0;
	craft_outcome(&crafted, 1, -5, NULL);
	fc_netlink_read(crafted.bytes, crafted.size, &answer);
	assert_int_equal(answer.err, EPROTO);
}

static void test_answers_of_others(void **state) {
	(void)state;
	struct crafted crafted = {.size = 0};
	struct fc_netlink_answer answer = {.portid = 8, .first = 1, .last = 1};
	craft_outcome(&crafted, 1, EPERM, NULL);
	fc_netlink_read(crafted.bytes, crafted.size, &answer);
	assert_int_equal(answer.err, 0);
	assert_false(answer.done);
}

/* Namespaces */

static void test_namespace_life(void **state) {
	struct world *world = *state;
	char path[128];
	struct fc_netns *netns = NULL;
	need_root();
	snprintf(path, sizeof path, "%s/new", world->directory);
	check(fc_netns_create(path, &error));
	struct stat st;
	assert_int_equal(stat(path, &st), 0);
	assert_int_not_equal(st.st_ino, world->home);
	assert_int_equal(own_namespace(), world->home);
	assert_int_equal(fc_netns_create(path, &error), -EEXIST);
	assert_int_equal(error.err, EEXIST);
	assert_string_equal(error.subject, path);
	check(fc_netns_remove(path, &error));
	assert_int_equal(fc_netns_remove(path, &error), -ENOENT);
	assert_int_equal(fc_netns_open(path, &netns, &error), -ENOENT);
	assert_null(netns);
}

static void test_namespace_misplaced(void **state) {
	struct world *world = *state;
	char path[128], directory[160];
	struct fc_netns *netns = NULL;
	need_root();
	snprintf(path, sizeof path, "%s/file", world->directory);
	snprintf(directory, sizeof directory, "%s/missing/x", world->directory);
	assert_int_equal(fc_netns_create(directory, &error), -ENOENT);
	assert_int_equal(fc_netns_open("/proc/self/ns/uts", &netns, &error), -EINVAL);
	assert_int_equal(fc_netns_remove(world->directory, &error), -EINVAL);
	/* A file with something in it is nobody's namespace and stays. */
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	assert_int_equal(write(fd, "x", 1), 1);
	assert_int_equal(fc_netns_remove(path, &error), -EINVAL);
	/* An empty one is what a creation that was killed leaves. */
	assert_int_equal(ftruncate(fd, 0), 0);
	close(fd);
	assert_int_equal(fc_netns_open(path, &netns, &error), -EINVAL);
	check(fc_netns_remove(path, &error));
	assert_int_equal(access(path, F_OK), -1);
}

static void test_namespace_kept_by_handle(void **state) {
	struct world *world = *state;
	char path[128];
	struct fc_netns *netns = NULL;
	need_root();
	snprintf(path, sizeof path, "%s/kept", world->directory);
	check(fc_netns_create(path, &error));
	check(fc_netns_open(path, &netns, &error));
	check(fc_netns_remove(path, &error));
	check(fc_link_add_veth(netns, "a", "b", NULL, &error));
	fc_netns_close(netns);
	fc_netns_close(NULL);
}

static int blocked_signals(void *data, struct fc_error *ret_error) {
	sigset_t mask;
	(void)data;
	(void)ret_error;
	pthread_sigmask(SIG_BLOCK, NULL, &mask);
	return sigismember(&mask, SIGTERM) && sigismember(&mask, SIGCHLD);
}

/* A signal's handler must not run inside another namespace, and the caller's mask stays as it was. */
static void test_thread_takes_no_signals(void **state) {
	struct world *world = *state;
	sigset_t mask;
	need_root();
	assert_int_equal(fc_netns_run(world->at[CLIENT], blocked_signals, NULL, &error), 1);
	pthread_sigmask(SIG_BLOCK, NULL, &mask);
	assert_false(sigismember(&mask, SIGTERM));
}

static void test_forwarding(void **state) {
	struct world *world = *state;
	struct fc_netns *own = NULL;
	bool former = true, host = false, after = false;
	need_root();
	check(fc_netns_open(NULL, &own, &error));
	check(fc_netns_forwarding(own, -1, &host, &error));
	check(fc_netns_forwarding(world->at[CLIENT], 0, &former, &error));
	check(fc_netns_forwarding(world->at[CLIENT], 1, &former, &error));
	assert_false(former);
	check(fc_netns_forwarding(world->at[CLIENT], 0, &former, &error));
	assert_true(former);
	check(fc_netns_forwarding(own, -1, &after, &error));
	assert_int_equal(host, after);
	fc_netns_close(own);
}

/* Links */

static const struct fc_link *find_link(const struct fc_link *links, size_t count, const char *name) {
	for (size_t i = 0; i < count; i++) {
		if (strcmp(links[i].name, name) == 0)
			return &links[i];
	}
	return NULL;
}

static void test_links(void **state) {
	struct world *world = *state;
	struct fc_link *links = NULL;
	struct fc_link_settings settings = FC_LINK_KEEP;
	size_t count = 0;
	need_root();
	check(fc_link_add_veth(world->at[CLIENT], "a", "b", NULL, &error));
	settings.mtu = 1400;
	settings.mac = "02:fc:00:00:00:09";
	check(fc_link_set(world->at[CLIENT], "a", &settings, &error));
	up(world->at[CLIENT], "b", NULL);
	check(fc_link_list(world->at[CLIENT], &links, &count, &error));
	const struct fc_link *a = find_link(links, count, "a"), *b = find_link(links, count, "b");
	assert_non_null(a);
	assert_non_null(b);
	assert_string_equal(a->kind, "veth");
	assert_int_equal(a->mtu, 1400);
	assert_string_equal(a->mac, "02:fc:00:00:00:09");
	assert_false(a->up);
	assert_true(b->up);
	assert_string_equal(find_link(links, count, "lo")->kind, "");
	free(links);
	check(fc_link_delete(world->at[CLIENT], "a", &error));
	check(fc_link_list(world->at[CLIENT], &links, &count, &error));
	assert_null(find_link(links, count, "b"));
	free(links);
}

static void test_link_errors(void **state) {
	struct world *world = *state;
	struct fc_netns *at = world->at[CLIENT];
	struct fc_link_settings settings = FC_LINK_KEEP;
	need_root();
	check(fc_link_add_veth(at, "a", "b", NULL, &error));
	assert_int_equal(fc_link_add_veth(at, "a", "c", NULL, &error), -EEXIST);
	assert_string_equal(error.subject, "a-c");
	assert_int_equal(fc_link_add_veth(at, "c", "d", "/nowhere", &error), -ENOENT);
	assert_int_equal(fc_link_add_veth(at, "c", "longer-than-a-name", NULL, &error), -ENAMETOOLONG);
	assert_int_equal(fc_link_delete(at, "gone", &error), -ENODEV);
	assert_string_equal(error.subject, "gone");
	assert_int_equal(fc_link_set(at, "gone", &settings, &error), -ENODEV);
	settings.route_localnet = 1;
	/* The directory "all" of /proc/sys is no link: it must not be reached by its name. */
	assert_int_equal(fc_link_set(at, "all", &settings, &error), -ENODEV);
	assert_int_equal(fc_netns_sysctl(at, "/proc/sys/net/ipv4/conf/all/route_localnet", -1, &error), 0);
	settings = FC_LINK_KEEP;
	settings.mtu = 1;
	assert_int_equal(fc_link_set(at, "a", &settings, &error), -EINVAL);
	assert_non_null(strstr(error.message, "mtu")); /* the kernel's own words */
	settings.mtu = 0;
	settings.mac = "ff:ff:ff:ff:ff:ff";
	assert_int_equal(fc_link_set(at, "a", &settings, &error), -EINVAL);
}

static void test_addresses(void **state) {
	struct world *world = *state;
	struct fc_netns *at = world->at[CLIENT];
	struct fc_link_address *list = NULL;
	size_t count = 0;
	char text[FC_PREFIX_TEXT];
	need_root();
	check(fc_link_add_veth(at, "a", "b", NULL, &error));
	check(fc_link_address_add(at, "a", "10.0.0.1/30", &error));
	check(fc_link_address_add(at, "b", "10.0.0.5/32", &error));
	assert_int_equal(fc_link_address_add(at, "a", "10.0.0.1/30", &error), -EEXIST);
	assert_string_equal(error.subject, "10.0.0.1/30");
	assert_int_equal(fc_link_address_add(at, "a", "10.0.0.1", &error), -EINVAL);
	assert_int_equal(fc_link_address_add(at, "gone", "10.0.0.1/30", &error), -ENODEV);
	assert_string_equal(error.subject, "gone");
	check(fc_link_address_list(at, &list, &count, &error));
	assert_int_equal(count, 2);
	bool first = strcmp(list[0].link, "a") == 0;
	assert_string_equal(list[first ? 0 : 1].link, "a");
	assert_string_equal(fc_prefix_format(&list[first ? 0 : 1].prefix, text), "10.0.0.1/30");
	assert_string_equal(list[first ? 1 : 0].link, "b");
	assert_string_equal(fc_prefix_format(&list[first ? 1 : 0].prefix, text), "10.0.0.5/32");
	free(list);
}

/* More than one datagram can hold, and a dump whose first answer is lost: it is asked again, and nothing comes twice.
 */
static void test_long_and_lost_dumps(void **state) {
	struct world *world = *state;
	struct fc_netns *at = world->at[CLIENT];
	struct fc_link_address *list = NULL;
	size_t count = 0;
	char text[32];
	need_root();
	for (int i = 0; i < 1000; i++) {
		snprintf(text, sizeof text, "10.9.%d.%d/32", i / 250, 1 + i % 250);
		check(fc_link_address_add(at, "lo", text, &error));
	}
	check(fc_link_address_list(at, &list, &count, &error));
	assert_int_equal(count, 1000);
	free(list);
	injected_errno = ENOBUFS;
	injected_count = 1;
	check(fc_link_address_list(at, &list, &count, &error));
	assert_int_equal(injected_count, 0);
	assert_int_equal(count, 1000);
	free(list);
}

static void test_routes(void **state) {
	struct world *world = *state;
	struct fc_netns *at = world->at[CLIENT];
	need_root();
	check(fc_link_add_veth(at, "a", "b", NULL, &error));
	check(fc_link_address_add(at, "a", "10.0.0.1/30", &error));
	assert_int_equal(fc_link_route_add(at, "0.0.0.0/0", "10.0.0.2", "a", &error), -ENETUNREACH);
	assert_true(error.hint[0]);
	up(at, "a", NULL);
	up(at, "b", NULL);
	check(fc_link_route_add(at, "0.0.0.0/0", "10.0.0.2", "a", &error));
	assert_int_equal(fc_link_route_add(at, "0.0.0.0/0", "10.0.0.2", "a", &error), -EEXIST);
	check(fc_link_route_add(at, "10.7.0.0/16", NULL, "a", &error));
	check(fc_link_route_add(at, "10.8.0.0/16", "10.0.0.2", NULL, &error));
	assert_int_equal(fc_link_route_add(at, "10.7.0.0/16", NULL, NULL, &error), -EINVAL);
	assert_int_equal(fc_link_route_add(at, "10.7.0.0/16", "x", NULL, &error), -EINVAL);
	assert_int_equal(fc_link_route_add(at, "10.7.0.0", NULL, "a", &error), -EINVAL);
	assert_int_equal(fc_link_route_add(at, "10.9.0.0/16", NULL, "gone", &error), -ENODEV);
}

/* TAPs */

static int open_tun(void *data, struct fc_error *ret_error) {
	(void)data;
	int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
	return fd < 0 ? fc_error_set(ret_error, errno, "open", "/dev/net/tun", NULL, NULL) : fd;
}

static bool has_tun(void) {
	if (access("/dev/net/tun", F_OK) == 0)
		return true;
	print_message("skipped: this machine has no /dev/net/tun\n");
	return false;
}
#define need_tun()                                                                                                     \
	do {                                                                                                           \
		if (!has_tun())                                                                                        \
			skip();                                                                                        \
	} while (0)

/* What a process of that user and group gets when it attaches to the TAP as Firecracker does: 0 or an errno. */
static int attach_as(struct fc_netns *netns, const char *name, uid_t uid, gid_t gid) {
	struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
	int fd = fc_netns_run(netns, open_tun, NULL, &error), status;
	check(fd);
	strcpy(request.ifr_name, name);
	pid_t child = fork();
	if (child == 0) {
		if (setgroups(0, NULL) < 0 || setgid(gid) < 0 || setuid(uid) < 0)
			_exit(255);
		_exit(ioctl(fd, TUNSETIFF, &request) < 0 ? errno : 0);
	}
	close(fd);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static void test_tap(void **state) {
	struct world *world = *state;
	struct fc_netns *at = world->at[CLIENT];
	struct fc_link *links = NULL;
	size_t count = 0;
	need_root();
	need_tun();
	check(fc_link_add_tap(at, "tap0", 1234, 1234, &error));
	assert_int_equal(fc_link_add_tap(at, "tap0", 1234, 1234, &error), -EEXIST);
	assert_int_equal(fc_link_add_tap(at, "lo", 1234, 1234, &error), -EEXIST);
	assert_int_equal(fc_link_add_tap(at, "a/b", 0, 0, &error), -EINVAL);
	check(fc_link_list(at, &links, &count, &error));
	assert_non_null(find_link(links, count, "tap0"));
	assert_string_equal(find_link(links, count, "tap0")->kind, "tun");
	free(links);
	/* It is in that namespace alone. */
	check(fc_link_list(world->at[SERVER], &links, &count, &error));
	assert_null(find_link(links, count, "tap0"));
	free(links);
	assert_int_equal(attach_as(at, "tap0", 1234, 1234), 0);
	assert_int_equal(attach_as(at, "tap0", 1234, 1234), 0); /* it stays when its user has gone */
	assert_int_equal(attach_as(at, "tap0", 1235, 1234), EPERM);
	assert_int_equal(attach_as(at, "tap0", 1234, 1235), EPERM);
	check(fc_link_delete(at, "tap0", &error));
	assert_int_equal(attach_as(at, "tap0", 1234, 1234), EPERM); /* nobody but root makes one anew */
}

/* Traffic without rules */

static void test_neighbours(void **state) {
	struct world *world = *state;
	char peer[INET_ADDRSTRLEN];
	need_root();
	connect_world(world);
	int tcp = serve(world->at[ROUTER], SOCK_STREAM, "10.1.0.1", 80);
	int udp = serve(world->at[ROUTER], SOCK_DGRAM, "10.1.0.1", 53);
	assert_int_equal(talk_tcp(world->at[CLIENT], "10.1.0.1", 80, tcp, peer), 0);
	assert_string_equal(peer, "10.1.0.2");
	assert_int_equal(talk_udp(world->at[CLIENT], "10.1.0.1", 53, udp, SOON, peer), 0);
	assert_string_equal(peer, "10.1.0.2");
	assert_true(ping(world->at[CLIENT], "10.1.0.1", SOON));
	assert_int_equal(try_tcp(world->at[CLIENT], "10.1.0.1", 81, SOON), ECONNREFUSED);
	close(tcp);
	close(udp);
}

/* Address translation */

static void test_masquerade(void **state) {
	struct world *world = *state;
	const struct fc_firewall_masquerade masquerade = {"10.1.0.0/24", "right"}, elsewhere = {"10.1.0.0/24", "other"};
	struct fc_firewall firewall = {.table = "fcvm-t", .masquerade = &elsewhere, .masquerade_count = 1};
	char peer[INET_ADDRSTRLEN];
	need_root();
	connect_world(world);
	int tcp = serve(world->at[SERVER], SOCK_STREAM, "10.2.0.2", 80);
	int udp = serve(world->at[SERVER], SOCK_DGRAM, "10.2.0.2", 53);
	/* The server has no way back to the client's own address. */
	assert_int_equal(try_tcp(world->at[CLIENT], "10.2.0.2", 80, NEVER), ETIMEDOUT);
	check(fc_firewall_apply(world->at[ROUTER], &firewall, &error));
	assert_int_equal(try_tcp(world->at[CLIENT], "10.2.0.2", 80, NEVER), ETIMEDOUT);
	firewall.masquerade = &masquerade;
	check(fc_firewall_apply(world->at[ROUTER], &firewall, &error));
	assert_int_equal(talk_tcp(world->at[CLIENT], "10.2.0.2", 80, tcp, peer), 0);
	assert_string_equal(peer, "10.2.0.1");
	assert_int_equal(talk_udp(world->at[CLIENT], "10.2.0.2", 53, udp, SOON, peer), 0);
	assert_string_equal(peer, "10.2.0.1");
	assert_true(ping(world->at[CLIENT], "10.2.0.2", SOON));
	close(tcp);
	close(udp);
}

/* A default masquerade, so that the server can answer whoever is sent to it. */
static const struct fc_firewall_masquerade ALL[] = {{"0.0.0.0/0", "right"}};

static void test_dnat_ports(void **state) {
	struct world *world = *state;
	const struct fc_firewall_dnat dnat[] = {
	        {.protocol = "tcp", .address = "10.1.0.1", .port = 8080, .to_address = "10.2.0.2", .to_port = 80},
	        {.protocol = "udp", .address = "10.1.0.1", .port = 5353, .to_address = "10.2.0.2", .to_port = 53},
	        {.protocol = "tcp", .address = "10.1.0.1", .port = 81, .to_address = "10.2.0.2"},
	};
	const struct fc_firewall firewall = {
	        .table = "fcvm-t", .masquerade = ALL, .masquerade_count = 1, .dnat = dnat, .dnat_count = 3};
	need_root();
	connect_world(world);
	int tcp = serve(world->at[SERVER], SOCK_STREAM, "10.2.0.2", 80);
	int same = serve(world->at[SERVER], SOCK_STREAM, "10.2.0.2", 81);
	int udp = serve(world->at[SERVER], SOCK_DGRAM, "10.2.0.2", 53);
	assert_int_equal(try_tcp(world->at[CLIENT], "10.1.0.1", 8080, SOON), ECONNREFUSED);
	check(fc_firewall_apply(world->at[ROUTER], &firewall, &error));
	assert_int_equal(talk_tcp(world->at[CLIENT], "10.1.0.1", 8080, tcp, NULL), 0);
	assert_int_equal(talk_tcp(world->at[CLIENT], "10.1.0.1", 81, same, NULL), 0);
	assert_int_equal(talk_udp(world->at[CLIENT], "10.1.0.1", 5353, udp, SOON, NULL), 0);
	/* Nothing but what was asked for: another port, the other protocol, another address of the router. */
	assert_int_equal(try_tcp(world->at[CLIENT], "10.1.0.1", 8081, SOON), ECONNREFUSED);
	assert_int_equal(try_tcp(world->at[CLIENT], "10.1.0.1", 5353, SOON), ECONNREFUSED);
	assert_int_equal(try_tcp(world->at[CLIENT], "10.2.0.1", 8080, SOON), ECONNREFUSED);
	/* Connections that begin on the router itself go there too. */
	assert_int_equal(talk_tcp(world->at[ROUTER], "10.1.0.1", 8080, tcp, NULL), 0);
	check(fc_firewall_delete(world->at[ROUTER], "fcvm-t", &error));
	assert_int_equal(try_tcp(world->at[CLIENT], "10.1.0.1", 8080, SOON), ECONNREFUSED);
	close(tcp);
	close(same);
	close(udp);
}

/* Without an address, all of the router's own are meant, but never what only passes through. */
static void test_dnat_any_address(void **state) {
	struct world *world = *state;
	const struct fc_firewall_dnat dnat = {.protocol = "tcp", .port = 8080, .to_address = "10.2.0.2", .to_port = 80};
	const struct fc_firewall firewall = {
	        .table = "fcvm-t", .masquerade = ALL, .masquerade_count = 1, .dnat = &dnat, .dnat_count = 1};
	need_root();
	connect_world(world);
	int tcp = serve(world->at[SERVER], SOCK_STREAM, "10.2.0.2", 80);
	int other = serve(world->at[SERVER], SOCK_STREAM, "10.2.0.2", 8080);
	check(fc_firewall_apply(world->at[ROUTER], &firewall, &error));
	assert_int_equal(talk_tcp(world->at[CLIENT], "10.1.0.1", 8080, tcp, NULL), 0);
	assert_int_equal(talk_tcp(world->at[CLIENT], "10.2.0.1", 8080, tcp, NULL), 0);
	assert_int_equal(talk_tcp(world->at[CLIENT], "10.2.0.2", 8080, other, NULL), 0);
	close(tcp);
	close(other);
}

/* 127.0.0.1:8080, published exactly: from the router itself and from nowhere else. */
static void test_dnat_loopback(void **state) {
	struct world *world = *state;
	const struct fc_firewall_masquerade masquerade = {"127.0.0.0/8", "right"};
	const struct fc_firewall_dnat dnat = {
	        .protocol = "tcp", .address = "127.0.0.1", .port = 8080, .to_address = "10.2.0.2", .to_port = 80};
	const struct fc_firewall firewall = {
	        .table = "fcvm-t", .masquerade = &masquerade, .masquerade_count = 1, .dnat = &dnat, .dnat_count = 1};
	struct fc_link_settings settings = FC_LINK_KEEP;
	char peer[INET_ADDRSTRLEN];
	need_root();
	connect_world(world);
	settings.route_localnet = 1;
	check(fc_link_set(world->at[ROUTER], "right", &settings, &error));
	int tcp = serve(world->at[SERVER], SOCK_STREAM, "10.2.0.2", 80);
	check(fc_firewall_apply(world->at[ROUTER], &firewall, &error));
	assert_int_equal(talk_tcp(world->at[ROUTER], "127.0.0.1", 8080, tcp, peer), 0);
	assert_string_equal(peer, "10.2.0.1");
	assert_int_equal(try_tcp(world->at[CLIENT], "10.1.0.1", 8080, SOON), ECONNREFUSED);
	close(tcp);
}

/* What a VM's namespace does: everything that comes for its outer address goes to the guest. */
static void test_dnat_everything(void **state) {
	struct world *world = *state;
	const struct fc_firewall_dnat dnat = {.address = "10.1.0.1", .to_address = "10.2.0.2"};
	const struct fc_firewall firewall = {
	        .table = "fcvm-t", .masquerade = ALL, .masquerade_count = 1, .dnat = &dnat, .dnat_count = 1};
	need_root();
	connect_world(world);
	int tcp = serve(world->at[SERVER], SOCK_STREAM, "10.2.0.2", 4321);
	int udp = serve(world->at[SERVER], SOCK_DGRAM, "10.2.0.2", 4321);
	check(fc_firewall_apply(world->at[ROUTER], &firewall, &error));
	assert_int_equal(talk_tcp(world->at[CLIENT], "10.1.0.1", 4321, tcp, NULL), 0);
	assert_int_equal(talk_udp(world->at[CLIENT], "10.1.0.1", 4321, udp, SOON, NULL), 0);
	assert_true(ping(world->at[CLIENT], "10.1.0.1", SOON));
	close(tcp);
	close(udp);
}

/* Filters */

static void test_drop_forward(void **state) {
	struct world *world = *state;
	const struct fc_firewall_drop_forward drop = {"le", "righ"}, other = {"ri", "right"};
	const struct fc_firewall_forward exception = {"left", "right"}, prefix = {"lef*", NULL},
	                                 none = {"lef", "right"};
	struct fc_firewall firewall = {.table = "fcvm-t",
	                               .masquerade = ALL,
	                               .masquerade_count = 1,
	                               .drop_forward = &drop,
	                               .drop_forward_count = 1};
	need_root();
	connect_world(world);
	int tcp = serve(world->at[SERVER], SOCK_STREAM, "10.2.0.2", 80);
	check(fc_firewall_apply(world->at[ROUTER], &firewall, &error));
	assert_int_equal(try_tcp(world->at[CLIENT], "10.2.0.2", 80, NEVER), ETIMEDOUT);
	assert_false(ping(world->at[CLIENT], "10.2.0.2", NEVER));
	/* Only the way through is closed. */
	assert_int_equal(try_tcp(world->at[CLIENT], "10.2.0.1", 80, SOON), ECONNREFUSED);
	firewall.drop_forward = &other;
	check(fc_firewall_apply(world->at[ROUTER], &firewall, &error));
	assert_int_equal(talk_tcp(world->at[CLIENT], "10.2.0.2", 80, tcp, NULL), 0);
	/* An exception comes before; a name without a star is the whole name. */
	firewall.drop_forward = &drop;
	firewall.forward = &exception;
	firewall.forward_count = 1;
	check(fc_firewall_apply(world->at[ROUTER], &firewall, &error));
	assert_int_equal(talk_tcp(world->at[CLIENT], "10.2.0.2", 80, tcp, NULL), 0);
	firewall.forward = &prefix;
	check(fc_firewall_apply(world->at[ROUTER], &firewall, &error));
	assert_int_equal(talk_tcp(world->at[CLIENT], "10.2.0.2", 80, tcp, NULL), 0);
	firewall.forward = &none;
	check(fc_firewall_apply(world->at[ROUTER], &firewall, &error));
	assert_int_equal(try_tcp(world->at[CLIENT], "10.2.0.2", 80, NEVER), ETIMEDOUT);
	close(tcp);
}

static void test_drop_input(void **state) {
	struct world *world = *state;
	const char *const left = "left";
	const struct fc_firewall firewall = {.table = "fcvm-t", .drop_input = &left, .drop_input_count = 1};
	need_root();
	connect_world(world);
	int inside = serve(world->at[ROUTER], SOCK_STREAM, "0.0.0.0", 80);
	int udp = serve(world->at[ROUTER], SOCK_DGRAM, "0.0.0.0", 53);
	int outside = serve(world->at[CLIENT], SOCK_STREAM, "10.1.0.2", 80);
	assert_int_equal(talk_tcp(world->at[CLIENT], "10.1.0.1", 80, inside, NULL), 0);
	check(fc_firewall_apply(world->at[ROUTER], &firewall, &error));
	assert_int_equal(try_tcp(world->at[CLIENT], "10.1.0.1", 80, NEVER), ETIMEDOUT);
	assert_int_equal(try_tcp(world->at[CLIENT], "10.2.0.1", 80, NEVER), ETIMEDOUT);
	assert_int_equal(talk_udp(world->at[CLIENT], "10.1.0.1", 53, udp, NEVER, NULL), ETIMEDOUT);
	/* Echo requests, answers to the router's own connections, and other links are as before. */
	assert_true(ping(world->at[CLIENT], "10.1.0.1", SOON));
	assert_int_equal(talk_tcp(world->at[ROUTER], "10.1.0.2", 80, outside, NULL), 0);
	assert_int_equal(talk_tcp(world->at[SERVER], "10.2.0.1", 80, inside, NULL), 0);
	close(inside);
	close(udp);
	close(outside);
}

static void test_drop_source(void **state) {
	struct world *world = *state;
	const struct fc_firewall_drop_source own = {"left", "10.1.0.2/32"}, other = {"left", "10.1.0.4/30"};
	struct fc_firewall firewall = {.table = "fcvm-t", .drop_source = &own, .drop_source_count = 1};
	need_root();
	connect_world(world);
	int tcp = serve(world->at[ROUTER], SOCK_STREAM, "0.0.0.0", 80);
	check(fc_firewall_apply(world->at[ROUTER], &firewall, &error));
	assert_int_equal(talk_tcp(world->at[CLIENT], "10.1.0.1", 80, tcp, NULL), 0);
	firewall.drop_source = &other;
	check(fc_firewall_apply(world->at[ROUTER], &firewall, &error));
	assert_int_equal(try_tcp(world->at[CLIENT], "10.1.0.1", 80, NEVER), ETIMEDOUT);
	assert_false(ping(world->at[CLIENT], "10.1.0.1", NEVER));
	assert_int_equal(talk_tcp(world->at[SERVER], "10.2.0.1", 80, tcp, NULL), 0);
	close(tcp);
}

/* Tables */

/* Makes a table that is not fcvm's, by libnftnl alone. */
static void add_foreign_table(struct fc_netns *netns, const char *name) {
	_Alignas(8) char bytes[4096];
	struct nftnl_table *table = nftnl_table_alloc();
	struct fc_netlink_answer answer = {.first = netns->filter.seq + 1, .last = netns->filter.seq + 2};
	size_t size = nftnl_batch_begin(bytes, answer.first)->nlmsg_len;
	nftnl_table_set_str(table, NFTNL_TABLE_NAME, name);
	struct nlmsghdr *header = nftnl_nlmsg_build_hdr(bytes + size, NFT_MSG_NEWTABLE, NFPROTO_IPV4,
	                                                NLM_F_CREATE | NLM_F_ACK, answer.last);
	nftnl_table_nlmsg_build_payload(header, table);
	size += header->nlmsg_len;
	size += nftnl_batch_end(bytes + size, answer.last + 1)->nlmsg_len;
	netns->filter.seq += 3;
	assert_int_equal(fc_netlink_batch(&netns->filter, bytes, size, &answer), 0);
	nftnl_table_free(table);
}

static int count_one(const struct nlmsghdr *message, void *data) {
	int *count = data;
	*count = message ? *count + 1 : 0;
	return 0;
}

/* Objects of the kind that `get` lists (NFT_MSG_GETTABLE, NFT_MSG_GETRULE), whoever's they are. */
static int count_all(struct fc_netns *netns, uint16_t get) {
	_Alignas(8) char bytes[256];
	int count = 0;
	struct fc_netlink_answer answer = {.fn = count_one, .data = &count};
	struct nlmsghdr *header = nftnl_nlmsg_build_hdr(bytes, get, NFPROTO_IPV4, NLM_F_DUMP, 0);
	assert_int_equal(fc_netlink_request(&netns->filter, header, &answer), 0);
	return count;
}

static void test_tables(void **state) {
	struct world *world = *state;
	struct fc_netns *at = world->at[ROUTER];
	struct fc_firewall_table *tables = NULL;
	size_t count = 99;
	struct fc_firewall firewall = {
	        .table = "fcvm-a", .comment = "fcvm a pid 12", .masquerade = ALL, .masquerade_count = 1};
	need_root();
	check(fc_firewall_list(at, &tables, &count, &error));
	assert_int_equal(count, 0);
	assert_null(tables);
	add_foreign_table(at, "other");
	add_foreign_table(at, "fcvmx");
	check(fc_firewall_apply(at, &firewall, &error));
	/* Again, with another comment: replaced, so that nothing is twice there. */
	firewall.comment = "fcvm a pid 13";
	check(fc_firewall_apply(at, &firewall, &error));
	assert_int_equal(count_all(at, NFT_MSG_GETRULE), 1);
	firewall = (struct fc_firewall){.table = "fcvm-b"};
	check(fc_firewall_apply(at, &firewall, &error));
	check(fc_firewall_list(at, &tables, &count, &error));
	assert_int_equal(count, 2);
	assert_string_equal(tables[0].name, "fcvm-a");
	assert_string_equal(tables[0].comment, "fcvm a pid 13");
	assert_string_equal(tables[1].name, "fcvm-b");
	assert_string_equal(tables[1].comment, "");
	free(tables);
	check(fc_firewall_delete(at, "fcvm-a", &error));
	assert_int_equal(count_all(at, NFT_MSG_GETRULE), 0);
	assert_int_equal(fc_firewall_delete(at, "fcvm-a", &error), -ENOENT);
	assert_string_equal(error.subject, "fcvm-a");
	assert_int_equal(fc_firewall_delete(at, "other", &error), -EINVAL);
	assert_int_equal(count_all(at, NFT_MSG_GETTABLE), 3);
}

/* Egress: the client is the guest, and the router's `left` the link that it comes by */

static const struct fc_egress DENY = {.link = "left"};

static struct fc_firewall egress_firewall(const struct fc_egress *egress) {
	return (struct fc_firewall){.table = "fcvm-t", .masquerade = ALL, .masquerade_count = 1, .egress = egress};
}

/* How many packets a set has counted for a destination; -1 where it is not in there. No address: 0.0.0.0. */
static int64_t counted(struct world *world, const char *set, const char *address, uint8_t protocol, uint16_t port) {
	struct fc_destination *list = NULL;
	size_t size = 0;
	int64_t packets = -1;
	struct sockaddr_in wanted = address_of(address ? address : "0.0.0.0", 0);
	check(fc_firewall_set_list(world->at[ROUTER], "fcvm-t", set, &list, &size, &error));
	for (size_t i = 0; i < size; i++) {
		if (list[i].address.s_addr == wanted.sin_addr.s_addr && list[i].protocol == protocol &&
		    list[i].port == port)
			packets = (int64_t)list[i].packets;
	}
	free(list);
	return packets;
}

static size_t size_of_set(struct world *world, const char *set) {
	struct fc_destination *list = NULL;
	size_t size = 0;
	check(fc_firewall_set_list(world->at[ROUTER], "fcvm-t", set, &list, &size, &error));
	free(list);
	return size;
}

/* What the client reaches: bits, of which each stands for an attempt that came through. */
enum { TCP_80 = 1, TCP_81 = 2, UDP_53 = 4, PING = 8, ROUTER_TCP = 16, ALL_WAYS = 31 };

struct listeners {
	int tcp80, tcp81, udp53, router;
};

/* Whether a connection comes to the listener, which forgets it. */
static bool connects(struct fc_netns *netns, const char *text, uint16_t port, int listener) {
	if (try_tcp(netns, text, port, SOON) != 0)
		return false;
	close(accept4(listener, NULL, NULL, SOCK_CLOEXEC));
	return true;
}

static int reached(struct world *world, const struct listeners *at) {
	int ways = 0;
	struct fc_netns *client = world->at[CLIENT];
	ways |= connects(client, "10.2.0.2", 80, at->tcp80) ? TCP_80 : 0;
	ways |= connects(client, "10.2.0.2", 81, at->tcp81) ? TCP_81 : 0;
	ways |= talk_udp(client, "10.2.0.2", 53, at->udp53, NEVER, NULL) == 0 ? UDP_53 : 0;
	ways |= ping(client, "10.2.0.2", NEVER) ? PING : 0;
	ways |= connects(client, "10.1.0.1", 80, at->router) ? ROUTER_TCP : 0;
	return ways;
}

static struct listeners listen_all(struct world *world) {
	connect_world(world);
	return (struct listeners){
	        .tcp80 = serve(world->at[SERVER], SOCK_STREAM, "10.2.0.2", 80),
	        .tcp81 = serve(world->at[SERVER], SOCK_STREAM, "10.2.0.2", 81),
	        .udp53 = serve(world->at[SERVER], SOCK_DGRAM, "10.2.0.2", 53),
	        .router = serve(world->at[ROUTER], SOCK_STREAM, "10.1.0.1", 80),
	};
}

static void close_all(const struct listeners *at) {
	close(at->tcp80);
	close(at->tcp81);
	close(at->udp53);
	close(at->router);
}

/* The errno that comes back for a datagram, or 0 where none does. */
static int udp_error(struct fc_netns *netns, const char *text, uint16_t port) {
	struct sockaddr_in address = address_of(text, port);
	int fd = socket_in(netns, SOCK_DGRAM, 0), err = 0;
	socklen_t size = sizeof err;
	assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
	assert_int_equal(send(fd, "x", 1, 0), 1);
	if (wait_for(fd, POLLERR, SOON))
		getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &size);
	close(fd);
	return err;
}

static void test_egress_deny(void **state) {
	struct world *world = *state;
	struct fc_firewall firewall = egress_firewall(NULL);
	need_root();
	struct listeners at = listen_all(world);
	add_foreign_table(world->at[ROUTER], "other");
	check(fc_firewall_apply(world->at[ROUTER], &firewall, &error));
	assert_int_equal(reached(world, &at), ALL_WAYS);
	firewall.egress = &DENY;
	check(fc_firewall_apply(world->at[ROUTER], &firewall, &error));
	/* At once, and said to be forbidden. */
	assert_int_equal(try_tcp(world->at[CLIENT], "10.2.0.2", 80, SOON), ECONNREFUSED);
	assert_int_equal(try_tcp(world->at[CLIENT], "10.2.0.2", 80, SOON), ECONNREFUSED);
	assert_int_equal(try_tcp(world->at[CLIENT], "10.1.0.1", 80, SOON), ECONNREFUSED);
	assert_int_equal(udp_error(world->at[CLIENT], "10.2.0.2", 53), EHOSTUNREACH);
	assert_false(ping(world->at[CLIENT], "10.2.0.2", NEVER));
	assert_int_equal(counted(world, "denied", "10.2.0.2", IPPROTO_TCP, 80), 2);
	assert_int_equal(counted(world, "denied", "10.1.0.1", IPPROTO_TCP, 80), 1);
	assert_int_equal(counted(world, "denied", "10.2.0.2", IPPROTO_UDP, 53), 1);
	assert_int_equal(counted(world, "denied", "10.2.0.2", IPPROTO_ICMP, 0), 1);
	assert_int_equal(size_of_set(world, "denied"), 4);
	assert_int_equal(counted(world, "denied_total", NULL, IPPROTO_TCP, 0), 3);
	assert_int_equal(counted(world, "denied_total", NULL, IPPROTO_UDP, 0), 1);
	assert_int_equal(counted(world, "denied_total", NULL, IPPROTO_ICMP, 0), 1);
	/* Nothing arrived. */
	assert_false(wait_for(at.tcp80, POLLIN, 0) || wait_for(at.udp53, POLLIN, 0) || wait_for(at.router, POLLIN, 0));
	check(fc_firewall_delete(world->at[ROUTER], "fcvm-t", &error));
	assert_int_equal(fc_firewall_set_list(world->at[ROUTER], "fcvm-t", "denied", NULL, NULL, &error), -ENOENT);
	assert_int_equal(count_all(world->at[ROUTER], NFT_MSG_GETTABLE), 1);
	close_all(&at);
}

/* Who comes to the VM is answered, over TCP and UDP, and pings it. */
static void test_egress_answers(void **state) {
	struct world *world = *state;
	const struct fc_firewall_dnat dnat[] = {{.address = "10.2.0.1", .to_address = "10.1.0.2"}};
	struct fc_firewall firewall = egress_firewall(&DENY);
	firewall.dnat = dnat;
	firewall.dnat_count = 1;
	need_root();
	connect_world(world);
	int tcp = serve(world->at[CLIENT], SOCK_STREAM, "10.1.0.2", 80);
	int udp = serve(world->at[CLIENT], SOCK_DGRAM, "10.1.0.2", 53);
	check(fc_firewall_apply(world->at[ROUTER], &firewall, &error));
	assert_int_equal(talk_tcp(world->at[SERVER], "10.2.0.1", 80, tcp, NULL), 0);
	assert_int_equal(talk_udp(world->at[SERVER], "10.2.0.1", 53, udp, SOON, NULL), 0);
	assert_true(ping(world->at[SERVER], "10.2.0.1", SOON));
	/* That opens no way back: a connection of its own to the one that came is denied. */
	assert_int_equal(try_tcp(world->at[CLIENT], "10.2.0.2", 80, SOON), ECONNREFUSED);
	assert_int_equal(size_of_set(world, "denied"), 1);
	close(tcp);
	close(udp);
}

/* Each list lets through what it names, and nothing else. */
static void test_egress_list(void **state) {
	struct world *world = *state;
	static const char *const net[] = {"10.2.0.0/24"}, *const host[] = {"10.2.0.2/32"},
	                         *const router[] = {"10.1.0.1/32"}, *const all[] = {"0.0.0.0/0"},
	                         /* Networks in each other, beside each other, and at both ends. */
	                                                                    *const many[] = {"10.3.0.0/16",
	                                                                                     "255.255.255.255/32",
	                                                                                     "10.2.0.0/16",
	                                                                                     "10.2.0.0/24",
	                                                                                     "10.2.0.2/32",
	                                                                                     "10.2.0.2/32",
	                                                                                     "0.0.0.0/32",
	                                                                                     "10.0.0.0/16"},
	                         *const beside[] = {"10.2.0.0/31", "10.2.0.3/32", "10.1.0.0/32", "10.1.0.2/31"};
	const struct fc_egress_allow any = {.set = "to"}, tcp80 = {"to", "tcp", 80}, udp53 = {"to", "udp", 53},
	                             udp80 = {"to", "udp", 80}, tcp = {"to", "tcp", 0};
	const struct {
		const char *const *networks;
		size_t count;
		struct fc_egress_allow allow;
		int ways;
	} cases[] = {
	        {net, 1, any, TCP_80 | TCP_81 | UDP_53 | PING},
	        {host, 1, any, TCP_80 | TCP_81 | UDP_53 | PING},
	        {host, 1, tcp, TCP_80 | TCP_81},
	        {host, 1, tcp80, TCP_80},
	        {host, 1, udp53, UDP_53},
	        {host, 1, udp80, 0},
	        {router, 1, any, ROUTER_TCP},
	        {all, 1, any, ALL_WAYS},
	        {all, 1, tcp80, TCP_80 | ROUTER_TCP},
	        {many, 8, any, TCP_80 | TCP_81 | UDP_53 | PING},
	        {beside, 4, any, 0},
	};
	need_root();
	struct listeners at = listen_all(world);
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		const struct fc_egress_set set = {
		        .name = "to", .networks = cases[i].networks, .network_count = cases[i].count};
		const struct fc_egress egress = {
		        .link = "left", .sets = &set, .set_count = 1, .allow = &cases[i].allow, .allow_count = 1};
		struct fc_firewall firewall = egress_firewall(&egress);
		check(fc_firewall_apply(world->at[ROUTER], &firewall, &error));
		int ways = reached(world, &at);
		if (ways != cases[i].ways)
			fail_msg("case %zu: %d and not %d", i, ways, cases[i].ways);
	}
	close_all(&at);
}

static struct fc_destination destination(const char *address, uint8_t protocol, uint16_t port) {
	struct sockaddr_in value = address_of(address, 0);
	return (struct fc_destination){
	        .address = value.sin_addr, .whole = protocol != 0, .protocol = protocol, .port = port};
}

/* Addresses that come later, as a resolver's answers do, and go by themselves. */
static void test_egress_addresses(void **state) {
	struct world *world = *state;
	const struct fc_egress_set sets[] = {{.name = "names_80", .size = 2, .timeout = 1},
	                                     {.name = "names", .size = 2}};
	const struct fc_egress_allow allow[] = {{"names_80", "tcp", 80}, {"names", NULL, 0}};
	const struct fc_egress egress = {
	        .link = "left", .sets = sets, .set_count = 2, .allow = allow, .allow_count = 2};
	const struct fc_destination server = destination("10.2.0.2", 0, 0),
	                            others[] = {destination("10.9.0.1", 0, 0), destination("10.9.0.2", 0, 0)};
	struct fc_firewall firewall = egress_firewall(&egress);
	need_root();
	struct listeners at = listen_all(world);
	struct fc_netns *router = world->at[ROUTER];
	check(fc_firewall_apply(router, &firewall, &error));
	assert_int_equal(reached(world, &at), 0);
	check(fc_firewall_set_add(router, "fcvm-t", "names_80", &server, 1, false, &error));
	check(fc_firewall_set_add(router, "fcvm-t", "names_80", &server, 1, false, &error));
	assert_int_equal(reached(world, &at), TCP_80);
	check(fc_firewall_set_add(router, "fcvm-t", "names", &server, 1, false, &error));
	assert_int_equal(reached(world, &at), TCP_80 | TCP_81 | UDP_53 | PING);
	/* No room: none of them is taken; instead of what is there, both are. */
	assert_int_equal(fc_firewall_set_add(router, "fcvm-t", "names", others, 2, false, &error), -ENFILE);
	assert_int_equal(size_of_set(world, "names"), 1);
	check(fc_firewall_set_add(router, "fcvm-t", "names", others, 2, true, &error));
	assert_int_equal(size_of_set(world, "names"), 2);
	for (int i = 0; i < 100 && size_of_set(world, "names_80") > 0; i++)
		usleep(50000);
	assert_int_equal(reached(world, &at), 0);
	/* What does not fit the set, and sets that are not there. */
	const struct fc_destination whole = destination("10.2.0.2", IPPROTO_TCP, 80);
	assert_int_equal(fc_firewall_set_add(router, "fcvm-t", "names", &whole, 1, true, &error), -EINVAL);
	assert_int_equal(fc_firewall_set_add(router, "fcvm-t", "none", &server, 1, false, &error), -ENOENT);
	assert_int_equal(fc_firewall_set_add(router, "other", "names", &server, 1, false, &error), -EINVAL);
	close_all(&at);
}

static void test_egress_ask(void **state) {
	struct world *world = *state;
	const struct fc_egress egress = {.link = "left", .ask = true};
	const struct fc_destination tcp80 = destination("10.2.0.2", IPPROTO_TCP, 80),
	                            echo = destination("10.2.0.2", IPPROTO_ICMP, 0),
	                            tcp81 = destination("10.2.0.2", IPPROTO_TCP, 81);
	struct fc_firewall firewall = egress_firewall(&egress);
	need_root();
	struct listeners at = listen_all(world);
	struct fc_netns *router = world->at[ROUTER], *client = world->at[CLIENT];
	check(fc_firewall_apply(router, &firewall, &error));
	/* Undecided: dropped in silence, asked for, and not yet denied. */
	assert_int_equal(try_tcp(client, "10.2.0.2", 80, NEVER), ETIMEDOUT);
	assert_int_equal(try_tcp(client, "10.2.0.2", 81, NEVER), ETIMEDOUT);
	assert_false(ping(client, "10.2.0.2", NEVER));
	assert_int_equal(counted(world, "asked", "10.2.0.2", IPPROTO_TCP, 80), 0);
	assert_int_equal(counted(world, "asked", "10.2.0.2", IPPROTO_TCP, 81), 0);
	assert_int_equal(counted(world, "asked", "10.2.0.2", IPPROTO_ICMP, 0), 0);
	assert_int_equal(size_of_set(world, "asked"), 3);
	assert_int_equal(size_of_set(world, "denied"), 0);
	check(fc_firewall_set_add(router, "fcvm-t", "granted", &tcp80, 1, false, &error));
	check(fc_firewall_set_add(router, "fcvm-t", "granted", &echo, 1, false, &error));
	check(fc_firewall_set_add(router, "fcvm-t", "refused", &tcp81, 1, false, &error));
	assert_int_equal(talk_tcp(client, "10.2.0.2", 80, at.tcp80, NULL), 0);
	assert_true(ping(client, "10.2.0.2", SOON));
	assert_int_equal(try_tcp(client, "10.2.0.2", 81, SOON), ECONNREFUSED);
	assert_int_equal(counted(world, "denied", "10.2.0.2", IPPROTO_TCP, 81), 1);
	/* A SYN that was dropped comes again a second later, and is answered then. */
	check(fc_firewall_egress_settle(router, "fcvm-t", &error));
	assert_int_equal(talk_tcp(client, "10.2.0.2", 80, at.tcp80, NULL), 0);
	assert_int_equal(udp_error(client, "10.2.0.2", 53), EHOSTUNREACH);
	assert_int_equal(counted(world, "denied", "10.2.0.2", IPPROTO_UDP, 53), 1);
	firewall.egress = &DENY;
	check(fc_firewall_apply(router, &firewall, &error));
	assert_int_equal(fc_firewall_egress_settle(router, "fcvm-t", &error), -ENOENT);
	close_all(&at);
}

/* A guest that tries destinations without end: what is kept has an end, and nothing is missed in the count. */
static void test_egress_flood(void **state) {
	enum { MANY = 100000 };
	struct world *world = *state;
	struct fc_egress egress = {.link = "left"};
	struct fc_firewall firewall = egress_firewall(&egress);
	need_root();
	struct listeners at = listen_all(world);
	check(fc_link_route_add(world->at[ROUTER], "0.0.0.0/0", "10.2.0.2", NULL, &error));
	for (int round = 0; round < 2; round++) {
		egress.ask = round == 1;
		check(fc_firewall_apply(world->at[ROUTER], &firewall, &error));
		int fd = socket_in(world->at[CLIENT], SOCK_DGRAM, 0);
		int64_t sent = 0;
		for (uint32_t i = 0; i < MANY; i++) {
			struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(7)};
			to.sin_addr.s_addr = htonl(0x0b000000 + i);
			ssize_t n = sendto(fd, "x", 1, 0, (struct sockaddr *)&to, sizeof to);
			if (n < 0 && errno == EHOSTUNREACH) /* of an earlier one, said now */
				n = sendto(fd, "x", 1, 0, (struct sockaddr *)&to, sizeof to);
			sent += n == 1;
		}
		close(fd);
		assert_int_equal(sent, MANY);
		assert_int_equal(size_of_set(world, "denied"), FC_EGRESS_DENIED_MAX);
		int64_t total = counted(world, "denied_total", NULL, IPPROTO_UDP, 0);
		if (egress.ask)
			assert_in_range(total, MANY - 10 * FC_EGRESS_ASKED_MAX, MANY - FC_EGRESS_ASKED_MAX);
		else
			assert_int_equal(total, MANY);
		/* A destination that is in there is still counted. */
		assert_int_equal(try_tcp(world->at[CLIENT], "10.2.0.2", 80, SOON), ECONNREFUSED);
		assert_int_equal(counted(world, "denied_total", NULL, IPPROTO_TCP, 0), 1);
	}
	close_all(&at);
}

static void expect_refused(struct world *world, const struct fc_firewall *firewall, const char *op) {
	assert_int_equal(fc_firewall_apply(world->at[ROUTER], firewall, &error), -EINVAL);
	assert_string_equal(error.op, op);
	assert_string_equal(error.subject, firewall->table);
}

static void test_refused_rules(void **state) {
	struct world *world = *state;
	const struct fc_firewall_dnat dnat[] = {{.to_address = "10.0.0.1"},
	                                        {.protocol = "icmp", .to_address = "10.0.0.1"},
	                                        {.port = 80, .to_address = "10.0.0.1"},
	                                        {.protocol = "tcp", .to_address = "10.0.0.1", .to_port = 80},
	                                        {.address = "x", .to_address = "10.0.0.1"},
	                                        {.to_address = "10.0.0.1/8"}};
	const struct fc_firewall_masquerade masquerade[] = {{"10.0.0.0/8", NULL}, {"10.0.0.0", NULL}};
	const char *const links[] = {"lo", "not a link"};
	const struct fc_firewall_drop_forward forward = {"a name too long for a link", NULL};
	need_root();
	for (size_t i = 1; i < sizeof dnat / sizeof dnat[0]; i++) {
		const struct fc_firewall_dnat pair[] = {dnat[0], dnat[i]};
		expect_refused(world, &(struct fc_firewall){.table = "fcvm-t", .dnat = pair, .dnat_count = 2},
		               "apply firewall: rule dnat 2");
	}
	expect_refused(world, &(struct fc_firewall){.table = "fcvm-t", .masquerade = masquerade, .masquerade_count = 2},
	               "apply firewall: rule masquerade 2");
	expect_refused(world, &(struct fc_firewall){.table = "fcvm-t", .drop_input = links, .drop_input_count = 2},
	               "apply firewall: rule drop_input 2");
	expect_refused(world,
	               &(struct fc_firewall){.table = "fcvm-t", .drop_forward = &forward, .drop_forward_count = 1},
	               "apply firewall: rule drop_forward 1");
	expect_refused(world, &(struct fc_firewall){.table = "fcvm-t", .comment = "a \" b"}, "apply firewall");
	expect_refused(world, &(struct fc_firewall){.table = "fcvm-t", .comment = "a\nb"}, "apply firewall");
	expect_refused(world, &(struct fc_firewall){.table = "mine"}, "apply firewall");
	expect_refused(world, &(struct fc_firewall){.table = "fcvm-"}, "apply firewall");
	assert_int_equal(count_all(world->at[ROUTER], NFT_MSG_GETTABLE), 0);
}

/* A transaction far larger than a socket's usual buffer goes in as one. */
static void test_many_rules(void **state) {
	struct world *world = *state;
	enum { MANY = 2000 };
	struct fc_firewall_dnat *dnat = calloc(MANY, sizeof *dnat);
	struct fc_firewall firewall = {.table = "fcvm-t", .dnat = dnat, .dnat_count = MANY};
	if (geteuid() != 0)
		free(dnat);
	need_root();
	for (int i = 0; i < MANY; i++)
		dnat[i] = (struct fc_firewall_dnat){
		        .protocol = "tcp", .address = "10.1.0.1", .port = (uint16_t)(i + 1), .to_address = "10.2.0.2"};
	int r = fc_firewall_apply(world->at[ROUTER], &firewall, &error);
	firewall.dnat_count = FC_FIREWALL_RULES_MAX + 1;
	int too_many = fc_firewall_apply(world->at[ROUTER], &firewall, NULL);
	free(dnat);
	check(r);
	assert_int_equal(too_many, -E2BIG);
	assert_int_equal(count_all(world->at[ROUTER], NFT_MSG_GETRULE), 2 * MANY);
}

/* Where the kernel's answer is lost, the outcome is unknown and that is what is said; the handle works on. */
static void test_lost_answer(void **state) {
	struct world *world = *state;
	const struct fc_firewall firewall = {.table = "fcvm-t", .masquerade = ALL, .masquerade_count = 1};
	need_root();
	injected_errno = ENOBUFS;
	injected_count = 1;
	assert_int_equal(fc_firewall_apply(world->at[ROUTER], &firewall, &error), -ENOBUFS);
	assert_true(error.hint[0]);
	check(fc_firewall_apply(world->at[ROUTER], &firewall, &error));
	check(fc_firewall_delete(world->at[ROUTER], "fcvm-t", &error));
}

/* Without privilege */

/* What a process without any gets, as the exit status of a child: the line of the first surprise, or 0. */
static int unprivileged(const char *path, const char *new_path) {
	struct fc_netns *own = NULL;
	struct fc_link *links = NULL;
	struct fc_link_settings settings = FC_LINK_KEEP;
	size_t count = 0;
	settings.up = 1;
	if (setgid(65534) < 0 || setuid(65534) < 0)
		return 1;
	if (fc_netns_open(path, &own, &error) != -EPERM || !error.hint[0])
		return 2;
	if (fc_netns_create(new_path, &error) != -EPERM && error.err != EACCES)
		return 3;
	if (fc_netns_open(NULL, &own, &error) < 0 || fc_link_list(own, &links, &count, &error) < 0 || count == 0)
		return 4;
	free(links);
	if (fc_link_set(own, "lo", &settings, &error) != -EPERM || strcmp(error.subject, "lo") != 0 || !error.hint[0])
		return 5;
	if (fc_link_add_veth(own, "a", "b", NULL, &error) != -EPERM)
		return 6;
	if (fc_firewall_apply(own, &(struct fc_firewall){.table = "fcvm-t"}, &error) != -EPERM || !error.hint[0])
		return 7;
	if (strcmp(error.op, "apply firewall") != 0)
		return 8;
	fc_netns_close(own);
	return 0;
}

static void test_unprivileged(void **state) {
	struct world *world = *state;
	char path[128];
	int status;
	need_root();
	snprintf(path, sizeof path, "%s/new", world->directory);
	assert_int_equal(chmod(world->directory, 0777), 0);
	pid_t child = fork();
	if (child == 0)
		_exit(unshare(CLONE_NEWNET) < 0 ? 9 : unprivileged(world->path[CLIENT], path));
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
	assert_int_equal(access(path, F_OK), -1);
}

#define in_world(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void) {
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_prefix),
	        cmocka_unit_test(test_mac),
	        cmocka_unit_test(test_link_name),
	        cmocka_unit_test(test_first_failure_counts),
	        cmocka_unit_test(test_strange_answers),
	        cmocka_unit_test(test_answers_of_others),
	        in_world(test_namespace_life),
	        in_world(test_namespace_misplaced),
	        in_world(test_namespace_kept_by_handle),
	        in_world(test_thread_takes_no_signals),
	        in_world(test_forwarding),
	        in_world(test_links),
	        in_world(test_link_errors),
	        in_world(test_addresses),
	        in_world(test_long_and_lost_dumps),
	        in_world(test_routes),
	        in_world(test_tap),
	        in_world(test_neighbours),
	        in_world(test_masquerade),
	        in_world(test_dnat_ports),
	        in_world(test_dnat_any_address),
	        in_world(test_dnat_loopback),
	        in_world(test_dnat_everything),
	        in_world(test_drop_forward),
	        in_world(test_drop_input),
	        in_world(test_drop_source),
	        in_world(test_tables),
	        in_world(test_egress_deny),
	        in_world(test_egress_answers),
	        in_world(test_egress_list),
	        in_world(test_egress_addresses),
	        in_world(test_egress_ask),
	        in_world(test_egress_flood),
	        in_world(test_refused_rules),
	        in_world(test_many_rules),
	        in_world(test_lost_answer),
	        in_world(test_unprivileged),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
