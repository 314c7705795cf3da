#include "p2p/serving.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

/* ---- the table -------------------------------------------------------------------------- */

static struct cairn_serving *find_locked(struct cairn_swarm *swarm,
					 const struct cairn_digest *digest, uint64_t size)
{
	struct cairn_serving *s = swarm->servings[cairn_bucket_of(digest)];
	while (s != NULL && !(s->size == size && cairn_digest_equal(&s->digest, digest))) {
		s = s->next;
	}
	return s;
}

struct cairn_serving *cairn_serving_get(struct cairn_swarm *swarm,
					const struct cairn_digest *digest, uint64_t size)
{
	pthread_mutex_lock(&swarm->mu);
	struct cairn_serving *s = find_locked(swarm, digest, size);
	if (s == NULL) {
		s = calloc(1, sizeof(*s));
		if (s == NULL) abort();
		s->swarm = swarm;
		s->digest = *digest;
		s->size = size;
		s->count = cairn_piece_count(size);
		s->entry = cairn_alg_bytes(digest->alg);
		s->dirty = true;
		s->gen = 1;
		cairn_bitmap_init(&s->have, s->count);
		s->offer = cairn_offer_new(s->count);
		pthread_mutex_init(&s->mu, NULL);
		pthread_cond_init(&s->refreshed, NULL);
		s->next = swarm->servings[cairn_bucket_of(digest)];
		swarm->servings[cairn_bucket_of(digest)] = s;
	}
	s->refs++;
	pthread_mutex_unlock(&swarm->mu);
	return s;
}

void cairn_serving_put(struct cairn_serving *s)
{
	struct cairn_swarm *swarm = s->swarm;
	pthread_mutex_lock(&swarm->mu);
	bool last = --s->refs == 0;
	if (last) {
		struct cairn_serving **at = &swarm->servings[cairn_bucket_of(&s->digest)];
		while (*at != s) at = &(*at)->next;
		*at = s->next;
	}
	pthread_mutex_unlock(&swarm->mu);
	if (!last) return;
	cairn_partial_free(s->partial);
	cairn_bitmap_fini(&s->have);
	cairn_offer_free(s->offer);
	pthread_cond_destroy(&s->refreshed);
	pthread_mutex_destroy(&s->mu);
	free(s->list);
	free(s);
}

void cairn_serving_wake_locked(struct cairn_serving *s, const struct cairn_upload *but)
{
	for (struct cairn_upload *u = s->uploads; u != NULL; u = u->next) {
		if (u != but) (void)eventfd_write(u->wake_fd, 1);
	}
}

static void poke_locked(struct cairn_serving *s, bool wrong)
{
	pthread_mutex_lock(&s->mu);
	s->dirty = true;
	s->went_wrong = s->went_wrong || wrong;
	cairn_serving_wake_locked(s, NULL);
	pthread_mutex_unlock(&s->mu);
}

static void poke(struct cairn_swarm *swarm, const struct cairn_digest *digest, bool wrong)
{
	pthread_mutex_lock(&swarm->mu);
	for (struct cairn_serving *s = swarm->servings[cairn_bucket_of(digest)]; s != NULL;
	     s = s->next) {
		if (cairn_digest_equal(&s->digest, digest)) poke_locked(s, wrong);
	}
	pthread_mutex_unlock(&swarm->mu);
}

void cairn_serving_poke(struct cairn_swarm *swarm, const struct cairn_digest *digest)
{
	poke(swarm, digest, false);
}

void cairn_serving_poke_all(struct cairn_swarm *swarm)
{
	pthread_mutex_lock(&swarm->mu);
	for (unsigned b = 0; b < CAIRN_BUCKETS; b++) {
		for (struct cairn_serving *s = swarm->servings[b]; s != NULL; s = s->next) {
			poke_locked(s, false);
		}
	}
	pthread_mutex_unlock(&swarm->mu);
}

void cairn_serving_wrong(struct cairn_swarm *swarm, const struct cairn_digest *digest)
{
	poke(swarm, digest, true);
}

/* ---- what there is ---------------------------------------------------------------------- */

/* What was told is void; what there is now is another matter. */
static void begin_anew_locked(struct cairn_serving *s)
{
	if (s->went_wrong) s->wrong_gen = s->gen;
	s->went_wrong = false;
	s->gen++;
	s->list_n = s->partial_n = 0;
	s->from_fill = s->proven = s->spreads = false;
	s->originator[0] = '\0';
	cairn_bitmap_empty(&s->have);
	cairn_offer_free(s->offer);
	s->offer = cairn_offer_new(s->count);
}

