/* Connections between peers: frames, deadlines, interrupts, Hellos; each with TLS and without. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <poll.h>
#include <sys/eventfd.h>

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
	struct cairn_conn *client, *server;
};

static int setup_with(void **state, bool tls)
{
	struct fixture *f = calloc(1, sizeof(*f));
	if (f == NULL || certs_init(&f->certs) != 0) return -1;
	if (tls) f->tls = peers_tls(&f->certs, "node");
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
	cairn_conn_free(f->client);
	cairn_conn_free(f->server);
	cairn_tls_files_free(f->tls);
	certs_fini(&f->certs);
	free(f);
	return 0;
}

static int64_t now_ms(void)
{
	return cairn_boot_ns(&cairn_clock_system) / CAIRN_NS_PER_MS;
}

static void send_get(struct cairn_conn *conn, uint32_t piece)
{
	struct cairn_err err;
	Cairn__Peer__V1__Get get = CAIRN__PEER__V1__GET__INIT;
	get.piece = piece;
	OK(cairn_conn_send_message(conn, CAIRN_FRAME_GET, &get.base, PEERS_MS, &err));
}

static uint32_t read_get(struct cairn_conn *conn)
{
	struct cairn_err err;
	struct cairn_frame frame;
	ProtobufCMessage *msg;
	OK(cairn_conn_read_head(conn, PEERS_MS, &frame, &err));
	assert_int_equal(frame.type, CAIRN_FRAME_GET);
	OK(cairn_conn_read_message(conn, &frame, &cairn__peer__v1__get__descriptor, PEERS_MS, &msg,
				   &err));
	uint32_t piece = ((Cairn__Peer__V1__Get *)msg)->piece;
	protobuf_c_message_free_unpacked(msg, NULL);
	return piece;
}

/* ---- frames ---- */

static void hello__tells_each_of_the_other(void **state)
{
	struct fixture *f = *state;
	peers_connect(f->tls, &f->client, &f->server);
	assert_string_equal(cairn_conn_name(f->client), "node-1");
	assert_string_equal(cairn_conn_name(f->server), "node-2");
	assert_string_equal(cairn_conn_address(f->server), "10.9.8.7:4444");
	assert_int_equal(cairn_conn_instance(f->client)[0], 1);
	assert_int_equal(cairn_conn_instance(f->server)[0], 2);
	const char *name = f->tls != NULL ? "node.example" : "";
	assert_string_equal(cairn_conn_certificate(f->client), name);
	assert_string_equal(cairn_conn_certificate(f->server), name);
}

static void messages__go_both_ways_and_small_ones_are_collected(void **state)
{
	struct fixture *f = *state;
	struct cairn_err err;
	peers_connect(f->tls, &f->client, &f->server);
	for (uint32_t i = 0; i < 100; i++) send_get(f->client, i);
	assert_int_equal(cairn_conn_wait(f->server, -1, 20), CAIRN_CONN_TIMEOUT); /* collected */
	OK(cairn_conn_flush(f->client, PEERS_MS, &err));
	assert_int_equal(cairn_conn_wait(f->server, -1, PEERS_MS), CAIRN_CONN_READABLE);
	for (uint32_t i = 0; i < 100; i++) assert_int_equal(read_get(f->server), i);
	assert_true(cairn_conn_quiet(f->server));
	assert_true(cairn_conn_quiet(f->client));

	/* A wait sends what was collected, too. */
	send_get(f->server, 7);
	assert_false(cairn_conn_quiet(f->server));
	assert_int_equal(cairn_conn_wait(f->server, -1, 0), CAIRN_CONN_TIMEOUT);
	assert_int_equal(read_get(f->client), 7);
}

struct bulk {
	struct cairn_conn *conn;
	uint8_t *data;
	size_t n;
	enum cairn_code rc;
	struct cairn_err err;
	int64_t timeout_ms;
};

static void *send_bulk(void *arg)
{
	struct bulk *b = arg;
	const struct cairn_frame frame = {.type = CAIRN_FRAME_PIECE, .len = (uint32_t)b->n};
	b->rc = cairn_conn_send_head(b->conn, &frame, b->timeout_ms, &b->err);
	for (size_t at = 0, part = 1; b->rc == CAIRN_OK && at < b->n; at += part, part *= 3) {
		if (part > b->n - at) part = b->n - at;
		b->rc = cairn_conn_send(b->conn, b->data + at, part, b->timeout_ms, &b->err);
	}
	if (b->rc == CAIRN_OK) b->rc = cairn_conn_flush(b->conn, b->timeout_ms, &b->err);
	return NULL;
}

