/* Other nodes by way of the swarm. */
#include "plugin/plugin.h"

static size_t peers(void *arg, struct cairn_peer_status *ret, size_t max)
{
	return cairn_swarm_peers(arg, ret, max);
}

static enum cairn_code call(void *arg, const char *address, const char *name,
			    const uint8_t *request, size_t n, int64_t timeout_ms, uint8_t **ret,
			    size_t *ret_n, bool *ret_answered, struct cairn_err *err)
{
	return cairn_swarm_call(arg, address, name, request, n, timeout_ms, ret, ret_n,
				ret_answered, err);
}

static void health(void *arg, char ret[static 256])
{
	cairn_swarm_health(arg, ret);
}

void cairn_fleet_link_swarm(struct cairn_swarm *swarm, struct cairn_fleet_link *ret)
{
	*ret = (struct cairn_fleet_link){
		.arg = swarm, .peers = peers, .call = call, .health = health};
}
