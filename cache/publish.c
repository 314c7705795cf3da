/* The only place that gives a file its final name: flush, rename, flush the folder, and only then
 * tell anybody. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "base/log.h"
#include "cache/mem.h"
#include "cache/store.h"

/* Somebody was faster, or healed it: nothing to rename. */
static struct blob *take_present_locked(struct cairn_cache *c, const struct publish *p, int *before)
	CAIRN_REQUIRES(&c->mu)
{
	struct blob *b = blob_find_locked(c, p->digest);
	*before = b != NULL ? b->state : 0;
	if (b == NULL || b->damaged) return NULL;
	if (p->state == CAIRN_BLOB_REFERENCED) blob_reference_locked(c, b);
	if (p->owner != NULL && !blob_has_owner(b, p->owner)) {
		blob_add_owner_locked(b, p->owner);
		writer_add_blob_locked(c, b);
	}
	blob_used_locked(c, b);
	blob_hold_locked(b);
	return blob_ref(b);
}

static struct chain *chain_copy(const struct chain *chain, const struct publish *p)
{
	size_t want = chain_count(p->size);
	if (want == 0 || chain == NULL || chain->n < want) return NULL;
	struct chain *copy = mem_zero(sizeof(*copy));
	chain_init(copy, p->digest->alg);
	assert(copy->width == chain->width);
	chain_append(copy, chain);
	copy->n = want;
	return copy;
}

/* The file has its name: make the blob, or heal the one whose file it replaced, which *healed then
 * is (a new reference). */
static struct blob *install_locked(struct cairn_cache *c, const struct publish *p,
				   struct chain **chain, struct blob **healed)
	CAIRN_REQUIRES(&c->mu)
{
	struct blob *b = blob_find_locked(c, p->digest);
	int64_t now = cairn_real_ns(c->clock);
	*healed = b;
	if (b == NULL) {
		b = blob_new(p->digest, p->size);
		b->state = (uint8_t)p->state;
		b->created_ns = b->updated_ns = now;
		b->used_ns = b->saved_used_ns = cairn_boot_ns(c->clock);
		b->referenced_ns = b->used_ns;
		b->promised_ns = INT64_MIN / 2;
		b->known = p->state == CAIRN_BLOB_REFERENCED;
		blob_insert_locked(c, b);
	} else {
		if (b->size != p->size) {
			b = blob_replace_locked(c, b, p->size);
		} else {
			blob_ref(b);
			blob_set_damaged_locked(c, b, false);
		}
		if (p->state == CAIRN_BLOB_REFERENCED) blob_reference_locked(c, b);
		b->used_ns = cairn_boot_ns(c->clock);
	}
	blob_add_owner_locked(b, p->owner);
	struct chain *old = b->new_chain;
	b->new_chain = *chain;
	*chain = old; /* freed by the caller, unlocked */
	writer_add_blob_locked(c, b);
	blob_hold_locked(b);
	return blob_ref(b);
}

static enum cairn_code undo(struct cairn_cache *c, const struct publish *p, const char *hex,
			    int errnum, struct cairn_err *err)
{
	int dir = c->blob_fds[p->digest->alg];
	(void)renameat(dir, hex, c->ingest_fd, p->name);
	return cairn_err_sys(err, errnum, "flush the folder %s/blobs", c->dir);
}

static enum cairn_code give_name(struct cairn_cache *c, const struct publish *p,
				 struct generation *g, struct cairn_err *err)
{
	struct stat st;
	char hex[CAIRN_DIGEST_STR];
	int dir = c->blob_fds[p->digest->alg];
	cairn_digest_hex(p->digest, hex);
	if (renameat(c->ingest_fd, p->name, dir, hex) != 0) {
		return cairn_err_sys(err, errno, "rename a whole blob into %s/blobs", c->dir);
	}
	/* Where both names are links to one file already, rename leaves them alone. */
	if (p->foreign) (void)unlinkat(c->ingest_fd, p->name, 0);
	if (fsync(dir) != 0) return undo(c, p, hex, errno, err);
	if (fstat(p->fd, &st) != 0) return undo(c, p, hex, errno, err);
	*g = generation_of(&st);
	return CAIRN_OK;
}

/* Somebody who has another name of the file may have written to it behind the hash's back. */
static bool is_as_hashed(const struct publish *p, const struct generation *now)
{
	return p->hashed == NULL ||
	       (p->hashed->size == now->size && p->hashed->mtime_ns == now->mtime_ns);
}

static enum cairn_code publish_named(struct cairn_cache *c, const struct publish *p,
				     struct blob **ret, bool *present, int *before,
				     struct cairn_err *err)
{
	struct generation g;
	struct blob *healed;
	char text[CAIRN_DIGEST_STR];
	lock(&c->mu);
	struct blob *b = take_present_locked(c, p, before);
	unlock(&c->mu);
	*present = b != NULL;
	*ret = b;
	if (b != NULL) return CAIRN_OK;
	enum cairn_code code = give_name(c, p, &g, err);
	if (code != CAIRN_OK) return code;
	struct chain *chain = chain_copy(p->chain, p);
	lock(&c->mu);
	b = install_locked(c, p, &chain, &healed);
	lock(&c->read_mu);
	proof_set_locked(b, &g, p->proved && is_as_hashed(p, &g));
	unlock(&c->read_mu);
	unlock(&c->mu);
	if (chain != NULL) chain_fini(chain);
	free(chain);
	if (healed != NULL) {
		file_detach(c, healed);
		blob_unref(healed);
		cairn_log(CAIRN_LOG_INFO, "blob_healed",
			  CAIRN_STR("digest", cairn_digest_format(p->digest, text)),
			  CAIRN_STR("by", "a new copy"));
	}
	*ret = b;
	return CAIRN_OK;
}

/* Is what the store has of it good? If not, it is marked so, and the new bytes replace it. */
static bool is_proved(struct cairn_cache *c, const struct cairn_digest *digest)
{
	struct cairn_err ignored;
	struct cairn_blob *blob = NULL;
	enum cairn_code code = cairn_blob_open(c, digest, &blob, &ignored);
	if (code == CAIRN_OK) code = cairn_blob_prove(blob, NULL, NULL, &ignored);
	cairn_blob_close(blob);
	return code == CAIRN_OK;
}

/* Present before the flush: then there is nothing to flush for. */
static bool is_present(struct cairn_cache *c, const struct publish *p, struct blob **ret,
		       int *before)
{
	if (!is_proved(c, p->digest)) return false;
	lock(&c->mu);
	*ret = take_present_locked(c, p, before);
	unlock(&c->mu);
	return *ret != NULL;
}

enum cairn_code publish(struct cairn_cache *c, const struct publish *p, struct blob **ret,
			bool *present, int *before, struct cairn_err *err)
{
	*present = is_present(c, p, ret, before);
	if (*present) return CAIRN_OK;
	if (!p->foreign && fchmod(p->fd, 0444) != 0) {
		return cairn_err_sys(err, errno, "make a blob's file read-only");
	}
	if (fdatasync(p->fd) != 0) {
		if (p->flush_failed != NULL) *p->flush_failed = true;
		return cairn_err_sys(err, errno, "flush a blob's data in %s", c->dir);
	}
	struct mutex *name = blob_name_lock(c, p->digest);
	lock(name);
	enum cairn_code code = publish_named(c, p, ret, present, before, err);
	unlock(name);
	return code;
}
