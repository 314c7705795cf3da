#include "rpc/server.h"

#include <assert.h>
#include <errno.h>
#include <grpc/grpc_security.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"

#define METHODS_MAX 256
#define REQUESTS 4     /* calls asked for in advance: one per thread that may take one, and spare */
#define GOODBYE_MS 200 /* for clients to answer the polite end of a connection without calls */
#define DRAIN_SAY_MS 5000 /* how often a drain says that it waits for handlers */

static grpc_server *make_server(int message_max, int streams_max)
{
	grpc_arg args[] = {
		{.type = GRPC_ARG_INTEGER,
		 .key = GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH,
		 .value.integer = message_max},
		{.type = GRPC_ARG_INTEGER,
		 .key = GRPC_ARG_MAX_SEND_MESSAGE_LENGTH,
		 .value.integer = -1},
		{.type = GRPC_ARG_INTEGER,
		 .key = GRPC_ARG_MAX_CONCURRENT_STREAMS,
		 .value.integer = streams_max},
		/* Go clients ping to measure bandwidth, keepalives are their business: no strikes.
		 */
		{.type = GRPC_ARG_INTEGER,
		 .key = GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
		 .value.integer = 0},
		{.type = GRPC_ARG_INTEGER,
		 .key = GRPC_ARG_HTTP2_MAX_PING_STRIKES,
		 .value.integer = 0},
		{.type = GRPC_ARG_INTEGER,
		 .key = GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS,
		 .value.integer = 1},
		/* Bulk bytes are used where they lie: compressed messages are refused. */
		{.type = GRPC_ARG_INTEGER,
		 .key = GRPC_COMPRESSION_CHANNEL_ENABLED_ALGORITHMS_BITSET,
		 .value.integer = 1 << GRPC_COMPRESS_NONE},
		/* So no filter need ask of each call whether to compress; the one that decompresses
		 * stays: it is what refuses. */
		{.type = GRPC_ARG_INTEGER,
		 .key = GRPC_ARG_ENABLE_PER_MESSAGE_COMPRESSION,
		 .value.integer = 0},
		/* gRPC's own figures of each call and socket, which nobody can ask for. */
		{.type = GRPC_ARG_INTEGER, .key = GRPC_ARG_ENABLE_CHANNELZ, .value.integer = 0},
		/* A second daemon on a port must fail, not share it. */
		{.type = GRPC_ARG_INTEGER, .key = GRPC_ARG_ALLOW_REUSEPORT, .value.integer = 0},
	};
	grpc_channel_args list = {CAIRN_LEN(args), args};
	return grpc_server_create(&list, NULL);
}

static enum cairn_code new_server(struct cairn_rpc *rpc, int message_max, int streams_max,
				  struct cairn_rpc_server **ret, struct cairn_err *err)
{
	struct cairn_rpc_server *server = calloc(1, sizeof(*server));
	if (server == NULL) abort();
	server->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (server->stop_fd < 0) {
		free(server);
		return cairn_err_sys(err, errno, "make a gRPC server: eventfd");
	}
	server->rpc = rpc;
	pthread_mutex_init(&server->mu, NULL);
	pthread_condattr_t attr;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&server->changed, &attr);
	pthread_condattr_destroy(&attr);
	LIST_INIT(&server->waiting);
	server->server = make_server(message_max, streams_max);
	server->plain = grpc_insecure_server_credentials_create();
	grpc_server_register_completion_queue(server->server, rpc->cq, NULL);
	server->requests = REQUESTS;
	*ret = server;
	return CAIRN_OK;
}

enum cairn_code cairn_rpc_server_new(struct cairn_rpc *rpc, struct cairn_rpc_server **ret,
				     struct cairn_err *err)
{
	return new_server(rpc, CAIRN_RPC_MESSAGE_MAX, CAIRN_RPC_STREAMS_MAX, ret, err);
}

