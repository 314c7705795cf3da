/* A WriteContentRequest parsed in place must say what protobuf-c says of the same bytes, in
 * whatever pieces the message arrives (cut by the input's first byte). The second byte's lowest bit
 * says whether the ref still matters. */
#include <string.h>

#include "content.pb-c.h"
#include "plugin/content_request.h"
#include "tests/fuzz/fuzz.h"

#define SPANS_MAX 64

typedef Containerd__Services__Content__V1__WriteContentRequest pb_request;

static size_t split(const uint8_t *data, size_t size, size_t step, struct cairn_span *ret)
{
	size_t n = 0;
	while (size > 0 && n + 1 < SPANS_MAX) {
		size_t len = size < step ? size : step;
		ret[n++] = (struct cairn_span){data, len};
		data += len;
		size -= len;
	}
	if (size > 0) ret[n++] = (struct cairn_span){data, size};
	return n;
}

static void check_data(const struct cairn_write_request *req, const pb_request *pb)
{
	size_t at = 0;
	FUZZ_CHECK(req->data_len == pb->data.len);
	for (size_t i = 0; i < req->n_spans; i++) {
		FUZZ_CHECK(req->spans[i].len <= pb->data.len - at);
		if (req->spans[i].len == 0) continue;
		FUZZ_CHECK(memcmp(req->spans[i].data, pb->data.data + at, req->spans[i].len) == 0);
		at += req->spans[i].len;
	}
	FUZZ_CHECK(at == pb->data.len);
}

static void check_same(const struct cairn_write_request *req, const char *ref, const pb_request *pb)
{
	char digest[CAIRN_DIGEST_STR];
	FUZZ_CHECK((int)req->action == (int)pb->action);
	FUZZ_CHECK(req->total == (pb->total > 0 ? (uint64_t)pb->total : 0));
	FUZZ_CHECK((int64_t)req->offset == pb->offset);
	if (ref != NULL) FUZZ_CHECK(strcmp(ref, pb->ref) == 0);
	cairn_digest_format(&req->expected, digest);
	FUZZ_CHECK(strcmp(digest, pb->expected) == 0);
	check_data(req, pb);
	if (req->action == CAIRN_WRITE_COMMIT) FUZZ_CHECK(req->n_labels <= pb->n_labels);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 2) return 0;
	size_t step = data[0] == 0 ? 1 : data[0];
	char room[CAIRN_REF_MAX + 1] = "", *ref = (data[1] & 1) == 0 ? room : NULL;
	data += 2;
	size -= 2;
	struct cairn_span spans[SPANS_MAX];
	size_t n = split(data, size, step, spans);

	struct cairn_write_request req = {0};
	struct cairn_err err = {0};
	enum cairn_code rc =
		cairn_write_request_parse_spans(&req, spans, n, ref, sizeof(room), &err);
	if (rc == CAIRN_OK) {
		pb_request *pb = containerd__services__content__v1__write_content_request__unpack(
			NULL, size, data);
		FUZZ_CHECK(req.total <= (uint64_t)CAIRN_BLOB_SIZE_MAX);
		FUZZ_CHECK(req.offset <= (uint64_t)CAIRN_BLOB_SIZE_MAX);
		if (pb != NULL) {
			check_same(&req, ref, pb);
			containerd__services__content__v1__write_content_request__free_unpacked(
				pb, NULL);
		}
	} else {
		FUZZ_CHECK(rc == CAIRN_INVALID_ARGUMENT && err.msg[0] != '\0');
	}
	/* A request is parsed again and again into the same place. */
	rc = cairn_write_request_parse_spans(&req, spans, n / 2, ref, sizeof(room), &err);
	FUZZ_CHECK(rc == CAIRN_OK || rc == CAIRN_INVALID_ARGUMENT);
	cairn_write_request_fini(&req);
	return 0;
}
