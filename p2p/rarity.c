#include "p2p/rarity.h"

#include <assert.h>
#include <stdlib.h>

#define TOP (CAIRN_RARITY_LEVELS - 1)
#define NOWHERE UINT32_MAX

static void *zeroed(size_t n, size_t size)
{
	void *p = calloc(n ? n : 1, size);
	if (!p) abort();
	return p;
}

void cairn_rarity_init(struct cairn_rarity *rarity, uint32_t size)
{
	*rarity = (struct cairn_rarity){
		.order = zeroed(size, sizeof(*rarity->order)),
		.at = zeroed(size, sizeof(*rarity->at)),
		.level = zeroed(size, sizeof(*rarity->level)),
		.size = size,
	};
	cairn_rarity_clear(rarity);
}

void cairn_rarity_fini(struct cairn_rarity *rarity)
{
	free(rarity->order);
	free(rarity->at);
	free(rarity->level);
	*rarity = (struct cairn_rarity){0};
}

void cairn_rarity_clear(struct cairn_rarity *rarity)
{
	for (uint32_t i = 0; i < rarity->size; i++) rarity->at[i] = NOWHERE;
	for (int l = 0; l <= TOP; l++) rarity->end[l] = 0;
}

bool cairn_rarity_has(const struct cairn_rarity *rarity, uint32_t piece)
{
	assert(piece < rarity->size);
	return rarity->at[piece] != NOWHERE;
}

static void put(struct cairn_rarity *r, uint32_t place, uint32_t piece)
{
	r->order[place] = piece;
	r->at[piece] = place;
}

/* Each level above makes room by moving its first piece behind its last. */
void cairn_rarity_insert(struct cairn_rarity *r, uint32_t piece)
{
	assert(!cairn_rarity_has(r, piece));
	uint32_t hole = r->end[TOP]++;
	for (int l = TOP; l > r->level[piece]; l--) {
		uint32_t first = r->end[l - 1]++;
		if (first != hole) put(r, hole, r->order[first]);
		hole = first;
	}
	put(r, hole, piece);
}

/* Each level from its own on closes the gap with its last piece. */
void cairn_rarity_remove(struct cairn_rarity *r, uint32_t piece)
{
	assert(cairn_rarity_has(r, piece));
	uint32_t hole = r->at[piece];
	for (int l = r->level[piece]; l <= TOP; l++) {
		uint32_t last = --r->end[l];
		if (last != hole) put(r, hole, r->order[last]);
		hole = last;
	}
	r->at[piece] = NOWHERE;
}

void cairn_rarity_raise(struct cairn_rarity *r, uint32_t piece)
{
	uint8_t level = r->level[piece];
	assert(level < TOP);
	if (cairn_rarity_has(r, piece)) {
		uint32_t last = --r->end[level];
		put(r, r->at[piece], r->order[last]);
		put(r, last, piece);
	}
	r->level[piece]++;
}

void cairn_rarity_lower(struct cairn_rarity *r, uint32_t piece)
{
	uint8_t level = r->level[piece];
	assert(level > 0);
	if (cairn_rarity_has(r, piece)) {
		uint32_t first = r->end[level - 1]++;
		put(r, r->at[piece], r->order[first]);
		put(r, first, piece);
	}
	r->level[piece]--;
}
