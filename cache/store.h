/* The inside of the store, for the files of this folder.
 *
 * Lock order, outermost first:
 *   ingest.io        one per ingest: its file, its hashing; held across I/O
 *   ingest_data.flush  a checkpoint's flush, until its failure is noted; held across I/O
 *   blob_file.check  one per open file: verification of its pieces; held across I/O
 *   names[i]         stripes by digest: who renames into, or unlinks from, blobs/; held across I/O
 *   mu               table, ingests, states, queues: short, never across I/O, log or callback
 *   cairn_pieces.mu  which pieces are there: short, as mu; nothing is locked under it
 *   read_mu          open files, windows, proofs: short, as mu
 *
 * Row writing (writer.c): blobs and ingests whose rows must be written hang in one list, each at
 * most once, so that memory is bounded however slow the disk is. Jobs (jobs.c): what must touch the
 * disk but may not do so under mu, embedded in the object it is about. */
#ifndef CAIRN_CACHE_STORE_H
#define CAIRN_CACHE_STORE_H

#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/queue.h>
#include <sys/stat.h>

#include "cache/cache.h"
#include "cache/evict.h"
#include "cache/hands.h"
#include "cache/history.h"
#include "cache/index.h"
#include "cache/pieces.h"
#include "cache/table.h"

#define NAME_LOCKS 16
#define JOB_THREADS 2
#define OWNERS_MAX 1024			 /* owners of one blob; more are not remembered */
#define OPEN_FILES_IDLE 64		 /* files kept open that nobody reads */
#define WINDOW_BYTES (UINT64_C(4) << 20) /* what one mapping covers */
#define WINDOWS_BYTES_MAX (32u << 20)	 /* mapped in all, unless views in use need more */
#define WINDOW_IDLE_NS (5 * CAIRN_NS_PER_S)
#define RESERVE_BYTES (2 << 20) /* given up to open on a full disk */
#define SYNC_MS 10000
#define CHECKPOINT_BYTES (UINT64_C(64) << 20)
#define WRITEBACK_BYTES (UINT64_C(8) << 20) /* dirty bytes after which writeback is started */
#define USED_SAVE_NS (60 * CAIRN_NS_PER_S)  /* a blob's last use is written so often at most */
#define PIECE CAIRN_CHAIN_STEP

struct CAIRN_MUTEX mutex {
	pthread_mutex_t os;
};

static inline void lock(struct mutex *mu) CAIRN_ACQUIRES(mu) CAIRN_LOCKS_UNCHECKED
{
	pthread_mutex_lock(&mu->os);
}

static inline void unlock(struct mutex *mu) CAIRN_RELEASES(mu) CAIRN_LOCKS_UNCHECKED
{
	pthread_mutex_unlock(&mu->os);
}

/* ---- jobs */

struct job {
	struct job *next;
	void (*run)(struct cairn_cache *cache, struct job *job);
};

/* ---- rows to be written */

enum dirty_kind { DIRTY_BLOB, DIRTY_INGEST, DIRTY_VERSION, DIRTY_PIN };

struct dirty {
	TAILQ_ENTRY(dirty) link;
	bool queued, first; /* first: in the list of those that go first */
	uint8_t kind;
};

TAILQ_HEAD(dirty_list, dirty);

/* What somebody waits for to be durable. Rows of blobs that go make room, so they are written
 * before all others, and do not wait for them. */
enum rows { ROWS_THAT_GO, ROWS_ALL, ROWS_KINDS };

#define dirty_of(d, type) ((type *)(void *)((char *)(d)-offsetof(type, dirty)))

/* ---- the hash chain: state k is that after (k + 1) * PIECE bytes */

struct chain {
	size_t n, cap, width;
	uint8_t *states;
};

void chain_init(struct chain *c, uint8_t alg);
void chain_fini(struct chain *c);
void chain_append(struct chain *c, const struct chain *more);

/* Hash on, noting the state at each boundary. */
void chain_hash(struct cairn_hasher *h, struct chain *c, const void *data, size_t n);

/* How many states a whole blob's chain has. */
static inline size_t chain_count(uint64_t size)
{
	return size == 0 ? 0 : (size_t)((size - 1) / PIECE);
}

