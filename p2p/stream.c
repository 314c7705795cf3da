#include "p2p/stream.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"

#define OUT_BYTES (64u << 10)  /* of records that wait: what fits into the caches of a CPU ... */
#define OUT_MUCH (48u << 10)   /* ... is faster than what saves more calls */
#define READ_AHEAD (32u << 10) /* bytes that TLS takes from the socket at once */
#define LINGER_MS 500
#define LINGER_BYTES (64u << 10)

static const struct {
	int level, name, value;
} socket_options[] = {
	{IPPROTO_TCP, TCP_NODELAY, 1},		{SOL_SOCKET, SO_KEEPALIVE, 1},
	{IPPROTO_TCP, TCP_KEEPIDLE, 15},	{IPPROTO_TCP, TCP_KEEPINTVL, 5},
	{IPPROTO_TCP, TCP_KEEPCNT, 3},		/* a silent node that has died: found after 30 s */
	{IPPROTO_TCP, TCP_USER_TIMEOUT, 30000}, /* one that takes nothing: after 30 s, too */
};

void cairn_stream_init(struct cairn_stream *stream)
{
	*stream = (struct cairn_stream){.fd = -1};
	stream->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	atomic_init(&stream->stopped, false);
}

void cairn_stream_fini(struct cairn_stream *stream)
{
	SSL_free(stream->ssl);
	if (stream->fd >= 0) (void)close(stream->fd);
	if (stream->stop_fd >= 0) (void)close(stream->stop_fd);
	free(stream->out);
}

void cairn_stream_interrupt(struct cairn_stream *stream)
{
	atomic_store(&stream->stopped, true);
	if (stream->stop_fd >= 0) (void)eventfd_write(stream->stop_fd, 1);
}

/* ---- waiting ---- */

enum outcome { READY, WOKEN, LATE, STOPPED };

static enum outcome wait_for(struct cairn_stream *stream, short events, int wake_fd, int64_t end_ns)
{
	for (;;) {
		if (atomic_load(&stream->stopped)) return STOPPED;
		int64_t left_ns = end_ns - cairn_boot_ns(&cairn_clock_system);
		int64_t left_ms = left_ns > 0 ? (left_ns - 1) / CAIRN_NS_PER_MS + 1 : 0;
		struct pollfd fds[] = {{stream->fd, events, 0},
				       {stream->stop_fd, POLLIN, 0},
				       {wake_fd, POLLIN, 0}};
		int n = poll(fds, 3, left_ms < 60000 ? (int)left_ms : 60000);
		if (n > 0 && fds[1].revents != 0) return STOPPED;
		if (n > 0 && fds[0].revents != 0) return READY;
		if (n > 0 && fds[2].revents != 0) return WOKEN;
		if (n == 0 && left_ms <= 60000) return LATE;
		if (n < 0 && errno != EINTR) return STOPPED; /* no memory in the kernel */
	}
}

static enum cairn_code wait_fault(enum outcome outcome, struct cairn_err *err)
{
	if (outcome == LATE) return cairn_err_set(err, CAIRN_DEADLINE_EXCEEDED, "it is too slow");
	return cairn_err_set(err, CAIRN_CANCELLED, "interrupted");
}

static enum cairn_code socket_fault(int errnum, struct cairn_err *err)
{
	if (errnum == 0) return cairn_err_set(err, CAIRN_UNAVAILABLE, "it closed the connection");
	return cairn_err_set(err, CAIRN_UNAVAILABLE, "%s", strerror(errnum));
}

static bool again(int errnum)
{
	return errnum == EAGAIN || errnum == EWOULDBLOCK || errnum == EINTR;
}

/* ---- connecting ---- */

void cairn_stream_adopt(struct cairn_stream *stream, int fd)
{
	stream->fd = fd;
	(void)fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
	for (size_t i = 0; i < CAIRN_LEN(socket_options); i++) {
		int value = socket_options[i].value;
		(void)setsockopt(fd, socket_options[i].level, socket_options[i].name, &value,
				 sizeof(value));
	}
}

