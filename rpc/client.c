/* Channels and client calls. Calls made from a handler are cancelled when the handler's own call
 * goes away, so that no handler outlives its client by waiting for somebody else. */
#include <assert.h>
#include <grpc/grpc_security.h>
#include <grpc/support/time.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "rpc/call.h"
#include "rpc/server.h"

#define BACKOFF_FIRST_MS 200
#define BACKOFF_MAX_MS 3000
#define CONNECT_MS 10000     /* for one attempt, up to the other side's SETTINGS */
#define PINGS_WITHOUT_DATA 2 /* gRPC's own default */
#define HEADERS_MAX 16
#define OPS_MAX 6

struct cairn_channel {
	struct cairn_rpc *rpc;
	grpc_channel *channel;
};

/* ---- channels -------------------------------------------------------------------------------- */

static grpc_channel *make_channel(const char *target, const struct cairn_tls *tls,
				  grpc_channel_credentials *creds)
{
	const char *name = tls != NULL ? tls->server_name : NULL;
	bool keepalive = tls != NULL && tls->keepalive_ms > 0;
	grpc_arg args[] = {
		{.type = GRPC_ARG_INTEGER,
		 .key = GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH,
		 .value.integer = CAIRN_RPC_MESSAGE_MAX},
		{.type = GRPC_ARG_INTEGER,
		 .key = GRPC_ARG_MAX_SEND_MESSAGE_LENGTH,
		 .value.integer = -1},
		{.type = GRPC_ARG_INTEGER,
		 .key = GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS,
		 .value.integer = BACKOFF_FIRST_MS},
		/* Despite its name, how long an attempt may take. */
		{.type = GRPC_ARG_INTEGER,
		 .key = GRPC_ARG_MIN_RECONNECT_BACKOFF_MS,
		 .value.integer = CONNECT_MS},
		{.type = GRPC_ARG_INTEGER,
		 .key = GRPC_ARG_MAX_RECONNECT_BACKOFF_MS,
		 .value.integer = BACKOFF_MAX_MS},
		/* Connections are the channel's own, so that they end with it. */
		{.type = GRPC_ARG_INTEGER,
		 .key = GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL,
		 .value.integer = 1},
		{.type = GRPC_ARG_INTEGER,
		 .key = GRPC_COMPRESSION_CHANNEL_ENABLED_ALGORITHMS_BITSET,
		 .value.integer = 1 << GRPC_COMPRESS_NONE},
		/* No proxy from the environment, no configuration from DNS, no buffering for
		 * retries: what is called is what the target says, once. */
		{.type = GRPC_ARG_INTEGER, .key = GRPC_ARG_ENABLE_HTTP_PROXY, .value.integer = 0},
		{.type = GRPC_ARG_INTEGER,
		 .key = GRPC_ARG_SERVICE_CONFIG_DISABLE_RESOLUTION,
		 .value.integer = 1},
		{.type = GRPC_ARG_INTEGER, .key = GRPC_ARG_ENABLE_RETRIES, .value.integer = 0},
		{.type = GRPC_ARG_INTEGER, /* INT32_MAX: never */
		 .key = GRPC_ARG_KEEPALIVE_TIME_MS,
		 .value.integer = keepalive ? tls->keepalive_ms : INT32_MAX},
		/* However long a call is quiet; but not of servers that we did not ask for it: they
		 * count pings. */
		{.type = GRPC_ARG_INTEGER,
		 .key = GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA,
		 .value.integer = keepalive ? 0 : PINGS_WITHOUT_DATA},
		/* The last one: it is left out if there is no name. */
		{.type = GRPC_ARG_STRING,
		 .key = GRPC_SSL_TARGET_NAME_OVERRIDE_ARG,
		 .value.string = (char *)(uintptr_t)name},
	};
	grpc_channel_args list = {CAIRN_LEN(args) - (name == NULL), args};
	return grpc_channel_create(target, creds, &list);
}

struct new_channel {
	const char *target;
	const struct cairn_tls *tls;
	grpc_channel *channel;
	struct cairn_err *err;
	enum cairn_code rc;
};

