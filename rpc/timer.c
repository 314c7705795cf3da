/* Deadlines of waiting handlers: a binary heap and the thread that watches its first entry. A
 * thread of its own, so that workers which are all busy with disks do not delay it. */
#include <assert.h>
#include <stdlib.h>
#include <time.h>

#include "rpc/runtime.h"

struct cairn_timers {
	pthread_mutex_t mu;
	pthread_cond_t changed;
	pthread_t thread;
	struct cairn_timer **heap; /* guarded by mu */
	size_t n, cap;		   /* guarded by mu */
	bool stop;		   /* guarded by mu */
};

int64_t cairn_monotonic_ns(void)
{
	struct timespec ts = {0};
	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static void place_locked(struct cairn_timers *t, size_t i, struct cairn_timer *timer)
{
	t->heap[i] = timer;
	timer->index = i + 1;
}

/* Put timer where it belongs, given that the hole is at i. */
static void sift_locked(struct cairn_timers *t, size_t i, struct cairn_timer *timer)
{
	while (i > 0 && t->heap[(i - 1) / 2]->deadline_ns > timer->deadline_ns) {
		place_locked(t, i, t->heap[(i - 1) / 2]);
		i = (i - 1) / 2;
	}
	for (;;) {
		size_t child = 2 * i + 1;
		if (child >= t->n) break;
		if (child + 1 < t->n &&
		    t->heap[child + 1]->deadline_ns < t->heap[child]->deadline_ns) {
			child++;
		}
		if (t->heap[child]->deadline_ns >= timer->deadline_ns) break;
		place_locked(t, i, t->heap[child]);
		i = child;
	}
	place_locked(t, i, timer);
}

static void remove_locked(struct cairn_timers *t, struct cairn_timer *timer)
{
	size_t i = timer->index - 1;
	struct cairn_timer *last = t->heap[--t->n];
	timer->index = 0;
	if (last != timer) sift_locked(t, i, last);
}

void cairn_timer_add(struct cairn_timers *t, struct cairn_timer *timer)
{
	pthread_mutex_lock(&t->mu);
	assert(timer->index == 0);
	if (t->n == t->cap) {
		t->cap = t->cap == 0 ? 64 : t->cap * 2;
		t->heap = realloc(t->heap, t->cap * sizeof(struct cairn_timer *));
		if (t->heap == NULL) abort();
	}
	t->n++;
	sift_locked(t, t->n - 1, timer);
	if (timer->index == 1) pthread_cond_signal(&t->changed);
	pthread_mutex_unlock(&t->mu);
}

bool cairn_timer_remove(struct cairn_timers *t, struct cairn_timer *timer)
{
	pthread_mutex_lock(&t->mu);
	bool found = timer->index != 0;
	if (found) remove_locked(t, timer);
	pthread_mutex_unlock(&t->mu);
	return found;
}

static void *run(void *arg)
{
	struct cairn_timers *t = arg;
	pthread_mutex_lock(&t->mu);
	while (!t->stop) {
		if (t->n == 0) {
			pthread_cond_wait(&t->changed, &t->mu);
			continue;
		}
		struct cairn_timer *first = t->heap[0];
		int64_t at = first->deadline_ns;
		if (at > cairn_monotonic_ns()) {
			struct timespec ts = {
				.tv_sec = (time_t)(at / 1000000000),
				.tv_nsec = (long)(at % 1000000000),
			};
			pthread_cond_timedwait(&t->changed, &t->mu, &ts);
			continue;
		}
		remove_locked(t, first);
		pthread_mutex_unlock(&t->mu);
		first->fn(first);
		pthread_mutex_lock(&t->mu);
	}
	pthread_mutex_unlock(&t->mu);
	return NULL;
}

struct cairn_timers *cairn_timers_new(void)
{
	struct cairn_timers *t = calloc(1, sizeof(*t));
	if (t == NULL) abort();
	pthread_condattr_t attr;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&t->changed, &attr);
	pthread_condattr_destroy(&attr);
	pthread_mutex_init(&t->mu, NULL);
	if (cairn_thread_start(&t->thread, run, t) == 0) return t;
	pthread_cond_destroy(&t->changed);
	pthread_mutex_destroy(&t->mu);
	free(t);
	return NULL;
}

void cairn_timers_free(struct cairn_timers *t)
{
	if (t == NULL) return;
	pthread_mutex_lock(&t->mu);
	t->stop = true;
	pthread_cond_signal(&t->changed);
	pthread_mutex_unlock(&t->mu);
	pthread_join(t->thread, NULL);
	pthread_cond_destroy(&t->changed);
	pthread_mutex_destroy(&t->mu);
	free(t->heap);
	free(t);
}
