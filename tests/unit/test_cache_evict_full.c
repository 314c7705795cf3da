/* Evictions when there is no room left to write in: on a disk that is really full, in a mount
 * namespace of its own, with an index of a size that a node has; and (--wrap) with an index that
 * takes no new row. */
#include <sched.h>
#include <sqlite3.h>
#include <sys/mount.h>
#include <sys/wait.h>

#include "cache/evict.h"
#include "cache/history.h"
#include "support/store.h"

#define MIB (1u << 20)
#define BLOBS 40000
#define MANY 1024

static _Atomic bool no_new_rows;

int __real_sqlite3_step(sqlite3_stmt *st);
int __wrap_sqlite3_step(sqlite3_stmt *st);
int __wrap_sqlite3_step(sqlite3_stmt *st)
{
	if (no_new_rows && strncmp(sqlite3_sql(st), "INSERT", 6) == 0) return SQLITE_FULL;
	return __real_sqlite3_step(st);
}

static int64_t now_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* ---- a large store, made by hand ---- */

static struct cairn_digest nth(unsigned i)
{
	return digest_of(CAIRN_SHA256, &i, sizeof(i));
}

static void put_empty_file(struct store *s, const struct cairn_digest *d)
{
	char path[512];
	int fd = open(blob_path(s, d, path), O_CREAT | O_WRONLY | O_CLOEXEC, 0400);
	assert_true(fd >= 0);
	close(fd);
}

/* Empty blobs under many digests: nobody reads them. */
static void make_large(struct store *s)
{
	char path[512];
	sqlite3 *db;
	sqlite3_stmt *st;
	store_open(s);
	store_close(s);
	snprintf(path, sizeof(path), "%s/index.db", s->dir);
	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	assert_int_equal(sqlite3_exec(db, "BEGIN", NULL, NULL, NULL), SQLITE_OK);
	assert_int_equal(
		sqlite3_prepare_v2(db,
				   "INSERT INTO blob VALUES(?,0,1,0,1,1,1700000000000000000,"
				   "NULL,?,0)",
				   -1, &st, NULL),
		SQLITE_OK);
	for (unsigned i = 0; i < BLOBS; i++) {
		struct cairn_digest d = nth(i);
		uint8_t key[33] = {CAIRN_SHA256};
		memcpy(key + 1, d.bytes, 32);
		sqlite3_bind_blob(st, 1, key, sizeof(key), SQLITE_TRANSIENT);
		sqlite3_bind_blob(st, 2, "k8s.io", 7, SQLITE_STATIC);
		assert_int_equal(sqlite3_step(st), SQLITE_DONE);
		sqlite3_reset(st);
		put_empty_file(s, &d);
	}
	sqlite3_finalize(st);
	assert_int_equal(
		sqlite3_exec(db, "COMMIT; PRAGMA wal_checkpoint(TRUNCATE)", NULL, NULL, NULL),
		SQLITE_OK);
	sqlite3_close(db);
	store_open(s);
	struct cairn_cache_stats stats;
	cairn_cache_stats(s->cache, &stats);
	assert_false(stats.recovered);
	assert_int_equal(stats.cached_blobs, BLOBS);
}

/* To the last block, by somebody else. */
static void fill_disk(struct store *s, const char *name)
{
	char path[512];
	uint8_t *buf = calloc(1, MIB);
	snprintf(path, sizeof(path), "%s/%s", s->dir, name);
	int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	for (size_t n = MIB; n > 0;) {
		if (write(fd, buf, n) <= 0) n /= 2;
	}
	close(fd);
	free(buf);
}

static void use(struct store *s, const struct cairn_digest *d)
{
	struct cairn_err err;
	struct cairn_blob *blob;
	assert_ok(cairn_blob_open(s->cache, d, &blob, &err));
	cairn_blob_close(blob);
}

static void evict_many(struct store *s, unsigned first, unsigned n)
{
	static struct cairn_eviction list[MANY];
	struct cairn_err err;
	char path[512];
	for (unsigned i = 0; i < n; i++) {
		list[i] = (struct cairn_eviction){.digest = nth(first + i), .used_ns = INT64_MAX};
	}
	int64_t began = now_ms();
	assert_ok(cairn_cache_evict(s->cache, list, n, &err));
	print_message("%u of %d went in %d ms\n", n, BLOBS, (int)(now_ms() - began));
	for (unsigned i = 0; i < n; i++) {
		assert_int_equal(list[i].outcome, CAIRN_EVICT_DONE);
		assert_false(exists(blob_path(s, &list[i].digest, path)));
	}
}

static void check_reopened(struct store *s, uint64_t left)
{
	struct cairn_cache_stats stats;
	store_reopen(s);
	cairn_cache_stats(s->cache, &stats);
	assert_int_equal(stats.cached_blobs + stats.referenced_blobs, left);
	assert_int_equal(stats.damaged_blobs, 0);
	store_close(s);
}

