/* What a node answers to a coordinator (proto/fleet.proto), with the jobs, versions and garbage
 * collection that it has anyway.
 *
 * The jobs that others begin here have ids of their own, n-..., and nothing else can be looked at
 * or ended from there. mu makes Begin and Cancel of one id come one after the other: what was
 * cancelled is not begun by a question that was delayed on its way. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "fleet.pb-c.h"
#include "plugin/cairn_service.h"
#include "plugin/fleet.h"
#include "plugin/gc.h"
#include "plugin/message.h"
#include "plugin/preheat.h"

#define CANCELLED_MAX 64      /* ids that are remembered as cancelled */
#define VERSIONS_MAX 100      /* of one name, in one answer */
#define IMAGE_ERROR_BYTES 200 /* of each image, in an answer: 1000 of them fit */

struct cairn_fleet_node {
	struct cairn_fleet_node_opts opts;
	char *name, *version;
	Cairn__Wire__Label **labels;
	_Atomic unsigned pruning;

	pthread_mutex_t mu;
	char cancelled[CANCELLED_MAX][CAIRN_JOB_ID]; /* guarded by mu: a ring */
	size_t next_cancelled;			     /* guarded by mu */
};

/* A message as an answer. */
static enum cairn_code pack(const ProtobufCMessage *msg, uint8_t **ret, size_t *ret_n)
{
	*ret_n = protobuf_c_message_get_packed_size(msg);
	*ret = malloc(*ret_n + 1);
	if (*ret == NULL) abort();
	protobuf_c_message_pack(msg, *ret);
	return CAIRN_OK;
}

bool cairn_fleet_is_node_job(const char *id)
{
	return strlen(id) == CAIRN_JOB_ID - 2 && id[0] == 'n' && id[1] == '-' &&
	       strspn(id + 2, "0123456789abcdef") == CAIRN_JOB_ID - 4;
}

static enum cairn_code check_id(const char *id, struct cairn_err *err)
{
	if (cairn_fleet_is_node_job(id)) return CAIRN_OK;
	return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
			     "\"%.40s\" is no id of a job that another node may name", id);
}

/* ---- Describe
 * ----------------------------------------------------------------------------------*/

static enum cairn_code describe(struct cairn_fleet_node *node, uint8_t **ret, size_t *ret_n)
{
	char text[CAIRN_PLATFORM_STR];
	struct cairn_platform platform;
	Cairn__Fleet__Node msg;
	cairn__fleet__node__init(&msg);
	msg.labels = node->labels;
	msg.n_labels = node->opts.n_labels;
	cairn_platform_node(&platform);
	cairn_platform_format(&platform, text);
	msg.name = node->name;
	msg.platform = text;
	msg.version = node->version;
	(void)pack(&msg.base, ret, ret_n);
	return CAIRN_OK;
}

/* ---- jobs
 * --------------------------------------------------------------------------------------*/

static void add_failed(struct cairn_preheat_job *job, Cairn__Fleet__JobState *msg)
{
	msg->failed = calloc(CAIRN_FLEET_BLOBS_MAX, sizeof(msg->failed[0]));
	if (msg->failed == NULL) abort();
	pthread_mutex_lock(&job->mu);
	for (size_t i = 0; i < job->n_blobs; i++) {
		if (job->blobs[i].state != CAIRN__V1__JOB_STATE__FAILED) continue;
		msg->blobs_failed++;
		if (msg->n_failed == CAIRN_FLEET_BLOBS_MAX) continue;
		msg->failed[msg->n_failed++] = cairn_preheat_blob_message(&job->blobs[i]);
	}
	pthread_mutex_unlock(&job->mu);
}

static enum cairn_code tell_job(struct cairn_preheat_job *job, uint8_t **ret, size_t *ret_n)
{
	Cairn__Fleet__JobState *msg = malloc(sizeof(*msg));
	if (msg == NULL) abort();
	cairn__fleet__job_state__init(msg);
	msg->job = cairn_preheat_job_message(job);
	for (size_t i = 0; i < msg->job->n_images; i++) {
		char *error = msg->job->images[i]->error;
		if (strlen(error) > IMAGE_ERROR_BYTES) error[IMAGE_ERROR_BYTES] = '\0';
	}
	add_failed(job, msg);
	(void)pack(&msg->base, ret, ret_n);
	cairn__fleet__job_state__free_unpacked(msg, NULL);
	return CAIRN_OK;
}

static bool was_cancelled_locked(const struct cairn_fleet_node *node, const char *id)
{
	for (size_t i = 0; i < CANCELLED_MAX; i++) {
		if (strcmp(node->cancelled[i], id) == 0) return true;
	}
	return false;
}

