#include "plugin/gc_pass.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "plugin/graph.h"

#define WALK 512   /* blobs taken under one lock */
#define BLOCK 4096 /* what a file's size is rounded up to on most disks */
#define INGEST_IDLE_NS (3600 * CAIRN_NS_PER_S)
#define AGAIN_MAX 3 /* decisions in place of victims that did not go */

/* ---- what is there ----------------------------------------------------------------------------*/

static void collect(struct cairn_cache *cache, struct cairn_gc_pass *p)
{
	struct cairn_digest after = {0};
	size_t cap = 0;
	for (size_t n = 1; n > 0; p->n_blobs += n) {
		if (cap < p->n_blobs + WALK) {
			cap = 2 * cap + WALK;
			p->blobs = realloc(p->blobs, cap * sizeof(p->blobs[0]));
			if (p->blobs == NULL) abort();
		}
		n = cairn_cache_next_gc(cache, &after, p->blobs + p->n_blobs, WALK);
		if (n > 0) after = p->blobs[p->n_blobs + n - 1].digest;
	}
}

/* How much must go. A Delete above the low mark is kubelet asking for space; else only the high
 * mark starts it, and the low one ends it. */
static void measure(const struct cairn_gc_pass_opts *opts, struct cairn_gc_pass *p)
{
	const struct cairn_gc_marks *marks = &opts->rules->marks;
	cairn_cache_disk(opts->cache, &p->disk);
	p->pressed = opts->trigger == CAIRN_GC_BY_DELETE || cairn_gc_over_high(marks, &p->disk) > 0;
	uint64_t over = p->pressed ? cairn_gc_over_low(marks, &p->disk) : 0;
	p->summary.to_free = over > opts->make_room ? over : opts->make_room;
}

static struct cairn_gc_input input_of(const struct cairn_gc_pass_opts *opts,
				      const struct cairn_gc_pass *p)
{
	return (struct cairn_gc_input){
		.blobs = p->blobs,
		.n_blobs = p->n_blobs,
		.holds = p->holds.list,
		.n_holds = p->holds.n,
		.sure = opts->sure,
		.now_ns = p->now_ns,
		.keep_ns = opts->rules->keep_ns,
		.to_free = p->summary.to_free,
	};
}

static void decide(const struct cairn_gc_pass_opts *opts, struct cairn_gc_pass *p)
{
	const struct cairn_gc_rules *rules = opts->rules;
	const struct cairn_holds_input holds = {
		.cache = opts->cache,
		.listing = opts->listing,
		.sure = opts->sure,
		.real_ns = cairn_real_ns(opts->clock),
		.now_ns = cairn_cache_now_ns(opts->cache),
		.keep_versions = rules->keep_versions,
		.keep_versions_ns = rules->keep_versions_ns,
		.prune = opts->prune,
		.prune_keep = opts->prune_keep,
	};
	cairn_holds_build(&holds, &p->holds);
	collect(opts->cache, p);
	p->now_ns = cairn_cache_now_ns(opts->cache);
	measure(opts, p);
	const struct cairn_gc_input in = input_of(opts, p);
	cairn_gc_decide(&in, &p->plan);
}

/* ---- what is done -----------------------------------------------------------------------------*/

struct execution {
	const struct cairn_gc_pass_opts *opts;
	struct cairn_gc_pass *p;
	struct cairn_eviction batch[CAIRN_EVICT_MAX];
	size_t indices[CAIRN_EVICT_MAX]; /* in blobs */
	size_t n;
	uint64_t expect_freed, expect_bytes; /* from the batch */
	uint64_t evicted_bytes;
	bool *tried;	      /* blobs[i] had its turn */
	bool stopped, failed; /* nothing goes any more */
};

static bool is_over(const struct execution *x)
{
	return x->stopped || x->failed;
}

