/* cairn.v1.Cairn: what cairnctl calls. Status, ListBlobs, Explain; the long jobs are next door. */
#include "plugin/cairn_service.h"

#include <string.h>

#include "plugin/explain.h"
#include "plugin/gc.h"
#include "plugin/message.h"

#define BATCH 100 /* blobs in one message of ListBlobs */

static void status_of_runtime(struct cairn_admin_service *service, struct cairn_call *call,
			      Cairn__V1__StatusResponse *response)
{
	struct cairn_runtime_status rt;
	cairn_runtime_get_status(service->runtime, &rt);
	Cairn__V1__Runtime *msg = cairn_call_alloc(call, sizeof(*msg));
	cairn__v1__runtime__init(msg);
	msg->address = cairn_call_strdup(call, rt.address);
	msg->reachable = rt.reachable;
	if (rt.last_listing_ns != 0) {
		msg->last_listing = cairn_message_time(call, rt.last_listing_ns);
	}
	msg->recorded = (int64_t)rt.recorded;
	msg->missing = (int64_t)rt.missing;
	msg->error = cairn_call_strdup(call, rt.error);
	response->runtime = msg;
}

static enum cairn_code status(void *arg, struct cairn_call *call, const void *request, void *ret,
			      struct cairn_err *err)
{
	(void)request, (void)err;
	struct cairn_admin_service *service = arg;
	Cairn__V1__StatusResponse *response = ret;
	struct cairn_cache_stats stats;
	cairn_call_offload(call); /* the state of the disk is asked of the disk */
	cairn_cache_stats(service->cache, &stats);
	response->version = cairn_call_strdup(call, service->version);
	response->state_dir = cairn_call_strdup(call, service->state_dir);
	response->listen = cairn_call_strdup(call, service->listen);
	response->started_at = cairn_message_time(call, service->started_ns);
	response->cached_blobs = (int64_t)stats.cached_blobs;
	response->cached_bytes = (int64_t)stats.cached_bytes;
	response->referenced_blobs = (int64_t)stats.referenced_blobs;
	response->referenced_bytes = (int64_t)stats.referenced_bytes;
	response->damaged_blobs = (int64_t)stats.damaged_blobs;
	response->ingests = (int64_t)stats.ingests;
	response->ingest_bytes = (int64_t)stats.ingest_bytes;
	response->disk_total_bytes = (int64_t)stats.disk_total_bytes;
	response->disk_free_bytes = (int64_t)stats.disk_free_bytes;
	status_of_runtime(service, call, response);
	response->gc = cairn_service_gc_status(service, call);
	response->swarm = cairn_service_swarm_status(service, call);
	return CAIRN_OK;
}

/* ---- ListBlobs ---- */

/* Storage for one message, used again for the next, so that a long list needs no more of it. */
struct batch {
	struct cairn_blob_info infos[BATCH];
	Cairn__V1__Blob blobs[BATCH];
	Cairn__V1__Blob *list[BATCH];
	Cairn__Wire__Timestamp times[BATCH][2];
	char digests[BATCH][CAIRN_DIGEST_STR];
	Cairn__V1__ListBlobsResponse response;
	struct cairn_gc_look *look; /* what garbage collection would decide */
};

static void set_time(Cairn__Wire__Timestamp *ts, int64_t ns)
{
	cairn__wire__timestamp__init(ts);
	ts->seconds = ns / CAIRN_NS_PER_S - (ns % CAIRN_NS_PER_S < 0);
	ts->nanos = (int32_t)(ns - ts->seconds * CAIRN_NS_PER_S);
}

/* The i-th blob of the batch, without its labels: Explain has those. */
static void set_blob(struct batch *b, size_t i)
{
	const struct cairn_blob_info *info = &b->infos[i];
	Cairn__V1__Blob *blob = &b->blobs[i];
	cairn__v1__blob__init(blob);
	cairn_digest_format(&info->digest, b->digests[i]);
	set_time(&b->times[i][0], info->created_ns);
	set_time(&b->times[i][1], info->updated_ns);
	blob->digest = b->digests[i];
	blob->size = (int64_t)info->size;
	blob->state = info->state == CAIRN_BLOB_REFERENCED ? CAIRN__V1__BLOB_STATE__REFERENCED
							   : CAIRN__V1__BLOB_STATE__CACHED;
	blob->created_at = &b->times[i][0];
	blob->updated_at = &b->times[i][1];
	blob->idle_seconds = info->idle_ns / CAIRN_NS_PER_S;
	blob->damaged = info->damaged;
	blob->namespaces = info->owners;
	while (info->owners != NULL && info->owners[blob->n_namespaces] != NULL) {
		blob->n_namespaces++;
	}
	const struct cairn_gc_decision *d = cairn_gc_pass_find(&b->look->pass, &info->digest);
	if (d == NULL) return; /* it came since */
	blob->why = (char *)(uintptr_t)cairn_gc_why_name(d->why);
	blob->what = (char *)(uintptr_t)d->what;
	blob->evict = cairn_gc_evicts(d->why);
}

