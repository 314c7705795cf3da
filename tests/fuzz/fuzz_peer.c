/* What a peer sends: the head of a frame, and its payload as the message that its type says. A head
 * that passes is one that we would send; a message that passes can be packed again; a Hello that
 * passes is whole, and can be shown and dialled. */
#include <string.h>

#include "p2p/address.h"
#include "p2p/frame.h"
#include "p2p/hello.h"
#include "peer.pb-c.h"
#include "tests/fuzz/fuzz.h"

static const ProtobufCMessageDescriptor *type_of(uint8_t type)
{
	switch (type) {
	case CAIRN_FRAME_HELLO:
		return &cairn__peer__v1__hello__descriptor;
	case CAIRN_FRAME_DESCRIBE:
		return &cairn__peer__v1__describe__descriptor;
	case CAIRN_FRAME_DESCRIPTION:
		return &cairn__peer__v1__description__descriptor;
	case CAIRN_FRAME_GET:
		return &cairn__peer__v1__get__descriptor;
	case CAIRN_FRAME_CALL:
		return &cairn__peer__v1__call__descriptor;
	case CAIRN_FRAME_ANSWER:
		return &cairn__peer__v1__answer__descriptor;
	case CAIRN_FRAME_DIRECTORY_REQUEST:
		return &cairn__peer__v1__directory_request__descriptor;
	case CAIRN_FRAME_DIRECTORY_RESPONSE:
		return &cairn__peer__v1__directory_response__descriptor;
	default:
		return NULL;
	}
}

static void check_hello(const Cairn__Peer__V1__Hello *msg)
{
	const struct cairn_hello own = {.address = "127.0.0.1:1", .instance = {1}};
	struct cairn_hello other;
	struct cairn_address address;
	struct cairn_err err;
	uint32_t version = 0;
	enum cairn_code rc = cairn_hello_take(msg, &own, &other, &version, &err);
	if (rc != CAIRN_OK) {
		FUZZ_CHECK(rc == CAIRN_FAILED_PRECONDITION || rc == CAIRN_ABORTED);
		FUZZ_CHECK(err.msg[0] != '\0');
		for (const char *p = err.msg; *p != '\0'; p++) FUZZ_CHECK(*p != '\n' && *p != 27);
		return;
	}
	FUZZ_CHECK(version >= 1 && version <= CAIRN_PEER_VERSION);
	FUZZ_CHECK(msg->error[0] == '\0');
	FUZZ_CHECK(strcmp(other.address, msg->address) == 0);
	FUZZ_CHECK(strcmp(other.name, msg->name) == 0 && strchr(other.name, '\n') == NULL);
	FUZZ_CHECK(memcmp(other.instance, own.instance, sizeof(own.instance)) != 0);
	FUZZ_CHECK(cairn_address_parse(other.address, false, &address, &err) == CAIRN_OK);
	FUZZ_CHECK(strlen(address.host) > 0 && atoi(address.port) > 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct cairn_frame frame;
	struct cairn_err err = {0};
	uint8_t again[CAIRN_FRAME_HEAD];
	if (size < CAIRN_FRAME_HEAD) return 0;
	if (cairn_frame_decode(data, &frame, &err) != CAIRN_OK) {
		FUZZ_CHECK(err.code == CAIRN_INVALID_ARGUMENT && err.msg[0] != '\0');
		return 0;
	}
	FUZZ_CHECK(frame.len <= CAIRN_PIECE_HEAD + CAIRN_PIECE_MAX);
	cairn_frame_encode(&frame, again);
	FUZZ_CHECK(memcmp(again, data, sizeof(again)) == 0);

	const ProtobufCMessageDescriptor *type = type_of(frame.type);
	size_t n = size - CAIRN_FRAME_HEAD;
	if (type == NULL) return 0;
	ProtobufCMessage *msg = protobuf_c_message_unpack(type, NULL, n, data + CAIRN_FRAME_HEAD);
	if (msg == NULL) return 0;
	size_t packed = protobuf_c_message_get_packed_size(msg);
	uint8_t *out = malloc(packed > 0 ? packed : 1);
	if (out == NULL) abort();
	FUZZ_CHECK(protobuf_c_message_pack(msg, out) == packed);
	if (frame.type == CAIRN_FRAME_HELLO) check_hello((const Cairn__Peer__V1__Hello *)msg);
	free(out);
	protobuf_c_message_free_unpacked(msg, NULL);
	return 0;
}
