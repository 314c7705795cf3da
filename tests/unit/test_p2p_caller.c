/* Callers on the peers' port: what they say reaches the service and back, within bounds; who they
 * are is told; they have places of their own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>

#include "p2p/caller.h"
#include "p2p/pool.h"
#include "support/peers.h"
#include "support/until.h"

#define NAMES_MAX 8
#define MIB (1u << 20)

struct fixture {
	struct certs certs;
	struct cairn_tls_files *tls;
	struct cairn_hello hello;
	struct cairn_listener *listener;
	char address[CAIRN_ADDRESS_MAX];
	/* the service: each session is the fixture */
	_Atomic int fd; /* the newest session's */
	atomic_int opened, closed;
	atomic_bool refuse;
	size_t n_names;
	char names[NAMES_MAX][CAIRN_TLS_NAME_MAX];
};

static void *open_session(void *arg, int fd, const char *from, const char *const *names, size_t n,
			  struct cairn_err *err)
{
	struct fixture *f = arg;
	assert_int_equal(strncmp(from, "127.0.0.1:", 10), 0);
	if (atomic_load(&f->refuse)) {
		(void)close(fd);
		cairn_err_set(err, CAIRN_UNAVAILABLE, "as told");
		return NULL;
	}
	f->n_names = n;
	for (size_t i = 0; i < n && i < NAMES_MAX; i++) {
		snprintf(f->names[i], sizeof(f->names[i]), "%s", names[i]);
	}
	atomic_store(&f->fd, fd);
	atomic_fetch_add(&f->opened, 1);
	return f;
}

static void close_session(void *arg, void *session)
{
	struct fixture *f = arg;
	assert_ptr_equal(f, session);
	atomic_fetch_add(&f->closed, 1);
}

static void serve_peer(void *arg, struct cairn_conn *conn)
{
	(void)arg;
	(void)cairn_conn_wait(conn, -1, 60000);
}

static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct cairn_err err;
	assert_non_null(f);
	certs_init(&f->certs);
	certs_make(&f->certs, &(struct cert_spec){.name = "alice",
						  .san = "DNS:a.example,IP:10.0.0.1,IP:fd00::1,"
							 "URI:spiffe://c/a,email:a@b.example",
						  .usage = "clientAuth"});
	f->tls = peers_tls(&f->certs, "node");
	f->hello = peers_hello("127.0.0.1:1", 1);
	const struct cairn_listener_opts opts = {
		.listen = "127.0.0.1:0",
		.tls = f->tls,
		.own = &f->hello,
		.serve = serve_peer,
		.arg = f,
		.callers = {.open = open_session, .close = close_session, .arg = f},
	};
	cairn_tls_files_offer_h2(f->tls);
	if (cairn_listener_new(&opts, &f->listener, &err) != CAIRN_OK) fail_msg("%s", err.msg);
	if (cairn_listener_run(f->listener, &err) != CAIRN_OK) fail_msg("%s", err.msg);
	snprintf(f->address, sizeof(f->address), "127.0.0.1:%d", cairn_listener_port(f->listener));
	*state = f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;
	cairn_listener_free(f->listener);
	assert_int_equal(atomic_load(&f->opened), atomic_load(&f->closed));
	cairn_tls_files_free(f->tls);
	certs_fini(&f->certs);
	free(f);
	return 0;
}

/* ---- the caller ---- */

static SSL *call(struct fixture *f, const char *name)
{
	char path[160], file[64];
	SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
	assert_non_null(ctx);
	assert_int_equal(SSL_CTX_set_alpn_protos(ctx, (const unsigned char *)"\2h2", 3), 0);
	snprintf(file, sizeof(file), "%s.crt", name);
	assert_int_equal(SSL_CTX_use_certificate_file(ctx, certs_path(&f->certs, file, path),
						      SSL_FILETYPE_PEM),
			 1);
	snprintf(file, sizeof(file), "%s.key", name);
	assert_int_equal(SSL_CTX_use_PrivateKey_file(ctx, certs_path(&f->certs, file, path),
						     SSL_FILETYPE_PEM),
			 1);
	SSL *ssl = SSL_new(ctx);
	SSL_CTX_free(ctx);
	assert_int_equal(SSL_set_fd(ssl, peers_raw(f->address)), 1);
	assert_int_equal(SSL_connect(ssl), 1);
	return ssl;
}

static void hang_up(SSL *ssl)
{
	int fd = SSL_get_fd(ssl);
	SSL_free(ssl);
	(void)close(fd);
}

/* The service's end of the newest session, once it is there; it blocks. */
static int served(struct fixture *f, int opened)
{
	UNTIL(atomic_load(&f->opened) == opened);
	int fd = atomic_load(&f->fd);
	(void)fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
	return fd;
}

