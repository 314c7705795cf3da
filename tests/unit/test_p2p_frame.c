/* Heads of frames. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdbool.h>

#include "p2p/frame.h"

static const struct {
	uint8_t type;
	uint32_t max;
} limits[] = {
	{CAIRN_FRAME_HELLO, CAIRN_HELLO_MAX},
	{CAIRN_FRAME_DESCRIBE, CAIRN_HELLO_MAX},
	{CAIRN_FRAME_DESCRIPTION, CAIRN_DESCRIPTION_MAX},
	{CAIRN_FRAME_GET, CAIRN_HELLO_MAX},
	{CAIRN_FRAME_PIECE, CAIRN_PIECE_HEAD + CAIRN_PIECE_MAX},
	{CAIRN_FRAME_LEAVE, 1},
	{CAIRN_FRAME_DIRECTORY_REQUEST, CAIRN_DIRECTORY_MAX},
	{CAIRN_FRAME_DIRECTORY_RESPONSE, CAIRN_DIRECTORY_MAX},
	{CAIRN_FRAME_CALL, CAIRN_CALL_MAX},
	{CAIRN_FRAME_ANSWER, CAIRN_ANSWER_MAX},
};

static void heads__are_as_the_protocol_says(void **state)
{
	(void)state;
	uint8_t head[CAIRN_FRAME_HEAD];
	const struct cairn_frame frame = {.type = CAIRN_FRAME_PIECE, .len = 0x00102030};
	cairn_frame_encode(&frame, head);
	assert_memory_equal(head, "\x00\x10\x20\x30\x05\0\0\0", sizeof(head));
}

static void lengths__are_bounded_by_type(void **state)
{
	(void)state;
	for (size_t i = 0; i < CAIRN_LEN(limits); i++) {
		struct cairn_frame frame = {limits[i].type, limits[i].max}, got = {0};
		uint8_t head[CAIRN_FRAME_HEAD];
		struct cairn_err err;
		cairn_frame_encode(&frame, head);
		assert_int_equal(cairn_frame_decode(head, &got, &err), CAIRN_OK);
		assert_int_equal(got.type, frame.type);
		assert_int_equal(got.len, frame.len);
		for (uint32_t over = limits[i].max + 1; over != 0;
		     over = over < 1u << 31 ? over * 2 : 0) {
			frame.len = over;
			cairn_frame_encode(&frame, head);
			assert_int_equal(cairn_frame_decode(head, &got, &err),
					 CAIRN_INVALID_ARGUMENT);
		}
	}
}

static void unknown_types_and_reserved_bytes__are_refused(void **state)
{
	(void)state;
	struct cairn_frame got;
	struct cairn_err err;
	for (unsigned type = 0; type < 256; type++) {
		uint8_t head[CAIRN_FRAME_HEAD] = {0, 0, 0, 0, (uint8_t)type};
		bool known = type >= CAIRN_FRAME_HELLO && type <= CAIRN_FRAME_ANSWER;
		assert_int_equal(cairn_frame_decode(head, &got, &err),
				 known ? CAIRN_OK : CAIRN_INVALID_ARGUMENT);
		for (int i = 5; i < 8; i++) {
			head[i] = 1;
			assert_int_equal(cairn_frame_decode(head, &got, &err),
					 CAIRN_INVALID_ARGUMENT);
			head[i] = 0;
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(heads__are_as_the_protocol_says),
		cmocka_unit_test(lengths__are_bounded_by_type),
		cmocka_unit_test(unknown_types_and_reserved_bytes__are_refused),
	};
	return cmocka_run_group_tests_name("p2p/frame", tests, NULL, NULL);
}
