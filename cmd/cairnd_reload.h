/* SIGHUP: what a running daemon takes from its configuration when that is read again. */
#ifndef CAIRN_CMD_CAIRND_RELOAD_H
#define CAIRN_CMD_CAIRND_RELOAD_H

#include "cmd/cairnd_swarm.h"

/* Who is told; all of it is borrowed for the call. */
struct cairnd_reload {
	const char *path;	     /* of the configuration */
	struct cairn_config *config; /* what runs; afterwards with what was taken */
	struct cairn_gc *gc;
	struct cairn_runtime *runtime;
	struct cairnd_swarm *p2p;
	struct cairn_content_service *content;
	struct cairn_preheat *preheat;
	struct cairn_rate *download;
};

struct cairn_gc_rules cairnd_gc_rules(const struct cairn_config *config);
/* Between listings of containerd. Each pass of garbage collection has it listed: so this is for
 * when there is none. */
int64_t cairnd_runtime_interval(const struct cairn_config *config);

/* Open the log of garbage collection anew, read the certificates again, and the configuration: of
 * that all values that may change, or, if anything in it is wrong, none. Logs what comes of it, a
 * line for each key that differs. Threads: the one that started the parts. */
void cairnd_reload(const struct cairnd_reload *r);

#endif
