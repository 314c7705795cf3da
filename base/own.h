/* Attributes and ownership macros that every file uses. */
#ifndef CAIRN_BASE_OWN_H
#define CAIRN_BASE_OWN_H

#include <stddef.h>

/* The result must be looked at. */
#define CAIRN_CHECKED __attribute__((warn_unused_result))

/* printf-like: the format is parameter f, its first argument parameter a. */
#define CAIRN_PRINTF(f, a) __attribute__((format(printf, f, a)))

/* Run fn(&variable) when the variable leaves its scope. */
#define cairn_auto(fn) __attribute__((cleanup(fn)))

/* Take the value out of *pp and leave NULL there: hands ownership over. */
#define cairn_steal(pp)                                                                            \
	({                                                                                         \
		__typeof__(*(pp)) cairn_stolen_ = *(pp);                                           \
		*(pp) = NULL;                                                                      \
		cairn_stolen_;                                                                     \
	})

#define CAIRN_LEN(a) (sizeof(a) / sizeof((a)[0]))

/* Locks that clang -Wthread-safety checks: a struct that is a mutex; functions that must be called
 * with it held, that take it, that give it back; and one for which the check is wrong (say why). */
#if defined(__clang__)
#define CAIRN_MUTEX __attribute__((capability("mutex")))
#define CAIRN_REQUIRES(mu) __attribute__((requires_capability(mu)))
#define CAIRN_ACQUIRES(mu) __attribute__((acquire_capability(mu)))
#define CAIRN_RELEASES(mu) __attribute__((release_capability(mu)))
#define CAIRN_LOCKS_UNCHECKED __attribute__((no_thread_safety_analysis))
#else
#define CAIRN_MUTEX
#define CAIRN_REQUIRES(mu)
#define CAIRN_ACQUIRES(mu)
#define CAIRN_RELEASES(mu)
#define CAIRN_LOCKS_UNCHECKED
#endif

#endif
