/* cairnctl verify, import, export: long work, with a bar on a terminal, lines in a pipe (at most
 * one in two seconds), or objects. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cmd/cairnctl.h"
#include "cmd/cairnctl_format.h"
#include "cmd/cairnctl_progress.h"

#define PATH_LIMIT 4096
#define LINE_LIMIT 256

struct work {
	const struct ctl *ctl;
	struct ctl_progress progress;
	bool done; /* the last message came */
	uint64_t problems;
	bool metadata_given;
};

/* ---- progress ---- */

static void show_bar(struct work *w, const struct ctl_amounts *a)
{
	char line[LINE_LIMIT];
	size_t width, rows;
	ctl_terminal_size(&width, &rows);
	const struct ctl_rate *rate = &w->progress.rate;
	ctl_format_total(a, rate->per_s, ctl_rate_left(rate, a->bytes_total), "", width - 1, line,
			 sizeof(line));
	ctl_progress_draw(&w->progress, (const char *const[]){line}, 1);
}

static void show_line(struct work *w, const struct ctl_amounts *a)
{
	char done[CTL_TEXT], total[CTL_TEXT], rate[CTL_TEXT], left[CTL_TEXT];
	if (!ctl_progress_due(&w->progress)) return;
	int64_t seconds = ctl_rate_left(&w->progress.rate, a->bytes_total);
	printf("%lld of %lld blobs, %s of %s, %s/s, %s left\n", (long long)a->blobs_done,
	       (long long)a->blobs_total, ctl_format_bytes(a->bytes_done, done),
	       ctl_format_bytes(a->bytes_total, total),
	       ctl_format_bytes((int64_t)w->progress.rate.per_s, rate),
	       seconds < 0 ? "unknown time" : ctl_format_span(seconds, left));
}

static void show_progress(struct work *w, const struct ctl_amounts *a)
{
	ctl_rate_add(&w->progress.rate, ctl_now_ns(), a->bytes_done);
	if (w->ctl->terminal) {
		show_bar(w, a);
	} else {
		show_line(w, a);
	}
	fflush(stdout);
}

static json_t *json_amounts(const char *type, const struct ctl_amounts *a)
{
	return json_pack("{s:s, s:I, s:I, s:I, s:I}", "type", type, "blobs_done",
			 (json_int_t)a->blobs_done, "blobs_total", (json_int_t)a->blobs_total,
			 "bytes_done", (json_int_t)a->bytes_done, "bytes_total",
			 (json_int_t)a->bytes_total);
}

/* How a stream ended. */
static int finish(struct work *w, enum cairn_code rc, struct cairn_err *err)
{
	ctl_progress_clear(&w->progress);
	if (rc == CAIRN_OK && !w->done && ferror(stdout)) return CTL_DONE; /* main says the rest */
	if (rc == CAIRN_OK && !w->done) {
		rc = cairn_err_set(err, CAIRN_INTERNAL, "cairnd ended the call without a result");
	}
	if (rc) return ctl_fail(w->ctl, err);
	return w->problems > 0 ? CTL_FAILED : CTL_DONE;
}

/* ---- verify ---- */

static void print_finding(struct work *w, const Cairn__V1__VerifyFinding *f)
{
	w->problems++;
	if (w->ctl->json) {
		ctl_print_json(json_pack("{s:s, s:s, s:s, s:o, s:o}", "type", "finding", "digest",
					 f->digest, "state", ctl_state_name(f->state), "problem",
					 ctl_json_text(f->problem), "remedies",
					 ctl_json_strings(f->remedies, f->n_remedies)));
		return;
	}
	ctl_progress_clear(&w->progress);
	if (f->state == CAIRN__V1__BLOB_STATE__UNKNOWN_STATE) {
		printf("absent\t%s\t%s\n", f->digest, f->problem);
		return;
	}
	printf("damaged\t%s\t%s\t%s\n", f->digest, ctl_state_name(f->state), f->problem);
	if (f->n_remedies == 0) {
		printf("  nothing to do: no image on this node misses it%s\n",
		       f->state == CAIRN__V1__BLOB_STATE__CACHED ? "; it is dropped" : "");
	} else {
		printf("  to get it back, run:\n");
	}
	for (size_t i = 0; i < f->n_remedies; i++) printf("    %s\n", f->remedies[i]);
}

static void print_verified(struct work *w, const struct ctl_amounts *a)
{
	char size[CTL_TEXT];
	if (w->ctl->json) {
		json_t *object = json_amounts("done", a);
		json_object_set_new(object, "findings", json_integer((json_int_t)w->problems));
		ctl_print_json(object);
		return;
	}
	ctl_progress_clear(&w->progress);
	printf("%lld blobs, %s: ", (long long)a->blobs_done, ctl_format_bytes(a->bytes_done, size));
	if (w->problems == 0) {
		printf("all are what their digests say\n");
	} else {
		printf("%llu damaged or absent\n", (unsigned long long)w->problems);
	}
}

