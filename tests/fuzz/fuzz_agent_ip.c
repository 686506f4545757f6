// SPDX-License-Identifier: Apache-2.0
/* ip= of a command line, and the head of an HTTP answer. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "http.h"
#include "ip.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void parse_ip(const uint8_t *data, size_t size) {
	struct fc_ip ip;
	struct fc_error error;
	char *line = malloc(size + 1);
	if (!line)
		return;
	memcpy(line, data, size);
	line[size] = '\0';
	if (fc_ip_parse(line, &ip, &error) > 0) {
		if (!memchr(ip.device, '\0', sizeof ip.device) || !memchr(ip.hostname, '\0', sizeof ip.hostname))
			abort();
		if (ip.dns_count > FC_IP_DNS_MAX || ip.client.s_addr == 0)
			abort();
	}
	free(line);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
	struct fc_http_answer answer;
	struct fc_error error;
	if (fc_http_parse((const char *)data, size, 1000, &answer, &error) > 0 &&
	    (answer.head > size || answer.body > 1000))
		abort();
	parse_ip(data, size);
	return 0;
}
