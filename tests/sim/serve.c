/* What a node does for those who follow one of its fills. */
#include <stdlib.h>

#include "cache/pieces.h"
#include "sim.h"

void sim_got_piece(struct sim *s, struct sim_fill *f, uint32_t piece)
{
	if (!cairn_bitmap_set(&f->have, piece)) return;
	if (f->offer) {
		cairn_offer_add(f->offer, piece, false, s->now);
		return;
	}
	f->news = sim_grow(f->news, f->n_news, &f->max_news, sizeof(*f->news));
	f->news[f->n_news++] = piece;
}

static struct sim_conn *follower(struct sim *s, struct sim_fill *f, uint32_t i)
{
	return s->conns[f->followers[i]];
}

static void tell_offers(struct sim *s, struct sim_fill *f, struct sim_conn *c)
{
	for (uint32_t k = 0; (k = cairn_bitmap_next(&f->have, k)) < s->n_pieces; k++) {
		if (cairn_bitmap_has(&c->told, k)) continue;
		if (!cairn_offer_may_tell(f->offer, c->seat, k, s->now)) continue;
		cairn_bitmap_set(&c->told, k);
		sim_fill_hear(s, c, k);
	}
}

static void tell_whole(struct sim *s, struct sim_conn *c)
{
	struct sim_fill *client = &s->fills[c->client];
	for (uint32_t k = 0; k < s->n_pieces; k++) cairn_plan_provable(client->plan, k);
	cairn_plan_have_all(client->plan, s->fills[c->server].node);
	client->dirty = true;
}

void sim_tell_followers(struct sim *s, struct sim_fill *f)
{
	bool over = f->offer && cairn_offer_over(f->offer);
	bool whole = over || (f->state == SIM_DONE && !f->offer);
	for (uint32_t i = 0; i < f->n_followers; i++) {
		struct sim_conn *c = follower(s, f, i);
		if (whole) {
			tell_whole(s, c);
			continue;
		}
		if (f->offer) tell_offers(s, f, c);
		for (uint32_t j = 0; j < f->n_news; j++) sim_fill_hear(s, c, f->news[j]);
	}
	f->n_news = 0;
	if (!over) return;
	cairn_offer_free(f->offer);
	f->offer = NULL;
}

/* Each hears of some others who follow, and they of him. */
static void introduce(struct sim *s, struct sim_fill *f, struct sim_conn *c, bool joined)
{
	size_t picks[CAIRN_OTHERS_MAX];
	size_t n = cairn_policy_others(sim_random(s, 0), f->n_followers, picks);
	struct sim_fill *client = &s->fills[c->client];
	if (f->state == SIM_FILLING) cairn_plan_learn(f->plan, client->node, false, s->now);
	for (size_t i = 0; i < n; i++) {
		struct sim_fill *other = &s->fills[follower(s, f, (uint32_t)picks[i])->client];
		if (other == client) continue;
		cairn_plan_learn(client->plan, other->node, other->state == SIM_DONE, s->now);
		if (joined) cairn_plan_learn(other->plan, client->node, false, s->now);
		client->dirty = other->dirty = true;
	}
}

bool sim_follow(struct sim *s, struct sim_conn *c)
{
	struct sim_fill *f = &s->fills[c->server];
	bool room = f->n_followers < s->o.followers;
	introduce(s, f, c, room);
	if (!room) return false;
	c->seat = 0;
	while (f->seats[c->seat]) c->seat++;
	f->seats[c->seat] = true;
	if (f->offer) cairn_offer_join(f->offer, c->seat);
	f->followers =
		sim_grow(f->followers, f->n_followers, &f->max_followers, sizeof(*f->followers));
	f->followers[f->n_followers++] = sim_conn_index(s, c);
	if (f->n_followers > f->most_followers) f->most_followers = f->n_followers;
	if (f->n_followers > s->r.most_followers) s->r.most_followers = f->n_followers;
	c->open = true;
	cairn_plan_opened(s->fills[c->client].plan, f->node, s->now);
	s->fills[c->client].dirty = true;
	if (f->offer) cairn_bitmap_init(&c->told, s->n_pieces);
	if (f->state == SIM_DONE && !f->offer) {
		tell_whole(s, c);
	} else if (!f->offer) {
		for (uint32_t k = 0; (k = cairn_bitmap_next(&f->have, k)) < s->n_pieces; k++) {
			sim_fill_hear(s, c, k);
		}
	}
	return true;
}

void sim_unfollow(struct sim *s, struct sim_conn *c)
{
	struct sim_fill *f = &s->fills[c->server];
	uint32_t own = sim_conn_index(s, c), i = 0;
	while (f->followers[i] != own) i++;
	f->followers[i] = f->followers[--f->n_followers];
	f->seats[c->seat] = false;
	if (f->offer) cairn_offer_leave(f->offer, c->seat);
	c->open = false;
}

/* ---- sending: one piece after the other on a connection, the connections side by side ---- */

static void send_next(struct sim *s, struct sim_conn *c, double credit)
{
	if (c->n_queue == 0) return;
	c->flow.left = (double)cairn_piece_length(s->blob_bytes, c->queue[0]) - credit;
	sim_move_begin(s, &c->flow);
}

void sim_get(struct sim *s, struct sim_conn *c, uint32_t piece)
{
	c->queue[c->n_queue++] = piece;
	if (c->n_queue == 1) send_next(s, c, 0);
}

uint32_t sim_sent(struct sim *s, struct sim_conn *c)
{
	uint32_t piece = c->queue[0];
	for (uint32_t i = 1; i < c->n_queue; i++) c->queue[i - 1] = c->queue[i];
	c->n_queue--;
	sim_move_end(s, &c->flow);
	send_next(s, c, -c->flow.left);
	return piece;
}