static void flush(struct execution *x)
{
	struct cairn_err err;
	struct cairn_gc_pass *p = x->p;
	const struct cairn_gc_pass_opts *opts = x->opts;
	if (x->n == 0) return;
	if (cairn_cache_evict_while(opts->cache, x->batch, x->n, opts->go_on, opts->arg, &err) !=
	    CAIRN_OK) {
		cairn_log(CAIRN_LOG_ERROR, "gc_failed", CAIRN_ERRF(&err));
		x->failed = true;
	}
	for (size_t i = 0; i < x->n; i++) {
		size_t at = x->indices[i];
		enum cairn_evict_outcome outcome = x->batch[i].outcome;
		bool gone = outcome == CAIRN_EVICT_DONE;
		x->tried[at] = true;
		p->gone[at] = gone;
		x->stopped |= outcome == CAIRN_EVICT_STOPPED;
		/* It was used, or needed, since it was looked at. */
		if (outcome == CAIRN_EVICT_IN_USE) p->plan.decisions[at].why = CAIRN_GC_BUSY;
		if (!gone) continue;
		p->summary.freed += x->batch[i].freed;
		x->evicted_bytes += p->blobs[at].size;
		if (opts->evicted != NULL) opts->evicted(opts->evicted_arg, p, at);
	}
	x->n = 0;
	x->expect_freed = x->expect_bytes = 0;
}

/* What is still to be freed, when so much was freed on the disk, by blobs of so many bytes. The
 * plan goes by the blobs' sizes; what an eviction really frees may be less (a second name of the
 * file, say) or more, and then the rest of the plan is not needed. Percentages and min_free are
 * about the disk, absolute marks about the sizes of what the store has: each is answered in its own
 * measure. Asking the disk again would not do, because a file system may take its time to free. */
static uint64_t left(const struct execution *x, uint64_t freed, uint64_t bytes)
{
	const struct cairn_gc_pass *p = x->p;
	struct cairn_gc_disk disk = p->disk;
	disk.free += freed;
	disk.own -= bytes < disk.own ? bytes : disk.own;
	uint64_t over = p->pressed ? cairn_gc_over_low(&x->opts->rules->marks, &disk) : 0;
	uint64_t room = x->opts->make_room > freed ? x->opts->make_room - freed : 0;
	return over > room ? over : room;
}

static uint64_t left_now(const struct execution *x)
{
	return left(x, x->p->summary.freed, x->evicted_bytes);
}

/* Pressure takes no more than it needs: where the batch should do, it goes before the next one is
 * chosen, and its real yield decides. */
static bool is_needed(struct execution *x, size_t at)
{
	if (x->p->plan.decisions[at].why != CAIRN_GC_PRESSURE) return true;
	uint64_t freed = x->p->summary.freed + x->expect_freed;
	if (left(x, freed, x->evicted_bytes + x->expect_bytes) > 0) return true;
	flush(x);
	return !is_over(x) && left_now(x) > 0;
}

/* A file takes whole blocks. */
static uint64_t on_disk(uint64_t size)
{
	return (size + BLOCK - 1) / BLOCK * BLOCK;
}

/* The plan from there on. */
static void execute_from(struct execution *x, size_t first)
{
	const struct cairn_gc_pass_opts *opts = x->opts;
	struct cairn_gc_pass *p = x->p;
	for (size_t i = first; i < p->plan.n_order && !is_over(x); i++) {
		size_t at = p->plan.order[i];
		if (!is_needed(x, at)) break;
		if (x->n == 0 && opts->go_on != NULL) x->stopped = !opts->go_on(opts->arg);
		if (x->stopped) break;
		x->indices[x->n] = at;
		x->batch[x->n++] = (struct cairn_eviction){.digest = p->blobs[at].digest,
							   .used_ns = p->blobs[at].used_ns};
		x->expect_freed += on_disk(p->blobs[at].size);
		x->expect_bytes += p->blobs[at].size;
		if (x->n == CAIRN_EVICT_MAX) flush(x);
	}
	flush(x);
}

/* Others in place of those that did not go, or yielded less than they should: what had its turn
 * counts as needed now. Returns whether there are any; their place is at *ret. */
