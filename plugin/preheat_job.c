#include "plugin/preheat_job.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>

#include "plugin/cairn_service.h"
#include "plugin/fleet.h"
#include "plugin/message.h"

static void *must(void *p)
{
	if (p == NULL) abort();
	return p;
}

/* ---- from the request -------------------------------------------------------------------------*/

static enum cairn_code check_numbers(const Cairn__V1__PreheatRequest *r, struct cairn_err *err)
{
	if (r->n_references == 0 || r->n_references > CAIRN_JOB_REFERENCES_MAX) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "%zu references; allowed: 1 to %d in one job", r->n_references,
				     CAIRN_JOB_REFERENCES_MAX);
	}
	if (r->n_platforms > CAIRN_JOB_PLATFORMS_MAX) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "%zu platforms; allowed: at most %d", r->n_platforms,
				     CAIRN_JOB_PLATFORMS_MAX);
	}
	if (r->n_namespaces > CAIRN_JOB_NAMESPACES_MAX) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "%zu namespaces; allowed: at most %d", r->n_namespaces,
				     CAIRN_JOB_NAMESPACES_MAX);
	}
	if (r->priority < -CAIRN_JOB_PRIORITY_MAX || r->priority > CAIRN_JOB_PRIORITY_MAX) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "priority is %d; allowed: -%d to %d", r->priority,
				     CAIRN_JOB_PRIORITY_MAX, CAIRN_JOB_PRIORITY_MAX);
	}
	if (r->keep_for_seconds < 0 || r->keep_for_seconds > CAIRN_PIN_SECONDS_MAX) {
		return cairn_err_set(
			err, CAIRN_INVALID_ARGUMENT, "keep_for_seconds is %lld; allowed: 0 to %lld",
			(long long)r->keep_for_seconds, (long long)CAIRN_PIN_SECONDS_MAX);
	}
	return CAIRN_OK;
}

static enum cairn_code check_texts(const Cairn__V1__PreheatRequest *r, struct cairn_err *err)
{
	for (size_t i = 0; i < r->n_namespaces; i++) {
		size_t n = strlen(r->namespaces[i]);
		if (n > 0 && n <= CAIRN_OWNER_MAX) continue;
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "a namespace of %zu bytes; allowed: 1 to %d", n,
				     CAIRN_OWNER_MAX);
	}
	const Cairn__V1__Login *l = r->login;
	if (l != NULL && (strlen(l->username) > CAIRN_JOB_LOGIN_MAX ||
			  strlen(l->password) > CAIRN_JOB_LOGIN_MAX ||
			  strlen(l->identity_token) > 16 * CAIRN_JOB_LOGIN_MAX)) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT, "the login is too long");
	}
	return CAIRN_OK;
}

static enum cairn_code parse_platforms(struct cairn_preheat_job *job,
				       const struct cairn_platform *node, struct cairn_err *err)
{
	const Cairn__V1__PreheatRequest *r = job->request;
	job->platforms = must(calloc(r->n_platforms + 1, sizeof(job->platforms[0])));
	if (r->n_platforms == 0) job->platforms[job->n_platforms++] = *node;
	for (size_t i = 0; i < r->n_platforms; i++) {
		if (strcmp(r->platforms[i], "all") == 0) {
			job->all_platforms = true;
			continue;
		}
		if (strcmp(r->platforms[i], "node") == 0) {
			job->platforms[job->n_platforms++] = *node;
			continue;
		}
		enum cairn_code rc = cairn_platform_parse(r->platforms[i],
							  &job->platforms[job->n_platforms++], err);
		if (rc) return rc;
	}
	return CAIRN_OK;
}

static enum cairn_code parse_references(struct cairn_preheat_job *job, struct cairn_err *err)
{
	const Cairn__V1__PreheatRequest *r = job->request;
	char full[CAIRN_REFERENCE_MAX + 256];
	job->images = must(calloc(r->n_references, sizeof(job->images[0])));
	for (size_t i = 0; i < r->n_references; i++) {
		struct cairn_preheat_image *image = &job->images[job->n_images];
		if (strstr(r->references[i], "://") != NULL) {
			return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
					     "reference %zu is a URL; allowed: image names such as "
					     "registry.example/team/app:v1",
					     i + 1);
		}
		enum cairn_code rc = cairn_reference_parse(r->references[i], &image->ref, err);
		if (rc) return cairn_err_wrap(err, "reference %zu", i + 1);
		cairn_reference_format(&image->ref, full);
		image->name = must(strdup(full));
		image->state = CAIRN__V1__JOB_STATE__QUEUED;
		job->n_images++;
	}
	return CAIRN_OK;
}

