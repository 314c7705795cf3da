/* Power loss for the index, exactly: what a flush has not covered is lost. The program's own fsync
 * and fdatasync stand before those of the C library, for SQLite's calls too, and keep a copy of
 * index.db and of its log as they were flushed last. To be included by one source of a program. */
#ifndef CAIRN_TESTS_SUPPORT_SYNCED_H
#define CAIRN_TESTS_SUPPORT_SYNCED_H

#include <stdatomic.h>
#include <sys/syscall.h>

#include "support/store.h"

static atomic_int log_flushes; /* of index.db-wal */
static void (*before_flush)(const char *name);
static void (*after_flush)(const char *name);
static UNUSED bool no_copies; /* on a full disk there is no room for any */

/* Whole or not at all: the process may be killed at any time. */
static void synced_copy(int from, const char *to)
{
	char temp[600];
	uint8_t *buf = malloc(1 << 20);
	snprintf(temp, sizeof(temp), "%s.tmp", to);
	int fd = open(temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	ssize_t n;
	for (off_t at = 0; (n = pread(from, buf, 1 << 20, at)) > 0; at += n) {
		if (write(fd, buf, (size_t)n) != n) abort();
	}
	free(buf);
	close(fd);
	if (rename(temp, to) != 0) abort();
}

static int synced_flush(int fd, long call)
{
	char link[64], path[520] = "/", copy[560];
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	if (readlink(link, path, sizeof(path) - 1) < 0) return -1;
	const char *name = strrchr(path, '/') + 1;
	if (before_flush != NULL) before_flush(name);
	int rc = (int)syscall(call, fd);
	if (rc != 0 || strncmp(name, "index.db", 8) != 0) return rc;
	if (strcmp(name, "index.db-wal") == 0) log_flushes++;
	if (no_copies) return rc;
	snprintf(copy, sizeof(copy), "%s.synced", path);
	synced_copy(fd, copy); /* by this descriptor: closing another one would drop the locks */
	if (after_flush != NULL) after_flush(name);
	return rc;
}

int fsync(int fd)
{
	return synced_flush(fd, SYS_fsync);
}

int fdatasync(int fd)
{
	return synced_flush(fd, SYS_fdatasync);
}

/* The store is closed or its process dead: the index goes back to what was flushed. */
static UNUSED void lose_power(struct store *s)
{
	static const char *const parts[] = {"index.db", "index.db-wal"};
	char path[512], copy[560];
	for (size_t i = 0; i < CAIRN_LEN(parts); i++) {
		snprintf(path, sizeof(path), "%s/%s", s->dir, parts[i]);
		snprintf(copy, sizeof(copy), "%s.synced", path);
		int fd = open(copy, O_RDONLY | O_CLOEXEC);
		if (fd < 0) {
			(void)unlink(path);
			continue;
		}
		synced_copy(fd, path);
		close(fd);
	}
	snprintf(path, sizeof(path), "%s/index.db-shm", s->dir);
	(void)unlink(path);
}

#endif
