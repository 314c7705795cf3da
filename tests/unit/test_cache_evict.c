/* Eviction, the store's own time, and the age of ingests. */
#include "cache/evict.h"
#include "cache/history.h"
#include "support/rows.h"

#define MIB (1u << 20)
#define HOUR (3600 * CAIRN_NS_PER_S)

static struct cairn_gc_blob seen(struct store *s, const struct cairn_digest *d)
{
	struct cairn_gc_blob list[16];
	struct cairn_digest after = {0};
	size_t n = cairn_cache_next_gc(s->cache, &after, list, CAIRN_LEN(list));
	for (size_t i = 0; i < n; i++) {
		if (cairn_digest_equal(&list[i].digest, d)) return list[i];
	}
	fail_msg("the blob is not seen");
	return (struct cairn_gc_blob){0};
}

/* Evict one blob as it is seen now. */
static enum cairn_evict_outcome evict_seen(struct store *s, const struct cairn_gc_blob *b,
					   uint64_t *freed)
{
	struct cairn_err err;
	struct cairn_eviction e = {.digest = b->digest, .used_ns = b->used_ns};
	assert_ok(cairn_cache_evict(s->cache, &e, 1, &err));
	if (freed != NULL) *freed = e.freed;
	return e.outcome;
}

static enum cairn_evict_outcome evict(struct store *s, const struct cairn_digest *d)
{
	struct cairn_gc_blob b = seen(s, d);
	return evict_seen(s, &b, NULL);
}

/* Who has a record of a blob need not ask for it: until it ends, the blob is in use. */
static void used__until_its_record_is_deleted(void **state)
{
	struct store *s = *state;
	struct content c = content_new(100, 60);
	add_referenced(s, &c);
	int64_t then = seen(s, &c.digest).used_ns;
	clock_move(s, 100 * HOUR);
	cairn_cache_release(s->cache, &c.digest);
	assert_int_equal(seen(s, &c.digest).used_ns, then + 100 * HOUR);
	clock_move(s, HOUR);
	cairn_cache_release(s->cache, &c.digest); /* once */
	assert_int_equal(seen(s, &c.digest).used_ns, then + 100 * HOUR);
	store_reopen(s);
	assert_int_equal(seen(s, &c.digest).used_ns, then + 100 * HOUR);
	/* That listings lack it says nothing about when. */
	assert_true(cairn_cache_reference(s->cache, &c.digest));
	clock_move(s, 100 * HOUR);
	assert_true(cairn_cache_release_unrecorded(s->cache, &c.digest, s->clock.boot_ns));
	assert_int_equal(seen(s, &c.digest).used_ns, then + 100 * HOUR);
	content_free(&c);
}

static bool twice(void *arg)
{
	return ++*(int *)arg <= 2;
}

static void evict__stops_between_two_files(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct content c[4];
	struct cairn_eviction list[4];
	int asked = 0;
	for (size_t i = 0; i < 4; i++) {
		c[i] = content_new(1000, 50 + i);
		add_cached(s, &c[i]);
		list[i] = (struct cairn_eviction){.digest = c[i].digest, .used_ns = INT64_MAX};
	}
	assert_ok(cairn_cache_evict_while(s->cache, list, 4, twice, &asked, &err));
	assert_int_equal(asked, 3);
	for (size_t i = 0; i < 4; i++) {
		assert_int_equal(list[i].outcome, i < 2 ? CAIRN_EVICT_DONE : CAIRN_EVICT_STOPPED);
		assert_int_equal(state_of(s, &c[i].digest), i < 2 ? 0 : CAIRN_BLOB_CACHED);
	}
	store_reopen(s);
	assert_int_equal(count_rows(s, "SELECT count(*) FROM blob"), 2);
	for (size_t i = 2; i < 4; i++) {
		assert_ok(read_and_compare(s, &c[i], &err));
		content_free(&c[i]);
	}
	content_free(&c[0]);
	content_free(&c[1]);
}

