/* Following a job of preheat until it is over, as preheat does with its own and `jobs --watch` with
 * any.
 *
 * A message has the blobs that changed since the one before; all that were ever told are kept here,
 * so that there is a bar for each that runs. On a terminal the bars and a line for the whole are
 * redrawn in place, and what stays is printed above them: images that ended. In a pipe the first
 * field of a line says what it is: "blob", one that ended, at once; "progress", now and then;
 * "image" and "job", how they ended. */
#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "cmd/cairnctl_fleet.h"
#include "cmd/cairnctl_format.h"
#include "cmd/cairnctl_job.h"
#include "cmd/cairnctl_progress.h"

#define BARS_MAX 8
#define DRAW_NS (CAIRN_NS_PER_S / 10) /* between two drawings */
#define LINE_LIMIT 512

struct blob {
	const char *digest;
	int64_t size, done;
	Cairn__V1__JobState state;
	const char *note; /* how it comes, if not from its registry */
	char *error;	  /* NULL: none */
	char text[];	  /* of digest */
};

struct follow {
	const struct ctl *ctl;
	struct ctl_progress progress;
	void *by_digest;     /* tsearch's tree of blobs */
	struct blob **blobs; /* in the order in which they were told */
	size_t n_blobs, cap_blobs;
	Cairn__V1__JobState *images; /* as they were told last */
	size_t n_images;
	struct ctl_nodes nodes;
	char id[CTL_LINE]; /* "": not known yet */
	bool done, succeeded;
};

static void *must(void *memory)
{
	if (memory == NULL) abort();
	return memory;
}

/* ---- blobs ---- */

static int compare(const void *a, const void *b)
{
	return strcmp(((const struct blob *)a)->digest, ((const struct blob *)b)->digest);
}

/* The blob with that digest, new or not. */
static struct blob *blob_of(struct follow *f, const char *digest)
{
	const struct blob key = {.digest = digest};
	struct blob **found = tfind(&key, &f->by_digest, compare);
	if (found != NULL) return *found;
	if (f->n_blobs == f->cap_blobs) {
		f->cap_blobs = f->cap_blobs > 0 ? 2 * f->cap_blobs : 64;
		f->blobs = must(realloc(f->blobs, f->cap_blobs * sizeof(struct blob *)));
	}
	const size_t len = strlen(digest) + 1;
	struct blob *blob = must(calloc(1, sizeof(*blob) + len));
	blob->digest = memcpy(blob->text, digest, len);
	must(tsearch(blob, &f->by_digest, compare));
	f->blobs[f->n_blobs++] = blob;
	return blob;
}

static void free_blob(void *memory)
{
	struct blob *blob = memory;
	free(blob->error);
	free(blob);
}

static const char *note_of(const char *source)
{
	if (strcmp(source, "pull") == 0) return "by containerd";
	return strcmp(source, "peers") == 0 ? "from peers" : "";
}

static void take_blob(struct follow *f, const Cairn__V1__JobBlob *b)
{
	struct blob *blob = blob_of(f, b->digest);
	const bool ended = ctl_job_over(b->state) && !ctl_job_over(blob->state);
	blob->size = b->size;
	blob->done = b->done;
	blob->state = b->state;
	blob->note = note_of(b->source);
	free(blob->error);
	blob->error = b->error[0] != '\0' ? must(strdup(b->error)) : NULL;
	if (f->ctl->json) {
		ctl_print_json(ctl_json_job_blob(b));
	} else if (!f->ctl->terminal && ended) {
		ctl_print_job_blob(b);
	}
}

/* ---- nodes ---- */

/* One that ended is told at once; on a terminal, all of them once more in the table at the end. */
static void take_node(struct follow *f, const Cairn__V1__JobNode *node)
{
	const bool changed = ctl_nodes_take(&f->nodes, node);
	if (f->ctl->json) {
		ctl_print_node(f->ctl, node);
	} else if (changed && ctl_node_over(node->state)) {
		ctl_progress_clear(&f->progress);
		ctl_print_node(f->ctl, node);
	}
}

