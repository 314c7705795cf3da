/* What is known and claimed, in plain arrays, and what garbage collection must make of it: written
 * from the contract (docs/design.md, cache/gc.h, plugin/holds.h), not from the code, and with no
 * thought of speed. Times are the store's unless they are named real or boot. No two uses and no
 * two looks at a name happen at the same time, so there is one right answer. */
#ifndef CAIRN_TESTS_SUPPORT_GC_MODEL_H
#define CAIRN_TESTS_SUPPORT_GC_MODEL_H

#include "support/pass.h"

#define M_LAYERS 36
#define M_IMAGES 36
#define M_INDEXES 8
#define M_BLOBS (M_LAYERS + 2 * M_IMAGES + M_INDEXES)
#define M_NAMES 12 /* the last four of which do not move */
#define M_MOVING 8
#define M_SLOTS 8
#define M_RECORDS 20
#define M_VERSIONS 1024

enum m_kind { M_LAYER, M_CONFIG, M_MANIFEST, M_INDEX };

struct m_set {
	bool in[M_BLOBS];
};

struct m_blob {
	struct content c;
	enum m_kind kind;
	int children[8], n;
	bool here, refd, known;
	int64_t used;
	int busy; /* readers, views and prefilled ingests that are open */
};

struct m_image {
	int ns, name, root; /* name < 0: no such record */
};

struct m_lease {
	bool on, flat;
	int64_t expires_real;
	int content[4], n;
};

struct m_container {
	bool on;
	int name;
	int64_t created_real;
};

/* What a listing of containerd shows. */
struct m_claims {
	struct m_image images[M_RECORDS];
	struct m_lease leases[M_SLOTS];
	struct m_container containers[M_SLOTS];
};

struct m_pin {
	bool on;
	int blob, name; /* one of them, the other is -1 */
	int64_t until;	/* 0: for ever */
};

struct m_version {
	int name, root;
	int64_t first, last;
	int64_t from[2], to[2]; /* the same, and in real time */
	bool has_needs, complete;
	struct m_set needs;
};

struct m_ingest {
	bool on, open, prefilled;
	int blob;
	uint64_t offset;
	int64_t touched_boot;
};

struct model {
	struct m_blob blobs[M_BLOBS];
	char names[M_NAMES][160];
	int name_root[M_NAMES]; /* of a name that does not move */
	struct m_claims now, then;
	struct m_pin pins[M_SLOTS];
	struct m_version versions[M_VERSIONS];
	int n_versions;
	struct m_ingest ingests[M_SLOTS];
};

/* What a pass is given, and what must come of it. */
struct m_pass {
	const struct m_claims *claims; /* NULL: nobody answered */
	bool sure, pressed;
	int64_t now, real, boot;
	int64_t keep, keep_versions, keep_versions_ns;
	uint64_t low;
	int prune; /* a name, or -1 */
	int64_t prune_keep;

	uint64_t own, to_free;
	enum cairn_gc_why why[M_BLOBS]; /* 0: the blob is not here */
	bool kept[M_VERSIONS], pruned[M_VERSIONS];
	bool found[M_VERSIONS]; /* something is found by it, so it must not be forgotten */
};

/* ---- what needs what ---- */

static UNUSED int set_size(const struct m_set *s)
{
	int n = 0;
	for (int i = 0; i < M_BLOBS; i++) n += s->in[i];
	return n;
}

/* Returns whether every manifest on the way is here; with all, as if it were. */
static UNUSED bool reach(const struct model *m, int root, bool all, struct m_set *to)
{
	const struct m_blob *b = &m->blobs[root];
	bool complete = true;
	to->in[root] = true;
	if (!b->here && !all) return b->kind != M_MANIFEST && b->kind != M_INDEX;
	for (int i = 0; i < b->n; i++) {
		if (!reach(m, b->children[i], all, to)) complete = false;
	}
	return complete;
}

/* What the history has seen of it once counts. */
static UNUSED void claim(const struct model *m, int root, struct m_set *to)
{
	bool seen_whole = false;
	for (int i = 0; i < m->n_versions; i++) {
		const struct m_version *v = &m->versions[i];
		if (v->root != root || !v->has_needs) continue;
		seen_whole |= v->complete;
		for (int k = 0; k < M_BLOBS; k++) to->in[k] |= v->needs.in[k];
	}
	reach(m, root, seen_whole, to);
}

/* ---- history ---- */

static UNUSED struct m_version *version_of(struct model *m, int name, int root)
{
	for (int i = 0; i < m->n_versions; i++) {
		struct m_version *v = &m->versions[i];
		if (v->name == name && v->root == root) return v;
	}
	return NULL;
}

