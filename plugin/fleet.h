/* Work for several nodes: what the two sides of proto/fleet.proto share, and the job of a fleet.
 *
 * A job of preheat with PreheatRequest.fleet is one for a fleet: the node that was asked for it
 * coordinates. Which nodes are chosen is decided once, when it is asked for, and written down with
 * the job. Each chosen node then goes its own way through these states:
 *
 *   WAITING --its batch begins--> RUNNING --it says how it ended--> SUCCEEDED, PARTIAL, FAILED
 *      |                            | ^
 *      |                            | '-- it is a member again, within `until` --.
 *      |                            |--- it does not answer for PATIENCE_MS --> DOWN
 *      |                            '--- the job is cancelled --> CANCELLED
 *      |--- too many failed in the batches before --> SKIPPED
 *      '--- the job is cancelled --> CANCELLED
 *
 * - A state is on disk before it is acted on: RUNNING before the node is asked to begin, and the
 * end of all of them before the job's. After a crash at any point the coordinator goes on with the
 *   RUNNING ones by asking again.
 * - The node's job has an id that follows from the coordinator's: to ask again for its beginning is
 *   harmless, whether question or answer was lost; a node that has forgotten the job is asked to
 *   begin it again, and finds what it has. A cancelled one is not begun by a late question.
 * - What a node answers is checked: a job of another id or of other images, numbers that cannot be,
 *   states that are none, are the end of that node (FAILED), and of nothing else. It has SUCCEEDED
 * only if it says of every image that it is whole, and the same digest as the other nodes: a tag
 * that was moved in the middle is found out so.
 * - Time is boot time: clock jumps change nothing, but that `until` is reckoned anew, and bounded,
 *   after a restart.
 * - Two coordinators, even for the same images, have jobs of their own on a node, which share what
 *   they get.
 *
 * Threads: a job's nodes are guarded by the job's mu. */
#ifndef CAIRN_PLUGIN_FLEET_H
#define CAIRN_PLUGIN_FLEET_H

#include "fleet.pb-c.h"
#include "plugin/fleet_select.h"
#include "plugin/plugin.h"
#include "plugin/preheat_job.h"

#define CAIRN_FLEET_NODES_MAX 2000    /* of one job */
#define CAIRN_FLEET_BLOBS_MAX 16      /* that are not there, told of one node */
#define CAIRN_FLEET_RUNNING_MAX 4     /* jobs that are coordinated at once */
#define CAIRN_FLEET_WORKERS 16	      /* questions of one job at once */
#define CAIRN_FLEET_CALL_MS 5000      /* for an answer */
#define CAIRN_FLEET_PRUNE_MS 60000    /* for that of a prune, which asks containerd, too */
#define CAIRN_FLEET_PATIENCE_MS 10000 /* without an answer: then a node is down */
#define CAIRN_FLEET_PAUSE_MAX_S 86400
#define CAIRN_FLEET_UNTIL_MAX_S (7 * 86400)
#define CAIRN_FLEET_ERROR_MAX 1000 /* bytes of another node's text that are kept, ... */
#define CAIRN_FLEET_BLOB_ERROR_MAX                                                                 \
	200 /* ... of each blob: a job of so many nodes fits its file                              \
	     */

/* Is this what a job is called that another node may begin, ask for, or cancel here? */
bool cairn_fleet_is_node_job(const char *id);

/* FAILED_PRECONDITION: this node reaches no others. */
enum cairn_code cairn_fleet_no_others(struct cairn_err *err);

/* ---- asking (plugin/fleet_ask.c)
 * ---------------------------------------------------------------*/

/* Ask and read the answer, of that type (NULL: none). *ret: free with
 * protobuf_c_message_free_unpacked. Errors: as cairn_swarm_call; INTERNAL: it cannot be read. */
CAIRN_CHECKED enum cairn_code cairn_fleet_ask(const struct cairn_fleet_link *link,
					      const char *address, const char *name,
					      const ProtobufCMessage *question,
					      const ProtobufCMessageDescriptor *type,
					      int64_t timeout_ms, ProtobufCMessage **ret,
					      bool *ret_answered, struct cairn_err *err);

/* fn(arg, i) for each i < n, CAIRN_FLEET_WORKERS at a time. Blocks until all are through. */
void cairn_fleet_each(size_t n, void (*fn)(void *arg, size_t i), void *arg);

/* Every node that is known, lately gone ones too, in the order of their names; those that live are
 * asked who they are. Not those whose address skip (NULL: none) says yes to. Malloced; returns
 * their number. Blocks for some seconds at most. */
