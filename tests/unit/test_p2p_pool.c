/* The pool of connections that we made, and the listener that takes those of others. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <sys/resource.h>

#include "base/log.h"
#include "p2p/pool.h"
#include "peer.pb-c.h"
#include "support/peers.h"
#include "support/until.h"

#define OK(call)                                                                                   \
	do {                                                                                       \
		if ((call) != CAIRN_OK) fail_msg("%s: %s", #call, err.msg);                        \
	} while (0)

struct fixture {
	struct certs certs;
	struct cairn_tls_files *tls; /* NULL: plain text */
	struct cairn_hello server_hello, client_hello;
	struct cairn_listener *listener;
	struct cairn_pool *pool;
	char address[CAIRN_ADDRESS_MAX];
	atomic_int serving;
	atomic_bool hang_up; /* the server ends a connection after one question */
};

/* Answers each Get with the same. */
static void echo(void *arg, struct cairn_conn *conn)
{
	struct fixture *f = arg;
	struct cairn_err err;
	struct cairn_frame frame;
	ProtobufCMessage *msg;
	atomic_fetch_add(&f->serving, 1);
	for (;;) {
		if (cairn_conn_wait(conn, -1, 60000) != CAIRN_CONN_READABLE ||
		    cairn_conn_read_head(conn, PEERS_MS, &frame, &err) != CAIRN_OK ||
		    cairn_conn_read_message(conn, &frame, &cairn__peer__v1__get__descriptor,
					    PEERS_MS, &msg, &err) != CAIRN_OK) {
			break;
		}
		enum cairn_code rc =
			cairn_conn_send_message(conn, CAIRN_FRAME_GET, msg, PEERS_MS, &err);
		protobuf_c_message_free_unpacked(msg, NULL);
		if (rc != CAIRN_OK || cairn_conn_flush(conn, PEERS_MS, &err) != CAIRN_OK) break;
		if (atomic_load(&f->hang_up)) break;
	}
	atomic_fetch_sub(&f->serving, 1);
}

static void ask(struct cairn_conn *conn, uint32_t piece)
{
	struct cairn_err err;
	struct cairn_frame frame;
	ProtobufCMessage *msg;
	Cairn__Peer__V1__Get get = CAIRN__PEER__V1__GET__INIT;
	get.piece = piece;
	OK(cairn_conn_send_message(conn, CAIRN_FRAME_GET, &get.base, PEERS_MS, &err));
	OK(cairn_conn_read_head(conn, PEERS_MS, &frame, &err));
	OK(cairn_conn_read_message(conn, &frame, &cairn__peer__v1__get__descriptor, PEERS_MS, &msg,
				   &err));
	assert_int_equal(((Cairn__Peer__V1__Get *)msg)->piece, piece);
	protobuf_c_message_free_unpacked(msg, NULL);
}

static struct cairn_listener *listen_at(struct fixture *f, const char *address)
{
	struct cairn_err err;
	struct cairn_listener *listener = NULL;
	OK(cairn_listener_new(&(struct cairn_listener_opts){.listen = address,
							    .tls = f->tls,
							    .own = &f->server_hello,
							    .serve = echo,
							    .arg = f},
			      &listener, &err));
	return listener;
}

static int setup_with(void **state, bool tls)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct cairn_err err;
	if (f == NULL || certs_init(&f->certs) != 0) return -1;
	if (tls) f->tls = peers_tls(&f->certs, "node");
	f->server_hello = peers_hello("127.0.0.1:1", 1);
	f->client_hello = peers_hello("127.0.0.1:2", 2);
	f->listener = listen_at(f, "127.0.0.1:0");
	snprintf(f->address, sizeof(f->address), "127.0.0.1:%d", cairn_listener_port(f->listener));
	OK(cairn_listener_run(f->listener, &err));
	f->pool = cairn_pool_new(f->tls, &f->client_hello);
	*state = f;
	return 0;
}

static int setup_plain(void **state)
{
	return setup_with(state, false);
}

static int setup_tls(void **state)
{
	return setup_with(state, true);
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	cairn_pool_free(f->pool);
	cairn_listener_free(f->listener);
	assert_int_equal(f->serving, 0); /* all threads were joined */
	cairn_tls_files_free(f->tls);
	certs_fini(&f->certs);
	free(f);
	return 0;
}

static struct cairn_listener_stats stats(struct fixture *f)
{
	struct cairn_listener_stats stats;
	cairn_listener_get_stats(f->listener, &stats);
	return stats;
}

