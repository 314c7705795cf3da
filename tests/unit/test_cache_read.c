/* Reading, verification, damage and its repair, adopt and give. */
#include <sys/resource.h>

#include "support/store.h"

#define MIB (1u << 20)

static void flip_byte(struct store *s, const struct cairn_digest *d, off_t at)
{
	char path[512];
	uint8_t byte;
	int fd = open(blob_path(s, d, path), O_RDONLY);
	assert_true(fd >= 0);
	assert_int_equal(fchmod(fd, 0644), 0);
	close(fd);
	fd = open(path, O_RDWR);
	assert_int_equal(pread(fd, &byte, 1, at), 1);
	byte ^= 1;
	assert_int_equal(pwrite(fd, &byte, 1, at), 1);
	close(fd);
}

static enum cairn_view_outcome view_at(struct cairn_blob *b, uint64_t at, uint64_t len, bool block,
				       const struct content *c, struct cairn_err *err)
{
	struct cairn_view v;
	enum cairn_view_outcome out = cairn_blob_view(b, at, len, block, &v, err);
	if (out == CAIRN_VIEW_OK) {
		assert_true(v.len >= 1 && v.len <= len);
		assert_memory_equal(v.data, c->data + at, v.len);
		cairn_view_release(&v);
	}
	return out;
}

static void view__gives_what_was_written_at_any_offset(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_blob *b;
	struct content c = content_new(9 * MIB + 12345, 1);
	uint64_t seed = test_seed(), x = seed;
	add_cached(s, &c);
	for (int restart = 0; restart < 2; restart++) {
		assert_ok(cairn_blob_open(s->cache, &c.digest, &b, &err));
		for (int i = 0; i < 300; i++) {
			uint64_t at = next_random(&x) % c.n, len = 1 + next_random(&x) % (2 * c.n);
			assert_int_equal(view_at(b, at, len, true, &c, &err), CAIRN_VIEW_OK);
		}
		assert_int_equal(view_at(b, c.n - 1, 1000, true, &c, &err), CAIRN_VIEW_OK);
		assert_int_equal(view_at(b, c.n, 1, true, &c, &err), CAIRN_VIEW_FAILED);
		assert_int_equal(err.code, CAIRN_OUT_OF_RANGE);
		assert_int_equal(view_at(b, UINT64_MAX, 1, true, &c, &err), CAIRN_VIEW_FAILED);
		assert_int_equal(view_at(b, 0, 0, true, &c, &err), CAIRN_VIEW_FAILED);
		cairn_blob_close(b);
		store_reopen(s);
	}
	content_free(&c);
}

static void view__without_blocking_answers_only_what_is_verified(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_blob *b;
	struct content c = content_new(3 * MIB, 2);
	add_cached(s, &c);
	assert_ok(cairn_blob_open(s->cache, &c.digest, &b, &err));
	/* Published by this process, and still in the page cache. */
	assert_int_equal(view_at(b, 0, c.n, false, &c, &err), CAIRN_VIEW_OK);
	cairn_blob_close(b);
	store_reopen(s);
	assert_ok(cairn_blob_open(s->cache, &c.digest, &b, &err));
	assert_int_equal(view_at(b, MIB, 100, false, &c, &err), CAIRN_VIEW_WOULD_BLOCK);
	assert_int_equal(view_at(b, MIB, 100, true, &c, &err), CAIRN_VIEW_OK);
	assert_int_equal(view_at(b, MIB, MIB, false, &c, &err), CAIRN_VIEW_OK);
	assert_int_equal(view_at(b, MIB, MIB + 1, false, &c, &err), CAIRN_VIEW_WOULD_BLOCK);
	assert_int_equal(view_at(b, 0, 1, false, &c, &err), CAIRN_VIEW_WOULD_BLOCK);
	cairn_blob_close(b);
	content_free(&c);
}

