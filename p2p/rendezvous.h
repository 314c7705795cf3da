/* Which of these nodes is a digest's arbiter? The one with the highest weight: the same for all who
 * see the same nodes, evenly spread, and when a node comes or goes, only what it gets or had moves.
 * The numbers are part of the peer protocol. Pure. Threads: any. */
#ifndef CAIRN_P2P_RENDEZVOUS_H
#define CAIRN_P2P_RENDEZVOUS_H

#include <stddef.h>
#include <stdint.h>

#include "base/digest.h"

/* A node's number, by its address; a digest's. */
uint64_t cairn_rendezvous_node(const char *address);
uint64_t cairn_rendezvous_digest(const struct cairn_digest *digest);

uint64_t cairn_rendezvous_weight(uint64_t node, uint64_t digest);

#endif
