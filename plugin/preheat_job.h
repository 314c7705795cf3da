/* One preheat job: what was asked for, and how far it is. Knows nothing of registries or threads of
 * work; the parts of plugin/preheat*.c share it.
 *
 * Threads: what is marked is guarded by mu; the rest does not change after the job was made. */
#ifndef CAIRN_PLUGIN_PREHEAT_JOB_H
#define CAIRN_PLUGIN_PREHEAT_JOB_H

#include <pthread.h>

#include "cache/cache.h"
#include "cairn.pb-c.h"
#include "oci/oci.h"
#include "rpc/rpc.h"

struct cairn_fleet; /* plugin/fleet.h */

#define CAIRN_JOB_ID 20		      /* bytes of an id's text, with its end */
#define CAIRN_JOB_REFERENCES_MAX 1000 /* of one job */
#define CAIRN_JOB_PLATFORMS_MAX 32
#define CAIRN_JOB_NAMESPACES_MAX 64
#define CAIRN_JOB_PRIORITY_MAX 100
#define CAIRN_JOB_BLOBS_MAX 200000 /* of one job */
#define CAIRN_JOB_LOGIN_MAX 4096   /* bytes of a user name, password or token */

struct cairn_preheat_blob {
	struct cairn_digest digest;
	uint64_t size, done;
	Cairn__V1__JobState state;
	char *error;		      /* owned; NULL: none */
	const char *source;	      /* "cache", "registry", "peers", "pull" */
	bool manifest;		      /* registries have it among their manifests */
	struct cairn_blob_hold *hold; /* it is here, and stays until the job is over; or NULL */
	size_t image;		      /* one that needs it: where it is got from */
	uint64_t change;	      /* of the job's changes, the last that was about it */
};

struct cairn_preheat_image {
	struct cairn_reference ref;
	char *name; /* in full */
	/* guarded by mu */
	struct cairn_digest root; /* alg 0: not known yet */
	Cairn__V1__JobState state;
	char *error;   /* owned; NULL: none */
	size_t *blobs; /* indices */
	size_t n_blobs, cap_blobs;
};

struct cairn_preheat_job {
	char id[CAIRN_JOB_ID];
	Cairn__V1__PreheatRequest *request; /* owned; its login is wiped when the job is over */
	struct cairn_platform *platforms;   /* asked for */
	size_t n_platforms;
	bool all_platforms;
	struct cairn_digest repair; /* alg 0: whole images; else only this blob of the only one */
	int64_t created_ns;	    /* real time */

	pthread_mutex_t mu;
	pthread_cond_t changed;
	/* guarded by mu */
	unsigned refs;
	bool cancelled; /* somebody asked for its end */
	Cairn__V1__JobState state;
	int64_t started_ns, ended_ns;
	struct cairn_err why; /* why it failed as a whole; code OK: it did not */
	struct cairn_preheat_image *images;
	size_t n_images;
	struct cairn_preheat_blob *blobs;
	size_t n_blobs, cap_blobs;
	size_t *table, table_cap; /* blobs by digest: indices + 1, open addressing */
	uint64_t change;
	uint64_t bytes_done, bytes_total, bytes_fetched, bytes_from_peers, blobs_done;
	size_t stored_blobs;	   /* of a job that was over when it was read: its blobs are not */
	struct cairn_fleet *fleet; /* the nodes, where it is for several; NULL: it is not */
	struct cairn_preheat_job *next; /* the list of plugin/preheat.c, and guarded as that is */
};

/* Check a request and make a job of it. Consumes nothing. node: what no platform means.
 * Errors: INVALID_ARGUMENT, which names the argument and what is allowed. */
CAIRN_CHECKED enum cairn_code cairn_preheat_job_new(const Cairn__V1__PreheatRequest *request,
						    const struct cairn_platform *node,
						    struct cairn_preheat_job **ret,
						    struct cairn_err *err);
struct cairn_preheat_job *cairn_preheat_job_ref(struct cairn_preheat_job *job);
void cairn_preheat_job_unref(struct cairn_preheat_job *job);

bool cairn_preheat_job_is_over(struct cairn_preheat_job *job);
bool cairn_preheat_job_is_cancelled(struct cairn_preheat_job *job);

/* The image needs this blob. Returns its index; SIZE_MAX: CAIRN_JOB_BLOBS_MAX are known. */
size_t cairn_preheat_job_need(struct cairn_preheat_job *job, size_t image,
			      const struct cairn_digest *digest, uint64_t size);

/* A blob's state and bytes; err (may be NULL) is why it failed. fetched: of the bytes that are new
 * in done, those that this job got from the source, if that is "registry" or "peers". */
void cairn_preheat_job_blob(struct cairn_preheat_job *job, size_t blob, Cairn__V1__JobState state,
			    uint64_t done, uint64_t fetched, const char *source,
			    const struct cairn_err *err);

void cairn_preheat_job_image(struct cairn_preheat_job *job, size_t image, Cairn__V1__JobState state,
			     const struct cairn_digest *root, const struct cairn_err *err);

/* Judge each image by its blobs, now that no more are got. */
void cairn_preheat_job_judge_images(struct cairn_preheat_job *job);

/* Judge images and job, now that no more work is done: the job is over. */
void cairn_preheat_job_judge(struct cairn_preheat_job *job, int64_t now_ns);

/* The job as a message, malloced as one of protobuf-c's (free it unpacked). */
Cairn__V1__Job *cairn_preheat_job_message(struct cairn_preheat_job *job);

/* One of its blobs likewise; with mu held. */
Cairn__V1__JobBlob *cairn_preheat_blob_message(const struct cairn_preheat_blob *blob);

/* Take over what a stored message says: id, times, state, images. */
void cairn_preheat_job_restore(struct cairn_preheat_job *job, const Cairn__V1__Job *stored);

/* Forget the secrets of the request. */
void cairn_preheat_job_wipe(Cairn__V1__PreheatRequest *request);

#endif
