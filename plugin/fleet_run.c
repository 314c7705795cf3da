/* The coordinator of one job: plugin/fleet.h says by which rules. One thread, and, while it asks, a
 * few more. */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "plugin/fleet.h"
#include "plugin/preheat.h"

#define TICK_MS 300	 /* between two rounds of questions ... */
#define TICK_MAX_MS 3000 /* ... and, with many nodes, */
#define TICK_NODE_MS 5	 /* so much more for each */
#define LOOK_MS 2000	 /* between two looks for nodes that come */
#define FORGETS_MAX 5	 /* of one job by one node: it may be started anew meanwhile */

typedef Cairn__V1__JobNode__State node_state;

struct run {
	const struct cairn_fleet_env *env;
	struct cairn_preheat_job *job;
	size_t *due; /* the nodes that are asked in this round */
	size_t n_due;
};

static int64_t now_ns(const struct run *r)
{
	return cairn_boot_ns(r->env->clock);
}

static int64_t real_ns(const struct run *r)
{
	return cairn_real_ns(r->env->clock);
}

static bool goes_on(const struct run *r)
{
	return !atomic_load(r->env->stop) && !cairn_preheat_job_is_cancelled(r->job);
}

/* At most so long; less if the job is cancelled, or the daemon stops. */
static void wait_ms(struct run *r, int64_t ms)
{
	struct timespec until;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += ms / 1000;
	until.tv_nsec += (ms % 1000) * CAIRN_NS_PER_MS;
	if (until.tv_nsec >= CAIRN_NS_PER_S) {
		until.tv_nsec -= CAIRN_NS_PER_S;
		until.tv_sec++;
	}
	pthread_mutex_lock(&r->job->mu);
	while (!r->job->cancelled && !atomic_load(r->env->stop) &&
	       pthread_cond_timedwait(&r->job->changed, &r->job->mu, &until) == 0) {
	}
	pthread_mutex_unlock(&r->job->mu);
}

static void save(struct run *r)
{
	pthread_mutex_lock(&r->job->mu);
	bool dirty = r->job->fleet->dirty;
	r->job->fleet->dirty = false;
	pthread_mutex_unlock(&r->job->mu);
	if (dirty) r->env->save(r->env->save_arg, r->job);
}

/* ---- one node ---------------------------------------------------------------------------------*/

/* What a node of the fleet gets: the request without the fleet. */
static enum cairn_code ask_job(struct run *r, const char *address, char *id, bool begun,
			       Cairn__Fleet__JobState **ret, bool *ret_answered,
			       struct cairn_err *err)
{
	Cairn__Fleet__Begin begin;
	Cairn__Fleet__State state;
	cairn__fleet__begin__init(&begin);
	cairn__fleet__state__init(&state);
	Cairn__V1__PreheatRequest request = *r->job->request; /* shallow */
	request.fleet = NULL;
	request.detach = false;
	begin.job = state.job = id;
	begin.request = &request;
	return cairn_fleet_ask(r->env->link, address, begun ? "State" : "Begin",
			       begun ? &state.base : &begin.base,
			       &cairn__fleet__job_state__descriptor, CAIRN_FLEET_CALL_MS,
			       (ProtobufCMessage **)ret, ret_answered, err);
}

/* It has not said how it is, though it was asked at asked_ns. It may be restarting, or busy, for a
 * while. */
static void lose(struct run *r, size_t i, int64_t asked_ns, bool answered,
		 const struct cairn_err *err)
{
	if (!answered && atomic_load(r->env->stop)) return; /* it was we who broke off */
	int64_t patience_ms =
		r->env->patience_ms > 0 ? r->env->patience_ms : CAIRN_FLEET_PATIENCE_MS;
	pthread_mutex_lock(&r->job->mu);
	struct cairn_fleet_member *m = &r->job->fleet->list[i];
	m->met = m->met || answered;
	if (m->lost_ns == 0) m->lost_ns = asked_ns;
	bool over = !m->met || now_ns(r) - m->lost_ns >= patience_ms * CAIRN_NS_PER_MS;
	pthread_mutex_unlock(&r->job->mu);
	if (!over) return;
	if (answered) {
		cairn_fleet_set(r->job, i, CAIRN__V1__JOB_NODE__STATE__FAILED, err->msg,
				real_ns(r));
		return;
	}
	struct cairn_err down;
	cairn_err_set(&down, err->code, "it does not answer: %s", err->msg);
	cairn_fleet_set(r->job, i, CAIRN__V1__JOB_NODE__STATE__DOWN, down.msg, real_ns(r));
}

