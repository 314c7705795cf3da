/* cairn.v1.Cairn over a socket, with a real store. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cairn.pb-c.h"
#include "plugin/plugin.h"
#include "support/fake_swarm.h"
#include "support/tmp.h"

#define META_DB CAIRN_TEST_DATA "/containerd-1.6.20-meta.db"
#define CALL_MS 20000

struct fixture {
	char dir[64], state[96], content[96], socket[96], target[112];
	struct cairn_cache *cache;
	struct cairn_rpc *rpc;
	struct cairn_runtime *runtime;
	struct cairn_rpc_server *server;
	struct cairn_gc *gc;
	struct cairn_admin_service service;
	struct cairn_channel *channel;
	bool drained;
};

static void must(enum cairn_code rc, const struct cairn_err *err)
{
	if (rc != CAIRN_OK) fail_msg("%s: %s", cairn_code_name(rc), err->msg);
}

static void open_daemon(struct fixture *f)
{
	struct cairn_err err;
	const struct cairn_cache_opts opts = {.dir = f->state};
	must(cairn_cache_open(&opts, &f->cache, &err), &err);
	must(cairn_rpc_new(&(struct cairn_rpc_opts){0}, &f->rpc, &err), &err);
	const struct cairn_runtime_opts rt = {
		.rpc = f->rpc, .cache = f->cache, .address = "", .interval_ms = 1000};
	must(cairn_runtime_start(&rt, &f->runtime, &err), &err);
	must(cairn_rpc_server_new(f->rpc, &f->server, &err), &err);
	struct cairn_gc_opts gc = {.cache = f->cache,
				   .runtime = f->runtime,
				   .rules = {.keep_ns = 24 * 3600 * CAIRN_NS_PER_S,
					     .marks = {{true, 100}, {true, 100}, {true, 0}},
					     .keep_versions = 2},
				   .interval_ms = 3600000,
				   .log = ""};
	must(cairn_gc_start(&gc, &f->gc, &err), &err);
	f->service = (struct cairn_admin_service){.cache = f->cache,
						  .gc = f->gc,
						  .runtime = f->runtime,
						  .clock = &cairn_clock_system,
						  .version = "7.7",
						  .state_dir = f->state,
						  .listen = f->socket,
						  .started_ns = CAIRN_NS_PER_S};
	cairn_admin_service_add(f->server, &f->service);
	must(cairn_rpc_server_listen_unix(f->server, f->socket, &err), &err);
	must(cairn_rpc_server_start(f->server, &err), &err);
	must(cairn_channel_new(f->rpc, f->target, NULL, &f->channel, &err), &err);
}

static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	tmp_template(f->dir, sizeof(f->dir), "service");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->state, sizeof(f->state), "%s/state", f->dir);
	snprintf(f->content, sizeof(f->content), "%s/content", f->dir);
	snprintf(f->socket, sizeof(f->socket), "%s/s", f->dir);
	snprintf(f->target, sizeof(f->target), "unix:%s", f->socket);
	open_daemon(f);
	*state = f;
	return 0;
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
	(void)st, (void)kind, (void)ftw;
	return remove(path);
}

static void close_daemon(struct fixture *f)
{
	cairn_channel_free(f->channel);
	if (!f->drained) (void)cairn_rpc_server_drain(f->server, 5000);
	cairn_runtime_cancel(f->runtime);
	cairn_gc_stop(f->gc);
	cairn_runtime_stop(f->runtime);
	cairn_rpc_server_free(f->server);
	cairn_rpc_free(f->rpc);
	cairn_cache_close(f->cache);
}

static int tear_down(void **state)
{
	struct fixture *f = *state;
	close_daemon(f);
	nftw(f->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	free(f);
	return 0;
}

/* ---- blobs ---- */

static void digest_of(const char *text, struct cairn_digest *ret)
{
	struct cairn_hasher h;
	cairn_hasher_init(&h, CAIRN_SHA256);
	cairn_hasher_update(&h, text, strlen(text));
	cairn_hasher_digest(&h, ret);
}

static char *digest_text(const char *text, char buf[static CAIRN_DIGEST_STR])
{
	struct cairn_digest d;
	digest_of(text, &d);
	cairn_digest_format(&d, buf);
	return buf;
}

static void write_file(const char *path, const char *text, mode_t mode)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	assert_int_equal(fchmod(fd, mode), 0);
	close(fd);
}

static char *content_path(const struct fixture *f, const char *text, char buf[static 300])
{
	char digest[CAIRN_DIGEST_STR];
	snprintf(buf, 300, "%s/blobs/sha256/%s", f->content, digest_text(text, digest) + 7);
	return buf;
}

static char *state_path(const struct fixture *f, const char *text, char buf[static 300])
{
	char digest[CAIRN_DIGEST_STR];
	snprintf(buf, 300, "%s/blobs/sha256/%s", f->state, digest_text(text, digest) + 7);
	return buf;
}

/* Put a blob into the content directory, as containerd would. */
static void put(const struct fixture *f, const char *text)
{
	char path[300];
	static const char *const parts[] = {"", "/ingest", "/blobs", "/blobs/sha256"};
	for (size_t i = 0; i < CAIRN_LEN(parts); i++) {
		snprintf(path, sizeof(path), "%s%s", f->content, parts[i]);
		(void)!mkdir(path, 0755);
	}
	write_file(content_path(f, text, path), text, 0444);
}

