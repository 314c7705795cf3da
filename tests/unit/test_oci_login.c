/* docker's config.json, and challenges: from text to values. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "oci/auth.h"
#include "oci/base64.h"
#include "support/tmp.h"

#define JOE "am9lOnMzY3JldA=="

/* Texts are copied to the heap, without a NUL, so that ASan sees a read beyond the end. */
static enum cairn_code find(const char *json, const char *registry, const char *repository,
			    struct cairn_credentials *ret, bool *helper, struct cairn_err *err)
{
	size_t n = strlen(json);
	char *copy = malloc(n > 0 ? n : 1);
	memcpy(copy, json, n);
	*ret = (struct cairn_credentials){0};
	*helper = false;
	enum cairn_code code =
		cairn_docker_config_find(copy, n, registry, repository, ret, helper, err);
	free(copy);
	return code;
}

static void check(const char *json, const char *registry, const char *repository,
		  const char *username, const char *password, const char *identity_token)
{
	struct cairn_credentials c;
	struct cairn_err err;
	bool helper;
	if (find(json, registry, repository, &c, &helper, &err) != CAIRN_OK) {
		fail_msg("%s: %s", json, err.msg);
	}
	const char *got[] = {c.username, c.password, c.identity_token};
	const char *want[] = {username, password, identity_token};
	for (size_t i = 0; i < 3; i++) {
		if ((got[i] == NULL) != (want[i] == NULL) ||
		    (got[i] != NULL && strcmp(got[i], want[i]) != 0)) {
			fail_msg("%s: field %zu is %s", json, i, got[i] != NULL ? got[i] : "NULL");
		}
	}
	cairn_credentials_fini(&c);
	assert_null(c.username);
}

static void config__forms_of_an_entry(void **state)
{
	(void)state;
#define ENTRY(text) "{\"auths\":{\"r.io\":" text "}}"
	check(ENTRY("{\"auth\":\"" JOE "\"}"), "r.io", "x", "joe", "s3cret", NULL);
	check(ENTRY("{\"auth\":\"am9lOnMzY3JldA\"}"), "r.io", "x", "joe", "s3cret", NULL);
	check(ENTRY("{\"auth\":\"am9lOnMzY3JldA==\\n\"}"), "r.io", "x", "joe", "s3cret", NULL);
	check(ENTRY("{\"auth\":\"am9lOnA6cQA=\"}"), "r.io", "x", "joe", "p:q", NULL); /* with NUL */
	check(ENTRY("{\"auth\":\"am9lOg==\"}"), "r.io", "x", "joe", "", NULL);
	check(ENTRY("{\"auth\":\"" JOE "\",\"username\":\"x\",\"email\":\"e@x\"}"), "r.io", "x",
	      "joe", "s3cret", NULL);
	check(ENTRY("{\"username\":\"joe\",\"password\":\"p\"}"), "r.io", "x", "joe", "p", NULL);
	check(ENTRY("{\"auth\":\"MDA6\",\"identitytoken\":\"id\"}"), "r.io", "x", "00", "", "id");
	check(ENTRY("{\"identitytoken\":\"id\"}"), "r.io", "x", NULL, NULL, "id");
	check(ENTRY("{\"auth\":\"\",\"identitytoken\":null}"), "r.io", "x", NULL, NULL, NULL);
	check(ENTRY("{}"), "r.io", "x", NULL, NULL, NULL);
	check("{}", "r.io", "x", NULL, NULL, NULL);
	check("{\"auths\":null}", "r.io", "x", NULL, NULL, NULL);
}

static void config__keys(void **state)
{
	static const struct {
		const char *key, *registry;
		bool fits;
	} all[] = {
		{"r.io", "r.io", true},
		{"R.io", "r.io", true},
		{"r.io/", "r.io", true},
		{"https://r.io", "r.io", true},
		{"https://r.io/", "r.io", true},
		{"https://r.io/v1/", "r.io", true},
		{"https://r.io/v2/", "r.io", true},
		{"http://r.io/some/where", "r.io", true},
		{"r.io/v2", "r.io", true},
		{"r.io/lib", "r.io", true},
		{"r.io/lib/app", "r.io", true},
		{"r.io/li", "r.io", false},
		{"r.io/other", "r.io", false},
		{"r.io:5000", "r.io", false},
		{"r.io", "r.io:5000", false},
		{"r.io:5000", "r.io:5000", true},
		{"evil-r.io", "r.io", false},
		{"r.io.evil", "r.io", false},
		{"https://index.docker.io/v1/", "docker.io", true},
		{"index.docker.io", "docker.io", true},
		{"docker.io", "docker.io", true},
		{"registry-1.docker.io", "docker.io", true},
		{"https://index.docker.io/v1/", "r.io", false},
		{"", "r.io", false},
		{"://", "r.io", false},
	};
	(void)state;
	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		char json[256];
		snprintf(json, sizeof(json), "{\"auths\":{\"%s\":{\"auth\":\"" JOE "\"}}}",
			 all[i].key);
		check(json, all[i].registry, "lib/app", all[i].fits ? "joe" : NULL,
		      all[i].fits ? "s3cret" : NULL, NULL);
	}
}

