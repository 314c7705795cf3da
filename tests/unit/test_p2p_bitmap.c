/* The set of pieces, and the order of rarity, each against the plainest model of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "base/own.h"
#include "p2p/bitmap.h"
#include "p2p/rarity.h"
#include "support/random.h"

static void bitmap__counts_and_finds(void **state)
{
	(void)state;
	const uint32_t sizes[] = {1, 63, 64, 65, 128, 1000, 16384};
	for (size_t i = 0; i < CAIRN_LEN(sizes); i++) {
		uint32_t n = sizes[i];
		struct cairn_bitmap map;
		cairn_bitmap_init(&map, n);
		assert_int_equal(cairn_bitmap_next(&map, 0), n);
		assert_false(cairn_bitmap_has(&map, n - 1));
		assert_true(cairn_bitmap_set(&map, n - 1));
		assert_false(cairn_bitmap_set(&map, n - 1));
		assert_int_equal(cairn_bitmap_next(&map, 0), n - 1);
		assert_int_equal(cairn_bitmap_next(&map, n - 1), n - 1);
		assert_int_equal(cairn_bitmap_next(&map, n), n);
		cairn_bitmap_fill(&map);
		assert_int_equal(map.count, n);
		assert_int_equal(cairn_bitmap_next(&map, n / 2), n / 2);
		assert_int_equal(cairn_bitmap_next(&map, n), n);
		assert_true(cairn_bitmap_clear(&map, 0));
		assert_false(cairn_bitmap_clear(&map, 0));
		assert_int_equal(map.count, n - 1);
		cairn_bitmap_empty(&map);
		assert_int_equal(map.count, 0);
		assert_false(cairn_bitmap_has(&map, 0));
		cairn_bitmap_fini(&map);
	}
}

static void bitmap__random(void **state)
{
	(void)state;
	uint64_t seed = test_seed();
	enum { N = 200 };
	bool model[N] = {false};
	struct cairn_bitmap map;
	cairn_bitmap_init(&map, N);
	for (int i = 0; i < 20000; i++) {
		uint32_t k = (uint32_t)random_below(&seed, N);
		if (random_below(&seed, 2)) {
			assert_int_equal(cairn_bitmap_set(&map, k), !model[k]);
			model[k] = true;
		} else {
			assert_int_equal(cairn_bitmap_clear(&map, k), model[k]);
			model[k] = false;
		}
		uint32_t from = (uint32_t)random_below(&seed, N), want = from, count = 0;
		while (want < N && !model[want]) want++;
		for (int j = 0; j < N; j++) count += model[j];
		assert_int_equal(cairn_bitmap_next(&map, from), want);
		assert_int_equal(map.count, count);
	}
	cairn_bitmap_fini(&map);
}

enum { PIECES = 40 };

static void check(const struct cairn_rarity *r, const bool *in, const uint8_t *level)
{
	uint32_t n = 0;
	for (uint32_t k = 0; k < PIECES; k++) {
		n += in[k];
		assert_int_equal(cairn_rarity_has(r, k), in[k]);
		assert_int_equal(r->level[k], level[k]);
		if (!in[k]) continue;
		assert_int_equal(r->order[r->at[k]], k);
		assert_true(r->at[k] < r->end[level[k]]);
		if (level[k] > 0) assert_true(r->at[k] >= r->end[level[k] - 1]);
	}
	assert_int_equal(cairn_rarity_count(r), n);
}

static void rarity__random(void **state)
{
	(void)state;
	uint64_t seed = test_seed();
	bool in[PIECES] = {false};
	uint8_t level[PIECES] = {0};
	struct cairn_rarity r;
	cairn_rarity_init(&r, PIECES);
	for (int i = 0; i < 20000; i++) {
		uint32_t k = (uint32_t)random_below(&seed, PIECES);
		uint32_t what = (uint32_t)random_below(&seed, 1000);
		if (what == 0) {
			cairn_rarity_clear(&r);
			memset(in, 0, sizeof(in));
		} else if (what < 300) {
			if (in[k]) {
				cairn_rarity_remove(&r, k);
			} else {
				cairn_rarity_insert(&r, k);
			}
			in[k] = !in[k];
		} else if (what < 700 && level[k] < CAIRN_RARITY_LEVELS - 1) {
			cairn_rarity_raise(&r, k);
			level[k]++;
		} else if (level[k] > 0) {
			cairn_rarity_lower(&r, k);
			level[k]--;
		}
		check(&r, in, level);
	}
	cairn_rarity_fini(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bitmap__counts_and_finds),
		cmocka_unit_test(bitmap__random),
		cmocka_unit_test(rarity__random),
	};
	return cmocka_run_group_tests_name("p2p/bitmap", tests, NULL, NULL);
}
