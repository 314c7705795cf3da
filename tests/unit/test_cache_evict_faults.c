/* Eviction step by step: what a death, a power loss, a full index or another thread at a named step
 * does to it. Steps are system calls of the store and of SQLite, put in by the linker (--wrap) and,
 * for flushes, by support/synced.h. */
#include <pthread.h>
#include <semaphore.h>
#include <sqlite3.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/wait.h>

#include "cache/evict.h"
#include "cache/history.h"
#include "support/rows.h"
#include "support/synced.h"

#define MIB (1u << 20)
#define SYNC_MS 300 /* how long the store waits for an index that will not be written */

/* ---- the steps */

enum call { UNLINKAT, OPENAT, CLOSE, CALLS };

static atomic_int stall_at[CALLS]; /* this call, counted from now, waits for go */
static __thread bool may_stall;	   /* on this thread */
static atomic_int fail_unlink;	   /* errno of the next one */
static sem_t stalled, go;
static atomic_int steps, die_at; /* odd: before a call; even: after it */
static atomic_int sqlite_full;	 /* this many steps of SQLite fail */
static atomic_int sqlite_skip;	 /* after this many that do not */
static atomic_int fail_durable;	 /* so often the index cannot be told to flush at each commit */
static char trace[64];		 /* W: the log was flushed; U: a blob was unlinked */
static atomic_int trace_n;

static void step(void)
{
	/* Not _exit: a sanitizer has things to do there. */
	if (die_at > 0 && ++steps == die_at) (void)syscall(SYS_exit_group, 42);
}

static void stall(enum call which)
{
	if (!may_stall || stall_at[which] == 0 || --stall_at[which] > 0) return;
	sem_post(&stalled);
	while (sem_wait(&go) != 0) {
	}
}

static void wait_for_stall(void)
{
	while (sem_wait(&stalled) != 0) {
	}
}

static void note(char what)
{
	int at = trace_n++;
	if (at < (int)sizeof(trace) - 1) trace[at] = what;
}

static void flush_before(const char *name)
{
	(void)name;
	step();
}

static void flush_after(const char *name)
{
	if (strcmp(name, "index.db-wal") == 0) note('W');
	step();
}

int __real_unlinkat(int dir, const char *name, int flags);
int __wrap_unlinkat(int dir, const char *name, int flags);
int __wrap_unlinkat(int dir, const char *name, int flags)
{
	bool blob = strlen(name) == 64;
	if (blob) step();
	if (blob) stall(UNLINKAT);
	if (blob && fail_unlink != 0) {
		errno = atomic_exchange(&fail_unlink, 0);
		return -1;
	}
	int rc = __real_unlinkat(dir, name, flags), saved = errno;
	if (blob) note('U');
	if (blob) step();
	errno = saved;
	return rc;
}

int __real_openat(int dir, const char *name, int flags, ...);
int __wrap_openat(int dir, const char *name, int flags, mode_t mode);
int __wrap_openat(int dir, const char *name, int flags, mode_t mode)
{
	if (strlen(name) == 64) stall(OPENAT);
	return __real_openat(dir, name, flags, mode);
}

int __real_close(int fd);
int __wrap_close(int fd);
int __wrap_close(int fd)
{
	stall(CLOSE);
	return __real_close(fd);
}

int __real_sqlite3_step(sqlite3_stmt *st);
int __wrap_sqlite3_step(sqlite3_stmt *st);
int __wrap_sqlite3_step(sqlite3_stmt *st)
{
	if (sqlite_full > 0 && (sqlite_skip == 0 || sqlite_skip-- == 0)) {
		sqlite_full--;
		return SQLITE_FULL;
	}
	step();
	int rc = __real_sqlite3_step(st);
	step();
	return rc;
}

typedef int exec_fn(void *arg, int n, char **values, char **names);
int __real_sqlite3_exec(sqlite3 *db, const char *sql, exec_fn *fn, void *arg, char **msg);
int __wrap_sqlite3_exec(sqlite3 *db, const char *sql, exec_fn *fn, void *arg, char **msg);
int __wrap_sqlite3_exec(sqlite3 *db, const char *sql, exec_fn *fn, void *arg, char **msg)
{
	if (fail_durable > 0 && strcmp(sql, "PRAGMA synchronous=FULL") == 0) {
		fail_durable--;
		return SQLITE_NOMEM;
	}
	return __real_sqlite3_exec(db, sql, fn, arg, msg);
}

