/* cairnctl gc, prune, pin, unpin: what garbage collection decides, and what an admin decides for
 * it.
 *
 * In a pipe the first field of a line says what it is: "evict" and "keep" are decisions, "summary"
 * is what they come to. */
#include <stdio.h>
#include <string.h>

#include "cmd/cairnctl.h"
#include "cmd/cairnctl_fleet.h"
#include "cmd/cairnctl_format.h"

#define KEEP_MAX 1000 /* as cairn.proto has it */

struct pass {
	const struct ctl *ctl;
	bool dry_run;
	bool done; /* the summary came */
};

/* ---- decisions ---- */

static void print_decision(const struct pass *p, const Cairn__V1__Decision *d)
{
	char size[CTL_TEXT], text[CTL_LINE];
	if (p->ctl->json) {
		ctl_print_json(json_pack("{s:s, s:s, s:I, s:b, s:s, s:o, s:I}", "type", "decision",
					 "digest", d->digest, "size", (json_int_t)d->size, "evict",
					 (int)d->evict, "why", d->why, "what",
					 ctl_json_text(d->what), "idle_seconds",
					 (json_int_t)d->idle_seconds));
		return;
	}
	if (!p->ctl->terminal) {
		printf("%s\t%s\t%lld\t%s\t%s\t%lld\n", d->evict ? "evict" : "keep", d->digest,
		       (long long)d->size, d->why, ctl_format_plain(d->what, text, sizeof(text)),
		       (long long)d->idle_seconds);
		return;
	}
	const char *verb = p->dry_run ? (d->evict ? "would evict" : "would keep")
				      : (d->evict ? "evicted" : "kept");
	printf("%-11s  %-71s  %10s  %-10s  %s\n", verb, d->digest, ctl_format_bytes(d->size, size),
	       d->why, ctl_format_detail(d->why, d->what, d->idle_seconds, text, sizeof(text)));
}

/* ---- the summary ---- */

json_t *ctl_json_gc_summary(const Cairn__V1__GcSummary *s)
{
	if (s == NULL) return json_null();
	json_t *by_reason = json_object();
	for (size_t i = 0; i < s->n_kept; i++) {
		json_object_set_new(by_reason, s->kept[i]->why,
				    json_pack("{s:I, s:I}", "blobs", (json_int_t)s->kept[i]->blobs,
					      "bytes", (json_int_t)s->kept[i]->bytes));
	}
	return json_pack("{s:s, s:s, s:b, s:b, s:o, s:{s:I, s:I}, s:{s:I, s:I, s:o}, s:I, s:I, "
			 "s:b, s:I, s:I}",
			 "type", "summary", "trigger", s->trigger, "dry_run", (int)s->dry_run,
			 "sure", (int)s->sure, "unsure_why", ctl_json_text(s->unsure_why),
			 "evicted", "blobs", (json_int_t)s->evicted_blobs, "bytes",
			 (json_int_t)s->evicted_bytes, "kept", "blobs", (json_int_t)s->kept_blobs,
			 "bytes", (json_int_t)s->kept_bytes, "by_reason", by_reason, "duration_ms",
			 (json_int_t)s->duration_ms, "to_free_bytes", (json_int_t)s->to_free_bytes,
			 "relieved", (int)s->relieved, "ingests_dropped",
			 (json_int_t)s->ingests_dropped, "versions_dropped",
			 (json_int_t)s->versions_dropped);
}

static void print_summary_fields(const Cairn__V1__GcSummary *s)
{
	char text[CTL_LINE];
	printf("summary\tdry run\t%s\n", s->dry_run ? "yes" : "no");
	printf("summary\tevicted\t%lld\t%lld\n", (long long)s->evicted_blobs,
	       (long long)s->evicted_bytes);
	printf("summary\tkept\t%lld\t%lld\n", (long long)s->kept_blobs, (long long)s->kept_bytes);
	for (size_t i = 0; i < s->n_kept; i++) {
		printf("summary\tkept %s\t%lld\t%lld\n", s->kept[i]->why,
		       (long long)s->kept[i]->blobs, (long long)s->kept[i]->bytes);
	}
	printf("summary\tseconds\t%lld.%03lld\n", (long long)(s->duration_ms / 1000),
	       (long long)(s->duration_ms % 1000));
	printf("summary\tcontainerd answered\t%s\t%s\n", s->sure ? "yes" : "no",
	       ctl_format_plain(s->unsure_why, text, sizeof(text)));
	printf("summary\tto free\t%lld\t%s\n", (long long)s->to_free_bytes,
	       s->to_free_bytes <= 0 ? "-"
	       : s->relieved	     ? "relieved"
				     : "unrelieved");
	printf("summary\tingests dropped\t%lld\n", (long long)s->ingests_dropped);
	printf("summary\tversions dropped\t%lld\n", (long long)s->versions_dropped);
}

