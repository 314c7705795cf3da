/* To whom is a new piece told first? A node that gets a blob from the registry, and has several
 * that get it from there, would send each piece to each of them; but if it tells a new piece to
 * only one at first, that one passes it on, and the scarce first uplink sends each piece about
 * once.
 *
 * A fresh piece is offered to one follower: one that has few offers open, in turn. So many are open
 * at once that the uplink is never idle, and no more, so that none waits long in somebody's queue;
 * the others wait for their turn, oldest first. Offers that nobody takes up go to another follower.
 * A piece that was sent to somebody is told to all the others when no offer has been open for
 * CAIRN_OFFER_IDLE_MS, for then the uplink has nothing better to do; after CAIRN_OFFER_PASS_MS in
 * any case, for he who has it may not be reached by all; and at once when the whole blob is here
 * and each piece was sent to somebody.
 *
 * Pure, like p2p/plan.h: time is what the calls say. Threads: one at a time. */
#ifndef CAIRN_P2P_OFFER_H
#define CAIRN_P2P_OFFER_H

#include <stdbool.h>
#include <stdint.h>

#define CAIRN_OFFER_MS 1000 /* an offer not taken up for so long, while others are, moves on */
#define CAIRN_OFFER_STUCK_MS 5000 /* ... and after so long in any case */
#define CAIRN_OFFER_IDLE_MS 500
#define CAIRN_OFFER_PASS_MS 30000
#define CAIRN_OFFER_OPEN 8 /* offers at once ... */
#define CAIRN_OFFER_EACH 2 /* ... and to one follower */
#define CAIRN_FOLLOWERS_MAX 256

struct cairn_offer;

struct cairn_offer *cairn_offer_new(uint32_t pieces);
void cairn_offer_free(struct cairn_offer *offer);

/* Followers are small numbers of the caller's, below CAIRN_FOLLOWERS_MAX. */
void cairn_offer_join(struct cairn_offer *offer, uint32_t follower);
void cairn_offer_leave(struct cairn_offer *offer, uint32_t follower);
/* We have the piece now. elsewhere: others are known to have it: it is told to all. */
void cairn_offer_add(struct cairn_offer *offer, uint32_t piece, bool elsewhere, int64_t now_ms);
/* It was sent whole to that follower, or he, or another, says that he has it. */
void cairn_offer_sent(struct cairn_offer *offer, uint32_t follower, uint32_t piece);
/* He asked for it, and it could not be read, so he does not ask for it again until all is whole. It
 * is nobody's any more, and told to the others as one that was sent. */
void cairn_offer_lost(struct cairn_offer *offer, uint32_t follower, uint32_t piece);
/* May the follower be told of it now? Only of pieces that were added. Once true, a follower that
 * was told need not be told again; after any call here the answers for all may be others. */
bool cairn_offer_may_tell(struct cairn_offer *offer, uint32_t follower, uint32_t piece,
			  int64_t now_ms);
/* Every piece is here and told to all: nothing is left to decide, and the blob may be described as
 * whole. Until then whoever fetched it describes it piece by piece, also when he has all of it. */
bool cairn_offer_over(const struct cairn_offer *offer);
/* When may_tell changes by time alone; INT64_MAX: never. */
int64_t cairn_offer_next_ms(struct cairn_offer *offer, int64_t now_ms);

#endif
