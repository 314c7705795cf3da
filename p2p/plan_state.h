/* What p2p/plan.c (sources) and p2p/plan_pieces.c (pieces) share; nobody else includes it. */
#ifndef CAIRN_P2P_PLAN_STATE_H
#define CAIRN_P2P_PLAN_STATE_H

#include "p2p/bitmap.h"
#include "p2p/plan.h"
#include "p2p/rarity.h"

enum plan_status {
	PLAN_NOBODY, /* the place is free */
	PLAN_KNOWN,
	PLAN_OPENING,
	PLAN_OPEN,
};

/* Why one that is known is not connected. The order is the order in which they lose their place to
 * somebody new, from the last to the first. */
enum plan_past {
	PLAN_UNTRIED,
	PLAN_TRIED,  /* failed or was busy: again from retry_ms on */
	PLAN_SLOW,   /* the same, after all others */
	PLAN_ABSENT, /* only if learnt anew */
	PLAN_SHUNNED,
};

struct plan_owed {
	uint32_t piece;
	int64_t asked_ms;
};

struct plan_source {
	uint32_t id;
	enum plan_status status;
	enum plan_past past;
	bool whole;	  /* says, or somebody says, that it has all of the blob */
	uint32_t fails;	  /* in a row */
	uint32_t busy;	  /* times in a row */
	int64_t retry_ms; /* not before */

	/* Of an open one: */
	bool all;				/* it has every piece; have is not used */
	struct cairn_bitmap have;		/* else these */
	uint32_t n_free;			/* pieces of have that are in plan->free */
	struct plan_owed owed[CAIRN_DEPTH_MAX]; /* asked for and not here, in that order */
	uint32_t n_owed;
	int64_t heard_ms; /* last byte; or since when it owes, if that is later */
	int64_t mark_ms;  /* up to when the time it owed is in rate_ms */
	bool leaving;	  /* not asked any more; given up when it owes nothing */
	int64_t opened_ms;
	uint64_t lately;	    /* bytes since plan->turn_ms */
	double rate_bytes, rate_ms; /* bytes that came while it owed, and how long; old ones fade */
};

struct cairn_plan {
	struct cairn_plan_opts opts;
	uint64_t piece_size;
	uint32_t n_pieces;
	uint64_t random;
	int64_t began_ms, last_byte_ms; /* INT64_MIN: no call has told the time, no byte has come */

	struct plan_source sources[CAIRN_SOURCES_MAX];
	uint32_t n_connected; /* OPENING and OPEN */
	uint32_t open;	      /* at most */
	int64_t turn_ms;      /* since when bytes are counted to find the least useful source */

	struct cairn_bitmap here, provable;
	struct cairn_rarity free; /* provable, not here, asked of nobody; levels count the open
				     sources that have a piece, but for those that have all */
	uint8_t *owed_by;	  /* owned: of each piece, of how many it is asked: 0 to 2 */
	uint32_t n_owed;	  /* pieces that are not here and are asked of somebody */
};

struct plan_source *plan_find(struct cairn_plan *plan, uint32_t id); /* NULL: not known */
uint64_t plan_random(struct cairn_plan *plan, uint64_t below);
void plan_tell_time(struct cairn_plan *plan, int64_t now_ms);
/* Whatever an open source had, and what it owed. */
void plan_drop_pieces(struct cairn_plan *plan, struct plan_source *s);
/* Bytes a millisecond while it owed us something, up to now; 0: too early to tell. */
double plan_rate(const struct plan_source *s, int64_t now_ms);

#endif