/* Bring a blob into the store. */
static void store(const struct fixture *f, const char *text, enum cairn_blob_state state)
{
	char path[300];
	struct cairn_digest d;
	struct cairn_err err;
	enum cairn_adopt how;
	snprintf(path, sizeof(path), "%s/one", f->dir);
	unlink(path);
	write_file(path, text, 0444);
	digest_of(text, &d);
	must(cairn_cache_adopt(f->cache, &d, path, NULL, NULL, &how, &err), &err);
	if (state == CAIRN_BLOB_CACHED) cairn_cache_release(f->cache, &d);
	unlink(path);
}

static void spoil(const char *path)
{
	assert_int_equal(chmod(path, 0600), 0);
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, "!", 1, 0), 1);
	close(fd);
}

static bool state_of(const struct fixture *f, const char *text, enum cairn_blob_state *ret,
		     bool *ret_damaged)
{
	struct cairn_digest d;
	struct cairn_err err;
	struct cairn_blob_info info;
	digest_of(text, &d);
	if (cairn_cache_info(f->cache, &d, &info, &err) != CAIRN_OK) return false;
	*ret = info.state;
	*ret_damaged = info.damaged;
	cairn_blob_info_fini(&info);
	return true;
}

static bool is_referenced(const struct fixture *f, const char *text)
{
	enum cairn_blob_state state;
	bool damaged;
	return state_of(f, text, &state, &damaged) && state == CAIRN_BLOB_REFERENCED && !damaged;
}

/* ---- calls ---- */

static ProtobufCMessage *unpack(const struct cairn_msg *msg, const ProtobufCMessageDescriptor *type)
{
	const struct cairn_span *spans;
	size_t n = cairn_msg_spans(msg, &spans), len = 0;
	uint8_t *bytes = malloc(cairn_msg_len(msg) + 1);
	for (size_t i = 0; i < n; len += spans[i++].len)
		memcpy(bytes + len, spans[i].data, spans[i].len);
	ProtobufCMessage *ret = protobuf_c_message_unpack(type, NULL, len, bytes);
	free(bytes);
	assert_non_null(ret);
	return ret;
}

static struct cairn_call *begin(struct fixture *f, const char *path,
				const ProtobufCMessage *request)
{
	struct cairn_call *call;
	struct cairn_err err;
	must(cairn_channel_open(f->channel, path, NULL, 0, CALL_MS, &call, &err), &err);
	must(cairn_call_send(call, request, &err), &err);
	must(cairn_call_half_close(call, &err), &err);
	return call;
}

static ProtobufCMessage *next(struct cairn_call *call, const ProtobufCMessageDescriptor *type)
{
	struct cairn_msg *msg;
	if (cairn_call_recv(call, &msg) != CAIRN_RECV_MSG) return NULL;
	ProtobufCMessage *ret = unpack(msg, type);
	cairn_msg_free(msg);
	return ret;
}

static enum cairn_code unary(struct fixture *f, const char *path, const ProtobufCMessage *request,
			     const ProtobufCMessageDescriptor *type, ProtobufCMessage **ret,
			     struct cairn_err *err)
{
	return cairn_channel_unary(f->channel, path, NULL, 0, CALL_MS, request, type, ret, err);
}

/* What a transfer said in all. */
struct outcome {
	enum cairn_code rc;
	struct cairn_err err;
	Cairn__V1__TransferProgress *last;
	size_t n_failures;
	char failed[16][CAIRN_DIGEST_STR], problem[16][512];
};

static void collect(struct cairn_call *call, struct outcome *ret)
{
	ProtobufCMessage *msg;
	memset(ret, 0, sizeof(*ret));
	while ((msg = next(call, &cairn__v1__transfer_progress__descriptor)) != NULL) {
		Cairn__V1__TransferProgress *p = (Cairn__V1__TransferProgress *)msg;
		for (size_t i = 0; i < p->n_failures; i++, ret->n_failures++) {
			assert_true(ret->n_failures < CAIRN_LEN(ret->failed));
			strcpy(ret->failed[ret->n_failures], p->failures[i]->digest);
			strcpy(ret->problem[ret->n_failures], p->failures[i]->problem);
		}
		if (ret->last != NULL) protobuf_c_message_free_unpacked(&ret->last->base, NULL);
		ret->last = p;
	}
	ret->rc = cairn_call_finish(call, &ret->err);
	if (ret->rc == CAIRN_OK) assert_true(ret->last != NULL && ret->last->done);
}

static void outcome_fini(struct outcome *o)
{
	if (o->last != NULL) protobuf_c_message_free_unpacked(&o->last->base, NULL);
	o->last = NULL;
}

static void import(struct fixture *f, const char *directory, const char *metadata,
		   struct outcome *ret)
{
	Cairn__V1__ImportRequest request = CAIRN__V1__IMPORT_REQUEST__INIT;
	char dir[300], meta[300];
	snprintf(dir, sizeof(dir), "%s", directory);
	snprintf(meta, sizeof(meta), "%s", metadata);
	request.directory = dir;
	request.metadata = meta;
	collect(begin(f, "/cairn.v1.Cairn/Import", &request.base), ret);
}

static void export(struct fixture *f, const char *directory, const char *metadata,
		   struct outcome *ret)
{
	Cairn__V1__ExportRequest request = CAIRN__V1__EXPORT_REQUEST__INIT;
	char dir[300], meta[300];
	snprintf(dir, sizeof(dir), "%s", directory);
	snprintf(meta, sizeof(meta), "%s", metadata);
	request.directory = dir;
	request.metadata = meta;
	collect(begin(f, "/cairn.v1.Cairn/Export", &request.base), ret);
}

