/* Image names: any text is a reference or an error that says where; what was taken keeps to the
 * bounds of its fields, and is the same after it was written and read again. */
#include <string.h>

#include "oci/oci.h"
#include "tests/fuzz/fuzz.h"

static void check_parts(const struct cairn_reference *ref)
{
	FUZZ_CHECK(ref->registry[0] != '\0' && strlen(ref->registry) < sizeof(ref->registry));
	FUZZ_CHECK(ref->repository[0] != '\0' && strlen(ref->repository) < sizeof(ref->repository));
	FUZZ_CHECK(strlen(ref->tag) < sizeof(ref->tag));
	FUZZ_CHECK(ref->tag[0] != '\0' || ref->digest.alg != 0);
	/* They become parts of URLs and file names. */
	FUZZ_CHECK(strpbrk(ref->registry, "/@ %?#") == NULL);
	FUZZ_CHECK(strpbrk(ref->repository, ":@ %?#") == NULL);
	FUZZ_CHECK(strstr(ref->repository, "..") == NULL);
	FUZZ_CHECK(strstr(ref->repository, "//") == NULL && ref->repository[0] != '/');
	FUZZ_CHECK(strpbrk(ref->tag, ":/@ %?#") == NULL && ref->tag[0] != '.');
	if (strcmp(ref->registry, "docker.io") == 0) {
		FUZZ_CHECK(strchr(ref->repository, '/') != NULL);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 1);
	if (text == NULL) abort();
	if (size > 0) memcpy(text, data, size);
	text[size] = '\0';

	struct cairn_reference ref, again;
	struct cairn_err err = {0};
	if (cairn_reference_parse(text, &ref, &err) == CAIRN_OK) {
		char first[CAIRN_REFERENCE_MAX + 256], second[CAIRN_REFERENCE_MAX + 256];
		check_parts(&ref);
		cairn_reference_format(&ref, first);
		FUZZ_CHECK(cairn_reference_parse(first, &again, &err) == CAIRN_OK);
		FUZZ_CHECK(strcmp(ref.registry, again.registry) == 0);
		FUZZ_CHECK(strcmp(ref.repository, again.repository) == 0);
		FUZZ_CHECK(strcmp(ref.tag, again.tag) == 0);
		FUZZ_CHECK(cairn_digest_equal(&ref.digest, &again.digest));
		FUZZ_CHECK(strcmp(cairn_reference_format(&again, second), first) == 0);
	} else {
		FUZZ_CHECK(err.code == CAIRN_INVALID_ARGUMENT);
		FUZZ_CHECK(strstr(err.msg, "want") != NULL || strstr(err.msg, "at most") != NULL);
		for (const char *c = err.msg; *c != '\0'; c++) FUZZ_CHECK(*c >= ' ' && *c <= '~');
	}
	free(text);
	return 0;
}
