/* Reading blobs: open files shared by their readers, and what was proved about their content. The
 * mappings are in window.c. */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "cache/mem.h"
#include "cache/store.h"
#include "cache/window.h"

struct cairn_blob {
	struct cairn_cache *cache;
	struct blob_file *file; /* has one of its opens */
	bool quiet;		/* reading it is no use of it */
};

/* ---- proofs */

struct generation generation_of(const struct stat *st)
{
	return (struct generation){
		.dev = st->st_dev,
		.ino = st->st_ino,
		.size = (uint64_t)st->st_size,
		.mtime_ns = (int64_t)st->st_mtim.tv_sec * CAIRN_NS_PER_S + st->st_mtim.tv_nsec,
		.ctime_ns = (int64_t)st->st_ctim.tv_sec * CAIRN_NS_PER_S + st->st_ctim.tv_nsec,
	};
}

bool generation_equal(const struct generation *a, const struct generation *b)
{
	return a->dev == b->dev && a->ino == b->ino && a->size == b->size &&
	       a->mtime_ns == b->mtime_ns && a->ctime_ns == b->ctime_ns;
}

void proof_set_locked(struct blob *b, const struct generation *g, bool all)
{
	b->generation = *g;
	b->proved_all = all;
	free(b->proved);
	b->proved = NULL;
}

void proof_set(struct cairn_cache *c, struct blob *b, const struct generation *g, bool all)
{
	lock(&c->read_mu);
	proof_set_locked(b, g, all);
	unlock(&c->read_mu);
}

static bool piece_proved(const struct blob *b, uint64_t piece)
{
	return b->proved != NULL && (b->proved[piece / 8] >> (piece % 8) & 1) != 0;
}

/* Forgets what was proved of another generation. */
static bool is_proved_locked(struct blob *b, const struct generation *g, uint64_t first,
			     uint64_t last)
{
	if (!generation_equal(&b->generation, g)) proof_set_locked(b, g, false);
	if (b->proved_all) return true;
	for (uint64_t i = first; i <= last; i++) {
		if (!piece_proved(b, i)) return false;
	}
	return true;
}

static void proof_add(struct cairn_cache *c, struct blob *b, const struct generation *g,
		      uint64_t first, uint64_t last)
{
	size_t bytes = (size_t)(b->size / PIECE / 8 + 1);
	lock(&c->read_mu);
	if (generation_equal(&b->generation, g) && !b->proved_all) {
		if (b->proved == NULL) b->proved = mem_zero(bytes);
		for (uint64_t i = first; i <= last; i++) {
			b->proved[i / 8] |= (uint8_t)(1u << (i % 8));
		}
	}
	unlock(&c->read_mu);
}

/* ---- open files */

static void idle_remove_locked(struct cairn_cache *c, struct blob_file *f)
	CAIRN_REQUIRES(&c->read_mu)
{
	*(f->lru_prev != NULL ? &f->lru_prev->lru_next : &c->files_head) = f->lru_next;
	*(f->lru_next != NULL ? &f->lru_next->lru_prev : &c->files_tail) = f->lru_prev;
	f->lru_prev = f->lru_next = NULL;
	c->files_idle--;
}

static void idle_add_locked(struct cairn_cache *c, struct blob_file *f) CAIRN_REQUIRES(&c->read_mu)
{
	f->lru_prev = c->files_tail;
	f->lru_next = NULL;
	*(c->files_tail != NULL ? &c->files_tail->lru_next : &c->files_head) = f;
	c->files_tail = f;
	c->files_idle++;
}

/* Out of the store's sight; the caller frees it, without the lock. */
static void forget_locked(struct blob_file *f)
{
	if (f->blob->file == f) f->blob->file = NULL;
}

static void file_free(struct cairn_cache *c, struct blob_file *f)
{
	windows_orphan(c, f);
	close(f->fd);
	chain_fini(&f->chain);
	pthread_mutex_destroy(&f->check.os);
	blob_unref(f->blob);
	free(f);
}

/* The oldest idle file to close. One that a view refers to stays, as long as any are to be kept:
 * its blob has a reader still. */
static struct blob_file *idle_over_locked(struct cairn_cache *c, size_t keep)
	CAIRN_REQUIRES(&c->read_mu)
{
	if (c->files_idle <= keep) return NULL;
	struct blob_file *f = c->files_head;
	while (keep > 0 && f != NULL && windows_in_use_locked(c, f)) f = f->lru_next;
	return f;
}

/* Idle files over the limit. Call without locks. */
static void files_trim(struct cairn_cache *c, size_t keep)
{
	for (;;) {
		lock(&c->read_mu);
		struct blob_file *f = idle_over_locked(c, keep);
		if (f != NULL) {
			idle_remove_locked(c, f);
			forget_locked(f);
		}
		unlock(&c->read_mu);
		if (f == NULL) return;
		file_free(c, f);
	}
}

