#include "p2p/etcd_link.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "p2p/etcd_keys.h"

#define PEM_MAX (1 << 20) /* bytes of one file */
#define SILENT_MAX 3	  /* background calls without an answer, then the channel is made anew */

/* A channel, and who uses it. */
struct link {
	struct cairn_channel *channel;
	unsigned refs; /* guarded by mu: the endpoint's, and one for each call */
};

struct endpoint {
	char target[CAIRN_ADDRESS_MAX];
	bool tls;
	struct link *link; /* guarded by mu */
	unsigned silent;   /* guarded by mu */
};

struct cairn_etcd_links {
	struct cairn_rpc *rpc;
	char *ca, *cert, *key; /* paths, or NULL */
	size_t n;
	struct endpoint endpoints[CAIRN_ETCD_ENDPOINTS_MAX];
	_Atomic size_t good; /* the one that answered last */
	pthread_mutex_t mu;
	bool cancelled;					 /* guarded by mu */
	struct cairn_call *calls[CAIRN_ETCD_BACKGROUND]; /* guarded by mu: that run */
};

int64_t cairn_etcd_now_ms(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / CAIRN_NS_PER_MS;
}

/* ---- files and endpoints --------------------------------------------------------------------- */

static char *copy_path(const char *path)
{
	if (path == NULL || path[0] == '\0') return NULL;
	char *copy = strdup(path);
	if (copy == NULL) abort();
	return copy;
}

static void close_fd(int *fd)
{
	if (*fd >= 0) close(*fd);
}

/* A whole small file as text; NULL of none. Of a key it tells the name, never the content. */
static enum cairn_code read_pem(const char *path, char **ret, struct cairn_err *err)
{
	*ret = NULL;
	if (path == NULL) return CAIRN_OK;
	cairn_auto(close_fd) int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	if (fd < 0 || fstat(fd, &st) != 0) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT, "%s: %s", path, strerror(errno));
	}
	if (!S_ISREG(st.st_mode) || st.st_size > PEM_MAX) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "%s: no file, or larger than %d bytes", path, PEM_MAX);
	}
	char *text = calloc(1, (size_t)st.st_size + 1);
	if (text == NULL) abort();
	size_t n = 0;
	while (n < (size_t)st.st_size) {
		ssize_t got = read(fd, text + n, (size_t)st.st_size - n);
		if (got <= 0) break;
		n += (size_t)got;
	}
	*ret = text;
	return CAIRN_OK;
}

static void free_secret(char **text)
{
	if (*text != NULL) explicit_bzero(*text, strlen(*text));
	free(*text);
}

bool cairn_etcd_read_endpoint(const char *url, char ret_target[static CAIRN_ADDRESS_MAX],
			      bool *ret_tls)
{
	bool tls = strncmp(url, "https://", 8) == 0;
	if (tls) {
		url += 8;
	} else if (strncmp(url, "http://", 7) == 0) {
		url += 7;
	}
	size_t n = strlen(url);
	if (n > 0 && url[n - 1] == '/') n--;
	if (!cairn_etcd_address_ok(url, n)) return false;
	memcpy(ret_target, url, n);
	ret_target[n] = '\0';
	*ret_tls = tls;
	return true;
}

/* ---- channels -------------------------------------------------------------------------------- */

static enum cairn_code make_channel(struct cairn_etcd_links *links, const struct endpoint *e,
				    struct cairn_channel **ret, struct cairn_err *err)
{
	if (!e->tls) return cairn_channel_new(links->rpc, e->target, NULL, ret, err);
	cairn_auto(free_secret) char *ca = NULL, *cert = NULL, *key = NULL;
	enum cairn_code rc = read_pem(links->ca, &ca, err);
	if (rc == CAIRN_OK) rc = read_pem(links->cert, &cert, err);
	if (rc == CAIRN_OK) rc = read_pem(links->key, &key, err);
	const struct cairn_tls tls = {.ca = ca, .cert = cert, .key = key};
	if (rc == CAIRN_OK) rc = cairn_channel_new(links->rpc, e->target, &tls, ret, err);
	return rc;
}

static enum cairn_code make_link(struct cairn_etcd_links *links, const struct endpoint *e,
				 struct link **ret, struct cairn_err *err)
{
	struct cairn_channel *channel;
	enum cairn_code rc = make_channel(links, e, &channel, err);
	if (rc) return cairn_err_wrap(err, "etcd endpoint %s", e->target);
	struct link *link = calloc(1, sizeof(*link));
	if (link == NULL) abort();
	link->channel = channel;
	link->refs = 1;
	*ret = link;
	return CAIRN_OK;
}

static struct link *take_link(struct cairn_etcd_links *links, size_t i)
{
	pthread_mutex_lock(&links->mu);
	struct link *link = links->endpoints[i].link;
	link->refs++;
	pthread_mutex_unlock(&links->mu);
	return link;
}

