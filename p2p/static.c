#include "p2p/static.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "p2p/static_state.h"

/* ---- waiting ---- */

static struct timespec deadline(int64_t timeout_ms)
{
	struct timespec t;
	if (timeout_ms < 0) timeout_ms = 0;
	(void)clock_gettime(CLOCK_MONOTONIC, &t);
	t.tv_sec += (time_t)(timeout_ms / 1000);
	t.tv_nsec += (long)(timeout_ms % 1000 * CAIRN_NS_PER_MS);
	if (t.tv_nsec >= CAIRN_NS_PER_S) {
		t.tv_sec++;
		t.tv_nsec -= (long)CAIRN_NS_PER_S;
	}
	return t;
}

static enum cairn_code too_slow(struct cairn_err *err)
{
	return cairn_err_set(err, CAIRN_DEADLINE_EXCEEDED, "the directory has not answered yet");
}

/* mu held. */
static enum cairn_code wait_ready(struct cairn_static *s, const struct timespec *until,
				  struct cairn_err *err)
{
	int rc = 0;
	while (!s->ready && !s->stop && rc == 0) {
		rc = pthread_cond_timedwait(&s->changed, &s->mu, until);
	}
	if (s->stop) return cairn_err_set(err, CAIRN_UNAVAILABLE, "the directory is closed");
	if (s->ready) return CAIRN_OK;
	return cairn_err_set(err, CAIRN_DEADLINE_EXCEEDED,
			     "not every peer was tried yet, after the start");
}

/* ---- a question to a digest's arbiter ---- */

static void ask_self(struct cairn_static *s, const struct sentence *said, struct cairn_answer *ret)
{
	const struct cairn_memory_question q = {
		.node = s->own->address, .now_ms = static_now_ms(), .digest = &said->digest};
	memset(ret, 0, sizeof(*ret));
	if (said->op == OP_ASK) cairn_memory_ask(s->mem, &q, said->join, said->may_grant, ret);
	if (said->op == OP_TAKE) cairn_memory_take(s->mem, &q, said->version, &ret->grant);
	if (said->op == OP_KEEP) cairn_memory_keep(s->mem, &q, said->bytes, &ret->grant);
	items_answered(s, SLOT_SELF, said, &ret->grant);
}

/* mu held; waits. *ret_lost: the link has broken before an answer came. */
static enum cairn_code ask_link(struct link *link, const struct sentence *said,
				const struct timespec *until, struct cairn_answer *ret,
				bool *ret_lost, struct cairn_err *err)
{
	struct cairn_static *s = link->s;
	if (link->n_requests >= REQUESTS_MAX) {
		return cairn_err_set(err, CAIRN_UNAVAILABLE,
				     "%d questions to %s wait for an answer already", REQUESTS_MAX,
				     link->address);
	}
	struct request *r = request_new(said);
	link_push(link, r);
	int rc = 0;
	while (!r->done && rc == 0) rc = pthread_cond_timedwait(&r->answered, &s->mu, until);
	enum cairn_code code = r->done ? r->code : CAIRN_DEADLINE_EXCEEDED;
	*ret_lost = code == CAIRN_UNAVAILABLE;
	if (!r->done) {
		r->abandoned = true;
		too_slow(err);
	} else if (code == CAIRN_OK) {
		*ret = r->answer;
	} else {
		code = cairn_err_set(err, CAIRN_UNAVAILABLE, "the arbiter: %s", r->message);
	}
	request_unref(r);
	return code;
}

static enum cairn_code call(struct cairn_directory *dir, const struct sentence *said,
			    int64_t timeout_ms, struct cairn_answer *ret, struct cairn_err *err)
{
	struct cairn_static *s = static_of(dir);
	struct timespec until = deadline(timeout_ms);
	pthread_mutex_lock(&s->mu);
	enum cairn_code rc = wait_ready(s, &until, err);
	while (rc == CAIRN_OK) {
		bool lost = false;
		slot_t slot = arbiter_of(&s->asked, &said->digest);
		if (slot == SLOT_SELF) {
			ask_self(s, said, ret);
			break;
		}
		rc = ask_link(s->links[slot], said, &until, ret, &lost, err);
		if (!lost) break;
		rc = wait_ready(s, &until, err); /* it is dead: the next one */
	}
	pthread_mutex_unlock(&s->mu);
	return rc;
}

static enum cairn_code ask(struct cairn_directory *dir, const struct cairn_digest *digest,
			   bool join, bool may_grant, int64_t timeout_ms, struct cairn_answer *ret,
			   struct cairn_err *err)
{
	const struct sentence said = {
		.op = OP_ASK, .join = join, .may_grant = may_grant, .digest = *digest};
	return call(dir, &said, timeout_ms, ret, err);
}

