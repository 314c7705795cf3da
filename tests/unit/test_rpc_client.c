#include "support/rpc_fixture.h"

static void tcp_and_unix__answer_alike(void **state)
{
	struct fixture *f = *state;
	struct cairn_err err;
	struct cairn_channel *tcp;
	char target[64];
	snprintf(target, sizeof(target), "127.0.0.1:%d", f->port);
	OK(cairn_channel_new(f->rpc, target, NULL, &tcp, &err));
	read_resp *r = NULL;
	OK(ask(tcp, "echo", 3, 100000, 20000, &r, &err));
	assert_int_equal(r->data.len, 100000);
	free_resp(r);
	cairn_channel_free(tcp);
}

static void headers__reach_the_handler(void **state)
{
	struct fixture *f = *state;
	struct cairn_err err;
	char cmd[] = "header";
	read_req q = READ_REQ_INIT;
	ProtobufCMessage *m;
	q.digest = cmd;
	const struct cairn_header headers[] = {
		{"x-other", "no"}, {"x-test", "first"}, {"x-test", "second"}};
	OK(cairn_channel_unary(f->channel, UNARY, headers, 3, 5000, &q.base, &READ_RESP, &m, &err));
	read_resp *r = (read_resp *)(void *)m;
	assert_int_equal(r->offset, 1);
	assert_int_equal(r->data.len, 5);
	assert_memory_equal(r->data.data, "first", 5);
	free_resp(r);
	OK(cairn_channel_unary(f->channel, UNARY, NULL, 0, 20000, &q.base, &READ_RESP, &m, &err));
	r = (read_resp *)(void *)m;
	assert_int_equal(r->offset, 0);
	free_resp(r);
}

static void bad_headers__are_refused(void **state)
{
	struct fixture *f = *state;
	struct cairn_err err;
	read_req q = READ_REQ_INIT;
	ProtobufCMessage *m;
	struct cairn_call *call;
	const struct cairn_header bad[] = {{"X-Upper", "v"}, {"x-test", "a\nb"}};
	struct cairn_header many[17];
	for (size_t i = 0; i < CAIRN_LEN(bad); i++) {
		assert_int_equal(cairn_channel_unary(f->channel, UNARY, &bad[i], 1, 5000, &q.base,
						     &READ_RESP, &m, &err),
				 CAIRN_INVALID_ARGUMENT);
		assert_int_equal(
			cairn_channel_open(f->channel, BIDI, &bad[i], 1, 5000, &call, &err),
			CAIRN_INVALID_ARGUMENT);
	}
	for (size_t i = 0; i < CAIRN_LEN(many); i++) many[i] = (struct cairn_header){"a", "b"};
	assert_int_equal(
		cairn_channel_open(f->channel, BIDI, many, CAIRN_LEN(many), 5000, &call, &err),
		CAIRN_INVALID_ARGUMENT);
}

static void nobody_there__is_unavailable(void **state)
{
	struct fixture *f = *state;
	struct cairn_err err;
	struct cairn_channel *channel;
	struct cairn_call *call;
	read_resp *r = NULL;
	OK(cairn_channel_new(f->rpc, "unix:/nonexistent/sock", NULL, &channel, &err));
	assert_int_equal(ask(channel, "echo", 0, 0, 20000, &r, &err), CAIRN_UNAVAILABLE);
	OK(cairn_channel_open(channel, BIDI, NULL, 0, 20000, &call, &err));
	assert_int_equal(cairn_call_finish(call, &err), CAIRN_UNAVAILABLE);
	cairn_channel_free(channel);
}

/* To gRPC a target is a URI; to us, and to those who configure it, it is a path. */
static void channel__takes_any_path(void **state)
{
	struct fixture *f = *state;
	static const char *const names[] = {"a%20b", "100%",	 "a b", "a?b",
					    "a#b",   "\xc3\xa9", "a:b"};
	for (size_t i = 0; i < CAIRN_LEN(names); i++) {
		struct cairn_err err;
		struct cairn_channel *channel;
		read_resp *r = NULL;
		char path[100], target[128];
		snprintf(path, sizeof(path), "%s/%s", f->dir, names[i]);
		assert_int_equal(symlink(f->path, path), 0);
		snprintf(target, sizeof(target), "unix:%s", path);
		OK(cairn_channel_new(f->rpc, target, NULL, &channel, &err));
		OK(ask(channel, "echo", 0, 10, 20000, &r, &err));
		free_resp(r);
		cairn_channel_free(channel);
		assert_int_equal(unlink(path), 0);
	}
}

static void channel__reconnects_after_a_restart(void **state)
{
	struct fixture *f = *state;
	struct cairn_err err;
	read_resp *r = NULL;
	for (int i = 0; i < 3; i++) {
		OK(ask(f->channel, "echo", 0, 10, 20000, &r, &err));
		free_resp(r);
		fixture_stop(f);
		assert_int_equal(ask(f->channel, "echo", 0, 10, 20000, &r, &err),
				 CAIRN_UNAVAILABLE);
		fixture_start(f);
		int64_t begun = now_ns();
		UNTIL(ask(f->channel, "echo", 0, 10, 20000, &r, &err) == CAIRN_OK);
		free_resp(r);
		assert_true(now_ns() - begun < 8 * INT64_C(1000000000));
	}
}

