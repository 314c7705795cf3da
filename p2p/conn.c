#include "p2p/conn.h"

#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "p2p/address.h"
#include "p2p/caller.h"
#include "p2p/hello.h"
#include "p2p/stream.h"

#define TIMEOUT_MAX_MS (INT64_C(24) * 3600 * 1000)

struct cairn_conn {
	struct cairn_stream stream;
	char remote[CAIRN_ADDRESS_MAX]; /* what was dialled, or whence it came: for messages */
	struct cairn_hello other;
	char certificate[CAIRN_TLS_NAME_MAX];
	uint32_t version;
	bool ended;    /* by an error */
	uint32_t left; /* bytes of the present frame's payload that are not read */
	uint8_t *out;  /* one record's worth of small frames that wait; NULL: none */
	size_t out_len;
};

struct cairn_conn *cairn_conn_new(void)
{
	struct cairn_conn *conn = calloc(1, sizeof(*conn));
	if (conn == NULL) abort();
	cairn_stream_init(&conn->stream);
	return conn;
}

void cairn_conn_free(struct cairn_conn *conn)
{
	if (conn == NULL) return;
	cairn_stream_fini(&conn->stream);
	free(conn->out);
	free(conn);
}

void cairn_conn_interrupt(struct cairn_conn *conn)
{
	cairn_stream_interrupt(&conn->stream);
}

const char *cairn_conn_address(const struct cairn_conn *conn)
{
	return conn->other.address;
}

const char *cairn_conn_name(const struct cairn_conn *conn)
{
	return conn->other.name;
}

const char *cairn_conn_certificate(const struct cairn_conn *conn)
{
	return conn->certificate;
}

const uint8_t *cairn_conn_instance(const struct cairn_conn *conn)
{
	return conn->other.instance;
}

uint64_t cairn_conn_features(const struct cairn_conn *conn)
{
	return conn->other.features;
}

static int64_t ns_of(int64_t timeout_ms)
{
	if (timeout_ms < 0) timeout_ms = 0;
	return (timeout_ms < TIMEOUT_MAX_MS ? timeout_ms : TIMEOUT_MAX_MS) * CAIRN_NS_PER_MS;
}

static int64_t end_of(int64_t timeout_ms)
{
	return cairn_boot_ns(&cairn_clock_system) + ns_of(timeout_ms);
}

/* How each call ends: an error ends the connection, and names the other. */
static enum cairn_code end(struct cairn_conn *conn, enum cairn_code rc, struct cairn_err *err)
{
	if (rc == CAIRN_OK) return rc;
	conn->ended = true;
	return cairn_err_wrap(err, "%s", conn->remote);
}

/* ... and how it begins. */
static enum cairn_code begin(struct cairn_conn *conn, struct cairn_err *err)
{
	if (atomic_load(&conn->stream.stopped)) {
		return cairn_err_set(err, CAIRN_CANCELLED, "interrupted");
	}
	if (!conn->ended) return CAIRN_OK;
	return cairn_err_set(err, CAIRN_UNAVAILABLE, "the connection has ended");
}

/* ---- sending ---- */

static enum cairn_code put_out(struct cairn_conn *conn, int64_t end_ns, int64_t each_ns,
			       struct cairn_err *err)
{
	if (conn->out_len == 0) return CAIRN_OK;
	size_t n = conn->out_len;
	conn->out_len = 0;
	return cairn_stream_write(&conn->stream, conn->out, n, end_ns, each_ns, err);
}