static void calm(void)
{
	for (size_t i = 0; i < CALLS; i++) stall_at[i] = 0;
	steps = die_at = sqlite_full = sqlite_skip = fail_unlink = fail_durable = 0;
	memset(trace, 0, sizeof(trace));
	trace_n = 0;
}

static int setup(void **state)
{
	before_flush = flush_before;
	after_flush = flush_after;
	calm();
	sem_init(&stalled, 0, 0);
	sem_init(&go, 0, 0);
	if (store_setup(state) != 0) return -1;
	struct store *s = *state;
	s->own_clock = true;
	store_open(s);
	return 0;
}

static int teardown(void **state)
{
	calm();
	return store_teardown(state);
}

/* ---- the common moves */

static struct cairn_eviction choose(struct store *s, const struct content *c)
{
	struct cairn_gc_blob list[16];
	struct cairn_digest after = {0};
	size_t n = cairn_cache_next_gc(s->cache, &after, list, CAIRN_LEN(list));
	for (size_t i = 0; i < n; i++) {
		if (!cairn_digest_equal(&list[i].digest, &c->digest)) continue;
		return (struct cairn_eviction){.digest = c->digest, .used_ns = list[i].used_ns};
	}
	fail_msg("the blob is not seen");
	return (struct cairn_eviction){0};
}

static enum cairn_evict_outcome evict(struct store *s, const struct content *c)
{
	struct cairn_err err;
	struct cairn_eviction e = choose(s, c);
	assert_ok(cairn_cache_evict(s->cache, &e, 1, &err));
	return e.outcome;
}

/* Its row is in the index, for whoever opens it next. */
static bool has_row(struct store *s, const struct content *c)
{
	char hex[CAIRN_DIGEST_STR], sql[256];
	snprintf(sql, sizeof(sql), "SELECT count(*) FROM blob WHERE hex(digest)=upper('01%s')",
		 cairn_digest_hex(&c->digest, hex));
	return count_rows(s, sql) == 1;
}

/* All rows that were asked for are in the index. */
static void settle(struct store *s)
{
	struct cairn_err err;
	bool was;
	assert_ok(cairn_cache_pin(s->cache, "settle", 0, &err));
	assert_ok(cairn_cache_unpin(s->cache, "settle", &was, &err));
}

/* All rows are written, and the next one is not waited for long. */
static void wait_shortly(struct store *s, uint32_t ms)
{
	s->sync_ms = ms;
	store_reopen(s);
}

struct evict_on_thread {
	pthread_t thread;
	struct store *s;
	struct cairn_eviction list[4];
	size_t n;
	enum cairn_code code;
};

static void *evict_thread(void *arg)
{
	struct evict_on_thread *call = arg;
	struct cairn_err err;
	may_stall = true;
	call->code = cairn_cache_evict(call->s->cache, call->list, call->n, &err);
	return NULL;
}

static void start_evict(struct evict_on_thread *call)
{
	assert_int_equal(pthread_create(&call->thread, NULL, evict_thread, call), 0);
}

static void reopen_after_kill(struct store *s, bool power_loss)
{
	/* A copy of what a kill leaves, since this process lives on. */
	char cmd[1200], left[300];
	snprintf(left, sizeof(left), "%s.left", s->dir);
	snprintf(cmd, sizeof(cmd), "rm -rf %s && cp -a %s %s", left, s->dir, left);
	assert_int_equal(system(cmd), 0);
	store_close(s);
	snprintf(cmd, sizeof(cmd), "rm -rf %s && mv %s %s", s->dir, left, s->dir);
	assert_int_equal(system(cmd), 0);
	if (power_loss) lose_power(s);
	store_open(s);
}

/* ---- durable before it is unlinked */

static void evict__flushes_the_log_once_and_then_unlinks(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct content c[3];
	struct cairn_eviction list[3];
	for (size_t i = 0; i < 3; i++) {
		c[i] = content_new(1000, i);
		add_cached(s, &c[i]);
	}
	settle(s);
	/* Nothing but the rows changes, not even the time. */
	for (size_t i = 0; i < 3; i++) list[i] = choose(s, &c[i]);
	calm();
	assert_ok(cairn_cache_evict(s->cache, list, 3, &err));
	assert_string_equal(trace, "WUUU");
	for (size_t i = 0; i < 3; i++) content_free(&c[i]);
}

