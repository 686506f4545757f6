// SPDX-License-Identifier: Apache-2.0
/* ip= of the kernel's command line, and the head of an HTTP answer: the two small parsers of the network's start. */
#include <arpa/inet.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "http.h"
#include "ip.h"

static const char *text_of(struct in_addr address) {
	static char text[INET_ADDRSTRLEN];
	return inet_ntop(AF_INET, &address, text, sizeof text);
}

static void what_the_host_writes(void **state) {
	(void)state;
	struct fc_ip ip;
	assert_int_equal(
	        fc_ip_parse("quiet ip=172.16.0.2::172.16.0.1:255.255.255.252:web:eth0:off panic=1\n", &ip, NULL), 1);
	assert_string_equal(text_of(ip.client), "172.16.0.2");
	assert_string_equal(text_of(ip.gateway), "172.16.0.1");
	assert_string_equal(text_of(ip.netmask), "255.255.255.252");
	assert_string_equal(ip.hostname, "web");
	assert_string_equal(ip.device, "eth0");
	assert_int_equal(ip.dns_count, 0);
}

static void other_forms(void **state) {
	(void)state;
	struct fc_ip ip;
	assert_int_equal(fc_ip_parse("quiet", &ip, NULL), 0);
	assert_int_equal(fc_ip_parse("", &ip, NULL), 0);
	assert_int_equal(fc_ip_parse("skip=1 ip=", &ip, NULL), 0);
	assert_int_equal(fc_ip_parse("ip=10.0.0.2:::255.0.0.0", &ip, NULL), 1);
	assert_int_equal(ip.gateway.s_addr, 0);
	assert_string_equal(ip.device, "eth0");
	assert_int_equal(
	        fc_ip_parse("ip=10.0.0.2:::255.0.0.0 ip=10.0.0.3:::255.0.0.0:h:eth1:none:1.1.1.1:8.8.8.8", &ip, NULL),
	        1);
	assert_string_equal(text_of(ip.client), "10.0.0.3");
	assert_string_equal(ip.device, "eth1");
	assert_int_equal(ip.dns_count, 2);
	assert_string_equal(text_of(ip.dns[1]), "8.8.8.8");
	assert_int_equal(fc_ip_parse("ip=10.0.0.2:::255.0.0.0:::::9.9.9.9", &ip, NULL), 1);
	assert_int_equal(ip.dns_count, 1);
}

static void fields_that_are_wrong(void **state) {
	(void)state;
	static const struct {
		const char *text, *why;
	} cases[] = {
	        {"ip=dhcp", "client"},
	        {"ip=::::", "client is missing"},
	        {"ip=0.0.0.0:::255.0.0.0", "client is missing"},
	        {"ip=10.0.0.2", "netmask"},
	        {"ip=10.0.0.2:::255.0.255.0", "netmask"},
	        {"ip=10.0.0.2:::0.0.0.0", "netmask"},
	        {"ip=10.0.0.2::x:255.0.0.0", "gateway"},
	        {"ip=10.0.0.2:::255.0.0.0:h:a/b:off", "device"},
	        {"ip=10.0.0.2:::255.0.0.0:h:sixteen-chars-xx:off", "device"},
	        {"ip=10.0.0.2:::255.0.0.0:h:eth0:dhcp", "autoconf"},
	        {"ip=10.0.0.2:::255.0.0.0:h:eth0:off:x", "DNS"},
	        {"ip=1:2:3:4:5:6:7:8:9:10", "more than 9"},
	        {"ip=10.0.0.2:::255.0.0.0:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
	         "too long"},
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct fc_error error = {.err = 0};
		struct fc_ip ip;
		assert_int_equal(fc_ip_parse(cases[i].text, &ip, &error), -EINVAL);
		if (!strstr(error.message, cases[i].why))
			fail_msg("%s: '%s' does not say '%s'", cases[i].text, error.message, cases[i].why);
	}
}

static int parse(const char *text, struct fc_http_answer *answer) {
	return fc_http_parse(text, strlen(text), 1000, answer, NULL);
}

static void answers(void **state) {
	(void)state;
	struct fc_http_answer answer;
	const char *whole = "HTTP/1.1 200 OK\r\nServer: x\r\ncontent-length:  5\r\n\r\nhello";
	assert_int_equal(parse(whole, &answer), 1);
	assert_int_equal(answer.status, 200);
	assert_int_equal(answer.body, 5);
	assert_string_equal(whole + answer.head, "hello");
	assert_int_equal(parse("HTTP/1.0 404\r\n\r\n", &answer), 1);
	assert_int_equal(answer.status, 404);
	assert_int_equal(answer.body, 0);
	/* Cut anywhere in its head, more is needed. */
	for (size_t size = 0; size < strlen(whole) - 5; size++)
		assert_int_equal(fc_http_parse(whole, size, 1000, &answer, NULL), 0);
}

static void answers_that_make_no_sense(void **state) {
	(void)state;
	struct fc_http_answer answer;
	assert_int_equal(parse("SSH-2.0-x\r\n\r\n", &answer), -EPROTO);
	assert_int_equal(parse("HTTP/1.1 2x0 OK\r\n\r\n", &answer), -EPROTO);
	assert_int_equal(parse("\r\n\r\n", &answer), -EPROTO);
	assert_int_equal(parse("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", &answer), -EPROTO);
	assert_int_equal(parse("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", &answer), -EPROTO);
	assert_int_equal(parse("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", &answer), -EPROTO);
	assert_int_equal(parse("HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n", &answer), -EMSGSIZE);
	char long_head[FC_HTTP_HEAD_MAX + 1];
	memset(long_head, 'a', sizeof long_head);
	assert_int_equal(fc_http_parse(long_head, sizeof long_head, 1000, &answer, NULL), -EMSGSIZE);
}

int main(void) {
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(what_the_host_writes),       cmocka_unit_test(other_forms),
	        cmocka_unit_test(fields_that_are_wrong),      cmocka_unit_test(answers),
	        cmocka_unit_test(answers_that_make_no_sense),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