/* Small parts are collected into one record; what is large goes by without a copy. */
static enum cairn_code put(struct cairn_conn *conn, const void *data, size_t n, int64_t end_ns,
			   int64_t each_ns, struct cairn_err *err)
{
	const uint8_t *from = data;
	if (conn->out == NULL && (conn->out = malloc(CAIRN_RECORD_MAX)) == NULL) abort();
	while (n > 0) {
		enum cairn_code rc = CAIRN_OK;
		size_t take = CAIRN_RECORD_MAX - conn->out_len;
		if (conn->out_len > 0 || n < CAIRN_RECORD_MAX) {
			if (take > n) take = n;
			memcpy(conn->out + conn->out_len, from, take);
			conn->out_len += take;
			if (conn->out_len == CAIRN_RECORD_MAX) {
				rc = put_out(conn, end_ns, each_ns, err);
			}
		} else {
			take = n - n % CAIRN_RECORD_MAX;
			rc = cairn_stream_write(&conn->stream, from, take, end_ns, each_ns, err);
		}
		if (rc != CAIRN_OK) return rc;
		from += take;
		n -= take;
	}
	return CAIRN_OK;
}

static enum cairn_code put_head(struct cairn_conn *conn, const struct cairn_frame *frame,
				int64_t end_ns, struct cairn_err *err)
{
	uint8_t head[CAIRN_FRAME_HEAD];
	struct cairn_frame checked;
	cairn_frame_encode(frame, head);
	enum cairn_code rc = cairn_frame_decode(head, &checked, err); /* nor would the other */
	if (rc == CAIRN_OK) rc = put(conn, head, sizeof(head), end_ns, 0, err);
	return rc;
}

enum cairn_code cairn_conn_send_message(struct cairn_conn *conn, uint8_t type,
					const ProtobufCMessage *msg, int64_t timeout_ms,
					struct cairn_err *err)
{
	enum cairn_code rc = begin(conn, err);
	if (rc != CAIRN_OK) return rc;
	int64_t end_ns = end_of(timeout_ms);
	size_t n = protobuf_c_message_get_packed_size(msg);
	uint8_t small[256], *packed = n <= sizeof(small) ? small : malloc(n);
	if (packed == NULL) abort();
	(void)protobuf_c_message_pack(msg, packed);
	const struct cairn_frame frame = {.type = type,
					  .len = n < UINT32_MAX ? (uint32_t)n : UINT32_MAX};
	rc = put_head(conn, &frame, end_ns, err);
	if (rc == CAIRN_OK) rc = put(conn, packed, n, end_ns, 0, err);
	if (packed != small) free(packed);
	return end(conn, rc, err);
}

enum cairn_code cairn_conn_send_head(struct cairn_conn *conn, const struct cairn_frame *frame,
				     int64_t timeout_ms, struct cairn_err *err)
{
	enum cairn_code rc = begin(conn, err);
	if (rc != CAIRN_OK) return rc;
	return end(conn, put_head(conn, frame, end_of(timeout_ms), err), err);
}

enum cairn_code cairn_conn_send(struct cairn_conn *conn, const void *data, size_t n,
				int64_t timeout_ms, struct cairn_err *err)
{
	enum cairn_code rc = begin(conn, err);
	if (rc != CAIRN_OK) return rc;
	return end(conn, put(conn, data, n, end_of(timeout_ms), ns_of(timeout_ms), err), err);
}

enum cairn_code cairn_conn_flush(struct cairn_conn *conn, int64_t timeout_ms, struct cairn_err *err)
{
	enum cairn_code rc = begin(conn, err);
	if (rc != CAIRN_OK) return rc;
	int64_t end_ns = end_of(timeout_ms), each_ns = ns_of(timeout_ms);
	rc = put_out(conn, end_ns, each_ns, err);
	if (rc == CAIRN_OK) rc = cairn_stream_flush(&conn->stream, end_ns, each_ns, err);
	return end(conn, rc, err);
}

/* ---- reading ---- */

static enum cairn_code get(struct cairn_conn *conn, void *buf, size_t n, int64_t end_ns,
			   struct cairn_err *err)
{
	for (size_t done = 0, got; done < n; done += got) {
		enum cairn_code rc = cairn_stream_read(&conn->stream, (uint8_t *)buf + done,
						       n - done, end_ns, &got, err);
		if (rc != CAIRN_OK) return rc;
	}
	return CAIRN_OK;
}

