#include "rpc/message.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "rpc/call.h"
#include "rpc/wire.h"

struct cairn_msg {
	grpc_byte_buffer *buffer;
	size_t len, n;
	struct cairn_span spans[]; /* borrowed from buffer */
};

/* ---- received -------------------------------------------------------------------------------- */

struct cairn_msg *cairn_msg_from_buffer(grpc_byte_buffer *buffer)
{
	/* Compressed messages never come this far: all algorithms are disabled (call.h). */
	assert(buffer->type == GRPC_BB_RAW && buffer->data.raw.compression == GRPC_COMPRESS_NONE);
	grpc_slice_buffer *slices = &buffer->data.raw.slice_buffer;
	struct cairn_msg *msg = malloc(sizeof(*msg) + slices->count * sizeof(msg->spans[0]));
	if (msg == NULL) abort();
	msg->buffer = buffer;
	msg->len = 0;
	msg->n = slices->count;
	for (size_t i = 0; i < msg->n; i++) {
		msg->spans[i].data = GRPC_SLICE_START_PTR(slices->slices[i]);
		msg->spans[i].len = GRPC_SLICE_LENGTH(slices->slices[i]);
		msg->len += msg->spans[i].len;
	}
	return msg;
}

void cairn_msg_destroy(struct cairn_msg *msg)
{
	grpc_byte_buffer_destroy(msg->buffer);
	free(msg);
}

size_t cairn_msg_spans(const struct cairn_msg *msg, const struct cairn_span **ret)
{
	*ret = msg->spans;
	return msg->n;
}

size_t cairn_msg_len(const struct cairn_msg *msg)
{
	return msg->len;
}

/* ---- decoding -------------------------------------------------------------------------------- */

struct bounded {
	struct cairn_arena *arena; /* NULL: the heap */
	size_t left;
	bool over; /* the bound was hit */
};

static void *bounded_alloc(void *data, size_t n)
{
	struct bounded *b = data;
	if (n > b->left) {
		b->over = true;
		return NULL;
	}
	b->left -= n;
	void *p = b->arena != NULL ? cairn_arena_alloc(b->arena, n) : malloc(n);
	if (p == NULL) abort();
	return p;
}

static void bounded_free(void *data, void *p)
{
	struct bounded *b = data;
	if (b->arena == NULL) free(p);
}

/* protobuf-c wants one piece. */
static uint8_t *flatten(const struct cairn_msg *msg)
{
	uint8_t *flat = malloc(msg->len + 1);
	if (flat == NULL) abort();
	size_t at = 0;
	for (size_t i = 0; i < msg->n; i++) {
		if (msg->spans[i].len == 0) continue;
		memcpy(flat + at, msg->spans[i].data, msg->spans[i].len);
		at += msg->spans[i].len;
	}
	return flat;
}

/* Is there a NUL inside of a string? protobuf allows it; in C the string would end there, and what
 * is no valid digest would look like one. data is a valid message of that type. */
static bool has_nul(const ProtobufCMessageDescriptor *type, const uint8_t *data, size_t len)
{
	struct cairn_span whole = {.data = data, .len = len};
	struct cairn_wire_reader r;
	struct cairn_wire_field f;
	struct cairn_err ignored;
	bool end = false;
	cairn_wire_init(&r, &whole, 1);
	while (cairn_wire_next(&r, &f, &end, &ignored) == CAIRN_OK && !end) {
		if (f.type != CAIRN_WIRE_BYTES || f.value == 0) continue;
		const ProtobufCFieldDescriptor *d =
			protobuf_c_message_descriptor_get_field(type, f.number);
		const uint8_t *at = data + f.bytes.at;
		if (d == NULL) continue;
		if (d->type == PROTOBUF_C_TYPE_STRING && memchr(at, 0, (size_t)f.value) != NULL) {
			return true;
		}
		/* Our types do not nest in themselves: no input makes this deep. */
		if (d->type == PROTOBUF_C_TYPE_MESSAGE &&
		    has_nul(d->descriptor, at, (size_t)f.value)) {
			return true;
		}
	}
	return false;
}

