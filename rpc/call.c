/* Life, waiting and waking of calls: see call.h for the rules. */
#include "rpc/call.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "rpc/server.h"

#define POOL_MAX 64 /* idle call structs kept */

#define SAME_CODE(a) static_assert((int)CAIRN_##a == (int)GRPC_STATUS_##a, "base/err.h")
SAME_CODE(OK);
SAME_CODE(CANCELLED);
SAME_CODE(UNKNOWN);
SAME_CODE(INVALID_ARGUMENT);
SAME_CODE(DEADLINE_EXCEEDED);
SAME_CODE(NOT_FOUND);
SAME_CODE(ALREADY_EXISTS);
SAME_CODE(PERMISSION_DENIED);
SAME_CODE(RESOURCE_EXHAUSTED);
SAME_CODE(FAILED_PRECONDITION);
SAME_CODE(ABORTED);
SAME_CODE(OUT_OF_RANGE);
SAME_CODE(UNIMPLEMENTED);
SAME_CODE(INTERNAL);
SAME_CODE(UNAVAILABLE);
SAME_CODE(DATA_LOSS);
SAME_CODE(UNAUTHENTICATED);

/* ---- life ------------------------------------------------------------------------------------ */

static void go_on(struct cairn_work *work)
{
	struct cairn_call *call = CAIRN_CALL_OF(work, work);
	cairn_fiber_run(call->fiber);
}

static void timed_out(struct cairn_timer *timer)
{
	struct cairn_call *call = CAIRN_CALL_OF(timer, timer);
	pthread_mutex_lock(&call->mu);
	/* The timer may have been set anew since it was taken off the heap. */
	bool due = cairn_monotonic_ns() >= timer->deadline_ns;
	pthread_mutex_unlock(&call->mu);
	if (due) cairn_call_wake(call, CAIRN_ON_TIMEOUT, false);
	cairn_call_unref(call);
}

static struct cairn_call *take_idle(struct cairn_rpc *rpc)
{
	pthread_mutex_lock(&rpc->pool_mu);
	struct cairn_call *call = rpc->idle_calls;
	if (call != NULL) {
		rpc->idle_calls = call->next_idle;
		rpc->n_idle_calls--;
	}
	pthread_mutex_unlock(&rpc->pool_mu);
	return call;
}

struct cairn_call *cairn_call_new(struct cairn_rpc *rpc)
{
	struct cairn_call *call = take_idle(rpc);
	if (call == NULL) {
		call = malloc(sizeof(*call));
		if (call == NULL) abort();
		cairn_arena_init(&call->arena);
	}
	/* All but the arena, which is large and clean. */
	memset(call, 0, offsetof(struct cairn_call, err));
	call->rpc = rpc;
	call->work.fn = go_on;
	call->timer.fn = timed_out;
	pthread_mutex_init(&call->mu, NULL);
	pthread_cond_init(&call->cond, NULL);
	atomic_init(&call->refs, 1);
	atomic_init(&call->pending, 1);
	call->err.msg[0] = '\0'; /* a handler may forget to set it */
	return call;
}

static void free_call(struct cairn_call *call)
{
	pthread_cond_destroy(&call->cond);
	pthread_mutex_destroy(&call->mu);
	cairn_arena_reset(&call->arena);
	struct cairn_rpc *rpc = call->rpc;
	pthread_mutex_lock(&rpc->pool_mu);
	bool keep = rpc->n_idle_calls < POOL_MAX;
	if (keep) {
		call->next_idle = rpc->idle_calls;
		rpc->idle_calls = call;
		rpc->n_idle_calls++;
	}
	pthread_mutex_unlock(&rpc->pool_mu);
	if (!keep) free(call);
}

void cairn_call_pool_clear(struct cairn_rpc *rpc)
{
	for (struct cairn_call *call; (call = take_idle(rpc)) != NULL;) free(call);
}

struct cairn_call *cairn_call_ref(struct cairn_call *call)
{
	atomic_fetch_add_explicit(&call->refs, 1, memory_order_relaxed);
	return call;
}

void cairn_call_unref(struct cairn_call *call)
{
	if (atomic_fetch_sub_explicit(&call->refs, 1, memory_order_acq_rel) == 1) free_call(call);
}

