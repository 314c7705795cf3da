#include "support/content_fixture.h"

#include <fcntl.h>

#include "rpc/wire.h"

#define EMPTY_DIGEST "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
#define NO_DIGEST "sha256:0000000000000000000000000000000000000000000000000000000000000000"

typedef Containerd__Services__Content__V1__InfoResponse pb_info_response;
typedef Containerd__Services__Content__V1__StatusResponse pb_status_response;
typedef Containerd__Services__Content__V1__ListStatusesResponse pb_statuses;
typedef Containerd__Services__Content__V1__UpdateResponse pb_updated;

static int setup(void **state)
{
	*state = node_new(true, false);
	return 0;
}

static int teardown(void **state)
{
	node_free(*state);
	return 0;
}

/* "layer-<digest of data>", under a namespace. Valid until the next call. */
static const char *pull_ref(const char *ns, const void *data, size_t len)
{
	static char ref[CAIRN_DIGEST_STR + 128];
	snprintf(ref, sizeof(ref), "%s/1/layer-%s", ns, digest_text(data, len));
	return ref;
}

/* A request that is one field of any bytes at all: an Empty can carry it as an unknown one. */
static enum cairn_code send_field(struct node *n, const char *path,
				  ProtobufCMessageUnknownField *field)
{
	Cairn__Wire__Empty m = CAIRN__WIRE__EMPTY__INIT;
	m.base.unknown_fields = field;
	m.base.n_unknown_fields = 1;
	struct cairn_call *call = NULL;
	struct cairn_err ignored;
	struct cairn_msg *msg = NULL;
	OK(cairn_channel_open(n->channel, path, NULL, 0, 10000, &call, &node_err));
	(void)!cairn_call_send(call, &m.base, &ignored);
	(void)!cairn_call_half_close(call, &ignored);
	while (cairn_call_recv(call, &msg) == CAIRN_RECV_MSG) cairn_msg_free(msg);
	return cairn_call_finish(call, &node_err);
}

static enum cairn_code send_bytes_field(struct node *n, const char *path, uint32_t tag,
					const void *data, size_t len)
{
	uint8_t bytes[300];
	size_t head = cairn_wire_put_varint(bytes, len);
	memcpy(bytes + head, data, len);
	ProtobufCMessageUnknownField field = {.tag = tag,
					      .wire_type = PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED,
					      .len = head + len,
					      .data = bytes};
	return send_field(n, path, &field);
}

static enum cairn_code send_raw(struct node *n, const char *path, uint8_t *bytes, size_t len)
{
	ProtobufCMessageUnknownField field = {
		.tag = bytes[0] % 8 + 1,
		.wire_type = (ProtobufCWireType)(bytes[1] % 2 == 0 ? 0 : 2),
		.len = len - 2,
		.data = bytes + 2,
	};
	return send_field(n, path, &field);
}

/* ---- Info, Delete -----------------------------------------------------------------------------*/

static void info__answers_for_referenced_blobs_only(void **state)
{
	struct node *n = *state;
	uint8_t data[1000];
	const char *digest = digest_text(fill_bytes(data, sizeof(data), 1), sizeof(data));
	pb_info_response *resp = NULL;
	assert_int_equal(get_info(n, "sha256:xyz", NULL), CAIRN_INVALID_ARGUMENT);
	assert_int_equal(get_info(n, "", NULL), CAIRN_INVALID_ARGUMENT);
	assert_int_equal(get_info(n, digest, NULL), CAIRN_NOT_FOUND);
	int64_t before = cairn_real_ns(&cairn_clock_system);
	OK(put_blob(n, "ns/1/some ref", data, sizeof(data)));
	int64_t after = cairn_real_ns(&cairn_clock_system);
	OK(get_info(n, digest, &resp));
	assert_non_null(resp->info);
	assert_string_equal(resp->info->digest, digest);
	assert_int_equal(resp->info->size, sizeof(data));
	int64_t created = time_ns(resp->info->created_at),
		updated = time_ns(resp->info->updated_at);
	assert_true(before <= created && created <= after);
	assert_true(before <= updated && updated <= after);
	protobuf_c_message_free_unpacked(&resp->base, NULL);
	OK(delete_blob(n, digest));
	assert_int_equal(get_info(n, digest, NULL), CAIRN_NOT_FOUND); /* cached: not announced */
	struct cairn_digest d = digest_of(data, sizeof(data), CAIRN_SHA256);
	struct cairn_blob_info info;
	OK(cairn_cache_info(n->cache, &d, &info, &node_err)); /* but the bytes stay */
	assert_int_equal(info.state, CAIRN_BLOB_CACHED);
	cairn_blob_info_fini(&info);
}

/* protobuf strings may hold a zero byte; C would take what is before it for the whole. */
static void any_method__refuses_zero_bytes_in_strings(void **state)
{
	struct node *n = *state;
	uint8_t data[16];
	char raw[CAIRN_DIGEST_STR + 8] = {0};
	const char *digest = digest_text(fill_bytes(data, 16, 30), 16);
	OK(put_blob(n, "r", data, 16));
	strcpy(raw, digest);
	/* Field 1 of InfoRequest, AbortRequest and the like, with a zero at its end. */
	static const char *const paths[] = {METHOD("Info"), METHOD("Delete"), METHOD("Read"),
					    METHOD("Abort"), METHOD("Status")};
	for (size_t i = 0; i < CAIRN_LEN(paths); i++) {
		assert_int_equal(send_bytes_field(n, paths[i], 1, raw, strlen(raw) + 1),
				 CAIRN_INVALID_ARGUMENT);
	}
	/* One level down: UpdateRequest.info.digest. */
	char info[CAIRN_DIGEST_STR + 8] = {0x0a, (char)(strlen(raw) + 1)};
	memcpy(info + 2, raw, strlen(raw) + 1);
	assert_int_equal(send_bytes_field(n, METHOD("Update"), 1, info, strlen(raw) + 3),
			 CAIRN_INVALID_ARGUMENT);
	OK(send_bytes_field(n, METHOD("Info"), 1, raw, strlen(raw)));
}

static void delete__of_something_unknown_is_ok(void **state)
{
	struct node *n = *state;
	OK(delete_blob(n, NO_DIGEST));
	OK(abort_ref(n, "never/1/heard of"));
	OK(abort_ref(n, ""));
	assert_int_equal(delete_blob(n, "sha256:../../x"), CAIRN_INVALID_ARGUMENT);
}

/* ---- Write ------------------------------------------------------------------------------------*/