static void view__outlives_its_blob(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_blob *b;
	struct cairn_view v[8], w;
	struct content c = content_new(6 * MIB, 3);
	char path[512];
	add_cached(s, &c);
	assert_ok(cairn_blob_open(s->cache, &c.digest, &b, &err));
	for (size_t i = 0; i < 8; i++) {
		assert_int_equal(cairn_blob_view(b, i * 700000, 9999, true, &v[i], &err),
				 CAIRN_VIEW_OK);
	}
	cairn_blob_close(b);
	unlink(blob_path(s, &c.digest, path));
	assert_code(cairn_cache_verify(s->cache, &c.digest, NULL, NULL, &err), CAIRN_DATA_LOSS);
	assert_int_equal(state_of(s, &c.digest), 0);
	/* Much else is read meanwhile, so that windows must go. */
	for (uint64_t i = 0; i < 12; i++) {
		struct content o = content_new(5 * MIB, 100 + i);
		add_cached(s, &o);
		assert_ok(cairn_blob_open(s->cache, &o.digest, &b, &err));
		assert_int_equal(cairn_blob_view(b, 0, o.n, true, &w, &err), CAIRN_VIEW_OK);
		cairn_view_release(&w);
		cairn_blob_close(b);
		content_free(&o);
	}
	for (size_t i = 0; i < 8; i++) {
		assert_memory_equal(v[i].data, c.data + i * 700000, v[i].len);
		cairn_view_release(&v[i]);
	}
	content_free(&c);
}

static void open_files__are_shared_and_bounded(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_blob *many[20];
	struct content c = content_new(100, 4);
	add_cached(s, &c);
	assert_ok(read_and_compare(s, &c, &err));
	char path[512];
	snprintf(path, sizeof(path), "/proc/self/fd");
	struct store self = {.dir = "/proc/self"};
	size_t before = count_files(&self, "fd");
	for (size_t i = 0; i < 20; i++) {
		assert_ok(cairn_blob_open(s->cache, &c.digest, &many[i], &err));
	}
	assert_int_equal(count_files(&self, "fd"), before);
	for (size_t i = 0; i < 20; i++) cairn_blob_close(many[i]);
	for (uint64_t i = 0; i < 200; i++) {
		struct content o = content_new(100, 1000 + i);
		add_cached(s, &o);
		assert_ok(read_and_compare(s, &o, &err));
		content_free(&o);
	}
	assert_true(count_files(&self, "fd") <= before + 80);
	content_free(&c);
}

/* ---- damage */

static void expect_loss(struct store *s, const struct content *c)
{
	struct cairn_err err;
	char text[CAIRN_DIGEST_STR];
	assert_code(read_and_compare(s, c, &err), CAIRN_DATA_LOSS);
	assert_non_null(strstr(err.msg, cairn_digest_format(&c->digest, text)));
	assert_non_null(strstr(err.msg, "pull"));
}

static void damage__is_found_at_the_first_read(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_blob *b;
	struct cairn_blob_info info;
	struct content c = content_new(4 * MIB + 100, 5);
	off_t places[] = {0, 2 * MIB + 5, (off_t)c.n - 1};
	for (size_t i = 0; i < CAIRN_LEN(places); i++) {
		for (int restart = 0; restart < 2; restart++) {
			/* A commit of good bytes heals it; it stays referenced throughout. */
			if (state_of(s, &c.digest) == 0) add_referenced(s, &c);
			if (is_damaged(s, &c.digest)) add_cached(s, &c);
			assert_ok(read_and_compare(s, &c, &err));
			if (restart) store_reopen(s);
			flip_byte(s, &c.digest, places[i]);
			assert_ok(cairn_blob_open(s->cache, &c.digest, &b, &err));
			/* Pieces that are good are served still. */
			assert_int_equal(view_at(b, MIB, 10, true, &c, &err), CAIRN_VIEW_OK);
			cairn_blob_close(b);
			expect_loss(s, &c);
			assert_true(is_damaged(s, &c.digest));
			assert_ok(cairn_cache_promise(s->cache, &c.digest, &info, &err));
			assert_int_equal(info.size, c.n);
			cairn_blob_info_fini(&info);
			store_reopen(s);
			assert_true(is_damaged(s, &c.digest));
			expect_loss(s, &c);
		}
	}
	add_cached(s, &c);
	assert_false(is_damaged(s, &c.digest));
	assert_ok(read_and_compare(s, &c, &err));
	content_free(&c);
}

