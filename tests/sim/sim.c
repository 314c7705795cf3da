#include "sim.h"

#include <assert.h>
#include <stdlib.h>

#include "cache/pieces.h"

uint64_t sim_random(struct sim *s, uint64_t below)
{
	/* splitmix64 */
	uint64_t z = s->random += UINT64_C(0x9e3779b97f4a7c15);
	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	z ^= z >> 31;
	return below ? z % below : z;
}

void *sim_grow(void *array, uint32_t n, uint32_t *max, size_t size)
{
	if (n < *max) return array;
	*max = *max ? *max * 2 : 16;
	array = realloc(array, *max * size);
	if (!array) abort();
	return array;
}

static void *zeroed(size_t n, size_t size)
{
	void *p = calloc(n, size);
	if (!p) abort();
	return p;
}

/* ---- events: a heap by time, then by order ---- */

static bool sooner(const struct sim_event *a, const struct sim_event *b)
{
	return a->at != b->at ? a->at < b->at : a->order < b->order;
}

void sim_event(struct sim *s, int64_t in_ms, enum sim_event_type type, uint32_t what)
{
	if (s->n_heap == s->max_heap) {
		s->max_heap = s->max_heap ? s->max_heap * 2 : 1024;
		s->heap = realloc(s->heap, s->max_heap * sizeof(*s->heap));
		if (!s->heap) abort();
	}
	struct sim_event e = {s->now + in_ms, s->event_order++, type, what};
	size_t i = s->n_heap++;
	for (; i > 0 && sooner(&e, &s->heap[(i - 1) / 2]); i = (i - 1) / 2) {
		s->heap[i] = s->heap[(i - 1) / 2];
	}
	s->heap[i] = e;
}

static struct sim_event next_event(struct sim *s)
{
	struct sim_event first = s->heap[0], last = s->heap[--s->n_heap];
	size_t i = 0;
	for (;;) {
		size_t child = 2 * i + 1;
		if (child >= s->n_heap) break;
		if (child + 1 < s->n_heap && sooner(&s->heap[child + 1], &s->heap[child])) child++;
		if (!sooner(&s->heap[child], &last)) break;
		s->heap[i] = s->heap[child];
		i = child;
	}
	s->heap[i] = last;
	return first;
}

/* ---- connections ---- */

struct sim_conn *sim_conn_new(struct sim *s, uint32_t *ret)
{
	uint32_t i = s->free_conn;
	if (i == SIM_NONE) {
		s->conns = sim_grow(s->conns, s->n_conns, &s->max_conns, sizeof(struct sim_conn *));
		i = s->n_conns++;
		s->conns[i] = zeroed(1, sizeof(struct sim_conn));
	} else {
		s->free_conn = s->conns[i]->next;
	}
	*s->conns[i] = (struct sim_conn){.used = true, .seat = i, .flow.place = SIM_NONE};
	s->conns[i]->index = i;
	*ret = i;
	return s->conns[i];
}

uint32_t sim_conn_index(const struct sim *s, const struct sim_conn *c)
{
	(void)s;
	return c->index;
}

void sim_conn_free(struct sim *s, struct sim_conn *c)
{
	cairn_bitmap_fini(&c->told);
	c->used = false;
	c->next = s->free_conn;
	s->free_conn = c->index;
}

/* ---- transfers ---- */

void sim_moved(struct sim *s, struct sim_flow *flow, double bytes)
{
	flow->left -= bytes;
	struct sim_conn *c = (struct sim_conn *)flow;
	struct sim_fill *f = &s->fills[c->client];
	if (flow->registry) {
		s->r.registry_bytes += bytes;
		sim_fill_fetched(s, f);
		double share = (double)f->fetched / s->n_pieces;
		if (s->o.die_at > 0 && s->victim == SIM_NONE && share >= s->o.die_at) {
			s->victim = f->node;
		}
		return;
	}
	s->r.sent_bytes += bytes;
	cairn_plan_bytes(f->plan, s->fills[c->server].node, (uint64_t)bytes + 1, s->now);
	if (flow->left > 0) return;
	sim_fill_come(s, c, sim_sent(s, c));
}

/* ---- the run ---- */

static void init(struct sim *s, const struct sim_opts *o)
{
	*s = (struct sim){.o = *o,
			  .random = o->seed,
			  .free_conn = SIM_NONE,
			  .victim = SIM_NONE,
			  .second = -1,
			  .blob_bytes = o->image_bytes / o->blobs,
			  .n_unfinished = o->nodes};
	s->n_pieces = cairn_piece_count(s->blob_bytes);
	s->nodes = zeroed(o->nodes, sizeof(*s->nodes));
	s->fills = zeroed((size_t)o->nodes * o->blobs, sizeof(*s->fills));
	s->blobs = zeroed(o->blobs, sizeof(*s->blobs));
	for (uint32_t b = 0; b < o->blobs; b++) s->blobs[b].grant_node = SIM_NONE;
	for (uint32_t i = 0; i < o->nodes; i++) {
		struct sim_node *n = &s->nodes[i];
		n->slow = i < (uint32_t)(o->slow_share * o->nodes);
		s->n_unfinished -= n->slow;
		n->began_ms = (int64_t)sim_random(s, (uint64_t)o->start_ms + 1);
		/* A slow one begins later: it is to be one of many, not the granted one. */
		if (n->slow) n->began_ms = o->start_ms + 100;
		sim_event(s, n->began_ms, SIM_START, i);
		for (uint32_t b = 0; b < o->blobs; b++) {
			struct sim_fill *f = &s->fills[i * o->blobs + b];
			f->node = i;
			f->blob = b;
			cairn_bitmap_init(&f->have, s->n_pieces);
		}
	}
	sim_links_init(s);
}

