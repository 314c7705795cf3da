/* Garbage collection's rules: each alone, each against each, and their boundaries. On random
 * inputs: test_cache_gc_random.c. */
#include "support/gc.h"

/* ---- the disk ----------------------------------------------------------------------------------
 */

static struct cairn_gc_marks percents(uint64_t high, uint64_t low)
{
	return (struct cairn_gc_marks){{true, high}, {true, low}, {true, 50}};
}

static uint64_t over_percent(uint64_t total, uint64_t free_bytes, uint64_t percent)
{
	struct cairn_gc_marks marks = percents(percent, 0);
	struct cairn_gc_disk disk = {.total = total, .free = free_bytes};
	return cairn_gc_over_high(&marks, &disk);
}

static void over__percentage_counts_what_is_not_free(void **state)
{
	(void)state;
	struct cairn_gc_marks marks = percents(80, 70);
	struct cairn_gc_disk disk = {.total = 1000, .free = 200, .own = 1};
	assert_int_equal(cairn_gc_over_high(&marks, &disk), 0); /* at the mark is not over it */
	assert_int_equal(cairn_gc_over_low(&marks, &disk), 100);
	disk.free = 199;
	assert_int_equal(cairn_gc_over_high(&marks, &disk), 1);
	assert_int_equal(cairn_gc_over_low(&marks, &disk), 101);
	disk.free = 300;
	assert_int_equal(cairn_gc_over_low(&marks, &disk), 0);
}

static void over__percentage_at_its_ends(void **state)
{
	(void)state;
	assert_int_equal(over_percent(1000, 1000, 0), 0);
	assert_int_equal(over_percent(1000, 999, 0), 1);
	assert_int_equal(over_percent(1000, 0, 0), 1000);
	assert_int_equal(over_percent(1000, 0, 100), 0);
	assert_int_equal(over_percent(1000, 0, 101), 0);
	assert_int_equal(over_percent(1000, 0, 99), 10);
	assert_int_equal(over_percent(199, 0, 50), 100); /* half is 99.5, rounded down */
	assert_int_equal(over_percent(1, 0, 99), 1);
	assert_int_equal(over_percent(1000, 2000, 0), 0); /* more free than there is */
}

static void over__percentage_of_a_huge_disk(void **state)
{
	(void)state;
	uint64_t huge = UINT64_C(1) << 63;
	assert_true(over_percent(huge, 0, 0) == huge);
	assert_true(over_percent(huge, 0, 100) == 0);
	assert_true(over_percent(huge, huge / 2, 50) == 0);
	assert_true(over_percent(huge, huge / 2 - 1, 50) == 1);
	assert_true(over_percent(UINT64_MAX, 0, 99) == UINT64_MAX / 100 + 1);
}

static void over__percentage_is_exact_at_random(void **state)
{
	(void)state;
	uint64_t x = test_seed();
	for (int i = 0; i < 10000; i++) {
		uint64_t total = next_random(&x);
		total >>= next_random(&x) % 64;
		uint64_t free_bytes = total > 0 ? next_random(&x) % total : 0;
		uint64_t percent = next_random(&x) % 101;
		unsigned __int128 mark = (unsigned __int128)total * percent / 100;
		uint64_t used = total - free_bytes;
		uint64_t want = used > mark ? used - (uint64_t)mark : 0;
		assert_true(over_percent(total, free_bytes, percent) == want);
	}
}

static void over__percentage_has_no_min_free(void **state)
{
	(void)state;
	struct cairn_gc_marks marks = {{true, 100}, {true, 100}, {false, 1000}};
	struct cairn_gc_disk disk = {.total = 1000, .free = 10, .own = 1000};
	assert_int_equal(cairn_gc_over_high(&marks, &disk), 0);
	assert_int_equal(cairn_gc_over_low(&marks, &disk), 0);
}

