#include "rpc/arena.h"

#include <stdlib.h>

#define CHUNK_BYTES 16384 /* usual size; larger allocations get a chunk of their own */
#define ALIGNMENT 16

struct cairn_arena_chunk {
	struct cairn_arena_chunk *next;
	_Alignas(ALIGNMENT) uint8_t data[];
};

void cairn_arena_init(struct cairn_arena *a)
{
	a->chunks = NULL;
	a->at = a->first;
	a->end = a->first + sizeof(a->first);
}

void cairn_arena_reset(struct cairn_arena *a)
{
	while (a->chunks != NULL) {
		struct cairn_arena_chunk *next = a->chunks->next;
		free(a->chunks);
		a->chunks = next;
	}
	cairn_arena_init(a);
}

static struct cairn_arena_chunk *add_chunk(struct cairn_arena *a, size_t n)
{
	struct cairn_arena_chunk *c = malloc(sizeof(*c) + n);
	if (c == NULL) return NULL;
	c->next = a->chunks;
	a->chunks = c;
	return c;
}

void *cairn_arena_alloc(struct cairn_arena *a, size_t n)
{
	if (n > SIZE_MAX / 2) return NULL;
	n = n == 0 ? ALIGNMENT : (n + ALIGNMENT - 1) & ~(size_t)(ALIGNMENT - 1);
	if (n > (size_t)(a->end - a->at)) {
		if (n > CHUNK_BYTES / 4) {
			struct cairn_arena_chunk *own = add_chunk(a, n);
			return own == NULL ? NULL : own->data;
		}
		struct cairn_arena_chunk *c = add_chunk(a, CHUNK_BYTES);
		if (c == NULL) return NULL;
		a->at = c->data;
		a->end = c->data + CHUNK_BYTES;
	}
	void *p = a->at;
	a->at += n;
	return p;
}
