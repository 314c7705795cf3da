/* Bytes that cairn is getting for itself: one fill a digest, shared by all who want it. One owner
 * gets the bytes; the others wait for how it ends. Pulls wait as well: containerd's second STAT
 * (plugin/content_wait.h).
 *
 * A fill's bytes are an ingest of the store's own, so a fill that was cut off goes on where it was.
 * Threads: internally locked; the owner's calls one thread at a time. */
#ifndef CAIRN_PLUGIN_FILLS_H
#define CAIRN_PLUGIN_FILLS_H

#include "cache/cache.h"
#include "plugin/plugin.h"
#include "rpc/rpc.h"

struct cairn_fill; /* counted */

enum cairn_fill_begun {
	CAIRN_FILL_FAILED, /* err is set: RESOURCE_EXHAUSTED, INVALID_ARGUMENT, INTERNAL */
	CAIRN_FILL_HERE,   /* the blob is here: there is nothing to do */
	CAIRN_FILL_OURS,   /* *ret is the caller's to fill and to end */
	CAIRN_FILL_OTHERS, /* *ret is somebody else's: wait for it */
};

/* size > 0. Unref *ret. */
CAIRN_CHECKED enum cairn_fill_begun cairn_fills_begin(struct cairn_fills *fills,
						      const struct cairn_digest *digest,
						      uint64_t size, struct cairn_fill **ret,
						      struct cairn_err *err);

/* The fill that runs for the digest, with that size, or NULL. Unref it. Memory only. */
struct cairn_fill *cairn_fills_find(struct cairn_fills *fills, const struct cairn_digest *digest,
				    uint64_t size);

/* How many bytes of the digest are there, of a fill that runs or broke off. Memory only. */
uint64_t cairn_fills_done(struct cairn_fills *fills, const struct cairn_digest *digest);

void cairn_fill_unref(struct cairn_fill *fill); /* NULL is fine */

/* ---- the owner ---- */

/* Where the next byte belongs. */
uint64_t cairn_fill_offset(struct cairn_fill *fill);

/* Append. The write that reaches the size checks the digest and publishes; bytes that are not what
 * the digest says are DATA_LOSS, and the fill is empty again. Blocks. Errors: DATA_LOSS,
 * RESOURCE_EXHAUSTED, OUT_OF_RANGE (more than size), INTERNAL. */
CAIRN_CHECKED enum cairn_code cairn_fill_write(struct cairn_fill *fill, const void *data, size_t n,
					       struct cairn_err *err);

/* So many bytes are here that come in another way than by cairn_fill_write; for those who wait. */
void cairn_fill_tell(struct cairn_fill *fill, uint64_t done);

/* Whether the owner waits for a pull that gets the bytes. A pull that waited for the fill goes on
 * by itself then: it may be the very one. */
void cairn_fill_follow(struct cairn_fill *fill, bool follows);

/* It is over; those who wait are told. why NULL: the blob is here. Else what came of it stays on
 * disk, for who begins again. */
void cairn_fill_end(struct cairn_fill *fill, const struct cairn_err *why);

/* ---- those who wait ---- */

enum cairn_fill_state { CAIRN_FILL_RUNNING, CAIRN_FILL_DONE, CAIRN_FILL_BROKEN };

/* *ret_done: bytes that are there, in whichever way they came. err (may be NULL) is set if it is
 * BROKEN. Memory only. */
enum cairn_fill_state cairn_fill_look(struct cairn_fill *fill, uint64_t *ret_done,
				      struct cairn_err *err);

/* Does the owner wait for a pull? Memory only. */
bool cairn_fill_follows(struct cairn_fill *fill);

/* Wait until it is over, at most so long. Blocks. */
enum cairn_fill_state cairn_fill_wait(struct cairn_fill *fill, int64_t timeout_ms,
				      struct cairn_err *err);

/* For handlers: call is signalled when the fill is over, or follows a pull. Must be taken back.
 * Memory only. */
struct cairn_fill_watch {
	struct cairn_fill_watch *next;
	struct cairn_call *call; /* counted */
};
void cairn_fill_watch(struct cairn_fill *fill, struct cairn_fill_watch *watch,
		      struct cairn_call *call);
void cairn_fill_unwatch(struct cairn_fill *fill, struct cairn_fill_watch *watch);

#endif
