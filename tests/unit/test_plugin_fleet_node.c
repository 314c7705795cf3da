/* What a node answers to a coordinator: plugin/fleet_node.c. Its jobs fail soon, as there is no
 * registry. */
#include "support/gc_node.h"

#include "fleet.pb-c.h"
#include "oci/registry.h"
#include "plugin/preheat.h"

#define JOB "n-0123456789abcdef"

struct world {
	struct gc_node *g;
	struct cairn_registry *registry;
	struct cairn_fills *fills;
	struct cairn_preheat *preheat;
	struct cairn_fleet_node *node;
};

static int set_up(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	void *g = NULL;
	gc_setup(&g);
	w->g = g;
	start_view(w->g, false);
	gc_start(w->g);
	const struct cairn_registry_opts registry = {
		.docker_config = "", .stall_ms = 200, .retry_ms = 1, .tries = 1};
	OK(cairn_registry_new(&registry, &w->registry, &node_err));
	w->fills = cairn_fills_new(w->g->n->cache);
	const struct cairn_preheat_opts preheat = {.cache = w->g->n->cache,
						   .fills = w->fills,
						   .gc = w->g->gc,
						   .registry = w->registry,
						   .clock = &w->g->n->clock,
						   .state_dir = w->g->n->dir};
	OK(cairn_preheat_start(&preheat, &w->preheat, &node_err));
	static const struct cairn_fleet_label labels[] = {{"rack", "r7"}, {"disk", "ssd"}};
	const struct cairn_fleet_node_opts opts = {.cache = w->g->n->cache,
						   .preheat = w->preheat,
						   .gc = w->g->gc,
						   .clock = &w->g->n->clock,
						   .name = "here",
						   .labels = labels,
						   .n_labels = 2,
						   .version = "1"};
	w->node = cairn_fleet_node_new(&opts);
	*state = w;
	return 0;
}

static int tear_down(void **state)
{
	struct world *w = *state;
	void *g = w->g;
	cairn_fleet_node_free(w->node);
	cairn_preheat_stop(w->preheat);
	cairn_registry_free(w->registry);
	cairn_fills_free(w->fills);
	gc_teardown(&g);
	free(w);
	return 0;
}

/* Ask; *ret (may be NULL) is the answer, of that type. */
static enum cairn_code question(struct world *w, const char *name, const ProtobufCMessage *question,
				const ProtobufCMessageDescriptor *type, void *ret)
{
	uint8_t *answer = NULL, *bytes = malloc(protobuf_c_message_get_packed_size(question) + 1);
	size_t n = protobuf_c_message_pack(question, bytes), n_answer = 0;
	enum cairn_code rc = cairn_fleet_node_answer(w->node, "peer", name, bytes, n, &answer,
						     &n_answer, &node_err);
	free(bytes);
	if (rc == CAIRN_OK && type != NULL) {
		*(ProtobufCMessage **)ret = protobuf_c_message_unpack(type, NULL, n_answer, answer);
		assert_non_null(*(ProtobufCMessage **)ret);
	}
	free(answer);
	return rc;
}

static enum cairn_code begin(struct world *w, const char *id, Cairn__V1__PreheatRequest *request)
{
	Cairn__Fleet__Begin q = CAIRN__FLEET__BEGIN__INIT;
	Cairn__Fleet__JobState *answer = NULL;
	/* protobuf-c's strings are not const, but are only read. */
	q.job = (char *)(uintptr_t)id;
	q.request = request;
	enum cairn_code rc =
		question(w, "Begin", &q.base, &cairn__fleet__job_state__descriptor, &answer);
	if (rc == CAIRN_OK) assert_string_equal(answer->job->id, id);
	if (rc == CAIRN_OK) cairn__fleet__job_state__free_unpacked(answer, NULL);
	return rc;
}

static enum cairn_code cancel(struct world *w, const char *id)
{
	Cairn__Fleet__Cancel q = CAIRN__FLEET__CANCEL__INIT;
	q.job = (char *)(uintptr_t)id;
	return question(w, "Cancel", &q.base, NULL, NULL);
}

static size_t count_jobs(struct world *w)
{
	struct cairn_preheat_job **list;
	size_t n = cairn_preheat_list(w->preheat, &list);
	for (size_t i = 0; i < n; i++) cairn_preheat_job_unref(list[i]);
	free(list);
	return n;
}

