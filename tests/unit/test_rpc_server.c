#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "support/rpc_fixture.h"
#include "support/rpc_raw.h"

static void unary__answers(void **state)
{
	struct fixture *f = *state;
	struct cairn_err err;
	read_resp *r = NULL;
	OK(ask(f->channel, "echo", 7, 1000, 20000, &r, &err));
	assert_int_equal(r->offset, 7);
	assert_int_equal(r->data.len, 1000);
	assert_int_equal(r->data.data[999], 0xab);
	free_resp(r);
}

static void unary__carries_every_error(void **state)
{
	struct fixture *f = *state;
	for (int code = 1; code <= 16; code++) {
		struct cairn_err err;
		read_resp *r = NULL;
		assert_int_equal(ask(f->channel, "fail", code, 0, 20000, &r, &err), code);
		assert_int_equal(err.code, code);
		assert_string_equal(err.msg, "failed as asked");
	}
}

static void server_stream__sends_in_order(void **state)
{
	struct fixture *f = *state;
	struct cairn_err err;
	const char *kinds[] = {"count", "last"};
	for (size_t k = 0; k < CAIRN_LEN(kinds); k++) {
		struct cairn_call *call = ask_stream(f->channel, kinds[k], 0, 100, 5000);
		struct cairn_msg *msg;
		int n = 0;
		while (cairn_call_recv(call, &msg) == CAIRN_RECV_MSG) {
			ProtobufCMessage *m;
			OK(cairn_msg_unpack(call, msg, &READ_RESP, &m, &err));
			assert_int_equal(((read_resp *)(void *)m)->offset, n++);
			cairn_msg_free(msg);
		}
		assert_int_equal(n, 100);
		OK(cairn_call_finish(call, &err));
	}
}

static void bidi__answers_each_message(void **state)
{
	struct fixture *f = *state;
	struct cairn_err err;
	struct cairn_call *call;
	struct cairn_msg *msg;
	ProtobufCMessage *m;
	uint8_t data[1000] = {0};
	OK(cairn_channel_open(f->channel, BIDI, NULL, 0, 20000, &call, &err));
	for (int i = 1; i <= 100; i++) {
		write_req q = WRITE_REQ_INIT;
		q.data.data = data;
		q.data.len = sizeof(data);
		OK(cairn_call_send(call, &q.base, &err));
		assert_int_equal(cairn_call_recv(call, &msg), CAIRN_RECV_MSG);
		OK(cairn_msg_unpack(call, msg, &WRITE_RESP, &m, &err));
		assert_int_equal(((write_resp *)(void *)m)->offset, i * 1000);
		cairn_msg_free(msg);
	}
	OK(cairn_call_half_close(call, &err));
	assert_int_equal(cairn_call_recv(call, &msg), CAIRN_RECV_END);
	OK(cairn_call_finish(call, &err));
}

/* ---- bad input ------------------------------------------------------------------------------- */

static void unknown_method__is_unimplemented(void **state)
{
	struct fixture *f = *state;
	const char *paths[] = {"/test.T/Nothing", "/", "/test.T/Unar", "/test.T/Unaryy", "/a/b"};
	for (size_t i = 0; i < CAIRN_LEN(paths); i++) {
		struct cairn_err err;
		read_req q = READ_REQ_INIT;
		ProtobufCMessage *m;
		assert_int_equal(cairn_channel_unary(f->channel, paths[i], NULL, 0, 20000, &q.base,
						     &READ_RESP, &m, &err),
				 CAIRN_UNIMPLEMENTED);
	}
}

static enum cairn_code send_bytes(struct fixture *f, const char *path, const void *bytes, size_t n,
				  struct cairn_err *err)
{
	struct cairn_call *call;
	struct cairn_view view = {.data = bytes, .len = n};
	assert_ok(cairn_channel_open(f->channel, path, NULL, 0, 20000, &call, err), path, err);
	(void)!cairn_call_send_view(call, NULL, 0, &view, err);
	return cairn_call_finish(call, err);
}

