/* Memory that is given back all at once: what a call allocates lives until the call is over.
 * Small allocations come from a buffer inside the arena, so that a usual call makes no malloc.
 * Threads: owner thread only. */
#ifndef CAIRN_RPC_ARENA_H
#define CAIRN_RPC_ARENA_H

#include <stddef.h>
#include <stdint.h>

#define CAIRN_ARENA_FIRST 2048

struct cairn_arena_chunk;

struct cairn_arena {
	struct cairn_arena_chunk *chunks;
	uint8_t *at, *end; /* free part of the newest chunk, or of first */
	_Alignas(16) uint8_t first[CAIRN_ARENA_FIRST];
};

void cairn_arena_init(struct cairn_arena *a);
/* Gives all back; the arena is as after init. */
void cairn_arena_reset(struct cairn_arena *a);
/* n bytes, not zeroed, for any type. NULL when there is no memory left. */
void *cairn_arena_alloc(struct cairn_arena *a, size_t n);

#endif
