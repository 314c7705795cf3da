/* Several nodes in one process: a store, a swarm and a "containerd" each, on loopback, with one
 * table as their directory. What is had from "the registry" is counted. */
#ifndef CAIRN_TESTS_SUPPORT_SWARM_H
#define CAIRN_TESTS_SUPPORT_SWARM_H

#include "support/store.h"
#include "support/until.h"

#include <pthread.h>
#include <stdatomic.h>

#include "cache/pieces.h"
#include "p2p/memory.h"
#include "p2p/swarm.h"

#define NODES_MAX 12

struct node {
	struct store *store;
	struct cairn_swarm *swarm;
	atomic_bool secret; /* nothing leaves it */
	struct cluster *cluster;
};

struct cluster {
	struct cairn_memory *mem;
	struct node nodes[NODES_MAX];
	size_t n;
	struct cairn_swarm_opts opts;
	_Atomic uint64_t registry_bytes;
};

static atomic_bool directory_hangs; /* no question is answered */
static const struct cairn_directory_ops *directory_real;

static enum cairn_code directory_ask(struct cairn_directory *dir, const struct cairn_digest *digest,
				     bool join, bool may_grant, int64_t timeout_ms,
				     struct cairn_answer *ret, struct cairn_err *err)
{
	if (!atomic_load(&directory_hangs)) {
		return directory_real->ask(dir, digest, join, may_grant, timeout_ms, ret, err);
	}
	usleep((useconds_t)timeout_ms * 1000);
	return cairn_err_set(err, CAIRN_DEADLINE_EXCEEDED, "it hangs");
}

static bool directory_alive(struct cairn_directory *dir, const struct cairn_digest *digest)
{
	return !atomic_load(&directory_hangs) && directory_real->alive(dir, digest);
}

static enum cairn_code node_directory(void *arg, struct cairn_swarm *swarm,
				      struct cairn_directory **ret, struct cairn_err *err)
{
	struct node *node = arg;
	(void)err;
	static struct cairn_directory_ops ops;
	*ret = cairn_memory_directory(node->cluster->mem, swarm->hello.address);
	if (directory_real == NULL) {
		directory_real = (*ret)->ops;
		ops = *directory_real;
		ops.ask = directory_ask;
		ops.alive = directory_alive;
	}
	(*ret)->ops = &ops;
	return CAIRN_OK;
}

static bool node_may_share(void *arg, const struct cairn_digest *digest)
{
	struct node *node = arg;
	(void)digest;
	return !atomic_load(&node->secret);
}

static void node_start(struct node *node)
{
	struct cairn_err err = {0};
	struct cairn_swarm_opts opts = node->cluster->opts;
	opts.cache = node->store->cache;
	opts.may_share = node_may_share;
	opts.may_share_arg = node;
	assert_ok(cairn_swarm_start_with(&opts, node_directory, node, &node->swarm, &err));
}

static UNUSED void node_stop(struct node *node)
{
	cairn_swarm_stop(node->swarm);
	node->swarm = NULL;
}

static UNUSED struct node *cluster_add(struct cluster *c)
{
	struct node *node = &c->nodes[c->n++];
	void *store = NULL;
	assert_int_equal(store_setup(&store), 0);
	node->store = store;
	node->cluster = c;
	store_open(node->store);
	node_start(node);
	return node;
}

static UNUSED int cluster_setup(void **state)
{
	struct cluster *c = calloc(1, sizeof(*c));
	c->mem = cairn_memory_new();
	c->opts = (struct cairn_swarm_opts){
		.name = "node",
		.listen = "127.0.0.1:0",
		.decide_ms = 1000,
		.stall_ms = 5000,
		.max_grants = 3,
	};
	*state = c;
	return 0;
}

static UNUSED int cluster_teardown(void **state)
{
	struct cluster *c = *state;
	for (size_t i = 0; i < c->n; i++) {
		void *store = c->nodes[i].store;
		if (c->nodes[i].swarm != NULL) node_stop(&c->nodes[i]);
		store_teardown(&store);
	}
	cairn_memory_free(c->mem);
	free(c);
	return 0;
}

