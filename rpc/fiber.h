/* Fibers: functions on small stacks of their own that can be left in the middle and gone on with
 * later, on any thread.
 *
 * A fiber runs inside cairn_fiber_run(). It leaves by cairn_fiber_park(fn, arg): the thread is back
 * on its own stack, the fiber is whole and at rest, and only then fn(arg) is called there. So fn
 * may hand the fiber to somebody who runs it at once on another thread; after that neither fn nor
 * its caller may touch it. This is also how fibers get work done that needs a large stack.
 *
 * Stacks are mapped with a guard page below and kept in a bounded pool; a fiber that ended waits in
 * the pool inside its own main loop, so that the next use is one switch away. No system call per
 * switch.
 *
 * Threads: a pool is internally locked; a fiber is used by one thread at a time. */
#ifndef CAIRN_RPC_FIBER_H
#define CAIRN_RPC_FIBER_H

#include <stdbool.h>
#include <stddef.h>

struct cairn_fiber;
struct cairn_fiber_pool;

struct cairn_fiber_pool *cairn_fiber_pool_new(void);
/* All fibers must have ended. NULL is fine. */
void cairn_fiber_pool_free(struct cairn_fiber_pool *pool);

/* A fiber that will run entry(arg) on its stack; after that, on the stack of the thread that ran it
 * last and with the fiber gone, done(arg). NULL when there is no memory for a stack. */
struct cairn_fiber *cairn_fiber_new(struct cairn_fiber_pool *pool, void (*entry)(void *arg),
				    void (*done)(void *arg), void *arg);

/* Run the fiber until it parks for good or ends. Not from a fiber. */
void cairn_fiber_run(struct cairn_fiber *fiber);

/* From a fiber: leave it and call fn(arg). fn returns true to go on with the fiber at once, false
 * when the fiber is somebody else's now: they call cairn_fiber_run when it is to go on. */
void cairn_fiber_park(bool (*fn)(void *arg), void *arg);

/* What was given to cairn_fiber_new. */
void *cairn_fiber_arg(const struct cairn_fiber *fiber);

/* The fiber that this thread runs, or NULL. */
struct cairn_fiber *cairn_fiber_current(void);

#endif
