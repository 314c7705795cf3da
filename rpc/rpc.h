/* gRPC made pleasant: services are tables of methods, handlers are plain functions.
 *
 * A runtime (struct cairn_rpc) owns one completion queue, a few polling threads and a few worker
 * threads. Each server call runs its handler on a small stack of its own (a fiber): the handler
 * reads like blocking code, but whenever it waits (for a message, for a send, for a signal) the
 * thread goes on with other calls, so an idle stream costs a stack of some pages and no thread.
 *
 * Rules for handlers
 *  - They start on a polling thread and must not block there. Before disk I/O or long computation
 *    call cairn_call_offload(): the handler goes on on a worker thread until its next wait.
 *  - A handler may go on on another thread after each wait: keep no lock, no errno and no
 *    thread-local pointer across one.
 *  - The stack has 64 KiB (more under sanitizers): no large locals, no recursion on input.
 *  - What cairn_call_alloc() gives lives until the call is over.
 *
 * The client side may be used from plain threads, where its calls block, and from handlers, where
 * they wait like everything else.
 *
 * Status codes are those of base/err.h. Limits are named below. Spec: gRPC over HTTP/2
 * (grpc/doc/PROTOCOL-HTTP2.md). This folder is the only user of grpc.h. */
#ifndef CAIRN_RPC_RPC_H
#define CAIRN_RPC_RPC_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "base/own.h"
#include "base/view.h"

/* containerd sends and accepts 16 MiB; the slack is for the fields around the bytes. */
#define CAIRN_RPC_MESSAGE_MAX ((16u << 20) + (64u << 10))
#define CAIRN_RPC_STREAMS_MAX 4096 /* concurrent calls per connection; the client queues more */

/* ---- runtime -------------------------------------------------------------------------------- */

struct cairn_rpc;

struct cairn_rpc_opts {
	unsigned pollers; /* 0: 1, which beats 2 on small machines and serves some GB/s */
	unsigned workers; /* 0: 16 */
};

/* Threads: any. One per process is enough. grpc_init is counted inside. Ignores SIGPIPE. */
CAIRN_CHECKED enum cairn_code cairn_rpc_new(const struct cairn_rpc_opts *opts,
					    struct cairn_rpc **ret, struct cairn_err *err);

/* All servers and channels on it must be freed before. Joins the threads. NULL is fine. */
void cairn_rpc_free(struct cairn_rpc *rpc);

/* ---- calls: what handlers and clients share ---------------------------------------------------
 */

struct cairn_call;
struct cairn_msg; /* one received message, in the pieces in which it came */

/* The message's bytes, borrowed until cairn_msg_free. Returns the number of spans. */
size_t cairn_msg_spans(const struct cairn_msg *msg, const struct cairn_span **ret);
size_t cairn_msg_len(const struct cairn_msg *msg);
void cairn_msg_free(struct cairn_msg *msg);

/* Decode into a new protobuf-c message that lives until the call is over (no free).
 * Errors: INVALID_ARGUMENT. */
CAIRN_CHECKED enum cairn_code cairn_msg_unpack(struct cairn_call *call, const struct cairn_msg *msg,
					       const ProtobufCMessageDescriptor *type,
					       ProtobufCMessage **ret, struct cairn_err *err);

enum cairn_recv {
	CAIRN_RECV_MSG,	 /* *ret is the next message; free it */
	CAIRN_RECV_END,	 /* the other side sends no more (client side: now cairn_call_finish) */
	CAIRN_RECV_GONE, /* cancelled (a drain's timeout does so, too), deadline over, connection
			    lost */
};

/* Wait for the next message of a stream. */
CAIRN_CHECKED enum cairn_recv cairn_call_recv(struct cairn_call *call, struct cairn_msg **ret);

/* Send one message and wait until the transport has taken it (which is the flow control).
 * Errors: CANCELLED when the call is over; RESOURCE_EXHAUSTED above CAIRN_RPC_MESSAGE_MAX. */