static enum cairn_code take(struct cairn_directory *dir, const struct cairn_digest *digest,
			    uint64_t version, int64_t timeout_ms, struct cairn_grant *ret,
			    struct cairn_err *err)
{
	const struct sentence said = {.op = OP_TAKE, .version = version, .digest = *digest};
	struct cairn_answer answer;
	enum cairn_code rc = call(dir, &said, timeout_ms, &answer, err);
	if (rc == CAIRN_OK) *ret = answer.grant;
	return rc;
}

static enum cairn_code keep(struct cairn_directory *dir, const struct cairn_digest *digest,
			    uint64_t version, uint64_t bytes, int64_t timeout_ms,
			    struct cairn_grant *ret, struct cairn_err *err)
{
	const struct sentence said = {
		.op = OP_KEEP, .version = version, .bytes = bytes, .digest = *digest};
	struct cairn_answer answer;
	enum cairn_code rc = call(dir, &said, timeout_ms, &answer, err);
	if (rc == CAIRN_OK) *ret = answer.grant;
	return rc;
}

/* ---- said in the background ---- */

static void leave(struct cairn_directory *dir, const struct cairn_digest *digest)
{
	struct cairn_static *s = static_of(dir);
	pthread_mutex_lock(&s->mu);
	items_leave(s, digest);
	pthread_mutex_unlock(&s->mu);
}

#define LOCKED_AT_ONCE 1000 /* digests */

static void for_each(struct cairn_static *s, const struct cairn_digest *digests, size_t n,
		     void (*fn)(struct cairn_static *, const struct cairn_digest *))
{
	for (size_t i = 0; i < n;) {
		pthread_mutex_lock(&s->mu);
		for (size_t k = 0; k < LOCKED_AT_ONCE && i < n; k++) fn(s, &digests[i++]);
		pthread_mutex_unlock(&s->mu);
	}
}

static void announce(struct cairn_directory *dir, const struct cairn_digest *digests, size_t n)
{
	for_each(static_of(dir), digests, n, items_hold);
}

static void withdraw(struct cairn_directory *dir, const struct cairn_digest *digests, size_t n)
{
	for_each(static_of(dir), digests, n, items_withdraw);
}

/* mu held. */
static bool all_said(const struct cairn_static *s)
{
	for (slot_t i = 0; i < CAIRN_STATIC_PEERS_MAX; i++) {
		const struct link *link = s->links[i];
		if (link != NULL && link->up && !link_idle(link)) return false;
	}
	return s->ready;
}

static bool flush(struct cairn_directory *dir, int64_t timeout_ms)
{
	struct cairn_static *s = static_of(dir);
	struct timespec until = deadline(timeout_ms);
	int rc = 0;
	pthread_mutex_lock(&s->mu);
	while (!all_said(s) && rc == 0) rc = pthread_cond_timedwait(&s->changed, &s->mu, &until);
	bool said = all_said(s);
	pthread_mutex_unlock(&s->mu);
	return said;
}

/* ---- looking at it ---- */

static size_t members(struct cairn_directory *dir, struct cairn_node_id *ret, size_t max)
{
	struct cairn_static *s = static_of(dir);
	pthread_mutex_lock(&s->mu);
	for (size_t i = 0; i < s->asked.n && i < max; i++) {
		slot_t slot = s->asked.all[i].slot;
		const char *address = slot == SLOT_SELF ? s->own->address : s->links[slot]->address;
		memcpy(ret[i].address, address, strlen(address) + 1);
	}
	size_t n = s->asked.n;
	pthread_mutex_unlock(&s->mu);
	return n;
}

static void health(struct cairn_directory *dir, char ret[static 256])
{
	struct cairn_static *s = static_of(dir);
	size_t peers = 0, lost = 0;
	const struct link *example = NULL;
	ret[0] = '\0';
	pthread_mutex_lock(&s->mu);
	for (slot_t i = 0; i < CAIRN_STATIC_PEERS_MAX; i++) {
		const struct link *link = s->links[i];
		if (link == NULL || link->self || link->twin || link->stop) continue;
		peers++;
		if (link->up) continue;
		lost++;
		if (example == NULL || example->error[0] == '\0') example = link;
	}
	if (!s->ready) { /* which of them we are may not be known yet */
		(void)snprintf(ret, 256,
			       "starting: %zu peers are there so far; pulls wait until each was "
			       "tried, and has said what it has",
			       peers - lost);
	} else if (lost > 0) {
		(void)snprintf(ret, 256, "%zu of %zu peers cannot be reached: %.60s: %.100s", lost,
			       peers, example->target,
			       example->error[0] != '\0' ? example->error : "not tried yet");
	} else if (s->names_error[0] != '\0') {
		(void)memccpy(ret, s->names_error, '\0', 255);
		ret[255] = '\0';
	} else if (s->n_addresses > CAIRN_STATIC_PEERS_MAX) {
		(void)snprintf(ret, 256, "%zu peers are listed, and only %d are used",
			       s->n_addresses, CAIRN_STATIC_PEERS_MAX);
	}
	pthread_mutex_unlock(&s->mu);
}

