/* Preheat jobs where a whole world does not reach: patience that ends, the bounds of a job, queue
 * and history, and a state_dir that cannot be written. */
#include "support/gc_node.h"
#include "support/http_server.h"

#include <fcntl.h>

#include "oci/registry.h"
#include "plugin/preheat.h"
#include "plugin/preheat_store.h"
#include "support/fake_swarm.h"

#define STALL_MS 400 /* of the client */
#define LONGER_MS                                                                                  \
	(STALL_MS + 100) /* of the server, which has one thread: the next request waits            \
			  */
#define CONFIG "{\"architecture\":\"amd64\",\"os\":\"linux\"}"

typedef Cairn__V1__JobState job_state;

struct world {
	struct gc_node *g;
	struct http_server *http;
	struct cairn_registry *registry;
	struct cairn_fills *fills;
	struct cairn_preheat *preheat;
	struct cairn_swarm *swarm; /* NULL: none */
	struct cairn_share *share; /* NULL: everything */
	unsigned peers_have;	   /* bit i: blob i of digests */
	char host[32], name[64], manifest[1024], digests[3][CAIRN_DIGEST_STR], head[256];
	uint8_t layer[3000];
};

/* A linux/amd64 image of one layer, so that requests come one after the other. */
static void make_image(struct world *w)
{
	fill_bytes(w->layer, sizeof(w->layer), 3);
	snprintf(w->manifest, sizeof(w->manifest),
		 "{\"schemaVersion\":2,"
		 "\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\","
		 "\"config\":{\"digest\":\"%s\",\"size\":%zu},"
		 "\"layers\":[{\"digest\":\"%s\",\"size\":%zu}]}",
		 digest_text(CONFIG, strlen(CONFIG)), strlen(CONFIG),
		 digest_text(w->layer, sizeof(w->layer)), sizeof(w->layer));
	strcpy(w->digests[0], digest_text(w->manifest, strlen(w->manifest)));
	strcpy(w->digests[1], digest_text(CONFIG, strlen(CONFIG)));
	strcpy(w->digests[2], digest_text(w->layer, sizeof(w->layer)));
	snprintf(w->head, sizeof(w->head), "Docker-Content-Digest: %s\r\n", w->digests[0]);
}

static void start(struct world *w)
{
	const struct cairn_preheat_opts opts = {.cache = w->g->n->cache,
						.fills = w->fills,
						.gc = w->g->gc,
						.registry = w->registry,
						.swarm = w->swarm,
						.share = w->share,
						.stall_ms = 60000,
						.clock = &w->g->n->clock,
						.state_dir = w->g->n->dir};
	OK(cairn_preheat_start(&opts, &w->preheat, &node_err));
}

static void stop(struct world *w)
{
	cairn_preheat_stop(cairn_steal(&w->preheat));
}

static void open_registry(struct world *w, int64_t stall_ms)
{
	const struct cairn_registry_host host = {.host = w->host, .plain_http = true, .ca = ""};
	const struct cairn_registry_opts opts = {.docker_config = "",
						 .hosts = &host,
						 .n_hosts = 1,
						 .stall_ms = stall_ms,
						 .retry_ms = 1,
						 .tries = 2};
	cairn_registry_free(w->registry);
	OK(cairn_registry_new(&opts, &w->registry, &node_err));
}

static int set_up(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	void *g = NULL;
	gc_setup(&g);
	w->g = g;
	start_view(w->g, false);
	gc_start(w->g);
	w->http = http_server_start();
	snprintf(w->host, sizeof(w->host), "127.0.0.1:%d", w->http->port);
	snprintf(w->name, sizeof(w->name), "%s/team/app:v1", w->host);
	open_registry(w, STALL_MS);
	w->fills = cairn_fills_new(w->g->n->cache);
	make_image(w);
	*state = w;
	return 0;
}

static int tear_down(void **state)
{
	struct world *w = *state;
	void *g = w->g;
	stop(w);
	cairn_registry_free(w->registry);
	cairn_fills_free(w->fills);
	cairn_share_free(w->share);
	fake_swarm_free(w->swarm);
	http_server_stop(w->http);
	gc_teardown(&g);
	free(w);
	return 0;
}

static void answer(struct world *w, const void *body, size_t n)
{
	http_server_then(w->http, (struct http_step){.body = body, .len = n});
}

