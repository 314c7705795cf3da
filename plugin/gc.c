/* When to collect garbage, and what is known of it.
 *
 * One thread for the passes that nobody asked for; those that an admin asks for run on his job's
 * thread. One pass at a time has its turn; who waits for his looks up from time to time whether he
 * is still wanted. mu is held for a moment only. A pass that only looks takes no turn. */
#include "plugin/gc.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "plugin/gc_log.h"

#define TICK_MS 5000
#define SETTLE_MS 300	     /* containerd deletes an image's blobs one after the other */
#define AGAIN_MS 60000	     /* between two passes for pressure that the first could not relieve */
#define AGAIN_DELETED_MS 500 /* likewise, when containerd has deleted something since */
#define LOOK_UP_MS 100	     /* who waits for his turn */
#define REFRESH_MS 180000    /* for containerd to answer */

struct cairn_gc {
	struct cairn_cache *cache;
	struct cairn_runtime *runtime;
	const struct cairn_clock *clock;
	int64_t tick_ms;
	struct cairn_gc_log log;
	pthread_t thread;
	bool started;

	pthread_mutex_t mu;
	struct cairn_gc_rules rules;   /* guarded by mu; a pass keeps those that it began with */
	int64_t interval_ms;	       /* guarded by mu */
	pthread_cond_t wake;	       /* the thread waits for something to do */
	pthread_cond_t turn;	       /* passes wait for the one that runs */
	bool stop, deleted;	       /* guarded by mu */
	bool changed;		       /* guarded by mu: the rules have */
	bool passing;		       /* guarded by mu: a pass has its turn */
	struct cairn_gc_status status; /* guarded by mu: what passes leave in it */
	bool futile;	  /* guarded by mu: the last pass did not relieve the pressure */
	int64_t ended_ms; /* guarded by mu: when it ended */

	/* guarded by mu: looks */
	pthread_cond_t looked;
	bool looking;
	unsigned lookers;
	uint64_t looks_wanted, looks_served;
	struct cairn_gc_look *look; /* counted: what those who wait are served by; or NULL */
};

const char *cairn_gc_trigger_name(enum cairn_gc_trigger trigger)
{
	switch (trigger) {
	case CAIRN_GC_BY_INTERVAL:
		return "interval";
	case CAIRN_GC_BY_PRESSURE:
		return "pressure";
	case CAIRN_GC_BY_DELETE:
		return "delete";
	case CAIRN_GC_BY_REQUEST:
		return "request";
	default:
		return "unknown";
	}
}

static int64_t now_ms(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * INT64_C(1000) + ts.tv_nsec / CAIRN_NS_PER_MS;
}

static struct cairn_gc_rules rules_of(struct cairn_gc *gc)
{
	pthread_mutex_lock(&gc->mu);
	struct cairn_gc_rules rules = gc->rules;
	pthread_mutex_unlock(&gc->mu);
	return rules;
}

/* ---- one pass ---------------------------------------------------------------------------------*/

struct answer {
	struct cairn_listing *listing; /* counted; NULL: none */
	bool sure;
	char why[sizeof(((struct cairn_gc_summary *)0)->unsure_why)];
};

static void judge_listing(struct answer *a)
{
	a->sure = a->listing->client != CAIRN_CLIENT_OTHER;
	if (a->sure) return;
	snprintf(a->why, sizeof(a->why),
		 "the containerd that answers has not connected to this store: it may be another");
}

/* What containerd says now. That there is nobody to ask is an answer, too (then its Deletes alone
 * decide); but that is what the configuration says, and never what containerd answers.
 * Errors: CANCELLED only; all else leaves the answer unsure. */
static enum cairn_code ask(struct cairn_gc *gc, struct answer *ret, struct cairn_err *err)
{
	*ret = (struct answer){.sure = !cairn_runtime_asks(gc->runtime)};
	if (ret->sure) return CAIRN_OK;
	enum cairn_code rc = cairn_runtime_refresh(gc->runtime, REFRESH_MS, &ret->listing, err);
	if (rc == CAIRN_CANCELLED) return rc;
	if (rc == CAIRN_OK) {
		judge_listing(ret);
	} else {
		snprintf(ret->why, sizeof(ret->why), "%s", err->msg);
	}
	return CAIRN_OK;
}

