#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "base/own.h"
#include "cache/pieces.h"
#include "p2p/plan.h"
#include "support/random.h"

#define MIB (UINT64_C(1) << 20)
#define STALL_MS 5000

static struct cairn_plan *new_plan(uint32_t pieces, uint64_t seed)
{
	struct cairn_plan_opts opts = {.size = pieces * MIB, .seed = seed, .stall_ms = STALL_MS};
	return cairn_plan_new(&opts);
}

/* One that began some time ago: all places may be taken. */
static struct cairn_plan *plan_of(uint32_t pieces, uint64_t seed)
{
	struct cairn_plan *plan = new_plan(pieces, seed);
	uint32_t id;
	assert_false(cairn_plan_next_source(plan, -60000, &id));
	return plan;
}

static void open_source(struct cairn_plan *plan, uint32_t id, bool all, int64_t now)
{
	uint32_t got;
	assert_true(cairn_plan_learn(plan, id, all, now));
	assert_true(cairn_plan_next_source(plan, now, &got));
	assert_int_equal(got, id);
	cairn_plan_opened(plan, id, now);
	if (all) cairn_plan_have_all(plan, id);
}

static void all_provable(struct cairn_plan *plan, uint32_t n)
{
	for (uint32_t k = 0; k < n; k++) cairn_plan_provable(plan, k);
}

/* The source sends it whole, at once. */
static void deliver(struct cairn_plan *plan, uint32_t id, uint32_t piece, int64_t now)
{
	cairn_plan_bytes(plan, id, MIB, now);
	assert_true(cairn_plan_got(plan, id, piece, now));
}

/* ---- sources ---- */

static void sources__each_is_tried_once_and_at_most_so_many(void **state)
{
	(void)state;
	struct cairn_plan *plan = plan_of(4, 1);
	uint32_t id;
	bool seen[100] = {false};
	assert_false(cairn_plan_next_source(plan, 0, &id));
	assert_int_equal(cairn_plan_hopes(plan), 0);
	for (uint32_t i = 0; i < CAIRN_SOURCES_MAX; i++) {
		assert_true(cairn_plan_learn(plan, i, false, 0));
		assert_true(cairn_plan_learn(plan, i, true, 0)); /* again */
	}
	assert_false(cairn_plan_learn(plan, 99, true, 0)); /* full, and all are as good */
	assert_int_equal(cairn_plan_hopes(plan), CAIRN_SOURCES_MAX);
	for (int i = 0; i < CAIRN_OPEN_MAX; i++) {
		assert_true(cairn_plan_next_source(plan, 0, &id));
		assert_false(seen[id]);
		seen[id] = true;
	}
	uint32_t other;
	assert_false(cairn_plan_next_source(plan, 0, &other));
	cairn_plan_closed(plan, id, CAIRN_END_ABSENT, 0, 0);
	assert_true(cairn_plan_learn(plan, 99, true, 0)); /* in the place of that one */
	assert_true(cairn_plan_next_source(plan, 0, &other));
	assert_int_not_equal(other, id);
	cairn_plan_free(plan);
}

/* At first few places are taken, so that there are some for sources that are learnt a moment later.
 */
static void sources__few_at_first(void **state)
{
	(void)state;
	struct cairn_plan *plan = new_plan(4, 1);
	uint32_t id, early = 0, all = 0, connected[CAIRN_OPEN_MAX];
	for (uint32_t i = 0; i < 40; i++) cairn_plan_learn(plan, i, false, 100);
	while (cairn_plan_next_source(plan, 100, &id)) connected[early++] = id;
	assert_in_range(early, 1, CAIRN_OPEN_MAX / 2);
	int64_t next = cairn_plan_next_ms(plan, 100);
	assert_in_range(next, 101, 5000);
	for (all = early; cairn_plan_next_source(plan, next, &id);) connected[all++] = id;
	assert_int_equal(all, CAIRN_OPEN_MAX);
	cairn_plan_set_open(plan, 4); /* those that are connected stay */
	for (uint32_t i = 0; i < CAIRN_OPEN_MAX - 3; i++) {
		assert_false(cairn_plan_next_source(plan, next, &id));
		cairn_plan_closed(plan, connected[i], CAIRN_END_ABSENT, 0, next);
	}
	assert_true(cairn_plan_next_source(plan, next, &id));
	assert_false(cairn_plan_next_source(plan, next, &id));
	cairn_plan_free(plan);
}

