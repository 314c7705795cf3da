/* A blob that comes in pieces: any order, wrong bytes, restarts, kill -9. */
#include <signal.h>
#include <sys/wait.h>

#include "cache/evict.h"
#include "support/pieces.h"

#define MIB (1u << 20)

/* ---- geometry */

static void geometry__is_part_of_the_protocol(void **state)
{
	(void)state;
	const uint64_t gib = UINT64_C(1) << 30, mib = MIB;
	static const struct {
		uint64_t size, step;
		uint32_t count;
		uint64_t last;
	} cases[] = {
		{1, MIB, 1, 1},
		{MIB - 1, MIB, 1, MIB - 1},
		{MIB, MIB, 1, MIB},
		{MIB + 1, MIB, 2, 1},
		{UINT64_C(16) << 30, MIB, 16384, MIB},
		{(UINT64_C(16) << 30) + 1, 2 * MIB, 8193, 1},
		{UINT64_C(100) << 30, 8 * MIB, 12800, 8 * MIB},
		{(UINT64_C(256) << 30) - 5, 16 * MIB, 16384, 16 * MIB - 5},
		{UINT64_C(256) << 30, 16 * MIB, 16384, 16 * MIB},
	};
	for (size_t i = 0; i < CAIRN_LEN(cases); i++) {
		assert_int_equal(cairn_piece_size(cases[i].size), cases[i].step);
		assert_int_equal(cairn_piece_count(cases[i].size), cases[i].count);
		assert_int_equal(cairn_piece_length(cases[i].size, cases[i].count - 1),
				 cases[i].last);
		if (cases[i].count > 1) {
			assert_int_equal(cairn_piece_length(cases[i].size, 0), cases[i].step);
		}
	}
	assert_int_equal(cairn_piece_size(0), 0);
	assert_int_equal(cairn_piece_count(0), 0);
	assert_int_equal(cairn_piece_size(256 * gib + 1), 0);
	assert_int_equal(cairn_piece_count(UINT64_MAX), 0);
	assert_int_equal(cairn_piece_length(3 * mib + 7, 3), 7);
}

/* ---- filling */

static const size_t sizes[] = {1, 4096, MIB - 1, MIB, MIB + 1, 2 * MIB, 5 * MIB + 77, 7 * MIB};

static void fill__in_any_order_makes_the_blob(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	uint64_t x = test_seed();
	for (size_t i = 0; i < 2 * CAIRN_LEN(sizes); i++) {
		struct content c = content_new(sizes[i / 2], 100 + i);
		if (i % 2 == 1) c.digest = digest_of(CAIRN_SHA512, c.data, c.n);
		uint8_t *list = list_of(&c);
		uint32_t count = cairn_piece_count(c.n), *order = shuffled(count, &x);
		struct cairn_pieces *p = pieces_open(s, &c);
		for (uint32_t j = 0; j < count; j++) {
			assert_code(cairn_pieces_publish(p, &err), CAIRN_FAILED_PRECONDITION);
			assert_false(cairn_pieces_has(p, order[j]));
			size_t part = 1 + next_random(&x) % 400000;
			assert_ok(put_piece(p, &c, list, order[j], c.data, part, &err));
			assert_true(cairn_pieces_has(p, order[j]));
			assert_int_equal(cairn_pieces_done(p), j + 1);
		}
		assert_int_equal(state_of(s, &c.digest), 0);
		assert_ok(cairn_pieces_publish(p, &err));
		assert_int_equal(state_of(s, &c.digest), CAIRN_BLOB_CACHED);
		cairn_pieces_close(p, true);
		assert_int_equal(count_files(s, "ingest"), 0);
		assert_ok(read_and_compare(s, &c, &err));
		/* After a restart every MiB is proved again: by the chain that was kept. */
		store_reopen(s);
		assert_ok(read_and_compare(s, &c, &err));
		free(order);
		free(list);
		content_free(&c);
	}
}

