#include "p2p/swarm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "p2p/fill.h"
#include "p2p/serve.h"
#include "p2p/serving.h"
#include "p2p/tls.h"

#define ANNOUNCE_BATCH 256
#define CLOSE_MS 1000 /* the directory may take so long for our goodbye */

/* ---- small things that all parts use ---------------------------------------------------- */

int64_t cairn_swarm_now_ms(void)
{
	return cairn_boot_ns(&cairn_clock_system) / CAIRN_NS_PER_MS;
}

bool cairn_swarm_may_share(struct cairn_swarm *swarm, const struct cairn_digest *digest)
{
	return swarm->may_share == NULL || swarm->may_share(swarm->may_share_arg, digest);
}

bool cairn_swarm_has(struct cairn_swarm *swarm, const struct cairn_digest *digest)
{
	bool damaged = false;
	return cairn_cache_state(swarm->cache, digest, &damaged) != 0 && !damaged;
}

void cairn_cond_init(pthread_cond_t *cond)
{
	pthread_condattr_t attr;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(cond, &attr);
	pthread_condattr_destroy(&attr);
}

static void wait_ns(pthread_cond_t *cond, pthread_mutex_t *mu, int64_t ns)
{
	struct timespec end;
	clock_gettime(CLOCK_MONOTONIC, &end);
	ns += end.tv_nsec;
	end.tv_sec += ns / CAIRN_NS_PER_S;
	end.tv_nsec = ns % CAIRN_NS_PER_S;
	pthread_cond_timedwait(cond, mu, &end);
}

void cairn_cond_wait_ms(pthread_cond_t *cond, pthread_mutex_t *mu, int64_t ms)
{
	wait_ns(cond, mu, ms * CAIRN_NS_PER_MS);
}

void cairn_swarm_pause(struct cairn_swarm *swarm, int64_t ns)
{
	int64_t end_ns = cairn_boot_ns(&cairn_clock_system) + ns;
	pthread_mutex_lock(&swarm->mu);
	while (!atomic_load(&swarm->cancelled)) {
		int64_t left_ns = end_ns - cairn_boot_ns(&cairn_clock_system);
		if (left_ns <= 0) break;
		wait_ns(&swarm->cancel, &swarm->mu, left_ns);
	}
	pthread_mutex_unlock(&swarm->mu);
}

bool cairn_swarm_thread(struct cairn_swarm *swarm, void *(*start)(void *arg), void *arg)
{
	pthread_t thread;
	pthread_attr_t attr;
	atomic_fetch_add(&swarm->n_threads, 1);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, CAIRN_STACK_BYTES);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	int rc = pthread_create(&thread, &attr, start, arg);
	pthread_attr_destroy(&attr);
	if (rc != 0) atomic_fetch_sub(&swarm->n_threads, 1);
	return rc == 0;
}

void cairn_swarm_thread_ended(struct cairn_swarm *swarm)
{
	pthread_mutex_lock(&swarm->mu);
	atomic_fetch_sub(&swarm->n_threads, 1);
	pthread_cond_broadcast(&swarm->changed);
	pthread_mutex_unlock(&swarm->mu);
}

bool cairn_swarm_queue(struct cairn_swarm *swarm)
{
	pthread_mutex_lock(&swarm->mu);
	bool room = swarm->n_queued < swarm->max_grants;
	if (room) swarm->n_queued++;
	pthread_mutex_unlock(&swarm->mu);
	return room;
}

/* There is room for a grant: whoever waits for that asks now. */
static void offer_place_locked(struct cairn_swarm *swarm)
{
	for (unsigned b = 0; b < CAIRN_BUCKETS; b++) {
		for (struct cairn_swarm_fill *f = swarm->fills[b]; f != NULL; f = f->next) {
			pthread_mutex_lock(&f->mu);
			if (f->wants_place) {
				f->ask_at_ms = 0;
				cairn_swarm_fill_poke_locked(f);
			}
			pthread_mutex_unlock(&f->mu);
		}
	}
}

void cairn_swarm_unqueue(struct cairn_swarm *swarm)
{
	pthread_mutex_lock(&swarm->mu);
	swarm->n_queued--;
	offer_place_locked(swarm);
	pthread_mutex_unlock(&swarm->mu);
}

