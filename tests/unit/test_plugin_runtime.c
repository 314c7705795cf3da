/* The view of containerd: the thread, what makes it ask, and what others learn from it. */
#include "support/containerd_fixture.h"

#include "plugin/listing.h"

/* ---- a node with a view -----------------------------------------------------------------------*/

struct world {
	struct node *n;
	struct fake fake;
	struct cairn_runtime *rt;
	int64_t images_ms;
	_Atomic int told;	    /* calls of on_images ... */
	_Atomic size_t told_images; /* ... and what the last one told */
};

static int setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	w->n = node_new(true, false);
	fake_init(&w->fake, w->n);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;
	cairn_runtime_stop(w->rt);
	fake_stop(&w->fake);
	node_free(w->n);
	free(w);
	return 0;
}

static void on_images(void *arg, const struct cairn_listed_image *images, size_t n)
{
	struct world *w = arg;
	for (size_t i = 0; i < n; i++) assert_non_null(images[i].name);
	w->told_images = n;
	w->told++;
}

static void view_start(struct world *w, int64_t interval_ms)
{
	struct cairn_runtime_opts opts = {
		.rpc = w->n->rpc,
		.cache = w->n->cache,
		.clock = &w->n->clock,
		.address = w->fake.socket,
		.interval_ms = interval_ms,
		.retry_ms = 10,
		.images_ms = w->images_ms,
		.on_images = on_images,
		.on_images_arg = w,
	};
	OK(cairn_runtime_start(&opts, &w->rt, &node_err));
}

static struct cairn_runtime_status view_status(struct world *w)
{
	struct cairn_runtime_status st;
	cairn_runtime_get_status(w->rt, &st);
	return st;
}

/* Ask for one more complete listing and wait for it. */
static void list_again(struct world *w)
{
	uint64_t before = view_status(w).listings;
	cairn_runtime_request(w->rt);
	UNTIL(view_status(w).listings > before);
}

/* ---- the thread -------------------------------------------------------------------------------*/

static void view__waits_for_containerd_and_lists_it(void **state)
{
	struct world *w = *state;
	struct cairn_digest one = put(w->n, 1), two = put(w->n, 2);
	bool known = true;
	cairn_cache_release(w->n->cache, &two);
	fake_record(&w->fake, "default", &one);
	fake_record(&w->fake, "k8s.io", &two);
	view_start(w, 3600000);
	UNTIL(view_status(w).failures >= 2); /* nobody is there yet */
	assert_false(view_status(w).reachable);
	assert_true(view_status(w).error[0] != '\0');
	assert_false(cairn_runtime_records(w->rt, &one, &known));
	assert_false(known);
	fake_start(&w->fake, w->n);
	UNTIL(view_status(w).listings >= 1);
	struct cairn_runtime_status st = view_status(w);
	assert_true(st.reachable);
	assert_int_equal(st.recorded, 2);
	assert_int_equal(st.missing, 0);
	assert_int_equal(st.promoted, 1);
	assert_string_equal(st.error, "");
	assert_string_equal(st.address, w->fake.socket);
	assert_true(st.last_listing_ns > 0);
	assert_int_equal(state_of(w->n, &two), CAIRN_BLOB_REFERENCED);
	assert_true(cairn_runtime_records(w->rt, &two, &known));
	assert_true(known);
	struct cairn_digest lost = one;
	lost.bytes[3] ^= 1;
	fake_record(&w->fake, "default", &lost);
	list_again(w);
	assert_int_equal(view_status(w).missing, 1);
	/* Away again: what is known stays, and nothing is released. */
	fake_stop(&w->fake);
	cairn_runtime_request(w->rt);
	UNTIL(!view_status(w).reachable);
	assert_int_equal(view_status(w).recorded, 3);
}