static void bulk_init(struct bulk *b, struct cairn_conn *conn, size_t n)
{
	*b = (struct bulk){.conn = conn, .data = malloc(n), .n = n, .timeout_ms = PEERS_MS};
	assert_non_null(b->data);
	for (size_t i = 0; i < n; i++) b->data[i] = (uint8_t)(i * 2654435761u >> 13);
}

static void pieces__arrive_whole_in_parts_of_any_size(void **state)
{
	struct fixture *f = *state;
	struct cairn_err err;
	struct cairn_frame frame;
	struct bulk b;
	pthread_t thread;
	peers_connect(f->tls, &f->client, &f->server);
	bulk_init(&b, f->server, (5u << 20) + 3);
	assert_int_equal(pthread_create(&thread, NULL, send_bulk, &b), 0);
	OK(cairn_conn_read_head(f->client, PEERS_MS, &frame, &err));
	assert_int_equal(frame.len, b.n);
	uint8_t *buf = malloc(b.n);
	assert_non_null(buf);
	for (size_t done = 0, got, step = 1; done < b.n; done += got, step = step * 2 + 1) {
		OK(cairn_conn_read_some(f->client, buf + done, step, PEERS_MS, &got, &err));
		assert_in_range(got, 1, step);
	}
	pthread_join(thread, NULL);
	assert_int_equal(b.rc, CAIRN_OK);
	assert_memory_equal(buf, b.data, b.n);
	assert_true(cairn_conn_quiet(f->client));
	free(buf);
	free(b.data);
}

static void a_payload_that_nobody_reads__is_skipped(void **state)
{
	struct fixture *f = *state;
	struct cairn_err err;
	struct cairn_frame frame;
	struct bulk b;
	pthread_t thread;
	peers_connect(f->tls, &f->client, &f->server);
	bulk_init(&b, f->server, 300000);
	assert_int_equal(pthread_create(&thread, NULL, send_bulk, &b), 0);
	OK(cairn_conn_read_head(f->client, PEERS_MS, &frame, &err));
	uint8_t some[10];
	size_t got;
	OK(cairn_conn_read_some(f->client, some, sizeof(some), PEERS_MS, &got, &err));
	pthread_join(thread, NULL);
	send_get(f->server, 5);
	OK(cairn_conn_flush(f->server, PEERS_MS, &err));
	assert_int_equal(read_get(f->client), 5);
	free(b.data);
}

static void reading_beyond_a_frame__is_an_error(void **state)
{
	struct fixture *f = *state;
	struct cairn_err err;
	struct cairn_frame frame;
	uint8_t buf[64];
	size_t got, done = 0;
	peers_connect(f->tls, &f->client, &f->server);
	send_get(f->server, 5);
	send_get(f->server, 6);
	OK(cairn_conn_flush(f->server, PEERS_MS, &err));
	OK(cairn_conn_read_head(f->client, PEERS_MS, &frame, &err));
	for (; done < frame.len; done += got) {
		OK(cairn_conn_read_some(f->client, buf, sizeof(buf), PEERS_MS, &got, &err));
		assert_in_range(got, 1, frame.len);
	}
	assert_int_equal(cairn_conn_read_some(f->client, buf, sizeof(buf), PEERS_MS, &got, &err),
			 CAIRN_INVALID_ARGUMENT);
	/* An error ends it. */
	assert_int_equal(cairn_conn_read_head(f->client, PEERS_MS, &frame, &err),
			 CAIRN_UNAVAILABLE);
	assert_int_equal(cairn_conn_wait(f->client, -1, PEERS_MS), CAIRN_CONN_READABLE);
	assert_false(cairn_conn_quiet(f->client));
}

