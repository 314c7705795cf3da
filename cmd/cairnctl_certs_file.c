/* A new file appears under its name in one step, whole and on the disk: a temporary file beside it,
 * fsync, then link (which fails if the name is taken) or rename (which replaces), fsync. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cmd/cairnctl_certs.h"

static bool write_all(int fd, const char *data, size_t n)
{
	while (n > 0) {
		ssize_t wrote = write(fd, data, n);
		if (wrote < 0 && errno == EINTR) continue;
		if (wrote < 0) return false;
		data += wrote;
		n -= (size_t)wrote;
	}
	return true;
}

/* 0, or errno. */
static int write_new(const char *path, unsigned mode, const void *data, size_t n)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0) return errno;
	bool well = write_all(fd, data, n) && fchmod(fd, mode) == 0 && fsync(fd) == 0;
	int failed = well ? 0 : errno;
	if (close(fd) != 0 && failed == 0) failed = errno;
	if (failed != 0) (void)unlink(path);
	return failed;
}

/* The folder's new entry is to last, too. 0, or errno. */
static int sync_folder(const char *path)
{
	char folder[CERTS_PATH_MAX];
	snprintf(folder, sizeof(folder), "%s", path);
	char *slash = strrchr(folder, '/');
	if (slash == NULL) return EINVAL; /* we make paths of a folder and a name */
	slash[1] = '\0';
	int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0) return errno;
	int failed = fsync(fd) == 0 ? 0 : errno;
	(void)close(fd);
	return failed;
}

enum cairn_code certs_write(const char *path, unsigned mode, bool replace, const void *data,
			    size_t n, struct cairn_err *err)
{
	char temporary[CERTS_PATH_MAX + 32];
	snprintf(temporary, sizeof(temporary), "%s.%ld.new", path, (long)getpid());
	int failed = write_new(temporary, mode, data, n);
	if (failed != 0) return cairn_err_sys(err, failed, "write %s", temporary);
	if (replace) {
		failed = rename(temporary, path) == 0 ? 0 : errno;
	} else {
		failed = link(temporary, path) == 0 ? 0 : errno;
	}
	if (!replace || failed != 0) (void)unlink(temporary);
	if (failed == EEXIST) {
		return cairn_err_set(err, CAIRN_FAILED_PRECONDITION,
				     "%s is there already: nothing was changed", path);
	}
	if (failed == 0) failed = sync_folder(path);
	return failed == 0 ? CAIRN_OK : cairn_err_sys(err, failed, "write %s", path);
}
