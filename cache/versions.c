/* The history of names. A sorted array of pointers, since there are few and they change rarely. */
#include "cache/history.h"

#include "base/clock.h"
#include "cache/mem.h"
#include "cache/store.h"

#define COPY_STEP 256 /* versions copied under one lock */

/* ---- needs */

struct cairn_needs *cairn_needs_new(size_t n)
{
	struct cairn_needs *needs = mem_zero(sizeof(*needs) + n * sizeof(needs->list[0]));
	atomic_init(&needs->refs, 1);
	needs->n = n;
	return needs;
}

struct cairn_needs *cairn_needs_ref(struct cairn_needs *needs)
{
	atomic_fetch_add(&needs->refs, 1);
	return needs;
}

void cairn_needs_unref(struct cairn_needs *needs)
{
	if (needs != NULL && atomic_fetch_sub(&needs->refs, 1) == 1) free(needs);
}

/* As the index has them: algorithm byte, digest, size in 8 bytes, big endian; and so on. */
void *needs_pack(const struct cairn_needs *needs, size_t *len)
{
	*len = 0;
	if (needs == NULL) return NULL;
	uint8_t *buf = mem_zero(needs->n * (1 + CAIRN_DIGEST_MAX + 8));
	for (size_t i = 0; i < needs->n; i++) {
		const struct cairn_need *need = &needs->list[i];
		size_t width = cairn_alg_bytes(need->digest.alg);
		buf[(*len)++] = need->digest.alg;
		memcpy(buf + *len, need->digest.bytes, width);
		*len += width;
		for (int shift = 56; shift >= 0; shift -= 8) {
			buf[(*len)++] = (uint8_t)(need->size >> shift);
		}
	}
	return buf;
}

/* One need at p; returns how many bytes it took, 0 if it makes no sense. */
static size_t unpack_one(const uint8_t *p, size_t len, struct cairn_need *ret)
{
	size_t width = len > 0 ? cairn_alg_bytes(p[0]) : 0;
	if (width == 0 || len < 1 + width + 8) return 0;
	ret->digest.alg = p[0];
	memcpy(ret->digest.bytes, p + 1, width);
	ret->size = 0;
	for (size_t i = 0; i < 8; i++) ret->size = ret->size << 8 | p[1 + width + i];
	return 1 + width + 8;
}

static struct cairn_needs *needs_unpack(const uint8_t *p, size_t len, bool complete)
{
	size_t n = 0;
	struct cairn_need one;
	for (size_t at = 0, took; at < len; at += took, n++) {
		took = unpack_one(p + at, len - at, &one);
		if (took == 0 || n >= CAIRN_NEEDS_MAX) return NULL;
	}
	if (n == 0) return NULL;
	struct cairn_needs *needs = cairn_needs_new(n);
	needs->complete = complete;
	for (size_t at = 0, i = 0; i < n; i++) {
		at += unpack_one(p + at, len - at, &needs->list[i]);
	}
	return needs;
}

/* ---- the list */

void version_unref_locked(struct version *v)
{
	if (--v->refs > 0) return;
	cairn_needs_unref(v->v.needs);
	free(v->v.name);
	free(v);
}

static int compare(const struct version *v, const char *name, const struct cairn_digest *root)
{
	int rc = strcmp(v->v.name, name);
	return rc != 0 || root == NULL ? rc : cairn_digest_compare(&v->v.root, root);
}

/* The first one that is not before (name, root); root NULL: the first of the name. */
static size_t search_locked(struct cairn_cache *c, const char *name,
			    const struct cairn_digest *root) CAIRN_REQUIRES(&c->mu)
{
	size_t low = 0, high = c->versions_n;
	while (low < high) {
		size_t mid = low + (high - low) / 2;
		if (compare(c->versions[mid], name, root) < 0) {
			low = mid + 1;
		} else {
			high = mid;
		}
	}
	return low;
}

static struct version *find_locked(struct cairn_cache *c, const char *name,
				   const struct cairn_digest *root, size_t *at)
	CAIRN_REQUIRES(&c->mu)
{
	*at = search_locked(c, name, root);
	bool found = *at < c->versions_n && compare(c->versions[*at], name, root) == 0;
	return found ? c->versions[*at] : NULL;
}

