/* The directory: holders and joiners of a blob, so many at most, and its grant. */
#include "sim.h"

void sim_directory_request(struct sim *s)
{
	int64_t second = s->now / 1000;
	if (second != s->second) {
		s->second = second;
		s->second_asks = 0;
	}
	s->second_asks++;
	s->r.asks++;
	if (s->second_asks > s->r.ask_peak) s->r.ask_peak = s->second_asks;
}

static void drop(struct sim_record *r, uint32_t node)
{
	for (uint32_t i = 0; i < r->n; i++) {
		if (r->nodes[i] != node) continue;
		r->nodes[i] = r->nodes[--r->n];
		return;
	}
}

static bool listed(const struct sim_record *r, uint32_t node)
{
	for (uint32_t i = 0; i < r->n; i++) {
		if (r->nodes[i] == node) return true;
	}
	return false;
}

/* Some of them by chance, but for who asks. */
static void choose(struct sim *s, struct sim_record *r, uint32_t but, bool whole,
		   struct sim_answer *ret)
{
	for (uint32_t i = 0; i < r->n && ret->n < CAIRN_FIND_MAX; i++) {
		uint32_t j = i + (uint32_t)sim_random(s, r->n - i);
		uint32_t node = r->nodes[j];
		r->nodes[j] = r->nodes[i];
		r->nodes[i] = node;
		if (node == but) continue;
		ret->whole[ret->n] = whole;
		ret->found[ret->n++] = node;
	}
}

void sim_directory_ask(struct sim *s, uint32_t node, uint32_t blob, struct sim_answer *ret)
{
	struct sim_blob *b = &s->blobs[blob];
	sim_directory_request(s);
	*ret = (struct sim_answer){.grant_node = SIM_NONE};
	choose(s, &b->holders, node, true, ret);
	choose(s, &b->joiners, node, false, ret);
	if (b->joiners.n < CAIRN_HOLDERS_MAX && !listed(&b->joiners, node) &&
	    !listed(&b->holders, node)) {
		b->joiners.nodes[b->joiners.n++] = node;
	}
	if (b->grant_node == SIM_NONE && b->holders.n == 0) {
		b->grant_node = node;
		b->grant_version = ++b->versions;
	}
	ret->grant_node = b->grant_node;
	ret->grant_version = b->grant_version;
}

bool sim_directory_take(struct sim *s, uint32_t node, uint32_t blob, uint64_t version)
{
	struct sim_blob *b = &s->blobs[blob];
	sim_directory_request(s);
	if (b->grant_version != version) return false;
	b->grant_node = node;
	b->grant_version = ++b->versions;
	return true;
}

void sim_directory_keep(struct sim *s, uint32_t node, uint32_t blob)
{
	struct sim_blob *b = &s->blobs[blob];
	sim_directory_request(s);
	if (b->grant_node == node) b->grant_version = ++b->versions;
}

void sim_directory_announce(struct sim *s, uint32_t node, uint32_t blob)
{
	struct sim_blob *b = &s->blobs[blob];
	sim_directory_request(s);
	drop(&b->joiners, node);
	if (b->holders.n < CAIRN_HOLDERS_MAX && !listed(&b->holders, node)) {
		b->holders.nodes[b->holders.n++] = node;
	}
	if (b->grant_node == node) {
		b->grant_node = SIM_NONE;
		b->grant_version = 0;
	}
}

void sim_directory_forget(struct sim *s, uint32_t node)
{
	for (uint32_t i = 0; i < s->o.blobs; i++) {
		struct sim_blob *b = &s->blobs[i];
		drop(&b->joiners, node);
		drop(&b->holders, node);
		if (b->grant_node != node) continue;
		b->grant_node = SIM_NONE;
		b->grant_version = 0;
	}
}