static void over__absolute_counts_the_own_bytes(void **state)
{
	(void)state;
	struct cairn_gc_marks marks = {{false, 500}, {false, 400}, {false, 0}};
	struct cairn_gc_disk disk = {.total = 100000, .free = 0, .own = 500};
	assert_int_equal(cairn_gc_over_high(&marks, &disk), 0);
	assert_int_equal(cairn_gc_over_low(&marks, &disk), 100);
	disk.own = 501;
	assert_int_equal(cairn_gc_over_high(&marks, &disk), 1);
	disk.own = UINT64_MAX;
	assert_true(cairn_gc_over_high(&marks, &disk) == UINT64_MAX - 500);
	disk.own = 0;
	assert_int_equal(cairn_gc_over_low(&marks, &disk), 0);
}

static void over__absolute_has_min_free_for_a_floor(void **state)
{
	(void)state;
	struct cairn_gc_marks marks = {{false, 500}, {false, 400}, {false, 100}};
	struct cairn_gc_disk disk = {.total = 1000, .free = 100, .own = 0};
	assert_int_equal(cairn_gc_over_high(&marks, &disk), 0);
	disk.free = 99;
	assert_int_equal(cairn_gc_over_high(&marks, &disk), 1);
	assert_int_equal(cairn_gc_over_low(&marks, &disk), 1);
	marks.min_free = (struct cairn_gc_mark){true, 10}; /* the same, as a percentage */
	assert_int_equal(cairn_gc_over_high(&marks, &disk), 1);
	disk.own = 450; /* the larger of the two, not their sum */
	assert_int_equal(cairn_gc_over_high(&marks, &disk), 1);
	assert_int_equal(cairn_gc_over_low(&marks, &disk), 50);
	marks.min_free.value = 200; /* more than all is all */
	assert_int_equal(cairn_gc_over_high(&marks, &disk), 901);
	disk.total = disk.free = UINT64_C(1) << 63;
	marks.min_free.value = 100;
	assert_int_equal(cairn_gc_over_high(&marks, &disk), 0);
	disk.free--;
	assert_int_equal(cairn_gc_over_high(&marks, &disk), 1);
}

static void over__unknown_disk_exceeds_only_absolute_marks(void **state)
{
	(void)state;
	struct cairn_gc_disk disk = {.total = 0, .free = 0, .own = 700};
	struct cairn_gc_marks marks = percents(0, 0);
	assert_int_equal(cairn_gc_over_high(&marks, &disk), 0);
	assert_int_equal(cairn_gc_over_low(&marks, &disk), 0);
	marks = (struct cairn_gc_marks){{false, 500}, {false, 400}, {false, 100000}};
	assert_int_equal(cairn_gc_over_high(&marks, &disk), 200);
	assert_int_equal(cairn_gc_over_low(&marks, &disk), 300);
}

/* ---- names -------------------------------------------------------------------------------------
 */

static void why_name__names_each_reason(void **state)
{
	(void)state;
	static const char *const want[] = {
		"unknown", "referenced", "busy",     "lease",	"container",
		"image",   "pin",	 "unsure",   "version", "young",
		"later",   "ttl",	 "pressure", "prune",	"unknown",
	};
	assert_int_equal(CAIRN_LEN(want), CAIRN_GC_WHYS + 1);
	for (size_t i = 0; i < CAIRN_LEN(want); i++) {
		assert_string_equal(cairn_gc_why_name((enum cairn_gc_why)i), want[i]);
		bool goes = i >= CAIRN_GC_TTL && i <= CAIRN_GC_PRUNE;
		assert_int_equal(cairn_gc_evicts((enum cairn_gc_why)i), goes);
	}
}

/* ---- each rule alone ---------------------------------------------------------------------------
 */

static void decide__empty_input_is_an_empty_plan(void **state)
{
	(void)state;
	struct world w;
	setup(&w);
	add_hold(&w, CAIRN_GC_PIN, "p", 1, -1);
	decide(&w, 0);
	expect_order(&w, -1);
	assert_true(w.plan.relieved);
	decide(&w, 1);
	assert_false(w.plan.relieved);
	w.in = (struct cairn_gc_input){0};
	decide(&w, 0);
	expect_order(&w, -1);
	end(&w);
	cairn_gc_plan_fini(&w.plan); /* twice is fine */
}

