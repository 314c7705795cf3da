/* A small gRPC service with every kind of method, and helpers to start and call it. What a handler
 * does is told by the request's `digest` (commands below); messages are those of content.proto. */
#ifndef CAIRN_TESTS_RPC_FIXTURE_H
#define CAIRN_TESTS_RPC_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "content.pb-c.h"
#include "rpc/rpc.h"
#include "rpc/wire.h"
#include "support/tmp.h"
#include "support/until.h"

typedef Containerd__Services__Content__V1__ReadContentRequest read_req;
typedef Containerd__Services__Content__V1__ReadContentResponse read_resp;
typedef Containerd__Services__Content__V1__WriteContentRequest write_req;
typedef Containerd__Services__Content__V1__WriteContentResponse write_resp;
#define READ_REQ containerd__services__content__v1__read_content_request__descriptor
#define READ_RESP containerd__services__content__v1__read_content_response__descriptor
#define WRITE_RESP containerd__services__content__v1__write_content_response__descriptor
#define READ_REQ_INIT CONTAINERD__SERVICES__CONTENT__V1__READ_CONTENT_REQUEST__INIT
#define READ_RESP_INIT CONTAINERD__SERVICES__CONTENT__V1__READ_CONTENT_RESPONSE__INIT
#define WRITE_REQ_INIT CONTAINERD__SERVICES__CONTENT__V1__WRITE_CONTENT_REQUEST__INIT
#define WRITE_RESP_INIT CONTAINERD__SERVICES__CONTENT__V1__WRITE_CONTENT_RESPONSE__INIT

#define UNARY "/test.T/Unary"
#define STREAM "/test.T/Stream"
#define BIDI "/test.T/Bidi"
#define FAIL_FIRST "/test.T/FailFirst"

/* What handlers do and see. */
struct service {
	_Atomic int entered;	 /* handlers that have begun */
	_Atomic int left;	 /* handlers that have returned */
	_Atomic int gone;	 /* handlers that were told that the call is gone */
	_Atomic int last_wake;	 /* of cairn_call_wait */
	_Atomic int64_t gone_ns; /* when a handler last saw it */
	_Atomic int views_out, views_released;
	_Atomic bool hold; /* functions of cairn_call_run wait while it is set */
	_Atomic int runs_done;
	pthread_mutex_t mu;
	struct cairn_call *waiting;   /* guarded by mu; a reference to the newest waiting call */
	struct cairn_channel *onward; /* for "onward" */
};

