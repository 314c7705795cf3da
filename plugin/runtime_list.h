/* Asking containerd for all that it records, and what is in use there. */
#ifndef CAIRN_PLUGIN_RUNTIME_LIST_H
#define CAIRN_PLUGIN_RUNTIME_LIST_H

#include <pthread.h>

#include "base/clock.h"
#include "plugin/listing.h"
#include "rpc/rpc.h"

/* One connection to containerd. Threads: list from one thread; cancel from any. */
struct cairn_lister {
	struct cairn_channel *channel;
	pthread_mutex_t mu;
	struct cairn_call *call; /* guarded by mu: the running one */
	bool cancelled;		 /* guarded by mu */
};

/* A new listing with everything but its client; recorded is sorted. It has begun before the first
 * question. Complete or an error: every namespace that there was at the beginning and at the end
 * was listed. Errors: containerd's, CANCELLED, INVALID_ARGUMENT (its answer makes no sense),
 * ABORTED (a namespace appeared meanwhile), RESOURCE_EXHAUSTED (limits). Blocks. */
CAIRN_CHECKED enum cairn_code cairn_lister_list(struct cairn_lister *l,
						const struct cairn_clock *clock,
						struct cairn_listing **ret, struct cairn_err *err);

/* The images alone, which is cheap: *ret is a listing with nothing else in it, and not complete if
 * a namespace appeared meanwhile. Errors: as above, but for ABORTED. Blocks. */
CAIRN_CHECKED enum cairn_code cairn_lister_list_images(struct cairn_lister *l,
						       const struct cairn_clock *clock,
						       struct cairn_listing **ret,
						       struct cairn_err *err);

/* End a running list, and each later one. */
void cairn_lister_cancel(struct cairn_lister *l);

#endif
