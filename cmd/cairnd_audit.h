/* One line of log for each call of cairn's own service: who asked for what, and what came of it. */
#ifndef CAIRN_CMD_CAIRND_AUDIT_H
#define CAIRN_CMD_CAIRND_AUDIT_H

#include "rpc/rpc.h"

/* who: as whom the caller was known; from: the address it called from, NULL: the local socket.
 * Of calls on the local socket, those of the content service are none of an admin, and those that
 * tools repeat (Status, ListJobs, GetJob, ListPeers) are lines of level debug, unless they fail.
 * Threads: any. */
void cairnd_audit(const char *who, const char *from, const struct cairn_call_end *end);

/* For cairn_rpc_server_watch of the local socket's server. Its file's mode says who can have
 * called: the user that runs cairnd, or root. */
void cairnd_audit_local(void *arg, const struct cairn_call_end *end);

#endif
