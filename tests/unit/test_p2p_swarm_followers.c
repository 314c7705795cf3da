/* Those who get a blob from a node: how many, and what they hear of each other. */
#include "support/liar.h"

#include "cache/store.h"
#include "p2p/policy.h"
#include "p2p/pool.h"

/* One who asks a node, and says that he is to be found at that address. */
struct asker {
	struct cairn_hello hello;
	struct cairn_pool *pool;
	struct cairn_conn *conn;
	Cairn__Peer__V1__Description *heard; /* last */
};

static void asker_begin(struct asker *a, const char *address, struct node *node)
{
	struct cairn_err err = {0};
	bool fresh;
	snprintf(a->hello.address, sizeof(a->hello.address), "%s", address);
	(void)memccpy(a->hello.instance, address, '\0', sizeof(a->hello.instance));
	a->pool = cairn_pool_new(NULL, &a->hello);
	assert_ok(cairn_pool_take(a->pool, cairn_swarm_address(node->swarm), true, 10000, &a->conn,
				  &fresh, &err));
}

static void asker_end(struct asker *a)
{
	if (a->heard != NULL) cairn__peer__v1__description__free_unpacked(a->heard, NULL);
	cairn_pool_give(a->pool, &a->conn, false);
	cairn_pool_free(a->pool);
}

static void hear(struct asker *a)
{
	struct cairn_frame frame;
	struct cairn_err err = {0};
	ProtobufCMessage *msg;
	if (a->heard != NULL) cairn__peer__v1__description__free_unpacked(a->heard, NULL);
	a->heard = NULL;
	assert_ok(cairn_conn_read_head(a->conn, 20000, &frame, &err));
	assert_int_equal(frame.type, CAIRN_FRAME_DESCRIPTION);
	assert_ok(cairn_conn_read_message(
		a->conn, &frame, &cairn__peer__v1__description__descriptor, 20000, &msg, &err));
	a->heard = (Cairn__Peer__V1__Description *)msg;
}

static void describe(struct asker *a, const struct content *content)
{
	char digest[CAIRN_DIGEST_STR];
	struct cairn_err err = {0};
	Cairn__Peer__V1__Describe ask = CAIRN__PEER__V1__DESCRIBE__INIT;
	cairn_digest_format(&content->digest, digest);
	ask.digest = digest;
	ask.size = content->n;
	assert_ok(cairn_conn_send_message(a->conn, CAIRN_FRAME_DESCRIBE, &ask.base, 20000, &err));
	hear(a);
}

static void leave(struct asker *a)
{
	struct cairn_frame frame = {.type = CAIRN_FRAME_LEAVE};
	struct cairn_err err = {0};
	ProtobufCMessage *msg;
	assert_ok(cairn_conn_send_head(a->conn, &frame, 20000, &err));
	for (;;) { /* news were on their way */
		assert_ok(cairn_conn_read_head(a->conn, 20000, &frame, &err));
		if (frame.type == CAIRN_FRAME_LEAVE) return;
		assert_ok(cairn_conn_read_message(a->conn, &frame,
						  &cairn__peer__v1__description__descriptor, 20000,
						  &msg, &err));
		protobuf_c_message_free_unpacked(msg, NULL);
	}
}

static bool hears_of(const struct asker *a, const struct asker *other)
{
	for (size_t i = 0; i < a->heard->n_others; i++) {
		if (strcmp(a->heard->others[i], other->hello.address) == 0) return true;
	}
	return false;
}

/* Whoever finds no slot hears of those who have one; and they hear of who comes after them. */
static void slots__are_few(void **state)
{
	enum { ALL = CAIRN_UPLOAD_SLOTS + 2 };
	struct cluster *c = *state;
	struct node *node = cluster_add(c);
	struct content content = content_new(3 * MIB, 31);
	struct asker askers[ALL] = {0}, again = {0};
	add_cached(node->store, &content);
	for (int i = 0; i < ALL; i++) {
		char address[32];
		snprintf(address, sizeof(address), "127.0.0.1:%d", i + 1);
		asker_begin(&askers[i], address, node);
		describe(&askers[i], &content);
		bool room = i < CAIRN_UPLOAD_SLOTS;
		const Cairn__Peer__V1__Description *heard = askers[i].heard;
		assert_int_equal(heard->state, room ? CAIRN__PEER__V1__STATE__WHOLE
						    : CAIRN__PEER__V1__STATE__BUSY);
		assert_int_equal(heard->retry_ms, room ? 0 : CAIRN_BUSY_RETRY_MS);
		assert_int_equal(heard->n_others, i < CAIRN_OTHERS_MAX ? i : CAIRN_OTHERS_MAX);
		for (int k = 0; k < i; k++) {
			assert_true(i > CAIRN_OTHERS_MAX || hears_of(&askers[i], &askers[k]));
		}
		if (i != 1) continue;
		hear(&askers[0]);
		assert_true(hears_of(&askers[0], &askers[1]));
		assert_int_equal(askers[0].heard->state, CAIRN__PEER__V1__STATE__WHOLE);
	}
	leave(&askers[0]);
	asker_begin(&again, "127.0.0.1:99", node);
	describe(&again, &content);
	assert_int_equal(again.heard->state, CAIRN__PEER__V1__STATE__WHOLE);
	for (int i = 0; i < ALL; i++) asker_end(&askers[i]);
	asker_end(&again);
	content_free(&content);
}

