/* Refs: whatever the text, the parts lie inside it, and a wanted digest is one that the client ref
 * ends with. */
#include <string.h>

#include "plugin/ref.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 1);
	if (text == NULL) abort();
	if (size > 0) memcpy(text, data, size);
	text[size] = '\0';
	size_t len = strlen(text);

	struct cairn_ref ref = {0};
	cairn_ref_parse(text, &ref);
	FUZZ_CHECK(ref.client >= text && ref.client <= text + len);
	if (ref.owner != NULL) {
		FUZZ_CHECK(ref.owner == text && ref.owner_len > 0);
		FUZZ_CHECK(text[ref.owner_len] == '/' && ref.client > text + ref.owner_len + 1);
		FUZZ_CHECK(memchr(ref.owner, '/', ref.owner_len) == NULL);
	}
	if (ref.want.alg != 0) {
		char digest[CAIRN_DIGEST_STR];
		cairn_digest_format(&ref.want, digest);
		size_t n = strlen(digest), m = strlen(ref.client);
		FUZZ_CHECK(m > n && strcmp(ref.client + m - n, digest) == 0);
	}
	bool valid = cairn_ref_is_utf8(text);
	for (size_t i = 0; !valid; i++) { /* only bytes above ASCII can be at fault */
		FUZZ_CHECK(i < len);
		if ((unsigned char)text[i] >= 0x80) break;
	}
	free(text);
	return 0;
}
