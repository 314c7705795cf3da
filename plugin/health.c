/* The standard health service: Check, and Watch, which tells each change once. */
#include <string.h>

#include "health.pb-c.h"
#include "plugin/plugin.h"

#define WATCH_POLL_MS 1000 /* how late a change of state is told; a drain is told at once */

typedef Grpc__Health__V1__HealthCheckRequest pb_request;
typedef Grpc__Health__V1__HealthCheckResponse pb_response;
typedef Grpc__Health__V1__HealthCheckResponse__ServingStatus pb_status;

#define STATUS(name) GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__##name

static bool is_known(const char *service)
{
	static const char *const known[] = {
		"",
		"containerd.services.content.v1.Content",
		"cairn.v1.Cairn",
	};
	for (size_t i = 0; i < CAIRN_LEN(known); i++) {
		if (strcmp(service, known[i]) == 0) return true;
	}
	return false;
}

static pb_status current(const struct cairn_health_service *service)
{
	return atomic_load(&service->serving) ? STATUS(SERVING) : STATUS(NOT_SERVING);
}

static enum cairn_code check(void *arg, struct cairn_call *call, const void *request,
			     void *response, struct cairn_err *err)
{
	(void)call;
	const pb_request *req = request;
	pb_response *resp = response;
	if (!is_known(req->service)) {
		return cairn_err_set(err, CAIRN_NOT_FOUND, "no service \"%.100s\" here",
				     req->service);
	}
	resp->status = current(arg);
	return CAIRN_OK;
}

static enum cairn_code tell(struct cairn_call *call, pb_status status, struct cairn_err *err)
{
	pb_response resp;
	grpc__health__v1__health_check_response__init(&resp);
	resp.status = status;
	return cairn_call_send(call, &resp.base, err);
}

static enum cairn_code watch(void *arg, struct cairn_call *call, const void *request,
			     struct cairn_err *err)
{
	const pb_request *req = request;
	bool known = is_known(req->service);
	for (pb_status told = STATUS(UNKNOWN);;) {
		pb_status now = known ? current(arg) : STATUS(SERVICE_UNKNOWN);
		if (now != told) {
			enum cairn_code rc = tell(call, now, err);
			if (rc) return rc;
			told = now;
		}
		enum cairn_wake wake = cairn_call_wait(call, WATCH_POLL_MS);
		if (wake == CAIRN_WAKE_GONE) {
			return cairn_err_set(err, CAIRN_CANCELLED, "the Watch was cancelled");
		}
		if (wake != CAIRN_WAKE_DRAIN) continue;
		cairn_call_last(call);
		return tell(call, known ? STATUS(NOT_SERVING) : told, err);
	}
}

static const struct cairn_method methods[] = {
	{.path = "/grpc.health.v1.Health/Check",
	 .request = &grpc__health__v1__health_check_request__descriptor,
	 .response = &grpc__health__v1__health_check_response__descriptor,
	 .unary = check},
	{.path = "/grpc.health.v1.Health/Watch",
	 .request = &grpc__health__v1__health_check_request__descriptor,
	 .server_stream = watch},
};

void cairn_health_service_add(struct cairn_rpc_server *server, struct cairn_health_service *service)
{
	cairn_rpc_server_add(server, methods, CAIRN_LEN(methods), service);
}
