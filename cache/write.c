/* Appending to an ingest, and publishing what is whole.
 *
 * A write computes on copies and installs its result only if its session is still the current one:
 * a session that was closed meanwhile has no say any more in what the next one was told. Its bytes
 * may lie in the file beyond the offset, where the next write overwrites them. */
#include <errno.h>
#include <unistd.h>

#include "base/log.h"
#include "cache/mem.h"
#include "cache/store.h"

struct write {
	struct ingest_data *data; /* counted */
	struct cairn_hasher hasher;
	struct chain chain;
	uint64_t offset, len;
	bool copy_first; /* the bytes so far are a blob's */
};

static enum cairn_code check_size(const struct cairn_span *spans, size_t n, uint64_t offset,
				  uint64_t *len, struct cairn_err *err)
{
	*len = 0;
	for (size_t i = 0; i < n; i++) {
		*len += spans[i].len;
		if (spans[i].len > CAIRN_BLOB_SIZE_MAX || *len > CAIRN_BLOB_SIZE_MAX) break;
	}
	if (*len <= CAIRN_BLOB_SIZE_MAX && offset <= CAIRN_BLOB_SIZE_MAX - *len) return CAIRN_OK;
	return cairn_err_set(err, CAIRN_OUT_OF_RANGE, "write beyond %lld bytes, the largest blob",
			     (long long)CAIRN_BLOB_SIZE_MAX);
}

static enum cairn_code lost_err(const struct ingest *ing, struct cairn_err *err)
{
	return cairn_err_set(err, CAIRN_INTERNAL,
			     "ingest \"%.128s\": its data could not be flushed and was dropped; "
			     "check the disk, then start again",
			     ing->ref);
}

static enum cairn_code begin_locked(struct cairn_cache *c, struct cairn_ingest *s, struct write *w,
				    struct cairn_err *err) CAIRN_REQUIRES(&c->mu)
{
	struct ingest *ing = s->ingest;
	if (!session_current_locked(s)) return session_over(s, err);
	if (ing->data->broken) {
		ingest_restart_locked(c, ing);
		return lost_err(ing, err);
	}
	if (w->offset == 0 && (ing->offset > 0 || ing->blob != NULL)) {
		ingest_restart_locked(c, ing);
	} else if (w->offset != ing->offset) {
		return cairn_err_set(
			err, CAIRN_OUT_OF_RANGE,
			"write at offset %llu of ingest \"%.128s\", which has %llu bytes",
			(unsigned long long)w->offset, ing->ref, (unsigned long long)ing->offset);
	}
	w->copy_first = ing->blob != NULL && w->len > 0;
	return CAIRN_OK;
}

/* ---- a private copy of a published ingest */

static enum cairn_code copy_blob(struct cairn_cache *c, struct blob *b, struct ingest_data *to,
				 struct cairn_hasher *h, struct cairn_err *err)
{
	char why[128];
	uint64_t size = b->size;
	int fd = blob_open_file(c, &b->digest);
	if (fd < 0) return blob_unopened(c, b, errno, err);
	enum cairn_code code = CAIRN_OK;
	uint8_t *buf = mem_zero(PIECE);
	while (h->length < size && code == CAIRN_OK) {
		size_t n = size - h->length < PIECE ? (size_t)(size - h->length) : PIECE;
		struct cairn_span span = {buf, n};
		int rc = read_exactly(fd, buf, n, h->length);
		if (rc != 0) {
			code = blob_damaged(c, b, strerror_r(rc, why, sizeof(why)), err);
			break;
		}
		code = data_append(c, to, h->length, &span, 1, n, err);
		if (code == CAIRN_OK) chain_hash(h, &to->chain, buf, n);
	}
	free(buf);
	close(fd);
	if (code != CAIRN_OK) return code;
	struct cairn_digest got;
	cairn_hasher_digest(h, &got);
	if (cairn_digest_equal(&got, &b->digest)) return CAIRN_OK;
	return blob_damaged(c, b, "its bytes have another digest", err);
}

