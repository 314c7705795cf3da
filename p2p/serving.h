/* What this node can give of one digest: all of it, the pieces that a fill has got, or those that
 * somebody here writes in order. One object for all who get the digest from us, while there are
 * any.
 *
 * An upload is one of them: what it was told, and what it is to be told next. What was told of one
 * generation is void when the next one begins. */
#ifndef CAIRN_P2P_SERVING_H
#define CAIRN_P2P_SERVING_H

#include "cache/pieces.h"
#include "p2p/bitmap.h"
#include "p2p/fill.h"
#include "p2p/offer.h"
#include "p2p/policy.h"

enum cairn_serving_state { CAIRN_SERVING_NOTHING, CAIRN_SERVING_GROWS, CAIRN_SERVING_WHOLE };

struct cairn_serving {
	struct cairn_swarm *swarm;
	struct cairn_digest digest;
	uint64_t size;
	uint32_t count;
	size_t entry;
	unsigned refs;		    /* guarded by swarm->mu */
	struct cairn_serving *next; /* guarded by swarm->mu */

	pthread_mutex_t mu; /* guards all below */
	pthread_cond_t refreshed;
	bool dirty, refreshing, went_wrong;
	struct cairn_upload *uploads;
	uint32_t n_uploads;
	uint64_t introduced; /* times somebody came */

	uint64_t gen, wrong_gen; /* wrong_gen: of those, this one turned out wrong */
	enum cairn_serving_state state;
	uint64_t fill_gen; /* of the fill whose pieces are among these */
	bool from_fill;
	bool spreads; /* WHOLE, fetched by us, and still told piece by piece: see below */
	struct cairn_partial *partial;
	uint32_t partial_n; /* its pieces */
	uint8_t *list;	    /* count - 1 entries; NULL: none yet */
	uint32_t list_n;
	bool proven;
	char originator[CAIRN_ADDRESS_MAX];
	struct cairn_bitmap have;
	struct cairn_offer *offer;
};

struct cairn_upload {
	struct cairn_serving *serving; /* counted */
	char address[CAIRN_ADDRESS_MAX];
	int wake_fd; /* the connection's */

	/* guarded by serving->mu */
	struct cairn_upload *next;
	uint32_t follower; /* of the offer; CAIRN_FOLLOWERS_MAX: none */
	uint64_t gen;
	bool described, told_whole;
	uint32_t told_n;
	struct cairn_bitmap told;
	uint64_t bytes;
	struct cairn_speed speed;
	bool moves;					  /* among swarm->uploads */
	char joined[CAIRN_OTHERS_MAX][CAIRN_ADDRESS_MAX]; /* of whom it is to be told */
	size_t n_joined;

	/* the connection's own */
	struct cairn_partial *partial;
	struct cairn_blob *blob;
};

/* Something has changed for the digest: look again, and tell those who get it. Any thread, with no
 * lock held but the swarm's may follow. */
void cairn_serving_poke(struct cairn_swarm *swarm, const struct cairn_digest *digest);
void cairn_serving_poke_all(struct cairn_swarm *swarm);
/* What somebody wrote here has turned out not to be the digest. */
void cairn_serving_wrong(struct cairn_swarm *swarm, const struct cairn_digest *digest);

/* ---- serving.c for upload.c ------------------------------------------------------------- */

struct cairn_serving *cairn_serving_get(struct cairn_swarm *swarm,
					const struct cairn_digest *digest, uint64_t size);
void cairn_serving_put(struct cairn_serving *s);
/* Those who get it are to look for news, but that one (may be NULL). */
void cairn_serving_wake_locked(struct cairn_serving *s, const struct cairn_upload *but);
/* Is it to be described as whole? Whoever fetched it from the registry goes on telling it piece by
 * piece (p2p/offer.h) until each piece was sent to somebody. */
bool cairn_serving_whole_locked(const struct cairn_serving *s);
/* Look again, if something has changed. One thread at a time does; the others wait for it. Blocks.
 */
void cairn_serving_refresh(struct cairn_serving *s);

/* ---- uploads: the connection's thread --------------------------------------------------- */

/* Addresses of some who get it from us: for a Description. */
struct cairn_others {
	size_t n;
	char *words[CAIRN_OTHERS_MAX]; /* of addresses */
	char addresses[CAIRN_OTHERS_MAX][CAIRN_ADDRESS_MAX];
};

/* NULL: CAIRN_UPLOAD_SLOTS get it from us already: *ret_others are some of them. Else they are told
 * of each other; and if we are getting it ourselves, we learn of whoever asks, in any case. */
struct cairn_upload *cairn_upload_begin(struct cairn_swarm *swarm,
					const struct cairn_digest *digest, uint64_t size,
					const char *address, int wake_fd,
					struct cairn_others *ret_others);
void cairn_upload_end(struct cairn_upload *upload); /* NULL is fine */

/* What there is to say: *msg points into *memory, which the caller frees. False: nothing. At the
 * first time there always is. Blocks (the list of a whole blob). */
bool cairn_upload_news(struct cairn_upload *upload, int64_t now_ms,
		       Cairn__Peer__V1__Description *msg, void **memory);
/* When there may be more to say by time alone. */
int64_t cairn_upload_next_ms(struct cairn_upload *upload, int64_t now_ms);

/* Bytes of a piece: either *ret_view (the whole blob's; release it) or, copied, buf; *ret_n of
 * them. False: they are not there. Blocks. */
bool cairn_upload_read(struct cairn_upload *upload, uint32_t piece, uint64_t offset, size_t n,
		       uint8_t *buf, struct cairn_view *ret);
/* So many bytes of it went out; whole: that was all of the piece. */
void cairn_upload_sent(struct cairn_upload *upload, uint32_t piece, size_t n, bool whole,
		       int64_t now_ms);
/* It was asked for, and cannot be given. */
void cairn_upload_lost(struct cairn_upload *upload, uint32_t piece);

/* For cairn_swarm_uploads. */
size_t cairn_serving_status(struct cairn_swarm *swarm, struct cairn_upload_status *ret, size_t max);

#endif
