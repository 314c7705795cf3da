/* The tender: keeps our lease and with it all we have said; knows whether etcd answers, and who the
 * members are.
 *
 * Each round asks two things: that the lease go on, and how many members there are, which needs a
 * quorum of etcd's and so shows that questions are answered at all. The members themselves are read
 * when their number has changed, and now and then. */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "p2p/etcd_impl.h"

#define CALL_MS 1000
#define ROUND_MS_PER_S 270 /* of the lease: three rounds and a call fit in */
#define RETRY_MS 1000
#define MEMBERS_ROUNDS 10	 /* then the members are read, whatever their number */
#define MEMBERS_PER_STRETCH 1000 /* ... less often, the more there are */

struct tender {
	struct cairn_etcd *d;
	size_t count;	 /* of members, when they were read */
	unsigned rounds; /* since then */
	size_t skipped;	 /* rounds in which members were not counted */
	bool twin;	 /* another node uses our address */
};

static enum cairn_code ask_background(struct cairn_etcd *d, const char *path,
				      const ProtobufCMessage *request,
				      const ProtobufCMessageDescriptor *response,
				      ProtobufCMessage **ret, struct cairn_err *err)
{
	const struct cairn_etcd_question q = {path, request, response};
	return cairn_etcd_background_call(d->links, &q, CALL_MS, ret, err);
}

static enum cairn_code misfit(struct cairn_err *err)
{
	return cairn_err_set(err, CAIRN_INTERNAL, "etcd's answer does not fit the question");
}

/* ---- the lease ------------------------------------------------------------------------------- */

static enum cairn_code grant_lease(struct cairn_etcd *d, int64_t *ret, struct cairn_err *err)
{
	Etcdserverpb__LeaseGrantRequest q = ETCDSERVERPB__LEASE_GRANT_REQUEST__INIT;
	ProtobufCMessage *m;
	q.ttl = d->ttl_s;
	enum cairn_code rc =
		ask_background(d, "/etcdserverpb.Lease/LeaseGrant", &q.base,
			       &etcdserverpb__lease_grant_response__descriptor, &m, err);
	if (rc) return rc;
	*ret = ((Etcdserverpb__LeaseGrantResponse *)(void *)m)->id;
	protobuf_c_message_free_unpacked(m, NULL);
	return *ret != 0 ? CAIRN_OK : misfit(err);
}

static enum cairn_code revoke_lease(struct cairn_etcd *d, int64_t lease, struct cairn_err *err)
{
	Etcdserverpb__LeaseRevokeRequest q = ETCDSERVERPB__LEASE_REVOKE_REQUEST__INIT;
	ProtobufCMessage *m;
	q.id = lease;
	enum cairn_code rc =
		ask_background(d, "/etcdserverpb.Lease/LeaseRevoke", &q.base,
			       &etcdserverpb__lease_revoke_response__descriptor, &m, err);
	if (rc == CAIRN_OK) protobuf_c_message_free_unpacked(m, NULL);
	return rc;
}

/* False in *ret: there is no such lease. */
static enum cairn_code keep_lease(struct cairn_etcd *d, int64_t lease, bool *ret,
				  struct cairn_err *err)
{
	Etcdserverpb__LeaseKeepAliveRequest q = ETCDSERVERPB__LEASE_KEEP_ALIVE_REQUEST__INIT;
	ProtobufCMessage *m;
	q.id = lease;
	enum cairn_code rc =
		ask_background(d, "/etcdserverpb.Lease/LeaseKeepAlive", &q.base,
			       &etcdserverpb__lease_keep_alive_response__descriptor, &m, err);
	if (rc == CAIRN_NOT_FOUND) {
		*ret = false;
		return CAIRN_OK;
	}
	if (rc) return rc;
	*ret = ((Etcdserverpb__LeaseKeepAliveResponse *)(void *)m)->ttl > 0;
	protobuf_c_message_free_unpacked(m, NULL);
	return CAIRN_OK;
}

