/* Ingests by ref, and the sessions on them: memory only. */
#include <stdio.h>

#include "cache/mem.h"
#include "cache/store.h"

struct ingest *ingest_new(const char *ref)
{
	struct ingest *ing = mem_zero(sizeof(*ing));
	ing->ref = mem_dup(ref);
	atomic_init(&ing->refs, 1);
	pthread_mutex_init(&ing->io.os, NULL);
	return ing;
}

void ingest_unref(struct ingest *ing)
{
	if (atomic_fetch_sub(&ing->refs, 1) != 1) return;
	pthread_mutex_destroy(&ing->io.os);
	free(ing->owner);
	free(ing->ref);
	free(ing);
}

/* ---- the map: a sorted array is small enough for CAIRN_INGESTS_MAX */

size_t ingest_search_locked(struct cairn_cache *c, const char *ref, bool *found)
{
	size_t low = 0, high = c->ingests_n;
	*found = false;
	while (low < high) {
		size_t mid = low + (high - low) / 2;
		int order = strcmp(c->ingests[mid]->ref, ref);
		if (order == 0) {
			*found = true;
			return mid;
		}
		if (order < 0) {
			low = mid + 1;
		} else {
			high = mid;
		}
	}
	return low;
}

void ingest_insert_locked(struct cairn_cache *c, size_t at, struct ingest *ing)
{
	if (c->ingests_n == c->ingests_cap) {
		c->ingests_cap = c->ingests_cap > 0 ? 2 * c->ingests_cap : 64;
		c->ingests = mem_grow(c->ingests, c->ingests_cap * sizeof(struct ingest *));
	}
	memmove(&c->ingests[at + 1], &c->ingests[at],
		(c->ingests_n - at) * sizeof(struct ingest *));
	c->ingests[at] = ing;
	c->ingests_n++;
}

/* What it has will not become the blob: not while the session lasts, in any case. */
static void tell_ended_locked(struct cairn_cache *c, const struct ingest *ing)
	CAIRN_REQUIRES(&c->mu)
{
	if (ing->session == NULL || ing->blob != NULL || ing->offset == 0) return;
	event_add_locked(c, CAIRN_EVENT_ENDED, &ing->want, 0);
}

void ingest_remove_locked(struct cairn_cache *c, struct ingest *ing)
{
	bool found;
	size_t at = ingest_search_locked(c, ing->ref, &found);
	memmove(&c->ingests[at], &c->ingests[at + 1],
		(c->ingests_n - at - 1) * sizeof(struct ingest *));
	c->ingests_n--;
	ing->gone = true;
	tell_ended_locked(c, ing);
	ingest_set_blob_locked(c, ing, NULL);
	ing->session = NULL;
	data_drop_locked(c, cairn_steal(&ing->data));
	ingest_unref(ing);
}

/* ---- what an ingest holds */

void ingest_set_blob_locked(struct cairn_cache *c, struct ingest *ing, struct blob *b)
{
	struct blob *old = ing->blob;
	ing->blob = b;
	if (b != NULL && ing->session != NULL) blob_pin_locked(b);
	if (old == NULL) return;
	if (ing->session != NULL) blob_unpin_locked(c, old);
	blob_unref(old);
}

static void hasher_start_locked(struct ingest *ing, uint8_t alg)
{
	cairn_hasher_init(&ing->hasher, (enum cairn_alg)(alg != 0 ? alg : CAIRN_SHA256));
	cairn_hasher_digest(&ing->hasher, &ing->running);
}

void ingest_restart_locked(struct cairn_cache *c, struct ingest *ing)
{
	tell_ended_locked(c, ing);
	ingest_set_blob_locked(c, ing, NULL);
	hasher_start_locked(ing, ing->want.alg);
	ing->offset = 0;
	if (ing->data != NULL) data_drop_locked(c, ing->data);
	ing->data = data_new_locked(c, ing);
	ing->updated_ns = cairn_real_ns(c->clock);
}

void ingest_publish_locked(struct cairn_cache *c, struct ingest *ing, struct blob *b)
{
	ingest_set_blob_locked(c, ing, b);
	ing->offset = b->size;
	data_drop_locked(c, ing->data);
	ing->data = data_new_locked(c, ing);
}

/* ---- sessions */

bool session_current_locked(const struct cairn_ingest *s)
{
	return s->ingest->session == s;
}

