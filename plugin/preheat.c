/* The queue of jobs, and the threads that run them.
 *
 * mu guards the list of jobs and who runs; a job has a lock of its own, which is taken inside. A
 * job's file is written outside of mu, under store_mu. */
#include "plugin/preheat.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "plugin/fleet.h"
#include "plugin/preheat_run.h"
#include "plugin/preheat_store.h"

struct cairn_preheat {
	struct cairn_preheat_env env;
	struct cairn_platform node;
	pthread_mutex_t store_mu;
	struct cairn_preheat_store store; /* guarded by store_mu */
	struct cairn_fleet_link link;	  /* call NULL: none */
	pthread_t threads[CAIRN_PREHEAT_RUNNING_MAX + CAIRN_FLEET_RUNNING_MAX];
	size_t n_threads;
	_Atomic bool stop;

	pthread_mutex_t mu;
	pthread_cond_t wake;
	struct cairn_preheat_job *jobs; /* guarded by mu: newest first, each with a reference */
};

static bool is_over(Cairn__V1__JobState state)
{
	return state != CAIRN__V1__JOB_STATE__QUEUED && state != CAIRN__V1__JOB_STATE__RUNNING;
}

static Cairn__V1__JobState state_of(struct cairn_preheat_job *job)
{
	pthread_mutex_lock(&job->mu);
	Cairn__V1__JobState state = job->state;
	pthread_mutex_unlock(&job->mu);
	return state;
}

/* ---- on disk ----------------------------------------------------------------------------------*/

static enum cairn_code save(struct cairn_preheat *p, struct cairn_preheat_job *job,
			    struct cairn_err *err)
{
	pthread_mutex_lock(&p->store_mu);
	enum cairn_code rc = cairn_preheat_store_put(&p->store, job, err);
	pthread_mutex_unlock(&p->store_mu);
	return rc;
}

static void save_or_log(struct cairn_preheat *p, struct cairn_preheat_job *job)
{
	struct cairn_err err;
	if (save(p, job, &err) == CAIRN_OK) return;
	cairn_log(CAIRN_LOG_ERROR, "job_not_written", CAIRN_STR("job", job->id), CAIRN_ERRF(&err));
}

/* ---- the list ---------------------------------------------------------------------------------*/

/* Newest first. */
static void insert_locked(struct cairn_preheat *p, struct cairn_preheat_job *job)
{
	struct cairn_preheat_job **at = &p->jobs;
	while (*at != NULL && (*at)->created_ns > job->created_ns) at = &(*at)->next;
	job->next = *at;
	*at = job;
}

/* Take the oldest job out that is over, if too many are remembered. */
static struct cairn_preheat_job *overflow_locked(struct cairn_preheat *p)
{
	struct cairn_preheat_job **oldest = NULL;
	size_t n = 0;
	for (struct cairn_preheat_job **at = &p->jobs; *at != NULL; at = &(*at)->next) {
		if (!is_over(state_of(*at))) continue;
		oldest = at;
		n++;
	}
	if (n <= CAIRN_PREHEAT_HISTORY_MAX) return NULL;
	struct cairn_preheat_job *job = *oldest;
	*oldest = job->next;
	return job;
}

static void bound_history(struct cairn_preheat *p)
{
	for (;;) {
		pthread_mutex_lock(&p->mu);
		struct cairn_preheat_job *job = overflow_locked(p);
		pthread_mutex_unlock(&p->mu);
		if (job == NULL) return;
		pthread_mutex_lock(&p->store_mu);
		cairn_preheat_store_drop(&p->store, job->id);
		pthread_mutex_unlock(&p->store_mu);
		cairn_preheat_job_unref(job);
	}
}

static void add_loaded(void *arg, struct cairn_preheat_job *job)
{
	struct cairn_preheat *p = arg;
	pthread_mutex_lock(&p->mu);
	insert_locked(p, job);
	pthread_mutex_unlock(&p->mu);
}

struct cairn_preheat_job *cairn_preheat_find(struct cairn_preheat *p, const char *id)
{
	pthread_mutex_lock(&p->mu);
	struct cairn_preheat_job *job = p->jobs;
	while (job != NULL && strcmp(job->id, id) != 0) job = job->next;
	if (job != NULL) cairn_preheat_job_ref(job);
	pthread_mutex_unlock(&p->mu);
	return job;
}

size_t cairn_preheat_list(struct cairn_preheat *p, struct cairn_preheat_job ***ret)
{
	size_t n = 0;
	pthread_mutex_lock(&p->mu);
	for (struct cairn_preheat_job *job = p->jobs; job != NULL; job = job->next) n++;
	*ret = calloc(n + 1, sizeof(**ret));
	if (*ret == NULL) abort();
	n = 0;
	for (struct cairn_preheat_job *job = p->jobs; job != NULL; job = job->next) {
		(*ret)[n++] = cairn_preheat_job_ref(job);
	}
	pthread_mutex_unlock(&p->mu);
	return n;
}