static enum cairn_code explain(struct fixture *f, const char *digest,
			       Cairn__V1__ExplainResponse **ret, struct cairn_err *err)
{
	Cairn__V1__ExplainRequest request = CAIRN__V1__EXPLAIN_REQUEST__INIT;
	char text[300];
	snprintf(text, sizeof(text), "%s", digest);
	request.digest = text;
	return unary(f, "/cairn.v1.Cairn/Explain", &request.base,
		     &cairn__v1__explain_response__descriptor, (ProtobufCMessage **)ret, err);
}

static bool any_has(char **list, size_t n, const char *part)
{
	for (size_t i = 0; i < n; i++)
		if (strstr(list[i], part) != NULL) return true;
	return false;
}

/* ---- Status, ListBlobs, Explain ---- */

static void status__says_what_is_here(void **state)
{
	struct fixture *f = *state;
	struct cairn_err err;
	ProtobufCMessage *msg;
	Cairn__V1__StatusRequest request = CAIRN__V1__STATUS_REQUEST__INIT;
	store(f, "one", CAIRN_BLOB_CACHED);
	store(f, "three", CAIRN_BLOB_REFERENCED);
	store(f, "seventeen", CAIRN_BLOB_REFERENCED);
	must(unary(f, "/cairn.v1.Cairn/Status", &request.base,
		   &cairn__v1__status_response__descriptor, &msg, &err),
	     &err);
	const Cairn__V1__StatusResponse *r = (const Cairn__V1__StatusResponse *)msg;
	assert_string_equal(r->version, "7.7");
	assert_string_equal(r->state_dir, f->state);
	assert_int_equal(r->started_at->seconds, 1);
	assert_int_equal(r->cached_blobs, 1);
	assert_int_equal(r->cached_bytes, 3);
	assert_int_equal(r->referenced_blobs, 2);
	assert_int_equal(r->referenced_bytes, 14);
	assert_int_equal(r->damaged_blobs, 0);
	assert_true(r->disk_total_bytes > 0);
	assert_string_equal(r->runtime->address, "");
	assert_false(r->runtime->reachable);
	protobuf_c_message_free_unpacked(msg, NULL);
}

/* ---- other nodes ---- */

static struct cairn_swarm *add_swarm(struct fixture *f)
{
	struct cairn_swarm *swarm = fake_swarm_new(CAIRN_WANT_FAILED);
	f->service.swarm = swarm;
	swarm->stats = (struct cairn_swarm_stats){.members = 3, .to_peers_bytes = 9};
	strcpy(swarm->health, "etcd does not answer");
	swarm->n_fills = swarm->n_uploads = 1;
	digest_of("one", &swarm->fills[0].digest);
	swarm->fills[0].size = 100;
	swarm->fills[0].state = CAIRN_WANT_WAITING;
	swarm->fills[0].grant.state = CAIRN_GRANT_QUEUED;
	strcpy(swarm->fills[0].grant.node.address, "10.0.0.2:7400");
	digest_of("two", &swarm->uploads[0].digest);
	strcpy(swarm->uploads[0].address, "10.0.0.3:7400");
	swarm->uploads[0].bps = 5;
	swarm->n_peers = 3;
	strcpy(swarm->peers[0].address, "10.0.0.2:7400");
	swarm->peers[0].connected = true; /* as far as we know: it is dead all the same */
	swarm->peers[0].shunned_ms = 1000;
	swarm->peers[0].bad_pieces = 2;
	strcpy(swarm->peers[0].error, "it sent too little");
	strcpy(swarm->peers[1].address, "10.0.0.9:7400");
	swarm->peers[1].self = true;
	strcpy(swarm->peers[2].address, "10.0.0.1:7400");
	swarm->peers[2].connected = swarm->peers[2].member = true;
	swarm->peers[2].from_bytes = 11;
	return swarm;
}

static void status__tells_of_the_swarm(void **state)
{
	struct fixture *f = *state;
	struct cairn_err err;
	ProtobufCMessage *msg;
	struct cairn_swarm *swarm = add_swarm(f);
	char text[CAIRN_DIGEST_STR];
	Cairn__V1__StatusRequest request = CAIRN__V1__STATUS_REQUEST__INIT;
	must(unary(f, "/cairn.v1.Cairn/Status", &request.base,
		   &cairn__v1__status_response__descriptor, &msg, &err),
	     &err);
	const Cairn__V1__Swarm *s = ((const Cairn__V1__StatusResponse *)msg)->swarm;
	assert_non_null(s);
	assert_string_equal(s->address, "127.0.0.1:7400");
	assert_string_equal(s->health, "etcd does not answer");
	assert_int_equal(s->members, 3);
	assert_int_equal(s->to_peers_bytes, 9);
	assert_int_equal(s->n_fills, 1);
	assert_string_equal(s->fills[0]->digest, digest_text("one", text));
	assert_string_equal(s->fills[0]->state, "waiting");
	assert_string_equal(s->fills[0]->grant, "queued");
	assert_string_equal(s->fills[0]->grant_node, "10.0.0.2:7400");
	assert_false(s->fills[0]->grant_ours);
	assert_int_equal(s->n_uploads, 1);
	assert_string_equal(s->uploads[0]->address, "10.0.0.3:7400");
	assert_int_equal(s->uploads[0]->bytes_per_second, 5);
	protobuf_c_message_free_unpacked(msg, NULL);
	f->service.swarm = NULL;
	must(unary(f, "/cairn.v1.Cairn/Status", &request.base,
		   &cairn__v1__status_response__descriptor, &msg, &err),
	     &err);
	assert_null(((const Cairn__V1__StatusResponse *)msg)->swarm);
	protobuf_c_message_free_unpacked(msg, NULL);
	fake_swarm_free(swarm);
}

