/* A link: the thread that keeps a connection to one peer, pings it, asks it and tells it. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "p2p/rendezvous.h"
#include "p2p/static_state.h"

#define STACK_BYTES (256u << 10)

int64_t static_now_ms(void)
{
	return cairn_boot_ns(&cairn_clock_system) / CAIRN_NS_PER_MS;
}

void static_wake(const struct link *link)
{
	(void)eventfd_write(link->wake_fd, 1);
}

/* ---- what is to be said ---- */

struct request *request_new(const struct sentence *sentence)
{
	struct request *r = calloc(1, sizeof(*r));
	if (r == NULL) abort();
	pthread_condattr_t attr;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&r->answered, &attr);
	pthread_condattr_destroy(&attr);
	r->sentence = *sentence;
	r->refs = 1;
	return r;
}

void request_unref(struct request *r)
{
	if (--r->refs > 0) return;
	pthread_cond_destroy(&r->answered);
	free(r);
}

void link_push(struct link *link, struct request *r)
{
	r->refs++;
	*link->requests_end = r;
	link->requests_end = &r->next;
	link->n_requests++;
	static_wake(link);
}

/* So much is to be said that it is easier to begin anew. */
static void give_up(struct link *link)
{
	link->bulk.first = link->bulk.n = 0;
	if (link->conn != NULL) cairn_conn_interrupt(link->conn);
}

void link_say(struct link *link, const struct sentence *sentence)
{
	if (link->n_requests >= BULK_MAX) {
		give_up(link);
		return;
	}
	struct request *r = request_new(sentence);
	r->background = true;
	link_push(link, r);
	request_unref(r);
}

void link_bulk(struct link *link, const struct cairn_digest *digest, bool withdraw)
{
	struct bulk *bulk = &link->bulk;
	if (bulk->n - bulk->first >= BULK_MAX) {
		give_up(link);
		return;
	}
	if (bulk->n == bulk->room && bulk->first > bulk->n / 2) {
		bulk->n -= bulk->first;
		memmove(bulk->all, bulk->all + bulk->first, bulk->n * sizeof(bulk->all[0]));
		bulk->first = 0;
	} else if (bulk->n == bulk->room) {
		bulk->room = bulk->room > 0 ? 2 * bulk->room : 64;
		bulk->all = realloc(bulk->all, bulk->room * sizeof(bulk->all[0]));
		if (bulk->all == NULL) abort();
	}
	if (bulk->first == bulk->n) static_wake(link);
	bulk->all[bulk->n++] = (struct bulk_entry){.digest = *digest, .withdraw = withdraw};
}

bool link_idle(const struct link *link)
{
	return !link->busy && link->n_requests == 0 && link->bulk.first == link->bulk.n;
}

/* ---- a burst: sent at once, answered in order ---- */

struct burst {
	struct request *requests[BURST];
	size_t n;
	struct sentence bulk; /* of n_digests, if there are any; else a ping, if that is due */
	size_t n_digests;
	bool ping;
	struct bulk_entry digests[CAIRN_STATIC_BATCH];
};

static struct request *pop(struct link *link)
{
	struct request *r = link->requests;
	if (r == NULL) return NULL;
	link->requests = r->next;
	if (r->next == NULL) link->requests_end = &link->requests;
	r->next = NULL;
	link->n_requests--;
	return r;
}

/* mu held. false: there is nothing to say. */
static bool take_burst(struct link *link, struct burst *b, bool ping)
{
	struct bulk *bulk = &link->bulk;
	b->n = b->n_digests = 0;
	while (b->n < BURST) {
		struct request *r = pop(link);
		if (r == NULL) break;
		if (r->abandoned) {
			request_unref(r);
		} else {
			b->requests[b->n++] = r;
		}
	}
	while (bulk->first < bulk->n && b->n_digests < CAIRN_STATIC_BATCH) {
		const struct bulk_entry *entry = &bulk->all[bulk->first];
		if (b->n_digests > 0 && entry->withdraw != b->digests[0].withdraw) break;
		b->digests[b->n_digests++] = *entry;
		bulk->first++;
	}
	if (bulk->first == bulk->n) bulk->first = bulk->n = 0;
	b->bulk = (struct sentence){.op = OP_PING};
	if (b->n_digests > 0) b->bulk.op = b->digests[0].withdraw ? OP_WITHDRAW : OP_ANNOUNCE;
	b->ping = ping && b->n == 0 && b->n_digests == 0;
	link->busy = b->n > 0 || b->n_digests > 0;
	return link->busy || b->ping;
}