static enum cairn_code first_message(struct node *n, const pb_write *m)
{
	struct cairn_call *call = open_write(n);
	enum cairn_code rc = ask(&call, m, NULL);
	if (call != NULL) (void)!end_write(&call);
	return rc;
}

static void write__refuses_bad_first_messages(void **state)
{
	struct node *n = *state;
	pb_write m = write_message(STAT, 0, NULL, 0);
	assert_int_equal(first_message(n, &m), CAIRN_INVALID_ARGUMENT); /* no ref */
	m.ref = (char[]){"bad \xff utf-8"};
	assert_int_equal(first_message(n, &m), CAIRN_INVALID_ARGUMENT);
	char *long_ref = calloc(1, CAIRN_REF_MAX + 2);
	memset(long_ref, 'r', CAIRN_REF_MAX + 1);
	m.ref = long_ref;
	assert_int_equal(first_message(n, &m), CAIRN_INVALID_ARGUMENT);
	free(long_ref);
	m.ref = (char[]){"r"};
	m.total = CAIRN_BLOB_SIZE_MAX + 1;
	assert_int_equal(first_message(n, &m), CAIRN_INVALID_ARGUMENT);
	m.total = 0;
	m.expected = (char[]){"sha256:zz"};
	assert_int_equal(first_message(n, &m), CAIRN_INVALID_ARGUMENT);
	m.expected = (char[]){""};
	m.offset = -1;
	assert_int_equal(first_message(n, &m), CAIRN_INVALID_ARGUMENT);
	m.offset = 0;
	m.action = (Containerd__Services__Content__V1__WriteAction)3;
	assert_int_equal(first_message(n, &m), CAIRN_INVALID_ARGUMENT);
	m.action = (Containerd__Services__Content__V1__WriteAction)STAT;
	m.total = -5; /* unknown */
	assert_int_equal(first_message(n, &m), CAIRN_OK);
	struct cairn_call *call = open_write(n);
	assert_int_equal(end_write(&call), CAIRN_INVALID_ARGUMENT); /* no message at all */
}

static void write__answers_carry_digest_times_and_total(void **state)
{
	struct node *n = *state;
	uint8_t data[100];
	fill_bytes(data, sizeof(data), 2);
	struct cairn_call *call = NULL;
	struct answer a, b;
	int64_t before = cairn_real_ns(&cairn_clock_system);
	OK(start_write(n, "a/1/plain", 256, &call, &a));
	int64_t opened = cairn_real_ns(&cairn_clock_system);
	assert_int_equal(a.action, STAT);
	assert_int_equal(a.offset, 0);
	assert_int_equal(a.total, 256);
	assert_string_equal(a.digest, EMPTY_DIGEST);
	assert_true(before <= a.started_ns && a.started_ns <= opened);
	OK(write_at(&call, 0, data, 60, &b));
	assert_int_equal(b.action, WRITE);
	assert_int_equal(b.offset, 60);
	assert_string_equal(b.digest, digest_text(data, 60));
	assert_true(b.updated_ns >= opened && b.started_ns == a.started_ns);
	OK(write_at(&call, 60, data + 60, 40, &b));
	assert_string_equal(b.digest, digest_text(data, 100));
	pb_write stat = write_message(STAT, 0, NULL, 0);
	OK(ask(&call, &stat, &b));
	assert_int_equal(b.offset, 100);
	assert_int_equal(b.total, 256);
	OK(write_at(&call, 100, NULL, 0, &b)); /* no data: a status */
	assert_int_equal(b.offset, 100);
	OK(commit_at(&call, 100, 100, NULL, &b));
	assert_int_equal(b.action, COMMIT);
	assert_int_equal(b.offset, 100);
	assert_string_equal(b.digest, digest_text(data, 100));
	OK(get_info(n, digest_text(data, 100), NULL));
}

static void write__checks_offsets(void **state)
{
	struct node *n = *state;
	uint8_t data[100];
	fill_bytes(data, sizeof(data), 3);
	struct cairn_call *call = NULL;
	struct answer a;
	OK(start_write(n, "r", 0, &call, NULL));
	OK(write_at(&call, 0, data, 50, NULL));
	assert_int_equal(write_at(&call, 49, data, 10, NULL), CAIRN_OUT_OF_RANGE);
	OK(start_write(n, "r", 0, &call, &a)); /* the ref is free, the data still there */
	assert_int_equal(a.offset, 50);
	assert_int_equal(write_at(&call, CAIRN_BLOB_SIZE_MAX, data, 10, NULL), CAIRN_OUT_OF_RANGE);
	OK(start_write(n, "r", 0, &call, &a));
	OK(write_at(&call, 0, data, 30, &a)); /* offset 0: starts again */
	assert_int_equal(a.offset, 30);
	assert_string_equal(a.digest, digest_text(data, 30));
	assert_int_equal(commit_at(&call, 20, 0, NULL, NULL), CAIRN_OUT_OF_RANGE);
	OK(start_write(n, "r", 0, &call, &a));
	assert_int_equal(a.offset, 30);
	pb_write m = write_message(COMMIT, 30, data + 30, 70); /* bytes with the commit */
	m.expected = digest_text(data, 100);
	OK(ask(&call, &m, &a));
	assert_int_equal(a.offset, 100);
	OK(end_write(&call));
	OK(get_info(n, digest_text(data, 100), NULL));
}

static void commit__at_zero_starts_again_unless_all_is_there(void **state)
{
	struct node *n = *state;
	uint8_t data[30];
	struct cairn_call *call = NULL;
	struct answer a;
	OK(start_write(n, "r", 0, &call, NULL));
	OK(write_at(&call, 0, fill_bytes(data, 30, 31), 30, NULL));
	OK(commit_at(&call, 0, 0, EMPTY_DIGEST, &a)); /* as after a Truncate(0) */
	assert_int_equal(a.offset, 0);
	OK(get_info(n, EMPTY_DIGEST, NULL));
	assert_int_equal(get_info(n, digest_text(data, 30), NULL), CAIRN_NOT_FOUND);
}

static void write__only_the_first_ref_counts(void **state)
{
	struct node *n = *state;
	uint8_t data[30];
	struct cairn_call *call = NULL, *other = NULL;
	struct cairn_ingest_status *st = calloc(1, sizeof(*st));
	OK(put_blob(n, "r", fill_bytes(data, 30, 32), 30));
	OK(start_write(n, "other", 0, &other, NULL));
	OK(end_write(&other));
	OK(start_write(n, "own", 0, &call, NULL));
	pb_write m = write_message(STAT, 0, NULL, 0);
	m.ref = (char[]){"other"};
	m.expected = digest_text(data, 30); /* exists: the stream's own ingest is dropped */
	assert_int_equal(ask(&call, &m, NULL), CAIRN_ALREADY_EXISTS);
	assert_int_equal(cairn_cache_ingest_status(n->cache, "own", st, &node_err),
			 CAIRN_NOT_FOUND);
	OK(cairn_cache_ingest_status(n->cache, "other", st, &node_err));
	free(st);
}

