/* Chance for tests: CAIRN_SEED repeats a run; the seed is printed. */
#ifndef CAIRN_TESTS_SUPPORT_RANDOM_H
#define CAIRN_TESTS_SUPPORT_RANDOM_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <time.h>

/* The seed of a random test: CAIRN_SEED, or the time; always printed. */
static inline uint64_t test_seed(void)
{
	const char *given = getenv("CAIRN_SEED");
	uint64_t seed = given != NULL ? strtoull(given, NULL, 0) : (uint64_t)time(NULL);
	print_message("CAIRN_SEED=%llu\n", (unsigned long long)seed);
	return seed;
}

static inline uint64_t next_random(uint64_t *x)
{
	*x += 0x9e3779b97f4a7c15u;
	uint64_t z = *x;
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

static inline uint64_t random_below(uint64_t *x, uint64_t below)
{
	return next_random(x) % below;
}

#endif