static bool is_passing(enum cairn_code rc, bool answered)
{
	if (!answered) return rc != CAIRN_FAILED_PRECONDITION;
	return rc == CAIRN_UNAVAILABLE || rc == CAIRN_RESOURCE_EXHAUSTED ||
	       rc == CAIRN_DEADLINE_EXCEEDED;
}

static void forget_job(struct run *r, size_t i)
{
	pthread_mutex_lock(&r->job->mu);
	r->job->fleet->list[i].begun = false;
	bool over = ++r->job->fleet->list[i].forgot > FORGETS_MAX;
	pthread_mutex_unlock(&r->job->mu);
	if (!over) return;
	cairn_fleet_set(
		r->job, i, CAIRN__V1__JOB_NODE__STATE__FAILED,
		"it says that it has begun, and again and again that it knows nothing of it",
		real_ns(r));
}

static void ask_node(void *arg, size_t k)
{
	struct run *r = arg;
	const size_t i = r->due[k];
	char address[CAIRN_ADDRESS_MAX], id[CAIRN_JOB_ID];
	Cairn__Fleet__JobState *answer = NULL;
	struct cairn_err err;
	bool answered = false;
	pthread_mutex_lock(&r->job->mu);
	const struct cairn_fleet_member *m = &r->job->fleet->list[i];
	bool begun = m->begun;
	snprintf(address, sizeof(address), "%s", m->msg->address);
	snprintf(id, sizeof(id), "%s", m->msg->job);
	pthread_mutex_unlock(&r->job->mu);
	const int64_t asked_ns = now_ns(r);
	enum cairn_code rc = ask_job(r, address, id, begun, &answer, &answered, &err);
	if (rc == CAIRN_OK) {
		cairn_fleet_take(r->job, i, answer, real_ns(r));
		cairn__fleet__job_state__free_unpacked(answer, NULL);
	} else if (begun && answered && rc == CAIRN_NOT_FOUND) {
		forget_job(r, i); /* it did, too: it is to begin again */
	} else if (is_passing(rc, answered)) {
		lose(r, i, asked_ns, answered, &err);
	} else {
		cairn_fleet_set(r->job, i, CAIRN__V1__JOB_NODE__STATE__FAILED, err.msg, real_ns(r));
	}
}

/* ---- rounds -----------------------------------------------------------------------------------*/

/* Of the nodes in that state, of the batch or (0) of all. */
static void collect(struct run *r, node_state state, int64_t batch)
{
	pthread_mutex_lock(&r->job->mu);
	const struct cairn_fleet *f = r->job->fleet;
	free(r->due);
	r->due = calloc(f->n + 1, sizeof(r->due[0]));
	if (r->due == NULL) abort();
	r->n_due = 0;
	for (size_t i = 0; i < f->n; i++) {
		const Cairn__V1__JobNode *node = f->list[i].msg;
		if (node->state == state && (batch == 0 || node->batch == batch)) {
			r->due[r->n_due++] = i;
		}
	}
	pthread_mutex_unlock(&r->job->mu);
}

static void log_end(struct run *r, size_t i)
{
	pthread_mutex_lock(&r->job->mu);
	Cairn__V1__JobNode *node = cairn_fleet_node_message(&r->job->fleet->list[i]);
	pthread_mutex_unlock(&r->job->mu);
	bool good = node->state == CAIRN__V1__JOB_NODE__STATE__SUCCEEDED;
	if (node->state != CAIRN__V1__JOB_NODE__STATE__RUNNING) {
		cairn_log(good ? CAIRN_LOG_INFO : CAIRN_LOG_WARN, "fleet_node_ended",
			  CAIRN_STR("job", r->job->id), CAIRN_STR("node", node->name),
			  CAIRN_NUM("good", good), CAIRN_NUM("blobs", node->blobs_done),
			  CAIRN_NUM("of", node->blobs_total), CAIRN_STR("why", node->error));
	}
	cairn__v1__job_node__free_unpacked(node, NULL);
}