static void write__does_not_enforce_total_before_the_commit(void **state)
{
	struct node *n = *state;
	uint8_t data[100];
	fill_bytes(data, sizeof(data), 4);
	struct cairn_call *call = NULL;
	OK(start_write(n, "r", 50, &call, NULL));
	OK(write_at(&call, 0, data, 50, NULL));
	OK(write_at(&call, 50, data + 50, 50, NULL));
	OK(commit_at(&call, 100, 100, digest_text(data, 100), NULL));
}

static void commit__keeps_the_data_when_size_or_digest_differ(void **state)
{
	struct node *n = *state;
	uint8_t data[64];
	fill_bytes(data, sizeof(data), 5);
	struct cairn_call *call = NULL;
	struct answer a;
	OK(start_write(n, "r", 64, &call, NULL));
	OK(write_at(&call, 0, data, 64, NULL));
	assert_int_equal(commit_at(&call, 64, 64, NO_DIGEST, NULL), CAIRN_FAILED_PRECONDITION);
	OK(start_write(n, "r", 64, &call, &a));
	assert_int_equal(a.offset, 64);
	assert_int_equal(commit_at(&call, 64, 65, NULL, NULL), CAIRN_FAILED_PRECONDITION);
	OK(start_write(n, "r", 64, &call, &a));
	assert_int_equal(a.offset, 64);
	OK(commit_at(&call, 64, 64, digest_text(data, 64), NULL));
	pb_status_response *st = NULL;
	Containerd__Services__Content__V1__StatusRequest req =
		CONTAINERD__SERVICES__CONTENT__V1__STATUS_REQUEST__INIT;
	req.ref = (char[]){"r"};
	assert_int_equal(unary(n, METHOD("Status"), &req.base, TYPE_OF(status_response), &st),
			 CAIRN_NOT_FOUND);
}

static void commit__of_what_exists_says_so_and_frees_the_ref(void **state)
{
	struct node *n = *state;
	uint8_t data[64];
	fill_bytes(data, sizeof(data), 6);
	struct cairn_call *call = NULL;
	struct answer a;
	OK(put_blob(n, "first", data, sizeof(data)));
	for (int i = 0; i < 2; i++) { /* with the digest said, and without */
		OK(start_write(n, "second", 64, &call, &a));
		assert_int_equal(a.offset, 0);
		OK(write_at(&call, 0, data, 64, &a));
		assert_string_equal(a.digest, digest_text(data, 64));
		assert_int_equal(
			commit_at(&call, 64, 64, i == 0 ? digest_text(data, 64) : NULL, NULL),
			CAIRN_ALREADY_EXISTS);
	}
	pb_write m = write_message(STAT, 0, NULL, 0); /* on any message */
	m.ref = (char[]){"third"};
	m.expected = digest_text(data, 64);
	assert_int_equal(first_message(n, &m), CAIRN_ALREADY_EXISTS);
	assert_int_equal(
		cairn_cache_next_ingest(n->cache, NULL, &(struct cairn_ingest_status){0}, 1), 0);
}

/* Clients reopen at once, and containerd's does so under its locks: the ref is free before the
 * answer leaves. The store is asked itself, because a Write would wait a little for a busy ref. */
static void commit__frees_the_ref_before_it_answers(void **state)
{
	struct node *n = *state;
	uint8_t data[64];
	for (unsigned i = 0; i < 60; i++) {
		static const enum cairn_code ends[] = {CAIRN_FAILED_PRECONDITION, CAIRN_OK,
						       CAIRN_ALREADY_EXISTS};
		struct cairn_call *call = NULL;
		struct cairn_ingest *ing = NULL;
		fill_bytes(data, sizeof(data), 7000 + i / 3 * 3 + (i % 3 > 0));
		OK(start_write(n, "r", 0, &call, NULL));
		OK(write_at(&call, 0, data, 64, NULL));
		pb_write m = write_message(COMMIT, 64, NULL, 0);
		m.expected = i % 3 == 0 ? (char[]){NO_DIGEST} : digest_text(data, 64);
		assert_int_equal(ask(&call, &m, NULL), ends[i % 3]);
		OK(cairn_ingest_open(n->cache, &(struct cairn_ingest_spec){.ref = "r"}, &ing,
				     &node_err));
		cairn_ingest_close(ing);
		cairn_cache_abort(n->cache, "r");
		if (call != NULL) OK(end_write(&call));
	}
}

static void commit__takes_sha512(void **state)
{
	struct node *n = *state;
	uint8_t data[300];
	fill_bytes(data, sizeof(data), 7);
	struct cairn_digest d = digest_of(data, sizeof(data), CAIRN_SHA512);
	char text[CAIRN_DIGEST_STR];
	struct cairn_call *call = NULL;
	struct answer a;
	OK(start_write(n, "r", 300, &call, NULL));
	OK(write_at(&call, 0, data, 300, NULL));
	OK(commit_at(&call, 300, 300, cairn_digest_format(&d, text), &a));
	assert_string_equal(a.digest, text);
	OK(get_info(n, text, NULL));
}

/* A COMMIT that has to hash the bytes again, under another algorithm, holds nobody else up. */
static void commit__under_another_algorithm_leaves_others_alone(void **state)
{
	struct node *n = *state;
	const size_t half = 16u << 20;
	char expected[CAIRN_DIGEST_STR];
	uint8_t *data = fill_bytes(malloc(2 * half), 2 * half, 61);
	struct cairn_digest d = digest_of(data, 2 * half, CAIRN_SHA512);
	struct cairn_call *call = NULL;
	struct cairn_blob_info info;
	OK(start_write(n, pull_ref("a", data, 2 * half), (int64_t)(2 * half), &call, NULL));
	OK(write_at(&call, 0, data, half, NULL));
	OK(write_at(&call, (int64_t)half, data + half, half, NULL)); /* published as sha256 */
	pb_write m = write_message(COMMIT, (int64_t)(2 * half), NULL, 0);
	m.expected = (char *)(uintptr_t)cairn_digest_format(&d, expected);
	OK(cairn_call_send(call, &m.base, &node_err));
	for (int i = 0; i < 3; i++) {
		assert_int_equal(get_info(n, NO_DIGEST, NULL), CAIRN_NOT_FOUND);
		/* We were answered while it runs. */
		assert_int_equal(cairn_cache_info(n->cache, &d, &info, &node_err), CAIRN_NOT_FOUND);
	}
	OK(ask(&call, NULL, NULL));
	OK(end_write(&call));
	OK(get_info(n, expected, NULL));
	free(data);
}

