/* Manifests and blobs, and what is checked of them. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "oci/answer.h"
#include "oci/json.h"
#include "oci/session.h"
#include "oci/show.h"

#define MANIFEST_MS 60000
#define MANIFEST_FIRST 16384u /* bytes of the first buffer */

static const char accept_manifests[] =
	"application/vnd.docker.distribution.manifest.v2+json, "
	"application/vnd.docker.distribution.manifest.list.v2+json, "
	"application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, */*";

/* ---- manifests -------------------------------------------------------------------------------
 */

struct manifest_job {
	struct cairn_ask ask;
	struct cairn_digest want;     /* alg 0: not known before */
	struct cairn_digest resolved; /* HEAD: what the header says; alg 0: nothing */
	uint64_t told_len;	      /* likewise of the length; 0: nothing */
	char *json;
	size_t len, cap;
	struct cairn_digest digest;
	char media_type[128];
};

static void begin_manifest(void *arg, struct cairn_http_request *request)
{
	struct manifest_job *job = arg;
	(void)request;
	job->len = 0;
}

static enum cairn_code take_manifest(void *arg, const struct cairn_http_answer *answer,
				     const void *data, size_t n, struct cairn_err *err)
{
	struct manifest_job *job = arg;
	(void)answer;
	if (n > CAIRN_MANIFEST_BYTES_MAX - job->len) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "no manifest: longer than %u bytes", CAIRN_MANIFEST_BYTES_MAX);
	}
	if (job->len + n > job->cap) {
		job->cap = 2 * (job->len + n) + MANIFEST_FIRST;
		job->json = realloc(job->json, job->cap);
		if (job->json == NULL) abort();
	}
	memcpy(job->json + job->len, data, n);
	job->len += n;
	return CAIRN_OK;
}

static enum cairn_code mismatch(const char *what, const struct cairn_digest *found, const char *who,
				const struct cairn_digest *want, struct cairn_err *err)
{
	char a[CAIRN_DIGEST_STR], b[CAIRN_DIGEST_STR];
	return cairn_err_set(err, CAIRN_DATA_LOSS, "%s has digest %s, but %s says %s", what,
			     cairn_digest_format(found, a), who, cairn_digest_format(want, b));
}

/* The digest in a header; alg 0: none, or of a kind that nobody here knows. */
static struct cairn_digest header_digest(const struct cairn_http_answer *answer)
{
	struct cairn_digest digest = {0};
	struct cairn_err ignored;
	enum cairn_code code =
		cairn_digest_parse(answer->digest, strlen(answer->digest), &digest, &ignored);
	return code == CAIRN_OK ? digest : (struct cairn_digest){0};
}

static enum cairn_code check_digest(const struct manifest_job *job, const char *who,
				    const struct cairn_digest *want, struct cairn_digest *ret,
				    struct cairn_err *err)
{
	struct cairn_hasher hasher;
	cairn_hasher_init(&hasher, want->alg != 0 ? want->alg : CAIRN_SHA256);
	cairn_hasher_update(&hasher, job->json, job->len);
	cairn_hasher_digest(&hasher, ret);
	if (want->alg == 0 || cairn_digest_equal(want, ret)) return CAIRN_OK;
	return mismatch("the manifest", ret, who, want, err);
}

/* Its media type: the header's if it says the same as the bytes, else that of its field. */
static enum cairn_code name_type(struct manifest_job *job, const char *header,
				 struct cairn_err *err)
{
	struct cairn_manifest m;
	char shown[CAIRN_SHOW_MAX + 4];
	enum cairn_code code = cairn_manifest_parse(job->json, job->len, &m, err);
	if (code != CAIRN_OK) return cairn_err_wrap(err, "no manifest");
	enum cairn_media media = m.media;
	cairn_manifest_fini(&m);
	if (media == CAIRN_MEDIA_OTHER) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "no manifest of a known kind: its type is \"%s\"",
				     cairn_show(header, strlen(header), shown));
	}
	cairn_auto(cairn_json_freep) json_t *doc = NULL;
	code = cairn_json_load(job->json, job->len, false, &doc, err);
	if (code != CAIRN_OK) return code;
	const char *field = json_string_value(json_object_get(doc, "mediaType"));
	const char *type = media == CAIRN_MEDIA_INDEX
				   ? "application/vnd.oci.image.index.v1+json"
				   : "application/vnd.oci.image.manifest.v1+json";
	if (cairn_media_of(header) == media) type = header;
	if (cairn_media_of(field) == media) type = field;
	snprintf(job->media_type, sizeof(job->media_type), "%s", type);
	return CAIRN_OK;
}