uint64_t cairn_swarm_download_limit(const struct cairn_swarm *swarm)
{
	return swarm->down != NULL ? atomic_load(&swarm->down->rate) : 0;
}

void cairn_swarm_set_limits(struct cairn_swarm *swarm, const struct cairn_swarm_limits *limits)
{
	if (swarm == NULL) return;
	cairn_rate_set(&swarm->up, limits->upload_limit, cairn_boot_ns(&cairn_clock_system));
	atomic_store(&swarm->decide_ms, limits->decide_ms);
	atomic_store(&swarm->stall_ms, limits->stall_ms);
	atomic_store(&swarm->min_rate, limits->min_rate);
	pthread_mutex_lock(&swarm->mu);
	atomic_store(&swarm->max_grants, limits->max_grants > 0 ? (unsigned)limits->max_grants : 1);
	offer_place_locked(swarm);
	pthread_mutex_unlock(&swarm->mu);
}

/* ---- what the cache has, and the directory is told -------------------------------------- */

/* Say what holds now. Whether it may be shared is asked without a lock, so it may be another answer
 * by the time it was said: then it is said again. */
void cairn_swarm_reconsider(struct cairn_swarm *swarm, const struct cairn_digest *digest)
{
	bool may = cairn_swarm_may_share(swarm, digest), said;
	do {
		said = may;
		pthread_mutex_lock(&swarm->announce_mu);
		if (may && !atomic_load(&swarm->cancelled) && cairn_swarm_has(swarm, digest)) {
			if (cairn_digests_add(&swarm->announced, digest)) {
				swarm->dir->ops->announce(swarm->dir, digest, 1);
			}
		} else if (cairn_digests_remove(&swarm->announced, digest)) {
			swarm->dir->ops->withdraw(swarm->dir, digest, 1);
		}
		pthread_mutex_unlock(&swarm->announce_mu);
		may = cairn_swarm_may_share(swarm, digest);
	} while (may != said);
}

static void announce_batch(struct cairn_swarm *swarm, const struct cairn_digest *digests, size_t n)
{
	struct cairn_digest fresh[ANNOUNCE_BATCH];
	size_t n_fresh = 0;
	pthread_mutex_lock(&swarm->announce_mu);
	for (size_t i = 0; i < n; i++) {
		if (!cairn_swarm_has(swarm, &digests[i])) continue;
		if (cairn_digests_add(&swarm->announced, &digests[i])) {
			fresh[n_fresh++] = digests[i];
		}
	}
	if (n_fresh > 0) swarm->dir->ops->announce(swarm->dir, fresh, n_fresh);
	pthread_mutex_unlock(&swarm->announce_mu);
	/* What may be shared may have changed meanwhile. */
	for (size_t i = 0; i < n; i++) {
		if (!cairn_swarm_may_share(swarm, &digests[i])) {
			cairn_swarm_reconsider(swarm, &digests[i]);
		}
	}
}

/* What is here now. */
static void announce_all(struct cairn_swarm *swarm)
{
	static const size_t batch = ANNOUNCE_BATCH;
	struct cairn_blob_info *infos = calloc(batch, sizeof(*infos));
	struct cairn_digest *digests = calloc(batch, sizeof(*digests));
	struct cairn_digest after = {0};
	if (infos == NULL || digests == NULL) abort();
	while (!atomic_load(&swarm->cancelled)) {
		size_t n = cairn_cache_next(swarm->cache, &after, 0, infos, batch), n_share = 0;
		if (n == 0) break;
		after = infos[n - 1].digest;
		for (size_t i = 0; i < n; i++) {
			bool whole = !infos[i].damaged;
			struct cairn_digest digest = infos[i].digest;
			cairn_blob_info_fini(&infos[i]);
			if (whole && cairn_swarm_may_share(swarm, &digest)) {
				digests[n_share++] = digest;
			}
		}
		announce_batch(swarm, digests, n_share);
	}
	free(infos);
	free(digests);
}

static void *announcer_main(void *arg)
{
	announce_all(arg);
	return NULL;
}

