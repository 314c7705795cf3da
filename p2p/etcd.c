#include "p2p/etcd.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "base/clock.h"
#include "p2p/etcd_impl.h"

#define SWEEP_MS 600000
#define FRESH_MAX 16 /* announced at once: news; more: a start */

static struct cairn_etcd *of(struct cairn_directory *dir)
{
	return (struct cairn_etcd *)(void *)dir;
}

bool cairn_etcd_wait_locked(struct cairn_etcd *d, int64_t until_ms)
{
	struct timespec until = {.tv_sec = until_ms / 1000,
				 .tv_nsec = until_ms % 1000 * CAIRN_NS_PER_MS};
	return pthread_cond_timedwait(&d->changed, &d->mu, &until) != ETIMEDOUT;
}

uint64_t cairn_etcd_random_locked(struct cairn_etcd *d)
{
	return cairn_etcd_random(&d->seed);
}

int64_t cairn_etcd_jitter_locked(struct cairn_etcd *d, int64_t ms)
{
	uint64_t span = (uint64_t)ms * 2 / 5 + 1;
	return ms - ms / 5 + (int64_t)(cairn_etcd_random_locked(d) % span);
}

void cairn_etcd_kick(struct cairn_etcd *d, enum cairn_code code)
{
	/* NOT_FOUND: there is no such lease. */
	if (code != CAIRN_UNAVAILABLE && code != CAIRN_DEADLINE_EXCEEDED &&
	    code != CAIRN_NOT_FOUND) {
		return;
	}
	pthread_mutex_lock(&d->mu);
	if (d->state == CAIRN_ETCD_READY) {
		d->kicked = true;
		pthread_cond_broadcast(&d->changed);
	}
	pthread_mutex_unlock(&d->mu);
}

/* ---- calls that wait ------------------------------------------------------------------------- */

static enum cairn_code not_ready_locked(struct cairn_etcd *d, struct cairn_err *err)
{
	if (d->state == CAIRN_ETCD_DOWN) {
		return cairn_err_set(err, CAIRN_UNAVAILABLE, "etcd does not answer: %s",
				     d->why.msg);
	}
	return cairn_err_set(err, CAIRN_DEADLINE_EXCEEDED, "etcd has not answered yet");
}

/* Not before etcd is there, if it may be about to; and not before what we take back is gone. */
static enum cairn_code begin(struct cairn_etcd_session *s, struct cairn_etcd *d,
			     const struct cairn_digest *digest, int64_t timeout_ms,
			     struct cairn_err *err)
{
	*s = (struct cairn_etcd_session){.d = d, .digest = digest};
	s->until_ms = cairn_etcd_now_ms() + timeout_ms;
	enum cairn_code rc = CAIRN_OK;
	pthread_mutex_lock(&d->mu);
	for (;;) {
		const struct cairn_etcd_entry *e = cairn_etcd_find_locked(d, digest);
		bool ready = d->state == CAIRN_ETCD_READY && d->lease != 0;
		if (ready && (e == NULL || !cairn_etcd_is_leaving_locked(e))) {
			s->joined = e != NULL && e->join_slot >= 0;
			break;
		}
		if (d->state != CAIRN_ETCD_DOWN && !d->stop &&
		    cairn_etcd_wait_locked(d, s->until_ms)) {
			continue;
		}
		rc = not_ready_locked(d, err);
		break;
	}
	s->epoch = d->epoch;
	s->reader = (struct cairn_etcd_reader){&d->names, digest, d->lease,
					       cairn_etcd_random_locked(d)};
	if (rc == CAIRN_OK) {
		s->next = d->sessions;
		d->sessions = s;
	}
	pthread_mutex_unlock(&d->mu);
	return rc;
}

static void end(struct cairn_etcd_session *s)
{
	struct cairn_etcd *d = s->d;
	pthread_mutex_lock(&d->mu);
	struct cairn_etcd_session **at = &d->sessions;
	while (*at != s) at = &(*at)->next;
	*at = s->next;
	pthread_mutex_unlock(&d->mu);
}

/* To our callers etcd is there or not. */
static enum cairn_code failed(struct cairn_etcd *d, enum cairn_code rc, struct cairn_err *err)
{
	cairn_etcd_kick(d, rc);
	if (rc != CAIRN_DEADLINE_EXCEEDED) err->code = CAIRN_UNAVAILABLE;
	return cairn_err_wrap(err, "etcd");
}

