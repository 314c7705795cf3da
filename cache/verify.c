/* Hashing what is on disk: single pieces on their first read, whole blobs on demand. */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "base/log.h"
#include "cache/mem.h"
#include "cache/store.h"

/* An I/O error may be a passing one (a path of a network disk that fails over): asked once more. */
int read_exactly(int fd, void *buf, size_t n, uint64_t offset)
{
	uint8_t *p = buf;
	bool again = true;
	while (n > 0) {
		ssize_t got = pread(fd, p, n, (off_t)offset);
		if (got < 0 && errno == EINTR) continue;
		if (got < 0 && errno == EIO && again) {
			again = false;
			continue;
		}
		if (got < 0) return errno;
		if (got == 0) return ENODATA;
		p += got;
		n -= (size_t)got;
		offset += (uint64_t)got;
	}
	return 0;
}

int write_exactly(int fd, const void *buf, size_t n, uint64_t offset)
{
	const uint8_t *p = buf;
	while (n > 0) {
		ssize_t put = pwrite(fd, p, n, (off_t)offset);
		if (put < 0 && errno == EINTR) continue;
		if (put <= 0) return put < 0 ? errno : ENOSPC;
		p += put;
		n -= (size_t)put;
		offset += (uint64_t)put;
	}
	return 0;
}

enum cairn_code hash_file(int fd, uint64_t size, uint8_t alg, struct chain *chain,
			  bool (*progress)(void *arg, uint64_t bytes), void *arg,
			  struct cairn_digest *ret, struct cairn_err *err)
{
	struct cairn_hasher h;
	enum cairn_code code = CAIRN_OK;
	uint8_t *buf = mem_zero(PIECE);
	cairn_hasher_init(&h, (enum cairn_alg)alg);
	(void)posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
	while (h.length < size && code == CAIRN_OK) {
		size_t n = size - h.length < PIECE ? (size_t)(size - h.length) : PIECE;
		int rc = read_exactly(fd, buf, n, h.length);
		if (rc != 0) {
			code = cairn_err_set(err, CAIRN_DATA_LOSS, "%s",
					     rc == ENODATA ? "its file is too short"
							   : "its file cannot be read");
			break;
		}
		chain_hash(&h, chain, buf, n);
		if (progress != NULL && !progress(arg, n)) {
			code = cairn_err_set(err, CAIRN_CANCELLED, "stopped as asked");
		}
	}
	free(buf);
	if (code == CAIRN_OK) cairn_hasher_digest(&h, ret);
	return code;
}

/* ---- pieces */

static void load_chain(struct cairn_cache *c, struct blob_file *f)
{
	struct blob *b = f->blob;
	size_t want = chain_count(b->size), len;
	uint8_t *states;
	if (f->chain_loaded || want == 0) return;
	f->chain_loaded = true;
	lock(&c->mu);
	if (b->new_chain != NULL) chain_append(&f->chain, b->new_chain);
	unlock(&c->mu);
	if (f->chain.n == want) return;
	index_load_chain(c->index, &b->digest, &states, &len);
	if (len == want * f->chain.width) {
		chain_fini(&f->chain);
		f->chain.states = states;
		f->chain.n = f->chain.cap = want;
	} else {
		free(states);
	}
}

static void store_chain(struct cairn_cache *c, struct blob *b, const struct chain *chain)
{
	if (chain_count(b->size) == 0) return;
	struct chain *copy = mem_zero(sizeof(*copy));
	chain_init(copy, b->digest.alg);
	chain_append(copy, chain);
	copy->n = chain_count(b->size); /* without the state at the very end */
	lock(&c->mu);
	struct chain *old = b->new_chain;
	b->new_chain = copy;
	writer_add_blob_locked(c, b);
	unlock(&c->mu);
	if (old != NULL) chain_fini(old);
	free(old);
}

static bool ask_go_on(void *arg, uint64_t bytes)
{
	const struct go_on *ask = arg;
	(void)bytes;
	return ask->fn(ask->arg);
}

/* No chain, or one that does not fit: the whole file decides, and gives a chain. */
static enum cairn_code check_whole(struct cairn_cache *c, struct blob_file *f,
				   const struct go_on *go_on, struct cairn_err *err)
{
	struct blob *b = f->blob;
	struct chain chain;
	struct cairn_digest digest;
	struct cairn_err why;
	chain_init(&chain, b->digest.alg);
	struct go_on ask = go_on != NULL ? *go_on : (struct go_on){0};
	enum cairn_code code = hash_file(f->fd, b->size, b->digest.alg, &chain,
					 ask.fn != NULL ? ask_go_on : NULL, &ask, &digest, &why);
	if (code == CAIRN_CANCELLED) {
		*err = why;
	} else if (code != CAIRN_OK) {
		code = blob_damaged(c, b, why.msg, err);
	} else if (!cairn_digest_equal(&digest, &b->digest)) {
		code = blob_damaged(c, b, "its bytes have another digest", err);
	} else {
		store_chain(c, b, &chain);
		chain_fini(&f->chain);
		f->chain = chain;
		f->chain.n = chain_count(b->size);
		f->chain_loaded = true;
		return CAIRN_OK;
	}
	chain_fini(&chain);
	return code;
}

