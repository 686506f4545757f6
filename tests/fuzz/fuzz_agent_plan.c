// SPDX-License-Identifier: Apache-2.0
/* The plan, the JSON under it (what is read can be written and read again, the same), and a command's description. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "plan.h"
#include "server.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void same_again(const char *text, size_t size) {
	struct fc_json *root;
	struct fc_json *again;
	struct fc_text first = {0};
	struct fc_text second = {0};
	struct fc_error error;
	if (fc_json_parse(text, size, &root, &error) < 0)
		return;
	fc_json_write(&first, root);
	if (first.failed || fc_json_parse(first.data, first.size, &again, &error) < 0)
		abort();
	fc_json_write(&second, again);
	if (second.size != first.size || memcmp(first.data, second.data, first.size) != 0)
		abort();
	fc_text_clear(&first);
	fc_text_clear(&second);
	fc_json_free(root);
	fc_json_free(again);
}

static void describe(const char *text, size_t size) {
	char word[] = "sh";
	char variable[] = "A=1";
	char *const argv[] = {word, NULL};
	char *const env[] = {variable, NULL};
	struct fc_text out = {0};
	struct fc_error error;
	struct fc_json *root;
	if (fc_process_describe(text, size, "/nonexistent", argv, env, "/", "1:2", &out, &error) == 0) {
		if (fc_json_parse(out.data, out.size, &root, &error) < 0)
			abort();
		fc_json_free(root);
	}
	fc_text_clear(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
	struct fc_plan *plan;
	struct fc_error error;
	const char *text = (const char *)data;
	if (fc_plan_read(text, size, &plan, &error) == 0) {
		if (plan->reference[0] == '-' || plan->name[0] == '-' || plan->dns_count > FC_PLAN_DNS_MAX)
			abort();
		fc_plan_free(plan);
	}
	same_again(text, size);
	describe(text, size);
	return 0;
}
