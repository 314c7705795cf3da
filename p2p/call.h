/* Calls: the server's side of one (p2p/p2p.h has the client's). */
#ifndef CAIRN_P2P_CALL_H
#define CAIRN_P2P_CALL_H

#include "p2p/swarm.h"
#include "peer.pb-c.h"

/* Answer it on that connection. False: the connection is over. */
bool cairn_call_answer(struct cairn_swarm *swarm, struct cairn_conn *conn,
		       const Cairn__Peer__V1__Call *call, int64_t timeout_ms);

#endif