/* The writer may have taken the rows before anybody waited for them: then they are in the log, and
 * still have to be flushed. */
static void evict__flushes_rows_that_were_written_before_the_wait(void **state)
{
	struct store *s = *state;
	struct content c = content_new(1000, 4);
	for (int i = 0; i < 20; i++) {
		struct timespec nap = {0, 90000000 + i * 1000000};
		add_cached(s, &c);
		/* A row that gathers others is written about now. */
		settle(s);
		assert_true(cairn_cache_reference(s->cache, &c.digest));
		cairn_cache_release(s->cache, &c.digest);
		if (i % 4 == 0) nanosleep(&nap, NULL);
		calm();
		assert_int_equal(evict(s, &c), CAIRN_EVICT_DONE);
		assert_int_equal(trace[0], 'W');
		reopen_after_kill(s, true);
		assert_int_equal(state_of(s, &c.digest), 0);
	}
	content_free(&c);
}

/* More rows than one transaction takes stand before the one that is waited for. */
static void evict__waits_for_its_row_behind_many_others(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct content c = content_new(1000, 6);
	for (int i = 0; i < 3; i++) {
		add_cached(s, &c);
		settle(s);
		for (unsigned k = 0; k < 3000; k++) {
			char name[32];
			snprintf(name, sizeof(name), "app-%04u:%d", k, i);
			assert_ok(cairn_cache_see_version(s->cache, name, &c.digest, NULL, &err));
		}
		assert_int_equal(evict(s, &c), CAIRN_EVICT_DONE);
		reopen_after_kill(s, true);
		assert_int_equal(state_of(s, &c.digest), 0);
	}
	content_free(&c);
}

static void sync__is_asked_for_again_when_it_could_not_be(void **state)
{
	struct store *s = *state;
	struct content c = content_new(1000, 5);
	add_cached(s, &c);
	settle(s);
	calm();
	fail_durable = 1;
	assert_int_equal(evict(s, &c), CAIRN_EVICT_DONE);
	assert_int_equal(fail_durable, 0);
	assert_string_equal(trace, "WU");
	content_free(&c);
}

static void pin__is_flushed_before_it_is_answered(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_pin *list;
	bool was;
	assert_ok(cairn_cache_pin(s->cache, "a", 0, &err));
	assert_ok(cairn_cache_pin(s->cache, "b", 0, &err));
	assert_ok(cairn_cache_unpin(s->cache, "b", &was, &err));
	reopen_after_kill(s, true);
	size_t n = cairn_cache_pins(s->cache, &list);
	assert_int_equal(n, 1);
	assert_string_equal(list[0].target, "a");
	cairn_pins_free(list, n);
}

/* ---- dying at every step */

struct shared {
	atomic_int done; /* evictions that were answered */
};

/* Steps count from the moment at which all rows are written. */
static void evict_and_die(struct store *s, struct shared *sh, const struct content *c, int at)
{
	struct cairn_err err;
	if (store_try_open(s, &err) != CAIRN_OK) _exit(2);
	for (int i = 0; i < 3; i++) add_cached(s, &c[i]);
	if (cairn_cache_pin(s->cache, "rows are written", 0, &err) != CAIRN_OK) _exit(7);
	die_at = at;
	if (!cairn_cache_reference(s->cache, &c[2].digest)) _exit(3);
	struct cairn_eviction list[] = {choose(s, &c[0]), choose(s, &c[1]), choose(s, &c[2])};
	if (cairn_cache_evict(s->cache, list, 3, &err) != CAIRN_OK) _exit(4);
	if (list[0].outcome != CAIRN_EVICT_DONE || list[1].outcome != CAIRN_EVICT_DONE) _exit(5);
	if (list[2].outcome != CAIRN_EVICT_IN_USE) _exit(6);
	sh->done = 1;
	store_close(s);
}