enum cairn_code ingest_make_private(struct cairn_ingest *s, struct cairn_err *err)
{
	struct cairn_cache *c = s->cache;
	struct ingest *ing = s->ingest;
	struct cairn_hasher h;
	lock(&c->mu);
	bool current = session_current_locked(s) && ing->blob != NULL;
	struct blob *b = current ? blob_ref(ing->blob) : NULL;
	struct ingest_data *d = current ? data_new_locked(c, ing) : NULL;
	unlock(&c->mu);
	if (!current) return session_over(s, err);
	cairn_hasher_init(&h, (enum cairn_alg)b->digest.alg);
	chain_init(&d->chain, b->digest.alg);
	enum cairn_code code = copy_blob(c, b, d, &h, err);
	lock(&c->mu);
	if (code == CAIRN_OK && session_current_locked(s) && ing->blob == b) {
		data_drop_locked(c, ing->data);
		ing->data = d;
		ing->hasher = h;
		ing->running = b->digest;
		ingest_set_blob_locked(c, ing, NULL);
	} else {
		data_drop_locked(c, d);
		if (code == CAIRN_OK) code = session_over(s, err);
	}
	unlock(&c->mu);
	blob_unref(b);
	return code;
}

/* ---- publishing */

enum cairn_code ingest_publish_data(struct cairn_cache *c, struct ingest *ing,
				    struct ingest_data *d, const struct cairn_digest *digest,
				    uint64_t size, const struct chain *chain, struct blob **ret,
				    struct cairn_err *err)
{
	char name[32];
	bool present = false, flush_failed = false;
	int before;
	enum cairn_code code = data_cut(c, d, size, err);
	if (code != CAIRN_OK) return code;
	struct publish p = {
		.digest = digest,
		.size = size,
		.fd = d->fd,
		.name = data_name(d, name),
		.chain = chain,
		.proved = !d->resumed,
		.state = CAIRN_BLOB_CACHED,
		.flush_failed = &flush_failed,
	};
	if (data_is_broken(c, d)) {
		flush_failed = true;
		code = lost_err(ing, err);
	} else {
		code = publish(c, &p, ret, &present, &before, err);
	}
	if (code == CAIRN_OK) {
		if (!present) d->file = false;
		data_close(d);
	}
	lock(&c->mu);
	if (code == CAIRN_OK) d->published = *digest;
	if (code == CAIRN_OK && !ing->gone && ing->data == d) {
		ingest_publish_locked(c, ing, blob_ref(*ret));
	} else if (flush_failed && !ing->gone && ing->data == d) {
		/* What the disk has of it is unknown, and a second flush would not say. */
		ingest_restart_locked(c, ing);
	}
	unlock(&c->mu);
	if (code == CAIRN_OK) blob_let_go(*ret);
	return code;
}

/* The last byte is there. Nobody holds a lock of containerd's now, so this is the time to flush. */
static enum cairn_code complete(struct cairn_ingest *s, struct ingest_data *d,
				struct cairn_err *err)
{
	struct cairn_cache *c = s->cache;
	struct ingest *ing = s->ingest;
	struct chain chain;
	struct blob *b;
	lock(&c->mu);
	bool mine = !ing->gone && ing->data == d && ing->blob == NULL;
	struct cairn_digest target = ing->want.alg != 0 ? ing->want : ing->expected;
	struct cairn_digest running = ing->running;
	uint64_t size = ing->offset;
	chain_init(&chain, running.alg);
	if (mine) chain_append(&chain, &d->chain);
	/* Not published: at least flushed, so that the commit has little left to do. */
	bool publishable = mine && cairn_digest_equal(&target, &running);
	if (mine && !publishable && target.alg == 0) data_save_locked(c, d);
	if (mine && !publishable) event_add_locked(c, CAIRN_EVENT_WRONG, &ing->want, 0);
	unlock(&c->mu);
	enum cairn_code code = CAIRN_OK;
	if (publishable) {
		code = ingest_publish_data(c, ing, d, &running, size, &chain, &b, err);
		if (code == CAIRN_OK) blob_unref(b);
	}
	chain_fini(&chain);
	return code;
}

/* ---- write */

static void tell_grown_locked(struct cairn_cache *c, const struct ingest *ing, uint64_t before)
	CAIRN_REQUIRES(&c->mu)
{
	bool complete = ing->offset == ing->total && cairn_digest_equal(&ing->running, &ing->want);
	if (ing->offset / PIECE != before / PIECE || complete) {
		event_add_locked(c, CAIRN_EVENT_GREW, &ing->want, ing->offset);
	}
	if (ing->total > 0 && before <= ing->total && ing->offset > ing->total) {
		event_add_locked(c, CAIRN_EVENT_WRONG, &ing->want, 0);
	}
}

