/* cairn.v1.Cairn: CollectGarbage, Prune, Pin, Unpin, ListVersions, and what Explain, Status and
 * ListBlobs say of garbage collection. */
#include "plugin/cairn_service.h"
#include "support/gc_node.h"

static int set_up(void **state)
{
	if (gc_setup(state) != 0) return -1;
	struct gc_node *g = *state;
	start_view(g, true);
	wait_for_listing(g);
	gc_start(g);
	serve_admin(g);
	return 0;
}

/* ---- calls ---- */

static struct decisions found;

static void collect(struct gc_node *g, bool dry_run, bool all)
{
	Cairn__V1__CollectGarbageRequest req = CAIRN__V1__COLLECT_GARBAGE_REQUEST__INIT;
	req.dry_run = dry_run;
	req.all = all;
	found = (struct decisions){0};
	OK(stream(g, CAIRN("CollectGarbage"), &req.base,
		  &cairn__v1__collect_garbage_response__descriptor, take_decisions, &found));
	assert_int_equal(found.summaries, 1);
	assert_int_equal(found.messages_after, 0);
	assert_int_equal(found.evicted_blobs, found.n_evicted);
	assert_int_equal(found.dry_run, dry_run);
}

static enum cairn_code prune(struct gc_node *g, const char *name, int64_t keep, bool dry_run)
{
	Cairn__V1__PruneRequest req = CAIRN__V1__PRUNE_REQUEST__INIT;
	req.name = (char *)(uintptr_t)name;
	req.keep = keep;
	req.dry_run = dry_run;
	found = (struct decisions){0};
	return stream(g, CAIRN("Prune"), &req.base,
		      &cairn__v1__collect_garbage_response__descriptor, take_decisions, &found);
}

static enum cairn_code pin(struct gc_node *g, const char *target, int64_t seconds,
			   char ret[static 200], int64_t *blobs, int64_t *size)
{
	Cairn__V1__PinRequest req = CAIRN__V1__PIN_REQUEST__INIT;
	Cairn__V1__PinResponse *resp;
	req.target = (char *)(uintptr_t)target;
	req.for_seconds = seconds;
	enum cairn_code rc =
		ask_admin(g, CAIRN("Pin"), &req.base, &cairn__v1__pin_response__descriptor, &resp);
	if (rc) return rc;
	snprintf(ret, 200, "%s", resp->target);
	*blobs = resp->blobs;
	*size = resp->bytes;
	cairn__v1__pin_response__free_unpacked(resp, NULL);
	return CAIRN_OK;
}

static enum cairn_code unpin(struct gc_node *g, const char *target, bool *was)
{
	Cairn__V1__UnpinRequest req = CAIRN__V1__UNPIN_REQUEST__INIT;
	Cairn__V1__UnpinResponse *resp;
	req.target = (char *)(uintptr_t)target;
	enum cairn_code rc = ask_admin(g, CAIRN("Unpin"), &req.base,
				       &cairn__v1__unpin_response__descriptor, &resp);
	if (rc) return rc;
	*was = resp->was_pinned;
	cairn__v1__unpin_response__free_unpacked(resp, NULL);
	return CAIRN_OK;
}

static void see(struct gc_node *g, const char *name, const struct node_image *im)
{
	OK(cairn_cache_see_version(g->n->cache, name, &im->root, NULL, &node_err));
	g->n->skew_ns += SECOND;
}

/* ---- CollectGarbage ---- */

static void collect__dry_run_tells_and_does_nothing(void **state)
{
	struct gc_node *g = *state;
	struct node_image im, young;
	pull_image(g, &im, 1);
	g->n->skew_ns += KEEP;
	pull_image(g, &young, 2);
	collect(g, true, false);
	assert_int_equal(found.n, 3);
	assert_int_equal(found.n_evicted, 3);
	assert_string_equal(found.list[0].why, "ttl");
	assert_in_range(found.list[0].idle, 100, 200);
	assert_string_equal(found.trigger, "request");
	assert_true(found.sure && found.relieved);
	assert_int_equal(found.evicted_bytes, size_of(&im));
	assert_int_equal(found.kept_blobs, 3);
	assert_int_equal(found.kept_bytes, size_of(&young));
	assert_true(is_here(g, &im));
	assert_int_equal(gc_status(g).passes, 0);
	collect(g, true, true);
	assert_int_equal(found.n, 6);
	assert_int_equal(found.n_evicted, 3);
	for (size_t i = 0; i < 6; i++) { /* what goes first; the rest by digest */
		assert_int_equal(found.list[i].evict, i < 3);
		assert_string_equal(found.list[i].why, i < 3 ? "ttl" : "young");
		if (i > 3) assert_true(strcmp(found.list[i - 1].digest, found.list[i].digest) < 0);
	}
}

