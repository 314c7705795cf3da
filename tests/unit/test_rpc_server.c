#include "support/rpc_fixture.h"

static void unary__answers(void **state)
{
	struct fixture *f = *state;
	struct cairn_err err;
	read_resp *r = NULL;
	OK(ask(f->channel, "echo", 7, 1000, 5000, &r, &err));
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
		read_resp *r;
		assert_int_equal(ask(f->channel, "fail", code, 0, 5000, &r, &err), code);
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
	OK(cairn_channel_open(f->channel, BIDI, NULL, 0, 5000, &call, &err));
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

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(unary__answers),
		TEST(unary__carries_every_error),
		TEST(server_stream__sends_in_order),
		TEST(bidi__answers_each_message),
	};
	return cmocka_run_group_tests_name("rpc/server", tests, NULL, NULL);
}