/* Returns what it has seen: 1: a row and its file; 2: a file that had lost its row; 4: neither. */
static int check_after_death(struct store *s, bool done, const struct content *c)
{
	struct cairn_err err;
	struct cairn_blob_info info;
	int seen = 0;
	char path[512];
	bool had_index = exists(({
		snprintf(path, sizeof(path), "%s/index.db", s->dir);
		path;
	}));
	bool row = had_index && count_rows(s, "SELECT count(*) FROM sqlite_master") > 3 &&
		   has_row(s, &c[0]);
	bool file = exists(blob_path(s, &c[0].digest, path));
	if (row && !file) fail_msg("a row without a file");
	seen |= row ? 1 : file ? 2 : 4;
	store_open(s);
	for (int i = 0; i < 3; i++) {
		file = exists(blob_path(s, &c[i].digest, path));
		int state = state_of(s, &c[i].digest);
		assert_int_equal(state != 0, file);
		if (done && i < 2) assert_int_equal(state, 0);
		if (done && i == 2) assert_int_equal(state, CAIRN_BLOB_REFERENCED);
		if (state == 0) continue;
		assert_ok(read_and_compare(s, &c[i], &err));
		if (state == CAIRN_BLOB_REFERENCED) {
			assert_ok(cairn_cache_promise(s->cache, &c[i].digest, &info, &err));
			assert_false(info.damaged);
			cairn_blob_info_fini(&info);
		}
	}
	store_close(s);
	assert_int_equal(count_rows(s, "SELECT count(*) FROM blob"),
			 count_files(s, "blobs/sha256"));
	return seen;
}