static void failed__again_after_pauses_that_grow_and_end(void **state)
{
	(void)state;
	struct cairn_plan *plan = plan_of(4, 1);
	uint32_t id;
	int64_t now = 0, pause = 0;
	int tries = 0;
	cairn_plan_learn(plan, 7, true, now);
	while (cairn_plan_next_source(plan, now, &id)) {
		tries++;
		cairn_plan_closed(plan, id, CAIRN_END_FAILED, 0, now);
		assert_false(cairn_plan_next_source(plan, now, &id));
		int64_t next = cairn_plan_next_ms(plan, now);
		if (next == INT64_MAX) break;
		assert_in_range(next - now, 1, 20000);
		if (pause > 0 && pause < 8000) assert_true((next - now) * 4 > pause * 3);
		pause = next - now;
		now = next;
	}
	assert_in_range(tries, 3, 20);
	assert_int_equal(cairn_plan_hopes(plan), 0);
	now += 30000;
	cairn_plan_learn(plan, 7, true, now); /* still there, says somebody */
	assert_int_equal(cairn_plan_hopes(plan), 1);
	assert_true(cairn_plan_next_source(plan, now, &id));
	cairn_plan_free(plan);
}

static void busy_absent_shunned(void **state)
{
	(void)state;
	struct cairn_plan *plan = plan_of(4, 1);
	uint32_t id;
	cairn_plan_learn(plan, 1, true, 0);
	assert_true(cairn_plan_next_source(plan, 0, &id));
	cairn_plan_closed(plan, 1, CAIRN_END_BUSY, 700, 0);
	assert_int_equal(cairn_plan_next_ms(plan, 0), 700);
	assert_false(cairn_plan_next_source(plan, 699, &id));
	assert_true(cairn_plan_next_source(plan, 700, &id));
	cairn_plan_closed(plan, 1, CAIRN_END_ABSENT, 0, 700);
	assert_true(cairn_plan_next_ms(plan, 700) == INT64_MAX);
	assert_int_equal(cairn_plan_hopes(plan), 0);
	cairn_plan_learn(plan, 1, true, 700); /* at once: no news */
	assert_int_equal(cairn_plan_hopes(plan), 0);
	cairn_plan_learn(plan, 1, true, 60000);
	assert_true(cairn_plan_next_source(plan, 60000, &id));
	cairn_plan_closed(plan, 1, CAIRN_END_SHUNNED, 0, 60000);
	cairn_plan_learn(plan, 1, true, 600000);
	assert_false(cairn_plan_next_source(plan, 600000, &id));
	assert_int_equal(cairn_plan_hopes(plan), 0);
	/* Nobody pushes a liar out, so that it could come back as somebody new. */
	for (uint32_t i = 2; i < 200; i++) cairn_plan_learn(plan, i, true, 600000);
	cairn_plan_learn(plan, 1, true, 600000);
	for (int i = 0; i < CAIRN_OPEN_MAX; i++) {
		assert_true(cairn_plan_next_source(plan, 600000, &id));
		assert_int_not_equal(id, 1);
	}
	cairn_plan_free(plan);
}

