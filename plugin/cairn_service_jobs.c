/* Verify, Import, Export: handlers that start a job (plugin/job.h) and tell its progress. */
#include "plugin/cairn_service.h"

#include <stdlib.h>
#include <string.h>

#include "plugin/explain.h"
#include "plugin/job.h"
#include "plugin/message.h"
#include "plugin/transfer.h"

#define BATCH 64

/* ---- Verify: the work ---- */

struct verify {
	struct cairn_admin_service *service;
	struct cairn_call *call;
	size_t n; /* digests to look at; 0: all */
	struct cairn_digest *digests;
	uint64_t bytes_done;
	bool ask; /* containerd answers */
};

/* Errors: CANCELLED only; all else is a finding. */
static enum cairn_code verify_one(struct verify *v, struct cairn_job *job,
				  const struct cairn_digest *digest, enum cairn_blob_state state,
				  uint64_t size, struct cairn_err *err)
{
	char name[CAIRN_DIGEST_STR];
	struct cairn_err finding;
	enum cairn_code rc =
		cairn_cache_verify(v->service->cache, digest, cairn_job_bytes, job, &finding);
	if (rc == CAIRN_CANCELLED) {
		*err = finding;
		return rc;
	}
	cairn_digest_format(digest, name);
	/* Not found: it was dropped while we came to it, unless it was asked for by name. */
	if (rc == CAIRN_NOT_FOUND && v->n > 0) {
		cairn_job_find(job, name, 0, "not here");
	} else if (rc != CAIRN_OK && rc != CAIRN_NOT_FOUND) {
		cairn_job_find(job, name, state, finding.msg);
	}
	v->bytes_done += size;
	cairn_job_set_bytes(job, v->bytes_done);
	cairn_job_add(job, &(struct cairn_job_counts){.blobs_done = 1});
	return CAIRN_OK;
}

static enum cairn_code verify_named(struct verify *v, struct cairn_job *job, struct cairn_err *err)
{
	struct cairn_err ignored;
	for (size_t pass = 0; pass < 2; pass++) { /* the first one counts */
		for (size_t i = 0; i < v->n; i++) {
			struct cairn_blob_info info = {0};
			if (cairn_job_stopped(job)) {
				return cairn_err_set(err, CAIRN_CANCELLED, "stopped");
			}
			(void)!cairn_cache_info(v->service->cache, &v->digests[i], &info, &ignored);
			const uint64_t size = info.size;
			const enum cairn_blob_state state = info.state;
			cairn_blob_info_fini(&info);
			if (pass == 0) {
				cairn_job_add(job, &(struct cairn_job_counts){.blobs_total = 1,
									      .bytes_total = size});
				continue;
			}
			enum cairn_code rc = verify_one(v, job, &v->digests[i], state, size, err);
			if (rc) return rc;
		}
	}
	return CAIRN_OK;
}

static enum cairn_code verify_all(struct verify *v, struct cairn_job *job, struct cairn_err *err)
{
	struct cairn_cache_stats stats;
	struct cairn_digest after = {0};
	enum cairn_code rc = CAIRN_OK;
	cairn_cache_stats(v->service->cache, &stats);
	const struct cairn_job_counts total = {
		.blobs_total = stats.cached_blobs + stats.referenced_blobs,
		.bytes_total = stats.cached_bytes + stats.referenced_bytes};
	cairn_job_add(job, &total);
	struct cairn_blob_info *batch = calloc(BATCH, sizeof(*batch));
	if (batch == NULL) return cairn_err_set(err, CAIRN_RESOURCE_EXHAUSTED, "out of memory");
	while (rc == CAIRN_OK) {
		size_t n = cairn_cache_next(v->service->cache, &after, 0, batch, BATCH);
		if (n == 0) break;
		after = batch[n - 1].digest;
		for (size_t i = 0; i < n; i++) {
			if (rc == CAIRN_OK && cairn_job_stopped(job)) {
				rc = cairn_err_set(err, CAIRN_CANCELLED, "stopped");
			}
			if (rc == CAIRN_OK) {
				rc = verify_one(v, job, &batch[i].digest, batch[i].state,
						batch[i].size, err);
			}
			cairn_blob_info_fini(&batch[i]);
		}
	}
	free(batch);
	return rc;
}

static enum cairn_code verify_work(struct cairn_job *job, void *arg, struct cairn_err *err)
{
	struct verify *v = arg;
	return v->n > 0 ? verify_named(v, job, err) : verify_all(v, job, err);
}

/* ---- Verify: the telling ---- */

