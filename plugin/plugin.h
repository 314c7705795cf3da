/* The gRPC services, /metrics, and what is known of containerd: all that cmd/cairnd.c wires up.
 *
 * A service is plain storage of the caller's: he fills the fields, adds it to a server before that
 * starts, and keeps it until the server is freed. Nothing in it changes while it serves, unless a
 * function below says so.
 *
 * Order of life: cache, rpc, runtime, gc, swarm, preheat, services, server, http; the reverse on
 * the way down. */
#ifndef CAIRN_PLUGIN_PLUGIN_H
#define CAIRN_PLUGIN_PLUGIN_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/clock.h"
#include "base/digest.h"
#include "base/err.h"
#include "base/own.h"
#include "cache/cache.h"
#include "cache/gc.h"
#include "p2p/p2p.h"
#include "rpc/rpc.h"

/* ---- containerd.services.content.v1.Content ---------------------------------------------------*/

struct cairn_runtime;

struct cairn_gc;
struct cairn_fills; /* bytes on their way by cairn's own doing (plugin/fills.h) */

/* After all fills are over, and the services that know them are gone, free it. */
struct cairn_fills *cairn_fills_new(struct cairn_cache *cache);
void cairn_fills_free(struct cairn_fills *fills);      /* NULL is fine */
uint64_t cairn_fills_bytes(struct cairn_fills *fills); /* that came from registries, since start */

struct cairn_share; /* which blobs may leave the node (plugin/share.h) */

/* Where the blob of a pull came from. */
enum cairn_content_source {
	CAIRN_FROM_CACHE,
	CAIRN_FROM_PREHEAT, /* it waited for that */
	CAIRN_FROM_PEERS,
	CAIRN_FROM_CONTAINERD, /* which downloads it */
	CAIRN_FROM_ENDS
};
const char *cairn_content_source_name(enum cairn_content_source source);

/* A blob that its registry did not give: it is not asked again before that. */
#define CAIRN_REPAIR_RESTS 32
struct cairn_repair_rest {
	struct cairn_digest digest;
	int64_t until_ms; /* boot time; 0: free */
};

struct cairn_content_service {
	struct cairn_cache *cache;
	struct cairn_runtime *runtime; /* told when an image may come (expect_images); or NULL */
	struct cairn_gc *gc;	       /* told of each Delete; or NULL */
	struct cairn_share *share;     /* told of each manifest that a pull commits; or NULL */
	bool prefill;	  /* answer the opening STAT of a blob that is here with offset == total */
	bool owners_only; /* ... only for the namespaces that committed it */

	/* Pulls wait for what cairn is getting itself, and for the swarm (plugin/content_wait.h).
	 */
	bool waits;
	struct cairn_fills *fills;     /* NULL: there are none */
	struct cairn_swarm *swarm;     /* NULL: there is none */
	struct cairn_preheat *preheat; /* repairs what no peer has; NULL: nobody does */
	/* cairn_content_service_set_limits */
	_Atomic int64_t stall_ms;  /* not longer than so without a byte */
	_Atomic uint64_t min_rate; /* bytes a second; slower is not waited for */

	/* private: leave zero */
	_Atomic uint64_t pulled[CAIRN_FROM_ENDS]; /* blobs of pulls, by source */
	_Atomic uint64_t pulled_bytes;		  /* written by containerd, of these */
	_Atomic uint64_t repaired[2];		  /* plugin/repair.h: in vain; well */
	pthread_mutex_t repair_mu;
	/* guarded by repair_mu */
	struct cairn_repair *repairs; /* those that run */
	struct cairn_repair_rest rests[CAIRN_REPAIR_RESTS];
};

void cairn_content_service_add(struct cairn_rpc_server *server,
			       struct cairn_content_service *service);

/* While it serves; who waits goes on as he began. Threads: any. */
void cairn_content_service_set_limits(struct cairn_content_service *service, int64_t stall_ms,
				      uint64_t min_rate);

/* ---- cairn.v1.Cairn (plugin/cairn_service.c) --------------------------------------------------*/

