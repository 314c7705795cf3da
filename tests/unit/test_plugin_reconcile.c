/* What containerd records against what the store holds. */
#include "support/content_fixture.h"

#include "plugin/reconcile.h"

static int setup(void **state)
{
	*state = node_new(true, false);
	return 0;
}

static int teardown(void **state)
{
	node_free(*state);
	return 0;
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

static struct cairn_reconciled reconcile(struct node *n, const struct cairn_listing *before,
					 const struct cairn_listing *now)
{
	struct cairn_reconciled r;
	cairn_reconcile(n->cache, before, now, NULL, &r);
	cairn_digest_set_fini(&r.missing_set);
	return r;
}

static void reconcile__promotes_counts_missing_and_releases_late(void **state)
{
	struct node *n = *state;
	struct cairn_digest kept = put(n, 1), cached = put(n, 2), orphan = put(n, 3), absent = kept;
	absent.bytes[0] ^= 1;
	cairn_cache_release(n->cache, &cached);
	struct cairn_digest recorded[] = {kept, cached, absent};
	struct cairn_listing one = listing_at(n, recorded, 3);
	struct cairn_reconciled r = reconcile(n, NULL, &one);
	assert_int_equal(r.promoted, 1);
	assert_int_equal(r.missing, 1);
	assert_int_equal(r.released, 0);
	assert_int_equal(state_of(n, &cached), CAIRN_BLOB_REFERENCED);
	/* Two listings, but the first began too soon after the commit. */
	struct cairn_listing two = listing_at(n, recorded, 3);
	r = reconcile(n, &one, &two);
	assert_int_equal(r.promoted, 0);
	assert_int_equal(r.released, 0);
	n->skew_ns += CAIRN_RECORD_GRACE_NS + CAIRN_NS_PER_S;
	struct cairn_listing three = listing_at(n, recorded, 3);
	r = reconcile(n, &two, &three);
	assert_int_equal(r.released, 0);
	struct cairn_listing four = listing_at(n, recorded, 3);
	r = reconcile(n, &three, &four);
	assert_int_equal(r.released, 1);
	assert_int_equal(state_of(n, &orphan), CAIRN_BLOB_CACHED);
	assert_int_equal(state_of(n, &kept), CAIRN_BLOB_REFERENCED);
	struct cairn_listing *all[] = {&one, &two, &three, &four};
	for (size_t i = 0; i < CAIRN_LEN(all); i++) cairn_digest_set_fini(&all[i]->recorded);
}

static void reconcile__keeps_what_either_listing_has_or_info_promised(void **state)
{
	struct node *n = *state;
	struct cairn_digest seen = put(n, 1), promised = put(n, 2);
	n->skew_ns += CAIRN_RECORD_GRACE_NS + CAIRN_NS_PER_S;
	struct cairn_listing with = listing_at(n, &seen, 1), without = listing_at(n, NULL, 0);
	struct cairn_blob_info info;
	OK(cairn_cache_promise(n->cache, &promised, &info, &node_err));
	cairn_blob_info_fini(&info);
	struct cairn_reconciled r = reconcile(n, &with, &without);
	assert_int_equal(r.released, 0);
	struct cairn_listing later = listing_at(n, NULL, 0);
	r = reconcile(n, &without, &later);
	assert_int_equal(r.released, 1);
	assert_int_equal(state_of(n, &seen), CAIRN_BLOB_CACHED);
	assert_int_equal(state_of(n, &promised), CAIRN_BLOB_REFERENCED);
	n->skew_ns += CAIRN_PROMISE_GRACE_NS + CAIRN_NS_PER_S;
	struct cairn_listing late = listing_at(n, NULL, 0);
	r = reconcile(n, &late, &late);
	assert_int_equal(r.released, 1);
	cairn_digest_set_fini(&with.recorded); /* the others are empty */
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(reconcile__promotes_counts_missing_and_releases_late),
		TEST(reconcile__keeps_what_either_listing_has_or_info_promised),
	};
	return cmocka_run_group_tests_name("plugin/reconcile", tests, NULL, NULL);
}
