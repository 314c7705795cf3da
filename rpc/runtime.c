#include "rpc/runtime.h"

#include <assert.h>
#include <errno.h>
#include <grpc/support/log.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "rpc/call.h"

/* A second one costs: gRPC hands work from one polling thread to the other, each time with a
 * wake-up, and containerd's one connection is served by one of them at a time anyway. */
#define POLLERS_DEFAULT 1
#define WORKERS_DEFAULT                                                                            \
	16 /* most of them wait for disks: one that flushes must not hold others up */
#define THREADS_MAX 256

static _Thread_local bool is_worker;

__attribute__((noinline)) bool cairn_rpc_on_worker(void)
{
	bool b = is_worker;
	__asm__ volatile("" : "+r"(b)); /* not pure: see fiber.c on thread-local variables */
	return b;
}

static void log_from_grpc(gpr_log_func_args *args)
{
	enum cairn_log_level level =
		args->severity == GPR_LOG_SEVERITY_ERROR ? CAIRN_LOG_WARN : CAIRN_LOG_DEBUG;
	const char *file = strrchr(args->file, '/');
	cairn_log(level, "grpc", CAIRN_STR("msg", args->message),
		  CAIRN_STR("file", file == NULL ? args->file : file + 1),
		  CAIRN_NUM("line", args->line));
}

static void *poll(void *arg)
{
	struct cairn_rpc *rpc = arg;
	for (;;) {
		grpc_event ev = grpc_completion_queue_next(
			rpc->cq, gpr_inf_future(GPR_CLOCK_REALTIME), NULL);
		if (ev.type == GRPC_QUEUE_SHUTDOWN) return NULL;
		if (ev.type != GRPC_OP_COMPLETE) continue;
		struct cairn_tag *tag = ev.tag;
		(void)atomic_load_explicit(&tag->armed, memory_order_acquire);
		tag->fn(tag, ev.success != 0);
	}
}

static void *work(void *arg)
{
	struct cairn_rpc *rpc = arg;
	is_worker = true;
	pthread_mutex_lock(&rpc->mu);
	for (;;) {
		struct cairn_work *w = rpc->head;
		if (w == NULL) {
			if (rpc->stop) break;
			pthread_cond_wait(&rpc->more, &rpc->mu);
			continue;
		}
		rpc->head = w->next;
		if (rpc->head == NULL) rpc->tail = &rpc->head;
		pthread_mutex_unlock(&rpc->mu);
		w->fn(w);
		pthread_mutex_lock(&rpc->mu);
	}
	pthread_mutex_unlock(&rpc->mu);
	return NULL;
}

void cairn_rpc_push(struct cairn_rpc *rpc, struct cairn_work *w)
{
	pthread_mutex_lock(&rpc->mu);
	w->next = NULL;
	*rpc->tail = w;
	rpc->tail = &w->next;
	pthread_cond_signal(&rpc->more);
	pthread_mutex_unlock(&rpc->mu);
}

/* gRPC's mutexes are abseil's, and those look for deadlocks at each lock and unlock unless they
 * were compiled with NDEBUG, which Debian's were not: a seventh of the instructions of a small
 * call. This is absl::SetMutexDeadlockDetectionMode, in C++'s spelling; an abseil that spells it
 * otherwise stays as it is. */
void set_abseil_deadlock_detection(int mode) __asm__(
	"_ZN4absl7debian329SetMutexDeadlockDetectionModeENS0_15OnDeadlockCycleE")
	__attribute__((weak));
#define ABSEIL_IGNORE 0 /* absl::OnDeadlockCycle::kIgnore */

static void set_up_grpc(void)
{
	(void)signal(SIGPIPE, SIG_IGN);
	if (set_abseil_deadlock_detection != NULL) set_abseil_deadlock_detection(ABSEIL_IGNORE);
	gpr_set_log_function(log_from_grpc);
	gpr_set_log_verbosity(cairn_log_level() == CAIRN_LOG_DEBUG ? GPR_LOG_SEVERITY_INFO
								   : GPR_LOG_SEVERITY_ERROR);
	grpc_init();
}