static void file_put(struct cairn_cache *c, struct blob_file *f)
{
	lock(&c->read_mu);
	bool last = --f->opens == 0;
	bool drop = last && (f->stale || f->blob->gone || f->blob->file != f);
	if (drop) forget_locked(f);
	if (last && !drop) idle_add_locked(c, f);
	bool trim = c->files_idle > OPEN_FILES_IDLE;
	unlock(&c->read_mu);
	if (drop) file_free(c, f);
	if (trim) files_trim(c, OPEN_FILES_IDLE);
}

static struct blob_file *file_get(struct cairn_cache *c, struct blob *b, unsigned *detached)
{
	lock(&c->read_mu);
	struct blob_file *f = b->file;
	*detached = b->detached;
	if (f != NULL && f->opens++ == 0) idle_remove_locked(c, f);
	unlock(&c->read_mu);
	return f;
}

void file_detach(struct cairn_cache *c, struct blob *b)
{
	lock(&c->read_mu);
	struct blob_file *f = b->file;
	bool idle = f != NULL && f->opens == 0;
	b->detached++;
	if (f != NULL) {
		f->stale = true;
		b->file = NULL;
		if (idle) idle_remove_locked(c, f);
	}
	unlock(&c->read_mu);
	if (idle) file_free(c, f);
}

