/* Garbage collection's hands: what it sees of the store, and how a blob goes.
 *
 * A blob's row goes first, durably, and its file last. Were it the other way round, a crash between
 * the two would leave a row of which an unclean start makes a referenced blob without bytes, which
 * would be promised to containerd. So it leaves a file without a row at worst: that is in doubt,
 * and two listings of containerd release it. */
#include "cache/evict.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "cache/mem.h"
#include "cache/store.h"

#define WALK_STEP 1024 /* blobs looked at under one lock */
#define MARK_STEP 256  /* blobs chosen under one lock */

int64_t cairn_cache_now_ns(struct cairn_cache *c)
{
	return cairn_boot_ns(c->clock) + c->age_offset_ns;
}

void cairn_cache_disk(struct cairn_cache *c, struct cairn_gc_disk *ret)
{
	struct cairn_cache_stats st;
	cairn_cache_stats(c, &st);
	*ret = (struct cairn_gc_disk){
		.total = st.disk_total_bytes,
		.free = st.disk_free_bytes,
		.own = st.cached_bytes + st.referenced_bytes + st.ingest_bytes,
	};
}

/* ---- what is there */

static bool is_busy_locked(struct cairn_cache *c, const struct blob *b) CAIRN_REQUIRES(&c->mu)
{
	return b->pins > 0 || b->held > 0 || blob_has_reader_locked(c, b);
}

static void fill_locked(struct cairn_cache *c, const struct blob *b, struct cairn_gc_blob *ret)
	CAIRN_REQUIRES(&c->mu)
{
	*ret = (struct cairn_gc_blob){
		.digest = b->digest,
		.size = b->size,
		.used_ns = b->used_ns + c->age_offset_ns,
		.referenced = b->state == CAIRN_BLOB_REFERENCED,
		.busy = is_busy_locked(c, b),
		.known = b->known,
	};
}

size_t cairn_cache_next_gc(struct cairn_cache *c, const struct cairn_digest *after,
			   struct cairn_gc_blob *ret, size_t max)
{
	uint8_t alg = after->alg != 0 ? after->alg : CAIRN_SHA256;
	size_t n = 0;
	if (cairn_alg_bytes(alg) == 0) return 0;
	if (max > WALK_STEP) max = WALK_STEP;
	lock(&c->mu);
	struct blob *b = table_after(&c->tables[alg], after->alg != 0 ? after : NULL);
	while (n < max) {
		if (b == NULL && alg == CAIRN_SHA512) break;
		if (b == NULL) {
			b = table_after(&c->tables[++alg], NULL);
			continue;
		}
		fill_locked(c, b, &ret[n++]);
		b = table_next(&c->tables[alg], b);
	}
	unlock(&c->mu);
	if (n > 0 && n == max) cairn_let_others_in();
	return n;
}

/* ---- how it goes */

/* One call of cairn_cache_evict. */
struct turn {
	uint64_t number;
	bool durable; /* the rows are gone */
	bool stopped; /* what is left is to stay */
};

static bool may_evict_locked(struct cairn_cache *c, const struct blob *b,
			     const struct cairn_eviction *e) CAIRN_REQUIRES(&c->mu)
{
	return !b->gone && b->state == CAIRN_BLOB_CACHED && !is_busy_locked(c, b) &&
	       b->used_ns + c->age_offset_ns <= e->used_ns;
}

/* Choose: its row is to go. Returns a counted reference, or NULL with the outcome set. */
static struct blob *begin_locked(struct cairn_cache *c, struct cairn_eviction *e, uint64_t number)
	CAIRN_REQUIRES(&c->mu)
{
	struct blob *b = blob_find_locked(c, &e->digest);
	e->freed = 0;
	e->outcome = b == NULL ? CAIRN_EVICT_ABSENT : CAIRN_EVICT_IN_USE;
	if (b == NULL || b->evicting != 0 || !may_evict_locked(c, b, e)) return NULL;
	b->evicting = number;
	writer_add_blob_locked(c, b);
	return blob_ref(b);
}

/* Take it out of the table, unless it is needed after all: then its row is written again. The mark
 * of another eviction says nothing about this one's row, which may have been written since. */
static bool take_out_locked(struct cairn_cache *c, struct blob *b, struct cairn_eviction *e,
			    const struct turn *turn) CAIRN_REQUIRES(&c->mu)
{
	bool go = b->evicting == turn->number && may_evict_locked(c, b, e);
	if (b->evicting == turn->number) b->evicting = 0;
	if (b->gone) {
		e->outcome = CAIRN_EVICT_ABSENT;
	} else if (go && turn->durable && !turn->stopped) {
		blob_take_out_locked(c, b);
		return true;
	} else {
		e->outcome = !go	     ? CAIRN_EVICT_IN_USE
			     : turn->stopped ? CAIRN_EVICT_STOPPED
					     : CAIRN_EVICT_FAILED;
		writer_add_blob_locked(c, b);
	}
	return false;
}