static void many_at_once(struct store *s)
{
	make_large(s);
	fill_disk(s, "foreign");
	evict_many(s, 0, MANY);
	evict_many(s, MANY, MANY);
	check_reopened(s, BLOBS - 2 * MANY);
}

/* Rows of uses are no hindrance for those of evictions. */
static void behind_uses(struct store *s)
{
	make_large(s);
	fill_disk(s, "foreign");
	clock_move(s, 3600 * CAIRN_NS_PER_S);
	for (unsigned i = 0; i < 3000; i++) {
		struct cairn_digest d = nth(10000 + i);
		use(s, &d);
	}
	evict_many(s, 0, 64);
	check_reopened(s, BLOBS - 64);
}

/* In a child, with a small disk of its own. */
static void on_a_small_disk(struct store *s, void (*fn)(struct store *s))
{
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		if (unshare(CLONE_NEWNS) != 0 ||
		    mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
		    mount("tmpfs", s->dir, "tmpfs", 0, "size=48m") != 0) {
			_exit(77);
		}
		fn(s);
		_exit(0);
	}
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77) skip();
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void full_disk__many_go_at_once(void **state)
{
	on_a_small_disk(*state, many_at_once);
}

static void full_disk__some_go_before_the_rows_of_uses(void **state)
{
	on_a_small_disk(*state, behind_uses);
}

/* ---- an index that can grow no more ---- */

static enum cairn_evict_outcome evict(struct store *s, const struct content *c)
{
	struct cairn_err err;
	struct cairn_eviction e = {.digest = c->digest, .used_ns = INT64_MAX};
	assert_ok(cairn_cache_evict(s->cache, &e, 1, &err));
	return e.outcome;
}

/* Rows that find no room wait; what makes room does not wait behind them. */
static void no_new_rows__blobs_go_all_the_same(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct content c[4];
	s->own_clock = true;
	store_open(s);
	for (size_t i = 0; i < 4; i++) c[i] = content_new(1000, i);
	add_cached(s, &c[0]);
	add_cached(s, &c[1]);
	store_reopen(s);
	no_new_rows = true;
	add_cached(s, &c[2]); /* a row of a blob, of an ingest, of a version, of a pin */
	assert_ok(cairn_cache_see_version(s->cache, "app:v1", &c[2].digest, NULL, &err));
	cairn_ingest_close(open_ref(s, "part", &c[3], true, false));
	usleep(300000); /* the writer has taken them */
	for (size_t i = 0; i < 2; i++) {
		int64_t began = now_ms();
		assert_int_equal(evict(s, &c[i]), CAIRN_EVICT_DONE);
		assert_true(now_ms() - began < 2000);
	}
	assert_int_equal(evict(s, &c[2]), CAIRN_EVICT_DONE);
	add_cached(s, &c[2]);
	no_new_rows = false;
	store_reopen(s);
	struct cairn_cache_stats stats;
	struct cairn_version *list;
	cairn_cache_stats(s->cache, &stats);
	assert_false(stats.recovered);
	assert_int_equal(stats.cached_blobs, 1);
	assert_ok(read_and_compare(s, &c[2], &err));
	size_t n = cairn_cache_versions(s->cache, NULL, &list);
	assert_int_equal(n, 1);
	cairn_versions_free(list, n);
	for (size_t i = 0; i < 4; i++) content_free(&c[i]);
}

/* A pin that was refused is none, and one that was changed is as it was. */
static void no_new_rows__a_pin_that_fails_is_none(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_pin *list;
	s->sync_ms = 300;
	store_open(s);
	assert_ok(cairn_cache_pin(s->cache, "old", 3600 * CAIRN_NS_PER_S, &err));
	no_new_rows = true;
	assert_code(cairn_cache_pin(s->cache, "new", 0, &err), CAIRN_RESOURCE_EXHAUSTED);
	assert_code(cairn_cache_pin(s->cache, "old", 0, &err), CAIRN_RESOURCE_EXHAUSTED);
	no_new_rows = false;
	for (int i = 0; i < 2; i++) {
		size_t n = cairn_cache_pins(s->cache, &list);
		assert_int_equal(n, 1);
		assert_string_equal(list[0].target, "old");
		assert_true(list[0].until_ns > 0);
		cairn_pins_free(list, n);
		store_reopen(s);
	}
}

static int setup(void **state)
{
	no_new_rows = false;
	if (store_setup(state) != 0) return -1;
	((struct store *)*state)->own_clock = true;
	return 0;
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, store_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(full_disk__many_go_at_once),
		TEST(full_disk__some_go_before_the_rows_of_uses),
		TEST(no_new_rows__blobs_go_all_the_same),
		TEST(no_new_rows__a_pin_that_fails_is_none),
	};
	return cmocka_run_group_tests_name("cache/evict on a full disk", tests, NULL, NULL);
}
