#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <assert.h>
#include <cmocka.h>

#include "base/own.h"
#include "p2p/offer.h"
#include "support/random.h"

static int told(struct cairn_offer *o, uint32_t piece, int n, int64_t now, uint32_t *ret_who)
{
	int count = 0;
	for (uint32_t f = 0; f < (uint32_t)n; f++) {
		if (!cairn_offer_may_tell(o, f, piece, now)) continue;
		*ret_who = f;
		count++;
	}
	return count;
}

static struct cairn_offer *with_followers(uint32_t pieces, uint32_t n)
{
	struct cairn_offer *o = cairn_offer_new(pieces);
	for (uint32_t f = 0; f < n; f++) cairn_offer_join(o, f);
	return o;
}

/* So many are open at once, each to one, in turn; the next when one was sent. */
static void fresh__goes_to_one_in_turn(void **state)
{
	(void)state;
	enum { F = 3, N = 12, OPEN = F * CAIRN_OFFER_EACH };
	static_assert(OPEN < CAIRN_OFFER_OPEN, "else fewer are open");
	struct cairn_offer *o = with_followers(N, F);
	int got[F] = {0};
	uint32_t who = 0, offered[N], open = 0;
	for (uint32_t k = 0; k < N; k++) {
		assert_int_equal(told(o, k, F, 0, &who), 0); /* not here */
		cairn_offer_add(o, k, false, 0);
		assert_int_equal(told(o, k, F, 0, &offered[k]), k < OPEN);
		if (k < OPEN) got[offered[k]]++;
	}
	for (int f = 0; f < F; f++) assert_int_equal(got[f], CAIRN_OFFER_EACH);
	for (uint32_t k = 0; k + OPEN < N; k++) {
		cairn_offer_sent(o, offered[k], k);
		assert_int_equal(told(o, k, F, 0, &who), 0); /* he is to pass it on */
		open = k + OPEN;
		assert_int_equal(told(o, open, F, 0, &offered[open]), 1);
		assert_int_equal(offered[open], offered[k]);
	}
	for (uint32_t k = N - OPEN; k < N; k++) {
		assert_int_equal(told(o, 0, F, 0, &who), 0);
		assert_false(cairn_offer_over(o));
		cairn_offer_sent(o, offered[k], k);
	}
	/* All are here, and each was sent to somebody. */
	for (uint32_t k = 0; k < N; k++) assert_int_equal(told(o, k, F, 0, &who), F);
	assert_true(cairn_offer_over(o));
	cairn_offer_free(o);
}

static void many_followers__few_offers(void **state)
{
	(void)state;
	enum { F = 40, N = 100 };
	struct cairn_offer *o = with_followers(N, F);
	uint32_t who = 0, open = 0;
	for (uint32_t k = 0; k < N; k++) cairn_offer_add(o, k, false, 0);
	for (uint32_t k = 0; k < N; k++) open += told(o, k, F, 0, &who) == 1;
	assert_int_equal(open, CAIRN_OFFER_OPEN);
	cairn_offer_free(o);
}

/* An uplink that has nothing better to do tells all; and after a long time in any case. */
static void passed__is_told_to_all_when_idle_or_old(void **state)
{
	(void)state;
	struct cairn_offer *o = with_followers(10, 2);
	uint32_t who = 0, other = 0;
	cairn_offer_add(o, 0, false, 0);
	assert_int_equal(told(o, 0, 2, 0, &who), 1);
	cairn_offer_sent(o, who, 0);
	assert_int_equal(told(o, 0, 2, 10, &other), 0);
	assert_true(cairn_offer_next_ms(o, 10) == 10 + CAIRN_OFFER_IDLE_MS);
	assert_int_equal(told(o, 0, 2, 9 + CAIRN_OFFER_IDLE_MS, &other), 0);
	assert_int_equal(told(o, 0, 2, 10 + CAIRN_OFFER_IDLE_MS, &other), 2);

	/* Never idle, for there is always another. */
	cairn_offer_add(o, 1, false, 1000);
	assert_int_equal(told(o, 1, 2, 1000, &who), 1);
	int64_t now = 1000;
	for (uint32_t k = 2; k < 9; k++, now += 500) {
		cairn_offer_add(o, k, false, now);
		assert_int_equal(told(o, k, 2, now, &who), 1);
		cairn_offer_sent(o, who, k - 1);
		assert_int_equal(told(o, k - 1, 2, now, &other), 0);
	}
	assert_int_equal(told(o, 1, 2, 1000 + CAIRN_OFFER_PASS_MS - 1, &other), 0);
	assert_int_equal(told(o, 1, 2, 1000 + CAIRN_OFFER_PASS_MS, &other), 2);
	cairn_offer_free(o);
}

