/* Every rule of cache.h about ingests, row by row. */
#include "support/store.h"

#define MIB (1u << 20)

static void open__starts_empty_with_the_digest_of_nothing(void **state)
{
	struct store *s = *state;
	struct cairn_ingest *ing = open_ref(s, "a", NULL, false, false);
	struct cairn_ingest_status st = status_of(ing);
	struct cairn_digest empty = digest_of(CAIRN_SHA256, "", 0);
	assert_string_equal(st.ref, "a");
	assert_int_equal(st.offset, 0);
	assert_int_equal(st.total, 0);
	assert_true(cairn_digest_equal(&st.running, &empty));
	assert_int_equal(st.started_ns, s->clock.real_ns);
	assert_int_equal(st.updated_ns, s->clock.real_ns);
	cairn_ingest_close(ing);
}

static void open__refuses_bad_specs(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_ingest *ing;
	char *ref = calloc(1, CAIRN_REF_MAX + 2), owner[CAIRN_OWNER_MAX + 2] = {0};
	memset(ref, 'r', CAIRN_REF_MAX + 1);
	memset(owner, 'o', CAIRN_OWNER_MAX + 1);
	struct cairn_ingest_spec bad[] = {
		{.ref = NULL},
		{.ref = ""},
		{.ref = ref},
		{.ref = "a", .owner = owner},
		{.ref = "a", .total = CAIRN_BLOB_SIZE_MAX + 1},
		{.ref = "a", .want = {.alg = 9}},
	};
	for (size_t i = 0; i < CAIRN_LEN(bad); i++) {
		assert_code(cairn_ingest_open(s->cache, &bad[i], &ing, &err),
			    CAIRN_INVALID_ARGUMENT);
	}
	ref[CAIRN_REF_MAX] = '\0';
	struct cairn_ingest_spec longest = {.ref = ref, .total = CAIRN_BLOB_SIZE_MAX};
	assert_ok(cairn_ingest_open(s->cache, &longest, &ing, &err));
	struct cairn_ingest_status st = status_of(ing);
	assert_string_equal(st.ref, ref);
	cairn_ingest_close(ing);
	free(ref);
}

static void open__locks_the_ref_until_close(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_ingest *a = open_ref(s, "a", NULL, false, false), *b;
	struct cairn_ingest_spec spec = {.ref = "a"};
	for (int i = 0; i < 7; i++) {
		assert_code(cairn_ingest_open(s->cache, &spec, &b, &err), CAIRN_UNAVAILABLE);
	}
	cairn_ingest_close(a);
	assert_ok(cairn_ingest_open(s->cache, &spec, &b, &err));
	cairn_ingest_close(b);
}

static void write__moves_offset_digest_and_time(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct content c = content_new(3 * MIB + 77, 1);
	struct cairn_ingest *ing = open_ref(s, "a", &c, false, false);
	int64_t started = s->clock.real_ns;
	for (size_t at = 0; at < c.n;) {
		size_t n = c.n - at < 100001 ? c.n - at : 100001;
		clock_move(s, 5);
		assert_ok(put(ing, at, c.data + at, n, &err));
		at += n;
		struct cairn_ingest_status st = status_of(ing);
		struct cairn_digest want = digest_of(CAIRN_SHA256, c.data, at);
		assert_int_equal(st.offset, at);
		assert_true(cairn_digest_equal(&st.running, &want));
		assert_int_equal(st.started_ns, started);
		assert_int_equal(st.updated_ns, s->clock.real_ns);
	}
	cairn_ingest_close(ing);
	content_free(&c);
}

static void write__takes_many_spans(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct content c = content_new(2 * MIB + 5, 2);
	struct cairn_span spans[300];
	size_t at = 0;
	for (size_t i = 0; i < 300; i++) {
		size_t n = i == 299 ? c.n - at : i % 7 == 0 ? 0 : 7000;
		spans[i] = (struct cairn_span){c.data + at, n};
		at += n;
	}
	struct cairn_ingest_status st;
	struct cairn_ingest *ing = open_ref(s, "a", &c, true, false);
	assert_ok(cairn_ingest_write(ing, 0, spans, 300, &err));
	assert_ok(cairn_ingest_commit(ing, c.n, c.n, &c.digest, &st, &err));
	cairn_ingest_close(ing);
	assert_ok(read_and_compare(s, &c, &err));
	content_free(&c);
}

