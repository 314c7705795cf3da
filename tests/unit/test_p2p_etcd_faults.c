/* The etcd directory when things go wrong: etcd dead, frozen, emptied, full of rubbish; a lease
 * lost; dead endpoints; two nodes with one address. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "support/etcd_nodes.h"

/* ---- etcd comes and goes ---- */

static void killed__fails_at_once_and_recovers(void **state)
{
	struct fixture *f = *state;
	struct cairn_digest d = digest(), e = digest();
	start(f, 0);
	start(f, 1);
	announce(f, 0, &d, 1);
	etcd_kill(&server);
	UNTIL(!well(f, 0) && !well(f, 1));
	assert_fails_at_once(f, 0);
	f->nodes[0].dir->ops->announce(f->nodes[0].dir, &e, 1);
	assert_false(f->nodes[0].dir->ops->flush(f->nodes[0].dir, 10));
	etcd_run(&server);
	UNTIL(well(f, 0) && well(f, 1));
	UNTIL(finds(f, 1, &d) == 1 && finds(f, 1, &e) == 1);
	assert_true(granted(f, 1, &(struct cairn_digest){.alg = CAIRN_SHA256}));
}

static void absent_at_the_start__is_waited_for(void **state)
{
	struct fixture *f = *state;
	struct cairn_digest d = digest();
	etcd_kill(&server);
	start(f, 0);
	f->nodes[0].dir->ops->announce(f->nodes[0].dir, &d, 1);
	UNTIL(!well(f, 0));
	UNTIL(ask(f, 0, &d, false, 20, &(struct cairn_answer){0}) == CAIRN_UNAVAILABLE);
	assert_fails_at_once(f, 0);
	etcd_run(&server);
	UNTIL(well(f, 0));
	start(f, 1);
	UNTIL(finds(f, 1, &d) == 1);
}

static void emptied__is_told_everything_again(void **state)
{
	struct fixture *f = *state;
	struct cairn_digest d[100];
	char key[64];
	for (size_t k = 0; k < 100; k++) d[k] = digest();
	start(f, 0);
	start(f, 1);
	announce(f, 0, d, 100);
	etcd_wipe(&server);
	etcd_run(&server);
	for (size_t k = 0; k < 100; k++) UNTIL(finds(f, 1, &d[k]) == 1);
	snprintf(key, sizeof(key), "%sh/", f->prefix);
	assert_int_equal(etcd_count(&server, key), 100);
	UNTIL(members(f, 0) == 2 && members(f, 1) == 2);
}

static void frozen__costs_little_and_recovers(void **state)
{
	struct fixture *f = *state;
	struct cairn_digest d = digest(), e = digest();
	struct cairn_answer a;
	start(f, 0);
	start(f, 1);
	start(f, 2);
	announce(f, 0, &d, 1);
	assert_int_equal(finds(f, 1, &d), 1);
	kill(server.pid, SIGSTOP);
	int64_t from = now_ms();
	assert_int_equal(ask(f, 0, &e, true, 20, &a), CAIRN_DEADLINE_EXCEEDED);
	assert_true(now_ms() - from < 2000);
	UNTIL(!well(f, 0));
	assert_fails_at_once(f, 0);
	from = now_ms();
	end(f, 2, 300); /* a shutdown does not hang */
	assert_true(now_ms() - from < 10000);
	kill(server.pid, SIGCONT);
	UNTIL(well(f, 0) && well(f, 1));
	UNTIL(finds(f, 1, &d) == 1);
}

/* Whoever asked has gone away; what was done for him must not stay. */
static void grant_that_nobody_heard_of__is_given_back(void **state)
{
	struct fixture *f = *state;
	struct cairn_digest d = digest();
	struct cairn_answer a = {0};
	struct relay relay;
	char url[64];
	const char *const endpoints[] = {url};
	struct cairn_err err;
	relay_start(&relay, server.port);
	snprintf(url, sizeof(url), "127.0.0.1:%d", relay.port);
	OK(cairn_etcd_new(opts_of(f, 0, endpoints, 1), &f->nodes[0].dir, &err));
	start(f, 1);
	UNTIL(well(f, 0) && well(f, 1));
	/* The answer is lost at some point of each of these. */
	for (int k = 0; k < 20; k++) {
		struct cairn_digest each = digest();
		(void)!ask(f, 0, &each, true, 1 + k % 4, &a);
		if (a.grant.ours) f->nodes[0].dir->ops->leave(f->nodes[0].dir, &each);
		memset(&a, 0, sizeof(a));
		UNTIL(granted(f, 1, &each));
	}
	relay.cut = true;
	assert_int_not_equal(ask(f, 0, &d, true, 20, &a), CAIRN_OK);
	relay.cut = false;
	UNTIL(well(f, 0));
	UNTIL(granted(f, 1, &d));
	end(f, 0, 5000);
	relay_end(&relay);
}

