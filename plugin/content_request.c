#include "plugin/content_request.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "plugin/content.h"
#include "rpc/wire.h"

/* Field numbers of WriteContentRequest (proto/content.proto). */
enum {
	FIELD_ACTION = 1,
	FIELD_REF = 2,
	FIELD_TOTAL = 3,
	FIELD_EXPECTED = 4,
	FIELD_OFFSET = 5,
	FIELD_DATA = 6,
	FIELD_LABELS = 7,
};

static void drop_labels(struct cairn_write_request *req)
{
	for (size_t i = 0; i < req->n_labels; i++) {
		free((void *)(uintptr_t)req->labels[i].key);
		free((void *)(uintptr_t)req->labels[i].value);
	}
	free(req->labels);
	req->labels = NULL;
	req->n_labels = 0;
}

void cairn_write_request_drop_bytes(struct cairn_write_request *req)
{
	if (req->msg != NULL) cairn_msg_free(req->msg);
	req->msg = NULL;
	req->n_spans = 0;
}

void cairn_write_request_fini(struct cairn_write_request *req)
{
	drop_labels(req);
	free(req->room);
	cairn_write_request_drop_bytes(req);
	*req = (struct cairn_write_request){0};
}

static void *must(void *p)
{
	if (p == NULL) abort();
	return p;
}

/* Room for as many spans as the message has: no field needs more. */
static void make_room(struct cairn_write_request *req, size_t n)
{
	if (n <= req->room_len) return;
	free(req->room);
	req->room = must(calloc(n, sizeof(req->room[0])));
	req->room_len = n;
}

static enum cairn_code bad_number(struct cairn_err *err, const char *name, uint64_t value)
{
	return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
			     "%s is %" PRId64 "; allowed are 0 to %" PRId64, name, (int64_t)value,
			     CAIRN_BLOB_SIZE_MAX);
}

static enum cairn_code parse_number(struct cairn_write_request *req,
				    const struct cairn_wire_field *f, struct cairn_err *err)
{
	switch (f->number) {
	case FIELD_ACTION:
		if (f->value > CAIRN_WRITE_COMMIT) {
			return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
					     "unknown Write action %" PRIu64
					     "; known are STAT (0), WRITE (1) and COMMIT (2)",
					     f->value);
		}
		req->action = (enum cairn_write_action)f->value;
		return CAIRN_OK;
	case FIELD_TOTAL: /* a negative total is an unknown one */
		if ((int64_t)f->value > CAIRN_BLOB_SIZE_MAX) {
			return bad_number(err, "total", f->value);
		}
		req->total = (int64_t)f->value > 0 ? f->value : 0;
		return CAIRN_OK;
	default:
		if (f->value > (uint64_t)CAIRN_BLOB_SIZE_MAX) {
			return bad_number(err, "offset", f->value);
		}
		req->offset = f->value;
		return CAIRN_OK;
	}
}

static enum cairn_code parse_expected(struct cairn_write_request *req,
				      const struct cairn_wire_field *f, struct cairn_err *err)
{
	char text[CAIRN_DIGEST_STR + 64];
	enum cairn_code rc = cairn_wire_string(f, "expected", text, sizeof(text), err);
	if (rc) return rc;
	req->expected = (struct cairn_digest){0};
	if (text[0] == '\0') return CAIRN_OK;
	return cairn_content_parse_digest(text, &req->expected, err);
}

static enum cairn_code parse_bytes(struct cairn_write_request *req,
				   const struct cairn_wire_field *f, char *ref, size_t ref_cap,
				   struct cairn_err *err)
{
	switch (f->number) {
	case FIELD_REF:
		if (ref == NULL) return CAIRN_OK;
		return cairn_wire_string(f, "ref", ref, ref_cap, err);
	case FIELD_EXPECTED:
		return parse_expected(req, f, err);
	case FIELD_DATA:
		req->data_len = f->value;
		req->n_spans = cairn_wire_spans(f, req->room, req->room_len);
		return CAIRN_OK;
	default:
		return CAIRN_OK; /* labels: see collect_labels */
	}
}

static enum cairn_code parse_field(struct cairn_write_request *req,
				   const struct cairn_wire_field *f, char *ref, size_t ref_cap,
				   struct cairn_err *err)
{
	if (f->number > FIELD_LABELS) return CAIRN_OK; /* of a newer client */
	bool number =
		f->number == FIELD_ACTION || f->number == FIELD_TOTAL || f->number == FIELD_OFFSET;
	if (f->type != (number ? CAIRN_WIRE_VARINT : CAIRN_WIRE_BYTES)) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "field %" PRIu32 " of a Write message has wire type %d",
				     f->number, (int)f->type);
	}
	if (number) return parse_number(req, f, err);
	return parse_bytes(req, f, ref, ref_cap, err);
}