static enum cairn_code send_txn(struct cairn_etcd_session *s, struct cairn_etcd_builder *b,
				Etcdserverpb__TxnResponse **ret, struct cairn_err *err)
{
	const struct cairn_etcd_question q = {CAIRN_ETCD_KV_TXN, &b->txn.base,
					      &etcdserverpb__txn_response__descriptor};
	ProtobufCMessage *reply;
	enum cairn_code rc =
		cairn_etcd_call(s->d->links, &q, s->until_ms - cairn_etcd_now_ms(), &reply, err);
	cairn_etcd_builder_clear(b);
	if (rc) return failed(s->d, rc, err);
	*ret = (Etcdserverpb__TxnResponse *)(void *)reply;
	return CAIRN_OK;
}

/* Our grant and joining are over. */
static void drop_locked(struct cairn_etcd_entry *e)
{
	if (e->join_slot >= 0) e->drop_join = true;
	if (e->granted) e->drop_grant = true;
}

/* What a call has brought, or may have brought: the grant; a slot among those who are getting it
 * (-1: none). lost: it may have been done, or be done still, but our caller will never know: it is
 * taken back, and so it is if the caller has left meanwhile. */
static void note(struct cairn_etcd_session *s, bool granted, int join, bool lost)
{
	struct cairn_etcd *d = s->d;
	pthread_mutex_lock(&d->mu);
	struct cairn_etcd_entry *e = NULL;
	if (d->epoch == s->epoch) {
		e = granted || join >= 0 ? cairn_etcd_entry_locked(d, s->digest)
					 : cairn_etcd_find_locked(d, s->digest);
	}
	if (e != NULL) {
		if (join >= 0) e->join_slot = join;
		if (!lost) e->granted = granted;
		if (lost && granted) e->granted = e->drop_grant = true;
		if (lost && join >= 0) e->drop_join = true;
		if (s->over) drop_locked(e);
		cairn_etcd_settle_locked(d, e, &d->fresh);
		pthread_cond_broadcast(&d->changed);
	}
	pthread_mutex_unlock(&d->mu);
}

/* ---- ask */

/* What is to be written beside looking. */
struct deed {
	bool grant;
	int join; /* slot; -1: none */
};

static void add_deed(struct cairn_etcd_session *s, const struct cairn_etcd_look *seen,
		     const struct deed *deed, struct cairn_etcd_builder *b)
{
	const struct cairn_etcd_names *names = &s->d->names;
	char key[CAIRN_ETCD_KEY_MAX], holds[CAIRN_ETCD_KEY_MAX], value[CAIRN_ETCD_VALUE_MAX];
	if (deed->grant) {
		/* Nobody has got it, nor become a holder, since we looked. */
		cairn_etcd_grant_key(names, s->digest, key);
		cairn_etcd_slots_key(names, CAIRN_ETCD_HOLD, s->digest, holds);
		cairn_etcd_grant_value(CAIRN_GRANT_QUEUED, 0, names->own, value);
		cairn_etcd_add(b, cairn_etcd_op_if(
					  b, cairn_etcd_mod_is(b, key, seen->grant_mod),
					  cairn_etcd_mod_below(b, holds, seen->revision + 1),
					  cairn_etcd_op_put(b, key, value, s->reader.lease), NULL));
	}
	if (deed->join >= 0) {
		cairn_etcd_slot_key(names, CAIRN_ETCD_JOIN, s->digest, (unsigned)deed->join, key);
		cairn_etcd_add(
			b, cairn_etcd_op_if(b, cairn_etcd_lease_is(b, key, 0), NULL,
					    cairn_etcd_op_put(b, key, names->own, s->reader.lease),
					    NULL));
	}
}

/* deed NULL: only look. */
static enum cairn_code look(struct cairn_etcd_session *s, const struct cairn_etcd_look *seen,
			    const struct deed *deed, struct cairn_etcd_look *ret,
			    struct cairn_err *err)
{
	struct cairn_etcd_builder b;
	Etcdserverpb__TxnResponse *r;
	cairn_etcd_builder_init(&b);
	if (deed != NULL) add_deed(s, seen, deed, &b);
	cairn_etcd_add_look(&b, &s->d->names, s->digest);
	enum cairn_code rc = send_txn(s, &b, &r, err);
	if (rc) return rc;
	rc = cairn_etcd_read_look(&s->reader, r, ret, err);
	protobuf_c_message_free_unpacked(&r->base, NULL);
	return rc ? failed(s->d, rc, err) : CAIRN_OK;
}

