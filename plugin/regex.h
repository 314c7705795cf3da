/* Regular expressions of filters, by PCRE2 with limits. What containerd takes (RE2's syntax) means
 * the same here; back references and the like, which RE2 refuses, are taken too.
 *
 * Bounded: the pattern's length and nesting, and the work of one match. A match that needs more
 * than that is none. (regcomp() of the C library has no such limits.) */
#ifndef CAIRN_PLUGIN_REGEX_H
#define CAIRN_PLUGIN_REGEX_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "base/own.h"

#define CAIRN_REGEX_LENGTH_MAX 1024   /* bytes of a pattern */
#define CAIRN_REGEX_DEPTH_MAX 30      /* groups in groups */
#define CAIRN_REGEX_STEPS_MAX 100000  /* of one match */
#define CAIRN_REGEX_HEAP_KIB_MAX 1024 /* of one match */

/* Threads: immutable. */
struct cairn_regex;

/* Errors: INVALID_ARGUMENT. */
CAIRN_CHECKED enum cairn_code cairn_regex_compile(const char *pattern, struct cairn_regex **ret,
						  struct cairn_err *err);
void cairn_regex_free(struct cairn_regex *re); /* NULL is fine */

/* Does it match anywhere in text? */
bool cairn_regex_match(const struct cairn_regex *re, const char *text);

#endif
