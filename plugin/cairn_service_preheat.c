/* Preheat, ListJobs, GetJob, CancelJob.
 *
 * A handler looks at its job a few times a second and tells what changed. It holds no thread while
 * it waits. */
#include <stdlib.h>
#include <string.h>

#include "plugin/cairn_service.h"
#include "plugin/fleet.h"
#include "plugin/preheat.h"

#define TELL_MS 200
#define BLOBS_MAX 500 /* in one message */
#define NODES_MAX 200

static enum cairn_code no_preheat(struct cairn_err *err)
{
	return cairn_err_set(err, CAIRN_UNAVAILABLE, "preheat does not run in this daemon");
}

/* ---- progress ---------------------------------------------------------------------------------*/

/* What of the job was told already. */
struct told {
	uint64_t change;
	size_t next; /* blobs, or nodes, before it are told, when a round did not fit into one
			message */
};

/* Nodes likewise: a job has them or blobs. */
static bool add_nodes(struct cairn_preheat_job *job, struct told *told, Cairn__V1__JobProgress *msg)
{
	msg->nodes = calloc(NODES_MAX, sizeof(msg->nodes[0]));
	if (msg->nodes == NULL) abort();
	pthread_mutex_lock(&job->mu);
	const struct cairn_fleet *f = job->fleet;
	uint64_t now = job->change;
	size_t i = told->next;
	for (; i < f->n && msg->n_nodes < NODES_MAX; i++) {
		if (f->list[i].change <= told->change) continue;
		msg->nodes[msg->n_nodes++] = cairn_fleet_node_message(&f->list[i]);
	}
	bool all = i >= f->n;
	told->next = all ? 0 : i;
	if (all) told->change = now;
	pthread_mutex_unlock(&job->mu);
	return all;
}

/* Blobs that changed since *told, as many as fit. Returns whether that was all. */
static bool add_blobs(struct cairn_preheat_job *job, struct told *told, Cairn__V1__JobProgress *msg)
{
	msg->blobs = calloc(BLOBS_MAX, sizeof(msg->blobs[0]));
	if (msg->blobs == NULL) abort();
	pthread_mutex_lock(&job->mu);
	uint64_t now = job->change;
	size_t i = told->next;
	for (; i < job->n_blobs && msg->n_blobs < BLOBS_MAX; i++) {
		if (job->blobs[i].change <= told->change) continue;
		msg->blobs[msg->n_blobs++] = cairn_preheat_blob_message(&job->blobs[i]);
	}
	bool all = i >= job->n_blobs;
	told->next = all ? 0 : i;
	if (all) told->change = now; /* a blob that changed behind i is told twice, not never */
	pthread_mutex_unlock(&job->mu);
	return all;
}

/* Everything that is new, in as many messages as it takes; done is in the last. */
static enum cairn_code send_news(struct cairn_call *call, struct cairn_preheat_job *job,
				 struct told *told, bool done, struct cairn_err *err)
{
	for (bool all = false; !all;) {
		Cairn__V1__JobProgress *msg = malloc(sizeof(*msg));
		if (msg == NULL) abort();
		cairn__v1__job_progress__init(msg);
		all = job->fleet != NULL ? add_nodes(job, told, msg) : add_blobs(job, told, msg);
		msg->job = cairn_preheat_job_message(job);
		msg->done = done && all;
		enum cairn_code rc = cairn_call_send(call, &msg->base, err);
		cairn__v1__job_progress__free_unpacked(msg, NULL);
		if (rc) return rc;
	}
	return CAIRN_OK;
}

static uint64_t change_of(struct cairn_preheat_job *job)
{
	pthread_mutex_lock(&job->mu);
	uint64_t change = job->change;
	pthread_mutex_unlock(&job->mu);
	return change;
}

