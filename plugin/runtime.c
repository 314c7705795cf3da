/* The view of containerd: when to list, and what is known from it.
 *
 * One thread. It never runs inside a handler, and containerd may be away for as long as it likes:
 * cairnd starts before it. mu guards what others read; it is never held while asking.
 *
 * Who wants a listing that begins after he asked takes a ticket, a number that counts up. A listing
 * notes the newest ticket before it begins, and serves that and all before it; so one that runs
 * already serves nobody who comes now. */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "plugin/plugin.h"
#include "plugin/reconcile.h"
#include "plugin/runtime_list.h"

#define RETRY_MS 3000
#define IMAGES_MS 15000
#define WAIT_MAX_MS 86400000 /* so that it can be counted in nanoseconds */
#define IMAGES_EXPECTED_NS (600 * CAIRN_NS_PER_S)
#define CLIENTS_MAX 64 /* processes whose connection is remembered */

struct cairn_runtime {
	struct cairn_cache *cache;
	const struct cairn_clock *clock;
	_Atomic int64_t interval_ms; /* cairn_runtime_set_interval */
	int64_t retry_ms, images_ms;
	cairn_runtime_images_fn *on_images;
	void *on_images_arg;
	struct cairn_lister lister;
	pthread_t thread;
	bool started;

	pthread_mutex_t mu;
	pthread_cond_t wake;	      /* the thread waits for something to do */
	pthread_cond_t served;	      /* others wait for a listing; the stop, for them */
	bool stop, requested;	      /* guarded by mu */
	uint64_t tickets;	      /* guarded by mu: given out so far */
	uint64_t tried, listed;	      /* guarded by mu: served by any listing, by a good one */
	struct cairn_err why;	      /* guarded by mu: of the last one that failed */
	unsigned waiters;	      /* guarded by mu */
	int64_t images_until_boot_ns; /* guarded by mu: images are expected; 0: none */
	int64_t images_at_ns;	      /* guarded by mu: then, when to look (monotonic) */
	struct cairn_runtime_status status; /* guarded by mu */
	struct cairn_listing *last;	    /* guarded by mu; replaced by the thread only */
	pid_t clients[CLIENTS_MAX];	    /* guarded by mu: who connected lately, a ring */
	size_t clients_next;		    /* guarded by mu */
	bool connected;			    /* guarded by mu: one came since the last look */
	uint64_t serving;		    /* the thread's own: the ticket of this listing */
	pid_t client;			    /* likewise: our containerd; 0: not met yet */
	struct cairn_digest_set missing;    /* likewise */
	bool complained;		    /* likewise: that containerd is away */
};

/* What the condition variables count in. */
static int64_t now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * CAIRN_NS_PER_S + now.tv_nsec;
}

/* ---- is the containerd that we ask the one that uses us? --------------------------------------*/

/* The process that listens at the address; 0: it is not visible from here; negative: it cannot be
 * said now, as when nobody listens or there is no descriptor to ask with. */
static pid_t listener_pid(const char *address)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	struct ucred peer = {0};
	socklen_t len = sizeof(peer);
	if (strlen(address) >= sizeof(addr.sun_path)) return -1;
	memcpy(addr.sun_path, address, strlen(address) + 1);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0) return -1;
	if (connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) != 0 ||
	    getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) != 0) {
		peer.pid = -1;
	}
	close(fd);
	return peer.pid;
}

static bool has_connected_locked(const struct cairn_runtime *rt, pid_t pid)
{
	for (size_t i = 0; i < CLIENTS_MAX; i++) {
		if (rt->clients[i] == pid) return true;
	}
	return false;
}

/* Proved once, it stays so until another process listens there: the ring may forget. */
static enum cairn_listing_client look_at_client(struct cairn_runtime *rt)
{
	pid_t pid = listener_pid(rt->status.address);
	if (pid == 0) return CAIRN_CLIENT_UNKNOWN;
	if (pid < 0) return CAIRN_CLIENT_OTHER; /* not proved; the next listing looks again */
	pthread_mutex_lock(&rt->mu);
	if (has_connected_locked(rt, pid)) rt->client = pid;
	bool ours = rt->client == pid;
	pthread_mutex_unlock(&rt->mu);
	return ours ? CAIRN_CLIENT_OURS : CAIRN_CLIENT_OTHER;
}

