/* What turns: polling threads, worker threads, the timer thread. Private to rpc/. */
#ifndef CAIRN_RPC_RUNTIME_H
#define CAIRN_RPC_RUNTIME_H

#include <grpc/grpc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "rpc/fiber.h"
#include "rpc/rpc.h"

/* What the completion queue gives back: a batch, a requested call, a shutdown. fn runs on a polling
 * thread. */
struct cairn_tag {
	void (*fn)(struct cairn_tag *tag, bool ok);
	_Atomic int armed;
};

/* Call before the tag is given to gRPC. The library's own locks order what was written before with
 * what the completion reads; this store, and the poller's load, say so in our own code too, where
 * TSan (which does not see into the library) can check it. */
static inline void cairn_tag_arm(struct cairn_tag *tag, void (*fn)(struct cairn_tag *tag, bool ok))
{
	tag->fn = fn;
	atomic_store_explicit(&tag->armed, 1, memory_order_release);
}

/* Work for a worker thread; embedded in what it works on. */
struct cairn_work {
	struct cairn_work *next;
	void (*fn)(struct cairn_work *work);
};

/* Runs fn on the timer thread at the deadline; it must not block. */
struct cairn_timer {
	int64_t deadline_ns; /* CLOCK_MONOTONIC */
	size_t index;	     /* in the heap, plus 1; 0: not in it; guarded by the timers' mu */
	void (*fn)(struct cairn_timer *timer);
};

struct cairn_timers;
struct cairn_timers *cairn_timers_new(void); /* NULL: no thread could be started */
void cairn_timers_free(struct cairn_timers *t);
void cairn_timer_add(struct cairn_timers *t, struct cairn_timer *timer);
/* True: fn will not run. False: it was not set, or fn runs now or has run. */
bool cairn_timer_remove(struct cairn_timers *t, struct cairn_timer *timer);

int64_t cairn_monotonic_ns(void);

struct cairn_call;

struct cairn_rpc {
	grpc_completion_queue *cq;
	struct cairn_fiber_pool *fibers;
	struct cairn_timers *timers;
	pthread_t *threads; /* pollers, then workers */
	size_t n_pollers, n_workers;

	pthread_mutex_t mu;
	pthread_cond_t more;
	struct cairn_work *head, **tail; /* guarded by mu */
	bool stop;			 /* guarded by mu */

	pthread_mutex_t pool_mu;
	struct cairn_call *idle_calls; /* guarded by pool_mu */
	size_t n_idle_calls;	       /* guarded by pool_mu */
};

/* pthread_create with all signals blocked: signals are the main thread's. */
int cairn_thread_start(pthread_t *ret, void *(*fn)(void *arg), void *arg);

void cairn_rpc_push(struct cairn_rpc *rpc, struct cairn_work *work);

/* This thread is a worker. */
bool cairn_rpc_on_worker(void);

#endif