static enum cairn_code send_burst(struct cairn_conn *conn, const struct burst *b,
				  struct cairn_err *err)
{
	for (size_t i = 0; i < b->n; i++) {
		enum cairn_code rc = wire_send(conn, &b->requests[i]->sentence, NULL, 0, err);
		if (rc != CAIRN_OK) return rc;
	}
	if (b->n_digests > 0 || b->ping) {
		const struct bulk_entry *digests = b->ping ? NULL : b->digests;
		enum cairn_code rc = wire_send(conn, &b->bulk, digests, b->n_digests, err);
		if (rc != CAIRN_OK) return rc;
	}
	return cairn_conn_flush(conn, DEAD_MS, err);
}

/* mu held. */
static void answer_request(struct link *link, struct request *r, const struct wire_answer *answer)
{
	r->code = answer->code;
	r->answer = answer->answer;
	memcpy(r->message, answer->message, sizeof(r->message));
	r->done = true;
	if (!r->background && !r->abandoned && r->code == CAIRN_OK) {
		items_answered(link->s, link->slot, &r->sentence, &answer->answer.grant);
	}
	pthread_cond_signal(&r->answered);
	request_unref(r);
}

/* The answer to requests[i]; i == n: to the bulk or ping. */
static enum cairn_code receive_one(struct link *link, struct cairn_conn *conn, struct burst *b,
				   size_t i, int64_t *last_ms, struct cairn_err *err)
{
	struct cairn_static *s = link->s;
	struct wire_answer answer;
	int64_t left_ms = *last_ms + DEAD_MS - static_now_ms();
	enum cairn_code rc =
		wire_receive(conn, s->own->address, left_ms > 1 ? left_ms : 1, &answer, err);
	if (rc != CAIRN_OK) return rc;
	*last_ms = static_now_ms();
	pthread_mutex_lock(&s->mu);
	if (i < b->n) {
		answer_request(link, b->requests[i], &answer);
		b->requests[i] = NULL;
	}
	if (answer.life != 0 && answer.life != link->life) {
		link->life = answer.life;
		items_forgotten(s, link->slot, true);
	}
	pthread_mutex_unlock(&s->mu);
	return CAIRN_OK;
}

static void fail_request(struct request *r)
{
	r->code = CAIRN_UNAVAILABLE;
	r->done = true;
	pthread_cond_signal(&r->answered);
	request_unref(r);
}

static enum cairn_code do_burst(struct link *link, struct cairn_conn *conn, struct burst *b,
				int64_t *last_ms, struct cairn_err *err)
{
	size_t answers = b->n + (b->n_digests > 0 || b->ping);
	enum cairn_code rc = send_burst(conn, b, err);
	for (size_t i = 0; i < answers && rc == CAIRN_OK; i++) {
		rc = receive_one(link, conn, b, i, last_ms, err);
	}
	pthread_mutex_lock(&link->s->mu);
	for (size_t i = 0; i < b->n; i++) {
		if (b->requests[i] != NULL) fail_request(b->requests[i]);
	}
	link->busy = false;
	if (link_idle(link)) pthread_cond_broadcast(&link->s->changed);
	pthread_mutex_unlock(&link->s->mu);
	return rc;
}

/* ---- the life of a connection ---- */

/* mu held. Is this link the one to the node that the connection leads to? */
static enum cairn_code claim(struct link *link, const char *address, struct cairn_err *err)
{
	struct cairn_static *s = link->s;
	if (strcmp(address, s->own->address) == 0) {
		return cairn_err_set(err, CAIRN_FAILED_PRECONDITION,
				     "it calls itself %s, as this node does", address);
	}
	for (slot_t i = 0; i < CAIRN_STATIC_PEERS_MAX; i++) {
		const struct link *other = s->links[i];
		if (other == NULL || other == link || !other->claimed) continue;
		if (strcmp(other->address, address) != 0) continue;
		link->twin = true;
		return cairn_err_set(err, CAIRN_ALREADY_EXISTS, "it is %s, as %s", address,
				     other->target);
	}
	memcpy(link->address, address, strlen(address) + 1);
	link->number = cairn_rendezvous_node(address);
	link->claimed = true;
	return CAIRN_OK;
}