struct cairn_admin_service {
	struct cairn_cache *cache;
	struct cairn_runtime *runtime; /* never NULL; asks nobody when its address is "" */
	struct cairn_gc *gc;
	struct cairn_preheat *preheat; /* NULL: there is none */
	struct cairn_swarm *swarm;     /* NULL: there is none */
	const struct cairn_clock *clock;
	const char *version;
	const char *state_dir;
	const char *listen;
	int64_t started_ns; /* real time */

	/* private: leave zero */
	_Atomic bool transferring;   /* an import or export runs: one at a time */
	_Atomic unsigned verifying;  /* verify calls that run */
	_Atomic unsigned collecting; /* gc and prune calls that run */
};

void cairn_admin_service_add(struct cairn_rpc_server *server, struct cairn_admin_service *service);

/* ---- grpc.health.v1.Health --------------------------------------------------------------------*/

struct cairn_health_service {
	_Atomic bool serving; /* what Check and Watch answer; may be set at any time */
};

void cairn_health_service_add(struct cairn_rpc_server *server,
			      struct cairn_health_service *service);

/* ---- the view of containerd -------------------------------------------------------------------
 * A thread that lists what containerd records (content, images, leases, containers, of every
 * namespace) at start, every interval, and on request, and reconciles the store with it: what is
 * recorded and held is referenced; what is recorded and not held is an alarm; what two complete
 * listings lack is released. It only reads, and never runs inside a handler. containerd may be
 * away, and come and go: then nothing is released. */

struct cairn_listing;	   /* plugin/listing.h */
struct cairn_listed_image; /* likewise */

/* The images of containerd, on the view's thread, with no lock held; borrowed for the call. */
typedef void cairn_runtime_images_fn(void *arg, const struct cairn_listed_image *images, size_t n);

struct cairn_runtime_opts {
	struct cairn_rpc *rpc;
	struct cairn_cache *cache;
	const struct cairn_clock *clock; /* NULL: cairn_clock_system */
	const char *address;		 /* containerd's socket; "": nobody to ask */
	int64_t interval_ms;		 /* between listings */
	int64_t retry_ms;		 /* until the first success; 0: 3 s */
	int64_t images_ms;		 /* between looks for an expected image; 0: 15 s */

	/* Called with what each complete listing, and each look for expected images, has found; it
	 * is through before the listing counts as done. NULL: nobody. */
	cairn_runtime_images_fn *on_images;
	void *on_images_arg;
};

/* Copies what it needs of opts. */
CAIRN_CHECKED enum cairn_code cairn_runtime_start(const struct cairn_runtime_opts *opts,
						  struct cairn_runtime **ret,
						  struct cairn_err *err);

/* Another interval, after the next listing. Threads: any. */
void cairn_runtime_set_interval(struct cairn_runtime *rt, int64_t interval_ms);

/* From now on nobody is asked: a running listing ends, and those that wait for one are told so. For
 * those who must be stopped before the view, and may be waiting in it. Threads: any. */
void cairn_runtime_cancel(struct cairn_runtime *rt);

/* Cancels a running listing, joins the thread, and waits until those that wait in
 * cairn_runtime_refresh have left. NULL is fine. */
void cairn_runtime_stop(struct cairn_runtime *rt);

struct cairn_runtime_status {
	char address[128];
	bool reachable;		     /* the last listing was complete */
	int64_t last_listing_ns;     /* real time when the last complete one began; 0: none yet */
	uint64_t listings, failures; /* since start */
	uint64_t recorded;	     /* distinct digests in the last complete listing */
	uint64_t missing;	     /* of these, not held here, or damaged */
	uint64_t images, leases, containers; /* in the last complete listing */
	uint64_t promoted, released;	     /* blobs whose state a listing changed, since start */
	bool client;	 /* the containerd that was listed last is the one that uses us */
	char error[512]; /* why the last listing failed; "": it did not */
};

/* Threads: any. Takes one short lock. */
void cairn_runtime_get_status(struct cairn_runtime *rt, struct cairn_runtime_status *ret);

/* Is it in the last complete listing? *ret_known says whether there is one. Threads: any. */
bool cairn_runtime_records(struct cairn_runtime *rt, const struct cairn_digest *digest,
			   bool *ret_known);

