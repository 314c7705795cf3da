/* The life of a server call: request, first message, handler, status, over.
 *
 *   requested ──► decoded ──► handler on a fiber ──► status sent ──► over
 *
 * gRPC is asked for calls method by method: for unary and server-streaming ones it hands out a call
 * together with its message, which saves a batch and a wake-up of a polling thread. A bidi handler
 * reads for itself. GRPC_OP_RECV_CLOSE_ON_SERVER is started for every call: by cairn_call_watch
 * before the handler first waits, or else as part of the batch with the status, so that a handler
 * that never waits costs one batch in all. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "rpc/call.h"
#include "rpc/server.h"

#define FINAL_OPS_MAX 4

/* ---- the end --------------------------------------------------------------------------------- */

/* The path of a call, also of one that no method of ours is for, then cut. */
#define PATH_MAX_SHOWN 128
static const char *path_of(struct cairn_call *call)
{
	if (call->method != NULL) return call->method->m->path;
	grpc_slice path = call->details.method;
	size_t n = GRPC_SLICE_LENGTH(path);
	if (n > PATH_MAX_SHOWN) n = PATH_MAX_SHOWN;
	char *copy = cairn_call_alloc(call, n + 1); /* zeroed: terminated */
	memcpy(copy, GRPC_SLICE_START_PTR(path), n);
	return copy;
}

static void tell_end(struct cairn_call *call, enum cairn_code code)
{
	const struct cairn_rpc_watch *watch = &call->server->watch;
	if (watch->ended == NULL) return;
	const struct cairn_call_end end = {
		.path = path_of(call),
		.request = call->req,
		.code = code,
		.error = code == CAIRN_OK  ? ""
			 : call->status_ok ? call->err.msg
					   : "the client went away",
		.duration_ms = (cairn_monotonic_ns() - call->start_ns) / 1000000,
	};
	watch->ended(watch->arg, &end);
}

static void call_over(struct cairn_call *call)
{
	struct cairn_rpc_server *server = call->server;
	enum cairn_code code = call->status_ok ? call->rc : CAIRN_CANCELLED;
	tell_end(call, code);
	if (call->method != NULL) cairn_method_end(call->method, call, code);
	grpc_metadata_array_destroy(&call->metadata);
	grpc_call_details_destroy(&call->details);
	pthread_mutex_lock(&call->mu);
	grpc_call *over = cairn_steal(&call->call);
	pthread_mutex_unlock(&call->mu);
	atomic_store_explicit(&call->gone, true, memory_order_release);
	grpc_call_unref(over);
	cairn_arena_reset(&call->arena);
	pthread_mutex_lock(&server->mu);
	if (call->in_waiters) LIST_REMOVE(call, waiters);
	call->in_waiters = false;
	server->active--;
	if (cairn_server_draining(server)) pthread_cond_broadcast(&server->changed);
	pthread_mutex_unlock(&server->mu);
}

static void final_back(struct cairn_tag *tag, bool ok)
{
	struct cairn_call *call = CAIRN_CALL_OF(tag, final);
	call->status_ok = ok && call->cancelled == 0;
	grpc_slice_buffer_destroy(&call->out.data.raw.slice_buffer);
	cairn_call_drop(call);
}

/* One batch: initial metadata if still due, the reply of a unary call, the status, and the watch
 * for the peer's end if none is set yet. */
static void send_status(struct cairn_call *call)
{
	grpc_op ops[FINAL_OPS_MAX] = {0};
	size_t n = 0;
	grpc_slice text = grpc_empty_slice();
	cairn_buffer_init(&call->out);
	if (!call->sent_initial) ops[n++].op = GRPC_OP_SEND_INITIAL_METADATA;
	if (call->rc == CAIRN_OK && call->resp != NULL) {
		call->send_len = protobuf_c_message_get_packed_size(call->resp);
		if (call->send_len > CAIRN_RPC_MESSAGE_MAX) {
			call->rc = cairn_err_set(&call->err, CAIRN_RESOURCE_EXHAUSTED,
						 "the reply has %zu bytes, at most %u are allowed",
						 call->send_len, CAIRN_RPC_MESSAGE_MAX);
		}
	}
	if (call->rc == CAIRN_OK && call->resp != NULL) {
		cairn_buffer_pack(&call->out, call->resp, call->send_len);
		call->sent_bytes += call->send_len;
		ops[n].op = GRPC_OP_SEND_MESSAGE;
		ops[n++].data.send_message.send_message = &call->out;
	}
	ops[n].op = GRPC_OP_SEND_STATUS_FROM_SERVER;
	ops[n].data.send_status_from_server.status = (grpc_status_code)call->rc;
	if (call->rc != CAIRN_OK) {
		text = grpc_slice_from_copied_string(call->err.msg);
		ops[n].data.send_status_from_server.status_details = &text;
	}
	n++;
	if (!call->close_started) {
		call->close_started = true;
		ops[n].op = GRPC_OP_RECV_CLOSE_ON_SERVER;
		ops[n++].data.recv_close_on_server.cancelled = &call->cancelled;
	}
	call->status_sent = true;
	(void)cairn_call_start(call, ops, n, &call->final, final_back);
	grpc_slice_unref(text);
}

