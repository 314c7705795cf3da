/* From an image's name to the blobs that it needs on the platforms that were asked for.
 *
 * Which manifests of an index those are is decided as containerd does when it pulls: so that what
 * is here is what it will ask for. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cache/evict.h"
#include "plugin/preheat_run.h"

#define OFFERS_TEXT 300 /* of what an index offers, in an error */

struct plan {
	struct cairn_preheat_worker *w;
	size_t image;
	struct cairn_reference ref; /* with the digest of what is looked at */
	unsigned reads;		    /* manifests so far: an index may name many */
	struct cairn_digest came;   /* what came with the name, from a registry; alg 0: nothing */
};

#define READS_MAX 4096

/* One that is to be looked into. */
struct node {
	struct cairn_digest digest;
	uint64_t size;
	unsigned depth;
	bool manifest;	     /* as registries have it */
	bool platform_known; /* it was chosen for its platform */
};

static enum cairn_code take_tree(struct plan *p, const struct node *node, struct cairn_err *err);

/* ---- manifests --------------------------------------------------------------------------------*/

/* Bytes that came with a name become a blob, as any other does. */
static enum cairn_code keep(struct plan *p, const struct cairn_registry_manifest *m,
			    struct cairn_err *err)
{
	struct cairn_fill *fill = NULL;
	enum cairn_code rc = CAIRN_OK;
	switch (cairn_fills_begin(p->w->env->fills, &m->digest, m->len, &fill, err)) {
	case CAIRN_FILL_OURS: {
		uint64_t at = cairn_fill_offset(fill);
		rc = cairn_fill_write(fill, (const uint8_t *)m->json + at, m->len - (size_t)at,
				      err);
		cairn_fill_end(fill, rc == CAIRN_OK ? NULL : err);
		break;
	}
	case CAIRN_FILL_FAILED:
		rc = err->code;
		break;
	case CAIRN_FILL_HERE:
	case CAIRN_FILL_OTHERS: /* that is another job: it is asked for below as any blob is */
	default:
		break;
	}
	cairn_fill_unref(fill);
	return rc;
}

/* Peers are asked for a manifest as for any blob, if its size is known beforehand. */
static bool is_for_peers(const struct cairn_preheat_worker *w, uint64_t size)
{
	return w->env->swarm != NULL && !w->job->request->force && size > 0 &&
	       size <= CAIRN_MANIFEST_BYTES_MAX;
}

static bool is_here(const struct cairn_preheat_worker *w, const struct cairn_digest *digest,
		    uint64_t *ret_size)
{
	struct cairn_blob_info info;
	struct cairn_err ignored;
	if (cairn_cache_info(w->env->cache, digest, &info, &ignored) != CAIRN_OK) return false;
	bool good = !info.damaged;
	*ret_size = info.size;
	cairn_blob_info_fini(&info);
	return good;
}

/* What the name stands for: *ret, and, where they came with it, the bytes are in the cache. */
static enum cairn_code resolve(struct plan *p, struct cairn_digest *ret, uint64_t *ret_size,
			       struct cairn_err *err)
{
	struct cairn_preheat_worker *w = p->w;
	const struct cairn_go_on go_on = {cairn_preheat_goes_on, w};
	struct cairn_registry_manifest m = {0};
	enum cairn_code rc = CAIRN_OK;
	uint64_t told = 0;
	bool ask = w->job->request->force;
	*ret = p->ref.digest;
	if (ret->alg == 0) {
		rc = cairn_registry_resolve(w->session, &p->ref, &go_on, ret, &told, err);
	}
	if (rc) return rc;
	if (!ask && is_here(w, ret, ret_size)) return CAIRN_OK;
	if (is_for_peers(w, told)) {
		*ret_size = told;
		p->ref.digest = *ret;
		return CAIRN_OK;
	}
	/* By its digest: the tag may move in between. */
	p->ref.digest = *ret;
	rc = cairn_registry_get_manifest(w->session, &p->ref, &go_on, &m, err);
	if (rc) return rc;
	*ret_size = m.len;
	p->came = m.digest;
	rc = keep(p, &m, err);
	free(m.json);
	return rc;
}

