/* From a manifest or an index to the blobs that it needs, by reading what is here of them. Reading
 * counts as no use of a blob. Blocks. Threads: any. */
#ifndef CAIRN_PLUGIN_GRAPH_H
#define CAIRN_PLUGIN_GRAPH_H

#include "cache/history.h"

/* What root needs: itself, and everything that can be reached from it through manifests and indexes
 * that are here; for a blob that is neither, or not here, itself alone. Sorted by digest. complete:
 * every manifest on the way was here and could be read; at least CAIRN_NEEDS_MAX digests and the
 * depth limit of oci/oci.h bound it. Never NULL; unref it. */
struct cairn_needs *cairn_graph_needs(struct cairn_cache *cache, const struct cairn_digest *root);

struct cairn_graph_state {
	bool ready; /* everything is here that a node needs to run it; of an index: one platform's
		     */
	uint64_t blobs, bytes; /* of the manifests that are here, and what they need */
	uint64_t missing_blobs, missing_bytes;
};

/* How much of root is here, and undamaged. */
void cairn_graph_state(struct cairn_cache *cache, const struct cairn_digest *root,
		       struct cairn_graph_state *ret);

#endif
