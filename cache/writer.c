/* The thread that writes rows: takes what is dirty in batches, copies it under mu, and repeats a
 * failed transaction until it succeeds. What is in memory is right meanwhile; after a crash the
 * store is in doubt anyway (index.h, meta.clean).
 *
 * A full disk is emptied by deleting rows, which needs room to write in, a page or more for each
 * row. So the rows of blobs that go come first; a batch that finds no room is written in ever
 * smaller pieces, each of which uses the log's room again; and what still finds none (a new row
 * makes the database longer) is given back when rows of blobs that go are waiting. A row is always
 * written as it is at the time when it is taken, so none is overtaken by an older one of its own.
 * Of two blobs with the same digest the older one is gone, and was so before the other came: so its
 * row, too, is taken before the other's. */
#include <errno.h>
#include <time.h>

#include "base/log.h"
#include "cache/mem.h"
#include "cache/store.h"

#define BATCH 1024
#define BATCH_MS 100 /* how long rows gather before they are written */
#define RETRY_S 1    /* after a failed transaction */
#define STOP_TRIES 3 /* at the end, a full disk is not waited for */
#define LOG_EVERY_TRIES 60

enum op_kind {
	OP_NONE,
	OP_PUT_BLOB,
	OP_DEL_BLOB,
	OP_DEL_BLOB_ROW,
	OP_PUT_INGEST,
	OP_DEL_INGEST,
	OP_PUT_VERSION,
	OP_DEL_VERSION,
	OP_PUT_PIN,
	OP_DEL_PIN,
};

struct op {
	enum op_kind kind;
	struct blob *blob; /* counted */
	struct blob_row row;
	struct cairn_labels *labels;
	void *owners;
	struct chain *chain;
	struct ingest_data *data; /* counted */
	struct ingest_row ingest;
	void *states;
	struct version *version; /* counted; its name does not change */
	struct version_row version_row;
	struct cairn_needs *needs;
	struct pin *pin; /* counted; its target does not change */
	struct pin_row pin_row;
};

static void add_locked(struct cairn_cache *c, struct dirty *d, bool first) CAIRN_REQUIRES(&c->mu)
{
	struct dirty_list *list = first ? &c->dirty_first : &c->dirty;
	d->queued = true;
	d->first = first;
	if (TAILQ_EMPTY(list)) pthread_cond_signal(&c->dirty_cond);
	TAILQ_INSERT_TAIL(list, d, link);
}

void writer_add_blob_locked(struct cairn_cache *c, struct blob *b)
{
	struct dirty *d = &b->dirty;
	bool goes = b->gone || b->evicting != 0;
	if (d->queued && goes && !d->first) {
		TAILQ_REMOVE(&c->dirty, d, link);
		add_locked(c, d, true);
	}
	if (d->queued || (b->gone && !b->has_row)) return;
	blob_ref(b);
	add_locked(c, d, goes);
}

void writer_add_ingest_locked(struct cairn_cache *c, struct ingest_data *d)
{
	if (d->dirty.queued || (d->dead && !d->has_row)) return;
	d->dirty.kind = DIRTY_INGEST;
	data_ref(d);
	add_locked(c, &d->dirty, false);
}

void writer_add_version_locked(struct cairn_cache *c, struct version *v)
{
	if (v->dirty.queued || (v->gone && !v->has_row)) return;
	v->dirty.kind = DIRTY_VERSION;
	v->refs++;
	add_locked(c, &v->dirty, false);
}

void writer_add_pin_locked(struct cairn_cache *c, struct pin *p)
{
	if (p->dirty.queued || (p->gone && !p->has_row)) return;
	p->dirty.kind = DIRTY_PIN;
	p->refs++;
	add_locked(c, &p->dirty, false);
}

static void take_blob_locked(struct cairn_cache *c, struct blob *b, struct op *op)
	CAIRN_REQUIRES(&c->mu)
{
	op->blob = b;
	op->row.digest = b->digest;
	if (b->gone) {
		op->kind = b->has_row ? OP_DEL_BLOB : OP_NONE;
		b->has_row = false; /* once: by then the row may be that of a new blob */
		return;
	}
	op->kind = OP_DEL_BLOB_ROW;
	if (b->evicting != 0) return; /* has_row stays: its chain has one */
	op->kind = OP_PUT_BLOB;
	op->row.size = b->size;
	op->row.state = b->state;
	op->row.damaged = b->damaged;
	op->row.known = b->known;
	op->row.created_ns = b->created_ns;
	op->row.updated_ns = b->updated_ns;
	b->saved_used_ns = b->used_ns;
	op->row.used_ns = b->saved_used_ns + c->age_offset_ns;
	op->labels = labels_ref(b->labels);
	op->owners = mem_copy(b->owners, b->owners_len);
	op->row.owners = op->owners;
	op->row.owners_len = b->owners_len;
	op->chain = cairn_steal(&b->new_chain);
	b->has_row = true;
}