static void damage__under_an_open_handle_is_found(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_blob *b;
	struct content c = content_new(2 * MIB, 6);
	char path[512];
	add_referenced(s, &c);
	for (int how = 0; how < 3; how++) {
		assert_ok(cairn_blob_open(s->cache, &c.digest, &b, &err));
		assert_int_equal(view_at(b, 0, 100, true, &c, &err), CAIRN_VIEW_OK);
		if (how == 0) flip_byte(s, &c.digest, 5);
		if (how == 1) assert_int_equal(truncate(blob_path(s, &c.digest, path), 77), 0);
		if (how == 2) assert_int_equal(unlink(blob_path(s, &c.digest, path)), 0);
		assert_int_equal(view_at(b, 0, 100, true, &c, &err), CAIRN_VIEW_FAILED);
		assert_int_equal(err.code, CAIRN_DATA_LOSS);
		assert_int_equal(view_at(b, MIB, 100, false, &c, &err), CAIRN_VIEW_FAILED);
		assert_true(is_damaged(s, &c.digest));
		/* Healed behind the open handle: that one stays out of service. */
		add_cached(s, &c);
		assert_false(is_damaged(s, &c.digest));
		assert_int_equal(view_at(b, MIB, 100, true, &c, &err), CAIRN_VIEW_FAILED);
		cairn_blob_close(b);
		assert_ok(read_and_compare(s, &c, &err));
	}
	content_free(&c);
}

static void touch__costs_a_check_and_no_error(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_blob *b;
	struct content c = content_new(3 * MIB, 7);
	char path[512], other[600];
	add_referenced(s, &c);
	assert_ok(cairn_blob_open(s->cache, &c.digest, &b, &err));
	snprintf(other, sizeof(other), "%s/link", s->dir);
	assert_int_equal(link(blob_path(s, &c.digest, path), other), 0); /* changes ctime */
	assert_int_equal(view_at(b, 0, 100, false, &c, &err), CAIRN_VIEW_WOULD_BLOCK);
	assert_int_equal(view_at(b, 0, 100, true, &c, &err), CAIRN_VIEW_OK);
	assert_int_equal(view_at(b, 0, 100, false, &c, &err), CAIRN_VIEW_OK);
	cairn_blob_close(b);
	content_free(&c);
}

static bool count_progress(void *arg, uint64_t bytes)
{
	*(uint64_t *)arg += bytes;
	return true;
}

static bool stop_at_once(void *arg, uint64_t bytes)
{
	(void)arg, (void)bytes;
	return false;
}

static void verify__finds_what_no_read_would(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct content c = content_new(3 * MIB, 8), r = content_new(3 * MIB, 9);
	char path[512];
	uint64_t seen = 0;
	add_cached(s, &c);
	add_referenced(s, &r);
	assert_ok(cairn_cache_verify(s->cache, &c.digest, count_progress, &seen, &err));
	assert_int_equal(seen, c.n);
	assert_code(cairn_cache_verify(s->cache, &c.digest, stop_at_once, NULL, &err),
		    CAIRN_CANCELLED);
	flip_byte(s, &c.digest, 2 * MIB);
	flip_byte(s, &r.digest, 2 * MIB);
	assert_code(cairn_cache_verify(s->cache, &c.digest, NULL, NULL, &err), CAIRN_DATA_LOSS);
	assert_code(cairn_cache_verify(s->cache, &r.digest, NULL, NULL, &err), CAIRN_DATA_LOSS);
	assert_int_equal(state_of(s, &c.digest), 0); /* nobody needs it: dropped */
	wait_for(!exists(blob_path(s, &c.digest, path)));
	assert_int_equal(state_of(s, &r.digest), CAIRN_BLOB_REFERENCED);
	assert_true(is_damaged(s, &r.digest));
	/* Put right by hand: verify gives it back. */
	flip_byte(s, &r.digest, 2 * MIB);
	assert_ok(cairn_cache_verify(s->cache, &r.digest, NULL, NULL, &err));
	assert_false(is_damaged(s, &r.digest));
	assert_ok(read_and_compare(s, &r, &err));
	/* Damaged and released: nobody needs it any more. */
	flip_byte(s, &r.digest, 0);
	expect_loss(s, &r);
	cairn_cache_release(s->cache, &r.digest);
	assert_int_equal(state_of(s, &r.digest), 0);
	struct cairn_cache_stats stats;
	cairn_cache_stats(s->cache, &stats);
	assert_int_equal(stats.damaged_blobs, 0);
	assert_int_equal(stats.cached_blobs + stats.referenced_blobs, 0);
	content_free(&c);
	content_free(&r);
}