enum cairn_code cairn_rpc_server_new_small(struct cairn_rpc *rpc, struct cairn_rpc_server **ret,
					   struct cairn_err *err)
{
	enum cairn_code rc =
		new_server(rpc, CAIRN_RPC_SMALL_MESSAGE_MAX, CAIRN_RPC_SMALL_STREAMS_MAX, ret, err);
	if (rc == CAIRN_OK) (*ret)->requests = 1;
	return rc;
}

void cairn_rpc_server_watch(struct cairn_rpc_server *server, const struct cairn_rpc_watch *watch)
{
	assert(!server->started);
	server->watch = *watch;
}

void cairn_rpc_server_add(struct cairn_rpc_server *server, const struct cairn_method *methods,
			  size_t n, void *service)
{
	assert(!server->started && server->n_methods + n <= METHODS_MAX);
	server->methods = realloc(server->methods,
				  (server->n_methods + n) * sizeof(struct cairn_service_method));
	if (server->methods == NULL) abort();
	for (size_t i = 0; i < n; i++) {
		const struct cairn_method *m = &methods[i];
		assert((m->unary != NULL) + (m->server_stream != NULL) + (m->bidi != NULL) == 1);
		struct cairn_service_method *sm = &server->methods[server->n_methods++];
		memset(sm, 0, sizeof(*sm));
		sm->m = m;
		sm->service = service;
	}
}

enum cairn_code cairn_rpc_server_listen_tcp(struct cairn_rpc_server *server, const char *address,
					    const struct cairn_tls *tls, int *ret_port,
					    struct cairn_err *err)
{
	assert(!server->started);
	grpc_server_credentials *creds = server->plain;
	if (tls != NULL) {
		enum cairn_code rc = cairn_tls_server(tls, &creds, err);
		if (rc) return cairn_err_wrap(err, "listen on %s", address);
	}
	int port = grpc_server_add_http2_port(server->server, address, creds);
	if (tls != NULL) grpc_server_credentials_release(creds);
	if (port == 0) {
		return cairn_err_set(
			err, CAIRN_INTERNAL,
			"listen on %s: the address is not host:port, is not this "
			"machine's, is in use%s",
			address, tls == NULL ? "" : ", or certificate and key do not go together");
	}
	*ret_port = port;
	return CAIRN_OK;
}

enum cairn_code cairn_rpc_server_start(struct cairn_rpc_server *server, struct cairn_err *err)
{
	assert(!server->started);
	for (size_t i = 0; i < server->n_methods; i++) {
		const struct cairn_method *m = server->methods[i].m;
		server->methods[i].registered = grpc_server_register_method(
			server->server, m->path, NULL,
			m->bidi != NULL ? GRPC_SRM_PAYLOAD_NONE
					: GRPC_SRM_PAYLOAD_READ_INITIAL_BYTE_BUFFER,
			0);
		assert(server->methods[i].registered != NULL); /* NULL: added twice */
	}
	grpc_server_start(server->server);
	server->started = true;
	for (size_t k = 0; k < server->requests; k++) {
		cairn_server_request(server, NULL);
		for (size_t i = 0; i < server->n_methods; i++) {
			cairn_server_request(server, &server->methods[i]);
		}
	}
	return cairn_accept_start(server, err);
}

void cairn_server_add_waiter(struct cairn_rpc_server *server, struct cairn_call *call)
{
	pthread_mutex_lock(&server->mu);
	if (!call->in_waiters) LIST_INSERT_HEAD(&server->waiting, call, waiters);
	call->in_waiters = true;
	pthread_mutex_unlock(&server->mu);
}

/* ---- the end --------------------------------------------------------------------------------- */

static void shut_down(struct cairn_tag *tag, bool ok)
{
	(void)ok;
	struct cairn_rpc_server *server =
		(struct cairn_rpc_server *)(void *)((char *)tag -
						    offsetof(struct cairn_rpc_server, shutdown));
	pthread_mutex_lock(&server->mu);
	server->shut_down = true;
	pthread_cond_broadcast(&server->changed);
	pthread_mutex_unlock(&server->mu);
}