/* ---- blobs */

/* What tells one content of a file from another without reading it. */
struct generation {
	uint64_t dev, ino, size;
	int64_t mtime_ns, ctime_ns;
};

struct window;

/* An open file of a blob, shared by its readers. */
struct blob_file {
	struct blob *blob; /* counted */
	int fd;
	struct mutex check;
	struct chain chain; /* guarded by check; n 0: not loaded */
	bool chain_loaded;  /* guarded by check */
	/* guarded by read_mu */
	unsigned opens;
	atomic_bool stale; /* another file took the name, or none; written under read_mu */
	struct window *windows;
	struct blob_file *lru_prev, *lru_next; /* while opens is 0 */
};

struct blob {
	struct blob *next; /* table */
	struct cairn_digest digest;
	uint64_t size;
	atomic_uint refs;	   /* the table's included */
	atomic_uint held;	   /* by calls that are about to open or pin it; raised under mu */
	atomic_bool damaged, gone; /* written under mu. gone: not in the table any more */
	/* guarded by mu */
	uint8_t state;
	bool has_row, seen;
	bool known;	   /* somebody may have had a record of it at some time */
	uint64_t evicting; /* number of the eviction that lets its row go; 0: none. Whoever needs
			    * it meanwhile clears this */
	unsigned pins;	   /* open ingests that promised it; pinned blobs are not dropped */
	int64_t created_ns, updated_ns;
	int64_t saved_used_ns;		    /* boot time */
	int64_t referenced_ns, promised_ns; /* boot time */
	struct cairn_labels *labels;
	char *owners; /* name NUL ... */
	size_t owners_len;
	struct dirty dirty;
	struct chain *new_chain; /* not written yet */
	struct job job;
	_Atomic int64_t used_ns; /* boot time */
	/* guarded by read_mu */
	struct blob_file *file;
	unsigned detached; /* how often file_detach was called */
	struct generation generation;
	bool proved_all;
	uint8_t *proved; /* bits by piece; NULL: all or none */
};

/* ---- history */

/* A manifest that a name stood for. */
struct version {
	struct cairn_version v; /* name is owned */
	unsigned refs;		/* guarded by mu, as is all of it */
	bool gone, has_row;
	int64_t saved_last_ns;
	struct dirty dirty;
};

struct pin {
	struct cairn_pin p; /* target is owned */
	unsigned refs;	    /* guarded by mu, as is all of it */
	bool gone, has_row;
	struct dirty dirty;
};

/* ---- ingests */

/* The private bytes of an ingest. Starting again takes a new one, with a new file, so that a
 * checkpoint never describes bytes that were overwritten later. */
struct ingest_data {
	atomic_uint refs;
	uint64_t id;	       /* ingest/<id> */
	struct ingest *ingest; /* counted */
	struct mutex flush;    /* a checkpoint flushes; taken under io */
	/* guarded by ingest.io */
	int fd;
	bool file;     /* the file exists */
	uint64_t high; /* bytes that the file may have */
	uint64_t written_back;
	/* guarded by mu */
	bool dead;		       /* dropped or replaced: no row, no file */
	bool broken;		       /* a flush failed: what the disk has is unknown */
	bool resumed;		       /* its first bytes are of an earlier process */
	struct cairn_digest published; /* what it became; alg 0: nothing yet */
	bool has_row;
	bool saving, save_again; /* a checkpoint job is queued or runs; another must follow */
	struct chain chain;
	size_t saved_states;
	uint64_t saved_offset; /* bytes that are flushed and in the row */
	uint64_t save_mark;    /* offset when the last checkpoint was asked for */
	struct ingest_row row; /* the checkpoint to write; ref is the ingest's, owner is owned */
	size_t row_states;
	struct dirty dirty;
	struct job save_job, drop_job;
};

struct ingest {
	char *ref;
	atomic_uint refs;
	struct mutex io;
	/* guarded by mu */
	bool gone; /* not in the map any more */
	struct cairn_ingest *session;
	char *owner;
	uint64_t total, offset;
	struct cairn_digest expected, want, running;
	struct cairn_hasher hasher;
	int64_t started_ns, updated_ns;
	int64_t touched_ns;	  /* boot time: when a session opened or closed it last */
	struct ingest_data *data; /* NULL only when gone */
	struct blob *blob; /* published or prefilled; counted, and pinned while a session is open */
};

