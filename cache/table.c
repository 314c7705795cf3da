#include "cache/table.h"

#include <assert.h>

#include "cache/mem.h"
#include "cache/store.h"

#define BITS_MIN 6
#define BITS_MAX 24

static size_t bucket_of(const struct table *t, const struct cairn_digest *d)
{
	uint32_t head = (uint32_t)d->bytes[0] << 24 | (uint32_t)d->bytes[1] << 16 |
			(uint32_t)d->bytes[2] << 8 | d->bytes[3];
	return head >> (32 - t->bits);
}

void table_init(struct table *t)
{
	t->bits = BITS_MIN;
	t->n = 0;
	t->buckets = mem_zero(sizeof(struct blob *) << t->bits);
}

void table_fini(struct table *t)
{
	free(t->buckets);
	*t = (struct table){0};
}

struct blob *table_find(const struct table *t, const struct cairn_digest *digest)
{
	if (t->bits == 0) return NULL;
	for (struct blob *b = t->buckets[bucket_of(t, digest)]; b != NULL; b = b->next) {
		int order = cairn_digest_compare(&b->digest, digest);
		if (order == 0) return b;
		if (order > 0) return NULL;
	}
	return NULL;
}

/* A bucket splits into two neighbours, so both lists stay sorted without a comparison. */
static void grow(struct table *t)
{
	struct table bigger = {.bits = t->bits + 1, .n = t->n};
	bigger.buckets = mem_zero(sizeof(struct blob *) << bigger.bits);
	for (size_t i = 0; i < (size_t)1 << t->bits; i++) {
		struct blob **tail[2] = {&bigger.buckets[2 * i], &bigger.buckets[2 * i + 1]};
		for (struct blob *b = t->buckets[i]; b != NULL; b = b->next) {
			size_t half = bucket_of(&bigger, &b->digest) & 1;
			*tail[half] = b;
			tail[half] = &b->next;
		}
		*tail[0] = *tail[1] = NULL;
	}
	free(t->buckets);
	*t = bigger;
}

void table_insert(struct table *t, struct blob *b)
{
	if (t->n >= (size_t)1 << t->bits && t->bits < BITS_MAX) grow(t);
	struct blob **at = &t->buckets[bucket_of(t, &b->digest)];
	while (*at != NULL && cairn_digest_compare(&(*at)->digest, &b->digest) < 0) {
		at = &(*at)->next;
	}
	assert(*at == NULL || !cairn_digest_equal(&(*at)->digest, &b->digest));
	b->next = *at;
	*at = b;
	t->n++;
}

void table_remove(struct table *t, struct blob *b)
{
	struct blob **at = &t->buckets[bucket_of(t, &b->digest)];
	while (*at != b) {
		assert(*at != NULL);
		at = &(*at)->next;
	}
	*at = b->next;
	b->next = NULL;
	t->n--;
}

static struct blob *first_from(const struct table *t, size_t bucket)
{
	for (; bucket < (size_t)1 << t->bits; bucket++) {
		if (t->buckets[bucket] != NULL) return t->buckets[bucket];
	}
	return NULL;
}

struct blob *table_after(const struct table *t, const struct cairn_digest *after)
{
	if (t->bits == 0) return NULL;
	if (after == NULL) return first_from(t, 0);
	size_t bucket = bucket_of(t, after);
	for (struct blob *b = t->buckets[bucket]; b != NULL; b = b->next) {
		if (cairn_digest_compare(&b->digest, after) > 0) return b;
	}
	return first_from(t, bucket + 1);
}

struct blob *table_next(const struct table *t, const struct blob *b)
{
	return b->next != NULL ? b->next : first_from(t, bucket_of(t, &b->digest) + 1);
}