static UNUSED void model_see(struct model *m, int name, int root, int64_t now, int64_t real)
{
	struct m_version *v = version_of(m, name, root);
	struct m_set needs = {0};
	if (v == NULL) {
		assert_true(m->n_versions < M_VERSIONS);
		v = &m->versions[m->n_versions++];
		*v = (struct m_version){
			.name = name, .root = root, .first = now, .from = {now, real}};
	}
	v->last = v->to[0] = now;
	v->to[1] = real;
	if (v->has_needs && v->complete) return;
	bool complete = reach(m, root, false, &needs);
	if (!m->blobs[root].here) complete = false;
	if (v->has_needs && set_size(&needs) < set_size(&v->needs)) return;
	v->has_needs = true;
	v->complete = complete;
	v->needs = needs;
}

/* How many versions of the same name were current later. */
static UNUSED int newer_than(const struct model *m, const struct m_version *v)
{
	int n = 0;
	for (int i = 0; i < m->n_versions; i++) {
		n += m->versions[i].name == v->name && m->versions[i].last > v->last;
	}
	return n;
}

static UNUSED const struct m_version *newest_of(const struct model *m, int name)
{
	const struct m_version *best = NULL;
	for (int i = 0; i < m->n_versions; i++) {
		const struct m_version *v = &m->versions[i];
		if (v->name == name && newer_than(m, v) == 0) best = v;
	}
	return best;
}

/* ---- hard claims ---- */

static UNUSED void strengthen(struct m_pass *p, const struct m_set *set, enum cairn_gc_why why)
{
	for (int i = 0; i < M_BLOBS; i++) {
		if (set->in[i] && (p->why[i] == 0 || why < p->why[i])) p->why[i] = why;
	}
}

static UNUSED void claim_as(const struct model *m, struct m_pass *p, int root,
			    enum cairn_gc_why why)
{
	struct m_set set = {0};
	claim(m, root, &set);
	strengthen(p, &set, why);
}

static UNUSED void claim_version(const struct model *m, struct m_pass *p, const struct m_version *v)
{
	if (v == NULL) return;
	claim_as(m, p, v->root, CAIRN_GC_CONTAINER);
	p->found[v - m->versions] = true;
}

/* By one of the two clocks: the versions that were current at that moment; if none is known to have
 * been, those that came next; and those that were the last before, since what is seen is seen late.
 */
static UNUSED void claim_moment(const struct model *m, struct m_pass *p, int name, int64_t made,
				int clock)
{
	int64_t next = INT64_MAX, last = INT64_MIN;
	bool any = false;
	for (int i = 0; i < m->n_versions; i++) {
		const struct m_version *v = &m->versions[i];
		if (v->name != name) continue;
		bool begun = v->from[clock] <= made, over = v->to[clock] < made;
		any |= begun && !over;
		if (!begun && v->from[clock] < next) next = v->from[clock];
		if (begun && over && v->to[clock] > last) last = v->to[clock];
	}
	for (int i = 0; i < m->n_versions; i++) {
		const struct m_version *v = &m->versions[i];
		if (v->name != name) continue;
		bool begun = v->from[clock] <= made, over = v->to[clock] < made;
		bool is_last = begun && over && v->to[clock] == last;
		bool is_next = !any && !begun && v->from[clock] == next;
		if ((begun && !over) || is_last || is_next) claim_version(m, p, v);
	}
}

static UNUSED void claim_container(const struct model *m, struct m_pass *p,
				   const struct m_container *c)
{
	claim_moment(m, p, c->name, p->now - (p->real - c->created_real), 0);
	claim_moment(m, p, c->name, c->created_real, 1);
}

static UNUSED void claim_lease(const struct model *m, struct m_pass *p, const struct m_lease *l)
{
	if (l->expires_real != 0 && l->expires_real <= p->real) return;
	for (int i = 0; i < l->n; i++) {
		struct m_set one = {0};
		one.in[l->content[i]] = true;
		if (!l->flat) claim(m, l->content[i], &one);
		strengthen(p, &one, CAIRN_GC_LEASE);
	}
}

/* A digest may be a name as well: that by which CRI knows an image. */
static UNUSED int pinned_name(const struct model *m, const struct m_pin *pin)
{
	char text[CAIRN_DIGEST_STR];
	if (pin->blob < 0) return pin->name;
	cairn_digest_format(&m->blobs[pin->blob].c.digest, text);
	for (int i = 0; i < M_NAMES; i++) {
		if (strcmp(m->names[i], text) == 0) return i;
	}
	return -1;
}

