/* Read: file memory to the socket, uncopied.
 *
 * containerd unpacks a layer with one Read of 32 KiB after another, each a call of its own, so the
 * common case must do little: one lookup, one view, one batch with the bytes and the status. */
#include <inttypes.h>

#include "plugin/content.h"
#include "rpc/wire.h"

#define TAG_OFFSET ((1 << 3) | CAIRN_WIRE_VARINT)
#define TAG_DATA ((2 << 3) | CAIRN_WIRE_BYTES)
#define HEAD_MAX (2 * (1 + 10))

/* All of a ReadContentResponse but the bytes themselves. */
static size_t put_head(uint8_t head[static HEAD_MAX], uint64_t offset, uint64_t len)
{
	size_t n = 0;
	if (offset != 0) {
		head[n++] = TAG_OFFSET;
		n += cairn_wire_put_varint(head + n, offset);
	}
	head[n++] = TAG_DATA;
	n += cairn_wire_put_varint(head + n, len);
	return n;
}

/* The bytes [*ret_begin, *ret_end) that are asked for, as containerd's own server understands it.
 */
static enum cairn_code clip(int64_t offset, int64_t size, uint64_t blob_size, uint64_t *ret_begin,
			    uint64_t *ret_end, struct cairn_err *err)
{
	uint64_t begin = offset > 0 ? (uint64_t)offset : 0;
	if (begin > blob_size) {
		return cairn_err_set(err, CAIRN_OUT_OF_RANGE,
				     "read at offset %" PRIu64 ": the blob has %" PRIu64 " bytes",
				     begin, blob_size);
	}
	uint64_t rest = blob_size - begin;
	*ret_begin = begin;
	*ret_end = begin + (size > 0 && (uint64_t)size < rest ? (uint64_t)size : rest);
	return CAIRN_OK;
}

static enum cairn_code send_range(struct cairn_call *call, struct cairn_blob *blob, uint64_t begin,
				  uint64_t end, struct cairn_err *err)
{
	for (uint64_t at = begin; at < end;) {
		uint64_t want = end - at;
		if (want > CAIRN_CONTENT_READ_PIECE) want = CAIRN_CONTENT_READ_PIECE;
		struct cairn_view view;
		enum cairn_view_outcome outcome =
			cairn_blob_view(blob, at, want, false, &view, err);
		if (outcome == CAIRN_VIEW_WOULD_BLOCK) {
			cairn_call_offload(call);
			outcome = cairn_blob_view(blob, at, want, true, &view, err);
		}
		if (outcome != CAIRN_VIEW_OK) return err->code;
		uint8_t head[HEAD_MAX];
		size_t head_len = put_head(head, at - begin, view.len);
		at += view.len;
		if (at == end) cairn_call_last(call);
		enum cairn_code rc = cairn_call_send_view(call, head, head_len, &view, err);
		if (rc) return rc;
	}
	return CAIRN_OK;
}

enum cairn_code cairn_content_read(void *arg, struct cairn_call *call, const void *request,
				   struct cairn_err *err)
{
	const struct cairn_content_service *service = arg;
	const Containerd__Services__Content__V1__ReadContentRequest *req = request;
	struct cairn_digest digest;
	enum cairn_code rc = cairn_content_parse_digest(req->digest, &digest, err);
	if (rc) return rc;
	struct cairn_blob *blob = NULL;
	rc = cairn_blob_open(service->cache, &digest, &blob, err);
	if (rc) return rc;
	uint64_t begin = 0, end = 0;
	rc = clip(req->offset, req->size, cairn_blob_size(blob), &begin, &end, err);
	if (rc == CAIRN_OK) rc = send_range(call, blob, begin, end, err);
	cairn_blob_close(blob);
	return rc;
}