static void take_ingest_locked(struct ingest_data *d, struct op *op)
{
	op->data = d;
	op->ingest.id = d->id;
	if (d->dead) {
		op->kind = OP_DEL_INGEST;
		return;
	}
	size_t width = d->chain.width, first = d->saved_states;
	op->kind = OP_PUT_INGEST;
	op->ingest = d->row;
	op->ingest.owner = d->row.owner != NULL ? mem_dup(d->row.owner) : NULL;
	op->ingest.states_first = first;
	op->ingest.states_len = (d->row_states - first) * width;
	op->states = mem_copy(d->chain.states + first * width, op->ingest.states_len);
	op->ingest.states = op->states;
	d->saved_states = d->row_states;
	d->has_row = true;
}

static void take_version_locked(struct version *v, struct op *op)
{
	op->version = v;
	op->kind = v->gone ? OP_DEL_VERSION : OP_PUT_VERSION;
	op->version_row = (struct version_row){
		.name = v->v.name,
		.root = v->v.root,
		.first_ns = v->v.first_ns,
		.last_ns = v->v.last_ns,
		.first_real_ns = v->v.first_real_ns,
		.last_real_ns = v->v.last_real_ns,
		.complete = v->v.needs != NULL && v->v.needs->complete,
	};
	if (v->v.needs != NULL) op->needs = cairn_needs_ref(v->v.needs);
	v->saved_last_ns = v->v.last_ns;
	v->has_row = !v->gone;
}

static void take_pin_locked(struct pin *p, struct op *op)
{
	op->pin = p;
	op->kind = p->gone ? OP_DEL_PIN : OP_PUT_PIN;
	op->pin_row = (struct pin_row){p->p.target, p->p.since_ns, p->p.until_ns};
	p->has_row = !p->gone;
}

static void op_fini(struct cairn_cache *c, struct op *op)
{
	labels_unref(op->labels);
	free(op->owners);
	if (op->chain != NULL) chain_fini(op->chain);
	free(op->chain);
	free(op->states);
	if (op->data != NULL) free((void *)(uintptr_t)op->ingest.owner);
	if (op->blob != NULL) blob_unref(op->blob);
	if (op->data != NULL) data_unref(op->data);
	cairn_needs_unref(op->needs);
	if (op->version != NULL || op->pin != NULL) {
		lock(&c->mu);
		if (op->version != NULL) version_unref_locked(op->version);
		if (op->pin != NULL) pin_unref_locked(op->pin);
		unlock(&c->mu);
	}
	*op = (struct op){0};
}

static void take_one_locked(struct cairn_cache *c, struct dirty *d, struct op *op)
	CAIRN_REQUIRES(&c->mu)
{
	switch (d->kind) {
	case DIRTY_BLOB:
		take_blob_locked(c, dirty_of(d, struct blob), op);
		break;
	case DIRTY_INGEST:
		take_ingest_locked(dirty_of(d, struct ingest_data), op);
		break;
	case DIRTY_VERSION:
		take_version_locked(dirty_of(d, struct version), op);
		break;
	default:
		take_pin_locked(dirty_of(d, struct pin), op);
	}
}

static size_t take_from_locked(struct cairn_cache *c, struct dirty_list *list, struct op *ops,
			       size_t n) CAIRN_REQUIRES(&c->mu)
{
	struct dirty *d;
	while (n < BATCH && (d = TAILQ_FIRST(list)) != NULL) {
		TAILQ_REMOVE(list, d, link);
		d->queued = false;
		take_one_locked(c, d, &ops[n++]);
	}
	return n;
}