/* Anything may have happened. Of what went, whoever asks for it learns first, and it is withdrawn
 * then (serve.c): we know only a part of the digests that were announced. */
static void look_at_all(struct cairn_swarm *swarm)
{
	announce_all(swarm);
	cairn_serving_poke_all(swarm);
	pthread_mutex_lock(&swarm->mu);
	for (unsigned b = 0; b < CAIRN_BUCKETS; b++) {
		for (struct cairn_swarm_fill *f = swarm->fills[b]; f != NULL; f = f->next) {
			cairn_swarm_fill_poke(f);
		}
	}
	pthread_mutex_unlock(&swarm->mu);
}

static void on_cache_event(void *arg, enum cairn_cache_event event,
			   const struct cairn_digest *digest, uint64_t value)
{
	struct cairn_swarm *swarm = arg;
	(void)value;
	if (event == CAIRN_EVENT_LOST) {
		look_at_all(swarm);
		return;
	}
	if (event == CAIRN_EVENT_ADDED || event == CAIRN_EVENT_GONE) {
		cairn_swarm_reconsider(swarm, digest);
	}
	if (event == CAIRN_EVENT_WRONG) {
		cairn_serving_wrong(swarm, digest);
	} else {
		cairn_serving_poke(swarm, digest);
	}
	struct cairn_swarm_fill *f = cairn_swarm_find_fill(swarm, digest);
	if (f != NULL) cairn_swarm_fill_poke(f);
	cairn_swarm_fill_unref(f);
}

/* ---- the end ---------------------------------------------------------------------------- */

void cairn_swarm_cancel(struct cairn_swarm *swarm)
{
	if (swarm == NULL) return;
	atomic_store(&swarm->cancelled, true);
	if (swarm->pool != NULL) cairn_pool_cancel(swarm->pool);
	pthread_mutex_lock(&swarm->mu);
	pthread_cond_broadcast(&swarm->cancel);
	for (unsigned b = 0; b < CAIRN_BUCKETS; b++) {
		for (struct cairn_swarm_fill *f = swarm->fills[b]; f != NULL; f = f->next) {
			cairn_swarm_fill_poke(f);
		}
	}
	pthread_mutex_unlock(&swarm->mu);
}

static void swarm_free(struct cairn_swarm *swarm)
{
	cairn_pool_free(swarm->pool);
	cairn_tls_files_free(swarm->tls);
	cairn_peers_free(swarm->peers);
	cairn_digests_fini(&swarm->announced);
	cairn_rate_fini(&swarm->up);
	pthread_cond_destroy(&swarm->changed);
	pthread_cond_destroy(&swarm->cancel);
	pthread_mutex_destroy(&swarm->mu);
	pthread_mutex_destroy(&swarm->announce_mu);
	pthread_cond_destroy(&swarm->call_ended);
	pthread_mutex_destroy(&swarm->call_mu);
	free(swarm);
}

void cairn_swarm_stop(struct cairn_swarm *swarm)
{
	if (swarm == NULL) return;
	cairn_swarm_cancel(swarm);
	if (swarm->has_announcer) pthread_join(swarm->announcer, NULL);
	pthread_mutex_lock(&swarm->mu);
	while (atomic_load(&swarm->n_threads) > 0) pthread_cond_wait(&swarm->changed, &swarm->mu);
	pthread_mutex_unlock(&swarm->mu);
	cairn_listener_free(swarm->listener);
	if (swarm->observes) cairn_cache_observe(swarm->cache, NULL, NULL);
	if (swarm->dir != NULL) swarm->dir->ops->close(swarm->dir, CLOSE_MS);
	swarm_free(swarm);
}

/* ---- the beginning ---------------------------------------------------------------------- */

static void serve(void *arg, struct cairn_conn *conn)
{
	cairn_serve(arg, conn);
}

