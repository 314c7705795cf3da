/* What garbage collection decides.
 *
 * Each blob gets its strongest reason to stay. If that one may give way, the blob is a candidate,
 * at the step at which it would go. One sort by step puts the candidates in order; those of the
 * first two steps go in any case, the others only until enough is freed.
 *
 * A kept version is given up as a whole before the next one, so a blob that several versions need
 * has its turn with the last of them. */
#include "cache/gc.h"

#include <assert.h>

#include "cache/mem.h"

/* ---- the disk ----------------------------------------------------------------------------------
 */

static uint64_t less(uint64_t a, uint64_t b)
{
	return a > b ? a - b : 0;
}

/* Divided before it is multiplied, as disks may have more than 2^64 / 100 bytes; exact all the
 * same, rounded down. */
static uint64_t share(uint64_t total, uint64_t percent)
{
	if (percent > 100) percent = 100;
	return total / 100 * percent + total % 100 * percent / 100;
}

static uint64_t over(const struct cairn_gc_marks *marks, const struct cairn_gc_mark *mark,
		     const struct cairn_gc_disk *disk)
{
	if (mark->is_percent) {
		return less(less(disk->total, disk->free), share(disk->total, mark->value));
	}
	uint64_t too_much = less(disk->own, mark->value);
	if (disk->total == 0) return too_much; /* nothing is known of the disk, nor what is free */
	const struct cairn_gc_mark *min = &marks->min_free;
	uint64_t min_free = min->is_percent ? share(disk->total, min->value) : min->value;
	uint64_t lacking = less(min_free, disk->free);
	return too_much > lacking ? too_much : lacking;
}

uint64_t cairn_gc_over_high(const struct cairn_gc_marks *marks, const struct cairn_gc_disk *disk)
{
	return over(marks, &marks->high, disk);
}

uint64_t cairn_gc_over_low(const struct cairn_gc_marks *marks, const struct cairn_gc_disk *disk)
{
	return over(marks, &marks->low, disk);
}

uint64_t cairn_gc_writable(const struct cairn_gc_marks *marks, const struct cairn_gc_disk *disk)
{
	const struct cairn_gc_mark *min = &marks->min_free;
	return less(disk->free, min->is_percent ? share(disk->total, min->value) : min->value);
}

/* ---- reasons -----------------------------------------------------------------------------------
 */

/* The stronger reason to stay is the smaller number. */
static_assert(CAIRN_GC_REFERENCED < CAIRN_GC_BUSY && CAIRN_GC_BUSY < CAIRN_GC_LEASE &&
		      CAIRN_GC_LEASE < CAIRN_GC_CONTAINER && CAIRN_GC_CONTAINER < CAIRN_GC_IMAGE &&
		      CAIRN_GC_IMAGE < CAIRN_GC_PIN && CAIRN_GC_PIN < CAIRN_GC_UNSURE &&
		      CAIRN_GC_UNSURE < CAIRN_GC_VERSION && CAIRN_GC_VERSION < CAIRN_GC_YOUNG,
	      "reasons are compared");

static const char *const names[CAIRN_GC_WHYS] = {
	[CAIRN_GC_REFERENCED] = "referenced",
	[CAIRN_GC_BUSY] = "busy",
	[CAIRN_GC_LEASE] = "lease",
	[CAIRN_GC_CONTAINER] = "container",
	[CAIRN_GC_IMAGE] = "image",
	[CAIRN_GC_PIN] = "pin",
	[CAIRN_GC_UNSURE] = "unsure",
	[CAIRN_GC_VERSION] = "version",
	[CAIRN_GC_YOUNG] = "young",
	[CAIRN_GC_LATER] = "later",
	[CAIRN_GC_TTL] = "ttl",
	[CAIRN_GC_PRESSURE] = "pressure",
	[CAIRN_GC_PRUNE] = "prune",
};

const char *cairn_gc_why_name(enum cairn_gc_why why)
{
	size_t i = (size_t)why;
	return i < CAIRN_GC_WHYS && names[i] != NULL ? names[i] : "unknown";
}

bool cairn_gc_evicts(enum cairn_gc_why why)
{
	return why == CAIRN_GC_TTL || why == CAIRN_GC_PRESSURE || why == CAIRN_GC_PRUNE;
}

/* ---- the decision ------------------------------------------------------------------------------
 */

struct by_digest {
	uint64_t head; /* algorithm and first bytes: nearly every comparison ends here, in cache */
	const struct cairn_gc_blob *blob;
};

/* What the holds say about a blob. */
struct claim {
	enum cairn_gc_why keep; /* CAIRN_GC_YOUNG: none of them keeps it */
	const char *what;
	const char *prune; /* NULL: nobody asked */
	size_t turn;	   /* of the last version to be given up that needs it; else 0 */
};

/* When a blob goes, if it does. */
enum step { AT_PRUNE, AT_TTL, AT_PRESSURE, AT_VERSION, NEVER };