static size_t callers_now(struct fixture *f)
{
	struct cairn_listener_stats stats;
	cairn_listener_get_stats(f->listener, &stats);
	return stats.callers;
}

/* ---- tests ---- */

static void *echo(void *arg)
{
	int fd = *(int *)arg;
	uint8_t buf[5000];
	for (ssize_t n; (n = read(fd, buf, sizeof(buf))) > 0;) {
		assert_int_equal(send(fd, buf, (size_t)n, MSG_NOSIGNAL), n);
	}
	(void)close(fd);
	return NULL;
}

static void bytes__go_both_ways(void **state)
{
	struct fixture *f = *state;
	static uint8_t out[40000], in[40000];
	SSL *ssl = call(f, "alice");
	int fd = served(f, 1);
	pthread_t thread;
	assert_int_equal(pthread_create(&thread, NULL, echo, &fd), 0);
	for (unsigned round = 0; round < 100; round++) {
		for (size_t i = 0; i < sizeof(out); i++) out[i] = (uint8_t)(i * 31 + round);
		assert_int_equal(SSL_write(ssl, out, sizeof(out)), sizeof(out));
		for (size_t done = 0; done < sizeof(in);) {
			int n = SSL_read(ssl, in + done, (int)(sizeof(in) - done));
			assert_true(n > 0);
			done += (size_t)n;
		}
		assert_memory_equal(in, out, sizeof(in));
	}
	hang_up(ssl);
	pthread_join(thread, NULL); /* the service was told of the end */
	UNTIL(atomic_load(&f->closed) == 1 && callers_now(f) == 0);
}

static void names__are_told_whole(void **state)
{
	struct fixture *f = *state;
	static const char *const want[] = {"alice",   "a.example",    "10.0.0.1",
					   "fd00::1", "spiffe://c/a", "a@b.example"};
	SSL *ssl = call(f, "alice");
	(void)close(served(f, 1));
	assert_int_equal(f->n_names, CAIRN_LEN(want));
	for (size_t i = 0; i < CAIRN_LEN(want); i++) assert_string_equal(f->names[i], want[i]);
	hang_up(ssl);
}

static int64_t cpu_us(void)
{
	struct timespec use; /* of all threads; getrusage is behind with those that run */
	assert_int_equal(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &use), 0);
	return use.tv_sec * INT64_C(1000000) + use.tv_nsec / 1000;
}

/* All threads of ours wait, so that a quarter of a second costs next to nothing. */
static void assert_nobody_spins(void)
{
	int64_t before = cpu_us();
	assert_int_equal(poll(NULL, 0, 250), 0);
	assert_in_range(cpu_us() - before, 0, 100000);
}

static void caller_that_does_not_read__stops_the_service(void **state)
{
	struct fixture *f = *state;
	static uint8_t buf[65536];
	SSL *ssl = call(f, "alice");
	int fd = served(f, 1);
	assert_int_equal(SSL_write(ssl, "x", 1), 1);
	size_t sent = 0;
	for (;;) {
		struct pollfd room = {fd, POLLOUT, 0};
		if (poll(&room, 1, 300) == 0) break;
		ssize_t n = send(fd, buf, sizeof(buf), MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n > 0) sent += (size_t)n;
		assert_in_range(sent, 0, 32 * MIB); /* what the kernel's buffers take */
	}
	assert_nobody_spins();
	(void)close(fd); /* what it said still goes, when the caller reads */
	assert_nobody_spins();
	assert_int_equal(atomic_load(&f->closed), 0);
	for (int n; (n = SSL_read(ssl, buf, sizeof(buf))) > 0;) sent -= (size_t)n;
	assert_int_equal(sent, 0);
	UNTIL(atomic_load(&f->closed) == 1);
	hang_up(ssl);
}

static void service_that_does_not_read__stops_the_caller(void **state)
{
	struct fixture *f = *state;
	static uint8_t buf[65536];
	SSL *ssl = call(f, "alice");
	int fd = served(f, 1), own = SSL_get_fd(ssl);
	(void)fcntl(own, F_SETFL, fcntl(own, F_GETFL) | O_NONBLOCK);
	SSL_set_mode(ssl, SSL_MODE_ENABLE_PARTIAL_WRITE);
	for (size_t sent = 0;;) {
		int n = SSL_write(ssl, buf, sizeof(buf));
		if (n > 0) sent += (size_t)n;
		assert_in_range(sent, 0, 32 * MIB);
		struct pollfd room = {own, POLLOUT, 0};
		if (n <= 0 && poll(&room, 1, 300) == 0) break;
	}
	assert_nobody_spins();
	hang_up(ssl); /* with bytes on their way: reset, or not */
	assert_nobody_spins();
	(void)close(fd);
	UNTIL(atomic_load(&f->closed) == 1);
}

