/* A world of several nodes and their directories, and what the cases of directory_suite.h say to
 * it. After cmocka.h. */
#ifndef CAIRN_TESTS_DIRECTORY_WORLD_H
#define CAIRN_TESTS_DIRECTORY_WORLD_H

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "p2p/directory.h"

#define SUITE_NODES 40 /* that a world may have at most */
#define SUITE_CALL_MS 10000

struct suite_world {
	size_t nodes_max; /* at least 5 */

	/* A world of n nodes, numbered from 0, that live and know each other; not before. */
	void *(*open)(size_t n);
	/* Closes the nodes that live still. */
	void (*close)(void *world);
	struct cairn_directory *(*node)(void *world, size_t i);
	const char *(*address)(void *world, size_t i);

	/* The node vanishes without a word, as if its process had been killed. */
	void (*kill)(void *world, size_t i);
	/* Its directory is closed, as at a shutdown. */
	void (*stop)(void *world, size_t i);
	/* One that was killed or stopped is there again, anew, at its address; others know it. */
	void (*restart)(void *world, size_t i);

	/* These are NULL where it cannot be done. forget: the directory loses all that it knows of
	 * the node, which lives (a lease lost, an arbiter's restart). cut: nothing passes between
	 * the node and all others, and the server, until heal. */
	void (*forget)(void *world, size_t i);
	void (*cut)(void *world, size_t i);
	void (*heal)(void *world, size_t i);
	/* Between two looks at a state that is waited for; NULL: real time passes by itself. */
	void (*pass)(void *world);
};

static const struct suite_world *suite_ops;
static void *suite_now; /* the case's world */
static size_t suite_n;
static uint64_t suite_seed;