static void judge__stalled(void **state)
{
	(void)state;
	struct cairn_plan *plan = plan_of(8, 1);
	uint32_t k;
	all_provable(plan, 8);
	open_source(plan, 1, true, 0);
	assert_int_equal(cairn_plan_judge(plan, 1, 100000), CAIRN_VERDICT_KEEP); /* owes nothing */
	assert_true(cairn_plan_next_piece(plan, 1, 100000, &k));
	assert_true(cairn_plan_next_ms(plan, 100000) == 100000 + STALL_MS);
	assert_int_equal(cairn_plan_judge(plan, 1, 100000 + STALL_MS - 1), CAIRN_VERDICT_KEEP);
	cairn_plan_bytes(plan, 1, 10, 103000);
	assert_int_equal(cairn_plan_last_byte_ms(plan), 103000);
	assert_int_equal(cairn_plan_judge(plan, 1, 103000 + STALL_MS - 1), CAIRN_VERDICT_KEEP);
	assert_int_equal(cairn_plan_judge(plan, 1, 103000 + STALL_MS), CAIRN_VERDICT_STALLED);
	cairn_plan_free(plan);
}

/* Five equal sources and one that has a hundredth of their speed. */
static void judge__by_far_the_slowest(void **state)
{
	(void)state;
	struct cairn_plan *plan = plan_of(400, 1);
	uint32_t owed[6], k;
	all_provable(plan, 400);
	for (uint32_t i = 0; i < 6; i++) {
		open_source(plan, i, true, 0);
		assert_true(cairn_plan_next_piece(plan, i, 0, &owed[i]));
	}
	int64_t now = 0;
	for (int round = 0; round < 30; round++) {
		now += 100;
		for (uint32_t i = 0; i < 5; i++) {
			deliver(plan, i, owed[i], now);
			assert_true(cairn_plan_next_piece(plan, i, now, &owed[i]));
		}
		cairn_plan_bytes(plan, 5, MIB / 100, now);
	}
	assert_int_equal(cairn_plan_judge(plan, 5, now), CAIRN_VERDICT_KEEP); /* nobody better */
	assert_true(cairn_plan_learn(plan, 6, true, now));
	assert_int_equal(cairn_plan_judge(plan, 5, now), CAIRN_VERDICT_SLOW);
	for (uint32_t i = 0; i < 5; i++) {
		assert_int_equal(cairn_plan_judge(plan, i, now), CAIRN_VERDICT_KEEP);
	}
	cairn_plan_closed(plan, 5, CAIRN_END_SLOW, 0, now);
	assert_true(cairn_plan_next_source(plan, now, &k));
	assert_int_equal(k, 6);
	assert_true(cairn_plan_next_piece(plan, 0, now, &k)); /* its piece is free again */
	cairn_plan_free(plan);
}

/* All places are taken and others are untried: the one that gives least is asked no more, and
 * leaves when it owes nothing. One that gives its share stays. */
static void judge__the_least_useful_leaves(void **state)
{
	(void)state;
	struct cairn_plan *plan = plan_of(2000, 1);
	uint32_t owed[CAIRN_OPEN_MAX], k;
	all_provable(plan, 2000);
	for (uint32_t i = 0; i < CAIRN_OPEN_MAX; i++) {
		open_source(plan, i, true, 0);
		assert_true(cairn_plan_next_piece(plan, i, 0, &owed[i]));
	}
	cairn_plan_learn(plan, 99, true, 0);
	int64_t now = 0;
	int left = -1;
	while (left < 0 && now < 60000) {
		now += 100;
		for (uint32_t i = 0; i < CAIRN_OPEN_MAX; i++) {
			bool due = i > 0 || now % 400 == 0;
			if (!due || owed[i] == UINT32_MAX) continue;
			deliver(plan, i, owed[i], now);
			if (!cairn_plan_next_piece(plan, i, now, &owed[i])) owed[i] = UINT32_MAX;
		}
		for (uint32_t i = 0; i < CAIRN_OPEN_MAX; i++) {
			if (cairn_plan_judge(plan, i, now) == CAIRN_VERDICT_SLOW) left = (int)i;
		}
	}
	assert_int_equal(left, 0);
	assert_int_equal(owed[0], UINT32_MAX); /* nothing was on its way */
	cairn_plan_closed(plan, 0, CAIRN_END_SLOW, 0, now);
	assert_true(cairn_plan_next_source(plan, now, &k));
	assert_int_equal(k, 99);
	cairn_plan_opened(plan, 99, now);
	for (; now < 120000; now += 100) { /* nobody is untried: all stay */
		for (uint32_t i = 1; i < CAIRN_OPEN_MAX; i++) {
			cairn_plan_bytes(plan, i, 1, now);
			assert_int_equal(cairn_plan_judge(plan, i, now), CAIRN_VERDICT_KEEP);
		}
	}
	cairn_plan_free(plan);
}

