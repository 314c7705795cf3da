/* What a node does to get a blob: as p2p/fill.c does it, with the same plan and policy. */
#include <assert.h>
#include <stdlib.h>

#include "cache/pieces.h"
#include "sim.h"

#define JUDGE_EVERY_MS 100
#define KEEP_MS 1000
#define DEAD_ANSWER_MS 1000 /* a connection to a dead node fails after so long */

static uint64_t seed_of(const struct sim *s, const struct sim_fill *f)
{
	return (uint64_t)(f - s->fills) * UINT64_C(0x9e3779b97f4a7c15) + s->o.seed;
}

static void ask(struct sim *s, struct sim_fill *f)
{
	f->asked = true;
	sim_event(s, s->o.latency_ms, SIM_ANSWER, (uint32_t)(f - s->fills));
}

void sim_fill_start(struct sim *s, uint32_t node)
{
	struct sim_node *n = &s->nodes[node];
	while (!n->dead && n->running < s->o.at_once && n->next_blob < s->o.blobs) {
		struct sim_fill *f = &s->fills[node * s->o.blobs + n->next_blob++];
		n->running++;
		f->state = SIM_ASKING;
		f->began_ms = s->now;
		struct cairn_plan_opts opts = {
			.size = s->blob_bytes, .seed = seed_of(s, f), .stall_ms = s->o.stall_ms};
		f->plan = cairn_plan_new(&opts);
		ask(s, f);
	}
}

static void close_all(struct sim *s, struct sim_fill *f)
{
	while (f->n_conns > 0) sim_close(s, s->conns[f->conns[0]], CAIRN_END_ABSENT);
}

static void fill_granted(struct sim *s, struct sim_fill *f)
{
	close_all(s, f);
	f->state = SIM_GRANTED;
	f->offer = cairn_offer_new(s->n_pieces);
	for (uint32_t i = 0; i < f->n_followers; i++) {
		struct sim_conn *c = s->conns[f->followers[i]];
		cairn_offer_join(f->offer, c->seat);
		cairn_bitmap_init(&c->told, s->n_pieces);
	}
	for (uint32_t k = 0; (k = cairn_bitmap_next(&f->have, k)) < s->n_pieces; k++) {
		cairn_offer_add(f->offer, k, true, s->now);
	}
	f->fetch = calloc(1, sizeof(*f->fetch));
	if (!f->fetch) abort();
	f->fetch->client = (uint32_t)(f - s->fills);
	f->fetch->flow = (struct sim_flow){
		.from = s->o.nodes, .to = f->node, .left = (double)s->blob_bytes, .registry = true};
	sim_move_begin(s, &f->fetch->flow);
}

void sim_fill_answer(struct sim *s, struct sim_fill *f)
{
	f->asked = false;
	if (s->nodes[f->node].dead || f->state == SIM_DONE || f->state == SIM_GRANTED) return;
	struct sim_answer a;
	sim_directory_ask(s, f->node, f->blob, &a);
	if (a.grant_node == f->node) return fill_granted(s, f);
	f->state = SIM_FILLING;
	uint32_t hopes = cairn_plan_hopes(f->plan);
	for (uint32_t i = 0; i < a.n; i++) {
		cairn_plan_learn(f->plan, a.found[i], a.whole[i], s->now);
	}
	if (a.grant_node != SIM_NONE) cairn_plan_learn(f->plan, a.grant_node, false, s->now);
	bool is_new = cairn_plan_hopes(f->plan) > hopes || a.grant_version != f->grant_version;
	f->futile = is_new ? 0 : f->futile + 1;
	if (a.grant_version != f->grant_version) f->grant_seen_ms = s->now;
	f->grant_version = a.grant_version;
	f->ask_ms = s->now + cairn_policy_ask_ms(seed_of(s, f), f->futile);
	f->dirty = true;
	if (a.grant_node != SIM_NONE &&
	    cairn_policy_may_take(s->now, f->grant_seen_ms, cairn_plan_last_byte_ms(f->plan),
				  s->o.stall_ms, seed_of(s, f)) &&
	    sim_directory_take(s, f->node, f->blob, f->grant_version)) {
		fill_granted(s, f);
	}
}

