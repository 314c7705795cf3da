#include "p2p/peers.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BUCKETS 1024
#define SPEED_MS 2000

struct peer {
	struct peer *next;	    /* in its bucket */
	struct peer *newer, *older; /* by when it was last heard of */
	char address[CAIRN_ADDRESS_MAX];
	char name[256];
	unsigned connections;
	int64_t seen_ms; /* when one began or ended last */
	uint64_t from_bytes, to_bytes, bad_pieces, failures;
	struct cairn_speed from, to;
	int64_t shunned_until_ms;
	char error[256];
};

/* Whom not to believe about a digest; who "": nobody without proof. */
struct shun {
	struct cairn_digest digest;
	char who[CAIRN_ADDRESS_MAX];
	int64_t until_ms; /* in the past: the place is free */
};

struct cairn_peers {
	pthread_mutex_t mu; /* guards all below */
	struct peer *buckets[BUCKETS];
	struct peer *newest, *oldest;
	size_t n;
	struct shun *shuns; /* CAIRN_SHUNS_MAX; made when first needed */
	size_t n_shuns;	    /* places that were used */
};

/* ---- bytes a second --------------------------------------------------------------------- */

void cairn_speed_add(struct cairn_speed *speed, uint64_t bytes, int64_t now_ms)
{
	int64_t ms = now_ms - speed->since_ms;
	if (ms >= SPEED_MS) {
		/* After a pause the old bytes say nothing about now. */
		speed->last_bps = ms < 2 * SPEED_MS ? speed->bytes * 1000 / (uint64_t)ms : 0;
		speed->bytes = 0;
		speed->since_ms = now_ms;
	}
	speed->bytes += bytes;
}

uint64_t cairn_speed_now(const struct cairn_speed *speed, int64_t now_ms)
{
	int64_t ms = now_ms - speed->since_ms;
	if (ms >= 2 * SPEED_MS) return 0;
	if (ms >= SPEED_MS / 2) return speed->bytes * 1000 / (uint64_t)ms;
	return speed->last_bps != 0 ? speed->last_bps : speed->bytes * 1000 / (SPEED_MS / 2);
}

/* ---- the table -------------------------------------------------------------------------- */

struct cairn_peers *cairn_peers_new(void)
{
	struct cairn_peers *peers = calloc(1, sizeof(*peers));
	if (peers == NULL) abort();
	pthread_mutex_init(&peers->mu, NULL);
	return peers;
}

void cairn_peers_free(struct cairn_peers *peers)
{
	if (peers == NULL) return;
	for (struct peer *p = peers->newest, *next; p != NULL; p = next) {
		next = p->older;
		free(p);
	}
	free(peers->shuns);
	pthread_mutex_destroy(&peers->mu);
	free(peers);
}

static struct peer **bucket_of(struct cairn_peers *peers, const char *address)
{
	uint32_t hash = 2166136261u;
	for (const char *s = address; *s != '\0'; s++) hash = (hash ^ (uint8_t)*s) * 16777619u;
	return &peers->buckets[hash % BUCKETS];
}

static struct peer *find_locked(struct cairn_peers *peers, const char *address)
{
	struct peer *p = *bucket_of(peers, address);
	while (p != NULL && strcmp(p->address, address) != 0) p = p->next;
	return p;
}

static void unlink_age_locked(struct cairn_peers *peers, struct peer *p)
{
	if (p->newer != NULL) p->newer->older = p->older;
	if (p->older != NULL) p->older->newer = p->newer;
	if (peers->newest == p) peers->newest = p->older;
	if (peers->oldest == p) peers->oldest = p->newer;
	p->newer = p->older = NULL;
}

static void forget_oldest_locked(struct cairn_peers *peers)
{
	struct peer *p = peers->oldest;
	while (p != NULL && p->connections > 0) p = p->newer;
	if (p == NULL) return; /* there are no more connections than places */
	struct peer **at = bucket_of(peers, p->address);
	while (*at != p) at = &(*at)->next;
	*at = p->next;
	unlink_age_locked(peers, p);
	free(p);
	peers->n--;
}