struct asker {
	struct fixture *f;
	struct cairn_digest d;
	struct cairn_answer answer;
	enum cairn_code rc;
};

static void *ask_slowly(void *arg)
{
	struct asker *a = arg;
	struct cairn_err err;
	struct cairn_directory *dir = a->f->nodes[0].dir;
	a->rc = dir->ops->ask(dir, &a->d, true, true, LONG_MS, &a->answer, &err);
	return NULL;
}

/* Whoever leaves while his question is under way has left. */
static void leave_during_an_ask__ends_what_it_brings(void **state)
{
	struct fixture *f = *state;
	struct asker a = {.f = f, .d = digest()};
	struct relay relay;
	char url[64];
	const char *const endpoints[] = {url};
	struct cairn_err err;
	pthread_t thread;
	relay_start(&relay, server.port);
	snprintf(url, sizeof(url), "127.0.0.1:%d", relay.port);
	struct cairn_etcd_opts opts = *opts_of(f, 0, endpoints, 1);
	opts.ttl_s = 60; /* so that only the ask is under way */
	OK(cairn_etcd_new(&opts, &f->nodes[0].dir, &err));
	start(f, 1);
	UNTIL(well(f, 0));
	relay_cut(&relay);
	assert_int_equal(pthread_create(&thread, NULL, ask_slowly, &a), 0);
	UNTIL(relay_holds(&relay));
	f->nodes[0].dir->ops->leave(f->nodes[0].dir, &a.d);
	relay.cut = false;
	pthread_join(thread, NULL);
	assert_int_equal(a.rc, CAIRN_OK);
	assert_true(f->nodes[0].dir->ops->flush(f->nodes[0].dir, LONG_MS));
	assert_int_equal(finds(f, 1, &a.d), 0);
	assert_true(granted(f, 1, &a.d));
	end(f, 0, 5000);
	relay_end(&relay);
}

static void one_address_twice__is_told_and_harmless(void **state)
{
	struct fixture *f = *state, g = {0};
	struct cairn_digest d = digest(), e = digest();
	memcpy(g.prefix, f->prefix, sizeof(g.prefix));
	start(f, 0);
	UNTIL(well(f, 0));
	start(&g, 0); /* ends what it takes for its former life, once */
	start(f, 1);
	announce(&g, 0, &d, 1);
	announce(f, 0, &e, 1);
	UNTIL(finds(f, 1, &d) == 1 && finds(f, 1, &e) == 1);
	UNTIL(members(f, 1) == 2);
	end(&g, 0, 5000);
}

/* ---- leases ---- */

static void lease_lost__ends_the_grant(void **state)
{
	struct fixture *f = *state;
	struct cairn_digest d = digest();
	struct cairn_answer a;
	struct cairn_grant g;
	struct cairn_err err;
	char key[400];
	start(f, 0);
	start(f, 1);
	assert_int_equal(ask(f, 0, &d, true, LONG_MS, &a), CAIRN_OK);
	assert_true(a.grant.ours);
	snprintf(key, sizeof(key), "%sn/%s", f->prefix, f->nodes[0].address);
	etcd_revoke(&server, etcd_lease_of(&server, key));
	/* Until the node has noticed, its writes are refused. */
	struct cairn_directory *dir = f->nodes[0].dir;
	UNTIL(dir->ops->keep(dir, &d, a.grant.version, 5, LONG_MS, &g, &err) == CAIRN_OK);
	assert_int_equal(g.state, CAIRN_GRANT_FREE);
	assert_false(g.ours);
	assert_true(granted(f, 1, &d));
}

static void node_key_deleted__is_written_again(void **state)
{
	struct fixture *f = *state;
	char key[400];
	start(f, 0);
	start(f, 1);
	UNTIL(members(f, 0) == 2 && members(f, 1) == 2);
	snprintf(key, sizeof(key), "%sn/%s", f->prefix, f->nodes[0].address);
	Etcdserverpb__DeleteRangeRequest q = ETCDSERVERPB__DELETE_RANGE_REQUEST__INIT;
	q.key = etcd_text(key);
	protobuf_c_message_free_unpacked(etcd_admin(&server, "/etcdserverpb.KV/DeleteRange",
						    &q.base,
						    &etcdserverpb__put_response__descriptor),
					 NULL);
	UNTIL(etcd_lease_of(&server, key) != 0);
	UNTIL(members(f, 1) == 2);
	assert_int_equal(members(f, 0), 2);
}