static enum cairn_code ask_txn(struct cairn_etcd *d, const struct cairn_etcd_builder *b,
			       Etcdserverpb__TxnResponse **ret, struct cairn_err *err)
{
	ProtobufCMessage *m;
	enum cairn_code rc = ask_background(d, CAIRN_ETCD_KV_TXN, &b->txn.base,
					    &etcdserverpb__txn_response__descriptor, &m, err);
	if (rc == CAIRN_OK) *ret = (Etcdserverpb__TxnResponse *)(void *)m;
	return rc;
}

/* Writes our node's key; *ret_former is the lease that it was under; 0: none. */
static enum cairn_code put_node(struct cairn_etcd *d, int64_t lease, int64_t *ret_former,
				struct cairn_err *err)
{
	char key[CAIRN_ETCD_KEY_MAX];
	struct cairn_etcd_builder b;
	Etcdserverpb__TxnResponse *r;
	cairn_etcd_node_key(&d->names, d->names.own, key);
	cairn_etcd_builder_init(&b);
	cairn_etcd_add(&b, cairn_etcd_op_get(&b, key, 1, CAIRN_ETCD_GET_KEYS));
	cairn_etcd_add(&b, cairn_etcd_op_put(&b, key, "1", lease));
	enum cairn_code rc = ask_txn(d, &b, &r, err);
	cairn_etcd_builder_clear(&b);
	if (rc) return rc;
	const Etcdserverpb__RangeResponse *range = cairn_etcd_range_at(r, 0);
	const Etcdserverpb__KeyValue *kv = range != NULL ? cairn_etcd_first(range) : NULL;
	*ret_former = kv != NULL ? kv->lease : 0;
	protobuf_c_message_free_unpacked(&r->base, NULL);
	return CAIRN_OK;
}

/* A new lease with our node's key. The first time, what a former life of ours has left is ended: it
 * holds slots, and perhaps a grant. Later it is not: another node with our address would do the
 * same to us, for ever. */
static enum cairn_code enrol(struct cairn_etcd *d, struct cairn_err *err)
{
	int64_t lease, former = 0;
	struct cairn_err ignored;
	enum cairn_code rc = grant_lease(d, &lease, err);
	if (rc == CAIRN_OK) rc = put_node(d, lease, &former, err);
	if (rc) return rc;
	if (!d->registered && former != 0 && former != lease) {
		(void)!revoke_lease(d, former, &ignored);
	}
	d->registered = true;
	pthread_mutex_lock(&d->mu);
	cairn_etcd_new_epoch_locked(d, lease);
	pthread_mutex_unlock(&d->mu);
	return CAIRN_OK;
}

static enum cairn_code look_after_lease(struct cairn_etcd *d, struct cairn_err *err)
{
	pthread_mutex_lock(&d->mu);
	int64_t lease = d->lease;
	pthread_mutex_unlock(&d->mu);
	if (lease == 0) return enrol(d, err);
	bool alive;
	enum cairn_code rc = keep_lease(d, lease, &alive, err);
	if (rc || alive) return rc;
	cairn_log(CAIRN_LOG_WARN, "etcd_lease_lost", CAIRN_STR("address", d->names.own));
	pthread_mutex_lock(&d->mu);
	cairn_etcd_new_epoch_locked(d, 0);
	pthread_mutex_unlock(&d->mu);
	return enrol(d, err);
}

/* ---- members --------------------------------------------------------------------------------- */

static int by_address(const void *a, const void *b)
{
	return strcmp(((const struct cairn_node_id *)a)->address,
		      ((const struct cairn_node_id *)b)->address);
}