static void pieces__are_read_while_others_come_and_after_the_publish(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct content c = content_new(3 * MIB + 10, 1);
	uint8_t *list = list_of(&c), *buf = malloc(c.n);
	struct cairn_pieces *p = pieces_open(s, &c);
	assert_code(cairn_pieces_read(p, 0, buf, 1, &err), CAIRN_INTERNAL);
	assert_ok(put_piece(p, &c, list, 1, c.data, MIB, &err));
	assert_ok(put_piece(p, &c, list, 2, c.data, MIB, &err));
	assert_ok(cairn_pieces_read(p, MIB, buf, 2 * MIB, &err));
	assert_memory_equal(buf, c.data + MIB, 2 * MIB);
	assert_code(cairn_pieces_read(p, MIB - 1, buf, 2, &err), CAIRN_INTERNAL);
	assert_code(cairn_pieces_read(p, 3 * MIB - 1, buf, 2, &err), CAIRN_INTERNAL);
	assert_ok(cairn_pieces_read(p, 2 * MIB + 5, buf, 0, &err));
	put_all(p, &c, list);
	assert_ok(cairn_pieces_read(p, 0, buf, c.n, &err));
	assert_code(cairn_pieces_read(p, 1, buf, c.n, &err), CAIRN_INTERNAL);
	assert_code(cairn_pieces_read(p, UINT64_MAX, buf, 2, &err), CAIRN_INTERNAL);
	assert_ok(cairn_pieces_publish(p, &err));
	assert_code(cairn_pieces_publish(p, &err), CAIRN_FAILED_PRECONDITION);
	memset(buf, 0, c.n);
	assert_ok(cairn_pieces_read(p, 0, buf, c.n, &err));
	assert_memory_equal(buf, c.data, c.n);
	cairn_pieces_forget(p); /* too late to mean anything */
	assert_int_equal(cairn_pieces_done(p), 4);
	cairn_pieces_close(p, false);
	assert_ok(read_and_compare(s, &c, &err));
	free(buf);
	free(list);
	content_free(&c);
}

static void wrong_pieces__are_not_there(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct content c = content_new(2 * MIB + 10, 2), junk = content_new(2 * MIB + 10, 3);
	uint8_t *list = list_of(&c);
	struct cairn_piece_writer w;
	struct cairn_pieces *p = pieces_open(s, &c);
	for (uint32_t k = 0; k < 3; k++) {
		assert_code(put_piece(p, &c, list, k, junk.data, 70000, &err), CAIRN_DATA_LOSS);
		assert_false(cairn_pieces_has(p, k));
		/* Too few; too many. */
		cairn_piece_begin(p, k, before(&c, list, k), &w);
		assert_ok(cairn_piece_write(&w, c.data + k * MIB, 9, &err));
		assert_code(cairn_piece_end(&w, entry(&c, list, k), &err), CAIRN_DATA_LOSS);
		cairn_piece_begin(p, k, before(&c, list, k), &w);
		uint64_t n = cairn_piece_length(c.n, k);
		assert_ok(cairn_piece_write(&w, c.data + k * MIB, n, &err));
		assert_code(cairn_piece_write(&w, c.data, 1, &err), CAIRN_OUT_OF_RANGE);
		cairn_piece_abandon(&w);
		assert_false(cairn_pieces_has(p, k));
	}
	put_all(p, &c, list);
	assert_ok(cairn_pieces_publish(p, &err));
	cairn_pieces_close(p, false);
	assert_ok(read_and_compare(s, &c, &err));
	free(list);
	content_free(&c);
	content_free(&junk);
}

