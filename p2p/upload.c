/* One of those who get a digest from us: what he was told, and what he is to be told next. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "p2p/policy.h"
#include "p2p/serving.h"

/* ---- uploads ---------------------------------------------------------------------------- */

static uint32_t free_follower_locked(const struct cairn_serving *s)
{
	for (uint32_t i = 0; i < CAIRN_FOLLOWERS_MAX; i++) {
		const struct cairn_upload *u = s->uploads;
		while (u != NULL && u->follower != i) u = u->next;
		if (u == NULL) return i;
	}
	return CAIRN_FOLLOWERS_MAX;
}

/* A choice of those that get it, but for that address. And they are told of it: joins. */
static void introduce_locked(struct cairn_serving *s, const char *address, bool joins,
			     struct cairn_others *ret)
{
	size_t chosen[CAIRN_OTHERS_MAX];
	uint64_t seed = s->swarm->seed ^ s->introduced++ << 32;
	size_t count = cairn_policy_others(seed, s->n_uploads, chosen);
	ret->n = 0;
	for (size_t i = 0; i < count; i++) {
		struct cairn_upload *o = s->uploads;
		for (size_t k = 0; k < chosen[i]; k++) o = o->next;
		if (o->address[0] == '\0' || strcmp(o->address, address) == 0) continue;
		memcpy(ret->addresses[ret->n], o->address, sizeof(o->address));
		ret->words[ret->n] = ret->addresses[ret->n];
		ret->n++;
		if (!joins || address[0] == '\0' || o->n_joined == CAIRN_OTHERS_MAX) continue;
		snprintf(o->joined[o->n_joined++], CAIRN_ADDRESS_MAX, "%s", address);
		(void)eventfd_write(o->wake_fd, 1);
	}
}

/* Whoever wants it from us gets it, and may have pieces that we lack. */
static void learn(struct cairn_swarm *swarm, const struct cairn_digest *digest, const char *address)
{
	struct cairn_swarm_fill *f = cairn_swarm_find_fill(swarm, digest);
	if (f == NULL) return;
	pthread_mutex_lock(&f->mu);
	if (f->pulling && cairn_swarm_fill_learn_locked(f, address, false, cairn_swarm_now_ms())) {
		cairn_swarm_fill_poke_locked(f);
	}
	pthread_mutex_unlock(&f->mu);
	cairn_swarm_fill_unref(f);
}

static struct cairn_upload *upload_new(struct cairn_serving *s, const char *address, int wake_fd)
{
	struct cairn_upload *u = calloc(1, sizeof(*u));
	if (u == NULL) abort();
	u->serving = s;
	u->wake_fd = wake_fd;
	snprintf(u->address, sizeof(u->address), "%s", address);
	cairn_bitmap_init(&u->told, s->count);
	return u;
}

struct cairn_upload *cairn_upload_begin(struct cairn_swarm *swarm,
					const struct cairn_digest *digest, uint64_t size,
					const char *address, int wake_fd,
					struct cairn_others *ret_others)
{
	struct cairn_serving *s = cairn_serving_get(swarm, digest, size);
	struct cairn_upload *u = NULL;
	learn(swarm, digest, address);
	pthread_mutex_lock(&s->mu);
	bool room = s->n_uploads < CAIRN_UPLOAD_SLOTS &&
		    atomic_load(&swarm->uploads) < CAIRN_UPLOADS_MAX;
	introduce_locked(s, address, room, ret_others);
	if (room) {
		u = upload_new(s, address, wake_fd);
		u->follower = free_follower_locked(s);
		memcpy(u->joined, ret_others->addresses, sizeof(u->joined));
		u->n_joined = ret_others->n;
		u->next = s->uploads;
		s->uploads = u;
		s->n_uploads++;
	}
	pthread_mutex_unlock(&s->mu);
	if (u == NULL) cairn_serving_put(s);
	return u;
}

