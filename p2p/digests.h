/* A set of digests, 8 bytes each: which blobs were announced. Two digests that share their first 8
 * bytes are one to it, which does not happen. Threads: one at a time. */
#ifndef CAIRN_P2P_DIGESTS_H
#define CAIRN_P2P_DIGESTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/digest.h"

struct cairn_digests {
	uint64_t *slots; /* owned; 0: free */
	size_t room, n;
};

void cairn_digests_fini(struct cairn_digests *set); /* of one that is all zero, too */
bool cairn_digests_add(struct cairn_digests *set,
		       const struct cairn_digest *digest); /* false: was */
bool cairn_digests_remove(struct cairn_digests *set,
			  const struct cairn_digest *digest); /* false: not */

#endif