static void first_read_back(struct cairn_tag *tag, bool ok)
{
	(void)ok;
	struct cairn_call *call = CAIRN_CALL_OF(tag, op);
	if (call->in != NULL) grpc_byte_buffer_destroy(call->in);
	call->in = NULL;
	send_status(call);
	cairn_call_drop(call); /* the batch's */
	cairn_call_drop(call); /* the owner's */
}

/* The handler is done; call->rc and call->err say how. */
static void finish(struct cairn_call *call)
{
	bool unread = call->method != NULL && call->method->m->bidi != NULL &&
		      !call->received_any && !call->recv_ended;
	if (call->status_sent) {
		call->status_ok = call->op_ok && call->cancelled == 0;
		call->rc = CAIRN_OK;
	} else if (unread && call->rc != CAIRN_OK) {
		/* A Go client whose first Send meets a finished stream gets a bare EOF, and the
		 * status is lost: let it send first. */
		grpc_op op = {.op = GRPC_OP_RECV_MESSAGE};
		op.data.recv_message.recv_message = &call->in;
		cairn_call_watch(call);
		(void)cairn_call_start(call, &op, 1, &call->op, first_read_back);
		return;
	} else {
		send_status(call);
	}
	cairn_call_drop(call);
}

static void fail(struct cairn_call *call, enum cairn_code rc)
{
	/* Who is refused before his request is decoded leaves it behind. */
	if (call->in != NULL) grpc_byte_buffer_destroy(cairn_steal(&call->in));
	call->rc = rc;
	finish(call);
}

/* ---- the handler ----------------------------------------------------------------------------- */

static void run_handler(void *arg)
{
	struct cairn_call *call = arg;
	struct cairn_service_method *m = call->method;
	if (m->m->unary != NULL) {
		call->rc = m->m->unary(m->service, call, call->req, call->resp, &call->err);
	} else if (m->m->server_stream != NULL) {
		call->rc = m->m->server_stream(m->service, call, call->req, &call->err);
	} else {
		call->rc = m->m->bidi(m->service, call, &call->err);
	}
}

static void handler_done(void *call)
{
	finish(call);
}

static void start_handler(struct cairn_call *call)
{
	struct cairn_fiber *f = cairn_fiber_new(call->rpc->fibers, run_handler, handler_done, call);
	if (f == NULL) {
		fail(call, cairn_err_set(&call->err, CAIRN_RESOURCE_EXHAUSTED,
					 "no memory for the stack of one more call: try again "
					 "later"));
		return;
	}
	cairn_fiber_run(f);
}

static enum cairn_code decode(struct cairn_call *call)
{
	const struct cairn_method *m = call->method->m;
	if (call->in == NULL) {
		return cairn_err_set(&call->err, CAIRN_INVALID_ARGUMENT,
				     "the client sent no request message");
	}
	struct cairn_msg *msg = cairn_msg_from_buffer(cairn_steal(&call->in));
	call->received_any = true;
	call->received_bytes += cairn_msg_len(msg);
	enum cairn_code rc =
		cairn_msg_unpack_arena(&call->arena, msg, m->request, &call->req, &call->err);
	cairn_msg_destroy(msg);
	if (rc != CAIRN_OK) return rc;
	if (m->unary != NULL) {
		call->resp = cairn_call_alloc(call, m->response->sizeof_message);
		protobuf_c_message_init(m->response, call->resp);
	}
	return CAIRN_OK;
}

/* ---- a new call ------------------------------------------------------------------------------ */