/* ---- running ----------------------------------------------------------------------------------*/

/* The queued job that is next, of this node or of a fleet: the highest priority, and of these the
 * oldest. It runs from here on. */
static struct cairn_preheat_job *take_locked(struct cairn_preheat *p, bool fleet)
{
	struct cairn_preheat_job *next = NULL;
	for (struct cairn_preheat_job *job = p->jobs; job != NULL; job = job->next) {
		if (state_of(job) != CAIRN__V1__JOB_STATE__QUEUED) continue;
		if ((job->fleet != NULL) != fleet) continue;
		if (next == NULL || job->request->priority >= next->request->priority) next = job;
	}
	if (next == NULL) return NULL;
	pthread_mutex_lock(&next->mu);
	next->state = CAIRN__V1__JOB_STATE__RUNNING;
	next->started_ns = cairn_real_ns(p->env.clock);
	next->change++;
	pthread_cond_broadcast(&next->changed);
	pthread_mutex_unlock(&next->mu);
	return cairn_preheat_job_ref(next);
}

static const char *state_name(Cairn__V1__JobState state)
{
	static const char *const names[] = {"unknown", "queued", "running",  "succeeded",
					    "partial", "failed", "cancelled"};
	return (size_t)state < CAIRN_LEN(names) ? names[state] : names[0];
}

static void log_fleet_end(struct cairn_preheat_job *job)
{
	Cairn__V1__Job *msg = cairn_preheat_job_message(job);
	bool good = msg->state == CAIRN__V1__JOB_STATE__SUCCEEDED;
	cairn_log(good ? CAIRN_LOG_INFO : CAIRN_LOG_WARN, "fleet_ended", CAIRN_STR("job", msg->id),
		  CAIRN_STR("state", state_name(msg->state)), CAIRN_NUM("nodes", msg->nodes_total),
		  CAIRN_NUM("done", msg->nodes_done), CAIRN_NUM("failed", msg->nodes_failed),
		  CAIRN_NUM("fetched", msg->bytes_fetched),
		  CAIRN_NUM("from_peers", msg->bytes_from_peers));
	cairn__v1__job__free_unpacked(msg, NULL);
}

static void log_end(struct cairn_preheat_job *job)
{
	pthread_mutex_lock(&job->mu);
	const struct cairn_field fields[] = {
		CAIRN_STR("job", job->id),
		CAIRN_STR("state", state_name(job->state)),
		CAIRN_NUM("images", job->n_images),
		CAIRN_NUM("blobs", job->n_blobs),
		CAIRN_NUM("bytes", job->bytes_total),
		CAIRN_NUM("fetched", job->bytes_fetched),
		CAIRN_NUM("from_peers", job->bytes_from_peers),
		CAIRN_NUM("ms", (job->ended_ns - job->started_ns) / CAIRN_NS_PER_MS),
	};
	bool good = job->state == CAIRN__V1__JOB_STATE__SUCCEEDED;
	pthread_mutex_unlock(&job->mu);
	cairn_log_emit(good ? CAIRN_LOG_INFO : CAIRN_LOG_WARN, "preheat_ended", fields,
		       CAIRN_LEN(fields));
}

static void run_job(struct cairn_preheat *p, struct cairn_preheat_job *job)
{
	save_or_log(p, job);
	cairn_preheat_run(&p->env, job, &p->stop);
	/* Interrupted by our own end, it goes on at the next start: its file says "running". */
	if (atomic_load(&p->stop) && !cairn_preheat_job_is_cancelled(job)) {
		cairn_preheat_let_go(&p->env, job);
		return;
	}
	cairn_preheat_job_judge_images(job);
	cairn_preheat_register(&p->env, job, &p->stop);
	/* Whoever hears that it is over finds its versions, and its blobs in nobody's way. */
	cairn_preheat_remember(&p->env, job);
	cairn_preheat_let_go(&p->env, job);
	cairn_preheat_job_judge(job, cairn_real_ns(p->env.clock));
	cairn_preheat_job_wipe(job->request);
	save_or_log(p, job);
	log_end(job);
	bound_history(p);
}

static void save_fleet(void *arg, struct cairn_preheat_job *job)
{
	save_or_log(arg, job);
}

static void run_fleet_job(struct cairn_preheat *p, struct cairn_preheat_job *job)
{
	const struct cairn_fleet_env env = {.link = &p->link,
					    .clock = p->env.clock,
					    .stop = &p->stop,
					    .save = save_fleet,
					    .save_arg = p};
	save_or_log(p, job);
	cairn_fleet_run(&env, job);
	if (atomic_load(&p->stop)) return; /* it goes on at the next start */
	cairn_fleet_judge(job, cairn_real_ns(p->env.clock));
	save_or_log(p, job);
	log_fleet_end(job);
	bound_history(p);
}

