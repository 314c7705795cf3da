/* Decisions of the swarm that are no plan's: when to ask the directory again, when to take a grant
 * over, whom to tell of whom. Pure functions of their arguments, so that the daemon and the
 * simulation (tests/sim) decide alike. */
#ifndef CAIRN_P2P_POLICY_H
#define CAIRN_P2P_POLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CAIRN_ASK_MIN_MS 1000  /* between two questions about one blob ... */
#define CAIRN_ASK_MAX_MS 10000 /* ... while the answers tell nothing new */

#define CAIRN_OTHERS_MAX 8 /* addresses in one Description */

/* Whoever gets one blob from a node at the same time; more are told BUSY, and of others. Little
 * more than what each node asks (CAIRN_OPEN_MAX): so no node is asked by many while others are
 * asked by none, and a piece does not creep to many at once, but goes quickly to some, who pass it
 * on. */
#define CAIRN_UPLOAD_SLOTS 12
#define CAIRN_BUSY_RETRY_MS 1000 /* what BUSY says; who hears it again and again waits longer */

/* How many sources a fill is to have at once, when so many fills of this node get pieces from
 * peers. More would only make each piece slower, and what is on its way cannot be asked of another.
 */
uint32_t cairn_policy_open(uint32_t n_fills);

/* Is a fill's only source to be talked with twice, side by side, when bytes came so lately in ms
 * and so many are missing? Yes where one processor is what holds it up, decrypting, hashing and
 * writing in turn: on a fast link, with nothing else to fill, and when there is enough left to
 * gain. */
bool cairn_policy_double(uint32_t n_fills, uint64_t bytes, int64_t ms, uint64_t left);

/* How long after the last answer to ask the directory again. n: how many answers in a row told
 * nothing that mattered: no new source, no other grant or version. Of a seed (the node and the
 * digest) the times differ from those of another, so that nodes that began together do not ask
 * together. */
int64_t cairn_policy_ask_ms(uint64_t seed, uint32_t n);

/* When that time has come: is there anything to ask for? Not while bytes come and about as many
 * sources as wanted (cairn_policy_open) are connected. */
bool cairn_policy_should_ask(uint32_t connected, uint32_t open, int64_t since_byte_ms);

/* May a waiter take over the grant? seen_ms: when it saw the version that the grant still has for
 * the first time; last_byte_ms: when the last byte of the blob came here, from anybody (INT64_MIN:
 * none has). The seed spreads them, by a quarter of stall_ms at most: the first one wins, and the
 * others see another version. */
bool cairn_policy_may_take(int64_t now_ms, int64_t seen_ms, int64_t last_byte_ms, int64_t stall_ms,
			   uint64_t seed);

/* Of a node's n other followers, at most CAIRN_OTHERS_MAX by chance, as indexes below n, each once.
 * Returns how many. For the first answer to a new follower, BUSY too: so whoever finds a full node
 * finds others. */
size_t cairn_policy_others(uint64_t seed, size_t n, size_t ret[static CAIRN_OTHERS_MAX]);

#endif