static enum cairn_code begin_locked(struct cairn_fleet_node *node, const Cairn__Fleet__Begin *q,
				    struct cairn_preheat_job **ret, struct cairn_err *err)
{
	*ret = cairn_preheat_find(node->opts.preheat, q->job);
	if (*ret != NULL) return CAIRN_OK;
	if (was_cancelled_locked(node, q->job)) {
		return cairn_err_set(err, CAIRN_CANCELLED, "job %s was cancelled", q->job);
	}
	if (q->request == NULL || q->request->fleet != NULL || q->request->login != NULL ||
	    q->request->repair[0] != '\0') {
		return cairn_err_set(
			err, CAIRN_INVALID_ARGUMENT,
			"a job of one node has a request, without nodes, login and repair");
	}
	return cairn_preheat_submit_as(node->opts.preheat, q->job, q->request, ret, err);
}

static enum cairn_code begin(struct cairn_fleet_node *node, const ProtobufCMessage *question,
			     uint8_t **ret, size_t *ret_n, struct cairn_err *err)
{
	const Cairn__Fleet__Begin *q = (const Cairn__Fleet__Begin *)question;
	struct cairn_preheat_job *job = NULL;
	enum cairn_code rc = check_id(q->job, err);
	if (rc) return rc;
	pthread_mutex_lock(&node->mu);
	rc = begin_locked(node, q, &job, err);
	pthread_mutex_unlock(&node->mu);
	if (rc == CAIRN_OK) rc = tell_job(job, ret, ret_n);
	cairn_preheat_job_unref(job);
	return rc;
}

static enum cairn_code state(struct cairn_fleet_node *node, const ProtobufCMessage *question,
			     uint8_t **ret, size_t *ret_n, struct cairn_err *err)
{
	const char *id = ((const Cairn__Fleet__State *)question)->job;
	enum cairn_code rc = check_id(id, err);
	if (rc) return rc;
	struct cairn_preheat_job *job = cairn_preheat_find(node->opts.preheat, id);
	if (job == NULL) return cairn_err_set(err, CAIRN_NOT_FOUND, "there is no job %s", id);
	rc = tell_job(job, ret, ret_n);
	cairn_preheat_job_unref(job);
	return rc;
}

static enum cairn_code cancel(struct cairn_fleet_node *node, const ProtobufCMessage *question,
			      struct cairn_err *err)
{
	const char *id = ((const Cairn__Fleet__Cancel *)question)->job;
	enum cairn_code rc = check_id(id, err);
	if (rc) return rc;
	pthread_mutex_lock(&node->mu);
	struct cairn_preheat_job *job = cairn_preheat_find(node->opts.preheat, id);
	if (job == NULL && !was_cancelled_locked(node, id)) {
		memcpy(node->cancelled[node->next_cancelled++ % CANCELLED_MAX], id, strlen(id) + 1);
	}
	pthread_mutex_unlock(&node->mu);
	if (job != NULL) (void)cairn_preheat_cancel(node->opts.preheat, job);
	cairn_preheat_job_unref(job);
	return CAIRN_OK;
}

/* ---- versions
 * ----------------------------------------------------------------------------------*/

static enum cairn_code versions(struct cairn_fleet_node *node, const ProtobufCMessage *question,
				uint8_t **ret, size_t *ret_n, struct cairn_err *err)
{
	char name[CAIRN_NAME_MAX + 1];
	const char *asked = ((const Cairn__V1__ListVersionsRequest *)question)->name;
	enum cairn_code rc = cairn_service_name(node->opts.cache, asked, name, err);
	if (rc) return rc;
	Cairn__V1__ListVersionsResponse *msg = malloc(sizeof(*msg));
	if (msg == NULL) abort();
	cairn__v1__list_versions_response__init(msg);
	msg->versions = calloc(VERSIONS_MAX, sizeof(msg->versions[0]));
	if (msg->versions == NULL) abort();
	struct cairn_gc_look *look = cairn_gc_look(node->opts.gc);
	const struct cairn_holds *holds = &look->pass.holds;
	for (size_t i = 0; i < holds->n_versions && msg->n_versions < VERSIONS_MAX; i++) {
		if (strcmp(holds->versions[i].name, name) != 0) continue;
		msg->versions[msg->n_versions++] = cairn_service_version(
			node->opts.cache, cairn_real_ns(node->opts.clock), &look->pass, i);
	}
	cairn_gc_look_unref(look);
	(void)pack(&msg->base, ret, ret_n);
	cairn__v1__list_versions_response__free_unpacked(msg, NULL);
	return CAIRN_OK;
}

/* ---- prune
 * -------------------------------------------------------------------------------------*/

static void set_pruned(Cairn__V1__NodePruned *msg, const struct cairn_gc_summary *s)
{
	msg->evicted_blobs = (int64_t)s->evicted_blobs;
	msg->evicted_bytes = (int64_t)s->evicted_bytes;
	for (int why = CAIRN_GC_REFERENCED; why < CAIRN_GC_TTL; why++) {
		msg->kept_blobs += (int64_t)s->blobs[why];
		msg->kept_bytes += (int64_t)s->bytes[why];
	}
	msg->versions_dropped = (int64_t)s->versions_dropped;
	msg->sure = s->sure;
}