static void one_reference(Cairn__V1__PreheatRequest *request)
{
	static char name[] = "127.0.0.1:1/team/app:v1", *list[] = {name};
	cairn__v1__preheat_request__init(request);
	request->references = list;
	request->n_references = 1;
}

static void node__says_who_it_is(void **state)
{
	Cairn__Fleet__Describe q = CAIRN__FLEET__DESCRIBE__INIT;
	Cairn__Fleet__Node *answer;
	assert_int_equal(
		question(*state, "Describe", &q.base, &cairn__fleet__node__descriptor, &answer),
		CAIRN_OK);
	assert_string_equal(answer->name, "here");
	assert_string_equal(answer->version, "1");
	assert_int_equal(strncmp(answer->platform, "linux/", 6), 0);
	assert_int_equal(answer->n_labels, 2);
	assert_string_equal(answer->labels[1]->key, "disk");
	assert_string_equal(answer->labels[1]->value, "ssd");
	cairn__fleet__node__free_unpacked(answer, NULL);
}

static void node__begins_a_job_once(void **state)
{
	Cairn__V1__PreheatRequest request;
	Cairn__Fleet__State q = CAIRN__FLEET__STATE__INIT;
	Cairn__Fleet__JobState *answer;
	static char id[] = JOB;
	q.job = id;
	one_reference(&request);
	assert_int_equal(
		question(*state, "State", &q.base, &cairn__fleet__job_state__descriptor, &answer),
		CAIRN_NOT_FOUND);
	for (int i = 0; i < 3; i++) assert_int_equal(begin(*state, JOB, &request), CAIRN_OK);
	assert_int_equal(count_jobs(*state), 1);
	assert_int_equal(
		question(*state, "State", &q.base, &cairn__fleet__job_state__descriptor, &answer),
		CAIRN_OK);
	assert_string_equal(answer->job->id, JOB);
	assert_string_equal(answer->job->images[0]->reference, "127.0.0.1:1/team/app:v1");
	cairn__fleet__job_state__free_unpacked(answer, NULL);
	assert_int_equal(begin(*state, "n-00000000000000ff", &request), CAIRN_OK);
	assert_int_equal(count_jobs(*state), 2);
}

/* Its coordinator may ask only after this node was started again: a job that was over has all its
 * blobs still. */
static void node__tells_of_a_job_that_was_over_before_its_restart(void **state)
{
	Cairn__V1__PreheatRequest request;
	struct cairn_preheat_job *job;
	struct cairn_platform platform;
	struct cairn_err err;
	(void)state;
	one_reference(&request);
	cairn_platform_node(&platform);
	assert_int_equal(cairn_preheat_job_new(&request, &platform, &job, &err), CAIRN_OK);
	Cairn__V1__Job *stored = cairn_preheat_job_message(job);
	stored->state = CAIRN__V1__JOB_STATE__SUCCEEDED;
	stored->blobs_total = stored->blobs_done = 5;
	cairn_preheat_job_restore(job, stored);
	Cairn__V1__Job *told = cairn_preheat_job_message(job);
	assert_int_equal(told->blobs_total, 5);
	assert_int_equal(told->blobs_done, 5);
	cairn__v1__job__free_unpacked(told, NULL);
	cairn__v1__job__free_unpacked(stored, NULL);
	cairn_preheat_job_unref(job);
}

/* The answer to a question that was delayed must not bring back what was cancelled. */
static void node__does_not_begin_what_was_cancelled(void **state)
{
	Cairn__V1__PreheatRequest request;
	one_reference(&request);
	assert_int_equal(cancel(*state, JOB), CAIRN_OK);
	assert_int_equal(begin(*state, JOB, &request), CAIRN_CANCELLED);
	assert_int_equal(count_jobs(*state), 0);
	assert_int_equal(begin(*state, "n-00000000000000ff", &request), CAIRN_OK);
	assert_int_equal(cancel(*state, "n-00000000000000ff"), CAIRN_OK);
	assert_int_equal(begin(*state, "n-00000000000000ff", &request),
			 CAIRN_OK); /* tells how it is */
	assert_int_equal(count_jobs(*state), 1);
}

