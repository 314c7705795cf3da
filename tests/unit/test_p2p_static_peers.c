/* The static directory: who its peers are, how arbiters change, and what it answers strangers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <netinet/in.h>

#include "p2p/address.h"
#include "support/static_world.h"

/* ---- a resolver of the test's own ---- */

static struct {
	pthread_mutex_t mu;
	unsigned hosts; /* bit k: peers.test has 127.0.0.<k> */
	bool fails;
	int asked;
} dns = {.mu = PTHREAD_MUTEX_INITIALIZER};

static int dns_resolve(const char *host, const char *port, const struct addrinfo *hints,
		       struct addrinfo **ret)
{
	if (strcmp(host, "peers.test") != 0) return getaddrinfo(host, port, hints, ret);
	pthread_mutex_lock(&dns.mu);
	unsigned hosts = dns.fails ? 0 : dns.hosts;
	dns.asked++;
	pthread_mutex_unlock(&dns.mu);
	*ret = NULL;
	for (unsigned k = 1; k < 32; k++) {
		if ((hosts >> k & 1) == 0) continue;
		char text[32];
		struct addrinfo *one;
		snprintf(text, sizeof(text), "127.0.0.%u", k);
		if (getaddrinfo(text, port, hints, &one) != 0) abort();
		one->ai_next = *ret;
		*ret = one;
	}
	return *ret != NULL ? 0 : EAI_AGAIN;
}

static void dns_free(struct addrinfo *list)
{
	while (list != NULL) { /* each was made by a call of its own */
		struct addrinfo *next = list->ai_next;
		list->ai_next = NULL;
		freeaddrinfo(list);
		list = next;
	}
}

static void dns_set(unsigned hosts, bool fails)
{
	pthread_mutex_lock(&dns.mu);
	dns.hosts = hosts;
	dns.fails = fails;
	dns.asked = 0;
	pthread_mutex_unlock(&dns.mu);
}

static int dns_asked(void)
{
	pthread_mutex_lock(&dns.mu);
	int asked = dns.asked;
	pthread_mutex_unlock(&dns.mu);
	return asked;
}

static bool can_listen(const char *address)
{
	struct cairn_address parsed;
	struct cairn_err err;
	struct sockaddr_in at = {.sin_family = AF_INET};
	assert_int_equal(cairn_address_parse(address, false, &parsed, &err), CAIRN_OK);
	inet_pton(AF_INET, parsed.host, &at.sin_addr);
	at.sin_port = htons((uint16_t)atoi(parsed.port));
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool can = bind(fd, (struct sockaddr *)&at, sizeof(at)) == 0;
	close(fd);
	return can;
}

/* n nodes at 127.0.0.1, .2, ...: all with one port, as behind one name. */
static struct static_world *named_world(size_t n, char name[static 64])
{
	struct static_world *w = calloc(1, sizeof(*w));
	assert_non_null(w);
	int port = 0;
	for (bool free_port = false; !free_port;) {
		world_listen(w, 0, "127.0.0.1:0");
		port = cairn_listener_port(w->nodes[0].listener);
		free_port = true;
		for (size_t i = 1; i < n; i++) {
			char address[64];
			snprintf(address, sizeof(address), "127.0.0.%zu:%d", i + 1, port);
			free_port = free_port && can_listen(address);
		}
		if (!free_port) cairn_listener_free(w->nodes[0].listener);
	}
	for (size_t i = 1; i < n; i++) {
		char address[64];
		snprintf(address, sizeof(address), "127.0.0.%zu:%d", i + 1, port);
		world_listen(w, i, address);
	}
	snprintf(name, 64, "peers.test:%d", port);
	w->peers[0] = name;
	w->n_peers = 1;
	w->resolve = dns_resolve;
	w->free_resolved = dns_free;
	suite_now = w;
	return w;
}

static bool well(struct static_world *w, size_t i)
{
	char health[256];
	w->nodes[i].dir->ops->health(w->nodes[i].dir, health);
	return health[0] == '\0';
}

