#include "p2p/rendezvous.h"

/* Spreads every bit over all others, and is a bijection: the end of MurmurHash3's 64 bit variant.
 */
static uint64_t mix(uint64_t x)
{
	x ^= x >> 33;
	x *= UINT64_C(0xff51afd7ed558ccd);
	x ^= x >> 33;
	x *= UINT64_C(0xc4ceb9fe1a85ec53);
	x ^= x >> 33;
	return x;
}

static uint64_t fnv1a(uint64_t h, const void *data, size_t n)
{
	const uint8_t *p = data;
	for (size_t i = 0; i < n; i++) h = (h ^ p[i]) * UINT64_C(0x100000001b3);
	return h;
}

#define FNV_BASIS UINT64_C(0xcbf29ce484222325)

uint64_t cairn_rendezvous_node(const char *address)
{
	uint64_t h = FNV_BASIS;
	for (; *address != '\0'; address++) h = fnv1a(h, address, 1);
	return mix(h);
}

uint64_t cairn_rendezvous_digest(const struct cairn_digest *digest)
{
	uint64_t h = fnv1a(FNV_BASIS, &digest->alg, 1);
	return mix(fnv1a(h, digest->bytes, cairn_alg_bytes(digest->alg)));
}

uint64_t cairn_rendezvous_weight(uint64_t node, uint64_t digest)
{
	return mix(node ^ digest);
}
