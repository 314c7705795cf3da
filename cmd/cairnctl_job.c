#include "cmd/cairnctl_job.h"

#include <stdio.h>

#include "base/clock.h"
#include "cmd/cairnctl_fleet.h"
#include "cmd/cairnctl_format.h"

const char *ctl_job_state(Cairn__V1__JobState state)
{
	switch (state) {
	case CAIRN__V1__JOB_STATE__QUEUED:
		return "queued";
	case CAIRN__V1__JOB_STATE__RUNNING:
		return "running";
	case CAIRN__V1__JOB_STATE__SUCCEEDED:
		return "succeeded";
	case CAIRN__V1__JOB_STATE__PARTIAL:
		return "partial";
	case CAIRN__V1__JOB_STATE__FAILED:
		return "failed";
	case CAIRN__V1__JOB_STATE__CANCELLED:
		return "cancelled";
	default:
		return "unknown";
	}
}

bool ctl_job_over(Cairn__V1__JobState state)
{
	return state == CAIRN__V1__JOB_STATE__SUCCEEDED || state == CAIRN__V1__JOB_STATE__PARTIAL ||
	       state == CAIRN__V1__JOB_STATE__FAILED || state == CAIRN__V1__JOB_STATE__CANCELLED;
}

int64_t ctl_job_images_done(const Cairn__V1__Job *job)
{
	int64_t n = 0;
	for (size_t i = 0; i < job->n_images; i++) {
		if (job->images[i]->state == CAIRN__V1__JOB_STATE__SUCCEEDED) n++;
	}
	return n;
}

int64_t ctl_job_age(const Cairn__V1__Job *job)
{
	const int64_t now = cairn_real_ns(&cairn_clock_system) / CAIRN_NS_PER_S;
	const int64_t age = now - ctl_seconds(job->created_at);
	return job->created_at == NULL || age < 0 ? 0 : age;
}

/* ---- objects ---- */

json_t *ctl_json_job(const Cairn__V1__Job *job)
{
	json_t *object = json_pack(
		"{s:s, s:o, s:s, s:o, s:o, s:o, s:o, s:i, s:{s:I, s:I}, s:{s:I, s:I}, "
		"s:{s:I, s:I, s:I, s:I}, s:o}",
		"type", "job", "id", ctl_json_text(job->id), "state", ctl_job_state(job->state),
		"created", ctl_json_time(job->created_at), "started",
		ctl_json_time(job->started_at), "ended", ctl_json_time(job->ended_at), "platforms",
		ctl_json_strings(job->platforms, job->n_platforms), "priority", (int)job->priority,
		"images", "done", (json_int_t)ctl_job_images_done(job), "total",
		(json_int_t)job->n_images, "blobs", "done", (json_int_t)job->blobs_done, "total",
		(json_int_t)job->blobs_total, "bytes", "done", (json_int_t)job->bytes_done, "total",
		(json_int_t)job->bytes_total, "fetched", (json_int_t)job->bytes_fetched,
		"from_peers", (json_int_t)job->bytes_from_peers, "error",
		ctl_json_text(job->error));
	if (job->fleet != NULL) {
		json_object_set_new(object, "nodes",
				    json_pack("{s:I, s:I, s:I}", "done",
					      (json_int_t)job->nodes_done, "total",
					      (json_int_t)job->nodes_total, "failed",
					      (json_int_t)job->nodes_failed));
	}
	return object;
}

json_t *ctl_json_job_image(const Cairn__V1__JobImage *image)
{
	return json_pack("{s:s, s:o, s:o, s:s, s:o}", "type", "image", "reference",
			 ctl_json_text(image->reference), "digest", ctl_json_text(image->digest),
			 "state", ctl_job_state(image->state), "error",
			 ctl_json_text(image->error));
}

json_t *ctl_json_job_blob(const Cairn__V1__JobBlob *blob)
{
	return json_pack("{s:s, s:o, s:s, s:I, s:I, s:o, s:o}", "type", "blob", "digest",
			 ctl_json_text(blob->digest), "state", ctl_job_state(blob->state), "size",
			 (json_int_t)blob->size, "done", (json_int_t)blob->done, "source",
			 ctl_json_text(blob->source), "error", ctl_json_text(blob->error));
}

/* ---- fields ---- */

void ctl_print_job_fields(const Cairn__V1__Job *job)
{
	char id[CTL_LINE], error[CTL_LINE];
	printf("%s\t%s\t%lld\t%lld\t%zu\t%lld\t%lld\t%lld\t%lld\t%lld\t%s\n",
	       ctl_format_plain(job->id, id, sizeof(id)), ctl_job_state(job->state),
	       (long long)ctl_job_age(job), (long long)ctl_job_images_done(job), job->n_images,
	       (long long)job->blobs_done, (long long)job->blobs_total, (long long)job->bytes_done,
	       (long long)job->bytes_total, (long long)job->bytes_fetched,
	       ctl_format_plain(job->error, error, sizeof(error)));
}

void ctl_print_job_image(const Cairn__V1__JobImage *image)
{
	char name[CTL_LINE], digest[CTL_LINE], error[CTL_LINE];
	printf("image\t%s\t%s\t%s\t%s\n", ctl_format_plain(image->reference, name, sizeof(name)),
	       ctl_job_state(image->state), ctl_format_plain(image->digest, digest, sizeof(digest)),
	       ctl_format_plain(image->error, error, sizeof(error)));
}

