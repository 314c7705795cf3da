/* Facts and states of blobs: memory only. */
#include <errno.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "cache/labels.h"
#include "cache/mem.h"
#include "cache/store.h"
#include "cache/window.h"

#define WALK_STEP 4096 /* blobs looked at under one lock */

struct blob *blob_new(const struct cairn_digest *digest, uint64_t size)
{
	struct blob *b = mem_zero(sizeof(*b));
	b->digest = *digest;
	b->size = size;
	atomic_init(&b->refs, 1);
	return b;
}

struct blob *blob_ref(struct blob *b)
{
	atomic_fetch_add(&b->refs, 1);
	return b;
}

void blob_unref(struct blob *b)
{
	if (atomic_fetch_sub(&b->refs, 1) != 1) return;
	labels_unref(b->labels);
	free(b->owners);
	free(b->proved);
	if (b->new_chain != NULL) chain_fini(b->new_chain);
	free(b->new_chain);
	free(b);
}

struct blob *blob_find_locked(struct cairn_cache *c, const struct cairn_digest *digest)
{
	if (cairn_alg_bytes(digest->alg) == 0) return NULL;
	return table_find(&c->tables[digest->alg], digest);
}

/* Add (or, with sign -1, take out) what the blob counts for. */
static void count_locked(struct cairn_cache *c, const struct blob *b, int sign)
	CAIRN_REQUIRES(&c->mu)
{
	struct cairn_cache_stats *s = &c->stats;
	bool ref = b->state == CAIRN_BLOB_REFERENCED;
	uint64_t one = (uint64_t)(int64_t)sign, bytes = one * b->size;
	*(ref ? &s->referenced_blobs : &s->cached_blobs) += one;
	*(ref ? &s->referenced_bytes : &s->cached_bytes) += bytes;
	if (b->damaged) s->damaged_blobs += one;
}

void blob_insert_locked(struct cairn_cache *c, struct blob *b)
{
	table_insert(&c->tables[b->digest.alg], b);
	count_locked(c, b, 1);
	if (!b->damaged) event_add_locked(c, CAIRN_EVENT_ADDED, &b->digest, b->size);
}

static void unlink_job(struct cairn_cache *c, struct job *job)
{
	struct blob *b = (struct blob *)((char *)job - offsetof(struct blob, job));
	char hex[CAIRN_DIGEST_STR];
	struct mutex *name = blob_name_lock(c, &b->digest);
	lock(name);
	lock(&c->mu);
	bool free_name = blob_find_locked(c, &b->digest) == NULL;
	unlock(&c->mu);
	/* Somebody may have published the digest again: then the name is his. */
	if (free_name) {
		(void)unlinkat(c->blob_fds[b->digest.alg], cairn_digest_hex(&b->digest, hex), 0);
	}
	unlock(name);
	file_detach(c, b);
	blob_unref(b);
}

void blob_take_out_locked(struct cairn_cache *c, struct blob *b)
{
	count_locked(c, b, -1);
	table_remove(&c->tables[b->digest.alg], b);
	b->gone = true;
	writer_add_blob_locked(c, b);
	if (!b->damaged) event_add_locked(c, CAIRN_EVENT_GONE, &b->digest, 0);
}

static void drop_locked(struct cairn_cache *c, struct blob *b) CAIRN_REQUIRES(&c->mu)
{
	blob_take_out_locked(c, b);
	jobs_add_locked(c, &b->job, unlink_job); /* has the table's reference */
}

struct blob *blob_replace_locked(struct cairn_cache *c, struct blob *old, uint64_t size)
{
	struct blob *b = blob_new(&old->digest, size);
	b->state = old->state;
	b->has_row = old->has_row;
	b->known = old->known;
	b->created_ns = old->created_ns;
	b->updated_ns = old->updated_ns;
	b->saved_used_ns = old->saved_used_ns;
	b->referenced_ns = old->referenced_ns;
	b->promised_ns = old->promised_ns;
	b->labels = cairn_steal(&old->labels);
	b->owners = cairn_steal(&old->owners);
	b->owners_len = old->owners_len;
	old->owners_len = 0;
	count_locked(c, old, -1);
	table_remove(&c->tables[old->digest.alg], old);
	old->gone = true;
	old->has_row = false; /* the new one's by now */
	blob_insert_locked(c, b);
	return b;
}

/* Nobody may need a damaged blob that nobody records. */
void blob_drop_if_useless_locked(struct cairn_cache *c, struct blob *b)
{
	if (!b->gone && b->damaged && b->state == CAIRN_BLOB_CACHED && b->pins == 0) {
		drop_locked(c, b);
	}
}

