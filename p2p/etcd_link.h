/* Calls to an etcd of several servers: one channel each, the good one first.
 *
 * Two kinds. A call of somebody who waits for a blob: the whole of it has little time. A call of a
 * background thread: each server in turn gets its time, it may be cancelled from outside, and a
 * server that stays silent gets a new connection, for the old one may be dead without knowing it.
 * Threads: internally locked. */
#ifndef CAIRN_P2P_ETCD_LINK_H
#define CAIRN_P2P_ETCD_LINK_H

#include <protobuf-c/protobuf-c.h>

#include "p2p/etcd.h"

struct cairn_etcd_links;

struct cairn_etcd_question {
	const char *path;
	const ProtobufCMessage *request;
	const ProtobufCMessageDescriptor *response;
};

/* Errors: INVALID_ARGUMENT. */
CAIRN_CHECKED enum cairn_code cairn_etcd_links_new(const struct cairn_etcd_opts *opts,
						   struct cairn_etcd_links **ret,
						   struct cairn_err *err);
/* All calls must be over. NULL is fine. */
void cairn_etcd_links_free(struct cairn_etcd_links *links);

/* *ret is freed with protobuf_c_message_free_unpacked. Errors: etcd's; of several servers that do
 * not answer, the last one's. */
CAIRN_CHECKED enum cairn_code cairn_etcd_call(struct cairn_etcd_links *links,
					      const struct cairn_etcd_question *q,
					      int64_t timeout_ms, ProtobufCMessage **ret,
					      struct cairn_err *err);

/* each_ms: for each server. Also of streaming methods: the first message is the answer. At most
 * CAIRN_ETCD_BACKGROUND threads at a time. */
#define CAIRN_ETCD_BACKGROUND 4
CAIRN_CHECKED enum cairn_code cairn_etcd_background_call(struct cairn_etcd_links *links,
							 const struct cairn_etcd_question *q,
							 int64_t each_ms, ProtobufCMessage **ret,
							 struct cairn_err *err);
/* Background calls end now, and later ones at once: CANCELLED. */
void cairn_etcd_links_cancel(struct cairn_etcd_links *links);

/* Monotonic; what deadlines are counted in. */
int64_t cairn_etcd_now_ms(void);

/* Parses an endpoint into "host:port". Errors: false. */
bool cairn_etcd_read_endpoint(const char *url, char ret_target[static CAIRN_ADDRESS_MAX],
			      bool *ret_tls);

#endif
