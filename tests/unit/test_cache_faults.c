/* Faults put in by the linker (--wrap): the n-th system call fails, stalls, or is the last one. */
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "cache/pieces.h"
#include "support/store.h"

#define MIB (1u << 20)

/* ---- the wrapped calls */

enum call { PWRITEV, FDATASYNC, FSYNC, RENAMEAT, FTRUNCATE, UNLINKAT, FCHMOD, CALLS };

static atomic_int counts[CALLS];  /* calls so far */
static atomic_int fail_at[CALLS]; /* this call, counted from now, fails */
static atomic_int fail_with[CALLS];
static atomic_int stall_at[CALLS]; /* this call waits for go */
static sem_t stalled, go;
static atomic_int
	die_at; /* this call of any kind ends the process: before (odd) or after (even) it */
static atomic_int steps;
static atomic_int sqlite_full; /* this many steps of SQLite fail */

/* Returns an errno value to fail with, or 0. */
static int before(enum call which)
{
	counts[which]++;
	if (die_at > 0 && ++steps == die_at) _exit(42);
	bool fails = fail_at[which] > 0 && --fail_at[which] == 0;
	if (stall_at[which] > 0 && --stall_at[which] == 0) {
		sem_post(&stalled);
		while (sem_wait(&go) != 0) {
		}
	}
	return fails ? fail_with[which] : 0;
}

static void after(void)
{
	if (die_at > 0 && ++steps == die_at) _exit(42);
}

#define WRAP(which, call)                                                                          \
	do {                                                                                       \
		int errnum_ = before(which);                                                       \
		if (errnum_ != 0) {                                                                \
			errno = errnum_;                                                           \
			return -1;                                                                 \
		}                                                                                  \
		__typeof__(call) rc_ = (call);                                                     \
		int saved_ = errno;                                                                \
		after();                                                                           \
		errno = saved_;                                                                    \
		return rc_;                                                                        \
	} while (0)

ssize_t __real_pwritev(int fd, const struct iovec *iov, int n, off_t at);
ssize_t __wrap_pwritev(int fd, const struct iovec *iov, int n, off_t at);
static atomic_int short_writes;
ssize_t __wrap_pwritev(int fd, const struct iovec *iov, int n, off_t at)
{
	struct iovec one = iov[0];
	if (short_writes && one.iov_len > 1) {
		one.iov_len = one.iov_len / 2;
		WRAP(PWRITEV, __real_pwritev(fd, &one, 1, at));
	}
	WRAP(PWRITEV, __real_pwritev(fd, iov, n, at));
}

int __real_fdatasync(int fd);
int __wrap_fdatasync(int fd);
int __wrap_fdatasync(int fd)
{
	WRAP(FDATASYNC, __real_fdatasync(fd));
}

int __real_fsync(int fd);
int __wrap_fsync(int fd);
int __wrap_fsync(int fd)
{
	WRAP(FSYNC, __real_fsync(fd));
}

int __real_renameat(int a, const char *from, int b, const char *to);
int __wrap_renameat(int a, const char *from, int b, const char *to);
int __wrap_renameat(int a, const char *from, int b, const char *to)
{
	WRAP(RENAMEAT, __real_renameat(a, from, b, to));
}

int __real_ftruncate(int fd, off_t n);
int __wrap_ftruncate(int fd, off_t n);
int __wrap_ftruncate(int fd, off_t n)
{
	WRAP(FTRUNCATE, __real_ftruncate(fd, n));
}

int __real_unlinkat(int dir, const char *name, int flags);
int __wrap_unlinkat(int dir, const char *name, int flags);
int __wrap_unlinkat(int dir, const char *name, int flags)
{
	WRAP(UNLINKAT, __real_unlinkat(dir, name, flags));
}

int __real_fchmod(int fd, mode_t mode);
int __wrap_fchmod(int fd, mode_t mode);
int __wrap_fchmod(int fd, mode_t mode)
{
	WRAP(FCHMOD, __real_fchmod(fd, mode));
}

