#include "cache/mem.h"
#include "cache/store.h"

void chain_init(struct chain *c, uint8_t alg)
{
	*c = (struct chain){.width = cairn_alg_bytes(alg)};
}

void chain_fini(struct chain *c)
{
	free(c->states);
	c->states = NULL;
	c->n = c->cap = 0;
}

static void reserve(struct chain *c, size_t more)
{
	if (c->n + more <= c->cap) return;
	c->cap = c->n + more > 2 * c->cap ? c->n + more : 2 * c->cap;
	c->states = mem_grow(c->states, c->cap * c->width);
}

void chain_append(struct chain *c, const struct chain *more)
{
	if (more->n == 0) return;
	reserve(c, more->n);
	memcpy(c->states + c->n * c->width, more->states, more->n * c->width);
	c->n += more->n;
}

void chain_hash(struct cairn_hasher *h, struct chain *c, const void *data, size_t n)
{
	const uint8_t *p = data;
	while (n > 0) {
		uint64_t room = PIECE - h->length % PIECE;
		size_t part = n < room ? n : (size_t)room;
		cairn_hasher_update(h, p, part);
		p += part;
		n -= part;
		if (c == NULL || h->length % PIECE != 0) continue;
		uint8_t state[CAIRN_CHAIN_STATE];
		cairn_hasher_state(h, state);
		reserve(c, 1);
		memcpy(c->states + c->n * c->width, state, c->width);
		c->n++;
	}
}
