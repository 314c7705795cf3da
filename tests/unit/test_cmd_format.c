#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "base/clock.h"
#include "base/own.h"
#include "cmd/cairnctl_format.h"

static void bytes__are_short_and_right(void **state)
{
	(void)state;
	static const struct {
		int64_t bytes;
		const char *want;
	} cases[] = {
		{0, "0 B"},
		{1023, "1023 B"},
		{1024, "1.0 KiB"},
		{1536, "1.5 KiB"},
		{(1 << 20) - 1, "1.0 MiB"}, /* not 1024.0 KiB */
		{INT64_C(1) << 30, "1.0 GiB"},
		{INT64_MAX, "8.0 EiB"},
	};
	for (size_t i = 0; i < CAIRN_LEN(cases); i++) {
		char buf[CTL_TEXT];
		assert_string_equal(ctl_format_bytes(cases[i].bytes, buf), cases[i].want);
	}
}

static void traffic__has_its_rate_only_while_it_moves(void **state)
{
	(void)state;
	char buf[CTL_TRAFFIC];
	assert_string_equal(ctl_format_traffic(1536, 0, buf), "1.5 KiB");
	assert_string_equal(ctl_format_traffic(1 << 20, 1536, buf), "1.0 MiB (1.5 KiB/s)");
}

static void times__read_well(void **state)
{
	(void)state;
	char buf[CTL_TEXT];
	assert_string_equal(ctl_format_span(0, buf), "now");
	assert_string_equal(ctl_format_span(119, buf), "119 s");
	assert_string_equal(ctl_format_span(600, buf), "10 min");
	assert_string_equal(ctl_format_span(7200, buf), "2 h");
	assert_string_equal(ctl_format_span(3 * 86400, buf), "3 d");
	assert_string_equal(ctl_format_left(7, buf), "0:07");
	assert_string_equal(ctl_format_left(3 * 3600 + 12, buf), "3:00:12");
	assert_string_equal(ctl_format_time(1700000000, buf), "2023-11-14T22:13:20Z");
	assert_string_equal(ctl_format_time(0, buf), "-");
}

static void rate__follows_a_change_of_speed(void **state)
{
	(void)state;
	struct ctl_rate rate = {0};
	int64_t now = 5 * CAIRN_NS_PER_S, done = 0;
	ctl_rate_add(&rate, now, done);
	assert_int_equal(ctl_rate_left(&rate, 1000), -1); /* nothing known yet */
	for (int i = 0; i < 50; i++) ctl_rate_add(&rate, now += CAIRN_NS_PER_S / 5, done += 20);
	assert_true(rate.per_s > 99 && rate.per_s < 101);
	assert_int_equal(ctl_rate_left(&rate, 2000), 10);
	for (int i = 0; i < 100; i++) ctl_rate_add(&rate, now += CAIRN_NS_PER_S / 5, done += 200);
	assert_true(rate.per_s > 950);
	assert_int_equal(ctl_rate_left(&rate, done), 0);
	ctl_rate_add(&rate, now, done + 5); /* no time passed: no division by it */
	assert_true(rate.per_s < 2000);
}

static void bar__fills_its_width(void **state)
{
	(void)state;
	char buf[41];
	assert_string_equal(ctl_format_bar(0, 10, 12, buf, sizeof(buf)), "[          ]");
	assert_string_equal(ctl_format_bar(5, 10, 12, buf, sizeof(buf)), "[====>     ]");
	assert_string_equal(ctl_format_bar(10, 10, 12, buf, sizeof(buf)), "[==========]");
	assert_string_equal(ctl_format_bar(20, 10, 12, buf, sizeof(buf)), "[==========]");
	assert_string_equal(ctl_format_bar(0, 0, 12, buf, sizeof(buf)), "[==========]");
	assert_int_equal(strlen(ctl_format_bar(1, 3, 500, buf, sizeof(buf))), 40);
}

