/* The table of who has what: as a directory, and its own limits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "p2p/memory.h"
#include "support/directory_suite.h"

/* ---- a world: nodes that share a table ---- */

struct world {
	struct cairn_memory *mem;
	struct cairn_directory *dirs[SUITE_NODES];
	char addresses[SUITE_NODES][32];
};

static void *world_open(size_t n)
{
	struct world *w = calloc(1, sizeof(*w));
	assert_non_null(w);
	w->mem = cairn_memory_new();
	for (size_t i = 0; i < n; i++) {
		snprintf(w->addresses[i], sizeof(w->addresses[i]), "node-%zu:7481", i);
		w->dirs[i] = cairn_memory_directory(w->mem, w->addresses[i]);
	}
	return w;
}

static struct cairn_directory *world_node(void *world, size_t i)
{
	return ((struct world *)world)->dirs[i];
}

static const char *world_address(void *world, size_t i)
{
	return ((struct world *)world)->addresses[i];
}

static void world_stop(void *world, size_t i)
{
	struct world *w = world;
	if (w->dirs[i] != NULL) w->dirs[i]->ops->close(w->dirs[i], SUITE_CALL_MS);
	w->dirs[i] = NULL;
}

static void world_restart(void *world, size_t i)
{
	struct world *w = world;
	w->dirs[i] = cairn_memory_directory(w->mem, w->addresses[i]);
}

static void world_close(void *world)
{
	struct world *w = world;
	for (size_t i = 0; i < SUITE_NODES; i++) world_stop(w, i);
	struct cairn_memory_stats stats;
	cairn_memory_expire(w->mem, 1); /* nobody is left, and so is nothing */
	cairn_memory_get_stats(w->mem, &stats);
	assert_int_equal(stats.nodes, 0);
	assert_int_equal(stats.records, 0);
	assert_int_equal(stats.blobs, 0);
	cairn_memory_free(w->mem);
	free(w);
}

static const struct suite_world world_ops = {
	.nodes_max = SUITE_NODES,
	.open = world_open,
	.close = world_close,
	.node = world_node,
	.address = world_address,
	.kill = world_stop, /* here a close and a death are the same */
	.stop = world_stop,
	.restart = world_restart,
};

/* ---- the table itself ---- */

static struct cairn_memory_question say(const char *node, int64_t now_ms,
					const struct cairn_digest *d)
{
	return (struct cairn_memory_question){.node = node, .now_ms = now_ms, .digest = d};
}

static void expire__forgets_the_silent(void **state)
{
	(void)state;
	struct cairn_memory *mem = cairn_memory_new();
	struct cairn_digest d = suite_digest();
	struct cairn_answer answer;
	struct cairn_memory_question a = say("a:1", 1000, &d), b = say("b:1", 2000, &d);
	uint64_t life = cairn_memory_hear(mem, "a:1", 1000);
	assert_true(life != 0);
	cairn_memory_announce(mem, &a);
	cairn_memory_announce(mem, &b);
	cairn_memory_expire(mem, 1000);
	struct cairn_memory_question c = say("c:1", 2000, &d);
	cairn_memory_ask(mem, &c, false, false, &answer);
	assert_int_equal(answer.n, 2);
	assert_true(cairn_memory_hear(mem, "a:1", 1000) == life);
	cairn_memory_expire(mem, 1001);
	cairn_memory_ask(mem, &c, false, false, &answer);
	assert_int_equal(answer.n, 1);
	assert_string_equal(answer.found[0].node.address, "b:1");
	/* It is another life, which has said nothing. */
	uint64_t next = cairn_memory_hear(mem, "a:1", 2000);
	assert_true(next != 0 && next != life);
	cairn_memory_ask(mem, &c, false, false, &answer);
	assert_int_equal(answer.n, 1);
	cairn_memory_free(mem);
}

static void lives_and_versions__of_two_tables_differ(void **state)
{
	(void)state;
	struct cairn_memory *first = cairn_memory_new(), *second = cairn_memory_new();
	struct cairn_digest d = suite_digest();
	struct cairn_memory_question q = say("a:1", 0, &d);
	struct cairn_answer x, y;
	assert_true(cairn_memory_hear(first, "a:1", 0) != cairn_memory_hear(second, "a:1", 0));
	cairn_memory_ask(first, &q, false, true, &x);
	cairn_memory_ask(second, &q, false, true, &y);
	assert_true(x.grant.ours && y.grant.ours && x.grant.version != y.grant.version);
	cairn_memory_free(first);
	cairn_memory_free(second);
}

