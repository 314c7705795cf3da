/* cairnctl status. */
#include <stdio.h>
#include <string.h>

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

/* The summary's own "type" stays: it is the object that gc prints. */
static json_t *json_gc(const Cairn__V1__Gc *gc)
{
	if (gc == NULL) return json_null();
	return json_pack("{s:o, s:o, s:o, s:I, s:I, s:I, s:o, s:o, s:{s:I, s:I}, s:b, s:I, s:I}",
			 "high_watermark", ctl_json_text(gc->high_watermark), "low_watermark",
			 ctl_json_text(gc->low_watermark), "min_free", ctl_json_text(gc->min_free),
			 "over_high_bytes", (json_int_t)gc->over_high_bytes, "over_low_bytes",
			 (json_int_t)gc->over_low_bytes, "others_bytes",
			 (json_int_t)gc->others_bytes, "last_pass", ctl_json_time(gc->last_pass),
			 "last", ctl_json_gc_summary(gc->last), "evicted", "blobs",
			 (json_int_t)gc->evicted_blobs, "bytes", (json_int_t)gc->evicted_bytes,
			 "unrelieved", (int)gc->unrelieved, "pins", (json_int_t)gc->pins,
			 "versions", (json_int_t)gc->versions);
}

static json_t *json_status(const Cairn__V1__StatusResponse *r)
{
	return json_pack(
		"{s:s, s:o, s:o, s:o, s:{s:I, s:I}, s:{s:I, s:I}, s:I, s:{s:I, s:I}, s:{s:I, s:I}, "
		"s:o, s:o, s:o}",
		"version", r->version, "state_dir", ctl_json_text(r->state_dir), "listen",
		ctl_json_text(r->listen), "started", ctl_json_time(r->started_at), "referenced",
		"blobs", (json_int_t)r->referenced_blobs, "bytes", (json_int_t)r->referenced_bytes,
		"cached", "blobs", (json_int_t)r->cached_blobs, "bytes",
		(json_int_t)r->cached_bytes, "damaged", (json_int_t)r->damaged_blobs, "ingests",
		"open", (json_int_t)r->ingests, "bytes", (json_int_t)r->ingest_bytes, "disk",
		"total_bytes", (json_int_t)r->disk_total_bytes, "free_bytes",
		(json_int_t)r->disk_free_bytes, "containerd", json_runtime(r->runtime), "gc",
		json_gc(r->gc), "p2p", ctl_json_swarm(r->swarm));
}

static void print_number(const struct ctl *ctl, const char *key, int64_t n)
{
	char text[CTL_TEXT];
	snprintf(text, sizeof(text), "%lld", (long long)n);
	ctl_print_field(ctl, key, text);
}

static void print_runtime(const struct ctl *ctl, const Cairn__V1__Runtime *rt)
{
	if (rt == NULL || rt->address[0] == '\0') {
		ctl_print_field(ctl, "containerd", "nobody to ask (containerd.address is empty)");
		return;
	}
	ctl_print_field(ctl, "containerd", rt->address);
	ctl_print_field(ctl, "containerd answers", rt->reachable ? "yes" : "no");
	if (rt->error[0] != '\0') ctl_print_field(ctl, "containerd error", rt->error);
	if (rt->last_listing == NULL) return;
	ctl_print_time(ctl, "last listing", rt->last_listing);
	print_number(ctl, "blobs it records", rt->recorded);
	print_number(ctl, "of these missing", rt->missing);
}

/* A mark as it is configured, and how many bytes are above it. */
static void print_mark(const struct ctl *ctl, const char *key, const char *mark, int64_t over)
{
	char text[4 * CTL_TEXT], size[CTL_TEXT];
	if (!ctl->terminal) {
		snprintf(text, sizeof(text), "%.100s\t%lld", mark, (long long)over);
	} else if (over > 0) {
		snprintf(text, sizeof(text), "%.100s, exceeded by %s", mark,
			 ctl_format_bytes(over, size));
	} else {
		snprintf(text, sizeof(text), "%.100s, not exceeded", mark);
	}
	ctl_print_field(ctl, key, text);
}

/* Admins wonder why a small cache is told to shrink: whose bytes count depends on the kind of the
 * marks. */
static void print_others(const struct ctl *ctl, const Cairn__V1__Gc *gc)
{
	char text[4 * CTL_TEXT], size[CTL_TEXT];
	if (!ctl->terminal) {
		ctl_print_size(ctl, "disk used by others", gc->others_bytes);
		return;
	}
	snprintf(text, sizeof(text), "%s, which %s", ctl_format_bytes(gc->others_bytes, size),
		 strchr(gc->high_watermark, '%') != NULL
			 ? "count against percentages, as these watermarks are"
			 : "would count against percentages; these watermarks are sizes");
	ctl_print_field(ctl, "disk used by others", text);
}