/* The directory knows only of one who sends nothing; but somebody who has it asks for it. */
static void follower__becomes_a_source(void **state)
{
	struct cluster *c = *state;
	struct content content = content_new(5 * MIB + 1, 32);
	struct liar liar = {.lie = SILENT};
	struct asker asker = {0};
	struct pull p = {.never_fetch = true};
	c->opts.stall_ms = 20000;
	struct node *node = cluster_add(c), *holder = cluster_add(c);
	add_cached(holder->store, &content);
	UNTIL(is_announced(c, 1));
	holder->swarm->dir->ops->withdraw(holder->swarm->dir, &content.digest, 1);
	liar_start(&liar, c, &content);
	pull_begin(&p, node, &content);
	UNTIL(liar.pieces > 0);
	asker_begin(&asker, cairn_swarm_address(holder->swarm), node);
	describe(&asker, &content);
	assert_here(&p);
	assert_int_equal(stats_of(node).from_peers_bytes, content.n);
	asker_end(&asker);
	liar_stop(&liar);
	content_free(&content);
}

/* Who was told that all is here and asks for nothing loses his place, not his connection. */
static void idle__loses_its_place(void **state)
{
	struct cluster *c = *state;
	struct node *node = cluster_add(c);
	struct content content = content_new(3 * MIB, 35);
	struct asker asker = {0};
	node->swarm->whole_idle_ms = 200;
	add_cached(node->store, &content);
	asker_begin(&asker, "127.0.0.1:1", node);
	describe(&asker, &content);
	assert_int_equal(asker.heard->state, CAIRN__PEER__V1__STATE__WHOLE);
	hear(&asker);
	assert_int_equal(asker.heard->state, CAIRN__PEER__V1__STATE__BUSY);
	assert_int_equal(asker.heard->retry_ms, CAIRN_BUSY_RETRY_MS);
	assert_int_equal(cairn_swarm_uploads(node->swarm, NULL, 0), 0);
	describe(&asker, &content);
	assert_int_equal(asker.heard->state, CAIRN__PEER__V1__STATE__WHOLE);
	asker_end(&asker);
	content_free(&content);
}

/* The cache had more to tell than it keeps: what is here is announced all the same, and what is not
 * here is withdrawn when somebody asks for it. */
static void events__lost(void **state)
{
	struct cluster *c = *state;
	struct node *node = cluster_add(c);
	struct cairn_swarm *swarm = node->swarm;
	struct content here = content_new(MIB, 37), gone = content_new(MIB, 38);
	struct asker asker = {0};
	add_cached(node->store, &here);
	UNTIL(is_announced(c, 1));
	pthread_mutex_lock(&swarm->announce_mu);
	assert_true(cairn_digests_remove(&swarm->announced, &here.digest));
	assert_true(cairn_digests_add(&swarm->announced, &gone.digest));
	swarm->dir->ops->withdraw(swarm->dir, &here.digest, 1);
	swarm->dir->ops->announce(swarm->dir, &gone.digest, 1);
	pthread_mutex_unlock(&swarm->announce_mu);
	lock(&node->store->cache->mu);
	for (size_t i = 0; i <= CAIRN_EVENTS_MAX; i++) {
		event_add_locked(node->store->cache, CAIRN_EVENT_ENDED, &gone.digest, 0);
	}
	unlock(&node->store->cache->mu);
	UNTIL(is_announced(c, 2));
	asker_begin(&asker, "127.0.0.1:1", node);
	describe(&asker, &gone);
	assert_int_equal(asker.heard->state, CAIRN__PEER__V1__STATE__ABSENT);
	UNTIL(is_announced(c, 1));
	describe(&asker, &here);
	assert_int_equal(asker.heard->state, CAIRN__PEER__V1__STATE__WHOLE);
	asker_end(&asker);
	content_free(&here);
	content_free(&gone);
}

int main(void)
{
	cairn_log_set_level(CAIRN_LOG_ERROR);
#define TEST(f) cmocka_unit_test_setup_teardown(f, cluster_setup, cluster_teardown)
	const struct CMUnitTest tests[] = {
		TEST(slots__are_few),
		TEST(follower__becomes_a_source),
		TEST(idle__loses_its_place),
		TEST(events__lost),
	};
	return cmocka_run_group_tests_name("p2p/swarm/followers", tests, NULL, NULL);
}