static void new_channel(void *arg)
{
	struct new_channel *p = arg;
	grpc_channel_credentials *creds = NULL;
	if (p->tls != NULL) {
		p->rc = cairn_tls_client(p->tls, &creds, p->err);
		if (p->rc) return;
	} else {
		creds = grpc_insecure_credentials_create();
	}
	p->channel = make_channel(p->target, p->tls, creds);
	grpc_channel_credentials_release(creds);
}

/* To gRPC a target is a URI: "%", "?" and the like in a socket's path would not be of the path. */
static char *target_uri(const char *target)
{
	static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
				    "0123456789-._~/";
	size_t n = strncmp(target, "unix:", 5) == 0 ? 5 : strlen(target);
	char *uri = malloc(3 * strlen(target) + 1), *to = uri;
	if (uri == NULL) abort();
	memcpy(to, target, n);
	to += n;
	for (const char *c = target + n; *c != '\0'; c++) {
		if (strchr(plain, *c) != NULL) {
			*to++ = *c;
		} else {
			to += snprintf(to, 4, "%%%02X", (unsigned)(unsigned char)*c);
		}
	}
	*to = '\0';
	return uri;
}

enum cairn_code cairn_channel_new(struct cairn_rpc *rpc, const char *target,
				  const struct cairn_tls *tls, struct cairn_channel **ret,
				  struct cairn_err *err)
{
	char *uri = target_uri(target);
	struct new_channel p = {.target = uri, .tls = tls, .err = err};
	cairn_call_native(new_channel, &p);
	free(uri);
	if (p.rc) return cairn_err_wrap(err, "channel to %s", target);
	struct cairn_channel *channel = calloc(1, sizeof(*channel));
	if (channel == NULL) abort();
	channel->rpc = rpc;
	channel->channel = p.channel;
	*ret = channel;
	return CAIRN_OK;
}

static void destroy_channel(void *channel)
{
	grpc_channel_destroy(channel);
}

void cairn_channel_free(struct cairn_channel *channel)
{
	if (channel == NULL) return;
	cairn_call_native(destroy_channel, channel->channel);
	free(channel);
}

/* ---- calls ----------------------------------------------------------------------------------- */

struct new_call {
	struct cairn_channel *channel;
	const char *path;
	const struct cairn_header *headers;
	size_t n_headers;
	int64_t timeout_ms;
	struct cairn_call *parent;	 /* the handler's, or NULL */
	const ProtobufCMessage *request; /* unary */
	struct cairn_call *call;
	struct cairn_err *err;
};

/* All of the call is gRPC's no more: wakes finish. */
static void call_over(struct cairn_call *call)
{
	cairn_call_wake(call, CAIRN_ON_OVER, true);
}

static gpr_timespec deadline(int64_t timeout_ms)
{
	if (timeout_ms <= 0) return gpr_inf_future(GPR_CLOCK_MONOTONIC);
	return gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
			    gpr_time_from_millis(timeout_ms, GPR_TIMESPAN));
}

static void make_call(struct new_call *p)
{
	struct cairn_call *call = cairn_call_new(p->channel->rpc);
	grpc_call *parent = NULL;
	if (p->parent != NULL) {
		cairn_call_watch(p->parent); /* or gRPC does not hear of its end either */
		parent = p->parent->call;
	}
	grpc_slice path = grpc_slice_from_copied_string(p->path);
	call->call = grpc_channel_create_call(
		p->channel->channel, parent, parent != NULL ? GRPC_PROPAGATE_CANCELLATION : 0,
		p->channel->rpc->cq, path, NULL, deadline(p->timeout_ms), NULL);
	grpc_slice_unref(path);
	call->on_over = call_over;
	call->details_slice = grpc_empty_slice();
	grpc_metadata_array_init(&call->initial_md);
	grpc_metadata_array_init(&call->trailing_md);
	p->call = call;
}

