#include "p2p/plan.h"

#include <assert.h>
#include <stdlib.h>

#include "cache/pieces.h"
#include "p2p/plan_state.h"

#define RETRY_MIN_MS 500 /* after a failure; doubles with each ... */
#define RETRY_MAX_MS 15000
#define FAILS_MAX 6 /* ... and after so many in a row it has to be learnt anew */
#define SLOW_RETRY_MS 10000
#define SLOW_SHARE 8	      /* slow: below the median divided by this ... */
#define SLOW_MEASURED_MS 1500 /* ... over so long, at least ... */
#define SLOW_OTHERS 3	      /* ... with so many others to compare with */
#define EARLY_MS 1000	      /* so long at first ... */
#define EARLY_OPEN 3	      /* ... no more than these are connected */
#define TURN_MS 2000 /* each such time, the least useful source makes room for one untried ... */
#define TURN_SHARE 2 /* ... if it gave less than the mean divided by this */
#define JUDGE_MS 500

uint64_t plan_random(struct cairn_plan *plan, uint64_t below)
{
	/* splitmix64 */
	uint64_t z = plan->random += UINT64_C(0x9e3779b97f4a7c15);
	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	z ^= z >> 31;
	return below ? z % below : z;
}

void plan_tell_time(struct cairn_plan *plan, int64_t now_ms)
{
	if (plan->began_ms == INT64_MIN) plan->began_ms = now_ms;
}

struct cairn_plan *cairn_plan_new(const struct cairn_plan_opts *opts)
{
	struct cairn_plan *plan = calloc(1, sizeof(*plan));
	if (!plan) abort();
	plan->opts = *opts;
	plan->piece_size = cairn_piece_size(opts->size);
	plan->n_pieces = cairn_piece_count(opts->size);
	plan->random = opts->seed;
	plan->open = CAIRN_OPEN_MAX;
	plan->began_ms = plan->last_byte_ms = INT64_MIN;
	assert(plan->n_pieces > 0); /* whoever has no pieces needs no plan */
	cairn_bitmap_init(&plan->here, plan->n_pieces);
	cairn_bitmap_init(&plan->provable, plan->n_pieces);
	cairn_rarity_init(&plan->free, plan->n_pieces);
	plan->owed_by = calloc(plan->n_pieces, sizeof(*plan->owed_by));
	if (!plan->owed_by) abort();
	return plan;
}

void cairn_plan_free(struct cairn_plan *plan)
{
	if (!plan) return;
	for (int i = 0; i < CAIRN_SOURCES_MAX; i++) cairn_bitmap_fini(&plan->sources[i].have);
	cairn_bitmap_fini(&plan->here);
	cairn_bitmap_fini(&plan->provable);
	cairn_rarity_fini(&plan->free);
	free(plan->owed_by);
	free(plan);
}

struct plan_source *plan_find(struct cairn_plan *plan, uint32_t id)
{
	for (int i = 0; i < CAIRN_SOURCES_MAX; i++) {
		struct plan_source *s = &plan->sources[i];
		if (s->status != PLAN_NOBODY && s->id == id) return s;
	}
	return NULL;
}

/* ---- learning of sources ---- */

/* Would it be tried (again) without being learnt anew? */
static bool hopeful(const struct plan_source *s)
{
	return s->status == PLAN_KNOWN && s->past <= PLAN_SLOW && s->fails < FAILS_MAX;
}

/* How dispensable it is; 0: not. Liars are kept, for they must not come back as somebody new. */
static int dispensable(const struct plan_source *s)
{
	if (s->status != PLAN_KNOWN || s->past == PLAN_SHUNNED) return 0;
	if (!hopeful(s)) return PLAN_ABSENT + 1;
	return s->past;
}

static struct plan_source *place_for(struct cairn_plan *plan)
{
	struct plan_source *worst = NULL;
	for (int i = 0; i < CAIRN_SOURCES_MAX; i++) {
		struct plan_source *s = &plan->sources[i];
		if (s->status == PLAN_NOBODY) return s;
		int more = worst ? dispensable(worst) : 0;
		if (dispensable(s) > more) worst = s;
	}
	return worst;
}

bool cairn_plan_learn(struct cairn_plan *plan, uint32_t source, bool whole, int64_t now_ms)
{
	plan_tell_time(plan, now_ms);
	struct plan_source *s = plan_find(plan, source);
	if (!s) {
		s = place_for(plan);
		if (!s) return false;
		cairn_bitmap_fini(&s->have);
		*s = (struct plan_source){.id = source, .status = PLAN_KNOWN};
		cairn_bitmap_init(&s->have, plan->n_pieces);
	} else if (s->status == PLAN_KNOWN && !hopeful(s) && s->past != PLAN_SHUNNED &&
		   now_ms >= s->retry_ms) {
		s->past = PLAN_TRIED;
		if (s->fails >= FAILS_MAX) s->fails = FAILS_MAX - 1; /* one more try */
	}
	s->whole = s->whole || whole;
	return true;
}

