#include "plugin/gc_pass.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "plugin/graph.h"

#define WALK 512 /* blobs taken under one lock */

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
static uint64_t to_free(const struct cairn_gc_pass_opts *opts, const struct cairn_gc_disk *disk)
{
	const struct cairn_gc_marks *marks = &opts->rules->marks;
	bool pressed = opts->trigger == CAIRN_GC_BY_DELETE || cairn_gc_over_high(marks, disk) > 0;
	uint64_t over = pressed ? cairn_gc_over_low(marks, disk) : 0;
	return over > opts->make_room ? over : opts->make_room;
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
	cairn_cache_disk(opts->cache, &p->disk);
	p->summary.to_free = to_free(opts, &p->disk);
	const struct cairn_gc_input in = {
		.blobs = p->blobs,
		.n_blobs = p->n_blobs,
		.holds = p->holds.list,
		.n_holds = p->holds.n,
		.sure = opts->sure,
		.now_ns = p->now_ns,
		.keep_ns = rules->keep_ns,
		.to_free = p->summary.to_free,
	};
	cairn_gc_decide(&in, &p->plan);
}

/* ---- what is done -----------------------------------------------------------------------------*/

struct execution {
	const struct cairn_gc_pass_opts *opts;
	struct cairn_gc_pass *p;
	struct cairn_eviction batch[CAIRN_EVICT_MAX];
	size_t indices[CAIRN_EVICT_MAX]; /* in blobs */
	size_t n;
	uint64_t evicted_bytes;
};

static void flush(struct execution *x)
{
	struct cairn_err err;
	if (x->n == 0) return;
	if (cairn_cache_evict(x->opts->cache, x->batch, x->n, &err) != CAIRN_OK) {
		cairn_log(CAIRN_LOG_ERROR, "gc_failed", CAIRN_ERRF(&err));
	}
	for (size_t i = 0; i < x->n; i++) {
		bool gone = x->batch[i].outcome == CAIRN_EVICT_DONE;
		x->p->gone[x->indices[i]] = gone;
		if (gone) x->p->summary.freed += x->batch[i].freed;
		if (gone) x->evicted_bytes += x->p->blobs[x->indices[i]].size;
		/* It was used, or needed, since it was looked at. */
		if (!gone && x->batch[i].outcome != CAIRN_EVICT_ABSENT) {
			x->p->plan.decisions[x->indices[i]].why = CAIRN_GC_BUSY;
		}
	}
	x->n = 0;
}

/* The plan goes by the blobs' sizes; what an eviction really frees may be less (a second name of
 * the file, say), so that the next look at the disk may ask for more, or more, and then the rest of
 * the plan is not needed. Percentages and min_free are about the disk, absolute marks about the
 * sizes of what the store has: each is answered in its own measure. Asking the disk again would
 * not do, because a file system may take its time to free. */
static bool is_relieved(const struct execution *x)
{
	struct cairn_gc_disk disk = x->p->disk;
	disk.free += x->p->summary.freed;
	disk.own -= x->evicted_bytes < disk.own ? x->evicted_bytes : disk.own;
	return x->p->summary.to_free == 0 || cairn_gc_over_low(&x->opts->rules->marks, &disk) == 0;
}

/* Returns false if it was told to stop. */
static bool execute(const struct cairn_gc_pass_opts *opts, struct cairn_gc_pass *p)
{
	bool on = true;
	struct execution *x = calloc(1, sizeof(*x));
	if (x == NULL) abort();
	x->opts = opts;
	x->p = p;
	for (size_t i = 0; i < p->plan.n_order; i++) {
		size_t at = p->plan.order[i];
		if (opts->go_on != NULL && x->n == 0) on = opts->go_on(opts->arg);
		if (!on) break;
		if (p->plan.decisions[at].why == CAIRN_GC_PRESSURE && is_relieved(x)) break;
		x->indices[x->n] = at;
		x->batch[x->n++] = (struct cairn_eviction){.digest = p->blobs[at].digest,
							   .used_ns = p->blobs[at].used_ns};
		if (x->n == CAIRN_EVICT_MAX) flush(x);
	}
	flush(x);
	p->summary.relieved = is_relieved(x);
	free(x);
	return on;
}

/* A version that is not kept and of which nothing is left needs no memory of it; one that was
 * pruned neither. But a container, or a name's pin, needs what the history says it does, and which
 * containers there are only a complete answer says. */
static void drop_versions(const struct cairn_gc_pass_opts *opts, struct cairn_gc_pass *p)
{
	const struct cairn_holds *h = &p->holds;
	struct cairn_err ignored;
	for (size_t i = 0; i < h->n_versions; i++) {
		const struct cairn_version *v = &h->versions[i];
		struct cairn_blob_info info;
		bool recorded = cairn_image_index_has(&h->images, v->name, &v->root);
		if (!opts->sure || h->kept[i] || h->found[i] || recorded) continue;
		if (!h->pruned[i] &&
		    cairn_cache_info(opts->cache, &v->root, &info, &ignored) == CAIRN_OK) {
			cairn_blob_info_fini(&info);
			continue;
		}
		cairn_cache_forget_version(opts->cache, v->name, &v->root);
		p->summary.versions_dropped++;
	}
}

static void sum_up(struct cairn_gc_pass *p)
{
	struct cairn_gc_summary *s = &p->summary;
	for (size_t i = 0; i < p->n_blobs; i++) {
		enum cairn_gc_why why = p->plan.decisions[i].why;
		/* What was to go and stayed is told as busy above; what the plan did not need stays
		 * for its next turn. */
		if (cairn_gc_evicts(why) && !p->gone[i]) why = CAIRN_GC_YOUNG;
		p->plan.decisions[i].why = why;
		s->blobs[why]++;
		s->bytes[why] += p->blobs[i].size;
		if (!p->gone[i]) continue;
		s->evicted_blobs++;
		s->evicted_bytes += p->blobs[i].size;
	}
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
		s->ingests_dropped = cairn_cache_expire_ingests(opts->cache, opts->rules->keep_ns);
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
	struct cairn_err err;
	for (size_t i = 0; i < n; i++) {
		const struct cairn_listed_image *image = &images[i];
		if (image->target.alg == 0) continue;
		if (cairn_cache_see_version(cache, image->name, &image->target, NULL, &err) !=
		    CAIRN_OK) {
			cairn_log(CAIRN_LOG_WARN, "image_not_remembered",
				  CAIRN_STR("name", image->name), CAIRN_ERRF(&err));
			if (err.code == CAIRN_RESOURCE_EXHAUSTED) return;
			continue;
		}
		size_t found = cairn_cache_versions(cache, image->name, &versions);
		for (size_t j = 0; j < found; j++) {
			if (!cairn_digest_equal(&versions[j].root, &image->target)) continue;
			look_closer(cache, &versions[j]);
		}
		cairn_versions_free(versions, found);
	}
}