static void release_call(void *arg)
{
	struct cairn_call *call = arg;
	grpc_metadata_array_destroy(&call->initial_md);
	grpc_metadata_array_destroy(&call->trailing_md);
	grpc_slice_unref(call->details_slice);
	if (call->msg != NULL) cairn_msg_destroy(cairn_steal(&call->msg));
	pthread_mutex_lock(&call->mu);
	grpc_call *over = cairn_steal(&call->call);
	pthread_mutex_unlock(&call->mu);
	atomic_store_explicit(&call->gone, true, memory_order_release);
	grpc_call_unref(over);
	cairn_arena_reset(&call->arena);
	cairn_call_unref(call);
}

static size_t fill_headers(const struct new_call *p, grpc_metadata *md)
{
	for (size_t i = 0; i < p->n_headers; i++) {
		memset(&md[i], 0, sizeof(md[i]));
		md[i].key = grpc_slice_from_copied_string(p->headers[i].name);
		md[i].value = grpc_slice_from_copied_string(p->headers[i].value);
	}
	return p->n_headers;
}

static void drop_headers(grpc_metadata *md, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		grpc_slice_unref(md[i].key);
		grpc_slice_unref(md[i].value);
	}
}

static enum cairn_code check_headers(const char *path, size_t n, struct cairn_err *err)
{
	if (n <= HEADERS_MAX) return CAIRN_OK;
	return cairn_err_set(err, CAIRN_INVALID_ARGUMENT, "%s: %zu headers, at most %d are allowed",
			     path, n, HEADERS_MAX);
}

static enum cairn_code bad_headers(const char *path, struct cairn_err *err)
{
	return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
			     "%s: a header has characters that HTTP does not allow", path);
}

static struct cairn_call *handler_call(void)
{
	struct cairn_fiber *f = cairn_fiber_current();
	return f == NULL ? NULL : cairn_fiber_arg(f);
}

static void add_status_op(struct cairn_call *call, grpc_op *op)
{
	op->op = GRPC_OP_RECV_STATUS_ON_CLIENT;
	op->data.recv_status_on_client.trailing_metadata = &call->trailing_md;
	op->data.recv_status_on_client.status = &call->status;
	op->data.recv_status_on_client.status_details = &call->details_slice;
}

static enum cairn_code status_of(const struct cairn_call *call, struct cairn_err *err)
{
	if (call->status == GRPC_STATUS_OK) return CAIRN_OK;
	bool known = call->status > 0 && call->status <= GRPC_STATUS_UNAUTHENTICATED;
	size_t n = GRPC_SLICE_LENGTH(call->details_slice);
	if (n > sizeof(err->msg)) n = sizeof(err->msg);
	return cairn_err_set(err, known ? (enum cairn_code)call->status : CAIRN_UNKNOWN, "%.*s",
			     (int)n, (const char *)GRPC_SLICE_START_PTR(call->details_slice));
}

/* ---- unary ----------------------------------------------------------------------------------- */

static void unary_back(struct cairn_tag *tag, bool ok)
{
	(void)ok; /* the status says it */
	struct cairn_call *call = CAIRN_CALL_OF(tag, op);
	grpc_slice_buffer_destroy(&call->out.data.raw.slice_buffer);
	if (call->in != NULL) call->msg = cairn_msg_from_buffer(cairn_steal(&call->in));
	cairn_call_resume(call);
	cairn_call_drop(call);
}

