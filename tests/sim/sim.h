/* The simulated cluster: nodes with links, a registry, a directory, and fills that decide with the
 * daemon's own code (p2p/plan.h, offer.h, policy.h). docs/scale.md says what is modelled and what
 * is not. One thread; the same options and seed give the same run. */
#ifndef CAIRN_TESTS_SIM_H
#define CAIRN_TESTS_SIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "p2p/bitmap.h"
#include "p2p/directory.h"
#include "p2p/offer.h"
#include "p2p/plan.h"
#include "p2p/policy.h"

#define SIM_NONE UINT32_MAX

struct sim_opts {
	uint32_t nodes;
	uint32_t blobs;		   /* layers of the image, of equal size */
	uint64_t image_bytes;	   /* all of them */
	uint32_t at_once;	   /* layers that a node gets at the same time */
	double up, down, registry; /* bytes a millisecond */
	int64_t tick_ms;
	int64_t start_ms;   /* the nodes begin within so long */
	int64_t latency_ms; /* a question to the directory and its answer */
	int64_t connect_ms; /* a connection with its handshake */
	int64_t stall_ms;
	int64_t forget_ms;  /* the directory forgets a dead node after so long */
	double slow_share;  /* of the nodes, whose links have ... */
	double slow_speed;  /* ... this of the others' speed */
	double die_at;	    /* the first granted node dies when it has this share; 0: it does not */
	uint32_t followers; /* most of one node and blob */
	uint64_t seed;
};

/* ---- links (link.c): the bytes of all transfers, divided fairly at both ends ---- */

struct sim_flow {
	uint32_t from, to; /* links: a node's number; opts.nodes is the registry */
	double left;	   /* bytes */
	uint32_t place;	   /* among the moving ones; SIM_NONE: it is still */
	bool registry;
};

/* ---- the cluster ---- */

struct sim_conn {
	struct sim_flow flow;	  /* first */
	bool used, open, arrived; /* arrived: the other side has answered */
	uint32_t index;
	uint32_t client, server; /* fills */
	uint32_t seat;		 /* among the server's followers */
	uint32_t queue[CAIRN_DEPTH_MAX];
	uint32_t n_queue;
	uint32_t next;		  /* unused one */
	struct cairn_bitmap told; /* pieces, if the server offers */
};

enum sim_state { SIM_IDLE, SIM_ASKING, SIM_FILLING, SIM_GRANTED, SIM_DONE };

struct sim_fill {
	uint32_t node, blob;
	enum sim_state state;
	struct cairn_plan *plan;
	struct cairn_bitmap have;
	bool dirty; /* something changed: look whom to ask for what */
	int64_t began_ms, done_ms;
	int64_t grant_seen_ms; /* when the present version was seen for the first time */
	uint64_t grant_version;
	uint32_t futile; /* answers in a row that told nothing new */
	bool asked;	 /* a question is on its way, or planned at ask_ms */
	int64_t ask_ms;
	uint32_t conns[CAIRN_OPEN_MAX];
	uint32_t n_conns;
	uint32_t *followers; /* connections to it */
	uint32_t n_followers, max_followers, most_followers;
	uint32_t *news; /* pieces that came since the followers were told */
	uint32_t n_news, max_news;
	struct cairn_offer *offer; /* of a granted one */
	bool seats[CAIRN_FOLLOWERS_MAX];
	struct sim_conn *fetch; /* from the registry */
	uint32_t fetched;	/* pieces */
	int64_t kept_ms;	/* when the grant was kept last */
};

struct sim_node {
	bool dead, slow;
	uint32_t next_blob, running; /* layers begun; of these, not done */
	int64_t began_ms, done_ms;
};

struct sim_record {
	uint32_t nodes[CAIRN_HOLDERS_MAX];
	uint32_t n;
};

struct sim_blob {
	struct sim_record holders, joiners;
	uint32_t grant_node;
	uint64_t grant_version, versions;
};

struct sim_result {
	double *times_ms; /* of the nodes that live and are not slow, sorted */
	uint32_t n_times, unfinished;
	double slow_worst_ms;
	double ideal_ms;
	double registry_bytes, sent_bytes;
	uint64_t asks, ask_peak; /* peak: in one second */
	double ask_mean;	 /* a second */
	uint32_t most_followers, most_conns;
	uint64_t busy, failed, twice;
};

