#include "plugin/share.h"

#include <errno.h>
#include <fnmatch.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "cache/evict.h"
#include "content.pb-c.h"
#include "plugin/graph.h"
#include "plugin/listing.h"

#define SOURCE "containerd.io/distribution.source."
#define ASK_MS 2000	    /* one question */
#define FIRST_MS 50	    /* from a commit to the first question; each pause is twice the last */
#define TRIES 10	    /* of one manifest: some 25 s */
#define REPOSITORY_MAX 1024 /* bytes of "registry/repository"; a longer one is not looked at */

/* What the repositories of a blob say. */
enum { KNOWN = 1, ALLOWED = 2, DENIED = 4 };

struct entry {
	struct cairn_digest digest; /* alg 0: free */
	uint8_t bits;
};

/* One manifest whose label is to be read. */
struct task {
	struct task *next;
	struct cairn_digest digest;
	int64_t due_ms;
	unsigned tries; /* that are left */
	char ns[CAIRN_OWNER_MAX + 1];
};

struct cairn_share {
	struct cairn_cache *cache;
	struct cairn_channel *containerd; /* owned; NULL: nobody to ask */
	char **allow, **deny;
	size_t n_allow, n_deny;
	pthread_t thread;
	bool threaded;

	pthread_mutex_t mu;
	pthread_cond_t wake;
	/* guarded by mu */
	struct cairn_swarm *swarm; /* NULL: nobody to tell */
	struct entry *table;	   /* by digest, open addressing, at most half full */
	size_t cap, n;
	struct task *tasks; /* the one that is due first comes first */
	size_t n_tasks;
	bool stop;
};

static void *must(void *p)
{
	if (p == NULL) abort();
	return p;
}

static int64_t now_ms(void)
{
	return cairn_boot_ns(&cairn_clock_system) / CAIRN_NS_PER_MS;
}

/* ---- what is known ----------------------------------------------------------------------------*/

static struct entry *slot(struct entry *table, size_t cap, const struct cairn_digest *digest)
{
	uint64_t hash;
	memcpy(&hash, digest->bytes, sizeof(hash));
	size_t at = (size_t)hash & (cap - 1);
	while (table[at].digest.alg != 0 && !cairn_digest_equal(&table[at].digest, digest)) {
		at = (at + 1) & (cap - 1);
	}
	return &table[at];
}

/* Into a table of that many entries, without those that are not here any more, if that is asked. */
static void rebuild_locked(struct cairn_share *s, size_t cap, bool drop)
{
	bool damaged;
	struct entry *table = must(calloc(cap, sizeof(table[0])));
	size_t n = 0;
	for (size_t i = 0; i < s->cap; i++) {
		const struct entry *e = &s->table[i];
		if (e->digest.alg == 0) continue;
		if (drop && cairn_cache_state(s->cache, &e->digest, &damaged) == 0) continue;
		*slot(table, cap, &e->digest) = *e;
		n++;
	}
	free(s->table);
	s->table = table;
	s->cap = cap;
	s->n = n;
}

/* NULL: too many are known. */
static struct entry *enter_locked(struct cairn_share *s, const struct cairn_digest *digest)
{
	if (s->cap == 0) rebuild_locked(s, 1024, false);
	struct entry *e = slot(s->table, s->cap, digest);
	if (e->digest.alg != 0) return e;
	if (2 * (s->n + 1) > s->cap) {
		bool full = s->n >= CAIRN_SHARE_KNOWN_MAX;
		rebuild_locked(s, full ? s->cap : 2 * s->cap, full);
		if (2 * (s->n + 1) > s->cap) return NULL;
		e = slot(s->table, s->cap, digest);
	}
	e->digest = *digest;
	s->n++;
	return e;
}

static bool may(uint8_t bits)
{
	return (bits & ALLOWED) != 0 && (bits & DENIED) == 0;
}

bool cairn_share_may(void *arg, const struct cairn_digest *digest)
{
	struct cairn_share *s = arg;
	pthread_mutex_lock(&s->mu);
	const struct entry *e = s->cap > 0 ? slot(s->table, s->cap, digest) : NULL;
	bool yes = e != NULL && e->digest.alg != 0 && may(e->bits);
	pthread_mutex_unlock(&s->mu);
	return yes;
}

static bool is_known(struct cairn_share *s, const struct cairn_digest *digest)
{
	pthread_mutex_lock(&s->mu);
	const struct entry *e = s->cap > 0 ? slot(s->table, s->cap, digest) : NULL;
	bool known = e != NULL && e->digest.alg != 0;
	pthread_mutex_unlock(&s->mu);
	return known;
}

bool cairn_share_matches(const char *const *patterns, size_t n, const char *repository)
{
	for (size_t i = 0; i < n; i++) {
		if (fnmatch(patterns[i], repository, 0) == 0) return true;
	}
	return false;
}

static uint8_t bits_of(const struct cairn_share *s, const char *repository)
{
	uint8_t bits = KNOWN;
	if (cairn_share_matches((const char *const *)s->allow, s->n_allow, repository)) {
		bits |= ALLOWED;
	}
	if (cairn_share_matches((const char *const *)s->deny, s->n_deny, repository)) {
		bits |= DENIED;
	}
	return bits;
}

