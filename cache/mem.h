/* Small allocations abort when there is no memory: there is nothing sensible to do without it.
 * Sizes that come from outside are checked against a named limit before they get here. */
#ifndef CAIRN_CACHE_MEM_H
#define CAIRN_CACHE_MEM_H

#include <stdlib.h>
#include <string.h>

static inline void *mem_check(void *p)
{
	if (p == NULL) abort();
	return p;
}

static inline void *mem_zero(size_t n)
{
	return mem_check(calloc(1, n > 0 ? n : 1));
}

static inline void *mem_grow(void *p, size_t n)
{
	return mem_check(realloc(p, n > 0 ? n : 1));
}

static inline char *mem_dup(const char *s)
{
	return mem_check(strdup(s));
}

static inline void *mem_copy(const void *data, size_t n)
{
	void *p = mem_zero(n);
	if (n > 0) memcpy(p, data, n);
	return p;
}

#endif
