// SPDX-License-Identifier: Apache-2.0
/* The plan: what is taken, what is refused and with which words. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "guest/protocol.h"
#include "plan.h"

#define LEAST                                                                                                          \
	"\"version\":1,\"name\":\"web\",\"hostname\":\"web\",\"image\":{\"reference\":\"a\",\"store\":\"/dev/vdb\"}"

static struct fc_plan *read_plan(const char *text) {
	struct fc_plan *plan = NULL;
	struct fc_error error;
	if (fc_plan_read(text, strlen(text), &plan, &error) < 0)
		fail_msg("%s: %s", text, error.message);
	return plan;
}

static void the_least_plan(void **state) {
	(void)state;
	struct fc_plan *plan = read_plan("{" LEAST "}");
	assert_string_equal(plan->name, "web");
	assert_string_equal(plan->reference, "a");
	assert_string_equal(plan->store, "/dev/vdb");
	assert_int_equal(plan->stop_grace, 10);
	assert_int_equal(plan->stop_signal, 15);
	assert_null(plan->command);
	assert_null(plan->entrypoint);
	assert_null(plan->env);
	assert_int_equal(plan->dns_count, 0);
	fc_plan_free(plan);
}

static void a_whole_plan(void **state) {
	(void)state;
	struct fc_plan *plan = read_plan(
	        "{" LEAST ",\"machine_id\":\"0123456789abcdef0123456789abcdef\",\"command\":[\"sh\",\"-c\",\"\"],"
	        "\"entrypoint\":[],\"env\":{\"A\":\"1=2\",\"B\":\"\"},\"workdir\":\"/w\",\"user\":\"bob:staff\","
	        "\"dns\":[\"1.1.1.1\",\"2001:db8::1\"],\"search\":[\"a.example\",\"b\"],\"hosts\":{\"db\":\"10.0.0.5\"}"
	        ",\"time_ns\":1764100000123456789,\"stop_grace\":0,\"stop_"
	        "signal\":9}");
	assert_string_equal(plan->command[1], "-c");
	assert_string_equal(plan->command[2], "");
	assert_null(plan->command[3]);
	assert_non_null(plan->entrypoint);
	assert_null(plan->entrypoint[0]);
	assert_string_equal(plan->env[0], "A=1=2");
	assert_string_equal(plan->env[1], "B=");
	assert_string_equal(plan->dns[1], "2001:db8::1");
	assert_string_equal(plan->search[1], "b");
	assert_null(plan->search[2]);
	assert_string_equal(plan->hosts[0], "db=10.0.0.5");
	assert_true(plan->time_ns == 1764100000123456789);
	assert_int_equal(plan->stop_grace, 0);
	assert_int_equal(plan->stop_signal, 9);
	assert_string_equal(plan->user, "bob:staff");
	fc_plan_free(plan);
}

/* A plan with one member more or changed is refused, and the words name it. */
static void refused(const char *text, const char *why) {
	struct fc_plan *plan = NULL;
	struct fc_error error = {.err = 0};
	int r = fc_plan_read(text, strlen(text), &plan, &error);
	assert_null(plan);
	if (r != -EINVAL || !strstr(error.message, why))
		fail_msg("%s: %d, '%s' does not say '%s'", text, r, error.message, why);
}

static void keys_that_are_wrong(void **state) {
	(void)state;
	refused("[]", "no JSON object");
	refused("{", "no key");
	refused("{" LEAST ",\"colour\":1}", "unknown key 'colour'");
	refused("{" LEAST ",\"command\":\"sh\"}", "'command' is no array");
	refused("{" LEAST ",\"command\":[1]}", "'command' has an element that is no string");
	refused("{" LEAST ",\"env\":[]}", "'env' is no object");
	refused("{" LEAST ",\"env\":{\"A=B\":\"\"}}", "no variable's name");
	refused("{" LEAST ",\"env\":{\"\":\"\"}}", "no variable's name");
	refused("{" LEAST ",\"env\":{\"A\":1}}", "no string");
	refused("{" LEAST ",\"workdir\":\"w\"}", "'workdir' is no absolute path");
	refused("{" LEAST ",\"user\":\"\"}", "'user' has 0 bytes");
	refused("{" LEAST ",\"dns\":[\"example.org\"]}", "'dns' has an element that is no address");
	refused("{" LEAST
	        ",\"dns\":[\"1.1.1.1\",\"1.1.1.1\",\"1.1.1.1\",\"1.1.1.1\",\"1.1.1.1\",\"1.1.1.1\",\"1.1.1.1\","
	        "\"1.1.1.1\",\"1.1.1.1\"]}",
	        "'dns' has more");
	refused("{" LEAST ",\"search\":[\"a b\"]}", "'search' has");
	refused("{" LEAST ",\"search\":[\"a\\nnameserver 1.1.1.1\"]}", "'search' has");
	refused("{" LEAST ",\"search\":[\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\","
	        "\"a\",\"a\",\"a\",\"a\",\"a\"]}",
	        "'search' has");
	refused("{" LEAST ",\"hosts\":{\"db\":\"here\"}}", "'hosts' has");
	refused("{" LEAST ",\"hosts\":{\"-db\":\"1.1.1.1\"}}", "'hosts' has");
	refused("{" LEAST ",\"hosts\":[]}", "'hosts' is no object");
	refused("{" LEAST ",\"time_ns\":-1}", "'time_ns' is -1");
	refused("{" LEAST ",\"time_ns\":1.5}", "'time_ns' is no integer");
	refused("{" LEAST ",\"stop_grace\":86401}", "'stop_grace' is 86401");
	refused("{" LEAST ",\"stop_signal\":65}", "'stop_signal' is 65");
	refused("{" LEAST ",\"stop_signal\":0}", "'stop_signal' is 0");
	refused("{" LEAST ",\"machine_id\":\"0123\"}", "'machine_id'");
}

