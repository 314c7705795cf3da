/* cairnctl ls and explain, and how all verbs print: tables with sizes for people on a terminal; in
 * a pipe fields separated by tabs, sizes in bytes, for programs. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/cairnctl.h"
#include "cmd/cairnctl_format.h"

int64_t ctl_seconds(const Cairn__Wire__Timestamp *ts)
{
	return ts != NULL ? ts->seconds : 0;
}

const char *ctl_state_name(Cairn__V1__BlobState state)
{
	switch (state) {
	case CAIRN__V1__BLOB_STATE__CACHED:
		return "cached";
	case CAIRN__V1__BLOB_STATE__REFERENCED:
		return "referenced";
	default:
		return "absent";
	}
}

json_t *ctl_json_text(const char *text)
{
	json_t *string = json_string(text);
	if (string != NULL) return string;
	char *copy = strdup(text);
	for (char *p = copy; p != NULL && *p != '\0'; p++) {
		if ((unsigned char)*p >= 0x80) *p = '?';
	}
	string = json_string(copy != NULL ? copy : "");
	free(copy);
	return string;
}

json_t *ctl_json_strings(char **list, size_t n)
{
	json_t *array = json_array();
	for (size_t i = 0; i < n; i++) json_array_append_new(array, ctl_json_text(list[i]));
	return array;
}

json_t *ctl_json_time(const Cairn__Wire__Timestamp *ts)
{
	char buf[CTL_TEXT];
	return ts == NULL ? json_null() : json_string(ctl_format_time(ts->seconds, buf));
}

json_t *ctl_json_blob(const Cairn__V1__Blob *blob)
{
	json_t *labels = json_object();
	for (size_t i = 0; i < blob->n_labels; i++) {
		json_object_set_new(labels, blob->labels[i]->key,
				    ctl_json_text(blob->labels[i]->value));
	}
	return json_pack("{s:s, s:I, s:s, s:b, s:I, s:o, s:o, s:o, s:o, s:s, s:o, s:b}", "digest",
			 blob->digest, "size", (json_int_t)blob->size, "state",
			 ctl_state_name(blob->state), "damaged", (int)blob->damaged, "idle_seconds",
			 (json_int_t)blob->idle_seconds, "created", ctl_json_time(blob->created_at),
			 "updated", ctl_json_time(blob->updated_at), "namespaces",
			 ctl_json_strings(blob->namespaces, blob->n_namespaces), "labels", labels,
			 "why", blob->why, "what", ctl_json_text(blob->what), "evict",
			 (int)blob->evict);
}

void ctl_print_field(const struct ctl *ctl, const char *key, const char *value)
{
	printf(ctl->terminal ? "%-20s %s\n" : "%s\t%s\n", key, value);
}

void ctl_print_size(const struct ctl *ctl, const char *key, int64_t bytes)
{
	char text[CTL_TEXT];
	if (ctl->terminal) {
		ctl_format_bytes(bytes, text);
	} else {
		snprintf(text, sizeof(text), "%lld", (long long)bytes);
	}
	ctl_print_field(ctl, key, text);
}

void ctl_print_blobs(const struct ctl *ctl, const char *key, int64_t blobs, int64_t bytes)
{
	char text[2 * CTL_TEXT], size[CTL_TEXT];
	if (ctl->terminal) {
		snprintf(text, sizeof(text), "%lld, %s", (long long)blobs,
			 ctl_format_bytes(bytes, size));
	} else {
		snprintf(text, sizeof(text), "%lld\t%lld", (long long)blobs, (long long)bytes);
	}
	ctl_print_field(ctl, key, text);
}

void ctl_print_time(const struct ctl *ctl, const char *key, const Cairn__Wire__Timestamp *ts)
{
	char text[CTL_TEXT];
	ctl_print_field(ctl, key, ctl_format_time(ctl_seconds(ts), text));
}

/* ---- ls ---- */

struct listing {
	const struct ctl *ctl;
	bool titled;
};

static void join(char **list, size_t n, char *buf, size_t cap)
{
	size_t len = 0;
	buf[0] = '\0';
	for (size_t i = 0; i < n && len < cap; i++) {
		len += (size_t)snprintf(buf + len, cap - len, "%s%s", i > 0 ? "," : "", list[i]);
	}
	if (buf[0] == '\0') snprintf(buf, cap, "-");
}