static void run(struct cairn_preheat *p, bool fleet)
{
	for (;;) {
		pthread_mutex_lock(&p->mu);
		struct cairn_preheat_job *job = NULL;
		while (!atomic_load(&p->stop) && (job = take_locked(p, fleet)) == NULL) {
			pthread_cond_wait(&p->wake, &p->mu);
		}
		pthread_mutex_unlock(&p->mu);
		if (job == NULL) return;
		if (fleet) {
			run_fleet_job(p, job);
		} else {
			run_job(p, job);
		}
		cairn_preheat_job_unref(job);
	}
}

static void *run_own(void *arg)
{
	run(arg, false);
	return NULL;
}

static void *run_fleets(void *arg)
{
	run(arg, true);
	return NULL;
}

/* ---- what is asked ----------------------------------------------------------------------------*/

/* Which nodes it is for. */
static enum cairn_code choose_nodes(struct cairn_preheat *p, struct cairn_preheat_job *job,
				    struct cairn_err *err)
{
	struct cairn_fleet_candidate *list;
	size_t n;
	if (p->link.call == NULL) return cairn_fleet_no_others(err);
	enum cairn_code rc = cairn_fleet_choose(&p->link, &job->fleet->rule, &list, &n, err);
	if (rc) return rc;
	cairn_fleet_set_nodes(job, list, n);
	cairn_fleet_candidates_free(list, n);
	return CAIRN_OK;
}

static size_t count_waiting_locked(struct cairn_preheat *p)
{
	size_t n = 0;
	for (struct cairn_preheat_job *job = p->jobs; job != NULL; job = job->next) {
		n += !is_over(state_of(job));
	}
	return n;
}

enum cairn_code cairn_preheat_submit(struct cairn_preheat *p,
				     const Cairn__V1__PreheatRequest *request,
				     struct cairn_preheat_job **ret, struct cairn_err *err)
{
	return cairn_preheat_submit_as(p, NULL, request, ret, err);
}

enum cairn_code cairn_preheat_submit_as(struct cairn_preheat *p, const char *id,
					const Cairn__V1__PreheatRequest *request,
					struct cairn_preheat_job **ret, struct cairn_err *err)
{
	struct cairn_preheat_job *job = NULL;
	if (atomic_load(&p->stop)) {
		return cairn_err_set(err, CAIRN_UNAVAILABLE, "the daemon is shutting down");
	}
	if (request->register_ && p->env.containerd == NULL) {
		return cairn_err_set(err, CAIRN_FAILED_PRECONDITION,
				     "register: containerd.address is empty, so there is no "
				     "containerd to register images with");
	}
	enum cairn_code rc = cairn_preheat_job_new(request, &p->node, &job, err);
	if (rc) return rc;
	if (id != NULL) snprintf(job->id, sizeof(job->id), "%s", id);
	job->created_ns = cairn_real_ns(p->env.clock);
	if (job->fleet != NULL) rc = choose_nodes(p, job, err);
	if (rc) {
		cairn_preheat_job_unref(job);
		return rc;
	}
	rc = save(p, job, err);
	pthread_mutex_lock(&p->mu);
	if (rc == CAIRN_OK && count_waiting_locked(p) >= CAIRN_PREHEAT_WAITING_MAX) {
		rc = cairn_err_set(err, CAIRN_RESOURCE_EXHAUSTED,
				   "%d jobs wait already; wait for some of them, or cancel them",
				   CAIRN_PREHEAT_WAITING_MAX);
	}
	if (rc == CAIRN_OK) {
		insert_locked(p, job);
		*ret = cairn_preheat_job_ref(job);
		pthread_cond_broadcast(&p->wake);
	}
	pthread_mutex_unlock(&p->mu);
	if (rc) {
		pthread_mutex_lock(&p->store_mu);
		cairn_preheat_store_drop(&p->store, job->id);
		pthread_mutex_unlock(&p->store_mu);
		cairn_preheat_job_unref(job);
	}
	return rc;
}

const struct cairn_fleet_link *cairn_preheat_link(const struct cairn_preheat *p)
{
	return p->link.call != NULL ? &p->link : NULL;
}

/* Returns whether that was the end of it. */
static bool end_queued(struct cairn_preheat *p, struct cairn_preheat_job *job)
{
	const int64_t now_ns = cairn_real_ns(p->env.clock);
	if (job->fleet != NULL) return cairn_fleet_cancel_queued(job, now_ns);
	cairn_preheat_job_judge(job, now_ns);
	return true;
}

