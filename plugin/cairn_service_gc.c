/* CollectGarbage, Prune, and what Status says of garbage collection. */
#include <stdio.h>
#include <string.h>

#include "plugin/cairn_service.h"
#include "plugin/gc.h"
#include "plugin/job.h"
#include "plugin/message.h"

#define BATCH 100 /* decisions in one message */

struct collect {
	struct cairn_admin_service *service;
	struct cairn_gc_request request;
	bool all;
	struct cairn_gc_pass pass;
};

/* Storage for one message, used again for the next, so that a long answer needs no more of it. */
struct batch {
	Cairn__V1__Decision decisions[BATCH];
	Cairn__V1__Decision *list[BATCH];
	char digests[BATCH][CAIRN_DIGEST_STR];
	size_t n;
};

/* ---- messages ---- */

static enum cairn_code send_batch(struct cairn_call *call, struct batch *b, struct cairn_err *err)
{
	Cairn__V1__CollectGarbageResponse msg = CAIRN__V1__COLLECT_GARBAGE_RESPONSE__INIT;
	msg.decisions = b->list;
	msg.n_decisions = b->n;
	b->n = 0;
	return msg.n_decisions > 0 ? cairn_call_send(call, &msg.base, err) : CAIRN_OK;
}

static enum cairn_code add_decision(struct cairn_call *call, struct batch *b,
				    const struct cairn_gc_pass *pass, size_t i,
				    struct cairn_err *err)
{
	const struct cairn_gc_blob *blob = &pass->blobs[i];
	Cairn__V1__Decision *d = &b->decisions[b->n];
	cairn__v1__decision__init(d);
	d->digest = b->digests[b->n];
	cairn_digest_format(&blob->digest, d->digest);
	d->size = (int64_t)blob->size;
	d->evict = pass->gone[i];
	/* protobuf-c's strings are not const, but are only read. */
	d->why = (char *)(uintptr_t)cairn_gc_why_name(pass->plan.decisions[i].why);
	d->what = (char *)(uintptr_t)pass->plan.decisions[i].what;
	d->idle_seconds = (pass->now_ns - blob->used_ns) / CAIRN_NS_PER_S;
	if (d->idle_seconds < 0) d->idle_seconds = 0;
	b->list[b->n++] = d;
	return b->n == BATCH ? send_batch(call, b, err) : CAIRN_OK;
}

static Cairn__V1__GcSummary *summary_message(struct cairn_call *call,
					     const struct cairn_gc_summary *s)
{
	Cairn__V1__GcSummary *msg = cairn_call_alloc(call, sizeof(*msg));
	cairn__v1__gc_summary__init(msg);
	msg->trigger = cairn_call_strdup(call, cairn_gc_trigger_name(s->trigger));
	msg->dry_run = s->dry_run;
	msg->sure = s->sure;
	msg->unsure_why = cairn_call_strdup(call, s->unsure_why);
	msg->evicted_blobs = (int64_t)s->evicted_blobs;
	msg->evicted_bytes = (int64_t)s->evicted_bytes;
	msg->kept = cairn_call_alloc(call, CAIRN_GC_WHYS * sizeof(msg->kept[0]));
	for (int why = CAIRN_GC_REFERENCED; why < CAIRN_GC_TTL; why++) {
		if (s->blobs[why] == 0) continue;
		Cairn__V1__GcKept *kept = cairn_call_alloc(call, sizeof(*kept));
		cairn__v1__gc_kept__init(kept);
		kept->why = cairn_call_strdup(call, cairn_gc_why_name((enum cairn_gc_why)why));
		kept->blobs = (int64_t)s->blobs[why];
		kept->bytes = (int64_t)s->bytes[why];
		msg->kept_blobs += kept->blobs;
		msg->kept_bytes += kept->bytes;
		msg->kept[msg->n_kept++] = kept;
	}
	msg->duration_ms = s->duration_ns / CAIRN_NS_PER_MS;
	msg->to_free_bytes = (int64_t)s->to_free;
	msg->relieved = s->relieved;
	msg->ingests_dropped = (int64_t)s->ingests_dropped;
	msg->versions_dropped = (int64_t)s->versions_dropped;
	return msg;
}

/* What goes, in the order in which it goes; what stays, by digest; the summary. */
static enum cairn_code send_pass(struct collect *c, struct cairn_call *call, struct cairn_err *err)
{
	const struct cairn_gc_pass *p = &c->pass;
	struct batch *b = cairn_call_alloc(call, sizeof(*b));
	enum cairn_code rc = CAIRN_OK;
	for (size_t i = 0; rc == CAIRN_OK && i < p->plan.n_order; i++) {
		size_t at = p->plan.order[i];
		if (p->gone[at]) rc = add_decision(call, b, p, at, err);
	}
	for (size_t i = 0; rc == CAIRN_OK && c->all && i < p->n_blobs; i++) {
		if (!p->gone[i]) rc = add_decision(call, b, p, i, err);
	}
	if (rc == CAIRN_OK) rc = send_batch(call, b, err);
	if (rc) return rc;
	Cairn__V1__CollectGarbageResponse last = CAIRN__V1__COLLECT_GARBAGE_RESPONSE__INIT;
	last.summary = summary_message(call, &p->summary);
	return cairn_call_send(call, &last.base, err);
}

