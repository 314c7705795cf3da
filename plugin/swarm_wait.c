#include "plugin/swarm_wait.h"

#include <pthread.h>
#include <time.h>

#include "base/clock.h"
#include "plugin/patience.h"

/* Sleep until woken or LOOK_MS are over; returns false when there is nobody to wait for any more.
 */
typedef bool sleep_fn(void *arg);

static bool is_over(enum cairn_want_state state)
{
	return state == CAIRN_WANT_GRANTED || state == CAIRN_WANT_HERE ||
	       state == CAIRN_WANT_FAILED;
}

/* What has come since the wait began: by the swarm, or by pulls and fills on this node. What they
 * had before, and left, is no progress. */
struct moved {
	uint64_t swarm, local; /* bytes when it began */
	uint64_t bytes;
	bool by_local; /* these alone: what the swarm tells of is theirs */
};

static uint64_t since(uint64_t now, uint64_t *before)
{
	if (now < *before) *before = now; /* one of them has begun again */
	return now - *before;
}

static void look(const struct cairn_swarm_wait *wait, uint64_t swarm, struct moved *ret)
{
	char ref[CAIRN_DIGEST_STR];
	uint64_t local = 0;
	(void)cairn_cache_is_written(wait->cache, wait->digest, &local);
	local += cairn_cache_own_offset(wait->cache, cairn_digest_format(wait->digest, ref));
	uint64_t grown = since(local, &ret->local);
	ret->bytes = grown + since(swarm, &ret->swarm);
	ret->by_local = grown > 0 && swarm <= local;
}

static bool is_worth_it(const struct cairn_swarm_wait *wait, struct cairn_patience *p,
			uint64_t swarm, struct moved *moved)
{
	struct cairn_swarm_stats stats;
	look(wait, swarm, moved);
	cairn_swarm_get_stats(wait->swarm, &stats);
	p->stall_ms = moved->by_local ? wait->stall_ms : CAIRN_PATIENCE_MS;
	return cairn_patience_lasts(p, moved->bytes, stats.from_peers_bytes, cairn_patience_now());
}

static enum cairn_want_state look_and_tell(const struct cairn_swarm_wait *wait,
					   struct cairn_want *want, uint64_t *ret_done,
					   struct cairn_err *err)
{
	enum cairn_want_state state = cairn_want_look(want, ret_done, err);
	if (wait->progress != NULL) wait->progress(wait->arg, *ret_done);
	return state;
}

static enum cairn_want_state wait_until(const struct cairn_swarm_wait *wait,
					struct cairn_want *want, sleep_fn *sleep, void *arg,
					struct cairn_err *err)
{
	uint64_t done = 0;
	struct moved moved = {.swarm = UINT64_MAX, .local = UINT64_MAX};
	struct cairn_patience p = {.min_rate = wait->min_rate};
	enum cairn_want_state state = look_and_tell(wait, want, &done, err);
	look(wait, done, &moved);
	cairn_patience_begin(&p, 0, cairn_patience_now());
	while (!is_over(state)) {
		if (!is_worth_it(wait, &p, done, &moved)) {
			cairn_err_set(err, CAIRN_ABORTED, "the swarm is too slow");
			return CAIRN_WANT_FAILED;
		}
		if (!sleep(arg)) {
			cairn_err_set(err, CAIRN_CANCELLED, "nobody waits for it any more");
			return CAIRN_WANT_FAILED;
		}
		state = look_and_tell(wait, want, &done, err);
	}
	return state;
}

/* ---- in a handler -----------------------------------------------------------------------------*/

static void wake_call(void *arg)
{
	cairn_call_signal(arg);
}

static bool sleep_in_call(void *arg)
{
	enum cairn_wake wake = cairn_call_wait(arg, CAIRN_PATIENCE_LOOK_MS);
	return wake != CAIRN_WAKE_GONE && wake != CAIRN_WAKE_DRAIN;
}

enum cairn_want_state cairn_swarm_wait_in_call(const struct cairn_swarm_wait *wait,
					       struct cairn_want *want, struct cairn_call *call,
					       struct cairn_err *err)
{
	cairn_want_watch(want, wake_call, cairn_call_ref(call));
	enum cairn_want_state state = wait_until(wait, want, sleep_in_call, call, err);
	cairn_want_watch(want, NULL, NULL);
	cairn_call_unref(call);
	return state;
}

/* ---- on a thread ------------------------------------------------------------------------------*/

struct bell {
	const struct cairn_swarm_wait *wait;
	pthread_mutex_t mu;
	pthread_cond_t cond;
	bool rung; /* guarded by mu */
};

static void ring(void *arg)
{
	struct bell *bell = arg;
	pthread_mutex_lock(&bell->mu);
	bell->rung = true;
	pthread_cond_signal(&bell->cond);
	pthread_mutex_unlock(&bell->mu);
}

static bool sleep_on_thread(void *arg)
{
	struct bell *bell = arg;
	struct timespec until;
	int rc = 0;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += CAIRN_PATIENCE_LOOK_MS * CAIRN_NS_PER_MS;
	until.tv_sec += until.tv_nsec / CAIRN_NS_PER_S;
	until.tv_nsec %= CAIRN_NS_PER_S;
	pthread_mutex_lock(&bell->mu);
	while (!bell->rung && rc == 0) {
		rc = pthread_cond_timedwait(&bell->cond, &bell->mu, &until);
	}
	bell->rung = false;
	pthread_mutex_unlock(&bell->mu);
	return bell->wait->go_on == NULL || bell->wait->go_on(bell->wait->arg);
}

enum cairn_want_state cairn_swarm_wait_on_thread(const struct cairn_swarm_wait *wait,
						 struct cairn_want *want, struct cairn_err *err)
{
	struct bell bell = {.wait = wait, .mu = PTHREAD_MUTEX_INITIALIZER};
	pthread_condattr_t attr;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&bell.cond, &attr);
	pthread_condattr_destroy(&attr);
	cairn_want_watch(want, ring, &bell);
	enum cairn_want_state state = wait_until(wait, want, sleep_on_thread, &bell, err);
	cairn_want_watch(want, NULL, NULL);
	pthread_cond_destroy(&bell.cond);
	pthread_mutex_destroy(&bell.mu);
	return state;
}