static void collect__evicts(void **state)
{
	struct gc_node *g = *state;
	struct node_image im;
	pull_image(g, &im, 1);
	g->n->skew_ns += KEEP;
	collect(g, false, false);
	assert_int_equal(found.n, 3);
	assert_int_equal(found.evicted_bytes, size_of(&im));
	assert_false(is_here(g, &im));
	assert_int_equal(gc_status(g).passes, 1);
	collect(g, false, true);
	assert_int_equal(found.n, 0);
}

static void collect__names_who_claims_what(void **state)
{
	struct gc_node *g = *state;
	struct node_image im;
	pull_image(g, &im, 1);
	fake_image(&g->fake, "k8s.io", APP, im.root_text);
	collect(g, false, true);
	assert_int_equal(found.n, 3);
	for (size_t i = 0; i < 3; i++) {
		assert_string_equal(found.list[i].why, "image");
		assert_string_equal(found.list[i].what, APP);
	}
	assert_int_equal(found.n_kept, 1);
}

/* More than fit into one message. */
static void collect__answers_at_any_length(void **state)
{
	struct gc_node *g = *state;
	for (unsigned i = 0; i < 250; i++) put(g->n, i);
	collect(g, true, true);
	assert_int_equal(found.n, 250);
	for (size_t i = 1; i < 250; i++) {
		assert_true(strcmp(found.list[i - 1].digest, found.list[i].digest) < 0);
		assert_string_equal(found.list[i].why, "referenced");
		assert_int_equal(found.list[i].size, 100);
	}
	assert_int_equal(found.kept_bytes, 25000);
}

/* One runs, one waits; what more would be asked for is told so. */
static void collect__at_most_two_at_once(void **state)
{
	struct gc_node *g = *state;
	struct cairn_call *calls[CAIRN_GC_CALLS_MAX];
	struct cairn_msg *msg;
	Cairn__V1__CollectGarbageRequest req = CAIRN__V1__COLLECT_GARBAGE_REQUEST__INIT;
	g->fake.hang = ASK_NAMESPACES;
	for (int i = 0; i < CAIRN_GC_CALLS_MAX; i++) {
		OK(cairn_channel_open(g->channel, CAIRN("CollectGarbage"), NULL, 0, 20000,
				      &calls[i], &node_err));
		OK(cairn_call_send(calls[i], &req.base, &node_err));
		OK(cairn_call_half_close(calls[i], &node_err));
	}
	UNTIL(g->admin.collecting == CAIRN_GC_CALLS_MAX);
	found = (struct decisions){0};
	expect_error(stream(g, CAIRN("CollectGarbage"), &req.base,
			    &cairn__v1__collect_garbage_response__descriptor, take_decisions,
			    &found),
		     CAIRN_RESOURCE_EXHAUSTED, "2 garbage collections were asked for already");
	g->fake.hang = ASK_NONE;
	for (int i = 0; i < CAIRN_GC_CALLS_MAX; i++) {
		while (cairn_call_recv(calls[i], &msg) == CAIRN_RECV_MSG) cairn_msg_free(msg);
		OK(cairn_call_finish(calls[i], &node_err));
	}
	collect(g, true, true);
}

/* ---- Prune ---- */

static void prune__drops_old_versions(void **state)
{
	struct gc_node *g = *state;
	struct node_image old, new;
	pull_image(g, &old, 1);
	pull_image(g, &new, 2);
	see(g, APP, &old);
	see(g, APP, &new);
	OK(prune(g, APP, 1, true));
	assert_int_equal(found.n_evicted, 3);
	assert_true(is_here(g, &old));
	OK(prune(g, APP, 1, false));
	assert_int_equal(found.n, 3);
	assert_string_equal(found.list[0].why, "prune");
	assert_string_equal(found.list[0].what, APP);
	assert_int_equal(found.versions_dropped, 1);
	assert_false(is_here(g, &old));
	assert_true(is_here(g, &new));
	OK(prune(g, APP, 0, false));
	assert_false(is_here(g, &new));
	expect_error(prune(g, APP, 0, false), CAIRN_NOT_FOUND,
		     "no version of reg.example/app:v1 is known");
}