/* ---- its life ---- */

/* mu held. Whoever knows something of us is to forget it. */
static void say_farewell(struct cairn_static *s)
{
	const struct sentence anew = {.op = OP_PING, .join = true};
	items_fini(s);
	s->n_items = 0;
	items_init(s);
	for (slot_t i = 0; i < CAIRN_STATIC_PEERS_MAX; i++) {
		struct link *link = s->links[i];
		if (link == NULL || !link->up) continue;
		link->bulk.first = link->bulk.n = 0;
		link_say(link, &anew);
	}
}

static void close_directory(struct cairn_directory *dir, int64_t timeout_ms)
{
	struct cairn_static *s = static_of(dir);
	pthread_mutex_lock(&s->mu);
	say_farewell(s);
	s->ready = true; /* nothing is waited for any more */
	pthread_mutex_unlock(&s->mu);
	(void)flush(dir, timeout_ms);
	pthread_mutex_lock(&s->mu);
	s->stop = true;
	for (slot_t i = 0; i < CAIRN_STATIC_PEERS_MAX; i++) {
		if (s->links[i] != NULL) link_stop(s->links[i]);
	}
	pthread_cond_broadcast(&s->changed);
	pthread_cond_signal(&s->tick);
	pthread_mutex_unlock(&s->mu);
	pthread_join(s->keeper, NULL);
	/* Each looks at all, until its end. */
	for (slot_t i = 0; i < CAIRN_STATIC_PEERS_MAX; i++) {
		if (s->links[i] != NULL) pthread_join(s->links[i]->thread, NULL);
	}
	for (slot_t i = 0; i < CAIRN_STATIC_PEERS_MAX; i++) {
		if (s->links[i] != NULL) link_free(s->links[i]);
	}
	names_stop(s->names);
	names_stop(s->fresh);
	cairn_memory_free(s->mem);
	items_fini(s);
	pthread_cond_destroy(&s->changed);
	pthread_cond_destroy(&s->tick);
	pthread_mutex_destroy(&s->mu);
	free(s);
}

/* A link that is up has had an answer to each ping. */
static bool alive(struct cairn_directory *dir, const struct cairn_digest *digest)
{
	struct cairn_static *s = static_of(dir);
	pthread_mutex_lock(&s->mu);
	slot_t slot = s->ready && !s->stop ? arbiter_of(&s->asked, digest) : SLOT_NONE;
	bool is = slot == SLOT_SELF || (slot < SLOT_SELF && s->links[slot]->up);
	pthread_mutex_unlock(&s->mu);
	return is;
}

static const struct cairn_directory_ops ops = {
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

static struct cairn_static *static_alloc(const struct cairn_static_opts *opts, struct names *names)
{
	struct cairn_static *s = calloc(1, sizeof(*s));
	if (s == NULL) abort();
	pthread_condattr_t attr;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_mutex_init(&s->mu, NULL);
	pthread_cond_init(&s->changed, &attr);
	pthread_cond_init(&s->tick, &attr);
	pthread_condattr_destroy(&attr);
	s->dir.ops = &ops;
	s->tls = opts->tls;
	s->own = opts->own;
	s->names = names;
	s->resolve = opts->resolve;
	s->free_resolved = opts->free_resolved;
	s->resolve_ms = opts->resolve_ms;
	s->mem = cairn_memory_new();
	s->started_ms = static_now_ms();
	items_init(s);
	keeper_choose(s);
	return s;
}

enum cairn_code cairn_static_new(const struct cairn_static_opts *opts, struct cairn_directory **ret,
				 struct cairn_err *err)
{
	struct names *names;
	enum cairn_code code = names_start(opts, &names, err);
	if (code != CAIRN_OK) return code;
	struct cairn_static *s = static_alloc(opts, names);
	int rc = pthread_create(&s->keeper, NULL, keeper_main, s);
	if (rc == 0) {
		*ret = &s->dir;
		return CAIRN_OK;
	}
	names_stop(names);
	cairn_memory_free(s->mem);
	items_fini(s);
	free(s);
	return cairn_err_sys(err, rc, "start the static directory's thread");
}

enum cairn_code cairn_static_set_peers(struct cairn_directory *dir, const char *const *peers,
				       size_t n_peers, struct cairn_err *err)
{
	struct cairn_static *s = static_of(dir);
	const struct cairn_static_opts opts = {
		.peers = peers,
		.n_peers = n_peers,
		.resolve = s->resolve,
		.free_resolved = s->free_resolved,
		.resolve_ms = s->resolve_ms,
	};
	struct names *fresh, *unused;
	enum cairn_code code = names_start(&opts, &fresh, err);
	if (code != CAIRN_OK) return code;
	pthread_mutex_lock(&s->mu);
	unused = s->fresh;
	s->fresh = fresh;
	pthread_cond_signal(&s->tick);
	pthread_mutex_unlock(&s->mu);
	names_stop(unused);
	return CAIRN_OK;
}
