/* Waiting for a state instead of sleeping. After cmocka.h. */
#ifndef CAIRN_TESTS_UNTIL_H
#define CAIRN_TESTS_UNTIL_H

#include "base/clock.h"

#include <unistd.h>

/* Poll until cond holds; fails the test after 20 s. */
#define UNTIL(cond)                                                                                \
	do {                                                                                       \
		int64_t until_ = cairn_boot_ns(&cairn_clock_system) + 20 * CAIRN_NS_PER_S;         \
		while (!(cond)) {                                                                  \
			if (cairn_boot_ns(&cairn_clock_system) > until_) {                         \
				fail_msg("never came true: %s", #cond);                            \
			}                                                                          \
			usleep(500);                                                               \
		}                                                                                  \
	} while (0)

#endif
