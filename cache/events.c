/* Telling the observer what happened: noted under mu where it happens, told by a thread of its own
 * with no lock held. So who changes the store never waits for who listens; and what waits to be
 * told is bounded: when it is too much, all that is told is that something was lost. */
#include "cache/mem.h"
#include "cache/store.h"

void event_add_locked(struct cairn_cache *c, enum cairn_cache_event event,
		      const struct cairn_digest *digest, uint64_t value)
{
	struct events *e = &c->events;
	if (e->fn == NULL || digest->alg == 0) return;
	if (e->n > 0 && event == CAIRN_EVENT_GREW) { /* how far it is now is all that counts */
		struct event *last = &e->list[e->n - 1];
		if (last->event == event && cairn_digest_equal(&last->digest, digest)) {
			last->value = value;
			return;
		}
	}
	if (e->n == CAIRN_EVENTS_MAX) {
		e->list[0] = (struct event){.event = CAIRN_EVENT_LOST};
		e->n = 1;
	}
	if (e->n == e->cap) {
		e->cap = e->cap > 0 ? 2 * e->cap : 16;
		e->list = mem_grow(e->list, e->cap * sizeof(struct event));
	}
	e->list[e->n++] = (struct event){event, *digest, value};
	if (e->n == 1) pthread_cond_signal(&e->added);
}

/* Takes what there is and tells it, without the lock. */
static void tell_locked(struct cairn_cache *c) CAIRN_REQUIRES(&c->mu)
{
	struct events *e = &c->events;
	struct event *list = cairn_steal(&e->list);
	size_t n = e->n;
	cairn_cache_event_fn *fn = e->fn;
	void *arg = e->arg;
	e->n = e->cap = 0;
	e->telling = true;
	unlock(&c->mu);
	for (size_t i = 0; i < n; i++) fn(arg, list[i].event, &list[i].digest, list[i].value);
	free(list);
	lock(&c->mu);
	e->telling = false;
	pthread_cond_broadcast(&e->told);
}

static void *events_thread(void *arg)
{
	struct cairn_cache *c = arg;
	lock(&c->mu);
	while (!c->events.stop) {
		if (c->events.n > 0) {
			tell_locked(c);
		} else {
			pthread_cond_wait(&c->events.added, &c->mu.os);
		}
	}
	unlock(&c->mu);
	return NULL;
}

enum cairn_code events_start(struct cairn_cache *c, struct cairn_err *err)
{
	int rc = pthread_create(&c->events.thread, NULL, events_thread, c);
	if (rc != 0) return cairn_err_sys(err, rc, "start a thread of the store");
	c->events.started = true;
	return CAIRN_OK;
}

void events_stop(struct cairn_cache *c)
{
	cairn_cache_observe(c, NULL, NULL);
	if (!c->events.started) return;
	lock(&c->mu);
	c->events.stop = true;
	pthread_cond_signal(&c->events.added);
	unlock(&c->mu);
	pthread_join(c->events.thread, NULL);
	c->events.started = false;
}

void cairn_cache_observe(struct cairn_cache *c, cairn_cache_event_fn *fn, void *arg)
{
	struct events *e = &c->events;
	struct event *untold = NULL;
	lock(&c->mu);
	e->fn = fn;
	e->arg = arg;
	if (fn == NULL) {
		untold = cairn_steal(&e->list);
		e->n = e->cap = 0;
		while (e->telling) pthread_cond_wait(&e->told, &c->mu.os);
	}
	unlock(&c->mu);
	free(untold);
}