static enum cairn_code end_manifest(void *arg, const struct cairn_http_answer *answer,
				    struct cairn_err *err)
{
	struct manifest_job *job = arg;
	struct cairn_digest told = header_digest(answer), ignored;
	const struct cairn_digest *want = job->want.alg != 0 ? &job->want : &told;
	if (answer->status != 200) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT, "HTTP status %d to a manifest",
				     answer->status);
	}
	enum cairn_code code =
		check_digest(job, want == &told ? "Docker-Content-Digest" : "the reference", want,
			     &job->digest, err);
	if (code == CAIRN_OK && want != &told && told.alg != 0) {
		code = check_digest(job, "Docker-Content-Digest", &told, &ignored, err);
	}
	return code == CAIRN_OK ? name_type(job, answer->type, err) : code;
}

static void init_manifest(struct manifest_job *job, struct cairn_registry_session *session,
			  const struct cairn_reference *ref, const struct cairn_go_on *go_on)
{
	*job = (struct manifest_job){
		.ask = {.session = session,
			.ref = ref,
			.go_on = go_on,
			.accept = accept_manifests,
			.kind = "manifests",
			.total_ms = MANIFEST_MS,
			.begin = begin_manifest,
			.body = take_manifest,
			.end = end_manifest,
			.arg = job},
	};
}

static enum cairn_code get_named(struct cairn_registry_session *session,
				 const struct cairn_reference *ref, const struct cairn_digest *want,
				 const struct cairn_go_on *go_on,
				 struct cairn_registry_manifest *ret, struct cairn_err *err)
{
	struct manifest_job job;
	char name[CAIRN_DIGEST_STR];
	init_manifest(&job, session, ref, go_on);
	job.want = *want;
	job.ask.name = want->alg != 0 ? cairn_digest_format(want, name) : ref->tag;
	enum cairn_code code = cairn_ask(&job.ask, err);
	if (code != CAIRN_OK) {
		free(job.json);
		return code;
	}
	*ret = (struct cairn_registry_manifest){
		.json = job.json, .len = job.len, .digest = job.digest};
	memcpy(ret->media_type, job.media_type, sizeof(ret->media_type));
	return CAIRN_OK;
}

enum cairn_code cairn_registry_get_manifest(struct cairn_registry_session *session,
					    const struct cairn_reference *ref,
					    const struct cairn_go_on *go_on,
					    struct cairn_registry_manifest *ret,
					    struct cairn_err *err)
{
	return get_named(session, ref, &ref->digest, go_on, ret, err);
}

/* ---- tags ------------------------------------------------------------------------------------
 */

static enum cairn_code end_head(void *arg, const struct cairn_http_answer *answer,
				struct cairn_err *err)
{
	struct manifest_job *job = arg;
	job->resolved = header_digest(answer);
	job->told_len = answer->has_length ? answer->length : 0;
	if (job->want.alg == 0 || job->resolved.alg == 0 ||
	    cairn_digest_equal(&job->want, &job->resolved)) {
		return CAIRN_OK;
	}
	return mismatch("the manifest", &job->resolved, "the reference", &job->want, err);
}

enum cairn_code cairn_registry_resolve(struct cairn_registry_session *session,
				       const struct cairn_reference *ref,
				       const struct cairn_go_on *go_on, struct cairn_digest *ret,
				       uint64_t *ret_size, struct cairn_err *err)
{
	struct manifest_job job;
	char name[CAIRN_DIGEST_STR];
	struct cairn_digest want = {0};
	struct cairn_registry_manifest manifest;
	init_manifest(&job, session, ref, go_on);
	if (ref->tag[0] == '\0') want = ref->digest;
	job.want = want;
	job.ask.name = want.alg != 0 ? cairn_digest_format(&want, name) : ref->tag;
	job.ask.method = CAIRN_HTTP_HEAD;
	job.ask.body = NULL;
	job.ask.end = end_head;
	enum cairn_code code = cairn_ask(&job.ask, err);
	if (code == CAIRN_OK && job.resolved.alg != 0) {
		*ret = job.resolved;
		*ret_size = job.told_len;
		return CAIRN_OK;
	}
	/* As containerd does where HEAD is not known, or tells too little. */
	if (code != CAIRN_OK && job.ask.status != 405) return code;
	code = get_named(session, ref, &want, go_on, &manifest, err);
	if (code != CAIRN_OK) return code;
	*ret = manifest.digest;
	*ret_size = manifest.len;
	free(manifest.json);
	return CAIRN_OK;
}

/* ---- blobs -----------------------------------------------------------------------------------
 */