enum cairn_code session_over(const struct cairn_ingest *s, struct cairn_err *err)
{
	return cairn_err_set(err, CAIRN_ABORTED,
			     "ingest \"%.128s\" was aborted, committed or closed meanwhile",
			     s->ingest->ref);
}

static enum cairn_code check_spec(const struct cairn_ingest_spec *spec, struct cairn_err *err)
{
	if (spec->ref == NULL || spec->ref[0] == '\0') {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT, "ingest without a ref");
	}
	if (spec->ref[0] == OWN_MARK) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "a ref may not begin with the byte 0x%02x", OWN_MARK);
	}
	if (strlen(spec->ref) + spec->own > CAIRN_REF_MAX) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "ref \"%.64s...\" has %zu bytes, at most %d are allowed",
				     spec->ref, strlen(spec->ref), CAIRN_REF_MAX);
	}
	if (spec->owner != NULL && strlen(spec->owner) > CAIRN_OWNER_MAX) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "owner \"%.64s...\" has %zu bytes, at most %d are allowed",
				     spec->owner, strlen(spec->owner), CAIRN_OWNER_MAX);
	}
	if (spec->total > CAIRN_BLOB_SIZE_MAX) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "total of %llu bytes: at most %lld are allowed",
				     (unsigned long long)spec->total,
				     (long long)CAIRN_BLOB_SIZE_MAX);
	}
	if (spec->want.alg != 0 && cairn_alg_bytes(spec->want.alg) == 0) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT, "unknown digest algorithm");
	}
	return CAIRN_OK;
}

/* What the ingest is to become is here: its bytes are the blob's from now on. */
static void prefill_locked(struct cairn_cache *c, struct ingest *ing, bool owners_only)
	CAIRN_REQUIRES(&c->mu)
{
	struct blob *b = ing->want.alg != 0 ? blob_find_locked(c, &ing->want) : NULL;
	if (b == NULL || b == ing->blob || b->damaged) return;
	if (ing->total == 0 || b->size != ing->total) return;
	if (owners_only && (ing->owner == NULL || !blob_has_owner(b, ing->owner))) return;
	tell_ended_locked(c, ing);
	ingest_publish_locked(c, ing, blob_ref(b));
	ing->running = b->digest;
	ing->updated_ns = cairn_real_ns(c->clock);
	blob_used_locked(c, b);
}

/* An unfinished ingest goes on, unless what it has is not what is asked for, or is lost. */
static void resume_locked(struct cairn_cache *c, struct ingest *ing,
			  const struct cairn_ingest_spec *spec) CAIRN_REQUIRES(&c->mu)
{
	bool lost = ing->blob != NULL ? ing->blob->gone || ing->blob->damaged : ing->data->broken;
	bool other = spec->total > 0 && ing->total > 0 && spec->total != ing->total;
	/* Complete and not what the ref stands for: it would fail at every commit, for ever. */
	bool wrong = spec->want.alg != 0 && ing->blob == NULL && spec->total > 0 &&
		     ing->offset >= spec->total && !cairn_digest_equal(&spec->want, &ing->running);
	ing->want = spec->want;
	ing->expected = (struct cairn_digest){0};
	if (lost || other || wrong) ingest_restart_locked(c, ing);
	if (other) ing->started_ns = ing->updated_ns;
	if (ing->offset == 0 && ing->blob == NULL && spec->want.alg != 0 &&
	    spec->want.alg != ing->hasher.alg) {
		hasher_start_locked(ing, spec->want.alg);
		data_drop_locked(c, ing->data);
		ing->data = data_new_locked(c, ing);
	}
}

static struct ingest *start_locked(struct cairn_cache *c, size_t at, const char *ref,
				   const struct cairn_ingest_spec *spec) CAIRN_REQUIRES(&c->mu)
{
	struct ingest *ing = ingest_new(ref);
	ing->want = spec->want;
	ingest_restart_locked(c, ing);
	ing->started_ns = ing->updated_ns;
	ingest_insert_locked(c, at, ing);
	return ing;
}