static void decide__ttl_begins_at_keep(void **state)
{
	(void)state;
	struct world w;
	setup(&w);
	add_blob(&w);
	add_blob(&w)->used_ns = OLD + 1;
	add_blob(&w)->used_ns = NOW + 5000; /* its use is newer than this pass */
	add_blob(&w)->used_ns = OLD - 1;
	decide(&w, 0);
	expect(&w, 0, CAIRN_GC_TTL, "");
	expect(&w, 1, CAIRN_GC_YOUNG, "");
	expect(&w, 2, CAIRN_GC_YOUNG, "");
	expect(&w, 3, CAIRN_GC_TTL, "");
	expect_order(&w, 3, 0, -1);
	assert_int_equal(w.plan.bytes, 20);
	assert_true(w.plan.relieved);
	for (w.in.keep_ns = 0; w.in.keep_ns >= -1; w.in.keep_ns--) {
		decide(&w, 0); /* nothing is kept for its age, the newest neither */
		expect_order(&w, 3, 0, 1, 2, -1);
	}
	end(&w);
}

static void decide__ttl_with_clocks_at_their_ends(void **state)
{
	(void)state;
	struct world w;
	setup(&w);
	add_blob(&w)->used_ns = INT64_MIN;
	add_blob(&w)->used_ns = INT64_MAX;
	w.in.now_ns = INT64_MAX;
	w.in.keep_ns = INT64_MAX;
	decide(&w, 0);
	expect_order(&w, 0, -1);
	w.in.now_ns = INT64_MIN;
	decide(&w, 0);
	expect_order(&w, -1);
	end(&w);
}

/* What can be said of a blob, the strongest first. Each wins over all that follow. */
enum fact {
	F_REFERENCED,
	F_BUSY,
	F_LEASE,
	F_CONTAINER,
	F_IMAGE,
	F_PIN,
	F_UNSURE,
	F_VERSION,
	F_PRUNE,
	F_TTL,
	FACTS
};

static const struct {
	enum cairn_gc_why why;
	const char *what;
} facts[FACTS] = {
	[F_REFERENCED] = {CAIRN_GC_REFERENCED, ""}, [F_BUSY] = {CAIRN_GC_BUSY, ""},
	[F_LEASE] = {CAIRN_GC_LEASE, "l"},	    [F_CONTAINER] = {CAIRN_GC_CONTAINER, "c"},
	[F_IMAGE] = {CAIRN_GC_IMAGE, "i"},	    [F_PIN] = {CAIRN_GC_PIN, "p"},
	[F_UNSURE] = {CAIRN_GC_UNSURE, ""},	    [F_VERSION] = {CAIRN_GC_VERSION, "v"},
	[F_PRUNE] = {CAIRN_GC_PRUNE, "x"},	    [F_TTL] = {CAIRN_GC_TTL, ""},
};

static void say(struct world *w, enum fact f)
{
	struct cairn_gc_blob *b = &w->blobs[0];
	if (f == F_REFERENCED) {
		b->referenced = true;
	} else if (f == F_BUSY) {
		b->busy = true;
	} else if (f == F_UNSURE) {
		w->in.sure = false;
		b->known = true;
	} else if (f == F_TTL) {
		b->used_ns = OLD;
	} else {
		add_hold(w, facts[f].why, facts[f].what, 0, -1);
	}
}

static void decide__each_fact_alone(void **state)
{
	(void)state;
	for (enum fact f = 0; f < FACTS; f++) {
		struct world w;
		setup(&w);
		add_young(&w);
		say(&w, f);
		decide(&w, 0);
		expect(&w, 0, facts[f].why, facts[f].what);
		end(&w);
	}
}

static void decide__stronger_fact_wins(void **state)
{
	(void)state;
	for (enum fact a = 0; a < FACTS; a++) {
		for (enum fact b = 0; b < FACTS; b++) {
			struct world w;
			enum fact strong = a < b ? a : b;
			setup(&w);
			add_young(&w);
			say(&w, a);
			say(&w, b);
			decide(&w, 0);
			expect(&w, 0, facts[strong].why, facts[strong].what);
			end(&w);
		}
	}
}