/* cairnctl connects too: only a containerd that had not been met before is news. */
static bool client_came(struct cairn_runtime *rt)
{
	pthread_mutex_lock(&rt->mu);
	bool look = rt->connected;
	rt->connected = false;
	pid_t before = rt->client;
	pthread_mutex_unlock(&rt->mu);
	return look && look_at_client(rt) == CAIRN_CLIENT_OURS && rt->client != before;
}

void cairn_runtime_connected(struct cairn_runtime *rt, pid_t pid)
{
	pthread_mutex_lock(&rt->mu);
	if (pid > 0 && !has_connected_locked(rt, pid)) {
		rt->clients[rt->clients_next++ % CLIENTS_MAX] = pid;
		rt->connected = true;
		pthread_cond_broadcast(&rt->wake);
	}
	pthread_mutex_unlock(&rt->mu);
}

/* ---- one listing ------------------------------------------------------------------------------*/

/* Two codes have a meaning of their own for those who wait for a listing: that there is nobody to
 * ask, and that we stop. containerd's are told by others. */
static enum cairn_code code_of_failure(enum cairn_code code)
{
	if (code == CAIRN_FAILED_PRECONDITION) return CAIRN_INTERNAL;
	return code == CAIRN_CANCELLED ? CAIRN_UNAVAILABLE : code;
}

static void note_failure(struct cairn_runtime *rt, const struct cairn_err *err)
{
	pthread_mutex_lock(&rt->mu);
	rt->status.reachable = false;
	rt->status.failures++;
	snprintf(rt->status.error, sizeof(rt->status.error), "%s", err->msg);
	rt->tried = rt->serving;
	rt->why = *err;
	rt->why.code = code_of_failure(err->code);
	pthread_cond_broadcast(&rt->served);
	bool stop = rt->stop;
	pthread_mutex_unlock(&rt->mu);
	/* It is tried again and again; once is enough to say so. At first its absence is in order:
	 * cairnd starts before containerd. */
	bool early = rt->last == NULL && err->code == CAIRN_UNAVAILABLE;
	enum cairn_log_level level = rt->complained ? CAIRN_LOG_DEBUG
				     : early	    ? CAIRN_LOG_INFO
						    : CAIRN_LOG_WARN;
	if (stop) return;
	cairn_log(level, "containerd_not_listed", CAIRN_STR("address", rt->status.address),
		  CAIRN_STR("code", cairn_code_name(err->code)), CAIRN_ERRF(err));
	rt->complained = true;
}

static void log_listed(bool news, const struct cairn_listing *now,
		       const struct cairn_reconciled *result)
{
	cairn_log(news ? CAIRN_LOG_INFO : CAIRN_LOG_DEBUG, "containerd_listed",
		  CAIRN_NUM("recorded", cairn_digest_set_size(&now->recorded)),
		  CAIRN_NUM("images", now->n_images), CAIRN_NUM("leases", now->n_leases),
		  CAIRN_NUM("containers", now->n_containers),
		  CAIRN_NUM("is_client", now->client == CAIRN_CLIENT_OURS),
		  CAIRN_NUM("missing", result->missing), CAIRN_NUM("promoted", result->promoted),
		  CAIRN_NUM("released", result->released));
}

/* now is rt's from here on. */
static void note_success(struct cairn_runtime *rt, struct cairn_listing *now,
			 const struct cairn_reconciled *result)
{
	pthread_mutex_lock(&rt->mu);
	struct cairn_runtime_status *st = &rt->status;
	bool news = !st->reachable || result->promoted > 0 || result->released > 0 ||
		    result->missing != st->missing;
	st->reachable = true;
	st->client = now->client == CAIRN_CLIENT_OURS;
	st->error[0] = '\0';
	st->last_listing_ns = now->begun_real_ns;
	st->listings++;
	st->recorded = cairn_digest_set_size(&now->recorded);
	st->images = now->n_images;
	st->leases = now->n_leases;
	st->containers = now->n_containers;
	st->missing = result->missing;
	st->promoted += result->promoted;
	st->released += result->released;
	struct cairn_listing *old = rt->last;
	rt->last = now;
	rt->tried = rt->listed = rt->serving;
	rt->images_at_ns = now_ns() + rt->images_ms * CAIRN_NS_PER_MS; /* seen just now */
	pthread_cond_broadcast(&rt->served);
	pthread_mutex_unlock(&rt->mu);
	cairn_listing_unref(old);
	rt->complained = false;
	log_listed(news, now, result);
}

