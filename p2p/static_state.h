/* Inside the static directory: static.c (the calls), static_items.c (what we have said, and to
 * whom), static_link.c (a link's thread), static_keeper.c (who the peers are), static_answer.c (the
 * arbiter's side).
 *
 * One lock, mu, guards all of it but the table, which has its own, taken after it. It is never held
 * while anything blocks. A link's thread alone uses its connection; others may interrupt it while
 * link->conn is set. Slots number the links; SLOT_SELF is this node, whose table is here. */
#ifndef CAIRN_P2P_STATIC_STATE_H
#define CAIRN_P2P_STATIC_STATE_H

#include <pthread.h>

#include "p2p/memory.h"
#include "p2p/static.h"
#include "p2p/static_names.h"

#define PING_MS 1000
#define DEAD_MS 3000 /* without an answer */
#define DIAL_MS 3000 /* for a connection, its handshake and the first answer */
#define BACKOFF_MIN_MS 100
#define BACKOFF_MAX_MS 5000
#define ELSEWHERE_MS 10000 /* until we look again whether an address is still us, or a twin */
#define SETTLE_MS 500	   /* a peer that came later is told for so long before it is asked */
#define FIRST_MS 250	   /* at our start, for the others to tell us */
#define START_MS 3000	   /* at our start, for names that are not answered */
#define TICK_MS 250
#define REQUESTS_MAX 1024   /* that wait for a link */
#define BURST 64	    /* requests sent before their answers are read */
#define BULK_MAX (1u << 20) /* what waits to be told; beyond it the link begins anew */
#define ITEMS_MAX (1u << 20)

typedef uint16_t slot_t;
#define SLOT_SELF CAIRN_STATIC_PEERS_MAX
#define SLOT_NONE UINT16_MAX

enum op {
	OP_PING = CAIRN__PEER__V1__DIRECTORY_REQUEST__OP__PING,
	OP_ASK = CAIRN__PEER__V1__DIRECTORY_REQUEST__OP__ASK,
	OP_TAKE = CAIRN__PEER__V1__DIRECTORY_REQUEST__OP__TAKE,
	OP_KEEP = CAIRN__PEER__V1__DIRECTORY_REQUEST__OP__KEEP,
	OP_LEAVE = CAIRN__PEER__V1__DIRECTORY_REQUEST__OP__LEAVE,
	OP_ANNOUNCE = CAIRN__PEER__V1__DIRECTORY_REQUEST__OP__ANNOUNCE,
	OP_WITHDRAW = CAIRN__PEER__V1__DIRECTORY_REQUEST__OP__WITHDRAW,
};

struct sentence { /* to the arbiter of one digest */
	enum op op;
	bool join, may_grant;
	uint64_t version, bytes;
	struct cairn_digest digest; /* none for OP_PING */
};

/* A sentence whose answer somebody waits for, or which is not to wait behind announcements. The
 * waiter and the link have a reference each. */
struct request {
	struct request *next;
	struct sentence sentence;
	int refs;
	bool done, abandoned; /* abandoned: nobody waits; it is said only if that was the intent */
	bool background;
	enum cairn_code code;
	struct cairn_answer answer;
	pthread_cond_t answered;
	char message[256];
};

struct bulk_entry {
	struct cairn_digest digest;
	bool withdraw;
};

struct bulk { /* in the order in which it came */
	struct bulk_entry *all;
	size_t first, n, room; /* [first, n) are to be said */
};

struct link {
	struct cairn_static *s;
	char target[CAIRN_ADDRESS_MAX]; /* what is dialled */
	pthread_t thread;
	int wake_fd;
	slot_t slot;

	/* guarded by s->mu */
	struct cairn_conn *conn; /* while it is used */
	bool stop, ended;	 /* ended: the thread is about to end */
	bool listed;		 /* names still say so */
	bool tried;		 /* a dial has ended, somehow */
	bool self, twin;	 /* it is us; another link leads to the same node */
	bool claimed;		 /* address is what it leads to, and no other link does */
	bool up, asked, settled; /* one after the other; see SETTLE_MS */
	bool nudged;		 /* dial at once */
	int64_t up_ms;
	uint64_t life, number;		 /* what it calls our life; in rendezvous */
	char address[CAIRN_ADDRESS_MAX]; /* in its last Hello; "": never met */
	char error[160];
	struct request *requests, **requests_end;
	size_t n_requests;
	struct bulk bulk;
	bool busy; /* something was sent, and is not answered */
};

#define TOLD_MAX 3