static void print_nodes(const struct follow *f)
{
	if (f->ctl->json || !f->ctl->terminal || f->nodes.n == 0) return;
	printf("\n");
	ctl_print_node_head();
	for (size_t i = 0; i < f->nodes.n; i++) ctl_print_node(f->ctl, f->nodes.list[i]);
	printf("\n");
}

/* ---- images ---- */

/* On a terminal, an image that ended: why it failed is told at the end. */
static void print_ended(struct follow *f, const Cairn__V1__JobImage *image)
{
	char name[CTL_LINE], digest[CTL_LINE];
	ctl_progress_clear(&f->progress);
	printf("%-9s  %s%s%s\n", ctl_job_state(image->state),
	       ctl_format_plain(image->reference, name, sizeof(name)),
	       image->digest[0] != '\0' ? "  " : "",
	       image->digest[0] != '\0' ? ctl_format_plain(image->digest, digest, sizeof(digest))
					: "");
}

static void take_image(struct follow *f, size_t i, const Cairn__V1__JobImage *image)
{
	if (f->images[i] == image->state) return;
	f->images[i] = image->state;
	if (f->ctl->json) {
		ctl_print_json(ctl_json_job_image(image));
	} else if (f->ctl->terminal && ctl_job_over(image->state)) {
		print_ended(f, image);
	}
}

static int64_t bytes_got(const Cairn__V1__Job *job)
{
	return job->bytes_fetched + job->bytes_from_peers;
}

static void take_job(struct follow *f, const Cairn__V1__Job *job)
{
	if (job->n_images > f->n_images) {
		f->images = must(realloc(f->images, job->n_images * sizeof(f->images[0])));
		for (; f->n_images < job->n_images; f->n_images++) {
			f->images[f->n_images] = CAIRN__V1__JOB_STATE__UNKNOWN_JOB_STATE;
		}
	}
	snprintf(f->id, sizeof(f->id), "%s", job->id);
	for (size_t i = 0; i < job->n_images; i++) take_image(f, i, job->images[i]);
	if (f->ctl->json) ctl_print_json(ctl_json_job(job));
	/* What was here at first, or comes by others, says nothing of how fast it goes. */
	ctl_rate_add(&f->progress.rate, ctl_now_ns(), bytes_got(job));
}

/* ---- progress ---- */

static int64_t seconds_left(const struct follow *f, const Cairn__V1__Job *job)
{
	return ctl_rate_left(&f->progress.rate,
			     bytes_got(job) + job->bytes_total - job->bytes_done);
}

static void format_job(const struct follow *f, const Cairn__V1__Job *job, size_t width,
		       char line[static LINE_LIMIT])
{
	char images[CTL_TEXT];
	const struct ctl_amounts a = {job->blobs_done, job->blobs_total, job->bytes_done,
				      job->bytes_total};
	if (job->fleet != NULL) {
		snprintf(images, sizeof(images), "  %lld/%lld nodes", (long long)job->nodes_done,
			 (long long)job->nodes_total);
	} else {
		snprintf(images, sizeof(images), "  %lld/%zu images",
			 (long long)ctl_job_images_done(job), job->n_images);
	}
	if (job->blobs_total == 0) { /* nothing is known of it yet */
		snprintf(line, LINE_LIMIT < width + 1 ? LINE_LIMIT : width + 1, "%s%s",
			 ctl_job_state(job->state), images);
		return;
	}
	ctl_format_total(&a, f->progress.rate.per_s, seconds_left(f, job), images, width, line,
			 LINE_LIMIT);
}

