/* A pass on a real store, with a listing that the test makes up. */
#ifndef CAIRN_TESTS_SUPPORT_GC_FIXTURE_H
#define CAIRN_TESTS_SUPPORT_GC_FIXTURE_H

#include "support/pass.h"

#define APP "reg.example/app:v1"
#define KEEP (100 * SECOND)

struct fixture {
	struct store *s;
	struct image a, b;
	struct cairn_listing *l;
	struct cairn_gc_rules rules;
	struct cairn_gc_pass_opts opts;
	struct cairn_gc_pass pass;
};

static struct fixture fx;
static struct cairn_err err;

static UNUSED struct cairn_gc_mark bytes(uint64_t n)
{
	return (struct cairn_gc_mark){false, n};
}

static UNUSED int set_up(void **state)
{
	if (store_setup_open(state) != 0) return -1;
	fx = (struct fixture){.s = *state, .a = image_new(1), .b = image_new(2)};
	fx.l = cairn_listing_new();
	fx.rules = (struct cairn_gc_rules){
		.keep_ns = KEEP, .marks = {bytes(UINT64_MAX), bytes(UINT64_MAX), bytes(0)}};
	fx.opts = (struct cairn_gc_pass_opts){
		.cache = fx.s->cache,
		.clock = &fx.s->clock.clock,
		.rules = &fx.rules,
		.listing = fx.l,
		.sure = true,
	};
	return 0;
}

static UNUSED int tear_down(void **state)
{
	cairn_gc_pass_fini(&fx.pass);
	cairn_listing_unref(fx.l);
	image_free(&fx.a);
	image_free(&fx.b);
	return store_teardown(state);
}

static UNUSED const struct cairn_gc_summary *run(void)
{
	uint64_t n = 0;
	int64_t begun = fx.s->clock.real_ns;
	cairn_gc_pass_fini(&fx.pass);
	cairn_gc_pass_run(&fx.opts, &fx.pass);
	for (int why = 1; why < CAIRN_GC_WHYS; why++) n += fx.pass.summary.blobs[why];
	assert_int_equal(n, fx.pass.n_blobs);
	assert_int_equal(fx.pass.summary.trigger, fx.opts.trigger);
	assert_int_equal(fx.pass.summary.sure, fx.opts.sure);
	assert_int_equal(fx.pass.summary.begun_real_ns, begun);
	return &fx.pass.summary;
}

/* What became of the blob, and why; it is here or not as that says. */
static UNUSED void expect(const struct content *c, enum cairn_gc_why why, const char *what)
{
	const struct cairn_gc_decision *d = cairn_gc_pass_find(&fx.pass, &c->digest);
	char path[512];
	assert_non_null(d);
	assert_string_equal(cairn_gc_why_name(d->why), cairn_gc_why_name(why));
	assert_string_equal(d->what, what);
	bool here = fx.pass.summary.dry_run || !cairn_gc_evicts(why);
	assert_int_equal(state_of(fx.s, &c->digest) != 0, here);
	assert_int_equal(exists(blob_path(fx.s, &c->digest, path)), here);
}

static UNUSED void expect_image(const struct image *im, enum cairn_gc_why why, const char *what)
{
	expect(&im->manifest, why, what);
	expect(&im->config, why, what);
	expect(&im->layers[0], why, what);
	expect(&im->layers[1], why, what);
}

static UNUSED void put_old_image(const struct image *im)
{
	image_put(fx.s, im);
	clock_move(fx.s, KEEP);
}

static UNUSED uint64_t sum_of(const struct image *im)
{
	return im->manifest.n + im->config.n + im->layers[0].n + im->layers[1].n;
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

#endif