static struct peer *get_locked(struct cairn_peers *peers, const char *address)
{
	struct peer *p = find_locked(peers, address);
	if (p == NULL) {
		if (peers->n >= CAIRN_PEERS_MAX) forget_oldest_locked(peers);
		p = calloc(1, sizeof(*p));
		if (p == NULL) abort();
		snprintf(p->address, sizeof(p->address), "%s", address);
		struct peer **at = bucket_of(peers, p->address);
		p->next = *at;
		*at = p;
		peers->n++;
	} else {
		unlink_age_locked(peers, p);
	}
	p->older = peers->newest;
	if (p->older != NULL) p->older->newer = p;
	peers->newest = p;
	if (peers->oldest == NULL) peers->oldest = p;
	return p;
}

void cairn_peers_met(struct cairn_peers *peers, const char *address, const char *name)
{
	pthread_mutex_lock(&peers->mu);
	struct peer *p = get_locked(peers, address);
	snprintf(p->name, sizeof(p->name), "%s", name);
	p->connections++;
	p->seen_ms = cairn_boot_ns(&cairn_clock_system) / CAIRN_NS_PER_MS;
	pthread_mutex_unlock(&peers->mu);
}

void cairn_peers_parted(struct cairn_peers *peers, const char *address)
{
	pthread_mutex_lock(&peers->mu);
	struct peer *p = get_locked(peers, address);
	if (p->connections > 0) p->connections--;
	p->seen_ms = cairn_boot_ns(&cairn_clock_system) / CAIRN_NS_PER_MS;
	pthread_mutex_unlock(&peers->mu);
}

void cairn_peers_from(struct cairn_peers *peers, const char *address, uint64_t bytes,
		      int64_t now_ms)
{
	pthread_mutex_lock(&peers->mu);
	struct peer *p = get_locked(peers, address);
	p->from_bytes += bytes;
	cairn_speed_add(&p->from, bytes, now_ms);
	pthread_mutex_unlock(&peers->mu);
}

void cairn_peers_to(struct cairn_peers *peers, const char *address, uint64_t bytes, int64_t now_ms)
{
	pthread_mutex_lock(&peers->mu);
	struct peer *p = get_locked(peers, address);
	p->to_bytes += bytes;
	cairn_speed_add(&p->to, bytes, now_ms);
	pthread_mutex_unlock(&peers->mu);
}

void cairn_peers_failed(struct cairn_peers *peers, const char *address, const char *why)
{
	pthread_mutex_lock(&peers->mu);
	struct peer *p = get_locked(peers, address);
	p->failures++;
	snprintf(p->error, sizeof(p->error), "%s", why);
	pthread_mutex_unlock(&peers->mu);
}

void cairn_peers_bad(struct cairn_peers *peers, const char *address, const char *why)
{
	pthread_mutex_lock(&peers->mu);
	struct peer *p = get_locked(peers, address);
	p->bad_pieces++;
	snprintf(p->error, sizeof(p->error), "%s", why);
	pthread_mutex_unlock(&peers->mu);
}

/* ---- whom not to believe ---------------------------------------------------------------- */

static struct shun *find_shun_locked(struct cairn_peers *peers, const struct cairn_digest *digest,
				     const char *who, int64_t now_ms)
{
	for (size_t i = 0; i < peers->n_shuns; i++) {
		struct shun *s = &peers->shuns[i];
		if (s->until_ms > now_ms && cairn_digest_equal(&s->digest, digest) &&
		    strcmp(s->who, who) == 0) {
			return s;
		}
	}
	return NULL;
}

