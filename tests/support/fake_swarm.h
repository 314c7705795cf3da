/* A swarm that does what the test says: it takes the place of p2p/ in a program that includes this,
 * once. Wants of all digests are in one list; the test sets their state. After cmocka.h. */
#ifndef CAIRN_TESTS_FAKE_SWARM_H
#define CAIRN_TESTS_FAKE_SWARM_H

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "p2p/p2p.h"

#define FAKE_PEERS 4

struct cairn_want {
	struct cairn_want *next;
	struct cairn_swarm *swarm;
	struct cairn_digest digest;
	uint64_t size, done;
	bool may_fetch;
	enum cairn_want_state state;
	struct cairn_err err;
	void (*fn)(void *arg);
	void *arg;
};

struct cairn_swarm {
	pthread_mutex_t mu;
	struct cairn_want *wants;
	enum cairn_want_state first; /* of a new want ... */
	enum cairn_code first_code;  /* ... and why, if that is FAILED; OK: NOT_FOUND */
	/* Called for each new want, without the lock: what the swarm does at once. NULL: nothing */
	void (*on_want)(void *arg, struct cairn_swarm *swarm, const struct cairn_digest *digest);
	void *on_want_arg;
	unsigned wanted, open, fetchers; /* since start; now; of all, those that may fetch */
	unsigned reconsidered;
	struct cairn_swarm_stats stats;
	struct cairn_peer_status peers[FAKE_PEERS];
	size_t n_peers;
	struct cairn_fill_status fills[FAKE_PEERS];
	size_t n_fills;
	struct cairn_upload_status uploads[FAKE_PEERS];
	size_t n_uploads;
	char health[256];
};

static inline struct cairn_swarm *fake_swarm_new(enum cairn_want_state first)
{
	struct cairn_swarm *swarm = calloc(1, sizeof(*swarm));
	if (swarm == NULL) abort();
	pthread_mutex_init(&swarm->mu, NULL);
	swarm->first = first;
	return swarm;
}

/* All wants must have been released: fails the test otherwise. */
static inline void fake_swarm_free(struct cairn_swarm *swarm)
{
	if (swarm == NULL) return;
	assert_int_equal(swarm->open, 0);
	pthread_mutex_destroy(&swarm->mu);
	free(swarm);
}

/* Every want of the digest is in that state from now on, with so many bytes. */
static inline void fake_swarm_set(struct cairn_swarm *swarm, const struct cairn_digest *digest,
				  enum cairn_want_state state, uint64_t done)
{
	pthread_mutex_lock(&swarm->mu);
	for (struct cairn_want *w = swarm->wants; w != NULL; w = w->next) {
		if (!cairn_digest_equal(&w->digest, digest)) continue;
		w->state = state;
		w->done = done;
		if (state == CAIRN_WANT_FAILED) {
			cairn_err_set(&w->err, CAIRN_NOT_FOUND, "the fake failed");
		}
		if (w->fn != NULL) w->fn(w->arg);
	}
	pthread_mutex_unlock(&swarm->mu);
}

static inline unsigned fake_swarm_open(struct cairn_swarm *swarm)
{
	pthread_mutex_lock(&swarm->mu);
	unsigned n = swarm->open;
	pthread_mutex_unlock(&swarm->mu);
	return n;
}

static inline unsigned fake_swarm_wanted(struct cairn_swarm *swarm)
{
	pthread_mutex_lock(&swarm->mu);
	unsigned n = swarm->wanted;
	pthread_mutex_unlock(&swarm->mu);
	return n;
}

/* ---- p2p/p2p.h --------------------------------------------------------------------------------*/

enum cairn_code cairn_swarm_start(const struct cairn_swarm_opts *opts, struct cairn_swarm **ret,
				  struct cairn_err *err)
{
	(void)opts;
	(void)ret;
	return cairn_err_set(err, CAIRN_UNIMPLEMENTED, "a fake");
}

void cairn_swarm_cancel(struct cairn_swarm *swarm)
{
	(void)swarm;
}

void cairn_swarm_stop(struct cairn_swarm *swarm)
{
	(void)swarm;
}

