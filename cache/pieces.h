/* Pieces: how a blob comes from several others at once, and how one that is still coming is handed
 * on.
 *
 * The piece list of a blob is its hash chain (base/digest.h) seen at the ends of its pieces: entry
 * k is the state after piece k, for every piece but the last, whose end is the digest itself. So a
 * piece is proved by the entry before it, its bytes and the entry after it, in any order; and when
 * every piece is proved, and each begins with the state with which the one before it ended, the
 * whole blob is, without being hashed again. A list is a function of the blob's bytes alone: two
 * nodes that have the same bytes make the same one.
 *
 * Threads: see each type. Knows nothing of networks. */
#ifndef CAIRN_CACHE_PIECES_H
#define CAIRN_CACHE_PIECES_H

#include "cache/cache.h"

/* ---- geometry: part of the peer protocol ------------------------------------------------------
 */

#define CAIRN_PIECES_MAX 16384
#define CAIRN_PIECE_MIN (UINT64_C(1) << 20)
#define CAIRN_PIECE_MAX (UINT64_C(16) << 20)

/* Bytes of a piece of a blob of that size: the smallest power of two from CAIRN_PIECE_MIN on that
 * makes at most CAIRN_PIECES_MAX pieces. 0: the blob is empty, or too large to come in pieces. */
uint64_t cairn_piece_size(uint64_t blob_size);
/* 0 as above. */
uint32_t cairn_piece_count(uint64_t blob_size);
/* Bytes of piece k, which is there. */
uint64_t cairn_piece_length(uint64_t blob_size, uint32_t k);

/* ---- a whole blob -----------------------------------------------------------------------------
 */

/* Entries of the list of an open blob: (count - 1) * cairn_alg_bytes(alg) bytes, malloced; NULL if
 * it has one piece. Blocks (reads the index; hashes the file where that has no chain).
 * Errors: DATA_LOSS, FAILED_PRECONDITION (too large), INTERNAL. */
CAIRN_CHECKED enum cairn_code cairn_blob_piece_list(struct cairn_blob *blob, uint8_t **ret,
						    struct cairn_err *err);

/* ---- bytes that come in order: what a pull or a fill from a registry has so far -----------------
 * A look at an ingest, be it a client's or the store's own, whose ref stands for the digest and
 * which has the total: the furthest of them. It does not keep the ingest from growing, being
 * published, restarted or aborted; after the latter two it is stale, and what it gave is nobody's
 * truth. */

struct cairn_partial; /* Threads: one at a time */

/* NULL: there is none (which has a whole piece). Found also while it is being published. Memory
 * only but for open(2), two at most. */
struct cairn_partial *cairn_partial_find(struct cairn_cache *cache,
					 const struct cairn_digest *digest, uint64_t size);
void cairn_partial_free(struct cairn_partial *partial); /* NULL is fine */

enum cairn_partial_state {
	CAIRN_PARTIAL_GROWS, /* ret_pieces pieces are there */
	CAIRN_PARTIAL_WHOLE, /* published: look for the blob itself; its bytes can be read here, too
			      */
	CAIRN_PARTIAL_STALE, /* restarted, aborted, closed, or it turned out not to be the digest */
};
/* *ret_pieces: how many pieces are there, from the first on. Memory only. */
enum cairn_partial_state cairn_partial_look(struct cairn_partial *partial, uint32_t *ret_pieces);

/* Copy the entries [from, from + n) of its list; all must be of pieces that are there. */
CAIRN_CHECKED bool cairn_partial_list(struct cairn_partial *partial, uint32_t from, uint32_t n,
				      uint8_t *ret);

/* Exactly n bytes at offset, all of pieces that are there. Not proved again. Blocks.
 * Errors: INTERNAL. */
CAIRN_CHECKED enum cairn_code cairn_partial_read(struct cairn_partial *partial, uint64_t offset,
						 void *buf, size_t n, struct cairn_err *err);

/* ---- bytes that come in any order: a fill from peers -------------------------------------------
 * A file of the store's own, one a digest, that survives restarts without any record: whatever of
 * it proves against the list is there, the rest is not. Files that nobody has opened or closed for
 * long, in boot time, or since the start, are dropped with abandoned ingests
 * (cairn_cache_expire_ingests). What they take on disk counts as ingest_bytes. */

struct cairn_pieces; /* Threads: internally locked; calls on different pieces run side by side */

/* What is on disk of it with another size is dropped. Blocks.
 * Errors: UNAVAILABLE (open already), FAILED_PRECONDITION (too large), INVALID_ARGUMENT (size 0,
 * no digest), RESOURCE_EXHAUSTED (disk, or CAIRN_INGESTS_MAX such files), INTERNAL. */
CAIRN_CHECKED enum cairn_code cairn_pieces_open(struct cairn_cache *cache,
						const struct cairn_digest *digest, uint64_t size,
						struct cairn_pieces **ret, struct cairn_err *err);

/* Give it back. keep: what is there stays on disk for who opens it next; else it is dropped. After
 * a publish neither matters. NULL is fine. */
