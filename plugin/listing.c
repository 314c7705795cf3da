#include "plugin/listing.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

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

/* ---- the listing ------------------------------------------------------------------------------*/

struct cairn_listing *cairn_listing_new(void)
{
	struct cairn_listing *listing = calloc(1, sizeof(*listing));
	if (listing == NULL) abort();
	listing->refs = 1;
	return listing;
}

struct cairn_listing *cairn_listing_ref(struct cairn_listing *listing)
{
	atomic_fetch_add(&listing->refs, 1);
	return listing;
}

void cairn_listing_unref(struct cairn_listing *listing)
{
	if (listing == NULL) return;
	unsigned before = atomic_fetch_sub(&listing->refs, 1);
	assert(before > 0);
	if (before != 1) return;
	cairn_digest_set_fini(&listing->recorded);
	cairn_listed_images_free(listing->images, listing->n_images);
	for (size_t i = 0; i < listing->n_leases; i++) cairn_listed_lease_fini(&listing->leases[i]);
	free(listing->leases);
	for (size_t i = 0; i < listing->n_containers; i++) {
		free(listing->containers[i].ns);
		free(listing->containers[i].id);
		free(listing->containers[i].image);
	}
	free(listing->containers);
	free(listing);
}

void cairn_listed_images_free(struct cairn_listed_image *images, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		free(images[i].ns);
		free(images[i].name);
	}
	free(images);
}

void cairn_listed_lease_fini(struct cairn_listed_lease *lease)
{
	free(lease->ns);
	free(lease->id);
	free(lease->content);
	*lease = (struct cairn_listed_lease){0};
}
