/* What the tests of pieces share: lists, and pieces that are written whole. */
#ifndef CAIRN_TESTS_SUPPORT_PIECES_H
#define CAIRN_TESTS_SUPPORT_PIECES_H

#include "cache/pieces.h"
#include "support/store.h"

/* The list of a content, made here by plain hashing. Freed by the caller. */
static UNUSED uint8_t *list_of(const struct content *c)
{
	size_t width = cairn_alg_bytes(c->digest.alg);
	uint32_t count = cairn_piece_count(c->n);
	uint64_t step = cairn_piece_size(c->n);
	uint8_t *list = calloc(count, width), state[CAIRN_CHAIN_STATE];
	struct cairn_hasher h;
	cairn_hasher_init(&h, (enum cairn_alg)c->digest.alg);
	for (uint32_t k = 0; k + 1 < count; k++) {
		cairn_hasher_update(&h, c->data + k * step, step);
		cairn_hasher_state(&h, state);
		memcpy(list + k * width, state, width);
	}
	return list;
}

static UNUSED const uint8_t *entry(const struct content *c, const uint8_t *list, uint32_t k)
{
	return list + (size_t)k * cairn_alg_bytes(c->digest.alg);
}

static UNUSED const uint8_t *before(const struct content *c, const uint8_t *list, uint32_t k)
{
	return k > 0 ? entry(c, list, k - 1) : NULL;
}

static UNUSED struct cairn_pieces *pieces_open(struct store *s, const struct content *c)
{
	struct cairn_err err = {0};
	struct cairn_pieces *p = NULL;
	assert_ok(cairn_pieces_open(s->cache, &c->digest, c->n, &p, &err));
	return p;
}

/* Piece k of c's list, with the bytes of from, in parts of at most part bytes. */
static UNUSED enum cairn_code put_piece(struct cairn_pieces *p, const struct content *c,
					const uint8_t *list, uint32_t k, const uint8_t *from,
					size_t part, struct cairn_err *err)
{
	struct cairn_piece_writer w;
	uint64_t at = k * cairn_piece_size(c->n), n = cairn_piece_length(c->n, k);
	cairn_piece_begin(p, k, before(c, list, k), &w);
	for (uint64_t done = 0; done < n;) {
		size_t some = n - done < part ? (size_t)(n - done) : part;
		enum cairn_code code = cairn_piece_write(&w, from + at + done, some, err);
		if (code != CAIRN_OK) {
			cairn_piece_abandon(&w);
			return code;
		}
		done += some;
	}
	return cairn_piece_end(&w, entry(c, list, k), err);
}

static UNUSED void put_all(struct cairn_pieces *p, const struct content *c, const uint8_t *list)
{
	struct cairn_err err;
	for (uint32_t k = 0; k < cairn_piece_count(c->n); k++) {
		assert_ok(put_piece(p, c, list, k, c->data, 300000, &err));
	}
}

static UNUSED void piece_path(struct store *s, const struct content *c, char buf[512])
{
	char hex[CAIRN_DIGEST_STR];
	snprintf(buf, 512, "%s/ingest/pieces-%s-%s", s->dir, cairn_alg_name(c->digest.alg),
		 cairn_digest_hex(&c->digest, hex));
}

/* Order of n things, by chance. */
static UNUSED uint32_t *shuffled(uint32_t n, uint64_t *x)
{
	uint32_t *order = calloc(n + 1, sizeof(*order));
	for (uint32_t i = 0; i < n; i++) {
		uint32_t j = (uint32_t)(next_random(x) % (i + 1));
		order[i] = order[j];
		order[j] = i;
	}
	return order;
}

#endif
