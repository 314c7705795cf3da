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

enum op_kind { OP_PUT_BLOB, OP_DEL_BLOB, OP_PUT_INGEST, OP_DEL_INGEST };

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
	d->dirty.is_ingest = true;
	data_ref(d);
	add_locked(c, &d->dirty);
}

static int64_t real_of_boot(struct cairn_cache *c, int64_t boot_ns)
{
	return cairn_real_ns(c->clock) - (cairn_boot_ns(c->clock) - boot_ns);
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
	op->kind = OP_PUT_BLOB;
	op->row.size = b->size;
	op->row.state = b->state;
	op->row.damaged = b->damaged;
	op->row.created_ns = b->created_ns;
	op->row.updated_ns = b->updated_ns;
	b->saved_used_ns = b->used_ns;
	op->row.used_ns = real_of_boot(c, b->saved_used_ns);
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

static void op_fini(struct op *op)
{
	labels_unref(op->labels);
	free(op->owners);
	if (op->chain != NULL) chain_fini(op->chain);
	free(op->chain);
	free(op->states);
	if (op->data != NULL) free((void *)(uintptr_t)op->ingest.owner);
	if (op->blob != NULL) blob_unref(op->blob);
	if (op->data != NULL) data_unref(op->data);
	*op = (struct op){0};
}

static struct blob *blob_of(struct dirty *d)
{
	return (struct blob *)((char *)d - offsetof(struct blob, dirty));
}

static struct ingest_data *data_of(struct dirty *d)
{
	return (struct ingest_data *)((char *)d - offsetof(struct ingest_data, dirty));
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
		if (d->is_ingest) {
			take_ingest_locked(data_of(d), &ops[n]);
		} else {
			take_blob_locked(c, blob_of(d), &ops[n]);
		}
		n++;
	}
	return n;
}

static void apply(struct index *x, struct op *op)
{
	size_t labels_len;
	void *labels;
	switch (op->kind) {
	case OP_PUT_BLOB:
		labels = labels_pack(op->labels, &labels_len);
		op->row.labels = labels;
		op->row.labels_len = labels_len;
		index_put_blob(x, &op->row);
		free(labels);
		op->row.labels = NULL;
		if (op->chain != NULL && op->chain->n > 0) {
			index_put_chain(x, &op->row.digest, op->chain->states,
					op->chain->n * op->chain->width);
		}
		break;
	case OP_DEL_BLOB:
		index_del_blob(x, &op->row.digest);
		break;
	case OP_PUT_INGEST:
		index_put_ingest(x, &op->ingest);
		break;
	case OP_DEL_INGEST:
		index_del_ingest(x, op->ingest.id);
		break;
	}
}

static void wait_until_locked(struct cairn_cache *c, int64_t ms) CAIRN_REQUIRES(&c->mu)
{
	struct timespec until;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += (long)(ms % 1000) * 1000000;
	until.tv_sec += ms / 1000 + until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	while (!c->writer_stop) {
		if (pthread_cond_timedwait(&c->dirty_cond, &c->mu.os, &until) == ETIMEDOUT) break;
	}
}

/* Until it succeeds; at the end of the store only a few times. */
static bool write_batch(struct cairn_cache *c, struct op *ops, size_t n)
{
	for (unsigned tries = 0, stopping = 0;; tries++) {
		struct cairn_err err;
		index_begin(c->index);
		for (size_t i = 0; i < n; i++) apply(c->index, &ops[i]);
		if (index_commit(c->index, &err) == CAIRN_OK) {
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
		lock(&c->mu);
		wait_until_locked(c, INT64_C(1000) * RETRY_S);
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
		while (c->dirty_head == NULL && !c->writer_stop) {
			pthread_cond_wait(&c->dirty_cond, &c->mu.os);
		}
		if (c->dirty_head == NULL) break;
		if (n < BATCH) wait_until_locked(c, BATCH_MS);
		n = take_locked(c, ops);
		unlock(&c->mu);
		bool written = write_batch(c, ops, n);
		for (size_t i = 0; i < n; i++) op_fini(&ops[i]);
		lock(&c->mu);
		if (!written) c->rows_lost = true;
	}
	unlock(&c->mu);
	free(ops);
	return NULL;
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