static void total__is_as_wide_as_it_may_be(void **state)
{
	(void)state;
	const struct ctl_amounts a = {31, 57, INT64_C(3) << 30, INT64_C(4) << 30};
	char buf[256];
	assert_string_equal(
		ctl_format_total(&a, 80.0 * (1 << 20), 21, "", 100, buf, sizeof(buf)),
		"[===========================>          ]  75%  3.0 GiB of 4.0 GiB  80.0 MiB/s  "
		"ETA 0:21  31/57 blobs");
	assert_string_equal(
		ctl_format_total(&a, 0, -1, "  1/3 images", 80, buf, sizeof(buf)),
		"[=======>   ]  75%  3.0 GiB of 4.0 GiB  0 B/s  ETA -:--  31/57 blobs  1/3 images");
	assert_string_equal(ctl_format_total(&a, 0, -1, "", 20, buf, sizeof(buf)),
			    "  75%  3.0 GiB of 4.");
	for (size_t width = 0; width < 200; width++) {
		ctl_format_total(&a, 1e12, 86400, "  1/3 images", width, buf, sizeof(buf));
		assert_true(strlen(buf) <= width);
	}
	const struct ctl_amounts most = {INT64_MAX, INT64_MAX, INT64_MAX, INT64_MAX};
	ctl_format_total(&most, 9e18, INT64_MAX, "", 1000, buf, sizeof(buf));
	assert_true(strlen(buf) < sizeof(buf));
}

#define HEX64 "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static void blob_line__is_as_wide_as_it_may_be(void **state)
{
	(void)state;
	char buf[256];
	assert_string_equal(
		ctl_format_blob("sha256:" HEX64, 12 << 20, 24 << 20, "", 60, buf, sizeof(buf)),
		"sha256:0123456789ab  [====>     ]  50%  12.0 MiB of 24.0 MiB");
	for (size_t width = 0; width < 200; width++) {
		ctl_format_blob("sha512:" HEX64 HEX64, 0, INT64_MAX, "by containerd", width, buf,
				sizeof(buf));
		assert_true(strlen(buf) <= width);
		ctl_format_blob("", 7, 0, "", width, buf, sizeof(buf));
		assert_true(strlen(buf) <= width);
	}
}

static void integer__may_be_negative(void **state)
{
	(void)state;
	int64_t n;
	static const struct {
		const char *text;
		int64_t want;
	} good[] = {{"-100", -100}, {"100", 100}, {"0", 0}, {"-0", 0}, {"-007", -7}};
	for (size_t i = 0; i < CAIRN_LEN(good); i++) {
		assert_true(ctl_parse_integer(good[i].text, -100, 100, &n));
		assert_int_equal(n, good[i].want);
	}
	static const char *const bad[] = {"",
					  "-",
					  "--1",
					  "+1",
					  "101",
					  "-101",
					  "1-",
					  "1e1",
					  "high",
					  " 1",
					  "9223372036854775808"};
	for (size_t i = 0; i < CAIRN_LEN(bad); i++)
		assert_false(ctl_parse_integer(bad[i], -100, 100, &n));
}

static void platform__is_of_two_or_three_words(void **state)
{
	(void)state;
	static const char *const good[] = {"all",	    "linux/amd64",
					   "linux/arm/v7",  "linux/arm64/v8",
					   "windows/amd64", "linux/ppc64le"};
	for (size_t i = 0; i < CAIRN_LEN(good); i++) assert_true(ctl_valid_platform(good[i]));
	static const char *const bad[] = {"",
					  "linux",
					  "amd64",
					  "ALL",
					  "/",
					  "linux/",
					  "/amd64",
					  "linux//v7",
					  "linux/arm/",
					  "linux/arm/v7/",
					  "linux/arm/v7/x",
					  "linux/a b",
					  "linux/amd64,linux/arm64"};
	for (size_t i = 0; i < CAIRN_LEN(bad); i++) {
		if (ctl_valid_platform(bad[i])) fail_msg("\"%s\" was taken", bad[i]);
	}
}

static void credentials__are_told_from_digests(void **state)
{
	(void)state;
	static const char *const secret[] = {
		"user:secret@r.example/app:v1",
		"user:secret@r.example:5000/app",
		"user:se/cret@r.example/app",
		"user:se@cret@r.example/app",
		"user:secret@localhost",
		"user:secret@r.example",
		"user:@r.example/app",
		":secret@r.example/app",
		"https://user:secret@r.example/app",
		"user:secret@r.example/app@sha256:" HEX64,
		"user:se/cret@host:5000",
		"user:se@cret@r.example/app@sha256:" HEX64,
		"token@r.example/app",
		"user:secret@",
	};
	for (size_t i = 0; i < CAIRN_LEN(secret); i++) {
		if (!ctl_has_credentials(secret[i])) fail_msg("\"%s\" was not seen", secret[i]);
	}
	static const char *const plain[] = {
		"",
		"busybox",
		"r.example:5000/app:v1",
		"busybox@sha256:" HEX64,
		"r.example:5000/team/app:v1@sha256:" HEX64,
		"r.example/app:v1@sha512:" HEX64 HEX64,
		"r.example/app:v1@sha256:0123", /* mistyped: not our business */
		"@r.example/app",
	};
	for (size_t i = 0; i < CAIRN_LEN(plain); i++) {
		if (ctl_has_credentials(plain[i])) fail_msg("\"%s\" has none", plain[i]);
	}
}