static void names__stand_for_all_their_addresses(void **state)
{
	(void)state;
	char name[64];
	dns_set(1u << 1 | 1u << 2 | 1u << 3, false);
	struct static_world *w = named_world(4, name);
	for (size_t i = 0; i < 4; i++) world_begin(w, i);
	EVENTUALLY(world_members(w, 0) == 3 && world_members(w, 1) == 3 &&
		   world_members(w, 2) == 3);
	EVENTUALLY(well(w, 0)); /* it is itself on the list */
	dns_set(1u << 1 | 1u << 2 | 1u << 3 | 1u << 4, false);
	for (size_t i = 0; i < 4; i++) EVENTUALLY(world_members(w, i) == 4);
	dns_set(0, true);
	EVENTUALLY(dns_asked() >= 12);
	EVENTUALLY(!well(w, 0));
	for (size_t i = 0; i < 4; i++) assert_int_equal(world_members(w, i), 4);
	dns_set(1u << 1 | 1u << 2, false);
	EVENTUALLY(world_members(w, 0) == 2 && world_members(w, 1) == 2);
	EVENTUALLY(well(w, 0));
}

static void names__that_are_not_found_at_first_are_found_later(void **state)
{
	(void)state;
	char name[64];
	dns_set(0, true);
	struct static_world *w = named_world(2, name);
	for (size_t i = 0; i < 2; i++) world_begin(w, i);
	struct cairn_digest d = suite_digest();
	suite_ask(0, &d, 0); /* alone, it answers itself */
	assert_false(well(w, 0));
	dns_set(1u << 1 | 1u << 2, false);
	EVENTUALLY(world_members(w, 0) == 2 && world_members(w, 1) == 2 && well(w, 0));
}

/* Another list: who stays is kept, though his name cannot be looked up now; who is gone is left. */
static void set_peers__keeps_who_stays(void **state)
{
	(void)state;
	char name[64];
	struct cairn_err err;
	dns_set(1u << 1 | 1u << 2, false);
	struct static_world *w = named_world(3, name);
	for (size_t i = 0; i < 3; i++) world_begin(w, i);
	EVENTUALLY(world_members(w, 0) == 2);
	dns_set(0, true);
	struct cairn_directory *dir = w->nodes[0].dir;
	const char *const more[] = {name, w->nodes[2].hello.address, "127.0.0.1:nothing"};
	assert_int_equal(cairn_static_set_peers(dir, more, 3, &err), CAIRN_INVALID_ARGUMENT);
	assert_int_equal(cairn_static_set_peers(dir, more, 2, &err), CAIRN_OK);
	for (int i = 0; i < 5000 && world_members(w, 0) < 3; i++) {
		assert_int_equal(world_members(w, 0), 2);
		usleep(1000);
	}
	assert_int_equal(world_members(w, 0), 3);
	/* Two in a row: the last one holds. */
	assert_int_equal(cairn_static_set_peers(dir, more, 1, &err), CAIRN_OK);
	assert_int_equal(cairn_static_set_peers(dir, more + 1, 1, &err), CAIRN_OK);
	EVENTUALLY(world_members(w, 0) == 2);
	assert_int_equal(cairn_static_set_peers(dir, NULL, 0, &err), CAIRN_OK);
	EVENTUALLY(world_members(w, 0) == 1);
}

/* Until every peer was tried, pulls wait: that is told, and ends. */
static void health__says_that_it_starts(void **state)
{
	(void)state;
	char health[256];
	struct static_world *w = calloc(1, sizeof(*w));
	assert_non_null(w);
	suite_now = w;
	for (size_t i = 0; i < 2; i++) {
		world_listen(w, i, "127.0.0.1:0");
		w->peers[w->n_peers++] = w->nodes[i].hello.address;
	}
	world_begin(w, 0); /* the other one is dialled, and says nothing */
	w->nodes[0].dir->ops->health(w->nodes[0].dir, health);
	assert_memory_equal(health, "starting: ", 10);
	world_begin(w, 1);
	EVENTUALLY(well(w, 0) && well(w, 1));
}