static inline int64_t now_ns(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

/* ---- handlers -------------------------------------------------------------------------------- */

static inline void saw_gone(struct service *s)
{
	s->gone_ns = now_ns();
	s->gone++;
}

static inline enum cairn_code do_wait(struct service *s, struct cairn_call *call, int64_t ms)
{
	pthread_mutex_lock(&s->mu);
	if (s->waiting != NULL) cairn_call_unref(s->waiting);
	s->waiting = cairn_call_ref(call);
	pthread_mutex_unlock(&s->mu);
	enum cairn_wake w = cairn_call_wait(call, ms);
	s->last_wake = (int)w;
	if (w == CAIRN_WAKE_GONE) saw_gone(s);
	return CAIRN_OK;
}

static inline void signal_waiting(struct service *s)
{
	pthread_mutex_lock(&s->mu);
	if (s->waiting != NULL) cairn_call_signal(s->waiting);
	pthread_mutex_unlock(&s->mu);
}

static inline void drop_waiting(struct service *s)
{
	pthread_mutex_lock(&s->mu);
	if (s->waiting != NULL) cairn_call_unref(s->waiting);
	s->waiting = NULL;
	pthread_mutex_unlock(&s->mu);
}

static inline void hold_thread(void *arg)
{
	struct service *s = arg;
	while (s->hold) usleep(200);
	s->runs_done++;
}

static inline enum cairn_code onward(struct service *s, const read_req *q, read_resp *r,
				     struct cairn_err *err)
{
	read_req q2 = READ_REQ_INIT;
	ProtobufCMessage *reply = NULL;
	q2.digest = q->offset == 0 ? "echo" : "wait";
	q2.size = q->size;
	enum cairn_code rc = cairn_channel_unary(s->onward, UNARY, NULL, 0, 0, &q2.base, &READ_RESP,
						 &reply, err);
	if (rc) {
		if (rc == CAIRN_CANCELLED) saw_gone(s);
		return rc;
	}
	r->offset = (int64_t)((read_resp *)(void *)reply)->data.len;
	protobuf_c_message_free_unpacked(reply, NULL);
	return CAIRN_OK;
}

static inline enum cairn_code unary_command(struct service *s, struct cairn_call *call,
					    const read_req *q, read_resp *r, struct cairn_err *err)
{
	const char *cmd = q->digest;
	if (strcmp(cmd, "echo") == 0) { /* offset, and size bytes */
		r->offset = q->offset;
		r->data.len = (size_t)q->size;
		r->data.data = cairn_call_alloc(call, r->data.len + 1);
		memset(r->data.data, 0xab, r->data.len);
		return CAIRN_OK;
	}
	if (strcmp(cmd, "fail") == 0) {
		return cairn_err_set(err, (enum cairn_code)q->offset, "failed as asked");
	}
	if (strcmp(cmd, "wait") == 0) return do_wait(s, call, q->size);
	if (strcmp(cmd, "signal-wait") == 0) {
		cairn_call_signal(call);
		cairn_call_signal(call);
		(void)do_wait(s, call, q->size);
		r->offset = s->last_wake;
		enum cairn_wake second = cairn_call_wait(call, 1);
		r->data.len = second == CAIRN_WAKE_TIMEOUT ? 1 : 0;
		r->data.data = (uint8_t *)"x";
		return CAIRN_OK;
	}
	if (strcmp(cmd, "run") == 0) {
		if (!cairn_call_run(call, hold_thread, s)) saw_gone(s);
		return CAIRN_OK;
	}
	if (strcmp(cmd, "offload") == 0) {
		for (int64_t i = 0; i < q->size; i++) {
			cairn_call_offload(call);
			(void)!cairn_call_wait(call, 0);
		}
		return CAIRN_OK;
	}
	if (strcmp(cmd, "header") == 0) {
		const char *v = cairn_call_header(call, "x-test");
		r->offset = v != NULL;
		r->data.data = (uint8_t *)cairn_call_strdup(call, v != NULL ? v : "");
		r->data.len = strlen((char *)r->data.data);
		return CAIRN_OK;
	}
	if (strcmp(cmd, "onward") == 0) return onward(s, q, r, err);
	return cairn_err_set(err, CAIRN_INVALID_ARGUMENT, "no command %s", cmd);
}

static inline enum cairn_code unary_handler(void *service, struct cairn_call *call,
					    const void *request, void *response,
					    struct cairn_err *err)
{
	struct service *s = service;
	s->entered++;
	enum cairn_code rc = unary_command(s, call, request, response, err);
	s->left++;
	return rc;
}

static inline void release_view(void *owner)
{
	struct service *s = owner;
	s->views_released++;
}

static inline uint8_t *view_bytes(void)
{
	static uint8_t bytes[3 << 20];
	return bytes;
}

/* size bytes in messages of offset bytes, as views. */
static inline enum cairn_code send_views(struct service *s, struct cairn_call *call,
					 const read_req *q, struct cairn_err *err)
{
	for (int64_t done = 0; done < q->size;) {
		int64_t n = q->size - done < q->offset ? q->size - done : q->offset;
		uint8_t head[16];
		size_t h = 0;
		head[h++] = 2 << 3 | 2;
		h += cairn_wire_put_varint(head + h, (uint64_t)n);
		struct cairn_view view = {view_bytes(), (size_t)n, release_view, s};
		s->views_out++;
		done += n;
		if (done == q->size) cairn_call_last(call);
		enum cairn_code rc = cairn_call_send_view(call, head, h, &view, err);
		if (rc) {
			saw_gone(s);
			return rc;
		}
	}
	return CAIRN_OK;
}

static inline enum cairn_code stream_command(struct service *s, struct cairn_call *call,
					     const read_req *q, struct cairn_err *err)
{
	if (strcmp(q->digest, "views-limited") == 0) cairn_call_limit_sends(call, 50);
	if (strncmp(q->digest, "views", 5) == 0) return send_views(s, call, q, err);
	if (strcmp(q->digest, "fail") == 0) {
		return cairn_err_set(err, (enum cairn_code)q->offset, "failed as asked");
	}
	if (strcmp(q->digest, "wait") == 0) return do_wait(s, call, q->size);
	for (int64_t i = 0; i < q->size; i++) { /* "count" */
		read_resp r = READ_RESP_INIT;
		r.offset = i;
		if (strcmp(q->digest, "last") == 0 && i + 1 == q->size) cairn_call_last(call);
		enum cairn_code rc = cairn_call_send(call, &r.base, err);
		if (rc) {
			saw_gone(s);
			return rc;
		}
	}
	return CAIRN_OK;
}

static inline enum cairn_code stream_handler(void *service, struct cairn_call *call,
					     const void *request, struct cairn_err *err)
{
	struct service *s = service;
	s->entered++;
	enum cairn_code rc = stream_command(s, call, request, err);
	s->left++;
	return rc;
}

/* Adds up the `data` bytes it gets, and answers each message with the sum. */
static inline enum cairn_code bidi_loop(struct service *s, struct cairn_call *call,
					struct cairn_err *err)
{
	int64_t sum = 0;
	for (;;) {
		struct cairn_msg *msg;
		enum cairn_recv got = cairn_call_recv(call, &msg);
		if (got == CAIRN_RECV_GONE) {
			saw_gone(s);
			return cairn_err_set(err, CAIRN_CANCELLED, "gone");
		}
		if (got == CAIRN_RECV_END) return CAIRN_OK;
		const struct cairn_span *spans;
		struct cairn_wire_reader r;
		struct cairn_wire_field f;
		bool end = false;
		enum cairn_code rc = CAIRN_OK;
		size_t n = cairn_msg_spans(msg, &spans);
		cairn_wire_init(&r, spans, n);
		while (!(rc = cairn_wire_next(&r, &f, &end, err)) && !end) {
			if (f.number == 6) sum += (int64_t)f.value;
		}
		cairn_msg_free(msg);
		if (rc) return rc;
		write_resp reply = WRITE_RESP_INIT;
		reply.offset = sum;
		rc = cairn_call_send(call, &reply.base, err);
		if (rc) return rc;
	}
}

static inline enum cairn_code bidi_handler(void *service, struct cairn_call *call,
					   struct cairn_err *err)
{
	struct service *s = service;
	s->entered++;
	enum cairn_code rc = bidi_loop(s, call, err);
	s->left++;
	return rc;
}

static inline enum cairn_code fail_first_handler(void *service, struct cairn_call *call,
						 struct cairn_err *err)
{
	(void)service;
	(void)call;
	return cairn_err_set(err, CAIRN_FAILED_PRECONDITION, "failed before reading");
}

static const struct cairn_method test_methods[] = {
	{.path = UNARY, .request = &READ_REQ, .response = &READ_RESP, .unary = unary_handler},
	{.path = STREAM, .request = &READ_REQ, .server_stream = stream_handler},
	{.path = BIDI, .bidi = bidi_handler},
	{.path = FAIL_FIRST, .bidi = fail_first_handler},
};

/* ---- a running server ------------------------------------------------------------------------ */

struct fixture {
	struct cairn_rpc *rpc;
	struct cairn_rpc_server *server;
	struct cairn_channel *channel; /* over the unix socket */
	struct service service;
	char dir[64], path[96], target[112];
	int port;
};

#define OK(call) assert_ok((call), #call, &err)
static inline void assert_ok(enum cairn_code rc, const char *what, const struct cairn_err *err)
{
	if (rc != CAIRN_OK) fail_msg("%s: %s: %s", what, cairn_code_name(rc), err->msg);
}

static inline void fixture_start(struct fixture *f)
{
	struct cairn_err err;
	OK(cairn_rpc_server_new(f->rpc, &f->server, &err));
	cairn_rpc_server_add(f->server, test_methods, CAIRN_LEN(test_methods), &f->service);
	OK(cairn_rpc_server_listen_unix(f->server, f->path, &err));
	OK(cairn_rpc_server_listen_tcp(f->server, "127.0.0.1:0", NULL, &f->port, &err));
	OK(cairn_rpc_server_start(f->server, &err));
}

static inline void fixture_stop(struct fixture *f)
{
	if (f->server == NULL) return;
	(void)cairn_rpc_server_drain(f->server, 0);
	cairn_rpc_server_free(cairn_steal(&f->server));
}

static inline int fixture_setup(void **state)
{
	struct cairn_err err;
	struct fixture *f = calloc(1, sizeof(*f));
	if (f == NULL) return -1;
	pthread_mutex_init(&f->service.mu, NULL);
	tmp_template(f->dir, sizeof(f->dir), "rpc");
	if (mkdtemp(f->dir) == NULL) return -1;
	snprintf(f->path, sizeof(f->path), "%s/sock", f->dir);
	snprintf(f->target, sizeof(f->target), "unix:%s", f->path);
	/* Two polling threads, so that completions of one call come on different ones. */
	const struct cairn_rpc_opts opts = {.pollers = 2};
	OK(cairn_rpc_new(&opts, &f->rpc, &err));
	fixture_start(f);
	OK(cairn_channel_new(f->rpc, f->target, NULL, &f->channel, &err));
	*state = f;
	return 0;
}

static inline int fixture_teardown(void **state)
{
	struct fixture *f = *state;
	cairn_channel_free(f->channel);
	fixture_stop(f);
	cairn_channel_free(f->service.onward);
	drop_waiting(&f->service);
	cairn_rpc_free(f->rpc);
	unlink(f->path);
	rmdir(f->dir);
	pthread_mutex_destroy(&f->service.mu);
	free(f);
	return 0;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)

/* ---- calls ----------------------------------------------------------------------------------- */

static inline enum cairn_code ask(struct cairn_channel *channel, const char *cmd, int64_t offset,
				  int64_t size, int64_t timeout_ms, read_resp **ret,
				  struct cairn_err *err)
{
	char text[64];
	snprintf(text, sizeof(text), "%s", cmd);
	read_req q = READ_REQ_INIT;
	q.digest = text;
	q.offset = offset;
	q.size = size;
	ProtobufCMessage *reply = NULL;
	enum cairn_code rc = cairn_channel_unary(channel, UNARY, NULL, 0, timeout_ms, &q.base,
						 &READ_RESP, &reply, err);
	if (rc == CAIRN_OK) *ret = (read_resp *)(void *)reply;
	return rc;
}

static inline void free_resp(read_resp *r)
{
	if (r != NULL) protobuf_c_message_free_unpacked(&r->base, NULL);
}

/* Open a server stream and send its request. */
static inline struct cairn_call *ask_stream(struct cairn_channel *channel, const char *cmd,
					    int64_t offset, int64_t size, int64_t timeout_ms)
{
	struct cairn_err err;
	struct cairn_call *call;
	char text[64];
	snprintf(text, sizeof(text), "%s", cmd);
	read_req q = READ_REQ_INIT;
	q.digest = text;
	q.offset = offset;
	q.size = size;
	OK(cairn_channel_open(channel, STREAM, NULL, 0, timeout_ms, &call, &err));
	OK(cairn_call_send(call, &q.base, &err));
	OK(cairn_call_half_close(call, &err));
	return call;
}

#endif