static void write__busy_ref_is_unavailable_and_soon_so(void **state)
{
	struct node *n = *state;
	struct cairn_call *first = NULL, *second = NULL;
	OK(start_write(n, "busy", 10, &first, NULL));
	int64_t before = cairn_boot_ns(&cairn_clock_system);
	assert_int_equal(start_write(n, "busy", 10, &second, NULL), CAIRN_UNAVAILABLE);
	assert_true(cairn_boot_ns(&cairn_clock_system) - before < 500 * CAIRN_NS_PER_MS);
	for (int i = 0; i < 20; i++) { /* a close does not wait; a reopen right after it works */
		OK(end_write(&first));
		OK(start_write(n, "busy", 10, &first, NULL));
	}
	/* Cancelled, it is free at once, too. */
	for (int i = 0; i < 20; i++) {
		struct cairn_err ignored;
		cairn_call_cancel(first);
		(void)!cairn_call_finish(cairn_steal(&first), &ignored);
		OK(start_write(n, "busy", 10, &first, NULL));
	}
	OK(end_write(&first));
}

static int compare_ns(const void *a, const void *b)
{
	const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
	return (x > y) - (x < y);
}

/* Also when its WRITE is being hashed and flushed. The store is asked itself, because a Write would
 * wait a little for a busy ref. The best quarter counts, because the machine may be busy. */
static void cancel__frees_the_ref_within_10_ms(void **state)
{
	struct node *n = *state;
	const size_t len = 15u << 20;
	uint8_t *data = fill_bytes(malloc(len), len, 62);
	int64_t took[21];
	for (size_t i = 0; i < CAIRN_LEN(took); i++) {
		struct cairn_call *call = NULL;
		struct cairn_ingest *ing = NULL;
		struct cairn_err err;
		pb_write m = write_message(WRITE, 0, data, len);
		OK(start_write(n, "r", (int64_t)len, &call, NULL));
		if (i % 2 == 0) OK(cairn_call_send(call, &m.base, &node_err));
		int64_t began = cairn_boot_ns(&cairn_clock_system);
		cairn_call_cancel(call);
		while (cairn_ingest_open(n->cache, &(struct cairn_ingest_spec){.ref = "r"}, &ing,
					 &err) != CAIRN_OK) {
			assert_int_equal(err.code, CAIRN_UNAVAILABLE);
			assert_true(cairn_boot_ns(&cairn_clock_system) - began < CAIRN_NS_PER_S);
		}
		took[i] = cairn_boot_ns(&cairn_clock_system) - began;
		cairn_ingest_close(ing);
		cairn_cache_abort(n->cache, "r");
		assert_int_not_equal(cairn_call_finish(call, &err), CAIRN_OK);
	}
	qsort(took, CAIRN_LEN(took), sizeof(took[0]), compare_ns);
	assert_true(took[CAIRN_LEN(took) / 4] < 10 * CAIRN_NS_PER_MS);
	free(data);
}

static void write__half_close_keeps_data_and_times(void **state)
{
	struct node *n = *state;
	uint8_t data[64];
	fill_bytes(data, sizeof(data), 8);
	struct cairn_call *call = NULL;
	struct answer a, b;
	OK(start_write(n, "resume", 64, &call, NULL));
	OK(write_at(&call, 0, data, 32, &a));
	OK(end_write(&call));
	n->skew_ns += 5 * CAIRN_NS_PER_S;
	OK(start_write(n, "resume", 64, &call, &b));
	assert_int_equal(b.offset, 32);
	assert_string_equal(b.digest, digest_text(data, 32));
	assert_true(b.started_ns == a.started_ns && b.updated_ns == a.updated_ns);
	OK(end_write(&call));
	OK(start_write(n, "resume", 65, &call, &b)); /* another total: another thing */
	assert_int_equal(b.offset, 0);
	OK(end_write(&call));
}

static void abort__ends_an_open_stream_at_its_next_message(void **state)
{
	struct node *n = *state;
	uint8_t data[64];
	fill_bytes(data, sizeof(data), 9);
	struct cairn_call *call = NULL, *other = NULL;
	struct answer a;
	OK(start_write(n, "x/1/gone", 64, &call, NULL));
	OK(write_at(&call, 0, data, 32, NULL));
	OK(abort_ref(n, "x/1/gone"));
	OK(start_write(n, "x/1/gone", 64, &other, &a)); /* the ref is free at once */
	assert_int_equal(a.offset, 0);
	assert_int_equal(write_at(&call, 32, data, 32, NULL), CAIRN_ABORTED);
	OK(write_at(&other, 0, data, 64, &a)); /* and the new one is none the worse */
	OK(commit_at(&other, 64, 64, digest_text(data, 64), NULL));
}

static void write__labels_of_a_commit_are_kept(void **state)
{
	struct node *n = *state;
	uint8_t data[64];
	fill_bytes(data, sizeof(data), 10);
	struct cairn_call *call = NULL;
	Cairn__Wire__Label l[3] = {CAIRN__WIRE__LABEL__INIT, CAIRN__WIRE__LABEL__INIT,
				   CAIRN__WIRE__LABEL__INIT};
	Cairn__Wire__Label *list[3] = {&l[0], &l[1], &l[2]};
	l[0].key = l[2].key = (char[]){"k1"};
	l[1].key = (char[]){"k2"};
	l[0].value = (char[]){"first"};
	l[1].value = (char[]){"two"};
	l[2].value = (char[]){"last"};
	OK(start_write(n, "r", 64, &call, NULL));
	OK(write_at(&call, 0, data, 64, NULL));
	pb_write m = write_message(COMMIT, 64, NULL, 0);
	m.labels = list;
	m.n_labels = 3;
	OK(ask(&call, &m, NULL));
	OK(end_write(&call));
	pb_info_response *resp = NULL;
	OK(get_info(n, digest_text(data, 64), &resp));
	assert_int_equal(resp->info->n_labels, 2);
	assert_string_equal(resp->info->labels[0]->value, "last");
	assert_string_equal(resp->info->labels[1]->value, "two");
	protobuf_c_message_free_unpacked(&resp->base, NULL);
	OK(start_write(n, "r", 64, &call, NULL));
	l[1].key = (char[]){"\xff"};
	assert_int_equal(ask(&call, &m, NULL), CAIRN_INVALID_ARGUMENT);
}