static void print_blob_fields(const Cairn__V1__Blob *blob, const char *names)
{
	char created[CTL_TEXT], what[CTL_LINE];
	printf("%s\t%lld\t%s\t%s\t%lld\t%s\t%s\t%s\t%s\t%s\n", blob->digest, (long long)blob->size,
	       ctl_state_name(blob->state), blob->damaged ? "damaged" : "-",
	       (long long)blob->idle_seconds,
	       ctl_format_time(ctl_seconds(blob->created_at), created), names,
	       blob->why[0] != '\0' ? blob->why : "-",
	       ctl_format_plain(blob->what, what, sizeof(what)),
	       blob->why[0] == '\0' ? "-"
	       : blob->evict	    ? "evict"
				    : "keep");
}

/* What garbage collection thinks, as short as it can be said: SIZE, STATE and IDLE say the rest. */
static void print_why(const Cairn__V1__Blob *blob)
{
	char what[CTL_LINE];
	printf("%s%s%s%s\n", blob->evict ? "would go: " : "",
	       blob->why[0] != '\0' ? blob->why : "-", blob->what[0] != '\0' ? " " : "",
	       blob->what[0] != '\0' ? ctl_format_plain(blob->what, what, sizeof(what)) : "");
}

static void print_blob(struct listing *l, const Cairn__V1__Blob *blob)
{
	char size[CTL_TEXT], idle[CTL_TEXT], state[CTL_TEXT], names[1024];
	if (l->ctl->json) {
		ctl_print_json(ctl_json_blob(blob));
		return;
	}
	join(blob->namespaces, blob->n_namespaces, names, sizeof(names));
	if (!l->ctl->terminal) {
		print_blob_fields(blob, names);
		return;
	}
	if (!l->titled) {
		printf("%-71s  %10s  %-19s  %7s  %-10s  %s\n", "DIGEST", "SIZE", "STATE", "IDLE",
		       "NAMESPACES", "WHY");
	}
	l->titled = true;
	snprintf(state, sizeof(state), "%s%s", ctl_state_name(blob->state),
		 blob->damaged ? " damaged" : "");
	printf("%-71s  %10s  %-19s  %7s  %-10s  ", blob->digest, ctl_format_bytes(blob->size, size),
	       state, ctl_format_span(blob->idle_seconds, idle), names);
	print_why(blob);
}

static bool on_blobs(void *arg, const ProtobufCMessage *msg)
{
	const Cairn__V1__ListBlobsResponse *r = (const Cairn__V1__ListBlobsResponse *)msg;
	for (size_t i = 0; i < r->n_blobs && !ferror(stdout); i++) print_blob(arg, r->blobs[i]);
	return !ferror(stdout) && fflush(stdout) == 0; /* `cairnctl ls | head` ends here */
}

static int run_ls(struct ctl *ctl, int argc, char **argv)
{
	static const struct option own[] = {
		{"state", required_argument, NULL, 's'}, {"damaged", no_argument, NULL, 'd'}, {0}};
	Cairn__V1__ListBlobsRequest request = CAIRN__V1__LIST_BLOBS_REQUEST__INIT;
	struct listing listing = {.ctl = ctl};
	struct cairn_err err;
	for (int c; (c = ctl_getopt(ctl, argc, argv, own)) != -1;) {
		if (c == 'd') {
			request.damaged_only = true;
		} else if (strcmp(optarg, "cached") == 0) {
			request.state = CAIRN__V1__BLOB_STATE__CACHED;
		} else if (strcmp(optarg, "referenced") == 0) {
			request.state = CAIRN__V1__BLOB_STATE__REFERENCED;
		} else {
			return ctl_usage(ctl, "--state is cached or referenced, not \"%s\"",
					 optarg);
		}
	}
	if (optind != argc) return ctl_usage(ctl, "ls takes no arguments");
	if (ctl_stream(ctl, "ListBlobs", &request.base, &cairn__v1__list_blobs_response__descriptor,
		       on_blobs, &listing, &err) != CAIRN_OK) {
		return ctl_fail(ctl, &err);
	}
	return CTL_DONE;
}

const struct ctl_verb ctl_ls = {
	.name = "ls",
	.arguments = "[--state cached|referenced] [--damaged]",
	.summary = "the blobs that are here",
	.help = "Lists blobs in the order of their digests.\n\n"
		"  --state STATE   only those that are cached (containerd has no record of them) "
		"or\n"
		"                  referenced (it may have one)\n"
		"  --damaged       only those whose bytes are missing or wrong\n\n"
		"In a pipe, a line has these fields, separated by tabs: digest, bytes, state,\n"
		"\"damaged\" or \"-\", seconds since the last use, when it came, the namespaces "
		"that\n"
		"committed it (\"-\": not known), why garbage collection keeps it or would evict "
		"it, what\n"
		"that is (which lease, image, ...; \"-\": none), and \"keep\" or \"evict\".",
	.run = run_ls,
};

