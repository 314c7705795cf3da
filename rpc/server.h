/* The server's inside. Private to rpc/. */
#ifndef CAIRN_RPC_SERVER_H
#define CAIRN_RPC_SERVER_H

#include <grpc/grpc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/queue.h>
#include <sys/types.h>

#include "rpc/call.h"

/* Handlers at once, over all connections: bounds stacks and memory. More are refused. */
#define CAIRN_RPC_HANDLERS_MAX 16384
#define CAIRN_RPC_LISTENERS_MAX 8

struct cairn_service_method {
	const struct cairn_method *m;
	void *service;
	void *registered; /* gRPC's handle */
	/* figures; relaxed, each exact on its own */
	_Atomic uint64_t by_code[17], active, latency_us_sum;
	_Atomic uint64_t buckets[CAIRN_RPC_BUCKETS + 1]; /* not cumulative; the last: all slower */
	_Atomic uint64_t received_bytes, sent_bytes;
};

struct cairn_unix_listener {
	char path[108];
	int fd;
	dev_t dev; /* of the socket file we made, so that nobody else's is unlinked */
	ino_t ino;
};

struct cairn_rpc_server {
	struct cairn_rpc *rpc;
	grpc_server *server;
	grpc_server_credentials *plain;
	struct cairn_rpc_watch watch;
	size_t requests;		      /* that gRPC holds of each method */
	struct cairn_service_method *methods; /* fixed once started */
	size_t n_methods;
	void (*on_connect)(void *arg, pid_t pid); /* NULL: nobody asks */
	void *on_connect_arg;
	struct cairn_unix_listener listeners[CAIRN_RPC_LISTENERS_MAX];
	size_t n_listeners;
	int stop_fd; /* eventfd: the accept thread ends */
	pthread_t acceptor;
	bool started, accepting;
	_Atomic bool draining, hung_up; /* hung_up: set before draining, if at all */
	struct cairn_tag shutdown;

	pthread_mutex_t mu;
	pthread_cond_t changed;
	size_t active;			 /* guarded by mu; calls not yet over */
	size_t requested;		 /* guarded by mu; requests for a call that gRPC holds */
	bool shut_down;			 /* guarded by mu; gRPC's part of the shutdown is done */
	LIST_HEAD(, cairn_call) waiting; /* guarded by mu; calls that have waited */
};

static inline bool cairn_server_draining(const struct cairn_rpc_server *server)
{
	return atomic_load(&server->draining);
}
/* What a drain is to the calls of the server. */
static inline unsigned cairn_server_drain_event(const struct cairn_rpc_server *server)
{
	return atomic_load(&server->hung_up) ? CAIRN_ON_GONE : CAIRN_ON_DRAIN;
}
/* From now on the call hears of a drain. */
void cairn_server_add_waiter(struct cairn_rpc_server *server, struct cairn_call *call);

/* handler.c: ask gRPC for one more call of the method; NULL: of any that we do not have. Counts in
 * requested. */
void cairn_server_request(struct cairn_rpc_server *server, struct cairn_service_method *method);

/* stats.c */
void cairn_method_begin(struct cairn_service_method *m);
void cairn_method_end(struct cairn_service_method *m, const struct cairn_call *call,
		      enum cairn_code code);

/* listen.c: the accept thread for unix sockets. */
enum cairn_code cairn_accept_start(struct cairn_rpc_server *server, struct cairn_err *err);
void cairn_accept_stop(struct cairn_rpc_server *server);
void cairn_listeners_unlink(struct cairn_rpc_server *server);
void cairn_listeners_close(struct cairn_rpc_server *server);

/* creds.c */
enum cairn_code cairn_tls_server(const struct cairn_tls *tls, grpc_server_credentials **ret,
				 struct cairn_err *err);
enum cairn_code cairn_tls_client(const struct cairn_tls *tls, grpc_channel_credentials **ret,
				 struct cairn_err *err);

#endif