static void add_piece_locked(struct cairn_serving *s, uint32_t piece, bool elsewhere,
			     int64_t now_ms)
{
	if (cairn_bitmap_set(&s->have, piece)) {
		cairn_offer_add(s->offer, piece, elsewhere, now_ms);
	}
}

static uint8_t *list_locked(struct cairn_serving *s)
{
	if (s->list == NULL && s->count > 1) {
		s->list = malloc((s->count - 1) * s->entry);
		if (s->list == NULL) abort();
	}
	return s->list;
}

/* More entries, of the same list or not: false. */
static bool add_list_locked(struct cairn_serving *s, const uint8_t *entries, uint32_t from,
			    uint32_t n)
{
	uint32_t known = from >= s->list_n ? 0 : s->list_n - from;
	if (known > n) known = n;
	if (known > 0 && memcmp(s->list + from * s->entry, entries, known * s->entry) != 0) {
		return false;
	}
	if (n > known) {
		assert(from + known == s->list_n);
		memcpy(list_locked(s) + (from + known) * s->entry, entries + known * s->entry,
		       (n - known) * s->entry);
		s->list_n = from + n;
	}
	return true;
}

/* What a fill of ours has got from others. */
static void add_fill_locked(struct cairn_serving *s, struct cairn_swarm_fill *f, int64_t now_ms)
{
	pthread_mutex_lock(&f->mu);
	bool usable = f->pieces != NULL && !f->forgetting && (f->list_n > 0 || f->count == 1);
	if (s->from_fill && (!usable || f->gen != s->fill_gen)) begin_anew_locked(s);
	uint32_t from = s->from_fill ? s->list_n : 0; /* what was compared is not again */
	if (usable && f->list_n > from) {
		usable = add_list_locked(s, f->list + from * s->entry, from, f->list_n - from);
	}
	if (usable) {
		s->from_fill = true;
		s->fill_gen = f->gen;
		if (s->originator[0] == '\0') {
			memcpy(s->originator, f->originator, sizeof(s->originator));
		}
		if (s->partial_n == 0) s->proven = f->proven;
	}
	for (uint32_t k = 0; usable && k < s->count; k++) {
		if (!cairn_bitmap_has(&s->have, k) && cairn_pieces_has(f->pieces, k)) {
			add_piece_locked(s, k, true, now_ms);
		}
	}
	pthread_mutex_unlock(&f->mu);
}

/* What somebody here writes, in order. It is the truth that we are the maker of: where it
 * contradicts what we had, it counts. False: it is over. */
static bool add_partial_locked(struct cairn_serving *s, int64_t now_ms)
{
	uint32_t n = 0;
	if (cairn_partial_look(s->partial, &n) == CAIRN_PARTIAL_STALE || n < s->partial_n) {
		if (s->partial_n > 0) begin_anew_locked(s);
		return false;
	}
	if (n > s->count) n = s->count;
	uint32_t from = s->partial_n, to = n < s->count ? n : s->count - 1;
	if (to > from) {
		uint8_t *entries = malloc((to - from) * s->entry);
		if (entries == NULL) abort();
		bool ok = cairn_partial_list(s->partial, from, to - from, entries);
		if (ok && !add_list_locked(s, entries, from, to - from)) {
			free(entries);
			begin_anew_locked(s);
			return add_partial_locked(s, now_ms); /* from the first on; once */
		}
		free(entries);
		if (!ok) return true;
		if (s->originator[0] == '\0' || from == 0) {
			snprintf(s->originator, sizeof(s->originator), "%s",
				 s->swarm->hello.address);
			s->proven = false;
		}
	}
	for (uint32_t k = from; k < n; k++) add_piece_locked(s, k, false, now_ms);
	s->partial_n = n;
	return true;
}

bool cairn_serving_whole_locked(const struct cairn_serving *s)
{
	return s->state == CAIRN_SERVING_WHOLE && (!s->spreads || cairn_offer_over(s->offer));
}