static void list__has_a_name_a_line(void **state)
{
	(void)state;
	static const struct {
		const char *line, *want; /* NULL: none; "!": refused */
	} cases[] = {
		{"", NULL},
		{"\n", NULL},
		{" \t\r\n", NULL},
		{"# images\n", NULL},
		{"  # images\n", NULL},
		{"busybox\n", "busybox"},
		{"busybox", "busybox"},
		{"  busybox:v1\t\r\n", "busybox:v1"},
		{"busybox # the shell\n", "busybox"},
		{"busybox# the shell\n", "busybox"},
		{"busybox alpine\n", "!"},
		{"- busybox\n", "!"},
	};
	for (size_t i = 0; i < CAIRN_LEN(cases); i++) {
		char line[64], *name = line;
		strcpy(line, cases[i].line);
		const bool taken = ctl_parse_list_line(line, &name);
		if (cases[i].want != NULL && strcmp(cases[i].want, "!") == 0) {
			assert_false(taken);
			continue;
		}
		assert_true(taken);
		if (cases[i].want == NULL) {
			assert_null(name);
		} else {
			assert_string_equal(name, cases[i].want);
		}
	}
}

static void version__is_found_in_what_containerd_prints(void **state)
{
	(void)state;
	static const struct {
		const char *text;
		int major, minor;
	} good[] = {
		{"containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3\n", 1,
		 6},
		{"containerd github.com/containerd/containerd v1.7.13 7c3aca7a610df76212171d2\n", 1,
		 7},
		{"containerd github.com/containerd/containerd/v2 v2.0.0 207ad711eabd375a01713\n", 2,
		 0},
		{"1.6", 1, 6},
		{"2.x", 2, -1},
		{"v2", 2, -1},
		{"2.3.4-rc.1", 2, 3},
	};
	int major, minor;
	for (size_t i = 0; i < CAIRN_LEN(good); i++) {
		assert_true(ctl_parse_version(good[i].text, &major, &minor));
		assert_int_equal(major, good[i].major);
		assert_int_equal(minor, good[i].minor);
	}
	static const char *const bad[] = {"", "x", "latest", "1x", "99999999999.1", "containerd"};
	for (size_t i = 0; i < CAIRN_LEN(bad); i++)
		assert_false(ctl_parse_version(bad[i], &major, &minor));
}

static void span__takes_what_the_manual_says(void **state)
{
	(void)state;
	static const struct {
		const char *text;
		int64_t want;
	} good[] = {
		{"1s", 1},
		{"90s", 90},
		{"30m", 1800},
		{"72h", 259200},
		{"7d", 604800},
		{"007d", 604800},
		{"3650d", CTL_SPAN_MAX_S},
		{"87600h", CTL_SPAN_MAX_S},
		{"5256000m", CTL_SPAN_MAX_S},
		{"315360000s", CTL_SPAN_MAX_S},
	};
	int64_t seconds;
	for (size_t i = 0; i < CAIRN_LEN(good); i++) {
		assert_true(ctl_parse_span(good[i].text, &seconds));
		assert_int_equal(seconds, good[i].want);
	}
}

static void span__refuses_the_rest(void **state)
{
	(void)state;
	static const char *const bad[] = {
		"",
		"7",
		"d",
		"7x",
		"7 d",
		" 7d",
		"7d ",
		"+7d",
		"-7d",
		"-1s",
		"0s",
		"0d",
		"1.5h",
		"1h30m",
		"7D",
		"d7",
		"0x10s",
		"7days",
		"forever",
		"3651d",
		"87601h",
		"315360001s",
		"inf",
		"1e3s",
		"\xd9\xa7"
		"d",
		"5256001m",
		"-",
		"9223372036854775807s",
		"9223372036854775808d",
		"18446744073709551617s",
		"99999999999999999999999999999999d",
		"106751991167301d",
		"000000000000000000001d",
	};
	int64_t seconds = -5;
	for (size_t i = 0; i < CAIRN_LEN(bad); i++) {
		if (ctl_parse_span(bad[i], &seconds)) fail_msg("\"%s\" was taken", bad[i]);
	}
	assert_int_equal(seconds, -5); /* untouched */
}

