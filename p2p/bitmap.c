#include "p2p/bitmap.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static size_t words_of(const struct cairn_bitmap *map)
{
	return ((size_t)map->size + 63) / 64;
}

static void alloc_words(struct cairn_bitmap *map)
{
	if (map->words) return;
	map->words = calloc(words_of(map), sizeof(*map->words));
	if (!map->words) abort();
}

void cairn_bitmap_init(struct cairn_bitmap *map, uint32_t size)
{
	*map = (struct cairn_bitmap){.size = size};
}

void cairn_bitmap_fini(struct cairn_bitmap *map)
{
	free(map->words);
	*map = (struct cairn_bitmap){0};
}

bool cairn_bitmap_has(const struct cairn_bitmap *map, uint32_t bit)
{
	assert(bit < map->size);
	return map->words && (map->words[bit / 64] >> (bit % 64) & 1) != 0;
}

bool cairn_bitmap_set(struct cairn_bitmap *map, uint32_t bit)
{
	if (cairn_bitmap_has(map, bit)) return false;
	alloc_words(map);
	map->words[bit / 64] |= UINT64_C(1) << (bit % 64);
	map->count++;
	return true;
}

bool cairn_bitmap_clear(struct cairn_bitmap *map, uint32_t bit)
{
	if (!cairn_bitmap_has(map, bit)) return false;
	map->words[bit / 64] &= ~(UINT64_C(1) << (bit % 64));
	map->count--;
	return true;
}

void cairn_bitmap_fill(struct cairn_bitmap *map)
{
	if (map->size == 0) return;
	alloc_words(map);
	memset(map->words, 0xff, words_of(map) * sizeof(*map->words));
	if (map->size % 64) map->words[map->size / 64] = (UINT64_C(1) << (map->size % 64)) - 1;
	map->count = map->size;
}

void cairn_bitmap_empty(struct cairn_bitmap *map)
{
	free(map->words);
	map->words = NULL;
	map->count = 0;
}

uint32_t cairn_bitmap_next(const struct cairn_bitmap *map, uint32_t from)
{
	if (!map->words || from >= map->size) return map->size;
	uint64_t word = map->words[from / 64] & ~UINT64_C(0) << (from % 64);
	for (size_t i = from / 64;;) {
		if (word != 0) return (uint32_t)(i * 64 + (unsigned)__builtin_ctzll(word));
		if (++i == words_of(map)) return map->size;
		word = map->words[i];
	}
}
