/* Opening and closing the store. */
#include "cache/store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "cache/mem.h"

/* ---- folders */

static enum cairn_code make_dir(const char *path, struct cairn_err *err)
{
	if (mkdir(path, 0700) == 0 || errno == EEXIST) return CAIRN_OK;
	if (errno != ENOENT) return cairn_err_sys(err, errno, "make the folder %s", path);
	char *parent = mem_dup(path), *slash = strrchr(parent, '/');
	enum cairn_code code = CAIRN_OK;
	if (slash == NULL || slash == parent) {
		code = cairn_err_sys(err, ENOENT, "make the folder %s", path);
	} else {
		*slash = '\0';
		code = make_dir(parent, err);
	}
	free(parent);
	if (code == CAIRN_OK && mkdir(path, 0700) != 0 && errno != EEXIST) {
		code = cairn_err_sys(err, errno, "make the folder %s", path);
	}
	return code;
}

static enum cairn_code open_dir(struct cairn_cache *c, const char *sub, int *fd,
				struct cairn_err *err)
{
	char path[PATH_MAX + 32];
	snprintf(path, sizeof(path), "%s/%s", c->dir, sub);
	enum cairn_code code = make_dir(path, err);
	if (code != CAIRN_OK) return code;
	*fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return *fd >= 0 ? CAIRN_OK : cairn_err_sys(err, errno, "open the folder %s", path);
}

static enum cairn_code flush_dir(const char *path, struct cairn_err *err)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0) return cairn_err_sys(err, errno, "open the folder %s", path);
	int rc = fsync(fd) == 0 ? 0 : errno;
	close(fd);
	return rc == 0 ? CAIRN_OK : cairn_err_sys(err, rc, "flush the folder %s", path);
}

static enum cairn_code open_dirs(struct cairn_cache *c, struct cairn_err *err)
{
	char path[PATH_MAX + 8];
	enum cairn_code code = open_dir(c, "ingest", &c->ingest_fd, err);
	if (code == CAIRN_OK) code = open_dir(c, "blobs/sha256", &c->blob_fds[CAIRN_SHA256], err);
	if (code == CAIRN_OK) code = open_dir(c, "blobs/sha512", &c->blob_fds[CAIRN_SHA512], err);
	snprintf(path, sizeof(path), "%s/blobs", c->dir);
	if (code == CAIRN_OK) code = flush_dir(path, err);
	if (code == CAIRN_OK) code = flush_dir(c->dir, err);
	return code;
}

/* ---- the lock */

static enum cairn_code locked_by_other(struct cairn_cache *c, int fd, struct cairn_err *err)
{
	char pid[32] = "?";
	ssize_t n = pread(fd, pid, sizeof(pid) - 1, 0);
	pid[n > 0 ? strspn(pid, "0123456789") : 1] = '\0';
	return cairn_err_set(
		err, CAIRN_FAILED_PRECONDITION,
		"%s is in use by another daemon (pid %s): stop that one, or use another "
		"state_dir",
		c->dir, pid);
}

static enum cairn_code take_lock(struct cairn_cache *c, struct cairn_err *err)
{
	char path[PATH_MAX + 8], pid[32];
	enum cairn_code code = make_dir(c->dir, err);
	if (code != CAIRN_OK) return code;
	snprintf(path, sizeof(path), "%s/lock", c->dir);
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0) return cairn_err_sys(err, errno, "open %s", path);
	if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
		code = errno == EWOULDBLOCK ? locked_by_other(c, fd, err)
					    : cairn_err_sys(err, errno, "lock %s", path);
		close(fd);
		return code;
	}
	c->lock_fd = fd;
	int n = snprintf(pid, sizeof(pid), "%ld\n", (long)getpid());
	/* Only for people; the lock itself is the kernel's. */
	if (ftruncate(fd, 0) != 0 || pwrite(fd, pid, (size_t)n, 0) != n) {
		cairn_log(CAIRN_LOG_DEBUG, "lock_without_pid", CAIRN_STR("path", path));
	}
	return CAIRN_OK;
}

/* ---- room to work in
 *
 * Opening writes a little, and so does each eviction. A store that could do neither on a full disk
 * could not be emptied: so a file holds some space that is given up then. */

static void reserve_path(const struct cairn_cache *c, char path[static PATH_MAX + 16])
{
	snprintf(path, PATH_MAX + 16, "%s/reserve", c->dir);
}

static uint64_t disk_free(const struct cairn_cache *c)
{
	struct statvfs fs;
	return fstatvfs(c->lock_fd, &fs) == 0 ? (uint64_t)fs.f_bavail * fs.f_frsize : 0;
}

