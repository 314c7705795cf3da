/* Work that must touch the disk on behalf of calls that must not. */
#include <errno.h>
#include <time.h>

#include "cache/store.h"

#define TIDY_S 2 /* how often idle mappings are looked for */

static void *job_thread(void *arg)
{
	struct cairn_cache *c = arg;
	lock(&c->mu);
	for (;;) {
		struct job *job = c->jobs_head;
		if (job != NULL) {
			c->jobs_head = job->next;
			if (c->jobs_head == NULL) c->jobs_tail = &c->jobs_head;
			unlock(&c->mu);
			job->run(c, job);
			lock(&c->mu);
			continue;
		}
		if (c->jobs_stop) break;
		struct timespec until;
		clock_gettime(CLOCK_MONOTONIC, &until);
		until.tv_sec += TIDY_S;
		if (pthread_cond_timedwait(&c->jobs_cond, &c->mu.os, &until) != ETIMEDOUT) continue;
		unlock(&c->mu);
		read_tidy(c, cairn_boot_ns(c->clock));
		lock(&c->mu);
	}
	unlock(&c->mu);
	return NULL;
}

enum cairn_code jobs_start(struct cairn_cache *c, struct cairn_err *err)
{
	while (c->job_threads_n < JOB_THREADS) {
		int rc = pthread_create(&c->job_threads[c->job_threads_n], NULL, job_thread, c);
		if (rc != 0) return cairn_err_sys(err, rc, "start a thread of the store");
		c->job_threads_n++;
	}
	return CAIRN_OK;
}

void jobs_add_locked(struct cairn_cache *c, struct job *job,
		     void (*run)(struct cairn_cache *, struct job *))
{
	job->run = run;
	job->next = NULL;
	*c->jobs_tail = job;
	c->jobs_tail = &job->next;
	pthread_cond_signal(&c->jobs_cond);
}

void jobs_stop(struct cairn_cache *c)
{
	lock(&c->mu);
	c->jobs_stop = true;
	pthread_cond_broadcast(&c->jobs_cond);
	unlock(&c->mu);
	while (c->job_threads_n > 0) pthread_join(c->job_threads[--c->job_threads_n], NULL);
	/* A thread that ended may have left a job that the last one added. */
	while (c->jobs_head != NULL) {
		struct job *job = c->jobs_head;
		c->jobs_head = job->next;
		if (c->jobs_head == NULL) c->jobs_tail = &c->jobs_head;
		job->run(c, job);
	}
}
