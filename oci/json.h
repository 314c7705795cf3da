/* JSON from outside, read within bounds, whoever wrote it. Threads: immutable. */
#ifndef CAIRN_OCI_JSON_H
#define CAIRN_OCI_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "base/own.h"

/* JSON may be nested 64 deep and hold 131,072 values; the caller bounds its length. A secret text
 * is not quoted in the error. ret: json_decref().
 * Errors: INVALID_ARGUMENT (not JSON, duplicate keys, too deep, too many values). */
CAIRN_CHECKED enum cairn_code cairn_json_load(const char *json, size_t len, bool secret,
					      json_t **ret, struct cairn_err *err);

/* For cairn_auto. */
static inline void cairn_json_freep(json_t **json)
{
	json_decref(*json);
}

#endif
