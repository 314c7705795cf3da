#include "support/content_fixture.h"

#include "health.pb-c.h"

typedef Grpc__Health__V1__HealthCheckRequest pb_check;
typedef Grpc__Health__V1__HealthCheckResponse pb_checked;

#define SERVING 1
#define NOT_SERVING 2
#define SERVICE_UNKNOWN 3

static int setup(void **state)
{
	*state = node_new(true, false);
	return 0;
}

static int teardown(void **state)
{
	node_free(*state);
	return 0;
}

static enum cairn_code check(struct node *n, const char *service, int *ret)
{
	pb_check req = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;
	pb_checked *resp = NULL;
	req.service = (char *)(uintptr_t)service;
	enum cairn_code rc = unary(n, "/grpc.health.v1.Health/Check", &req.base,
				   &grpc__health__v1__health_check_response__descriptor, &resp);
	if (rc) return rc;
	*ret = (int)resp->status;
	protobuf_c_message_free_unpacked(&resp->base, NULL);
	return CAIRN_OK;
}

static void check__knows_the_services(void **state)
{
	struct node *n = *state;
	int status = 0;
	static const char *const known[] = {"", "containerd.services.content.v1.Content",
					    "cairn.v1.Cairn"};
	for (size_t i = 0; i < CAIRN_LEN(known); i++) {
		OK(check(n, known[i], &status));
		assert_int_equal(status, SERVING);
	}
	assert_int_equal(check(n, "other.Service", &status), CAIRN_NOT_FOUND);
	atomic_store(&n->health.serving, false);
	OK(check(n, "", &status));
	assert_int_equal(status, NOT_SERVING);
}

static struct cairn_call *watch(struct node *n, const char *service)
{
	pb_check req = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;
	struct cairn_call *call = NULL;
	req.service = (char *)(uintptr_t)service;
	OK(cairn_channel_open(n->channel, "/grpc.health.v1.Health/Watch", NULL, 0, 20000, &call,
			      &node_err));
	OK(cairn_call_send(call, &req.base, &node_err));
	OK(cairn_call_half_close(call, &node_err));
	return call;
}

static int next_status(struct cairn_call *call)
{
	struct cairn_msg *msg = NULL;
	ProtobufCMessage *pb = NULL;
	if (cairn_call_recv(call, &msg) != CAIRN_RECV_MSG) return -1;
	OK(cairn_msg_unpack(call, msg, &grpc__health__v1__health_check_response__descriptor, &pb,
			    &node_err));
	cairn_msg_free(msg);
	return (int)((pb_checked *)(void *)pb)->status;
}

static void watch__tells_each_change(void **state)
{
	struct node *n = *state;
	struct cairn_err ignored;
	struct cairn_call *call = watch(n, "");
	assert_int_equal(next_status(call), SERVING);
	atomic_store(&n->health.serving, false);
	assert_int_equal(next_status(call), NOT_SERVING);
	atomic_store(&n->health.serving, true);
	assert_int_equal(next_status(call), SERVING);
	cairn_call_cancel(call);
	(void)!cairn_call_finish(call, &ignored);
	call = watch(n, "other.Service");
	assert_int_equal(next_status(call), SERVICE_UNKNOWN);
	cairn_call_cancel(call);
	(void)!cairn_call_finish(call, &ignored);
}

static void watch__ends_with_the_drain(void **state)
{
	struct node *n = *state;
	struct cairn_call *call = watch(n, "cairn.v1.Cairn");
	assert_int_equal(next_status(call), SERVING);
	assert_int_equal(node_drain(n, 10000), 0);
	assert_int_equal(next_status(call), NOT_SERVING);
	assert_int_equal(next_status(call), -1);
	OK(cairn_call_finish(call, &node_err));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(check__knows_the_services, setup, teardown),
		cmocka_unit_test_setup_teardown(watch__tells_each_change, setup, teardown),
		cmocka_unit_test_setup_teardown(watch__ends_with_the_drain, setup, teardown),
	};
	return cmocka_run_group_tests_name("plugin/health", tests, NULL, NULL);
}
