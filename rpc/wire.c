#include "rpc/wire.h"

#include <string.h>

#define VARINT_MAX_BYTES 10
#define FIELD_NUMBER_MAX ((UINT64_C(1) << 29) - 1)

/* Step over spans that are used up (and over empty ones). False at the end. */
static bool settle(struct cairn_wire_reader *r)
{
	while (r->span < r->n && r->at >= r->spans[r->span].len) {
		r->span++;
		r->at = 0;
	}
	return r->span < r->n;
}

static bool take_byte(struct cairn_wire_reader *r, uint8_t *ret)
{
	if (!settle(r)) return false;
	*ret = r->spans[r->span].data[r->at++];
	return true;
}

/* Move on by n bytes, copying them to buf unless it is NULL. False, somewhere, if they end. */
static bool take(struct cairn_wire_reader *r, uint64_t n, uint8_t *buf)
{
	while (n > 0) {
		if (!settle(r)) return false;
		size_t here = r->spans[r->span].len - r->at;
		if (here > n) here = (size_t)n;
		if (buf != NULL) {
			memcpy(buf, r->spans[r->span].data + r->at, here);
			buf += here;
		}
		r->at += here;
		n -= here;
	}
	return true;
}

static enum cairn_code truncated(struct cairn_err *err, const char *what)
{
	return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
			     "the message is no valid protobuf: it ends inside %s", what);
}

static enum cairn_code take_varint(struct cairn_wire_reader *r, const char *what, uint64_t *ret,
				   struct cairn_err *err)
{
	uint64_t v = 0;
	for (unsigned i = 0; i < VARINT_MAX_BYTES; i++) {
		uint8_t b;
		if (!take_byte(r, &b)) return truncated(err, what);
		if (i == VARINT_MAX_BYTES - 1 && b > 1) break; /* more than 64 bits */
		v |= (uint64_t)(b & 0x7f) << (7 * i);
		if ((b & 0x80) == 0) {
			*ret = v;
			return CAIRN_OK;
		}
	}
	return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
			     "the message is no valid protobuf: %s is longer than 64 bits", what);
}

static enum cairn_code take_fixed(struct cairn_wire_reader *r, size_t n, uint64_t *ret,
				  struct cairn_err *err)
{
	uint8_t b[8];
	if (!take(r, n, b)) return truncated(err, "a fixed-size number");
	uint64_t v = 0;
	for (size_t i = 0; i < n; i++) v |= (uint64_t)b[i] << (8 * i);
	*ret = v;
	return CAIRN_OK;
}

void cairn_wire_init(struct cairn_wire_reader *r, const struct cairn_span *spans, size_t n)
{
	*r = (struct cairn_wire_reader){.spans = spans, .n = n};
}

static enum cairn_code take_value(struct cairn_wire_reader *r, struct cairn_wire_field *f,
				  struct cairn_err *err)
{
	enum cairn_code rc;
	switch (f->type) {
	case CAIRN_WIRE_VARINT:
		return take_varint(r, "a number", &f->value, err);
	case CAIRN_WIRE_FIXED64:
		return take_fixed(r, 8, &f->value, err);
	case CAIRN_WIRE_FIXED32:
		return take_fixed(r, 4, &f->value, err);
	case CAIRN_WIRE_BYTES:
		rc = take_varint(r, "a length", &f->value, err);
		if (rc) return rc;
		settle(r);
		f->bytes = *r;
		if (!take(r, f->value, NULL)) return truncated(err, "a bytes field");
		return CAIRN_OK;
	}
	return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
			     "the message is no valid protobuf: field %u has wire type %u, which "
			     "proto3 does not have",
			     f->number, (unsigned)f->type);
}

enum cairn_code cairn_wire_next(struct cairn_wire_reader *r, struct cairn_wire_field *ret,
				bool *ret_end, struct cairn_err *err)
{
	if (!settle(r)) {
		*ret_end = true;
		return CAIRN_OK;
	}
	uint64_t tag = 0;
	enum cairn_code rc = take_varint(r, "a field's tag", &tag, err);
	if (rc) return rc;
	uint64_t number = tag >> 3;
	if (number == 0 || number > FIELD_NUMBER_MAX) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "the message is no valid protobuf: a field number is 0 or "
				     "above 2^29 - 1");
	}
	struct cairn_wire_field f = {
		.number = (uint32_t)number,
		.type = (enum cairn_wire_type)(tag & 7),
	};
	rc = take_value(r, &f, err);
	if (rc) return rc;
	*ret = f;
	*ret_end = false;
	return CAIRN_OK;
}

enum cairn_code cairn_wire_string(const struct cairn_wire_field *f, const char *name, char *buf,
				  size_t cap, struct cairn_err *err)
{
	if (f->type != CAIRN_WIRE_BYTES) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "%s is sent as a number, it must be a string", name);
	}
	if (f->value >= cap) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "%s is %llu bytes long, at most %zu are allowed", name,
				     (unsigned long long)f->value, cap - 1);
	}
	struct cairn_wire_reader r = f->bytes;
	size_t n = (size_t)f->value;
	if (!take(&r, n, (uint8_t *)buf)) return truncated(err, name);
	if (memchr(buf, '\0', n) != NULL) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT, "%s holds a NUL byte", name);
	}
	buf[n] = '\0';
	return CAIRN_OK;
}

size_t cairn_wire_spans(const struct cairn_wire_field *f, struct cairn_span *ret, size_t max)
{
	if (f->type != CAIRN_WIRE_BYTES) return 0;
	struct cairn_wire_reader r = f->bytes;
	uint64_t left = f->value;
	size_t n = 0;
	while (left > 0 && n < max && settle(&r)) {
		size_t here = r.spans[r.span].len - r.at;
		if (here > left) here = (size_t)left;
		ret[n++] = (struct cairn_span){r.spans[r.span].data + r.at, here};
		r.at += here;
		left -= here;
	}
	return n;
}

size_t cairn_wire_put_varint(uint8_t *buf, uint64_t value)
{
	size_t n = 0;
	while (value >= 0x80) {
		buf[n++] = (uint8_t)(value | 0x80);
		value >>= 7;
	}
	buf[n++] = (uint8_t)value;
	return n;
}
