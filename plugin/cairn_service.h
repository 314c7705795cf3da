/* The handlers of cairn.v1.Cairn that are long jobs (plugin/cairn_service_jobs.c), those of
 * garbage collection (plugin/cairn_service_gc.c, plugin/cairn_service_keep.c), and of the swarm
 * (plugin/cairn_service_swarm.c). */
#ifndef CAIRN_PLUGIN_CAIRN_SERVICE_H
#define CAIRN_PLUGIN_CAIRN_SERVICE_H

#include "cache/history.h"
#include "cairn.pb-c.h"
#include "plugin/plugin.h"

#define CAIRN_VERIFY_DIGESTS_MAX 10000 /* named in one call */
#define CAIRN_VERIFY_CALLS_MAX 4       /* at once */
#define CAIRN_GC_CALLS_MAX 2	       /* at once: one runs, one waits */
#define CAIRN_PRUNE_KEEP_MAX 1000
#define CAIRN_PIN_SECONDS_MAX (INT64_C(3650) * 24 * 3600)

enum cairn_code cairn_service_verify(void *service, struct cairn_call *call, const void *request,
				     struct cairn_err *err);
enum cairn_code cairn_service_import(void *service, struct cairn_call *call, const void *request,
				     struct cairn_err *err);
enum cairn_code cairn_service_export(void *service, struct cairn_call *call, const void *request,
				     struct cairn_err *err);

enum cairn_code cairn_service_collect(void *service, struct cairn_call *call, const void *request,
				      struct cairn_err *err);
enum cairn_code cairn_service_prune(void *service, struct cairn_call *call, const void *request,
				    struct cairn_err *err);
enum cairn_code cairn_service_versions(void *service, struct cairn_call *call, const void *request,
				       struct cairn_err *err);
enum cairn_code cairn_service_preheat(void *service, struct cairn_call *call, const void *request,
				      struct cairn_err *err);
enum cairn_code cairn_service_list_jobs(void *service, struct cairn_call *call, const void *request,
					struct cairn_err *err);
enum cairn_code cairn_service_get_job(void *service, struct cairn_call *call, const void *request,
				      struct cairn_err *err);
enum cairn_code cairn_service_list_peers(void *service, struct cairn_call *call,
					 const void *request, struct cairn_err *err);
cairn_unary_fn cairn_service_cancel_job;
cairn_unary_fn cairn_service_pin, cairn_service_unpin;

/* The state of garbage collection as a message, in the call's memory. Asks the disk. */
Cairn__V1__Gc *cairn_service_gc_status(struct cairn_admin_service *service,
				       struct cairn_call *call);

/* The state of the swarm likewise; NULL: there is none. Memory only. */
Cairn__V1__Swarm *cairn_service_swarm_status(struct cairn_admin_service *service,
					     struct cairn_call *call);

/* The image name that text means: as it is, if the history has it; else in full, with the default
 * registry and tag. Errors: INVALID_ARGUMENT (it is no reference). */
CAIRN_CHECKED enum cairn_code cairn_service_name(struct cairn_cache *cache, const char *text,
						 char ret[static CAIRN_NAME_MAX + 1],
						 struct cairn_err *err);

/* A version of a look of garbage collection's, malloced. real_ns: now. Reads manifests: blocks. */
struct cairn_gc_pass;
Cairn__V1__Version *cairn_service_version(struct cairn_cache *cache, int64_t real_ns,
					  const struct cairn_gc_pass *pass, size_t i);

/* A prune that was asked for as one for garbage collection, which borrows name. Errors:
 * INVALID_ARGUMENT, NOT_FOUND (of that name no version is known). */
struct cairn_gc_request;
CAIRN_CHECKED enum cairn_code cairn_service_prune_request(struct cairn_cache *cache,
							  const Cairn__V1__PruneRequest *request,
							  char name[static CAIRN_NAME_MAX + 1],
							  struct cairn_gc_request *ret,
							  struct cairn_err *err);

/* The same of several nodes (plugin/cairn_service_fleet.c); and the beginning of a preheat, during
 * which the handler holds no thread. */
struct cairn_preheat_job;
CAIRN_CHECKED enum cairn_code
cairn_service_fleet_versions(struct cairn_admin_service *service, struct cairn_call *call,
			     const Cairn__V1__ListVersionsRequest *request, struct cairn_err *err);
CAIRN_CHECKED enum cairn_code cairn_service_fleet_prune(struct cairn_admin_service *service,
							struct cairn_call *call,
							const Cairn__V1__PruneRequest *request,
							struct cairn_err *err);
CAIRN_CHECKED enum cairn_code cairn_service_fleet_submit(struct cairn_admin_service *service,
							 struct cairn_call *call,
							 const Cairn__V1__PreheatRequest *request,
							 struct cairn_preheat_job **ret,
							 struct cairn_err *err);

/* Text of a digest's shape, right or wrong, is meant to be one, though "sha256:1" could be a name,
 * too. */
bool cairn_service_is_digest(const char *text);

#endif