/* To be taken again, before those that came later. */
static void give_back_locked(struct cairn_cache *c, struct op *op) CAIRN_REQUIRES(&c->mu)
{
	struct dirty *d;
	if (op->blob != NULL) {
		if (op->blob->new_chain == NULL) op->blob->new_chain = cairn_steal(&op->chain);
		d = &op->blob->dirty;
	} else if (op->data != NULL) {
		if (op->kind == OP_PUT_INGEST) op->data->saved_states = op->ingest.states_first;
		d = &op->data->dirty;
	} else if (op->version != NULL) {
		op->version->has_row = true; /* or it may have one */
		d = &op->version->dirty;
	} else {
		op->pin->has_row = true;
		d = &op->pin->dirty;
	}
	if (d->queued) return; /* it has changed since, and waits already */
	if (op->blob != NULL) blob_ref(op->blob);
	if (op->data != NULL) data_ref(op->data);
	if (op->version != NULL) op->version->refs++;
	if (op->pin != NULL) op->pin->refs++;
	d->queued = true;
	d->first = false;
	TAILQ_INSERT_HEAD(&c->dirty, d, link);
}

static void put_blob(struct index *x, struct op *op)
{
	size_t labels_len;
	void *labels = labels_pack(op->labels, &labels_len);
	op->row.labels = labels;
	op->row.labels_len = labels_len;
	index_put_blob(x, &op->row);
	free(labels);
	op->row.labels = NULL;
	if (op->chain != NULL && op->chain->n > 0) {
		index_put_chain(x, &op->row.digest, op->chain->states,
				op->chain->n * op->chain->width);
	}
}

static void put_version(struct index *x, struct op *op)
{
	size_t len;
	void *needs = needs_pack(op->needs, &len);
	op->version_row.needs = needs;
	op->version_row.needs_len = len;
	index_put_version(x, &op->version_row);
	free(needs);
	op->version_row.needs = NULL;
}

static void apply(struct index *x, struct op *op)
{
	switch (op->kind) {
	case OP_NONE:
		break;
	case OP_PUT_BLOB:
		put_blob(x, op);
		break;
	case OP_DEL_BLOB:
		index_del_blob(x, &op->row.digest);
		break;
	case OP_DEL_BLOB_ROW:
		index_del_blob_row(x, &op->row.digest);
		break;
	case OP_PUT_INGEST:
		index_put_ingest(x, &op->ingest);
		break;
	case OP_DEL_INGEST:
		index_del_ingest(x, op->ingest.id);
		break;
	case OP_PUT_VERSION:
		put_version(x, op);
		break;
	case OP_DEL_VERSION:
		index_del_version(x, op->version_row.name, &op->version_row.root);
		break;
	case OP_PUT_PIN:
		index_put_pin(x, &op->pin_row);
		break;
	case OP_DEL_PIN:
		index_del_pin(x, op->pin_row.target);
		break;
	}
}

static struct timespec in_ms(int64_t ms)
{
	struct timespec then;
	clock_gettime(CLOCK_MONOTONIC, &then);
	then.tv_nsec += (long)(ms % 1000) * 1000000;
	then.tv_sec += ms / 1000 + then.tv_nsec / 1000000000;
	then.tv_nsec %= 1000000000;
	return then;
}

/* ---- batches */

struct batch {
	struct op *ops;
	size_t n;
	size_t n_first;		     /* of these, rows of blobs that go: the first ones */
	size_t n_written;	     /* likewise */
	bool durable;		     /* somebody waits for it to be */
	bool first_only;	     /* the others must wait, for want of room */
	uint64_t serves[ROWS_KINDS]; /* who waits for what: up to here */
};

/* The thread's own, from batch to batch. */
struct writing {
	unsigned failures; /* in a row */
	size_t piece;	   /* rows of one transaction */
	bool no_reserve;   /* it was given up, and could not be laid by again yet */
};

enum written { WRITTEN, GIVEN_BACK, LOST };

static bool is_awaited_locked(struct cairn_cache *c, enum rows rows) CAIRN_REQUIRES(&c->mu)
{
	return c->sync_wanted[rows] > c->sync_done[rows];
}

/* Blobs are to go, and somebody may be waiting for that. */
static bool first_wait_locked(struct cairn_cache *c) CAIRN_REQUIRES(&c->mu)
{
	return !TAILQ_EMPTY(&c->dirty_first) || is_awaited_locked(c, ROWS_THAT_GO);
}

static bool is_idle_locked(struct cairn_cache *c) CAIRN_REQUIRES(&c->mu)
{
	return TAILQ_EMPTY(&c->dirty) && !first_wait_locked(c) && !is_awaited_locked(c, ROWS_ALL);
}