/* Each piece is what some list says of it, but no list says all of that. */
static void chain_that_breaks__publishes_nothing(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct content c = content_new(3 * MIB + 5, 4), liar = content_new(3 * MIB + 5, 5);
	uint8_t *list = list_of(&c), *lies = list_of(&liar);
	struct cairn_pieces *p = pieces_open(s, &c);
	assert_ok(put_piece(p, &c, list, 0, c.data, MIB, &err));
	assert_ok(put_piece(p, &liar, lies, 1, liar.data, MIB, &err));
	assert_ok(put_piece(p, &liar, lies, 2, liar.data, MIB, &err));
	assert_ok(put_piece(p, &c, list, 3, c.data, MIB, &err)); /* ends in the digest */
	assert_int_equal(cairn_pieces_done(p), 4);
	assert_code(cairn_pieces_publish(p, &err), CAIRN_DATA_LOSS);
	assert_int_equal(state_of(s, &c.digest), 0);
	assert_int_equal(cairn_pieces_done(p), 0);
	/* What was right in it is found again, and the rest comes anew. */
	assert_true(cairn_pieces_recover(p, 0, NULL, entry(&c, list, 0)));
	assert_false(cairn_pieces_recover(p, 1, entry(&c, list, 0), entry(&c, list, 1)));
	assert_true(cairn_pieces_recover(p, 3, entry(&c, list, 2), NULL));
	put_all(p, &c, list);
	assert_ok(cairn_pieces_publish(p, &err));
	cairn_pieces_close(p, false);
	assert_ok(read_and_compare(s, &c, &err));
	free(list);
	free(lies);
	content_free(&c);
	content_free(&liar);
}

static void forget__takes_away_what_was_begun_before_it(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct content c = content_new(2 * MIB, 6), liar = content_new(2 * MIB, 7);
	uint8_t *list = list_of(&c), *lies = list_of(&liar);
	struct cairn_pieces *p = pieces_open(s, &c);
	struct cairn_piece_writer w;
	assert_ok(put_piece(p, &c, list, 1, c.data, MIB, &err));
	cairn_piece_begin(p, 0, NULL, &w);
	assert_ok(cairn_piece_write(&w, liar.data, MIB, &err));
	cairn_pieces_forget(p);
	assert_int_equal(cairn_pieces_done(p), 0);
	assert_code(cairn_piece_end(&w, entry(&liar, lies, 0), &err), CAIRN_ABORTED);
	assert_int_equal(cairn_pieces_done(p), 0);
	put_all(p, &c, list);
	assert_ok(cairn_pieces_publish(p, &err));
	cairn_pieces_close(p, false);
	assert_ok(read_and_compare(s, &c, &err));
	free(list);
	free(lies);
	content_free(&c);
	content_free(&liar);
}

/* ---- opening and closing */

static void open__refuses_what_cannot_be(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct content c = content_new(2 * MIB, 12);
	struct cairn_digest none = {0};
	struct cairn_pieces *p = pieces_open(s, &c), *other;
	assert_code(cairn_pieces_open(s->cache, &c.digest, c.n, &other, &err), CAIRN_UNAVAILABLE);
	assert_code(cairn_pieces_open(s->cache, &c.digest, 0, &other, &err),
		    CAIRN_INVALID_ARGUMENT);
	assert_code(cairn_pieces_open(s->cache, &none, 5, &other, &err), CAIRN_INVALID_ARGUMENT);
	assert_code(cairn_pieces_open(s->cache, &c.digest, (UINT64_C(256) << 30) + 1, &other, &err),
		    CAIRN_FAILED_PRECONDITION);
	cairn_pieces_close(p, true);
	assert_int_equal(count_files(s, "ingest"), 0); /* nothing was in it */
	cairn_pieces_close(NULL, true);
	content_free(&c);
}

static void huge_blobs__have_larger_pieces(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	uint64_t size = (UINT64_C(16) << 30) + 3 * (uint64_t)MIB; /* pieces of 2 MiB */
	struct content part = content_new(2 * MIB, 13);
	struct cairn_digest d = part.digest;
	uint8_t state0[CAIRN_CHAIN_STATE], state1[CAIRN_CHAIN_STATE], buf[64];
	struct cairn_hasher h;
	struct cairn_pieces *p = NULL;
	struct cairn_cache_stats st;
	assert_ok(cairn_pieces_open(s->cache, &d, size, &p, &err));
	cairn_hasher_init(&h, CAIRN_SHA256);
	cairn_hasher_update(&h, part.data, 100 * 128);
	cairn_hasher_state(&h, state0); /* some state; before the piece, as far as anybody knows */
	uint32_t k = 8192;
	cairn_hasher_resume(&h, CAIRN_SHA256, (uint64_t)k * 2 * MIB, state0);
	cairn_hasher_update(&h, part.data, 2 * MIB);
	cairn_hasher_state(&h, state1);
	struct cairn_piece_writer w;
	cairn_piece_begin(p, k, state0, &w);
	assert_ok(cairn_piece_write(&w, part.data, MIB + 5, &err));
	assert_ok(cairn_piece_write(&w, part.data + MIB + 5, MIB - 5, &err));
	assert_ok(cairn_piece_end(&w, state1, &err));
	assert_ok(cairn_pieces_read(p, (uint64_t)k * 2 * MIB + MIB, buf, sizeof(buf), &err));
	assert_memory_equal(buf, part.data + MIB, sizeof(buf));
	cairn_cache_stats(s->cache, &st);
	assert_int_equal(st.ingests, 1);
	assert_int_equal(st.ingest_bytes, 2 * MIB); /* what it takes, not what it will be */
	cairn_pieces_close(p, true);
	assert_ok(cairn_pieces_open(s->cache, &d, size, &p, &err));
	assert_false(cairn_pieces_recover(p, k - 1, state0, state1));
	assert_true(cairn_pieces_recover(p, k, state0, state1));
	cairn_pieces_close(p, false);
	assert_int_equal(count_files(s, "ingest"), 0);
	content_free(&part);
}

