/* When passes come, and what becomes of them while containerd answers badly, somebody else's pass
 * runs, or it is time to stop: the thread, beside a containerd that is played. */
#include "plugin/gc.h"
#include "support/containerd_fixture.h"

#include <time.h>
#include <unistd.h>

struct world {
	struct node *n;
	struct fake fake;
	struct cairn_runtime *rt;
	struct cairn_gc *gc;
	struct cairn_gc_opts opts;
};

static int setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	w->n = node_new(true, false);
	fake_init(&w->fake, w->n);
	w->opts = (struct cairn_gc_opts){
		.cache = w->n->cache,
		.rules = {.marks = {{false, UINT64_MAX}, {false, UINT64_MAX}, {false, 0}}},
		.interval_ms = 3600000,
		.tick_ms = 5,
		.log = "",
	};
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;
	cairn_gc_stop(w->gc);
	cairn_runtime_stop(w->rt);
	fake_stop(&w->fake);
	node_free(w->n);
	free(w);
	return 0;
}

static void begin(struct world *w)
{
	struct cairn_runtime_opts opts = {
		.rpc = w->n->rpc,
		.cache = w->n->cache,
		.address = w->fake.socket,
		.interval_ms = 3600000,
		.retry_ms = 3600000,
	};
	OK(cairn_runtime_start(&opts, &w->rt, &node_err));
	w->opts.runtime = w->rt;
	OK(cairn_gc_start(&w->opts, &w->gc, &node_err));
}

/* A blob that containerd had a record of, and has no more. */
static struct cairn_digest put_released(struct world *w, uint8_t seed)
{
	struct cairn_digest digest = put(w->n, seed);
	cairn_cache_release(w->n->cache, &digest);
	return digest;
}

/* ---- what containerd answers ---- */

static void codes__of_containerd_make_no_pass_sure(void **state)
{
	struct world *w = *state;
	const enum cairn_code codes[] = {CAIRN_FAILED_PRECONDITION, CAIRN_CANCELLED,
					 CAIRN_INTERNAL};
	struct cairn_digest digest = put_released(w, 1);
	fake_start(&w->fake, w->n);
	w->fake.broken = ASK_NAMESPACES;
	begin(w);
	for (size_t i = 0; i < CAIRN_LEN(codes); i++) {
		const struct cairn_gc_request request = {0};
		struct cairn_gc_pass pass;
		w->fake.broken_code = codes[i];
		OK(cairn_gc_run(w->gc, &request, &pass, &node_err));
		assert_false(pass.summary.sure);
		assert_non_null(strstr(pass.summary.unsure_why, "this one is broken"));
		assert_int_equal(pass.summary.evicted_blobs, 0);
		cairn_gc_pass_fini(&pass);
	}
	assert_int_equal(state_of(w->n, &digest), CAIRN_BLOB_CACHED);
}

/* ---- whose turn it is ---- */

struct asking {
	pthread_t thread;
	struct world *w;
	_Atomic bool stop, ended;
	enum cairn_code code;
};

static bool until_told(void *asking)
{
	return !((struct asking *)asking)->stop;
}

static void *ask_for_a_pass(void *arg)
{
	struct asking *a = arg;
	const struct cairn_gc_request request = {.go_on = until_told, .arg = a};
	struct cairn_gc_pass pass;
	struct cairn_err err;
	a->code = cairn_gc_run(a->w->gc, &request, &pass, &err);
	if (a->code == CAIRN_OK) cairn_gc_pass_fini(&pass);
	a->ended = true;
	return NULL;
}