static void restart__ends_open_streams(void **state)
{
	struct fixture *f = *state;
	struct cairn_err err;
	struct cairn_call *call;
	struct cairn_msg *msg;
	OK(cairn_channel_open(f->channel, BIDI, NULL, 0, 0, &call, &err));
	UNTIL(f->service.entered == 1);
	fixture_stop(f);
	assert_int_equal(cairn_call_recv(call, &msg), CAIRN_RECV_GONE);
	assert_true(cairn_call_gone(call));
	write_req q = WRITE_REQ_INIT;
	assert_int_equal(cairn_call_send(call, &q.base, &err), CAIRN_CANCELLED);
	assert_int_not_equal(cairn_call_finish(call, &err), CAIRN_OK);
}

static void finish__drops_what_was_not_received(void **state)
{
	struct fixture *f = *state;
	struct cairn_err err;
	struct cairn_call *call = ask_stream(f->channel, "count", 0, 1000, 10000);
	struct cairn_msg *msg;
	assert_int_equal(cairn_call_recv(call, &msg), CAIRN_RECV_MSG);
	cairn_msg_free(msg);
	OK(cairn_call_finish(call, &err));
	call = ask_stream(f->channel, "fail", CAIRN_DATA_LOSS, 0, 10000);
	assert_int_equal(cairn_call_finish(call, &err), CAIRN_DATA_LOSS);
	assert_string_equal(err.msg, "failed as asked");
	OK(cairn_channel_open(f->channel, BIDI, NULL, 0, 0, &call, &err));
	OK(cairn_call_finish(call, &err)); /* ends the sending by itself */
}

static void *cancel_soon(void *arg)
{
	usleep(20000);
	cairn_call_cancel(arg);
	return NULL;
}

static void cancel__ends_a_recv_in_another_thread(void **state)
{
	struct fixture *f = *state;
	struct cairn_err err;
	struct cairn_call *call;
	struct cairn_msg *msg;
	pthread_t thread;
	OK(cairn_channel_open(f->channel, BIDI, NULL, 0, 0, &call, &err));
	assert_int_equal(pthread_create(&thread, NULL, cancel_soon, call), 0);
	assert_int_equal(cairn_call_recv(call, &msg), CAIRN_RECV_GONE);
	pthread_join(thread, NULL);
	assert_int_equal(cairn_call_finish(call, &err), CAIRN_CANCELLED);
}

struct caller {
	struct fixture *f;
	pthread_t thread;
	int good;
};

static void *call_much(void *arg)
{
	struct caller *c = arg;
	for (int i = 0; i < 200; i++) {
		struct cairn_err err;
		read_resp *r = NULL;
		if (ask(c->f->channel, "echo", i, i, 20000, &r, &err) != CAIRN_OK) continue;
		c->good += r->offset == i && r->data.len == (size_t)i;
		free_resp(r);
	}
	return NULL;
}

static void threads__share_a_channel(void **state)
{
	struct caller callers[8];
	for (int i = 0; i < 8; i++) {
		callers[i] = (struct caller){.f = *state};
		assert_int_equal(pthread_create(&callers[i].thread, NULL, call_much, &callers[i]),
				 0);
	}
	for (int i = 0; i < 8; i++) {
		pthread_join(callers[i].thread, NULL);
		assert_int_equal(callers[i].good, 200);
	}
}

/* ---- from handlers --------------------------------------------------------------------------- */

static void handler__calls_onward_without_a_thread(void **state)
{
	struct fixture *f = *state;
	struct cairn_err err;
	OK(cairn_channel_new(f->rpc, f->target, NULL, &f->service.onward, &err));
	read_resp *r = NULL;
	for (int i = 0; i < 20; i++) {
		OK(ask(f->channel, "onward", 0, 5000, 20000, &r, &err));
		assert_int_equal(r->offset, 5000);
		free_resp(r);
	}
	/* More handlers waiting for another than there are threads. */
	struct cairn_call *calls[20];
	char cmd[] = "onward";
	read_req q = READ_REQ_INIT;
	q.digest = cmd;
	q.offset = 1;
	q.size = 3600 * 1000;
	int before = f->service.entered;
	for (int i = 0; i < 20; i++) {
		OK(cairn_channel_open(f->channel, UNARY, NULL, 0, 0, &calls[i], &err));
		OK(cairn_call_send(calls[i], &q.base, &err));
	}
	UNTIL(f->service.entered == before + 40);
	/* The cancel goes on to the call that each handler made. */
	for (int i = 0; i < 20; i++) {
		cairn_call_cancel(calls[i]);
		assert_int_equal(cairn_call_finish(calls[i], &err), CAIRN_CANCELLED);
	}
	UNTIL(f->service.left == f->service.entered);
	assert_int_equal(f->service.gone, 40);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(tcp_and_unix__answer_alike),
		TEST(headers__reach_the_handler),
		TEST(bad_headers__are_refused),
		TEST(nobody_there__is_unavailable),
		TEST(channel__takes_any_path),
		TEST(channel__reconnects_after_a_restart),
		TEST(restart__ends_open_streams),
		TEST(finish__drops_what_was_not_received),
		TEST(cancel__ends_a_recv_in_another_thread),
		TEST(threads__share_a_channel),
		TEST(handler__calls_onward_without_a_thread),
	};
	return cmocka_run_group_tests_name("rpc/client", tests, NULL, NULL);
}