static void tell_images(struct cairn_runtime *rt, const struct cairn_listing *listing)
{
	if (rt->on_images == NULL) return;
	rt->on_images(rt->on_images_arg, listing->images, listing->n_images);
}

static bool list_once(struct cairn_runtime *rt)
{
	struct cairn_err err;
	struct cairn_listing *now = NULL;
	enum cairn_listing_client client = look_at_client(rt);
	if (cairn_lister_list(&rt->lister, rt->clock, &now, &err) != CAIRN_OK) {
		note_failure(rt, &err);
		return false;
	}
	now->client = client;
	struct cairn_reconciled result;
	const struct cairn_listing *before = rt->last;
	if (before != NULL &&
	    (before->client != CAIRN_CLIENT_OURS || now->client != CAIRN_CLIENT_OURS)) {
		before = NULL;
	}
	cairn_reconcile(rt->cache, before, now, &rt->missing, &result);
	cairn_digest_set_fini(&rt->missing);
	rt->missing = result.missing_set;
	tell_images(rt, now); /* before those who wait for the listing decide anything by it */
	note_success(rt, now, &result);
	return true;
}

/* A look at the images only. Whether containerd is there is the full listing's to say. */
static void look_for_images(struct cairn_runtime *rt)
{
	struct cairn_err err;
	struct cairn_listing *seen = NULL;
	if (cairn_lister_list_images(&rt->lister, rt->clock, &seen, &err) == CAIRN_OK) {
		tell_images(rt, seen);
		cairn_log(CAIRN_LOG_DEBUG, "images_listed", CAIRN_NUM("images", seen->n_images));
		cairn_listing_unref(seen);
	} else {
		cairn_log(CAIRN_LOG_DEBUG, "images_not_listed",
			  CAIRN_STR("code", cairn_code_name(err.code)), CAIRN_ERRF(&err));
	}
	pthread_mutex_lock(&rt->mu);
	rt->images_at_ns = now_ns() + rt->images_ms * CAIRN_NS_PER_MS;
	pthread_mutex_unlock(&rt->mu);
}

/* ---- the thread -------------------------------------------------------------------------------*/

enum turn { TURN_STOP, TURN_LIST, TURN_IMAGES };

/* When to look for images; INT64_MAX: none are expected. */
static int64_t images_due_locked(struct cairn_runtime *rt)
{
	if (rt->images_until_boot_ns == 0) return INT64_MAX;
	if (cairn_boot_ns(rt->clock) >= rt->images_until_boot_ns) {
		rt->images_until_boot_ns = 0;
		return INT64_MAX;
	}
	return rt->images_at_ns;
}

/* What to do next; a listing at list_at_ns at the latest. */
static enum turn next_turn_locked(struct cairn_runtime *rt, int64_t list_at_ns)
{
	for (;;) {
		int64_t images_at_ns = images_due_locked(rt), now = now_ns();
		if (rt->stop) return TURN_STOP;
		if (rt->requested || now >= list_at_ns) return TURN_LIST;
		if (now >= images_at_ns) return TURN_IMAGES;
		if (rt->connected) {
			pthread_mutex_unlock(&rt->mu);
			bool came = client_came(rt);
			pthread_mutex_lock(&rt->mu);
			if (came) return rt->stop ? TURN_STOP : TURN_LIST;
			continue;
		}
		int64_t until = list_at_ns < images_at_ns ? list_at_ns : images_at_ns;
		struct timespec at = {.tv_sec = until / CAIRN_NS_PER_S,
				      .tv_nsec = until % CAIRN_NS_PER_S};
		(void)pthread_cond_timedwait(&rt->wake, &rt->mu, &at);
	}
}

static enum turn wait_for_turn(struct cairn_runtime *rt, int64_t list_at_ns)
{
	pthread_mutex_lock(&rt->mu);
	enum turn turn = next_turn_locked(rt, list_at_ns);
	if (turn == TURN_LIST) {
		rt->requested = false;
		rt->serving = rt->tickets;
	}
	pthread_mutex_unlock(&rt->mu);
	return turn;
}