static void death_at_each_step(struct store *s, bool power_loss)
{
	struct content c[3];
	for (size_t i = 0; i < 3; i++) c[i] = content_new(i == 0 ? 2 * MIB + 3 : 5000, 20 + i);
	struct shared *sh =
		mmap(NULL, sizeof(*sh), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	store_close(s);
	int deaths = 0, seen = 0;
	for (int at = 1;; at++) {
		char cmd[600];
		snprintf(cmd, sizeof(cmd), "rm -rf %s/*", s->dir);
		assert_int_equal(system(cmd), 0);
		sh->done = 0;
		pid_t pid = fork();
		assert_true(pid >= 0);
		if (pid == 0) {
			evict_and_die(s, sh, c, at);
			_exit(0);
		}
		int status;
		assert_int_equal(waitpid(pid, &status, 0), pid);
		bool died = WIFEXITED(status) && WEXITSTATUS(status) == 42;
		if (!died && status != 0) fail_msg("step %d: status %x", at, status);
		if (power_loss) lose_power(s);
		seen |= check_after_death(s, sh->done, c);
		if (!died) break;
		deaths++;
	}
	print_message("died at %d steps\n", deaths);
	assert_true(deaths > 20);
	assert_int_equal(seen, 7); /* before the row went, between, and after the unlink */
	munmap(sh, sizeof(*sh));
	for (size_t i = 0; i < 3; i++) content_free(&c[i]);
}

static void death__at_each_step_of_an_eviction_leaves_no_row_without_a_file(void **state)
{
	death_at_each_step(*state, false);
}

static void power_loss__at_each_step_of_an_eviction_brings_no_row_back(void **state)
{
	death_at_each_step(*state, true);
}

/* ---- an index that cannot be written */

static int64_t now_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void evict__that_finds_the_index_full_erases_nothing(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	char path[512];
	struct content c = content_new(MIB + 5, 30), d = content_new(100, 31);
	add_cached(s, &c);
	add_cached(s, &d);
	wait_shortly(s, SYNC_MS);
	struct cairn_eviction list[] = {choose(s, &c), choose(s, &d)};
	sqlite_full = 1 << 30;
	int64_t began = now_ms();
	assert_code(cairn_cache_evict(s->cache, list, 2, &err), CAIRN_RESOURCE_EXHAUSTED);
	assert_true(now_ms() - began >= SYNC_MS && now_ms() - began < SYNC_MS + 5000);
	assert_non_null(strstr(err.msg, "not written within"));
	for (size_t i = 0; i < 2; i++) {
		assert_int_equal(list[i].outcome, CAIRN_EVICT_FAILED);
		assert_int_equal(list[i].freed, 0);
	}
	assert_true(exists(blob_path(s, &c.digest, path)));
	assert_ok(read_and_compare(s, &c, &err));
	assert_ok(read_and_compare(s, &d, &err));
	/* Killed now, it is as if nobody had tried. */
	sqlite_full = 0;
	s->sync_ms = 0;
	reopen_after_kill(s, false);
	assert_ok(read_and_compare(s, &c, &err));
	cairn_cache_release(s->cache, &c.digest);
	assert_int_equal(evict(s, &c), CAIRN_EVICT_DONE);
	assert_false(exists(blob_path(s, &c.digest, path)));
	/* What was spared has its row again. */
	store_reopen(s);
	assert_true(has_row(s, &d));
	assert_ok(read_and_compare(s, &d, &err));
	content_free(&c);
	content_free(&d);
}

/* The one that failed is spared, and does not lose its row when there is room again. */
static void evict__that_failed_writes_the_row_again(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct content c = content_new(3000, 32);
	add_cached(s, &c);
	wait_shortly(s, SYNC_MS);
	struct cairn_eviction e = choose(s, &c);
	sqlite_full = 1 << 30;
	assert_code(cairn_cache_evict(s->cache, &e, 1, &err), CAIRN_RESOURCE_EXHAUSTED);
	sqlite_full = 0;
	s->sync_ms = 0;
	store_reopen(s);
	struct cairn_cache_stats stats;
	cairn_cache_stats(s->cache, &stats);
	assert_false(stats.recovered);
	assert_int_equal(state_of(s, &c.digest), CAIRN_BLOB_CACHED);
	assert_int_equal(count_rows(s, "SELECT count(*) FROM blob"), 1);
	assert_int_equal(evict(s, &c), CAIRN_EVICT_DONE);
	content_free(&c);
}

static void evict__outlives_a_transaction_that_failed(void **state)
{
	struct store *s = *state;
	struct content c = content_new(3000, 33);
	add_cached(s, &c);
	settle(s);
	calm();
	sqlite_full = 1; /* tried again at once: the reserve may have made room */
	assert_int_equal(evict(s, &c), CAIRN_EVICT_DONE);
	assert_string_equal(trace + strlen(trace) - 2, "WU"); /* the log is used again, too */
	content_free(&c);
}

/* The row's step fails, and so does the rollback: the transaction is still open. */
static void evict__outlives_a_rollback_that_failed(void **state)
{
	struct store *s = *state;
	struct content c = content_new(3000, 34);
	add_cached(s, &c);
	settle(s);
	calm();
	sqlite_skip = 1;
	sqlite_full = 2;
	assert_int_equal(evict(s, &c), CAIRN_EVICT_DONE);
	assert_int_equal(sqlite_full, 0);
	assert_string_equal(trace + strlen(trace) - 2, "WU"); /* the log is used again, too */
	content_free(&c);
}

/* "It was not pinned" is a durable answer too: it may be the second try of one that failed. */
static void unpin__is_durable_also_when_there_is_nothing_to_do(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_pin *list;
	bool was = false;
	assert_ok(cairn_cache_pin(s->cache, "a", 0, &err));
	wait_shortly(s, SYNC_MS);
	sqlite_full = 1 << 30;
	assert_code(cairn_cache_unpin(s->cache, "a", &was, &err), CAIRN_RESOURCE_EXHAUSTED);
	assert_false(was); /* nothing is told by a call that failed */
	assert_code(cairn_cache_unpin(s->cache, "a", &was, &err), CAIRN_RESOURCE_EXHAUSTED);
	sqlite_full = 0;
	wait_for(cairn_cache_unpin(s->cache, "a", &was, &err) == CAIRN_OK);
	assert_false(was);
	reopen_after_kill(s, true);
	assert_int_equal(cairn_cache_pins(s->cache, &list), 0);
	cairn_pins_free(list, 0);
}

/* ---- a disk that is really full, in a mount namespace of its own */

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

static void remove_file(struct store *s, const char *name)
{
	char path[512];
	snprintf(path, sizeof(path), "%s/%s", s->dir, name);
	assert_int_equal(unlink(path), 0);
}

static bool has_reserve(struct store *s)
{
	char path[512];
	snprintf(path, sizeof(path), "%s/reserve", s->dir);
	return exists(path);
}

static void full_disk(struct store *s)
{
	struct cairn_err err;
	char path[512];
	struct content big = content_new(9 * MIB, 40), small[3];
	s->sync_ms = 2000;
	store_open(s);
	add_cached(s, &big);
	for (size_t i = 0; i < 3; i++) {
		small[i] = content_new(5000 + i, 41 + i);
		add_cached(s, &small[i]);
	}
	settle(s);
	assert_true(has_reserve(s));
	/* Rows are written in its room, and it is laid by again as soon as there is room for it. */
	fill_disk(s, "foreign0");
	sqlite_full = 1;
	assert_ok(cairn_cache_pin(s->cache, "a", 0, &err));
	assert_false(has_reserve(s));
	remove_file(s, "foreign0");
	assert_ok(cairn_cache_pin(s->cache, "b", 0, &err));
	wait_for(has_reserve(s));
	/* It makes the room to evict in, too. */
	fill_disk(s, "foreign");
	assert_int_equal(evict(s, &big), CAIRN_EVICT_DONE);
	assert_false(exists(blob_path(s, &big.digest, path)));
	assert_true(has_reserve(s));
	/* No room, no reserve: it succeeds, or says so in time and changes nothing. */
	fill_disk(s, "foreign2");
	remove_file(s, "reserve");
	fill_disk(s, "foreign3");
	size_t failed = 0;
	for (size_t i = 0; i < 2; i++) {
		int64_t began = now_ms();
		struct cairn_eviction e = choose(s, &small[i]);
		enum cairn_code code = cairn_cache_evict(s->cache, &e, 1, &err);
		assert_true(now_ms() - began < 2000 + 5000);
		if (code == CAIRN_OK) {
			assert_int_equal(e.outcome, CAIRN_EVICT_DONE);
			continue;
		}
		failed++;
		assert_int_equal(code, CAIRN_RESOURCE_EXHAUSTED);
		assert_int_equal(e.outcome, CAIRN_EVICT_FAILED);
		assert_ok(read_and_compare(s, &small[i], &err));
	}
	print_message("%zu of 2 evictions found no room\n", failed);
	assert_ok(read_and_compare(s, &small[2], &err));
	/* Room again. */
	remove_file(s, "foreign2");
	remove_file(s, "foreign3");
	for (size_t i = 0; i < 3; i++) {
		if (state_of(s, &small[i].digest) == 0) continue;
		wait_for(({
			struct cairn_eviction e = choose(s, &small[i]);
			cairn_cache_evict(s->cache, &e, 1, &err) == CAIRN_OK &&e.outcome ==
				CAIRN_EVICT_DONE;
		}));
	}
	assert_true(has_reserve(s));
	store_reopen(s);
	struct cairn_cache_stats stats;
	cairn_cache_stats(s->cache, &stats);
	assert_false(stats.recovered);
	assert_int_equal(stats.cached_blobs + stats.referenced_blobs, 0);
	assert_int_equal(count_files(s, "blobs/sha256"), 0);
	store_close(s);
	content_free(&big);
	for (size_t i = 0; i < 3; i++) content_free(&small[i]);
}

static void full_disk__can_be_emptied(void **state)
{
	struct store *s = *state;
	store_close(s);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		if (unshare(CLONE_NEWNS) != 0 ||
		    mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
		    mount("tmpfs", s->dir, "tmpfs", 0, "size=24m") != 0) {
			_exit(77);
		}
		no_copies = true;
		full_disk(s);
		_exit(0);
	}
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77) skip();
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* ---- another thread at the worst moment */