static void evict__erases_file_row_and_chain(void **state)
{
	struct store *s = *state;
	struct cairn_cache_stats stats;
	char path[512];
	uint64_t freed;
	struct content c = content_new(3 * MIB, 1);
	add_cached(s, &c);
	struct cairn_gc_blob b = seen(s, &c.digest);
	assert_int_equal(b.size, c.n);
	assert_false(b.referenced);
	assert_false(b.known);
	assert_int_equal(evict_seen(s, &b, &freed), CAIRN_EVICT_DONE);
	assert_true(freed >= c.n);
	assert_int_equal(state_of(s, &c.digest), 0);
	assert_false(exists(blob_path(s, &c.digest, path)));
	cairn_cache_stats(s->cache, &stats);
	assert_int_equal(stats.cached_blobs, 0);
	assert_int_equal(stats.cached_bytes, 0);
	store_reopen(s);
	assert_int_equal(state_of(s, &c.digest), 0);
	assert_int_equal(count_rows(s, "SELECT count(*) FROM blob"), 0);
	assert_int_equal(count_rows(s, "SELECT count(*) FROM chain"), 0);
	content_free(&c);
}

static void evict__spares_what_is_referenced(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct content c = content_new(1000, 2);
	add_referenced(s, &c);
	assert_true(seen(s, &c.digest).known);
	assert_int_equal(evict(s, &c.digest), CAIRN_EVICT_IN_USE);
	assert_ok(read_and_compare(s, &c, &err));
	/* released, it goes, and it is still known that somebody had it */
	cairn_cache_release(s->cache, &c.digest);
	assert_true(seen(s, &c.digest).known);
	assert_int_equal(evict(s, &c.digest), CAIRN_EVICT_DONE);
	content_free(&c);
}

static void evict__spares_what_was_referenced_since_the_decision(void **state)
{
	struct store *s = *state;
	struct content c = content_new(1000, 3);
	add_cached(s, &c);
	struct cairn_gc_blob b = seen(s, &c.digest);
	cairn_cache_reference(s->cache, &c.digest);
	assert_int_equal(evict_seen(s, &b, NULL), CAIRN_EVICT_IN_USE);
	content_free(&c);
}

static void evict__spares_what_is_read(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_blob *blob;
	struct content c = content_new(2 * MIB, 4);
	add_cached(s, &c);
	assert_ok(cairn_blob_open(s->cache, &c.digest, &blob, &err));
	assert_true(seen(s, &c.digest).busy);
	assert_int_equal(evict(s, &c.digest), CAIRN_EVICT_IN_USE);
	struct cairn_view v;
	assert_int_equal(cairn_blob_view(blob, 0, 100, true, &v, &err), CAIRN_VIEW_OK);
	cairn_blob_close(blob);
	/* the view outlives the handle, and still refers to the file */
	assert_true(seen(s, &c.digest).busy);
	assert_int_equal(evict(s, &c.digest), CAIRN_EVICT_IN_USE);
	cairn_view_release(&v);
	assert_false(seen(s, &c.digest).busy);
	assert_int_equal(evict(s, &c.digest), CAIRN_EVICT_DONE);
	content_free(&c);
}

/* Files that nobody reads are closed when there are many; not those that a view refers to. */
static void evict__spares_what_is_held(void **state)
{
	struct store *s = *state;
	struct content c = content_new(5000, 71), absent = content_new(5000, 72);
	char path[512];
	add_cached(s, &c);
	assert_null(cairn_blob_hold(s->cache, &absent.digest));
	cairn_blob_let_go(s->cache, NULL);
	struct cairn_blob_hold *one = cairn_blob_hold(s->cache, &c.digest);
	struct cairn_blob_hold *two = cairn_blob_hold(s->cache, &c.digest);
	assert_non_null(one);
	assert_non_null(two);
	assert_true(seen(s, &c.digest).busy);
	assert_int_equal(evict(s, &c.digest), CAIRN_EVICT_IN_USE);
	cairn_blob_let_go(s->cache, one);
	assert_int_equal(evict(s, &c.digest), CAIRN_EVICT_IN_USE);
	cairn_blob_let_go(s->cache, two);
	assert_false(seen(s, &c.digest).busy);
	assert_int_equal(evict(s, &c.digest), CAIRN_EVICT_DONE);
	assert_false(exists(blob_path(s, &c.digest, path)));
	assert_null(cairn_blob_hold(s->cache, &c.digest));
	content_free(&c);
	content_free(&absent);
}

