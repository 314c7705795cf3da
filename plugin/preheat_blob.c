/* One blob of a preheat job: here already, on its way for somebody else, or to be downloaded. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "plugin/preheat_run.h"
#include "plugin/share.h"
#include "plugin/swarm_wait.h"

#define TRIES 3	       /* of a blob whose bytes were wrong, or that somebody else gave up */
#define LOOK_MS 300    /* between two looks at what others do */
#define STALL_MS 10000 /* a pull that stands still so long is not waited for */

struct got {
	struct cairn_preheat_worker *w;
	size_t blob;
	struct cairn_digest digest;
	uint64_t size;
	size_t image;
	bool manifest;
	struct cairn_fill *fill;
	uint64_t from_peers; /* bytes, as far as they were told */
	bool pulled;	     /* a pull on this node got it, while we waited for peers */
};

#define RUNNING CAIRN__V1__JOB_STATE__RUNNING

static void tell(struct got *g, uint64_t done, uint64_t fetched, const char *source)
{
	cairn_preheat_job_blob(g->w->job, g->blob, RUNNING, done, fetched, source, NULL);
}

static enum cairn_code cancelled(struct cairn_err *err)
{
	return cairn_err_set(err, CAIRN_CANCELLED, "the job was cancelled");
}

static void nap(void)
{
	struct timespec ts = {0, LOOK_MS * CAIRN_NS_PER_MS};
	nanosleep(&ts, NULL);
}

/* ---- here already -----------------------------------------------------------------------------*/

/* Its bytes are proved again where that was not done since the start: what is said to be here is
 * here. Errors: ABORTED (damaged: begin again), DATA_LOSS (another size), CANCELLED, INTERNAL. */
static enum cairn_code prove(struct got *g, struct cairn_err *err)
{
	struct cairn_blob *blob = NULL;
	enum cairn_code rc = cairn_blob_open(g->w->env->cache, &g->digest, &blob, err);
	if (rc == CAIRN_OK) rc = cairn_blob_prove(blob, cairn_preheat_goes_on, g->w, err);
	bool right = rc == CAIRN_OK && cairn_blob_size(blob) == g->size;
	cairn_blob_close(blob);
	if (rc == CAIRN_DATA_LOSS || rc == CAIRN_NOT_FOUND) {
		return cairn_err_set(err, CAIRN_ABORTED, "what was here is damaged");
	}
	if (rc == CAIRN_OK && !right) {
		return cairn_err_set(err, CAIRN_DATA_LOSS,
				     "the manifest says %llu bytes, but what has this digest has "
				     "another size",
				     (unsigned long long)g->size);
	}
	return rc;
}

/* ---- on its way for somebody else -------------------------------------------------------------*/

/* Errors: CANCELLED; ABORTED (what the other did came to nothing). */
static enum cairn_code follow(struct got *g, struct cairn_err *err)
{
	uint64_t done;
	struct cairn_err why;
	for (;;) {
		enum cairn_fill_state state = cairn_fill_wait(g->fill, LOOK_MS, &why);
		(void)cairn_fill_look(g->fill, &done, NULL);
		tell(g, done, 0, "registry");
		if (state == CAIRN_FILL_DONE) return CAIRN_OK;
		if (state == CAIRN_FILL_BROKEN) {
			return cairn_err_set(err, CAIRN_ABORTED, "%s", why.msg);
		}
		if (!cairn_preheat_goes_on(g->w)) return cancelled(err);
	}
}

/* containerd is downloading it: what for twice? Returns true when it is here; false if that comes
 * to nothing, or stands still. */
static bool follow_pull(struct got *g)
{
	uint64_t offset, last = 0;
	int64_t waited_ms = 0;
	struct cairn_blob_info info;
	struct cairn_err ignored;
	while (cairn_cache_is_written(g->w->env->cache, &g->digest, &offset) &&
	       waited_ms < STALL_MS && cairn_preheat_goes_on(g->w)) {
		cairn_fill_follow(g->fill, true);
		waited_ms = offset != last ? 0 : waited_ms + LOOK_MS;
		last = offset;
		tell(g, offset < g->size ? offset : g->size, 0, "pull");
		nap();
	}
	cairn_fill_follow(g->fill, false);
	if (cairn_cache_info(g->w->env->cache, &g->digest, &info, &ignored) != CAIRN_OK) {
		return false;
	}
	bool good = !info.damaged;
	cairn_blob_info_fini(&info);
	return good;
}

/* ---- from other nodes -------------------------------------------------------------------------*/

