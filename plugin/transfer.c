#include "plugin/transfer.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "plugin/boltdb.h"

#define BATCH 64	      /* blobs of the store looked at in one go */
#define HASH_BYTES (1u << 20) /* read at once */
#define METADATA "io.containerd.metadata.v1.bolt/meta.db"

static void close_fd(int *fd)
{
	if (*fd >= 0) close(*fd);
}

/* ---- paths ---- */

static enum cairn_code check_path(const char *what, const char *path, struct cairn_err *err)
{
	if (path[0] != '/') {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "%s must be an absolute path, not \"%.200s\"", what, path);
	}
	if (strlen(path) > CAIRN_TRANSFER_PATH_MAX) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT, "%s is longer than %d bytes",
				     what, CAIRN_TRANSFER_PATH_MAX);
	}
	return CAIRN_OK;
}

/* Where containerd keeps its database when directory is where it keeps content: beside it. */
static char *default_metadata(const char *directory)
{
	char *path = NULL;
	size_t n = strlen(directory);
	while (n > 1 && directory[n - 1] == '/') n--;
	while (n > 0 && directory[n - 1] != '/') n--;
	if (asprintf(&path, "%.*s%s", (int)n, directory, METADATA) < 0) abort();
	return path;
}

static void blob_path(const struct cairn_transfer *t, const struct cairn_digest *d,
		      char ret[static PATH_MAX])
{
	char hex[CAIRN_DIGEST_STR];
	snprintf(ret, PATH_MAX, "%s/blobs/%s/%s", t->directory, cairn_alg_name(d->alg),
		 cairn_digest_hex(d, hex));
}

enum cairn_code cairn_transfer_init(struct cairn_transfer *t, struct cairn_err *err)
{
	enum cairn_code rc = check_path("the directory", t->directory, err);
	if (rc == CAIRN_OK && t->metadata[0] != '\0') {
		rc = check_path("the metadata file", t->metadata, err);
	}
	if (rc) return rc;
	t->report.path =
		t->metadata[0] != '\0' ? strdup(t->metadata) : default_metadata(t->directory);
	if (t->report.path == NULL) abort();
	return CAIRN_OK;
}

void cairn_transfer_fini(struct cairn_transfer *t)
{
	for (size_t i = 0; i < t->report.n_absent; i++) free(t->report.absent[i].ns);
	free(t->report.path);
	t->report = (struct cairn_records_report){0};
}

/* Open DIR, and make sure that it is not the store itself. */
static enum cairn_code open_directory(const struct cairn_transfer *t, int *ret,
				      struct cairn_err *err)
{
	struct stat own, st;
	int fd = open(t->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 && (errno == ENOENT || errno == ENOTDIR)) {
		return cairn_err_set(err, CAIRN_NOT_FOUND, "%s: no such directory", t->directory);
	}
	if (fd < 0) return cairn_err_sys(err, errno, "open %s", t->directory);
	if (fstat(fd, &st) == 0 && stat(t->state_dir, &own) == 0 && st.st_dev == own.st_dev &&
	    st.st_ino == own.st_ino) {
		close(fd);
		return cairn_err_set(err, CAIRN_FAILED_PRECONDITION,
				     "%s is cairnd's own state_dir, not containerd's content "
				     "directory",
				     t->directory);
	}
	*ret = fd;
	return CAIRN_OK;
}

/* A directory inside dir, not followed if it is a symbolic link. -1 in *ret: there is none. */
static enum cairn_code open_inside(int dir, const char *name, const char *of, int *ret,
				   struct cairn_err *err)
{
	*ret = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (*ret >= 0 || errno == ENOENT) return CAIRN_OK;
	if (errno == ENOTDIR || errno == ELOOP) {
		return cairn_err_set(err, CAIRN_FAILED_PRECONDITION, "%s: %s is not a directory",
				     of, name);
	}
	return cairn_err_sys(err, errno, "open %s in %s", name, of);
}

/* ---- what is recorded but absent ---- */

/* Is the blob where containerd will look for it after the transfer? */
typedef bool present_fn(const struct cairn_transfer *t, const struct cairn_digest *d);

static bool present_in_store(const struct cairn_transfer *t, const struct cairn_digest *d)
{
	struct cairn_blob_info info;
	struct cairn_err ignored;
	if (cairn_cache_info(t->cache, d, &info, &ignored) != CAIRN_OK) return false;
	bool damaged = info.damaged;
	cairn_blob_info_fini(&info);
	return !damaged;
}