int __real_sqlite3_step(sqlite3_stmt *st);
int __wrap_sqlite3_step(sqlite3_stmt *st);
int __wrap_sqlite3_step(sqlite3_stmt *st)
{
	if (sqlite_full > 0) {
		sqlite_full--;
		return SQLITE_FULL;
	}
	if (die_at > 0 && ++steps == die_at) _exit(42);
	int rc = __real_sqlite3_step(st);
	after();
	return rc;
}

static void calm(void)
{
	for (size_t i = 0; i < CALLS; i++) counts[i] = fail_at[i] = stall_at[i] = 0;
	die_at = steps = sqlite_full = short_writes = 0;
}

static int setup(void **state)
{
	calm();
	sem_init(&stalled, 0, 0);
	sem_init(&go, 0, 0);
	return store_setup_open(state);
}

static int teardown(void **state)
{
	calm();
	return store_teardown(state);
}

static void fail_next(enum call which, int errnum)
{
	fail_with[which] = errnum;
	fail_at[which] = 1;
}

/* ---- failing calls */

static void publish__flushes_the_data_and_the_folder_once(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_ingest_status st;
	struct content c = content_new(2 * MIB, 1);
	struct cairn_ingest *ing = open_ref(s, "a", &c, true, true);
	calm();
	assert_ok(put(ing, 0, c.data, MIB, &err));
	assert_int_equal(counts[FDATASYNC] + counts[FSYNC], 0);
	assert_ok(put(ing, MIB, c.data + MIB, MIB, &err));
	assert_int_equal(counts[FDATASYNC], 1);
	assert_int_equal(counts[FSYNC], 1);
	assert_int_equal(counts[RENAMEAT], 1);
	assert_ok(cairn_ingest_commit(ing, c.n, c.n, &c.digest, &st, &err));
	assert_int_equal(counts[FDATASYNC] + counts[FSYNC], 2); /* memory only */
	assert_int_equal(counts[RENAMEAT], 1);
	cairn_ingest_close(ing);
	content_free(&c);
}

static void write__that_finds_the_disk_full_changes_nothing(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_ingest_status st;
	struct content c = content_new(MIB + 7, 2);
	struct cairn_ingest *ing = open_ref(s, "a", &c, true, true);
	assert_ok(put(ing, 0, c.data, 1000, &err));
	fail_next(PWRITEV, ENOSPC);
	assert_code(put(ing, 1000, c.data + 1000, 5000, &err), CAIRN_RESOURCE_EXHAUSTED);
	assert_non_null(strstr(err.msg, "No space left on device"));
	assert_non_null(strstr(err.msg, s->dir));
	st = status_of(ing);
	struct cairn_digest want = digest_of(CAIRN_SHA256, c.data, 1000);
	assert_int_equal(st.offset, 1000);
	assert_true(cairn_digest_equal(&st.running, &want));
	fail_next(PWRITEV, EIO);
	assert_code(put(ing, 1000, c.data + 1000, 5000, &err), CAIRN_INTERNAL);
	/* Half of it came to the disk before the end of space. */
	short_writes = 1;
	fail_with[PWRITEV] = ENOSPC;
	fail_at[PWRITEV] = 2;
	assert_code(put(ing, 1000, c.data + 5000, 90000, &err), CAIRN_RESOURCE_EXHAUSTED);
	assert_int_equal(status_of(ing).offset, 1000);
	assert_ok(put(ing, 1000, c.data + 1000, c.n - 1000, &err)); /* all writes are short ones */
	assert_ok(cairn_ingest_commit(ing, c.n, c.n, &c.digest, &st, &err));
	cairn_ingest_close(ing);
	assert_ok(read_and_compare(s, &c, &err));
	content_free(&c);
}

static void write__shorter_than_a_failed_one_publishes_no_rest(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_ingest_status st;
	struct content c = content_new(2000, 3), junk = content_new(90000, 4);
	struct cairn_ingest *ing = open_ref(s, "a", NULL, false, false);
	short_writes = 1;
	fail_with[PWRITEV] = ENOSPC;
	fail_at[PWRITEV] = 2;
	assert_code(put(ing, 0, junk.data, junk.n, &err), CAIRN_RESOURCE_EXHAUSTED);
	assert_ok(put(ing, 0, c.data, c.n, &err));
	assert_ok(cairn_ingest_commit(ing, c.n, c.n, &c.digest, &st, &err));
	cairn_ingest_close(ing);
	assert_ok(read_and_compare(s, &c, &err));
	content_free(&c);
	content_free(&junk);
}