/* Name, manifest and config, as they should be. */
static void answer_plan(struct world *w)
{
	http_server_then(w->http, (struct http_step){.headers = w->head, .body = w->manifest});
	answer(w, w->manifest, strlen(w->manifest));
	answer(w, CONFIG, strlen(CONFIG));
}

/* ---- jobs ---- */

static enum cairn_code submit_n(struct world *w, const char *name, size_t n, int priority,
				struct cairn_preheat_job **ret)
{
	Cairn__V1__PreheatRequest request = CAIRN__V1__PREHEAT_REQUEST__INIT;
	char *platform = (char *)(uintptr_t) "linux/amd64";
	char **names = calloc(n + 1, sizeof(char *));
	for (size_t i = 0; i < n; i++) names[i] = (char *)(uintptr_t)name;
	request.references = names;
	request.n_references = n;
	request.platforms = &platform;
	request.n_platforms = 1;
	request.priority = priority;
	enum cairn_code rc = cairn_preheat_submit(w->preheat, &request, ret, &node_err);
	free(names);
	return rc;
}

static struct cairn_preheat_job *submit(struct world *w)
{
	struct cairn_preheat_job *job = NULL;
	OK(submit_n(w, w->name, 1, 0, &job));
	return job;
}

static Cairn__V1__Job *wait_for_end(struct cairn_preheat_job *job)
{
	UNTIL(cairn_preheat_job_is_over(job));
	return cairn_preheat_job_message(job);
}

static void expect_end(struct cairn_preheat_job *job, job_state want, const char *says)
{
	Cairn__V1__Job *msg = wait_for_end(job);
	if (msg->state != want || strstr(msg->images[0]->error, says) == NULL) {
		fail_msg("state %d, want %d; \"%s\", want \"%s\"", msg->state, want,
			 msg->images[0]->error, says);
	}
	assert_true(msg->ended_at != NULL);
	cairn__v1__job__free_unpacked(msg, NULL);
	cairn_preheat_job_unref(job);
}

static bool is_held(struct world *w, size_t i)
{
	struct cairn_digest digest;
	struct cairn_blob_info info;
	OK(cairn_digest_parse(w->digests[i], strlen(w->digests[i]), &digest, &node_err));
	if (cairn_cache_info(w->g->n->cache, &digest, &info, &node_err) != CAIRN_OK) return false;
	cairn_blob_info_fini(&info);
	return true;
}

/* ---- what a registry does ---- */

static void job__gets_all_of_an_image(void **state)
{
	struct world *w = *state;
	start(w);
	answer_plan(w);
	answer(w, w->layer, sizeof(w->layer));
	struct cairn_preheat_job *job = submit(w);
	Cairn__V1__Job *msg = wait_for_end(job);
	assert_int_equal(msg->state, CAIRN__V1__JOB_STATE__SUCCEEDED);
	assert_int_equal(msg->blobs_done, 3);
	assert_int_equal(msg->bytes_fetched, msg->bytes_total);
	assert_string_equal(msg->images[0]->digest, w->digests[0]);
	cairn__v1__job__free_unpacked(msg, NULL);
	cairn_preheat_job_unref(job);
	for (size_t i = 0; i < 3; i++) assert_true(is_held(w, i));
	assert_int_equal(http_server_requests(w->http), 4);
}

/* What came before the registry stood still is not asked for again. */
static void job__goes_on_after_a_stall(void **state)
{
	struct world *w = *state;
	start(w);
	answer_plan(w);
	http_server_then(w->http, (struct http_step){.body = w->layer,
						     .len = sizeof(w->layer),
						     .cut = 1000,
						     .stall_ms = LONGER_MS});
	http_server_then(w->http, (struct http_step){.status = 206,
						     .headers = "Content-Range: bytes "
								"1000-2999/3000\r\n",
						     .body = w->layer + 1000,
						     .len = 2000});
	expect_end(submit(w), CAIRN__V1__JOB_STATE__SUCCEEDED, "");
	assert_non_null(strcasestr(http_server_request(w->http, 4), "Range: bytes=1000-"));
}

