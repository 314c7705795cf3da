/* ListPeers, and what Status says of the swarm. */
#include <stdlib.h>
#include <string.h>

#include "plugin/cairn_service.h"

#define BATCH 100     /* peers in one message */
#define SHOWN_MAX 200 /* fills, and uploads, in one Status */
#define MET_MAX 4096  /* peers that were met before, besides the members */

/* ---- Status ---- */

static const char *want_name(enum cairn_want_state state)
{
	switch (state) {
	case CAIRN_WANT_ASKING:
		return "asking";
	case CAIRN_WANT_WAITING:
		return "waiting";
	case CAIRN_WANT_FILLING:
		return "filling";
	case CAIRN_WANT_GRANTED:
		return "granted";
	case CAIRN_WANT_HERE:
		return "here";
	case CAIRN_WANT_FAILED:
	default:
		return "failed";
	}
}

static const char *grant_name(enum cairn_grant_state state)
{
	switch (state) {
	case CAIRN_GRANT_QUEUED:
		return "queued";
	case CAIRN_GRANT_RUNNING:
		return "running";
	case CAIRN_GRANT_FREE:
	default:
		return "free";
	}
}

static char *digest_text(struct cairn_call *call, const struct cairn_digest *digest)
{
	char text[CAIRN_DIGEST_STR];
	return cairn_call_strdup(call, cairn_digest_format(digest, text));
}

static Cairn__V1__SwarmFill *fill_message(struct cairn_call *call,
					  const struct cairn_fill_status *f)
{
	Cairn__V1__SwarmFill *msg = cairn_call_alloc(call, sizeof(*msg));
	cairn__v1__swarm_fill__init(msg);
	bool free_grant = f->grant.state == CAIRN_GRANT_FREE;
	msg->digest = digest_text(call, &f->digest);
	msg->size = (int64_t)f->size;
	msg->done = (int64_t)f->done;
	msg->state = cairn_call_strdup(call, want_name(f->state));
	msg->grant = cairn_call_strdup(call, grant_name(f->grant.state));
	msg->grant_node = cairn_call_strdup(call, free_grant ? "" : f->grant.node.address);
	msg->grant_ours = !free_grant && f->grant.ours;
	msg->sources = f->sources;
	msg->bytes_per_second = (int64_t)f->bps;
	return msg;
}

static void add_fills(struct cairn_swarm *swarm, struct cairn_call *call, Cairn__V1__Swarm *msg)
{
	struct cairn_fill_status *list = cairn_call_alloc(call, SHOWN_MAX * sizeof(list[0]));
	size_t n = cairn_swarm_fills(swarm, list, SHOWN_MAX);
	msg->fills_total = (int64_t)n;
	if (n > SHOWN_MAX) n = SHOWN_MAX;
	msg->fills = cairn_call_alloc(call, (n + 1) * sizeof(msg->fills[0]));
	for (; msg->n_fills < n; msg->n_fills++) {
		msg->fills[msg->n_fills] = fill_message(call, &list[msg->n_fills]);
	}
}

static Cairn__V1__SwarmUpload *upload_message(struct cairn_call *call,
					      const struct cairn_upload_status *u)
{
	Cairn__V1__SwarmUpload *msg = cairn_call_alloc(call, sizeof(*msg));
	cairn__v1__swarm_upload__init(msg);
	msg->address = cairn_call_strdup(call, u->address);
	msg->digest = digest_text(call, &u->digest);
	msg->bytes = (int64_t)u->bytes;
	msg->bytes_per_second = (int64_t)u->bps;
	return msg;
}

static void add_uploads(struct cairn_swarm *swarm, struct cairn_call *call, Cairn__V1__Swarm *msg)
{
	struct cairn_upload_status *list = cairn_call_alloc(call, SHOWN_MAX * sizeof(list[0]));
	size_t n = cairn_swarm_uploads(swarm, list, SHOWN_MAX);
	msg->uploads_total = (int64_t)n;
	if (n > SHOWN_MAX) n = SHOWN_MAX;
	msg->uploads = cairn_call_alloc(call, (n + 1) * sizeof(msg->uploads[0]));
	for (; msg->n_uploads < n; msg->n_uploads++) {
		msg->uploads[msg->n_uploads] = upload_message(call, &list[msg->n_uploads]);
	}
}

