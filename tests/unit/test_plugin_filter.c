#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "plugin/filter.h"
#include "plugin/regex.h"

/* An object with a digest and two labels. */
static const char *field(const void *obj, const char *name, const char *rest)
{
	(void)obj;
	if (strcmp(name, "digest") == 0) return "sha256:abc";
	if (strcmp(name, "labels") != 0) return NULL;
	if (strcmp(rest, "foo") == 0) return "bar";
	if (strcmp(rest, "containerd.io/gc.root") == 0) return "2026-01-01, noon";
	if (strcmp(rest, "empty") == 0) return "";
	return NULL;
}

static bool holds(const char *text)
{
	struct cairn_err err;
	struct cairn_filter *filter = NULL;
	char *copy = strdup(text);
	if (cairn_filter_parse(&copy, 1, &filter, &err) != CAIRN_OK) {
		fail_msg("%s: %s", text, err.msg);
	}
	bool yes = cairn_filter_match(filter, field, NULL);
	cairn_filter_free(filter);
	free(copy);
	return yes;
}

static void match__as_containerd_does(void **state)
{
	(void)state;
	static const char *const yes[] = {
		"",
		"digest==sha256:abc",
		"digest == sha256:abc",
		" digest == \"sha256:abc\" ",
		"digest!=sha256:x",
		"digest~=^sha256:[a-c]+$",
		"digest~=/^sha256:(abc|x)$/",
		"digest~=|a.c|",
		"labels.foo",
		"labels.foo==bar",
		"labels.\"foo\"==bar",
		"\"labels\".foo==\"b\\x61r\"",
		"labels.foo==bar,digest==sha256:abc",
		"labels.foo, digest",
		"labels.\"containerd.io/gc.root\"",
		"labels.containerd.\"io/gc\".root", /* parts are joined with dots */
		"labels.\"containerd.io/gc.root\"==\"2026-01-01, noon\"",
		"labels.absent!=bar",
		"labels.absent~=^$",
		"labels.empty",
		"labels.empty==\"\"",
		"size!=5", /* not filterable, so absent */
	};
	static const char *const no[] = {
		"digest==sha256:abd",
		"digest!=sha256:abc",
		"digest~=^abc",
		"labels.absent",
		"labels.absent==\"\"",
		"labels",
		"labels.foo==bar,digest==x",
		"labels.foo==ba",
		"size",
		"size==5",
		"ref==x",
	};
	for (size_t i = 0; i < CAIRN_LEN(yes); i++) {
		if (!holds(yes[i])) fail_msg("does not hold: %s", yes[i]);
	}
	for (size_t i = 0; i < CAIRN_LEN(no); i++) {
		if (holds(no[i])) fail_msg("holds: %s", no[i]);
	}
}

static void match__any_of_several(void **state)
{
	(void)state;
	char *texts[] = {(char[]){"ref==x"}, (char[]){"labels.foo==bar"}};
	struct cairn_err err;
	struct cairn_filter *filter = NULL;
	assert_int_equal(cairn_filter_parse(texts, 2, &filter, &err), CAIRN_OK);
	assert_true(cairn_filter_match(filter, field, NULL));
	cairn_filter_free(filter);
	assert_int_equal(cairn_filter_parse(texts, 1, &filter, &err), CAIRN_OK);
	assert_false(cairn_filter_match(filter, field, NULL));
	cairn_filter_free(filter);
	assert_int_equal(cairn_filter_parse(NULL, 0, &filter, &err), CAIRN_OK);
	assert_null(filter);
	assert_true(cairn_filter_match(filter, field, NULL));
}

static void parse__refuses_what_is_no_filter(void **state)
{
	(void)state;
	static const char *const bad[] = {
		" ",
		",",
		"==x",
		"digest==",
		"digest== ,a",
		"digest=x",
		"digest===x",
		"digest~x",
		"digest==x y",
		"digest==x,",
		"digest.",
		"digest..x",
		".digest",
		"dig est",
		"digest==\"x",
		"digest==\"x\\q\"",
		"digest==\"x\\x4\"",
		"digest==\"\\400\"",
		"digest==\"\\U00110000\"",
		"digest==\"a\\x00b\"",
		"digest==\"a\nb\"",
		"digest==/x/",
		"digest==|x|",
		"digest~=/x",
		"digest~=(",
		"digest~=[",
		"digest~=((a{100}){100}){100}",
		"labels.\"foo==bar",
		"\xc3\xa9==x",
		"digest==x\\",
	};
	for (size_t i = 0; i < CAIRN_LEN(bad) - 1; i++) {
		struct cairn_err err = {0};
		struct cairn_filter *filter = NULL;
		char *copy = strdup(bad[i]);
		if (cairn_filter_parse(&copy, 1, &filter, &err) != CAIRN_INVALID_ARGUMENT) {
			fail_msg("taken: %s", bad[i]);
		}
		assert_null(filter);
		assert_true(strlen(err.msg) > 10);
		free(copy);
	}
}

