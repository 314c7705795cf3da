/* What containerd's own client does at the end of a pull: a lease that keeps what has no image yet,
 * content with the labels by which garbage collection follows it, the image record; then the lease
 * may go. Each blob is a Write without bytes: containerd asks us for it, and finds the ingest
 * prefilled. Spec: containerd's docs/garbage-collection.md; labels as images/handlers.go sets them.
 */
#include "plugin/register.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "cache/evict.h"
#include "content.pb-c.h"
#include "images.pb-c.h"
#include "leases.pb-c.h"
#include "oci/oci.h"

#define CALL_MS 30000
#define CONNECT_TRIES 12
#define CONNECT_PAUSE_MS 400
#define LEASE_S 3600	/* it ends by itself where we cannot end it */
#define BLOBS_MAX 16384 /* of one image */
#define LABEL_KEY 300
#define CONTENT "/containerd.services.content.v1.Content/"
#define IMAGES "/containerd.services.images.v1.Images/"
#define LEASES "/containerd.services.leases.v1.Leases/"

struct registering {
	const struct cairn_register *what;
	char lease[64];
	struct cairn_header headers[2]; /* namespace, lease */
	char source_key[LABEL_KEY];	/* containerd.io/distribution.source.<host> */
	unsigned blobs;
};

/* Labels of one blob, in the shape that protobuf-c wants. */
struct labels {
	Cairn__Wire__Label *list;
	Cairn__Wire__Label **pointers;
	char (*keys)[LABEL_KEY];
	char (*values)[CAIRN_DIGEST_STR];
	size_t n;
};

static void *must(void *p)
{
	if (p == NULL) abort();
	return p;
}

/* ---- calls ------------------------------------------------------------------------------------*/

static enum cairn_code call(struct registering *r, const char *path,
			    const ProtobufCMessage *request, const ProtobufCMessageDescriptor *type,
			    struct cairn_err *err)
{
	ProtobufCMessage *response = NULL;
	size_t headers = r->lease[0] != '\0' ? 2 : 1;
	enum cairn_code rc = cairn_channel_unary(r->what->channel, path, r->headers, headers,
						 CALL_MS, request, type, &response, err);
	if (rc == CAIRN_OK) protobuf_c_message_free_unpacked(response, NULL);
	return rc;
}

static bool nap(struct registering *r)
{
	struct timespec ts = {0, CONNECT_PAUSE_MS * CAIRN_NS_PER_MS};
	nanosleep(&ts, NULL);
	return r->what->go_on == NULL || r->what->go_on(r->what->arg);
}

static enum cairn_code begin_lease(struct registering *r, struct cairn_err *err)
{
	uint64_t bits = 0;
	char id[sizeof(r->lease)], expire[32];
	struct tm tm;
	time_t end = time(NULL) + LEASE_S;
	if (getrandom(&bits, sizeof(bits), 0) != sizeof(bits)) abort();
	snprintf(id, sizeof(id), "cairn-preheat-%016llx", (unsigned long long)bits);
	strftime(expire, sizeof(expire), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&end, &tm));
	char key[] = "containerd.io/gc.expire";
	Cairn__Wire__Label label, *list = &label;
	cairn__wire__label__init(&label);
	label.key = key;
	label.value = expire;
	Containerd__Services__Leases__V1__CreateRequest request;
	containerd__services__leases__v1__create_request__init(&request);
	request.id = id;
	request.labels = &list;
	request.n_labels = 1;
	/* containerd may just be restarting; the channel itself waits before it connects again. */
	enum cairn_code rc = CAIRN_UNAVAILABLE;
	for (unsigned tries = 0; rc == CAIRN_UNAVAILABLE && tries < CONNECT_TRIES; tries++) {
		if (tries > 0 && !nap(r)) break;
		rc = call(r, LEASES "Create", &request.base,
			  &containerd__services__leases__v1__create_response__descriptor, err);
		if (rc == CAIRN_ALREADY_EXISTS) rc = CAIRN_OK; /* ours, made by a try before */
	}
	if (rc) return rc;
	memcpy(r->lease, id, sizeof(r->lease));
	r->headers[1] = (struct cairn_header){"containerd-lease", r->lease};
	return CAIRN_OK;
}

static void end_lease(struct registering *r)
{
	struct cairn_err ignored; /* then it ends with its time */
	Containerd__Services__Leases__V1__DeleteRequest request;
	containerd__services__leases__v1__delete_request__init(&request);
	request.id = r->lease;
	(void)!call(r, LEASES "Delete", &request.base, &cairn__wire__empty__descriptor, &ignored);
}