/* Takes the nodes; we are one of them, whatever etcd says. False: it did not know us. */
static bool set_members(struct cairn_etcd *d, struct cairn_node_id *nodes, size_t n)
{
	struct cairn_node_id own = {0};
	memcpy(own.address, d->names.own, sizeof(own.address));
	bool known = bsearch(&own, nodes, n, sizeof(own), by_address) != NULL;
	if (!known) {
		nodes[n++] = own;
		qsort(nodes, n, sizeof(own), by_address);
	}
	pthread_mutex_lock(&d->mu);
	struct cairn_node_id *old = d->members;
	d->members = nodes;
	d->n_members = n;
	pthread_cond_broadcast(&d->changed);
	pthread_mutex_unlock(&d->mu);
	free(old);
	return known;
}

/* Of all nodes (address ""), or of one. */
static enum cairn_code get_nodes(struct cairn_etcd *d, const char *address,
				 enum cairn_etcd_get what, Etcdserverpb__TxnResponse **ret,
				 const Etcdserverpb__RangeResponse **ret_range,
				 struct cairn_err *err)
{
	char start[CAIRN_ETCD_KEY_MAX];
	struct cairn_etcd_builder b;
	cairn_etcd_node_key(&d->names, address, start);
	cairn_etcd_builder_init(&b);
	cairn_etcd_add(&b, cairn_etcd_op_get(&b, start, CAIRN_MEMBERS_MAX, what));
	enum cairn_code rc = ask_txn(d, &b, ret, err);
	cairn_etcd_builder_clear(&b);
	if (rc) return rc;
	*ret_range = cairn_etcd_range_at(*ret, 0);
	if (*ret_range != NULL) return CAIRN_OK;
	protobuf_c_message_free_unpacked(&(*ret)->base, NULL);
	return misfit(err);
}

/* Is our node's key under somebody else's lease? Told once: two nodes with one address, which peers
 * will meet by turns. */
static void look_for_twin(struct tender *t, const Etcdserverpb__RangeResponse *range)
{
	char key[CAIRN_ETCD_KEY_MAX];
	bool twin = false;
	cairn_etcd_node_key(&t->d->names, t->d->names.own, key);
	for (size_t i = 0; i < range->n_kvs; i++) {
		const Etcdserverpb__KeyValue *kv = range->kvs[i];
		if (kv->key.len != strlen(key) || memcmp(kv->key.data, key, kv->key.len) != 0) {
			continue;
		}
		twin = kv->lease != 0 && kv->lease != t->d->lease; /* only we change the lease */
	}
	if (twin && !t->twin) {
		cairn_log(CAIRN_LOG_WARN, "etcd_address_taken",
			  CAIRN_STR("address", t->d->names.own),
			  CAIRN_STR("err", "another node uses it, too: set p2p.advertise"));
	}
	t->twin = twin;
}

static enum cairn_code read_members(struct tender *t, struct cairn_err *err)
{
	Etcdserverpb__TxnResponse *r;
	const Etcdserverpb__RangeResponse *range;
	enum cairn_code rc = get_nodes(t->d, "", CAIRN_ETCD_GET_KEYS, &r, &range, err);
	if (rc) return rc;
	size_t max = range->n_kvs < CAIRN_MEMBERS_MAX ? range->n_kvs : CAIRN_MEMBERS_MAX;
	struct cairn_node_id *nodes = calloc(max + 1, sizeof(*nodes));
	if (nodes == NULL) abort();
	size_t n = cairn_etcd_read_nodes(&t->d->names, range, nodes, max);
	qsort(nodes, n, sizeof(*nodes), by_address);
	t->count = range->count > 0 ? (size_t)range->count : 0;
	t->rounds = 0;
	look_for_twin(t, range);
	protobuf_c_message_free_unpacked(&r->base, NULL);
	if (set_members(t->d, nodes, n)) return CAIRN_OK;
	int64_t former;					  /* somebody has deleted our key */
	return put_node(t->d, t->d->lease, &former, err); /* only we change the lease */
}

