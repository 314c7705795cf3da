/* What the tests of cache/ share: a store in a temporary folder, a clock that stands still until
 * it is moved, and bytes with their digests. */
#ifndef CAIRN_TESTS_SUPPORT_STORE_H
#define CAIRN_TESTS_SUPPORT_STORE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "cache/cache.h"
#include "support/random.h"
#include "support/tmp.h"

#define UNUSED __attribute__((unused))

struct test_clock {
	struct cairn_clock clock; /* first */
	_Atomic int64_t real_ns, boot_ns;
};

static int64_t test_real(const struct cairn_clock *self)
{
	return ((const struct test_clock *)self)->real_ns;
}

static int64_t test_boot(const struct cairn_clock *self)
{
	return ((const struct test_clock *)self)->boot_ns;
}

struct store {
	char dir[256];
	struct cairn_cache *cache;
	struct test_clock clock;
	bool own_clock;
	uint64_t checkpoint_bytes;
	uint32_t sync_ms;
};

static UNUSED void clock_move(struct store *s, int64_t ns)
{
	s->clock.real_ns += ns;
	s->clock.boot_ns += ns;
}

/* cmocka's asserts, for calls that set an error: the message is shown. */
#define assert_ok(call)                                                                            \
	do {                                                                                       \
		struct cairn_err *e_ = &err;                                                       \
		e_->msg[0] = '\0';                                                                 \
		if ((call) != CAIRN_OK) fail_msg("%s: %s", #call, e_->msg);                        \
	} while (0)

#define assert_code(call, want)                                                                    \
	do {                                                                                       \
		err.msg[0] = '\0';                                                                 \
		enum cairn_code got_ = (call);                                                     \
		if (got_ != (want))                                                                \
			fail_msg("%s: got %s (%s), want %s", #call, cairn_code_name(got_),         \
				 err.msg, cairn_code_name(want));                                  \
	} while (0)

static UNUSED enum cairn_code store_try_open(struct store *s, struct cairn_err *err)
{
	struct cairn_cache_opts opts = {.dir = s->dir, .checkpoint_bytes = s->checkpoint_bytes};
	opts.sync_ms = s->sync_ms;
	if (s->own_clock) opts.clock = &s->clock.clock;
	return cairn_cache_open(&opts, &s->cache, err);
}

static UNUSED void store_open(struct store *s)
{
	struct cairn_err err = {0};
	if (store_try_open(s, &err) != CAIRN_OK) fail_msg("open: %s", err.msg);
}

static UNUSED void store_close(struct store *s)
{
	cairn_cache_close(s->cache);
	s->cache = NULL;
}

static UNUSED void store_reopen(struct store *s)
{
	store_close(s);
	store_open(s);
}

static UNUSED int remove_entry(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	(void)st, (void)flag, (void)ftw;
	return remove(path);
}

static UNUSED int store_setup(void **state)
{
	struct store *s = calloc(1, sizeof(*s));
	tmp_template(s->dir, sizeof(s->dir), "store");
	if (mkdtemp(s->dir) == NULL) return -1;
	s->clock = (struct test_clock){{test_real, test_boot}, 0, 0};
	s->clock.real_ns = INT64_C(1700000000) * CAIRN_NS_PER_S;
	s->clock.boot_ns = 100000 * CAIRN_NS_PER_S;
	*state = s;
	return 0;
}

/* With an open store and the clock in the test's hands. */
static UNUSED int store_setup_open(void **state)
{
	if (store_setup(state) != 0) return -1;
	struct store *s = *state;
	s->own_clock = true;
	store_open(s);
	return 0;
}

static UNUSED int store_teardown(void **state)
{
	struct store *s = *state;
	if (s->cache != NULL) cairn_cache_close(s->cache);
	nftw(s->dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
	free(s);
	return 0;
}

/* ---- bytes */

static UNUSED void fill(uint8_t *p, size_t n, uint64_t seed)
{
	uint64_t x = seed * 0x9e3779b97f4a7c15u + 1;
	for (size_t i = 0; i < n; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		p[i] = (uint8_t)x;
	}
}

static UNUSED struct cairn_digest digest_of(enum cairn_alg alg, const void *data, size_t n)
{
	struct cairn_hasher h;
	struct cairn_digest d;
	cairn_hasher_init(&h, alg);
	cairn_hasher_update(&h, data, n);
	cairn_hasher_digest(&h, &d);
	return d;
}

struct content {
	uint8_t *data;
	size_t n;
	struct cairn_digest digest;
};

static UNUSED struct content content_new(size_t n, uint64_t seed)
{
	struct content c = {malloc(n + 1), n, {0}};
	fill(c.data, n, seed);
	c.digest = digest_of(CAIRN_SHA256, c.data, n);
	return c;
}

static UNUSED void content_free(struct content *c)
{
	free(c->data);
	c->data = NULL;
}

/* ---- the common moves */

static UNUSED enum cairn_code put(struct cairn_ingest *ing, uint64_t at, const void *data, size_t n,
				  struct cairn_err *err)
{
	struct cairn_span span = {data, n};
	return cairn_ingest_write(ing, at, &span, 1, err);
}

static UNUSED struct cairn_ingest *open_ref(struct store *s, const char *ref,
					    const struct content *c, bool want, bool prefill)
{
	struct cairn_err err = {0};
	struct cairn_ingest *ing = NULL;
	struct cairn_ingest_spec spec = {.ref = ref, .owner = "ns", .prefill = prefill};
	if (c != NULL) spec.total = c->n;
	if (c != NULL && want) spec.want = c->digest;
	assert_ok(cairn_ingest_open(s->cache, &spec, &ing, &err));
	return ing;
}

static UNUSED struct cairn_ingest_status status_of(struct cairn_ingest *ing)
{
	struct cairn_err err = {0};
	struct cairn_ingest_status st = {0};
	assert_ok(cairn_ingest_get_status(ing, &st, &err));
	return st;
}

/* Publish as CACHED by a whole write, and leave no ingest behind. */
static UNUSED void add_cached(struct store *s, const struct content *c)
{
	struct cairn_err err = {0};
	struct cairn_ingest *ing = open_ref(s, "add-cached", c, true, false);
	assert_ok(put(ing, 0, c->data, c->n, &err));
	assert_true(cairn_ingest_is_published(ing));
	cairn_ingest_close(ing);
	cairn_cache_abort(s->cache, "add-cached");
}

static UNUSED void add_referenced(struct store *s, const struct content *c)
{
	struct cairn_err err = {0};
	struct cairn_ingest_status st;
	struct cairn_ingest *ing = open_ref(s, "add-referenced", c, true, false);
	assert_ok(put(ing, 0, c->data, c->n, &err));
	assert_ok(cairn_ingest_commit(ing, c->n, c->n, &c->digest, &st, &err));
	cairn_ingest_close(ing);
}

/* 0: absent. */
static UNUSED int state_of(struct store *s, const struct cairn_digest *d)
{
	struct cairn_err err;
	struct cairn_blob_info info;
	if (cairn_cache_info(s->cache, d, &info, &err) != CAIRN_OK) return 0;
	int state = (int)info.state;
	cairn_blob_info_fini(&info);
	return state;
}

static UNUSED bool is_damaged(struct store *s, const struct cairn_digest *d)
{
	struct cairn_err err;
	struct cairn_blob_info info;
	if (cairn_cache_info(s->cache, d, &info, &err) != CAIRN_OK) return false;
	bool damaged = info.damaged;
	cairn_blob_info_fini(&info);
	return damaged;
}

/* Reads all of it and compares. */
static UNUSED enum cairn_code read_and_compare(struct store *s, const struct content *c,
					       struct cairn_err *err)
{
	struct cairn_blob *blob;
	enum cairn_code code = cairn_blob_open(s->cache, &c->digest, &blob, err);
	if (code != CAIRN_OK) return code;
	assert_int_equal(cairn_blob_size(blob), c->n);
	for (uint64_t at = 0; at < c->n && code == CAIRN_OK;) {
		struct cairn_view v;
		if (cairn_blob_view(blob, at, c->n - at, true, &v, err) != CAIRN_VIEW_OK) {
			code = err->code;
			break;
		}
		assert_true(v.len > 0 && v.len <= c->n - at);
		assert_memory_equal(v.data, c->data + at, v.len);
		at += v.len;
		cairn_view_release(&v);
	}
	cairn_blob_close(blob);
	return code;
}

static UNUSED const char *blob_path(struct store *s, const struct cairn_digest *d, char buf[512])
{
	char hex[CAIRN_DIGEST_STR];
	snprintf(buf, 512, "%s/blobs/%s/%s", s->dir, cairn_alg_name(d->alg),
		 cairn_digest_hex(d, hex));
	return buf;
}

static UNUSED bool exists(const char *path)
{
	struct stat st;
	return lstat(path, &st) == 0;
}

/* Files in a folder of the store. */
static UNUSED size_t count_files(struct store *s, const char *sub)
{
	char path[512];
	snprintf(path, sizeof(path), "%s/%s", s->dir, sub);
	DIR *d = opendir(path);
	size_t n = 0;
	if (d == NULL) return 0;
	for (struct dirent *e; (e = readdir(d)) != NULL;) n += e->d_name[0] != '.';
	closedir(d);
	return n;
}

/* Wait for what a background thread does; a minute is for machines under load. */
#define wait_for(condition)                                                                        \
	do {                                                                                       \
		struct timespec nap_ = {0, 1000000};                                               \
		int left_ = 60000;                                                                 \
		while (!(condition) && --left_ > 0) nanosleep(&nap_, NULL);                        \
		if (left_ <= 0) fail_msg("never: %s", #condition);                                 \
	} while (0)

#endif
