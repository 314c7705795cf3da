/* The static directory: what every directory passes, over plain text. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "support/directory_suite.h"
#include "support/static_world.h"

int main(void)
{
	suite_use(&static_world_ops);
	const struct CMUnitTest tests[] = {DIRECTORY_SUITE};
	return cmocka_run_group_tests_name("p2p/static", tests, NULL, NULL);
}
