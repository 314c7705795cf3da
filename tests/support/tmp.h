/* Names for mkdtemp() and mkstemp() below $TMPDIR, where tools/test removes what a killed test
 * leaves. */
#ifndef CAIRN_TESTS_TMP_H
#define CAIRN_TESTS_TMP_H

#include <assert.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>

/* A TMPDIR so long that a socket below it could have no name is not used. */
static inline void tmp_template(char *buf, size_t n, const char *name)
{
	const char *tmp = getenv("TMPDIR");
	int len = snprintf(buf, n, "%s/cairn-%s-XXXXXX", tmp != NULL ? tmp : "/tmp", name);
	if (len >= 64 || (size_t)len >= n) len = snprintf(buf, n, "/tmp/cairn-%s-XXXXXX", name);
	assert(len > 0 && (size_t)len < n);
}

/* For tests that look at how full the disk is: $TMPDIR becomes one to which nobody else writes, if
 * we may mount. Before any thread is there. */
static inline void tmp_own_disk(void)
{
	const char *tmp = getenv("TMPDIR");
	if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
		return;
	(void)mount("tmpfs", tmp != NULL ? tmp : "/tmp", "tmpfs", 0, "size=512m");
}

#endif
