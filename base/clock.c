#include "base/clock.h"

#include <time.h>

static int64_t read_clock(clockid_t id)
{
	struct timespec ts = {0};
	(void)clock_gettime(id, &ts); /* cannot fail for these ids and a valid pointer */
	return (int64_t)ts.tv_sec * CAIRN_NS_PER_S + ts.tv_nsec;
}

static int64_t system_real(const struct cairn_clock *self)
{
	(void)self;
	return read_clock(CLOCK_REALTIME);
}

static int64_t system_boot(const struct cairn_clock *self)
{
	(void)self;
	return read_clock(CLOCK_BOOTTIME);
}

const struct cairn_clock cairn_clock_system = {system_real, system_boot};

void cairn_let_others_in(void)
{
	(void)nanosleep(&(struct timespec){0, 20000}, NULL);
}
