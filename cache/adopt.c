/* Taking files from, and giving files to, somebody else's store. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "cache/mem.h"
#include "cache/store.h"

typedef bool progress_fn(void *arg, uint64_t bytes);

struct copying {
	int from, to; /* to -1: only hash */
	uint64_t size;
	struct chain chain;
	struct cairn_digest digest;
	progress_fn *progress;
	void *arg;
};

/* Copy and hash in one pass. DATA_LOSS: the source cannot be read as its size says. */
static enum cairn_code copy_hashed(struct copying *k, struct cairn_err *err)
{
	struct cairn_hasher h;
	enum cairn_code code = CAIRN_OK;
	if (k->to < 0) {
		return hash_file(k->from, k->size, k->digest.alg, &k->chain, k->progress, k->arg,
				 &k->digest, err);
	}
	uint8_t *buf = mem_zero(PIECE);
	cairn_hasher_init(&h, (enum cairn_alg)k->digest.alg);
	while (h.length < k->size && code == CAIRN_OK) {
		size_t n = k->size - h.length < PIECE ? (size_t)(k->size - h.length) : PIECE;
		uint64_t at = h.length;
		int rc = read_exactly(k->from, buf, n, at);
		if (rc != 0) {
			code = cairn_err_set(err, CAIRN_DATA_LOSS, "%s",
					     rc == ENODATA ? "its file is too short"
							   : "its file cannot be read");
			break;
		}
		chain_hash(&h, &k->chain, buf, n);
		rc = write_exactly(k->to, buf, n, at);
		if (rc != 0) {
			code = cairn_err_sys(err, rc, "write the copy");
		} else if (k->progress != NULL && !k->progress(k->arg, n)) {
			code = cairn_err_set(err, CAIRN_CANCELLED, "stopped as asked");
		}
	}
	free(buf);
	cairn_hasher_digest(&h, &k->digest);
	return code;
}

/* ---- adopt */

struct adopting {
	struct cairn_cache *cache;
	const struct cairn_digest *digest;
	const char *path;
	char name[32]; /* in ingest/ */
	bool linked;
	struct generation source; /* before it was read */
	struct copying copy;
};

/* And its file is there: a blob whose file is gone may not have been noticed yet. */
static bool is_present(struct cairn_cache *c, const struct cairn_digest *digest)
{
	struct cairn_err ignored;
	struct cairn_blob *blob = NULL;
	if (cairn_blob_open(c, digest, &blob, &ignored) != CAIRN_OK) return false;
	cairn_blob_close(blob);
	lock(&c->mu);
	struct blob *b = blob_find_locked(c, digest);
	bool present = b != NULL && !b->damaged;
	if (present) blob_reference_locked(c, b);
	unlock(&c->mu);
	return present;
}

static enum cairn_code open_source(struct adopting *a, struct cairn_err *err)
{
	struct stat st;
	a->copy.from = open(a->path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (a->copy.from < 0) return cairn_err_sys(err, errno, "open %s", a->path);
	if (fstat(a->copy.from, &st) != 0) return cairn_err_sys(err, errno, "look at %s", a->path);
	if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size > CAIRN_BLOB_SIZE_MAX) {
		return cairn_err_set(err, CAIRN_DATA_LOSS, "%s is no file of a blob", a->path);
	}
	a->copy.size = (uint64_t)st.st_size;
	a->source = generation_of(&st);
	return CAIRN_OK;
}

/* A link to the very file that is open, whatever the path says by now. */
static bool link_source(struct adopting *a)
{
	char self[64];
	struct stat mine, linked;
	int dir = a->cache->ingest_fd;
	snprintf(self, sizeof(self), "/proc/self/fd/%d", a->copy.from);
	if (linkat(AT_FDCWD, self, dir, a->name, AT_SYMLINK_FOLLOW) != 0 &&
	    linkat(AT_FDCWD, a->path, dir, a->name, 0) != 0) {
		return false;
	}
	if (fstat(a->copy.from, &mine) == 0 &&
	    fstatat(dir, a->name, &linked, AT_SYMLINK_NOFOLLOW) == 0 &&
	    mine.st_ino == linked.st_ino && mine.st_dev == linked.st_dev) {
		return true;
	}
	(void)unlinkat(dir, a->name, 0);
	return false;
}

