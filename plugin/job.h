/* A long job (verify, import, export) on a thread of its own, and its progress.
 *
 * The thread is not one of the rpc workers, which serve containerd's reads and writes, and it is
 * nicer than they are. Whoever started the job takes its progress from time to time and ends it.
 * Findings that nobody takes make the job wait, so memory is bounded however slow the reader is.
 *
 * Threads: internally locked; cairn_job_end by the starter only. */
#ifndef CAIRN_PLUGIN_JOB_H
#define CAIRN_PLUGIN_JOB_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/digest.h"
#include "base/err.h"
#include "cache/cache.h"
#include "rpc/rpc.h"

#define CAIRN_JOB_FINDINGS_MAX 256 /* waiting to be told */
#define CAIRN_JOB_TELL_MS 200	   /* between two progress messages */

struct cairn_job_finding {
	char name[CAIRN_DIGEST_STR]; /* a digest, as a rule */
	enum cairn_blob_state state; /* 0: not held */
	char problem[512];
};

struct cairn_job_counts {
	uint64_t blobs_done, blobs_total;
	uint64_t bytes_done, bytes_total;
	uint64_t linked, copied, present, ignored;
};

struct cairn_job;
typedef enum cairn_code cairn_job_fn(struct cairn_job *job, void *arg, struct cairn_err *err);

struct cairn_job {
	pthread_mutex_t mu; /* guards what follows, up to findings */
	pthread_cond_t room;
	bool stop, done;
	struct cairn_job_counts counts;
	size_t n_findings;
	struct cairn_job_finding *findings;

	pthread_t thread;
	struct cairn_call *call; /* signalled at the end */
	cairn_job_fn *fn;
	void *arg;
	enum cairn_code rc; /* of fn, with err; read after the join */
	struct cairn_err err;
};

/* Start fn(job, arg) on a new thread; call is signalled when it ends. The job is the caller's
 * storage until cairn_job_end. Errors: RESOURCE_EXHAUSTED; then there is nothing to end. */
CAIRN_CHECKED enum cairn_code cairn_job_start(struct cairn_job *job, struct cairn_call *call,
					      cairn_job_fn *fn, void *arg, struct cairn_err *err);

/* What the job's thread calls. bytes has the shape of the cache's progress callbacks: false means
 * that the job is to stop. */
bool cairn_job_bytes(void *job, uint64_t bytes);
void cairn_job_set_bytes(struct cairn_job *job, uint64_t done); /* when a blob is through */
bool cairn_job_stopped(struct cairn_job *job);
void cairn_job_add(struct cairn_job *job, const struct cairn_job_counts *more);
void cairn_job_find(struct cairn_job *job, const char *name, enum cairn_blob_state state,
		    const char *problem);

/* Copy the counts and move the findings out; ret has room for CAIRN_JOB_FINDINGS_MAX. Returns their
 * number. */
size_t cairn_job_take(struct cairn_job *job, struct cairn_job_counts *ret_counts,
		      struct cairn_job_finding *ret);

/* Tell the job's progress until it is over: calls tell, which sends a message, every
 * CAIRN_JOB_TELL_MS and once more at the end. In a handler; must be followed by cairn_job_end.
 * Errors: CANCELLED (the client is gone), UNAVAILABLE (the daemon is shutting down). */
typedef enum cairn_code cairn_job_tell_fn(void *arg, const struct cairn_job_counts *counts,
					  const struct cairn_job_finding *findings, size_t n,
					  struct cairn_err *err);
CAIRN_CHECKED enum cairn_code cairn_job_tell(struct cairn_job *job, struct cairn_call *call,
					     cairn_job_tell_fn *tell, void *arg,
					     struct cairn_err *err);

/* For jobs that have nothing to tell before their end. */
cairn_job_tell_fn cairn_job_tell_nothing;

/* Ask the job to stop and wait for its end. Blocks for as long as the cache needs to notice.
 * Returns how fn ended. */
enum cairn_code cairn_job_end(struct cairn_job *job, struct cairn_err *err);

/* All of it: start, tell, end. In a handler. Afterwards *ret_counts is final. Errors: of fn, or of
 * the telling. */
CAIRN_CHECKED enum cairn_code cairn_job_run(struct cairn_call *call, cairn_job_fn *fn, void *arg,
					    cairn_job_tell_fn *tell,
					    struct cairn_job_counts *ret_counts,
					    struct cairn_err *err);

#endif