/* ---- a pull ------------------------------------------------------------------------------------
 */

/* What the runtime of a node does for one blob, on a thread of its own. */
struct pull {
	struct node *node;
	const struct content *content;
	const void *bytes; /* what its registry gives; NULL: the content's */
	uint64_t stop_at;  /* it gives up after so many bytes of the registry; 0: it does not */
	int64_t pause_us;  /* after each MiB of the registry */
	bool hang;	   /* instead of giving up it does nothing more until told */
	bool never_fetch;
	atomic_bool go_on; /* told */
	pthread_t thread;
	enum cairn_want_state end;
	struct cairn_err why;
	_Atomic uint64_t fetched;
	atomic_bool granted;
};

static enum cairn_want_state want_settled(struct cairn_want *want, bool granted_too)
{
	enum cairn_want_state state;
	UNTIL((state = cairn_want_look(want, NULL, NULL)) == CAIRN_WANT_HERE ||
	      state == CAIRN_WANT_FAILED || (granted_too && state == CAIRN_WANT_GRANTED));
	return state;
}

static void fetch(struct pull *p)
{
	static _Atomic unsigned refs;
	char ref[32];
	struct cairn_err err = {0};
	const uint8_t *bytes = p->bytes != NULL ? p->bytes : p->content->data;
	snprintf(ref, sizeof(ref), "pull-%u", atomic_fetch_add(&refs, 1));
	struct cairn_ingest *ing = open_ref(p->node->store, ref, p->content, true, false);
	uint64_t end = p->stop_at > 0 ? p->stop_at : p->content->n;
	for (uint64_t at = 0; at < end;) {
		size_t n = end - at < (1u << 20) ? (size_t)(end - at) : 1u << 20;
		if (put(ing, at, bytes + at, n, &err) != CAIRN_OK) break;
		at += n;
		atomic_fetch_add(&p->fetched, n);
		atomic_fetch_add(&p->node->cluster->registry_bytes, n);
		if (p->pause_us > 0) usleep((useconds_t)p->pause_us);
	}
	if (p->hang) UNTIL(atomic_load(&p->go_on));
	cairn_ingest_close(ing);
	cairn_cache_abort(p->node->store->cache, ref);
}

static void *pull_main(void *arg)
{
	struct pull *p = arg;
	struct cairn_want *want = cairn_swarm_want(p->node->swarm, &p->content->digest,
						   p->content->n, !p->never_fetch);
	p->end = want_settled(want, true);
	if (p->end == CAIRN_WANT_GRANTED) {
		atomic_store(&p->granted, true);
		fetch(p);
		if (p->stop_at == 0 && p->bytes == NULL) p->end = want_settled(want, false);
	}
	if (p->end == CAIRN_WANT_FAILED) (void)cairn_want_look(want, NULL, &p->why);
	cairn_want_release(want);
	return NULL;
}

static UNUSED void pull_begin(struct pull *p, struct node *node, const struct content *content)
{
	p->node = node;
	p->content = content;
	assert_int_equal(pthread_create(&p->thread, NULL, pull_main, p), 0);
}

static UNUSED enum cairn_want_state pull_end(struct pull *p)
{
	atomic_store(&p->go_on, true);
	pthread_join(p->thread, NULL);
	return p->end;
}

static UNUSED void assert_here(struct pull *p)
{
	struct cairn_err err = {0};
	if (pull_end(p) != CAIRN_WANT_HERE) {
		fail_msg("pull ended in state %d: %s", p->end, p->why.msg);
	}
	assert_ok(read_and_compare(p->node->store, p->content, &err));
}

static UNUSED struct cairn_swarm_stats stats_of(struct node *node)
{
	struct cairn_swarm_stats st;
	cairn_swarm_get_stats(node->swarm, &st);
	return st;
}

/* The directory finds so many holders. */
static UNUSED bool is_announced(struct cluster *c, size_t n)
{
	uint64_t sum = 0;
	for (size_t i = 0; i < c->n; i++) {
		if (c->nodes[i].swarm != NULL) sum += stats_of(&c->nodes[i]).announced;
	}
	return sum == n;
}

#endif