/* Most questions only look, which costs etcd no write. */
static enum cairn_code look_and_do(struct cairn_etcd_session *s, bool join, bool may_grant,
				   struct cairn_answer *ret, struct cairn_err *err)
{
	struct cairn_etcd_look seen, after;
	struct deed deed = {.join = -1};
	uint64_t seed = s->reader.seed;
	enum cairn_code rc = look(s, NULL, NULL, &seen, err);
	if (rc) return rc;
	deed.grant = may_grant && seen.n_whole == 0 && seen.answer.grant.state == CAIRN_GRANT_FREE;
	if (join && !s->joined && seen.own_join < 0) {
		deed.join = cairn_etcd_pick_free(seen.joins, &seed);
	}
	if (deed.grant || deed.join >= 0) {
		rc = look(s, &seen, &deed, &after, err);
		if (rc) note(s, deed.grant, deed.join, true);
		if (rc && (deed.grant || seen.answer.n == 0)) return rc;
		if (rc == CAIRN_OK) seen = after;
	}
	if (rc == CAIRN_OK) note(s, seen.answer.grant.ours, seen.own_join, false);
	*ret = seen.answer;
	return CAIRN_OK;
}

static enum cairn_code ask(struct cairn_directory *dir, const struct cairn_digest *digest,
			   bool join, bool may_grant, int64_t timeout_ms, struct cairn_answer *ret,
			   struct cairn_err *err)
{
	struct cairn_etcd_session s;
	enum cairn_code rc = begin(&s, of(dir), digest, timeout_ms, err);
	if (rc) return rc;
	rc = look_and_do(&s, join, may_grant, ret, err);
	end(&s);
	return rc;
}

/* ---- take, keep */

/* If the comparisons hold, the grant is put; *ret: how it is then. */
static enum cairn_code put_grant(struct cairn_etcd_session *s, cairn_etcd_cmp *a, cairn_etcd_cmp *c,
				 struct cairn_etcd_builder *b, const char *value,
				 struct cairn_grant *ret, struct cairn_err *err)
{
	char key[CAIRN_ETCD_KEY_MAX];
	Etcdserverpb__TxnResponse *r;
	struct cairn_grant grant;
	int64_t mod;
	cairn_etcd_grant_key(&s->d->names, s->digest, key);
	cairn_etcd_add_cmp(b, a);
	if (c != NULL) cairn_etcd_add_cmp(b, c);
	cairn_etcd_add(b, cairn_etcd_op_put(b, key, value, s->reader.lease));
	cairn_etcd_add(b, cairn_etcd_op_get(b, key, 1, CAIRN_ETCD_GET));
	cairn_etcd_add_else(b, cairn_etcd_op_get(b, key, 1, CAIRN_ETCD_GET));
	enum cairn_code rc = send_txn(s, b, &r, err);
	if (rc) return rc;
	rc = cairn_etcd_read_grant_answer(&s->reader, r, &grant, &mod, err);
	protobuf_c_message_free_unpacked(&r->base, NULL);
	if (rc) return failed(s->d, rc, err);
	note(s, grant.ours, -1, false);
	*ret = grant;
	return CAIRN_OK;
}

static enum cairn_code take(struct cairn_directory *dir, const struct cairn_digest *digest,
			    uint64_t version, int64_t timeout_ms, struct cairn_grant *ret,
			    struct cairn_err *err)
{
	struct cairn_etcd_session s;
	struct cairn_etcd_builder b;
	char key[CAIRN_ETCD_KEY_MAX], value[CAIRN_ETCD_VALUE_MAX];
	enum cairn_code rc = begin(&s, of(dir), digest, timeout_ms, err);
	if (rc) return rc;
	cairn_etcd_builder_init(&b);
	cairn_etcd_grant_key(&s.d->names, digest, key);
	cairn_etcd_grant_value(CAIRN_GRANT_QUEUED, 0, s.d->names.own, value);
	/* Free: there is none, or rubbish. */
	cairn_etcd_cmp *cmp = version == 0 ? cairn_etcd_lease_is(&b, key, 0)
					   : cairn_etcd_mod_is(&b, key, (int64_t)version);
	rc = put_grant(&s, cmp, NULL, &b, value, ret, err);
	if (rc) note(&s, true, -1, true);
	end(&s);
	return rc;
}

