#include "plugin/fills.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct cairn_fill {
	struct cairn_fills *fills;
	struct cairn_digest digest;
	uint64_t size;
	struct cairn_ingest *ing; /* the owner's; NULL once it is over */
	/* guarded by fills->mu */
	struct cairn_fill *next; /* while it runs */
	unsigned refs;
	enum cairn_fill_state state;
	bool follows;	/* a pull */
	uint64_t done;	/* in the ingest */
	uint64_t other; /* that came in another way */
	struct cairn_err why;
	struct cairn_fill_watch *watches;
};

struct cairn_fills {
	struct cairn_cache *cache;
	pthread_mutex_t mu;
	pthread_cond_t over;
	struct cairn_fill *running; /* guarded by mu: few, so a list will do */
	uint64_t bytes;		    /* guarded by mu: written since start */
};

struct cairn_fills *cairn_fills_new(struct cairn_cache *cache)
{
	struct cairn_fills *fills = calloc(1, sizeof(*fills));
	pthread_condattr_t attr;
	if (fills == NULL) abort();
	fills->cache = cache;
	pthread_mutex_init(&fills->mu, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&fills->over, &attr);
	pthread_condattr_destroy(&attr);
	return fills;
}

void cairn_fills_free(struct cairn_fills *fills)
{
	if (fills == NULL) return;
	pthread_cond_destroy(&fills->over);
	pthread_mutex_destroy(&fills->mu);
	free(fills);
}

uint64_t cairn_fills_bytes(struct cairn_fills *fills)
{
	pthread_mutex_lock(&fills->mu);
	uint64_t bytes = fills->bytes;
	pthread_mutex_unlock(&fills->mu);
	return bytes;
}

/* ---- the list of those that run ---------------------------------------------------------------*/

static struct cairn_fill *find_locked(struct cairn_fills *fills, const struct cairn_digest *digest,
				      uint64_t size)
{
	struct cairn_fill *f = fills->running;
	while (f != NULL && !(f->size == size && cairn_digest_equal(&f->digest, digest))) {
		f = f->next;
	}
	if (f != NULL) f->refs++;
	return f;
}

struct cairn_fill *cairn_fills_find(struct cairn_fills *fills, const struct cairn_digest *digest,
				    uint64_t size)
{
	pthread_mutex_lock(&fills->mu);
	struct cairn_fill *f = find_locked(fills, digest, size);
	pthread_mutex_unlock(&fills->mu);
	return f;
}

uint64_t cairn_fills_done(struct cairn_fills *fills, const struct cairn_digest *digest)
{
	char ref[CAIRN_DIGEST_STR];
	return cairn_cache_own_offset(fills->cache, cairn_digest_format(digest, ref));
}

void cairn_fill_unref(struct cairn_fill *fill)
{
	if (fill == NULL) return;
	pthread_mutex_t *mu = &fill->fills->mu;
	pthread_mutex_lock(mu);
	bool last = --fill->refs == 0;
	pthread_mutex_unlock(mu);
	if (last) free(fill);
}

static bool is_here(struct cairn_cache *cache, const struct cairn_digest *digest)
{
	struct cairn_blob_info info;
	struct cairn_err ignored;
	if (cairn_cache_info(cache, digest, &info, &ignored) != CAIRN_OK) return false;
	bool good = !info.damaged;
	cairn_blob_info_fini(&info);
	return good;
}

/* An ingest whose ref is the digest: so the next fill of the digest goes on in it. */
static enum cairn_code open_ingest(struct cairn_fill *f, struct cairn_err *err)
{
	char ref[CAIRN_DIGEST_STR];
	struct cairn_ingest_status st;
	const struct cairn_ingest_spec spec = {
		.ref = cairn_digest_format(&f->digest, ref),
		.total = f->size,
		.want = f->digest,
		.own = true,
	};
	enum cairn_code rc = cairn_ingest_open(f->fills->cache, &spec, &f->ing, err);
	if (rc == CAIRN_OK) rc = cairn_ingest_get_status(f->ing, &st, err);
	if (rc) return rc;
	f->done = st.offset;
	return CAIRN_OK;
}

enum cairn_fill_begun cairn_fills_begin(struct cairn_fills *fills,
					const struct cairn_digest *digest, uint64_t size,
					struct cairn_fill **ret, struct cairn_err *err)
{
	enum cairn_fill_begun begun = CAIRN_FILL_OTHERS;
	pthread_mutex_lock(&fills->mu);
	struct cairn_fill *f = find_locked(fills, digest, size);
	if (f == NULL && is_here(fills->cache, digest)) {
		begun = CAIRN_FILL_HERE;
	} else if (f == NULL) {
		f = calloc(1, sizeof(*f));
		if (f == NULL) abort();
		*f = (struct cairn_fill){
			.fills = fills, .digest = *digest, .size = size, .refs = 1};
		begun = open_ingest(f, err) == CAIRN_OK ? CAIRN_FILL_OURS : CAIRN_FILL_FAILED;
		if (begun == CAIRN_FILL_OURS) {
			f->next = fills->running;
			fills->running = f;
		} else {
			free(f);
			f = NULL;
		}
	}
	pthread_mutex_unlock(&fills->mu);
	*ret = f;
	return begun;
}

/* ---- the owner --------------------------------------------------------------------------------*/

uint64_t cairn_fill_offset(struct cairn_fill *fill)
{
	pthread_mutex_lock(&fill->fills->mu);
	uint64_t done = fill->done;
	pthread_mutex_unlock(&fill->fills->mu);
	return done;
}