static void *run(void *arg)
{
	struct cairn_runtime *rt = arg;
	int64_t list_at_ns = 0, retry = rt->retry_ms;
	for (;;) {
		enum turn turn = wait_for_turn(rt, list_at_ns);
		if (turn == TURN_STOP) return NULL;
		if (turn == TURN_IMAGES) {
			look_for_images(rt);
			continue;
		}
		int64_t interval = atomic_load(&rt->interval_ms), pause = interval;
		if (list_once(rt)) {
			retry = rt->retry_ms;
		} else {
			/* Until the first success, soon again; later, ever later. */
			if (retry < pause) pause = retry;
			if (rt->last != NULL) retry = 2 * retry;
			if (retry > interval) retry = interval;
		}
		list_at_ns = now_ns() + pause * CAIRN_NS_PER_MS;
	}
}

static void init_sync(struct cairn_runtime *rt)
{
	pthread_condattr_t attr;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_mutex_init(&rt->mu, NULL);
	pthread_mutex_init(&rt->lister.mu, NULL);
	pthread_cond_init(&rt->wake, &attr);
	pthread_cond_init(&rt->served, &attr);
	pthread_condattr_destroy(&attr);
}

static void destroy(struct cairn_runtime *rt)
{
	cairn_channel_free(rt->lister.channel);
	cairn_listing_unref(rt->last);
	cairn_digest_set_fini(&rt->missing);
	pthread_cond_destroy(&rt->served);
	pthread_cond_destroy(&rt->wake);
	pthread_mutex_destroy(&rt->lister.mu);
	pthread_mutex_destroy(&rt->mu);
	free(rt);
}

static enum cairn_code start_thread(struct cairn_runtime *rt, struct cairn_rpc *rpc,
				    const char *address, struct cairn_err *err)
{
	char target[sizeof(rt->status.address) + 8];
	snprintf(target, sizeof(target), "unix:%s", address);
	enum cairn_code rc = cairn_channel_new(rpc, target, NULL, &rt->lister.channel, err);
	if (rc) return rc;
	int e = pthread_create(&rt->thread, NULL, run, rt);
	if (e != 0) return cairn_err_sys(err, e, "start the thread that asks containerd");
	rt->started = true;
	return CAIRN_OK;
}

enum cairn_code cairn_runtime_start(const struct cairn_runtime_opts *opts,
				    struct cairn_runtime **ret, struct cairn_err *err)
{
	struct cairn_runtime *rt = calloc(1, sizeof(*rt));
	if (rt == NULL) abort();
	init_sync(rt);
	rt->cache = opts->cache;
	rt->clock = opts->clock != NULL ? opts->clock : &cairn_clock_system;
	atomic_init(&rt->interval_ms, opts->interval_ms);
	rt->retry_ms = opts->retry_ms > 0 ? opts->retry_ms : RETRY_MS;
	rt->images_ms = opts->images_ms > 0 ? opts->images_ms : IMAGES_MS;
	rt->on_images = opts->on_images;
	rt->on_images_arg = opts->on_images_arg;
	enum cairn_code rc = CAIRN_OK;
	if (strlen(opts->address) >= sizeof(rt->status.address)) {
		rc = cairn_err_set(err, CAIRN_INVALID_ARGUMENT, "%.100s...: too long for a socket",
				   opts->address);
	} else if (opts->address[0] != '\0') {
		memcpy(rt->status.address, opts->address, strlen(opts->address) + 1);
		rc = start_thread(rt, opts->rpc, opts->address, err);
	}
	if (rc) {
		destroy(rt);
		return rc;
	}
	*ret = rt;
	return CAIRN_OK;
}

void cairn_runtime_set_interval(struct cairn_runtime *rt, int64_t interval_ms)
{
	atomic_store(&rt->interval_ms, interval_ms);
}

void cairn_runtime_cancel(struct cairn_runtime *rt)
{
	pthread_mutex_lock(&rt->mu);
	rt->stop = true;
	pthread_cond_broadcast(&rt->wake);
	pthread_cond_broadcast(&rt->served);
	pthread_mutex_unlock(&rt->mu);
	if (rt->started) cairn_lister_cancel(&rt->lister);
}

void cairn_runtime_stop(struct cairn_runtime *rt)
{
	if (rt == NULL) return;
	cairn_runtime_cancel(rt);
	if (rt->started) pthread_join(rt->thread, NULL);
	pthread_mutex_lock(&rt->mu);
	while (rt->waiters > 0) pthread_cond_wait(&rt->served, &rt->mu);
	pthread_mutex_unlock(&rt->mu);
	destroy(rt);
}

