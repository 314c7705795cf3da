/* Sending and receiving on a call, for server and client alike. The functions named start_* and
 * *_back run on a thread's stack, the public ones on the owner's. */
#include <assert.h>
#include <grpc/byte_buffer.h>
#include <string.h>

#include "rpc/call.h"

#define OPS_MAX 4

/* ---- receive --------------------------------------------------------------------------------- */

static void recv_back(struct cairn_tag *tag, bool ok)
{
	struct cairn_call *call = CAIRN_CALL_OF(tag, op);
	call->msg = NULL;
	bool resume = true;
	if (ok && call->in != NULL) {
		call->msg = cairn_msg_from_buffer(cairn_steal(&call->in));
		call->received_any = true;
		call->received_bytes += cairn_msg_len(call->msg);
	} else {
		call->recv_ended = true;
		if (call->server == NULL) {
			resume = cairn_client_status_known(call);
		} else {
			call->recv_gone =
				!ok || grpc_call_failed_before_recv_message(call->call) != 0;
		}
	}
	if (resume) cairn_call_resume(call);
	cairn_call_drop(call);
}

static bool start_recv(void *arg)
{
	struct cairn_call *call = arg;
	grpc_op ops[OPS_MAX] = {0};
	size_t n = 0;
	if (call->server != NULL) {
		cairn_call_watch(call);
	} else if (!call->received_initial) {
		call->received_initial = true;
		ops[n].op = GRPC_OP_RECV_INITIAL_METADATA;
		ops[n++].data.recv_initial_metadata.recv_initial_metadata = &call->initial_md;
	}
	ops[n].op = GRPC_OP_RECV_MESSAGE;
	ops[n++].data.recv_message.recv_message = &call->in;
	(void)cairn_call_start(call, ops, n, &call->op, recv_back);
	return false;
}

enum cairn_recv cairn_call_recv(struct cairn_call *call, struct cairn_msg **ret)
{
	if (!call->recv_ended) cairn_call_park(call, start_recv);
	if (call->recv_ended) {
		bool gone = call->server == NULL ? cairn_call_gone(call) : call->recv_gone;
		return gone ? CAIRN_RECV_GONE : CAIRN_RECV_END;
	}
	*ret = cairn_steal(&call->msg);
	return CAIRN_RECV_MSG;
}

static void destroy_msg(void *msg)
{
	cairn_msg_destroy(msg);
}

void cairn_msg_free(struct cairn_msg *msg)
{
	if (msg != NULL) cairn_call_native(destroy_msg, msg);
}

enum cairn_code cairn_msg_unpack(struct cairn_call *call, const struct cairn_msg *msg,
				 const ProtobufCMessageDescriptor *type, ProtobufCMessage **ret,
				 struct cairn_err *err)
{
	return cairn_msg_unpack_arena(&call->arena, msg, type, ret, err);
}

/* ---- send ------------------------------------------------------------------------------------ */

static void send_overdue(struct cairn_timer *timer)
{
	struct cairn_call *call = CAIRN_CALL_OF(timer, send_timer);
	pthread_mutex_lock(&call->mu);
	/* The timer may have been set anew since it was taken off the heap. */
	bool due = cairn_monotonic_ns() >= timer->deadline_ns;
	pthread_mutex_unlock(&call->mu);
	if (due) cairn_call_cancel(call);
	cairn_call_unref(call);
}

static void set_limit(struct cairn_call *call)
{
	if (call->send_limit_ms == 0) return;
	pthread_mutex_lock(&call->mu);
	call->send_timer.fn = send_overdue;
	call->send_timer.deadline_ns = cairn_monotonic_ns() + call->send_limit_ms * 1000000;
	pthread_mutex_unlock(&call->mu);
	cairn_call_ref(call); /* the timer's */
	cairn_timer_add(call->rpc->timers, &call->send_timer);
}

static void clear_limit(struct cairn_call *call)
{
	if (call->send_limit_ms == 0) return;
	if (cairn_timer_remove(call->rpc->timers, &call->send_timer)) cairn_call_unref(call);
}