static void note(struct cairn_gc *gc, const struct cairn_gc_summary *s)
{
	const struct cairn_gc_rules rules = rules_of(gc);
	struct cairn_gc_disk disk;
	cairn_cache_disk(gc->cache, &disk);
	bool over = cairn_gc_over_high(&rules.marks, &disk) > 0;
	bool alarm = over && s->exhausted;
	pthread_mutex_lock(&gc->mu);
	struct cairn_gc_status *st = &gc->status;
	st->passes++;
	st->passes_unsure += !s->sure;
	for (int why = CAIRN_GC_TTL; why < CAIRN_GC_WHYS; why++) {
		st->evicted_blobs[why] += s->blobs[why];
		st->evicted_bytes[why] += s->bytes[why];
	}
	st->last = *s;
	bool news = alarm && !st->unrelieved;
	st->unrelieved = alarm;
	gc->futile = !s->relieved;
	gc->ended_ms = now_ms();
	pthread_mutex_unlock(&gc->mu);
	if (!news) return;
	cairn_log(CAIRN_LOG_ERROR, "gc_pressure_unrelieved",
		  CAIRN_NUM("over_high_bytes", cairn_gc_over_high(&rules.marks, &disk)),
		  CAIRN_NUM("free", disk.free), CAIRN_NUM("own", disk.own),
		  CAIRN_STR("why", "nothing more may be evicted: see cairnctl gc --dry-run --all"));
}

static bool is_stopping(struct cairn_gc *gc)
{
	pthread_mutex_lock(&gc->mu);
	bool stop = gc->stop;
	pthread_mutex_unlock(&gc->mu);
	return stop;
}

/* A pass that has its turn, or waits for it. */
struct turn {
	struct cairn_gc *gc;
	bool (*go_on)(void *arg); /* NULL: always on */
	void *arg;
};

static bool goes_on(void *arg)
{
	const struct turn *turn = arg;
	if (is_stopping(turn->gc)) return false;
	return turn->go_on == NULL || turn->go_on(turn->arg);
}

/* Returns false when it is not wanted any more. */
static bool take_turn(struct turn *turn)
{
	struct cairn_gc *gc = turn->gc;
	for (bool mine = false; !mine;) {
		if (!goes_on(turn)) return false;
		int64_t until_ms = now_ms() + LOOK_UP_MS;
		const struct timespec until = {until_ms / 1000, until_ms % 1000 * CAIRN_NS_PER_MS};
		pthread_mutex_lock(&gc->mu);
		if (gc->passing) (void)pthread_cond_timedwait(&gc->turn, &gc->mu, &until);
		mine = !gc->passing && !gc->stop;
		if (mine) gc->passing = true;
		pthread_mutex_unlock(&gc->mu);
	}
	return true;
}

static void end_turn(struct cairn_gc *gc)
{
	pthread_mutex_lock(&gc->mu);
	gc->passing = false;
	pthread_cond_signal(&gc->turn);
	pthread_mutex_unlock(&gc->mu);
}

static void log_evicted(void *arg, const struct cairn_gc_pass *pass, size_t i)
{
	struct cairn_gc *gc = arg;
	cairn_gc_log_evicted(&gc->log, pass, i);
}

static enum cairn_code pass_in_turn(struct cairn_gc *gc, struct cairn_gc_pass_opts *opts,
				    struct cairn_gc_pass *ret, struct cairn_err *err)
{
	struct answer answer;
	enum cairn_code rc = ask(gc, &answer, err);
	if (rc) return rc;
	const struct cairn_gc_rules rules = rules_of(gc);
	opts->cache = gc->cache;
	opts->clock = gc->clock;
	opts->rules = &rules;
	opts->listing = answer.listing;
	opts->sure = answer.sure;
	opts->evicted = log_evicted;
	opts->evicted_arg = gc;
	cairn_gc_pass_run(opts, ret);
	snprintf(ret->summary.unsure_why, sizeof(ret->summary.unsure_why), "%s", answer.why);
	if (!opts->dry_run) {
		cairn_gc_log_pass(&gc->log, ret, rules.keep_ns);
		note(gc, &ret->summary);
	}
	opts->rules = NULL;
	cairn_listing_unref(answer.listing);
	return CAIRN_OK;
}