static struct cairn_conn *take(struct fixture *f, bool fresh_only, bool expect_fresh)
{
	struct cairn_err err;
	struct cairn_conn *conn = NULL;
	bool fresh = !expect_fresh;
	OK(cairn_pool_take(f->pool, f->address, fresh_only, PEERS_MS, &conn, &fresh, &err));
	assert_int_equal(fresh, expect_fresh);
	return conn;
}

/* ---- the pool ---- */

static void a_connection_that_was_given_back__is_used_again(void **state)
{
	struct fixture *f = *state;
	for (uint32_t i = 0; i < 5; i++) {
		struct cairn_conn *conn = take(f, false, i == 0);
		ask(conn, i);
		cairn_pool_give(f->pool, &conn, true);
		assert_null(conn);
	}
	struct cairn_conn *a = take(f, false, false), *b = take(f, false, true);
	assert_int_equal(cairn_pool_count(f->pool), 2);
	cairn_pool_give(f->pool, &a, true);
	a = take(f, true, true); /* a new one, though there is an idle one */
	assert_int_equal(cairn_pool_count(f->pool), 3);
	cairn_pool_give(f->pool, &a, false);
	cairn_pool_give(f->pool, &b, true);
	assert_int_equal(cairn_pool_count(f->pool), 2);
	UNTIL(stats(f).accepted == 3);
}

static void one_that_the_other_side_closed__is_not_given_out(void **state)
{
	struct fixture *f = *state;
	struct cairn_conn *conn = take(f, false, true);
	ask(conn, 1);
	cairn_pool_give(f->pool, &conn, true);
	assert_int_equal(cairn_pool_count(f->pool), 1);
	cairn_listener_free(f->listener); /* closes it */
	f->listener = listen_at(f, f->address);
	struct cairn_err err;
	OK(cairn_listener_run(f->listener, &err));
	conn = take(f, false, true);
	ask(conn, 2);
	cairn_pool_give(f->pool, &conn, true);
	assert_int_equal(cairn_pool_count(f->pool), 1);
}

/* An answer that nobody read would be taken for the answer to the next question. */
static void one_with_something_unread__is_not_kept(void **state)
{
	struct fixture *f = *state;
	struct cairn_err err;
	struct cairn_conn *conn = take(f, false, true);
	Cairn__Peer__V1__Get get = CAIRN__PEER__V1__GET__INIT;
	OK(cairn_conn_send_message(conn, CAIRN_FRAME_GET, &get.base, PEERS_MS, &err));
	assert_int_equal(cairn_conn_wait(conn, -1, PEERS_MS), CAIRN_CONN_READABLE);
	cairn_pool_give(f->pool, &conn, true);
	assert_int_equal(cairn_pool_count(f->pool), 0);
}

static void idle_ones__go_after_a_while(void **state)
{
	struct fixture *f = *state;
	struct cairn_conn *a = take(f, false, true), *b = take(f, false, true);
	cairn_pool_give(f->pool, &a, true);
	int64_t now = cairn_boot_ns(&cairn_clock_system);
	cairn_pool_expire(f->pool, now + (CAIRN_POOL_IDLE_MS - 2000) * CAIRN_NS_PER_MS);
	assert_int_equal(cairn_pool_count(f->pool), 2);
	cairn_pool_expire(f->pool, now + (CAIRN_POOL_IDLE_MS + 2000) * CAIRN_NS_PER_MS);
	assert_int_equal(cairn_pool_count(f->pool), 1); /* the taken one stays */
	ask(b, 1);
	cairn_pool_give(f->pool, &b, true);
	UNTIL(stats(f).connections == 1);
}

static void too_many_idle_ones__the_oldest_goes(void **state)
{
	struct fixture *f = *state;
	static struct cairn_conn *conns[CAIRN_POOL_IDLE_MAX + 1];
	for (size_t i = 0; i < CAIRN_LEN(conns); i++) conns[i] = take(f, true, true);
	for (size_t i = 0; i < CAIRN_LEN(conns); i++) cairn_pool_give(f->pool, &conns[i], true);
	assert_int_equal(cairn_pool_count(f->pool), CAIRN_POOL_IDLE_MAX);
	UNTIL(stats(f).connections == CAIRN_POOL_IDLE_MAX);
}

struct taker {
	struct fixture *f;
	const char *address;
	pthread_t thread;
	enum cairn_code rc;
};

/* Dials who says nothing, or holds a connection and waits on it. */
static void *take_and_wait(void *arg)
{
	struct taker *t = arg;
	struct cairn_conn *conn = NULL;
	struct cairn_frame frame;
	struct cairn_err err;
	bool fresh;
	t->rc = cairn_pool_take(t->f->pool, t->address, false, 60000, &conn, &fresh, &err);
	if (t->rc != CAIRN_OK) return NULL;
	t->rc = cairn_conn_read_head(conn, 60000, &frame, &err);
	cairn_pool_give(t->f->pool, &conn, true);
	return NULL;
}

