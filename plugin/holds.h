/* Who claims what: from containerd's listing, the history of names and the pins to the holds that
 * the policy (cache/gc.h) weighs. Reads manifests; asks nobody. */
#ifndef CAIRN_PLUGIN_HOLDS_H
#define CAIRN_PLUGIN_HOLDS_H

#include "cache/evict.h"
#include "cache/history.h"
#include "plugin/listing.h"

/* The image records of a listing, of all namespaces, by name. Borrows the listing (NULL: none). */
struct cairn_image_index {
	const struct cairn_listed_image **list;
	size_t n;
};

void cairn_image_index_init(struct cairn_image_index *index, const struct cairn_listing *listing);
void cairn_image_index_fini(struct cairn_image_index *index);
/* Does an image record have this name, and does it stand for root (NULL: for anything)? */
bool cairn_image_index_has(const struct cairn_image_index *index, const char *name,
			   const struct cairn_digest *root);

struct cairn_holds_input {
	struct cairn_cache *cache;
	const struct cairn_listing *listing; /* NULL: nobody answered, or there is nobody to ask */
	bool sure;		  /* containerd's answer is complete, or there is nobody to ask */
	int64_t real_ns, now_ns;  /* now, in real and in store time */
	int64_t keep_versions;	  /* of each name */
	int64_t keep_versions_ns; /* ... for so long after its image record is gone */
	const char *prune;	  /* NULL, or the name whose versions beyond prune_keep are to go */
	int64_t prune_keep;
};

struct cairn_holds {
	struct cairn_gc_hold *list;
	size_t n, cap;
	char **texts; /* what the holds name; owned */
	size_t n_texts, cap_texts;
	struct cairn_version *versions; /* all, by name, newest first */
	size_t n_versions;
	bool *kept;   /* versions[i] is one of those kept for roll-back */
	bool *pruned; /* versions[i] is to go */
	bool *found;  /* by versions[i] it is known what a container, or a name's pin, needs */
	struct cairn_pin *pins;
	size_t n_pins;
	struct cairn_image_index images; /* as long as the listing lives */
};

void cairn_holds_build(const struct cairn_holds_input *in, struct cairn_holds *ret);
void cairn_holds_fini(struct cairn_holds *holds);

/* Is it a name whose versions are kept, as "repository:tag" is? Names with a digest, and the bare
 * digests by which CRI knows images, stand for one manifest for ever. */
bool cairn_name_moves(const char *name);

#endif
