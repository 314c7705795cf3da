/* Platforms: how they are written, and what fits what. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "oci/oci.h"

static void parse__normalises(void **state)
{
	(void)state;
	static const struct {
		const char *text, *want;
	} good[] = {
		{"linux/amd64", "linux/amd64"},
		{"amd64", "linux/amd64"},
		{"x86_64", "linux/amd64"},
		{"linux/amd64/v1", "linux/amd64"},
		{"linux/amd64/v3", "linux/amd64/v3"},
		{"linux/arm64", "linux/arm64/v8"},
		{"linux/aarch64", "linux/arm64/v8"},
		{"linux/arm64/v8", "linux/arm64/v8"},
		{"linux/arm", "linux/arm/v7"},
		{"linux/armhf", "linux/arm/v7"},
		{"Linux/ARM/v6", "linux/arm/v6"},
		{"windows/amd64", "windows/amd64"},
		{"linux/s390x", "linux/s390x"},
		{"i386", "linux/386"},
	};
	for (size_t i = 0; i < CAIRN_LEN(good); i++) {
		struct cairn_err err;
		struct cairn_platform p;
		char text[CAIRN_PLATFORM_STR];
		assert_int_equal(cairn_platform_parse(good[i].text, &p, &err), CAIRN_OK);
		assert_string_equal(cairn_platform_format(&p, text), good[i].want);
	}
}

static void parse__refuses_what_is_none(void **state)
{
	(void)state;
	static const char *const bad[] = {"",
					  "/",
					  "linux/",
					  "/amd64",
					  "linux//v8",
					  "linux/arm64/v8/x",
					  "a b",
					  "linux/amd64/",
					  "linux/../etc",
					  "a/b/c/d/e",
					  "averyveryveryverylongoperatingsystemname/amd64"};
	for (size_t i = 0; i < CAIRN_LEN(bad); i++) {
		struct cairn_err err;
		struct cairn_platform p;
		assert_int_equal(cairn_platform_parse(bad[i], &p, &err), CAIRN_INVALID_ARGUMENT);
		assert_non_null(strstr(err.msg, "linux/arm64/v8"));
	}
}

static int fits(const char *want, const char *os, const char *arch, const char *variant)
{
	struct cairn_err err;
	struct cairn_platform w, offered = {0};
	assert_int_equal(cairn_platform_parse(want, &w, &err), CAIRN_OK);
	strcpy(offered.os, os);
	strcpy(offered.arch, arch);
	strcpy(offered.variant, variant);
	return cairn_platform_fits(&w, &offered);
}

static void fits__as_containerd_has_it(void **state)
{
	(void)state;
	assert_true(fits("linux/amd64", "linux", "amd64", "") > 0);
	assert_int_equal(fits("linux/amd64", "linux", "arm64", ""), 0);
	assert_int_equal(fits("linux/amd64", "windows", "amd64", ""), 0);
	assert_int_equal(fits("linux/amd64", "linux", "amd64", "v3"), 0);
	assert_true(fits("linux/amd64/v3", "linux", "amd64", "v3") >
		    fits("linux/amd64/v3", "linux", "amd64", ""));
	assert_true(fits("linux/arm64", "linux", "arm64", "") > 0);
	assert_true(fits("linux/arm64", "linux", "arm64", "v8") > 0);
	assert_true(fits("linux/arm/v7", "linux", "arm", "v7") >
		    fits("linux/arm/v7", "linux", "arm", "v6"));
	assert_true(fits("linux/arm/v7", "linux", "arm", "v6") >
		    fits("linux/arm/v7", "linux", "arm", "v5"));
	assert_int_equal(fits("linux/arm/v6", "linux", "arm", "v7"), 0);
	assert_int_equal(fits("linux/amd64", "unknown", "unknown", ""), 0);
	/* an artifact says nothing, and fits worst */
	assert_int_equal(fits("linux/amd64", "", "", ""), 1);
}

static void config__says_what_it_runs_on(void **state)
{
	(void)state;
	struct cairn_err err;
	struct cairn_platform p;
	char text[CAIRN_PLATFORM_STR];
	static const char config[] = "{\"architecture\":\"arm64\",\"os\":\"linux\",\"x\":[]}";
	static const char odd[] = "{\"architecture\":7}";
	assert_int_equal(cairn_platform_of_config(config, strlen(config), &p, &err), CAIRN_OK);
	assert_string_equal(cairn_platform_format(&p, text), "linux/arm64/v8");
	assert_int_equal(cairn_platform_of_config(odd, strlen(odd), &p, &err), CAIRN_OK);
	assert_string_equal(p.arch, "");
	assert_int_equal(cairn_platform_of_config("{", 1, &p, &err), CAIRN_INVALID_ARGUMENT);
}

static void node__is_a_platform(void **state)
{
	(void)state;
	struct cairn_platform p;
	cairn_platform_node(&p);
	assert_string_equal(p.os, "linux");
	assert_true(p.arch[0] != '\0');
	assert_true(cairn_platform_fits(&p, &p) > 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(parse__normalises),
		cmocka_unit_test(parse__refuses_what_is_none),
		cmocka_unit_test(fits__as_containerd_has_it),
		cmocka_unit_test(config__says_what_it_runs_on),
		cmocka_unit_test(node__is_a_platform),
	};
	return cmocka_run_group_tests_name("oci/platform", tests, NULL, NULL);
}