static void prune__finds_names_as_people_write_them(void **state)
{
	struct gc_node *g = *state;
	struct node_image im;
	pull_image(g, &im, 1);
	see(g, "docker.io/library/busybox:latest", &im);
	OK(prune(g, "busybox", 1, true));
	expect_error(prune(g, "busybox:2", 1, true), CAIRN_NOT_FOUND,
		     "no version of docker.io/library/busybox:2 is known");
}

static void prune__refuses_nonsense(void **state)
{
	struct gc_node *g = *state;
	struct node_image im;
	char *long_name = calloc(1, 3000);
	memset(long_name, 'a', 2999);
	pull_image(g, &im, 1);
	see(g, APP, &im);
	expect_error(prune(g, APP, -1, true), CAIRN_INVALID_ARGUMENT,
		     "keep is -1; allowed: 0 to 1000");
	expect_error(prune(g, APP, 1001, true), CAIRN_INVALID_ARGUMENT,
		     "keep is 1001; allowed: 0 to 1000");
	OK(prune(g, APP, 1000, true));
	expect_error(prune(g, im.root_text, 1, true), CAIRN_INVALID_ARGUMENT, "digest");
	expect_error(prune(g, "", 1, true), CAIRN_INVALID_ARGUMENT, "");
	expect_error(prune(g, "UPPER CASE", 1, true), CAIRN_INVALID_ARGUMENT, "");
	expect_error(prune(g, long_name, 1, true), CAIRN_INVALID_ARGUMENT, "");
	expect_error(prune(g, "reg.example/other:v1", 1, true), CAIRN_NOT_FOUND,
		     "no version of reg.example/other:v1 is known");
	free(long_name);
}

/* ---- Pin, Unpin ---- */

static void pin__keeps_a_digest_and_a_name(void **state)
{
	struct gc_node *g = *state;
	struct node_image im, other;
	char target[200], both[200];
	int64_t blobs, size;
	bool was;
	pull_image(g, &im, 1);
	pull_image(g, &other, 2);
	see(g, "docker.io/library/busybox:latest", &other);
	OK(pin(g, im.root_text, 0, target, &blobs, &size));
	assert_string_equal(target, im.root_text);
	assert_int_equal(blobs, 3);
	assert_int_equal(size, size_of(&im));
	OK(pin(g, "busybox", 1000000, target, &blobs, &size));
	assert_string_equal(target, "docker.io/library/busybox:latest");
	assert_int_equal(blobs, 3);
	g->n->skew_ns += KEEP;
	collect(g, false, true);
	assert_int_equal(found.n_evicted, 0);
	for (size_t i = 0; i < found.n; i++) assert_string_equal(found.list[i].why, "pin");
	assert_int_equal(gc_status(g).pins, 2);
	snprintf(both, sizeof(both), "reg.example/x:v@%s", im.root_text);
	OK(pin(g, both, 0, target, &blobs, &size)); /* the same one again */
	assert_string_equal(target, im.root_text);
	assert_int_equal(gc_status(g).pins, 2);
	OK(unpin(g, both, &was));
	assert_true(was);
	OK(unpin(g, im.root_text, &was));
	assert_false(was);
	OK(unpin(g, "docker.io/busybox", &was));
	assert_true(was);
	assert_int_equal(gc_status(g).pins, 0);
}

static void pin__of_an_image_id_keeps_the_image(void **state)
{
	struct gc_node *g = *state;
	struct node_image im;
	char id[CAIRN_DIGEST_STR], target[200];
	int64_t blobs, size;
	pull_image(g, &im, 1);
	see(g, cairn_digest_format(&im.about, id), &im);
	OK(pin(g, id, 0, target, &blobs, &size));
	assert_string_equal(target, id);
	assert_int_equal(blobs, 3);
	assert_int_equal(size, size_of(&im));
}

