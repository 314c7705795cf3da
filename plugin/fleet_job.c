/* The nodes of a fleet's job: their states, and what they say of themselves. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "plugin/fleet.h"
#include "plugin/message.h"
#include "plugin/preheat.h"

typedef Cairn__V1__JobNode__State node_state;

#define WAITING CAIRN__V1__JOB_NODE__STATE__WAITING
#define RUNNING CAIRN__V1__JOB_NODE__STATE__RUNNING
#define SUCCEEDED CAIRN__V1__JOB_NODE__STATE__SUCCEEDED
#define PARTIAL CAIRN__V1__JOB_NODE__STATE__PARTIAL
#define FAILED CAIRN__V1__JOB_NODE__STATE__FAILED
#define DOWN CAIRN__V1__JOB_NODE__STATE__DOWN
#define CANCELLED CAIRN__V1__JOB_NODE__STATE__CANCELLED
#define SKIPPED CAIRN__V1__JOB_NODE__STATE__SKIPPED

static void *must(void *p)
{
	if (p == NULL) abort();
	return p;
}

/* Text of another node's, as it is kept: a line, and not too long. */
static void set_text(char **at, const char *text)
{
	size_t n = strnlen(text, CAIRN_FLEET_ERROR_MAX);
	char *copy = must(strndup(text, n));
	for (char *c = copy; *c != '\0'; c++) {
		if ((unsigned char)*c < ' ' || *c == 0x7f) *c = ' ';
	}
	if (*at != NULL && *at != (const char *)protobuf_c_empty_string) free(*at);
	*at = copy;
}

/* ---- what is asked for ------------------------------------------------------------------------*/

static enum cairn_code check_times(const Cairn__V1__Fleet *f, struct cairn_err *err)
{
	if (f->pause_seconds < 0 || f->pause_seconds > CAIRN_FLEET_PAUSE_MAX_S) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "pause_seconds is %lld; allowed: 0 to %d",
				     (long long)f->pause_seconds, CAIRN_FLEET_PAUSE_MAX_S);
	}
	if (f->until_seconds < 0 || f->until_seconds > CAIRN_FLEET_UNTIL_MAX_S) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "until_seconds is %lld; allowed: 0 to %d",
				     (long long)f->until_seconds, CAIRN_FLEET_UNTIL_MAX_S);
	}
	return CAIRN_OK;
}

static enum cairn_code check_request(const Cairn__V1__PreheatRequest *request,
				     struct cairn_err *err)
{
	size_t n = cairn__v1__preheat_request__get_packed_size(request);
	if (request->login != NULL) {
		return cairn_err_set(err, CAIRN_FAILED_PRECONDITION,
				     "a login does not go with nodes: it would have to travel to "
				     "every one of them; set registries.docker_config on the nodes "
				     "instead");
	}
	if (request->repair[0] != '\0') {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "repair is for this node alone: it does not go with nodes");
	}
	/* With room for what goes around it. */
	if (n > CAIRN_CALL_PAYLOAD_MAX - 1024) {
		return cairn_err_set(
			err, CAIRN_INVALID_ARGUMENT,
			"the request has %zu bytes; with nodes at most %u are allowed: "
			"make several jobs of it",
			n, CAIRN_CALL_PAYLOAD_MAX - 1024);
	}
	return check_times(request->fleet, err);
}

enum cairn_code cairn_fleet_new(const Cairn__V1__PreheatRequest *request, struct cairn_fleet **ret,
				struct cairn_err *err)
{
	const Cairn__V1__Fleet *f = request->fleet;
	enum cairn_code rc = check_request(request, err);
	if (rc) return rc;
	struct cairn_fleet *fleet = must(calloc(1, sizeof(*fleet)));
	fleet->batch = (struct cairn_fleet_amount){.is_percent = true, .n = 100};
	fleet->any_failures = f->max_failures[0] == '\0';
	rc = cairn_fleet_rule_parse(f->nodes, &fleet->rule, err);
	if (rc == CAIRN_OK && f->batch[0] != '\0') {
		rc = cairn_fleet_amount_parse(f->batch, "batch", 1, &fleet->batch, err);
	}
	if (rc == CAIRN_OK && !fleet->any_failures) {
		rc = cairn_fleet_amount_parse(f->max_failures, "max_failures", 0,
					      &fleet->max_failures, err);
	}
	if (rc) {
		cairn_fleet_free(fleet);
		return rc;
	}
	*ret = fleet;
	return CAIRN_OK;
}