static void list_peers__has_this_node_first(void **state)
{
	struct fixture *f = *state;
	struct cairn_err err;
	struct cairn_msg *msg = NULL;
	ProtobufCMessage *pb = NULL;
	struct cairn_call *call = NULL;
	struct cairn_swarm *swarm = add_swarm(f);
	Cairn__V1__ListPeersRequest request = CAIRN__V1__LIST_PEERS_REQUEST__INIT;
	static const char path[] = "/cairn.v1.Cairn/ListPeers";
	must(cairn_channel_open(f->channel, path, NULL, 0, CALL_MS, &call, &err), &err);
	must(cairn_call_send(call, &request.base, &err), &err);
	assert_int_equal(cairn_call_recv(call, &msg), CAIRN_RECV_MSG);
	must(cairn_msg_unpack(call, msg, &cairn__v1__list_peers_response__descriptor, &pb, &err),
	     &err);
	cairn_msg_free(msg);
	const Cairn__V1__ListPeersResponse *r = (const void *)pb;
	assert_int_equal(r->n_peers, 3);
	assert_string_equal(r->peers[0]->state, "self");
	assert_string_equal(r->peers[1]->state, "connected");
	assert_int_equal(r->peers[1]->from_bytes, 11);
	assert_string_equal(r->peers[2]->state, "gone");
	assert_int_equal(r->peers[2]->bad_pieces, 2);
	assert_int_equal(r->peers[2]->shunned_ms, 1000);
	assert_string_equal(r->peers[2]->error, "it sent too little");
	must(cairn_call_finish(call, &err), &err);
	f->service.swarm = NULL;
	must(cairn_channel_open(f->channel, path, NULL, 0, CALL_MS, &call, &err), &err);
	must(cairn_call_send(call, &request.base, &err), &err);
	assert_int_equal(cairn_call_recv(call, &msg), CAIRN_RECV_GONE);
	assert_int_equal(cairn_call_finish(call, &err), CAIRN_FAILED_PRECONDITION);
	assert_non_null(strstr(err.msg, "p2p.listen"));
	fake_swarm_free(swarm);
}

static size_t count_listed(struct fixture *f, Cairn__V1__BlobState state, bool damaged_only)
{
	Cairn__V1__ListBlobsRequest request = CAIRN__V1__LIST_BLOBS_REQUEST__INIT;
	char last[CAIRN_DIGEST_STR] = "";
	struct cairn_err err;
	ProtobufCMessage *msg;
	size_t n = 0;
	request.state = state;
	request.damaged_only = damaged_only;
	struct cairn_call *call = begin(f, "/cairn.v1.Cairn/ListBlobs", &request.base);
	while ((msg = next(call, &cairn__v1__list_blobs_response__descriptor)) != NULL) {
		const Cairn__V1__ListBlobsResponse *r = (const Cairn__V1__ListBlobsResponse *)msg;
		assert_in_range(r->n_blobs, 1, 100);
		for (size_t i = 0; i < r->n_blobs; i++, n++) {
			assert_true(strcmp(last, r->blobs[i]->digest) < 0);
			strcpy(last, r->blobs[i]->digest);
			assert_true(r->blobs[i]->size > 0);
			assert_true(r->blobs[i]->created_at->seconds > 1600000000);
			if (state != 0) assert_int_equal(r->blobs[i]->state, state);
		}
		protobuf_c_message_free_unpacked(msg, NULL);
	}
	must(cairn_call_finish(call, &err), &err);
	return n;
}

static void list__gives_each_blob_once_in_order(void **state)
{
	struct fixture *f = *state;
	char text[32];
	assert_int_equal(count_listed(f, 0, false), 0);
	for (int i = 0; i < 230; i++) {
		snprintf(text, sizeof(text), "blob %d", i);
		store(f, text, i % 10 == 0 ? CAIRN_BLOB_CACHED : CAIRN_BLOB_REFERENCED);
	}
	assert_int_equal(count_listed(f, 0, false), 230);
	assert_int_equal(count_listed(f, CAIRN__V1__BLOB_STATE__CACHED, false), 23);
	assert_int_equal(count_listed(f, CAIRN__V1__BLOB_STATE__REFERENCED, false), 207);
	assert_int_equal(count_listed(f, 0, true), 0);
}

static void list__refuses_a_state_that_is_none(void **state)
{
	struct fixture *f = *state;
	Cairn__V1__ListBlobsRequest request = CAIRN__V1__LIST_BLOBS_REQUEST__INIT;
	struct cairn_err err;
	request.state = (Cairn__V1__BlobState)9;
	struct cairn_call *call = begin(f, "/cairn.v1.Cairn/ListBlobs", &request.base);
	assert_null(next(call, &cairn__v1__list_blobs_response__descriptor));
	assert_int_equal(cairn_call_finish(call, &err), CAIRN_INVALID_ARGUMENT);
}

static void explain__gives_reasons(void **state)
{
	struct fixture *f = *state;
	char digest[CAIRN_DIGEST_STR];
	struct cairn_err err;
	Cairn__V1__ExplainResponse *r;
	store(f, "kept", CAIRN_BLOB_CACHED);
	store(f, "used", CAIRN_BLOB_REFERENCED);
	must(explain(f, digest_text("kept", digest), &r, &err), &err);
	assert_int_equal(r->blob->state, CAIRN__V1__BLOB_STATE__CACHED);
	assert_true(any_has(r->reasons, r->n_reasons, "cached: containerd has no record"));
	assert_true(any_has(r->reasons, r->n_reasons, "containerd could not be asked"));
	assert_int_equal(r->n_remedies, 0);
	assert_false(r->recorded_known);
	protobuf_c_message_free_unpacked(&r->base, NULL);
	must(explain(f, digest_text("used", digest), &r, &err), &err);
	assert_true(any_has(r->reasons, r->n_reasons, "referenced: kept until"));
	assert_int_equal(r->n_remedies, 0);
	protobuf_c_message_free_unpacked(&r->base, NULL);
}

