#include "oci/limit.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>
#include <time.h>

#include "base/clock.h"

#define ASK_NS (100 * CAIRN_NS_PER_MS) /* between two questions of a wait */
#define BACKOFF_MAX_MS INT64_C(30000)

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
