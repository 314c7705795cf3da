/* Bytes that come in order, as others see them; and the lists of what is whole. */
#include <pthread.h>

#include "cache/evict.h"
#include "support/pieces.h"

#define MIB (1u << 20)

static uint32_t pieces_of(struct cairn_partial *p, enum cairn_partial_state want)
{
	uint32_t n = 12345;
	assert_int_equal(cairn_partial_look(p, &n), want);
	return n;
}

static struct cairn_partial *find(struct store *s, const struct content *c)
{
	return cairn_partial_find(s->cache, &c->digest, c->n);
}

/* All that is there is what it should be. */
static void compare(struct cairn_partial *p, const struct content *c, uint32_t pieces)
{
	struct cairn_err err;
	uint64_t step = cairn_piece_size(c->n), n = pieces * step < c->n ? pieces * step : c->n;
	uint32_t entries = pieces < cairn_piece_count(c->n) ? pieces : pieces - 1;
	size_t width = cairn_alg_bytes(c->digest.alg);
	uint8_t *buf = malloc(n), *list = list_of(c), *got = malloc((entries + 1) * width);
	assert_ok(cairn_partial_read(p, 0, buf, n, &err));
	assert_memory_equal(buf, c->data, n);
	assert_true(cairn_partial_list(p, 0, entries, got));
	assert_memory_equal(got, list, entries * width);
	for (uint32_t k = 0; k < entries; k++) {
		assert_true(cairn_partial_list(p, k, 1, got));
		assert_memory_equal(got, list + k * width, width);
	}
	assert_false(cairn_partial_list(p, entries, 1, got));
	assert_false(cairn_partial_list(p, 0, entries + 1, got));
	assert_false(cairn_partial_list(p, UINT32_MAX, 2, got));
	assert_true(cairn_partial_list(p, entries, 0, got));
	free(got);
	free(list);
	free(buf);
}

static void growth__is_seen_until_it_is_whole(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	uint8_t byte;
	struct content c = content_new(3 * MIB + 9, 1);
	struct cairn_ingest *ing = open_ref(s, "a", &c, true, false);
	assert_null(find(s, &c));
	assert_ok(put(ing, 0, c.data, MIB - 1, &err));
	assert_null(find(s, &c));
	assert_ok(put(ing, MIB - 1, c.data + MIB - 1, 1, &err));
	struct cairn_partial *p = find(s, &c);
	assert_non_null(p);
	assert_null(cairn_partial_find(s->cache, &c.digest, c.n + 1));
	assert_int_equal(pieces_of(p, CAIRN_PARTIAL_GROWS), 1);
	compare(p, &c, 1);
	assert_ok(put(ing, MIB, c.data + MIB, 2 * MIB + 8, &err));
	assert_int_equal(pieces_of(p, CAIRN_PARTIAL_GROWS), 3);
	compare(p, &c, 3);
	assert_ok(put(ing, c.n - 1, c.data + c.n - 1, 1, &err));
	assert_int_equal(pieces_of(p, CAIRN_PARTIAL_WHOLE), 4);
	assert_null(find(s, &c));
	compare(p, &c, 4);
	/* Whatever happens to the ingest and to the blob now, what it has is right. */
	assert_ok(put(ing, 0, c.data, 5, &err));
	cairn_ingest_abort(ing);
	cairn_ingest_close(ing);
	struct cairn_eviction e = {.digest = c.digest, .used_ns = INT64_MAX};
	assert_ok(cairn_cache_evict(s->cache, &e, 1, &err));
	assert_int_equal(e.outcome, CAIRN_EVICT_DONE);
	assert_int_equal(pieces_of(p, CAIRN_PARTIAL_WHOLE), 4);
	compare(p, &c, 4);
	assert_code(cairn_partial_read(p, c.n, &byte, 1, &err), CAIRN_INTERNAL);
	assert_code(cairn_partial_read(p, UINT64_MAX, &byte, 1, &err), CAIRN_INTERNAL);
	cairn_partial_free(p);
	cairn_partial_free(NULL);
	content_free(&c);
}