/* The first question, which makes void what was said on earlier connections. */
static enum cairn_code begin(struct link *link, struct cairn_conn *conn, struct cairn_err *err)
{
	const struct sentence anew = {.op = OP_PING, .join = true};
	struct wire_answer answer;
	enum cairn_code rc = wire_send(conn, &anew, NULL, 0, err);
	if (rc == CAIRN_OK) rc = cairn_conn_flush(conn, DIAL_MS, err);
	if (rc == CAIRN_OK) {
		rc = wire_receive(conn, link->s->own->address, DIAL_MS, &answer, err);
	}
	if (rc != CAIRN_OK) return rc;
	if (answer.code != CAIRN_OK) return cairn_err_set(err, answer.code, "%s", answer.message);
	pthread_mutex_lock(&link->s->mu);
	link->life = answer.life;
	link->up = true;
	link->up_ms = static_now_ms();
	link->asked = link->settled = !link->s->ready;
	link->error[0] = '\0';
	keeper_choose(link->s);
	pthread_cond_signal(&link->s->tick);
	pthread_mutex_unlock(&link->s->mu);
	return CAIRN_OK;
}

static enum cairn_code dial(struct link *link, struct cairn_conn *conn, struct cairn_err *err)
{
	struct cairn_static *s = link->s;
	enum cairn_code rc =
		strcmp(link->target, s->own->address) == 0
			? cairn_err_set(err, CAIRN_ABORTED, "it is this node itself")
			: cairn_conn_connect(conn, s->tls, link->target, s->own, DIAL_MS, err);
	pthread_mutex_lock(&s->mu);
	link->twin = false;
	link->self = rc == CAIRN_ABORTED;
	if (rc == CAIRN_OK) rc = claim(link, cairn_conn_address(conn), err);
	pthread_mutex_unlock(&s->mu);
	if (rc == CAIRN_OK) rc = begin(link, conn, err);
	return rc;
}

static void drain(int fd)
{
	eventfd_t ignored;
	(void)eventfd_read(fd, &ignored);
}

/* Returns when the connection has ended, or is to end. */
static enum cairn_code converse(struct link *link, struct cairn_conn *conn, struct burst *b,
				struct cairn_err *err)
{
	int64_t last_ms = static_now_ms();
	for (;;) {
		int64_t idle_ms = static_now_ms() - last_ms;
		pthread_mutex_lock(&link->s->mu);
		bool stop = link->stop;
		bool some = !stop && take_burst(link, b, idle_ms >= PING_MS);
		pthread_mutex_unlock(&link->s->mu);
		if (stop) return cairn_err_set(err, CAIRN_CANCELLED, "the link is not needed");
		if (some) {
			enum cairn_code rc = do_burst(link, conn, b, &last_ms, err);
			if (rc != CAIRN_OK) return rc;
			continue;
		}
		switch (cairn_conn_wait(conn, link->wake_fd, PING_MS - idle_ms)) {
		case CAIRN_CONN_READABLE: /* nothing was asked */
			return cairn_err_set(err, CAIRN_UNAVAILABLE, "the peer has closed it");
		case CAIRN_CONN_WOKEN:
			drain(link->wake_fd);
			break;
		case CAIRN_CONN_TIMEOUT:
			break;
		}
	}
}

/* mu held. */
static void down(struct link *link, const struct cairn_err *err)
{
	struct request *r;
	link->conn = NULL;
	link->tried = true;
	link->claimed = false;
	(void)memccpy(link->error, err->msg, '\0', sizeof(link->error) - 1);
	while ((r = pop(link)) != NULL) fail_request(r);
	link->bulk.first = link->bulk.n = 0;
	if (link->up) {
		link->up = link->asked = link->settled = false;
		items_forgotten(link->s, link->slot, false);
		keeper_choose(link->s);
	}
	pthread_cond_signal(&link->s->tick);
	pthread_cond_broadcast(&link->s->changed);
}

static void log_end(const struct link *link, const struct cairn_err *err)
{
	if (err->code == CAIRN_CANCELLED) return;
	cairn_log(CAIRN_LOG_WARN, "peer_lost", CAIRN_STR("peer", link->address),
		  CAIRN_STR("dialled", link->target), CAIRN_ERRF(err));
}

