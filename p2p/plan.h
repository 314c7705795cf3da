/* The plan of one fill from peers: whom to ask, for which piece, and when to give somebody up.
 *
 * Pure: no clock, no I/O, no lock, no memory but its own; time is an argument, randomness comes
 * from a seed. p2p/fill.c carries it out, and so does the simulation (tests/sim).
 *
 * Sources are small numbers of the caller's. A source is learnt, opened (we are connected), told of
 * what it has, asked for pieces, and closed. Rarest piece first among those that the source has and
 * that can be proved, ties by chance; the first few pieces by chance, so that we soon have
 * something to give. At the end, when all that is missing is asked for, a piece may be asked for of
 * a second source, never of a third. Threads: one at a time. */
#ifndef CAIRN_P2P_PLAN_H
#define CAIRN_P2P_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CAIRN_SOURCES_MAX 64 /* known of one fill */
#define CAIRN_OPEN_MAX 10    /* of these, connected at once */
#define CAIRN_DEPTH_MIN 1    /* pieces asked for of one source, and not here yet ... */
#define CAIRN_DEPTH_MAX 8    /* ... more, the faster it is */

struct cairn_plan;

struct cairn_plan_opts {
	uint64_t size; /* of the blob */
	uint64_t seed;
	int64_t stall_ms; /* an open source that owes us a piece and sends no byte for so long is
			     given up */
};

struct cairn_plan *cairn_plan_new(const struct cairn_plan_opts *opts); /* aborts without memory */
void cairn_plan_free(struct cairn_plan *plan);

/* ---- sources */

enum cairn_plan_end {
	CAIRN_END_FAILED,  /* could not be reached, broke off, stalled: again after a pause that
			      grows */
	CAIRN_END_ABSENT,  /* does not have it: again only if it is learnt anew later */
	CAIRN_END_BUSY,	   /* no slot: again after retry_ms */
	CAIRN_END_SLOW,	   /* made room for a better one: last choice from now on */
	CAIRN_END_SHUNNED, /* lied: never again in this plan */
};

/* Somebody says that it has it (whole) or is getting it. Again is fine. False: no room for it, and
 * it is worse than those known. */
bool cairn_plan_learn(struct cairn_plan *plan, uint32_t source, bool whole, int64_t now_ms);
/* How many to connect with at once, CAIRN_OPEN_MAX at first and at most (p2p/policy.h says how
 * many). Those that are connected stay. */
void cairn_plan_set_open(struct cairn_plan *plan, uint32_t open);
/* Whom to connect with now: false: nobody. It counts as opening until opened or closed. */
bool cairn_plan_next_source(struct cairn_plan *plan, int64_t now_ms, uint32_t *ret);
void cairn_plan_opened(struct cairn_plan *plan, uint32_t source, int64_t now_ms);
/* What was asked for of it is free again. retry_ms: of BUSY. */
void cairn_plan_closed(struct cairn_plan *plan, uint32_t source, enum cairn_plan_end end,
		       int64_t retry_ms, int64_t now_ms);

/* When one that is closed may be tried again; it may have to be learnt anew for that. */
int64_t cairn_plan_retry_ms(struct cairn_plan *plan, uint32_t source);

/* An open source is to be given up: stalled, or (there are better ones to try) by far the slowest.
 * KEEP, most of the time. */
enum cairn_verdict { CAIRN_VERDICT_KEEP, CAIRN_VERDICT_STALLED, CAIRN_VERDICT_SLOW };
enum cairn_verdict cairn_plan_judge(struct cairn_plan *plan, uint32_t source, int64_t now_ms);

/* ---- what there is */

void cairn_plan_have(struct cairn_plan *plan, uint32_t source, uint32_t piece);
void cairn_plan_have_all(struct cairn_plan *plan, uint32_t source);
/* Piece k can be proved: both its entries are known. Only such are asked for. */
void cairn_plan_provable(struct cairn_plan *plan, uint32_t piece);
/* Nothing can be any more, and nothing is here: begin anew with the open sources. */
void cairn_plan_forget(struct cairn_plan *plan);

/* ---- pieces */

/* A piece to ask of this open source now; false: none, for now. It is marked as asked for. */
bool cairn_plan_next_piece(struct cairn_plan *plan, uint32_t source, int64_t now_ms, uint32_t *ret);
/* Bytes of pieces came from it. */
void cairn_plan_bytes(struct cairn_plan *plan, uint32_t source, uint64_t n, int64_t now_ms);
/* The piece came from it and was proved. source UINT32_MAX: it was on disk. False: it was here
 * already. */
bool cairn_plan_got(struct cairn_plan *plan, uint32_t source, uint32_t piece, int64_t now_ms);
/* It will not come from it: free again. */
void cairn_plan_lost(struct cairn_plan *plan, uint32_t source, uint32_t piece);

bool cairn_plan_done(const struct cairn_plan *plan);
uint32_t cairn_plan_pieces_here(const struct cairn_plan *plan);
/* When something may be due that no call above brings about: a retry, a judgement. */
int64_t cairn_plan_next_ms(const struct cairn_plan *plan, int64_t now_ms);
/* When the last byte came; when the plan was made, if none did. */
int64_t cairn_plan_last_byte_ms(const struct cairn_plan *plan);
/* Sources that are open, opening, or would be tried again. */
uint32_t cairn_plan_hopes(const struct cairn_plan *plan);

#endif
