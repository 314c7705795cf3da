/* What containerd said, all of it, at one time: immutable once it is complete, and counted, since
 * the view of containerd replaces it while others still look at it. */
#ifndef CAIRN_PLUGIN_LISTING_H
#define CAIRN_PLUGIN_LISTING_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/digest.h"
#include "base/err.h"
#include "base/own.h"

#define CAIRN_RECORDS_MAX (1u << 22) /* digests of one listing */
#define CAIRN_IMAGES_MAX (1u << 18)
#define CAIRN_LEASES_MAX (1u << 16)
#define CAIRN_LEASE_RESOURCES_MAX (1u << 20) /* of all leases together */
#define CAIRN_CONTAINERS_MAX (1u << 18)

/* Digests, compact: sha256 costs 32 bytes each. Starts zeroed. Add, then sort, then ask. */
struct cairn_digest_set {
	struct cairn_digest_keys {
		uint8_t *keys;
		size_t n, cap;
	} by_alg[2];
};

/* Errors: RESOURCE_EXHAUSTED (CAIRN_RECORDS_MAX). */
CAIRN_CHECKED enum cairn_code cairn_digest_set_add(struct cairn_digest_set *set,
						   const struct cairn_digest *digest,
						   struct cairn_err *err);
void cairn_digest_set_sort(struct cairn_digest_set *set); /* and make each unique */
bool cairn_digest_set_has(const struct cairn_digest_set *set, const struct cairn_digest *digest);
size_t cairn_digest_set_size(const struct cairn_digest_set *set);
void cairn_digest_set_fini(struct cairn_digest_set *set);

struct cairn_listed_image {
	char *ns, *name;
	struct cairn_digest target; /* alg 0: of an algorithm that cannot be here */
};

struct cairn_listed_lease {
	char *ns, *id;
	bool flat;		      /* it keeps what it names, not what that needs */
	int64_t expires_ns;	      /* real time; 0: never, or not understood */
	struct cairn_digest *content; /* its resources: of type content, and those that the refs */
	size_t n;		      /* of its resources of type ingests stand for */
};

struct cairn_listed_container {
	char *ns, *id, *image; /* image: the name it was made from; "": none */
	int64_t created_ns;    /* real time; 0: not said */
};

/* Whether the containerd that answered is the one that uses us (docs/design.md). */
enum cairn_listing_client {
	CAIRN_CLIENT_UNKNOWN, /* the process at the address is not visible from here */
	CAIRN_CLIENT_OTHER,   /* it has not connected to us */
	CAIRN_CLIENT_OURS,
};

/* One complete listing: all that is recorded in any namespace at some moment after begun. */
struct cairn_listing {
	_Atomic unsigned refs;
	int64_t begun_boot_ns, begun_real_ns;
	enum cairn_listing_client client; /* only OURS may release what it does not record */
	struct cairn_digest_set recorded; /* sorted */
	struct cairn_listed_image *images;
	size_t n_images;
	struct cairn_listed_lease *leases;
	size_t n_leases;
	struct cairn_listed_container *containers;
	size_t n_containers;
};

struct cairn_listing *cairn_listing_new(void); /* with one reference, empty */
struct cairn_listing *cairn_listing_ref(struct cairn_listing *listing);
void cairn_listing_unref(struct cairn_listing *listing); /* NULL is fine */

/* Parts of a listing that is being made, or of none. */
void cairn_listed_images_free(struct cairn_listed_image *images, size_t n);
void cairn_listed_lease_fini(struct cairn_listed_lease *lease);

#endif
