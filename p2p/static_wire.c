/* The messages of a link, and what may be in them. */
#include <stdlib.h>
#include <string.h>

#include "p2p/static_state.h"

#define DIGEST_BYTES (1 + CAIRN_DIGEST_MAX)

struct letter { /* what a message points to */
	ProtobufCBinaryData data[CAIRN_STATIC_BATCH];
	uint8_t bytes[CAIRN_STATIC_BATCH][DIGEST_BYTES];
};

static ProtobufCBinaryData encode(const struct cairn_digest *digest, uint8_t ret[DIGEST_BYTES])
{
	size_t n = cairn_alg_bytes(digest->alg);
	ret[0] = digest->alg;
	memcpy(ret + 1, digest->bytes, n);
	return (ProtobufCBinaryData){.len = 1 + n, .data = ret};
}

static enum cairn_code send_request(struct cairn_conn *conn, const struct sentence *sentence,
				    ProtobufCBinaryData *digests, size_t n, struct cairn_err *err)
{
	Cairn__Peer__V1__DirectoryRequest msg;
	cairn__peer__v1__directory_request__init(&msg);
	msg.op = (Cairn__Peer__V1__DirectoryRequest__Op)sentence->op;
	msg.n_digests = n;
	msg.digests = digests;
	msg.join = sentence->join;
	msg.may_grant = sentence->may_grant;
	msg.version = sentence->version;
	msg.bytes = sentence->bytes;
	return cairn_conn_send_message(conn, CAIRN_FRAME_DIRECTORY_REQUEST, &msg.base, DEAD_MS,
				       err);
}

enum cairn_code wire_send(struct cairn_conn *conn, const struct sentence *sentence,
			  const struct bulk_entry *digests, size_t n, struct cairn_err *err)
{
	if (digests == NULL) {
		uint8_t bytes[DIGEST_BYTES];
		ProtobufCBinaryData data = encode(&sentence->digest, bytes);
		return send_request(conn, sentence, &data, sentence->op == OP_PING ? 0 : 1, err);
	}
	struct letter *letter = malloc(sizeof(*letter));
	if (letter == NULL) abort();
	for (size_t i = 0; i < n; i++) {
		letter->data[i] = encode(&digests[i].digest, letter->bytes[i]);
	}
	enum cairn_code rc = send_request(conn, sentence, letter->data, n, err);
	free(letter);
	return rc;
}

static bool take_node(const char *text, struct cairn_node_id *ret)
{
	size_t n = strlen(text);
	if (n == 0 || n >= sizeof(ret->address)) return false;
	memcpy(ret->address, text, n + 1);
	return true;
}

static bool take_grant(const Cairn__Peer__V1__Grant *msg, struct cairn_grant *ret)
{
	*ret = (struct cairn_grant){.state = CAIRN_GRANT_FREE};
	if (msg == NULL || msg->state == CAIRN_GRANT_FREE) return true;
	if (msg->state > CAIRN_GRANT_RUNNING || msg->version == 0) return false;
	ret->state = (enum cairn_grant_state)msg->state;
	ret->ours = msg->ours;
	ret->version = msg->version;
	ret->bytes = msg->bytes;
	return take_node(msg->node, &ret->node);
}

bool wire_take(const Cairn__Peer__V1__DirectoryResponse *msg, const char *own,
	       struct wire_answer *ret)
{
	memset(ret, 0, sizeof(*ret));
	if (msg->code > CAIRN_UNAUTHENTICATED || msg->n_found > CAIRN_FIND_MAX) return false;
	ret->code = (enum cairn_code)msg->code;
	ret->life = msg->life;
	(void)memccpy(ret->message, msg->message, '\0', sizeof(ret->message) - 1);
	for (size_t i = 0; i < msg->n_found; i++) {
		struct cairn_found *found = &ret->answer.found[ret->answer.n];
		if (!take_node(msg->found[i]->node, &found->node)) return false;
		found->whole = msg->found[i]->whole;
		if (strcmp(found->node.address, own) != 0) ret->answer.n++;
	}
	return take_grant(msg->grant, &ret->answer.grant);
}

enum cairn_code wire_receive(struct cairn_conn *conn, const char *own, int64_t timeout_ms,
			     struct wire_answer *ret, struct cairn_err *err)
{
	struct cairn_frame frame;
	ProtobufCMessage *msg = NULL;
	enum cairn_code rc = cairn_conn_read_head(conn, timeout_ms, &frame, err);
	if (rc != CAIRN_OK) return rc;
	if (frame.type != CAIRN_FRAME_DIRECTORY_RESPONSE) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "a frame of type %u where the directory's answer should be",
				     frame.type);
	}
	rc = cairn_conn_read_message(conn, &frame, &cairn__peer__v1__directory_response__descriptor,
				     timeout_ms, &msg, err);
	if (rc != CAIRN_OK) return rc;
	const Cairn__Peer__V1__DirectoryResponse *response = (const void *)msg;
	if (!wire_take(response, own, ret)) {
		rc = cairn_err_set(err, CAIRN_INVALID_ARGUMENT, "no answer of a directory");
	}
	protobuf_c_message_free_unpacked(msg, NULL);
	return rc;
}
