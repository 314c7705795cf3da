/* The swarm: blobs come from the other nodes of the cluster, and one node a blob fetches it from
 * the registry.
 *
 * Whoever needs a blob that is not here wants it (cairn_swarm_want). The swarm asks the directory;
 * then either peers have it, or are getting it, and it comes from them into the cache, each piece
 * proved, the whole digest checked before it is visible; or nobody has it, and this node is granted
 * to fetch it from the registry: then the caller does so, with his own credentials, into an ingest
 * of the cache, whose bytes are handed on to others as they come. All who want one digest here
 * share one fill.
 *
 * Peers speak cairn.peer.v1 (docs/protocol.md) over mutual TLS. What is here and may be shared is
 * announced; what goes is withdrawn.
 *
 * Threads: internally locked; nothing here blocks unless it says so. */
#ifndef CAIRN_P2P_P2P_H
#define CAIRN_P2P_P2P_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/clock.h"
#include "base/digest.h"
#include "base/err.h"
#include "base/own.h"
#include "base/rate.h"
#include "cache/cache.h"
#include "p2p/directory.h"
#include "rpc/rpc.h"

struct cairn_swarm;

/* Nodes that have just been started may not know each other yet: until the directory has answered
 * once, in the first START_MS, a want waits FIRST_MS for its answer, not decide_ms. */
#define CAIRN_SWARM_START_MS 5000
#define CAIRN_SWARM_FIRST_MS 3500

/* Those on the port who do not speak the peers' protocol but HTTP/2, to call services: they have
 * shown a certificate of the cluster's authority, as peers have, and no more is known here. What
 * they may do is decided by who serves them. */
struct cairn_callers {
	/* Serve HTTP/2, without TLS, on a connected socket. Owns fd, also on failure. from: the
	 * other's address; names: those in its certificate, shown and compared as they are; all
	 * borrowed for the call. The session, or NULL: err says why not. On the connection's own
	 * thread. NULL: there are no such services; then nobody is asked to speak HTTP/2. */
	void *(*open)(void *arg, int fd, const char *from, const char *const *names, size_t n_names,
		      struct cairn_err *err);
	/* The connection has ended: so does the session, whose memory this gives back. On the same
	 * thread; it may wait for calls that still run. */
	void (*close)(void *arg, void *session);
	void *arg;
};

struct cairn_swarm_opts {
	struct cairn_rpc *rpc; /* for etcd */
	struct cairn_cache *cache;
	const char *name;      /* of this node, for people */
	const char *listen;    /* host:port; port 0 takes a free one */
	const char *advertise; /* what peers dial; "": listen, with this host's address if that is
				  any */
	struct {
		const char *ca, *cert,
			*key; /* paths of PEM files; all "": plain text, loopback only */
	} tls;
	bool etcd;		  /* else static */
	const char *const *peers; /* static */
	size_t n_peers;
	struct {
		const char *const *endpoints;
		size_t n_endpoints;
		const char *prefix, *ca, *cert, *key;
	} etcd_opts;
	uint64_t upload_limit;	     /* bytes a second, 0: none */
	struct cairn_rate *download; /* what comes from peers is taken from it, and borrowed until
					the stop; NULL: no limit */
	int64_t decide_ms, stall_ms;
	uint64_t min_rate;
	int64_t max_grants;

	/* May this blob leave the node? Asked before it is announced or described; must not block.
	 * NULL: always. */
	bool (*may_share)(void *arg, const struct cairn_digest *digest);
	void *may_share_arg;

	bool calls; /* offer peers to answer their calls: cairn_swarm_answer says how */
	struct cairn_callers callers; /* with TLS only */
};

/* Copies what it needs of opts. Begins to listen, and to announce what the cache has, in batches.
 * Errors: INVALID_ARGUMENT (addresses; TLS files; no TLS but not loopback), INTERNAL. A directory
 * that cannot be reached is no error. */
CAIRN_CHECKED enum cairn_code cairn_swarm_start(const struct cairn_swarm_opts *opts,
						struct cairn_swarm **ret, struct cairn_err *err);

/* From now on every want ends (FAILED), and nothing new is served: before the server is drained.
 * NULL is fine. */
