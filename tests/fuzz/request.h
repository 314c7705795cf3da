/* Fuzzing of requests that protobuf-c decodes: the first byte picks the message. */
#ifndef CAIRN_TESTS_FUZZ_REQUEST_H
#define CAIRN_TESTS_FUZZ_REQUEST_H

#include <protobuf-c/protobuf-c.h>
#include <string.h>

#include "tests/fuzz/fuzz.h"

/* Returns the message, which packs again into as many bytes as it says, or NULL; the caller frees
 * it. (That it then unpacks to the same is more than protobuf-c promises: it keeps unknown fields
 * with tags that it would not write.) */
static inline ProtobufCMessage *fuzz_unpack(const ProtobufCMessageDescriptor *type,
					    const uint8_t *data, size_t size)
{
	ProtobufCMessage *msg = protobuf_c_message_unpack(type, NULL, size, data);
	if (msg == NULL) return NULL;
	size_t n = protobuf_c_message_get_packed_size(msg);
	uint8_t *packed = malloc(n + 1);
	if (packed == NULL) abort();
	FUZZ_CHECK(protobuf_c_message_pack(msg, packed) == n);
	free(packed);
	return msg;
}

#endif