/* Ask all that run. Returns how many do. */
static size_t round_of_questions(struct run *r)
{
	collect(r, CAIRN__V1__JOB_NODE__STATE__RUNNING, 0);
	cairn_fleet_each(r->n_due, ask_node, r);
	save(r);
	for (size_t k = 0; k < r->n_due; k++) log_end(r, r->due[k]);
	return cairn_fleet_count(r->job, CAIRN__V1__JOB_NODE__STATE__RUNNING);
}

static int64_t tick_ms(const struct run *r, size_t running)
{
	int64_t ms = r->env->tick_ms > 0 ? r->env->tick_ms : TICK_MS;
	ms += (int64_t)running * TICK_NODE_MS;
	return ms < TICK_MAX_MS ? ms : TICK_MAX_MS;
}

static void work_until_quiet(struct run *r)
{
	while (goes_on(r)) {
		size_t running = round_of_questions(r);
		if (running == 0) return;
		wait_ms(r, tick_ms(r, running));
	}
}

/* Those that are collected change their state. */
static void set_due(struct run *r, node_state state, const char *error)
{
	for (size_t k = 0; k < r->n_due; k++) {
		cairn_fleet_set(r->job, r->due[k], state, error, real_ns(r));
	}
	save(r);
}

static size_t waiting(const struct run *r)
{
	return cairn_fleet_count(r->job, CAIRN__V1__JOB_NODE__STATE__WAITING);
}

static void roll_out(struct run *r)
{
	for (int64_t batch = 1; goes_on(r) && waiting(r) > 0; batch++) {
		collect(r, CAIRN__V1__JOB_NODE__STATE__WAITING, batch);
		if (r->n_due == 0) continue; /* it began before a restart */
		work_until_quiet(r);	     /* what ran then comes first */
		if (!goes_on(r)) return;
		if (cairn_fleet_is_stopped(r->job)) {
			collect(r, CAIRN__V1__JOB_NODE__STATE__WAITING, 0);
			set_due(r, CAIRN__V1__JOB_NODE__STATE__SKIPPED,
				"too many nodes had failed before its turn");
			return;
		}
		if (batch > 1) wait_ms(r, r->job->request->fleet->pause_seconds * 1000);
		if (!goes_on(r)) return;
		collect(r, CAIRN__V1__JOB_NODE__STATE__WAITING, batch);
		set_due(r, CAIRN__V1__JOB_NODE__STATE__RUNNING, "");
		work_until_quiet(r);
	}
	work_until_quiet(r);
}

/* ---- nodes that come later --------------------------------------------------------------------*/

static bool admits_others(const struct cairn_fleet *f)
{
	return f->rule.kind == CAIRN_FLEET_ALL || f->rule.kind == CAIRN_FLEET_LABELS;
}

/* It is one of the job's, and not down. */
static bool is_known(void *arg, const char *address)
{
	const struct run *r = arg;
	bool known = false;
	pthread_mutex_lock(&r->job->mu);
	const struct cairn_fleet *f = r->job->fleet;
	for (size_t i = 0; i < f->n && !known; i++) {
		known = strcmp(f->list[i].msg->address, address) == 0 &&
			f->list[i].msg->state != CAIRN__V1__JOB_NODE__STATE__DOWN;
	}
	pthread_mutex_unlock(&r->job->mu);
	return known;
}

/* Let in those that are there and were not, as many as may run at once. */
static void look_for_nodes(struct run *r)
{
	struct cairn_fleet_candidate *list;
	const size_t max = cairn_fleet_batch_size(r->job->fleet);
	size_t n = cairn_fleet_look(r->env->link, is_known, r, &list);
	for (size_t i = 0; i < n; i++) {
		if (!list[i].answers) continue;
		if (cairn_fleet_count(r->job, CAIRN__V1__JOB_NODE__STATE__RUNNING) >= max) break;
		cairn_fleet_join(r->job, &list[i], real_ns(r));
	}
	cairn_fleet_candidates_free(list, n);
	save(r);
}

