#include "p2p/offer.h"

#include <assert.h>
#include <stdlib.h>

#define NOBODY UINT32_MAX

enum state {
	ABSENT,	 /* we do not have it */
	WAITING, /* offered to nobody yet */
	OFFERED, /* to one */
	PASSED,	 /* somebody has it */
	PUBLIC,	 /* told to all */
	N_STATES,
};

struct piece {
	enum state state;
	uint32_t before, after; /* in the list of its state, NOBODY at the ends */
	uint32_t follower;	/* OFFERED */
	int64_t since_ms;	/* OFFERED, PASSED; INT64_MIN: since now, whenever that is */
	uint64_t sends;		/* OFFERED: how many pieces had been sent then */
};

struct cairn_offer {
	uint32_t n_pieces;
	struct piece *pieces; /* owned */
	/* Lists of WAITING, OFFERED and PASSED, oldest first; how many of each state. */
	uint32_t first[N_STATES], last[N_STATES], count[N_STATES];
	bool here[CAIRN_FOLLOWERS_MAX];
	bool lazy[CAIRN_FOLLOWERS_MAX]; /* let an offer lie, and has taken up none since */
	uint32_t open[CAIRN_FOLLOWERS_MAX];
	uint32_t turn;	 /* where the search for the next follower begins */
	uint64_t sends;	 /* pieces that were sent */
	bool undated;	 /* some since_ms is INT64_MIN */
	int64_t idle_ms; /* since when no offer is open; INT64_MIN: there is one */
};

struct cairn_offer *cairn_offer_new(uint32_t pieces)
{
	struct cairn_offer *offer = calloc(1, sizeof(*offer));
	if (!offer) abort();
	offer->pieces = calloc(pieces ? pieces : 1, sizeof(*offer->pieces));
	if (!offer->pieces) abort();
	offer->n_pieces = offer->count[ABSENT] = pieces;
	offer->idle_ms = INT64_MIN;
	for (int i = 0; i < N_STATES; i++) offer->first[i] = offer->last[i] = NOBODY;
	return offer;
}

void cairn_offer_free(struct cairn_offer *offer)
{
	if (!offer) return;
	free(offer->pieces);
	free(offer);
}

/* ---- states ---- */

static bool is_listed(enum state state)
{
	return state == WAITING || state == OFFERED || state == PASSED;
}

static void unlist(struct cairn_offer *offer, const struct piece *p)
{
	if (!is_listed(p->state)) return;
	if (p->before == NOBODY) {
		offer->first[p->state] = p->after;
	} else {
		offer->pieces[p->before].after = p->after;
	}
	if (p->after == NOBODY) {
		offer->last[p->state] = p->before;
	} else {
		offer->pieces[p->after].before = p->before;
	}
}

static void list_last(struct cairn_offer *offer, uint32_t k, enum state state)
{
	struct piece *p = &offer->pieces[k];
	p->before = offer->last[state];
	p->after = NOBODY;
	if (p->before != NOBODY) offer->pieces[p->before].after = k;
	if (offer->first[state] == NOBODY) offer->first[state] = k;
	offer->last[state] = k;
}

static void list_first(struct cairn_offer *offer, uint32_t k, enum state state)
{
	struct piece *p = &offer->pieces[k];
	p->before = NOBODY;
	p->after = offer->first[state];
	if (p->after != NOBODY) offer->pieces[p->after].before = k;
	if (offer->last[state] == NOBODY) offer->last[state] = k;
	offer->first[state] = k;
}

/* A piece that waits again has waited longest. */
static void set_state(struct cairn_offer *offer, uint32_t k, enum state state)
{
	struct piece *p = &offer->pieces[k];
	unlist(offer, p);
	offer->count[p->state]--;
	offer->count[state]++;
	if (p->state == OFFERED) offer->open[p->follower]--;
	if (state == WAITING && p->state == OFFERED) {
		list_first(offer, k, state);
	} else if (is_listed(state)) {
		list_last(offer, k, state);
	}
	p->state = state;
	p->since_ms = INT64_MIN;
	p->sends = offer->sends;
	offer->undated = offer->undated || state == OFFERED || state == PASSED;
}

/* ---- who gets what ---- */

/* Of those that have room for an offer one with the fewest, in turn; the lazy ones last. */
static uint32_t idlest(struct cairn_offer *offer)
{
	uint32_t best = NOBODY, fewest = 0;
	for (uint32_t i = 0; i < CAIRN_FOLLOWERS_MAX; i++) {
		uint32_t f = (offer->turn + i) % CAIRN_FOLLOWERS_MAX;
		if (!offer->here[f] || offer->open[f] >= CAIRN_OFFER_EACH) continue;
		uint32_t load = offer->open[f] + (offer->lazy[f] ? CAIRN_OFFER_EACH : 0);
		if (best != NOBODY && load >= fewest) continue;
		best = f;
		fewest = load;
	}
	if (best != NOBODY) offer->turn = best + 1;
	return best;
}

static void hand_out(struct cairn_offer *offer)
{
	while (offer->count[WAITING] > 0 && offer->count[OFFERED] < CAIRN_OFFER_OPEN) {
		uint32_t follower = idlest(offer);
		if (follower == NOBODY) break;
		uint32_t k = offer->first[WAITING];
		set_state(offer, k, OFFERED);
		offer->pieces[k].follower = follower;
		offer->open[follower]++;
	}
	if (offer->count[ABSENT] + offer->count[WAITING] + offer->count[OFFERED] > 0) return;
	while (offer->count[PASSED] > 0) set_state(offer, offer->first[PASSED], PUBLIC);
}

