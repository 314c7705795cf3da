/* The swarm of a daemon, as it is configured. */
#ifndef CAIRN_CMD_CAIRND_SWARM_H
#define CAIRN_CMD_CAIRND_SWARM_H

#include "config/config.h"
#include "plugin/plugin.h"

struct cairnd_swarm {
	struct cairn_share *share;    /* NULL: everything may go to others */
	struct cairn_swarm *swarm;    /* NULL: p2p.listen is "" */
	struct cairn_callers callers; /* whom it is to hand on to others */
	bool tls;
	struct cairn_fleet_node *node; /* what other nodes may ask of this one; NULL: nothing */
};

/* What may be shared: before anything tells of what is here. */
CAIRN_CHECKED enum cairn_code cairnd_share_new(struct cairnd_swarm *s,
					       const struct cairn_config *config,
					       struct cairn_cache *cache, struct cairn_rpc *rpc,
					       struct cairn_err *err);
/* download: what p2p.download_limit says, borrowed until the stop. */
CAIRN_CHECKED enum cairn_code cairnd_swarm_start(struct cairnd_swarm *s,
						 const struct cairn_config *config,
						 struct cairn_cache *cache, struct cairn_rpc *rpc,
						 struct cairn_rate *download,
						 struct cairn_err *err);

/* What may change while it runs (SIGHUP). All of these do nothing where there is no swarm. */
void cairnd_swarm_set_limits(struct cairnd_swarm *s, const struct cairn_config *config);
/* Errors: as cairn_swarm_set_peers; then the old ones stay. */
CAIRN_CHECKED enum cairn_code cairnd_swarm_set_peers(struct cairnd_swarm *s,
						     const struct cairn_config *config,
						     struct cairn_err *err);

/* Answer other nodes, if that is configured; what is not, opts says. Until the stop. */
void cairnd_fleet_start(struct cairnd_swarm *s, const struct cairn_config *config,
			struct cairn_fleet_node_opts *opts);
/* Before preheat ends. */
void cairnd_fleet_stop(struct cairnd_swarm *s);

/* The certificates, again from their files. Logs what comes of it. */
void cairnd_swarm_reload(struct cairnd_swarm *s);

#endif
