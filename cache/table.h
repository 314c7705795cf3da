/* Blobs of one algorithm by digest: a hash table and an ordered map at once.
 *
 * Digests are uniformly random, so the buckets are the leading bits of the digest, and each bucket
 * is a short sorted list. A walk needs only the last digest it has seen: inserts, removals and
 * growth in between cannot make it miss or repeat an entry that stays.
 * Threads: the caller's lock. */
#ifndef CAIRN_CACHE_TABLE_H
#define CAIRN_CACHE_TABLE_H

#include <stddef.h>

#include "base/digest.h"

struct blob; /* has digest, and next for the table's use */

struct table {
	struct blob **buckets;
	unsigned bits; /* 0: not initialised */
	size_t n;
};

void table_init(struct table *t);
void table_fini(struct table *t); /* the entries are the caller's */

struct blob *table_find(const struct table *t, const struct cairn_digest *digest);

/* The digest must not be in the table yet. */
void table_insert(struct table *t, struct blob *b);
void table_remove(struct table *t, struct blob *b);

/* The first entry whose digest is greater than *after (NULL: the first of all), or NULL. */
struct blob *table_after(const struct table *t, const struct cairn_digest *after);

/* The entry that follows b, which must be in the table; NULL at the end. */
struct blob *table_next(const struct table *t, const struct blob *b);

#endif