static void damage__of_a_promised_blob_fails_the_commit(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct cairn_ingest_status st;
	struct content c = content_new(1000, 10);
	char path[512];
	add_cached(s, &c);
	struct cairn_ingest *ing = open_ref(s, "a", &c, true, true);
	unlink(blob_path(s, &c.digest, path));
	assert_code(cairn_cache_verify(s->cache, &c.digest, NULL, NULL, &err), CAIRN_DATA_LOSS);
	/* Pinned: it does not vanish, but it is not committed either. */
	assert_int_equal(state_of(s, &c.digest), CAIRN_BLOB_CACHED);
	assert_code(cairn_ingest_commit(ing, c.n, c.n, &c.digest, &st, &err), CAIRN_DATA_LOSS);
	assert_int_equal(state_of(s, &c.digest), 0);
	assert_int_equal(status_of(ing).offset, 0);
	assert_ok(put(ing, 0, c.data, c.n, &err));
	assert_ok(cairn_ingest_commit(ing, c.n, c.n, &c.digest, &st, &err));
	cairn_ingest_close(ing);
	assert_ok(read_and_compare(s, &c, &err));
	content_free(&c);
}

static void drop__does_not_take_a_file_that_was_published_again(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct content c = content_new(1000, 11);
	for (int i = 0; i < 50; i++) {
		add_cached(s, &c);
		flip_byte(s, &c.digest, 3);
		assert_code(cairn_cache_verify(s->cache, &c.digest, NULL, NULL, &err),
			    CAIRN_DATA_LOSS);
		add_cached(s, &c);
		assert_ok(read_and_compare(s, &c, &err));
		assert_ok(cairn_cache_verify(s->cache, &c.digest, NULL, NULL, &err));
		flip_byte(s, &c.digest, 3);
		expect_loss(s, &c);
	}
	add_cached(s, &c);
	store_reopen(s);
	assert_ok(read_and_compare(s, &c, &err));
	content_free(&c);
}

/* ---- adopt and give */

static const char *write_file(struct store *s, const char *name, const void *data, size_t n,
			      char path[512])
{
	snprintf(path, 512, "%s/%s", s->dir, name);
	int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0600);
	assert_int_equal(write(fd, data, n), n);
	close(fd);
	return path;
}

static void adopt__links_and_leaves_the_source_alone(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	enum cairn_adopt how;
	struct content c = content_new(2 * MIB + 9, 12);
	struct stat before, after;
	char path[512], name[512];
	uint64_t seen = 0;
	write_file(s, "source", c.data, c.n, path);
	assert_int_equal(stat(path, &before), 0);
	assert_ok(cairn_cache_adopt(s->cache, &c.digest, path, count_progress, &seen, &how, &err));
	assert_int_equal(how, CAIRN_ADOPT_LINKED);
	assert_int_equal(seen, c.n);
	assert_int_equal(stat(path, &after), 0);
	assert_int_equal(after.st_mode, before.st_mode);
	assert_int_equal(after.st_nlink, 2);
	assert_int_equal(count_files(s, "ingest"), 0);
	assert_int_equal(state_of(s, &c.digest), CAIRN_BLOB_REFERENCED);
	assert_ok(read_and_compare(s, &c, &err));
	cairn_cache_release(s->cache, &c.digest);
	assert_ok(cairn_cache_adopt(s->cache, &c.digest, path, NULL, NULL, &how, &err));
	assert_int_equal(how, CAIRN_ADOPT_PRESENT);
	assert_int_equal(state_of(s, &c.digest), CAIRN_BLOB_REFERENCED);
	/* Damaged here, and the source is the very same file: it is damaged, too. */
	flip_byte(s, &c.digest, 0);
	expect_loss(s, &c);
	assert_code(cairn_cache_adopt(s->cache, &c.digest, path, NULL, NULL, &how, &err),
		    CAIRN_DATA_LOSS);
	assert_int_equal(count_files(s, "ingest"), 0);
	/* A good source heals; a link to the file that is here already leaves no second name. */
	flip_byte(s, &c.digest, 0);
	assert_ok(cairn_cache_adopt(s->cache, &c.digest, path, NULL, NULL, &how, &err));
	assert_int_equal(how, CAIRN_ADOPT_LINKED);
	assert_int_equal(count_files(s, "ingest"), 0);
	assert_int_equal(stat(blob_path(s, &c.digest, name), &after), 0);
	assert_int_equal(after.st_nlink, 2);
	assert_false(is_damaged(s, &c.digest));
	content_free(&c);
}

