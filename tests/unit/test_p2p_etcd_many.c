/* Many nodes with many blobs in one etcd, counted: docs/scale.md has the figures. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <sys/stat.h>

#include "support/etcd_nodes.h"

enum { NODES = 50, BLOBS = 1000 };

static size_t count_kind(struct fixture *f, const char *kind)
{
	char key[64];
	snprintf(key, sizeof(key), "%s%s/", f->prefix, kind);
	return etcd_count(&server, key);
}

static void assert_no_blob_has_too_many(struct fixture *f, const struct cairn_digest *d,
					size_t *ret_bytes)
{
	char key[200], text[CAIRN_DIGEST_STR];
	*ret_bytes = 0;
	for (size_t k = 0; k < BLOBS; k++) {
		snprintf(key, sizeof(key), "%sh/%s/", f->prefix, cairn_digest_format(&d[k], text));
		Etcdserverpb__RangeResponse *r = etcd_get(&server, key);
		assert_int_equal(r->count, CAIRN_HOLDERS_MAX);
		for (size_t i = 0; i < r->n_kvs; i++) {
			*ret_bytes += r->kvs[i]->key.len + r->kvs[i]->value.len;
		}
		etcd_free(r);
	}
}

static int by_value(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
	return (x > y) - (x < y);
}

/* How long does an ask take, and how much of it does etcd write? */
static void measure_asks(struct fixture *f, const struct cairn_digest *held, bool grant)
{
	enum { ASKS = 200 };
	int64_t ns[ASKS], revision = etcd_revision(&server);
	for (size_t k = 0; k < ASKS; k++) {
		struct cairn_digest d = grant ? digest() : held[k];
		struct cairn_answer a = {0};
		int64_t from = cairn_boot_ns(&cairn_clock_system);
		assert_int_equal(ask(f, k % NODES, &d, grant, LONG_MS, &a), CAIRN_OK);
		ns[k] = cairn_boot_ns(&cairn_clock_system) - from;
		assert_true(grant ? a.grant.ours : a.n == CAIRN_FIND_MAX);
	}
	qsort(ns, ASKS, sizeof(ns[0]), by_value);
	printf("%d asks of what %s: p50 %lld us, p99 %lld us, %lld writes\n", (int)ASKS,
	       grant ? "nobody has" : "many have", (long long)ns[ASKS / 2] / 1000,
	       (long long)ns[ASKS * 99 / 100] / 1000,
	       (long long)(etcd_revision(&server) - revision));
}

static void print_database_size(void)
{
	char path[128];
	struct stat st;
	snprintf(path, sizeof(path), "%s/data/member/snap/db", server.dir);
	if (stat(path, &st) == 0) printf("etcd's database: %lld bytes\n", (long long)st.st_size);
}

static void many__are_bounded_and_counted(void **state)
{
	struct fixture *f = *state;
	struct cairn_digest *d = calloc(BLOBS, sizeof(*d));
	const char *const endpoints[] = {server.url};
	struct cairn_err err;
	size_t bytes;
	char key[400];
	assert_non_null(d);
	for (size_t k = 0; k < BLOBS; k++) d[k] = digest();
	for (size_t i = 0; i < NODES; i++) {
		struct cairn_etcd_opts opts = *opts_of(f, i, endpoints, 1);
		opts.sweep_ms = 4000;
		opts.ttl_s = 20; /* the machine is busy */
		OK(cairn_etcd_new(&opts, &f->nodes[i].dir, &err));
	}
	for (size_t i = 0; i < NODES; i++) UNTIL(well(f, i));
	int64_t revision = etcd_revision(&server), from = now_ms();
	for (size_t i = 0; i < NODES; i++) {
		f->nodes[i].dir->ops->announce(f->nodes[i].dir, d, BLOBS);
	}
	for (size_t i = 0; i < NODES; i++) {
		UNTIL(f->nodes[i].dir->ops->flush(f->nodes[i].dir, 1000));
	}
	int64_t ms = now_ms() - from + 1, writes = etcd_revision(&server) - revision;
	size_t keys = count_kind(f, "h");
	assert_no_blob_has_too_many(f, d, &bytes);
	assert_int_equal(keys, (size_t)BLOBS * CAIRN_HOLDERS_MAX);
	printf("%d nodes x %d blobs: %zu keys, %zu bytes of keys and values (%zu each), %lld "
	       "transactions that wrote, in %lld ms (%lld/s), %zu records each\n",
	       NODES, BLOBS, keys, bytes, bytes / keys, (long long)writes, (long long)ms,
	       (long long)(writes * 1000 / ms), keys / (size_t)writes);
	print_database_size();
	measure_asks(f, d, false);
	measure_asks(f, d, true);
	/* Half of the nodes go: the sweep of the others takes their slots, as far as they go. */
	for (size_t i = 0; i < NODES / 2; i++) end(f, i, 5000);
	UNTIL(count_kind(f, "h") == (size_t)BLOBS * (NODES - NODES / 2));
	/* One record is deleted behind its node's back. */
	snprintf(key, sizeof(key), "%sn/%s", f->prefix, f->nodes[NODES - 1].address);
	etcd_revoke(&server, etcd_lease_of(&server, key));
	UNTIL(count_kind(f, "h") == (size_t)BLOBS * (NODES - NODES / 2 - 1));
	UNTIL(count_kind(f, "h") == (size_t)BLOBS * (NODES - NODES / 2));
	free(d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {TEST(many__are_bounded_and_counted)};
	return cmocka_run_group_tests_name("p2p/etcd many", tests, group_setup, group_teardown);
}