static void service__may_refuse_and_may_end(void **state)
{
	struct fixture *f = *state;
	char byte;
	atomic_store(&f->refuse, true);
	SSL *ssl = call(f, "alice");
	assert_true(SSL_read(ssl, &byte, 1) <= 0);
	hang_up(ssl);
	atomic_store(&f->refuse, false);
	ssl = call(f, "alice");
	int fd = served(f, 1);
	assert_int_equal(send(fd, "bye", 3, MSG_NOSIGNAL), 3);
	(void)close(fd);
	char words[8];
	assert_int_equal(SSL_read(ssl, words, sizeof(words)), 3);
	assert_true(SSL_read(ssl, words, sizeof(words)) <= 0);
	hang_up(ssl);
}

static void end_of_the_listener__ends_callers(void **state)
{
	struct fixture *f = *state;
	char byte;
	SSL *ssl = call(f, "alice");
	int fd = served(f, 1);
	cairn_listener_free(cairn_steal(&f->listener));
	assert_int_equal(atomic_load(&f->closed), 1);
	assert_int_equal(read(fd, &byte, 1), 0);
	(void)close(fd);
	hang_up(ssl);
}

static void callers__have_places_of_their_own(void **state)
{
	struct fixture *f = *state;
	struct cairn_hello hello = peers_hello("127.0.0.1:2", 2);
	struct cairn_conn *peer;
	struct cairn_err err;
	SSL *ssl[CAIRN_LISTENER_CALLERS + 1];
	int fds[CAIRN_LISTENER_CALLERS];
	char byte;
	for (int i = 0; i < CAIRN_LISTENER_CALLERS; i++) {
		ssl[i] = call(f, "alice");
		fds[i] = served(f, i + 1);
	}
	ssl[CAIRN_LISTENER_CALLERS] = call(f, "alice");
	assert_true(SSL_read(ssl[CAIRN_LISTENER_CALLERS], &byte, 1) <= 0);
	assert_int_equal(callers_now(f), CAIRN_LISTENER_CALLERS);
	if (cairn_conn_dial(f->tls, f->address, &hello, PEERS_MS, &peer, &err) != CAIRN_OK) {
		fail_msg("%s", err.msg);
	}
	struct cairn_listener_stats stats;
	UNTIL((cairn_listener_get_stats(f->listener, &stats), stats.connections == 1));
	cairn_conn_free(peer);
	hang_up(ssl[0]);
	UNTIL(callers_now(f) == CAIRN_LISTENER_CALLERS - 1);
	(void)close(fds[0]);
	ssl[0] = call(f, "alice");
	fds[0] = served(f, CAIRN_LISTENER_CALLERS + 1);
	for (int i = 0; i <= CAIRN_LISTENER_CALLERS; i++) hang_up(ssl[i]);
	UNTIL(callers_now(f) == 0);
	for (int i = 0; i < CAIRN_LISTENER_CALLERS; i++) (void)close(fds[i]);
}

static void caller_that_says_nothing__is_closed(void **state)
{
	struct fixture *f = *state;
	char byte;
	SSL *ssl = call(f, "alice");
	int fd = served(f, 1);
	int64_t begun = cairn_boot_ns(&cairn_clock_system);
	assert_int_equal(send(fd, "settings", 8, MSG_NOSIGNAL), 8);
	assert_int_equal(read(fd, &byte, 1), 0);
	int64_t ms = (cairn_boot_ns(&cairn_clock_system) - begun) / CAIRN_NS_PER_MS;
	assert_in_range(ms, CAIRN_CALLER_FIRST_MS - 100, CAIRN_CALLER_FIRST_MS + 5000);
	(void)close(fd);
	hang_up(ssl);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(bytes__go_both_ways, set_up, tear_down),
		cmocka_unit_test_setup_teardown(names__are_told_whole, set_up, tear_down),
		cmocka_unit_test_setup_teardown(caller_that_does_not_read__stops_the_service,
						set_up, tear_down),
		cmocka_unit_test_setup_teardown(service_that_does_not_read__stops_the_caller,
						set_up, tear_down),
		cmocka_unit_test_setup_teardown(service__may_refuse_and_may_end, set_up, tear_down),
		cmocka_unit_test_setup_teardown(end_of_the_listener__ends_callers, set_up,
						tear_down),
		cmocka_unit_test_setup_teardown(callers__have_places_of_their_own, set_up,
						tear_down),
		cmocka_unit_test_setup_teardown(caller_that_says_nothing__is_closed, set_up,
						tear_down),
	};
	(void)signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests_name("p2p/caller", tests, NULL, NULL);
}
