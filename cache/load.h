/* What load.c and load_ingest.c share while the store is opened. One thread, no locks. */
#ifndef CAIRN_CACHE_LOAD_H
#define CAIRN_CACHE_LOAD_H

#include "cache/store.h"

/* For functions that call what needs mu: nobody else knows the store yet. */
#define LOADING CAIRN_LOCKS_UNCHECKED

struct kept_ingest;

struct loading {
	struct cairn_cache *cache;
	int64_t real_ns;
	bool unclean; /* the last end was not orderly, or the index is lost */
	bool damaged;
	uint64_t found_files; /* without a row */
	struct kept_ingest **ingests;
	size_t ingests_n, ingests_cap;
};

/* Row by row; the rows are judged once the blobs are known. */
void load_keep_ingest(void *arg, const struct ingest_row *row);
enum cairn_code load_ingests(struct loading *l, struct cairn_err *err);
/* Delete the rows of ingests that were not taken over; inside a transaction. */
void load_drop_rows(struct loading *l);
void load_forget_ingests(struct loading *l);

#endif
