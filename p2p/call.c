/* Calls: questions to other nodes that are not about a blob. */
#include "p2p/call.h"

#include <stdlib.h>
#include <string.h>

/* ---- answering ---- */

void cairn_swarm_answer(struct cairn_swarm *swarm, cairn_answer_fn *fn, void *arg)
{
	pthread_mutex_lock(&swarm->call_mu);
	swarm->answer = fn;
	swarm->answer_arg = arg;
	while (fn == NULL && swarm->n_calls > 0) {
		pthread_cond_wait(&swarm->call_ended, &swarm->call_mu);
	}
	pthread_mutex_unlock(&swarm->call_mu);
}

static enum cairn_code begin(struct cairn_swarm *swarm, cairn_answer_fn **ret, void **ret_arg,
			     struct cairn_err *err)
{
	enum cairn_code rc = CAIRN_OK;
	pthread_mutex_lock(&swarm->call_mu);
	*ret = swarm->answer;
	*ret_arg = swarm->answer_arg;
	if (swarm->answer == NULL) {
		rc = cairn_err_set(err, CAIRN_UNAVAILABLE,
				   "this node answers no calls at this moment: it starts or ends");
	} else if (swarm->n_calls >= CAIRN_CALLS_MAX) {
		rc = cairn_err_set(err, CAIRN_RESOURCE_EXHAUSTED,
				   "%d calls are being answered already; try again",
				   CAIRN_CALLS_MAX);
	} else {
		swarm->n_calls++;
	}
	pthread_mutex_unlock(&swarm->call_mu);
	return rc;
}

static void end(struct cairn_swarm *swarm)
{
	pthread_mutex_lock(&swarm->call_mu);
	swarm->n_calls--;
	pthread_cond_broadcast(&swarm->call_ended);
	pthread_mutex_unlock(&swarm->call_mu);
}

static enum cairn_code run(struct cairn_swarm *swarm, const char *peer, const char *name,
			   const uint8_t *request, size_t n, uint8_t **ret, size_t *ret_n,
			   struct cairn_err *err)
{
	cairn_answer_fn *fn = NULL;
	void *arg = NULL;
	*ret = NULL;
	*ret_n = 0;
	if (name[0] == '\0' || strlen(name) > CAIRN_CALL_NAME_MAX) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "the name of a call has 1 to %d bytes", CAIRN_CALL_NAME_MAX);
	}
	enum cairn_code rc = begin(swarm, &fn, &arg, err);
	if (rc) return rc;
	rc = fn(arg, peer, name, request, n, ret, ret_n, err);
	end(swarm);
	if (rc == CAIRN_OK && *ret_n > CAIRN_ANSWER_PAYLOAD_MAX) {
		rc = cairn_err_set(err, CAIRN_RESOURCE_EXHAUSTED,
				   "the answer has %zu bytes; at most %u go into one", *ret_n,
				   CAIRN_ANSWER_PAYLOAD_MAX);
	}
	if (rc) {
		free(*ret);
		*ret = NULL;
		*ret_n = 0;
	}
	return rc;
}

bool cairn_call_answer(struct cairn_swarm *swarm, struct cairn_conn *conn,
		       const Cairn__Peer__V1__Call *call, int64_t timeout_ms)
{
	Cairn__Peer__V1__Answer msg;
	struct cairn_err err = {0}, lost;
	const char *peer = cairn_conn_certificate(conn);
	if (peer[0] == '\0') peer = cairn_conn_address(conn);
	cairn__peer__v1__answer__init(&msg);
	msg.code = run(swarm, peer, call->name, call->payload.data, call->payload.len,
		       &msg.payload.data, &msg.payload.len, &err);
	if (msg.code != CAIRN_OK) msg.message = err.msg;
	bool ok = cairn_conn_send_message(conn, CAIRN_FRAME_ANSWER, &msg.base, timeout_ms, &lost) ==
		  CAIRN_OK;
	free(msg.payload.data);
	return ok;
}

/* ---- asking ---- */

static enum cairn_code receive(struct cairn_conn *conn, int64_t end_ms,
			       Cairn__Peer__V1__Answer **ret, struct cairn_err *err)
{
	struct cairn_frame frame;
	ProtobufCMessage *msg = NULL;
	int64_t left_ms = end_ms - cairn_swarm_now_ms();
	enum cairn_code rc = cairn_conn_read_head(conn, left_ms > 1 ? left_ms : 1, &frame, err);
	if (rc) return rc;
	if (frame.type != CAIRN_FRAME_ANSWER) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "a frame of type %u came instead of an answer", frame.type);
	}
	left_ms = end_ms - cairn_swarm_now_ms();
	rc = cairn_conn_read_message(conn, &frame, &cairn__peer__v1__answer__descriptor,
				     left_ms > 1 ? left_ms : 1, &msg, err);
	if (rc == CAIRN_OK) *ret = (Cairn__Peer__V1__Answer *)msg;
	return rc;
}

