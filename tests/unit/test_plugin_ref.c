#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "plugin/ref.h"

#define HEX "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
#define DIGEST "sha256:" HEX

static void check(const char *ref, const char *owner, const char *client, bool want)
{
	struct cairn_ref r;
	cairn_ref_parse(ref, &r);
	if (owner == NULL) {
		if (r.owner != NULL) fail_msg("%s: has an owner", ref);
	} else {
		assert_non_null(r.owner);
		assert_int_equal(r.owner_len, strlen(owner));
		assert_memory_equal(r.owner, owner, r.owner_len);
	}
	assert_string_equal(r.client, client);
	if ((r.want.alg != 0) != want) fail_msg("%s: want is %d", ref, r.want.alg);
	if (want) {
		char text[CAIRN_DIGEST_STR];
		assert_string_equal(cairn_digest_format(&r.want, text), DIGEST);
	}
}

static void parse__splits_at_the_first_two_slashes(void **state)
{
	(void)state;
	check("k8s.io/1/layer-" DIGEST, "k8s.io", "layer-" DIGEST, true);
	check("a/b/c/d/e", "a", "c/d/e", false);
	check("ns/18446744073709551615/x", "ns", "x", false);
	check("ns/any thing/manifest-" DIGEST, "ns", "manifest-" DIGEST, true);
	check("ns/1/", "ns", "", false);
}

static void parse__takes_what_has_no_such_shape_as_it_is(void **state)
{
	(void)state;
	static const char *const odd[] = {"", "x", "a/b", "/1/x", "a//x", "//", "../../etc/passwd"};
	for (size_t i = 0; i < 6; i++) check(odd[i], NULL, odd[i], false);
	check("layer-" DIGEST, NULL, "layer-" DIGEST, true);
}

static void parse__wants_a_digest_only_of_a_pulls_ref(void **state)
{
	(void)state;
	static const char *const kinds[] = {"index",  "manifest",    "layer",
					    "config", "attestation", "unknown"};
	char ref[400];
	for (size_t i = 0; i < CAIRN_LEN(kinds); i++) {
		snprintf(ref, sizeof(ref), "%s-" DIGEST, kinds[i]);
		check(ref, NULL, ref, true);
		snprintf(ref, sizeof(ref), "ns/1/%s-docker.io/library/a:b@" DIGEST, kinds[i]);
		check(ref, "ns", ref + 5, true);
	}
	static const char *const others[] = {
		DIGEST,
		"convert-uncompress-from-" DIGEST, /* becomes something else */
		"layers-" DIGEST,
		"Layer-" DIGEST,
		"layer-" DIGEST "-x",
		"layer-x" DIGEST,
		"layer-" DIGEST "@x",
		"layer-name@" DIGEST "0",
		"layer-sha256:" HEX "0",
		"layer-md5:d41d8cd98f00b204e9800998ecf8427e",
		"layer-",
		"layer",
		" layer-" DIGEST,
	};
	for (size_t i = 0; i < CAIRN_LEN(others); i++) check(others[i], NULL, others[i], false);
}

static void parse__knows_what_names_further_content(void **state)
{
	(void)state;
	static const struct {
		const char *ref;
		bool manifest;
	} refs[] = {
		{"ns/1/index-" DIGEST, true},	{"ns/1/manifest-a/b/c:d@" DIGEST, true},
		{"ns/1/config-" DIGEST, false}, {"ns/1/layer-" DIGEST, false},
		{"ns/1/manifest-x", false},	{"ns/1/manifests-" DIGEST, false},
	};
	for (size_t i = 0; i < CAIRN_LEN(refs); i++) {
		struct cairn_ref r;
		cairn_ref_parse(refs[i].ref, &r);
		if (r.manifest != refs[i].manifest) fail_msg("%s: %d", refs[i].ref, r.manifest);
	}
}

static void parse_client__has_no_namespace(void **state)
{
	(void)state;
	struct cairn_ref r;
	cairn_ref_parse_client("manifest-reg.example/team/app:v1@" DIGEST, &r);
	assert_null(r.owner);
	assert_true(r.manifest);
	assert_int_equal(r.want.alg, CAIRN_SHA256);
	cairn_ref_parse_client("a/b/layer-" DIGEST, &r);
	assert_null(r.owner);
	assert_int_equal(r.want.alg, 0);
	cairn_ref_parse_client("", &r);
	assert_int_equal(r.want.alg, 0);
}

static void parse__ignores_a_namespace_too_long_to_be_one(void **state)
{
	(void)state;
	char ref[CAIRN_DIGEST_STR + 400];
	memset(ref, 'n', 300);
	strcpy(ref + 300, "/1/layer-" DIGEST);
	check(ref, NULL, "layer-" DIGEST, true);
}

static void utf8__is_told_from_what_is_not(void **state)
{
	(void)state;
	static const char *const good[] = {
		"",	"plain",       "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80",
		"\x7f", "\xed\x9f\xbf"};
	static const char *const bad[] = {"\x80",	  "\xc0\x80",	      "\xc3",
					  "\xe0\x80\x80", "\xed\xa0\x80",     "\xf4\x90\x80\x80",
					  "\xff",	  "\xf0\x9f\x98",     "a\xfe\x62",
					  "\xe2\x82",	  "\xf5\x80\x80\x80", "\xc1\xbf"};
	for (size_t i = 0; i < CAIRN_LEN(good); i++) assert_true(cairn_ref_is_utf8(good[i]));
	for (size_t i = 0; i < CAIRN_LEN(bad); i++) {
		char *copy = strdup(bad[i]); /* so that ASan sees a read beyond the end */
		assert_false(cairn_ref_is_utf8(copy));
		free(copy);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(parse__splits_at_the_first_two_slashes),
		cmocka_unit_test(parse__takes_what_has_no_such_shape_as_it_is),
		cmocka_unit_test(parse__wants_a_digest_only_of_a_pulls_ref),
		cmocka_unit_test(parse__knows_what_names_further_content),
		cmocka_unit_test(parse_client__has_no_namespace),
		cmocka_unit_test(parse__ignores_a_namespace_too_long_to_be_one),
		cmocka_unit_test(utf8__is_told_from_what_is_not),
	};
	return cmocka_run_group_tests_name("plugin/ref", tests, NULL, NULL);
}