static void decide__pressure_respects_only_what_is_hard(void **state)
{
	(void)state;
	for (enum fact f = 0; f < FACTS; f++) {
		struct world w;
		setup(&w);
		add_young(&w);
		say(&w, f);
		if (f < F_VERSION) add_version(&w, "old", 0, 0);
		decide(&w, ALL);
		if (f == F_VERSION) {
			expect(&w, 0, CAIRN_GC_PRESSURE, "v");
		} else {
			expect(&w, 0, facts[f].why, facts[f].what);
		}
		end(&w);
	}
}

static void decide__first_of_a_kind_is_told(void **state)
{
	(void)state;
	static const enum cairn_gc_why kinds[] = {CAIRN_GC_LEASE,   CAIRN_GC_CONTAINER,
						  CAIRN_GC_IMAGE,   CAIRN_GC_PIN,
						  CAIRN_GC_VERSION, CAIRN_GC_PRUNE};
	for (size_t i = 0; i < CAIRN_LEN(kinds); i++) {
		struct world w;
		setup(&w);
		add_young(&w);
		add_young(&w);
		add_hold(&w, kinds[i], "z", 0, -1)->last_ns = 2;
		add_hold(&w, kinds[i], "a", 0, 1, -1)->last_ns = 1;
		add_hold(&w, kinds[i], "b", 1, -1)->last_ns = 3;
		decide(&w, 0);
		expect(&w, 0, kinds[i], "z");
		expect(&w, 1, kinds[i], "a");
		end(&w);
	}
}

static void decide__needs_may_repeat_or_be_absent(void **state)
{
	(void)state;
	struct world w;
	setup(&w);
	add_blob(&w);
	add_blob(&w);
	add_hold(&w, CAIRN_GC_PIN, "p", 20, 0, 0, 21, 0, -1);
	add_hold(&w, CAIRN_GC_VERSION, "v", 30, 30, -1);
	add_hold(&w, CAIRN_GC_PRUNE, NULL, 1, 1, 22, -1);
	add_hold(&w, CAIRN_GC_LEASE, NULL, -1);
	decide(&w, ALL);
	expect(&w, 0, CAIRN_GC_PIN, "p");
	expect(&w, 1, CAIRN_GC_PRUNE, "");
	expect_order(&w, 1, -1);
	end(&w);
}

static void decide__tells_digests_apart(void **state)
{
	(void)state;
	struct world w;
	setup(&w);
	for (size_t i = 0; i < MAX_BLOBS; i++) add_blob(&w);
	/* the same bytes under another algorithm are another blob */
	w.blobs[1].digest = w.blobs[0].digest;
	w.blobs[1].digest.alg = CAIRN_SHA256;
	for (size_t i = 0; i < MAX_BLOBS; i++) {
		w.in.n_holds = 0;
		add_hold(&w, CAIRN_GC_PIN, "p", -1);
		w.needs[0][0] = w.blobs[i].digest;
		w.holds[0].n = 1;
		decide(&w, 0);
		expect(&w, i, CAIRN_GC_PIN, "p");
		assert_int_equal(w.plan.n_order, MAX_BLOBS - 1);
	}
	end(&w);
}

/* ---- unsure ------------------------------------------------------------------------------------
 */

static void decide__unsure_lets_only_the_unknown_go(void **state)
{
	(void)state;
	struct world w;
	setup(&w);
	add_blob(&w)->known = true;
	add_blob(&w);
	add_young(&w)->known = true;
	add_young(&w);
	add_young(&w)->known = true;
	add_young(&w);
	for (size_t k = 0; k < 6; k++) w.blobs[k].used_ns -= (int64_t)k;
	add_hold(&w, CAIRN_GC_PRUNE, "x", 4, 5, -1);
	decide(&w, ALL); /* sure: as if nothing were known */
	expect_order(&w, 5, 4, 1, 0, 3, 2, -1);
	w.in.sure = false;
	decide(&w, ALL);
	expect(&w, 0, CAIRN_GC_UNSURE, "");
	expect(&w, 1, CAIRN_GC_TTL, "");
	expect(&w, 2, CAIRN_GC_UNSURE, "");
	expect(&w, 3, CAIRN_GC_PRESSURE, "");
	expect(&w, 4, CAIRN_GC_UNSURE, "");
	expect(&w, 5, CAIRN_GC_PRUNE, "x");
	expect_order(&w, 5, 1, 3, -1);
	end(&w);
}

