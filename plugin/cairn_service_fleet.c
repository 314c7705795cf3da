/* ListVersions and Prune of several nodes: each is asked, and what it says is passed on with its
 * name. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "plugin/cairn_service.h"
#include "plugin/fleet.h"
#include "plugin/job.h"
#include "plugin/message.h"
#include "plugin/preheat.h"

#define VERSIONS_MAX 1000 /* of one node's that are passed on */

/* One question to several nodes. */
struct gather {
	struct cairn_job *job; /* which may be stopped */
	const struct cairn_fleet_link *link;
	struct cairn_fleet_rule rule;
	const char *question;
	const ProtobufCMessage *request;
	const ProtobufCMessageDescriptor *type; /* of the answers */
	int64_t timeout_ms;

	struct cairn_fleet_candidate *nodes;
	size_t n;
	ProtobufCMessage **answers; /* of each node; NULL: errs[i] */
	struct cairn_err *errs;
};

static void gather_fini(struct gather *g)
{
	for (size_t i = 0; i < g->n && g->answers != NULL; i++) {
		if (g->answers[i] == NULL) continue;
		protobuf_c_message_free_unpacked(g->answers[i], NULL);
	}
	free(g->answers);
	free(g->errs);
	cairn_fleet_candidates_free(g->nodes, g->n);
	cairn_fleet_rule_fini(&g->rule);
}

static void ask_one(void *arg, size_t i)
{
	struct gather *g = arg;
	bool answered;
	if (cairn_job_stopped(g->job)) {
		cairn_err_set(&g->errs[i], CAIRN_CANCELLED, "nobody waits for it");
		return;
	}
	if (!g->nodes[i].answers) {
		cairn_err_set(&g->errs[i], CAIRN_UNAVAILABLE, "%s", g->nodes[i].error);
		return;
	}
	if (cairn_fleet_ask(g->link, g->nodes[i].address, g->question, g->request, g->type,
			    g->timeout_ms, &g->answers[i], &answered, &g->errs[i]) != CAIRN_OK) {
		g->answers[i] = NULL;
	}
}

static enum cairn_code gather_work(struct cairn_job *job, void *arg, struct cairn_err *err)
{
	struct gather *g = arg;
	g->job = job;
	enum cairn_code rc = cairn_fleet_choose(g->link, &g->rule, &g->nodes, &g->n, err);
	if (rc) return rc;
	g->answers = calloc(g->n + 1, sizeof(g->answers[0]));
	g->errs = calloc(g->n + 1, sizeof(g->errs[0]));
	if (g->answers == NULL || g->errs == NULL) abort();
	cairn_fleet_each(g->n, ask_one, g);
	return CAIRN_OK;
}

/* On a thread of its own: it may take a minute. nodes: which. */
static enum cairn_code gather(struct cairn_admin_service *service, struct cairn_call *call,
			      const char *nodes, struct gather *g, struct cairn_err *err)
{
	struct cairn_job_counts counts;
	g->link = service->preheat != NULL ? cairn_preheat_link(service->preheat) : NULL;
	if (g->link == NULL) return cairn_fleet_no_others(err);
	enum cairn_code rc = cairn_fleet_rule_parse(nodes, &g->rule, err);
	if (rc) return rc;
	return cairn_job_run(call, gather_work, g, cairn_job_tell_nothing, &counts, err);
}

/* ---- ListVersions -----------------------------------------------------------------------------*/

/* A node's, as far as they are about what was asked for. The list is borrowed. */
static void set_versions(Cairn__V1__ListVersionsResponse *msg, const char *name,
			 Cairn__V1__ListVersionsResponse *answer, char *node)
{
	size_t kept = 0;
	for (size_t i = 0; i < answer->n_versions && kept < VERSIONS_MAX; i++) {
		Cairn__V1__Version *v = answer->versions[i];
		struct cairn_digest digest;
		struct cairn_err ignored;
		if (strcmp(v->name, name) != 0 ||
		    cairn_digest_parse(v->digest, strlen(v->digest), &digest, &ignored)) {
			continue;
		}
		if (v->node != (const char *)protobuf_c_empty_string) free(v->node);
		v->node = cairn_message_text(node);
		answer->versions[i] = answer->versions[kept];
		answer->versions[kept++] = v;
	}
	msg->versions = answer->versions;
	msg->n_versions = kept;
}

static enum cairn_code send_node(struct cairn_call *call, struct gather *g, size_t i,
				 const char *name, struct cairn_err *err)
{
	Cairn__V1__ListVersionsResponse msg = CAIRN__V1__LIST_VERSIONS_RESPONSE__INIT;
	Cairn__V1__NodeError error, *errors = &error;
	cairn__v1__node_error__init(&error);
	if (g->answers[i] != NULL) {
		set_versions(&msg, name, (Cairn__V1__ListVersionsResponse *)g->answers[i],
			     g->nodes[i].name);
	}
	if (msg.n_versions == 0) {
		if (g->answers[i] != NULL) {
			cairn_err_set(&g->errs[i], CAIRN_NOT_FOUND, "knows no version of it");
		}
		error.name = g->nodes[i].name;
		error.address = g->nodes[i].address;
		error.error = g->errs[i].msg;
		msg.errors = &errors;
		msg.n_errors = 1;
	}
	msg.nodes = i + 1 == g->n ? (int64_t)g->n : 0;
	return cairn_call_send(call, &msg.base, err);
}

