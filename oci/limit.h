/* Patience: how fast bytes may come, how long to wait before trying again, and waits that end when
 * nobody wants them any more. */
#ifndef CAIRN_OCI_LIMIT_H
#define CAIRN_OCI_LIMIT_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "oci/registry.h"

/* ---- a token bucket -------------------------------------------------------------------------- */

/* What all sessions of a registry take their bytes from. Takers go into debt, and wait until it is
 * paid: so the bytes come first, and a taker larger than the bucket waits no longer than others.
 * Threads: internally locked. */
struct cairn_limit {
	pthread_mutex_t mu;
	uint64_t rate;	 /* bytes a second; 0: no limit; immutable */
	int64_t level;	 /* guarded by mu: bytes that may come now; below 0: debt */
	int64_t last_ns; /* guarded by mu: when level was brought up to date */
};

void cairn_limit_init(struct cairn_limit *limit, uint64_t rate, int64_t now_ns);
void cairn_limit_fini(struct cairn_limit *limit);

/* n bytes came. Returns how long to wait before more are taken. */
int64_t cairn_limit_take(struct cairn_limit *limit, uint64_t n, int64_t now_ns);

/* ---- waits ----------------------------------------------------------------------------------- */

/* May this go on? */
bool cairn_goes_on(const struct cairn_go_on *go_on);

/* Sleep, asking go_on several times a second. Errors: CANCELLED. */
CAIRN_CHECKED enum cairn_code cairn_wait(int64_t ns, const struct cairn_go_on *go_on,
					 struct cairn_err *err);

/* How long to wait after the n-th failure in a row (from 1): a random time up to first_ms *
 * 2^(n-1), at most 30 s. */
int64_t cairn_backoff_ms(unsigned n, int64_t first_ms);

#endif
