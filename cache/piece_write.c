/* Pieces as they come, are found again, and are read.
 *
 * One writer of a piece puts its bytes into the file at once; any other of the same piece keeps its
 * bytes until they are proved, and then writes them over whatever the first has brought. From the
 * moment at which a piece is here nobody writes there any more. So what is proved is what the file
 * has, although nothing is read again. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "cache/mem.h"
#include "cache/piece.h"

static void start_hash(const struct cairn_pieces *p, uint32_t k, const uint8_t *before,
		       struct cairn_hasher *h)
{
	uint8_t state[CAIRN_CHAIN_STATE] = {0};
	if (k == 0) {
		cairn_hasher_init(h, (enum cairn_alg)p->digest.alg);
		return;
	}
	memcpy(state, before, p->width);
	cairn_hasher_resume(h, (enum cairn_alg)p->digest.alg, k * p->step, state);
}

static void writer_init(struct cairn_pieces *p, uint32_t k, const uint8_t *before,
			struct cairn_piece_writer *w)
{
	assert(k < p->count);
	size_t states = (size_t)(cairn_piece_length(p->size, k) / PIECE);
	*w = (struct cairn_piece_writer){.pieces = p, .k = k};
	w->inner = mem_zero((1 + states) * p->width);
	if (k > 0) memcpy(w->inner, before, p->width);
	start_hash(p, k, before, &w->hasher);
}

static void writer_fini(struct cairn_piece_writer *w)
{
	struct cairn_pieces *p = w->pieces;
	if (w->in_file) {
		lock(&p->mu);
		p->flags[w->k] &= (uint8_t)~PIECE_OWNED;
		unlock(&p->mu);
	}
	free(w->inner);
	free(w->kept);
	*w = (struct cairn_piece_writer){0};
}

/* Into the hash, and the states at each MiB. */
static void hash_on(struct cairn_piece_writer *w, const void *data, size_t n)
{
	size_t width = w->pieces->width;
	struct chain chain = {
		.n = (size_t)(w->done / PIECE),
		.cap = SIZE_MAX, /* there is room for all of the piece */
		.width = width,
		.states = w->inner + width,
	};
	chain_hash(&w->hasher, &chain, data, n);
	w->done += n;
}

/* ---- the right to write */

static void wait_quiet_locked(struct cairn_pieces *p, uint32_t k) CAIRN_REQUIRES(&p->mu)
{
	while ((p->flags[k] & PIECE_BUSY) != 0) pthread_cond_wait(&p->quiet, &p->mu.os);
}

/* False: its bytes are in the file, and are to be let alone. */
static bool begin_busy(struct cairn_pieces *p, uint32_t k)
{
	lock(&p->mu);
	wait_quiet_locked(p, k);
	bool go = (p->flags[k] & PIECE_HERE) == 0 && !p->sealed;
	if (go) p->flags[k] |= PIECE_BUSY;
	unlock(&p->mu);
	return go;
}

static void end_busy_locked(struct cairn_pieces *p, uint32_t k) CAIRN_REQUIRES(&p->mu)
{
	p->flags[k] &= (uint8_t)~PIECE_BUSY;
	pthread_cond_broadcast(&p->quiet);
}

static enum cairn_code put_bytes(struct cairn_pieces *p, uint64_t offset, const void *data,
				 size_t n, struct cairn_err *err)
{
	int rc = write_exactly(p->fd, data, n, offset);
	if (rc != 0) return disk_err(p->cache, rc, err);
	atomic_fetch_add(&p->cache->written_bytes, n);
	return CAIRN_OK;
}

struct putting {
	struct cairn_pieces *pieces;
	uint64_t offset;
	const void *data;
	size_t n;
	enum cairn_code code;
	struct cairn_err err;
};

static void put_work(void *arg)
{
	struct putting *p = arg;
	p->code = put_bytes(p->pieces, p->offset, p->data, p->n, &p->err);
}

/* Into the file and into the hash, or into neither. Busy. */
static enum cairn_code put_and_hash(struct cairn_piece_writer *w, const void *data, size_t n,
				    struct cairn_err *err)
{
	struct cairn_pieces *p = w->pieces;
	struct hands *hands = &p->cache->hands;
	struct putting put = {
		.pieces = p, .offset = w->k * p->step + w->done, .data = data, .n = n};
	hands_enter(hands);
	if (n >= HANDS_BYTES && hands_give(hands, put_work, &put)) {
		struct cairn_hasher before = w->hasher;
		uint64_t done = w->done;
		hash_on(w, data, n);
		hands_wait(hands);
		if (put.code != CAIRN_OK) { /* what the file lacks is not in the hash */
			w->hasher = before;
			w->done = done;
		}
	} else {
		put_work(&put);
		if (put.code == CAIRN_OK) hash_on(w, data, n);
	}
	hands_leave(hands);
	if (put.code != CAIRN_OK) *err = put.err;
	return put.code;
}