/* ---- prune -------------------------------------------------------------------------------------
 */

static void decide__prune_spares_what_others_need(void **state)
{
	(void)state;
	struct world w;
	setup(&w);
	for (int i = 0; i < 5; i++) add_young(&w);
	add_hold(&w, CAIRN_GC_PRUNE, "app", 0, 1, 2, 3, -1);
	add_version(&w, "app", 5, 1);
	add_hold(&w, CAIRN_GC_IMAGE, "other", 2, -1);
	decide(&w, 0);
	expect(&w, 0, CAIRN_GC_PRUNE, "app");
	expect(&w, 1, CAIRN_GC_VERSION, "app");
	expect(&w, 2, CAIRN_GC_IMAGE, "other");
	expect(&w, 3, CAIRN_GC_PRUNE, "app");
	expect(&w, 4, CAIRN_GC_YOUNG, "");
	assert_int_equal(w.plan.n_order, 2);
	end(&w);
}

static void decide__prune_and_ttl_take_empty_blobs_pressure_does_not(void **state)
{
	(void)state;
	struct world w;
	setup(&w);
	add_young(&w)->size = 0;
	add_blob(&w)->size = 0;
	add_young(&w)->size = 0;
	add_young(&w)->size = 0;
	add_hold(&w, CAIRN_GC_PRUNE, "x", 0, -1);
	add_version(&w, "v", 0, 2);
	decide(&w, ALL);
	expect(&w, 2, CAIRN_GC_VERSION, "v");
	expect(&w, 3, CAIRN_GC_YOUNG, "");
	expect_order(&w, 0, 1, -1);
	end(&w);
}

/* ---- pressure ----------------------------------------------------------------------------------
 */

static void decide__pressure_takes_the_least_recently_used(void **state)
{
	(void)state;
	struct world w;
	setup(&w);
	static const int idle[] = {30, 50, 10, -20, 40, 20};
	for (size_t i = 0; i < CAIRN_LEN(idle); i++) add_blob(&w)->used_ns = NOW - idle[i];
	decide(&w, ALL);
	expect_order(&w, 1, 4, 0, 5, 2, 3, -1);
	assert_false(w.plan.relieved);
	decide(&w, 60);
	assert_int_equal(w.plan.n_order, 6);
	assert_true(w.plan.relieved);
	end(&w);
}

static void decide__pressure_stops_within_one_blob(void **state)
{
	(void)state;
	struct world w;
	setup(&w);
	for (int i = 0; i < 4; i++) add_blob(&w)->used_ns = OLD + 1 + i;
	static const struct {
		uint64_t to_free;
		size_t n;
	} want[] = {{0, 0}, {1, 1}, {10, 1}, {11, 2}, {20, 2}, {39, 4}, {40, 4}, {41, 4}};
	for (size_t i = 0; i < CAIRN_LEN(want); i++) {
		decide(&w, want[i].to_free);
		assert_int_equal(w.plan.n_order, want[i].n);
		assert_int_equal(w.plan.relieved, want[i].to_free <= 40);
	}
	end(&w);
}

static void decide__what_goes_anyway_counts_first(void **state)
{
	(void)state;
	struct world w;
	setup(&w);
	add_young(&w);
	add_blob(&w);
	add_young(&w);
	add_hold(&w, CAIRN_GC_PRUNE, "x", 2, -1);
	decide(&w, 20);
	expect(&w, 0, CAIRN_GC_YOUNG, "");
	expect_order(&w, 2, 1, -1);
	decide(&w, 1); /* they go even if less would do */
	expect_order(&w, 2, 1, -1);
	decide(&w, 21);
	expect_order(&w, 2, 1, 0, -1);
	end(&w);
}