void blob_pin_locked(struct blob *b)
{
	b->pins++;
	b->evicting = 0;
}

void blob_unpin_locked(struct cairn_cache *c, struct blob *b)
{
	b->pins--;
	blob_drop_if_useless_locked(c, b);
}

/* A hold is the blob itself, with a reference and a pin. */
struct cairn_blob_hold *cairn_blob_hold(struct cairn_cache *c, const struct cairn_digest *digest)
{
	lock(&c->mu);
	struct blob *b = blob_find_locked(c, digest);
	if (b != NULL && b->damaged) b = NULL;
	if (b != NULL) {
		blob_ref(b);
		blob_pin_locked(b);
	}
	unlock(&c->mu);
	return (struct cairn_blob_hold *)b;
}

void cairn_blob_let_go(struct cairn_cache *c, struct cairn_blob_hold *hold)
{
	struct blob *b = (struct blob *)hold;
	if (b == NULL) return;
	lock(&c->mu);
	blob_unpin_locked(c, b);
	unlock(&c->mu);
	blob_unref(b);
}

void blob_used_locked(struct cairn_cache *c, struct blob *b)
{
	int64_t now = cairn_boot_ns(c->clock);
	b->evicting = 0; /* its eviction writes the row again */
	b->used_ns = now;
	if (now - b->saved_used_ns >= USED_SAVE_NS) {
		b->saved_used_ns = now;
		writer_add_blob_locked(c, b);
	}
}

static void set_state_locked(struct cairn_cache *c, struct blob *b, enum cairn_blob_state state)
	CAIRN_REQUIRES(&c->mu)
{
	b->evicting = 0;
	count_locked(c, b, -1);
	b->state = (uint8_t)state;
	count_locked(c, b, 1);
	writer_add_blob_locked(c, b);
}

void blob_reference_locked(struct cairn_cache *c, struct blob *b)
{
	b->referenced_ns = cairn_boot_ns(c->clock);
	b->known = true;
	if (b->state != CAIRN_BLOB_REFERENCED) set_state_locked(c, b, CAIRN_BLOB_REFERENCED);
}

static void release_locked(struct cairn_cache *c, struct blob *b) CAIRN_REQUIRES(&c->mu)
{
	if (b->state != CAIRN_BLOB_REFERENCED) return;
	labels_unref(cairn_steal(&b->labels));
	set_state_locked(c, b, CAIRN_BLOB_CACHED);
	blob_drop_if_useless_locked(c, b);
}

void blob_set_damaged_locked(struct cairn_cache *c, struct blob *b, bool damaged)
{
	if (b->damaged == damaged || b->gone) return;
	count_locked(c, b, -1);
	b->damaged = damaged;
	count_locked(c, b, 1);
	event_add_locked(c, damaged ? CAIRN_EVENT_GONE : CAIRN_EVENT_ADDED, &b->digest,
			 damaged ? 0 : b->size);
	writer_add_blob_locked(c, b);
	blob_drop_if_useless_locked(c, b);
}

enum cairn_code blob_damage_err(const struct blob *b, const char *why, struct cairn_err *err)
{
	char text[CAIRN_DIGEST_STR];
	return cairn_err_set(err, CAIRN_DATA_LOSS,
			     "blob %s is damaged on disk (%s): it is out of service; remove the "
			     "images that need it and pull them again",
			     cairn_digest_format(&b->digest, text), why);
}

enum cairn_code blob_damaged(struct cairn_cache *c, struct blob *b, const char *why,
			     struct cairn_err *err)
{
	char text[CAIRN_DIGEST_STR];
	lock(&c->mu);
	bool first = !b->damaged && !b->gone;
	blob_set_damaged_locked(c, b, true);
	bool dropped = b->gone;
	unlock(&c->mu);
	if (first) {
		cairn_log(CAIRN_LOG_ERROR, "blob_damaged",
			  CAIRN_STR("digest", cairn_digest_format(&b->digest, text)),
			  CAIRN_STR("why", why), CAIRN_STR("action", dropped ? "dropped" : "kept"));
	}
	return blob_damage_err(b, why, err);
}

static enum cairn_code not_found(const struct cairn_digest *digest, struct cairn_err *err)
{
	char text[CAIRN_DIGEST_STR];
	return cairn_err_set(err, CAIRN_NOT_FOUND, "blob %s is not here",
			     cairn_digest_format(digest, text));
}