/* The machine's own resolver; and several addresses that lead to one node. */
static void names__of_oneself_and_of_others_twice_do_no_harm(void **state)
{
	(void)state;
	struct static_world *w = calloc(1, sizeof(*w));
	assert_non_null(w);
	suite_now = w;
	char names[2][CAIRN_ADDRESS_MAX];
	for (size_t i = 0; i < 2; i++) {
		world_listen(w, i, "127.0.0.1:0");
		snprintf(names[i], sizeof(names[i]), "localhost:%d",
			 cairn_listener_port(w->nodes[i].listener));
		w->peers[w->n_peers++] = names[i];
		w->peers[w->n_peers++] = w->nodes[i].hello.address;
	}
	/* 0.0.0.0 leads to this machine: another target, the same nodes. */
	char twin[32];
	snprintf(twin, sizeof(twin), "0.0.0.0:%d", cairn_listener_port(w->nodes[0].listener));
	w->peers[w->n_peers++] = twin;
	for (size_t i = 0; i < 2; i++) world_begin(w, i);
	EVENTUALLY(world_complete(w));
	struct cairn_static *s = static_of(w->nodes[0].dir), *t = static_of(w->nodes[1].dir);
	struct link *link = NULL;
	for (int i = 0; i < 8; i++) {
		if (s->links[i] != NULL && strcmp(s->links[i]->target, twin) == 0) {
			link = s->links[i];
		}
	}
	assert_non_null(link);
	pthread_mutex_lock(&s->mu);
	assert_true(link->self); /* by its instance */
	pthread_mutex_unlock(&s->mu);
	int twins = 0;
	pthread_mutex_lock(&t->mu);
	for (int i = 0; i < 8; i++) twins += t->links[i] != NULL && t->links[i]->twin;
	pthread_mutex_unlock(&t->mu);
	assert_int_equal(twins, 1);
	assert_int_equal(world_members(w, 0), 2);
}

static void peers__that_are_none_are_refused(void **state)
{
	(void)state;
	const struct cairn_hello own = {.address = "127.0.0.1:1"};
	const char *bad[] = {"", "host", "host:", "host:0", "host:70000", "[::1:80", ":80"};
	for (size_t i = 0; i < CAIRN_LEN(bad); i++) {
		const char *peers[] = {"127.0.0.1:9", bad[i]};
		const struct cairn_static_opts opts = {.own = &own, .peers = peers, .n_peers = 2};
		struct cairn_directory *dir;
		struct cairn_err err = {0};
		assert_int_equal(cairn_static_new(&opts, &dir, &err), CAIRN_INVALID_ARGUMENT);
		assert_non_null(strstr(err.msg, "peer 2"));
	}
}

/* ---- arbiters that change ---- */

static void arbiters__change_and_all_is_still_found(void **state)
{
	(void)state;
	enum { BLOBS = 60 };
	suite_open(4);
	struct cairn_digest held[BLOBS], joined[BLOBS], grants[BLOBS];
	for (size_t k = 0; k < BLOBS; k++) {
		held[k] = suite_digest();
		joined[k] = suite_digest();
		grants[k] = suite_digest();
		suite_ask(0, &joined[k], JOIN);
		suite_keep(0, &grants[k], granted(0, &grants[k]).version, 1000 + k);
	}
	suite_announce(0, held, BLOBS);
	world_kill(suite_now, 3);
	EVENTUALLY(suite_members(0) == 3 && suite_members(1) == 3 && suite_members(2) == 3);
	for (size_t k = 0; k < BLOBS; k++) {
		EVENTUALLY(finds(1, &held[k], 0) == 2);
		EVENTUALLY(finds(1, &joined[k], 0) == 1);
		struct cairn_grant grant;
		EVENTUALLY((grant = grant_seen(1, &grants[k])).state == CAIRN_GRANT_RUNNING);
		assert_grant(&grant, CAIRN_GRANT_RUNNING, 0, 1);
		assert_int_equal(grant.bytes, 1000 + k);
	}
	world_restart(suite_now, 3);
	EVENTUALLY(suite_members(0) == 4 && suite_members(1) == 4 && suite_members(2) == 4);
	for (size_t k = 0; k < BLOBS; k++) {
		EVENTUALLY(finds(1, &held[k], 0) == 2 && finds(3, &held[k], 0) == 2);
		EVENTUALLY(finds(3, &joined[k], 0) == 1);
		EVENTUALLY(grant_seen(1, &grants[k]).state == CAIRN_GRANT_RUNNING);
		/* It goes on with what it last knew, wherever its arbiter is. */
		struct cairn_grant kept = suite_keep(0, &grants[k], 1, 2000 + k);
		assert_grant(&kept, CAIRN_GRANT_RUNNING, 0, 0);
		suite_leave(0, &grants[k]);
		EVENTUALLY(grant_seen(1, &grants[k]).state == CAIRN_GRANT_FREE);
	}
	suite_withdraw(0, held, BLOBS);
	for (size_t k = 0; k < BLOBS; k++) EVENTUALLY(finds_n(1, &held[k]) == 0);
	world_stop(suite_now, 3); /* and no former arbiter knows of it still */
	EVENTUALLY(suite_members(1) == 3);
	for (size_t k = 0; k < BLOBS; k++) assert_int_equal(finds_n(1, &held[k]), 0);
}

