/* The store: content-addressed blobs, unfinished ingests, and an index that answers from memory.
 *
 * On disk, all in one file system under state_dir:
 *   lock                  held (flock) while the store is open
 *   blobs/<alg>/<hex>     whole, verified, immutable, published by rename
 *   ingest/               unfinished data
 *   index.db              SQLite, WAL: what the files alone cannot tell
 *   reserve               nothing: space to open in when the disk is full
 *
 * A blob is CACHED (nobody outside may have a record of it) or REFERENCED (somebody may). In doubt
 * it is referenced: after an unclean end, after a lost index, and after adoption every blob is,
 * because denying a blob that somebody recorded breaks his image, while keeping one too many costs
 * space until it is released. "The store is open" is itself the durable mark of doubt (index.db,
 * meta.clean), so that no state change has to reach the disk before it is answered. docs/design.md
 * has the argument.
 *
 * Bytes are verified before they are seen: a blob is published after its hash matched and its data
 * was flushed; after a restart each piece is checked against the hash chain (base/digest.h) before
 * it is served for the first time.
 *
 * Threads: struct cairn_cache is internally locked; struct cairn_blob any thread; struct
 * cairn_ingest see there. "Memory only" functions take one short lock and never touch the disk.
 * Knows nothing of containerd or gRPC. */
#ifndef CAIRN_CACHE_CACHE_H
#define CAIRN_CACHE_CACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/clock.h"
#include "base/digest.h"
#include "base/err.h"
#include "base/own.h"
#include "base/view.h"

#define CAIRN_BLOB_SIZE_MAX (INT64_C(1) << 43) /* 8 TiB: no blob or ingest grows beyond */
#define CAIRN_REF_MAX 4096		       /* bytes of an ingest's ref */
#define CAIRN_OWNER_MAX 256		       /* bytes of an owner's name */
#define CAIRN_LABELS_MAX 256		       /* labels of one blob */
#define CAIRN_LABEL_BYTES_MAX 4096	       /* key and value together, as containerd has it */
#define CAIRN_INGESTS_MAX 16384		       /* unfinished ingests, open or not */

struct cairn_cache;

struct cairn_cache_opts {
	const char *dir;		 /* state_dir; made if absent, mode 0700 */
	const struct cairn_clock *clock; /* NULL: cairn_clock_system */
	uint64_t
		checkpoint_bytes; /* checkpoint an ingest each time it grew by so much; 0: 64 MiB */
	uint32_t sync_ms; /* how long who needs a durable row waits for the index; 0: 10 s */
};

/* Lock the directory, read or rebuild the index, drop what no checkpoint covers.
 * Errors: FAILED_PRECONDITION (another daemon holds the lock; index.db is of a newer schema),
 * INTERNAL, RESOURCE_EXHAUSTED. A damaged index is not an error: it is moved aside and rebuilt. */
CAIRN_CHECKED enum cairn_code cairn_cache_open(const struct cairn_cache_opts *opts,
					       struct cairn_cache **ret, struct cairn_err *err);

/* Checkpoint every ingest, write the index back, mark the end as clean, unlock. All blobs, ingests
 * and views must have been given back, and no other call may run, nor wait for the index. NULL is
 * fine. */
void cairn_cache_close(struct cairn_cache *cache);

struct cairn_cache_stats {
	uint64_t cached_blobs, cached_bytes;
	uint64_t referenced_blobs, referenced_bytes;
	uint64_t damaged_blobs;
	uint64_t ingests, ingest_bytes; /* files of pieces (cache/pieces.h) included */
	uint64_t disk_total_bytes, disk_free_bytes;
	uint64_t read_bytes, written_bytes; /* since open */
	bool rebuilt;			    /* the index was lost or damaged at open */
	bool recovered;			    /* the last end was not clean */
};

void cairn_cache_stats(struct cairn_cache *cache, struct cairn_cache_stats *ret);

/* ---- blobs: facts ------------------------------------------------------------------------------
 */

