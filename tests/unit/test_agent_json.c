// SPDX-License-Identifier: Apache-2.0
/* The agent's JSON reader and writer. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "json.h"

static void expect_same(const char *text, const char *wanted) {
	struct fc_json *root;
	struct fc_text out = {0};
	assert_int_equal(fc_json_parse(text, strlen(text), &root, NULL), 0);
	fc_json_write(&out, root);
	assert_false(out.failed);
	assert_string_equal(out.data, wanted);
	fc_text_clear(&out);
	fc_json_free(root);
}

static void expect_refused(const char *text, size_t size, const char *why) {
	struct fc_json *root = NULL;
	struct fc_error error;
	assert_int_equal(fc_json_parse(text, size, &root, &error), -EINVAL);
	assert_null(root);
	if (!strstr(error.message, why))
		fail_msg("'%s' does not say '%s'", error.message, why);
}

static void values_are_read_and_written(void **state) {
	(void)state;
	expect_same(" null ", "null");
	expect_same("[true,false, null]", "[true,false,null]");
	expect_same("{ \"a\" : [ ] , \"b\" : { } }", "{\"a\":[],\"b\":{}}");
	expect_same("[0,-0,1.50,-2e+10,9223372036854775807,1e400]", "[0,-0,1.50,-2e+10,9223372036854775807,1e400]");
	expect_same("\"a\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "\"a\\\"\\\\/\\b\\f\\n\\r\\t\"");
	expect_same("\"\\u0041\\u00e9\\u20ac\\ud83d\\ude00\"", "\"A\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\"");
	expect_same("\"\\u0001\"", "\"\\u0001\"");
}

static void integers_are_exact(void **state) {
	(void)state;
	struct fc_json *root;
	const char *text = "[1764100000123456789,-9223372036854775808,9223372036854775808,1.0]";
	assert_int_equal(fc_json_parse(text, strlen(text), &root, NULL), 0);
	const struct fc_json *value = root->child;
	assert_true(value->is_integer && value->integer == 1764100000123456789);
	value = value->next;
	assert_true(value->is_integer && value->integer == INT64_MIN);
	value = value->next;
	assert_false(value->is_integer);
	assert_false(value->next->is_integer);
	fc_json_free(root);
}

static void what_is_no_json_is_refused(void **state) {
	(void)state;
	static const struct {
		const char *text, *why;
	} cases[] = {
	        {"", "no value"},
	        {"{", "no key"},
	        {"[1,]", "no value"},
	        {"[1 2]", "neither"},
	        {"{\"a\" 1}", "no ':'"},
	        {"{\"a\":1,\"a\":2}", "there before"},
	        {"{a:1}", "no key"},
	        {"01", "more after"},
	        {"1.", "no value"},
	        {"-", "no value"},
	        {"1e", "no value"},
	        {"tru", "no value"},
	        {"\"abc", "unfinished"},
	        {"\"abc\\", "unfinished"},
	        {"\"\\x\"", "unknown escape"},
	        {"\"\\u12\"", "four digits"},
	        {"\"\\u0000\"", "NUL"},
	        {"\"\\ud800\"", "surrogate"},
	        {"\"\\ud800\\u0041\"", "surrogate"},
	        {"\"\\udc00\"", "surrogate"},
	        {"\"\n\"", "control"},
	        {"\"\xff\"", "no UTF-8"},
	        {"\"\xc0\x80\"", "no UTF-8"},
	        {"\"\xed\xa0\x80\"", "no UTF-8"},
	        {"\"\xf4\x90\x80\x80\"", "no UTF-8"},
	        {"1 1", "more after"},
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
		expect_refused(cases[i].text, strlen(cases[i].text), cases[i].why);
	expect_refused("\"a\0b\"", 5, "control");
	expect_refused("1\0", 2, "more after");
}

static void depth_and_size_are_bounded(void **state) {
	(void)state;
	char deep[2 * (FC_JSON_DEPTH_MAX + 2)];
	struct fc_json *root;
	memset(deep, '[', sizeof deep);
	memset(deep + FC_JSON_DEPTH_MAX + 1, ']', FC_JSON_DEPTH_MAX + 1);
	assert_int_equal(fc_json_parse(deep, 2 * (FC_JSON_DEPTH_MAX + 1), &root, NULL), 0);
	fc_json_free(root);
	memset(deep, '[', FC_JSON_DEPTH_MAX + 2);
	expect_refused(deep, sizeof deep, "deep");

	size_t count = FC_JSON_NODES_MAX + 1;
	char *many = malloc(2 * count + 2);
	assert_non_null(many);
	for (size_t i = 0; i < count; i++)
		memcpy(many + 2 * i, "1,", 2);
	memmove(many + 1, many, 2 * count - 1);
	many[0] = '[';
	many[2 * count] = ']';
	expect_refused(many, 2 * count + 1, "too many");
	free(many);
}

static void members_are_bounded(void **state) {
	(void)state;
	struct fc_text text = {0};
	for (int i = 0; i <= FC_JSON_MEMBERS_MAX; i++)
		fc_text_putf(&text, "%c\"k%d\":0", i ? ',' : '{', i);
	fc_text_puts(&text, "}");
	expect_refused(text.data, text.size, "too many");
	fc_text_clear(&text);
}

static void members_are_found(void **state) {
	(void)state;
	struct fc_json *root;
	const char *text = "{\"a\":null,\"b\":true,\"c\":{}}";
	assert_int_equal(fc_json_parse(text, strlen(text), &root, NULL), 0);
	assert_null(fc_json_get(root, "a"));
	assert_true(fc_json_get(root, "b")->boolean);
	assert_null(fc_json_get(root, "d"));
	assert_null(fc_json_get(fc_json_get(root, "b"), "x"));
	assert_null(fc_json_get(NULL, "x"));
	fc_json_free(root);
}

static void foreign_bytes_become_json(void **state) {
	(void)state;
	struct fc_text text = {0};
	fc_text_put_json(&text, "a\xff\xc3\xa9\0\x7f", 6);
	assert_string_equal(text.data, "\"a\xef\xbf\xbd\xc3\xa9\\u0000\\u007f\"");
	fc_text_clear(&text);
}

static void text_fails_at_its_limit(void **state) {
	(void)state;
	struct fc_text text = {0};
	char *block = calloc(1, FC_TEXT_MAX);
	assert_non_null(block);
	fc_text_put(&text, block, FC_TEXT_MAX);
	assert_false(text.failed);
	fc_text_puts(&text, "x");
	assert_true(text.failed);
	fc_text_clear(&text);
	free(block);
}

int main(void) {
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(values_are_read_and_written), cmocka_unit_test(integers_are_exact),
	        cmocka_unit_test(what_is_no_json_is_refused),  cmocka_unit_test(depth_and_size_are_bounded),
	        cmocka_unit_test(members_are_bounded),         cmocka_unit_test(members_are_found),
	        cmocka_unit_test(foreign_bytes_become_json),   cmocka_unit_test(text_fails_at_its_limit),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