/* A peer comes: how often does another miss what is held, meanwhile? */
static int missed_while_one_comes(const struct cairn_digest *held, size_t n)
{
	int missed = 0;
	world_stop(suite_now, 2);
	EVENTUALLY(suite_members(0) == 2 && suite_members(1) == 2);
	world_restart(suite_now, 2);
	bool last = false;
	while (!last) {
		last = suite_members(1) == 3;
		for (size_t k = 0; k < n; k++) missed += finds(1, &held[k], 0) != 2;
	}
	EVENTUALLY(world_complete(suite_now));
	return missed;
}

/* Nothing, unless the machine stood still for longer than peers settle: one of three times, then.
 */
static void arbiters__that_come_are_told_before_they_are_asked(void **state)
{
	(void)state;
	enum { BLOBS = 100 };
	suite_open(3);
	struct cairn_digest held[BLOBS];
	for (size_t k = 0; k < BLOBS; k++) held[k] = suite_digest();
	suite_announce(0, held, BLOBS);
	int missed = 1;
	for (int round = 0; round < 3 && missed > 0; round++) {
		missed = missed_while_one_comes(held, BLOBS);
	}
	assert_int_equal(missed, 0);
}

/* Of a dead one the next answers within the same call. */
static void ask__goes_to_the_next_when_the_arbiter_dies(void **state)
{
	(void)state;
	suite_open(4);
	struct cairn_digest d[40];
	for (size_t k = 0; k < 40; k++) d[k] = suite_digest();
	world_kill(suite_now, 3);
	for (size_t k = 0; k < 40; k++) suite_ask(0, &d[k], JOIN);
	world_kill(suite_now, 2);
	for (size_t k = 0; k < 40; k++) suite_ask(0, &d[k], JOIN);
}

/* One that says nothing is waited for as long as the caller likes, and then asked no more. */
static void ask__is_bounded_while_the_arbiter_is_silent(void **state)
{
	(void)state;
	suite_open(2);
	struct cairn_directory *dir = suite_node(0);
	const struct arbiters both = static_of(dir)->asked;
	struct cairn_digest d;
	do {
		d = suite_digest();
	} while (arbiter_of(&both, &d) == SLOT_SELF);
	world_cut(suite_now, 1);
	struct cairn_answer answer;
	struct cairn_err err = {0};
	int64_t from = static_now_ms();
	assert_int_equal(dir->ops->ask(dir, &d, true, true, 50, &answer, &err),
			 CAIRN_DEADLINE_EXCEEDED);
	assert_in_range(static_now_ms() - from, 50, 1500);
	EVENTUALLY(suite_members(0) == 1);
	answer = suite_ask(0, &d, MAY_GRANT); /* it is alone now */
	assert_true(answer.grant.ours);
	/* The one who did not answer then may have given us the grant: leaving ends it there, too.
	 */
	dir->ops->leave(dir, &d);
	world_heal(suite_now, 1);
	EVENTUALLY(suite_members(0) == 2 && suite_members(1) == 2);
	EVENTUALLY(grant_seen(1, &d).state == CAIRN_GRANT_FREE);
	assert_int_equal(finds_n(1, &d), 0);
}