/* Until it is over. Errors: CANCELLED (the client went), UNAVAILABLE (the daemon goes). */
static enum cairn_code watch(struct cairn_call *call, struct cairn_preheat_job *job,
			     struct cairn_err *err)
{
	struct told told = {0};
	for (bool first = true;; first = false) {
		bool over = cairn_preheat_job_is_over(job);
		if (over || first || change_of(job) != told.change) {
			enum cairn_code rc = send_news(call, job, &told, over, err);
			if (rc || over) return rc;
		}
		switch (cairn_call_wait(call, TELL_MS)) {
		case CAIRN_WAKE_GONE:
			return cairn_err_set(err, CAIRN_CANCELLED, "cancelled by the client");
		case CAIRN_WAKE_DRAIN:
			return cairn_err_set(err, CAIRN_UNAVAILABLE,
					     "the daemon is shutting down; job %s goes on when it "
					     "is back",
					     job->id);
		case CAIRN_WAKE_SIGNAL:
		case CAIRN_WAKE_TIMEOUT:
		default:
			break;
		}
	}
}

/* ---- the calls --------------------------------------------------------------------------------*/

enum cairn_code cairn_service_preheat(void *arg, struct cairn_call *call, const void *req,
				      struct cairn_err *err)
{
	struct cairn_admin_service *service = arg;
	const Cairn__V1__PreheatRequest *request = req;
	struct cairn_preheat_job *job = NULL;
	if (service->preheat == NULL) return no_preheat(err);
	cairn_call_offload(call); /* it is written to disk */
	enum cairn_code rc = request->fleet != NULL
				     ? cairn_service_fleet_submit(service, call, request, &job, err)
				     : cairn_preheat_submit(service->preheat, request, &job, err);
	if (rc) return rc;
	if (request->detach) {
		struct told told = {0};
		rc = send_news(call, job, &told, false, err);
	} else {
		rc = watch(call, job, err);
		/* Who asked and does not wait for it does not want it any more. */
		if (rc == CAIRN_CANCELLED) {
			cairn_call_offload(call); /* it may be written to disk */
			(void)cairn_preheat_cancel(service->preheat, job);
		}
	}
	cairn_preheat_job_unref(job);
	return rc;
}

enum cairn_code cairn_service_get_job(void *arg, struct cairn_call *call, const void *req,
				      struct cairn_err *err)
{
	struct cairn_admin_service *service = arg;
	const Cairn__V1__GetJobRequest *request = req;
	struct told told = {0};
	if (service->preheat == NULL) return no_preheat(err);
	struct cairn_preheat_job *job = cairn_preheat_find(service->preheat, request->id);
	if (job == NULL) {
		return cairn_err_set(err, CAIRN_NOT_FOUND, "there is no job \"%.40s\"",
				     request->id);
	}
	enum cairn_code rc =
		request->watch ? watch(call, job, err) : send_news(call, job, &told, true, err);
	cairn_preheat_job_unref(job);
	return rc;
}

enum cairn_code cairn_service_list_jobs(void *arg, struct cairn_call *call, const void *req,
					struct cairn_err *err)
{
	(void)req;
	struct cairn_admin_service *service = arg;
	struct cairn_preheat_job **list = NULL;
	enum cairn_code rc = CAIRN_OK;
	if (service->preheat == NULL) return no_preheat(err);
	size_t n = cairn_preheat_list(service->preheat, &list);
	for (size_t i = 0; i < n; i++) {
		Cairn__V1__ListJobsResponse msg = CAIRN__V1__LIST_JOBS_RESPONSE__INIT;
		Cairn__V1__Job *job = rc == CAIRN_OK ? cairn_preheat_job_message(list[i]) : NULL;
		cairn_preheat_job_unref(list[i]);
		if (job == NULL) continue;
		msg.jobs = &job;
		msg.n_jobs = 1;
		rc = cairn_call_send(call, &msg.base, err);
		cairn__v1__job__free_unpacked(job, NULL);
	}
	free(list);
	return rc;
}

enum cairn_code cairn_service_cancel_job(void *arg, struct cairn_call *call, const void *req,
					 void *ret, struct cairn_err *err)
{
	struct cairn_admin_service *service = arg;
	const Cairn__V1__CancelJobRequest *request = req;
	Cairn__V1__CancelJobResponse *response = ret;
	if (service->preheat == NULL) return no_preheat(err);
	struct cairn_preheat_job *job = cairn_preheat_find(service->preheat, request->id);
	if (job == NULL) {
		return cairn_err_set(err, CAIRN_NOT_FOUND, "there is no job \"%.40s\"",
				     request->id);
	}
	cairn_call_offload(call);
	response->was_running = cairn_preheat_cancel(service->preheat, job);
	cairn_preheat_job_unref(job);
	return CAIRN_OK;
}