/* The request is packed, the call made; start it all as one batch. */
static bool start_unary(void *arg)
{
	struct cairn_call *call = arg;
	const struct new_call *p = call->creating;
	grpc_metadata md[HEADERS_MAX];
	grpc_op ops[OPS_MAX] = {0};
	ops[0].op = GRPC_OP_SEND_INITIAL_METADATA;
	ops[0].data.send_initial_metadata.count = fill_headers(p, md);
	ops[0].data.send_initial_metadata.metadata = md;
	ops[1].op = GRPC_OP_SEND_MESSAGE;
	ops[1].data.send_message.send_message = &call->out;
	ops[2].op = GRPC_OP_SEND_CLOSE_FROM_CLIENT;
	ops[3].op = GRPC_OP_RECV_INITIAL_METADATA;
	ops[3].data.recv_initial_metadata.recv_initial_metadata = &call->initial_md;
	ops[4].op = GRPC_OP_RECV_MESSAGE;
	ops[4].data.recv_message.recv_message = &call->in;
	add_status_op(call, &ops[5]);
	cairn_buffer_init(&call->out);
	cairn_buffer_pack(&call->out, p->request, call->send_len);
	size_t n = p->n_headers;
	call->op_ok = true;
	bool started = cairn_call_start(call, ops, OPS_MAX, &call->op, unary_back);
	/* Once started, p (on the owner's stack) and call may be gone. */
	drop_headers(md, n);
	if (started) return false;
	call->op_ok = false;
	grpc_slice_buffer_destroy(&call->out.data.raw.slice_buffer);
	return true;
}

static void create_call(void *arg)
{
	make_call(arg);
}

static enum cairn_code unpack_reply(const char *path, const struct cairn_msg *msg,
				    const ProtobufCMessageDescriptor *type, ProtobufCMessage **ret,
				    struct cairn_err *err)
{
	if (msg == NULL) {
		return cairn_err_set(err, CAIRN_INTERNAL,
				     "%s: the server answered OK without a message", path);
	}
	enum cairn_code rc = cairn_msg_unpack_heap(msg, type, ret, err);
	if (rc) {
		err->code = CAIRN_INTERNAL; /* the server's fault, not the caller's */
		return cairn_err_wrap(err, "%s", path);
	}
	return CAIRN_OK;
}

enum cairn_code cairn_channel_unary(struct cairn_channel *channel, const char *path,
				    const struct cairn_header *headers, size_t n_headers,
				    int64_t timeout_ms, const ProtobufCMessage *request,
				    const ProtobufCMessageDescriptor *response,
				    ProtobufCMessage **ret, struct cairn_err *err)
{
	enum cairn_code rc = check_headers(path, n_headers, err);
	if (rc) return rc;
	size_t len = protobuf_c_message_get_packed_size(request);
	if (len > CAIRN_RPC_MESSAGE_MAX) {
		return cairn_err_set(err, CAIRN_RESOURCE_EXHAUSTED,
				     "%s: the request has %zu bytes, at most %u are allowed", path,
				     len, CAIRN_RPC_MESSAGE_MAX);
	}
	struct new_call p = {
		.channel = channel,
		.path = path,
		.headers = headers,
		.n_headers = n_headers,
		.timeout_ms = timeout_ms,
		.parent = handler_call(),
		.request = request,
	};
	cairn_call_native(create_call, &p);
	struct cairn_call *call = p.call;
	call->creating = &p;
	call->send_len = len;
	cairn_call_park(call, start_unary);
	if (!call->op_ok) {
		rc = bad_headers(path, err);
	} else {
		rc = status_of(call, err);
		if (rc == CAIRN_OK) rc = unpack_reply(path, call->msg, response, ret, err);
	}
	cairn_call_wait_over(call);
	cairn_call_native(release_call, call);
	return rc;
}

/* ---- streams --------------------------------------------------------------------------------- */

static void status_back(struct cairn_tag *tag, bool ok)
{
	(void)ok;
	struct cairn_call *call = CAIRN_CALL_OF(tag, status_tag);
	if (call->status != GRPC_STATUS_OK) {
		atomic_store_explicit(&call->gone, true, memory_order_release);
	}
	pthread_mutex_lock(&call->mu);
	call->status_known = true;
	bool resume = call->awaits_status;
	pthread_mutex_unlock(&call->mu);
	if (resume) cairn_call_resume(call);
	cairn_call_drop(call);
}

bool cairn_client_status_known(struct cairn_call *call)
{
	pthread_mutex_lock(&call->mu);
	bool known = call->status_known;
	call->awaits_status = !known;
	pthread_mutex_unlock(&call->mu);
	return known;
}

static void initial_back(struct cairn_tag *tag, bool ok)
{
	(void)ok; /* a failure comes with the status */
	cairn_call_drop(CAIRN_CALL_OF(tag, initial_tag));
}