/* Wait until done(server) or the deadline; false if it passed. */
static bool wait_until_locked(struct cairn_rpc_server *server,
			      bool (*done)(const struct cairn_rpc_server *server),
			      int64_t deadline_ns)
{
	struct timespec ts = {
		.tv_sec = (time_t)(deadline_ns / 1000000000),
		.tv_nsec = (long)(deadline_ns % 1000000000),
	};
	while (!done(server)) {
		int rc = pthread_cond_timedwait(&server->changed, &server->mu, &ts);
		if (rc == ETIMEDOUT) return done(server);
	}
	return true;
}

static bool no_calls(const struct cairn_rpc_server *server)
{
	return server->active == 0;
}

static bool all_done(const struct cairn_rpc_server *server)
{
	return server->active == 0 && server->requested == 0 && server->shut_down;
}

/* From here on no call of this server comes, waits end, and nothing new is accepted. */
static void begin_drain(struct cairn_rpc_server *server)
{
	cairn_listeners_unlink(server);
	cairn_accept_stop(server);
	cairn_listeners_close(server);
	pthread_mutex_lock(&server->mu);
	atomic_store(&server->draining, true);
	struct cairn_call *call;
	unsigned event = cairn_server_drain_event(server);
	LIST_FOREACH(call, &server->waiting, waiters) cairn_call_wake(call, event, false);
	pthread_mutex_unlock(&server->mu);
	cairn_tag_arm(&server->shutdown, shut_down);
	grpc_server_shutdown_and_notify(server->server, server->rpc->cq, &server->shutdown);
}

static void cancel_all(struct cairn_rpc_server *server)
{
	pthread_mutex_unlock(&server->mu);
	grpc_server_cancel_all_calls(server->server);
	pthread_mutex_lock(&server->mu);
}

size_t cairn_rpc_server_drain(struct cairn_rpc_server *server, int64_t timeout_ms)
{
	assert(cairn_fiber_current() == NULL && !cairn_server_draining(server));
	if (timeout_ms < 0) timeout_ms = 0;
	if (timeout_ms > INT32_MAX) timeout_ms = INT32_MAX;
	int64_t deadline = cairn_monotonic_ns() + timeout_ms * 1000000;
	begin_drain(server);
	pthread_mutex_lock(&server->mu);
	size_t cancelled = 0;
	if (!wait_until_locked(server, no_calls, deadline)) {
		cancelled = server->active;
	} else {
		/* gRPC now waits for each client to acknowledge. One that is idle, or is no gRPC
		 * client at all, may never do so. */
		(void)wait_until_locked(server, all_done,
					cairn_monotonic_ns() + GOODBYE_MS * INT64_C(1000000));
	}
	if (!all_done(server)) cancel_all(server);
	while (!wait_until_locked(server, all_done,
				  cairn_monotonic_ns() + DRAIN_SAY_MS * INT64_C(1000000))) {
		cairn_log(CAIRN_LOG_WARN, "rpc_drain", CAIRN_NUM("calls", server->active),
			  CAIRN_STR("msg", "waiting for handlers to return"));
	}
	pthread_mutex_unlock(&server->mu);
	return cancelled;
}

void cairn_rpc_server_hang_up(struct cairn_rpc_server *server)
{
	atomic_store(&server->hung_up, true);
	(void)cairn_rpc_server_drain(server, 0);
}

void cairn_rpc_server_free(struct cairn_rpc_server *server)
{
	if (server == NULL) return;
	/* gRPC wants a shutdown of a server that never started, too. */
	if (!cairn_server_draining(server)) (void)cairn_rpc_server_drain(server, 0);
	grpc_server_destroy(server->server);
	grpc_server_credentials_release(server->plain);
	close(server->stop_fd);
	pthread_cond_destroy(&server->changed);
	pthread_mutex_destroy(&server->mu);
	free(server->methods);
	free(server);
}
