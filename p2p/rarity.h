/* Pieces that may be asked for, ordered by how many sources have them: the rarest first. Every
 * change takes a bounded number of steps, however many pieces there are. Threads: one at a time. */
#ifndef CAIRN_P2P_RARITY_H
#define CAIRN_P2P_RARITY_H

#include <stdbool.h>
#include <stdint.h>

#define CAIRN_RARITY_LEVELS 65 /* 0 to 64 sources */

struct cairn_rarity {
	uint32_t *order; /* owned: the pieces in it, rarest first */
	uint32_t *at;	 /* owned: of each piece, its place in order; UINT32_MAX: not in it */
	uint8_t *level;	 /* owned: of each piece, also of those not in it */
	uint32_t end[CAIRN_RARITY_LEVELS]; /* pieces in it of that level or a lower one */
	uint32_t size;			   /* of the blob, in pieces */
};

void cairn_rarity_init(struct cairn_rarity *rarity, uint32_t size);
void cairn_rarity_fini(struct cairn_rarity *rarity);

static inline uint32_t cairn_rarity_count(const struct cairn_rarity *rarity)
{
	return rarity->end[CAIRN_RARITY_LEVELS - 1];
}

bool cairn_rarity_has(const struct cairn_rarity *rarity, uint32_t piece);
void cairn_rarity_insert(struct cairn_rarity *rarity, uint32_t piece); /* is not in it */
void cairn_rarity_remove(struct cairn_rarity *rarity, uint32_t piece); /* is in it */
/* One source more, one less, has it. */
void cairn_rarity_raise(struct cairn_rarity *rarity, uint32_t piece);
void cairn_rarity_lower(struct cairn_rarity *rarity, uint32_t piece);
/* Nothing is in it any more; levels stay. */
void cairn_rarity_clear(struct cairn_rarity *rarity);

#endif
