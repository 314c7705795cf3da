/* Jobs on disk: state_dir/jobs/<id>, one file each, replaced as a whole (written beside, flushed,
 * renamed). Never with a login. Threads: one at a time. */
#ifndef CAIRN_PLUGIN_PREHEAT_STORE_H
#define CAIRN_PLUGIN_PREHEAT_STORE_H

#include "plugin/preheat_job.h"

struct cairn_preheat_store {
	int dir_fd;
	char *dir; /* for messages */
};

/* Makes the folder if need be. Errors: INTERNAL, RESOURCE_EXHAUSTED. */
CAIRN_CHECKED enum cairn_code cairn_preheat_store_open(struct cairn_preheat_store *store,
						       const char *state_dir,
						       struct cairn_err *err);
void cairn_preheat_store_close(struct cairn_preheat_store *store);

/* Durable when it returns. Errors: INTERNAL, RESOURCE_EXHAUSTED. */
CAIRN_CHECKED enum cairn_code cairn_preheat_store_put(struct cairn_preheat_store *store,
						      struct cairn_preheat_job *job,
						      struct cairn_err *err);
void cairn_preheat_store_drop(struct cairn_preheat_store *store, const char *id);

/* fn gets each job that is there; the reference is its own. What cannot be read is logged, and
 * removed. */
void cairn_preheat_store_load(struct cairn_preheat_store *store, const struct cairn_platform *node,
			      void (*fn)(void *arg, struct cairn_preheat_job *job), void *arg);

#endif