static void view__releases_orphans_after_two_listings(void **state)
{
	struct world *w = *state;
	struct cairn_digest one = put(w->n, 1), two = put(w->n, 2);
	fake_record(&w->fake, "default", &one);
	fake_record(&w->fake, "k8s.io", &two);
	fake_start(&w->fake, w->n);
	view_start(w, 3600000);
	UNTIL(view_status(w).listings >= 1);
	cairn_runtime_connected(w->rt, getpid()); /* where the fake lives: it is listed at once */
	UNTIL(view_status(w).client);
	fake_forget(&w->fake); /* its database was wiped */
	w->n->skew_ns += CAIRN_RECORD_GRACE_NS + CAIRN_NS_PER_S;
	list_again(w);
	assert_int_equal(view_status(w).released, 0);
	list_again(w);
	assert_int_equal(view_status(w).released, 2);
	assert_int_equal(state_of(w->n, &one), CAIRN_BLOB_CACHED);
}

/* Another containerd, found at the address by mistake, records nothing of ours. */
static void view__releases_nothing_for_a_containerd_that_is_not_our_client(void **state)
{
	struct world *w = *state;
	struct cairn_digest one = put(w->n, 1);
	fake_start(&w->fake, w->n);
	view_start(w, 3600000);
	cairn_runtime_connected(w->rt, getppid());
	UNTIL(view_status(w).listings >= 1);
	w->n->skew_ns += CAIRN_PROMISE_GRACE_NS + CAIRN_NS_PER_S;
	for (int i = 0; i < 3; i++) list_again(w);
	assert_false(view_status(w).client);
	assert_int_equal(view_status(w).released, 0);
	assert_int_equal(state_of(w->n, &one), CAIRN_BLOB_REFERENCED);
}

static void view__counts_only_complete_listings(void **state)
{
	struct world *w = *state;
	struct cairn_digest one = put(w->n, 1), two = put(w->n, 2);
	fake_record(&w->fake, "default", &one);
	fake_record(&w->fake, "k8s.io", &two);
	fake_start(&w->fake, w->n);
	w->fake.appears = "new";
	w->fake.broken_ns = "k8s.io";
	view_start(w, 3600000);
	UNTIL(view_status(w).failures >= 2);
	assert_int_equal(view_status(w).listings, 0);
	assert_non_null(strstr(view_status(w).error, "namespace new appeared"));
	w->fake.broken = ASK_CONTENT;
	pthread_mutex_lock(&w->fake.mu);
	w->fake.appears = NULL;
	pthread_mutex_unlock(&w->fake.mu);
	UNTIL(strstr(view_status(w).error, "this one is broken") != NULL);
	assert_int_equal(view_status(w).listings, 0);
	w->fake.broken = ASK_NONE;
	UNTIL(view_status(w).listings >= 1);
	assert_int_equal(view_status(w).recorded, 2);
}

static void view__stops_at_once_while_containerd_hangs(void **state)
{
	struct world *w = *state;
	struct cairn_digest one = put(w->n, 1);
	fake_record(&w->fake, "default", &one);
	fake_start(&w->fake, w->n);
	w->fake.hang = ASK_CONTENT;
	view_start(w, 3600000);
	UNTIL(w->fake.asked[ASK_CONTENT] >= 1);
	int64_t before = cairn_boot_ns(&cairn_clock_system);
	cairn_runtime_stop(cairn_steal(&w->rt));
	assert_true(cairn_boot_ns(&cairn_clock_system) - before < 3 * CAIRN_NS_PER_S);
}

static void view__counts_what_is_in_use(void **state)
{
	struct world *w = *state;
	struct cairn_digest one = put(w->n, 1);
	fake_record(&w->fake, "default", &one);
	fake_image(&w->fake, "default", "app:v1", fake_text(&w->fake, "", &one));
	fake_image(&w->fake, "k8s.io", "app:v1", fake_text(&w->fake, "", &one));
	fake_lease(&w->fake, "default", "pull", NULL, NULL);
	fake_container(&w->fake, "default", "box", "app:v1", 1, 0);
	fake_start(&w->fake, w->n);
	view_start(w, 3600000);
	UNTIL(view_status(w).listings >= 1);
	struct cairn_runtime_status st = view_status(w);
	assert_int_equal(st.images, 2);
	assert_int_equal(st.leases, 1);
	assert_int_equal(st.containers, 1);
	assert_int_equal(w->told, 1);
	assert_int_equal(w->told_images, 2);
	/* A listing that fails leaves them as they were, and tells nobody. */
	w->fake.broken = ASK_CONTAINERS;
	cairn_runtime_request(w->rt);
	UNTIL(view_status(w).failures >= 1);
	assert_int_equal(view_status(w).images, 2);
	assert_int_equal(w->told, 1);
}