/* What its follower lets lie goes to another, who is served before him from then on. */
static void lying__goes_to_another(void **state)
{
	(void)state;
	enum { N = 100 };
	struct cairn_offer *o = with_followers(N, 2);
	uint32_t lazy = 0, who = 0;
	cairn_offer_add(o, 0, false, 0);
	assert_int_equal(told(o, 0, 2, 0, &lazy), 1);
	uint32_t busy = 1 - lazy;
	assert_int_equal(told(o, 0, 2, CAIRN_OFFER_STUCK_MS - 1, &who), 1);
	assert_int_equal(who, lazy);
	assert_true(cairn_offer_next_ms(o, 1) == CAIRN_OFFER_STUCK_MS);
	for (uint32_t k = 1; k <= 2 * CAIRN_OFFER_OPEN; k++) cairn_offer_add(o, k, false, 1);
	for (uint32_t sent = 0; sent < 2 * CAIRN_OFFER_OPEN; sent++) {
		uint32_t k = 1;
		while (!cairn_offer_may_tell(o, busy, k, 2)) k++;
		cairn_offer_sent(o, busy, k);
		if (k == 2 * CAIRN_OFFER_OPEN) break;
	}
	cairn_offer_sent(o, busy, 1); /* again is fine, and counts */
	cairn_offer_sent(o, busy, 1);
	assert_true(cairn_offer_may_tell(o, lazy, 0, CAIRN_OFFER_MS - 1));
	assert_true(cairn_offer_may_tell(o, busy, 0, CAIRN_OFFER_MS + 1));
	assert_false(cairn_offer_may_tell(o, lazy, 0, CAIRN_OFFER_MS + 1));
	cairn_offer_free(o);
}

static void leaving__gives_it_to_another(void **state)
{
	(void)state;
	struct cairn_offer *o = with_followers(3, 3);
	uint32_t who = 0, other = 0;
	cairn_offer_add(o, 0, false, 0);
	assert_int_equal(told(o, 0, 3, 0, &who), 1);
	cairn_offer_leave(o, who);
	assert_int_equal(told(o, 0, 3, 0, &other), 1);
	assert_int_not_equal(other, who);
	cairn_offer_leave(o, other);
	cairn_offer_leave(o, 3 - who - other);
	assert_int_equal(told(o, 0, 3, 0, &other), 0);
	cairn_offer_join(o, who); /* the first who comes gets what waits */
	assert_true(cairn_offer_may_tell(o, who, 0, 0));
	cairn_offer_free(o);
}

/* Nobody else is kept from it, nor all from the whole blob. */
static void lost__is_as_if_he_had_it(void **state)
{
	(void)state;
	enum { F = 3, N = 2 };
	struct cairn_offer *o = with_followers(N, F);
	uint32_t who = 0, other = 0;
	for (uint32_t k = 0; k < N; k++) cairn_offer_add(o, k, false, 0);
	assert_int_equal(told(o, 0, F, 0, &who), 1);
	assert_int_equal(told(o, 1, F, 0, &other), 1);
	cairn_offer_lost(o, other, 0); /* it was not offered to him */
	assert_int_equal(told(o, 0, F, 0, &who), 1);
	cairn_offer_lost(o, who, 0);
	assert_int_equal(told(o, 0, F, 0, &who), 0);
	assert_false(cairn_offer_over(o));
	cairn_offer_sent(o, other, 1);
	assert_int_equal(told(o, 0, F, 0, &who), F);
	assert_true(cairn_offer_over(o));
	cairn_offer_free(o);
}

