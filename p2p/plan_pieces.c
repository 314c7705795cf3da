/* The plan's pieces: which one to ask of whom. */
#include <assert.h>

#include "p2p/plan_state.h"

#define AHEAD_MS 500	/* bytes of so long are to be on their way from a source */
#define FIRST_PIECES 4	/* by chance, not by rarity */
#define RATE_MS 2000	/* what came longer ago than about this counts less and less */
#define LATE_MIN_MS 20	/* a second source is asked only if that saves more than this ... */
#define LATE_NEW_MS 300 /* ... and than this, if nothing is known of how fast it is */

static bool source_has(const struct plan_source *s, uint32_t piece)
{
	return s->all || cairn_bitmap_has(&s->have, piece);
}

static uint32_t n_askable(const struct cairn_plan *plan, const struct plan_source *s)
{
	return s->all ? cairn_rarity_count(&plan->free) : s->n_free;
}

/* The piece begins or ends to be one that may be asked for. */
static void set_free(struct cairn_plan *plan, uint32_t piece, bool is_free)
{
	if (is_free == cairn_rarity_has(&plan->free, piece)) return;
	if (is_free) {
		cairn_rarity_insert(&plan->free, piece);
	} else {
		cairn_rarity_remove(&plan->free, piece);
	}
	for (int i = 0; i < CAIRN_SOURCES_MAX; i++) {
		struct plan_source *s = &plan->sources[i];
		if (s->status != PLAN_OPEN || s->all) continue;
		if (!cairn_bitmap_has(&s->have, piece)) continue;
		if (is_free) {
			s->n_free++;
		} else {
			s->n_free--;
		}
	}
}

static void look_if_free(struct cairn_plan *plan, uint32_t piece)
{
	set_free(plan, piece,
		 plan->owed_by[piece] == 0 && !cairn_bitmap_has(&plan->here, piece) &&
			 cairn_bitmap_has(&plan->provable, piece));
}

/* ---- what there is ---- */

static void take_have(struct cairn_plan *plan, struct plan_source *s, uint32_t piece)
{
	if (!cairn_bitmap_clear(&s->have, piece)) return;
	if (cairn_rarity_has(&plan->free, piece)) s->n_free--;
	cairn_rarity_lower(&plan->free, piece);
}

static void take_all_have(struct cairn_plan *plan, struct plan_source *s)
{
	if (s->have.count > 0) {
		for (uint32_t k = 0; (k = cairn_bitmap_next(&s->have, k)) < plan->n_pieces; k++) {
			take_have(plan, s, k);
		}
	}
	cairn_bitmap_empty(&s->have);
	s->all = false;
}

static void add_have(struct cairn_plan *plan, struct plan_source *s, uint32_t piece)
{
	if (s->all || !cairn_bitmap_set(&s->have, piece)) return;
	cairn_rarity_raise(&plan->free, piece);
	if (cairn_rarity_has(&plan->free, piece)) s->n_free++;
}

void cairn_plan_have(struct cairn_plan *plan, uint32_t source, uint32_t piece)
{
	struct plan_source *s = plan_find(plan, source);
	assert(s && s->status == PLAN_OPEN && piece < plan->n_pieces);
	add_have(plan, s, piece);
}

void cairn_plan_have_all(struct cairn_plan *plan, uint32_t source)
{
	struct plan_source *s = plan_find(plan, source);
	assert(s && s->status == PLAN_OPEN);
	take_all_have(plan, s);
	s->all = s->whole = true;
}

void cairn_plan_provable(struct cairn_plan *plan, uint32_t piece)
{
	assert(piece < plan->n_pieces);
	if (cairn_bitmap_set(&plan->provable, piece)) look_if_free(plan, piece);
}

