/* One thread accepts, one a connection serves. mu guards the lists and counts. A connection is
 * interrupted with mu held, and is off the list before it is freed; an interrupt is a flag and one
 * write to an eventfd. Threads that have ended are joined by the accepting one. */
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "p2p/address.h"
#include "p2p/pool.h"

#define BACKLOG 1024
#define RESOLVE_MS 5000
#define PAUSE_MS 100	/* when there is no file descriptor, memory or thread left */
#define LOG_MS 10000	/* between two lines about strangers */
#define IDLE_MS 3600000 /* the accepting thread looks around, though nothing happened */

struct guest {
	struct cairn_listener *listener;
	struct cairn_conn *conn;
	int fd; /* the connection's, once it is answered */
	pthread_t thread;
	bool handshaking;
	bool caller;  /* counted as such */
	bool hurried; /* others wait for its place: interrupted */
	int64_t begin_ns;
	struct guest *prev, *next; /* in live, or (next alone) in ended */
};

struct cairn_listener {
	struct cairn_listener_opts opts;
	int fd, port;
	int wake_fd; /* eventfd: the accepting thread is to look around */
	pthread_t thread;
	bool running;
	pthread_mutex_t mu;
	struct guest *live, *ended; /* live: the newest first */
	size_t n_handshakes;
	bool stopping;
	struct cairn_listener_stats stats;
	int64_t next_log_ns;
	uint64_t unlogged;
};

static int64_t now_ns(void)
{
	return cairn_boot_ns(&cairn_clock_system);
}

static void wake(struct cairn_listener *listener)
{
	(void)eventfd_write(listener->wake_fd, 1);
}

/* ---- those who come ---- */

/* Somebody gets nothing here. err: why. */
static void refuse(struct cairn_listener *listener, const struct cairn_err *err)
{
	int64_t now = now_ns();
	pthread_mutex_lock(&listener->mu);
	bool stopping = listener->stopping, log = now >= listener->next_log_ns && !stopping;
	uint64_t others = listener->unlogged;
	if (!stopping) listener->stats.refused++;
	listener->unlogged = log ? 0 : others + 1;
	if (log) listener->next_log_ns = now + LOG_MS * CAIRN_NS_PER_MS;
	pthread_mutex_unlock(&listener->mu);
	if (log) {
		cairn_log(CAIRN_LOG_WARN, "peer_refused", CAIRN_NUM("others", others),
			  CAIRN_ERRF(err));
	}
}

/* Who it is, is known now: it has a place among its kind, or none. */
static enum cairn_code take_place_locked(struct guest *guest, struct cairn_err *err)
{
	struct cairn_listener_stats *stats = &guest->listener->stats;
	if (!cairn_conn_is_caller(guest->conn)) {
		if (stats->connections <= CAIRN_LISTENER_MAX) return CAIRN_OK;
		return cairn_err_set(err, CAIRN_RESOURCE_EXHAUSTED,
				     "%d connections: no room for another: the most there may be",
				     CAIRN_LISTENER_MAX);
	}
	if (stats->callers >= CAIRN_LISTENER_CALLERS) {
		return cairn_err_set(err, CAIRN_RESOURCE_EXHAUSTED,
				     "%d connections of admins, and of who would be one: the most "
				     "there may be",
				     CAIRN_LISTENER_CALLERS);
	}
	guest->caller = true;
	stats->callers++;
	stats->connections--;
	return CAIRN_OK;
}

static enum cairn_code shake_hands(struct guest *guest)
{
	struct cairn_listener *listener = guest->listener;
	struct cairn_err err;
	enum cairn_code rc =
		cairn_conn_answer(guest->conn, listener->opts.tls, guest->fd, listener->opts.own,
				  CAIRN_LISTENER_HANDSHAKE_MS, &err);
	pthread_mutex_lock(&listener->mu);
	guest->handshaking = false;
	listener->n_handshakes--;
	if (rc == CAIRN_OK && guest->hurried && !listener->stopping) {
		rc = cairn_err_set(&err, CAIRN_CANCELLED, "interrupted");
	}
	if (rc == CAIRN_OK) rc = take_place_locked(guest, &err);
	if (rc == CAIRN_OK && !guest->caller) listener->stats.accepted++;
	bool hurried = guest->hurried;
	pthread_mutex_unlock(&listener->mu);
	wake(listener);
	if (rc == CAIRN_OK) return rc;
	if (hurried) cairn_err_wrap(&err, "too slow while others wait");
	refuse(listener, &err);
	return rc;
}