static void nonsense__is_no_frame_and_no_message(void **state)
{
	struct fixture *f = *state;
	struct cairn_err err;
	struct cairn_frame frame;
	ProtobufCMessage *msg;
	peers_connect(f->tls, &f->client, &f->server);
	/* A message that is none. */
	frame = (struct cairn_frame){.type = CAIRN_FRAME_GET, .len = 5};
	OK(cairn_conn_send_head(f->server, &frame, PEERS_MS, &err));
	OK(cairn_conn_send(f->server, "\xff\xff\xff\xff\xff", 5, PEERS_MS, &err));
	OK(cairn_conn_flush(f->server, PEERS_MS, &err));
	OK(cairn_conn_read_head(f->client, PEERS_MS, &frame, &err));
	assert_int_equal(cairn_conn_read_message(f->client, &frame,
						 &cairn__peer__v1__get__descriptor, PEERS_MS, &msg,
						 &err),
			 CAIRN_INVALID_ARGUMENT);
	/* A head that is none; and we do not send such ones ourselves. */
	OK(cairn_conn_send(f->server, "\xff\xff\xff\xff\x05\0\0\0", 8, PEERS_MS, &err));
	frame = (struct cairn_frame){.type = CAIRN_FRAME_GET, .len = CAIRN_HELLO_MAX + 1};
	assert_int_equal(cairn_conn_send_head(f->server, &frame, PEERS_MS, &err),
			 CAIRN_INVALID_ARGUMENT);
}

/* ---- time ---- */

static void silence__hits_the_deadline(void **state)
{
	struct fixture *f = *state;
	struct cairn_err err;
	struct cairn_frame frame;
	peers_connect(f->tls, &f->client, &f->server);
	int64_t begin = now_ms();
	assert_int_equal(cairn_conn_wait(f->client, -1, 30), CAIRN_CONN_TIMEOUT);
	assert_in_range(now_ms() - begin, 29, 5000);
	assert_int_equal(cairn_conn_read_head(f->client, 30, &frame, &err),
			 CAIRN_DEADLINE_EXCEEDED);
	assert_in_range(now_ms() - begin, 59, 10000);
}

static void half_a_frame_then_silence__hits_the_deadline(void **state)
{
	struct fixture *f = *state;
	struct cairn_err err;
	struct cairn_frame frame = {.type = CAIRN_FRAME_DESCRIPTION, .len = 1000};
	ProtobufCMessage *msg;
	peers_connect(f->tls, &f->client, &f->server);
	OK(cairn_conn_send_head(f->server, &frame, PEERS_MS, &err));
	OK(cairn_conn_send(f->server, "abc", 3, PEERS_MS, &err));
	OK(cairn_conn_flush(f->server, PEERS_MS, &err));
	OK(cairn_conn_read_head(f->client, PEERS_MS, &frame, &err));
	assert_int_equal(cairn_conn_read_message(f->client, &frame,
						 &cairn__peer__v1__description__descriptor, 30,
						 &msg, &err),
			 CAIRN_DEADLINE_EXCEEDED);
}

static void who_takes_nothing__hits_the_deadline(void **state)
{
	struct fixture *f = *state;
	struct bulk b;
	peers_connect(f->tls, &f->client, &f->server);
	bulk_init(&b, f->server, CAIRN_PIECE_MAX);
	b.timeout_ms = 100;
	(void)send_bulk(&b);
	assert_int_equal(b.rc, CAIRN_DEADLINE_EXCEEDED);
	free(b.data);
}

/* A slow reader that takes some bytes within each timeout is served for longer than one timeout. */
static void who_takes_bytes_slowly__is_waited_for(void **state)
{
	struct fixture *f = *state;
	struct cairn_err err;
	struct cairn_frame frame;
	struct bulk b;
	pthread_t thread;
	peers_connect(f->tls, &f->client, &f->server);
	bulk_init(&b, f->server, CAIRN_PIECE_MAX);
	b.timeout_ms = 1000;
	assert_int_equal(pthread_create(&thread, NULL, send_bulk, &b), 0);
	int64_t begin = now_ms();
	OK(cairn_conn_read_head(f->client, PEERS_MS, &frame, &err));
	uint8_t *buf = malloc(1u << 20);
	assert_non_null(buf);
	for (size_t done = 0, got; done < b.n; done += got) {
		int64_t pause = done * 1600 / b.n > (size_t)(now_ms() - begin) ? 100 : 0;
		if (pause > 0) poll(NULL, 0, (int)pause); /* it is slow: that is the test */
		OK(cairn_conn_read_some(f->client, buf, 1u << 20, PEERS_MS, &got, &err));
	}
	pthread_join(thread, NULL);
	assert_int_equal(b.rc, CAIRN_OK);
	assert_true(now_ms() - begin > b.timeout_ms);
	free(buf);
	free(b.data);
}