static void draw(struct follow *f, const Cairn__V1__Job *job)
{
	char lines[BARS_MAX + 1][LINE_LIMIT];
	const char *pointers[BARS_MAX + 1];
	size_t columns, rows, n = 0;
	if (f->progress.shown > 0 && ctl_now_ns() - f->progress.drawn_ns < DRAW_NS) return;
	ctl_terminal_size(&columns, &rows);
	const size_t bars = rows < BARS_MAX + 2 ? (rows > 2 ? rows - 2 : 0) : BARS_MAX;
	for (size_t i = 0; i < f->n_blobs && n < bars; i++) {
		const struct blob *b = f->blobs[i];
		if (b->state != CAIRN__V1__JOB_STATE__RUNNING) continue;
		ctl_format_blob(b->digest, b->done, b->size, b->note, columns - 1, lines[n],
				LINE_LIMIT);
		n++;
	}
	format_job(f, job, columns - 1, lines[n++]);
	for (size_t i = 0; i < n; i++) pointers[i] = lines[i];
	ctl_progress_draw(&f->progress, pointers, n);
}

static void show_line(struct follow *f, const Cairn__V1__Job *job)
{
	if (!ctl_progress_due(&f->progress)) return;
	const int64_t left = seconds_left(f, job);
	printf("progress\t%lld\t%lld\t%lld\t%lld\t%lld\t", (long long)job->blobs_done,
	       (long long)job->blobs_total, (long long)job->bytes_done, (long long)job->bytes_total,
	       (long long)f->progress.rate.per_s);
	printf(left < 0 ? "-\n" : "%lld\n", (long long)left);
}

/* ---- the end ---- */

static void print_summary(const struct ctl *ctl, const Cairn__V1__Job *job)
{
	char size[CTL_TEXT], fetched[CTL_TEXT], peers[CTL_TEXT], took[CTL_TEXT];
	const int64_t seconds = ctl_seconds(job->ended_at) - ctl_seconds(job->started_at);
	if (ctl->json) return; /* told when it came */
	if (!ctl->terminal) {
		for (size_t i = 0; i < job->n_images; i++) ctl_print_job_image(job->images[i]);
		printf("job\t");
		ctl_print_job_fields(job);
		return;
	}
	printf("%s: ", ctl_job_state(job->state));
	if (job->fleet != NULL) {
		printf("%lld of %lld nodes, ", (long long)job->nodes_done,
		       (long long)job->nodes_total);
	} else {
		printf("%lld of %zu images, ", (long long)ctl_job_images_done(job), job->n_images);
	}
	printf("%lld of %lld blobs, %s are %s; %s of that came from registries",
	       (long long)job->blobs_done, (long long)job->blobs_total,
	       ctl_format_bytes(job->bytes_done, size), job->fleet != NULL ? "there" : "here",
	       ctl_format_bytes(job->bytes_fetched, fetched));
	if (job->bytes_from_peers > 0) {
		printf(", %s from peers", ctl_format_bytes(job->bytes_from_peers, peers));
	}
	if (job->started_at != NULL && job->ended_at != NULL) {
		printf(", in %s", ctl_format_span(seconds > 0 ? seconds : 1, took));
	}
	printf("\n");
}

/* What failed, and why, on standard error. Blobs that were not begun when the job ended have no
 * reason of their own. */