/* ---- pieces ---- */

static void pieces__only_what_it_has_and_can_be_proved(void **state)
{
	(void)state;
	struct cairn_plan *plan = plan_of(16, 1);
	uint32_t k;
	open_source(plan, 1, false, 0);
	cairn_plan_have(plan, 1, 3);
	assert_false(cairn_plan_next_piece(plan, 1, 0, &k)); /* no list */
	cairn_plan_provable(plan, 4);
	assert_false(cairn_plan_next_piece(plan, 1, 0, &k)); /* it does not have that one */
	cairn_plan_provable(plan, 3);
	assert_true(cairn_plan_next_piece(plan, 1, 0, &k));
	assert_int_equal(k, 3);
	assert_false(cairn_plan_next_piece(plan, 1, 0, &k));
	cairn_plan_lost(plan, 1,
			3); /* and is not asked for it again until it says that it has it */
	assert_false(cairn_plan_next_piece(plan, 1, 0, &k));
	cairn_plan_have(plan, 1, 3);
	assert_true(cairn_plan_next_piece(plan, 1, 0, &k));
	deliver(plan, 1, 3, 0);
	assert_false(cairn_plan_got(plan, UINT32_MAX, 3, 0));
	assert_true(cairn_plan_got(plan, UINT32_MAX, 4, 0)); /* from disk */
	assert_int_equal(cairn_plan_pieces_here(plan), 2);
	cairn_plan_have(plan, 1, 4);
	assert_false(cairn_plan_next_piece(plan, 1, 0, &k));
	cairn_plan_free(plan);
}

static void pieces__the_rarest_first(void **state)
{
	(void)state;
	uint64_t seed = test_seed();
	enum { N = 100 };
	struct cairn_plan *plan = plan_of(N, seed);
	uint32_t k;
	all_provable(plan, N);
	for (uint32_t i = 0; i < 3; i++) open_source(plan, i, false, 0);
	for (uint32_t i = 0; i < 5; i++) cairn_plan_got(plan, UINT32_MAX, i, 0);
	for (uint32_t p = 5; p < N; p++) {
		cairn_plan_have(plan, 0, p);
		if (p != 50 && p != 60) cairn_plan_have(plan, 1, p);
		if (p != 60) cairn_plan_have(plan, 2, p);
	}
	assert_true(cairn_plan_next_piece(plan, 0, 0, &k));
	assert_int_equal(k, 60);
	deliver(plan, 0, 60, 100);
	assert_true(cairn_plan_next_piece(plan, 0, 100, &k));
	assert_int_equal(k, 50);
	cairn_plan_closed(plan, 2, CAIRN_END_FAILED, 0, 100);
	cairn_plan_closed(plan, 0, CAIRN_END_FAILED, 0, 100);
	assert_true(cairn_plan_next_piece(plan, 1, 100, &k));
	assert_true(k != 50 && k != 60);
	cairn_plan_free(plan);
}

/* Nine nodes that begin at one source do not begin with the same pieces. */
static void pieces__other_seeds_begin_elsewhere(void **state)
{
	(void)state;
	enum { N = 200, NODES = 9, FIRST = 2 };
	int asked[N] = {0}, different = 0;
	for (uint64_t seed = 0; seed < NODES; seed++) {
		struct cairn_plan *plan = plan_of(N, seed);
		uint32_t k;
		all_provable(plan, N);
		open_source(plan, 0, true, 0);
		for (int i = 0; i < FIRST; i++) {
			assert_true(cairn_plan_next_piece(plan, 0, 0, &k));
			different += asked[k]++ == 0;
			deliver(plan, 0, k, 0);
		}
		cairn_plan_free(plan);
	}
	assert_true(different >= NODES * FIRST * 8 / 10);
}

