#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "oci/oci.h"

#define HEX "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
#define HEX512                                                                                     \
	"ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a"                         \
	"2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f"
#define DIGEST "sha256:" HEX
#define X16 "xxxxxxxxxxxxxxxx"
#define X128 X16 X16 X16 X16 X16 X16 X16 X16
#define X255 X128 X16 X16 X16 X16 X16 X16 X16 "xxxxxxxxxxxxxxx"

struct good {
	const char *text, *registry, *repository, *tag, *digest;
};

/* Texts are copied to the heap, so that ASan sees a read beyond the end. */
static enum cairn_code parse(const char *text, struct cairn_reference *ref, struct cairn_err *err)
{
	char *copy = strdup(text);
	enum cairn_code code = cairn_reference_parse(copy, ref, err);
	free(copy);
	return code;
}

static void check_good(const struct good *g)
{
	struct cairn_reference ref, again;
	struct cairn_err err;
	char digest[CAIRN_DIGEST_STR], text[CAIRN_REFERENCE_MAX + 256],
		text_again[CAIRN_REFERENCE_MAX + 256];
	if (parse(g->text, &ref, &err) != CAIRN_OK) fail_msg("%s", err.msg);
	assert_string_equal(ref.registry, g->registry);
	assert_string_equal(ref.repository, g->repository);
	assert_string_equal(ref.tag, g->tag);
	assert_string_equal(cairn_digest_format(&ref.digest, digest), g->digest);

	snprintf(text, sizeof(text), "%s/%s%s%s%s%s", g->registry, g->repository,
		 g->tag[0] != '\0' ? ":" : "", g->tag, g->digest[0] != '\0' ? "@" : "", g->digest);
	assert_string_equal(cairn_reference_format(&ref, text_again), text);
	if (parse(text, &again, &err) != CAIRN_OK) fail_msg("%s: %s", g->text, err.msg);
	assert_string_equal(cairn_reference_format(&again, text_again), text);
}

static void check_all(const struct good *all, size_t n)
{
	for (size_t i = 0; i < n; i++) check_good(&all[i]);
}

static void parse__gives_familiar_names_dockers_defaults(void **state)
{
	(void)state;
	static const struct good all[] = {
		{"busybox", "docker.io", "library/busybox", "latest", ""},
		{"busybox:1.36", "docker.io", "library/busybox", "1.36", ""},
		{"d", "docker.io", "library/d", "latest", ""},
		{"fooo/bar", "docker.io", "fooo/bar", "latest", ""},
		{"jess/t", "docker.io", "jess/t", "latest", ""},
		{"library/ubuntu", "docker.io", "library/ubuntu", "latest", ""},
		{"other/library", "docker.io", "other/library", "latest", ""},
		{"library/foo/bar", "docker.io", "library/foo/bar", "latest", ""},
		{"docker.io/foo", "docker.io", "library/foo", "latest", ""},
		{"docker.io/foo:tag", "docker.io", "library/foo", "tag", ""},
		{"docker.io/library/foo", "docker.io", "library/foo", "latest", ""},
		{"docker.io/library/foo/bar", "docker.io", "library/foo/bar", "latest", ""},
		{"index.docker.io/foo", "docker.io", "library/foo", "latest", ""},
		{"index.docker.io/library/ubuntu-12.04-base", "docker.io",
		 "library/ubuntu-12.04-base", "latest", ""},
		{"index.docker.io/fooo/bar:1@" DIGEST, "docker.io", "fooo/bar", "1", DIGEST},
		/* Only the bare names mean Docker's registry. */
		{"docker.io:443/foo", "docker.io:443", "foo", "latest", ""},
		{"index.docker.io:443/foo", "index.docker.io:443", "foo", "latest", ""},
		{"registry-1.docker.io/foo", "registry-1.docker.io", "foo", "latest", ""},
		{"docker/migrator", "docker.io", "docker/migrator", "latest", ""},
		{"docker.io", "docker.io", "library/docker.io", "latest", ""},
	};
	check_all(all, CAIRN_LEN(all));
}