/* A pass hangs, and others wait behind it: they end when they, or all, are told to. */
static void turns__are_not_waited_for_by_who_is_to_stop(void **state)
{
	struct world *w = *state;
	struct asking asking[2] = {{.w = w}, {.w = w}};
	fake_start(&w->fake, w->n);
	w->fake.hang = ASK_NAMESPACES;
	w->opts.interval_ms = 1;
	begin(w);
	UNTIL(w->fake.asked[ASK_NAMESPACES] > 0);
	usleep(50000); /* the thread's own pass has its turn */
	for (size_t i = 0; i < 2; i++) {
		pthread_create(&asking[i].thread, NULL, ask_for_a_pass, &asking[i]);
	}
	usleep(50000);
	assert_false(asking[0].ended || asking[1].ended);
	asking[0].stop = true;
	UNTIL(asking[0].ended);
	assert_false(asking[1].ended);
	cairn_gc_cancel(w->gc);
	UNTIL(asking[1].ended);
	for (size_t i = 0; i < 2; i++) {
		pthread_join(asking[i].thread, NULL);
		assert_int_equal(asking[i].code, CAIRN_CANCELLED);
	}
	cairn_runtime_cancel(w->rt);
}

/* ---- looks ---- */

static void *look(void *gc)
{
	return cairn_gc_look(gc);
}

/* Each is of after it was asked for; those who ask at the same time share. */
static void looks__are_fresh_and_shared(void **state)
{
	struct world *w = *state;
	pthread_t threads[32];
	begin(w);
	put(w->n, 1);
	struct cairn_gc_look *one = cairn_gc_look(w->gc);
	assert_int_equal(one->pass.n_blobs, 1);
	for (size_t i = 0; i < CAIRN_LEN(threads); i++) {
		assert_int_equal(pthread_create(&threads[i], NULL, look, w->gc), 0);
	}
	for (unsigned seed = 2; seed < 10; seed++) {
		put(w->n, seed);
		struct cairn_gc_look *other = cairn_gc_look(w->gc);
		assert_int_equal(other->pass.n_blobs, seed);
		cairn_gc_look_unref(other);
	}
	for (size_t i = 0; i < CAIRN_LEN(threads); i++) {
		void *ret;
		assert_int_equal(pthread_join(threads[i], &ret), 0);
		cairn_gc_look_unref(ret);
	}
	assert_int_equal(one->pass.n_blobs, 1);
	cairn_gc_look_unref(one);
}

/* ---- Deletes ---- */

static struct cairn_gc_status status(struct world *w)
{
	struct cairn_gc_status st;
	cairn_gc_get_status(w->gc, &st);
	return st;
}

/* Above the low mark, and so only a Delete's pass frees anything. */
static void begin_above_low(struct world *w)
{
	fake_start(&w->fake, w->n);
	w->opts.rules.keep_ns = INT64_C(3600) * CAIRN_NS_PER_S;
	w->opts.rules.marks.low = (struct cairn_gc_mark){false, 1};
	begin(w);
	cairn_runtime_connected(w->rt, getpid());
}

static void deletes__are_not_lost_when_the_interval_is_over(void **state)
{
	struct world *w = *state;
	struct cairn_digest digest = put_released(w, 1);
	w->opts.interval_ms = 200; /* while the Deletes settle */
	begin_above_low(w);
	cairn_gc_deleted(w->gc);
	UNTIL(status(w).passes > 0);
	assert_int_equal(status(w).last.trigger, CAIRN_GC_BY_DELETE);
	assert_int_equal(status(w).evicted_blobs[CAIRN_GC_PRESSURE], 1);
	assert_int_equal(state_of(w->n, &digest), 0);
}

static int64_t now_ms(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* Nothing may go: the next pass would find the same, so two a second are enough. */
static void deletes__that_free_nothing_are_not_looked_at_each_time(void **state)
{
	struct world *w = *state;
	put(w->n, 1);
	begin_above_low(w);
	int64_t begun = now_ms();
	for (int i = 0; i < 60; i++) {
		cairn_gc_deleted(w->gc);
		usleep(50000);
	}
	struct cairn_gc_status st = status(w);
	assert_in_range(st.passes, 1, 1 + (now_ms() - begun) / 500);
	assert_false(st.last.relieved);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(codes__of_containerd_make_no_pass_sure),
		TEST(turns__are_not_waited_for_by_who_is_to_stop),
		TEST(looks__are_fresh_and_shared),
		TEST(deletes__are_not_lost_when_the_interval_is_over),
		TEST(deletes__that_free_nothing_are_not_looked_at_each_time),
	};
	return cmocka_run_group_tests_name("plugin/gc", tests, NULL, NULL);
}
