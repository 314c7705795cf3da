/* What came from outside, made fit for an error message: short, on one line, ASCII. */
#ifndef CAIRN_OCI_SHOW_H
#define CAIRN_OCI_SHOW_H

#include <stddef.h>

#define CAIRN_SHOW_MAX 80 /* bytes shown; of longer texts the beginning and "..." */

/* The first bytes of s, n in all; what is not printable ASCII becomes '?'. Returns buf. */
const char *cairn_show(const char *s, size_t n, char buf[static CAIRN_SHOW_MAX + 4]);

#endif