/* Counting costs etcd the more, the more there are, and all do it: then not in each round. */
static enum cairn_code look_after_members(struct tender *t, struct cairn_err *err)
{
	Etcdserverpb__TxnResponse *r;
	const Etcdserverpb__RangeResponse *range;
	size_t stretch = 1 + t->count / MEMBERS_PER_STRETCH;
	bool counts = ++t->skipped >= stretch;
	enum cairn_code rc = get_nodes(t->d, counts ? "" : t->d->names.own, CAIRN_ETCD_GET_COUNT,
				       &r, &range, err);
	if (rc) return rc;
	bool changed = counts && (range->count < 0 || (size_t)range->count != t->count);
	protobuf_c_message_free_unpacked(&r->base, NULL);
	if (counts) t->skipped = 0;
	if (changed || ++t->rounds >= MEMBERS_ROUNDS * stretch) return read_members(t, err);
	return CAIRN_OK;
}

/* ---- rounds ---------------------------------------------------------------------------------- */

static void set_state(struct cairn_etcd *d, enum cairn_code rc, const struct cairn_err *err)
{
	enum cairn_etcd_state now = rc == CAIRN_OK ? CAIRN_ETCD_READY : CAIRN_ETCD_DOWN;
	pthread_mutex_lock(&d->mu);
	enum cairn_etcd_state before = d->state;
	bool tell = now != before && !d->stop;
	d->state = now;
	if (rc != CAIRN_OK) d->why = *err;
	pthread_cond_broadcast(&d->changed);
	pthread_mutex_unlock(&d->mu);
	if (!tell) return;
	if (now == CAIRN_ETCD_DOWN) {
		cairn_log(CAIRN_LOG_WARN, "etcd", CAIRN_STR("state", "lost"), CAIRN_ERRF(err));
	} else if (before == CAIRN_ETCD_DOWN) {
		cairn_log(CAIRN_LOG_INFO, "etcd", CAIRN_STR("state", "recovered"));
	}
}

static enum cairn_code tend_once(struct tender *t, struct cairn_err *err)
{
	enum cairn_code rc = look_after_lease(t->d, err);
	if (rc == CAIRN_OK) rc = look_after_members(t, err);
	return rc;
}

/* Until the next round is due, or something failed. */
static bool pause_until_due(struct cairn_etcd *d, enum cairn_code rc)
{
	pthread_mutex_lock(&d->mu);
	int64_t ms =
		cairn_etcd_jitter_locked(d, rc == CAIRN_OK ? d->ttl_s * ROUND_MS_PER_S : RETRY_MS);
	int64_t until = cairn_etcd_now_ms() + ms;
	while (!d->stop && !d->kicked && cairn_etcd_wait_locked(d, until)) {
	}
	d->kicked = false;
	bool stop = d->stop;
	pthread_mutex_unlock(&d->mu);
	return !stop;
}

void *cairn_etcd_tend(void *arg)
{
	struct tender t = {.d = arg};
	enum cairn_code rc;
	do {
		struct cairn_err err = {0};
		rc = tend_once(&t, &err);
		set_state(t.d, rc, &err);
	} while (pause_until_due(t.d, rc));
	return NULL;
}

void cairn_etcd_revoke(struct cairn_etcd *d, int64_t timeout_ms)
{
	Etcdserverpb__LeaseRevokeRequest q = ETCDSERVERPB__LEASE_REVOKE_REQUEST__INIT;
	const struct cairn_etcd_question question = {
		"/etcdserverpb.Lease/LeaseRevoke", &q.base,
		&etcdserverpb__lease_revoke_response__descriptor};
	ProtobufCMessage *m;
	struct cairn_err err;
	q.id = d->lease;
	if (d->lease == 0 || timeout_ms <= 0) return;
	if (cairn_etcd_call(d->links, &question, timeout_ms, &m, &err) == CAIRN_OK) {
		protobuf_c_message_free_unpacked(m, NULL);
	}
}
