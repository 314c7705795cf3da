#include "oci/limit.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>
#include <time.h>

#include "base/clock.h"

#define BURST_MIN_BYTES INT64_C(65536)
#define ASK_NS (100 * CAIRN_NS_PER_MS) /* between two questions of a wait */
#define BACKOFF_MAX_MS INT64_C(30000)

/* A quarter of a second's bytes may come at once: the bucket's size. */
static int64_t burst(uint64_t rate)
{
	uint64_t quarter = rate / 4 < (UINT64_C(1) << 40) ? rate / 4 : UINT64_C(1) << 40;
	return (int64_t)quarter > BURST_MIN_BYTES ? (int64_t)quarter : BURST_MIN_BYTES;
}

void cairn_limit_init(struct cairn_limit *limit, uint64_t rate, int64_t now_ns)
{
	pthread_mutex_init(&limit->mu, NULL);
	limit->rate = rate;
	limit->level = burst(rate);
	limit->last_ns = now_ns;
}

void cairn_limit_fini(struct cairn_limit *limit)
{
	pthread_mutex_destroy(&limit->mu);
}

int64_t cairn_limit_take(struct cairn_limit *limit, uint64_t n, int64_t now_ns)
{
	if (limit->rate == 0 || n == 0) return 0;
	pthread_mutex_lock(&limit->mu);
	int64_t wait_ns = 0, most = burst(limit->rate);
	double came = now_ns > limit->last_ns
			      ? (double)(now_ns - limit->last_ns) * (double)limit->rate / 1e9
			      : 0;
	if (came >= 1) { /* a part of a byte is kept for the next time */
		double level = (double)limit->level + came;
		limit->level = level < (double)most ? (int64_t)level : most;
		limit->last_ns = now_ns;
	}
	limit->level -= (int64_t)n;
	if (limit->level < 0) {
		wait_ns = (int64_t)((double)-limit->level * 1e9 / (double)limit->rate);
	}
	pthread_mutex_unlock(&limit->mu);
	return wait_ns;
}

bool cairn_goes_on(const struct cairn_go_on *go_on)
{
	return go_on == NULL || go_on->fn == NULL || go_on->fn(go_on->arg);
}

enum cairn_code cairn_wait(int64_t ns, const struct cairn_go_on *go_on, struct cairn_err *err)
{
	int64_t end = cairn_boot_ns(&cairn_clock_system) + ns;
	for (;;) {
		if (!cairn_goes_on(go_on)) return cairn_err_set(err, CAIRN_CANCELLED, "cancelled");
		int64_t left = end - cairn_boot_ns(&cairn_clock_system);
		if (left <= 0) return CAIRN_OK;
		if (left > ASK_NS) left = ASK_NS;
		struct timespec ts = {.tv_sec = left / CAIRN_NS_PER_S,
				      .tv_nsec = left % CAIRN_NS_PER_S};
		(void)nanosleep(&ts, NULL); /* a signal only makes it shorter */
	}
}

int64_t cairn_backoff_ms(unsigned n, int64_t first_ms)
{
	uint64_t random = 0;
	int64_t most = first_ms;
	for (unsigned i = 1; i < n && most < BACKOFF_MAX_MS; i++) most *= 2;
	if (most > BACKOFF_MAX_MS) most = BACKOFF_MAX_MS;
	if (getrandom(&random, sizeof(random), 0) != sizeof(random)) random = UINT64_MAX / 2;
	return (int64_t)(random % (uint64_t)(most + 1));
}