void cairn_swarm_cancel(struct cairn_swarm *swarm);
/* Withdraw, end, join. All wants must have been released. Before the cache is closed. NULL is fine.
 */
void cairn_swarm_stop(struct cairn_swarm *swarm);

/* Read the TLS files again: new connections use them. Errors: INVALID_ARGUMENT: the old ones stay.
 */
CAIRN_CHECKED enum cairn_code cairn_swarm_reload(struct cairn_swarm *swarm, struct cairn_err *err);

/* What may change while it runs. */
struct cairn_swarm_limits {
	uint64_t upload_limit;
	int64_t decide_ms, stall_ms;
	uint64_t min_rate;
	int64_t max_grants;
};

/* As in the opts of the start. What is on its way goes by the new limits from its next step on, but
 * for stall_ms, which its plan keeps. NULL is fine. Threads: any. */
void cairn_swarm_set_limits(struct cairn_swarm *swarm, const struct cairn_swarm_limits *limits);

/* Other peers than those of the start; who is on both lists stays connected. With etcd it does
 * nothing. The list is copied. NULL is fine. Threads: one at a time. Errors, with nothing changed:
 * INVALID_ARGUMENT (no host:port), INTERNAL (no thread). */
CAIRN_CHECKED enum cairn_code cairn_swarm_set_peers(struct cairn_swarm *swarm,
						    const char *const *peers, size_t n_peers,
						    struct cairn_err *err);

/* What may be shared has changed (may_share answers differently for it): announce or withdraw it.
 */
void cairn_swarm_reconsider(struct cairn_swarm *swarm, const struct cairn_digest *digest);

/* ---- wanting a blob ---------------------------------------------------------------------------
 */

enum cairn_want_state {
	CAIRN_WANT_ASKING,  /* the directory has not answered; decide_ms at most, or, just after
			     the start, CAIRN_SWARM_FIRST_MS */
	CAIRN_WANT_WAITING, /* somebody is about to get it, or gets it: nothing has come here yet */
	CAIRN_WANT_FILLING, /* pieces come */
	CAIRN_WANT_GRANTED, /* fetch it from the registry; the want is to be kept until that is over
			     */
	CAIRN_WANT_HERE,    /* the cache has it */
	CAIRN_WANT_FAILED,  /* not by the swarm: get it in another way, or not. err says why */
};

struct cairn_want;

/* may_fetch: the caller can fetch it from a registry, so a grant is of use to him. Of those on this
 * node who want one digest, one at a time is granted. Never NULL. */
struct cairn_want *cairn_swarm_want(struct cairn_swarm *swarm, const struct cairn_digest *digest,
				    uint64_t size, bool may_fetch);

/* *ret_done (may be NULL): bytes that came to this node, from peers or by a granted pull of its
 * own, whichever are more; at most the blob's size. It may go back, when the one who pulls begins
 * again. err (may be NULL) is set if FAILED. */
enum cairn_want_state cairn_want_look(struct cairn_want *want, uint64_t *ret_done,
				      struct cairn_err *err);

/* fn(arg) is called, on any thread, when the state changes, HERE, GRANTED and FAILED at least; it
 * must not block or call back. One a want; NULL ends it, and waits until no call runs. */
void cairn_want_watch(struct cairn_want *want, void (*fn)(void *arg), void *arg);

/* Let go: of a grant, too. The fill ends when nobody wants it. NULL is fine. */
void cairn_want_release(struct cairn_want *want);

/* ---- calls: questions to other nodes that are not about a blob
 * ------------------------------------
 *
 * The swarm carries them and knows nothing of what they mean. Who calls is a node of the cluster:
 * its certificate has been checked. */

#define CAIRN_CALL_NAME_MAX 64		       /* bytes */
#define CAIRN_CALL_PAYLOAD_MAX (255u << 10)    /* of a question, ... */
#define CAIRN_ANSWER_PAYLOAD_MAX (1020u << 10) /* ... and of its answer */
#define CAIRN_CALLS_MAX 16		       /* answered at once; more are refused */

/* Answer a call soon: its connection waits. peer: the name in the caller's certificate, or its
 * address where there is no TLS. *ret: malloced, at most CAIRN_ANSWER_PAYLOAD_MAX; NULL: empty.
 * Several run at once. Errors: any; its code and message go to the caller. */