static void keep__makes_a_forgotten_grant_ours_again(void **state)
{
	(void)state;
	struct cairn_memory *mem = cairn_memory_new();
	struct cairn_digest d = suite_digest();
	struct cairn_memory_question a = say("a:1", 0, &d), b = say("b:1", 0, &d);
	struct cairn_grant grant;
	cairn_memory_keep(mem, &a, 100, &grant);
	assert_true(grant.ours && grant.state == CAIRN_GRANT_RUNNING && grant.bytes == 100);
	cairn_memory_keep(mem, &b, 200, &grant);
	assert_true(!grant.ours && grant.bytes == 100);
	/* Not where somebody has it whole: then the grant was over. */
	cairn_memory_leave(mem, &a);
	cairn_memory_announce(mem, &b);
	cairn_memory_keep(mem, &a, 300, &grant);
	assert_true(!grant.ours && grant.state == CAIRN_GRANT_FREE);
	cairn_memory_free(mem);
}

/* Filled to its limit, it knows what it knew, and has room again when that goes. */
static void limit__is_kept(void **state)
{
	(void)state;
	enum { LIMIT = 1 << 20, MANY = 20000 };
	struct cairn_memory *mem = cairn_memory_new_bounded(LIMIT);
	struct cairn_digest first = suite_digest(), d;
	struct cairn_memory_question q = say("a:1", 0, &first);
	struct cairn_memory_stats stats;
	struct cairn_answer answer;
	cairn_memory_announce(mem, &q);
	for (int k = 0; k < MANY; k++) {
		d = suite_digest();
		q = say("a:1", 0, &d);
		cairn_memory_announce(mem, &q);
	}
	cairn_memory_get_stats(mem, &stats);
	assert_in_range(stats.bytes, LIMIT / 2, LIMIT);
	assert_in_range(stats.blobs, LIMIT / 400, MANY - 1);
	assert_int_equal(stats.refused, MANY + 1 - stats.blobs);
	q = say("b:1", 0, &first);
	cairn_memory_ask(mem, &q, false, false, &answer);
	assert_int_equal(answer.n, 1);
	q = say("b:1", 0, &d); /* the last one: not remembered, nor granted */
	cairn_memory_ask(mem, &q, true, true, &answer);
	assert_int_equal(answer.n, 0);
	assert_true(answer.grant.state == CAIRN_GRANT_FREE && !answer.grant.ours);
	cairn_memory_forget(mem, "a:1");
	cairn_memory_expire(mem, 0);
	cairn_memory_expire(mem, 0);
	cairn_memory_expire(mem, 0);
	cairn_memory_get_stats(mem, &stats);
	assert_int_equal(stats.blobs, 0);
	cairn_memory_ask(mem, &q, true, true, &answer);
	assert_true(answer.grant.ours);
	cairn_memory_free(mem);
}

