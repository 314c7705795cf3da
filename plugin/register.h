/* Make images that are in the cache known to containerd, as if it had pulled them: records of their
 * content, then of the image. So a pod whose imagePullPolicy is IfNotPresent starts while the
 * registry is down.
 *
 * These are the only calls that change anything of containerd's. Each of them makes containerd call
 * us back (Info, Write), so they are made from a job's thread, never from a handler: one that
 * containerd waits for would wait for itself. */
#ifndef CAIRN_PLUGIN_REGISTER_H
#define CAIRN_PLUGIN_REGISTER_H

#include "cache/cache.h"
#include "oci/oci.h"
#include "rpc/rpc.h"

struct cairn_register {
	struct cairn_cache *cache;
	struct cairn_channel *channel; /* to containerd */
	const char *ns;
	const struct cairn_reference *ref; /* where the image came from */
	const char *name;		   /* of the image record */
	bool (*go_on)(void *arg);	   /* asked between two blobs */
	void *arg;
};

/* Of an index, what is here of it. What containerd has already stays, and gets the labels by which
 * its garbage collection follows an image. An image record of that name is pointed to root.
 * Errors: containerd's; NOT_FOUND (a blob went meanwhile), CANCELLED. Blocks. */
CAIRN_CHECKED enum cairn_code cairn_register_image(const struct cairn_register *what,
						   const struct cairn_digest *root,
						   struct cairn_err *err);

#endif