static void malformed_message__is_invalid_argument(void **state)
{
	struct fixture *f = *state;
	struct cairn_err err;
	static const char *const bad[] = {"\xff", "\x0a\x7fzz", "\x0b", "\x10\xff\xff"};
	for (size_t i = 0; i < CAIRN_LEN(bad); i++) {
		assert_int_equal(send_bytes(f, UNARY, bad[i], strlen(bad[i]), &err),
				 CAIRN_INVALID_ARGUMENT);
		assert_int_equal(send_bytes(f, STREAM, bad[i], strlen(bad[i]), &err),
				 CAIRN_INVALID_ARGUMENT);
		assert_int_equal(send_bytes(f, BIDI, bad[i], strlen(bad[i]), &err),
				 CAIRN_INVALID_ARGUMENT);
	}
	assert_int_equal(f->service.entered,
			 CAIRN_LEN(bad)); /* bidi handlers read for themselves */
}

static void random_bytes__get_an_answer(void **state)
{
	struct fixture *f = *state;
	unsigned seed = (unsigned)now_ns();
	print_message("seed %u\n", seed);
	srandom(seed);
	for (int i = 0; i < 200; i++) {
		struct cairn_err err;
		uint8_t bytes[64];
		size_t n = (size_t)random() % sizeof(bytes);
		for (size_t k = 0; k < n; k++) bytes[k] = (uint8_t)random();
		enum cairn_code rc = send_bytes(f, BIDI, bytes, n, &err);
		assert_true(rc == CAIRN_OK || rc == CAIRN_INVALID_ARGUMENT);
		rc = send_bytes(f, UNARY, bytes, n, &err);
		assert_int_equal(rc, CAIRN_INVALID_ARGUMENT); /* no such command at best */
	}
}

static void half_close_without_a_message__is_invalid_argument(void **state)
{
	struct fixture *f = *state;
	const char *paths[] = {UNARY, STREAM};
	for (size_t i = 0; i < CAIRN_LEN(paths); i++) {
		struct cairn_err err;
		struct cairn_call *call;
		OK(cairn_channel_open(f->channel, paths[i], NULL, 0, 20000, &call, &err));
		OK(cairn_call_half_close(call, &err));
		assert_int_equal(cairn_call_finish(call, &err), CAIRN_INVALID_ARGUMENT);
	}
	struct cairn_err err;
	struct cairn_call *call;
	OK(cairn_channel_open(f->channel, BIDI, NULL, 0, 20000, &call, &err));
	OK(cairn_call_finish(call, &err));
}

static void still_answers(struct fixture *f)
{
	struct cairn_err err;
	read_resp *r = NULL;
	OK(ask(f->channel, "echo", 1, 10, 20000, &r, &err));
	free_resp(r);
}

static void oversized_message__is_resource_exhausted(void **state)
{
	struct fixture *f = *state;
	const char *paths[] = {UNARY, STREAM, BIDI};
	for (size_t i = 0; i < CAIRN_LEN(paths); i++) {
		int fd = raw_open(f->path);
		raw_call(fd, 1, paths[i], NULL);
		uint32_t n = CAIRN_RPC_MESSAGE_MAX + 1;
		uint8_t head[5] = {0, (uint8_t)(n >> 24), (uint8_t)(n >> 16), (uint8_t)(n >> 8),
				   (uint8_t)n};
		raw_frame(fd, RAW_DATA, 0, 1, head, sizeof(head));
		raw_body(fd, n);
		assert_int_equal(raw_status(fd), CAIRN_RESOURCE_EXHAUSTED);
		close(fd);
	}
	still_answers(f);
}

static void compressed_message__is_unimplemented(void **state)
{
	struct fixture *f = *state;
	int fd = raw_open(f->path);
	raw_call(fd, 1, UNARY, "gzip");
	static const uint8_t body[] = {1, 0, 0, 0, 3, 'a', 'b', 'c'};
	raw_frame(fd, RAW_DATA, RAW_END_STREAM, 1, body, sizeof(body));
	assert_int_equal(raw_status(fd), CAIRN_UNIMPLEMENTED);
	close(fd);
	still_answers(f);
}