static enum cairn_code install(struct cairn_ingest *s, struct write *w, bool *whole,
			       struct cairn_err *err)
{
	struct cairn_cache *c = s->cache;
	struct ingest *ing = s->ingest;
	struct cairn_digest running;
	cairn_hasher_digest(&w->hasher, &running);
	int64_t now = cairn_real_ns(c->clock);
	lock(&c->mu);
	bool current = session_current_locked(s) && ing->data == w->data;
	if (current && w->len > 0) {
		ing->hasher = w->hasher;
		ing->running = running;
		ing->offset += w->len;
		ing->updated_ns = now;
		chain_append(&w->data->chain, &w->chain);
		tell_grown_locked(c, ing, w->offset);
	}
	*whole = current && ing->blob == NULL && ing->total > 0 && ing->offset == ing->total;
	if (current && !*whole && ing->offset - w->data->save_mark >= c->checkpoint_bytes) {
		data_save_locked(c, w->data);
	}
	unlock(&c->mu);
	return current ? CAIRN_OK : session_over(s, err);
}

struct copying {
	struct cairn_cache *cache;
	struct write *w;
	const struct cairn_span *spans;
	size_t n;
	enum cairn_code code;
	struct cairn_err err;
};

static void copy_bytes(void *arg)
{
	struct copying *p = arg;
	p->code =
		data_append(p->cache, p->w->data, p->w->offset, p->spans, p->n, p->w->len, &p->err);
}

static void hash_bytes(struct write *w, const struct cairn_span *spans, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		chain_hash(&w->hasher, &w->chain, spans[i].data, spans[i].len);
	}
}

/* Into the file and into the hash; if the file fails, the hash is of no use to anybody. */
static enum cairn_code take_bytes(struct cairn_cache *c, struct write *w,
				  const struct cairn_span *spans, size_t n, struct cairn_err *err)
{
	struct copying p = {.cache = c, .w = w, .spans = spans, .n = n};
	if (w->len == 0) return CAIRN_OK;
	hands_enter(&c->hands);
	if (w->len >= HANDS_BYTES && hands_give(&c->hands, copy_bytes, &p)) {
		hash_bytes(w, spans, n);
		hands_wait(&c->hands);
	} else {
		copy_bytes(&p);
		if (p.code == CAIRN_OK) hash_bytes(w, spans, n);
	}
	hands_leave(&c->hands);
	if (p.code != CAIRN_OK) {
		*err = p.err;
		return p.code;
	}
	atomic_fetch_add(&c->written_bytes, w->len);
	return CAIRN_OK;
}

static enum cairn_code append(struct cairn_ingest *s, struct write *w,
			      const struct cairn_span *spans, size_t n, struct cairn_err *err)
{
	struct cairn_cache *c = s->cache;
	struct ingest *ing = s->ingest;
	bool whole = false;
	lock(&c->mu);
	bool current = session_current_locked(s);
	if (current) {
		w->data = data_ref(ing->data);
		w->hasher = ing->hasher;
	}
	unlock(&c->mu);
	if (!current) return session_over(s, err);
	chain_init(&w->chain, w->hasher.alg);
	enum cairn_code code = take_bytes(c, w, spans, n, err);
	if (code == CAIRN_OK) code = install(s, w, &whole, err);
	if (code == CAIRN_OK && whole) code = complete(s, w->data, err);
	chain_fini(&w->chain);
	data_unref(w->data);
	return code;
}

enum cairn_code cairn_ingest_write(struct cairn_ingest *s, uint64_t offset,
				   const struct cairn_span *spans, size_t n, struct cairn_err *err)
{
	struct cairn_cache *c = s->cache;
	struct write w = {.offset = offset};
	enum cairn_code code = check_size(spans, n, offset, &w.len, err);
	if (code != CAIRN_OK) return code;
	cairn_ingest_ref(s); /* it may be closed while this runs */
	lock(&s->ingest->io);
	lock(&c->mu);
	code = begin_locked(c, s, &w, err);
	unlock(&c->mu);
	if (code == CAIRN_OK && w.copy_first) code = ingest_make_private(s, err);
	if (code == CAIRN_OK) code = append(s, &w, spans, n, err);
	unlock(&s->ingest->io);
	cairn_ingest_unref(s);
	return code;
}
