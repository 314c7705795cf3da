#include "plugin/graph.h"

#include <stdlib.h>
#include <string.h>

#include "cache/evict.h"
#include "oci/oci.h"

#define READS_MAX 4096 /* manifests read for one question: what others wrote must not cost more */

/* ---- what is needed ---------------------------------------------------------------------------*/

/* Digests to visit and found, in the order in which they were met. */
struct walk {
	struct cairn_cache *cache;
	struct cairn_need *found; /* sorted and unique up to n_sorted */
	size_t n, cap;
	unsigned reads;
	bool complete;
};

static void *must_realloc(void *p, size_t n)
{
	p = realloc(p, n > 0 ? n : 1);
	if (p == NULL) abort();
	return p;
}

static void add(struct walk *w, const struct cairn_digest *digest, uint64_t size)
{
	if (w->n >= CAIRN_NEEDS_MAX) {
		w->complete = false;
		return;
	}
	if (w->n == w->cap) {
		w->cap = w->cap > 0 ? 2 * w->cap : 32;
		w->found = must_realloc(w->found, w->cap * sizeof(w->found[0]));
	}
	w->found[w->n++] = (struct cairn_need){*digest, size};
}

static int by_digest(const void *a, const void *b)
{
	const struct cairn_need *x = a, *y = b;
	return cairn_digest_compare(&x->digest, &y->digest);
}

static size_t sort_unique(struct cairn_need *list, size_t n)
{
	size_t kept = 0;
	if (n == 0) return 0;
	qsort(list, n, sizeof(list[0]), by_digest);
	for (size_t i = 0; i < n; i++) {
		if (kept > 0 && cairn_digest_equal(&list[kept - 1].digest, &list[i].digest)) {
			continue;
		}
		list[kept++] = list[i];
	}
	return kept;
}

/* Reads and parses; false if it is not here, or no manifest, or cannot be read: *ret_missing tells
 * the last of these, and the first, from "no manifest". */
static bool read_manifest(struct cairn_cache *cache, const struct cairn_digest *digest,
			  struct cairn_manifest *ret, bool *ret_missing)
{
	void *json = NULL;
	size_t len = 0;
	struct cairn_err ignored;
	enum cairn_code rc =
		cairn_cache_peek(cache, digest, CAIRN_MANIFEST_BYTES_MAX, &json, &len, &ignored);
	*ret_missing = rc != CAIRN_OK && rc != CAIRN_OUT_OF_RANGE; /* too large: a layer */
	if (rc) return false;
	rc = cairn_manifest_parse(json, len, ret, &ignored);
	free(json);
	if (rc) return false;
	if (ret->media != CAIRN_MEDIA_OTHER) return true;
	cairn_manifest_fini(ret);
	return false;
}

/* The children of one manifest; those that are manifests go on next's list. */
static void expand(struct walk *w, const struct cairn_digest *digest, struct walk *next)
{
	struct cairn_manifest manifest = {0};
	bool missing = w->reads++ >= READS_MAX;
	if (missing || !read_manifest(w->cache, digest, &manifest, &missing)) {
		if (missing) w->complete = false;
		return;
	}
	for (size_t i = 0; i < manifest.n; i++) {
		const struct cairn_descriptor *child = &manifest.children[i];
		add(w, &child->digest, child->size);
		if (manifest.media == CAIRN_MEDIA_INDEX || child->media != CAIRN_MEDIA_OTHER) {
			add(next, &child->digest, child->size);
		}
	}
	cairn_manifest_fini(&manifest);
}

/* Those of next that were not visited yet become the new level. */
static void drop_visited(struct walk *next, const struct walk *visited)
{
	size_t kept = 0;
	next->n = sort_unique(next->found, next->n);
	for (size_t i = 0; i < next->n; i++) {
		if (visited->n > 0 && bsearch(&next->found[i], visited->found, visited->n,
					      sizeof(visited->found[0]), by_digest) != NULL) {
			continue;
		}
		next->found[kept++] = next->found[i];
	}
	next->n = kept;
}

struct cairn_needs *cairn_graph_needs(struct cairn_cache *cache, const struct cairn_digest *root)
{
	struct walk all = {.cache = cache, .complete = true}, level = {0}, visited = {0};
	struct cairn_blob_info info;
	struct cairn_err ignored;
	uint64_t size = 0;
	if (cairn_cache_info(cache, root, &info, &ignored) == CAIRN_OK) {
		size = info.size;
		cairn_blob_info_fini(&info);
	}
	add(&all, root, size);
	add(&level, root, size);
	for (unsigned depth = 0; level.n > 0; depth++) {
		struct walk next = {0};
		if (depth == CAIRN_MANIFEST_DEPTH_MAX) {
			all.complete = false;
			break;
		}
		for (size_t i = 0; i < level.n; i++) expand(&all, &level.found[i].digest, &next);
		for (size_t i = 0; i < level.n; i++) {
			add(&visited, &level.found[i].digest, level.found[i].size);
		}
		visited.n = sort_unique(visited.found, visited.n);
		drop_visited(&next, &visited);
		free(level.found);
		level = next;
	}
	all.n = sort_unique(all.found, all.n);
	struct cairn_needs *needs = cairn_needs_new(all.n);
	memcpy(needs->list, all.found, all.n * sizeof(all.found[0]));
	needs->complete = all.complete;
	free(all.found);
	free(level.found);
	free(visited.found);
	return needs;
}