enum cairn_blob_state { CAIRN_BLOB_CACHED = 1, CAIRN_BLOB_REFERENCED = 2 };

struct cairn_label {
	const char *key, *value;
};

/* An immutable, counted set of labels, sorted by key. */
struct cairn_labels {
	_Atomic unsigned refs;
	size_t n;
	struct cairn_label list[];
};

struct cairn_blob_info {
	struct cairn_digest digest;
	uint64_t size;
	enum cairn_blob_state state;
	bool damaged;
	int64_t created_ns, updated_ns; /* real time */
	int64_t idle_ns;		/* since its last use, in boot time */
	struct cairn_labels *labels;	/* owned reference; NULL: none */
	char **owners;			/* NULL-terminated, owned; NULL: none */
};

void cairn_blob_info_fini(struct cairn_blob_info *info);

/* Memory only. Errors: NOT_FOUND. */
CAIRN_CHECKED enum cairn_code cairn_cache_info(struct cairn_cache *cache,
					       const struct cairn_digest *digest,
					       struct cairn_blob_info *ret, struct cairn_err *err);

/* The state alone; 0: not here. Memory only, and cheap enough for all that containerd records. */
int cairn_cache_state(struct cairn_cache *cache, const struct cairn_digest *digest,
		      bool *ret_damaged);

/* As cairn_cache_info, for those who record what they are told: only a referenced blob is found,
 * and the answer is a promise that is remembered (see cairn_cache_release_unrecorded). A damaged
 * blob is still found. ret->owners is not filled. Memory only. Errors: NOT_FOUND. */
CAIRN_CHECKED enum cairn_code cairn_cache_promise(struct cairn_cache *cache,
						  const struct cairn_digest *digest,
						  struct cairn_blob_info *ret,
						  struct cairn_err *err);

/* Walk in digest order: up to max blobs that follow *after (all zero: from the start), of the given
 * state (0: any). Nothing is held between calls; a blob that exists throughout the walk is seen
 * exactly once, however the store changes meanwhile. Returns the number filled; 0 is the end.
 * Memory only. The caller finis each. */
size_t cairn_cache_next(struct cairn_cache *cache, const struct cairn_digest *after,
			enum cairn_blob_state state, struct cairn_blob_info *ret, size_t max);

/* Labels of a referenced blob: each key is set to its value, removed if the value is "" (or NULL);
 * with replace_all, labels not named here go. Sets updated_ns. Memory only, written back soon.
 * Errors: NOT_FOUND, INVALID_ARGUMENT (limits). */
CAIRN_CHECKED enum cairn_code cairn_cache_set_labels(struct cairn_cache *cache,
						     const struct cairn_digest *digest,
						     const struct cairn_label *labels, size_t n,
						     bool replace_all, struct cairn_err *err);

/* ---- blobs: state ------------------------------------------------------------------------------
 */

/* Nobody records it any more: REFERENCED becomes CACHED, and forgets its labels; a damaged blob is
 * dropped. It was in use until now, so this is its last use. Unknown digests are fine. Memory only
 * (a dropped file is unlinked in the background). */
void cairn_cache_release(struct cairn_cache *cache, const struct cairn_digest *digest);

/* A blob that is to stay, whoever collects garbage: while it is held it is busy, as if it were
 * read, but no file is open for it. It may still be found damaged. Memory only; any thread. Returns
 * NULL if it is not here, or is damaged. */
struct cairn_blob_hold;
struct cairn_blob_hold *cairn_blob_hold(struct cairn_cache *cache,
					const struct cairn_digest *digest);
void cairn_blob_let_go(struct cairn_cache *cache, struct cairn_blob_hold *hold); /* NULL is fine */

/* One more owner of a blob that is here. Memory only. */
void cairn_cache_add_owner(struct cairn_cache *cache, const struct cairn_digest *digest,
			   const char *owner);

/* Somebody records it: CACHED becomes REFERENCED. Returns false if it is not here. Memory only. */
bool cairn_cache_reference(struct cairn_cache *cache, const struct cairn_digest *digest);