static void insert_locked(struct cairn_cache *c, size_t at, struct version *v)
	CAIRN_REQUIRES(&c->mu)
{
	if (c->versions_n == c->versions_cap) {
		c->versions_cap = c->versions_cap > 0 ? 2 * c->versions_cap : 64;
		c->versions = mem_grow(c->versions, c->versions_cap * sizeof(c->versions[0]));
	}
	memmove(&c->versions[at + 1], &c->versions[at],
		(c->versions_n - at) * sizeof(c->versions[0]));
	c->versions[at] = v;
	c->versions_n++;
}

static void remove_locked(struct cairn_cache *c, size_t at) CAIRN_REQUIRES(&c->mu)
{
	struct version *v = c->versions[at];
	c->versions_n--;
	memmove(&c->versions[at], &c->versions[at + 1],
		(c->versions_n - at) * sizeof(c->versions[0]));
	v->gone = true;
	writer_add_version_locked(c, v);
	version_unref_locked(v);
}

static struct version *version_new(const char *name, const struct cairn_digest *root)
{
	struct version *v = mem_zero(sizeof(*v));
	v->refs = 1;
	v->v.name = mem_dup(name);
	v->v.root = *root;
	return v;
}

/* A name that moves for ever must not fill the index. */
static void bound_name_locked(struct cairn_cache *c, const char *name) CAIRN_REQUIRES(&c->mu)
{
	size_t first = search_locked(c, name, NULL), oldest = first, n = 0;
	for (size_t i = first; i < c->versions_n && compare(c->versions[i], name, NULL) == 0; i++) {
		if (c->versions[i]->v.last_ns < c->versions[oldest]->v.last_ns) oldest = i;
		n++;
	}
	if (n >= CAIRN_VERSIONS_OF_A_NAME) remove_locked(c, oldest);
}

/* At open; the only thread. */
void versions_take_row(struct cairn_cache *c, const struct version_row *row) CAIRN_LOCKS_UNCHECKED
{
	size_t at;
	if (row->name[0] == '\0' || strlen(row->name) > CAIRN_NAME_MAX) return;
	if (c->versions_n >= CAIRN_VERSIONS_MAX) return;
	if (find_locked(c, row->name, &row->root, &at) != NULL) return;
	struct version *v = version_new(row->name, &row->root);
	v->has_row = true;
	v->v.first_ns = row->first_ns;
	v->v.last_ns = v->saved_last_ns = row->last_ns;
	v->v.first_real_ns = row->first_real_ns;
	v->v.last_real_ns = row->last_real_ns;
	v->v.needs = needs_unpack(row->needs, row->needs_len, row->complete);
	insert_locked(c, at, v);
}

void versions_free(struct cairn_cache *c)
{
	for (size_t i = 0; i < c->versions_n; i++) version_unref_locked(c->versions[i]);
	free(c->versions);
	c->versions = NULL;
	c->versions_n = c->versions_cap = 0;
}

/* ---- the public calls */

static enum cairn_code check(const char *name, const struct cairn_digest *root,
			     const struct cairn_needs *needs, struct cairn_err *err)
{
	size_t n = strlen(name);
	if (n == 0 || n > CAIRN_NAME_MAX) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "an image name of %zu bytes: 1 to %d are allowed", n,
				     CAIRN_NAME_MAX);
	}
	if (cairn_alg_bytes(root->alg) == 0) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT, "unknown digest algorithm");
	}
	if (needs != NULL && needs->n > CAIRN_NEEDS_MAX) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "an image of %zu blobs: at most %d are allowed", needs->n,
				     CAIRN_NEEDS_MAX);
	}
	return CAIRN_OK;
}

static bool needs_equal(const struct cairn_needs *a, const struct cairn_needs *b)
{
	if (a == NULL || b == NULL) return a == b;
	if (a->n != b->n || a->complete != b->complete) return false;
	for (size_t i = 0; i < a->n; i++) {
		if (a->list[i].size != b->list[i].size) return false;
		if (!cairn_digest_equal(&a->list[i].digest, &b->list[i].digest)) return false;
	}
	return true;
}

static bool set_needs_locked(struct version *v, struct cairn_needs *needs)
{
	if (needs == NULL || needs_equal(v->v.needs, needs)) return false;
	cairn_needs_unref(v->v.needs);
	v->v.needs = cairn_needs_ref(needs);
	return true;
}