static void explain__refuses_what_it_cannot_explain(void **state)
{
	struct fixture *f = *state;
	char digest[CAIRN_DIGEST_STR];
	struct cairn_err err;
	Cairn__V1__ExplainResponse *r;
	assert_int_equal(explain(f, digest_text("nothing", digest), &r, &err), CAIRN_NOT_FOUND);
	assert_non_null(strstr(err.msg, digest));
	assert_non_null(strstr(err.msg, "not here"));
	assert_int_equal(explain(f, "sha256:../../x", &r, &err), CAIRN_INVALID_ARGUMENT);
	assert_int_equal(explain(f, "", &r, &err), CAIRN_INVALID_ARGUMENT);
}

/* ---- Verify ---- */

struct verified {
	enum cairn_code rc;
	struct cairn_err err;
	int64_t blobs, bytes;
	size_t n;
	Cairn__V1__VerifyProgress *first; /* that has findings */
};

static void verify(struct fixture *f, char **digests, size_t n, struct verified *ret)
{
	Cairn__V1__VerifyRequest request = CAIRN__V1__VERIFY_REQUEST__INIT;
	ProtobufCMessage *msg;
	bool done = false;
	*ret = (struct verified){0};
	request.digests = digests;
	request.n_digests = n;
	struct cairn_call *call = begin(f, "/cairn.v1.Cairn/Verify", &request.base);
	while ((msg = next(call, &cairn__v1__verify_progress__descriptor)) != NULL) {
		Cairn__V1__VerifyProgress *p = (Cairn__V1__VerifyProgress *)msg;
		ret->blobs = p->blobs_done;
		ret->bytes = p->bytes_done;
		ret->n += p->n_findings;
		done = p->done;
		if (p->n_findings > 0 && ret->first == NULL)
			ret->first = p;
		else
			protobuf_c_message_free_unpacked(msg, NULL);
	}
	ret->rc = cairn_call_finish(call, &ret->err);
	if (ret->rc == CAIRN_OK) assert_true(done);
}

static void verified_fini(struct verified *v)
{
	if (v->first != NULL) protobuf_c_message_free_unpacked(&v->first->base, NULL);
}

static void verify__passes_what_is_sound(void **state)
{
	struct fixture *f = *state;
	struct verified v;
	verify(f, NULL, 0, &v);
	assert_int_equal(v.rc, CAIRN_OK);
	store(f, "abc", CAIRN_BLOB_CACHED);
	store(f, "defg", CAIRN_BLOB_REFERENCED);
	verify(f, NULL, 0, &v);
	assert_int_equal(v.rc, CAIRN_OK);
	assert_int_equal(v.blobs, 2);
	assert_int_equal(v.bytes, 7);
	assert_int_equal(v.n, 0);
}

static void verify__finds_damage_and_says_how_to_heal_it(void **state)
{
	struct fixture *f = *state;
	char path[300], digest[CAIRN_DIGEST_STR];
	enum cairn_blob_state blob_state;
	bool damaged;
	struct verified v;
	struct cairn_err err;
	Cairn__V1__ExplainResponse *r;
	store(f, "sound", CAIRN_BLOB_REFERENCED);
	store(f, "rotten", CAIRN_BLOB_REFERENCED);
	spoil(state_path(f, "rotten", path));
	verify(f, NULL, 0, &v);
	assert_int_equal(v.rc, CAIRN_OK);
	assert_int_equal(v.n, 1);
	const Cairn__V1__VerifyFinding *finding = v.first->findings[0];
	assert_string_equal(finding->digest, digest_text("rotten", digest));
	assert_int_equal(finding->state, CAIRN__V1__BLOB_STATE__REFERENCED);
	assert_true(any_has(finding->remedies, finding->n_remedies, "content rm"));
	verified_fini(&v);
	assert_true(state_of(f, "rotten", &blob_state, &damaged));
	assert_true(damaged);
	assert_int_equal(count_listed(f, 0, true), 1);
	must(explain(f, digest, &r, &err), &err);
	assert_true(r->blob->damaged);
	assert_true(any_has(r->reasons, r->n_reasons, "damaged"));
	assert_true(any_has(r->remedies, r->n_remedies, "cairnctl --socket"));
	protobuf_c_message_free_unpacked(&r->base, NULL);
	/* the advice that needs no containerd: import a good copy */
	struct outcome o;
	put(f, "rotten");
	import(f, f->content, "", &o);
	assert_int_equal(o.rc, CAIRN_OK);
	outcome_fini(&o);
	assert_true(is_referenced(f, "rotten"));
}

static void verify__drops_a_cached_blob_that_is_damaged(void **state)
{
	struct fixture *f = *state;
	char path[300];
	enum cairn_blob_state blob_state;
	bool damaged;
	struct verified v;
	store(f, "rotten", CAIRN_BLOB_CACHED);
	spoil(state_path(f, "rotten", path));
	verify(f, NULL, 0, &v);
	assert_int_equal(v.n, 1);
	assert_int_equal(v.first->findings[0]->state, CAIRN__V1__BLOB_STATE__CACHED);
	assert_int_equal(v.first->findings[0]->n_remedies, 0);
	verified_fini(&v);
	assert_false(state_of(f, "rotten", &blob_state, &damaged));
}

