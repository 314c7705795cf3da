/* The nodes of a table (p2p/memory.h), each with its present life. What a node has said carries the
 * number of that life, so that forgetting the node makes all of it void at once.
 * Threads: the table's lock. */
#ifndef CAIRN_P2P_MEMORY_NODES_H
#define CAIRN_P2P_MEMORY_NODES_H

#include <stdbool.h>
#include <stdint.h>

#include "p2p/directory.h"

struct said { /* by a node, in a life of it */
	uint32_t node, life;
};

struct node {
	char *address;
	uint32_t life; /* 0: it is forgotten */
	uint32_t next; /* in its bucket; NODE_NONE: the last */
	int64_t heard_ms;
};

#define NODE_NONE UINT32_MAX
#define NODE_BUCKETS 1024

struct nodes {
	struct node *all;
	uint32_t n, room; /* slots; those of the forgotten are used again */
	uint32_t live;
	uint32_t lives; /* begun so far */
	uint32_t buckets[NODE_BUCKETS];
};

void nodes_init(struct nodes *nodes);
void nodes_fini(struct nodes *nodes);

/* The node lives. false: there are too many. */
bool nodes_hear(struct nodes *nodes, const char *address, int64_t now_ms, struct said *ret);
/* NODE_NONE: never heard of. */
uint32_t nodes_find(const struct nodes *nodes, const char *address);
void nodes_forget(struct nodes *nodes, uint32_t node);

static inline bool nodes_valid(const struct nodes *nodes, struct said said)
{
	return said.life != 0 && nodes->all[said.node].life == said.life;
}

#endif
