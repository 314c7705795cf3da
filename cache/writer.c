/* The thread that writes rows: takes what is dirty in batches, copies it under mu, and repeats a
 * failed transaction until it succeeds. What is in memory is right meanwhile; after a crash the
 * store is in doubt anyway (index.h, meta.clean). */
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

static void add_locked(struct cairn_cache *c, struct dirty *d) CAIRN_REQUIRES(&c->mu)
{
	d->queued = true;
	d->next = NULL;
	if (c->dirty_head == NULL) pthread_cond_signal(&c->dirty_cond);
	*c->dirty_tail = d;
	c->dirty_tail = &d->next;
}

void writer_add_blob_locked(struct cairn_cache *c, struct blob *b)
{
	if (b->dirty.queued) return;
	if (b->gone && !b->has_row) return;
	blob_ref(b);
	add_locked(c, &b->dirty);
}

void writer_add_ingest_locked(struct cairn_cache *c, struct ingest_data *d)
{
	if (d->dirty.queued || (d->dead && !d->has_row)) return;
	d->dirty.kind = DIRTY_INGEST;
	data_ref(d);
	add_locked(c, &d->dirty);
}

void writer_add_version_locked(struct cairn_cache *c, struct version *v)
{
	if (v->dirty.queued || (v->gone && !v->has_row)) return;
	v->dirty.kind = DIRTY_VERSION;
	v->refs++;
	add_locked(c, &v->dirty);
}

void writer_add_pin_locked(struct cairn_cache *c, struct pin *p)
{
	if (p->dirty.queued || (p->gone && !p->has_row)) return;
	p->dirty.kind = DIRTY_PIN;
	p->refs++;
	add_locked(c, &p->dirty);
}

static void take_blob_locked(struct cairn_cache *c, struct blob *b, struct op *op)
	CAIRN_REQUIRES(&c->mu)
{
	op->blob = b;
	op->row.digest = b->digest;
	if (b->gone) {
		op->kind = OP_DEL_BLOB;
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

static size_t take_locked(struct cairn_cache *c, struct op *ops) CAIRN_REQUIRES(&c->mu)
{
	size_t n = 0;
	memset(ops, 0, BATCH * sizeof(*ops));
	while (n < BATCH && c->dirty_head != NULL) {
		struct dirty *d = c->dirty_head;
		c->dirty_head = d->next;
		if (c->dirty_head == NULL) c->dirty_tail = &c->dirty_head;
		d->queued = false;
		take_one_locked(c, d, &ops[n++]);
	}
	return n;
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

/* Until then, or the end, or (if it may be hurried) until somebody waits for a row. */
static void wait_until_locked(struct cairn_cache *c, int64_t ms, bool hurry) CAIRN_REQUIRES(&c->mu)
{
	struct timespec until = in_ms(ms);
	while (!c->writer_stop && !(hurry && c->sync_wanted > c->sync_done)) {
		if (pthread_cond_timedwait(&c->dirty_cond, &c->mu.os, &until) == ETIMEDOUT) break;
	}
}

struct batch {
	struct op *ops;
	size_t n;
	bool durable; /* somebody waits for it to be */
};

static enum cairn_code try_batch(struct cairn_cache *c, const struct batch *b,
				 struct cairn_err *err)
{
	struct op *ops = b->ops;
	size_t n = b->n;
	enum cairn_code code = index_set_durable(c->index, b->durable, err);
	if (code != CAIRN_OK) return code;
	index_begin(c->index);
	for (size_t i = 0; i < n; i++) apply(c->index, &ops[i]);
	index_put_age(c->index, cairn_cache_now_ns(c));
	return index_commit(c->index, err);
}

static void note_failure(struct cairn_cache *c, const struct cairn_err *err)
{
	lock(&c->mu);
	c->write_err = err != NULL ? *err : (struct cairn_err){0};
	unlock(&c->mu);
	if (err != NULL && err->code == CAIRN_RESOURCE_EXHAUSTED) reserve_give_up(c);
}

/* Until it succeeds; at the end of the store only a few times. */
static bool write_batch(struct cairn_cache *c, const struct batch *b)
{
	for (unsigned tries = 0, stopping = 0;; tries++) {
		struct cairn_err err;
		if (try_batch(c, b, &err) == CAIRN_OK) {
			if (tries > 0) note_failure(c, NULL);
			if (tries > 0) {
				cairn_log(CAIRN_LOG_INFO, "index_written_again",
					  CAIRN_NUM("tries", tries + 1));
			}
			return true;
		}
		if (tries % LOG_EVERY_TRIES == 0) {
			cairn_log(CAIRN_LOG_WARN, "index_write_failed", CAIRN_ERRF(&err),
				  CAIRN_NUM("tries", tries + 1));
		}
		note_failure(c, &err);
		lock(&c->mu);
		/* The first time, the reserve may have made the room that was lacking. */
		wait_until_locked(c, tries == 0 ? 0 : INT64_C(1000) * RETRY_S, false);
		bool give_up = c->writer_stop && ++stopping >= STOP_TRIES;
		unlock(&c->mu);
		if (give_up) return false;
	}
}

static void *writer_thread(void *arg)
{
	struct cairn_cache *c = arg;
	struct op *ops = mem_zero(BATCH * sizeof(*ops));
	size_t n = 0;
	lock(&c->mu);
	for (;;) {
		while (c->dirty_head == NULL && c->sync_wanted == c->sync_done && !c->writer_stop) {
			pthread_cond_wait(&c->dirty_cond, &c->mu.os);
		}
		if (c->dirty_head == NULL && c->sync_wanted == c->sync_done) break;
		if (n < BATCH) wait_until_locked(c, BATCH_MS, true);
		n = take_locked(c, ops);
		/* What is in the queue no more is durable with this transaction. */
		uint64_t sync = c->dirty_head == NULL ? c->sync_wanted : c->sync_done;
		struct batch b = {ops, n, sync > c->sync_done};
		unlock(&c->mu);
		bool written = write_batch(c, &b);
		for (size_t i = 0; i < n; i++) op_fini(c, &ops[i]);
		lock(&c->mu);
		if (!written) c->rows_lost = true;
		if (b.durable) {
			c->sync_done = sync;
			pthread_cond_broadcast(&c->sync_cond);
		}
	}
	unlock(&c->mu);
	free(ops);
	return NULL;
}

enum cairn_code writer_sync(struct cairn_cache *c, struct cairn_err *err)
{
	struct timespec until = in_ms(c->sync_ms);
	enum cairn_code code = CAIRN_OK;
	lock(&c->mu);
	uint64_t want = ++c->sync_wanted;
	pthread_cond_signal(&c->dirty_cond);
	int rc = 0;
	while (c->sync_done < want && rc != ETIMEDOUT) {
		rc = pthread_cond_timedwait(&c->sync_cond, &c->mu.os, &until);
	}
	if (c->sync_done < want) {
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