/* A small blob that is looked into at once: had, and told of. */
static enum cairn_code get_now(struct plan *p, size_t blob, const struct cairn_digest *digest,
			       uint64_t size, struct cairn_err *err)
{
	struct cairn_preheat_job *job = p->w->job;
	bool came = cairn_digest_equal(&p->came, digest);
	enum cairn_code rc = cairn_preheat_get_blob(p->w, blob, err);
	if (rc) {
		cairn_preheat_job_blob(job, blob, CAIRN__V1__JOB_STATE__FAILED, 0, 0, NULL, err);
	} else {
		cairn_preheat_job_blob(job, blob, CAIRN__V1__JOB_STATE__SUCCEEDED, size,
				       came ? size : 0, came ? "registry" : NULL, NULL);
	}
	return rc;
}

static void note_manifest(struct cairn_preheat_job *job, size_t blob)
{
	pthread_mutex_lock(&job->mu);
	job->blobs[blob].manifest = true;
	pthread_mutex_unlock(&job->mu);
}

/* The manifest of that digest, got if need be; it is one of the job's blobs. */
static enum cairn_code get_manifest(struct plan *p, const struct node *node,
				    struct cairn_manifest *ret, struct cairn_err *err)
{
	struct cairn_preheat_worker *w = p->w;
	void *json = NULL;
	uint64_t size = node->size;
	const struct cairn_digest *digest = &node->digest;
	size_t len = 0, blob = cairn_preheat_job_need(w->job, p->image, digest, size);
	if (blob == SIZE_MAX || p->reads++ >= READS_MAX) {
		return cairn_err_set(err, CAIRN_RESOURCE_EXHAUSTED,
				     "the image has too many manifests or blobs");
	}
	if (size > CAIRN_MANIFEST_BYTES_MAX) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "a manifest of %llu bytes; at most %u are taken",
				     (unsigned long long)size, CAIRN_MANIFEST_BYTES_MAX);
	}
	if (node->manifest) note_manifest(w->job, blob);
	enum cairn_code rc = get_now(p, blob, digest, size, err);
	if (rc) return rc;
	rc = cairn_cache_peek(w->env->cache, digest, CAIRN_MANIFEST_BYTES_MAX, &json, &len, err);
	if (rc) return rc;
	rc = cairn_manifest_parse(json, len, ret, err);
	free(json);
	return rc;
}

/* ---- platforms --------------------------------------------------------------------------------*/

static void offered_by(const struct cairn_descriptor *child, struct cairn_platform *ret)
{
	*ret = (struct cairn_platform){0};
	memcpy(ret->os, child->os, sizeof(ret->os));
	memcpy(ret->arch, child->arch, sizeof(ret->arch));
	memcpy(ret->variant, child->variant, sizeof(ret->variant));
}

static void list_offers(const struct cairn_manifest *index, char text[static OFFERS_TEXT])
{
	size_t at = 0;
	text[0] = '\0';
	for (size_t i = 0; i < index->n && at < OFFERS_TEXT - 1; i++) {
		char name[CAIRN_PLATFORM_STR];
		struct cairn_platform have;
		offered_by(&index->children[i], &have);
		if (have.os[0] == '\0' || strcmp(have.os, "unknown") == 0) continue;
		int n = snprintf(text + at, OFFERS_TEXT - at, "%s%s", at > 0 ? ", " : "",
				 cairn_platform_format(&have, name));
		if (n > 0) at += (size_t)n;
	}
	if (text[0] == '\0') snprintf(text, OFFERS_TEXT, "none");
}

