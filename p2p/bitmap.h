/* A set of pieces, one bit each. Threads: one at a time. */
#ifndef CAIRN_P2P_BITMAP_H
#define CAIRN_P2P_BITMAP_H

#include <stdbool.h>
#include <stdint.h>

struct cairn_bitmap {
	uint64_t *words; /* owned; NULL: nothing is in it */
	uint32_t size;	 /* bits */
	uint32_t count;	 /* of these, set */
};

/* No memory is taken before the first bit is set; without memory it aborts. */
void cairn_bitmap_init(struct cairn_bitmap *map, uint32_t size);
void cairn_bitmap_fini(struct cairn_bitmap *map);

/* Bits are below size: asserted. */
bool cairn_bitmap_has(const struct cairn_bitmap *map, uint32_t bit);
bool cairn_bitmap_set(struct cairn_bitmap *map, uint32_t bit);	 /* false: it was */
bool cairn_bitmap_clear(struct cairn_bitmap *map, uint32_t bit); /* false: it was not set */
void cairn_bitmap_fill(struct cairn_bitmap *map);
void cairn_bitmap_empty(struct cairn_bitmap *map); /* gives its memory back */

/* The first set bit from `from` on; size: none. */
uint32_t cairn_bitmap_next(const struct cairn_bitmap *map, uint32_t from);

#endif
