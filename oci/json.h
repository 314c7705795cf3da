/* JSON from outside, parsed within bounds. */
#ifndef CAIRN_OCI_JSON_H
#define CAIRN_OCI_JSON_H

#include <jansson.h>
#include <stddef.h>

#include "base/err.h"
#include "base/own.h"

/* At most CAIRN_MANIFEST_BYTES_MAX bytes; json_decref it. Errors: INVALID_ARGUMENT. */
CAIRN_CHECKED enum cairn_code cairn_json_load(const char *json, size_t len, json_t **ret,
					      struct cairn_err *err);
void cairn_json_freep(json_t **p); /* for cairn_auto */

#endif