static void pin__of_what_is_not_here_waits_for_it(void **state)
{
	struct gc_node *g = *state;
	char target[200];
	int64_t blobs, size;
	OK(pin(g, "app:v1", 5, target, &blobs, &size));
	assert_string_equal(target, "docker.io/library/app:v1");
	assert_int_equal(blobs, 0);
	assert_int_equal(size, 0);
	assert_int_equal(gc_status(g).pins, 1);
	g->n->skew_ns += 5 * SECOND;
	assert_int_equal(gc_status(g).pins, 0);
}

static void pin__refuses_nonsense(void **state)
{
	struct gc_node *g = *state;
	char target[200], text[64], words[128], *long_name = calloc(1, 3000);
	int64_t blobs, size;
	bool was;
	memset(long_name, 'a', 2999);
	snprintf(words, sizeof(words), "for_seconds is -1; allowed: 0 (for ever) to %lld",
		 (long long)CAIRN_PIN_SECONDS_MAX);
	expect_error(pin(g, APP, -1, target, &blobs, &size), CAIRN_INVALID_ARGUMENT, words);
	snprintf(text, sizeof(text), "for_seconds is %lld; allowed: 0 (for ever) to",
		 (long long)CAIRN_PIN_SECONDS_MAX + 1);
	expect_error(pin(g, APP, CAIRN_PIN_SECONDS_MAX + 1, target, &blobs, &size),
		     CAIRN_INVALID_ARGUMENT, text);
	expect_error(pin(g, APP, INT64_MAX, target, &blobs, &size), CAIRN_INVALID_ARGUMENT,
		     "for_seconds is 9223372036854775807; allowed");
	OK(pin(g, APP, CAIRN_PIN_SECONDS_MAX, target, &blobs, &size));
	const char *const bad[] = {"UPPER CASE", "a//b",    "sha256:0123",
				   "sha512:00",	 "sha256:", long_name};
	for (size_t i = 0; i < CAIRN_LEN(bad); i++) {
		expect_error(pin(g, bad[i], 0, target, &blobs, &size), CAIRN_INVALID_ARGUMENT, "");
		expect_error(unpin(g, bad[i], &was), CAIRN_INVALID_ARGUMENT, "");
	}
	expect_error(pin(g, "sha256:0123", 0, target, &blobs, &size), CAIRN_INVALID_ARGUMENT,
		     "invalid digest \"sha256:0123\"");
	expect_error(pin(g, "", 0, target, &blobs, &size), CAIRN_INVALID_ARGUMENT,
		     "no target; give an image's name, or a digest");
	expect_error(unpin(g, "", &was), CAIRN_INVALID_ARGUMENT,
		     "no target; give an image's name, or a digest");
	assert_int_equal(gc_status(g).pins, 1);
	free(long_name);
}

/* ---- ListVersions ---- */

struct versions {
	size_t n;
	char text[300][200]; /* name digest current complete kept blobs/missing */
};

static void take_versions(void *arg, const ProtobufCMessage *pb)
{
	struct versions *v = arg;
	const Cairn__V1__ListVersionsResponse *r = (const void *)pb;
	for (size_t i = 0; i < r->n_versions; i++, v->n++) {
		const Cairn__V1__Version *one = r->versions[i];
		assert_true(one->first_seen != NULL && one->last_seen != NULL);
		assert_true(one->first_seen->seconds <= one->last_seen->seconds);
		snprintf(v->text[v->n], 200, "%s %.12s%s%s%s %d/%d", one->name, one->digest,
			 one->current ? " current" : "", one->complete ? " complete" : "",
			 one->kept ? " kept" : "", (int)one->blobs, (int)one->missing_blobs);
	}
}

static struct versions listed;

static enum cairn_code list_versions(struct gc_node *g, const char *name)
{
	Cairn__V1__ListVersionsRequest req = CAIRN__V1__LIST_VERSIONS_REQUEST__INIT;
	req.name = (char *)(uintptr_t)name;
	listed.n = 0;
	return stream(g, CAIRN("ListVersions"), &req.base,
		      &cairn__v1__list_versions_response__descriptor, take_versions, &listed);
}

