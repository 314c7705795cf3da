#include "plugin/preheat_run.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "cache/evict.h"
#include "plugin/gc.h"
#include "plugin/graph.h"
#include "plugin/preheat.h"
#include "plugin/register.h"

/* Items of work that the workers of one job take in turn. */
struct round {
	const struct cairn_preheat_env *env;
	struct cairn_preheat_job *job;
	const _Atomic bool *stop;
	void (*work)(struct cairn_preheat_worker *w, size_t item);
	size_t n;
	_Atomic size_t next;
};

bool cairn_preheat_goes_on(void *arg)
{
	struct cairn_preheat_worker *w = arg;
	return !atomic_load(w->stop) && !cairn_preheat_job_is_cancelled(w->job);
}

/* ---- workers ----------------------------------------------------------------------------------*/

static enum cairn_code open_session(struct cairn_preheat_worker *w, struct cairn_err *err)
{
	const Cairn__V1__Login *l = w->job->request->login;
	struct cairn_registry_login login = {0};
	if (l != NULL && l->username[0] != '\0') login.username = l->username;
	if (l != NULL && l->password[0] != '\0') login.password = l->password;
	if (l != NULL && l->identity_token[0] != '\0') login.identity_token = l->identity_token;
	return cairn_registry_session_new(w->env->registry, &login, &w->session, err);
}

static void *work(void *arg)
{
	struct round *r = arg;
	struct cairn_err err;
	struct cairn_preheat_worker w = {.env = r->env, .job = r->job, .stop = r->stop};
	if (open_session(&w, &err) != CAIRN_OK) {
		cairn_log(CAIRN_LOG_ERROR, "preheat_worker_failed", CAIRN_ERRF(&err));
		return NULL; /* what nobody works on is judged as not got */
	}
	while (cairn_preheat_goes_on(&w)) {
		size_t item = atomic_fetch_add(&r->next, 1);
		if (item >= r->n) break;
		r->work(&w, item);
	}
	cairn_registry_session_free(w.session);
	return NULL;
}

/* Blocks until all of it is done. */
static void run_round(struct round *r)
{
	pthread_t threads[CAIRN_PREHEAT_WORKERS];
	size_t n = 0, want = r->n < CAIRN_PREHEAT_WORKERS ? r->n : CAIRN_PREHEAT_WORKERS;
	while (n + 1 < want && pthread_create(&threads[n], NULL, work, r) == 0) n++;
	work(r); /* this thread works as well */
	while (n > 0) pthread_join(threads[--n], NULL);
}

static void work_blob(struct cairn_preheat_worker *w, size_t blob)
{
	struct cairn_err err;
	pthread_mutex_lock(&w->job->mu);
	/* Those that had to be looked into were got on the way, or not. */
	bool done = w->job->blobs[blob].state != CAIRN__V1__JOB_STATE__QUEUED;
	uint64_t size = w->job->blobs[blob].size;
	pthread_mutex_unlock(&w->job->mu);
	if (done) return;
	enum cairn_code rc = cairn_preheat_get_blob(w, blob, &err);
	if (rc == CAIRN_OK) {
		cairn_preheat_job_blob(w->job, blob, CAIRN__V1__JOB_STATE__SUCCEEDED, size, 0, NULL,
				       NULL);
		return;
	}
	cairn_preheat_job_blob(w->job, blob,
			       rc == CAIRN_CANCELLED ? CAIRN__V1__JOB_STATE__CANCELLED
						     : CAIRN__V1__JOB_STATE__FAILED,
			       0, 0, NULL, &err);
}

/* ---- room on the disk -------------------------------------------------------------------------*/

/* What is here already must not go to make room for the rest. */
static void hold_what_is_here(const struct cairn_preheat_env *env, struct cairn_preheat_job *job)
{
	pthread_mutex_lock(&job->mu);
	for (size_t i = 0; i < job->n_blobs; i++) {
		struct cairn_preheat_blob *b = &job->blobs[i];
		if (b->hold == NULL) b->hold = cairn_blob_hold(env->cache, &b->digest);
	}
	pthread_mutex_unlock(&job->mu);
}

static uint64_t bytes_missing(const struct cairn_preheat_env *env, struct cairn_preheat_job *job)
{
	uint64_t missing = 0;
	pthread_mutex_lock(&job->mu);
	for (size_t i = 0; i < job->n_blobs; i++) {
		struct cairn_blob_info info;
		struct cairn_err ignored;
		if (cairn_cache_info(env->cache, &job->blobs[i].digest, &info, &ignored) !=
		    CAIRN_OK) {
			/* What a fill left, or has got by now, is on the disk already. */
			uint64_t size = job->blobs[i].size;
			uint64_t done = cairn_fills_done(env->fills, &job->blobs[i].digest);
			missing += done < size ? size - done : 0;
			continue;
		}
		cairn_blob_info_fini(&info);
	}
	pthread_mutex_unlock(&job->mu);
	return missing;
}

/* Known before the first byte: the job fits, or is refused. Garbage may make room first. */
static enum cairn_code make_room(struct cairn_preheat_worker *w, struct cairn_err *err)
{
	const struct cairn_preheat_env *env = w->env;
	uint64_t missing = bytes_missing(env, w->job), room = cairn_gc_room(env->gc);
	if (missing <= room) return CAIRN_OK;
	struct cairn_gc_pass pass;
	const struct cairn_gc_request request = {
		.make_room = missing - room, .go_on = cairn_preheat_goes_on, .arg = w};
	enum cairn_code rc = cairn_gc_run(env->gc, &request, &pass, err);
	if (rc) return rc;
	cairn_gc_pass_fini(&pass);
	room = cairn_gc_room(env->gc);
	if (missing <= room) return CAIRN_OK;
	return cairn_err_set(
		err, CAIRN_RESOURCE_EXHAUSTED,
		"the disk has no room: %llu bytes are needed, %llu may be written, %llu "
		"are missing; remove images, or lower gc.min_free",
		(unsigned long long)missing, (unsigned long long)room,
		(unsigned long long)(missing - room));
}