static void job__fails_when_the_registry_stands_still(void **state)
{
	struct world *w = *state;
	start(w);
	answer_plan(w);
	for (int i = 0; i < 2; i++) {
		http_server_then(w->http, (struct http_step){.body = w->layer,
							     .len = sizeof(w->layer),
							     .slow_off = true,
							     .stall_ms = LONGER_MS});
	}
	expect_end(submit(w), CAIRN__V1__JOB_STATE__FAILED, "no byte came for");
	assert_int_equal(http_server_requests(w->http), 5);
	assert_true(is_held(w, 1));
	assert_false(is_held(w, 2));
}

static void job__gives_up_on_wrong_bytes(void **state)
{
	struct world *w = *state;
	start(w);
	answer_plan(w);
	w->layer[7] ^= 1;
	for (int i = 0; i < 3; i++) answer(w, w->layer, sizeof(w->layer));
	expect_end(submit(w), CAIRN__V1__JOB_STATE__FAILED, "have another digest");
	assert_int_equal(http_server_requests(w->http), 6);
	assert_false(is_held(w, 2));
}

/* ---- other nodes ---- */

/* Peers have some of the image; what they do not have is granted to us. */
static void peers_answer(void *arg, struct cairn_swarm *swarm, const struct cairn_digest *digest)
{
	struct world *w = arg;
	char text[CAIRN_DIGEST_STR];
	const void *bytes[] = {w->manifest, CONFIG, w->layer};
	const size_t sizes[] = {strlen(w->manifest), strlen(CONFIG), sizeof(w->layer)};
	size_t i = 0;
	cairn_digest_format(digest, text);
	while (i < 3 && strcmp(w->digests[i], text) != 0) i++;
	if (i == 3 || (w->peers_have >> i & 1) == 0) {
		fake_swarm_set(swarm, digest, CAIRN_WANT_GRANTED, 0);
		return;
	}
	struct cairn_ingest *ing = NULL;
	struct cairn_err err;
	const struct cairn_span span = {bytes[i], sizes[i]};
	const struct cairn_ingest_spec spec = {
		.ref = "arrives", .total = sizes[i], .want = *digest, .own = true};
	if (cairn_ingest_open(w->g->n->cache, &spec, &ing, &err) != CAIRN_OK ||
	    cairn_ingest_write(ing, 0, &span, 1, &err) != CAIRN_OK) {
		abort();
	}
	cairn_ingest_abort(ing);
	cairn_ingest_close(ing);
	fake_swarm_set(swarm, digest, CAIRN_WANT_HERE, sizes[i]);
}

static void start_with_peers(struct world *w, unsigned have)
{
	w->swarm = fake_swarm_new(CAIRN_WANT_ASKING);
	w->swarm->on_want = peers_answer;
	w->swarm->on_want_arg = w;
	w->peers_have = have;
	start(w);
	http_server_then(w->http, (struct http_step){.headers = w->head, .body = w->manifest});
}

static void peers__have_all_but_the_name(void **state)
{
	struct world *w = *state;
	start_with_peers(w, 7);
	Cairn__V1__Job *msg;
	struct cairn_preheat_job *job = submit(w);
	msg = wait_for_end(job);
	assert_string_equal(msg->images[0]->error, "");
	assert_int_equal(msg->state, CAIRN__V1__JOB_STATE__SUCCEEDED);
	assert_int_equal(msg->bytes_fetched, 0);
	assert_int_equal(msg->bytes_from_peers, msg->bytes_total);
	for (size_t i = 0; i < 3; i++) assert_string_equal(job->blobs[i].source, "peers");
	cairn__v1__job__free_unpacked(msg, NULL);
	cairn_preheat_job_unref(job);
	assert_int_equal(http_server_requests(w->http), 1);
	assert_int_equal(fake_swarm_open(w->swarm), 0);
	for (size_t i = 0; i < 3; i++) assert_true(is_held(w, i));
}

/* What a preheat gets, it knows from where. */
static void peers__may_have_what_the_name_allows(void **state)
{
	struct world *w = *state;
	char pattern[64];
	const char *const allow[] = {pattern};
	const struct cairn_share_opts opts = {.cache = w->g->n->cache,
					      .rpc = w->g->n->rpc,
					      .containerd = "",
					      .allow = allow,
					      .n_allow = 1};
	snprintf(pattern, sizeof(pattern), "%s/team/*", w->host);
	OK(cairn_share_new(&opts, &w->share, &node_err));
	start(w);
	answer_plan(w);
	answer(w, w->layer, sizeof(w->layer));
	expect_end(submit(w), CAIRN__V1__JOB_STATE__SUCCEEDED, "");
	for (size_t i = 0; i < 3; i++) {
		struct cairn_digest digest;
		OK(cairn_digest_parse(w->digests[i], strlen(w->digests[i]), &digest, &node_err));
		assert_true(cairn_share_may(w->share, &digest));
	}
}

