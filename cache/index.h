/* index.db: the only user of SQLite. Rows in, rows out; knows nothing of locks, files or threads.
 *
 * Schema 2 (user_version 2):
 *   meta(key, value)      'clean': 1 only between an orderly end and the next open
 *                         'age': the store's own time (cairn_cache_now_ns) at the last write
 *   blob(digest, ...)     one row per blob; digest = algorithm byte, then its 32 or 64 bytes
 *   chain(digest, states) the hash chain of a blob of more than CAIRN_CHAIN_STEP bytes
 *   ingest(id, ...)       the last checkpoint of an unfinished ingest, whose data is ingest/<id>
 *   ingest_chain(id, first, states)  its chain, in the segments in which checkpoints appended it
 *   version(name, root, ...)  a manifest that an image name stood for, and what it needs
 *   pin(target, ...)      what an admin wants kept
 * Schema 1 had no ages, versions and pins; used_ns was real time, with which the age begins.
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

#define INDEX_SCHEMA 2

struct index;

struct blob_row {
	struct cairn_digest digest;
	uint64_t size;
	int state;
	bool damaged, known;
	int64_t created_ns, updated_ns; /* real time */
	int64_t used_ns;		/* store time */
	const void *labels;		/* key NUL value NUL ... */
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

struct version_row {
	const char *name;
	struct cairn_digest root;
	int64_t first_ns, last_ns;	     /* store time */
	int64_t first_real_ns, last_real_ns; /* real time */
	bool complete;
	const void *needs; /* algorithm byte, digest, size (8 bytes, big endian) ... */
	size_t needs_len;
};

struct pin_row {
	const char *target;
	int64_t since_ns, until_ns; /* store time; until 0: for ever */
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

CAIRN_CHECKED enum cairn_code
index_load_versions(struct index *x, void (*fn)(void *arg, const struct version_row *row),
		    void *arg, struct cairn_err *err);
CAIRN_CHECKED enum cairn_code index_load_pins(struct index *x,
					      void (*fn)(void *arg, const struct pin_row *row),
					      void *arg, struct cairn_err *err);

/* The age at the last write; 0: none was written yet. */
CAIRN_CHECKED enum cairn_code index_load_age(struct index *x, int64_t *ret, struct cairn_err *err);

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
/* The row alone; the chain stays, for the case that the file is found again. */
void index_del_blob_row(struct index *x, const struct cairn_digest *digest);
void index_drop_orphan_chains(struct index *x);
void index_put_ingest(struct index *x, const struct ingest_row *row);
void index_del_ingest(struct index *x, uint64_t id);
void index_reference_all(struct index *x);
void index_put_version(struct index *x, const struct version_row *row);
void index_del_version(struct index *x, const char *name, const struct cairn_digest *root);
void index_put_pin(struct index *x, const struct pin_row *row);
void index_del_pin(struct index *x, const char *target);
void index_put_age(struct index *x, int64_t age_ns);
CAIRN_CHECKED enum cairn_code index_commit(struct index *x, struct cairn_err *err);

/* From now on a commit returns when it is durable (or again, as usual, when it is consistent).
 * Ends a transaction that is open still. */
CAIRN_CHECKED enum cairn_code index_set_durable(struct index *x, bool durable,
						struct cairn_err *err);

/* Bring what the log has into the database, so that the next transaction begins at the log's start
 * again. The log keeps its size: on a full disk its room is what there is to write in. If it cannot
 * be done, nothing changes. */
void index_reuse_log(struct index *x);

/* Write meta.clean, flushed, and bring everything into the main database file if no stranger reads
 * it. */
CAIRN_CHECKED enum cairn_code index_mark(struct index *x, bool clean, struct cairn_err *err);

#endif