/* ---- refresh ----------------------------------------------------------------------------------*/

struct waiter {
	struct cairn_runtime *rt;
	const struct cairn_clock *clock;
	pthread_t thread;
	int64_t timeout_ms, called_boot_ns;
	enum cairn_code rc;
	struct cairn_err err;
	struct cairn_listing *got;
	_Atomic pid_t tid; /* 0: not there yet */
};

static void *wait_in_refresh(void *arg)
{
	struct waiter *me = arg;
	me->called_boot_ns = cairn_boot_ns(me->clock);
	me->tid = gettid();
	me->rc = cairn_runtime_refresh(me->rt, me->timeout_ms, &me->got, &me->err);
	return NULL;
}

static void waiter_start(struct waiter *me, struct world *w)
{
	*me = (struct waiter){.rt = w->rt, .clock = &w->n->clock, .timeout_ms = 20000};
	assert_int_equal(pthread_create(&me->thread, NULL, wait_in_refresh, me), 0);
	UNTIL(me->tid != 0);
}

/* It sleeps; once it has a tid, it can do so in refresh only. */
static bool waiter_sleeps(const struct waiter *me)
{
	char path[64], line[512] = "";
	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", (int)me->tid);
	FILE *f = fopen(path, "re");
	if (f == NULL) return false;
	const char *read = fgets(line, sizeof(line), f);
	fclose(f);
	const char *name_end = read != NULL ? strrchr(line, ')') : NULL;
	return name_end != NULL && name_end[1] == ' ' && name_end[2] == 'S';
}

static enum cairn_code refresh(struct world *w, struct cairn_listing **ret)
{
	return cairn_runtime_refresh(w->rt, 20000, ret, &node_err);
}

static void view__with_nobody_to_ask_is_quiet(void **state)
{
	struct world *w = *state;
	struct cairn_digest one = put(w->n, 1);
	bool known = true;
	w->fake.socket[0] = '\0';
	view_start(w, 10);
	cairn_runtime_request(w->rt);
	assert_false(cairn_runtime_records(w->rt, &one, &known));
	assert_false(known);
	assert_null(cairn_runtime_channel(w->rt));
	struct cairn_runtime_status st = view_status(w);
	assert_string_equal(st.address, "");
	assert_int_equal(st.failures, 0);
	struct cairn_listing *got = NULL;
	assert_int_equal(refresh(w, &got), CAIRN_FAILED_PRECONDITION);
	assert_null(cairn_runtime_last(w->rt));
	cairn_runtime_expect_images(w->rt);
}

static void refresh__begins_after_the_call(void **state)
{
	struct world *w = *state;
	struct cairn_digest one = put(w->n, 1);
	struct waiter waiters[8];
	fake_record(&w->fake, "default", &one);
	w->fake.hang = ASK_CONTENT;
	fake_start(&w->fake, w->n);
	view_start(w, 3600000);
	UNTIL(w->fake.asked[ASK_CONTENT] == 1); /* one runs already, and is none that counts */
	for (size_t i = 0; i < CAIRN_LEN(waiters); i++) waiter_start(&waiters[i], w);
	w->fake.hang = ASK_NONE;
	for (size_t i = 0; i < CAIRN_LEN(waiters); i++) {
		pthread_join(waiters[i].thread, NULL);
		assert_int_equal(waiters[i].rc, CAIRN_OK);
		assert_true(waiters[i].got->begun_boot_ns >= waiters[i].called_boot_ns);
		assert_true(cairn_digest_set_has(&waiters[i].got->recorded, &one));
		cairn_listing_unref(waiters[i].got);
	}
	/* They share: those who came while one ran are served by the next. */
	assert_in_range(view_status(w).listings, 2, 1 + CAIRN_LEN(waiters));
}

