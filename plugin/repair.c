#include "plugin/repair.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "cache/history.h"
#include "oci/oci.h"
#include "plugin/patience.h"
#include "plugin/preheat.h"
#include "plugin/swarm_wait.h"

#define REST_MS 30000 /* before a registry that did not give a blob is asked for it again */

/* While anybody waits for it; guarded by the service's repair_mu. */
struct cairn_repair {
	struct cairn_repair *next;
	struct cairn_digest digest;
	unsigned refs;
	bool told;		       /* how it ended */
	bool submitting;	       /* somebody is at it, */
	struct cairn_preheat_job *job; /* and this is what came of it; counted; NULL: nothing yet */
};

static struct cairn_repair *join(struct cairn_content_service *service,
				 const struct cairn_digest *digest)
{
	pthread_mutex_lock(&service->repair_mu);
	struct cairn_repair *r = service->repairs;
	while (r != NULL && !cairn_digest_equal(&r->digest, digest)) r = r->next;
	if (r == NULL) {
		r = calloc(1, sizeof(*r));
		if (r == NULL) abort();
		r->digest = *digest;
		r->next = service->repairs;
		service->repairs = r;
	}
	r->refs++;
	pthread_mutex_unlock(&service->repair_mu);
	return r;
}

static bool is_queued(struct cairn_preheat_job *job)
{
	pthread_mutex_lock(&job->mu);
	bool queued = job->state == CAIRN__V1__JOB_STATE__QUEUED;
	pthread_mutex_unlock(&job->mu);
	return queued;
}

/* A job that nobody waits for goes on, but none is left in the queue: a reader who comes again and
 * again would fill it. */
static void leave(struct cairn_content_service *service, struct cairn_call *call,
		  struct cairn_repair *r)
{
	pthread_mutex_lock(&service->repair_mu);
	bool last = --r->refs == 0;
	struct cairn_repair **at = &service->repairs;
	while (last && *at != r) at = &(*at)->next;
	if (last) *at = r->next;
	pthread_mutex_unlock(&service->repair_mu);
	if (!last) return;
	if (r->job != NULL && is_queued(r->job)) {
		cairn_call_offload(call); /* it is written to disk */
		(void)cairn_preheat_cancel(service->preheat, r->job);
	}
	if (r->job != NULL) cairn_preheat_job_unref(r->job);
	free(r);
}

/* Whoever first sees the end tells of it; not those who were cancelled before. */
static void tell(struct cairn_content_service *service, struct cairn_repair *r, bool good,
		 const char *from, const struct cairn_err *why)
{
	char text[CAIRN_DIGEST_STR];
	if (!good && why->code == CAIRN_CANCELLED) return;
	pthread_mutex_lock(&service->repair_mu);
	bool first = !r->told;
	r->told = true;
	pthread_mutex_unlock(&service->repair_mu);
	if (!first) return;
	atomic_fetch_add_explicit(&service->repaired[good], 1, memory_order_relaxed);
	cairn_digest_format(&r->digest, text);
	if (good) {
		cairn_log(CAIRN_LOG_WARN, "blob_repaired", CAIRN_STR("digest", text),
			  CAIRN_STR("from", from));
	} else {
		cairn_log(CAIRN_LOG_ERROR, "blob_not_repaired", CAIRN_STR("digest", text),
			  CAIRN_ERRF(why));
	}
}

/* *ret_size: what it has when it is whole. */
static bool is_good(struct cairn_cache *cache, const struct cairn_digest *digest,
		    uint64_t *ret_size)
{
	struct cairn_err ignored;
	cairn_auto(cairn_blob_info_fini) struct cairn_blob_info info = {0};
	*ret_size = 0;
	if (cairn_cache_info(cache, digest, &info, &ignored) != CAIRN_OK) return false;
	*ret_size = info.size;
	return !info.damaged;
}

static bool fetch_once(struct cairn_content_service *service, struct cairn_call *call,
		       const struct cairn_digest *digest, uint64_t size, struct cairn_err *err)
{
	const struct cairn_swarm_wait wait = {.swarm = service->swarm,
					      .cache = service->cache,
					      .digest = digest,
					      .size = size,
					      .stall_ms = service->stall_ms,
					      .min_rate = service->min_rate};
	struct cairn_want *want = cairn_swarm_want(service->swarm, digest, size, false);
	enum cairn_want_state state = cairn_swarm_wait_in_call(&wait, want, call, err);
	cairn_want_release(want);
	if (state == CAIRN_WANT_HERE && is_good(service->cache, digest, &size)) return true;
	if (state != CAIRN_WANT_FAILED) {
		cairn_err_set(err, CAIRN_ABORTED, "it came, but is damaged again");
	}
	return false;
}