bool cairn_preheat_cancel(struct cairn_preheat *p, struct cairn_preheat_job *job)
{
	/* Under mu, so that nobody begins a queued one meanwhile. */
	pthread_mutex_lock(&p->mu);
	pthread_mutex_lock(&job->mu);
	bool was = !is_over(job->state);
	bool queued = job->state == CAIRN__V1__JOB_STATE__QUEUED;
	job->cancelled = job->cancelled || was;
	pthread_cond_broadcast(&job->changed);
	pthread_mutex_unlock(&job->mu);
	if (queued) queued = end_queued(p, job);
	pthread_mutex_unlock(&p->mu);
	if (was && !queued && job->fleet != NULL) save_or_log(p, job); /* to be told to the nodes */
	if (queued) {
		cairn_preheat_job_wipe(job->request);
		save_or_log(p, job);
		bound_history(p);
	}
	return was;
}

/* ---- up and down ------------------------------------------------------------------------------*/

static void destroy(struct cairn_preheat *p)
{
	while (p->jobs != NULL) {
		struct cairn_preheat_job *job = p->jobs;
		p->jobs = job->next;
		cairn_preheat_job_unref(job);
	}
	cairn_preheat_store_close(&p->store);
	pthread_cond_destroy(&p->wake);
	pthread_mutex_destroy(&p->mu);
	pthread_mutex_destroy(&p->store_mu);
	free(p);
}

void cairn_preheat_cancel_all(struct cairn_preheat *p)
{
	if (p == NULL) return;
	atomic_store(&p->stop, true);
	pthread_mutex_lock(&p->mu);
	pthread_cond_broadcast(&p->wake);
	for (struct cairn_preheat_job *job = p->jobs; job != NULL; job = job->next) {
		pthread_mutex_lock(&job->mu);
		pthread_cond_broadcast(&job->changed);
		pthread_mutex_unlock(&job->mu);
	}
	pthread_mutex_unlock(&p->mu);
}

void cairn_preheat_stop(struct cairn_preheat *p)
{
	if (p == NULL) return;
	cairn_preheat_cancel_all(p);
	while (p->n_threads > 0) pthread_join(p->threads[--p->n_threads], NULL);
	destroy(p);
}

void cairn_preheat_set_limits(struct cairn_preheat *p, int64_t stall_ms, uint64_t min_rate)
{
	atomic_store(&p->env.stall_ms, stall_ms);
	atomic_store(&p->env.min_rate, min_rate);
}

/* Jobs for several nodes of a time when this node could ask others. */
static void end_fleets(struct cairn_preheat *p)
{
	for (struct cairn_preheat_job *job = p->jobs; job != NULL; job = job->next) {
		if (job->fleet == NULL || cairn_preheat_job_is_over(job)) continue;
		cairn_fleet_give_up(job, "the node that was asked asks no others any more",
				    cairn_real_ns(p->env.clock));
		save_or_log(p, job);
	}
}

enum cairn_code cairn_preheat_start(const struct cairn_preheat_opts *opts,
				    struct cairn_preheat **ret, struct cairn_err *err)
{
	struct cairn_preheat *p = calloc(1, sizeof(*p));
	if (p == NULL) abort();
	pthread_mutex_init(&p->mu, NULL);
	pthread_mutex_init(&p->store_mu, NULL);
	pthread_cond_init(&p->wake, NULL);
	p->env = (struct cairn_preheat_env){
		.cache = opts->cache,
		.fills = opts->fills,
		.gc = opts->gc,
		.registry = opts->registry,
		.swarm = opts->swarm,
		.stall_ms = opts->stall_ms,
		.min_rate = opts->min_rate,
		.share = opts->share,
		.containerd = opts->containerd,
		.clock = opts->clock != NULL ? opts->clock : &cairn_clock_system,
		.owners = opts->owners,
	};
	if (opts->fleet != NULL) p->link = *opts->fleet;
	cairn_platform_node(&p->node);
	enum cairn_code rc = cairn_preheat_store_open(&p->store, opts->state_dir, err);
	if (rc == CAIRN_OK) cairn_preheat_store_load(&p->store, &p->node, add_loaded, p);
	if (rc == CAIRN_OK && opts->fleet == NULL) end_fleets(p);
	const size_t own = CAIRN_PREHEAT_RUNNING_MAX;
	const size_t all = own + (opts->fleet != NULL ? CAIRN_FLEET_RUNNING_MAX : 0);
	while (rc == CAIRN_OK && p->n_threads < all) {
		int e = pthread_create(&p->threads[p->n_threads], NULL,
				       p->n_threads < own ? run_own : run_fleets, p);
		if (e != 0) rc = cairn_err_sys(err, e, "start a thread for preheat");
		p->n_threads += e == 0;
	}
	if (rc) {
		cairn_preheat_stop(p);
		return rc;
	}
	*ret = p;
	return CAIRN_OK;
}