static void refresh__has_reconciled_and_told(void **state)
{
	struct world *w = *state;
	struct cairn_digest one = put(w->n, 1);
	struct cairn_listing *got = NULL;
	fake_start(&w->fake, w->n);
	view_start(w, 3600000);
	UNTIL(view_status(w).listings >= 1);
	cairn_cache_release(w->n->cache, &one);
	fake_record(&w->fake, "default", &one);
	fake_image(&w->fake, "default", "app:v1", fake_text(&w->fake, "", &one));
	OK(refresh(w, &got));
	assert_int_equal(state_of(w->n, &one), CAIRN_BLOB_REFERENCED);
	assert_int_equal(w->told_images, 1);
	assert_int_equal(got->n_images, 1);
	struct cairn_listing *last = cairn_runtime_last(w->rt);
	assert_ptr_equal(last, got);
	cairn_listing_unref(last);
	/* It outlives the view. */
	cairn_runtime_stop(cairn_steal(&w->rt));
	assert_string_equal(got->images[0].name, "app:v1");
	cairn_listing_unref(got);
}

static void refresh__fails_as_its_listing_does_and_at_once(void **state)
{
	struct world *w = *state;
	struct cairn_listing *got = NULL;
	fake_start(&w->fake, w->n);
	w->fake.broken = ASK_IMAGES;
	fake_image(&w->fake, "default", "app:v1", NULL);
	view_start(w, 3600000);
	assert_null(cairn_runtime_last(w->rt));
	assert_int_equal(refresh(w, &got), CAIRN_INTERNAL);
	assert_non_null(strstr(node_err.msg, "this one is broken"));
	assert_null(got);
	assert_null(cairn_runtime_last(w->rt));
	w->fake.broken = ASK_NONE;
	OK(refresh(w, &got)); /* it does not wait for the retry */
	cairn_listing_unref(got);
	fake_stop(&w->fake);
	assert_int_equal(refresh(w, &got), CAIRN_UNAVAILABLE);
}

/* These two mean something else to those who wait: nobody to ask, and that we stop. */
static void refresh__tells_no_code_of_containerd_for_its_own(void **state)
{
	struct world *w = *state;
	struct cairn_listing *got = NULL;
	fake_start(&w->fake, w->n);
	w->fake.broken = ASK_NAMESPACES;
	w->fake.broken_code = CAIRN_FAILED_PRECONDITION;
	view_start(w, 3600000);
	assert_true(cairn_runtime_asks(w->rt));
	assert_int_equal(refresh(w, &got), CAIRN_INTERNAL);
	assert_non_null(strstr(node_err.msg, "this one is broken"));
	w->fake.broken_code = CAIRN_CANCELLED;
	assert_int_equal(refresh(w, &got), CAIRN_UNAVAILABLE);
	assert_null(got);
}

static void refresh__ends_with_its_time(void **state)
{
	struct world *w = *state;
	struct cairn_listing *got = NULL;
	fake_start(&w->fake, w->n);
	w->fake.hang = ASK_NAMESPACES;
	view_start(w, 3600000);
	assert_int_equal(cairn_runtime_refresh(w->rt, 30, &got, &node_err),
			 CAIRN_DEADLINE_EXCEEDED);
	assert_int_equal(cairn_runtime_refresh(w->rt, 0, &got, &node_err), CAIRN_DEADLINE_EXCEEDED);
	w->fake.hang = ASK_NONE;
	OK(cairn_runtime_refresh(w->rt, INT64_MAX, &got, &node_err));
	cairn_listing_unref(got);
}