/* Soon after a start, or while etcd is away for a moment, nobody can say who has it: a pull goes on
 * without, but a Read would fail. So it is asked again, for stall_ms. */
static bool from_peers(struct cairn_content_service *service, struct cairn_call *call,
		       const struct cairn_digest *digest, uint64_t size, struct cairn_err *err)
{
	int64_t until = cairn_patience_now() + service->stall_ms;
	while (!fetch_once(service, call, digest, size, err)) {
		bool may_pass =
			err->code == CAIRN_UNAVAILABLE || err->code == CAIRN_DEADLINE_EXCEEDED;
		if (!may_pass || cairn_patience_now() >= until) return false;
		enum cairn_wake wake = cairn_call_wait(call, CAIRN_PATIENCE_LOOK_MS);
		if (wake == CAIRN_WAKE_GONE || wake == CAIRN_WAKE_DRAIN) {
			cairn_err_set(err, CAIRN_CANCELLED, "nobody reads it any more");
			return false;
		}
	}
	return true;
}

/* ---- from its registry ------------------------------------------------------------------------*/

static bool needs_it(const struct cairn_version *v, const struct cairn_digest *digest)
{
	if (cairn_digest_equal(&v->root, digest)) return true;
	for (size_t i = 0; v->needs != NULL && i < v->needs->n; i++) {
		if (cairn_digest_equal(&v->needs->list[i].digest, digest)) return true;
	}
	return false;
}

/* An image that needs it, by name and digest. Looks through all that is remembered: not on a
 * polling thread. */
static bool find_image(struct cairn_cache *cache, const struct cairn_digest *digest,
		       char ret[static CAIRN_REFERENCE_MAX + 256])
{
	struct cairn_version *list;
	struct cairn_reference ref;
	struct cairn_err ignored;
	size_t n = cairn_cache_versions(cache, NULL, &list);
	bool found = false;
	for (size_t i = 0; i < n && !found; i++) {
		if (!needs_it(&list[i], digest)) continue;
		if (cairn_reference_parse(list[i].name, &ref, &ignored) != CAIRN_OK) continue;
		ref.digest = list[i].root;
		ref.tag[0] = '\0'; /* it may stand for another version by now */
		cairn_reference_format(&ref, ret);
		found = true;
	}
	cairn_versions_free(list, n);
	return found;
}

static bool rests(struct cairn_content_service *service, const struct cairn_digest *digest)
{
	int64_t now_ms = cairn_patience_now();
	bool found = false;
	pthread_mutex_lock(&service->repair_mu);
	for (size_t i = 0; i < CAIRN_REPAIR_RESTS; i++) {
		const struct cairn_repair_rest *rest = &service->rests[i];
		found = found ||
			(rest->until_ms > now_ms && cairn_digest_equal(&rest->digest, digest));
	}
	pthread_mutex_unlock(&service->repair_mu);
	return found;
}

static void let_rest(struct cairn_content_service *service, const struct cairn_digest *digest)
{
	pthread_mutex_lock(&service->repair_mu);
	struct cairn_repair_rest *at = &service->rests[0]; /* the one that ends first */
	for (size_t i = 0; i < CAIRN_REPAIR_RESTS; i++) {
		struct cairn_repair_rest *rest = &service->rests[i];
		if (rest->until_ms < at->until_ms) at = rest;
	}
	*at = (struct cairn_repair_rest){*digest, cairn_patience_now() + REST_MS};
	pthread_mutex_unlock(&service->repair_mu);
}

static enum cairn_code submit(struct cairn_content_service *service,
			      const struct cairn_digest *digest, struct cairn_preheat_job **ret,
			      struct cairn_err *err)
{
	char image[CAIRN_REFERENCE_MAX + 256], text[CAIRN_DIGEST_STR], *images[] = {image};
	Cairn__V1__PreheatRequest request;
	if (!find_image(service->cache, digest, image)) {
		return cairn_err_set(err, CAIRN_NOT_FOUND,
				     "no other node gives it, and no image is known that needs it");
	}
	cairn__v1__preheat_request__init(&request);
	request.references = images;
	request.n_references = 1;
	cairn_digest_format(digest, text);
	request.repair = text;
	request.priority = CAIRN_JOB_PRIORITY_MAX;
	return cairn_preheat_submit(service->preheat, &request, ret, err);
}

