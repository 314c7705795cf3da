/* A real store and its model side by side, and what compares them. */
#ifndef CAIRN_TESTS_SUPPORT_GC_WORLD_H
#define CAIRN_TESTS_SUPPORT_GC_WORLD_H

#include "support/gc_model.h"

struct reader {
	struct cairn_blob *blob; /* NULL: closed, the view may live on */
	struct cairn_view view;
	int of; /* -1: unused */
};

struct world {
	struct store s;
	struct model m;
	uint64_t x;
	int64_t offset_ns; /* store time minus boot time */
	struct reader readers[M_SLOTS];
	struct cairn_ingest *sessions[M_SLOTS];
	size_t op, passes, unsure, seen[CAIRN_GC_WHYS], given_up, ingests, versions, restarts;
	size_t prefilled;
};

static struct cairn_err err;

static UNUSED unsigned below(struct world *w, unsigned n)
{
	return (unsigned)(next_random(&w->x) % n);
}

static UNUSED int64_t between(struct world *w, int64_t from, int64_t to)
{
	return from + (int64_t)(next_random(&w->x) % (uint64_t)(to - from + 1));
}

static UNUSED int64_t now(const struct world *w)
{
	return w->s.clock.boot_ns + w->offset_ns;
}

/* No two things happen at once. */
static UNUSED int64_t tick(struct world *w)
{
	clock_move(&w->s, 1 + below(w, 1000));
	return now(w);
}

static UNUSED int random_root(struct world *w)
{
	if (below(w, 3) == 0) return M_BLOBS - 1 - (int)below(w, M_INDEXES);
	return M_LAYERS + 1 + 2 * (int)below(w, M_IMAGES);
}

/* ---- the store is as the model says ---- */

static UNUSED int find_blob(const struct world *w, const struct cairn_digest *d)
{
	for (int i = 0; i < M_BLOBS; i++) {
		if (cairn_digest_equal(&w->m.blobs[i].c.digest, d)) return i;
	}
	fail_msg("a blob that nobody put there");
	return -1;
}

static UNUSED void check_blobs(struct world *w)
{
	static struct cairn_gc_blob list[M_BLOBS + 1];
	struct cairn_digest start = {0};
	struct cairn_gc_disk disk;
	size_t here = 0, n = cairn_cache_next_gc(w->s.cache, &start, list, M_BLOBS + 1);
	for (int i = 0; i < M_BLOBS; i++) here += w->m.blobs[i].here;
	assert_int_equal(n, here);
	for (size_t i = 0; i < n; i++) {
		const struct m_blob *b = &w->m.blobs[find_blob(w, &list[i].digest)];
		assert_true(b->here);
		assert_int_equal(list[i].size, b->c.n);
		assert_int_equal(list[i].referenced, b->refd);
		assert_int_equal(list[i].known, b->known);
		assert_int_equal(list[i].busy, b->busy > 0);
		assert_int_equal(list[i].used_ns, b->used);
	}
	assert_int_equal(count_files(&w->s, "blobs/sha256"), here);
	cairn_cache_disk(w->s.cache, &disk);
	assert_int_equal(disk.own, model_own(&w->m));
}

static UNUSED void check_history(struct world *w)
{
	struct cairn_version *list;
	struct cairn_pin *pins;
	size_t alive = 0, n = cairn_cache_versions(w->s.cache, NULL, &list);
	assert_int_equal(n, w->m.n_versions);
	for (size_t i = 0; i < n; i++) {
		int name = 0;
		while (strcmp(w->m.names[name], list[i].name) != 0) name++;
		const struct m_version *v = version_of(&w->m, name, find_blob(w, &list[i].root));
		assert_non_null(v);
		assert_int_equal(list[i].first_ns, v->first);
		assert_int_equal(list[i].last_ns, v->last);
		assert_non_null(list[i].needs);
		assert_int_equal(list[i].needs->complete, v->complete);
		assert_int_equal(list[i].needs->n, set_size(&v->needs));
		for (size_t k = 0; k < list[i].needs->n; k++) {
			assert_true(v->needs.in[find_blob(w, &list[i].needs->list[k].digest)]);
		}
	}
	cairn_versions_free(list, n);
	n = cairn_cache_pins(w->s.cache, &pins);
	cairn_pins_free(pins, n);
	for (int i = 0; i < M_SLOTS; i++) {
		const struct m_pin *pin = &w->m.pins[i];
		alive += pin->on && (pin->until == 0 || pin->until > now(w));
	}
	assert_int_equal(n, alive);
}

