/* The work of one preheat job: from names to manifests, from manifests to blobs. */
#ifndef CAIRN_PLUGIN_PREHEAT_RUN_H
#define CAIRN_PLUGIN_PREHEAT_RUN_H

#include "oci/registry.h"
#include "plugin/fills.h"
#include "plugin/preheat_job.h"

struct cairn_preheat_env {
	struct cairn_cache *cache;
	struct cairn_fills *fills;
	struct cairn_gc *gc;
	struct cairn_registry *registry;
	struct cairn_swarm *swarm; /* NULL: there is none */
	_Atomic int64_t stall_ms;  /* cairn_preheat_set_limits */
	_Atomic uint64_t min_rate;
	struct cairn_share *share;	  /* or NULL */
	struct cairn_channel *containerd; /* NULL: there is none to register images with */
	const struct cairn_clock *clock;
	bool owners; /* note for which namespaces blobs are: prefill asks for it */
};

/* Do all of it, on this thread and a few of its own; ends soon after the job is cancelled or
 * *stop is set. Afterwards what came of each image and blob is in the job, but it is not judged
 * yet. Blocks. */
void cairn_preheat_run(const struct cairn_preheat_env *env, struct cairn_preheat_job *job,
		       const _Atomic bool *stop);

/* Tell containerd of the images that are whole, where that was asked for; one that it does not take
 * has failed. Blocks. */
void cairn_preheat_register(const struct cairn_preheat_env *env, struct cairn_preheat_job *job,
			    const _Atomic bool *stop);

/* Let go of the blobs that the job has got: from here on they are garbage collection's. */
void cairn_preheat_let_go(const struct cairn_preheat_env *env, struct cairn_preheat_job *job);

/* An image is whole: remember what its name stands for, and keep it for as long as was asked. */
void cairn_preheat_remember(const struct cairn_preheat_env *env, struct cairn_preheat_job *job);

/* plugin/preheat_image.c: find out what the image needs, getting its manifests on the way. */
struct cairn_preheat_worker {
	const struct cairn_preheat_env *env;
	struct cairn_preheat_job *job;
	const _Atomic bool *stop;
	struct cairn_registry_session *session;
};
bool cairn_preheat_goes_on(void *worker);
void cairn_preheat_plan_image(struct cairn_preheat_worker *w, size_t image);

/* plugin/preheat_blob.c: have the blob in the cache, its digest checked. Errors as in
 * oci/registry.h, and those of the cache. */
CAIRN_CHECKED enum cairn_code cairn_preheat_get_blob(struct cairn_preheat_worker *w, size_t blob,
						     struct cairn_err *err);

#endif