/* ---- one blob ---------------------------------------------------------------------------------*/

static void labels_init(struct labels *l, size_t max)
{
	l->n = 0;
	l->list = must(calloc(max, sizeof(l->list[0])));
	l->pointers = must(calloc(max, sizeof(l->pointers[0])));
	l->keys = must(calloc(max, sizeof(l->keys[0])));
	l->values = must(calloc(max, sizeof(l->values[0])));
}

static void labels_fini(struct labels *l)
{
	free(l->list);
	free(l->pointers);
	free(l->keys);
	free(l->values);
}

/* value NULL: the caller sets the entry's value itself. */
static Cairn__Wire__Label *labels_add(struct labels *l, const char *key,
				      const struct cairn_digest *value)
{
	size_t i = l->n++;
	cairn__wire__label__init(&l->list[i]);
	snprintf(l->keys[i], LABEL_KEY, "%s", key);
	l->list[i].key = l->keys[i];
	if (value != NULL) {
		cairn_digest_format(value, l->values[i]);
		l->list[i].value = l->values[i];
	}
	l->pointers[i] = &l->list[i];
	return &l->list[i];
}

/* One answer of the Write stream; *ret_offset. Returns false when the stream is over. */
static bool hear(struct cairn_call *stream, int64_t *ret_offset)
{
	struct cairn_msg *msg = NULL;
	if (cairn_call_recv(stream, &msg) != CAIRN_RECV_MSG) return false;
	const struct cairn_span *spans = NULL;
	size_t n = cairn_msg_spans(msg, &spans), len = 0;
	uint8_t *bytes = must(malloc(cairn_msg_len(msg) + 1));
	for (size_t i = 0; i < n; len += spans[i++].len) {
		memcpy(bytes + len, spans[i].data, spans[i].len);
	}
	cairn_msg_free(msg);
	Containerd__Services__Content__V1__WriteContentResponse *response =
		containerd__services__content__v1__write_content_response__unpack(NULL, len, bytes);
	free(bytes);
	*ret_offset = response != NULL ? response->offset : -1;
	if (response != NULL) {
		containerd__services__content__v1__write_content_response__free_unpacked(response,
											 NULL);
	}
	return true;
}

/* Open it, see that it is complete, commit it. What goes wrong the stream's status tells. */
static enum cairn_code converse(struct cairn_call *stream, char *ref, char *digest, uint64_t size,
				const struct labels *labels, struct cairn_err *err)
{
	int64_t offset = 0;
	Containerd__Services__Content__V1__WriteContentRequest request;
	containerd__services__content__v1__write_content_request__init(&request);
	request.action = CONTAINERD__SERVICES__CONTENT__V1__WRITE_ACTION__STAT;
	request.ref = ref;
	request.total = (int64_t)size;
	request.expected = digest;
	enum cairn_code rc = cairn_call_send(stream, &request.base, err);
	if (rc || !hear(stream, &offset)) return rc;
	if (offset != (int64_t)size) {
		cairn_call_cancel(stream);
		return cairn_err_set(err, CAIRN_NOT_FOUND, "it went from the cache meanwhile");
	}
	request.action = CONTAINERD__SERVICES__CONTENT__V1__WRITE_ACTION__COMMIT;
	request.offset = offset;
	request.labels = labels->pointers;
	request.n_labels = labels->n;
	rc = cairn_call_send(stream, &request.base, err);
	while (rc == CAIRN_OK && hear(stream, &offset)) continue; /* containerd answers it twice */
	return rc;
}

static enum cairn_code write_blob(struct registering *r, const char *kind, char *digest,
				  uint64_t size, const struct labels *labels, struct cairn_err *err)
{
	char ref[CAIRN_DIGEST_STR + 32];
	struct cairn_call *stream = NULL;
	struct cairn_err status;
	snprintf(ref, sizeof(ref), "%s-%s", kind, digest);
	enum cairn_code rc = cairn_channel_open(r->what->channel, CONTENT "Write", r->headers, 2,
						CALL_MS, &stream, err);
	if (rc) return rc;
	rc = converse(stream, ref, digest, size, labels, err);
	bool lost = rc == CAIRN_NOT_FOUND;
	enum cairn_code finished = cairn_call_finish(stream, &status);
	if (lost) return rc;
	if (finished) *err = status;
	return finished;
}