/* ---- a piece that is being written */

void cairn_piece_begin(struct cairn_pieces *p, uint32_t k, const uint8_t *before,
		       struct cairn_piece_writer *w)
{
	writer_init(p, k, before, w);
	lock(&p->mu);
	bool here = (p->flags[k] & PIECE_HERE) != 0;
	w->in_file = !here && (p->flags[k] & PIECE_OWNED) == 0;
	if (w->in_file) p->flags[k] |= PIECE_OWNED;
	w->epoch = p->epoch;
	unlock(&p->mu);
	if (!here && !w->in_file) {
		w->kept = mem_check(malloc((size_t)cairn_piece_length(p->size, k)));
	}
}

enum cairn_code cairn_piece_write(struct cairn_piece_writer *w, const void *data, size_t n,
				  struct cairn_err *err)
{
	struct cairn_pieces *p = w->pieces;
	uint64_t length = cairn_piece_length(p->size, w->k);
	enum cairn_code code;
	if (n > length - w->done) {
		return cairn_err_set(err, CAIRN_OUT_OF_RANGE,
				     "more than the %llu bytes that piece %u has",
				     (unsigned long long)length, w->k);
	}
	if (w->in_file && begin_busy(p, w->k)) {
		code = put_and_hash(w, data, n, err);
		lock(&p->mu);
		end_busy_locked(p, w->k);
		unlock(&p->mu);
		return code;
	}
	if (w->kept != NULL) memcpy(w->kept + w->done, data, n);
	hash_on(w, data, n);
	return CAIRN_OK;
}

void cairn_piece_abandon(struct cairn_piece_writer *w)
{
	writer_fini(w);
}

/* ---- its end */

static bool is_proved(const struct cairn_piece_writer *w, const uint8_t *after)
{
	const struct cairn_pieces *p = w->pieces;
	if (w->done != cairn_piece_length(p->size, w->k)) return false;
	if (w->k + 1 == p->count) {
		struct cairn_digest digest;
		cairn_hasher_digest(&w->hasher, &digest);
		return cairn_digest_equal(&digest, &p->digest);
	}
	uint8_t state[CAIRN_CHAIN_STATE];
	cairn_hasher_state(&w->hasher, state);
	return memcmp(state, after, p->width) == 0;
}

/* It is here from now on. */
static void take_locked(struct cairn_pieces *p, const struct cairn_piece_writer *w)
	CAIRN_REQUIRES(&p->mu)
{
	size_t width = p->width, first = (size_t)(w->k * p->step / PIECE);
	size_t n = (size_t)(w->done / PIECE), room = chain_count(p->size) - first;
	if (n > room) n = room; /* the state at the very end is the digest */
	memcpy(p->begins + w->k * width, w->inner, width);
	memcpy(p->states + first * width, w->inner + width, n * width);
	p->flags[w->k] |= PIECE_HERE;
	p->done++;
}

static enum cairn_code settle_err(const struct cairn_piece_writer *w, struct cairn_err *err)
{
	return cairn_err_set(err, CAIRN_ABORTED, "piece %u: what was here was dropped meanwhile",
			     w->k);
}

static bool is_valid_locked(const struct cairn_piece_writer *w)
{
	return w->epoch == w->pieces->epoch && !w->pieces->broken;
}

/* The bytes that were kept, over those that another writer may have brought. Busy. */
static enum cairn_code settle_kept(struct cairn_piece_writer *w, struct cairn_err *err)
{
	struct cairn_pieces *p = w->pieces;
	enum cairn_code code = put_bytes(p, w->k * p->step, w->kept, (size_t)w->done, err);
	lock(&p->mu);
	end_busy_locked(p, w->k);
	bool valid = is_valid_locked(w);
	if (code == CAIRN_OK && valid) take_locked(p, w);
	unlock(&p->mu);
	return code == CAIRN_OK && !valid ? settle_err(w, err) : code;
}

static enum cairn_code settle(struct cairn_piece_writer *w, struct cairn_err *err)
{
	struct cairn_pieces *p = w->pieces;
	lock(&p->mu);
	wait_quiet_locked(p, w->k);
	bool valid = is_valid_locked(w), here = (p->flags[w->k] & PIECE_HERE) != 0;
	bool put = valid && !here && w->kept != NULL;
	if (put) p->flags[w->k] |= PIECE_BUSY;
	if (valid && !here && !put) take_locked(p, w);
	unlock(&p->mu);
	if (!valid) return settle_err(w, err);
	return put ? settle_kept(w, err) : CAIRN_OK;
}