static void write__takes_16_mib_messages(void **state)
{
	struct node *n = *state;
	size_t len = (16u << 20) - 100;
	uint8_t *data = fill_bytes(malloc(len), len, 11);
	OK(put_blob(n, "big", data, len));
	OK(get_info(n, digest_text(data, len), NULL));
	free(data);
}

/* ---- prefill ----------------------------------------------------------------------------------*/

/* Put a blob and have containerd's GC let go of it. */
static void cache_blob(struct node *n, const char *ns, const uint8_t *data, size_t len)
{
	OK(put_blob(n, pull_ref(ns, data, len), data, len));
	OK(delete_blob(n, digest_text(data, len)));
}

static void prefill__opens_complete_and_commits_without_data(void **state)
{
	struct node *n = *state;
	uint8_t data[5000];
	fill_bytes(data, sizeof(data), 12);
	cache_blob(n, "a", data, sizeof(data));
	const char *digest = digest_text(data, sizeof(data));
	struct cairn_call *call = NULL;
	struct answer a;
	for (int64_t offset = 5000; offset >= 0; offset -= 5000) { /* 0: after a wait */
		OK(start_write(n, pull_ref("b", data, 5000), 5000, &call, &a));
		assert_int_equal(a.offset, 5000);
		assert_int_equal(a.total, 5000);
		assert_string_equal(a.digest, digest);
		pb_write stat = write_message(STAT, 0, NULL, 0);
		OK(ask(&call, &stat, &a));
		assert_int_equal(a.offset, 5000);
		assert_int_equal(get_info(n, digest, NULL), CAIRN_NOT_FOUND);
		OK(commit_at(&call, offset, 5000, digest, &a));
		assert_int_equal(a.offset, 5000);
		OK(get_info(n, digest, NULL));
		OK(delete_blob(n, digest));
	}
}

static void prefill__only_for_a_pull_of_that_digest_and_size(void **state)
{
	struct node *n = *state;
	uint8_t data[500];
	fill_bytes(data, sizeof(data), 13);
	cache_blob(n, "a", data, sizeof(data));
	char contains[300];
	snprintf(contains, sizeof(contains), "a/1/convert-from-%s", digest_text(data, 500));
	struct {
		const char *ref;
		int64_t total;
	} cases[] = {{pull_ref("a", data, 500), 0},
		     {pull_ref("a", data, 500), 499},
		     {contains, 500},
		     {"a/1/import", 500}};
	for (size_t i = 0; i < CAIRN_LEN(cases); i++) {
		struct cairn_call *call = NULL;
		struct answer a;
		OK(start_write(n, cases[i].ref, cases[i].total, &call, &a));
		assert_int_equal(a.offset, 0);
		OK(end_write(&call));
		OK(abort_ref(n, cases[i].ref));
	}
}

static void prefill__follows_the_configuration(void **state)
{
	(void)state;
	uint8_t data[500];
	fill_bytes(data, sizeof(data), 14);
	struct cairn_call *call = NULL;
	struct answer a;
	struct node *n = node_new(false, false); /* prefill: false */
	cache_blob(n, "a", data, 500);
	OK(start_write(n, pull_ref("a", data, 500), 500, &call, &a));
	assert_int_equal(a.offset, 0);
	OK(end_write(&call));
	node_free(n);
	n = node_new(true, true); /* sharing: namespace */
	cache_blob(n, "a", data, 500);
	OK(start_write(n, pull_ref("b", data, 500), 500, &call, &a));
	assert_int_equal(a.offset, 0);
	OK(end_write(&call));
	OK(start_write(n, pull_ref("a", data, 500), 500, &call, &a));
	assert_int_equal(a.offset, 500);
	OK(end_write(&call));
	node_free(n);
}

static void prefill__writing_starts_a_private_ingest(void **state)
{
	struct node *n = *state;
	uint8_t data[500], other[500], back[500];
	fill_bytes(data, sizeof(data), 15);
	fill_bytes(other, sizeof(other), 16);
	cache_blob(n, "a", data, sizeof(data));
	struct cairn_call *call = NULL;
	struct answer a;
	size_t len = 0;
	OK(start_write(n, pull_ref("a", data, 500), 500, &call, &a));
	assert_int_equal(a.offset, 500);
	OK(write_at(&call, 0, other, 500, &a));
	assert_int_equal(a.offset, 500);
	assert_string_equal(a.digest, digest_text(other, 500));
	OK(commit_at(&call, 500, 500, digest_text(other, 500), NULL));
	OK(read_blob(n, digest_text(data, 500), 0, 0, back, sizeof(back), &len, NULL));
	assert_memory_equal(back, data, 500);
	assert_int_equal(get_info(n, digest_text(data, 500), NULL), CAIRN_NOT_FOUND);
	OK(get_info(n, digest_text(other, 500), NULL));
}

/* Turn the bytes of a blob's file into others. */
static void rot(struct node *n, const char *digest)
{
	char path[256];
	snprintf(path, sizeof(path), "%s/blobs/sha256/%s", n->dir, strchr(digest, ':') + 1);
	FILE *f = fopen(path, "r+b");
	assert_non_null(f);
	assert_int_equal(fwrite("rotten", 1, 6, f), 6);
	assert_int_equal(fclose(f), 0);
}

static void prefill__is_confirmed_outside_of_the_opening_stat(void **state)
{
	struct node *n = *state;
	uint8_t data[5000];
	fill_bytes(data, sizeof(data), 51);
	const char *ref = pull_ref("a", data, sizeof(data)), *digest = digest_text(data, 5000);
	struct cairn_call *call = NULL;
	struct answer a;
	for (int with_stat = 0; with_stat < 2; with_stat++) {
		cache_blob(n, "a", data, sizeof(data));
		rot(n, digest);
		OK(start_write(n, ref, 5000, &call, &a));
		assert_int_equal(a.offset, 5000); /* from memory */
		pb_write stat = write_message(STAT, 0, NULL, 0);
		assert_int_equal(with_stat ? ask(&call, &stat, &a)
					   : commit_at(&call, 5000, 5000, digest, &a),
				 CAIRN_DATA_LOSS);
		assert_int_equal(get_info(n, digest, NULL), CAIRN_NOT_FOUND);
		/* The next pull downloads. */
		OK(start_write(n, ref, 5000, &call, &a));
		assert_int_equal(a.offset, 0);
		OK(end_write(&call));
		OK(put_blob(n, ref, data, sizeof(data)));
		OK(delete_blob(n, digest));
	}
}

