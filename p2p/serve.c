#include "p2p/serve.h"

#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "p2p/call.h"
#include "p2p/serving.h"
#include "p2p/static.h"

#define IO_MS 10000 /* a frame that began, or the room to send one */
/* Longer than a client keeps a connection that it does not use. */
#define IDLE_MS (2 * CAIRN_POOL_IDLE_MS)
#define DESCRIBED_IDLE_MS 600000 /* of whom nothing is heard, who waits for news of more pieces */
#define NEWS_MS 20		 /* between two news: pieces that came meanwhile go together */
#define PART_BYTES (128u << 10)
#define PART_MIN_BYTES (8u << 10)

/* The connection of somebody who asks. */
struct asker {
	struct cairn_swarm *swarm;
	struct cairn_conn *conn;
	int wake_fd;
	struct cairn_upload *upload; /* NULL: nothing is described */
	bool woken;
	int64_t told_ms;
	int64_t heard_ms; /* or served, or told that all is here */
	uint8_t *buf;	  /* PART_BYTES, while something is described */
};

static bool send_description(struct asker *a, const Cairn__Peer__V1__Description *msg)
{
	struct cairn_err err;
	return cairn_conn_send_message(a->conn, CAIRN_FRAME_DESCRIPTION, &msg->base, IO_MS, &err) ==
	       CAIRN_OK;
}

static void forget(struct asker *a)
{
	cairn_upload_end(a->upload);
	a->upload = NULL;
	free(a->buf);
	a->buf = NULL;
}

/* ---- Describe and news ------------------------------------------------------------------ */

/* The blob itself, if it is small, whole, and wanted so. */
static void put_inline(struct asker *a, uint32_t max, Cairn__Peer__V1__Description *msg,
		       struct cairn_view *view)
{
	uint64_t size = a->upload->serving->size;
	if (msg->state != CAIRN__PEER__V1__STATE__WHOLE || size > max || size > CAIRN_INLINE_MAX) {
		return;
	}
	if (!cairn_upload_read(a->upload, 0, 0, (size_t)size, a->buf, view) || view->len != size) {
		return;
	}
	msg->data.data = (uint8_t *)(uintptr_t)view->data;
	msg->data.len = view->len;
}

/* Whatever there is to say: true, unless the connection is lost. */
static bool tell(struct asker *a, uint32_t inline_max)
{
	Cairn__Peer__V1__Description msg;
	struct cairn_view view = {0};
	void *memory = NULL;
	int64_t now_ms = cairn_swarm_now_ms();
	bool was_whole = a->upload->told_whole;
	a->woken = false;
	cairn__peer__v1__description__init(&msg);
	if (!cairn_upload_news(a->upload, now_ms, &msg, &memory)) return true;
	a->told_ms = now_ms;
	if (a->upload->told_whole && !was_whole) a->heard_ms = now_ms;
	if (inline_max > 0) put_inline(a, inline_max, &msg, &view);
	bool ok = send_description(a, &msg);
	if (msg.data.len > 0) {
		cairn_upload_sent(a->upload, 0, msg.data.len, true, now_ms);
		atomic_fetch_add(&a->swarm->count.to_peers_bytes, msg.data.len);
		cairn_peers_to(a->swarm->peers, cairn_conn_address(a->conn), msg.data.len, now_ms);
	}
	bool over = msg.state == CAIRN__PEER__V1__STATE__ABSENT ||
		    msg.state == CAIRN__PEER__V1__STATE__WRONG;
	cairn_view_release(&view);
	free(memory);
	if (over) forget(a);
	return ok;
}

static bool is_absent(struct asker *a)
{
	Cairn__Peer__V1__Description msg;
	cairn__peer__v1__description__init(&msg);
	msg.state = CAIRN__PEER__V1__STATE__ABSENT;
	return send_description(a, &msg);
}

/* He finds others, who have room. */
static bool is_busy(struct asker *a, struct cairn_others *others)
{
	Cairn__Peer__V1__Description msg;
	cairn__peer__v1__description__init(&msg);
	msg.state = CAIRN__PEER__V1__STATE__BUSY;
	msg.retry_ms = CAIRN_BUSY_RETRY_MS;
	msg.n_others = others->n;
	msg.others = others->words;
	return send_description(a, &msg);
}

static bool on_describe(struct asker *a, const Cairn__Peer__V1__Describe *ask)
{
	struct cairn_swarm *swarm = a->swarm;
	struct cairn_digest digest;
	struct cairn_others others;
	struct cairn_err ignored;
	forget(a);
	if (cairn_digest_parse(ask->digest, strlen(ask->digest), &digest, &ignored) != CAIRN_OK ||
	    cairn_piece_count(ask->size) == 0 || atomic_load(&swarm->cancelled) ||
	    !cairn_swarm_may_share(swarm, &digest)) {
		return is_absent(a);
	}
	a->upload = cairn_upload_begin(swarm, &digest, ask->size, cairn_conn_address(a->conn),
				       a->wake_fd, &others);
	if (a->upload == NULL) return is_busy(a, &others);
	a->buf = malloc(PART_BYTES);
	if (a->buf == NULL) abort();
	bool ok = tell(a, ask->inline_max);
	/* He came because the directory says that we have it. */
	if (a->upload == NULL) cairn_swarm_reconsider(swarm, &digest);
	return ok;
}

