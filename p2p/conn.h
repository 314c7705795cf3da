/* One connection to a peer: TCP, TLS on it, frames on that. It blocks, within deadlines.
 *
 * Threads: one at a time, but for cairn_conn_interrupt, which any thread may call while the
 * connection is not freed. An error ends a connection: only freeing it remains. */
#ifndef CAIRN_P2P_CONN_H
#define CAIRN_P2P_CONN_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>

#include "base/err.h"
#include "base/own.h"
#include "base/view.h"
#include "p2p/directory.h"
#include "p2p/frame.h"

struct cairn_callers; /* p2p/p2p.h */
struct cairn_conn;
struct cairn_tls_files; /* p2p/tls.h: counted, reloadable; NULL: plain text */

/* What we say in our Hello. Immutable while anybody uses it. */
struct cairn_hello {
	char address[CAIRN_ADDRESS_MAX];
	char name[256];
	uint8_t instance[16];
	uint64_t features;
};

/* Connect, handshake, exchange Hellos. Who must be able to interrupt that makes the connection
 * first, and connects it then. tls: used while it connects only.
 * Errors: UNAVAILABLE (nobody there; too slow), UNAUTHENTICATED (its certificate, or ours, is
 * refused: says which and why), FAILED_PRECONDITION (it does not speak cairn's peer protocol, or no
 * version that we speak; it refused us, with its words), ABORTED (it is ourselves),
 * INVALID_ARGUMENT (address), CANCELLED. */
CAIRN_CHECKED enum cairn_code cairn_conn_dial(struct cairn_tls_files *tls, const char *address,
					      const struct cairn_hello *own, int64_t timeout_ms,
					      struct cairn_conn **ret, struct cairn_err *err);
struct cairn_conn *cairn_conn_new(void);
CAIRN_CHECKED enum cairn_code cairn_conn_connect(struct cairn_conn *conn,
						 struct cairn_tls_files *tls, const char *address,
						 const struct cairn_hello *own, int64_t timeout_ms,
						 struct cairn_err *err);

/* The server's side of that, of an accepted socket, which it owns from here, also on failure: who
 * is refused is told why, as far as that takes no longer than a moment. */
CAIRN_CHECKED enum cairn_code cairn_conn_accept(struct cairn_tls_files *tls, int fd,
						const struct cairn_hello *own, int64_t timeout_ms,
						struct cairn_conn **ret, struct cairn_err *err);
CAIRN_CHECKED enum cairn_code cairn_conn_answer(struct cairn_conn *conn,
						struct cairn_tls_files *tls, int fd,
						const struct cairn_hello *own, int64_t timeout_ms,
						struct cairn_err *err);

void cairn_conn_free(struct cairn_conn *conn); /* NULL is fine */

/* Of a connection that was answered: the other speaks HTTP/2 there, so no Hello was exchanged, and
 * nothing below is for it. Then serve it until it ends, or is interrupted. Errors: it could not be
 * served at all. */
bool cairn_conn_is_caller(const struct cairn_conn *conn);
CAIRN_CHECKED enum cairn_code cairn_conn_serve_caller(struct cairn_conn *conn,
						      const struct cairn_callers *callers,
						      struct cairn_err *err);

/* Whatever blocks on it fails now (CANCELLED), and everything later. Any thread. */
void cairn_conn_interrupt(struct cairn_conn *conn);

/* The other's Hello; and the name in its certificate (its first DNS name, else its common name), ""
 * without TLS. Of a connection that is connected. */
const char *cairn_conn_address(const struct cairn_conn *conn);
const char *cairn_conn_name(const struct cairn_conn *conn);
const char *cairn_conn_certificate(const struct cairn_conn *conn);
const uint8_t *cairn_conn_instance(const struct cairn_conn *conn);
uint64_t cairn_conn_features(const struct cairn_conn *conn); /* CAIRN_FEATURE_… */

/* ---- frames. timeout_ms bounds each call as a whole, but for the bytes of a piece, of which some
 * must come, or go, within it each time. Errors: DEADLINE_EXCEEDED, UNAVAILABLE (closed, reset),
 * INVALID_ARGUMENT (no frame of ours; no message of that type), CANCELLED (interrupted). */

enum cairn_conn_ready {
	CAIRN_CONN_READABLE, /* a frame begins, or the connection has ended: read it */
	CAIRN_CONN_WOKEN,    /* wake_fd is readable; it is not read */
	CAIRN_CONN_TIMEOUT,
};
/* wake_fd: -1: none. Interrupted, it is READABLE. */
enum cairn_conn_ready cairn_conn_wait(struct cairn_conn *conn, int wake_fd, int64_t timeout_ms);

/* It is between two frames, nothing came that is not read, nothing waits to be sent, and it has not
 * ended, as far as is known here. Does not block. */
bool cairn_conn_quiet(struct cairn_conn *conn);

CAIRN_CHECKED enum cairn_code cairn_conn_read_head(struct cairn_conn *conn, int64_t timeout_ms,
						   struct cairn_frame *ret, struct cairn_err *err);
/* Some bytes of the present frame's payload, at least 1, at most n. */
CAIRN_CHECKED enum cairn_code cairn_conn_read_some(struct cairn_conn *conn, void *buf, size_t n,
						   int64_t timeout_ms, size_t *ret,
						   struct cairn_err *err);
/* All of it, as a message; free it with protobuf_c_message_free_unpacked. */
CAIRN_CHECKED enum cairn_code cairn_conn_read_message(struct cairn_conn *conn,
						      const struct cairn_frame *frame,
						      const ProtobufCMessageDescriptor *type,
						      int64_t timeout_ms, ProtobufCMessage **ret,
						      struct cairn_err *err);
/* The whole message or an error. */
CAIRN_CHECKED enum cairn_code cairn_conn_send_message(struct cairn_conn *conn, uint8_t type,
						      const ProtobufCMessage *msg,
						      int64_t timeout_ms, struct cairn_err *err);
/* A frame's head and raw payload bytes; the payload may follow in more calls of cairn_conn_send.
 * Its last bytes may wait in the send buffer, too. */
CAIRN_CHECKED enum cairn_code cairn_conn_send_head(struct cairn_conn *conn,
						   const struct cairn_frame *frame,
						   int64_t timeout_ms, struct cairn_err *err);
CAIRN_CHECKED enum cairn_code cairn_conn_send(struct cairn_conn *conn, const void *data, size_t n,
					      int64_t timeout_ms, struct cairn_err *err);

/* What is in the send buffer goes out. Small frames are collected until then, or until a read or
 * wait. */
CAIRN_CHECKED enum cairn_code cairn_conn_flush(struct cairn_conn *conn, int64_t timeout_ms,
					       struct cairn_err *err);

#endif