static enum cairn_code connect_one(struct cairn_stream *stream, const struct addrinfo *addr,
				   int64_t end_ns, struct cairn_err *err)
{
	int fd = socket(addr->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0) return socket_fault(errno, err);
	cairn_stream_adopt(stream, fd);
	int fault = connect(fd, addr->ai_addr, addr->ai_addrlen) == 0 ? 0 : errno;
	enum outcome outcome = READY;
	if (fault == EINPROGRESS) {
		outcome = wait_for(stream, POLLOUT, -1, end_ns);
		socklen_t n = sizeof(fault);
		if (outcome == READY && getsockopt(fd, SOL_SOCKET, SO_ERROR, &fault, &n) != 0) {
			fault = errno;
		}
	}
	if (outcome == READY && fault == 0) return CAIRN_OK;
	(void)close(fd);
	stream->fd = -1;
	return outcome != READY ? wait_fault(outcome, err) : socket_fault(fault, err);
}

enum cairn_code cairn_stream_connect(struct cairn_stream *stream, const struct addrinfo *addrs,
				     int64_t end_ns, struct cairn_err *err)
{
	int64_t left = 0;
	for (const struct addrinfo *addr = addrs; addr != NULL; addr = addr->ai_next) left++;
	enum cairn_code rc = cairn_err_set(err, CAIRN_UNAVAILABLE, "no address");
	for (const struct addrinfo *addr = addrs; addr != NULL; addr = addr->ai_next, left--) {
		/* A dead one does not take the time of the others. */
		int64_t now = cairn_boot_ns(&cairn_clock_system);
		rc = connect_one(stream, addr, now + (end_ns - now) / left, err);
		if (rc == CAIRN_OK || rc == CAIRN_CANCELLED) break;
	}
	return rc;
}

/* ---- the socket below TLS ---- */

/* Send what waits, as far as the socket takes it. False: it has failed. */
static bool push(struct cairn_stream *stream)
{
	while (stream->out_from < stream->out_to) {
		ssize_t n = send(stream->fd, stream->out + stream->out_from,
				 stream->out_to - stream->out_from, MSG_NOSIGNAL);
		if (n < 0) {
			if (!again(errno)) stream->failed = errno;
			return again(errno);
		}
		stream->out_from += (size_t)n;
		stream->sent += (uint64_t)n;
	}
	stream->out_from = stream->out_to = 0;
	return true;
}

static bool waits(const struct cairn_stream *stream)
{
	return stream->out_from < stream->out_to;
}

static int bio_write(BIO *bio, const char *data, int n)
{
	struct cairn_stream *stream = BIO_get_data(bio);
	BIO_clear_retry_flags(bio);
	if (stream->out == NULL && (stream->out = malloc(OUT_BYTES)) == NULL) abort();
	if (stream->out_to - stream->out_from >= OUT_MUCH && !push(stream)) return -1;
	if (OUT_BYTES - stream->out_to < (size_t)n && stream->out_from > 0) {
		memmove(stream->out, stream->out + stream->out_from,
			stream->out_to - stream->out_from);
		stream->out_to -= stream->out_from;
		stream->out_from = 0;
	}
	size_t room = OUT_BYTES - stream->out_to;
	if (room == 0) {
		BIO_set_retry_write(bio);
		return -1;
	}
	size_t take = (size_t)n < room ? (size_t)n : room;
	memcpy(stream->out + stream->out_to, data, take);
	stream->out_to += take;
	return (int)take;
}

static int bio_read(BIO *bio, char *buf, int n)
{
	struct cairn_stream *stream = BIO_get_data(bio);
	BIO_clear_retry_flags(bio);
	ssize_t got = recv(stream->fd, buf, (size_t)n, 0);
	if (got < 0 && again(errno)) {
		BIO_set_retry_read(bio);
	} else if (got < 0) {
		stream->failed = errno;
	}
	return (int)got;
}

static long bio_ctrl(BIO *bio, int cmd, long number, void *arg)
{
	(void)number, (void)arg;
	if (cmd != BIO_CTRL_FLUSH) return 0;
	struct cairn_stream *stream = BIO_get_data(bio);
	BIO_clear_retry_flags(bio);
	if (!push(stream)) return -1;
	if (waits(stream)) BIO_set_retry_write(bio);
	return waits(stream) ? -1 : 1;
}

static BIO_METHOD *bio_method;

static void make_bio_method(void)
{
	bio_method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "cairn");
	if (bio_method == NULL) abort();
	BIO_meth_set_write(bio_method, bio_write);
	BIO_meth_set_read(bio_method, bio_read);
	BIO_meth_set_ctrl(bio_method, bio_ctrl);
}

static BIO *new_bio(struct cairn_stream *stream)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	pthread_once(&once, make_bio_method);
	BIO *bio = BIO_new(bio_method);
	if (bio == NULL) abort();
	BIO_set_data(bio, stream);
	BIO_set_init(bio, 1);
	return bio;
}