static void end__of_the_ingest_is_seen(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	uint8_t list[64];
	struct content c = content_new(3 * MIB + 9, 2);
	for (unsigned how = 0; how < 6; how++) {
		struct cairn_ingest *ing = open_ref(s, "a", &c, true, false);
		assert_ok(put(ing, 0, c.data, 2 * MIB + 10, &err));
		struct cairn_partial *p = find(s, &c);
		assert_int_equal(pieces_of(p, CAIRN_PARTIAL_GROWS), 2);
		switch (how) {
		case 0:
			cairn_ingest_close(ing);
			break;
		case 1:
			cairn_ingest_abort(ing);
			break;
		case 2:
			cairn_cache_abort(s->cache, "a");
			break;
		case 3:
			assert_ok(put(ing, 0, c.data, 0, &err));
			break;
		case 4: /* one byte is wrong */
			assert_ok(put(ing, 2 * MIB + 10, c.data, c.n - 2 * MIB - 10, &err));
			break;
		default:
			cairn_ingest_expect(ing, c.n + 1, NULL);
		}
		assert_int_equal(pieces_of(p, CAIRN_PARTIAL_STALE), 0);
		assert_false(cairn_partial_list(p, 0, 1, list));
		assert_null(find(s, &c));
		/* Started again it is another one; with the same data it would be the same. */
		if (how != 0) {
			cairn_ingest_close(ing);
			cairn_cache_abort(s->cache, "a");
		}
		ing = open_ref(s, "a", &c, true, false);
		assert_ok(put(ing, 0, c.data, MIB, &err));
		assert_int_equal(pieces_of(p, CAIRN_PARTIAL_STALE), 0);
		struct cairn_partial *again = find(s, &c);
		assert_int_equal(pieces_of(again, CAIRN_PARTIAL_GROWS), 1);
		cairn_partial_free(again);
		cairn_partial_free(p);
		cairn_ingest_close(ing);
		cairn_cache_abort(s->cache, "a");
	}
	content_free(&c);
}

static void furthest__of_all_that_stand_for_the_digest(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct content c = content_new(4 * MIB, 3);
	c.digest = digest_of(CAIRN_SHA512, c.data, c.n);
	struct cairn_ingest *a = open_ref(s, "a", &c, true, false), *own = NULL;
	struct cairn_ingest *nobody = open_ref(s, "b", NULL, false, false);
	struct cairn_ingest_spec spec = {.ref = "fill", .own = true, .total = c.n};
	spec.want = c.digest;
	assert_ok(cairn_ingest_open(s->cache, &spec, &own, &err));
	assert_ok(put(nobody, 0, c.data, 4 * MIB - 1, &err));
	assert_ok(put(a, 0, c.data, MIB, &err));
	assert_ok(put(own, 0, c.data, 3 * MIB + 1, &err));
	struct cairn_partial *p = find(s, &c);
	assert_int_equal(pieces_of(p, CAIRN_PARTIAL_GROWS), 3);
	compare(p, &c, 3);
	/* Published by another one: this one's bytes go. */
	struct cairn_partial *whole = p;
	assert_ok(put(a, MIB, c.data + MIB, 3 * MIB, &err));
	assert_true(cairn_ingest_prefill(own, false));
	assert_int_equal(pieces_of(whole, CAIRN_PARTIAL_STALE), 0);
	cairn_partial_free(p);
	cairn_ingest_close(a);
	cairn_ingest_close(own);
	cairn_ingest_close(nobody);
	content_free(&c);
}

static void restart__of_the_store_loses_no_piece(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct content c = content_new(4 * MIB + 1, 4);
	struct cairn_ingest *ing = open_ref(s, "a", &c, true, false);
	assert_ok(put(ing, 0, c.data, 2 * MIB + 1000, &err));
	cairn_ingest_close(ing);
	store_reopen(s);
	assert_null(find(s, &c)); /* nobody writes it */
	ing = open_ref(s, "a", &c, true, false);
	struct cairn_partial *p = find(s, &c);
	assert_int_equal(pieces_of(p, CAIRN_PARTIAL_GROWS), 2);
	compare(p, &c, 2);
	assert_ok(put(ing, 2 * MIB + 1000, c.data + 2 * MIB + 1000, c.n - 2 * MIB - 1000, &err));
	assert_int_equal(pieces_of(p, CAIRN_PARTIAL_WHOLE), 5);
	compare(p, &c, 5);
	cairn_partial_free(p);
	cairn_ingest_close(ing);
	content_free(&c);
}

/* ---- while another thread writes */

struct writing {
	struct store *s;
	const struct content *c;
	uint64_t x;
	_Atomic bool done;
};

/* Starts again, closes, aborts, writes wrong bytes, and at last gets it done. */
static void *write_by_chance(void *arg)
{
	struct writing *w = arg;
	struct cairn_err err;
	for (unsigned tries = 0; !w->done; tries++) {
		struct cairn_ingest *ing = open_ref(w->s, "a", w->c, true, false);
		uint64_t at = status_of(ing).offset, end = w->c->n;
		if (tries < 40 && next_random(&w->x) % 3 == 0) at = 0;
		if (tries < 40) end = at + next_random(&w->x) % (w->c->n - at);
		while (at < end) {
			uint64_t n = 1 + next_random(&w->x) % 300000;
			if (n > end - at) n = end - at;
			if (put(ing, at, w->c->data + at, n, &err) != CAIRN_OK) abort();
			at += n;
		}
		w->done = cairn_ingest_is_published(ing);
		if (!w->done && next_random(&w->x) % 4 == 0) cairn_ingest_abort(ing);
		cairn_ingest_close(ing);
	}
	return NULL;
}