static void parse__knows_a_registry_from_a_component(void **state)
{
	(void)state;
	static const struct good all[] = {
		{"localhost/foo", "localhost", "foo", "latest", ""},
		{"localhost:5000/foo", "localhost:5000", "foo", "latest", ""},
		{"localhost", "docker.io", "library/localhost", "latest", ""},
		{"localhost:8080", "docker.io", "library/localhost", "8080", ""},
		{"localhost2/foo", "docker.io", "localhost2/foo", "latest", ""},
		{"localhos/foo", "docker.io", "localhos/foo", "latest", ""},
		{"test:5000/repo", "test:5000", "repo", "latest", ""},
		{"test.com:tag", "docker.io", "library/test.com", "tag", ""},
		{"test.com/repo:tag", "test.com", "repo", "tag", ""},
		{"test_com/foo", "docker.io", "test_com/foo", "latest", ""},
		{"do__cker/docker", "docker.io", "do__cker/docker", "latest", ""},
		{"aa-a/a", "docker.io", "aa-a/a", "latest", ""},
		{"test-com:8080/foo", "test-com:8080", "foo", "latest", ""},
		{"foo/foo_bar.com:8080", "docker.io", "foo/foo_bar.com", "8080", ""},
		{"xn--n3h.com:18080/foo", "xn--n3h.com:18080", "foo", "latest", ""},
		{"b.gcr.io/test.example.com/my-app:test.example.com", "b.gcr.io",
		 "test.example.com/my-app", "test.example.com", ""},
		{"sub-dom1.foo.com/bar/baz/quux:some-long-tag", "sub-dom1.foo.com", "bar/baz/quux",
		 "some-long-tag", ""},
		{"192.168.1.1:5000", "docker.io", "library/192.168.1.1", "5000", ""},
		{"192.168.1.1:5000/repo:5050", "192.168.1.1:5000", "repo", "5050", ""},
		{"192.168.1.1:750050/repo", "192.168.1.1:750050", "repo", "latest", ""},
		{"0101.com/foo", "0101.com", "foo", "latest", ""},
		{"a.b-c.d/foo", "a.b-c.d", "foo", "latest", ""},
		/* No component has an upper-case letter. */
		{"Foo/bar", "Foo", "bar", "latest", ""},
		{"FOO/bar", "FOO", "bar", "latest", ""},
		{"Asdf.com/foo/bar", "Asdf.com", "foo/bar", "latest", ""},
		{"LOCALHOST/bar", "LOCALHOST", "bar", "latest", ""},
	};
	check_all(all, CAIRN_LEN(all));
}

static void parse__takes_ipv6_registries(void **state)
{
	(void)state;
	static const struct good all[] = {
		{"[2001:db8::1]/repo", "[2001:db8::1]", "repo", "latest", ""},
		{"[2001:db8:1:2:3:4:5:6]/repo:tag", "[2001:db8:1:2:3:4:5:6]", "repo", "tag", ""},
		{"[2001:DB8::1]:5000/repo:tag@" DIGEST, "[2001:DB8::1]:5000", "repo", "tag",
		 DIGEST},
		{"[2001:db8::]:5000/repo", "[2001:db8::]:5000", "repo", "latest", ""},
		{"[::1]:5000/a/b/c", "[::1]:5000", "a/b/c", "latest", ""},
		/* The grammar is no more than this. */
		{"[fd00123123123:]:75050/repo", "[fd00123123123:]:75050", "repo", "latest", ""},
	};
	check_all(all, CAIRN_LEN(all));
}