static void catch_up(struct run *r)
{
	const struct cairn_preheat_job *job = r->job;
	const int64_t until_ns = job->request->fleet->until_seconds * CAIRN_NS_PER_S;
	int64_t left_ns = job->created_ns + until_ns - real_ns(r);
	if (left_ns > until_ns) left_ns = until_ns; /* the clock was set back */
	const int64_t end_ns = now_ns(r) + left_ns;
	for (int64_t looked_ns = 0; goes_on(r) && now_ns(r) < end_ns;) {
		bool down = cairn_fleet_count(r->job, CAIRN__V1__JOB_NODE__STATE__DOWN) > 0;
		size_t running = cairn_fleet_count(r->job, CAIRN__V1__JOB_NODE__STATE__RUNNING);
		if (!down && running == 0 && !admits_others(job->fleet)) return;
		if (looked_ns == 0 || now_ns(r) - looked_ns >= LOOK_MS * CAIRN_NS_PER_MS) {
			look_for_nodes(r);
			looked_ns = now_ns(r);
		}
		running = round_of_questions(r);
		wait_ms(r, tick_ms(r, running));
	}
	work_until_quiet(r); /* who was let in may end */
}

/* ---- the end ----------------------------------------------------------------------------------*/

/* Tell the node, and take what it says last. */
static void cancel_node(void *arg, size_t k)
{
	struct run *r = arg;
	const size_t i = r->due[k];
	Cairn__Fleet__Cancel cancel;
	Cairn__Fleet__JobState *answer = NULL;
	char address[CAIRN_ADDRESS_MAX], id[CAIRN_JOB_ID];
	struct cairn_err err;
	bool answered = false;
	cairn__fleet__cancel__init(&cancel);
	pthread_mutex_lock(&r->job->mu);
	snprintf(address, sizeof(address), "%s", r->job->fleet->list[i].msg->address);
	snprintf(id, sizeof(id), "%s", r->job->fleet->list[i].msg->job);
	pthread_mutex_unlock(&r->job->mu);
	cancel.job = id;
	enum cairn_code told = CAIRN_UNAVAILABLE;
	for (int tries = 0; told != CAIRN_OK && tries < 2; tries++) {
		told = cairn_fleet_ask(r->env->link, address, "Cancel", &cancel.base, NULL,
				       CAIRN_FLEET_CALL_MS, NULL, &answered, &err);
	}
	if (told == CAIRN_OK &&
	    ask_job(r, address, id, true, &answer, &answered, &err) == CAIRN_OK) {
		cairn_fleet_take(r->job, i, answer, real_ns(r));
		cairn__fleet__job_state__free_unpacked(answer, NULL);
	}
	pthread_mutex_lock(&r->job->mu);
	bool ended = r->job->fleet->list[i].msg->state != CAIRN__V1__JOB_NODE__STATE__RUNNING;
	pthread_mutex_unlock(&r->job->mu);
	/* A question that was cut off by our own end is asked again by whoever goes on. */
	if (ended || (told != CAIRN_OK && atomic_load(r->env->stop))) return;
	cairn_fleet_set(r->job, i, CAIRN__V1__JOB_NODE__STATE__CANCELLED,
			told == CAIRN_OK ? ""
					 : "it did not answer: its job may go on, and can be "
					   "cancelled there",
			real_ns(r));
}

static void cancel_all(struct run *r)
{
	collect(r, CAIRN__V1__JOB_NODE__STATE__WAITING, 0);
	set_due(r, CAIRN__V1__JOB_NODE__STATE__CANCELLED, "");
	collect(r, CAIRN__V1__JOB_NODE__STATE__RUNNING, 0);
	cairn_fleet_each(r->n_due, cancel_node, r);
	save(r);
}

void cairn_fleet_run(const struct cairn_fleet_env *env, struct cairn_preheat_job *job)
{
	struct run r = {.env = env, .job = job};
	roll_out(&r);
	if (goes_on(&r) && !cairn_fleet_is_stopped(job)) catch_up(&r);
	if (cairn_preheat_job_is_cancelled(job) && !atomic_load(env->stop)) cancel_all(&r);
	free(r.due);
}