/* Alive while anybody holds it; current while ingest->session points to it. */
struct cairn_ingest {
	atomic_uint refs;
	struct cairn_cache *cache;
	struct ingest *ingest; /* counted */
};

/* ---- bytes that come in any order */

/* A file of pieces, open or not: ingest/pieces-<alg>-<hex>. */
struct piece_file {
	TAILQ_ENTRY(piece_file) link;
	struct cairn_digest digest;
	atomic_uint_fast64_t bytes; /* on disk, when last looked at */
	/* guarded by mu */
	bool open;
	int64_t touched_ns; /* boot time: when it was opened or closed last */
};

TAILQ_HEAD(piece_files, piece_file);

/* ---- events: what is to be told to the observer */

struct event {
	enum cairn_cache_event event;
	struct cairn_digest digest;
	uint64_t value;
};

struct events {
	bool started;
	pthread_t thread;
	pthread_cond_t added, told;
	/* guarded by mu */
	cairn_cache_event_fn *fn; /* NULL: nobody listens, nothing is noted */
	void *arg;
	bool telling, stop;
	struct event *list;
	size_t n, cap;
};

/* ---- the store */

struct cairn_cache {
	const struct cairn_clock *clock;
	uint64_t checkpoint_bytes;
	uint32_t sync_ms; /* how long somebody waits for a row to be durable */
	int64_t open_boot_ns;
	int64_t age_offset_ns; /* store time minus boot time, while open */
	char dir[PATH_MAX];
	int lock_fd, ingest_fd, blob_fds[CAIRN_SHA512 + 1];
	struct index *index;
	struct mutex names[NAME_LOCKS];

	struct mutex mu;
	struct table tables[CAIRN_SHA512 + 1];
	struct cairn_cache_stats stats; /* the part that is counted as it changes */
	struct ingest **ingests;	/* sorted by ref */
	size_t ingests_n, ingests_cap;
	uint64_t next_id;
	uint64_t evictions;	   /* so far */
	struct version **versions; /* sorted by name, then root */
	size_t versions_n, versions_cap;
	struct pin **pins; /* sorted by target */
	size_t pins_n, pins_cap;
	struct dirty_list dirty_first, dirty; /* rows of blobs that go; all others */
	pthread_cond_t dirty_cond;
	bool writer_stop;
	/* rows are to be, and are, durable up to here */
	uint64_t sync_wanted[ROWS_KINDS], sync_done[ROWS_KINDS];
	pthread_cond_t sync_cond;
	struct cairn_err
		write_err; /* how the present transaction failed last; code OK: it did not */
	bool rows_lost;	   /* some row could not be written before the end */
	pthread_t writer;
	bool writer_started;
	struct job *jobs_head, **jobs_tail;
	pthread_cond_t jobs_cond;
	bool jobs_stop;
	pthread_t job_threads[JOB_THREADS];
	size_t job_threads_n;

	struct piece_files piece_files;
	size_t piece_files_n;
	struct events events;
	struct hands hands;

	struct mutex read_mu;
	struct blob_file *files_head, *files_tail; /* idle, oldest first */
	size_t files_idle;
	struct window *windows_head, *windows_tail; /* idle, oldest first */
	uint64_t windows_bytes;
	atomic_uint_fast64_t read_bytes, written_bytes;
};

/* jobs.c */
enum cairn_code jobs_start(struct cairn_cache *c, struct cairn_err *err);
void jobs_add_locked(struct cairn_cache *c, struct job *job,
		     void (*run)(struct cairn_cache *, struct job *)) CAIRN_REQUIRES(&c->mu);
void jobs_stop(struct cairn_cache *c); /* after all have run */

/* events.c */
enum cairn_code events_start(struct cairn_cache *c, struct cairn_err *err);
void events_stop(struct cairn_cache *c);
/* Free where nobody listens. A digest with alg 0 is nobody's. */
void event_add_locked(struct cairn_cache *c, enum cairn_cache_event event,
		      const struct cairn_digest *digest, uint64_t value) CAIRN_REQUIRES(&c->mu);

