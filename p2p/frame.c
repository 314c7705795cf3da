#include "p2p/frame.h"

/* The longest payload of a type; 0: there is no such type. */
static uint32_t limit_of(uint8_t type)
{
	switch (type) {
	case CAIRN_FRAME_HELLO:
	case CAIRN_FRAME_DESCRIBE:
	case CAIRN_FRAME_GET:
		return CAIRN_HELLO_MAX;
	case CAIRN_FRAME_DESCRIPTION:
		return CAIRN_DESCRIPTION_MAX;
	case CAIRN_FRAME_PIECE:
		return CAIRN_PIECE_HEAD + (uint32_t)CAIRN_PIECE_MAX;
	case CAIRN_FRAME_LEAVE:
		return 1; /* and none is sent */
	case CAIRN_FRAME_DIRECTORY_REQUEST:
	case CAIRN_FRAME_DIRECTORY_RESPONSE:
		return CAIRN_DIRECTORY_MAX;
	case CAIRN_FRAME_ANSWER:
		return CAIRN_ANSWER_MAX;
	case CAIRN_FRAME_CALL:
		return CAIRN_CALL_MAX;
	default:
		return 0;
	}
}

void cairn_frame_encode(const struct cairn_frame *frame, uint8_t ret[static CAIRN_FRAME_HEAD])
{
	for (int i = 0; i < 4; i++) ret[i] = (uint8_t)(frame->len >> (24 - 8 * i));
	ret[4] = frame->type;
	ret[5] = ret[6] = ret[7] = 0;
}

enum cairn_code cairn_frame_decode(const uint8_t head[static CAIRN_FRAME_HEAD],
				   struct cairn_frame *ret, struct cairn_err *err)
{
	uint32_t len = 0;
	for (int i = 0; i < 4; i++) len = len << 8 | head[i];
	uint32_t limit = limit_of(head[4]);
	if (limit == 0 || head[5] != 0 || head[6] != 0 || head[7] != 0) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "no frame of cairn's peer protocol: begins with the bytes "
				     "%02x %02x %02x %02x, type %u",
				     head[0], head[1], head[2], head[3], head[4]);
	}
	if (len > limit) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "a frame of type %u has %u bytes, at most %u are allowed",
				     head[4], len, limit);
	}
	*ret = (struct cairn_frame){.type = head[4], .len = len};
	return CAIRN_OK;
}
