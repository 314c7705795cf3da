/* Read: file memory to the socket, uncopied.
 *
 * containerd unpacks a layer with one Read of 32 KiB after another, each a call of its own, so the
 * common case must do little: one lookup, one view, one batch with the bytes and the status. A blob
 * that turns out to be damaged is repaired meanwhile, and the Read goes on where it was. */
#include <inttypes.h>

#include "plugin/content.h"
#include "plugin/repair.h"
#include "rpc/wire.h"

#define TAG_OFFSET ((1 << 3) | CAIRN_WIRE_VARINT)
#define TAG_DATA ((2 << 3) | CAIRN_WIRE_BYTES)
#define HEAD_MAX (2 * (1 + 10))
#define REPAIRS_MAX 2 /* in one Read: a disk that goes on losing it is no place for it */

/* One Read. */
struct reading {
	struct cairn_content_service *service;
	struct cairn_call *call;
	struct cairn_digest digest;
	struct cairn_blob *blob; /* NULL: it could not be opened */
	unsigned repairs, recoveries;
};

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

/* Opens it, with a repair if need be. err: as it was found at first. */
static enum cairn_code open_blob(struct reading *r, struct cairn_err *err)
{
	struct cairn_cache *cache = r->service->cache;
	enum cairn_code rc = cairn_blob_open(cache, &r->digest, &r->blob, err);
	if (rc != CAIRN_DATA_LOSS || r->repairs++ >= REPAIRS_MAX ||
	    !cairn_repair(r->service, r->call, &r->digest)) {
		return rc;
	}
	return cairn_blob_open(cache, &r->digest, &r->blob, err);
}

/* A view that failed took the blob out of service. Returns whether it is in service again. */
static bool recover(struct reading *r, struct cairn_err *err)
{
	struct cairn_err ignored;
	if (err->code != CAIRN_DATA_LOSS || r->recoveries++ >= REPAIRS_MAX) return false;
	cairn_blob_close(cairn_steal(&r->blob));
	return open_blob(r, &ignored) == CAIRN_OK;
}

static enum cairn_code send_range(struct reading *r, uint64_t begin, uint64_t end,
				  struct cairn_err *err)
{
	for (uint64_t at = begin; at < end;) {
		uint64_t want = end - at;
		if (want > CAIRN_CONTENT_READ_PIECE) want = CAIRN_CONTENT_READ_PIECE;
		struct cairn_view view;
		enum cairn_view_outcome outcome =
			cairn_blob_view(r->blob, at, want, false, &view, err);
		if (outcome == CAIRN_VIEW_WOULD_BLOCK) {
			cairn_call_offload(r->call);
			outcome = cairn_blob_view(r->blob, at, want, true, &view, err);
		}
		if (outcome != CAIRN_VIEW_OK && recover(r, err)) continue;
		if (outcome != CAIRN_VIEW_OK) return err->code;
		uint8_t head[HEAD_MAX];
		size_t head_len = put_head(head, at - begin, view.len);
		at += view.len;
		if (at == end) cairn_call_last(r->call);
		enum cairn_code rc = cairn_call_send_view(r->call, head, head_len, &view, err);
		if (rc) return rc;
	}
	return CAIRN_OK;
}

enum cairn_code cairn_content_read(void *arg, struct cairn_call *call, const void *request,
				   struct cairn_err *err)
{
	const Containerd__Services__Content__V1__ReadContentRequest *req = request;
	struct reading r = {.service = arg, .call = call};
	enum cairn_code rc = cairn_content_parse_digest(req->digest, &r.digest, err);
	if (rc == CAIRN_OK) rc = open_blob(&r, err);
	if (rc) return rc;
	uint64_t begin = 0, end = 0;
	rc = clip(req->offset, req->size, cairn_blob_size(r.blob), &begin, &end, err);
	if (rc == CAIRN_OK) rc = send_range(&r, begin, end, err);
	cairn_blob_close(r.blob);
	return rc;
}