static enum cairn_code send_batch(struct cairn_call *call, struct batch *b, size_t n,
				  bool damaged_only, struct cairn_err *err)
{
	cairn__v1__list_blobs_response__init(&b->response);
	b->response.blobs = b->list;
	for (size_t i = 0; i < n; i++) {
		if (damaged_only && !b->infos[i].damaged) continue;
		set_blob(b, i);
		b->list[b->response.n_blobs++] = &b->blobs[i];
	}
	enum cairn_code rc = CAIRN_OK;
	if (b->response.n_blobs > 0) rc = cairn_call_send(call, &b->response.base, err);
	for (size_t i = 0; i < n; i++) cairn_blob_info_fini(&b->infos[i]);
	return rc;
}

static enum cairn_code send_all(struct cairn_admin_service *service, struct cairn_call *call,
				struct batch *b, enum cairn_blob_state state, bool damaged_only,
				struct cairn_err *err)
{
	struct cairn_digest after = {0};
	for (size_t n;
	     (n = cairn_cache_next(service->cache, &after, state, b->infos, BATCH)) > 0;) {
		after = b->infos[n - 1].digest;
		enum cairn_code rc = send_batch(call, b, n, damaged_only, err);
		if (rc) return rc;
		if (cairn_call_gone(call)) {
			return cairn_err_set(err, CAIRN_CANCELLED, "cancelled by the client");
		}
	}
	return CAIRN_OK;
}

static enum cairn_code list_blobs(void *arg, struct cairn_call *call, const void *req,
				  struct cairn_err *err)
{
	struct cairn_admin_service *service = arg;
	const Cairn__V1__ListBlobsRequest *request = req;
	struct batch *b = cairn_call_alloc(call, sizeof(*b));
	enum cairn_blob_state state;
	switch (request->state) {
	case CAIRN__V1__BLOB_STATE__UNKNOWN_STATE:
		state = 0;
		break;
	case CAIRN__V1__BLOB_STATE__CACHED:
		state = CAIRN_BLOB_CACHED;
		break;
	case CAIRN__V1__BLOB_STATE__REFERENCED:
		state = CAIRN_BLOB_REFERENCED;
		break;
	default:
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT, "no blob state has number %d",
				     (int)request->state);
	}
	cairn_call_offload(call);
	b->look = cairn_gc_look(service->gc);
	enum cairn_code rc = send_all(service, call, b, state, request->damaged_only, err);
	cairn_call_offload(call); /* as sending has ended that */
	cairn_gc_look_unref(b->look);
	return rc;
}

static enum cairn_code explain(void *arg, struct cairn_call *call, const void *request, void *ret,
			       struct cairn_err *err)
{
	return cairn_explain(arg, call, request, ret, err);
}

#define METHOD(name) .path = "/cairn.v1.Cairn/" name

static const struct cairn_method methods[] = {
	{METHOD("Status"), .request = &cairn__v1__status_request__descriptor,
	 .response = &cairn__v1__status_response__descriptor, .unary = status},
	{METHOD("ListBlobs"), .request = &cairn__v1__list_blobs_request__descriptor,
	 .server_stream = list_blobs},
	{METHOD("Preheat"), .request = &cairn__v1__preheat_request__descriptor,
	 .server_stream = cairn_service_preheat},
	{METHOD("ListJobs"), .request = &cairn__v1__list_jobs_request__descriptor,
	 .server_stream = cairn_service_list_jobs},
	{METHOD("GetJob"), .request = &cairn__v1__get_job_request__descriptor,
	 .server_stream = cairn_service_get_job},
	{METHOD("CancelJob"), .request = &cairn__v1__cancel_job_request__descriptor,
	 .response = &cairn__v1__cancel_job_response__descriptor,
	 .unary = cairn_service_cancel_job},
	{METHOD("ListVersions"), .request = &cairn__v1__list_versions_request__descriptor,
	 .server_stream = cairn_service_versions},
	{METHOD("CollectGarbage"), .request = &cairn__v1__collect_garbage_request__descriptor,
	 .server_stream = cairn_service_collect},
	{METHOD("Prune"), .request = &cairn__v1__prune_request__descriptor,
	 .server_stream = cairn_service_prune},
	{METHOD("Pin"), .request = &cairn__v1__pin_request__descriptor,
	 .response = &cairn__v1__pin_response__descriptor, .unary = cairn_service_pin},
	{METHOD("Unpin"), .request = &cairn__v1__unpin_request__descriptor,
	 .response = &cairn__v1__unpin_response__descriptor, .unary = cairn_service_unpin},
	{METHOD("Explain"), .request = &cairn__v1__explain_request__descriptor,
	 .response = &cairn__v1__explain_response__descriptor, .unary = explain},
	{METHOD("ListPeers"), .request = &cairn__v1__list_peers_request__descriptor,
	 .server_stream = cairn_service_list_peers},
	{METHOD("Verify"), .request = &cairn__v1__verify_request__descriptor,
	 .server_stream = cairn_service_verify},
	{METHOD("Import"), .request = &cairn__v1__import_request__descriptor,
	 .server_stream = cairn_service_import},
	{METHOD("Export"), .request = &cairn__v1__export_request__descriptor,
	 .server_stream = cairn_service_export},
};

void cairn_admin_service_add(struct cairn_rpc_server *server, struct cairn_admin_service *service)
{
	cairn_rpc_server_add(server, methods, CAIRN_LEN(methods), service);
}
