/* What containerd records against what the store holds: the part of the view of containerd that
 * asks nobody and has no thread.
 *
 * In doubt a blob is referenced: one complete listing promotes, two release. */
#ifndef CAIRN_PLUGIN_RECONCILE_H
#define CAIRN_PLUGIN_RECONCILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cache/cache.h"

#define CAIRN_RECORDS_MAX (1u << 22) /* digests of one listing */

/* Digests, compact: sha256 costs 32 bytes each. Starts zeroed. Add, then sort, then ask. */
struct cairn_digest_set {
	struct cairn_digest_keys {
		uint8_t *keys;
		size_t n, cap;
	} by_alg[2];
};

/* Errors: RESOURCE_EXHAUSTED (CAIRN_RECORDS_MAX). */
CAIRN_CHECKED enum cairn_code cairn_digest_set_add(struct cairn_digest_set *set,
						   const struct cairn_digest *digest,
						   struct cairn_err *err);
void cairn_digest_set_sort(struct cairn_digest_set *set); /* and make each unique */
bool cairn_digest_set_has(const struct cairn_digest_set *set, const struct cairn_digest *digest);
size_t cairn_digest_set_size(const struct cairn_digest_set *set);
void cairn_digest_set_fini(struct cairn_digest_set *set);

/* One complete listing: all that is recorded in any namespace at some moment after begun. */
struct cairn_listing {
	int64_t begun_boot_ns, begun_real_ns;
	bool client; /* it is of the containerd that uses us: only then may it release */
	struct cairn_digest_set recorded; /* sorted */
};

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