/* ---- Get -------------------------------------------------------------------------------- */

static void put_be32(uint8_t *p, uint32_t value)
{
	for (int i = 0; i < 4; i++) p[i] = (uint8_t)(value >> (24 - 8 * i));
}

static bool send_piece_head(struct asker *a, uint32_t piece, uint32_t status, uint64_t length)
{
	struct cairn_err err;
	const struct cairn_frame frame = {.type = CAIRN_FRAME_PIECE,
					  .len = (uint32_t)(CAIRN_PIECE_HEAD + length)};
	uint8_t head[CAIRN_PIECE_HEAD];
	put_be32(head, piece);
	put_be32(head + 4, status);
	return cairn_conn_send_head(a->conn, &frame, IO_MS, &err) == CAIRN_OK &&
	       cairn_conn_send(a->conn, head, sizeof(head), IO_MS, &err) == CAIRN_OK;
}

static size_t part_bytes(const struct cairn_swarm *swarm)
{
	uint64_t n = atomic_load(&swarm->up.rate) / 16; /* so that no wait is long */
	if (n == 0 || n > PART_BYTES) n = PART_BYTES;
	return n < PART_MIN_BYTES ? PART_MIN_BYTES : (size_t)n;
}

static void count_part(struct asker *a, uint32_t piece, size_t n, bool last)
{
	struct cairn_swarm *swarm = a->swarm;
	int64_t now_ms = cairn_swarm_now_ms();
	cairn_upload_sent(a->upload, piece, n, last, now_ms);
	atomic_fetch_add(&swarm->count.to_peers_bytes, n);
	cairn_peers_to(swarm->peers, cairn_conn_address(a->conn), n, now_ms);
	int64_t wait_ns = cairn_rate_take(&swarm->up, n, cairn_boot_ns(&cairn_clock_system));
	if (wait_ns > 0) cairn_swarm_pause(swarm, wait_ns);
}

/* The head goes once its first bytes are in our hands; if later ones are not to be had, nothing but
 * the end of the connection can say so. */
static bool send_piece(struct asker *a, uint32_t piece)
{
	const struct cairn_serving *s = a->upload->serving;
	uint64_t length = cairn_piece_length(s->size, piece);
	uint64_t start = (uint64_t)piece * cairn_piece_size(s->size);
	size_t part = part_bytes(a->swarm);
	struct cairn_err err;
	for (uint64_t done = 0; done < length;) {
		struct cairn_view view;
		size_t n = length - done < part ? (size_t)(length - done) : part;
		if (!cairn_upload_read(a->upload, piece, start + done, n, a->buf, &view)) {
			cairn_upload_lost(a->upload, piece);
			return done == 0 && send_piece_head(a, piece, 1, 0);
		}
		n = view.len;
		bool ok = done > 0 || send_piece_head(a, piece, 0, length);
		ok = ok && cairn_conn_send(a->conn, view.data, n, IO_MS, &err) == CAIRN_OK;
		cairn_view_release(&view);
		if (!ok) return false;
		done += n;
		count_part(a, piece, n, done == length);
	}
	return true;
}

static bool on_get(struct asker *a, const Cairn__Peer__V1__Get *get)
{
	if (a->upload == NULL || atomic_load(&a->swarm->cancelled)) {
		return send_piece_head(a, get->piece, 1, 0);
	}
	if (get->piece >= a->upload->serving->count) return false;
	return send_piece(a, get->piece);
}

/* ---- the directory ---------------------------------------------------------------------- */

static bool on_directory(struct asker *a, const Cairn__Peer__V1__DirectoryRequest *req)
{
	struct cairn_err err;
	if (!a->swarm->is_static) {
		Cairn__Peer__V1__DirectoryResponse no;
		cairn__peer__v1__directory_response__init(&no);
		no.code = CAIRN_UNIMPLEMENTED;
		no.message = (char *)(uintptr_t) "this node's directory is not static";
		return cairn_conn_send_message(a->conn, CAIRN_FRAME_DIRECTORY_RESPONSE, &no.base,
					       IO_MS, &err) == CAIRN_OK;
	}
	struct cairn_static_reply reply;
	cairn_static_answer(a->swarm->dir, cairn_conn_address(a->conn), req, &reply);
	return cairn_conn_send_message(a->conn, CAIRN_FRAME_DIRECTORY_RESPONSE, &reply.msg.base,
				       IO_MS, &err) == CAIRN_OK;
}

/* ---- the conversation ------------------------------------------------------------------- */