static void number__stays_in_its_range(void **state)
{
	(void)state;
	int64_t n;
	assert_true(ctl_parse_number("0", 1000, &n));
	assert_int_equal(n, 0);
	assert_true(ctl_parse_number("1000", 1000, &n));
	assert_int_equal(n, 1000);
	assert_true(ctl_parse_number("9223372036854775807", INT64_MAX, &n));
	assert_true(n == INT64_MAX);
	static const char *const bad[] = {
		"",    "1001", "-1", "+1", " 1", "1 ", "1.0", "two", "9223372036854775808",
		"0x1", "10000"};
	for (size_t i = 0; i < CAIRN_LEN(bad); i++)
		assert_false(ctl_parse_number(bad[i], 1000, &n));
	assert_false(ctl_parse_number("9223372036854775808", INT64_MAX, &n));
}

static void reasons__are_sentences(void **state)
{
	(void)state;
	static const struct {
		const char *why, *what;
		int64_t idle;
		const char *reason, *detail;
	} cases[] = {
		{"lease", "abc in k8s.io", 9, "lease abc in k8s.io", "abc in k8s.io"},
		{"version", "docker.io/library/busybox:latest", 0,
		 "version docker.io/library/busybox:latest", "docker.io/library/busybox:latest"},
		{"prune", "r.example/app:v1", 9, "prune r.example/app:v1", "r.example/app:v1"},
		{"ttl", "", 26 * 3600, "unused for 26 h", "unused for 26 h"},
		{"ttl", "", 0, "unused for 0 s", "unused for 0 s"},
		{"young", "", 60, "last used 60 s ago", "last used 60 s ago"},
		{"pressure", "", 600, "the disk is full; unused for 10 min",
		 "the disk is full; unused for 10 min"},
		{"pressure", "r.example/app:v1", 600,
		 "the disk is full; unused for 10 min (r.example/app:v1)",
		 "the disk is full; unused for 10 min (r.example/app:v1)"},
		{"referenced", "", 7, "containerd may have a record of it",
		 "containerd may have a record of it"},
		{"moon", "", 7, "moon", "-"}, /* of a later version */
		{"moon", "full", 7, "moon full", "full"},
		{"", "", 7, "-", "-"},
		{"lease", "a\tb\033[2J\n", 7, "lease a?b?[2J?", "a?b?[2J?"},
	};
	for (size_t i = 0; i < CAIRN_LEN(cases); i++) {
		char buf[CTL_LINE];
		assert_string_equal(ctl_format_reason(cases[i].why, cases[i].what, cases[i].idle,
						      buf, sizeof(buf)),
				    cases[i].reason);
		assert_string_equal(ctl_format_detail(cases[i].why, cases[i].what, cases[i].idle,
						      buf, sizeof(buf)),
				    cases[i].detail);
	}
}

static void plain_text__is_one_field(void **state)
{
	(void)state;
	char buf[8];
	assert_string_equal(ctl_format_plain("", buf, sizeof(buf)), "-");
	assert_string_equal(ctl_format_plain("a\tb\nc", buf, sizeof(buf)), "a?b?c");
	assert_string_equal(ctl_format_plain("12345678", buf, sizeof(buf)), "1234567");
	assert_string_equal(ctl_format_plain("\xc3\xa9", buf, sizeof(buf)), "\xc3\xa9");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bytes__are_short_and_right),
		cmocka_unit_test(traffic__has_its_rate_only_while_it_moves),
		cmocka_unit_test(times__read_well),
		cmocka_unit_test(rate__follows_a_change_of_speed),
		cmocka_unit_test(bar__fills_its_width),
		cmocka_unit_test(total__is_as_wide_as_it_may_be),
		cmocka_unit_test(blob_line__is_as_wide_as_it_may_be),
		cmocka_unit_test(integer__may_be_negative),
		cmocka_unit_test(platform__is_of_two_or_three_words),
		cmocka_unit_test(credentials__are_told_from_digests),
		cmocka_unit_test(list__has_a_name_a_line),
		cmocka_unit_test(span__takes_what_the_manual_says),
		cmocka_unit_test(span__refuses_the_rest),
		cmocka_unit_test(number__stays_in_its_range),
		cmocka_unit_test(reasons__are_sentences),
		cmocka_unit_test(plain_text__is_one_field),
		cmocka_unit_test(version__is_found_in_what_containerd_prints),
	};
	return cmocka_run_group_tests_name("cmd/format", tests, NULL, NULL);
}
