#include "p2p/etcd_kv.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define KEY_TEXT CAIRN_ETCD_KEY_MAX

static_assert(CAIRN_HOLDERS_MAX == 32, "slots are the bits of a uint32_t");

/* ---- building -------------------------------------------------------------------------------- */

struct cairn_etcd_chunk {
	struct cairn_etcd_chunk *next;
	max_align_t data[];
};

static void *take(struct cairn_etcd_builder *b, size_t n)
{
	struct cairn_etcd_chunk *chunk = calloc(1, sizeof(*chunk) + n);
	if (chunk == NULL) abort();
	chunk->next = b->chunks;
	b->chunks = chunk;
	return chunk->data;
}

void cairn_etcd_builder_init(struct cairn_etcd_builder *b)
{
	b->chunks = NULL;
	etcdserverpb__txn_request__init(&b->txn);
}

void cairn_etcd_builder_clear(struct cairn_etcd_builder *b)
{
	while (b->chunks != NULL) {
		struct cairn_etcd_chunk *chunk = b->chunks;
		b->chunks = chunk->next;
		free(chunk);
	}
	etcdserverpb__txn_request__init(&b->txn);
}

static ProtobufCBinaryData copy_text(struct cairn_etcd_builder *b, const char *text)
{
	size_t n = strlen(text);
	ProtobufCBinaryData data = {.len = n, .data = take(b, n + 1)};
	memcpy(data.data, text, n);
	return data;
}

/* The first key that does not begin with it; empty if it is one key. */
static ProtobufCBinaryData end_of(struct cairn_etcd_builder *b, const char *key)
{
	ProtobufCBinaryData end = {0};
	size_t n = strlen(key);
	if (n == 0 || key[n - 1] != '/') return end;
	end = copy_text(b, key);
	end.data[n - 1] = '/' + 1;
	return end;
}

static void append(struct cairn_etcd_builder *b, cairn_etcd_op ***list, size_t *n,
		   cairn_etcd_op *op)
{
	assert(*n < CAIRN_ETCD_OPS_MAX);
	if (*list == NULL) *list = take(b, CAIRN_ETCD_OPS_MAX * sizeof(cairn_etcd_op *));
	(*list)[(*n)++] = op;
}

void cairn_etcd_add(struct cairn_etcd_builder *b, cairn_etcd_op *op)
{
	append(b, &b->txn.success, &b->txn.n_success, op);
}

void cairn_etcd_add_else(struct cairn_etcd_builder *b, cairn_etcd_op *op)
{
	append(b, &b->txn.failure, &b->txn.n_failure, op);
}

void cairn_etcd_add_cmp(struct cairn_etcd_builder *b, cairn_etcd_cmp *cmp)
{
	assert(b->txn.n_compare < 2);
	if (b->txn.compare == NULL) b->txn.compare = take(b, 2 * sizeof(cairn_etcd_cmp *));
	b->txn.compare[b->txn.n_compare++] = cmp;
}

static cairn_etcd_op *new_op(struct cairn_etcd_builder *b,
			     Etcdserverpb__RequestOp__RequestCase kind)
{
	cairn_etcd_op *op = take(b, sizeof(*op));
	etcdserverpb__request_op__init(op);
	op->request_case = kind;
	return op;
}

cairn_etcd_op *cairn_etcd_op_get(struct cairn_etcd_builder *b, const char *key, int64_t limit,
				 enum cairn_etcd_get what)
{
	cairn_etcd_op *op = new_op(b, ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_RANGE);
	op->request_range = take(b, sizeof(*op->request_range));
	etcdserverpb__range_request__init(op->request_range);
	op->request_range->key = copy_text(b, key);
	op->request_range->range_end = end_of(b, key);
	op->request_range->limit = what == CAIRN_ETCD_GET_COUNT ? 0 : limit;
	op->request_range->keys_only = what == CAIRN_ETCD_GET_KEYS;
	op->request_range->count_only = what == CAIRN_ETCD_GET_COUNT;
	return op;
}

cairn_etcd_op *cairn_etcd_op_put(struct cairn_etcd_builder *b, const char *key, const char *value,
				 int64_t lease)
{
	assert(lease != 0); /* nothing of ours outlives us */
	cairn_etcd_op *op = new_op(b, ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_PUT);
	op->request_put = take(b, sizeof(*op->request_put));
	etcdserverpb__put_request__init(op->request_put);
	op->request_put->key = copy_text(b, key);
	op->request_put->value = copy_text(b, value);
	op->request_put->lease = lease;
	return op;
}

