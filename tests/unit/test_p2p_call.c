/* Calls from node to node: what comes back, and what does not come back. */
#include "support/swarm.h"

#include <stdatomic.h>

#define SECONDS 20000

struct service {
	atomic_int running, most;
	atomic_bool hold; /* no answer while it is set */
	char peer[256];
};

static enum cairn_code answer(void *arg, const char *peer, const char *name, const uint8_t *request,
			      size_t n, uint8_t **ret, size_t *ret_n, struct cairn_err *err)
{
	struct service *s = arg;
	if (strcmp(name, "fail") == 0) {
		return cairn_err_set(err, CAIRN_NOT_FOUND, "no\x1b[1m such\nthing");
	}
	if (strcmp(name, "large") == 0) {
		*ret_n = CAIRN_ANSWER_PAYLOAD_MAX + 1;
		*ret = calloc(1, *ret_n);
		return CAIRN_OK;
	}
	if (strcmp(name, "wait") == 0) {
		int now = atomic_fetch_add(&s->running, 1) + 1;
		if (now > atomic_load(&s->most)) atomic_store(&s->most, now);
		for (int ms = 0; ms < 20000 && atomic_load(&s->hold); ms++) usleep(1000);
		atomic_fetch_sub(&s->running, 1);
		return CAIRN_OK;
	}
	snprintf(s->peer, sizeof(s->peer), "%s", peer);
	*ret = malloc(n + 1);
	if (n > 0) memcpy(*ret, request, n);
	*ret_n = n;
	return CAIRN_OK;
}

struct reply {
	enum cairn_code code;
	bool answered;
	uint8_t *data;
	size_t n;
	struct cairn_err err;
};

static struct reply call(struct node *from, const struct node *to, const char *name,
			 const void *data, size_t n, int64_t timeout_ms)
{
	struct reply r = {0};
	r.code = cairn_swarm_call(from->swarm, cairn_swarm_address(to->swarm), name, data, n,
				  timeout_ms, &r.data, &r.n, &r.answered, &r.err);
	return r;
}

static void two(struct cluster *c, struct service *s, struct node **a, struct node **b)
{
	c->opts.calls = true;
	*a = cluster_add(c);
	*b = cluster_add(c);
	cairn_swarm_answer((*b)->swarm, answer, s);
}

static void call__is_answered(void **state)
{
	struct service s = {0};
	struct node *a, *b;
	two(*state, &s, &a, &b);
	static const size_t sizes[] = {0, 1, 70000, CAIRN_CALL_PAYLOAD_MAX};
	uint8_t *data = calloc(1, CAIRN_CALL_PAYLOAD_MAX + 1);
	for (size_t i = 0; i < CAIRN_CALL_PAYLOAD_MAX; i++) data[i] = (uint8_t)(i * 7);
	for (size_t i = 0; i < CAIRN_LEN(sizes); i++) {
		struct reply r = call(a, b, "echo", data, sizes[i], SECONDS);
		assert_int_equal(r.code, CAIRN_OK);
		assert_true(r.answered);
		assert_int_equal(r.n, sizes[i]);
		if (r.n > 0) assert_memory_equal(r.data, data, r.n);
		free(r.data);
	}
	assert_string_equal(s.peer, cairn_swarm_address(a->swarm));
	struct reply r = call(a, b, "echo", data, CAIRN_CALL_PAYLOAD_MAX + 1, SECONDS);
	assert_int_equal(r.code, CAIRN_INVALID_ARGUMENT);
	assert_false(r.answered);
	r = call(b, b, "echo", data, 3, SECONDS); /* itself */
	assert_int_equal(r.code, CAIRN_OK);
	assert_int_equal(r.n, 3);
	free(r.data);
	free(data);
	cairn_swarm_answer(b->swarm, NULL, NULL);
}

static void call__errors_are_the_nodes_own(void **state)
{
	struct service s = {0};
	struct node *a, *b;
	char name[CAIRN_CALL_NAME_MAX + 2];
	two(*state, &s, &a, &b);
	struct reply r = call(a, b, "fail", "", 0, SECONDS);
	assert_int_equal(r.code, CAIRN_NOT_FOUND);
	assert_true(r.answered);
	assert_string_equal(r.err.msg, "no?[1m such?thing");
	r = call(a, b, "large", "", 0, SECONDS);
	assert_int_equal(r.code, CAIRN_RESOURCE_EXHAUSTED);
	memset(name, 'x', sizeof(name));
	name[sizeof(name) - 1] = '\0';
	assert_int_equal(call(a, b, name, "", 0, SECONDS).code, CAIRN_INVALID_ARGUMENT);
	assert_int_equal(call(a, b, "", "", 0, SECONDS).code, CAIRN_INVALID_ARGUMENT);
	cairn_swarm_answer(b->swarm, NULL, NULL);
	assert_int_equal(call(a, b, "echo", "", 0, SECONDS).code, CAIRN_UNAVAILABLE);
}

