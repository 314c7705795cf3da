/* mu guards all of the pool. Connections are dialled, tried, interrupted and freed without it, but
 * for one thing: who interrupts a taken connection holds it, so that nobody frees it meanwhile; an
 * interrupt is a flag and one write to an eventfd. */
#include "p2p/pool.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"

#define REAPER_STACK (256u << 10)

struct entry {
	struct cairn_conn *conn;
	char address[CAIRN_ADDRESS_MAX]; /* as it was dialled */
	int64_t idle_since_ns;
	struct entry *next;
};

struct cairn_pool {
	struct cairn_tls_files *tls;
	const struct cairn_hello *own;
	pthread_mutex_t mu;
	pthread_cond_t changed; /* for the reaper: the first idle one is another, or cancelled */
	struct entry *idle, *taken; /* idle: the one that came back last is first */
	size_t n_idle, n_taken;
	bool cancelled;
	bool reaping; /* the reaper has been started */
	pthread_t reaper;
};

static int64_t now_ns(void)
{
	return cairn_boot_ns(&cairn_clock_system);
}

static void free_entries(struct entry *list)
{
	while (list != NULL) {
		struct entry *entry = list;
		list = entry->next;
		cairn_conn_free(entry->conn);
		free(entry);
	}
}

/* ---- idle ones go ---- */

/* Unlink those idle since before since_ns. The list is ordered: they are its end. */
static struct entry *cut_idle_locked(struct cairn_pool *pool, int64_t since_ns)
{
	struct entry **at = &pool->idle;
	size_t n = 0;
	for (; *at != NULL && (*at)->idle_since_ns >= since_ns; at = &(*at)->next) n++;
	pool->n_idle = n;
	return cairn_steal(at);
}

void cairn_pool_expire(struct cairn_pool *pool, int64_t at_ns)
{
	pthread_mutex_lock(&pool->mu);
	struct entry *old = cut_idle_locked(pool, at_ns - CAIRN_POOL_IDLE_MS * CAIRN_NS_PER_MS);
	pthread_mutex_unlock(&pool->mu);
	free_entries(old);
}

/* Sleeps until the oldest idle one is due. The condition variable knows no boot time: after a
 * suspend it looks late, which harms nobody. */
static void sleep_locked(struct cairn_pool *pool)
{
	if (pool->idle == NULL) {
		pthread_cond_wait(&pool->changed, &pool->mu);
		return;
	}
	struct timespec until;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += CAIRN_POOL_IDLE_MS / 2000; /* at the latest after one and a half of it */
	pthread_cond_timedwait(&pool->changed, &pool->mu, &until);
}

static void *reap(void *arg)
{
	struct cairn_pool *pool = arg;
	pthread_mutex_lock(&pool->mu);
	while (!pool->cancelled) {
		sleep_locked(pool);
		struct entry *old =
			cut_idle_locked(pool, now_ns() - CAIRN_POOL_IDLE_MS * CAIRN_NS_PER_MS);
		pthread_mutex_unlock(&pool->mu);
		free_entries(old);
		pthread_mutex_lock(&pool->mu);
	}
	pthread_mutex_unlock(&pool->mu);
	return NULL;
}

/* If no thread is to be had, those that are idle for too long go when one is taken. */
static void start_reaper_locked(struct cairn_pool *pool)
{
	pthread_attr_t attr;
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, REAPER_STACK);
	pool->reaping = pthread_create(&pool->reaper, &attr, reap, pool) == 0;
	pthread_attr_destroy(&attr);
}

/* ---- the pool ---- */

struct cairn_pool *cairn_pool_new(struct cairn_tls_files *tls, const struct cairn_hello *own)
{
	struct cairn_pool *pool = calloc(1, sizeof(*pool));
	if (pool == NULL) abort();
	pool->tls = tls;
	pool->own = own;
	pthread_condattr_t attr;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_mutex_init(&pool->mu, NULL);
	pthread_cond_init(&pool->changed, &attr);
	pthread_condattr_destroy(&attr);
	return pool;
}

void cairn_pool_cancel(struct cairn_pool *pool)
{
	pthread_mutex_lock(&pool->mu);
	pool->cancelled = true;
	for (struct entry *entry = pool->taken; entry != NULL; entry = entry->next) {
		cairn_conn_interrupt(entry->conn);
	}
	pthread_cond_signal(&pool->changed);
	pthread_mutex_unlock(&pool->mu);
}

void cairn_pool_free(struct cairn_pool *pool)
{
	if (pool == NULL) return;
	cairn_pool_cancel(pool);
	if (pool->reaping) pthread_join(pool->reaper, NULL);
	if (pool->n_taken != 0) abort(); /* somebody would use freed memory */
	free_entries(pool->idle);
	pthread_cond_destroy(&pool->changed);
	pthread_mutex_destroy(&pool->mu);
	free(pool);
}

size_t cairn_pool_count(struct cairn_pool *pool)
{
	pthread_mutex_lock(&pool->mu);
	size_t n = pool->n_idle + pool->n_taken;
	pthread_mutex_unlock(&pool->mu);
	return n;
}