enum cairn_code cairn_service_fleet_versions(struct cairn_admin_service *service,
					     struct cairn_call *call,
					     const Cairn__V1__ListVersionsRequest *request,
					     struct cairn_err *err)
{
	struct gather *g = cairn_call_alloc(call, sizeof(*g));
	Cairn__V1__ListVersionsRequest *question = cairn_call_alloc(call, sizeof(*question));
	cairn__v1__list_versions_request__init(question);
	if (request->name[0] == '\0') {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "a fleet is asked about one image name, and none was given");
	}
	question->name = cairn_call_alloc(call, CAIRN_NAME_MAX + 1);
	enum cairn_code rc = cairn_service_name(service->cache, request->name, question->name, err);
	if (rc) return rc;
	g->question = "Versions";
	g->request = &question->base;
	g->type = &cairn__v1__list_versions_response__descriptor;
	g->timeout_ms = 2 * CAIRN_FLEET_CALL_MS; /* it reads manifests */
	rc = gather(service, call, "all", g, err);
	for (size_t i = 0; rc == CAIRN_OK && i < g->n; i++) {
		rc = send_node(call, g, i, question->name, err);
	}
	gather_fini(g);
	return rc;
}

/* ---- Prune ------------------------------------------------------------------------------------*/

static enum cairn_code send_pruned(struct cairn_call *call, struct gather *g, size_t i,
				   struct cairn_err *err)
{
	Cairn__V1__CollectGarbageResponse msg = CAIRN__V1__COLLECT_GARBAGE_RESPONSE__INIT;
	Cairn__V1__NodePruned pruned, *list = &pruned;
	const Cairn__V1__NodePruned *a = (const Cairn__V1__NodePruned *)g->answers[i];
	cairn__v1__node_pruned__init(&pruned);
	pruned.name = g->nodes[i].name;
	pruned.address = g->nodes[i].address;
	if (a != NULL) {
		pruned.evicted_blobs = a->evicted_blobs;
		pruned.evicted_bytes = a->evicted_bytes;
		pruned.kept_blobs = a->kept_blobs;
		pruned.kept_bytes = a->kept_bytes;
		pruned.versions_dropped = a->versions_dropped;
		pruned.sure = a->sure;
	} else if (g->errs[i].code == CAIRN_NOT_FOUND) {
		pruned.sure = true; /* it never had a version: there was nothing to do */
	} else {
		pruned.error = g->errs[i].msg;
	}
	msg.nodes = &list;
	msg.n_nodes = 1;
	return cairn_call_send(call, &msg.base, err);
}

enum cairn_code cairn_service_fleet_prune(struct cairn_admin_service *service,
					  struct cairn_call *call,
					  const Cairn__V1__PruneRequest *request,
					  struct cairn_err *err)
{
	struct gather *g = cairn_call_alloc(call, sizeof(*g));
	Cairn__V1__PruneRequest *question = cairn_call_alloc(call, sizeof(*question));
	cairn__v1__prune_request__init(question);
	question->keep = request->keep;
	question->dry_run = request->dry_run;
	if (request->keep < 0 || request->keep > CAIRN_PRUNE_KEEP_MAX) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT, "keep is %lld; allowed: 0 to %d",
				     (long long)request->keep, CAIRN_PRUNE_KEEP_MAX);
	}
	question->name = cairn_call_alloc(call, CAIRN_NAME_MAX + 1);
	enum cairn_code rc = cairn_service_name(service->cache, request->name, question->name, err);
	if (rc) return rc;
	g->question = "Prune";
	g->request = &question->base;
	g->type = &cairn__v1__node_pruned__descriptor;
	g->timeout_ms = CAIRN_FLEET_PRUNE_MS;
	rc = gather(service, call, request->nodes, g, err);
	for (size_t i = 0; rc == CAIRN_OK && i < g->n; i++) rc = send_pruned(call, g, i, err);
	gather_fini(g);
	return rc;
}

/* ---- Preheat ----------------------------------------------------------------------------------*/

struct submit {
	struct cairn_preheat *preheat;
	const Cairn__V1__PreheatRequest *request;
	struct cairn_preheat_job *job;
};

static enum cairn_code submit_work(struct cairn_job *job, void *arg, struct cairn_err *err)
{
	(void)job;
	struct submit *s = arg;
	return cairn_preheat_submit(s->preheat, s->request, &s->job, err);
}

enum cairn_code cairn_service_fleet_submit(struct cairn_admin_service *service,
					   struct cairn_call *call,
					   const Cairn__V1__PreheatRequest *request,
					   struct cairn_preheat_job **ret, struct cairn_err *err)
{
	struct cairn_job_counts counts;
	struct submit *s = cairn_call_alloc(call, sizeof(*s));
	s->preheat = service->preheat;
	s->request = request;
	enum cairn_code rc =
		cairn_job_run(call, submit_work, s, cairn_job_tell_nothing, &counts, err);
	if (rc && s->job != NULL) { /* who asked has gone meanwhile */
		(void)cairn_preheat_cancel(service->preheat, s->job);
		cairn_preheat_job_unref(s->job);
		return rc;
	}
	*ret = s->job;
	return rc;
}