/* ---- all of it --------------------------------------------------------------------------------*/

/* What was here, but is not any more (it was found damaged, say), is not said to be here. */
static void look_again(const struct cairn_preheat_env *env, struct cairn_preheat_job *job, size_t i)
{
	struct cairn_blob_info info;
	struct cairn_err err;
	const struct cairn_preheat_blob *b = &job->blobs[i];
	if (b->state != CAIRN__V1__JOB_STATE__SUCCEEDED || b->size == 0) return;
	if (cairn_cache_info(env->cache, &b->digest, &info, &err) == CAIRN_OK) {
		bool good = !info.damaged;
		cairn_blob_info_fini(&info);
		if (good) return;
	}
	cairn_err_set(&err, CAIRN_DATA_LOSS, "it was here, but is gone or damaged again");
	cairn_preheat_job_blob(job, i, CAIRN__V1__JOB_STATE__FAILED, 0, 0, NULL, &err);
}

void cairn_preheat_run(const struct cairn_preheat_env *env, struct cairn_preheat_job *job,
		       const _Atomic bool *stop)
{
	struct cairn_err err;
	struct cairn_preheat_worker w = {.env = env, .job = job, .stop = stop};
	struct round images = {.env = env,
			       .job = job,
			       .stop = stop,
			       .work = cairn_preheat_plan_image,
			       .n = job->n_images};
	run_round(&images);
	if (!cairn_preheat_goes_on(&w)) return;
	hold_what_is_here(env, job);
	if (make_room(&w, &err) != CAIRN_OK) {
		pthread_mutex_lock(&job->mu);
		job->why = err;
		pthread_mutex_unlock(&job->mu);
		return;
	}
	struct round blobs = {.env = env, .job = job, .stop = stop, .work = work_blob};
	pthread_mutex_lock(&job->mu);
	blobs.n = job->n_blobs;
	pthread_mutex_unlock(&job->mu);
	run_round(&blobs);
	for (size_t i = 0; i < blobs.n; i++) look_again(env, job, i);
}

void cairn_preheat_let_go(const struct cairn_preheat_env *env, struct cairn_preheat_job *job)
{
	/* Nobody works on the job any more. */
	for (size_t i = 0; i < job->n_blobs; i++) {
		cairn_blob_let_go(env->cache, cairn_steal(&job->blobs[i].hold));
	}
}

/* ---- containerd -------------------------------------------------------------------------------*/

static enum cairn_code register_image(struct cairn_preheat_worker *w,
				      const struct cairn_preheat_image *im, struct cairn_err *err)
{
	static const char *const standard[] = {"k8s.io"};
	const Cairn__V1__PreheatRequest *r = w->job->request;
	size_t n = r->n_namespaces > 0 ? r->n_namespaces : 1;
	for (size_t i = 0; i < n; i++) {
		const struct cairn_register what = {
			.cache = w->env->cache,
			.channel = w->env->containerd,
			.ns = r->n_namespaces > 0 ? r->namespaces[i] : standard[0],
			.ref = &im->ref,
			.name = im->name,
			.go_on = cairn_preheat_goes_on,
			.arg = w,
		};
		enum cairn_code rc = cairn_register_image(&what, &im->root, err);
		if (rc) return rc;
	}
	return CAIRN_OK;
}

void cairn_preheat_register(const struct cairn_preheat_env *env, struct cairn_preheat_job *job,
			    const _Atomic bool *stop)
{
	struct cairn_preheat_worker w = {.env = env, .job = job, .stop = stop};
	if (!job->request->register_) return;
	/* Only this thread changes images from here on. */
	for (size_t i = 0; i < job->n_images; i++) {
		struct cairn_err err;
		if (job->images[i].state != CAIRN__V1__JOB_STATE__SUCCEEDED) continue;
		if (register_image(&w, &job->images[i], &err) == CAIRN_OK) continue;
		cairn_preheat_job_image(job, i, CAIRN__V1__JOB_STATE__FAILED, NULL, &err);
	}
}

/* ---- what is remembered -----------------------------------------------------------------------*/

static void remember_image(const struct cairn_preheat_env *env, struct cairn_preheat_job *job,
			   const struct cairn_preheat_image *im)
{
	struct cairn_err err;
	char target[CAIRN_DIGEST_STR];
	enum cairn_code rc = CAIRN_OK;
	if (im->ref.digest.alg == 0) {
		struct cairn_needs *needs = cairn_graph_needs(env->cache, &im->root);
		rc = cairn_cache_see_version(env->cache, im->name, &im->root, needs, &err);
		cairn_needs_unref(needs);
	}
	if (rc == CAIRN_OK && job->request->keep_for_seconds > 0) {
		cairn_digest_format(&im->root, target);
		rc = cairn_cache_pin(env->cache, target,
				     job->request->keep_for_seconds * CAIRN_NS_PER_S, &err);
	}
	if (rc == CAIRN_OK) return;
	cairn_log(CAIRN_LOG_WARN, "preheat_not_remembered", CAIRN_STR("image", im->name),
		  CAIRN_ERRF(&err));
}

void cairn_preheat_remember(const struct cairn_preheat_env *env, struct cairn_preheat_job *job)
{
	/* They are judged: only this thread changes images from here on. */
	for (size_t i = 0; i < job->n_images; i++) {
		if (job->images[i].state != CAIRN__V1__JOB_STATE__SUCCEEDED) continue;
		remember_image(env, job, &job->images[i]);
	}
}
