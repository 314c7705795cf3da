/* cairnctl status. */
#include <stdio.h>

#include "cmd/cairnctl.h"
#include "cmd/cairnctl_format.h"

static json_t *json_runtime(const Cairn__V1__Runtime *rt)
{
	if (rt == NULL) return json_null();
	return json_pack("{s:o, s:b, s:o, s:I, s:I, s:o}", "address", ctl_json_text(rt->address),
			 "reachable", (int)rt->reachable, "last_listing",
			 ctl_json_time(rt->last_listing), "recorded", (json_int_t)rt->recorded,
			 "missing", (json_int_t)rt->missing, "error", ctl_json_text(rt->error));
}

static json_t *json_status(const Cairn__V1__StatusResponse *r)
{
	return json_pack(
		"{s:s, s:o, s:o, s:o, s:{s:I, s:I}, s:{s:I, s:I}, s:I, s:{s:I, s:I}, s:{s:I, s:I}, "
		"s:o}",
		"version", r->version, "state_dir", ctl_json_text(r->state_dir), "listen",
		ctl_json_text(r->listen), "started", ctl_json_time(r->started_at), "referenced",
		"blobs", (json_int_t)r->referenced_blobs, "bytes", (json_int_t)r->referenced_bytes,
		"cached", "blobs", (json_int_t)r->cached_blobs, "bytes",
		(json_int_t)r->cached_bytes, "damaged", (json_int_t)r->damaged_blobs, "ingests",
		"open", (json_int_t)r->ingests, "bytes", (json_int_t)r->ingest_bytes, "disk",
		"total_bytes", (json_int_t)r->disk_total_bytes, "free_bytes",
		(json_int_t)r->disk_free_bytes, "containerd", json_runtime(r->runtime));
}

static void print_runtime(const struct ctl *ctl, const Cairn__V1__Runtime *rt)
{
	char number[CTL_TEXT];
	if (rt == NULL || rt->address[0] == '\0') {
		ctl_print_field(ctl, "containerd", "nobody to ask (containerd.address is empty)");
		return;
	}
	ctl_print_field(ctl, "containerd", rt->address);
	ctl_print_field(ctl, "containerd answers", rt->reachable ? "yes" : "no");
	if (rt->error[0] != '\0') ctl_print_field(ctl, "containerd error", rt->error);
	if (rt->last_listing == NULL) return;
	ctl_print_time(ctl, "last listing", rt->last_listing);
	snprintf(number, sizeof(number), "%lld", (long long)rt->recorded);
	ctl_print_field(ctl, "blobs it records", number);
	snprintf(number, sizeof(number), "%lld", (long long)rt->missing);
	ctl_print_field(ctl, "of these missing", number);
}

static int run_status(struct ctl *ctl, int argc, char **argv)
{
	static const struct option own[] = {{0}};
	Cairn__V1__StatusRequest request = CAIRN__V1__STATUS_REQUEST__INIT;
	ProtobufCMessage *msg;
	struct cairn_err err;
	char number[CTL_TEXT];
	(void)ctl_getopt(ctl, argc, argv, own);
	if (optind != argc) return ctl_usage(ctl, "status takes no arguments");
	if (ctl_call(ctl, "Status", &request.base, &cairn__v1__status_response__descriptor, &msg,
		     &err) != CAIRN_OK) {
		return ctl_fail(ctl, &err);
	}
	const Cairn__V1__StatusResponse *r = (const Cairn__V1__StatusResponse *)msg;
	if (ctl->json) {
		ctl_print_json(json_status(r));
	} else {
		ctl_print_field(ctl, "version", r->version);
		ctl_print_field(ctl, "state_dir", r->state_dir);
		ctl_print_field(ctl, "listen", r->listen);
		ctl_print_time(ctl, "started", r->started_at);
		ctl_print_blobs(ctl, "referenced blobs", r->referenced_blobs, r->referenced_bytes);
		ctl_print_blobs(ctl, "cached blobs", r->cached_blobs, r->cached_bytes);
		snprintf(number, sizeof(number), "%lld", (long long)r->damaged_blobs);
		ctl_print_field(ctl, "damaged blobs", number);
		ctl_print_blobs(ctl, "open ingests", r->ingests, r->ingest_bytes);
		ctl_print_size(ctl, "disk size", r->disk_total_bytes);
		ctl_print_size(ctl, "disk free", r->disk_free_bytes);
		print_runtime(ctl, r->runtime);
		if (ctl->terminal && r->damaged_blobs > 0) {
			printf("\nSome blobs are damaged: cairnctl ls --damaged\n");
		}
	}
	protobuf_c_message_free_unpacked(msg, NULL);
	return CTL_DONE;
}

const struct ctl_verb ctl_status = {
	.name = "status",
	.arguments = "",
	.summary = "what cairnd is and holds",
	.help = "Shows cairnd's version and paths, how many blobs it holds in which state, the\n"
		"disk, and what it knows of containerd. In a pipe: a name, a tab, and the value a\n"
		"line, sizes in bytes.",
	.run = run_status,
};