static void print_last_pass(const struct ctl *ctl, const Cairn__V1__Gc *gc)
{
	char text[8 * CTL_TEXT], when[CTL_TEXT], size[CTL_TEXT];
	const Cairn__V1__GcSummary *s = gc->last;
	if (gc->last_pass == NULL || s == NULL) {
		ctl_print_field(ctl, "last gc", ctl->terminal ? "none yet" : "-");
		return;
	}
	ctl_format_time(gc->last_pass->seconds, when);
	if (ctl->terminal) {
		snprintf(text, sizeof(text), "%s (%.40s): evicted %lld blobs, %s%s", when,
			 s->trigger, (long long)s->evicted_blobs,
			 ctl_format_bytes(s->evicted_bytes, size),
			 s->sure ? "" : "; containerd did not answer in full");
	} else {
		snprintf(text, sizeof(text), "%s\t%.40s\t%lld\t%lld", when, s->trigger,
			 (long long)s->evicted_blobs, (long long)s->evicted_bytes);
	}
	ctl_print_field(ctl, "last gc", text);
}

static void print_gc(const struct ctl *ctl, const Cairn__V1__Gc *gc)
{
	if (gc == NULL) return;
	print_others(ctl, gc);
	print_mark(ctl, "high watermark", gc->high_watermark, gc->over_high_bytes);
	print_mark(ctl, "low watermark", gc->low_watermark, gc->over_low_bytes);
	ctl_print_field(ctl, "min_free", gc->min_free);
	print_last_pass(ctl, gc);
	ctl_print_blobs(ctl, "evicted since start", gc->evicted_blobs, gc->evicted_bytes);
	print_number(ctl, "pins", gc->pins);
	print_number(ctl, "versions", gc->versions);
	if (!ctl->terminal) ctl_print_field(ctl, "unrelieved", gc->unrelieved ? "yes" : "no");
}

static void print_status(const struct ctl *ctl, const Cairn__V1__StatusResponse *r)
{
	ctl_print_field(ctl, "version", r->version);
	ctl_print_field(ctl, "state_dir", r->state_dir);
	ctl_print_field(ctl, "listen", r->listen);
	ctl_print_time(ctl, "started", r->started_at);
	ctl_print_blobs(ctl, "referenced blobs", r->referenced_blobs, r->referenced_bytes);
	ctl_print_blobs(ctl, "cached blobs", r->cached_blobs, r->cached_bytes);
	print_number(ctl, "damaged blobs", r->damaged_blobs);
	ctl_print_blobs(ctl, "open ingests", r->ingests, r->ingest_bytes);
	ctl_print_size(ctl, "disk size", r->disk_total_bytes);
	ctl_print_size(ctl, "disk free", r->disk_free_bytes);
	print_gc(ctl, r->gc);
	print_runtime(ctl, r->runtime);
	ctl_print_swarm(ctl, r->swarm);
	if (!ctl->terminal) return;
	if (r->damaged_blobs > 0) printf("\nSome blobs are damaged: cairnctl ls --damaged\n");
	if (r->gc != NULL && r->gc->unrelieved) {
		printf("\nWarning: the disk is too full, and nothing that may go is left. Who "
		       "needs "
		       "the rest:\ncairnctl gc --dry-run --all\n");
	}
}

static int run_status(struct ctl *ctl, int argc, char **argv)
{
	static const struct option own[] = {{0}};
	Cairn__V1__StatusRequest request = CAIRN__V1__STATUS_REQUEST__INIT;
	ProtobufCMessage *msg;
	struct cairn_err err;
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
		print_status(ctl, r);
	}
	protobuf_c_message_free_unpacked(msg, NULL);
	return CTL_DONE;
}

const struct ctl_verb ctl_status = {
	.name = "status",
	.arguments = "",
	.summary = "what cairnd is and holds",
	.help = "Shows cairnd's version and paths, how many blobs it holds in which state, the "
		"disk\n"
		"against the watermarks of garbage collection, its last pass, and what cairnd "
		"knows of\n"
		"containerd, and of other nodes: blobs that come from them (a fill), with who may "
		"fetch\n"
		"the blob from its registry (the grant), and those that go to them (an upload). In "
		"a pipe:\n"
		"a name, a tab, and the value a line, sizes in bytes; a watermark is followed by "
		"the bytes\n"
		"above it, \"last gc\" has when, trigger, blobs and bytes; a fill digest, state, "
		"bytes here,\n"
		"bytes in all, grant (free, queued, running), its node, peers it comes from and "
		"bytes a\n"
		"second; an upload digest, peer, bytes and bytes a second.",
	.run = run_status,
};