static void pieces__deeper_the_faster(void **state)
{
	(void)state;
	for (int64_t ms = 1; ms <= 4096; ms *= 4) {
		struct cairn_plan *plan = plan_of(1000, 1);
		int64_t now = 0;
		uint32_t k, depth = 0;
		all_provable(plan, 1000);
		open_source(plan, 0, true, 0);
		assert_true(cairn_plan_next_piece(plan, 0, now, &k));
		for (int i = 0; i < 50; i++) {
			now += ms;
			deliver(plan, 0, k, now);
			assert_true(cairn_plan_next_piece(plan, 0, now, &k));
		}
		while (cairn_plan_next_piece(plan, 0, now, &k)) depth++;
		depth++; /* the one before */
		int64_t want = 500 / ms;
		if (want < CAIRN_DEPTH_MIN) want = CAIRN_DEPTH_MIN;
		if (want > CAIRN_DEPTH_MAX) want = CAIRN_DEPTH_MAX;
		assert_in_range(depth, want, want + 1);
		cairn_plan_free(plan);
	}
}

/* At the end a late piece is asked of a second source, which is the first that comes free, and
 * never of a third. */
static void endgame__a_second_source_never_a_third(void **state)
{
	(void)state;
	struct cairn_plan *plan = plan_of(1, 1);
	uint32_t k;
	all_provable(plan, 1);
	for (uint32_t i = 0; i < 3; i++) open_source(plan, i, true, 0);
	assert_true(cairn_plan_next_piece(plan, 0, 0, &k));
	assert_false(cairn_plan_next_piece(plan, 1, 10, &k)); /* not late yet */
	assert_true(cairn_plan_next_ms(plan, 10) <= 100);
	assert_true(cairn_plan_next_piece(plan, 1, 2000, &k));
	assert_int_equal(k, 0);
	assert_false(cairn_plan_next_piece(plan, 2, 4000, &k));
	assert_false(cairn_plan_next_piece(plan, 1, 4000, &k));
	cairn_plan_closed(plan, 0, CAIRN_END_FAILED, 0, 4000);
	assert_true(cairn_plan_next_piece(plan, 2, 4500, &k));
	deliver(plan, 2, 0, 4600);
	assert_true(cairn_plan_done(plan));
	assert_false(cairn_plan_got(plan, 1, 0, 4700));
	assert_false(cairn_plan_next_piece(plan, 1, 9000, &k));
	assert_true(cairn_plan_next_ms(plan, 9000) >= 9000);
	cairn_plan_free(plan);
}

/* Of two that are late, the later one; and none that comes earlier where it is. */
static void endgame__the_slowest_first(void **state)
{
	(void)state;
	enum { N = 7 };
	struct cairn_plan *plan = plan_of(N, 3);
	uint32_t owed[3], k;
	const int64_t took[3] = {10, 1000, 300}; /* ms a piece */
	all_provable(plan, N);
	for (uint32_t i = 0; i < 3; i++) {
		open_source(plan, i, true, 0);
		assert_true(cairn_plan_next_piece(plan, i, 0, &owed[i]));
	}
	for (uint32_t i = 0; i < 3; i++) {
		deliver(plan, i, owed[i], took[i]);
		assert_true(cairn_plan_next_piece(plan, i, took[i], &owed[i]));
	}
	assert_true(cairn_plan_got(plan, UINT32_MAX, owed[0], 1000));
	cairn_plan_closed(plan, 0, CAIRN_END_BUSY, 1, 1000);
	open_source(plan, 0, true, 1001);
	assert_true(cairn_plan_next_piece(plan, 0, 1001, &owed[0]));
	deliver(plan, 0, owed[0], 1011);
	assert_int_equal(cairn_plan_pieces_here(plan), N - 2);
	assert_true(cairn_plan_next_piece(plan, 0, 1011, &k));
	assert_int_equal(k, owed[1]);
	assert_false(cairn_plan_got(plan, 0, owed[0], 1011));
	cairn_plan_bytes(plan, 0, MIB, 1021);
	assert_true(cairn_plan_got(plan, 0, k, 1021));
	assert_true(cairn_plan_next_piece(plan, 0, 1021, &k));
	assert_int_equal(k, owed[2]);
	assert_false(cairn_plan_next_piece(plan, 0, 1011, &k));
	cairn_plan_free(plan);
}