static void restart__loses_no_piece(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_cache_stats st;
	struct content c = content_new(5 * MIB + 3, 14), junk = content_new(5 * MIB + 3, 15);
	uint8_t *list = list_of(&c);
	char path[512];
	struct cairn_pieces *p = pieces_open(s, &c);
	for (uint32_t k = 1; k < 6; k += 2) {
		assert_ok(put_piece(p, &c, list, k, c.data, MIB, &err));
	}
	assert_code(put_piece(p, &c, list, 2, junk.data, MIB, &err), CAIRN_DATA_LOSS);
	cairn_pieces_close(p, true);
	piece_path(s, &c, path);
	assert_true(exists(path));
	store_reopen(s);
	cairn_cache_stats(s->cache, &st);
	assert_int_equal(st.ingests, 1);
	assert_true(st.ingest_bytes >= 3 * MIB && st.ingest_bytes < c.n);
	p = pieces_open(s, &c);
	assert_int_equal(cairn_pieces_done(p), 0); /* until it is proved */
	for (uint32_t k = 0; k < 6; k++) {
		bool was = k % 2 == 1;
		assert_int_equal(
			cairn_pieces_recover(p, k, before(&c, list, k), entry(&c, list, k)), was);
		assert_int_equal(cairn_pieces_has(p, k), was);
		if (was) assert_true(cairn_pieces_recover(p, k, NULL, NULL)); /* known */
	}
	put_all(p, &c, list);
	assert_ok(cairn_pieces_publish(p, &err));
	cairn_pieces_close(p, true);
	assert_ok(read_and_compare(s, &c, &err));
	/* Another size than the file has: it is somebody's mistake, and begins anew. */
	struct content other = content_new(2 * MIB, 16);
	p = pieces_open(s, &other);
	uint8_t *others = list_of(&other);
	assert_ok(put_piece(p, &other, others, 0, other.data, MIB, &err));
	cairn_pieces_close(p, true);
	assert_ok(cairn_pieces_open(s->cache, &other.digest, other.n + 1, &p, &err));
	assert_false(cairn_pieces_recover(p, 0, NULL, entry(&other, others, 0)));
	cairn_pieces_close(p, true);
	assert_int_equal(count_files(s, "ingest"), 0);
	free(list);
	free(others);
	content_free(&c);
	content_free(&junk);
	content_free(&other);
}

static void close__without_keeping_drops_the_file(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_cache_stats st;
	struct content c = content_new(2 * MIB, 17);
	uint8_t *list = list_of(&c);
	struct cairn_pieces *p = pieces_open(s, &c);
	assert_ok(put_piece(p, &c, list, 1, c.data, MIB, &err));
	cairn_pieces_close(p, false);
	assert_int_equal(count_files(s, "ingest"), 0);
	cairn_cache_stats(s->cache, &st);
	assert_int_equal(st.ingests, 0);
	assert_int_equal(st.ingest_bytes, 0);
	free(list);
	content_free(&c);
}