enum cairn_code file_chain(struct cairn_cache *c, struct blob_file *f, struct cairn_err *err)
{
	load_chain(c, f);
	if (f->chain.n == chain_count(f->blob->size)) return CAIRN_OK;
	return check_whole(c, f, NULL, err);
}

static bool check_piece(const struct blob_file *f, uint64_t piece, const uint8_t *data, size_t n)
{
	const struct blob *b = f->blob;
	size_t width = f->chain.width;
	uint8_t state[CAIRN_CHAIN_STATE] = {0};
	struct cairn_hasher h;
	if (piece == 0) {
		cairn_hasher_init(&h, (enum cairn_alg)b->digest.alg);
	} else {
		memcpy(state, f->chain.states + (piece - 1) * width, width);
		cairn_hasher_resume(&h, (enum cairn_alg)b->digest.alg, piece * PIECE, state);
	}
	cairn_hasher_update(&h, data, n);
	if (h.length == b->size) {
		struct cairn_digest digest;
		cairn_hasher_digest(&h, &digest);
		return cairn_digest_equal(&digest, &b->digest);
	}
	cairn_hasher_state(&h, state);
	return memcmp(state, f->chain.states + piece * width, width) == 0;
}

enum cairn_code pieces_check(struct cairn_cache *c, struct blob_file *f, uint64_t first,
			     uint64_t last, const struct go_on *go_on, bool *all,
			     struct cairn_err *err)
{
	char why[128];
	bool good = true;
	load_chain(c, f);
	*all = false;
	if (f->chain.n != chain_count(f->blob->size)) {
		*all = true;
		return check_whole(c, f, go_on, err);
	}
	uint8_t *buf = mem_zero(PIECE);
	for (uint64_t i = first; i <= last && good; i++) {
		uint64_t left = f->blob->size - i * PIECE;
		size_t n = left < PIECE ? (size_t)left : PIECE;
		int rc = read_exactly(f->fd, buf, n, i * PIECE);
		if (rc != 0) {
			free(buf);
			return blob_damaged(c, f->blob, strerror_r(rc, why, sizeof(why)), err);
		}
		good = check_piece(f, i, buf, n);
	}
	free(buf);
	if (good) return CAIRN_OK;
	*all = true; /* the chain itself may be what is wrong */
	return check_whole(c, f, go_on, err);
}

/* ---- verify */

struct finding {
	struct generation before, after;
	struct chain chain;
	struct cairn_digest digest;
};

static enum cairn_code hash_blob(struct cairn_cache *c, struct blob *b, struct finding *fd_ret,
				 bool (*progress)(void *arg, uint64_t bytes), void *arg,
				 struct cairn_err *err)
{
	struct stat st;
	struct cairn_err why;
	int fd = blob_open_file(c, &b->digest);
	if (fd < 0) return blob_unopened(c, b, errno, err);
	enum cairn_code code = CAIRN_OK;
	if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || (uint64_t)st.st_size != b->size) {
		code = blob_damaged(c, b, "its file has another size", err);
	} else {
		fd_ret->before = generation_of(&st);
		code = hash_file(fd, b->size, b->digest.alg, &fd_ret->chain, progress, arg,
				 &fd_ret->digest, &why);
		if (code == CAIRN_DATA_LOSS) {
			code = blob_damaged(c, b, why.msg, err);
		} else if (code != CAIRN_OK) {
			*err = why;
		} else if (!cairn_digest_equal(&fd_ret->digest, &b->digest)) {
			code = blob_damaged(c, b, "its bytes have another digest", err);
		} else if (fstat(fd, &st) == 0) {
			fd_ret->after = generation_of(&st);
		}
	}
	close(fd);
	return code;
}

/* The file is whole: a damaged mark was about a file that somebody has put right. */
static void accept(struct cairn_cache *c, struct blob *b, const struct finding *f)
{
	char text[CAIRN_DIGEST_STR];
	if (!generation_equal(&f->before, &f->after)) return;
	lock(&c->mu);
	bool healed = b->damaged && !b->gone;
	blob_set_damaged_locked(c, b, false);
	unlock(&c->mu);
	if (healed) {
		file_detach(c, b);
		cairn_log(CAIRN_LOG_INFO, "blob_healed",
			  CAIRN_STR("digest", cairn_digest_format(&b->digest, text)),
			  CAIRN_STR("by", "verify"));
	}
	proof_set(c, b, &f->after, true);
	store_chain(c, b, &f->chain);
}

enum cairn_code cairn_cache_verify(struct cairn_cache *c, const struct cairn_digest *digest,
				   bool (*progress)(void *arg, uint64_t bytes), void *arg,
				   struct cairn_err *err)
{
	char text[CAIRN_DIGEST_STR];
	struct finding f = {0};
	lock(&c->mu);
	struct blob *b = blob_find_locked(c, digest);
	if (b != NULL) blob_ref(b);
	unlock(&c->mu);
	if (b == NULL) {
		return cairn_err_set(err, CAIRN_NOT_FOUND, "blob %s is not here",
				     cairn_digest_format(digest, text));
	}
	chain_init(&f.chain, b->digest.alg);
	enum cairn_code code = hash_blob(c, b, &f, progress, arg, err);
	if (code == CAIRN_OK) accept(c, b, &f);
	chain_fini(&f.chain);
	blob_unref(b);
	return code;
}