static void cancel__ends_dials_and_interrupts_what_is_taken(void **state)
{
	struct fixture *f = *state;
	struct cairn_err err;
	char silent[CAIRN_ADDRESS_MAX];
	int fd = peers_listen(8, silent);
	struct taker takers[] = {{.f = f, .address = silent}, {.f = f, .address = f->address}};
	for (size_t i = 0; i < 2; i++)
		pthread_create(&takers[i].thread, NULL, take_and_wait, &takers[i]);
	UNTIL(cairn_pool_count(f->pool) == 2);
	UNTIL(f->serving == 1);
	cairn_pool_cancel(f->pool);
	for (size_t i = 0; i < 2; i++) {
		pthread_join(takers[i].thread, NULL);
		assert_int_equal(takers[i].rc, CAIRN_CANCELLED);
	}
	assert_int_equal(cairn_pool_count(f->pool), 0);
	struct cairn_conn *conn;
	bool fresh;
	for (int i = 0; i < 2; i++)
		assert_int_equal(
			cairn_pool_take(f->pool, f->address, i == 1, PEERS_MS, &conn, &fresh, &err),
			CAIRN_CANCELLED);
	close(fd);
}

struct worker {
	struct fixture *f;
	pthread_t thread;
	int done;
};

static void *take_ask_give(void *arg)
{
	struct worker *w = arg;
	struct cairn_err err;
	struct cairn_conn *conn = NULL;
	for (uint32_t i = 0; i < 50; i++) {
		bool fresh;
		if (cairn_pool_take(w->f->pool, w->f->address, i % 16 == 0, PEERS_MS, &conn, &fresh,
				    &err) != CAIRN_OK) {
			break;
		}
		ask(conn, i);
		cairn_pool_give(w->f->pool, &conn, i % 8 != 3);
		w->done++;
	}
	return NULL;
}

static void many_threads__share_it(void **state)
{
	struct fixture *f = *state;
	struct worker workers[8];
	for (size_t i = 0; i < CAIRN_LEN(workers); i++) {
		workers[i] = (struct worker){.f = f};
		pthread_create(&workers[i].thread, NULL, take_ask_give, &workers[i]);
	}
	for (size_t i = 0; i < CAIRN_LEN(workers); i++) {
		pthread_join(workers[i].thread, NULL);
		assert_int_equal(workers[i].done, 50);
	}
	UNTIL(stats(f).connections == cairn_pool_count(f->pool));
}

/* ---- the listener ---- */

static void addresses__of_both_families_and_wildcards(void **state)
{
	struct fixture *f = *state;
	struct cairn_err err;
	static const char *const pairs[][2] = {{"0.0.0.0:0", "127.0.0.1"},
					       {"[::1]:0", "[::1]"},
					       {"[::]:0", "[::1]"},
					       {"[::]:0", "127.0.0.1"},
					       {"localhost:0", "localhost"}};
	for (size_t i = 0; i < CAIRN_LEN(pairs); i++) {
		cairn_listener_free(f->listener);
		f->listener = listen_at(f, pairs[i][0]);
		OK(cairn_listener_run(f->listener, &err));
		snprintf(f->address, sizeof(f->address), "%s:%d", pairs[i][1],
			 cairn_listener_port(f->listener));
		struct cairn_conn *conn = take(f, true, true);
		ask(conn, 1);
		cairn_pool_give(f->pool, &conn, true);
	}
	struct cairn_listener *other;
	struct cairn_listener_opts opts = {.listen = f->address, .own = &f->server_hello};
	snprintf(f->address, sizeof(f->address), "127.0.0.1:%d", cairn_listener_port(f->listener));
	assert_int_equal(cairn_listener_new(&opts, &other, &err), CAIRN_INTERNAL);
	assert_non_null(strstr(err.msg, "Address already in use"));
	opts.listen = "nonsense";
	assert_int_equal(cairn_listener_new(&opts, &other, &err), CAIRN_INVALID_ARGUMENT);
	opts.listen = "no.such.host.invalid:0";
	assert_int_equal(cairn_listener_new(&opts, &other, &err), CAIRN_INVALID_ARGUMENT);
}