static UNUSED void claim_hard(const struct model *m, struct m_pass *p)
{
	const struct m_claims *c = p->claims;
	for (int i = 0; c != NULL && i < M_SLOTS; i++) {
		if (c->leases[i].on) claim_lease(m, p, &c->leases[i]);
		if (c->containers[i].on) claim_container(m, p, &c->containers[i]);
	}
	for (int i = 0; c != NULL && i < M_RECORDS; i++) {
		if (c->images[i].name >= 0) claim_as(m, p, c->images[i].root, CAIRN_GC_IMAGE);
	}
	for (int i = 0; i < M_SLOTS; i++) {
		const struct m_pin *pin = &m->pins[i];
		if (!pin->on || (pin->until != 0 && pin->until <= p->now)) continue;
		const struct m_version *v = newest_of(m, pinned_name(m, pin));
		if (pin->blob >= 0) claim_as(m, p, pin->blob, CAIRN_GC_PIN);
		if (v != NULL) {
			claim_as(m, p, v->root, CAIRN_GC_PIN);
			p->found[v - m->versions] = true;
		}
	}
}

/* ---- versions ---- */

static UNUSED bool has_record(const struct m_claims *c, int name, int root)
{
	for (int i = 0; c != NULL && i < M_RECORDS; i++) {
		const struct m_image *image = &c->images[i];
		if (image->name == name && (root < 0 || image->root == root)) return true;
	}
	return false;
}

static UNUSED void judge_versions(const struct model *m, struct m_pass *p)
{
	for (int i = 0; i < m->n_versions; i++) {
		const struct m_version *v = &m->versions[i];
		int64_t gone_for = p->now - newest_of(m, v->name)->last;
		bool active = !p->sure || has_record(p->claims, v->name, -1) ||
			      gone_for < p->keep_versions_ns;
		int64_t keep = active && v->name < M_MOVING ? p->keep_versions : 0;
		bool asked = p->prune == v->name;
		if (asked && p->prune_keep < keep) keep = p->prune_keep;
		p->kept[i] = newer_than(m, v) < keep;
		p->pruned[i] = asked && newer_than(m, v) >= p->prune_keep;
	}
}

/* When the last of the kept versions that need the blob was current; INT64_MIN: none needs it. */
static UNUSED int64_t kept_by(const struct model *m, const struct m_pass *p, int blob)
{
	int64_t last = INT64_MIN;
	for (int i = 0; i < m->n_versions; i++) {
		struct m_set set = {0};
		if (!p->kept[i] || m->versions[i].last < last) continue;
		claim(m, m->versions[i].root, &set);
		if (set.in[blob]) last = m->versions[i].last;
	}
	return last;
}

static UNUSED bool pruned_by(const struct model *m, const struct m_pass *p, int blob)
{
	for (int i = 0; i < m->n_versions; i++) {
		struct m_set set = {0};
		if (!p->pruned[i] || p->kept[i]) continue;
		claim(m, m->versions[i].root, &set);
		if (set.in[blob]) return true;
	}
	return false;
}

/* ---- the verdict ---- */

static UNUSED uint64_t model_own(const struct model *m)
{
	uint64_t own = 0;
	for (int i = 0; i < M_BLOBS; i++) own += m->blobs[i].here ? m->blobs[i].c.n : 0;
	for (int i = 0; i < M_SLOTS; i++) own += m->ingests[i].on ? m->ingests[i].offset : 0;
	return own;
}

/* Of those of the given reason the one that goes first; -1: there is none. */
static UNUSED int first_of_kind(const struct model *m, const struct m_pass *p,
				enum cairn_gc_why why, const int64_t *turns)
{
	int best = -1;
	for (int i = 0; i < M_BLOBS; i++) {
		if (p->why[i] != why) continue;
		bool sooner = best < 0 || turns[i] < turns[best] ||
			      (turns[i] == turns[best] && m->blobs[i].used < m->blobs[best].used);
		if (sooner) best = i;
	}
	return best;
}

static UNUSED void model_decide(const struct model *m, struct m_pass *p)
{
	int64_t turns[M_BLOBS] = {0};
	uint64_t freed = 0;
	p->own = model_own(m);
	p->to_free = p->pressed && p->own > p->low ? p->own - p->low : 0;
	claim_hard(m, p);
	judge_versions(m, p);
	for (int i = 0; i < M_BLOBS; i++) {
		const struct m_blob *b = &m->blobs[i];
		bool hard = p->why[i] != 0;
		int64_t last = kept_by(m, p, i);
		if (last != INT64_MIN) turns[i] = last;
		if (!b->here) {
			p->why[i] = 0;
		} else if (b->refd) {
			p->why[i] = CAIRN_GC_REFERENCED;
		} else if (b->busy > 0) {
			p->why[i] = CAIRN_GC_BUSY;
		} else if (hard) {
			continue;
		} else if (!p->sure && b->known) {
			p->why[i] = CAIRN_GC_UNSURE;
		} else if (last != INT64_MIN) {
			p->why[i] = CAIRN_GC_VERSION;
		} else if (pruned_by(m, p, i)) {
			p->why[i] = CAIRN_GC_PRUNE;
		} else if (p->now - b->used >= p->keep) {
			p->why[i] = CAIRN_GC_TTL;
		} else {
			p->why[i] = CAIRN_GC_YOUNG;
		}
		if (cairn_gc_evicts(p->why[i])) freed += b->c.n;
	}
	while (freed < p->to_free) {
		int next = first_of_kind(m, p, CAIRN_GC_YOUNG, turns);
		if (next < 0) next = first_of_kind(m, p, CAIRN_GC_VERSION, turns);
		if (next < 0) break;
		p->why[next] = CAIRN_GC_PRESSURE;
		freed += m->blobs[next].c.n;
	}
}