static enum cairn_code prune(struct cairn_fleet_node *node, const ProtobufCMessage *question,
			     uint8_t **ret, size_t *ret_n, struct cairn_err *err)
{
	char name[CAIRN_NAME_MAX + 1];
	struct cairn_gc_request request;
	struct cairn_gc_pass pass;
	Cairn__V1__NodePruned msg;
	cairn__v1__node_pruned__init(&msg);
	enum cairn_code rc = cairn_service_prune_request(node->opts.cache, (const void *)question,
							 name, &request, err);
	if (rc) return rc;
	if (atomic_fetch_add(&node->pruning, 1) >= CAIRN_GC_CALLS_MAX) {
		rc = cairn_err_set(err, CAIRN_RESOURCE_EXHAUSTED,
				   "others prune this node already; try again");
	} else {
		rc = cairn_gc_run(node->opts.gc, &request, &pass, err);
	}
	atomic_fetch_sub(&node->pruning, 1);
	if (rc) return rc;
	set_pruned(&msg, &pass.summary);
	cairn_gc_pass_fini(&pass);
	return pack(&msg.base, ret, ret_n);
}

/* ---- all of it
 * ---------------------------------------------------------------------------------*/

enum what { DESCRIBE, BEGIN, STATE, CANCEL, VERSIONS, PRUNE };

static const struct question {
	const char *name;
	const ProtobufCMessageDescriptor *type;
	enum what what;
} questions[] = {
	{"Describe", &cairn__fleet__describe__descriptor, DESCRIBE},
	{"Begin", &cairn__fleet__begin__descriptor, BEGIN},
	{"State", &cairn__fleet__state__descriptor, STATE},
	{"Cancel", &cairn__fleet__cancel__descriptor, CANCEL},
	{"Versions", &cairn__v1__list_versions_request__descriptor, VERSIONS},
	{"Prune", &cairn__v1__prune_request__descriptor, PRUNE},
};

static enum cairn_code answer(struct cairn_fleet_node *node, enum what what,
			      const ProtobufCMessage *msg, uint8_t **ret, size_t *ret_n,
			      struct cairn_err *err)
{
	switch (what) {
	case DESCRIBE:
		return describe(node, ret, ret_n);
	case BEGIN:
		return begin(node, msg, ret, ret_n, err);
	case STATE:
		return state(node, msg, ret, ret_n, err);
	case CANCEL:
		return cancel(node, msg, err);
	case VERSIONS:
		return versions(node, msg, ret, ret_n, err);
	case PRUNE:
	default:
		return prune(node, msg, ret, ret_n, err);
	}
}

enum cairn_code cairn_fleet_node_answer(void *arg, const char *peer, const char *name,
					const uint8_t *request, size_t n, uint8_t **ret,
					size_t *ret_n, struct cairn_err *err)
{
	struct cairn_fleet_node *node = arg;
	const struct question *q = NULL;
	for (size_t i = 0; q == NULL && i < CAIRN_LEN(questions); i++) {
		if (strcmp(questions[i].name, name) == 0) q = &questions[i];
	}
	if (q == NULL) {
		return cairn_err_set(err, CAIRN_UNIMPLEMENTED,
				     "this node (version %s) knows no question %.64s",
				     node->version, name);
	}
	ProtobufCMessage *msg = protobuf_c_message_unpack(q->type, NULL, n, request);
	if (msg == NULL) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT, "%s: cannot be read", name);
	}
	enum cairn_code rc = answer(node, q->what, msg, ret, ret_n, err);
	protobuf_c_message_free_unpacked(msg, NULL);
	if (q->what == BEGIN || q->what == CANCEL || q->what == PRUNE) {
		cairn_log(CAIRN_LOG_INFO, "asked", CAIRN_STR("by", peer), CAIRN_STR("what", name),
			  CAIRN_STR("code", cairn_code_name(rc)));
	}
	return rc;
}

/* ---- up and down
 * -------------------------------------------------------------------------------*/

struct cairn_fleet_node *cairn_fleet_node_new(const struct cairn_fleet_node_opts *opts)
{
	struct cairn_fleet_node *node = calloc(1, sizeof(*node));
	if (node == NULL) abort();
	node->opts = *opts;
	if (opts->clock == NULL) node->opts.clock = &cairn_clock_system;
	node->name = cairn_message_text(opts->name);
	node->version = cairn_message_text(opts->version);
	node->labels = calloc(opts->n_labels + 1, sizeof(node->labels[0]));
	if (node->labels == NULL) abort();
	for (size_t i = 0; i < opts->n_labels; i++) {
		Cairn__Wire__Label *label = malloc(sizeof(*label));
		if (label == NULL) abort();
		cairn__wire__label__init(label);
		label->key = cairn_message_text(opts->labels[i].key);
		label->value = cairn_message_text(opts->labels[i].value);
		node->labels[i] = label;
	}
	pthread_mutex_init(&node->mu, NULL);
	return node;
}

void cairn_fleet_node_free(struct cairn_fleet_node *node)
{
	if (node == NULL) return;
	for (size_t i = 0; i < node->opts.n_labels; i++) {
		cairn__wire__label__free_unpacked(node->labels[i], NULL);
	}
	free(node->labels);
	free(node->name);
	free(node->version);
	pthread_mutex_destroy(&node->mu);
	free(node);
}