static void write__refuses_another_offset(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_ingest *ing = open_ref(s, "a", NULL, false, false);
	assert_code(put(ing, 1, "x", 1, &err), CAIRN_OUT_OF_RANGE);
	assert_ok(put(ing, 0, "hello", 5, &err));
	assert_code(put(ing, 4, "x", 1, &err), CAIRN_OUT_OF_RANGE);
	assert_code(put(ing, 6, "x", 1, &err), CAIRN_OUT_OF_RANGE);
	assert_code(put(ing, UINT64_MAX, "x", 1, &err), CAIRN_OUT_OF_RANGE);
	assert_code(put(ing, UINT64_MAX - 3, "", 0, &err), CAIRN_OUT_OF_RANGE);
	assert_int_equal(status_of(ing).offset, 5);
	struct cairn_span huge[] = {{(const uint8_t *)"", SIZE_MAX}, {(const uint8_t *)"", 2}};
	assert_code(cairn_ingest_write(ing, 5, huge, 2, &err), CAIRN_OUT_OF_RANGE);
	assert_int_equal(status_of(ing).offset, 5);
	cairn_ingest_close(ing);
}

static void write__at_zero_starts_again(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_ingest_status st;
	struct content c = content_new(5000, 3);
	struct cairn_ingest *ing = open_ref(s, "a", NULL, false, false);
	assert_ok(put(ing, 0, "something else, and longer than it", 34, &err));
	assert_ok(put(ing, 0, c.data, 100, &err));
	assert_int_equal(status_of(ing).offset, 100);
	assert_ok(put(ing, 0, "", 0, &err)); /* no bytes: only that */
	assert_int_equal(status_of(ing).offset, 0);
	assert_ok(put(ing, 0, c.data, c.n, &err));
	assert_ok(cairn_ingest_commit(ing, c.n, 0, &c.digest, &st, &err));
	cairn_ingest_close(ing);
	assert_ok(read_and_compare(s, &c, &err));
	content_free(&c);
}

static void write__does_not_enforce_total(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_ingest_status st;
	struct content c = content_new(5000, 4), part = {c.data, 3000, {0}};
	struct cairn_ingest *ing = open_ref(s, "a", &part, false, false);
	assert_ok(put(ing, 0, c.data, c.n, &err));
	assert_ok(cairn_ingest_commit(ing, c.n, c.n, &c.digest, &st, &err));
	cairn_ingest_close(ing);
	assert_ok(read_and_compare(s, &c, &err));
	content_free(&c);
}

static void write__that_reaches_total_publishes_as_cached(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_ingest_status st;
	struct content c = content_new(MIB + 1, 5);
	struct cairn_ingest *ing = open_ref(s, "a", &c, true, false);
	assert_ok(put(ing, 0, c.data, MIB, &err));
	assert_false(cairn_ingest_is_published(ing));
	assert_int_equal(state_of(s, &c.digest), 0);
	assert_ok(put(ing, MIB, c.data + MIB, 1, &err));
	assert_true(cairn_ingest_is_published(ing));
	assert_int_equal(state_of(s, &c.digest), CAIRN_BLOB_CACHED);
	assert_int_equal(status_of(ing).offset, c.n);
	assert_ok(cairn_ingest_commit(ing, c.n, c.n, &c.digest, &st, &err));
	assert_int_equal(st.offset, c.n);
	assert_true(cairn_digest_equal(&st.running, &c.digest));
	assert_int_equal(state_of(s, &c.digest), CAIRN_BLOB_REFERENCED);
	cairn_ingest_close(ing);
	wait_for(count_files(s, "ingest") == 0);
	content_free(&c);
}

static void write__publishes_by_expected_when_nothing_is_wanted(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct content c = content_new(1000, 6);
	struct cairn_ingest *ing = open_ref(s, "a", NULL, false, false);
	cairn_ingest_expect(ing, c.n, &c.digest);
	cairn_ingest_expect(ing, 0, &(struct cairn_digest){0});
	struct cairn_ingest_status st = status_of(ing);
	assert_int_equal(st.total, c.n);
	assert_true(cairn_digest_equal(&st.expected, &c.digest));
	assert_ok(put(ing, 0, c.data, c.n, &err));
	assert_true(cairn_ingest_is_published(ing));
	cairn_ingest_close(ing);
	content_free(&c);
}

static void write__of_other_bytes_publishes_nothing(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_ingest_status st;
	struct content c = content_new(1000, 7), other = content_new(1000, 8);
	struct cairn_ingest *ing = open_ref(s, "a", &c, true, false);
	assert_ok(put(ing, 0, other.data, other.n, &err));
	assert_false(cairn_ingest_is_published(ing));
	assert_int_equal(count_files(s, "blobs/sha256"), 0);
	assert_code(cairn_ingest_commit(ing, c.n, c.n, &c.digest, &st, &err),
		    CAIRN_FAILED_PRECONDITION);
	/* A ref that merely contains a digest: what is committed is what was written. */
	assert_ok(cairn_ingest_commit(ing, c.n, c.n, &other.digest, &st, &err));
	cairn_ingest_close(ing);
	assert_int_equal(state_of(s, &c.digest), 0);
	assert_int_equal(state_of(s, &other.digest), CAIRN_BLOB_REFERENCED);
	content_free(&c);
	content_free(&other);
}