static Cairn__V1__VerifyFinding *finding_message(struct verify *v,
						 const struct cairn_job_finding *f)
{
	struct cairn_call *call = v->call;
	struct cairn_err err;
	struct cairn_digest digest;
	struct cairn_recorder *recorders = NULL;
	size_t n = 0;
	Cairn__V1__VerifyFinding *msg = cairn_call_alloc(call, sizeof(*msg));
	cairn__v1__verify_finding__init(msg);
	msg->digest = cairn_call_strdup(call, f->name);
	msg->problem = cairn_call_strdup(call, f->problem);
	if (f->state == CAIRN_BLOB_CACHED) msg->state = CAIRN__V1__BLOB_STATE__CACHED;
	if (f->state != CAIRN_BLOB_REFERENCED) return msg; /* nothing to heal */
	msg->state = CAIRN__V1__BLOB_STATE__REFERENCED;
	if (cairn_digest_parse(f->name, strlen(f->name), &digest, &err) != CAIRN_OK) return msg;
	/* Whoever did not answer once is not waited for again. */
	if (v->ask) {
		v->ask = cairn_recorders_ask(call, cairn_runtime_channel(v->service->runtime),
					     &digest, &recorders, &n, &err) == CAIRN_OK;
	}
	if (v->ask && n == 0) return msg; /* no image misses it */
	msg->remedies = cairn_call_alloc(call, CAIRN_REMEDIES_MAX * sizeof(char *));
	msg->n_remedies =
		cairn_remedies(v->service, call, &digest, recorders, n, v->ask, msg->remedies);
	return msg;
}

static enum cairn_code send_verify(struct verify *v, const struct cairn_job_counts *counts,
				   const struct cairn_job_finding *findings, size_t n, bool done,
				   struct cairn_err *err)
{
	Cairn__V1__VerifyProgress msg = CAIRN__V1__VERIFY_PROGRESS__INIT;
	msg.blobs_done = (int64_t)counts->blobs_done;
	msg.blobs_total = (int64_t)counts->blobs_total;
	msg.bytes_done = (int64_t)counts->bytes_done;
	msg.bytes_total = (int64_t)counts->bytes_total;
	msg.done = done;
	if (n > 0) msg.findings = cairn_call_alloc(v->call, n * sizeof(void *));
	for (size_t i = 0; i < n; i++) msg.findings[i] = finding_message(v, &findings[i]);
	msg.n_findings = n;
	return cairn_call_send(v->call, &msg.base, err);
}

static enum cairn_code tell_verify(void *arg, const struct cairn_job_counts *counts,
				   const struct cairn_job_finding *findings, size_t n,
				   struct cairn_err *err)
{
	return send_verify(arg, counts, findings, n, false, err);
}

static enum cairn_code parse_digests(struct verify *v, const Cairn__V1__VerifyRequest *request,
				     struct cairn_err *err)
{
	if (request->n_digests > CAIRN_VERIFY_DIGESTS_MAX) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "%zu digests in one call; at most %d are allowed",
				     request->n_digests, CAIRN_VERIFY_DIGESTS_MAX);
	}
	v->digests = cairn_call_alloc(v->call, (request->n_digests + 1) * sizeof(*v->digests));
	for (v->n = 0; v->n < request->n_digests; v->n++) {
		const char *s = request->digests[v->n];
		enum cairn_code rc = cairn_digest_parse(s, strlen(s), &v->digests[v->n], err);
		if (rc) return rc;
	}
	return CAIRN_OK;
}

enum cairn_code cairn_service_verify(void *arg, struct cairn_call *call, const void *request,
				     struct cairn_err *err)
{
	struct cairn_admin_service *service = arg;
	struct verify *v = cairn_call_alloc(call, sizeof(*v));
	struct cairn_job_counts counts;
	*v = (struct verify){.service = service, .call = call, .ask = true};
	enum cairn_code rc = parse_digests(v, request, err);
	if (rc) return rc;
	if (atomic_fetch_add(&service->verifying, 1) >= CAIRN_VERIFY_CALLS_MAX) {
		rc = cairn_err_set(err, CAIRN_RESOURCE_EXHAUSTED,
				   "%d verify calls run already; wait for one of them to end",
				   CAIRN_VERIFY_CALLS_MAX);
	}
	if (rc == CAIRN_OK) rc = cairn_job_run(call, verify_work, v, tell_verify, &counts, err);
	atomic_fetch_sub(&service->verifying, 1);
	return rc ? rc : send_verify(v, &counts, NULL, 0, true, err);
}

/* ---- Import and Export ---- */

struct telling {
	struct cairn_transfer transfer; /* first: it is what the job functions take */
	struct cairn_call *call;
};