/* ---- how much of it is here -------------------------------------------------------------------*/

static bool is_here(struct cairn_cache *cache, const struct cairn_digest *digest)
{
	struct cairn_blob_info info;
	struct cairn_err ignored;
	if (cairn_cache_info(cache, digest, &info, &ignored) != CAIRN_OK) return false;
	bool good = !info.damaged;
	cairn_blob_info_fini(&info);
	return good;
}

/* Attestations and the like stand in an index beside the platforms: nobody runs them. */
static bool is_platform(const struct cairn_descriptor *child)
{
	return strcmp(child->os, "unknown") != 0 && strcmp(child->arch, "unknown") != 0;
}

/* Children may be named many times, in one manifest (the empty layer) and in several: each is
 * counted, and each manifest judged, once. */
struct judging {
	struct cairn_cache *cache;
	struct walk here, missing;
	struct verdict {
		struct cairn_digest digest;
		bool ready;
	} * judged; /* sorted by digest */
	size_t n, cap;
};

static size_t find_verdict(const struct judging *j, const struct cairn_digest *digest, bool *found)
{
	size_t low = 0, high = j->n;
	while (low < high) {
		size_t mid = low + (high - low) / 2;
		if (cairn_digest_compare(&j->judged[mid].digest, digest) < 0) {
			low = mid + 1;
		} else {
			high = mid;
		}
	}
	*found = low < j->n && cairn_digest_equal(&j->judged[low].digest, digest);
	return low;
}

static void add_verdict(struct judging *j, const struct cairn_digest *digest, bool ready)
{
	bool found;
	size_t at = find_verdict(j, digest, &found);
	if (j->n == j->cap) {
		j->cap = j->cap > 0 ? 2 * j->cap : 32;
		j->judged = must_realloc(j->judged, j->cap * sizeof(j->judged[0]));
	}
	memmove(&j->judged[at + 1], &j->judged[at], (j->n - at) * sizeof(j->judged[0]));
	j->judged[at] = (struct verdict){*digest, ready};
	j->n++;
}

static bool judge(struct judging *j, const struct cairn_digest *digest, unsigned depth);

/* A platform that nobody asked for is nothing that lacks. */
static bool judge_index(struct judging *j, const struct cairn_manifest *index, unsigned depth)
{
	bool any = false;
	for (size_t i = 0; i < index->n; i++) {
		const struct cairn_descriptor *child = &index->children[i];
		if (!is_here(j->cache, &child->digest)) continue;
		add(&j->here, &child->digest, child->size);
		bool ready = judge(j, &child->digest, depth + 1);
		any |= ready && is_platform(child);
	}
	return any;
}

static bool judge_manifest(struct judging *j, const struct cairn_manifest *manifest)
{
	bool ready = true;
	for (size_t i = 0; i < manifest->n; i++) {
		const struct cairn_descriptor *child = &manifest->children[i];
		bool here = is_here(j->cache, &child->digest);
		add(here ? &j->here : &j->missing, &child->digest, child->size);
		ready &= here;
	}
	return ready;
}

static bool judge(struct judging *j, const struct cairn_digest *digest, unsigned depth)
{
	struct cairn_manifest manifest = {0};
	bool missing = false, found, ready;
	size_t at = find_verdict(j, digest, &found);
	if (found) return j->judged[at].ready;
	if (depth > CAIRN_MANIFEST_DEPTH_MAX || j->n >= READS_MAX) return false;
	if (!read_manifest(j->cache, digest, &manifest, &missing)) {
		ready = !missing;
	} else if (manifest.media == CAIRN_MEDIA_INDEX) {
		ready = judge_index(j, &manifest, depth);
	} else {
		ready = judge_manifest(j, &manifest);
	}
	cairn_manifest_fini(&manifest);
	add_verdict(j, digest, ready);
	return ready;
}

static uint64_t count(struct walk *w, uint64_t *bytes)
{
	w->n = sort_unique(w->found, w->n);
	for (size_t i = 0; i < w->n; i++) *bytes += w->found[i].size;
	free(w->found);
	return w->n;
}

void cairn_graph_state(struct cairn_cache *cache, const struct cairn_digest *root,
		       struct cairn_graph_state *ret)
{
	struct cairn_blob_info info;
	struct cairn_err ignored;
	*ret = (struct cairn_graph_state){.blobs = 1, .missing_blobs = 1};
	if (cairn_cache_info(cache, root, &info, &ignored) != CAIRN_OK) return;
	ret->bytes = info.size;
	if (info.damaged) ret->missing_bytes = info.size;
	cairn_blob_info_fini(&info);
	if (ret->missing_bytes > 0) return;
	struct judging j = {.cache = cache};
	ret->ready = judge(&j, root, 0);
	ret->missing_blobs = count(&j.missing, &ret->missing_bytes);
	ret->blobs += count(&j.here, &ret->bytes) + ret->missing_blobs;
	ret->bytes += ret->missing_bytes;
	free(j.judged);
	/* Of an index no platform is whole, and none has begun to come. */
	if (!ret->ready && ret->missing_blobs == 0) ret->missing_blobs = 1;
}
