/* Preheat: jobs that get images from their registries before anybody pulls them.
 *
 * Jobs wait in a queue, the highest priority first; a few run at a time, each with a few workers of
 * its own. They are written to state_dir/jobs/, so that a restart goes on with them; what is done
 * for them is found again in the cache. Threads: internally locked. */
#ifndef CAIRN_PLUGIN_PREHEAT_H
#define CAIRN_PLUGIN_PREHEAT_H

#include "plugin/plugin.h"
#include "plugin/preheat_job.h"

#define CAIRN_PREHEAT_RUNNING_MAX 2    /* jobs at once */
#define CAIRN_PREHEAT_WORKERS 4	       /* downloads of one job at once */
#define CAIRN_PREHEAT_WAITING_MAX 1000 /* jobs in the queue */
#define CAIRN_PREHEAT_HISTORY_MAX 100  /* jobs that are over and remembered */

/* Put a job into the queue; *ret is a reference to it. Durable when it returns. Blocks; for some
 * seconds, if it is for several nodes, which are asked who they are.
 * Errors: INVALID_ARGUMENT, RESOURCE_EXHAUSTED (queue or disk), UNAVAILABLE (shutting down),
 * FAILED_PRECONDITION (what it needs this daemon does not have), NOT_FOUND (nodes). */
CAIRN_CHECKED enum cairn_code cairn_preheat_submit(struct cairn_preheat *preheat,
						   const Cairn__V1__PreheatRequest *request,
						   struct cairn_preheat_job **ret,
						   struct cairn_err *err);

/* The same with an id of the caller's, fit for a file's name, that no job has. One at a time. */
CAIRN_CHECKED enum cairn_code cairn_preheat_submit_as(struct cairn_preheat *preheat, const char *id,
						      const Cairn__V1__PreheatRequest *request,
						      struct cairn_preheat_job **ret,
						      struct cairn_err *err);

/* A reference to the job of that id, or NULL. */
struct cairn_preheat_job *cairn_preheat_find(struct cairn_preheat *preheat, const char *id);

/* References to all jobs, newest first, in a malloced list. Returns their number. */
size_t cairn_preheat_list(struct cairn_preheat *preheat, struct cairn_preheat_job ***ret);

/* The other nodes; NULL: this node asks none. */
const struct cairn_fleet_link *cairn_preheat_link(const struct cairn_preheat *preheat);

/* Ask for its end; returns whether it was queued or running. Does not wait. */
bool cairn_preheat_cancel(struct cairn_preheat *preheat, struct cairn_preheat_job *job);

#endif
