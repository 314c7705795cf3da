/* Nodes with their etcd directories, on one real etcd. After cmocka.h. */
#ifndef CAIRN_TESTS_ETCD_NODES_H
#define CAIRN_TESTS_ETCD_NODES_H

#include "p2p/etcd.h"
#include "support/etcd_server.h"

#define LONG_MS 10000 /* of a call that has time */
#define NODES_MAX 50

static struct cairn_rpc *rpc;
static struct etcd_server server;
static unsigned digests_made;

struct node {
	struct cairn_directory *dir;
	char address[CAIRN_ADDRESS_MAX];
};

struct fixture {
	char prefix[32];
	struct node nodes[NODES_MAX];
};

static inline struct cairn_digest digest(void)
{
	struct cairn_digest d;
	struct cairn_hasher h;
	unsigned n = digests_made++;
	cairn_hasher_init(&h, CAIRN_SHA256);
	cairn_hasher_update(&h, &n, sizeof(n));
	cairn_hasher_digest(&h, &d);
	return d;
}

static inline int64_t now_ms(void)
{
	return cairn_boot_ns(&cairn_clock_system) / CAIRN_NS_PER_MS;
}

/* ---- nodes ---- */

static inline const struct cairn_etcd_opts *opts_of(struct fixture *f, size_t i,
						    const char *const *endpoints, size_t n)
{
	static struct cairn_etcd_opts opts;
	struct node *node = &f->nodes[i];
	snprintf(node->address, sizeof(node->address), "10.0.0.%zu:7481", i + 1);
	opts = (struct cairn_etcd_opts){
		.rpc = rpc,
		.address = node->address,
		.endpoints = endpoints,
		.n_endpoints = n,
		.prefix = f->prefix,
		.ttl_s = 3,
	};
	return &opts;
}

static inline void start(struct fixture *f, size_t i)
{
	struct cairn_err err;
	const char *const endpoints[] = {server.url};
	OK(cairn_etcd_new(opts_of(f, i, endpoints, 1), &f->nodes[i].dir, &err));
}

static inline void end(struct fixture *f, size_t i, int64_t timeout_ms)
{
	struct cairn_directory *dir = cairn_steal(&f->nodes[i].dir);
	if (dir != NULL) dir->ops->close(dir, timeout_ms);
}

static inline bool well(struct fixture *f, size_t i)
{
	char text[256];
	f->nodes[i].dir->ops->health(f->nodes[i].dir, text);
	return text[0] == '\0';
}

static inline enum cairn_code ask(struct fixture *f, size_t i, const struct cairn_digest *d,
				  bool grant, int64_t timeout_ms, struct cairn_answer *ret)
{
	struct cairn_err err;
	struct cairn_directory *dir = f->nodes[i].dir;
	return dir->ops->ask(dir, d, false, grant, timeout_ms, ret, &err);
}

static inline size_t finds(struct fixture *f, size_t i, const struct cairn_digest *d)
{
	struct cairn_answer a = {0};
	return ask(f, i, d, false, LONG_MS, &a) == CAIRN_OK ? a.n : 99;
}

static inline bool granted(struct fixture *f, size_t i, const struct cairn_digest *d)
{
	struct cairn_answer a = {0};
	return ask(f, i, d, true, LONG_MS, &a) == CAIRN_OK && a.grant.ours;
}

static inline void announce(struct fixture *f, size_t i, const struct cairn_digest *d, size_t n)
{
	struct cairn_directory *dir = f->nodes[i].dir;
	dir->ops->announce(dir, d, n);
	assert_true(dir->ops->flush(dir, 30000));
}

static inline size_t members(struct fixture *f, size_t i)
{
	return f->nodes[i].dir->ops->members(f->nodes[i].dir, NULL, 0);
}

/* An ask fails in much less time than it has. */
static inline void assert_fails_at_once(struct fixture *f, size_t i)
{
	struct cairn_digest d = digest();
	struct cairn_answer a;
	int64_t from = now_ms();
	for (int k = 0; k < 100; k++) {
		assert_int_equal(ask(f, i, &d, true, LONG_MS, &a), CAIRN_UNAVAILABLE);
	}
	assert_true(now_ms() - from < 2000);
}

static inline int setup(void **state)
{
	static int prefixes;
	struct fixture *f = calloc(1, sizeof(*f));
	if (f == NULL) return -1;
	snprintf(f->prefix, sizeof(f->prefix), "/faults%d/", prefixes++);
	*state = f;
	return 0;
}

static inline int teardown(void **state)
{
	struct fixture *f = *state;
	for (size_t i = 0; i < NODES_MAX; i++) end(f, i, 5000);
	free(f);
	return 0;
}

/* ---- one etcd and one runtime for all tests of a program ---- */

static inline int group_setup(void **state)
{
	struct cairn_err err;
	(void)state;
	OK(cairn_rpc_new(&(struct cairn_rpc_opts){.pollers = 2}, &rpc, &err));
	etcd_start(&server, rpc, NULL);
	return 0;
}

static inline int group_teardown(void **state)
{
	(void)state;
	etcd_end(&server);
	cairn_rpc_free(rpc);
	return 0;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

#endif
