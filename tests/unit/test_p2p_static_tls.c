/* The static directory: what every directory passes, over mutual TLS. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "support/directory_suite.h"
#include "support/peers.h"
#include "support/static_world.h"

static struct certs certs;

static int set_up(void **state)
{
	(void)state;
	if (certs_init(&certs) != 0) return -1;
	static_world_tls = peers_tls(&certs, "node");
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	cairn_tls_files_free(static_world_tls);
	certs_fini(&certs);
	return 0;
}

int main(void)
{
	suite_use(&static_world_ops);
	const struct CMUnitTest tests[] = {DIRECTORY_SUITE};
	return cmocka_run_group_tests_name("p2p/static over TLS", tests, set_up, tear_down);
}