static void evict__spares_what_a_view_refers_to_however_many_are_open(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_blob *blob;
	struct cairn_view v;
	struct content c = content_new(70000, 300);
	add_cached(s, &c);
	assert_ok(cairn_blob_open(s->cache, &c.digest, &blob, &err));
	assert_int_equal(cairn_blob_view(blob, 0, c.n, true, &v, &err), CAIRN_VIEW_OK);
	cairn_blob_close(blob);
	for (uint64_t i = 0; i < 100; i++) {
		struct content other = content_new(10, 301 + i);
		add_cached(s, &other);
		assert_ok(read_and_compare(s, &other, &err));
		cairn_cache_reference(s->cache, &other.digest);
		content_free(&other);
	}
	struct cairn_eviction e = {.digest = c.digest, .used_ns = INT64_MAX};
	assert_ok(cairn_cache_evict(s->cache, &e, 1, &err));
	assert_int_equal(e.outcome, CAIRN_EVICT_IN_USE);
	assert_memory_equal(v.data, c.data, v.len);
	cairn_view_release(&v);
	assert_ok(cairn_cache_evict(s->cache, &e, 1, &err));
	assert_int_equal(e.outcome, CAIRN_EVICT_DONE);
	content_free(&c);
}

static void evict__spares_what_was_read_since_the_decision(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct content c = content_new(1000, 5);
	add_cached(s, &c);
	struct cairn_gc_blob b = seen(s, &c.digest);
	clock_move(s, 1);
	assert_ok(read_and_compare(s, &c, &err));
	assert_int_equal(evict_seen(s, &b, NULL), CAIRN_EVICT_IN_USE);
	assert_int_equal(evict(s, &c.digest), CAIRN_EVICT_DONE);
	content_free(&c);
}

static void evict__spares_what_was_promised_to_a_writer(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_ingest_status st;
	struct content c = content_new(1000, 6);
	add_cached(s, &c);
	struct cairn_gc_blob b = seen(s, &c.digest);
	struct cairn_ingest *ing = open_ref(s, "pull", &c, true, true);
	assert_int_equal(status_of(ing).offset, c.n);
	assert_int_equal(evict_seen(s, &b, NULL), CAIRN_EVICT_IN_USE);
	assert_int_equal(evict(s, &c.digest), CAIRN_EVICT_IN_USE);
	assert_ok(cairn_ingest_commit(ing, 0, c.n, &c.digest, &st, &err));
	cairn_ingest_close(ing);
	assert_int_equal(evict(s, &c.digest), CAIRN_EVICT_IN_USE);
	content_free(&c);
}

static void evict__of_a_blob_behind_a_closed_ingest_lets_it_start_again(void **state)
{
	struct store *s = *state;
	struct content c = content_new(1000, 7);
	struct cairn_err err;
	struct cairn_ingest *ing = open_ref(s, "pull", &c, true, true);
	assert_ok(put(ing, 0, c.data, c.n, &err));
	cairn_ingest_close(ing);
	assert_int_equal(evict(s, &c.digest), CAIRN_EVICT_DONE);
	ing = open_ref(s, "pull", &c, true, true);
	assert_int_equal(status_of(ing).offset, 0);
	assert_ok(put(ing, 0, c.data, c.n, &err));
	cairn_ingest_close(ing);
	assert_ok(read_and_compare(s, &c, &err));
	content_free(&c);
}

