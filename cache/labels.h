#ifndef CAIRN_CACHE_LABELS_H
#define CAIRN_CACHE_LABELS_H

#include "cache/cache.h"

/* The set that results from a change; *ret is NULL when it is empty.
 * Errors: INVALID_ARGUMENT (limits). */
CAIRN_CHECKED enum cairn_code labels_change(const struct cairn_labels *old,
					    const struct cairn_label *list, size_t n,
					    bool replace_all, struct cairn_labels **ret,
					    struct cairn_err *err);

#endif
