/* containerd's content service: the method table and the calls with one answer.
 *
 * Info, the opening STAT, COMMIT, Delete and Abort are called under containerd's global locks, so
 * what serves them answers from memory. What containerd sees are referenced blobs only: a cached
 * blob is not found by Info and not in List, because containerd's GC destroys what it finds there
 * and does not know. Delete and Abort of something unknown are OK: an error would stop that GC. */
#include "plugin/content.h"

#include <string.h>

#include "plugin/message.h"
#include "plugin/ref.h"

static_assert(CAIRN_CONTENT_READ_PIECE + 64 < CAIRN_RPC_MESSAGE_MAX, "a piece fits a message");

const char *cairn_content_source_name(enum cairn_content_source source)
{
	static const char *const names[CAIRN_FROM_ENDS] = {
		[CAIRN_FROM_CACHE] = "cache",
		[CAIRN_FROM_PREHEAT] = "preheat",
		[CAIRN_FROM_PEERS] = "peers",
		[CAIRN_FROM_CONTAINERD] = "containerd",
	};
	return names[source];
}

enum cairn_code cairn_content_parse_digest(const char *text, struct cairn_digest *ret,
					   struct cairn_err *err)
{
	return cairn_digest_parse(text, strlen(text), ret, err);
}

enum cairn_code cairn_content_check_label(const char *key, const char *value, struct cairn_err *err)
{
	size_t n = strlen(key) + strlen(value);
	if (n > CAIRN_LABEL_BYTES_MAX) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "label %.100s: key and value have %zu bytes, at most %d are "
				     "allowed",
				     key, n, CAIRN_LABEL_BYTES_MAX);
	}
	if (!cairn_ref_is_utf8(key) || !cairn_ref_is_utf8(value)) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "a label's key or value is not valid UTF-8");
	}
	return CAIRN_OK;
}

static pb_info *make_info(struct cairn_call *call, const struct cairn_blob_info *info)
{
	pb_info *pb = cairn_call_alloc(call, sizeof(*pb));
	containerd__services__content__v1__info__init(pb);
	pb->digest = cairn_message_digest(call, &info->digest);
	pb->size = (int64_t)info->size;
	pb->created_at = cairn_message_time(call, info->created_ns);
	pb->updated_at = cairn_message_time(call, info->updated_ns);
	pb->labels = cairn_message_labels(call, info->labels, &pb->n_labels);
	return pb;
}

static enum cairn_code info(void *arg, struct cairn_call *call, const void *request, void *response,
			    struct cairn_err *err)
{
	const struct cairn_content_service *service = arg;
	const Containerd__Services__Content__V1__InfoRequest *req = request;
	Containerd__Services__Content__V1__InfoResponse *resp = response;
	struct cairn_digest digest;
	enum cairn_code rc = cairn_content_parse_digest(req->digest, &digest, err);
	if (rc) return rc;
	cairn_auto(cairn_blob_info_fini) struct cairn_blob_info blob = {0};
	rc = cairn_cache_promise(service->cache, &digest, &blob, err);
	if (rc) return rc;
	resp->info = make_info(call, &blob);
	return CAIRN_OK;
}

/* Entries of a map on the wire: of equal keys the last one counts. Returns NULL if there is none.
 */
static const char *find_label(const pb_info *req, const char *key)
{
	for (size_t i = req->n_labels; i > 0; i--) {
		if (strcmp(req->labels[i - 1]->key, key) == 0) return req->labels[i - 1]->value;
	}
	return NULL;
}

/* All labels of the request, each key once. Returns their number. */
static size_t collect_all(const pb_info *req, struct cairn_label *ret)
{
	size_t n = 0;
	for (size_t i = 0; i < req->n_labels; i++) {
		const Cairn__Wire__Label *label = req->labels[i];
		if (find_label(req, label->key) != label->value) continue; /* a later one counts */
		ret[n++] = (struct cairn_label){label->key, label->value};
	}
	return n;
}

/* The labels that the mask's "labels.<key>" paths name; everything after the first dot is the key.
 * *ret_all: the mask, or its absence, asks to replace all labels. */
static enum cairn_code collect_masked(const pb_info *req, const Cairn__Wire__FieldMask *mask,
				      struct cairn_label *ret, size_t *ret_n, bool *ret_all,
				      struct cairn_err *err)
{
	static const char prefix[] = "labels.";
	*ret_n = 0;
	*ret_all = mask == NULL || mask->n_paths == 0;
	for (size_t i = 0; mask != NULL && i < mask->n_paths; i++) {
		const char *path = mask->paths[i];
		if (strcmp(path, "labels") == 0) {
			*ret_all = true;
			continue;
		}
		if (strncmp(path, prefix, sizeof(prefix) - 1) != 0) {
			return cairn_err_set(
				err, CAIRN_INVALID_ARGUMENT,
				"cannot update field \"%.100s\" of content %.80s: only labels and "
				"labels.<key> can be updated",
				path, req->digest);
		}
		const char *key = path + sizeof(prefix) - 1;
		const char *value = find_label(req, key);
		ret[(*ret_n)++] = (struct cairn_label){key, value != NULL ? value : ""};
	}
	return CAIRN_OK;
}

