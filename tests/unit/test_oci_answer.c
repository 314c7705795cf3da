#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "oci/answer.h"

static struct cairn_http_answer answer_of(int status, const char *type, const char *body)
{
	struct cairn_http_answer answer = {.status = status, .error_len = strlen(body)};
	strcpy(answer.type, type);
	memcpy(answer.error, body, answer.error_len);
	return answer;
}

static void error__says_when_to_try_again(void **state)
{
	static const struct {
		int status;
		bool yes;
		int64_t told_ms, wait_ms;
	} all[] = {
		{429, true, 0, 0},	   {429, true, 1000, 1000},	{503, true, 60000, 60000},
		{503, true, 60001, 60000}, {500, true, 3600000, 60000}, {404, false, 0, 0},
		{501, false, 0, 0},	   {505, false, 0, 0},		{408, true, 0, 0}};
	(void)state;
	for (size_t i = 0; i < CAIRN_LEN(all); i++) {
		struct cairn_http_answer answer = answer_of(all[i].status, "", "");
		struct cairn_again again;
		struct cairn_err err;
		answer.retry_ms = all[i].told_ms;
		assert_int_not_equal(cairn_answer_error(&answer, "http://r/x", &again, &err),
				     CAIRN_OK);
		assert_int_equal(again.yes, all[i].yes);
		assert_int_equal(again.wait_ms, all[i].wait_ms);
	}
}

static void error__quotes_what_it_can(void **state)
{
	static const char json[] = "application/json";
	static const struct {
		const char *type, *body, *want;
	} all[] = {
		{json, "{\"errors\":[{\"code\":\"DENIED\",\"message\":\"no\"}]}", ": no"},
		{json, "{\"errors\":[{\"code\":\"DENIED\",\"message\":\"\"}]}", ": DENIED"},
		{json, "{\"error\":\"invalid_grant\",\"error_description\":\"old\"}", ": old"},
		{json, "{\"error\":\"invalid_grant\"}", ": invalid_grant"},
		{json, "{\"details\":\"wrong\"}", ": wrong"},
		{"text/html", "{\"message\":\"by its shape\"}", ": by its shape"},
		{"text/plain", "too many\nrequests", ": too many"},
		{"text/plain", "{\"message\":\"json after all\"}", ": json after all"},
		{"text/html", "<html>", ""},
		{"", "", ""},
	};
	(void)state;
	for (size_t i = 0; i < CAIRN_LEN(all); i++) {
		struct cairn_http_answer answer = answer_of(403, all[i].type, all[i].body);
		struct cairn_again again;
		struct cairn_err err;
		char want[128] = "https://r.io/v2/x: HTTP status 403";
		strcat(want, all[i].want);
		assert_int_equal(
			cairn_answer_error(&answer, "https://r.io/v2/x?ns=q", &again, &err),
			CAIRN_PERMISSION_DENIED);
		assert_string_equal(err.msg, want);
	}
}

static void hide__forgets_a_body_that_quotes_the_secret(void **state)
{
	static const struct {
		const char *secret;
		bool hidden;
	} all[] = {{"token-1", true},
		   {"token-and-more", true},
		   {"other", false},
		   {"", false},
		   {NULL, false}};
	(void)state;
	for (size_t i = 0; i < CAIRN_LEN(all); i++) {
		struct cairn_http_answer answer = answer_of(403, "text/plain", "not token-1");
		cairn_answer_hide(&answer, all[i].secret);
		assert_int_equal(answer.error_len == 0, all[i].hidden);
	}
}

static void range__forms(void **state)
{
	static const struct {
		const char *text;
		bool good;
		uint64_t first, last, total;
	} all[] = {
		{"bytes 0-0/1", true, 0, 0, 1},
		{"bytes 5-9/10", true, 5, 9, 10},
		{"bytes 5-9/*", true, 5, 9, UINT64_MAX},
		{"bytes 5-10/10", false, 0, 0, 0},
		{"bytes 9-5/10", false, 0, 0, 0},
		{"bytes */10", false, 0, 0, 0},
		{"bytes 5-/10", false, 0, 0, 0},
		{"bytes -5/10", false, 0, 0, 0},
		{"bytes 5-9/10 ", false, 0, 0, 0},
		{"bytes=5-9/10", false, 0, 0, 0},
		{"bytes 5-9", false, 0, 0, 0},
		{"bytes 5-9/", false, 0, 0, 0},
		{"bytes 99999999999999999999-99999999999999999999/*", false, 0, 0, 0},
		{"", false, 0, 0, 0},
	};
	(void)state;
	for (size_t i = 0; i < CAIRN_LEN(all); i++) {
		uint64_t first = 0, last = 0, total = 0;
		if (cairn_content_range(all[i].text, &first, &last, &total) != all[i].good) {
			fail_msg("%s", all[i].text);
		}
		assert_int_equal(first, all[i].first);
		assert_int_equal(last, all[i].last);
		assert_int_equal(total, all[i].total);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(error__says_when_to_try_again),
		cmocka_unit_test(error__quotes_what_it_can),
		cmocka_unit_test(hide__forgets_a_body_that_quotes_the_secret),
		cmocka_unit_test(range__forms),
	};
	return cmocka_run_group_tests_name("oci/answer", tests, NULL, NULL);
}