int blob_open_file(struct cairn_cache *c, const struct cairn_digest *digest)
{
	char hex[CAIRN_DIGEST_STR];
	return openat(c->blob_fds[digest->alg], cairn_digest_hex(digest, hex),
		      O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
}

/* A new open file, or the one that somebody else opened meanwhile. NULL: the name was given to
 * another file since file_get, and fd may be the old one. */
static struct blob_file *file_new(struct cairn_cache *c, struct blob *b, int fd, unsigned detached)
{
	struct blob_file *f = mem_zero(sizeof(*f));
	f->blob = blob_ref(b);
	f->fd = fd;
	f->opens = 1;
	chain_init(&f->chain, b->digest.alg);
	pthread_mutex_init(&f->check.os, NULL);
	lock(&c->read_mu);
	struct blob_file *other = b->file;
	bool late = b->detached != detached;
	if (late) {
		other = NULL;
	} else if (other == NULL) {
		b->file = f;
	} else if (other->opens++ == 0) {
		idle_remove_locked(c, other);
	}
	unlock(&c->read_mu);
	if (!late && other == NULL) return f;
	file_free(c, f);
	return other;
}

static bool is_size_right(int fd, const struct blob *b)
{
	struct stat st;
	return fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && (uint64_t)st.st_size == b->size;
}

/* What is wrong with the file? Under the name's lock: else it could be about a file that a good one
 * replaces just now. */
static enum cairn_code file_judge(struct cairn_cache *c, struct blob *b, struct cairn_err *err)
{
	struct mutex *name = blob_name_lock(c, &b->digest);
	lock(name);
	enum cairn_code code = CAIRN_OK;
	int fd = blob_open_file(c, &b->digest);
	if (fd < 0) {
		code = blob_unopened(c, b, errno, err);
	} else if (!is_size_right(fd, b)) {
		code = blob_damaged(c, b, "its file has another size", err);
	}
	if (fd >= 0) close(fd);
	unlock(name);
	return code;
}

/* As long as all is well without the name's lock, which is held across flushes: polling threads
 * come this way. */
static enum cairn_code file_open(struct cairn_cache *c, struct blob *b, struct blob_file **ret,
				 struct cairn_err *err)
{
	for (;;) {
		unsigned detached;
		*ret = file_get(c, b, &detached);
		if (*ret != NULL) return CAIRN_OK;
		int fd = blob_open_file(c, &b->digest);
		if (fd >= 0 && is_size_right(fd, b)) {
			*ret = file_new(c, b, fd, detached);
			if (*ret != NULL) return CAIRN_OK;
			continue;
		}
		if (fd >= 0) close(fd);
		enum cairn_code code = file_judge(c, b, err);
		if (code != CAIRN_OK) return code;
	}
}

static enum cairn_code open_blob(struct cairn_cache *c, const struct cairn_digest *digest,
				 bool quiet, struct cairn_blob **ret, struct cairn_err *err)
{
	char text[CAIRN_DIGEST_STR];
	struct blob_file *f = NULL;
	lock(&c->mu);
	struct blob *b = blob_find_locked(c, digest);
	if (b != NULL) {
		blob_ref(b);
		blob_hold_locked(b);
		if (!quiet) blob_used_locked(c, b);
	}
	unlock(&c->mu);
	if (b == NULL) {
		return cairn_err_set(err, CAIRN_NOT_FOUND, "blob %s is not here",
				     cairn_digest_format(digest, text));
	}
	enum cairn_code code =
		b->damaged ? blob_damage_err(b, "found earlier", err) : file_open(c, b, &f, err);
	blob_let_go(b);
	blob_unref(b);
	if (code != CAIRN_OK) return code;
	struct cairn_blob *blob = mem_zero(sizeof(*blob));
	blob->cache = c;
	blob->file = f;
	blob->quiet = quiet;
	*ret = blob;
	return CAIRN_OK;
}

enum cairn_code cairn_blob_open(struct cairn_cache *c, const struct cairn_digest *digest,
				struct cairn_blob **ret, struct cairn_err *err)
{
	return open_blob(c, digest, false, ret, err);
}

void cairn_blob_close(struct cairn_blob *blob)
{
	if (blob == NULL) return;
	if (!blob->quiet) blob->file->blob->used_ns = cairn_boot_ns(blob->cache->clock);
	file_put(blob->cache, blob->file);
	free(blob);
}

uint64_t cairn_blob_size(const struct cairn_blob *blob)
{
	return blob->file->blob->size;
}

/* ---- views */

/* The open file has no name any more: it was replaced by a good one, or deleted by a stranger. */
static enum cairn_code blob_lost(struct cairn_cache *c, struct blob_file *f, struct cairn_err *err)
{
	struct mutex *name = blob_name_lock(c, &f->blob->digest);
	lock(name); /* who replaces it says so before he lets go */
	enum cairn_code code = f->stale ? blob_damage_err(f->blob, "replaced meanwhile", err)
					: blob_damaged(c, f->blob, "its file was deleted", err);
	unlock(name);
	return code;
}

/* The file as it is now; DATA_LOSS if it cannot be the blob. */
static enum cairn_code look(struct cairn_cache *c, struct blob_file *f, struct generation *g,
			    struct cairn_err *err)
{
	struct stat st;
	struct blob *b = f->blob;
	if (b->damaged || f->stale) return blob_damage_err(b, "found earlier", err);
	if (fstat(f->fd, &st) != 0) return blob_damaged(c, b, "fstat failed", err);
	if (st.st_nlink == 0 && !b->gone) return blob_lost(c, f, err);
	if ((uint64_t)st.st_size != b->size) {
		return blob_damaged(c, b, "its file has another size", err);
	}
	*g = generation_of(&st);
	return CAIRN_OK;
}

/* Prove the pieces [first, last] of the generation that the file has now. */
static enum cairn_code prove(struct cairn_cache *c, struct blob_file *f, uint64_t first,
			     uint64_t last, const struct go_on *go_on, struct cairn_err *err)
{
	struct generation before = {0}, after = {0};
	bool all = false;
	lock(&f->check);
	enum cairn_code code = look(c, f, &before, err);
	if (code == CAIRN_OK) {
		lock(&c->read_mu);
		bool done = is_proved_locked(f->blob, &before, first, last);
		unlock(&c->read_mu);
		if (!done) code = pieces_check(c, f, first, last, go_on, &all, err);
		if (code == CAIRN_OK) code = look(c, f, &after, err);
		/* Changed meanwhile: what was read may be a mixture; the caller looks again. */
		if (!done && code == CAIRN_OK && generation_equal(&before, &after)) {
			if (all) {
				proof_set(c, f->blob, &after, true);
			} else {
				proof_add(c, f->blob, &after, first, last);
			}
		}
	}
	unlock(&f->check);
	return code;
}

enum cairn_view_outcome cairn_blob_view(struct cairn_blob *blob, uint64_t offset, uint64_t len,
					bool may_block, struct cairn_view *ret,
					struct cairn_err *err)
{
	struct cairn_cache *c = blob->cache;
	struct blob_file *f = blob->file;
	uint64_t size = f->blob->size, room = WINDOW_BYTES - offset % WINDOW_BYTES;
	struct generation g;
	if (offset >= size || len == 0) {
		cairn_err_set(err, CAIRN_OUT_OF_RANGE,
			      "offset %llu is beyond the blob's %llu bytes",
			      (unsigned long long)offset, (unsigned long long)size);
		return CAIRN_VIEW_FAILED;
	}
	if (len > size - offset) len = size - offset;
	if (len > room) len = room;
	for (unsigned tries = 0;; tries++) {
		enum cairn_code code = look(c, f, &g, err);
		if (code != CAIRN_OK) return CAIRN_VIEW_FAILED;
		struct window *w = NULL;
		lock(&c->read_mu);
		bool proved =
			is_proved_locked(f->blob, &g, offset / PIECE, (offset + len - 1) / PIECE);
		if (proved) w = window_get_locked(c, f, offset / WINDOW_BYTES);
		unlock(&c->read_mu);
		if (proved) return window_view(c, f, w, offset, len, may_block, ret, err);
		if (!may_block) return CAIRN_VIEW_WOULD_BLOCK;
		code = tries < 8
			       ? prove(c, f, offset / PIECE, (offset + len - 1) / PIECE, NULL, err)
			       : blob_damaged(c, f->blob, "its file keeps changing", err);
		if (code != CAIRN_OK) return CAIRN_VIEW_FAILED;
	}
}

static enum cairn_code copy_all(struct cairn_blob *blob, uint8_t *buf, struct cairn_err *err)
{
	for (uint64_t at = 0, size = cairn_blob_size(blob); at < size;) {
		struct cairn_view v;
		if (cairn_blob_view(blob, at, size - at, true, &v, err) != CAIRN_VIEW_OK) {
			return err->code;
		}
		memcpy(buf + at, v.data, v.len);
		at += v.len;
		cairn_view_release(&v);
	}
	return CAIRN_OK;
}

enum cairn_code cairn_cache_peek(struct cairn_cache *c, const struct cairn_digest *digest,
				 size_t max, void **ret, size_t *ret_len, struct cairn_err *err)
{
	char text[CAIRN_DIGEST_STR];
	struct cairn_blob *blob = NULL;
	enum cairn_code code = open_blob(c, digest, true, &blob, err);
	if (code != CAIRN_OK) return code;
	uint64_t size = cairn_blob_size(blob);
	if (size > max) {
		cairn_blob_close(blob);
		return cairn_err_set(err, CAIRN_OUT_OF_RANGE, "blob %s has more than %zu bytes",
				     cairn_digest_format(digest, text), max);
	}
	uint8_t *buf = mem_zero((size_t)size);
	code = copy_all(blob, buf, err);
	cairn_blob_close(blob);
	if (code != CAIRN_OK) {
		free(buf);
		return code;
	}
	*ret = buf;
	*ret_len = (size_t)size;
	return CAIRN_OK;
}

enum cairn_code cairn_blob_prove(struct cairn_blob *blob, bool (*go_on)(void *arg), void *arg,
				 struct cairn_err *err)
{
	const struct go_on ask = {go_on, arg};
	struct cairn_cache *c = blob->cache;
	struct blob_file *f = blob->file;
	const uint64_t step = WINDOW_BYTES / PIECE, pieces = chain_count(f->blob->size) + 1;
	for (uint64_t i = 0; i < pieces; i += step) {
		uint64_t last = i + step < pieces ? i + step - 1 : pieces - 1;
		if (go_on != NULL && !go_on(arg)) {
			return cairn_err_set(err, CAIRN_CANCELLED, "stopped as asked");
		}
		enum cairn_code code = prove(c, f, i, last, &ask, err);
		if (code != CAIRN_OK) return code;
	}
	return CAIRN_OK;
}

static uint8_t *list_of(const struct blob_file *f)
{
	size_t width = f->chain.width, count = cairn_piece_count(f->blob->size);
	size_t per = (size_t)(cairn_piece_size(f->blob->size) / PIECE);
	if (count == 1) return NULL;
	uint8_t *list = mem_zero((count - 1) * width);
	for (size_t k = 0; k + 1 < count; k++) {
		memcpy(list + k * width, f->chain.states + ((k + 1) * per - 1) * width, width);
	}
	return list;
}

enum cairn_code cairn_blob_piece_list(struct cairn_blob *blob, uint8_t **ret, struct cairn_err *err)
{
	struct cairn_cache *c = blob->cache;
	struct blob_file *f = blob->file;
	char text[CAIRN_DIGEST_STR];
	struct generation g;
	if (cairn_piece_count(f->blob->size) == 0) {
		return cairn_err_set(err, CAIRN_FAILED_PRECONDITION,
				     "blob %s is %s to come in pieces",
				     cairn_digest_format(&f->blob->digest, text),
				     f->blob->size == 0 ? "too small" : "too large");
	}
	lock(&f->check);
	enum cairn_code code = look(c, f, &g, err);
	if (code == CAIRN_OK) code = file_chain(c, f, err);
	if (code == CAIRN_OK) *ret = list_of(f);
	unlock(&f->check);
	return code;
}

void read_tidy(struct cairn_cache *c, int64_t now_boot_ns)
{
	windows_trim(c, now_boot_ns - WINDOW_IDLE_NS);
}

void read_fini(struct cairn_cache *c)
{
	windows_trim(c, INT64_MAX);
	files_trim(c, 0);
}