/* Of two blobs with different locks of names the first one's unlink hangs. Meanwhile the second one
 * is recorded, its row is written, it is released and chosen by another eviction, whose row waits:
 * the first eviction's row is not the one that must be gone now. */
static void evict__does_not_take_anothers_mark_for_its_own(void **state)
{
	struct store *s = *state;
	char path[512];
	struct content a = content_new(100, 50), b = content_new(100, 51);
	for (uint64_t seed = 52; (a.digest.bytes[0] ^ b.digest.bytes[0]) % 16 == 0; seed++) {
		content_free(&b);
		b = content_new(100, seed);
	}
	add_cached(s, &a);
	add_cached(s, &b);
	wait_shortly(s, 10 * SYNC_MS);
	struct evict_on_thread first = {.s = s, .list = {choose(s, &a), choose(s, &b)}, .n = 2};
	struct evict_on_thread second = {.s = s, .list = {choose(s, &b)}, .n = 1};
	stall_at[UNLINKAT] = 1;
	start_evict(&first);
	wait_for_stall();
	assert_true(cairn_cache_reference(s->cache, &b.digest));
	settle(s);
	assert_true(has_row(s, &b));
	cairn_cache_release(s->cache, &b.digest);
	settle(s);
	sqlite_full = 1 << 30; /* the second one's row does not go */
	start_evict(&second);
	struct timespec nap = {0, 50000000};
	nanosleep(&nap, NULL); /* it has begun */
	sem_post(&go);
	pthread_join(first.thread, NULL);
	bool lost = has_row(s, &b) && !exists(blob_path(s, &b.digest, path));
	pthread_join(second.thread, NULL);
	sqlite_full = 0;
	assert_false(lost);
	assert_int_equal(first.code, CAIRN_OK);
	assert_int_equal(first.list[0].outcome, CAIRN_EVICT_DONE);
	assert_int_equal(first.list[1].outcome, CAIRN_EVICT_IN_USE);
	assert_int_equal(second.code, CAIRN_RESOURCE_EXHAUSTED);
	content_free(&a);
	content_free(&b);
}

