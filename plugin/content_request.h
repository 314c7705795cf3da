/* A WriteContentRequest parsed where it lies: the bytes stay in the received message. */
#ifndef CAIRN_PLUGIN_CONTENT_REQUEST_H
#define CAIRN_PLUGIN_CONTENT_REQUEST_H

#include "base/digest.h"
#include "cache/cache.h"
#include "rpc/rpc.h"

enum cairn_write_action {
	CAIRN_WRITE_STAT = 0,
	CAIRN_WRITE_WRITE = 1,
	CAIRN_WRITE_COMMIT = 2,
};

/* Starts zeroed; parsed again and again; fini at the end. */
struct cairn_write_request {
	enum cairn_write_action action;
	uint64_t total;		      /* 0: not said */
	struct cairn_digest expected; /* alg 0: not said */
	uint64_t offset;
	size_t data_len;
	const struct cairn_span *spans; /* of the data, in msg */
	size_t n_spans;
	struct cairn_label *labels; /* only of a COMMIT */
	size_t n_labels;

	struct cairn_msg *msg; /* owned, holds the bytes */
	struct cairn_span *room;
	size_t room_len;
};

/* Take msg (owned, also on failure) in place of the one before. The ref, if there is one, is copied
 * to ref; an absent one leaves ref as it is. ref NULL: it is of no interest any more.
 * Errors: INVALID_ARGUMENT. */
CAIRN_CHECKED enum cairn_code cairn_write_request_parse(struct cairn_write_request *req,
							struct cairn_msg *msg, char *ref,
							size_t ref_cap, struct cairn_err *err);

/* The same on borrowed bytes, for the fuzz target: req->msg stays as it is. */
CAIRN_CHECKED enum cairn_code cairn_write_request_parse_spans(struct cairn_write_request *req,
							      const struct cairn_span *spans,
							      size_t n, char *ref, size_t ref_cap,
							      struct cairn_err *err);

/* Give the received bytes back: a stream that waits for its next message holds none. */
void cairn_write_request_drop_bytes(struct cairn_write_request *req);

void cairn_write_request_fini(struct cairn_write_request *req);

#endif
