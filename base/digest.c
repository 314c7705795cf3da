/* The only user of OpenSSL's hashing. EVP can neither save its state nor show it, so this file uses
 * the deprecated SHA256_CTX interface, which has the same assembly behind it. */
#define OPENSSL_SUPPRESS_DEPRECATED
#include "base/digest.h"

#include <assert.h>
#include <openssl/sha.h>
#include <string.h>

#define BLOCK_MAX 128 /* SHA-512's block; a multiple of SHA-256's */

static_assert(sizeof(SHA512_CTX) <= sizeof(((struct cairn_hasher *)0)->opaque), "hasher too small");
static_assert(sizeof(SHA256_CTX) <= sizeof(((struct cairn_hasher *)0)->opaque), "hasher too small");

static const struct {
	const char *name;
	size_t bytes;
} algs[] = {
	[CAIRN_SHA256] = {"sha256", SHA256_DIGEST_LENGTH},
	[CAIRN_SHA512] = {"sha512", SHA512_DIGEST_LENGTH},
};

const char *cairn_alg_name(uint8_t alg)
{
	return alg < CAIRN_LEN(algs) ? algs[alg].name : NULL;
}

size_t cairn_alg_bytes(uint8_t alg)
{
	return alg < CAIRN_LEN(algs) ? algs[alg].bytes : 0;
}

static int hex_value(char c)
{
	if (c >= '0' && c <= '9') return c - '0';
	if (c >= 'a' && c <= 'f') return c - 'a' + 10;
	return -1;
}

/* Shows at most 80 characters of what came from outside. */
static enum cairn_code bad_digest(const char *s, size_t n, const char *why, struct cairn_err *err)
{
	return cairn_err_set(err, CAIRN_INVALID_ARGUMENT, "invalid digest \"%.*s%s\": %s",
			     (int)(n < 80 ? n : 80), s, n < 80 ? "" : "...", why);
}

enum cairn_code cairn_digest_parse(const char *s, size_t n, struct cairn_digest *ret,
				   struct cairn_err *err)
{
	struct cairn_digest d = {0};
	const char *colon = n > 0 ? memchr(s, ':', n) : NULL;
	if (colon == NULL) return bad_digest(s, n, "want sha256:<64 hex> or sha512:<128 hex>", err);
	size_t name_len = (size_t)(colon - s);
	for (uint8_t a = CAIRN_SHA256; a <= CAIRN_SHA512; a++) {
		if (strlen(algs[a].name) == name_len && memcmp(algs[a].name, s, name_len) == 0) {
			d.alg = a;
		}
	}
	if (d.alg == 0) return bad_digest(s, n, "algorithm is not sha256 or sha512", err);
	const char *hex = colon + 1;
	if (n - name_len - 1 != 2 * algs[d.alg].bytes) {
		return bad_digest(s, n, "wrong length for its algorithm", err);
	}
	for (size_t i = 0; i < algs[d.alg].bytes; i++) {
		int hi = hex_value(hex[2 * i]), lo = hex_value(hex[2 * i + 1]);
		if (hi < 0 || lo < 0) return bad_digest(s, n, "not lower-case hex", err);
		d.bytes[i] = (uint8_t)(hi << 4 | lo);
	}
	*ret = d;
	return CAIRN_OK;
}

const char *cairn_digest_hex(const struct cairn_digest *d, char buf[static CAIRN_DIGEST_STR])
{
	static const char digits[] = "0123456789abcdef";
	size_t n = cairn_alg_bytes(d->alg);
	for (size_t i = 0; i < n; i++) {
		buf[2 * i] = digits[d->bytes[i] >> 4];
		buf[2 * i + 1] = digits[d->bytes[i] & 15];
	}
	buf[2 * n] = '\0';
	return buf;
}