static void still_locked(struct cairn_upload *u)
{
	if (u->moves) atomic_fetch_sub(&u->serving->swarm->uploads, 1);
	u->moves = false;
}

void cairn_upload_end(struct cairn_upload *u)
{
	if (u == NULL) return;
	struct cairn_serving *s = u->serving;
	pthread_mutex_lock(&s->mu);
	still_locked(u);
	struct cairn_upload **at = &s->uploads;
	while (*at != u) at = &(*at)->next;
	*at = u->next;
	s->n_uploads--;
	if (u->described && u->gen == s->gen) {
		cairn_offer_leave(s->offer, u->follower);
		cairn_serving_wake_locked(s, NULL); /* what was offered to it is everybody's */
	}
	pthread_mutex_unlock(&s->mu);
	cairn_partial_free(u->partial);
	cairn_blob_close(u->blob);
	cairn_bitmap_fini(&u->told);
	cairn_serving_put(s);
	free(u);
}

/* ---- telling ---------------------------------------------------------------------------- */

/* Where the pointers of a message lie. */
struct words {
	struct cairn_others others;
	char originator[CAIRN_ADDRESS_MAX];
	uint32_t *have;
	uint8_t *list;
	/* then have and list */
};

/* Pieces that it may know of, and does not. */
static uint32_t fresh_locked(struct cairn_serving *s, struct cairn_upload *u, int64_t now_ms,
			     uint32_t *ret)
{
	uint32_t n = 0;
	for (uint32_t k = cairn_bitmap_next(&s->have, 0); k < s->count;
	     k = cairn_bitmap_next(&s->have, k + 1)) {
		if (cairn_bitmap_has(&u->told, k)) continue;
		if (!cairn_offer_may_tell(s->offer, u->follower, k, now_ms)) continue;
		if (k + 1 < s->count && k >= s->list_n) continue;
		ret[n++] = k;
	}
	return n;
}

static bool void_locked(struct cairn_serving *s, struct cairn_upload *u,
			Cairn__Peer__V1__Description *msg)
{
	if (s->state != CAIRN_SERVING_NOTHING && (!u->described || u->gen == s->gen)) return false;
	bool wrong = u->described && u->gen == s->wrong_gen;
	msg->state = wrong ? CAIRN__PEER__V1__STATE__WRONG : CAIRN__PEER__V1__STATE__ABSENT;
	return true;
}

static struct words *words_new(const struct cairn_serving *s)
{
	size_t entries = (s->count - 1) * s->entry;
	struct words *words = calloc(1, sizeof(*words) + s->count * sizeof(uint32_t) + entries);
	if (words == NULL) abort();
	words->have = (uint32_t *)(words + 1);
	words->list = (uint8_t *)(words->have + s->count);
	return words;
}

/* Of those who came since it was told something. */
static void tell_joined_locked(struct cairn_upload *u, struct words *words,
			       Cairn__Peer__V1__Description *msg)
{
	struct cairn_others *others = &words->others;
	memcpy(others->addresses, u->joined, sizeof(u->joined));
	for (size_t i = 0; i < u->n_joined; i++) others->words[i] = others->addresses[i];
	msg->n_others = u->n_joined;
	msg->others = others->words;
	u->n_joined = 0;
}

static void describe_locked(struct cairn_serving *s, struct cairn_upload *u, struct words *words,
			    int64_t now_ms, Cairn__Peer__V1__Description *msg)
{
	bool whole = cairn_serving_whole_locked(s);
	if (!u->described) {
		u->gen = s->gen;
		cairn_offer_join(s->offer, u->follower);
	}
	tell_joined_locked(u, words, msg);
	msg->state = whole ? CAIRN__PEER__V1__STATE__WHOLE : CAIRN__PEER__V1__STATE__GROWS;
	msg->list_from = u->told_n;
	msg->list.len = (s->list_n - u->told_n) * s->entry;
	msg->list.data = words->list;
	if (msg->list.len > 0) {
		memcpy(words->list, s->list + u->told_n * s->entry, msg->list.len);
	}
	memcpy(words->originator, s->originator, sizeof(words->originator));
	msg->originator = words->originator;
	msg->proven = s->proven;
	u->told_n = s->list_n;
	if (!whole) {
		msg->n_have = fresh_locked(s, u, now_ms, words->have);
		msg->have = words->have;
		for (size_t i = 0; i < msg->n_have; i++) cairn_bitmap_set(&u->told, words->have[i]);
	}
}