/* After a failed flush nobody knows what the disk has, and the next flush would not say. */
static void flush__that_fails_drops_the_data(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_ingest_status st;
	struct content c = content_new(3000, 5);
	for (int in_commit = 0; in_commit < 2; in_commit++) {
		struct cairn_ingest *ing = open_ref(s, "a", &c, !in_commit, false);
		if (in_commit) {
			assert_ok(put(ing, 0, c.data, 1000, &err));
			assert_ok(put(ing, 1000, c.data + 1000, c.n - 1000, &err));
			wait_for(counts[FDATASYNC] > 0); /* the background flush at total */
		}
		fail_next(FDATASYNC, EIO);
		if (in_commit) {
			assert_code(cairn_ingest_commit(ing, c.n, 0, &c.digest, &st, &err),
				    CAIRN_INTERNAL);
		} else {
			assert_code(put(ing, 0, c.data, c.n, &err), CAIRN_INTERNAL);
		}
		assert_int_equal(state_of(s, &c.digest), 0);
		assert_int_equal(count_files(s, "blobs/sha256"), 0);
		assert_int_equal(status_of(ing).offset, 0);
		cairn_ingest_close(ing);
		calm();
	}
	struct cairn_ingest *ing = open_ref(s, "a", &c, true, false);
	fail_next(FDATASYNC, ENOSPC);
	assert_code(put(ing, 0, c.data, c.n, &err), CAIRN_RESOURCE_EXHAUSTED);
	assert_ok(put(ing, 0, c.data, c.n, &err));
	assert_ok(cairn_ingest_commit(ing, c.n, 0, &c.digest, &st, &err));
	cairn_ingest_close(ing);
	assert_ok(read_and_compare(s, &c, &err));
	content_free(&c);
}

static void checkpoint__that_fails_drops_the_data(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct content c = content_new(3000, 6);
	struct cairn_ingest *ing = open_ref(s, "a", &c, true, false);
	assert_ok(put(ing, 0, c.data, 1000, &err));
	fail_next(FDATASYNC, EIO);
	cairn_ingest_close(ing);
	wait_for(fail_at[FDATASYNC] == 0);
	/* The flag is set a moment after the call failed. */
	wait_for(({
		ing = open_ref(s, "a", &c, true, false);
		uint64_t offset = status_of(ing).offset;
		if (offset != 0) cairn_ingest_close(ing);
		offset == 0;
	}));
	assert_ok(put(ing, 0, c.data, c.n, &err));
	assert_true(cairn_ingest_is_published(ing));
	cairn_ingest_close(ing);
	content_free(&c);
}

static void publish__that_fails_shows_nothing_and_can_be_repeated(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_ingest_status st;
	struct content c = content_new(3000, 7);
	static const enum call calls[] = {RENAMEAT, FSYNC, FCHMOD};
	struct cairn_ingest *ing = open_ref(s, "a", &c, true, false);
	assert_ok(put(ing, 0, c.data, c.n - 1, &err));
	fail_next(FSYNC, ENOSPC);
	assert_code(put(ing, c.n - 1, c.data + c.n - 1, 1, &err), CAIRN_RESOURCE_EXHAUSTED);
	assert_int_equal(status_of(ing).offset, c.n);
	for (size_t i = 0; i < CAIRN_LEN(calls); i++) {
		fail_next(calls[i], EIO);
		assert_code(cairn_ingest_commit(ing, c.n, 0, &c.digest, &st, &err), CAIRN_INTERNAL);
		assert_int_equal(state_of(s, &c.digest), 0);
		assert_int_equal(count_files(s, "blobs/sha256"), 0);
		assert_int_equal(count_files(s, "ingest"), 1);
	}
	assert_ok(cairn_ingest_commit(ing, c.n, 0, &c.digest, &st, &err));
	cairn_ingest_close(ing);
	assert_ok(read_and_compare(s, &c, &err));
	content_free(&c);
}