static void parse__takes_every_separator_tag_and_digest(void **state)
{
	(void)state;
	static const struct good all[] = {
		{"a.b/c.d", "a.b", "c.d", "latest", ""},
		{"docker---rules/docker", "docker.io", "docker---rules/docker", "latest", ""},
		{"dock__er/docker", "docker.io", "dock__er/docker", "latest", ""},
		{"registry.io/foo/project--id.module--name.ver---sion--name", "registry.io",
		 "foo/project--id.module--name.ver---sion--name", "latest", ""},
		{"example.com/some_separator__underscore/myimage", "example.com",
		 "some_separator__underscore/myimage", "latest", ""},
		{"lowercase:Uppercase", "docker.io", "library/lowercase", "Uppercase", ""},
		{"a:_", "docker.io", "library/a", "_", ""},
		{"a:_.-", "docker.io", "library/a", "_.-", ""},
		{"a:0", "docker.io", "library/a", "0", ""},
		{"a:v1.2.3-rc.4_x", "docker.io", "library/a", "v1.2.3-rc.4_x", ""},
		{"redis@" DIGEST, "docker.io", "library/redis", "", DIGEST},
		{"redis:7@" DIGEST, "docker.io", "library/redis", "7", DIGEST},
		{"xn--7o8h.com/myimage:xn--7o8h.com@sha512:" HEX512, "xn--7o8h.com", "myimage",
		 "xn--7o8h.com", "sha512:" HEX512},
		{"localhost:8080@" DIGEST, "docker.io", "library/localhost", "8080", DIGEST},
		{"localhost@" DIGEST, "docker.io", "library/localhost", "", DIGEST},
		/* Sixty-four hex digits with anything else are a name. */
		{"docker.io/" HEX, "docker.io", "library/" HEX, "latest", ""},
		{HEX ":tag", "docker.io", "library/" HEX, "tag", ""},
		{"a" HEX, "docker.io", "library/a" HEX, "latest", ""},
		{"dbcc1", "docker.io", "library/dbcc1", "latest", ""},
		{"thisisthesongthatneverendsitgoesonandonandonthisisthesongthatnev", "docker.io",
		 "library/thisisthesongthatneverendsitgoesonandonandonthisisthesongthatnev",
		 "latest", ""},
	};
	check_all(all, CAIRN_LEN(all));
}

static void parse__takes_parts_as_long_as_they_may_be(void **state)
{
	(void)state;
	static const struct good all[] = {
		{"a:" X128, "docker.io", "library/a", X128, ""},
		{"example.com/" X255 ":tag", "example.com", X255, "tag", ""},
		{"Y" X128 "/" X255 ":" X128 "@sha512:" HEX512, "Y" X128, X255, X128,
		 "sha512:" HEX512},
	};
	check_all(all, CAIRN_LEN(all));
}

/* Before a @ that no digest follows there may be a password. */
static void parse__shows_no_password(void **state)
{
	(void)state;
	static const char *const all[] = {
		"ci:hunter2@registry.example/app",
		"hunter2@registry.example/app",
		"ci:hunter2@registry.example/app@" DIGEST "x",
		"https://ci:hunter2@registry.example/app",
		"ci:hunter2@",
		"ci:hun@hunter2@registry.example/App",
	};
	for (size_t i = 0; i < CAIRN_LEN(all); i++) {
		struct cairn_reference ref;
		struct cairn_err err = {0};
		assert_int_equal(parse(all[i], &ref, &err), CAIRN_INVALID_ARGUMENT);
		assert_null(strstr(err.msg, "hunter2"));
		assert_non_null(strstr(err.msg, "byte "));
	}
}

struct bad {
	const char *text;
	size_t at; /* the byte that the error must name, from 1; 0: the error names none */
	const char *want;
};

static void check_bad(const struct bad *b)
{
	struct cairn_reference ref = {.tag = "untouched"};
	struct cairn_err err = {0};
	char at[32];
	if (parse(b->text, &ref, &err) != CAIRN_INVALID_ARGUMENT) fail_msg("taken: %s", b->text);
	assert_string_equal(ref.tag, "untouched");
	assert_int_equal(err.code, CAIRN_INVALID_ARGUMENT);
	snprintf(at, sizeof(at), "byte %zu is ", b->at);
	if (b->at > 0 && strstr(err.msg, at) == NULL) fail_msg("want %s, got %s", at, err.msg);
	if (strstr(err.msg, b->want) == NULL) fail_msg("want %s, got %s", b->want, err.msg);
	for (const char *c = err.msg; *c != '\0'; c++) assert_in_range(*c, ' ', '~');
}

static void check_all_bad(const struct bad *all, size_t n)
{
	for (size_t i = 0; i < n; i++) check_bad(&all[i]);
}