static bool present_in_directory(const struct cairn_transfer *t, const struct cairn_digest *d)
{
	char path[PATH_MAX];
	struct stat st;
	blob_path(t, d, path);
	return lstat(path, &st) == 0 && S_ISREG(st.st_mode);
}

static void compare(struct cairn_transfer *t, const struct cairn_records *records,
		    present_fn *present)
{
	struct cairn_records_report *r = &t->report;
	r->recorded = records->n + records->foreign;
	for (size_t i = 0; i < records->n; i++) {
		const struct cairn_record *record = &records->list[i];
		if (present(t, &record->digest)) continue;
		r->absent_total++;
		if (r->n_absent == CAIRN_LEN(r->absent)) continue;
		char *ns = strdup(records->namespaces[record->ns]);
		if (ns == NULL) abort();
		r->absent[r->n_absent++] = (struct cairn_absent){ns, record->digest};
	}
	if (records->foreign > 0) {
		snprintf(r->error, sizeof(r->error),
			 "%llu records have digests that are neither sha256 nor sha512: cairn "
			 "cannot hold these",
			 (unsigned long long)records->foreign);
	}
}

static void report_records(struct cairn_transfer *t, present_fn *present)
{
	struct cairn_records records;
	struct cairn_err err;
	struct cairn_records_report *r = &t->report;
	enum cairn_code rc = cairn_boltdb_read(r->path, &records, &r->running, &err);
	if (rc) {
		r->missing = rc == CAIRN_NOT_FOUND;
		snprintf(r->error, sizeof(r->error), "%s", err.msg);
		return;
	}
	r->known = true;
	compare(t, &records, present);
	cairn_records_fini(&records);
}

/* ---- import ---- */

typedef enum cairn_code import_fn(struct cairn_transfer *t, struct cairn_job *job,
				  const struct cairn_digest *d, const struct stat *st,
				  struct cairn_err *err);

static enum cairn_code count_one(struct cairn_transfer *t, struct cairn_job *job,
				 const struct cairn_digest *d, const struct stat *st,
				 struct cairn_err *err)
{
	(void)t, (void)d, (void)err;
	const struct cairn_job_counts more = {
		.blobs_total = 1,
		.bytes_total = S_ISREG(st->st_mode) ? (uint64_t)st->st_size : 0,
	};
	cairn_job_add(job, &more);
	return CAIRN_OK;
}

/* A blob is through, well or not. */
static void count_done(struct cairn_transfer *t, struct cairn_job *job, uint64_t size)
{
	t->bytes_done += size;
	cairn_job_set_bytes(job, t->bytes_done);
	cairn_job_add(job, &(struct cairn_job_counts){.blobs_done = 1});
}

static void count_outcome(struct cairn_transfer *t, struct cairn_job *job, uint64_t size,
			  enum cairn_adopt how)
{
	const struct cairn_job_counts more = {
		.linked = how == CAIRN_ADOPT_LINKED,
		.copied = how == CAIRN_ADOPT_COPIED,
		.present = how == CAIRN_ADOPT_PRESENT,
	};
	cairn_job_add(job, &more);
	count_done(t, job, size);
}

/* A blob failed. What ends the whole job is returned; the rest is told, and the others go on. */
static enum cairn_code count_failure(struct cairn_transfer *t, struct cairn_job *job,
				     const struct cairn_digest *d, uint64_t size,
				     const struct cairn_err *cause, struct cairn_err *err)
{
	char name[CAIRN_DIGEST_STR];
	if (cause->code == CAIRN_CANCELLED || cause->code == CAIRN_RESOURCE_EXHAUSTED) {
		*err = *cause;
		return err->code;
	}
	cairn_job_find(job, cairn_digest_format(d, name), 0, cause->msg);
	count_done(t, job, size);
	return CAIRN_OK;
}

