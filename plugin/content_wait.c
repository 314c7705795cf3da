#include "plugin/content_wait.h"

#include "base/clock.h"
#include "plugin/fills.h"

#define LOOK_MS 250   /* between two looks at how the fill gets on; its end is told at once */
#define RATE_MS 10000 /* a rate is judged over so long */

/* How a fill gets on, for the judgement whether to go on waiting for it. */
struct progress {
	uint64_t done, mark; /* bytes now, and when the present window of time began */
	int64_t changed_ms, mark_ms;
};

static int64_t now_ms(void)
{
	return cairn_boot_ns(&cairn_clock_system) / CAIRN_NS_PER_MS;
}

static bool is_worth_it(struct progress *p, uint64_t done, const struct cairn_content_service *s)
{
	int64_t now = now_ms();
	if (done != p->done) p->changed_ms = now;
	p->done = done;
	if (now - p->changed_ms >= s->stall_ms) return false;
	if (now - p->mark_ms < RATE_MS) return true;
	uint64_t moved = done > p->mark ? done - p->mark : 0;
	bool fast = moved * 1000 / (uint64_t)(now - p->mark_ms) >= s->min_rate;
	p->mark = done;
	p->mark_ms = now;
	return fast;
}

static void wait_for(struct cairn_fill *fill, struct cairn_call *call,
		     const struct cairn_content_service *service)
{
	uint64_t done;
	struct progress p = {.changed_ms = now_ms(), .mark_ms = now_ms()};
	enum cairn_fill_state state = cairn_fill_look(fill, &done, NULL);
	p.done = p.mark = done;
	while (state == CAIRN_FILL_RUNNING && !cairn_fill_follows(fill) &&
	       is_worth_it(&p, done, service)) {
		enum cairn_wake wake = cairn_call_wait(call, LOOK_MS);
		if (wake == CAIRN_WAKE_GONE || wake == CAIRN_WAKE_DRAIN) return;
		state = cairn_fill_look(fill, &done, NULL);
	}
}

bool cairn_content_wait(const struct cairn_content_service *service, struct cairn_call *call,
			struct cairn_ingest *ing, const struct cairn_digest *want, uint64_t total)
{
	struct cairn_fill_watch watch;
	if (cairn_ingest_prefill(ing, service->owners_only)) return true;
	if (service->fills == NULL) return false;
	struct cairn_fill *fill = cairn_fills_find(service->fills, want, total);
	if (fill == NULL) return cairn_ingest_prefill(ing, service->owners_only);
	cairn_fill_watch(fill, &watch, call);
	wait_for(fill, call, service);
	cairn_fill_unwatch(fill, &watch);
	cairn_fill_unref(fill);
	return cairn_ingest_prefill(ing, service->owners_only);
}
