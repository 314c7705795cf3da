/* The view of containerd: when to list, and what is known from it.
 *
 * One thread. It never runs inside a handler, and containerd may be away for as long as it likes:
 * cairnd starts before it. mu guards what others read; it is never held while asking. */
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
#define CLIENTS_MAX 64 /* processes whose connection is remembered */

struct cairn_runtime {
	struct cairn_cache *cache;
	const struct cairn_clock *clock;
	int64_t interval_ms, retry_ms;
	struct cairn_lister lister;
	pthread_t thread;
	bool started;

	pthread_mutex_t mu;
	pthread_cond_t wake;
	bool stop, requested;		    /* guarded by mu */
	struct cairn_runtime_status status; /* guarded by mu */
	struct cairn_listing *last;	    /* guarded by mu; replaced by the thread only */
	pid_t clients[CLIENTS_MAX];	    /* guarded by mu: who connected lately, a ring */
	size_t clients_next;		    /* guarded by mu */
	bool connected;			    /* guarded by mu: one came since the last look */
	pid_t client;			    /* the thread's own: our containerd; 0: not met yet */
	struct cairn_digest_set missing;    /* the thread's own */
	bool complained;		    /* likewise: that containerd is away */
};

/* ---- is the containerd that we ask the one that uses us? --------------------------------------*/

/* The process that listens at the address; 0: nobody, or not visible from here. */
static pid_t listener_pid(const char *address)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	struct ucred peer = {0};
	socklen_t len = sizeof(peer);
	if (strlen(address) >= sizeof(addr.sun_path)) return 0;
	memcpy(addr.sun_path, address, strlen(address) + 1);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0) return 0;
	if (connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) != 0 ||
	    getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) != 0) {
		peer.pid = 0;
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
	if (pid <= 0) return CAIRN_CLIENT_UNKNOWN;
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

static void note_failure(struct cairn_runtime *rt, const struct cairn_err *err)
{
	pthread_mutex_lock(&rt->mu);
	rt->status.reachable = false;
	rt->status.failures++;
	snprintf(rt->status.error, sizeof(rt->status.error), "%s", err->msg);
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
	st->missing = result->missing;
	st->promoted += result->promoted;
	st->released += result->released;
	struct cairn_listing *old = rt->last;
	rt->last = now;
	pthread_mutex_unlock(&rt->mu);
	cairn_listing_unref(old);
	rt->complained = false;
	cairn_log(news ? CAIRN_LOG_INFO : CAIRN_LOG_DEBUG, "containerd_listed",
		  CAIRN_NUM("recorded", cairn_digest_set_size(&now->recorded)),
		  CAIRN_NUM("is_client", now->client == CAIRN_CLIENT_OURS),
		  CAIRN_NUM("missing", result->missing), CAIRN_NUM("promoted", result->promoted),
		  CAIRN_NUM("released", result->released));
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
	note_success(rt, now, &result);
	return true;
}

/* ---- the thread -------------------------------------------------------------------------------*/

/* Returns false when it is time to stop. */
static bool wait_for_turn(struct cairn_runtime *rt, int64_t ms)
{
	struct timespec until;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += ms / 1000;
	until.tv_nsec += (ms % 1000) * CAIRN_NS_PER_MS;
	if (until.tv_nsec >= CAIRN_NS_PER_S) {
		until.tv_sec++;
		until.tv_nsec -= CAIRN_NS_PER_S;
	}
	pthread_mutex_lock(&rt->mu);
	int rc = 0;
	while (!rt->stop && !rt->requested && rc != ETIMEDOUT) {
		if (rt->connected) {
			pthread_mutex_unlock(&rt->mu);
			bool came = client_came(rt);
			pthread_mutex_lock(&rt->mu);
			if (came) break;
			continue;
		}
		rc = pthread_cond_timedwait(&rt->wake, &rt->mu, &until);
	}
	rt->requested = false;
	bool go_on = !rt->stop;
	pthread_mutex_unlock(&rt->mu);
	return go_on;
}

static void *run(void *arg)
{
	struct cairn_runtime *rt = arg;
	int64_t pause = 0, retry = rt->retry_ms;
	while (wait_for_turn(rt, pause)) {
		if (list_once(rt)) {
			pause = rt->interval_ms;
			retry = rt->retry_ms;
			continue;
		}
		/* Until the first success, soon again; later, ever later. */
		pause = retry < rt->interval_ms ? retry : rt->interval_ms;
		if (rt->last != NULL) retry = 2 * retry;
		if (retry > rt->interval_ms) retry = rt->interval_ms;
	}
	return NULL;
}

static void init_sync(struct cairn_runtime *rt)
{
	pthread_condattr_t attr;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_mutex_init(&rt->mu, NULL);
	pthread_mutex_init(&rt->lister.mu, NULL);
	pthread_cond_init(&rt->wake, &attr);
	pthread_condattr_destroy(&attr);
}

static void destroy(struct cairn_runtime *rt)
{
	cairn_channel_free(rt->lister.channel);
	cairn_listing_unref(rt->last);
	cairn_digest_set_fini(&rt->missing);
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
	rt->interval_ms = opts->interval_ms;
	rt->retry_ms = opts->retry_ms > 0 ? opts->retry_ms : RETRY_MS;
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

void cairn_runtime_stop(struct cairn_runtime *rt)
{
	if (rt == NULL) return;
	pthread_mutex_lock(&rt->mu);
	rt->stop = true;
	pthread_cond_broadcast(&rt->wake);
	pthread_mutex_unlock(&rt->mu);
	if (rt->started) {
		cairn_lister_cancel(&rt->lister);
		pthread_join(rt->thread, NULL);
	}
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

void cairn_runtime_request(struct cairn_runtime *rt)
{
	pthread_mutex_lock(&rt->mu);
	rt->requested = true;
	pthread_cond_broadcast(&rt->wake);
	pthread_mutex_unlock(&rt->mu);
}

struct cairn_channel *cairn_runtime_channel(struct cairn_runtime *rt)
{
	return rt->lister.channel;
}
