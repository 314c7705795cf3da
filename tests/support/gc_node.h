/* A node that collects garbage: a store, its content service, the view of a made-up containerd,
 * the collector, and cairn's own service on a socket of its own. */
#ifndef CAIRN_TESTS_SUPPORT_GC_NODE_H
#define CAIRN_TESTS_SUPPORT_GC_NODE_H

#include "support/containerd_fixture.h"

#include "cairn.pb-c.h"
#include "plugin/gc.h"

#define UNUSED __attribute__((unused))
#define SECOND CAIRN_NS_PER_S
#define HOUR_MS 3600000
#define KEEP (100 * SECOND)
#define CAIRN(name) "/cairn.v1.Cairn/" name
#define APP "reg.example/app:v1"

struct gc_node {
	struct node *n;
	struct fake fake;
	struct cairn_runtime *rt;
	struct cairn_gc *gc;
	struct cairn_gc_opts opts; /* changed before gc_start */
	struct cairn_admin_service admin;
	struct cairn_rpc_server *server;
	struct cairn_channel *channel;
	char socket[112], target[128], log[112];
};

static UNUSED struct cairn_gc_mark bytes(uint64_t n)
{
	return (struct cairn_gc_mark){false, n};
}

static UNUSED int gc_setup(void **state)
{
	struct gc_node *g = calloc(1, sizeof(*g));
	g->n = node_new(true, false);
	fake_init(&g->fake, g->n);
	snprintf(g->log, sizeof(g->log), "%s/gc.log", g->n->dir);
	g->opts = (struct cairn_gc_opts){
		.cache = g->n->cache,
		.clock = &g->n->clock,
		.rules = {.keep_ns = KEEP,
			  .marks = {bytes(UINT64_MAX), bytes(UINT64_MAX), bytes(0)},
			  .keep_versions = 2,
			  .keep_versions_ns = 3600 * SECOND},
		.interval_ms = HOUR_MS,
		.tick_ms = HOUR_MS,
		.log = "",
	};
	*state = g;
	return 0;
}

/* asked: there is a containerd, which is known to be the one that uses the node. */
static UNUSED void start_view(struct gc_node *g, bool asked)
{
	const struct cairn_runtime_opts opts = {
		.rpc = g->n->rpc,
		.cache = g->n->cache,
		.clock = &g->n->clock,
		.address = asked ? g->fake.socket : "",
		.interval_ms = HOUR_MS,
		.retry_ms = HOUR_MS,
		.on_images = cairn_gc_on_images,
		.on_images_arg = g->n->cache,
	};
	if (asked) fake_start(&g->fake, g->n);
	OK(cairn_runtime_start(&opts, &g->rt, &node_err));
	if (asked) cairn_runtime_connected(g->rt, getpid());
	g->opts.runtime = g->rt;
}

static UNUSED void wait_for_listing(struct gc_node *g)
{
	struct cairn_runtime_status st = {0};
	UNTIL((cairn_runtime_get_status(g->rt, &st), st.client));
}

static UNUSED void gc_start(struct gc_node *g)
{
	OK(cairn_gc_start(&g->opts, &g->gc, &node_err));
	g->n->content.gc = g->gc;
}

static UNUSED void serve_admin(struct gc_node *g)
{
	g->admin = (struct cairn_admin_service){.cache = g->n->cache,
						.gc = g->gc,
						.runtime = g->rt,
						.clock = &g->n->clock,
						.version = "1",
						.state_dir = g->n->dir,
						.listen = g->socket,
						.started_ns = SECOND};
	snprintf(g->socket, sizeof(g->socket), "%s/admin.sock", g->n->dir);
	snprintf(g->target, sizeof(g->target), "unix:%s", g->socket);
	OK(cairn_rpc_server_new(g->n->rpc, &g->server, &node_err));
	cairn_admin_service_add(g->server, &g->admin);
	OK(cairn_rpc_server_listen_unix(g->server, g->socket, &node_err));
	OK(cairn_rpc_server_start(g->server, &node_err));
	OK(cairn_channel_new(g->n->rpc, g->target, NULL, &g->channel, &node_err));
}