static void tell_peers(void *arg, uint64_t done)
{
	struct got *g = arg;
	uint64_t written, new = done > g->from_peers ? done - g->from_peers : 0;
	if (done == 0) return; /* whose bytes it will be is not known yet */
	if (cairn_cache_is_written(g->w->env->cache, &g->digest, &written) && written >= done) {
		g->pulled = true; /* containerd gets it for all */
	}
	if (g->pulled) {
		tell(g, done, 0, "pull");
		return;
	}
	g->from_peers += new;
	cairn_fill_tell(g->fill, done);
	tell(g, done < g->size ? done : g->size, new, "peers");
}

static bool goes_on(void *arg)
{
	return cairn_preheat_goes_on(((struct got *)arg)->w);
}

/* OK: it came. NOT_FOUND: it is to be downloaded; *ret_grant is the swarm's leave to do so, for as
 * long as that takes, or NULL. CANCELLED. */
static enum cairn_code ask_peers(struct got *g, struct cairn_want **ret_grant,
				 struct cairn_err *err)
{
	const struct cairn_preheat_env *env = g->w->env;
	const struct cairn_swarm_wait wait = {.swarm = env->swarm,
					      .cache = env->cache,
					      .digest = &g->digest,
					      .size = g->size,
					      .stall_ms = env->stall_ms,
					      .min_rate = env->min_rate,
					      .go_on = goes_on,
					      .progress = tell_peers,
					      .arg = g};
	if (env->swarm == NULL) return CAIRN_NOT_FOUND;
	struct cairn_want *want = cairn_swarm_want(env->swarm, &g->digest, g->size, true);
	enum cairn_want_state state = cairn_swarm_wait_on_thread(&wait, want, err);
	if (state == CAIRN_WANT_GRANTED) {
		*ret_grant = want;
		return CAIRN_NOT_FOUND;
	}
	cairn_want_release(want);
	cairn_fill_tell(g->fill, 0);
	if (state == CAIRN_WANT_HERE) return CAIRN_OK;
	return cairn_preheat_goes_on(g->w) ? CAIRN_NOT_FOUND : cancelled(err);
}

/* ---- to be downloaded -------------------------------------------------------------------------*/

static enum cairn_code sink(void *arg, const void *data, size_t n, struct cairn_err *err)
{
	struct got *g = arg;
	enum cairn_code rc = cairn_fill_write(g->fill, data, n, err);
	if (rc == CAIRN_OK) tell(g, cairn_fill_offset(g->fill), n, "registry");
	return rc;
}

static enum cairn_code ask_manifest(struct got *g, const struct cairn_go_on *go_on,
				    struct cairn_err *err)
{
	struct cairn_registry_manifest m;
	struct cairn_reference ref = g->w->job->images[g->image].ref;
	uint64_t offset = cairn_fill_offset(g->fill);
	ref.digest = g->digest;
	enum cairn_code rc = cairn_registry_get_manifest(g->w->session, &ref, go_on, &m, err);
	if (rc) return rc;
	if (m.len > offset) {
		rc = sink(g, (const uint8_t *)m.json + offset, m.len - (size_t)offset, err);
	}
	free(m.json);
	return rc;
}

static enum cairn_code ask(struct got *g, const struct cairn_go_on *go_on, struct cairn_err *err)
{
	struct cairn_preheat_worker *w = g->w;
	if (g->manifest) return ask_manifest(g, go_on, err);
	enum cairn_code rc =
		cairn_registry_get_blob(w->session, &w->job->images[g->image].ref, &g->digest,
					cairn_fill_offset(g->fill), g->size, go_on, sink, g, err);
	if (rc != CAIRN_NOT_FOUND || w->job->repair.alg == 0) return rc;
	/* Nobody has looked what it is: a manifest, perhaps. */
	if (g->size > CAIRN_MANIFEST_BYTES_MAX) return rc;
	return ask_manifest(g, go_on, err);
}

static enum cairn_code download(struct got *g, struct cairn_err *err)
{
	struct cairn_preheat_worker *w = g->w;
	struct cairn_blob_info info;
	struct cairn_err ignored;
	const struct cairn_go_on go_on = {cairn_preheat_goes_on, w};
	tell(g, cairn_fill_offset(g->fill), 0, "registry");
	enum cairn_code rc = ask(g, &go_on, err);
	if (rc == CAIRN_DATA_LOSS) cairn_registry_doubt(w->session);
	if (rc) return rc;
	/* The last write has published it, or failed. */
	if (cairn_cache_info(w->env->cache, &g->digest, &info, &ignored) == CAIRN_OK) {
		cairn_blob_info_fini(&info);
		return CAIRN_OK;
	}
	return cairn_err_set(err, CAIRN_DATA_LOSS, "the registry sent fewer bytes than there are");
}

