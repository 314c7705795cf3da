/* One call, of the server or of a client. Private to rpc/.
 *
 * Who owns what, and who wakes whom:
 *  - `refs` keeps the struct; `pending` counts the batches that gRPC has of it, plus one for the
 *    owner (the handler, or the client between open and finish). Each of these holds a reference.
 *    When pending falls to 0 the call is over: nothing of it is gRPC's any more, grpc_call_unref is
 *    due. That, and never earlier, is when call_over() runs.
 *  - The owner (a handler's fiber, a plain thread) waits for one thing at a time, in one of two
 * ways:
 *    1. For the batch `op`: only its completion wakes the owner. gRPC ends every batch of a
 *       cancelled call, so nothing else needs to. (A client that has read the last message is
 *       woken by the status, which then is due at once: the two tell END from GONE.)
 *    2. For an event, out of a set (`waiting`, CAIRN_ON_*): signal, timeout, gone, drain, run,
 * over. Many may come at once. Whoever takes mu and finds its bit in `waiting` clears `waiting`,
 * and so is the one that wakes the owner; all others find 0. The owner sets `waiting` under mu
 *       after it has left its stack (a fiber) and after having looked for events that came earlier:
 *       none is lost, none wakes twice.
 *  - Lock order: server->mu, call->mu, timers->mu, rpc->mu. No gRPC function under any of them. */
#ifndef CAIRN_RPC_CALL_H
#define CAIRN_RPC_CALL_H

#include <grpc/grpc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/queue.h>

#include "rpc/arena.h"
#include "rpc/message.h"
#include "rpc/runtime.h"

enum {
	CAIRN_ON_SIGNAL = 1,
	CAIRN_ON_TIMEOUT = 2,
	CAIRN_ON_GONE = 4,
	CAIRN_ON_DRAIN = 8,
	CAIRN_ON_RUN = 16,
	CAIRN_ON_OVER = 32,
};

struct cairn_rpc_server;
struct cairn_service_method;
struct new_call;

struct cairn_call {
	_Atomic int refs, pending;
	struct cairn_rpc *rpc;
	grpc_call *call;	      /* NULL once over; changes under mu */
	struct cairn_call *next_idle; /* in the runtime's pool */
	void (*on_over)(struct cairn_call *call);
	_Atomic bool gone;

	/* waiting */
	pthread_mutex_t mu;
	pthread_cond_t cond;
	struct cairn_fiber *fiber; /* who waits; NULL: a thread, at cond */
	bool woken;		   /* guarded by mu; for threads */
	unsigned waiting, woke_by; /* guarded by mu */
	bool signalled;		   /* guarded by mu */
	struct cairn_run *run;	   /* parameter of the cairn_call_run in progress */
	struct cairn_timer timer;
	struct cairn_work work; /* goes on with the fiber, on a worker */

	struct cairn_timer send_timer; /* cancels a send that the peer does not take */
	int64_t send_limit_ms;	       /* 0: none */

	/* the batch `op`, and what it sends and receives */
	struct cairn_tag op;
	bool op_ok;
	grpc_byte_buffer out;
	grpc_byte_buffer *in;
	struct cairn_msg *msg;
	const ProtobufCMessage *send_msg; /* parameters of the send in progress */
	const void *send_head;
	size_t send_head_len, send_len;
	struct cairn_view *send_view;
	bool sent_initial, received_any, recv_ended, recv_gone;
	uint64_t received_bytes, sent_bytes;

	/* server side */
	struct cairn_rpc_server *server; /* NULL: a client's call */
	struct cairn_service_method *method;
	LIST_ENTRY(cairn_call) waiters; /* guarded by server->mu */
	bool in_waiters;		/* guarded by server->mu */
	struct cairn_tag request, close, final;
	grpc_call_details details;
	grpc_metadata_array metadata;
	ProtobufCMessage *req, *resp;
	enum cairn_code rc;
	bool close_started, last, status_sent, status_ok;
	int cancelled;
	int64_t start_ns;

	/* client side */
	struct cairn_tag status_tag, initial_tag;
	grpc_metadata_array initial_md, trailing_md;
	grpc_status_code status;
	grpc_slice details_slice;
	bool received_initial, half_closed;
	bool status_known, awaits_status; /* guarded by mu */
	const struct new_call *creating;  /* parameters, while it is started */

	struct cairn_err err;
	struct cairn_arena arena;
};

/* A call with one reference and one pending, both the owner's. */
struct cairn_call *cairn_call_new(struct cairn_rpc *rpc);
void cairn_call_pool_clear(struct cairn_rpc *rpc);

/* Start a batch whose completion calls fn. The batch holds a reference and counts as pending until
 * fn calls cairn_call_drop. False: gRPC refused the metadata; nothing was started. */
bool cairn_call_start(struct cairn_call *call, const grpc_op *ops, size_t n, struct cairn_tag *tag,
		      void (*fn)(struct cairn_tag *tag, bool ok));
/* One pending less; the last one ends the call. */
void cairn_call_drop(struct cairn_call *call);

/* Leave the owner's stack, call start(call) and wait for cairn_call_resume, unless start returns
 * true: then go on at once. */
void cairn_call_park(struct cairn_call *call, bool (*start)(void *call));
/* Call fn(arg) on a thread's stack. */
void cairn_call_native(void (*fn)(void *arg), void *arg);
/* Go on with the owner, here (not on a fiber) if it is a fiber. */
void cairn_call_resume(struct cairn_call *call);
/* An event came. here: a waiting fiber goes on on this thread, else on a worker. */
void cairn_call_wake(struct cairn_call *call, unsigned event, bool here);

/* Client side: wait until all batches are back; drops the owner's pending. */
void cairn_call_wait_over(struct cairn_call *call);

/* Client side: there are no more messages. True if the status is there; false if the owner goes on
 * when it comes, which is soon. */
bool cairn_client_status_known(struct cairn_call *call);

/* Server side, not on a fiber: from now on the peer's going away is seen. */
void cairn_call_watch(struct cairn_call *call);

#define CAIRN_CALL_OF(tag, member)                                                                 \
	((struct cairn_call *)(void *)((char *)(tag)-offsetof(struct cairn_call, member)))

#endif
