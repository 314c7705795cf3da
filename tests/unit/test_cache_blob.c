/* Facts, states and labels of blobs, and the walk. */
#include "support/store.h"

/* ---- absent, cached, referenced x every call that looks or changes */

static enum cairn_code promise(struct store *s, const struct cairn_digest *d)
{
	struct cairn_err err;
	struct cairn_blob_info info;
	enum cairn_code code = cairn_cache_promise(s->cache, d, &info, &err);
	if (code == CAIRN_OK) {
		assert_null(info.owners);
		cairn_blob_info_fini(&info);
	}
	return code;
}

static void absent__is_not_found_by_anyone(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_blob *blob;
	struct content c = content_new(10, 1);
	struct cairn_label label = {"k", "v"};
	struct cairn_digest none = {0}, odd = {.alg = 9};
	assert_int_equal(state_of(s, &c.digest), 0);
	assert_int_equal(state_of(s, &none), 0);
	assert_int_equal(state_of(s, &odd), 0);
	assert_int_equal(promise(s, &c.digest), CAIRN_NOT_FOUND);
	assert_false(cairn_cache_reference(s->cache, &c.digest));
	cairn_cache_release(s->cache, &c.digest);
	assert_false(cairn_cache_release_unrecorded(s->cache, &c.digest, INT64_MAX));
	assert_code(cairn_blob_open(s->cache, &c.digest, &blob, &err), CAIRN_NOT_FOUND);
	assert_code(cairn_cache_verify(s->cache, &c.digest, NULL, NULL, &err), CAIRN_NOT_FOUND);
	assert_code(cairn_cache_set_labels(s->cache, &c.digest, &label, 1, false, &err),
		    CAIRN_NOT_FOUND);
	content_free(&c);
}

static void cached__is_hidden_from_those_who_record(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct content c = content_new(1000, 2);
	struct cairn_label label = {"k", "v"};
	add_cached(s, &c);
	assert_int_equal(state_of(s, &c.digest), CAIRN_BLOB_CACHED);
	assert_int_equal(promise(s, &c.digest), CAIRN_NOT_FOUND);
	assert_code(cairn_cache_set_labels(s->cache, &c.digest, &label, 1, false, &err),
		    CAIRN_NOT_FOUND);
	assert_ok(read_and_compare(s, &c, &err));
	assert_ok(cairn_cache_verify(s->cache, &c.digest, NULL, NULL, &err));
	cairn_cache_release(s->cache, &c.digest); /* nothing to release */
	assert_int_equal(state_of(s, &c.digest), CAIRN_BLOB_CACHED);
	assert_true(cairn_cache_reference(s->cache, &c.digest));
	assert_int_equal(promise(s, &c.digest), CAIRN_OK);
	content_free(&c);
}

static void referenced__becomes_cached_by_release_and_forgets_labels(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_blob_info info;
	struct content c = content_new(1000, 3);
	struct cairn_label label = {"k", "v"};
	add_referenced(s, &c);
	assert_ok(cairn_cache_set_labels(s->cache, &c.digest, &label, 1, false, &err));
	assert_true(cairn_cache_reference(s->cache, &c.digest));
	assert_ok(cairn_cache_info(s->cache, &c.digest, &info, &err));
	assert_int_equal(info.labels->n, 1);
	assert_string_equal(info.owners[0], "ns");
	assert_null(info.owners[1]);
	assert_int_equal(info.size, c.n);
	cairn_blob_info_fini(&info);
	cairn_cache_release(s->cache, &c.digest);
	cairn_cache_release(s->cache, &c.digest);
	assert_ok(cairn_cache_info(s->cache, &c.digest, &info, &err));
	assert_int_equal(info.state, CAIRN_BLOB_CACHED);
	assert_null(info.labels);
	assert_string_equal(info.owners[0], "ns"); /* who committed it may have it prefilled */
	cairn_blob_info_fini(&info);
	assert_ok(read_and_compare(s, &c, &err));
	content_free(&c);
}