void cairn_fleet_free(struct cairn_fleet *fleet)
{
	if (fleet == NULL) return;
	for (size_t i = 0; i < fleet->n; i++) {
		cairn__v1__job_node__free_unpacked(fleet->list[i].msg, NULL);
	}
	free(fleet->list);
	cairn_fleet_rule_fini(&fleet->rule);
	free(fleet);
}

/* ---- the nodes --------------------------------------------------------------------------------*/

static struct cairn_fleet_member *add_locked(struct cairn_preheat_job *job, Cairn__V1__JobNode *msg)
{
	struct cairn_fleet *f = job->fleet;
	if (f->n == f->cap) {
		f->cap = f->cap > 0 ? 2 * f->cap : 16;
		f->list = must(realloc(f->list, f->cap * sizeof(f->list[0])));
	}
	f->list[f->n] = (struct cairn_fleet_member){.msg = msg, .change = ++job->change};
	return &f->list[f->n++];
}

static void changed_locked(struct cairn_preheat_job *job, struct cairn_fleet_member *m)
{
	m->change = ++job->change;
	pthread_cond_broadcast(&job->changed);
}

static Cairn__V1__JobNode *new_node(const struct cairn_preheat_job *job,
				    const struct cairn_fleet_candidate *c)
{
	Cairn__V1__JobNode *msg = must(malloc(sizeof(*msg)));
	cairn__v1__job_node__init(msg);
	msg->name = cairn_message_text(c->name);
	msg->address = cairn_message_text(c->address);
	msg->platform = cairn_message_text(c->platform);
	msg->job = cairn_message_text(job->id);
	msg->job[0] = 'n'; /* f-... is called n-... on every node */
	msg->error = cairn_message_text("");
	msg->state = WAITING;
	return msg;
}

size_t cairn_fleet_batch_size(const struct cairn_fleet *fleet)
{
	size_t n = cairn_fleet_amount_of(&fleet->batch, fleet->n_chosen, true);
	return n > 0 ? n : 1;
}

void cairn_fleet_set_nodes(struct cairn_preheat_job *job, const struct cairn_fleet_candidate *list,
			   size_t n)
{
	struct cairn_fleet *f = job->fleet;
	f->n_chosen = n;
	for (size_t i = 0; i < n; i++) {
		struct cairn_fleet_member *m = add_locked(job, new_node(job, &list[i]));
		m->msg->batch = (int64_t)(i / cairn_fleet_batch_size(f)) + 1;
		m->met = list[i].answers;
		set_text(&m->msg->error, list[i].error);
	}
}

static bool is_sane(const Cairn__V1__JobNode *msg)
{
	return msg->state > CAIRN__V1__JOB_NODE__STATE__UNKNOWN && msg->state <= SKIPPED &&
	       msg->batch >= (msg->state == WAITING) && msg->batch <= CAIRN_FLEET_NODES_MAX &&
	       strlen(msg->address) < CAIRN_ADDRESS_MAX &&
	       strlen(msg->name) < CAIRN_FLEET_NAME_MAX && cairn_fleet_is_node_job(msg->job);
}

static Cairn__V1__JobNode *copy_node(const Cairn__V1__JobNode *msg)
{
	size_t n = cairn__v1__job_node__get_packed_size(msg);
	uint8_t *bytes = must(malloc(n + 1));
	cairn__v1__job_node__pack(msg, bytes);
	Cairn__V1__JobNode *copy = must(cairn__v1__job_node__unpack(NULL, n, bytes));
	free(bytes);
	return copy;
}

