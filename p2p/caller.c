/* One thread carries both directions of a connection: it polls the TLS socket, its end of the pair,
 * and the eventfd that interrupts it.
 *
 *  - Memory is bounded: a direction has one buffer of a record, and nothing is read into it before
 *    it is empty; below it are the buffers of the two sockets, and of the stream. So a caller that
 *    does not read stops the service's writes (which end by its own rules), and a service that does
 *    not read stops the caller.
 *  - Nothing is held for ever: a caller who says nothing at first, nothing at all for long, or
 * takes nothing of what is for him, is closed.
 *  - The caller's end ends all: HTTP/2 knows no half-closed connection. The service's end does so
 *    only when what it said before (the last status, GOAWAY) has gone out.
 *  - The pair's end is closed before the session: the service sees that its caller is gone, and
 *    cancels his calls, so that closing the session has little to wait for. */
#include "p2p/caller.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"

/* One direction: bytes [from, to) of buf wait. */
struct way {
	uint8_t buf[CAIRN_RECORD_MAX];
	size_t from, to;
};

struct pump {
	struct cairn_stream *stream;
	int fd; /* our end of the pair */
	struct way in, out;
	bool heard;	  /* the caller has said something */
	bool served_out;  /* the service has ended; what is in `out` still goes */
	int64_t moved_ns; /* when a byte last went, in either direction */
	int64_t taken_ns; /* when the caller last took one, or nothing was for him */
	uint64_t sent;	  /* stream->sent at that time */
	short caller_events, service_events; /* what to poll for */
};

static int64_t now_ns(void)
{
	return cairn_boot_ns(&cairn_clock_system);
}

static bool waits(const struct way *way)
{
	return way->from < way->to;
}

static void fill(struct way *way, size_t n)
{
	way->from = 0;
	way->to = n;
}

static bool again(void)
{
	return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
}

/* From the caller to the service. False: the caller has ended. *ret_moved: something went. */
static bool pump_in(struct pump *pump, bool *ret_moved)
{
	struct cairn_err err;
	short events = 0;
	if (!waits(&pump->in)) {
		ssize_t n = cairn_stream_try_read(pump->stream, pump->in.buf, sizeof(pump->in.buf),
						  &events, &err);
		if (n < 0) return false;
		pump->caller_events |= events;
		fill(&pump->in, (size_t)n);
		if (n == 0) return true;
		pump->heard = *ret_moved = true;
	}
	if (pump->served_out) { /* nobody listens any more */
		fill(&pump->in, 0);
		return true;
	}
	ssize_t n = send(pump->fd, pump->in.buf + pump->in.from, pump->in.to - pump->in.from,
			 MSG_NOSIGNAL | MSG_DONTWAIT);
	if (n > 0) {
		pump->in.from += (size_t)n;
		*ret_moved = true;
	} else if (again()) {
		pump->service_events |= POLLOUT;
	} else {
		fill(&pump->in, 0); /* closed: its last words are still to be read */
	}
	return true;
}

/* From the service to the caller. False: the caller has ended, or all of the service's words have
 * gone and there will be no more. */
static bool pump_out(struct pump *pump, bool *ret_moved)
{
	struct cairn_err err;
	short events = 0;
	if (!waits(&pump->out) && !pump->served_out) {
		ssize_t n = recv(pump->fd, pump->out.buf, sizeof(pump->out.buf), MSG_DONTWAIT);
		if (n > 0) {
			fill(&pump->out, (size_t)n);
			*ret_moved = true;
		} else if (n < 0 && again()) {
			pump->service_events |= POLLIN;
		} else {
			pump->served_out = *ret_moved = true;
		}
	}
	if (waits(&pump->out)) {
		ssize_t n = cairn_stream_try_write(pump->stream, pump->out.buf + pump->out.from,
						   pump->out.to - pump->out.from, &events, &err);
		if (n < 0) return false;
		pump->out.from += (size_t)n;
		*ret_moved |= n > 0;
		pump->caller_events |= events;
	}
	int flushed = cairn_stream_try_flush(pump->stream, &events, &err);
	if (flushed < 0) return false;
	if (flushed == 0) pump->caller_events |= events;
	if (pump->sent != pump->stream->sent || (flushed == 1 && !waits(&pump->out))) {
		pump->taken_ns = now_ns();
		pump->sent = pump->stream->sent;
	}
	return !(pump->served_out && flushed == 1 && !waits(&pump->out));
}