static void members_that_must_be_there(void **state) {
	(void)state;
	refused("{}", "'version' is missing");
	refused("{\"version\":2}", "'version' is 2");
	refused("{\"version\":1}", "'name' is missing");
	refused("{\"version\":1,\"name\":\"a\"}", "'hostname' is missing");
	refused("{\"version\":1,\"name\":\"a\",\"hostname\":\"a\"}", "'image' is missing");
	refused("{\"version\":1,\"name\":\"a\",\"hostname\":\"a\",\"image\":{}}", "'image.reference' is missing");
	refused("{\"version\":1,\"name\":\"a\",\"hostname\":\"a\",\"image\":{\"reference\":\"a\"}}",
	        "'image.store' is missing");
	refused("{\"version\":1,\"name\":\"a\",\"hostname\":\"a\",\"image\":7}", "no JSON object");
}

static void names_that_would_be_options_or_paths(void **state) {
	(void)state;
	refused("{\"version\":1,\"name\":\"-v\"}", "'name'");
	refused("{\"version\":1,\"name\":\"a/b\"}", "'name'");
	refused("{\"version\":1,\"name\":\"a\",\"hostname\":\"-a\"}", "'hostname'");
	refused("{\"version\":1,\"name\":\"a\",\"hostname\":\"a-\"}", "'hostname'");
	refused("{\"version\":1,\"name\":\"a\",\"hostname\":\"a..b\"}", "'hostname'");
	refused("{\"version\":1,\"name\":\"a\",\"hostname\":\"a b\"}", "'hostname'");
	refused("{\"version\":1,\"name\":\"a\",\"hostname\":\"a\",\"image\":{\"reference\":\"--privileged\",\"store\":"
	        "\"/dev/vdb\"}}",
	        "'image.reference'");
	refused("{\"version\":1,\"name\":\"a\",\"hostname\":\"a\",\"image\":{\"reference\":\"a "
	        "b\",\"store\":\"/dev/vdb\"}}",
	        "'image.reference'");
	refused("{\"version\":1,\"name\":\"a\",\"hostname\":\"a\",\"image\":{\"reference\":\"a\",\"store\":\"/dev/../"
	        "etc\"}}",
	        "'image.store'");
}

static void limits(void **state) {
	(void)state;
	struct fc_plan *plan = NULL;
	struct fc_error error;
	char *big = calloc(1, FC_GUEST_PLAN_MAX + 1);
	assert_non_null(big);
	assert_int_equal(fc_plan_read(big, FC_GUEST_PLAN_MAX + 1, &plan, &error), -EMSGSIZE);
	free(big);
	struct fc_text text = {0};
	fc_text_puts(&text, "{" LEAST ",\"command\":[\"\"");
	for (int i = 0; i < FC_PLAN_WORDS_MAX; i++)
		fc_text_puts(&text, ",\"\"");
	fc_text_puts(&text, "]}");
	refused(text.data, "over 1024");
	fc_text_clear(&text);
}

int main(void) {
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(the_least_plan),
	        cmocka_unit_test(a_whole_plan),
	        cmocka_unit_test(keys_that_are_wrong),
	        cmocka_unit_test(members_that_must_be_there),
	        cmocka_unit_test(names_that_would_be_options_or_paths),
	        cmocka_unit_test(limits),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
