/* One blob that is being got, for all who want it on this node. A thread of its own, the
 * coordinator, asks the directory, holds the grant if it is ours, and carries out the plan; each
 * source that is connected has a thread, too (p2p/session.h).
 *
 * A round begins with a question to the directory and ends with the blob being here, with a failure
 * or with nobody wanting it. Whoever comes when a round is ending gets a next one. Inside a round,
 * a generation is the time during which one piece list is believed: when it turns out wrong all is
 * forgotten and the sessions ask anew. */
#ifndef CAIRN_P2P_FILL_H
#define CAIRN_P2P_FILL_H

#include "cache/pieces.h"
#include "p2p/plan.h"
#include "p2p/swarm.h"
#include "peer.pb-c.h"

#define CAIRN_FILL_SOURCES_MAX 1024 /* addresses that one round has heard of */

struct cairn_session;

struct cairn_want {
	struct cairn_swarm_fill *fill; /* counted; NULL: it was decided at once, and is immutable */
	bool may_fetch;
	int64_t begun_us; /* when it was asked */
	/* guarded by fill->mu */
	struct cairn_want *next;
	enum cairn_want_state state;
	uint64_t done; /* as it was when the state became final */
	struct cairn_err why;
	bool told; /* the watch knows of the present state */
	bool calling;
	void (*fn)(void *arg);
	void *arg;
};

struct cairn_fill_source {
	char address[CAIRN_ADDRESS_MAX];
};

struct cairn_swarm_fill {
	struct cairn_swarm *swarm;
	struct cairn_digest digest;
	uint64_t size;
	uint32_t count; /* of pieces */
	size_t entry;	/* bytes of an entry of the list */
	_Atomic unsigned refs;
	struct cairn_swarm_fill *next; /* guarded by swarm->mu */

	/* the coordinator's own */
	bool has_place; /* among the queued grants of the node */
	bool counted;	/* in swarm->n_pulling */

	pthread_mutex_t
		mu; /* guards all below; what only the coordinator writes, it reads without */
	pthread_cond_t changed;
	bool poked; /* the coordinator is to look again */
	struct cairn_want *wants;

	/* ---- the round */
	bool asked; /* the directory has answered once */
	int64_t begun_ms, asked_ms, ask_at_ms;
	bool silent;		/* the last question was not answered */
	uint32_t asked_in_vain; /* answers in a row that told nothing new */
	struct cairn_grant grant;
	int64_t grant_seen_ms;	    /* when that version was seen first */
	int64_t node_seen_ms;	    /* when that node's grant was */
	struct cairn_want *granted; /* who fetches; NULL: nobody here does */
	bool grant_over;	    /* he has let go of it */
	bool wants_place;	    /* among the queued grants of the node; there was none */
	uint64_t local_bytes;	    /* that who fetches has got */
	int64_t local_ms, kept_ms;  /* when that changed; when the directory was told ... */
	uint64_t kept_bytes;	    /* ... of so many */
	bool lost_grant;	    /* somebody took it from us */
	int64_t take_at_ms;	    /* not before */
	bool failed;		    /* the round has: why is set */
	bool pull_failed;	    /* but somebody fetches: only he is waited for */
	bool wrong;		    /* the bytes that came are not the digest's */
	struct cairn_err why;

	/* ---- from peers */
	bool pulling; /* sessions are to run */
	struct cairn_plan *plan;
	struct cairn_pieces *pieces; /* NULL: not open */
	unsigned users;		     /* of pieces, but for sessions */
	struct cairn_fill_source *sources;
	uint32_t n_sources;
	struct cairn_session *sessions;
	unsigned n_opening, n_talking; /* sessions of this round */
	bool idle;		       /* none is, and none is to be tried now */
	bool no_room;		       /* all sessions of the node are taken */
	int64_t busy_until_ms;	       /* a source that has it is busy until then */
	uint64_t received;	       /* bytes of this round */
	int64_t received_ms;	       /* when the last came */
	uint64_t window_bytes;	       /* received at window_ms */
	bool slow;		       /* bytes come more slowly than min_rate: measured ... */
	int64_t window_ms, slow_ms;    /* ... since then, over so long */
	uint64_t window_grant_bytes;   /* the grant's at window_ms */
	struct cairn_speed speed;

	/* ---- the list */
	uint64_t gen;	 /* changes with each list that is begun */
	bool forgetting; /* the coordinator is at it: nothing is merged */
	bool replace;	 /* it is to be forgotten */
	uint8_t *list;	 /* owned; (count - 1) entries */
	uint32_t list_n; /* entries that are known, from the first */
	bool proven;	 /* its maker had the whole blob */
	bool doubted;	 /* only proven lists are believed */
	char originator[CAIRN_ADDRESS_MAX];
	uint32_t vouchers; /* sessions that told the same list */
	uint32_t rivals;   /* sources that told another, and were sent away */
	uint32_t replaced; /* times in this round */
};

