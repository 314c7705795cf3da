/* What the tests of garbage collection's rules share: an input that grows line by line, and what
 * was decided about it. */
#ifndef CAIRN_TESTS_SUPPORT_GC_H
#define CAIRN_TESTS_SUPPORT_GC_H

#include "cache/gc.h"
#include "support/store.h"

#define NOW 1000000
#define KEEP 1000
#define OLD (NOW - KEEP) /* unused for just long enough */
#define ALL UINT64_MAX	 /* pressure that takes whatever may go */

#define MAX_BLOBS 32
#define MAX_HOLDS 16
#define MAX_NEEDS 12

struct world {
	struct cairn_gc_blob blobs[MAX_BLOBS];
	struct cairn_gc_hold holds[MAX_HOLDS];
	struct cairn_digest needs[MAX_HOLDS][MAX_NEEDS];
	struct cairn_gc_input in;
	struct cairn_gc_plan plan;
};

/* Digest k. Most differ only in the last byte, or in the algorithm: the first bytes are not enough
 * to tell them apart. */
static UNUSED struct cairn_digest digest(unsigned k)
{
	struct cairn_digest d = {.alg = k % 3 == 0 ? CAIRN_SHA512 : CAIRN_SHA256};
	d.bytes[3] = (uint8_t)(k % 5 == 0);
	d.bytes[cairn_alg_bytes(d.alg) - 1] = (uint8_t)(255 - k);
	return d;
}

static UNUSED void setup(struct world *w)
{
	memset(w, 0, sizeof(*w));
	w->in = (struct cairn_gc_input){
		.blobs = w->blobs,
		.holds = w->holds,
		.sure = true,
		.now_ns = NOW,
		.keep_ns = KEEP,
	};
}

/* Blob k, where k is the number of blobs so far; size 10 and old enough to go. */
static UNUSED struct cairn_gc_blob *add_blob(struct world *w)
{
	struct cairn_gc_blob *b = &w->blobs[w->in.n_blobs];
	assert_true(w->in.n_blobs < MAX_BLOBS);
	b->digest = digest((unsigned)w->in.n_blobs++);
	b->size = 10;
	b->used_ns = OLD;
	return b;
}

static UNUSED struct cairn_gc_blob *add_young(struct world *w)
{
	struct cairn_gc_blob *b = add_blob(w);
	b->used_ns = NOW - 1;
	return b;
}

/* A hold on the blobs whose numbers follow, ended by -1. */
static UNUSED struct cairn_gc_hold *add_hold(struct world *w, enum cairn_gc_why why,
					     const char *what, ...)
{
	struct cairn_gc_hold *h = &w->holds[w->in.n_holds];
	struct cairn_digest *needs = w->needs[w->in.n_holds++];
	va_list ap;
	assert_true(w->in.n_holds <= MAX_HOLDS);
	*h = (struct cairn_gc_hold){.why = why, .what = what, .needs = needs};
	va_start(ap, what);
	for (int k; (k = va_arg(ap, int)) >= 0;) {
		assert_true(h->n < MAX_NEEDS);
		needs[h->n++] = digest((unsigned)k);
	}
	va_end(ap);
	return h;
}

static UNUSED void add_version(struct world *w, const char *what, int64_t last_ns, int k)
{
	add_hold(w, CAIRN_GC_VERSION, what, k, -1)->last_ns = last_ns;
}

/* What holds for every plan. */
static UNUSED void check_plan(const struct world *w)
{
	const struct cairn_gc_plan *plan = &w->plan;
	bool gone[MAX_BLOBS] = {false};
	uint64_t bytes = 0;
	for (size_t i = 0; i < plan->n_order; i++) {
		size_t k = plan->order[i];
		assert_true(k < w->in.n_blobs);
		assert_false(gone[k]);
		gone[k] = true;
		bytes = bytes > UINT64_MAX - w->blobs[k].size ? UINT64_MAX
							      : bytes + w->blobs[k].size;
	}
	for (size_t k = 0; k < w->in.n_blobs; k++) {
		assert_int_equal(cairn_gc_evicts(plan->decisions[k].why), gone[k]);
		assert_non_null(plan->decisions[k].what);
		if (w->blobs[k].referenced || w->blobs[k].busy) assert_false(gone[k]);
	}
	assert_true(plan->bytes == bytes);
	assert_int_equal(plan->relieved, bytes >= w->in.to_free);
}

static UNUSED void decide(struct world *w, uint64_t to_free)
{
	cairn_gc_plan_fini(&w->plan);
	w->in.to_free = to_free;
	cairn_gc_decide(&w->in, &w->plan);
	check_plan(w);
}

static UNUSED void expect(const struct world *w, size_t k, enum cairn_gc_why why, const char *what)
{
	assert_string_equal(cairn_gc_why_name(w->plan.decisions[k].why), cairn_gc_why_name(why));
	assert_string_equal(w->plan.decisions[k].what, what);
}

/* The blobs that go, in order, ended by -1. */
static UNUSED void expect_order(const struct world *w, ...)
{
	va_list ap;
	size_t n = 0;
	va_start(ap, w);
	for (int k; (k = va_arg(ap, int)) >= 0; n++) {
		assert_true(n < w->plan.n_order);
		assert_int_equal(w->plan.order[n], k);
	}
	va_end(ap);
	assert_int_equal(w->plan.n_order, n);
}

static UNUSED void end(struct world *w)
{
	cairn_gc_plan_fini(&w->plan);
	assert_null(w->plan.decisions);
	assert_null(w->plan.order);
	assert_int_equal(w->plan.n_order, 0);
	assert_int_equal(w->plan.bytes, 0);
	assert_false(w->plan.relieved);
}

#endif
