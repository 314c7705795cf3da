/* The writer: what we hold goes to etcd in batches, at a bounded rate.
 *
 * A batch looks first, which is cheap for etcd (no disk, no consensus about it): how many records
 * has the blob, and is one slot, chosen by chance, free? Only a blob that has room gets a record of
 * ours, by a transaction that wants the slot free still. Whoever loses that race looks again.
 *
 * News goes at once. What is said again, because etcd forgot us or at a start, goes slower the more
 * nodes there are, since then all of them may do the same at that moment. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "p2p/etcd_impl.h"

#define BATCH 40	   /* entries; each takes at most 2 requests to look, 3 to write */
#define FRESH_MS 5	   /* between two batches of news */
#define BULK_MS 20	   /* between two others, and a millisecond for each 2 members */
#define BACKOFF_BATCHES 10 /* a new lease: begin within the time of so many batches */
#define TRIES_MAX 8	   /* to get a slot, until the next sweep */
#define CALL_MS 2000
#define RETRY_MS 1000
#define BUCKETS_MIN 64

static_assert(3 * BATCH + 1 <= CAIRN_ETCD_OPS_MAX, "an inner transaction counts again");

/* ---- entries --------------------------------------------------------------------------------- */

static size_t bucket_of(const struct cairn_etcd *d, const struct cairn_digest *digest)
{
	uint64_t h; /* digests are random already */
	memcpy(&h, digest->bytes, sizeof(h));
	return (size_t)(h & (d->n_buckets - 1));
}

struct cairn_etcd_entry *cairn_etcd_find_locked(struct cairn_etcd *d,
						const struct cairn_digest *digest)
{
	if (d->n_buckets == 0) return NULL;
	struct cairn_etcd_entry *e = d->buckets[bucket_of(d, digest)];
	while (e != NULL && !cairn_digest_equal(&e->digest, digest)) e = e->chain;
	return e;
}

static void grow_locked(struct cairn_etcd *d)
{
	size_t n = d->n_buckets == 0 ? BUCKETS_MIN : 2 * d->n_buckets;
	free(d->buckets);
	d->buckets = calloc(n, sizeof(struct cairn_etcd_entry *));
	d->all = realloc(d->all, n * sizeof(struct cairn_etcd_entry *));
	if (d->buckets == NULL || d->all == NULL) abort();
	d->n_buckets = d->cap_all = n;
	for (size_t i = 0; i < d->n_all; i++) {
		size_t k = bucket_of(d, &d->all[i]->digest);
		d->all[i]->chain = d->buckets[k];
		d->buckets[k] = d->all[i];
	}
}

struct cairn_etcd_entry *cairn_etcd_entry_locked(struct cairn_etcd *d,
						 const struct cairn_digest *digest)
{
	struct cairn_etcd_entry *e = cairn_etcd_find_locked(d, digest);
	if (e != NULL) return e;
	if (d->n_all == d->cap_all) grow_locked(d);
	e = calloc(1, sizeof(*e));
	if (e == NULL) abort();
	e->digest = *digest;
	e->hold_slot = e->join_slot = -1;
	size_t k = bucket_of(d, digest);
	e->chain = d->buckets[k];
	d->buckets[k] = e;
	e->at = d->n_all;
	d->all[d->n_all++] = e;
	return e;
}

static void forget_locked(struct cairn_etcd *d, struct cairn_etcd_entry *e)
{
	struct cairn_etcd_entry **at = &d->buckets[bucket_of(d, &e->digest)];
	while (*at != e) at = &(*at)->chain;
	*at = e->chain;
	d->all[e->at] = d->all[--d->n_all];
	d->all[e->at]->at = e->at;
	free(e);
}

void cairn_etcd_free_entries(struct cairn_etcd *d)
{
	for (size_t i = 0; i < d->n_all; i++) free(d->all[i]);
	free(d->all);
	free(d->buckets);
}