/* ---- Read -------------------------------------------------------------------------------------*/

static void read__clips_ranges_as_containerd_does(void **state)
{
	struct node *n = *state;
	uint8_t data[1000], buf[2000];
	fill_bytes(data, sizeof(data), 17);
	OK(put_blob(n, "r", data, sizeof(data)));
	const char *digest = digest_text(data, 1000);
	static const struct {
		int64_t offset, size;
		size_t from, len;
	} cases[] = {
		{0, 0, 0, 1000},	 {0, 7, 0, 7},
		{10, 20, 10, 20},	 {-5, 3, 0, 3},
		{990, 100, 990, 10},	 {500, -1, 500, 500},
		{1000, 0, 1000, 0},	 {1000, 10, 1000, 0},
		{0, INT64_MAX, 0, 1000}, {1, INT64_MAX, 1, 999},
		{INT64_MIN, 0, 0, 1000}, {999, INT64_MAX, 999, 1},
	};
	for (size_t i = 0; i < CAIRN_LEN(cases); i++) {
		size_t len = 0;
		OK(read_blob(n, digest, cases[i].offset, cases[i].size, buf, sizeof(buf), &len,
			     NULL));
		assert_int_equal(len, cases[i].len);
		assert_memory_equal(buf, data + cases[i].from, len);
	}
	size_t len = 0;
	assert_int_equal(read_blob(n, digest, 1001, 0, buf, sizeof(buf), &len, NULL),
			 CAIRN_OUT_OF_RANGE);
	assert_int_equal(read_blob(n, digest, INT64_MAX, INT64_MAX, buf, sizeof(buf), &len, NULL),
			 CAIRN_OUT_OF_RANGE);
	assert_int_equal(read_blob(n, NO_DIGEST, 0, 0, buf, sizeof(buf), &len, NULL),
			 CAIRN_NOT_FOUND);
	assert_int_equal(read_blob(n, "nonsense", 0, 0, buf, sizeof(buf), &len, NULL),
			 CAIRN_INVALID_ARGUMENT);
}

static void read__streams_a_large_blob_in_pieces(void **state)
{
	struct node *n = *state;
	size_t size = (10u << 20) + 12345, len = 0;
	uint8_t *data = fill_bytes(malloc(size), size, 18), *buf = malloc(size);
	int messages = 0;
	OK(put_blob(n, "r", data, size));
	const char *digest = digest_text(data, size);
	OK(read_blob(n, digest, 0, 0, buf, size, &len, &messages));
	assert_int_equal(len, size);
	assert_memory_equal(buf, data, size);
	assert_true(messages >= 4);
	/* Ranges across the borders of windows and pieces. */
	for (size_t at = (3u << 20) - 7; at < size; at += (1u << 20)) {
		OK(read_blob(n, digest, (int64_t)at, 32768, buf, size, &len, NULL));
		assert_int_equal(len, size - at < 32768 ? size - at : 32768);
		assert_memory_equal(buf, data + at, len);
	}
	free(data);
	free(buf);
}

static void flip_a_byte(struct node *n, const char *digest)
{
	char path[300];
	snprintf(path, sizeof(path), "%s/blobs/sha256/%s", n->dir, digest + 7);
	chmod(path, 0600);
	FILE *f = fopen(path, "r+b");
	assert_non_null(f);
	int c = fgetc(f);
	fseek(f, 0, SEEK_SET);
	fputc(c ^ 1, f);
	fclose(f);
}

static void read__never_serves_damage(void **state)
{
	struct node *n = *state;
	size_t size = 3u << 20, len = 0;
	uint8_t *data = fill_bytes(malloc(size), size, 19), *buf = malloc(size);
	OK(put_blob(n, "r", data, size));
	char digest[CAIRN_DIGEST_STR];
	strcpy(digest, digest_text(data, size));
	node_close(n); /* so that nothing is verified or open any more */
	flip_a_byte(n, digest);
	node_open_store(n);
	node_serve(n);
	assert_int_equal(read_blob(n, digest, 0, 1000, buf, size, &len, NULL), CAIRN_DATA_LOSS);
	assert_int_equal(len, 0);
	assert_non_null(strstr(node_err.msg, digest));
	OK(get_info(n, digest, NULL)); /* recorded, so still announced */
	/* A commit of the right bytes heals it; for the client it was always there. */
	assert_int_equal(put_blob(n, "again", data, size), CAIRN_ALREADY_EXISTS);
	OK(read_blob(n, digest, 0, 0, buf, size, &len, NULL));
	assert_int_equal(len, size);
	assert_memory_equal(buf, data, size);
	free(data);
	free(buf);
}

/* ---- List, Status, ListStatuses ---------------------------------------------------------------*/

typedef Containerd__Services__Content__V1__ListContentResponse pb_list;

/* Walk; *ret counts infos. each may be NULL. */
static enum cairn_code list(struct node *n, const char *filter, size_t *ret, size_t *ret_max_batch,
			    void (*each)(struct node *n, const char *digest))
{
	Containerd__Services__Content__V1__ListContentRequest req =
		CONTAINERD__SERVICES__CONTENT__V1__LIST_CONTENT_REQUEST__INIT;
	char *filters[1] = {(char *)(uintptr_t)filter};
	struct cairn_call *call = NULL;
	struct cairn_err ignored;
	if (filter != NULL) {
		req.filters = filters;
		req.n_filters = 1;
	}
	OK(cairn_channel_open(n->channel, METHOD("List"), NULL, 0, 20000, &call, &node_err));
	(void)!cairn_call_send(call, &req.base, &ignored);
	(void)!cairn_call_half_close(call, &ignored);
	struct cairn_msg *msg = NULL;
	*ret = *ret_max_batch = 0;
	while (cairn_call_recv(call, &msg) == CAIRN_RECV_MSG) {
		ProtobufCMessage *pb = NULL;
		OK(cairn_msg_unpack(call, msg, TYPE_OF(list_content_response), &pb, &node_err));
		cairn_msg_free(msg);
		const pb_list *l = (const void *)pb;
		*ret += l->n_info;
		if (l->n_info > *ret_max_batch) *ret_max_batch = l->n_info;
		for (size_t i = 0; i < l->n_info && each != NULL; i++) {
			assert_true(time_ns(l->info[i]->created_at) != 0);
			each(n, l->info[i]->digest);
		}
	}
	return cairn_call_finish(call, &node_err);
}

static void delete_it(struct node *n, const char *digest)
{
	OK(delete_blob(n, digest));
}

static void no_check(struct node *n, const char *digest)
{
	(void)n, (void)digest; /* the walk has looked at the times */
}