/* ---- connections ---- */

static void connect_to(struct sim *s, struct sim_fill *f, uint32_t node)
{
	uint32_t index;
	struct sim_conn *c = sim_conn_new(s, &index);
	c->client = (uint32_t)(f - s->fills);
	c->server = node * s->o.blobs + f->blob;
	c->flow.from = node;
	c->flow.to = f->node;
	f->conns[f->n_conns++] = index;
	sim_event(s, s->nodes[node].dead ? DEAD_ANSWER_MS : s->o.connect_ms, SIM_CONNECTED, index);
}

void sim_fill_connected(struct sim *s, struct sim_conn *c)
{
	if (c->client == SIM_NONE) return sim_conn_free(s, c); /* it was given up meanwhile */
	c->arrived = true;
	struct sim_fill *server = &s->fills[c->server];
	if (s->nodes[server->node].dead) return sim_close(s, c, CAIRN_END_FAILED);
	if (server->state == SIM_IDLE) return sim_close(s, c, CAIRN_END_ABSENT);
	if (!sim_follow(s, c)) sim_close(s, c, CAIRN_END_BUSY);
}

void sim_close(struct sim *s, struct sim_conn *c, enum cairn_plan_end end)
{
	struct sim_fill *f = &s->fills[c->client];
	uint32_t own = sim_conn_index(s, c), i = 0;
	s->r.busy += end == CAIRN_END_BUSY;
	s->r.failed += end == CAIRN_END_FAILED;
	cairn_plan_closed(f->plan, s->fills[c->server].node, end, CAIRN_BUSY_RETRY_MS, s->now);
	while (f->conns[i] != own) i++;
	f->conns[i] = f->conns[--f->n_conns];
	f->dirty = true;
	c->n_queue = 0;
	if (c->open) {
		sim_unfollow(s, c);
		sim_move_end(s, &c->flow);
		sim_conn_free(s, c);
	} else if (c->arrived) {
		sim_conn_free(s, c);
	} else {
		c->client = SIM_NONE; /* its event is still to come */
	}
}

/* ---- its turn ---- */

static void judge(struct sim *s, struct sim_fill *f)
{
	for (uint32_t i = f->n_conns; i-- > 0;) {
		struct sim_conn *c = s->conns[f->conns[i]];
		if (!c->open) continue;
		enum cairn_verdict v = cairn_plan_judge(f->plan, s->fills[c->server].node, s->now);
		if (v == CAIRN_VERDICT_STALLED) sim_close(s, c, CAIRN_END_FAILED);
		if (v == CAIRN_VERDICT_SLOW) sim_close(s, c, CAIRN_END_SLOW);
	}
}

static void ask_if_due(struct sim *s, struct sim_fill *f)
{
	if (f->asked || s->now < f->ask_ms) return;
	if (!cairn_policy_should_ask(f->n_conns, cairn_policy_open(s->nodes[f->node].running),
				     s->now - cairn_plan_last_byte_ms(f->plan))) {
		f->ask_ms = s->now + cairn_policy_ask_ms(seed_of(s, f), 0);
		return;
	}
	ask(s, f);
}

