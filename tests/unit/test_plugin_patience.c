#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "plugin/patience.h"

#define MIB (UINT64_C(1) << 20)

static void patience__ends_without_a_byte(void **state)
{
	(void)state;
	struct cairn_patience p = {.stall_ms = 5000, .min_rate = MIB};
	cairn_patience_begin(&p, 0, 1000);
	assert_true(cairn_patience_lasts(&p, 0, 0, 1000));
	assert_true(cairn_patience_lasts(&p, 0, 0, 5999));
	assert_false(cairn_patience_lasts(&p, 0, 0, 6000));
}

static void patience__has_no_floor_before_the_first_byte(void **state)
{
	(void)state;
	struct cairn_patience p = {.stall_ms = CAIRN_PATIENCE_MS, .min_rate = MIB};
	cairn_patience_begin(&p, 0, 0);
	assert_true(cairn_patience_lasts(&p, 0, 0, 59999));
	assert_false(cairn_patience_lasts(&p, 0, 0, 60000));
}

static void patience__judges_a_rate_over_fifteen_seconds(void **state)
{
	(void)state;
	struct cairn_patience p = {.stall_ms = 20000, .min_rate = MIB};
	cairn_patience_begin(&p, 1, 0);
	assert_true(cairn_patience_lasts(&p, 1, 0, 0)); /* the window begins */
	assert_true(cairn_patience_lasts(&p, 2, 0, 14999));
	assert_true(cairn_patience_lasts(&p, 15 * MIB + 1, 0, 15000));
	/* the next one is too slow by a byte */
	assert_true(cairn_patience_lasts(&p, 20 * MIB, 0, 20000));
	assert_false(cairn_patience_lasts(&p, 30 * MIB, 0, 30000));
}

static void patience__counts_the_whole_node(void **state)
{
	(void)state;
	struct cairn_patience p = {.stall_ms = 20000, .min_rate = MIB};
	cairn_patience_begin(&p, 1, 0);
	assert_true(cairn_patience_lasts(&p, 1, 5 * MIB, 0));
	assert_true(cairn_patience_lasts(&p, 2, 20 * MIB, 15000));  /* others use the link */
	assert_false(cairn_patience_lasts(&p, 3, 21 * MIB, 30000)); /* not any more */
}

static void patience__takes_a_new_beginning_for_progress(void **state)
{
	(void)state;
	struct cairn_patience p = {.stall_ms = 5000, .min_rate = MIB};
	cairn_patience_begin(&p, 50 * MIB, 0);
	assert_true(cairn_patience_lasts(&p, 50 * MIB, 0, 0));
	assert_true(cairn_patience_lasts(&p, 0, 0, 4000));
	assert_true(cairn_patience_lasts(&p, 0, 0, 8999));
	assert_false(cairn_patience_lasts(&p, 0, 0, 9000));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(patience__ends_without_a_byte),
		cmocka_unit_test(patience__has_no_floor_before_the_first_byte),
		cmocka_unit_test(patience__judges_a_rate_over_fifteen_seconds),
		cmocka_unit_test(patience__counts_the_whole_node),
		cmocka_unit_test(patience__takes_a_new_beginning_for_progress),
	};
	return cmocka_run_group_tests_name("plugin/patience", tests, NULL, NULL);
}