void reserve_give_up(const struct cairn_cache *c)
{
	char path[PATH_MAX + 16];
	reserve_path(c, path);
	if (disk_free(c) >= RESERVE_BYTES) return;
	if (unlink(path) == 0) {
		cairn_log(CAIRN_LOG_WARN, "disk_full", CAIRN_STR("state_dir", c->dir),
			  CAIRN_STR("action", "the reserve is given up"));
	}
}

bool reserve_keep(const struct cairn_cache *c)
{
	char path[PATH_MAX + 16];
	struct stat st;
	reserve_path(c, path);
	if (lstat(path, &st) == 0 && st.st_size == RESERVE_BYTES) return true;
	if (disk_free(c) < 4 * RESERVE_BYTES) return false;
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0) return false;
	bool there = posix_fallocate(fd, 0, RESERVE_BYTES) == 0;
	if (!there) (void)unlink(path);
	close(fd);
	return there;
}

/* ---- open */

static void init_cond(pthread_cond_t *cond)
{
	pthread_condattr_t attr;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(cond, &attr);
	pthread_condattr_destroy(&attr);
}

static struct cairn_cache *new_cache(const struct cairn_cache_opts *opts)
{
	struct cairn_cache *c = mem_zero(sizeof(*c));
	c->clock = opts->clock != NULL ? opts->clock : &cairn_clock_system;
	c->checkpoint_bytes =
		opts->checkpoint_bytes > 0 ? opts->checkpoint_bytes : CHECKPOINT_BYTES;
	c->sync_ms = opts->sync_ms > 0 ? opts->sync_ms : SYNC_MS;
	c->open_boot_ns = cairn_boot_ns(c->clock);
	c->lock_fd = c->ingest_fd = -1;
	for (size_t i = 0; i < CAIRN_LEN(c->blob_fds); i++) c->blob_fds[i] = -1;
	for (size_t i = 0; i < NAME_LOCKS; i++) pthread_mutex_init(&c->names[i].os, NULL);
	pthread_mutex_init(&c->mu.os, NULL);
	pthread_mutex_init(&c->read_mu.os, NULL);
	init_cond(&c->dirty_cond);
	hands_init(&c->hands);
	init_cond(&c->jobs_cond);
	init_cond(&c->sync_cond);
	init_cond(&c->events.added);
	init_cond(&c->events.told);
	TAILQ_INIT(&c->dirty_first);
	TAILQ_INIT(&c->dirty);
	TAILQ_INIT(&c->piece_files);
	c->jobs_tail = &c->jobs_head;
	c->next_id = 1;
	table_init(&c->tables[CAIRN_SHA256]);
	table_init(&c->tables[CAIRN_SHA512]);
	return c;
}

static void free_ingests(struct cairn_cache *c)
{
	for (size_t i = 0; i < c->ingests_n; i++) {
		struct ingest *ing = c->ingests[i];
		if (ing->blob != NULL) blob_unref(ing->blob);
		data_unref(ing->data);
		ingest_unref(ing);
	}
	free(c->ingests);
	c->ingests_n = 0;
}

/* Rows that nobody wrote, when opening failed half way. */
static void free_dirty(struct dirty_list *list)
{
	struct dirty *d;
	while ((d = TAILQ_FIRST(list)) != NULL) {
		TAILQ_REMOVE(list, d, link);
		switch (d->kind) {
		case DIRTY_BLOB:
			blob_unref(dirty_of(d, struct blob));
			break;
		case DIRTY_INGEST:
			data_unref(dirty_of(d, struct ingest_data));
			break;
		case DIRTY_VERSION:
			version_unref_locked(dirty_of(d, struct version));
			break;
		default:
			pin_unref_locked(dirty_of(d, struct pin));
		}
	}
}