/* What is left after the pass did it. Returns how many versions were forgotten. */
static UNUSED uint64_t model_apply(struct model *m, const struct m_pass *p)
{
	uint64_t forgotten = 0;
	int kept = 0;
	for (int i = 0; i < M_BLOBS; i++) {
		struct m_blob *b = &m->blobs[i];
		if (cairn_gc_evicts(p->why[i])) b->here = b->refd = b->known = false;
	}
	for (int i = 0; i < m->n_versions; i++) {
		const struct m_version v = m->versions[i];
		bool recorded = has_record(p->claims, v.name, v.root);
		bool needed = p->kept[i] || p->found[i] || recorded;
		if (p->sure && !needed && (p->pruned[i] || !m->blobs[v.root].here)) {
			forgotten++;
		} else {
			m->versions[kept++] = v;
		}
	}
	m->n_versions = kept;
	for (int i = 0; i < M_SLOTS; i++) {
		if (m->pins[i].until != 0 && m->pins[i].until <= p->now) m->pins[i].on = false;
	}
	return forgotten;
}

/* ---- the pool of images ---- */

static UNUSED void model_init(struct model *m, uint64_t *x)
{
	int n = 0;
	memset(m, 0, sizeof(*m));
	for (; n < M_LAYERS; n++) {
		m->blobs[n].c = content_new(1 + next_random(x) % 6000, *x);
	}
	for (int i = 0; i < M_IMAGES; i++, n += 2) {
		struct m_blob *config = &m->blobs[n], *manifest = &m->blobs[n + 1];
		struct part layers[5], about;
		char text[64];
		snprintf(text, sizeof(text), "{\"architecture\":\"amd64\",\"n\":%d}", i);
		*config = (struct m_blob){.c = text_content(text), .kind = M_CONFIG};
		manifest->kind = M_MANIFEST;
		manifest->children[manifest->n++] = n;
		int wanted = 1 + (int)(next_random(x) % 5);
		for (int k = 0; k < wanted; k++) {
			int layer = (int)(next_random(x) % M_LAYERS);
			layers[k] = part_of(&m->blobs[layer].c, TYPE_LAYER);
			manifest->children[manifest->n++] = layer;
		}
		about = part_of(&config->c, TYPE_CONFIG);
		manifest->c = manifest_of(&about, layers, (size_t)wanted);
	}
	for (int i = 0; i < M_INDEXES; i++, n++) {
		struct m_blob *index = &m->blobs[n];
		struct part parts[4];
		index->kind = M_INDEX;
		index->n = 2 + (int)(next_random(x) % 3);
		for (int k = 0; k < index->n; k++) {
			int which = M_LAYERS + 1 + 2 * (int)(next_random(x) % M_IMAGES);
			/* the last ones hold another index, too */
			if (k == 0 && i >= M_INDEXES - 2) which = n - M_INDEXES + 2;
			index->children[k] = which;
			parts[k] = part_for(&m->blobs[which].c,
					    m->blobs[which].kind == M_INDEX ? TYPE_INDEX
									    : TYPE_MANIFEST,
					    k == 0 ? "linux" : "unknown");
		}
		index->c = index_of(parts, (size_t)index->n);
	}
	assert_int_equal(n, M_BLOBS);
	for (int i = 0; i < M_NAMES; i++) {
		char text[CAIRN_DIGEST_STR];
		m->name_root[i] = M_LAYERS + 1 + 2 * i;
		cairn_digest_format(&m->blobs[m->name_root[i]].c.digest, text);
		if (i < M_MOVING) {
			snprintf(m->names[i], sizeof(m->names[i]), "reg.example/app%d:v1", i);
		} else {
			snprintf(m->names[i], sizeof(m->names[i]), "%s%s",
				 i % 2 == 0 ? "reg.example/app@" : "", text);
		}
	}
	for (int i = 0; i < M_RECORDS; i++) m->now.images[i].name = -1;
	m->then = m->now;
}

static UNUSED void model_fini(struct model *m)
{
	for (int i = 0; i < M_BLOBS; i++) content_free(&m->blobs[i].c);
}

#endif