/* Others reach nothing but their own jobs, and no file outside of the jobs' folder. */
static void node__refuses_what_is_not_for_it(void **state)
{
	struct world *w = *state;
	Cairn__V1__PreheatRequest request;
	Cairn__V1__Login login = CAIRN__V1__LOGIN__INIT;
	Cairn__V1__Fleet fleet = CAIRN__V1__FLEET__INIT;
	struct cairn_preheat_job *own = NULL;
	static const char *const ids[] = {"",
					  "../../../etc/pass",
					  "p-0123456789abcdef",
					  "n-0123456789ABCDEF",
					  "n-0123456789abcde",
					  "n-0123456789abcdef0",
					  "n-01234567/9abcdef"};
	one_reference(&request);
	for (size_t i = 0; i < CAIRN_LEN(ids); i++) {
		assert_int_equal(begin(w, ids[i], &request), CAIRN_INVALID_ARGUMENT);
		assert_int_equal(cancel(w, ids[i]), CAIRN_INVALID_ARGUMENT);
	}
	assert_int_equal(begin(w, JOB, NULL), CAIRN_INVALID_ARGUMENT);
	request.login = &login;
	assert_int_equal(begin(w, JOB, &request), CAIRN_INVALID_ARGUMENT);
	request.login = NULL;
	request.fleet = &fleet; /* nor does it ask others in its turn */
	assert_int_equal(begin(w, JOB, &request), CAIRN_INVALID_ARGUMENT);
	request.fleet = NULL;
	request.n_references = 0;
	assert_int_equal(begin(w, JOB, &request), CAIRN_INVALID_ARGUMENT);
	assert_int_equal(count_jobs(w), 0);
	one_reference(&request);
	OK(cairn_preheat_submit(w->preheat, &request, &own, &node_err));
	assert_int_equal(cancel(w, own->id), CAIRN_INVALID_ARGUMENT);
	cairn_preheat_job_unref(own);
	assert_int_equal(question(w, "Reboot", &request.base, NULL, NULL), CAIRN_UNIMPLEMENTED);
	uint8_t *answer = NULL;
	size_t n = 0;
	assert_int_equal(cairn_fleet_node_answer(w->node, "peer", "Begin",
						 (const uint8_t *)"\xff\xff\xff", 3, &answer, &n,
						 &node_err),
			 CAIRN_INVALID_ARGUMENT);
}

/* ---- versions and prune ---- */

static void see(struct world *w, const char *name, const char *content)
{
	struct cairn_digest root;
	const char *text = digest_text(content, strlen(content));
	OK(cairn_digest_parse(text, strlen(text), &root, &node_err));
	OK(cairn_cache_see_version(w->g->n->cache, name, &root, NULL, &node_err));
}

static void node__tells_and_prunes_versions(void **state)
{
	struct world *w = *state;
	static char name[] = "r.example/team/app:v1", other[] = "r.example/team/none:v1";
	Cairn__V1__ListVersionsRequest q = CAIRN__V1__LIST_VERSIONS_REQUEST__INIT;
	Cairn__V1__ListVersionsResponse *answer;
	Cairn__V1__PruneRequest p = CAIRN__V1__PRUNE_REQUEST__INIT;
	Cairn__V1__NodePruned *pruned;
	see(w, name, "one");
	see(w, name, "two");
	see(w, "r.example/team/app:v2", "three");
	q.name = name;
	assert_int_equal(question(w, "Versions", &q.base,
				  &cairn__v1__list_versions_response__descriptor, &answer),
			 CAIRN_OK);
	assert_int_equal(answer->n_versions, 2);
	assert_string_equal(answer->versions[0]->name, name);
	assert_false(answer->versions[0]->complete);
	cairn__v1__list_versions_response__free_unpacked(answer, NULL);
	p.name = name;
	p.keep = 1001;
	assert_int_equal(question(w, "Prune", &p.base, NULL, NULL), CAIRN_INVALID_ARGUMENT);
	p.keep = 1;
	p.name = other;
	assert_int_equal(question(w, "Prune", &p.base, NULL, NULL), CAIRN_NOT_FOUND);
	p.name = name;
	assert_int_equal(
		question(w, "Prune", &p.base, &cairn__v1__node_pruned__descriptor, &pruned),
		CAIRN_OK);
	assert_int_equal(pruned->versions_dropped, 1);
	cairn__v1__node_pruned__free_unpacked(pruned, NULL);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(node__says_who_it_is),
		CASE(node__begins_a_job_once),
		CASE(node__tells_of_a_job_that_was_over_before_its_restart),
		CASE(node__does_not_begin_what_was_cancelled),
		CASE(node__refuses_what_is_not_for_it),
		CASE(node__tells_and_prunes_versions),
	};
	return cmocka_run_group_tests_name("plugin/fleet_node", tests, NULL, NULL);
}