struct call_on_thread {
	pthread_t thread;
	struct store *s;
	struct cairn_ingest *ing;
	const struct content *c;
	enum cairn_code code;
	struct cairn_err err;
};

static void *open_thread(void *arg)
{
	struct call_on_thread *call = arg;
	struct cairn_blob *blob = NULL;
	may_stall = true;
	call->code = cairn_blob_open(call->s->cache, &call->c->digest, &blob, &call->err);
	cairn_blob_close(blob);
	return NULL;
}

/* Between finding a blob and opening its file. */
static void evict__spares_what_is_about_to_be_opened(void **state)
{
	struct store *s = *state;
	struct content c = content_new(100, 60);
	add_cached(s, &c);
	clock_move(s, 1);
	struct call_on_thread call = {.s = s, .c = &c};
	stall_at[OPENAT] = 1;
	assert_int_equal(pthread_create(&call.thread, NULL, open_thread, &call), 0);
	wait_for_stall();
	enum cairn_evict_outcome outcome = evict(s, &c); /* decided after it was found */
	sem_post(&go);
	pthread_join(call.thread, NULL);
	assert_int_equal(outcome, CAIRN_EVICT_IN_USE);
	assert_int_equal(call.code, CAIRN_OK);
	assert_int_equal(evict(s, &c), CAIRN_EVICT_DONE);
	content_free(&c);
}

static void *write_thread(void *arg)
{
	struct call_on_thread *call = arg;
	may_stall = true;
	call->code = put(call->ing, 0, call->c->data, call->c->n, &call->err);
	return NULL;
}

/* Between publishing a blob and binding the ingest to it. */
static void evict__spares_what_a_writer_has_just_published(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_ingest_status st;
	struct content c = content_new(3000, 61);
	struct cairn_ingest *ing = open_ref(s, "a", &c, true, false);
	struct call_on_thread call = {.s = s, .c = &c, .ing = ing};
	stall_at[CLOSE] = 1;
	assert_int_equal(pthread_create(&call.thread, NULL, write_thread, &call), 0);
	wait_for_stall();
	assert_int_equal(state_of(s, &c.digest), CAIRN_BLOB_CACHED);
	enum cairn_evict_outcome outcome = evict(s, &c);
	sem_post(&go);
	pthread_join(call.thread, NULL);
	assert_int_equal(call.code, CAIRN_OK);
	assert_ok(cairn_ingest_commit(ing, c.n, c.n, &c.digest, &st, &err));
	assert_int_equal(outcome, CAIRN_EVICT_IN_USE);
	cairn_ingest_close(ing);
	assert_ok(read_and_compare(s, &c, &err));
	content_free(&c);
}

static void *verify_thread(void *arg)
{
	struct call_on_thread *call = arg;
	may_stall = true;
	call->code = cairn_cache_verify(call->s->cache, &call->c->digest, NULL, NULL, &call->err);
	return NULL;
}

/* A file that went with its blob is no finding. */
static void verify__of_a_blob_that_is_evicted_meanwhile_finds_no_damage(void **state)
{
	struct store *s = *state;
	struct content c = content_new(100, 62);
	add_cached(s, &c);
	struct call_on_thread call = {.s = s, .c = &c};
	stall_at[OPENAT] = 1;
	assert_int_equal(pthread_create(&call.thread, NULL, verify_thread, &call), 0);
	wait_for_stall();
	assert_int_equal(evict(s, &c), CAIRN_EVICT_DONE);
	sem_post(&go);
	pthread_join(call.thread, NULL);
	assert_int_equal(call.code, CAIRN_NOT_FOUND);
	content_free(&c);
}

