/* HTTP/2 by hand over a unix socket, for what no gRPC client would send.
 * Spec: RFC 9113 (frames), RFC 7541 (headers; only literals without indexing are written). */
#ifndef CAIRN_TESTS_RPC_RAW_H
#define CAIRN_TESTS_RPC_RAW_H

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "support/rpc_fixture.h"

#define RAW_PREFACE "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
enum { RAW_DATA = 0, RAW_HEADERS = 1, RAW_RST = 3, RAW_SETTINGS = 4, RAW_WINDOW = 8 };
enum { RAW_END_STREAM = 1, RAW_END_HEADERS = 4 };

static inline int raw_connect(const char *path)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_true(fd >= 0);
	assert_int_equal(connect(fd, (const struct sockaddr *)&addr, sizeof(addr)), 0);
	return fd;
}

static inline void raw_send(int fd, const void *data, size_t n)
{
	const uint8_t *p = data;
	while (n > 0) {
		ssize_t k = send(fd, p, n, MSG_NOSIGNAL);
		if (k <= 0) return; /* the server closed; what it answered is read later */
		p += k;
		n -= (size_t)k;
	}
}

static inline void raw_frame(int fd, int type, int flags, uint32_t stream, const void *data,
			     size_t n)
{
	uint8_t head[9] = {(uint8_t)(n >> 16),	    (uint8_t)(n >> 8),	    (uint8_t)n,
			   (uint8_t)type,	    (uint8_t)flags,	    (uint8_t)(stream >> 24),
			   (uint8_t)(stream >> 16), (uint8_t)(stream >> 8), (uint8_t)stream};
	raw_send(fd, head, sizeof(head));
	if (n > 0) raw_send(fd, data, n);
}

static inline int raw_open(const char *path)
{
	int fd = raw_connect(path);
	raw_send(fd, RAW_PREFACE, strlen(RAW_PREFACE));
	raw_frame(fd, RAW_SETTINGS, 0, 0, NULL, 0);
	return fd;
}

static inline size_t raw_header(uint8_t *buf, const char *name, const char *value)
{
	size_t n = 0, a = strlen(name), b = strlen(value);
	buf[n++] = 0;
	buf[n++] = (uint8_t)a;
	memcpy(buf + n, name, a);
	n += a;
	buf[n++] = (uint8_t)b;
	memcpy(buf + n, value, b);
	return n + b;
}

static inline void raw_call(int fd, uint32_t stream, const char *path, const char *encoding)
{
	uint8_t buf[512];
	size_t n = 0;
	n += raw_header(buf + n, ":method", "POST");
	n += raw_header(buf + n, ":scheme", "http");
	n += raw_header(buf + n, ":path", path);
	n += raw_header(buf + n, ":authority", "localhost");
	n += raw_header(buf + n, "content-type", "application/grpc");
	n += raw_header(buf + n, "te", "trailers");
	if (encoding != NULL) n += raw_header(buf + n, "grpc-encoding", encoding);
	raw_frame(fd, RAW_HEADERS, RAW_END_HEADERS, stream, buf, n);
}

static inline uint32_t raw_u32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* What the server lets us send, on the connection and on stream 1. */
struct raw_window {
	int64_t connection, stream, initial;
};

/* Read one frame and take note of what it says about windows. */
static inline void raw_read_window(int fd, struct raw_window *w)
{
	uint8_t h[9], body[65536];
	assert_int_equal(recv(fd, h, sizeof(h), MSG_WAITALL), sizeof(h));
	size_t n = raw_u32(h) >> 8;
	assert_true(n <= sizeof(body));
	if (n > 0) assert_int_equal(recv(fd, body, n, MSG_WAITALL), n);
	assert_int_not_equal(h[3], RAW_RST);
	if (h[3] == RAW_WINDOW) {
		*(raw_u32(h + 5) == 0 ? &w->connection : &w->stream) += raw_u32(body);
	}
	if (h[3] == RAW_SETTINGS && (h[4] & 1) == 0) {
		raw_frame(fd, RAW_SETTINGS, 1, 0, NULL, 0); /* acknowledged */
	}
	for (size_t i = 0; h[3] == RAW_SETTINGS && i + 6 <= n; i += 6) {
		if (body[i] != 0 || body[i + 1] != 4) continue; /* INITIAL_WINDOW_SIZE */
		w->stream += (int64_t)raw_u32(body + i + 2) - w->initial;
		w->initial = raw_u32(body + i + 2);
	}
}

/* n zero bytes on stream 1, after a head of 5, as fast as the server's windows let us. */
static inline void raw_body(int fd, size_t n)
{
	static const uint8_t zeros[16384];
	struct raw_window w = {65535 - 5, 65535 - 5, 65535};
	while (n > 0) {
		int64_t may = w.connection < w.stream ? w.connection : w.stream;
		size_t k = n < sizeof(zeros) ? n : sizeof(zeros);
		if (may <= 0) {
			raw_read_window(fd, &w);
			continue;
		}
		if ((int64_t)k > may) k = (size_t)may;
		raw_frame(fd, RAW_DATA, 0, 1, zeros, k);
		w.connection -= (int64_t)k;
		w.stream -= (int64_t)k;
		n -= k;
	}
}

/* Read until the answer holds grpc-status: its value, or -1 when the connection ends without. */
static inline int raw_status(int fd)
{
	static const char name[] = "grpc-status";
	uint8_t buf[65536];
	size_t n = 0;
	for (;;) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		if (poll(&p, 1, 20000) <= 0 || n == sizeof(buf)) return -2;
		ssize_t k = recv(fd, buf + n, sizeof(buf) - n, 0);
		if (k <= 0) return -1;
		n += (size_t)k;
		uint8_t *at = memmem(buf, n, name, sizeof(name) - 1);
		if (at == NULL) continue;
		at += sizeof(name) - 1;
		int len = at[0], status = 0;
		for (int i = 1; i <= len; i++) status = status * 10 + (at[i] - '0');
		return status;
	}
}

#endif