static void decide__order_is_by_step_then_by_use(void **state)
{
	(void)state;
	struct world w;
	setup(&w);
	add_young(&w)->used_ns = NOW;
	add_young(&w);
	add_blob(&w);
	add_blob(&w)->used_ns = OLD - 1;
	add_young(&w)->used_ns = NOW;
	add_young(&w);
	add_blob(&w)->used_ns = 1; /* longest unused, but a version keeps it */
	add_hold(&w, CAIRN_GC_PRUNE, "x", 4, 5, -1);
	add_version(&w, "v", 0, 6);
	decide(&w, ALL);
	expect_order(&w, 5, 4, 3, 2, 1, 0, 6, -1);
	end(&w);
}

static void decide__order_does_not_depend_on_the_input(void **state)
{
	(void)state;
	struct world w;
	struct cairn_digest first[MAX_BLOBS];
	setup(&w);
	for (size_t i = 0; i < MAX_BLOBS; i++) add_blob(&w);
	decide(&w, 0);
	for (size_t i = 0; i < MAX_BLOBS; i++) first[i] = w.blobs[w.plan.order[i]].digest;
	for (size_t i = 0; i < MAX_BLOBS / 2; i++) {
		struct cairn_gc_blob b = w.blobs[i];
		w.blobs[i] = w.blobs[MAX_BLOBS - 1 - i];
		w.blobs[MAX_BLOBS - 1 - i] = b;
	}
	decide(&w, 0);
	for (size_t i = 0; i < MAX_BLOBS; i++) {
		const struct cairn_digest *d = &w.blobs[w.plan.order[i]].digest;
		assert_true(cairn_digest_equal(d, &first[i]));
	}
	end(&w);
}

static void decide__sizes_beyond_the_range_add_up_to_its_end(void **state)
{
	(void)state;
	struct world w;
	setup(&w);
	for (int i = 0; i < 3; i++) add_blob(&w)->size = UINT64_C(1) << 63;
	add_young(&w);
	decide(&w, ALL);
	assert_true(w.plan.bytes == UINT64_MAX);
	assert_int_equal(w.plan.n_order, 3);
	end(&w);
}

/* ---- versions under pressure -------------------------------------------------------------------
 */

static void decide__versions_go_when_nothing_else_is_left(void **state)
{
	(void)state;
	struct world w;
	setup(&w);
	add_blob(&w)->used_ns = 1;
	add_young(&w);
	add_version(&w, "v", 0, 0);
	decide(&w, 10);
	expect(&w, 0, CAIRN_GC_VERSION, "v");
	expect_order(&w, 1, -1);
	decide(&w, 11);
	expect(&w, 0, CAIRN_GC_PRESSURE, "v");
	expect_order(&w, 1, 0, -1);
	end(&w);
}

static void decide__versions_go_oldest_first(void **state)
{
	(void)state;
	struct world w;
	setup(&w);
	for (int i = 0; i < 5; i++) add_blob(&w)->used_ns = NOW - i;
	add_version(&w, "d", 30, 0);
	add_version(&w, "c", 20, 1); /* ties: by name, and then as given */
	add_version(&w, "b", 20, 2);
	add_version(&w, "b", 20, 3);
	add_version(&w, "a", 40, 4);
	decide(&w, ALL);
	expect_order(&w, 2, 3, 1, 0, 4, -1);
	expect(&w, 1, CAIRN_GC_PRESSURE, "c");
	decide(&w, 21);
	expect_order(&w, 2, 3, 1, -1);
	expect(&w, 0, CAIRN_GC_VERSION, "d");
	expect(&w, 4, CAIRN_GC_VERSION, "a");
	end(&w);
}

