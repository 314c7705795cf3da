/* What we have said, and to whom. While a peer that came settles, an item is known to several: the
 * one who is asked for it, who will be, and who was, as others may be a little earlier or later
 * than we are. */
#include <stdlib.h>
#include <string.h>

#include "p2p/rendezvous.h"
#include "p2p/static_state.h"

#define BUCKETS_MIN 64

void items_init(struct cairn_static *s)
{
	s->n_buckets = BUCKETS_MIN;
	s->items = calloc(s->n_buckets, sizeof(struct item *));
	if (s->items == NULL) abort();
}

void items_fini(struct cairn_static *s)
{
	for (size_t i = 0; i < s->n_buckets; i++) {
		for (struct item *item = s->items[i], *next; item != NULL; item = next) {
			next = item->next;
			free(item);
		}
	}
	free(s->items);
}

slot_t arbiter_of(const struct arbiters *arbiters, const struct cairn_digest *digest)
{
	uint64_t number = cairn_rendezvous_digest(digest), most = 0;
	slot_t best = SLOT_NONE;
	for (size_t i = 0; i < arbiters->n; i++) {
		uint64_t weight = cairn_rendezvous_weight(arbiters->all[i].number, number);
		if (best != SLOT_NONE && weight <= most) continue;
		most = weight;
		best = arbiters->all[i].slot;
	}
	return best;
}

/* ---- the table: our own digests, so their first bytes are as good as any hash ---- */

static struct item **bucket_of(const struct cairn_static *s, const struct cairn_digest *digest)
{
	uint64_t h;
	memcpy(&h, digest->bytes, sizeof(h));
	return &s->items[h & (s->n_buckets - 1)];
}

static struct item *find(const struct cairn_static *s, const struct cairn_digest *digest)
{
	struct item *item = *bucket_of(s, digest);
	while (item != NULL && !cairn_digest_equal(&item->digest, digest)) item = item->next;
	return item;
}

static void grow(struct cairn_static *s)
{
	size_t n = s->n_buckets;
	struct item **old = s->items;
	s->n_buckets = 2 * n;
	s->items = calloc(s->n_buckets, sizeof(struct item *));
	if (s->items == NULL) abort();
	for (size_t i = 0; i < n; i++) {
		for (struct item *item = old[i], *next; item != NULL; item = next) {
			next = item->next;
			struct item **to = bucket_of(s, &item->digest);
			item->next = *to;
			*to = item;
		}
	}
	free(old);
}

/* NULL: there are too many. */
static struct item *find_or_make(struct cairn_static *s, const struct cairn_digest *digest)
{
	struct item *item = find(s, digest);
	if (item != NULL) return item;
	if (s->n_items >= ITEMS_MAX) {
		s->refused++;
		return NULL;
	}
	if (s->n_items >= s->n_buckets) grow(s);
	item = calloc(1, sizeof(*item));
	if (item == NULL) abort();
	item->digest = *digest;
	for (int i = 0; i < TOLD_MAX; i++) item->told[i] = SLOT_NONE;
	struct item **bucket = bucket_of(s, digest);
	item->next = *bucket;
	*bucket = item;
	s->n_items++;
	return item;
}

static void drop_if_empty(struct cairn_static *s, struct item *item)
{
	if (item->holds || item->joins || item->granted) return;
	struct item **at = bucket_of(s, &item->digest);
	while (*at != item) at = &(*at)->next;
	*at = item->next;
	s->n_items--;
	free(item);
}

/* ---- saying it to one of them ---- */

static void say(struct cairn_static *s, slot_t slot, const struct sentence *sentence)
{
	if (slot == SLOT_NONE) return;
	if (slot != SLOT_SELF) {
		struct link *link = s->links[slot];
		bool bulk = sentence->op == OP_ANNOUNCE || sentence->op == OP_WITHDRAW;
		if (bulk) {
			link_bulk(link, &sentence->digest, sentence->op == OP_WITHDRAW);
		} else {
			link_say(link, sentence);
		}
		return;
	}
	struct cairn_answer answer;
	const struct cairn_memory_question q = {
		.node = s->own->address, .now_ms = static_now_ms(), .digest = &sentence->digest};
	switch (sentence->op) {
	case OP_ASK:
		cairn_memory_ask(s->mem, &q, sentence->join, sentence->may_grant, &answer);
		break;
	case OP_KEEP:
		cairn_memory_keep(s->mem, &q, sentence->bytes, &answer.grant);
		break;
	case OP_LEAVE:
		cairn_memory_leave(s->mem, &q);
		break;
	case OP_ANNOUNCE:
		cairn_memory_announce(s->mem, &q);
		break;
	case OP_WITHDRAW:
		cairn_memory_withdraw(s->mem, &q);
		break;
	case OP_PING:
	case OP_TAKE:
		break;
	}
}

static void say_op(struct cairn_static *s, slot_t slot, enum op op, const struct item *item)
{
	const struct sentence sentence = {
		.op = op, .join = true, .bytes = item->bytes, .digest = item->digest};
	say(s, slot, &sentence);
}