/* ---- the work ---- */

static bool is_on(void *job)
{
	return !cairn_job_stopped(job);
}

static enum cairn_code collect_work(struct cairn_job *job, void *arg, struct cairn_err *err)
{
	struct collect *c = arg;
	c->request.go_on = is_on;
	c->request.arg = job;
	return cairn_gc_run(c->service->gc, &c->request, &c->pass, err);
}

static enum cairn_code collect(struct collect *c, struct cairn_call *call, struct cairn_err *err)
{
	struct cairn_job_counts counts;
	enum cairn_code rc;
	if (atomic_fetch_add(&c->service->collecting, 1) >= CAIRN_GC_CALLS_MAX) {
		rc = cairn_err_set(err, CAIRN_RESOURCE_EXHAUSTED,
				   "%d garbage collections were asked for already; wait for one of "
				   "them to end",
				   CAIRN_GC_CALLS_MAX);
	} else {
		rc = cairn_job_run(call, collect_work, c, cairn_job_tell_nothing, &counts, err);
	}
	atomic_fetch_sub(&c->service->collecting, 1); /* a slow reader keeps nobody waiting */
	if (rc == CAIRN_OK) rc = send_pass(c, call, err);
	cairn_call_offload(call);
	cairn_gc_pass_fini(&c->pass);
	return rc;
}

enum cairn_code cairn_service_collect(void *arg, struct cairn_call *call, const void *req,
				      struct cairn_err *err)
{
	const Cairn__V1__CollectGarbageRequest *request = req;
	struct collect *c = cairn_call_alloc(call, sizeof(*c));
	c->service = arg;
	c->request.dry_run = request->dry_run;
	c->all = request->all;
	return collect(c, call, err);
}

enum cairn_code cairn_service_prune_request(struct cairn_cache *cache,
					    const Cairn__V1__PruneRequest *request,
					    char name[static CAIRN_NAME_MAX + 1],
					    struct cairn_gc_request *ret, struct cairn_err *err)
{
	struct cairn_version *versions;
	if (request->keep < 0 || request->keep > CAIRN_PRUNE_KEEP_MAX) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT, "keep is %lld; allowed: 0 to %d",
				     (long long)request->keep, CAIRN_PRUNE_KEEP_MAX);
	}
	enum cairn_code rc = cairn_service_name(cache, request->name, name, err);
	if (rc) return rc;
	size_t n = cairn_cache_versions(cache, name, &versions);
	cairn_versions_free(versions, n);
	if (n == 0) {
		return cairn_err_set(err, CAIRN_NOT_FOUND, "no version of %s is known", name);
	}
	*ret = (struct cairn_gc_request){
		.dry_run = request->dry_run, .prune = name, .prune_keep = request->keep};
	return CAIRN_OK;
}

enum cairn_code cairn_service_prune(void *arg, struct cairn_call *call, const void *req,
				    struct cairn_err *err)
{
	const Cairn__V1__PruneRequest *request = req;
	if (request->nodes[0] != '\0') return cairn_service_fleet_prune(arg, call, request, err);
	struct collect *c = cairn_call_alloc(call, sizeof(*c));
	char *name = cairn_call_alloc(call, CAIRN_NAME_MAX + 1);
	c->service = arg;
	enum cairn_code rc =
		cairn_service_prune_request(c->service->cache, request, name, &c->request, err);
	return rc ? rc : collect(c, call, err);
}

/* ---- status ---- */

static char *mark_text(struct cairn_call *call, const struct cairn_gc_mark *mark)
{
	char text[32];
	snprintf(text, sizeof(text), "%llu%s", (unsigned long long)mark->value,
		 mark->is_percent ? "%" : "");
	return cairn_call_strdup(call, text);
}

Cairn__V1__Gc *cairn_service_gc_status(struct cairn_admin_service *service, struct cairn_call *call)
{
	struct cairn_gc_status st;
	cairn_gc_get_status(service->gc, &st);
	Cairn__V1__Gc *msg = cairn_call_alloc(call, sizeof(*msg));
	cairn__v1__gc__init(msg);
	uint64_t used = st.disk.total > st.disk.free ? st.disk.total - st.disk.free : 0;
	msg->over_high_bytes = (int64_t)st.over_high;
	msg->over_low_bytes = (int64_t)st.over_low;
	msg->others_bytes = (int64_t)(used > st.disk.own ? used - st.disk.own : 0);
	msg->high_watermark = mark_text(call, &st.rules.marks.high);
	msg->low_watermark = mark_text(call, &st.rules.marks.low);
	msg->min_free = mark_text(call, &st.rules.marks.min_free);
	if (st.last.begun_real_ns != 0) {
		msg->last_pass = cairn_message_time(call, st.last.begun_real_ns);
		msg->last = summary_message(call, &st.last);
	}
	for (int why = CAIRN_GC_TTL; why < CAIRN_GC_WHYS; why++) {
		msg->evicted_blobs += (int64_t)st.evicted_blobs[why];
		msg->evicted_bytes += (int64_t)st.evicted_bytes[why];
	}
	msg->unrelieved = st.unrelieved;
	msg->pins = (int64_t)st.pins;
	msg->versions = (int64_t)st.versions;
	return msg;
}