/* The repair's job, or NULL: somebody else is about to submit it, or *err. */
static struct cairn_preheat_job *take_job(struct cairn_content_service *service,
					  struct cairn_call *call, struct cairn_repair *r,
					  struct cairn_err *err)
{
	pthread_mutex_lock(&service->repair_mu);
	struct cairn_preheat_job *job = r->job;
	bool ours = job == NULL && !r->submitting;
	if (ours) r->submitting = true;
	pthread_mutex_unlock(&service->repair_mu);
	if (!ours) return job;
	cairn_call_offload(call);
	if (submit(service, &r->digest, &job, err) != CAIRN_OK) job = NULL;
	pthread_mutex_lock(&service->repair_mu);
	r->job = job;
	r->submitting = false;
	pthread_mutex_unlock(&service->repair_mu);
	return job;
}

static uint64_t done_of(struct cairn_preheat_job *job)
{
	pthread_mutex_lock(&job->mu);
	uint64_t done = job->bytes_done;
	pthread_mutex_unlock(&job->mu);
	return done;
}

/* Why the blob did not come. */
static void why_not(struct cairn_preheat_job *job, struct cairn_err *err)
{
	pthread_mutex_lock(&job->mu);
	const char *text = job->n_blobs > 0 && job->blobs[0].error != NULL ? job->blobs[0].error
			   : job->images[0].error != NULL		   ? job->images[0].error
			   : job->why.code != CAIRN_OK			   ? job->why.msg
									   : "it was cancelled";
	cairn_err_set(err, CAIRN_UNAVAILABLE, "no other node gives it, and job %s (%.100s): %s",
		      job->id, job->images[0].name, text);
	pthread_mutex_unlock(&job->mu);
}

static bool from_registry(struct cairn_content_service *service, struct cairn_call *call,
			  struct cairn_repair *r, struct cairn_err *err)
{
	uint64_t done = 0, size;
	int64_t until_ms = cairn_patience_now() + CAIRN_PATIENCE_MS;
	if (service->preheat == NULL) return false;
	if (rests(service, &r->digest)) {
		cairn_err_set(err, CAIRN_UNAVAILABLE,
			      "no other node gives it, nor did its registry a moment ago");
		return false;
	}
	*err = (struct cairn_err){0};
	for (;;) {
		struct cairn_preheat_job *job = take_job(service, call, r, err);
		if (job == NULL && err->code != CAIRN_OK) break;
		if (job != NULL && cairn_preheat_job_is_over(job)) {
			if (is_good(service->cache, &r->digest, &size)) return true;
			why_not(job, err);
			break;
		}
		if (job != NULL && done_of(job) != done) {
			done = done_of(job);
			until_ms = cairn_patience_now() + CAIRN_PATIENCE_MS;
		}
		enum cairn_wake wake = cairn_call_wait(call, CAIRN_PATIENCE_LOOK_MS);
		if (wake == CAIRN_WAKE_GONE || wake == CAIRN_WAKE_DRAIN) {
			cairn_err_set(err, CAIRN_CANCELLED, "nobody reads it any more");
			return false;
		}
		if (cairn_patience_now() >= until_ms) {
			cairn_err_set(err, CAIRN_DEADLINE_EXCEEDED,
				      "no other node gives it, and nothing came of its job for "
				      "%d s",
				      CAIRN_PATIENCE_MS / 1000);
			break;
		}
	}
	let_rest(service, &r->digest);
	return false;
}

bool cairn_repair(struct cairn_content_service *service, struct cairn_call *call,
		  const struct cairn_digest *digest)
{
	struct cairn_err err = {0};
	uint64_t size;
	if (service->swarm == NULL && service->preheat == NULL) return false;
	if (is_good(service->cache, digest, &size)) return true; /* somebody else was faster */
	if (size == 0) return false;
	struct cairn_repair *r = join(service, digest);
	const char *from = "peers";
	bool good = service->swarm != NULL && from_peers(service, call, digest, size, &err);
	if (!good && err.code != CAIRN_CANCELLED) {
		from = "registry";
		good = from_registry(service, call, r, &err);
	}
	tell(service, r, good, from, &err);
	leave(service, call, r);
	return good;
}
