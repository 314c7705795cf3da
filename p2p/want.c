#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "p2p/fill.h"

static int64_t now_us(void)
{
	return cairn_boot_ns(&cairn_clock_system) / 1000;
}

static bool is_final(enum cairn_want_state state)
{
	return state == CAIRN_WANT_HERE || state == CAIRN_WANT_FAILED;
}

/* ---- beginning -------------------------------------------------------------------------- */

/* Why it cannot come in this way, whoever has it. */
static enum cairn_code check(struct cairn_swarm *swarm, const struct cairn_digest *digest,
			     uint64_t size, struct cairn_err *err)
{
	if (atomic_load(&swarm->cancelled)) {
		return cairn_err_set(err, CAIRN_UNAVAILABLE, "the swarm is shutting down");
	}
	if (cairn_alg_bytes(digest->alg) == 0 || cairn_piece_count(size) == 0) {
		return cairn_err_set(err, CAIRN_FAILED_PRECONDITION,
				     "a blob of %llu bytes does not come in pieces",
				     (unsigned long long)size);
	}
	return CAIRN_OK;
}

/* The fill that the want joins, a new one if there is none; it is counted. */
static enum cairn_code join_locked(struct cairn_swarm *swarm, const struct cairn_digest *digest,
				   uint64_t size, struct cairn_swarm_fill **ret,
				   struct cairn_err *err)
{
	struct cairn_swarm_fill **bucket = &swarm->fills[cairn_bucket_of(digest)], *f = *bucket;
	while (f != NULL && !cairn_digest_equal(&f->digest, digest)) f = f->next;
	if (f != NULL && f->size != size) {
		return cairn_err_set(err, CAIRN_FAILED_PRECONDITION,
				     "it is being got as a blob of %llu bytes, not %llu",
				     (unsigned long long)f->size, (unsigned long long)size);
	}
	if (f != NULL) {
		*ret = cairn_swarm_fill_ref(f);
		return CAIRN_OK;
	}
	if (swarm->n_fills >= CAIRN_FILLS_MAX) {
		return cairn_err_set(err, CAIRN_RESOURCE_EXHAUSTED,
				     "%d blobs are being got already", CAIRN_FILLS_MAX);
	}
	f = cairn_swarm_fill_new(swarm, digest, size);
	cairn_swarm_fill_ref(f); /* the thread's */
	if (!cairn_swarm_thread(swarm, cairn_swarm_fill_main, f)) {
		cairn_swarm_fill_unref(f);
		cairn_swarm_fill_unref(f);
		return cairn_err_set(err, CAIRN_RESOURCE_EXHAUSTED, "no more threads");
	}
	f->next = *bucket;
	*bucket = f;
	swarm->n_fills++;
	*ret = f;
	return CAIRN_OK;
}

static void append_locked(struct cairn_swarm_fill *f, struct cairn_want *want)
{
	struct cairn_want **at = &f->wants;
	while (*at != NULL) at = &(*at)->next;
	*at = want;
	cairn_swarm_fill_poke_locked(f);
}

struct cairn_want *cairn_swarm_want(struct cairn_swarm *swarm, const struct cairn_digest *digest,
				    uint64_t size, bool may_fetch)
{
	struct cairn_want *want = calloc(1, sizeof(*want));
	if (want == NULL) abort();
	want->may_fetch = may_fetch;
	want->begun_us = now_us();
	want->told = true;
	if (cairn_swarm_has(swarm, digest)) {
		want->state = CAIRN_WANT_HERE;
		return want;
	}
	struct cairn_swarm_fill *f = NULL;
	enum cairn_code rc = check(swarm, digest, size, &want->why);
	if (rc == CAIRN_OK) {
		pthread_mutex_lock(&swarm->mu);
		rc = join_locked(swarm, digest, size, &f, &want->why);
		if (rc == CAIRN_OK) {
			want->fill = f;
			pthread_mutex_lock(&f->mu);
			append_locked(f, want);
			pthread_mutex_unlock(&f->mu);
		}
		pthread_mutex_unlock(&swarm->mu);
	}
	if (rc != CAIRN_OK) want->state = CAIRN_WANT_FAILED;
	return want;
}

/* ---- looking, watching, letting go ------------------------------------------------------ */

static uint64_t done_locked(const struct cairn_swarm_fill *f)
{
	uint64_t done = f->received > f->local_bytes ? f->received : f->local_bytes;
	return done < f->size ? done : f->size;
}

