/* A blob that containerd records, and that was found missing or damaged when somebody read it, is
 * had from other nodes again before that Read fails. */
#ifndef CAIRN_PLUGIN_REPAIR_H
#define CAIRN_PLUGIN_REPAIR_H

#include "plugin/plugin.h"

/* Returns whether the blob is good again. Those who ask at the same time for the same blob wait for
 * one repair, and one line of the log tells how it ended. Bounded as any wait for the swarm is
 * (plugin/swarm_wait.h). In a handler. */
bool cairn_repair(struct cairn_content_service *service, struct cairn_call *call,
		  const struct cairn_digest *digest);

#endif
