/* containerd's filters, as List and ListStatuses take them (containerd, filters package).
 *
 *     filter    := "" | selector ("," selector)*       all of them must hold; "" holds always
 *     selector  := fieldpath [operator value]          without operator: the field is present
 *     fieldpath := field ("." field)*
 *     field     := quoted | [A-Za-z0-9_]+
 *     operator  := "==" | "!=" | "~="
 *     value     := quoted | any run of characters without space and comma
 *     quoted    := "..." with Go's escapes; a value of ~= also /.../ and |...|
 *
 * Of several filters any must hold; no filter holds always. A field that is absent compares as "",
 * except that == needs it to be present. What plugin/regex.h cannot compile is an error here, where
 * containerd logs it and matches nothing. */
#ifndef CAIRN_PLUGIN_FILTER_H
#define CAIRN_PLUGIN_FILTER_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "base/own.h"

#define CAIRN_FILTERS_MAX 16	    /* filters of one request */
#define CAIRN_FILTER_BYTES_MAX 4096 /* of one filter */
#define CAIRN_FILTER_SELECTORS_MAX 32

/* Threads: immutable. */
struct cairn_filter;

/* Errors: INVALID_ARGUMENT, with the filter and the place. */
CAIRN_CHECKED enum cairn_code cairn_filter_parse(char *const *texts, size_t n,
						 struct cairn_filter **ret, struct cairn_err *err);
void cairn_filter_free(struct cairn_filter *filter); /* NULL is fine */

static inline void cairn_filter_freep(struct cairn_filter **filter)
{
	cairn_filter_free(*filter);
}

/* The value of a field of obj, or NULL if it is absent. name is the first part of the path, rest
 * the others, joined with dots ("" if there are none). */
typedef const char *cairn_filter_field_fn(const void *obj, const char *name, const char *rest);

/* NULL holds always. */
bool cairn_filter_match(const struct cairn_filter *filter, cairn_filter_field_fn *field,
			const void *obj);

#endif
