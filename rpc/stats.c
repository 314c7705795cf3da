#include "rpc/server.h"

const uint32_t cairn_rpc_bucket_us[CAIRN_RPC_BUCKETS] = {
	50, 100, 250, 500, 1000, 2500, 10000, 50000, 250000, 1000000, 10000000, 60000000,
};

#define ADD(counter, n) atomic_fetch_add_explicit(&(counter), (n), memory_order_relaxed)
#define GET(counter) atomic_load_explicit(&(counter), memory_order_relaxed)

void cairn_method_begin(struct cairn_service_method *m)
{
	ADD(m->active, 1);
}

void cairn_method_end(struct cairn_service_method *m, const struct cairn_call *call,
		      enum cairn_code code)
{
	uint64_t us = (uint64_t)(cairn_monotonic_ns() - call->start_ns) / 1000;
	size_t bucket = 0;
	while (bucket < CAIRN_RPC_BUCKETS && us > cairn_rpc_bucket_us[bucket]) bucket++;
	ADD(m->buckets[bucket], 1);
	ADD(m->by_code[(unsigned)code < 17 ? code : CAIRN_UNKNOWN], 1);
	ADD(m->latency_us_sum, us);
	ADD(m->received_bytes, call->received_bytes);
	ADD(m->sent_bytes, call->sent_bytes);
	atomic_fetch_sub_explicit(&m->active, 1, memory_order_relaxed);
}

size_t cairn_rpc_server_stats(const struct cairn_rpc_server *server, struct cairn_method_stats *ret,
			      size_t max)
{
	for (size_t i = 0; i < server->n_methods && i < max; i++) {
		const struct cairn_service_method *m = &server->methods[i];
		struct cairn_method_stats *s = &ret[i];
		uint64_t sum = 0;
		s->path = m->m->path;
		for (size_t c = 0; c < 17; c++) s->by_code[c] = GET(m->by_code[c]);
		s->active = GET(m->active);
		s->latency_us_sum = GET(m->latency_us_sum);
		for (size_t b = 0; b < CAIRN_RPC_BUCKETS; b++) {
			sum += GET(m->buckets[b]);
			s->latency_buckets[b] = sum;
		}
		/* From the buckets: a counter of its own, read at another moment, may be lower
		 * than they are, which is no histogram. */
		s->latency_count = sum + GET(m->buckets[CAIRN_RPC_BUCKETS]);
		s->received_bytes = GET(m->received_bytes);
		s->sent_bytes = GET(m->sent_bytes);
	}
	return server->n_methods;
}
