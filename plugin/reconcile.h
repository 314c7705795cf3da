/* What containerd records against what the store holds: the part of the view of containerd that
 * asks nobody and has no thread.
 *
 * In doubt a blob is referenced: one complete listing promotes, two release. */
#ifndef CAIRN_PLUGIN_RECONCILE_H
#define CAIRN_PLUGIN_RECONCILE_H

#include <stdint.h>

#include "cache/cache.h"
#include "plugin/listing.h"

struct cairn_reconciled {
	uint64_t missing;		     /* recorded, and not here or damaged */
	uint64_t promoted, released;	     /* blobs */
	struct cairn_digest_set missing_set; /* owned */
};

/* Reference what is recorded and cached; find what is recorded and missing (logged unless it is in
 * *known, which may be NULL); release what neither listing has. before is the complete listing
 * before now, or NULL. */
void cairn_reconcile(struct cairn_cache *cache, const struct cairn_listing *before,
		     const struct cairn_listing *now, const struct cairn_digest_set *known,
		     struct cairn_reconciled *ret);

#endif
