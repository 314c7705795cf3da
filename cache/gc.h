/* What garbage collection decides: a pure function of what is here, what is needed and how full the
 * disk is. It asks nobody, touches nothing and has no clock, so that its rules are tested without
 * disk or daemon. docs/design.md, "Garbage collection", has the reasons for the rules.
 *
 * In the order of strength:
 *   1. A blob that is referenced, busy, or held by a hard hold (a lease, a container, an image
 *      record, a pin) stays.
 *   2. Without a complete answer of who records what (sure false), a blob that anybody ever had a
 *      record of stays.
 *   3. What is asked to be pruned goes, unless a kept version needs it too.
 *   4. A blob that a kept version needs stays. Under pressure kept versions are given up, the one
 *      that was current longest ago first, when nothing else is left to go.
 *   5. What was not used for keep_ns goes. Under pressure the rest follows, least recently used
 *      first, until to_free bytes are freed and no further.
 *
 * Threads: immutable. */
#ifndef CAIRN_CACHE_GC_H
#define CAIRN_CACHE_GC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/digest.h"

/* ---- the disk ----------------------------------------------------------------------------------
 */

/* A share of the file system's size, or a number of bytes of the store's own data. */
struct cairn_gc_mark {
	bool is_percent; /* value is 0 to 100 */
	uint64_t value;
};

/* high and low are of one kind. min_free, of either kind, is about the file system always. */
struct cairn_gc_marks {
	struct cairn_gc_mark high, low, min_free;
};

/* In bytes. free is what an unprivileged process may still write, as df and kubelet count it. */
struct cairn_gc_disk {
	uint64_t total, free;
	uint64_t own; /* the store's blobs and ingests */
};

/* How many bytes must go to reach the high (or low) mark; 0: it is not exceeded. A percentage
 * counts everybody's files. Below absolute marks, min_free is a floor: what lacks there counts for
 * both. */
uint64_t cairn_gc_over_high(const struct cairn_gc_marks *marks, const struct cairn_gc_disk *disk);
uint64_t cairn_gc_over_low(const struct cairn_gc_marks *marks, const struct cairn_gc_disk *disk);

/* How many bytes those may still write who are not waited for: all that is free beyond min_free. */
uint64_t cairn_gc_writable(const struct cairn_gc_marks *marks, const struct cairn_gc_disk *disk);

/* ---- the decision ------------------------------------------------------------------------------
 */

enum cairn_gc_why {
	/* it stays because ... (the strongest reason is told) */
	CAIRN_GC_REFERENCED = 1, /* somebody may have a record of it */
	CAIRN_GC_BUSY,		 /* it is read, served, filled or promised */
	CAIRN_GC_LEASE,		 /* what: the lease's id */
	CAIRN_GC_CONTAINER,	 /* what: the container's id */
	CAIRN_GC_IMAGE,		 /* what: the image's name */
	CAIRN_GC_PIN,		 /* what: what was pinned */
	CAIRN_GC_UNSURE,	 /* nobody could say whether it is needed */
	CAIRN_GC_VERSION,	 /* what: the image name whose kept version needs it */
	CAIRN_GC_YOUNG,		 /* it was used lately */
	CAIRN_GC_LATER,		 /* it was to go, and the pass ended before: never decided */
	/* it goes because ... */
	CAIRN_GC_TTL,	   /* unused for keep_ns */
	CAIRN_GC_PRESSURE, /* the disk is full and it was used least recently */
	CAIRN_GC_PRUNE,	   /* somebody asked */
};
#define CAIRN_GC_WHYS (CAIRN_GC_PRUNE + 1)

/* "referenced", "busy", "lease", ... as logs, metrics and cairnctl name it. */
const char *cairn_gc_why_name(enum cairn_gc_why why);
bool cairn_gc_evicts(enum cairn_gc_why why);

struct cairn_gc_blob {
	struct cairn_digest digest;
	uint64_t size;
	int64_t used_ns; /* last use, on the same clock as now_ns */
	bool referenced;
	bool busy;
	bool known; /* somebody had a record of it at some time */
};

/* Somebody's claim on blobs: CAIRN_GC_LEASE, _CONTAINER, _IMAGE or _PIN (hard), CAIRN_GC_VERSION
 * (soft), or, on the contrary, CAIRN_GC_PRUNE. Digests that are not among the blobs are fine. */
struct cairn_gc_hold {
	enum cairn_gc_why why;
	const char *what;
	int64_t last_ns; /* of a version: when it was last the current one */
	const struct cairn_digest *needs;
	size_t n;
};

struct cairn_gc_input {
	const struct cairn_gc_blob *blobs; /* no digest twice */
	size_t n_blobs;
	const struct cairn_gc_hold *holds;
	size_t n_holds;
	bool sure;
	int64_t now_ns;
	int64_t keep_ns;
	uint64_t to_free; /* 0: no pressure */
};

struct cairn_gc_decision {
	enum cairn_gc_why why;
	const char *what; /* of the hold that decided, borrowed from the input; "": none */
};

struct cairn_gc_plan {
	struct cairn_gc_decision *decisions; /* one for each blob of the input, in its order */
	size_t *order;			     /* indices of the blobs that go, first to last */
	size_t n_order;
	uint64_t bytes; /* of these */
	bool relieved;	/* they suffice for to_free */
};

/* O((blobs + needs) log blobs). Aborts when out of memory. */
void cairn_gc_decide(const struct cairn_gc_input *in, struct cairn_gc_plan *ret);
void cairn_gc_plan_fini(struct cairn_gc_plan *plan);

#endif
