/* The pieces of a blob, and the files in which they gather: their names, their opening, their end.
 *
 * A file of pieces is in ingest/ under a name made from its digest, as long as the blob and full of
 * holes. No record says what is in it: whoever has the blob's list can tell by hashing. So nothing
 * is flushed before the end, and after a crash nothing of it is believed. */
#include "cache/pieces.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "base/log.h"
#include "cache/mem.h"
#include "cache/piece.h"

#define NAME_BEGINS "pieces-"

/* ---- geometry */

uint64_t cairn_piece_size(uint64_t blob_size)
{
	uint64_t size = CAIRN_PIECE_MIN;
	if (blob_size == 0) return 0;
	while (size <= CAIRN_PIECE_MAX && (blob_size - 1) / size >= CAIRN_PIECES_MAX) size *= 2;
	return size <= CAIRN_PIECE_MAX ? size : 0;
}

uint32_t cairn_piece_count(uint64_t blob_size)
{
	uint64_t size = cairn_piece_size(blob_size);
	return size > 0 ? (uint32_t)((blob_size - 1) / size + 1) : 0;
}

uint64_t cairn_piece_length(uint64_t blob_size, uint32_t k)
{
	uint64_t size = cairn_piece_size(blob_size), from = k * size;
	return blob_size - from < size ? blob_size - from : size;
}

/* ---- the files that are known, open or not */

static void name_of(const struct cairn_digest *digest, char name[static PIECE_NAME])
{
	char hex[CAIRN_DIGEST_STR];
	snprintf(name, PIECE_NAME, NAME_BEGINS "%s-%s", cairn_alg_name(digest->alg),
		 cairn_digest_hex(digest, hex));
}

static bool is_name(const char *name, struct cairn_digest *digest)
{
	char text[PIECE_NAME], again[PIECE_NAME];
	struct cairn_err ignored;
	size_t begins = strlen(NAME_BEGINS), n = strlen(name);
	if (n >= PIECE_NAME || strncmp(name, NAME_BEGINS, begins) != 0) return false;
	memcpy(text, name + begins, n - begins + 1);
	char *dash = strchr(text, '-');
	if (dash == NULL) return false;
	*dash = ':';
	if (cairn_digest_parse(text, n - begins, digest, &ignored) != CAIRN_OK) return false;
	name_of(digest, again);
	return strcmp(name, again) == 0;
}

static struct piece_file *find_locked(struct cairn_cache *c, const struct cairn_digest *digest)
	CAIRN_REQUIRES(&c->mu)
{
	struct piece_file *f;
	TAILQ_FOREACH(f, &c->piece_files, link)
	{
		if (cairn_digest_equal(&f->digest, digest)) return f;
	}
	return NULL;
}

static struct piece_file *add_locked(struct cairn_cache *c, const struct cairn_digest *digest)
	CAIRN_REQUIRES(&c->mu)
{
	struct piece_file *f = mem_zero(sizeof(*f));
	f->digest = *digest;
	TAILQ_INSERT_TAIL(&c->piece_files, f, link);
	c->piece_files_n++;
	return f;
}

static void remove_locked(struct cairn_cache *c, struct piece_file *f) CAIRN_REQUIRES(&c->mu)
{
	TAILQ_REMOVE(&c->piece_files, f, link);
	c->piece_files_n--;
	free(f);
}

/* Space that is taken; what a file system allocates beyond the end does not count. */
static uint64_t bytes_of(const struct stat *st)
{
	uint64_t bytes = (uint64_t)st->st_blocks * 512, size = (uint64_t)st->st_size;
	return bytes < size ? bytes : size;
}

void piece_files_found(struct cairn_cache *c, const char *name) CAIRN_LOCKS_UNCHECKED
{
	struct cairn_digest digest;
	struct stat st;
	if (!is_name(name, &digest)) return;
	if (fstatat(c->ingest_fd, name, &st, AT_SYMLINK_NOFOLLOW) != 0) return;
	struct piece_file *f = add_locked(c, &digest);
	f->bytes = bytes_of(&st);
	f->touched_ns = c->open_boot_ns;
}