/* ---- TLS ---- */

/* An operation returned rc <= 0: what has to be waited for; 0: it failed, *err says how. */
static short want_of(struct cairn_stream *stream, int rc, struct cairn_err *err)
{
	switch (SSL_get_error(stream->ssl, rc)) {
	case SSL_ERROR_WANT_READ:
		return waits(stream) ? POLLIN | POLLOUT : POLLIN;
	case SSL_ERROR_WANT_WRITE:
		return POLLOUT;
	case SSL_ERROR_ZERO_RETURN:
		socket_fault(0, err);
		return 0;
	case SSL_ERROR_SYSCALL:
		socket_fault(stream->failed, err);
		return 0;
	default:
		cairn_tls_fault(stream->ssl, err);
		ERR_clear_error();
		return 0;
	}
}

enum cairn_code cairn_stream_secure(struct cairn_stream *stream, struct cairn_tls_files *tls,
				    bool server, int64_t end_ns, struct cairn_err *err)
{
	stream->ssl = cairn_tls_new(tls, server);
	if (stream->ssl == NULL) return cairn_err_set(err, CAIRN_UNAVAILABLE, "no memory for TLS");
	BIO *bio = new_bio(stream);
	SSL_set_bio(stream->ssl, bio, bio);
	SSL_set_read_ahead(stream->ssl, 1);
	SSL_set_default_read_buffer_len(stream->ssl, READ_AHEAD);
	for (;;) {
		ERR_clear_error();
		int rc = SSL_do_handshake(stream->ssl);
		if (rc == 1) return cairn_tls_check(stream->ssl, err);
		short events = want_of(stream, rc, err);
		if (events == 0) return err->code;
		enum outcome outcome = wait_for(stream, events, -1, end_ns);
		if (outcome != READY) return wait_fault(outcome, err);
	}
}

/* ---- bytes ---- */

ssize_t cairn_stream_try_read(struct cairn_stream *stream, void *buf, size_t n, short *ret_events,
			      struct cairn_err *err)
{
	if (stream->ssl == NULL) {
		ssize_t got = recv(stream->fd, buf, n, 0);
		if (got > 0) return got;
		*ret_events = POLLIN;
		if (got < 0 && again(errno)) return 0;
		socket_fault(got == 0 ? 0 : errno, err);
		return -1;
	}
	size_t done = 0;
	while (done < n) {
		ERR_clear_error();
		size_t got;
		int rc = SSL_read_ex(stream->ssl, (uint8_t *)buf + done, n - done, &got);
		if (rc == 1) {
			done += got;
			continue;
		}
		if (done > 0) break; /* a fault shows again */
		*ret_events = want_of(stream, rc, err);
		return *ret_events == 0 ? -1 : 0;
	}
	return (ssize_t)done;
}

enum cairn_code cairn_stream_read(struct cairn_stream *stream, void *buf, size_t n, int64_t end_ns,
				  size_t *ret, struct cairn_err *err)
{
	for (;;) {
		if (atomic_load(&stream->stopped)) return wait_fault(STOPPED, err);
		if (!push(stream)) return socket_fault(stream->failed, err);
		short events = 0;
		ssize_t got = cairn_stream_try_read(stream, buf, n, &events, err);
		if (got < 0) return err->code;
		if (got > 0) {
			*ret = (size_t)got;
			return CAIRN_OK;
		}
		if (waits(stream)) events |= POLLOUT;
		enum outcome outcome = wait_for(stream, events, -1, end_ns);
		if (outcome != READY) return wait_fault(outcome, err);
	}
}

ssize_t cairn_stream_try_write(struct cairn_stream *stream, const void *data, size_t n,
			       short *ret_events, struct cairn_err *err)
{
	if (stream->ssl == NULL) {
		ssize_t put = send(stream->fd, data, n, MSG_NOSIGNAL);
		*ret_events = POLLOUT;
		if (put < 0 && again(errno)) return 0;
		if (put < 0) {
			socket_fault(errno, err);
			return -1;
		}
		stream->sent += (uint64_t)put;
		return put;
	}
	ERR_clear_error();
	size_t put;
	int rc = SSL_write_ex(stream->ssl, data, n < CAIRN_RECORD_MAX ? n : CAIRN_RECORD_MAX, &put);
	if (rc == 1) return (ssize_t)put;
	*ret_events = want_of(stream, rc, err);
	return *ret_events == 0 ? -1 : 0;
}

