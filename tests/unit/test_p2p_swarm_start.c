/* Nodes that are started together, and want a blob at once: they wait for each other, and do not go
 * to the registry as one crowd. */
#include "support/swarm.h"

#include "p2p/policy.h"
#include "p2p/static.h"

#define TOGETHER 2

static pthread_barrier_t all_listen;
static char addresses[TOGETHER][CAIRN_ADDRESS_MAX];

/* As the daemon's, but that the ports are known only when all listen. */
static enum cairn_code static_directory(void *arg, struct cairn_swarm *swarm,
					struct cairn_directory **ret, struct cairn_err *err)
{
	size_t i = *(const size_t *)arg;
	const char *peers[TOGETHER];
	memcpy(addresses[i], swarm->hello.address, CAIRN_ADDRESS_MAX);
	pthread_barrier_wait(&all_listen);
	for (size_t k = 0; k < TOGETHER; k++) peers[k] = addresses[k];
	const struct cairn_static_opts opts = {
		.tls = swarm->tls, .own = &swarm->hello, .peers = peers, .n_peers = TOGETHER};
	swarm->is_static = true;
	return cairn_static_new(&opts, ret, err);
}

struct start {
	struct node *node;
	size_t i;
	pthread_t thread;
};

static void *start_main(void *arg)
{
	struct start *s = arg;
	struct cairn_err err = {0};
	struct cairn_swarm_opts opts = s->node->cluster->opts;
	opts.cache = s->node->store->cache;
	if (cairn_swarm_start_with(&opts, static_directory, &s->i, &s->node->swarm, &err) !=
	    CAIRN_OK) {
		abort();
	}
	return NULL;
}

static void start__together(void **state)
{
	struct cluster *c = *state;
	struct content content = content_new((UINT64_C(4) << 20) + 1, 41);
	struct start starts[TOGETHER];
	struct pull pulls[TOGETHER] = {0};
	pthread_barrier_init(&all_listen, NULL, TOGETHER);
	for (size_t i = 0; i < TOGETHER; i++) {
		starts[i] = (struct start){.node = cluster_add(c), .i = i};
		node_stop(starts[i].node);
	}
	c->opts.decide_ms = 20;
	for (size_t i = 0; i < TOGETHER; i++) {
		assert_int_equal(pthread_create(&starts[i].thread, NULL, start_main, &starts[i]),
				 0);
	}
	for (size_t i = 0; i < TOGETHER; i++) pthread_join(starts[i].thread, NULL);
	for (size_t i = 0; i < TOGETHER; i++) pull_begin(&pulls[i], starts[i].node, &content);
	for (size_t i = 0; i < TOGETHER; i++) assert_here(&pulls[i]);
	assert_int_equal(c->registry_bytes, content.n);
	for (size_t i = 0; i < TOGETHER; i++) node_stop(starts[i].node);
	pthread_barrier_destroy(&all_listen);
	content_free(&content);
}

int main(void)
{
	cairn_log_set_level(CAIRN_LOG_ERROR);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(start__together, cluster_setup, cluster_teardown),
	};
	return cmocka_run_group_tests_name("p2p/swarm/start", tests, NULL, NULL);
}
