/* WWW-Authenticate: any bytes are challenges within their bounds, or none. */
#include <string.h>

#include "oci/auth.h"
#include "tests/fuzz/fuzz.h"

static void check_text(const char *text, size_t cap)
{
	FUZZ_CHECK(strnlen(text, cap) < cap);
	for (; *text != '\0'; text++) FUZZ_CHECK(*text >= ' ' && *text <= '~');
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct cairn_challenge c;
	cairn_challenge_parse((const char *)data, size, &c);
	check_text(c.realm, sizeof(c.realm));
	check_text(c.service, sizeof(c.service));
	check_text(c.scope, sizeof(c.scope));
	FUZZ_CHECK(c.scheme <= CAIRN_AUTH_BEARER);
	FUZZ_CHECK(c.scheme != CAIRN_AUTH_BEARER || c.realm[0] != '\0');
	FUZZ_CHECK(c.scheme != CAIRN_AUTH_NONE || c.realm[0] == '\0');
	return 0;
}
