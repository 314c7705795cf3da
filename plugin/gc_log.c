#include "plugin/gc_log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"

static int open_file(const char *path)
{
	return open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY, 0640);
}

/* *ret is -1 if there is to be none. */
static enum cairn_code open_path(const char *path, int *ret, struct cairn_err *err)
{
	int fd = path[0] != '\0' ? open_file(path) : -1;
	if (fd < 0 && path[0] != '\0') {
		return cairn_err_sys(err, errno, "gc.log: open %s", path);
	}
	*ret = fd;
	return CAIRN_OK;
}

enum cairn_code cairn_gc_log_open(struct cairn_gc_log *log, const char *path, struct cairn_err *err)
{
	log->fd = -1;
	log->failing = false;
	log->path = strdup(path);
	if (log->path == NULL) abort();
	pthread_mutex_init(&log->mu, NULL);
	return open_path(path, &log->fd, err);
}

void cairn_gc_log_reopen(struct cairn_gc_log *log)
{
	struct cairn_err err;
	int fd = -1;
	if (open_path(log->path, &fd, &err) != CAIRN_OK) {
		/* Better the old file than none. */
		cairn_log(CAIRN_LOG_ERROR, "gc_log_not_opened", CAIRN_STR("path", log->path),
			  CAIRN_ERRF(&err));
		return;
	}
	pthread_mutex_lock(&log->mu);
	int old = log->fd;
	log->fd = fd;
	pthread_mutex_unlock(&log->mu);
	if (old >= 0) close(old);
}

enum cairn_code cairn_gc_log_set(struct cairn_gc_log *log, const char *path, struct cairn_err *err)
{
	int fd = -1;
	if (strcmp(path, log->path) == 0) return CAIRN_OK;
	enum cairn_code rc = open_path(path, &fd, err);
	if (rc) return rc;
	char *copy = strdup(path);
	if (copy == NULL) abort();
	pthread_mutex_lock(&log->mu);
	int old = log->fd;
	char *old_path = log->path;
	log->fd = fd;
	log->path = copy;
	pthread_mutex_unlock(&log->mu);
	if (old >= 0) close(old);
	free(old_path);
	return CAIRN_OK;
}

void cairn_gc_log_close(struct cairn_gc_log *log)
{
	if (log->fd >= 0) close(log->fd);
	pthread_mutex_destroy(&log->mu);
	free(log->path);
}

static void emit(struct cairn_gc_log *log, enum cairn_log_level level, const char *event,
		 const struct cairn_field *fields, size_t n)
{
	cairn_log_emit(level, event, fields, n);
	pthread_mutex_lock(&log->mu);
	bool failed = log->fd >= 0 && !cairn_log_emit_to(log->fd, level, event, fields, n);
	int e = errno;
	bool news = failed && !log->failing;
	log->failing = failed;
	char *path = news ? strdup(log->path) : NULL;
	pthread_mutex_unlock(&log->mu);
	if (path == NULL) return;
	cairn_log(CAIRN_LOG_ERROR, "gc_log_not_written", CAIRN_STR("path", path),
		  CAIRN_STR("err", strerror(e)));
	free(path);
}

void cairn_gc_log_evicted(struct cairn_gc_log *log, const struct cairn_gc_pass *p, size_t i)
{
	char text[CAIRN_DIGEST_STR];
	const struct cairn_gc_decision *d = &p->plan.decisions[i];
	const struct cairn_field fields[] = {
		CAIRN_STR("digest", cairn_digest_format(&p->blobs[i].digest, text)),
		CAIRN_NUM("bytes", p->blobs[i].size),
		CAIRN_STR("why", cairn_gc_why_name(d->why)),
		CAIRN_NUM("idle", (p->now_ns - p->blobs[i].used_ns) / CAIRN_NS_PER_S),
		CAIRN_STR("what", d->what), /* last: it may be long, and cut off */
	};
	emit(log, CAIRN_LOG_INFO, "gc_evict", fields, CAIRN_LEN(fields) - (d->what[0] == '\0'));
}