static enum cairn_code run_pass(struct turn *turn, struct cairn_gc_pass_opts *opts,
				struct cairn_gc_pass *ret, struct cairn_err *err)
{
	opts->go_on = goes_on;
	opts->arg = turn;
	if (!take_turn(turn)) {
		return cairn_err_set(err, CAIRN_CANCELLED, "the garbage collection was cancelled");
	}
	enum cairn_code rc = pass_in_turn(turn->gc, opts, ret, err);
	end_turn(turn->gc);
	return rc;
}

static void pass(struct cairn_gc *gc, enum cairn_gc_trigger trigger)
{
	struct cairn_gc_pass_opts opts = {.trigger = trigger};
	struct turn turn = {.gc = gc};
	struct cairn_gc_pass result;
	struct cairn_err ignored;
	if (run_pass(&turn, &opts, &result, &ignored) == CAIRN_OK) cairn_gc_pass_fini(&result);
}

enum cairn_code cairn_gc_run(struct cairn_gc *gc, const struct cairn_gc_request *request,
			     struct cairn_gc_pass *ret, struct cairn_err *err)
{
	struct turn turn = {gc, request->go_on, request->arg};
	struct cairn_gc_pass_opts opts = {
		.trigger = CAIRN_GC_BY_REQUEST,
		.dry_run = request->dry_run,
		.prune = request->prune,
		.prune_keep = request->prune_keep,
		.make_room = request->make_room,
	};
	return run_pass(&turn, &opts, ret, err);
}

uint64_t cairn_gc_room(struct cairn_gc *gc)
{
	const struct cairn_gc_rules rules = rules_of(gc);
	struct cairn_gc_disk disk;
	cairn_cache_disk(gc->cache, &disk);
	return cairn_gc_writable(&rules.marks, &disk);
}

static struct cairn_gc_look *look_now(struct cairn_gc *gc)
{
	struct cairn_runtime_status st;
	struct answer answer = {.listing = cairn_runtime_last(gc->runtime)};
	struct cairn_gc_look *look = calloc(1, sizeof(*look));
	if (look == NULL) abort();
	atomic_init(&look->refs, 1);
	cairn_runtime_get_status(gc->runtime, &st);
	answer.sure = !cairn_runtime_asks(gc->runtime);
	if (answer.listing != NULL && st.reachable) {
		judge_listing(&answer);
	} else if (!answer.sure) {
		snprintf(answer.why, sizeof(answer.why), "%s", st.error);
	}
	const struct cairn_gc_rules rules = rules_of(gc);
	const struct cairn_gc_pass_opts opts = {
		.cache = gc->cache,
		.clock = gc->clock,
		.rules = &rules,
		.listing = answer.listing,
		.sure = answer.sure,
		.trigger = CAIRN_GC_BY_REQUEST,
		.dry_run = true,
	};
	cairn_gc_pass_run(&opts, &look->pass);
	snprintf(look->pass.summary.unsure_why, sizeof(look->pass.summary.unsure_why), "%s",
		 answer.why);
	cairn_listing_unref(answer.listing);
	return look;
}

/* As with listings: a look serves those who asked before it began, and one runs at a time. */
struct cairn_gc_look *cairn_gc_look(struct cairn_gc *gc)
{
	struct cairn_gc_look *look = NULL, *unused = NULL;
	pthread_mutex_lock(&gc->mu);
	uint64_t ticket = ++gc->looks_wanted;
	gc->lookers++;
	while (gc->looking && gc->looks_served < ticket) pthread_cond_wait(&gc->looked, &gc->mu);
	if (gc->looks_served < ticket) {
		uint64_t serves = gc->looks_wanted;
		gc->looking = true;
		pthread_mutex_unlock(&gc->mu);
		look = look_now(gc);
		pthread_mutex_lock(&gc->mu);
		unused = gc->look;
		gc->look = look;
		gc->looks_served = serves;
		gc->looking = false;
		pthread_cond_broadcast(&gc->looked);
	}
	look = gc->look;
	atomic_fetch_add(&look->refs, 1);
	bool last = --gc->lookers == 0; /* nobody is served by it any more */
	struct cairn_gc_look *done = last ? cairn_steal(&gc->look) : NULL;
	pthread_mutex_unlock(&gc->mu);
	cairn_gc_look_unref(unused);
	cairn_gc_look_unref(done);
	return look;
}