#define CAIRN_RECORD_GRACE_NS (600 * CAIRN_NS_PER_S)   /* from reference to first doubt */
#define CAIRN_PROMISE_GRACE_NS (3600 * CAIRN_NS_PER_S) /* a promise may be used so late */

/* Release a blob that two complete listings of the records lacked, the earlier of which began at
 * begun_boot_ns. Does so only if that is after the open, CAIRN_RECORD_GRACE_NS after the blob was
 * referenced, CAIRN_PROMISE_GRACE_NS after the last promise, and no ingest or reader holds it. This
 * is no use of the blob: nobody knows when its record ended, or whether it had one. After an
 * unclean end all blobs are released so, at one time; their order and their ages must outlive that.
 * Returns whether it released. Memory only. */
bool cairn_cache_release_unrecorded(struct cairn_cache *cache, const struct cairn_digest *digest,
				    int64_t begun_boot_ns);

/* ---- blobs: bytes ------------------------------------------------------------------------------
 */

struct cairn_blob; /* an open blob: pins it; its file is opened once and shared */

/* Any state. Memory only when the blob was open lately, else one open(2) and fstat(2).
 * Errors: NOT_FOUND; DATA_LOSS (damaged or its file is gone: names digest and remedy). */
CAIRN_CHECKED enum cairn_code cairn_blob_open(struct cairn_cache *cache,
					      const struct cairn_digest *digest,
					      struct cairn_blob **ret, struct cairn_err *err);
void cairn_blob_close(struct cairn_blob *blob); /* NULL is fine */
uint64_t cairn_blob_size(const struct cairn_blob *blob);

enum cairn_view_outcome {
	CAIRN_VIEW_OK,
	CAIRN_VIEW_WOULD_BLOCK, /* only with may_block false: needs the disk or a hash check */
	CAIRN_VIEW_FAILED,	/* err is set: OUT_OF_RANGE (offset >= size), DATA_LOSS, INTERNAL */
};

/* Verified bytes at offset: at least 1, at most len, as many as one mapping holds. The view
 * outlives the blob handle. With may_block false it answers only from what is verified and in the
 * page cache. A changed or unreadable file is DATA_LOSS, marks the blob damaged, and is logged. */
CAIRN_CHECKED enum cairn_view_outcome cairn_blob_view(struct cairn_blob *blob, uint64_t offset,
						      uint64_t len, bool may_block,
						      struct cairn_view *ret,
						      struct cairn_err *err);

/* Prove every piece that was not proved since the start: what a view would do on first use. go_on
 * (may be NULL) is asked every few MiB. Errors: DATA_LOSS, CANCELLED (it said no), INTERNAL.
 * Blocks. */
CAIRN_CHECKED enum cairn_code cairn_blob_prove(struct cairn_blob *blob, bool (*go_on)(void *arg),
					       void *arg, struct cairn_err *err);

/* Hash the whole file again. What does not match is taken out of service: a cached blob is dropped,
 * a referenced one marked damaged. progress (may be NULL) is called with the bytes hashed since its
 * last call and may return false to stop (CANCELLED).
 * Errors: NOT_FOUND, DATA_LOSS (the finding), CANCELLED, INTERNAL. Blocks. */
CAIRN_CHECKED enum cairn_code cairn_cache_verify(struct cairn_cache *cache,
						 const struct cairn_digest *digest,
						 bool (*progress)(void *arg, uint64_t bytes),
						 void *arg, struct cairn_err *err);

enum cairn_adopt { CAIRN_ADOPT_PRESENT, CAIRN_ADOPT_LINKED, CAIRN_ADOPT_COPIED };

/* Take a file of somebody else's store: hash it, link it (or copy it to another file system),
 * publish it as REFERENCED. The source is not changed. Present and undamaged blobs are only
 * referenced. Errors: DATA_LOSS (the file is not what its digest says), CANCELLED,
 * RESOURCE_EXHAUSTED, INTERNAL. Blocks. */