static bool lies(const struct cairn_offer *offer, const struct piece *p, int64_t now_ms)
{
	int64_t age = now_ms - p->since_ms;
	if (age >= CAIRN_OFFER_STUCK_MS) return true;
	return age >= CAIRN_OFFER_MS && offer->sends - p->sends >= 2 * (uint64_t)CAIRN_OFFER_OPEN;
}

static void date(struct cairn_offer *offer, enum state state, int64_t now_ms)
{
	for (uint32_t k = offer->last[state]; k != NOBODY; k = offer->pieces[k].before) {
		if (offer->pieces[k].since_ms != INT64_MIN) break; /* as are all before it */
		offer->pieces[k].since_ms = now_ms;
	}
}

/* When the piece that was passed on first is told to all. */
static int64_t passed_due(const struct cairn_offer *offer)
{
	int64_t due = offer->pieces[offer->first[PASSED]].since_ms + CAIRN_OFFER_PASS_MS;
	if (offer->idle_ms == INT64_MIN || due < offer->idle_ms + CAIRN_OFFER_IDLE_MS) return due;
	return offer->idle_ms + CAIRN_OFFER_IDLE_MS;
}

/* Whatever the time brings about. */
static void settle(struct cairn_offer *offer, int64_t now_ms)
{
	if (offer->undated) {
		date(offer, OFFERED, now_ms);
		date(offer, PASSED, now_ms);
		offer->undated = false;
	}
	while (offer->count[OFFERED] > 0) {
		uint32_t k = offer->first[OFFERED];
		if (!lies(offer, &offer->pieces[k], now_ms)) break;
		offer->lazy[offer->pieces[k].follower] = true;
		set_state(offer, k, WAITING);
		hand_out(offer);
		date(offer, OFFERED, now_ms);
	}
	if (offer->count[OFFERED] + offer->count[WAITING] > 0) {
		offer->idle_ms = INT64_MIN;
	} else if (offer->idle_ms == INT64_MIN) {
		offer->idle_ms = now_ms;
	}
	while (offer->count[PASSED] > 0 && passed_due(offer) <= now_ms) {
		set_state(offer, offer->first[PASSED], PUBLIC);
	}
}

void cairn_offer_join(struct cairn_offer *offer, uint32_t follower)
{
	assert(follower < CAIRN_FOLLOWERS_MAX);
	offer->here[follower] = true;
	offer->lazy[follower] = false;
	hand_out(offer);
}

void cairn_offer_leave(struct cairn_offer *offer, uint32_t follower)
{
	assert(follower < CAIRN_FOLLOWERS_MAX);
	offer->here[follower] = false;
	for (uint32_t k = offer->first[OFFERED]; k != NOBODY;) {
		uint32_t after = offer->pieces[k].after;
		if (offer->pieces[k].follower == follower) set_state(offer, k, WAITING);
		k = after;
	}
	hand_out(offer);
}

void cairn_offer_add(struct cairn_offer *offer, uint32_t piece, bool elsewhere, int64_t now_ms)
{
	assert(piece < offer->n_pieces);
	if (elsewhere) {
		set_state(offer, piece, PUBLIC);
	} else if (offer->pieces[piece].state == ABSENT) {
		set_state(offer, piece, WAITING);
	}
	hand_out(offer);
	settle(offer, now_ms);
}

void cairn_offer_sent(struct cairn_offer *offer, uint32_t follower, uint32_t piece)
{
	assert(follower < CAIRN_FOLLOWERS_MAX && piece < offer->n_pieces);
	offer->sends++;
	offer->lazy[follower] = false;
	enum state state = offer->pieces[piece].state;
	if (state == OFFERED || state == WAITING) set_state(offer, piece, PASSED);
	hand_out(offer);
}

void cairn_offer_lost(struct cairn_offer *offer, uint32_t follower, uint32_t piece)
{
	assert(follower < CAIRN_FOLLOWERS_MAX && piece < offer->n_pieces);
	const struct piece *p = &offer->pieces[piece];
	if (p->state == OFFERED && p->follower == follower) set_state(offer, piece, PASSED);
	hand_out(offer);
}

bool cairn_offer_may_tell(struct cairn_offer *offer, uint32_t follower, uint32_t piece,
			  int64_t now_ms)
{
	assert(follower < CAIRN_FOLLOWERS_MAX && piece < offer->n_pieces);
	settle(offer, now_ms);
	const struct piece *p = &offer->pieces[piece];
	return p->state == PUBLIC || (p->state == OFFERED && p->follower == follower);
}

bool cairn_offer_over(const struct cairn_offer *offer)
{
	return offer->count[PUBLIC] == offer->n_pieces;
}

int64_t cairn_offer_next_ms(struct cairn_offer *offer, int64_t now_ms)
{
	settle(offer, now_ms);
	int64_t next = INT64_MAX;
	if (offer->count[OFFERED] > 0) {
		const struct piece *p = &offer->pieces[offer->first[OFFERED]];
		bool others = offer->sends - p->sends >= 2 * (uint64_t)CAIRN_OFFER_OPEN;
		next = p->since_ms + (others ? CAIRN_OFFER_MS : CAIRN_OFFER_STUCK_MS);
	}
	if (offer->count[PASSED] > 0) {
		int64_t due = passed_due(offer);
		if (due < next) next = due;
	}
	return next;
}