static bool decide_again(struct execution *x, size_t *ret)
{
	struct cairn_gc_pass *p = x->p;
	struct cairn_gc_input in = input_of(x->opts, p);
	struct cairn_gc_plan again;
	in.to_free = left_now(x);
	if (is_over(x) || in.to_free == 0 || !p->plan.relieved) return false;
	struct cairn_gc_blob *blobs = calloc(p->n_blobs + 1, sizeof(blobs[0]));
	if (blobs == NULL) abort();
	for (size_t i = 0; i < p->n_blobs; i++) {
		blobs[i] = p->blobs[i];
		blobs[i].referenced |= x->tried[i];
	}
	in.blobs = blobs;
	cairn_gc_decide(&in, &again);
	*ret = p->plan.n_order;
	for (size_t i = 0; i < p->n_blobs; i++) {
		if (!x->tried[i]) p->plan.decisions[i] = again.decisions[i];
	}
	for (size_t i = 0; i < again.n_order; i++) {
		p->plan.order[p->plan.n_order++] = again.order[i];
	}
	p->plan.relieved = again.relieved;
	cairn_gc_plan_fini(&again);
	free(blobs);
	return p->plan.n_order > *ret;
}

/* Is nothing left that may go, though the disk is too full? Not known where the pass did not come
 * to its end, or where only containerd's answer is missing. */
static bool is_exhausted(const struct execution *x)
{
	const struct cairn_gc_pass *p = x->p;
	uint64_t unsure = 0, need = left_now(x);
	for (size_t i = 0; i < p->n_blobs; i++) {
		if (p->plan.decisions[i].why == CAIRN_GC_UNSURE) unsure += p->blobs[i].size;
	}
	return need > 0 && !p->plan.relieved && !is_over(x) && unsure < need;
}

/* Returns false if it did not come to its end. */
static bool execute(const struct cairn_gc_pass_opts *opts, struct cairn_gc_pass *p)
{
	size_t first = 0;
	struct execution *x = calloc(1, sizeof(*x));
	if (x == NULL) abort();
	x->opts = opts;
	x->p = p;
	x->tried = calloc(p->n_blobs + 1, sizeof(bool));
	if (x->tried == NULL) abort();
	execute_from(x, 0);
	for (int again = 0; again < AGAIN_MAX && decide_again(x, &first); again++) {
		execute_from(x, first);
	}
	p->summary.relieved = left_now(x) == 0;
	p->summary.exhausted = is_exhausted(x);
	bool done = !is_over(x);
	free(x->tried);
	free(x);
	return done;
}

/* A version that is not kept and of which nothing is left needs no memory of it; one that was
 * pruned neither. But a container, or a name's pin, needs what the history says it does, and which
 * containers there are only a complete answer says. */
static void drop_versions(const struct cairn_gc_pass_opts *opts, struct cairn_gc_pass *p)
{
	const struct cairn_holds *h = &p->holds;
	bool damaged;
	for (size_t i = 0; i < h->n_versions; i++) {
		const struct cairn_version *v = &h->versions[i];
		bool recorded = cairn_image_index_has(&h->images, v->name, &v->root);
		if (!opts->sure || h->kept[i] || h->found[i] || recorded) continue;
		if (!h->pruned[i] && cairn_cache_state(opts->cache, &v->root, &damaged) != 0) {
			continue;
		}
		cairn_cache_forget_version(opts->cache, v->name, &v->root);
		p->summary.versions_dropped++;
	}
}

/* Why is what was to go still here? What pressure did not need, in the end, stays as it would have
 * without. */
static enum cairn_gc_why why_not(const struct cairn_gc_decision *d)
{
	if (d->why != CAIRN_GC_PRESSURE) return CAIRN_GC_LATER;
	return d->what[0] != '\0' ? CAIRN_GC_VERSION : CAIRN_GC_YOUNG;
}

static void sum_up(struct cairn_gc_pass *p)
{
	struct cairn_gc_summary *s = &p->summary;
	for (size_t i = 0; i < p->n_blobs; i++) {
		struct cairn_gc_decision *d = &p->plan.decisions[i];
		if (cairn_gc_evicts(d->why) && !p->gone[i]) d->why = why_not(d);
		enum cairn_gc_why why = d->why;
		s->blobs[why]++;
		s->bytes[why] += p->blobs[i].size;
		if (!p->gone[i]) continue;
		s->evicted_blobs++;
		s->evicted_bytes += p->blobs[i].size;
	}
}

