/* A store and its content service on a socket in a folder of their own, and a client to it.
 * The clock is the test's: it moves only when told to. */
#ifndef CAIRN_TESTS_CONTENT_FIXTURE_H
#define CAIRN_TESTS_CONTENT_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "content.pb-c.h"
#include "plugin/plugin.h"
#include "support/tmp.h"

typedef Containerd__Services__Content__V1__WriteContentRequest pb_write;
typedef Containerd__Services__Content__V1__WriteContentResponse pb_written;

#define METHOD(name) "/containerd.services.content.v1.Content/" name
#define TYPE_OF(name) &containerd__services__content__v1__##name##__descriptor
enum { STAT = 0, WRITE = 1, COMMIT = 2 };

struct node {
	struct cairn_clock clock; /* first: the functions get back to the node by it */
	_Atomic int64_t skew_ns;
	char dir[64], socket[96], target[112];
	struct cairn_cache *cache;
	struct cairn_rpc *rpc;
	struct cairn_rpc_server *server;
	struct cairn_channel *channel;
	struct cairn_content_service content;
	struct cairn_health_service health;
	bool drained;
};

static inline int64_t node_real(const struct cairn_clock *clock)
{
	return cairn_real_ns(&cairn_clock_system) + ((const struct node *)clock)->skew_ns;
}

static inline int64_t node_boot(const struct cairn_clock *clock)
{
	return cairn_boot_ns(&cairn_clock_system) + ((const struct node *)clock)->skew_ns;
}