static const ProtobufCMessageDescriptor *type_of(const struct cairn_frame *frame)
{
	switch (frame->type) {
	case CAIRN_FRAME_DESCRIBE:
		return &cairn__peer__v1__describe__descriptor;
	case CAIRN_FRAME_GET:
		return &cairn__peer__v1__get__descriptor;
	case CAIRN_FRAME_CALL:
		return &cairn__peer__v1__call__descriptor;
	case CAIRN_FRAME_DIRECTORY_REQUEST:
		return &cairn__peer__v1__directory_request__descriptor;
	default:
		return NULL; /* not one that a client sends */
	}
}

/* One frame; false: the connection is over. */
static bool on_frame(struct asker *a)
{
	struct cairn_frame frame;
	struct cairn_err err;
	ProtobufCMessage *msg;
	if (cairn_conn_read_head(a->conn, IO_MS, &frame, &err) != CAIRN_OK) return false;
	if (frame.type == CAIRN_FRAME_LEAVE && frame.len == 0) {
		forget(a); /* and nothing more comes of it */
		return cairn_conn_send_head(a->conn, &frame, IO_MS, &err) == CAIRN_OK;
	}
	const ProtobufCMessageDescriptor *type = type_of(&frame);
	if (type == NULL ||
	    cairn_conn_read_message(a->conn, &frame, type, IO_MS, &msg, &err) != CAIRN_OK) {
		return false;
	}
	bool ok;
	if (frame.type == CAIRN_FRAME_DESCRIBE) {
		ok = on_describe(a, (Cairn__Peer__V1__Describe *)msg);
	} else if (frame.type == CAIRN_FRAME_GET) {
		ok = on_get(a, (Cairn__Peer__V1__Get *)msg);
	} else if (frame.type == CAIRN_FRAME_CALL) {
		ok = cairn_call_answer(a->swarm, a->conn, (Cairn__Peer__V1__Call *)msg, IO_MS);
	} else {
		ok = on_directory(a, (Cairn__Peer__V1__DirectoryRequest *)msg);
	}
	protobuf_c_message_free_unpacked(msg, NULL);
	return ok;
}

/* How long he may say nothing. Who gets a blob that grows waits for pieces, perhaps for long. Who
 * was told that all is here has nothing to wait for: if he asks for nothing, others have what he
 * needs, and his place is of more use to somebody else. */
static int64_t idle_ms(const struct asker *a)
{
	if (a->upload == NULL) return IDLE_MS;
	return a->upload->told_whole ? a->swarm->whole_idle_ms : DESCRIBED_IDLE_MS;
}

/* He has said nothing for that long. With nothing to lose but his place, he keeps the connection:
 * he may come again. */
static bool on_idle(struct asker *a)
{
	struct cairn_others nobody = {0};
	if (a->upload == NULL || !a->upload->told_whole) return false;
	forget(a);
	return is_busy(a, &nobody);
}

/* How long nothing may happen before there is something to do. */
static int64_t patience(struct asker *a, int64_t now_ms)
{
	int64_t end_ms = a->heard_ms + idle_ms(a);
	if (a->upload != NULL) {
		int64_t next_ms = cairn_upload_next_ms(a->upload, now_ms);
		if (a->woken) next_ms = a->told_ms + NEWS_MS;
		if (next_ms < end_ms) end_ms = next_ms;
	}
	return end_ms > now_ms ? end_ms - now_ms : 0;
}

static bool step(struct asker *a)
{
	int64_t now_ms = cairn_swarm_now_ms();
	eventfd_t ignored;
	enum cairn_conn_ready ready =
		cairn_conn_wait(a->conn, a->woken ? -1 : a->wake_fd, patience(a, now_ms));
	now_ms = cairn_swarm_now_ms();
	if (ready == CAIRN_CONN_READABLE) {
		if (!on_frame(a)) return false;
		a->heard_ms = cairn_swarm_now_ms(); /* a slow piece is not his silence */
	} else if (ready == CAIRN_CONN_TIMEOUT) {
		if (now_ms - a->heard_ms >= idle_ms(a)) return on_idle(a);
		a->woken = true;
	}
	if (eventfd_read(a->wake_fd, &ignored) == 0) a->woken = true;
	if (a->upload == NULL) {
		a->woken = false;
	} else if (a->woken && cairn_swarm_now_ms() - a->told_ms >= NEWS_MS) {
		return tell(a, 0);
	}
	return true;
}

void cairn_serve(struct cairn_swarm *swarm, struct cairn_conn *conn)
{
	struct asker a = {.swarm = swarm, .conn = conn, .heard_ms = cairn_swarm_now_ms()};
	a.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (a.wake_fd < 0) return; /* no more files: they find another */
	cairn_peers_met(swarm->peers, cairn_conn_address(conn), cairn_conn_certificate(conn));
	while (step(&a)) {
	}
	forget(&a);
	cairn_peers_parted(swarm->peers, cairn_conn_address(conn));
	close(a.wake_fd);
}
