/* Looking at the swarm. */
#include <stdlib.h>
#include <string.h>

#include "p2p/fill.h"
#include "p2p/serving.h"
#include "p2p/tls.h"

static void read_counters(struct cairn_swarm *swarm, struct cairn_swarm_stats *ret)
{
	struct cairn_swarm_counters *count = &swarm->count;
	ret->from_peers_bytes = atomic_load(&count->from_peers_bytes);
	ret->to_peers_bytes = atomic_load(&count->to_peers_bytes);
	ret->fills_begun = atomic_load(&count->fills_begun);
	ret->fills_done = atomic_load(&count->fills_done);
	ret->fills_failed = atomic_load(&count->fills_failed);
	ret->pieces_bad = atomic_load(&count->pieces_bad);
	ret->grants = atomic_load(&count->grants);
	ret->grant_waits = atomic_load(&count->grant_waits);
	ret->takeovers = atomic_load(&count->takeovers);
	ret->shunned = atomic_load(&count->shunned);
	ret->decide_us_sum = atomic_load(&count->decide_us_sum);
	uint64_t sum = 0;
	for (int b = 0; b < CAIRN_RPC_BUCKETS; b++) {
		sum += atomic_load(&count->decide_buckets[b]);
		ret->decide_buckets[b] = sum;
	}
	ret->decisions = sum + atomic_load(&count->decide_buckets[CAIRN_RPC_BUCKETS]);
}

void cairn_swarm_get_stats(struct cairn_swarm *swarm, struct cairn_swarm_stats *ret)
{
	struct cairn_listener_stats in;
	*ret = (struct cairn_swarm_stats){0};
	read_counters(swarm, ret);
	cairn_listener_get_stats(swarm->listener, &in);
	ret->connections_in = in.connections;
	ret->refused = in.refused;
	ret->connections_out = cairn_pool_count(swarm->pool);
	ret->uploads = cairn_serving_status(swarm, NULL, 0);
	pthread_mutex_lock(&swarm->mu);
	ret->fills = swarm->n_fills;
	pthread_mutex_unlock(&swarm->mu);
	if (swarm->tls != NULL) ret->certificate_end_s = cairn_tls_files_end_s(swarm->tls);
	ret->members = swarm->dir->ops->members(swarm->dir, NULL, 0);
	pthread_mutex_lock(&swarm->announce_mu);
	ret->announced = swarm->announced.n;
	pthread_mutex_unlock(&swarm->announce_mu);
}

static int by_address(const void *a, const void *b)
{
	const struct cairn_node_id *x = a, *y = b;
	return strcmp(x->address, y->address);
}

/* Members that nothing is known of but that come after those that were met. */
size_t cairn_swarm_peers(struct cairn_swarm *swarm, struct cairn_peer_status *ret, size_t max)
{
	size_t n = cairn_peers_list(swarm->peers, ret, max, cairn_swarm_now_ms());
	size_t filled = n < max ? n : max;
	size_t n_members = swarm->dir->ops->members(swarm->dir, NULL, 0);
	struct cairn_node_id *members = calloc(n_members + 1, sizeof(*members));
	bool *seen = calloc(n_members + 1, sizeof(*seen));
	if (members == NULL || seen == NULL) abort();
	size_t got = swarm->dir->ops->members(swarm->dir, members, n_members);
	if (got < n_members) n_members = got;
	qsort(members, n_members, sizeof(*members), by_address);
	for (size_t i = 0; i < filled; i++) {
		struct cairn_node_id id = {0};
		memcpy(id.address, ret[i].address, sizeof(id.address));
		struct cairn_node_id *m =
			bsearch(&id, members, n_members, sizeof(*members), by_address);
		ret[i].member = m != NULL;
		ret[i].self = strcmp(id.address, swarm->hello.address) == 0;
		if (m != NULL) seen[m - members] = true;
	}
	for (size_t i = 0; i < n_members; i++) {
		if (seen[i]) continue;
		if (n < max) {
			ret[n] = (struct cairn_peer_status){.member = true};
			memcpy(ret[n].address, members[i].address, sizeof(ret[n].address));
			ret[n].self = strcmp(ret[n].address, swarm->hello.address) == 0;
		}
		n++;
	}
	free(seen);
	free(members);
	return n;
}

static void fill_status(struct cairn_swarm_fill *f, struct cairn_fill_status *ret)
{
	pthread_mutex_lock(&f->mu);
	*ret = (struct cairn_fill_status){
		.digest = f->digest,
		.size = f->size,
		.done = f->received > f->local_bytes ? f->received : f->local_bytes,
		.state = f->granted != NULL ? CAIRN_WANT_GRANTED
			 : !f->asked	    ? CAIRN_WANT_ASKING
			 : f->received > 0  ? CAIRN_WANT_FILLING
					    : CAIRN_WANT_WAITING,
		.grant = f->grant,
		.sources = f->n_talking,
		.bps = cairn_speed_now(&f->speed, cairn_swarm_now_ms()),
	};
	if (ret->done > ret->size) ret->done = ret->size;
	pthread_mutex_unlock(&f->mu);
}

size_t cairn_swarm_fills(struct cairn_swarm *swarm, struct cairn_fill_status *ret, size_t max)
{
	size_t n = 0;
	pthread_mutex_lock(&swarm->mu);
	for (unsigned b = 0; b < CAIRN_BUCKETS; b++) {
		for (struct cairn_swarm_fill *f = swarm->fills[b]; f != NULL; f = f->next, n++) {
			if (n < max) fill_status(f, &ret[n]);
		}
	}
	pthread_mutex_unlock(&swarm->mu);
	return n;
}

size_t cairn_swarm_uploads(struct cairn_swarm *swarm, struct cairn_upload_status *ret, size_t max)
{
	return cairn_serving_status(swarm, ret, max);
}

int cairn_swarm_port(const struct cairn_swarm *swarm)
{
	return cairn_listener_port(swarm->listener);
}

const char *cairn_swarm_address(const struct cairn_swarm *swarm)
{
	return swarm->hello.address;
}

void cairn_swarm_health(struct cairn_swarm *swarm, char ret[static 256])
{
	swarm->dir->ops->health(swarm->dir, ret);
}