void cairn_gc_look_unref(struct cairn_gc_look *look)
{
	if (look == NULL || atomic_fetch_sub(&look->refs, 1) != 1) return;
	cairn_gc_pass_fini(&look->pass);
	free(look);
}

void cairn_gc_on_images(void *cache, const struct cairn_listed_image *images, size_t n)
{
	cairn_gc_remember_images(cache, images, n);
}

/* ---- the thread -------------------------------------------------------------------------------*/

static void wait_until_locked(struct cairn_gc *gc, int64_t until_ms, bool or_deleted)
{
	const struct timespec until = {until_ms / 1000, until_ms % 1000 * CAIRN_NS_PER_MS};
	int rc = 0;
	while (!gc->stop && !(or_deleted && (gc->deleted || gc->changed)) && rc != ETIMEDOUT) {
		rc = pthread_cond_timedwait(&gc->wake, &gc->mu, &until);
	}
}

/* Was there a pass a moment ago that could not relieve the pressure? The next one would find the
 * same, unless something has changed: so it is not tried again at once. */
static bool was_futile(struct cairn_gc *gc, int64_t lately_ms)
{
	pthread_mutex_lock(&gc->mu);
	bool futile = gc->futile && now_ms() < gc->ended_ms + lately_ms;
	pthread_mutex_unlock(&gc->mu);
	return futile;
}

/* Is there a reason for a pass now? The strongest one is *ret. *deleted stays until it was one, or
 * there is space enough. */
static bool find_reason(struct cairn_gc *gc, bool due, bool *deleted, enum cairn_gc_trigger *ret)
{
	const struct cairn_gc_rules rules = rules_of(gc);
	struct cairn_gc_disk disk;
	cairn_cache_disk(gc->cache, &disk);
	bool over = cairn_gc_over_high(&rules.marks, &disk) > 0;
	if (cairn_gc_over_low(&rules.marks, &disk) == 0) *deleted = false;
	pthread_mutex_lock(&gc->mu);
	if (!over) gc->status.unrelieved = false;
	pthread_mutex_unlock(&gc->mu);
	*ret = CAIRN_GC_BY_INTERVAL;
	if (over && !was_futile(gc, AGAIN_MS)) *ret = CAIRN_GC_BY_PRESSURE;
	if (*deleted && !was_futile(gc, AGAIN_DELETED_MS)) *ret = CAIRN_GC_BY_DELETE;
	if (*ret != CAIRN_GC_BY_INTERVAL) *deleted = false;
	return due || *ret != CAIRN_GC_BY_INTERVAL;
}

/* Wait for the next thing to do; returns false when it is time to stop. last_ms: when the last pass
 * that was due began; *due: it is time for the next one. */
static bool wait_for_turn(struct cairn_gc *gc, int64_t last_ms, bool *deleted, bool *due)
{
	/* A Delete that was not looked at yet comes to its turn as soon as it may. */
	bool soon = *deleted && AGAIN_DELETED_MS < gc->tick_ms;
	int64_t tick = now_ms() + (soon ? AGAIN_DELETED_MS : gc->tick_ms);
	pthread_mutex_lock(&gc->mu);
	int64_t next_ms = last_ms + gc->interval_ms;
	wait_until_locked(gc, tick < next_ms ? tick : next_ms, true);
	if (gc->deleted) wait_until_locked(gc, now_ms() + SETTLE_MS, false);
	*deleted |= gc->deleted;
	gc->deleted = gc->changed = false;
	bool on = !gc->stop;
	*due = now_ms() >= last_ms + gc->interval_ms;
	pthread_mutex_unlock(&gc->mu);
	return on;
}

static void *run(void *arg)
{
	struct cairn_gc *gc = arg;
	int64_t last = now_ms();
	enum cairn_gc_trigger trigger;
	bool deleted = false, due;
	while (wait_for_turn(gc, last, &deleted, &due)) {
		if (!find_reason(gc, due, &deleted, &trigger)) continue;
		pass(gc, trigger);
		if (due) last = now_ms();
	}
	return NULL;
}