/* What an admin should know of a pass besides its numbers. */
static void print_circumstances(const Cairn__V1__GcSummary *s)
{
	char text[CTL_LINE], size[CTL_TEXT];
	if (s->sure) {
		printf("containerd answered in full\n");
	} else {
		printf("containerd did not answer in full, so what it ever had a record of stays: "
		       "%s\n",
		       ctl_format_plain(s->unsure_why, text, sizeof(text)));
	}
	if (s->to_free_bytes > 0) {
		printf("the disk is too full by %s: %s\n", ctl_format_bytes(s->to_free_bytes, size),
		       !s->relieved ? "the rest must not go, so this is not relieved"
		       : s->dry_run ? "this would be relieved"
				    : "this is relieved");
	}
	if (s->ingests_dropped > 0 || s->versions_dropped > 0) {
		printf("%s %lld abandoned downloads, %lld old versions\n",
		       s->dry_run ? "would drop" : "dropped", (long long)s->ingests_dropped,
		       (long long)s->versions_dropped);
	}
}

static void print_summary(const struct ctl *ctl, const Cairn__V1__GcSummary *s)
{
	char gone[CTL_TEXT], kept[CTL_TEXT];
	if (ctl->json) {
		ctl_print_json(ctl_json_gc_summary(s));
		return;
	}
	if (!ctl->terminal) {
		print_summary_fields(s);
		return;
	}
	printf("%s %lld blobs, %s; %s %lld blobs, %s; took %lld ms\n",
	       s->dry_run ? "would evict" : "evicted", (long long)s->evicted_blobs,
	       ctl_format_bytes(s->evicted_bytes, gone), s->dry_run ? "would keep" : "kept",
	       (long long)s->kept_blobs, ctl_format_bytes(s->kept_bytes, kept),
	       (long long)s->duration_ms);
	for (size_t i = 0; i < s->n_kept; i++) {
		printf("  %-10s  %8lld blobs  %10s\n", s->kept[i]->why,
		       (long long)s->kept[i]->blobs, ctl_format_bytes(s->kept[i]->bytes, kept));
	}
	print_circumstances(s);
}

static bool on_decisions(void *arg, const ProtobufCMessage *msg)
{
	struct pass *p = arg;
	const Cairn__V1__CollectGarbageResponse *r = (const Cairn__V1__CollectGarbageResponse *)msg;
	for (size_t i = 0; i < r->n_decisions && !ferror(stdout); i++) {
		print_decision(p, r->decisions[i]);
	}
	if (r->summary != NULL) {
		print_summary(p->ctl, r->summary);
		p->done = true;
	}
	return !ferror(stdout) && fflush(stdout) == 0;
}

static int run_pass(struct ctl *ctl, const char *method, const ProtobufCMessage *request,
		    bool dry_run)
{
	struct pass pass = {.ctl = ctl, .dry_run = dry_run};
	struct cairn_err err;
	enum cairn_code rc =
		ctl_stream(ctl, method, request, &cairn__v1__collect_garbage_response__descriptor,
			   on_decisions, &pass, &err);
	if (rc == CAIRN_OK && !pass.done && !ferror(stdout)) {
		rc = cairn_err_set(&err, CAIRN_INTERNAL, "cairnd ended the call without a result");
	}
	return rc ? ctl_fail(ctl, &err) : CTL_DONE;
}

/* ---- gc ---- */

static int run_gc(struct ctl *ctl, int argc, char **argv)
{
	static const struct option own[] = {
		{"dry-run", no_argument, NULL, 'n'}, {"all", no_argument, NULL, 'a'}, {0}};
	Cairn__V1__CollectGarbageRequest request = CAIRN__V1__COLLECT_GARBAGE_REQUEST__INIT;
	for (int c; (c = ctl_getopt(ctl, argc, argv, own)) != -1;) {
		if (c == 'n') {
			request.dry_run = true;
		} else {
			request.all = true;
		}
	}
	if (optind != argc) return ctl_usage(ctl, "gc takes no arguments");
	return run_pass(ctl, "CollectGarbage", &request.base, request.dry_run);
}

