/* Requests to etcd's key-value store, built in memory of their own, and what its answers say. Pure:
 * no I/O, no lock. Answers may be anything: what does not fit the question is an error or ignored.
 */
#ifndef CAIRN_P2P_ETCD_KV_H
#define CAIRN_P2P_ETCD_KV_H

#include "etcd.pb-c.h"
#include "p2p/etcd_keys.h"

/* etcd's default of --max-txn-ops, which counts a branch's requests, and inner ones again. */
#define CAIRN_ETCD_OPS_MAX 128

typedef Etcdserverpb__RequestOp cairn_etcd_op;
typedef Etcdserverpb__Compare cairn_etcd_cmp;

/* ---- building. What is built lives until the builder is cleared. Keys and values are copied. */

struct cairn_etcd_chunk;

struct cairn_etcd_builder {
	struct cairn_etcd_chunk *chunks;
	Etcdserverpb__TxnRequest txn;
};

void cairn_etcd_builder_init(struct cairn_etcd_builder *b);
void cairn_etcd_builder_clear(struct cairn_etcd_builder *b);

/* Appends to the transaction, or, later, to its failing branch; at most CAIRN_ETCD_OPS_MAX. */
void cairn_etcd_add(struct cairn_etcd_builder *b, cairn_etcd_op *op);
void cairn_etcd_add_else(struct cairn_etcd_builder *b, cairn_etcd_op *op);
void cairn_etcd_add_cmp(struct cairn_etcd_builder *b, cairn_etcd_cmp *cmp);

enum cairn_etcd_get { CAIRN_ETCD_GET, CAIRN_ETCD_GET_KEYS, CAIRN_ETCD_GET_COUNT };

/* The key; or, if it ends in "/", at most limit of the keys that begin with it. */
cairn_etcd_op *cairn_etcd_op_get(struct cairn_etcd_builder *b, const char *key, int64_t limit,
				 enum cairn_etcd_get what);
cairn_etcd_op *cairn_etcd_op_put(struct cairn_etcd_builder *b, const char *key, const char *value,
				 int64_t lease);
cairn_etcd_op *cairn_etcd_op_delete(struct cairn_etcd_builder *b, const char *key);
/* If all of at most 2 comparisons (the second may be NULL) are true then one, else the other, which
 * may be NULL. */
cairn_etcd_op *cairn_etcd_op_if(struct cairn_etcd_builder *b, cairn_etcd_cmp *a, cairn_etcd_cmp *c,
				cairn_etcd_op *then, cairn_etcd_op *otherwise);

/* The key, or every key that begins with it if it ends in "/"; one that is not there has 0. */
cairn_etcd_cmp *cairn_etcd_lease_is(struct cairn_etcd_builder *b, const char *key, int64_t lease);
cairn_etcd_cmp *cairn_etcd_mod_is(struct cairn_etcd_builder *b, const char *key, int64_t revision);
cairn_etcd_cmp *cairn_etcd_mod_below(struct cairn_etcd_builder *b, const char *key,
				     int64_t revision);

/* ---- answers */

/* The i-th response; NULL if it is none of that kind. */
const Etcdserverpb__RangeResponse *cairn_etcd_range_at(const Etcdserverpb__TxnResponse *r,
						       size_t i);
const Etcdserverpb__InnerTxnResponse *cairn_etcd_inner_at(const Etcdserverpb__TxnResponse *r,
							  size_t i);
/* The first key; NULL: none. */
const Etcdserverpb__KeyValue *cairn_etcd_first(const Etcdserverpb__RangeResponse *range);

/* Of an inner transaction that puts a key if it is free, and else gets it: is it that lease's now?
 */
bool cairn_etcd_read_claim(const Etcdserverpb__InnerTxnResponse *r, int64_t lease);

/* Who asks. */
struct cairn_etcd_reader {
	const struct cairn_etcd_names *names;
	const struct cairn_digest *digest;
	int64_t lease; /* ours */
	uint64_t seed; /* for the random choice */
};

/* What etcd has on one digest. */
struct cairn_etcd_look {
	struct cairn_answer answer;
	int64_t revision;  /* of the store */
	int64_t grant_mod; /* mod_revision of the grant's key, whatever it holds; 0: none */
	size_t n_whole;	   /* others that hold it */
	uint32_t joins;	   /* bit s: slot s of those who are getting it is taken */
	int own_join;	   /* our slot there; -1: none */
};

/* The answer whose last three responses are those to cairn_etcd_add_look. Errors: INTERNAL. */
void cairn_etcd_add_look(struct cairn_etcd_builder *b, const struct cairn_etcd_names *names,
			 const struct cairn_digest *digest);
CAIRN_CHECKED enum cairn_code cairn_etcd_read_look(const struct cairn_etcd_reader *reader,
						   const Etcdserverpb__TxnResponse *r,
						   struct cairn_etcd_look *ret,
						   struct cairn_err *err);

/* The answer whose last response is that to a get of the grant's key. Errors: INTERNAL. */
CAIRN_CHECKED enum cairn_code cairn_etcd_read_grant_answer(const struct cairn_etcd_reader *reader,
							   const Etcdserverpb__TxnResponse *r,
							   struct cairn_grant *ret,
							   int64_t *ret_mod, struct cairn_err *err);

/* Slots of a range that are taken, as bits; read from keys alone. */
uint32_t cairn_etcd_read_slots(const char *start, const Etcdserverpb__RangeResponse *range);

/* The nodes of a range, each once, at most max; ret may be NULL if max is 0. */
size_t cairn_etcd_read_nodes(const struct cairn_etcd_names *names,
			     const Etcdserverpb__RangeResponse *range, struct cairn_node_id *ret,
			     size_t max);

/* A number from a seed; the next seed is in *seed. */
uint64_t cairn_etcd_random(uint64_t *seed);
/* Any of the bits that are not set; -1: all are. */
int cairn_etcd_pick_free(uint32_t taken, uint64_t *seed);

#endif