void piece_files_count_locked(struct cairn_cache *c, struct cairn_cache_stats *ret)
{
	struct piece_file *f;
	ret->ingests += c->piece_files_n;
	TAILQ_FOREACH(f, &c->piece_files, link)
	{
		ret->ingest_bytes += f->bytes;
	}
}

void piece_files_free(struct cairn_cache *c) CAIRN_LOCKS_UNCHECKED /* nobody else knows it */
{
	struct piece_file *f;
	while ((f = TAILQ_FIRST(&c->piece_files)) != NULL) remove_locked(c, f);
}

/* ---- and how they go */

static struct piece_file *next_idle_locked(struct cairn_cache *c, int64_t idle_ns)
	CAIRN_REQUIRES(&c->mu)
{
	int64_t now = cairn_boot_ns(c->clock);
	struct piece_file *f;
	TAILQ_FOREACH(f, &c->piece_files, link)
	{
		if (!f->open && now - f->touched_ns >= idle_ns) return f;
	}
	return NULL;
}

/* Under the lock of the name somebody may have opened it by now; then it is his. */
static bool drop_idle(struct cairn_cache *c, const struct cairn_digest *digest)
{
	char name[PIECE_NAME];
	struct mutex *mu = blob_name_lock(c, digest);
	name_of(digest, name);
	lock(mu);
	lock(&c->mu);
	struct piece_file *f = find_locked(c, digest);
	bool drop = f != NULL && !f->open;
	if (drop) remove_locked(c, f);
	unlock(&c->mu);
	if (drop) (void)unlinkat(c->ingest_fd, name, 0);
	unlock(mu);
	return drop;
}

uint64_t piece_files_expire(struct cairn_cache *c, int64_t idle_ns)
{
	char text[CAIRN_DIGEST_STR];
	struct cairn_digest digest;
	for (uint64_t n = 0;;) {
		lock(&c->mu);
		struct piece_file *f = next_idle_locked(c, idle_ns);
		if (f != NULL) digest = f->digest;
		unlock(&c->mu);
		if (f == NULL) return n;
		if (!drop_idle(c, &digest)) continue;
		n++;
		cairn_log(CAIRN_LOG_INFO, "pieces_dropped",
			  CAIRN_STR("digest", cairn_digest_format(&digest, text)),
			  CAIRN_STR("why", "abandoned"));
	}
}

/* ---- open */

static enum cairn_code claim_locked(struct cairn_cache *c, struct cairn_pieces *p,
				    struct cairn_err *err) CAIRN_REQUIRES(&c->mu)
{
	char text[CAIRN_DIGEST_STR];
	struct piece_file *f = find_locked(c, &p->digest);
	if (f != NULL && f->open) {
		return cairn_err_set(err, CAIRN_UNAVAILABLE,
				     "the pieces of %s are being written already",
				     cairn_digest_format(&p->digest, text));
	}
	if (f == NULL && c->piece_files_n >= CAIRN_INGESTS_MAX) {
		return cairn_err_set(err, CAIRN_RESOURCE_EXHAUSTED,
				     "%d unfinished blobs in pieces: wait until some are dropped",
				     CAIRN_INGESTS_MAX);
	}
	if (f == NULL) f = add_locked(c, &p->digest);
	f->open = true;
	f->touched_ns = cairn_boot_ns(c->clock);
	p->file = f;
	return CAIRN_OK;
}

/* What is there already; it is of no use if it is of another size, or somebody may write to it. */
static int open_present(const struct cairn_pieces *p)
{
	struct stat st;
	int dir = p->cache->ingest_fd;
	int fd = openat(dir, p->name, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd < 0) return -1;
	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && (uint64_t)st.st_size == p->size &&
	    st.st_nlink == 1) {
		return fd;
	}
	close(fd);
	return -1;
}