bool cairn_call_start(struct cairn_call *call, const grpc_op *ops, size_t n, struct cairn_tag *tag,
		      void (*fn)(struct cairn_tag *tag, bool ok))
{
	grpc_call *c = call->call;
	cairn_call_ref(call);
	atomic_fetch_add_explicit(&call->pending, 1, memory_order_relaxed);
	cairn_tag_arm(tag, fn);
	grpc_call_error rc = grpc_call_start_batch(c, ops, n, tag, NULL);
	if (rc == GRPC_CALL_OK) return true;	      /* call may be somebody else's by now */
	if (rc != GRPC_CALL_ERROR_INVALID_METADATA) { /* a bug here; headers are the caller's */
		cairn_log(CAIRN_LOG_ERROR, "rpc_batch",
			  CAIRN_STR("err", grpc_call_error_to_string(rc)));
		abort();
	}
	cairn_call_drop(call);
	return false;
}

void cairn_call_drop(struct cairn_call *call)
{
	if (atomic_fetch_sub_explicit(&call->pending, 1, memory_order_acq_rel) == 1) {
		call->on_over(call);
	}
	cairn_call_unref(call);
}

/* ---- waiting --------------------------------------------------------------------------------- */

void cairn_call_park(struct cairn_call *call, bool (*start)(void *call))
{
	call->fiber = cairn_fiber_current();
	if (call->fiber != NULL) {
		cairn_fiber_park(start, call);
		return;
	}
	call->woken = false;
	if (start(call)) return;
	pthread_mutex_lock(&call->mu);
	while (!call->woken) pthread_cond_wait(&call->cond, &call->mu);
	pthread_mutex_unlock(&call->mu);
}

struct native {
	void (*fn)(void *arg);
	void *arg;
};

static bool run_native(void *arg)
{
	struct native *n = arg;
	n->fn(n->arg);
	return true;
}

void cairn_call_native(void (*fn)(void *arg), void *arg)
{
	struct native n = {fn, arg};
	if (cairn_fiber_current() != NULL) {
		cairn_fiber_park(run_native, &n);
	} else {
		fn(arg);
	}
}

static void wake_thread(struct cairn_call *call)
{
	pthread_mutex_lock(&call->mu);
	call->woken = true;
	pthread_cond_signal(&call->cond);
	pthread_mutex_unlock(&call->mu);
}

void cairn_call_resume(struct cairn_call *call)
{
	if (call->fiber != NULL) {
		cairn_fiber_run(call->fiber);
	} else {
		wake_thread(call);
	}
}

void cairn_call_wake(struct cairn_call *call, unsigned event, bool here)
{
	pthread_mutex_lock(&call->mu);
	bool mine = (call->waiting & event) != 0;
	if (mine) {
		call->waiting = 0;
		call->woke_by = event;
	} else if (event == CAIRN_ON_SIGNAL) {
		call->signalled = true;
	}
	pthread_mutex_unlock(&call->mu);
	if (!mine) return;
	/* From here on this thread alone decides about the owner. */
	if (cairn_timer_remove(call->rpc->timers, &call->timer)) cairn_call_unref(call);
	if (here || call->fiber == NULL) {
		cairn_call_resume(call);
	} else {
		cairn_rpc_push(call->rpc, &call->work);
	}
}

void cairn_call_signal(struct cairn_call *call)
{
	cairn_call_wake(call, CAIRN_ON_SIGNAL, false);
}

bool cairn_call_gone(const struct cairn_call *call)
{
	return atomic_load_explicit(&call->gone, memory_order_acquire);
}

static void close_back(struct cairn_tag *tag, bool ok)
{
	(void)ok;
	struct cairn_call *call = CAIRN_CALL_OF(tag, close);
	if (call->cancelled != 0) {
		atomic_store_explicit(&call->gone, true, memory_order_release);
		cairn_call_wake(call, CAIRN_ON_GONE, true);
	}
	cairn_call_drop(call);
}

void cairn_call_watch(struct cairn_call *call)
{
	if (call->close_started) return;
	call->close_started = true;
	grpc_op op = {.op = GRPC_OP_RECV_CLOSE_ON_SERVER};
	op.data.recv_close_on_server.cancelled = &call->cancelled;
	(void)cairn_call_start(call, &op, 1, &call->close, close_back);
}

/* The event that ends a wait before it begins, or 0. */
static unsigned ready_locked(struct cairn_call *call, unsigned events)
{
	if ((events & CAIRN_ON_GONE) && cairn_call_gone(call)) return CAIRN_ON_GONE;
	if ((events & CAIRN_ON_SIGNAL) && call->signalled) {
		call->signalled = false;
		return CAIRN_ON_SIGNAL;
	}
	if ((events & CAIRN_ON_DRAIN) && cairn_server_draining(call->server)) {
		return cairn_server_drain_event(call->server);
	}
	return 0;
}