static void peers__without_the_layer_leave_it_to_us(void **state)
{
	struct world *w = *state;
	start_with_peers(w, 3);
	answer(w, w->layer, sizeof(w->layer));
	struct cairn_preheat_job *job = submit(w);
	Cairn__V1__Job *msg = wait_for_end(job);
	assert_int_equal(msg->state, CAIRN__V1__JOB_STATE__SUCCEEDED);
	assert_int_equal(msg->bytes_fetched, sizeof(w->layer));
	assert_int_equal(msg->bytes_from_peers + msg->bytes_fetched, msg->bytes_total);
	cairn__v1__job__free_unpacked(msg, NULL);
	cairn_preheat_job_unref(job);
	assert_int_equal(fake_swarm_wanted(w->swarm), 3);
	assert_int_equal(fake_swarm_open(w->swarm), 0);
	assert_true(is_held(w, 2));
}

/* A swarm that fails is as none. */
static void peers__that_fail_are_done_without(void **state)
{
	struct world *w = *state;
	start_with_peers(w, 0);
	w->swarm->on_want = NULL;
	w->swarm->first = CAIRN_WANT_FAILED;
	answer(w, w->manifest, strlen(w->manifest));
	answer(w, CONFIG, strlen(CONFIG));
	answer(w, w->layer, sizeof(w->layer));
	expect_end(submit(w), CAIRN__V1__JOB_STATE__SUCCEEDED, "");
	assert_int_equal(fake_swarm_wanted(w->swarm), 3);
	assert_int_equal(fake_swarm_open(w->swarm), 0);
}

static void peers__are_let_go_by_a_cancelled_job(void **state)
{
	struct world *w = *state;
	start_with_peers(w, 0);
	w->swarm->on_want = NULL;
	w->swarm->first = CAIRN_WANT_WAITING;
	struct cairn_preheat_job *job = submit(w);
	UNTIL(fake_swarm_open(w->swarm) == 1);
	assert_true(cairn_preheat_cancel(w->preheat, job));
	UNTIL(cairn_preheat_job_is_over(job));
	assert_int_equal(fake_swarm_open(w->swarm), 0);
	cairn_preheat_job_unref(job);
}

/* ---- up and down ---- */

static void stop__leaves_a_job_for_the_next_start(void **state)
{
	struct world *w = *state;
	char id[CAIRN_JOB_ID];
	start(w);
	answer_plan(w);
	http_server_then(w->http, (struct http_step){.wait_ms = 50, .status = 503});
	struct cairn_preheat_job *job = submit(w);
	strcpy(id, job->id);
	UNTIL(http_server_requests(w->http) >= 4);
	cairn_preheat_cancel_all(w->preheat);
	Cairn__V1__PreheatRequest request = CAIRN__V1__PREHEAT_REQUEST__INIT;
	struct cairn_preheat_job *late = NULL;
	assert_int_equal(cairn_preheat_submit(w->preheat, &request, &late, &node_err),
			 CAIRN_UNAVAILABLE);
	stop(w);
	assert_false(cairn_preheat_job_is_over(job));
	cairn_preheat_job_unref(job);
	/* The name, and the layer: the rest is here. */
	http_server_then(w->http, (struct http_step){.headers = w->head, .body = w->manifest});
	answer(w, w->layer, sizeof(w->layer));
	start(w);
	job = cairn_preheat_find(w->preheat, id);
	assert_non_null(job);
	expect_end(job, CAIRN__V1__JOB_STATE__SUCCEEDED, "");
	assert_int_equal(http_server_requests(w->http), 6);
}