static enum cairn_code open_file(struct cairn_pieces *p, struct cairn_err *err)
{
	struct cairn_cache *c = p->cache;
	p->fd = open_present(p);
	if (p->fd >= 0) {
		(void)fchmod(p->fd, 0600);
		return CAIRN_OK;
	}
	(void)unlinkat(c->ingest_fd, p->name, 0);
	p->fd = openat(c->ingest_fd, p->name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW,
		       0600);
	if (p->fd < 0) return cairn_err_sys(err, errno, "make %s/ingest/%s", c->dir, p->name);
	if (ftruncate(p->fd, (off_t)p->size) == 0) return CAIRN_OK;
	enum cairn_code code = disk_err(c, errno, err);
	(void)unlinkat(c->ingest_fd, p->name, 0);
	close(p->fd);
	return code;
}

static enum cairn_code open_named(struct cairn_pieces *p, struct cairn_err *err)
{
	struct cairn_cache *c = p->cache;
	lock(&c->mu);
	enum cairn_code code = claim_locked(c, p, err);
	unlock(&c->mu);
	if (code != CAIRN_OK) return code;
	code = open_file(p, err);
	if (code == CAIRN_OK) return code;
	lock(&c->mu);
	remove_locked(c, p->file);
	unlock(&c->mu);
	return code;
}

static enum cairn_code check_args(const struct cairn_digest *digest, uint64_t size,
				  struct cairn_err *err)
{
	char text[CAIRN_DIGEST_STR];
	if (cairn_alg_bytes(digest->alg) == 0 || size == 0) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "pieces of a blob without %s: there are none",
				     size == 0 ? "bytes" : "a digest");
	}
	if (cairn_piece_size(size) > 0) return CAIRN_OK;
	return cairn_err_set(err, CAIRN_FAILED_PRECONDITION,
			     "blob %s of %llu bytes is too large to come in pieces",
			     cairn_digest_format(digest, text), (unsigned long long)size);
}

static void pieces_free(struct cairn_pieces *p)
{
	free(p->flags);
	free(p->begins);
	free(p->states);
	pthread_mutex_destroy(&p->mu.os);
	pthread_cond_destroy(&p->quiet);
	free(p);
}

enum cairn_code cairn_pieces_open(struct cairn_cache *c, const struct cairn_digest *digest,
				  uint64_t size, struct cairn_pieces **ret, struct cairn_err *err)
{
	enum cairn_code code = check_args(digest, size, err);
	if (code != CAIRN_OK) return code;
	struct cairn_pieces *p = mem_zero(sizeof(*p));
	p->cache = c;
	p->digest = *digest;
	p->size = size;
	p->step = cairn_piece_size(size);
	p->count = cairn_piece_count(size);
	p->width = cairn_alg_bytes(digest->alg);
	p->flags = mem_zero(p->count);
	p->begins = mem_zero(p->count * p->width);
	p->states = mem_zero(chain_count(size) * p->width);
	pthread_mutex_init(&p->mu.os, NULL);
	pthread_cond_init(&p->quiet, NULL);
	name_of(digest, p->name);
	struct mutex *name = blob_name_lock(c, digest);
	lock(name);
	code = open_named(p, err);
	unlock(name);
	if (code != CAIRN_OK) {
		pieces_free(p);
		return code;
	}
	pieces_measure(p);
	*ret = p;
	return CAIRN_OK;
}

void pieces_measure(struct cairn_pieces *p)
{
	struct stat st;
	lock(&p->mu);
	bool published = p->published;
	unlock(&p->mu);
	if (!published && fstat(p->fd, &st) == 0) p->file->bytes = bytes_of(&st);
}

/* ---- close */

void cairn_pieces_close(struct cairn_pieces *p, bool keep)
{
	if (p == NULL) return;
	struct cairn_cache *c = p->cache;
	struct mutex *name = blob_name_lock(c, &p->digest);
	pieces_measure(p);
	bool gone = p->published || p->broken;
	if (p->file->bytes == 0) keep = false; /* nothing was ever written */
	lock(name);
	if (!gone && !keep) (void)unlinkat(c->ingest_fd, p->name, 0);
	lock(&c->mu);
	if (gone || !keep) {
		remove_locked(c, p->file);
	} else {
		p->file->open = false;
		p->file->touched_ns = cairn_boot_ns(c->clock);
	}
	unlock(&c->mu);
	unlock(name);
	close(p->fd);
	pieces_free(p);
}

