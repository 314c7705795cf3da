/* The arbiter's side: a peer's question, checked, put to the table, and answered. */
#include <string.h>

#include "p2p/static_state.h"

static enum cairn_code refuse(struct cairn_static_reply *ret, enum cairn_code code, const char *why)
{
	(void)memccpy(ret->message, why, '\0', sizeof(ret->message) - 1);
	ret->msg.code = (uint32_t)code;
	ret->msg.message = ret->message;
	return code;
}

static bool take_digest(const ProtobufCBinaryData *data, struct cairn_digest *ret)
{
	*ret = (struct cairn_digest){0};
	if (data->len < 1) return false;
	size_t n = cairn_alg_bytes(data->data[0]);
	if (n == 0 || data->len != 1 + n) return false;
	ret->alg = data->data[0];
	memcpy(ret->bytes, data->data + 1, n);
	return true;
}

static void show_grant(const struct cairn_grant *grant, struct cairn_static_reply *ret)
{
	cairn__peer__v1__grant__init(&ret->grant);
	ret->grant.state = grant->state;
	ret->grant.ours = grant->ours;
	ret->grant.version = grant->version;
	ret->grant.bytes = grant->bytes;
	if (grant->state != CAIRN_GRANT_FREE) {
		/* protobuf-c does not write to what it packs. */
		ret->grant.node = ret->answer.grant.node.address;
	}
	ret->msg.grant = &ret->grant;
}

static void show_found(struct cairn_static_reply *ret)
{
	for (size_t i = 0; i < ret->answer.n; i++) {
		cairn__peer__v1__found__init(&ret->found[i]);
		ret->found[i].node = ret->answer.found[i].node.address;
		ret->found[i].whole = ret->answer.found[i].whole;
		ret->found_ptrs[i] = &ret->found[i];
	}
	ret->msg.n_found = ret->answer.n;
	ret->msg.found = ret->found_ptrs;
}

/* It begins anew, and so may be dialled with success: do it now, so that what we hold is known to
 * it before it is asked for it. */
static void nudge(struct cairn_static *s, const char *peer)
{
	pthread_mutex_lock(&s->mu);
	for (slot_t i = 0; i < CAIRN_STATIC_PEERS_MAX; i++) {
		struct link *link = s->links[i];
		if (link == NULL || link->up || link->self || link->twin) continue;
		if (link->address[0] != '\0' && strcmp(link->address, peer) != 0) continue;
		link->nudged = true;
		static_wake(link);
	}
	pthread_mutex_unlock(&s->mu);
}

/* One digest: ret->answer is the answer. */
static void put(struct cairn_static *s, const struct cairn_memory_question *q,
		const Cairn__Peer__V1__DirectoryRequest *req, struct cairn_static_reply *ret)
{
	switch ((enum op)req->op) {
	case OP_ASK:
		cairn_memory_ask(s->mem, q, req->join, req->may_grant, &ret->answer);
		break;
	case OP_TAKE:
		cairn_memory_take(s->mem, q, req->version, &ret->answer.grant);
		break;
	case OP_KEEP:
		cairn_memory_keep(s->mem, q, req->bytes, &ret->answer.grant);
		break;
	case OP_LEAVE:
		cairn_memory_leave(s->mem, q);
		break;
	case OP_ANNOUNCE:
		cairn_memory_announce(s->mem, q);
		break;
	case OP_WITHDRAW:
		cairn_memory_withdraw(s->mem, q);
		break;
	case OP_PING:
		break;
	}
}

static enum cairn_code check(const struct cairn_static *s, const char *peer,
			     const Cairn__Peer__V1__DirectoryRequest *req,
			     struct cairn_static_reply *ret)
{
	enum op op = (enum op)req->op;
	if (op < OP_PING || op > OP_WITHDRAW) {
		return refuse(ret, CAIRN_UNIMPLEMENTED, "no such question to a directory");
	}
	bool many = op == OP_ANNOUNCE || op == OP_WITHDRAW;
	if (op == OP_PING ? req->n_digests != 0
	    : many	  ? req->n_digests > CAIRN_STATIC_BATCH
			  : req->n_digests != 1) {
		return refuse(ret, CAIRN_INVALID_ARGUMENT, "not that many digests");
	}
	for (size_t i = 0; i < req->n_digests; i++) {
		struct cairn_digest digest;
		if (take_digest(&req->digests[i], &digest)) continue;
		return refuse(ret, CAIRN_INVALID_ARGUMENT, "no digest");
	}
	if (peer[0] == '\0' || strcmp(peer, s->own->address) == 0) {
		return refuse(ret, CAIRN_FAILED_PRECONDITION,
			      "you call yourself as this node does: two nodes have one address");
	}
	return CAIRN_OK;
}

void cairn_static_answer(struct cairn_directory *dir, const char *peer,
			 const Cairn__Peer__V1__DirectoryRequest *req,
			 struct cairn_static_reply *ret)
{
	struct cairn_static *s = static_of(dir);
	memset(ret, 0, sizeof(*ret));
	cairn__peer__v1__directory_response__init(&ret->msg);
	if (check(s, peer, req, ret) != CAIRN_OK) return;
	int64_t now_ms = static_now_ms();
	enum op op = (enum op)req->op;
	bool anew = op == OP_PING && req->join;
	if (anew) cairn_memory_forget(s->mem, peer);
	ret->msg.life = cairn_memory_hear(s->mem, peer, now_ms);
	if (ret->msg.life == 0) {
		refuse(ret, CAIRN_RESOURCE_EXHAUSTED, "too many nodes");
		return;
	}
	for (size_t i = 0; i < req->n_digests; i++) {
		struct cairn_digest digest;
		(void)take_digest(&req->digests[i], &digest); /* it was checked */
		const struct cairn_memory_question q = {
			.node = peer, .now_ms = now_ms, .digest = &digest};
		put(s, &q, req, ret);
	}
	if (op == OP_ASK) show_found(ret);
	if (op == OP_ASK || op == OP_TAKE || op == OP_KEEP) {
		show_grant(&ret->answer.grant, ret);
	}
	if (anew) nudge(s, peer);
}