/* writer.c */
enum cairn_code writer_start(struct cairn_cache *c, struct cairn_err *err);
void writer_add_blob_locked(struct cairn_cache *c, struct blob *b) CAIRN_REQUIRES(&c->mu);
void writer_add_ingest_locked(struct cairn_cache *c, struct ingest_data *d) CAIRN_REQUIRES(&c->mu);
void writer_add_version_locked(struct cairn_cache *c, struct version *v) CAIRN_REQUIRES(&c->mu);
void writer_add_pin_locked(struct cairn_cache *c, struct pin *p) CAIRN_REQUIRES(&c->mu);
/* Wait until every row of the kind that was added before is durable. Blocks, but not for ever.
 * Errors: RESOURCE_EXHAUSTED, INTERNAL (the writer's), DEADLINE_EXCEEDED. */
enum cairn_code writer_sync(struct cairn_cache *c, enum rows rows, struct cairn_err *err);
void writer_stop(struct cairn_cache *c); /* after all rows were written, or cannot be */

/* blob.c */
struct blob *blob_new(const struct cairn_digest *digest, uint64_t size);
struct blob *blob_ref(struct blob *b);
void blob_unref(struct blob *b);
/* From finding a blob until its file is open, or it is pinned, it is not evicted. */
static inline void blob_hold_locked(struct blob *b)
{
	atomic_fetch_add(&b->held, 1);
}

static inline void blob_let_go(struct blob *b)
{
	atomic_fetch_sub(&b->held, 1);
}

struct blob *blob_find_locked(struct cairn_cache *c, const struct cairn_digest *digest)
	CAIRN_REQUIRES(&c->mu);
/* Takes over the caller's reference. */
void blob_insert_locked(struct cairn_cache *c, struct blob *b) CAIRN_REQUIRES(&c->mu);
/* The digest's bytes are of another size than the old one believed: a new blob in its place that
 * inherits what is said about it. The table's reference to the old one is the caller's. */
struct blob *blob_replace_locked(struct cairn_cache *c, struct blob *old, uint64_t size)
	CAIRN_REQUIRES(&c->mu);
void blob_reference_locked(struct cairn_cache *c, struct blob *b) CAIRN_REQUIRES(&c->mu);
void blob_used_locked(struct cairn_cache *c, struct blob *b) CAIRN_REQUIRES(&c->mu);
void blob_pin_locked(struct blob *b);
void blob_unpin_locked(struct cairn_cache *c, struct blob *b) CAIRN_REQUIRES(&c->mu);
bool blob_has_owner(const struct blob *b, const char *owner);
void blob_add_owner_locked(struct blob *b, const char *owner);
/* Take out of service and log; cached and unpinned ones are dropped. Sets err to DATA_LOSS. */
enum cairn_code blob_damaged(struct cairn_cache *c, struct blob *b, const char *why,
			     struct cairn_err *err);
/* Its file could not be opened: damage, or (no descriptors, no memory) only a failure, or
 * NOT_FOUND: the blob itself is gone. */
enum cairn_code blob_unopened(struct cairn_cache *c, struct blob *b, int errnum,
			      struct cairn_err *err);
void blob_set_damaged_locked(struct cairn_cache *c, struct blob *b, bool damaged)
	CAIRN_REQUIRES(&c->mu);
/* Nobody may need a damaged blob that nobody records: such a one goes. */
void blob_drop_if_useless_locked(struct cairn_cache *c, struct blob *b) CAIRN_REQUIRES(&c->mu);
/* The DATA_LOSS of a blob already known to be damaged. */
enum cairn_code blob_damage_err(const struct blob *b, const char *why, struct cairn_err *err);
struct mutex *blob_name_lock(struct cairn_cache *c, const struct cairn_digest *digest);
int blob_open_file(struct cairn_cache *c, const struct cairn_digest *digest);

/* The table's reference to it is the caller's from now on. */
void blob_take_out_locked(struct cairn_cache *c, struct blob *b) CAIRN_REQUIRES(&c->mu);
/* Somebody reads it, or was given a view of it and has not let go. */
bool blob_has_reader_locked(struct cairn_cache *c, const struct blob *b) CAIRN_REQUIRES(&c->mu);