static enum cairn_code import_one(struct cairn_transfer *t, struct cairn_job *job,
				  const struct cairn_digest *d, const struct stat *st,
				  struct cairn_err *err)
{
	char path[PATH_MAX];
	enum cairn_adopt how;
	struct cairn_err cause;
	struct stat now;
	const uint64_t size = S_ISREG(st->st_mode) ? (uint64_t)st->st_size : 0;
	blob_path(t, d, path);
	if (!S_ISREG(st->st_mode)) {
		cairn_err_set(&cause, CAIRN_DATA_LOSS, "%s is not a regular file", path);
		return count_failure(t, job, d, size, &cause, err);
	}
	if (cairn_cache_adopt(t->cache, d, path, cairn_job_bytes, job, &how, &cause) == CAIRN_OK) {
		count_outcome(t, job, size, how);
		return CAIRN_OK;
	}
	if (lstat(path, &now) != 0 && errno == ENOENT) { /* a running containerd deleted it */
		count_done(t, job, size);
		return CAIRN_OK;
	}
	return count_failure(t, job, d, size, &cause, err);
}

/* Call fn for each entry of blobs/<alg> that is named as a blob is. */
static enum cairn_code each_of_alg(struct cairn_transfer *t, struct cairn_job *job, int blobs,
				   uint8_t alg, import_fn *fn, struct cairn_err *err)
{
	int fd;
	enum cairn_code rc = open_inside(blobs, cairn_alg_name(alg), t->directory, &fd, err);
	if (rc || fd < 0) return rc;
	DIR *dir = fdopendir(fd);
	if (dir == NULL) {
		rc = cairn_err_sys(err, errno, "read %s/blobs", t->directory);
		close(fd);
		return rc;
	}
	struct dirent *e;
	while (rc == CAIRN_OK && (errno = 0, e = readdir(dir)) != NULL) {
		char text[CAIRN_DIGEST_STR + NAME_MAX];
		struct cairn_digest d;
		struct cairn_err ignored;
		struct stat st;
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
		int n = snprintf(text, sizeof(text), "%s:%s", cairn_alg_name(alg), e->d_name);
		if (cairn_digest_parse(text, (size_t)n, &d, &ignored) != CAIRN_OK) {
			if (fn == count_one) {
				cairn_job_add(job, &(struct cairn_job_counts){.ignored = 1});
			}
			continue;
		}
		if (cairn_job_stopped(job)) {
			rc = cairn_err_set(err, CAIRN_CANCELLED, "stopped");
		} else if (fstatat(fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0) {
			rc = fn(t, job, &d, &st, err);
		}
	}
	if (rc == CAIRN_OK && errno != 0) {
		rc = cairn_err_sys(err, errno, "read %s/blobs", t->directory);
	}
	closedir(dir);
	return rc;
}

static enum cairn_code each_blob(struct cairn_transfer *t, struct cairn_job *job, int blobs,
				 import_fn *fn, struct cairn_err *err)
{
	enum cairn_code rc = each_of_alg(t, job, blobs, CAIRN_SHA256, fn, err);
	if (rc == CAIRN_OK) rc = each_of_alg(t, job, blobs, CAIRN_SHA512, fn, err);
	return rc;
}

enum cairn_code cairn_transfer_import(struct cairn_job *job, void *arg, struct cairn_err *err)
{
	struct cairn_transfer *t = arg;
	cairn_auto(close_fd) int dir = -1;
	cairn_auto(close_fd) int blobs = -1;
	enum cairn_code rc = open_directory(t, &dir, err);
	if (rc == CAIRN_OK) rc = open_inside(dir, "blobs", t->directory, &blobs, err);
	if (rc) return rc;
	if (blobs < 0) {
		return cairn_err_set(err, CAIRN_NOT_FOUND,
				     "%s has no folder \"blobs\", so it is not a content "
				     "directory; containerd's own is "
				     "/var/lib/containerd/io.containerd.content.v1.content unless "
				     "its config says otherwise",
				     t->directory);
	}
	rc = each_blob(t, job, blobs, count_one, err);
	if (rc == CAIRN_OK) rc = each_blob(t, job, blobs, import_one, err);
	if (rc == CAIRN_OK) report_records(t, present_in_store);
	return rc;
}

/* ---- export ---- */

/* Make a folder as containerd does (0755 whatever our umask is), or open the one that is there. */
static enum cairn_code make_inside(int dir, const char *name, const char *of, int *ret,
				   struct cairn_err *err)
{
	bool made = mkdirat(dir, name, 0755) == 0;
	if (!made && errno != EEXIST) return cairn_err_sys(err, errno, "make %s in %s", name, of);
	enum cairn_code rc = open_inside(dir, name, of, ret, err);
	if (rc) return rc;
	if (*ret < 0) return cairn_err_set(err, CAIRN_INTERNAL, "%s in %s vanished", name, of);
	if (made && fchmod(*ret, 0755) != 0) {
		return cairn_err_sys(err, errno, "set the mode of %s in %s", name, of);
	}
	return CAIRN_OK;
}

struct target {
	int dir, blobs, ingest, alg[CAIRN_SHA512 + 1];
};

static void close_target(struct target *target)
{
	close_fd(&target->dir);
	close_fd(&target->blobs);
	close_fd(&target->ingest);
	for (size_t i = 0; i < CAIRN_LEN(target->alg); i++) close_fd(&target->alg[i]);
}

static enum cairn_code open_target(const struct cairn_transfer *t, struct target *ret,
				   struct cairn_err *err)
{
	if (mkdir(t->directory, 0755) == 0) {
		(void)chmod(t->directory, 0755);
	} else if (errno != EEXIST) {
		return cairn_err_sys(err, errno, "make %s", t->directory);
	}
	enum cairn_code rc = open_directory(t, &ret->dir, err);
	if (rc == CAIRN_OK) rc = make_inside(ret->dir, "blobs", t->directory, &ret->blobs, err);
	if (rc == CAIRN_OK) rc = make_inside(ret->dir, "ingest", t->directory, &ret->ingest, err);
	return rc;
}

/* Folders of algorithms are made when the first blob needs them. */
static enum cairn_code target_of(const struct cairn_transfer *t, struct target *target, uint8_t alg,
				 int *ret, struct cairn_err *err)
{
	enum cairn_code rc = CAIRN_OK;
	if (target->alg[alg] < 0) {
		rc = make_inside(target->blobs, cairn_alg_name(alg), t->directory,
				 &target->alg[alg], err);
	}
	if (rc == CAIRN_OK) *ret = target->alg[alg];
	return rc;
}

/* Is it a name of the very file that the store has? */
static bool is_own_file(const struct cairn_transfer *t, const struct cairn_digest *d,
			const struct stat *st)
{
	char path[PATH_MAX], hex[CAIRN_DIGEST_STR];
	struct stat own;
	int n = snprintf(path, sizeof(path), "%s/blobs/%s/%s", t->state_dir, cairn_alg_name(d->alg),
			 cairn_digest_hex(d, hex));
	return n < (int)sizeof(path) && lstat(path, &own) == 0 && own.st_dev == st->st_dev &&
	       own.st_ino == st->st_ino;
}

static enum cairn_code hash_present(struct cairn_job *job, int fd, uint8_t alg,
				    struct cairn_digest *ret, struct cairn_err *err)
{
	struct cairn_hasher h;
	uint8_t *buf = malloc(HASH_BYTES);
	if (buf == NULL) return cairn_err_set(err, CAIRN_RESOURCE_EXHAUSTED, "out of memory");
	enum cairn_code rc = CAIRN_OK;
	cairn_hasher_init(&h, (enum cairn_alg)alg);
	for (ssize_t n = 1; rc == CAIRN_OK && n > 0;) {
		n = read(fd, buf, HASH_BYTES);
		if (n > 0) cairn_hasher_update(&h, buf, (size_t)n);
		if (n < 0 && errno != EINTR) rc = cairn_err_sys(err, errno, "read");
		if (n < 0) n = 1;
		if (!cairn_job_bytes(job, (uint64_t)n)) {
			rc = cairn_err_set(err, CAIRN_CANCELLED, "stopped");
		}
	}
	cairn_hasher_digest(&h, ret);
	free(buf);
	return rc;
}

/* A file has the blob's name already. A link to ours is as good as ours; any other is read, because
 * containerd will trust it: it may be the damaged one that an import refused. */
static enum cairn_code check_present(struct cairn_transfer *t, struct cairn_job *job, int dir,
				     const struct stat *st, const struct cairn_blob_info *info,
				     struct cairn_err *err)
{
	char path[PATH_MAX], hex[CAIRN_DIGEST_STR];
	struct cairn_digest found = {0};
	struct cairn_err cause;
	if (!info->damaged && is_own_file(t, &info->digest, st)) return CAIRN_OK;
	blob_path(t, &info->digest, path);
	if (S_ISREG(st->st_mode) && (uint64_t)st->st_size == info->size) {
		cairn_auto(close_fd) int fd =
			openat(dir, cairn_digest_hex(&info->digest, hex),
			       O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
		if (fd < 0) return cairn_err_sys(err, errno, "open %s", path);
		enum cairn_code rc = hash_present(job, fd, info->digest.alg, &found, &cause);
		if (rc) {
			*err = cause;
			return cairn_err_wrap(err, "%s", path);
		}
		if (cairn_digest_equal(&found, &info->digest)) return CAIRN_OK;
	}
	return cairn_err_set(err, CAIRN_FAILED_PRECONDITION,
			     "%s is there but is not this blob; remove it and run again", path);
}

static enum cairn_code export_one(struct cairn_transfer *t, struct cairn_job *job,
				  struct target *target, const struct cairn_blob_info *info,
				  struct cairn_err *err)
{
	char path[PATH_MAX], hex[CAIRN_DIGEST_STR];
	struct stat st;
	struct cairn_err cause;
	enum cairn_adopt how = CAIRN_ADOPT_PRESENT;
	int dir;
	enum cairn_code rc = target_of(t, target, info->digest.alg, &dir, err);
	if (rc) return rc;
	blob_path(t, &info->digest, path);
	cairn_digest_hex(&info->digest, hex);
	if (fstatat(dir, hex, &st, AT_SYMLINK_NOFOLLOW) == 0) {
		rc = check_present(t, job, dir, &st, info, &cause);
		if (rc) return count_failure(t, job, &info->digest, info->size, &cause, err);
		count_outcome(t, job, info->size, how);
		return CAIRN_OK;
	}
	rc = cairn_cache_give(t->cache, &info->digest, path, cairn_job_bytes, job, &how, &cause);
	if (rc == CAIRN_NOT_FOUND) return CAIRN_OK; /* went while we walked */
	if (rc == CAIRN_OK && fchmodat(dir, hex, 0444, 0) != 0) {
		rc = cairn_err_sys(&cause, errno, "set the mode of %s", path);
	}
	if (rc) return count_failure(t, job, &info->digest, info->size, &cause, err);
	count_outcome(t, job, info->size, how);
	return CAIRN_OK;
}

static enum cairn_code export_all(struct cairn_transfer *t, struct cairn_job *job,
				  struct target *target, struct cairn_err *err)
{
	struct cairn_digest after = {0};
	enum cairn_code rc = CAIRN_OK;
	struct cairn_blob_info *batch = calloc(BATCH, sizeof(*batch));
	if (batch == NULL) return cairn_err_set(err, CAIRN_RESOURCE_EXHAUSTED, "out of memory");
	while (rc == CAIRN_OK) {
		size_t n = cairn_cache_next(t->cache, &after, CAIRN_BLOB_REFERENCED, batch, BATCH);
		if (n == 0) break;
		after = batch[n - 1].digest;
		for (size_t i = 0; i < n; i++) {
			if (rc == CAIRN_OK && cairn_job_stopped(job)) {
				rc = cairn_err_set(err, CAIRN_CANCELLED, "stopped");
			}
			if (rc == CAIRN_OK) rc = export_one(t, job, target, &batch[i], err);
			cairn_blob_info_fini(&batch[i]);
		}
	}
	free(batch);
	return rc;
}

static enum cairn_code flush(const struct cairn_transfer *t, const struct target *target,
			     struct cairn_err *err)
{
	const int fds[] = {target->alg[CAIRN_SHA256], target->alg[CAIRN_SHA512], target->blobs,
			   target->dir};
	for (size_t i = 0; i < CAIRN_LEN(fds); i++) {
		if (fds[i] >= 0 && fsync(fds[i]) != 0) {
			return cairn_err_sys(err, errno, "flush %s", t->directory);
		}
	}
	return CAIRN_OK;
}

enum cairn_code cairn_transfer_export(struct cairn_job *job, void *arg, struct cairn_err *err)
{
	struct cairn_transfer *t = arg;
	cairn_auto(close_target) struct target target = {-1, -1, -1, {-1, -1, -1}};
	struct cairn_cache_stats stats;
	cairn_cache_stats(t->cache, &stats);
	const struct cairn_job_counts total = {.blobs_total = stats.referenced_blobs,
					       .bytes_total = stats.referenced_bytes};
	cairn_job_add(job, &total);
	enum cairn_code rc = open_target(t, &target, err);
	if (rc == CAIRN_OK) rc = export_all(t, job, &target, err);
	if (rc == CAIRN_OK) rc = flush(t, &target, err);
	if (rc == CAIRN_OK) report_records(t, present_in_directory);
	return rc;
}
