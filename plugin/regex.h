/* Regular expressions for filters, as far as people use them there: the common part of RE2's
 * syntax, which is what containerd takes.
 *
 *     x*  x+  x?  x{n}  x{n,}  x{n,m}   (each also lazy, with a ? behind: the same set of matches)
 *     (x)  (?:x)  x|y  .  [a-z]  [^a-z]  ^  $  \d \D \w \W \s \S \t \n \r \f \v  \. and the like
 *
 * Not known, and refused: flags, named groups, Unicode classes, \b, \A, \z, \x. A character is a
 * byte: "." matches a part of a non-ASCII character. Matching is by simulation of all alternatives
 * at once: time is at most the text's length times the program's, for any pattern; nothing
 * recurses on the text. (regcomp() of the C library needs unbounded time, memory and stack for some
 * short patterns, and the stack of a handler is small.) */
#ifndef CAIRN_PLUGIN_REGEX_H
#define CAIRN_PLUGIN_REGEX_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "base/own.h"

#define CAIRN_REGEX_PROGRAM_MAX 500 /* instructions, about one per character matched */
#define CAIRN_REGEX_DEPTH_MAX 30    /* groups in groups */

/* Threads: immutable. */
struct cairn_regex;

/* Errors: INVALID_ARGUMENT. */
CAIRN_CHECKED enum cairn_code cairn_regex_compile(const char *pattern, struct cairn_regex **ret,
						  struct cairn_err *err);
void cairn_regex_free(struct cairn_regex *re); /* NULL is fine */

/* Does it match anywhere in text? */
bool cairn_regex_match(const struct cairn_regex *re, const char *text);

#endif
