/* What the files of cairnctl share. */
#ifndef CAIRN_CMD_CAIRNCTL_H
#define CAIRN_CMD_CAIRNCTL_H

#include <getopt.h>
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/own.h"
#include "cairn.pb-c.h"
#include "rpc/rpc.h"

/* Exit statuses: other people's scripts depend on them. */
enum { CTL_DONE = 0, CTL_FAILED = 1, CTL_USAGE = 2 };

struct ctl {
	const char *socket; /* NULL: the default one, or none, but address */
	/* cairnd on another machine, host:port, and the files for it; NULL: not given */
	const char *address, *tls_cert, *tls_key, *tls_ca, *tls_server_name;
	bool json;
	bool terminal; /* standard output is one */
	const struct ctl_verb *verb;
	struct cairn_rpc *rpc;
	struct cairn_channel *channel;
};

struct ctl_verb {
	const char *name;
	const char *arguments; /* as the usage line has them */
	const char *summary;   /* one line */
	const char *help;      /* the rest of its --help */
	int (*run)(struct ctl *ctl, int argc, char **argv);
};

extern const struct ctl_verb ctl_status, ctl_ls, ctl_explain, ctl_versions, ctl_gc, ctl_prune,
	ctl_preheat, ctl_jobs, ctl_cancel, ctl_pin, ctl_unpin, ctl_verify, ctl_peers, ctl_import,
	ctl_export, ctl_containerd_config, ctl_certs;

/* The next option of a verb: its own value, or -1 at the end (optind is the first argument).
 * Handles --socket, --json, --help (exits 0) and --version (exits 0) itself; what is wrong is told,
 * with exit status 2. own ends with a zero entry; its values are printable characters. */
int ctl_getopt(struct ctl *ctl, int argc, char **argv, const struct option *own);

/* Tell what is wrong with the command line; the exit status. */
int ctl_usage(const struct ctl *ctl, const char *fmt, ...) CAIRN_PRINTF(2, 3);

/* Tell what failed; the exit status. */
int ctl_fail(const struct ctl *ctl, const struct cairn_err *err);

/* One request, one response (free with protobuf_c_message_free_unpacked). Connects first. */
CAIRN_CHECKED enum cairn_code ctl_call(struct ctl *ctl, const char *method,
				       const ProtobufCMessage *request,
				       const ProtobufCMessageDescriptor *type,
				       ProtobufCMessage **ret, struct cairn_err *err);

/* One request, many responses: on_message is called with each and returns false to stop early,
 * which is no error. Ctrl-C cancels the call: CANCELLED. */
typedef bool ctl_message_fn(void *arg, const ProtobufCMessage *msg);
CAIRN_CHECKED enum cairn_code ctl_stream(struct ctl *ctl, const char *method,
					 const ProtobufCMessage *request,
					 const ProtobufCMessageDescriptor *type,
					 ctl_message_fn *on_message, void *arg,
					 struct cairn_err *err);

/* Ctrl-C was pressed, and ended the call. */
bool ctl_interrupted(void);

/* Print one object as one line, and drop it. Owns: consumes. */
void ctl_print_json(json_t *object);

/* A blob as JSON. */
json_t *ctl_json_blob(const Cairn__V1__Blob *blob);
json_t *ctl_json_strings(char **list, size_t n);

/* A string, also of text that is not UTF-8, as a path may be: then other bytes become '?'. */
json_t *ctl_json_text(const char *text);
json_t *ctl_json_time(const Cairn__Wire__Timestamp *ts);	  /* null for NULL */
json_t *ctl_json_gc_summary(const Cairn__V1__GcSummary *summary); /* null for NULL */
json_t *ctl_json_swarm(const Cairn__V1__Swarm *swarm);		  /* null for NULL */
const char *ctl_state_name(Cairn__V1__BlobState state);

int64_t ctl_seconds(const Cairn__Wire__Timestamp *ts); /* 0 for NULL */

/* A line with a name and its value: aligned on a terminal, with tabs in a pipe. */
void ctl_print_field(const struct ctl *ctl, const char *key, const char *value);
void ctl_print_size(const struct ctl *ctl, const char *key, int64_t bytes);
void ctl_print_blobs(const struct ctl *ctl, const char *key, int64_t blobs, int64_t bytes);
void ctl_print_swarm(const struct ctl *ctl, const Cairn__V1__Swarm *swarm); /* NULL is fine */
void ctl_print_time(const struct ctl *ctl, const char *key, const Cairn__Wire__Timestamp *ts);

#endif