static void garbage_and_vanishing_peers__harm_nobody(void **state)
{
	struct fixture *f = *state;
	unsigned seed = (unsigned)now_ns();
	print_message("seed %u\n", seed);
	srandom(seed);
	for (int i = 0; i < 50; i++) {
		uint8_t junk[300];
		for (size_t k = 0; k < sizeof(junk); k++) junk[k] = (uint8_t)random();
		int fd = raw_connect(f->path);
		raw_send(fd, junk, (size_t)random() % sizeof(junk));
		close(fd);
		fd = raw_connect(f->path); /* half a preface */
		raw_send(fd, RAW_PREFACE, (size_t)random() % strlen(RAW_PREFACE));
		close(fd);
		fd = raw_open(f->path);
		raw_frame(fd, RAW_HEADERS, RAW_END_HEADERS, 1, junk, 30);
		raw_frame(fd, (int)random() % 12, (int)random() % 256, 1, junk, 40);
		close(fd);
	}
	still_answers(f);
}

static void lost_connection__ends_the_handler(void **state)
{
	struct fixture *f = *state;
	int fd = raw_open(f->path);
	raw_call(fd, 1, BIDI, NULL);
	static const uint8_t half[] = {0, 0, 0, 1, 0, 'x'}; /* 6 of 261 bytes */
	raw_frame(fd, RAW_DATA, 0, 1, half, sizeof(half));
	UNTIL(f->service.entered == 1);
	close(fd);
	UNTIL(f->service.left == 1);
	assert_int_equal(f->service.gone, 1);
	still_answers(f);
}

/* ---- the peer goes away ---------------------------------------------------------------------- */

enum where { IN_RECV, IN_SEND, IN_WAIT, IN_RUN };

static struct cairn_call *enter_and_stay(struct fixture *f, enum where where)
{
	struct cairn_err err;
	struct cairn_call *call = NULL;
	int before = f->service.entered;
	char run[] = "run";
	read_req q = READ_REQ_INIT;
	switch (where) {
	case IN_RECV:
		OK(cairn_channel_open(f->channel, BIDI, NULL, 0, 0, &call, &err));
		break;
	case IN_SEND: /* more than the client's window, which is never read */
		call = ask_stream(f->channel, "views", 1 << 20, 1 << 30, 0);
		break;
	case IN_WAIT:
		call = ask_stream(f->channel, "wait", 0, 3600 * 1000, 0);
		break;
	case IN_RUN:
		f->service.hold = true;
		q.digest = run;
		OK(cairn_channel_open(f->channel, UNARY, NULL, 0, 0, &call, &err));
		OK(cairn_call_send(call, &q.base, &err));
		break;
	}
	UNTIL(f->service.entered == before + 1);
	return call;
}

/* The best of several tries is what the code can do; the others tell of the machine's load. */
static void cancel_wakes(struct fixture *f, enum where where)
{
	int64_t best = INT64_MAX;
	for (int i = 0; i < 10 || (i < 100 && best > 10 * 1000000); i++) {
		struct cairn_err err;
		struct cairn_call *call = enter_and_stay(f, where);
		int gone = f->service.gone;
		if (i % 2 == 1) usleep(5000); /* so that the handler is sure to wait */
		int64_t begun = now_ns();
		cairn_call_cancel(call);
		UNTIL(f->service.gone == gone + 1);
		int64_t took = f->service.gone_ns - begun;
		if (took < best) best = took;
		assert_int_equal(cairn_call_finish(call, &err), CAIRN_CANCELLED);
	}
	f->service.hold = false;
	assert_true(best < 10 * 1000000);
	UNTIL(f->service.left == f->service.entered);
}

static void cancel__wakes_recv(void **state)
{
	cancel_wakes(*state, IN_RECV);
}

static void cancel__wakes_send(void **state)
{
	struct fixture *f = *state;
	cancel_wakes(f, IN_SEND);
	UNTIL(f->service.views_out == f->service.views_released);
}

static void cancel__wakes_wait(void **state)
{
	cancel_wakes(*state, IN_WAIT);
}