/* A password is told to the registry that it is for, and which that is must be plain. */
static enum cairn_code check_login(const struct cairn_preheat_job *job, struct cairn_err *err)
{
	if (job->request->login == NULL) return CAIRN_OK;
	const char *first = job->images[0].ref.registry;
	for (size_t i = 1; i < job->n_images; i++) {
		const char *other = job->images[i].ref.registry;
		if (strcasecmp(first, other) == 0) continue;
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "a login is for one registry, but reference 1 is at %.80s and "
				     "reference %zu at %.80s; allowed: a job for each",
				     first, i + 1, other);
	}
	return CAIRN_OK;
}

static enum cairn_code parse_repair(struct cairn_preheat_job *job, struct cairn_err *err)
{
	const Cairn__V1__PreheatRequest *r = job->request;
	if (r->repair[0] == '\0') return CAIRN_OK;
	if (job->n_images != 1 || job->images[0].ref.digest.alg == 0 || r->register_ ||
	    r->keep_for_seconds > 0) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "repair is for one reference that has a digest, without "
				     "register and keep_for_seconds");
	}
	enum cairn_code rc = cairn_digest_parse(r->repair, strlen(r->repair), &job->repair, err);
	return rc ? cairn_err_wrap(err, "repair") : CAIRN_OK;
}

/* A deep copy, by way of the wire. */
static Cairn__V1__PreheatRequest *copy_request(const Cairn__V1__PreheatRequest *request)
{
	size_t n = cairn__v1__preheat_request__get_packed_size(request);
	uint8_t *buf = must(malloc(n + 1));
	cairn__v1__preheat_request__pack(request, buf);
	Cairn__V1__PreheatRequest *copy = must(cairn__v1__preheat_request__unpack(NULL, n, buf));
	explicit_bzero(buf, n);
	free(buf);
	return copy;
}

static void make_id(char id[static CAIRN_JOB_ID])
{
	uint64_t bits = 0;
	if (getrandom(&bits, sizeof(bits), 0) != sizeof(bits)) abort();
	snprintf(id, CAIRN_JOB_ID, "p-%016llx", (unsigned long long)bits);
}

enum cairn_code cairn_preheat_job_new(const Cairn__V1__PreheatRequest *request,
				      const struct cairn_platform *node,
				      struct cairn_preheat_job **ret, struct cairn_err *err)
{
	enum cairn_code rc = check_numbers(request, err);
	if (rc == CAIRN_OK) rc = check_texts(request, err);
	if (rc) return rc;
	struct cairn_preheat_job *job = must(calloc(1, sizeof(*job)));
	pthread_condattr_t attr;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_mutex_init(&job->mu, NULL);
	pthread_cond_init(&job->changed, &attr);
	pthread_condattr_destroy(&attr);
	make_id(job->id);
	job->refs = 1;
	job->state = CAIRN__V1__JOB_STATE__QUEUED;
	job->request = copy_request(request);
	rc = parse_platforms(job, node, err);
	if (rc == CAIRN_OK) rc = parse_references(job, err);
	if (rc == CAIRN_OK) rc = check_login(job, err);
	if (rc == CAIRN_OK) rc = parse_repair(job, err);
	if (rc == CAIRN_OK && request->fleet != NULL) {
		job->id[0] = 'f';
		rc = cairn_fleet_new(request, &job->fleet, err);
	}
	if (rc) {
		cairn_preheat_job_unref(job);
		return rc;
	}
	*ret = job;
	return CAIRN_OK;
}

void cairn_preheat_job_wipe(Cairn__V1__PreheatRequest *request)
{
	Cairn__V1__Login *l = request->login;
	if (l == NULL) return;
	explicit_bzero(l->username, strlen(l->username));
	explicit_bzero(l->password, strlen(l->password));
	explicit_bzero(l->identity_token, strlen(l->identity_token));
	cairn__v1__login__free_unpacked(l, NULL);
	request->login = NULL;
}

static void job_free(struct cairn_preheat_job *job)
{
	for (size_t i = 0; i < job->n_images; i++) {
		free(job->images[i].name);
		free(job->images[i].error);
		free(job->images[i].blobs);
	}
	for (size_t i = 0; i < job->n_blobs; i++) free(job->blobs[i].error);
	free(job->images);
	free(job->blobs);
	free(job->table);
	free(job->platforms);
	cairn_fleet_free(job->fleet);
	cairn_preheat_job_wipe(job->request);
	cairn__v1__preheat_request__free_unpacked(job->request, NULL);
	pthread_cond_destroy(&job->changed);
	pthread_mutex_destroy(&job->mu);
	free(job);
}

