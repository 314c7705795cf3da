/* Explain: why a blob is here, and how to get a damaged one back. */
#ifndef CAIRN_PLUGIN_EXPLAIN_H
#define CAIRN_PLUGIN_EXPLAIN_H

#include "cairn.pb-c.h"
#include "plugin/plugin.h"
#include "plugin/recorders.h"

#define CAIRN_REMEDIES_MAX 16

/* The handler of cairn.v1.Cairn/Explain. */
enum cairn_code cairn_explain(struct cairn_admin_service *service, struct cairn_call *call,
			      const Cairn__V1__ExplainRequest *request,
			      Cairn__V1__ExplainResponse *response, struct cairn_err *err);

/* Commands, to be run in turn, that make containerd fetch the blob again. recorders: who records
 * it; known false: that could not be found out. The strings live as long as the call. Fills at most
 * CAIRN_REMEDIES_MAX; returns their number. */
size_t cairn_remedies(struct cairn_admin_service *service, struct cairn_call *call,
		      const struct cairn_digest *digest, const struct cairn_recorder *recorders,
		      size_t n, bool known, char *ret[static CAIRN_REMEDIES_MAX]);

/* A blob as its message, in the call's memory. */
Cairn__V1__Blob *cairn_explain_blob(struct cairn_call *call, const struct cairn_blob_info *info);

#endif
