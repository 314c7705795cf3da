/* Garbage collection's rules on random inputs, against a slow model that follows the words of
 * cache/gc.h. */
#include "support/gc.h"

/* The header's words, step by step, looking at everything each time. */
struct model {
	const struct cairn_gc_input *in;
	struct cairn_gc_decision decisions[MAX_BLOBS];
	bool needs[MAX_HOLDS][MAX_BLOBS];
	bool gone[MAX_BLOBS], given_up[MAX_HOLDS];
	size_t order[MAX_BLOBS], n_order;
	uint64_t bytes;
};

/* The first hold of this kind that needs the blob, or NULL. */
static const struct cairn_gc_hold *hold_of(const struct model *m, enum cairn_gc_why why, size_t k)
{
	for (size_t h = 0; h < m->in->n_holds; h++) {
		if (m->in->holds[h].why == why && m->needs[h][k]) return &m->in->holds[h];
	}
	return NULL;
}

/* Rules 1 and 2, and the kept versions of rule 4; else young. */
static struct cairn_gc_decision model_stay(const struct model *m, size_t k)
{
	const struct cairn_gc_blob *b = &m->in->blobs[k];
	if (b->referenced) return (struct cairn_gc_decision){CAIRN_GC_REFERENCED, ""};
	if (b->busy) return (struct cairn_gc_decision){CAIRN_GC_BUSY, ""};
	static const enum cairn_gc_why hard[] = {CAIRN_GC_LEASE, CAIRN_GC_CONTAINER, CAIRN_GC_IMAGE,
						 CAIRN_GC_PIN};
	for (size_t i = 0; i < CAIRN_LEN(hard); i++) {
		const struct cairn_gc_hold *h = hold_of(m, hard[i], k);
		if (h != NULL) return (struct cairn_gc_decision){h->why, h->what};
	}
	if (!m->in->sure && b->known) return (struct cairn_gc_decision){CAIRN_GC_UNSURE, ""};
	const struct cairn_gc_hold *version = hold_of(m, CAIRN_GC_VERSION, k);
	if (version != NULL) return (struct cairn_gc_decision){version->why, version->what};
	return (struct cairn_gc_decision){CAIRN_GC_YOUNG, ""};
}

static void model_evict(struct model *m, size_t k, enum cairn_gc_why why, const char *what)
{
	m->gone[k] = true;
	m->order[m->n_order++] = k;
	m->decisions[k] = (struct cairn_gc_decision){why, what};
	uint64_t left = UINT64_MAX - m->bytes, size = m->in->blobs[k].size;
	m->bytes += size < left ? size : left;
}

typedef bool may_go(const struct model *m, size_t k);

/* The longest unused blob that may go, or n_blobs. */
static size_t model_next(const struct model *m, may_go *may)
{
	size_t best = m->in->n_blobs;
	for (size_t k = 0; k < m->in->n_blobs; k++) {
		if (m->gone[k] || !may(m, k)) continue;
		if (best == m->in->n_blobs) best = k;
		const struct cairn_gc_blob *a = &m->in->blobs[k], *b = &m->in->blobs[best];
		if (a->used_ns < b->used_ns || (a->used_ns == b->used_ns &&
						cairn_digest_compare(&a->digest, &b->digest) < 0)) {
			best = k;
		}
	}
	return best;
}

static bool is_free(const struct model *m, size_t k)
{
	return m->decisions[k].why == CAIRN_GC_YOUNG;
}

static bool is_asked_for(const struct model *m, size_t k)
{
	return is_free(m, k) && hold_of(m, CAIRN_GC_PRUNE, k) != NULL;
}

static bool is_expired(const struct model *m, size_t k)
{
	int64_t idle = m->in->now_ns - m->in->blobs[k].used_ns; /* small numbers, here */
	return is_free(m, k) && (idle > 0 ? idle : 0) >= m->in->keep_ns;
}