const char *cairn_digest_format(const struct cairn_digest *d, char buf[static CAIRN_DIGEST_STR])
{
	char hex[CAIRN_DIGEST_STR];
	const char *name = cairn_alg_name(d->alg);
	if (name == NULL) {
		buf[0] = '\0';
		return buf;
	}
	size_t n = strlen(name), m = 2 * algs[d->alg].bytes;
	memcpy(buf, name, n);
	buf[n] = ':';
	memcpy(buf + n + 1, cairn_digest_hex(d, hex), m + 1);
	return buf;
}

bool cairn_digest_equal(const struct cairn_digest *a, const struct cairn_digest *b)
{
	return cairn_digest_compare(a, b) == 0;
}

int cairn_digest_compare(const struct cairn_digest *a, const struct cairn_digest *b)
{
	if (a->alg != b->alg) return a->alg < b->alg ? -1 : 1;
	return memcmp(a->bytes, b->bytes, cairn_alg_bytes(a->alg));
}

static SHA256_CTX *ctx256(const struct cairn_hasher *h)
{
	return (SHA256_CTX *)(uintptr_t)h->opaque;
}

static SHA512_CTX *ctx512(const struct cairn_hasher *h)
{
	return (SHA512_CTX *)(uintptr_t)h->opaque;
}

void cairn_hasher_init(struct cairn_hasher *h, enum cairn_alg alg)
{
	memset(h, 0, sizeof(*h));
	h->alg = (uint8_t)alg;
	if (alg == CAIRN_SHA256) {
		SHA256_Init(ctx256(h));
	} else {
		SHA512_Init(ctx512(h));
	}
}

void cairn_hasher_update(struct cairn_hasher *h, const void *data, size_t n)
{
	if (h->alg == CAIRN_SHA256) {
		SHA256_Update(ctx256(h), data, n);
	} else {
		SHA512_Update(ctx512(h), data, n);
	}
	h->length += n;
}

void cairn_hasher_digest(const struct cairn_hasher *h, struct cairn_digest *ret)
{
	struct cairn_hasher copy = *h;
	memset(ret, 0, sizeof(*ret));
	ret->alg = h->alg;
	if (h->alg == CAIRN_SHA256) {
		SHA256_Final(ret->bytes, ctx256(&copy));
	} else {
		SHA512_Final(ret->bytes, ctx512(&copy));
	}
}

/* States are stored big-endian, as the standard writes them, so that they mean the same anywhere.
 */
size_t cairn_hasher_state(const struct cairn_hasher *h, uint8_t state[static CAIRN_CHAIN_STATE])
{
	assert(h->length % BLOCK_MAX == 0);
	memset(state, 0, CAIRN_CHAIN_STATE);
	for (size_t i = 0; i < 8; i++) {
		uint64_t word = h->alg == CAIRN_SHA256 ? ctx256(h)->h[i] : ctx512(h)->h[i];
		size_t width = h->alg == CAIRN_SHA256 ? 4 : 8;
		for (size_t b = 0; b < width; b++) {
			state[i * width + b] = (uint8_t)(word >> (8 * (width - 1 - b)));
		}
	}
	return algs[h->alg].bytes;
}

void cairn_hasher_resume(struct cairn_hasher *h, enum cairn_alg alg, uint64_t length,
			 const uint8_t state[static CAIRN_CHAIN_STATE])
{
	assert(length % BLOCK_MAX == 0);
	cairn_hasher_init(h, alg);
	size_t width = alg == CAIRN_SHA256 ? 4 : 8;
	uint64_t bits = length << 3;
	for (size_t i = 0; i < 8; i++) {
		uint64_t word = 0;
		for (size_t b = 0; b < width; b++) word = word << 8 | state[i * width + b];
		if (alg == CAIRN_SHA256) {
			ctx256(h)->h[i] = (SHA_LONG)word;
		} else {
			ctx512(h)->h[i] = word;
		}
	}
	if (alg == CAIRN_SHA256) {
		ctx256(h)->Nl = (SHA_LONG)bits;
		ctx256(h)->Nh = (SHA_LONG)(bits >> 32);
	} else {
		ctx512(h)->Nl = bits;
		ctx512(h)->Nh = length >> 61;
	}
	h->length = length;
}