void cairn_fill_tell(struct cairn_fill *fill, uint64_t done)
{
	pthread_mutex_lock(&fill->fills->mu);
	fill->other = done;
	pthread_mutex_unlock(&fill->fills->mu);
}

static void set_done(struct cairn_fill *f, uint64_t done)
{
	pthread_mutex_lock(&f->fills->mu);
	f->done = done;
	pthread_mutex_unlock(&f->fills->mu);
}

enum cairn_code cairn_fill_write(struct cairn_fill *f, const void *data, size_t n,
				 struct cairn_err *err)
{
	const struct cairn_span span = {data, n};
	char text[CAIRN_DIGEST_STR];
	uint64_t at = cairn_fill_offset(f);
	if (n > f->size - at) {
		return cairn_err_set(err, CAIRN_OUT_OF_RANGE, "blob %s: more than %llu bytes came",
				     cairn_digest_format(&f->digest, text),
				     (unsigned long long)f->size);
	}
	enum cairn_code rc = cairn_ingest_write(f->ing, at, &span, 1, err);
	if (rc) return rc;
	set_done(f, at + n);
	pthread_mutex_lock(&f->fills->mu);
	f->fills->bytes += n;
	pthread_mutex_unlock(&f->fills->mu);
	if (at + n < f->size || cairn_ingest_is_published(f->ing)) return CAIRN_OK;
	/* Whole, and not what it is called: nobody may go on from that. */
	cairn_ingest_abort(f->ing);
	set_done(f, 0);
	return cairn_err_set(err, CAIRN_DATA_LOSS,
			     "blob %s: the bytes that came have another digest",
			     cairn_digest_format(&f->digest, text));
}

static void signal_locked(struct cairn_fill *f)
{
	for (struct cairn_fill_watch *w = f->watches; w != NULL; w = w->next) {
		cairn_call_signal(w->call);
	}
}

void cairn_fill_follow(struct cairn_fill *f, bool follows)
{
	pthread_mutex_lock(&f->fills->mu);
	if (follows && !f->follows) signal_locked(f);
	f->follows = follows;
	pthread_mutex_unlock(&f->fills->mu);
}

void cairn_fill_end(struct cairn_fill *f, const struct cairn_err *why)
{
	struct cairn_fills *fills = f->fills;
	/* Published, the ingest has no bytes of its own: nothing needs it. */
	if (why == NULL) cairn_ingest_abort(f->ing);
	cairn_ingest_close(cairn_steal(&f->ing));
	pthread_mutex_lock(&fills->mu);
	f->state = why == NULL ? CAIRN_FILL_DONE : CAIRN_FILL_BROKEN;
	if (why != NULL) f->why = *why;
	for (struct cairn_fill **at = &fills->running; *at != NULL; at = &(*at)->next) {
		if (*at != f) continue;
		*at = f->next;
		break;
	}
	signal_locked(f);
	pthread_cond_broadcast(&fills->over);
	pthread_mutex_unlock(&fills->mu);
}

/* ---- those who wait ---------------------------------------------------------------------------*/

static enum cairn_fill_state look_locked(struct cairn_fill *f, uint64_t *ret_done,
					 struct cairn_err *err)
{
	if (ret_done != NULL) *ret_done = f->done > f->other ? f->done : f->other;
	if (f->state == CAIRN_FILL_BROKEN && err != NULL) *err = f->why;
	return f->state;
}

enum cairn_fill_state cairn_fill_look(struct cairn_fill *f, uint64_t *ret_done,
				      struct cairn_err *err)
{
	pthread_mutex_lock(&f->fills->mu);
	enum cairn_fill_state state = look_locked(f, ret_done, err);
	pthread_mutex_unlock(&f->fills->mu);
	return state;
}

bool cairn_fill_follows(struct cairn_fill *f)
{
	pthread_mutex_lock(&f->fills->mu);
	bool follows = f->follows;
	pthread_mutex_unlock(&f->fills->mu);
	return follows;
}

enum cairn_fill_state cairn_fill_wait(struct cairn_fill *f, int64_t timeout_ms,
				      struct cairn_err *err)
{
	struct timespec until;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += timeout_ms % 1000 * CAIRN_NS_PER_MS;
	until.tv_sec += timeout_ms / 1000 + until.tv_nsec / CAIRN_NS_PER_S;
	until.tv_nsec %= CAIRN_NS_PER_S;
	pthread_mutex_lock(&f->fills->mu);
	int rc = 0;
	while (f->state == CAIRN_FILL_RUNNING && rc != ETIMEDOUT) {
		rc = pthread_cond_timedwait(&f->fills->over, &f->fills->mu, &until);
	}
	enum cairn_fill_state state = look_locked(f, NULL, err);
	pthread_mutex_unlock(&f->fills->mu);
	return state;
}

void cairn_fill_watch(struct cairn_fill *f, struct cairn_fill_watch *watch, struct cairn_call *call)
{
	watch->call = cairn_call_ref(call);
	pthread_mutex_lock(&f->fills->mu);
	watch->next = f->watches;
	f->watches = watch;
	pthread_mutex_unlock(&f->fills->mu);
}

void cairn_fill_unwatch(struct cairn_fill *f, struct cairn_fill_watch *watch)
{
	pthread_mutex_lock(&f->fills->mu);
	struct cairn_fill_watch **at = &f->watches;
	while (*at != watch) at = &(*at)->next;
	*at = watch->next;
	pthread_mutex_unlock(&f->fills->mu);
	cairn_call_unref(watch->call);
}