static void commit__refuses_wrong_facts_and_keeps_the_data(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_ingest_status st;
	struct content c = content_new(4096, 9), other = content_new(10, 10);
	struct cairn_digest other512 = digest_of(CAIRN_SHA512, "x", 1);
	struct cairn_ingest *ing = open_ref(s, "a", NULL, false, false);
	assert_ok(put(ing, 0, c.data, c.n, &err));
	assert_code(cairn_ingest_commit(ing, c.n, 0, &other.digest, &st, &err),
		    CAIRN_FAILED_PRECONDITION);
	assert_code(cairn_ingest_commit(ing, c.n, 0, &other512, &st, &err),
		    CAIRN_FAILED_PRECONDITION);
	cairn_ingest_close(ing);
	ing = open_ref(s, "a", NULL, false, false);
	assert_int_equal(status_of(ing).offset, c.n);
	assert_code(cairn_ingest_commit(ing, c.n, c.n + 1, NULL, &st, &err),
		    CAIRN_FAILED_PRECONDITION);
	assert_code(cairn_ingest_commit(ing, 0, 0, NULL, &st, &err), CAIRN_OUT_OF_RANGE);
	assert_code(cairn_ingest_commit(ing, c.n + 1, 0, NULL, &st, &err), CAIRN_OUT_OF_RANGE);
	cairn_ingest_close(ing);
	ing = open_ref(s, "a", NULL, false, false);
	assert_ok(cairn_ingest_commit(ing, c.n, c.n, &c.digest, &st, &err));
	assert_code(cairn_ingest_commit(ing, c.n, c.n, &c.digest, &st, &err), CAIRN_ABORTED);
	cairn_ingest_close(ing);
	assert_ok(read_and_compare(s, &c, &err));
	content_free(&c);
	content_free(&other);
}

static void commit__of_nothing_makes_the_empty_blob(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_ingest_status st;
	struct cairn_digest empty = digest_of(CAIRN_SHA256, "", 0);
	struct cairn_ingest *ing = open_ref(s, "a", NULL, false, false);
	assert_ok(cairn_ingest_commit(ing, 0, 0, &empty, &st, &err));
	cairn_ingest_close(ing);
	assert_int_equal(state_of(s, &empty), CAIRN_BLOB_REFERENCED);
	struct cairn_blob *blob;
	struct cairn_view v;
	assert_ok(cairn_blob_open(s->cache, &empty, &blob, &err));
	assert_int_equal(cairn_blob_size(blob), 0);
	assert_int_equal(cairn_blob_view(blob, 0, 1, true, &v, &err), CAIRN_VIEW_FAILED);
	assert_int_equal(err.code, CAIRN_OUT_OF_RANGE);
	cairn_blob_close(blob);
}

static void commit__of_what_is_referenced_says_exists_and_ends_the_ingest(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_ingest_status st;
	struct content c = content_new(2000, 11);
	add_referenced(s, &c);
	for (int with_digest = 0; with_digest < 2; with_digest++) {
		struct cairn_ingest *ing = open_ref(s, "again", NULL, false, false);
		assert_int_equal(status_of(ing).offset, 0);
		assert_ok(put(ing, 0, c.data, c.n, &err));
		memset(&st, 0, sizeof(st));
		assert_code(
			cairn_ingest_commit(ing, c.n, 0, with_digest ? &c.digest : NULL, &st, &err),
			CAIRN_ALREADY_EXISTS);
		assert_int_equal(st.offset, c.n);
		assert_true(cairn_digest_equal(&st.running, &c.digest));
		cairn_ingest_close(ing);
		assert_code(cairn_cache_ingest_status(s->cache, "again", &st, &err),
			    CAIRN_NOT_FOUND);
	}
	wait_for(count_files(s, "ingest") == 0);
	assert_int_equal(count_files(s, "blobs/sha256"), 1);
	content_free(&c);
}

static void commit__of_what_is_cached_says_ok(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_ingest_status st;
	struct content c = content_new(2000, 12);
	add_cached(s, &c);
	struct cairn_ingest *ing = open_ref(s, "a", NULL, false, false);
	assert_ok(put(ing, 0, c.data, c.n, &err));
	assert_ok(cairn_ingest_commit(ing, c.n, 0, &c.digest, &st, &err));
	cairn_ingest_close(ing);
	assert_int_equal(state_of(s, &c.digest), CAIRN_BLOB_REFERENCED);
	content_free(&c);
}

