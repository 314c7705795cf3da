/* Base64 (RFC 4648, section 4) of short secrets: every copy that is dropped is wiped. */
#ifndef CAIRN_OCI_BASE64_H
#define CAIRN_OCI_BASE64_H

#include <stddef.h>

/* Owned text. */
char *cairn_base64_encode(const char *data, size_t n);

/* Owned bytes, *ret_n of them, and a NUL after them; NULL: not base64. Padding may be left out,
 * space at the end is passed over. */
char *cairn_base64_decode(const char *text, size_t *ret_n);

#endif
