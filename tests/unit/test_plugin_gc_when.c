/* When passes come, and what becomes of them while containerd answers badly, somebody else's pass
 * runs, or it is time to stop: the thread, beside a containerd that is played. */
#include "plugin/gc.h"
#include "support/containerd_fixture.h"

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

/* Poll until cond holds; fails the test after 20 s. */
#define UNTIL(cond)                                                                                \
	do {                                                                                       \
		int64_t until_ = cairn_boot_ns(&cairn_clock_system) + 20 * CAIRN_NS_PER_S;         \
		while (!(cond)) {                                                                  \
			if (cairn_boot_ns(&cairn_clock_system) > until_) {                         \
				fail_msg("never came true: %s", #cond);                            \
			}                                                                          \
			usleep(500);                                                               \
		}                                                                                  \
	} while (0)

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

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(codes__of_containerd_make_no_pass_sure),
	};
	return cmocka_run_group_tests_name("plugin/gc", tests, NULL, NULL);
}
