/* Regular expressions: the first line is the pattern, the rest the text. A pattern of plain
 * characters matches exactly where it is a part of the text. */
#include <string.h>

#include "plugin/regex.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *pattern = malloc(size + 1);
	if (pattern == NULL) abort();
	if (size > 0) memcpy(pattern, data, size);
	pattern[size] = '\0';
	char *text = strchr(pattern, '\n');
	if (text != NULL) {
		*text++ = '\0';
	} else {
		text = pattern + strlen(pattern);
	}

	struct cairn_regex *re = NULL;
	struct cairn_err err = {0};
	if (cairn_regex_compile(pattern, &re, &err) == CAIRN_OK) {
		bool matches = cairn_regex_match(re, text);
		if (strpbrk(pattern, "\\^$.[]|()?*+{}") == NULL) {
			FUZZ_CHECK(matches == (strstr(text, pattern) != NULL));
		}
		cairn_regex_free(re);
	} else {
		FUZZ_CHECK(err.code == CAIRN_INVALID_ARGUMENT && err.msg[0] != '\0');
	}
	free(pattern);
	return 0;
}