/* It would have gone by its age but for somebody's claim. */
static bool is_told(const struct cairn_gc_pass *p, size_t i, int64_t keep_ns)
{
	const struct cairn_gc_decision *d = &p->plan.decisions[i];
	return !p->gone[i] && d->why != CAIRN_GC_REFERENCED && d->why != CAIRN_GC_YOUNG &&
	       p->now_ns - p->blobs[i].used_ns >= keep_ns;
}

static void tell_kept(struct cairn_gc_log *log, const struct cairn_gc_pass *p, size_t i)
{
	char text[CAIRN_DIGEST_STR], why[CAIRN_NAME_MAX + 64];
	const struct cairn_gc_decision *d = &p->plan.decisions[i];
	snprintf(why, sizeof(why), "%s%s%s", cairn_gc_why_name(d->why),
		 d->what[0] != '\0' ? ":" : "", d->what);
	const struct cairn_field fields[] = {
		CAIRN_STR("digest", cairn_digest_format(&p->blobs[i].digest, text)),
		CAIRN_NUM("bytes", p->blobs[i].size),
		CAIRN_NUM("idle", (p->now_ns - p->blobs[i].used_ns) / CAIRN_NS_PER_S),
		CAIRN_STR("why", why), /* last: it may be long, and cut off */
	};
	emit(log, CAIRN_LOG_DEBUG, "gc_keep", fields, CAIRN_LEN(fields));
}

static void tell_summary(struct cairn_gc_log *log, const struct cairn_gc_pass *p)
{
	const struct cairn_gc_summary *s = &p->summary;
	const struct cairn_field fields[] = {
		CAIRN_STR("trigger", cairn_gc_trigger_name(s->trigger)),
		CAIRN_NUM("sure", s->sure),
		CAIRN_STR("unsure_why", s->unsure_why),
		CAIRN_NUM("evicted", s->evicted_blobs),
		CAIRN_NUM("evicted_bytes", s->evicted_bytes),
		CAIRN_NUM("to_free", s->to_free),
		CAIRN_NUM("freed", s->freed),
		CAIRN_NUM("relieved", s->relieved),
		CAIRN_NUM("referenced", s->blobs[CAIRN_GC_REFERENCED]),
		CAIRN_NUM("busy", s->blobs[CAIRN_GC_BUSY]),
		CAIRN_NUM("leased", s->blobs[CAIRN_GC_LEASE]),
		CAIRN_NUM("containers", s->blobs[CAIRN_GC_CONTAINER]),
		CAIRN_NUM("images", s->blobs[CAIRN_GC_IMAGE]),
		CAIRN_NUM("pinned", s->blobs[CAIRN_GC_PIN]),
		CAIRN_NUM("unsure", s->blobs[CAIRN_GC_UNSURE]),
		CAIRN_NUM("versions", s->blobs[CAIRN_GC_VERSION]),
		CAIRN_NUM("young", s->blobs[CAIRN_GC_YOUNG]),
		CAIRN_NUM("later", s->blobs[CAIRN_GC_LATER]),
		CAIRN_NUM("ingests_dropped", s->ingests_dropped),
		CAIRN_NUM("versions_dropped", s->versions_dropped),
		CAIRN_NUM("ms", s->duration_ns / CAIRN_NS_PER_MS),
	};
	/* An interval's pass that did nothing is no news. */
	bool news = s->evicted_blobs > 0 || s->to_free > 0 || s->trigger != CAIRN_GC_BY_INTERVAL;
	emit(log, news ? CAIRN_LOG_INFO : CAIRN_LOG_DEBUG, "gc_pass", fields, CAIRN_LEN(fields));
}

void cairn_gc_log_pass(struct cairn_gc_log *log, const struct cairn_gc_pass *pass, int64_t keep_ns)
{
	if (pass->summary.dry_run) return;
	for (size_t i = 0; i < pass->n_blobs; i++) {
		if (is_told(pass, i, keep_ns)) tell_kept(log, pass, i);
	}
	tell_summary(log, pass);
}
