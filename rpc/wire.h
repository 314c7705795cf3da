/* Reading protobuf fields where they lie, across the spans of a received message, so that bulk
 * bytes are not copied. Spec: protobuf encoding (protobuf.dev/programming-guides/encoding).
 *
 * Threads: owner thread only. Nothing is allocated. */
#ifndef CAIRN_RPC_WIRE_H
#define CAIRN_RPC_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/own.h"
#include "base/view.h"

struct cairn_wire_reader {
	const struct cairn_span *spans;
	size_t n, span, at; /* next byte: spans[span].data[at] */
};

enum cairn_wire_type {
	CAIRN_WIRE_VARINT = 0,
	CAIRN_WIRE_FIXED64 = 1,
	CAIRN_WIRE_BYTES = 2,
	CAIRN_WIRE_FIXED32 = 5,
};

struct cairn_wire_field {
	uint32_t number;
	enum cairn_wire_type type;
	uint64_t value;			/* the number, or the length of bytes */
	struct cairn_wire_reader bytes; /* BYTES: stands at the first byte */
};

void cairn_wire_init(struct cairn_wire_reader *r, const struct cairn_span *spans, size_t n);

/* The next field. *ret_end is true, and *ret untouched, at the end of the message.
 * Errors: INVALID_ARGUMENT on truncated, over-long or group-typed input. */
CAIRN_CHECKED enum cairn_code cairn_wire_next(struct cairn_wire_reader *r,
					      struct cairn_wire_field *ret, bool *ret_end,
					      struct cairn_err *err);

/* Copy a BYTES field into buf and terminate it. Errors: INVALID_ARGUMENT if it is longer than
 * cap - 1 or holds a NUL byte; name is for the message. */
CAIRN_CHECKED enum cairn_code cairn_wire_string(const struct cairn_wire_field *f, const char *name,
						char *buf, size_t cap, struct cairn_err *err);

/* The spans that make up a BYTES field, at most max of them (borrowed). Returns their number;
 * more than max needed: INVALID_ARGUMENT cannot happen when max >= the message's span count. */
size_t cairn_wire_spans(const struct cairn_wire_field *f, struct cairn_span *ret, size_t max);

/* Write a varint or a tag; returns the bytes used (at most 10). */
size_t cairn_wire_put_varint(uint8_t *buf, uint64_t value);

#endif