static void nodes__are_bounded_and_the_forgotten_make_room(void **state)
{
	(void)state;
	struct cairn_memory *mem = cairn_memory_new();
	struct cairn_digest d = suite_digest();
	struct cairn_answer answer;
	char name[CAIRN_ADDRESS_MAX + 8];
	for (int i = 0; i < CAIRN_MEMBERS_MAX; i++) {
		snprintf(name, sizeof(name), "n%d:1", i);
		assert_true(cairn_memory_hear(mem, name, i) != 0);
	}
	assert_int_equal(cairn_memory_hear(mem, "more:1", 0), 0);
	struct cairn_memory_question q = say("more:1", 0, &d);
	cairn_memory_announce(mem, &q);
	cairn_memory_ask(mem, &q, true, true, &answer);
	assert_true(answer.n == 0 && !answer.grant.ours);
	cairn_memory_forget(mem, "n77:1");
	assert_true(cairn_memory_hear(mem, "more:1", 0) != 0);
	assert_int_equal(cairn_memory_hear(mem, "n77:1", 0), 0);
	memset(name, 'x', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	cairn_memory_forget(mem, "n78:1");
	assert_int_equal(cairn_memory_hear(mem, name, 0), 0); /* too long for a name */
	cairn_memory_free(mem);
}

/* Against a plain model: thousands of random sentences of some nodes about some blobs. */
#define MODEL_NODES 5
#define MODEL_BLOBS 7

struct model {
	struct cairn_memory *mem;
	char names[MODEL_NODES][8];
	struct cairn_digest blobs[MODEL_BLOBS];
	bool holds[MODEL_BLOBS][MODEL_NODES], joins[MODEL_BLOBS][MODEL_NODES];
	int owner[MODEL_BLOBS]; /* -1: free */
	uint64_t version[MODEL_BLOBS];
};

static uint32_t any(uint32_t below)
{
	struct cairn_digest d = suite_digest();
	uint32_t x;
	memcpy(&x, d.bytes, sizeof(x));
	return x % below;
}

static void model_ask(struct model *m, uint32_t i, uint32_t k, bool join, bool may_grant)
{
	struct cairn_memory_question q = say(m->names[i], 0, &m->blobs[k]);
	struct cairn_answer answer;
	cairn_memory_ask(m->mem, &q, join, may_grant, &answer);
	bool held = false;
	size_t n = 0;
	for (uint32_t o = 0; o < MODEL_NODES; o++) {
		if (o == i) continue;
		int expected = m->holds[k][o] ? 2 : m->joins[k][o] ? 1 : 0, as = 0;
		for (size_t f = 0; f < answer.n; f++) {
			if (strcmp(answer.found[f].node.address, m->names[o]) != 0) continue;
			as = answer.found[f].whole ? 2 : 1;
		}
		assert_int_equal(as, expected);
		held = held || expected == 2;
		n += expected != 0;
	}
	assert_int_equal(answer.n, n);
	if (join && !m->holds[k][i]) m->joins[k][i] = true;
	if (may_grant && !held && m->owner[k] < 0) {
		m->owner[k] = (int)i;
		assert_true(answer.grant.version != m->version[k]);
		m->version[k] = answer.grant.version;
	}
	assert_int_equal(answer.grant.state == CAIRN_GRANT_FREE, m->owner[k] < 0);
	assert_int_equal(answer.grant.ours, m->owner[k] == (int)i);
	if (m->owner[k] < 0) return;
	assert_string_equal(answer.grant.node.address, m->names[m->owner[k]]);
	assert_true(answer.grant.version == m->version[k]);
}

static void model_take(struct model *m, uint32_t i, uint32_t k)
{
	struct cairn_memory_question q = say(m->names[i], 0, &m->blobs[k]);
	struct cairn_grant grant;
	uint64_t version = any(2) == 0 ? m->version[k] : 0;
	cairn_memory_take(m->mem, &q, version, &grant);
	if (m->owner[k] < 0 ? version == 0 : version == m->version[k]) {
		m->owner[k] = (int)i;
		assert_true(grant.version != m->version[k]);
		m->version[k] = grant.version;
	}
	assert_int_equal(grant.ours, m->owner[k] == (int)i);
}

static void model_end_getting(struct model *m, uint32_t i, uint32_t k)
{
	m->joins[k][i] = false;
	if (m->owner[k] == (int)i) m->owner[k] = -1;
}

static void model_forget(struct model *m, uint32_t i)
{
	cairn_memory_forget(m->mem, m->names[i]);
	for (uint32_t k = 0; k < MODEL_BLOBS; k++) {
		model_end_getting(m, i, k);
		m->holds[k][i] = false;
	}
}

static void model_step(struct model *m)
{
	uint32_t i = any(MODEL_NODES), k = any(MODEL_BLOBS), what = any(100);
	struct cairn_memory_question q = say(m->names[i], 0, &m->blobs[k]);
	if (what < 50) {
		model_ask(m, i, k, any(2) == 0, any(2) == 0);
	} else if (what < 60) {
		model_take(m, i, k);
	} else if (what < 75) {
		cairn_memory_announce(m->mem, &q);
		model_end_getting(m, i, k);
		m->holds[k][i] = true;
	} else if (what < 87) {
		cairn_memory_withdraw(m->mem, &q);
		m->holds[k][i] = false;
	} else if (what < 97) {
		cairn_memory_leave(m->mem, &q);
		model_end_getting(m, i, k);
	} else {
		model_forget(m, i);
	}
}

static void table__agrees_with_a_model(void **state)
{
	(void)state;
	struct model m = {.mem = cairn_memory_new()};
	for (uint32_t i = 0; i < MODEL_NODES; i++) snprintf(m.names[i], 8, "n%u:1", i);
	for (uint32_t k = 0; k < MODEL_BLOBS; k++) m.blobs[k] = suite_digest();
	for (uint32_t k = 0; k < MODEL_BLOBS; k++) m.owner[k] = -1;
	for (int step = 0; step < 20000; step++) model_step(&m);
	cairn_memory_free(m.mem);
}

int main(void)
{
	suite_use(&world_ops);
	const struct CMUnitTest tests[] = {
		DIRECTORY_SUITE,
		cmocka_unit_test(expire__forgets_the_silent),
		cmocka_unit_test(lives_and_versions__of_two_tables_differ),
		cmocka_unit_test(keep__makes_a_forgotten_grant_ours_again),
		cmocka_unit_test(limit__is_kept),
		cmocka_unit_test(nodes__are_bounded_and_the_forgotten_make_room),
		cmocka_unit_test(table__agrees_with_a_model),
	};
	return cmocka_run_group_tests_name("p2p/memory", tests, NULL, NULL);
}