struct cairn_preheat_job *cairn_preheat_job_ref(struct cairn_preheat_job *job)
{
	pthread_mutex_lock(&job->mu);
	job->refs++;
	pthread_mutex_unlock(&job->mu);
	return job;
}

void cairn_preheat_job_unref(struct cairn_preheat_job *job)
{
	if (job == NULL) return;
	pthread_mutex_lock(&job->mu);
	bool last = --job->refs == 0;
	pthread_mutex_unlock(&job->mu);
	if (last) job_free(job);
}

/* ---- how far it is ----------------------------------------------------------------------------*/

static bool is_over(Cairn__V1__JobState state)
{
	return state != CAIRN__V1__JOB_STATE__QUEUED && state != CAIRN__V1__JOB_STATE__RUNNING;
}

bool cairn_preheat_job_is_over(struct cairn_preheat_job *job)
{
	pthread_mutex_lock(&job->mu);
	bool over = is_over(job->state);
	pthread_mutex_unlock(&job->mu);
	return over;
}

bool cairn_preheat_job_is_cancelled(struct cairn_preheat_job *job)
{
	pthread_mutex_lock(&job->mu);
	bool cancelled = job->cancelled;
	pthread_mutex_unlock(&job->mu);
	return cancelled;
}

static size_t slot_of(const struct cairn_preheat_job *job, const struct cairn_digest *digest)
{
	uint64_t hash;
	memcpy(&hash, digest->bytes, sizeof(hash));
	size_t at = (size_t)hash & (job->table_cap - 1);
	while (job->table[at] != 0 &&
	       !cairn_digest_equal(&job->blobs[job->table[at] - 1].digest, digest)) {
		at = (at + 1) & (job->table_cap - 1);
	}
	return at;
}

static void grow_table(struct cairn_preheat_job *job)
{
	job->table_cap = job->table_cap > 0 ? 2 * job->table_cap : 256;
	free(job->table);
	job->table = must(calloc(job->table_cap, sizeof(job->table[0])));
	for (size_t i = 0; i < job->n_blobs; i++) {
		job->table[slot_of(job, &job->blobs[i].digest)] = i + 1;
	}
}

static size_t add_blob(struct cairn_preheat_job *job, size_t image,
		       const struct cairn_digest *digest, uint64_t size)
{
	if (job->n_blobs == CAIRN_JOB_BLOBS_MAX) return SIZE_MAX;
	if (2 * job->n_blobs >= job->table_cap) grow_table(job);
	size_t slot = slot_of(job, digest);
	if (job->table[slot] != 0) return job->table[slot] - 1;
	if (job->n_blobs == job->cap_blobs) {
		job->cap_blobs = job->cap_blobs > 0 ? 2 * job->cap_blobs : 64;
		job->blobs = must(realloc(job->blobs, job->cap_blobs * sizeof(job->blobs[0])));
	}
	job->blobs[job->n_blobs] = (struct cairn_preheat_blob){
		.digest = *digest,
		.size = size,
		.state = CAIRN__V1__JOB_STATE__QUEUED,
		.source = "",
		.image = image,
		.change = ++job->change,
	};
	job->bytes_total += size;
	job->table[slot] = ++job->n_blobs;
	return job->n_blobs - 1;
}

size_t cairn_preheat_job_need(struct cairn_preheat_job *job, size_t image,
			      const struct cairn_digest *digest, uint64_t size)
{
	pthread_mutex_lock(&job->mu);
	struct cairn_preheat_image *im = &job->images[image];
	size_t at = add_blob(job, image, digest, size);
	if (at != SIZE_MAX) {
		if (im->n_blobs == im->cap_blobs) {
			im->cap_blobs = im->cap_blobs > 0 ? 2 * im->cap_blobs : 16;
			im->blobs = must(realloc(im->blobs, im->cap_blobs * sizeof(size_t)));
		}
		im->blobs[im->n_blobs++] = at;
	}
	pthread_mutex_unlock(&job->mu);
	return at;
}

void cairn_preheat_job_blob(struct cairn_preheat_job *job, size_t blob, Cairn__V1__JobState state,
			    uint64_t done, uint64_t fetched, const char *source,
			    const struct cairn_err *err)
{
	pthread_mutex_lock(&job->mu);
	struct cairn_preheat_blob *b = &job->blobs[blob];
	bool was = b->state == CAIRN__V1__JOB_STATE__SUCCEEDED;
	bool is = state == CAIRN__V1__JOB_STATE__SUCCEEDED;
	job->bytes_done += done - b->done; /* unsigned: a fill that begins again goes back */
	if (source != NULL && strcmp(source, "peers") == 0) {
		job->bytes_from_peers += fetched;
	} else {
		job->bytes_fetched += fetched;
	}
	job->blobs_done += (uint64_t)is - (uint64_t)was;
	b->state = state;
	b->done = done;
	b->change = ++job->change;
	if (source != NULL) b->source = source;
	free(b->error);
	b->error = err != NULL ? must(strdup(err->msg)) : NULL;
	pthread_cond_broadcast(&job->changed);
	pthread_mutex_unlock(&job->mu);
}