enum cairn_code blob_unopened(struct cairn_cache *c, struct blob *b, int errnum,
			      struct cairn_err *err)
{
	char text[CAIRN_DIGEST_STR], why[128];
	if (errnum == ENOENT && b->gone) return not_found(&b->digest, err); /* evicted meanwhile */
	if (errnum == ENOENT || errnum == ELOOP || errnum == EIO) {
		return blob_damaged(c, b, strerror_r(errnum, why, sizeof(why)), err);
	}
	return cairn_err_sys(err, errnum, "open blob %s", cairn_digest_format(&b->digest, text));
}

struct mutex *blob_name_lock(struct cairn_cache *c, const struct cairn_digest *digest)
{
	return &c->names[digest->bytes[0] % NAME_LOCKS];
}

/* ---- owners */

bool blob_has_owner(const struct blob *b, const char *owner)
{
	const char *p = b->owners, *end = p + b->owners_len;
	for (; p != NULL && p < end; p += strlen(p) + 1) {
		if (strcmp(p, owner) == 0) return true;
	}
	return false;
}

static size_t owners_count(const struct blob *b)
{
	size_t n = 0;
	const char *p = b->owners, *end = p + b->owners_len;
	for (; p != NULL && p < end; p += strlen(p) + 1) n++;
	return n;
}

void blob_add_owner_locked(struct blob *b, const char *owner)
{
	if (owner == NULL || owner[0] == '\0' || blob_has_owner(b, owner)) return;
	if (owners_count(b) >= OWNERS_MAX) return;
	size_t n = strlen(owner) + 1;
	b->owners = mem_grow(b->owners, b->owners_len + n);
	memcpy(b->owners + b->owners_len, owner, n);
	b->owners_len += n;
}

static char **owners_list(const struct blob *b)
{
	size_t n = owners_count(b);
	if (n == 0) return NULL;
	char **list = mem_zero((n + 1) * sizeof(*list) + b->owners_len);
	char *p = (char *)&list[n + 1];
	memcpy(p, b->owners, b->owners_len);
	for (size_t i = 0; i < n; i++, p += strlen(p) + 1) list[i] = p;
	return list;
}

/* ---- the public calls */

static void fill_locked(struct cairn_cache *c, struct blob *b, bool owners,
			struct cairn_blob_info *ret) CAIRN_REQUIRES(&c->mu)
{
	*ret = (struct cairn_blob_info){
		.digest = b->digest,
		.size = b->size,
		.state = (enum cairn_blob_state)b->state,
		.damaged = b->damaged,
		.created_ns = b->created_ns,
		.updated_ns = b->updated_ns,
		.idle_ns = cairn_boot_ns(c->clock) - b->used_ns,
		.labels = labels_ref(b->labels),
		.owners = owners ? owners_list(b) : NULL,
	};
}

void cairn_blob_info_fini(struct cairn_blob_info *info)
{
	labels_unref(info->labels);
	free(info->owners);
	*info = (struct cairn_blob_info){0};
}

enum cairn_code cairn_cache_info(struct cairn_cache *c, const struct cairn_digest *digest,
				 struct cairn_blob_info *ret, struct cairn_err *err)
{
	lock(&c->mu);
	struct blob *b = blob_find_locked(c, digest);
	if (b != NULL) fill_locked(c, b, true, ret);
	unlock(&c->mu);
	return b != NULL ? CAIRN_OK : not_found(digest, err);
}

int cairn_cache_state(struct cairn_cache *c, const struct cairn_digest *digest, bool *ret_damaged)
{
	lock(&c->mu);
	struct blob *b = blob_find_locked(c, digest);
	int state = b != NULL ? b->state : 0;
	*ret_damaged = b != NULL && b->damaged;
	unlock(&c->mu);
	return state;
}

enum cairn_code cairn_cache_promise(struct cairn_cache *c, const struct cairn_digest *digest,
				    struct cairn_blob_info *ret, struct cairn_err *err)
{
	lock(&c->mu);
	struct blob *b = blob_find_locked(c, digest);
	bool found = b != NULL && b->state == CAIRN_BLOB_REFERENCED;
	if (found) {
		b->promised_ns = cairn_boot_ns(c->clock);
		blob_used_locked(c, b);
		fill_locked(c, b, false, ret);
	}
	unlock(&c->mu);
	return found ? CAIRN_OK : not_found(digest, err);
}