/* One connection from beginning to end. Returns whether it was up. */
static bool live_once(struct link *link, struct burst *b)
{
	struct cairn_static *s = link->s;
	struct cairn_err err = {0};
	struct cairn_conn *conn = cairn_conn_new();
	pthread_mutex_lock(&s->mu);
	link->conn = conn;
	bool stop = link->stop;
	pthread_mutex_unlock(&s->mu);
	enum cairn_code rc = stop ? cairn_err_set(&err, CAIRN_CANCELLED, "the link is not needed")
				  : dial(link, conn, &err);
	bool was_up = rc == CAIRN_OK;
	if (was_up) {
		cairn_log(CAIRN_LOG_INFO, "peer_found", CAIRN_STR("peer", link->address),
			  CAIRN_STR("dialled", link->target));
		pthread_mutex_lock(&s->mu);
		link->tried = true;
		pthread_mutex_unlock(&s->mu);
		rc = converse(link, conn, b, &err);
		if (rc != CAIRN_OK) log_end(link, &err);
	}
	pthread_mutex_lock(&s->mu);
	down(link, &err);
	pthread_mutex_unlock(&s->mu);
	cairn_conn_free(conn);
	return was_up;
}

/* Until that time has passed, or it is to be dialled at once. false: stop. */
static bool rest(struct link *link, int64_t ms)
{
	int64_t until_ms = static_now_ms() + ms;
	for (;;) {
		pthread_mutex_lock(&link->s->mu);
		bool stop = link->stop, nudged = link->nudged;
		link->nudged = false;
		pthread_mutex_unlock(&link->s->mu);
		int64_t left_ms = until_ms - static_now_ms();
		if (stop || nudged || left_ms <= 0) return !stop;
		struct pollfd fd = {.fd = link->wake_fd, .events = POLLIN};
		if (poll(&fd, 1, (int)left_ms) > 0) drain(link->wake_fd);
	}
}

static void *link_main(void *arg)
{
	struct link *link = arg;
	struct burst *b = calloc(1, sizeof(*b));
	if (b == NULL) abort();
	uint64_t random = cairn_rendezvous_node(link->target) ^ (uint64_t)static_now_ms();
	int64_t backoff_ms = 0;
	bool go_on = true;
	while (go_on) {
		bool was_up = live_once(link, b);
		pthread_mutex_lock(&link->s->mu);
		bool elsewhere = link->self || link->twin;
		pthread_mutex_unlock(&link->s->mu);
		backoff_ms = was_up || backoff_ms == 0 ? BACKOFF_MIN_MS : 2 * backoff_ms;
		if (backoff_ms > BACKOFF_MAX_MS) backoff_ms = BACKOFF_MAX_MS;
		if (elsewhere) backoff_ms = ELSEWHERE_MS;
		random = random * UINT64_C(6364136223846793005) + 1;
		go_on = rest(link, backoff_ms * (int64_t)(75 + (random >> 33) % 51) / 100);
	}
	free(b);
	pthread_mutex_lock(&link->s->mu);
	link->ended = true;
	pthread_cond_signal(&link->s->tick);
	pthread_mutex_unlock(&link->s->mu);
	return NULL;
}

enum cairn_code link_start(struct cairn_static *s, slot_t slot, const char *target,
			   struct cairn_err *err)
{
	struct link *link = calloc(1, sizeof(*link));
	if (link == NULL) abort();
	link->s = s;
	link->slot = slot;
	link->listed = true;
	link->requests_end = &link->requests;
	memcpy(link->target, target, strlen(target) + 1);
	link->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	pthread_attr_t attr;
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	int rc = link->wake_fd < 0 ? errno : 0;
	if (rc == 0) rc = pthread_create(&link->thread, &attr, link_main, link);
	pthread_attr_destroy(&attr);
	if (rc == 0) {
		s->links[slot] = link;
		return CAIRN_OK;
	}
	if (link->wake_fd >= 0) (void)close(link->wake_fd);
	free(link);
	return cairn_err_sys(err, rc, "start the link to %s", target);
}

void link_stop(struct link *link)
{
	link->stop = true;
	if (link->conn != NULL) cairn_conn_interrupt(link->conn);
	static_wake(link);
}

void link_free(struct link *link)
{
	(void)close(link->wake_fd);
	free(link->bulk.all);
	free(link);
}
