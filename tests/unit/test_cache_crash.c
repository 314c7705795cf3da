/* kill -9 at any moment, and what a power loss may take from the index: every blob whose commit was
 * answered is there, referenced and whole; nothing unverified is visible; no space leaks; ingests
 * go on at an offset whose bytes match. */
#include <signal.h>
#include <sys/wait.h>

#include "support/store.h"

#define MIB (1u << 20)
#define SEEDS 24 /* different contents */
#define ROUNDS 30
#define REFS 6	       /* open at a time */
#define REFS_ON_DISK 8 /* their names */

static struct content contents[SEEDS];

static size_t size_of(uint64_t seed)
{
	static const size_t sizes[] = {1, 4096, 70001, MIB, MIB + 1, 3 * MIB - 17};
	return sizes[seed % CAIRN_LEN(sizes)];
}

static int setup_contents(void **state)
{
	(void)state;
	for (uint64_t i = 0; i < SEEDS; i++) contents[i] = content_new(size_of(i), 5000 + i);
	return 0;
}

static int free_contents(void **state)
{
	(void)state;
	for (size_t i = 0; i < SEEDS; i++) content_free(&contents[i]);
	return 0;
}

/* ---- the child: random work until it is killed */

struct work {
	struct store *s;
	uint64_t x;
	int report; /* a byte per commit that was answered */
	struct cairn_ingest *open[REFS];
	size_t content[REFS];
};

/* A ref stands for no content in particular, so that what one writer left is another's to replace.
 */
static void work_open(struct work *w, size_t k)
{
	struct cairn_err err;
	char ref[32];
	size_t i = next_random(&w->x) % SEEDS;
	snprintf(ref, sizeof(ref), "ref-%d", (int)(next_random(&w->x) % REFS_ON_DISK));
	struct cairn_ingest_spec spec = {.ref = ref, .owner = "ns"};
	if (next_random(&w->x) % 4 == 0) spec.total = contents[i].n;
	if (next_random(&w->x) % 4 != 0) spec.want = contents[i].digest;
	spec.prefill = next_random(&w->x) % 2 == 0;
	w->content[k] = i;
	if (cairn_ingest_open(w->s->cache, &spec, &w->open[k], &err) != CAIRN_OK) w->open[k] = NULL;
}

static bool is_prefix(const struct content *c, const struct cairn_ingest_status *st)
{
	if (st->offset > c->n) return false;
	struct cairn_digest want = digest_of(CAIRN_SHA256, c->data, st->offset);
	return cairn_digest_equal(&want, &st->running);
}

static void work_write(struct work *w, size_t k)
{
	struct cairn_err err;
	struct cairn_ingest_status st;
	const struct content *c = &contents[w->content[k]];
	if (cairn_ingest_get_status(w->open[k], &st, &err) != CAIRN_OK) return;
	uint64_t at = next_random(&w->x) % 10 == 0 || !is_prefix(c, &st) ? 0 : st.offset;
	size_t n = 1 + next_random(&w->x) % (600 * 1024);
	if (at >= c->n) return;
	if (n > c->n - at) n = c->n - (size_t)at;
	if (put(w->open[k], at, c->data + at, n, &err) != CAIRN_OK && err.code != CAIRN_ABORTED) {
		_exit(3);
	}
}

static void work_commit(struct work *w, size_t k)
{
	struct cairn_err err;
	struct cairn_ingest_status st;
	const struct content *c = &contents[w->content[k]];
	if (cairn_ingest_get_status(w->open[k], &st, &err) != CAIRN_OK) return;
	enum cairn_code code =
		cairn_ingest_commit(w->open[k], st.offset, c->n, &c->digest, &st, &err);
	uint8_t which = (uint8_t)w->content[k];
	if (code != CAIRN_OK && code != CAIRN_ALREADY_EXISTS) return;
	if (write(w->report, &which, 1) != 1) _exit(4);
}

static void work_step(struct work *w)
{
	size_t k = next_random(&w->x) % REFS;
	char ref[32];
	if (w->open[k] == NULL) {
		work_open(w, k);
		return;
	}
	switch (next_random(&w->x) % 16) {
	case 0:
		cairn_ingest_close(w->open[k]);
		w->open[k] = NULL;
		break;
	case 1:
		snprintf(ref, sizeof(ref), "ref-%d", (int)(next_random(&w->x) % REFS_ON_DISK));
		cairn_cache_abort(w->s->cache, ref);
		break;
	case 2:
		cairn_cache_release(w->s->cache, &contents[next_random(&w->x) % SEEDS].digest);
		break;
	case 3:
	case 4:
	case 5:
	case 6:
		work_commit(w, k);
		break;
	default:
		work_write(w, k);
	}
}

static void work_until_killed(struct store *s, uint64_t seed, int report)
{
	struct work w = {.s = s, .x = seed, .report = report};
	alarm(60); /* should the parent die first */
	store_open(s);
	for (;;) work_step(&w);
}

/* ---- what is taken away besides */

static void harm(struct store *s, unsigned how)
{
	char db[512], wal[512];
	struct stat st;
	snprintf(db, sizeof(db), "%s/index.db", s->dir);
	snprintf(wal, sizeof(wal), "%s/index.db-wal", s->dir);
	switch (how % 6) {
	case 1: /* a lost tail of the log */
		if (stat(wal, &st) == 0) assert_int_equal(truncate(wal, st.st_size / 2), 0);
		break;
	case 2:
		unlink(wal);
		break;
	case 3:
		unlink(db);
		break;
	case 4: {
		uint8_t junk[4096];
		fill(junk, sizeof(junk), how);
		int fd = open(db, O_WRONLY);
		if (fd < 0 && errno == ENOENT) break; /* killed before there was one */
		assert_int_equal(pwrite(fd, junk, sizeof(junk), 0), sizeof(junk));
		close(fd);
		break;
	}
	default:
		break;
	}
}