enum cairn_code cairn_cache_see_version(struct cairn_cache *c, const char *name,
					const struct cairn_digest *root, struct cairn_needs *needs,
					struct cairn_err *err)
{
	size_t at;
	int64_t now = cairn_cache_now_ns(c), real = cairn_real_ns(c->clock);
	enum cairn_code code = check(name, root, needs, err);
	if (code != CAIRN_OK) return code;
	lock(&c->mu);
	struct version *v = find_locked(c, name, root, &at);
	bool is_new = v == NULL;
	if (is_new) bound_name_locked(c, name);
	if (is_new && c->versions_n >= CAIRN_VERSIONS_MAX) {
		unlock(&c->mu);
		return cairn_err_set(err, CAIRN_RESOURCE_EXHAUSTED,
				     "%d versions of images are remembered, and no more can be",
				     CAIRN_VERSIONS_MAX);
	}
	if (is_new) {
		v = version_new(name, root);
		v->v.first_ns = now;
		v->v.first_real_ns = real;
		insert_locked(c, search_locked(c, name, root), v);
	}
	v->v.last_ns = now;
	v->v.last_real_ns = real;
	bool changed = set_needs_locked(v, needs);
	if (is_new || changed || now - v->saved_last_ns >= USED_SAVE_NS) {
		writer_add_version_locked(c, v);
	}
	unlock(&c->mu);
	return CAIRN_OK;
}

void cairn_cache_set_needs(struct cairn_cache *c, const char *name, const struct cairn_digest *root,
			   struct cairn_needs *needs)
{
	size_t at;
	lock(&c->mu);
	struct version *v = find_locked(c, name, root, &at);
	if (v != NULL && needs->n <= CAIRN_NEEDS_MAX && set_needs_locked(v, needs)) {
		writer_add_version_locked(c, v);
	}
	unlock(&c->mu);
}

static int by_name_newest_first(const void *a, const void *b)
{
	const struct cairn_version *x = a, *y = b;
	int rc = strcmp(x->name, y->name);
	if (rc != 0) return rc;
	if (x->last_ns != y->last_ns) return x->last_ns > y->last_ns ? -1 : 1;
	return cairn_digest_compare(&x->root, &y->root);
}

/* Up to COPY_STEP versions that follow *after (NULL: the first ones) of the name (NULL: of any). */
static size_t copy_locked(struct cairn_cache *c, const char *name,
			  const struct cairn_version *after, struct cairn_version *ret)
	CAIRN_REQUIRES(&c->mu)
{
	size_t at = name != NULL ? search_locked(c, name, NULL) : 0, n = 0;
	if (after != NULL && find_locked(c, after->name, &after->root, &at) != NULL) at++;
	for (; n < COPY_STEP && at + n < c->versions_n; n++) {
		const struct cairn_version *v = &c->versions[at + n]->v;
		if (name != NULL && strcmp(v->name, name) != 0) break;
		ret[n] = *v;
		ret[n].name = mem_dup(v->name);
		if (v->needs != NULL) cairn_needs_ref(v->needs);
	}
	return n;
}

size_t cairn_cache_versions(struct cairn_cache *c, const char *name, struct cairn_version **ret)
{
	struct cairn_version *list = NULL;
	size_t n = 0, cap = 0;
	for (size_t got = COPY_STEP; got == COPY_STEP; n += got) {
		if (n > 0) cairn_let_others_in();
		if (cap < n + COPY_STEP) {
			cap = 2 * cap + COPY_STEP;
			list = mem_grow(list, cap * sizeof(list[0]));
		}
		lock(&c->mu);
		got = copy_locked(c, name, n > 0 ? &list[n - 1] : NULL, list + n);
		unlock(&c->mu);
	}
	qsort(list, n, sizeof(list[0]), by_name_newest_first);
	*ret = list;
	return n;
}

void cairn_cache_count_history(struct cairn_cache *c, uint64_t *ret_versions, uint64_t *ret_pins)
{
	int64_t now = cairn_cache_now_ns(c);
	lock(&c->mu);
	*ret_versions = c->versions_n;
	*ret_pins = 0;
	for (size_t i = 0; i < c->pins_n; i++) {
		const struct cairn_pin *p = &c->pins[i]->p;
		*ret_pins += p->until_ns == 0 || p->until_ns > now;
	}
	unlock(&c->mu);
}

void cairn_versions_free(struct cairn_version *list, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		free(list[i].name);
		cairn_needs_unref(list[i].needs);
	}
	free(list);
}

void cairn_cache_forget_version(struct cairn_cache *c, const char *name,
				const struct cairn_digest *root)
{
	size_t at;
	lock(&c->mu);
	if (find_locked(c, name, root, &at) != NULL) remove_locked(c, at);
	unlock(&c->mu);
}
