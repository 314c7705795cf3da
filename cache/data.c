/* The private bytes of an ingest: their file, their checkpoints, their end. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/log.h"
#include "cache/mem.h"
#include "cache/store.h"

#define IOV_STEP 64

struct ingest_data *data_new_locked(struct cairn_cache *c, struct ingest *ing)
{
	struct ingest_data *d = mem_zero(sizeof(*d));
	atomic_init(&d->refs, 1);
	atomic_fetch_add(&ing->refs, 1);
	d->ingest = ing;
	d->id = c->next_id++;
	d->fd = -1;
	pthread_mutex_init(&d->flush.os, NULL);
	chain_init(&d->chain, ing->hasher.alg);
	return d;
}

struct ingest_data *data_ref(struct ingest_data *d)
{
	atomic_fetch_add(&d->refs, 1);
	return d;
}

void data_unref(struct ingest_data *d)
{
	if (atomic_fetch_sub(&d->refs, 1) != 1) return;
	data_close(d);
	pthread_mutex_destroy(&d->flush.os);
	chain_fini(&d->chain);
	free((void *)(uintptr_t)d->row.owner);
	ingest_unref(d->ingest);
	free(d);
}

const char *data_name(const struct ingest_data *d, char name[static 32])
{
	snprintf(name, 32, "%llu", (unsigned long long)d->id);
	return name;
}

enum cairn_code data_open(struct cairn_cache *c, struct ingest_data *d, struct cairn_err *err)
{
	char name[32];
	if (d->fd >= 0) return CAIRN_OK;
	int flags = O_RDWR | O_CLOEXEC | O_NOFOLLOW | (d->file ? 0 : O_CREAT | O_EXCL);
	d->fd = openat(c->ingest_fd, data_name(d, name), flags, 0600);
	if (d->fd < 0) {
		return cairn_err_sys(err, errno,
				     "open the data of an unfinished ingest, %s/ingest/%s", c->dir,
				     name);
	}
	d->file = true;
	return CAIRN_OK;
}

void data_close(struct ingest_data *d)
{
	if (d->fd >= 0) close(d->fd);
	d->fd = -1;
}

enum cairn_code disk_err(const struct cairn_cache *c, int errnum, struct cairn_err *err)
{
	if (errnum == ENOSPC || errnum == EDQUOT) {
		return cairn_err_sys(err, errnum, "write to %s: free space there", c->dir);
	}
	return cairn_err_sys(err, errnum, "write to %s", c->dir);
}

/* Start writing back what has gathered, so that the flush at the end is short. */
static void write_back(struct ingest_data *d)
{
	if (d->high < d->written_back + WRITEBACK_BYTES) return;
	(void)sync_file_range(d->fd, (off_t)d->written_back, (off_t)(d->high - d->written_back),
			      SYNC_FILE_RANGE_WRITE);
	d->written_back = d->high;
}

/* Up to IOV_STEP spans from position (i, skip) on. */
static int gather(const struct cairn_span *spans, size_t n, size_t i, size_t skip,
		  struct iovec iov[static IOV_STEP])
{
	int k = 0;
	for (; i < n && k < IOV_STEP; i++, skip = 0) {
		if (spans[i].len == skip) continue;
		iov[k].iov_base = (void *)(uintptr_t)(spans[i].data + skip);
		iov[k++].iov_len = spans[i].len - skip;
	}
	return k;
}

enum cairn_code data_append(struct cairn_cache *c, struct ingest_data *d, uint64_t offset,
			    const struct cairn_span *spans, size_t n, uint64_t len,
			    struct cairn_err *err)
{
	struct iovec iov[IOV_STEP];
	size_t i = 0, skip = 0;
	uint64_t end = offset + len;
	enum cairn_code code = data_open(c, d, err);
	if (code != CAIRN_OK) return code;
	while (offset < end) {
		int k = gather(spans, n, i, skip, iov);
		ssize_t got = pwritev(d->fd, iov, k, (off_t)offset);
		if (got < 0 && errno == EINTR) continue;
		if (got <= 0) return disk_err(c, got < 0 ? errno : ENOSPC, err);
		offset += (uint64_t)got;
		if (offset > d->high) d->high = offset;
		size_t left = (size_t)got;
		while (i < n && left >= spans[i].len - skip) {
			left -= spans[i++].len - skip;
			skip = 0;
		}
		skip += left;
	}
	write_back(d);
	return CAIRN_OK;
}

enum cairn_code data_cut(struct cairn_cache *c, struct ingest_data *d, uint64_t size,
			 struct cairn_err *err)
{
	enum cairn_code code = data_open(c, d, err);
	if (code != CAIRN_OK) return code;
	if (d->high > size && ftruncate(d->fd, (off_t)size) != 0) return disk_err(c, errno, err);
	d->high = size;
	return CAIRN_OK;
}

/* ---- the end */

static struct ingest_data *of_drop_job(struct job *job)
{
	return (struct ingest_data *)((char *)job - offsetof(struct ingest_data, drop_job));
}

static void drop_job(struct cairn_cache *c, struct job *job)
{
	struct ingest_data *d = of_drop_job(job);
	char name[32];
	lock(&d->ingest->io); /* a stale write may still be at it */
	data_close(d);
	if (d->file) (void)unlinkat(c->ingest_fd, data_name(d, name), 0);
	d->file = false;
	unlock(&d->ingest->io);
	data_unref(d);
}