static void closed__frees_all_and_forget_begins_anew(void **state)
{
	(void)state;
	enum { N = 20 };
	struct cairn_plan *plan = plan_of(N, 1);
	uint32_t k;
	all_provable(plan, N);
	open_source(plan, 0, true, 0);
	int asked = 0;
	while (cairn_plan_next_piece(plan, 0, 0, &k)) asked++;
	assert_int_equal(asked, CAIRN_DEPTH_MIN); /* nothing is known of how fast it is */
	cairn_plan_closed(plan, 0, CAIRN_END_FAILED, 0, 0);
	open_source(plan, 1, false, 0);
	bool seen[N] = {false};
	for (uint32_t i = 0; i < N; i++) cairn_plan_have(plan, 1, i);
	for (int i = 0; i < N - 1; i++) {
		assert_true(cairn_plan_next_piece(plan, 1, 0, &k));
		assert_false(seen[k]);
		seen[k] = true;
		deliver(plan, 1, k, 0);
	}
	cairn_plan_forget(plan);
	assert_int_equal(cairn_plan_pieces_here(plan), 0);
	assert_false(cairn_plan_next_piece(plan, 1, 0, &k));
	all_provable(plan, N);
	for (int i = 0; i < N; i++) {
		assert_true(cairn_plan_next_piece(plan, 1, 10 + i, &k));
		deliver(plan, 1, k, 10 + i);
	}
	assert_true(cairn_plan_done(plan));
	cairn_plan_free(plan);
}

static void largest__is_quick(void **state)
{
	(void)state;
	struct cairn_plan *plan = plan_of(CAIRN_PIECES_MAX, 1);
	uint32_t k, done = 0;
	all_provable(plan, CAIRN_PIECES_MAX);
	for (uint32_t i = 0; i < CAIRN_OPEN_MAX; i++) {
		open_source(plan, i, i == 0, 0);
		for (uint32_t p = i; i > 0 && p < CAIRN_PIECES_MAX; p += i) {
			cairn_plan_have(plan, i, p);
		}
	}
	clock_t begin = clock();
	for (int64_t now = 1; !cairn_plan_done(plan); now++) {
		for (uint32_t i = 0; i < CAIRN_OPEN_MAX; i++) {
			if (!cairn_plan_next_piece(plan, i, now, &k)) continue;
			deliver(plan, i, k, now);
			done++;
		}
	}
	assert_int_equal(done, CAIRN_PIECES_MAX);
	double us = (double)(clock() - begin) / CLOCKS_PER_SEC * 1e6 / CAIRN_PIECES_MAX;
	print_message("%.2f us a piece\n", us);
	assert_true(us < 1000); /* a sanitizer and a busy machine have room in it */
	cairn_plan_free(plan);
}

/* ---- worlds: sources that grow, answer, lie in wait, break off and die, as chance will have it
 * ---- */

enum { W_SOURCES = 90, W_PIECES = 60 };

struct w_source {
	bool dead, open, whole;
	bool has[W_PIECES];
	uint32_t owed[CAIRN_DEPTH_MAX];
	uint32_t n_owed;
	int64_t busy_ms; /* a piece takes so long */
	int64_t next_ms;
	bool frozen; /* sends nothing */
};

struct world {
	uint64_t seed;
	struct cairn_plan *plan;
	struct w_source sources[W_SOURCES];
	bool provable[W_PIECES], here[W_PIECES];
	int owed_by[W_PIECES], asked[W_PIECES], got[W_PIECES];
	int64_t now;
};

static uint32_t chance(struct world *w, uint32_t below)
{
	return (uint32_t)random_below(&w->seed, below);
}