int cairn_stream_try_flush(struct cairn_stream *stream, short *ret_events, struct cairn_err *err)
{
	if (!push(stream)) {
		socket_fault(stream->failed, err);
		return -1;
	}
	*ret_events = POLLOUT;
	return waits(stream) ? 0 : 1;
}

/* Wait until more can go. */
static enum cairn_code write_wait(struct cairn_stream *stream, short events, uint64_t *seen,
				  int64_t *end_ns, int64_t each_ns, struct cairn_err *err)
{
	if (each_ns > 0 && stream->sent != *seen) {
		*end_ns = cairn_boot_ns(&cairn_clock_system) + each_ns;
	}
	*seen = stream->sent;
	enum outcome outcome = wait_for(stream, events, -1, *end_ns);
	return outcome == READY ? CAIRN_OK : wait_fault(outcome, err);
}

enum cairn_code cairn_stream_write(struct cairn_stream *stream, const void *data, size_t n,
				   int64_t end_ns, int64_t each_ns, struct cairn_err *err)
{
	uint64_t seen = stream->sent;
	for (size_t done = 0; done < n;) {
		if (atomic_load(&stream->stopped)) return wait_fault(STOPPED, err);
		short events = 0;
		ssize_t put = cairn_stream_try_write(stream, (const uint8_t *)data + done, n - done,
						     &events, err);
		if (put < 0) return err->code;
		done += (size_t)put;
		if (put > 0) continue;
		enum cairn_code rc = write_wait(stream, events, &seen, &end_ns, each_ns, err);
		if (rc != CAIRN_OK) return rc;
		if (stream->ssl != NULL && !push(stream)) return socket_fault(stream->failed, err);
	}
	return CAIRN_OK;
}

enum cairn_code cairn_stream_flush(struct cairn_stream *stream, int64_t end_ns, int64_t each_ns,
				   struct cairn_err *err)
{
	uint64_t seen = stream->sent;
	for (;;) {
		if (atomic_load(&stream->stopped)) return wait_fault(STOPPED, err);
		if (!push(stream)) return socket_fault(stream->failed, err);
		if (!waits(stream)) return CAIRN_OK;
		enum cairn_code rc = write_wait(stream, POLLOUT, &seen, &end_ns, each_ns, err);
		if (rc != CAIRN_OK) return rc;
	}
}

/* Is there a byte, the end, or a fault, which shows again when it is read? */
static bool readable_now(struct cairn_stream *stream, short *ret_events)
{
	char byte;
	*ret_events = POLLIN;
	if (stream->ssl == NULL) {
		ssize_t n = recv(stream->fd, &byte, 1, MSG_PEEK);
		return n >= 0 || !again(errno);
	}
	size_t got;
	ERR_clear_error();
	int rc = SSL_peek_ex(stream->ssl, &byte, 1, &got);
	struct cairn_err err;
	return rc == 1 || (*ret_events = want_of(stream, rc, &err)) == 0;
}

bool cairn_stream_wait(struct cairn_stream *stream, int wake_fd, int64_t end_ns, bool *ret_woken)
{
	*ret_woken = false;
	for (;;) {
		if (atomic_load(&stream->stopped)) return true;
		short events;
		if (readable_now(stream, &events)) return true;
		if (!push(stream)) return true;
		if (waits(stream)) {
			events |= POLLOUT;
		} else {
			free(cairn_steal(&stream->out));
		}
		enum outcome outcome = wait_for(stream, events, wake_fd, end_ns);
		if (outcome == STOPPED) return true;
		if (outcome == READY) continue;
		*ret_woken = outcome == WOKEN;
		return false;
	}
}

bool cairn_stream_quiet(struct cairn_stream *stream)
{
	short events;
	return !readable_now(stream, &events) && !waits(stream);
}

void cairn_stream_linger(struct cairn_stream *stream)
{
	int64_t end_ns = cairn_boot_ns(&cairn_clock_system) + LINGER_MS * CAIRN_NS_PER_MS;
	struct cairn_err ignored;
	if (cairn_stream_flush(stream, end_ns, 0, &ignored) != CAIRN_OK) return;
	if (shutdown(stream->fd, SHUT_WR) != 0) return;
	uint8_t away[4096];
	for (size_t done = 0; done < LINGER_BYTES;) {
		ssize_t n = recv(stream->fd, away, sizeof(away), 0);
		if (n == 0 || (n < 0 && !again(errno))) return;
		if (n > 0) done += (size_t)n;
		if (n < 0 && wait_for(stream, POLLIN, -1, end_ns) != READY) return;
	}
}