static void commit__frees_the_ref_before_it_returns(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_ingest_status st;
	struct content c = content_new(20, 13);
	struct cairn_ingest *a = open_ref(s, "a", &c, true, false);
	assert_ok(put(a, 0, c.data, c.n, &err));
	assert_ok(cairn_ingest_commit(a, c.n, 0, NULL, &st, &err));
	struct cairn_ingest *b = open_ref(s, "a", NULL, false, false);
	assert_int_equal(status_of(b).offset, 0);
	cairn_ingest_close(a);
	assert_int_equal(status_of(b).offset, 0); /* closing the old one does not end the new */
	cairn_ingest_close(b);
	content_free(&c);
}

static void commit__takes_sha512(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_ingest_status st;
	struct content c = content_new(2 * MIB + 3, 14);
	struct cairn_digest d512 = digest_of(CAIRN_SHA512, c.data, c.n);
	struct cairn_ingest *ing = open_ref(s, "a", &c, false, false);
	assert_ok(put(ing, 0, c.data, c.n, &err));
	assert_ok(cairn_ingest_commit(ing, c.n, c.n, &d512, &st, &err));
	assert_true(cairn_digest_equal(&st.running, &d512));
	cairn_ingest_close(ing);
	assert_int_equal(state_of(s, &c.digest), 0);
	c.digest = d512;
	assert_ok(read_and_compare(s, &c, &err));
	/* A ref that names a sha512 digest is hashed so from the start, and prefilled. */
	cairn_cache_release(s->cache, &d512);
	ing = open_ref(s, "b", &c, true, true);
	assert_int_equal(status_of(ing).offset, c.n);
	assert_ok(put(ing, 0, c.data, c.n, &err));
	assert_true(cairn_ingest_is_published(ing));
	cairn_ingest_close(ing);
	content_free(&c);
}

static void commit__of_a_published_ingest_under_another_algorithm(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_ingest_status st;
	struct content c = content_new(2 * MIB + 3, 15);
	struct cairn_digest d512 = digest_of(CAIRN_SHA512, c.data, c.n);
	add_cached(s, &c);
	struct cairn_ingest *ing = open_ref(s, "a", &c, true, true);
	assert_true(cairn_ingest_is_published(ing));
	assert_ok(cairn_ingest_commit(ing, 0, c.n, &d512, &st, &err));
	cairn_ingest_close(ing);
	assert_int_equal(state_of(s, &c.digest), CAIRN_BLOB_CACHED);
	assert_int_equal(state_of(s, &d512), CAIRN_BLOB_REFERENCED);
	c.digest = d512;
	assert_ok(read_and_compare(s, &c, &err));
	content_free(&c);
}

/* ---- prefill */

static void prefill__answers_total_at_once(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_ingest_status st;
	struct content c = content_new(MIB, 20);
	add_cached(s, &c);
	for (uint64_t offset = 0; offset <= c.n; offset += c.n) {
		struct cairn_ingest *ing = open_ref(s, "a", &c, true, true);
		st = status_of(ing);
		assert_int_equal(st.offset, c.n);
		assert_true(cairn_digest_equal(&st.running, &c.digest));
		assert_true(cairn_ingest_is_published(ing));
		/* The negotiated offset may be 0: no data, no truncation. */
		assert_ok(cairn_ingest_commit(ing, offset, c.n, &c.digest, &st, &err));
		cairn_ingest_close(ing);
		assert_int_equal(state_of(s, &c.digest), CAIRN_BLOB_REFERENCED);
		cairn_cache_release(s->cache, &c.digest);
		assert_int_equal(state_of(s, &c.digest), CAIRN_BLOB_CACHED);
	}
	assert_int_equal(count_files(s, "ingest"), 0);
	content_free(&c);
}

static void prefill__needs_every_condition(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct content c = content_new(1000, 21), absent = content_new(1000, 22);
	struct cairn_ingest *ing;
	add_cached(s, &c); /* without an owner: nobody committed it */
	struct cairn_ingest_spec specs[] = {
		{.ref = "a", .total = c.n, .want = c.digest, .prefill = false},
		{.ref = "a", .total = 0, .want = c.digest, .prefill = true},
		{.ref = "a", .total = c.n + 1, .want = c.digest, .prefill = true},
		{.ref = "a", .total = c.n, .prefill = true},
		{.ref = "a", .total = c.n, .want = absent.digest, .prefill = true},
		{.ref = "a",
		 .total = c.n,
		 .want = c.digest,
		 .prefill = true,
		 .owners_only = true,
		 .owner = "ns"},
		{.ref = "a", .total = c.n, .want = c.digest, .prefill = true, .owners_only = true},
	};
	for (size_t i = 0; i < CAIRN_LEN(specs); i++) {
		assert_ok(cairn_ingest_open(s->cache, &specs[i], &ing, &err));
		assert_int_equal(status_of(ing).offset, 0);
		cairn_ingest_close(ing);
		cairn_cache_abort(s->cache, "a");
	}
	struct cairn_ingest_status st;
	ing = open_ref(s, "a", &c, true, true);
	assert_ok(cairn_ingest_commit(ing, c.n, 0, NULL, &st, &err));
	cairn_ingest_close(ing);
	cairn_cache_release(s->cache, &c.digest);
	specs[5].owner = "other";
	assert_ok(cairn_ingest_open(s->cache, &specs[5], &ing, &err));
	assert_int_equal(status_of(ing).offset, 0);
	cairn_ingest_close(ing);
	specs[5].owner = "ns"; /* one of its owners, from the commit on */
	assert_ok(cairn_ingest_open(s->cache, &specs[5], &ing, &err));
	assert_int_equal(status_of(ing).offset, c.n);
	cairn_ingest_close(ing);
	content_free(&c);
	content_free(&absent);
}