/* ---- explain ---- */

static json_t *json_explain(const Cairn__V1__ExplainResponse *r)
{
	return json_pack("{s:o, s:o, s:o, s:o, s:b, s:o}", "blob", ctl_json_blob(r->blob),
			 "reasons", ctl_json_strings(r->reasons, r->n_reasons), "remedies",
			 ctl_json_strings(r->remedies, r->n_remedies), "recorded_in",
			 ctl_json_strings(r->recorded_in, r->n_recorded_in), "recorded_known",
			 (int)r->recorded_known, "name", ctl_json_text(r->name));
}

/* What garbage collection would do with it now. */
static void print_verdict(const struct ctl *ctl, const Cairn__V1__Blob *blob)
{
	char text[CTL_LINE], line[CTL_LINE + CTL_TEXT];
	if (blob->why[0] == '\0') return;
	if (ctl->terminal) {
		snprintf(line, sizeof(line), "%s: %s", blob->evict ? "would be evicted" : "kept",
			 ctl_format_reason(blob->why, blob->what, blob->idle_seconds, text,
					   sizeof(text)));
	} else {
		snprintf(line, sizeof(line), "%s\t%s\t%s\t%lld", blob->evict ? "evict" : "keep",
			 blob->why, ctl_format_plain(blob->what, text, sizeof(text)),
			 (long long)blob->idle_seconds);
	}
	ctl_print_field(ctl, "garbage collection", line);
}

static void print_explain(const struct ctl *ctl, const Cairn__V1__ExplainResponse *r)
{
	char state[CTL_TEXT], name[CTL_LINE];
	if (r->name[0] != '\0') {
		ctl_print_field(ctl, "name", ctl_format_plain(r->name, name, sizeof(name)));
	}
	ctl_print_field(ctl, "digest", r->blob->digest);
	snprintf(state, sizeof(state), "%s%s", ctl_state_name(r->blob->state),
		 r->blob->damaged ? ", damaged" : "");
	ctl_print_field(ctl, "state", state);
	if (r->blob->state != CAIRN__V1__BLOB_STATE__UNKNOWN_STATE) {
		ctl_print_size(ctl, "size", r->blob->size);
		ctl_print_time(ctl, "here since", r->blob->created_at);
		print_verdict(ctl, r->blob);
	}
	for (size_t i = 0; i < r->n_reasons; i++) ctl_print_field(ctl, "reason", r->reasons[i]);
	if (ctl->terminal && r->n_remedies > 0) printf("\nTo get it back, run:\n");
	for (size_t i = 0; i < r->n_remedies; i++) {
		printf(ctl->terminal ? "  %s\n" : "remedy\t%s\n", r->remedies[i]);
	}
}

static int run_explain(struct ctl *ctl, int argc, char **argv)
{
	static const struct option own[] = {{0}};
	Cairn__V1__ExplainRequest request;
	ProtobufCMessage *msg;
	struct cairn_err err;
	(void)ctl_getopt(ctl, argc, argv, own);
	if (optind + 1 != argc || argv[optind][0] == '\0') {
		return ctl_usage(ctl, "explain takes one digest or image name");
	}
	cairn__v1__explain_request__init(&request);
	request.digest = argv[optind];
	if (ctl_call(ctl, "Explain", &request.base, &cairn__v1__explain_response__descriptor, &msg,
		     &err) != CAIRN_OK) {
		return ctl_fail(ctl, &err);
	}
	const Cairn__V1__ExplainResponse *r = (const Cairn__V1__ExplainResponse *)msg;
	if (ctl->json) {
		ctl_print_json(json_explain(r));
	} else {
		print_explain(ctl, r);
	}
	protobuf_c_message_free_unpacked(msg, NULL);
	return CTL_DONE;
}

const struct ctl_verb ctl_explain = {
	.name = "explain",
	.arguments = "DIGEST|REF",
	.summary = "why a blob is here, and how to get a damaged one back",
	.help = "Says in which state the blob is, and why garbage collection keeps it or would "
		"evict it.\n"
		"If containerd needs it and it is damaged or gone, prints the commands that bring "
		"it\n"
		"back. DIGEST is written as sha256:HEX; of an image name REF, the manifest of its "
		"newest\n"
		"version is explained. A blob that is not here and that containerd does not record "
		"is an\n"
		"error.\n\n"
		"In a pipe: a name, a tab, and the value a line; \"garbage collection\" has "
		"\"keep\" or\n"
		"\"evict\", why, what, and seconds since the last use.",
	.run = run_explain,
};