static void list__shows_referenced_blobs_in_batches(void **state)
{
	struct node *n = *state;
	uint8_t data[16];
	size_t count = 0, batch = 0;
	OK(list(n, NULL, &count, &batch, NULL));
	assert_int_equal(count, 0);
	for (unsigned i = 0; i < 230; i++) {
		fill_bytes(data, sizeof(data), 1000 + i);
		OK(put_blob(n, pull_ref("a", data, sizeof(data)), data, sizeof(data)));
		if (i < 10) OK(delete_blob(n, digest_text(data, sizeof(data))));
	}
	OK(list(n, NULL, &count, &batch, NULL));
	assert_int_equal(count, 220);
	assert_int_equal(batch, 100);
	char filter[200];
	snprintf(filter, sizeof(filter), "digest==%s", digest_text(data, sizeof(data)));
	OK(list(n, filter, &count, &batch, NULL));
	assert_int_equal(count, 1);
	OK(list(n, "labels.foo", &count, &batch, NULL));
	assert_int_equal(count, 0);
	OK(list(n, "digest~=^sha256:[0-9a-f]{64}$", &count, &batch, NULL));
	assert_int_equal(count, 220);
	assert_int_equal(list(n, "digest=", &count, &batch, NULL), CAIRN_INVALID_ARGUMENT);
	/* containerd deletes inside its walk. */
	OK(list(n, NULL, &count, &batch, delete_it));
	assert_int_equal(count, 220);
	OK(list(n, NULL, &count, &batch, NULL));
	assert_int_equal(count, 0);
}

/* Go refuses negative nanoseconds, and with them the whole List: containerd's GC would never end.
 */
static void list__of_a_file_older_than_1970_has_valid_times(void **state)
{
	struct node *n = *state;
	char path[256];
	size_t count = 0, batch = 0;
	OK(put_blob(n, "r", "old", 3));
	node_close(n);
	snprintf(path, sizeof(path), "%s/blobs/sha256/%s", n->dir, digest_text("old", 3) + 7);
	const struct timespec times[2] = {{-2, 500000000}, {-2, 500000000}};
	assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
	snprintf(path, sizeof(path), "%s/index.db", n->dir);
	assert_int_equal(unlink(path), 0);
	node_open_store(n);
	node_serve(n);
	OK(list(n, NULL, &count, &batch, no_check));
	assert_int_equal(count, 1);
}

static void statuses__show_ingests(void **state)
{
	struct node *n = *state;
	uint8_t data[16];
	struct cairn_call *one = NULL, *two = NULL;
	struct answer a;
	OK(start_write(n, "ns/1/one", 16, &one, NULL));
	OK(write_at(&one, 0, fill_bytes(data, 16, 20), 10, &a));
	OK(start_write(n, "ns/1/two", 0, &two, NULL));
	Containerd__Services__Content__V1__StatusRequest req =
		CONTAINERD__SERVICES__CONTENT__V1__STATUS_REQUEST__INIT;
	pb_status_response *st = NULL;
	req.ref = (char[]){"ns/1/one"}; /* while its stream is open */
	OK(unary(n, METHOD("Status"), &req.base, TYPE_OF(status_response), &st));
	assert_string_equal(st->status->ref, "ns/1/one");
	assert_int_equal(st->status->offset, 10);
	assert_int_equal(st->status->total, 16);
	assert_true(time_ns(st->status->started_at) == a.started_ns);
	assert_true(time_ns(st->status->updated_at) == a.updated_ns);
	protobuf_c_message_free_unpacked(&st->base, NULL);
	req.ref = (char[]){"ns/1/three"};
	assert_int_equal(unary(n, METHOD("Status"), &req.base, TYPE_OF(status_response), NULL),
			 CAIRN_NOT_FOUND);
	static const struct {
		const char *filter;
		size_t n;
	} cases[] = {{NULL, 2}, {"", 2}, {"ref==ns/1/two", 1}, {"ref~=one|two", 2}, {"digest", 0}};
	for (size_t i = 0; i < CAIRN_LEN(cases); i++) {
		Containerd__Services__Content__V1__ListStatusesRequest lreq =
			CONTAINERD__SERVICES__CONTENT__V1__LIST_STATUSES_REQUEST__INIT;
		char *filters[1] = {(char *)(uintptr_t)cases[i].filter};
		lreq.filters = filters;
		lreq.n_filters = cases[i].filter != NULL;
		pb_statuses *list = NULL;
		OK(unary(n, METHOD("ListStatuses"), &lreq.base, TYPE_OF(list_statuses_response),
			 &list));
		assert_int_equal(list->n_statuses, cases[i].n);
		protobuf_c_message_free_unpacked(&list->base, NULL);
	}
	OK(end_write(&one));
	OK(end_write(&two));
}

/* ---- Update -----------------------------------------------------------------------------------*/

static enum cairn_code update(struct node *n, const char *digest, const char *path, const char *key,
			      const char *value, pb_updated **ret)
{
	Containerd__Services__Content__V1__UpdateRequest req =
		CONTAINERD__SERVICES__CONTENT__V1__UPDATE_REQUEST__INIT;
	Containerd__Services__Content__V1__Info info =
		CONTAINERD__SERVICES__CONTENT__V1__INFO__INIT;
	Cairn__Wire__FieldMask mask = CAIRN__WIRE__FIELD_MASK__INIT;
	Cairn__Wire__Label label = CAIRN__WIRE__LABEL__INIT, *labels[1] = {&label};
	char *paths[1] = {(char *)(uintptr_t)path};
	info.digest = (char *)(uintptr_t)digest;
	if (key != NULL) {
		label.key = (char *)(uintptr_t)key;
		label.value = (char *)(uintptr_t)value;
		info.labels = labels;
		info.n_labels = 1;
	}
	if (path != NULL) {
		mask.paths = paths;
		mask.n_paths = 1;
		req.update_mask = &mask;
	}
	req.info = &info;
	return unary(n, METHOD("Update"), &req.base, TYPE_OF(update_response), ret);
}