static void index__that_cannot_be_written_is_tried_again(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_cache_stats stats;
	struct content c = content_new(3000, 8);
	sqlite_full = 3; /* some steps of two transactions */
	add_cached(s, &c);
	assert_ok(read_and_compare(s, &c, &err));
	wait_for(sqlite_full == 0);
	store_reopen(s);
	cairn_cache_stats(s->cache, &stats);
	assert_false(stats.recovered);
	assert_int_equal(state_of(s, &c.digest), CAIRN_BLOB_CACHED);
	/* Never again: the end is not called clean, and everything is referenced. */
	add_cached(s, &c);
	assert_true(cairn_cache_reference(s->cache, &c.digest));
	cairn_cache_release(s->cache, &c.digest);
	sqlite_full = 1 << 30;
	cairn_cache_close(s->cache);
	s->cache = NULL;
	sqlite_full = 0;
	store_open(s);
	cairn_cache_stats(s->cache, &stats);
	assert_true(stats.recovered);
	assert_int_equal(state_of(s, &c.digest), CAIRN_BLOB_REFERENCED);
	content_free(&c);
}

/* ---- sessions that end while a call runs */

struct call_on_thread {
	pthread_t thread;
	struct cairn_ingest *ing;
	const uint8_t *data;
	uint64_t at;
	size_t n;
	enum cairn_code code;
};

static void *write_on_thread(void *arg)
{
	struct call_on_thread *call = arg;
	struct cairn_err err;
	call->code = put(call->ing, call->at, call->data, call->n, &err);
	return NULL;
}

/* Starts a write and returns when it hangs in a system call. */
static void start_stalled(struct call_on_thread *call, enum call where)
{
	stall_at[where] = 1;
	assert_int_equal(pthread_create(&call->thread, NULL, write_on_thread, call), 0);
	while (sem_wait(&stalled) != 0) {
	}
}

static void stale_write__does_not_change_what_the_next_writer_was_told(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_ingest_status st;
	struct content c = content_new(200000, 9), junk = content_new(150000, 10);
	for (int abort = 0; abort < 2; abort++) {
		struct cairn_ingest *a = open_ref(s, "a", &c, true, false);
		assert_ok(put(a, 0, c.data, 1000, &err));
		struct call_on_thread call = {.ing = a, .data = junk.data, .at = 1000, .n = junk.n};
		start_stalled(&call, PWRITEV);
		if (abort) {
			cairn_cache_abort(s->cache, "a");
			cairn_ingest_close(a);
		} else {
			cairn_ingest_close(a);
		}
		struct cairn_ingest *b = open_ref(s, "a", &c, true, false); /* at once */
		uint64_t told = status_of(b).offset;
		assert_int_equal(told, abort ? 0 : 1000);
		sem_post(&go);
		pthread_join(call.thread, NULL);
		assert_int_equal(call.code, CAIRN_ABORTED);
		assert_int_equal(status_of(b).offset, told);
		assert_ok(put(b, told, c.data + told, c.n - told, &err));
		assert_true(cairn_ingest_is_published(b));
		if (!abort) {
			cairn_ingest_close(b);
			cairn_cache_abort(s->cache, "a");
			struct cairn_blob_info info;
			assert_ok(cairn_cache_info(s->cache, &c.digest, &info, &err));
			cairn_blob_info_fini(&info);
			assert_ok(read_and_compare(s, &c, &err));
		} else {
			assert_ok(cairn_ingest_commit(b, c.n, c.n, &c.digest, &st, &err));
			cairn_ingest_close(b);
		}
	}
	wait_for(count_files(s, "ingest") == 0);
	assert_ok(read_and_compare(s, &c, &err));
	content_free(&c);
	content_free(&junk);
}

