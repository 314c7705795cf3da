/* What one key alone cannot tell: keys that need, or exclude, each other. */
#ifndef CAIRN_CONFIG_CHECK_H
#define CAIRN_CONFIG_CHECK_H

#include "config/config.h"

/* name is for messages. min_free_set: gc.min_free is in the file. Errors: INVALID_ARGUMENT. */
CAIRN_CHECKED enum cairn_code cairn_config_check(const char *name,
						 const struct cairn_config *config,
						 bool min_free_set, struct cairn_err *err);

#endif