size_t cairn_fleet_look(const struct cairn_fleet_link *link,
			bool (*skip)(void *arg, const char *address), void *arg,
			struct cairn_fleet_candidate **ret);

/* Those of them that the rule means. Errors: UNAVAILABLE (the directory has not said who there is),
 * NOT_FOUND, RESOURCE_EXHAUSTED (more than
 * CAIRN_FLEET_NODES_MAX). */
CAIRN_CHECKED enum cairn_code cairn_fleet_choose(const struct cairn_fleet_link *link,
						 const struct cairn_fleet_rule *rule,
						 struct cairn_fleet_candidate **ret, size_t *ret_n,
						 struct cairn_err *err);

/* ---- a job (plugin/fleet_job.c)
 * ----------------------------------------------------------------*/

struct cairn_fleet_member {
	Cairn__V1__JobNode *msg; /* owned */
	uint64_t change;	 /* of the job's changes, the last that was about it */
	bool begun;		 /* it has the job: it is asked how that is */
	bool met;		 /* it has answered before: it may be away for PATIENCE_MS */
	unsigned forgot;	 /* times that it did not know the job any more */
	int64_t lost_ns;	 /* boot time since which it does not answer; 0: it does */
};

struct cairn_fleet {
	struct cairn_fleet_rule rule;
	struct cairn_fleet_amount batch, max_failures; /* of all that were chosen */
	bool any_failures;			       /* max_failures was not given */
	struct cairn_fleet_member *list; /* by name; those that came later at the end */
	size_t n, cap, n_chosen;	 /* at first */
	bool dirty;			 /* what is on disk is older */
};

/* Check what a request says of its fleet. Errors: INVALID_ARGUMENT, FAILED_PRECONDITION (a login).
 */
CAIRN_CHECKED enum cairn_code cairn_fleet_new(const Cairn__V1__PreheatRequest *request,
					      struct cairn_fleet **ret, struct cairn_err *err);
void cairn_fleet_free(struct cairn_fleet *fleet); /* NULL is fine */

/* The nodes that were chosen, WAITING, each in its batch. */
void cairn_fleet_set_nodes(struct cairn_preheat_job *job, const struct cairn_fleet_candidate *list,
			   size_t n);
/* As they were written down. What cannot be is left out. */
void cairn_fleet_restore(struct cairn_preheat_job *job, Cairn__V1__JobNode *const *list, size_t n);

/* The functions below take job->mu. */
void cairn_fleet_set(struct cairn_preheat_job *job, size_t i, Cairn__V1__JobNode__State state,
		     const char *error, int64_t real_ns);
/* A node's answer: it is believed as far as it can be. */
void cairn_fleet_take(struct cairn_preheat_job *job, size_t i, const Cairn__Fleet__JobState *answer,
		      int64_t real_ns);
/* It came later, or again, under that address: RUNNING. */
void cairn_fleet_join(struct cairn_preheat_job *job, const struct cairn_fleet_candidate *c,
		      int64_t real_ns);

size_t cairn_fleet_count(struct cairn_preheat_job *job, Cairn__V1__JobNode__State state);
size_t cairn_fleet_batch_size(const struct cairn_fleet *fleet);
/* More nodes have failed than may. */
bool cairn_fleet_is_stopped(struct cairn_preheat_job *job);
/* The job is over: images and job by their nodes. */
void cairn_fleet_judge(struct cairn_preheat_job *job, int64_t real_ns);

/* It was cancelled before anybody runs it: it is over, if no node has to be told. */
bool cairn_fleet_cancel_queued(struct cairn_preheat_job *job, int64_t real_ns);

/* Nobody can ask its nodes any more: those that are not through have failed, and it is over. */
void cairn_fleet_give_up(struct cairn_preheat_job *job, const char *why, int64_t real_ns);

/* For messages; with job->mu held. */
Cairn__V1__JobNode *cairn_fleet_node_message(const struct cairn_fleet_member *m);
void cairn_fleet_sum_locked(const struct cairn_preheat_job *job, Cairn__V1__Job *msg);

/* ---- the coordinator (plugin/fleet_run.c)
 * ------------------------------------------------------*/

struct cairn_fleet_env {
	const struct cairn_fleet_link *link;
	const struct cairn_clock *clock;
	const _Atomic bool *stop;
	void (*save)(void *arg, struct cairn_preheat_job *job); /* write the job down */
	void *save_arg;
	int64_t tick_ms, patience_ms; /* 0: as is usual; a test's are shorter */
};

/* Until all nodes are through and the time for late ones is over, or the job is cancelled, or *stop
 * is set. Blocks. The job is not judged. */
void cairn_fleet_run(const struct cairn_fleet_env *env, struct cairn_preheat_job *job);

#endif