/* The kernel tells a failed write-back to the checkpoint's flush and not to the publisher's. */
static void checkpoint__that_fails_beside_a_publisher_stops_it(void **state)
{
	struct store *s = *state;
	struct content c = content_new(3000, 21);
	struct cairn_ingest *ing = open_ref(s, "a", &c, true, false);
	struct cairn_err err;
	assert_ok(put(ing, 0, c.data, 1000, &err));
	fail_next(FDATASYNC, EIO);
	stall_at[FDATASYNC] = 1;
	cairn_ingest_close(ing); /* queues the checkpoint */
	while (sem_wait(&stalled) != 0) {
	}
	ing = open_ref(s, "a", &c, true, false);
	int written = counts[PWRITEV];
	struct call_on_thread call = {
		.ing = ing, .data = c.data + 1000, .at = 1000, .n = c.n - 1000};
	assert_int_equal(pthread_create(&call.thread, NULL, write_on_thread, &call), 0);
	wait_for(counts[PWRITEV] > written);
	sem_post(&go);
	pthread_join(call.thread, NULL);
	assert_int_equal(call.code, CAIRN_INTERNAL);
	assert_int_equal(state_of(s, &c.digest), 0);
	assert_int_equal(count_files(s, "blobs/sha256"), 0);
	assert_int_equal(status_of(ing).offset, 0);
	cairn_ingest_close(ing);
	content_free(&c);
}

/* The flush of the folder may take long. It has its final name then, and is nobody's blob yet. */
static void publishing__can_be_looked_at_by_who_comes(void **state)
{
	struct store *s = *state;
	struct content c = content_new(2 * MIB + 5, 31);
	struct cairn_ingest *ing = open_ref(s, "a", &c, true, false);
	uint8_t *buf = malloc(c.n);
	struct cairn_err err;
	uint32_t pieces;
	assert_ok(put(ing, 0, c.data, 2 * MIB, &err));
	struct call_on_thread call = {.ing = ing, .data = c.data + 2 * MIB, .at = 2 * MIB, .n = 5};
	start_stalled(&call, FSYNC);
	assert_int_equal(state_of(s, &c.digest), 0);
	struct cairn_partial *p = cairn_partial_find(s->cache, &c.digest, c.n);
	assert_non_null(p);
	assert_int_equal(cairn_partial_look(p, &pieces), CAIRN_PARTIAL_GROWS);
	assert_int_equal(pieces, 3);
	sem_post(&go);
	pthread_join(call.thread, NULL);
	assert_ok(call.code);
	assert_int_equal(cairn_partial_look(p, &pieces), CAIRN_PARTIAL_WHOLE);
	assert_ok(cairn_partial_read(p, 0, buf, c.n, &err));
	assert_memory_equal(buf, c.data, c.n);
	cairn_partial_free(p);
	cairn_ingest_close(ing);
	free(buf);
	content_free(&c);
}

struct open_on_thread {
	struct store *s;
	const struct content *c;
	enum cairn_code code;
	atomic_bool done;
};

static void *open_blob_on_thread(void *arg)
{
	struct open_on_thread *o = arg;
	struct cairn_err err;
	struct cairn_blob *blob = NULL;
	o->code = cairn_blob_open(o->s->cache, &o->c->digest, &blob, &err);
	cairn_blob_close(blob);
	o->done = true;
	return NULL;
}

/* Polling threads open blobs; a publisher may sit in a flush for seconds. */
static void open__does_not_wait_for_a_publisher(void **state)
{
	struct store *s = *state;
	struct content b = content_new(100, 22), c = content_new(3000, 23);
	for (uint64_t seed = 24; (b.digest.bytes[0] ^ c.digest.bytes[0]) % 16 != 0; seed++) {
		content_free(&c);
		c = content_new(3000, seed);
	}
	add_referenced(s, &b);
	struct cairn_ingest *ing = open_ref(s, "a", &c, true, false);
	struct call_on_thread call = {.ing = ing, .data = c.data, .n = c.n};
	start_stalled(&call, FSYNC);
	struct open_on_thread o = {.s = s, .c = &b};
	pthread_t thread;
	assert_int_equal(pthread_create(&thread, NULL, open_blob_on_thread, &o), 0);
	for (int left = 5000; left > 0 && !o.done; left--) usleep(1000);
	bool done = o.done;
	sem_post(&go);
	pthread_join(thread, NULL);
	pthread_join(call.thread, NULL);
	assert_true(done);
	assert_int_equal(o.code, CAIRN_OK);
	assert_int_equal(call.code, CAIRN_OK);
	cairn_ingest_close(ing);
	content_free(&b);
	content_free(&c);
}