/* ---- take and give ---- */

static void insert_taken_locked(struct cairn_pool *pool, struct entry *entry)
{
	entry->next = pool->taken;
	pool->taken = entry;
	pool->n_taken++;
}

static struct entry *remove_taken_locked(struct cairn_pool *pool, const struct cairn_conn *conn)
{
	struct entry **at = &pool->taken;
	while (*at != NULL && (*at)->conn != conn) at = &(*at)->next;
	struct entry *entry = *at;
	if (entry == NULL) abort(); /* not of this pool, or given twice */
	*at = entry->next;
	pool->n_taken--;
	return entry;
}

static enum cairn_code cancelled(struct cairn_err *err)
{
	return cairn_err_set(err, CAIRN_CANCELLED, "no more connections are made");
}

/* An idle one to that address, taken; NULL: there is none. *ret_old: to be freed. */
static struct entry *reuse_locked(struct cairn_pool *pool, const char *address,
				  struct entry **ret_old)
{
	*ret_old = cut_idle_locked(pool, now_ns() - CAIRN_POOL_IDLE_MS * CAIRN_NS_PER_MS);
	for (struct entry **at = &pool->idle; *at != NULL; at = &(*at)->next) {
		struct entry *entry = *at;
		if (strcmp(entry->address, address) != 0) continue;
		*at = entry->next;
		pool->n_idle--;
		insert_taken_locked(pool, entry);
		return entry;
	}
	return NULL;
}

static enum cairn_code take_idle(struct cairn_pool *pool, const char *address,
				 struct cairn_conn **ret, struct cairn_err *err)
{
	*ret = NULL;
	for (;;) {
		struct entry *old = NULL, *entry = NULL;
		pthread_mutex_lock(&pool->mu);
		bool stop = pool->cancelled;
		if (!stop) entry = reuse_locked(pool, address, &old);
		pthread_mutex_unlock(&pool->mu);
		free_entries(old);
		if (stop) return cancelled(err);
		if (entry == NULL) return CAIRN_OK;
		struct cairn_conn *conn = entry->conn;
		if (cairn_conn_quiet(conn)) {
			*ret = conn;
			return CAIRN_OK;
		}
		cairn_pool_give(pool, &conn, false); /* the other side has closed it */
	}
}

static enum cairn_code take_new(struct cairn_pool *pool, const char *address, int64_t timeout_ms,
				struct cairn_conn **ret, struct cairn_err *err)
{
	struct entry *entry = calloc(1, sizeof(*entry));
	if (entry == NULL) abort();
	strncat(entry->address, address, sizeof(entry->address) - 1);
	entry->conn = cairn_conn_new();
	struct cairn_conn *conn = entry->conn;
	pthread_mutex_lock(&pool->mu);
	bool stop = pool->cancelled;
	insert_taken_locked(pool, entry);
	pthread_mutex_unlock(&pool->mu);
	enum cairn_code rc =
		stop ? cancelled(err)
		     : cairn_conn_connect(conn, pool->tls, address, pool->own, timeout_ms, err);
	if (rc == CAIRN_OK) {
		*ret = conn;
	} else {
		cairn_pool_give(pool, &conn, false);
	}
	return rc;
}

enum cairn_code cairn_pool_take(struct cairn_pool *pool, const char *address, bool fresh_only,
				int64_t timeout_ms, struct cairn_conn **ret, bool *ret_fresh,
				struct cairn_err *err)
{
	struct cairn_conn *conn = NULL;
	enum cairn_code rc = CAIRN_OK;
	if (!fresh_only) rc = take_idle(pool, address, &conn, err);
	if (rc != CAIRN_OK) return rc;
	*ret_fresh = conn == NULL;
	if (conn == NULL) rc = take_new(pool, address, timeout_ms, &conn, err);
	if (rc == CAIRN_OK) *ret = conn;
	return rc;
}

void cairn_pool_give(struct cairn_pool *pool, struct cairn_conn **conn, bool reusable)
{
	struct cairn_conn *given = cairn_steal(conn);
	if (reusable) reusable = cairn_conn_quiet(given);
	pthread_mutex_lock(&pool->mu);
	struct entry *drop = remove_taken_locked(pool, given);
	drop->next = NULL;
	if (reusable && !pool->cancelled) {
		drop->idle_since_ns = now_ns();
		drop->next = pool->idle;
		pool->idle = cairn_steal(&drop);
		pool->n_idle++;
		if (pool->n_idle > CAIRN_POOL_IDLE_MAX) {
			struct entry **at = &pool->idle;
			while ((*at)->next != NULL) at = &(*at)->next;
			drop = cairn_steal(at);
			pool->n_idle--;
		}
		if (!pool->reaping) start_reaper_locked(pool);
		pthread_cond_signal(&pool->changed);
	}
	pthread_mutex_unlock(&pool->mu);
	free_entries(drop);
}
