/* The piece list of a fill: what sources say, and whom to believe.
 *
 * Each source is bound by its own words: of a piece that it has, it must have told the entries
 * beside it, and they must be those that we believe. So whoever sends a piece that does not prove
 * has lied, whoever made the list.
 *
 * Where two lists contradict each other: a proven one beats one that is not; who made a list may
 * correct it; a list that no connected source vouches for any more gives way. Else the newcomer is
 * sent away, and comes again a little later. A list that does not get on, while there is another,
 * is given up (p2p/fill.c). */
#include <stdio.h>
#include <string.h>

#include "p2p/fill.h"

#define REPLACED_MAX 8 /* times in a round: more is a game that somebody plays */

const uint8_t *cairn_fill_before_locked(const struct cairn_swarm_fill *f, uint32_t piece)
{
	return piece == 0 ? NULL : f->list + (piece - 1) * f->entry;
}

const uint8_t *cairn_fill_after_locked(const struct cairn_swarm_fill *f, uint32_t piece)
{
	return piece + 1 == f->count ? NULL : f->list + piece * f->entry;
}

void cairn_fill_unvouch_locked(struct cairn_swarm_fill *f, struct cairn_told *told)
{
	if (told->vouches && told->gen == f->gen) f->vouchers--;
	told->vouches = false;
}

static enum cairn_merge contradicts_locked(struct cairn_swarm_fill *f,
					   const struct cairn_told *told, bool proven)
{
	uint32_t others = f->vouchers - (told->vouches ? 1 : 0);
	bool corrects = strcmp(told->address, f->originator) == 0;
	if (others == 0 || (proven && !f->proven) || (corrects && proven == f->proven)) {
		if (++f->replaced > REPLACED_MAX) return CAIRN_MERGE_BAD;
		f->replace = true;
		return CAIRN_MERGE_AGAIN;
	}
	f->rivals++;
	return CAIRN_MERGE_RIVAL;
}

/* Is what it says one of the things that can be said? */
static bool is_sound(const struct cairn_swarm_fill *f, const struct cairn_told *told,
		     const Cairn__Peer__V1__Description *msg)
{
	size_t n = msg->list.len / f->entry;
	if (msg->list.len % f->entry != 0 || n > f->count - 1) return false;
	if (msg->list_from > told->n || msg->list_from > f->count - 1 - n) return false;
	if (msg->n_have > f->count || strlen(msg->originator) >= CAIRN_ADDRESS_MAX) return false;
	if (n > 0 && msg->originator[0] == '\0') return false; /* nobody to shun if it is wrong */
	for (size_t i = 0; i < msg->n_have; i++) {
		if (msg->have[i] >= f->count) return false;
	}
	return true;
}

static enum cairn_merge merge_list_locked(struct cairn_swarm_fill *f, struct cairn_told *told,
					  const Cairn__Peer__V1__Description *msg)
{
	uint32_t from = msg->list_from, to = from + (uint32_t)(msg->list.len / f->entry);
	uint32_t known = to < f->list_n ? to : f->list_n;
	if (to == from) return CAIRN_MERGE_OK;
	if (f->doubted && !msg->proven) return CAIRN_MERGE_UNUSABLE;
	if (cairn_peers_shuns(f->swarm->peers, &f->digest, msg->originator, NULL,
			      cairn_swarm_now_ms())) {
		return CAIRN_MERGE_UNUSABLE;
	}
	if (known > from &&
	    memcmp(f->list + from * f->entry, msg->list.data, (known - from) * f->entry) != 0) {
		return contradicts_locked(f, told, msg->proven);
	}
	if (f->list_n == 0 || (msg->proven && !f->proven && to >= f->list_n)) {
		f->proven = msg->proven;
		snprintf(f->originator, sizeof(f->originator), "%s", msg->originator);
	}
	if (to > f->list_n) {
		memcpy(f->list + from * f->entry, msg->list.data, msg->list.len);
		f->list_n = to;
		f->proven = f->proven && msg->proven;
	}
	if (to > told->n) told->n = to;
	if (!told->vouches) f->vouchers++;
	told->vouches = true;
	return CAIRN_MERGE_OK;
}

static enum cairn_merge merge_have_locked(struct cairn_swarm_fill *f, struct cairn_told *told,
					  const Cairn__Peer__V1__Description *msg)
{
	if (msg->state == CAIRN__PEER__V1__STATE__WHOLE) {
		if (told->n != f->count - 1) return CAIRN_MERGE_BAD;
		if (!told->whole) cairn_plan_have_all(f->plan, told->source);
		told->whole = true;
		return CAIRN_MERGE_OK;
	}
	for (size_t i = 0; i < msg->n_have; i++) {
		uint32_t need =
			msg->have[i] + 1; /* the entry after it, too, unless it is the last */
		if (told->n < (need < f->count ? need : f->count - 1)) return CAIRN_MERGE_BAD;
		cairn_plan_have(f->plan, told->source, msg->have[i]);
	}
	return CAIRN_MERGE_OK;
}

enum cairn_merge cairn_fill_merge_locked(struct cairn_swarm_fill *f, struct cairn_told *told,
					 const Cairn__Peer__V1__Description *msg,
					 uint32_t *ret_from, uint32_t *ret_to)
{
	uint32_t before = f->list_n;
	*ret_from = *ret_to = 0;
	if (!is_sound(f, told, msg)) return CAIRN_MERGE_BAD;
	enum cairn_merge rc = merge_list_locked(f, told, msg);
	if (rc != CAIRN_MERGE_OK) return rc;
	if (f->list_n > before) {
		*ret_from = before;
		*ret_to = f->list_n == f->count - 1 ? f->count : f->list_n;
	}
	return merge_have_locked(f, told, msg);
}

void cairn_fill_recover(struct cairn_swarm_fill *f, uint64_t gen, uint32_t from, uint32_t to)
{
	uint8_t before[CAIRN_CHAIN_STATE] = {0}, after[CAIRN_CHAIN_STATE] = {0};
	pthread_mutex_lock(&f->mu);
	for (uint32_t k = from; k < to && f->gen == gen && !f->forgetting; k++) {
		if (k > 0) memcpy(before, cairn_fill_before_locked(f, k), f->entry);
		if (k + 1 < f->count) memcpy(after, cairn_fill_after_locked(f, k), f->entry);
		pthread_mutex_unlock(&f->mu);
		bool here = cairn_pieces_recover(f->pieces, k, before, after);
		pthread_mutex_lock(&f->mu);
		if (f->gen != gen || f->forgetting) break;
		cairn_plan_provable(f->plan, k);
		if (here) {
			f->received += cairn_piece_length(f->size, k);
			cairn_plan_got(f->plan, UINT32_MAX, k, cairn_swarm_now_ms());
		}
	}
	pthread_mutex_unlock(&f->mu);
}
