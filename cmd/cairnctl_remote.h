/* cairnctl to a cairnd on another machine: --address and the certificates for it. */
#ifndef CAIRN_CMD_CAIRNCTL_REMOTE_H
#define CAIRN_CMD_CAIRNCTL_REMOTE_H

#include "cmd/cairnctl.h"

/* The options go together? 0, or the exit status, after having told what is wrong. */
CAIRN_CHECKED int ctl_remote_check(const struct ctl *ctl);

/* Read the files and make ctl->channel, on ctl->rpc. Connects to nobody yet.
 * Errors: INVALID_ARGUMENT (a file: which, and what is wrong with it). */
CAIRN_CHECKED enum cairn_code ctl_remote_open(struct ctl *ctl, struct cairn_err *err);

/* A call has failed with UNAVAILABLE: try by hand how far one gets, and if that is not far, say so
 * in *err, in words that help more than gRPC's. */
void ctl_remote_explain(const struct ctl *ctl, struct cairn_err *err);

#endif