static struct cairn_swarm *swarm_new(const struct cairn_swarm_opts *opts)
{
	struct cairn_swarm *swarm = calloc(1, sizeof(*swarm));
	int64_t now_ns = cairn_boot_ns(&cairn_clock_system);
	if (swarm == NULL) abort();
	swarm->cache = opts->cache;
	swarm->started_ms = now_ns / CAIRN_NS_PER_MS;
	atomic_init(&swarm->decide_ms, opts->decide_ms);
	atomic_init(&swarm->stall_ms, opts->stall_ms);
	atomic_init(&swarm->min_rate, opts->min_rate);
	atomic_init(&swarm->max_grants, opts->max_grants > 0 ? (unsigned)opts->max_grants : 1);
	swarm->down = opts->download;
	swarm->whole_idle_ms = CAIRN_WHOLE_IDLE_MS;
	swarm->may_share = opts->may_share;
	swarm->may_share_arg = opts->may_share_arg;
	cairn_rate_init(&swarm->up, opts->upload_limit, now_ns);
	swarm->peers = cairn_peers_new();
	pthread_mutex_init(&swarm->mu, NULL);
	pthread_mutex_init(&swarm->announce_mu, NULL);
	cairn_cond_init(&swarm->changed);
	cairn_cond_init(&swarm->cancel);
	pthread_mutex_init(&swarm->call_mu, NULL);
	cairn_cond_init(&swarm->call_ended);
	return swarm;
}

static enum cairn_code begin_to_listen(struct cairn_swarm *swarm,
				       const struct cairn_swarm_opts *opts, struct cairn_err *err)
{
	enum cairn_code rc = cairn_swarm_load_tls(opts, &swarm->tls, err);
	if (rc != CAIRN_OK) return rc;
	const struct cairn_listener_opts listener = {
		.listen = opts->listen,
		.tls = swarm->tls,
		.own = &swarm->hello,
		.serve = serve,
		.arg = swarm,
		.callers = opts->callers,
	};
	if (opts->callers.open != NULL && swarm->tls != NULL) cairn_tls_files_offer_h2(swarm->tls);
	rc = cairn_listener_new(&listener, &swarm->listener, err);
	if (rc != CAIRN_OK) return rc;
	rc = cairn_swarm_name(opts, cairn_listener_port(swarm->listener), &swarm->hello, err);
	if (rc != CAIRN_OK) return rc;
	swarm->hello.features = opts->calls ? CAIRN_FEATURE_CALLS : 0;
	memcpy(&swarm->seed, swarm->hello.instance, sizeof(swarm->seed));
	swarm->pool = cairn_pool_new(swarm->tls, &swarm->hello);
	return CAIRN_OK;
}

static enum cairn_code begin_to_share(struct cairn_swarm *swarm, struct cairn_err *err)
{
	enum cairn_code rc = cairn_listener_run(swarm->listener, err);
	if (rc != CAIRN_OK) return rc;
	swarm->observes = true;
	cairn_cache_observe(swarm->cache, on_cache_event, swarm);
	int errnum = pthread_create(&swarm->announcer, NULL, announcer_main, swarm);
	if (errnum != 0) return cairn_err_sys(err, errnum, "thread");
	swarm->has_announcer = true;
	return CAIRN_OK;
}

enum cairn_code cairn_swarm_start_with(const struct cairn_swarm_opts *opts,
				       cairn_make_directory_fn *make, void *arg,
				       struct cairn_swarm **ret, struct cairn_err *err)
{
	struct cairn_swarm *swarm = swarm_new(opts);
	enum cairn_code rc = begin_to_listen(swarm, opts, err);
	if (rc == CAIRN_OK) rc = make(arg, swarm, &swarm->dir, err);
	if (rc == CAIRN_OK) rc = begin_to_share(swarm, err);
	if (rc != CAIRN_OK) {
		cairn_swarm_stop(swarm);
		return rc;
	}
	cairn_log(CAIRN_LOG_INFO, "swarm_started", CAIRN_STR("address", swarm->hello.address),
		  CAIRN_STR("directory", opts->etcd ? "etcd" : "static"));
	*ret = swarm;
	return CAIRN_OK;
}

enum cairn_code cairn_swarm_reload(struct cairn_swarm *swarm, struct cairn_err *err)
{
	if (swarm->tls == NULL) return CAIRN_OK;
	return cairn_tls_files_reload(swarm->tls, err);
}
