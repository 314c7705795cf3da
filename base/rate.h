/* A token bucket: how fast bytes may come, or go, over all who take from it. Takers go into debt,
 * and wait until it is paid: so the bytes come first, and a taker larger than the bucket waits no
 * longer than others. Threads: internally locked. */
#ifndef CAIRN_BASE_RATE_H
#define CAIRN_BASE_RATE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

struct cairn_rate {
	pthread_mutex_t mu;
	_Atomic uint64_t rate; /* bytes a second; 0: no limit; written with mu held */
	int64_t level;	       /* guarded by mu: bytes that may come now; below 0: debt */
	int64_t last_ns;       /* guarded by mu: when level was brought up to date */
};

void cairn_rate_init(struct cairn_rate *rate, uint64_t bytes_per_s, int64_t now_ns);
/* From now on so much. Who waits already waits as he was told. */
void cairn_rate_set(struct cairn_rate *rate, uint64_t bytes_per_s, int64_t now_ns);
void cairn_rate_fini(struct cairn_rate *rate);

/* n bytes came, or went. Returns how many nanoseconds to wait before more do. NULL: no limit. */
int64_t cairn_rate_take(struct cairn_rate *rate, uint64_t n, int64_t now_ns);

#endif
