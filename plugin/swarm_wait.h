/* Waiting for the swarm, in a handler or on a thread: not for ever.
 *
 * The directory decides first (p2p.decide bounds that, but for the first seconds after a start).
 * Then it is waited until the blob is here, is granted to us, or the swarm gives it up; until
 * nothing came for a minute; or, once bytes come, until they come slower than min_rate. Where
 * another pull on this node is what gets the bytes, it is left after stall_ms: nobody else may be
 * asked for them. */
#ifndef CAIRN_PLUGIN_SWARM_WAIT_H
#define CAIRN_PLUGIN_SWARM_WAIT_H

#include "cache/cache.h"
#include "p2p/p2p.h"
#include "rpc/rpc.h"

struct cairn_swarm_wait {
	struct cairn_swarm *swarm;
	struct cairn_cache *cache;
	const struct cairn_digest *digest;
	uint64_t size;
	int64_t stall_ms;
	uint64_t min_rate;

	/* On a thread only. */
	bool (*go_on)(void *arg); /* asked several times a second */
	void (*progress)(void *arg, uint64_t done);
	void *arg;
};

/* Returns HERE, GRANTED, FAILED (err is set: CANCELLED if the call is gone, go_on said no, or the
 * server drains; ABORTED if it was not worth it; else why the swarm gave it up). The want is the
 * caller's to release, whatever comes of it. */
enum cairn_want_state cairn_swarm_wait_in_call(const struct cairn_swarm_wait *wait,
					       struct cairn_want *want, struct cairn_call *call,
					       struct cairn_err *err);
enum cairn_want_state cairn_swarm_wait_on_thread(const struct cairn_swarm_wait *wait,
						 struct cairn_want *want, struct cairn_err *err);

#endif