static bool candidate(const struct plan_source *s, int64_t now_ms)
{
	return hopeful(s) && s->retry_ms <= now_ms;
}

/* Nodes that begin together know only each other at first: would they fill all their places then,
 * those that come a moment later would find none, and little would flow from the ones to the
 * others. */
static uint32_t room(const struct cairn_plan *plan, int64_t now_ms)
{
	bool early = now_ms - plan->began_ms < EARLY_MS;
	return early && plan->open > EARLY_OPEN ? EARLY_OPEN : plan->open;
}

void cairn_plan_set_open(struct cairn_plan *plan, uint32_t open)
{
	plan->open = open < 1 ? 1 : open < CAIRN_OPEN_MAX ? open : CAIRN_OPEN_MAX;
}

bool cairn_plan_next_source(struct cairn_plan *plan, int64_t now_ms, uint32_t *ret)
{
	plan_tell_time(plan, now_ms);
	if (plan->n_connected >= room(plan, now_ms)) return false;
	struct plan_source *best = NULL;
	uint64_t ties = 0;
	for (int i = 0; i < CAIRN_SOURCES_MAX; i++) {
		struct plan_source *s = &plan->sources[i];
		if (!candidate(s, now_ms)) continue;
		if (best && s->past > best->past) continue;
		if (best && s->past == best->past && plan_random(plan, ++ties) != 0) continue;
		if (!best || s->past < best->past) ties = 1;
		best = s;
	}
	if (!best) return false;
	best->status = PLAN_OPENING;
	plan->n_connected++;
	*ret = best->id;
	return true;
}

/* ---- connected sources ---- */

void cairn_plan_opened(struct cairn_plan *plan, uint32_t source, int64_t now_ms)
{
	struct plan_source *s = plan_find(plan, source);
	assert(s && s->status == PLAN_OPENING);
	s->status = PLAN_OPEN;
	s->busy = 0;
	s->heard_ms = s->mark_ms = now_ms;
	s->opened_ms = now_ms;
	s->rate_bytes = s->rate_ms = 0;
	s->lately = 0;
	s->leaving = false;
}

static int64_t pause_after(struct cairn_plan *plan, uint32_t fails)
{
	int64_t pause = RETRY_MIN_MS;
	for (uint32_t i = 1; i < fails && pause < RETRY_MAX_MS; i++) pause *= 2;
	if (pause > RETRY_MAX_MS) pause = RETRY_MAX_MS;
	return pause * 3 / 4 + (int64_t)plan_random(plan, (uint64_t)pause / 2);
}

void cairn_plan_closed(struct cairn_plan *plan, uint32_t source, enum cairn_plan_end end,
		       int64_t retry_ms, int64_t now_ms)
{
	struct plan_source *s = plan_find(plan, source);
	assert(s && (s->status == PLAN_OPENING || s->status == PLAN_OPEN));
	plan_drop_pieces(plan, s);
	s->status = PLAN_KNOWN;
	plan->n_connected--;
	switch (end) {
	case CAIRN_END_FAILED:
		s->fails++;
		if (s->past != PLAN_SLOW) s->past = PLAN_TRIED;
		s->retry_ms = now_ms + pause_after(plan, s->fails);
		break;
	case CAIRN_END_ABSENT:
		s->past = PLAN_ABSENT;
		s->whole = false;
		s->retry_ms = now_ms + pause_after(plan, 2);
		break;
	case CAIRN_END_BUSY:
		if (s->past != PLAN_SLOW) s->past = PLAN_TRIED;
		if (retry_ms < 1) retry_ms = RETRY_MIN_MS;
		if (s->busy > 0) retry_ms *= (int64_t)1 << (s->busy < 4 ? s->busy : 4);
		s->busy++;
		s->retry_ms = now_ms + (retry_ms < RETRY_MAX_MS ? retry_ms : RETRY_MAX_MS);
		break;
	case CAIRN_END_SLOW:
		s->past = PLAN_SLOW;
		s->retry_ms = now_ms + SLOW_RETRY_MS;
		break;
	case CAIRN_END_SHUNNED:
		s->past = PLAN_SHUNNED;
		break;
	}
}

int64_t cairn_plan_retry_ms(struct cairn_plan *plan, uint32_t source)
{
	const struct plan_source *s = plan_find(plan, source);
	return s ? s->retry_ms : 0;
}

double plan_rate(const struct plan_source *s, int64_t now_ms)
{
	double ms = s->rate_ms;
	if (s->n_owed > 0) ms += (double)(now_ms - s->mark_ms);
	if (ms < 1) return 0;
	return s->rate_bytes / ms;
}

static bool measured(const struct plan_source *s, int64_t now_ms)
{
	double ms = s->rate_ms + (s->n_owed > 0 ? (double)(now_ms - s->mark_ms) : 0);
	return s->status == PLAN_OPEN && ms >= SLOW_MEASURED_MS;
}

