/* The second STAT of a Write: the one moment at which a pull may be kept waiting, because
 * containerd holds no lock then, and has not asked its registry yet.
 *
 * What it is told then stands: the offset that the opening STAT said, or exactly the total, of a
 * blob that is here by now. */
#ifndef CAIRN_PLUGIN_CONTENT_WAIT_H
#define CAIRN_PLUGIN_CONTENT_WAIT_H

#include "p2p/p2p.h"
#include "plugin/plugin.h"

struct cairn_content_wanted {
	struct cairn_digest digest;
	uint64_t total;
};

/* If the blob is here by now, or comes while the wait is worth it, the ingest is prefilled with it;
 * CAIRN_FROM_CONTAINERD: it is not. In a handler.
 *
 * First the wait is for a fill of cairn's own, if there is one, until that ends, waits for a pull
 * itself, stalls (stall_ms), or is slower than min_rate. Then for the swarm (plugin/swarm_wait.h):
 * it may grant this node to fetch the blob from the registry; *ret_grant is then to be released
 * when the stream is over. Any wait ends with the call, or with the daemon. */
enum cairn_content_source cairn_content_wait(const struct cairn_content_service *service,
					     struct cairn_call *call, struct cairn_ingest *ing,
					     const struct cairn_content_wanted *wanted,
					     struct cairn_want **ret_grant);

#endif
