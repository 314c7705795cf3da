/* The first frame of either side: what is in it, and what is refused. Pure. Threads: immutable. */
#ifndef CAIRN_P2P_HELLO_H
#define CAIRN_P2P_HELLO_H

#include <stdint.h>

#include "p2p/conn.h"
#include "peer.pb-c.h"

/* Fill msg, which borrows from own. */
void cairn_hello_fill(const struct cairn_hello *own, Cairn__Peer__V1__Hello *msg);

/* What the other said, checked: its address is one, its name can be shown, its instance is an
 * instance and not ours, and there is a version that both speak. Errors, in words that are meant
 * for both sides: FAILED_PRECONDITION, ABORTED (it is ours). */
CAIRN_CHECKED enum cairn_code cairn_hello_take(const Cairn__Peer__V1__Hello *msg,
					       const struct cairn_hello *own,
					       struct cairn_hello *ret, uint32_t *ret_version,
					       struct cairn_err *err);

#endif
