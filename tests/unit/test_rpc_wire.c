#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "content.pb-c.h"
#include "rpc/wire.h"

typedef Containerd__Services__Content__V1__WriteContentRequest write_req;

/* Cut n bytes at random places, with empty spans between. Returns the number of spans. */
static size_t cut(const uint8_t *bytes, size_t n, struct cairn_span *spans, size_t max)
{
	size_t k = 0, at = 0;
	while (at < n && k + 1 < max) {
		size_t len = (size_t)random() % 4;
		if (len > n - at) len = n - at;
		spans[k++] = (struct cairn_span){bytes + at, len};
		at += len;
	}
	spans[k++] = (struct cairn_span){bytes + at, n - at};
	return k;
}

static size_t gather(const struct cairn_wire_field *f, uint8_t *buf, size_t cap)
{
	struct cairn_span parts[512];
	size_t k = cairn_wire_spans(f, parts, 512), n = 0;
	for (size_t i = 0; i < k; i++) {
		assert_true(n + parts[i].len <= cap);
		memcpy(buf + n, parts[i].data, parts[i].len);
		n += parts[i].len;
	}
	return n;
}

static void next__reads_what_protobuf_c_wrote(void **state)
{
	(void)state;
	unsigned seed = (unsigned)time(NULL);
	print_message("seed %u\n", seed);
	srandom(seed);
	for (int round = 0; round < 500; round++) {
		uint8_t data[64], packed[512], got[64];
		char ref[] = "default/1/layer-x";
		write_req q = CONTAINERD__SERVICES__CONTENT__V1__WRITE_CONTENT_REQUEST__INIT;
		for (size_t i = 0; i < sizeof(data); i++) data[i] = (uint8_t)random();
		q.action = CONTAINERD__SERVICES__CONTENT__V1__WRITE_ACTION__WRITE;
		q.ref = ref;
		q.offset = (int64_t)random() << 31 | random();
		if (round % 3 == 0) q.offset = -1;
		q.data.data = data;
		q.data.len = (size_t)random() % sizeof(data) + 1;
		size_t n =
			containerd__services__content__v1__write_content_request__pack(&q, packed);
		struct cairn_span spans[512];
		struct cairn_wire_reader r;
		struct cairn_wire_field f;
		struct cairn_err err;
		char text[32] = "";
		int64_t offset = 0;
		bool end = false;
		size_t fields = 0, len = 0;
		cairn_wire_init(&r, spans, cut(packed, n, spans, 512));
		for (;;) {
			assert_int_equal(cairn_wire_next(&r, &f, &end, &err), CAIRN_OK);
			if (end) break;
			fields++;
			if (f.number == 1) assert_int_equal(f.value, 1);
			if (f.number == 5) offset = (int64_t)f.value;
			if (f.number == 6) len = gather(&f, got, sizeof(got));
			if (f.number != 2) continue;
			assert_int_equal(cairn_wire_string(&f, "ref", text, sizeof(text), &err),
					 CAIRN_OK);
		}
		assert_int_equal(fields, 4);
		assert_string_equal(text, ref);
		assert_int_equal(offset, q.offset);
		assert_int_equal(len, q.data.len);
		assert_memory_equal(got, data, len);
	}
}

static enum cairn_code read_all(const void *bytes, size_t n)
{
	struct cairn_span span = {bytes, n};
	struct cairn_wire_reader r;
	struct cairn_wire_field f;
	struct cairn_err err;
	bool end = false;
	enum cairn_code rc = CAIRN_OK;
	cairn_wire_init(&r, &span, 1);
	while (rc == CAIRN_OK && !end) rc = cairn_wire_next(&r, &f, &end, &err);
	return rc;
}

#define READ(s) read_all((s), sizeof(s) - 1)