static UNUSED int gc_teardown(void **state)
{
	struct gc_node *g = *state;
	if (g->server != NULL) {
		cairn_channel_free(g->channel);
		cairn_rpc_server_drain(g->server, 5000);
	}
	node_drain(g->n, 10000);
	if (g->rt != NULL) cairn_runtime_cancel(g->rt);
	cairn_gc_stop(g->gc);
	cairn_runtime_stop(g->rt);
	if (g->server != NULL) cairn_rpc_server_free(g->server);
	fake_stop(&g->fake);
	node_free(g->n);
	free(g);
	return 0;
}

static UNUSED struct cairn_gc_status gc_status(struct gc_node *g)
{
	struct cairn_gc_status st;
	cairn_gc_get_status(g->gc, &st);
	return st;
}

/* ---- calls of cairn's own service ---------------------------------------------------------------
 */

static UNUSED enum cairn_code ask_admin(struct gc_node *g, const char *path,
					const ProtobufCMessage *req,
					const ProtobufCMessageDescriptor *type, void *ret)
{
	ProtobufCMessage *resp = NULL;
	enum cairn_code rc =
		cairn_channel_unary(g->channel, path, NULL, 0, 20000, req, type, &resp, &node_err);
	if (rc == CAIRN_OK) *(void **)ret = resp;
	return rc;
}

typedef void message_fn(void *arg, const ProtobufCMessage *msg);

/* Calls fn for each message of the answer, which lives until the call ends. */
static UNUSED enum cairn_code stream(struct gc_node *g, const char *path,
				     const ProtobufCMessage *req,
				     const ProtobufCMessageDescriptor *type, message_fn *fn,
				     void *arg)
{
	struct cairn_call *call = NULL;
	struct cairn_msg *msg = NULL;
	struct cairn_err ignored;
	OK(cairn_channel_open(g->channel, path, NULL, 0, 20000, &call, &node_err));
	(void)!cairn_call_send(call, req, &ignored);
	(void)!cairn_call_half_close(call, &ignored);
	while (cairn_call_recv(call, &msg) == CAIRN_RECV_MSG) {
		ProtobufCMessage *pb = NULL;
		OK(cairn_msg_unpack(call, msg, type, &pb, &node_err));
		cairn_msg_free(msg);
		fn(arg, pb);
	}
	return cairn_call_finish(call, &node_err);
}

/* A call fails with this code, and its message has these words. */
static UNUSED void expect_error(enum cairn_code rc, enum cairn_code want, const char *words)
{
	if (rc != want || strstr(node_err.msg, words) == NULL) {
		fail_msg("%s (%s), want %s (%s)", cairn_code_name(rc), node_err.msg,
			 cairn_code_name(want), words);
	}
}

/* All that CollectGarbage or Prune says. */
struct decisions {
	size_t n, n_evicted, summaries, messages_after;
	struct {
		char digest[CAIRN_DIGEST_STR], why[16], what[200];
		int64_t size, idle;
		bool evict;
	} list[400];
	char trigger[16];
	bool dry_run, sure, relieved;
	int64_t evicted_blobs, evicted_bytes, kept_blobs, kept_bytes, versions_dropped;
	size_t n_kept;
};

