/* One connection of somebody else's: the conversation as the server. */
#ifndef CAIRN_P2P_SERVE_H
#define CAIRN_P2P_SERVE_H

#include "p2p/swarm.h"

/* Until the connection ends, on its thread. */
void cairn_serve(struct cairn_swarm *swarm, struct cairn_conn *conn);

#endif