/* ---- what others ask --------------------------------------------------------------------------*/

void cairn_runtime_get_status(struct cairn_runtime *rt, struct cairn_runtime_status *ret)
{
	pthread_mutex_lock(&rt->mu);
	*ret = rt->status;
	pthread_mutex_unlock(&rt->mu);
}

bool cairn_runtime_records(struct cairn_runtime *rt, const struct cairn_digest *digest,
			   bool *ret_known)
{
	pthread_mutex_lock(&rt->mu);
	*ret_known = rt->last != NULL;
	bool has = rt->last != NULL && cairn_digest_set_has(&rt->last->recorded, digest);
	pthread_mutex_unlock(&rt->mu);
	return has;
}

bool cairn_runtime_asks(const struct cairn_runtime *rt)
{
	return rt->started;
}

void cairn_runtime_request(struct cairn_runtime *rt)
{
	pthread_mutex_lock(&rt->mu);
	rt->requested = true;
	pthread_cond_broadcast(&rt->wake);
	pthread_mutex_unlock(&rt->mu);
}

/* A good listing that serves the ticket counts even if a later one has failed. */
static enum cairn_code await_locked(struct cairn_runtime *rt, uint64_t ticket, int64_t timeout_ms,
				    struct cairn_err *err)
{
	if (timeout_ms > WAIT_MAX_MS) timeout_ms = WAIT_MAX_MS;
	int64_t until = now_ns() + timeout_ms * CAIRN_NS_PER_MS;
	struct timespec at = {.tv_sec = until / CAIRN_NS_PER_S, .tv_nsec = until % CAIRN_NS_PER_S};
	for (int rc = 0;; rc = pthread_cond_timedwait(&rt->served, &rt->mu, &at)) {
		if (rt->listed >= ticket) return CAIRN_OK;
		if (rt->stop) return cairn_err_set(err, CAIRN_CANCELLED, "cairnd is stopping");
		if (rt->tried >= ticket) {
			*err = rt->why;
			return err->code;
		}
		if (rc == ETIMEDOUT) {
			return cairn_err_set(err, CAIRN_DEADLINE_EXCEEDED,
					     "containerd was not listed within %lld ms",
					     (long long)timeout_ms);
		}
	}
}

enum cairn_code cairn_runtime_refresh(struct cairn_runtime *rt, int64_t timeout_ms,
				      struct cairn_listing **ret, struct cairn_err *err)
{
	if (!rt->started) {
		return cairn_err_set(err, CAIRN_FAILED_PRECONDITION,
				     "containerd.address is empty: there is nobody to ask");
	}
	pthread_mutex_lock(&rt->mu);
	rt->waiters++;
	uint64_t ticket = ++rt->tickets;
	rt->requested = true;
	pthread_cond_broadcast(&rt->wake);
	enum cairn_code rc = await_locked(rt, ticket, timeout_ms, err);
	if (rc == CAIRN_OK) *ret = cairn_listing_ref(rt->last);
	if (--rt->waiters == 0 && rt->stop) pthread_cond_broadcast(&rt->served);
	pthread_mutex_unlock(&rt->mu);
	return rc;
}

struct cairn_listing *cairn_runtime_last(struct cairn_runtime *rt)
{
	pthread_mutex_lock(&rt->mu);
	struct cairn_listing *last = rt->last != NULL ? cairn_listing_ref(rt->last) : NULL;
	pthread_mutex_unlock(&rt->mu);
	return last;
}

void cairn_runtime_expect_images(struct cairn_runtime *rt)
{
	int64_t boot_ns = cairn_boot_ns(rt->clock);
	pthread_mutex_lock(&rt->mu);
	bool news = rt->images_until_boot_ns <= boot_ns;
	rt->images_until_boot_ns = boot_ns + IMAGES_EXPECTED_NS;
	if (news) {
		rt->images_at_ns = now_ns() + rt->images_ms * CAIRN_NS_PER_MS;
		pthread_cond_broadcast(&rt->wake);
	}
	pthread_mutex_unlock(&rt->mu);
}

struct cairn_channel *cairn_runtime_channel(struct cairn_runtime *rt)
{
	return rt->lister.channel;
}