static void expiry__drops_what_nobody_opened_for_long(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct content a = content_new(2 * MIB, 18), b = content_new(2 * MIB, 19);
	uint8_t *list_a = list_of(&a), *list_b = list_of(&b);
	char path_a[512], path_b[512];
	piece_path(s, &a, path_a);
	piece_path(s, &b, path_b);
	struct cairn_pieces *pa = pieces_open(s, &a), *pb = pieces_open(s, &b);
	assert_ok(put_piece(pa, &a, list_a, 0, a.data, MIB, &err));
	assert_ok(put_piece(pb, &b, list_b, 0, b.data, MIB, &err));
	cairn_pieces_close(pa, true);
	clock_move(s, 1000);
	cairn_pieces_close(pb, true);
	assert_int_equal(cairn_cache_expire_ingests(s->cache, 1001), 0);
	assert_int_equal(cairn_cache_expire_ingests(s->cache, 1000), 1);
	assert_false(exists(path_a));
	assert_true(exists(path_b));
	/* Open ones stay; a restart is a new beginning. */
	pb = pieces_open(s, &b);
	clock_move(s, 5000);
	assert_int_equal(cairn_cache_expire_ingests(s->cache, 1), 0);
	cairn_pieces_close(pb, true);
	clock_move(s, 5000);
	store_reopen(s);
	clock_move(s, 100);
	assert_int_equal(cairn_cache_expire_ingests(s->cache, 101), 0);
	assert_int_equal(cairn_cache_expire_ingests(s->cache, 100), 1);
	assert_int_equal(count_files(s, "ingest"), 0);
	free(list_a);
	free(list_b);
	content_free(&a);
	content_free(&b);
}

