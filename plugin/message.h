/* Values of ours as the messages of proto/wire.proto, in the call's memory; and, where there is no
 * call, malloced, for a message that is freed as one of protobuf-c's. */
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

/* ---- malloced */
char *cairn_message_text(const char *text);
Cairn__Wire__Timestamp *cairn_message_new_time(int64_t ns); /* NULL for 0 */

/* 0 for NULL, and for what is no time of ours. */
int64_t cairn_message_ns(const Cairn__Wire__Timestamp *ts);

#endif
