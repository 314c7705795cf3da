/* The requests of cairn's own service and of the health service. */
#include "base/digest.h"
#include "cairn.pb-c.h"
#include "health.pb-c.h"
#include "plugin/preheat_job.h"
#include "tests/fuzz/request.h"

static const ProtobufCMessageDescriptor *const types[] = {
	&cairn__v1__status_request__descriptor,
	&cairn__v1__list_blobs_request__descriptor,
	&cairn__v1__explain_request__descriptor,
	&cairn__v1__verify_request__descriptor,
	&cairn__v1__import_request__descriptor,
	&cairn__v1__export_request__descriptor,
	&grpc__health__v1__health_check_request__descriptor,
	&cairn__v1__preheat_request__descriptor,
	&cairn__v1__list_versions_request__descriptor,
	&cairn__v1__collect_garbage_request__descriptor,
	&cairn__v1__prune_request__descriptor,
	&cairn__v1__pin_request__descriptor,
	&cairn__v1__unpin_request__descriptor,
	&cairn__v1__get_job_request__descriptor,
	&cairn__v1__cancel_job_request__descriptor,
	&cairn__v1__list_peers_request__descriptor,
};

static void check_digest(const char *text)
{
	struct cairn_digest digest;
	struct cairn_err err = {0};
	enum cairn_code rc = cairn_digest_parse(text, strlen(text), &digest, &err);
	FUZZ_CHECK(rc == CAIRN_OK || (rc == CAIRN_INVALID_ARGUMENT && err.msg[0] != '\0'));
}

/* A job, or an error that says why not; and what is told of a job can be told. */
static void check_preheat(const Cairn__V1__PreheatRequest *request)
{
	struct cairn_err err = {0};
	struct cairn_preheat_job *job = NULL;
	const struct cairn_platform node = {"linux", "amd64", ""};
	enum cairn_code rc = cairn_preheat_job_new(request, &node, &job, &err);
	FUZZ_CHECK(rc == CAIRN_OK || (rc == CAIRN_INVALID_ARGUMENT && err.msg[0] != '\0'));
	if (rc) return;
	Cairn__V1__Job *msg = cairn_preheat_job_message(job);
	FUZZ_CHECK(msg->n_images == request->n_references);
	cairn__v1__job__free_unpacked(msg, NULL);
	cairn_preheat_job_unref(job);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size == 0) return 0;
	const ProtobufCMessageDescriptor *type = types[data[0] % CAIRN_LEN(types)];
	ProtobufCMessage *msg = fuzz_unpack(type, data + 1, size - 1);
	if (msg == NULL) return 0;
	if (type == &cairn__v1__explain_request__descriptor) {
		check_digest(((Cairn__V1__ExplainRequest *)msg)->digest);
	} else if (type == &cairn__v1__verify_request__descriptor) {
		const Cairn__V1__VerifyRequest *req = (void *)msg;
		for (size_t i = 0; i < req->n_digests; i++) check_digest(req->digests[i]);
	}
	if (type == &cairn__v1__preheat_request__descriptor) {
		check_preheat((const Cairn__V1__PreheatRequest *)msg);
	}
	protobuf_c_message_free_unpacked(msg, NULL);
	return 0;
}