static void prefill__replaces_partial_data_at_open_only(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct content c = content_new(1000, 23);
	struct cairn_ingest *ing = open_ref(s, "a", &c, true, true);
	assert_ok(put(ing, 0, c.data, 300, &err));
	add_cached(s, &c);
	assert_int_equal(status_of(ing).offset, 300); /* negotiated: it does not drift */
	cairn_ingest_close(ing);
	ing = open_ref(s, "a", &c, true, false);
	assert_int_equal(status_of(ing).offset, 300);
	cairn_ingest_close(ing);
	ing = open_ref(s, "a", &c, true, true);
	assert_int_equal(status_of(ing).offset, c.n);
	cairn_ingest_close(ing);
	wait_for(count_files(s, "ingest") == 0);
	content_free(&c);
}

static void prefill__write_at_zero_begins_a_private_copy(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_ingest_status st;
	struct content c = content_new(1000, 24), other = content_new(1000, 25);
	add_cached(s, &c);
	struct cairn_ingest *ing = open_ref(s, "a", &c, true, true);
	assert_ok(put(ing, 0, other.data, other.n, &err));
	assert_false(cairn_ingest_is_published(ing));
	assert_ok(cairn_ingest_commit(ing, other.n, 0, &other.digest, &st, &err));
	cairn_ingest_close(ing);
	assert_ok(read_and_compare(s, &c, &err));
	assert_ok(read_and_compare(s, &other, &err));
	assert_int_equal(state_of(s, &c.digest), CAIRN_BLOB_CACHED);
	content_free(&c);
	content_free(&other);
}

static void prefill__append_copies_the_blob_first(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_ingest_status st;
	struct content both = content_new(2 * MIB + 900, 26);
	struct content c = {both.data, MIB + 500, {0}};
	c.digest = digest_of(CAIRN_SHA256, c.data, c.n);
	add_referenced(s, &c);
	struct cairn_ingest *ing = open_ref(s, "a", &c, true, true);
	assert_int_equal(status_of(ing).offset, c.n);
	assert_code(put(ing, 5, "x", 1, &err), CAIRN_OUT_OF_RANGE);
	assert_ok(put(ing, c.n, "", 0, &err)); /* no bytes: still the blob's */
	assert_true(cairn_ingest_is_published(ing));
	assert_ok(put(ing, c.n, both.data + c.n, both.n - c.n, &err));
	assert_false(cairn_ingest_is_published(ing));
	st = status_of(ing);
	assert_int_equal(st.offset, both.n);
	assert_true(cairn_digest_equal(&st.running, &both.digest));
	assert_ok(cairn_ingest_commit(ing, both.n, both.n, &both.digest, &st, &err));
	cairn_ingest_close(ing);
	assert_ok(read_and_compare(s, &c, &err));
	assert_ok(read_and_compare(s, &both, &err));
	content_free(&both);
}

static void publish__of_present_bytes_drops_the_private_ones(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_ingest_status st;
	struct content c = content_new(3000, 27);
	struct cairn_ingest *a = open_ref(s, "a", &c, true, true);
	struct cairn_ingest *b = open_ref(s, "b", &c, true, true);
	assert_ok(put(a, 0, c.data, c.n, &err));
	assert_ok(put(b, 0, c.data, c.n, &err));
	assert_true(cairn_ingest_is_published(b));
	wait_for(count_files(s, "ingest") == 0);
	assert_ok(cairn_ingest_commit(a, c.n, 0, NULL, &st, &err));
	assert_code(cairn_ingest_commit(b, c.n, 0, NULL, &st, &err), CAIRN_ALREADY_EXISTS);
	cairn_ingest_close(a);
	cairn_ingest_close(b);
	content_free(&c);
}

/* ---- sessions */