/* A free place, or that of the one that would end first. */
static struct shun *place_locked(struct cairn_peers *peers, int64_t now_ms)
{
	struct shun *best = NULL;
	if (peers->shuns == NULL) {
		peers->shuns = calloc(CAIRN_SHUNS_MAX, sizeof(*peers->shuns));
		if (peers->shuns == NULL) abort();
	}
	for (size_t i = 0; i < peers->n_shuns; i++) {
		struct shun *s = &peers->shuns[i];
		if (s->until_ms <= now_ms) return s;
		if (best == NULL || s->until_ms < best->until_ms) best = s;
	}
	if (peers->n_shuns < CAIRN_SHUNS_MAX) return &peers->shuns[peers->n_shuns++];
	return best;
}

static void shun_locked(struct cairn_peers *peers, const struct cairn_digest *digest,
			const char *who, int64_t now_ms)
{
	struct shun *s = find_shun_locked(peers, digest, who, now_ms);
	if (s == NULL) s = place_locked(peers, now_ms);
	s->digest = *digest;
	s->until_ms = now_ms + CAIRN_SHUN_MS;
	snprintf(s->who, sizeof(s->who), "%s", who);
}

void cairn_peers_shun(struct cairn_peers *peers, const struct cairn_digest *digest,
		      const char *address, int64_t now_ms)
{
	pthread_mutex_lock(&peers->mu);
	struct peer *p = get_locked(peers, address);
	p->shunned_until_ms = now_ms + CAIRN_SHUN_MS;
	shun_locked(peers, digest, p->name[0] != '\0' ? p->name : p->address, now_ms);
	pthread_mutex_unlock(&peers->mu);
}

bool cairn_peers_shuns(struct cairn_peers *peers, const struct cairn_digest *digest,
		       const char *address, const char *name, int64_t now_ms)
{
	pthread_mutex_lock(&peers->mu);
	struct peer *p = find_locked(peers, address);
	if (name == NULL || name[0] == '\0') name = p != NULL ? p->name : "";
	bool shuns = find_shun_locked(peers, digest, address, now_ms) != NULL ||
		     (name[0] != '\0' && find_shun_locked(peers, digest, name, now_ms) != NULL);
	pthread_mutex_unlock(&peers->mu);
	return shuns;
}

void cairn_peers_doubt(struct cairn_peers *peers, const struct cairn_digest *digest, int64_t now_ms)
{
	pthread_mutex_lock(&peers->mu);
	shun_locked(peers, digest, "", now_ms);
	pthread_mutex_unlock(&peers->mu);
}

bool cairn_peers_doubts(struct cairn_peers *peers, const struct cairn_digest *digest,
			int64_t now_ms)
{
	pthread_mutex_lock(&peers->mu);
	bool doubts = find_shun_locked(peers, digest, "", now_ms) != NULL;
	pthread_mutex_unlock(&peers->mu);
	return doubts;
}

/* ---- looking at it ---------------------------------------------------------------------- */

size_t cairn_peers_list(struct cairn_peers *peers, struct cairn_peer_status *ret, size_t max,
			int64_t now_ms)
{
	size_t n = 0;
	pthread_mutex_lock(&peers->mu);
	for (const struct peer *p = peers->newest; p != NULL && n < max; p = p->older, n++) {
		struct cairn_peer_status *st = &ret[n];
		*st = (struct cairn_peer_status){
			.connected = p->connections > 0,
			.unseen_ms = p->connections > 0 ? 0 : now_ms - p->seen_ms,
			.from_bytes = p->from_bytes,
			.to_bytes = p->to_bytes,
			.from_bps = cairn_speed_now(&p->from, now_ms),
			.to_bps = cairn_speed_now(&p->to, now_ms),
			.bad_pieces = p->bad_pieces,
			.failures = p->failures,
			.shunned_ms =
				p->shunned_until_ms > now_ms ? p->shunned_until_ms - now_ms : 0,
		};
		memcpy(st->address, p->address, sizeof(st->address));
		memcpy(st->name, p->name, sizeof(st->name));
		memcpy(st->error, p->error, sizeof(st->error));
	}
	n = peers->n;
	pthread_mutex_unlock(&peers->mu);
	return n;
}