static void cancel__wakes_run_and_the_function_ends_later(void **state)
{
	struct fixture *f = *state;
	cancel_wakes(f, IN_RUN);
	UNTIL(f->service.runs_done == f->service.entered);
}

static void deadline__ends_call_and_handler(void **state)
{
	struct fixture *f = *state;
	/* On a busy machine the deadline may pass before the server has heard of the call. */
	for (int ms = 50; f->service.entered == 0; ms *= 2) {
		struct cairn_err err;
		read_resp *r = NULL;
		int64_t begun = now_ns();
		assert_int_equal(ask(f->channel, "wait", 0, 3600 * 1000, ms, &r, &err),
				 CAIRN_DEADLINE_EXCEEDED);
		assert_true(now_ns() - begun >= (ms - 1) * INT64_C(1000000));
	}
	UNTIL(f->service.gone == f->service.entered);
	assert_int_equal(f->service.last_wake, CAIRN_WAKE_GONE);
}

/* ---- waiting --------------------------------------------------------------------------------- */

static void wait__times_out(void **state)
{
	struct fixture *f = *state;
	struct cairn_err err;
	read_resp *r = NULL;
	int64_t begun = now_ns();
	OK(ask(f->channel, "wait", 0, 30, 20000, &r, &err));
	free_resp(r);
	assert_true(now_ns() - begun >= 30 * INT64_C(1000000));
	assert_int_equal(f->service.last_wake, CAIRN_WAKE_TIMEOUT);
}

static void signal__wakes_and_is_kept(void **state)
{
	struct fixture *f = *state;
	struct cairn_err err;
	read_resp *r = NULL;
	OK(ask(f->channel, "signal-wait", 0, 3600 * 1000, 20000, &r, &err));
	assert_int_equal(r->offset, CAIRN_WAKE_SIGNAL);
	assert_int_equal(r->data.len, 1); /* two signals are one */
	free_resp(r);
	struct cairn_call *call = ask_stream(f->channel, "wait", 0, 3600 * 1000, 0);
	f->service.last_wake = -1;
	UNTIL(f->service.entered == 2);
	UNTIL((signal_waiting(&f->service), f->service.last_wake == CAIRN_WAKE_SIGNAL));
	OK(cairn_call_finish(call, &err));
	signal_waiting(&f->service); /* the call is over, our reference is not */
}

static void *signal_all_the_time(void *arg)
{
	struct fixture *f = arg;
	while (f->service.hold) {
		signal_waiting(&f->service);
		sched_yield();
	}
	return NULL;
}

/* Signals, timeouts and cancels at once: each wait ends, for one reason. */
static void wakers__race_and_one_wins(void **state)
{
	struct fixture *f = *state;
	pthread_t thread;
	f->service.hold = true;
	assert_int_equal(pthread_create(&thread, NULL, signal_all_the_time, f), 0);
	for (int i = 0; i < 300; i++) {
		struct cairn_err err;
		struct cairn_call *call = ask_stream(f->channel, "wait", 0, i % 3, 0);
		if (i % 2) cairn_call_cancel(call);
		enum cairn_code rc = cairn_call_finish(call, &err);
		assert_true(rc == CAIRN_OK || rc == CAIRN_CANCELLED);
	}
	f->service.hold = false;
	pthread_join(thread, NULL);
	UNTIL(f->service.left == f->service.entered);
}

static void offload__moves_back_and_forth(void **state)
{
	struct fixture *f = *state;
	struct cairn_err err;
	read_resp *r = NULL;
	OK(ask(f->channel, "offload", 0, 500, 20000, &r, &err));
	free_resp(r);
	OK(ask(f->channel, "run", 0, 0, 20000, &r, &err));
	free_resp(r);
	assert_int_equal(f->service.runs_done, 1);
}

static int count_threads(void)
{
	int n = 0;
	DIR *d = opendir("/proc/self/task");
	assert_non_null(d);
	while (readdir(d) != NULL) n++;
	closedir(d);
	return n;
}

/* ---- many streams, drain --------------------------------------------------------------------- */