CAIRN_CHECKED enum cairn_code cairn_cache_adopt(struct cairn_cache *cache,
						const struct cairn_digest *digest, const char *path,
						bool (*progress)(void *arg, uint64_t bytes),
						void *arg, enum cairn_adopt *ret,
						struct cairn_err *err);

/* Give a blob's file to somebody else's store at path (absent, its folder exists): a hard link, or
 * a copy that is verified on the way, flushed and renamed into place. Errors: as cairn_cache_adopt,
 * NOT_FOUND. Blocks. */
CAIRN_CHECKED enum cairn_code cairn_cache_give(struct cairn_cache *cache,
					       const struct cairn_digest *digest, const char *path,
					       bool (*progress)(void *arg, uint64_t bytes),
					       void *arg, enum cairn_adopt *ret,
					       struct cairn_err *err);

/* ---- ingests -----------------------------------------------------------------------------------
 */

struct cairn_ingest_status {
	char ref[CAIRN_REF_MAX + 1];
	uint64_t offset;
	uint64_t total;			/* 0: unknown */
	struct cairn_digest expected;	/* alg 0: none said */
	struct cairn_digest running;	/* of the bytes so far */
	int64_t started_ns, updated_ns; /* real time */
};

struct cairn_ingest_spec {
	const char *ref;
	const char *owner; /* who asks; NULL: unknown. Becomes one of the blob's owners at commit */
	uint64_t total;	   /* 0: unknown */
	/* The digest that the ref stands for, alg 0 for none. With one, the blob is published in
	 * the write that reaches total, and a blob that is here already may prefill the ingest. */
	struct cairn_digest want;
	bool prefill; /* allow that */
	bool own;     /* the store's own, for bytes that it gets for itself: its ref is in a space
		       * apart, which no walk, status or abort by ref reaches */
	bool owners_only; /* allow it only if owner is one of the blob's owners */
};

/* One writer's session on a ref. Threads: one at a time, but cairn_ingest_get_status and
 * cairn_ingest_close may be called while another call runs. */
struct cairn_ingest;

/* Open a new or unfinished ingest and lock its ref. An unfinished ingest goes on at its offset,
 * with its times; if total is known and differs from before, it starts again at 0. With prefill and
 * the blob here (undamaged, size == total): offset == total at once, and the blob is pinned. Memory
 * only. Errors: UNAVAILABLE (another writer has the ref), INVALID_ARGUMENT, RESOURCE_EXHAUSTED
 * (CAIRN_INGESTS_MAX). */
CAIRN_CHECKED enum cairn_code cairn_ingest_open(struct cairn_cache *cache,
						const struct cairn_ingest_spec *spec,
						struct cairn_ingest **ret, struct cairn_err *err);

/* Memory only. After cairn_cache_abort of its ref, a commit, or a close: ABORTED. */
CAIRN_CHECKED enum cairn_code cairn_ingest_get_status(struct cairn_ingest *ing,
						      struct cairn_ingest_status *ret,
						      struct cairn_err *err);

/* Later messages may correct these: total 0 and alg 0 leave them as they are. Memory only. */
void cairn_ingest_expect(struct cairn_ingest *ing, uint64_t total,
			 const struct cairn_digest *expected);

/* As prefill at the opening, for a blob that came since: offset becomes total, and the blob is
 * pinned. Only before the first write of the session. Returns whether it did. Memory only. */
bool cairn_ingest_prefill(struct cairn_ingest *ing, bool owners_only);

/* Make sure of a prefilled ingest's promise while its writer may still be told: the blob's file is
 * there and every piece is proved. Anything but a prefilled or published ingest is OK at once.
 * Errors: DATA_LOSS (the blob is out of service; opened again, the ref starts at 0), ABORTED,
 * INTERNAL. Blocks. */
CAIRN_CHECKED enum cairn_code cairn_ingest_confirm(struct cairn_ingest *ing, struct cairn_err *err);