bool cairn_etcd_is_leaving_locked(const struct cairn_etcd_entry *e)
{
	return e->drop_join || e->drop_grant || (e->hold_slot >= 0 && !e->want_hold) ||
	       (e->busy && !e->want_hold);
}

static bool has_work_locked(const struct cairn_etcd_entry *e)
{
	if (e->want_hold && e->hold_slot < 0 && !e->enough) return true;
	if (e->hold_slot >= 0 && (!e->want_hold || e->verify)) return true;
	return e->drop_join || e->drop_grant;
}

static void push_locked(struct cairn_etcd_queue *queue, struct cairn_etcd_entry *e)
{
	if (queue->first == NULL) queue->last = &queue->first;
	e->next = NULL;
	*queue->last = e;
	queue->last = &e->next;
	e->queued = true;
}

static struct cairn_etcd_entry *pop_locked(struct cairn_etcd_queue *queue)
{
	struct cairn_etcd_entry *e = queue->first;
	if (e == NULL) return NULL;
	queue->first = e->next;
	e->queued = false;
	return e;
}

void cairn_etcd_settle_locked(struct cairn_etcd *d, struct cairn_etcd_entry *e,
			      struct cairn_etcd_queue *queue)
{
	if (e->busy || e->queued) return; /* it is settled when it comes back */
	if (has_work_locked(e)) {
		push_locked(queue, e);
	} else if (!e->want_hold && e->hold_slot < 0 && e->join_slot < 0 && !e->granted) {
		forget_locked(d, e);
	}
}

static int64_t bulk_ms_locked(const struct cairn_etcd *d)
{
	return BULK_MS + (int64_t)d->n_members / 2;
}

void cairn_etcd_new_epoch_locked(struct cairn_etcd *d, int64_t lease)
{
	d->lease = lease;
	if (lease == 0) return;
	d->epoch++;
	for (size_t i = d->n_all; i-- > 0;) { /* backwards: what is forgotten moves the last */
		struct cairn_etcd_entry *e = d->all[i];
		e->hold_slot = e->join_slot = -1;
		e->drop_join = e->drop_grant = e->granted = e->enough = e->verify = false;
		e->tries = 0;
		cairn_etcd_settle_locked(d, e, &d->bulk);
	}
	uint64_t within = (uint64_t)(BACKOFF_BATCHES * bulk_ms_locked(d));
	d->bulk.next_ms = cairn_etcd_now_ms();
	if (d->epoch > 1) d->bulk.next_ms += (int64_t)(cairn_etcd_random_locked(d) % within);
}

bool cairn_etcd_all_said_locked(const struct cairn_etcd *d)
{
	return d->state == CAIRN_ETCD_READY && d->lease != 0 && d->fresh.first == NULL &&
	       d->bulk.first == NULL && !d->writing;
}

/* ---- a batch --------------------------------------------------------------------------------- */

/* One entry as it was when the batch was made. */
struct item {
	struct cairn_etcd_entry *e; /* busy: it stays */
	struct cairn_digest digest;
	int hold, join;	   /* slots of ours */
	int probe;	   /* the slot to take; -1: none */
	bool look, verify; /* is there room; is our record there */
	bool search;	   /* there is, but not in that slot */
	bool full, lost;   /* what was found */
	bool claim, claimed;
	bool drop_hold, drop_join, drop_grant;
};

struct batch {
	struct item items[BATCH];
	size_t n;
	struct cairn_etcd_queue *queue;
	int64_t lease;
	uint64_t epoch, seed;
};

static void add_item_locked(struct cairn_etcd *d, struct batch *b, struct cairn_etcd_entry *e)
{
	struct item *item = &b->items[b->n++];
	*item = (struct item){.e = e, .digest = e->digest, .probe = -1};
	item->hold = e->hold_slot;
	item->join = e->join_slot;
	item->look = e->want_hold && e->hold_slot < 0 && !e->enough;
	item->verify = e->want_hold && e->hold_slot >= 0 && e->verify;
	item->drop_hold = !e->want_hold && e->hold_slot >= 0;
	item->drop_join = e->drop_join && e->join_slot >= 0;
	item->drop_grant = e->drop_grant;
	if (item->look) item->probe = (int)(cairn_etcd_random_locked(d) % CAIRN_HOLDERS_MAX);
	e->busy = true;
}