static bool is_worth_it(const struct model *m, size_t k)
{
	return is_free(m, k) && m->in->blobs[k].size > 0;
}

static bool is_given_up(const struct model *m, size_t k)
{
	if (m->decisions[k].why != CAIRN_GC_VERSION || m->in->blobs[k].size == 0) return false;
	for (size_t h = 0; h < m->in->n_holds; h++) {
		bool version = m->in->holds[h].why == CAIRN_GC_VERSION;
		if (version && m->needs[h][k] && !m->given_up[h]) return false;
	}
	return true;
}

/* The version to be given up next, or n_holds. */
static size_t model_version(const struct model *m)
{
	size_t best = m->in->n_holds;
	for (size_t i = 0; i < m->in->n_holds; i++) {
		const struct cairn_gc_hold *a = &m->in->holds[i], *b = &m->in->holds[best];
		if (a->why != CAIRN_GC_VERSION || m->given_up[i]) continue;
		if (best == m->in->n_holds || a->last_ns < b->last_ns ||
		    (a->last_ns == b->last_ns && strcmp(a->what, b->what) < 0)) {
			best = i;
		}
	}
	return best;
}

static void model_evict_all(struct model *m, may_go *may, enum cairn_gc_why why)
{
	for (size_t k; (k = model_next(m, may)) < m->in->n_blobs;) {
		const struct cairn_gc_hold *prune = hold_of(m, CAIRN_GC_PRUNE, k);
		model_evict(m, k, why, why == CAIRN_GC_PRUNE ? prune->what : "");
	}
}

static void model_relieve(struct model *m, may_go *may, const char *what)
{
	size_t k;
	while (m->bytes < m->in->to_free && (k = model_next(m, may)) < m->in->n_blobs) {
		model_evict(m, k, CAIRN_GC_PRESSURE, what);
	}
}

static void model_decide(struct model *m, const struct cairn_gc_input *in)
{
	*m = (struct model){.in = in};
	for (size_t h = 0; h < in->n_holds; h++) {
		for (size_t k = 0; k < in->n_blobs; k++) {
			for (size_t i = 0; i < in->holds[h].n; i++) {
				const struct cairn_digest *need = &in->holds[h].needs[i];
				if (cairn_digest_equal(need, &in->blobs[k].digest)) {
					m->needs[h][k] = true;
				}
			}
		}
	}
	for (size_t k = 0; k < in->n_blobs; k++) m->decisions[k] = model_stay(m, k);
	model_evict_all(m, is_asked_for, CAIRN_GC_PRUNE);
	model_evict_all(m, is_expired, CAIRN_GC_TTL);
	model_relieve(m, is_worth_it, "");
	for (size_t h; (h = model_version(m)) < in->n_holds;) {
		m->given_up[h] = true;
		model_relieve(m, is_given_up, in->holds[h].what);
	}
}