static enum cairn_code apply_labels(struct cairn_content_service *service, struct cairn_call *call,
				    const struct cairn_digest *digest, const pb_info *req,
				    const Cairn__Wire__FieldMask *mask, struct cairn_err *err)
{
	size_t paths = mask != NULL ? mask->n_paths : 0;
	enum cairn_code rc = CAIRN_OK;
	if (req->n_labels > CAIRN_LABELS_MAX || paths > CAIRN_LABELS_MAX) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "update of %.80s: %zu labels and %zu mask paths; at most %d "
				     "of each are allowed",
				     req->digest, req->n_labels, paths, CAIRN_LABELS_MAX);
	}
	for (size_t i = 0; i < req->n_labels; i++) {
		rc = cairn_content_check_label(req->labels[i]->key, req->labels[i]->value, err);
		if (rc) return rc;
	}
	size_t max = req->n_labels + paths + 1;
	struct cairn_label *labels = cairn_call_alloc(call, max * sizeof(labels[0]));
	size_t n = 0;
	bool all = false;
	rc = collect_masked(req, mask, labels, &n, &all, err);
	if (rc) return rc;
	if (all) n = collect_all(req, labels);
	return cairn_cache_set_labels(service->cache, digest, labels, n, all, err);
}

static enum cairn_code update(void *arg, struct cairn_call *call, const void *request,
			      void *response, struct cairn_err *err)
{
	struct cairn_content_service *service = arg;
	const Containerd__Services__Content__V1__UpdateRequest *req = request;
	Containerd__Services__Content__V1__UpdateResponse *resp = response;
	struct cairn_digest digest;
	if (req->info == NULL) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT, "an Update without info");
	}
	enum cairn_code rc = cairn_content_parse_digest(req->info->digest, &digest, err);
	if (rc) return rc;
	rc = apply_labels(service, call, &digest, req->info, req->update_mask, err);
	if (rc) return rc;
	cairn_auto(cairn_blob_info_fini) struct cairn_blob_info blob = {0};
	rc = cairn_cache_promise(service->cache, &digest, &blob, err);
	if (rc) return rc;
	resp->info = make_info(call, &blob);
	return CAIRN_OK;
}

static enum cairn_code delete_blob(void *arg, struct cairn_call *call, const void *request,
				   void *response, struct cairn_err *err)
{
	(void)call;
	(void)response;
	const struct cairn_content_service *service = arg;
	const Containerd__Services__Content__V1__DeleteContentRequest *req = request;
	struct cairn_digest digest;
	enum cairn_code rc = cairn_content_parse_digest(req->digest, &digest, err);
	if (rc) return rc;
	cairn_cache_release(service->cache, &digest);
	cairn_gc_deleted(service->gc);
	return CAIRN_OK;
}

void cairn_content_fill_status(struct cairn_call *call, const struct cairn_ingest_status *st,
			       pb_status *ret)
{
	containerd__services__content__v1__status__init(ret);
	ret->ref = cairn_call_strdup(call, st->ref);
	ret->offset = (int64_t)st->offset;
	ret->total = (int64_t)st->total;
	ret->expected = cairn_message_digest(call, &st->expected);
	ret->started_at = cairn_message_time(call, st->started_ns);
	ret->updated_at = cairn_message_time(call, st->updated_ns);
}

static enum cairn_code status(void *arg, struct cairn_call *call, const void *request,
			      void *response, struct cairn_err *err)
{
	const struct cairn_content_service *service = arg;
	const Containerd__Services__Content__V1__StatusRequest *req = request;
	Containerd__Services__Content__V1__StatusResponse *resp = response;
	struct cairn_ingest_status st;
	enum cairn_code rc = cairn_cache_ingest_status(service->cache, req->ref, &st, err);
	if (rc) return rc;
	resp->status = cairn_call_alloc(call, sizeof(*resp->status));
	cairn_content_fill_status(call, &st, resp->status);
	return CAIRN_OK;
}

static enum cairn_code abort_ingest(void *arg, struct cairn_call *call, const void *request,
				    void *response, struct cairn_err *err)
{
	(void)call;
	(void)response;
	(void)err;
	const struct cairn_content_service *service = arg;
	const Containerd__Services__Content__V1__AbortRequest *req = request;
	cairn_cache_abort(service->cache, req->ref);
	return CAIRN_OK;
}

#define PATH(method) "/containerd.services.content.v1.Content/" method
#define TYPE(name) &containerd__services__content__v1__##name##__descriptor

static const struct cairn_method methods[] = {
	{.path = PATH("Info"),
	 .request = TYPE(info_request),
	 .response = TYPE(info_response),
	 .unary = info},
	{.path = PATH("Update"),
	 .request = TYPE(update_request),
	 .response = TYPE(update_response),
	 .unary = update},
	{.path = PATH("List"),
	 .request = TYPE(list_content_request),
	 .server_stream = cairn_content_list},
	{.path = PATH("Delete"),
	 .request = TYPE(delete_content_request),
	 .response = &cairn__wire__empty__descriptor,
	 .unary = delete_blob},
	{.path = PATH("Read"),
	 .request = TYPE(read_content_request),
	 .server_stream = cairn_content_read},
	{.path = PATH("Status"),
	 .request = TYPE(status_request),
	 .response = TYPE(status_response),
	 .unary = status},
	{.path = PATH("ListStatuses"),
	 .request = TYPE(list_statuses_request),
	 .response = TYPE(list_statuses_response),
	 .unary = cairn_content_list_statuses},
	{.path = PATH("Write"),
	 .request = TYPE(write_content_request),
	 .bidi = cairn_content_write},
	{.path = PATH("Abort"),
	 .request = TYPE(abort_request),
	 .response = &cairn__wire__empty__descriptor,
	 .unary = abort_ingest},
};

void cairn_content_service_set_limits(struct cairn_content_service *service, int64_t stall_ms,
				      uint64_t min_rate)
{
	atomic_store(&service->stall_ms, stall_ms);
	atomic_store(&service->min_rate, min_rate);
}

void cairn_content_service_add(struct cairn_rpc_server *server,
			       struct cairn_content_service *service)
{
	cairn_rpc_server_add(server, methods, CAIRN_LEN(methods), service);
}
