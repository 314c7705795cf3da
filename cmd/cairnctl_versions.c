/* cairnctl versions: what image names stood for, and what a roll-back would find here. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "cmd/cairnctl.h"
#include "cmd/cairnctl_fleet.h"
#include "cmd/cairnctl_format.h"

struct history {
	const struct ctl *ctl;
	int64_t now_s;
	bool any;
	char name[CTL_LINE]; /* whose versions are being printed */
};

static json_t *json_version(const Cairn__V1__Version *v)
{
	return json_pack("{s:o, s:s, s:b, s:b, s:b, s:I, s:I, s:I, s:I, s:o, s:o}", "name",
			 ctl_json_text(v->name), "digest", v->digest, "current", (int)v->current,
			 "complete", (int)v->complete, "kept", (int)v->kept, "blobs",
			 (json_int_t)v->blobs, "bytes", (json_int_t)v->bytes, "missing_blobs",
			 (json_int_t)v->missing_blobs, "missing_bytes",
			 (json_int_t)v->missing_bytes, "first_seen", ctl_json_time(v->first_seen),
			 "last_seen", ctl_json_time(v->last_seen));
}

static void print_fields(const Cairn__V1__Version *v)
{
	char name[CTL_LINE], first[CTL_TEXT], last[CTL_TEXT];
	printf("%s\t%s\t%s\t%s\t%lld\t%lld\t%s\t%lld\t%lld\t%s\t%s\n",
	       ctl_format_plain(v->name, name, sizeof(name)), v->digest,
	       v->current ? "current" : "-", v->complete ? "complete" : "incomplete",
	       (long long)v->missing_blobs, (long long)v->missing_bytes, v->kept ? "kept" : "-",
	       (long long)v->blobs, (long long)v->bytes,
	       ctl_format_time(ctl_seconds(v->first_seen), first),
	       ctl_format_time(ctl_seconds(v->last_seen), last));
}

/* An image of several platforms is complete with one of them, so something may lack all the same.
 */
static const char *readiness(const Cairn__V1__Version *v, char buf[static 2 * CTL_TEXT])
{
	char size[CTL_TEXT];
	if (v->complete) return "ready";
	if (v->missing_blobs == 0) return "not known"; /* its manifest does not say what it needs */
	snprintf(buf, 2 * CTL_TEXT, "lacks %lld, %s", (long long)v->missing_blobs,
		 ctl_format_bytes(v->missing_bytes, size));
	return buf;
}

static const char *ago(const struct history *h, const Cairn__Wire__Timestamp *ts,
		       char buf[static CTL_TEXT])
{
	return ts == NULL ? "-" : ctl_format_span(h->now_s - ts->seconds, buf);
}

/* A name may be longer than the line: it stands above its versions. */
static void print_row(struct history *h, const Cairn__V1__Version *v)
{
	char name[CTL_LINE], size[CTL_TEXT], first[CTL_TEXT], last[CTL_TEXT], ready[2 * CTL_TEXT];
	ctl_format_plain(v->name, name, sizeof(name));
	if (!h->any) {
		printf("  %-71s  %-7s  %-22s  %-4s  %10s  %10s  %9s\n", "DIGEST", "CURRENT",
		       "ROLL-BACK", "KEPT", "SIZE", "FIRST SEEN", "LAST SEEN");
	}
	if (strcmp(name, h->name) != 0) printf("%s\n", name);
	snprintf(h->name, sizeof(h->name), "%s", name);
	printf("  %-71s  %-7s  %-22s  %-4s  %10s  %10s  %9s\n", v->digest,
	       v->current ? "current" : "-", readiness(v, ready), v->kept ? "kept" : "-",
	       ctl_format_bytes(v->bytes, size), ago(h, v->first_seen, first),
	       ago(h, v->last_seen, last));
}

static bool on_versions(void *arg, const ProtobufCMessage *msg)
{
	struct history *h = arg;
	const Cairn__V1__ListVersionsResponse *r = (const Cairn__V1__ListVersionsResponse *)msg;
	for (size_t i = 0; i < r->n_versions && !ferror(stdout); i++) {
		if (h->ctl->json) {
			ctl_print_json(json_version(r->versions[i]));
		} else if (h->ctl->terminal) {
			print_row(h, r->versions[i]);
		} else {
			print_fields(r->versions[i]);
		}
		h->any = true;
	}
	return !ferror(stdout) && fflush(stdout) == 0;
}

static int run_versions(struct ctl *ctl, int argc, char **argv)
{
	static const struct option own[] = {{"fleet", no_argument, NULL, 'f'}, {0}};
	bool fleet = false;
	Cairn__V1__ListVersionsRequest request;
	struct history history = {.ctl = ctl,
				  .now_s = cairn_real_ns(&cairn_clock_system) / CAIRN_NS_PER_S};
	struct cairn_err err;
	cairn__v1__list_versions_request__init(&request);
	while (ctl_getopt(ctl, argc, argv, own) == 'f') fleet = true;
	if (optind + 1 < argc || (optind < argc && argv[optind][0] == '\0')) {
		return ctl_usage(ctl, "versions takes one image name, or none");
	}
	if (optind < argc) request.name = argv[optind];
	if (fleet && optind == argc) return ctl_usage(ctl, "versions --fleet takes one image name");
	if (fleet) return ctl_fleet_versions(ctl, request.name);
	if (ctl_stream(ctl, "ListVersions", &request.base,
		       &cairn__v1__list_versions_response__descriptor, on_versions, &history,
		       &err) != CAIRN_OK) {
		return ctl_fail(ctl, &err);
	}
	if (history.any || request.name[0] == '\0' || ferror(stdout)) return CTL_DONE;
	cairn_err_set(&err, CAIRN_NOT_FOUND, "%s: no version of it is known", request.name);
	return ctl_fail(ctl, &err);
}

const struct ctl_verb ctl_versions = {
	.name = "versions",
	.arguments = "[REF [--fleet]]",
	.summary = "what image names stood for, and what of that is here",
	.help = "Lists the versions of the image name REF, or of all names, newest first. "
		"\"ready\": all\n"
		"that it needs is here, for at least one platform, so a roll-back to it downloads\n"
		"nothing; else how many blobs and bytes are lacking. \"kept\": garbage collection\n"
		"keeps it for a roll-back. Exit status 1 if no version of REF is known.\n\n"
		"  --fleet   ask every node of the cluster: of each version of REF, how many nodes "
		"could\n"
		"            go back to it right now, which could not, and why\n\n"
		"In a pipe, a line has these fields, separated by tabs: name, digest, \"current\" "
		"or\n"
		"\"-\", \"complete\" or \"incomplete\", missing blobs, missing bytes, \"kept\" or "
		"\"-\", blobs,\n"
		"bytes, first seen, last seen (UTC). With --fleet: \"version\", name, digest, "
		"nodes that "
		"are\n"
		"ready, of how many, nodes where it is current; and for each that is not ready "
		"\"not-ready\",\n"
		"digest, node, why.",
	.run = run_versions,
};