static void set_image(struct cairn_preheat_image *im, Cairn__V1__JobState state, const char *error)
{
	im->state = state;
	free(im->error);
	im->error = error != NULL ? must(strdup(error)) : NULL;
}

void cairn_preheat_job_image(struct cairn_preheat_job *job, size_t image, Cairn__V1__JobState state,
			     const struct cairn_digest *root, const struct cairn_err *err)
{
	pthread_mutex_lock(&job->mu);
	struct cairn_preheat_image *im = &job->images[image];
	set_image(im, state, err != NULL ? err->msg : NULL);
	if (root != NULL) im->root = *root;
	job->change++;
	pthread_cond_broadcast(&job->changed);
	pthread_mutex_unlock(&job->mu);
}

/* An image whose manifests could not be read has failed already; the others by their blobs. */
static void judge_image(struct cairn_preheat_job *job, struct cairn_preheat_image *im)
{
	char text[CAIRN_DIGEST_STR];
	struct cairn_err err;
	if (is_over(im->state)) return;
	for (size_t i = 0; i < im->n_blobs; i++) {
		const struct cairn_preheat_blob *b = &job->blobs[im->blobs[i]];
		if (b->state == CAIRN__V1__JOB_STATE__SUCCEEDED) continue;
		if (b->error == NULL && job->why.code != CAIRN_OK) {
			err = job->why; /* the job did not come to it */
		} else {
			cairn_err_set(&err, CAIRN_UNAVAILABLE, "blob %s: %s",
				      cairn_digest_format(&b->digest, text),
				      b->error != NULL ? b->error : "not got");
		}
		set_image(im,
			  job->cancelled ? CAIRN__V1__JOB_STATE__CANCELLED
					 : CAIRN__V1__JOB_STATE__FAILED,
			  err.msg);
		return;
	}
	bool whole = im->root.alg != 0 && im->n_blobs > 0;
	const char *why = job->why.code != CAIRN_OK ? job->why.msg : "not begun";
	if (whole && job->why.code == CAIRN_OK) {
		set_image(im, CAIRN__V1__JOB_STATE__SUCCEEDED, NULL);
	} else {
		set_image(im,
			  job->cancelled ? CAIRN__V1__JOB_STATE__CANCELLED
					 : CAIRN__V1__JOB_STATE__FAILED,
			  why);
	}
}

void cairn_preheat_job_judge_images(struct cairn_preheat_job *job)
{
	pthread_mutex_lock(&job->mu);
	for (size_t i = 0; i < job->n_images; i++) judge_image(job, &job->images[i]);
	job->change++;
	pthread_cond_broadcast(&job->changed);
	pthread_mutex_unlock(&job->mu);
}

void cairn_preheat_job_judge(struct cairn_preheat_job *job, int64_t now_ns)
{
	pthread_mutex_lock(&job->mu);
	size_t good = 0;
	for (size_t i = 0; i < job->n_images; i++) {
		judge_image(job, &job->images[i]);
		good += job->images[i].state == CAIRN__V1__JOB_STATE__SUCCEEDED;
	}
	job->state = good == job->n_images ? CAIRN__V1__JOB_STATE__SUCCEEDED
		     : job->cancelled	   ? CAIRN__V1__JOB_STATE__CANCELLED
		     : good > 0		   ? CAIRN__V1__JOB_STATE__PARTIAL
					   : CAIRN__V1__JOB_STATE__FAILED;
	job->ended_ns = now_ns;
	job->change++;
	pthread_cond_broadcast(&job->changed);
	pthread_mutex_unlock(&job->mu);
}

/* ---- as a message -----------------------------------------------------------------------------*/

static Cairn__V1__JobImage *image_message(const struct cairn_preheat_image *im)
{
	char text[CAIRN_DIGEST_STR] = "";
	Cairn__V1__JobImage *msg = must(malloc(sizeof(*msg)));
	cairn__v1__job_image__init(msg);
	if (im->root.alg != 0) cairn_digest_format(&im->root, text);
	msg->reference = must(strdup(im->name));
	msg->digest = must(strdup(text));
	msg->state = im->state;
	msg->error = must(strdup(im->error != NULL ? im->error : ""));
	return msg;
}