void cairn_pieces_close(struct cairn_pieces *pieces, bool keep);

/* A piece that is being written: bytes go to the disk and into the hash as they come, from the
 * first on, in parts of any size. Owner thread only. Two may be written at once, even of one piece
 * (the end of a transfer asks twice): the file has its right bytes once either of them has ended
 * well. The second writer of a piece keeps its bytes in memory, so that wrong ones of one writer
 * never lie over right ones of another. */
struct cairn_piece_writer {
	struct cairn_pieces *pieces;
	uint32_t k;
	uint64_t done; /* bytes so far */
	struct cairn_hasher hasher;
	uint8_t *inner; /* owned: the state before the piece, and those inside */
	uint8_t *kept;	/* owned: the bytes, where another writes this piece into the file */
	bool in_file;	/* this one does */
	uint64_t epoch; /* how often pieces had been forgotten */
};

/* before: the list's entry k - 1 (ignored for piece 0). */
void cairn_piece_begin(struct cairn_pieces *pieces, uint32_t k, const uint8_t *before,
		       struct cairn_piece_writer *ret);
/* Errors: OUT_OF_RANGE (more than the piece has), RESOURCE_EXHAUSTED, INTERNAL. */
CAIRN_CHECKED enum cairn_code cairn_piece_write(struct cairn_piece_writer *writer, const void *data,
						size_t n, struct cairn_err *err);
/* Prove it. after: the list's entry k (ignored for the last piece: it is the digest). On OK the
 * piece is there. Always ends the writer. Errors: DATA_LOSS (the bytes are not those, or too few),
 * ABORTED (cairn_pieces_forget since the beginning), RESOURCE_EXHAUSTED, INTERNAL. */
CAIRN_CHECKED enum cairn_code cairn_piece_end(struct cairn_piece_writer *writer,
					      const uint8_t *after, struct cairn_err *err);
void cairn_piece_abandon(struct cairn_piece_writer *writer);

/* Is piece k on disk from an earlier time? Reads and proves it against the list's entries; then it
 * is there. Holes cost nothing; what is being written is left alone (false). Blocks. */
bool cairn_pieces_recover(struct cairn_pieces *pieces, uint32_t k, const uint8_t *before,
			  const uint8_t *after);

/* Is it there? Memory only. */
bool cairn_pieces_has(struct cairn_pieces *pieces, uint32_t k);
uint32_t cairn_pieces_done(struct cairn_pieces *pieces);

/* Forget every piece that is there: the list that proved them was wrong. */
void cairn_pieces_forget(struct cairn_pieces *pieces);

/* Exactly n bytes at offset, all of pieces that are there. Blocks. Errors: INTERNAL (they are not,
 * or not any more; the disk). */
CAIRN_CHECKED enum cairn_code cairn_pieces_read(struct cairn_pieces *pieces, uint64_t offset,
						void *buf, size_t n, struct cairn_err *err);

/* All are there: check that the chain has no break, flush, rename, and have the blob CACHED; a
 * damaged one of that digest is healed. What is there can be read afterwards, too. Blocks. Errors:
 * DATA_LOSS (the chain breaks: each piece is what its list said, but they do not make the digest;
 * nothing is there any more), FAILED_PRECONDITION (not all are there), RESOURCE_EXHAUSTED, INTERNAL
 * (after a flush that failed the file is gone and nothing can be written: close, and open again).
 */
CAIRN_CHECKED enum cairn_code cairn_pieces_publish(struct cairn_pieces *pieces,
						   struct cairn_err *err);

/* ---- being told --------------------------------------------------------------------------------
 */

enum cairn_cache_event {
	CAIRN_EVENT_ADDED, /* a whole blob is here that was not; value: its size */
	CAIRN_EVENT_GONE,  /* it is not here any more, or was found damaged */
	CAIRN_EVENT_GREW,  /* an ingest of that want passed the end of a MiB, is complete, or was
			    * opened with such bytes; value: its offset */
	CAIRN_EVENT_ENDED, /* an ingest of that want, with bytes, was closed, aborted or restarted,
			    * unpublished */
	CAIRN_EVENT_WRONG, /* an ingest of that want reached its total and is something else */
	CAIRN_EVENT_LOST,  /* more than CAIRN_EVENTS_MAX waited to be told, and were dropped: look
			    * again at everything; the digest is all zero */
};

/* That may wait for an observer who does not come back from a call: about 1.5 MiB. */
#define CAIRN_EVENTS_MAX 16384u

/* Called soon after the fact, by one thread of the store with no lock held; it must not block. They
 * say "look again": what happened may have been followed by something else already. */
typedef void cairn_cache_event_fn(void *arg, enum cairn_cache_event event,
				  const struct cairn_digest *digest, uint64_t value);

/* Once, after the open and before anything else happens; NULL ends it, and waits until no call
 * runs (so not from a call). */
void cairn_cache_observe(struct cairn_cache *cache, cairn_cache_event_fn *fn, void *arg);

#endif