static void nothing_is_accepted__before_it_runs(void **state)
{
	struct fixture *f = *state;
	struct cairn_err err;
	struct cairn_conn *conn;
	bool fresh;
	cairn_listener_free(f->listener);
	f->listener = listen_at(f, "127.0.0.1:0");
	snprintf(f->address, sizeof(f->address), "127.0.0.1:%d", cairn_listener_port(f->listener));
	assert_int_equal(cairn_pool_take(f->pool, f->address, false, 50, &conn, &fresh, &err),
			 CAIRN_UNAVAILABLE);
	OK(cairn_listener_run(f->listener, &err));
	conn = take(f, false, true);
	ask(conn, 1);
	cairn_pool_give(f->pool, &conn, true);
}

static void garbage__is_refused_and_counted(void **state)
{
	struct fixture *f = *state;
	static const char *const garbage[] = {"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
					      "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "\x01"};
	for (size_t i = 0; i < CAIRN_LEN(garbage); i++) {
		int fd = peers_raw(f->address);
		char buf[4096];
		assert_int_equal(write(fd, garbage[i], strlen(garbage[i])), strlen(garbage[i]));
		if (i == CAIRN_LEN(garbage) - 1) shutdown(fd, SHUT_WR);
		while (read(fd, buf, sizeof(buf)) > 0) continue;
		close(fd);
		UNTIL(stats(f).refused == i + 1);
	}
	UNTIL(stats(f).connections == 0);
	struct cairn_conn *conn = take(f, false, true);
	ask(conn, 1);
	cairn_pool_give(f->pool, &conn, true);
}

/* More strangers who say nothing than there may be handshakes: who is a node still gets in. */
static void silent_strangers__do_not_keep_nodes_out(void **state)
{
	struct fixture *f = *state;
	int fds[CAIRN_LISTENER_HANDSHAKES + 8];
	for (size_t i = 0; i < CAIRN_LEN(fds); i++) fds[i] = peers_raw(f->address);
	UNTIL(stats(f).connections == CAIRN_LISTENER_HANDSHAKES); /* not more */
	struct cairn_conn *conn = take(f, false, true);
	ask(conn, 1);
	assert_true(stats(f).refused >= 9);
	for (size_t i = 0; i < CAIRN_LEN(fds); i++) close(fds[i]);
	cairn_pool_give(f->pool, &conn, true);
}

static void more_connections_than_there_may_be__are_closed_at_once(void **state)
{
	struct fixture *f = *state;
	struct cairn_err err;
	struct rlimit limit;
	static struct cairn_conn *conns[CAIRN_LISTENER_MAX];
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	limit.rlim_cur = limit.rlim_max;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
	if (limit.rlim_cur < 4 * CAIRN_LISTENER_MAX + 100) skip();
	for (size_t i = 0; i < CAIRN_LEN(conns); i++) conns[i] = take(f, true, true);
	struct cairn_conn *conn;
	bool fresh;
	assert_int_equal(cairn_pool_take(f->pool, f->address, true, PEERS_MS, &conn, &fresh, &err),
			 CAIRN_UNAVAILABLE);
	assert_int_equal(stats(f).connections, CAIRN_LISTENER_MAX);
	assert_int_equal(stats(f).refused, 1);
	ask(conns[0], 1);
	cairn_pool_give(f->pool, &conns[1], false); /* one goes: there is room again */
	UNTIL(stats(f).connections == CAIRN_LISTENER_MAX - 1);
	conns[1] = take(f, true, true);
	ask(conns[1], 1);
	for (size_t i = 0; i < CAIRN_LEN(conns); i++) cairn_pool_give(f->pool, &conns[i], false);
}

#define BOTH(name)                                                                                 \
	{#name " (plain)", name, setup_plain, teardown, NULL},                                     \
	{                                                                                          \
#name " (tls)", name, setup_tls, teardown, NULL                                    \
	}

int main(void)
{
	cairn_log_set_level(CAIRN_LOG_ERROR);
	const struct CMUnitTest tests[] = {
		BOTH(a_connection_that_was_given_back__is_used_again),
		BOTH(one_that_the_other_side_closed__is_not_given_out),
		BOTH(one_with_something_unread__is_not_kept),
		BOTH(idle_ones__go_after_a_while),
		BOTH(too_many_idle_ones__the_oldest_goes),
		BOTH(cancel__ends_dials_and_interrupts_what_is_taken),
		BOTH(many_threads__share_it),
		BOTH(addresses__of_both_families_and_wildcards),
		BOTH(nothing_is_accepted__before_it_runs),
		BOTH(garbage__is_refused_and_counted),
		BOTH(silent_strangers__do_not_keep_nodes_out),
		BOTH(more_connections_than_there_may_be__are_closed_at_once),
	};
	return cmocka_run_group_tests_name("p2p/pool", tests, NULL, NULL);
}
