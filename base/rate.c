#include "base/rate.h"

#include "base/clock.h"

#define BURST_MIN_BYTES INT64_C(65536)

/* A quarter of a second's bytes may come at once: the bucket's size. */
static int64_t burst(uint64_t rate)
{
	uint64_t quarter = rate / 4 < (UINT64_C(1) << 40) ? rate / 4 : UINT64_C(1) << 40;
	return (int64_t)quarter > BURST_MIN_BYTES ? (int64_t)quarter : BURST_MIN_BYTES;
}

void cairn_rate_init(struct cairn_rate *rate, uint64_t bytes_per_s, int64_t now_ns)
{
	pthread_mutex_init(&rate->mu, NULL);
	atomic_init(&rate->rate, bytes_per_s);
	rate->level = burst(bytes_per_s);
	rate->last_ns = now_ns;
}

/* The bucket is not filled by the change, nor does an old debt last longer than it would have. */
void cairn_rate_set(struct cairn_rate *rate, uint64_t bytes_per_s, int64_t now_ns)
{
	pthread_mutex_lock(&rate->mu);
	uint64_t old = atomic_load(&rate->rate);
	int64_t most = burst(bytes_per_s);
	if (old == bytes_per_s) {
		pthread_mutex_unlock(&rate->mu);
		return;
	}
	if (old == 0) rate->level = most;
	if (old > bytes_per_s && rate->level < 0) {
		rate->level = (int64_t)((double)rate->level / (double)old * (double)bytes_per_s);
	}
	if (rate->level > most) rate->level = most;
	rate->last_ns = now_ns;
	atomic_store(&rate->rate, bytes_per_s);
	pthread_mutex_unlock(&rate->mu);
}

void cairn_rate_fini(struct cairn_rate *rate)
{
	pthread_mutex_destroy(&rate->mu);
}

int64_t cairn_rate_take(struct cairn_rate *rate, uint64_t n, int64_t now_ns)
{
	if (rate == NULL || atomic_load(&rate->rate) == 0 || n == 0) return 0;
	pthread_mutex_lock(&rate->mu);
	uint64_t per_s = atomic_load(&rate->rate);
	int64_t wait_ns = 0, most = burst(per_s);
	double came =
		now_ns > rate->last_ns ? (double)(now_ns - rate->last_ns) * (double)per_s / 1e9 : 0;
	if (came >= 1) { /* a part of a byte is kept for the next time */
		double level = (double)rate->level + came;
		rate->level = level < (double)most ? (int64_t)level : most;
		rate->last_ns = now_ns;
	}
	rate->level -= (int64_t)n;
	if (rate->level < 0 && per_s > 0) {
		wait_ns = (int64_t)((double)-rate->level * 1e9 / (double)per_s);
	}
	pthread_mutex_unlock(&rate->mu);
	return wait_ns;
}