void cairn_fleet_restore(struct cairn_preheat_job *job, Cairn__V1__JobNode *const *list, size_t n)
{
	for (size_t i = 0; i < n && job->fleet->n < CAIRN_FLEET_NODES_MAX; i++) {
		if (!is_sane(list[i])) continue;
		struct cairn_fleet_member *m = add_locked(job, copy_node(list[i]));
		/* One that did not answer when it was chosen is not waited for; others are. */
		m->met = m->msg->state != WAITING || m->msg->error[0] == '\0';
		job->fleet->n_chosen += m->msg->batch > 0;
	}
}

static void set_locked(struct cairn_preheat_job *job, struct cairn_fleet_member *m,
		       node_state state, const char *error, int64_t real_ns)
{
	Cairn__V1__JobNode *msg = m->msg;
	if (msg->state != state) job->fleet->dirty = true;
	msg->state = state;
	set_text(&msg->error, error);
	Cairn__Wire__Timestamp **at = state == RUNNING ? &msg->started_at : &msg->ended_at;
	if (*at != NULL) cairn__wire__timestamp__free_unpacked(*at, NULL);
	*at = cairn_message_new_time(real_ns);
	changed_locked(job, m);
}

void cairn_fleet_set(struct cairn_preheat_job *job, size_t i, node_state state, const char *error,
		     int64_t real_ns)
{
	pthread_mutex_lock(&job->mu);
	set_locked(job, &job->fleet->list[i], state, error, real_ns);
	pthread_mutex_unlock(&job->mu);
}

static struct cairn_fleet_member *find_locked(struct cairn_fleet *f,
					      const struct cairn_fleet_candidate *c)
{
	for (size_t i = 0; i < f->n; i++) {
		const char *name = f->list[i].msg->name;
		/* One that never said who it is goes by its address. */
		if (strcmp(name, c->name) == 0 || strcmp(name, c->address) == 0) return &f->list[i];
	}
	return NULL;
}

void cairn_fleet_join(struct cairn_preheat_job *job, const struct cairn_fleet_candidate *c,
		      int64_t real_ns)
{
	pthread_mutex_lock(&job->mu);
	struct cairn_fleet *f = job->fleet;
	struct cairn_fleet_member *m = find_locked(f, c);
	bool wanted = f->rule.kind == CAIRN_FLEET_ALL ||
		      (f->rule.kind == CAIRN_FLEET_LABELS && cairn_fleet_has_labels(c, &f->rule));
	if (m == NULL && wanted && f->n < CAIRN_FLEET_NODES_MAX) {
		m = add_locked(job, new_node(job, c));
	} else if (m == NULL || m->msg->state != DOWN) {
		/* It is none of ours; or it is through; or, where it moves while it has the job, it
		 * is lost at the old address first. */
		m = NULL;
	}
	if (m != NULL) {
		set_text(&m->msg->name, c->name);
		set_text(&m->msg->address, c->address);
		set_text(&m->msg->platform, c->platform);
		m->begun = false;
		m->met = true;
		m->lost_ns = 0;
		set_locked(job, m, RUNNING, "", real_ns);
	}
	pthread_mutex_unlock(&job->mu);
}

/* ---- what a node says -------------------------------------------------------------------------*/

static bool is_number(int64_t n, int64_t max)
{
	return n >= 0 && n <= max;
}

/* Could that be? */
static bool is_possible(const struct cairn_preheat_job *job, const Cairn__V1__JobNode *node,
			const Cairn__Fleet__JobState *answer)
{
	const Cairn__V1__Job *j = answer->job;
	if (j == NULL || strcmp(j->id, node->job) != 0 || j->n_images != job->n_images) {
		return false;
	}
	for (size_t i = 0; i < j->n_images; i++) {
		if (strcmp(j->images[i]->reference, job->images[i].name) != 0) return false;
	}
	return is_number(j->blobs_total, CAIRN_JOB_BLOBS_MAX) &&
	       is_number(j->blobs_done, j->blobs_total) &&
	       is_number(answer->blobs_failed, j->blobs_total) &&
	       is_number(j->bytes_total, INT64_MAX / CAIRN_FLEET_NODES_MAX) &&
	       is_number(j->bytes_done, INT64_MAX / CAIRN_FLEET_NODES_MAX) &&
	       is_number(j->bytes_fetched, INT64_MAX / CAIRN_FLEET_NODES_MAX) &&
	       is_number(j->bytes_from_peers, INT64_MAX / CAIRN_FLEET_NODES_MAX);
}

