/* Whatever a peer that has connected asks for: the server answers or hangs up, and serves the next
 * one. A frame of type 'D' stands for a good Describe of a blob that is here, 'G' for a Get. */
#include "tests/fuzz/peer.h"

#define BIG ((UINT64_C(1) << 20) + 5)
#define SMALL 3000

static struct cairn_digest digests[2]; /* of zeros: BIG and SMALL of them */

static void add_blob(uint64_t size, struct cairn_digest *ret)
{
	static uint8_t zeros[BIG];
	struct cairn_err err;
	struct cairn_hasher hasher;
	cairn_hasher_init(&hasher, CAIRN_SHA256);
	cairn_hasher_update(&hasher, zeros, size);
	cairn_hasher_digest(&hasher, ret);
	struct cairn_ingest *ing;
	struct cairn_ingest_spec spec = {.ref = "blob", .total = size, .want = *ret};
	struct cairn_span span = {zeros, size};
	FUZZ_CHECK(cairn_ingest_open(cache, &spec, &ing, &err) == CAIRN_OK);
	FUZZ_CHECK(cairn_ingest_write(ing, 0, &span, 1, &err) == CAIRN_OK);
	cairn_ingest_close(ing);
	cairn_cache_abort(cache, "blob");
}

/* Whatever has come is read. False: the server has hung up. */
static bool drain(struct cairn_conn *conn, int64_t wait_ms, bool until_leave)
{
	static uint8_t buf[1 << 16];
	struct cairn_err err;
	struct cairn_frame frame;
	while (cairn_conn_wait(conn, -1, wait_ms) == CAIRN_CONN_READABLE) {
		if (cairn_conn_read_head(conn, 1000, &frame, &err) != CAIRN_OK) return false;
		if (until_leave && frame.type == CAIRN_FRAME_LEAVE) return true;
		for (size_t left = frame.len, n; left > 0; left -= n) {
			n = left < sizeof(buf) ? left : sizeof(buf);
			if (cairn_conn_read_some(conn, buf, n, 1000, &n, &err)) return false;
		}
	}
	return true;
}

static bool send_payload(struct cairn_conn *conn, const struct cairn_frame *frame,
			 const uint8_t *payload)
{
	struct cairn_err err;
	char text[CAIRN_DIGEST_STR];
	uint8_t first = frame->len > 0 ? payload[0] : 0;
	if (frame->type == 'D') {
		Cairn__Peer__V1__Describe ask;
		cairn__peer__v1__describe__init(&ask);
		cairn_digest_format(&digests[first & 1], text);
		ask.digest = text;
		ask.size = ((first & 1) != 0 ? SMALL : BIG) + (first >> 7);
		ask.inline_max = (first & 2) != 0 ? 65536 : 0;
		return cairn_conn_send_message(conn, CAIRN_FRAME_DESCRIBE, &ask.base, 1000, &err) ==
		       CAIRN_OK;
	}
	if (frame->type == 'G') {
		Cairn__Peer__V1__Get get;
		cairn__peer__v1__get__init(&get);
		get.piece = first;
		return cairn_conn_send_message(conn, CAIRN_FRAME_GET, &get.base, 1000, &err) ==
		       CAIRN_OK;
	}
	return cairn_conn_send_head(conn, frame, 1000, &err) == CAIRN_OK &&
	       (frame->len == 0 ||
		cairn_conn_send(conn, payload, frame->len, 1000, &err) == CAIRN_OK);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct cairn_hello hello = {.address = "127.0.0.1:1", .instance = {1}};
	struct input in = {data, size};
	struct cairn_err err;
	struct cairn_frame frame;
	struct cairn_conn *conn;
	const uint8_t *payload;
	if (swarm == NULL) {
		start_swarm();
		add_blob(BIG, &digests[0]);
		add_blob(SMALL, &digests[1]);
	}
	FUZZ_CHECK(cairn_conn_dial(NULL, cairn_swarm_address(swarm), &hello, 5000, &conn, &err) ==
		   CAIRN_OK);
	bool ok = true;
	for (int i = 0; ok && i < FRAMES_MAX && next_frame(&in, &frame, &payload); i++) {
		ok = send_payload(conn, &frame, payload) && drain(conn, 0, false);
	}
	frame = (struct cairn_frame){.type = CAIRN_FRAME_LEAVE};
	ok = ok && cairn_conn_send_head(conn, &frame, 1000, &err) == CAIRN_OK &&
	     drain(conn, 2000, true);
	cairn_conn_free(conn);
	/* What the server still holds is not to be taken for a leak. */
	struct cairn_swarm_stats st;
	for (int ms = 0; ms < 5000; ms++) {
		cairn_swarm_get_stats(swarm, &st);
		if (st.connections_in == 0) break;
		usleep(1000);
	}
	FUZZ_CHECK(st.connections_in == 0);
	return 0;
}