static void *serve(void *arg)
{
	struct guest *guest = arg;
	struct cairn_listener *listener = guest->listener;
	if (shake_hands(guest) == CAIRN_OK) {
		struct cairn_err err;
		if (!guest->caller) {
			listener->opts.serve(listener->opts.arg, guest->conn);
		} else if (cairn_conn_serve_caller(guest->conn, &listener->opts.callers, &err) !=
			   CAIRN_OK) {
			refuse(listener, &err);
		}
	}
	pthread_mutex_lock(&listener->mu);
	struct cairn_conn *conn = cairn_steal(&guest->conn);
	if (guest->prev != NULL) guest->prev->next = guest->next;
	if (guest->next != NULL) guest->next->prev = guest->prev;
	if (listener->live == guest) listener->live = guest->next;
	pthread_mutex_unlock(&listener->mu);
	cairn_conn_free(conn);

	pthread_mutex_lock(&listener->mu); /* from here on we are to be joined */
	guest->next = listener->ended;
	listener->ended = guest;
	if (guest->caller) {
		listener->stats.callers--;
	} else {
		listener->stats.connections--;
	}
	pthread_mutex_unlock(&listener->mu);
	wake(listener);
	return NULL;
}

static void join_ended(struct cairn_listener *listener)
{
	pthread_mutex_lock(&listener->mu);
	struct guest *list = cairn_steal(&listener->ended);
	pthread_mutex_unlock(&listener->mu);
	while (list != NULL) {
		struct guest *guest = list;
		list = guest->next;
		pthread_join(guest->thread, NULL);
		free(guest);
	}
}

/* The thread begins with the lock held by us: it ends not before it is on the list. */
static int start_locked(struct cairn_listener *listener, struct guest *guest)
{
	pthread_attr_t attr;
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, CAIRN_LISTENER_STACK);
	int rc = pthread_create(&guest->thread, &attr, serve, guest);
	pthread_attr_destroy(&attr);
	if (rc != 0) return rc;
	guest->next = listener->live;
	if (guest->next != NULL) guest->next->prev = guest;
	listener->live = guest;
	listener->n_handshakes++;
	listener->stats.connections++;
	return 0;
}

/* Owns fd. False: there is no room for a thread. */
static bool welcome(struct cairn_listener *listener, int fd)
{
	struct guest *guest = calloc(1, sizeof(*guest));
	if (guest == NULL) abort();
	guest->listener = listener;
	guest->conn = cairn_conn_new();
	guest->fd = fd;
	guest->handshaking = true;
	guest->begin_ns = now_ns();
	bool calls = listener->opts.callers.open != NULL;
	unsigned most = CAIRN_LISTENER_MAX + (calls ? CAIRN_LISTENER_SPARE : 0);
	pthread_mutex_lock(&listener->mu);
	bool full = listener->stats.connections >= most;
	int rc = full ? 0 : start_locked(listener, guest);
	pthread_mutex_unlock(&listener->mu);
	if (!full && rc == 0) return true;
	struct cairn_err err;
	cairn_err_set(&err, CAIRN_RESOURCE_EXHAUSTED, "%u connections: no room for another: %s",
		      most, full ? "the most there may be" : strerror(rc));
	refuse(listener, &err);
	(void)close(fd);
	cairn_conn_free(guest->conn);
	free(guest);
	return full;
}

/* ---- accepting ---- */

/* Is there room for a handshake? If not, the oldest is hurried once it has had its time; *ret_ms:
 * when to look again. */
static bool has_room(struct cairn_listener *listener, int64_t *ret_ms)
{
	const int64_t patience_ns = CAIRN_LISTENER_PATIENCE_MS * CAIRN_NS_PER_MS;
	int64_t now = now_ns();
	struct guest *oldest = NULL;
	*ret_ms = IDLE_MS;
	pthread_mutex_lock(&listener->mu);
	bool room = listener->n_handshakes < CAIRN_LISTENER_HANDSHAKES;
	for (struct guest *guest = listener->live; !room && guest != NULL; guest = guest->next) {
		if (guest->handshaking && !guest->hurried) oldest = guest;
	}
	if (oldest != NULL && now - oldest->begin_ns >= patience_ns) {
		oldest->hurried = true;
		cairn_conn_interrupt(oldest->conn); /* it wakes us when it is gone */
	} else if (oldest != NULL) {
		*ret_ms = (oldest->begin_ns + patience_ns - now) / CAIRN_NS_PER_MS + 1;
	}
	pthread_mutex_unlock(&listener->mu);
	return room;
}

/* Take who waits. False: it cannot be done now. */
static bool accept_one(struct cairn_listener *listener)
{
	int fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd >= 0) return welcome(listener, fd);
	if (errno != EMFILE && errno != ENFILE && errno != ENOBUFS && errno != ENOMEM) return true;
	struct cairn_err err;
	cairn_err_sys(&err, errno, "accept");
	refuse(listener, &err);
	return false;
}

static bool is_stopping(struct cairn_listener *listener)
{
	pthread_mutex_lock(&listener->mu);
	bool stopping = listener->stopping;
	pthread_mutex_unlock(&listener->mu);
	return stopping;
}

