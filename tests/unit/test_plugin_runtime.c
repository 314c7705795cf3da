/* The view of containerd: the reconciliation on its own, and the thread against a Namespaces and a
 * Content service that play containerd. */
#include "support/containerd_fixture.h"

#include "plugin/listing.h"
#include "plugin/reconcile.h"

/* ---- a node with a view -----------------------------------------------------------------------*/

struct world {
	struct node *n;
	struct fake fake;
	struct cairn_runtime *rt;
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

static void view_start(struct world *w, int64_t interval_ms)
{
	struct cairn_runtime_opts opts = {
		.rpc = w->n->rpc,
		.cache = w->n->cache,
		.clock = &w->n->clock,
		.address = w->fake.socket,
		.interval_ms = interval_ms,
		.retry_ms = 10,
	};
	OK(cairn_runtime_start(&opts, &w->rt, &node_err));
}

static struct cairn_runtime_status view_status(struct world *w)
{
	struct cairn_runtime_status st;
	cairn_runtime_get_status(w->rt, &st);
	return st;
}

/* Poll until cond holds; fails the test after 20 s. */
#define UNTIL(cond)                                                                                \
	do {                                                                                       \
		int64_t until_ = cairn_boot_ns(&cairn_clock_system) + 20 * CAIRN_NS_PER_S;         \
		while (!(cond)) {                                                                  \
			if (cairn_boot_ns(&cairn_clock_system) > until_) {                         \
				fail_msg("never came true: %s", #cond);                            \
			}                                                                          \
			usleep(500);                                                               \
		}                                                                                  \
	} while (0)

/* Ask for one more complete listing and wait for it. */
static void list_again(struct world *w)
{
	uint64_t before = view_status(w).listings;
	cairn_runtime_request(w->rt);
	UNTIL(view_status(w).listings > before);
}

/* A referenced blob. */
static struct cairn_digest put(struct world *w, unsigned seed)
{
	uint8_t data[100];
	char ref[64];
	fill_bytes(data, sizeof(data), seed);
	snprintf(ref, sizeof(ref), "ns/1/ref-%u", seed);
	OK(put_blob(w->n, ref, data, sizeof(data)));
	return digest_of(data, sizeof(data), CAIRN_SHA256);
}

static int state_of(struct world *w, const struct cairn_digest *digest)
{
	struct cairn_blob_info info;
	if (cairn_cache_info(w->n->cache, digest, &info, &node_err) != CAIRN_OK) return 0;
	int s = info.state;
	cairn_blob_info_fini(&info);
	return s;
}

static struct cairn_listing listing_at(struct node *n, const struct cairn_digest *list,
				       size_t count)
{
	struct cairn_listing l = {.begun_boot_ns = cairn_boot_ns(&n->clock)};
	for (size_t i = 0; i < count; i++) {
		OK(cairn_digest_set_add(&l.recorded, &list[i], &node_err));
	}
	cairn_digest_set_sort(&l.recorded);
	return l;
}

static struct cairn_reconciled reconcile(struct world *w, const struct cairn_listing *before,
					 const struct cairn_listing *now)
{
	struct cairn_reconciled r;
	cairn_reconcile(w->n->cache, before, now, NULL, &r);
	cairn_digest_set_fini(&r.missing_set);
	return r;
}

static void reconcile__promotes_counts_missing_and_releases_late(void **state)
{
	struct world *w = *state;
	struct cairn_digest kept = put(w, 1), cached = put(w, 2), orphan = put(w, 3), absent = kept;
	absent.bytes[0] ^= 1;
	cairn_cache_release(w->n->cache, &cached);
	struct cairn_digest recorded[] = {kept, cached, absent};
	struct cairn_listing one = listing_at(w->n, recorded, 3);
	struct cairn_reconciled r = reconcile(w, NULL, &one);
	assert_int_equal(r.promoted, 1);
	assert_int_equal(r.missing, 1);
	assert_int_equal(r.released, 0);
	assert_int_equal(state_of(w, &cached), CAIRN_BLOB_REFERENCED);
	/* Two listings, but the first began too soon after the commit. */
	struct cairn_listing two = listing_at(w->n, recorded, 3);
	r = reconcile(w, &one, &two);
	assert_int_equal(r.promoted, 0);
	assert_int_equal(r.released, 0);
	w->n->skew_ns += CAIRN_RECORD_GRACE_NS + CAIRN_NS_PER_S;
	struct cairn_listing three = listing_at(w->n, recorded, 3);
	r = reconcile(w, &two, &three);
	assert_int_equal(r.released, 0);
	struct cairn_listing four = listing_at(w->n, recorded, 3);
	r = reconcile(w, &three, &four);
	assert_int_equal(r.released, 1);
	assert_int_equal(state_of(w, &orphan), CAIRN_BLOB_CACHED);
	assert_int_equal(state_of(w, &kept), CAIRN_BLOB_REFERENCED);
	struct cairn_listing *all[] = {&one, &two, &three, &four};
	for (size_t i = 0; i < CAIRN_LEN(all); i++) cairn_digest_set_fini(&all[i]->recorded);
}

static void reconcile__keeps_what_either_listing_has_or_info_promised(void **state)
{
	struct world *w = *state;
	struct cairn_digest seen = put(w, 1), promised = put(w, 2);
	w->n->skew_ns += CAIRN_RECORD_GRACE_NS + CAIRN_NS_PER_S;
	struct cairn_listing with = listing_at(w->n, &seen, 1), without = listing_at(w->n, NULL, 0);
	struct cairn_blob_info info;
	OK(cairn_cache_promise(w->n->cache, &promised, &info, &node_err));
	cairn_blob_info_fini(&info);
	struct cairn_reconciled r = reconcile(w, &with, &without);
	assert_int_equal(r.released, 0);
	struct cairn_listing later = listing_at(w->n, NULL, 0);
	r = reconcile(w, &without, &later);
	assert_int_equal(r.released, 1);
	assert_int_equal(state_of(w, &seen), CAIRN_BLOB_CACHED);
	assert_int_equal(state_of(w, &promised), CAIRN_BLOB_REFERENCED);
	w->n->skew_ns += CAIRN_PROMISE_GRACE_NS + CAIRN_NS_PER_S;
	struct cairn_listing late = listing_at(w->n, NULL, 0);
	r = reconcile(w, &late, &late);
	assert_int_equal(r.released, 1);
	cairn_digest_set_fini(&with.recorded); /* the others are empty */
}

/* ---- the thread -------------------------------------------------------------------------------*/

static void view__waits_for_containerd_and_lists_it(void **state)
{
	struct world *w = *state;
	struct cairn_digest one = put(w, 1), two = put(w, 2);
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
	assert_int_equal(state_of(w, &two), CAIRN_BLOB_REFERENCED);
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
	struct cairn_digest one = put(w, 1), two = put(w, 2);
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
	assert_int_equal(state_of(w, &one), CAIRN_BLOB_CACHED);
}

/* Another containerd, found at the address by mistake, records nothing of ours. */
static void view__releases_nothing_for_a_containerd_that_is_not_our_client(void **state)
{
	struct world *w = *state;
	struct cairn_digest one = put(w, 1);
	fake_start(&w->fake, w->n);
	view_start(w, 3600000);
	cairn_runtime_connected(w->rt, getppid());
	UNTIL(view_status(w).listings >= 1);
	w->n->skew_ns += CAIRN_PROMISE_GRACE_NS + CAIRN_NS_PER_S;
	for (int i = 0; i < 3; i++) list_again(w);
	assert_false(view_status(w).client);
	assert_int_equal(view_status(w).released, 0);
	assert_int_equal(state_of(w, &one), CAIRN_BLOB_REFERENCED);
}

static void view__counts_only_complete_listings(void **state)
{
	struct world *w = *state;
	struct cairn_digest one = put(w, 1), two = put(w, 2);
	fake_record(&w->fake, "default", &one);
	fake_record(&w->fake, "k8s.io", &two);
	fake_start(&w->fake, w->n);
	w->fake.appears = "new";
	view_start(w, 3600000);
	UNTIL(view_status(w).failures >= 2);
	assert_int_equal(view_status(w).listings, 0);
	assert_non_null(strstr(view_status(w).error, "namespace new appeared"));
	pthread_mutex_lock(&w->fake.mu);
	w->fake.appears = NULL;
	w->fake.broken = ASK_CONTENT;
	w->fake.broken_ns = "k8s.io";
	pthread_mutex_unlock(&w->fake.mu);
	UNTIL(strstr(view_status(w).error, "this one is broken") != NULL);
	assert_int_equal(view_status(w).listings, 0);
	pthread_mutex_lock(&w->fake.mu);
	w->fake.broken = ASK_NONE;
	pthread_mutex_unlock(&w->fake.mu);
	UNTIL(view_status(w).listings >= 1);
	assert_int_equal(view_status(w).recorded, 2);
}

static void view__stops_at_once_while_containerd_hangs(void **state)
{
	struct world *w = *state;
	struct cairn_digest one = put(w, 1);
	fake_record(&w->fake, "default", &one);
	fake_start(&w->fake, w->n);
	w->fake.hang = ASK_CONTENT;
	view_start(w, 3600000);
	UNTIL(w->fake.asked[ASK_CONTENT] >= 1);
	int64_t before = cairn_boot_ns(&cairn_clock_system);
	cairn_runtime_stop(cairn_steal(&w->rt));
	assert_true(cairn_boot_ns(&cairn_clock_system) - before < 3 * CAIRN_NS_PER_S);
}

static void view__with_nobody_to_ask_is_quiet(void **state)
{
	struct world *w = *state;
	struct cairn_digest one = put(w, 1);
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
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(reconcile__promotes_counts_missing_and_releases_late),
		TEST(reconcile__keeps_what_either_listing_has_or_info_promised),
		TEST(view__waits_for_containerd_and_lists_it),
		TEST(view__releases_orphans_after_two_listings),
		TEST(view__releases_nothing_for_a_containerd_that_is_not_our_client),
		TEST(view__counts_only_complete_listings),
		TEST(view__stops_at_once_while_containerd_hangs),
		TEST(view__with_nobody_to_ask_is_quiet),
	};
	return cmocka_run_group_tests_name("plugin/runtime", tests, NULL, NULL);
}