static void note_owners(struct got *g)
{
	const Cairn__V1__PreheatRequest *r = g->w->job->request;
	if (!g->w->env->owners || g->w->job->repair.alg != 0) return;
	for (size_t i = 0; i < r->n_namespaces; i++) {
		cairn_cache_add_owner(g->w->env->cache, &g->digest, r->namespaces[i]);
	}
	if (r->n_namespaces == 0) {
		cairn_cache_add_owner(g->w->env->cache, &g->digest, "k8s.io");
	}
}

/* Not to be evicted before the job is over. */
static enum cairn_code hold(struct got *g, struct cairn_err *err)
{
	struct cairn_preheat_job *job = g->w->job;
	struct cairn_cache *cache = g->w->env->cache;
	struct cairn_blob_hold *new = cairn_blob_hold(cache, &g->digest);
	pthread_mutex_lock(&job->mu);
	struct cairn_blob_hold *old = job->blobs[g->blob].hold;
	job->blobs[g->blob].hold = new;
	pthread_mutex_unlock(&job->mu);
	cairn_blob_let_go(cache, old);
	return new != NULL ? CAIRN_OK
			   : cairn_err_set(err, CAIRN_ABORTED, "it was here, but is gone again");
}

static enum cairn_code fill(struct got *g, struct cairn_err *err)
{
	struct cairn_want *grant = NULL;
	enum cairn_code rc = follow_pull(g) ? CAIRN_OK : ask_peers(g, &grant, err);
	if (rc == CAIRN_NOT_FOUND) rc = download(g, err);
	if (rc == CAIRN_OK) rc = hold(g, err);
	if (rc == CAIRN_OK) note_owners(g); /* before a pull that waits is told */
	cairn_fill_end(g->fill, rc == CAIRN_OK ? NULL : err);
	cairn_want_release(grant);
	return rc;
}

/* Before it comes: so that it may be handed on at once. */
static void note_source(const struct got *g)
{
	const struct cairn_reference *ref = &g->w->job->images[g->image].ref;
	char repository[sizeof(ref->registry) + sizeof(ref->repository)];
	snprintf(repository, sizeof(repository), "%s/%s", ref->registry, ref->repository);
	cairn_share_learn(g->w->env->share, &g->digest, repository);
}

static enum cairn_code try_once(struct got *g, struct cairn_err *err)
{
	enum cairn_code rc = CAIRN_INTERNAL;
	note_source(g);
	switch (cairn_fills_begin(g->w->env->fills, &g->digest, g->size, &g->fill, err)) {
	case CAIRN_FILL_HERE:
		rc = hold(g, err);
		if (rc == CAIRN_OK) rc = prove(g, err);
		if (rc == CAIRN_OK) tell(g, g->size, 0, "cache");
		break;
	case CAIRN_FILL_OTHERS:
		rc = follow(g, err);
		if (rc == CAIRN_OK) rc = hold(g, err);
		break;
	case CAIRN_FILL_OURS:
		rc = fill(g, err);
		break;
	case CAIRN_FILL_FAILED:
	default:
		rc = err->code;
		break;
	}
	cairn_fill_unref(g->fill);
	g->fill = NULL;
	if (rc == CAIRN_OK) note_owners(g);
	return rc;
}

static bool is_worth_another_try(enum cairn_code rc)
{
	return rc == CAIRN_ABORTED || rc == CAIRN_DATA_LOSS;
}

enum cairn_code cairn_preheat_get_blob(struct cairn_preheat_worker *w, size_t blob,
				       struct cairn_err *err)
{
	struct got g = {.w = w, .blob = blob};
	pthread_mutex_lock(&w->job->mu);
	g.digest = w->job->blobs[blob].digest;
	g.size = w->job->blobs[blob].size;
	g.image = w->job->blobs[blob].image;
	g.manifest = w->job->blobs[blob].manifest;
	pthread_mutex_unlock(&w->job->mu);
	/* Nobody downloads no bytes: containerd makes them up itself. */
	enum cairn_code rc = g.size == 0 ? CAIRN_OK : CAIRN_ABORTED;
	for (unsigned tries = 0; g.size > 0 && tries < TRIES && is_worth_another_try(rc); tries++) {
		if (!cairn_preheat_goes_on(w)) return cancelled(err);
		rc = try_once(&g, err);
	}
	return rc;
}
