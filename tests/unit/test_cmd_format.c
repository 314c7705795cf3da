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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bytes__are_short_and_right),
		cmocka_unit_test(times__read_well),
		cmocka_unit_test(rate__follows_a_change_of_speed),
		cmocka_unit_test(bar__fills_its_width),
		cmocka_unit_test(version__is_found_in_what_containerd_prints),
	};
	return cmocka_run_group_tests_name("cmd/format", tests, NULL, NULL);
}