static void submit__fails_when_it_cannot_be_written(void **state)
{
	struct world *w = *state;
	char path[128], beside[140];
	struct cairn_preheat_job *job = NULL, **list = NULL;
	start(w);
	snprintf(path, sizeof(path), "%s/jobs", w->g->n->dir);
	snprintf(beside, sizeof(beside), "%s/.new", path);
	assert_int_equal(mkdir(beside, 0700), 0); /* in the way, for root, too */
	assert_int_not_equal(submit_n(w, w->name, 1, 0, &job), CAIRN_OK);
	assert_non_null(strstr(node_err.msg, path));
	assert_int_equal(cairn_preheat_list(w->preheat, &list), 0);
	free(list);
	assert_int_equal(rmdir(beside), 0);
	assert_int_equal(http_server_requests(w->http), 0);
}

/* ---- the queue ---- */

static size_t count_jobs(struct world *w)
{
	struct cairn_preheat_job **list = NULL;
	size_t n = cairn_preheat_list(w->preheat, &list);
	for (size_t i = 0; i < n; i++) cairn_preheat_job_unref(list[i]);
	free(list);
	return n;
}

static void queue__is_bounded(void **state)
{
	struct world *w = *state;
	struct cairn_preheat_job *job = NULL, **list = NULL, *first = NULL;
	open_registry(w, 60000);
	start(w);
	for (int i = 0; i < CAIRN_PREHEAT_RUNNING_MAX; i++) { /* those that run wait for this */
		http_server_then(w->http, (struct http_step){.wait_ms = 20000});
	}
	for (int i = 0; i < CAIRN_PREHEAT_WAITING_MAX; i++) {
		OK(submit_n(w, w->name, 1, 0, &job));
		if (i == 0) first = job;
		if (i > 0) cairn_preheat_job_unref(job);
	}
	assert_int_equal(submit_n(w, w->name, 1, 0, &job), CAIRN_RESOURCE_EXHAUSTED);
	assert_non_null(strstr(node_err.msg, "1000 jobs wait already"));
	size_t n = cairn_preheat_list(w->preheat, &list);
	assert_int_equal(n, CAIRN_PREHEAT_WAITING_MAX);
	for (size_t i = 0; i < n; i++) {
		if (list[i] != first) assert_true(cairn_preheat_cancel(w->preheat, list[i]));
		cairn_preheat_job_unref(list[i]);
	}
	free(list);
	assert_true(cairn_preheat_cancel(w->preheat, first));
	UNTIL(cairn_preheat_job_is_over(first));
	assert_false(cairn_preheat_cancel(w->preheat, first));
	cairn_preheat_job_unref(first);
	UNTIL(count_jobs(w) <= CAIRN_PREHEAT_HISTORY_MAX);
	OK(submit_n(w, w->name, 1, 0, &job));
	cairn_preheat_cancel(w->preheat, job);
	cairn_preheat_job_unref(job);
}

/* ---- one job ---- */

static struct cairn_preheat_job *job_of(const char *name, size_t n)
{
	static const struct cairn_platform node = {.os = "linux", .arch = "amd64"};
	Cairn__V1__PreheatRequest request = CAIRN__V1__PREHEAT_REQUEST__INIT;
	Cairn__V1__Login login = CAIRN__V1__LOGIN__INIT;
	struct cairn_preheat_job *job = NULL;
	char **names = calloc(n, sizeof(char *)), user[] = "ci", password[] = "Told-Nobody-1";
	for (size_t i = 0; i < n; i++) names[i] = (char *)(uintptr_t)name;
	login.username = user;
	login.password = password;
	request.references = names;
	request.n_references = n;
	request.login = &login;
	OK(cairn_preheat_job_new(&request, &node, &job, &node_err));
	free(names);
	return job;
}

static struct cairn_digest digest_no(uint32_t i)
{
	return digest_of(&i, sizeof(i), CAIRN_SHA256);
}

static void job__counts_each_blob_once(void **state)
{
	(void)state;
	struct cairn_preheat_job *job = job_of("reg.example/app:v1", 2);
	for (uint32_t i = 0; i < CAIRN_JOB_BLOBS_MAX; i++) {
		struct cairn_digest digest = digest_no(i);
		if (cairn_preheat_job_need(job, 0, &digest, 10) != i) fail_msg("blob %u", i);
	}
	struct cairn_digest more = digest_no(CAIRN_JOB_BLOBS_MAX);
	assert_int_equal(cairn_preheat_job_need(job, 1, &more, 10), SIZE_MAX);
	assert_int_equal(job->n_blobs, CAIRN_JOB_BLOBS_MAX);
	assert_int_equal(job->bytes_total, UINT64_C(10) * CAIRN_JOB_BLOBS_MAX);
	assert_int_equal(job->images[1].n_blobs, 0);
	cairn_preheat_job_unref(job);
}

