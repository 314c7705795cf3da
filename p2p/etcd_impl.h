/* The etcd directory's state, which three files share:
 *   etcd.c       the directory's operations, on their callers' threads
 *   etcd_lease.c the tender, a thread: our lease and node key, members, whether etcd answers
 *   etcd_say.c   the writer, a thread: what we hold, and what is over
 *
 * mu guards all that is not fixed at the start; it is never held while etcd is asked. What is
 * written belongs to a lease. When that is lost, so is all that was written: the next lease is a
 * new epoch, in which the records begin unwritten, and what a call of an older epoch brings is
 * dropped.
 */
#ifndef CAIRN_P2P_ETCD_IMPL_H
#define CAIRN_P2P_ETCD_IMPL_H

#include <pthread.h>

#include "p2p/etcd_kv.h"
#include "p2p/etcd_link.h"

#define CAIRN_ETCD_KV_TXN "/etcdserverpb.KV/Txn"

/* What we have said, or are to say, of one digest. All guarded by mu. */
struct cairn_etcd_entry {
	struct cairn_digest digest;
	struct cairn_etcd_entry *chain; /* in its bucket */
	struct cairn_etcd_entry *next;	/* in its queue */
	size_t at;			/* in all[] */
	int hold_slot, join_slot;	/* written there; -1: not */
	unsigned tries;			/* to get a slot */
	bool want_hold;			/* announced */
	bool enough;			/* all slots are others': look again at the next sweep */
	bool granted;			/* the grant is ours, or may be */
	bool drop_join, drop_grant;	/* are over */
	bool verify;			/* look whether our record is still there */
	bool queued, busy;		/* in a queue; in the writer's hands */
};

struct cairn_etcd_queue {
	struct cairn_etcd_entry *first, **last;
	int64_t next_ms; /* not before */
};

/* A call that is under way; on its caller's stack. */
struct cairn_etcd_session {
	struct cairn_etcd *d;
	struct cairn_etcd_session *next; /* guarded by mu */
	const struct cairn_digest *digest;
	int64_t until_ms;
	struct cairn_etcd_reader reader;
	uint64_t epoch;
	bool joined; /* already */
	bool over;   /* guarded by mu: leave or announce was called meanwhile */
};

enum cairn_etcd_state { CAIRN_ETCD_STARTING, CAIRN_ETCD_READY, CAIRN_ETCD_DOWN };

struct cairn_etcd {
	struct cairn_directory dir; /* first */
	struct cairn_etcd_names names;
	struct cairn_etcd_links *links;
	int64_t sweep_ms, ttl_s;
	pthread_t tender, writer;

	pthread_mutex_t mu;
	pthread_cond_t changed; /* state, queues, entries, stop */

	bool stop;
	bool kicked; /* something failed: the tender is to look now */
	enum cairn_etcd_state state;
	struct cairn_err why;		  /* DOWN: what etcd's last failure was */
	struct cairn_err why_not_written; /* code OK: the writer can write */
	int64_t lease;			  /* 0: none */
	uint64_t epoch;			  /* counts leases */
	bool registered;		  /* the tender's own: once, at least */
	uint64_t seed;

	struct cairn_node_id *members; /* sorted */
	size_t n_members;

	struct cairn_etcd_session *sessions;

	struct cairn_etcd_entry **buckets, **all;
	size_t n_buckets, n_all, cap_all;
	size_t cursor; /* the sweep's, in all[] */
	int64_t sweep_next_ms;
	struct cairn_etcd_queue fresh, bulk; /* what is news; what is said again, or looked after */
	bool writing;			     /* a batch is in the writer's hands */
};

/* ---- etcd.c */

/* Wait for a change, until then at most (monotonic ms). False: it is later than that. */
bool cairn_etcd_wait_locked(struct cairn_etcd *d, int64_t until_ms);
uint64_t cairn_etcd_random_locked(struct cairn_etcd *d);
/* ms, up to a fifth more or less. */
int64_t cairn_etcd_jitter_locked(struct cairn_etcd *d, int64_t ms);
/* A call has failed so that the tender should look; not more often than is good. */
void cairn_etcd_kick(struct cairn_etcd *d, enum cairn_code code);

/* ---- etcd_lease.c */

void *cairn_etcd_tend(void *d);
/* As the last act: etcd forgets us. */
void cairn_etcd_revoke(struct cairn_etcd *d, int64_t timeout_ms);

/* ---- etcd_say.c */

void *cairn_etcd_write(void *d);

struct cairn_etcd_entry *cairn_etcd_find_locked(struct cairn_etcd *d,
						const struct cairn_digest *digest);
struct cairn_etcd_entry *cairn_etcd_entry_locked(struct cairn_etcd *d,
						 const struct cairn_digest *digest);
/* Queue it if there is something to say; free it if there is nothing to remember. */
void cairn_etcd_settle_locked(struct cairn_etcd *d, struct cairn_etcd_entry *e,
			      struct cairn_etcd_queue *queue);
/* Something of it is to be taken back, and was not yet. */
bool cairn_etcd_is_leaving_locked(const struct cairn_etcd_entry *e);
/* A new lease: nothing is written. */
void cairn_etcd_new_epoch_locked(struct cairn_etcd *d, int64_t lease);
bool cairn_etcd_all_said_locked(const struct cairn_etcd *d);
void cairn_etcd_free_entries(struct cairn_etcd *d);

#endif
