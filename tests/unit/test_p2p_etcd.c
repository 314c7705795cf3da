/* The etcd directory, on a real etcd, passes what every directory does. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "p2p/etcd.h"
#include "support/directory_suite.h"
#include "support/etcd_server.h"

#define RELAYED 5 /* nodes of a small world: each has a relay before etcd */

static struct cairn_rpc *rpc;
static struct etcd_server server;
static int worlds;

struct world {
	char prefix[32];
	size_t n;
	struct cairn_directory *dirs[SUITE_NODES]; /* NULL: dead */
	char addresses[SUITE_NODES][CAIRN_ADDRESS_MAX];
	struct relay relays[RELAYED];
};

static void start_node(struct world *w, size_t i)
{
	struct cairn_err err;
	char endpoint[64];
	const char *const endpoints[] = {endpoint};
	int port = w->n <= RELAYED ? w->relays[i].port : server.port;
	snprintf(endpoint, sizeof(endpoint), "127.0.0.1:%d", port);
	const struct cairn_etcd_opts opts = {
		.rpc = rpc,
		.address = w->addresses[i],
		.endpoints = endpoints,
		.n_endpoints = 1,
		.prefix = w->prefix,
		.ttl_s = 3,
	};
	OK(cairn_etcd_new(&opts, &w->dirs[i], &err));
}

static void *world_open(size_t n)
{
	struct world *w = calloc(1, sizeof(*w));
	assert_non_null(w);
	w->n = n;
	snprintf(w->prefix, sizeof(w->prefix), "/world%d", worlds++);
	for (size_t i = 0; i < n; i++) {
		snprintf(w->addresses[i], CAIRN_ADDRESS_MAX, "node-%zu.example:%zu", i, 7000 + i);
		if (n <= RELAYED) relay_start(&w->relays[i], server.port);
		start_node(w, i);
	}
	for (size_t i = 0; i < n; i++) {
		EVENTUALLY(w->dirs[i]->ops->members(w->dirs[i], NULL, 0) == n);
	}
	return w;
}

static void world_end_node(struct world *w, size_t i, int64_t timeout_ms)
{
	struct cairn_directory *dir = cairn_steal(&w->dirs[i]);
	if (dir != NULL) dir->ops->close(dir, timeout_ms);
}

static void world_close(void *world)
{
	struct world *w = world;
	for (size_t i = 0; i < w->n; i++) {
		if (w->n <= RELAYED) w->relays[i].cut = false;
		world_end_node(w, i, 5000);
		if (w->n <= RELAYED) relay_end(&w->relays[i]);
	}
	free(w);
}

static struct cairn_directory *world_node(void *world, size_t i)
{
	return ((struct world *)world)->dirs[i];
}

static const char *world_address(void *world, size_t i)
{
	return ((struct world *)world)->addresses[i];
}

/* Without time to say anything. */
static void world_kill(void *world, size_t i)
{
	world_end_node(world, i, 0);
}

static void world_stop(void *world, size_t i)
{
	world_end_node(world, i, 5000);
}

static void world_restart(void *world, size_t i)
{
	start_node(world, i);
}

static void world_forget(void *world, size_t i)
{
	struct world *w = world;
	char key[CAIRN_ADDRESS_MAX + 64];
	snprintf(key, sizeof(key), "%s/n/%s", w->prefix, w->addresses[i]);
	int64_t lease = etcd_lease_of(&server, key);
	assert_true(lease != 0);
	etcd_revoke(&server, lease);
}

static void world_cut(void *world, size_t i)
{
	((struct world *)world)->relays[i].cut = true;
}

static void world_heal(void *world, size_t i)
{
	((struct world *)world)->relays[i].cut = false;
}

static const struct suite_world etcd_world = {
	.nodes_max = SUITE_NODES,
	.open = world_open,
	.close = world_close,
	.node = world_node,
	.address = world_address,
	.kill = world_kill,
	.stop = world_stop,
	.restart = world_restart,
	.forget = world_forget,
	.cut = world_cut,
	.heal = world_heal,
};

static int setup(void **state)
{
	struct cairn_err err;
	(void)state;
	OK(cairn_rpc_new(&(struct cairn_rpc_opts){.pollers = 2}, &rpc, &err));
	etcd_start(&server, rpc, NULL);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	etcd_end(&server);
	cairn_rpc_free(rpc);
	return 0;
}

int main(void)
{
	suite_use(&etcd_world);
	const struct CMUnitTest tests[] = {DIRECTORY_SUITE};
	return cmocka_run_group_tests_name("p2p/etcd", tests, setup, teardown);
}