void cairn_plan_forget(struct cairn_plan *plan)
{
	for (int i = 0; i < CAIRN_SOURCES_MAX; i++) {
		plan->sources[i].n_owed = 0;
		plan->sources[i].n_free = 0;
	}
	for (uint32_t k = 0; k < plan->n_pieces; k++) plan->owed_by[k] = 0;
	plan->n_owed = 0;
	cairn_bitmap_empty(&plan->here);
	cairn_bitmap_empty(&plan->provable);
	cairn_rarity_clear(&plan->free);
}

/* ---- what is owed ---- */

/* So much of the time that it owed us something is counted. */
static void count_time(struct plan_source *s, int64_t now_ms)
{
	if (s->n_owed > 0 && now_ms > s->mark_ms) s->rate_ms += (double)(now_ms - s->mark_ms);
	s->mark_ms = now_ms;
	if (s->rate_ms > 2 * RATE_MS) {
		s->rate_bytes /= 2;
		s->rate_ms /= 2;
	}
}

static void owe(struct cairn_plan *plan, struct plan_source *s, uint32_t piece, int64_t now_ms)
{
	count_time(s, now_ms);
	if (s->n_owed == 0) s->heard_ms = now_ms;
	s->owed[s->n_owed++] = (struct plan_owed){.piece = piece, .asked_ms = now_ms};
	if (plan->owed_by[piece]++ == 0) plan->n_owed++;
	set_free(plan, piece, false);
}

/* It owes the piece no more. False: it did not. */
static bool disown(struct cairn_plan *plan, struct plan_source *s, uint32_t piece)
{
	uint32_t i = 0;
	while (i < s->n_owed && s->owed[i].piece != piece) i++;
	if (i == s->n_owed) return false;
	for (; i + 1 < s->n_owed; i++) s->owed[i] = s->owed[i + 1];
	s->n_owed--;
	plan->owed_by[piece]--;
	if (plan->owed_by[piece] == 0 && !cairn_bitmap_has(&plan->here, piece)) {
		plan->n_owed--;
		look_if_free(plan, piece);
	}
	return true;
}

void plan_drop_pieces(struct cairn_plan *plan, struct plan_source *s)
{
	while (s->n_owed > 0) disown(plan, s, s->owed[s->n_owed - 1].piece);
	take_all_have(plan, s);
}

void cairn_plan_bytes(struct cairn_plan *plan, uint32_t source, uint64_t n, int64_t now_ms)
{
	struct plan_source *s = plan_find(plan, source);
	if (!s || n == 0) return;
	count_time(s, now_ms);
	s->rate_bytes += (double)n;
	s->lately += n;
	s->heard_ms = now_ms;
	s->fails = 0;
	plan->last_byte_ms = now_ms;
}

bool cairn_plan_got(struct cairn_plan *plan, uint32_t source, uint32_t piece, int64_t now_ms)
{
	assert(piece < plan->n_pieces);
	plan_tell_time(plan, now_ms);
	bool is_new = cairn_bitmap_set(&plan->here, piece);
	if (is_new) {
		if (plan->owed_by[piece] > 0) plan->n_owed--;
		look_if_free(plan, piece);
	}
	struct plan_source *s = source == UINT32_MAX ? NULL : plan_find(plan, source);
	if (s) {
		count_time(s, now_ms);
		disown(plan, s, piece);
	}
	return is_new;
}

void cairn_plan_lost(struct cairn_plan *plan, uint32_t source, uint32_t piece)
{
	assert(piece < plan->n_pieces);
	struct plan_source *s = plan_find(plan, source);
	if (!s || s->status != PLAN_OPEN) return;
	disown(plan, s, piece);
	if (s->all) { /* all but this one, then */
		s->all = false;
		for (uint32_t k = 0; k < plan->n_pieces; k++) add_have(plan, s, k);
	}
	take_have(plan, s, piece);
}

/* ---- the choice ---- */

