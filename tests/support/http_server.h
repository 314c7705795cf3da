/* A small HTTP server for tests, on a port of its own of the loopback: each request that comes is
 * answered by the next step of a script, and recorded. It does what it is told, not what HTTP
 * wants.
 *
 * One thread; connections are kept open as a real server's. A request without a step left is
 * answered 599. Threads: internally locked. */
#ifndef CAIRN_TESTS_HTTP_SERVER_H
#define CAIRN_TESTS_HTTP_SERVER_H

#include <arpa/inet.h>
#include <assert.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define HTTP_SERVER_STEPS 128
#define HTTP_SERVER_CONNECTIONS 32
#define HTTP_SERVER_REQUEST 65536

struct http_step {
	int status;	     /* 0: 200 */
	const char *headers; /* whole lines, each with \r\n; NULL: none */
	const void *body;    /* NULL: none; borrowed */
	size_t len;	     /* of body; 0: it is text */
	size_t cut;	     /* bytes of the body that are sent; 0: all; then the connection ends */
	size_t piece;	     /* bytes sent at once; 0: all */
	int piece_ms;	     /* pause between pieces */
	int wait_ms;	     /* before anything is sent */
	int stall_ms;	     /* after what was sent, before the next request */
	bool no_length;	     /* no Content-Length; the connection ends the body */
	bool chunked;
	bool no_end;   /* of chunked: the connection ends instead */
	bool reset;    /* instead of an orderly end, where the connection ends */
	bool hang_up;  /* send nothing at all */
	bool raw;      /* body is all that is sent, headers and all */
	bool slow_off; /* send headers only, then stall_ms */
};

struct http_server {
	int fd, port;
	pthread_t thread;
	atomic_bool stop;
	pthread_mutex_t mu;
	struct http_step steps[HTTP_SERVER_STEPS]; /* guarded by mu, as the rest */
	char *requests[HTTP_SERVER_STEPS];
	size_t n_steps, n_requests, n_connections;
	const char *greeting; /* sent to whoever connects, and nothing else is done; NULL: none */
};

/* Sleep, but not longer than the test lasts. */
static inline void http_server_sleep(struct http_server *s, int ms)
{
	for (int i = 0; i < ms && !atomic_load(&s->stop); i += 5) usleep(5000);
}

static inline bool http_server_send(int fd, const void *data, size_t n)
{
	const char *from = data;
	while (n > 0) {
		ssize_t sent = send(fd, from, n, MSG_NOSIGNAL);
		if (sent <= 0) return false;
		from += sent;
		n -= (size_t)sent;
	}
	return true;
}

static inline void http_server_send_body(struct http_server *s, int fd, const struct http_step *st,
					 size_t len)
{
	size_t end = st->cut > 0 && st->cut < len ? st->cut : len;
	size_t piece = st->piece > 0 ? st->piece : end;
	char size[32];
	for (size_t at = 0; at < end && !atomic_load(&s->stop); at += piece) {
		size_t n = end - at < piece ? end - at : piece;
		if (at > 0) http_server_sleep(s, st->piece_ms);
		snprintf(size, sizeof(size), "%zx\r\n", n);
		if (st->chunked && !http_server_send(fd, size, strlen(size))) return;
		if (!http_server_send(fd, (const char *)st->body + at, n)) return;
		if (st->chunked && !http_server_send(fd, "\r\n", 2)) return;
	}
	if (st->chunked && end == len && !st->no_end) (void)http_server_send(fd, "0\r\n\r\n", 5);
}

/* Returns whether the connection is kept. */
static inline bool http_server_answer(struct http_server *s, int fd, const struct http_step *st,
				      const char *request)
{
	size_t len = st->body == NULL ? 0 : st->len > 0 ? st->len : strlen(st->body);
	bool head = strncmp(request, "HEAD ", 5) == 0;
	char start[256], length[64] = "";
	http_server_sleep(s, st->wait_ms);
	if (st->hang_up) return false;
	if (st->raw) {
		http_server_send_body(s, fd, st, len);
		http_server_sleep(s, st->stall_ms);
		return false;
	}
	if (!st->no_length && !st->chunked) {
		snprintf(length, sizeof(length), "Content-Length: %zu\r\n", len);
	}
	snprintf(start, sizeof(start), "HTTP/1.1 %d X\r\n%s%s", st->status != 0 ? st->status : 200,
		 length, st->chunked ? "Transfer-Encoding: chunked\r\n" : "");
	if (!http_server_send(fd, start, strlen(start))) return false;
	if (st->headers != NULL && !http_server_send(fd, st->headers, strlen(st->headers))) {
		return false;
	}
	if (!http_server_send(fd, "\r\n", 2)) return false;
	if (!head && !st->slow_off) http_server_send_body(s, fd, st, len);
	http_server_sleep(s, st->stall_ms);
	return !st->no_length && !st->no_end && st->cut == 0 && !st->slow_off;
}

static inline void http_server_close(int fd, bool reset)
{
	struct linger now = {.l_onoff = 1, .l_linger = 0};
	if (reset) setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	close(fd);
}