static void refresh__ends_with_the_view(void **state)
{
	struct world *w = *state;
	struct waiter waiters[4];
	fake_start(&w->fake, w->n);
	w->fake.hang = ASK_NAMESPACES;
	view_start(w, 3600000);
	UNTIL(w->fake.asked[ASK_NAMESPACES] == 1);
	for (size_t i = 0; i < CAIRN_LEN(waiters); i++) waiter_start(&waiters[i], w);
	for (size_t i = 0; i < CAIRN_LEN(waiters); i++) UNTIL(waiter_sleeps(&waiters[i]));
	cairn_runtime_stop(cairn_steal(&w->rt));
	for (size_t i = 0; i < CAIRN_LEN(waiters); i++) {
		pthread_join(waiters[i].thread, NULL);
		assert_int_equal(waiters[i].rc, CAIRN_CANCELLED);
		assert_null(waiters[i].got);
	}
}

static void refresh__knows_whom_it_has_asked(void **state)
{
	struct world *w = *state;
	struct cairn_digest one = put(w->n, 1);
	struct cairn_listing *got = NULL;
	fake_start(&w->fake, w->n);
	view_start(w, 3600000);
	OK(refresh(w, &got));
	assert_int_equal(got->client, CAIRN_CLIENT_OTHER);
	cairn_listing_unref(got);
	cairn_runtime_connected(w->rt, getpid()); /* where the fake lives */
	OK(refresh(w, &got));
	assert_int_equal(got->client, CAIRN_CLIENT_OURS);
	cairn_listing_unref(got);
	/* Who listens cannot be asked: the connection stands, and nothing is proved or released. */
	assert_int_equal(unlink(w->fake.socket), 0);
	w->n->skew_ns += CAIRN_PROMISE_GRACE_NS + CAIRN_NS_PER_S;
	for (int i = 0; i < 3; i++) {
		OK(refresh(w, &got));
		assert_int_equal(got->client, CAIRN_CLIENT_OTHER);
		cairn_listing_unref(got);
	}
	assert_false(view_status(w).client);
	assert_int_equal(view_status(w).released, 0);
	assert_int_equal(state_of(w->n, &one), CAIRN_BLOB_REFERENCED);
}

/* ---- expected images --------------------------------------------------------------------------*/

static void images__are_looked_for_while_they_are_expected(void **state)
{
	struct world *w = *state;
	struct cairn_listing *got = NULL;
	fake_start(&w->fake, w->n);
	w->images_ms = 5;
	view_start(w, 3600000);
	UNTIL(view_status(w).listings == 1);
	assert_int_equal(w->told, 1);
	fake_image(&w->fake, "default", "app:v1", NULL);
	cairn_runtime_expect_images(w->rt);
	UNTIL(w->told_images == 1);
	fake_image(&w->fake, "default", "app:v2", NULL);
	UNTIL(w->told_images == 2);
	assert_int_equal(w->fake.asked[ASK_CONTENT], 0); /* there was no namespace at first */
	assert_int_equal(w->fake.asked[ASK_LEASES], 0);
	assert_int_equal(view_status(w).listings, 1);
	/* A look that fails is tried again, and says nothing of containerd. */
	w->fake.broken = ASK_IMAGES;
	int asked = w->fake.asked[ASK_IMAGES];
	UNTIL(w->fake.asked[ASK_IMAGES] > asked + 3);
	assert_int_equal(view_status(w).failures, 0);
	assert_true(view_status(w).reachable);
	w->fake.broken = ASK_NONE;
	fake_image(&w->fake, "default", "app:v3", NULL);
	UNTIL(w->told_images == 3);
	OK(refresh(w, &got)); /* whole listings go on */
	assert_int_equal(got->n_images, 3);
	cairn_listing_unref(got);
}

static void images__are_not_expected_for_ever(void **state)
{
	struct world *w = *state;
	fake_start(&w->fake, w->n);
	w->images_ms = 5;
	view_start(w, 3600000);
	UNTIL(view_status(w).listings == 1);
	cairn_runtime_expect_images(w->rt);
	UNTIL(w->told >= 3);
	w->n->skew_ns += 500 * CAIRN_NS_PER_S;
	cairn_runtime_expect_images(w->rt); /* the time runs from the last one */
	w->n->skew_ns += 500 * CAIRN_NS_PER_S;
	int before = w->told;
	UNTIL(w->told > before + 2);
	w->n->skew_ns += 101 * CAIRN_NS_PER_S;
	list_again(w); /* the look that runs, if one does, is over */
	before = w->fake.asked[ASK_NAMESPACES];
	usleep(50000);
	assert_int_equal(w->fake.asked[ASK_NAMESPACES], before);
	cairn_runtime_expect_images(w->rt); /* and again */
	UNTIL(w->fake.asked[ASK_NAMESPACES] > before);
}