static void take_batch_locked(struct cairn_etcd *d, struct cairn_etcd_queue *queue, struct batch *b)
{
	b->n = 0;
	b->queue = queue;
	b->lease = d->lease;
	b->epoch = d->epoch;
	b->seed = cairn_etcd_random_locked(d);
	while (b->n < BATCH) {
		struct cairn_etcd_entry *e = pop_locked(queue);
		if (e == NULL) break;
		if (has_work_locked(e)) {
			add_item_locked(d, b, e);
		} else {
			cairn_etcd_settle_locked(d, e, queue);
		}
	}
	d->writing = b->n > 0;
}

static enum cairn_code send_txn(struct cairn_etcd *d, struct cairn_etcd_builder *builder,
				Etcdserverpb__TxnResponse **ret, struct cairn_err *err)
{
	const struct cairn_etcd_question q = {CAIRN_ETCD_KV_TXN, &builder->txn.base,
					      &etcdserverpb__txn_response__descriptor};
	ProtobufCMessage *reply;
	enum cairn_code rc = cairn_etcd_background_call(d->links, &q, CALL_MS, &reply, err);
	if (rc == CAIRN_OK) *ret = (Etcdserverpb__TxnResponse *)(void *)reply;
	return rc;
}

static void free_txn(Etcdserverpb__TxnResponse **r)
{
	if (*r != NULL) protobuf_c_message_free_unpacked(&(*r)->base, NULL);
}

static enum cairn_code misfit(struct cairn_err *err)
{
	return cairn_err_set(err, CAIRN_INTERNAL, "etcd's answer does not fit the question");
}

/* ---- look: how many records are there, and is ours? */

static void add_looks(struct cairn_etcd *d, struct batch *b, struct cairn_etcd_builder *builder)
{
	char key[CAIRN_ETCD_KEY_MAX];
	for (size_t i = 0; i < b->n; i++) {
		const struct item *item = &b->items[i];
		if (item->look) {
			cairn_etcd_slots_key(&d->names, CAIRN_ETCD_HOLD, &item->digest, key);
			cairn_etcd_add(builder,
				       cairn_etcd_op_get(builder, key, 0, CAIRN_ETCD_GET_COUNT));
		}
		if (!item->look && !item->verify) continue;
		int slot = item->look ? item->probe : item->hold;
		cairn_etcd_slot_key(&d->names, CAIRN_ETCD_HOLD, &item->digest, (unsigned)slot, key);
		cairn_etcd_add(builder, cairn_etcd_op_get(builder, key, 1, CAIRN_ETCD_GET_KEYS));
	}
}

static enum cairn_code read_looks(struct batch *b, const Etcdserverpb__TxnResponse *r,
				  struct cairn_err *err)
{
	size_t k = 0;
	for (size_t i = 0; i < b->n; i++) {
		struct item *item = &b->items[i];
		if (!item->look && !item->verify) continue;
		const Etcdserverpb__RangeResponse *count = NULL, *slot;
		if (item->look && (count = cairn_etcd_range_at(r, k++)) == NULL) return misfit(err);
		if ((slot = cairn_etcd_range_at(r, k++)) == NULL) return misfit(err);
		const Etcdserverpb__KeyValue *kv = cairn_etcd_first(slot);
		if (item->verify) item->lost = kv == NULL || kv->lease != b->lease;
		if (!item->look) continue;
		/* What is under no lease counts as free. */
		item->claim = kv == NULL || kv->lease == 0 || kv->lease == b->lease;
		item->full = !item->claim && count->count >= CAIRN_HOLDERS_MAX;
		item->search = !item->claim && !item->full;
	}
	return CAIRN_OK;
}