static void state__survives_an_orderly_restart(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_blob_info before, after;
	struct cairn_cache_stats stats;
	struct content c = content_new(1000, 4), r = content_new(2000, 5), e = content_new(0, 0);
	struct cairn_label labels[] = {{"b", "2"}, {"a", "1"}};
	add_cached(s, &c);
	add_referenced(s, &r);
	struct cairn_ingest *ing = open_ref(s, "e", NULL, false, false);
	struct cairn_ingest_status st;
	assert_ok(cairn_ingest_commit(ing, 0, 0, &e.digest, &st, &err));
	cairn_ingest_close(ing);
	clock_move(s, 5 * CAIRN_NS_PER_S);
	assert_ok(cairn_cache_set_labels(s->cache, &r.digest, labels, 2, true, &err));
	assert_ok(cairn_cache_info(s->cache, &r.digest, &before, &err));
	assert_int_equal(before.idle_ns, 5 * CAIRN_NS_PER_S);
	store_reopen(s);
	cairn_cache_stats(s->cache, &stats);
	assert_false(stats.recovered);
	assert_false(stats.rebuilt);
	assert_int_equal(stats.cached_blobs, 1);
	assert_int_equal(stats.cached_bytes, 1000);
	assert_int_equal(stats.referenced_blobs, 2);
	assert_int_equal(stats.referenced_bytes, 2000);
	assert_true(stats.disk_total_bytes >= stats.disk_free_bytes);
	assert_int_equal(state_of(s, &c.digest), CAIRN_BLOB_CACHED);
	assert_ok(cairn_cache_info(s->cache, &r.digest, &after, &err));
	assert_int_equal(after.state, CAIRN_BLOB_REFERENCED);
	assert_int_equal(after.created_ns, before.created_ns);
	assert_int_equal(after.updated_ns, before.updated_ns);
	assert_int_equal(after.idle_ns, before.idle_ns);
	assert_string_equal(after.owners[0], "ns");
	assert_int_equal(after.labels->n, 2);
	assert_string_equal(after.labels->list[0].key, "a");
	assert_string_equal(after.labels->list[1].value, "2");
	cairn_blob_info_fini(&before);
	cairn_blob_info_fini(&after);
	assert_ok(read_and_compare(s, &c, &err));
	assert_ok(read_and_compare(s, &r, &err));
	content_free(&c);
	content_free(&r);
	content_free(&e);
}

static void idle__is_counted_from_the_last_use_in_boot_time(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_blob_info info;
	struct content c = content_new(1000, 6);
	add_cached(s, &c);
	s->clock.boot_ns += 500;
	s->clock.real_ns += 1000000; /* the wall clock jumps */
	assert_ok(cairn_cache_info(s->cache, &c.digest, &info, &err));
	assert_int_equal(info.idle_ns, 500);
	cairn_blob_info_fini(&info);
	assert_ok(read_and_compare(s, &c, &err));
	assert_ok(cairn_cache_info(s->cache, &c.digest, &info, &err));
	assert_int_equal(info.idle_ns, 0);
	cairn_blob_info_fini(&info);
	s->clock.boot_ns += 700;
	store_close(s);
	s->clock.boot_ns = 7; /* the machine restarts, was off for long, and its clock is wrong */
	s->clock.real_ns += 3600 * CAIRN_NS_PER_S;
	store_open(s);
	assert_ok(cairn_cache_info(s->cache, &c.digest, &info, &err));
	assert_int_equal(info.idle_ns, 700);
	cairn_blob_info_fini(&info);
	s->clock.boot_ns += 50;
	s->clock.real_ns -= 7200 * CAIRN_NS_PER_S;
	store_reopen(s);
	assert_ok(cairn_cache_info(s->cache, &c.digest, &info, &err));
	assert_int_equal(info.idle_ns, 750);
	cairn_blob_info_fini(&info);
	content_free(&c);
}