struct candidate {
	enum step step;
	size_t turn;
	int64_t used_ns;
	size_t place; /* in the order of digests: no two are equal, so every run says the same */
	size_t blob;
};

struct work {
	const struct cairn_gc_input *in;
	struct by_digest *sorted;
	struct claim *claims;		       /* one for each blob of the input */
	const struct cairn_gc_hold **versions; /* in the order in which they are given up */
	size_t n_versions;
	struct candidate *candidates;
	size_t n_candidates;
};

static const char *what_of(const struct cairn_gc_hold *h)
{
	return h->what != NULL ? h->what : "";
}

/* Sorts as cairn_digest_compare does. */
static uint64_t head_of(const struct cairn_digest *d)
{
	uint64_t head = d->alg;
	for (size_t i = 0; i < 7; i++) head = head << 8 | d->bytes[i];
	return head;
}

static int compare_digests(const void *a, const void *b)
{
	const struct by_digest *x = a, *y = b;
	if (x->head != y->head) return x->head < y->head ? -1 : 1;
	return cairn_digest_compare(&x->blob->digest, &y->blob->digest);
}

static void sort_digests(struct work *w)
{
	const struct cairn_gc_input *in = w->in;
	w->sorted = mem_zero(in->n_blobs * sizeof(*w->sorted));
	for (size_t i = 0; i < in->n_blobs; i++) {
		const struct cairn_gc_blob *b = &in->blobs[i];
		w->sorted[i] = (struct by_digest){head_of(&b->digest), b};
	}
	qsort(w->sorted, in->n_blobs, sizeof(*w->sorted), compare_digests);
	for (size_t i = 1; i < in->n_blobs; i++) {
		assert(compare_digests(&w->sorted[i - 1], &w->sorted[i]) != 0);
	}
}

/* NULL: there is no such blob. */
static struct claim *find_claim(const struct work *w, const struct cairn_digest *d)
{
	uint64_t head = head_of(d);
	size_t low = 0, high = w->in->n_blobs;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		const struct by_digest *at = &w->sorted[middle];
		int order = at->head < head ? -1 : at->head > head;
		if (order == 0) order = cairn_digest_compare(&at->blob->digest, d);
		if (order == 0) return &w->claims[at->blob - w->in->blobs];
		if (order < 0) {
			low = middle + 1;
		} else {
			high = middle;
		}
	}
	return NULL;
}

static int compare_versions(const void *a, const void *b)
{
	const struct cairn_gc_hold *x = *(const struct cairn_gc_hold *const *)a;
	const struct cairn_gc_hold *y = *(const struct cairn_gc_hold *const *)b;
	if (x->last_ns != y->last_ns) return x->last_ns < y->last_ns ? -1 : 1;
	int order = strcmp(what_of(x), what_of(y));
	if (order != 0) return order;
	return x < y ? -1 : x > y; /* both are in the input's list */
}

static void sort_versions(struct work *w)
{
	w->versions = mem_zero(w->in->n_holds * sizeof(const struct cairn_gc_hold *));
	for (size_t i = 0; i < w->in->n_holds; i++) {
		const struct cairn_gc_hold *h = &w->in->holds[i];
		if (h->why == CAIRN_GC_VERSION) w->versions[w->n_versions++] = h;
	}
	qsort(w->versions, w->n_versions, sizeof(const struct cairn_gc_hold *), compare_versions);
}

/* Of several holds of one kind the first one is told. */
static void add_hold(struct work *w, const struct cairn_gc_hold *h)
{
	assert((h->why >= CAIRN_GC_LEASE && h->why <= CAIRN_GC_PIN) || h->why == CAIRN_GC_VERSION ||
	       h->why == CAIRN_GC_PRUNE);
	for (size_t i = 0; i < h->n; i++) {
		struct claim *c = find_claim(w, &h->needs[i]);
		if (c == NULL) continue;
		if (h->why == CAIRN_GC_PRUNE) {
			if (c->prune == NULL) c->prune = what_of(h);
		} else if (h->why < c->keep) {
			c->keep = h->why;
			c->what = what_of(h);
		}
	}
}

static void read_holds(struct work *w)
{
	const struct cairn_gc_input *in = w->in;
	w->claims = mem_zero(in->n_blobs * sizeof(*w->claims));
	for (size_t i = 0; i < in->n_blobs; i++) {
		w->claims[i] = (struct claim){.keep = CAIRN_GC_YOUNG, .what = ""};
	}
	for (size_t i = 0; i < in->n_holds; i++) add_hold(w, &in->holds[i]);
	for (size_t turn = 0; turn < w->n_versions; turn++) {
		const struct cairn_gc_hold *h = w->versions[turn];
		for (size_t i = 0; i < h->n; i++) {
			struct claim *c = find_claim(w, &h->needs[i]);
			if (c != NULL) c->turn = turn;
		}
	}
}