/* Let rows gather, unless somebody waits for one. */
static void gather_locked(struct cairn_cache *c) CAIRN_REQUIRES(&c->mu)
{
	struct timespec until = in_ms(BATCH_MS);
	while (!c->writer_stop && !is_awaited_locked(c, ROWS_THAT_GO) &&
	       !is_awaited_locked(c, ROWS_ALL)) {
		if (pthread_cond_timedwait(&c->dirty_cond, &c->mu.os, &until) == ETIMEDOUT) break;
	}
}

static void take_locked(struct cairn_cache *c, struct batch *b) CAIRN_REQUIRES(&c->mu)
{
	memset(b->ops, 0, BATCH * sizeof(b->ops[0]));
	b->n_written = 0;
	b->n = b->n_first = take_from_locked(c, &c->dirty_first, b->ops, 0);
	if (!b->first_only) b->n = take_from_locked(c, &c->dirty, b->ops, b->n);
	/* What is in no list any more is durable with this batch, if not with one before. */
	bool all_first = TAILQ_EMPTY(&c->dirty_first), all = all_first && TAILQ_EMPTY(&c->dirty);
	b->serves[ROWS_THAT_GO] = (all_first ? c->sync_wanted : c->sync_done)[ROWS_THAT_GO];
	b->serves[ROWS_ALL] = (all ? c->sync_wanted : c->sync_done)[ROWS_ALL];
	b->durable = b->serves[ROWS_THAT_GO] > c->sync_done[ROWS_THAT_GO] ||
		     b->serves[ROWS_ALL] > c->sync_done[ROWS_ALL];
}

static enum cairn_code try_piece(struct cairn_cache *c, const struct batch *b, size_t n,
				 struct cairn_err *err)
{
	struct op *ops = b->ops + b->n_written;
	enum cairn_code code = index_set_durable(c->index, b->durable, err);
	if (code != CAIRN_OK) return code;
	index_begin(c->index);
	for (size_t i = 0; i < n; i++) apply(c->index, &ops[i]);
	index_put_age(c->index, cairn_cache_now_ns(c));
	return index_commit(c->index, err);
}

static void set_write_err(struct cairn_cache *c, const struct cairn_err *err)
{
	lock(&c->mu);
	c->write_err = *err;
	unlock(&c->mu);
}

static void note_failure(struct cairn_cache *c, struct writing *w, size_t n, struct cairn_err *err)
{
	if (w->failures++ % LOG_EVERY_TRIES == 0) {
		cairn_log(CAIRN_LOG_WARN, "index_write_failed", CAIRN_ERRF(err),
			  CAIRN_NUM("tries", w->failures), CAIRN_NUM("rows", n));
	}
	set_write_err(c, err);
	if (err->code != CAIRN_RESOURCE_EXHAUSTED) return;
	reserve_give_up(c);
	w->no_reserve = true;
	index_reuse_log(c->index);
}

/* The next piece may use this one's room, and be larger. */
static void note_piece(struct cairn_cache *c, struct writing *w)
{
	if (w->piece == BATCH) return;
	index_reuse_log(c->index);
	w->piece = 2 * w->piece < BATCH ? 2 * w->piece : BATCH;
}

static void note_success(struct cairn_cache *c, struct writing *w, const struct batch *b)
{
	/* Room comes back as ingests and blobs go, whose rows go with them. */
	if (w->no_reserve) w->no_reserve = !reserve_keep(c);
	if (w->failures == 0 || b->first_only) return; /* the others still find no room */
	cairn_log(CAIRN_LOG_INFO, "index_written_again", CAIRN_NUM("tries", w->failures + 1));
	w->failures = 0;
	set_write_err(c, &(struct cairn_err){0});
}

/* Returns whether to try again: the same rows, after a while. At the end of the store only so
 * often, and not at all when others come first. */
