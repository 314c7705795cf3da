/* The configuration: any text is a configuration or an error that names the file. */
#include <string.h>

#include "config/config.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct cairn_config config;
	struct cairn_err err = {0};
	if (cairn_config_parse("fuzz.yaml", (const char *)data, size, &config, &err) == CAIRN_OK) {
		FUZZ_CHECK(config.version == 1);
		FUZZ_CHECK(config.state_dir != NULL && config.listen != NULL);
		FUZZ_CHECK(config.drain >= 0 && config.gc.interval >= 0);
		cairn_config_fini(&config);
	} else {
		FUZZ_CHECK(err.code == CAIRN_INVALID_ARGUMENT);
		FUZZ_CHECK(strstr(err.msg, "fuzz.yaml") != NULL);
	}
	return 0;
}
