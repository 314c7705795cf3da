/* The in-place protobuf reader: the same message read from one span and from many tiny ones (cut by
 * the input's first byte) gives the same fields, and nothing is read outside the message. */
#include <string.h>

#include "rpc/wire.h"
#include "tests/fuzz/fuzz.h"

#define SPANS_MAX 64

static size_t split(const uint8_t *data, size_t size, size_t step, struct cairn_span *ret)
{
	size_t n = 0;
	while (size > 0 && n + 1 < SPANS_MAX) {
		size_t len = size < step ? size : step;
		ret[n++] = (struct cairn_span){data, len};
		data += len;
		size -= len;
		if (n % 5 == 2 && n + 1 < SPANS_MAX) ret[n++] = (struct cairn_span){NULL, 0};
	}
	if (size > 0) ret[n++] = (struct cairn_span){data, size};
	return n;
}

/* A BYTES field must give the same bytes through its spans, and its string if it is one. */
static void check_bytes(const struct cairn_wire_field *a, const struct cairn_wire_field *b)
{
	struct cairn_span sa[SPANS_MAX], sb[SPANS_MAX];
	size_t na = cairn_wire_spans(a, sa, SPANS_MAX), nb = cairn_wire_spans(b, sb, SPANS_MAX);
	size_t la = 0, lb = 0;
	for (size_t i = 0; i < na; i++) la += sa[i].len;
	for (size_t i = 0; i < nb; i++) lb += sb[i].len;
	FUZZ_CHECK(la == a->value && lb == b->value);
	for (size_t i = 0, ia = 0, oa = 0; i < nb; i++) {
		for (size_t k = 0; k < sb[i].len; k++) {
			while (oa == sa[ia].len) {
				ia++;
				oa = 0;
			}
			FUZZ_CHECK(sa[ia].data[oa++] == sb[i].data[k]);
		}
	}

	char ta[100], tb[100];
	struct cairn_err ea = {0}, eb = {0};
	enum cairn_code ca = cairn_wire_string(a, "field", ta, sizeof(ta), &ea);
	enum cairn_code cb = cairn_wire_string(b, "field", tb, sizeof(tb), &eb);
	FUZZ_CHECK(ca == cb);
	if (ca == CAIRN_OK) FUZZ_CHECK(strlen(ta) == a->value && strcmp(ta, tb) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size == 0) return 0;
	size_t step = data[0] == 0 ? 1 : data[0];
	struct cairn_span one = {data + 1, size - 1}, many[SPANS_MAX];
	struct cairn_wire_reader ra, rb;
	cairn_wire_init(&ra, &one, 1);
	cairn_wire_init(&rb, many, split(data + 1, size - 1, step, many));

	for (size_t fields = 0;; fields++) {
		struct cairn_wire_field a = {0}, b = {0};
		struct cairn_err ea = {0}, eb = {0};
		bool enda = false, endb = false;
		enum cairn_code ca = cairn_wire_next(&ra, &a, &enda, &ea);
		enum cairn_code cb = cairn_wire_next(&rb, &b, &endb, &eb);
		FUZZ_CHECK(ca == cb && enda == endb);
		FUZZ_CHECK(fields <= size); /* a field takes at least one byte */
		if (ca != CAIRN_OK) {
			FUZZ_CHECK(ea.code == CAIRN_INVALID_ARGUMENT && ea.msg[0] != '\0');
			return 0;
		}
		if (enda) break;
		FUZZ_CHECK(a.number == b.number && a.type == b.type && a.value == b.value);
		if (a.type == CAIRN_WIRE_BYTES) check_bytes(&a, &b);
	}

	uint8_t varint[10];
	uint64_t value = 0;
	memcpy(&value, data, size < 8 ? size : 8);
	size_t n = cairn_wire_put_varint(varint, value);
	FUZZ_CHECK(n >= 1 && n <= 10 && (varint[n - 1] & 0x80) == 0);
	return 0;
}