/* Append at offset, which must be the current one; 0 on a non-empty ingest starts again. No bytes:
 * only that. On a prefilled ingest it begins a private copy first; a cached blob is never written
 * to. The write that reaches total flushes the data and, when it has the wanted digest, publishes
 * the blob as CACHED; when it has not, the ingest stays as it is. total is not a limit. Errors:
 * OUT_OF_RANGE, RESOURCE_EXHAUSTED (disk; what was there stays), ABORTED (see above), INTERNAL.
 * Blocks. */
CAIRN_CHECKED enum cairn_code cairn_ingest_write(struct cairn_ingest *ing, uint64_t offset,
						 const struct cairn_span *spans, size_t n,
						 struct cairn_err *err);

/* Does the commit need no disk? True when the blob is published already. Memory only. */
bool cairn_ingest_is_published(struct cairn_ingest *ing);

/* Make the ingest a REFERENCED blob and end it. offset must be the current one, or, on a published
 * ingest, 0. total > 0 and expected (alg != 0) must match. ret gets size and digest, also with
 * ALREADY_EXISTS. The ref is free when this returns.
 * Errors: FAILED_PRECONDITION (size, digest; the ingest and its data stay), ALREADY_EXISTS (the
 * blob was referenced already; the ingest is gone), OUT_OF_RANGE, ABORTED, RESOURCE_EXHAUSTED,
 * DATA_LOSS (the published blob was found damaged meanwhile; the ingest is empty again), INTERNAL.
 * After any of them the ingest must still be closed. Blocks unless published (but if expected is of
 * another algorithm than the published digest, it blocks). */
CAIRN_CHECKED enum cairn_code cairn_ingest_commit(struct cairn_ingest *ing, uint64_t offset,
						  uint64_t total,
						  const struct cairn_digest *expected,
						  struct cairn_ingest_status *ret,
						  struct cairn_err *err);

/* End the session and give this handle back: the ref is free at once, data and times stay
 * (checkpointed in the background).
 * A write or commit that still runs on another thread ends without effect on what a later writer of
 * the ref was told. NULL is fine. Memory only. */
void cairn_ingest_close(struct cairn_ingest *ing);

/* Keep the session's memory beyond cairn_ingest_close, for a write or commit that is handed to
 * another thread and may begin after the close: on a closed session each call says ABORTED.
 * The close gives back the opener's reference. Returns ing. Memory only; any thread. */
struct cairn_ingest *cairn_ingest_ref(struct cairn_ingest *ing);
void cairn_ingest_unref(struct cairn_ingest *ing); /* NULL is fine */

/* Drop the session's own ingest and its data, unless another has its ref by now. The session must
 * still be closed. Memory only. */
void cairn_ingest_abort(struct cairn_ingest *ing);

/* Drop an ingest and its data. Open ones end: the writer's next call says ABORTED; the ref is free
 * at once. Unknown refs are fine. Memory only. */
void cairn_cache_abort(struct cairn_cache *cache, const char *ref);

/* Memory only. Errors: NOT_FOUND. */
CAIRN_CHECKED enum cairn_code cairn_cache_ingest_status(struct cairn_cache *cache, const char *ref,
							struct cairn_ingest_status *ret,
							struct cairn_err *err);

/* Does somebody (but the store itself) write bytes that are to become this digest? *ret_offset is
 * how far the furthest is. Memory only. */
bool cairn_cache_is_written(struct cairn_cache *cache, const struct cairn_digest *digest,
			    uint64_t *ret_offset);

/* How many bytes of its own ingest with that ref the store has; 0: there is none. Memory only. */
uint64_t cairn_cache_own_offset(struct cairn_cache *cache, const char *ref);

/* Walk all ingests in ref order, as cairn_cache_next does: those after ref (NULL: from the start).
 */
size_t cairn_cache_next_ingest(struct cairn_cache *cache, const char *after,
			       struct cairn_ingest_status *ret, size_t max);

#endif
