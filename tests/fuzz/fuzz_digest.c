/* Digest text: what parses formats back to the same bytes, what does not says why. */
#include <string.h>

#include "base/digest.h"
#include "tests/fuzz/fuzz.h"

/* Hashing in two halves, saved and resumed between them, is hashing at once. */
static void check_resume(const uint8_t *data, size_t size, enum cairn_alg alg)
{
	struct cairn_hasher whole, half;
	struct cairn_digest want, got;
	uint8_t state[CAIRN_CHAIN_STATE];
	size_t cut = size / 2 / 128 * 128;

	cairn_hasher_init(&whole, alg);
	cairn_hasher_update(&whole, data, size);
	cairn_hasher_digest(&whole, &want);

	cairn_hasher_init(&half, alg);
	cairn_hasher_update(&half, data, cut);
	FUZZ_CHECK(cairn_hasher_state(&half, state) == cairn_alg_bytes((uint8_t)alg));
	cairn_hasher_resume(&half, alg, cut, state);
	cairn_hasher_update(&half, data + cut, size - cut);
	cairn_hasher_digest(&half, &got);
	FUZZ_CHECK(cairn_digest_equal(&want, &got));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct cairn_digest d, again;
	struct cairn_err err = {0};
	char text[CAIRN_DIGEST_STR];

	if (cairn_digest_parse((const char *)data, size, &d, &err) == CAIRN_OK) {
		cairn_digest_format(&d, text);
		FUZZ_CHECK(strlen(text) == size && memcmp(text, data, size) == 0);
		FUZZ_CHECK(cairn_digest_parse(text, strlen(text), &again, &err) == CAIRN_OK);
		FUZZ_CHECK(memcmp(&d, &again, sizeof(d)) == 0);
		FUZZ_CHECK(strlen(cairn_digest_hex(&d, text)) == 2 * cairn_alg_bytes(d.alg));
	} else {
		FUZZ_CHECK(err.code == CAIRN_INVALID_ARGUMENT);
		FUZZ_CHECK(memchr(err.msg, '\0', sizeof(err.msg)) != NULL && err.msg[0] != '\0');
	}
	check_resume(data, size, CAIRN_SHA256);
	check_resume(data, size, CAIRN_SHA512);
	return 0;
}