void ctl_print_job_blob(const Cairn__V1__JobBlob *blob)
{
	char digest[CTL_LINE], source[CTL_TEXT], error[CTL_LINE];
	printf("blob\t%s\t%s\t%lld\t%lld\t%s\t%s\n",
	       ctl_format_plain(blob->digest, digest, sizeof(digest)), ctl_job_state(blob->state),
	       (long long)blob->done, (long long)blob->size,
	       ctl_format_plain(blob->source, source, sizeof(source)),
	       ctl_format_plain(blob->error, error, sizeof(error)));
}

/* ---- one job on a terminal ---- */

static void print_list(const struct ctl *ctl, const char *key, char **list, size_t n)
{
	char text[CTL_LINE];
	for (size_t i = 0; i < n; i++) {
		ctl_print_field(ctl, key, ctl_format_plain(list[i], text, sizeof(text)));
	}
}

static void print_amounts(const struct ctl *ctl, const Cairn__V1__Job *job)
{
	char text[4 * CTL_TEXT], done[CTL_TEXT], total[CTL_TEXT];
	snprintf(text, sizeof(text), "%lld of %zu are here", (long long)ctl_job_images_done(job),
		 job->n_images);
	ctl_print_field(ctl, "images", text);
	snprintf(text, sizeof(text), "%lld of %lld are here, %s of %s", (long long)job->blobs_done,
		 (long long)job->blobs_total, ctl_format_bytes(job->bytes_done, done),
		 ctl_format_bytes(job->bytes_total, total));
	ctl_print_field(ctl, "blobs", text);
	if (job->fleet != NULL) {
		snprintf(text, sizeof(text),
			 "%lld of %lld have all of it, %lld have failed or are down",
			 (long long)job->nodes_done, (long long)job->nodes_total,
			 (long long)job->nodes_failed);
		ctl_print_field(ctl, "nodes", text);
	}
	ctl_print_size(ctl, "fetched", job->bytes_fetched);
	ctl_print_size(ctl, "from peers", job->bytes_from_peers);
}

static void print_head(const struct ctl *ctl, const Cairn__V1__Job *job)
{
	char text[CTL_LINE];
	ctl_print_field(ctl, "job", ctl_format_plain(job->id, text, sizeof(text)));
	ctl_print_field(ctl, "state", ctl_job_state(job->state));
	if (job->error[0] != '\0') {
		ctl_print_field(ctl, "error", ctl_format_plain(job->error, text, sizeof(text)));
	}
	ctl_print_time(ctl, "created", job->created_at);
	ctl_print_time(ctl, "started", job->started_at);
	ctl_print_time(ctl, "ended", job->ended_at);
	print_list(ctl, "platform", job->platforms, job->n_platforms);
	snprintf(text, sizeof(text), "%d", (int)job->priority);
	ctl_print_field(ctl, "priority", text);
	print_amounts(ctl, job);
}

static void print_image_row(const Cairn__V1__JobImage *image)
{
	char name[CTL_LINE], error[CTL_LINE];
	printf("%-9s  %s%s%s\n", ctl_job_state(image->state),
	       ctl_format_plain(image->reference, name, sizeof(name)),
	       image->error[0] != '\0' ? ": " : "",
	       image->error[0] != '\0' ? ctl_format_plain(image->error, error, sizeof(error)) : "");
}

static void print_blob_row(const Cairn__V1__JobBlob *blob)
{
	char digest[CTL_LINE], done[CTL_TEXT], size[CTL_TEXT], source[CTL_TEXT], error[CTL_LINE];
	printf("%-9s  %-71s  %10s of %10s  %-8s  %s\n", ctl_job_state(blob->state),
	       ctl_format_plain(blob->digest, digest, sizeof(digest)),
	       ctl_format_bytes(blob->done, done), ctl_format_bytes(blob->size, size),
	       ctl_format_plain(blob->source, source, sizeof(source)),
	       ctl_format_plain(blob->error, error, sizeof(error)));
}

/* The job and its images. */
static void print_job(const struct ctl *ctl, const Cairn__V1__Job *job)
{
	if (ctl->json) {
		ctl_print_json(ctl_json_job(job));
	} else if (ctl->terminal) {
		print_head(ctl, job);
		printf("\n");
	} else {
		printf("job\t");
		ctl_print_job_fields(job);
	}
	for (size_t i = 0; i < job->n_images && !ferror(stdout); i++) {
		if (ctl->json) {
			ctl_print_json(ctl_json_job_image(job->images[i]));
		} else if (ctl->terminal) {
			print_image_row(job->images[i]);
		} else {
			ctl_print_job_image(job->images[i]);
		}
	}
}

void ctl_print_job(const struct ctl *ctl, const Cairn__V1__JobProgress *p, bool first)
{
	if (first && p->job != NULL) print_job(ctl, p->job);
	if (first && p->n_blobs > 0 && ctl->terminal && !ctl->json) {
		printf("\n%-9s  %-71s  %24s  %-8s  %s\n", "STATE", "DIGEST", "HERE", "FROM",
		       "ERROR");
	}
	if (first && p->n_nodes > 0 && ctl->terminal && !ctl->json) {
		printf("\n");
		ctl_print_node_head();
	}
	for (size_t i = 0; i < p->n_nodes && !ferror(stdout); i++) ctl_print_node(ctl, p->nodes[i]);
	for (size_t i = 0; i < p->n_blobs && !ferror(stdout); i++) {
		if (ctl->json) {
			ctl_print_json(ctl_json_job_blob(p->blobs[i]));
		} else if (ctl->terminal) {
			print_blob_row(p->blobs[i]);
		} else {
			ctl_print_job_blob(p->blobs[i]);
		}
	}
}
