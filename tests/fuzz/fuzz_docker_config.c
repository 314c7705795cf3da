/* docker's config.json: any bytes are credentials, none, or an error that quotes nothing. */
#include <string.h>

#include "oci/auth.h"
#include "tests/fuzz/fuzz.h"

static void look_up(const uint8_t *data, size_t size, const char *registry)
{
	struct cairn_credentials c = {0};
	struct cairn_err err = {0};
	bool helper = false;
	enum cairn_code code = cairn_docker_config_find((const char *)data, size, registry,
							"library/app", &c, &helper, &err);
	if (code == CAIRN_OK) {
		FUZZ_CHECK(!helper || (c.username == NULL && c.identity_token == NULL));
		cairn_credentials_fini(&c);
	} else {
		FUZZ_CHECK(code == CAIRN_INVALID_ARGUMENT && err.msg[0] != '\0');
		FUZZ_CHECK(c.username == NULL && c.password == NULL && c.identity_token == NULL);
		for (const char *p = err.msg; *p != '\0'; p++) FUZZ_CHECK(*p >= ' ' && *p <= '~');
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	look_up(data, size, "docker.io");
	look_up(data, size, "r.io:5000");
	return 0;
}