static int by_value(const void *a, const void *b)
{
	int64_t x, y;
	memcpy(&x, a, sizeof(x));
	memcpy(&y, b, sizeof(y));
	return x < y ? -1 : x > y;
}

/* Printed, and bounded so that only a lost wake-up can break it. */
static void ask__is_quick_on_a_warm_link(void **state)
{
	(void)state;
	enum { ASKS = 500 };
	static int64_t ns[ASKS];
	suite_open(2);
	const struct arbiters both = static_of(suite_node(0))->asked;
	for (int k = 0; k < ASKS; k++) {
		struct cairn_digest d;
		do {
			d = suite_digest();
		} while (arbiter_of(&both, &d) == SLOT_SELF);
		int64_t from = cairn_boot_ns(&cairn_clock_system);
		suite_ask(0, &d, JOIN | MAY_GRANT);
		ns[k] = cairn_boot_ns(&cairn_clock_system) - from;
	}
	qsort(ns, ASKS, sizeof(ns[0]), by_value);
	printf("ask over a link: p50 %lld us, p99 %lld us\n", (long long)ns[ASKS / 2] / 1000,
	       (long long)ns[ASKS * 99 / 100] / 1000);
	assert_true(ns[ASKS / 2] < 100 * CAIRN_NS_PER_MS);
}

/* ---- what is answered ---- */

struct alone {
	struct cairn_hello own;
	struct cairn_directory *dir;
	struct cairn_static_reply reply;
	Cairn__Peer__V1__DirectoryRequest req;
	ProtobufCBinaryData digests[CAIRN_STATIC_BATCH + 1];
	uint8_t bytes[1 + CAIRN_DIGEST_MAX];
};

static struct alone *alone_open(void)
{
	struct alone *a = calloc(1, sizeof(*a));
	struct cairn_err err;
	assert_non_null(a);
	memcpy(a->own.address, "127.0.0.1:1", 12);
	const struct cairn_static_opts opts = {.own = &a->own};
	assert_int_equal(cairn_static_new(&opts, &a->dir, &err), CAIRN_OK);
	cairn__peer__v1__directory_request__init(&a->req);
	for (size_t i = 0; i < CAIRN_LEN(a->digests); i++) {
		a->digests[i] = (ProtobufCBinaryData){.len = 33, .data = a->bytes};
	}
	a->bytes[0] = CAIRN_SHA256;
	a->req.digests = a->digests;
	return a;
}

static enum cairn_code alone_ask(struct alone *a, const char *peer, int op, size_t n)
{
	a->req.op = (Cairn__Peer__V1__DirectoryRequest__Op)op;
	a->req.n_digests = n;
	cairn_static_answer(a->dir, peer, &a->req, &a->reply);
	/* Whatever it is, it can be sent. */
	assert_true(cairn__peer__v1__directory_response__get_packed_size(&a->reply.msg) <=
		    CAIRN_DIRECTORY_MAX);
	return (enum cairn_code)a->reply.msg.code;
}

static void alone_close(struct alone *a)
{
	a->dir->ops->close(a->dir, 1000);
	free(a);
}