/* The entry that fits the platform best; the first of equals, as containerd takes it. */
static const struct cairn_descriptor *best(const struct cairn_manifest *index,
					   const struct cairn_platform *want)
{
	const struct cairn_descriptor *found = NULL;
	int rank = 0;
	for (size_t i = 0; i < index->n; i++) {
		struct cairn_platform have;
		offered_by(&index->children[i], &have);
		int fits = cairn_platform_fits(want, &have);
		if (fits <= rank) continue;
		rank = fits;
		found = &index->children[i];
	}
	return found;
}

static enum cairn_code take_child(struct plan *p, const struct cairn_descriptor *child,
				  unsigned depth, bool platform_known, struct cairn_err *err)
{
	const struct node node = {
		.digest = child->digest,
		.size = child->size,
		.depth = depth + 1,
		.manifest = child->media != CAIRN_MEDIA_OTHER || child->media_type[0] == '\0',
		.platform_known = platform_known,
	};
	return take_tree(p, &node, err);
}

static enum cairn_code take_index(struct plan *p, const struct cairn_manifest *index,
				  unsigned depth, struct cairn_err *err)
{
	struct cairn_preheat_job *job = p->w->job;
	enum cairn_code rc = CAIRN_OK;
	if (job->all_platforms) {
		for (size_t i = 0; rc == CAIRN_OK && i < index->n; i++) {
			rc = take_child(p, &index->children[i], depth, true, err);
		}
		return rc;
	}
	for (size_t i = 0; rc == CAIRN_OK && i < job->n_platforms; i++) {
		const struct cairn_descriptor *child = best(index, &job->platforms[i]);
		if (child == NULL) {
			char offers[OFFERS_TEXT], name[CAIRN_PLATFORM_STR];
			list_offers(index, offers);
			return cairn_err_set(
				err, CAIRN_NOT_FOUND, "there is no %s in it; it offers: %s",
				cairn_platform_format(&job->platforms[i], name), offers);
		}
		rc = take_child(p, child, depth, child->os[0] != '\0', err);
	}
	return rc;
}

/* An image that is no index says what it runs on in its config alone. */
static enum cairn_code check_config(struct plan *p, const struct cairn_descriptor *config,
				    struct cairn_err *err)
{
	struct cairn_preheat_job *job = p->w->job;
	struct cairn_platform have;
	struct cairn_err ignored;
	void *json = NULL;
	size_t len = 0;
	if (job->all_platforms || config->size > CAIRN_MANIFEST_BYTES_MAX) return CAIRN_OK;
	size_t blob = cairn_preheat_job_need(job, p->image, &config->digest, config->size);
	if (blob == SIZE_MAX) return CAIRN_OK; /* told elsewhere */
	enum cairn_code rc = get_now(p, blob, &config->digest, config->size, err);
	if (rc) return rc;
	rc = cairn_cache_peek(p->w->env->cache, &config->digest, CAIRN_MANIFEST_BYTES_MAX, &json,
			      &len, err);
	if (rc) return rc;
	rc = cairn_platform_of_config(json, len, &have, &ignored);
	free(json);
	/* An artifact's config is whatever its maker likes. */
	if (rc || have.os[0] == '\0' || have.arch[0] == '\0') return CAIRN_OK;
	for (size_t i = 0; i < job->n_platforms; i++) {
		char name[CAIRN_PLATFORM_STR], offer[CAIRN_PLATFORM_STR];
		if (cairn_platform_fits(&job->platforms[i], &have) > 0) continue;
		return cairn_err_set(err, CAIRN_NOT_FOUND,
				     "there is no %s of it; it is for %s only",
				     cairn_platform_format(&job->platforms[i], name),
				     cairn_platform_format(&have, offer));
	}
	return CAIRN_OK;
}