static void expect_version(size_t i, const char *name, const struct node_image *im,
			   const char *rest)
{
	char want[200];
	snprintf(want, sizeof(want), "%s %.12s%s", name, im->root_text, rest);
	assert_true(i < listed.n);
	assert_string_equal(listed.text[i], want);
}

static void versions__are_listed_newest_first(void **state)
{
	struct gc_node *g = *state;
	struct node_image a, b, c;
	char with_digest[200];
	pull_image(g, &a, 1);
	pull_image(g, &b, 2);
	pull_image(g, &c, 3);
	see(g, APP, &a);
	see(g, APP, &b);
	see(g, APP, &c);
	see(g, "reg.example/other:v1", &a);
	snprintf(with_digest, sizeof(with_digest), "reg.example/app@%s", a.root_text);
	see(g, with_digest, &a);
	fake_image(&g->fake, "k8s.io", APP, c.root_text);
	collect(g, false, false); /* containerd is asked */
	struct cairn_eviction e = {.digest = b.bytes, .used_ns = INT64_MAX};
	OK(cairn_cache_evict(g->n->cache, &e, 1, &node_err));
	OK(list_versions(g, APP));
	assert_int_equal(listed.n, 3);
	expect_version(0, APP, &c, " current complete kept 3/0");
	expect_version(1, APP, &b, " kept 3/1");
	expect_version(2, APP, &a, " complete 3/0");
	OK(list_versions(g, ""));
	assert_int_equal(listed.n, 4);
	expect_version(3, "reg.example/other:v1", &a, " complete kept 3/0");
	OK(list_versions(g, with_digest)); /* not among all, but to be had by name */
	assert_int_equal(listed.n, 1);
	OK(list_versions(g, "reg.example/nothing:v1"));
	assert_int_equal(listed.n, 0);
	expect_error(list_versions(g, "NO NAME"), CAIRN_INVALID_ARGUMENT, "");
}

static void versions__are_listed_at_any_length(void **state)
{
	struct gc_node *g = *state;
	struct node_image im;
	char name[64];
	pull_image(g, &im, 1);
	for (int i = 0; i < 120; i++) {
		snprintf(name, sizeof(name), "reg.example/app%03d:v1", i);
		see(g, name, &im);
	}
	OK(list_versions(g, ""));
	assert_int_equal(listed.n, 120);
	expect_version(119, "reg.example/app119:v1", &im, " complete kept 3/0");
}

/* ---- Explain, ListBlobs, Status ---- */

static enum cairn_code explain(struct gc_node *g, const char *text,
			       Cairn__V1__ExplainResponse **ret)
{
	Cairn__V1__ExplainRequest req = CAIRN__V1__EXPLAIN_REQUEST__INIT;
	req.digest = (char *)(uintptr_t)text;
	return ask_admin(g, CAIRN("Explain"), &req.base, &cairn__v1__explain_response__descriptor,
			 ret);
}

static void explain__by_name(void **state)
{
	struct gc_node *g = *state;
	struct node_image old, new;
	Cairn__V1__ExplainResponse *r;
	pull_image(g, &old, 1);
	pull_image(g, &new, 2);
	see(g, "docker.io/library/shaka:latest", &old);
	see(g, "docker.io/library/shaka:latest", &new);
	OK(explain(g, "shaka", &r)); /* begins as digests do */
	assert_string_equal(r->name, "docker.io/library/shaka:latest");
	assert_string_equal(r->blob->digest, new.root_text);
	assert_string_equal(r->blob->why, "version");
	assert_string_equal(r->blob->what, "docker.io/library/shaka:latest");
	assert_false(r->blob->evict);
	cairn__v1__explain_response__free_unpacked(r, NULL);
	OK(explain(g, old.root_text, &r));
	assert_string_equal(r->name, "");
	assert_string_equal(r->blob->why, "version");
	cairn__v1__explain_response__free_unpacked(r, NULL);
	g->n->skew_ns += 4000 * SECOND;
	OK(explain(g, new.root_text, &r));
	assert_string_equal(r->blob->why, "ttl");
	assert_true(r->blob->evict);
	cairn__v1__explain_response__free_unpacked(r, NULL);
	expect_error(explain(g, "reg.example/nothing", &r), CAIRN_NOT_FOUND,
		     "no version of reg.example/nothing:latest is known");
	expect_error(explain(g, "NO NAME", &r), CAIRN_INVALID_ARGUMENT,
		     "neither a digest nor an image's name: ");
	expect_error(explain(g, "sha256:0123", &r), CAIRN_INVALID_ARGUMENT,
		     "invalid digest \"sha256:0123\"");
}

