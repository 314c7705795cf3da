/* Which of containerd's namespaces record a digest: asked of containerd, now.
 *
 * It answers from its own database and does not call us back. Never call this from inside the
 * content service: containerd may be waiting for that. */
#ifndef CAIRN_PLUGIN_RECORDERS_H
#define CAIRN_PLUGIN_RECORDERS_H

#include "base/digest.h"
#include "rpc/rpc.h"

#define CAIRN_RECORDERS_MAX 1024 /* namespaces asked */

struct cairn_recorder {
	const char *ns;
	const char *source; /* the repository it came from, "host/name"; NULL: not known */
};

/* channel NULL: nobody to ask. The list lives as long as the call.
 * Errors: UNAVAILABLE (no answer: says why). */
CAIRN_CHECKED enum cairn_code cairn_recorders_ask(struct cairn_call *call,
						  struct cairn_channel *channel,
						  const struct cairn_digest *digest,
						  struct cairn_recorder **ret, size_t *ret_n,
						  struct cairn_err *err);

#endif