cairn_etcd_op *cairn_etcd_op_delete(struct cairn_etcd_builder *b, const char *key)
{
	cairn_etcd_op *op = new_op(b, ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_DELETE_RANGE);
	op->request_delete_range = take(b, sizeof(*op->request_delete_range));
	etcdserverpb__delete_range_request__init(op->request_delete_range);
	op->request_delete_range->key = copy_text(b, key);
	return op;
}

static cairn_etcd_op **one_op(struct cairn_etcd_builder *b, cairn_etcd_op *op)
{
	cairn_etcd_op **list = take(b, sizeof(cairn_etcd_op *));
	list[0] = op;
	return list;
}

cairn_etcd_op *cairn_etcd_op_if(struct cairn_etcd_builder *b, cairn_etcd_cmp *a, cairn_etcd_cmp *c,
				cairn_etcd_op *then, cairn_etcd_op *otherwise)
{
	cairn_etcd_op *op = new_op(b, ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_TXN);
	Etcdserverpb__TxnRequest *txn = take(b, sizeof(*txn));
	etcdserverpb__txn_request__init(txn);
	op->request_txn = txn;
	txn->compare = take(b, 2 * sizeof(cairn_etcd_cmp *));
	txn->compare[txn->n_compare++] = a;
	if (c != NULL) txn->compare[txn->n_compare++] = c;
	txn->success = one_op(b, then);
	txn->n_success = 1;
	if (otherwise == NULL) return op;
	txn->failure = one_op(b, otherwise);
	txn->n_failure = 1;
	return op;
}

static cairn_etcd_cmp *new_cmp(struct cairn_etcd_builder *b, const char *key)
{
	cairn_etcd_cmp *cmp = take(b, sizeof(*cmp));
	etcdserverpb__compare__init(cmp);
	cmp->key = copy_text(b, key);
	cmp->range_end = end_of(b, key);
	return cmp;
}

cairn_etcd_cmp *cairn_etcd_lease_is(struct cairn_etcd_builder *b, const char *key, int64_t lease)
{
	cairn_etcd_cmp *cmp = new_cmp(b, key);
	cmp->target = ETCDSERVERPB__COMPARE__COMPARE_TARGET__LEASE;
	cmp->target_union_case = ETCDSERVERPB__COMPARE__TARGET_UNION_LEASE;
	cmp->lease = lease;
	return cmp;
}

cairn_etcd_cmp *cairn_etcd_mod_is(struct cairn_etcd_builder *b, const char *key, int64_t revision)
{
	cairn_etcd_cmp *cmp = new_cmp(b, key);
	cmp->target = ETCDSERVERPB__COMPARE__COMPARE_TARGET__MOD;
	cmp->target_union_case = ETCDSERVERPB__COMPARE__TARGET_UNION_MOD_REVISION;
	cmp->mod_revision = revision;
	return cmp;
}

cairn_etcd_cmp *cairn_etcd_mod_below(struct cairn_etcd_builder *b, const char *key,
				     int64_t revision)
{
	cairn_etcd_cmp *cmp = cairn_etcd_mod_is(b, key, revision);
	cmp->result = ETCDSERVERPB__COMPARE__COMPARE_RESULT__LESS;
	return cmp;
}

/* ---- answers --------------------------------------------------------------------------------- */