/* The name's lock is held, and the blob is out of the table: the name is nobody else's. Returns
 * whether the file is gone. */
static bool unlink_file(struct cairn_cache *c, struct cairn_eviction *e)
{
	struct stat st;
	char hex[CAIRN_DIGEST_STR];
	int dir = c->blob_fds[e->digest.alg];
	cairn_digest_hex(&e->digest, hex);
	if (fstatat(dir, hex, &st, AT_SYMLINK_NOFOLLOW) == 0 && st.st_nlink == 1) {
		e->freed = (uint64_t)st.st_blocks * 512;
	}
	e->outcome = CAIRN_EVICT_DONE;
	if (unlinkat(dir, hex, 0) == 0 || errno == ENOENT) return true;
	cairn_log(CAIRN_LOG_ERROR, "evicted_file_not_removed", CAIRN_STR("file", hex),
		  CAIRN_STR("err", strerror(errno)));
	e->freed = 0;
	e->outcome = CAIRN_EVICT_FAILED;
	return false;
}

/* Its file stays, so it does: nobody can have published the digest meanwhile. */
static void put_back(struct cairn_cache *c, struct blob *b)
{
	lock(&c->mu);
	b->gone = false;
	blob_insert_locked(c, b);
	writer_add_blob_locked(c, b);
	unlock(&c->mu);
}

static void finish(struct cairn_cache *c, struct blob *b, struct cairn_eviction *e,
		   const struct turn *turn)
{
	struct mutex *name = blob_name_lock(c, &e->digest);
	lock(name);
	lock(&c->mu);
	bool out = take_out_locked(c, b, e, turn);
	unlock(&c->mu);
	if (out && !unlink_file(c, e)) {
		put_back(c, b);
		out = false;
	}
	unlock(name);
	if (!out) return;
	file_detach(c, b);
	blob_unref(b); /* the table's */
}

static size_t choose(struct cairn_cache *c, struct cairn_eviction *list, size_t n,
		     struct blob **chosen, struct turn *turn)
{
	size_t any = 0;
	for (size_t from = 0; from < n; from += MARK_STEP) {
		lock(&c->mu);
		if (from == 0) turn->number = ++c->evictions;
		for (size_t i = from; i < n && i < from + MARK_STEP; i++) {
			chosen[i] = begin_locked(c, &list[i], turn->number);
			any += chosen[i] != NULL;
		}
		unlock(&c->mu);
	}
	return any;
}

enum cairn_code cairn_cache_evict_while(struct cairn_cache *c, struct cairn_eviction *list,
					size_t n, bool (*go_on)(void *arg), void *arg,
					struct cairn_err *err)
{
	assert(n <= CAIRN_EVICT_MAX);
	struct blob **chosen = mem_zero(n * sizeof(struct blob *));
	enum cairn_code code = CAIRN_OK;
	struct turn turn = {0};
	if (choose(c, list, n, chosen, &turn) > 0) {
		code = writer_sync(c, ROWS_THAT_GO, err);
		turn.durable = code == CAIRN_OK;
		for (size_t i = 0; i < n; i++) {
			if (chosen[i] == NULL) continue;
			if (turn.durable && !turn.stopped && go_on != NULL) {
				turn.stopped = !go_on(arg);
			}
			finish(c, chosen[i], &list[i], &turn);
			blob_unref(chosen[i]);
		}
		if (code == CAIRN_OK) (void)reserve_keep(c);
	}
	free(chosen);
	return code;
}

enum cairn_code cairn_cache_evict(struct cairn_cache *c, struct cairn_eviction *list, size_t n,
				  struct cairn_err *err)
{
	return cairn_cache_evict_while(c, list, n, NULL, NULL, err);
}

/* ---- temporary data */

/* The first one from *at on that nobody has touched for so long goes; its ref is in buf. */
static bool expire_next_locked(struct cairn_cache *c, size_t *at, int64_t idle_ns,
			       char buf[static 129]) CAIRN_REQUIRES(&c->mu)
{
	int64_t now = cairn_boot_ns(c->clock);
	for (; *at < c->ingests_n; (*at)++) {
		struct ingest *ing = c->ingests[*at];
		if (ing->session != NULL || now - ing->touched_ns < idle_ns) continue;
		snprintf(buf, 129, "%s", ing->ref);
		ingest_remove_locked(c, ing);
		return true;
	}
	return false;
}

uint64_t cairn_cache_expire_ingests(struct cairn_cache *c, int64_t idle_ns)
{
	char ref[129];
	size_t at = 0;
	for (uint64_t n = 0;; n++) {
		lock(&c->mu);
		bool dropped = expire_next_locked(c, &at, idle_ns, ref);
		unlock(&c->mu);
		if (!dropped) return n + piece_files_expire(c, idle_ns);
		cairn_log(CAIRN_LOG_INFO, "ingest_dropped", CAIRN_STR("ref", ref),
			  CAIRN_STR("why", "abandoned"));
	}
}