static enum cairn_code take_file(struct adopting *a, struct cairn_err *err)
{
	lock(&a->cache->mu);
	uint64_t id = a->cache->next_id++;
	unlock(&a->cache->mu);
	snprintf(a->name, sizeof(a->name), "%llu", (unsigned long long)id);
	a->linked = link_source(a);
	if (!a->linked) {
		a->copy.to = openat(a->cache->ingest_fd, a->name,
				    O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
		if (a->copy.to < 0) {
			return cairn_err_sys(err, errno, "make a file in %s/ingest", a->cache->dir);
		}
	}
	enum cairn_code code = copy_hashed(&a->copy, err);
	if (code != CAIRN_OK) return cairn_err_wrap(err, "adopt %s", a->path);
	if (cairn_digest_equal(&a->copy.digest, a->digest)) return CAIRN_OK;
	char text[CAIRN_DIGEST_STR];
	return cairn_err_set(err, CAIRN_DATA_LOSS,
			     "%s is damaged: its bytes have the digest %s, not that of its name",
			     a->path, cairn_digest_format(&a->copy.digest, text));
}

static enum cairn_code publish_adopted(struct adopting *a, enum cairn_adopt *ret,
				       struct cairn_err *err)
{
	bool present;
	int before;
	struct blob *b;
	struct publish p = {
		.digest = a->digest,
		.size = a->copy.size,
		.fd = a->linked ? a->copy.from : a->copy.to,
		.name = a->name,
		.chain = &a->copy.chain,
		.proved = true,
		.hashed = a->linked ? &a->source : NULL,
		.foreign = a->linked,
		.state = CAIRN_BLOB_REFERENCED,
	};
	enum cairn_code code = publish(a->cache, &p, &b, &present, &before, err);
	if (code != CAIRN_OK) return code;
	blob_let_go(b);
	blob_unref(b);
	*ret = present ? CAIRN_ADOPT_PRESENT : a->linked ? CAIRN_ADOPT_LINKED : CAIRN_ADOPT_COPIED;
	if (!present) a->name[0] = '\0'; /* it has its final name */
	return CAIRN_OK;
}

enum cairn_code cairn_cache_adopt(struct cairn_cache *c, const struct cairn_digest *digest,
				  const char *path, progress_fn *progress, void *arg,
				  enum cairn_adopt *ret, struct cairn_err *err)
{
	if (cairn_alg_bytes(digest->alg) == 0) {
		return cairn_err_set(err, CAIRN_INTERNAL, "adopt %s: no digest", path);
	}
	if (is_present(c, digest)) {
		*ret = CAIRN_ADOPT_PRESENT;
		return CAIRN_OK;
	}
	struct adopting a = {.cache = c, .digest = digest, .path = path};
	a.copy = (struct copying){.from = -1, .to = -1, .progress = progress, .arg = arg};
	a.copy.digest.alg = digest->alg;
	chain_init(&a.copy.chain, digest->alg);
	enum cairn_code code = open_source(&a, err);
	if (code == CAIRN_OK) code = take_file(&a, err);
	if (code == CAIRN_OK) code = publish_adopted(&a, ret, err);
	if (a.name[0] != '\0') (void)unlinkat(c->ingest_fd, a.name, 0);
	if (a.copy.from >= 0) close(a.copy.from);
	if (a.copy.to >= 0) close(a.copy.to);
	chain_fini(&a.copy.chain);
	return code;
}

/* ---- give */

/* Our own link changed the file's ctime: what was proved of it still holds. */
static void keep_proof(struct cairn_cache *c, struct blob *b, const struct stat *before, int fd)
{
	struct stat after;
	if (fstat(fd, &after) != 0) return;
	struct generation was = generation_of(before), is = generation_of(&after);
	lock(&c->read_mu);
	if (generation_equal(&b->generation, &was) && was.mtime_ns == is.mtime_ns &&
	    was.size == is.size) {
		b->generation = is;
	}
	unlock(&c->read_mu);
}

static enum cairn_code flush_folder_of(const char *path, struct cairn_err *err)
{
	char *folder = mem_dup(path), *slash = strrchr(folder, '/');
	if (slash != NULL) slash[slash == folder ? 1 : 0] = '\0';
	int fd = open(slash != NULL ? folder : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int rc = fd >= 0 && fsync(fd) == 0 ? 0 : errno;
	if (fd >= 0) close(fd);
	free(folder);
	return rc == 0 ? CAIRN_OK : cairn_err_sys(err, rc, "flush the folder of %s", path);
}

static enum cairn_code give_copy(struct cairn_cache *c, struct blob *b, int fd, const char *path,
				 struct copying *k, struct cairn_err *err)
{
	char *temp = mem_zero(strlen(path) + sizeof(".cairn-tmp"));
	struct cairn_err why;
	snprintf(temp, strlen(path) + sizeof(".cairn-tmp"), "%s.cairn-tmp", path);
	k->from = fd;
	k->to = open(temp, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0444);
	enum cairn_code code = CAIRN_OK;
	if (k->to < 0) {
		code = cairn_err_sys(err, errno, "make %s", temp);
		free(temp);
		return code;
	}
	code = copy_hashed(k, &why);
	if (code == CAIRN_DATA_LOSS) {
		code = blob_damaged(c, b, why.msg, err);
	} else if (code != CAIRN_OK) {
		*err = why;
	} else if (!cairn_digest_equal(&k->digest, &b->digest)) {
		code = blob_damaged(c, b, "its bytes have another digest", err);
	} else if (fsync(k->to) != 0) {
		code = cairn_err_sys(err, errno, "flush %s", temp);
	} else if (rename(temp, path) != 0) {
		code = cairn_err_sys(err, errno, "rename %s to %s", temp, path);
	}
	close(k->to);
	if (code != CAIRN_OK) (void)unlink(temp);
	free(temp);
	return code;
}

static enum cairn_code give(struct cairn_cache *c, struct blob *b, const char *path,
			    struct copying *k, enum cairn_adopt *ret, struct cairn_err *err)
{
	struct stat st;
	char hex[CAIRN_DIGEST_STR];
	if (b->damaged) return blob_damage_err(b, "found earlier", err);
	int fd = blob_open_file(c, &b->digest);
	if (fd < 0) return blob_unopened(c, b, errno, err);
	enum cairn_code code = CAIRN_OK;
	if (fstat(fd, &st) != 0 || (uint64_t)st.st_size != b->size) {
		code = blob_damaged(c, b, "its file has another size", err);
	} else if (linkat(c->blob_fds[b->digest.alg], cairn_digest_hex(&b->digest, hex), AT_FDCWD,
			  path, 0) == 0) {
		keep_proof(c, b, &st, fd);
		*ret = CAIRN_ADOPT_LINKED;
		if (k->progress != NULL) (void)k->progress(k->arg, b->size);
	} else if (errno == EEXIST) {
		code = cairn_err_sys(err, errno, "give a blob to %s", path);
	} else {
		code = give_copy(c, b, fd, path, k, err);
		*ret = CAIRN_ADOPT_COPIED;
	}
	close(fd);
	if (code == CAIRN_OK) code = flush_folder_of(path, err);
	return code;
}

enum cairn_code cairn_cache_give(struct cairn_cache *c, const struct cairn_digest *digest,
				 const char *path, progress_fn *progress, void *arg,
				 enum cairn_adopt *ret, struct cairn_err *err)
{
	char text[CAIRN_DIGEST_STR];
	struct copying k = {.to = -1, .progress = progress, .arg = arg};
	lock(&c->mu);
	struct blob *b = blob_find_locked(c, digest);
	if (b != NULL) blob_ref(b);
	unlock(&c->mu);
	if (b == NULL) {
		return cairn_err_set(err, CAIRN_NOT_FOUND, "blob %s is not here",
				     cairn_digest_format(digest, text));
	}
	k.size = b->size;
	k.digest.alg = digest->alg;
	chain_init(&k.chain, digest->alg);
	enum cairn_code code = give(c, b, path, &k, ret, err);
	chain_fini(&k.chain);
	blob_unref(b);
	return code;
}