/* How long an ingest lies before it is given up. A pull that is tried again needs it, whatever is
 * wanted for blobs. */
static int64_t idle_of_ingests(const struct cairn_gc_pass_opts *opts)
{
	return opts->rules->keep_ns > INGEST_IDLE_NS ? opts->rules->keep_ns : INGEST_IDLE_NS;
}

void cairn_gc_pass_run(const struct cairn_gc_pass_opts *opts, struct cairn_gc_pass *ret)
{
	*ret = (struct cairn_gc_pass){0};
	if (opts->listing != NULL) ret->listing = cairn_listing_ref(opts->listing);
	struct cairn_gc_summary *s = &ret->summary;
	int64_t begun = cairn_boot_ns(opts->clock);
	s->trigger = opts->trigger;
	s->dry_run = opts->dry_run;
	s->sure = opts->sure;
	s->begun_real_ns = cairn_real_ns(opts->clock);
	decide(opts, ret);
	ret->gone = calloc(ret->n_blobs + 1, sizeof(bool));
	if (ret->gone == NULL) abort();
	if (opts->dry_run) {
		for (size_t i = 0; i < ret->plan.n_order; i++) ret->gone[ret->plan.order[i]] = true;
		s->relieved = ret->plan.relieved;
	} else {
		/* A prune that was stopped may be asked for again: the version is still known. */
		if (execute(opts, ret)) drop_versions(opts, ret);
		s->ingests_dropped = cairn_cache_expire_ingests(opts->cache, idle_of_ingests(opts));
	}
	sum_up(ret);
	s->duration_ns = cairn_boot_ns(opts->clock) - begun;
}

void cairn_gc_pass_fini(struct cairn_gc_pass *pass)
{
	cairn_gc_plan_fini(&pass->plan);
	cairn_holds_fini(&pass->holds);
	free(pass->blobs);
	free(pass->gone);
	cairn_listing_unref(pass->listing);
	*pass = (struct cairn_gc_pass){0};
}

const struct cairn_gc_decision *cairn_gc_pass_find(const struct cairn_gc_pass *pass,
						   const struct cairn_digest *digest)
{
	size_t low = 0, high = pass->n_blobs; /* in the order of the walk: that of the digests */
	while (low < high) {
		size_t mid = low + (high - low) / 2;
		int rc = cairn_digest_compare(&pass->blobs[mid].digest, digest);
		if (rc == 0) return &pass->plan.decisions[mid];
		if (rc < 0) {
			low = mid + 1;
		} else {
			high = mid;
		}
	}
	return NULL;
}

/* ---- history ----------------------------------------------------------------------------------*/

/* Of an index, manifests come and go; what was known once is not given up for less. */
static void look_closer(struct cairn_cache *cache, const struct cairn_version *v)
{
	if (v->needs != NULL && v->needs->complete) return;
	struct cairn_needs *needs = cairn_graph_needs(cache, &v->root);
	if (v->needs == NULL || needs->n >= v->needs->n) {
		cairn_cache_set_needs(cache, v->name, &v->root, needs);
	}
	cairn_needs_unref(needs);
}

void cairn_gc_remember_images(struct cairn_cache *cache, const struct cairn_listed_image *images,
			      size_t n)
{
	struct cairn_version *versions;
	struct cairn_err err, first;
	size_t failed = 0;
	for (size_t i = 0; i < n; i++) {
		const struct cairn_listed_image *image = &images[i];
		if (image->target.alg == 0) continue;
		if (cairn_cache_see_version(cache, image->name, &image->target, NULL, &err) !=
		    CAIRN_OK) {
			if (failed++ == 0) first = err;
			continue; /* others may be known already, and are seen again */
		}
		size_t found = cairn_cache_versions(cache, image->name, &versions);
		for (size_t j = 0; j < found; j++) {
			if (!cairn_digest_equal(&versions[j].root, &image->target)) continue;
			look_closer(cache, &versions[j]);
		}
		cairn_versions_free(versions, found);
	}
	if (failed == 0) return;
	cairn_log(CAIRN_LOG_WARN, "images_not_remembered", CAIRN_NUM("images", failed),
		  CAIRN_ERRF(&first));
}
