/* A swarm at its limits: no place for one more session; a grant that is let go while it is looked
 * at; a node that never has anything to give. */
#include "p2p/fill.h"
#include "support/liar.h"

static int64_t cpu_ns(void)
{
	struct timespec ts;
	assert_int_equal(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts), 0);
	return ts.tv_sec * CAIRN_NS_PER_S + ts.tv_nsec;
}

/* Other fills have all the sessions: the one that has none waits, and does not spin. */
static void sessions__none_left(void **state)
{
	struct cluster *c = *state;
	struct node *a = cluster_add(c), *b = cluster_add(c);
	struct content content = content_new(3 * MIB, 31);
	add_cached(a->store, &content);
	UNTIL(is_announced(c, 1));
	atomic_fetch_add(&b->swarm->n_sessions, CAIRN_SESSIONS_MAX);
	struct cairn_want *want = cairn_swarm_want(b->swarm, &content.digest, content.n, false);
	UNTIL(cairn_want_look(want, NULL, NULL) == CAIRN_WANT_WAITING);
	int64_t cpu_before = cpu_ns(), end_ns = cairn_boot_ns(&cairn_clock_system) + CAIRN_NS_PER_S;
	UNTIL(cairn_boot_ns(&cairn_clock_system) >= end_ns);
	int64_t used_ns = cpu_ns() - cpu_before;
	atomic_fetch_sub(&b->swarm->n_sessions, CAIRN_SESSIONS_MAX);
	assert_int_equal(want_settled(want, false), CAIRN_WANT_HERE);
	cairn_want_release(want);
	assert_true(used_ns < CAIRN_NS_PER_S / 2);
	content_free(&content);
}

/* Whoever fetches lets go at any moment, also while the coordinator looks; then the next one
 * fetches, and nobody else is asked. */
static void grants__are_let_go(void **state)
{
	enum { WANTS = 20 };
	struct cluster *c = *state;
	struct node *node = cluster_add(c);
	struct content content = content_new(2 * MIB, 32);
	struct cairn_want *wants[WANTS];
	for (int i = 0; i < WANTS; i++) {
		wants[i] = cairn_swarm_want(node->swarm, &content.digest, content.n, true);
	}
	for (int i = 0; i < WANTS; i++) {
		assert_int_equal(want_settled(wants[i], true), CAIRN_WANT_GRANTED);
		cairn_want_release(wants[i]);
	}
	UNTIL(stats_of(node).fills == 0);
	assert_int_equal(stats_of(node).grants, WANTS);
	content_free(&content);
}

/* Says that bytes come fast, whatever this machine can do. */
static bool is_doubled(struct cairn_swarm_fill *f)
{
	pthread_mutex_lock(&f->mu);
	if (f->pulling && f->n_sources == 1 && f->n_talking == 1) {
		f->window_ms = cairn_swarm_now_ms() - 1;
		f->window_bytes = f->received - (UINT64_C(64) << 20);
	}
	bool doubled = f->n_talking == 2;
	pthread_mutex_unlock(&f->mu);
	return doubled;
}

/* A fast source that is the only one is talked with twice: both halves are the blob's. */
static void source__is_doubled(void **state)
{
	struct cluster *c = *state;
	struct content content = content_new(100 * MIB + 1, 35);
	struct pull pull = {.never_fetch = true};
	struct cairn_swarm_fill *f = NULL;
	c->opts.upload_limit = 20 * MIB; /* so that it lasts until we have looked */
	struct node *a = cluster_add(c), *b = cluster_add(c);
	add_cached(a->store, &content);
	UNTIL(is_announced(c, 1));
	pull_begin(&pull, b, &content);
	UNTIL((f = cairn_swarm_find_fill(b->swarm, &content.digest)) != NULL);
	UNTIL(is_doubled(f));
	cairn_swarm_fill_unref(f);
	assert_here(&pull);
	/* A piece that one half is late with may have been asked for by the other one, too. */
	assert_in_range(stats_of(a).to_peers_bytes, content.n, content.n + 8 * MIB);
	content_free(&content);
}

/* Beside an honest peer it costs nothing; alone, whoever waits leaves in time, and whoever can
 * fetch fetches. */
static void never_gives(struct cluster *c, enum lie lie)
{
	struct content both = content_new(6 * MIB + 1, 33), lonely = content_new(4 * MIB + 1, 34);
	struct liar liar = {.lie = lie}, only = {.lie = lie};
	struct pull waits = {.never_fetch = true}, leaves = {.never_fetch = true}, fetches = {0};
	c->opts.stall_ms = 1000;
	struct node *honest = cluster_add(c), *node = cluster_add(c), *alone = cluster_add(c);
	add_cached(honest->store, &both);
	UNTIL(is_announced(c, 1));
	liar_start(&liar, c, &both);
	liar_start(&only, c, &lonely);
	pull_begin(&waits, node, &both);
	assert_here(&waits);
	int64_t begin_ns = cairn_boot_ns(&cairn_clock_system);
	pull_begin(&leaves, alone, &lonely);
	assert_int_equal(pull_end(&leaves), CAIRN_WANT_FAILED);
	assert_true(cairn_boot_ns(&cairn_clock_system) - begin_ns < 10 * CAIRN_NS_PER_S);
	pull_begin(&fetches, alone, &lonely);
	assert_here(&fetches);
	assert_true(fetches.granted);
	liar_stop(&liar);
	liar_stop(&only);
	content_free(&both);
	content_free(&lonely);
}

static void peer__has_a_nameless_list(void **state)
{
	never_gives(*state, NAMELESS);
}

static void peer__gets_it_for_ever(void **state)
{
	never_gives(*state, EMPTY);
}

static void peer__is_busy_for_ever(void **state)
{
	never_gives(*state, BUSY);
}

int main(void)
{
	cairn_log_set_level(CAIRN_LOG_ERROR);
#define TEST(f) cmocka_unit_test_setup_teardown(f, cluster_setup, cluster_teardown)
	const struct CMUnitTest tests[] = {
		TEST(sessions__none_left),	 TEST(grants__are_let_go),
		TEST(peer__has_a_nameless_list), TEST(peer__gets_it_for_ever),
		TEST(peer__is_busy_for_ever),	 TEST(source__is_doubled),
	};
	return cmocka_run_group_tests_name("p2p/swarm_limits", tests, NULL, NULL);
}