enum cairn_code cairn_swarm_reload(struct cairn_swarm *swarm, struct cairn_err *err)
{
	(void)swarm;
	return cairn_err_set(err, CAIRN_UNIMPLEMENTED, "a fake");
}

void cairn_swarm_reconsider(struct cairn_swarm *swarm, const struct cairn_digest *digest)
{
	(void)digest;
	pthread_mutex_lock(&swarm->mu);
	swarm->reconsidered++;
	pthread_mutex_unlock(&swarm->mu);
}

struct cairn_want *cairn_swarm_want(struct cairn_swarm *swarm, const struct cairn_digest *digest,
				    uint64_t size, bool may_fetch)
{
	struct cairn_want *want = calloc(1, sizeof(*want));
	if (want == NULL) abort();
	*want = (struct cairn_want){.swarm = swarm,
				    .digest = *digest,
				    .size = size,
				    .may_fetch = may_fetch,
				    .state = swarm->first};
	cairn_err_set(&want->err,
		      swarm->first_code != CAIRN_OK ? swarm->first_code : CAIRN_NOT_FOUND,
		      "the fake failed");
	pthread_mutex_lock(&swarm->mu);
	want->next = swarm->wants;
	swarm->wants = want;
	swarm->wanted++;
	swarm->open++;
	swarm->fetchers += may_fetch;
	pthread_mutex_unlock(&swarm->mu);
	if (swarm->on_want != NULL) swarm->on_want(swarm->on_want_arg, swarm, digest);
	return want;
}

enum cairn_want_state cairn_want_look(struct cairn_want *want, uint64_t *ret_done,
				      struct cairn_err *err)
{
	pthread_mutex_lock(&want->swarm->mu);
	enum cairn_want_state state = want->state;
	if (ret_done != NULL) *ret_done = want->done;
	if (err != NULL && state == CAIRN_WANT_FAILED) *err = want->err;
	pthread_mutex_unlock(&want->swarm->mu);
	return state;
}

void cairn_want_watch(struct cairn_want *want, void (*fn)(void *arg), void *arg)
{
	pthread_mutex_lock(&want->swarm->mu);
	want->fn = fn;
	want->arg = arg;
	pthread_mutex_unlock(&want->swarm->mu);
}

void cairn_want_release(struct cairn_want *want)
{
	if (want == NULL) return;
	struct cairn_swarm *swarm = want->swarm;
	pthread_mutex_lock(&swarm->mu);
	struct cairn_want **at = &swarm->wants;
	while (*at != want) at = &(*at)->next;
	*at = want->next;
	swarm->open--;
	pthread_mutex_unlock(&swarm->mu);
	free(want);
}

void cairn_swarm_get_stats(struct cairn_swarm *swarm, struct cairn_swarm_stats *ret)
{
	pthread_mutex_lock(&swarm->mu);
	*ret = swarm->stats;
	pthread_mutex_unlock(&swarm->mu);
}

size_t cairn_swarm_peers(struct cairn_swarm *swarm, struct cairn_peer_status *ret, size_t max)
{
	size_t n = swarm->n_peers < max ? swarm->n_peers : max;
	memcpy(ret, swarm->peers, n * sizeof(ret[0]));
	return swarm->n_peers;
}

size_t cairn_swarm_fills(struct cairn_swarm *swarm, struct cairn_fill_status *ret, size_t max)
{
	size_t n = swarm->n_fills < max ? swarm->n_fills : max;
	memcpy(ret, swarm->fills, n * sizeof(ret[0]));
	return swarm->n_fills;
}

size_t cairn_swarm_uploads(struct cairn_swarm *swarm, struct cairn_upload_status *ret, size_t max)
{
	size_t n = swarm->n_uploads < max ? swarm->n_uploads : max;
	memcpy(ret, swarm->uploads, n * sizeof(ret[0]));
	return swarm->n_uploads;
}

int cairn_swarm_port(const struct cairn_swarm *swarm)
{
	(void)swarm;
	return 7400;
}

const char *cairn_swarm_address(const struct cairn_swarm *swarm)
{
	(void)swarm;
	return "127.0.0.1:7400";
}

void cairn_swarm_health(struct cairn_swarm *swarm, char ret[static 256])
{
	memcpy(ret, swarm->health, sizeof(swarm->health));
}

#endif