/* ---- labels */

static void expect_labels(struct store *s, const struct cairn_digest *d, const char *want)
{
	struct cairn_err err;
	struct cairn_blob_info info;
	char got[256] = "";
	assert_ok(cairn_cache_info(s->cache, d, &info, &err));
	for (size_t i = 0; info.labels != NULL && i < info.labels->n; i++) {
		size_t at = strlen(got);
		snprintf(got + at, sizeof(got) - at, "%s=%s ", info.labels->list[i].key,
			 info.labels->list[i].value);
	}
	cairn_blob_info_fini(&info);
	assert_string_equal(got, want);
}

static void labels__are_set_removed_and_replaced(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_blob_info info;
	struct content c = content_new(10, 7);
	struct cairn_label one[] = {{"k2", "b"}, {"k1", "a"}, {"k3", "c"}};
	struct cairn_label two[] = {{"k1", "x"}, {"k3", ""}, {"k9", NULL}, {"k1", "y"}};
	add_referenced(s, &c);
	int64_t created = s->clock.real_ns;
	clock_move(s, 99);
	assert_ok(cairn_cache_set_labels(s->cache, &c.digest, one, 3, false, &err));
	expect_labels(s, &c.digest, "k1=a k2=b k3=c ");
	assert_ok(cairn_cache_set_labels(s->cache, &c.digest, two, 4, false, &err));
	expect_labels(s, &c.digest, "k1=y k2=b ");
	assert_ok(cairn_cache_info(s->cache, &c.digest, &info, &err));
	assert_int_equal(info.created_ns, created);
	assert_int_equal(info.updated_ns, created + 99);
	cairn_blob_info_fini(&info);
	assert_ok(cairn_cache_set_labels(s->cache, &c.digest, one + 2, 1, true, &err));
	expect_labels(s, &c.digest, "k3=c ");
	assert_ok(cairn_cache_set_labels(s->cache, &c.digest, NULL, 0, false, &err));
	expect_labels(s, &c.digest, "k3=c ");
	assert_ok(cairn_cache_set_labels(s->cache, &c.digest, NULL, 0, true, &err));
	expect_labels(s, &c.digest, "");
	content_free(&c);
}

static void labels__have_limits(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct content c = content_new(10, 8);
	struct cairn_label many[CAIRN_LABELS_MAX + 1];
	char keys[CAIRN_LABELS_MAX + 1][8];
	char *value = calloc(1, CAIRN_LABEL_BYTES_MAX + 1);
	memset(value, 'v', CAIRN_LABEL_BYTES_MAX);
	add_referenced(s, &c);
	struct cairn_label big = {"k", value}, nokey = {"", "v"};
	assert_code(cairn_cache_set_labels(s->cache, &c.digest, &big, 1, false, &err),
		    CAIRN_INVALID_ARGUMENT);
	assert_code(cairn_cache_set_labels(s->cache, &c.digest, &nokey, 1, false, &err),
		    CAIRN_INVALID_ARGUMENT);
	value[CAIRN_LABEL_BYTES_MAX - 1] = '\0'; /* with the key: the largest */
	assert_ok(cairn_cache_set_labels(s->cache, &c.digest, &big, 1, true, &err));
	for (size_t i = 0; i <= CAIRN_LABELS_MAX; i++) {
		snprintf(keys[i], sizeof(keys[i]), "n%zu", i);
		many[i] = (struct cairn_label){keys[i], "v"};
	}
	assert_code(
		cairn_cache_set_labels(s->cache, &c.digest, many, CAIRN_LABELS_MAX + 1, true, &err),
		CAIRN_INVALID_ARGUMENT);
	/* One more than fits beside what is there. */
	assert_code(
		cairn_cache_set_labels(s->cache, &c.digest, many, CAIRN_LABELS_MAX, false, &err),
		CAIRN_INVALID_ARGUMENT);
	assert_ok(cairn_cache_set_labels(s->cache, &c.digest, many, CAIRN_LABELS_MAX, true, &err));
	free(value);
	store_reopen(s);
	struct cairn_blob_info info;
	assert_ok(cairn_cache_info(s->cache, &c.digest, &info, &err));
	assert_int_equal(info.labels->n, CAIRN_LABELS_MAX);
	cairn_blob_info_fini(&info);
	content_free(&c);
}