/* The process pid has connected to our content service. A listing may release blobs only if the
 * process that it came from has done so: else another containerd than the one that uses us, found
 * at the address by mistake, would empty the node. The first connection of a containerd also has
 * it listed at once. pid 0 (not visible from here) proves nothing. Never blocks. Threads: any. */
void cairn_runtime_connected(struct cairn_runtime *rt, pid_t pid);

/* Is there anybody to ask? Never changes. Threads: any. */
bool cairn_runtime_asks(const struct cairn_runtime *rt);

/* List soon; returns at once. Threads: any. */
void cairn_runtime_request(struct cairn_runtime *rt);

/* Have containerd listed, and the store reconciled with it, by a listing that begins after this
 * call, and wait for that. *ret is it, or a later one: a reference (cairn_listing_unref).
 * Blocks; threads: any number, but no handler's polling thread.
 * Errors: FAILED_PRECONDITION (nobody to ask), the listing's own (it is not waited for the retry),
 * DEADLINE_EXCEEDED, CANCELLED (stop). The first and the last are never containerd's: where it
 * answers so, it is INTERNAL and UNAVAILABLE. */
CAIRN_CHECKED enum cairn_code cairn_runtime_refresh(struct cairn_runtime *rt, int64_t timeout_ms,
						    struct cairn_listing **ret,
						    struct cairn_err *err);

/* A reference to the last complete listing, or NULL. Threads: any; never blocks. */
struct cairn_listing *cairn_runtime_last(struct cairn_runtime *rt);

/* A manifest or an index was committed: containerd is about to make or move an image record, some
 * time later, after it has unpacked. For ten minutes the thread looks for images every images_ms,
 * which is cheap, and tells on_images. Never blocks. Threads: any. */
void cairn_runtime_expect_images(struct cairn_runtime *rt);

/* The channel to containerd, for more questions; NULL when there is nobody to ask. Borrowed until
 * the stop. Threads: any. */
struct cairn_channel *cairn_runtime_channel(struct cairn_runtime *rt);

/* ---- garbage collection ------------------------------------------------------------------------
 * A thread that runs a pass every interval; when the high watermark is exceeded, which it looks at
 * every few seconds; and, above the low one, when containerd has deleted something, because kubelet
 * removes images to get space back. Before each pass containerd is asked; when it does not answer,
 * only what it never had may go. docs/design.md, "Garbage collection". */

struct cairn_gc;

struct cairn_gc_rules {
	int64_t keep_ns; /* how long an unreferenced blob stays after its last use */
	struct cairn_gc_marks marks;
	int64_t keep_versions;	  /* of each image name ... */
	int64_t keep_versions_ns; /* ... and for so long after its image record is gone */
};

struct cairn_gc_opts {
	struct cairn_cache *cache;
	struct cairn_runtime *runtime;
	const struct cairn_clock *clock; /* NULL: cairn_clock_system */
	struct cairn_gc_rules rules;
	int64_t interval_ms;
	int64_t tick_ms; /* how often the disk is looked at; 0: 5 s */
	const char *log; /* a file for every decision; "": none */
};

enum cairn_gc_trigger {
	CAIRN_GC_BY_INTERVAL,
	CAIRN_GC_BY_PRESSURE,
	CAIRN_GC_BY_DELETE,
	CAIRN_GC_BY_REQUEST,
};
const char *cairn_gc_trigger_name(enum cairn_gc_trigger trigger);

struct cairn_gc_summary {
	enum cairn_gc_trigger trigger;
	bool dry_run;
	bool sure;
	char unsure_why[512];
	uint64_t evicted_blobs, evicted_bytes;
	uint64_t blobs[CAIRN_GC_WHYS], bytes[CAIRN_GC_WHYS]; /* by reason: kept, and evicted */
	uint64_t to_free; /* what pressure asked for; 0: there was none */
	uint64_t freed;	  /* on disk */
	bool relieved;
	bool exhausted; /* it was not, and nothing is left that may go */
	uint64_t ingests_dropped, versions_dropped;
	int64_t begun_real_ns, duration_ns;
};

