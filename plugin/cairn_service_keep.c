/* ListVersions, Pin, Unpin: what is kept for roll-back, and what an admin wants kept. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "oci/oci.h"
#include "plugin/cairn_service.h"
#include "plugin/gc.h"
#include "plugin/graph.h"
#include "plugin/message.h"

#define BATCH 50 /* versions in one message */

/* ---- names ---- */

static bool is_known(struct cairn_cache *cache, const char *name)
{
	struct cairn_version *versions;
	size_t n = cairn_cache_versions(cache, name, &versions);
	cairn_versions_free(versions, n);
	return n > 0;
}

bool cairn_service_is_digest(const char *text)
{
	return strncmp(text, "sha256:", 7) == 0 || strncmp(text, "sha512:", 7) == 0;
}

enum cairn_code cairn_service_name(struct cairn_cache *cache, const char *text,
				   char ret[static CAIRN_NAME_MAX + 1], struct cairn_err *err)
{
	struct cairn_reference ref;
	char full[CAIRN_REFERENCE_MAX + 256];
	bool fits = strlen(text) <= CAIRN_NAME_MAX;
	if (fits && is_known(cache, text)) {
		memcpy(ret, text, strlen(text) + 1);
		return CAIRN_OK;
	}
	enum cairn_code rc = cairn_reference_parse(text, &ref, err);
	if (rc) return rc;
	cairn_reference_format(&ref, full);
	if (strlen(full) > CAIRN_NAME_MAX) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "an image name of %zu bytes: at most %d are allowed",
				     strlen(full), CAIRN_NAME_MAX);
	}
	memcpy(ret, full, strlen(full) + 1);
	return CAIRN_OK;
}

/* ---- versions ---- */

/* Store time as real time, as far as the clocks agree. */
static int64_t real_of(int64_t now_real_ns, int64_t now_ns, int64_t then_ns)
{
	return now_real_ns - (now_ns - then_ns);
}

Cairn__V1__Version *cairn_service_version(struct cairn_cache *cache, int64_t real_ns,
					  const struct cairn_gc_pass *pass, size_t i)
{
	char text[CAIRN_DIGEST_STR];
	const struct cairn_version *v = &pass->holds.versions[i];
	struct cairn_graph_state state;
	Cairn__V1__Version *msg = malloc(sizeof(*msg));
	if (msg == NULL) abort();
	cairn_graph_state(cache, &v->root, &state);
	cairn__v1__version__init(msg);
	msg->name = cairn_message_text(v->name);
	msg->digest = cairn_message_text(cairn_digest_format(&v->root, text));
	msg->current = cairn_image_index_has(&pass->holds.images, v->name, &v->root);
	msg->first_seen = cairn_message_new_time(real_of(real_ns, pass->now_ns, v->first_ns));
	msg->last_seen = cairn_message_new_time(real_of(real_ns, pass->now_ns, v->last_ns));
	msg->blobs = (int64_t)state.blobs;
	msg->bytes = (int64_t)state.bytes;
	msg->missing_blobs = (int64_t)state.missing_blobs;
	msg->missing_bytes = (int64_t)state.missing_bytes;
	msg->complete = state.ready;
	msg->kept = pass->holds.kept[i];
	return msg;
}

static enum cairn_code send_versions(struct cairn_admin_service *service, struct cairn_call *call,
				     const struct cairn_gc_pass *pass, const char *name,
				     struct cairn_err *err)
{
	Cairn__V1__Version **list = cairn_call_alloc(call, BATCH * sizeof(list[0]));
	for (size_t i = 0; i < pass->holds.n_versions;) {
		Cairn__V1__ListVersionsResponse response = CAIRN__V1__LIST_VERSIONS_RESPONSE__INIT;
		response.versions = list;
		cairn_call_offload(call); /* manifests are read */
		for (; i < pass->holds.n_versions && response.n_versions < BATCH; i++) {
			const char *its = pass->holds.versions[i].name;
			bool wanted = name != NULL ? strcmp(its, name) == 0 : cairn_name_moves(its);
			if (!wanted) continue;
			list[response.n_versions++] = cairn_service_version(
				service->cache, cairn_real_ns(service->clock), pass, i);
		}
		if (response.n_versions == 0) break;
		enum cairn_code rc = cairn_call_send(call, &response.base, err);
		while (response.n_versions > 0) {
			cairn__v1__version__free_unpacked(list[--response.n_versions], NULL);
		}
		if (rc) return rc;
	}
	return CAIRN_OK;
}

