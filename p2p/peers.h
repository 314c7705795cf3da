/* What is known of peers: names, bytes either way, faults; and who is shunned for which digest.
 *
 * A peer is its address, as it says and as it is dialled. It is shunned by the name in its
 * certificate, which it cannot choose, where it has one. All of it is bounded: whoever was not
 * heard of for the longest time is forgotten.
 *
 * Threads: internally locked, nothing blocks. */
#ifndef CAIRN_P2P_PEERS_H
#define CAIRN_P2P_PEERS_H

#include "p2p/p2p.h"

#define CAIRN_PEERS_MAX 4096
#define CAIRN_SHUNS_MAX 4096
#define CAIRN_SHUN_MS INT64_C(600000) /* whose list turned out wrong, for that digest */

struct cairn_peers;

struct cairn_peers *cairn_peers_new(void);
void cairn_peers_free(struct cairn_peers *peers); /* NULL is fine */

/* A connection to or from it begins; name: of its certificate, "" without. */
void cairn_peers_met(struct cairn_peers *peers, const char *address, const char *name);
void cairn_peers_parted(struct cairn_peers *peers, const char *address);

void cairn_peers_from(struct cairn_peers *peers, const char *address, uint64_t bytes,
		      int64_t now_ms);
void cairn_peers_to(struct cairn_peers *peers, const char *address, uint64_t bytes, int64_t now_ms);
void cairn_peers_failed(struct cairn_peers *peers, const char *address, const char *why);
void cairn_peers_bad(struct cairn_peers *peers, const char *address, const char *why);

/* Have nothing of that digest from the peer for a while. */
void cairn_peers_shun(struct cairn_peers *peers, const struct cairn_digest *digest,
		      const char *address, int64_t now_ms);
/* name: of its certificate; NULL: as it was last met. */
bool cairn_peers_shuns(struct cairn_peers *peers, const struct cairn_digest *digest,
		       const char *address, const char *name, int64_t now_ms);
/* Of that digest, believe only lists that are proven, for a while. */
void cairn_peers_doubt(struct cairn_peers *peers, const struct cairn_digest *digest,
		       int64_t now_ms);
bool cairn_peers_doubts(struct cairn_peers *peers, const struct cairn_digest *digest,
			int64_t now_ms);

/* Those that were met, or did something: fills at most max, returns how many there are. member and
 * self are not set. */
size_t cairn_peers_list(struct cairn_peers *peers, struct cairn_peer_status *ret, size_t max,
			int64_t now_ms);

/* ---- bytes a second, lately: of the last whole second or two */

struct cairn_speed {
	int64_t since_ms;
	uint64_t bytes, last_bps;
};
void cairn_speed_add(struct cairn_speed *speed, uint64_t bytes, int64_t now_ms);
uint64_t cairn_speed_now(const struct cairn_speed *speed, int64_t now_ms);

#endif