static void verify__looks_at_named_blobs_only(void **state)
{
	struct fixture *f = *state;
	char path[300], sound[CAIRN_DIGEST_STR], absent[CAIRN_DIGEST_STR];
	char *digests[] = {digest_text("sound", sound), digest_text("absent", absent)};
	struct verified v;
	store(f, "sound", CAIRN_BLOB_REFERENCED);
	store(f, "rotten", CAIRN_BLOB_REFERENCED);
	spoil(state_path(f, "rotten", path));
	verify(f, digests, 2, &v);
	assert_int_equal(v.rc, CAIRN_OK);
	assert_int_equal(v.blobs, 2);
	assert_int_equal(v.n, 1);
	assert_string_equal(v.first->findings[0]->digest, absent);
	assert_int_equal(v.first->findings[0]->state, CAIRN__V1__BLOB_STATE__UNKNOWN_STATE);
	verified_fini(&v);
	char *bad[] = {"sha256:0"};
	verify(f, bad, 1, &v);
	assert_int_equal(v.rc, CAIRN_INVALID_ARGUMENT);
}

/* ---- Import and Export ---- */

static void import__links_and_leaves_the_source_alone(void **state)
{
	struct fixture *f = *state;
	struct outcome o;
	struct stat in, ours;
	char path[300], text[32];
	for (int i = 0; i < 30; i++) {
		snprintf(text, sizeof(text), "image %d", i);
		put(f, text);
	}
	import(f, f->content, "", &o);
	assert_int_equal(o.rc, CAIRN_OK);
	assert_int_equal(o.last->blobs_done, 30);
	assert_int_equal(o.last->blobs_total, 30);
	assert_int_equal(o.last->linked, 30);
	assert_int_equal(o.last->bytes_done, o.last->bytes_total);
	assert_int_equal(o.n_failures, 0);
	assert_false(o.last->records_known);
	assert_true(o.last->records_missing);
	assert_non_null(strstr(o.last->records_path, "/io.containerd.metadata.v1.bolt/meta.db"));
	outcome_fini(&o);
	assert_true(is_referenced(f, "image 7"));
	assert_int_equal(stat(content_path(f, "image 7", path), &in), 0);
	assert_int_equal(stat(state_path(f, "image 7", path), &ours), 0);
	assert_true(in.st_ino == ours.st_ino);
	assert_int_equal(in.st_mode & 07777, 0444);
	put(f, "late");
	import(f, f->content, "", &o); /* the final pass */
	assert_int_equal(o.rc, CAIRN_OK);
	assert_int_equal(o.last->present, 30);
	assert_int_equal(o.last->linked, 1);
	outcome_fini(&o);
}

static void import__takes_only_whole_blobs_with_proper_names(void **state)
{
	struct fixture *f = *state;
	struct outcome o;
	char path[300], link[300], digest[CAIRN_DIGEST_STR];
	put(f, "good");
	put(f, "wrong");
	spoil(content_path(f, "wrong", path));
	snprintf(link, sizeof(link), "%s", content_path(f, "linked", path));
	assert_int_equal(symlink("/etc/passwd", link), 0);
	assert_int_equal(mkdir(content_path(f, "folder", path), 0755), 0);
	assert_int_equal(mkfifo(content_path(f, "fifo", path), 0644), 0);
	snprintf(path, sizeof(path), "%s/blobs/sha256/README", f->content);
	write_file(path, "no blob", 0644);
	import(f, f->content, "", &o);
	assert_int_equal(o.rc, CAIRN_OK);
	assert_int_equal(o.last->blobs_done, 5);
	assert_int_equal(o.last->linked, 1);
	assert_int_equal(o.last->ignored, 1);
	assert_int_equal(o.n_failures, 4);
	digest_text("wrong", digest);
	for (size_t i = 0; i < o.n_failures; i++) {
		bool wrong = strcmp(o.failed[i], digest) == 0;
		assert_true(wrong || strstr(o.problem[i], "not a regular file") != NULL);
	}
	outcome_fini(&o);
	assert_true(is_referenced(f, "good"));
	assert_false(is_referenced(f, "wrong"));
}

static void transfer__refuses_what_makes_no_sense(void **state)
{
	struct fixture *f = *state;
	struct outcome o;
	import(f, "relative/path", "", &o);
	assert_int_equal(o.rc, CAIRN_INVALID_ARGUMENT);
	outcome_fini(&o);
	import(f, "", "", &o);
	assert_int_equal(o.rc, CAIRN_INVALID_ARGUMENT);
	outcome_fini(&o);
	import(f, f->content, "meta.db", &o);
	assert_int_equal(o.rc, CAIRN_INVALID_ARGUMENT);
	outcome_fini(&o);
	import(f, f->content, "", &o);
	assert_int_equal(o.rc, CAIRN_NOT_FOUND);
	outcome_fini(&o);
	import(f, f->dir, "", &o);
	assert_int_equal(o.rc, CAIRN_NOT_FOUND);
	outcome_fini(&o);
	assert_non_null(strstr(o.err.msg, "blobs"));
	import(f, f->state, "", &o);
	assert_int_equal(o.rc, CAIRN_FAILED_PRECONDITION);
	outcome_fini(&o);
	export(f, f->state, "", &o);
	assert_int_equal(o.rc, CAIRN_FAILED_PRECONDITION);
	outcome_fini(&o);
}

