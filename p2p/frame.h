/* Frames of the peer protocol: 8 bytes of head, then the payload.
 *
 *   bytes 0-3  length of the payload, big endian
 *   byte  4    type
 *   bytes 5-7  zero
 *
 * docs/protocol.md has the conversation. A length above its type's limit ends the connection. */
#ifndef CAIRN_P2P_FRAME_H
#define CAIRN_P2P_FRAME_H

#include <stdint.h>

#include "base/err.h"
#include "base/own.h"
#include "cache/pieces.h"

#define CAIRN_FRAME_HEAD 8

enum cairn_frame_type {
	CAIRN_FRAME_HELLO = 1,
	CAIRN_FRAME_DESCRIBE = 2,
	CAIRN_FRAME_DESCRIPTION = 3,
	CAIRN_FRAME_GET = 4,
	CAIRN_FRAME_PIECE = 5, /* u32 piece, u32 status (0: bytes follow; 1: not there, none do),
				  big endian; then the piece's bytes */
	CAIRN_FRAME_LEAVE = 6, /* empty: no more news of the described blob */
	CAIRN_FRAME_DIRECTORY_REQUEST = 7,
	CAIRN_FRAME_DIRECTORY_RESPONSE = 8,
	CAIRN_FRAME_CALL = 9,
	CAIRN_FRAME_ANSWER = 10,
};

#define CAIRN_PIECE_HEAD 8
#define CAIRN_INLINE_MAX (64u << 10) /* bytes of a blob inside a Description */
#define CAIRN_HELLO_MAX (4u << 10)
#define CAIRN_DESCRIPTION_MAX (2u << 20) /* a full list of sha512 entries, and more */
#define CAIRN_DIRECTORY_MAX (256u << 10)
#define CAIRN_CALL_MAX (256u << 10) /* with what is around the payload, as the next one */
#define CAIRN_ANSWER_MAX (1u << 20)
#define CAIRN_PEER_VERSION 1

/* Bits of a Hello's features. */
#define CAIRN_FEATURE_CALLS UINT64_C(1) /* it answers Calls */

struct cairn_frame {
	uint8_t type;
	uint32_t len;
};

void cairn_frame_encode(const struct cairn_frame *frame, uint8_t ret[static CAIRN_FRAME_HEAD]);
/* Errors: INVALID_ARGUMENT (unknown type, too long, reserved bytes). */
CAIRN_CHECKED enum cairn_code cairn_frame_decode(const uint8_t head[static CAIRN_FRAME_HEAD],
						 struct cairn_frame *ret, struct cairn_err *err);

#endif