static bool on_verify(void *arg, const ProtobufCMessage *msg)
{
	struct work *w = arg;
	const Cairn__V1__VerifyProgress *p = (const Cairn__V1__VerifyProgress *)msg;
	const struct ctl_amounts a = {p->blobs_done, p->blobs_total, p->bytes_done, p->bytes_total};
	for (size_t i = 0; i < p->n_findings; i++) print_finding(w, p->findings[i]);
	w->done = p->done;
	if (p->done) {
		print_verified(w, &a);
	} else if (w->ctl->json) {
		ctl_print_json(json_amounts("progress", &a));
	} else {
		show_progress(w, &a);
	}
	return !ferror(stdout);
}

static int run_verify(struct ctl *ctl, int argc, char **argv)
{
	static const struct option own[] = {{0}};
	Cairn__V1__VerifyRequest request = CAIRN__V1__VERIFY_REQUEST__INIT;
	struct work work = {.ctl = ctl};
	struct cairn_err err;
	(void)ctl_getopt(ctl, argc, argv, own);
	request.digests = argv + optind;
	request.n_digests = (size_t)(argc - optind);
	enum cairn_code rc =
		ctl_stream(ctl, "Verify", &request.base, &cairn__v1__verify_progress__descriptor,
			   on_verify, &work, &err);
	return finish(&work, rc, &err);
}

const struct ctl_verb ctl_verify = {
	.name = "verify",
	.arguments = "[DIGEST...]",
	.summary = "hash what is stored again, and find what is damaged",
	.help = "Reads the blobs, or all that are here, and compares them with their digests. "
		"What\n"
		"does not match is taken out of service: a cached blob is dropped, a referenced "
		"one\n"
		"is no longer served, and the commands that bring it back are shown. Ctrl-C stops\n"
		"it. Exit status 1 if anything was found.",
	.run = run_verify,
};

/* ---- import and export ---- */

static void print_failure(struct work *w, const Cairn__V1__TransferFailure *f)
{
	w->problems++;
	if (w->ctl->json) {
		ctl_print_json(json_pack("{s:s, s:s, s:o}", "type", "failure", "digest", f->digest,
					 "problem", ctl_json_text(f->problem)));
		return;
	}
	ctl_progress_clear(&w->progress);
	printf("failed\t%s\t%s\n", f->digest, f->problem);
}

static void print_absent(struct work *w, const Cairn__V1__TransferProgress *p)
{
	for (size_t i = 0; i < p->n_absent; i++) {
		if (w->ctl->json) {
			ctl_print_json(json_pack("{s:s, s:o, s:s}", "type", "absent", "namespace",
						 ctl_json_text(p->absent[i]->namespace_), "digest",
						 p->absent[i]->digest));
		} else {
			printf("absent\t%s\t%s\n", p->absent[i]->namespace_, p->absent[i]->digest);
		}
	}
	if (!w->ctl->json && p->absent_total > (int64_t)p->n_absent) {
		printf("absent\t… and %lld more\n",
		       (long long)(p->absent_total - (int64_t)p->n_absent));
	}
}

static void print_records(const struct work *w, const Cairn__V1__TransferProgress *p)
{
	if (!p->records_known && p->records_missing && !w->metadata_given) {
		printf("There is no containerd database at %s, so it was not checked whether a "
		       "blob is missing; --metadata FILE says where it is.\n",
		       p->records_path);
		return;
	}
	if (!p->records_known) {
		printf("containerd's records could not be read: %s\n", p->records_error);
		return;
	}
	printf("containerd records %lld blobs (%s): ", (long long)p->recorded, p->records_path);
	if (p->absent_total == 0) {
		printf("%s\n", p->records_error[0] == '\0' ? "all are there" : p->records_error);
	} else {
		printf("%lld of them are absent or damaged. It cannot run the images that need "
		       "them; for each: ctr -n NAMESPACE content rm DIGEST, then pull the image "
		       "again.\n",
		       (long long)p->absent_total);
	}
	if (p->runtime_running) {
		printf("containerd is running, so this can change: stop it and run this once more "
		       "before you switch.\n");
	}
}

static void print_transferred(struct work *w, const Cairn__V1__TransferProgress *p,
			      const struct ctl_amounts *a)
{
	char size[CTL_TEXT];
	const char *error = p->records_error;
	if (w->ctl->json) {
		json_t *object = json_amounts("done", a);
		json_t *more = json_pack(
			"{s:I, s:I, s:I, s:I, s:I, s:b, s:b, s:I, s:I, s:o, s:o}", "linked",
			(json_int_t)p->linked, "copied", (json_int_t)p->copied, "present",
			(json_int_t)p->present, "ignored", (json_int_t)p->ignored, "failures",
			(json_int_t)w->problems, "records_known", (int)p->records_known,
			"containerd_running", (int)p->runtime_running, "recorded",
			(json_int_t)p->recorded, "absent", (json_int_t)p->absent_total,
			"records_path", ctl_json_text(p->records_path), "records_error",
			ctl_json_text(error));
		json_object_update(object, more);
		json_decref(more);
		print_absent(w, p);
		ctl_print_json(object);
	} else {
		ctl_progress_clear(&w->progress);
		printf("%lld blobs, %s: %lld linked, %lld copied, %lld there already, %llu "
		       "failed\n",
		       (long long)a->blobs_done, ctl_format_bytes(a->bytes_done, size),
		       (long long)p->linked, (long long)p->copied, (long long)p->present,
		       (unsigned long long)w->problems);
		if (p->ignored > 0) {
			printf("%lld files are no blobs, by their names, and were left alone\n",
			       (long long)p->ignored);
		}
		print_absent(w, p);
		print_records(w, p);
	}
	w->problems += (uint64_t)p->absent_total;
	/* No database where one is only expected: all right, it was told. Else it is a failure. */
	if (!p->records_known && (!p->records_missing || w->metadata_given)) w->problems++;
	if (p->records_known && error[0] != '\0') w->problems++;
}