static void reader__never_sees_a_wrong_byte(void **state)
{
	struct store *s = *state;
	struct content c = content_new(6 * MIB + 3, 5);
	struct writing w = {.s = s, .c = &c, .x = test_seed()};
	pthread_t thread;
	uint64_t x = w.x + 1;
	uint8_t *list = list_of(&c), *buf = malloc(MIB), got[32];
	assert_int_equal(pthread_create(&thread, NULL, write_by_chance, &w), 0);
	struct cairn_partial *p = NULL;
	while (!w.done) {
		struct cairn_err err;
		uint32_t n = 0;
		if (p == NULL) p = find(s, &c);
		if (p == NULL || cairn_partial_look(p, &n) == CAIRN_PARTIAL_STALE) {
			cairn_partial_free(cairn_steal(&p));
			cairn_let_others_in();
			continue;
		}
		uint32_t k = (uint32_t)(next_random(&x) % n);
		size_t length = (size_t)cairn_piece_length(c.n, k);
		assert_ok(cairn_partial_read(p, (uint64_t)k * MIB, buf, length, &err));
		if (cairn_partial_look(p, &n) == CAIRN_PARTIAL_STALE) continue;
		assert_memory_equal(buf, c.data + (size_t)k * MIB, length);
		if (k < 6 && cairn_partial_list(p, k, 1, got)) {
			assert_memory_equal(got, list + (size_t)k * 32, 32);
		}
	}
	pthread_join(thread, NULL);
	cairn_partial_free(p);
	free(buf);
	free(list);
	content_free(&c);
}

/* ---- lists of whole blobs */

static void expect_list(struct store *s, const struct content *c)
{
	struct cairn_err err;
	struct cairn_blob *blob = NULL;
	uint8_t *list = list_of(c), *got = (uint8_t *)1;
	size_t n = (cairn_piece_count(c->n) - 1) * cairn_alg_bytes(c->digest.alg);
	assert_ok(cairn_blob_open(s->cache, &c->digest, &blob, &err));
	assert_ok(cairn_blob_piece_list(blob, &got, &err));
	if (n == 0) assert_null(got);
	if (n > 0) assert_memory_equal(got, list, n);
	cairn_blob_close(blob);
	free(got);
	free(list);
}

static void list__is_the_same_however_the_blob_came(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	char path[512], from[512];
	static const size_t sizes[] = {1, MIB, MIB + 1, 3 * MIB, 4 * MIB + 5};
	for (size_t i = 0; i < 2 * CAIRN_LEN(sizes); i++) {
		struct content c = content_new(sizes[i / 2], 50 + i);
		if (i % 2 == 1) c.digest = digest_of(CAIRN_SHA512, c.data, c.n);
		uint8_t *list = list_of(&c);
		if (i % 4 < 2) {
			add_referenced(s, &c);
		} else {
			struct cairn_pieces *p = pieces_open(s, &c);
			put_all(p, &c, list);
			assert_ok(cairn_pieces_publish(p, &err));
			cairn_pieces_close(p, false);
		}
		expect_list(s, &c);
		store_reopen(s);
		expect_list(s, &c);
		/* Without an index the file is hashed; and what is not the blob has no list. */
		store_close(s);
		snprintf(path, sizeof(path), "%s/index.db", s->dir);
		assert_int_equal(unlink(path), 0);
		store_open(s);
		expect_list(s, &c);
		expect_list(s, &c);
		free(list);
		content_free(&c);
	}
	struct content c = content_new(2 * MIB, 99);
	add_referenced(s, &c);
	store_close(s);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(chmod(blob_path(s, &c.digest, from), 0600), 0);
	int fd = open(from, O_WRONLY | O_CLOEXEC);
	assert_int_equal(pwrite(fd, "x", 1, MIB + 5), 1);
	close(fd);
	store_open(s);
	struct cairn_blob *blob = NULL;
	uint8_t *got = NULL;
	assert_ok(cairn_blob_open(s->cache, &c.digest, &blob, &err));
	assert_code(cairn_blob_piece_list(blob, &got, &err), CAIRN_DATA_LOSS);
	assert_true(is_damaged(s, &c.digest));
	cairn_blob_close(blob);
	content_free(&c);
}

static void list__of_an_empty_blob_is_refused(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_ingest_status st;
	struct cairn_blob *blob = NULL;
	uint8_t *got = NULL;
	struct content c = content_new(0, 1);
	struct cairn_ingest *ing = open_ref(s, "a", &c, true, false);
	assert_ok(cairn_ingest_commit(ing, 0, 0, &c.digest, &st, &err));
	cairn_ingest_close(ing);
	assert_ok(cairn_blob_open(s->cache, &c.digest, &blob, &err));
	assert_code(cairn_blob_piece_list(blob, &got, &err), CAIRN_FAILED_PRECONDITION);
	cairn_blob_close(blob);
	content_free(&c);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, store_setup_open, store_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(growth__is_seen_until_it_is_whole),
		TEST(end__of_the_ingest_is_seen),
		TEST(furthest__of_all_that_stand_for_the_digest),
		TEST(restart__of_the_store_loses_no_piece),
		TEST(reader__never_sees_a_wrong_byte),
		TEST(list__is_the_same_however_the_blob_came),
		TEST(list__of_an_empty_blob_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