/* A use in the same instant as the decision saves it as well, once the eviction has begun. */
static void evict__spares_what_is_used_while_its_row_goes(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct content a = content_new(100, 63), b = content_new(100, 64);
	for (uint64_t seed = 65; (a.digest.bytes[0] ^ b.digest.bytes[0]) % 16 == 0; seed++) {
		content_free(&b);
		b = content_new(100, seed);
	}
	add_cached(s, &a);
	add_cached(s, &b);
	struct evict_on_thread call = {.s = s, .list = {choose(s, &a), choose(s, &b)}, .n = 2};
	stall_at[UNLINKAT] = 1;
	start_evict(&call);
	wait_for_stall();
	assert_ok(read_and_compare(s, &b, &err));
	sem_post(&go);
	pthread_join(call.thread, NULL);
	assert_int_equal(call.list[1].outcome, CAIRN_EVICT_IN_USE);
	reopen_after_kill(s, false);
	assert_ok(read_and_compare(s, &b, &err));
	content_free(&a);
	content_free(&b);
}

/* ---- files that are not there, or do not go */

static void evict__of_a_file_that_is_gone_is_done(void **state)
{
	struct store *s = *state;
	char path[512];
	struct content c = content_new(100, 70);
	add_cached(s, &c);
	assert_int_equal(unlink(blob_path(s, &c.digest, path)), 0);
	assert_int_equal(evict(s, &c), CAIRN_EVICT_DONE);
	assert_int_equal(state_of(s, &c.digest), 0);
	store_reopen(s);
	assert_int_equal(count_rows(s, "SELECT count(*) FROM blob"), 0);
	content_free(&c);
}

/* What is on the disk is in the table, and goes the next time. */
static void evict__of_a_file_that_does_not_go_leaves_the_blob(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_cache_stats stats;
	struct content c = content_new(MIB + 1, 71);
	add_cached(s, &c);
	settle(s);
	for (int reopen = 0; reopen < 2; reopen++) {
		struct cairn_eviction e = choose(s, &c);
		fail_unlink = EPERM;
		assert_ok(cairn_cache_evict(s->cache, &e, 1, &err));
		assert_int_equal(e.outcome, CAIRN_EVICT_FAILED);
		assert_int_equal(e.freed, 0);
		if (reopen) store_reopen(s);
		assert_int_equal(state_of(s, &c.digest), CAIRN_BLOB_CACHED);
		cairn_cache_stats(s->cache, &stats);
		assert_int_equal(stats.cached_blobs, 1);
		assert_ok(read_and_compare(s, &c, &err));
	}
	assert_int_equal(evict(s, &c), CAIRN_EVICT_DONE);
	store_reopen(s);
	assert_int_equal(state_of(s, &c.digest), 0);
	assert_int_equal(count_rows(s, "SELECT count(*) FROM chain"), 0);
	content_free(&c);
}

#define fault_test(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	cairn_log_set_level(CAIRN_LOG_ERROR + 1);
	/* Flushes are counted, not tried: there they cost nothing. */
	if (access("/dev/shm", W_OK) == 0) setenv("TMPDIR", "/dev/shm", 0);
	const struct CMUnitTest tests[] = {
		fault_test(evict__flushes_the_log_once_and_then_unlinks),
		fault_test(evict__flushes_rows_that_were_written_before_the_wait),
		fault_test(evict__waits_for_its_row_behind_many_others),
		fault_test(sync__is_asked_for_again_when_it_could_not_be),
		fault_test(pin__is_flushed_before_it_is_answered),
		fault_test(death__at_each_step_of_an_eviction_leaves_no_row_without_a_file),
		fault_test(power_loss__at_each_step_of_an_eviction_brings_no_row_back),
		fault_test(evict__that_finds_the_index_full_erases_nothing),
		fault_test(evict__that_failed_writes_the_row_again),
		fault_test(evict__outlives_a_transaction_that_failed),
		fault_test(evict__outlives_a_rollback_that_failed),
		fault_test(unpin__is_durable_also_when_there_is_nothing_to_do),
		fault_test(full_disk__can_be_emptied),
		fault_test(evict__does_not_take_anothers_mark_for_its_own),
		fault_test(evict__spares_what_is_about_to_be_opened),
		fault_test(evict__spares_what_a_writer_has_just_published),
		fault_test(evict__spares_what_is_used_while_its_row_goes),
		fault_test(verify__of_a_blob_that_is_evicted_meanwhile_finds_no_damage),
		fault_test(evict__of_a_file_that_is_gone_is_done),
		fault_test(evict__of_a_file_that_does_not_go_leaves_the_blob),
	};
	return cmocka_run_group_tests_name("cache/evict_faults", tests, NULL, NULL);
}
