#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "p2p/plan.h"
#include "p2p/policy.h"

static void ask__backs_off_and_spreads(void **state)
{
	(void)state;
	for (uint32_t n = 0; n < 100; n++) {
		int64_t low = INT64_MAX, high = 0;
		for (uint64_t seed = 0; seed < 200; seed++) {
			int64_t ms = cairn_policy_ask_ms(seed, n);
			assert_in_range(ms, CAIRN_ASK_MIN_MS * 3 / 4, CAIRN_ASK_MAX_MS * 5 / 4 + 1);
			if (ms < low) low = ms;
			if (ms > high) high = ms;
		}
		assert_true(high - low > CAIRN_ASK_MIN_MS / 4);
	}
	assert_true(cairn_policy_ask_ms(1, UINT32_MAX) >= CAIRN_ASK_MAX_MS * 3 / 4);
}

static void ask__only_for_what_is_lacking(void **state)
{
	(void)state;
	assert_true(cairn_policy_should_ask(0, 4, 0));
	assert_true(cairn_policy_should_ask(4, 10, 0));
	assert_false(cairn_policy_should_ask(5, 10, 0));
	assert_true(cairn_policy_should_ask(10, 10, CAIRN_ASK_MIN_MS));
}

static void take__only_when_nothing_moves(void **state)
{
	(void)state;
	for (uint64_t seed = 0; seed < 100; seed++) {
		assert_false(cairn_policy_may_take(4999, 0, INT64_MIN, 5000, seed));
		assert_true(cairn_policy_may_take(6251, 0, INT64_MIN, 5000, seed));
		assert_false(cairn_policy_may_take(6251, 0, 2000, 5000, seed)); /* bytes came */
		assert_false(cairn_policy_may_take(6251, 2000, 0, 5000, seed)); /* it changed */
	}
	assert_true(cairn_policy_may_take(0, 0, 0, 0, 1));
}

static void others__each_once_and_all_alike(void **state)
{
	(void)state;
	size_t picks[CAIRN_OTHERS_MAX];
	assert_int_equal(cairn_policy_others(1, 0, picks), 0);
	int count[20] = {0};
	for (uint64_t seed = 0; seed < 4000; seed++) {
		for (size_t n = 1; n <= 20; n++) {
			size_t got = cairn_policy_others(seed, n, picks);
			assert_int_equal(got, n < CAIRN_OTHERS_MAX ? n : CAIRN_OTHERS_MAX);
			for (size_t i = 0; i < got; i++) {
				assert_true(picks[i] < n);
				for (size_t j = 0; j < i; j++) {
					assert_int_not_equal(picks[i], picks[j]);
				}
				if (n == 20) count[picks[i]]++;
			}
		}
	}
	for (int i = 0; i < 20; i++) assert_in_range(count[i], 1400, 1800); /* 1600 */
}

static void open__fewer_for_each_of_many(void **state)
{
	(void)state;
	assert_int_equal(cairn_policy_open(0), CAIRN_OPEN_MAX);
	assert_int_equal(cairn_policy_open(1), CAIRN_OPEN_MAX);
	for (uint32_t n = 1; n < 1000; n++) {
		assert_true(cairn_policy_open(n + 1) <= cairn_policy_open(n));
		/* With 4, clusters that pull several layers need up to a tenth longer. */
		assert_in_range(cairn_policy_open(n), 6, CAIRN_OPEN_MAX);
	}
}

static void double__one_fast_source_alone(void **state)
{
	(void)state;
	const uint64_t mib = UINT64_C(1) << 20;
	assert_true(cairn_policy_double(1, 16 * mib, 163, 32 * mib));
	assert_false(cairn_policy_double(2, 16 * mib, 163, 32 * mib));
	assert_false(cairn_policy_double(1, 16 * mib, 164, 32 * mib)); /* a slow link */
	assert_false(cairn_policy_double(1, 16 * mib - 1, 1, 32 * mib));
	assert_false(cairn_policy_double(1, 16 * mib, 163, 32 * mib - 1));
	assert_false(cairn_policy_double(1, 16 * mib, 0, 32 * mib));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ask__backs_off_and_spreads),
		cmocka_unit_test(open__fewer_for_each_of_many),
		cmocka_unit_test(double__one_fast_source_alone),
		cmocka_unit_test(ask__only_for_what_is_lacking),
		cmocka_unit_test(take__only_when_nothing_moves),
		cmocka_unit_test(others__each_once_and_all_alike),
	};
	return cmocka_run_group_tests_name("p2p/policy", tests, NULL, NULL);
}