#define OK(expr)                                                                                   \
	do {                                                                                       \
		struct cairn_err *e_ = &node_err;                                                  \
		e_->msg[0] = '\0';                                                                 \
		enum cairn_code rc_ = (expr);                                                      \
		if (rc_) fail_msg("%s: %s: %s", #expr, cairn_code_name(rc_), e_->msg);             \
	} while (0)

static struct cairn_err node_err;

static inline void node_open_store(struct node *n)
{
	struct cairn_cache_opts opts = {.dir = n->dir, .clock = &n->clock};
	OK(cairn_cache_open(&opts, &n->cache, &node_err));
}

static inline void node_serve(struct node *n)
{
	OK(cairn_rpc_new(&(struct cairn_rpc_opts){0}, &n->rpc, &node_err));
	OK(cairn_rpc_server_new(n->rpc, &n->server, &node_err));
	n->content.cache = n->cache;
	n->health.serving = true;
	cairn_content_service_add(n->server, &n->content);
	cairn_health_service_add(n->server, &n->health);
	OK(cairn_rpc_server_listen_unix(n->server, n->socket, &node_err));
	OK(cairn_rpc_server_start(n->server, &node_err));
	OK(cairn_channel_new(n->rpc, n->target, NULL, &n->channel, &node_err));
}

static inline struct node *node_new(bool prefill, bool owners_only)
{
	struct node *n = calloc(1, sizeof(*n));
	n->clock = (struct cairn_clock){node_real, node_boot};
	tmp_template(n->dir, sizeof(n->dir), "content");
	assert_non_null(mkdtemp(n->dir));
	snprintf(n->socket, sizeof(n->socket), "%s/s.sock", n->dir);
	snprintf(n->target, sizeof(n->target), "unix:%s", n->socket);
	n->content.prefill = prefill;
	n->content.owners_only = owners_only;
	node_open_store(n);
	node_serve(n);
	return n;
}

/* Returns the number of calls that had to be cancelled. */
static inline size_t node_drain(struct node *n, int64_t timeout_ms)
{
	n->drained = true;
	return cairn_rpc_server_drain(n->server, timeout_ms);
}

static inline void node_close(struct node *n)
{
	if (!n->drained) node_drain(n, 10000);
	n->drained = false;
	cairn_channel_free(n->channel);
	cairn_rpc_server_free(n->server);
	cairn_rpc_free(n->rpc);
	cairn_cache_close(n->cache);
}

static inline void node_free(struct node *n)
{
	char cmd[128];
	node_close(n);
	snprintf(cmd, sizeof(cmd), "rm -rf %s", n->dir);
	assert_int_equal(system(cmd), 0);
	free(n);
}

/* ---- values -----------------------------------------------------------------------------------*/

/* Bytes that differ with seed, in a buffer of the caller's. */
static inline uint8_t *fill_bytes(uint8_t *buf, size_t n, unsigned seed)
{
	uint64_t x = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
	for (size_t i = 0; i < n; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		buf[i] = (uint8_t)x;
	}
	return buf;
}

static inline struct cairn_digest digest_of(const void *data, size_t n, enum cairn_alg alg)
{
	struct cairn_hasher h;
	struct cairn_digest d;
	cairn_hasher_init(&h, alg);
	cairn_hasher_update(&h, data, n);
	cairn_hasher_digest(&h, &d);
	return d;
}

/* Valid until the eighth call from now. */
static inline char *digest_text(const void *data, size_t n)
{
	static char ring[8][CAIRN_DIGEST_STR];
	static int at;
	struct cairn_digest d = digest_of(data, n, CAIRN_SHA256);
	at = (at + 1) % 8;
	cairn_digest_format(&d, ring[at]);
	return ring[at];
}

/* ---- calls ------------------------------------------------------------------------------------*/

/* The answer is in *ret, or err is set; ret may be NULL. */
static inline enum cairn_code unary(struct node *n, const char *path, const ProtobufCMessage *req,
				    const ProtobufCMessageDescriptor *type, void *ret)
{
	ProtobufCMessage *resp = NULL;
	enum cairn_code rc =
		cairn_channel_unary(n->channel, path, NULL, 0, 10000, req, type, &resp, &node_err);
	if (rc) return rc;
	if (ret != NULL) {
		*(void **)ret = resp;
	} else {
		protobuf_c_message_free_unpacked(resp, NULL);
	}
	return CAIRN_OK;
}

static inline struct cairn_call *open_write(struct node *n)
{
	struct cairn_call *call = NULL;
	OK(cairn_channel_open(n->channel, METHOD("Write"), NULL, 0, 20000, &call, &node_err));
	return call;
}

static inline pb_write write_message(int action, int64_t offset, const void *data, size_t len)
{
	pb_write m = CONTAINERD__SERVICES__CONTENT__V1__WRITE_CONTENT_REQUEST__INIT;
	m.action = (Containerd__Services__Content__V1__WriteAction)action;
	m.offset = offset;
	m.data.data = (uint8_t *)(uintptr_t)data;
	m.data.len = len;
	return m;
}

/* What a reply says. */
struct answer {
	int action;
	int64_t offset, total;
	char digest[CAIRN_DIGEST_STR];
	int64_t started_ns, updated_ns;
};

static inline int64_t time_ns(const Cairn__Wire__Timestamp *ts)
{
	assert_non_null(ts);
	assert_in_range(ts->nanos, 0, 999999999);
	return ts->seconds * CAIRN_NS_PER_S + ts->nanos;
}

/* Send and wait for the reply. When there is none the call is finished, and its status returned. */
static inline enum cairn_code ask(struct cairn_call **call, const pb_write *m, struct answer *ret)
{
	struct cairn_err ignored;
	struct cairn_msg *msg = NULL;
	ProtobufCMessage *pb = NULL;
	if (m != NULL) (void)!cairn_call_send(*call, &m->base, &ignored);
	if (cairn_call_recv(*call, &msg) != CAIRN_RECV_MSG) {
		enum cairn_code rc = cairn_call_finish(cairn_steal(call), &node_err);
		return rc;
	}
	OK(cairn_msg_unpack(*call, msg, TYPE_OF(write_content_response), &pb, &node_err));
	cairn_msg_free(msg);
	const pb_written *w = (const pb_written *)(void *)pb;
	struct answer a = {.action = (int)w->action,
			   .offset = w->offset,
			   .total = w->total,
			   .started_ns = time_ns(w->started_at),
			   .updated_ns = time_ns(w->updated_at)};
	snprintf(a.digest, sizeof(a.digest), "%s", w->digest);
	if (ret != NULL) *ret = a;
	return CAIRN_OK;
}

/* Open ref with a STAT. On failure *call is NULL. */
static inline enum cairn_code start_write(struct node *n, const char *ref, int64_t total,
					  struct cairn_call **call, struct answer *ret)
{
	pb_write m = write_message(STAT, 0, NULL, 0);
	m.ref = (char *)(uintptr_t)ref;
	m.total = total;
	*call = open_write(n);
	return ask(call, &m, ret);
}

/* Half-close, and take the status. */
static inline enum cairn_code end_write(struct cairn_call **call)
{
	struct cairn_err ignored;
	(void)!cairn_call_half_close(*call, &ignored);
	return cairn_call_finish(cairn_steal(call), &node_err);
}

static inline enum cairn_code write_at(struct cairn_call **call, int64_t offset, const void *data,
				       size_t len, struct answer *ret)
{
	pb_write m = write_message(WRITE, offset, data, len);
	return ask(call, &m, ret);
}

/* COMMIT, and the end of the stream if that is OK. */
static inline enum cairn_code commit_at(struct cairn_call **call, int64_t offset, int64_t total,
					const char *expected, struct answer *ret)
{
	pb_write m = write_message(COMMIT, offset, NULL, 0);
	m.total = total;
	m.expected = (char *)(uintptr_t)(expected != NULL ? expected : "");
	enum cairn_code rc = ask(call, &m, ret);
	return rc ? rc : end_write(call);
}

/* The whole of a pull's ingest of data, as containerd's fetcher does it. */
static inline enum cairn_code put_blob(struct node *n, const char *ref, const void *data,
				       size_t len)
{
	struct cairn_call *call = NULL;
	struct answer a;
	enum cairn_code rc = start_write(n, ref, (int64_t)len, &call, &a);
	if (rc) return rc;
	if (len > 0 && a.offset < (int64_t)len) {
		rc = write_at(&call, a.offset, (const char *)data + a.offset,
			      len - (size_t)a.offset, &a);
		if (rc) return rc;
	}
	return commit_at(&call, a.offset, (int64_t)len, digest_text(data, len), &a);
}

static inline enum cairn_code get_info(struct node *n, const char *digest, void *ret)
{
	Containerd__Services__Content__V1__InfoRequest req =
		CONTAINERD__SERVICES__CONTENT__V1__INFO_REQUEST__INIT;
	req.digest = (char *)(uintptr_t)digest;
	return unary(n, METHOD("Info"), &req.base, TYPE_OF(info_response), ret);
}

static inline enum cairn_code delete_blob(struct node *n, const char *digest)
{
	Containerd__Services__Content__V1__DeleteContentRequest req =
		CONTAINERD__SERVICES__CONTENT__V1__DELETE_CONTENT_REQUEST__INIT;
	req.digest = (char *)(uintptr_t)digest;
	return unary(n, METHOD("Delete"), &req.base, &cairn__wire__empty__descriptor, NULL);
}

static inline enum cairn_code abort_ref(struct node *n, const char *ref)
{
	Containerd__Services__Content__V1__AbortRequest req =
		CONTAINERD__SERVICES__CONTENT__V1__ABORT_REQUEST__INIT;
	req.ref = (char *)(uintptr_t)ref;
	return unary(n, METHOD("Abort"), &req.base, &cairn__wire__empty__descriptor, NULL);
}

/* Read into a buffer of cap bytes; *ret_len is what came. */
static inline enum cairn_code read_blob(struct node *n, const char *digest, int64_t offset,
					int64_t size, uint8_t *buf, size_t cap, size_t *ret_len,
					int *ret_messages)
{
	Containerd__Services__Content__V1__ReadContentRequest req =
		CONTAINERD__SERVICES__CONTENT__V1__READ_CONTENT_REQUEST__INIT;
	struct cairn_call *call = NULL;
	struct cairn_err ignored;
	req.digest = (char *)(uintptr_t)digest;
	req.offset = offset;
	req.size = size;
	OK(cairn_channel_open(n->channel, METHOD("Read"), NULL, 0, 20000, &call, &node_err));
	(void)!cairn_call_send(call, &req.base, &ignored);
	(void)!cairn_call_half_close(call, &ignored);
	size_t len = 0;
	int messages = 0;
	struct cairn_msg *msg = NULL;
	while (cairn_call_recv(call, &msg) == CAIRN_RECV_MSG) {
		ProtobufCMessage *pb = NULL;
		OK(cairn_msg_unpack(call, msg, TYPE_OF(read_content_response), &pb, &node_err));
		cairn_msg_free(msg);
		const Containerd__Services__Content__V1__ReadContentResponse *r = (const void *)pb;
		assert_int_equal(r->offset, len);
		assert_true(len + r->data.len <= cap);
		memcpy(buf + len, r->data.data, r->data.len);
		len += r->data.len;
		messages++;
	}
	*ret_len = len;
	if (ret_messages != NULL) *ret_messages = messages;
	return cairn_call_finish(call, &node_err);
}

/* A referenced blob. */
static inline struct cairn_digest put(struct node *n, unsigned seed)
{
	uint8_t data[100];
	char ref[64];
	fill_bytes(data, sizeof(data), seed);
	snprintf(ref, sizeof(ref), "ns/1/ref-%u", seed);
	OK(put_blob(n, ref, data, sizeof(data)));
	return digest_of(data, sizeof(data), CAIRN_SHA256);
}

static inline int state_of(struct node *n, const struct cairn_digest *digest)
{
	struct cairn_blob_info info;
	if (cairn_cache_info(n->cache, digest, &info, &node_err) != CAIRN_OK) return 0;
	int s = info.state;
	cairn_blob_info_fini(&info);
	return s;
}

#endif