static void learn(struct cairn_share *s, const struct cairn_digest *digest, uint8_t bits)
{
	pthread_mutex_lock(&s->mu);
	struct entry *e = enter_locked(s, digest);
	bool changed = false;
	if (e != NULL) {
		uint8_t was = e->bits;
		e->bits |= bits;
		changed = may(was) != may(e->bits);
	}
	/* The swarm outlives all who learn: it is taken away before it ends. */
	struct cairn_swarm *swarm = changed ? s->swarm : NULL;
	pthread_mutex_unlock(&s->mu);
	if (swarm != NULL) cairn_swarm_reconsider(swarm, digest);
}

void cairn_share_learn(struct cairn_share *s, const struct cairn_digest *digest,
		       const char *repository)
{
	if (s != NULL) learn(s, digest, bits_of(s, repository));
}

/* ---- containerd's labels ----------------------------------------------------------------------*/

static void learn_all(struct cairn_share *s, const struct cairn_digest *root, uint8_t bits)
{
	struct cairn_needs *needs = cairn_graph_needs(s->cache, root);
	for (size_t i = 0; i < needs->n; i++) learn(s, &needs->list[i].digest, bits);
	cairn_needs_unref(needs);
}

/* The label's value names the repositories at one host, with commas between them. */
static uint8_t bits_of_label(const struct cairn_share *s, const char *host, const char *names)
{
	uint8_t bits = 0;
	for (const char *at = names; *at != '\0';) {
		char repository[REPOSITORY_MAX];
		size_t n = strcspn(at, ",");
		int len = snprintf(repository, sizeof(repository), "%s/%.*s", host, (int)n, at);
		if (n > 0 && len > 0 && (size_t)len < sizeof(repository)) {
			bits |= bits_of(s, repository);
		} else if (n > 0) {
			bits |= KNOWN; /* and not allowed */
		}
		at += n + (at[n] == ',');
	}
	return bits;
}

/* 0: nothing is known yet. */
static uint8_t ask(const struct cairn_share *s, const struct task *task)
{
	Containerd__Services__Content__V1__InfoRequest request;
	const struct cairn_header header = {"containerd-namespace", task->ns};
	ProtobufCMessage *msg = NULL;
	struct cairn_err ignored;
	char text[CAIRN_DIGEST_STR];
	uint8_t bits = 0;
	containerd__services__content__v1__info_request__init(&request);
	request.digest = text;
	cairn_digest_format(&task->digest, text);
	if (cairn_channel_unary(s->containerd, "/containerd.services.content.v1.Content/Info",
				&header, 1, ASK_MS, &request.base,
				&containerd__services__content__v1__info_response__descriptor, &msg,
				&ignored) != CAIRN_OK) {
		return 0;
	}
	const Containerd__Services__Content__V1__InfoResponse *response = (const void *)msg;
	for (size_t i = 0; response->info != NULL && i < response->info->n_labels; i++) {
		const Cairn__Wire__Label *label = response->info->labels[i];
		if (strncmp(label->key, SOURCE, strlen(SOURCE)) != 0) continue;
		bits |= bits_of_label(s, label->key + strlen(SOURCE), label->value);
	}
	protobuf_c_message_free_unpacked(msg, NULL);
	return bits;
}

/* ---- the thread -------------------------------------------------------------------------------*/

static void insert_locked(struct cairn_share *s, struct task *task)
{
	struct task **at = &s->tasks;
	while (*at != NULL && (*at)->due_ms <= task->due_ms) at = &(*at)->next;
	task->next = *at;
	*at = task;
	s->n_tasks++;
}

/* The next one that is due; waits for it. NULL: stop. */
static struct task *take(struct cairn_share *s)
{
	pthread_mutex_lock(&s->mu);
	while (!s->stop && (s->tasks == NULL || s->tasks->due_ms > now_ms())) {
		struct timespec until;
		int64_t ms = s->tasks != NULL ? s->tasks->due_ms - now_ms() : 60000;
		if (ms < 1) ms = 1;
		clock_gettime(CLOCK_MONOTONIC, &until);
		until.tv_nsec += ms % 1000 * CAIRN_NS_PER_MS;
		until.tv_sec += ms / 1000 + until.tv_nsec / CAIRN_NS_PER_S;
		until.tv_nsec %= CAIRN_NS_PER_S;
		(void)pthread_cond_timedwait(&s->wake, &s->mu, &until);
	}
	struct task *task = NULL;
	if (!s->stop) {
		task = s->tasks;
		s->tasks = task->next;
		s->n_tasks--;
	}
	pthread_mutex_unlock(&s->mu);
	return task;
}

static void *run(void *arg)
{
	struct cairn_share *s = arg;
	struct task *task;
	while ((task = take(s)) != NULL) {
		uint8_t bits = ask(s, task);
		if (bits != 0) learn_all(s, &task->digest, bits);
		if (bits != 0 || --task->tries == 0) {
			free(task);
			continue;
		}
		task->due_ms = now_ms() + ((int64_t)FIRST_MS << (TRIES - task->tries));
		pthread_mutex_lock(&s->mu);
		insert_locked(s, task);
		pthread_mutex_unlock(&s->mu);
	}
	return NULL;
}