CAIRN_CHECKED enum cairn_code cairn_call_send(struct cairn_call *call, const ProtobufCMessage *msg,
					      struct cairn_err *err);

/* Send head followed by the view's bytes as one message, without copying the view.
 * Owns: consumes *view, also on failure; it is released, on any thread, when the transport is done
 * with it, which may be after the call is over. */
CAIRN_CHECKED enum cairn_code cairn_call_send_view(struct cairn_call *call, const void *head,
						   size_t head_len, struct cairn_view *view,
						   struct cairn_err *err);

/* Server side: from now on a send that the peer does not take within ms milliseconds ends the call.
 * Without it only the call's own end does. */
void cairn_call_limit_sends(struct cairn_call *call, int64_t ms);

/* Server side: the next send is the last message and the handler will return OK: message and status
 * travel in one batch. Sending more after that is a bug (asserted). */
void cairn_call_last(struct cairn_call *call);

/* Memory that lives until the call is over, zeroed; aborts when there is none left.
 * Sizes that come from outside must be checked before. */
void *cairn_call_alloc(struct cairn_call *call, size_t n);
char *cairn_call_strdup(struct cairn_call *call, const char *s);

/* The first value of a request header (lower-case name), or NULL. Borrowed until the call is over.
 */
const char *cairn_call_header(struct cairn_call *call, const char *name);

/* The call was cancelled, is past its deadline, or its connection is gone. Threads: any. */
bool cairn_call_gone(const struct cairn_call *call);

/* ---- waiting and blocking, in handlers --------------------------------------------------------
 */

/* Go on on a worker thread until the next wait. */
void cairn_call_offload(struct cairn_call *call);

/* Run fn(arg) on a worker thread and wait for it. Returns false when the call went away first: fn
 * then still runs to its end, after this has returned, so arg must own all that fn touches; fn is
 * told by nothing else. */
CAIRN_CHECKED bool cairn_call_run(struct cairn_call *call, void (*fn)(void *arg), void *arg);

enum cairn_wake {
	CAIRN_WAKE_SIGNAL,
	CAIRN_WAKE_TIMEOUT,
	CAIRN_WAKE_GONE,  /* cancelled, deadline over, connection lost */
	CAIRN_WAKE_DRAIN, /* the server is shutting down: end this wait now */
};

/* Wait for cairn_call_signal, at most timeout_ms (which must be >= 0). */
CAIRN_CHECKED enum cairn_wake cairn_call_wait(struct cairn_call *call, int64_t timeout_ms);

/* Wake the handler; a signal that comes before the wait is kept. The signaller holds a reference.
 * Threads: any; never blocks. */
void cairn_call_signal(struct cairn_call *call);
struct cairn_call *cairn_call_ref(struct cairn_call *call);
void cairn_call_unref(struct cairn_call *call);

/* ---- server -----------------------------------------------------------------------------------
 */

/* Handlers return OK or set err, whose code and message become the call's status.
 * request and response are of the method's types; the response is initialised, and everything it
 * points to must live until the call is over (cairn_call_alloc). */
typedef enum cairn_code cairn_unary_fn(void *service, struct cairn_call *call, const void *request,
				       void *response, struct cairn_err *err);
typedef enum cairn_code cairn_server_stream_fn(void *service, struct cairn_call *call,
					       const void *request, struct cairn_err *err);
typedef enum cairn_code cairn_bidi_fn(void *service, struct cairn_call *call,
				      struct cairn_err *err);

/* Exactly one of the three handlers is set; it tells the kind. */
struct cairn_method {
	const char *path; /* "/package.Service/Method" */
	const ProtobufCMessageDescriptor *request;
	const ProtobufCMessageDescriptor *response; /* unary only */
	cairn_unary_fn *unary;
	cairn_server_stream_fn *server_stream;
	cairn_bidi_fn *bidi; /* receives raw messages, so that bulk bytes stay in place */
};