static void take_failed(Cairn__V1__JobNode *node, const Cairn__Fleet__JobState *answer)
{
	for (size_t i = 0; i < node->n_failed; i++) {
		cairn__v1__job_blob__free_unpacked(node->failed[i], NULL);
	}
	free(node->failed);
	node->n_failed = 0;
	node->failed = must(calloc(CAIRN_FLEET_BLOBS_MAX, sizeof(node->failed[0])));
	for (size_t i = 0; i < answer->n_failed && node->n_failed < CAIRN_FLEET_BLOBS_MAX; i++) {
		const Cairn__V1__JobBlob *from = answer->failed[i];
		struct cairn_preheat_blob blob = {.state = CAIRN__V1__JOB_STATE__FAILED,
						  .source = ""};
		struct cairn_err ignored;
		char *error = NULL;
		if (cairn_digest_parse(from->digest, strlen(from->digest), &blob.digest,
				       &ignored) != CAIRN_OK) {
			continue;
		}
		set_text(&error, from->error);
		if (strlen(error) > CAIRN_FLEET_BLOB_ERROR_MAX) {
			error[CAIRN_FLEET_BLOB_ERROR_MAX] = '\0';
		}
		blob.error = error;
		blob.size = from->size > 0 ? (uint64_t)from->size : 0;
		node->failed[node->n_failed++] = cairn_preheat_blob_message(&blob);
		free(error);
	}
}

static void take_numbers(Cairn__V1__JobNode *node, const Cairn__Fleet__JobState *answer)
{
	const Cairn__V1__Job *j = answer->job;
	node->blobs_total = j->blobs_total;
	node->blobs_done = j->blobs_done;
	node->blobs_failed = answer->blobs_failed;
	node->bytes_total = j->bytes_total;
	node->bytes_done = j->bytes_done;
	node->bytes_fetched = j->bytes_fetched;
	node->bytes_from_peers = j->bytes_from_peers;
}

/* Does it hold everything, and the same as the others? What the first says that does is what all
 * must have. */
static enum cairn_code check_success_locked(struct cairn_preheat_job *job, const Cairn__V1__Job *j,
					    struct cairn_err *err)
{
	struct cairn_digest root;
	char ours[CAIRN_DIGEST_STR];
	if (j->blobs_done != j->blobs_total) {
		return cairn_err_set(
			err, CAIRN_INTERNAL,
			"it says that it has succeeded, but that %lld of %lld blobs are "
			"there",
			(long long)j->blobs_done, (long long)j->blobs_total);
	}
	for (size_t i = 0; i < job->n_images; i++) {
		struct cairn_preheat_image *im = &job->images[i];
		const Cairn__V1__JobImage *its = j->images[i];
		if (its->state != CAIRN__V1__JOB_STATE__SUCCEEDED ||
		    cairn_digest_parse(its->digest, strlen(its->digest), &root, err) != CAIRN_OK) {
			return cairn_err_set(
				err, CAIRN_INTERNAL,
				"it says that it has succeeded, but not that it has %.200s",
				im->name);
		}
		if (im->root.alg == 0) im->root = im->ref.digest.alg != 0 ? im->ref.digest : root;
		if (cairn_digest_equal(&im->root, &root)) continue;
		return cairn_err_set(
			err, CAIRN_FAILED_PRECONDITION,
			"it holds %.71s as %.200s, and others hold %s: the tag was moved "
			"meanwhile; preheat once more",
			its->digest, im->name, cairn_digest_format(&im->root, ours));
	}
	return CAIRN_OK;
}

