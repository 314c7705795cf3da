/* /metrics, /healthz and /readyz by libmicrohttpd: one thread of its own, few connections, short
 * time-outs; what it serves is gathered from memory. */
#include <arpa/inet.h>
#include <errno.h>
#include <microhttpd.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "plugin/metrics.h"
#include "plugin/plugin.h"

#define CONNECTIONS_MAX 32
#define IDLE_TIMEOUT_S 10
#define MEMORY_MAX 16384 /* of one connection: its request's headers */

struct cairn_http {
	struct cairn_http_opts opts;
	struct MHD_Daemon *daemon;
	int port;
};

static enum MHD_Result answer(struct MHD_Connection *conn, unsigned code, const char *type,
			      char *text, size_t len, enum MHD_ResponseMemoryMode mode)
{
	struct MHD_Response *resp = MHD_create_response_from_buffer(len, text, mode);
	if (resp == NULL) {
		if (mode == MHD_RESPMEM_MUST_FREE) free(text);
		return MHD_NO;
	}
	MHD_add_response_header(resp, MHD_HTTP_HEADER_CONTENT_TYPE, type);
	if (code == MHD_HTTP_METHOD_NOT_ALLOWED) {
		MHD_add_response_header(resp, MHD_HTTP_HEADER_ALLOW, "GET, HEAD");
	}
	enum MHD_Result rc = MHD_queue_response(conn, code, resp);
	MHD_destroy_response(resp);
	return rc;
}

static enum MHD_Result answer_plain(struct MHD_Connection *conn, unsigned code, const char *text)
{
	return answer(conn, code, "text/plain; charset=utf-8", (char *)(uintptr_t)text,
		      strlen(text), MHD_RESPMEM_PERSISTENT);
}

static enum MHD_Result answer_metrics(struct cairn_http *http, struct MHD_Connection *conn)
{
	size_t len = 0;
	char *text = cairn_metrics_write(&http->opts, &len);
	return answer(conn, MHD_HTTP_OK, "text/plain; version=0.0.4; charset=utf-8", text, len,
		      MHD_RESPMEM_MUST_FREE);
}

static enum MHD_Result handle(void *arg, struct MHD_Connection *conn, const char *url,
			      const char *method, const char *version, const char *upload_data,
			      size_t *upload_len, void **state)
{
	(void)version;
	(void)upload_data;
	static char seen;
	struct cairn_http *http = arg;
	if (*state == NULL) { /* only the headers are here yet */
		*state = &seen;
		return MHD_YES;
	}
	if (*upload_len > 0) { /* a body that nobody asked for */
		*upload_len = 0;
		return MHD_YES;
	}
	if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0) {
		return answer_plain(conn, MHD_HTTP_METHOD_NOT_ALLOWED, "only GET and HEAD\n");
	}
	if (strcmp(url, "/metrics") == 0) return answer_metrics(http, conn);
	if (strcmp(url, "/healthz") == 0) return answer_plain(conn, MHD_HTTP_OK, "ok\n");
	if (strcmp(url, "/readyz") == 0) {
		bool ready = atomic_load(&http->opts.health->serving);
		return answer_plain(conn, ready ? MHD_HTTP_OK : MHD_HTTP_SERVICE_UNAVAILABLE,
				    ready ? "ready\n" : "not ready\n");
	}
	return answer_plain(conn, MHD_HTTP_NOT_FOUND,
			    "not found; there are /metrics, /healthz and /readyz\n");
}

/* "host:port", "[v6]:port" or ":port" into two buffers. */
static enum cairn_code split_address(const char *listen_on, char *host, size_t host_cap, char *port,
				     size_t port_cap, struct cairn_err *err)
{
	const char *colon = strrchr(listen_on, ':');
	size_t n = colon != NULL ? (size_t)(colon - listen_on) : 0;
	const char *from = listen_on;
	if (n >= 2 && from[0] == '[' && from[n - 1] == ']') {
		from++;
		n -= 2;
	}
	if (colon == NULL || n >= host_cap || strlen(colon + 1) >= port_cap) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "http.listen: %.200s is not host:port", listen_on);
	}
	memcpy(host, from, n);
	host[n] = '\0';
	memcpy(port, colon + 1, strlen(colon + 1) + 1);
	return CAIRN_OK;
}

static int try_listen(const struct addrinfo *ai)
{
	int one = 1;
	int fd = socket(ai->ai_family, ai->ai_socktype | SOCK_CLOEXEC, ai->ai_protocol);
	if (fd < 0) return -1;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, ai->ai_addr, ai->ai_addrlen) == 0 && listen(fd, CONNECTIONS_MAX) == 0) {
		return fd;
	}
	int e = errno;
	close(fd);
	errno = e;
	return -1;
}

static enum cairn_code open_socket(const char *listen_on, int *ret, struct cairn_err *err)
{
	char host[256] = "", port[16] = "";
	enum cairn_code rc = split_address(listen_on, host, sizeof(host), port, sizeof(port), err);
	if (rc) return rc;
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
	struct addrinfo *list = NULL;
	int e = getaddrinfo(host[0] != '\0' ? host : NULL, port, &hints, &list);
	if (e != 0) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT, "http.listen: %s: %s", listen_on,
				     gai_strerror(e));
	}
	int fd = -1, why = EADDRNOTAVAIL;
	for (const struct addrinfo *ai = list; ai != NULL && fd < 0; ai = ai->ai_next) {
		fd = try_listen(ai);
		if (fd < 0) why = errno;
	}
	freeaddrinfo(list);
	if (fd < 0) return cairn_err_sys(err, why, "http.listen: listen on %s", listen_on);
	*ret = fd;
	return CAIRN_OK;
}

static int bound_port(int fd)
{
	union {
		struct sockaddr sa;
		struct sockaddr_in in;
		struct sockaddr_in6 in6;
	} addr = {0};
	socklen_t len = sizeof(addr);
	if (getsockname(fd, &addr.sa, &len) != 0) return 0;
	return ntohs(addr.sa.sa_family == AF_INET6 ? addr.in6.sin6_port : addr.in.sin_port);
}

enum cairn_code cairn_http_start(const struct cairn_http_opts *opts, struct cairn_http **ret,
				 struct cairn_err *err)
{
	int fd = -1;
	enum cairn_code rc = open_socket(opts->listen, &fd, err);
	if (rc) return rc;
	struct cairn_http *http = calloc(1, sizeof(*http));
	if (http == NULL) abort();
	http->opts = *opts;
	http->port = bound_port(fd);
	http->daemon = MHD_start_daemon(
		MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_EPOLL, 0, NULL, NULL, handle, http,
		MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_LIMIT, CONNECTIONS_MAX,
		MHD_OPTION_CONNECTION_TIMEOUT, IDLE_TIMEOUT_S, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
		(size_t)MEMORY_MAX, MHD_OPTION_END);
	if (http->daemon == NULL) {
		close(fd);
		free(http);
		return cairn_err_set(err, CAIRN_INTERNAL, "start the HTTP server on %s",
				     opts->listen);
	}
	*ret = http;
	return CAIRN_OK;
}

int cairn_http_port(const struct cairn_http *http)
{
	return http->port;
}

void cairn_http_stop(struct cairn_http *http)
{
	if (http == NULL) return;
	MHD_stop_daemon(http->daemon);
	free(http);
}