static void resume__keeps_offset_digest_and_times(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	size_t half = MIB + 4711;
	for (int restart = 0; restart < 2; restart++) {
		struct content c = content_new(2 * MIB, 30 + (uint64_t)restart);
		struct cairn_ingest *ing = open_ref(s, "a", &c, true, false);
		struct cairn_digest digest = digest_of(CAIRN_SHA256, c.data, half);
		clock_move(s, 1001);
		assert_ok(put(ing, 0, c.data, half, &err));
		struct cairn_ingest_status before = status_of(ing), after;
		cairn_ingest_close(ing);
		clock_move(s, 777);
		if (restart) store_reopen(s);
		assert_ok(cairn_cache_ingest_status(s->cache, "a", &after, &err));
		assert_int_equal(after.offset, half);
		ing = open_ref(s, "a", &c, true, false);
		after = status_of(ing);
		assert_int_equal(after.offset, half);
		assert_int_equal(after.total, c.n);
		assert_true(cairn_digest_equal(&after.running, &digest));
		assert_int_equal(after.started_ns, before.started_ns);
		assert_int_equal(after.updated_ns, before.updated_ns);
		assert_ok(put(ing, half, c.data + half, c.n - half, &err));
		assert_ok(cairn_ingest_commit(ing, c.n, c.n, &c.digest, &after, &err));
		cairn_ingest_close(ing);
		assert_ok(read_and_compare(s, &c, &err));
		content_free(&c);
	}
}

static void resume__survives_restarts_in_any_shape(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_ingest_status st;
	struct content c = content_new(1000, 31);
	cairn_ingest_close(open_ref(s, "empty", &c, false, false));
	struct cairn_ingest *ing = open_ref(s, "published", &c, true, false);
	assert_ok(put(ing, 0, c.data, c.n, &err));
	cairn_ingest_close(ing);
	cairn_ingest_close(open_ref(s, "aborted", &c, false, false));
	store_reopen(s);
	cairn_cache_abort(s->cache, "aborted");
	store_reopen(s);
	assert_ok(cairn_cache_ingest_status(s->cache, "empty", &st, &err));
	assert_int_equal(st.offset, 0);
	assert_int_equal(st.total, c.n);
	assert_code(cairn_cache_ingest_status(s->cache, "aborted", &st, &err), CAIRN_NOT_FOUND);
	ing = open_ref(s, "published", &c, true, false);
	assert_true(cairn_ingest_is_published(ing));
	assert_int_equal(state_of(s, &c.digest), CAIRN_BLOB_CACHED);
	assert_ok(cairn_ingest_commit(ing, c.n, c.n, &c.digest, &st, &err));
	cairn_ingest_close(ing);
	content_free(&c);
}

static void resume__of_data_that_is_gone_starts_again(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_ingest_status st;
	char cmd[600];
	struct content c = content_new(5000, 34);
	static const char *const harm[] = {"truncate -s 4000", "rm -f"};
	for (size_t i = 0; i < CAIRN_LEN(harm); i++) {
		struct cairn_ingest *ing = open_ref(s, "a", &c, false, false);
		assert_ok(put(ing, 0, c.data, 4500, &err));
		cairn_ingest_close(ing);
		store_close(s);
		snprintf(cmd, sizeof(cmd), "%s %s/ingest/*", harm[i], s->dir);
		assert_int_equal(system(cmd), 0);
		store_open(s);
		assert_code(cairn_cache_ingest_status(s->cache, "a", &st, &err), CAIRN_NOT_FOUND);
		assert_int_equal(count_files(s, "ingest"), 0);
	}
	content_free(&c);
}

static void resume__with_another_total_starts_again(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct content c = content_new(1000, 32), longer = {NULL, 2000, {0}};
	struct cairn_ingest *ing = open_ref(s, "a", &c, false, false);
	assert_ok(put(ing, 0, c.data, 500, &err));
	cairn_ingest_close(ing);
	ing = open_ref(s, "a", NULL, false, false); /* unknown is not different */
	assert_int_equal(status_of(ing).offset, 500);
	assert_int_equal(status_of(ing).total, c.n);
	cairn_ingest_close(ing);
	ing = open_ref(s, "a", &longer, false, false);
	assert_int_equal(status_of(ing).offset, 0);
	assert_int_equal(status_of(ing).total, 2000);
	cairn_ingest_close(ing);
	content_free(&c);
}

