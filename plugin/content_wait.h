/* The second STAT of a Write: the one moment at which a pull may be kept waiting, because
 * containerd holds no lock then, and has not asked its registry yet.
 *
 * What it is told then stands: the offset that the opening STAT said, or exactly the total, of a
 * blob that is here by now. */
#ifndef CAIRN_PLUGIN_CONTENT_WAIT_H
#define CAIRN_PLUGIN_CONTENT_WAIT_H

#include "plugin/plugin.h"

/* If the blob is here by now, or comes while the wait is worth it, the ingest is prefilled with it:
 * returns whether it is. The wait ends when the fill does, when that waits for a pull itself, when
 * no byte came for stall_ms, when it is slower than min_rate, with the call, or with the daemon. In
 * a handler. */
bool cairn_content_wait(const struct cairn_content_service *service, struct cairn_call *call,
			struct cairn_ingest *ing, const struct cairn_digest *want, uint64_t total);

#endif
