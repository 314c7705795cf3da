/* Names for mkdtemp() and mkstemp() below $TMPDIR, where tools/test removes what a killed test
 * leaves. */
#ifndef CAIRN_TESTS_TMP_H
#define CAIRN_TESTS_TMP_H

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

/* A TMPDIR so long that a socket below it could have no name is not used. */
static inline void tmp_template(char *buf, size_t n, const char *name)
{
	const char *tmp = getenv("TMPDIR");
	int len = snprintf(buf, n, "%s/cairn-%s-XXXXXX", tmp != NULL ? tmp : "/tmp", name);
	if (len >= 64 || (size_t)len >= n) len = snprintf(buf, n, "/tmp/cairn-%s-XXXXXX", name);
	assert(len > 0 && (size_t)len < n);
}

#endif
