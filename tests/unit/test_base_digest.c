#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "base/digest.h"

/* FIPS 180-2, appendix B.1 and C.1: the digests of "abc". */
static const char abc256[] =
	"sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
static const char abc512[] =
	"sha512:ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a"
	"2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f";

static void hash__matches_the_standard(void **state)
{
	(void)state;
	const char *want[] = {[CAIRN_SHA256] = abc256, [CAIRN_SHA512] = abc512};
	for (enum cairn_alg alg = CAIRN_SHA256; alg <= CAIRN_SHA512; alg++) {
		struct cairn_hasher h;
		struct cairn_digest d;
		char text[CAIRN_DIGEST_STR];
		cairn_hasher_init(&h, alg);
		cairn_hasher_update(&h, "abc", 3);
		cairn_hasher_digest(&h, &d);
		assert_string_equal(cairn_digest_format(&d, text), want[alg]);
	}
}

static void parse__gives_back_what_format_wrote(void **state)
{
	(void)state;
	const char *texts[] = {abc256, abc512};
	for (size_t i = 0; i < CAIRN_LEN(texts); i++) {
		struct cairn_err err;
		struct cairn_digest d;
		char text[CAIRN_DIGEST_STR];
		assert_int_equal(cairn_digest_parse(texts[i], strlen(texts[i]), &d, &err),
				 CAIRN_OK);
		assert_string_equal(cairn_digest_format(&d, text), texts[i]);
	}
}

static void parse__refuses_what_is_no_digest(void **state)
{
	(void)state;
	static const char *const bad[] = {
		"",
		":",
		"sha256",
		"sha256:",
		"sha256:00",
		"md5:d41d8cd98f00b204e9800998ecf8427e",
		"sha256:BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD",
		"sha256:../../../../etc/passwd0000000000000000000000000000000000000000000",
		"sha512:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
		"sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad0",
	};
	for (size_t i = 0; i < CAIRN_LEN(bad); i++) {
		struct cairn_err err;
		struct cairn_digest d = {.alg = 77};
		assert_int_equal(cairn_digest_parse(bad[i], strlen(bad[i]), &d, &err),
				 CAIRN_INVALID_ARGUMENT);
		assert_int_equal(d.alg, 77); /* outputs are touched only on success */
		assert_non_null(strstr(err.msg, "invalid digest"));
	}
}

static void resume__continues_as_if_never_stopped(void **state)
{
	(void)state;
	uint8_t data[4096];
	for (size_t i = 0; i < sizeof(data); i++) data[i] = (uint8_t)(i * 31);
	for (enum cairn_alg alg = CAIRN_SHA256; alg <= CAIRN_SHA512; alg++) {
		struct cairn_hasher whole, first, second;
		struct cairn_digest want, got;
		uint8_t chain[CAIRN_CHAIN_STATE];
		cairn_hasher_init(&whole, alg);
		cairn_hasher_update(&whole, data, sizeof(data));
		cairn_hasher_digest(&whole, &want);
		cairn_hasher_init(&first, alg);
		cairn_hasher_update(&first, data, 1024);
		assert_int_equal(cairn_hasher_state(&first, chain), cairn_alg_bytes((uint8_t)alg));
		cairn_hasher_resume(&second, alg, 1024, chain);
		cairn_hasher_update(&second, data + 1024, sizeof(data) - 1024);
		cairn_hasher_digest(&second, &got);
		assert_true(cairn_digest_equal(&want, &got));
	}
}

static void compare__orders_by_algorithm_then_bytes(void **state)
{
	(void)state;
	struct cairn_digest a = {.alg = CAIRN_SHA256}, b = {.alg = CAIRN_SHA512},
			    c = {.alg = CAIRN_SHA256};
	c.bytes[31] = 1;
	assert_true(cairn_digest_compare(&a, &b) < 0);
	assert_true(cairn_digest_compare(&a, &c) < 0);
	assert_true(cairn_digest_compare(&c, &a) > 0);
	assert_int_equal(cairn_digest_compare(&a, &a), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(hash__matches_the_standard),
		cmocka_unit_test(parse__gives_back_what_format_wrote),
		cmocka_unit_test(parse__refuses_what_is_no_digest),
		cmocka_unit_test(resume__continues_as_if_never_stopped),
		cmocka_unit_test(compare__orders_by_algorithm_then_bytes),
	};
	return cmocka_run_group_tests_name("base/digest", tests, NULL, NULL);
}
