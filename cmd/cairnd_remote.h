/* Cairn's own service for admins of other machines: what is called on the port for other nodes.
 *
 * Here, and nowhere else, is decided who may call what. The connection's certificate was checked by
 * p2p/; this compares its names with p2p.admins. Each connection has a gRPC server of its own, with
 * the few services that are to be had there: so a call's caller is that of its server, which
 * nothing can confuse with another (gRPC's own name of a peer, "fd:7", is that of the next
 * connection, too), and the content service cannot be called, because it is not there.
 *
 * Threads: each connection has its own; start and stop are the main thread's. */
#ifndef CAIRN_CMD_CAIRND_REMOTE_H
#define CAIRN_CMD_CAIRND_REMOTE_H

#include <pthread.h>
#include <sys/queue.h>

#include "config/config.h"
#include "p2p/p2p.h"
#include "plugin/plugin.h"
#include "rpc/rpc.h"

#define CAIRND_REMOTE_STRANGERS_MAX 4 /* connections of certificates that are no admin's */

struct cairnd_session;

struct cairnd_remote {
	/* fixed once begun */
	struct cairn_rpc *rpc;
	const struct cairn_config_list *admins;
	struct cairn_admin_service *admin;
	struct cairn_health_service *health;

	pthread_mutex_t mu;
	pthread_cond_t changed;
	/* guarded by mu */
	bool serving; /* between begin and stop */
	size_t opening, strangers;
	LIST_HEAD(, cairnd_session) sessions;
	int64_t second_ns; /* in which lines about strangers are counted */
	unsigned lines, unlogged;
};

/* Before the swarm starts: what it is to be told. Without admins in the configuration: nothing, and
 * then nobody can call. */
void cairnd_remote_init(struct cairnd_remote *remote, const struct cairn_config *config,
			struct cairn_callers *ret);
/* All is there that a call may touch; services are borrowed until stop has returned. */
void cairnd_remote_begin(struct cairnd_remote *remote, struct cairn_rpc *rpc,
			 struct cairn_admin_service *admin, struct cairn_health_service *health);
/* Nothing new is served, and what runs ends, within timeout_ms by itself, then cancelled.
 * Afterwards no call runs. Also without begin. */
void cairnd_remote_stop(struct cairnd_remote *remote, int64_t timeout_ms);
/* When the swarm is gone, with all its connections. */
void cairnd_remote_fini(struct cairnd_remote *remote);

#endif