static void drop_link(struct cairn_etcd_links *links, struct link *link)
{
	if (link == NULL) return;
	pthread_mutex_lock(&links->mu);
	bool last = --link->refs == 0;
	pthread_mutex_unlock(&links->mu);
	if (!last) return;
	cairn_channel_free(link->channel);
	free(link);
}

/* Also for new certificates. If that fails the old one stays. */
static void renew_link(struct cairn_etcd_links *links, size_t i)
{
	struct cairn_err err;
	struct link *link;
	if (make_link(links, &links->endpoints[i], &link, &err) != CAIRN_OK) return;
	pthread_mutex_lock(&links->mu);
	struct link *old = links->endpoints[i].link;
	links->endpoints[i].link = link;
	pthread_mutex_unlock(&links->mu);
	drop_link(links, old);
}

static enum cairn_code add_endpoint(struct cairn_etcd_links *links, const char *url,
				    struct cairn_err *err)
{
	struct endpoint *e = &links->endpoints[links->n];
	/* The text is not shown: somebody may have written a password into it. */
	if (!cairn_etcd_read_endpoint(url, e->target, &e->tls)) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "etcd endpoint %zu is not of the form https://host:port",
				     links->n + 1);
	}
	if (!e->tls && (links->ca != NULL || links->cert != NULL)) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "etcd endpoint %s is plain http, but files for TLS are given",
				     e->target);
	}
	enum cairn_code rc = make_link(links, e, &e->link, err);
	if (rc == CAIRN_OK) links->n++;
	return rc;
}

enum cairn_code cairn_etcd_links_new(const struct cairn_etcd_opts *opts,
				     struct cairn_etcd_links **ret, struct cairn_err *err)
{
	if (opts->n_endpoints == 0 || opts->n_endpoints > CAIRN_ETCD_ENDPOINTS_MAX) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "%zu endpoints of etcd: 1 to %d are needed", opts->n_endpoints,
				     CAIRN_ETCD_ENDPOINTS_MAX);
	}
	struct cairn_etcd_links *links = calloc(1, sizeof(*links));
	if (links == NULL) abort();
	links->rpc = opts->rpc;
	links->ca = copy_path(opts->ca);
	links->cert = copy_path(opts->cert);
	links->key = copy_path(opts->key);
	pthread_mutex_init(&links->mu, NULL);
	for (size_t i = 0; i < opts->n_endpoints; i++) {
		enum cairn_code rc = add_endpoint(links, opts->endpoints[i], err);
		if (rc) {
			cairn_etcd_links_free(links);
			return rc;
		}
	}
	*ret = links;
	return CAIRN_OK;
}

void cairn_etcd_links_free(struct cairn_etcd_links *links)
{
	if (links == NULL) return;
	for (size_t i = 0; i < links->n; i++) drop_link(links, links->endpoints[i].link);
	pthread_mutex_destroy(&links->mu);
	free(links->ca);
	free(links->cert);
	free(links->key);
	free(links);
}

/* ---- calls ----------------------------------------------------------------------------------- */

/* Another server may know better. */
static bool is_silence(enum cairn_code code)
{
	return code == CAIRN_UNAVAILABLE || code == CAIRN_DEADLINE_EXCEEDED;
}

enum cairn_code cairn_etcd_call(struct cairn_etcd_links *links, const struct cairn_etcd_question *q,
				int64_t timeout_ms, ProtobufCMessage **ret, struct cairn_err *err)
{
	int64_t until = cairn_etcd_now_ms() + timeout_ms;
	size_t first = atomic_load(&links->good);
	enum cairn_code rc = cairn_err_set(err, CAIRN_DEADLINE_EXCEEDED, "no time left");
	for (size_t i = 0; i < links->n; i++) {
		int64_t left = until - cairn_etcd_now_ms();
		if (left <= 0) return rc;
		size_t k = (first + i) % links->n;
		struct link *link = take_link(links, k);
		rc = cairn_channel_unary(link->channel, q->path, NULL, 0, left, q->request,
					 q->response, ret, err);
		drop_link(links, link);
		if (!is_silence(rc)) {
			if (i > 0) atomic_store(&links->good, k);
			return rc;
		}
	}
	return rc;
}