enum cairn_want_state cairn_want_look(struct cairn_want *want, uint64_t *ret_done,
				      struct cairn_err *err)
{
	struct cairn_swarm_fill *f = want->fill;
	if (f != NULL) pthread_mutex_lock(&f->mu);
	enum cairn_want_state state = want->state;
	if (ret_done != NULL) {
		*ret_done = f == NULL || is_final(state) ? want->done : done_locked(f);
	}
	if (err != NULL && state == CAIRN_WANT_FAILED) *err = want->why;
	if (f != NULL) pthread_mutex_unlock(&f->mu);
	return state;
}

void cairn_want_watch(struct cairn_want *want, void (*fn)(void *arg), void *arg)
{
	struct cairn_swarm_fill *f = want->fill;
	if (f == NULL) return; /* its state does not change any more */
	pthread_mutex_lock(&f->mu);
	while (want->calling) pthread_cond_wait(&f->changed, &f->mu);
	want->fn = fn;
	want->arg = arg;
	pthread_mutex_unlock(&f->mu);
}

void cairn_want_release(struct cairn_want *want)
{
	if (want == NULL) return;
	struct cairn_swarm_fill *f = want->fill;
	if (f != NULL) {
		pthread_mutex_lock(&f->mu);
		want->fn = NULL;
		while (want->calling) pthread_cond_wait(&f->changed, &f->mu);
		struct cairn_want **at = &f->wants;
		while (*at != want) at = &(*at)->next;
		*at = want->next;
		if (f->granted == want) {
			f->granted = NULL;
			f->grant_over = true;
		}
		cairn_swarm_fill_poke_locked(f);
		pthread_mutex_unlock(&f->mu);
		cairn_swarm_fill_unref(f);
	}
	free(want);
}

/* ---- what the coordinator asks and tells ------------------------------------------------ */

bool cairn_swarm_fill_wanted_locked(const struct cairn_swarm_fill *f)
{
	const struct cairn_want *w = f->wants;
	while (w != NULL && is_final(w->state)) w = w->next;
	return w != NULL;
}

struct cairn_want *cairn_swarm_fill_candidate_locked(const struct cairn_swarm_fill *f)
{
	struct cairn_want *w = f->wants;
	if (f->granted != NULL) return NULL; /* one at a time */
	while (w != NULL && (is_final(w->state) || !w->may_fetch)) w = w->next;
	return w;
}

bool cairn_swarm_fill_waited_locked(const struct cairn_swarm_fill *f)
{
	const struct cairn_want *w = f->wants;
	while (w != NULL && (is_final(w->state) || w == f->granted)) w = w->next;
	return w != NULL;
}

static void count_decision(struct cairn_swarm_counters *count, int64_t us)
{
	int b = 0;
	while (b < CAIRN_RPC_BUCKETS && us > cairn_rpc_bucket_us[b]) b++;
	atomic_fetch_add(&count->decide_buckets[b], 1);
	atomic_fetch_add(&count->decide_us_sum, (uint64_t)us);
	atomic_fetch_add(&count->decisions, 1);
}

static void set_locked(struct cairn_swarm_fill *f, struct cairn_want *w,
		       enum cairn_want_state state)
{
	if (w->state == state) return;
	if (w->state == CAIRN_WANT_ASKING) {
		count_decision(&f->swarm->count, now_us() - w->begun_us);
	}
	w->state = state;
	w->done = done_locked(f);
	w->told = false;
}

void cairn_swarm_fill_tell_locked(struct cairn_swarm_fill *f, enum cairn_want_state state)
{
	for (struct cairn_want *w = f->wants; w != NULL; w = w->next) {
		if (!is_final(w->state) && w != f->granted) set_locked(f, w, state);
	}
}

void cairn_swarm_fill_grant_locked(struct cairn_swarm_fill *f, struct cairn_want *want)
{
	f->granted = want;
	set_locked(f, want, CAIRN_WANT_GRANTED);
}

void cairn_swarm_fill_end_locked(struct cairn_swarm_fill *f, enum cairn_want_state state,
				 const struct cairn_err *why, const struct cairn_want *but)
{
	for (struct cairn_want *w = f->wants; w != NULL; w = w->next) {
		if (is_final(w->state) || w == but) continue;
		if (why != NULL) w->why = *why;
		set_locked(f, w, state);
	}
}

void cairn_swarm_fill_notify(struct cairn_swarm_fill *f)
{
	pthread_mutex_lock(&f->mu);
	for (struct cairn_want *w = f->wants; w != NULL;) {
		void (*fn)(void *) = w->fn;
		void *arg = w->arg;
		if (w->told || fn == NULL) {
			w = w->next;
			continue;
		}
		w->told = w->calling = true;
		pthread_mutex_unlock(&f->mu);
		fn(arg);
		pthread_mutex_lock(&f->mu);
		w->calling = false;
		pthread_cond_broadcast(&f->changed);
		w = f->wants; /* the list may be another by now */
	}
	pthread_mutex_unlock(&f->mu);
}