/* versions.c, pins.c */
void version_unref_locked(struct version *v);
void versions_take_row(struct cairn_cache *c, const struct version_row *row);
void versions_free(struct cairn_cache *c);
void *needs_pack(const struct cairn_needs *needs, size_t *len);
void pin_unref_locked(struct pin *p);
void pins_take_row(struct cairn_cache *c, const struct pin_row *row);
void pins_free(struct cairn_cache *c);

/* store.c: room to write in when the disk is full */
void reserve_give_up(const struct cairn_cache *c);
bool reserve_keep(const struct cairn_cache *c); /* returns whether it is there */

/* labels.c */
struct cairn_labels *labels_ref(struct cairn_labels *l);
void labels_unref(struct cairn_labels *l);
struct cairn_labels *labels_unpack(const void *data, size_t n);
void *labels_pack(const struct cairn_labels *l, size_t *len);

/* read.c */
struct generation generation_of(const struct stat *st);
bool generation_equal(const struct generation *a, const struct generation *b);
/* The content of generation g is proved: all of it, or (false) none. */
void proof_set(struct cairn_cache *c, struct blob *b, const struct generation *g, bool all);
void proof_set_locked(struct blob *b, const struct generation *g, bool all);
/* Another file has the name now: handles on the old one fail. */
void file_detach(struct cairn_cache *c, struct blob *b);
void read_tidy(struct cairn_cache *c, int64_t now_boot_ns); /* give back what is long idle */
void read_fini(struct cairn_cache *c);

/* verify.c */
#define HASH_MISMATCH CAIRN_DATA_LOSS
/* Hash a whole file of the given size into digest and chain (may be NULL).
 * Errors: CANCELLED, DATA_LOSS (short, or cannot be read: err has the reason), INTERNAL. */
enum cairn_code hash_file(int fd, uint64_t size, uint8_t alg, struct chain *chain,
			  bool (*progress)(void *arg, uint64_t bytes), void *arg,
			  struct cairn_digest *ret, struct cairn_err *err);
/* Exactly n bytes at offset. 0, or an errno value; EIO-like reasons and ENODATA (short file). */
int read_exactly(int fd, void *buf, size_t n, uint64_t offset);
int write_exactly(int fd, const void *buf, size_t n, uint64_t offset); /* 0, or an errno value */
struct go_on {
	bool (*fn)(void *arg); /* NULL: always */
	void *arg;
};
/* Read and prove the pieces of [first, last]; *all: the whole file was. go_on (may be NULL) may
 * stop that. check held. Errors: DATA_LOSS, CANCELLED, INTERNAL. */
enum cairn_code pieces_check(struct cairn_cache *c, struct blob_file *f, uint64_t first,
			     uint64_t last, const struct go_on *go_on, bool *all,
			     struct cairn_err *err);

/* The states of an open file at each MiB: from the index, or else by hashing all of it. check held.
 * Errors: DATA_LOSS, INTERNAL. */
enum cairn_code file_chain(struct cairn_cache *c, struct blob_file *f, struct cairn_err *err);

/* publish.c: the only place that gives a file its final name */
struct publish {
	const struct cairn_digest *digest;
	uint64_t size;
	int fd;		  /* of the file; its data is not flushed yet */
	const char *name; /* in ingest/ */
	const struct chain *chain;
	bool proved; /* every byte was hashed by this process as it was written */
	const struct generation *hashed; /* the file before that; NULL: nobody else writes to it */
	bool foreign; /* a link to somebody else's file: leave its attributes alone */
	enum cairn_blob_state state;
	const char *owner;  /* NULL: none to add */
	bool *flush_failed; /* NULL or set to true when it was the flush that failed */
};
/* *ret is a new reference, and held until blob_let_go. *present: the store had it already; the file
 * is still there. *before is the state that it had (0: absent). */
enum cairn_code publish(struct cairn_cache *c, const struct publish *p, struct blob **ret,
			bool *present, int *before, struct cairn_err *err);