static void evict__tells_what_is_absent(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct content c = content_new(1000, 8);
	struct cairn_eviction e = {.digest = c.digest, .used_ns = INT64_MAX};
	assert_ok(cairn_cache_evict(s->cache, &e, 1, &err));
	assert_int_equal(e.outcome, CAIRN_EVICT_ABSENT);
	content_free(&c);
}

/* A file that has another name frees nothing, and the other name keeps its bytes. */
static void evict__counts_a_linked_file_as_nothing_freed(void **state)
{
	struct store *s = *state;
	char path[512], other[520];
	uint64_t freed;
	struct content c = content_new(MIB, 9);
	add_cached(s, &c);
	snprintf(other, sizeof(other), "%s/other", s->dir);
	assert_int_equal(link(blob_path(s, &c.digest, path), other), 0);
	struct cairn_gc_blob b = seen(s, &c.digest);
	assert_int_equal(evict_seen(s, &b, &freed), CAIRN_EVICT_DONE);
	assert_int_equal(freed, 0);
	assert_true(exists(other));
	content_free(&c);
}

/* The same digest comes again while its file goes: whatever the order, what is told is there. */
static void evict__and_publishing_the_same_digest_do_not_meet(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct content c = content_new(70000, 10);
	for (int i = 0; i < 50; i++) {
		add_cached(s, &c);
		assert_int_equal(evict(s, &c.digest), CAIRN_EVICT_DONE);
	}
	add_referenced(s, &c);
	store_reopen(s);
	assert_int_equal(state_of(s, &c.digest), CAIRN_BLOB_REFERENCED);
	assert_ok(read_and_compare(s, &c, &err));
	content_free(&c);
}

static void peek__reads_all_and_is_no_use(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	void *bytes = NULL;
	size_t n = 0;
	struct content c = content_new(5 * MIB + 3, 30);
	add_cached(s, &c);
	struct cairn_gc_blob before = seen(s, &c.digest);
	clock_move(s, 1000);
	assert_ok(cairn_cache_peek(s->cache, &c.digest, c.n, &bytes, &n, &err));
	assert_int_equal(n, c.n);
	assert_memory_equal(bytes, c.data, n);
	free(bytes);
	assert_int_equal(seen(s, &c.digest).used_ns, before.used_ns);
	assert_code(cairn_cache_peek(s->cache, &c.digest, c.n - 1, &bytes, &n, &err),
		    CAIRN_OUT_OF_RANGE);
	struct cairn_digest other = digest_of(CAIRN_SHA256, "x", 1);
	assert_code(cairn_cache_peek(s->cache, &other, 10, &bytes, &n, &err), CAIRN_NOT_FOUND);
	assert_false(seen(s, &c.digest).busy);
	content_free(&c);
}

static void known__survives_a_restart(void **state)
{
	struct store *s = *state;
	struct content never = content_new(100, 11), once = content_new(100, 12);
	add_cached(s, &never);
	add_referenced(s, &once);
	cairn_cache_release(s->cache, &once.digest);
	store_reopen(s);
	assert_false(seen(s, &never.digest).known);
	assert_true(seen(s, &once.digest).known);
	assert_false(seen(s, &once.digest).referenced);
	content_free(&never);
	content_free(&once);
}

static void next_gc__walks_every_blob_of_both_algorithms(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_ingest_status st;
	struct cairn_gc_blob b;
	struct cairn_digest after = {0};
	size_t n = 0;
	for (uint64_t i = 0; i < 5; i++) {
		struct content c = content_new(50, 100 + i);
		add_cached(s, &c);
		content_free(&c);
	}
	struct content c = content_new(60, 200);
	c.digest = digest_of(CAIRN_SHA512, c.data, c.n);
	struct cairn_ingest *ing = open_ref(s, "sha512", &c, true, false);
	assert_ok(put(ing, 0, c.data, c.n, &err));
	assert_ok(cairn_ingest_commit(ing, c.n, c.n, &c.digest, &st, &err));
	cairn_ingest_close(ing);
	while (cairn_cache_next_gc(s->cache, &after, &b, 1) == 1) {
		after = b.digest;
		n++;
	}
	assert_int_equal(n, 6);
	assert_int_equal(after.alg, CAIRN_SHA512);
	content_free(&c);
}