static void open_call(void *arg)
{
	struct new_call *p = arg;
	grpc_metadata md[HEADERS_MAX];
	make_call(p);
	struct cairn_call *call = p->call;
	grpc_op op = {.op = GRPC_OP_SEND_INITIAL_METADATA};
	op.data.send_initial_metadata.count = fill_headers(p, md);
	op.data.send_initial_metadata.metadata = md;
	call->sent_initial = true;
	bool ok = cairn_call_start(call, &op, 1, &call->initial_tag, initial_back);
	drop_headers(md, p->n_headers);
	if (!ok) {
		p->call = NULL;
		(void)atomic_fetch_sub(&call->pending, 1); /* the owner's */
		release_call(call);
		return;
	}
	op = (grpc_op){0};
	add_status_op(call, &op);
	(void)cairn_call_start(call, &op, 1, &call->status_tag, status_back);
}

enum cairn_code cairn_channel_open(struct cairn_channel *channel, const char *path,
				   const struct cairn_header *headers, size_t n_headers,
				   int64_t timeout_ms, struct cairn_call **ret,
				   struct cairn_err *err)
{
	enum cairn_code rc = check_headers(path, n_headers, err);
	if (rc) return rc;
	struct new_call p = {
		.channel = channel,
		.path = path,
		.headers = headers,
		.n_headers = n_headers,
		.timeout_ms = timeout_ms,
		.parent = handler_call(),
	};
	cairn_call_native(open_call, &p);
	if (p.call == NULL) return bad_headers(path, err);
	*ret = p.call;
	return CAIRN_OK;
}

static void half_close_back(struct cairn_tag *tag, bool ok)
{
	struct cairn_call *call = CAIRN_CALL_OF(tag, op);
	call->op_ok = ok;
	cairn_call_resume(call);
	cairn_call_drop(call);
}

static bool start_half_close(void *arg)
{
	struct cairn_call *call = arg;
	grpc_op op = {.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT};
	(void)cairn_call_start(call, &op, 1, &call->op, half_close_back);
	return false;
}

enum cairn_code cairn_call_half_close(struct cairn_call *call, struct cairn_err *err)
{
	assert(call->server == NULL && !call->half_closed);
	call->half_closed = true;
	cairn_call_park(call, start_half_close);
	if (call->op_ok) return CAIRN_OK;
	return cairn_err_set(err, CAIRN_CANCELLED, "end the sending: the call is over");
}

static void cancel(void *call)
{
	grpc_call_cancel(call, NULL);
	grpc_call_unref(call);
}

void cairn_call_cancel(struct cairn_call *call)
{
	pthread_mutex_lock(&call->mu);
	grpc_call *c = call->call;
	if (c != NULL) grpc_call_ref(c);
	pthread_mutex_unlock(&call->mu);
	if (c != NULL) cairn_call_native(cancel, c);
}

static bool begin_over(void *arg)
{
	struct cairn_call *call = arg;
	pthread_mutex_lock(&call->mu);
	call->waiting = CAIRN_ON_OVER;
	pthread_mutex_unlock(&call->mu);
	if (atomic_fetch_sub_explicit(&call->pending, 1, memory_order_acq_rel) != 1) return false;
	/* Nothing was pending: nobody else will wake us. */
	call->waiting = 0;
	return true;
}

void cairn_call_wait_over(struct cairn_call *call)
{
	cairn_call_park(call, begin_over);
}

enum cairn_code cairn_call_finish(struct cairn_call *call, struct cairn_err *err)
{
	assert(call->server == NULL);
	struct cairn_err ignored;
	struct cairn_msg *msg;
	if (!call->half_closed) (void)!cairn_call_half_close(call, &ignored);
	while (cairn_call_recv(call, &msg) == CAIRN_RECV_MSG) cairn_msg_free(msg);
	cairn_call_wait_over(call);
	enum cairn_code rc = status_of(call, err);
	cairn_call_native(release_call, call);
	return rc;
}
