/* How garbage collection acts on the store. Who decides is cache/gc.h. Threads: any. */
#ifndef CAIRN_CACHE_EVICT_H
#define CAIRN_CACHE_EVICT_H

#include "cache/cache.h"
#include "cache/gc.h"

#define CAIRN_EVICT_MAX 4096 /* blobs of one call, which costs one flush of the index */

/* The store's own time: it began as real time when the index was made, and runs with boot time
 * while the store is open. Idle times are differences of it, so that neither a jump of the wall
 * clock nor a node that was switched off makes anything older. Memory only. */
int64_t cairn_cache_now_ns(struct cairn_cache *cache);

/* The file system that the store lies in, and what the store has there. One statvfs(2). */
void cairn_cache_disk(struct cairn_cache *cache, struct cairn_gc_disk *ret);

/* Walk all blobs, as cairn_cache_next does, for the decision. Memory only. */
size_t cairn_cache_next_gc(struct cairn_cache *cache, const struct cairn_digest *after,
			   struct cairn_gc_blob *ret, size_t max);

/* All bytes of a blob of at most max, verified, malloced, without counting as a use of it: for
 * those who look for what a manifest needs. Blocks.
 * Errors: NOT_FOUND, DATA_LOSS, OUT_OF_RANGE (larger than max), INTERNAL. */
CAIRN_CHECKED enum cairn_code cairn_cache_peek(struct cairn_cache *cache,
					       const struct cairn_digest *digest, size_t max,
					       void **ret, size_t *ret_len, struct cairn_err *err);

enum cairn_evict_outcome {
	CAIRN_EVICT_DONE = 1,
	CAIRN_EVICT_ABSENT, /* it went by itself */
	CAIRN_EVICT_IN_USE, /* referenced, busy, or used since the decision */
	CAIRN_EVICT_FAILED, /* it stays: the index could not be written, or the file not unlinked */
	CAIRN_EVICT_STOPPED, /* it stays: it was time to stop */
};

struct cairn_eviction {
	struct cairn_digest digest;
	int64_t used_ns; /* as it was when that was decided: a later use saves the blob */
	enum cairn_evict_outcome outcome; /* set by the call */
	uint64_t freed; /* bytes on disk; 0 where another name of the file remains */
};

/* Erase cached blobs, at most CAIRN_EVICT_MAX. Each is looked at again under the store's lock, once
 * before and once after its row is durably gone, and only then unlinked: so a blob that is needed
 * meanwhile stays, and after a crash at any instruction a file without a row is found, which is in
 * doubt and referenced, never a row of something that is gone. Blocks.
 * Errors: RESOURCE_EXHAUSTED (disk), INTERNAL, DEADLINE_EXCEEDED; then nothing was erased. */
CAIRN_CHECKED enum cairn_code cairn_cache_evict(struct cairn_cache *cache,
						struct cairn_eviction *list, size_t n,
						struct cairn_err *err);

/* The same, as long as go_on (NULL: always on) says so, which is asked before each file. */
CAIRN_CHECKED enum cairn_code cairn_cache_evict_while(struct cairn_cache *cache,
						      struct cairn_eviction *list, size_t n,
						      bool (*go_on)(void *arg), void *arg,
						      struct cairn_err *err);

/* Drop ingests, and files of pieces (cache/pieces.h), that nobody has touched for so long. Open
 * ones stay. Returns their number. Files of pieces are unlinked here. */
uint64_t cairn_cache_expire_ingests(struct cairn_cache *cache, int64_t idle_ns);

#endif
