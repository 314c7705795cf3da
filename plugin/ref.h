/* The refs that containerd gives its ingests.
 *
 * containerd's metadata store calls its content plugin with <namespace>/<sequence>/<client ref>
 * (metadata/snapshot.go, createKey). The client ref of a pull is
 *     (index|manifest|layer|config|attestation|unknown) "-" [name "@"] digest
 * (remotes/handlers.go, MakeRefKey) and promises that the ingest becomes that digest. Any other ref
 * promises nothing, even if a digest is part of it: `images convert` names what it makes after what
 * it makes it from. */
#ifndef CAIRN_PLUGIN_REF_H
#define CAIRN_PLUGIN_REF_H

#include <stdbool.h>
#include <stddef.h>

#include "base/digest.h"

struct cairn_ref {
	const char *owner; /* the namespace, not terminated; NULL: the ref has none */
	size_t owner_len;
	const char *client;	  /* what the client chose; terminated with the ref */
	struct cairn_digest want; /* the digest the client ref stands for; alg 0: none */
	bool manifest;		  /* ... and that is a manifest or an index */
};

/* Never fails: whatever has no such shape is a client ref without a namespace. ret borrows ref. */
void cairn_ref_parse(const char *ref, struct cairn_ref *ret);

/* The same of a client ref alone, as leases name their ingests: a slash is part of it. */
void cairn_ref_parse_client(const char *client, struct cairn_ref *ret);

/* Go clients refuse a whole message for one string that is not UTF-8, and containerd's GC reads
 * refs and labels back from us: what is not UTF-8 must not be stored. Spec: RFC 3629. */
bool cairn_ref_is_utf8(const char *s);

#endif