static bool wait_for_room(struct cairn_cache *c, const struct writing *w, const struct batch *b,
			  unsigned *stopping, enum written *ret)
{
	/* The first time, the reserve may have made the room that was lacking. */
	struct timespec until = in_ms(w->failures <= 1 ? 0 : INT64_C(1000) * RETRY_S);
	bool yields = b->n_written >= b->n_first && !b->first_only, others = false;
	lock(&c->mu);
	for (int rc = 0; !c->writer_stop && rc != ETIMEDOUT;) {
		others = yields && first_wait_locked(c);
		if (others) break;
		rc = pthread_cond_timedwait(&c->dirty_cond, &c->mu.os, &until);
	}
	*ret = others ? GIVEN_BACK : LOST;
	for (size_t i = b->n; others && i > b->n_written; i--) give_back_locked(c, &b->ops[i - 1]);
	bool again = !others && (!c->writer_stop || ++*stopping < STOP_TRIES);
	unlock(&c->mu);
	return again;
}

static enum written write_batch(struct cairn_cache *c, struct writing *w, struct batch *b)
{
	enum written how = WRITTEN;
	for (unsigned stopping = 0;;) {
		struct cairn_err err;
		size_t left = b->n - b->n_written, n = left < w->piece ? left : w->piece;
		if (try_piece(c, b, n, &err) == CAIRN_OK) {
			b->n_written += n;
			note_piece(c, w);
			if (b->n_written < b->n) continue;
			note_success(c, w, b);
			return WRITTEN;
		}
		note_failure(c, w, n, &err);
		if (err.code == CAIRN_RESOURCE_EXHAUSTED && n > 1) {
			w->piece = (n + 3) / 4;
		} else if (!wait_for_room(c, w, b, &stopping, &how)) {
			return how;
		}
	}
}

static void *writer_thread(void *arg)
{
	struct cairn_cache *c = arg;
	struct batch b = {.ops = mem_zero(BATCH * sizeof(struct op))};
	struct writing w = {.piece = BATCH};
	lock(&c->mu);
	for (;;) {
		while (is_idle_locked(c) && !c->writer_stop) {
			pthread_cond_wait(&c->dirty_cond, &c->mu.os);
		}
		if (is_idle_locked(c)) break;
		if (b.n < BATCH) gather_locked(c);
		b.first_only = w.failures > 0 && first_wait_locked(c);
		take_locked(c, &b);
		unlock(&c->mu);
		enum written how = write_batch(c, &w, &b);
		for (size_t i = 0; i < b.n; i++) op_fini(c, &b.ops[i]);
		lock(&c->mu);
		if (how == LOST) c->rows_lost = true;
		if (!b.durable || (how == GIVEN_BACK && b.n_written == 0)) continue;
		c->sync_done[ROWS_THAT_GO] = b.serves[ROWS_THAT_GO];
		if (how != GIVEN_BACK) c->sync_done[ROWS_ALL] = b.serves[ROWS_ALL];
		pthread_cond_broadcast(&c->sync_cond);
	}
	unlock(&c->mu);
	free(b.ops);
	return NULL;
}

enum cairn_code writer_sync(struct cairn_cache *c, enum rows rows, struct cairn_err *err)
{
	struct timespec until = in_ms(c->sync_ms);
	enum cairn_code code = CAIRN_OK;
	lock(&c->mu);
	uint64_t want = ++c->sync_wanted[rows];
	pthread_cond_signal(&c->dirty_cond);
	int rc = 0;
	while (c->sync_done[rows] < want && rc != ETIMEDOUT) {
		rc = pthread_cond_timedwait(&c->sync_cond, &c->mu.os, &until);
	}
	if (c->sync_done[rows] < want) {
		*err = c->write_err;
		code = err->code != CAIRN_OK
			       ? cairn_err_wrap(err, "the index was not written within %u ms",
						c->sync_ms)
			       : cairn_err_set(err, CAIRN_DEADLINE_EXCEEDED,
					       "the index was not written within %u ms",
					       c->sync_ms);
	} else if (c->rows_lost) {
		*err = c->write_err;
		code = cairn_err_wrap(err, "the last rows are lost");
	}
	unlock(&c->mu);
	return code;
}

enum cairn_code writer_start(struct cairn_cache *c, struct cairn_err *err)
{
	int rc = pthread_create(&c->writer, NULL, writer_thread, c);
	if (rc != 0) return cairn_err_sys(err, rc, "start the thread that writes the index");
	c->writer_started = true;
	return CAIRN_OK;
}

void writer_stop(struct cairn_cache *c)
{
	if (!c->writer_started) return;
	lock(&c->mu);
	c->writer_stop = true;
	pthread_cond_broadcast(&c->dirty_cond);
	unlock(&c->mu);
	pthread_join(c->writer, NULL);
	c->writer_started = false;
}