struct scribble {
	const char *path;
	int calls;
};

/* Writes to what was hashed a moment ago. */
static bool scribble_behind(void *arg, uint64_t bytes)
{
	struct scribble *x = arg;
	(void)bytes;
	if (++x->calls != 2) return true;
	int fd = open(x->path, O_WRONLY);
	assert_int_equal(pwrite(fd, "!!!!", 4, 100), 4);
	close(fd);
	return true;
}

static void adopt__trusts_no_bytes_that_changed_behind_it(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	enum cairn_adopt how;
	struct content c = content_new(3 * MIB, 34);
	char path[512];
	write_file(s, "source", c.data, c.n, path);
	struct timespec long_ago[2] = {{1700000000, 0}, {1700000000, 0}};
	assert_int_equal(utimensat(AT_FDCWD, path, long_ago, 0), 0);
	struct scribble x = {path, 0};
	assert_ok(cairn_cache_adopt(s->cache, &c.digest, path, scribble_behind, &x, &how, &err));
	assert_int_equal(how, CAIRN_ADOPT_LINKED);
	expect_loss(s, &c);
	content_free(&c);
}

static void adopt__heals_a_blob_whose_file_is_gone(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	enum cairn_adopt how;
	struct content c = content_new(2000, 31);
	char path[512], name[512];
	add_referenced(s, &c);
	store_reopen(s);
	assert_int_equal(unlink(blob_path(s, &c.digest, name)), 0);
	write_file(s, "source", c.data, c.n, path);
	assert_ok(cairn_cache_adopt(s->cache, &c.digest, path, NULL, NULL, &how, &err));
	assert_int_equal(how, CAIRN_ADOPT_LINKED);
	assert_ok(read_and_compare(s, &c, &err));
	content_free(&c);
}

/* Out of descriptors is not out of service. */
static void give__without_descriptors_marks_nothing(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	enum cairn_adopt how;
	struct rlimit before, none;
	struct content c = content_new(2000, 32);
	char path[512];
	add_referenced(s, &c);
	snprintf(path, sizeof(path), "%.200s/given", s->dir);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
	none = before;
	none.rlim_cur = 0;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	enum cairn_code code = cairn_cache_give(s->cache, &c.digest, path, NULL, NULL, &how, &err);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
	assert_int_equal(code, CAIRN_INTERNAL);
	assert_false(is_damaged(s, &c.digest));
	assert_ok(read_and_compare(s, &c, &err));
	content_free(&c);
}

static void adopt__refuses_what_is_not_its_digest(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	enum cairn_adopt how;
	struct content c = content_new(2000, 13);
	char path[512], other[600];
	write_file(s, "source", c.data, c.n - 1, path);
	assert_code(cairn_cache_adopt(s->cache, &c.digest, path, NULL, NULL, &how, &err),
		    CAIRN_DATA_LOSS);
	write_file(s, "source", c.data, c.n, path);
	assert_code(cairn_cache_adopt(s->cache, &c.digest, path, stop_at_once, NULL, &how, &err),
		    CAIRN_CANCELLED);
	assert_code(cairn_cache_adopt(s->cache, &c.digest, "/nowhere/x", NULL, NULL, &how, &err),
		    CAIRN_INTERNAL);
	assert_code(cairn_cache_adopt(s->cache, &c.digest, s->dir, NULL, NULL, &how, &err),
		    CAIRN_DATA_LOSS);
	snprintf(other, sizeof(other), "%s/symlink", s->dir);
	assert_int_equal(symlink(path, other), 0);
	assert_code(cairn_cache_adopt(s->cache, &c.digest, other, NULL, NULL, &how, &err),
		    CAIRN_INTERNAL);
	assert_int_equal(count_files(s, "ingest"), 0);
	assert_int_equal(state_of(s, &c.digest), 0);
	content_free(&c);
}