/* ---- a pass did what the model says ---- */

static UNUSED struct cairn_listing *listing_of(const struct world *w, const struct m_claims *c)
{
	struct cairn_listing *l = cairn_listing_new();
	char id[32];
	for (int i = 0; i < M_RECORDS; i++) {
		const struct m_image *image = &c->images[i];
		if (image->name < 0) continue;
		list_image(l, image->ns == 0 ? "k8s.io" : "default", w->m.names[image->name],
			   &w->m.blobs[image->root].c.digest);
	}
	for (int i = 0; i < M_SLOTS; i++) {
		const struct m_lease *lease = &c->leases[i];
		const struct m_container *container = &c->containers[i];
		struct cairn_digest content[4];
		for (int k = 0; k < lease->n; k++)
			content[k] = w->m.blobs[lease->content[k]].c.digest;
		snprintf(id, sizeof(id), "id-%d", i);
		if (lease->on) {
			list_lease(l, "k8s.io", id, lease->flat, lease->expires_real, content,
				   (size_t)lease->n);
		}
		if (container->on) {
			list_container(l, "k8s.io", id, w->m.names[container->name],
				       container->created_real);
		}
	}
	return l;
}

static UNUSED void check_pass(struct world *w, const struct cairn_gc_pass *pass,
			      const struct m_pass *want)
{
	uint64_t blobs[CAIRN_GC_WHYS] = {0}, bytes[CAIRN_GC_WHYS] = {0}, gone = 0, gone_bytes = 0;
	const struct cairn_gc_summary *s = &pass->summary;
	for (size_t i = 0; i < pass->n_blobs; i++) {
		int at = find_blob(w, &pass->blobs[i].digest);
		const struct cairn_gc_decision *d = &pass->plan.decisions[i];
		if (d->why != want->why[at]) {
			fail_msg("operation %zu, blob %d: %s %s, want %s", w->op, at,
				 cairn_gc_why_name(d->why), d->what,
				 cairn_gc_why_name(want->why[at]));
		}
		assert_int_equal(pass->gone[i], cairn_gc_evicts(d->why));
		if (pass->gone[i]) assert_false(w->m.blobs[at].refd || w->m.blobs[at].busy > 0);
		bool named = (d->why >= CAIRN_GC_LEASE && d->why <= CAIRN_GC_PIN) ||
			     d->why == CAIRN_GC_VERSION || d->why == CAIRN_GC_PRUNE;
		if (named) assert_true(d->what[0] != '\0');
		w->given_up += d->why == CAIRN_GC_PRESSURE && d->what[0] != '\0';
		w->seen[d->why]++;
		blobs[d->why]++;
		bytes[d->why] += w->m.blobs[at].c.n;
		if (pass->gone[i]) gone++, gone_bytes += w->m.blobs[at].c.n;
	}
	for (int why = 1; why < CAIRN_GC_WHYS; why++) {
		assert_int_equal(s->blobs[why], blobs[why]);
		assert_int_equal(s->bytes[why], bytes[why]);
	}
	assert_int_equal(s->evicted_blobs, gone);
	assert_int_equal(s->evicted_bytes, gone_bytes);
	assert_int_equal(s->to_free, want->to_free);
	assert_int_equal(s->relieved, gone_bytes >= want->to_free);
	for (size_t i = 0; i < pass->holds.n_versions; i++) {
		const struct cairn_version *v = &pass->holds.versions[i];
		int name = 0;
		while (strcmp(w->m.names[name], v->name) != 0) name++;
		const struct m_version *mv = version_of(&w->m, name, find_blob(w, &v->root));
		assert_non_null(mv);
		assert_int_equal(pass->holds.kept[i], want->kept[mv - w->m.versions]);
		assert_int_equal(pass->holds.pruned[i], want->pruned[mv - w->m.versions]);
	}
}

#endif
