/* A peer that says it has a blob, and then does not keep to the protocol. */
#ifndef CAIRN_TESTS_SUPPORT_LIAR_H
#define CAIRN_TESTS_SUPPORT_LIAR_H

#include "support/swarm.h"

#include "peer.pb-c.h"

#define MIB (UINT64_C(1) << 20)

enum lie {
	WRONG_BYTES,
	SHORT,
	ENDLESS,
	WRONG_LIST,
	SILENT,
	HANGS_UP,
	OTHER_PIECE,
	NAMELESS, /* nobody has made its list */
	EMPTY,	  /* it gets the blob for ever, and has nothing of it */
	BUSY,	  /* for ever */
	LOSES,	  /* each piece that it is asked for is not there any more */
	LOSES_ONE,
};

struct liar {
	enum lie lie;
	const struct content *content;
	uint8_t *list;
	struct cairn_listener *listener;
	struct cairn_directory *dir;
	struct cairn_hello hello;
	atomic_int pieces; /* that it was asked for */
	atomic_int lost;
};

static bool lie_description(struct liar *l, struct cairn_conn *conn)
{
	struct cairn_err err;
	Cairn__Peer__V1__Description msg = CAIRN__PEER__V1__DESCRIPTION__INIT;
	uint32_t n = cairn_piece_count(l->content->n) - 1;
	msg.state = CAIRN__PEER__V1__STATE__WHOLE;
	msg.proven = true;
	msg.originator = l->hello.address;
	msg.list.data = l->list;
	msg.list.len = n * 32;
	if (l->lie == NAMELESS) msg.originator = (char *)(uintptr_t) "";
	if (l->lie == EMPTY || l->lie == BUSY) msg.list.len = 0;
	if (l->lie == EMPTY) msg.state = CAIRN__PEER__V1__STATE__GROWS;
	if (l->lie == BUSY) msg.state = CAIRN__PEER__V1__STATE__BUSY;
	if (l->lie == BUSY) msg.retry_ms = 60000;
	return cairn_conn_send_message(conn, CAIRN_FRAME_DESCRIPTION, &msg.base, 5000, &err) ==
	       CAIRN_OK;
}

static bool lie_piece(struct liar *l, struct cairn_conn *conn, uint32_t piece)
{
	struct cairn_err err;
	uint64_t n = cairn_piece_length(l->content->n, piece);
	uint8_t head[8] = {0, 0, 0, (uint8_t)piece}, *bytes = malloc(n + 100);
	memcpy(bytes, l->content->data + piece * MIB, n);
	if (l->lie == WRONG_BYTES) bytes[n / 2] ^= 1;
	if (l->lie == OTHER_PIECE) head[3]++;
	if (l->lie == SHORT) n--;
	if (l->lie == ENDLESS) n += 100;
	if (l->lie == LOSES || (l->lie == LOSES_ONE && piece == 2)) {
		head[7] = 1; /* "it is not there any more" */
		n = 0;
		atomic_fetch_add(&l->lost, 1);
	}
	struct cairn_frame frame = {CAIRN_FRAME_PIECE, (uint32_t)(8 + n)};
	bool ok = cairn_conn_send_head(conn, &frame, 5000, &err) == CAIRN_OK &&
		  cairn_conn_send(conn, head, 8, 5000, &err) == CAIRN_OK &&
		  cairn_conn_send(conn, bytes, n, 5000, &err) == CAIRN_OK;
	free(bytes);
	return ok && l->lie != HANGS_UP;
}

static void lie_serve(void *arg, struct cairn_conn *conn)
{
	struct liar *l = arg;
	struct cairn_err err;
	struct cairn_frame frame;
	ProtobufCMessage *msg;
	for (bool ok = true; ok;) {
		if (cairn_conn_read_head(conn, 60000, &frame, &err) != CAIRN_OK) return;
		if (frame.type == CAIRN_FRAME_LEAVE) {
			ok = cairn_conn_send_head(conn, &frame, 1000, &err) == CAIRN_OK;
			continue;
		}
		bool get = frame.type == CAIRN_FRAME_GET;
		if (cairn_conn_read_message(conn, &frame,
					    get ? &cairn__peer__v1__get__descriptor
						: &cairn__peer__v1__describe__descriptor,
					    5000, &msg, &err) != CAIRN_OK) {
			return;
		}
		if (get) atomic_fetch_add(&l->pieces, 1);
		if (get && l->lie != SILENT) {
			ok = lie_piece(l, conn, ((Cairn__Peer__V1__Get *)msg)->piece);
		} else if (!get) {
			ok = lie_description(l, conn);
		}
		protobuf_c_message_free_unpacked(msg, NULL);
	}
}

static UNUSED void liar_start(struct liar *l, struct cluster *c, const struct content *content)
{
	struct cairn_err err = {0};
	l->content = content;
	uint32_t n = cairn_piece_count(content->n) - 1;
	l->list = malloc(n * 32);
	struct cairn_hasher hasher;
	cairn_hasher_init(&hasher, CAIRN_SHA256);
	for (uint32_t k = 0; k < n; k++) {
		uint8_t state[CAIRN_CHAIN_STATE];
		cairn_hasher_update(&hasher, content->data + k * MIB, MIB);
		cairn_hasher_state(&hasher, state);
		memcpy(l->list + k * 32, state, 32);
	}
	if (l->lie == WRONG_LIST) l->list[32 * (n - 1)] ^= 1;
	struct cairn_listener_opts opts = {
		.listen = "127.0.0.1:0", .own = &l->hello, .serve = lie_serve, .arg = l};
	assert_ok(cairn_listener_new(&opts, &l->listener, &err));
	snprintf(l->hello.address, sizeof(l->hello.address), "127.0.0.1:%d",
		 cairn_listener_port(l->listener));
	l->hello.instance[0] = 1;
	assert_ok(cairn_listener_run(l->listener, &err));
	l->dir = cairn_memory_directory(c->mem, l->hello.address);
	l->dir->ops->announce(l->dir, &content->digest, 1);
}

static UNUSED void liar_stop(struct liar *l)
{
	cairn_listener_free(l->listener);
	l->dir->ops->close(l->dir, 0);
	free(l->list);
}

#endif