struct blob_job {
	struct cairn_ask ask;
	uint64_t at, size; /* at: the next byte that sink gets */
	uint64_t skip;	   /* bytes of the answer that are dropped: sink had them */
	bool started;	   /* the answer's headers were looked at */
	bool by_range;	   /* of this request */
	cairn_registry_sink_fn *sink;
	void *arg;
};

static void begin_blob(void *arg, struct cairn_http_request *request)
{
	struct blob_job *job = arg;
	job->started = false;
	job->skip = 0;
	job->by_range = job->at > 0 && !job->ask.no_range;
	if (job->by_range) request->from = job->at;
}

static enum cairn_code wrong_size(const struct blob_job *job, uint64_t size, struct cairn_err *err)
{
	return cairn_err_set(err, CAIRN_DATA_LOSS,
			     "the blob has %" PRIu64 " bytes there, want %" PRIu64, size,
			     job->size);
}

/* What a 206 says must fit what was asked. If not, the next request asks for all bytes. */
static enum cairn_code start_range(struct blob_job *job, const struct cairn_http_answer *answer,
				   struct cairn_err *err)
{
	uint64_t first = 0, last = 0, total = 0;
	char shown[CAIRN_SHOW_MAX + 4];
	if (!job->by_range || !cairn_content_range(answer->range, &first, &last, &total) ||
	    first != job->at) {
		job->ask.again = job->by_range;
		job->ask.no_range = true;
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "a range from byte %" PRIu64 " on was answered by \"%s\"",
				     job->by_range ? job->at : 0,
				     cairn_show(answer->range, strlen(answer->range), shown));
	}
	if (total != UINT64_MAX && total != job->size) return wrong_size(job, total, err);
	return CAIRN_OK;
}

static enum cairn_code start_blob(struct blob_job *job, const struct cairn_http_answer *answer,
				  struct cairn_err *err)
{
	job->started = true;
	if (answer->status == 206) return start_range(job, answer, err);
	if (answer->status != 200) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT, "HTTP status %d to a blob",
				     answer->status);
	}
	if (answer->has_length && answer->length != job->size) {
		return wrong_size(job, answer->length, err);
	}
	job->skip = job->at;
	return CAIRN_OK;
}

static enum cairn_code take_blob(void *arg, const struct cairn_http_answer *answer,
				 const void *data, size_t n, struct cairn_err *err)
{
	struct blob_job *job = arg;
	enum cairn_code code = job->started ? CAIRN_OK : start_blob(job, answer, err);
	if (code != CAIRN_OK) return code;
	if (job->skip >= n) {
		job->skip -= n;
		return CAIRN_OK;
	}
	const char *from = (const char *)data + job->skip;
	n -= (size_t)job->skip;
	job->skip = 0;
	if (n > job->size - job->at) {
		job->ask.over = true; /* nobody else could tell what was right of it */
		return cairn_err_set(err, CAIRN_DATA_LOSS,
				     "the blob has more than its %" PRIu64 " bytes", job->size);
	}
	code = job->sink(job->arg, from, n, err);
	if (code != CAIRN_OK) {
		job->ask.over = true;
		return code;
	}
	job->at += n;
	job->ask.progress = job->at;
	job->ask.complete = job->at == job->size; /* however the answer ends */
	return CAIRN_OK;
}

static enum cairn_code end_blob(void *arg, const struct cairn_http_answer *answer,
				struct cairn_err *err)
{
	struct blob_job *job = arg;
	enum cairn_code code = job->started ? CAIRN_OK : start_blob(job, answer, err);
	if (code != CAIRN_OK || job->at == job->size) return code;
	job->ask.again = true;
	return cairn_err_set(err, CAIRN_DATA_LOSS,
			     "the blob ends after %" PRIu64 " of %" PRIu64 " bytes", job->at,
			     job->size);
}

enum cairn_code cairn_registry_get_blob(struct cairn_registry_session *session,
					const struct cairn_reference *ref,
					const struct cairn_digest *digest, uint64_t offset,
					uint64_t size, const struct cairn_go_on *go_on,
					cairn_registry_sink_fn *sink, void *arg,
					struct cairn_err *err)
{
	char name[CAIRN_DIGEST_STR];
	struct blob_job job = {
		.ask = {.session = session,
			.ref = ref,
			.go_on = go_on,
			.kind = "blobs",
			.name = cairn_digest_format(digest, name),
			.begin = begin_blob,
			.body = take_blob,
			.end = end_blob,
			.arg = &job,
			.progress = offset},
		.at = offset,
		.size = size,
		.sink = sink,
		.arg = arg,
	};
	if (offset > size) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "offset %" PRIu64 " lies beyond the size %" PRIu64, offset,
				     size);
	}
	if (offset == size) return CAIRN_OK;
	return cairn_ask(&job.ask, err);
}