static void job__is_judged_by_its_images(void **state)
{
	(void)state;
	static const struct {
		bool first, second, cancelled;
		job_state want;
	} cases[] = {
		{true, true, false, CAIRN__V1__JOB_STATE__SUCCEEDED},
		{true, true, true, CAIRN__V1__JOB_STATE__SUCCEEDED}, /* too late */
		{true, false, false, CAIRN__V1__JOB_STATE__PARTIAL},
		{false, false, false, CAIRN__V1__JOB_STATE__FAILED},
		{true, false, true, CAIRN__V1__JOB_STATE__CANCELLED},
	};
	const struct cairn_err why = {CAIRN_NOT_FOUND, "it is nowhere"};
	for (size_t i = 0; i < CAIRN_LEN(cases); i++) {
		struct cairn_preheat_job *job = job_of("reg.example/app:v1", 2);
		const bool good[] = {cases[i].first, cases[i].second};
		for (uint32_t k = 0; k < 2; k++) {
			struct cairn_digest digest = digest_no(k);
			size_t at = cairn_preheat_job_need(job, k, &digest, 10);
			cairn_preheat_job_image(job, k, CAIRN__V1__JOB_STATE__RUNNING, &digest,
						NULL);
			cairn_preheat_job_blob(job, at,
					       good[k] ? CAIRN__V1__JOB_STATE__SUCCEEDED
						       : CAIRN__V1__JOB_STATE__FAILED,
					       good[k] ? 10 : 0, 0, "registry",
					       good[k] ? NULL : &why);
		}
		job->cancelled = cases[i].cancelled;
		cairn_preheat_job_judge(job, SECOND);
		assert_int_equal(job->state, cases[i].want);
		assert_int_equal(job->bytes_done, 10 * (good[0] + good[1]));
		if (!good[1]) assert_non_null(strstr(job->images[1].error, "it is nowhere"));
		cairn_preheat_job_unref(job);
	}
}

/* The file has everything but the login. */
static void store__keeps_a_job_and_no_secret(void **state)
{
	struct world *w = *state;
	struct cairn_preheat_store store;
	char path[160], data[4096];
	struct cairn_preheat_job *job = job_of("reg.example/app:v1", 1);
	OK(cairn_preheat_store_open(&store, w->g->n->dir, &node_err));
	OK(cairn_preheat_store_put(&store, job, &node_err));
	snprintf(path, sizeof(path), "%s/jobs/%s", w->g->n->dir, job->id);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = read(fd, data, sizeof(data));
	close(fd);
	assert_in_range(n, 20, sizeof(data) - 1);
	assert_non_null(memmem(data, (size_t)n, "reg.example/app:v1", 18));
	assert_null(memmem(data, (size_t)n, "Told-Nobody", 11));
	assert_non_null(job->request->login);
	cairn_preheat_job_wipe(job->request);
	assert_null(job->request->login);
	cairn_preheat_store_drop(&store, job->id);
	assert_int_not_equal(access(path, F_OK), 0);
	cairn_preheat_store_close(&store);
	cairn_preheat_job_unref(job);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(job__gets_all_of_an_image),
		CASE(job__goes_on_after_a_stall),
		CASE(job__fails_when_the_registry_stands_still),
		CASE(job__gives_up_on_wrong_bytes),
		CASE(peers__have_all_but_the_name),
		CASE(peers__may_have_what_the_name_allows),
		CASE(peers__without_the_layer_leave_it_to_us),
		CASE(peers__that_fail_are_done_without),
		CASE(peers__are_let_go_by_a_cancelled_job),
		CASE(stop__leaves_a_job_for_the_next_start),
		CASE(submit__fails_when_it_cannot_be_written),
		CASE(queue__is_bounded),
		CASE(store__keeps_a_job_and_no_secret),
		cmocka_unit_test(job__counts_each_blob_once),
		cmocka_unit_test(job__is_judged_by_its_images),
	};
	return cmocka_run_group_tests_name("plugin/preheat", tests, NULL, NULL);
}