static enum cairn_code converse(struct cairn_conn *conn, const Cairn__Peer__V1__Call *call,
				int64_t end_ms, Cairn__Peer__V1__Answer **ret,
				struct cairn_err *err)
{
	if ((cairn_conn_features(conn) & CAIRN_FEATURE_CALLS) == 0) {
		return cairn_err_set(
			err, CAIRN_FAILED_PRECONDITION,
			"node %.100s answers no calls: it runs a version without them, "
			"or its configuration has p2p.fleet: \"off\"",
			cairn_conn_name(conn));
	}
	int64_t left_ms = end_ms - cairn_swarm_now_ms();
	if (left_ms < 1) left_ms = 1;
	enum cairn_code rc =
		cairn_conn_send_message(conn, CAIRN_FRAME_CALL, &call->base, left_ms, err);
	if (rc == CAIRN_OK) rc = cairn_conn_flush(conn, left_ms, err);
	return rc ? rc : receive(conn, end_ms, ret, err);
}

/* On a connection of the pool's; on a new one, if that was idle and had died. */
static enum cairn_code ask(struct cairn_swarm *swarm, const char *address,
			   const Cairn__Peer__V1__Call *call, int64_t end_ms,
			   Cairn__Peer__V1__Answer **ret, struct cairn_err *err)
{
	for (bool again = false;; again = true) {
		struct cairn_conn *conn = NULL;
		bool fresh = true;
		int64_t left_ms = end_ms - cairn_swarm_now_ms();
		enum cairn_code rc = cairn_pool_take(swarm->pool, address, again,
						     left_ms > 1 ? left_ms : 1, &conn, &fresh, err);
		if (rc) return rc;
		rc = converse(conn, call, end_ms, ret, err);
		if (rc == CAIRN_OK) { /* who that is is known from now on, also when it is gone */
			cairn_peers_met(swarm->peers, address, cairn_conn_certificate(conn));
			cairn_peers_parted(swarm->peers, address);
		}
		cairn_pool_give(swarm->pool, &conn, rc == CAIRN_OK);
		if (rc != CAIRN_UNAVAILABLE || fresh) return rc;
	}
}

/* What the node said, made ours. Text of another's is text: nothing in it is trusted. */
static enum cairn_code take_answer(Cairn__Peer__V1__Answer *answer, uint8_t **ret, size_t *ret_n,
				   struct cairn_err *err)
{
	if (answer->code != CAIRN_OK) {
		enum cairn_code code = answer->code <= CAIRN_UNAUTHENTICATED
					       ? (enum cairn_code)answer->code
					       : CAIRN_UNKNOWN;
		for (char *c = answer->message; *c != '\0'; c++) {
			if ((unsigned char)*c < ' ' || *c == 0x7f) *c = '?';
		}
		return cairn_err_set(err, code, "%s", answer->message);
	}
	*ret = cairn_steal(&answer->payload.data);
	*ret_n = answer->payload.len;
	answer->payload.len = 0;
	return CAIRN_OK;
}

enum cairn_code cairn_swarm_call(struct cairn_swarm *swarm, const char *address, const char *name,
				 const uint8_t *request, size_t n, int64_t timeout_ms,
				 uint8_t **ret, size_t *ret_n, bool *ret_answered,
				 struct cairn_err *err)
{
	*ret_answered = false;
	if (n > CAIRN_CALL_PAYLOAD_MAX) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "a call of %zu bytes; at most %u go to another node", n,
				     CAIRN_CALL_PAYLOAD_MAX);
	}
	if (strcmp(address, swarm->hello.address) == 0) {
		*ret_answered = true;
		return run(swarm, swarm->hello.name, name, request, n, ret, ret_n, err);
	}
	Cairn__Peer__V1__Call call;
	Cairn__Peer__V1__Answer *answer = NULL;
	cairn__peer__v1__call__init(&call);
	/* protobuf-c does not write to what it packs. */
	memcpy(&call.name, &name, sizeof(call.name));
	memcpy(&call.payload.data, &request, sizeof(call.payload.data));
	call.payload.len = n;
	enum cairn_code rc =
		ask(swarm, address, &call, cairn_swarm_now_ms() + timeout_ms, &answer, err);
	if (rc) return rc;
	*ret_answered = true;
	rc = take_answer(answer, ret, ret_n, err);
	cairn__peer__v1__answer__free_unpacked(answer, NULL);
	return rc;
}