static void parse__refuses_what_is_no_repository(void **state)
{
	(void)state;
	static const struct bad all[] = {
		{"", 1, "the end, want a lower-case letter"},
		{":justtag", 1, "':', want a lower-case letter"},
		{"@" DIGEST, 1, "'@', want a lower-case letter"},
		{"/", 1, "'/', want a lower-case letter"},
		{"/foo", 1, "'/'"},
		{"a/", 3, "the end"},
		{"docker/", 8, "the end"},
		{"foo.com/", 9, "the end"},
		{"a/a/a/a/", 9, "the end"},
		{"a//a/a", 3, "'/'"},
		{"docker///docker", 8, "'/'"},
		{"docker.io/docker///docker", 18, "'/'"},
		{"Uppercase:tag", 1, "'U', want a lower-case letter"},
		{"docker/Docker", 8, "'D'"},
		{"docker/dockeR", 13, "'R', want a repository (lower-case letters"},
		{"docker.io/docker/Docker", 18, "'D'"},
		{"test:5000/Uppercase/lowercase:tag", 11, "'U'"},
		{"Foo/FarB", 5, "'F'"},
		{"-docker", 1, "'-'"},
		{"-docker/docker", 1, "'-'"},
		{"docker-/docker", 8, "'/', want a lower-case letter"},
		{"foo/bar-", 9, "the end"},
		{"foo/-bar", 5, "'-'"},
		{"____/____", 1, "'_'"},
		{"_docker/_docker", 1, "'_'"},
		{"docker_/docker_", 8, "'/'"},
		{"a___b", 4, "'_'"},
		{"a-_b", 3, "'_'"},
		{"a_-b", 3, "'-'"},
		{"a_.b", 3, "'.'"},
		{"a..b", 3, "'.'"},
		{"example.com/..dots/myimage", 13, "'.'"},
		{"example.com/nodouble..dots/myimage", 22, "'.'"},
		{"example.com/__underscore/myimage", 13, "'_'"},
		{"foo.com/a-/a/a", 11, "'/'"},
		{"aa/asdf$$^/aa", 8, "'$', want a repository"},
		{"a^a", 2, "'^'"},
		{"a b", 2, "' '"},
		{" a", 1, "' '"},
		{"a\n", 2, "0x0a"},
		{"a\tb", 2, "0x09"},
		{"caf\xc3\xa9", 4, "0xc3"},
		{"\xff", 1, "0xff"},
		{"[::1]", 1, "'['"},
		{"[2001:db8::1]:5000", 1, "'['"},
		{"[2001:db8::1]:tag", 1, "'['"},
		{"x/" X255 "x:tag", 256, "the end of a repository of at most 255 bytes"},
		{"example.com/" X255 "x", 268, "the end of a repository of at most 255 bytes"},
		{X255, 248, "the end of a repository"}, /* library/ counts */
	};
	check_all_bad(all, CAIRN_LEN(all));
}

static void parse__refuses_what_is_no_registry(void **state)
{
	(void)state;
	static const struct bad all[] = {
		{"https://github.com/docker/docker", 7, "a registry without a scheme"},
		{"oci://foo/bar", 5, "a registry without a scheme"},
		{"foo.com:http/bar", 9, "'h', want the digits of a registry's port"},
		{"localhost:http/name@" DIGEST, 11, "the digits of a registry's port"},
		{"localhost:/foo", 11, "'/', want the digits"},
		{"localhost:80x/foo", 13, "'x', want a registry (host or host:port)"},
		{"localhost:80:80/foo", 13, "':'"},
		{"-docker.io/docker/docker", 1, "'-', want a letter or a digit of a registry"},
		{"docker./docker", 8, "'/', want a letter or a digit of a registry"},
		{".docker/docker", 1, "'.'"},
		{"ab-.com/a", 4, "'.'"},
		{"ab.-com/a", 4, "'-'"},
		{"ab.com-/a", 8, "'/'"},
		{"do..cker/docker", 4, "'.'"},
		{"do__cker:8080/docker", 3, "'_', want a registry (host or host:port)"},
		{"bad_hostname.com:8080/myapp:tag", 4, "'_'"},
		{"a_b.io/c", 2, "'_'"},
		{"dock_.er/docker", 5, "'_'"},
		{"..", 1, "'.'"},
		{"../../etc/passwd", 1, "'.'"},
		{"a.b c/d", 4, "' '"},
		{"fc00::1:5000/debian", 6, "':', want the digits"},
		{"[fe80::1%eth0]:5000/repo", 9, "'%', want an IPv6 address"},
		{"[fe80::1%@invalidzone]:5000/repo", 9, "want an IPv6 address"},
		{"[2001:db8:3:4::192.0.2.33]:5000/debian", 19, "'.'"},
		{"[fd00:1:2::3]75050/a", 14, "'7', want a port (: and digits) or a slash"},
		{"[fd00:1:2::3]::75050/a", 15, "':', want the digits"},
		{"[]:1/a", 2, "']', want an IPv6 address"},
		{"[::1/a", 5, "'/', want an IPv6 address (hex digits and colons) and ]"},
		{"[::1]/", 7, "the end"},
		{X255 "." X255 "/a", 256, "the end of a registry of at most 255 bytes"},
		{X255 ":1/a", 256, "the end of a registry of at most 255 bytes"},
	};
	check_all_bad(all, CAIRN_LEN(all));
}

