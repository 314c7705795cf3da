/* An open file of pieces: what pieces.c and piece_write.c share. */
#ifndef CAIRN_CACHE_PIECE_H
#define CAIRN_CACHE_PIECE_H

#include "cache/pieces.h"
#include "cache/store.h"

#define PIECE_NAME 160 /* pieces-sha512-<hex> */

enum {
	PIECE_HERE = 1, /* its bytes are in the file, proved; nobody writes there any more */
	PIECE_OWNED =
		2,	/* a writer's bytes, or a recovery, go to the file (from it) as they come */
	PIECE_BUSY = 4, /* somebody is in pwrite(2) there */
};

struct cairn_pieces {
	struct cairn_cache *cache;
	struct piece_file *file; /* the cache's */
	struct cairn_digest digest;
	uint64_t size, step; /* bytes of the blob, of a piece */
	uint32_t count;
	size_t width; /* of a state */
	int fd;
	char name[PIECE_NAME]; /* in ingest/ */
	struct mutex mu;
	pthread_cond_t quiet; /* a piece is not busy any more */
	/* guarded by mu */
	uint8_t *flags; /* by piece */
	uint32_t done;	/* pieces that are here */
	uint64_t epoch; /* how often they were forgotten */
	bool sealed;	/* being published, or broken: nothing is written, nothing forgotten */
	bool published;
	bool broken; /* a flush failed: what the disk has is unknown, and the file has no name */
	uint8_t *begins; /* by piece: the state that it was begun with */
	uint8_t *states; /* the chain, as far as pieces are here: computed here, not told */
};

void pieces_forget_locked(struct cairn_pieces *p) CAIRN_REQUIRES(&p->mu);
/* What the file takes on disk, for the statistics. */
void pieces_measure(struct cairn_pieces *p);

#endif