static enum cairn_code keep(struct cairn_directory *dir, const struct cairn_digest *digest,
			    uint64_t version, uint64_t bytes, int64_t timeout_ms,
			    struct cairn_grant *ret, struct cairn_err *err)
{
	struct cairn_etcd_session s;
	struct cairn_etcd_builder b;
	char key[CAIRN_ETCD_KEY_MAX], value[CAIRN_ETCD_VALUE_MAX];
	enum cairn_code rc = begin(&s, of(dir), digest, timeout_ms, err);
	if (rc) return rc;
	cairn_etcd_builder_init(&b);
	cairn_etcd_grant_key(&s.d->names, digest, key);
	cairn_etcd_grant_value(bytes > 0 ? CAIRN_GRANT_RUNNING : CAIRN_GRANT_QUEUED, bytes,
			       s.d->names.own, value);
	rc = put_grant(&s, cairn_etcd_mod_is(&b, key, (int64_t)version),
		       cairn_etcd_lease_is(&b, key, s.reader.lease), &b, value, ret, err);
	end(&s);
	return rc;
}

/* ---- calls that do not wait ------------------------------------------------------------------ */

/* Calls that are under way bring nothing for us to keep. */
static void end_sessions_locked(struct cairn_etcd *d, const struct cairn_digest *digest)
{
	for (struct cairn_etcd_session *s = d->sessions; s != NULL; s = s->next) {
		if (cairn_digest_equal(s->digest, digest)) s->over = true;
	}
}

static void leave(struct cairn_directory *dir, const struct cairn_digest *digest)
{
	struct cairn_etcd *d = of(dir);
	pthread_mutex_lock(&d->mu);
	end_sessions_locked(d, digest);
	struct cairn_etcd_entry *e = cairn_etcd_find_locked(d, digest);
	if (e != NULL) {
		drop_locked(e);
		cairn_etcd_settle_locked(d, e, &d->fresh);
		pthread_cond_broadcast(&d->changed);
	}
	pthread_mutex_unlock(&d->mu);
}

static void announce(struct cairn_directory *dir, const struct cairn_digest *digests, size_t n)
{
	struct cairn_etcd *d = of(dir);
	pthread_mutex_lock(&d->mu);
	for (size_t i = 0; i < n; i++) {
		struct cairn_etcd_entry *e = cairn_etcd_entry_locked(d, &digests[i]);
		end_sessions_locked(d, &digests[i]);
		e->want_hold = true;
		e->enough = false;
		drop_locked(e);
		cairn_etcd_settle_locked(d, e, n <= FRESH_MAX ? &d->fresh : &d->bulk);
	}
	pthread_cond_broadcast(&d->changed);
	pthread_mutex_unlock(&d->mu);
}

static void withdraw(struct cairn_directory *dir, const struct cairn_digest *digests, size_t n)
{
	struct cairn_etcd *d = of(dir);
	pthread_mutex_lock(&d->mu);
	for (size_t i = 0; i < n; i++) {
		struct cairn_etcd_entry *e = cairn_etcd_find_locked(d, &digests[i]);
		if (e == NULL) continue;
		e->want_hold = false;
		cairn_etcd_settle_locked(d, e, n <= FRESH_MAX ? &d->fresh : &d->bulk);
	}
	pthread_cond_broadcast(&d->changed);
	pthread_mutex_unlock(&d->mu);
}

static size_t members(struct cairn_directory *dir, struct cairn_node_id *ret, size_t max)
{
	struct cairn_etcd *d = of(dir);
	pthread_mutex_lock(&d->mu);
	size_t n = d->n_members;
	for (size_t i = 0; i < n && i < max; i++) ret[i] = d->members[i];
	pthread_mutex_unlock(&d->mu);
	return n;
}

static void health(struct cairn_directory *dir, char ret[static 256])
{
	struct cairn_etcd *d = of(dir);
	pthread_mutex_lock(&d->mu);
	if (d->state == CAIRN_ETCD_DOWN) {
		snprintf(ret, 256, "etcd does not answer: %.200s", d->why.msg);
	} else if (d->state == CAIRN_ETCD_STARTING) {
		snprintf(ret, 256, "etcd has not answered yet");
	} else if (d->why_not_written.code != CAIRN_OK) {
		snprintf(ret, 256, "etcd refuses what we write: %.200s", d->why_not_written.msg);
	} else {
		ret[0] = '\0';
	}
	pthread_mutex_unlock(&d->mu);
}