/* The content service of the node, with a view to tell. */
static void serve_for_view(struct world *w)
{
	struct node *n = w->n;
	node_drain(n, 10000);
	cairn_channel_free(n->channel);
	cairn_rpc_server_free(n->server);
	n->drained = false;
	n->content.runtime = w->rt;
	OK(cairn_rpc_server_new(n->rpc, &n->server, &node_err));
	cairn_content_service_add(n->server, &n->content);
	OK(cairn_rpc_server_listen_unix(n->server, n->socket, &node_err));
	OK(cairn_rpc_server_start(n->server, &node_err));
	OK(cairn_channel_new(n->rpc, n->target, NULL, &n->channel, &node_err));
}

static void images__are_expected_after_a_manifest(void **state)
{
	struct world *w = *state;
	char ref[200];
	fake_start(&w->fake, w->n);
	w->images_ms = 5;
	view_start(w, 3600000);
	UNTIL(view_status(w).listings == 1);
	serve_for_view(w);
	snprintf(ref, sizeof(ref), "ns/1/layer-%s", digest_text("layer", 5));
	OK(put_blob(w->n, ref, "layer", 5));
	OK(put_blob(w->n, "ns/1/import-1", "x", 1));
	usleep(50000);
	assert_int_equal(w->told, 1);
	snprintf(ref, sizeof(ref), "ns/1/manifest-reg.example/app@%s", digest_text("manifest", 8));
	OK(put_blob(w->n, ref, "manifest", 8));
	UNTIL(w->told >= 3);
	/* For another namespace: AlreadyExists is how that ends. */
	w->n->skew_ns += 601 * CAIRN_NS_PER_S;
	list_again(w);
	int before = w->told;
	snprintf(ref, sizeof(ref), "two/1/index-%s", digest_text("manifest", 8));
	assert_int_equal(put_blob(w->n, ref, "manifest", 8), CAIRN_ALREADY_EXISTS);
	UNTIL(w->told >= before + 2);
	/* A commit that fails announces nothing. */
	w->n->skew_ns += 601 * CAIRN_NS_PER_S;
	list_again(w);
	before = w->told;
	snprintf(ref, sizeof(ref), "ns/1/manifest-%s", digest_text("other", 5));
	struct cairn_call *call = NULL;
	struct answer a;
	OK(start_write(w->n, ref, 5, &call, &a));
	assert_int_equal(commit_at(&call, 0, 5, digest_text("other", 5), &a),
			 CAIRN_FAILED_PRECONDITION);
	usleep(50000);
	assert_int_equal(w->told, before);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(view__waits_for_containerd_and_lists_it),
		TEST(view__releases_orphans_after_two_listings),
		TEST(view__releases_nothing_for_a_containerd_that_is_not_our_client),
		TEST(view__counts_only_complete_listings),
		TEST(view__stops_at_once_while_containerd_hangs),
		TEST(view__counts_what_is_in_use),
		TEST(view__with_nobody_to_ask_is_quiet),
		TEST(refresh__begins_after_the_call),
		TEST(refresh__has_reconciled_and_told),
		TEST(refresh__fails_as_its_listing_does_and_at_once),
		TEST(refresh__tells_no_code_of_containerd_for_its_own),
		TEST(refresh__ends_with_its_time),
		TEST(refresh__ends_with_the_view),
		TEST(refresh__knows_whom_it_has_asked),
		TEST(images__are_looked_for_while_they_are_expected),
		TEST(images__are_not_expected_for_ever),
		TEST(images__are_expected_after_a_manifest),
	};
	return cmocka_run_group_tests_name("plugin/runtime", tests, NULL, NULL);
}
