/* A blob that containerd records, and that was found missing or damaged when somebody read it, is
 * got again before that Read fails: from other nodes; and if none gives it, by a job (they are
 * preheat's: plugin/preheat.h) from the registry of an image that is known to need it, with the
 * credentials of registries.docker_config. The job goes on when nobody waits any more. A registry
 * that did not give it is not asked again for a while. */
#ifndef CAIRN_PLUGIN_REPAIR_H
#define CAIRN_PLUGIN_REPAIR_H

#include "plugin/plugin.h"

/* Returns whether the blob is good again. Those who ask at the same time for the same blob wait for
 * one repair, and one line of the log tells how it ended. Bounded: for the swarm as any wait is
 * (plugin/swarm_wait.h), for the job by CAIRN_PATIENCE_MS without a byte. In a handler. */
bool cairn_repair(struct cairn_content_service *service, struct cairn_call *call,
		  const struct cairn_digest *digest);

#endif
