/* List filters, one a line, up to one more than are allowed. What parses can be matched; whatever
 * the filter, one more filter can only make more match. */
#include <string.h>

#include "plugin/filter.h"
#include "tests/fuzz/fuzz.h"

static const char *field(const void *obj, const char *name, const char *rest)
{
	(void)obj;
	if (strcmp(name, "digest") == 0) return "sha256:0123456789abcdef";
	if (strcmp(name, "ref") == 0) return "default/1/layer-sha256:0123";
	if (strcmp(name, "labels") == 0 && strcmp(rest, "a.b") == 0) return "some value";
	if (strcmp(name, "labels") == 0 && strcmp(rest, "empty") == 0) return "";
	return NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 1), *texts[CAIRN_FILTERS_MAX + 1];
	if (text == NULL) abort();
	if (size > 0) memcpy(text, data, size);
	text[size] = '\0';
	size_t n = 0;
	char *at = text;
	while (at != NULL && n < CAIRN_FILTERS_MAX + 1) {
		char *end = strchr(at, '\n');
		if (end != NULL) *end++ = '\0';
		texts[n++] = at;
		at = end;
	}

	struct cairn_filter *all = NULL;
	struct cairn_err err = {0};
	if (cairn_filter_parse(texts, n, &all, &err) == CAIRN_OK) {
		FUZZ_CHECK(n <= CAIRN_FILTERS_MAX);
		bool matches = cairn_filter_match(all, field, NULL), any = false;
		for (size_t i = 0; i < n; i++) {
			struct cairn_filter *one = NULL;
			FUZZ_CHECK(cairn_filter_parse(&texts[i], 1, &one, &err) == CAIRN_OK);
			any = any || cairn_filter_match(one, field, NULL);
			cairn_filter_free(one);
		}
		FUZZ_CHECK(matches == any);
		cairn_filter_free(all);
	} else {
		FUZZ_CHECK(err.code == CAIRN_INVALID_ARGUMENT && err.msg[0] != '\0');
	}
	free(text);
	return 0;
}