void cairn_call_limit_sends(struct cairn_call *call, int64_t ms)
{
	assert(call->server != NULL && ms >= 0);
	call->send_limit_ms = ms;
}

static void send_back(struct cairn_tag *tag, bool ok)
{
	struct cairn_call *call = CAIRN_CALL_OF(tag, op);
	clear_limit(call);
	call->op_ok = ok;
	grpc_slice_buffer_destroy(&call->out.data.raw.slice_buffer);
	if (call->cancelled != 0) atomic_store_explicit(&call->gone, true, memory_order_release);
	cairn_call_resume(call);
	cairn_call_drop(call);
}

/* The message and status OK in one batch, with which the call can end. */
static size_t add_last(struct cairn_call *call, grpc_op *op)
{
	size_t n = 0;
	call->status_sent = true;
	op[n].op = GRPC_OP_SEND_STATUS_FROM_SERVER;
	op[n++].data.send_status_from_server.status = GRPC_STATUS_OK;
	if (!call->close_started) {
		call->close_started = true;
		op[n].op = GRPC_OP_RECV_CLOSE_ON_SERVER;
		op[n++].data.recv_close_on_server.cancelled = &call->cancelled;
	}
	return n;
}

static bool start_send(void *arg)
{
	struct cairn_call *call = arg;
	grpc_op ops[OPS_MAX] = {0};
	size_t n = 0;
	cairn_buffer_init(&call->out);
	if (call->send_msg != NULL) {
		cairn_buffer_pack(&call->out, call->send_msg, call->send_len);
	} else {
		cairn_buffer_view(&call->out, call->send_head, call->send_head_len,
				  call->send_view);
	}
	if (call->server != NULL && !call->last) cairn_call_watch(call);
	if (!call->sent_initial) {
		call->sent_initial = true;
		ops[n++].op = GRPC_OP_SEND_INITIAL_METADATA;
	}
	ops[n].op = GRPC_OP_SEND_MESSAGE;
	ops[n++].data.send_message.send_message = &call->out;
	if (call->last) n += add_last(call, &ops[n]);
	set_limit(call);
	(void)cairn_call_start(call, ops, n, &call->op, send_back);
	return false;
}

static enum cairn_code send_prepared(struct cairn_call *call, struct cairn_err *err)
{
	assert(!call->status_sent && !call->half_closed);
	if (call->send_len > CAIRN_RPC_MESSAGE_MAX) {
		return cairn_err_set(err, CAIRN_RESOURCE_EXHAUSTED,
				     "send a message of %zu bytes: at most %u are allowed",
				     call->send_len, CAIRN_RPC_MESSAGE_MAX);
	}
	if (!cairn_call_gone(call)) {
		size_t len = call->send_len;
		cairn_call_park(call, start_send);
		if (call->op_ok) {
			call->sent_bytes += len;
			return CAIRN_OK;
		}
	}
	return cairn_err_set(err, CAIRN_CANCELLED,
			     "send a message: the call is over: it was cancelled, its deadline "
			     "passed, or the connection is lost");
}

enum cairn_code cairn_call_send(struct cairn_call *call, const ProtobufCMessage *msg,
				struct cairn_err *err)
{
	call->send_msg = msg;
	call->send_len = protobuf_c_message_get_packed_size(msg);
	return send_prepared(call, err);
}

enum cairn_code cairn_call_send_view(struct cairn_call *call, const void *head, size_t head_len,
				     struct cairn_view *view, struct cairn_err *err)
{
	call->send_msg = NULL;
	call->send_head = head;
	call->send_head_len = head_len;
	call->send_view = view;
	call->send_len = head_len > SIZE_MAX - view->len ? SIZE_MAX : head_len + view->len;
	enum cairn_code rc = send_prepared(call, err);
	cairn_view_release(view); /* empty by now, unless it was not sent */
	return rc;
}

void cairn_call_last(struct cairn_call *call)
{
	assert(call->server != NULL && call->method != NULL);
	call->last = true;
}
