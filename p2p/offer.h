/* To whom is a new piece told first? A node that gets a blob piece by piece, and has several that
 * get it from there, would send each piece to each of them; but if it tells a new piece to only one
 * at first, that one passes it on, and the scarce first uplink sends each piece about once.
 *
 * A fresh piece is offered to one follower, the one with the fewest offers open, ties in turn; to
 * all the others when it has been sent to somebody, when nobody has taken it for CAIRN_OFFER_MS, or
 * when its follower leaves. Pure, like p2p/plan.h. Threads: one at a time. */
#ifndef CAIRN_P2P_OFFER_H
#define CAIRN_P2P_OFFER_H

#include <stdbool.h>
#include <stdint.h>

#define CAIRN_OFFER_MS 1000
#define CAIRN_FOLLOWERS_MAX 256

struct cairn_offer;

struct cairn_offer *cairn_offer_new(uint32_t pieces);
void cairn_offer_free(struct cairn_offer *offer);

/* Followers are small numbers of the caller's, below CAIRN_FOLLOWERS_MAX. */
void cairn_offer_join(struct cairn_offer *offer, uint32_t follower);
void cairn_offer_leave(struct cairn_offer *offer, uint32_t follower);
/* We have the piece now. elsewhere: others are known to have it: it is offered to all. */
void cairn_offer_add(struct cairn_offer *offer, uint32_t piece, bool elsewhere, int64_t now_ms);
/* It was sent whole to that follower, or he, or another, says that he has it. */
void cairn_offer_sent(struct cairn_offer *offer, uint32_t follower, uint32_t piece);
/* May the follower be told of it now? Only of pieces that were added. */
bool cairn_offer_may_tell(const struct cairn_offer *offer, uint32_t follower, uint32_t piece,
			  int64_t now_ms);
/* When may_tell changes by time alone; INT64_MAX: never. */
int64_t cairn_offer_next_ms(const struct cairn_offer *offer, int64_t now_ms);

#endif