enum cairn_code cairn_conn_read_head(struct cairn_conn *conn, int64_t timeout_ms,
				     struct cairn_frame *ret, struct cairn_err *err)
{
	enum cairn_code rc = begin(conn, err);
	if (rc != CAIRN_OK) return rc;
	int64_t end_ns = end_of(timeout_ms);
	uint8_t head[CAIRN_FRAME_HEAD];
	rc = put_out(conn, end_ns, 0, err);
	/* What of the present frame nobody has read is read away. */
	while (rc == CAIRN_OK && conn->left > 0) {
		uint8_t away[4096];
		size_t n = conn->left < sizeof(away) ? conn->left : sizeof(away);
		rc = get(conn, away, n, end_ns, err);
		conn->left -= (uint32_t)n;
	}
	if (rc == CAIRN_OK) rc = get(conn, head, sizeof(head), end_ns, err);
	if (rc == CAIRN_OK) rc = cairn_frame_decode(head, ret, err);
	if (rc == CAIRN_OK) conn->left = ret->len;
	return end(conn, rc, err);
}

enum cairn_code cairn_conn_read_some(struct cairn_conn *conn, void *buf, size_t n,
				     int64_t timeout_ms, size_t *ret, struct cairn_err *err)
{
	enum cairn_code rc = begin(conn, err);
	if (rc != CAIRN_OK) return rc;
	if (n > conn->left) n = conn->left;
	if (n == 0) {
		return end(conn, cairn_err_set(err, CAIRN_INVALID_ARGUMENT, "a frame is too short"),
			   err);
	}
	int64_t end_ns = end_of(timeout_ms);
	size_t got = 0;
	rc = put_out(conn, end_ns, 0, err);
	if (rc == CAIRN_OK) rc = cairn_stream_read(&conn->stream, buf, n, end_ns, &got, err);
	if (rc == CAIRN_OK) {
		conn->left -= (uint32_t)got;
		*ret = got;
	}
	return end(conn, rc, err);
}

enum cairn_code cairn_conn_read_message(struct cairn_conn *conn, const struct cairn_frame *frame,
					const ProtobufCMessageDescriptor *type, int64_t timeout_ms,
					ProtobufCMessage **ret, struct cairn_err *err)
{
	enum cairn_code rc = begin(conn, err);
	if (rc != CAIRN_OK) return rc;
	uint32_t n = frame->len < conn->left ? frame->len : conn->left;
	uint8_t small[256], *packed = n <= sizeof(small) ? small : malloc(n);
	if (packed == NULL) abort();
	int64_t end_ns = end_of(timeout_ms);
	rc = put_out(conn, end_ns, 0, err);
	if (rc == CAIRN_OK) rc = get(conn, packed, n, end_ns, err);
	if (rc == CAIRN_OK) {
		conn->left -= n;
		*ret = protobuf_c_message_unpack(type, NULL, n, packed);
		if (*ret == NULL) {
			rc = cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
					   "a frame of type %u is no %s", frame->type,
					   type->short_name);
		}
	}
	if (packed != small) free(packed);
	return end(conn, rc, err);
}

enum cairn_conn_ready cairn_conn_wait(struct cairn_conn *conn, int wake_fd, int64_t timeout_ms)
{
	struct cairn_err err;
	int64_t end_ns = end_of(timeout_ms);
	bool woken;
	if (begin(conn, &err) != CAIRN_OK) return CAIRN_CONN_READABLE;
	if (end(conn, put_out(conn, end_ns, 0, &err), &err) != CAIRN_OK) return CAIRN_CONN_READABLE;
	free(cairn_steal(&conn->out));
	if (cairn_stream_wait(&conn->stream, wake_fd, end_ns, &woken)) return CAIRN_CONN_READABLE;
	return woken ? CAIRN_CONN_WOKEN : CAIRN_CONN_TIMEOUT;
}

bool cairn_conn_quiet(struct cairn_conn *conn)
{
	struct cairn_err err;
	return begin(conn, &err) == CAIRN_OK && conn->left == 0 && conn->out_len == 0 &&
	       cairn_stream_quiet(&conn->stream);
}

/* ---- Hello ---- */