static void publishing__goes_on_when_its_session_is_closed(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_ingest_status st;
	struct content c = content_new(200000, 11);
	struct cairn_ingest *a = open_ref(s, "a", &c, true, false);
	struct call_on_thread call = {.ing = a, .data = c.data, .at = 0, .n = c.n};
	start_stalled(&call, FDATASYNC);
	cairn_ingest_close(a);
	struct cairn_ingest *b = open_ref(s, "a", &c, true, false);
	assert_int_equal(status_of(b).offset, c.n); /* all bytes were there */
	assert_int_equal(state_of(s, &c.digest), 0);
	sem_post(&go);
	pthread_join(call.thread, NULL);
	assert_int_equal(state_of(s, &c.digest), CAIRN_BLOB_CACHED);
	assert_int_equal(status_of(b).offset, c.n);
	assert_true(cairn_ingest_is_published(b));
	assert_ok(cairn_ingest_commit(b, c.n, c.n, &c.digest, &st, &err));
	cairn_ingest_close(b);
	assert_ok(read_and_compare(s, &c, &err));
	content_free(&c);
}

static void memory_calls__do_not_wait_for_the_disk(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_ingest_status st;
	struct content c = content_new(200000, 12), other = content_new(100, 13);
	add_referenced(s, &other);
	struct cairn_ingest *a = open_ref(s, "a", &c, true, false);
	struct call_on_thread call = {.ing = a, .data = c.data, .at = 0, .n = c.n};
	start_stalled(&call, FSYNC); /* in the middle of giving the name */
	assert_int_equal(state_of(s, &c.digest), 0);
	assert_int_equal(state_of(s, &other.digest), CAIRN_BLOB_REFERENCED);
	cairn_cache_release(s->cache, &other.digest);
	assert_true(cairn_cache_reference(s->cache, &other.digest));
	assert_ok(cairn_cache_ingest_status(s->cache, "a", &st, &err));
	assert_ok(cairn_ingest_get_status(a, &st, &err));
	assert_int_equal(st.offset, c.n);
	struct cairn_ingest *b = open_ref(s, "b", &other, true, true);
	assert_code(cairn_ingest_commit(b, other.n, 0, &other.digest, &st, &err),
		    CAIRN_ALREADY_EXISTS);
	cairn_ingest_close(b);
	cairn_cache_abort(s->cache, "a");
	sem_post(&go);
	pthread_join(call.thread, NULL);
	cairn_ingest_close(a);
	assert_int_equal(state_of(s, &c.digest), CAIRN_BLOB_CACHED);
	wait_for(count_files(s, "ingest") == 0);
	content_free(&c);
	content_free(&other);
}

/* Both threads that unlink are held up, so that the file of a dropped blob goes only after the same
 * digest was published again. */
static void late_unlink__does_not_take_what_was_published_again(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct content c = content_new(3000, 16);
	char path[512];
	add_cached(s, &c);
	for (int i = 0; i < 2; i++) {
		struct cairn_ingest *ing = open_ref(s, "busy", NULL, false, false);
		assert_ok(put(ing, 0, "x", 1, &err));
		stall_at[UNLINKAT] = 1;
		cairn_cache_abort(s->cache, "busy");
		cairn_ingest_close(ing);
		while (sem_wait(&stalled) != 0) {
		}
	}
	assert_int_equal(unlink(blob_path(s, &c.digest, path)), 0);
	assert_code(cairn_cache_verify(s->cache, &c.digest, NULL, NULL, &err), CAIRN_DATA_LOSS);
	assert_int_equal(state_of(s, &c.digest), 0);
	add_cached(s, &c);
	sem_post(&go);
	sem_post(&go);
	store_reopen(s); /* all jobs are done */
	assert_int_equal(state_of(s, &c.digest), CAIRN_BLOB_CACHED);
	assert_ok(read_and_compare(s, &c, &err));
	content_free(&c);
}

/* ---- dying at every step of publishing */

struct shared {
	atomic_int committed, released;
};