/* Something that we said of a digest, and is still true. */
struct item {
	struct item *next;
	struct cairn_digest digest;
	bool holds, joins, granted;
	uint64_t bytes;
	/* Who knows it: its arbiter among all that are up, among those that are asked, and among
	 * those that have settled; they are mostly one. SLOT_NONE */
	slot_t told[TOLD_MAX];
};

struct arbiter {
	uint64_t number;
	slot_t slot;
};

struct arbiters {
	struct arbiter all[CAIRN_STATIC_PEERS_MAX + 1];
	size_t n;
};

struct cairn_static {
	struct cairn_directory dir;
	struct cairn_tls_files *tls;
	const struct cairn_hello *own;
	struct cairn_memory *mem;
	struct names *names; /* the keeper's */
	int (*resolve)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
	void (*free_resolved)(struct addrinfo *);
	int64_t resolve_ms;
	pthread_t keeper;

	pthread_mutex_t mu;
	pthread_cond_t changed; /* broadcast: ready, or a link has become idle, or stop */
	pthread_cond_t tick;	/* for the keeper */
	bool stop, ready;
	struct names *fresh;	      /* take the place of names when they are known; NULL: none */
	int64_t started_ms, tried_ms; /* tried_ms: 0, or since when each peer was tried once */
	struct link *links[CAIRN_STATIC_PEERS_MAX];
	struct arbiters up, asked, settled; /* us included */
	size_t n_addresses;		    /* that were found, with those beyond the limit */
	char names_error[256];

	struct item **items; /* by digest */
	size_t n_items, n_buckets;
	uint64_t refused, refused_logged; /* items beyond the limit */
};

static inline struct cairn_static *static_of(struct cairn_directory *dir)
{
	return (struct cairn_static *)dir;
}

int64_t static_now_ms(void);
void static_wake(const struct link *link);

/* ---- static_items.c; all with mu held ---- */
void items_init(struct cairn_static *s);
void items_fini(struct cairn_static *s);
slot_t arbiter_of(const struct arbiters *arbiters, const struct cairn_digest *digest);
/* Tell the digest's arbiters what they do not know yet, and have others forget it. */
void items_hold(struct cairn_static *s, const struct cairn_digest *digest);
void items_withdraw(struct cairn_static *s, const struct cairn_digest *digest);
void items_leave(struct cairn_static *s, const struct cairn_digest *digest);
/* The arbiter in that slot has answered this. */
void items_answered(struct cairn_static *s, slot_t slot, const struct sentence *said,
		    const struct cairn_grant *grant);
/* Links came, went, or have become such as are asked: choose again for every item. */
void items_place(struct cairn_static *s);
/* That one knows nothing any more; again: tell it all again. */
void items_forgotten(struct cairn_static *s, slot_t slot, bool again);

/* ---- static_link.c ---- */
CAIRN_CHECKED enum cairn_code link_start(struct cairn_static *s, slot_t slot, const char *target,
					 struct cairn_err *err);
void link_stop(struct link *link);				   /* mu held; does not wait */
void link_free(struct link *link);				   /* after its thread was joined */
void link_push(struct link *link, struct request *request);	   /* mu held; takes a reference */
void link_say(struct link *link, const struct sentence *sentence); /* in the background; mu held */
void link_bulk(struct link *link, const struct cairn_digest *digest, bool withdraw); /* mu held */
bool link_idle(const struct link *link);					     /* mu held */
struct request *request_new(const struct sentence *sentence);
void request_unref(struct request *request); /* mu held */

/* ---- static_wire.c: messages ---- */
/* Say it, of n digests; asks and their like have one. */
CAIRN_CHECKED enum cairn_code wire_send(struct cairn_conn *conn, const struct sentence *sentence,
					const struct bulk_entry *digests, size_t n,
					struct cairn_err *err);
struct wire_answer {
	enum cairn_code code; /* the arbiter's; not OK: with message */
	char message[256];
	uint64_t life;
	struct cairn_answer answer;
};
/* own: is left out of what is found. false: it is no answer. */
bool wire_take(const Cairn__Peer__V1__DirectoryResponse *msg, const char *own,
	       struct wire_answer *ret);
/* Errors: those of conn.h; INVALID_ARGUMENT. */
CAIRN_CHECKED enum cairn_code wire_receive(struct cairn_conn *conn, const char *own,
					   int64_t timeout_ms, struct wire_answer *ret,
					   struct cairn_err *err);

/* ---- static_keeper.c ---- */
void *keeper_main(void *arg);
void keeper_choose(struct cairn_static *s); /* mu held: who lives, who is asked */

#endif
