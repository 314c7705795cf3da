/* cairnctl jobs and cancel. */
#include <stdio.h>

#include "cmd/cairnctl.h"
#include "cmd/cairnctl_format.h"
#include "cmd/cairnctl_job.h"

struct jobs {
	const struct ctl *ctl;
	bool any;
};

/* ---- all jobs ---- */

static void print_row(struct jobs *j, const Cairn__V1__Job *job)
{
	char id[CTL_LINE], age[CTL_TEXT], images[CTL_TEXT], blobs[CTL_TEXT], done[CTL_TEXT],
		total[CTL_TEXT], bytes[3 * CTL_TEXT], error[CTL_LINE];
	if (!j->any) {
		printf("%-20s  %-9s  %7s  %11s  %13s  %24s  %s\n", "ID", "STATE", "AGE", "IMAGES",
		       "BLOBS", "BYTES", "ERROR");
	}
	snprintf(images, sizeof(images), "%lld/%zu", (long long)ctl_job_images_done(job),
		 job->n_images);
	snprintf(blobs, sizeof(blobs), "%lld/%lld", (long long)job->blobs_done,
		 (long long)job->blobs_total);
	snprintf(bytes, sizeof(bytes), "%s of %s", ctl_format_bytes(job->bytes_done, done),
		 ctl_format_bytes(job->bytes_total, total));
	printf("%-20s  %-9s  %7s  %11s  %13s  %24s  %s\n",
	       ctl_format_plain(job->id, id, sizeof(id)), ctl_job_state(job->state),
	       ctl_format_span(ctl_job_age(job), age), images, blobs, bytes,
	       ctl_format_plain(job->error, error, sizeof(error)));
}

static bool on_jobs(void *arg, const ProtobufCMessage *msg)
{
	struct jobs *j = arg;
	const Cairn__V1__ListJobsResponse *r = (const Cairn__V1__ListJobsResponse *)msg;
	for (size_t i = 0; i < r->n_jobs && !ferror(stdout); i++) {
		if (j->ctl->json) {
			ctl_print_json(ctl_json_job(r->jobs[i]));
		} else if (j->ctl->terminal) {
			print_row(j, r->jobs[i]);
		} else {
			ctl_print_job_fields(r->jobs[i]);
		}
		j->any = true;
	}
	return !ferror(stdout) && fflush(stdout) == 0;
}

static int list_jobs(struct ctl *ctl)
{
	Cairn__V1__ListJobsRequest request = CAIRN__V1__LIST_JOBS_REQUEST__INIT;
	struct jobs jobs = {.ctl = ctl};
	struct cairn_err err;
	if (ctl_stream(ctl, "ListJobs", &request.base, &cairn__v1__list_jobs_response__descriptor,
		       on_jobs, &jobs, &err) != CAIRN_OK) {
		return ctl_fail(ctl, &err);
	}
	return CTL_DONE;
}

/* ---- one job ---- */

static bool on_job(void *arg, const ProtobufCMessage *msg)
{
	struct jobs *j = arg;
	const Cairn__V1__JobProgress *p = (const Cairn__V1__JobProgress *)msg;
	ctl_print_job(j->ctl, p, !j->any);
	j->any = true;
	return !ferror(stdout) && fflush(stdout) == 0;
}

static int show_job(struct ctl *ctl, const Cairn__V1__GetJobRequest *request)
{
	struct jobs jobs = {.ctl = ctl};
	struct cairn_err err;
	enum cairn_code rc = ctl_stream(ctl, "GetJob", &request->base,
					&cairn__v1__job_progress__descriptor, on_job, &jobs, &err);
	if (rc == CAIRN_OK && !jobs.any) {
		rc = cairn_err_set(&err, CAIRN_INTERNAL, "cairnd ended the call without a result");
	}
	return rc ? ctl_fail(ctl, &err) : CTL_DONE;
}

static int run_jobs(struct ctl *ctl, int argc, char **argv)
{
	static const struct option own[] = {{"watch", no_argument, NULL, 'w'}, {0}};
	Cairn__V1__GetJobRequest request;
	cairn__v1__get_job_request__init(&request);
	while (ctl_getopt(ctl, argc, argv, own) == 'w') request.watch = true;
	if (optind + 1 < argc || (optind < argc && argv[optind][0] == '\0')) {
		return ctl_usage(ctl, "jobs takes the id of one job, or none");
	}
	if (optind == argc && request.watch) return ctl_usage(ctl, "which job is to be watched?");
	if (optind == argc) return list_jobs(ctl);
	request.id = argv[optind];
	return request.watch ? ctl_follow_job(ctl, "GetJob", &request.base, false)
			     : show_job(ctl, &request);
}

const struct ctl_verb ctl_jobs = {
	.name = "jobs",
	.arguments = "[ID [--watch]]",
	.summary = "what preheat does, and did lately",
	.help = "Lists the jobs of preheat that wait, run, or ended lately, newest first; or shows "
		"the\n"
		"job ID with its images and every blob.\n\n"
		"  --watch   follow the job until it is over, as preheat does, with the same exit "
		"status;\n"
		"            Ctrl-C ends the watching, and the job goes on\n\n"
		"In a pipe, a line of the list has these fields, separated by tabs: id, state, age "
		"in\n"
		"seconds, images done, of, blobs done, of, bytes done, of, bytes from registries, "
		"error.\n"
		"Of one job the lines are those of preheat: \"job\", each \"image\", each "
		"\"blob\".",
	.run = run_jobs,
};

/* ---- cancel ---- */

static int run_cancel(struct ctl *ctl, int argc, char **argv)
{
	static const struct option own[] = {{0}};
	Cairn__V1__CancelJobRequest request;
	ProtobufCMessage *msg;
	struct cairn_err err;
	cairn__v1__cancel_job_request__init(&request);
	(void)ctl_getopt(ctl, argc, argv, own);
	if (optind + 1 != argc || argv[optind][0] == '\0') {
		return ctl_usage(ctl, "cancel takes the id of one job");
	}
	request.id = argv[optind];
	if (ctl_call(ctl, "CancelJob", &request.base, &cairn__v1__cancel_job_response__descriptor,
		     &msg, &err) != CAIRN_OK) {
		return ctl_fail(ctl, &err);
	}
	const bool was = ((const Cairn__V1__CancelJobResponse *)msg)->was_running != 0;
	protobuf_c_message_free_unpacked(msg, NULL);
	if (ctl->json) {
		ctl_print_json(json_pack("{s:o, s:b}", "id", ctl_json_text(request.id),
					 "was_running", (int)was));
	} else if (was) {
		printf(ctl->terminal ? "job %s is cancelled\n" : "%s\n", request.id);
	}
	if (was) return CTL_DONE;
	cairn_err_set(&err, CAIRN_FAILED_PRECONDITION, "job %.100s was over already", request.id);
	return ctl_fail(ctl, &err);
}

const struct ctl_verb ctl_cancel = {
	.name = "cancel",
	.arguments = "ID",
	.summary = "end a job of preheat",
	.help = "Ends the job, whether it waits or runs. Exit status 1 if it was over already.\n\n"
		"In a pipe, prints the id.",
	.run = run_cancel,
};
