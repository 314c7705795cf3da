/* Who the peers are: a link for each address that the names give; and who of them is asked. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "p2p/rendezvous.h"
#include "p2p/static_state.h"

#define LOG_EVERY_MS 60000

struct work { /* of one round; what is done without the lock */
	struct cairn_node_id addresses[CAIRN_STATIC_PEERS_MAX];
	size_t n, n_all;
	bool tried;
	char error[256];
	struct link *ended[CAIRN_STATIC_PEERS_MAX];
	size_t n_ended;
	struct cairn_err failed; /* a link that could not be started */
	bool too_many;		 /* since this round */
};

void keeper_choose(struct cairn_static *s)
{
	const struct arbiter us = {cairn_rendezvous_node(s->own->address), SLOT_SELF};
	s->up.n = s->asked.n = s->settled.n = 1;
	s->up.all[0] = s->asked.all[0] = s->settled.all[0] = us;
	for (slot_t i = 0; i < CAIRN_STATIC_PEERS_MAX; i++) {
		const struct link *link = s->links[i];
		if (link == NULL || !link->up) continue;
		const struct arbiter it = {link->number, i};
		s->up.all[s->up.n++] = it;
		if (link->asked) s->asked.all[s->asked.n++] = it;
		if (link->settled) s->settled.all[s->settled.n++] = it;
	}
	items_place(s);
}

static struct link *link_to(struct cairn_static *s, const char *target)
{
	for (slot_t i = 0; i < CAIRN_STATIC_PEERS_MAX; i++) {
		struct link *link = s->links[i];
		if (link != NULL && strcmp(link->target, target) == 0) return link;
	}
	return NULL;
}

static void start_link(struct cairn_static *s, const char *target, struct work *w)
{
	for (slot_t i = 0; i < CAIRN_STATIC_PEERS_MAX; i++) {
		if (s->links[i] != NULL) continue;
		if (link_start(s, i, target, &w->failed) != CAIRN_OK) return;
		return;
	}
}

/* mu held. Links as the names say; what ends is freed later. */
static void follow_names(struct cairn_static *s, struct work *w)
{
	w->too_many = w->n_all > CAIRN_STATIC_PEERS_MAX && w->n_all != s->n_addresses;
	s->n_addresses = w->n_all;
	memcpy(s->names_error, w->error, sizeof(s->names_error));
	for (slot_t i = 0; i < CAIRN_STATIC_PEERS_MAX; i++) {
		if (s->links[i] != NULL) s->links[i]->listed = false;
	}
	for (size_t k = 0; k < w->n; k++) {
		struct link *link = link_to(s, w->addresses[k].address);
		if (link == NULL) {
			start_link(s, w->addresses[k].address, w);
		} else if (!link->stop) {
			link->listed = true;
		}
	}
	w->n_ended = 0;
	for (slot_t i = 0; i < CAIRN_STATIC_PEERS_MAX; i++) {
		struct link *link = s->links[i];
		if (link == NULL) continue;
		if (!link->listed && !link->stop) link_stop(link);
		if (!link->ended) continue;
		w->ended[w->n_ended++] = link;
		s->links[i] = NULL;
	}
}

/* mu held. Returns in how many ms something changes by time alone. */
static int64_t settle(struct cairn_static *s, int64_t now_ms)
{
	bool chosen = false;
	int64_t next_ms = TICK_MS;
	for (slot_t i = 0; i < CAIRN_STATIC_PEERS_MAX; i++) {
		struct link *link = s->links[i];
		if (link == NULL || !link->up || link->settled) continue;
		bool *step = link->asked ? &link->settled : &link->asked;
		int64_t left_ms = link->up_ms + (link->asked ? 2 : 1) * SETTLE_MS - now_ms;
		if (left_ms <= 0) *step = chosen = true;
		if (left_ms > 0 && left_ms < next_ms) next_ms = left_ms;
	}
	if (chosen) keeper_choose(s);
	return next_ms;
}

/* mu held. We are ready when every peer was tried, and those that are there had the time to tell
 * us what they hold. */
static int64_t get_ready(struct cairn_static *s, bool names_tried, int64_t now_ms)
{
	bool tried = names_tried;
	if (s->ready) return TICK_MS;
	for (slot_t i = 0; i < CAIRN_STATIC_PEERS_MAX; i++) {
		if (s->links[i] != NULL && !s->links[i]->tried) tried = false;
	}
	if (tried && s->tried_ms == 0) s->tried_ms = now_ms;
	int64_t left_ms = s->started_ms + START_MS - now_ms;
	if (s->tried_ms != 0) {
		int64_t first_ms = s->up.n > 1 ? s->tried_ms + FIRST_MS - now_ms : 0;
		if (first_ms < left_ms) left_ms = first_ms;
	}
	if (left_ms <= 0) {
		s->ready = true;
		pthread_cond_broadcast(&s->changed);
	}
	return left_ms > 0 && left_ms < TICK_MS ? left_ms : TICK_MS;
}

