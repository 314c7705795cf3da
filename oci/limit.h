/* Patience: how long to wait before trying again, and waits that end when nobody wants them any
 * more. How fast bytes may come: base/rate.h. */
#ifndef CAIRN_OCI_LIMIT_H
#define CAIRN_OCI_LIMIT_H

#include <stdbool.h>
#include <stdint.h>

#include "oci/registry.h"

/* May this go on? */
bool cairn_goes_on(const struct cairn_go_on *go_on);

/* Sleep, asking go_on several times a second. Errors: CANCELLED. */
CAIRN_CHECKED enum cairn_code cairn_wait(int64_t ns, const struct cairn_go_on *go_on,
					 struct cairn_err *err);

/* How long to wait after the n-th failure in a row (from 1): a random time up to first_ms *
 * 2^(n-1), at most 30 s. */
int64_t cairn_backoff_ms(unsigned n, int64_t first_ms);

#endif
