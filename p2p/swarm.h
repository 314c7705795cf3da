/* Inside the swarm: what its parts share.
 * - swarm.c: start and stop, the tables, what the cache tells
 * - swarm_opts.c: addresses, certificates, which directory
 * - swarm_stats.c: looking at it
 * - want.c: those who want a blob, and what they are told
 * - fill.c: one blob that is being got: carries out the plan
 * - fill_ask.c: its questions to the directory, and its grant
 * - fill_list.c: its piece list: whom to believe
 * - session.c, session_piece.c: one source of a fill: the conversation as the client
 * - serving.c, upload.c: what we can give of one digest, whether whole, being filled or written
 * - serve.c: one connection of somebody else's: the conversation as the server
 * - peers.c: what is known of peers
 * - call.c: questions that are not about a blob
 *
 * Locks, outermost first: announce_mu; mu; a serving's; a fill's; the leaves (peers, rates, want
 * watches). None is held across I/O, a callback of the user's or a log line, but for announce_mu,
 * which orders what the directory is told, and whose calls do not block. */
#ifndef CAIRN_P2P_SWARM_H
#define CAIRN_P2P_SWARM_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/rate.h"
#include "p2p/digests.h"
#include "p2p/p2p.h"
#include "p2p/peers.h"
#include "p2p/pool.h"

#define CAIRN_FILLS_MAX 256    /* at once */
#define CAIRN_SESSIONS_MAX 128 /* at once, of all fills */
#define CAIRN_UPLOADS_MAX 64   /* uploads whose bytes move at once; more are BUSY */
#define CAIRN_STACK_BYTES (512u << 10)
#define CAIRN_BUCKETS 256
#define CAIRN_WHOLE_IDLE_MS 60000 /* who was told WHOLE and asks for nothing keeps his place */

struct cairn_swarm_fill;
struct cairn_serving;

struct cairn_swarm_counters {
	_Atomic uint64_t from_peers_bytes, to_peers_bytes;
	_Atomic uint64_t fills_begun, fills_done, fills_failed;
	_Atomic uint64_t pieces_bad, grants, grant_waits, takeovers, shunned;
	_Atomic uint64_t decisions, decide_us_sum, decide_buckets[CAIRN_RPC_BUCKETS + 1];
};

struct cairn_swarm {
	/* immutable between start and stop */
	struct cairn_cache *cache;
	struct cairn_directory *dir;
	bool is_static; /* dir is, and answers peers' questions */
	struct cairn_hello hello;
	struct cairn_tls_files *tls; /* NULL: plain text */
	struct cairn_pool *pool;
	struct cairn_listener *listener;
	struct cairn_peers *peers;
	int64_t whole_idle_ms; /* CAIRN_WHOLE_IDLE_MS; tests have less time */
	uint64_t seed;	       /* of this start */
	int64_t started_ms;
	bool (*may_share)(void *arg, const struct cairn_digest *digest);
	void *may_share_arg;

	_Atomic int64_t decide_ms, stall_ms; /* cairn_swarm_set_limits */
	_Atomic uint64_t min_rate;
	_Atomic unsigned max_grants;

	pthread_mutex_t call_mu;
	pthread_cond_t call_ended;
	/* guarded by call_mu */
	cairn_answer_fn *answer; /* NULL: nobody answers calls, yet or any more */
	void *answer_arg;
	unsigned n_calls; /* that answer runs for */

	struct cairn_rate up, *down; /* down: borrowed; NULL: no limit */
	struct cairn_swarm_counters count;
	atomic_bool cancelled;
	atomic_bool answered;	  /* the directory has, once */
	_Atomic unsigned uploads; /* whose bytes move */

	pthread_mutex_t mu;
	pthread_cond_t changed; /* a thread ended */
	pthread_cond_t cancel;	/* cancelled */
	/* guarded by mu */
	struct cairn_swarm_fill *fills[CAIRN_BUCKETS];
	struct cairn_serving *servings[CAIRN_BUCKETS];
	unsigned n_fills;
	unsigned n_queued; /* grants of ours without a byte */
	_Atomic unsigned n_threads, n_sessions;
	_Atomic unsigned n_pulling; /* fills that get bytes from peers */

	pthread_mutex_t announce_mu;
	struct cairn_digests announced; /* guarded by announce_mu */
	pthread_t announcer;
	bool has_announcer, observes;
};

/* As cairn_swarm_start, with a directory that is made when the swarm knows its address; the swarm
 * closes it. */
typedef enum cairn_code cairn_make_directory_fn(void *arg, struct cairn_swarm *swarm,
						struct cairn_directory **ret,
						struct cairn_err *err);
CAIRN_CHECKED enum cairn_code cairn_swarm_start_with(const struct cairn_swarm_opts *opts,
						     cairn_make_directory_fn *make, void *arg,
						     struct cairn_swarm **ret,
						     struct cairn_err *err);

/* swarm_opts.c: the certificates (*ret NULL: none, and that is allowed), and what we call
 * ourselves. Errors: INVALID_ARGUMENT. */
CAIRN_CHECKED enum cairn_code cairn_swarm_load_tls(const struct cairn_swarm_opts *opts,
						   struct cairn_tls_files **ret,
						   struct cairn_err *err);
CAIRN_CHECKED enum cairn_code cairn_swarm_name(const struct cairn_swarm_opts *opts, int port,
					       struct cairn_hello *ret, struct cairn_err *err);

int64_t cairn_swarm_now_ms(void);
uint64_t cairn_swarm_download_limit(const struct cairn_swarm *swarm); /* 0: none */
bool cairn_swarm_may_share(struct cairn_swarm *swarm, const struct cairn_digest *digest);
/* Is it here, whole and undamaged? Memory only. */
bool cairn_swarm_has(struct cairn_swarm *swarm, const struct cairn_digest *digest);
static inline unsigned cairn_bucket_of(const struct cairn_digest *digest)
{
	return digest->bytes[0];
}

/* A thread of the swarm's; it ends with cairn_swarm_thread_ended as its last act. False: there are
 * no more threads. */
bool cairn_swarm_thread(struct cairn_swarm *swarm, void *(*start)(void *arg), void *arg);
void cairn_swarm_thread_ended(struct cairn_swarm *swarm);

/* Wait so long, or until the swarm is cancelled. */
void cairn_swarm_pause(struct cairn_swarm *swarm, int64_t ns);

/* The grants of ours that have got no byte are few: may there be one more? Then it counts. A fill
 * that waited is woken when one is given back. */
bool cairn_swarm_queue(struct cairn_swarm *swarm);
void cairn_swarm_unqueue(struct cairn_swarm *swarm);

/* A condition that waits by the monotonic clock; wait at most so long. */
void cairn_cond_init(pthread_cond_t *cond);
void cairn_cond_wait_ms(pthread_cond_t *cond, pthread_mutex_t *mu, int64_t ms);

#endif