bool cairn_upload_news(struct cairn_upload *u, int64_t now_ms, Cairn__Peer__V1__Description *msg,
		       void **memory)
{
	struct cairn_serving *s = u->serving;
	*memory = NULL;
	cairn_serving_refresh(s);
	struct words *words = words_new(s);
	pthread_mutex_lock(&s->mu);
	bool first = !u->described, over = void_locked(s, u, msg);
	bool whole = cairn_serving_whole_locked(s);
	bool news = over || first || whole != u->told_whole;
	if (!over) {
		uint32_t told_n = u->told_n;
		describe_locked(s, u, words, now_ms, msg);
		u->described = true;
		u->told_whole = whole;
		news = news || msg->n_have > 0 || msg->n_others > 0 || u->told_n > told_n;
	}
	if (u->moves && cairn_speed_now(&u->speed, now_ms) == 0) still_locked(u);
	pthread_mutex_unlock(&s->mu);
	if (news) *memory = words;
	if (!news) free(words);
	return news;
}

int64_t cairn_upload_next_ms(struct cairn_upload *u, int64_t now_ms)
{
	struct cairn_serving *s = u->serving;
	pthread_mutex_lock(&s->mu);
	bool in_pieces = s->state != CAIRN_SERVING_NOTHING && !cairn_serving_whole_locked(s);
	int64_t next_ms = in_pieces ? cairn_offer_next_ms(s->offer, now_ms) : INT64_MAX;
	pthread_mutex_unlock(&s->mu);
	return next_ms;
}

/* ---- giving ----------------------------------------------------------------------------- */

/* The ingest that somebody writes, for this connection alone: and it must be the one that was
 * told of. */
static bool read_partial(struct cairn_upload *u, uint32_t piece, uint64_t offset, size_t n,
			 uint8_t *buf)
{
	struct cairn_serving *s = u->serving;
	uint8_t entries[2 * CAIRN_CHAIN_STATE];
	struct cairn_err ignored;
	uint32_t there = 0;
	if (u->partial == NULL) {
		u->partial = cairn_partial_find(s->swarm->cache, &s->digest, s->size);
	}
	if (u->partial == NULL) return false;
	if (cairn_partial_look(u->partial, &there) == CAIRN_PARTIAL_STALE) {
		cairn_partial_free(cairn_steal(&u->partial));
		return false;
	}
	uint32_t from = piece > 0 ? piece - 1 : 0, to = piece + 1 < s->count ? piece + 1 : piece;
	if (piece >= there ||
	    (to > from && !cairn_partial_list(u->partial, from, to - from, entries))) {
		return false;
	}
	pthread_mutex_lock(&s->mu);
	bool same = u->gen == s->gen && to <= s->list_n &&
		    (to == from ||
		     memcmp(entries, s->list + from * s->entry, (to - from) * s->entry) == 0);
	pthread_mutex_unlock(&s->mu);
	return same && cairn_partial_read(u->partial, offset, buf, n, &ignored) == CAIRN_OK;
}

static bool read_fill(struct cairn_upload *u, uint32_t piece, uint64_t offset, size_t n,
		      uint8_t *buf)
{
	struct cairn_serving *s = u->serving;
	struct cairn_swarm_fill *f = cairn_swarm_find_fill(s->swarm, &s->digest);
	if (f == NULL) return false;
	bool ok = f->size == s->size && cairn_swarm_fill_read(f, piece, offset, buf, n);
	cairn_swarm_fill_unref(f);
	return ok;
}

