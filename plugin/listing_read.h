/* Making a listing from containerd's answers.
 *
 * All of them are repeated messages, in field 1, so one reader does for all: it calls the function
 * for each, which reads the fields that are of interest where they lie, and allocates only what is
 * kept: not for labels, and not for a container's spec.
 *
 * A string that cannot be what it should be (a digest of an algorithm that cannot be here, a time
 * that is none) is left out: it names nothing that we hold. What is no protobuf fails the listing.
 *
 * Threads: owner thread only. */
#ifndef CAIRN_PLUGIN_LISTING_READ_H
#define CAIRN_PLUGIN_LISTING_READ_H

#include "plugin/listing.h"
#include "rpc/rpc.h"
#include "rpc/wire.h"

#define CAIRN_NAMESPACES_MAX 4096
#define CAIRN_LISTED_NAME_MAX 32768	    /* bytes; a key of containerd's database has no more */
#define CAIRN_LISTING_TEXT_MAX (256u << 20) /* bytes of all names of one listing */

/* Names of namespaces. Starts zeroed. */
struct cairn_names {
	char **list;
	size_t n;
};

void cairn_names_fini(struct cairn_names *names);
bool cairn_names_has(const struct cairn_names *names, const char *name);

/* A listing in the making. Starts zeroed but for listing. */
struct cairn_listing_maker {
	struct cairn_listing *listing; /* borrowed */
	const char *ns;		       /* borrowed: whose answer is read */
	size_t lease;		       /* index of the one whose resources are read */

	/* private */
	size_t images_cap, leases_cap, containers_cap, content_cap;
	size_t resources, text_bytes;
};

/* One message of an answer, read where it lies. */
struct cairn_listed_item {
	struct cairn_wire_reader fields;
	struct cairn_span *room; /* n_room spans, for one message in it at a time */
	size_t n_room;
};

typedef enum cairn_code cairn_listed_item_fn(void *arg, struct cairn_listed_item *item,
					     struct cairn_err *err);

/* Call fn for each item. Errors: INVALID_ARGUMENT (no protobuf), fn's. */
CAIRN_CHECKED enum cairn_code cairn_listing_read(const struct cairn_msg *msg,
						 cairn_listed_item_fn *fn, void *arg,
						 struct cairn_err *err);

/* What to call it with. arg: struct cairn_names for the first, struct cairn_listing_maker for the
 * others. Errors: INVALID_ARGUMENT, RESOURCE_EXHAUSTED (a limit of this header, or listing.h). */
cairn_listed_item_fn cairn_listing_take_namespace;
cairn_listed_item_fn cairn_listing_take_content;
cairn_listed_item_fn cairn_listing_take_image;
cairn_listed_item_fn cairn_listing_take_lease;
cairn_listed_item_fn cairn_listing_take_resource;
cairn_listed_item_fn cairn_listing_take_container;

/* Forget the lease at index: the last one takes its place. */
void cairn_listing_drop_lease(struct cairn_listing_maker *maker, size_t index);

/* Nanoseconds since 1970 of a time as RFC 3339 has it, as strict as containerd is in that; 0: it is
 * none, or too far in the future for this number. What is not after 1970 is 1: long ago. */
int64_t cairn_listing_parse_time(const char *text);

#endif
