/* The requests of containerd's content service, then what their handlers check first. The Write
 * request, which is not decoded by protobuf-c, has a target of its own. */
#include "base/own.h"
#include "content.pb-c.h"
#include "plugin/content.h"
#include "plugin/filter.h"
#include "plugin/ref.h"
#include "tests/fuzz/request.h"

#define TYPE(name) &containerd__services__content__v1__##name##__descriptor

static const ProtobufCMessageDescriptor *const types[] = {
	TYPE(info_request),	      TYPE(update_request),	  TYPE(list_content_request),
	TYPE(delete_content_request), TYPE(read_content_request), TYPE(status_request),
	TYPE(list_statuses_request),  TYPE(abort_request),	  TYPE(write_content_request),
};

static void check_code(enum cairn_code rc, const struct cairn_err *err)
{
	FUZZ_CHECK(rc == CAIRN_OK || (rc == CAIRN_INVALID_ARGUMENT && err->msg[0] != '\0'));
}

static void check_info(const Containerd__Services__Content__V1__Info *info)
{
	struct cairn_err err = {0};
	struct cairn_digest digest;
	if (info == NULL) return;
	check_code(cairn_content_parse_digest(info->digest, &digest, &err), &err);
	for (size_t i = 0; i < info->n_labels; i++) {
		check_code(cairn_content_check_label(info->labels[i]->key, info->labels[i]->value,
						     &err),
			   &err);
	}
}

static void check_filters(char *const *texts, size_t n)
{
	struct cairn_err err = {0};
	struct cairn_filter *filter = NULL;
	check_code(cairn_filter_parse(texts, n, &filter, &err), &err);
	cairn_filter_free(filter);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size == 0) return 0;
	const ProtobufCMessageDescriptor *type = types[data[0] % CAIRN_LEN(types)];
	ProtobufCMessage *msg = fuzz_unpack(type, data + 1, size - 1);
	if (msg == NULL) return 0;
	if (type == TYPE(info_request)) {
		struct cairn_err err = {0};
		struct cairn_digest digest;
		const Containerd__Services__Content__V1__InfoRequest *req = (void *)msg;
		check_code(cairn_content_parse_digest(req->digest, &digest, &err), &err);
	} else if (type == TYPE(update_request)) {
		check_info(((Containerd__Services__Content__V1__UpdateRequest *)msg)->info);
	} else if (type == TYPE(list_content_request)) {
		const Containerd__Services__Content__V1__ListContentRequest *req = (void *)msg;
		check_filters(req->filters, req->n_filters);
	} else if (type == TYPE(list_statuses_request)) {
		const Containerd__Services__Content__V1__ListStatusesRequest *req = (void *)msg;
		check_filters(req->filters, req->n_filters);
	} else if (type == TYPE(status_request)) {
		struct cairn_ref ref;
		cairn_ref_parse(((Containerd__Services__Content__V1__StatusRequest *)msg)->ref,
				&ref);
	}
	protobuf_c_message_free_unpacked(msg, NULL);
	return 0;
}