static void take_blobs(void *arg, const ProtobufCMessage *pb)
{
	size_t *seen = arg;
	const Cairn__V1__ListBlobsResponse *r = (const void *)pb;
	for (size_t i = 0; i < r->n_blobs; i++) {
		const Cairn__V1__Blob *b = r->blobs[i];
		seen[0] += strcmp(b->why, "ttl") == 0 && b->evict;
		seen[1] += strcmp(b->why, "referenced") == 0 && !b->evict;
		seen[2]++;
	}
}

static void list_blobs__says_why(void **state)
{
	struct gc_node *g = *state;
	struct node_image im;
	size_t seen[3] = {0};
	Cairn__V1__ListBlobsRequest req = CAIRN__V1__LIST_BLOBS_REQUEST__INIT;
	pull_image(g, &im, 1);
	put(g->n, 1);
	g->n->skew_ns += KEEP;
	OK(stream(g, CAIRN("ListBlobs"), &req.base, &cairn__v1__list_blobs_response__descriptor,
		  take_blobs, seen));
	assert_int_equal(seen[0], 3);
	assert_int_equal(seen[1], 1);
	assert_int_equal(seen[2], 4);
}

static void status__says_how_it_stands(void **state)
{
	struct gc_node *g = *state;
	struct node_image im;
	Cairn__V1__StatusResponse *r;
	const Cairn__V1__StatusRequest req = CAIRN__V1__STATUS_REQUEST__INIT;
	OK(ask_admin(g, CAIRN("Status"), &req.base, &cairn__v1__status_response__descriptor, &r));
	assert_null(r->gc->last);
	assert_null(r->gc->last_pass);
	assert_string_equal(r->gc->high_watermark, "18446744073709551615");
	assert_string_equal(r->gc->min_free, "0");
	cairn__v1__status_response__free_unpacked(r, NULL);
	pull_image(g, &im, 1);
	see(g, APP, &im);
	OK(cairn_cache_pin(g->n->cache, APP, 1, &node_err));
	g->n->skew_ns += 4000 * SECOND;
	collect(g, false, false);
	OK(cairn_cache_pin(g->n->cache, "x", 0, &node_err));
	OK(ask_admin(g, CAIRN("Status"), &req.base, &cairn__v1__status_response__descriptor, &r));
	assert_int_equal(r->gc->evicted_blobs, 3);
	assert_int_equal(r->gc->evicted_bytes, size_of(&im));
	assert_int_equal(r->gc->last->evicted_blobs, 3);
	assert_int_equal(r->gc->last->versions_dropped, 1);
	assert_string_equal(r->gc->last->trigger, "request");
	assert_true(r->gc->last->sure && r->gc->last->relieved);
	assert_non_null(r->gc->last_pass);
	assert_int_equal(r->gc->pins, 1);
	assert_int_equal(r->gc->versions, 0);
	assert_false(r->gc->unrelieved);
	assert_int_equal(r->gc->over_high_bytes + r->gc->over_low_bytes, 0);
	cairn__v1__status_response__free_unpacked(r, NULL);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, set_up, gc_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(collect__dry_run_tells_and_does_nothing),
		CASE(collect__evicts),
		CASE(collect__names_who_claims_what),
		CASE(collect__answers_at_any_length),
		CASE(collect__at_most_two_at_once),
		CASE(prune__drops_old_versions),
		CASE(prune__finds_names_as_people_write_them),
		CASE(prune__refuses_nonsense),
		CASE(pin__keeps_a_digest_and_a_name),
		CASE(pin__of_an_image_id_keeps_the_image),
		CASE(pin__of_what_is_not_here_waits_for_it),
		CASE(pin__refuses_nonsense),
		CASE(versions__are_listed_newest_first),
		CASE(versions__are_listed_at_any_length),
		CASE(explain__by_name),
		CASE(list_blobs__says_why),
		CASE(status__says_how_it_stands),
	};
	return cmocka_run_group_tests_name("plugin/gc_service", tests, NULL, NULL);
}