static void config__the_longest_path_wins(void **state)
{
	static const char json[] = "{\"auths\":{"
				   "\"https://r.io/v1/\":{\"username\":\"url\",\"password\":\"\"},"
				   "\"r.io/lib/app\":{\"username\":\"app\",\"password\":\"p\"},"
				   "\"r.io\":{\"username\":\"host\",\"password\":\"p\"},"
				   "\"r.io/lib\":{\"username\":\"lib\",\"password\":\"p\"}}}";
	(void)state;
	check(json, "r.io", "lib/app", "app", "p", NULL);
	check(json, "r.io", "lib/app2", "lib", "p", NULL);
	check(json, "r.io", "lib", "lib", "p", NULL);
	check(json, "r.io", "other", "host", "p", NULL);
}

static void config__that_makes_no_sense(void **state)
{
	static const char *const all[] = {"",
					  "[]",
					  "{",
					  "{\"auths\":[]}",
					  "{\"auths\":\"s3cret\"}",
					  ENTRY("7"),
					  ENTRY("[]"),
					  ENTRY("{\"auth\":7}"),
					  ENTRY("{\"auth\":\"s3cret!\"}"),
					  ENTRY("{\"auth\":\"s3cre\"}"),
					  ENTRY("{\"auth\":\"am9l\"}"),	    /* no colon */
					  ENTRY("{\"auth\":\"am8AOnA=\"}"), /* NUL in the name */
					  ENTRY("{\"auth\":\"=\"}"),
					  ENTRY("{\"username\":{}}"),
					  ENTRY("{\"auth\":\"" JOE "\"} s3cret"),
					  "{\"auths\":{}} \"s3cret\"",
					  "{s3cret",
					  "{\"auths\":{},\"auths\":{}}"};
	(void)state;
	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		struct cairn_credentials c;
		struct cairn_err err;
		bool helper;
		if (find(all[i], "r.io", "x", &c, &helper, &err) != CAIRN_INVALID_ARGUMENT) {
			fail_msg("taken: %s", all[i]);
		}
		assert_null(strstr(err.msg, "s3cr"));
	}
}

static void config__helpers(void **state)
{
	static const struct {
		const char *json;
		bool helper;
	} all[] = {
		{"{\"credsStore\":\"desktop\"}", true},
		{"{\"credsStore\":\"\"}", false},
		{"{\"credsStore\":\"desktop\",\"auths\":{\"r.io\":{}}}", true},
		{"{\"credsStore\":\"x\",\"auths\":{\"r.io\":{\"auth\":\"" JOE "\"}}}", false},
		{"{\"credHelpers\":{\"r.io\":\"ecr-login\"}}", true},
		{"{\"credHelpers\":{\"other.io\":\"ecr-login\"}}", false},
		{"{\"credHelpers\":7,\"credsStore\":8}", false},
		{"{}", false},
	};
	(void)state;
	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		struct cairn_credentials c;
		struct cairn_err err;
		bool helper;
		assert_int_equal(find(all[i].json, "r.io", "x", &c, &helper, &err), CAIRN_OK);
		assert_int_equal(helper, all[i].helper);
		cairn_credentials_fini(&c);
	}
}

static enum cairn_code read_config(const char *path, struct cairn_err *err)
{
	struct cairn_credentials c = {0};
	bool helper = false;
	enum cairn_code code = cairn_docker_config_read(path, "r.io", "x", &c, &helper, err);
	cairn_credentials_fini(&c);
	return code;
}

static void config__files_that_cannot_be_read(void **state)
{
	char dir[80], path[120];
	struct cairn_err err;
	(void)state;
	tmp_template(dir, sizeof(dir), "login");
	assert_non_null(mkdtemp(dir));
	assert_int_equal(read_config(dir, &err), CAIRN_FAILED_PRECONDITION);
	snprintf(path, sizeof(path), "%s/x", dir);
	assert_int_equal(read_config(path, &err), CAIRN_FAILED_PRECONDITION);
	assert_non_null(strstr(err.msg, path));
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_int_equal(read_config(path, &err), CAIRN_FAILED_PRECONDITION);
	assert_int_equal(unlink(path), 0);
	FILE *file = fopen(path, "we");
	assert_non_null(file);
	for (unsigned i = 0; i < CAIRN_DOCKER_CONFIG_MAX; i++) fputc(' ', file);
	fputs("{}", file);
	fclose(file);
	assert_int_equal(read_config(path, &err), CAIRN_INVALID_ARGUMENT);
	assert_non_null(strstr(err.msg, "longer than"));
	assert_int_equal(truncate(path, 0), 0);
	file = fopen(path, "we");
	assert_non_null(file);
	fputs("{}", file);
	fclose(file);
	assert_int_equal(read_config(path, &err), CAIRN_OK);
	unlink(path);
	rmdir(dir);
}