/* The manifest's children are blobs to be got when all is known; the manifest itself is here. */
static enum cairn_code take_children(struct plan *p, const struct cairn_manifest *manifest,
				     bool platform_known, struct cairn_err *err)
{
	if (!platform_known && manifest->n > 0) {
		enum cairn_code rc = check_config(p, &manifest->children[0], err);
		if (rc) return rc;
	}
	for (size_t i = 0; i < manifest->n; i++) {
		const struct cairn_descriptor *child = &manifest->children[i];
		if (cairn_preheat_job_need(p->w->job, p->image, &child->digest, child->size) ==
		    SIZE_MAX) {
			return cairn_err_set(err, CAIRN_RESOURCE_EXHAUSTED,
					     "the job has more than %d blobs", CAIRN_JOB_BLOBS_MAX);
		}
	}
	return CAIRN_OK;
}

static enum cairn_code take_tree(struct plan *p, const struct node *node, struct cairn_err *err)
{
	char text[CAIRN_DIGEST_STR];
	struct cairn_manifest manifest = {0};
	if (node->depth > CAIRN_MANIFEST_DEPTH_MAX) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "indexes within indexes, more than %d deep",
				     CAIRN_MANIFEST_DEPTH_MAX);
	}
	enum cairn_code rc = get_manifest(p, node, &manifest, err);
	if (rc == CAIRN_OK && manifest.media == CAIRN_MEDIA_INDEX) {
		rc = take_index(p, &manifest, node->depth, err);
	} else if (rc == CAIRN_OK && manifest.media == CAIRN_MEDIA_MANIFEST) {
		rc = take_children(p, &manifest, node->platform_known, err);
	} else if (rc == CAIRN_OK && node->depth == 0) {
		rc = cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				   "%s is neither a manifest nor an index",
				   cairn_digest_format(&node->digest, text));
	}
	cairn_manifest_fini(&manifest);
	return rc;
}

/* One blob that is recorded here, and nothing else of the image. */
static enum cairn_code plan_repair(struct plan *p, struct cairn_err *err)
{
	struct cairn_preheat_worker *w = p->w;
	char text[CAIRN_DIGEST_STR];
	struct cairn_blob_info info;
	const struct cairn_digest *digest = &w->job->repair;
	enum cairn_code rc = cairn_cache_info(w->env->cache, digest, &info, err);
	if (rc) return cairn_err_wrap(err, "repair of what is not recorded here");
	uint64_t size = info.size;
	cairn_blob_info_fini(&info);
	cairn_preheat_job_image(w->job, p->image, CAIRN__V1__JOB_STATE__RUNNING, &p->ref.digest,
				NULL);
	if (cairn_preheat_job_need(w->job, p->image, digest, size) != SIZE_MAX) return CAIRN_OK;
	return cairn_err_set(err, CAIRN_INTERNAL, "no room for %s in its own job",
			     cairn_digest_format(digest, text));
}

static enum cairn_code plan_whole(struct plan *p, struct node *root, struct cairn_err *err)
{
	enum cairn_code rc = resolve(p, &root->digest, &root->size, err);
	if (rc) return rc;
	cairn_preheat_job_image(p->w->job, p->image, CAIRN__V1__JOB_STATE__RUNNING, &root->digest,
				NULL);
	return take_tree(p, root, err);
}

void cairn_preheat_plan_image(struct cairn_preheat_worker *w, size_t image)
{
	struct plan p = {.w = w, .image = image, .ref = w->job->images[image].ref};
	struct node root = {.manifest = true};
	struct cairn_err err;
	cairn_preheat_job_image(w->job, image, CAIRN__V1__JOB_STATE__RUNNING, NULL, NULL);
	enum cairn_code rc =
		w->job->repair.alg != 0 ? plan_repair(&p, &err) : plan_whole(&p, &root, &err);
	if (rc == CAIRN_OK) return;
	cairn_preheat_job_image(w->job, image,
				rc == CAIRN_CANCELLED ? CAIRN__V1__JOB_STATE__CANCELLED
						      : CAIRN__V1__JOB_STATE__FAILED,
				root.digest.alg != 0 ? &root.digest : NULL, &err);
}