#define STREAMS 200

static void idle_streams__cost_no_thread_and_drain_cancels_them(void **state)
{
	struct fixture *f = *state;
	struct cairn_err err;
	struct cairn_call *calls[STREAMS];
	still_answers(f);
	int before = count_threads();
	for (int i = 0; i < STREAMS; i++) {
		OK(cairn_channel_open(f->channel, BIDI, NULL, 0, 0, &calls[i], &err));
	}
	UNTIL(f->service.entered == STREAMS + 1);
	assert_true(count_threads() < before + 10);
	int64_t begun = now_ns();
	assert_int_equal(cairn_rpc_server_drain(f->server, 100), STREAMS);
	int64_t took = (now_ns() - begun) / 1000000;
	assert_true(took >= 100 && took < 5000);
	assert_int_equal(f->service.left, STREAMS + 1);
	assert_int_equal(f->service.gone, STREAMS);
	cairn_rpc_server_free(cairn_steal(&f->server));
	for (int i = 0; i < STREAMS; i++) {
		struct cairn_msg *msg;
		assert_int_equal(cairn_call_recv(calls[i], &msg), CAIRN_RECV_GONE);
		assert_int_not_equal(cairn_call_finish(calls[i], &err), CAIRN_OK);
	}
}

static void drain__ends_waits_and_lets_calls_end(void **state)
{
	struct fixture *f = *state;
	struct cairn_err err;
	struct cairn_call *calls[20];
	for (int i = 0; i < 20; i++) {
		calls[i] = ask_stream(f->channel, "wait", 0, 3600 * 1000, 0);
	}
	UNTIL(f->service.entered == 20);
	int64_t begun = now_ns();
	assert_int_equal(cairn_rpc_server_drain(f->server, 60000), 0);
	assert_true(now_ns() - begun < 10 * INT64_C(1000000000));
	assert_int_equal(f->service.last_wake, CAIRN_WAKE_DRAIN);
	assert_int_equal(access(f->path, F_OK), -1);
	for (int i = 0; i < 20; i++) OK(cairn_call_finish(calls[i], &err));
	cairn_rpc_server_free(cairn_steal(&f->server));
}

static void idle_connections__do_not_delay_drain(void **state)
{
	struct fixture *f = *state;
	int fds[4];
	still_answers(f);
	fds[0] = raw_connect(f->path);
	fds[1] = raw_open(f->path); /* answers no ping */
	fds[2] = raw_open(f->path);
	raw_call(fds[2], 1, "/test.T/Nothing", NULL);
	raw_frame(fds[2], RAW_DATA, RAW_END_STREAM, 1, NULL, 0);
	assert_int_equal(raw_status(fds[2]), CAIRN_UNIMPLEMENTED);
	fds[3] = raw_open(f->path);
	raw_call(fds[3], 1, UNARY, NULL); /* its message never comes */
	raw_call(fds[3], 3, "/test.T/Nothing", NULL);
	assert_int_equal(raw_status(fds[3]), CAIRN_UNIMPLEMENTED); /* so it has been heard */
	int64_t begun = now_ns();
	assert_int_equal(cairn_rpc_server_drain(f->server, 60000), 0);
	assert_true(now_ns() - begun < 5 * INT64_C(1000000000));
	cairn_rpc_server_free(cairn_steal(&f->server));
	for (int i = 0; i < 4; i++) close(fds[i]);
}

static void server__may_be_freed_without_start(void **state)
{
	struct fixture *f = *state;
	struct cairn_err err;
	struct cairn_rpc_server *server;
	char path[128];
	int port;
	snprintf(path, sizeof(path), "%s/other", f->dir);
	OK(cairn_rpc_server_new(f->rpc, &server, &err));
	cairn_rpc_server_free(server);
	OK(cairn_rpc_server_new(f->rpc, &server, &err));
	OK(cairn_rpc_server_listen_unix(server, path, &err));
	OK(cairn_rpc_server_listen_tcp(server, "127.0.0.1:0", NULL, &port, &err));
	cairn_rpc_server_free(server);
	assert_int_equal(access(path, F_OK), -1);
}