static void tell_problems(const struct follow *f, const Cairn__V1__Job *job)
{
	char name[CTL_LINE], error[CTL_LINE];
	fflush(stdout);
	for (size_t i = 0; i < f->n_blobs; i++) {
		const struct blob *b = f->blobs[i];
		if (b->state == CAIRN__V1__JOB_STATE__SUCCEEDED) continue;
		if (b->error == NULL && b->state != CAIRN__V1__JOB_STATE__FAILED) continue;
		fprintf(stderr, "cairnctl: %s: %s\n",
			ctl_format_plain(b->digest, name, sizeof(name)),
			b->error != NULL ? ctl_format_plain(b->error, error, sizeof(error))
					 : "failed");
	}
	for (size_t i = 0; i < f->nodes.n; i++) ctl_tell_node(f->nodes.list[i]);
	for (size_t i = 0; i < job->n_images && job->fleet == NULL; i++) {
		const Cairn__V1__JobImage *image = job->images[i];
		if (image->state == CAIRN__V1__JOB_STATE__SUCCEEDED) continue;
		fprintf(stderr, "cairnctl: %s: %s\n",
			ctl_format_plain(image->reference, name, sizeof(name)),
			image->error[0] != '\0'
				? ctl_format_plain(image->error, error, sizeof(error))
				: ctl_job_state(image->state));
	}
	fprintf(stderr, "cairnctl: job %s: %s%s%s\n", ctl_format_plain(job->id, name, sizeof(name)),
		ctl_job_state(job->state), job->error[0] != '\0' ? ": " : "",
		job->error[0] != '\0' ? ctl_format_plain(job->error, error, sizeof(error)) : "");
}

static bool on_progress(void *arg, const ProtobufCMessage *msg)
{
	struct follow *f = arg;
	const Cairn__V1__JobProgress *p = (const Cairn__V1__JobProgress *)msg;
	for (size_t i = 0; i < p->n_blobs; i++) take_blob(f, p->blobs[i]);
	for (size_t i = 0; i < p->n_nodes; i++) take_node(f, p->nodes[i]);
	if (p->job == NULL) return !ferror(stdout);
	take_job(f, p->job);
	if (p->done) {
		f->done = true;
		f->succeeded = p->job->state == CAIRN__V1__JOB_STATE__SUCCEEDED;
		ctl_progress_clear(&f->progress);
		print_nodes(f);
		print_summary(f->ctl, p->job);
		if (!f->succeeded) tell_problems(f, p->job);
	} else if (f->ctl->terminal && !f->ctl->json) {
		draw(f, p->job);
	} else if (!f->ctl->json) {
		show_line(f, p->job);
	}
	return fflush(stdout) == 0 && !ferror(stdout);
}

/* The stream ended before the job did. */
static int tell_broken(const struct follow *f, bool owner, enum cairn_code rc,
		       struct cairn_err *err)
{
	char id[CTL_LINE + 8] = "the job";
	if (rc == CAIRN_OK && ferror(stdout)) return CTL_DONE; /* main says the rest */
	if (f->id[0] != '\0') {
		char plain[CTL_LINE];
		snprintf(id, sizeof(id), "job %s", ctl_format_plain(f->id, plain, sizeof(plain)));
	}
	if (rc == CAIRN_OK) {
		cairn_err_set(err, CAIRN_INTERNAL, "cairnd ended the call without a result");
	} else if (rc == CAIRN_CANCELLED && ctl_interrupted()) {
		cairn_err_set(err, rc,
			      owner ? "interrupted; cairnd cancels %.100s"
				    : "interrupted; %.100s goes on",
			      id);
	}
	(void)ctl_fail(f->ctl, err);
	if (rc == CAIRN_UNAVAILABLE && f->id[0] != '\0') {
		fprintf(stderr,
			"cairnctl: once cairnd is back, \"cairnctl jobs %s\" says how the job "
			"stands\n",
			id + strlen("job "));
	}
	return CTL_FAILED;
}

int ctl_follow_job(struct ctl *ctl, const char *method, const ProtobufCMessage *request, bool owner)
{
	struct follow f = {.ctl = ctl};
	struct cairn_err err;
	enum cairn_code rc = ctl_stream(ctl, method, request, &cairn__v1__job_progress__descriptor,
					on_progress, &f, &err);
	ctl_progress_clear(&f.progress);
	int status = f.succeeded ? CTL_DONE : CTL_FAILED;
	/* Once the job is over, how the call ended says nothing more. */
	if (!f.done) status = tell_broken(&f, owner, rc, &err);
	tdestroy(f.by_digest, free_blob);
	ctl_nodes_fini(&f.nodes);
	free(f.blobs);
	free(f.images);
	return status;
}