/* A whole request into buf: headers, and as much body as Content-Length says. */
static inline bool http_server_read(int fd, char *buf, size_t cap)
{
	size_t len = 0, want = 0;
	for (;;) {
		ssize_t got = recv(fd, buf + len, cap - 1 - len, 0);
		if (got <= 0) return false;
		len += (size_t)got;
		buf[len] = '\0';
		const char *end = strstr(buf, "\r\n\r\n");
		if (end == NULL) continue;
		const char *length = strcasestr(buf, "\r\nContent-Length:");
		want = (size_t)(end + 4 - buf);
		if (length != NULL && length < end) want += strtoul(length + 17, NULL, 10);
		if (len >= want) return true;
	}
}

/* One request of a connection. Returns whether the connection is kept. */
static inline bool http_server_serve(struct http_server *s, int fd)
{
	static const struct http_step none = {.status = 599};
	char *buf = malloc(HTTP_SERVER_REQUEST);
	assert(buf != NULL);
	struct http_step step = none;
	if (!http_server_read(fd, buf, HTTP_SERVER_REQUEST)) {
		free(buf);
		http_server_close(fd, false);
		return false;
	}
	pthread_mutex_lock(&s->mu);
	if (s->n_requests < s->n_steps) step = s->steps[s->n_requests];
	if (s->n_requests < HTTP_SERVER_STEPS) {
		s->requests[s->n_requests++] = buf;
	} else {
		abort();
	}
	pthread_mutex_unlock(&s->mu);
	bool keep = http_server_answer(s, fd, &step, buf);
	if (!keep) http_server_close(fd, step.reset);
	return keep;
}

static inline void *http_server_main(void *arg)
{
	struct http_server *s = arg;
	struct pollfd fds[HTTP_SERVER_CONNECTIONS + 1] = {{.fd = s->fd, .events = POLLIN}};
	nfds_t n = 1;
	while (!atomic_load(&s->stop)) {
		if (poll(fds, n, 20) <= 0) continue;
		for (nfds_t i = n - 1; i > 0; i--) {
			if (fds[i].revents == 0 || http_server_serve(s, fds[i].fd)) continue;
			fds[i] = fds[--n];
		}
		if (fds[0].revents != 0 && n <= HTTP_SERVER_CONNECTIONS) {
			int fd = accept4(s->fd, NULL, NULL, SOCK_CLOEXEC);
			if (fd < 0) continue;
			fds[n++] = (struct pollfd){.fd = fd, .events = POLLIN};
			pthread_mutex_lock(&s->mu);
			s->n_connections++;
			const char *greeting = s->greeting;
			pthread_mutex_unlock(&s->mu);
			if (greeting == NULL) continue;
			(void)http_server_send(fd, greeting, strlen(greeting));
			(void)shutdown(fd, SHUT_WR);
			char hello[4096];
			(void)recv(fd, hello, sizeof(hello), 0);
			close(fds[--n].fd);
		}
	}
	for (nfds_t i = 1; i < n; i++) close(fds[i].fd);
	return NULL;
}

static inline struct http_server *http_server_start(void)
{
	struct http_server *s = calloc(1, sizeof(*s));
	struct sockaddr_in addr = {.sin_family = AF_INET,
				   .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(addr);
	assert(s != NULL);
	pthread_mutex_init(&s->mu, NULL);
	s->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (s->fd < 0 || bind(s->fd, (struct sockaddr *)&addr, len) != 0 ||
	    listen(s->fd, 64) != 0 || getsockname(s->fd, (struct sockaddr *)&addr, &len) != 0) {
		abort();
	}
	s->port = ntohs(addr.sin_port);
	if (pthread_create(&s->thread, NULL, http_server_main, s) != 0) abort();
	return s;
}

static inline void http_server_stop(struct http_server *s)
{
	if (s == NULL) return;
	atomic_store(&s->stop, true);
	pthread_join(s->thread, NULL);
	close(s->fd);
	for (size_t i = 0; i < s->n_requests; i++) free(s->requests[i]);
	pthread_mutex_destroy(&s->mu);
	free(s);
}

/* Append a step. What it points to must live as long as the server. */
static inline void http_server_then(struct http_server *s, struct http_step step)
{
	pthread_mutex_lock(&s->mu);
	if (s->n_steps == HTTP_SERVER_STEPS) abort();
	s->steps[s->n_steps++] = step;
	pthread_mutex_unlock(&s->mu);
}

static inline size_t http_server_requests(struct http_server *s)
{
	pthread_mutex_lock(&s->mu);
	size_t n = s->n_requests;
	pthread_mutex_unlock(&s->mu);
	return n;
}

static inline size_t http_server_connections(struct http_server *s)
{
	pthread_mutex_lock(&s->mu);
	size_t n = s->n_connections;
	pthread_mutex_unlock(&s->mu);
	return n;
}

/* The text of the i-th request, from 0; "": there was none. It lives as long as the server. */
static inline const char *http_server_request(struct http_server *s, size_t i)
{
	pthread_mutex_lock(&s->mu);
	const char *text = i < s->n_requests ? s->requests[i] : "";
	pthread_mutex_unlock(&s->mu);
	return text;
}

#endif