static void parse__refuses_what_is_no_tag_or_digest(void **state)
{
	(void)state;
	static const struct bad all[] = {
		{"a:", 3, "the end, want a letter, a digit or _ of a tag"},
		{"a:@" DIGEST, 3, "'@'"},
		{"a:-foo", 3, "'-'"},
		{"a:.foo", 3, "'.'"},
		{"a:b:c", 4, "':', want a tag (letters, digits and _ . -) or @"},
		{"a:b/c:d/e", 3, "'b', want the digits"},
		{"registry.com:8080/myapp:invalid~tag", 32, "'~'"},
		{"a:caf\xc3\xa9", 6, "0xc3"},
		{"a:" X128 "x", 131, "the end of a tag of at most 128 bytes"},
		{"a@", 3, "the end, want a digest"},
		{"repo@sha256:ffffffffffffffffffffffffffffffffff", 47, "the end, want a digest"},
		{"registry.com:8080/myapp@bad", 25, "another, want a digest"},
		{"validname@invaliddigest:" HEX, 11, "another, want a digest: sha256:"},
		{"a@sha256", 3, "another, want a digest"},
		{"a@sha256:", 10, "the end"},
		{"a@SHA256:" HEX, 3, "another, want a digest"},
		{"a@md5:d41d8cd98f00b204e9800998ecf8427e", 3, "another, want a digest"},
		{"a@sha384:" HEX HEX, 3, "another, want a digest"},
		{"a@" DIGEST "0", 74, "'0'"},
		{"a@" DIGEST "@" DIGEST, 74, "'@'"},
		{"a@" DIGEST ":tag", 74, "':'"},
		{"a@" DIGEST "\n", 74, "0x0a"},
		{"a@sha256:BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD", 10,
		 "'B'"},
		{"a@sha512:" HEX, 74, "the end"},
		{"a@sha512:" HEX512 "0", 138, "'0'"},
	};
	check_all_bad(all, CAIRN_LEN(all));
}

static void parse__refuses_ids_and_what_is_too_long(void **state)
{
	(void)state;
	char *text = malloc(CAIRN_REFERENCE_MAX + 2);
	memset(text, 'a', CAIRN_REFERENCE_MAX + 1);
	text[CAIRN_REFERENCE_MAX + 1] = '\0';
	const struct bad all[] = {
		{HEX, 0, "an id or a digest alone"},
		{DIGEST, 0, "an id or a digest alone"},
		{"sha512:" HEX512, 0, "an id or a digest alone"},
		{text, 0, "at most 1024 bytes"},
		{text + 1, 248, "the end of a repository"},
	};
	check_all_bad(all, CAIRN_LEN(all));
	free(text);
}

static void format__writes_only_what_there_is(void **state)
{
	(void)state;
	struct cairn_reference ref = {.registry = "r", .repository = "p"};
	char buf[CAIRN_REFERENCE_MAX + 256];
	assert_string_equal(cairn_reference_format(&ref, buf), "r/p");
	assert_ptr_equal(cairn_reference_format(&ref, buf), buf);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(parse__gives_familiar_names_dockers_defaults),
		cmocka_unit_test(parse__knows_a_registry_from_a_component),
		cmocka_unit_test(parse__takes_ipv6_registries),
		cmocka_unit_test(parse__takes_every_separator_tag_and_digest),
		cmocka_unit_test(parse__takes_parts_as_long_as_they_may_be),
		cmocka_unit_test(parse__shows_no_password),
		cmocka_unit_test(parse__refuses_what_is_no_repository),
		cmocka_unit_test(parse__refuses_what_is_no_registry),
		cmocka_unit_test(parse__refuses_what_is_no_tag_or_digest),
		cmocka_unit_test(parse__refuses_ids_and_what_is_too_long),
		cmocka_unit_test(format__writes_only_what_there_is),
	};
	return cmocka_run_group_tests_name("oci/reference", tests, NULL, NULL);
}