static void strange_names__are_let_alone(void **state)
{
	struct store *s = *state;
	static const char *const names[] = {
		"pieces-", "pieces-sha256-00", "pieces-md5-d41d8cd98f00b204e9800998ecf8427e",
		"pieces-sha256:0000000000000000000000000000000000000000000000000000000000000000"};
	struct cairn_cache_stats st;
	char path[1024];
	store_close(s);
	for (size_t i = 0; i < CAIRN_LEN(names); i++) {
		snprintf(path, sizeof(path), "%s/ingest/%s", s->dir, names[i]);
		close(open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
	}
	store_open(s);
	cairn_cache_stats(s->cache, &st);
	assert_int_equal(st.ingests, 0);
	assert_int_equal(cairn_cache_expire_ingests(s->cache, 0), 0);
	assert_int_equal(count_files(s, "ingest"), CAIRN_LEN(names));
}

/* ---- publishing beside others */

static void publish__heals_a_damaged_blob(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	char path[512];
	struct content c = content_new(2 * MIB + 1, 20);
	uint8_t *list = list_of(&c);
	add_referenced(s, &c);
	assert_int_equal(chmod(blob_path(s, &c.digest, path), 0600), 0);
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	assert_int_equal(pwrite(fd, "x", 1, MIB + 5), 1);
	close(fd);
	assert_code(read_and_compare(s, &c, &err), CAIRN_DATA_LOSS);
	assert_true(is_damaged(s, &c.digest));
	struct cairn_pieces *p = pieces_open(s, &c);
	put_all(p, &c, list);
	assert_ok(cairn_pieces_publish(p, &err));
	cairn_pieces_close(p, true);
	assert_false(is_damaged(s, &c.digest));
	assert_int_equal(state_of(s, &c.digest), CAIRN_BLOB_REFERENCED);
	assert_ok(read_and_compare(s, &c, &err));
	free(list);
	content_free(&c);
}

static void publish__of_what_is_here_leaves_no_file(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct content c = content_new(2 * MIB + 1, 21);
	uint8_t *list = list_of(&c), *buf = malloc(c.n);
	struct cairn_pieces *p = pieces_open(s, &c);
	put_all(p, &c, list);
	add_referenced(s, &c); /* a pull was faster */
	assert_ok(cairn_pieces_publish(p, &err));
	assert_int_equal(count_files(s, "ingest"), 0);
	assert_ok(cairn_pieces_read(p, 0, buf, c.n, &err));
	assert_memory_equal(buf, c.data, c.n);
	cairn_pieces_close(p, true);
	assert_int_equal(state_of(s, &c.digest), CAIRN_BLOB_REFERENCED);
	assert_ok(read_and_compare(s, &c, &err));
	free(buf);
	free(list);
	content_free(&c);
}

/* ---- kill -9 */

#define ROUNDS 12

/* Pieces in any order, some wrong, told of each that is there, until it is killed. */
static void fill_until_killed(struct store *s, const struct content *c, const uint8_t *list,
			      uint64_t x, int report)
{
	struct cairn_err err;
	alarm(60); /* should the parent die first */
	store_open(s);
	struct cairn_pieces *p = pieces_open(s, c);
	uint8_t *junk = calloc(1, c->n);
	uint32_t count = cairn_piece_count(c->n), *order = shuffled(count, &x);
	for (uint32_t i = 0; i < count; i++) {
		uint8_t k = (uint8_t)order[i];
		if (cairn_pieces_recover(p, k, before(c, list, k), entry(c, list, k))) continue;
		size_t part = 1 + next_random(&x) % 200000;
		(void)put_piece(p, c, list, k, junk, part, &err);
		if (put_piece(p, c, list, k, c->data, part, &err) != CAIRN_OK) _exit(3);
		if (write(report, &k, 1) != 1) _exit(4);
	}
	if (cairn_pieces_publish(p, &err) != CAIRN_OK) _exit(5);
	_exit(0); /* without an orderly end */
}

/* Kill it after so many pieces: what it told of is still there, and so it ends at last. */
static bool round_of(struct store *s, const struct content *c, const uint8_t *list, uint64_t *x)
{
	int report[2], status;
	uint8_t k, told[64];
	size_t n = 0, end = next_random(x) % 4;
	assert_int_equal(pipe(report), 0);
	pid_t pid = fork();
	if (pid == 0) {
		close(report[0]);
		fill_until_killed(s, c, list, next_random(x), report[1]);
	}
	close(report[1]);
	while (n < end && read(report[0], &k, 1) == 1) told[n++] = k;
	if (n == end && end > 0) kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	close(report[0]);
	if (WIFEXITED(status)) assert_int_equal(WEXITSTATUS(status), 0);
	store_open(s);
	bool done = state_of(s, &c->digest) != 0;
	if (!done) {
		struct cairn_pieces *p = pieces_open(s, c);
		for (size_t i = 0; i < n; i++) {
			assert_true(cairn_pieces_recover(p, told[i], before(c, list, told[i]),
							 entry(c, list, told[i])));
		}
		cairn_pieces_close(p, true);
	}
	store_close(s);
	return done;
}

static void kill__loses_no_piece_and_makes_none_up(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	uint64_t x = test_seed();
	for (unsigned i = 0; i < ROUNDS; i++) {
		struct content c = content_new(4 * MIB + 1 + next_random(&x) % (4 * MIB), 300 + i);
		uint8_t *list = list_of(&c);
		unsigned rounds = 0;
		while (!round_of(s, &c, list, &x)) assert_true(++rounds < 100);
		store_open(s);
		assert_ok(read_and_compare(s, &c, &err));
		assert_int_equal(count_files(s, "ingest"), 0);
		store_close(s);
		free(list);
		content_free(&c);
	}
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, store_setup_open, store_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(geometry__is_part_of_the_protocol),
		TEST(fill__in_any_order_makes_the_blob),
		TEST(pieces__are_read_while_others_come_and_after_the_publish),
		TEST(wrong_pieces__are_not_there),
		TEST(chain_that_breaks__publishes_nothing),
		TEST(forget__takes_away_what_was_begun_before_it),
		TEST(open__refuses_what_cannot_be),
		TEST(huge_blobs__have_larger_pieces),
		TEST(restart__loses_no_piece),
		TEST(close__without_keeping_drops_the_file),
		TEST(expiry__drops_what_nobody_opened_for_long),
		TEST(strange_names__are_let_alone),
		TEST(publish__heals_a_damaged_blob),
		TEST(publish__of_what_is_here_leaves_no_file),
		cmocka_unit_test_setup_teardown(kill__loses_no_piece_and_makes_none_up, store_setup,
						store_teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
