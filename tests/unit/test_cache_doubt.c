/* Blobs that nobody has looked at since the start, and what may not be said of them. */
#include "support/store.h"

#define MIB (UINT64_C(1) << 20)

static void rot(struct store *s, const struct cairn_digest *d, off_t at)
{
	char path[512];
	uint8_t byte;
	chmod(blob_path(s, d, path), 0600);
	int fd = open(path, O_RDWR);
	assert_int_equal(pread(fd, &byte, 1, at), 1);
	byte ^= 1;
	assert_int_equal(pwrite(fd, &byte, 1, at), 1);
	close(fd);
}

static void confirm__of_a_good_blob_is_ok_and_proves_it(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_blob *blob;
	struct cairn_view v;
	struct content c = content_new(9 * MIB + 5, 1);
	add_cached(s, &c);
	store_reopen(s);
	struct cairn_ingest *ing = open_ref(s, "r", &c, true, true);
	assert_ok(cairn_ingest_confirm(ing, &err));
	assert_int_equal(status_of(ing).offset, c.n);
	assert_ok(cairn_blob_open(s->cache, &c.digest, &blob, &err));
	assert_int_equal(cairn_blob_view(blob, c.n - 10, 10, false, &v, &err), CAIRN_VIEW_OK);
	cairn_view_release(&v);
	cairn_blob_close(blob);
	cairn_ingest_close(ing);
	content_free(&c);
}

static void confirm__of_a_rotten_blob_fails_and_the_next_try_starts_at_0(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct content c = content_new(3 * MIB, 2);
	const off_t places[] = {0, (off_t)MIB + 7, (off_t)c.n - 1};
	for (size_t i = 0; i < CAIRN_LEN(places); i++) {
		add_cached(s, &c);
		store_reopen(s);
		rot(s, &c.digest, places[i]);
		struct cairn_ingest *ing = open_ref(s, "r", &c, true, true);
		assert_int_equal(status_of(ing).offset, c.n); /* promised from memory */
		assert_code(cairn_ingest_confirm(ing, &err), CAIRN_DATA_LOSS);
		cairn_ingest_close(ing);
		assert_int_equal(state_of(s, &c.digest), 0);
		ing = open_ref(s, "r", &c, true, true);
		assert_int_equal(status_of(ing).offset, 0);
		cairn_ingest_close(ing);
		cairn_cache_abort(s->cache, "r");
	}
	content_free(&c);
}

static void confirm__of_a_lost_file_fails(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	char path[512];
	struct content c = content_new(1000, 3);
	add_cached(s, &c);
	unlink(blob_path(s, &c.digest, path));
	struct cairn_ingest *ing = open_ref(s, "r", &c, true, true);
	assert_code(cairn_ingest_confirm(ing, &err), CAIRN_DATA_LOSS);
	cairn_ingest_close(ing);
	content_free(&c);
}

static void confirm__of_a_private_ingest_is_ok_at_once(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct content c = content_new(1000, 4);
	struct cairn_ingest *ing = open_ref(s, "r", &c, true, true);
	assert_ok(cairn_ingest_confirm(ing, &err));
	cairn_cache_abort(s->cache, "r");
	assert_code(cairn_ingest_confirm(ing, &err), CAIRN_ABORTED);
	cairn_ingest_close(ing);
	content_free(&c);
}

/* Somebody downloads all of a blob of which we have a rotten copy that nobody has read yet. */
static void publish__replaces_a_rotten_copy_that_nobody_noticed(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_ingest_status st;
	struct content c = content_new(2 * MIB + 1, 5);
	add_referenced(s, &c);
	store_reopen(s);
	rot(s, &c.digest, MIB);
	struct cairn_ingest *ing = open_ref(s, "other", &c, true, false);
	assert_ok(put(ing, 0, c.data, c.n, &err));
	assert_code(cairn_ingest_commit(ing, c.n, c.n, &c.digest, &st, &err), CAIRN_ALREADY_EXISTS);
	cairn_ingest_close(ing);
	assert_false(is_damaged(s, &c.digest));
	assert_ok(read_and_compare(s, &c, &err));
	content_free(&c);
}

/* All bytes are there, and they are the wrong ones: resumed, it would fail at every commit. */
static void open__drops_complete_bytes_that_are_not_what_the_ref_says(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_ingest_status st;
	struct content good = content_new(5000, 6), bad = content_new(5000, 7);
	struct cairn_ingest *ing = open_ref(s, "r", &good, true, true);
	assert_ok(put(ing, 0, bad.data, bad.n, &err));
	assert_code(cairn_ingest_commit(ing, bad.n, good.n, &good.digest, &st, &err),
		    CAIRN_FAILED_PRECONDITION);
	assert_int_equal(status_of(ing).offset, bad.n); /* kept as long as the session lasts */
	cairn_ingest_close(ing);
	ing = open_ref(s, "r", &good, true, true);
	assert_int_equal(status_of(ing).offset, 0);
	assert_ok(put(ing, 0, good.data, good.n, &err));
	assert_ok(cairn_ingest_commit(ing, good.n, good.n, &good.digest, &st, &err));
	cairn_ingest_close(ing);
	content_free(&good);
	content_free(&bad);
}

/* After AlreadyExists containerd records the running digest that it heard; here that was sha256. */
static void commit__by_another_algorithm_of_a_known_blob_is_ok(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_ingest_status st;
	struct content c = content_new(5000, 8);
	struct cairn_digest d512 = digest_of(CAIRN_SHA512, c.data, c.n);
	for (int i = 0; i < 2; i++) {
		struct cairn_ingest *ing = open_ref(s, "any", NULL, false, false);
		assert_ok(put(ing, 0, c.data, c.n, &err));
		assert_int_equal(status_of(ing).running.alg, CAIRN_SHA256);
		assert_ok(cairn_ingest_commit(ing, c.n, 0, &d512, &st, &err));
		assert_true(cairn_digest_equal(&st.running, &d512));
		cairn_ingest_close(ing);
	}
	content_free(&c);
}

int main(void)
{
#define TEST(t) cmocka_unit_test_setup_teardown(t, store_setup_open, store_teardown)
	const struct CMUnitTest tests[] = {
		TEST(confirm__of_a_good_blob_is_ok_and_proves_it),
		TEST(confirm__of_a_rotten_blob_fails_and_the_next_try_starts_at_0),
		TEST(confirm__of_a_lost_file_fails),
		TEST(confirm__of_a_private_ingest_is_ok_at_once),
		TEST(publish__replaces_a_rotten_copy_that_nobody_noticed),
		TEST(open__drops_complete_bytes_that_are_not_what_the_ref_says),
		TEST(commit__by_another_algorithm_of_a_known_blob_is_ok),
	};
	return cmocka_run_group_tests_name("cache/doubt", tests, NULL, NULL);
}
