#include "plugin/content_wait.h"

#include "base/log.h"
#include "plugin/fills.h"
#include "plugin/patience.h"
#include "plugin/swarm_wait.h"

/* ---- a fill of cairn's own --------------------------------------------------------------------*/

static void wait_for_fill(struct cairn_fill *fill, struct cairn_call *call,
			  const struct cairn_content_service *service)
{
	uint64_t done;
	struct cairn_patience p = {.stall_ms = service->stall_ms, .min_rate = service->min_rate};
	enum cairn_fill_state state = cairn_fill_look(fill, &done, NULL);
	cairn_patience_begin(&p, done, cairn_patience_now());
	while (state == CAIRN_FILL_RUNNING && !cairn_fill_follows(fill) &&
	       cairn_patience_lasts(&p, done, 0, cairn_patience_now())) {
		enum cairn_wake wake = cairn_call_wait(call, CAIRN_PATIENCE_LOOK_MS);
		if (wake == CAIRN_WAKE_GONE || wake == CAIRN_WAKE_DRAIN) return;
		state = cairn_fill_look(fill, &done, NULL);
	}
}

/* Returns whether there was one. */
static bool try_fill(const struct cairn_content_service *service, struct cairn_call *call,
		     const struct cairn_digest *want, uint64_t total)
{
	struct cairn_fill_watch watch;
	if (service->fills == NULL) return false;
	struct cairn_fill *fill = cairn_fills_find(service->fills, want, total);
	if (fill == NULL) return false;
	cairn_fill_watch(fill, &watch, call);
	wait_for_fill(fill, call, service);
	cairn_fill_unwatch(fill, &watch);
	cairn_fill_unref(fill);
	return true;
}

/* ---- the swarm --------------------------------------------------------------------------------*/

static void log_failure(const struct cairn_digest *digest, const struct cairn_err *err)
{
	char text[CAIRN_DIGEST_STR];
	cairn_log(CAIRN_LOG_DEBUG, "not_from_peers",
		  CAIRN_STR("digest", cairn_digest_format(digest, text)), CAIRN_ERRF(err));
}

/* A grant is returned, and nothing else: what else was waited for is over, or not worth it. */
static struct cairn_want *try_swarm(const struct cairn_content_service *service,
				    struct cairn_call *call, const struct cairn_digest *digest,
				    uint64_t total)
{
	struct cairn_err err;
	const struct cairn_swarm_wait wait = {.swarm = service->swarm,
					      .cache = service->cache,
					      .digest = digest,
					      .size = total,
					      .stall_ms = service->stall_ms,
					      .min_rate = service->min_rate};
	struct cairn_want *want = cairn_swarm_want(service->swarm, digest, total, true);
	enum cairn_want_state state = cairn_swarm_wait_in_call(&wait, want, call, &err);
	if (state == CAIRN_WANT_GRANTED && !cairn_call_gone(call)) return want;
	cairn_want_release(want);
	if (state == CAIRN_WANT_FAILED) log_failure(digest, &err);
	return NULL;
}

/* ---- both -------------------------------------------------------------------------------------*/

enum cairn_content_source cairn_content_wait(const struct cairn_content_service *service,
					     struct cairn_call *call, struct cairn_ingest *ing,
					     const struct cairn_content_wanted *wanted,
					     struct cairn_want **ret_grant)
{
	bool owners_only = service->owners_only;
	*ret_grant = NULL;
	if (cairn_ingest_prefill(ing, owners_only)) return CAIRN_FROM_CACHE;
	if (!service->waits) return CAIRN_FROM_CONTAINERD;
	bool filled = try_fill(service, call, &wanted->digest, wanted->total);
	if (cairn_ingest_prefill(ing, owners_only)) {
		return filled ? CAIRN_FROM_PREHEAT : CAIRN_FROM_CACHE;
	}
	/* Who asks for a namespace of its own wants its registry's word that it may have the bytes:
	 * peers do not give that. */
	if (service->swarm == NULL || owners_only || cairn_call_gone(call)) {
		return CAIRN_FROM_CONTAINERD;
	}
	*ret_grant = try_swarm(service, call, &wanted->digest, wanted->total);
	/* With a grant it is not here; and if it came just now, that is as good. */
	if (!cairn_ingest_prefill(ing, false)) return CAIRN_FROM_CONTAINERD;
	cairn_want_release(cairn_steal(ret_grant));
	return CAIRN_FROM_PEERS;
}
