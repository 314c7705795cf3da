#include "cmd/cairnd_swarm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"

static const char *const *list(const struct cairn_config_list *from)
{
	return (const char *const *)from->items;
}

enum cairn_code cairnd_share_new(struct cairnd_swarm *s, const struct cairn_config *config,
				 struct cairn_cache *cache, struct cairn_rpc *rpc,
				 struct cairn_err *err)
{
	const struct cairn_share_opts opts = {
		.cache = cache,
		.rpc = rpc,
		.containerd = config->containerd.address,
		.allow = list(&config->p2p.share.allow),
		.n_allow = config->p2p.share.allow.n,
		.deny = list(&config->p2p.share.deny),
		.n_deny = config->p2p.share.deny.n,
	};
	if (config->p2p.listen[0] == '\0') return CAIRN_OK;
	return cairn_share_new(&opts, &s->share, err);
}

static void take_name(const struct cairn_config *config, char *name, size_t cap)
{
	snprintf(name, cap, "%s", config->node.name);
	if (name[0] == '\0' && gethostname(name, cap) != 0) snprintf(name, cap, "unnamed");
	name[cap - 1] = '\0';
}

enum cairn_code cairnd_swarm_start(struct cairnd_swarm *s, const struct cairn_config *config,
				   struct cairn_cache *cache, struct cairn_rpc *rpc,
				   struct cairn_rate *download, struct cairn_err *err)
{
	char name[256];
	if (config->p2p.listen[0] == '\0') return CAIRN_OK;
	take_name(config, name, sizeof(name));
	const struct cairn_swarm_opts opts = {
		.rpc = rpc,
		.cache = cache,
		.name = name,
		.listen = config->p2p.listen,
		.advertise = config->p2p.advertise,
		.tls = {config->p2p.tls.ca, config->p2p.tls.cert, config->p2p.tls.key},
		.etcd = config->p2p.directory_etcd,
		.peers = list(&config->p2p.peers),
		.n_peers = config->p2p.peers.n,
		.etcd_opts = {.endpoints = list(&config->p2p.etcd.endpoints),
			      .n_endpoints = config->p2p.etcd.endpoints.n,
			      .prefix = config->p2p.etcd.prefix,
			      .ca = config->p2p.etcd.ca,
			      .cert = config->p2p.etcd.cert,
			      .key = config->p2p.etcd.key},
		.upload_limit = config->p2p.upload_limit,
		.download = download,
		.decide_ms = config->p2p.decide,
		.stall_ms = config->p2p.stall,
		.min_rate = config->p2p.min_rate,
		.max_grants = config->p2p.max_grants,
		.may_share = s->share != NULL ? cairn_share_may : NULL,
		.may_share_arg = s->share,
		.calls = !config->p2p.fleet_off,
		.callers = s->callers,
	};
	s->tls = config->p2p.tls.cert[0] != '\0';
	enum cairn_code rc = cairn_swarm_start(&opts, &s->swarm, err);
	if (rc) return cairn_err_wrap(err, "p2p");
	cairn_share_tell(s->share, s->swarm);
	return CAIRN_OK;
}

void cairnd_swarm_set_limits(struct cairnd_swarm *s, const struct cairn_config *config)
{
	const struct cairn_swarm_limits limits = {
		.upload_limit = config->p2p.upload_limit,
		.decide_ms = config->p2p.decide,
		.stall_ms = config->p2p.stall,
		.min_rate = config->p2p.min_rate,
		.max_grants = config->p2p.max_grants,
	};
	cairn_swarm_set_limits(s->swarm, &limits);
}

enum cairn_code cairnd_swarm_set_peers(struct cairnd_swarm *s, const struct cairn_config *config,
				       struct cairn_err *err)
{
	return cairn_swarm_set_peers(s->swarm, list(&config->p2p.peers), config->p2p.peers.n, err);
}

void cairnd_fleet_start(struct cairnd_swarm *s, const struct cairn_config *config,
			struct cairn_fleet_node_opts *opts)
{
	char name[256];
	const struct cairn_config_map *map = &config->node.labels;
	if (s->swarm == NULL || config->p2p.fleet_off) return;
	struct cairn_fleet_label *labels = calloc(map->n + 1, sizeof(*labels));
	if (labels == NULL) abort();
	for (size_t i = 0; i < map->n; i++) {
		labels[i] = (struct cairn_fleet_label){map->items[i].key, map->items[i].value};
	}
	take_name(config, name, sizeof(name));
	opts->name = name;
	opts->labels = labels;
	opts->n_labels = map->n;
	s->node = cairn_fleet_node_new(opts);
	free(labels);
	cairn_swarm_answer(s->swarm, cairn_fleet_node_answer, s->node);
}

void cairnd_fleet_stop(struct cairnd_swarm *s)
{
	if (s->node == NULL) return;
	cairn_swarm_answer(s->swarm, NULL, NULL);
	cairn_fleet_node_free(cairn_steal(&s->node));
}

void cairnd_swarm_reload(struct cairnd_swarm *s)
{
	struct cairn_err err;
	if (s->swarm == NULL || !s->tls) return;
	if (cairn_swarm_reload(s->swarm, &err) == CAIRN_OK) {
		cairn_log(CAIRN_LOG_INFO, "certificates_reloaded",
			  CAIRN_STR("address", cairn_swarm_address(s->swarm)));
	} else {
		cairn_log(CAIRN_LOG_ERROR, "certificates_kept", CAIRN_ERRF(&err));
	}
}