static void handle(struct sim *s, const struct sim_event *e)
{
	switch (e->type) {
	case SIM_START:
		sim_fill_start(s, e->what);
		break;
	case SIM_ANSWER:
		sim_fill_answer(s, &s->fills[e->what]);
		break;
	case SIM_CONNECTED:
		sim_fill_connected(s, s->conns[e->what]);
		break;
	case SIM_FORGET:
		sim_directory_forget(s, e->what);
		break;
	}
}

static void tick(struct sim *s)
{
	size_t n_fills = (size_t)s->o.nodes * s->o.blobs;
	s->now += s->o.tick_ms;
	while (s->n_heap > 0 && s->heap[0].at <= s->now) {
		struct sim_event e = next_event(s);
		handle(s, &e);
	}
	for (size_t i = 0; i < n_fills; i++) {
		struct sim_fill *f = &s->fills[i];
		if (f->n_news > 0 || (f->offer && f->n_followers > 0)) sim_tell_followers(s, f);
	}
	for (size_t i = 0; i < n_fills; i++) {
		if (s->fills[i].state != SIM_IDLE) sim_fill_turn(s, &s->fills[i]);
	}
	sim_links_step(s);
	if (s->victim != SIM_NONE && !s->nodes[s->victim].dead) sim_kill(s, s->victim);
}

static int by_size(const void *a, const void *b)
{
	const double *x = a, *y = b;
	return (*x > *y) - (*x < *y);
}

static void finish(struct sim *s)
{
	struct sim_result *r = &s->r;
	double n = s->o.nodes, bytes = (double)s->blob_bytes * s->o.blobs;
	double all = n * bytes / (s->o.registry + n * s->o.up);
	r->ideal_ms = bytes / s->o.registry;
	if (bytes / s->o.down > r->ideal_ms) r->ideal_ms = bytes / s->o.down;
	if (all > r->ideal_ms) r->ideal_ms = all;
	r->ask_mean = (double)r->asks * 1000 / (double)s->now;
	r->unfinished = s->n_unfinished;
	r->times_ms = zeroed(s->o.nodes, sizeof(double));
	for (uint32_t i = 0; i < s->o.nodes; i++) {
		const struct sim_node *node = &s->nodes[i];
		if (node->dead || node->slow || node->done_ms == 0) continue;
		r->times_ms[r->n_times++] = (double)(node->done_ms - node->began_ms);
	}
	qsort(r->times_ms, r->n_times, sizeof(double), by_size);
}

static void fini(struct sim *s)
{
	for (size_t i = 0; i < (size_t)s->o.nodes * s->o.blobs; i++) {
		struct sim_fill *f = &s->fills[i];
		cairn_plan_free(f->plan);
		cairn_offer_free(f->offer);
		cairn_bitmap_fini(&f->have);
		free(f->followers), free(f->news), free(f->fetch);
	}
	for (uint32_t i = 0; i < s->n_conns; i++) {
		if (s->conns[i]->used) cairn_bitmap_fini(&s->conns[i]->told);
		free(s->conns[i]);
	}
	sim_links_fini(s);
	free(s->conns), free(s->moving), free(s->heap);
	free(s->nodes), free(s->fills), free(s->blobs);
}

void sim_defaults(struct sim_opts *ret)
{
	const double mbit = 125; /* bytes a millisecond */
	*ret = (struct sim_opts){
		.nodes = 10,
		.blobs = 1,
		.image_bytes = UINT64_C(200) << 20,
		.at_once = 3,
		.up = 100 * mbit,
		.down = 100 * mbit,
		.registry = 100 * mbit,
		.tick_ms = 5,
		.start_ms = 100,
		.latency_ms = 2,
		.connect_ms = 5,
		.stall_ms = 5000,
		.forget_ms = 3000,
		.slow_speed = 0.01,
		.followers = CAIRN_UPLOAD_SLOTS,
		.seed = 1,
	};
}

void sim_run(const struct sim_opts *opts, struct sim_result *ret)
{
	struct sim s;
	init(&s, opts);
	double limit = 60000 + 50.0 * (double)opts->image_bytes / opts->registry;
	while (s.n_unfinished > 0 && (double)s.now < limit) tick(&s);
	finish(&s);
	*ret = s.r;
	fini(&s);
}