static void parse__bounds_number_and_length(void **state)
{
	(void)state;
	struct cairn_err err;
	struct cairn_filter *filter = NULL;
	char *many[CAIRN_FILTERS_MAX + 1];
	for (size_t i = 0; i < CAIRN_LEN(many); i++) many[i] = (char[]){"digest"};
	assert_int_equal(cairn_filter_parse(many, CAIRN_LEN(many), &filter, &err),
			 CAIRN_INVALID_ARGUMENT);
	char *one = calloc(1, 2 * CAIRN_FILTER_BYTES_MAX);
	memset(one, 'a', CAIRN_FILTER_BYTES_MAX + 1);
	assert_int_equal(cairn_filter_parse(&one, 1, &filter, &err), CAIRN_INVALID_ARGUMENT);
	one[CAIRN_FILTER_BYTES_MAX] = '\0';
	assert_int_equal(cairn_filter_parse(&one, 1, &filter, &err), CAIRN_OK);
	cairn_filter_free(filter);
	filter = NULL;
	for (size_t i = 0; i < CAIRN_FILTER_SELECTORS_MAX; i++) memcpy(one + 2 * i, "a,", 2);
	strcpy(one + 2 * CAIRN_FILTER_SELECTORS_MAX, "a");
	assert_int_equal(cairn_filter_parse(&one, 1, &filter, &err), CAIRN_INVALID_ARGUMENT);
	free(one);
}

static bool matches(const char *pattern, const char *text)
{
	struct cairn_err err;
	struct cairn_regex *re = NULL;
	if (cairn_regex_compile(pattern, &re, &err) != CAIRN_OK) {
		fail_msg("%s: %s", pattern, err.msg);
	}
	bool yes = cairn_regex_match(re, text);
	cairn_regex_free(re);
	return yes;
}

static void regex__matches_as_re2(void **state)
{
	(void)state;
	static const struct {
		const char *pattern, *text;
		bool yes;
	} cases[] = {
		{"", "", true},
		{"", "x", true},
		{"b", "abc", true},
		{"^b", "abc", false},
		{"^abc$", "abc", true},
		{"^ab$", "abc", false},
		{"a|^b", "xb", false},
		{"a|b|c", "xxc", true},
		{"^(a|b|)c$", "c", true},
		{"^(?:ab)*$", "ababab", true},
		{"^(ab)*$", "ababa", false},
		{"^(a|b)+c?$", "abbac", true},
		{"^a{3}$", "aaa", true},
		{"^a{3}$", "aaaa", false},
		{"^a{2,}$", "a", false},
		{"^a{2,}$", "aaaaa", true},
		{"^a{1,3}b$", "aaab", true},
		{"^a{1,3}b$", "aaaab", false},
		{"^(ab|c){2}$", "cab", true},
		{"^a{0}b$", "b", true},
		{"a{,3}", "a{,3}", true}, /* a plain text */
		{"a{x", "a{x", true},
		{"^a*?b+?c??$", "aab", true},
		{"^[a-c]+$", "abcd", false},
		{"^[^a-c]+$", "xyz", true},
		{"^[]a]+$", "a]", true},
		{"^[a-]+$", "a-", true},
		{"^[\\d_.-]+$", "1_2.3-4", true},
		{"^\\d+\\s\\w+\\S$", "12 ab!", true},
		{"^\\D$", "1", false},
		{"^\\W$", "_", false},
		{"^a.c$", "a\nc", false},
		{"^a\\.c$", "abc", false},
		{"^\\$\\{x\\}$", "${x}", true},
		{"(a*)*b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaac", false},
		{"((a+)+)+$", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!", false},
		{"^(((a)|b)|c)$", "c", true},
	};
	for (size_t i = 0; i < CAIRN_LEN(cases); i++) {
		if (matches(cases[i].pattern, cases[i].text) != cases[i].yes) {
			fail_msg("%s on %s is not %d", cases[i].pattern, cases[i].text,
				 cases[i].yes);
		}
	}
}

static void regex__refuses_what_is_none(void **state)
{
	(void)state;
	static const char *const bad[] = {
		"*",  "a**", "a|*",   "(",  ")",   "(a",     "a)",     "[",
		"[a", "[]",  "[z-a]", "\\", "[\\", "(?P<x>", "a{3,2}", "\\C",
	};
	for (size_t i = 0; i < CAIRN_LEN(bad); i++) {
		struct cairn_err err;
		struct cairn_regex *re = NULL;
		if (cairn_regex_compile(bad[i], &re, &err) != CAIRN_INVALID_ARGUMENT) {
			fail_msg("taken: %s", bad[i]);
		}
	}
	char deep[CAIRN_REGEX_LENGTH_MAX + 2];
	memset(deep, '(', 100);
	memset(deep + 100, ')', 99);
	deep[199] = '\0';
	struct cairn_err err;
	struct cairn_regex *re = NULL;
	assert_int_equal(cairn_regex_compile(deep, &re, &err), CAIRN_INVALID_ARGUMENT);
	memset(deep, 'a', sizeof(deep) - 1);
	deep[sizeof(deep) - 1] = '\0';
	assert_int_equal(cairn_regex_compile(deep, &re, &err), CAIRN_INVALID_ARGUMENT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(match__as_containerd_does),
		cmocka_unit_test(match__any_of_several),
		cmocka_unit_test(parse__refuses_what_is_no_filter),
		cmocka_unit_test(parse__bounds_number_and_length),
		cmocka_unit_test(regex__matches_as_re2),
		cmocka_unit_test(regex__refuses_what_is_none),
	};
	return cmocka_run_group_tests_name("plugin/filter", tests, NULL, NULL);
}