/* How long may it stay as it is? */
static int64_t patience_ns(const struct pump *pump)
{
	int64_t now = now_ns();
	int64_t idle_ms = pump->heard ? CAIRN_CALLER_IDLE_MS : CAIRN_CALLER_FIRST_MS;
	int64_t idle = pump->moved_ns + idle_ms * CAIRN_NS_PER_MS - now;
	int64_t stall = pump->taken_ns + CAIRN_CALLER_STALL_MS * CAIRN_NS_PER_MS - now;
	if ((pump->caller_events & POLLOUT) == 0) return idle;
	return idle < stall ? idle : stall;
}

/* False: nothing came in time, the caller is gone, or we are interrupted. */
static bool wait_for_more(struct pump *pump)
{
	int64_t left_ns = patience_ns(pump);
	/* poll tells of an end also where it was not asked about anything. The service's can wait
	 * until what it said before has gone; the caller's ends all. */
	bool asked = pump->service_events != 0 && !pump->served_out;
	struct pollfd fds[] = {{pump->stream->fd, pump->caller_events, 0},
			       {asked ? pump->fd : -1, pump->service_events, 0},
			       {pump->stream->stop_fd, POLLIN, 0}};
	int n = poll(fds, 3, (int)(left_ns / CAIRN_NS_PER_MS) + 1);
	if (n < 0) return errno == EINTR;
	if (pump->caller_events == 0 && fds[0].revents != 0) return false;
	return fds[2].revents == 0;
}

static void carry(struct pump *pump)
{
	for (;;) {
		bool moved = false;
		if (atomic_load(&pump->stream->stopped)) return;
		pump->caller_events = pump->service_events = 0;
		if (!pump_out(pump, &moved)) break;
		if (!pump_in(pump, &moved)) return;
		if (moved && pump->heard) pump->moved_ns = now_ns();
		if (patience_ns(pump) <= 0) return; /* also of one who talks, but takes nothing */
		if (!moved && !wait_for_more(pump)) return;
	}
	cairn_stream_linger(pump->stream);
}

/* Names as a list of strings, in memory of their own: free it. */
static const char **list_names(SSL *ssl, struct cairn_tls_names **ret)
{
	struct cairn_tls_names *names = malloc(sizeof(*names));
	const char **list = calloc(CAIRN_TLS_NAMES_MAX, sizeof(*list));
	if (names == NULL || list == NULL) abort();
	cairn_tls_peer_names(ssl, names);
	for (size_t i = 0; i < names->n; i++) list[i] = names->name[i];
	*ret = names;
	return list;
}

static void *open_session(struct cairn_stream *stream, const struct cairn_callers *callers,
			  const char *from, int *ret_fd, struct cairn_err *err)
{
	struct cairn_tls_names *names;
	void *session = NULL;
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) != 0) {
		cairn_err_sys(err, errno, "socketpair");
	} else {
		const char **list = list_names(stream->ssl, &names);
		session = callers->open(callers->arg, pair[1], from, list, names->n, err);
		free(list);
		free(names);
		*ret_fd = pair[0];
		if (session == NULL) (void)close(pair[0]);
	}
	return session;
}

enum cairn_code cairn_caller_serve(struct cairn_stream *stream, const struct cairn_callers *callers,
				   const char *from, struct cairn_err *err)
{
	struct pump *pump = calloc(1, sizeof(*pump));
	if (pump == NULL) abort();
	pump->stream = stream;
	void *session = open_session(stream, callers, from, &pump->fd, err);
	enum cairn_code rc = session != NULL ? CAIRN_OK : cairn_err_wrap(err, "%s", from);
	if (session != NULL) {
		pump->moved_ns = pump->taken_ns = now_ns();
		carry(pump);
		(void)close(pump->fd);
		callers->close(callers->arg, session);
	}
	free(pump);
	return rc;
}