static enum cairn_code unknown_method(struct cairn_call *call)
{
	return cairn_err_set(&call->err, CAIRN_UNIMPLEMENTED, "this server has no method %s",
			     path_of(call));
}

/* What can be refused before the handler runs; else its request is decoded. */
static enum cairn_code admit(struct cairn_call *call, size_t active)
{
	const struct cairn_rpc_watch *watch = &call->server->watch;
	if (watch->admit != NULL) {
		enum cairn_code rc = watch->admit(watch->arg, path_of(call), &call->err);
		if (rc) return rc;
	}
	if (call->method == NULL) return unknown_method(call);
	if (active > CAIRN_RPC_HANDLERS_MAX) {
		call->recv_ended = true; /* a bidi call's first message is not waited for */
		return cairn_err_set(&call->err, CAIRN_RESOURCE_EXHAUSTED,
				     "%d calls are being served already: try again later",
				     CAIRN_RPC_HANDLERS_MAX);
	}
	return call->method->m->bidi != NULL ? CAIRN_OK : decode(call);
}

static void begin_call(struct cairn_call *call, size_t active)
{
	call->start_ns = cairn_monotonic_ns();
	if (call->method != NULL) cairn_method_begin(call->method);
	enum cairn_code rc = admit(call, active);
	if (rc == CAIRN_OK) {
		start_handler(call);
	} else {
		fail(call, rc);
	}
}

static void discard(struct cairn_call *call)
{
	if (call->in != NULL) grpc_byte_buffer_destroy(call->in);
	grpc_metadata_array_destroy(&call->metadata);
	grpc_call_details_destroy(&call->details);
	cairn_call_unref(call);
}

static void requested(struct cairn_tag *tag, bool ok)
{
	struct cairn_call *call = CAIRN_CALL_OF(tag, request);
	struct cairn_rpc_server *server = call->server;
	if (ok && !cairn_server_draining(server)) cairn_server_request(server, call->method);
	if (!ok) discard(call);
	pthread_mutex_lock(&server->mu);
	server->requested--;
	if (ok) server->active++;
	size_t active = server->active;
	if (cairn_server_draining(server)) pthread_cond_broadcast(&server->changed);
	pthread_mutex_unlock(&server->mu);
	if (ok) begin_call(call, active);
}

static grpc_call_error request_call(struct cairn_call *call)
{
	struct cairn_rpc_server *server = call->server;
	grpc_completion_queue *cq = server->rpc->cq;
	if (call->method == NULL) {
		return grpc_server_request_call(server->server, &call->call, &call->details,
						&call->metadata, cq, cq, &call->request);
	}
	return grpc_server_request_registered_call(
		server->server, call->method->registered, &call->call, &call->details.deadline,
		&call->metadata, call->method->m->bidi != NULL ? NULL : &call->in, cq, cq,
		&call->request);
}

void cairn_server_request(struct cairn_rpc_server *server, struct cairn_service_method *method)
{
	struct cairn_call *call = cairn_call_new(server->rpc);
	call->server = server;
	call->method = method;
	call->on_over = call_over;
	grpc_call_details_init(&call->details);
	grpc_metadata_array_init(&call->metadata);
	pthread_mutex_lock(&server->mu);
	server->requested++;
	pthread_mutex_unlock(&server->mu);
	cairn_tag_arm(&call->request, requested);
	grpc_call_error rc = request_call(call);
	if (rc != GRPC_CALL_OK) {
		cairn_log(CAIRN_LOG_ERROR, "rpc_request",
			  CAIRN_STR("err", grpc_call_error_to_string(rc)));
		abort();
	}
}

/* ---- headers --------------------------------------------------------------------------------- */

const char *cairn_call_header(struct cairn_call *call, const char *name)
{
	size_t n = strlen(name);
	for (size_t i = 0; i < call->metadata.count; i++) {
		const grpc_metadata *md = &call->metadata.metadata[i];
		if (GRPC_SLICE_LENGTH(md->key) != n) continue;
		if (memcmp(GRPC_SLICE_START_PTR(md->key), name, n) != 0) continue;
		size_t len = GRPC_SLICE_LENGTH(md->value);
		char *copy = cairn_call_alloc(call, len + 1); /* zeroed: terminated */
		memcpy(copy, GRPC_SLICE_START_PTR(md->value), len);
		return copy;
	}
	return NULL;
}
