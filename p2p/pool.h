/* Connections that we have made to peers: taken by one user at a time, kept for a while in between,
 * so that a small blob costs no handshake. And the listener with its threads, one a connection.
 * Threads: internally locked. */
#ifndef CAIRN_P2P_POOL_H
#define CAIRN_P2P_POOL_H

#include "p2p/conn.h"
#include "p2p/p2p.h"

#define CAIRN_POOL_IDLE_MS 60000 /* the server's side closes later than that */
#define CAIRN_POOL_IDLE_MAX 256	 /* connections; the oldest goes */

struct cairn_pool;

struct cairn_pool *cairn_pool_new(struct cairn_tls_files *tls, const struct cairn_hello *own);
/* All must have been given back. NULL is fine. */
void cairn_pool_free(struct cairn_pool *pool);
/* Dialling ends, taken connections are interrupted, nothing is given out any more. */
void cairn_pool_cancel(struct cairn_pool *pool);

/* An idle connection to the address, or a new one. *ret_fresh: it is new. One that was idle may
 * have been closed by the other side: who fails on such a one before an answer tries once with a
 * new one (fresh_only). Blocks. Errors: as cairn_conn_dial. */
CAIRN_CHECKED enum cairn_code cairn_pool_take(struct cairn_pool *pool, const char *address,
					      bool fresh_only, int64_t timeout_ms,
					      struct cairn_conn **ret, bool *ret_fresh,
					      struct cairn_err *err);
/* reusable: it is between two questions. Owns: consumes *conn. */
void cairn_pool_give(struct cairn_pool *pool, struct cairn_conn **conn, bool reusable);
/* Close those that were idle for longer than CAIRN_POOL_IDLE_MS at that (boot) time. It happens by
 * itself, some time later; tests move the time. */
void cairn_pool_expire(struct cairn_pool *pool, int64_t at_ns);
size_t cairn_pool_count(struct cairn_pool *pool); /* idle and taken */

/* ---- the listener ---- */

#define CAIRN_LISTENER_MAX 1024	     /* connections; more are closed at once */
#define CAIRN_LISTENER_HANDSHAKES 64 /* of these, in their handshake; who comes then waits */
#define CAIRN_LISTENER_STACK (512u << 10)
#define CAIRN_LISTENER_HANDSHAKE_MS 5000 /* for a handshake ... */
#define CAIRN_LISTENER_PATIENCE_MS 1000	 /* ... and so long at least, while others wait */
/* Callers have places of their own, so that a node that all its peers are busy with can be asked
 * why; and so has whoever is not known yet to be one. */
#define CAIRN_LISTENER_CALLERS 20
#define CAIRN_LISTENER_SPARE 16

struct cairn_listener;

struct cairn_listener_opts {
	const char *listen; /* host:port or [v6]:port; port 0 takes a free one */
	struct cairn_tls_files *tls;
	const struct cairn_hello *own; /* read at each handshake */
	/* Serve the connection until it ends; on its own thread, whose stack is
	 * CAIRN_LISTENER_STACK. It frees nothing. */
	void (*serve)(void *arg, struct cairn_conn *conn);
	void *arg;
	struct cairn_callers callers; /* if tls offers HTTP/2 */
};

/* Strangers are logged (ev=peer_refused), at most one in ten seconds, with the number of the
 * others.
 *
 * Bound and listening; nothing is accepted before cairn_listener_run. Errors: INVALID_ARGUMENT,
 * INTERNAL. */
CAIRN_CHECKED enum cairn_code cairn_listener_new(const struct cairn_listener_opts *opts,
						 struct cairn_listener **ret,
						 struct cairn_err *err);
CAIRN_CHECKED enum cairn_code cairn_listener_run(struct cairn_listener *listener,
						 struct cairn_err *err);
int cairn_listener_port(const struct cairn_listener *listener);
/* Interrupts all connections, joins all threads. NULL is fine. */
void cairn_listener_free(struct cairn_listener *listener);

struct cairn_listener_stats {
	uint64_t connections;	    /* now, of peers, and of who is not known yet */
	uint64_t callers;	    /* now */
	uint64_t accepted, refused; /* since start; refused: no valid certificate, no Hello, full */
};
void cairn_listener_get_stats(struct cairn_listener *listener, struct cairn_listener_stats *ret);

#endif