static enum cairn_code open_locked(struct cairn_cache *c, const struct cairn_ingest_spec *spec,
				   struct cairn_ingest *s, struct cairn_err *err)
	CAIRN_REQUIRES(&c->mu)
{
	bool found;
	char own[CAIRN_REF_MAX + 1];
	const char *ref = spec->ref;
	if (spec->own) {
		snprintf(own, sizeof(own), "%c%s", OWN_MARK, spec->ref);
		ref = own;
	}
	size_t at = ingest_search_locked(c, ref, &found);
	struct ingest *ing = found ? c->ingests[at] : NULL;
	if (found && ing->session != NULL) {
		return cairn_err_set(err, CAIRN_UNAVAILABLE,
				     "ref \"%.128s\" is locked by another writer", spec->ref);
	}
	if (!found && c->ingests_n >= CAIRN_INGESTS_MAX) {
		return cairn_err_set(err, CAIRN_RESOURCE_EXHAUSTED,
				     "%d unfinished ingests: abort some first", CAIRN_INGESTS_MAX);
	}
	if (found) {
		resume_locked(c, ing, spec);
	} else {
		ing = start_locked(c, at, ref, spec);
	}
	if (spec->total > 0) ing->total = spec->total;
	free(ing->owner);
	ing->owner = spec->owner != NULL ? mem_dup(spec->owner) : NULL;
	/* Not what an earlier opening said, but this one. */
	if (spec->prefill && spec->total > 0) prefill_locked(c, ing, spec->owners_only);
	ing->session = s;
	ing->touched_ns = cairn_boot_ns(c->clock);
	if (ing->blob != NULL) blob_pin_locked(ing->blob);
	if (ing->blob == NULL && ing->offset >= PIECE) {
		event_add_locked(c, CAIRN_EVENT_GREW, &ing->want, ing->offset);
	}
	atomic_fetch_add(&ing->refs, 1);
	s->ingest = ing;
	return CAIRN_OK;
}

enum cairn_code cairn_ingest_open(struct cairn_cache *c, const struct cairn_ingest_spec *spec,
				  struct cairn_ingest **ret, struct cairn_err *err)
{
	enum cairn_code code = check_spec(spec, err);
	if (code != CAIRN_OK) return code;
	struct cairn_ingest *s = mem_zero(sizeof(*s));
	atomic_init(&s->refs, 1);
	s->cache = c;
	lock(&c->mu);
	code = open_locked(c, spec, s, err);
	unlock(&c->mu);
	if (code != CAIRN_OK) {
		free(s);
	} else {
		*ret = s;
	}
	return code;
}

struct cairn_ingest *cairn_ingest_ref(struct cairn_ingest *s)
{
	atomic_fetch_add(&s->refs, 1);
	return s;
}

void cairn_ingest_unref(struct cairn_ingest *s)
{
	if (s == NULL || atomic_fetch_sub(&s->refs, 1) != 1) return;
	ingest_unref(s->ingest);
	free(s);
}

void cairn_ingest_close(struct cairn_ingest *s)
{
	if (s == NULL) return;
	struct cairn_cache *c = s->cache;
	struct ingest *ing = s->ingest;
	lock(&c->mu);
	if (session_current_locked(s)) {
		tell_ended_locked(c, ing);
		if (ing->blob != NULL) blob_unpin_locked(c, ing->blob);
		ing->session = NULL;
		ing->touched_ns = cairn_boot_ns(c->clock);
		data_save_locked(c, ing->data);
	}
	unlock(&c->mu);
	cairn_ingest_unref(s);
}

void cairn_ingest_abort(struct cairn_ingest *s)
{
	lock(&s->cache->mu);
	if (session_current_locked(s)) ingest_remove_locked(s->cache, s->ingest);
	unlock(&s->cache->mu);
}

void cairn_cache_abort(struct cairn_cache *c, const char *ref)
{
	bool found;
	if (ref[0] == OWN_MARK) return;
	lock(&c->mu);
	size_t at = ingest_search_locked(c, ref, &found);
	if (found) ingest_remove_locked(c, c->ingests[at]);
	unlock(&c->mu);
}

bool cairn_ingest_prefill(struct cairn_ingest *s, bool owners_only)
{
	struct cairn_cache *c = s->cache;
	lock(&c->mu);
	bool current = session_current_locked(s);
	if (current && s->ingest->blob == NULL) prefill_locked(c, s->ingest, owners_only);
	bool is = current && s->ingest->blob != NULL;
	unlock(&c->mu);
	return is;
}

void cairn_ingest_expect(struct cairn_ingest *s, uint64_t total,
			 const struct cairn_digest *expected)
{
	lock(&s->cache->mu);
	if (session_current_locked(s)) {
		if (total > 0 && total != s->ingest->total) {
			tell_ended_locked(s->cache, s->ingest);
			s->ingest->total = total;
		}
		if (expected != NULL && expected->alg != 0) s->ingest->expected = *expected;
	}
	unlock(&s->cache->mu);
}