struct cairn_rpc_server;

/* TLS for a listener or a channel; all PEM text. Mutual TLS: a listener with ca set demands a
 * client certificate signed by it. */
struct cairn_tls {
	const char *ca;	  /* NULL: system roots (channel), no client certificate asked (listener) */
	const char *cert; /* NULL: none (channels only) */
	const char *key;
	/* channels only */
	const char
		*server_name; /* that the other's certificate must have; NULL: the target's host */
	int keepalive_ms; /* ask so often whether the other still lives, while a call runs; 0: never
			   */
};

CAIRN_CHECKED enum cairn_code
cairn_rpc_server_new(struct cairn_rpc *rpc, struct cairn_rpc_server **ret, struct cairn_err *err);

/* A server for one connection (cairn_rpc_server_adopt), of somebody who is not to cost much: of few
 * calls at once and small requests. What is to be known of the caller is known of such a server,
 * and so of each of its calls, whatever else happens in the process. */
#define CAIRN_RPC_SMALL_STREAMS_MAX 16
#define CAIRN_RPC_SMALL_MESSAGE_MAX (1u << 20)
CAIRN_CHECKED enum cairn_code cairn_rpc_server_new_small(struct cairn_rpc *rpc,
							 struct cairn_rpc_server **ret,
							 struct cairn_err *err);

/* Before start. The table and service must outlive the server. */
void cairn_rpc_server_add(struct cairn_rpc_server *server, const struct cairn_method *methods,
			  size_t n, void *service);

/* Before start. Makes the socket with mode 0600, in place of a stale one (the caller holds the lock
 * that says it is stale). Errors: INVALID_ARGUMENT (path too long), INTERNAL. */
CAIRN_CHECKED enum cairn_code cairn_rpc_server_listen_unix(struct cairn_rpc_server *server,
							   const char *path, struct cairn_err *err);

/* Before start. address is host:port; port 0 takes a free one. tls NULL: plain text. */
CAIRN_CHECKED enum cairn_code cairn_rpc_server_listen_tcp(struct cairn_rpc_server *server,
							  const char *address,
							  const struct cairn_tls *tls,
							  int *ret_port, struct cairn_err *err);

/* Before start. fn(arg, pid) is called on the accept thread for each connection to a unix socket,
 * with the process that made it (SO_PEERCRED; 0: not visible from here). It must not block, and is
 * not called any more once drain has returned. */
void cairn_rpc_server_on_connect(struct cairn_rpc_server *server, void (*fn)(void *arg, pid_t pid),
				 void *arg);

/* How a call has ended. All of it is borrowed for the time of cairn_rpc_watch.ended. */
struct cairn_call_end {
	const char *path; /* of a method that is not served, too, then cut to 128 bytes */
	const ProtobufCMessage *request; /* NULL: none was decoded (refused, malformed, bidi) */
	enum cairn_code code;
	const char *error; /* "" if code is OK */
	int64_t duration_ms;
};

/* Who looks at each call of a server; both on any thread, neither may block. */
struct cairn_rpc_watch {
	/* May it be? Asked before anything of it is decoded or run, also of methods that are not
	 * served. An error is the call's status. NULL: all may. */
	enum cairn_code (*admit)(void *arg, const char *path, struct cairn_err *err);
	/* Once for each call that was asked about, when nothing of it runs any more. NULL: nobody
	 * wants to know. */
	void (*ended)(void *arg, const struct cairn_call_end *end);
	void *arg; /* outlives the server's drain */
};

/* Before start. */
void cairn_rpc_server_watch(struct cairn_rpc_server *server, const struct cairn_rpc_watch *watch);

/* After start, before drain. Serve whoever is at the other end of a connected stream socket. Owns
 * fd. */
void cairn_rpc_server_adopt(struct cairn_rpc_server *server, int fd);