Cairn__V1__Swarm *cairn_service_swarm_status(struct cairn_admin_service *service,
					     struct cairn_call *call)
{
	struct cairn_swarm_stats stats;
	char health[256];
	if (service->swarm == NULL) return NULL;
	Cairn__V1__Swarm *msg = cairn_call_alloc(call, sizeof(*msg));
	cairn__v1__swarm__init(msg);
	cairn_swarm_get_stats(service->swarm, &stats);
	cairn_swarm_health(service->swarm, health);
	msg->address = cairn_call_strdup(call, cairn_swarm_address(service->swarm));
	msg->health = cairn_call_strdup(call, health);
	msg->members = (int64_t)stats.members;
	msg->connections_in = (int64_t)stats.connections_in;
	msg->connections_out = (int64_t)stats.connections_out;
	msg->announced = (int64_t)stats.announced;
	msg->from_peers_bytes = (int64_t)stats.from_peers_bytes;
	msg->to_peers_bytes = (int64_t)stats.to_peers_bytes;
	add_fills(service->swarm, call, msg);
	add_uploads(service->swarm, call, msg);
	return msg;
}

/* ---- ListPeers ---- */

struct peers {
	struct cairn_peer_status *list; /* owned */
	size_t n;
	Cairn__V1__Peer messages[BATCH];
	Cairn__V1__Peer *pointers[BATCH];
};

static const char *state_name(const struct cairn_peer_status *p)
{
	if (p->self) return "self";
	if (!p->member) return "gone"; /* a dead node's connections are there for some time */
	return p->connected ? "connected" : "member";
}

/* Borrows p, whose strings are only read. */
static void set_peer(Cairn__V1__Peer *msg, struct cairn_peer_status *p)
{
	cairn__v1__peer__init(msg);
	msg->address = p->address;
	msg->name = p->name;
	msg->state = (char *)(uintptr_t)state_name(p);
	msg->from_bytes = (int64_t)p->from_bytes;
	msg->to_bytes = (int64_t)p->to_bytes;
	msg->from_bytes_per_second = (int64_t)p->from_bps;
	msg->to_bytes_per_second = (int64_t)p->to_bps;
	msg->bad_pieces = (int64_t)p->bad_pieces;
	msg->failures = (int64_t)p->failures;
	msg->shunned_ms = p->shunned_ms;
	msg->error = p->error;
}

static enum cairn_code send_peers(struct cairn_call *call, struct peers *peers,
				  struct cairn_err *err)
{
	for (size_t at = 0; at < peers->n;) {
		Cairn__V1__ListPeersResponse response = CAIRN__V1__LIST_PEERS_RESPONSE__INIT;
		response.peers = peers->pointers;
		for (; at < peers->n && response.n_peers < BATCH; at++) {
			size_t i = response.n_peers++;
			set_peer(&peers->messages[i], &peers->list[at]);
			peers->pointers[i] = &peers->messages[i];
		}
		enum cairn_code rc = cairn_call_send(call, &response.base, err);
		if (rc) return rc;
	}
	return CAIRN_OK;
}

static int by_state_and_address(const void *a, const void *b)
{
	const struct cairn_peer_status *x = a, *y = b;
	if (x->self != y->self) return x->self ? -1 : 1;
	return strcmp(x->address, y->address);
}

enum cairn_code cairn_service_list_peers(void *arg, struct cairn_call *call, const void *request,
					 struct cairn_err *err)
{
	(void)request;
	struct cairn_admin_service *service = arg;
	if (service->swarm == NULL) {
		return cairn_err_set(err, CAIRN_FAILED_PRECONDITION,
				     "this node has no peers: p2p.listen is not set");
	}
	struct peers *peers = cairn_call_alloc(call, sizeof(*peers));
	struct cairn_swarm_stats stats;
	cairn_call_offload(call);
	cairn_swarm_get_stats(service->swarm, &stats);
	size_t max = (stats.members < CAIRN_MEMBERS_MAX ? stats.members : CAIRN_MEMBERS_MAX);
	max += MET_MAX;
	peers->list = calloc(max, sizeof(peers->list[0]));
	if (peers->list == NULL) abort();
	size_t n = cairn_swarm_peers(service->swarm, peers->list, max);
	peers->n = n < max ? n : max;
	qsort(peers->list, peers->n, sizeof(peers->list[0]), by_state_and_address);
	enum cairn_code rc = send_peers(call, peers, err);
	free(peers->list);
	return rc;
}
