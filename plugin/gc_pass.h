/* One garbage collection, from what is known to what was done: holds, decision, execution. Has no
 * thread and asks nobody: whoever calls it brings containerd's listing. */
#ifndef CAIRN_PLUGIN_GC_PASS_H
#define CAIRN_PLUGIN_GC_PASS_H

#include "cache/evict.h"
#include "cache/history.h"
#include "plugin/holds.h"
#include "plugin/listing.h"
#include "plugin/plugin.h"

struct cairn_gc_pass;

struct cairn_gc_pass_opts {
	struct cairn_cache *cache;
	const struct cairn_clock *clock;
	const struct cairn_gc_rules *rules;
	struct cairn_listing *listing; /* NULL: none */
	bool sure;
	enum cairn_gc_trigger trigger;
	bool dry_run;
	const char *prune; /* NULL, or an image's name */
	int64_t prune_keep;
	uint64_t make_room; /* bytes to free at least */
	/* Asked between two steps; returns false to stop early. NULL: always on. */
	bool (*go_on)(void *arg);
	void *arg;
	/* Told of each blob (blobs[i]) that is gone, soon after. NULL: nobody is. */
	void (*evicted)(void *arg, const struct cairn_gc_pass *pass, size_t i);
	void *evicted_arg;
};

struct cairn_gc_pass {
	struct cairn_holds holds;
	struct cairn_gc_blob *blobs;
	size_t n_blobs;
	struct cairn_gc_plan plan;
	bool *gone; /* blobs[i] was evicted; in a dry run, would be */
	int64_t now_ns;
	struct cairn_gc_disk disk;     /* when it was decided */
	bool pressed;		       /* the marks asked for to_free, or for a part of it */
	struct cairn_listing *listing; /* counted; NULL: none */
	struct cairn_gc_summary summary;
};

/* Decisions name what is in the listing: the pass holds a reference to it. Blocks. */
void cairn_gc_pass_run(const struct cairn_gc_pass_opts *opts, struct cairn_gc_pass *ret);
void cairn_gc_pass_fini(struct cairn_gc_pass *pass);

/* The decision on one blob, or NULL. */
const struct cairn_gc_decision *cairn_gc_pass_find(const struct cairn_gc_pass *pass,
						   const struct cairn_digest *digest);

/* The images of a listing are what their names stand for now: remember it. */
void cairn_gc_remember_images(struct cairn_cache *cache, const struct cairn_listed_image *images,
			      size_t n);

#endif