/* ---- release_unrecorded */

static void unrecorded__is_released_only_after_every_grace(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct content c = content_new(1000, 9);
	struct cairn_digest *d = &c.digest;
	int64_t opened = s->clock.boot_ns;
	clock_move(s, CAIRN_NS_PER_S);
	add_referenced(s, &c);
	int64_t committed = s->clock.boot_ns;
	clock_move(s, 10 * CAIRN_PROMISE_GRACE_NS);
	assert_false(cairn_cache_release_unrecorded(s->cache, d, opened));
	assert_false(
		cairn_cache_release_unrecorded(s->cache, d, committed + CAIRN_RECORD_GRACE_NS - 1));
	/* A promise starts a longer grace. */
	assert_int_equal(promise(s, d), CAIRN_OK);
	int64_t promised = s->clock.boot_ns;
	assert_false(
		cairn_cache_release_unrecorded(s->cache, d, promised + CAIRN_PROMISE_GRACE_NS - 1));
	int64_t late = promised + CAIRN_PROMISE_GRACE_NS;
	/* Readers and ingests hold it. */
	struct cairn_blob *blob;
	assert_ok(cairn_blob_open(s->cache, d, &blob, &err));
	assert_false(cairn_cache_release_unrecorded(s->cache, d, late));
	cairn_blob_close(blob);
	struct cairn_ingest *ing = open_ref(s, "a", &c, true, true);
	assert_false(cairn_cache_release_unrecorded(s->cache, d, late));
	cairn_ingest_close(ing);
	assert_true(cairn_cache_release_unrecorded(s->cache, d, late));
	assert_int_equal(state_of(s, d), CAIRN_BLOB_CACHED);
	assert_false(cairn_cache_release_unrecorded(s->cache, d, late));
	/* Referenced without a promise: the short grace. */
	assert_true(cairn_cache_reference(s->cache, d));
	clock_move(s, 2 * CAIRN_PROMISE_GRACE_NS);
	assert_true(cairn_cache_release_unrecorded(s->cache, d, s->clock.boot_ns));
	content_free(&c);
}

static void unrecorded__counts_our_own_restart_as_a_promise(void **state)
{
	struct store *s = *state;
	struct content c = content_new(1000, 10);
	add_referenced(s, &c);
	clock_move(s, 10 * CAIRN_PROMISE_GRACE_NS);
	store_reopen(s);
	int64_t opened = s->clock.boot_ns;
	assert_false(cairn_cache_release_unrecorded(s->cache, &c.digest,
						    opened + CAIRN_PROMISE_GRACE_NS - 1));
	assert_true(cairn_cache_release_unrecorded(s->cache, &c.digest,
						   opened + CAIRN_PROMISE_GRACE_NS));
	content_free(&c);
}

/* ---- the walk */

#define FIXED 300
#define VOLATILE 200

static struct content small(uint64_t seed)
{
	return content_new(8, seed);
}

/* Some blobs stay, others come and go (a damaged cached blob is dropped): whatever happens in
 * between, those that stay are seen once each, and in order. */