enum cairn_code cairn_service_versions(void *arg, struct cairn_call *call, const void *req,
				       struct cairn_err *err)
{
	struct cairn_admin_service *service = arg;
	const Cairn__V1__ListVersionsRequest *request = req;
	char *name = NULL;
	if (request->fleet) return cairn_service_fleet_versions(service, call, request, err);
	if (request->name[0] != '\0') {
		name = cairn_call_alloc(call, CAIRN_NAME_MAX + 1);
		enum cairn_code rc = cairn_service_name(service->cache, request->name, name, err);
		if (rc) return rc;
	}
	cairn_call_offload(call);
	struct cairn_gc_look *look = cairn_gc_look(service->gc);
	enum cairn_code rc = send_versions(service, call, &look->pass, name, err);
	cairn_call_offload(call);
	cairn_gc_look_unref(look);
	return rc;
}

/* ---- pins ---- */

/* A digest, or a name; name@digest stands for the digest. */
static enum cairn_code parse_target(struct cairn_cache *cache, const char *text,
				    char ret[static CAIRN_NAME_MAX + 1], struct cairn_err *err)
{
	struct cairn_digest digest;
	struct cairn_reference ref;
	struct cairn_err ignored;
	if (text[0] == '\0') {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "no target; give an image's name, or a digest");
	}
	enum cairn_code rc = cairn_digest_parse(text, strlen(text), &digest, err);
	if (rc == CAIRN_OK) cairn_digest_format(&digest, ret);
	if (rc == CAIRN_OK || cairn_service_is_digest(text)) return rc;
	rc = cairn_service_name(cache, text, ret, err);
	if (rc) return rc;
	if (cairn_reference_parse(text, &ref, &ignored) == CAIRN_OK && ref.digest.alg != 0) {
		cairn_digest_format(&ref.digest, ret);
	}
	return CAIRN_OK;
}

/* What of it is here now. */
static void count_target(struct cairn_cache *cache, const char *target, int64_t *ret_blobs,
			 int64_t *ret_bytes)
{
	struct cairn_digest root = {0};
	struct cairn_err ignored;
	struct cairn_version *versions;
	bool any = cairn_digest_parse(target, strlen(target), &root, &ignored) == CAIRN_OK;
	size_t n = cairn_cache_versions(cache, target, &versions);
	if (n > 0) root = versions[0].root; /* what an image's id stands for has the config, too */
	cairn_versions_free(versions, n);
	if (!any && n == 0) return;
	struct cairn_needs *needs = cairn_graph_needs(cache, &root);
	for (size_t i = 0; i < needs->n; i++) {
		struct cairn_blob_info info;
		if (cairn_cache_info(cache, &needs->list[i].digest, &info, &ignored) != CAIRN_OK) {
			continue;
		}
		(*ret_blobs)++;
		*ret_bytes += (int64_t)info.size;
		cairn_blob_info_fini(&info);
	}
	cairn_needs_unref(needs);
}

enum cairn_code cairn_service_pin(void *arg, struct cairn_call *call, const void *req, void *ret,
				  struct cairn_err *err)
{
	struct cairn_admin_service *service = arg;
	const Cairn__V1__PinRequest *request = req;
	Cairn__V1__PinResponse *response = ret;
	if (request->for_seconds < 0 || request->for_seconds > CAIRN_PIN_SECONDS_MAX) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "for_seconds is %lld; allowed: 0 (for ever) to %lld",
				     (long long)request->for_seconds,
				     (long long)CAIRN_PIN_SECONDS_MAX);
	}
	response->target = cairn_call_alloc(call, CAIRN_NAME_MAX + 1);
	enum cairn_code rc = parse_target(service->cache, request->target, response->target, err);
	if (rc) return rc;
	cairn_call_offload(call);
	rc = cairn_cache_pin(service->cache, response->target,
			     request->for_seconds * CAIRN_NS_PER_S, err);
	if (rc) return rc;
	count_target(service->cache, response->target, &response->blobs, &response->bytes);
	return CAIRN_OK;
}

enum cairn_code cairn_service_unpin(void *arg, struct cairn_call *call, const void *req, void *ret,
				    struct cairn_err *err)
{
	struct cairn_admin_service *service = arg;
	const Cairn__V1__UnpinRequest *request = req;
	Cairn__V1__UnpinResponse *response = ret;
	char *target = cairn_call_alloc(call, CAIRN_NAME_MAX + 1);
	bool was = false;
	enum cairn_code rc = parse_target(service->cache, request->target, target, err);
	if (rc) return rc;
	cairn_call_offload(call);
	rc = cairn_cache_unpin(service->cache, target, &was, err);
	response->was_pinned = was;
	return rc;
}