/* A node of the release before, or one that is not to be asked. */
static void call__a_node_without_them_is_named(void **state)
{
	struct cluster *c = *state;
	c->opts.calls = true;
	struct node *a = cluster_add(c);
	c->opts.calls = false;
	c->opts.name = "old";
	struct node *old = cluster_add(c);
	struct reply r = call(a, old, "echo", "", 0, SECONDS);
	assert_int_equal(r.code, CAIRN_FAILED_PRECONDITION);
	assert_false(r.answered);
	assert_non_null(strstr(r.err.msg, "node old answers no calls"));
	node_stop(old);
}

static void call__nobody_there(void **state)
{
	struct service s = {0};
	struct node *a, *b;
	char address[CAIRN_ADDRESS_MAX];
	struct reply r = {0};
	two(*state, &s, &a, &b);
	r = call(a, b, "echo", "x", 1, SECONDS);
	free(r.data);
	snprintf(address, sizeof(address), "%s", cairn_swarm_address(b->swarm));
	cairn_swarm_answer(b->swarm, NULL, NULL);
	node_stop(b);
	r.code = cairn_swarm_call(a->swarm, address, "echo", NULL, 0, SECONDS, &r.data, &r.n,
				  &r.answered, &r.err);
	assert_int_equal(r.code, CAIRN_UNAVAILABLE);
	assert_false(r.answered);
}

struct held {
	struct node *from, *to;
	struct reply reply;
	pthread_t thread;
};

static void *held_main(void *arg)
{
	struct held *h = arg;
	h->reply = call(h->from, h->to, "wait", "", 0, SECONDS);
	return NULL;
}

/* A slow answer is not taken for the next one's; a flood is refused, not queued. */
static void call__slow_and_many(void **state)
{
	struct service s = {0};
	struct node *a, *b;
	struct held held[CAIRN_CALLS_MAX];
	two(*state, &s, &a, &b);
	atomic_store(&s.hold, true);
	assert_int_equal(call(a, b, "wait", "", 0, 50).code, CAIRN_DEADLINE_EXCEEDED);
	struct reply r = call(a, b, "echo", "mine", 4, SECONDS);
	assert_int_equal(r.code, CAIRN_OK);
	assert_memory_equal(r.data, "mine", 4);
	free(r.data);
	for (size_t i = 0; i < CAIRN_CALLS_MAX - 1; i++) { /* one is held already */
		held[i] = (struct held){.from = a, .to = b};
		assert_int_equal(pthread_create(&held[i].thread, NULL, held_main, &held[i]), 0);
	}
	UNTIL(atomic_load(&s.running) >= CAIRN_CALLS_MAX);
	r = call(a, b, "echo", "", 0, SECONDS);
	assert_int_equal(r.code, CAIRN_RESOURCE_EXHAUSTED);
	assert_true(r.answered);
	atomic_store(&s.hold, false);
	for (size_t i = 0; i < CAIRN_CALLS_MAX - 1; i++) {
		pthread_join(held[i].thread, NULL);
		assert_int_equal(held[i].reply.code, CAIRN_OK);
	}
	assert_int_equal(atomic_load(&s.most), CAIRN_CALLS_MAX);
	cairn_swarm_answer(b->swarm, NULL, NULL);
}

int main(void)
{
	cairn_log_set_level(CAIRN_LOG_ERROR);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(call__is_answered, cluster_setup, cluster_teardown),
		cmocka_unit_test_setup_teardown(call__errors_are_the_nodes_own, cluster_setup,
						cluster_teardown),
		cmocka_unit_test_setup_teardown(call__a_node_without_them_is_named, cluster_setup,
						cluster_teardown),
		cmocka_unit_test_setup_teardown(call__nobody_there, cluster_setup,
						cluster_teardown),
		cmocka_unit_test_setup_teardown(call__slow_and_many, cluster_setup,
						cluster_teardown),
	};
	return cmocka_run_group_tests_name("p2p/call", tests, NULL, NULL);
}