/* It has the record already: only the labels are to be added. */
static enum cairn_code update_labels(struct registering *r, char *digest,
				     const struct labels *labels, struct cairn_err *err)
{
	Containerd__Services__Content__V1__Info info;
	Containerd__Services__Content__V1__UpdateRequest request;
	Cairn__Wire__FieldMask mask;
	if (labels->n == 0) return CAIRN_OK;
	containerd__services__content__v1__info__init(&info);
	containerd__services__content__v1__update_request__init(&request);
	cairn__wire__field_mask__init(&mask);
	info.digest = digest;
	info.labels = labels->pointers;
	info.n_labels = labels->n;
	mask.paths = must(calloc(labels->n, sizeof(char *)));
	for (; mask.n_paths < labels->n; mask.n_paths++) {
		if (asprintf(&mask.paths[mask.n_paths], "labels.%s", labels->keys[mask.n_paths]) <
		    0) {
			abort();
		}
	}
	request.info = &info;
	request.update_mask = &mask;
	enum cairn_code rc =
		call(r, CONTENT "Update", &request.base,
		     &containerd__services__content__v1__update_response__descriptor, err);
	while (mask.n_paths > 0) free(mask.paths[--mask.n_paths]);
	free(mask.paths);
	return rc;
}

static enum cairn_code put_blob(struct registering *r, const char *kind,
				const struct cairn_digest *digest, uint64_t size,
				struct labels *labels, struct cairn_err *err)
{
	char text[CAIRN_DIGEST_STR];
	if (r->what->go_on != NULL && !r->what->go_on(r->what->arg)) {
		return cairn_err_set(err, CAIRN_CANCELLED, "stopped");
	}
	if (r->blobs++ >= BLOBS_MAX) {
		return cairn_err_set(err, CAIRN_RESOURCE_EXHAUSTED,
				     "an image of more than %d blobs", BLOBS_MAX);
	}
	/* Which repository it is of, as containerd notes it: long values are left out, as there. */
	char *repository = (char *)(uintptr_t)r->what->ref->repository;
	if (strlen(r->source_key) + strlen(repository) < CAIRN_LABEL_BYTES_MAX) {
		labels_add(labels, r->source_key, NULL)->value = repository;
	}
	cairn_digest_format(digest, text);
	enum cairn_code rc = write_blob(r, kind, text, size, labels, err);
	if (rc == CAIRN_ALREADY_EXISTS) rc = update_labels(r, text, labels, err);
	return rc ? cairn_err_wrap(err, "blob %s", text) : CAIRN_OK;
}

/* ---- the image --------------------------------------------------------------------------------*/

static bool find(struct registering *r, const struct cairn_digest *digest, uint64_t *ret_size)
{
	struct cairn_blob_info info;
	struct cairn_err ignored;
	if (cairn_cache_info(r->what->cache, digest, &info, &ignored) != CAIRN_OK) return false;
	bool good = !info.damaged;
	*ret_size = info.size;
	cairn_blob_info_fini(&info);
	return good;
}

static enum cairn_code put_tree(struct registering *r, const struct cairn_digest *digest,
				unsigned depth, char *ret_type, struct cairn_err *err);

/* One child, and the label of its parent that keeps it. */
static enum cairn_code put_child(struct registering *r, const struct cairn_manifest *m, size_t i,
				 unsigned depth, struct labels *labels, struct cairn_err *err)
{
	const struct cairn_descriptor *child = &m->children[i];
	char key[LABEL_KEY] = "containerd.io/gc.ref.content.config";
	bool index = m->media == CAIRN_MEDIA_INDEX;
	uint64_t size = 0;
	enum cairn_code rc;
	if (!find(r, &child->digest, &size)) {
		if (index) return CAIRN_OK; /* a platform that nobody asked for */
		return child->size == 0 ? CAIRN_OK
					: cairn_err_set(err, CAIRN_NOT_FOUND,
							"a blob went from the cache meanwhile");
	}
	if (index || child->media != CAIRN_MEDIA_OTHER) {
		rc = put_tree(r, &child->digest, depth + 1, NULL, err);
	} else {
		struct labels none;
		labels_init(&none, 1);
		rc = put_blob(r, i == 0 ? "config" : "layer", &child->digest, size, &none, err);
		labels_fini(&none);
	}
	if (rc) return rc;
	if (index || i > 0) {
		snprintf(key, sizeof(key), "containerd.io/gc.ref.content.%s.%zu", index ? "m" : "l",
			 index ? i : i - 1);
	}
	labels_add(labels, key, &child->digest);
	return CAIRN_OK;
}