static int by_rate(const void *a, const void *b)
{
	const double *x = a, *y = b;
	return (*x > *y) - (*x < *y);
}

static bool far_the_slowest(const struct cairn_plan *plan, const struct plan_source *s,
			    int64_t now_ms)
{
	double rates[CAIRN_SOURCES_MAX];
	size_t n = 0;
	double own = plan_rate(s, now_ms);
	if (!measured(s, now_ms)) return false;
	for (int i = 0; i < CAIRN_SOURCES_MAX; i++) {
		const struct plan_source *other = &plan->sources[i];
		if (other == s || !measured(other, now_ms)) continue;
		rates[n++] = plan_rate(other, now_ms);
		if (rates[n - 1] < own) return false;
	}
	if (n < SLOW_OTHERS) return false;
	qsort(rates, n, sizeof(rates[0]), by_rate);
	return own * SLOW_SHARE < rates[n / 2];
}

static bool has_untried(const struct cairn_plan *plan)
{
	for (int i = 0; i < CAIRN_SOURCES_MAX; i++) {
		const struct plan_source *s = &plan->sources[i];
		if (s->status == PLAN_KNOWN && s->past == PLAN_UNTRIED) return true;
	}
	return false;
}

/* Where many get a blob at once, some sources are asked by many and others by few, and nobody sees
 * more of that than what comes from them. So each leaves, now and then, the one that gives least;
 * which spreads them. */
static void take_turn(struct cairn_plan *plan, int64_t now_ms)
{
	if (now_ms - plan->turn_ms < TURN_MS) return;
	struct plan_source *least = NULL;
	uint64_t sum = 0;
	uint32_t n = 0;
	for (int i = 0; i < CAIRN_SOURCES_MAX; i++) {
		struct plan_source *s = &plan->sources[i];
		if (s->status != PLAN_OPEN) continue;
		if (s->leaving) return;
		sum += s->lately;
		n++;
		if (now_ms - s->opened_ms < TURN_MS) continue;
		if (!least || s->lately < least->lately) least = s;
	}
	if (least && n + 1 >= plan->open && least->lately * n * TURN_SHARE < sum) {
		least->leaving = true;
	}
	for (int i = 0; i < CAIRN_SOURCES_MAX; i++) plan->sources[i].lately = 0;
	plan->turn_ms = now_ms - (int64_t)plan_random(plan, TURN_MS / 2);
}

enum cairn_verdict cairn_plan_judge(struct cairn_plan *plan, uint32_t source, int64_t now_ms)
{
	const struct plan_source *s = plan_find(plan, source);
	if (!s || s->status != PLAN_OPEN) return CAIRN_VERDICT_KEEP;
	if (has_untried(plan)) take_turn(plan, now_ms);
	if (s->n_owed == 0) return s->leaving ? CAIRN_VERDICT_SLOW : CAIRN_VERDICT_KEEP;
	if (now_ms - s->heard_ms >= plan->opts.stall_ms) return CAIRN_VERDICT_STALLED;
	if (has_untried(plan) && far_the_slowest(plan, s, now_ms)) return CAIRN_VERDICT_SLOW;
	return CAIRN_VERDICT_KEEP;
}

/* ---- looking at it ---- */

int64_t cairn_plan_next_ms(const struct cairn_plan *plan, int64_t now_ms)
{
	int64_t next = INT64_MAX;
	bool untried = has_untried(plan);
	/* When all is asked for, a second source is asked as soon as the first seems late. */
	bool end = plan->n_owed > 0 && plan->n_owed == plan->n_pieces - plan->here.count;
	for (int i = 0; i < CAIRN_SOURCES_MAX; i++) {
		const struct plan_source *s = &plan->sources[i];
		int64_t due = INT64_MAX;
		if (hopeful(s) && plan->n_connected < room(plan, now_ms)) {
			due = s->retry_ms;
		} else if (hopeful(s) && plan->n_connected < plan->open) {
			due = plan->began_ms + EARLY_MS;
		}
		if (s->status == PLAN_OPEN && s->n_owed > 0) {
			due = s->heard_ms + plan->opts.stall_ms;
			if (untried && now_ms + JUDGE_MS < due) due = now_ms + JUDGE_MS;
			if (end && now_ms + JUDGE_MS / 10 < due) due = now_ms + JUDGE_MS / 10;
		}
		if (due < next) next = due;
	}
	return next < now_ms ? now_ms : next;
}

int64_t cairn_plan_last_byte_ms(const struct cairn_plan *plan)
{
	if (plan->last_byte_ms != INT64_MIN) return plan->last_byte_ms;
	return plan->began_ms == INT64_MIN ? 0 : plan->began_ms;
}

uint32_t cairn_plan_hopes(const struct cairn_plan *plan)
{
	uint32_t n = plan->n_connected;
	for (int i = 0; i < CAIRN_SOURCES_MAX; i++) n += hopeful(&plan->sources[i]);
	return n;
}