void cairn_gc_deleted(struct cairn_gc *gc)
{
	if (gc == NULL) return;
	pthread_mutex_lock(&gc->mu);
	if (!gc->deleted) pthread_cond_signal(&gc->wake);
	gc->deleted = true;
	pthread_mutex_unlock(&gc->mu);
}

/* ---- up and down ------------------------------------------------------------------------------*/

static void init_sync(struct cairn_gc *gc)
{
	pthread_condattr_t attr;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_mutex_init(&gc->mu, NULL);
	pthread_cond_init(&gc->wake, &attr);
	pthread_cond_init(&gc->turn, &attr);
	pthread_cond_init(&gc->looked, &attr);
	pthread_condattr_destroy(&attr);
}

static void destroy(struct cairn_gc *gc)
{
	cairn_gc_log_close(&gc->log);
	pthread_cond_destroy(&gc->looked);
	pthread_cond_destroy(&gc->turn);
	pthread_cond_destroy(&gc->wake);
	pthread_mutex_destroy(&gc->mu);
	free(gc);
}

enum cairn_code cairn_gc_start(const struct cairn_gc_opts *opts, struct cairn_gc **ret,
			       struct cairn_err *err)
{
	struct cairn_gc *gc = calloc(1, sizeof(*gc));
	if (gc == NULL) abort();
	init_sync(gc);
	gc->cache = opts->cache;
	gc->runtime = opts->runtime;
	gc->clock = opts->clock != NULL ? opts->clock : &cairn_clock_system;
	gc->rules = opts->rules;
	gc->interval_ms = opts->interval_ms;
	gc->tick_ms = opts->tick_ms > 0 ? opts->tick_ms : TICK_MS;
	enum cairn_code rc = cairn_gc_log_open(&gc->log, opts->log, err);
	if (rc == CAIRN_OK) {
		int e = pthread_create(&gc->thread, NULL, run, gc);
		if (e != 0) rc = cairn_err_sys(err, e, "start the thread that collects garbage");
		gc->started = e == 0;
	}
	if (rc) {
		destroy(gc);
		return rc;
	}
	*ret = gc;
	return CAIRN_OK;
}

void cairn_gc_cancel(struct cairn_gc *gc)
{
	if (gc == NULL) return;
	pthread_mutex_lock(&gc->mu);
	gc->stop = true;
	pthread_cond_broadcast(&gc->wake);
	pthread_cond_broadcast(&gc->turn);
	pthread_mutex_unlock(&gc->mu);
}

void cairn_gc_stop(struct cairn_gc *gc)
{
	if (gc == NULL) return;
	cairn_gc_cancel(gc);
	pthread_join(gc->thread, NULL);
	destroy(gc);
}

/* ---- what others ask --------------------------------------------------------------------------*/

void cairn_gc_reopen_log(struct cairn_gc *gc)
{
	cairn_gc_log_reopen(&gc->log);
}

enum cairn_code cairn_gc_set(struct cairn_gc *gc, const struct cairn_gc_rules *rules,
			     int64_t interval_ms, const char *log, struct cairn_err *err)
{
	enum cairn_code rc = cairn_gc_log_set(&gc->log, log, err);
	if (rc) return rc;
	pthread_mutex_lock(&gc->mu);
	gc->rules = *rules;
	gc->interval_ms = interval_ms;
	gc->futile = false; /* by other rules it may not be */
	gc->changed = true;
	pthread_cond_signal(&gc->wake);
	pthread_mutex_unlock(&gc->mu);
	return CAIRN_OK;
}

void cairn_gc_get_status(struct cairn_gc *gc, struct cairn_gc_status *ret)
{
	pthread_mutex_lock(&gc->mu);
	*ret = gc->status;
	ret->rules = gc->rules;
	pthread_mutex_unlock(&gc->mu);
	cairn_cache_disk(gc->cache, &ret->disk);
	ret->over_high = cairn_gc_over_high(&ret->rules.marks, &ret->disk);
	ret->over_low = cairn_gc_over_low(&ret->rules.marks, &ret->disk);
	cairn_cache_count_history(gc->cache, &ret->versions, &ret->pins);
}