static void wait__is_woken(void **state)
{
	struct fixture *f = *state;
	struct cairn_err err;
	peers_connect(f->tls, &f->client, &f->server);
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	assert_int_equal(cairn_conn_wait(f->client, fd, 10), CAIRN_CONN_TIMEOUT);
	assert_int_equal(eventfd_write(fd, 1), 0);
	assert_int_equal(cairn_conn_wait(f->client, fd, PEERS_MS), CAIRN_CONN_WOKEN);
	assert_int_equal(cairn_conn_wait(f->client, fd, PEERS_MS), CAIRN_CONN_WOKEN);
	send_get(f->server, 1);
	OK(cairn_conn_flush(f->server, PEERS_MS, &err));
	UNTIL(cairn_conn_wait(f->client, fd, PEERS_MS) == CAIRN_CONN_READABLE);
	close(fd);
}

static void the_end__is_readable_and_unavailable(void **state)
{
	struct fixture *f = *state;
	struct cairn_err err;
	struct cairn_frame frame;
	peers_connect(f->tls, &f->client, &f->server);
	cairn_conn_free(f->server);
	f->server = NULL;
	assert_int_equal(cairn_conn_wait(f->client, -1, PEERS_MS), CAIRN_CONN_READABLE);
	assert_false(cairn_conn_quiet(f->client));
	assert_int_equal(cairn_conn_read_head(f->client, PEERS_MS, &frame, &err),
			 CAIRN_UNAVAILABLE);
	assert_non_null(strstr(err.msg, "closed the connection"));
}

/* Without a signal that ends the process. */
static void sending_to_who_is_gone__is_unavailable(void **state)
{
	struct fixture *f = *state;
	struct bulk b;
	peers_connect(f->tls, &f->client, &f->server);
	cairn_conn_free(f->client);
	f->client = NULL;
	bulk_init(&b, f->server, CAIRN_PIECE_MAX);
	(void)send_bulk(&b);
	assert_int_equal(b.rc, CAIRN_UNAVAILABLE);
	free(b.data);
}

/* ---- interrupts ---- */

struct interrupter {
	struct cairn_conn *conn;
	pthread_t thread;
};

static void *interrupt_soon(void *arg)
{
	poll(NULL, 0, 20); /* most likely, it blocks by then; it need not */
	cairn_conn_interrupt(arg);
	return NULL;
}

static pthread_t interrupter(struct cairn_conn *conn)
{
	pthread_t thread;
	assert_int_equal(pthread_create(&thread, NULL, interrupt_soon, conn), 0);
	return thread;
}

static void interrupt__ends_a_read_a_wait_and_all_that_follows(void **state)
{
	struct fixture *f = *state;
	struct cairn_err err;
	struct cairn_frame frame;
	peers_connect(f->tls, &f->client, &f->server);
	pthread_t thread = interrupter(f->client);
	assert_int_equal(cairn_conn_read_head(f->client, 60000, &frame, &err), CAIRN_CANCELLED);
	pthread_join(thread, NULL);
	assert_int_equal(cairn_conn_read_head(f->client, 60000, &frame, &err), CAIRN_CANCELLED);
	assert_int_equal(cairn_conn_flush(f->client, 60000, &err), CAIRN_CANCELLED);
	assert_int_equal(cairn_conn_wait(f->client, -1, 60000), CAIRN_CONN_READABLE);

	thread = interrupter(f->server);
	assert_int_equal(cairn_conn_wait(f->server, -1, 60000), CAIRN_CONN_READABLE);
	pthread_join(thread, NULL);
}

static void interrupt__ends_a_write(void **state)
{
	struct fixture *f = *state;
	struct bulk b;
	peers_connect(f->tls, &f->client, &f->server);
	bulk_init(&b, f->server, CAIRN_PIECE_MAX);
	b.timeout_ms = 60000;
	pthread_t thread = interrupter(f->server);
	(void)send_bulk(&b);
	assert_int_equal(b.rc, CAIRN_CANCELLED);
	pthread_join(thread, NULL);
	free(b.data);
}

/* Of one that listens, but whose queue is full, and of one who accepts and says nothing. */
static void interrupt__ends_a_dial(void **state)
{
	struct fixture *f = *state;
	struct cairn_err err;
	char address[CAIRN_ADDRESS_MAX];
	const struct cairn_hello hello = peers_hello("10.9.8.7:4444", 2);
	for (int backlog = 0; backlog < 2; backlog++) {
		int fd = peers_listen(backlog, address), extra[4] = {-1, -1, -1, -1};
		if (backlog == 0) extra[0] = peers_raw(address); /* it fills the queue */
		struct cairn_conn *conn = cairn_conn_new();
		pthread_t thread = interrupter(conn);
		assert_int_equal(cairn_conn_connect(conn, f->tls, address, &hello, 60000, &err),
				 CAIRN_CANCELLED);
		pthread_join(thread, NULL);
		cairn_conn_free(conn);
		for (int i = 0; i < 4; i++)
			if (extra[i] >= 0) close(extra[i]);
		close(fd);
	}
	/* Before it begins. */
	struct cairn_conn *conn = cairn_conn_new();
	cairn_conn_interrupt(conn);
	assert_int_equal(cairn_conn_connect(conn, f->tls, "localhost:1", &hello, 60000, &err),
			 CAIRN_CANCELLED);
	cairn_conn_free(conn);
}