/* Copies what it needs of opts. Errors: INVALID_ARGUMENT or INTERNAL (the log cannot be opened). */
CAIRN_CHECKED enum cairn_code cairn_gc_start(const struct cairn_gc_opts *opts,
					     struct cairn_gc **ret, struct cairn_err *err);
/* From now on there are no passes: a running one ends soon, and those that wait for their turn are
 * told so. For those who must be stopped before it, and may be waiting in it. NULL is fine. */
void cairn_gc_cancel(struct cairn_gc *gc);
/* Before the runtime. Cancels, and joins the thread. NULL is fine. */
void cairn_gc_stop(struct cairn_gc *gc);

/* For cairn_runtime_opts.on_images, with the cache as argument: the history of names. */
cairn_runtime_images_fn cairn_gc_on_images;

/* Something became evictable. Never blocks. Threads: any. NULL is fine. */
void cairn_gc_deleted(struct cairn_gc *gc);

/* Open the log anew, after it was moved away. Threads: this and the next one at a time. */
void cairn_gc_reopen_log(struct cairn_gc *gc);

/* Other rules, from the next pass on, and another log, as in the opts of the start. Errors, with
 * nothing changed: INTERNAL or RESOURCE_EXHAUSTED (the log cannot be opened). */
CAIRN_CHECKED enum cairn_code cairn_gc_set(struct cairn_gc *gc, const struct cairn_gc_rules *rules,
					   int64_t interval_ms, const char *log,
					   struct cairn_err *err);

struct cairn_gc_status {
	struct cairn_gc_rules rules;
	struct cairn_gc_disk disk;
	uint64_t over_high, over_low; /* bytes */
	bool unrelieved;	      /* pressure that no pass can relieve */
	uint64_t passes, passes_unsure;
	uint64_t evicted_blobs[CAIRN_GC_WHYS], evicted_bytes[CAIRN_GC_WHYS]; /* since start */
	struct cairn_gc_summary last; /* begun_real_ns 0: none yet */
	uint64_t pins, versions;
};

/* Asks the disk. Threads: any. */
void cairn_gc_get_status(struct cairn_gc *gc, struct cairn_gc_status *ret);

/* ---- what other nodes may have -----------------------------------------------------------------
 * By the repositories that blobs come from: plugin/share.h. */

struct cairn_share_opts {
	struct cairn_cache *cache;
	struct cairn_rpc *rpc;
	const char *containerd; /* socket of whose labels tell repositories; "": nobody to ask */
	const char *const *allow, *const *deny; /* patterns: cairn_share_matches */
	size_t n_allow, n_deny;
};

/* *ret is NULL if the policy lets everything go: then there is nothing to ask. Copies what it needs
 * of opts. Errors: INVALID_ARGUMENT, INTERNAL. */
CAIRN_CHECKED enum cairn_code cairn_share_new(const struct cairn_share_opts *opts,
					      struct cairn_share **ret, struct cairn_err *err);

/* For cairn_swarm_opts.may_share. */
bool cairn_share_may(void *share, const struct cairn_digest *digest);

/* Whom to tell when an answer changes. share NULL is fine, here and below. */
void cairn_share_tell(struct cairn_share *share, struct cairn_swarm *swarm);

/* To be called with what cairn_runtime_opts.on_images gets. Does not block. */
void cairn_share_on_images(struct cairn_share *share, const struct cairn_listed_image *images,
			   size_t n);

/* Nobody is asked, nor told, any more: before the swarm ends, when no handler and no job runs. */
void cairn_share_stop(struct cairn_share *share);
void cairn_share_free(struct cairn_share *share); /* when swarm and runtime have ended */

/* ---- other nodes ------------------------------------------------------------------------------*/

/* How other nodes are reached: a swarm, or a test's. */
struct cairn_fleet_link {
	void *arg;
	size_t (*peers)(void *arg, struct cairn_peer_status *ret, size_t max);
	/* As cairn_swarm_call. */
	enum cairn_code (*call)(void *arg, const char *address, const char *name,
				const uint8_t *request, size_t n, int64_t timeout_ms, uint8_t **ret,
				size_t *ret_n, bool *ret_answered, struct cairn_err *err);
	/* As cairn_swarm_health. */
	void (*health)(void *arg, char ret[static 256]);
};