static void w_close(struct world *w, uint32_t id, enum cairn_plan_end end)
{
	struct w_source *s = &w->sources[id];
	for (uint32_t i = 0; i < s->n_owed; i++) w->owed_by[s->owed[i]]--;
	s->n_owed = 0;
	s->open = false;
	cairn_plan_closed(w->plan, id, end, 1 + chance(w, 500), w->now);
}

static void w_open(struct world *w, uint32_t id)
{
	struct w_source *s = &w->sources[id];
	assert_false(s->open);
	if (s->dead || chance(w, 10) == 0) {
		cairn_plan_closed(w->plan, id, CAIRN_END_FAILED, 0, w->now);
		return;
	}
	if (chance(w, 8) == 0) {
		cairn_plan_closed(w->plan, id, chance(w, 2) ? CAIRN_END_BUSY : CAIRN_END_ABSENT,
				  1 + chance(w, 500), w->now);
		return;
	}
	s->open = true;
	cairn_plan_opened(w->plan, id, w->now);
	if (s->whole) cairn_plan_have_all(w->plan, id);
	for (uint32_t k = 0; k < W_PIECES && !s->whole; k++) {
		if (s->has[k]) cairn_plan_have(w->plan, id, k);
	}
}

static void w_grow(struct world *w, uint32_t id)
{
	struct w_source *s = &w->sources[id];
	uint32_t k = chance(w, W_PIECES);
	if (s->has[k]) return;
	s->has[k] = true;
	if (s->open) cairn_plan_have(w->plan, id, k);
}

static void w_ask(struct world *w, uint32_t id)
{
	struct w_source *s = &w->sources[id];
	uint32_t k;
	while (s->open && cairn_plan_next_piece(w->plan, id, w->now, &k)) {
		assert_true(k < W_PIECES && s->has[k] && w->provable[k] && !w->here[k]);
		for (uint32_t i = 0; i < s->n_owed; i++) assert_int_not_equal(s->owed[i], k);
		if (w->owed_by[k] > 0) { /* the end: nothing else is left to ask for */
			for (uint32_t p = 0; p < W_PIECES; p++) {
				assert_true(w->here[p] || w->owed_by[p] > 0);
			}
		}
		assert_true(++w->owed_by[k] <= 2);
		assert_true(s->n_owed < CAIRN_DEPTH_MAX);
		w->asked[k]++;
		if (s->n_owed == 0) s->next_ms = w->now + s->busy_ms;
		s->owed[s->n_owed++] = k;
	}
}

static void w_answer(struct world *w, uint32_t id)
{
	struct w_source *s = &w->sources[id];
	if (!s->open || s->frozen || s->n_owed == 0 || w->now < s->next_ms) return;
	uint32_t k = s->owed[0];
	memmove(s->owed, s->owed + 1, --s->n_owed * sizeof(s->owed[0]));
	w->owed_by[k]--;
	s->next_ms = w->now + s->busy_ms;
	if (chance(w, 40) == 0) {
		cairn_plan_lost(w->plan, id, k);
		if (chance(w, 2) == 0) return w_close(w, id, CAIRN_END_SHUNNED);
		s->has[k] = false;
		s->whole = false;
		return;
	}
	cairn_plan_bytes(w->plan, id, MIB, w->now);
	assert_int_equal(cairn_plan_got(w->plan, id, k, w->now), !w->here[k]);
	w->got[k] += !w->here[k];
	w->here[k] = true;
}

static void w_source_turn(struct world *w, uint32_t id, uint32_t deaths)
{
	struct w_source *s = &w->sources[id];
	if (!s->dead && chance(w, 30) == 0) w_grow(w, id);
	w_answer(w, id);
	if (!s->dead && chance(w, 4000) < deaths) {
		s->dead = true;
		if (s->open) w_close(w, id, CAIRN_END_FAILED);
	}
	if (s->open && chance(w, 3000) == 0) s->frozen = true;
	if (s->open) {
		enum cairn_verdict verdict = cairn_plan_judge(w->plan, id, w->now);
		if (verdict == CAIRN_VERDICT_STALLED) w_close(w, id, CAIRN_END_FAILED);
		if (verdict == CAIRN_VERDICT_SLOW) w_close(w, id, CAIRN_END_SLOW);
	}
	w_ask(w, id);
}