static void set_counts(Cairn__V1__TransferProgress *msg, const struct cairn_job_counts *counts)
{
	msg->blobs_done = (int64_t)counts->blobs_done;
	msg->blobs_total = (int64_t)counts->blobs_total;
	msg->bytes_done = (int64_t)counts->bytes_done;
	msg->bytes_total = (int64_t)counts->bytes_total;
	msg->linked = (int64_t)counts->linked;
	msg->copied = (int64_t)counts->copied;
	msg->present = (int64_t)counts->present;
	msg->ignored = (int64_t)counts->ignored;
}

static enum cairn_code tell_transfer(void *arg, const struct cairn_job_counts *counts,
				     const struct cairn_job_finding *findings, size_t n,
				     struct cairn_err *err)
{
	struct telling *t = arg;
	Cairn__V1__TransferProgress msg;
	cairn__v1__transfer_progress__init(&msg);
	set_counts(&msg, counts);
	if (n > 0) msg.failures = cairn_call_alloc(t->call, n * sizeof(void *));
	for (size_t i = 0; i < n; i++) {
		Cairn__V1__TransferFailure *f = cairn_call_alloc(t->call, sizeof(*f));
		cairn__v1__transfer_failure__init(f);
		f->digest = cairn_call_strdup(t->call, findings[i].name);
		f->problem = cairn_call_strdup(t->call, findings[i].problem);
		msg.failures[i] = f;
	}
	msg.n_failures = n;
	return cairn_call_send(t->call, &msg.base, err);
}

static enum cairn_code send_report(struct telling *t, const struct cairn_job_counts *counts,
				   struct cairn_err *err)
{
	const struct cairn_records_report *r = &t->transfer.report;
	Cairn__V1__TransferProgress msg;
	cairn__v1__transfer_progress__init(&msg);
	set_counts(&msg, counts);
	msg.done = true;
	msg.records_known = r->known;
	msg.records_missing = r->missing;
	msg.runtime_running = r->running;
	msg.recorded = (int64_t)r->recorded;
	msg.absent_total = (int64_t)r->absent_total;
	msg.records_error = cairn_call_strdup(t->call, r->error);
	msg.records_path = cairn_call_strdup(t->call, r->path);
	if (r->n_absent > 0) {
		msg.absent = cairn_call_alloc(t->call, r->n_absent * sizeof(void *));
	}
	for (size_t i = 0; i < r->n_absent; i++) {
		Cairn__V1__RecordedAbsent *a = cairn_call_alloc(t->call, sizeof(*a));
		cairn__v1__recorded_absent__init(a);
		a->namespace_ = cairn_call_strdup(t->call, r->absent[i].ns);
		a->digest = cairn_message_digest(t->call, &r->absent[i].digest);
		msg.absent[i] = a;
	}
	msg.n_absent = r->n_absent;
	return cairn_call_send(t->call, &msg.base, err);
}

static enum cairn_code transfer(struct cairn_admin_service *service, struct cairn_call *call,
				const char *directory, const char *metadata, cairn_job_fn *work,
				struct cairn_err *err)
{
	struct telling *t = cairn_call_alloc(call, sizeof(*t));
	struct cairn_job_counts counts;
	bool busy = false;
	t->call = call;
	t->transfer.cache = service->cache;
	t->transfer.state_dir = service->state_dir;
	t->transfer.directory = directory;
	t->transfer.metadata = metadata;
	enum cairn_code rc = cairn_transfer_init(&t->transfer, err);
	if (rc) return rc;
	if (!atomic_compare_exchange_strong(&service->transferring, &busy, true)) {
		cairn_transfer_fini(&t->transfer);
		return cairn_err_set(err, CAIRN_FAILED_PRECONDITION,
				     "an import or export is running already; wait for its end, or "
				     "stop it (Ctrl-C in its cairnctl)");
	}
	rc = cairn_job_run(call, work, t, tell_transfer, &counts, err);
	atomic_store(&service->transferring, false);
	if (rc == CAIRN_OK) rc = send_report(t, &counts, err);
	cairn_transfer_fini(&t->transfer);
	return rc;
}

enum cairn_code cairn_service_import(void *service, struct cairn_call *call, const void *req,
				     struct cairn_err *err)
{
	const Cairn__V1__ImportRequest *request = req;
	return transfer(service, call, request->directory, request->metadata, cairn_transfer_import,
			err);
}

enum cairn_code cairn_service_export(void *service, struct cairn_call *call, const void *req,
				     struct cairn_err *err)
{
	const Cairn__V1__ExportRequest *request = req;
	return transfer(service, call, request->directory, request->metadata, cairn_transfer_export,
			err);
}