static void abort__ends_an_open_session(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_ingest_status st;
	struct content c = content_new(1000, 33);
	struct cairn_ingest *a = open_ref(s, "a", &c, true, false);
	assert_ok(put(a, 0, c.data, 500, &err));
	cairn_cache_abort(s->cache, "a");
	assert_code(cairn_cache_ingest_status(s->cache, "a", &st, &err), CAIRN_NOT_FOUND);
	struct cairn_ingest *b = open_ref(s, "a", &c, true, false);
	assert_int_equal(status_of(b).offset, 0);
	assert_code(put(a, 500, c.data + 500, 500, &err), CAIRN_ABORTED);
	assert_code(cairn_ingest_get_status(a, &st, &err), CAIRN_ABORTED);
	assert_code(cairn_ingest_commit(a, 500, 0, NULL, &st, &err), CAIRN_ABORTED);
	assert_false(cairn_ingest_is_published(a));
	cairn_ingest_expect(a, 77, NULL);
	cairn_ingest_close(a);
	assert_int_equal(status_of(b).total, c.n);
	assert_ok(put(b, 0, c.data, c.n, &err));
	assert_true(cairn_ingest_is_published(b));
	cairn_ingest_close(b);
	cairn_cache_abort(s->cache, "a");
	cairn_cache_abort(s->cache, "never heard of");
	wait_for(count_files(s, "ingest") == 0);
	assert_int_equal(state_of(s, &c.digest), CAIRN_BLOB_CACHED);
	content_free(&c);
}

static void handle__outlives_close_for_those_who_hold_it(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_ingest *a = open_ref(s, "a", NULL, false, false);
	struct cairn_ingest *job = cairn_ingest_ref(a);
	cairn_ingest_close(a);
	assert_code(put(job, 0, "x", 1, &err), CAIRN_ABORTED);
	struct cairn_ingest *b = open_ref(s, "a", NULL, false, false);
	assert_code(put(job, 0, "x", 1, &err), CAIRN_ABORTED);
	assert_int_equal(status_of(b).offset, 0);
	cairn_ingest_unref(job);
	cairn_ingest_close(b);
	cairn_ingest_close(NULL);
	cairn_ingest_unref(NULL);
}

static void walk__sees_every_ref_in_order(void **state)
{
	struct store *s = *state;
	struct cairn_ingest_status st[2];
	char ref[32], last[32] = "";
	for (int i = 0; i < 100; i++) {
		snprintf(ref, sizeof(ref), "k8s.io/1/ref-%d", i * 37 % 100);
		cairn_ingest_close(open_ref(s, ref, NULL, false, false));
	}
	size_t seen = 0, n;
	const char *after = NULL;
	while ((n = cairn_cache_next_ingest(s->cache, after, st, 2)) > 0) {
		for (size_t i = 0; i < n; i++, seen++) {
			assert_true(strcmp(st[i].ref, last) > 0);
			snprintf(last, sizeof(last), "%.31s", st[i].ref);
		}
		after = last;
	}
	assert_int_equal(seen, 100);
}

static void open__is_bounded(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_ingest *ing;
	char ref[32];
	struct cairn_ingest_spec spec = {.ref = ref};
	for (int i = 0; i < CAIRN_INGESTS_MAX; i++) {
		snprintf(ref, sizeof(ref), "ref-%d", i);
		assert_ok(cairn_ingest_open(s->cache, &spec, &ing, &err));
		cairn_ingest_close(ing);
	}
	spec.ref = "one more";
	assert_code(cairn_ingest_open(s->cache, &spec, &ing, &err), CAIRN_RESOURCE_EXHAUSTED);
	cairn_cache_abort(s->cache, "ref-77");
	assert_ok(cairn_ingest_open(s->cache, &spec, &ing, &err));
	cairn_ingest_close(ing);
	struct cairn_cache_stats stats;
	cairn_cache_stats(s->cache, &stats);
	assert_int_equal(stats.ingests, CAIRN_INGESTS_MAX);
}

/* ---- the store's own ---- */

static struct cairn_ingest *open_own(struct store *s, const struct content *c)
{
	struct cairn_err err;
	struct cairn_ingest *ing = NULL;
	struct cairn_ingest_spec spec = {
		.ref = "fill", .total = c->n, .want = c->digest, .own = true};
	assert_ok(cairn_ingest_open(s->cache, &spec, &ing, &err));
	return ing;
}