static void w_init(struct world *w, uint64_t seed)
{
	*w = (struct world){.seed = seed};
	w->plan = plan_of(W_PIECES, seed);
	for (uint32_t id = 0; id < W_SOURCES; id++) {
		struct w_source *s = &w->sources[id];
		s->busy_ms = 5 + chance(w, 10) * chance(w, 50);
		s->whole = chance(w, 8) == 0;
		for (uint32_t k = 0; k < W_PIECES; k++) s->has[k] = s->whole || chance(w, 5) == 0;
	}
}

/* Ends when all is here, or when all are dead and the plan has no hope; either must come. */
static void w_run(struct world *w, uint32_t deaths)
{
	while (!cairn_plan_done(w->plan)) {
		w->now += 10;
		assert_true(w->now < 3600 * 1000);
		uint32_t id = chance(w, W_SOURCES);
		if (!w->sources[id].dead && chance(w, 5) == 0) {
			cairn_plan_learn(w->plan, id, w->sources[id].whole, w->now);
		}
		for (uint32_t k = 0; k < W_PIECES; k++) {
			if (chance(w, 40) != 0 && w->now < 20000) continue;
			w->provable[k] = true;
			cairn_plan_provable(w->plan, k);
		}
		while (cairn_plan_next_source(w->plan, w->now, &id)) w_open(w, id);
		for (id = 0; id < W_SOURCES; id++) w_source_turn(w, id, deaths);
		assert_true(cairn_plan_next_ms(w->plan, w->now) >= w->now);
		bool alive = false;
		for (id = 0; id < W_SOURCES; id++) alive = alive || !w->sources[id].dead;
		if (!alive && cairn_plan_hopes(w->plan) == 0) break;
	}
}

static void worlds__random(void **state)
{
	(void)state;
	uint64_t seed = test_seed();
	int whole = 0;
	enum { WORLDS = 60 };
	for (int i = 0; i < WORLDS; i++) {
		static struct world w;
		w_init(&w, seed + (uint64_t)i);
		w_run(&w, i % 3 == 0 ? 0 : i % 3 == 1 ? 2 : 40);
		whole += cairn_plan_done(w.plan);
		if (i % 3 == 0) assert_true(cairn_plan_done(w.plan));
		for (uint32_t k = 0; k < W_PIECES && cairn_plan_done(w.plan); k++) {
			assert_int_equal(w.got[k], 1);
			assert_true(w.asked[k] >= 1);
		}
		cairn_plan_free(w.plan);
	}
	print_message("%d of %d worlds ended with the whole blob\n", whole, WORLDS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sources__each_is_tried_once_and_at_most_so_many),
		cmocka_unit_test(sources__few_at_first),
		cmocka_unit_test(failed__again_after_pauses_that_grow_and_end),
		cmocka_unit_test(busy_absent_shunned),
		cmocka_unit_test(judge__stalled),
		cmocka_unit_test(judge__by_far_the_slowest),
		cmocka_unit_test(judge__the_least_useful_leaves),
		cmocka_unit_test(pieces__only_what_it_has_and_can_be_proved),
		cmocka_unit_test(pieces__the_rarest_first),
		cmocka_unit_test(pieces__other_seeds_begin_elsewhere),
		cmocka_unit_test(pieces__deeper_the_faster),
		cmocka_unit_test(endgame__a_second_source_never_a_third),
		cmocka_unit_test(endgame__the_slowest_first),
		cmocka_unit_test(closed__frees_all_and_forget_begins_anew),
		cmocka_unit_test(largest__is_quick),
		cmocka_unit_test(worlds__random),
	};
	return cmocka_run_group_tests_name("p2p/plan", tests, NULL, NULL);
}