/* ---- dialling ---- */

static void dial__says_what_is_wrong_with_an_address(void **state)
{
	struct fixture *f = *state;
	struct cairn_err err;
	struct cairn_conn *conn;
	const struct cairn_hello hello = peers_hello("10.9.8.7:4444", 2);
	static const char *const bad[] = {"",	    ":",	  "host",   "host:",	"host:0",
					  "host:x", "host:70000", "::1:80", "[::1:80",	"[host]:80",
					  "[]:80",  "a b:80",	  "-a:80",  "host:80 ", ":80"};
	for (size_t i = 0; i < CAIRN_LEN(bad); i++)
		assert_int_equal(cairn_conn_dial(f->tls, bad[i], &hello, PEERS_MS, &conn, &err),
				 CAIRN_INVALID_ARGUMENT);
	char closed[CAIRN_ADDRESS_MAX];
	close(peers_listen(1, closed));
	assert_int_equal(cairn_conn_dial(f->tls, closed, &hello, PEERS_MS, &conn, &err),
			 CAIRN_UNAVAILABLE);
	assert_non_null(strstr(err.msg, "Connection refused"));
	assert_non_null(strstr(err.msg, closed));
	assert_int_equal(
		cairn_conn_dial(f->tls, "no.such.host.invalid:80", &hello, PEERS_MS, &conn, &err),
		CAIRN_UNAVAILABLE);
}

static void dial__finds_names_and_gives_up_in_time(void **state)
{
	struct fixture *f = *state;
	struct cairn_err err;
	struct peers_server s;
	struct cairn_conn *conn;
	const struct cairn_hello hello = peers_hello("10.9.8.7:4444", 2);
	char name[CAIRN_ADDRESS_MAX];
	peers_begin(&s, f->tls);
	snprintf(name, sizeof(name), "localhost%s", strchr(s.address, ':'));
	OK(cairn_conn_dial(f->tls, name, &hello, PEERS_MS, &f->client, &err));
	peers_join(&s);
	f->server = s.conn;
	assert_non_null(f->server);

	int fd = peers_listen(1, name); /* who accepts and says nothing */
	int64_t begin = now_ms();
	assert_int_equal(cairn_conn_dial(f->tls, name, &hello, 50, &conn, &err), CAIRN_UNAVAILABLE);
	assert_in_range(now_ms() - begin, 45, 5000);
	close(fd);
}

#define BOTH(name)                                                                                 \
	{#name " (plain)", name, setup_plain, teardown, NULL},                                     \
	{                                                                                          \
#name " (tls)", name, setup_tls, teardown, NULL                                    \
	}

int main(void)
{
	const struct CMUnitTest tests[] = {
		BOTH(hello__tells_each_of_the_other),
		BOTH(messages__go_both_ways_and_small_ones_are_collected),
		BOTH(pieces__arrive_whole_in_parts_of_any_size),
		BOTH(a_payload_that_nobody_reads__is_skipped),
		BOTH(reading_beyond_a_frame__is_an_error),
		BOTH(nonsense__is_no_frame_and_no_message),
		BOTH(silence__hits_the_deadline),
		BOTH(half_a_frame_then_silence__hits_the_deadline),
		BOTH(who_takes_nothing__hits_the_deadline),
		BOTH(who_takes_bytes_slowly__is_waited_for),
		BOTH(wait__is_woken),
		BOTH(the_end__is_readable_and_unavailable),
		BOTH(sending_to_who_is_gone__is_unavailable),
		BOTH(interrupt__ends_a_read_a_wait_and_all_that_follows),
		BOTH(interrupt__ends_a_write),
		BOTH(interrupt__ends_a_dial),
		BOTH(dial__says_what_is_wrong_with_an_address),
		BOTH(dial__finds_names_and_gives_up_in_time),
	};
	return cmocka_run_group_tests_name("p2p/conn", tests, NULL, NULL);
}