static void base64__there_and_back(void **state)
{
	static const char *const all[][2] = {{"", ""},
					     {"a", "YQ=="},
					     {"ab", "YWI="},
					     {"abc", "YWJj"},
					     {"abcd", "YWJjZA=="},
					     {"abcde", "YWJjZGU="},
					     {"abcdef", "YWJjZGVm"},
					     {"\xff\xfe\xfd>?", "//79Pj8="}};
	(void)state;
	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		size_t n = 99;
		char *text = cairn_base64_encode(all[i][0], strlen(all[i][0]));
		assert_string_equal(text, all[i][1]);
		char *data = cairn_base64_decode(text, &n);
		assert_int_equal(n, strlen(all[i][0]));
		assert_string_equal(data, all[i][0]);
		free(text);
		free(data);
	}
}

/* ---- challenges ------------------------------------------------------------------------------
 */

static void challenge__forms(void **state)
{
	static const struct {
		const char *header;
		enum cairn_auth_scheme scheme;
		const char *realm, *service, *scope;
	} all[] = {
		{"Basic realm=\"r\"", CAIRN_AUTH_BASIC, "r", "", ""},
		{"basic", CAIRN_AUTH_BASIC, "", "", ""},
		{"Bearer realm=\"https://a/t\",service=\"s\",scope=\"repository:a/b:pull,push\"",
		 CAIRN_AUTH_BEARER, "https://a/t", "s", "repository:a/b:pull,push"},
		{"bEARER  REALM = \"x\" , Service=tok ,error=\"invalid_token\"", CAIRN_AUTH_BEARER,
		 "x", "tok", ""},
		{"Basic realm=\"b\", Bearer realm=\"t\"", CAIRN_AUTH_BEARER, "t", "", ""},
		{"Bearer realm=\"t\", Basic realm=\"b\"", CAIRN_AUTH_BEARER, "t", "", ""},
		{"Negotiate abc+/==, Basic realm=\"b\"", CAIRN_AUTH_BASIC, "b", "", ""},
		{"Negotiate, Bearer realm=\"t\"", CAIRN_AUTH_BEARER, "t", "", ""},
		{"Digest realm=\"d\", nonce=\"n\", Bearer realm=t", CAIRN_AUTH_BEARER, "t", "", ""},
		{"Bearer realm=\"a\\\"b\\\\c\"", CAIRN_AUTH_BEARER, "a\"b\\c", "", ""},
		{",, Bearer ,realm=\"t\",,", CAIRN_AUTH_BEARER, "t", "", ""},
		{"Bearer service=\"s\"", CAIRN_AUTH_NONE, "", "", ""},
		{"Bearer realm=\"t", CAIRN_AUTH_NONE, "", "", ""},
		{"Bearer realm=\"t\x01\"", CAIRN_AUTH_NONE, "", "", ""},
		{"Bearer realm=", CAIRN_AUTH_NONE, "", "", ""},
		{"Bearer realm", CAIRN_AUTH_NONE, "", "", ""},
		{"Bearer=x, Basic", CAIRN_AUTH_NONE, "", "", ""},
		{"", CAIRN_AUTH_NONE, "", "", ""},
		{"\"", CAIRN_AUTH_NONE, "", "", ""},
		{"=", CAIRN_AUTH_NONE, "", "", ""},
	};
	(void)state;
	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		struct cairn_challenge c;
		size_t n = strlen(all[i].header);
		char *copy = malloc(n > 0 ? n : 1);
		memcpy(copy, all[i].header, n);
		cairn_challenge_parse(copy, n, &c);
		free(copy);
		if (c.scheme != all[i].scheme) fail_msg("%s: %d", all[i].header, c.scheme);
		assert_string_equal(c.realm, all[i].realm);
		assert_string_equal(c.service, all[i].service);
		assert_string_equal(c.scope, all[i].scope);
	}
}

static void challenge__values_are_bounded(void **state)
{
	struct cairn_challenge c;
	char longer[3000];
	(void)state;
	memset(longer, 'x', sizeof(longer));
	memcpy(longer, "Bearer realm=\"", 14);
	longer[14 + 1023] = '"';
	cairn_challenge_parse(longer, 14 + 1024, &c);
	assert_int_equal(c.scheme, CAIRN_AUTH_BEARER);
	assert_int_equal(strlen(c.realm), 1023);
	longer[14 + 1023] = 'x';
	longer[14 + 1024] = '"';
	cairn_challenge_parse(longer, 14 + 1025, &c);
	assert_int_equal(c.scheme, CAIRN_AUTH_NONE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(config__forms_of_an_entry),
		cmocka_unit_test(config__keys),
		cmocka_unit_test(config__the_longest_path_wins),
		cmocka_unit_test(config__that_makes_no_sense),
		cmocka_unit_test(config__helpers),
		cmocka_unit_test(config__files_that_cannot_be_read),
		cmocka_unit_test(base64__there_and_back),
		cmocka_unit_test(challenge__forms),
		cmocka_unit_test(challenge__values_are_bounded),
	};
	return cmocka_run_group_tests_name("oci/login", tests, NULL, NULL);
}