static enum cairn_code unpack(const struct cairn_msg *msg, const struct cairn_etcd_question *q,
			      ProtobufCMessage **ret, struct cairn_err *err)
{
	const struct cairn_span *spans;
	size_t n = cairn_msg_spans(msg, &spans), len = cairn_msg_len(msg), at = 0;
	assert(len <= CAIRN_RPC_MESSAGE_MAX); /* the channel sees to that */
	uint8_t *bytes = malloc(len + 1);
	if (bytes == NULL) abort();
	for (size_t i = 0; i < n; i++) {
		if (spans[i].len > 0) memcpy(bytes + at, spans[i].data, spans[i].len);
		at += spans[i].len;
	}
	*ret = protobuf_c_message_unpack(q->response, NULL, len, bytes);
	free(bytes);
	if (*ret != NULL) return CAIRN_OK;
	return cairn_err_set(err, CAIRN_INTERNAL, "%s: the answer cannot be read", q->path);
}

/* The call can be cancelled from here on. False: it has been. */
static bool show_call(struct cairn_etcd_links *links, struct cairn_call *call)
{
	pthread_mutex_lock(&links->mu);
	bool go_on = !links->cancelled;
	for (size_t i = 0; go_on; i++) {
		assert(i < CAIRN_LEN(links->calls));
		if (links->calls[i] != NULL) continue;
		links->calls[i] = call;
		break;
	}
	pthread_mutex_unlock(&links->mu);
	return go_on;
}

static void hide_call(struct cairn_etcd_links *links, const struct cairn_call *call)
{
	pthread_mutex_lock(&links->mu);
	for (size_t i = 0; i < CAIRN_LEN(links->calls); i++) {
		if (links->calls[i] == call) links->calls[i] = NULL;
	}
	pthread_mutex_unlock(&links->mu);
}

void cairn_etcd_links_cancel(struct cairn_etcd_links *links)
{
	struct cairn_call *calls[CAIRN_ETCD_BACKGROUND];
	size_t n = 0;
	pthread_mutex_lock(&links->mu);
	links->cancelled = true;
	for (size_t i = 0; i < CAIRN_LEN(links->calls); i++) {
		if (links->calls[i] != NULL) calls[n++] = cairn_call_ref(links->calls[i]);
	}
	pthread_mutex_unlock(&links->mu);
	for (size_t i = 0; i < n; i++) {
		cairn_call_cancel(calls[i]);
		cairn_call_unref(calls[i]);
	}
}

/* One message there, one back. */
static enum cairn_code exchange(struct cairn_etcd_links *links, struct cairn_channel *channel,
				const struct cairn_etcd_question *q, int64_t timeout_ms,
				ProtobufCMessage **ret, struct cairn_err *err)
{
	struct cairn_call *call;
	struct cairn_msg *msg = NULL;
	struct cairn_err ended;
	*ret = NULL;
	enum cairn_code rc = cairn_channel_open(channel, q->path, NULL, 0, timeout_ms, &call, err);
	if (rc) return rc;
	rc = cairn_err_set(err, CAIRN_CANCELLED, "%s: we end", q->path);
	cairn_call_ref(call); /* until it is hidden */
	if (show_call(links, call)) {
		rc = cairn_call_send(call, q->request, err);
		if (rc == CAIRN_OK && cairn_call_recv(call, &msg) == CAIRN_RECV_MSG) {
			rc = unpack(msg, q, ret, err);
			cairn_msg_free(msg);
		}
	} else {
		cairn_call_cancel(call);
	}
	enum cairn_code end = cairn_call_finish(call, &ended);
	hide_call(links, call);
	cairn_call_unref(call);
	if (*ret != NULL) return CAIRN_OK;
	if (end != CAIRN_OK) {
		*err = ended;
		return end;
	}
	if (rc != CAIRN_OK) return rc;
	return cairn_err_set(err, CAIRN_INTERNAL, "%s: no answer", q->path);
}

/* What a background call tells of its server. */
static void note_answer(struct cairn_etcd_links *links, size_t i, enum cairn_code code)
{
	pthread_mutex_lock(&links->mu);
	struct endpoint *e = &links->endpoints[i];
	e->silent = is_silence(code) ? e->silent + 1 : 0;
	bool renew = e->silent >= SILENT_MAX && !links->cancelled;
	if (renew) e->silent = 0;
	pthread_mutex_unlock(&links->mu);
	if (renew) renew_link(links, i);
}

enum cairn_code cairn_etcd_background_call(struct cairn_etcd_links *links,
					   const struct cairn_etcd_question *q, int64_t each_ms,
					   ProtobufCMessage **ret, struct cairn_err *err)
{
	size_t first = atomic_load(&links->good);
	enum cairn_code rc = CAIRN_UNAVAILABLE;
	for (size_t i = 0; i < links->n; i++) {
		size_t k = (first + i) % links->n;
		struct link *link = take_link(links, k);
		rc = exchange(links, link->channel, q, each_ms, ret, err);
		drop_link(links, link);
		note_answer(links, k, rc);
		if (!is_silence(rc)) {
			if (i > 0) atomic_store(&links->good, k);
			return rc;
		}
	}
	return rc;
}