static enum cairn_code look(struct cairn_etcd *d, struct batch *b, struct cairn_err *err)
{
	struct cairn_etcd_builder builder;
	cairn_auto(free_txn) Etcdserverpb__TxnResponse *r = NULL;
	enum cairn_code rc = CAIRN_OK;
	cairn_etcd_builder_init(&builder);
	add_looks(d, b, &builder);
	if (builder.txn.n_success > 0) {
		rc = send_txn(d, &builder, &r, err);
		if (rc == CAIRN_OK) rc = read_looks(b, r, err);
	}
	cairn_etcd_builder_clear(&builder);
	return rc;
}

/* ---- search: which slot is free? */

static enum cairn_code read_search(struct cairn_etcd *d, struct batch *b,
				   const Etcdserverpb__TxnResponse *r, struct cairn_err *err)
{
	char start[CAIRN_ETCD_KEY_MAX];
	size_t k = 0;
	for (size_t i = 0; i < b->n; i++) {
		struct item *item = &b->items[i];
		if (!item->search) continue;
		const Etcdserverpb__RangeResponse *range = cairn_etcd_range_at(r, k++);
		if (range == NULL) return misfit(err);
		cairn_etcd_slots_key(&d->names, CAIRN_ETCD_HOLD, &item->digest, start);
		item->probe = cairn_etcd_pick_free(cairn_etcd_read_slots(start, range), &b->seed);
		item->claim = item->probe >= 0;
		item->full = !item->claim;
	}
	return CAIRN_OK;
}

static enum cairn_code search(struct cairn_etcd *d, struct batch *b, struct cairn_err *err)
{
	struct cairn_etcd_builder builder;
	cairn_auto(free_txn) Etcdserverpb__TxnResponse *r = NULL;
	char key[CAIRN_ETCD_KEY_MAX];
	enum cairn_code rc = CAIRN_OK;
	cairn_etcd_builder_init(&builder);
	for (size_t i = 0; i < b->n; i++) {
		const struct item *item = &b->items[i];
		if (!item->search) continue;
		cairn_etcd_slots_key(&d->names, CAIRN_ETCD_HOLD, &item->digest, key);
		cairn_etcd_add(&builder, cairn_etcd_op_get(&builder, key, CAIRN_HOLDERS_MAX,
							   CAIRN_ETCD_GET_KEYS));
	}
	if (builder.txn.n_success > 0) {
		rc = send_txn(d, &builder, &r, err);
		if (rc == CAIRN_OK) rc = read_search(d, b, r, err);
	}
	cairn_etcd_builder_clear(&builder);
	return rc;
}

/* ---- write */

/* Take it back if it is ours. */
static void add_drop(struct cairn_etcd_builder *builder, const struct batch *b, const char *key)
{
	cairn_etcd_add(builder,
		       cairn_etcd_op_if(builder, cairn_etcd_lease_is(builder, key, b->lease), NULL,
					cairn_etcd_op_delete(builder, key), NULL));
}

static void add_writes(struct cairn_etcd *d, const struct batch *b,
		       struct cairn_etcd_builder *builder)
{
	char key[CAIRN_ETCD_KEY_MAX];
	for (size_t i = 0; i < b->n; i++) {
		const struct item *item = &b->items[i];
		const struct cairn_digest *digest = &item->digest;
		if (item->claim) {
			cairn_etcd_slot_key(&d->names, CAIRN_ETCD_HOLD, digest,
					    (unsigned)item->probe, key);
			/* The look at whose it is tells a claim that was made twice. */
			cairn_etcd_add(
				builder,
				cairn_etcd_op_if(
					builder, cairn_etcd_lease_is(builder, key, 0), NULL,
					cairn_etcd_op_put(builder, key, d->names.own, b->lease),
					cairn_etcd_op_get(builder, key, 1, CAIRN_ETCD_GET_KEYS)));
		}
		if (item->drop_hold) {
			cairn_etcd_slot_key(&d->names, CAIRN_ETCD_HOLD, digest,
					    (unsigned)item->hold, key);
			add_drop(builder, b, key);
		}
		if (item->drop_join) {
			cairn_etcd_slot_key(&d->names, CAIRN_ETCD_JOIN, digest,
					    (unsigned)item->join, key);
			add_drop(builder, b, key);
		}
		if (item->drop_grant) {
			add_drop(builder, b, cairn_etcd_grant_key(&d->names, digest, key));
		}
	}
}