/* Begin to serve. Unix sockets accept from here on. */
CAIRN_CHECKED enum cairn_code cairn_rpc_server_start(struct cairn_rpc_server *server,
						     struct cairn_err *err);

/* Stop: unlink unix sockets, refuse new calls, end waits (CAIRN_WAKE_DRAIN), let running calls end,
 * cancel what is left after timeout_ms. Returns when every handler has returned: the number of
 * calls that had to be cancelled. Threads: not from a handler. */
size_t cairn_rpc_server_drain(struct cairn_rpc_server *server, int64_t timeout_ms);

/* As drain without any time, of a server whose one caller is gone: waits end with CAIRN_WAKE_GONE,
 * for it is not we who go. */
void cairn_rpc_server_hang_up(struct cairn_rpc_server *server);

/* After drain, or without start. NULL is fine. */
void cairn_rpc_server_free(struct cairn_rpc_server *server);

/* Figures per method, for /metrics. Bucket i counts calls that took at most cairn_rpc_bucket_us[i].
 */
#define CAIRN_RPC_BUCKETS 12
extern const uint32_t cairn_rpc_bucket_us[CAIRN_RPC_BUCKETS];

struct cairn_method_stats {
	const char *path;
	uint64_t by_code[17];
	uint64_t active;
	uint64_t latency_us_sum;
	uint64_t latency_count;
	uint64_t latency_buckets[CAIRN_RPC_BUCKETS]; /* cumulative */
	uint64_t received_bytes, sent_bytes;	     /* of messages */
};

/* Returns the number of methods; fills at most max. */
size_t cairn_rpc_server_stats(const struct cairn_rpc_server *server, struct cairn_method_stats *ret,
			      size_t max);

/* ---- client -----------------------------------------------------------------------------------
 */

struct cairn_channel;

/* target: "unix:/run/x.sock" or "host:port". Connects when first used and reconnects by itself,
 * with a back-off of at most 3 s. Never fails because the other side is away. */
CAIRN_CHECKED enum cairn_code cairn_channel_new(struct cairn_rpc *rpc, const char *target,
						const struct cairn_tls *tls,
						struct cairn_channel **ret, struct cairn_err *err);

/* All its calls must be over. NULL is fine. */
void cairn_channel_free(struct cairn_channel *channel);

struct cairn_header {
	const char *name; /* lower case */
	const char *value;
};

/* One request, one response. timeout_ms > 0 bounds the whole call, connecting included.
 * *ret is freed with protobuf_c_message_free_unpacked(ret, NULL). Errors: the server's status. */
CAIRN_CHECKED enum cairn_code cairn_channel_unary(struct cairn_channel *channel, const char *path,
						  const struct cairn_header *headers,
						  size_t n_headers, int64_t timeout_ms,
						  const ProtobufCMessage *request,
						  const ProtobufCMessageDescriptor *response,
						  ProtobufCMessage **ret, struct cairn_err *err);

/* Start a streaming call. timeout_ms 0: no deadline. Then cairn_call_send / cairn_call_recv in any
 * order from one thread at a time, cairn_call_half_close after the last send, and cairn_call_finish
 * always, exactly once. */
CAIRN_CHECKED enum cairn_code cairn_channel_open(struct cairn_channel *channel, const char *path,
						 const struct cairn_header *headers,
						 size_t n_headers, int64_t timeout_ms,
						 struct cairn_call **ret, struct cairn_err *err);
CAIRN_CHECKED enum cairn_code cairn_call_half_close(struct cairn_call *call, struct cairn_err *err);

/* Threads: any. */
void cairn_call_cancel(struct cairn_call *call);

/* Wait for the status (messages not yet received are dropped) and free the call. Owns: consumes. */
CAIRN_CHECKED enum cairn_code cairn_call_finish(struct cairn_call *call, struct cairn_err *err);

#endif