static void *accept_all(void *arg)
{
	struct cairn_listener *listener = arg;
	bool pause = false;
	while (!is_stopping(listener)) {
		int64_t wait_ms;
		bool room = has_room(listener, &wait_ms) && !pause;
		if (pause) wait_ms = PAUSE_MS;
		struct pollfd fds[] = {{listener->wake_fd, POLLIN, 0},
				       {room ? listener->fd : -1, POLLIN, 0}};
		int n = poll(fds, 2, (int)wait_ms);
		pause = false;
		eventfd_t ignored;
		if (n > 0 && fds[0].revents != 0) (void)eventfd_read(listener->wake_fd, &ignored);
		join_ended(listener);
		if (n > 0 && fds[1].revents != 0) pause = !accept_one(listener);
	}
	return NULL;
}

/* ---- the listener ---- */

static enum cairn_code bind_to(int fd, const struct addrinfo *addr, int *ret_port,
			       struct cairn_err *err)
{
	const int on = 1, off = 0;
	(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (addr->ai_family == AF_INET6) { /* [::] is for everybody */
		(void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
	}
	struct sockaddr_storage at;
	socklen_t n = sizeof(at);
	if (bind(fd, addr->ai_addr, addr->ai_addrlen) != 0 || listen(fd, BACKLOG) != 0 ||
	    getsockname(fd, (struct sockaddr *)&at, &n) != 0) {
		return cairn_err_sys(err, errno, "bind");
	}
	struct sockaddr_in v4; /* the port is at the same place in both */
	memcpy(&v4, &at, sizeof(v4));
	*ret_port = ntohs(v4.sin_port);
	return CAIRN_OK;
}

static enum cairn_code listen_on(struct cairn_listener *listener, struct cairn_err *err)
{
	struct cairn_address address;
	struct addrinfo *addrs = NULL;
	enum cairn_code rc = cairn_address_parse(listener->opts.listen, true, &address, err);
	if (rc != CAIRN_OK) return rc;
	rc = cairn_address_resolve(&address, -1, now_ns() + RESOLVE_MS * CAIRN_NS_PER_MS, &addrs,
				   err);
	if (rc != CAIRN_OK) return err->code = CAIRN_INVALID_ARGUMENT;
	listener->fd = socket(addrs->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (listener->fd < 0) {
		rc = cairn_err_sys(err, errno, "socket");
	} else {
		rc = bind_to(listener->fd, addrs, &listener->port, err);
	}
	freeaddrinfo(addrs);
	return rc;
}

enum cairn_code cairn_listener_new(const struct cairn_listener_opts *opts,
				   struct cairn_listener **ret, struct cairn_err *err)
{
	struct cairn_listener *listener = calloc(1, sizeof(*listener));
	if (listener == NULL) abort();
	listener->opts = *opts;
	listener->fd = -1;
	pthread_mutex_init(&listener->mu, NULL);
	listener->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	enum cairn_code rc = listener->wake_fd >= 0 ? listen_on(listener, err)
						    : cairn_err_sys(err, errno, "eventfd");
	if (rc == CAIRN_OK) {
		listener->opts.listen = NULL; /* not ours to keep */
		*ret = listener;
		return rc;
	}
	cairn_listener_free(listener);
	return cairn_err_wrap(err, "listen on %s", opts->listen);
}

enum cairn_code cairn_listener_run(struct cairn_listener *listener, struct cairn_err *err)
{
	int rc = pthread_create(&listener->thread, NULL, accept_all, listener);
	if (rc != 0) return cairn_err_sys(err, rc, "start the thread that accepts peers");
	listener->running = true;
	return CAIRN_OK;
}

int cairn_listener_port(const struct cairn_listener *listener)
{
	return listener->port;
}

void cairn_listener_free(struct cairn_listener *listener)
{
	if (listener == NULL) return;
	pthread_mutex_lock(&listener->mu);
	listener->stopping = true;
	pthread_mutex_unlock(&listener->mu);
	if (listener->running) {
		wake(listener);
		pthread_join(listener->thread, NULL);
	}
	if (listener->fd >= 0) (void)close(listener->fd);
	pthread_mutex_lock(&listener->mu);
	for (struct guest *guest = listener->live; guest != NULL; guest = guest->next) {
		cairn_conn_interrupt(guest->conn);
	}
	pthread_mutex_unlock(&listener->mu);
	for (;;) {
		join_ended(listener);
		pthread_mutex_lock(&listener->mu);
		bool done = listener->stats.connections + listener->stats.callers == 0 &&
			    listener->ended == NULL;
		pthread_mutex_unlock(&listener->mu);
		if (done) break;
		eventfd_t ignored;
		struct pollfd fd = {listener->wake_fd, POLLIN, 0};
		if (poll(&fd, 1, -1) > 0) (void)eventfd_read(listener->wake_fd, &ignored);
	}
	if (listener->wake_fd >= 0) (void)close(listener->wake_fd);
	pthread_mutex_destroy(&listener->mu);
	free(listener);
}

void cairn_listener_get_stats(struct cairn_listener *listener, struct cairn_listener_stats *ret)
{
	pthread_mutex_lock(&listener->mu);
	*ret = listener->stats;
	pthread_mutex_unlock(&listener->mu);
}