static UNUSED void take_decisions(void *arg, const ProtobufCMessage *pb)
{
	struct decisions *d = arg;
	const Cairn__V1__CollectGarbageResponse *r = (const void *)pb;
	d->messages_after += d->summaries;
	for (size_t i = 0; i < r->n_decisions; i++, d->n++) {
		assert_true(d->n < CAIRN_LEN(d->list));
		snprintf(d->list[d->n].digest, CAIRN_DIGEST_STR, "%s", r->decisions[i]->digest);
		snprintf(d->list[d->n].why, 16, "%s", r->decisions[i]->why);
		snprintf(d->list[d->n].what, 200, "%s", r->decisions[i]->what);
		d->list[d->n].size = r->decisions[i]->size;
		d->list[d->n].idle = r->decisions[i]->idle_seconds;
		d->list[d->n].evict = r->decisions[i]->evict;
		d->n_evicted += r->decisions[i]->evict;
	}
	if (r->summary != NULL) {
		const Cairn__V1__GcSummary *s = r->summary;
		int64_t blobs = 0, kept = 0;
		d->summaries++;
		snprintf(d->trigger, sizeof(d->trigger), "%s", s->trigger);
		d->dry_run = s->dry_run;
		d->sure = s->sure;
		d->relieved = s->relieved;
		d->evicted_blobs = s->evicted_blobs;
		d->evicted_bytes = s->evicted_bytes;
		d->kept_blobs = s->kept_blobs;
		d->kept_bytes = s->kept_bytes;
		d->versions_dropped = s->versions_dropped;
		d->n_kept = s->n_kept;
		for (size_t i = 0; i < s->n_kept; i++) {
			blobs += s->kept[i]->blobs;
			kept += s->kept[i]->bytes;
		}
		assert_int_equal(blobs, s->kept_blobs);
		assert_int_equal(kept, s->kept_bytes);
	}
}

/* ---- an image of one layer ----------------------------------------------------------------------
 */

struct node_image {
	char manifest[1024], config[64];
	uint8_t layer[1000];
	struct cairn_digest root, about, bytes;
	char root_text[CAIRN_DIGEST_STR];
};

/* Pulled, and released since: nobody records it. */
static UNUSED void pull_image(struct gc_node *g, struct node_image *im, unsigned seed)
{
	char about[CAIRN_DIGEST_STR], layer[CAIRN_DIGEST_STR];
	fill_bytes(im->layer, sizeof(im->layer), seed);
	snprintf(im->config, sizeof(im->config), "{\"seed\":%u}", seed);
	im->about = digest_of(im->config, strlen(im->config), CAIRN_SHA256);
	im->bytes = digest_of(im->layer, sizeof(im->layer), CAIRN_SHA256);
	snprintf(im->manifest, sizeof(im->manifest),
		 "{\"schemaVersion\":2,\"config\":{\"mediaType\":"
		 "\"application/vnd.oci.image.config.v1+json\",\"digest\":\"%s\",\"size\":%zu},"
		 "\"layers\":[{\"mediaType\":\"application/vnd.oci.image.layer.v1.tar\","
		 "\"digest\":\"%s\",\"size\":%zu}]}",
		 cairn_digest_format(&im->about, about), strlen(im->config),
		 cairn_digest_format(&im->bytes, layer), sizeof(im->layer));
	im->root = digest_of(im->manifest, strlen(im->manifest), CAIRN_SHA256);
	cairn_digest_format(&im->root, im->root_text);
	OK(put_blob(g->n, "m", im->manifest, strlen(im->manifest)));
	OK(put_blob(g->n, "c", im->config, strlen(im->config)));
	OK(put_blob(g->n, "l", im->layer, sizeof(im->layer)));
	cairn_cache_release(g->n->cache, &im->root);
	cairn_cache_release(g->n->cache, &im->about);
	cairn_cache_release(g->n->cache, &im->bytes);
}

static UNUSED size_t size_of(const struct node_image *im)
{
	return strlen(im->manifest) + strlen(im->config) + sizeof(im->layer);
}

static UNUSED bool is_here(struct gc_node *g, const struct node_image *im)
{
	int n = (state_of(g->n, &im->root) != 0) + (state_of(g->n, &im->about) != 0) +
		(state_of(g->n, &im->bytes) != 0);
	assert_true(n == 0 || n == 3);
	return n == 3;
}

#endif