/* Two publishes, by the write and by the commit, and a release; reports what was answered. */
static void scenario(struct store *s, struct shared *sh, const struct content *c,
		     const struct content *d)
{
	struct cairn_err err;
	struct cairn_ingest_status st;
	struct cairn_ingest_spec spec = {.ref = "c", .total = c->n, .want = c->digest};
	struct cairn_ingest *ing;
	if (store_try_open(s, &err) != CAIRN_OK) _exit(2);
	if (cairn_ingest_open(s->cache, &spec, &ing, &err) != CAIRN_OK) _exit(3);
	if (put(ing, 0, c->data, MIB, &err) != CAIRN_OK) _exit(4);
	if (put(ing, MIB, c->data + MIB, c->n - MIB, &err) != CAIRN_OK) _exit(5);
	if (cairn_ingest_commit(ing, c->n, c->n, &c->digest, &st, &err) != CAIRN_OK) _exit(6);
	sh->committed |= 1;
	cairn_ingest_close(ing);
	spec = (struct cairn_ingest_spec){.ref = "d"};
	if (cairn_ingest_open(s->cache, &spec, &ing, &err) != CAIRN_OK) _exit(7);
	if (put(ing, 0, d->data, d->n, &err) != CAIRN_OK) _exit(8);
	if (cairn_ingest_commit(ing, d->n, 0, &d->digest, &st, &err) != CAIRN_OK) _exit(9);
	sh->committed |= 2;
	cairn_ingest_close(ing);
	cairn_cache_release(s->cache, &c->digest);
	store_close(s);
}

static void check_after_death(struct store *s, int committed, bool died, const struct content *c,
			      const struct content *d)
{
	struct cairn_err err;
	struct cairn_cache_stats stats;
	const struct content *both[] = {c, d};
	store_open(s);
	cairn_cache_stats(s->cache, &stats);
	for (size_t i = 0; i < 2; i++) {
		int state = state_of(s, &both[i]->digest);
		if (committed & 1 << i) assert_int_not_equal(state, 0);
		/* Unless the end was clean, nothing may count as not recorded. */
		if (stats.recovered && state != 0) assert_int_equal(state, CAIRN_BLOB_REFERENCED);
		if (state != 0) assert_ok(read_and_compare(s, both[i], &err));
	}
	if (!died) assert_false(stats.recovered);
	struct cairn_ingest_status st;
	size_t files = 0;
	static const char *const refs[] = {"c", "d"};
	for (size_t i = 0; i < 2; i++) {
		if (cairn_cache_ingest_status(s->cache, refs[i], &st, &err) != CAIRN_OK) continue;
		struct cairn_digest want = digest_of(CAIRN_SHA256, both[i]->data, st.offset);
		assert_true(cairn_digest_equal(&want, &st.running));
		files += st.offset > 0 && state_of(s, &both[i]->digest) == 0;
	}
	assert_true(count_files(s, "ingest") <= files);
	store_close(s);
}