#define DECISION_HELP                                                                              \
	"In a pipe, a line has fields separated by tabs. A decision: \"evict\" or \"keep\", "      \
	"digest,\n"                                                                                \
	"bytes, why, what (which lease, container, image, pin or version; \"-\": none), "          \
	"seconds\n"                                                                                \
	"since the last use. What they come to: \"summary\", a name, and its values, bytes last."

const struct ctl_verb ctl_gc = {
	.name = "gc",
	.arguments = "[--dry-run] [--all]",
	.summary = "collect garbage now, or show what would go",
	.help = "Asks containerd what it needs, and evicts what is unused for gc.keep_storage and "
		"that\n"
		"nothing holds; if the disk is too full, more. cairnd does this by itself, too. A "
		"line\n"
		"for each blob that goes, then a summary.\n\n"
		"  --dry-run   decide, but evict nothing\n"
		"  --all       a line also for each blob that stays, and why\n\n" DECISION_HELP,
	.run = run_gc,
};

/* ---- prune ---- */

static int run_prune(struct ctl *ctl, int argc, char **argv)
{
	static const struct option own[] = {{"keep", required_argument, NULL, 'k'},
					    {"dry-run", no_argument, NULL, 'n'},
					    {"nodes", required_argument, NULL, 'N'},
					    {0}};
	Cairn__V1__PruneRequest request;
	cairn__v1__prune_request__init(&request);
	request.keep = 1;
	for (int c; (c = ctl_getopt(ctl, argc, argv, own)) != -1;) {
		if (c == 'n') {
			request.dry_run = true;
		} else if (c == 'N') {
			if (optarg[0] == '\0') return ctl_usage(ctl, "--nodes needs nodes");
			request.nodes = optarg;
		} else if (!ctl_parse_number(optarg, KEEP_MAX, &request.keep)) {
			return ctl_usage(ctl, "--keep is a number from 0 to %d, not \"%s\"",
					 KEEP_MAX, optarg);
		}
	}
	if (optind + 1 != argc || argv[optind][0] == '\0') {
		return ctl_usage(ctl, "prune takes one image name");
	}
	request.name = argv[optind];
	if (request.nodes[0] != '\0') return ctl_fleet_prune(ctl, &request);
	return run_pass(ctl, "Prune", &request.base, request.dry_run);
}

const struct ctl_verb ctl_prune = {
	.name = "prune",
	.arguments = "REF [--keep N] [--dry-run] [--nodes NODES]",
	.summary = "drop an image's old versions at once",
	.help = "Forgets all versions of the image name REF but the newest, and evicts at once "
		"what\n"
		"only they needed. What containerd, a lease or a pin needs stays. REF is written "
		"as\n"
		"for a pull: busybox is docker.io/library/busybox:latest.\n\n"
		"  --keep N    how many of the newest versions stay, 0 to 1000 (default 1)\n"
		"  --dry-run   decide, but evict and forget nothing\n"
		"  --nodes NODES\n"
		"              on these nodes of the cluster, as preheat takes them; a line for "
		"each then:\n"
		"              \"node\", name, \"done\" or \"failed\", versions forgotten, "
		"blobs evicted, bytes,\n"
		"              blobs kept, bytes, error. Exit status 1 if one was not "
		"pruned\n\n" DECISION_HELP,
	.run = run_prune,
};

/* ---- pin and unpin ---- */

static void print_pinned(const struct ctl *ctl, const Cairn__V1__PinResponse *r, int64_t seconds)
{
	char target[CTL_LINE], size[CTL_TEXT], span[CTL_TEXT], until[2 * CTL_TEXT];
	ctl_format_plain(r->target, target, sizeof(target));
	if (ctl->json) {
		ctl_print_json(json_pack("{s:o, s:I, s:I, s:I}", "target", ctl_json_text(r->target),
					 "blobs", (json_int_t)r->blobs, "bytes",
					 (json_int_t)r->bytes, "for_seconds", (json_int_t)seconds));
	} else if (ctl->terminal) {
		snprintf(until, sizeof(until), "%s%s",
			 seconds > 0 ? "for " : "until it is unpinned",
			 seconds > 0 ? ctl_format_span(seconds, span) : "");
		printf("pinned %s %s; here and kept by that now: %lld blobs, %s\n", target, until,
		       (long long)r->blobs, ctl_format_bytes(r->bytes, size));
	} else {
		printf("%s\t%lld\t%lld\t%lld\n", target, (long long)r->blobs, (long long)r->bytes,
		       (long long)seconds);
	}
}