static void add_whole_locked(struct cairn_serving *s, const uint8_t *list)
{
	int64_t now_ms = cairn_swarm_now_ms();
	if (s->count > 1 && !add_list_locked(s, list, 0, s->count - 1)) {
		begin_anew_locked(s);
		(void)add_list_locked(s, list, 0, s->count - 1);
	}
	s->proven = true;
	snprintf(s->originator, sizeof(s->originator), "%s", s->swarm->hello.address);
	s->state = CAIRN_SERVING_WHOLE;
	/* Small ones come in the answer. */
	s->spreads = s->partial_n > 0 && s->size > CAIRN_INLINE_MAX;
	for (uint32_t k = 0; s->spreads && k < s->count; k++) {
		add_piece_locked(s, k, false, now_ms);
	}
}

/* Is the blob here whole? Then its list, too. */
static bool find_whole(struct cairn_serving *s, uint8_t **ret_list)
{
	struct cairn_blob *blob = NULL;
	struct cairn_err ignored;
	*ret_list = NULL;
	if (!cairn_swarm_has(s->swarm, &s->digest) ||
	    cairn_blob_open(s->swarm->cache, &s->digest, &blob, &ignored) != CAIRN_OK) {
		return false;
	}
	bool whole = cairn_blob_size(blob) == s->size &&
		     cairn_blob_piece_list(blob, ret_list, &ignored) == CAIRN_OK;
	cairn_blob_close(blob);
	return whole;
}

/* What a look has found. */
struct found {
	bool whole;
	uint8_t *list;
	struct cairn_swarm_fill *fill;
	struct cairn_partial *partial;
};

static void install_growing_locked(struct cairn_serving *s, struct found *found)
{
	int64_t now_ms = cairn_swarm_now_ms();
	bool grows = found->fill != NULL;
	if (s->state == CAIRN_SERVING_WHOLE) begin_anew_locked(s);
	if (s->partial == NULL) s->partial = cairn_steal(&found->partial);
	if (s->partial != NULL && add_partial_locked(s, now_ms)) {
		grows = true;
	} else if (s->partial != NULL) {
		cairn_partial_free(cairn_steal(&s->partial));
		s->dirty = true; /* perhaps there is another */
	}
	if (found->fill != NULL) {
		add_fill_locked(s, found->fill, now_ms);
	} else if (s->from_fill) {
		begin_anew_locked(s);
		s->dirty = true;
	}
	s->state = grows ? CAIRN_SERVING_GROWS : CAIRN_SERVING_NOTHING;
}

static void look(struct cairn_serving *s, bool has_partial, struct found *ret)
{
	ret->whole = find_whole(s, &ret->list);
	if (ret->whole) return;
	ret->fill = cairn_swarm_find_fill(s->swarm, &s->digest);
	if (ret->fill != NULL && ret->fill->size != s->size) {
		cairn_swarm_fill_unref(cairn_steal(&ret->fill));
	}
	if (has_partial) return;
	ret->partial = cairn_partial_find(s->swarm->cache, &s->digest, s->size);
	/* It may have become whole between the two looks. */
	if (ret->partial == NULL) ret->whole = find_whole(s, &ret->list);
}

/* Look again, if something has changed. One thread at a time does; the others wait for it. */
void cairn_serving_refresh(struct cairn_serving *s)
{
	pthread_mutex_lock(&s->mu);
	for (int i = 0; i < 3; i++) { /* what it finds may change while it looks */
		while (s->refreshing) pthread_cond_wait(&s->refreshed, &s->mu);
		if (!s->dirty) break;
		s->dirty = false;
		s->refreshing = true;
		bool has_partial = s->partial != NULL, was_whole = s->state == CAIRN_SERVING_WHOLE;
		pthread_mutex_unlock(&s->mu);
		struct found found = {0};
		bool same = was_whole && cairn_swarm_has(s->swarm, &s->digest);
		if (!same) look(s, has_partial, &found);
		pthread_mutex_lock(&s->mu);
		if (!same && s->went_wrong) begin_anew_locked(s);
		if (found.whole) add_whole_locked(s, found.list);
		if (!same && !found.whole) install_growing_locked(s, &found);
		s->refreshing = false;
		pthread_cond_broadcast(&s->refreshed);
		pthread_mutex_unlock(&s->mu);
		free(found.list);
		cairn_partial_free(found.partial);
		cairn_swarm_fill_unref(found.fill);
		pthread_mutex_lock(&s->mu);
	}
	pthread_mutex_unlock(&s->mu);
}
