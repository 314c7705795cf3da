/* Bytes over one TCP connection, with or without TLS on it, within deadlines: what p2p/conn.c puts
 * frames on.
 *
 * The socket does not block; who has to wait polls it together with an eventfd by which any thread
 * may interrupt. What TLS has made of written bytes is collected, and goes out when there is much
 * of it, with cairn_stream_flush, and before a read waits.
 *
 * Threads: one at a time, but for cairn_stream_interrupt. */
#ifndef CAIRN_P2P_STREAM_H
#define CAIRN_P2P_STREAM_H

#include <netdb.h>
#include <openssl/ssl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "base/own.h"
#include "p2p/tls.h"

#define CAIRN_RECORD_MAX 16384 /* bytes in one record of TLS */

struct cairn_stream {
	int fd;	     /* -1: not connected yet */
	int stop_fd; /* eventfd: readable for ever once interrupted; -1: there is none to be had */
	atomic_bool stopped;
	SSL *ssl;      /* NULL: plain text */
	uint64_t sent; /* bytes that the socket took: how a write sees that it goes on */
	uint8_t *out;  /* records that wait: [out_from, out_to) of a buffer; NULL: none */
	size_t out_from, out_to;
	int failed; /* errno of the socket; 0: none yet */
};

void cairn_stream_init(struct cairn_stream *stream);
void cairn_stream_fini(struct cairn_stream *stream);

/* Whatever waits on it fails now (CANCELLED), and everything later. Any thread. */
void cairn_stream_interrupt(struct cairn_stream *stream);

/* end_ns, everywhere: the deadline in boot time. Errors everywhere: DEADLINE_EXCEEDED, UNAVAILABLE,
 * CANCELLED. */

/* Connect to the first of the addresses that answers. */
CAIRN_CHECKED enum cairn_code cairn_stream_connect(struct cairn_stream *stream,
						   const struct addrinfo *addrs, int64_t end_ns,
						   struct cairn_err *err);
/* Use a connected socket; owns it. */
void cairn_stream_adopt(struct cairn_stream *stream, int fd);

/* TLS on it. Also UNAUTHENTICATED, INVALID_ARGUMENT (as cairn_tls_fault). */
CAIRN_CHECKED enum cairn_code cairn_stream_secure(struct cairn_stream *stream,
						  struct cairn_tls_files *tls, bool server,
						  int64_t end_ns, struct cairn_err *err);

/* At least one byte, at most n, as many as are there. */
CAIRN_CHECKED enum cairn_code cairn_stream_read(struct cairn_stream *stream, void *buf, size_t n,
						int64_t end_ns, size_t *ret, struct cairn_err *err);

/* All n. each_ns: 0: end_ns is the deadline of all; else each byte that goes moves the deadline to
 * so long after it. */
CAIRN_CHECKED enum cairn_code cairn_stream_write(struct cairn_stream *stream, const void *data,
						 size_t n, int64_t end_ns, int64_t each_ns,
						 struct cairn_err *err);
CAIRN_CHECKED enum cairn_code cairn_stream_flush(struct cairn_stream *stream, int64_t end_ns,
						 int64_t each_ns, struct cairn_err *err);

/* For who waits for more than this connection, and so polls by himself: fd, and stop_fd, which is
 * not read. None of these waits. Returns how many bytes went; 0: none now, *ret_events is what to
 * poll fd for; -1: the connection is over (err: why). */
ssize_t cairn_stream_try_read(struct cairn_stream *stream, void *buf, size_t n, short *ret_events,
			      struct cairn_err *err);
/* They may wait in the buffer: until cairn_stream_try_flush says that it is empty. */
ssize_t cairn_stream_try_write(struct cairn_stream *stream, const void *data, size_t n,
			       short *ret_events, struct cairn_err *err);
/* 1: nothing waits. */
int cairn_stream_try_flush(struct cairn_stream *stream, short *ret_events, struct cairn_err *err);

/* Is there something to read, the end or an error included? Waits for it; *ret_woken: wake_fd (-1:
 * none) was readable first. Gives the buffers back. Interrupted: true. */
bool cairn_stream_wait(struct cairn_stream *stream, int wake_fd, int64_t end_ns, bool *ret_woken);

/* Nothing is to be read, the end and errors included, and nothing waits to go. Does not block. */
bool cairn_stream_quiet(struct cairn_stream *stream);

/* The other side shall get to know our last words: no more is sent, and what it has sent is read
 * away until it closes, for a moment at most. A socket that is closed with bytes unread is reset,
 * and a reset overtakes what was sent before. */
void cairn_stream_linger(struct cairn_stream *stream);

#endif