typedef enum cairn_code cairn_answer_fn(void *arg, const char *peer, const char *name,
					const uint8_t *request, size_t n, uint8_t **ret,
					size_t *ret_n, struct cairn_err *err);

/* From now on calls are answered so; NULL: they are refused, and none runs any more when this
 * returns. */
void cairn_swarm_answer(struct cairn_swarm *swarm, cairn_answer_fn *fn, void *arg);

/* Call the node with that address: of this node itself, too, which needs no connection. Blocks, at
 * most about timeout_ms. *ret: owned (free), also if *ret_n is 0.
 * Errors: those of the node's answer; FAILED_PRECONDITION (its version answers no calls, or it is
 * configured not to); UNAVAILABLE, DEADLINE_EXCEEDED, CANCELLED, UNAUTHENTICATED as p2p/conn.h;
 * INVALID_ARGUMENT (request longer than CAIRN_CALL_PAYLOAD_MAX). *ret_answered: it was the node
 * that said so, not the way there. */
CAIRN_CHECKED enum cairn_code cairn_swarm_call(struct cairn_swarm *swarm, const char *address,
					       const char *name, const uint8_t *request, size_t n,
					       int64_t timeout_ms, uint8_t **ret, size_t *ret_n,
					       bool *ret_answered, struct cairn_err *err);

/* ---- looking at it ----------------------------------------------------------------------------
 */

struct cairn_swarm_stats {
	uint64_t from_peers_bytes, to_peers_bytes;
	uint64_t fills_begun, fills_done, fills_failed;
	uint64_t pieces_bad;	      /* that did not prove */
	uint64_t grants, grant_waits; /* given to us; times we waited for another's */
	uint64_t takeovers;	      /* of another's by us */
	uint64_t shunned;	      /* times a peer was shunned */
	uint64_t decisions, decide_us_sum, decide_buckets[CAIRN_RPC_BUCKETS]; /* as in rpc.h */
	uint64_t connections_in, connections_out, refused; /* now; now; since start */
	uint64_t uploads, fills;			   /* now */
	uint64_t members;
	uint64_t announced;	   /* blobs */
	int64_t certificate_end_s; /* since 1970; 0: there is none */
};
void cairn_swarm_get_stats(struct cairn_swarm *swarm, struct cairn_swarm_stats *ret);

struct cairn_peer_status {
	char address[CAIRN_ADDRESS_MAX];
	char name[256]; /* from its certificate; "": never met */
	bool member;	/* the directory says that it lives */
	bool self;
	bool connected;
	int64_t unseen_ms; /* since its last connection ended; 0: connected, or never met */
	uint64_t from_bytes, to_bytes; /* since start */
	uint64_t from_bps, to_bps;     /* lately */
	uint64_t bad_pieces, failures;
	int64_t shunned_ms; /* for so long still; 0: not */
	char error[256];    /* the last one's; "": none */
};
/* Fills at most max; returns how many there are. */
size_t cairn_swarm_peers(struct cairn_swarm *swarm, struct cairn_peer_status *ret, size_t max);

struct cairn_fill_status {
	struct cairn_digest digest;
	uint64_t size, done;
	enum cairn_want_state state;
	struct cairn_grant grant; /* as last seen */
	uint32_t sources;	  /* peers that it comes from now */
	uint64_t bps;		  /* lately */
};
size_t cairn_swarm_fills(struct cairn_swarm *swarm, struct cairn_fill_status *ret, size_t max);

struct cairn_upload_status {
	char address[CAIRN_ADDRESS_MAX];
	struct cairn_digest digest;
	uint64_t bytes, bps;
};
size_t cairn_swarm_uploads(struct cairn_swarm *swarm, struct cairn_upload_status *ret, size_t max);

/* The listener's port. */
int cairn_swarm_port(const struct cairn_swarm *swarm);
/* What this node calls itself: "host:port". */
const char *cairn_swarm_address(const struct cairn_swarm *swarm);
/* In words: "" or what does not work. */
void cairn_swarm_health(struct cairn_swarm *swarm, char ret[static 256]);

#endif