static const char *error_of(const Cairn__V1__Job *j)
{
	if (j->error[0] != '\0') return j->error;
	for (size_t i = 0; i < j->n_images; i++) {
		if (j->images[i]->error[0] != '\0') return j->images[i]->error;
	}
	return "";
}

static void end_locked(struct cairn_preheat_job *job, struct cairn_fleet_member *m,
		       const Cairn__V1__Job *j, int64_t real_ns)
{
	struct cairn_err err;
	switch (j->state) {
	case CAIRN__V1__JOB_STATE__QUEUED:
	case CAIRN__V1__JOB_STATE__RUNNING:
		changed_locked(job, m);
		return;
	case CAIRN__V1__JOB_STATE__SUCCEEDED:
		if (check_success_locked(job, j, &err) == CAIRN_OK) {
			set_locked(job, m, SUCCEEDED, "", real_ns);
		} else {
			set_locked(job, m, FAILED, err.msg, real_ns);
		}
		return;
	case CAIRN__V1__JOB_STATE__PARTIAL:
		set_locked(job, m, PARTIAL, error_of(j), real_ns);
		return;
	case CAIRN__V1__JOB_STATE__FAILED:
		set_locked(job, m, FAILED, error_of(j), real_ns);
		return;
	case CAIRN__V1__JOB_STATE__CANCELLED:
		set_locked(job, m, CANCELLED, job->cancelled ? "" : "it was cancelled on that node",
			   real_ns);
		return;
	default:
		set_locked(job, m, FAILED, "it answers with a state that is none", real_ns);
	}
}

void cairn_fleet_take(struct cairn_preheat_job *job, size_t i, const Cairn__Fleet__JobState *answer,
		      int64_t real_ns)
{
	pthread_mutex_lock(&job->mu);
	struct cairn_fleet_member *m = &job->fleet->list[i];
	m->met = m->begun = true;
	m->lost_ns = 0;
	if (m->msg->state != RUNNING) {
		/* A late answer: it is through. */
	} else if (!is_possible(job, m->msg, answer)) {
		set_locked(job, m, FAILED, "its answer is not about this job", real_ns);
	} else {
		take_numbers(m->msg, answer);
		take_failed(m->msg, answer);
		end_locked(job, m, answer->job, real_ns);
	}
	pthread_mutex_unlock(&job->mu);
}

/* ---- the job ----------------------------------------------------------------------------------*/

static size_t count_locked(const struct cairn_preheat_job *job, node_state state)
{
	size_t n = 0;
	for (size_t i = 0; i < job->fleet->n; i++) n += job->fleet->list[i].msg->state == state;
	return n;
}

static size_t count_failed_locked(const struct cairn_preheat_job *job)
{
	return count_locked(job, FAILED) + count_locked(job, PARTIAL) + count_locked(job, DOWN);
}

size_t cairn_fleet_count(struct cairn_preheat_job *job, node_state state)
{
	pthread_mutex_lock(&job->mu);
	size_t n = count_locked(job, state);
	pthread_mutex_unlock(&job->mu);
	return n;
}

bool cairn_fleet_is_stopped(struct cairn_preheat_job *job)
{
	const struct cairn_fleet *f = job->fleet;
	pthread_mutex_lock(&job->mu);
	bool stopped = count_locked(job, SKIPPED) > 0;
	if (!stopped && !f->any_failures) {
		stopped = count_failed_locked(job) >
			  cairn_fleet_amount_of(&f->max_failures, f->n_chosen, false);
	}
	pthread_mutex_unlock(&job->mu);
	return stopped;
}

static void say_why_locked(struct cairn_preheat_job *job, size_t good)
{
	cairn_err_set(
		&job->why, CAIRN_UNAVAILABLE,
		"%zu of %zu nodes hold all of it: %zu failed, %zu are down, %zu were skipped%s",
		good, job->fleet->n, count_locked(job, FAILED) + count_locked(job, PARTIAL),
		count_locked(job, DOWN), count_locked(job, SKIPPED),
		count_locked(job, SKIPPED) > 0 ? " as too many had failed" : "");
}