static void free_cache(struct cairn_cache *c)
{
	hands_fini(&c->hands);
	free_dirty(&c->dirty_first);
	free_dirty(&c->dirty);
	free_ingests(c);
	piece_files_free(c);
	versions_free(c);
	pins_free(c);
	read_fini(c);
	for (uint8_t alg = CAIRN_SHA256; alg <= CAIRN_SHA512; alg++) {
		struct table *t = &c->tables[alg];
		struct blob *b = table_after(t, NULL), *next;
		for (; b != NULL; b = next) {
			next = table_next(t, b);
			blob_unref(b);
		}
		table_fini(t);
	}
	index_close(c->index);
	for (size_t i = 0; i < CAIRN_LEN(c->blob_fds); i++) {
		if (c->blob_fds[i] >= 0) close(c->blob_fds[i]);
	}
	if (c->ingest_fd >= 0) close(c->ingest_fd);
	for (size_t i = 0; i < NAME_LOCKS; i++) pthread_mutex_destroy(&c->names[i].os);
	pthread_mutex_destroy(&c->mu.os);
	pthread_mutex_destroy(&c->read_mu.os);
	pthread_cond_destroy(&c->dirty_cond);
	pthread_cond_destroy(&c->jobs_cond);
	pthread_cond_destroy(&c->sync_cond);
	pthread_cond_destroy(&c->events.added);
	pthread_cond_destroy(&c->events.told);
	if (c->lock_fd >= 0) close(c->lock_fd); /* last: another may open it from here on */
	free(c);
}

enum cairn_code cairn_cache_open(const struct cairn_cache_opts *opts, struct cairn_cache **ret,
				 struct cairn_err *err)
{
	if (opts->dir == NULL || opts->dir[0] == '\0' || strlen(opts->dir) > PATH_MAX - 256) {
		return cairn_err_set(err, CAIRN_INTERNAL, "state_dir: no usable path");
	}
	struct cairn_cache *c = new_cache(opts);
	memcpy(c->dir, opts->dir, strlen(opts->dir) + 1);
	enum cairn_code code = take_lock(c, err);
	if (code == CAIRN_OK) reserve_give_up(c);
	if (code == CAIRN_OK) code = open_dirs(c, err);
	if (code == CAIRN_OK) code = load_store(c, err);
	if (code == CAIRN_OK) code = writer_start(c, err);
	if (code == CAIRN_OK) code = jobs_start(c, err);
	if (code == CAIRN_OK) code = hands_start(&c->hands, err);
	if (code == CAIRN_OK) code = events_start(c, err);
	if (code == CAIRN_OK) {
		(void)reserve_keep(c);
		*ret = c;
		return CAIRN_OK;
	}
	jobs_stop(c);
	writer_stop(c);
	free_cache(c);
	return code;
}

/* ---- close */

static void save_uses(struct cairn_cache *c)
{
	lock(&c->mu);
	for (uint8_t alg = CAIRN_SHA256; alg <= CAIRN_SHA512; alg++) {
		struct table *t = &c->tables[alg];
		for (struct blob *b = table_after(t, NULL); b != NULL; b = table_next(t, b)) {
			if (b->used_ns != b->saved_used_ns) writer_add_blob_locked(c, b);
		}
	}
	for (size_t i = 0; i < c->versions_n; i++) {
		struct version *v = c->versions[i];
		if (v->v.last_ns != v->saved_last_ns) writer_add_version_locked(c, v);
	}
	c->sync_wanted[ROWS_ALL]++; /* the age is written even when no row is */
	pthread_cond_signal(&c->dirty_cond);
	unlock(&c->mu);
}

static void mark_end(struct cairn_cache *c)
{
	struct cairn_err err;
	if (c->rows_lost) {
		cairn_log(CAIRN_LOG_WARN, "store_end_unclean",
			  CAIRN_STR("why", "rows could not be written"));
		return;
	}
	if (index_mark(c->index, true, &err) != CAIRN_OK) {
		cairn_log(CAIRN_LOG_WARN, "store_end_unclean", CAIRN_ERRF(&err));
	}
}

void cairn_cache_close(struct cairn_cache *c)
{
	if (c == NULL) return;
	events_stop(c);
	jobs_stop(c); /* closing a session queued its checkpoint */
	save_uses(c);
	writer_stop(c);
	mark_end(c);
	free_cache(c);
}

void cairn_cache_stats(struct cairn_cache *c, struct cairn_cache_stats *ret)
{
	struct statvfs fs;
	lock(&c->mu);
	*ret = c->stats;
	ret->ingests = c->ingests_n;
	ret->ingest_bytes = 0;
	for (size_t i = 0; i < c->ingests_n; i++) {
		if (c->ingests[i]->blob == NULL) ret->ingest_bytes += c->ingests[i]->offset;
	}
	piece_files_count_locked(c, ret);
	unlock(&c->mu);
	ret->read_bytes = c->read_bytes;
	ret->written_bytes = c->written_bytes;
	if (fstatvfs(c->ingest_fd, &fs) == 0) {
		ret->disk_total_bytes = (uint64_t)fs.f_blocks * fs.f_frsize;
		ret->disk_free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
	}
}