static bool flush(struct cairn_directory *dir, int64_t timeout_ms)
{
	struct cairn_etcd *d = of(dir);
	int64_t until = cairn_etcd_now_ms() + timeout_ms;
	pthread_mutex_lock(&d->mu);
	bool done;
	while (!(done = cairn_etcd_all_said_locked(d)) && !d->stop &&
	       cairn_etcd_wait_locked(d, until)) {
	}
	pthread_mutex_unlock(&d->mu);
	return done;
}

/* ---- begin and end --------------------------------------------------------------------------- */

static void free_all(struct cairn_etcd *d)
{
	cairn_etcd_links_free(d->links);
	cairn_etcd_free_entries(d);
	free(d->members);
	pthread_cond_destroy(&d->changed);
	pthread_mutex_destroy(&d->mu);
	free(d);
}

/* Revoking the lease withdraws all at once. */
static void close_directory(struct cairn_directory *dir, int64_t timeout_ms)
{
	struct cairn_etcd *d = of(dir);
	int64_t until = cairn_etcd_now_ms() + timeout_ms;
	pthread_mutex_lock(&d->mu);
	d->stop = true;
	bool reachable = d->state == CAIRN_ETCD_READY;
	pthread_cond_broadcast(&d->changed);
	pthread_mutex_unlock(&d->mu);
	cairn_etcd_links_cancel(d->links);
	pthread_join(d->tender, NULL);
	pthread_join(d->writer, NULL);
	if (reachable) cairn_etcd_revoke(d, until - cairn_etcd_now_ms());
	free_all(d);
}

static bool alive(struct cairn_directory *dir, const struct cairn_digest *digest)
{
	struct cairn_etcd *d = of(dir);
	(void)digest;
	pthread_mutex_lock(&d->mu);
	bool is = d->state == CAIRN_ETCD_READY && !d->stop;
	pthread_mutex_unlock(&d->mu);
	return is;
}

static const struct cairn_directory_ops etcd_ops = {
	.ask = ask,
	.take = take,
	.keep = keep,
	.leave = leave,
	.announce = announce,
	.withdraw = withdraw,
	.members = members,
	.alive = alive,
	.health = health,
	.flush = flush,
	.close = close_directory,
};

static void start_thread(pthread_t *thread, void *(*fn)(void *), struct cairn_etcd *d)
{
	if (pthread_create(thread, NULL, fn, d) != 0) abort();
}

enum cairn_code cairn_etcd_new(const struct cairn_etcd_opts *opts, struct cairn_directory **ret,
			       struct cairn_err *err)
{
	struct cairn_etcd *d = calloc(1, sizeof(*d));
	if (d == NULL) abort();
	d->dir.ops = &etcd_ops;
	d->sweep_ms = opts->sweep_ms > 0 ? opts->sweep_ms : SWEEP_MS;
	d->ttl_s = opts->ttl_s > 0 ? opts->ttl_s : CAIRN_ETCD_TTL_S;
	if (getrandom(&d->seed, sizeof(d->seed), GRND_NONBLOCK) != sizeof(d->seed)) {
		d->seed = (uint64_t)cairn_real_ns(&cairn_clock_system);
	}
	pthread_condattr_t attr;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&d->changed, &attr);
	pthread_condattr_destroy(&attr);
	pthread_mutex_init(&d->mu, NULL);
	d->members = calloc(1, sizeof(*d->members));
	if (d->members == NULL) abort();
	enum cairn_code rc = cairn_etcd_names_init(&d->names, opts->prefix, opts->address, err);
	if (rc == CAIRN_OK) rc = cairn_etcd_links_new(opts, &d->links, err);
	if (rc) {
		free_all(d);
		return rc;
	}
	memcpy(d->members[0].address, d->names.own, sizeof(d->names.own));
	d->n_members = 1;
	start_thread(&d->tender, cairn_etcd_tend, d);
	start_thread(&d->writer, cairn_etcd_write, d);
	*ret = &d->dir;
	return CAIRN_OK;
}
