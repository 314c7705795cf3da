/* A second pair of hands: a thread that takes one piece of work while its owner does another.
 *
 * A write costs two things, hashing the bytes and copying them into the page cache, and neither
 * needs the other. With one writer, who waits for each answer, doing both at once is a shorter
 * answer; with several writers the processors have enough to do, and each does both by himself. */
#ifndef CAIRN_CACHE_HANDS_H
#define CAIRN_CACHE_HANDS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "base/err.h"

#define HANDS_BYTES (128 << 10) /* less is done before other hands wake up */

struct hands {
	pthread_mutex_t mu;
	pthread_cond_t given, done;
	void (*work)(void *arg); /* guarded by mu; NULL: free to take some */
	void *arg;		 /* guarded by mu */
	bool stop, started;	 /* guarded by mu */
	pthread_t thread;
	_Atomic unsigned writers; /* who could use them now */
};

void hands_init(struct hands *h);
CAIRN_CHECKED enum cairn_code hands_start(struct hands *h, struct cairn_err *err);
void hands_fini(struct hands *h); /* also if it never started */

/* The caller begins, or ends, what has work for two. */
void hands_enter(struct hands *h);
void hands_leave(struct hands *h);

/* Have work(arg) done meanwhile; true: hands_wait must follow. False: they are busy, or somebody
 * else has as good a use for the processor; the caller does it himself. */
bool hands_give(struct hands *h, void (*work)(void *arg), void *arg);
void hands_wait(struct hands *h);

#endif