static void next__refuses_what_is_no_protobuf(void **state)
{
	(void)state;
	assert_int_equal(READ(""), CAIRN_OK);
	assert_int_equal(READ("\x08\x01\x12\x00\x1d\1\2\3\4\x21\1\2\3\4\5\6\7\x8"), CAIRN_OK);
	assert_int_equal(READ("\x08"), CAIRN_INVALID_ARGUMENT);		/* no value */
	assert_int_equal(READ("\x08\xff"), CAIRN_INVALID_ARGUMENT);	/* half a varint */
	assert_int_equal(READ("\x12\x05zzzz"), CAIRN_INVALID_ARGUMENT); /* a byte short */
	assert_int_equal(READ("\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01z"),
			 CAIRN_INVALID_ARGUMENT);
	assert_int_equal(READ("\x1d\1\2\3"), CAIRN_INVALID_ARGUMENT);
	assert_int_equal(READ("\x21\1\2\3\4\5\6\7"), CAIRN_INVALID_ARGUMENT);
	assert_int_equal(READ("\x0b\x0c"), CAIRN_INVALID_ARGUMENT); /* a group */
	assert_int_equal(READ("\x0e\x01"), CAIRN_INVALID_ARGUMENT); /* wire type 6 */
	assert_int_equal(READ("\x00\x01"), CAIRN_INVALID_ARGUMENT); /* field 0 */
	assert_int_equal(READ("\x80\x80\x80\x80\x10\x01"), CAIRN_INVALID_ARGUMENT); /* 2^29 */
	/* 64 bits are the most */
	assert_int_equal(READ("\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), CAIRN_OK);
	assert_int_equal(READ("\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02"),
			 CAIRN_INVALID_ARGUMENT);
	assert_int_equal(READ("\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
			 CAIRN_INVALID_ARGUMENT);
}

static void next__survives_every_truncation_and_flip(void **state)
{
	(void)state;
	static const uint8_t good[] = "\x08\x01\x12\x04refs\x30\x85\x01\x32\x05hello\x1d\1\2\3\4";
	for (size_t n = 0; n < sizeof(good); n++) {
		uint8_t *copy = malloc(n + 1); /* so that the sanitizer sees reads beyond */
		assert_non_null(copy);
		memcpy(copy, good, n);
		(void)read_all(copy, n);
		for (size_t bit = 0; bit < n * 8; bit++) {
			copy[bit / 8] ^= (uint8_t)(1 << bit % 8);
			(void)read_all(copy, n);
			copy[bit / 8] ^= (uint8_t)(1 << bit % 8);
		}
		free(copy);
	}
}

static enum cairn_code string_of(const char *bytes, size_t n, char *buf, size_t cap)
{
	struct cairn_span span = {(const uint8_t *)bytes, n};
	struct cairn_wire_reader r;
	struct cairn_wire_field f;
	struct cairn_err err;
	bool end;
	cairn_wire_init(&r, &span, 1);
	assert_int_equal(cairn_wire_next(&r, &f, &end, &err), CAIRN_OK);
	return cairn_wire_string(&f, "ref", buf, cap, &err);
}

static void string__checks_length_and_content(void **state)
{
	(void)state;
	char buf[5];
	assert_int_equal(string_of("\x0a\x04"
				   "abcd",
				   6, buf, sizeof(buf)),
			 CAIRN_OK);
	assert_string_equal(buf, "abcd");
	assert_int_equal(string_of("\x0a\x00", 2, buf, sizeof(buf)), CAIRN_OK);
	assert_string_equal(buf, "");
	assert_int_equal(string_of("\x0a\x05"
				   "abcde",
				   7, buf, sizeof(buf)),
			 CAIRN_INVALID_ARGUMENT);
	assert_int_equal(string_of("\x0a\x03"
				   "a\0c",
				   5, buf, sizeof(buf)),
			 CAIRN_INVALID_ARGUMENT);
	assert_int_equal(string_of("\x08\x03", 2, buf, sizeof(buf)), CAIRN_INVALID_ARGUMENT);
}

static void spans__stop_at_max(void **state)
{
	(void)state;
	static const uint8_t bytes[] = "\x0a\x04"
				       "abcd";
	struct cairn_span in[] = {{bytes, 3}, {bytes + 3, 1}, {bytes + 4, 2}}, out[3];
	struct cairn_wire_reader r;
	struct cairn_wire_field f;
	struct cairn_err err;
	bool end;
	cairn_wire_init(&r, in, 3);
	assert_int_equal(cairn_wire_next(&r, &f, &end, &err), CAIRN_OK);
	assert_int_equal(cairn_wire_spans(&f, out, 2), 2);
	assert_int_equal(cairn_wire_spans(&f, out, 3), 3);
	assert_ptr_equal(out[0].data, bytes + 2);
	assert_int_equal(out[0].len, 1);
	assert_ptr_equal(out[2].data, bytes + 4);
	assert_int_equal(out[2].len, 2);
}

static void put_varint__is_read_back(void **state)
{
	(void)state;
	static const uint64_t values[] = {0, 1, 127, 128, 16383, 16384, UINT32_MAX, UINT64_MAX};
	for (size_t i = 0; i < CAIRN_LEN(values); i++) {
		uint8_t buf[11] = {0x08};
		size_t n = 1 + cairn_wire_put_varint(buf + 1, values[i]);
		struct cairn_span span = {buf, n};
		struct cairn_wire_reader r;
		struct cairn_wire_field f;
		struct cairn_err err;
		bool end;
		cairn_wire_init(&r, &span, 1);
		assert_int_equal(cairn_wire_next(&r, &f, &end, &err), CAIRN_OK);
		assert_true(f.value == values[i]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(next__reads_what_protobuf_c_wrote),
		cmocka_unit_test(next__refuses_what_is_no_protobuf),
		cmocka_unit_test(next__survives_every_truncation_and_flip),
		cmocka_unit_test(string__checks_length_and_content),
		cmocka_unit_test(spans__stop_at_max),
		cmocka_unit_test(put_varint__is_read_back),
	};
	return cmocka_run_group_tests_name("rpc/wire", tests, NULL, NULL);
}
