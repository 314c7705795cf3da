#include "plugin/reconcile.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"

#define WALK_BATCH 64
#define MISSING_LOG_MAX 20 /* lines of one reconciliation */

/* ---- sets -------------------------------------------------------------------------------------*/

static size_t key_bytes(int alg_index)
{
	return cairn_alg_bytes(alg_index == 0 ? CAIRN_SHA256 : CAIRN_SHA512);
}

static int alg_index(const struct cairn_digest *digest)
{
	return digest->alg == CAIRN_SHA256 ? 0 : 1;
}

size_t cairn_digest_set_size(const struct cairn_digest_set *set)
{
	return set->by_alg[0].n + set->by_alg[1].n;
}

enum cairn_code cairn_digest_set_add(struct cairn_digest_set *set,
				     const struct cairn_digest *digest, struct cairn_err *err)
{
	int i = alg_index(digest);
	struct cairn_digest_keys *k = &set->by_alg[i];
	size_t width = key_bytes(i);
	if (cairn_digest_set_size(set) >= CAIRN_RECORDS_MAX) {
		return cairn_err_set(err, CAIRN_RESOURCE_EXHAUSTED, "more than %u records",
				     CAIRN_RECORDS_MAX);
	}
	if (k->n == k->cap) {
		k->cap = k->cap == 0 ? 64 : 2 * k->cap;
		k->keys = realloc(k->keys, k->cap * width);
		if (k->keys == NULL) abort();
	}
	memcpy(k->keys + k->n++ * width, digest->bytes, width);
	return CAIRN_OK;
}

static int compare256(const void *a, const void *b)
{
	return memcmp(a, b, 32);
}

static int compare512(const void *a, const void *b)
{
	return memcmp(a, b, 64);
}

typedef int compare_fn(const void *a, const void *b);
static compare_fn *const compare[2] = {compare256, compare512};

void cairn_digest_set_sort(struct cairn_digest_set *set)
{
	for (int i = 0; i < 2; i++) {
		struct cairn_digest_keys *k = &set->by_alg[i];
		size_t width = key_bytes(i), n = 0;
		if (k->n == 0) continue;
		qsort(k->keys, k->n, width, compare[i]);
		for (size_t j = 0; j < k->n; j++) {
			const uint8_t *key = k->keys + j * width;
			if (n > 0 && memcmp(k->keys + (n - 1) * width, key, width) == 0) continue;
			memmove(k->keys + n++ * width, key, width);
		}
		k->n = n;
		uint8_t *fit = realloc(k->keys, n * width); /* it is kept for long */
		if (fit != NULL) k->keys = fit;
		k->cap = n;
	}
}

bool cairn_digest_set_has(const struct cairn_digest_set *set, const struct cairn_digest *digest)
{
	int i = alg_index(digest);
	const struct cairn_digest_keys *k = &set->by_alg[i];
	return k->n > 0 && bsearch(digest->bytes, k->keys, k->n, key_bytes(i), compare[i]) != NULL;
}

void cairn_digest_set_fini(struct cairn_digest_set *set)
{
	for (int i = 0; i < 2; i++) free(set->by_alg[i].keys);
	*set = (struct cairn_digest_set){0};
}

/* ---- reconciliation ---------------------------------------------------------------------------*/

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
	struct cairn_err ignored;
	cairn_auto(cairn_blob_info_fini) struct cairn_blob_info info = {0};
	if (cairn_cache_info(cache, digest, &info, &ignored) != CAIRN_OK) {
		note_missing(digest, false, known, logged, ret);
	} else if (info.damaged) {
		note_missing(digest, true, known, logged, ret);
	} else if (info.state == CAIRN_BLOB_CACHED && cairn_cache_reference(cache, digest)) {
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
		size_t width = key_bytes(i);
		struct cairn_digest digest = {.alg = i == 0 ? CAIRN_SHA256 : CAIRN_SHA512};
		for (size_t j = 0; j < k->n; j++) {
			memcpy(digest.bytes, k->keys + j * width, width);
			check_recorded(cache, &digest, known, &logged, ret);
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