uint64_t cairn_etcd_random(uint64_t *seed)
{
	uint64_t z = *seed += UINT64_C(0x9e3779b97f4a7c15); /* splitmix64 */
	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

int cairn_etcd_pick_free(uint32_t taken, uint64_t *seed)
{
	int n_free = 32 - __builtin_popcount(taken);
	if (n_free == 0) return -1;
	int nth = (int)(cairn_etcd_random(seed) % (uint64_t)n_free);
	for (int slot = 0;; slot++) {
		if ((taken >> slot & 1) == 0 && nth-- == 0) return slot;
	}
}

const Etcdserverpb__RangeResponse *cairn_etcd_range_at(const Etcdserverpb__TxnResponse *r, size_t i)
{
	return i < r->n_responses ? r->responses[i]->response_range : NULL;
}

const Etcdserverpb__InnerTxnResponse *cairn_etcd_inner_at(const Etcdserverpb__TxnResponse *r,
							  size_t i)
{
	return i < r->n_responses ? r->responses[i]->response_txn : NULL;
}

const Etcdserverpb__KeyValue *cairn_etcd_first(const Etcdserverpb__RangeResponse *range)
{
	return range->n_kvs > 0 ? range->kvs[0] : NULL;
}

bool cairn_etcd_read_claim(const Etcdserverpb__InnerTxnResponse *r, int64_t lease)
{
	if (r->succeeded) return true;
	const Etcdserverpb__RangeResponse *range =
		r->n_responses == 1 ? r->responses[0]->response_range : NULL;
	const Etcdserverpb__KeyValue *kv = range != NULL ? cairn_etcd_first(range) : NULL;
	return kv != NULL && kv->lease == lease;
}

static bool is_known(const struct cairn_answer *answer, const struct cairn_node_id *node)
{
	for (size_t i = 0; i < answer->n; i++) {
		if (strcmp(answer->found[i].node.address, node->address) == 0) return true;
	}
	return false;
}

/* Indices [0, n) in a random order. */
static void shuffle(uint8_t *order, size_t n, uint64_t *seed)
{
	for (size_t i = 0; i < n; i++) order[i] = (uint8_t)i;
	for (size_t i = n; i > 1; i--) {
		size_t k = cairn_etcd_random(seed) % i;
		uint8_t t = order[i - 1];
		order[i - 1] = order[k];
		order[k] = t;
	}
}

/* Others of one kind, in random order, while there is room; and which slots they have. */
static void read_found(const struct cairn_etcd_reader *reader, enum cairn_etcd_kind kind,
		       const Etcdserverpb__RangeResponse *range, struct cairn_etcd_look *ret,
		       uint64_t *seed)
{
	char start[KEY_TEXT];
	uint8_t order[CAIRN_HOLDERS_MAX];
	struct cairn_answer *answer = &ret->answer;
	size_t n = range->n_kvs < CAIRN_HOLDERS_MAX ? range->n_kvs : CAIRN_HOLDERS_MAX;
	cairn_etcd_slots_key(reader->names, kind, reader->digest, start);
	shuffle(order, n, seed);
	for (size_t i = 0; i < n; i++) {
		const Etcdserverpb__KeyValue *kv = range->kvs[order[i]];
		struct cairn_node_id node;
		int slot = cairn_etcd_read_slot(start, kv->key.data, kv->key.len);
		if (slot < 0 || kv->lease == 0) continue; /* rubbish; its slot is as good as free */
		if (kind == CAIRN_ETCD_JOIN) ret->joins |= UINT32_C(1) << slot;
		if (!cairn_etcd_read_address(kv->value.data, kv->value.len, &node)) continue;
		if (strcmp(node.address, reader->names->own) == 0) {
			bool ours = kind == CAIRN_ETCD_JOIN && kv->lease == reader->lease;
			if (ours) ret->own_join = slot;
			continue;
		}
		if (kind == CAIRN_ETCD_HOLD) ret->n_whole++;
		if (answer->n == CAIRN_FIND_MAX || is_known(answer, &node)) continue;
		answer->found[answer->n++] = (struct cairn_found){node, kind == CAIRN_ETCD_HOLD};
	}
}

/* FREE: nothing, rubbish, or what is left of a former life of ours. */
static void read_grant(const struct cairn_etcd_reader *reader,
		       const Etcdserverpb__RangeResponse *range, struct cairn_grant *ret,
		       int64_t *ret_mod)
{
	char key[KEY_TEXT];
	struct cairn_grant grant = {0};
	const Etcdserverpb__KeyValue *kv = cairn_etcd_first(range);
	memset(ret, 0, sizeof(*ret));
	*ret_mod = 0;
	if (kv == NULL) return;
	cairn_etcd_grant_key(reader->names, reader->digest, key);
	if (kv->key.len != strlen(key) || memcmp(kv->key.data, key, kv->key.len) != 0) return;
	if (kv->mod_revision <= 0) return;
	*ret_mod = kv->mod_revision;
	if (kv->lease == 0) return;
	if (!cairn_etcd_read_grant(kv->value.data, kv->value.len, &grant)) return;
	grant.ours = strcmp(grant.node.address, reader->names->own) == 0;
	if (grant.ours && kv->lease != reader->lease) return;
	grant.version = (uint64_t)kv->mod_revision;
	*ret = grant;
}

static enum cairn_code misfit(struct cairn_err *err)
{
	return cairn_err_set(err, CAIRN_INTERNAL, "etcd's answer does not fit the question");
}

void cairn_etcd_add_look(struct cairn_etcd_builder *b, const struct cairn_etcd_names *names,
			 const struct cairn_digest *digest)
{
	char key[KEY_TEXT];
	cairn_etcd_slots_key(names, CAIRN_ETCD_HOLD, digest, key);
	cairn_etcd_add(b, cairn_etcd_op_get(b, key, CAIRN_HOLDERS_MAX, CAIRN_ETCD_GET));
	cairn_etcd_slots_key(names, CAIRN_ETCD_JOIN, digest, key);
	cairn_etcd_add(b, cairn_etcd_op_get(b, key, CAIRN_HOLDERS_MAX, CAIRN_ETCD_GET));
	cairn_etcd_grant_key(names, digest, key);
	cairn_etcd_add(b, cairn_etcd_op_get(b, key, 1, CAIRN_ETCD_GET));
}

enum cairn_code cairn_etcd_read_look(const struct cairn_etcd_reader *reader,
				     const Etcdserverpb__TxnResponse *r,
				     struct cairn_etcd_look *ret, struct cairn_err *err)
{
	if (r->n_responses < 3 || r->header == NULL) return misfit(err);
	const Etcdserverpb__RangeResponse *holds = cairn_etcd_range_at(r, r->n_responses - 3);
	const Etcdserverpb__RangeResponse *joins = cairn_etcd_range_at(r, r->n_responses - 2);
	const Etcdserverpb__RangeResponse *grant = cairn_etcd_range_at(r, r->n_responses - 1);
	if (holds == NULL || joins == NULL || grant == NULL) return misfit(err);
	uint64_t seed = reader->seed;
	memset(ret, 0, sizeof(*ret));
	ret->own_join = -1;
	ret->revision = r->header->revision;
	read_found(reader, CAIRN_ETCD_HOLD, holds, ret, &seed);
	read_found(reader, CAIRN_ETCD_JOIN, joins, ret, &seed);
	read_grant(reader, grant, &ret->answer.grant, &ret->grant_mod);
	return CAIRN_OK;
}

enum cairn_code cairn_etcd_read_grant_answer(const struct cairn_etcd_reader *reader,
					     const Etcdserverpb__TxnResponse *r,
					     struct cairn_grant *ret, int64_t *ret_mod,
					     struct cairn_err *err)
{
	if (r->n_responses == 0) return misfit(err);
	const Etcdserverpb__RangeResponse *range = cairn_etcd_range_at(r, r->n_responses - 1);
	if (range == NULL) return misfit(err);
	read_grant(reader, range, ret, ret_mod);
	return CAIRN_OK;
}

uint32_t cairn_etcd_read_slots(const char *start, const Etcdserverpb__RangeResponse *range)
{
	uint32_t taken = 0;
	for (size_t i = 0; i < range->n_kvs && i < CAIRN_HOLDERS_MAX; i++) {
		const Etcdserverpb__KeyValue *kv = range->kvs[i];
		int slot = cairn_etcd_read_slot(start, kv->key.data, kv->key.len);
		if (slot >= 0 && kv->lease != 0) taken |= UINT32_C(1) << slot;
	}
	return taken;
}

size_t cairn_etcd_read_nodes(const struct cairn_etcd_names *names,
			     const Etcdserverpb__RangeResponse *range, struct cairn_node_id *ret,
			     size_t max)
{
	size_t n = 0;
	for (size_t i = 0; i < range->n_kvs && n < max; i++) {
		const Etcdserverpb__KeyValue *kv = range->kvs[i];
		if (kv->lease == 0) continue;
		if (!cairn_etcd_read_node(names, kv->key.data, kv->key.len, &ret[n])) continue;
		/* They come in order. */
		if (n > 0 && strcmp(ret[n - 1].address, ret[n].address) >= 0) continue;
		n++;
	}
	return n;
}
