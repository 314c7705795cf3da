/* Whatever a peer answers that is asked for a blob: nothing of it is believed that does not prove,
 * and the want ends. A frame of type 'S' stands for a good Description with that state and list. */
#include "tests/fuzz/peer.h"

static struct cairn_listener *listener;
static struct cairn_hello hello = {.instance = {1}};
static const uint8_t *answer;
static size_t answer_size;

static bool send_frame(struct cairn_conn *conn, const struct cairn_frame *frame,
		       const uint8_t *payload)
{
	struct cairn_err err;
	if (frame->type == 'S' && frame->len >= 2) {
		Cairn__Peer__V1__Description msg;
		uint32_t have[2] = {payload[1] & 3, payload[1] >> 2};
		cairn__peer__v1__description__init(&msg);
		msg.state = (Cairn__Peer__V1__State)(payload[0] & 7);
		msg.proven = (payload[0] & 8) != 0;
		msg.originator = hello.address;
		msg.list.len = (frame->len - 2) / 32 * 32;
		msg.list.data = msg.list.len > 0 ? malloc(msg.list.len) : NULL;
		if (msg.list.len > 0) memcpy(msg.list.data, payload + 2, msg.list.len);
		msg.have = have;
		msg.n_have = (payload[0] & 16) != 0 ? 2 : 0;
		bool ok = cairn_conn_send_message(conn, CAIRN_FRAME_DESCRIPTION, &msg.base, 1000,
						  &err) == CAIRN_OK;
		free(msg.list.data);
		return ok;
	}
	return cairn_conn_send_head(conn, frame, 1000, &err) == CAIRN_OK &&
	       (frame->len == 0 ||
		cairn_conn_send(conn, payload, frame->len, 1000, &err) == CAIRN_OK);
}

/* All answers at the first question; then it hangs up. */
static void serve(void *arg, struct cairn_conn *conn)
{
	struct input in = {answer, answer_size};
	struct cairn_frame frame;
	const uint8_t *payload;
	struct cairn_err err;
	(void)arg;
	if (cairn_conn_wait(conn, -1, 2000) != CAIRN_CONN_READABLE) return;
	for (int i = 0; i < FRAMES_MAX && next_frame(&in, &frame, &payload); i++) {
		if (!send_frame(conn, &frame, payload)) return;
	}
	if (cairn_conn_flush(conn, 1000, &err) != CAIRN_OK) return;
}

static void stop_listener(void)
{
	cairn_listener_free(listener);
}

static void start(void)
{
	struct cairn_err err;
	struct cairn_listener_opts opts = {.listen = "127.0.0.1:0", .own = &hello, .serve = serve};
	start_swarm();
	FUZZ_CHECK(cairn_listener_new(&opts, &listener, &err) == CAIRN_OK);
	snprintf(hello.address, sizeof(hello.address), "127.0.0.1:%d",
		 cairn_listener_port(listener));
	FUZZ_CHECK(cairn_listener_run(listener, &err) == CAIRN_OK);
	atexit(stop_listener);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint64_t number; /* who lied about a digest is not asked for it again */
	enum cairn_want_state state;
	if (size < 1) return 0;
	if (swarm == NULL) start();
	struct cairn_digest digest = {.alg = CAIRN_SHA256};
	number++;
	memcpy(digest.bytes, &number, sizeof(number));
	uint64_t blob = data[0] < 128 ? data[0] + 1u : (uint64_t)(data[0] - 127) << 19;
	answer = data + 1;
	answer_size = size - 1;
	struct cairn_directory *peer = cairn_memory_directory(mem, hello.address);
	peer->ops->announce(peer, &digest, 1);
	struct cairn_want *want = cairn_swarm_want(swarm, &digest, blob, false);
	for (int ms = 0; ms < 10000; ms++) {
		state = cairn_want_look(want, NULL, NULL);
		if (state == CAIRN_WANT_HERE || state == CAIRN_WANT_FAILED) break;
		usleep(1000);
	}
	FUZZ_CHECK(state == CAIRN_WANT_FAILED);
	cairn_want_release(want);
	peer->ops->close(peer, 0);
	return 0;
}