static enum cairn_code read_writes(struct batch *b, const Etcdserverpb__TxnResponse *r,
				   struct cairn_err *err)
{
	size_t k = 0;
	for (size_t i = 0; i < b->n; i++) {
		struct item *item = &b->items[i];
		if (item->claim) {
			const Etcdserverpb__InnerTxnResponse *inner = cairn_etcd_inner_at(r, k++);
			if (inner == NULL) return misfit(err);
			item->claimed = cairn_etcd_read_claim(inner, b->lease);
		}
		k += (size_t)item->drop_hold + (size_t)item->drop_join + (size_t)item->drop_grant;
	}
	return CAIRN_OK;
}

static enum cairn_code write_batch(struct cairn_etcd *d, struct batch *b, struct cairn_err *err)
{
	struct cairn_etcd_builder builder;
	cairn_auto(free_txn) Etcdserverpb__TxnResponse *r = NULL;
	enum cairn_code rc = CAIRN_OK;
	cairn_etcd_builder_init(&builder);
	add_writes(d, b, &builder);
	if (builder.txn.n_success > 0) {
		rc = send_txn(d, &builder, &r, err);
		if (rc == CAIRN_OK) rc = read_writes(b, r, err);
	}
	cairn_etcd_builder_clear(&builder);
	return rc;
}

/* ---- and what came of it */

static void note_item_locked(struct cairn_etcd_entry *e, const struct item *item)
{
	if (item->verify) e->verify = false;
	if (item->lost) e->hold_slot = -1;
	if (item->claimed) {
		e->hold_slot = item->probe;
		e->tries = 0;
	} else if (item->full || (item->claim && ++e->tries >= TRIES_MAX)) {
		e->enough = true;
		e->tries = 0;
	}
	if (item->drop_hold) e->hold_slot = -1;
	if (item->drop_join) e->join_slot = -1;
	if (e->join_slot < 0) e->drop_join = false;
	if (item->drop_grant) e->drop_grant = e->granted = false;
}

static void end_batch_locked(struct cairn_etcd *d, const struct batch *b, enum cairn_code rc)
{
	for (size_t i = 0; i < b->n; i++) {
		const struct item *item = &b->items[i];
		struct cairn_etcd_entry *e = item->e;
		e->busy = false;
		if (rc == CAIRN_OK && b->epoch == d->epoch) note_item_locked(e, item);
		cairn_etcd_settle_locked(d, e, b->queue);
	}
	d->writing = false;
	pthread_cond_broadcast(&d->changed);
}

/* Tells once that writing does not work, and once that it does again. Returns what to log. */
static bool note_result_locked(struct cairn_etcd *d, enum cairn_code rc,
			       const struct cairn_err *err)
{
	/* Silence, or a lease that is gone, is the tender's to tell. */
	if (rc == CAIRN_UNAVAILABLE || rc == CAIRN_DEADLINE_EXCEEDED || rc == CAIRN_CANCELLED ||
	    rc == CAIRN_NOT_FOUND) {
		return false;
	}
	bool changed = (rc == CAIRN_OK) != (d->why_not_written.code == CAIRN_OK);
	if (rc == CAIRN_OK) {
		d->why_not_written = (struct cairn_err){0};
	} else {
		d->why_not_written = *err;
	}
	return changed;
}