/* plugin/fleet_link.c; the swarm is borrowed. */
void cairn_fleet_link_swarm(struct cairn_swarm *swarm, struct cairn_fleet_link *ret);

/* ---- preheat -----------------------------------------------------------------------------------
 * Jobs that get images from their registries before anybody pulls them (plugin/preheat.h). */

struct cairn_preheat;
struct cairn_registry; /* oci/registry.h */

struct cairn_preheat_opts {
	struct cairn_cache *cache;
	struct cairn_fills *fills;
	struct cairn_gc *gc;
	struct cairn_registry *registry;
	struct cairn_swarm *swarm; /* asked before the registry; NULL: there is none ... */
	int64_t stall_ms;	   /* ... for how long is as for pulls */
	uint64_t min_rate;
	struct cairn_share *share;	  /* told where blobs come from; or NULL */
	struct cairn_channel *containerd; /* to register images with; NULL: there is none */
	const struct cairn_clock *clock;  /* NULL: cairn_clock_system */
	const char *state_dir;		  /* jobs are written to its jobs/ */
	bool owners;			  /* prefill asks for which namespaces a blob is */
	const struct cairn_fleet_link
		*fleet; /* other nodes, for jobs of several; copied; NULL: none */
};

/* Copies what it needs of opts, and goes on with the jobs that an earlier process left.
 * Errors: INTERNAL, RESOURCE_EXHAUSTED. */
CAIRN_CHECKED enum cairn_code cairn_preheat_start(const struct cairn_preheat_opts *opts,
						  struct cairn_preheat **ret,
						  struct cairn_err *err);
/* What runs goes on as it began. Threads: any. */
void cairn_preheat_set_limits(struct cairn_preheat *preheat, int64_t stall_ms, uint64_t min_rate);
/* From now on no job runs, and those that do end soon: before the server is drained. */
void cairn_preheat_cancel_all(struct cairn_preheat *preheat);
/* After that, and when no handler knows it any more. Jobs that were not over go on at the next
 * start. NULL is fine. */
void cairn_preheat_stop(struct cairn_preheat *preheat);

/* ---- work that another node asks for -----------------------------------------------------------
 * What one node does when a job is for several (plugin/fleet.h): the answering side of
 * proto/fleet.proto. */

struct cairn_fleet_node;

struct cairn_fleet_label {
	const char *key, *value;
};

struct cairn_fleet_node_opts {
	struct cairn_cache *cache;
	struct cairn_preheat *preheat;
	struct cairn_gc *gc;
	const struct cairn_clock *clock; /* NULL: cairn_clock_system */
	const char *name;		 /* of this node ... */
	const struct cairn_fleet_label *labels;
	size_t n_labels;
	const char *version;
};

/* Copies what it needs of opts. */
struct cairn_fleet_node *cairn_fleet_node_new(const struct cairn_fleet_node_opts *opts);
/* When it is asked no more. NULL is fine. */
void cairn_fleet_node_free(struct cairn_fleet_node *node);

/* For cairn_swarm_answer, with the node as argument. Threads: any. */
cairn_answer_fn cairn_fleet_node_answer;

/* ---- /metrics, /healthz, /readyz --------------------------------------------------------------*/

struct cairn_http;

struct cairn_http_opts {
	const char *listen; /* host:port or [v6]:port; port 0 takes a free one */
	struct cairn_cache *cache;
	struct cairn_rpc_server *server;
	struct cairn_runtime *runtime;
	struct cairn_gc *gc;		       /* NULL: none */
	struct cairn_content_service *content; /* NULL: none, as the next two */
	struct cairn_fills *fills;
	struct cairn_swarm *swarm;
	struct cairn_health_service *health;
	const char *version;
	int64_t started_ns; /* real time */
};

/* All that opts names must live until the stop. Errors: INVALID_ARGUMENT (listen), INTERNAL. */
CAIRN_CHECKED enum cairn_code cairn_http_start(const struct cairn_http_opts *opts,
					       struct cairn_http **ret, struct cairn_err *err);
int cairn_http_port(const struct cairn_http *http);
void cairn_http_stop(struct cairn_http *http); /* NULL is fine */

#endif