/* ---- fill.c */

/* With one reference; not in the table, no thread. */
struct cairn_swarm_fill *cairn_swarm_fill_new(struct cairn_swarm *swarm,
					      const struct cairn_digest *digest, uint64_t size);
struct cairn_swarm_fill *cairn_swarm_fill_ref(struct cairn_swarm_fill *f);
void cairn_swarm_fill_unref(struct cairn_swarm_fill *f); /* NULL is fine */
void *cairn_swarm_fill_main(void *arg);			 /* owns a reference */
void cairn_swarm_fill_poke(struct cairn_swarm_fill *f);	 /* look again */
void cairn_swarm_fill_poke_locked(struct cairn_swarm_fill *f);
/* Ask the directory soon: something that it said is not so any more. */
void cairn_swarm_fill_ask_soon_locked(struct cairn_swarm_fill *f);
/* The round ends with that. */
void cairn_swarm_fill_fail_locked(struct cairn_swarm_fill *f, const struct cairn_err *why);
/* The plan's number of an address, and whether it is one to learn of. */
bool cairn_swarm_fill_learn_locked(struct cairn_swarm_fill *f, const char *address, bool whole,
				   int64_t now_ms);
/* The fill for that digest and size, if there is one; counted. */
struct cairn_swarm_fill *cairn_swarm_find_fill(struct cairn_swarm *swarm,
					       const struct cairn_digest *digest);

/* The list that its maker told was not the digest's: shun him, believe only proven ones, fail. */
void cairn_swarm_fill_wrong(struct cairn_swarm_fill *f, const char *maker);

/* Bytes of pieces that are there, for a server. False: they are not. Blocks for the disk. */
bool cairn_swarm_fill_read(struct cairn_swarm_fill *f, uint32_t piece, uint64_t offset, void *buf,
			   size_t n);

/* ---- want.c */

/* Whoever wants it still, and has not been told how it ended. */
bool cairn_swarm_fill_wanted_locked(const struct cairn_swarm_fill *f);
/* Somebody who could fetch it and does not yet; NULL: nobody. */
struct cairn_want *cairn_swarm_fill_candidate_locked(const struct cairn_swarm_fill *f);
/* Somebody wants it who does not fetch it himself. */
bool cairn_swarm_fill_waited_locked(const struct cairn_swarm_fill *f);
/* Tell everybody who is not granted how it stands. */
void cairn_swarm_fill_tell_locked(struct cairn_swarm_fill *f, enum cairn_want_state state);
void cairn_swarm_fill_grant_locked(struct cairn_swarm_fill *f, struct cairn_want *want);
/* All of them, but that one (may be NULL): HERE or FAILED. */
void cairn_swarm_fill_end_locked(struct cairn_swarm_fill *f, enum cairn_want_state state,
				 const struct cairn_err *why, const struct cairn_want *but);
/* Call the watches of those whose state has changed. Without the lock. */
void cairn_swarm_fill_notify(struct cairn_swarm_fill *f);

/* ---- fill_list.c: all with the fill's lock, but for recover */

enum cairn_merge {
	CAIRN_MERGE_OK,
	CAIRN_MERGE_BAD,      /* it says what cannot be: whoever sent it lies */
	CAIRN_MERGE_UNUSABLE, /* it may be right, but is not proven, or its maker is shunned */
	CAIRN_MERGE_RIVAL,    /* it may be right, but contradicts what we believe */
	CAIRN_MERGE_AGAIN,    /* what we believe is to be forgotten: then describe again */
};

/* What a source says, in the order in which it says it. */
struct cairn_told {
	uint32_t source;     /* in the plan; open */
	const char *address; /* its own */
	uint32_t n;	     /* entries that it has told */
	bool vouches;	     /* for our list: counted */
	bool whole;	     /* that it has all: of what it lost since, that is no news */
	uint64_t gen;	     /* when it began to tell */
};

/* News of a source: its list and what it has. [*ret_from, *ret_to): pieces that can be proved
 * since; they are for the caller to recover. */
enum cairn_merge cairn_fill_merge_locked(struct cairn_swarm_fill *f, struct cairn_told *told,
					 const Cairn__Peer__V1__Description *msg,
					 uint32_t *ret_from, uint32_t *ret_to);
void cairn_fill_unvouch_locked(struct cairn_swarm_fill *f, struct cairn_told *told);
/* The entries beside a piece; NULL where there is none. */
const uint8_t *cairn_fill_before_locked(const struct cairn_swarm_fill *f, uint32_t piece);
const uint8_t *cairn_fill_after_locked(const struct cairn_swarm_fill *f, uint32_t piece);
/* Look for these pieces on disk; those that are not there may be asked for. Blocks. */
void cairn_fill_recover(struct cairn_swarm_fill *f, uint64_t gen, uint32_t from, uint32_t to);

#endif
