#include "plugin/reconcile.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"

#define WALK_BATCH 64
#define STEP 256	   /* digests looked up without a pause */
#define MISSING_LOG_MAX 20 /* lines of one reconciliation */

static void log_blob(enum cairn_log_level level, const char *event,
		     const struct cairn_digest *digest, const char *why)
{
	char text[CAIRN_DIGEST_STR];
	cairn_log(level, event, CAIRN_STR("digest", cairn_digest_format(digest, text)),
		  CAIRN_STR("why", why));
}

/* Recorded, and bytes that are whole are not here. */
static void note_missing(const struct cairn_digest *digest, bool damaged,
			 const struct cairn_digest_set *known, uint64_t *logged,
			 struct cairn_reconciled *ret)
{
	struct cairn_err ignored;
	ret->missing++;
	if (cairn_digest_set_add(&ret->missing_set, digest, &ignored) != CAIRN_OK) return;
	if (known != NULL && cairn_digest_set_has(known, digest)) return;
	if ((*logged)++ < MISSING_LOG_MAX) {
		log_blob(CAIRN_LOG_ERROR, "recorded_blob_missing", digest,
			 damaged ? "damaged" : "absent");
	}
}

static void check_recorded(struct cairn_cache *cache, const struct cairn_digest *digest,
			   const struct cairn_digest_set *known, uint64_t *logged,
			   struct cairn_reconciled *ret)
{
	bool damaged;
	int state = cairn_cache_state(cache, digest, &damaged);
	if (state == 0 || damaged) {
		note_missing(digest, damaged, known, logged, ret);
	} else if (state == CAIRN_BLOB_CACHED && cairn_cache_reference(cache, digest)) {
		ret->promoted++;
		log_blob(CAIRN_LOG_WARN, "blob_promoted", digest, "recorded");
	}
}

static void check_all_recorded(struct cairn_cache *cache, const struct cairn_digest_set *recorded,
			       const struct cairn_digest_set *known, struct cairn_reconciled *ret)
{
	uint64_t logged = 0;
	for (int i = 0; i < 2; i++) {
		const struct cairn_digest_keys *k = &recorded->by_alg[i];
		struct cairn_digest digest = {.alg = i == 0 ? CAIRN_SHA256 : CAIRN_SHA512};
		size_t width = cairn_alg_bytes(digest.alg);
		for (size_t j = 0; j < k->n; j++) {
			memcpy(digest.bytes, k->keys + j * width, width);
			check_recorded(cache, &digest, known, &logged, ret);
			if (j % STEP == STEP - 1) cairn_let_others_in();
		}
	}
	if (logged > MISSING_LOG_MAX) {
		cairn_log(CAIRN_LOG_ERROR, "recorded_blobs_missing",
			  CAIRN_NUM("more", logged - MISSING_LOG_MAX),
			  CAIRN_NUM("missing", ret->missing));
	}
}

static uint64_t release_unrecorded(struct cairn_cache *cache, const struct cairn_listing *before,
				   const struct cairn_listing *now)
{
	struct cairn_blob_info *blobs = calloc(WALK_BATCH, sizeof(blobs[0]));
	if (blobs == NULL) abort();
	struct cairn_digest after = {0};
	uint64_t released = 0;
	size_t n;
	while ((n = cairn_cache_next(cache, &after, CAIRN_BLOB_REFERENCED, blobs, WALK_BATCH)) >
	       0) {
		after = blobs[n - 1].digest;
		for (size_t i = 0; i < n; i++) {
			const struct cairn_digest *digest = &blobs[i].digest;
			if (!cairn_digest_set_has(&now->recorded, digest) &&
			    !cairn_digest_set_has(&before->recorded, digest) &&
			    cairn_cache_release_unrecorded(cache, digest, before->begun_boot_ns)) {
				log_blob(CAIRN_LOG_INFO, "blob_released", digest, "unrecorded");
				released++;
			}
			cairn_blob_info_fini(&blobs[i]);
		}
		cairn_let_others_in();
	}
	free(blobs);
	return released;
}

void cairn_reconcile(struct cairn_cache *cache, const struct cairn_listing *before,
		     const struct cairn_listing *now, const struct cairn_digest_set *known,
		     struct cairn_reconciled *ret)
{
	*ret = (struct cairn_reconciled){0};
	check_all_recorded(cache, &now->recorded, known, ret);
	cairn_digest_set_sort(&ret->missing_set);
	if (before != NULL) ret->released = release_unrecorded(cache, before, now);
}