static void decide__shared_layer_goes_with_its_last_version(void **state)
{
	(void)state;
	struct world w;
	setup(&w);
	add_blob(&w)->used_ns = 1; /* shared by both */
	add_blob(&w)->used_ns = 2;
	add_young(&w);
	add_hold(&w, CAIRN_GC_VERSION, "new", 2, 0, -1)->last_ns = 20;
	add_hold(&w, CAIRN_GC_VERSION, "old", 0, 1, -1)->last_ns = 10;
	decide(&w, 1);
	expect(&w, 0, CAIRN_GC_VERSION, "new");
	expect_order(&w, 1, -1);
	decide(&w, 20);
	expect_order(&w, 1, 0, -1);
	expect(&w, 0, CAIRN_GC_PRESSURE, "new");
	expect(&w, 2, CAIRN_GC_VERSION, "new");
	end(&w);
}

static void decide__given_up_version_still_leaves_what_is_held(void **state)
{
	(void)state;
	struct world w;
	setup(&w);
	for (int i = 0; i < 4; i++) add_young(&w);
	w.blobs[0].known = true;
	w.blobs[1].busy = true;
	w.in.sure = false;
	add_hold(&w, CAIRN_GC_VERSION, "v", 0, 1, 2, 3, -1);
	add_hold(&w, CAIRN_GC_LEASE, "l", 2, -1);
	add_hold(&w, CAIRN_GC_PRUNE, "x", 3, -1); /* it is the pressure that takes it */
	decide(&w, ALL);
	expect_order(&w, 3, -1);
	expect(&w, 0, CAIRN_GC_UNSURE, "");
	expect(&w, 1, CAIRN_GC_BUSY, "");
	expect(&w, 2, CAIRN_GC_LEASE, "l");
	expect(&w, 3, CAIRN_GC_PRESSURE, "v");
	end(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(over__percentage_counts_what_is_not_free),
		cmocka_unit_test(over__percentage_at_its_ends),
		cmocka_unit_test(over__percentage_of_a_huge_disk),
		cmocka_unit_test(over__percentage_is_exact_at_random),
		cmocka_unit_test(over__percentage_has_no_min_free),
		cmocka_unit_test(over__absolute_counts_the_own_bytes),
		cmocka_unit_test(over__absolute_has_min_free_for_a_floor),
		cmocka_unit_test(over__unknown_disk_exceeds_only_absolute_marks),
		cmocka_unit_test(why_name__names_each_reason),
		cmocka_unit_test(decide__empty_input_is_an_empty_plan),
		cmocka_unit_test(decide__ttl_begins_at_keep),
		cmocka_unit_test(decide__ttl_with_clocks_at_their_ends),
		cmocka_unit_test(decide__each_fact_alone),
		cmocka_unit_test(decide__stronger_fact_wins),
		cmocka_unit_test(decide__pressure_respects_only_what_is_hard),
		cmocka_unit_test(decide__first_of_a_kind_is_told),
		cmocka_unit_test(decide__needs_may_repeat_or_be_absent),
		cmocka_unit_test(decide__tells_digests_apart),
		cmocka_unit_test(decide__unsure_lets_only_the_unknown_go),
		cmocka_unit_test(decide__prune_spares_what_others_need),
		cmocka_unit_test(decide__prune_and_ttl_take_empty_blobs_pressure_does_not),
		cmocka_unit_test(decide__pressure_takes_the_least_recently_used),
		cmocka_unit_test(decide__pressure_stops_within_one_blob),
		cmocka_unit_test(decide__what_goes_anyway_counts_first),
		cmocka_unit_test(decide__order_is_by_step_then_by_use),
		cmocka_unit_test(decide__order_does_not_depend_on_the_input),
		cmocka_unit_test(decide__sizes_beyond_the_range_add_up_to_its_end),
		cmocka_unit_test(decide__versions_go_when_nothing_else_is_left),
		cmocka_unit_test(decide__versions_go_oldest_first),
		cmocka_unit_test(decide__shared_layer_goes_with_its_last_version),
		cmocka_unit_test(decide__given_up_version_still_leaves_what_is_held),
	};
	return cmocka_run_group_tests_name("cache/gc", tests, NULL, NULL);
}