static enum cairn_code send_hello(struct cairn_conn *conn, const struct cairn_hello *own,
				  const char *refusal, int64_t timeout_ms, struct cairn_err *err)
{
	Cairn__Peer__V1__Hello msg;
	char words[sizeof(err->msg)] = "";
	if (refusal != NULL) (void)snprintf(words, sizeof(words), "%s", refusal);
	cairn_hello_fill(own, &msg);
	msg.error = words;
	enum cairn_code rc =
		cairn_conn_send_message(conn, CAIRN_FRAME_HELLO, &msg.base, timeout_ms, err);
	if (rc == CAIRN_OK) rc = cairn_conn_flush(conn, timeout_ms, err);
	return rc;
}

/* Errors: as in the header; FAILED_PRECONDITION: not wrapped, and the connection still stands. */
static enum cairn_code read_hello(struct cairn_conn *conn, const struct cairn_hello *own,
				  int64_t timeout_ms, struct cairn_err *err)
{
	struct cairn_frame frame;
	ProtobufCMessage *msg = NULL;
	enum cairn_code rc = cairn_conn_read_head(conn, timeout_ms, &frame, err);
	if (rc != CAIRN_OK) return rc;
	if (frame.type != CAIRN_FRAME_HELLO) {
		cairn_err_set(err, CAIRN_INVALID_ARGUMENT, "it does not begin with a Hello");
		return end(conn, err->code, err);
	}
	rc = cairn_conn_read_message(conn, &frame, &cairn__peer__v1__hello__descriptor, timeout_ms,
				     &msg, err);
	if (rc != CAIRN_OK) return rc;
	rc = cairn_hello_take((const Cairn__Peer__V1__Hello *)msg, own, &conn->other,
			      &conn->version, err);
	protobuf_c_message_free_unpacked(msg, NULL);
	return rc;
}

/* What went wrong before both have said Hello, in the codes of the header. */
static enum cairn_code code_of_header(struct cairn_err *err)
{
	if (err->code == CAIRN_DEADLINE_EXCEEDED) err->code = CAIRN_UNAVAILABLE;
	if (err->code == CAIRN_INVALID_ARGUMENT) err->code = CAIRN_FAILED_PRECONDITION;
	return err->code;
}

/* As begin, of a new connection. */
static enum cairn_code ready(struct cairn_conn *conn, struct cairn_err *err)
{
	enum cairn_code rc = begin(conn, err);
	if (rc == CAIRN_OK && conn->stream.stop_fd < 0) {
		rc = cairn_err_set(err, CAIRN_UNAVAILABLE, "no file descriptor is free");
	}
	return end(conn, rc, err);
}

static enum cairn_code secure(struct cairn_conn *conn, struct cairn_tls_files *tls, bool server,
			      int64_t end_ns, struct cairn_err *err)
{
	if (tls == NULL) return CAIRN_OK;
	enum cairn_code rc = cairn_stream_secure(&conn->stream, tls, server, end_ns, err);
	if (rc == CAIRN_OK) cairn_tls_peer_name(conn->stream.ssl, conn->certificate);
	return end(conn, rc, err);
}

static int64_t left_ms(int64_t end_ns)
{
	return (end_ns - cairn_boot_ns(&cairn_clock_system)) / CAIRN_NS_PER_MS + 1;
}

static enum cairn_code connect_to(struct cairn_conn *conn, const struct cairn_address *address,
				  int64_t end_ns, struct cairn_err *err)
{
	struct addrinfo *addrs = NULL;
	enum cairn_code rc =
		cairn_address_resolve(address, conn->stream.stop_fd, end_ns, &addrs, err);
	if (rc == CAIRN_OK) rc = cairn_stream_connect(&conn->stream, addrs, end_ns, err);
	if (addrs != NULL) freeaddrinfo(addrs);
	return end(conn, rc, err);
}

