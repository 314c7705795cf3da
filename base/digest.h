/* Digests (OCI image-spec, descriptor.md#digests) and hashing whose state can be saved.
 *
 * A digest is a plain value. Only sha256 and sha512 exist; hex is lower case, as the spec demands.
 *
 * The chain: SHA-2 is a chain of compressions, so the state after k pieces, together with the next
 * piece's bytes, gives the state after k+1. Storing that state at each piece boundary costs nothing
 * while hashing, and later proves any single piece: load state k, hash the piece, compare with
 * state k+1 (for the last piece: with the digest itself). It is also what lets an unfinished ingest
 * go on after a restart without hashing its file again. */
#ifndef CAIRN_BASE_DIGEST_H
#define CAIRN_BASE_DIGEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/own.h"

enum cairn_alg { CAIRN_SHA256 = 1, CAIRN_SHA512 = 2 };

#define CAIRN_DIGEST_MAX 64				/* bytes of the longest digest */
#define CAIRN_DIGEST_STR (7 + 2 * CAIRN_DIGEST_MAX + 1) /* "sha512:" + hex + NUL */

struct cairn_digest {
	uint8_t alg;			 /* enum cairn_alg; 0: no digest */
	uint8_t bytes[CAIRN_DIGEST_MAX]; /* unused tail is zero, so a whole-struct hash is stable */
};

/* "sha256" or "sha512"; NULL for anything else. */
const char *cairn_alg_name(uint8_t alg);

/* 32 or 64; 0 for anything else. */
size_t cairn_alg_bytes(uint8_t alg);

/* Parse "alg:hex" of exactly n bytes. Errors: INVALID_ARGUMENT, with the text shown shortened. */
CAIRN_CHECKED enum cairn_code cairn_digest_parse(const char *s, size_t n, struct cairn_digest *ret,
						 struct cairn_err *err);

/* Write "alg:hex" and return buf. */
const char *cairn_digest_format(const struct cairn_digest *d, char buf[static CAIRN_DIGEST_STR]);

/* The hex part alone; returns buf. */
const char *cairn_digest_hex(const struct cairn_digest *d, char buf[static CAIRN_DIGEST_STR]);

bool cairn_digest_equal(const struct cairn_digest *a, const struct cairn_digest *b);

/* memcmp order: algorithm first. */
int cairn_digest_compare(const struct cairn_digest *a, const struct cairn_digest *b);

#define CAIRN_CHAIN_STEP (UINT64_C(1) << 20) /* bytes between two states of a chain */
#define CAIRN_CHAIN_STATE 64 /* bytes that hold one state; sha256 uses the first 32 */

/* Threads: owner thread only. Plain value: may be copied to take a snapshot. */
struct cairn_hasher {
	uint8_t alg;
	uint64_t length; /* bytes hashed so far */
	uint64_t opaque[28];
};

void cairn_hasher_init(struct cairn_hasher *h, enum cairn_alg alg);
void cairn_hasher_update(struct cairn_hasher *h, const void *data, size_t n);

/* The digest of what was hashed so far; the hasher goes on unharmed. */
void cairn_hasher_digest(const struct cairn_hasher *h, struct cairn_digest *ret);

/* The chain state; length must be a multiple of 128 (asserted). Returns bytes used: 32 or 64. */
size_t cairn_hasher_state(const struct cairn_hasher *h, uint8_t state[static CAIRN_CHAIN_STATE]);

/* Start from a saved state at offset length, a multiple of 128 (asserted). */
void cairn_hasher_resume(struct cairn_hasher *h, enum cairn_alg alg, uint64_t length,
			 const uint8_t state[static CAIRN_CHAIN_STATE]);

#endif