Cairn__V1__JobBlob *cairn_preheat_blob_message(const struct cairn_preheat_blob *b)
{
	char text[CAIRN_DIGEST_STR];
	Cairn__V1__JobBlob *msg = must(malloc(sizeof(*msg)));
	cairn__v1__job_blob__init(msg);
	msg->digest = cairn_message_text(cairn_digest_format(&b->digest, text));
	msg->size = (int64_t)b->size;
	msg->done = (int64_t)b->done;
	msg->state = b->state;
	msg->error = cairn_message_text(b->error != NULL ? b->error : "");
	msg->source = cairn_message_text(b->source);
	return msg;
}

Cairn__V1__Job *cairn_preheat_job_message(struct cairn_preheat_job *job)
{
	char text[CAIRN_PLATFORM_STR];
	Cairn__V1__Job *msg = must(malloc(sizeof(*msg)));
	cairn__v1__job__init(msg);
	pthread_mutex_lock(&job->mu);
	msg->id = must(strdup(job->id));
	msg->state = job->state;
	msg->created_at = cairn_message_new_time(job->created_ns);
	msg->started_at = cairn_message_new_time(job->started_ns);
	msg->ended_at = cairn_message_new_time(job->ended_ns);
	msg->platforms = must(calloc(job->n_platforms + 1, sizeof(char *)));
	if (job->all_platforms) msg->platforms[msg->n_platforms++] = must(strdup("all"));
	/* Of a fleet's nodes each has its own. */
	bool own = job->fleet != NULL && job->request->n_platforms == 0;
	if (own) msg->platforms[msg->n_platforms++] = must(strdup("node"));
	for (size_t i = 0; !own && !job->all_platforms && i < job->n_platforms; i++) {
		msg->platforms[msg->n_platforms++] =
			must(strdup(cairn_platform_format(&job->platforms[i], text)));
	}
	msg->priority = job->request->priority;
	msg->images = must(calloc(job->n_images + 1, sizeof(msg->images[0])));
	for (; msg->n_images < job->n_images; msg->n_images++) {
		msg->images[msg->n_images] = image_message(&job->images[msg->n_images]);
	}
	msg->blobs_total = (int64_t)(job->n_blobs > 0 ? job->n_blobs : job->stored_blobs);
	msg->blobs_done = (int64_t)job->blobs_done;
	msg->bytes_total = (int64_t)job->bytes_total;
	msg->bytes_done = (int64_t)job->bytes_done;
	msg->bytes_fetched = (int64_t)job->bytes_fetched;
	msg->bytes_from_peers = (int64_t)job->bytes_from_peers;
	msg->error = must(strdup(job->why.code != CAIRN_OK ? job->why.msg : ""));
	if (job->fleet != NULL) cairn_fleet_sum_locked(job, msg);
	pthread_mutex_unlock(&job->mu);
	return msg;
}

void cairn_preheat_job_restore(struct cairn_preheat_job *job, const Cairn__V1__Job *stored)
{
	struct cairn_err ignored;
	snprintf(job->id, sizeof(job->id), "%s", stored->id);
	job->created_ns = cairn_message_ns(stored->created_at);
	job->started_ns = cairn_message_ns(stored->started_at);
	job->ended_ns = cairn_message_ns(stored->ended_at);
	/* One of this node begins again, and finds what is here. */
	if (!is_over(stored->state) && job->fleet == NULL) return;
	if (is_over(stored->state)) job->state = stored->state;
	job->bytes_total = (uint64_t)stored->bytes_total;
	job->bytes_done = (uint64_t)stored->bytes_done;
	job->bytes_fetched = (uint64_t)stored->bytes_fetched;
	job->bytes_from_peers = (uint64_t)stored->bytes_from_peers;
	job->blobs_done = (uint64_t)stored->blobs_done;
	job->stored_blobs = (size_t)stored->blobs_total;
	if (stored->error[0] != '\0') cairn_err_set(&job->why, CAIRN_UNKNOWN, "%s", stored->error);
	for (size_t i = 0; i < job->n_images && i < stored->n_images; i++) {
		const Cairn__V1__JobImage *im = stored->images[i];
		if (is_over(im->state)) {
			set_image(&job->images[i], im->state,
				  im->error[0] != '\0' ? im->error : NULL);
		}
		if (cairn_digest_parse(im->digest, strlen(im->digest), &job->images[i].root,
				       &ignored) != CAIRN_OK) {
			job->images[i].root = (struct cairn_digest){0};
		}
	}
}
