#include "p2p/digests.h"

#include <stdlib.h>
#include <string.h>

#define ROOM_MIN 64

void cairn_digests_fini(struct cairn_digests *set)
{
	free(set->slots);
	*set = (struct cairn_digests){0};
}

static uint64_t key_of(const struct cairn_digest *digest)
{
	uint64_t key;
	memcpy(&key, digest->bytes, sizeof(key));
	return key != 0 ? key : 1;
}

/* Where the key is, or the free slot where it belongs: there is always one. */
static size_t slot_of(const struct cairn_digests *set, uint64_t key)
{
	size_t i = key & (set->room - 1);
	while (set->slots[i] != 0 && set->slots[i] != key) i = (i + 1) & (set->room - 1);
	return i;
}

static void grow(struct cairn_digests *set)
{
	struct cairn_digests more = {.room = set->room > 0 ? 2 * set->room : ROOM_MIN};
	more.slots = calloc(more.room, sizeof(*more.slots));
	if (more.slots == NULL) abort();
	for (size_t i = 0; i < set->room; i++) {
		if (set->slots[i] != 0) more.slots[slot_of(&more, set->slots[i])] = set->slots[i];
	}
	free(set->slots);
	set->slots = more.slots;
	set->room = more.room;
}

bool cairn_digests_add(struct cairn_digests *set, const struct cairn_digest *digest)
{
	uint64_t key = key_of(digest);
	if (2 * (set->n + 1) > set->room) grow(set);
	size_t i = slot_of(set, key);
	if (set->slots[i] == key) return false;
	set->slots[i] = key;
	set->n++;
	return true;
}

bool cairn_digests_remove(struct cairn_digests *set, const struct cairn_digest *digest)
{
	uint64_t key = key_of(digest);
	if (set->room == 0) return false;
	size_t i = slot_of(set, key);
	if (set->slots[i] != key) return false;
	set->slots[i] = 0;
	set->n--;
	/* Whoever stands behind it may have been pushed there by it. */
	for (size_t j = (i + 1) & (set->room - 1); set->slots[j] != 0;
	     j = (j + 1) & (set->room - 1)) {
		uint64_t moved = set->slots[j];
		set->slots[j] = 0;
		set->slots[slot_of(set, moved)] = moved;
	}
	return true;
}