struct sim {
	struct sim_opts o;
	uint64_t random;
	int64_t now;
	uint32_t n_pieces;
	uint64_t blob_bytes;
	struct sim_node *nodes;
	struct sim_fill *fills; /* of node n and blob b: n * blobs + b */
	struct sim_blob *blobs;
	struct sim_conn **conns;
	uint32_t n_conns, max_conns, free_conn;
	struct sim_flow **moving;
	uint32_t n_moving, max_moving;
	double *level_up, *level_down, *used_up, *used_down, *cap_up, *cap_down;
	struct sim_event *heap;
	size_t n_heap, max_heap;
	uint64_t event_order;
	uint32_t n_unfinished;
	uint32_t victim; /* the node that dies; SIM_NONE: none has to */
	uint64_t second_asks;
	int64_t second;
	struct sim_result r;
};

enum sim_event_type { SIM_START, SIM_ANSWER, SIM_CONNECTED, SIM_FORGET };

struct sim_event {
	int64_t at;
	uint64_t order;
	enum sim_event_type type;
	uint32_t what;
};

uint64_t sim_random(struct sim *s, uint64_t below);
void *sim_grow(void *array, uint32_t n, uint32_t *max, size_t size);

/* link.c */
void sim_links_init(struct sim *s);
void sim_links_fini(struct sim *s);
void sim_move_begin(struct sim *s, struct sim_flow *flow);
void sim_move_end(struct sim *s, struct sim_flow *flow);
/* One tick of all transfers: sim_moved is told of each. */
void sim_links_step(struct sim *s);
void sim_moved(struct sim *s, struct sim_flow *flow, double bytes);

/* directory.c */
struct sim_answer {
	uint32_t found[CAIRN_FIND_MAX + 1]; /* nodes */
	bool whole[CAIRN_FIND_MAX + 1];
	uint32_t n;
	uint32_t grant_node; /* SIM_NONE: free */
	uint64_t grant_version;
};
void sim_directory_ask(struct sim *s, uint32_t node, uint32_t blob, struct sim_answer *ret);
bool sim_directory_take(struct sim *s, uint32_t node, uint32_t blob, uint64_t version);
/* It still gets bytes. */
void sim_directory_keep(struct sim *s, uint32_t node, uint32_t blob);
void sim_directory_announce(struct sim *s, uint32_t node, uint32_t blob);
void sim_directory_forget(struct sim *s, uint32_t node);
void sim_directory_request(struct sim *s); /* counts one */

/* serve.c: what a node does for its followers */
void sim_got_piece(struct sim *s, struct sim_fill *f, uint32_t piece);
void sim_tell_followers(struct sim *s, struct sim_fill *f);
/* A new follower, or (false) there is no room. */
bool sim_follow(struct sim *s, struct sim_conn *c);
void sim_unfollow(struct sim *s, struct sim_conn *c);
void sim_get(struct sim *s, struct sim_conn *c, uint32_t piece);
/* The first piece of its queue is sent: returns it, and goes on with the next. */
uint32_t sim_sent(struct sim *s, struct sim_conn *c);

/* fill.c: what a node does to get a blob */
void sim_fill_start(struct sim *s, uint32_t node);
void sim_fill_answer(struct sim *s, struct sim_fill *f);
void sim_fill_connected(struct sim *s, struct sim_conn *c);
void sim_fill_turn(struct sim *s, struct sim_fill *f);
void sim_fill_come(struct sim *s, struct sim_conn *c, uint32_t piece);
void sim_fill_fetched(struct sim *s, struct sim_fill *f);
void sim_fill_hear(struct sim *s, struct sim_conn *c, uint32_t piece);
void sim_close(struct sim *s, struct sim_conn *c, enum cairn_plan_end end);
void sim_kill(struct sim *s, uint32_t node);

/* sim.c */
void sim_event(struct sim *s, int64_t in_ms, enum sim_event_type type, uint32_t what);
struct sim_conn *sim_conn_new(struct sim *s, uint32_t *ret);
uint32_t sim_conn_index(const struct sim *s, const struct sim_conn *c);
void sim_conn_free(struct sim *s, struct sim_conn *c);
/* Equal links of 100 Mbit/s, one layer of 200 MiB, ten nodes. */
void sim_defaults(struct sim_opts *ret);
void sim_run(const struct sim_opts *opts, struct sim_result *ret);

#endif