/* All that the fixture's containerd recorded, less what a test leaves out. */
static void put_recorded(const struct fixture *f)
{
	char text[32];
	for (int i = 1; i <= 40; i++) {
		snprintf(text, sizeof(text), "k8s %d", i);
		put(f, text);
		snprintf(text, sizeof(text), "default %d", i);
		if (i <= 3) put(f, text);
	}
}

static void import__names_what_is_recorded_but_absent(void **state)
{
	struct fixture *f = *state;
	struct outcome o;
	char path[300], lost[CAIRN_DIGEST_STR], spoilt[CAIRN_DIGEST_STR];
	put_recorded(f);
	import(f, f->content, META_DB, &o);
	assert_int_equal(o.rc, CAIRN_OK);
	assert_true(o.last->records_known);
	assert_false(o.last->runtime_running);
	assert_int_equal(o.last->recorded, 44);
	assert_int_equal(o.last->absent_total, 0);
	outcome_fini(&o);
	/* here, but not whole, and no longer to be had */
	struct verified v;
	spoil(state_path(f, "k8s 9", path));
	verify(f, NULL, 0, &v);
	assert_int_equal(v.n, 1);
	verified_fini(&v);
	unlink(content_path(f, "k8s 9", path));
	import(f, f->content, META_DB, &o);
	assert_int_equal(o.last->absent_total, 1);
	outcome_fini(&o);
	put(f, "k8s 9");
	/* another node, where two of them are not to be had; one of these counts in two namespaces
	 */
	close_daemon(f);
	snprintf(f->state, sizeof(f->state), "%s/state2", f->dir);
	open_daemon(f);
	unlink(content_path(f, "default 1", path));
	spoil(content_path(f, "k8s 17", path));
	import(f, f->content, META_DB, &o);
	assert_int_equal(o.rc, CAIRN_OK);
	assert_int_equal(o.last->absent_total, 3);
	assert_int_equal(o.last->n_absent, 3);
	assert_int_equal(o.n_failures, 1);
	digest_text("default 1", lost);
	digest_text("k8s 17", spoilt);
	size_t in_default = 0;
	for (size_t i = 0; i < o.last->n_absent; i++) {
		const Cairn__V1__RecordedAbsent *a = o.last->absent[i];
		in_default += strcmp(a->namespace_, "default") == 0;
		assert_true(strcmp(a->digest, lost) == 0 || strcmp(a->digest, spoilt) == 0);
	}
	assert_int_equal(in_default, 1);
	outcome_fini(&o);
}

static void import__says_when_records_cannot_be_read(void **state)
{
	struct fixture *f = *state;
	struct outcome o;
	char path[300];
	put(f, "x");
	snprintf(path, sizeof(path), "%s/no.db", f->dir);
	write_file(path, "this is no database", 0644);
	import(f, f->content, path, &o);
	assert_int_equal(o.rc, CAIRN_OK);
	assert_false(o.last->records_known);
	assert_false(o.last->records_missing);
	assert_non_null(strstr(o.last->records_error, path));
	outcome_fini(&o);
}

/* A sparse file under some digest's name keeps an import busy until it is cancelled. */
static void import__runs_one_at_a_time_and_can_be_cancelled(void **state)
{
	struct fixture *f = *state;
	Cairn__V1__ImportRequest request = CAIRN__V1__IMPORT_REQUEST__INIT;
	struct outcome o;
	struct cairn_err err;
	char path[300];
	put(f, "huge");
	content_path(f, "huge", path);
	assert_int_equal(chmod(path, 0644), 0);
	assert_int_equal(truncate(path, (off_t)1 << 40), 0);
	request.directory = f->content;
	struct cairn_call *call = begin(f, "/cairn.v1.Cairn/Import", &request.base);
	ProtobufCMessage *msg = next(call, &cairn__v1__transfer_progress__descriptor);
	assert_non_null(msg);
	protobuf_c_message_free_unpacked(msg, NULL);
	import(f, f->content, "", &o);
	assert_int_equal(o.rc, CAIRN_FAILED_PRECONDITION);
	assert_non_null(strstr(o.err.msg, "already"));
	cairn_call_cancel(call);
	assert_int_equal(cairn_call_finish(call, &err), CAIRN_CANCELLED);
	unlink(path);
	/* the cancelled one ends soon, and makes room */
	for (int i = 0; i < 500; i++) {
		outcome_fini(&o);
		import(f, f->content, "", &o);
		if (o.rc == CAIRN_OK) break;
		usleep(10000);
	}
	assert_int_equal(o.rc, CAIRN_OK);
	outcome_fini(&o);
}

static void drain__ends_a_long_import(void **state)
{
	struct fixture *f = *state;
	Cairn__V1__ImportRequest request = CAIRN__V1__IMPORT_REQUEST__INIT;
	struct cairn_err err;
	char path[300];
	put(f, "huge");
	content_path(f, "huge", path);
	assert_int_equal(chmod(path, 0644), 0);
	assert_int_equal(truncate(path, (off_t)1 << 40), 0);
	request.directory = f->content;
	struct cairn_call *call = begin(f, "/cairn.v1.Cairn/Import", &request.base);
	ProtobufCMessage *msg = next(call, &cairn__v1__transfer_progress__descriptor);
	assert_non_null(msg);
	protobuf_c_message_free_unpacked(msg, NULL);
	f->drained = true;
	assert_int_equal(cairn_rpc_server_drain(f->server, 10000), 0);
	while ((msg = next(call, &cairn__v1__transfer_progress__descriptor)) != NULL)
		protobuf_c_message_free_unpacked(msg, NULL);
	assert_int_equal(cairn_call_finish(call, &err), CAIRN_UNAVAILABLE);
	assert_non_null(strstr(err.msg, "shutting down"));
}

