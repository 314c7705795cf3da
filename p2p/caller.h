/* Callers of services on the peers' port: their TLS ends here, and what is inside goes on to
 * whoever serves HTTP/2 (gRPC, which this folder does not know), over a socket pair. */
#ifndef CAIRN_P2P_CALLER_H
#define CAIRN_P2P_CALLER_H

#include "p2p/p2p.h"
#include "p2p/stream.h"

#define CAIRN_CALLER_FIRST_MS 5000  /* until the first byte comes */
#define CAIRN_CALLER_IDLE_MS 120000 /* without a byte in either direction */
#define CAIRN_CALLER_STALL_MS 30000 /* while the caller takes nothing of what is for it */

/* Serve the caller, whose handshake is over, until it ends, the service ends it, it is too slow, or
 * it is interrupted. Blocks. from: its address. Errors: it could not be served at all. */
CAIRN_CHECKED enum cairn_code cairn_caller_serve(struct cairn_stream *stream,
						 const struct cairn_callers *callers,
						 const char *from, struct cairn_err *err);

#endif