/* Stop and join what was started, in the order that lets no thread miss its work. */
static void stop_threads(struct cairn_rpc *rpc, size_t started)
{
	grpc_completion_queue_shutdown(rpc->cq);
	size_t pollers = started < rpc->n_pollers ? started : rpc->n_pollers;
	for (size_t i = 0; i < pollers; i++) pthread_join(rpc->threads[i], NULL);
	pthread_mutex_lock(&rpc->mu);
	rpc->stop = true;
	pthread_cond_broadcast(&rpc->more);
	pthread_mutex_unlock(&rpc->mu);
	for (size_t i = pollers; i < started; i++) pthread_join(rpc->threads[i], NULL);
	/* With no polling thread started, the queue's end must be seen here. */
	while (pollers == 0 &&
	       grpc_completion_queue_next(rpc->cq, gpr_inf_future(GPR_CLOCK_REALTIME), NULL).type !=
		       GRPC_QUEUE_SHUTDOWN) {
	}
}

static void release(struct cairn_rpc *rpc, size_t started)
{
	cairn_timers_free(rpc->timers);
	stop_threads(rpc, started);
	cairn_call_pool_clear(rpc);
	cairn_fiber_pool_free(rpc->fibers);
	grpc_completion_queue_destroy(rpc->cq);
	pthread_cond_destroy(&rpc->more);
	pthread_mutex_destroy(&rpc->mu);
	pthread_mutex_destroy(&rpc->pool_mu);
	free(rpc->threads);
	free(rpc);
	grpc_shutdown();
}

int cairn_thread_start(pthread_t *ret, void *(*fn)(void *), void *arg)
{
	sigset_t all, before;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int rc = pthread_create(ret, NULL, fn, arg);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return rc;
}

enum cairn_code cairn_rpc_new(const struct cairn_rpc_opts *opts, struct cairn_rpc **ret,
			      struct cairn_err *err)
{
	size_t pollers = opts != NULL && opts->pollers > 0 ? opts->pollers : POLLERS_DEFAULT;
	size_t workers = opts != NULL && opts->workers > 0 ? opts->workers : WORKERS_DEFAULT;
	if (pollers + workers > THREADS_MAX) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "start gRPC: %zu threads are asked for, at most %d allowed",
				     pollers + workers, THREADS_MAX);
	}
	set_up_grpc();
	struct cairn_rpc *rpc = calloc(1, sizeof(*rpc));
	if (rpc == NULL) abort();
	rpc->tail = &rpc->head;
	rpc->n_pollers = pollers;
	rpc->n_workers = workers;
	rpc->threads = calloc(pollers + workers, sizeof(*rpc->threads));
	if (rpc->threads == NULL) abort();
	pthread_mutex_init(&rpc->mu, NULL);
	pthread_mutex_init(&rpc->pool_mu, NULL);
	pthread_cond_init(&rpc->more, NULL);
	rpc->cq = grpc_completion_queue_create_for_next(NULL);
	rpc->fibers = cairn_fiber_pool_new();
	rpc->timers = cairn_timers_new();
	int rc = rpc->timers == NULL ? EAGAIN : 0;
	size_t started = 0;
	while (rc == 0 && started < pollers + workers) {
		rc = cairn_thread_start(&rpc->threads[started], started < pollers ? poll : work,
					rpc);
		if (rc == 0) started++;
	}
	if (rc != 0) {
		release(rpc, started);
		return cairn_err_sys(err, rc, "start gRPC: start a thread");
	}
	*ret = rpc;
	return CAIRN_OK;
}

void cairn_rpc_free(struct cairn_rpc *rpc)
{
	if (rpc == NULL) return;
	release(rpc, rpc->n_pollers + rpc->n_workers);
}