/* A manifest or an index with all below it; below first. ret_type (may be NULL): 128 bytes for its
 * media type. */
static enum cairn_code put_tree(struct registering *r, const struct cairn_digest *digest,
				unsigned depth, char *ret_type, struct cairn_err *err)
{
	void *json = NULL;
	size_t len = 0;
	struct cairn_manifest m = {0};
	struct labels labels;
	if (depth > CAIRN_MANIFEST_DEPTH_MAX) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT, "indexes too deep in indexes");
	}
	enum cairn_code rc = cairn_cache_peek(r->what->cache, digest, CAIRN_MANIFEST_BYTES_MAX,
					      &json, &len, err);
	if (rc == CAIRN_OK) rc = cairn_manifest_parse(json, len, &m, err);
	free(json);
	if (rc) return rc;
	labels_init(&labels, m.n + 1);
	for (size_t i = 0; rc == CAIRN_OK && i < m.n; i++) {
		rc = put_child(r, &m, i, depth, &labels, err);
	}
	bool index = m.media == CAIRN_MEDIA_INDEX;
	if (rc == CAIRN_OK) {
		rc = put_blob(r, index ? "index" : "manifest", digest, len, &labels, err);
	}
	if (ret_type != NULL) {
		snprintf(ret_type, 128, "%s",
			 m.media_type[0] != '\0' ? m.media_type
			 : index		 ? "application/vnd.oci.image.index.v1+json"
						 : "application/vnd.oci.image.manifest.v1+json");
	}
	labels_fini(&labels);
	cairn_manifest_fini(&m);
	return rc;
}

static enum cairn_code put_image(struct registering *r, const struct cairn_digest *root, char *type,
				 struct cairn_err *err)
{
	char text[CAIRN_DIGEST_STR], path[] = "target", *paths = path;
	uint64_t size = 0;
	Containerd__Services__Images__V1__Target target;
	Containerd__Services__Images__V1__Image image;
	Containerd__Services__Images__V1__CreateImageRequest create;
	Containerd__Services__Images__V1__UpdateImageRequest update;
	Cairn__Wire__FieldMask mask = CAIRN__WIRE__FIELD_MASK__INIT;
	containerd__services__images__v1__target__init(&target);
	containerd__services__images__v1__image__init(&image);
	containerd__services__images__v1__create_image_request__init(&create);
	containerd__services__images__v1__update_image_request__init(&update);
	if (!find(r, root, &size)) return cairn_err_set(err, CAIRN_NOT_FOUND, "its manifest went");
	target.media_type = type;
	target.digest = text;
	cairn_digest_format(root, text);
	target.size = (int64_t)size;
	image.name = (char *)(uintptr_t)r->what->name;
	image.target = &target;
	create.image = update.image = &image;
	mask.paths = &paths;
	mask.n_paths = 1;
	update.update_mask = &mask;
	enum cairn_code rc =
		call(r, IMAGES "Create", &create.base,
		     &containerd__services__images__v1__create_image_response__descriptor, err);
	if (rc != CAIRN_ALREADY_EXISTS) return rc;
	return call(r, IMAGES "Update", &update.base,
		    &containerd__services__images__v1__update_image_response__descriptor, err);
}

enum cairn_code cairn_register_image(const struct cairn_register *what,
				     const struct cairn_digest *root, struct cairn_err *err)
{
	char type[128] = "";
	struct registering r = {.what = what};
	r.headers[0] = (struct cairn_header){"containerd-namespace", what->ns};
	/* The host without its port, as containerd writes it. */
	snprintf(r.source_key, sizeof(r.source_key), "containerd.io/distribution.source.%.*s",
		 (int)strcspn(what->ref->registry, ":"), what->ref->registry);
	enum cairn_code rc = begin_lease(&r, err);
	if (rc == CAIRN_OK) {
		rc = put_tree(&r, root, 0, type, err);
		if (rc == CAIRN_OK) rc = put_image(&r, root, type, err);
		end_lease(&r);
	}
	if (rc == CAIRN_OK) return CAIRN_OK;
	return cairn_err_wrap(err, "register with containerd, namespace %.80s", what->ns);
}
