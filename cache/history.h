/* What is remembered beyond blobs: which manifests image names stood for and what these need, for
 * roll-back, and what an admin wants kept. To the store, names and targets are just text.
 *
 * Kept in memory and in index.db. Threads: internally locked. "Memory only" as in cache/cache.h. */
#ifndef CAIRN_CACHE_HISTORY_H
#define CAIRN_CACHE_HISTORY_H

#include "cache/cache.h"

#define CAIRN_NAME_MAX 1024	     /* bytes of an image name or a pin's target */
#define CAIRN_VERSIONS_MAX 65536     /* in all */
#define CAIRN_VERSIONS_OF_A_NAME 256 /* more: the one that was current longest ago is forgotten */
#define CAIRN_NEEDS_MAX 65536	     /* blobs of one version */
#define CAIRN_PINS_MAX 16384

/* ---- versions */

struct cairn_need {
	struct cairn_digest digest;
	uint64_t size;
};

/* What a manifest needs, itself included. Immutable and counted. */
struct cairn_needs {
	_Atomic unsigned refs;
	bool complete; /* every manifest below it was here and was read */
	size_t n;
	struct cairn_need list[];
};

struct cairn_needs *cairn_needs_new(size_t n); /* with one reference, list zeroed */
struct cairn_needs *cairn_needs_ref(struct cairn_needs *needs);
void cairn_needs_unref(struct cairn_needs *needs); /* NULL is fine */

struct cairn_version {
	char *name;
	struct cairn_digest root;
	int64_t first_ns, last_ns; /* store time: when the name first and last stood for it */
	int64_t first_real_ns, last_real_ns; /* likewise in real time, by the clock of then */
	struct cairn_needs *needs;	     /* NULL: not known yet */
};

/* The name stands for root, now. needs (may be NULL) replaces what was known before.
 * Borrows all. Memory only, written back soon. Errors: INVALID_ARGUMENT (limits of name and needs),
 * RESOURCE_EXHAUSTED (CAIRN_VERSIONS_MAX). */
CAIRN_CHECKED enum cairn_code cairn_cache_see_version(struct cairn_cache *cache, const char *name,
						      const struct cairn_digest *root,
						      struct cairn_needs *needs,
						      struct cairn_err *err);

/* What root needs is known better. Unknown versions are fine. Memory only. */
void cairn_cache_set_needs(struct cairn_cache *cache, const char *name,
			   const struct cairn_digest *root, struct cairn_needs *needs);

/* All versions of the name (NULL: of all names), by name, then the one that was current last first.
 * Copied in steps: what comes or goes meanwhile may be among them or not.
 * Returns their number; *ret is freed with cairn_versions_free. Memory only. */
size_t cairn_cache_versions(struct cairn_cache *cache, const char *name,
			    struct cairn_version **ret);
void cairn_versions_free(struct cairn_version *list, size_t n);

/* How many versions and pins there are now. Memory only. */
void cairn_cache_count_history(struct cairn_cache *cache, uint64_t *ret_versions,
			       uint64_t *ret_pins);

/* Unknown ones are fine. Memory only, written back soon. */
void cairn_cache_forget_version(struct cairn_cache *cache, const char *name,
				const struct cairn_digest *root);

/* ---- pins */

struct cairn_pin {
	char *target;
	int64_t since_ns, until_ns; /* store time; until 0: for ever */
};

/* Pin the target from now on, in place of an earlier pin of it. for_ns 0: for ever. Durable when it
 * returns. Blocks. Errors: INVALID_ARGUMENT, RESOURCE_EXHAUSTED (CAIRN_PINS_MAX, or a full disk),
 * INTERNAL, DEADLINE_EXCEEDED. Then it is as if nobody had asked. */
CAIRN_CHECKED enum cairn_code cairn_cache_pin(struct cairn_cache *cache, const char *target,
					      int64_t for_ns, struct cairn_err *err);

/* *ret_was says whether it was pinned. Durable when it returns. Blocks. Errors: as above. */
CAIRN_CHECKED enum cairn_code cairn_cache_unpin(struct cairn_cache *cache, const char *target,
						bool *ret_was, struct cairn_err *err);

/* All pins whose time is not over, by target; those that are over are forgotten. Memory only. */
size_t cairn_cache_pins(struct cairn_cache *cache, struct cairn_pin **ret);
void cairn_pins_free(struct cairn_pin *list, size_t n);

#endif
