/* The token bucket, with time as the test gives it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/rate.h"

static void rate__lets_so_much_through(void **state)
{
	struct cairn_rate rate;
	(void)state;
	cairn_rate_init(&rate, 1000000, 0);
	assert_int_equal(cairn_rate_take(&rate, 250000, 0), 0); /* the bucket was full */
	assert_int_equal(cairn_rate_take(&rate, 100000, 0), 100 * CAIRN_NS_PER_MS);
	assert_int_equal(cairn_rate_take(&rate, 50000, 0), 150 * CAIRN_NS_PER_MS);
	assert_int_equal(cairn_rate_take(&rate, 0, 0), 0);
	assert_int_equal(cairn_rate_take(&rate, 1, 150 * CAIRN_NS_PER_MS), 1000);
	/* After a long time it is full, and not fuller. */
	assert_int_equal(cairn_rate_take(&rate, 250000, 3600 * CAIRN_NS_PER_S), 0);
	assert_int_equal(cairn_rate_take(&rate, 1000, 3600 * CAIRN_NS_PER_S), CAIRN_NS_PER_MS);
	/* Many small takers get no more than few large ones. */
	int64_t now = 7200 * CAIRN_NS_PER_S, begin = now;
	for (int i = 0; i < 1250; i++) now += cairn_rate_take(&rate, 1000, now);
	assert_int_equal((now - begin) / CAIRN_NS_PER_MS, 1000);
	cairn_rate_fini(&rate);
	cairn_rate_init(&rate, 0, 0);
	assert_int_equal(cairn_rate_take(&rate, UINT64_MAX, 0), 0);
	cairn_rate_fini(&rate);
}

static void set__acts_from_now_on(void **state)
{
	struct cairn_rate rate;
	(void)state;
	cairn_rate_init(&rate, 0, 0);
	/* A limit that comes finds its bucket full, however long there was none. */
	cairn_rate_set(&rate, 1000000, 3600 * CAIRN_NS_PER_S);
	int64_t now = 3600 * CAIRN_NS_PER_S;
	assert_int_equal(cairn_rate_take(&rate, 250000, now), 0);
	assert_int_equal(cairn_rate_take(&rate, 1000000, now), CAIRN_NS_PER_S);
	/* A debt is paid at the new rate, if that is higher, and else takes no longer than before.
	 */
	cairn_rate_set(&rate, 10000000, now);
	assert_int_equal(cairn_rate_take(&rate, 1, now) / CAIRN_NS_PER_MS, 100);
	cairn_rate_set(&rate, 1000000, now);
	assert_int_equal(cairn_rate_take(&rate, 1, now) / CAIRN_NS_PER_MS, 100);
	cairn_rate_set(&rate, 0, now);
	assert_int_equal(cairn_rate_take(&rate, UINT64_MAX, now), 0);
	cairn_rate_fini(&rate);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(set__acts_from_now_on),
		cmocka_unit_test(rate__lets_so_much_through),
	};
	return cmocka_run_group_tests_name("base/rate", tests, NULL, NULL);
}
