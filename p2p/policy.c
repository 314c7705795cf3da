#include "p2p/policy.h"

#include "p2p/plan.h"

#define OPEN_MIN 6 /* fewer know too little of what others have, when layers come side by side */

/* Of a source that is talked with twice: */
#define DOUBLE_BYTES (UINT64_C(16) << 20)   /* have come: so the speed is known */
#define DOUBLE_PER_MS (UINT64_C(100) << 10) /* 100 MiB/s: a gigabit network never does */
#define DOUBLE_LEFT (UINT64_C(32) << 20)

static uint64_t mix(uint64_t seed, uint64_t n)
{
	/* splitmix64's n-th number */
	uint64_t z = seed + (n + 1) * UINT64_C(0x9e3779b97f4a7c15);
	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

/* From 3/4 of it up to 5/4. */
static int64_t jittered(int64_t ms, uint64_t random)
{
	return ms * 3 / 4 + (int64_t)(random % (uint64_t)(ms / 2 + 1));
}

uint32_t cairn_policy_open(uint32_t n_fills)
{
	uint32_t open = n_fills > 1 ? CAIRN_OPEN_MAX / n_fills : CAIRN_OPEN_MAX;
	return open < OPEN_MIN ? OPEN_MIN : open;
}

bool cairn_policy_double(uint32_t n_fills, uint64_t bytes, int64_t ms, uint64_t left)
{
	return n_fills <= 1 && ms > 0 && bytes >= DOUBLE_BYTES && left >= DOUBLE_LEFT &&
	       bytes / (uint64_t)ms >= DOUBLE_PER_MS;
}

int64_t cairn_policy_ask_ms(uint64_t seed, uint32_t n)
{
	int64_t ms = CAIRN_ASK_MIN_MS;
	for (uint32_t i = 0; i < n && ms < CAIRN_ASK_MAX_MS; i++) ms = ms * 3 / 2;
	if (ms > CAIRN_ASK_MAX_MS) ms = CAIRN_ASK_MAX_MS;
	return jittered(ms, mix(seed, n));
}

bool cairn_policy_should_ask(uint32_t connected, uint32_t open, int64_t since_byte_ms)
{
	return connected * 2 < open || since_byte_ms >= CAIRN_ASK_MIN_MS;
}

bool cairn_policy_may_take(int64_t now_ms, int64_t seen_ms, int64_t last_byte_ms, int64_t stall_ms,
			   uint64_t seed)
{
	int64_t since = last_byte_ms > seen_ms ? last_byte_ms : seen_ms;
	int64_t extra = (int64_t)(mix(seed, 0) % (uint64_t)(stall_ms / 4 + 1));
	return now_ms - since >= stall_ms + extra;
}

size_t cairn_policy_others(uint64_t seed, size_t n, size_t ret[static CAIRN_OTHERS_MAX])
{
	size_t count = 0;
	/* Floyd's sample: each step adds one index that is not in it. */
	size_t want = n < CAIRN_OTHERS_MAX ? n : CAIRN_OTHERS_MAX;
	for (size_t top = n - want; top < n; top++) {
		size_t pick = (size_t)(mix(seed, top) % (top + 1));
		for (size_t i = 0; i < count; i++) {
			if (ret[i] == pick) pick = top;
		}
		ret[count++] = pick;
	}
	return count;
}
