/* What the files of the content service share. */
#ifndef CAIRN_PLUGIN_CONTENT_H
#define CAIRN_PLUGIN_CONTENT_H

#include "base/digest.h"
#include "content.pb-c.h"
#include "plugin/plugin.h"

/* protoc-c's names are long. */
typedef Containerd__Services__Content__V1__Info pb_info;
typedef Containerd__Services__Content__V1__Status pb_status;

#define CAIRN_CONTENT_LIST_BATCH 100	       /* blobs in one List message, as containerd has it */
#define CAIRN_CONTENT_LIST_STALL_MS 60000      /* a reader of List takes a message in this time */
#define CAIRN_CONTENT_READ_PIECE (3u << 20)    /* bytes in one Read message */
#define CAIRN_CONTENT_BUSY_MS 40	       /* patience with a ref that is just being let go */
#define CAIRN_CONTENT_STATUSES_MAX (15u << 20) /* bytes of one ListStatuses answer */

/* plugin/content_read.c, plugin/content_write.c, plugin/content_list.c */
cairn_server_stream_fn cairn_content_read;
cairn_bidi_fn cairn_content_write;
cairn_server_stream_fn cairn_content_list;
cairn_unary_fn cairn_content_list_statuses;

/* In plugin/content.c. Errors: INVALID_ARGUMENT. */
CAIRN_CHECKED enum cairn_code cairn_content_parse_digest(const char *text, struct cairn_digest *ret,
							 struct cairn_err *err);

CAIRN_CHECKED enum cairn_code cairn_content_check_label(const char *key, const char *value,
							struct cairn_err *err);

void cairn_content_fill_status(struct cairn_call *call, const struct cairn_ingest_status *st,
			       pb_status *ret);

#endif