void sim_fill_turn(struct sim *s, struct sim_fill *f)
{
	bool periodic = (s->now + f->node) / s->o.tick_ms % (JUDGE_EVERY_MS / s->o.tick_ms) == 0;
	if (!f->dirty && !periodic) return;
	f->dirty = false;
	if (f->state == SIM_DONE) return close_all(s, f);
	if (f->state == SIM_GRANTED && periodic && s->now - f->kept_ms >= KEEP_MS) {
		f->kept_ms = s->now;
		sim_directory_keep(s, f->node, f->blob);
	}
	if (f->state != SIM_FILLING) return;
	if (periodic) judge(s, f);
	uint32_t id;
	cairn_plan_set_open(f->plan, cairn_policy_open(s->nodes[f->node].running));
	while (cairn_plan_next_source(f->plan, s->now, &id)) connect_to(s, f, id);
	/* Any order would do; one that begins anywhere favours nobody. */
	uint32_t begin = f->n_conns ? (uint32_t)sim_random(s, f->n_conns) : 0;
	for (uint32_t i = 0; i < f->n_conns; i++) {
		struct sim_conn *c = s->conns[f->conns[(begin + i) % f->n_conns]];
		uint32_t piece;
		while (c->open &&
		       cairn_plan_next_piece(f->plan, s->fills[c->server].node, s->now, &piece)) {
			sim_get(s, c, piece);
		}
	}
	ask_if_due(s, f);
}

void sim_fill_hear(struct sim *s, struct sim_conn *c, uint32_t piece)
{
	struct sim_fill *f = &s->fills[c->client];
	cairn_plan_provable(f->plan, piece); /* who has it tells its part of the list, too */
	cairn_plan_have(f->plan, s->fills[c->server].node, piece);
	f->dirty = true;
}

/* ---- bytes ---- */

static void fill_done(struct sim *s, struct sim_fill *f)
{
	struct sim_node *node = &s->nodes[f->node];
	f->state = SIM_DONE;
	f->done_ms = s->now;
	f->dirty = true;
	sim_directory_announce(s, f->node, f->blob);
	node->running--;
	sim_fill_start(s, f->node);
	if (node->running > 0 || node->next_blob < s->o.blobs) return;
	node->done_ms = s->now;
	if (!node->slow) s->n_unfinished--;
}

void sim_fill_come(struct sim *s, struct sim_conn *c, uint32_t piece)
{
	struct sim_fill *f = &s->fills[c->client], *server = &s->fills[c->server];
	f->dirty = true;
	if (server->offer) cairn_offer_sent(server->offer, c->seat, piece);
	if (!cairn_plan_got(f->plan, server->node, piece, s->now)) {
		s->r.twice++;
		return;
	}
	sim_got_piece(s, f, piece);
	if (f->state == SIM_FILLING && cairn_plan_done(f->plan)) fill_done(s, f);
}

/* A fetch from the registry goes on to the end, also when the rest has come meanwhile. */
void sim_fill_fetched(struct sim *s, struct sim_fill *f)
{
	double came = (double)s->blob_bytes - f->fetch->flow.left;
	double end = 0;
	for (uint32_t k = 0; k < f->fetched; k++) {
		end += (double)cairn_piece_length(s->blob_bytes, k);
	}
	while (f->fetched < s->n_pieces) {
		end += (double)cairn_piece_length(s->blob_bytes, f->fetched);
		if (came + 0.5 < end) break;
		cairn_plan_got(f->plan, UINT32_MAX, f->fetched, s->now);
		sim_got_piece(s, f, f->fetched++);
	}
	if (f->fetched == s->n_pieces) {
		sim_move_end(s, &f->fetch->flow);
		fill_done(s, f);
	}
}

void sim_kill(struct sim *s, uint32_t node)
{
	s->nodes[node].dead = true;
	if (!s->nodes[node].slow && s->nodes[node].done_ms == 0) s->n_unfinished--;
	for (uint32_t b = 0; b < s->o.blobs; b++) {
		struct sim_fill *f = &s->fills[node * s->o.blobs + b];
		if (f->fetch) sim_move_end(s, &f->fetch->flow);
		close_all(s, f);
		while (f->n_followers > 0) {
			struct sim_conn *c = s->conns[f->followers[0]];
			s->fills[c->client].ask_ms =
				s->now; /* at once: it may be the granted one */
			sim_close(s, c, CAIRN_END_FAILED);
		}
	}
	sim_event(s, s->o.forget_ms, SIM_FORGET, node);
}