static void update__follows_the_mask(void **state)
{
	struct node *n = *state;
	uint8_t data[16];
	const char *digest = digest_text(fill_bytes(data, 16, 21), 16);
	pb_updated *u = NULL;
	assert_int_equal(update(n, digest, NULL, "a", "1", NULL), CAIRN_NOT_FOUND);
	OK(put_blob(n, "r", data, 16));
	n->skew_ns += CAIRN_NS_PER_S;
	OK(update(n, digest, NULL, "a", "1", &u)); /* no mask: all labels */
	assert_int_equal(u->info->n_labels, 1);
	int64_t created = time_ns(u->info->created_at), updated = time_ns(u->info->updated_at);
	assert_true(updated >= created + CAIRN_NS_PER_S);
	protobuf_c_message_free_unpacked(&u->base, NULL);
	OK(update(n, digest, "labels.b.c", "b.c", "2", &u)); /* dots belong to the key */
	assert_int_equal(u->info->n_labels, 2);
	assert_true(time_ns(u->info->created_at) == created);
	protobuf_c_message_free_unpacked(&u->base, NULL);
	OK(update(n, digest, "labels.a", NULL, NULL, &u)); /* named and absent: gone */
	assert_int_equal(u->info->n_labels, 1);
	assert_string_equal(u->info->labels[0]->key, "b.c");
	protobuf_c_message_free_unpacked(&u->base, NULL);
	OK(update(n, digest, "labels", NULL, NULL, &u));
	assert_int_equal(u->info->n_labels, 0);
	protobuf_c_message_free_unpacked(&u->base, NULL);
	assert_int_equal(update(n, digest, "size", NULL, NULL, NULL), CAIRN_INVALID_ARGUMENT);
	assert_int_equal(update(n, digest, NULL, "k\xff", "v", NULL), CAIRN_INVALID_ARGUMENT);
	assert_int_equal(update(n, "x", NULL, NULL, NULL, NULL), CAIRN_INVALID_ARGUMENT);
	OK(delete_blob(n, digest));
	assert_int_equal(update(n, digest, NULL, "a", "1", NULL), CAIRN_NOT_FOUND);
	Containerd__Services__Content__V1__UpdateRequest req =
		CONTAINERD__SERVICES__CONTENT__V1__UPDATE_REQUEST__INIT; /* without info */
	assert_int_equal(unary(n, METHOD("Update"), &req.base, TYPE_OF(update_response), NULL),
			 CAIRN_INVALID_ARGUMENT);
}

/* ---- ends and bad input -----------------------------------------------------------------------*/

static void drain__ends_idle_streams_and_keeps_their_data(void **state)
{
	struct node *n = *state;
	uint8_t data[64];
	struct cairn_call *calls[50];
	char ref[64];
	fill_bytes(data, 64, 22);
	for (int i = 0; i < 50; i++) {
		snprintf(ref, sizeof(ref), "idle/1/%d", i);
		OK(start_write(n, ref, 64, &calls[i], NULL));
		OK(write_at(&calls[i], 0, data, 32, NULL));
	}
	int64_t before = cairn_boot_ns(&cairn_clock_system);
	assert_int_equal(node_drain(n, 300), 50); /* a stream may still come to its end till then */
	assert_true(cairn_boot_ns(&cairn_clock_system) - before < 5 * CAIRN_NS_PER_S);
	for (int i = 0; i < 50; i++) {
		struct cairn_err ignored;
		assert_int_not_equal(cairn_call_finish(calls[i], &ignored), CAIRN_OK);
	}
	node_close(n);
	node_open_store(n);
	node_serve(n);
	struct answer a;
	OK(start_write(n, "idle/1/49", 64, &calls[0], &a));
	assert_int_equal(a.offset, 32);
	assert_string_equal(a.digest, digest_text(data, 32));
	OK(end_write(&calls[0]));
}

static void any_method__survives_random_messages(void **state)
{
	struct node *n = *state;
	static const char *const paths[] = {
		METHOD("Info"),	  METHOD("Update"),	  METHOD("List"),
		METHOD("Delete"), METHOD("Read"),	  METHOD("Status"),
		METHOD("Abort"),  METHOD("ListStatuses"), METHOD("Write"),
	};
	unsigned seed = (unsigned)time(NULL);
	print_message("seed %u\n", seed);
	srandom(seed);
	for (int i = 0; i < 900; i++) {
		uint8_t bytes[40];
		size_t len = 3 + (size_t)random() % (sizeof(bytes) - 3);
		for (size_t k = 0; k < len; k++) bytes[k] = (uint8_t)random();
		enum cairn_code rc = send_raw(n, paths[i % CAIRN_LEN(paths)], bytes, len);
		if (rc != CAIRN_OK && rc != CAIRN_INVALID_ARGUMENT && rc != CAIRN_NOT_FOUND) {
			fail_msg("%s: %s: %s", paths[i % CAIRN_LEN(paths)], cairn_code_name(rc),
				 node_err.msg);
		}
	}
	uint8_t data[16];
	OK(put_blob(n, "after all", fill_bytes(data, 16, 23), 16));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(info__answers_for_referenced_blobs_only),
		TEST(any_method__refuses_zero_bytes_in_strings),
		TEST(delete__of_something_unknown_is_ok),
		TEST(write__refuses_bad_first_messages),
		TEST(write__answers_carry_digest_times_and_total),
		TEST(write__checks_offsets),
		TEST(commit__at_zero_starts_again_unless_all_is_there),
		TEST(write__only_the_first_ref_counts),
		TEST(write__does_not_enforce_total_before_the_commit),
		TEST(commit__keeps_the_data_when_size_or_digest_differ),
		TEST(commit__of_what_exists_says_so_and_frees_the_ref),
		TEST(commit__frees_the_ref_before_it_answers),
		TEST(commit__takes_sha512),
		TEST(commit__under_another_algorithm_leaves_others_alone),
		TEST(write__busy_ref_is_unavailable_and_soon_so),
		TEST(cancel__frees_the_ref_within_10_ms),
		TEST(write__half_close_keeps_data_and_times),
		TEST(abort__ends_an_open_stream_at_its_next_message),
		TEST(write__labels_of_a_commit_are_kept),
		TEST(write__takes_16_mib_messages),
		TEST(prefill__opens_complete_and_commits_without_data),
		TEST(prefill__only_for_a_pull_of_that_digest_and_size),
		cmocka_unit_test(prefill__follows_the_configuration),
		TEST(prefill__writing_starts_a_private_ingest),
		TEST(prefill__is_confirmed_outside_of_the_opening_stat),
		TEST(read__clips_ranges_as_containerd_does),
		TEST(read__streams_a_large_blob_in_pieces),
		TEST(read__never_serves_damage),
		TEST(list__shows_referenced_blobs_in_batches),
		TEST(list__of_a_file_older_than_1970_has_valid_times),
		TEST(statuses__show_ingests),
		TEST(update__follows_the_mask),
		TEST(drain__ends_idle_streams_and_keeps_their_data),
		TEST(any_method__survives_random_messages),
	};
	return cmocka_run_group_tests_name("plugin/content", tests, NULL, NULL);
}