/* Killed and started again at once: what it said before counts no more. */
static void former_life__is_ended(void **state)
{
	struct fixture *f = *state;
	struct cairn_digest d = digest(), e = digest();
	struct cairn_answer a;
	struct cairn_err err;
	const char *const endpoints[] = {server.url};
	struct cairn_etcd_opts opts = *opts_of(f, 0, endpoints, 1);
	opts.ttl_s = 20;
	OK(cairn_etcd_new(&opts, &f->nodes[0].dir, &err));
	start(f, 1);
	announce(f, 0, &d, 1);
	assert_true(granted(f, 0, &e));
	end(f, 0, 0);
	start(f, 0);
	int64_t from = now_ms();
	UNTIL(finds(f, 1, &d) == 0);
	assert_true(now_ms() - from < 10000); /* sooner than the lease ends */
	assert_int_equal(ask(f, 1, &e, false, LONG_MS, &a), CAIRN_OK);
	assert_int_equal(a.grant.state, CAIRN_GRANT_FREE);
	UNTIL(well(f, 0) && members(f, 1) == 2);
}

/* ---- rubbish ---- */

static void put_rubbish(struct fixture *f, const struct cairn_digest *d, int64_t lease)
{
	static const char *const values[] = {"", "q", "dead.example:1", "\xff\xfe/../", "r 1 x"};
	char key[400], text[CAIRN_DIGEST_STR];
	cairn_digest_format(d, text);
	for (int slot = 0; slot < CAIRN_HOLDERS_MAX; slot++) {
		const char *value = values[slot % 5];
		for (const char *kind = "hj"; *kind != '\0'; kind++) {
			snprintf(key, sizeof(key), "%s%c/%s/%02d", f->prefix, *kind, text, slot);
			etcd_put(&server, key, value, strlen(value), lease);
		}
	}
	snprintf(key, sizeof(key), "%sg/%s", f->prefix, text);
	etcd_put(&server, key, "q 0 dead.example:1", 18, 0);
}

/* Of a cluster that is dead, of another program: no lease. */
static void rubbish_without_lease__is_written_over(void **state)
{
	struct fixture *f = *state;
	struct cairn_digest d = digest();
	struct cairn_answer a;
	put_rubbish(f, &d, 0);
	start(f, 0);
	start(f, 1);
	assert_int_equal(ask(f, 0, &d, false, LONG_MS, &a), CAIRN_OK);
	assert_int_equal(a.n, 0);
	assert_int_equal(a.grant.state, CAIRN_GRANT_FREE);
	assert_true(granted(f, 0, &d));
	announce(f, 0, &d, 1);
	assert_int_equal(finds(f, 1, &d), 1);
}

static void rubbish_under_a_lease__is_ignored(void **state)
{
	struct fixture *f = *state;
	struct cairn_digest d = digest();
	struct cairn_answer a;
	int64_t lease = etcd_grant(&server, 600);
	put_rubbish(f, &d, lease);
	start(f, 0);
	assert_int_equal(ask(f, 0, &d, true, LONG_MS, &a), CAIRN_OK);
	assert_int_equal(a.n, 1); /* each node once */
	assert_string_equal(a.found[0].node.address, "dead.example:1");
	announce(f, 0, &d, 1); /* finds no room, and gives it up for now */
	etcd_revoke(&server, lease);
	announce(f, 0, &d, 1);
	start(f, 1);
	assert_int_equal(finds(f, 1, &d), 1);
}

static void members__are_those_that_can_be_read(void **state)
{
	struct fixture *f = *state;
	static const char *const names[] = {"", "x", "a:b", "a/b:1", "\xff:1", "a:70000", "good:1"};
	char key[400];
	int64_t lease = etcd_grant(&server, 600);
	for (size_t i = 0; i < CAIRN_LEN(names); i++) {
		snprintf(key, sizeof(key), "%sn/%s", f->prefix, names[i]);
		etcd_put(&server, key, "1", 1, lease);
	}
	for (int i = 0; i < 2000; i++) { /* of no lease */
		snprintf(key, sizeof(key), "%sn/old-%d:1", f->prefix, i);
		etcd_put(&server, key, "1", 1, 0);
	}
	start(f, 0);
	UNTIL(members(f, 0) == 2);
	etcd_revoke(&server, lease);
	UNTIL(members(f, 0) == 1);
}

/* ---- endpoints, prefixes, options ---- */