static enum cairn_code unpack(struct cairn_arena *arena, const struct cairn_msg *msg,
			      const ProtobufCMessageDescriptor *type, ProtobufCMessage **ret,
			      struct cairn_err *err)
{
	struct bounded b = {.arena = arena, .left = CAIRN_RPC_UNPACKED_MAX};
	ProtobufCAllocator allocator = {bounded_alloc, bounded_free, &b};
	uint8_t *flat = msg->n > 1 ? flatten(msg) : NULL;
	const uint8_t *data = flat != NULL ? flat : msg->n == 1 ? msg->spans[0].data : NULL;
	ProtobufCMessage *m = protobuf_c_message_unpack(type, &allocator, msg->len, data);
	/* Who answers us with a NUL harms nobody. */
	bool nul = m != NULL && arena != NULL && has_nul(type, data, msg->len);
	free(flat);
	if (nul) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "a string of the %s received has a NUL byte", type->name);
	}
	if (m != NULL) {
		*ret = m;
		return CAIRN_OK;
	}
	if (b.over) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "a %s of %zu bytes has too many fields: it would take more "
				     "than %zu bytes of memory",
				     type->name, msg->len, CAIRN_RPC_UNPACKED_MAX);
	}
	return cairn_err_set(err, CAIRN_INVALID_ARGUMENT, "the %zu bytes received are no valid %s",
			     msg->len, type->name);
}

enum cairn_code cairn_msg_unpack_arena(struct cairn_arena *arena, const struct cairn_msg *msg,
				       const ProtobufCMessageDescriptor *type,
				       ProtobufCMessage **ret, struct cairn_err *err)
{
	return unpack(arena, msg, type, ret, err);
}

enum cairn_code cairn_msg_unpack_heap(const struct cairn_msg *msg,
				      const ProtobufCMessageDescriptor *type,
				      ProtobufCMessage **ret, struct cairn_err *err)
{
	return unpack(NULL, msg, type, ret, err);
}

/* ---- sent ------------------------------------------------------------------------------------ */

void cairn_buffer_init(grpc_byte_buffer *out)
{
	memset(out, 0, sizeof(*out));
	out->type = GRPC_BB_RAW;
	out->data.raw.compression = GRPC_COMPRESS_NONE;
	grpc_slice_buffer_init(&out->data.raw.slice_buffer);
}

void cairn_buffer_pack(grpc_byte_buffer *out, const ProtobufCMessage *msg, size_t n)
{
	grpc_slice slice = grpc_slice_malloc(n);
	protobuf_c_message_pack(msg, GRPC_SLICE_START_PTR(slice));
	grpc_slice_buffer_add(&out->data.raw.slice_buffer, slice);
}

/* A view on its way to the transport. armed orders what the handler wrote with what the release,
 * on another thread, reads; see cairn_tag_arm. */
struct sent_view {
	struct cairn_view view;
	_Atomic int armed;
};

static void release_sent(void *arg)
{
	struct sent_view *sent = arg;
	(void)atomic_load_explicit(&sent->armed, memory_order_acquire);
	cairn_view_release(&sent->view);
	free(sent);
}

void cairn_buffer_view(grpc_byte_buffer *out, const void *head, size_t head_len,
		       struct cairn_view *view)
{
	grpc_slice_buffer *slices = &out->data.raw.slice_buffer;
	if (head_len > 0) {
		grpc_slice_buffer_add(slices, grpc_slice_from_copied_buffer(head, head_len));
	}
	if (view->len == 0) {
		cairn_view_release(view);
		return;
	}
	struct sent_view *sent = malloc(sizeof(*sent));
	if (sent == NULL) abort();
	sent->view = *view;
	*view = (struct cairn_view){0};
	atomic_init(&sent->armed, 0);
	void *data;
	memcpy(&data, &sent->view.data,
	       sizeof(data)); /* gRPC only reads, its API lacks the const */
	size_t len = sent->view.len;
	atomic_store_explicit(&sent->armed, 1, memory_order_release);
	grpc_slice_buffer_add(slices, grpc_slice_new_with_user_data(data, len, release_sent, sent));
}