static void adopt__and_give_copy_to_another_file_system(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	enum cairn_adopt how;
	struct content c = content_new(2 * MIB + 1, 14), d = content_new(10, 15);
	char folder[] = "/dev/shm/cairn-test-XXXXXX", path[512], text[600];
	struct stat here, there;
	if (stat("/dev/shm", &there) != 0 || stat(s->dir, &here) != 0 ||
	    here.st_dev == there.st_dev || mkdtemp(folder) == NULL) {
		content_free(&c);
		content_free(&d);
		skip();
	}
	snprintf(path, sizeof(path), "%s/given", folder);
	add_cached(s, &c);
	assert_ok(cairn_cache_give(s->cache, &c.digest, path, NULL, NULL, &how, &err));
	assert_int_equal(how, CAIRN_ADOPT_COPIED);
	struct store other = {.checkpoint_bytes = 0};
	snprintf(other.dir, sizeof(other.dir), "%.200s/other", s->dir);
	store_open(&other);
	assert_ok(cairn_cache_adopt(other.cache, &c.digest, path, NULL, NULL, &how, &err));
	assert_int_equal(how, CAIRN_ADOPT_COPIED);
	assert_ok(read_and_compare(&other, &c, &err));
	assert_int_equal(count_files(&other, "ingest"), 0);
	store_close(&other);
	/* A damaged blob is not given. */
	unlink(path);
	flip_byte(s, &c.digest, 17);
	assert_code(cairn_cache_give(s->cache, &c.digest, path, NULL, NULL, &how, &err),
		    CAIRN_DATA_LOSS);
	assert_false(exists(path));
	assert_code(cairn_cache_give(s->cache, &d.digest, path, NULL, NULL, &how, &err),
		    CAIRN_NOT_FOUND);
	snprintf(text, sizeof(text), "rm -r %s", folder);
	assert_int_equal(system(text), 0);
	content_free(&c);
	content_free(&d);
}

static void give__links_and_keeps_what_was_proved(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	enum cairn_adopt how;
	struct cairn_blob *b;
	struct content c = content_new(2 * MIB, 16);
	char path[600];
	add_referenced(s, &c);
	snprintf(path, sizeof(path), "%s/given", s->dir);
	assert_ok(cairn_blob_open(s->cache, &c.digest, &b, &err));
	assert_int_equal(view_at(b, 0, c.n, true, &c, &err), CAIRN_VIEW_OK);
	assert_ok(cairn_cache_give(s->cache, &c.digest, path, NULL, NULL, &how, &err));
	assert_int_equal(how, CAIRN_ADOPT_LINKED);
	assert_int_equal(view_at(b, 0, c.n, false, &c, &err), CAIRN_VIEW_OK);
	assert_code(cairn_cache_give(s->cache, &c.digest, path, NULL, NULL, &how, &err),
		    CAIRN_INTERNAL); /* it exists */
	cairn_blob_close(b);
	content_free(&c);
}

#define read_test(f) cmocka_unit_test_setup_teardown(f, store_setup_open, store_teardown)

int main(void)
{
	cairn_log_set_level(CAIRN_LOG_ERROR + 1);
	const struct CMUnitTest tests[] = {
		read_test(view__gives_what_was_written_at_any_offset),
		read_test(view__without_blocking_answers_only_what_is_verified),
		read_test(view__outlives_its_blob),
		read_test(open_files__are_shared_and_bounded),
		read_test(damage__is_found_at_the_first_read),
		read_test(damage__under_an_open_handle_is_found),
		read_test(damage__of_a_promised_blob_fails_the_commit),
		read_test(touch__costs_a_check_and_no_error),
		read_test(verify__finds_what_no_read_would),
		read_test(drop__does_not_take_a_file_that_was_published_again),
		read_test(adopt__links_and_leaves_the_source_alone),
		read_test(adopt__trusts_no_bytes_that_changed_behind_it),
		read_test(adopt__heals_a_blob_whose_file_is_gone),
		read_test(give__without_descriptors_marks_nothing),
		read_test(adopt__refuses_what_is_not_its_digest),
		read_test(adopt__and_give_copy_to_another_file_system),
		read_test(give__links_and_keeps_what_was_proved),
	};
	return cmocka_run_group_tests_name("cache/read", tests, NULL, NULL);
}