/* Used later than now, as what is used while a pass runs: not idle. */
static bool is_idle(const struct cairn_gc_input *in, const struct cairn_gc_blob *b)
{
	uint64_t idle = b->used_ns < in->now_ns ? (uint64_t)in->now_ns - (uint64_t)b->used_ns : 0;
	return in->keep_ns <= 0 || idle >= (uint64_t)in->keep_ns;
}

static struct cairn_gc_decision why_stay(const struct cairn_gc_input *in,
					 const struct cairn_gc_blob *b, const struct claim *c)
{
	if (b->referenced) return (struct cairn_gc_decision){CAIRN_GC_REFERENCED, ""};
	if (b->busy) return (struct cairn_gc_decision){CAIRN_GC_BUSY, ""};
	if (!in->sure && b->known && c->keep > CAIRN_GC_UNSURE) {
		return (struct cairn_gc_decision){CAIRN_GC_UNSURE, ""};
	}
	return (struct cairn_gc_decision){c->keep, c->what};
}

/* Pressure leaves alone what frees nothing. */
static enum step step_of(const struct cairn_gc_input *in, const struct cairn_gc_blob *b,
			 const struct claim *c, enum cairn_gc_why stay)
{
	bool pressure = in->to_free > 0 && b->size > 0;
	if (stay < CAIRN_GC_VERSION) return NEVER;
	if (stay == CAIRN_GC_VERSION) return pressure ? AT_VERSION : NEVER;
	if (c->prune != NULL) return AT_PRUNE;
	if (is_idle(in, b)) return AT_TTL;
	return pressure ? AT_PRESSURE : NEVER;
}

static int compare_candidates(const void *a, const void *b)
{
	const struct candidate *x = a, *y = b;
	if (x->step != y->step) return x->step < y->step ? -1 : 1;
	if (x->turn != y->turn) return x->turn < y->turn ? -1 : 1;
	if (x->used_ns != y->used_ns) return x->used_ns < y->used_ns ? -1 : 1;
	return x->place < y->place ? -1 : x->place > y->place;
}

/* Why each blob would stay, and which ones need not. */
static void judge(struct work *w, struct cairn_gc_plan *plan)
{
	const struct cairn_gc_input *in = w->in;
	w->candidates = mem_zero(in->n_blobs * sizeof(*w->candidates));
	for (size_t place = 0; place < in->n_blobs; place++) {
		const struct cairn_gc_blob *b = w->sorted[place].blob;
		size_t i = (size_t)(b - in->blobs);
		const struct claim *c = &w->claims[i];
		plan->decisions[i] = why_stay(in, b, c);
		enum step step = step_of(in, b, c, plan->decisions[i].why);
		if (step == NEVER) continue;
		w->candidates[w->n_candidates++] = (struct candidate){
			.step = step,
			.turn = c->turn,
			.used_ns = b->used_ns,
			.place = place,
			.blob = i,
		};
	}
	qsort(w->candidates, w->n_candidates, sizeof(*w->candidates), compare_candidates);
}

static struct cairn_gc_decision why_go(const struct work *w, const struct candidate *k)
{
	switch (k->step) {
	case AT_PRUNE:
		return (struct cairn_gc_decision){CAIRN_GC_PRUNE, w->claims[k->blob].prune};
	case AT_TTL:
		return (struct cairn_gc_decision){CAIRN_GC_TTL, ""};
	case AT_VERSION: /* tells which version was given up for it */
		return (struct cairn_gc_decision){CAIRN_GC_PRESSURE, what_of(w->versions[k->turn])};
	default:
		return (struct cairn_gc_decision){CAIRN_GC_PRESSURE, ""};
	}
}

static void choose(const struct work *w, struct cairn_gc_plan *plan)
{
	uint64_t to_free = w->in->to_free;
	for (size_t i = 0; i < w->n_candidates; i++) {
		const struct candidate *k = &w->candidates[i];
		if (k->step >= AT_PRESSURE && plan->bytes >= to_free) break;
		plan->decisions[k->blob] = why_go(w, k);
		plan->order[plan->n_order++] = k->blob;
		uint64_t size = w->in->blobs[k->blob].size;
		if (__builtin_add_overflow(plan->bytes, size, &plan->bytes)) {
			plan->bytes = UINT64_MAX;
		}
	}
	plan->relieved = plan->bytes >= to_free;
}

void cairn_gc_decide(const struct cairn_gc_input *in, struct cairn_gc_plan *ret)
{
	struct work w = {.in = in};
	*ret = (struct cairn_gc_plan){
		.decisions = mem_zero(in->n_blobs * sizeof(*ret->decisions)),
		.order = mem_zero(in->n_blobs * sizeof(*ret->order)),
	};
	sort_digests(&w);
	sort_versions(&w);
	read_holds(&w);
	judge(&w, ret);
	choose(&w, ret);
	free(w.sorted);
	free(w.claims);
	free(w.versions);
	free(w.candidates);
}

void cairn_gc_plan_fini(struct cairn_gc_plan *plan)
{
	free(plan->decisions);
	free(plan->order);
	*plan = (struct cairn_gc_plan){0};
}