/* A piece of order[from, to) that the source has, the search beginning anywhere in it. */
static bool find_in(struct cairn_plan *plan, const struct plan_source *s, uint32_t from,
		    uint32_t to, uint32_t *ret)
{
	if (from >= to) return false;
	uint32_t n = to - from, start = (uint32_t)plan_random(plan, n);
	for (uint32_t i = 0; i < n; i++) {
		uint32_t piece = plan->free.order[from + (start + i) % n];
		if (!source_has(s, piece)) continue;
		*ret = piece;
		return true;
	}
	return false;
}

static bool find_free(struct cairn_plan *plan, const struct plan_source *s, uint32_t *ret)
{
	if (n_askable(plan, s) == 0) return false;
	const uint32_t *end = plan->free.end;
	uint32_t from = s->all ? 0 : end[0]; /* nobody but those with all has what is before it */
	if (plan->here.count < FIRST_PIECES) {
		return find_in(plan, s, from, cairn_rarity_count(&plan->free), ret);
	}
	for (int l = s->all ? 0 : 1; l < CAIRN_RARITY_LEVELS; l++) {
		if (find_in(plan, s, l == 0 ? 0 : end[l - 1], end[l], ret)) return true;
	}
	return false;
}

/* In how many ms from now the source will have sent its i-th owed piece; 0: cannot be told. */
static double due_in(const struct cairn_plan *plan, const struct plan_source *s, uint32_t i,
		     int64_t now_ms)
{
	double rate = plan_rate(s, now_ms);
	if (rate > 0) return (double)(i + 1) * (double)plan->piece_size / rate;
	if (i >= s->n_owed) return 0;
	return (double)(now_ms - s->owed[i].asked_ms);
}

/* All that is missing is asked for: of what others owe, the piece that will come last, if it would
 * come a good deal earlier from this source. */
static bool find_late(struct cairn_plan *plan, const struct plan_source *s, int64_t now_ms,
		      uint32_t *ret)
{
	if (plan->n_owed == 0 || plan->n_owed < plan->n_pieces - plan->here.count) return false;
	double own = due_in(plan, s, s->n_owed, now_ms);
	double worst = own > 0 ? 2 * own + LATE_MIN_MS : LATE_NEW_MS;
	bool found = false;
	for (int i = 0; i < CAIRN_SOURCES_MAX; i++) {
		const struct plan_source *other = &plan->sources[i];
		if (other == s || other->status != PLAN_OPEN) continue;
		for (uint32_t j = 0; j < other->n_owed; j++) {
			uint32_t piece = other->owed[j].piece;
			double due = due_in(plan, other, j, now_ms);
			if (due <= worst || plan->owed_by[piece] != 1) continue;
			if (cairn_bitmap_has(&plan->here, piece) || !source_has(s, piece)) continue;
			worst = due;
			*ret = piece;
			found = true;
		}
	}
	return found;
}

static uint32_t depth_of(const struct cairn_plan *plan, const struct plan_source *s, int64_t now_ms)
{
	double n = plan_rate(s, now_ms) * AHEAD_MS / (double)plan->piece_size;
	if (n >= CAIRN_DEPTH_MAX) return CAIRN_DEPTH_MAX;
	return n <= CAIRN_DEPTH_MIN ? CAIRN_DEPTH_MIN : (uint32_t)n;
}

bool cairn_plan_next_piece(struct cairn_plan *plan, uint32_t source, int64_t now_ms, uint32_t *ret)
{
	struct plan_source *s = plan_find(plan, source);
	assert(s && s->status == PLAN_OPEN);
	plan_tell_time(plan, now_ms);
	if (s->leaving || s->n_owed >= depth_of(plan, s, now_ms)) return false;
	uint32_t piece;
	if (!find_free(plan, s, &piece) && !find_late(plan, s, now_ms, &piece)) return false;
	owe(plan, s, piece, now_ms);
	*ret = piece;
	return true;
}

bool cairn_plan_done(const struct cairn_plan *plan)
{
	return plan->here.count == plan->n_pieces;
}

uint32_t cairn_plan_pieces_here(const struct cairn_plan *plan)
{
	return plan->here.count;
}
