/* What the coordinator of a fill does each time it looks, beside the pulling itself. */
#ifndef CAIRN_P2P_FILL_ROUND_H
#define CAIRN_P2P_FILL_ROUND_H

#include "p2p/fill.h"

#define CAIRN_FIRST_BYTE_MS 100 /* between two looks whether a granted fetch has begun */

/* Our grant: who fetches has let go of it; has got bytes: the directory is told. */
void cairn_fill_tend_grant(struct cairn_swarm_fill *f, int64_t now_ms);
/* Ask the directory if that is due; take a grant over if its node does not get on; give up. */
void cairn_fill_tend_questions(struct cairn_swarm_fill *f, int64_t now_ms);
/* No grant of ours waits for its first byte any more. */
void cairn_fill_give_place(struct cairn_swarm_fill *f);

#endif