static bool on_transfer(void *arg, const ProtobufCMessage *msg)
{
	struct work *w = arg;
	const Cairn__V1__TransferProgress *p = (const Cairn__V1__TransferProgress *)msg;
	const struct ctl_amounts a = {p->blobs_done, p->blobs_total, p->bytes_done, p->bytes_total};
	for (size_t i = 0; i < p->n_failures; i++) print_failure(w, p->failures[i]);
	w->done = p->done;
	if (p->done) {
		print_transferred(w, p, &a);
	} else if (w->ctl->json) {
		ctl_print_json(json_amounts("progress", &a));
	} else {
		show_progress(w, &a);
	}
	return !ferror(stdout);
}

/* cairnd does the work, in a current directory of its own. */
static bool make_absolute(const char *path, char buf[static PATH_LIMIT])
{
	char here[PATH_LIMIT] = "";
	if (path[0] != '/' && getcwd(here, sizeof(here)) == NULL) return false;
	int n = snprintf(buf, PATH_LIMIT, "%s%s%s", here, here[0] != '\0' ? "/" : "", path);
	return n > 0 && n < PATH_LIMIT;
}

static int run_transfer(struct ctl *ctl, int argc, char **argv, bool import)
{
	static const struct option own[] = {{"metadata", required_argument, NULL, 'm'}, {0}};
	Cairn__V1__ImportRequest in;
	Cairn__V1__ExportRequest out;
	char directory[PATH_LIMIT], metadata[PATH_LIMIT] = "";
	struct work work = {.ctl = ctl};
	struct cairn_err err;
	while (ctl_getopt(ctl, argc, argv, own) == 'm') {
		work.metadata_given = true;
		if (optarg[0] == '\0' || !make_absolute(optarg, metadata)) {
			return ctl_usage(ctl, "--metadata: no valid path");
		}
	}
	if (optind + 1 != argc) return ctl_usage(ctl, "%s takes one directory", ctl->verb->name);
	if (argv[optind][0] == '\0' || !make_absolute(argv[optind], directory)) {
		return ctl_usage(ctl, "no valid directory");
	}
	cairn__v1__import_request__init(&in);
	cairn__v1__export_request__init(&out);
	in.directory = out.directory = directory;
	in.metadata = out.metadata = metadata;
	enum cairn_code rc =
		ctl_stream(ctl, import ? "Import" : "Export", import ? &in.base : &out.base,
			   &cairn__v1__transfer_progress__descriptor, on_transfer, &work, &err);
	return finish(&work, rc, &err);
}

static int run_import(struct ctl *ctl, int argc, char **argv)
{
	return run_transfer(ctl, argc, argv, true);
}

static int run_export(struct ctl *ctl, int argc, char **argv)
{
	return run_transfer(ctl, argc, argv, false);
}

#define RECORDS_HELP                                                                               \
	"  --metadata FILE  containerd's database (default: "                                      \
	"io.containerd.metadata.v1.bolt/meta.db\n"                                                 \
	"                   beside DIR)\n\n"                                                       \
	"What is done already is passed over, so it may be stopped with Ctrl-C and run again.\n"   \
	"Exit status 1 if a blob failed, or containerd records one that is absent now."

const struct ctl_verb ctl_import = {
	.name = "import",
	.arguments = "DIR [--metadata FILE]",
	.summary = "adopt the blobs of a containerd content directory",
	.help = "Takes every blob under DIR/blobs into cairn: hashes it, then makes a hard link, "
		"or a\n"
		"copy if DIR is on another file system. DIR is not changed. Ends by saying which\n"
		"blobs containerd records that are not here. Run it while containerd runs, stop\n"
		"containerd, run it again (this is quick), and then switch containerd to cairn.\n\n"
		"DIR is on the node where cairnd runs, and is usually\n"
		"/var/lib/containerd/io.containerd.content.v1.content.\n\n" RECORDS_HELP,
	.run = run_import,
};

const struct ctl_verb ctl_export = {
	.name = "export",
	.arguments = "DIR [--metadata FILE]",
	.summary = "give all referenced blobs back as a containerd content directory",
	.help = "Puts every referenced blob under DIR/blobs, as a hard link, or as a copy if DIR "
		"is on\n"
		"another file system, so that containerd can go back to its own content store.\n"
		"cairn keeps its blobs. Ends by saying which blobs containerd records that are "
		"not\n"
		"in DIR. Run it once more after containerd is stopped.\n\n" RECORDS_HELP,
	.run = run_export,
};