static void death__at_each_step_leaves_all_or_nothing(void **state)
{
	struct store *s = *state;
	struct content c = content_new(2 * MIB + 5, 14), d = content_new(70000, 15);
	store_close(s);
	s->checkpoint_bytes = MIB;
	struct shared *sh =
		mmap(NULL, sizeof(*sh), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int deaths = 0;
	for (int step = 1;; step++) {
		char cmd[600];
		snprintf(cmd, sizeof(cmd), "rm -rf %s/*", s->dir);
		assert_int_equal(system(cmd), 0);
		sh->committed = 0;
		pid_t pid = fork();
		assert_true(pid >= 0);
		if (pid == 0) {
			die_at = step;
			scenario(s, sh, &c, &d);
			_exit(0);
		}
		int status;
		assert_int_equal(waitpid(pid, &status, 0), pid);
		if (!WIFEXITED(status) || (WEXITSTATUS(status) != 42 && WEXITSTATUS(status) != 0)) {
			fail_msg("step %d: status %x", step, status);
		}
		bool died = WEXITSTATUS(status) == 42;
		check_after_death(s, sh->committed, died, &c, &d);
		if (!died) break;
		deaths++;
	}
	print_message("died at %d steps\n", deaths);
	assert_true(deaths > 30);
	munmap(sh, sizeof(*sh));
	content_free(&c);
	content_free(&d);
}

/* ---- a file system that is really full, in a mount namespace of its own */

static void fill_up(struct store *s)
{
	struct cairn_err err;
	struct cairn_ingest_status st;
	struct content small = content_new(100000, 20), big = content_new(24 * MIB, 21);
	store_open(s);
	add_referenced(s, &small);
	struct cairn_ingest *a = open_ref(s, "a", &big, true, false);
	assert_ok(put(a, 0, big.data, 4 * MIB, &err));
	struct cairn_ingest *b = open_ref(s, "b", &big, false, false);
	uint64_t at = 0;
	while (put(b, at, big.data + at, MIB, &err) == CAIRN_OK) at += MIB;
	assert_int_equal(err.code, CAIRN_RESOURCE_EXHAUSTED);
	assert_non_null(strstr(err.msg, "No space left"));
	assert_int_equal(status_of(b).offset, at);
	/* All else goes on. */
	assert_ok(read_and_compare(s, &small, &err));
	cairn_cache_release(s->cache, &small.digest);
	assert_true(cairn_cache_reference(s->cache, &small.digest));
	assert_code(put(a, 4 * MIB, big.data + 4 * MIB, 4 * MIB, &err), CAIRN_RESOURCE_EXHAUSTED);
	assert_int_equal(status_of(a).offset, 4 * MIB);
	/* Space comes back. */
	cairn_ingest_close(b);
	cairn_cache_abort(s->cache, "b");
	wait_for(put(a, status_of(a).offset, big.data + status_of(a).offset, 2 * MIB, &err) ==
		 CAIRN_OK);
	assert_int_equal(status_of(a).offset, 6 * MIB);
	cairn_ingest_close(a);
	store_reopen(s);
	assert_int_equal(state_of(s, &small.digest), CAIRN_BLOB_REFERENCED);
	assert_ok(cairn_cache_ingest_status(s->cache, "a", &st, &err));
	assert_int_equal(st.offset, 6 * MIB);
	store_close(s);
	/* To the last block, by somebody else; and it opens all the same, or nobody could delete.
	 */
	char path[512];
	snprintf(path, sizeof(path), "%s/foreign", s->dir);
	int fd = open(path, O_CREAT | O_WRONLY, 0600);
	for (size_t n = MIB; n > 0;) {
		if (write(fd, big.data, n) <= 0) n /= 2;
	}
	close(fd);
	store_open(s);
	assert_int_equal(state_of(s, &small.digest), CAIRN_BLOB_REFERENCED);
	assert_ok(read_and_compare(s, &small, &err));
	store_close(s);
	content_free(&small);
	content_free(&big);
}

static void full_disk__fails_that_write_alone(void **state)
{
	struct store *s = *state;
	store_close(s);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		if (unshare(CLONE_NEWNS) != 0 ||
		    mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
		    mount("tmpfs", s->dir, "tmpfs", 0, "size=16m") != 0) {
			_exit(77);
		}
		fill_up(s);
		_exit(0);
	}
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77) skip();
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

#define fault_test(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	cairn_log_set_level(CAIRN_LOG_ERROR + 1);
	const struct CMUnitTest tests[] = {
		fault_test(publish__flushes_the_data_and_the_folder_once),
		fault_test(write__that_finds_the_disk_full_changes_nothing),
		fault_test(write__shorter_than_a_failed_one_publishes_no_rest),
		fault_test(flush__that_fails_drops_the_data),
		fault_test(checkpoint__that_fails_drops_the_data),
		fault_test(publish__that_fails_shows_nothing_and_can_be_repeated),
		fault_test(index__that_cannot_be_written_is_tried_again),
		fault_test(stale_write__does_not_change_what_the_next_writer_was_told),
		fault_test(checkpoint__that_fails_beside_a_publisher_stops_it),
		fault_test(publishing__can_be_looked_at_by_who_comes),
		fault_test(open__does_not_wait_for_a_publisher),
		fault_test(publishing__goes_on_when_its_session_is_closed),
		fault_test(memory_calls__do_not_wait_for_the_disk),
		fault_test(late_unlink__does_not_take_what_was_published_again),
		fault_test(death__at_each_step_leaves_all_or_nothing),
		fault_test(full_disk__fails_that_write_alone),
	};
	return cmocka_run_group_tests_name("cache/faults", tests, NULL, NULL);
}