/* Up to max entries, but at most WALK_STEP looked at; *pos moves on. Returns false at the end. */
static bool walk_locked(struct cairn_cache *c, struct cairn_digest *pos, int state,
			struct cairn_blob_info *ret, size_t max, size_t *n) CAIRN_REQUIRES(&c->mu)
{
	uint8_t alg = pos->alg != 0 ? pos->alg : CAIRN_SHA256;
	struct blob *b = table_after(&c->tables[alg], pos->alg != 0 ? pos : NULL);
	for (size_t looked = 0; looked < WALK_STEP && *n < max; looked++) {
		while (b == NULL) {
			if (alg == CAIRN_SHA512) return false;
			b = table_after(&c->tables[++alg], NULL);
		}
		if (state == 0 || b->state == state) fill_locked(c, b, true, &ret[(*n)++]);
		*pos = b->digest;
		b = table_next(&c->tables[alg], b);
	}
	return *n < max;
}

size_t cairn_cache_next(struct cairn_cache *c, const struct cairn_digest *after,
			enum cairn_blob_state state, struct cairn_blob_info *ret, size_t max)
{
	struct cairn_digest pos = *after;
	size_t n = 0;
	if (pos.alg != 0 && cairn_alg_bytes(pos.alg) == 0) return 0;
	for (bool more = max > 0; more;) {
		lock(&c->mu);
		more = walk_locked(c, &pos, (int)state, ret, max, &n);
		unlock(&c->mu);
		if (more) cairn_let_others_in();
	}
	return n;
}

enum cairn_code cairn_cache_set_labels(struct cairn_cache *c, const struct cairn_digest *digest,
				       const struct cairn_label *labels, size_t n, bool replace_all,
				       struct cairn_err *err)
{
	for (;;) {
		struct cairn_labels *new_set = NULL, *old = NULL;
		lock(&c->mu);
		struct blob *b = blob_find_locked(c, digest);
		bool found = b != NULL && b->state == CAIRN_BLOB_REFERENCED;
		if (found) old = labels_ref(b->labels);
		unlock(&c->mu);
		if (!found) return not_found(digest, err);
		enum cairn_code code = labels_change(old, labels, n, replace_all, &new_set, err);
		if (code != CAIRN_OK) {
			labels_unref(old);
			return code;
		}
		lock(&c->mu);
		b = blob_find_locked(c, digest);
		bool same = b != NULL && b->labels == old && b->state == CAIRN_BLOB_REFERENCED;
		struct cairn_labels *drop = new_set;
		if (same) {
			drop = b->labels;
			b->labels = new_set;
			b->updated_ns = cairn_real_ns(c->clock);
			writer_add_blob_locked(c, b);
		}
		unlock(&c->mu);
		labels_unref(drop);
		labels_unref(old);
		if (same) return CAIRN_OK;
	}
}

void cairn_cache_release(struct cairn_cache *c, const struct cairn_digest *digest)
{
	lock(&c->mu);
	struct blob *b = blob_find_locked(c, digest);
	if (b != NULL && b->state == CAIRN_BLOB_REFERENCED) {
		blob_used_locked(c, b);
		release_locked(c, b);
	}
	unlock(&c->mu);
}

void cairn_cache_add_owner(struct cairn_cache *c, const struct cairn_digest *digest,
			   const char *owner)
{
	lock(&c->mu);
	struct blob *b = blob_find_locked(c, digest);
	if (b != NULL && !blob_has_owner(b, owner)) {
		blob_add_owner_locked(b, owner);
		writer_add_blob_locked(c, b);
	}
	unlock(&c->mu);
}

bool cairn_cache_reference(struct cairn_cache *c, const struct cairn_digest *digest)
{
	lock(&c->mu);
	struct blob *b = blob_find_locked(c, digest);
	if (b != NULL) blob_reference_locked(c, b);
	unlock(&c->mu);
	return b != NULL;
}

/* read_mu is held inside mu for a moment: "no reader" must be true when the state flips. */
bool blob_has_reader_locked(struct cairn_cache *c, const struct blob *b)
{
	lock(&c->read_mu);
	bool has = b->file != NULL && (b->file->opens > 0 || windows_in_use_locked(c, b->file));
	unlock(&c->read_mu);
	return has;
}

bool cairn_cache_release_unrecorded(struct cairn_cache *c, const struct cairn_digest *digest,
				    int64_t begun_boot_ns)
{
	lock(&c->mu);
	struct blob *b = blob_find_locked(c, digest);
	bool release = b != NULL && b->state == CAIRN_BLOB_REFERENCED &&
		       begun_boot_ns > c->open_boot_ns &&
		       begun_boot_ns >= b->referenced_ns + CAIRN_RECORD_GRACE_NS &&
		       begun_boot_ns >= b->promised_ns + CAIRN_PROMISE_GRACE_NS && b->pins == 0 &&
		       !blob_has_reader_locked(c, b);
	if (release) release_locked(c, b);
	unlock(&c->mu);
	return release;
}