static bool is_current(void *arg)
{
	struct cairn_ingest *s = arg;
	lock(&s->cache->mu);
	bool current = session_current_locked(s);
	unlock(&s->cache->mu);
	return current;
}

enum cairn_code cairn_ingest_confirm(struct cairn_ingest *s, struct cairn_err *err)
{
	struct cairn_cache *c = s->cache;
	struct cairn_digest digest = {0};
	struct cairn_blob *blob = NULL;
	lock(&c->mu);
	bool current = session_current_locked(s);
	if (current && s->ingest->blob != NULL) digest = s->ingest->blob->digest;
	unlock(&c->mu);
	if (!current) return session_over(s, err);
	if (digest.alg == 0) return CAIRN_OK;
	enum cairn_code code = cairn_blob_open(c, &digest, &blob, err);
	if (code == CAIRN_OK) code = cairn_blob_prove(blob, is_current, s, err);
	cairn_blob_close(blob);
	return code == CAIRN_CANCELLED ? session_over(s, err) : code;
}

bool cairn_ingest_is_published(struct cairn_ingest *s)
{
	lock(&s->cache->mu);
	bool is = session_current_locked(s) && s->ingest->blob != NULL;
	unlock(&s->cache->mu);
	return is;
}

/* ---- status */

void ingest_fill_locked(const struct ingest *ing, struct cairn_ingest_status *ret)
{
	memcpy(ret->ref, ing->ref, strlen(ing->ref) + 1);
	ret->offset = ing->offset;
	ret->total = ing->total;
	ret->expected = ing->expected;
	ret->running = ing->running;
	ret->started_ns = ing->started_ns;
	ret->updated_ns = ing->updated_ns;
}

enum cairn_code cairn_ingest_get_status(struct cairn_ingest *s, struct cairn_ingest_status *ret,
					struct cairn_err *err)
{
	lock(&s->cache->mu);
	bool current = session_current_locked(s);
	if (current) ingest_fill_locked(s->ingest, ret);
	unlock(&s->cache->mu);
	return current ? CAIRN_OK : session_over(s, err);
}

enum cairn_code cairn_cache_ingest_status(struct cairn_cache *c, const char *ref,
					  struct cairn_ingest_status *ret, struct cairn_err *err)
{
	bool found = false;
	lock(&c->mu);
	size_t at = ref[0] != OWN_MARK ? ingest_search_locked(c, ref, &found) : 0;
	if (found) ingest_fill_locked(c->ingests[at], ret);
	unlock(&c->mu);
	return found ? CAIRN_OK
		     : cairn_err_set(err, CAIRN_NOT_FOUND, "no ingest has the ref \"%.128s\"", ref);
}

uint64_t cairn_cache_own_offset(struct cairn_cache *c, const char *ref)
{
	char own[CAIRN_REF_MAX + 1];
	bool found = false;
	snprintf(own, sizeof(own), "%c%s", OWN_MARK, ref);
	lock(&c->mu);
	size_t at = ingest_search_locked(c, own, &found);
	uint64_t offset = found && c->ingests[at]->blob == NULL ? c->ingests[at]->offset : 0;
	unlock(&c->mu);
	return offset;
}

size_t cairn_cache_next_ingest(struct cairn_cache *c, const char *after,
			       struct cairn_ingest_status *ret, size_t max)
{
	bool found = false;
	size_t n = 0;
	lock(&c->mu);
	size_t at = after != NULL ? ingest_search_locked(c, after, &found) : 0;
	for (at += found; at < c->ingests_n && n < max; at++) {
		if (c->ingests[at]->ref[0] == OWN_MARK) continue;
		ingest_fill_locked(c->ingests[at], &ret[n++]);
	}
	unlock(&c->mu);
	return n;
}

bool cairn_cache_is_written(struct cairn_cache *c, const struct cairn_digest *digest,
			    uint64_t *ret_offset)
{
	bool found = false;
	*ret_offset = 0;
	lock(&c->mu);
	for (size_t i = 0; i < c->ingests_n; i++) {
		const struct ingest *ing = c->ingests[i];
		if (ing->session == NULL || ing->blob != NULL || ing->ref[0] == OWN_MARK) continue;
		if (!cairn_digest_equal(&ing->want, digest)) continue;
		found = true;
		if (ing->offset > *ret_offset) *ret_offset = ing->offset;
	}
	unlock(&c->mu);
	return found;
}