/* ---- what must hold */

static size_t content_of(const struct cairn_digest *d)
{
	for (size_t i = 0; i < SEEDS; i++) {
		if (cairn_digest_equal(&contents[i].digest, d)) return i;
	}
	fail_msg("a blob that nobody wrote");
	return 0;
}

static void check_blobs(struct store *s, const bool *committed)
{
	struct cairn_err err;
	struct cairn_digest pos = {0};
	struct cairn_blob_info info;
	size_t n = 0;
	while (cairn_cache_next(s->cache, &pos, 0, &info, 1) == 1) {
		pos = info.digest;
		assert_int_equal(info.state, CAIRN_BLOB_REFERENCED);
		assert_false(info.damaged);
		assert_ok(read_and_compare(s, &contents[content_of(&pos)], &err));
		cairn_blob_info_fini(&info);
		n++;
	}
	assert_int_equal(count_files(s, "blobs/sha256"), n);
	for (size_t i = 0; i < SEEDS; i++) {
		if (committed[i] && state_of(s, &contents[i].digest) == 0) {
			fail_msg("content %zu was committed and is gone", i);
		}
	}
}

static size_t content_with_prefix(const struct cairn_ingest_status *st)
{
	for (size_t i = 0; i < SEEDS; i++) {
		if (is_prefix(&contents[i], st)) return i;
	}
	fail_msg("%s has bytes that nobody wrote", st->ref);
	return 0;
}

static void check_ingests(struct store *s)
{
	struct cairn_err err;
	struct cairn_ingest_status st = {0};
	char last[CAIRN_REF_MAX + 1] = "";
	size_t files = 0;
	while (cairn_cache_next_ingest(s->cache, last, &st, 1) == 1) {
		memcpy(last, st.ref, strlen(st.ref) + 1);
		(void)content_with_prefix(&st);
		struct cairn_ingest_spec spec = {.ref = st.ref};
		struct cairn_ingest *ing;
		assert_ok(cairn_ingest_open(s->cache, &spec, &ing, &err));
		files += st.offset > 0 && !cairn_ingest_is_published(ing);
		cairn_ingest_close(ing);
	}
	assert_int_equal(count_files(s, "ingest"), files);
}

/* Half of the ingests are finished here, the rest is left for the next round. */
static void finish_some(struct store *s, bool *committed, uint64_t *x)
{
	struct cairn_err err;
	struct cairn_ingest_status st = {0};
	char last[CAIRN_REF_MAX + 1] = "";
	while (cairn_cache_next_ingest(s->cache, last, &st, 1) == 1) {
		memcpy(last, st.ref, strlen(st.ref) + 1);
		if (next_random(x) % 2 == 0) continue;
		size_t i = content_with_prefix(&st);
		const struct content *c = &contents[i];
		struct cairn_ingest_spec spec = {.ref = last};
		struct cairn_ingest *ing;
		assert_ok(cairn_ingest_open(s->cache, &spec, &ing, &err));
		st = status_of(ing);
		if (st.offset < c->n) {
			assert_ok(put(ing, st.offset, c->data + st.offset, c->n - st.offset, &err));
		}
		enum cairn_code code = cairn_ingest_commit(ing, c->n, c->n, &c->digest, &st, &err);
		assert_true(code == CAIRN_OK || code == CAIRN_ALREADY_EXISTS);
		cairn_ingest_close(ing);
		/* The hash went on from the checkpoint: do the bytes before it agree? */
		assert_ok(read_and_compare(s, c, &err));
		committed[i] = true;
	}
}

static void kill__at_any_moment_harms_nothing(void **state)
{
	struct store *s = *state;
	uint64_t seed = test_seed(), x = seed;
	bool committed[SEEDS] = {false};
	size_t commits = 0;
	s->checkpoint_bytes = 256 * 1024;
	for (int round = 0; round < ROUNDS; round++) {
		int pipes[2];
		assert_int_equal(pipe(pipes), 0);
		uint64_t child_seed = next_random(&x);
		pid_t pid = fork();
		assert_true(pid >= 0);
		if (pid == 0) work_until_killed(s, child_seed, pipes[1]);
		close(pipes[1]);
		struct timespec life = {0, (long)(next_random(&x) % 150) * 1000000};
		nanosleep(&life, NULL);
		kill(pid, SIGKILL);
		int status;
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFSIGNALED(status)); /* else the child found something */
		uint8_t which;
		for (; read(pipes[0], &which, 1) == 1; commits++) committed[which] = true;
		close(pipes[0]);
		harm(s, (unsigned)next_random(&x));
		store_open(s);
		check_blobs(s, committed);
		check_ingests(s);
		finish_some(s, committed, &x);
		store_close(s);
	}
	print_message("%zu commits answered in %d lives\n", commits, ROUNDS);
}

#define crash_test(f) cmocka_unit_test_setup_teardown(f, store_setup, store_teardown)

int main(void)
{
	cairn_log_set_level(CAIRN_LOG_ERROR + 1);
	const struct CMUnitTest tests[] = {
		crash_test(kill__at_any_moment_harms_nothing),
	};
	return cmocka_run_group_tests_name("cache/crash", tests, setup_contents, free_contents);
}
