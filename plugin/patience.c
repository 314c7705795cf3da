#include "plugin/patience.h"

#include "base/clock.h"

int64_t cairn_patience_now(void)
{
	return cairn_boot_ns(&cairn_clock_system) / CAIRN_NS_PER_MS;
}

void cairn_patience_begin(struct cairn_patience *p, uint64_t done, int64_t now_ms)
{
	p->done = done;
	p->counting = false;
	p->changed_ms = now_ms;
}

/* Bytes a second since the mark. */
static uint64_t rate(uint64_t now, uint64_t mark, int64_t ms)
{
	return now > mark ? (now - mark) * 1000 / (uint64_t)ms : 0;
}

bool cairn_patience_lasts(struct cairn_patience *p, uint64_t done, uint64_t node, int64_t now_ms)
{
	/* Before the first byte there is no rate; the first window begins with it. */
	if (!p->counting) {
		p->mark = done;
		p->mark_ms = now_ms;
		p->node_mark = node;
		p->counting = done > 0;
	}
	if (done != p->done) p->changed_ms = now_ms;
	p->done = done;
	if (now_ms - p->changed_ms >= p->stall_ms) return false;
	int64_t ms = now_ms - p->mark_ms;
	if (ms < CAIRN_PATIENCE_RATE_MS) return true;
	bool fast = rate(done, p->mark, ms) >= p->min_rate ||
		    rate(node, p->node_mark, ms) >= p->min_rate;
	p->mark = done;
	p->mark_ms = now_ms;
	p->node_mark = node;
	return fast;
}
