/* A look at bytes that come in order, while somebody else writes them.
 *
 * Bytes of an ingest below its offset do not change, nor do the chain's states: its data is
 * replaced, with a new file, when it starts again. So one who has a reference to the data and a
 * descriptor of its own needs the store's lock only to see how far it is, and whether it still is
 * what the ref stands for. */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "cache/mem.h"
#include "cache/store.h"

struct cairn_partial {
	struct cairn_cache *cache;
	struct ingest_data *data; /* counted */
	struct cairn_digest digest;
	uint64_t size, step; /* bytes of the blob, of a piece */
	uint32_t count;
	size_t width;
	int fd;
};

/* How many whole pieces are there; 0, too, if it cannot become the digest. */
static uint32_t whole_locked(const struct ingest *ing, const struct cairn_digest *digest,
			     uint64_t size)
{
	if (ing->gone || ing->session == NULL || ing->blob != NULL) return 0;
	if (ing->data->broken || ing->total != size || ing->offset > size) return 0;
	if (!cairn_digest_equal(&ing->want, digest) || ing->hasher.alg != digest->alg) return 0;
	if (ing->offset < size) return (uint32_t)(ing->offset / cairn_piece_size(size));
	return cairn_digest_equal(&ing->running, digest) ? cairn_piece_count(size) : 0;
}

static struct ingest_data *furthest_locked(struct cairn_cache *c, const struct cairn_digest *digest,
					   uint64_t size) CAIRN_REQUIRES(&c->mu)
{
	const struct ingest *best = NULL;
	for (size_t i = 0; i < c->ingests_n; i++) {
		const struct ingest *ing = c->ingests[i];
		if (whole_locked(ing, digest, size) == 0) continue;
		if (best == NULL || ing->offset > best->offset) best = ing;
	}
	return best != NULL ? data_ref(best->data) : NULL;
}

/* While it is published it has its final name already, and the folder's flush, which can take long,
 * is before the blob is anybody's. */
static int open_data(const struct cairn_cache *c, const struct ingest_data *d,
		     const struct cairn_digest *digest)
{
	char name[32], hex[CAIRN_DIGEST_STR];
	const int flags = O_RDONLY | O_CLOEXEC | O_NOFOLLOW;
	int fd = openat(c->ingest_fd, data_name(d, name), flags);
	if (fd >= 0 || errno != ENOENT) return fd;
	return openat(c->blob_fds[digest->alg], cairn_digest_hex(digest, hex), flags);
}

struct cairn_partial *cairn_partial_find(struct cairn_cache *c, const struct cairn_digest *digest,
					 uint64_t size)
{
	if (cairn_alg_bytes(digest->alg) == 0 || cairn_piece_size(size) == 0) return NULL;
	lock(&c->mu);
	struct ingest_data *d = furthest_locked(c, digest, size);
	unlock(&c->mu);
	if (d == NULL) return NULL;
	int fd = open_data(c, d, digest);
	if (fd < 0) {
		data_unref(d);
		return NULL;
	}
	struct cairn_partial *p = mem_zero(sizeof(*p));
	*p = (struct cairn_partial){
		.cache = c,
		.data = d,
		.digest = *digest,
		.size = size,
		.step = cairn_piece_size(size),
		.count = cairn_piece_count(size),
		.width = cairn_alg_bytes(digest->alg),
		.fd = fd,
	};
	return p;
}

void cairn_partial_free(struct cairn_partial *p)
{
	if (p == NULL) return;
	close(p->fd);
	data_unref(p->data);
	free(p);
}

static enum cairn_partial_state look_locked(const struct cairn_partial *p, uint32_t *ret)
{
	const struct ingest_data *d = p->data;
	*ret = 0;
	if (cairn_digest_equal(&d->published, &p->digest)) {
		*ret = p->count;
		return CAIRN_PARTIAL_WHOLE;
	}
	if (d->dead || d->ingest->data != d) return CAIRN_PARTIAL_STALE;
	*ret = whole_locked(d->ingest, &p->digest, p->size);
	return *ret > 0 ? CAIRN_PARTIAL_GROWS : CAIRN_PARTIAL_STALE;
}

enum cairn_partial_state cairn_partial_look(struct cairn_partial *p, uint32_t *ret_pieces)
{
	lock(&p->cache->mu);
	enum cairn_partial_state state = look_locked(p, ret_pieces);
	unlock(&p->cache->mu);
	return state;
}

bool cairn_partial_list(struct cairn_partial *p, uint32_t from, uint32_t n, uint8_t *ret)
{
	uint32_t pieces;
	size_t per = (size_t)(p->step / PIECE), width = p->width;
	lock(&p->cache->mu);
	bool there = look_locked(p, &pieces) != CAIRN_PARTIAL_STALE;
	/* The last piece has no entry. */
	uint32_t entries = pieces < p->count ? pieces : p->count - 1;
	there = there && from <= entries && n <= entries - from &&
		p->data->chain.n >= ((size_t)from + n) * per;
	for (size_t k = from; there && k < (size_t)from + n; k++) {
		const uint8_t *state = p->data->chain.states + ((k + 1) * per - 1) * width;
		memcpy(ret + (k - from) * width, state, width);
	}
	unlock(&p->cache->mu);
	return there;
}

enum cairn_code cairn_partial_read(struct cairn_partial *p, uint64_t offset, void *buf, size_t n,
				   struct cairn_err *err)
{
	char text[CAIRN_DIGEST_STR];
	int rc = n <= p->size && offset <= p->size - n ? read_exactly(p->fd, buf, n, offset)
						       : ENODATA;
	if (rc == 0) {
		atomic_fetch_add(&p->cache->read_bytes, n);
		return CAIRN_OK;
	}
	return cairn_err_sys(err, rc, "read what has come of %s",
			     cairn_digest_format(&p->digest, text));
}