#define TIMEOUT_MAX_MS (INT64_C(1000) * 3600 * 24 * 365) /* keeps nanoseconds in 64 bits */

static bool begin_wait(void *arg)
{
	struct cairn_call *call = arg;
	const unsigned events = CAIRN_ON_SIGNAL | CAIRN_ON_TIMEOUT | CAIRN_ON_GONE | CAIRN_ON_DRAIN;
	cairn_call_watch(call);
	cairn_server_add_waiter(call->server, call);
	pthread_mutex_lock(&call->mu);
	call->woke_by = ready_locked(call, events);
	bool ready = call->woke_by != 0;
	if (!ready) {
		call->waiting = events;
		cairn_call_ref(call); /* the timer's */
		cairn_timer_add(call->rpc->timers, &call->timer);
	}
	pthread_mutex_unlock(&call->mu);
	return ready;
}

enum cairn_wake cairn_call_wait(struct cairn_call *call, int64_t timeout_ms)
{
	assert(call->server != NULL && timeout_ms >= 0);
	if (timeout_ms > TIMEOUT_MAX_MS) timeout_ms = TIMEOUT_MAX_MS;
	pthread_mutex_lock(&call->mu);
	call->timer.deadline_ns = cairn_monotonic_ns() + timeout_ms * 1000000;
	pthread_mutex_unlock(&call->mu);
	cairn_call_park(call, begin_wait);
	switch (call->woke_by) {
	case CAIRN_ON_SIGNAL:
		return CAIRN_WAKE_SIGNAL;
	case CAIRN_ON_GONE:
		return CAIRN_WAKE_GONE;
	case CAIRN_ON_DRAIN:
		return CAIRN_WAKE_DRAIN;
	default:
		return CAIRN_WAKE_TIMEOUT;
	}
}

/* ---- worker threads -------------------------------------------------------------------------- */

static bool begin_offload(void *arg)
{
	struct cairn_call *call = arg;
	cairn_call_watch(call);
	cairn_rpc_push(call->rpc, &call->work);
	return false;
}

void cairn_call_offload(struct cairn_call *call)
{
	assert(call->server != NULL);
	if (!cairn_rpc_on_worker()) cairn_call_park(call, begin_offload);
}

struct cairn_run {
	struct cairn_work work;
	struct cairn_call *call; /* a reference */
	void (*fn)(void *arg);
	void *arg;
};

static void run_work(struct cairn_work *work)
{
	struct cairn_run *run = (struct cairn_run *)(void *)work;
	struct cairn_call *call = run->call;
	run->fn(run->arg);
	/* It cannot end the wait for another run: only GONE ends one early, and that is for good.
	 */
	cairn_call_wake(call, CAIRN_ON_RUN, true);
	cairn_call_unref(call);
	free(run);
}

static bool begin_run(void *arg)
{
	struct cairn_call *call = arg;
	struct cairn_run *run = call->run;
	cairn_call_watch(call);
	pthread_mutex_lock(&call->mu);
	call->woke_by = ready_locked(call, CAIRN_ON_GONE);
	bool ready = call->woke_by != 0;
	if (!ready) call->waiting = CAIRN_ON_GONE | CAIRN_ON_RUN;
	pthread_mutex_unlock(&call->mu);
	cairn_rpc_push(run->call->rpc, &run->work);
	return ready;
}

bool cairn_call_run(struct cairn_call *call, void (*fn)(void *arg), void *arg)
{
	assert(call->server != NULL);
	struct cairn_run *run = calloc(1, sizeof(*run));
	if (run == NULL) abort();
	run->work.fn = run_work;
	run->call = cairn_call_ref(call);
	run->fn = fn;
	run->arg = arg;
	call->run = run;
	cairn_call_park(call, begin_run);
	return call->woke_by == CAIRN_ON_RUN;
}

/* ---- memory ---------------------------------------------------------------------------------- */

void *cairn_call_alloc(struct cairn_call *call, size_t n)
{
	void *p = cairn_arena_alloc(&call->arena, n);
	if (p == NULL) abort();
	memset(p, 0, n);
	return p;
}

char *cairn_call_strdup(struct cairn_call *call, const char *s)
{
	size_t n = strlen(s) + 1;
	char *p = cairn_call_alloc(call, n);
	memcpy(p, s, n);
	return p;
}