void data_drop_locked(struct cairn_cache *c, struct ingest_data *d)
{
	d->dead = true;
	writer_add_ingest_locked(c, d);
	jobs_add_locked(c, &d->drop_job, drop_job);
}

/* ---- checkpoints */

static struct ingest_data *of_save_job(struct job *job)
{
	return (struct ingest_data *)((char *)job - offsetof(struct ingest_data, save_job));
}

struct checkpoint {
	struct ingest_row row;
	size_t states;
	bool flush;
};

/* What is true now, of bytes that will not change any more. False: there is nothing to save. */
static bool snapshot(struct cairn_cache *c, struct ingest_data *d, struct checkpoint *cp)
{
	struct ingest *ing = d->ingest;
	lock(&c->mu);
	bool alive = !d->dead && !d->broken && !ing->gone && ing->data == d;
	if (alive) {
		cp->row = (struct ingest_row){
			.id = d->id,
			.ref = ing->ref,
			.owner = ing->owner != NULL ? mem_dup(ing->owner) : NULL,
			.total = ing->total,
			.offset = ing->offset,
			.alg = ing->hasher.alg,
			.expected = ing->expected,
			.want = ing->want,
			.started_ns = ing->started_ns,
			.updated_ns = ing->updated_ns,
		};
		cp->states = d->chain.n;
		if (ing->blob != NULL) cp->row.published = ing->blob->digest;
		cp->flush = ing->blob == NULL && d->file && ing->offset > d->saved_offset;
	}
	unlock(&c->mu);
	return alive;
}

/* Flush without holding the writer up. */
static enum cairn_code flush_unlocked(struct cairn_cache *c, int fd, struct cairn_err *err)
{
	if (fd < 0) return cairn_err_sys(err, errno, "open an ingest's data once more");
	int rc = fdatasync(fd) == 0 ? 0 : errno;
	close(fd);
	return rc == 0 ? CAIRN_OK : cairn_err_sys(err, rc, "flush an ingest's data in %s", c->dir);
}

static void save_failed(struct cairn_cache *c, struct ingest_data *d, struct cairn_err *err)
{
	cairn_log(CAIRN_LOG_ERROR, "ingest_flush_failed", CAIRN_STR("ref", d->ingest->ref),
		  CAIRN_ERRF(err));
	lock(&c->mu);
	d->broken = true;
	unlock(&c->mu);
}

/* The kernel tells one flush of a failed write-back, and not the next one: nobody may flush and
 * publish between this one and its verdict. */
bool data_is_broken(struct cairn_cache *c, struct ingest_data *d)
{
	lock(&d->flush);
	lock(&c->mu);
	bool broken = d->broken;
	unlock(&c->mu);
	unlock(&d->flush);
	return broken;
}

static void save(struct cairn_cache *c, struct ingest_data *d)
{
	struct checkpoint cp = {0};
	struct cairn_err err;
	enum cairn_code code = CAIRN_OK;
	int fd = -1;
	lock(&d->ingest->io);
	bool alive = snapshot(c, d, &cp);
	if (alive && cp.flush) {
		code = data_open(c, d, &err);
		if (code == CAIRN_OK) fd = fcntl(d->fd, F_DUPFD_CLOEXEC, 0);
	}
	lock(&d->flush);
	unlock(&d->ingest->io);
	if (alive && cp.flush && code == CAIRN_OK) {
		code = flush_unlocked(c, fd, &err);
		/* Having no descriptor says nothing about the data. */
		if (code != CAIRN_OK && fd >= 0) save_failed(c, d, &err);
	}
	unlock(&d->flush);
	if (!alive) return;
	lock(&c->mu);
	if (code == CAIRN_OK && !d->dead) {
		const char *old = d->row.owner;
		d->row = cp.row;
		d->row_states = cp.states;
		d->saved_offset = cp.row.offset;
		cp.row.owner = old;
		writer_add_ingest_locked(c, d);
	}
	unlock(&c->mu);
	free((void *)(uintptr_t)cp.row.owner);
}

/* Files of ingests that nobody writes are not kept open. */
static void close_if_idle(struct cairn_cache *c, struct ingest_data *d)
{
	lock(&d->ingest->io);
	lock(&c->mu);
	bool idle = d->ingest->session == NULL;
	unlock(&c->mu);
	if (idle) data_close(d);
	unlock(&d->ingest->io);
}

static void save_job(struct cairn_cache *c, struct job *job)
{
	struct ingest_data *d = of_save_job(job);
	save(c, d);
	close_if_idle(c, d);
	lock(&c->mu);
	bool again = d->save_again;
	d->save_again = false;
	d->saving = again;
	if (again) jobs_add_locked(c, &d->save_job, save_job); /* with the same reference */
	unlock(&c->mu);
	if (!again) data_unref(d);
}

void data_save_locked(struct cairn_cache *c, struct ingest_data *d)
{
	d->save_mark = d->ingest->offset;
	if (d->saving) {
		d->save_again = true;
		return;
	}
	d->saving = true;
	data_ref(d);
	jobs_add_locked(c, &d->save_job, save_job);
}