static int run_pin(struct ctl *ctl, int argc, char **argv)
{
	static const struct option own[] = {{"for", required_argument, NULL, 'f'}, {0}};
	Cairn__V1__PinRequest request;
	ProtobufCMessage *msg;
	struct cairn_err err;
	cairn__v1__pin_request__init(&request);
	while (ctl_getopt(ctl, argc, argv, own) == 'f') {
		if (!ctl_parse_span(optarg, &request.for_seconds)) {
			return ctl_usage(ctl,
					 "--for is a number with s, m, h or d, from 1s to 3650d "
					 "(such as 72h), not \"%s\"",
					 optarg);
		}
	}
	if (optind + 1 != argc || argv[optind][0] == '\0') {
		return ctl_usage(ctl, "pin takes one image name or digest");
	}
	request.target = argv[optind];
	if (ctl_call(ctl, "Pin", &request.base, &cairn__v1__pin_response__descriptor, &msg, &err) !=
	    CAIRN_OK) {
		return ctl_fail(ctl, &err);
	}
	print_pinned(ctl, (const Cairn__V1__PinResponse *)msg, request.for_seconds);
	protobuf_c_message_free_unpacked(msg, NULL);
	return CTL_DONE;
}

const struct ctl_verb ctl_pin = {
	.name = "pin",
	.arguments = "REF|DIGEST [--for TIME]",
	.summary = "keep an image or a blob, whatever garbage collection thinks",
	.help = "Keeps what REF or DIGEST needs, even if the disk is full. An image name stands "
		"for\n"
		"its newest version, whichever that is at the time. A digest is written as\n"
		"sha256:HEX.\n\n"
		"  --for TIME   how long, from 1s to 3650d: a number with s, m, h or d, such as "
		"72h\n"
		"               (default: until it is unpinned)\n\n"
		"In a pipe, prints these fields, separated by tabs: what is pinned, in full; how "
		"many\n"
		"blobs of it are here, and their bytes; for how many seconds (0: until it is "
		"unpinned).",
	.run = run_pin,
};

static int run_unpin(struct ctl *ctl, int argc, char **argv)
{
	static const struct option own[] = {{0}};
	Cairn__V1__UnpinRequest request;
	ProtobufCMessage *msg;
	struct cairn_err err;
	cairn__v1__unpin_request__init(&request);
	(void)ctl_getopt(ctl, argc, argv, own);
	if (optind + 1 != argc || argv[optind][0] == '\0') {
		return ctl_usage(ctl, "unpin takes one image name or digest");
	}
	request.target = argv[optind];
	if (ctl_call(ctl, "Unpin", &request.base, &cairn__v1__unpin_response__descriptor, &msg,
		     &err) != CAIRN_OK) {
		return ctl_fail(ctl, &err);
	}
	const bool was = ((const Cairn__V1__UnpinResponse *)msg)->was_pinned != 0;
	protobuf_c_message_free_unpacked(msg, NULL);
	if (ctl->json) {
		ctl_print_json(json_pack("{s:o, s:b}", "target", ctl_json_text(request.target),
					 "was_pinned", (int)was));
	} else if (was) {
		printf(ctl->terminal ? "%s is pinned no longer\n" : "%s\n", request.target);
	}
	if (was) return CTL_DONE;
	cairn_err_set(&err, CAIRN_NOT_FOUND, "%s is not pinned", request.target);
	return ctl_fail(ctl, &err);
}

const struct ctl_verb ctl_unpin = {
	.name = "unpin",
	.arguments = "REF|DIGEST",
	.summary = "take a pin away",
	.help = "Ends what pin began: garbage collection decides on it again. Exit status 1 if it "
		"is\n"
		"not pinned.",
	.run = run_unpin,
};
