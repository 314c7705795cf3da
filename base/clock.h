/* Time as a parameter, so that tests move it instead of sleeping.
 *
 * real: nanoseconds since 1970, for what people and containerd read (created, updated).
 * boot: nanoseconds since boot, suspend included (CLOCK_BOOTTIME): for idle times and deadlines,
 *       so that a jump of the wall clock evicts nothing and ends no wait.
 * Threads: immutable. */
#ifndef CAIRN_BASE_CLOCK_H
#define CAIRN_BASE_CLOCK_H

#include <stdint.h>

#define CAIRN_NS_PER_S INT64_C(1000000000)
#define CAIRN_NS_PER_MS INT64_C(1000000)

struct cairn_clock {
	int64_t (*real_ns)(const struct cairn_clock *self);
	int64_t (*boot_ns)(const struct cairn_clock *self);
};

/* The machine's clocks. */
extern const struct cairn_clock cairn_clock_system;

static inline int64_t cairn_real_ns(const struct cairn_clock *clock)
{
	return clock->real_ns(clock);
}

static inline int64_t cairn_boot_ns(const struct cairn_clock *clock)
{
	return clock->boot_ns(clock);
}

/* Between two steps of long work under a lock that others want: who unlocks and locks again at once
 * leaves them no chance. Some 20 us and a turn of the scheduler. */
void cairn_let_others_in(void);

#endif
