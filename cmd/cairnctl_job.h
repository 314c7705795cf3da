/* Preheat's jobs, as preheat and jobs print them. */
#ifndef CAIRN_CMD_CAIRNCTL_JOB_H
#define CAIRN_CMD_CAIRNCTL_JOB_H

#include "cmd/cairnctl.h"

/* As it is printed: "queued", "running", ... */
const char *ctl_job_state(Cairn__V1__JobState state);
bool ctl_job_over(Cairn__V1__JobState state);

int64_t ctl_job_images_done(const Cairn__V1__Job *job); /* that are here */

/* Objects with their types. The job's has no images: they have objects of their own. */
json_t *ctl_json_job(const Cairn__V1__Job *job);
json_t *ctl_json_job_image(const Cairn__V1__JobImage *image);
json_t *ctl_json_job_blob(const Cairn__V1__JobBlob *blob);

/* Fields for a pipe, with the newline; the job's come after what the caller printed. */
void ctl_print_job_fields(const Cairn__V1__Job *job);
void ctl_print_job_image(const Cairn__V1__JobImage *image);
void ctl_print_job_blob(const Cairn__V1__JobBlob *blob);

/* Seconds since the job was asked for. */
int64_t ctl_job_age(const Cairn__V1__Job *job);

/* How a job, its images and its blobs stand. All but the first of several messages only have more
 * blobs. */
void ctl_print_job(const struct ctl *ctl, const Cairn__V1__JobProgress *p, bool first);

/* Call the method, which streams JobProgress, and show that until the job is over: bars, lines or
 * objects. Who is `owner` of the call ends the job with it. The exit status: done only if the job
 * succeeded; else standard error says what failed, and why. */
int ctl_follow_job(struct ctl *ctl, const char *method, const ProtobufCMessage *request,
		   bool owner);

#endif