/* ---- publish */

void pieces_forget_locked(struct cairn_pieces *p)
{
	for (uint32_t k = 0; k < p->count; k++) p->flags[k] &= (uint8_t)~PIECE_HERE;
	p->done = 0;
	p->epoch++;
}

void cairn_pieces_forget(struct cairn_pieces *p)
{
	lock(&p->mu);
	if (!p->sealed) pieces_forget_locked(p);
	unlock(&p->mu);
}

/* Does each piece begin with the state with which the one before it ended? */
static bool is_linked_locked(const struct cairn_pieces *p)
{
	size_t per = (size_t)(p->step / PIECE);
	for (size_t k = 1; k < p->count; k++) {
		const uint8_t *ended = p->states + (k * per - 1) * p->width;
		if (memcmp(p->begins + k * p->width, ended, p->width) != 0) return false;
	}
	return true;
}

static enum cairn_code seal(struct cairn_pieces *p, struct cairn_err *err)
{
	char text[CAIRN_DIGEST_STR];
	enum cairn_code code = CAIRN_OK;
	cairn_digest_format(&p->digest, text);
	lock(&p->mu);
	if (p->broken) {
		code = cairn_err_set(err, CAIRN_INTERNAL, "the pieces of %s could not be flushed",
				     text);
	} else if (p->done < p->count || p->sealed) {
		code = cairn_err_set(err, CAIRN_FAILED_PRECONDITION,
				     "%u of %u pieces of %s are here%s", p->done, p->count, text,
				     p->sealed ? ", and they are published already" : "");
	} else if (!is_linked_locked(p)) {
		pieces_forget_locked(p);
		code = cairn_err_set(err, CAIRN_DATA_LOSS,
				     "the pieces of %s do not make that digest: their list was "
				     "wrong",
				     text);
	} else {
		p->sealed = true;
	}
	unlock(&p->mu);
	return code;
}

/* Sealed: states do not change any more. */
static enum cairn_code publish_sealed(struct cairn_pieces *p, bool *present, bool *flush_failed,
				      struct cairn_err *err)
{
	struct blob *b;
	int before;
	const struct chain chain = {
		.n = chain_count(p->size),
		.width = p->width,
		.states = p->states,
	};
	const struct publish publication = {
		.digest = &p->digest,
		.size = p->size,
		.fd = p->fd,
		.name = p->name,
		.chain = &chain,
		.proved = true,
		.state = CAIRN_BLOB_CACHED,
		.flush_failed = flush_failed,
	};
	enum cairn_code code = publish(p->cache, &publication, &b, present, &before, err);
	if (code != CAIRN_OK) return code;
	blob_let_go(b);
	blob_unref(b);
	return CAIRN_OK;
}

/* The file is of no use to anybody who might open it. */
static void unlink_named(struct cairn_pieces *p)
{
	struct mutex *name = blob_name_lock(p->cache, &p->digest);
	lock(name);
	(void)unlinkat(p->cache->ingest_fd, p->name, 0);
	unlock(name);
}

enum cairn_code cairn_pieces_publish(struct cairn_pieces *p, struct cairn_err *err)
{
	bool present = false, flush_failed = false;
	enum cairn_code code = seal(p, err);
	if (code != CAIRN_OK) return code;
	code = publish_sealed(p, &present, &flush_failed, err);
	/* A second flush would not say what the first one lost. */
	if (present || flush_failed) unlink_named(p);
	if (code != CAIRN_OK) (void)fchmod(p->fd, 0600);
	lock(&p->mu);
	p->published = code == CAIRN_OK;
	p->broken = flush_failed;
	if (flush_failed) pieces_forget_locked(p);
	p->sealed = p->published || p->broken;
	unlock(&p->mu);
	if (code == CAIRN_OK) p->file->bytes = 0; /* the blob's from now on */
	return code;
}
