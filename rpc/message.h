/* Messages between us and gRPC's byte buffers. Private to rpc/. None of this may run on a fiber's
 * stack, except where said. */
#ifndef CAIRN_RPC_MESSAGE_H
#define CAIRN_RPC_MESSAGE_H

#include <grpc/byte_buffer.h>
#include <grpc/grpc.h>
#include <grpc/slice_buffer.h>

#include "rpc/arena.h"
#include "rpc/rpc.h"

/* gRPC checks the length of a received message (CAIRN_RPC_MESSAGE_MAX) only once it is there, so a
 * peer can make it hold one of up to 4 GiB: peers are root on this machine, or have a certificate.
 *
 * What a message may grow to when it is decoded: repeated small fields take many times their
 * encoded size. */
#define CAIRN_RPC_UNPACKED_MAX ((size_t)64 << 20)

/* Takes the buffer over. */
struct cairn_msg *cairn_msg_from_buffer(grpc_byte_buffer *buffer);
void cairn_msg_destroy(struct cairn_msg *msg);

/* May run on a fiber. The message lives in the arena. */
enum cairn_code cairn_msg_unpack_arena(struct cairn_arena *arena, const struct cairn_msg *msg,
				       const ProtobufCMessageDescriptor *type,
				       ProtobufCMessage **ret, struct cairn_err *err);

/* The same from the heap: protobuf_c_message_free_unpacked(*ret, NULL) ends it. */
enum cairn_code cairn_msg_unpack_heap(const struct cairn_msg *msg,
				      const ProtobufCMessageDescriptor *type,
				      ProtobufCMessage **ret, struct cairn_err *err);

/* Make out an empty raw buffer, as part of another struct; grpc_slice_buffer_destroy ends it. */
void cairn_buffer_init(grpc_byte_buffer *out);
/* One slice with the packed message. n is its packed size. */
void cairn_buffer_pack(grpc_byte_buffer *out, const ProtobufCMessage *msg, size_t n);
/* A copied head and the view's own bytes; consumes the view. */
void cairn_buffer_view(grpc_byte_buffer *out, const void *head, size_t head_len,
		       struct cairn_view *view);

#endif