/* So that the flush at the end is short. */
static void write_back(struct cairn_pieces *p, uint32_t k)
{
	(void)sync_file_range(p->fd, (off_t)(k * p->step), (off_t)cairn_piece_length(p->size, k),
			      SYNC_FILE_RANGE_WRITE);
}

enum cairn_code cairn_piece_end(struct cairn_piece_writer *w, const uint8_t *after,
				struct cairn_err *err)
{
	struct cairn_pieces *p = w->pieces;
	uint32_t k = w->k;
	enum cairn_code code = CAIRN_OK;
	if (is_proved(w, after)) {
		code = settle(w, err);
	} else {
		code = cairn_err_set(err, CAIRN_DATA_LOSS,
				     "piece %u: its %llu bytes are not those of the list", k,
				     (unsigned long long)w->done);
	}
	writer_fini(w);
	if (code == CAIRN_OK) write_back(p, k);
	pieces_measure(p);
	return code;
}

/* ---- what is on disk already */

static bool has_hole(const struct cairn_pieces *p, uint64_t from, uint64_t length)
{
	off_t hole = lseek(p->fd, (off_t)from, SEEK_HOLE);
	return hole < 0 || (uint64_t)hole < from + length;
}

static bool read_and_hash(struct cairn_piece_writer *w)
{
	struct cairn_pieces *p = w->pieces;
	uint64_t from = w->k * p->step, length = cairn_piece_length(p->size, w->k);
	uint8_t *buf = mem_check(malloc(PIECE));
	bool good = true;
	while (good && w->done < length) {
		size_t n = length - w->done < PIECE ? (size_t)(length - w->done) : PIECE;
		good = read_exactly(p->fd, buf, n, from + w->done) == 0;
		if (good) hash_on(w, buf, n);
	}
	free(buf);
	return good;
}

bool cairn_pieces_recover(struct cairn_pieces *p, uint32_t k, const uint8_t *before,
			  const uint8_t *after)
{
	struct cairn_piece_writer w;
	assert(k < p->count);
	uint64_t from = k * p->step, length = cairn_piece_length(p->size, k);
	lock(&p->mu);
	uint8_t flags = p->flags[k];
	unlock(&p->mu);
	if ((flags & PIECE_HERE) != 0) return true;
	if ((flags & PIECE_OWNED) != 0 || has_hole(p, from, length)) return false;
	/* As a writer that brings the file's own bytes. */
	writer_init(p, k, before, &w);
	lock(&p->mu);
	w.in_file = (p->flags[k] & (PIECE_OWNED | PIECE_HERE)) == 0;
	if (w.in_file) p->flags[k] |= PIECE_OWNED;
	w.epoch = p->epoch;
	unlock(&p->mu);
	if (w.in_file && read_and_hash(&w) && is_proved(&w, after)) {
		struct cairn_err ignored;
		(void)settle(&w, &ignored);
	}
	writer_fini(&w);
	return cairn_pieces_has(p, k);
}

/* ---- looking */

bool cairn_pieces_has(struct cairn_pieces *p, uint32_t k)
{
	assert(k < p->count);
	lock(&p->mu);
	bool has = (p->flags[k] & PIECE_HERE) != 0;
	unlock(&p->mu);
	return has;
}

uint32_t cairn_pieces_done(struct cairn_pieces *p)
{
	lock(&p->mu);
	uint32_t done = p->done;
	unlock(&p->mu);
	return done;
}

static bool are_here_locked(const struct cairn_pieces *p, uint64_t offset, size_t n)
{
	if (n > p->size || offset > p->size - n) return false;
	if (n == 0) return true;
	for (uint64_t k = offset / p->step; k <= (offset + n - 1) / p->step; k++) {
		if ((p->flags[k] & PIECE_HERE) == 0) return false;
	}
	return true;
}

enum cairn_code cairn_pieces_read(struct cairn_pieces *p, uint64_t offset, void *buf, size_t n,
				  struct cairn_err *err)
{
	char text[CAIRN_DIGEST_STR];
	lock(&p->mu);
	bool here = are_here_locked(p, offset, n);
	unlock(&p->mu);
	if (!here) {
		return cairn_err_set(err, CAIRN_INTERNAL,
				     "%zu bytes at %llu of %s are not here, or not any more", n,
				     (unsigned long long)offset,
				     cairn_digest_format(&p->digest, text));
	}
	int rc = read_exactly(p->fd, buf, n, offset);
	if (rc == 0) {
		atomic_fetch_add(&p->cache->read_bytes, n);
		return CAIRN_OK;
	}
	return cairn_err_sys(err, rc, "read %s/ingest/%s", p->cache->dir, p->name);
}
