/* Asking containerd for all that it records. */
#ifndef CAIRN_PLUGIN_RUNTIME_LIST_H
#define CAIRN_PLUGIN_RUNTIME_LIST_H

#include <pthread.h>

#include "plugin/reconcile.h"
#include "rpc/rpc.h"

#define CAIRN_NAMESPACES_MAX 4096
#define CAIRN_NAMESPACE_LEN_MAX 255 /* containerd itself allows 76 */

/* One connection to containerd. Threads: list from one thread; cancel from any. */
struct cairn_lister {
	struct cairn_channel *channel;
	pthread_mutex_t mu;
	struct cairn_call *call; /* guarded by mu: the running one */
	bool cancelled;		 /* guarded by mu */
};

/* Fill ret->recorded, sorted. Complete or an error: every namespace that there was at the beginning
 * and at the end was listed. Errors: containerd's, CANCELLED, INVALID_ARGUMENT (its answer makes no
 * sense), ABORTED (a namespace appeared meanwhile), RESOURCE_EXHAUSTED (limits). Blocks. */
CAIRN_CHECKED enum cairn_code
cairn_lister_list(struct cairn_lister *l, struct cairn_digest_set *ret, struct cairn_err *err);

/* End a running list, and each later one. */
void cairn_lister_cancel(struct cairn_lister *l);

#endif
