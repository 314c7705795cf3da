#include "plugin/preheat_store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "plugin/fleet.h"
#include "state.pb-c.h"

#define FILE_MAX (16u << 20) /* bytes of one job */
#define BESIDE ".new"	     /* what is being written; no id has a dot */

enum cairn_code cairn_preheat_store_open(struct cairn_preheat_store *store, const char *state_dir,
					 struct cairn_err *err)
{
	if (asprintf(&store->dir, "%s/jobs", state_dir) < 0) abort();
	store->dir_fd = -1;
	if (mkdir(store->dir, 0700) != 0 && errno != EEXIST) {
		return cairn_err_sys(err, errno, "make the folder %s", store->dir);
	}
	store->dir_fd = open(store->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (store->dir_fd >= 0) return CAIRN_OK;
	return cairn_err_sys(err, errno, "open the folder %s", store->dir);
}

void cairn_preheat_store_close(struct cairn_preheat_store *store)
{
	if (store->dir_fd >= 0) close(store->dir_fd);
	free(store->dir);
	*store = (struct cairn_preheat_store){.dir_fd = -1};
}

/* ---- writing ----------------------------------------------------------------------------------*/

static void add_nodes(struct cairn_preheat_job *job, Cairn__State__StoredJob *stored)
{
	if (job->fleet == NULL) return;
	pthread_mutex_lock(&job->mu);
	stored->cancelled = job->cancelled;
	stored->nodes = calloc(job->fleet->n + 1, sizeof(stored->nodes[0]));
	if (stored->nodes == NULL) abort();
	for (; stored->n_nodes < job->fleet->n; stored->n_nodes++) {
		stored->nodes[stored->n_nodes] =
			cairn_fleet_node_message(&job->fleet->list[stored->n_nodes]);
	}
	pthread_mutex_unlock(&job->mu);
}

static uint8_t *pack(struct cairn_preheat_job *job, size_t *ret_len)
{
	Cairn__State__StoredJob stored = CAIRN__STATE__STORED_JOB__INIT;
	Cairn__V1__PreheatRequest request = *job->request; /* shallow: all but the login */
	request.login = NULL;
	stored.request = &request;
	stored.job = cairn_preheat_job_message(job);
	add_nodes(job, &stored);
	*ret_len = cairn__state__stored_job__get_packed_size(&stored);
	uint8_t *buf = malloc(*ret_len + 1);
	if (buf == NULL) abort();
	cairn__state__stored_job__pack(&stored, buf);
	while (stored.n_nodes > 0) {
		cairn__v1__job_node__free_unpacked(stored.nodes[--stored.n_nodes], NULL);
	}
	free(stored.nodes);
	cairn__v1__job__free_unpacked(stored.job, NULL);
	return buf;
}

static int write_all(int fd, const uint8_t *data, size_t n)
{
	for (size_t at = 0; at < n;) {
		ssize_t got = write(fd, data + at, n - at);
		if (got < 0 && errno == EINTR) continue;
		if (got <= 0) return got < 0 ? errno : ENOSPC;
		at += (size_t)got;
	}
	return fsync(fd) == 0 ? 0 : errno;
}

enum cairn_code cairn_preheat_store_put(struct cairn_preheat_store *store,
					struct cairn_preheat_job *job, struct cairn_err *err)
{
	size_t n;
	int rc = 0;
	uint8_t *data = pack(job, &n);
	int fd = openat(store->dir_fd, BESIDE, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0) {
		rc = errno;
	} else {
		rc = write_all(fd, data, n);
		close(fd);
	}
	free(data);
	if (rc == 0 && renameat(store->dir_fd, BESIDE, store->dir_fd, job->id) != 0) rc = errno;
	if (rc == 0 && fsync(store->dir_fd) != 0) rc = errno;
	if (rc == 0) return CAIRN_OK;
	(void)unlinkat(store->dir_fd, BESIDE, 0);
	return cairn_err_sys(err, rc, "write job %s into %s", job->id, store->dir);
}

void cairn_preheat_store_drop(struct cairn_preheat_store *store, const char *id)
{
	(void)unlinkat(store->dir_fd, id, 0);
}

/* ---- reading ----------------------------------------------------------------------------------*/

static uint8_t *read_file(struct cairn_preheat_store *store, const char *name, size_t *ret_len)
{
	struct stat st;
	uint8_t *data = NULL;
	int fd = openat(store->dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd < 0) return NULL;
	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size > 0 &&
	    st.st_size <= (off_t)FILE_MAX) {
		data = malloc((size_t)st.st_size);
		if (data == NULL) abort();
		ssize_t n = read(fd, data, (size_t)st.st_size);
		*ret_len = (size_t)st.st_size;
		if (n != st.st_size) {
			free(data);
			data = NULL;
		}
	}
	close(fd);
	return data;
}

static struct cairn_preheat_job *read_job(struct cairn_preheat_store *store, const char *name,
					  const struct cairn_platform *node)
{
	size_t n = 0;
	struct cairn_err ignored;
	struct cairn_preheat_job *job = NULL;
	uint8_t *data = read_file(store, name, &n);
	if (data == NULL) return NULL;
	Cairn__State__StoredJob *stored = cairn__state__stored_job__unpack(NULL, n, data);
	free(data);
	if (stored == NULL) return NULL;
	if (stored->request != NULL && stored->job != NULL && strcmp(stored->job->id, name) == 0 &&
	    cairn_preheat_job_new(stored->request, node, &job, &ignored) == CAIRN_OK) {
		cairn_preheat_job_restore(job, stored->job);
		if (job->fleet != NULL) cairn_fleet_restore(job, stored->nodes, stored->n_nodes);
		job->cancelled = stored->cancelled;
	}
	cairn__state__stored_job__free_unpacked(stored, NULL);
	return job;
}

void cairn_preheat_store_load(struct cairn_preheat_store *store, const struct cairn_platform *node,
			      void (*fn)(void *arg, struct cairn_preheat_job *job), void *arg)
{
	int fd = openat(store->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
	if (d == NULL) {
		if (fd >= 0) close(fd);
		return;
	}
	for (struct dirent *e; (e = readdir(d)) != NULL;) {
		if (e->d_name[0] == '.' && strcmp(e->d_name, BESIDE) != 0) continue;
		struct cairn_preheat_job *job = NULL;
		if (strlen(e->d_name) < CAIRN_JOB_ID) job = read_job(store, e->d_name, node);
		if (job != NULL) {
			fn(arg, job);
			continue;
		}
		if (strcmp(e->d_name, BESIDE) != 0) {
			cairn_log(CAIRN_LOG_WARN, "job_dropped", CAIRN_STR("file", e->d_name),
				  CAIRN_STR("why", "it cannot be read"));
		}
		(void)unlinkat(store->dir_fd, e->d_name, 0);
	}
	closedir(d);
}