static void disk__counts_what_the_store_has(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_gc_disk disk;
	struct content c = content_new(5000, 13), half = content_new(3000, 14);
	add_cached(s, &c);
	struct cairn_ingest *ing = open_ref(s, "half", &half, true, false);
	assert_ok(put(ing, 0, half.data, 1000, &err));
	cairn_cache_disk(s->cache, &disk);
	assert_int_equal(disk.own, 6000);
	assert_true(disk.total > 0 && disk.free > 0 && disk.free <= disk.total);
	cairn_ingest_close(ing);
	content_free(&c);
	content_free(&half);
}

static void ingests__age_out_only_when_closed_and_old(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_ingest_status st;
	struct content c = content_new(3000, 15);
	struct cairn_ingest *open = open_ref(s, "open", &c, true, false);
	struct cairn_ingest *old = open_ref(s, "old", &c, true, false);
	assert_ok(put(open, 0, c.data, 1000, &err));
	assert_ok(put(old, 0, c.data, 1000, &err));
	cairn_ingest_close(old);
	clock_move(s, 99);
	assert_int_equal(cairn_cache_expire_ingests(s->cache, 100), 0);
	struct cairn_ingest *young = open_ref(s, "young", &c, true, false);
	cairn_ingest_close(young);
	clock_move(s, 1);
	assert_int_equal(cairn_cache_expire_ingests(s->cache, 100), 1);
	assert_code(cairn_cache_ingest_status(s->cache, "old", &st, &err), CAIRN_NOT_FOUND);
	assert_ok(cairn_cache_ingest_status(s->cache, "young", &st, &err));
	assert_ok(put(open, 1000, c.data + 1000, 2000, &err));
	cairn_ingest_close(open);
	clock_move(s, 100);
	assert_int_equal(cairn_cache_expire_ingests(s->cache, 100), 2);
	wait_for(count_files(s, "ingest") == 0);
	content_free(&c);
}

/* ---- the store's own time */

static void change_index(struct store *s, const char *sql)
{
	char path[512];
	sqlite3 *db;
	snprintf(path, sizeof(path), "%s/index.db", s->dir);
	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
	sqlite3_close(db);
}

/* A file that lost its row to an eviction and a crash still has its chain, and takes it along when
 * it goes, however soon. */
static void evict__of_a_found_file_erases_its_chain(void **state)
{
	struct store *s = *state;
	struct content c = content_new(2 * MIB, 18);
	add_cached(s, &c);
	store_close(s);
	change_index(s, "DELETE FROM blob; UPDATE meta SET value=0 WHERE key='clean'");
	assert_int_equal(count_rows(s, ORPHAN_CHAINS), 1);
	store_open(s);
	cairn_cache_release(s->cache, &c.digest);
	assert_int_equal(evict(s, &c.digest), CAIRN_EVICT_DONE);
	store_close(s);
	assert_int_equal(count_rows(s, "SELECT count(*) FROM chain"), 0);
	store_open(s);
	content_free(&c);
}

/* The index is only as good as its disk: whatever times it has, they are in the past and can be
 * subtracted. */