static void walk__sees_what_stays_exactly_once(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	uint64_t seed = test_seed(), x = seed;
	struct cairn_digest fixed[FIXED];
	unsigned seen[FIXED] = {0};
	char path[512];
	for (uint64_t i = 0; i < FIXED; i++) {
		struct content c = small(i);
		fixed[i] = c.digest;
		add_referenced(s, &c);
		content_free(&c);
	}
	struct cairn_digest after = {0};
	for (;;) {
		struct cairn_blob_info info[7];
		size_t max = 1 + next_random(&x) % 7;
		size_t n = cairn_cache_next(s->cache, &after, CAIRN_BLOB_REFERENCED, info, max);
		if (n == 0) break;
		for (size_t k = 0; k < n; k++) {
			assert_true(cairn_digest_compare(&info[k].digest, &after) > 0);
			after = info[k].digest;
			for (size_t i = 0; i < FIXED; i++) {
				seen[i] += cairn_digest_equal(&fixed[i], &after);
			}
			cairn_blob_info_fini(&info[k]);
		}
		for (int k = 0; k < 4; k++) {
			struct content c = small(FIXED + next_random(&x) % VOLATILE);
			if (state_of(s, &c.digest) == 0) {
				add_referenced(s, &c);
			} else {
				cairn_cache_release(s->cache, &c.digest);
				(void)unlink(blob_path(s, &c.digest, path));
				assert_code(
					cairn_cache_verify(s->cache, &c.digest, NULL, NULL, &err),
					CAIRN_DATA_LOSS);
				assert_int_equal(state_of(s, &c.digest), 0);
			}
			content_free(&c);
		}
	}
	for (size_t i = 0; i < FIXED; i++) assert_int_equal(seen[i], 1);
}

static void walk__goes_over_both_algorithms_and_filters(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_ingest_status st;
	struct cairn_blob_info info[8];
	struct cairn_digest start = {0}, odd = {.alg = 7};
	struct content a = small(1), b = small(2);
	assert_int_equal(cairn_cache_next(s->cache, &start, 0, info, 8), 0);
	add_cached(s, &a);
	struct cairn_digest d512 = digest_of(CAIRN_SHA512, b.data, b.n);
	struct cairn_ingest *ing = open_ref(s, "b", NULL, false, false);
	assert_ok(put(ing, 0, b.data, b.n, &err));
	assert_ok(cairn_ingest_commit(ing, b.n, 0, &d512, &st, &err));
	cairn_ingest_close(ing);
	assert_int_equal(cairn_cache_next(s->cache, &start, 0, info, 8), 2);
	assert_true(cairn_digest_equal(&info[0].digest, &a.digest));
	assert_true(cairn_digest_equal(&info[1].digest, &d512));
	cairn_blob_info_fini(&info[0]);
	cairn_blob_info_fini(&info[1]);
	assert_int_equal(cairn_cache_next(s->cache, &start, CAIRN_BLOB_REFERENCED, info, 8), 1);
	assert_true(cairn_digest_equal(&info[0].digest, &d512));
	cairn_blob_info_fini(&info[0]);
	assert_int_equal(cairn_cache_next(s->cache, &d512, 0, info, 8), 0);
	assert_int_equal(cairn_cache_next(s->cache, &odd, 0, info, 8), 0);
	assert_int_equal(cairn_cache_next(s->cache, &start, 0, info, 0), 0);
	content_free(&a);
	content_free(&b);
}

#define blob_test(f) cmocka_unit_test_setup_teardown(f, store_setup_open, store_teardown)

int main(void)
{
	cairn_log_set_level(CAIRN_LOG_ERROR + 1);
	const struct CMUnitTest tests[] = {
		blob_test(absent__is_not_found_by_anyone),
		blob_test(cached__is_hidden_from_those_who_record),
		blob_test(referenced__becomes_cached_by_release_and_forgets_labels),
		blob_test(state__survives_an_orderly_restart),
		blob_test(idle__is_counted_from_the_last_use_in_boot_time),
		blob_test(labels__are_set_removed_and_replaced),
		blob_test(labels__have_limits),
		blob_test(unrecorded__is_released_only_after_every_grace),
		blob_test(unrecorded__counts_our_own_restart_as_a_promise),
		blob_test(walk__sees_what_stays_exactly_once),
		blob_test(walk__goes_over_both_algorithms_and_filters),
	};
	return cmocka_run_group_tests_name("cache/blob", tests, NULL, NULL);
}
