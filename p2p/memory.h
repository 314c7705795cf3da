/* The directory's facts in one table: who holds a digest, who is getting it, whose its grant is.
 *
 * The arbiter of the static directory keeps one, and answers others from it; tests share one among
 * several nodes. A node is whoever says something. What it has said is valid while the node is
 * remembered: cairn_memory_forget makes all of it void at once, and costs nothing; the room is
 * given back little by little by later calls.
 *
 * Threads: internally locked; nothing blocks. */
#ifndef CAIRN_P2P_MEMORY_H
#define CAIRN_P2P_MEMORY_H

#include "p2p/directory.h"

/* Of memory. A blob takes some 190 bytes, and 8 for each node that has it. What does not fit is not
 * remembered: it is not found, and is granted to nobody. */
#define CAIRN_MEMORY_BYTES (UINT64_C(256) << 20)

struct cairn_memory;

struct cairn_memory *cairn_memory_new(void);
/* Another limit, for tests. */
struct cairn_memory *cairn_memory_new_bounded(uint64_t bytes);
void cairn_memory_free(struct cairn_memory *mem); /* NULL is fine */

/* The node lives at that time. Returns the number of its present life here: another one than last
 * time means that it was forgotten in between. Numbers of two tables differ, too. 0: there are more
 * than CAIRN_MEMBERS_MAX. Each call below does this first. */
uint64_t cairn_memory_hear(struct cairn_memory *mem, const char *node, int64_t now_ms);
void cairn_memory_forget(struct cairn_memory *mem, const char *node);
/* Forget every node that was last heard before that; and make room, so call it now and then. */
void cairn_memory_expire(struct cairn_memory *mem, int64_t before_ms);
/* Fills at most max of the nodes that are remembered; returns how many there are. */
size_t cairn_memory_members(struct cairn_memory *mem, struct cairn_node_id *ret, size_t max);

/* As in directory.h, said by that node. */
struct cairn_memory_question {
	const char *node;
	int64_t now_ms;
	const struct cairn_digest *digest;
};
void cairn_memory_ask(struct cairn_memory *mem, const struct cairn_memory_question *q, bool join,
		      bool may_grant, struct cairn_answer *ret);
void cairn_memory_take(struct cairn_memory *mem, const struct cairn_memory_question *q,
		       uint64_t version, struct cairn_grant *ret);
/* A grant that is free becomes the node's again: its arbiter has changed, or has forgotten it. */
void cairn_memory_keep(struct cairn_memory *mem, const struct cairn_memory_question *q,
		       uint64_t bytes, struct cairn_grant *ret);
void cairn_memory_leave(struct cairn_memory *mem, const struct cairn_memory_question *q);
void cairn_memory_announce(struct cairn_memory *mem, const struct cairn_memory_question *q);
void cairn_memory_withdraw(struct cairn_memory *mem, const struct cairn_memory_question *q);

struct cairn_memory_stats {
	uint64_t nodes, blobs, records, bytes; /* records: of holders and of those that join */
	uint64_t refused;		       /* times that something found no room */
};
void cairn_memory_get_stats(struct cairn_memory *mem, struct cairn_memory_stats *ret);

/* A node's directory on that table, for tests; the table outlives it. */
struct cairn_directory *cairn_memory_directory(struct cairn_memory *mem, const char *address);

#endif