/* Wait for a state; 60 s. */
#define EVENTUALLY(cond)                                                                           \
	do {                                                                                       \
		int64_t until_ = cairn_boot_ns(&cairn_clock_system) + 60 * CAIRN_NS_PER_S;         \
		while (!(cond)) {                                                                  \
			if (cairn_boot_ns(&cairn_clock_system) > until_) {                         \
				fail_msg("%s:%d: never came true: %s", __FILE__, __LINE__, #cond); \
			}                                                                          \
			if (suite_ops->pass != NULL) suite_ops->pass(suite_now);                   \
			usleep(2000);                                                              \
		}                                                                                  \
	} while (0)

static inline void suite_use(const struct suite_world *ops)
{
	suite_ops = ops;
	const char *seed = getenv("CAIRN_SEED");
	suite_seed = seed != NULL ? strtoull(seed, NULL, 0)
				  : (uint64_t)cairn_real_ns(&cairn_clock_system);
	printf("CAIRN_SEED=%llu\n", (unsigned long long)suite_seed);
}

static inline void suite_open(size_t n)
{
	assert_true(n <= suite_ops->nodes_max && n <= SUITE_NODES);
	suite_n = n;
	suite_now = suite_ops->open(n);
}

static inline int suite_teardown(void **state)
{
	(void)state;
	if (suite_now != NULL) suite_ops->close(suite_now);
	suite_now = NULL;
	return 0;
}

#define SUITE_CASE(f) cmocka_unit_test_teardown(f, suite_teardown)

/* ---- the calls, which must succeed ---- */

enum { JOIN = 1, MAY_GRANT = 2 };

static inline struct cairn_digest suite_digest(void)
{
	struct cairn_digest d = {.alg = CAIRN_SHA256};
	for (size_t i = 0; i < cairn_alg_bytes(CAIRN_SHA256); i++) {
		suite_seed =
			suite_seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
		d.bytes[i] = (uint8_t)(suite_seed >> 56);
	}
	return d;
}

static inline struct cairn_directory *suite_node(size_t i)
{
	return suite_ops->node(suite_now, i);
}

static inline struct cairn_answer suite_ask(size_t i, const struct cairn_digest *d, int how)
{
	struct cairn_answer answer = {0};
	struct cairn_err err = {0};
	struct cairn_directory *dir = suite_node(i);
	if (dir->ops->ask(dir, d, how & JOIN, how & MAY_GRANT, SUITE_CALL_MS, &answer, &err) !=
	    CAIRN_OK) {
		fail_msg("node %zu asks: %s: %s", i, cairn_code_name(err.code), err.msg);
	}
	assert_true(answer.n <= CAIRN_FIND_MAX);
	return answer;
}

static inline struct cairn_grant suite_take(size_t i, const struct cairn_digest *d,
					    uint64_t version)
{
	struct cairn_grant grant = {0};
	struct cairn_err err = {0};
	struct cairn_directory *dir = suite_node(i);
	if (dir->ops->take(dir, d, version, SUITE_CALL_MS, &grant, &err) != CAIRN_OK) {
		fail_msg("node %zu takes: %s: %s", i, cairn_code_name(err.code), err.msg);
	}
	return grant;
}

static inline struct cairn_grant suite_keep(size_t i, const struct cairn_digest *d,
					    uint64_t version, uint64_t bytes)
{
	struct cairn_grant grant = {0};
	struct cairn_err err = {0};
	struct cairn_directory *dir = suite_node(i);
	if (dir->ops->keep(dir, d, version, bytes, SUITE_CALL_MS, &grant, &err) != CAIRN_OK) {
		fail_msg("node %zu keeps: %s: %s", i, cairn_code_name(err.code), err.msg);
	}
	return grant;
}

static inline void suite_flush(size_t i)
{
	assert_true(suite_node(i)->ops->flush(suite_node(i), SUITE_CALL_MS));
}

static inline void suite_announce(size_t i, const struct cairn_digest *d, size_t n)
{
	suite_node(i)->ops->announce(suite_node(i), d, n);
	suite_flush(i);
}

static inline void suite_withdraw(size_t i, const struct cairn_digest *d, size_t n)
{
	suite_node(i)->ops->withdraw(suite_node(i), d, n);
	suite_flush(i);
}

static inline void suite_leave(size_t i, const struct cairn_digest *d)
{
	suite_node(i)->ops->leave(suite_node(i), d);
	suite_flush(i);
}

static inline size_t suite_members(size_t i)
{
	return suite_node(i)->ops->members(suite_node(i), NULL, 0);
}

static inline bool suite_well(size_t i)
{
	char health[256] = "?";
	suite_node(i)->ops->health(suite_node(i), health);
	return health[0] == '\0';
}

/* ---- looking at answers ---- */

static inline bool is_node(const struct cairn_node_id *id, size_t i)
{
	return strcmp(id->address, suite_ops->address(suite_now, i)) == 0;
}

/* 0: not found; 1: is getting it; 2: holds it. */
static inline int found_as(const struct cairn_answer *answer, size_t i)
{
	int as = 0;
	for (size_t k = 0; k < answer->n; k++) {
		if (!is_node(&answer->found[k].node, i)) continue;
		assert_int_equal(as, 0); /* once */
		as = answer->found[k].whole ? 2 : 1;
	}
	return as;
}

/* What node i finds of node of. */
static inline int finds(size_t i, const struct cairn_digest *d, size_t of)
{
	struct cairn_answer answer = suite_ask(i, d, 0);
	return found_as(&answer, of);
}

static inline size_t finds_n(size_t i, const struct cairn_digest *d)
{
	return suite_ask(i, d, 0).n;
}

static inline struct cairn_grant grant_seen(size_t i, const struct cairn_digest *d)
{
	return suite_ask(i, d, 0).grant;
}

static inline void assert_free(const struct cairn_grant *grant)
{
	assert_int_equal(grant->state, CAIRN_GRANT_FREE);
	assert_false(grant->ours);
	assert_int_equal(grant->version, 0);
}

static inline void assert_grant(const struct cairn_grant *grant, enum cairn_grant_state state,
				size_t whose, size_t seen_by)
{
	assert_int_equal(grant->state, state);
	assert_true(is_node(&grant->node, whose));
	assert_int_equal(grant->ours, whose == seen_by);
	assert_true(grant->version != 0);
}

/* Node i is granted the digest. */
static inline struct cairn_grant granted(size_t i, const struct cairn_digest *d)
{
	struct cairn_answer answer = suite_ask(i, d, MAY_GRANT);
	assert_grant(&answer.grant, CAIRN_GRANT_QUEUED, i, i);
	assert_int_equal(answer.grant.bytes, 0);
	return answer.grant;
}

#endif