static bool read_whole(struct cairn_upload *u, uint64_t offset, size_t n, struct cairn_view *ret)
{
	struct cairn_serving *s = u->serving;
	struct cairn_err ignored;
	if (u->blob == NULL &&
	    cairn_blob_open(s->swarm->cache, &s->digest, &u->blob, &ignored) != CAIRN_OK) {
		return false;
	}
	if (cairn_blob_view(u->blob, offset, n, true, ret, &ignored) == CAIRN_VIEW_OK) return true;
	cairn_blob_close(cairn_steal(&u->blob));
	return false;
}

bool cairn_upload_read(struct cairn_upload *u, uint32_t piece, uint64_t offset, size_t n,
		       uint8_t *buf, struct cairn_view *ret)
{
	struct cairn_serving *s = u->serving;
	for (int tries = 0; tries < 2; tries++) {
		pthread_mutex_lock(&s->mu);
		bool current = u->described && u->gen == s->gen;
		bool whole = s->state == CAIRN_SERVING_WHOLE;
		pthread_mutex_unlock(&s->mu);
		if (!current) return false;
		if (whole && read_whole(u, offset, n, ret)) return true;
		*ret = (struct cairn_view){.data = buf, .len = n};
		if (!whole && (read_fill(u, piece, offset, n, buf) ||
			       read_partial(u, piece, offset, n, buf))) {
			return true;
		}
		/* What grew may be whole by now, and be found elsewhere. */
		pthread_mutex_lock(&s->mu);
		s->dirty = true;
		pthread_mutex_unlock(&s->mu);
		cairn_serving_refresh(s);
	}
	return false;
}

void cairn_upload_sent(struct cairn_upload *u, uint32_t piece, size_t n, bool whole, int64_t now_ms)
{
	struct cairn_serving *s = u->serving;
	pthread_mutex_lock(&s->mu);
	u->bytes += n;
	cairn_speed_add(&u->speed, n, now_ms);
	if (!u->moves) atomic_fetch_add(&s->swarm->uploads, 1);
	u->moves = true;
	if (whole && u->gen == s->gen && !cairn_serving_whole_locked(s)) {
		cairn_offer_sent(s->offer, u->follower, piece);
		bool over = cairn_serving_whole_locked(s);
		cairn_serving_wake_locked(s, over ? NULL : u); /* they may be told of it now */
	}
	pthread_mutex_unlock(&s->mu);
}

void cairn_upload_lost(struct cairn_upload *u, uint32_t piece)
{
	struct cairn_serving *s = u->serving;
	pthread_mutex_lock(&s->mu);
	if (u->described && u->gen == s->gen && !cairn_serving_whole_locked(s)) {
		cairn_offer_lost(s->offer, u->follower, piece);
		if (cairn_serving_whole_locked(s)) cairn_serving_wake_locked(s, NULL);
	}
	pthread_mutex_unlock(&s->mu);
}

/* ---- looking at it ---------------------------------------------------------------------- */

size_t cairn_serving_status(struct cairn_swarm *swarm, struct cairn_upload_status *ret, size_t max)
{
	size_t n = 0;
	int64_t now_ms = cairn_swarm_now_ms();
	pthread_mutex_lock(&swarm->mu);
	for (unsigned b = 0; b < CAIRN_BUCKETS; b++) {
		for (struct cairn_serving *s = swarm->servings[b]; s != NULL; s = s->next) {
			pthread_mutex_lock(&s->mu);
			for (const struct cairn_upload *u = s->uploads; u != NULL; u = u->next) {
				if (n < max) {
					ret[n].digest = s->digest;
					ret[n].bytes = u->bytes;
					ret[n].bps = cairn_speed_now(&u->speed, now_ms);
					memcpy(ret[n].address, u->address, sizeof(u->address));
				}
				n++;
			}
			pthread_mutex_unlock(&s->mu);
		}
	}
	pthread_mutex_unlock(&swarm->mu);
	return n;
}
