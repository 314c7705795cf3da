/* index.db: the only user of SQLite. Rows in, rows out; knows nothing of locks, files or threads.
 *
 * Schema 1 (user_version 1):
 *   meta(key, value)      'clean': 1 only between an orderly end and the next open
 *   blob(digest, ...)     one row per blob; digest = algorithm byte, then its 32 or 64 bytes
 *   chain(digest, states) the hash chain of a blob of more than CAIRN_CHAIN_STEP bytes
 *   ingest(id, ...)       the last checkpoint of an unfinished ingest, whose data is ingest/<id>
 *   ingest_chain(id, first, states)  its chain, in the segments in which checkpoints appended it
 *
 * Power loss may take the tail of the log (synchronous=NORMAL), never the database's consistency.
 * Threads: one at a time; index_load_chain may run beside the others (it has its own connection).
 */
#ifndef CAIRN_CACHE_INDEX_H
#define CAIRN_CACHE_INDEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/digest.h"
#include "base/err.h"
#include "base/own.h"

#define INDEX_SCHEMA 1

struct index;

struct blob_row {
	struct cairn_digest digest;
	uint64_t size;
	int state;
	bool damaged;
	int64_t created_ns, updated_ns, used_ns; /* real time */
	const void *labels;			 /* key NUL value NUL ... */
	size_t labels_len;
	const void *owners; /* name NUL ... */
	size_t owners_len;
};

struct ingest_row {
	uint64_t id;
	const char *ref, *owner; /* owner NULL: unknown */
	uint64_t total, offset;
	uint8_t alg; /* of the chain */
	struct cairn_digest expected, want;
	struct cairn_digest published; /* alg 0: the data is private */
	int64_t started_ns, updated_ns;
	const void *states; /* all of them when loading, those since the last put when putting */
	size_t states_len;
	size_t states_first; /* how many were put before; 0 replaces */
};

enum index_found { INDEX_CLEAN, INDEX_UNCLEAN, INDEX_NEW, INDEX_DAMAGED };

/* Open dir/index.db, or make it. A damaged one is moved aside and made anew (INDEX_DAMAGED).
 * Errors: FAILED_PRECONDITION (newer schema; nothing was changed), INTERNAL, RESOURCE_EXHAUSTED. */
CAIRN_CHECKED enum cairn_code index_open(const char *dir, int64_t now_ns, struct index **ret,
					 enum index_found *found, struct cairn_err *err);
void index_close(struct index *x);

/* Call fn for each row; what it is given is borrowed for the call. Returns DATA_LOSS if the
 * database turns out damaged: then index_rebuild. */
CAIRN_CHECKED enum cairn_code index_load_blobs(struct index *x,
					       void (*fn)(void *arg, const struct blob_row *row),
					       void *arg, struct cairn_err *err);
CAIRN_CHECKED enum cairn_code
index_load_ingests(struct index *x, void (*fn)(void *arg, const struct ingest_row *row), void *arg,
		   struct cairn_err *err);

/* Move the damaged database aside and start an empty one. */
CAIRN_CHECKED enum cairn_code index_rebuild(struct index *x, int64_t now_ns, struct cairn_err *err);

/* The chain of a blob, malloced; *ret NULL and *len 0 if there is none. Failures count as none. */
void index_load_chain(struct index *x, const struct cairn_digest *digest, uint8_t **ret,
		      size_t *len);

/* Rows between index_begin and index_commit are one transaction; index_rollback undoes it.
 * index_put_* and index_del_* fail silently until index_commit, which reports the first failure. */
void index_begin(struct index *x);
void index_put_blob(struct index *x, const struct blob_row *row);
void index_put_chain(struct index *x, const struct cairn_digest *digest, const void *states,
		     size_t len);
void index_del_blob(struct index *x, const struct cairn_digest *digest);
void index_put_ingest(struct index *x, const struct ingest_row *row);
void index_del_ingest(struct index *x, uint64_t id);
void index_reference_all(struct index *x);
CAIRN_CHECKED enum cairn_code index_commit(struct index *x, struct cairn_err *err);

/* Write meta.clean, flushed, and bring everything into the main database file if no stranger reads
 * it. */
CAIRN_CHECKED enum cairn_code index_mark(struct index *x, bool clean, struct cairn_err *err);

#endif