bool cairn_fleet_cancel_queued(struct cairn_preheat_job *job, int64_t real_ns)
{
	pthread_mutex_lock(&job->mu);
	struct cairn_fleet *f = job->fleet;
	bool idle = count_locked(job, RUNNING) == 0;
	for (size_t i = 0; i < f->n && idle; i++) {
		if (f->list[i].msg->state != WAITING) continue;
		set_locked(job, &f->list[i], CANCELLED, "", real_ns);
	}
	pthread_mutex_unlock(&job->mu);
	if (idle) cairn_fleet_judge(job, real_ns);
	return idle;
}

void cairn_fleet_give_up(struct cairn_preheat_job *job, const char *why, int64_t real_ns)
{
	pthread_mutex_lock(&job->mu);
	struct cairn_fleet *f = job->fleet;
	for (size_t i = 0; i < f->n; i++) {
		Cairn__V1__JobNode__State state = f->list[i].msg->state;
		if (state != WAITING && state != RUNNING) continue;
		set_locked(job, &f->list[i], FAILED, why, real_ns);
	}
	pthread_mutex_unlock(&job->mu);
	cairn_fleet_judge(job, real_ns);
}

void cairn_fleet_judge(struct cairn_preheat_job *job, int64_t real_ns)
{
	pthread_mutex_lock(&job->mu);
	size_t good = count_locked(job, SUCCEEDED), partly = count_locked(job, PARTIAL);
	bool all = good == job->fleet->n && good > 0;
	job->state = all		      ? CAIRN__V1__JOB_STATE__SUCCEEDED
		     : job->cancelled	      ? CAIRN__V1__JOB_STATE__CANCELLED
		     : good > 0 || partly > 0 ? CAIRN__V1__JOB_STATE__PARTIAL
					      : CAIRN__V1__JOB_STATE__FAILED;
	for (size_t i = 0; i < job->n_images; i++) job->images[i].state = job->state;
	if (job->state != CAIRN__V1__JOB_STATE__SUCCEEDED && !job->cancelled) {
		say_why_locked(job, good);
	}
	job->ended_ns = real_ns;
	job->change++;
	pthread_cond_broadcast(&job->changed);
	pthread_mutex_unlock(&job->mu);
}

/* ---- messages ---------------------------------------------------------------------------------*/

Cairn__V1__JobNode *cairn_fleet_node_message(const struct cairn_fleet_member *m)
{
	return copy_node(m->msg);
}

void cairn_fleet_sum_locked(const struct cairn_preheat_job *job, Cairn__V1__Job *msg)
{
	const struct cairn_fleet *f = job->fleet;
	const Cairn__V1__Fleet *asked = job->request->fleet;
	msg->fleet = must(malloc(sizeof(*msg->fleet)));
	cairn__v1__fleet__init(msg->fleet);
	msg->fleet->nodes = cairn_message_text(asked->nodes);
	msg->fleet->batch = cairn_message_text(asked->batch);
	msg->fleet->max_failures = cairn_message_text(asked->max_failures);
	msg->fleet->pause_seconds = asked->pause_seconds;
	msg->fleet->until_seconds = asked->until_seconds;
	msg->nodes_total = (int64_t)f->n;
	msg->nodes_done = (int64_t)count_locked(job, SUCCEEDED);
	msg->nodes_failed = (int64_t)count_failed_locked(job);
	for (size_t i = 0; i < f->n; i++) {
		const Cairn__V1__JobNode *node = f->list[i].msg;
		msg->blobs_total += node->blobs_total;
		msg->blobs_done += node->blobs_done;
		msg->bytes_total += node->bytes_total;
		msg->bytes_done += node->bytes_done;
		msg->bytes_fetched += node->bytes_fetched;
		msg->bytes_from_peers += node->bytes_from_peers;
	}
}