static void wait_tick(struct cairn_static *s, int64_t ms)
{
	struct timespec until;
	(void)clock_gettime(CLOCK_MONOTONIC, &until);
	int64_t ns = until.tv_nsec + ms * CAIRN_NS_PER_MS;
	until.tv_sec += (time_t)(ns / CAIRN_NS_PER_S);
	until.tv_nsec = (long)(ns % CAIRN_NS_PER_S);
	(void)pthread_cond_timedwait(&s->tick, &s->mu, &until);
}

static void log_round(struct cairn_static *s, const struct work *w, uint64_t *refused_before,
		      int64_t *logged_ms)
{
	struct cairn_memory_stats stats;
	if (w->failed.code != CAIRN_OK) {
		cairn_log(CAIRN_LOG_ERROR, "peer_link", CAIRN_ERRF(&w->failed));
	}
	if (w->too_many) {
		cairn_log(CAIRN_LOG_WARN, "peers_too_many", CAIRN_NUM("addresses", w->n_all),
			  CAIRN_NUM("used", w->n),
			  CAIRN_STR("err", "the static directory is for fewer nodes: use etcd"));
	}
	cairn_memory_get_stats(s->mem, &stats);
	pthread_mutex_lock(&s->mu);
	uint64_t refused = stats.refused + s->refused;
	pthread_mutex_unlock(&s->mu);
	int64_t now_ms = static_now_ms();
	if (refused == *refused_before || now_ms - *logged_ms < LOG_EVERY_MS) return;
	cairn_log(CAIRN_LOG_WARN, "directory_full", CAIRN_NUM("blobs", stats.blobs),
		  CAIRN_NUM("refused", refused - *refused_before),
		  CAIRN_STR("err", "the table of who has what has reached its limit: what is new "
				   "is not found by others"));
	*refused_before = refused;
	*logged_ms = now_ms;
}

/* Other names, if there are, and each of them was looked up once. */
static void take_fresh(struct cairn_static *s, struct work *w)
{
	struct names *old = NULL;
	pthread_mutex_lock(&s->mu);
	if (s->fresh != NULL) {
		(void)names_get(s->fresh, w->addresses, CAIRN_STATIC_PEERS_MAX, &w->tried,
				w->error);
		if (w->tried) {
			old = s->names;
			names_inherit(s->fresh, old);
			s->names = cairn_steal(&s->fresh);
		}
	}
	pthread_mutex_unlock(&s->mu);
	names_stop(old);
}

void *keeper_main(void *arg)
{
	struct cairn_static *s = arg;
	struct work *w = calloc(1, sizeof(*w));
	if (w == NULL) abort();
	uint64_t refused = 0;
	int64_t logged_ms = static_now_ms() - LOG_EVERY_MS;
	bool stop = false;
	while (!stop) {
		w->failed.code = CAIRN_OK;
		take_fresh(s, w);
		w->n_all = names_get(s->names, w->addresses, CAIRN_STATIC_PEERS_MAX, &w->tried,
				     w->error);
		w->n = w->n_all < CAIRN_STATIC_PEERS_MAX ? w->n_all : CAIRN_STATIC_PEERS_MAX;
		int64_t now_ms = static_now_ms();
		(void)cairn_memory_hear(s->mem, s->own->address, now_ms);
		cairn_memory_expire(s->mem, now_ms - DEAD_MS);
		pthread_mutex_lock(&s->mu);
		stop = s->stop;
		if (!stop) follow_names(s, w);
		pthread_mutex_unlock(&s->mu);
		for (size_t i = 0; i < w->n_ended; i++) {
			pthread_join(w->ended[i]->thread, NULL);
			link_free(w->ended[i]);
		}
		w->n_ended = 0;
		log_round(s, w, &refused, &logged_ms);
		pthread_mutex_lock(&s->mu);
		int64_t ready_ms = get_ready(s, w->tried, now_ms), ms = settle(s, now_ms);
		stop = stop || s->stop;
		if (!stop) wait_tick(s, ready_ms < ms ? ready_ms : ms);
		pthread_mutex_unlock(&s->mu);
	}
	free(w);
	return NULL;
}
