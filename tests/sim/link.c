/* Each link has a level: the speed that it grants to whoever wants more. A transfer has the lower
 * level of its two ends, and the levels follow what is used, which comes to the fair division that
 * TCP's long transfers tend to. No link ever carries more than it can. */
#include <stdlib.h>

#include "sim.h"

#define ROUNDS 2 /* of levels a tick */

static double *per_link(const struct sim *s)
{
	double *a = calloc(s->o.nodes + 1, sizeof(*a));
	if (!a) abort();
	return a;
}

void sim_links_init(struct sim *s)
{
	s->cap_up = per_link(s), s->cap_down = per_link(s);
	s->level_up = per_link(s), s->level_down = per_link(s);
	s->used_up = per_link(s), s->used_down = per_link(s);
	for (uint32_t i = 0; i <= s->o.nodes; i++) {
		double speed = i < s->o.nodes && s->nodes[i].slow ? s->o.slow_speed : 1;
		s->cap_up[i] = i < s->o.nodes ? s->o.up * speed : s->o.registry;
		s->cap_down[i] = s->o.down * speed;
		s->level_up[i] = s->cap_up[i];
		s->level_down[i] = s->cap_down[i];
	}
}

void sim_links_fini(struct sim *s)
{
	free(s->cap_up), free(s->cap_down);
	free(s->level_up), free(s->level_down);
	free(s->used_up), free(s->used_down);
}

void sim_move_begin(struct sim *s, struct sim_flow *flow)
{
	s->moving = sim_grow(s->moving, s->n_moving, &s->max_moving, sizeof(*s->moving));
	flow->place = s->n_moving;
	s->moving[s->n_moving++] = flow;
}

void sim_move_end(struct sim *s, struct sim_flow *flow)
{
	if (flow->place == SIM_NONE) return;
	struct sim_flow *last = s->moving[--s->n_moving];
	s->moving[flow->place] = last;
	last->place = flow->place;
	flow->place = SIM_NONE;
}

static double lower(double a, double b)
{
	return a < b ? a : b;
}

static void count_use(struct sim *s)
{
	for (uint32_t i = 0; i <= s->o.nodes; i++) s->used_up[i] = s->used_down[i] = 0;
	for (uint32_t i = 0; i < s->n_moving; i++) {
		const struct sim_flow *f = s->moving[i];
		double rate = lower(s->level_up[f->from], s->level_down[f->to]);
		s->used_up[f->from] += rate;
		s->used_down[f->to] += rate;
	}
}

static double adjusted(double level, double used, double cap)
{
	if (used <= 0) return cap;
	double ratio = cap / used;
	if (ratio > 1.5) ratio = 1.5;
	return lower(level * ratio, cap);
}

static void adjust_levels(struct sim *s)
{
	for (uint32_t i = 0; i <= s->o.nodes; i++) {
		s->level_up[i] = adjusted(s->level_up[i], s->used_up[i], s->cap_up[i]);
		s->level_down[i] = adjusted(s->level_down[i], s->used_down[i], s->cap_down[i]);
	}
}

void sim_links_step(struct sim *s)
{
	for (int round = 0; round < ROUNDS; round++) {
		count_use(s);
		adjust_levels(s);
	}
	count_use(s);
	/* From the end on: a transfer that ends, or begins, moves only those that were seen. */
	for (uint32_t i = s->n_moving; i-- > 0;) {
		if (i >= s->n_moving) continue;
		struct sim_flow *f = s->moving[i];
		double rate = lower(s->level_up[f->from], s->level_down[f->to]);
		double over = lower(1, lower(s->cap_up[f->from] / s->used_up[f->from],
					     s->cap_down[f->to] / s->used_down[f->to]));
		sim_moved(s, f, rate * over * (double)s->o.tick_ms);
	}
}