static void times__from_the_index_are_bounded(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_version *list;
	static const char *const values[] = {"-9223372036854775808", "9223372036854775807", "-1"};
	struct content c = content_new(100, 16);
	add_cached(s, &c);
	assert_ok(cairn_cache_see_version(s->cache, "a:b", &c.digest, NULL, &err));
	for (size_t i = 0; i < CAIRN_LEN(values); i++) {
		for (int age = 0; age < 2; age++) {
			char sql[400];
			store_close(s);
			snprintf(sql, sizeof(sql),
				 "UPDATE blob SET used_ns=%s; UPDATE version SET "
				 "first_ns=%s,last_ns=%s;"
				 "UPDATE meta SET value=%s WHERE key='age' AND %d",
				 values[i], values[i], values[i], values[i], age);
			change_index(s, sql);
			store_open(s);
			clock_move(s, 1000 * CAIRN_NS_PER_S);
			int64_t now = cairn_cache_now_ns(s->cache);
			assert_true(now > 1000 * CAIRN_NS_PER_S && now < INT64_MAX / 2);
			struct cairn_gc_blob b = seen(s, &c.digest);
			assert_true(b.used_ns >= 0 && b.used_ns <= now);
			size_t n = cairn_cache_versions(s->cache, NULL, &list);
			assert_int_equal(n, 1);
			assert_true(list[0].first_ns >= 0 && list[0].first_ns <= list[0].last_ns);
			assert_true(list[0].last_ns <= now);
			cairn_versions_free(list, n);
			assert_ok(read_and_compare(s, &c, &err));
			assert_ok(cairn_cache_see_version(s->cache, "a:b", &c.digest, NULL, &err));
		}
	}
	content_free(&c);
}

/* A wall clock that goes back, a node that was rebooted (boot time begins again) or off. */
static void time__goes_on_whatever_the_clocks_do(void **state)
{
	struct store *s = *state;
	struct content c = content_new(100, 17);
	add_cached(s, &c);
	clock_move(s, 50);
	int64_t before = cairn_cache_now_ns(s->cache), used = seen(s, &c.digest).used_ns;
	store_close(s);
	s->clock.real_ns -= 86400 * CAIRN_NS_PER_S;
	s->clock.boot_ns = 7;
	store_open(s);
	assert_int_equal(cairn_cache_now_ns(s->cache), before);
	assert_int_equal(seen(s, &c.digest).used_ns, used);
	s->clock.real_ns = 1;
	s->clock.boot_ns += 10;
	assert_int_equal(cairn_cache_now_ns(s->cache), before + 10);
	store_reopen(s);
	assert_int_equal(cairn_cache_now_ns(s->cache), before + 10);
	assert_int_equal(seen(s, &c.digest).used_ns, used);
	content_free(&c);
}

#define evict_test(f) cmocka_unit_test_setup_teardown(f, store_setup_open, store_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		evict_test(evict__erases_file_row_and_chain),
		evict_test(evict__stops_between_two_files),
		evict_test(used__until_its_record_is_deleted),
		evict_test(evict__spares_what_is_referenced),
		evict_test(evict__spares_what_was_referenced_since_the_decision),
		evict_test(evict__spares_what_is_read),
		evict_test(evict__spares_what_is_held),
		evict_test(evict__spares_what_a_view_refers_to_however_many_are_open),
		evict_test(evict__spares_what_was_read_since_the_decision),
		evict_test(evict__spares_what_was_promised_to_a_writer),
		evict_test(evict__of_a_blob_behind_a_closed_ingest_lets_it_start_again),
		evict_test(evict__tells_what_is_absent),
		evict_test(evict__counts_a_linked_file_as_nothing_freed),
		evict_test(evict__and_publishing_the_same_digest_do_not_meet),
		evict_test(peek__reads_all_and_is_no_use),
		evict_test(known__survives_a_restart),
		evict_test(next_gc__walks_every_blob_of_both_algorithms),
		evict_test(disk__counts_what_the_store_has),
		evict_test(ingests__age_out_only_when_closed_and_old),
		evict_test(evict__of_a_found_file_erases_its_chain),
		evict_test(times__from_the_index_are_bounded),
		evict_test(time__goes_on_whatever_the_clocks_do),
	};
	return cmocka_run_group_tests_name("cache/evict", tests, NULL, NULL);
}