/* ---- the socket ------------------------------------------------------------------------------ */

static void socket__is_ours_alone(void **state)
{
	struct fixture *f = *state;
	struct stat st;
	assert_int_equal(lstat(f->path, &st), 0);
	assert_true(S_ISSOCK(st.st_mode));
	assert_int_equal(st.st_mode & 07777, 0600);
}

static void socket__replaces_a_stale_one_but_no_file(void **state)
{
	struct fixture *f = *state;
	struct cairn_err err;
	struct cairn_rpc_server *server;
	char file[108], stale[108], longer[200];
	snprintf(file, sizeof(file), "%s/file", f->dir);
	snprintf(stale, sizeof(stale), "%s/stale", f->dir);
	memset(longer, 'x', sizeof(longer));
	longer[sizeof(longer) - 1] = '\0';
	longer[0] = '/';
	int fd = open(file, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	close(fd);
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", stale);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(fd, (const struct sockaddr *)&addr, sizeof(addr)), 0);
	close(fd);
	OK(cairn_rpc_server_new(f->rpc, &server, &err));
	assert_int_equal(cairn_rpc_server_listen_unix(server, longer, &err),
			 CAIRN_INVALID_ARGUMENT);
	assert_int_equal(cairn_rpc_server_listen_unix(server, file, &err), CAIRN_INVALID_ARGUMENT);
	OK(cairn_rpc_server_listen_unix(server, stale, &err));
	cairn_rpc_server_free(server);
	assert_int_equal(access(file, F_OK), 0);
	assert_int_equal(access(stale, F_OK), -1);
	unlink(file);
}

static void socket__of_a_successor_is_left_alone(void **state)
{
	struct fixture *f = *state;
	assert_int_equal(unlink(f->path), 0);
	int fd = open(f->path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600); /* stands for another's */
	assert_true(fd >= 0);
	close(fd);
	fixture_stop(f);
	assert_int_equal(access(f->path, F_OK), 0);
}

static void tcp_port__is_not_shared(void **state)
{
	struct fixture *f = *state;
	struct cairn_err err;
	struct cairn_rpc_server *server;
	char address[64];
	int port;
	snprintf(address, sizeof(address), "127.0.0.1:%d", f->port);
	OK(cairn_rpc_server_new(f->rpc, &server, &err));
	assert_int_equal(cairn_rpc_server_listen_tcp(server, address, NULL, &port, &err),
			 CAIRN_INTERNAL);
	assert_int_equal(cairn_rpc_server_listen_tcp(server, "nonsense", NULL, &port, &err),
			 CAIRN_INTERNAL);
	cairn_rpc_server_free(server);
}

/* ---- messages -------------------------------------------------------------------------------- */

static void limited_send__ends_a_call_that_nobody_reads(void **state)
{
	struct fixture *f = *state;
	struct cairn_err err;
	struct cairn_call *call = ask_stream(f->channel, "views-limited", 1 << 20, 1 << 30, 0);
	UNTIL(f->service.left == 1); /* without anybody's having read a message */
	assert_int_equal(f->service.gone, 1);
	assert_int_equal(cairn_call_finish(call, &err), CAIRN_CANCELLED);
	UNTIL(f->service.views_out == f->service.views_released);
	/* Who reads is not disturbed. */
	call = ask_stream(f->channel, "views-limited", 1 << 16, 1 << 22, 0);
	struct cairn_msg *msg = NULL;
	size_t total = 0;
	while (cairn_call_recv(call, &msg) == CAIRN_RECV_MSG) {
		total += cairn_msg_len(msg);
		cairn_msg_free(msg);
	}
	assert_true(total > 1 << 22);
	OK(cairn_call_finish(call, &err));
}

static void views__arrive_whole_and_are_released_once(void **state)
{
	struct fixture *f = *state;
	struct cairn_err err;
	for (size_t i = 0; i < 3 << 20; i++) view_bytes()[i] = (uint8_t)(i * 7 + (i >> 12));
	const int64_t total = (64 << 20) + 12345, chunk = 3 << 20;
	struct cairn_call *call = ask_stream(f->channel, "views", chunk, total, 0);
	struct cairn_msg *msg;
	int64_t got = 0;
	/* A reader that does not read holds the sender back. */
	usleep(20000);
	assert_true(f->service.views_out < 12);
	while (cairn_call_recv(call, &msg) == CAIRN_RECV_MSG) {
		const struct cairn_span *spans;
		size_t n = cairn_msg_spans(msg, &spans);
		struct cairn_wire_reader r;
		struct cairn_wire_field field;
		bool end;
		cairn_wire_init(&r, spans, n);
		OK(cairn_wire_next(&r, &field, &end, &err));
		assert_int_equal(field.number, 2);
		struct cairn_span *parts = calloc(n, sizeof(*parts));
		assert_non_null(parts);
		size_t k = cairn_wire_spans(&field, parts, n), at = 0;
		for (size_t i = 0; i < k; i++) {
			assert_memory_equal(parts[i].data, view_bytes() + at, parts[i].len);
			at += parts[i].len;
		}
		assert_int_equal(at, field.value);
		got += (int64_t)at;
		free(parts);
		cairn_msg_free(msg);
	}
	OK(cairn_call_finish(call, &err));
	assert_int_equal(got, total);
	UNTIL(f->service.views_released == f->service.views_out);
	assert_int_equal(f->service.views_out, 22);
}

static void messages_of_16_mib__pass_both_ways(void **state)
{
	struct fixture *f = *state;
	struct cairn_err err;
	read_resp *r = NULL;
	OK(ask(f->channel, "echo", 1, 16 << 20, 30000, &r, &err));
	assert_int_equal(r->data.len, 16 << 20);
	free_resp(r);
	assert_int_equal(ask(f->channel, "echo", 1, CAIRN_RPC_MESSAGE_MAX, 30000, &r, &err),
			 CAIRN_RESOURCE_EXHAUSTED);
	struct cairn_call *call;
	struct cairn_msg *msg;
	ProtobufCMessage *m;
	write_req q = WRITE_REQ_INIT;
	q.data.len = 16 << 20;
	q.data.data = calloc(1, CAIRN_RPC_MESSAGE_MAX + 1);
	OK(cairn_channel_open(f->channel, BIDI, NULL, 0, 30000, &call, &err));
	OK(cairn_call_send(call, &q.base, &err));
	assert_int_equal(cairn_call_recv(call, &msg), CAIRN_RECV_MSG);
	OK(cairn_msg_unpack(call, msg, &WRITE_RESP, &m, &err));
	assert_int_equal(((write_resp *)(void *)m)->offset, 16 << 20);
	cairn_msg_free(msg);
	q.data.len = CAIRN_RPC_MESSAGE_MAX + 1;
	assert_int_equal(cairn_call_send(call, &q.base, &err), CAIRN_RESOURCE_EXHAUSTED);
	OK(cairn_call_finish(call, &err));
	free(q.data.data);
}

/* A Go client whose first Send comes after the status gets a bare EOF. */
static void failing_bidi__reads_before_it_fails(void **state)
{
	struct fixture *f = *state;
	struct cairn_err err;
	int fd = raw_open(f->path);
	raw_call(fd, 1, FAIL_FIRST, NULL);
	uint8_t buf[4096];
	struct pollfd p = {.fd = fd, .events = POLLIN};
	while (poll(&p, 1, 50) > 0) { /* settings, but no status */
		ssize_t n = recv(fd, buf, sizeof(buf), 0);
		assert_true(n > 0);
		assert_null(memmem(buf, (size_t)n, "grpc-status", 11));
	}
	static const uint8_t empty[5];
	raw_frame(fd, RAW_DATA, 0, 1, empty, sizeof(empty));
	assert_int_equal(raw_status(fd), CAIRN_FAILED_PRECONDITION);
	close(fd);
	struct cairn_call *call;
	OK(cairn_channel_open(f->channel, FAIL_FIRST, NULL, 0, 20000, &call, &err));
	assert_int_equal(cairn_call_finish(call, &err), CAIRN_FAILED_PRECONDITION);
}

static void stats__count_every_call(void **state)
{
	struct fixture *f = *state;
	struct cairn_err err;
	read_resp *r = NULL;
	struct cairn_method_stats stats[8];
	for (int i = 0; i < 5; i++) {
		OK(ask(f->channel, "echo", 0, 100, 20000, &r, &err));
		free_resp(r);
	}
	assert_int_equal(ask(f->channel, "fail", CAIRN_NOT_FOUND, 0, 20000, &r, &err),
			 CAIRN_NOT_FOUND);
	struct cairn_call *call = ask_stream(f->channel, "wait", 0, 3600 * 1000, 0);
	UNTIL(f->service.entered == 7);
	size_t n = cairn_rpc_server_stats(f->server, stats, CAIRN_LEN(stats));
	assert_int_equal(n, 4);
	const struct cairn_method_stats *unary = NULL, *stream = NULL;
	for (size_t i = 0; i < n; i++) {
		if (strcmp(stats[i].path, UNARY) == 0) unary = &stats[i];
		if (strcmp(stats[i].path, STREAM) == 0) stream = &stats[i];
	}
	assert_non_null(unary);
	assert_non_null(stream);
	assert_int_equal(stream->active, 1);
	cairn_call_cancel(call);
	assert_int_equal(cairn_call_finish(call, &err), CAIRN_CANCELLED);
	UNTIL((cairn_rpc_server_stats(f->server, stats, CAIRN_LEN(stats)),
	       stream->active == 0 && unary->active == 0));
	assert_int_equal(stream->by_code[CAIRN_CANCELLED], 1);
	assert_int_equal(unary->by_code[CAIRN_OK], 5);
	assert_int_equal(unary->by_code[CAIRN_NOT_FOUND], 1);
	assert_int_equal(unary->latency_count, 6);
	assert_int_equal(unary->latency_buckets[CAIRN_RPC_BUCKETS - 1], 6);
	assert_true(unary->sent_bytes > 500 && unary->sent_bytes < 600);
	assert_true(unary->received_bytes > 30);
	assert_int_equal(cairn_rpc_server_stats(f->server, stats, 1), 4);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(unary__answers),
		TEST(unary__carries_every_error),
		TEST(server_stream__sends_in_order),
		TEST(bidi__answers_each_message),
		TEST(unknown_method__is_unimplemented),
		TEST(malformed_message__is_invalid_argument),
		TEST(random_bytes__get_an_answer),
		TEST(half_close_without_a_message__is_invalid_argument),
		TEST(oversized_message__is_resource_exhausted),
		TEST(compressed_message__is_unimplemented),
		TEST(garbage_and_vanishing_peers__harm_nobody),
		TEST(lost_connection__ends_the_handler),
		TEST(cancel__wakes_recv),
		TEST(cancel__wakes_send),
		TEST(cancel__wakes_wait),
		TEST(cancel__wakes_run_and_the_function_ends_later),
		TEST(deadline__ends_call_and_handler),
		TEST(wait__times_out),
		TEST(signal__wakes_and_is_kept),
		TEST(wakers__race_and_one_wins),
		TEST(offload__moves_back_and_forth),
		TEST(idle_streams__cost_no_thread_and_drain_cancels_them),
		TEST(drain__ends_waits_and_lets_calls_end),
		TEST(idle_connections__do_not_delay_drain),
		TEST(server__may_be_freed_without_start),
		TEST(socket__is_ours_alone),
		TEST(socket__replaces_a_stale_one_but_no_file),
		TEST(socket__of_a_successor_is_left_alone),
		TEST(tcp_port__is_not_shared),
		TEST(limited_send__ends_a_call_that_nobody_reads),
		TEST(views__arrive_whole_and_are_released_once),
		TEST(messages_of_16_mib__pass_both_ways),
		TEST(failing_bidi__reads_before_it_fails),
		TEST(stats__count_every_call),
	};
	return cmocka_run_group_tests_name("rpc/server", tests, NULL, NULL);
}