static void enqueue(struct cairn_share *s, const char *ns, const struct cairn_digest *digest,
		    int64_t in_ms, unsigned tries)
{
	struct task *task = must(calloc(1, sizeof(*task)));
	task->digest = *digest;
	task->due_ms = now_ms() + in_ms;
	task->tries = tries;
	snprintf(task->ns, sizeof(task->ns), "%s", ns);
	pthread_mutex_lock(&s->mu);
	bool room = !s->stop && s->n_tasks < CAIRN_SHARE_QUEUE_MAX;
	if (room) insert_locked(s, task);
	if (room) pthread_cond_signal(&s->wake);
	pthread_mutex_unlock(&s->mu);
	if (!room) free(task);
}

void cairn_share_committed(struct cairn_share *s, const char *owner, size_t owner_len,
			   const struct cairn_digest *digest)
{
	char ns[CAIRN_OWNER_MAX + 1];
	if (s == NULL || s->containerd == NULL || owner_len > CAIRN_OWNER_MAX) return;
	snprintf(ns, sizeof(ns), "%.*s", (int)owner_len, owner);
	enqueue(s, ns, digest, FIRST_MS, TRIES);
}

void cairn_share_on_images(struct cairn_share *s, const struct cairn_listed_image *images, size_t n)
{
	if (s == NULL || s->containerd == NULL) return;
	for (size_t i = 0; i < n; i++) {
		if (images[i].target.alg == 0 || strlen(images[i].ns) > CAIRN_OWNER_MAX) continue;
		if (!is_known(s, &images[i].target)) {
			enqueue(s, images[i].ns, &images[i].target, 0, 1);
		}
	}
}

/* ---- up and down ------------------------------------------------------------------------------*/

static char **copy(const char *const *list, size_t n)
{
	char **copied = must(calloc(n + 1, sizeof(copied[0])));
	for (size_t i = 0; i < n; i++) copied[i] = must(strdup(list[i]));
	return copied;
}

static bool lets_all_go(const struct cairn_share_opts *opts)
{
	bool any = false;
	for (size_t i = 0; i < opts->n_allow; i++) any = any || strcmp(opts->allow[i], "*") == 0;
	return any && opts->n_deny == 0;
}

static enum cairn_code start(struct cairn_share *s, const struct cairn_share_opts *opts,
			     struct cairn_err *err)
{
	char target[160];
	snprintf(target, sizeof(target), "unix:%s", opts->containerd);
	enum cairn_code rc = cairn_channel_new(opts->rpc, target, NULL, &s->containerd, err);
	if (rc) return rc;
	int e = pthread_create(&s->thread, NULL, run, s);
	s->threaded = e == 0;
	return e == 0 ? CAIRN_OK : cairn_err_sys(err, e, "start a thread for p2p.share");
}

enum cairn_code cairn_share_new(const struct cairn_share_opts *opts, struct cairn_share **ret,
				struct cairn_err *err)
{
	*ret = NULL;
	if (lets_all_go(opts)) return CAIRN_OK;
	struct cairn_share *s = must(calloc(1, sizeof(*s)));
	pthread_condattr_t attr;
	pthread_mutex_init(&s->mu, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&s->wake, &attr);
	pthread_condattr_destroy(&attr);
	s->cache = opts->cache;
	s->allow = copy(opts->allow, s->n_allow = opts->n_allow);
	s->deny = copy(opts->deny, s->n_deny = opts->n_deny);
	enum cairn_code rc = opts->containerd[0] != '\0' ? start(s, opts, err) : CAIRN_OK;
	if (rc) {
		cairn_share_free(s);
		return rc;
	}
	*ret = s;
	return CAIRN_OK;
}

void cairn_share_tell(struct cairn_share *s, struct cairn_swarm *swarm)
{
	if (s == NULL) return;
	pthread_mutex_lock(&s->mu);
	s->swarm = swarm;
	pthread_mutex_unlock(&s->mu);
}

void cairn_share_stop(struct cairn_share *s)
{
	if (s == NULL) return;
	pthread_mutex_lock(&s->mu);
	s->stop = true;
	s->swarm = NULL;
	pthread_cond_signal(&s->wake);
	pthread_mutex_unlock(&s->mu);
	if (s->threaded) pthread_join(s->thread, NULL);
	s->threaded = false;
}

void cairn_share_free(struct cairn_share *s)
{
	if (s == NULL) return;
	cairn_share_stop(s);
	cairn_channel_free(s->containerd);
	while (s->tasks != NULL) {
		struct task *task = s->tasks;
		s->tasks = task->next;
		free(task);
	}
	for (size_t i = 0; i < s->n_allow; i++) free(s->allow[i]);
	for (size_t i = 0; i < s->n_deny; i++) free(s->deny[i]);
	free(s->allow);
	free(s->deny);
	free(s->table);
	pthread_cond_destroy(&s->wake);
	pthread_mutex_destroy(&s->mu);
	free(s);
}
