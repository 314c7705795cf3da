/* Values of ours as the messages of proto/wire.proto, in the call's memory. */
#ifndef CAIRN_PLUGIN_MESSAGE_H
#define CAIRN_PLUGIN_MESSAGE_H

#include <stdint.h>

#include "cache/cache.h"
#include "rpc/rpc.h"
#include "wire.pb-c.h"

Cairn__Wire__Timestamp *cairn_message_time(struct cairn_call *call, int64_t ns);

/* "alg:hex"; "" for no digest. */
char *cairn_message_digest(struct cairn_call *call, const struct cairn_digest *digest);

/* Copies; *ret_n is the number of entries, and NULL is returned for none. */
Cairn__Wire__Label **cairn_message_labels(struct cairn_call *call,
					  const struct cairn_labels *labels, size_t *ret_n);

#endif