static void own__is_seen_by_nobody(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_ingest_status st;
	uint64_t offset;
	struct content c = content_new(5000, 400);
	struct cairn_ingest *own = open_own(s, &c);
	assert_ok(put(own, 0, c.data, 2000, &err));
	assert_int_equal(cairn_cache_next_ingest(s->cache, NULL, &st, 1), 0);
	assert_code(cairn_cache_ingest_status(s->cache, "fill", &st, &err), CAIRN_NOT_FOUND);
	assert_code(cairn_cache_ingest_status(s->cache,
					      "\x1f"
					      "fill",
					      &st, &err),
		    CAIRN_NOT_FOUND);
	cairn_cache_abort(s->cache, "fill");
	cairn_cache_abort(s->cache, "\x1f"
				    "fill");
	assert_false(cairn_cache_is_written(s->cache, &c.digest, &offset));
	struct cairn_ingest_spec spec = {.ref = "\x1f"
						"fill"};
	struct cairn_ingest *other = NULL;
	assert_code(cairn_ingest_open(s->cache, &spec, &other, &err), CAIRN_INVALID_ARGUMENT);
	/* the same ref, of somebody else, is another ingest */
	other = open_ref(s, "fill", &c, true, true);
	assert_int_equal(status_of(other).offset, 0);
	assert_true(cairn_cache_is_written(s->cache, &c.digest, &offset));
	cairn_ingest_close(other);
	cairn_ingest_close(own);
	store_reopen(s); /* it goes on where it was */
	assert_int_equal(cairn_cache_own_offset(s->cache, "fill"), 2000);
	assert_int_equal(cairn_cache_own_offset(s->cache, "other"), 0);
	own = open_own(s, &c);
	assert_int_equal(status_of(own).offset, 2000);
	assert_ok(put(own, 2000, c.data + 2000, 3000, &err));
	assert_true(cairn_ingest_is_published(own));
	cairn_ingest_abort(own);
	cairn_ingest_close(own);
	assert_int_equal(state_of(s, &c.digest), CAIRN_BLOB_CACHED);
	content_free(&c);
}

static void prefill__of_a_blob_that_came_since(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_ingest_status st;
	struct content c = content_new(5000, 401);
	struct cairn_ingest *ing = open_ref(s, "pull", &c, true, true);
	assert_false(cairn_ingest_prefill(ing, false));
	struct cairn_ingest *own = open_own(s, &c);
	assert_ok(put(own, 0, c.data, c.n, &err));
	cairn_ingest_abort(own);
	cairn_ingest_close(own);
	assert_false(cairn_ingest_prefill(ing, true)); /* "ns" is no owner of it yet */
	cairn_cache_add_owner(s->cache, &c.digest, "ns");
	assert_true(cairn_ingest_prefill(ing, true));
	assert_int_equal(status_of(ing).offset, c.n);
	/* the client still counts from where it began */
	assert_ok(cairn_ingest_commit(ing, 0, c.n, &c.digest, &st, &err));
	cairn_ingest_close(ing);
	assert_int_equal(state_of(s, &c.digest), CAIRN_BLOB_REFERENCED);
	content_free(&c);
}

#define ingest_test(f) cmocka_unit_test_setup_teardown(f, store_setup_open, store_teardown)

int main(void)
{
	cairn_log_set_level(CAIRN_LOG_ERROR);
	const struct CMUnitTest tests[] = {
		ingest_test(open__starts_empty_with_the_digest_of_nothing),
		ingest_test(open__refuses_bad_specs),
		ingest_test(open__locks_the_ref_until_close),
		ingest_test(open__is_bounded),
		ingest_test(write__moves_offset_digest_and_time),
		ingest_test(write__takes_many_spans),
		ingest_test(write__refuses_another_offset),
		ingest_test(write__at_zero_starts_again),
		ingest_test(write__does_not_enforce_total),
		ingest_test(write__that_reaches_total_publishes_as_cached),
		ingest_test(write__publishes_by_expected_when_nothing_is_wanted),
		ingest_test(write__of_other_bytes_publishes_nothing),
		ingest_test(commit__refuses_wrong_facts_and_keeps_the_data),
		ingest_test(commit__of_nothing_makes_the_empty_blob),
		ingest_test(commit__of_what_is_referenced_says_exists_and_ends_the_ingest),
		ingest_test(commit__of_what_is_cached_says_ok),
		ingest_test(commit__frees_the_ref_before_it_returns),
		ingest_test(commit__takes_sha512),
		ingest_test(commit__of_a_published_ingest_under_another_algorithm),
		ingest_test(prefill__answers_total_at_once),
		ingest_test(prefill__needs_every_condition),
		ingest_test(prefill__replaces_partial_data_at_open_only),
		ingest_test(prefill__write_at_zero_begins_a_private_copy),
		ingest_test(prefill__append_copies_the_blob_first),
		ingest_test(publish__of_present_bytes_drops_the_private_ones),
		ingest_test(resume__keeps_offset_digest_and_times),
		ingest_test(resume__survives_restarts_in_any_shape),
		ingest_test(resume__of_data_that_is_gone_starts_again),
		ingest_test(resume__with_another_total_starts_again),
		ingest_test(abort__ends_an_open_session),
		ingest_test(handle__outlives_close_for_those_who_hold_it),
		ingest_test(walk__sees_every_ref_in_order),
		ingest_test(own__is_seen_by_nobody),
		ingest_test(prefill__of_a_blob_that_came_since),
	};
	return cmocka_run_group_tests_name("cache/ingest", tests, NULL, NULL);
}