/* All that is true of it, to one who does not know. */
static void tell(struct cairn_static *s, slot_t slot, const struct item *item)
{
	if (item->holds) say_op(s, slot, OP_ANNOUNCE, item);
	if (item->joins) say_op(s, slot, OP_ASK, item);
	if (item->granted) say_op(s, slot, OP_KEEP, item);
}

static void untell(struct cairn_static *s, slot_t slot, const struct item *item)
{
	if (item->holds) say_op(s, slot, OP_WITHDRAW, item);
	if (item->joins || item->granted) say_op(s, slot, OP_LEAVE, item);
}

static bool among(const slot_t slots[TOLD_MAX], slot_t slot)
{
	for (int i = 0; i < TOLD_MAX; i++) {
		if (slots[i] == slot) return true;
	}
	return false;
}

static void place(struct cairn_static *s, struct item *item)
{
	const struct arbiters *sets[TOLD_MAX] = {&s->asked, &s->up, &s->settled};
	slot_t want[TOLD_MAX] = {SLOT_NONE, SLOT_NONE, SLOT_NONE};
	int n = s->up.n == s->settled.n ? 1 : TOLD_MAX; /* settled are asked, and those are up */
	for (int i = 0; i < n; i++) {
		slot_t slot = arbiter_of(sets[i], &item->digest);
		if (among(want, slot)) continue;
		want[i] = slot;
		if (!among(item->told, slot)) tell(s, slot, item);
	}
	for (int i = 0; i < TOLD_MAX; i++) {
		slot_t old = item->told[i];
		if (old != SLOT_NONE && !among(want, old)) untell(s, old, item);
	}
	memcpy(item->told, want, sizeof(want));
}

/* ---- what happens to an item ---- */

void items_hold(struct cairn_static *s, const struct cairn_digest *digest)
{
	struct item *item = find_or_make(s, digest);
	if (item == NULL) return;
	item->holds = true;
	item->joins = item->granted = false;
	item->bytes = 0;
	for (int i = 0; i < TOLD_MAX; i++) say_op(s, item->told[i], OP_ANNOUNCE, item);
	place(s, item);
}

void items_withdraw(struct cairn_static *s, const struct cairn_digest *digest)
{
	struct item *item = find(s, digest);
	if (item == NULL || !item->holds) return;
	for (int i = 0; i < TOLD_MAX; i++) say_op(s, item->told[i], OP_WITHDRAW, item);
	item->holds = false;
	drop_if_empty(s, item);
}

void items_leave(struct cairn_static *s, const struct cairn_digest *digest)
{
	/* Its arbiter may have heard more from us than was answered in time. */
	slot_t arbiter = arbiter_of(&s->asked, digest);
	const struct sentence sentence = {.op = OP_LEAVE, .digest = *digest};
	say(s, arbiter, &sentence);
	struct item *item = find(s, digest);
	if (item == NULL) return;
	for (int i = 0; i < TOLD_MAX; i++) {
		if (item->told[i] != arbiter) say(s, item->told[i], &sentence);
	}
	item->joins = item->granted = false;
	item->bytes = 0;
	drop_if_empty(s, item);
}

/* Those other than slot, which has just told us how it is, may hold our grant to be ours still. */
static void correct_others(struct cairn_static *s, slot_t slot, const struct item *item)
{
	for (int i = 0; i < TOLD_MAX; i++) {
		if (item->told[i] == slot || item->told[i] == SLOT_NONE) continue;
		say_op(s, item->told[i], OP_LEAVE, item);
		tell(s, item->told[i], item);
	}
}

void items_answered(struct cairn_static *s, slot_t slot, const struct sentence *said,
		    const struct cairn_grant *grant)
{
	bool joins = said->op == OP_ASK && said->join;
	struct item *item =
		joins || grant->ours ? find_or_make(s, &said->digest) : find(s, &said->digest);
	if (item == NULL) return;
	bool lost = item->granted && !grant->ours;
	if (joins && !item->holds) item->joins = true;
	item->granted = grant->ours;
	item->bytes = grant->ours ? grant->bytes : 0;
	if (lost) correct_others(s, slot, item);
	const slot_t nobody[TOLD_MAX] = {SLOT_NONE, SLOT_NONE, SLOT_NONE};
	if (memcmp(item->told, nobody, sizeof(nobody)) == 0) {
		item->told[0] = slot;
	} else if (!among(item->told, slot)) {
		untell(s, slot, item); /* it was its arbiter when it was asked */
	}
	if (item->holds || item->joins || item->granted) place(s, item);
	drop_if_empty(s, item);
}

void items_place(struct cairn_static *s)
{
	for (size_t i = 0; i < s->n_buckets; i++) {
		for (struct item *item = s->items[i]; item != NULL; item = item->next) {
			place(s, item);
		}
	}
}

void items_forgotten(struct cairn_static *s, slot_t slot, bool again)
{
	for (size_t i = 0; i < s->n_buckets; i++) {
		for (struct item *item = s->items[i]; item != NULL; item = item->next) {
			for (int k = 0; k < TOLD_MAX; k++) {
				if (item->told[k] != slot) continue;
				if (again) {
					tell(s, slot, item);
				} else {
					item->told[k] = SLOT_NONE;
				}
			}
		}
	}
}