static void answer__checks_what_it_is_asked(void **state)
{
	(void)state;
	struct alone *a = alone_open();
	const char *peer = "10.0.0.1:1";
	assert_int_equal(alone_ask(a, peer, OP_PING, 0), CAIRN_OK);
	assert_int_equal(alone_ask(a, peer, OP_ASK, 1), CAIRN_OK);
	assert_int_equal(alone_ask(a, peer, OP_ANNOUNCE, 0), CAIRN_OK);
	assert_int_equal(alone_ask(a, peer, OP_ANNOUNCE, CAIRN_STATIC_BATCH), CAIRN_OK);
	assert_int_equal(alone_ask(a, peer, -1, 1), CAIRN_UNIMPLEMENTED);
	assert_int_equal(alone_ask(a, peer, 7, 1), CAIRN_UNIMPLEMENTED);
	assert_int_equal(alone_ask(a, peer, OP_PING, 1), CAIRN_INVALID_ARGUMENT);
	assert_int_equal(alone_ask(a, peer, OP_ASK, 0), CAIRN_INVALID_ARGUMENT);
	assert_int_equal(alone_ask(a, peer, OP_TAKE, 2), CAIRN_INVALID_ARGUMENT);
	assert_int_equal(alone_ask(a, peer, OP_ANNOUNCE, CAIRN_STATIC_BATCH + 1),
			 CAIRN_INVALID_ARGUMENT);
	assert_int_equal(alone_ask(a, "127.0.0.1:1", OP_ASK, 1), CAIRN_FAILED_PRECONDITION);
	assert_int_equal(alone_ask(a, "", OP_ASK, 1), CAIRN_FAILED_PRECONDITION);
	for (size_t len = 0; len < 66; len++) { /* only sha256 is in bytes[0] */
		a->digests[0].len = len;
		assert_int_equal(alone_ask(a, peer, OP_ASK, 1),
				 len == 33 ? CAIRN_OK : CAIRN_INVALID_ARGUMENT);
	}
	a->digests[0].len = 33;
	a->bytes[0] = 0;
	assert_int_equal(alone_ask(a, peer, OP_ASK, 1), CAIRN_INVALID_ARGUMENT);
	a->bytes[0] = 3;
	assert_int_equal(alone_ask(a, peer, OP_KEEP, 1), CAIRN_INVALID_ARGUMENT);
	alone_close(a);
}

static void answer__tells_the_life_of_the_one_who_asks(void **state)
{
	(void)state;
	struct alone *a = alone_open();
	assert_int_equal(alone_ask(a, "10.0.0.1:1", OP_ANNOUNCE, 1), CAIRN_OK);
	uint64_t life = a->reply.msg.life;
	assert_true(life != 0);
	assert_int_equal(alone_ask(a, "10.0.0.2:1", OP_ASK, 1), CAIRN_OK);
	assert_int_equal(a->reply.msg.n_found, 1);
	assert_string_equal(a->reply.msg.found[0]->node, "10.0.0.1:1");
	assert_true(a->reply.msg.life != life);
	assert_int_equal(alone_ask(a, "10.0.0.1:1", OP_PING, 0), CAIRN_OK);
	assert_true(a->reply.msg.life == life);
	a->req.join = true; /* it begins anew */
	assert_int_equal(alone_ask(a, "10.0.0.1:1", OP_PING, 0), CAIRN_OK);
	a->req.join = false;
	assert_true(a->reply.msg.life != life && a->reply.msg.life != 0);
	assert_int_equal(alone_ask(a, "10.0.0.2:1", OP_ASK, 1), CAIRN_OK);
	assert_int_equal(a->reply.msg.n_found, 0);
	alone_close(a);
}

int main(void)
{
	suite_use(&static_world_ops);
	const struct CMUnitTest tests[] = {
		SUITE_CASE(names__stand_for_all_their_addresses),
		SUITE_CASE(names__that_are_not_found_at_first_are_found_later),
		SUITE_CASE(set_peers__keeps_who_stays),
		SUITE_CASE(health__says_that_it_starts),
		SUITE_CASE(names__of_oneself_and_of_others_twice_do_no_harm),
		SUITE_CASE(peers__that_are_none_are_refused),
		SUITE_CASE(arbiters__change_and_all_is_still_found),
		SUITE_CASE(arbiters__that_come_are_told_before_they_are_asked),
		SUITE_CASE(ask__goes_to_the_next_when_the_arbiter_dies),
		SUITE_CASE(ask__is_bounded_while_the_arbiter_is_silent),
		SUITE_CASE(ask__is_quick_on_a_warm_link),
		SUITE_CASE(answer__checks_what_it_is_asked),
		SUITE_CASE(answer__tells_the_life_of_the_one_who_asks),
	};
	return cmocka_run_group_tests_name("p2p/static/peers", tests, NULL, NULL);
}