/* data.c */
struct ingest_data *data_new_locked(struct cairn_cache *c, struct ingest *ing)
	CAIRN_REQUIRES(&c->mu);
struct ingest_data *data_ref(struct ingest_data *d);
void data_unref(struct ingest_data *d);
const char *data_name(const struct ingest_data *d, char name[static 32]);
/* Drop file and row in the background; takes over the caller's reference. */
void data_drop_locked(struct cairn_cache *c, struct ingest_data *d) CAIRN_REQUIRES(&c->mu);
/* Checkpoint in the background. */
void data_save_locked(struct cairn_cache *c, struct ingest_data *d) CAIRN_REQUIRES(&c->mu);
/* Open the file, made if need be. io held. */
enum cairn_code data_open(struct cairn_cache *c, struct ingest_data *d, struct cairn_err *err);
void data_close(struct ingest_data *d); /* io held */
/* Append len bytes at offset. io held. */
enum cairn_code data_append(struct cairn_cache *c, struct ingest_data *d, uint64_t offset,
			    const struct cairn_span *spans, size_t n, uint64_t len,
			    struct cairn_err *err);
/* A flush of it failed: what the disk has of it is unknown. Waits for the one that runs. io held.
 */
bool data_is_broken(struct cairn_cache *c, struct ingest_data *d);
/* Cut off what lies beyond size. io held. */
enum cairn_code data_cut(struct cairn_cache *c, struct ingest_data *d, uint64_t size,
			 struct cairn_err *err);

/* The error of a write to the store's disk. */
enum cairn_code disk_err(const struct cairn_cache *c, int errnum, struct cairn_err *err);

/* pieces.c */
/* A name in ingest/ that load found: one of ours is known from now on. No locks: nobody else knows
 * the store yet. */
void piece_files_found(struct cairn_cache *c, const char *name);
uint64_t piece_files_expire(struct cairn_cache *c, int64_t idle_ns);
void piece_files_count_locked(struct cairn_cache *c, struct cairn_cache_stats *ret)
	CAIRN_REQUIRES(&c->mu);
void piece_files_free(struct cairn_cache *c);

/* ingest.c */
#define OWN_MARK '\x1f' /* first byte of the refs that are the store's own */
struct ingest *ingest_new(const char *ref);
void ingest_unref(struct ingest *ing);
size_t ingest_search_locked(struct cairn_cache *c, const char *ref, bool *found)
	CAIRN_REQUIRES(&c->mu);
void ingest_insert_locked(struct cairn_cache *c, size_t at, struct ingest *ing)
	CAIRN_REQUIRES(&c->mu);
void ingest_remove_locked(struct cairn_cache *c, struct ingest *ing) CAIRN_REQUIRES(&c->mu);
/* Empty again, with new data. */
void ingest_restart_locked(struct cairn_cache *c, struct ingest *ing) CAIRN_REQUIRES(&c->mu);
/* Its bytes are the blob's from now on; takes over the reference. */
void ingest_publish_locked(struct cairn_cache *c, struct ingest *ing, struct blob *b)
	CAIRN_REQUIRES(&c->mu);
void ingest_set_blob_locked(struct cairn_cache *c, struct ingest *ing, struct blob *b)
	CAIRN_REQUIRES(&c->mu);
bool session_current_locked(const struct cairn_ingest *s);
enum cairn_code session_over(const struct cairn_ingest *s, struct cairn_err *err);
void ingest_fill_locked(const struct ingest *ing, struct cairn_ingest_status *ret);

/* write.c */
/* A published ingest gets bytes of its own again. io held, mu not. */
enum cairn_code ingest_make_private(struct cairn_ingest *s, struct cairn_err *err);
/* Publish the data d of size bytes under digest as CACHED. io held. On failure to flush, the
 * ingest is empty again. */
enum cairn_code ingest_publish_data(struct cairn_cache *c, struct ingest *ing,
				    struct ingest_data *d, const struct cairn_digest *digest,
				    uint64_t size, const struct chain *chain, struct blob **ret,
				    struct cairn_err *err);

/* load.c: from disk to memory, at open */
enum cairn_code load_store(struct cairn_cache *c, struct cairn_err *err);

#endif
