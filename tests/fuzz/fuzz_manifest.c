/* Manifests: any bytes have children within the bounds, or an error on one line. */
#include <string.h>

#include "oci/oci.h"
#include "tests/fuzz/fuzz.h"

static void check_children(const struct cairn_manifest *m)
{
	FUZZ_CHECK(m->n <= CAIRN_MANIFEST_CHILDREN_MAX);
	FUZZ_CHECK(m->media != CAIRN_MEDIA_OTHER || (m->n == 0 && m->subject.alg == 0));
	for (size_t i = 0; i < m->n; i++) {
		const struct cairn_descriptor *d = &m->children[i];
		FUZZ_CHECK(cairn_alg_bytes(d->digest.alg) > 0);
		FUZZ_CHECK(d->size <= UINT64_C(1) << 43);
		FUZZ_CHECK(strlen(d->media_type) < sizeof(d->media_type));
		FUZZ_CHECK(d->media == cairn_media_of(d->media_type));
		FUZZ_CHECK(strlen(d->os) < sizeof(d->os));
		FUZZ_CHECK(strlen(d->arch) < sizeof(d->arch));
		FUZZ_CHECK(strlen(d->variant) < sizeof(d->variant));
		FUZZ_CHECK(strlen(d->os_version) < sizeof(d->os_version));
		FUZZ_CHECK(m->media == CAIRN_MEDIA_INDEX || d->os[0] == '\0');
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct cairn_manifest m;
	struct cairn_err err = {0};
	if (cairn_manifest_parse(data, size, &m, &err) == CAIRN_OK) {
		check_children(&m);
		cairn_manifest_fini(&m);
		FUZZ_CHECK(m.children == NULL && m.n == 0);
	} else {
		FUZZ_CHECK(err.code == CAIRN_INVALID_ARGUMENT && err.msg[0] != '\0');
		for (const char *c = err.msg; *c != '\0'; c++) FUZZ_CHECK(*c >= ' ' && *c <= '~');
	}
	return 0;
}