/* Small numbers, so that everything meets: few digests, times, sizes and names. */
static void random_world(struct world *w, uint64_t *x)
{
	static const char *const texts[] = {"a", "b", "c", ""};
	static const enum cairn_gc_why kinds[] = {
		CAIRN_GC_LEASE,	  CAIRN_GC_CONTAINER, CAIRN_GC_IMAGE,	CAIRN_GC_PIN,
		CAIRN_GC_PRUNE,	  CAIRN_GC_VERSION,   CAIRN_GC_VERSION, CAIRN_GC_VERSION,
		CAIRN_GC_VERSION, CAIRN_GC_VERSION,
	};
	setup(w);
	w->in.n_blobs = next_random(x) % 25;
	for (size_t k = 0; k < w->in.n_blobs; k++) {
		struct cairn_gc_blob *b = &w->blobs[k];
		b->digest = digest((unsigned)k);
		b->size = next_random(x) % 6;
		if (next_random(x) % 200 == 0) b->size = UINT64_MAX - next_random(x) % 3;
		b->used_ns = NOW + 100 - (int64_t)(next_random(x) % 12) * 100;
		b->referenced = next_random(x) % 12 == 0;
		b->busy = next_random(x) % 12 == 0;
		b->known = next_random(x) % 2;
		size_t other = next_random(x) % (k + 1); /* any order */
		struct cairn_gc_blob moved = *b;
		*b = w->blobs[other];
		w->blobs[other] = moved;
	}
	w->in.n_holds = next_random(x) % 9;
	for (size_t h = 0; h < w->in.n_holds; h++) {
		struct cairn_gc_hold *hold = &w->holds[h];
		hold->why = kinds[next_random(x) % CAIRN_LEN(kinds)];
		hold->what = texts[next_random(x) % CAIRN_LEN(texts)];
		hold->last_ns = (int64_t)(next_random(x) % 4) - 1;
		hold->needs = w->needs[h];
		hold->n = next_random(x) % 9;
		for (size_t i = 0; i < hold->n; i++) {
			w->needs[h][i] = digest((unsigned)(next_random(x) % 28));
		}
	}
	w->in.sure = next_random(x) % 3 != 0;
	w->in.keep_ns = (int64_t)(next_random(x) % 12) * 100;
	static const uint64_t most[] = {1, 1, 20, 40, 80};
	uint64_t below = most[next_random(x) % CAIRN_LEN(most)];
	w->in.to_free = next_random(x) % below;
	if (next_random(x) % 20 == 0) w->in.to_free = UINT64_MAX - next_random(x) % 3;
}

/* Pressure took no blob that it could have left. */
static void check_minimal(const struct world *w)
{
	uint64_t before = 0;
	for (size_t i = 0; i < w->plan.n_order; i++) {
		size_t k = w->plan.order[i];
		if (w->plan.decisions[k].why == CAIRN_GC_PRESSURE) {
			assert_true(before < w->in.to_free);
		}
		before += w->blobs[k].size < UINT64_MAX - before ? w->blobs[k].size
								 : UINT64_MAX - before;
	}
}

static void check_against_model(const struct world *w)
{
	struct model m;
	model_decide(&m, &w->in);
	for (size_t k = 0; k < w->in.n_blobs; k++) {
		expect(w, k, m.decisions[k].why, m.decisions[k].what);
		if (hold_of(&m, CAIRN_GC_LEASE, k) != NULL ||
		    hold_of(&m, CAIRN_GC_PIN, k) != NULL ||
		    hold_of(&m, CAIRN_GC_CONTAINER, k) != NULL ||
		    hold_of(&m, CAIRN_GC_IMAGE, k) != NULL) {
			assert_false(cairn_gc_evicts(w->plan.decisions[k].why));
		}
	}
	assert_int_equal(w->plan.n_order, m.n_order);
	for (size_t i = 0; i < m.n_order; i++) assert_int_equal(w->plan.order[i], m.order[i]);
	assert_true(w->plan.bytes == m.bytes);
}

static void decide__random_inputs_as_the_model_says(void **state)
{
	(void)state;
	uint64_t x = test_seed();
	size_t seen[CAIRN_GC_WHYS] = {0}, given_up = 0;
	for (int round = 0; round < 10000; round++) {
		struct world w;
		random_world(&w, &x);
		decide(&w, w.in.to_free);
		check_against_model(&w);
		check_minimal(&w);
		for (size_t k = 0; k < w.in.n_blobs; k++) {
			const struct cairn_gc_decision *d = &w.plan.decisions[k];
			seen[d->why]++;
			given_up += d->why == CAIRN_GC_PRESSURE && d->what[0] != '\0';
		}
		end(&w);
	}
	for (size_t why = 1; why < CAIRN_GC_WHYS; why++) {
		assert_int_equal(seen[why] > 100, why != CAIRN_GC_LATER); /* no decision */
	}
	assert_true(given_up > 100);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(decide__random_inputs_as_the_model_says),
	};
	return cmocka_run_group_tests_name("cache/gc, random", tests, NULL, NULL);
}
