/* Image names, manifests and indexes: what is needed to follow an image from its name to its blobs.
 * Asks nobody, and keeps to 32 KiB of stack, so that it may be called on a fiber.
 * Threads: immutable. */
#ifndef CAIRN_OCI_OCI_H
#define CAIRN_OCI_OCI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/digest.h"
#include "base/err.h"
#include "base/own.h"

/* ---- references --------------------------------------------------------------------------------
 * Spec: the grammar of distribution's reference package; as containerd's clients use it, with
 * Docker's defaults: "busybox" is docker.io/library/busybox:latest. */

#define CAIRN_REFERENCE_MAX 1024 /* bytes of one, as given */

struct cairn_reference {
	char registry[256];	    /* host or host:port */
	char repository[256];	    /* path, without the registry */
	char tag[129];		    /* "": none */
	struct cairn_digest digest; /* alg 0: none */
};

/* A reference without tag and digest gets the tag "latest"; one with both keeps both (CRI names its
 * records by the digest alone then).
 * Stricter than distribution: a registry's host has no underscores, so "a_b.io/c" is refused (there
 * it is a name without a registry); a registry has at most 255 bytes, as a repository has; and the
 * id of an image (64 hex digits, or a digest alone) is no name.
 * Errors: INVALID_ARGUMENT (at which byte, counted from 1, and what is allowed there). */
CAIRN_CHECKED enum cairn_code cairn_reference_parse(const char *text, struct cairn_reference *ret,
						    struct cairn_err *err);

/* "registry/repository[:tag][@digest]", as containerd names its image records. */
const char *cairn_reference_format(const struct cairn_reference *ref,
				   char buf[static CAIRN_REFERENCE_MAX + 256]);

/* ---- manifests ---------------------------------------------------------------------------------
 * Spec: OCI image-spec manifest.md, image-index.md, descriptor.md; Docker's image manifest version
 * 2, schema 2, and its manifest list. */

#define CAIRN_MANIFEST_BYTES_MAX (4u << 20) /* as registries and containerd limit it */
#define CAIRN_MANIFEST_CHILDREN_MAX 4096    /* descriptors of one manifest or index */
#define CAIRN_MANIFEST_DEPTH_MAX 8	    /* indexes in indexes, for those who follow them */

enum cairn_media {
	CAIRN_MEDIA_OTHER = 0, /* a blob that has no children: layer, config, artifact */
	CAIRN_MEDIA_MANIFEST,
	CAIRN_MEDIA_INDEX,
};

/* By media type alone, written as in JSON (without parameters); NULL and unknown ones are OTHER.
 * The withdrawn artifact manifest is a MANIFEST; Docker's schema 1, which containerd refuses, is
 * OTHER. */
enum cairn_media cairn_media_of(const char *media_type);

struct cairn_descriptor {
	struct cairn_digest digest;
	uint64_t size;
	enum cairn_media media;				    /* by its media type */
	char media_type[128];				    /* longer ones are cut */
	char os[32], arch[32], variant[32], os_version[64]; /* of an index's entry; "": not said */
};

struct cairn_manifest {
	enum cairn_media media; /* MANIFEST or INDEX */
	char media_type[128];	/* as it says itself; "": it does not */
	size_t n;
	struct cairn_descriptor *children; /* config first, then layers (or blobs); or manifests */
	struct cairn_digest subject;	   /* what it is about, not what it needs; alg 0: none */
};

/* What a blob of the given bytes needs. What it is is told by its mediaType field, or, without one,
 * by its shape (a config and layers, or manifests). JSON that is neither (an image config, say) is
 * OK with media OTHER and no children: unknown types are kept whole.
 * Children stand as they are listed, also twice; layers that may not be distributed (with urls) are
 * children as any other. Fields that are null count as absent, and an absent config or list as
 * empty. A descriptor whose digest is of an unknown algorithm, or whose size is absent, not an
 * integer, negative or beyond CAIRN_BLOB_SIZE_MAX's 8 TiB, is an error, as are more than
 * CAIRN_MANIFEST_CHILDREN_MAX of them, and a document that is both a manifest and an index.
 * Bounded for any input: JSON may be nested 64 deep and hold 131,072 values, and takes at most some
 * 32 MiB of memory while it is read.
 * Errors: INVALID_ARGUMENT (not JSON, duplicate keys, too long, too deep, too many values, a field
 * of the wrong type: which). */
CAIRN_CHECKED enum cairn_code cairn_manifest_parse(const void *json, size_t len,
						   struct cairn_manifest *ret,
						   struct cairn_err *err);
void cairn_manifest_fini(struct cairn_manifest *manifest); /* children freed, all zero */

/* ---- platforms ---------------------------------------------------------------------------------
 * Spec: image-spec image-index.md, platform; normalised and matched as containerd does. */

struct cairn_platform {
	char os[32], arch[32], variant[32]; /* variant "": any */
};

#define CAIRN_PLATFORM_STR 100

/* "linux/arm64/v8", "linux/amd64"; "arm64" alone is of linux. Common other names (x86_64, aarch64,
 * armhf) become the usual ones. Errors: INVALID_ARGUMENT. */
CAIRN_CHECKED enum cairn_code cairn_platform_parse(const char *text, struct cairn_platform *ret,
						   struct cairn_err *err);
const char *cairn_platform_format(const struct cairn_platform *p,
				  char buf[static CAIRN_PLATFORM_STR]);

/* Of the machine that this runs on. */
void cairn_platform_node(struct cairn_platform *ret);

/* Does what is offered run where want is asked for? 0: no; else the higher, the better. An offer
 * without os and arch (as of an artifact) fits everywhere, worst. */
int cairn_platform_fits(const struct cairn_platform *want, const struct cairn_platform *offered);

/* What an image's config says that it runs on. All "" if it says nothing.
 * Errors: INVALID_ARGUMENT (no JSON). */
CAIRN_CHECKED enum cairn_code cairn_platform_of_config(const void *json, size_t len,
						       struct cairn_platform *ret,
						       struct cairn_err *err);

#endif
