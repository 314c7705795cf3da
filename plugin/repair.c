#include "plugin/repair.h"

#include <stdlib.h>

#include "base/log.h"
#include "plugin/patience.h"
#include "plugin/swarm_wait.h"

/* While anybody waits for it; guarded by the service's repair_mu. */
struct cairn_repair {
	struct cairn_repair *next;
	struct cairn_digest digest;
	unsigned refs;
	bool told; /* how it ended */
};

static struct cairn_repair *join(struct cairn_content_service *service,
				 const struct cairn_digest *digest)
{
	pthread_mutex_lock(&service->repair_mu);
	struct cairn_repair *r = service->repairs;
	while (r != NULL && !cairn_digest_equal(&r->digest, digest)) r = r->next;
	if (r == NULL) {
		r = calloc(1, sizeof(*r));
		if (r == NULL) abort();
		r->digest = *digest;
		r->next = service->repairs;
		service->repairs = r;
	}
	r->refs++;
	pthread_mutex_unlock(&service->repair_mu);
	return r;
}

static void leave(struct cairn_content_service *service, struct cairn_repair *r)
{
	pthread_mutex_lock(&service->repair_mu);
	bool last = --r->refs == 0;
	struct cairn_repair **at = &service->repairs;
	while (last && *at != r) at = &(*at)->next;
	if (last) *at = r->next;
	pthread_mutex_unlock(&service->repair_mu);
	if (last) free(r);
}

/* Whoever first sees the end tells of it; not those who were cancelled before. */
static void tell(struct cairn_content_service *service, struct cairn_repair *r, bool good,
		 const struct cairn_err *why)
{
	char text[CAIRN_DIGEST_STR];
	if (!good && why->code == CAIRN_CANCELLED) return;
	pthread_mutex_lock(&service->repair_mu);
	bool first = !r->told;
	r->told = true;
	pthread_mutex_unlock(&service->repair_mu);
	if (!first) return;
	atomic_fetch_add_explicit(&service->repaired[good], 1, memory_order_relaxed);
	cairn_digest_format(&r->digest, text);
	if (good) {
		cairn_log(CAIRN_LOG_WARN, "blob_repaired", CAIRN_STR("digest", text),
			  CAIRN_STR("from", "peers"));
	} else {
		cairn_log(CAIRN_LOG_ERROR, "blob_not_repaired", CAIRN_STR("digest", text),
			  CAIRN_ERRF(why));
	}
}

/* *ret_size: what it has when it is whole. */
static bool is_good(struct cairn_cache *cache, const struct cairn_digest *digest,
		    uint64_t *ret_size)
{
	struct cairn_err ignored;
	cairn_auto(cairn_blob_info_fini) struct cairn_blob_info info = {0};
	*ret_size = 0;
	if (cairn_cache_info(cache, digest, &info, &ignored) != CAIRN_OK) return false;
	*ret_size = info.size;
	return !info.damaged;
}

static bool fetch_once(struct cairn_content_service *service, struct cairn_call *call,
		       const struct cairn_digest *digest, uint64_t size, struct cairn_err *err)
{
	const struct cairn_swarm_wait wait = {.swarm = service->swarm,
					      .cache = service->cache,
					      .digest = digest,
					      .size = size,
					      .stall_ms = service->stall_ms,
					      .min_rate = service->min_rate};
	struct cairn_want *want = cairn_swarm_want(service->swarm, digest, size, false);
	enum cairn_want_state state = cairn_swarm_wait_in_call(&wait, want, call, err);
	cairn_want_release(want);
	if (state == CAIRN_WANT_HERE && is_good(service->cache, digest, &size)) return true;
	if (state != CAIRN_WANT_FAILED) {
		cairn_err_set(err, CAIRN_ABORTED, "it came, but is damaged again");
	}
	return false;
}

/* Soon after a start, or while etcd is away for a moment, nobody can say who has it: a pull goes on
 * without, but a Read would fail. So it is asked again, for stall_ms. */
static bool fetch(struct cairn_content_service *service, struct cairn_call *call,
		  const struct cairn_digest *digest, uint64_t size, struct cairn_err *err)
{
	int64_t until = cairn_patience_now() + service->stall_ms;
	while (!fetch_once(service, call, digest, size, err)) {
		bool may_pass =
			err->code == CAIRN_UNAVAILABLE || err->code == CAIRN_DEADLINE_EXCEEDED;
		if (!may_pass || cairn_patience_now() >= until) return false;
		enum cairn_wake wake = cairn_call_wait(call, CAIRN_PATIENCE_LOOK_MS);
		if (wake == CAIRN_WAKE_GONE || wake == CAIRN_WAKE_DRAIN) {
			cairn_err_set(err, CAIRN_CANCELLED, "nobody reads it any more");
			return false;
		}
	}
	return true;
}

bool cairn_repair(struct cairn_content_service *service, struct cairn_call *call,
		  const struct cairn_digest *digest)
{
	struct cairn_err err = {0};
	uint64_t size;
	if (service->swarm == NULL) return false;
	if (is_good(service->cache, digest, &size)) return true; /* somebody else was faster */
	if (size == 0) return false;
	struct cairn_repair *r = join(service, digest);
	bool good = fetch(service, call, digest, size, &err);
	tell(service, r, good, &err);
	leave(service, r);
	return good;
}