static void elsewhere__is_told_to_all(void **state)
{
	(void)state;
	struct cairn_offer *o = with_followers(3, 2);
	uint32_t who = 0;
	cairn_offer_add(o, 0, true, 0);
	assert_int_equal(told(o, 0, 2, 0, &who), 2);
	cairn_offer_add(o, 1, false, 0);
	cairn_offer_add(o, 1, true, 0); /* now others have it, too */
	assert_int_equal(told(o, 1, 2, 0, &who), 2);
	cairn_offer_add(o, 1, false, 0); /* again: nothing new */
	assert_int_equal(told(o, 1, 2, 0, &who), 2);
	cairn_offer_free(o);
}

/* Whatever happens: what is not here is told to nobody; offers are few; and when all stand still,
 * everything is told to all in the end. */
static void offers__random(void **state)
{
	(void)state;
	uint64_t seed = test_seed();
	enum { N = 64, F = 7 };
	for (int round = 0; round < 40; round++) {
		struct cairn_offer *o = cairn_offer_new(N);
		bool here[F] = {false}, added[N] = {false};
		int64_t now = 0;
		uint32_t who = 0;
		for (int i = 0; i < 1500; i++) {
			uint32_t f = (uint32_t)random_below(&seed, F);
			uint32_t k = (uint32_t)random_below(&seed, N);
			now += (int64_t)random_below(&seed, 50);
			uint64_t what = random_below(&seed, 8);
			if (what == 0 && !here[f]) cairn_offer_join(o, f);
			if (what == 0) here[f] = true;
			if (what == 1 && here[f]) cairn_offer_leave(o, f);
			if (what == 1) here[f] = false;
			if (what == 2) cairn_offer_add(o, k, random_below(&seed, 4) == 0, now);
			if (what == 2) added[k] = true;
			if (what > 2 && here[f] && cairn_offer_may_tell(o, f, k, now)) {
				cairn_offer_sent(o, f, k);
			}
			uint32_t open = 0;
			for (k = 0; k < N; k++) {
				int n = told(o, k, F, now, &who);
				if (!added[k]) assert_int_equal(n, 0);
				if (n == 1) open++;
				if (n == 1) assert_true(here[who]);
				assert_true(n <= 1 || n == F);
			}
			assert_true(open <= CAIRN_OFFER_OPEN);
			assert_true(cairn_offer_next_ms(o, now) > now);
		}
		for (uint32_t f = 0; f < F; f++) cairn_offer_join(o, f);
		for (int i = 0; i < N; i++) { /* those that are offered are sent */
			for (uint32_t k = 0; k < N; k++) {
				int n = told(o, k, F, now, &who);
				if (n == 1) cairn_offer_sent(o, who, k);
			}
		}
		now += CAIRN_OFFER_PASS_MS;
		for (uint32_t k = 0; k < N; k++) cairn_offer_may_tell(o, 0, k, now);
		now += CAIRN_OFFER_PASS_MS;
		for (uint32_t k = 0; k < N; k++) {
			assert_int_equal(told(o, k, F, now, &who), added[k] ? F : 0);
		}
		cairn_offer_free(o);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(fresh__goes_to_one_in_turn),
		cmocka_unit_test(many_followers__few_offers),
		cmocka_unit_test(passed__is_told_to_all_when_idle_or_old),
		cmocka_unit_test(lying__goes_to_another),
		cmocka_unit_test(leaving__gives_it_to_another),
		cmocka_unit_test(lost__is_as_if_he_had_it),
		cmocka_unit_test(elsewhere__is_told_to_all),
		cmocka_unit_test(offers__random),
	};
	return cmocka_run_group_tests_name("p2p/offer", tests, NULL, NULL);
}