static void assert_mode(const char *path, mode_t want)
{
	struct stat st;
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, want);
}

static void export__gives_containerds_layout(void **state)
{
	struct fixture *f = *state;
	struct outcome o;
	struct stat st;
	char path[300];
	store(f, "used", CAIRN_BLOB_REFERENCED);
	store(f, "used too", CAIRN_BLOB_REFERENCED);
	store(f, "kept", CAIRN_BLOB_CACHED);
	mode_t mask = umask(077);
	export(f, f->content, "", &o);
	umask(mask);
	assert_int_equal(o.rc, CAIRN_OK);
	assert_int_equal(o.last->linked, 2);
	assert_int_equal(o.last->blobs_done, 2);
	assert_int_equal(o.last->bytes_done, 12);
	outcome_fini(&o);
	assert_mode(f->content, 0755);
	static const char *const folders[] = {"blobs", "blobs/sha256", "ingest"};
	for (size_t i = 0; i < CAIRN_LEN(folders); i++) {
		snprintf(path, sizeof(path), "%s/%s", f->content, folders[i]);
		assert_mode(path, 0755);
	}
	assert_mode(content_path(f, "used", path), 0444);
	assert_int_equal(stat(content_path(f, "kept", path), &st), -1);
	store(f, "new", CAIRN_BLOB_REFERENCED);
	export(f, f->content, "", &o);
	assert_int_equal(o.rc, CAIRN_OK);
	assert_int_equal(o.last->present, 2);
	assert_int_equal(o.last->linked, 1);
	outcome_fini(&o);
	assert_true(is_referenced(f, "used"));
}

static void export__names_what_is_recorded_but_absent(void **state)
{
	struct fixture *f = *state;
	struct outcome o;
	char path[300], digest[CAIRN_DIGEST_STR], target[128];
	put_recorded(f);
	import(f, f->content, META_DB, &o);
	assert_int_equal(o.rc, CAIRN_OK);
	outcome_fini(&o);
	struct cairn_digest d;
	digest_of("k8s 5", &d);
	cairn_cache_release(f->cache, &d);
	spoil(state_path(f, "k8s 6", path));
	snprintf(target, sizeof(target), "%s/back", f->dir);
	export(f, target, META_DB, &o);
	assert_int_equal(o.rc, CAIRN_OK);
	assert_true(o.last->records_known);
	bool named = false;
	for (size_t i = 0; i < o.last->n_absent; i++)
		named |= strcmp(o.last->absent[i]->digest, digest_text("k8s 5", digest)) == 0;
	assert_true(named);
	outcome_fini(&o);
	/* a wrong file in the way of a good blob is told, and not overwritten */
	snprintf(path, sizeof(path), "%s/blobs/sha256/%s", target,
		 digest_text("k8s 7", digest) + 7);
	unlink(path);
	write_file(path, "in the way", 0644);
	export(f, target, META_DB, &o);
	assert_int_equal(o.rc, CAIRN_OK);
	named = false;
	for (size_t i = 0; i < o.n_failures; i++) named |= strcmp(o.failed[i], digest) == 0;
	assert_true(named);
	outcome_fini(&o);
}

/* containerd trusts what it finds: a file that an import refused, say, is not to come back to it.
 */
static void export__reads_what_is_there_already(void **state)
{
	struct fixture *f = *state;
	struct outcome o;
	char path[300], digest[CAIRN_DIGEST_STR];
	store(f, "healed", CAIRN_BLOB_REFERENCED);
	store(f, "copied", CAIRN_BLOB_REFERENCED);
	export(f, f->content, "", &o);
	outcome_fini(&o);
	content_path(f, "healed", path);
	assert_int_equal(unlink(path), 0);
	write_file(path, "damage", 0444); /* of the same size */
	content_path(f, "copied", path);
	assert_int_equal(unlink(path), 0);
	write_file(path, "copied", 0444);
	export(f, f->content, "", &o);
	assert_int_equal(o.rc, CAIRN_OK);
	assert_int_equal(o.last->present, 1);
	assert_int_equal(o.n_failures, 1);
	assert_string_equal(o.failed[0], digest_text("healed", digest));
	assert_int_equal(o.last->bytes_done, 12);
	outcome_fini(&o);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(status__says_what_is_here),
		TEST(status__tells_of_the_swarm),
		TEST(list_peers__has_this_node_first),
		TEST(list__gives_each_blob_once_in_order),
		TEST(list__refuses_a_state_that_is_none),
		TEST(explain__gives_reasons),
		TEST(explain__refuses_what_it_cannot_explain),
		TEST(verify__passes_what_is_sound),
		TEST(verify__finds_damage_and_says_how_to_heal_it),
		TEST(verify__drops_a_cached_blob_that_is_damaged),
		TEST(verify__looks_at_named_blobs_only),
		TEST(import__links_and_leaves_the_source_alone),
		TEST(import__takes_only_whole_blobs_with_proper_names),
		TEST(transfer__refuses_what_makes_no_sense),
		TEST(import__names_what_is_recorded_but_absent),
		TEST(import__says_when_records_cannot_be_read),
		TEST(import__runs_one_at_a_time_and_can_be_cancelled),
		TEST(drain__ends_a_long_import),
		TEST(export__gives_containerds_layout),
		TEST(export__names_what_is_recorded_but_absent),
		TEST(export__reads_what_is_there_already),
	};
	return cmocka_run_group_tests_name("plugin/cairn_service", tests, NULL, NULL);
}
