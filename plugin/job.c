#include "plugin/job.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define JOB_NICE 5

static void *run(void *arg)
{
	struct cairn_job *job = arg;
	/* On Linux this is the thread's own niceness. It may fail; then the job is not nice. */
	(void)setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), JOB_NICE);
	job->rc = job->fn(job, job->arg, &job->err);
	pthread_mutex_lock(&job->mu);
	job->done = true;
	pthread_mutex_unlock(&job->mu);
	cairn_call_signal(job->call);
	return NULL;
}

static void fini(struct cairn_job *job)
{
	pthread_cond_destroy(&job->room);
	pthread_mutex_destroy(&job->mu);
	free(job->findings);
	cairn_call_unref(job->call);
}

enum cairn_code cairn_job_start(struct cairn_job *job, struct cairn_call *call, cairn_job_fn *fn,
				void *arg, struct cairn_err *err)
{
	*job = (struct cairn_job){.fn = fn, .arg = arg, .call = cairn_call_ref(call)};
	pthread_mutex_init(&job->mu, NULL);
	pthread_cond_init(&job->room, NULL);
	job->findings = calloc(CAIRN_JOB_FINDINGS_MAX, sizeof(*job->findings));
	int rc = job->findings == NULL ? ENOMEM : pthread_create(&job->thread, NULL, run, job);
	if (rc == 0) return CAIRN_OK;
	fini(job);
	return cairn_err_set(err, CAIRN_RESOURCE_EXHAUSTED, "start a thread for the job: %s",
			     strerrordesc_np(rc));
}

static void copy_text(char *to, size_t cap, const char *from)
{
	size_t n = strnlen(from, cap - 1);
	memcpy(to, from, n);
	to[n] = '\0';
}

bool cairn_job_bytes(void *arg, uint64_t bytes)
{
	struct cairn_job *job = arg;
	pthread_mutex_lock(&job->mu);
	job->counts.bytes_done += bytes;
	bool go_on = !job->stop;
	pthread_mutex_unlock(&job->mu);
	return go_on;
}

void cairn_job_set_bytes(struct cairn_job *job, uint64_t done)
{
	pthread_mutex_lock(&job->mu);
	job->counts.bytes_done = done;
	pthread_mutex_unlock(&job->mu);
}

bool cairn_job_stopped(struct cairn_job *job)
{
	return !cairn_job_bytes(job, 0);
}

void cairn_job_add(struct cairn_job *job, const struct cairn_job_counts *more)
{
	pthread_mutex_lock(&job->mu);
	struct cairn_job_counts *c = &job->counts;
	c->blobs_done += more->blobs_done;
	c->blobs_total += more->blobs_total;
	c->bytes_done += more->bytes_done;
	c->bytes_total += more->bytes_total;
	c->linked += more->linked;
	c->copied += more->copied;
	c->present += more->present;
	c->ignored += more->ignored;
	pthread_mutex_unlock(&job->mu);
}

void cairn_job_find(struct cairn_job *job, const char *name, enum cairn_blob_state state,
		    const char *problem)
{
	pthread_mutex_lock(&job->mu);
	while (job->n_findings == CAIRN_JOB_FINDINGS_MAX && !job->stop) {
		pthread_cond_wait(&job->room, &job->mu);
	}
	if (job->n_findings < CAIRN_JOB_FINDINGS_MAX) {
		struct cairn_job_finding *f = &job->findings[job->n_findings++];
		copy_text(f->name, sizeof(f->name), name);
		copy_text(f->problem, sizeof(f->problem), problem);
		f->state = state;
	}
	pthread_mutex_unlock(&job->mu);
}

size_t cairn_job_take(struct cairn_job *job, struct cairn_job_counts *ret_counts,
		      struct cairn_job_finding *ret)
{
	pthread_mutex_lock(&job->mu);
	size_t n = job->n_findings;
	*ret_counts = job->counts;
	if (n > 0) memcpy(ret, job->findings, n * sizeof(*ret));
	job->n_findings = 0;
	pthread_cond_broadcast(&job->room);
	pthread_mutex_unlock(&job->mu);
	return n;
}

enum cairn_code cairn_job_tell_nothing(void *arg, const struct cairn_job_counts *counts,
				       const struct cairn_job_finding *findings, size_t n,
				       struct cairn_err *err)
{
	(void)arg, (void)counts, (void)findings, (void)n, (void)err;
	return CAIRN_OK;
}

static bool is_done(struct cairn_job *job)
{
	pthread_mutex_lock(&job->mu);
	bool done = job->done;
	pthread_mutex_unlock(&job->mu);
	return done;
}

enum cairn_code cairn_job_tell(struct cairn_job *job, struct cairn_call *call,
			       cairn_job_tell_fn *tell, void *arg, struct cairn_err *err)
{
	struct cairn_job_finding *findings =
		cairn_call_alloc(call, CAIRN_JOB_FINDINGS_MAX * sizeof(*findings));
	for (bool done = false; !done;) {
		struct cairn_job_counts counts;
		enum cairn_wake wake = cairn_call_wait(call, CAIRN_JOB_TELL_MS);
		if (wake == CAIRN_WAKE_GONE) {
			return cairn_err_set(err, CAIRN_CANCELLED, "cancelled by the client");
		}
		if (wake == CAIRN_WAKE_DRAIN) {
			return cairn_err_set(err, CAIRN_UNAVAILABLE,
					     "cairnd is shutting down; run it again when it is "
					     "back: it goes on where it stopped");
		}
		done = is_done(job); /* before the look, so that the last one misses nothing */
		size_t n = cairn_job_take(job, &counts, findings);
		enum cairn_code rc = tell(arg, &counts, findings, n, err);
		if (rc) return rc;
	}
	return CAIRN_OK;
}

enum cairn_code cairn_job_end(struct cairn_job *job, struct cairn_err *err)
{
	pthread_mutex_lock(&job->mu);
	job->stop = true;
	pthread_cond_broadcast(&job->room);
	pthread_mutex_unlock(&job->mu);
	pthread_join(job->thread, NULL);
	enum cairn_code rc = job->rc;
	if (rc) *err = job->err;
	fini(job);
	return rc;
}

enum cairn_code cairn_job_run(struct cairn_call *call, cairn_job_fn *work, void *arg,
			      cairn_job_tell_fn *tell, struct cairn_job_counts *ret_counts,
			      struct cairn_err *err)
{
	struct cairn_job *job = cairn_call_alloc(call, sizeof(*job));
	struct cairn_err job_err;
	enum cairn_code told = cairn_job_start(job, call, work, arg, err);
	if (told) return told;
	told = cairn_job_tell(job, call, tell, arg, err);
	cairn_call_offload(call); /* the end may take as long as a flush */
	enum cairn_code worked = cairn_job_end(job, &job_err);
	*ret_counts = job->counts;
	if (told) return told;
	if (worked) *err = job_err;
	return worked;
}