static void endpoints__are_tried_in_turn(void **state)
{
	struct fixture *f = *state;
	struct cairn_digest d = digest();
	struct relay relay;
	struct cairn_err err;
	char dead[64], cut[64];
	const char *const endpoints[] = {dead, cut, server.url};
	relay_start(&relay, server.port);
	snprintf(dead, sizeof(dead), "http://127.0.0.1:%d/", free_port());
	snprintf(cut, sizeof(cut), "127.0.0.1:%d", relay.port);
	OK(cairn_etcd_new(opts_of(f, 0, endpoints, 3), &f->nodes[0].dir, &err));
	start(f, 1);
	announce(f, 1, &d, 1);
	assert_int_equal(finds(f, 0, &d), 1); /* by the second */
	relay.cut = true;
	UNTIL(finds(f, 0, &d) == 1); /* by the third, in the end */
	assert_true(granted(f, 0, &(struct cairn_digest){.alg = CAIRN_SHA512}));
	end(f, 0, 5000);
	relay.cut = false;
	relay_end(&relay);
}

static void prefixes__are_apart(void **state)
{
	struct fixture *f = *state, g = {.prefix = "/faults-else"};
	struct cairn_digest d = digest();
	start(f, 0);
	start(f, 1);
	start(&g, 0);
	start(&g, 1);
	announce(f, 0, &d, 1);
	assert_true(granted(&g, 1, &d));
	assert_int_equal(finds(&g, 1, &d), 0);
	assert_int_equal(finds(f, 1, &d), 1);
	UNTIL(members(f, 0) == 2 && members(&g, 0) == 2);
	snprintf(g.prefix, sizeof(g.prefix), "/faults-else/"); /* is the same */
	start(&g, 2);
	UNTIL(members(&g, 0) == 3 && members(&g, 2) == 3);
	assert_false(granted(&g, 2, &d));
	for (size_t i = 0; i < 3; i++) end(&g, i, 5000);
}

static void assert_refused(struct cairn_etcd_opts opts, const char *words)
{
	struct cairn_directory *dir;
	struct cairn_err err;
	assert_int_equal(cairn_etcd_new(&opts, &dir, &err), CAIRN_INVALID_ARGUMENT);
	if (strstr(err.msg, words) == NULL) fail_msg("\"%s\" is not in \"%s\"", words, err.msg);
	assert_null(strstr(err.msg, "secret"));
}

static void options__that_cannot_be_used_are_refused(void **state)
{
	struct fixture *f = *state;
	const char *good[] = {"http://a:1"}, *tls[] = {"https://a:1"};
	const char *bad[] = {"ftp://a:1",  "http://a", "http://u:secret@a:1",
			     "https://:1", "a:0",      ""};
	char prefix[400];
	struct cairn_etcd_opts o = *opts_of(f, 0, good, 0);
	assert_refused(o, "0 endpoints");
	o.n_endpoints = 17;
	assert_refused(o, "17 endpoints");
	o.n_endpoints = 1;
	for (size_t i = 0; i < CAIRN_LEN(bad); i++) {
		o.endpoints = &bad[i];
		assert_refused(o, "endpoint 1");
	}
	o.endpoints = good;
	o.ca = "/nowhere/ca.pem";
	assert_refused(o, "plain http");
	o.endpoints = tls;
	assert_refused(o, "/nowhere/ca.pem");
	o.ca = server.dir; /* no file */
	assert_refused(o, server.dir);
	o.ca = NULL;
	o.address = "nobody";
	assert_refused(o, "nobody");
	memset(prefix, 'p', sizeof(prefix) - 1);
	prefix[sizeof(prefix) - 1] = '\0';
	o.prefix = prefix;
	assert_refused(o, "prefix");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(killed__fails_at_once_and_recovers),
		TEST(absent_at_the_start__is_waited_for),
		TEST(emptied__is_told_everything_again),
		TEST(frozen__costs_little_and_recovers),
		TEST(grant_that_nobody_heard_of__is_given_back),
		TEST(leave_during_an_ask__ends_what_it_brings),
		TEST(one_address_twice__is_told_and_harmless),
		TEST(lease_lost__ends_the_grant),
		TEST(node_key_deleted__is_written_again),
		TEST(former_life__is_ended),
		TEST(rubbish_without_lease__is_written_over),
		TEST(rubbish_under_a_lease__is_ignored),
		TEST(members__are_those_that_can_be_read),
		TEST(endpoints__are_tried_in_turn),
		TEST(prefixes__are_apart),
		TEST(options__that_cannot_be_used_are_refused),
	};
	return cmocka_run_group_tests_name("p2p/etcd faults", tests, group_setup, group_teardown);
}