static void say_batch(struct cairn_etcd *d, struct batch *b)
{
	struct cairn_err err = {0};
	enum cairn_code rc = look(d, b, &err);
	if (rc == CAIRN_OK) rc = search(d, b, &err);
	if (rc == CAIRN_OK) rc = write_batch(d, b, &err);
	if (rc != CAIRN_OK) cairn_etcd_kick(d, rc);
	pthread_mutex_lock(&d->mu);
	int64_t now = cairn_etcd_now_ms();
	int64_t pause = b->queue == &d->fresh ? FRESH_MS : bulk_ms_locked(d);
	b->queue->next_ms = now + cairn_etcd_jitter_locked(d, rc == CAIRN_OK ? pause : RETRY_MS);
	end_batch_locked(d, b, rc);
	bool tell = note_result_locked(d, rc, &err);
	pthread_mutex_unlock(&d->mu);
	if (!tell) return;
	if (rc == CAIRN_OK) {
		cairn_log(CAIRN_LOG_INFO, "etcd_writes", CAIRN_STR("state", "recovered"));
	} else {
		cairn_log(CAIRN_LOG_WARN, "etcd_writes", CAIRN_STR("state", "refused"),
			  CAIRN_ERRF(&err));
	}
}

/* ---- the sweep: every announced blob is looked after once in sweep_ms */

static void sweep_locked(struct cairn_etcd *d, int64_t now)
{
	size_t left = d->n_all < BATCH ? d->n_all : BATCH;
	for (; left > 0; left--) {
		if (d->cursor >= d->n_all) d->cursor = 0;
		struct cairn_etcd_entry *e = d->all[d->cursor++];
		if (!e->want_hold) continue;
		e->verify = e->hold_slot >= 0;
		e->enough = false;
		cairn_etcd_settle_locked(d, e, &d->bulk);
	}
	int64_t pause = d->sweep_ms;
	if (d->n_all > BATCH) pause = d->sweep_ms * BATCH / (int64_t)d->n_all;
	d->sweep_next_ms = now + cairn_etcd_jitter_locked(d, pause);
}

/* Which queue may be worked on now? NULL: none, before *ret_until. */
static struct cairn_etcd_queue *due_locked(struct cairn_etcd *d, int64_t *ret_until)
{
	int64_t now = cairn_etcd_now_ms(), until = now + 60000;
	struct cairn_etcd_queue *queues[] = {&d->fresh, &d->bulk};
	*ret_until = until;
	if (d->state != CAIRN_ETCD_READY || d->lease == 0) return NULL;
	if (now >= d->sweep_next_ms) sweep_locked(d, now);
	if (d->sweep_next_ms < *ret_until) *ret_until = d->sweep_next_ms;
	for (size_t i = 0; i < CAIRN_LEN(queues); i++) {
		if (queues[i]->first == NULL) continue;
		if (queues[i]->next_ms <= now) return queues[i];
		if (queues[i]->next_ms < *ret_until) *ret_until = queues[i]->next_ms;
	}
	return NULL;
}

void *cairn_etcd_write(void *arg)
{
	struct cairn_etcd *d = arg;
	struct batch *b = calloc(1, sizeof(*b));
	if (b == NULL) abort();
	pthread_mutex_lock(&d->mu);
	d->sweep_next_ms = cairn_etcd_now_ms() + cairn_etcd_jitter_locked(d, d->sweep_ms);
	while (!d->stop) {
		int64_t until;
		struct cairn_etcd_queue *queue = due_locked(d, &until);
		if (queue == NULL) {
			(void)cairn_etcd_wait_locked(d, until);
			continue;
		}
		take_batch_locked(d, queue, b);
		if (b->n == 0) {
			pthread_cond_broadcast(&d->changed);
			continue;
		}
		pthread_mutex_unlock(&d->mu);
		say_batch(d, b);
		pthread_mutex_lock(&d->mu);
	}
	pthread_mutex_unlock(&d->mu);
	free(b);
	return NULL;
}