enum cairn_code cairn_conn_connect(struct cairn_conn *conn, struct cairn_tls_files *tls,
				   const char *address, const struct cairn_hello *own,
				   int64_t timeout_ms, struct cairn_err *err)
{
	struct cairn_address parsed;
	int64_t end_ns = end_of(timeout_ms);
	enum cairn_code rc = cairn_address_parse(address, false, &parsed, err);
	if (rc != CAIRN_OK) return rc;
	memcpy(conn->remote, address, strlen(address) + 1);
	rc = ready(conn, err);
	if (rc == CAIRN_OK) rc = connect_to(conn, &parsed, end_ns, err);
	if (rc == CAIRN_OK) rc = secure(conn, tls, false, end_ns, err);
	if (rc == CAIRN_OK) rc = send_hello(conn, own, NULL, left_ms(end_ns), err);
	if (rc == CAIRN_OK) rc = read_hello(conn, own, left_ms(end_ns), err);
	if (rc == CAIRN_OK) return rc;
	if (!conn->ended) end(conn, rc, err);
	return code_of_header(err);
}

/* Its Hello, then ours, which says why if we refuse it. */
static enum cairn_code exchange(struct cairn_conn *conn, const struct cairn_hello *own,
				int64_t end_ns, struct cairn_err *err)
{
	enum cairn_code rc = read_hello(conn, own, left_ms(end_ns), err);
	if (rc == CAIRN_OK) return send_hello(conn, own, NULL, left_ms(end_ns), err);
	if (conn->ended) return rc;
	struct cairn_err lost;
	(void)!send_hello(conn, own, err->msg, left_ms(end_ns), &lost);
	return end(conn, rc, err);
}

enum cairn_code cairn_conn_answer(struct cairn_conn *conn, struct cairn_tls_files *tls, int fd,
				  const struct cairn_hello *own, int64_t timeout_ms,
				  struct cairn_err *err)
{
	struct sockaddr_storage from;
	socklen_t n = sizeof(from);
	int64_t end_ns = end_of(timeout_ms);
	cairn_stream_adopt(&conn->stream, fd);
	memcpy(conn->remote, "?", 2);
	if (getpeername(fd, (struct sockaddr *)&from, &n) == 0) {
		cairn_address_format((struct sockaddr *)&from, conn->remote);
	}
	enum cairn_code rc = ready(conn, err);
	if (rc == CAIRN_OK) rc = secure(conn, tls, true, end_ns, err);
	if (rc == CAIRN_OK && !cairn_conn_is_caller(conn)) rc = exchange(conn, own, end_ns, err);
	if (rc == CAIRN_OK) return rc;
	cairn_stream_linger(&conn->stream);
	return code_of_header(err);
}

bool cairn_conn_is_caller(const struct cairn_conn *conn)
{
	return conn->stream.ssl != NULL && cairn_tls_is_h2(conn->stream.ssl);
}

enum cairn_code cairn_conn_serve_caller(struct cairn_conn *conn,
					const struct cairn_callers *callers, struct cairn_err *err)
{
	return cairn_caller_serve(&conn->stream, callers, conn->remote, err);
}

enum cairn_code cairn_conn_dial(struct cairn_tls_files *tls, const char *address,
				const struct cairn_hello *own, int64_t timeout_ms,
				struct cairn_conn **ret, struct cairn_err *err)
{
	struct cairn_conn *conn = cairn_conn_new();
	enum cairn_code rc = cairn_conn_connect(conn, tls, address, own, timeout_ms, err);
	if (rc == CAIRN_OK) {
		*ret = conn;
	} else {
		cairn_conn_free(conn);
	}
	return rc;
}

enum cairn_code cairn_conn_accept(struct cairn_tls_files *tls, int fd,
				  const struct cairn_hello *own, int64_t timeout_ms,
				  struct cairn_conn **ret, struct cairn_err *err)
{
	struct cairn_conn *conn = cairn_conn_new();
	enum cairn_code rc = cairn_conn_answer(conn, tls, fd, own, timeout_ms, err);
	if (rc == CAIRN_OK) {
		*ret = conn;
	} else {
		cairn_conn_free(conn);
	}
	return rc;
}