/* ---- labels -----------------------------------------------------------------------------------*/

/* One entry of the map, a message of key (1) and value (2), into two buffers. */
static enum cairn_code parse_entry(const struct cairn_wire_field *f, struct cairn_span *room,
				   size_t room_len, char *key, char *value, size_t cap,
				   struct cairn_err *err)
{
	struct cairn_wire_reader r;
	cairn_wire_init(&r, room, cairn_wire_spans(f, room, room_len));
	key[0] = value[0] = '\0';
	for (;;) {
		struct cairn_wire_field part;
		bool end = false;
		enum cairn_code rc = cairn_wire_next(&r, &part, &end, err);
		if (rc || end) return rc;
		if (part.type != CAIRN_WIRE_BYTES || part.number > 2) continue;
		rc = part.number == 1 ? cairn_wire_string(&part, "label key", key, cap, err)
				      : cairn_wire_string(&part, "label value", value, cap, err);
		if (rc) return rc;
	}
}

/* Of equal keys the last one counts. */
static enum cairn_code put_label(struct cairn_write_request *req, const char *key,
				 const char *value, struct cairn_err *err)
{
	enum cairn_code rc = cairn_content_check_label(key, value, err);
	if (rc) return rc;
	for (size_t i = 0; i < req->n_labels; i++) {
		if (strcmp(req->labels[i].key, key) != 0) continue;
		free((void *)(uintptr_t)req->labels[i].value);
		req->labels[i].value = must(strdup(value));
		return CAIRN_OK;
	}
	if (req->n_labels == CAIRN_LABELS_MAX) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "a commit with more than %d labels", CAIRN_LABELS_MAX);
	}
	if (req->labels == NULL) {
		req->labels = must(calloc(CAIRN_LABELS_MAX, sizeof(req->labels[0])));
	}
	req->labels[req->n_labels++] = (struct cairn_label){must(strdup(key)), must(strdup(value))};
	return CAIRN_OK;
}

/* containerd sends none; other users of the content service may. */
static enum cairn_code collect_labels(struct cairn_write_request *req,
				      const struct cairn_span *spans, size_t n,
				      struct cairn_err *err)
{
	size_t cap = CAIRN_LABEL_BYTES_MAX + 1;
	char *text = must(malloc(2 * cap));
	struct cairn_span *room = must(calloc(n + 1, sizeof(room[0])));
	struct cairn_wire_reader r;
	cairn_wire_init(&r, spans, n);
	enum cairn_code rc;
	for (;;) {
		struct cairn_wire_field f;
		bool end = false;
		rc = cairn_wire_next(&r, &f, &end, err);
		if (rc || end) break;
		if (f.number != FIELD_LABELS) continue;
		rc = parse_entry(&f, room, n, text, text + cap, cap, err);
		if (rc == CAIRN_OK) rc = put_label(req, text, text + cap, err);
		if (rc) break;
	}
	free(room);
	free(text);
	return rc;
}

enum cairn_code cairn_write_request_parse_spans(struct cairn_write_request *req,
						const struct cairn_span *spans, size_t n, char *ref,
						size_t ref_cap, struct cairn_err *err)
{
	drop_labels(req);
	req->action = CAIRN_WRITE_STAT;
	req->total = req->offset = 0;
	req->expected = (struct cairn_digest){0};
	req->data_len = req->n_spans = 0;
	make_room(req, n);
	req->spans = req->room;
	bool labels = false;
	struct cairn_wire_reader r;
	cairn_wire_init(&r, spans, n);
	for (;;) {
		struct cairn_wire_field f;
		bool end = false;
		enum cairn_code rc = cairn_wire_next(&r, &f, &end, err);
		if (rc) return rc;
		if (end) break;
		labels = labels || f.number == FIELD_LABELS;
		rc = parse_field(req, &f, ref, ref_cap, err);
		if (rc) return rc;
	}
	if (labels && req->action == CAIRN_WRITE_COMMIT) {
		return collect_labels(req, spans, n, err);
	}
	return CAIRN_OK;
}

enum cairn_code cairn_write_request_parse(struct cairn_write_request *req, struct cairn_msg *msg,
					  char *ref, size_t ref_cap, struct cairn_err *err)
{
	cairn_write_request_drop_bytes(req);
	req->msg = msg;
	const struct cairn_span *spans = NULL;
	size_t n = cairn_msg_spans(msg, &spans);
	return cairn_write_request_parse_spans(req, spans, n, ref, ref_cap, err);
}
